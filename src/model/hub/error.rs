//! What can go wrong between here and the Hub.

use std::path::PathBuf;

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
    /// The Hub answered 401 or 403.
    #[error("{url}: access denied (HTTP {status}{detail}); {hint}")]
    Denied {
        /// The address.
        url: String,
        /// 401 or 403.
        status: u16,
        /// The Hub's own words, if any.
        detail: String,
        /// What to do.
        hint: &'static str,
    },
    /// The Hub answered 404.
    #[error("{url}: not found (HTTP 404{detail}); check the name {repo}, the revision {revision} and the file {file}")]
    NotFound {
        /// The address.
        url: String,
        /// The Hub's own words, if any.
        detail: String,
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
    /// The Hub answered with another error.
    #[error("{url}: unexpected answer: HTTP {status}{detail}")]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: u16,
        /// The Hub's own words, if any.
        detail: String,
    },
    /// The Hub's answer lacks what is needed to file it, or would be filed outside the cache.
    #[error("{url}: header {header}: expected {expected}, found {found:?}")]
    Header {
        /// The address.
        url: String,
        /// The header.
        header: &'static str,
        /// What it should hold.
        expected: &'static str,
        /// What it holds.
        found: String,
    },
    /// No answer: the name does not resolve, the connection is refused, a time-out.
    #[error("{url}: cannot be reached: {reason} (HF_ENDPOINT sets another address, HTTPS_PROXY a proxy)")]
    Unreachable {
        /// The address.
        url: String,
        /// Why.
        reason: String,
    },
    /// The connection ended before the file did. What arrived is kept and the next attempt goes on from there.
    #[error("{url}: incomplete: expected {expected} bytes, received {found}{reason}; try again to continue")]
    Incomplete {
        /// The address.
        url: String,
        /// The size that the Hub announced.
        expected: u64,
        /// The bytes there are.
        found: u64,
        /// Why, if known.
        reason: String,
    },
    /// The file's bytes are not those that the Hub has.
    #[error("{url}: damaged: expected SHA-256 {expected}, found {found}; what was received is deleted, try again")]
    Checksum {
        /// The address.
        url: String,
        /// The hash that the Hub announced.
        expected: String,
        /// The hash of what arrived.
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
