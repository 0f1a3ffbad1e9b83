//! `actpatch` fits directions in a transformer's residual stream and measures, by activation patching, what they cause.
//!
//! The data goes one way: words and templates become [`datasets`], a [`model`] is uploaded once to a [`backend`],
//! the [`engine`] runs clean and corrupted prompts as one batch and captures activations, [`directions`] are fitted
//! to them, and [`experiments`] patch them back in and measure what changes.
//!
//! ```
//! use actpatch::backend::{CpuBackend, Dtype};
//! use actpatch::engine::{Engine, Output, Site};
//! use actpatch::model::{LoadOptions, Model};
//!
//! let model = Model::load("demo", &LoadOptions::default())?;
//! let tokens = vec![model.tokenizer.encode("<|endoftext|>I thought this movie was great")?];
//! let engine = Engine::new(CpuBackend::new(Dtype::F32)?, model)?;
//! let site: Site = "blocks.2.hook_resid_pre".parse()?;
//! let run = engine.run(&tokens, &[site], &[], Output::Last)?;
//! let logits = run.logits(); // (1, d_vocab); run.site(site)? holds the residual of every token
//! # assert_eq!(logits.map(|l| l.values.rows), Some(1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

pub mod backend;
pub mod bench;
pub mod choice;
#[cfg(feature = "cli")]
pub mod cli;
pub mod compat;
pub mod datasets;
pub mod directions;
pub mod engine;
pub mod experiments;
pub mod files;
pub mod model;
mod npy;
pub mod report;
pub mod session;
mod strided;
pub mod studies;
pub mod sweep;
pub mod types;
