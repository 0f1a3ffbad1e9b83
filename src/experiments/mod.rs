//! Experiments on an engine: each file one question.

pub mod chunks;
pub mod das_fits;
pub mod logit_filter;
pub mod patching_suite;
pub mod self_check;
mod test_sets;
