//! Attention against its definition in f64, and its gradient against difference quotients.

use super::*;
use crate::backend::cpu::test_support::{isas, random};

/// A ragged batch: own keys, a prefix, fewer queries than keys in one row.
struct Case {
    heads: Heads,
    rows: Vec<AttentionRow>,
    q: Vec<f32>,
    own: CpuTensor,
    prefix: CpuTensor,
    n_queries: usize,
    pattern_len: usize,
}

fn case(count: usize, kv_count: usize, width: usize, lengths: &[(usize, usize, usize)], seed: u64) -> Case {
    // Every other shape has a window.
    let window = seed.is_multiple_of(2).then_some(5);
    let heads = Heads { count, kv_count, width, scale: 1.0 / (width as f32).sqrt(), window };
    let mut rows = Vec::new();
    let (mut query_start, mut key_start, mut prefix_start, mut pattern_start) = (0, 0, 0, 0);
    for &(n_prefix, n_keys, n_queries) in lengths {
        rows.push(AttentionRow { query_start, n_queries, key_start, n_keys, prefix_start, n_prefix, pattern_start });
        query_start += n_queries;
        key_start += n_keys;
        prefix_start += n_prefix;
        pattern_start += count * n_queries * (n_prefix + n_keys);
    }
    let pool = Pool::default();
    let fill = |len: usize, seed| {
        let mut tensor = pool.take(len);
        tensor.copy_from_slice(&random(len, seed));
        tensor
    };
    Case {
        heads,
        q: random(query_start * count * width, seed),
        own: fill(key_start * 2 * kv_count * width, seed + 1),
        prefix: fill(prefix_start * 2 * kv_count * width, seed + 2),
        rows,
        n_queries: query_start,
        pattern_len: pattern_start,
    }
}

impl Case {
    fn kv(&self) -> KeyValues<'_, CpuTensor> {
        KeyValues { own: &self.own, prefix: Some(&self.prefix) }
    }

    /// Outputs and patterns by the definition, in f64.
    fn exact(&self, q: &[f32], own: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let d_attn = self.heads.count * self.heads.width;
        let mut z = vec![0.0; self.n_queries * d_attn];
        let mut patterns = vec![0.0; self.pattern_len];
        for row in &self.rows {
            let at = |position: usize, column: usize| {
                let (m, r) = if position < row.n_prefix {
                    (&self.prefix[..], row.prefix_start + position)
                } else {
                    (own, row.key_start + position - row.n_prefix)
                };
                m[r * self.heads.kv_stride() + column] as f64
            };
            for head in 0..self.heads.count {
                let kv_head = head / (self.heads.count / self.heads.kv_count);
                for i in 0..row.n_queries {
                    let visible = row.total_keys() - row.n_queries + i + 1;
                    let q = &q[(row.query_start + i) * d_attn + head * self.heads.width..][..self.heads.width];
                    let from = self.heads.window.map_or(0, |window| visible.saturating_sub(window));
                    let scores: Vec<f64> = (from..visible)
                        .map(|j| {
                            (0..q.len()).map(|d| q[d] as f64 * at(j, kv_head * q.len() + d)).sum::<f64>()
                                * self.heads.scale as f64
                        })
                        .collect();
                    let total: f64 = scores.iter().map(|s| s.exp()).sum();
                    for (j, s) in (from..visible).zip(&scores) {
                        let p = s.exp() / total;
                        patterns[row.pattern_start + (head * row.n_queries + i) * row.total_keys() + j] = p;
                        for d in 0..q.len() {
                            z[(row.query_start + i) * d_attn + head * q.len() + d] +=
                                p * at(j, (self.heads.kv_count + kv_head) * q.len() + d);
                        }
                    }
                }
            }
        }
        (z, patterns)
    }
}

const LENGTHS: [&[(usize, usize, usize)]; 4] =
    [&[(0, 1, 1)], &[(0, 19, 19), (0, 5, 5)], &[(6, 13, 13), (1, 4, 1), (0, 40, 40)], &[(33, 30, 25), (0, 2, 2)]];

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        // 1e-5: probabilities and values of order 1 in f32.
        assert!((*f as f64 - e).abs() < 1e-5, "{what}: value {i} is {f}, expected {e}");
    }
}

#[test]
fn outputs_and_patterns_match_the_definition() {
    let pool = Pool::default();
    for isa in isas() {
        for (count, kv_count, width, seed) in [(1, 1, 3, 7), (2, 2, 12, 8), (3, 3, 80, 7), (4, 2, 64, 7), (6, 1, 8, 8)]
        {
            for lengths in LENGTHS {
                let case = case(count, kv_count, width, lengths, seed);
                let (expected, expected_pattern) = case.exact(&case.q, &case.own);
                let mut z = vec![f32::NAN; expected.len()];
                attention(isa, &pool, &case.q, case.kv(), &case.rows, case.heads, &mut z, None);
                assert_close(&z, &expected, "z");
                let mut pattern = vec![f32::NAN; case.pattern_len];
                attention_pattern(isa, &pool, &case.q, case.kv(), &case.rows, case.heads, &mut pattern);
                assert_close(&pattern, &expected_pattern, "pattern");
                let mut z = vec![f32::NAN; expected.len()];
                apply_pattern(isa, &pool, &pattern, case.kv(), &case.rows, case.heads, &mut z);
                assert_close(&z, &expected, "z from the pattern");
            }
        }
    }
}

#[test]
fn gradients_match_difference_quotients() {
    let pool = Pool::default();
    for isa in isas() {
        for (lengths, kv_count, seed) in LENGTHS.into_iter().flat_map(|l| [(l, 2, 3), (l, 1, 4)]) {
            let case = case(2, kv_count, 5, lengths, seed);
            let mut z = vec![0.0; case.q.len()];
            let mut log_sum_exp = vec![0.0; case.n_queries * 2];
            attention(isa, &pool, &case.q, case.kv(), &case.rows, case.heads, &mut z, Some(&mut log_sum_exp));
            let dz = random(z.len(), 9);
            let (mut dq, mut dkv) = (vec![f32::NAN; case.q.len()], vec![f32::NAN; case.own.len()]);
            let heads = case.heads;
            attention_backward(isa, &pool, &case.q, case.kv(), &case.rows, heads, &log_sum_exp, &dz, &mut dq, &mut dkv);
            let value =
                |q: &[f32], own: &[f32]| case.exact(q, own).0.iter().zip(&dz).map(|(z, &d)| z * d as f64).sum::<f64>();
            let quotient = |values: &[f32], i: usize, f: &dyn Fn(&[f32]) -> f64| {
                let (mut up, mut down) = (values.to_vec(), values.to_vec());
                up[i] += 1e-2;
                down[i] -= 1e-2;
                (f(&up) - f(&down)) / (up[i] as f64 - down[i] as f64)
            };
            // 3e-4: the cubic error of a central difference with step 0.01.
            for i in (0..dq.len()).step_by(7) {
                let expected = quotient(&case.q, i, &|q| value(q, &case.own));
                assert!((dq[i] as f64 - expected).abs() < 3e-4, "dq {i}: {} {expected}", dq[i]);
            }
            for i in (0..dkv.len()).step_by(11) {
                let expected = quotient(&case.own, i, &|own| value(&case.q, own));
                assert!((dkv[i] as f64 - expected).abs() < 3e-4, "dkv {i}: {} {expected}", dkv[i]);
            }
        }
    }
}
