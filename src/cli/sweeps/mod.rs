//! Commands that look after sweeps.

pub mod merge;
pub mod status;
