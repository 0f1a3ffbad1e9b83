//! The CUDA backend without a GPU: the unmodified host code drives the kernels' own sources, compiled for the CPU by
//! the emulator in tests/emulator, through a stand-in for the driver library. Needs a C++ compiler; skips without.
#![cfg(all(feature = "cuda", unix))]

mod cli;
mod driver;
mod emulator;
mod engine;
mod ops;
mod performance;
mod ptx_planted;
mod ptx_text;
mod recorded;
mod repeated;
#[path = "../support/mod.rs"]
mod support;
mod sweep;
