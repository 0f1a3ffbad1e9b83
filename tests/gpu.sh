#!/usr/bin/env bash
# The CUDA backend on a real GPU: every backend test, then logits, patches, gradients and a DAS fit in every number
# format beside the processor's in f32, then the kernels under compute-sanitizer. Prints tables; about ten minutes.
#
#   tests/gpu.sh                  builds what it needs (cargo; no CUDA toolkit)
#   tests/gpu.sh BINARY TESTS     takes a built `actpatch`, and a built `cuda_emulated` test program, from elsewhere
#
# Exits with 0 when everything agrees, 1 when something does not, 77 when there is no GPU. MODELS and DTYPES choose other
# models and number formats.
set -euo pipefail
cd "$(dirname "$0")/.."

models=${MODELS:-demo,random:gpt2-small,random:pythia-1.4b}
dtypes=${DTYPES:-f32 tf32 bf16 f16}

program=${1:-}
tests=${2:-}
if [ -z "$program" ]; then
    command -v cargo > /dev/null || { echo "skipped: no cargo, and no built program was given"; exit 77; }
    cargo build --quiet --release
    program=target/release/actpatch
    tests=$(cargo test --test cuda_emulated --no-run --message-format=json 2> /dev/null |
        sed -n 's/.*"executable":"\([^"]*cuda_emulated[^"]*\)".*/\1/p' | tail -n 1)
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
check() { "$program" self-check --device cuda --data-dir "$scratch" "$@"; }

# A first check, small: a machine without a GPU says here what is missing.
if ! check --models demo --layers 0 > "$scratch/first" 2>&1; then
    if grep -q -e "no CUDA driver" -e "finds 0 GPUs" "$scratch/first"; then
        echo "skipped: $(tail -n 1 "$scratch/first")"
        exit 77
    fi
fi
command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

failed=0
echo "== every operation and whole passes of tiny models, as in CI, on the GPU"
ACTPATCH_TEST_GPU=1 "$tests" --test-threads=1 ops:: engine:: repeated:: || failed=1

for dtype in $dtypes; do
    echo "== $dtype beside the processor's f32"
    for model in ${models//,/ }; do
        # In front of the first, a middle and the last block.
        case $model in
            *gpt2-small) layers=0,6,11 ;;
            *pythia-1.4b) layers=0,12,23 ;;
            *) layers=0,2 ;;
        esac
        check --models "$model" --layers "$layers" --dtype "$dtype" --against-cpu || failed=1
    done
done

# Bounds, races, uninitialised reads and barriers, on the smallest shapes that reach every kernel.
if command -v compute-sanitizer > /dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
        echo "== compute-sanitizer $tool"
        ACTPATCH_TEST_GPU=1 compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$tests" --test-threads=1 ops::small_shapes || failed=1
    done
else
    echo "compute-sanitizer is not installed: the kernels were checked under the emulator's sanitizers alone"
fi

[ $failed = 0 ] && echo "everything agrees" || echo "something differs: see above"
exit $failed
