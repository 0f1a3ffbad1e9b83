// What the attention kernels share: rows, masks, copies to shared memory, and the two products they are made of.
//
// A block owns 64 queries (in the gradient of keys and values: 64 keys) of one head, a warp 16 of them; keys and values
// (there: queries and gradients) pass through shared memory 32 at a time. Both products run on tensor cores, and scores
// never leave the registers. `PRECISE` splits every factor into two TF32 numbers as matmul.cu does, which keeps f32
// accuracy; without it a factor is one TF32 number, as fine as f16 and finer than bfloat16.
//
// `WIDTH` is the widest head a kernel has registers and shared memory for; narrower heads are padded with zeros in
// shared memory, and tiles of eight columns beyond them are skipped.
#pragma once
#include "primitives.cuh"

constexpr int ATTENTION_WARPS = 4;
constexpr int ATTENTION_THREADS = ATTENTION_WARPS * WARP;
/// Queries, or keys, of a warp and of a block; vectors staged at a time.
constexpr int OWN = 16;
constexpr int TILE = ATTENTION_WARPS * OWN;
constexpr int STAGED = 32;
constexpr int STAGED_TILES = STAGED / 8;

/// One sequence: see `AttentionRow` in src/backend/mod.rs.
struct Row {
    uint32_t query_start, n_queries, key_start, n_keys, prefix_start, n_prefix;
    uint64_t pattern_start;
};

/// The heads; `window` is 0 where every earlier key is seen.
struct Heads {
    uint32_t count, kv_count, width, window;
    float scale;
};

/// Neighbouring queries or keys of a row.
struct RowTile {
    uint32_t row, first;
};

/// Keys and values of the batch and of the prefix, rows of all heads' keys and then all heads' values.
struct KeyValues {
    const float* own;
    const float* prefix;
};

/// The keys [begin, end) that queries see.
struct Seen {
    int begin, end;
    __device__ bool contains(int key) const { return begin <= key && key < end; }
    /// Is any of the keys from `first` on, `count` in number, seen?
    __device__ bool meets(int first, int count) const { return first < end && begin < first + count; }
};

__device__ __forceinline__ int total_keys(const Row& row) { return int(row.n_prefix + row.n_keys); }

__device__ __forceinline__ Seen seen(const Row& row, const Heads& heads, int query) {
    int end = total_keys(row) - int(row.n_queries) + query + 1;
    int begin = heads.window && end > int(heads.window) ? end - int(heads.window) : 0;
    return {begin, end};
}

/// All keys that `count` queries from `first` on see; none when there are no such queries.
__device__ __forceinline__ Seen seen_by(const Row& row, const Heads& heads, int first, int count) {
    int last = min(first + count, int(row.n_queries)) - 1;
    if (last < first) return {0, 0};
    return {seen(row, heads, first).begin, seen(row, heads, last).end};
}

/// Where a head's part of a query starts in a (T_q, count * width) matrix.
__device__ __forceinline__ size_t query_offset(const Row& row, const Heads& heads, int query, int head) {
    return ((size_t(row.query_start) + query) * heads.count + head) * heads.width;
}

/// Index of a query's value in a (T_q, count) matrix.
__device__ __forceinline__ size_t query_index(const Row& row, const Heads& heads, int query, int head) {
    return (size_t(row.query_start) + query) * heads.count + head;
}

/// A key-value head's key at `position`; its value lies `kv_count * width` behind.
__device__ __forceinline__ const float* key_at(const KeyValues& kv, const Row& row, const Heads& heads, int position,
                                               int kv_head) {
    bool in_prefix = position < int(row.n_prefix);
    size_t index = in_prefix ? size_t(row.prefix_start) + position
                             : size_t(row.key_start) + position - row.n_prefix;
    const float* base = in_prefix ? kv.prefix : kv.own;
    return base + index * 2 * heads.kv_count * heads.width + kv_head * heads.width;
}

/// Rows of shared memory lie this far apart: neither ldmatrix nor the reads of `add_weighted` meet a bank twice.
template <int WIDTH>
constexpr int PITCH = WIDTH + 4;

__device__ __forceinline__ int padded(int width) { return (width + 7) / 8 * 8; }

/// Starts copies of `ROWS` vectors, `vector(i)` where the i-th of `count` starts; zeros behind them and behind `width`.
template <int WIDTH, int ROWS, typename F>
__device__ __forceinline__ void stage(float* shared, int count, int width, F vector) {
    if (width % 4 == 0) {
        int chunks = padded(width) / 4;
#pragma unroll 2
        for (int i = threadIdx.x; i < ROWS * chunks; i += ATTENTION_THREADS) {
            int row = i / chunks, column = i % chunks * 4;
            bool inside = row < count && column < width;
            const float* source = vector(inside ? row : 0) + (inside ? column : 0);
            copy_async_16(shared + row * PITCH<WIDTH> + column, source, inside);
        }
    } else {
        int columns = padded(width);
#pragma unroll 1
        for (int i = threadIdx.x; i < ROWS * columns; i += ATTENTION_THREADS) {
            int row = i / columns, column = i % columns;
            bool inside = row < count && column < width;
            const float* source = vector(inside ? row : 0) + (inside ? column : 0);
            copy_async_4(shared + row * PITCH<WIDTH> + column, source, inside);
        }
    }
}

/// Sums of 16 rows by 32 columns, as the tensor cores hold them: values 0 and 1 in row lane / 4, 2 and 3 eight below;
/// of tile j the columns 8 j + lane % 4 * 2 and the next.
typedef float Scores[STAGED_TILES][4];

__device__ __forceinline__ int score_row(int e) { return lane_index() / 4 + e / 2 * 8; }

__device__ __forceinline__ int score_column(int j, int e) { return j * 8 + lane_index() % 4 * 2 + e % 2; }

/// scores += own · stagedᵀ: 16 own vectors by 32 staged ones.
template <bool PRECISE, int WIDTH>
__device__ __forceinline__ void add_products(Scores& scores, const float* own, const float* staged, int width) {
    int lane = lane_index();
#pragma unroll 1
    for (int k = 0; k < padded(width); k += 8) {
        uint32_t values[4];
        load_matrices(values, own + lane % 16 * PITCH<WIDTH> + k + lane / 16 * 4);
        Factor<PRECISE, 4> a;
        a.set(values);
#pragma unroll
        for (int j = 0; j < STAGED_TILES; j += 2) {
            load_matrices(values, staged + (j * 8 + lane % 8 + lane / 16 * 8) * PITCH<WIDTH> + k + lane / 8 % 2 * 4);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                uint32_t pair[2] = {values[2 * half], values[2 * half + 1]};
                Factor<PRECISE, 2> b;
                b.set(pair);
                add_factors(scores[j + half], a, b);
            }
        }
    }
}

/// sums += weights · staged: 16 rows of 32 weights by 32 staged vectors. The weights stay in the registers they were
/// computed in: columns 2t and 2t + 1 serve as depths t and t + 4, and the vectors are read in that order.
template <bool PRECISE, int WIDTH>
__device__ __forceinline__ void add_weighted(float (&sums)[WIDTH / 8][4], const Scores& weights, const float* staged,
                                             int width) {
    int lane = lane_index();
#pragma unroll
    for (int j = 0; j < STAGED_TILES; j++) {
        uint32_t bits[4] = {float_bits(weights[j][0]), float_bits(weights[j][2]), float_bits(weights[j][1]),
                            float_bits(weights[j][3])};
        Factor<PRECISE, 4> a;
        a.set(bits);
        const float* vectors = staged + (j * 8 + lane % 4 * 2) * PITCH<WIDTH> + lane / 4;
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n++) {
            if (n * 8 >= width) break;
            uint32_t pair[2] = {float_bits(vectors[n * 8]), float_bits(vectors[PITCH<WIDTH> + n * 8])};
            Factor<PRECISE, 2> b;
            b.set(pair);
            add_factors(sums[n], a, b);
        }
    }
}

/// Sum, or largest, of a row's values over the four lanes that share it.
__device__ __forceinline__ float row_sum(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

__device__ __forceinline__ float row_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

/// Writes 16 rows; `target(i)` is where row i goes, null where nothing is written.
template <int WIDTH, typename F>
__device__ __forceinline__ void write_rows(const float (&sums)[WIDTH / 8][4], int width, F target) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float* out = target(lane_index() / 4 + half * 8);
        if (!out) continue;
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int column = n * 8 + lane_index() % 4 * 2 + e;
                if (column < width) out[column] = sums[n][2 * half + e];
            }
        }
    }
}

/// Declares a kernel in its four versions, for heads up to 64 and 128 wide; `body` is called with the arguments.
#define ATTENTION_KERNEL(name, body, PARAMETERS, ARGUMENTS)                                               \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS) name##_64 PARAMETERS {                \
        body<true, 64> ARGUMENTS;                                                                         \
    }                                                                                                     \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS) name##_128 PARAMETERS {               \
        body<true, 128> ARGUMENTS;                                                                        \
    }                                                                                                     \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS) name##_tf32_64 PARAMETERS {           \
        body<false, 64> ARGUMENTS;                                                                        \
    }                                                                                                     \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS) name##_tf32_128 PARAMETERS {          \
        body<false, 128> ARGUMENTS;                                                                       \
    }
