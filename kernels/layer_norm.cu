// Layer norm and RMS norm, forward and backward. One block a row: the row is read from memory once and again from the
// first-level cache, and the variance is summed around the mean (two passes) rather than as a difference of squares,
// which would cancel for residuals with a large mean.
#include "primitives.cuh"

constexpr int THREADS = 128;

/// What a norm does; `gain` and `bias` may be null.
struct Norm {
    const float* gain;
    const float* bias;
    int width;
    float eps;
    int rms;
};

struct Moments {
    float mean;
    float scale;
};

__device__ __forceinline__ Moments moments(const float* row, const Norm& norm, float* partial) {
    float mean = 0.0f;
    if (!norm.rms) {
        float sum = 0.0f;
        for (int i = threadIdx.x; i < norm.width; i += THREADS) sum += row[i];
        mean = block_sum(sum, partial) / norm.width;
    }
    float squares = 0.0f;
    for (int i = threadIdx.x; i < norm.width; i += THREADS) squares += (row[i] - mean) * (row[i] - mean);
    return {mean, 1.0f / sqrtf(block_sum(squares, partial) / norm.width + norm.eps)};
}

/// y = norm(x)
extern "C" __global__ void __launch_bounds__(THREADS) layer_norm(const float* x, Norm norm, float* y) {
    __shared__ float partial[THREADS / WARP];
    const float* row = x + size_t(blockIdx.x) * norm.width;
    float* out = y + size_t(blockIdx.x) * norm.width;
    Moments m = moments(row, norm, partial);
    for (int i = threadIdx.x; i < norm.width; i += THREADS) {
        float value = (row[i] - m.mean) * m.scale;
        if (norm.gain) value *= norm.gain[i];
        if (norm.bias) value += norm.bias[i];
        out[i] = value;
    }
}

/// x := x gain + bias
extern "C" __global__ void gain_and_bias(float* x, Norm norm, size_t n) {
    for (size_t i = grid_index(); i < n; i += grid_step()) {
        int column = int(i % norm.width);
        float value = x[i];
        if (norm.gain) value *= norm.gain[column];
        if (norm.bias) value += norm.bias[column];
        x[i] = value;
    }
}

/// dx += (g - mean(g) - x̂ mean(g x̂)) / σ with g = gain dy and x̂ the normalised row; without mean(g) for an RMS norm.
extern "C" __global__ void __launch_bounds__(THREADS)
    layer_norm_backward(const float* dy, const float* x, Norm norm, float* dx) {
    __shared__ float partial[THREADS / WARP];
    size_t start = size_t(blockIdx.x) * norm.width;
    const float *row = x + start, *d_row = dy + start;
    Moments m = moments(row, norm, partial);
    float sum = 0.0f, along = 0.0f;
    for (int i = threadIdx.x; i < norm.width; i += THREADS) {
        float g = norm.gain ? norm.gain[i] * d_row[i] : d_row[i];
        sum += g;
        along += g * (row[i] - m.mean) * m.scale;
    }
    float mean_g = norm.rms ? 0.0f : block_sum(sum, partial) / norm.width;
    float mean_gx = block_sum(along, partial) / norm.width;
    for (int i = threadIdx.x; i < norm.width; i += THREADS) {
        float g = norm.gain ? norm.gain[i] * d_row[i] : d_row[i];
        dx[start + i] += (g - mean_g - (row[i] - m.mean) * m.scale * mean_gx) * m.scale;
    }
}
