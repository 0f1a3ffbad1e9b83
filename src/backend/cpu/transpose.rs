//! Transposition of 32 by 32 values, which gradients need of every block of a packed weight.

use super::simd::Isa;
use super::tile::PANEL;

/// Values of a block.
pub const BLOCK: usize = PANEL * PANEL;

/// Row `j` of `block` becomes column `j` of `source`; both hold [`BLOCK`] values.
pub fn transpose(isa: Isa, source: &[f32], block: &mut [f32]) {
    assert!(source.len() == BLOCK && block.len() == BLOCK, "32 by 32 values");
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx2 {
        // SAFETY: an `Isa` is only made by `detect`, or by a test that checked the processor; the lengths are those asked for.
        return unsafe { x86::transpose(source, block) };
    }
    let _ = isa;
    for (i, row) in source.chunks_exact(PANEL).enumerate() {
        for (j, &value) in row.iter().enumerate() {
            block[j * PANEL + i] = value;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::PANEL;
    use std::arch::x86_64::*;

    /// Eight by eight values in registers at a time.
    ///
    /// # Safety
    /// The processor has AVX2, and both slices hold 32 by 32 values.
    #[target_feature(enable = "avx2")]
    pub unsafe fn transpose(source: &[f32], block: &mut [f32]) {
        for i in (0..PANEL).step_by(8) {
            for j in (0..PANEL).step_by(8) {
                let mut rows = [_mm256_setzero_ps(); 8];
                for (k, row) in rows.iter_mut().enumerate() {
                    // SAFETY: eight values of row `i + k` from column `j` lie within 32 by 32.
                    *row = unsafe { _mm256_loadu_ps(source.as_ptr().add((i + k) * PANEL + j)) };
                }
                for (k, column) in eight(rows).into_iter().enumerate() {
                    // SAFETY: the same with rows and columns exchanged.
                    unsafe { _mm256_storeu_ps(block.as_mut_ptr().add((j + k) * PANEL + i), column) };
                }
            }
        }
    }

    /// Columns of eight rows: pairs of rows are interleaved, then pairs of pairs, then the halves exchanged.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn eight(r: [__m256; 8]) -> [__m256; 8] {
        let mut pairs = r;
        for k in [0, 2, 4, 6] {
            pairs[k] = _mm256_unpacklo_ps(r[k], r[k + 1]);
            pairs[k + 1] = _mm256_unpackhi_ps(r[k], r[k + 1]);
        }
        let mut fours = pairs;
        for k in [0, 4] {
            fours[k] = _mm256_shuffle_ps::<0x44>(pairs[k], pairs[k + 2]);
            fours[k + 1] = _mm256_shuffle_ps::<0xEE>(pairs[k], pairs[k + 2]);
            fours[k + 2] = _mm256_shuffle_ps::<0x44>(pairs[k + 1], pairs[k + 3]);
            fours[k + 3] = _mm256_shuffle_ps::<0xEE>(pairs[k + 1], pairs[k + 3]);
        }
        let mut columns = fours;
        for k in 0..4 {
            columns[k] = _mm256_permute2f128_ps::<0x20>(fours[k], fours[k + 4]);
            columns[k + 4] = _mm256_permute2f128_ps::<0x31>(fours[k], fours[k + 4]);
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::test_support::isas;

    #[test]
    fn rows_become_columns() {
        let source: Vec<f32> = (0..BLOCK).map(|at| at as f32).collect();
        for isa in isas() {
            let mut block = vec![f32::NAN; BLOCK];
            transpose(isa, &source, &mut block);
            for (at, value) in block.iter().enumerate() {
                assert_eq!(*value, ((at % PANEL) * PANEL + at / PANEL) as f32, "{isa:?}, value {at}");
            }
        }
    }
}
