// Causal attention over ragged rows: forward with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022), the
// probabilities themselves, and the product of given probabilities with the values. attention.cuh says how the work is
// cut; the shapes suit short rows (prompts: a warp without queries only helps to copy) as well as long ones, where each
// key is read once per 64 queries. Copies of the next keys run while values are added, and the other way round.
#include "attention.cuh"

/// A block's share: its row, head, and the 16 queries of the warp.
struct Place {
    Row row;
    int head, kv_head, first, own;
    Seen range, mine;

    __device__ __forceinline__ Place(const Row* rows, const RowTile* tiles, const Heads& heads) {
        RowTile tile = tiles[blockIdx.x];
        row = rows[tile.row];
        head = blockIdx.y;
        kv_head = head / (heads.count / heads.kv_count);
        first = tile.first;
        own = first + warp_index() * OWN;
        range = seen_by(row, heads, first, TILE);
        mine = seen_by(row, heads, own, OWN);
    }

    __device__ __forceinline__ bool active(int query) const { return query < int(row.n_queries); }
};

/// Starts copies of the block's queries.
template <int WIDTH>
__device__ __forceinline__ void stage_queries(float* shared, const float* q, const Place& at, const Heads& heads) {
    stage<WIDTH, TILE>(shared, int(at.row.n_queries) - at.first, heads.width,
                       [&](int i) { return q + query_offset(at.row, heads, at.first + i, at.head); });
}

/// Starts copies of the keys, or values, from `base` on, as far as they lie in front of `end`.
template <int WIDTH>
__device__ __forceinline__ void stage_keys(float* shared, const KeyValues& kv, const Place& at, const Heads& heads,
                                           int base, int end, bool values) {
    size_t offset = values ? heads.kv_count * heads.width : 0;
    stage<WIDTH, STAGED>(shared, end - base, heads.width,
                         [&](int i) { return key_at(kv, at.row, heads, base + i, at.kv_head) + offset; });
}

/// Scores become probabilities relative to the largest so far; `correction` is what earlier sums are worth now.
__device__ __forceinline__ void soften(Scores& scores, const Place& at, const Heads& heads, int base,
                                       float (&largest)[2], float (&total)[2], float (&correction)[2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        Seen mine = seen_by(at.row, heads, at.own + score_row(2 * half), 1);
        float now = -INFINITY;
#pragma unroll
        for (int j = 0; j < STAGED_TILES; j++) {
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; e++) {
                bool visible = mine.contains(base + score_column(j, e));
                scores[j][e] = visible ? heads.scale * scores[j][e] : -INFINITY;
                now = fmaxf(now, scores[j][e]);
            }
        }
        now = fmaxf(largest[half], row_max(now));
        // A row that has seen nothing so far has nothing to correct, and its probabilities are zeros.
        bool nothing = now == -INFINITY;
        correction[half] = nothing ? 1.0f : expf(largest[half] - now);
        largest[half] = now;
        total[half] *= correction[half];
#pragma unroll
        for (int j = 0; j < STAGED_TILES; j++) {
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; e++) {
                scores[j][e] = nothing ? 0.0f : expf(scores[j][e] - now);
                total[half] += scores[j][e];
            }
        }
    }
}

template <bool PRECISE, int WIDTH>
__device__ __forceinline__ void attend(const float* q, const KeyValues& kv, const Row* rows, const RowTile* tiles,
                                       const Heads& heads, float* z, float* log_sum_exp) {
    DYNAMIC_SHARED(float, queries);
    float *keys = queries + TILE * PITCH<WIDTH>, *values = keys + STAGED * PITCH<WIDTH>;
    Place at(rows, tiles, heads);
    int end = at.range.end, width = heads.width;
    stage_queries<WIDTH>(queries, q, at, heads);
    stage_keys<WIDTH>(keys, kv, at, heads, at.range.begin, end, false);
    copy_async_commit();
    stage_keys<WIDTH>(values, kv, at, heads, at.range.begin, end, true);
    copy_async_commit();
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f}, sums[WIDTH / 8][4] = {};
    for (int base = at.range.begin; base < end; base += STAGED) {
        bool wanted = at.mine.meets(base, STAGED);
        Scores scores = {};
        copy_async_wait<1>();  // The keys are there, the values may be under way.
        __syncthreads();
        if (wanted) add_products<PRECISE, WIDTH>(scores, queries + warp_index() * OWN * PITCH<WIDTH>, keys, width);
        __syncthreads();  // The keys are read: the next ones may overwrite them.
        if (base + STAGED < end) stage_keys<WIDTH>(keys, kv, at, heads, base + STAGED, end, false);
        copy_async_commit();
        if (wanted) {
            float correction[2];
            soften(scores, at, heads, base, largest, total, correction);
#pragma unroll
            for (int n = 0; n < WIDTH / 8; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) sums[n][e] *= correction[e / 2];
            }
        }
        copy_async_wait<1>();  // The values are there, the next keys may be under way.
        __syncthreads();
        if (wanted) add_weighted<PRECISE, WIDTH>(sums, scores, values, width);
        __syncthreads();
        if (base + STAGED < end) stage_keys<WIDTH>(values, kv, at, heads, base + STAGED, end, true);
        copy_async_commit();
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        total[half] = row_sum(total[half]);
        int query = at.own + score_row(2 * half);
        if (log_sum_exp && at.active(query) && lane_index() % 4 == 0) {
            log_sum_exp[query_index(at.row, heads, query, at.head)] = largest[half] + logf(total[half]);
        }
        float share = 1.0f / total[half];  // Once: a division is dozens of instructions.
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n++) {
            sums[n][2 * half] *= share;
            sums[n][2 * half + 1] *= share;
        }
    }
    write_rows<WIDTH>(sums, width, [&](int i) {
        int query = at.own + i;
        return at.active(query) ? z + query_offset(at.row, heads, query, at.head) : nullptr;
    });
}

/// z = softmax(scale q kᵀ) v; `log_sum_exp` may be null.
ATTENTION_KERNEL(attention, attend,
                 (const float* q, KeyValues kv, const Row* rows, const RowTile* tiles, Heads heads, float* z,
                  float* log_sum_exp),
                 (q, kv, rows, tiles, heads, z, log_sum_exp))

/// The probabilities, (count, n_queries, total_keys) per row from `pattern_start` on, zero where nothing is seen. Asked
/// for where somebody looks at them: always precise, in one version for all heads.
extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS)
    attention_pattern(const float* q, KeyValues kv, const Row* rows, const RowTile* tiles, Heads heads,
                      const float* log_sum_exp, float* pattern) {
    constexpr int WIDTH = 128;
    DYNAMIC_SHARED(float, queries);
    float* keys = queries + TILE * PITCH<WIDTH>;
    Place at(rows, tiles, heads);
    int n_keys = total_keys(at.row);
    stage_queries<WIDTH>(queries, q, at, heads);
    for (int base = 0; base < n_keys; base += STAGED) {
        __syncthreads();  // The keys before are read.
        stage_keys<WIDTH>(keys, kv, at, heads, base, n_keys, false);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        Scores scores = {};
        if (at.mine.meets(base, STAGED)) {
            add_products<true, WIDTH>(scores, queries + warp_index() * OWN * PITCH<WIDTH>, keys, heads.width);
        }
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int query = at.own + score_row(e);
            if (!at.active(query)) continue;
            Seen mine = seen(at.row, heads, query);
            float total = log_sum_exp[query_index(at.row, heads, query, at.head)];
            float* out = pattern + at.row.pattern_start + (size_t(at.head) * at.row.n_queries + query) * n_keys;
#pragma unroll
            for (int j = 0; j < STAGED_TILES; j++) {
                int key = base + score_column(j, e);
                if (key < n_keys) out[key] = mine.contains(key) ? expf(heads.scale * scores[j][e] - total) : 0.0f;
            }
        }
    }
}

/// z = pattern v with given probabilities, over all keys of a row.
extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS)
    apply_pattern(const float* pattern, KeyValues kv, const Row* rows, const RowTile* tiles, Heads heads, float* z) {
    constexpr int WIDTH = 128;
    DYNAMIC_SHARED(float, values);
    Place at(rows, tiles, heads);
    int n_keys = total_keys(at.row);
    float sums[WIDTH / 8][4] = {};
    for (int base = 0; base < n_keys; base += STAGED) {
        __syncthreads();  // The values before are read.
        stage_keys<WIDTH>(values, kv, at, heads, base, n_keys, true);
        copy_async_commit();
        Scores weights;
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int query = at.own + score_row(e);
            const float* in = pattern + at.row.pattern_start + (size_t(at.head) * at.row.n_queries + query) * n_keys;
#pragma unroll
            for (int j = 0; j < STAGED_TILES; j++) {
                int key = base + score_column(j, e);
                weights[j][e] = at.active(query) && key < n_keys ? in[key] : 0.0f;
            }
        }
        copy_async_wait<0>();
        __syncthreads();
        add_weighted<true, WIDTH>(sums, weights, values, heads.width);
    }
    write_rows<WIDTH>(sums, heads.width, [&](int i) {
        int query = at.own + i;
        return at.active(query) ? z + query_offset(at.row, heads, query, at.head) : nullptr;
    });
}
