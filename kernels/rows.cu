// Moving and patching rows, in place on the device: gather, scatter, copies of spans, replace, add, swap along a
// subspace and its gradient. Row lists travel with the batch, so that a patch is one launch and the host never waits.
// A patched row is one block's own, which lets a swap read all its coefficients before it writes. Memory is the limit
// everywhere: values travel 16 bytes at a time where rows and columns start on 16 bytes.
#include "primitives.cuh"

constexpr int THREADS = 128;

/// A range of columns of a row-major matrix.
struct Columns {
    int stride;
    int start;
    int width;
};

/// Are both ranges and their rows made of whole groups of 16 bytes?
__device__ __forceinline__ bool in_fours(const Columns& columns, const Columns& from) {
    return (columns.stride | columns.start | columns.width | from.stride | from.start) % 4 == 0;
}

/// y += x
extern "C" __global__ void add_values(const float* x, float* y, size_t n) {
    walk(n, [=](size_t i, auto count) {
        combine<decltype(count)::VALUE>(x + i, y + i, [](float a, float b) { return a + b; });
    });
}

template <int N>
__device__ __forceinline__ void gather(const float* x, int width, const uint32_t* rows, float* y, size_t n) {
    for (size_t i = N * grid_index(); i < n; i += N * grid_step()) {
        store<N>(y + i, load<N>(x + size_t(rows[i / width]) * width + i % width));
    }
}

/// y[i] = x[rows[i]]
extern "C" __global__ void gather_rows(const float* x, int width, const uint32_t* rows, float* y, size_t n) {
    if (width % 4 == 0) {
        gather<4>(x, width, rows, y, n);
    } else {
        gather<1>(x, width, rows, y, n);
    }
}

template <int N>
__device__ __forceinline__ void scatter_add(const float* x, int width, const uint32_t* rows, float* y, size_t n) {
    for (size_t i = N * grid_index(); i < n; i += N * grid_step()) {
        combine<N>(x + i, y + size_t(rows[i / width]) * width + i % width, [](float a, float b) { return a + b; });
    }
}

/// y[rows[i]] += x[i]; no row number occurs twice
extern "C" __global__ void scatter_add_rows(const float* x, int width, const uint32_t* rows, float* y, size_t n) {
    if (width % 4 == 0) {
        scatter_add<4>(x, width, rows, y, n);
    } else {
        scatter_add<1>(x, width, rows, y, n);
    }
}

/// Copies spans of values; `spans` lists (start in y, start in x, length), one block each.
extern "C" __global__ void __launch_bounds__(THREADS) copy_spans(const float* x, const uint32_t* spans, float* y) {
    const uint32_t* span = spans + 3 * size_t(blockIdx.x);
    for (uint32_t i = threadIdx.x; i < span[2]; i += THREADS) y[size_t(span[0]) + i] = x[size_t(span[1]) + i];
}

/// out[i] = f(in[i], out[i]) for one row's columns.
template <int N, typename F>
__device__ __forceinline__ void patch(const float* in, float* out, int width, F f) {
    for (int i = threadIdx.x * N; i < width; i += THREADS * N) combine<N>(in + i, out + i, f);
}

/// x[target] = source, per patched row
extern "C" __global__ void __launch_bounds__(THREADS)
    patch_replace(float* x, Columns columns, const float* source, Columns from, const uint32_t* target,
                  const uint32_t* source_rows) {
    float* out = x + size_t(target[blockIdx.x]) * columns.stride + columns.start;
    const float* in = source + size_t(source_rows[blockIdx.x]) * from.stride + from.start;
    auto replaced = [](float from, float) { return from; };
    if (in_fours(columns, from)) {
        patch<4>(in, out, columns.width, replaced);
    } else {
        patch<1>(in, out, columns.width, replaced);
    }
}

/// x[target] += scale source, per patched row
extern "C" __global__ void __launch_bounds__(THREADS)
    patch_add(float* x, Columns columns, const float* source, Columns from, const uint32_t* target,
              const uint32_t* source_rows, float scale) {
    float* out = x + size_t(target[blockIdx.x]) * columns.stride + columns.start;
    const float* in = source + size_t(source_rows[blockIdx.x]) * from.stride + from.start;
    auto added = [=](float from, float to) { return to + scale * from; };
    if (in_fours(columns, from)) {
        patch<4>(in, out, columns.width, added);
    } else {
        patch<1>(in, out, columns.width, added);
    }
}

template <int N>
__device__ __forceinline__ void swap_row(const float* in, float* out, const float* basis, int k, int width,
                                         float* coefficients) {
    for (int c = warp_index(); c < k; c += THREADS / WARP) {
        const float* direction = basis + size_t(c) * width;
        float sum = 0.0f;
        for (int i = lane_index() * N; i < width; i += WARP * N) {
            Vector<N> along = load<N>(direction + i), from = load<N>(in + i), to = load<N>(out + i);
#pragma unroll
            for (int e = 0; e < N; e++) sum += along.values[e] * (from.values[e] - to.values[e]);
        }
        sum = warp_sum(sum);
        if (lane_index() == 0) coefficients[c] = sum;
    }
    __syncthreads();  // All coefficients are known before the first write: a basis need not be orthogonal.
    for (int i = threadIdx.x * N; i < width; i += THREADS * N) {
        Vector<N> value = load<N>(out + i);
        for (int c = 0; c < k; c++) {
            Vector<N> direction = load<N>(basis + size_t(c) * width + i);
#pragma unroll
            for (int e = 0; e < N; e++) value.values[e] += coefficients[c] * direction.values[e];
        }
        store<N>(out + i, value);
    }
}

/// x[target] += R Rᵀ (source - x), R the k directions of the row's basis. Dynamic shared memory: k coefficients.
extern "C" __global__ void __launch_bounds__(THREADS)
    patch_swap(float* x, Columns columns, const float* source, Columns from, const uint32_t* target,
               const uint32_t* source_rows, const float* directions, int k, const uint32_t* basis) {
    DYNAMIC_SHARED(float, coefficients);
    float* out = x + size_t(target[blockIdx.x]) * columns.stride + columns.start;
    const float* in = source + size_t(source_rows[blockIdx.x]) * from.stride + from.start;
    const float* first = directions + size_t(basis[blockIdx.x]) * k * columns.width;
    if (in_fours(columns, from)) {
        swap_row<4>(in, out, first, k, columns.width, coefficients);
    } else {
        swap_row<1>(in, out, first, k, columns.width, coefficients);
    }
}

/// First half of a swap's gradient: per patched row and direction dyᵀ r and δᵀ r, one warp each; (n, k, 2) values.
extern "C" __global__ void __launch_bounds__(THREADS)
    patch_swap_products(const float* dy, const float* x, const float* source, const uint32_t* gradient_rows,
                        const uint32_t* base_rows, const uint32_t* source_rows, const float* basis, int k, int width,
                        size_t n, float* products) {
    size_t index = size_t(blockIdx.x) * (THREADS / WARP) + warp_index();
    if (index >= n * k) return;
    size_t row = index / k;
    const float* gradient = dy + size_t(gradient_rows[row]) * width;
    const float* base = x + size_t(base_rows[row]) * width;
    const float* from = source + size_t(source_rows[row]) * width;
    const float* direction = basis + (index % k) * width;
    float along_gradient = 0.0f, along_change = 0.0f;
    for (int i = lane_index(); i < width; i += WARP) {
        along_gradient += direction[i] * gradient[i];
        along_change += direction[i] * (from[i] - base[i]);
    }
    along_gradient = warp_sum(along_gradient);
    along_change = warp_sum(along_change);
    if (lane_index() == 0) {
        products[2 * index] = along_gradient;
        products[2 * index + 1] = along_change;
    }
}

/// Second half: dR = Σ δ (dyᵀ R) + dy (δᵀ R), one thread a value, rows in order, so that the sum is always the same.
extern "C" __global__ void patch_swap_backward(const float* dy, const float* x, const float* source,
                                               const uint32_t* gradient_rows, const uint32_t* base_rows,
                                               const uint32_t* source_rows, const float* products, int k, int width,
                                               size_t n, float* d_basis) {
    for (size_t index = grid_index(); index < size_t(k) * width; index += grid_step()) {
        size_t c = index / width, column = index % width;
        float sum = 0.0f;
        for (size_t row = 0; row < n; row++) {
            float gradient = dy[size_t(gradient_rows[row]) * width + column];
            float change = source[size_t(source_rows[row]) * width + column] -
                           x[size_t(base_rows[row]) * width + column];
            const float* product = products + 2 * (row * k + c);
            sum += product[0] * change + product[1] * gradient;
        }
        d_basis[index] = sum;
    }
}
