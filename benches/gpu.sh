#!/usr/bin/env bash
# Kernels on a GPU, everything in one run on the same GPU: products beside cuBLASLt, norms and patches beside the measured
# copy bandwidth, attention beside PyTorch's, cells and DAS epochs beside TransformerLens and hand-written PyTorch.
#
# Needs cargo, cuBLASLt on the loader's path (PyTorch's wheels have it: it is looked for there), and for PyTorch a Python
# with benches/peers/requirements.txt (PYTHON names it). Says what is missing and goes on without. Exits with 77 when
# there is no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}

echo "# Speed on a GPU, $(date -u +%Y-%m-%d)"
if ! command -v nvidia-smi > /dev/null; then
    echo "skipped: no nvidia-smi, so no GPU"
    exit 77
fi
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
echo "commit $(git rev-parse --short HEAD), other programs on the GPU: $(nvidia-smi --query-compute-apps=pid --format=csv,noheader | wc -l)"

torch=$("$python" -c 'import os, torch; print(os.path.dirname(torch.__file__))' 2> /dev/null || true)
if [ -n "$torch" ]; then
    for folder in "$torch"/../nvidia/cu13/lib "$torch"/../nvidia/cublas/lib; do
        [ ! -d "$folder" ] || export LD_LIBRARY_PATH="$folder:${LD_LIBRARY_PATH:-}"
    done
fi

echo "## Kernels"
cargo bench --quiet --bench gpu --features cublaslt

echo "## Attention of PyTorch"
if [ -n "$torch" ]; then
    "$python" benches/peers/sdpa.py --device cuda
else
    echo "skipped: $python has no torch"
fi

echo "## Cells and DAS epochs beside the peers"
if "$python" -c 'import torch, transformer_lens; assert torch.cuda.is_available()' 2> /dev/null; then
    cargo build --quiet --release
    "$python" benches/peers/compare.py --device cuda --dtypes f32,tf32,bf16 --sides lens-installed,lens-tuned,expert,expert-bf16
else
    echo "skipped: $python has no torch with CUDA, or no transformer_lens"
fi
