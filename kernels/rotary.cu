// Rotary position embedding, in place. One thread a pair of values, or four neighbouring pairs where everything starts
// on 16 bytes: every value is read and written once, and threads of a warp share a row and its cosines.
#include "primitives.cuh"

/// Rows of heads, and the angles of their positions.
struct Rotation {
    int stride, start, n_heads, width, half;
    const float* table;
    const uint32_t* positions;
    float sign;
};

template <int N>
__device__ __forceinline__ void rotate(float* x, const Rotation& rotation, size_t n) {
    int half = rotation.half;
    for (size_t index = N * grid_index(); index < n; index += N * grid_step()) {
        int i = int(index % half), head = int(index / half % rotation.n_heads);
        size_t row = index / half / rotation.n_heads;
        const float* angles = rotation.table + size_t(rotation.positions[row]) * 2 * half + i;
        float* pair = x + row * rotation.stride + rotation.start + head * rotation.width + i;
        Vector<N> cosine = load<N>(angles), sine = load<N>(angles + half);
        Vector<N> a = load<N>(pair), b = load<N>(pair + half);
#pragma unroll
        for (int e = 0; e < N; e++) {
            float first = a.values[e], second = b.values[e], s = rotation.sign * sine.values[e];
            a.values[e] = first * cosine.values[e] - second * s;
            b.values[e] = second * cosine.values[e] + first * s;
        }
        store<N>(pair, a);
        store<N>(pair + half, b);
    }
}

/// Rotates pair (i, i + half) of every head by its position's angle. `table` is (n_ctx, 2, half): cosines, then sines.
extern "C" __global__ void rotary(float* x, int stride, int start, int n_heads, int width, int half,
                                  const float* table, const uint32_t* positions, float sign, size_t n) {
    Rotation rotation = {stride, start, n_heads, width, half, table, positions, sign};
    if ((stride | start | width | half) % 4 == 0) {
        rotate<4>(x, rotation, n);
    } else {
        rotate<1>(x, rotation, n);
    }
}
