//! Repetitions of one workload.

use crate::engine::Flops;
use serde::Serialize;

/// Fastest, median and slowest of several seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Fastest.
    pub fastest: f64,
    /// Middle one; of an even number the slower of the two.
    pub median: f64,
    /// Slowest.
    pub slowest: f64,
}

impl Spread {
    /// Of at least one measurement.
    pub fn of(seconds: &[f64]) -> Option<Self> {
        let mut sorted = seconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (sorted.first()?, sorted.last()?);
        Some(Self { fastest: *first, median: sorted[sorted.len() / 2], slowest: *last })
    }
}

/// What was measured of one workload.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timing {
    /// Name of the workload.
    pub workload: String,
    /// Its arithmetic, counted from shapes: only patched positions and layers.
    pub flops: u64,
    /// Seconds of the repetitions, the first one, which warms up, left out.
    pub seconds: Spread,
    /// Number of repetitions counted.
    pub repetitions: usize,
    /// `flops` at the peak measured in the same run, over the median; `None` on a device without a measured peak.
    pub share_of_peak: Option<f64>,
}

impl Timing {
    /// Of the seconds of all repetitions; `peak` in operations per second.
    pub fn new(workload: String, flops: Flops, seconds: &[f64], peak: Option<f64>) -> Option<Self> {
        let counted = if seconds.len() > 1 { &seconds[1..] } else { seconds };
        let spread = Spread::of(counted)?;
        let share_of_peak = peak.map(|peak| flops.0 as f64 / peak / spread.median);
        Some(Self { workload, flops: flops.0, seconds: spread, repetitions: counted.len(), share_of_peak })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_repetition_does_not_count() {
        let timing = Timing::new("x".into(), Flops(2_000), &[9.0, 3.0, 1.0, 2.0], Some(4_000.0)).unwrap();
        assert_eq!(timing.seconds, Spread { fastest: 1.0, median: 2.0, slowest: 3.0 });
        assert_eq!((timing.repetitions, timing.share_of_peak), (3, Some(0.25)));
        assert_eq!(Timing::new("x".into(), Flops(1), &[5.0], None).unwrap().seconds.median, 5.0);
        assert!(Timing::new("x".into(), Flops(1), &[], None).is_none());
    }
}
