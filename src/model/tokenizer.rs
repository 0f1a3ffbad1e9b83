//! Text to token ids and back, with the beginning-of-sequence token made explicit.

use super::ModelError;
use super::quietly::quietly;
use crate::files::sha256;
use std::path::{Path, PathBuf};
use tokenizers::AddedToken;

/// Texts that show which tokens a tokenizer puts in front of every text: of some vocabulary, one has a token.
const PROBES: [&str; 4] = ["a", "the", "1", "."];

/// A Hugging Face `tokenizer.json` together with the model's beginning-of-sequence (BOS) token and those that end a text.
///
/// Encoding never adds special tokens by itself: whoever wants BOS says so, so that what the model sees is what
/// the caller wrote. Nor does it cut texts or pad them, whatever the file says.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    bos: Option<u32>,
    ends: Vec<u32>,
    added: Option<String>,
}

impl Tokenizer {
    /// Parses the bytes of a `tokenizer.json`; `path` names it in errors.
    ///
    /// # Errors
    /// The tokenizers library does not accept it.
    pub fn from_bytes(path: &Path, bytes: &[u8], bos: Option<u32>) -> Result<Self, ModelError> {
        let inner = guarded(path, "cannot be read", || {
            let mut inner = tokenizers::Tokenizer::from_bytes(bytes)?;
            // Meant for batches of a training run; the library ignores both when it reads the file for a model.
            inner.with_padding(None);
            inner.with_truncation(None)?;
            Ok(inner)
        })?;
        Ok(Self { inner, path: path.into(), bos, ends: Vec::new(), added: None })
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// The file cannot be read, or the tokenizers library does not accept it.
    pub fn from_file(path: &Path, bos: Option<u32>) -> Result<Self, ModelError> {
        let bytes = std::fs::read(path).map_err(|source| ModelError::Io { path: path.into(), source })?;
        Self::from_bytes(path, &bytes, bos)
    }

    /// The id of the token that opens every text, where there is one. Id 0 is a real id.
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

    /// Lets texts spell `tokens`, those that the vocabulary lacks with numbers behind its last, in this order.
    pub(super) fn add(&mut self, tokens: Vec<AddedToken>) -> Result<(), ModelError> {
        let Self { inner, path, added, .. } = self;
        guarded(path, "cannot take the tokens that the files beside it add", || {
            let known = inner.get_added_vocabulary().get_vocab();
            let new: Vec<AddedToken> = tokens.into_iter().filter(|token| !known.contains_key(&token.content)).collect();
            if !new.is_empty() {
                *added = Some(sha256(&serde_json::to_vec(&new)?));
            }
            inner.add_tokens(&new);
            Ok(())
        })
    }

    /// Hash of the tokens that files beside the tokenizer's have added; none where they add none.
    pub fn added(&self) -> Option<&str> {
        self.added.as_deref()
    }

    /// The id of the token that is spelled exactly `token`, special tokens included.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Is there a token with this id?
    pub(super) fn knows(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some()
    }

    /// The token that the tokenizer itself puts in front of every text, which [`Tokenizer::encode`] does not.
    pub(super) fn opening(&self) -> Option<u32> {
        // A tokenizer that cannot encode one of them says so when a text of the user's needs it.
        let tokens = |text| self.encode(text).ok().filter(|tokens| !tokens.is_empty());
        let (text, plain) = PROBES.into_iter().find_map(|text| Some((text, tokens(text)?)))?;
        let whole = guarded(&self.path, "cannot encode", || self.inner.encode_fast(text, true)).ok()?;
        let before = whole.get_ids().windows(plain.len()).position(|part| part == plain)?;
        whole.get_ids().first().copied().filter(|_| before > 0)
    }

    /// The file this tokenizer came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Token ids of `text`, without any special token that the text does not spell.
    ///
    /// # Errors
    /// The tokenizer cannot encode the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = guarded(&self.path, &format!("cannot encode {text:?}"), || self.inner.encode_fast(text, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `tokens`, special tokens included.
    ///
    /// # Errors
    /// The tokenizer cannot decode them.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, ModelError> {
        guarded(&self.path, &format!("cannot decode {tokens:?}"), || self.inner.decode(tokens, false))
    }
}

/// What the tokenizers library returns, its errors and its panics under the name of the file that they come from.
fn guarded<T>(path: &Path, what: &str, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, ModelError> {
    let error = |reason: String| ModelError::Tokenizer { path: path.into(), message: format!("{what}: {reason}") };
    match quietly(work) {
        Ok(result) => result.map_err(|reason| error(reason.to_string())),
        Err(panic) => Err(error(format!("the tokenizers library stopped with `{panic}`"))),
    }
}
