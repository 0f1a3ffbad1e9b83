//! `actpatch` fits directions in a transformer's residual stream and measures, by activation patching, what they cause.
//!
//! The data goes one way: words and templates become [`datasets`], a [`model`] is uploaded once to a [`backend`],
//! the [`engine`] runs clean and corrupted prompts as one batch and captures activations, [`directions`] are fitted
//! to them, and [`experiments`] patch them back in and measure what changes.
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

pub mod backend;
pub mod cli;
pub mod datasets;
pub mod directions;
pub mod engine;
pub mod experiments;
pub mod files;
pub mod model;
pub mod report;
pub mod types;
