//! Models from the Hugging Face Hub: looked up in the shared cache first, downloaded into it otherwise.

pub(crate) mod address;
mod cache;
mod download;
mod error;
pub(crate) mod failure;
mod integrity;
mod retry;
mod settings;
pub(crate) mod transport;
mod wire;

pub(crate) use cache::lock;
pub use error::HubError;
pub use settings::{HubSettings, Limits, Observer, Progress, Token};

use super::gguf;
use super::tensors::{INDEX, SINGLE, has_weights, shard_names};
use cache::CachedRepo;
use download::Download;
use integrity::{Damage, compare_blob};
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
    /// `tokenizer.json`. With neither of them `config.json` alone.
    pub tokenizer: bool,
}

impl Wanted {
    /// Must `config.json` be there? A tokenizer can do without.
    fn config(self) -> bool {
        self.weights || !self.tokenizer
    }
}

/// A repository's files at one commit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The folder with the files.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
}

/// The files of `repo` at `revision`. A complete and undamaged snapshot in the cache needs no network; else what is
/// missing or damaged is downloaded, all of it from the one commit that `revision` stands for now.
///
/// # Errors
/// The network may not be used or fails, the Hub refuses, or the cache cannot be written.
pub(crate) fn snapshot(
    settings: &HubSettings,
    repo: &str,
    revision: &str,
    wanted: Wanted,
) -> Result<Snapshot, HubError> {
    let cache = CachedRepo::new(&settings.cache, repo);
    let gap = match cached(&cache, revision, wanted, settings.offline) {
        Ok(snapshot) => return Ok(snapshot),
        Err(gap) => gap,
    };
    if settings.offline {
        let (repo, revision, cache) = (repo.to_owned(), revision.to_owned(), settings.cache.clone());
        return Err(match gap {
            Gap::Missing(file) => HubError::Offline { repo, revision, file, cache },
            Gap::Damaged(path, Damage { expected, found }) => HubError::DamagedOffline { path, expected, found },
            Gap::Unreadable(path, source) => HubError::Cache { path, source },
        });
    }
    let download = match Download::start(settings, &cache, repo, revision, first(wanted)) {
        Err(absent @ HubError::NotFound { .. }) if wanted.weights => {
            // A repository of models in one file each has no configuration.
            let Ok((download, files)) = Download::listed(settings, &cache, repo, revision) else { return Err(absent) };
            if !bring_gguf(&download, repo, &files)? {
                return Err(absent);
            }
            download
        }
        download => {
            let download = download?;
            bring(&cache, &download, repo, wanted)?;
            download
        }
    };
    cache.note_commit(revision, download.commit())?;
    Ok(Snapshot { folder: download.folder(), commit: download.commit().to_owned() })
}

/// Why a snapshot in the cache will not do.
enum Gap {
    /// It lacks this file.
    Missing(String),
    /// This file is damaged.
    Damaged(PathBuf, Damage),
    /// This file cannot be read.
    Unreadable(PathBuf, io::Error),
}

/// A file that the repository must have.
fn first(wanted: Wanted) -> &'static str {
    if wanted.config() { "config.json" } else { "tokenizer.json" }
}

/// The complete and undamaged snapshot in the cache.
fn cached(cache: &CachedRepo, revision: &str, wanted: Wanted, offline: bool) -> Result<Snapshot, Gap> {
    let commit = cache.commit_of(revision).ok_or_else(|| Gap::Missing(first(wanted).to_owned()))?;
    whole(cache, &commit, wanted, offline)?;
    Ok(Snapshot { folder: cache.snapshot(&commit), commit })
}

/// Is everything that is wanted in the snapshot of a commit, and undamaged?
fn whole(cache: &CachedRepo, commit: &str, wanted: Wanted, offline: bool) -> Result<(), Gap> {
    let folder = cache.snapshot(commit);
    let names = match wanted.weights.then(|| cached_gguf(cache, commit, offline)).flatten() {
        Some(file) => gguf::parts_of(&file).into_iter().map(|name| there(&folder, name)).collect(),
        None => files(&folder, wanted),
    };
    for name in names.map_err(Gap::Missing)? {
        let path = folder.join(name);
        match compare_blob(&path) {
            Ok(None) => {}
            Ok(Some(damage)) => return Err(Gap::Damaged(path, damage)),
            Err(error) => return Err(Gap::Unreadable(path, error)),
        }
    }
    Ok(())
}

/// The GGUF file that a commit's weights are, if it has no others. Another tool may have brought one from a repository
/// with both: then those in the other format are wanted, but without a network this one will do.
fn cached_gguf(cache: &CachedRepo, commit: &str, offline: bool) -> Option<PathBuf> {
    let folder = cache.snapshot(commit);
    let file = gguf::in_folder(&folder).ok().flatten().filter(|_| !has_weights(&folder))?;
    let alone = [SINGLE, INDEX].iter().all(|name| cache.is_absent(commit, name));
    if offline && !alone {
        tracing::warn!(
            "{}: taken as the model's weights, because there is nothing else in the cache; whether its repository has \
             {SINGLE} is not known offline",
            file.display()
        );
    }
    (alone || offline).then_some(file)
}

/// The name of a file in a folder; as an error where there is none.
fn there(folder: &Path, name: String) -> Result<String, String> {
    if folder.join(&name).is_file() { Ok(name) } else { Err(name) }
}

/// The names of a snapshot's wanted files, or of the first one that it lacks.
fn files(folder: &Path, wanted: Wanted) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    let there = |name: String| there(folder, name);
    if wanted.config() {
        names.push(there("config.json".to_owned())?);
    }
    if wanted.tokenizer {
        let bare = || BARE_TOKENIZER.into_iter().map(|name| there(name.to_owned())).collect::<Result<Vec<_>, _>>();
        match (there("tokenizer.json".to_owned()), bare()) {
            (Ok(tokenizer), _) => names.push(tokenizer),
            (Err(_), Ok(files)) => names.extend(files),
            (Err(tokenizer), Err(_)) => return Err(tokenizer),
        }
        names.extend(TOKEN_FILES.into_iter().filter_map(|name| there(name.to_owned()).ok()));
    }
    if !wanted.weights {
        return Ok(names);
    }
    if let Ok(single) = there(SINGLE.to_owned()) {
        names.push(single);
        return Ok(names);
    }
    names.push(there(INDEX.to_owned()).map_err(|_| SINGLE.to_owned())?);
    // An index that cannot be read counts as there: its hash, or reading the folder, names what is wrong with it.
    for shard in shard_names(&folder.join(INDEX)).unwrap_or_default() {
        names.push(there(shard)?);
    }
    Ok(names)
}

/// Brings the tokenizer, or the vocabulary and merges that it can be made from, and the files that name special tokens.
/// The latter come first: a folder with a tokenizer has all of them that there are.
fn bring_tokenizer(download: &Download<'_>) -> Result<(), HubError> {
    TOKEN_FILES.into_iter().try_for_each(|file| download.optional(file).map(drop))?;
    if let Err(absent) = download.required("tokenizer.json") {
        let bare = matches!(absent, HubError::NotFound { .. })
            && BARE_TOKENIZER
                .into_iter()
                .try_fold(true, |all, file| Ok::<_, HubError>(all && download.optional(file)?))?;
        if !bare {
            return Err(absent);
        }
    }
    Ok(())
}

/// Brings the model in one file, or in the parts of one, that a repository with these files has; says whether there is one.
/// That it has no other weights is noted, so that the next load needs no network.
fn bring_gguf(download: &Download<'_>, repo: &str, names: &[String]) -> Result<bool, HubError> {
    let files: Vec<String> = names.iter().filter(|name| gguf::is_gguf(Path::new(name))).cloned().collect();
    match gguf::the_one(&files) {
        Ok(None) => Ok(false),
        Ok(Some(file)) => {
            gguf::parts_of(Path::new(file)).iter().try_for_each(|part| download.required(part))?;
            let mut absent = [SINGLE, INDEX].into_iter().filter(|name| !names.iter().any(|known| known == name));
            absent.try_for_each(|name| download.note_absent(name))?;
            Ok(true)
        }
        Err(_) => {
            let (repo, revision) = (repo.to_owned(), download.commit().to_owned());
            Err(HubError::SeveralGguf { repo, revision, files })
        }
    }
}

/// The same of a repository whose files are not known. A Hub that does not list them has none.
fn bring_listed_gguf(download: &Download<'_>, repo: &str) -> Result<bool, HubError> {
    match download.list() {
        Ok((_, files)) => bring_gguf(download, repo, &files),
        Err(_) => Ok(false),
    }
}

/// Brings all wanted files.
fn bring(cache: &CachedRepo, download: &Download<'_>, repo: &str, wanted: Wanted) -> Result<(), HubError> {
    if wanted.config() {
        download.required(first(wanted))?;
    } else {
        // The configuration tells the tokenizer's BOS id.
        download.optional("config.json")?;
    }
    // Another name of a commit whose files are all there.
    if whole(cache, download.commit(), wanted, false).is_ok() {
        return Ok(());
    }
    if wanted.tokenizer
        && let Err(absent) = bring_tokenizer(download)
    {
        // A model in one file needs no other for its tokenizer.
        let alone = wanted.weights && matches!(absent, HubError::NotFound { .. });
        let other = || Ok::<_, HubError>(download.exists(SINGLE)? || download.exists(INDEX)?);
        return if alone && !other()? && bring_listed_gguf(download, repo)? { Ok(()) } else { Err(absent) };
    }
    if !wanted.weights {
        return Ok(());
    }
    let absent = match download.required(SINGLE) {
        Err(absent @ HubError::NotFound { .. }) => absent,
        other => return other,
    };
    if !download.optional(INDEX)? {
        if bring_listed_gguf(download, repo)? {
            return Ok(());
        }
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
