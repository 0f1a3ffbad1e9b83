//! The most arithmetic the processor does: multiply-adds that touch registers alone, on every thread.

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::simd::{Isa, has_bf16};
use crate::backend::Dtype;
use std::hint::black_box;
use std::time::Instant;

/// Steps of one measurement: some milliseconds.
const STEPS: usize = 1_000_000;

/// Measurements of which the best counts: the first wake threads and processors up, and any may be interrupted.
const MEASUREMENTS: usize = 8;

/// Floating-point operations per second of the current thread pool in this number format, measured now.
pub fn peak(isa: Isa, dtype: Dtype) -> f64 {
    let measure = || {
        let start = Instant::now();
        let done: usize = rayon::broadcast(|_| multiply_adds(isa, dtype)).iter().sum();
        done as f64 / start.elapsed().as_secs_f64()
    };
    (0..MEASUREMENTS).map(|_| measure()).fold(0.0, f64::max)
}

/// Runs one thread's share; returns its number of operations.
fn multiply_adds(isa: Isa, dtype: Dtype) -> usize {
    match (isa, dtype) {
        // SAFETY: `available` has asked for the unit.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Dtype::Bf16) if amx::available() => unsafe { amx::products_in_registers(STEPS / 8) },
        // SAFETY: an `Isa` is only made by `detect`.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Dtype::Bf16) if has_bf16() => unsafe { x86::bf16() },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, _) => unsafe { x86::avx512() },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, _) => unsafe { x86::avx2() },
        _ => {
            let (a, b) = (black_box(0.999f32), black_box(1e-6f32));
            let mut sums = [1.0f32; 32];
            for _ in 0..STEPS {
                sums.iter_mut().for_each(|sum| *sum = *sum * a + b);
            }
            black_box(sums);
            2 * 32 * STEPS
        }
    }
}

/// More chains than the multiply-adds under way at any moment (latency 4, two a cycle), as many as registers allow.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::STEPS;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx512f")]
    pub fn avx512() -> usize {
        let (a, b) = (black_box(_mm512_set1_ps(0.999)), black_box(_mm512_set1_ps(1e-6)));
        let mut sums = [_mm512_set1_ps(1.0); 16];
        for _ in 0..STEPS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, a, b));
        }
        black_box(sums);
        2 * 16 * 16 * STEPS
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn bf16() -> usize {
        // SAFETY: both types are 512 bits wide.
        let factor: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi32(0x3c00_3c00)) };
        let factor = black_box(factor);
        let mut sums = [_mm512_set1_ps(1.0); 16];
        for _ in 0..STEPS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, factor, factor));
        }
        black_box(sums);
        2 * 32 * 16 * STEPS
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2() -> usize {
        let (a, b) = (black_box(_mm256_set1_ps(0.999)), black_box(_mm256_set1_ps(1e-6)));
        let mut sums = [_mm256_set1_ps(1.0); 12];
        for _ in 0..STEPS {
            sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, a, b));
        }
        black_box(sums);
        2 * 8 * 12 * STEPS
    }
}
