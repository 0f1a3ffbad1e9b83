//! The innermost product: a few rows of `A` times one panel of 32 columns of `B`.
//!
//! A panel holds `k` rows of 32 consecutive values, so every step reads two (AVX-512) or four (AVX2) full vectors of
//! `B` and broadcasts one value of `A` per row: 12 x 32 accumulators fill 24 of the 32 AVX-512 registers, 6 x 16 fill
//! 12 of the 16 AVX2 registers. Each output is one chain of multiply-adds over `k` in order, whatever the tiling, so
//! results do not depend on how the work is split among threads. What is added to comes last: a residual may be so large
//! (25,000 at a Llama's first token) that a chain which began with it would be rounded to its size at every step.

use super::simd::Isa;

/// Columns of a panel.
pub const PANEL: usize = 32;
/// Most rows that [`multiply`] takes at once.
pub const TILE_ROWS: usize = 12;

/// Cuts `rows` into tiles, (first, number), all nearly as tall as registers allow: a low one at the end would have too few
/// chains of multiply-adds to keep the processor busy.
pub fn row_tiles(isa: Isa, rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let most = if isa == Isa::Avx512 { TILE_ROWS } else { TILE_ROWS / 2 };
    let tiles = rows.div_ceil(most);
    (0..tiles).map(move |tile| (tile * rows / tiles, (tile + 1) * rows / tiles - tile * rows / tiles))
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub struct Start {
    /// The values in `C`, which are overwritten otherwise.
    pub load: bool,
    /// These `PANEL` values in every row, unless null.
    pub bias: *const f32,
}

/// Operands of one tile: `C[m, n] = start + A[m, k] * panel[k, 32]`.
#[derive(Clone, Copy)]
pub struct Tile {
    /// Rows, at most [`TILE_ROWS`].
    pub m: usize,
    /// Columns of `C` that exist, at most [`PANEL`].
    pub n: usize,
    /// Depth.
    pub k: usize,
    /// `A`, rows `lda` values apart.
    pub a: *const f32,
    /// Row distance of `A`.
    pub lda: usize,
    /// The panel.
    pub panel: *const f32,
    /// `C`, rows `ldc` values apart.
    pub c: *mut f32,
    /// Row distance of `C`.
    pub ldc: usize,
    /// What is added.
    pub start: Start,
}

/// Computes one tile.
///
/// # Safety
/// The pointers must be valid for the shapes in `tile`, `bias` (if any) for 32 values, and the processor must run `isa`.
#[inline]
pub unsafe fn multiply(isa: Isa, tile: &Tile) {
    debug_assert!(tile.m <= TILE_ROWS && tile.n <= PANEL);
    match isa {
        // SAFETY: the caller's promises are the ones each path needs.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::multiply_avx512(tile) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::multiply_avx2(tile) },
        // SAFETY: as above.
        _ => unsafe { multiply_portable(tile) },
    }
}

/// The fallback for every other processor: the `gemm` crate, which has kernels of its own for them. The last bits depend on the
/// number of rows here.
unsafe fn multiply_portable(tile: &Tile) {
    let mut sums = [0.0f32; TILE_ROWS * PANEL];
    // SAFETY: the caller's promises for `A` and the panel; the sums have room for the largest tile.
    unsafe {
        gemm::gemm(
            tile.m,
            tile.n,
            tile.k,
            sums.as_mut_ptr(),
            1,
            PANEL as isize,
            false,
            tile.a,
            1,
            tile.lda as isize,
            tile.panel,
            1,
            PANEL as isize,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    for i in 0..tile.m {
        for j in 0..tile.n {
            // SAFETY: `c` and `bias` are valid for these indices by the caller's promise.
            unsafe {
                let c = tile.c.add(i * tile.ldc + j);
                let bias = if tile.start.bias.is_null() { 0.0 } else { *tile.start.bias.add(j) };
                *c = sums[i * PANEL + j] + bias + if tile.start.load { *c } else { 0.0 };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{PANEL, TILE_ROWS, Tile};
    use std::arch::x86_64::*;

    /// Rows of the panel between its use and its prefetch: the panel streams from the second-level cache, about
    /// 10 % faster with the loads issued this early (`cargo bench --bench products`).
    const AHEAD: usize = 32;

    /// The same for AVX2, whose steps over a row take longer: 5 % faster.
    const AHEAD_AVX2: usize = 16;

    /// Steps over the depth in one turn of the AVX2 loop: 3 % faster than one, 25 % at few rows.
    const STEPS_AVX2: usize = 4;

    macro_rules! dispatch_rows {
        ($kernel:ident, $tile:expr, $m:expr, [$($rows:literal),*]) => {
            match $m {
                $($rows => $kernel::<$rows>($tile),)*
                _ => {}
            }
        };
    }

    /// # Safety
    /// See [`super::multiply`]; needs AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn multiply_avx512(tile: &Tile) {
        // SAFETY: the caller's promises.
        unsafe { dispatch_rows!(rows_avx512, tile, tile.m, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]) }
        const { assert!(TILE_ROWS == 12) }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn rows_avx512<const M: usize>(tile: &Tile) {
        let low = mask(tile.n);
        let high = mask(tile.n.saturating_sub(16));
        // SAFETY: masked loads and stores touch only the `n` columns that exist; the panel and the bias always have 32.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); 2]; M];
            if !tile.start.bias.is_null() {
                let bias = [_mm512_loadu_ps(tile.start.bias), _mm512_loadu_ps(tile.start.bias.add(16))];
                for sum in &mut sums {
                    sum[0] = _mm512_add_ps(sum[0], bias[0]);
                    sum[1] = _mm512_add_ps(sum[1], bias[1]);
                }
            }
            for p in 0..tile.k {
                let ahead = tile.panel.wrapping_add((p + AHEAD) * PANEL);
                _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(16).cast());
                let b = [_mm512_loadu_ps(tile.panel.add(p * PANEL)), _mm512_loadu_ps(tile.panel.add(p * PANEL + 16))];
                for (i, sum) in sums.iter_mut().enumerate() {
                    let a = _mm512_set1_ps(*tile.a.add(i * tile.lda + p));
                    sum[0] = _mm512_fmadd_ps(a, b[0], sum[0]);
                    sum[1] = _mm512_fmadd_ps(a, b[1], sum[1]);
                }
            }
            for (i, sum) in sums.iter_mut().enumerate() {
                let c = [tile.c.add(i * tile.ldc), tile.c.wrapping_add(i * tile.ldc + 16)];
                if tile.start.load {
                    sum[0] = _mm512_add_ps(sum[0], _mm512_maskz_loadu_ps(low, c[0]));
                    sum[1] = _mm512_add_ps(sum[1], _mm512_maskz_loadu_ps(high, c[1]));
                }
                _mm512_mask_storeu_ps(c[0], low, sum[0]);
                _mm512_mask_storeu_ps(c[1], high, sum[1]);
            }
        }
    }

    /// The first `n` of 16 lanes.
    fn mask(n: usize) -> __mmask16 {
        if n >= 16 { u16::MAX } else { (1 << n) - 1 }
    }

    /// # Safety
    /// See [`super::multiply`]; needs AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn multiply_avx2(tile: &Tile) {
        for i in (0..tile.m).step_by(6) {
            for j in (0..tile.n).step_by(16) {
                // SAFETY: the part lies inside the caller's tile.
                unsafe {
                    let part = Tile {
                        m: (tile.m - i).min(6),
                        n: (tile.n - j).min(16),
                        a: tile.a.add(i * tile.lda),
                        panel: tile.panel.add(j),
                        c: tile.c.add(i * tile.ldc + j),
                        start: super::Start {
                            load: tile.start.load,
                            bias: tile.start.bias.wrapping_add(if tile.start.bias.is_null() { 0 } else { j }),
                        },
                        ..*tile
                    };
                    dispatch_rows!(rows_avx2, &part, part.m, [1, 2, 3, 4, 5, 6]);
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn rows_avx2<const M: usize>(tile: &Tile) {
        // SAFETY: 16 columns of the panel and the bias always exist; `C` goes through an edge buffer unless full.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); 2]; M];
            if !tile.start.bias.is_null() {
                let bias = [_mm256_loadu_ps(tile.start.bias), _mm256_loadu_ps(tile.start.bias.add(8))];
                for sum in &mut sums {
                    *sum = [_mm256_add_ps(sum[0], bias[0]), _mm256_add_ps(sum[1], bias[1])];
                }
            }
            // Two row pointers, and offsets that are constants in a group of steps: otherwise the addresses of six rows
            // would cost as many instructions as the products.
            let (mut low, mut high) = (tile.a, tile.a.wrapping_add(3 * tile.lda));
            let mut panel = tile.panel;
            let mut steps = |count: usize| {
                for p in 0..count {
                    _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add((p + AHEAD_AVX2) * PANEL).cast());
                    let b = [_mm256_loadu_ps(panel.add(p * PANEL)), _mm256_loadu_ps(panel.add(p * PANEL + 8))];
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let row = if i < 3 { low.add(i * tile.lda) } else { high.add((i - 3) * tile.lda) };
                        let a = _mm256_set1_ps(*row.add(p));
                        *sum = [_mm256_fmadd_ps(a, b[0], sum[0]), _mm256_fmadd_ps(a, b[1], sum[1])];
                    }
                }
                (low, high) = (low.wrapping_add(count), high.wrapping_add(count));
                panel = panel.wrapping_add(count * PANEL);
            };
            for _ in 0..tile.k / STEPS_AVX2 {
                steps(STEPS_AVX2);
            }
            for _ in 0..tile.k % STEPS_AVX2 {
                steps(1);
            }
            let full = tile.n == 16;
            for (i, sum) in sums.iter_mut().enumerate() {
                let mut edge = [0.0f32; 16];
                let whole = tile.c.add(i * tile.ldc);
                let c = if full { whole } else { edge.as_mut_ptr() };
                if tile.start.load {
                    if !full {
                        std::ptr::copy_nonoverlapping(whole.cast_const(), c, tile.n);
                    }
                    *sum =
                        [_mm256_add_ps(sum[0], _mm256_loadu_ps(c)), _mm256_add_ps(sum[1], _mm256_loadu_ps(c.add(8)))];
                }
                _mm256_storeu_ps(c, sum[0]);
                _mm256_storeu_ps(c.add(8), sum[1]);
                if !full {
                    std::ptr::copy_nonoverlapping(c.cast_const(), whole, tile.n);
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::backend::cpu::test_support::{isas, random};

    #[test]
    fn every_instruction_set_multiplies_every_tile_shape() {
        for isa in isas() {
            for (m, n, k) in [(1, 1, 1), (3, 32, 7), (5, 17, 64), (6, 16, 33), (7, 31, 20), (12, 32, 100), (12, 5, 3)] {
                for load in [false, true] {
                    for with_bias in [false, true] {
                        check(isa, m, n, k, load, with_bias);
                    }
                }
            }
        }
    }

    #[test]
    fn what_a_product_is_added_to_does_not_round_its_terms() {
        let k = 1000;
        let (a, panel) = (random(k, 1), random(k * PANEL, 2));
        for isa in isas() {
            let mut c = [25_000.0f32; PANEL];
            let start = Start { load: true, bias: std::ptr::null() };
            let tile = Tile {
                m: 1,
                n: PANEL,
                k,
                a: a.as_ptr(),
                lda: k,
                panel: panel.as_ptr(),
                c: c.as_mut_ptr(),
                ldc: PANEL,
                start,
            };
            // SAFETY: all arrays have the stated shapes.
            unsafe { multiply(isa, &tile) };
            for (j, found) in c.iter().enumerate() {
                let sum: f64 = (0..k).map(|p| f64::from(a[p]) * f64::from(panel[p * PANEL + j])).sum();
                // Half a unit in the last place of 25,000 is 0.001.
                assert!((f64::from(*found) - 25_000.0 - sum).abs() < 0.0011, "{isa:?}: {found}, {sum}");
            }
        }
    }

    #[test]
    fn tiles_cover_all_rows_in_nearly_equal_parts() {
        for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512] {
            for rows in 0..100 {
                let tiles: Vec<_> = row_tiles(isa, rows).collect();
                assert_eq!(tiles.iter().map(|(_, count)| count).sum::<usize>(), rows);
                assert!(tiles.windows(2).all(|pair| pair[0].0 + pair[0].1 == pair[1].0));
                let (least, most) = (tiles.iter().map(|t| t.1).min(), tiles.iter().map(|t| t.1).max());
                assert!(most.unwrap_or(0) <= TILE_ROWS && most.unwrap_or(0) - least.unwrap_or(0) <= 1, "{rows}");
            }
        }
    }

    fn check(isa: Isa, m: usize, n: usize, k: usize, load: bool, with_bias: bool) {
        let (lda, ldc) = (k + 3, n + 2);
        let a = random(m * lda, 1);
        let panel = random(k * PANEL, 2);
        let bias = random(PANEL, 3);
        let before = random(m * ldc, 4);
        let mut c = before.clone();
        let start = Start { load, bias: if with_bias { bias.as_ptr() } else { std::ptr::null() } };
        let tile = Tile { m, n, k, a: a.as_ptr(), lda, panel: panel.as_ptr(), c: c.as_mut_ptr(), ldc, start };
        // SAFETY: all arrays have the stated shapes.
        unsafe { multiply(isa, &tile) };
        for i in 0..m {
            for j in 0..ldc {
                let at = i * ldc + j;
                let sum: f64 = (0..k).map(|p| a[i * lda + p] as f64 * panel[p * PANEL + j.min(PANEL - 1)] as f64).sum();
                let start = if load { before[at] as f64 } else { 0.0 }
                    + if with_bias { bias[j.min(PANEL - 1)] as f64 } else { 0.0 };
                let expected = if j < n { start + sum } else { before[at] as f64 };
                // 1e-5: k <= 100 roundings of sums of order 10.
                assert!(
                    (c[at] as f64 - expected).abs() < 1e-5,
                    "{isa:?} {m}x{n}x{k} load {load} bias {with_bias} at {i},{j}"
                );
            }
        }
    }
}
