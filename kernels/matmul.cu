// Matrix products on tensor cores: y = epilogue(x W + b), and dx = dy Wᵀ from the same weights.
//
// A block computes one tile of y. Tiles of x and W travel to shared memory by asynchronous copies, one stage of 32
// depths ahead of the products (double buffering); fragments come from shared memory by ldmatrix where the layout
// allows it, and rows are padded so that neither ldmatrix nor plain reads meet a bank twice. Whatever lies outside the
// matrices is copied as zero, so every size works. The sums go back through shared memory to the epilogue. The two tile
// sizes share all code: 128 x 128 where that still fills the GPU, else 64 x 64.
//
// f32 products keep f32 accuracy by the split of Ootomo and Yokota (2022, arXiv 2203.03341): a value is the sum of two
// TF32 numbers, high and low, and the three products that matter are added, the small ones first. Three TF32 products
// were chosen over bfloat16 splits because the fragments are the floats themselves: no repacking. Tensor cores cut their
// sums off towards zero, which over thousands of depths shrinks a sum by 5e-5, so each stage's sum is begun anew and added
// to those before it outside of them, as the paper does. With tf32 only the largest of the three products is left, and the
// sums stay in the tensor cores: the factors' rounding weighs more. bf16 and f16 products, of which the same holds, round
// the activations when fragments are built; weights are stored in 16 bits. Sums are f32 throughout.
//
// The tile sizes are those of the instruction's register budget; they have been checked by ptxas, not tuned on a GPU.
#include "activation.cuh"

constexpr int DEPTH = 32;
constexpr int WARP_ROWS = 2;
constexpr int COLUMN_TILES = 4;

/// The numbers a kernel multiplies: how weights are stored, and how x's rows are padded in shared memory.
struct F32 {
    typedef float Stored;
    static constexpr bool PRECISE = true;
    static constexpr int X_PITCH = DEPTH + 4;
    static constexpr int PADDING = 4;
};
struct Tf32 : F32 {
    static constexpr bool PRECISE = false;
};
struct Bf16 {
    typedef Bits16 Stored;
    static constexpr bool PRECISE = false;
    static constexpr int X_PITCH = DEPTH + 8;
    static constexpr int PADDING = 8;
    __device__ static uint32_t pack(float low, float high) { return pack_bf16(low, high); }
    __device__ static void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        multiply_bf16(sum, a, b);
    }
};
struct F16 : Bf16 {
    __device__ static uint32_t pack(float low, float high) { return pack_f16(low, high); }
    __device__ static void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        multiply_f16(sum, a, b);
    }
};

/// The shape of one product; `depth` is its inner dimension, `stride` the length of a row of W as stored.
struct Product {
    int rows;
    int depth;
    int columns;
    int stride;
    /// Do rows of x start on 16 bytes?
    int x_aligned;
    int accumulate;
    int activation;
};

/// A block's tile and where its parts lie in shared memory. `BACKWARD`: W is read as Wᵀ.
template <typename N, bool BACKWARD, int ROW_TILES, int WARP_COLUMNS>
struct Tile {
    typedef N Number;
    static constexpr int ROWS = WARP_ROWS * ROW_TILES * 16;
    static constexpr int COLUMNS = WARP_COLUMNS * COLUMN_TILES * 8;
    static constexpr int THREADS = WARP_ROWS * WARP_COLUMNS * WARP;
    static constexpr int W_PITCH = BACKWARD ? DEPTH + Number::PADDING : COLUMNS + 8;
    static constexpr int X_VALUES = ROWS * Number::X_PITCH;
    static constexpr int W_VALUES = BACKWARD ? COLUMNS * W_PITCH : DEPTH * W_PITCH;
    static constexpr int STAGE_BYTES = X_VALUES * int(sizeof(float)) + W_VALUES * int(sizeof(typename Number::Stored));
    static constexpr int SUM_PITCH = COLUMNS + 8;
};

/// Starts copies of a `ROWS x COLUMNS` tile, zeros outside of `n_rows x n_columns`. Unaligned rows go value by value.
template <int ROWS, int COLUMNS, int PITCH, int THREADS, typename T>
__device__ __forceinline__ void load_tile(T* shared, const T* global, int first_row, int n_rows, int first_column,
                                          int n_columns, size_t stride, bool aligned) {
    constexpr int CHUNK = 16 / int(sizeof(T));
    if (aligned) {
        for (int i = threadIdx.x; i < ROWS * COLUMNS / CHUNK; i += THREADS) {
            int row = i / (COLUMNS / CHUNK), column = i % (COLUMNS / CHUNK) * CHUNK;
            bool inside = first_row + row < n_rows && first_column + column < n_columns;
            const T* source = global + (inside ? (first_row + row) * stride + first_column + column : 0);
            copy_async_16(shared + row * PITCH + column, source, inside);
        }
    } else if constexpr (sizeof(T) == 4) {
#pragma unroll 1
        for (int i = threadIdx.x; i < ROWS * COLUMNS; i += THREADS) {
            int row = i / COLUMNS, column = i % COLUMNS;
            bool inside = first_row + row < n_rows && first_column + column < n_columns;
            const T* source = global + (inside ? (first_row + row) * stride + first_column + column : 0);
            copy_async_4(shared + row * PITCH + column, source, inside);
        }
    }
}

/// One stage of products of a warp in TF32. `x` and `w` start at the warp's rows and columns.
template <typename T, bool BACKWARD, int ROW_TILES>
__device__ __forceinline__ void multiply_stage(float (&sums)[ROW_TILES][COLUMN_TILES][4], const float* x,
                                               const float* w) {
    constexpr bool PRECISE = T::Number::PRECISE;
    int lane = lane_index();
#pragma unroll
    for (int k = 0; k < DEPTH; k += 8) {
        Factor<PRECISE, 4> rows[ROW_TILES];
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++) {
            uint32_t values[4];
            load_matrices(values, x + (i * 16 + lane % 16) * F32::X_PITCH + k + lane / 16 * 4);
            rows[i].set(values);
        }
#pragma unroll
        for (int j = 0; j < COLUMN_TILES; j += 2) {
            uint32_t values[4];
            if (BACKWARD) {
                load_matrices(values, w + (j * 8 + lane % 8 + lane / 16 * 8) * T::W_PITCH + k + lane / 8 % 2 * 4);
            } else {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int depth = k + lane % 4 + e % 2 * 4, column = (j + e / 2) * 8 + lane / 4;
                    values[e] = float_bits(w[depth * T::W_PITCH + column]);
                }
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                uint32_t pair[2] = {values[2 * half], values[2 * half + 1]};
                Factor<PRECISE, 2> column;
                column.set(pair);
#pragma unroll
                for (int i = 0; i < ROW_TILES; i++) multiply_factors(sums[i][j + half], rows[i], column);
            }
        }
    }
}

/// The same in 16 bits: x is rounded here, W was rounded when it was packed.
template <typename T, bool BACKWARD, int ROW_TILES>
__device__ __forceinline__ void multiply_stage(float (&sums)[ROW_TILES][COLUMN_TILES][4], const float* x,
                                               const Bits16* w) {
    typedef typename T::Number Number;
    int lane = lane_index();
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16) {
        uint32_t x_values[ROW_TILES][4];
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float* pair = x + (i * 16 + e % 2 * 8 + lane / 4) * Number::X_PITCH + k + e / 2 * 8 + lane % 4 * 2;
                x_values[i][e] = Number::pack(pair[0], pair[1]);
            }
        }
#pragma unroll
        for (int j = 0; j < COLUMN_TILES; j += 2) {
            uint32_t values[4];
            if (BACKWARD) {
                load_matrices(values, w + (j * 8 + lane % 8 + lane / 16 * 8) * T::W_PITCH + k + lane / 8 % 2 * 8);
            } else {
                int depth = k + lane % 8 + lane / 8 % 2 * 8;
                load_matrices_transposed(values, w + depth * T::W_PITCH + j * 8 + lane / 16 * 8);
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                uint32_t pair[2] = {values[2 * half], values[2 * half + 1]};
#pragma unroll
                for (int i = 0; i < ROW_TILES; i++) Number::multiply(sums[i][j + half], x_values[i], pair);
            }
        }
    }
}

template <int ROW_TILES>
__device__ __forceinline__ void add_sums(float (&sums)[ROW_TILES][COLUMN_TILES][4],
                                         const float (&part)[ROW_TILES][COLUMN_TILES][4]) {
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
        for (int j = 0; j < COLUMN_TILES; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) sums[i][j][e] += part[i][j][e];
        }
    }
}

/// Puts a warp's sums into shared memory, so that the epilogue is a short loop and writes whole rows.
template <typename T, int ROW_TILES>
__device__ __forceinline__ void store_sums(const float (&sums)[ROW_TILES][COLUMN_TILES][4], float* tile) {
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
        for (int j = 0; j < COLUMN_TILES; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int row = i * 16 + e / 2 * 8 + lane_index() / 4, column = j * 8 + lane_index() % 4 * 2 + e % 2;
                tile[row * T::SUM_PITCH + column] = sums[i][j][e];
            }
        }
    }
}

/// Writes one value: bias, what was there before, activation; `before` keeps the value in front of the activation.
__device__ __forceinline__ void finish(const Product& product, const float* bias, float* y, float* before, int row,
                                       int column, float value) {
    if (row >= product.rows || column >= product.columns) return;
    size_t at = size_t(row) * product.columns + column;
    if (bias) value += bias[column];
    if (product.accumulate) value += y[at];
    if (before) before[at] = value;
    y[at] = activate(product.activation, value);
}

template <typename Number, bool BACKWARD, int ROW_TILES, int WARP_COLUMNS>
__device__ __forceinline__ void multiply(const float* x, const typename Number::Stored* weight, const float* bias,
                                         float* y, float* before, const Product& product) {
    typedef Tile<Number, BACKWARD, ROW_TILES, WARP_COLUMNS> T;
    typedef typename Number::Stored Stored;
    DYNAMIC_SHARED(unsigned char, shared);
    int first_row = blockIdx.x * T::ROWS, first_column = blockIdx.y * T::COLUMNS;
    int warp_row = warp_index() % WARP_ROWS * ROW_TILES * 16, warp_column = warp_index() / WARP_ROWS * COLUMN_TILES * 8;
    auto x_stage = [&](int stage) { return reinterpret_cast<float*>(shared + stage % 2 * T::STAGE_BYTES); };
    auto w_stage = [&](int stage) { return reinterpret_cast<Stored*>(x_stage(stage) + T::X_VALUES); };
    auto load = [&](int stage) {
        int depth = stage * DEPTH;
        load_tile<T::ROWS, DEPTH, Number::X_PITCH, T::THREADS>(x_stage(stage), x, first_row, product.rows, depth,
                                                               product.depth, product.depth, product.x_aligned);
        if (BACKWARD) {
            load_tile<T::COLUMNS, DEPTH, T::W_PITCH, T::THREADS>(w_stage(stage), weight, first_column, product.columns,
                                                                 depth, product.stride, product.stride, true);
        } else {
            load_tile<DEPTH, T::COLUMNS, T::W_PITCH, T::THREADS>(w_stage(stage), weight, depth, product.depth,
                                                                 first_column, product.stride, product.stride, true);
        }
        copy_async_commit();
    };
    float sums[ROW_TILES][COLUMN_TILES][4] = {};
    int n_stages = (product.depth + DEPTH - 1) / DEPTH;
    load(0);
    for (int stage = 0; stage < n_stages; stage++) {
        if (stage + 1 < n_stages) {
            load(stage + 1);
        } else {
            copy_async_commit();  // An empty group, so that the wait below always leaves exactly one.
        }
        copy_async_wait<1>();
        __syncthreads();
        const Stored* w = w_stage(stage) + warp_column * (BACKWARD ? T::W_PITCH : 1);
        const float* own = x_stage(stage) + warp_row * Number::X_PITCH;
        if constexpr (Number::PRECISE) {
            float part[ROW_TILES][COLUMN_TILES][4] = {};
            multiply_stage<T, BACKWARD, ROW_TILES>(part, own, w);
            add_sums(sums, part);
        } else {
            multiply_stage<T, BACKWARD, ROW_TILES>(sums, own, w);
        }
        __syncthreads();  // This stage is read: the next copies, or the sums, may overwrite it.
    }
    float* tile = reinterpret_cast<float*>(shared);
    store_sums<T>(sums, tile + warp_row * T::SUM_PITCH + warp_column);
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < T::ROWS * T::COLUMNS; i += T::THREADS) {
        int row = i / T::COLUMNS, column = i % T::COLUMNS;
        float value = tile[row * T::SUM_PITCH + column];
        finish(product, bias, y, before, first_row + row, first_column + column, value);
    }
}

#define MATMUL(name, Number, BACKWARD, ROW_TILES, WARP_COLUMNS)                                                 \
    extern "C" __global__ void __launch_bounds__(WARP_ROWS* WARP_COLUMNS* WARP)                                 \
        name(const float* x, const Number::Stored* weight, const float* bias, float* y, float* before,          \
             Product product) {                                                                                 \
        multiply<Number, BACKWARD, ROW_TILES, WARP_COLUMNS>(x, weight, bias, y, before, product);               \
    }

MATMUL(matmul_f32, F32, false, 2, 2)
MATMUL(matmul_f32_large, F32, false, 4, 4)
MATMUL(matmul_f32_backward, F32, true, 2, 2)
MATMUL(matmul_f32_backward_large, F32, true, 4, 4)
MATMUL(matmul_tf32, Tf32, false, 2, 2)
MATMUL(matmul_tf32_large, Tf32, false, 4, 4)
MATMUL(matmul_tf32_backward, Tf32, true, 2, 2)
MATMUL(matmul_tf32_backward_large, Tf32, true, 4, 4)
MATMUL(matmul_bf16, Bf16, false, 2, 2)
MATMUL(matmul_bf16_large, Bf16, false, 4, 4)
MATMUL(matmul_bf16_backward, Bf16, true, 2, 2)
MATMUL(matmul_bf16_backward_large, Bf16, true, 4, 4)
MATMUL(matmul_f16, F16, false, 2, 2)
MATMUL(matmul_f16_large, F16, false, 4, 4)
MATMUL(matmul_f16_backward, F16, true, 2, 2)
MATMUL(matmul_f16_backward_large, F16, true, 4, 4)
