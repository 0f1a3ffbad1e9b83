#!/usr/bin/env bash
# The Python package in a fresh environment: installed from the checkout, its types, its tests, the notebooks.
# PYTHON names another interpreter; ACTPATCH_BIN the program whose numbers the package's are compared with; with PEERS=1 torch,
# transformers and TransformerLens are installed as well (gigabytes), and the tests beside them run.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
export PATH="$scratch/venv/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1
pip install --quiet '.[notebook]' pytest mypy nbclient ipykernel matplotlib
[ -z "${PEERS:-}" ] || pip install --quiet -r tests/reference/requirements.txt

mypy
stubtest actpatch --ignore-missing-stub --mypy-config-file pyproject.toml
export ACTPATCH_BIN=${ACTPATCH_BIN:-$PWD/target/release/actpatch}
[ -x "$ACTPATCH_BIN" ] || unset ACTPATCH_BIN
pytest --quiet

cp examples/notebooks/*.ipynb "$scratch"
cd "$scratch"
for notebook in *.ipynb; do
    jupyter execute --timeout=300 "$notebook"
done
