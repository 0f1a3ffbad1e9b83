// Causal attention over ragged rows: forward with an online softmax, backward, the probabilities themselves, and their
// product with the values.
//
// A warp owns one query (in the gradient of keys and values: one key), a block eight of one head that stand next to
// each other. Their keys and values pass through shared memory 32 at a time, one lane a key: scores are plain dot
// products without a reduction, the softmax needs two reductions per 32 keys, and the weighted sum of values is 32
// broadcasts with the lanes across the head. Scores never reach memory. Gradients are two kernels without atomics, so
// that sums have a fixed order: one per query, which also stores the mean Σ p dp, and one per key.
//
// The shape is for short rows (prompts) and any head width up to 128, prefixes, windows and grouped queries included;
// it uses no tensor cores and has not been tuned on a GPU.
#include "primitives.cuh"

constexpr int WARPS = 8;
constexpr int THREADS = WARPS * WARP;
constexpr int MAX_WIDTH = 128;
constexpr int CHUNKS = MAX_WIDTH / WARP;
/// Rows of keys in shared memory, an odd number of words apart: lanes reading their own row meet 32 banks.
constexpr int PITCH = MAX_WIDTH + 1;

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

/// Eight neighbouring queries or keys of a row.
struct RowTile {
    uint32_t row, first;
};

/// Keys and values of the batch and of the prefix, rows of all heads' keys and then all heads' values.
struct KeyValues {
    const float* own;
    const float* prefix;
};

/// The keys [begin, end) that a query sees.
struct Seen {
    int begin, end;
    __device__ bool contains(int key) const { return begin <= key && key < end; }
};

__device__ __forceinline__ int total_keys(const Row& row) { return int(row.n_prefix + row.n_keys); }

__device__ __forceinline__ Seen seen(const Row& row, const Heads& heads, int query) {
    int end = total_keys(row) - int(row.n_queries) + query + 1;
    int begin = heads.window && end > int(heads.window) ? end - int(heads.window) : 0;
    return {begin, end};
}

/// All keys that the queries of a tile see.
__device__ __forceinline__ Seen seen_by_tile(const Row& row, const Heads& heads, int first) {
    int last = min(first + WARPS, int(row.n_queries)) - 1;
    return {seen(row, heads, first).begin, seen(row, heads, last).end};
}

/// Where a head's part of a query starts in a (T_q, count * width) matrix.
__device__ __forceinline__ size_t query_offset(const Row& row, const Heads& heads, int query, int head) {
    return ((size_t(row.query_start) + query) * heads.count + head) * heads.width;
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

/// Copies up to 32 vectors into shared memory, a warp a vector; `vector(i)` is where the i-th starts.
template <typename F>
__device__ __forceinline__ void stage(float* shared, int count, int width, F vector) {
    for (int i = warp_index(); i < count; i += WARPS) {
        const float* source = vector(i);
        for (int d = lane_index(); d < width; d += WARP) shared[i * PITCH + d] = source[d];
    }
}

/// A warp's own vector, zeros when it has none.
__device__ __forceinline__ void stage_own(float* shared, const float* source, int width, bool there) {
    for (int d = lane_index(); d < width; d += WARP) shared[warp_index() * PITCH + d] = there ? source[d] : 0.0f;
}

__device__ __forceinline__ float dot(const float* a, const float* b, int width) {
    float sum = 0.0f;
    for (int d = 0; d < width; d++) sum += a[d] * b[d];
    return sum;
}

/// sums[d] += Σ weight_i vectors[i][d]: every lane's weight in turn, lanes across the head.
__device__ __forceinline__ void add_weighted(float (&sums)[CHUNKS], float weight, const float* vectors, int count,
                                             int width) {
    for (int i = 0; i < count; i++) {
        float w = __shfl_sync(ALL_LANES, weight, i);
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            int d = c * WARP + lane_index();
            if (d < width) sums[c] += w * vectors[i * PITCH + d];
        }
    }
}

__device__ __forceinline__ void write(float* out, const float (&sums)[CHUNKS], int width, float factor) {
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        int d = c * WARP + lane_index();
        if (d < width) out[d] = sums[c] * factor;
    }
}

/// z = softmax(scale q kᵀ) v; `log_sum_exp` may be null.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention(const float* q, KeyValues kv, const Row* rows, const RowTile* tiles, Heads heads, float* z,
              float* log_sum_exp) {
    __shared__ float keys[WARP * PITCH], values[WARP * PITCH], queries[WARPS * PITCH];
    RowTile tile = tiles[blockIdx.x];
    Row row = rows[tile.row];
    int head = blockIdx.y, kv_head = head / (heads.count / heads.kv_count), width = heads.width;
    int query = tile.first + warp_index();
    bool active = query < int(row.n_queries);
    stage_own(queries, q + query_offset(row, heads, active ? query : 0, head), width, active);
    Seen range = seen_by_tile(row, heads, tile.first), mine = seen(row, heads, query);
    float largest = -INFINITY, sum = 0.0f, sums[CHUNKS] = {};
    for (int base = range.begin; base < range.end; base += WARP) {
        int count = min(WARP, range.end - base), key = base + lane_index();
        __syncthreads();
        stage(keys, count, width, [&](int i) { return key_at(kv, row, heads, base + i, kv_head); });
        stage(values, count, width,
              [&](int i) { return key_at(kv, row, heads, base + i, kv_head) + heads.kv_count * width; });
        __syncthreads();
        bool visible = active && key < range.end && mine.contains(key);
        float score = -INFINITY;
        if (visible) {
            score = heads.scale * dot(queries + warp_index() * PITCH, keys + lane_index() * PITCH, width);
        }
        float now = fmaxf(largest, warp_max(score));
        if (now == -INFINITY) continue;  // Nothing seen so far: the whole warp agrees.
        float p = visible ? expf(score - now) : 0.0f, correction = expf(largest - now);
        sum = sum * correction + p;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) sums[c] *= correction;
        add_weighted(sums, p, values, count, width);
        largest = now;
    }
    sum = warp_sum(sum);
    if (!active) return;
    write(z + query_offset(row, heads, query, head), sums, width, 1.0f / sum);
    if (log_sum_exp && lane_index() == 0) {
        log_sum_exp[(size_t(row.query_start) + query) * heads.count + head] = largest + logf(sum);
    }
}

/// The probabilities, (count, n_queries, total_keys) per row from `pattern_start` on, zero where nothing is seen.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_pattern(const float* q, KeyValues kv, const Row* rows, const RowTile* tiles, Heads heads,
                      const float* log_sum_exp, float* pattern) {
    __shared__ float keys[WARP * PITCH], queries[WARPS * PITCH];
    RowTile tile = tiles[blockIdx.x];
    Row row = rows[tile.row];
    int head = blockIdx.y, kv_head = head / (heads.count / heads.kv_count), width = heads.width;
    int query = tile.first + warp_index(), n_keys = total_keys(row);
    bool active = query < int(row.n_queries);
    stage_own(queries, q + query_offset(row, heads, active ? query : 0, head), width, active);
    Seen mine = seen(row, heads, query);
    float* out = pattern + row.pattern_start + (size_t(head) * row.n_queries + query) * n_keys;
    float total = active ? log_sum_exp[(size_t(row.query_start) + query) * heads.count + head] : 0.0f;
    for (int base = 0; base < n_keys; base += WARP) {
        int count = min(WARP, n_keys - base), key = base + lane_index();
        __syncthreads();
        stage(keys, count, width, [&](int i) { return key_at(kv, row, heads, base + i, kv_head); });
        __syncthreads();
        if (!active || key >= n_keys) continue;
        float p = 0.0f;
        if (mine.contains(key)) {
            p = expf(heads.scale * dot(queries + warp_index() * PITCH, keys + lane_index() * PITCH, width) - total);
        }
        out[key] = p;
    }
}

/// z = pattern v with given probabilities, over all keys of a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    apply_pattern(const float* pattern, KeyValues kv, const Row* rows, const RowTile* tiles, Heads heads, float* z) {
    __shared__ float values[WARP * PITCH];
    RowTile tile = tiles[blockIdx.x];
    Row row = rows[tile.row];
    int head = blockIdx.y, kv_head = head / (heads.count / heads.kv_count), width = heads.width;
    int query = tile.first + warp_index(), n_keys = total_keys(row);
    bool active = query < int(row.n_queries);
    const float* in = pattern + row.pattern_start + (size_t(head) * row.n_queries + query) * n_keys;
    float sums[CHUNKS] = {};
    for (int base = 0; base < n_keys; base += WARP) {
        int count = min(WARP, n_keys - base), key = base + lane_index();
        __syncthreads();
        stage(values, count, width,
              [&](int i) { return key_at(kv, row, heads, base + i, kv_head) + heads.kv_count * width; });
        __syncthreads();
        add_weighted(sums, active && key < n_keys ? in[key] : 0.0f, values, count, width);
    }
    if (active) write(z + query_offset(row, heads, query, head), sums, width, 1.0f);
}

/// Gradient to the queries, and per query and head the mean Σ p dp that the gradient of the keys needs.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention_backward_queries(const float* q, KeyValues kv, const Row* rows, const RowTile* tiles, Heads heads,
                               const float* log_sum_exp, const float* dz, float* dq, float* means) {
    __shared__ float keys[WARP * PITCH], values[WARP * PITCH], queries[WARPS * PITCH], gradients[WARPS * PITCH];
    RowTile tile = tiles[blockIdx.x];
    Row row = rows[tile.row];
    int head = blockIdx.y, kv_head = head / (heads.count / heads.kv_count), width = heads.width;
    int query = tile.first + warp_index();
    bool active = query < int(row.n_queries);
    size_t offset = query_offset(row, heads, active ? query : 0, head);
    stage_own(queries, q + offset, width, active);
    stage_own(gradients, dz + offset, width, active);
    size_t index = (size_t(row.query_start) + query) * heads.count + head;
    float total = active ? log_sum_exp[index] : 0.0f;
    Seen range = seen_by_tile(row, heads, tile.first), mine = seen(row, heads, query);
    float mean = 0.0f, sums[CHUNKS] = {};
    // The mean first, then p (dp - mean): one pass over both sums would subtract two large numbers.
    for (int pass = 0; pass < 2; pass++) {
        for (int base = range.begin; base < range.end; base += WARP) {
            int count = min(WARP, range.end - base), key = base + lane_index();
            __syncthreads();
            stage(keys, count, width, [&](int i) { return key_at(kv, row, heads, base + i, kv_head); });
            stage(values, count, width,
                  [&](int i) { return key_at(kv, row, heads, base + i, kv_head) + heads.kv_count * width; });
            __syncthreads();
            float p = 0.0f, d_p = 0.0f;
            if (active && key < range.end && mine.contains(key)) {
                float score = dot(queries + warp_index() * PITCH, keys + lane_index() * PITCH, width);
                p = expf(heads.scale * score - total);
                d_p = dot(gradients + warp_index() * PITCH, values + lane_index() * PITCH, width);
            }
            if (pass == 0) {
                mean += p * d_p;
            } else {
                add_weighted(sums, p * (d_p - mean) * heads.scale, keys, count, width);
            }
        }
        if (pass == 0) mean = warp_sum(mean);
    }
    if (!active) return;
    write(dq + offset, sums, width, 1.0f);
    if (lane_index() == 0) means[index] = mean;
}

/// Gradient to the batch's own keys and values, summed over the queries and over the heads that share them.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_backward_keys(const float* q, KeyValues kv, const Row* rows, const RowTile* tiles, Heads heads,
                            const float* log_sum_exp, const float* means, const float* dz, float* dkv) {
    __shared__ float queries[WARP * PITCH], gradients[WARP * PITCH], keys[WARPS * PITCH], values[WARPS * PITCH];
    RowTile tile = tiles[blockIdx.x];
    Row row = rows[tile.row];
    int kv_head = blockIdx.y, sharing = heads.count / heads.kv_count, width = heads.width;
    int own = tile.first + warp_index(), position = int(row.n_prefix) + own;
    bool active = own < int(row.n_keys);
    const float* key = key_at(kv, row, heads, active ? position : int(row.n_prefix), kv_head);
    stage_own(keys, key, width, active);
    stage_own(values, key + heads.kv_count * width, width, active);
    // The first query that sees the tile's first key; later keys are seen by no earlier query.
    int hidden = total_keys(row) - int(row.n_queries);
    int first_query = max(0, int(row.n_prefix + tile.first) - hidden);
    float d_key[CHUNKS] = {}, d_value[CHUNKS] = {};
    for (int head = kv_head * sharing; head < (kv_head + 1) * sharing; head++) {
        for (int base = first_query; base < int(row.n_queries); base += WARP) {
            int count = min(WARP, int(row.n_queries) - base), query = base + lane_index();
            __syncthreads();
            stage(queries, count, width, [&](int i) { return q + query_offset(row, heads, base + i, head); });
            stage(gradients, count, width, [&](int i) { return dz + query_offset(row, heads, base + i, head); });
            __syncthreads();
            float p = 0.0f, d_score = 0.0f;
            if (active && query < int(row.n_queries) && seen(row, heads, query).contains(position)) {
                size_t index = (size_t(row.query_start) + query) * heads.count + head;
                float score = dot(keys + warp_index() * PITCH, queries + lane_index() * PITCH, width);
                p = expf(heads.scale * score - log_sum_exp[index]);
                float d_p = dot(values + warp_index() * PITCH, gradients + lane_index() * PITCH, width);
                d_score = p * (d_p - means[index]) * heads.scale;
            }
            add_weighted(d_value, p, gradients, count, width);
            add_weighted(d_key, d_score, queries, count, width);
        }
    }
    if (!active) return;
    size_t stride = 2 * size_t(heads.kv_count) * width;
    float* out = dkv + (size_t(row.key_start) + own) * stride + kv_head * width;
    write(out, d_key, width, 1.0f);
    write(out + heads.kv_count * width, d_value, width, 1.0f);
}
