// Rotary position embedding, in place. One thread a pair of values: every value is read and written once, and threads
// of a warp share a row, so that reads of the row and of its cosines are of neighbouring values.
#include "primitives.cuh"

/// Rotates pair (i, i + half) of every head by its position's angle. `table` is (n_ctx, 2, half): cosines, then sines.
extern "C" __global__ void rotary(float* x, int stride, int start, int n_heads, int width, int half,
                                  const float* table, const uint32_t* positions, float sign, size_t n) {
    for (size_t index = grid_index(); index < n; index += grid_step()) {
        int i = int(index % half);
        int head = int(index / half % n_heads);
        size_t row = index / half / n_heads;
        const float* angles = table + size_t(positions[row]) * 2 * half;
        float* pair = x + row * stride + start + head * width + i;
        float cosine = angles[i], sine = sign * angles[half + i];
        float a = pair[0], b = pair[half];
        pair[0] = a * cosine - b * sine;
        pair[half] = b * cosine + a * sine;
    }
}
