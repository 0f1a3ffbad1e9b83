"""PyTorch's scaled_dot_product_attention at the shapes of benches/gpu.rs: causal, in f32 and in bf16.

python benches/peers/sdpa.py [--device cuda] [--tiny]

On a GPU the calls run as one CUDA graph, as ours do; on the processor one after the other. Arithmetic is counted over the
visible half, as in benches/gpu.rs.
"""

import argparse
import statistics
import time

import torch

# (prompts, tokens, heads, width of a head)
SHAPES = [(216, 19, 12, 64), (216, 19, 16, 128), (64, 64, 16, 128), (8, 512, 16, 128)]
REPETITIONS = 15


def timed(work, device, calls):
    """Median seconds of one call."""
    if device != "cuda":
        run, wait = lambda: [work() for _ in range(calls)], lambda: None
    else:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                work()
        run, wait = graph.replay, torch.cuda.synchronize
    samples = []
    for _ in range(REPETITIONS + 3):
        start = time.perf_counter()
        run()
        wait()
        samples.append((time.perf_counter() - start) / calls)
    return statistics.median(samples[3:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="one small shape, for a trial on the processor")
    options = parser.parse_args()
    name = torch.cuda.get_device_name() if options.device == "cuda" else "processor"
    print(f"torch {torch.__version__} scaled_dot_product_attention, {name}")
    for dtype in (torch.float32, torch.bfloat16):
        for prompts, tokens, heads, width in [(2, 5, 2, 16)] if options.tiny else SHAPES:
            q, k, v = (torch.randn(prompts, heads, tokens, width, device=options.device, dtype=dtype) for _ in range(3))
            flops = 4 * prompts * heads * width * tokens * (tokens + 1) // 2
            calls = max(1, min(200, int(5e-3 * (1e13 if options.device == "cuda" else 1e11) / flops)))
            attention = torch.nn.functional.scaled_dot_product_attention
            with torch.no_grad():
                seconds = timed(lambda: attention(q, k, v, is_causal=True), options.device, calls)
            label = str(dtype).removeprefix("torch.")
            print(
                f"attention {prompts} x {tokens}, {heads} heads of {width}, {label}: "
                f"{1e6 * seconds:.1f} us, {flops / seconds / 1e12:.2f} TFLOP/s"
            )


if __name__ == "__main__":
    main()
