//! GGUF files: weights, often quantised, configuration and tokenizer in one file.
//!
//! A [`Parts`] is the file, or the files that a large model is split into: everything in it is checked when it is opened.
//! `config` puts its metadata as a `config.json`, which the families read, and `tokenizer` as a `tokenizer.json`.
//! [`GgufTensors`] has the weights by the families' names; they stay in the memory-mapped file and are dequantised when they
//! are read, a tensor or some of its rows at a time.
//!
//! Reader and dequantisation are our own: of the crates there are, ggus 0.5 and candle-core 0.11 make room for what a file claims to
//! hold before they look whether it does, ggml-quants 0.1 and gguf-rs-lib 0.3 do not dequantise the K types, and candle-core copies
//! whole tensors.

mod config;
mod file;
mod merges;
mod metadata;
mod names;
mod parts;
mod pieces;
mod quantised;
mod reader;
mod rotary;
mod tensors;
mod tokenizer;
mod value;

pub(crate) use parts::{Parts, in_folder, is_gguf};
#[cfg(feature = "hub")]
pub(crate) use parts::{parts_of, the_one};
pub(crate) use reader::shown;
pub(crate) use tensors::GgufTensors;

use super::ModelError;
use super::config::ConfigFile;
use super::tokenizer_files::Loaded;
use std::path::Path;

/// Is this a GGUF file of the length that its own description gives?
#[cfg(feature = "hub")]
pub(crate) fn is_whole(path: &Path) -> bool {
    file::GgufFile::open(path).is_ok_and(|file| file.whole)
}

/// The configuration of a model.
pub(super) fn config(parts: &Parts) -> Result<ConfigFile, ModelError> {
    config::read(parts)
}

/// The tokenizer of a model whose configuration is `config`.
pub(super) fn tokenizer(parts: &Parts, config: &ConfigFile) -> Result<Loaded, ModelError> {
    tokenizer::read(parts, config)
}

/// The tokenizer of a file, for another model.
pub(super) fn tokenizer_of(path: &Path) -> Result<Loaded, ModelError> {
    let parts = Parts::open(path)?;
    tokenizer(&parts, &config(&parts)?)
}

#[cfg(all(test, feature = "hub"))]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_that_ends_where_its_last_tensor_does() {
        let folder = tempfile::tempdir().unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/llama.gguf");
        let (whole, path) = (std::fs::read(&fixture).unwrap(), folder.path().join("llama.gguf"));
        let after = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            is_whole(&path)
        };
        // The last tensor, a norm of 32 numbers, is followed by nothing.
        assert!(is_whole(&fixture));
        assert!(!after(&[&whole[..], &[0]].concat()));
        assert!(!after(&[&whole[..], &[0; 4096]].concat()));
        assert!(!after(&whole[..whole.len() - 1]));
    }
}
