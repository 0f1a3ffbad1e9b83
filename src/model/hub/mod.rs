//! Models from the Hugging Face Hub: looked up in the shared cache first, downloaded into it otherwise.

mod download;
mod error;
mod settings;

pub use error::HubError;
pub use settings::{HubSettings, Token};

use super::names::is_commit;
use super::tensors::{INDEX, SINGLE, shard_names};
use download::Download;
use hf_hub::{Cache, Repo, RepoType};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The weights' names in the format that is not read here.
const PICKLED: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Small files that name special tokens; a repository may lack any of them.
const TOKEN_FILES: [&str; 3] = ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];

/// What stands in for a missing `tokenizer.json`.
const BARE_TOKENIZER: [&str; 2] = ["vocab.json", "merges.txt"];

/// Which of a repository's files are needed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// `config.json` and the weights.
    pub weights: bool,
    /// `tokenizer.json`.
    pub tokenizer: bool,
}

/// A repository's files at one commit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The folder with the files.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
}

/// The files of `repo` at `revision`. A complete snapshot in the cache needs no network; else what is missing is
/// downloaded, all of it from the one commit that `revision` stands for now.
///
/// # Errors
/// The network may not be used or fails, the Hub refuses, or the cache cannot be written.
pub(crate) fn snapshot(
    settings: &HubSettings,
    repo: &str,
    revision: &str,
    wanted: Wanted,
) -> Result<Snapshot, HubError> {
    let in_cache = |source| HubError::Cache { path: settings.cache.clone(), source };
    // hf-hub links files by paths that have to be absolute.
    let cache = Cache::new(std::path::absolute(&settings.cache).map_err(in_cache)?);
    let handle = Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned());
    let file = match cached(&cache, &handle, wanted) {
        Ok(snapshot) => return Ok(snapshot),
        Err(file) => file,
    };
    if settings.offline {
        let (repo, revision, cache) = (repo.to_owned(), revision.to_owned(), settings.cache.clone());
        return Err(HubError::Offline { repo, revision, file, cache });
    }
    let _lock = lock(&cache.path().join(".locks").join(handle.folder_name()))?;
    // Another process may have brought the files while this one waited.
    if let Ok(snapshot) = cached(&cache, &handle, wanted) {
        return Ok(snapshot);
    }
    let download = Download::start(settings, &cache, repo, revision, first(wanted))?;
    bring(&download, repo, wanted)?;
    cache.repo(handle).create_ref(download.commit()).map_err(in_cache)?;
    Ok(Snapshot { folder: download.folder(), commit: download.commit().to_owned() })
}

/// A file that the repository must have.
fn first(wanted: Wanted) -> &'static str {
    if wanted.weights { "config.json" } else { "tokenizer.json" }
}

/// The complete snapshot in the cache, or the first file that it lacks.
fn cached(cache: &Cache, handle: &Repo, wanted: Wanted) -> Result<Snapshot, String> {
    let files = cache.repo(handle.clone());
    let folder = if is_commit(handle.revision()) {
        Some(files.pointer_path(handle.revision()))
    } else {
        files.get(first(wanted)).and_then(|path| path.parent().map(Path::to_path_buf))
    };
    let commit = folder.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    match (folder, commit.filter(|name| is_commit(name))) {
        (Some(folder), Some(commit)) => match missing(&folder, wanted) {
            None => Ok(Snapshot { folder, commit }),
            Some(file) => Err(file),
        },
        _ => Err(first(wanted).to_owned()),
    }
}

/// The first file that a snapshot lacks.
fn missing(folder: &Path, wanted: Wanted) -> Option<String> {
    let lacks = |name: &str| !folder.join(name).is_file();
    if wanted.weights && lacks("config.json") {
        return Some("config.json".to_owned());
    }
    if wanted.tokenizer && lacks("tokenizer.json") && BARE_TOKENIZER.into_iter().any(lacks) {
        return Some("tokenizer.json".to_owned());
    }
    if !wanted.weights || !lacks(SINGLE) {
        return None;
    }
    if lacks(INDEX) {
        return Some(SINGLE.to_owned());
    }
    match shard_names(&folder.join(INDEX)) {
        Ok(shards) => shards.into_iter().find(|shard| lacks(shard)),
        // A damaged index counts as there: reading the folder names what is wrong with it.
        Err(_) => None,
    }
}

/// Waits until no other process downloads the same repository. hf-hub has a lock as well, but gives up after seconds.
fn lock(folder: &Path) -> Result<File, HubError> {
    let error = |source| HubError::Cache { path: folder.into(), source };
    fs::create_dir_all(folder).map_err(error)?;
    let file = File::create(folder.join("actpatch.lock")).map_err(error)?;
    file.lock().map_err(error)?;
    Ok(file)
}

/// Brings the tokenizer, or the vocabulary and merges that it can be made from, and the files that name special tokens.
fn bring_tokenizer(download: &Download<'_>) -> Result<(), HubError> {
    if let Err(absent) = download.required("tokenizer.json") {
        let bare = matches!(absent, HubError::NotFound { .. })
            && BARE_TOKENIZER
                .into_iter()
                .try_fold(true, |all, file| Ok::<_, HubError>(all && download.optional(file)?))?;
        if !bare {
            return Err(absent);
        }
    }
    TOKEN_FILES.into_iter().try_for_each(|file| download.optional(file).map(drop))
}

/// Brings all wanted files.
fn bring(download: &Download<'_>, repo: &str, wanted: Wanted) -> Result<(), HubError> {
    if wanted.weights {
        download.required(first(wanted))?;
    } else {
        // The configuration tells the tokenizer's BOS id, but a tokenizer can do without.
        download.optional("config.json")?;
    }
    if wanted.tokenizer {
        bring_tokenizer(download)?;
    }
    if !wanted.weights {
        return Ok(());
    }
    // Another name of a commit whose shards are all there.
    if missing(&download.folder(), wanted).is_none() {
        return Ok(());
    }
    let absent = match download.required(SINGLE) {
        Err(absent @ HubError::NotFound { .. }) => absent,
        other => return other,
    };
    if !download.optional(INDEX)? {
        for file in PICKLED {
            if download.exists(file)? {
                let (repo, revision) = (repo.to_owned(), download.commit().to_owned());
                return Err(HubError::NoSafetensors { repo, revision, found: file.to_owned() });
            }
        }
        return Err(absent);
    }
    let index = download.folder().join(INDEX);
    let shards = shard_names(&index).map_err(|error| HubError::Cache {
        path: index,
        source: io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
    })?;
    shards.iter().try_for_each(|shard| download.required(shard))
}
