//! Experiments on an engine: each file one question.

pub mod chunks;
pub mod comparison;
pub mod das_fits;
pub mod devices;
pub mod logit_filter;
pub mod patching_suite;
pub mod self_check;
mod test_sets;
