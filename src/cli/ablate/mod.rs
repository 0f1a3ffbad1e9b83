//! Commands that take something away.

pub mod ablation;
