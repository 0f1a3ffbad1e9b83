//! `actpatch bench`: fixed work on prompts of fixed shape, timed beside the processor's measured peak.
//!
//! Everything is derived from small integers, so that another program can do the same work on the same numbers.

mod machine;
mod prompts;
mod timing;
mod workloads;

pub use machine::peak_resident_bytes;
pub use prompts::{Shape, prompts};
pub use timing::{Spread, Timing};
pub use workloads::{Bench, BenchError, Workload, direction, rotation_start};
