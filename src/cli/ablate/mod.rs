//! Commands that take something away.

pub mod ablation;
pub mod ablation_maps;
pub mod faithfulness;
