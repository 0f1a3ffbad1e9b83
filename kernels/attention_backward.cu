// The gradient of attention.cu, in two kernels without atomics, so that sums have a fixed order: one owns queries and
// also leaves their mean Σ p dp, one owns keys and uses it. Probabilities are computed again from the log-sums.
//
// The gradient of the queries goes over the keys twice, the mean first and then p (dp - mean): one pass over both sums
// would subtract two large numbers.
#include "attention.cuh"

template <bool PRECISE, int WIDTH>
__device__ __forceinline__ void backward_queries(const float* q, const KeyValues& kv, const Row* rows,
                                                 const RowTile* tiles, const Heads& heads, const float* log_sum_exp,
                                                 const float* dz, float* dq, float* means) {
    DYNAMIC_SHARED(float, queries);
    float *gradients = queries + TILE * PITCH<WIDTH>, *keys = gradients + TILE * PITCH<WIDTH>;
    float* values = keys + STAGED * PITCH<WIDTH>;
    RowTile tile = tiles[blockIdx.x];
    Row row = rows[tile.row];
    int head = blockIdx.y, kv_head = head / (heads.count / heads.kv_count), width = heads.width;
    int first = tile.first, own = first + warp_index() * OWN, count = int(row.n_queries) - first;
    const float* warp_queries = queries + warp_index() * OWN * PITCH<WIDTH>;
    const float* warp_gradients = gradients + warp_index() * OWN * PITCH<WIDTH>;
    stage<WIDTH, TILE>(queries, count, width, [&](int i) { return q + query_offset(row, heads, first + i, head); });
    stage<WIDTH, TILE>(gradients, count, width, [&](int i) { return dz + query_offset(row, heads, first + i, head); });
    Seen range = seen_by(row, heads, first, TILE), mine = seen_by(row, heads, own, OWN);
    float total[2], mean[2] = {0.0f, 0.0f}, sums[WIDTH / 8][4] = {};
    Seen visible_to[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int query = own + score_row(2 * half);
        visible_to[half] = seen_by(row, heads, query, 1);
        total[half] = query < int(row.n_queries) ? log_sum_exp[query_index(row, heads, query, head)] : 0.0f;
    }
#pragma unroll 1
    for (int pass = 0; pass < 2; pass++) {
        for (int base = range.begin; base < range.end; base += STAGED) {
            __syncthreads();  // Keys and values before are read.
            auto key = [&](int i) { return key_at(kv, row, heads, base + i, kv_head); };
            stage<WIDTH, STAGED>(keys, range.end - base, width, key);
            stage<WIDTH, STAGED>(values, range.end - base, width,
                                 [&](int i) { return key(i) + heads.kv_count * width; });
            copy_async_commit();
            copy_async_wait<0>();
            __syncthreads();
            if (!mine.meets(base, STAGED)) continue;
            Scores p = {}, d_p = {};
            add_products<PRECISE, WIDTH>(p, warp_queries, keys, width);
            add_products<PRECISE, WIDTH>(d_p, warp_gradients, values, width);
#pragma unroll
            for (int j = 0; j < STAGED_TILES; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    bool visible = visible_to[e / 2].contains(base + score_column(j, e));
                    float probability = visible ? expf(heads.scale * p[j][e] - total[e / 2]) : 0.0f;
                    if (pass == 0) mean[e / 2] += probability * d_p[j][e];
                    d_p[j][e] = probability * (d_p[j][e] - mean[e / 2]) * heads.scale;
                }
            }
            if (pass == 1) add_weighted<PRECISE, WIDTH>(sums, d_p, keys, width);
        }
        if (pass == 0) {
            mean[0] = row_sum(mean[0]);
            mean[1] = row_sum(mean[1]);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int query = own + score_row(2 * half);
        if (query < int(row.n_queries) && lane_index() % 4 == 0) {
            means[query_index(row, heads, query, head)] = mean[half];
        }
    }
    write_rows<WIDTH>(sums, width, [&](int i) {
        return own + i < int(row.n_queries) ? dq + query_offset(row, heads, own + i, head) : nullptr;
    });
}

template <bool PRECISE, int WIDTH>
__device__ __forceinline__ void backward_keys(const float* q, const KeyValues& kv, const Row* rows,
                                              const RowTile* tiles, const Heads& heads, const float* log_sum_exp,
                                              const float* means, const float* dz, float* dkv) {
    DYNAMIC_SHARED(float, keys);
    float *values = keys + TILE * PITCH<WIDTH>, *queries = values + TILE * PITCH<WIDTH>;
    float* gradients = queries + STAGED * PITCH<WIDTH>;
    RowTile tile = tiles[blockIdx.x];
    Row row = rows[tile.row];
    int kv_head = blockIdx.y, sharing = heads.count / heads.kv_count, width = heads.width, n_prefix = row.n_prefix;
    int first = tile.first, own = first + warp_index() * OWN, count = int(row.n_keys) - first;
    const float* warp_keys = keys + warp_index() * OWN * PITCH<WIDTH>;
    const float* warp_values = values + warp_index() * OWN * PITCH<WIDTH>;
    auto key = [&](int i) { return key_at(kv, row, heads, n_prefix + first + i, kv_head); };
    stage<WIDTH, TILE>(keys, count, width, key);
    stage<WIDTH, TILE>(values, count, width, [&](int i) { return key(i) + heads.kv_count * width; });
    // The first query that sees the tile's first key; later keys are seen by no earlier query.
    int first_query = max(0, n_prefix + first - (total_keys(row) - int(row.n_queries)));
    float d_keys[WIDTH / 8][4] = {}, d_values[WIDTH / 8][4] = {};
    for (int head = kv_head * sharing; head < (kv_head + 1) * sharing; head++) {
        for (int base = first_query; base < int(row.n_queries); base += STAGED) {
            // With a window, later queries no longer see the tile.
            if (seen(row, heads, base).begin >= n_prefix + first + min(TILE, count)) break;
            __syncthreads();  // Queries and gradients before are read.
            int n_staged = int(row.n_queries) - base;
            stage<WIDTH, STAGED>(queries, n_staged, width,
                                 [&](int i) { return q + query_offset(row, heads, base + i, head); });
            stage<WIDTH, STAGED>(gradients, n_staged, width,
                                 [&](int i) { return dz + query_offset(row, heads, base + i, head); });
            copy_async_commit();
            copy_async_wait<0>();
            __syncthreads();
            if (!seen_by(row, heads, base, STAGED).meets(n_prefix + own, OWN)) continue;
            Scores p = {}, d_p = {};
            add_products<PRECISE, WIDTH>(p, warp_keys, queries, width);
            add_products<PRECISE, WIDTH>(d_p, warp_values, gradients, width);
#pragma unroll
            for (int j = 0; j < STAGED_TILES; j++) {
#pragma unroll
                for (int side = 0; side < 2; side++) {
                    int query = base + score_column(j, side);
                    Seen visible = seen_by(row, heads, query, 1);
                    bool there = query < int(row.n_queries);
                    size_t index = query_index(row, heads, there ? query : 0, head);
                    float total = there ? log_sum_exp[index] : 0.0f, mean = there ? means[index] : 0.0f;
#pragma unroll
                    for (int e = side; e < 4; e += 2) {
                        // No query sees a position behind the last key.
                        bool pair = visible.contains(n_prefix + own + score_row(e));
                        p[j][e] = pair ? expf(heads.scale * p[j][e] - total) : 0.0f;
                        d_p[j][e] = p[j][e] * (d_p[j][e] - mean) * heads.scale;
                    }
                }
            }
            add_weighted<PRECISE, WIDTH>(d_values, p, gradients, width);
            add_weighted<PRECISE, WIDTH>(d_keys, d_p, queries, width);
        }
    }
    // A tile that no query sees has not waited for the copies of its keys.
    copy_async_commit();
    copy_async_wait<0>();
    size_t stride = 2 * size_t(heads.kv_count) * width;
    auto target = [&](int i) {
        return own + i < int(row.n_keys) ? dkv + (size_t(row.key_start) + own + i) * stride + kv_head * width : nullptr;
    };
    write_rows<WIDTH>(d_keys, width, target);
    write_rows<WIDTH>(d_values, width, [&](int i) {
        float* out = target(i);
        return out ? out + heads.kv_count * width : nullptr;
    });
}

/// Gradient to the queries, and per query and head the mean Σ p dp that the gradient of the keys needs.
ATTENTION_KERNEL(attention_backward_queries, backward_queries,
                 (const float* q, KeyValues kv, const Row* rows, const RowTile* tiles, Heads heads,
                  const float* log_sum_exp, const float* dz, float* dq, float* means),
                 (q, kv, rows, tiles, heads, log_sum_exp, dz, dq, means))

/// Gradient to the batch's own keys and values, summed over the queries and over the heads that share them.
ATTENTION_KERNEL(attention_backward_keys, backward_keys,
                 (const float* q, KeyValues kv, const Row* rows, const RowTile* tiles, Heads heads,
                  const float* log_sum_exp, const float* means, const float* dz, float* dkv),
                 (q, kv, rows, tiles, heads, log_sum_exp, means, dz, dkv))
