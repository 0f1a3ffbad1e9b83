//! Commands that patch.

pub mod activation_patching_maps;
pub mod attribution_patching;
pub mod direction_patching_results;
pub mod direction_patching_suite;
pub mod path_patching;
pub mod twins;
