//! Rotary position embedding, in place (Su et al. 2021, arXiv 2104.09864; half-split pairs as in GPT-NeoX).

use crate::backend::{Columns, Heads};
use rayon::prelude::*;

/// Rotates pair `(i, i + half)` of every head by its position's angle; backwards when `inverse`.
///
/// `table` is `(n_ctx, 2, half)`: cosines, then sines.
pub fn rotary(
    x: &mut [f32],
    columns: Columns,
    heads: Heads,
    half: usize,
    table: &[f32],
    positions: &[u32],
    inverse: bool,
) {
    let sign = if inverse { -1.0 } else { 1.0 };
    x.par_chunks_mut(columns.stride).zip(positions).for_each(|(row, &position)| {
        let (cos, sin) = table[position as usize * 2 * half..][..2 * half].split_at(half);
        for head in row[columns.start..columns.start + columns.width].chunks_exact_mut(heads.width) {
            let (first, rest) = head.split_at_mut(half);
            for (((a, b), &c), &s) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
                let (x, y, s) = (*a, *b, s * sign);
                *a = x * c - y * s;
                *b = y * c + x * s;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::test_support::random;

    #[test]
    fn pairs_turn_by_the_angle_of_their_position() {
        let (n_heads, d_head, half) = (2, 10, 2);
        let columns = Columns { stride: 25, start: 3, width: 20 };
        let heads = Heads { count: n_heads, kv_count: n_heads, width: d_head, scale: 1.0, window: None };
        let angle = |p: usize, i: usize| p as f32 * 0.3 + i as f32;
        let table: Vec<f32> = (0..6)
            .flat_map(|p| (0..2).flat_map(move |part| (0..half).map(move |i| (part, p, i))))
            .map(|(part, p, i)| if part == 0 { angle(p, i).cos() } else { angle(p, i).sin() })
            .collect();
        let before = random(3 * 25, 1);
        let mut x = before.clone();
        rotary(&mut x, columns, heads, half, &table, &[5, 0, 2], false);
        for (row, p) in [5, 0, 2].into_iter().enumerate() {
            for column in 0..25 {
                let at = row * 25 + column;
                let inside = (3..23).contains(&column).then(|| (column - 3) % d_head).filter(|d| *d < 2 * half);
                let expected = match inside {
                    None => before[at],
                    Some(d) if d < half => before[at] * angle(p, d).cos() - before[at + half] * angle(p, d).sin(),
                    Some(d) => before[at] * angle(p, d - half).cos() + before[at - half] * angle(p, d - half).sin(),
                };
                assert!((x[at] - expected).abs() < 1e-6, "row {row} column {column}");
            }
        }
        rotary(&mut x, columns, heads, half, &table, &[5, 0, 2], true);
        for (found, expected) in x.iter().zip(&before) {
            assert!((found - expected).abs() < 1e-6, "the inverse undoes the rotation");
        }
    }
}
