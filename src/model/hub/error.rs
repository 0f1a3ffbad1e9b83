//! What can go wrong between here and the Hub.

use std::path::PathBuf;
use std::time::Duration;

/// Every variant names the repository or address, the file, and what to do where something can be done.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The files are not in the cache, and the network may not be used.
    #[error(
        "{repo} at {revision}: {file} is not in the cache folder {} and HF_HUB_OFFLINE is set; unset it, or copy the \
         repository's cache folder there",
        cache.display()
    )]
    Offline {
        /// The repository.
        repo: String,
        /// The branch, tag or commit.
        revision: String,
        /// The first file that is missing.
        file: String,
        /// The cache folder.
        cache: PathBuf,
    },
    /// A file in the cache is damaged, and the network may not be used.
    #[error(
        "{}: damaged: expected {expected}, found {found}; HF_HUB_OFFLINE is set: unset it and the file is fetched \
         again, or copy it from another cache folder",
        path.display()
    )]
    DamagedOffline {
        /// The file.
        path: PathBuf,
        /// The hash that its name in the cache is.
        expected: String,
        /// The one that it has.
        found: String,
    },
    /// The Hub answered 401 or 403.
    #[error(
        "{url}: access denied (HTTP {status}); check the model's name and HF_TOKEN, and accept a gated model's \
         conditions on its page with the token's account"
    )]
    Denied {
        /// The address.
        url: String,
        /// 401 or 403.
        status: u16,
    },
    /// The Hub answered 404.
    #[error("{repo} at {revision}: no {file} (HTTP 404 from {url}); check the name and the revision")]
    NotFound {
        /// The address.
        url: String,
        /// The repository.
        repo: String,
        /// The branch, tag or commit.
        revision: String,
        /// The file.
        file: String,
    },
    /// The repository has weights, but only in a format that this program does not read.
    #[error(
        "{repo} at {revision}: has {found} but no model.safetensors; convert it in Python: \
         AutoModelForCausalLM.from_pretrained(\"{repo}\").save_pretrained(folder, safe_serialization=True) and the same \
         for AutoTokenizer, then give the folder"
    )]
    NoSafetensors {
        /// The repository.
        repo: String,
        /// The branch, tag or commit.
        revision: String,
        /// The file there is.
        found: String,
    },
    /// The repository has several models in one file each, and nothing that says which one is meant.
    #[error(
        "{repo} at {revision}: holds no model.safetensors but several GGUF files: {}; download one and give its path",
        files.join(", ")
    )]
    SeveralGguf {
        /// The repository.
        repo: String,
        /// The branch, tag or commit.
        revision: String,
        /// The files.
        files: Vec<String>,
    },
    /// The Hub answered with another error, or without what is needed to file its answer in the cache.
    #[error("{url}: unexpected answer: {reason}")]
    Answer {
        /// The address.
        url: String,
        /// What was expected or found.
        reason: String,
    },
    /// The Hub asks for a longer wait than is allowed ([`Limits::longest_wait`](super::Limits::longest_wait)).
    #[error(
        "{url}: HTTP {status}, and asks to wait {} (Retry-After), more than the {} that are waited; try again then, or \
         with a token (HF_TOKEN), of which the Hub takes more requests",
        humantime::format_duration(*asked),
        humantime::format_duration(*longest)
    )]
    Pause {
        /// The address.
        url: String,
        /// 429, or another status that may pass.
        status: u16,
        /// The wait that it asks for.
        asked: Duration,
        /// The longest one allowed.
        longest: Duration,
    },
    /// A file is larger than one of its kind may be ([`Limits`](super::Limits)).
    #[error("{url}: too large: expected at most {largest} bytes, found {found}")]
    TooLarge {
        /// The address.
        url: String,
        /// The size that the Hub announced.
        found: u64,
        /// The largest one allowed.
        largest: u64,
    },
    /// A setting that nothing can be asked with.
    #[error("{name}: expected {expected}, found {found}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// What would do.
        expected: &'static str,
        /// What there is, without secrets.
        found: String,
    },
    /// No answer: the name does not resolve, the connection is refused.
    #[error("{url}: cannot be reached: {reason} (HF_ENDPOINT sets another address, HTTPS_PROXY a proxy)")]
    Unreachable {
        /// The address.
        url: String,
        /// Why.
        reason: String,
    },
    /// The connection ended before the file did. What arrived is kept and the next attempt goes on from there.
    #[error("{url}: incomplete: expected {expected} bytes, received {found} ({reason}); try again to continue")]
    Incomplete {
        /// The address.
        url: String,
        /// The size that the Hub announced.
        expected: u64,
        /// The bytes there are.
        found: u64,
        /// Why.
        reason: String,
    },
    /// The file's bytes are not those that the Hub has.
    #[error("{url}: damaged: expected {expected}, found {found}; what was received is deleted, try again")]
    Damaged {
        /// The address.
        url: String,
        /// The size or hash that the Hub announced.
        expected: String,
        /// That of what arrived.
        found: String,
    },
    /// The cache folder cannot be read or written.
    #[error("{path}: {source}")]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
