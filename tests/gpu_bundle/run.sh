#!/usr/bin/env bash
# Everything that only a GPU can tell, in eight minutes: cheapest and most telling first, every step under a time limit.
# Unpacked from the archive of tests/gpu_bundle.sh; needs NVIDIA's driver, and neither cargo nor a network.
#
#   ./run.sh [--tiny]     --tiny: the smallest shapes and the demo model, for a rehearsal
#
# Logs of all steps are kept in logs/. Exits with 0 when everything agrees, 1 when something does not, 77 without a GPU.
# PYTHON names a Python with PyTorch, SECONDS_IN_ALL another limit than 470.
set -euo pipefail
cd "$(dirname "$0")"

tiny=
[ "${1:-}" != --tiny ] || tiny=1
in_all=${SECONDS_IN_ALL:-470}
python=${PYTHON:-python3}
export ACTPATCH_TEST_GPU=1 ACTPATCH_FIXTURES=$PWD/fixtures ACTPATCH_RECORDED=$PWD/references/operations.safetensors
[ -z "$tiny" ] || export ACTPATCH_SMALL=1
rm -rf logs data
mkdir logs
began=$SECONDS
steps=()
passed=0
failed=0
skipped=0

# Adds a line to the summary.
note() { steps+=("$(printf '%-28s %5s  %s' "$1" "$2" "$3")"); }

skip() {
    skipped=$((skipped + 1))
    note "$1" "" "skipped: $2"
    echo "== $1: skipped: $2"
}

# Runs a step: its name, the most seconds it may take, its command. What it prints is kept, and its last lines are shown.
step() {
    local name=$1 limit=$2 start=$SECONDS left code=0
    shift 2
    left=$((in_all - (SECONDS - began)))
    if [ $left -lt 5 ]; then
        skip "$name" "no time is left"
        return
    fi
    # The emulated GPU of a rehearsal is slow.
    [ -z "$tiny" ] || limit=$((4 * limit))
    [ $limit -le $left ] || limit=$left
    echo "== $name (at most $limit s)"
    timeout --kill-after=5 "$limit" "$@" > "logs/$name.log" 2>&1 || code=$?
    tail -n "${SHOWN:-30}" "logs/$name.log"
    case $code in
        0) passed=$((passed + 1)) && note "$name" "$((SECONDS - start)) s" passed ;;
        124 | 137) failed=$((failed + 1)) && note "$name" "$((SECONDS - start)) s" "FAILED: not done in $limit s" ;;
        *) failed=$((failed + 1)) && note "$name" "$((SECONDS - start)) s" "FAILED with $code" ;;
    esac
}

check() { echo bin/actpatch self-check --device cuda --data-dir data --against references "$@"; }
tests() { echo bin/cuda_emulated --test-threads=1 --nocapture "$@"; }

cat CONTENTS
if command -v nvidia-smi > /dev/null; then
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
fi
# What is missing is said here; the kernels are translated for this GPU, and kept by the driver.
step start 60 bin/actpatch fit-directions --device cuda --data-dir data --methods kmeans --layers 1
if grep -q -e "no CUDA driver" -e "finds 0 GPUs" logs/start.log; then
    exit 77
fi

# Rounding: tensor cores as they are modelled, or not.
SHOWN=60 step operations 90 $(tests recorded::operations)

models="demo:2 random:gpt2-small:0,6,11"
dtypes="f32 tf32 bf16 f16"
if [ -n "$tiny" ]; then
    models=demo:3
    dtypes=f32
fi
for dtype in $dtypes; do
    for model in $models; do
        step "self-check-$dtype-${model%:*}" 30 $(check --models "${model%:*}" --layers "${model##*:}" --dtype $dtype)
    done
done

# Whole passes, gradients, fits and graphs of tiny models beside the processor.
if [ -z "$tiny" ]; then
    SHOWN=3 step passes 60 $(tests engine:: repeated::)
else
    SHOWN=3 step passes 60 $(tests engine::whole_passes)
fi

torch=$("$python" -c 'import os, torch; assert torch.cuda.is_available(); print(os.path.dirname(torch.__file__))' \
    2> /dev/null || true)
for folder in ${torch:+"$torch"/../nvidia/cu13/lib "$torch"/../nvidia/cublas/lib} /usr/local/cuda/lib64; do
    [ ! -d "$folder" ] || export LD_LIBRARY_PATH="$folder:${LD_LIBRARY_PATH:-}"
done
SHOWN=60 step products 90 bin/gpu ${tiny:+--tiny}

model=pythia-1.4b
work="--workloads sweep,das:12 --repetitions 3"
dtypes="f32 tf32 bf16"
tools="memcheck racecheck synccheck initcheck"
if [ -n "$tiny" ]; then
    model=pythia-14m
    work="--workloads cell:5,das:5 --repetitions 1 --prompts 2 --tokens 4"
    dtypes=f32
    tools=memcheck
fi
if [ -n "$torch" ]; then
    step beside-pytorch 120 "$python" peers/compare.py --actpatch bin/actpatch --device cuda --shape random:$model \
        --dtypes f32,tf32,bf16 --sides expert,expert-tf32,expert-bf16 $work
else
    skip beside-pytorch "$python has no torch that finds a GPU"
    for dtype in $dtypes; do
        step "alone-$dtype" 45 bin/actpatch bench --device cuda --models random:$model --dtype $dtype $work --data-dir data
    done
fi

if [ -z "$tiny" ]; then
    for dtype in f32 bf16 tf32 f16; do
        step "self-check-$dtype-pythia-1.4b" 40 \
            $(check --models random:pythia-1.4b --layers 0,12,23 --dtype $dtype)
    done
fi

# Bounds, races, uninitialised reads and barriers: the smallest shapes, in both tiles.
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null || true)
for tool in $tools; do
    if [ -n "$sanitizer" ]; then
        SHOWN=5 step $tool 40 env ACTPATCH_SMALL=1 "$sanitizer" --tool $tool --error-exitcode 9 \
            $(tests recorded::operations)
    else
        skip $tool "compute-sanitizer is not found"
    fi
done

echo "== summary, $((SECONDS - began)) s"
printf '%s\n' "${steps[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
