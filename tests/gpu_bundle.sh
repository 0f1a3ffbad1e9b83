#!/usr/bin/env bash
# Makes one archive for a machine with a GPU that has neither cargo nor a network, and that is borrowed for minutes:
# programs, references recorded here, and `run.sh`, which runs everything in eight minutes.
#
#   tests/gpu_bundle.sh [ARCHIVE]     gpu-bundle.tar.xz without a name; records the processor's references (minutes)
#   tests/gpu_bundle.sh --rehearse    a small one, unpacked and run on the emulated GPU
#
# ACTPATCH names a built program. Needs cargo, g++ and xz. There: `tar xf gpu-bundle.tar.xz && gpu-bundle/run.sh` (docs/gpu.md).
set -euo pipefail
cd "$(dirname "$0")/.."

most_megabytes=60
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
rehearsal=
if [ "${1:-}" = --rehearse ]; then
    rehearsal=1
    archive=$scratch/rehearsed.tar.xz
else
    archive=$(realpath "${1:-gpu-bundle.tar.xz}")
fi
bundle=$scratch/gpu-bundle
mkdir -p "$bundle"/{bin,references,peers,fixtures/models}

# The program that cargo has built: its name, and how it was built.
built() {
    local name=$1
    shift
    cargo "$@" --message-format=json 2> "$scratch/build.log" |
        sed -n 's/.*"executable":"\([^"]*\/'"$name"'[^"\/]*\)".*/\1/p' | tail -n 1
}
# A rehearsal takes what the tests have built, and builds the rest without optimisation.
speed=(bench --no-run)
[ -z "$rehearsal" ] || speed=(build --config 'profile.dev.package.actpatch.opt-level=0')
program=${ACTPATCH:-$(built actpatch build --release --bin actpatch)}
tests=$(built cuda_emulated test --no-run --test cuda_emulated)
benchmark=$(built gpu "${speed[@]}" --bench gpu --features cublaslt)
for built in "actpatch $program" "cuda_emulated $tests" "gpu $benchmark"; do
    [ -x "${built#* }" ] || { cat "$scratch/build.log"; echo "${built% *} was not built"; exit 1; }
    strip -o "$bundle/bin/${built% *}" "${built#* }"
done

cp tests/gpu_bundle/run.sh "$bundle"
cp benches/peers/{compare,expert,models,table,work,worker}.py "$bundle/peers"
cp -r tests/fixtures/engine "$bundle/fixtures"
echo "actpatch $(git describe --always --dirty), $(date -u +%Y-%m-%d)" > "$bundle/CONTENTS"

echo "== operations, by the interpreter of PTX"
small=()
[ -z "$rehearsal" ] || small=(ACTPATCH_SMALL=1)
env "${small[@]}" ACTPATCH_RECORD="$bundle/references/operations.safetensors" \
    "$tests" recorded::operations > "$scratch/operations.log" || { cat "$scratch/operations.log"; exit 1; }
models="demo:2 random:gpt2-small:0,6,11 random:pythia-1.4b:0,12,23"
[ -z "$rehearsal" ] || models=demo:3
for model in $models; do
    echo "== ${model%:*}, by the processor"
    "$program" self-check --device cpu --data-dir "$scratch/data" --models "${model%:*}" --layers "${model##*:}" \
        --record "$bundle/references" > "$scratch/self-check.log" || { cat "$scratch/self-check.log"; exit 1; }
done

tar -C "$scratch" -c gpu-bundle | xz -T0 > "$archive"
megabytes=$(($(stat -c %s "$archive") / 1000000))
echo "$archive: $megabytes MB"
[ $megabytes -lt $most_megabytes ] || { echo "$most_megabytes MB at most can be brought along"; exit 1; }
[ -n "$rehearsal" ] || exit 0

# The emulated driver, which `cuda_emulated` has built above, and stand-ins for NVIDIA's programs.
driver=$(realpath "${CARGO_TARGET_DIR:-target}/tmp/libcuda_emulated.so")
mkdir "$scratch/there" "$scratch/tools"
tar -C "$scratch/there" -xf "$archive"
printf '#!/bin/sh\necho "emulated GPU"\n' > "$scratch/tools/nvidia-smi"
printf '#!/bin/sh\nwhile [ "$1" != bin/cuda_emulated ]; do shift; done\nexec "$@"\n' > "$scratch/tools/compute-sanitizer"
chmod +x "$scratch"/tools/*
LD_PRELOAD=$driver PATH=$scratch/tools:$PATH "$scratch/there/gpu-bundle/run.sh" --tiny
