//! `actpatch` fits directions in a transformer's residual stream and measures, by activation patching, what they cause.
//!
//! Open a [`session`], describe a study, run it:
//!
//! ```
//! use actpatch::session::{Session, SessionOptions, Silent};
//! use actpatch::studies::{FitDirections, PatchingSuite, Study};
//! # let data = tempfile::tempdir()?;
//! # let data_dir = data.path().to_owned();
//!
//! // A model: `demo` is part of the program; an alias, a Hub id and a folder are named in the same way.
//! let session = Session::open("demo", SessionOptions { data_dir, ..SessionOptions::default() })?;
//!
//! // Fit a direction between the classes of `simple_train`, in front of block 1.
//! let fit = FitDirections {
//!     methods: vec!["mean_diff".parse()?],
//!     layers: vec!["1".into()],
//!     ..FitDirections::default()
//! };
//! fit.run(&session, &mut Silent)?;
//!
//! // Patch along it on another dataset: how much of the logit difference comes back?
//! let suite = PatchingSuite { eval_sets: vec!["simple_test".into()], ..PatchingSuite::default() };
//! for cell in suite.run(&session, &mut Silent)?.cells {
//!     println!("{} {} {} {:?} %", cell.direction, cell.prompt, cell.position, cell.percent);
//! #   assert!(cell.percent.is_some_and(|percent| percent > 50.0));
//! }
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! | to | look at |
//! |---|---|
//! | load a model, choose a device, find prompts and stored directions | [`session::Session`], [`session::SessionOptions`] |
//! | fit, patch, ablate, steer, read texts; see what it will cost; stop it and go on | [`studies`], [`studies::Study`], [`session::Observer`] |
//! | run a study that is named in a file | [`studies::AnyStudy`], [`studies::Circuit`] |
//! | run any token sequences, with values on the host patched in; take gradients; write texts | [`session::Session::forward`], [`session::Edit`], [`session::Session::gradients`], [`session::Session::write`] |
//! | read what an error is about | [`session::Fault`] |
//! | read result files | [`report`] |
//! | capture and patch activations by hook name, with your own loops | [`engine::Engine`], [`engine::Site`], [`engine::Intervention`] |
//! | add an experiment, a fitting method, a dataset, a model family, a device | [`experiments`], [`directions`], [`datasets`], [`model`], [`backend`] |
//! | keep many values in a ledger that survives being killed | [`sweep`] |
//!
//! The data goes one way: words and templates become [`datasets`], a [`model`] is uploaded once to a [`backend`], the
//! [`engine`] runs clean and corrupted prompts as one batch and captures activations, [`directions`] are fitted to them,
//! and [`experiments`] patch them back in and measure what changes. [`studies`] tie these together with files, and know
//! what every result was made of.
//!
//! Features, all on by default: `cli` (the program), `cuda` (GPUs), `hub` (models by Hub id), `figures` (pictures).
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

pub mod backend;
#[doc(hidden)]
pub mod bench;
#[doc(hidden)]
pub mod choice;
#[doc(hidden)]
#[cfg(feature = "cli")]
pub mod cli;
pub mod compat;
pub mod datasets;
pub mod directions;
pub mod engine;
pub mod experiments;
#[doc(hidden)]
pub mod files;
pub mod model;
mod npy;
pub mod report;
pub mod session;
mod strided;
pub mod studies;
pub mod sweep;
pub mod types;
