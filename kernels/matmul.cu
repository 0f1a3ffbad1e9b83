// Matrix products on tensor cores: y = epilogue(x W + b), and dx = dy Wᵀ from the same weights.
//
// A block computes one tile of y. Tiles of x and W travel to shared memory by asynchronous copies through a ring of four
// stages, three of them under way while one is multiplied; a stage is 64 bytes deep, whatever the numbers' size. Both
// operands are stored as they are multiplied, in rows that start on 16 bytes: W was packed on the host, x by `pack`
// (f32 with such rows is taken as it is). So a thread's copies are the same in every stage but for the depth: their
// places are computed once, a round of the ring is written out, and its loop computes hardly anything but products.
// Rows and columns beyond the matrices are copied from the last one, and what comes of them is not written; depths
// beyond them are zeros. Fragments come from shared memory by ldmatrix where the layout allows it, in rows padded so that
// neither ldmatrix nor plain reads meet a bank twice. The sums go back through shared memory to the epilogue.
//
// A warp multiplies 64 x 64 values where the tile is large: fewer reads of shared memory to a product than with less.
// f32 has 64 x 32, for its sums are held twice: f32 products keep f32 accuracy by the split of Ootomo and Yokota (2022,
// arXiv 2203.03341): a value is the sum of two TF32 numbers, high and low, and the three products that matter are added,
// the small ones first. Three TF32 products were chosen over bfloat16 splits because the fragments are the floats
// themselves: no repacking. Tensor cores cut their sums off towards zero, which over thousands of depths shrinks a sum by
// 5e-5, so every two stages a sum is begun anew and added to those before it outside of them, as the paper does. With the
// other formats the sums stay in the tensor cores: the factors' rounding weighs more. Sums are f32 throughout.
//
// The tile sizes are those of the instruction's register budget; they have been checked by ptxas, not tuned on a GPU.
#include "activation.cuh"

/// How deep a stage is: 16 floats or 32 numbers of 16 bits, and what one tensor-core product takes of them.
constexpr int STAGE_BYTES = 64;
constexpr int STEP_BYTES = 32;
constexpr int STAGES = 4;
/// What one asynchronous copy moves.
constexpr int CHUNK = 16;
/// Bytes from row to row where a stage's rows are depths' numbers: ldmatrix meets no bank twice in eight of them.
constexpr int PITCH = STAGE_BYTES + CHUNK;
constexpr int WARP_ROWS = 2;
/// Of a block that packs a row of x.
constexpr int PACK_THREADS = 128;

/// The numbers a kernel multiplies: how four of them are packed, and a tensor-core product.
struct F32 {
    typedef float Stored;
    static constexpr bool SPLIT = true;
    __device__ static Vector<4> packed(const Vector<4>& v) { return v; }
};
struct Tf32 {
    typedef float Stored;
    static constexpr bool SPLIT = false;
    __device__ static Vector<4> packed(Vector<4> v) {
        for (float& value : v.values) value = bits_float(round_to_tf32(value));
        return v;
    }
    __device__ static void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        multiply_tf32(sum, a, b);
    }
};
struct Bf16 {
    typedef Bits16 Stored;
    static constexpr bool SPLIT = false;
    __device__ static Vector<2> packed(const Vector<4>& v) {
        return {bits_float(pack_bf16(v.values[0], v.values[1])), bits_float(pack_bf16(v.values[2], v.values[3]))};
    }
    __device__ static void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        multiply_bf16(sum, a, b);
    }
};
struct F16 {
    typedef Bits16 Stored;
    static constexpr bool SPLIT = false;
    __device__ static Vector<2> packed(const Vector<4>& v) {
        return {bits_float(pack_f16(v.values[0], v.values[1])), bits_float(pack_f16(v.values[2], v.values[3]))};
    }
    __device__ static void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        multiply_f16(sum, a, b);
    }
};

/// The shape of one product; `depth` is its inner dimension, `stride` and `x_stride` the lengths of rows of W and x as
/// stored.
struct Product {
    int rows;
    int depth;
    int columns;
    int stride;
    int x_stride;
    int accumulate;
    int activation;
};

/// A block's tile, `ROW_TILES * 16` x `COLUMN_TILES * 8` of it a warp's, and where its parts lie in shared memory.
/// `BACKWARD`: W is read as Wᵀ.
template <typename N, bool IS_BACKWARD, int ROW_TILES_, int COLUMN_TILES_, int WARP_COLUMNS>
struct Tile {
    typedef N Number;
    typedef typename N::Stored Stored;
    static constexpr bool BACKWARD = IS_BACKWARD;
    static constexpr int ROW_TILES = ROW_TILES_, COLUMN_TILES = COLUMN_TILES_;
    static constexpr int ROWS = WARP_ROWS * ROW_TILES * 16;
    static constexpr int COLUMNS = WARP_COLUMNS * COLUMN_TILES * 8;
    static constexpr int THREADS = WARP_ROWS * WARP_COLUMNS * WARP;
    static constexpr int SIZE = int(sizeof(Stored));
    static constexpr int DEPTH = STAGE_BYTES / SIZE;
    static constexpr int W_ROWS = BACKWARD ? COLUMNS : DEPTH;
    static constexpr int W_ROW_BYTES = BACKWARD ? STAGE_BYTES : COLUMNS * SIZE;
    static constexpr int W_PITCH = BACKWARD ? PITCH : (COLUMNS + 8) * SIZE;
    static constexpr int X_BYTES = ROWS * PITCH;
    static constexpr int SLOT = X_BYTES + W_ROWS * W_PITCH;
    static constexpr int SUM_PITCH = COLUMNS + 8;
    static_assert(ROWS * SUM_PITCH * 4 <= STAGES * SLOT, "the sums take the place of the stages");
};

/// A thread's copies of one operand to a stage of `ROWS` rows.
template <int ROWS, int ROW_BYTES, int SHARED_PITCH, int THREADS>
struct Copies {
    static constexpr int CHUNKS = ROW_BYTES / CHUNK;
    static constexpr int ROWS_AT_ONCE = THREADS / CHUNKS;
    static constexpr int COUNT = ROWS / ROWS_AT_ONCE;
    const unsigned char* from;
    uint32_t offsets[COUNT];
    /// How far the first copy is from the end of the depths.
    int left;

    __device__ static int row(int i) { return threadIdx.x / CHUNKS + i * ROWS_AT_ONCE; }
    __device__ static int chunk() { return threadIdx.x % CHUNKS; }

    /// Starts the copies of a stage; the next ones are `bytes` and `depth` further. `BY_DEPTH`: the rows are depths.
    template <bool BY_DEPTH>
    __device__ __forceinline__ void start(unsigned char* to, size_t bytes, int depth) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            bool inside = left > (BY_DEPTH ? i * ROWS_AT_ONCE : 0);
            copy_async_16(to + row(i) * SHARED_PITCH + chunk() * CHUNK, from + offsets[i], inside);
        }
        from += bytes;
        left -= depth;
    }
};

/// The fragments of W for two tiles of columns, of which `column` is the first.
template <typename T>
__device__ __forceinline__ void load_columns(uint32_t (&columns)[2][2], const unsigned char* w, int column, int step) {
    int lane = lane_index();
    uint32_t values[4];
    if constexpr (T::BACKWARD) {
        int row = column + lane % 8 + lane / 16 * 8;
        load_matrices(values, w + row * PITCH + step + lane / 8 % 2 * 16);
    } else if constexpr (T::SIZE == 2) {
        int depth = step / 2 + lane % 16;
        load_matrices_transposed(values, w + depth * T::W_PITCH + (column + lane / 16 * 8) * 2);
    } else {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int depth = step / 4 + lane % 4 + e % 2 * 4;
            const unsigned char* row = w + depth * T::W_PITCH;
            values[e] = reinterpret_cast<const uint32_t*>(row)[column + e / 2 * 8 + lane / 4];
        }
    }
#pragma unroll
    for (int e = 0; e < 4; e++) columns[e / 2][e % 2] = values[e];
}

/// One stage of products of a warp. `x` and `w` start at the warp's rows and columns.
template <typename T>
__device__ __forceinline__ void multiply_stage(float (&sums)[T::ROW_TILES][T::COLUMN_TILES][4], const unsigned char* x,
                                               const unsigned char* w) {
    typedef typename T::Number Number;
    int lane = lane_index();
#pragma unroll
    for (int step = 0; step < STAGE_BYTES; step += STEP_BYTES) {
        uint32_t rows[T::ROW_TILES][4];
        Factor<true, 4> split_rows[T::ROW_TILES];
#pragma unroll
        for (int i = 0; i < T::ROW_TILES; i++) {
            load_matrices(rows[i], x + (i * 16 + lane % 16) * PITCH + step + lane / 16 * 16);
            if constexpr (Number::SPLIT) split_rows[i].set(rows[i]);
        }
#pragma unroll
        for (int first = 0; first < T::COLUMN_TILES; first += 2) {
            uint32_t columns[2][2];
            load_columns<T>(columns, w, first * 8, step);
#pragma unroll
            for (int j = 0; j < 2; j++) {
                Factor<true, 2> split_column;
                if constexpr (Number::SPLIT) split_column.set(columns[j]);
#pragma unroll
                for (int i = 0; i < T::ROW_TILES; i++) {
                    if constexpr (Number::SPLIT) {
                        multiply_factors(sums[i][first + j], split_rows[i], split_column);
                    } else {
                        Number::multiply(sums[i][first + j], rows[i], columns[j]);
                    }
                }
            }
        }
    }
}

template <int ROW_TILES, int COLUMN_TILES>
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
template <typename T>
__device__ __forceinline__ void store_sums(const float (&sums)[T::ROW_TILES][T::COLUMN_TILES][4], float* tile) {
    int lane = lane_index();
#pragma unroll
    for (int i = 0; i < T::ROW_TILES; i++) {
#pragma unroll
        for (int j = 0; j < T::COLUMN_TILES; j++) {
#pragma unroll
            for (int e = 0; e < 4; e += 2) {
                int row = i * 16 + e * 4 + lane / 4, column = j * 8 + lane % 4 * 2;
                store<2>(tile + row * T::SUM_PITCH + column, {sums[i][j][e], sums[i][j][e + 1]});
            }
        }
    }
}

/// Writes a thread's part of the tile, N columns a row: bias, what was there before, activation; `before` keeps the
/// values in front of the activation.
template <typename T, int N>
__device__ __forceinline__ void finish(const Product& product, const float* tile, const float* bias, float* y,
                                       float* before, int first_row, int first_column) {
    constexpr int CHUNKS = T::COLUMNS / N;
    int own = threadIdx.x % CHUNKS * N, column = first_column + own, rows = min(T::ROWS, product.rows - first_row);
    if (column >= product.columns) return;
    Vector<N> shift = {};
    if (bias) shift = load<N>(bias + column);
#pragma unroll 1
    for (int row = threadIdx.x / CHUNKS; row < rows; row += T::THREADS / CHUNKS) {
        size_t at = size_t(first_row + row) * product.columns + column;
        Vector<N> value = load<N>(tile + row * T::SUM_PITCH + own), old = {};
        if (product.accumulate) old = load<N>(y + at);
#pragma unroll
        for (int e = 0; e < N; e++) value.values[e] = value.values[e] + shift.values[e] + old.values[e];
        if (before) store<N>(before + at, value);
#pragma unroll
        for (int e = 0; e < N; e++) value.values[e] = activate(product.activation, value.values[e]);
        store<N>(y + at, value);
    }
}

template <typename T>
__device__ __forceinline__ void multiply(const typename T::Stored* x, const typename T::Stored* weight,
                                         const float* bias, float* y, float* before, const Product& product) {
    DYNAMIC_SHARED(unsigned char, shared);
    int first_row = blockIdx.x * T::ROWS, first_column = blockIdx.y * T::COLUMNS;
    int last_row = product.rows - 1 - first_row, last_column = product.columns - 1 - first_column;
    uint32_t x_row = product.x_stride * T::SIZE, w_row = product.stride * T::SIZE;
    auto bytes = [](const typename T::Stored* from) { return reinterpret_cast<const unsigned char*>(from); };

    Copies<T::ROWS, STAGE_BYTES, PITCH, T::THREADS> xs;
    xs.from = bytes(x) + size_t(first_row) * x_row;
    xs.left = product.depth - xs.chunk() * CHUNK / T::SIZE;
#pragma unroll
    for (int i = 0; i < xs.COUNT; i++) xs.offsets[i] = min(xs.row(i), last_row) * x_row + xs.chunk() * CHUNK;

    Copies<T::W_ROWS, T::W_ROW_BYTES, T::W_PITCH, T::THREADS> ws;
    ws.from = bytes(weight) + size_t(first_column) * (T::BACKWARD ? w_row : T::SIZE);
    ws.left = product.depth - (T::BACKWARD ? ws.chunk() * CHUNK / T::SIZE : ws.row(0));
#pragma unroll
    for (int i = 0; i < ws.COUNT; i++) {
        int row = T::BACKWARD ? min(ws.row(i), last_column) : ws.row(i);
        int chunk = T::BACKWARD ? ws.chunk() : min(ws.chunk(), last_column * T::SIZE / CHUNK);
        ws.offsets[i] = row * w_row + chunk * CHUNK;
    }
    auto load = [&](int slot) {
        unsigned char* to = shared + slot * T::SLOT;
        xs.template start<false>(to, STAGE_BYTES, T::DEPTH);
        ws.template start<!T::BACKWARD>(to + T::X_BYTES, T::BACKWARD ? STAGE_BYTES : T::DEPTH * size_t(w_row), T::DEPTH);
        copy_async_commit();
    };

    int warp_row = warp_index() % WARP_ROWS * T::ROW_TILES * 16;
    int warp_column = warp_index() / WARP_ROWS * T::COLUMN_TILES * 8;
    const unsigned char* own_x = shared + warp_row * PITCH;
    const unsigned char* own_w = shared + T::X_BYTES + warp_column * (T::BACKWARD ? PITCH : T::SIZE);
    float sums[T::ROW_TILES][T::COLUMN_TILES][4] = {};
#pragma unroll
    for (int slot = 0; slot < STAGES - 1; slot++) load(slot);
    for (int depth = 0; depth < product.depth; depth += STAGES * T::DEPTH) {
#pragma unroll
        for (int pair = 0; pair < STAGES; pair += 2) {
            float part[T::ROW_TILES][T::COLUMN_TILES][4] = {};
#pragma unroll
            for (int slot = pair; slot < pair + 2; slot++) {
                copy_async_wait<STAGES - 2>();
                __syncthreads();  // This stage is there, and the one before it is read.
                load((slot + STAGES - 1) % STAGES);
                multiply_stage<T>(T::Number::SPLIT ? part : sums, own_x + slot * T::SLOT, own_w + slot * T::SLOT);
            }
            if constexpr (T::Number::SPLIT) add_sums(sums, part);
        }
    }
    copy_async_wait<0>();  // Of zeros, behind the last depth.
    __syncthreads();       // All stages are read.
    float* tile = reinterpret_cast<float*>(shared);
    store_sums<T>(sums, tile + warp_row * T::SUM_PITCH + warp_column);
    __syncthreads();
    if (product.columns % 4 == 0) {
        finish<T, 4>(product, tile, bias, y, before, first_row, first_column);
    } else {
        finish<T, 1>(product, tile, bias, y, before, first_row, first_column);
    }
}

/// A block's row of x (rows, depth) as the products read it, `stride` numbers with zeros behind the last.
template <typename Number>
__device__ __forceinline__ void pack(const float* x, typename Number::Stored* packed, int depth, int stride) {
    constexpr int SIZE = int(sizeof(typename Number::Stored));
    const float* from = x + size_t(blockIdx.x) * depth;
    float* to = reinterpret_cast<float*>(packed + size_t(blockIdx.x) * stride);
    for (int i = 4 * threadIdx.x; i < stride; i += 4 * PACK_THREADS) {
        Vector<4> values = {};
        if (depth % 4 == 0) {
            if (i < depth) values = load<4>(from + i);
        } else {
#pragma unroll
            for (int e = 0; e < 4; e++) values.values[e] = i + e < depth ? from[i + e] : 0.0f;
        }
        store<SIZE>(to + i * SIZE / 4, Number::packed(values));
    }
}

#define PRODUCT(name, Number, BACKWARD, ROW_TILES, COLUMN_TILES, WARP_COLUMNS, BLOCKS)                           \
    extern "C" __global__ void __launch_bounds__(WARP_ROWS* WARP_COLUMNS* WARP, BLOCKS)                          \
        name(const Number::Stored* x, const Number::Stored* weight, const float* bias, float* y, float* before,  \
             Product product) {                                                                                  \
        typedef Tile<Number, BACKWARD, ROW_TILES, COLUMN_TILES, WARP_COLUMNS> T;                                 \
        multiply<T>(x, weight, bias, y, before, product);                                                        \
    }

#define PACK(name, Number)                                                                                       \
    extern "C" __global__ void __launch_bounds__(PACK_THREADS)                                                   \
        name(const float* x, Number::Stored* packed, int depth, int stride) {                                    \
        pack<Number>(x, packed, depth, stride);                                                                  \
    }

PACK(pack_f32, F32)
PRODUCT(matmul_f32, F32, false, 2, 4, 2, 3)
PRODUCT(matmul_f32_large, F32, false, 4, 4, 4, 1)
PRODUCT(matmul_f32_backward, F32, true, 2, 4, 2, 3)
PRODUCT(matmul_f32_backward_large, F32, true, 4, 4, 4, 1)
PACK(pack_tf32, Tf32)
PRODUCT(matmul_tf32, Tf32, false, 2, 4, 2, 4)
PRODUCT(matmul_tf32_large, Tf32, false, 4, 8, 2, 2)
PRODUCT(matmul_tf32_backward, Tf32, true, 2, 4, 2, 4)
PRODUCT(matmul_tf32_backward_large, Tf32, true, 4, 8, 2, 2)
PACK(pack_bf16, Bf16)
PRODUCT(matmul_bf16, Bf16, false, 2, 4, 2, 4)
PRODUCT(matmul_bf16_large, Bf16, false, 4, 8, 2, 2)
PRODUCT(matmul_bf16_backward, Bf16, true, 2, 4, 2, 4)
PRODUCT(matmul_bf16_backward_large, Bf16, true, 4, 8, 2, 2)
PACK(pack_f16, F16)
PRODUCT(matmul_f16, F16, false, 2, 4, 2, 4)
PRODUCT(matmul_f16_large, F16, false, 4, 8, 2, 2)
PRODUCT(matmul_f16_backward, F16, true, 2, 4, 2, 4)
PRODUCT(matmul_f16_backward_large, F16, true, 4, 8, 2, 2)
