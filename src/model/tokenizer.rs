//! Text to token ids and back, with the beginning-of-sequence token made explicit.

use super::ModelError;
use std::path::{Path, PathBuf};

/// A Hugging Face `tokenizer.json` together with the model's beginning-of-sequence (BOS) token and those that end a text.
///
/// Encoding never adds special tokens by itself: whoever wants BOS says so, so that what the model sees is what
/// the caller wrote.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    bos: Option<u32>,
    ends: Vec<u32>,
}

impl Tokenizer {
    /// Parses the bytes of a `tokenizer.json`; `path` names it in errors.
    pub fn from_bytes(path: &Path, bytes: &[u8], bos: Option<u32>) -> Result<Self, ModelError> {
        let inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| ModelError::Tokenizer { path: path.into(), message: error.to_string() })?;
        Ok(Self { inner, path: path.into(), bos, ends: Vec::new() })
    }

    /// Reads a `tokenizer.json`.
    pub fn from_file(path: &Path, bos: Option<u32>) -> Result<Self, ModelError> {
        let bytes = std::fs::read(path).map_err(|source| ModelError::Io { path: path.into(), source })?;
        Self::from_bytes(path, &bytes, bos)
    }

    /// The BOS token's id. Id 0 is a real id.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The same tokenizer with another BOS token.
    pub fn with_bos(self, bos: Option<u32>) -> Self {
        Self { bos, ..self }
    }

    /// Ids of the tokens that end a text; none when the model's files name none.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The same tokenizer with other tokens that end a text.
    pub fn with_ends(self, ends: Vec<u32>) -> Self {
        Self { ends, ..self }
    }

    /// The id of the token that is spelled exactly `token`, special tokens included.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The file this tokenizer came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Token ids of `text`, without any special token that the text does not spell.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| ModelError::Tokenizer {
            path: self.path.clone(),
            message: format!("cannot encode {text:?}: {error}"),
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `tokens`, special tokens included.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, ModelError> {
        self.inner.decode(tokens, false).map_err(|error| ModelError::Tokenizer {
            path: self.path.clone(),
            message: format!("cannot decode {tokens:?}: {error}"),
        })
    }
}
