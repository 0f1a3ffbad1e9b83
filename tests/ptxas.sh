#!/bin/sh
# Checks the kernels' PTX without a GPU: ptxas must accept every file for every supported GPU, without spills and within
# a register budget, and the committed PTX must be what nvcc makes of the sources.
#
# Looks for nvcc and ptxas through NVCC, PATH and CUDA_HOME; installs nothing; skips (exit 0) when there are none.
# CI gets them with: pip install --target .cuda 'cuda-toolkit[nvcc,cudart,crt,nvvm,cccl]==13.0.2'
set -eu
cd "$(dirname "$0")/.."

nvcc=${NVCC:-$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")}
ptxas=$(dirname "$nvcc")/ptxas
if [ ! -x "$nvcc" ] || [ ! -x "$ptxas" ]; then
    echo "skipped: no nvcc and ptxas (NVCC, PATH, CUDA_HOME)"
    exit 0
fi

# Registers per thread: large tiles of products have 256 threads a multiprocessor, in f32 one block with the sums of a
# stage beside those of all, else two blocks; small ones have three blocks and four; attention has 128 (two blocks and more to a multiprocessor), of which the gradient of keys and values holds two sums.
large_budget=255
small_f32_budget=168
small_budget=128
attention_budget=168
attention_keys_budget=240
element_budget=64

budget_of() {
    case $1 in
        matmul_*_large) echo $large_budget ;;
        matmul_f32*) echo $small_f32_budget ;;
        matmul_*) echo $small_budget ;;
        attention_backward_keys*) echo $attention_keys_budget ;;
        *attention* | apply_pattern) echo $attention_budget ;;
        *) echo $element_budget ;;
    esac
}

failed=0
for arch in 80 86 89 90; do
    for file in kernels/ptx/*.ptx; do
        if ! report=$("$ptxas" -arch=sm_$arch -v -o /dev/null "$file" 2>&1); then
            echo "sm_$arch $file: $report"
            failed=1
            continue
        fi
        # Lines per kernel: its name, its stack and spills, its registers.
        echo "$report" | awk '
            /Compiling entry function/ { split($0, part, "\047"); name = part[2] }
            /spill stores/ { spills = $5 + $9 }
            /Used [0-9]+ registers/ { match($0, /Used [0-9]+/); print name, substr($0, RSTART + 5, RLENGTH - 5), spills }
        ' > "${TMPDIR:-/tmp}/ptxas.$$"
        while read -r name registers spills; do
            if [ "$spills" -gt 0 ] || [ "$registers" -gt "$(budget_of "$name")" ]; then
                echo "sm_$arch $name: $registers registers (at most $(budget_of "$name")), $spills bytes spilled"
                failed=1
            fi
            [ -z "${VERBOSE:-}" ] || echo "sm_$arch $name: $registers registers"
        done < "${TMPDIR:-/tmp}/ptxas.$$"
        [ -s "${TMPDIR:-/tmp}/ptxas.$$" ] || { echo "sm_$arch $file: no kernels in the report"; failed=1; }
        rm -f "${TMPDIR:-/tmp}/ptxas.$$"
    done
done

# A build with PTX_UPDATE=1 compiles the sources whatever the stored sum says; the files must not change.
before=$(cat kernels/ptx/*)
if case $("$nvcc" --version) in *"release 13.0,"*) true ;; *) false ;; esac; then
    # The build script alone: within cargo, the library would be compiled with it, and once more without NVCC.
    scratch=$(mktemp -d)
    rustc --edition 2024 -o "$scratch/build" build.rs
    if ! told=$(CARGO_FEATURE_CUDA=1 CARGO_MANIFEST_DIR=$PWD OUT_DIR=$scratch PROFILE=debug PTX_UPDATE=1 NVCC=$nvcc "$scratch/build"); then
        echo "$told"
        failed=1
    fi
    rm -rf "$scratch"
    if [ "$before" != "$(cat kernels/ptx/*)" ]; then
        echo "kernels/ptx is not what the sources give; commit what PTX_UPDATE=1 cargo build has written"
        failed=1
    fi
else
    echo "not compared with the sources: $nvcc is not release 13.0"
fi

[ $failed = 0 ] && echo "kernels: accepted for sm_80, 86, 89, 90, no spills, within their register budgets"
exit $failed
