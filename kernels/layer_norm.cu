// Layer norm and RMS norm, forward and backward. One block a row: the row is read from memory once and again from the
// first-level cache, and the variance is summed around the mean (two passes) rather than as a difference of squares,
// which would cancel for residuals with a large mean. Threads read and write 16 bytes at a time where the width allows.
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

/// Calls `f(i)` for every N-th index of a row, shared out among the block's threads.
template <int N, typename F>
__device__ __forceinline__ void each(int width, F f) {
    for (int i = threadIdx.x * N; i < width; i += THREADS * N) f(i);
}

template <int N>
__device__ __forceinline__ Moments moments(const float* row, const Norm& norm, float* partial) {
    float mean = 0.0f;
    if (!norm.rms) {
        float sum = 0.0f;
        each<N>(norm.width, [&](int i) {
            Vector<N> x = load<N>(row + i);
#pragma unroll
            for (int e = 0; e < N; e++) sum += x.values[e];
        });
        mean = block_sum(sum, partial) / norm.width;
    }
    float squares = 0.0f;
    each<N>(norm.width, [&](int i) {
        Vector<N> x = load<N>(row + i);
#pragma unroll
        for (int e = 0; e < N; e++) squares += (x.values[e] - mean) * (x.values[e] - mean);
    });
    return {mean, 1.0f / sqrtf(block_sum(squares, partial) / norm.width + norm.eps)};
}

template <int N>
__device__ __forceinline__ void normalise(const float* row, const Norm& norm, float* out, float* partial) {
    Moments m = moments<N>(row, norm, partial);
    each<N>(norm.width, [&](int i) {
        Vector<N> x = load<N>(row + i), gain, bias;
        if (norm.gain) gain = load<N>(norm.gain + i);
        if (norm.bias) bias = load<N>(norm.bias + i);
#pragma unroll
        for (int e = 0; e < N; e++) {
            float value = (x.values[e] - m.mean) * m.scale;
            if (norm.gain) value *= gain.values[e];
            if (norm.bias) value += bias.values[e];
            x.values[e] = value;
        }
        store<N>(out + i, x);
    });
}

/// y = norm(x)
extern "C" __global__ void __launch_bounds__(THREADS) layer_norm(const float* x, Norm norm, float* y) {
    __shared__ float partial[THREADS / WARP];
    size_t start = size_t(blockIdx.x) * norm.width;
    if (norm.width % 4 == 0) {
        normalise<4>(x + start, norm, y + start, partial);
    } else {
        normalise<1>(x + start, norm, y + start, partial);
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

template <int N>
__device__ __forceinline__ void normalise_backward(const float* d_row, const float* row, const Norm& norm, float* dx,
                                                   float* partial) {
    Moments m = moments<N>(row, norm, partial);
    float sum = 0.0f, along = 0.0f;
    auto with_gain = [&](int i) {
        Vector<N> g = load<N>(d_row + i);
        if (norm.gain) {
            Vector<N> gain = load<N>(norm.gain + i);
#pragma unroll
            for (int e = 0; e < N; e++) g.values[e] *= gain.values[e];
        }
        return g;
    };
    each<N>(norm.width, [&](int i) {
        Vector<N> g = with_gain(i), x = load<N>(row + i);
#pragma unroll
        for (int e = 0; e < N; e++) {
            sum += g.values[e];
            along += g.values[e] * (x.values[e] - m.mean) * m.scale;
        }
    });
    float mean_g = norm.rms ? 0.0f : block_sum(sum, partial) / norm.width;
    float mean_gx = block_sum(along, partial) / norm.width;
    each<N>(norm.width, [&](int i) {
        Vector<N> g = with_gain(i), x = load<N>(row + i), d = load<N>(dx + i);
#pragma unroll
        for (int e = 0; e < N; e++) {
            d.values[e] += (g.values[e] - mean_g - (x.values[e] - m.mean) * m.scale * mean_gx) * m.scale;
        }
        store<N>(dx + i, d);
    });
}

/// dx += (g - mean(g) - x̂ mean(g x̂)) / σ with g = gain dy and x̂ the normalised row; without mean(g) for an RMS norm.
extern "C" __global__ void __launch_bounds__(THREADS)
    layer_norm_backward(const float* dy, const float* x, Norm norm, float* dx) {
    __shared__ float partial[THREADS / WARP];
    size_t start = size_t(blockIdx.x) * norm.width;
    if (norm.width % 4 == 0) {
        normalise_backward<4>(dy + start, x + start, norm, dx + start, partial);
    } else {
        normalise_backward<1>(dy + start, x + start, norm, dx + start, partial);
    }
}
