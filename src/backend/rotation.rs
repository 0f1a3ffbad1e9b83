//! What the operations of a rotation's training work on; `directions/das` says what they are for.
//!
//! A rotation's free parameter is a strictly lower triangle `T` of a `(d, d)` matrix, packed row after row: row `i` holds
//! `i` values from [`packed_row`] on. It stands for the skew matrix `A = T - Tᵀ`.

/// Where row `row` of a packed strictly lower triangle starts; for `row = d` the number of its values.
pub const fn packed_row(row: usize) -> usize {
    row * row.saturating_sub(1) / 2
}

/// Side `d` of a packed strictly lower triangle of `len` values.
pub const fn packed_side(len: usize) -> usize {
    // d (d - 1) / 2 = len, so d - 1 is the largest integer whose square is at most 2 len.
    (2 * len).isqrt() + 1
}

/// A Lanczos step whose `β` is at most this share of the first has left nothing to go on with.
pub(super) const EXHAUSTED: f64 = 1e-6;

/// The Chebyshev series `exp(A) v = Σ cⱼ φⱼ` with `φ₀ = v`, `φ₁ = B v`, `φⱼ₊₁ = 2 B φⱼ + φⱼ₋₁`, `B = A / ρ`.
#[derive(Debug, Clone, PartialEq)]
pub struct ChebyshevSeries {
    /// `ρ`, at least the spectral radius of `A`.
    pub radius: f64,
    /// `c₀ … cₘ`, two at least.
    pub coefficients: Vec<f64>,
}

impl ChebyshevSeries {
    /// Degree `m` of the polynomial, at least 1.
    pub fn degree(&self) -> usize {
        self.coefficients.len() - 1
    }
}

/// A gradient of a packed triangle that is never written out: the strictly lower triangle of `L Rᵀ - R Lᵀ`.
#[derive(Debug)]
pub struct LowRank<'a, T> {
    /// Number of columns of `L` and `R`.
    pub rank: usize,
    /// `Lᵀ`, `(rank, d)`.
    pub left: &'a T,
    /// `Rᵀ`, `(rank, d)`; more rows behind these are ignored.
    pub right: &'a T,
}

/// One step of Adam (Kingma and Ba 2015): its constants, the corrections of this step included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// A longer gradient is scaled down to this Euclidean norm.
    pub max_gradient_norm: f64,
    /// `β₁`.
    pub keep_first: f32,
    /// `β₂`.
    pub keep_second: f32,
    /// `1 - β₁`.
    pub add_first: f32,
    /// `1 - β₂`.
    pub add_second: f32,
    /// `1 / √(1 - β₂ᵗ)`.
    pub inverse_correction: f32,
    /// Added to the corrected root of the mean squared gradient.
    pub epsilon: f32,
    /// Step size over `1 - β₁ᵗ`.
    pub rate: f32,
}

impl AdamStep {
    /// What a gradient of this norm is multiplied by before anything else.
    pub fn clip(&self, norm: f64) -> f32 {
        (self.max_gradient_norm / (norm + 1e-6)).min(1.0) as f32
    }
}

/// What a step of Adam changes: a packed triangle and the two moments of its gradient.
#[derive(Debug)]
pub struct AdamState<'a, T> {
    /// The parameters.
    pub triangle: &'a mut T,
    /// Mean gradient.
    pub first: &'a mut T,
    /// Mean squared gradient.
    pub second: &'a mut T,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_triangle_knows_its_side() {
        for d in 1..300 {
            assert_eq!(packed_side(packed_row(d)), d);
        }
    }
}
