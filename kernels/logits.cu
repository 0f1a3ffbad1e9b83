// Answer logits, their gradient, and the log of a sum of exponentials over the vocabulary. An answer logit is one dot
// product by one warp: there are a few dozen of them, so a matrix product over the vocabulary would be the waste that
// this op avoids. The log-sum reads each row of logits twice (largest value, then the sum), one block a row.
#include "primitives.cuh"

constexpr int THREADS = 256;

/// y = x Cᵀ + b; C is (n, width). One warp a value of y.
extern "C" __global__ void __launch_bounds__(THREADS)
    answer_logits(const float* x, const float* columns, const float* bias, float* y, int rows, int n, int width) {
    size_t index = size_t(blockIdx.x) * (THREADS / WARP) + warp_index();
    if (index >= size_t(rows) * n) return;
    size_t row = index / n, answer = index % n;
    float sum = 0.0f;
    for (int i = lane_index(); i < width; i += WARP) sum += x[row * width + i] * columns[answer * width + i];
    sum = warp_sum(sum);
    if (lane_index() == 0) y[index] = bias[answer] + sum;
}

/// dx = dy C
extern "C" __global__ void answer_logits_backward(const float* dy, const float* columns, float* dx, int rows, int n,
                                                  int width) {
    for (size_t i = grid_index(); i < size_t(rows) * width; i += grid_step()) {
        size_t row = i / width, column = i % width;
        float sum = 0.0f;
        for (int answer = 0; answer < n; answer++) sum += dy[row * n + answer] * columns[size_t(answer) * width + column];
        dx[i] = sum;
    }
}

/// y[t] = log Σ exp x[t, :]
extern "C" __global__ void __launch_bounds__(THREADS) log_sum_exp(const float* x, int width, float* y) {
    __shared__ float partial[THREADS / WARP];
    const float* row = x + size_t(blockIdx.x) * width;
    float largest = -INFINITY;
    for (int i = threadIdx.x; i < width; i += THREADS) largest = fmaxf(largest, row[i]);
    largest = block_max(largest, partial);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += THREADS) sum += expf(row[i] - largest);
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) y[blockIdx.x] = largest + logf(sum);
}
