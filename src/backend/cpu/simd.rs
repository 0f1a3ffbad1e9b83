//! Which instructions the processor has, and element functions that the compiler can vectorise for each of them.

use crate::choice::{UnknownName, choices};
use std::sync::OnceLock;

/// The widest instruction set a CPU operation is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Whatever the target guarantees.
    Portable,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL).
    Avx512,
}

choices! {
    /// The most that the processor's products may use, each with all that stand before it.
    pub(super) enum Limit {
        /// Whatever the target guarantees.
        Portable = "portable",
        /// AVX2 with fused multiply-add.
        Avx2 = "avx2",
        /// AVX-512 (F, BW, DQ, VL).
        Avx512 = "avx512",
        /// Products of bfloat16 pairs.
        Avx512Bf16 = "avx512-bf16",
        /// The matrix unit.
        Amx = "amx",
    }
}

impl Limit {
    /// The environment variable that sets it.
    pub const VARIABLE: &str = "ACTPATCH_ISA";

    /// What the environment says; everything without a word.
    ///
    /// # Errors
    /// A value that names no limit, with those that there are.
    pub fn asked() -> Result<Self, UnknownName> {
        static ASKED: OnceLock<Result<Limit, UnknownName>> = OnceLock::new();
        let read = || std::env::var_os(Self::VARIABLE).map_or(Ok(Limit::Amx), |text| text.to_string_lossy().parse());
        ASKED.get_or_init(read).clone()
    }

    /// May these instructions be used?
    pub fn allows(self) -> bool {
        Self::asked().is_ok_and(|limit| self <= limit)
    }
}

impl Isa {
    /// The best one that this processor runs, and that `ACTPATCH_ISA` allows.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if Limit::Avx512.allows()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                return Isa::Avx512;
            }
            if Limit::Avx2.allows() && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Isa::Avx2;
            }
        }
        Isa::Portable
    }

    /// Name for manifests.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "AVX2",
            Isa::Avx512 => "AVX-512",
        }
    }
}

/// Does this processor multiply bfloat16 pairs (`vdpbf16ps`)?
pub fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        Limit::Avx512Bf16.allows() && Isa::detect() == Isa::Avx512 && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Compiles one function body for every [`Isa`] and dispatches on its first argument.
///
/// The body must be written so that the compiler can vectorise it: plain loops over slices, calls to the
/// `#[inline(always)]` functions below with `FMA` passed on.
macro_rules! multiversion {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:ident) => {
        $(#[$meta])*
        $visibility fn $name(isa: $crate::backend::cpu::simd::Isa, $($argument: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
                fn wide($($argument: $type),*) {
                    $body::<true>($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn narrow($($argument: $type),*) {
                    $body::<true>($($argument),*)
                }
                match isa {
                    // SAFETY: an `Isa` is only made by `detect`, or by a test that checked the processor.
                    $crate::backend::cpu::simd::Isa::Avx512 => return unsafe { wide($($argument),*) },
                    // SAFETY: as above.
                    $crate::backend::cpu::simd::Isa::Avx2 => return unsafe { narrow($($argument),*) },
                    $crate::backend::cpu::simd::Isa::Portable => {}
                }
            }
            let _ = isa;
            $body::<false>($($argument),*)
        }
    };
}
pub(crate) use multiversion;

/// `a * b + c`, fused when the instruction exists (the library call would be far slower than two operations).
#[inline(always)]
pub fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn polynomial<const FMA: bool, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut value = coefficients[N - 1];
    for i in (0..N - 1).rev() {
        value = fma::<FMA>(value, x, coefficients[i]);
    }
    value
}

/// `e^x` to about 1 ulp; 0 below -87.3, the largest finite power above 88.7.
///
/// `x = n ln 2 + r` with the integer `n` read off the low bits of a shifted sum, then the Taylor series of `e^r` on
/// `|r| <= ln 2 / 2`, where its first dropped term is below 1e-8.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.3, 88.7);
    let shifted = fma::<FMA>(clamped, std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    let r = fma::<FMA>(n, -LN_2_LOW, fma::<FMA>(n, -LN_2_HIGH, clamped));
    let series =
        polynomial::<FMA, 8>(r, [1.0, 1.0, 0.5, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0]);
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { series * power }
}

/// The error function to 1.5e-7 absolute.
///
/// `x S(x²)` below 1 and `1 - e^(-Q(x))` above, `S` and `Q` least-squares polynomials reweighted to equal ripple on
/// `[0, 1]` and `[0.9, 4]`; beyond 4 the function is 1 in f32.
#[allow(clippy::approx_constant, clippy::excessive_precision)] // fitted coefficients, whatever they are close to
#[inline(always)]
pub fn erf<const FMA: bool>(x: f32) -> f32 {
    const S: [f32; 7] =
        [1.128_379_2, -0.376_126_26, 0.112_836, -0.026_854_444, 0.005_189_535_4, -0.000_802_084_14, 7.889_12e-5];
    const Q: [f32; 9] = [
        -0.000_153_382_18,
        1.129_397_1,
        0.633_627_3,
        0.107_905_7,
        -0.024_812_792,
        0.004_013_395,
        -0.000_384_784_98,
        1.232_988_8e-5,
        6.628_205_3e-7,
    ];
    let size = x.abs();
    let near = x * polynomial::<FMA, 7>(x * x, S);
    let far = 1.0 - exp::<FMA>(-polynomial::<FMA, 9>(size.min(4.0), Q));
    if size < 1.0 { near } else { far.copysign(x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_to_f32() {
        for i in 0..200_000 {
            let x = -87.0 + i as f32 * (175.0 / 200_000.0);
            let expected = (x as f64).exp();
            for value in [exp::<true>(x), exp::<false>(x)] {
                // 3e-7: two and a half units in the last place, from the argument reduction and the series.
                assert!(((value as f64) / expected - 1.0).abs() < 3e-7, "exp({x}) = {value}, expected {expected}");
            }
        }
        assert_eq!(exp::<true>(-1000.0), 0.0);
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert!(exp::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn erf_matches_published_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, expected) in [
            (0.0, 0.0),
            (0.1, 0.112_462_92),
            (0.5, 0.520_499_9),
            (0.9, 0.796_908_2),
            (1.0, 0.842_700_8),
            (1.5, 0.966_105_16),
            (2.0, 0.995_322_3),
            (3.0, 0.999_977_9),
            (5.0, 1.0),
        ] {
            for sign in [1.0f32, -1.0] {
                // 2e-7: the fit's 1.5e-7 and the rounding of the result.
                assert!((erf::<true>(sign * x) - sign * expected).abs() < 2e-7, "erf({x})");
                assert!((erf::<false>(sign * x) - sign * expected).abs() < 2e-7, "erf({x})");
            }
        }
    }
}
