// What a step of DAS does with its rotation, exp(T - Tᵀ) on k vectors: products of the skew matrix, their combinations
// in the Chebyshev recurrences, Lanczos steps, and Adam fused with a gradient that is never written out.
//
// T is read once per product: a block takes a tile of 64 x 64, multiplies it by one part of the vectors and its
// transpose by another, and stores both; a second kernel adds what the tiles have left for each row, in order, and does
// the recurrence's sums. Two launches without atomics, so that a sum is always the same. Adam makes each tile of the
// gradient L Rᵀ - R Lᵀ in registers, once for the norm and once for the update: writing it out would cost more memory
// traffic than making it again.
#include "primitives.cuh"

constexpr int TILE = 64;
constexpr int PRODUCT_THREADS = 2 * TILE;
constexpr int THREADS = 256;
/// Columns of L and R in shared memory at a time.
constexpr int RANKS = 16;
constexpr int SIDE = 16;
constexpr int EACH = TILE / SIDE;

/// Where row `row` of the packed triangle starts.
__device__ __forceinline__ size_t packed_row(int row) { return row ? size_t(row) * (row - 1) / 2 : 0; }

/// What blocks J leave for rows I of (T - Tᵀ) x: `partial` is (k, blocks, d), a block (I, J <= I) writes rows I of slot J
/// and rows J of slot I.
extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS)
    skew_tiles(const float* triangle, const float* x, int d, int k, float* partial) {
    __shared__ float tile[TILE * (TILE + 1)], left[TILE], above[TILE], sums[PRODUCT_THREADS];
    int row_block = blockIdx.x, column_block = blockIdx.y, blocks = gridDim.x;
    if (column_block > row_block) return;
    int first_row = row_block * TILE, first_column = column_block * TILE;
    for (int i = threadIdx.x; i < TILE * TILE; i += PRODUCT_THREADS) {
        int row = first_row + i / TILE, column = first_column + i % TILE;
        bool inside = row < d && column < row;
        tile[i / TILE * (TILE + 1) + i % TILE] = inside ? triangle[packed_row(row) + column] : 0.0f;
    }
    bool across = threadIdx.x >= TILE;  // Half the threads have a row of the tile, half a column.
    int own = threadIdx.x % TILE;
    const float* entries = tile + (across ? own : own * (TILE + 1));
    int step = across ? TILE + 1 : 1;
    for (int vector = 0; vector < k; vector++) {
        const float* values = x + size_t(vector) * d;
        if (across) {
            left[own] = first_row + own < d ? values[first_row + own] : 0.0f;
        } else {
            above[own] = first_column + own < d ? values[first_column + own] : 0.0f;
        }
        __syncthreads();  // Tile and vector are there, and everyone is done with the sums of the vector before.
        const float* factors = across ? left : above;
        float sum = 0.0f;
#pragma unroll 16
        for (int i = 0; i < TILE; i++) sum += entries[i * step] * factors[i];
        sums[threadIdx.x] = across ? -sum : sum;
        __syncthreads();
        float* out = partial + size_t(vector) * blocks * d;
        if (row_block == column_block) {
            if (!across && first_row + own < d) {
                out[size_t(row_block) * d + first_row + own] = sums[own] + sums[TILE + own];
            }
        } else {
            int row = (across ? first_column : first_row) + own;
            if (row < d) out[size_t(across ? row_block : column_block) * d + row] = sums[threadIdx.x];
        }
    }
}

/// What is added to a product, as in both recurrences; the arrays may be null.
struct Combination {
    const float* gradient;
    const float* added;
    float scale;
    float coefficient;
};

/// y = coefficient gradient + scale Σ partial + added; y is (k, d). No blocks: no product.
extern "C" __global__ void skew_sum(const float* partial, int d, int k, int blocks, Combination combination, float* y) {
    for (size_t i = grid_index(); i < size_t(k) * d; i += grid_step()) {
        const float* parts = partial + i / d * blocks * d + i % d;
        float sum = 0.0f;
        for (int block = 0; block < blocks; block++) sum += parts[size_t(block) * d];
        float value = combination.scale * sum;
        if (combination.gradient) value += combination.coefficient * combination.gradient[i];
        if (combination.added) value += combination.added[i];
        y[i] = value;
    }
}

/// The first k unit vectors, (k, d).
extern "C" __global__ void unit_rows(float* y, int d, size_t n) {
    for (size_t i = grid_index(); i < n; i += grid_step()) y[i] = i / d == i % d ? 1.0f : 0.0f;
}

/// y = Σ cⱼ φⱼ, from the last of `terms` on, in f64; φⱼ has `size` values.
extern "C" __global__ void chebyshev_sum(const float* basis, const double* coefficients, int terms, float* y,
                                         size_t size) {
    for (size_t i = grid_index(); i < size; i += grid_step()) {
        double sum = 0.0;
        for (int j = terms - 1; j >= 0; j--) sum += coefficients[j] * double(basis[size_t(j) * size + i]);
        y[i] = float(sum);
    }
}

/// The first `size` of `n` values times `first`, the others times `others`.
extern "C" __global__ void scale_adjoints(float* y, float first, float others, size_t size, size_t n) {
    for (size_t i = grid_index(); i < n; i += grid_step()) y[i] *= i < size ? first : others;
}

/// One Lanczos step behind its product: next += β before, then βs[step] = |next| and next /= |next|. One block.
extern "C" __global__ void __launch_bounds__(THREADS)
    lanczos_step(float* next, const float* before, double* betas, int step, int d) {
    __shared__ double partial[THREADS / WARP];
    float last = step ? float(betas[step - 1]) : 0.0f;
    double squares = 0.0;
    for (int i = threadIdx.x; i < d; i += THREADS) {
        float value = next[i];
        if (step) value += last * before[i];
        next[i] = value;
        squares += double(value) * value;
    }
    double beta = sqrt(block_sum(squares, partial));
    if (threadIdx.x == 0) betas[step] = beta;
    double factor = beta > 0.0 ? 1.0 / beta : 0.0;
    for (int i = threadIdx.x; i < d; i += THREADS) next[i] = float(next[i] * factor);
}

/// A thread's share of a tile of L Rᵀ - R Lᵀ: rows and columns `SIDE` apart, so that neighbours read neighbours.
struct GradientTile {
    float values[EACH][EACH];
    int row, column;

    __device__ __forceinline__ void make(const float* left, const float* right, int rank, int d, float* shared) {
        row = blockIdx.x * TILE + threadIdx.x / SIDE;
        column = blockIdx.y * TILE + threadIdx.x % SIDE;
        float *row_left = shared, *row_right = shared + RANKS * TILE;
        float *column_left = row_right + RANKS * TILE, *column_right = column_left + RANKS * TILE;
#pragma unroll
        for (int r = 0; r < EACH; r++) {
#pragma unroll
            for (int c = 0; c < EACH; c++) values[r][c] = 0.0f;
        }
        for (int first = 0; first < rank; first += RANKS) {
            __syncthreads();  // The ranks before are read.
            for (int i = threadIdx.x; i < RANKS * TILE; i += THREADS) {
                int at = first + i / TILE, i_row = blockIdx.x * TILE + i % TILE, i_column = blockIdx.y * TILE + i % TILE;
                bool has_row = at < rank && i_row < d, has_column = at < rank && i_column < d;
                row_left[i] = has_row ? left[size_t(at) * d + i_row] : 0.0f;
                row_right[i] = has_row ? right[size_t(at) * d + i_row] : 0.0f;
                column_left[i] = has_column ? left[size_t(at) * d + i_column] : 0.0f;
                column_right[i] = has_column ? right[size_t(at) * d + i_column] : 0.0f;
            }
            __syncthreads();
#pragma unroll 4
            for (int at = 0; at < RANKS; at++) {
                int from_row = at * TILE + threadIdx.x / SIDE, from_column = at * TILE + threadIdx.x % SIDE;
#pragma unroll
                for (int r = 0; r < EACH; r++) {
                    float a = row_left[from_row + r * SIDE], b = row_right[from_row + r * SIDE];
#pragma unroll
                    for (int c = 0; c < EACH; c++) {
                        values[r][c] += a * column_right[from_column + c * SIDE] - b * column_left[from_column + c * SIDE];
                    }
                }
            }
        }
    }

    /// Calls `f(row, column, value)` for every entry of this thread below the diagonal.
    template <typename F>
    __device__ __forceinline__ void each(int d, F f) const {
#pragma unroll
        for (int r = 0; r < EACH; r++) {
#pragma unroll
            for (int c = 0; c < EACH; c++) {
                int i = row + r * SIDE, j = column + c * SIDE;
                if (i < d && j < i) f(i, j, values[r][c]);
            }
        }
    }
};

/// The sum of squares of each tile of the gradient, (blocks, blocks); zero above the diagonal.
extern "C" __global__ void __launch_bounds__(THREADS)
    low_rank_squares(const float* left, const float* right, int rank, int d, double* squares) {
    __shared__ float shared[4 * RANKS * TILE];
    __shared__ double partial[THREADS / WARP];
    double sum = 0.0;
    if (blockIdx.y <= blockIdx.x) {
        GradientTile tile;
        tile.make(left, right, rank, d, shared);
        tile.each(d, [&](int, int, float value) { sum += double(value) * value; });
        sum = block_sum(sum, partial);
    }
    if (threadIdx.x == 0) squares[size_t(blockIdx.x) * gridDim.y + blockIdx.y] = sum;
}

/// As `AdamStep` in src/backend/rotation.rs.
struct Step {
    double max_gradient_norm;
    float keep_first, keep_second, add_first, add_second, inverse_correction, epsilon, rate;
};

/// One step of Adam against the gradient whose tiles' squares are known. A norm that is not finite moves nothing.
extern "C" __global__ void __launch_bounds__(THREADS)
    low_rank_adam(const float* left, const float* right, int rank, int d, const double* squares, Step step,
                  float* triangle, float* first, float* second, float* norm) {
    __shared__ float shared[4 * RANKS * TILE];
    __shared__ double partial[THREADS / WARP];
    if (blockIdx.y > blockIdx.x) return;
    double sum = 0.0;
    for (int i = threadIdx.x; i < int(gridDim.x * gridDim.y); i += THREADS) sum += squares[i];
    double length = sqrt(block_sum(sum, partial));
    if (blockIdx.x == 0 && threadIdx.x == 0) norm[0] = float(length);
    if (!(length < INFINITY)) return;
    float clip = float(fmin(step.max_gradient_norm / (length + 1e-6), 1.0));
    GradientTile tile;
    tile.make(left, right, rank, d, shared);
    tile.each(d, [&](int row, int column, float value) {
        size_t at = packed_row(row) + column;
        float gradient = value * clip;
        float mean = step.keep_first * first[at] + step.add_first * gradient;
        float square = step.keep_second * second[at] + step.add_second * gradient * gradient;
        first[at] = mean;
        second[at] = square;
        triangle[at] -= step.rate * mean / (sqrtf(square) * step.inverse_correction + step.epsilon);
    });
}
