//! What a user may call a model, and what its results are filed under.

use super::{ModelError, gguf, shapes};
use crate::choice::{nearest_of, suggestion};
use std::path::{Path, PathBuf};

/// Short names of published models and the repositories that hold them.
const ALIASES: [(&str, &str); 33] = [
    ("gpt2", "openai-community/gpt2"),
    ("gpt2-small", "openai-community/gpt2"),
    ("gpt2-medium", "openai-community/gpt2-medium"),
    ("gpt2-large", "openai-community/gpt2-large"),
    ("gpt2-xl", "openai-community/gpt2-xl"),
    ("pythia-14m", "EleutherAI/pythia-14m"),
    ("pythia-31m", "EleutherAI/pythia-31m"),
    ("pythia-70m", "EleutherAI/pythia-70m"),
    ("pythia-160m", "EleutherAI/pythia-160m"),
    ("pythia-410m", "EleutherAI/pythia-410m"),
    ("pythia-1b", "EleutherAI/pythia-1b"),
    ("pythia-1.4b", "EleutherAI/pythia-1.4b"),
    ("pythia-2.8b", "EleutherAI/pythia-2.8b"),
    ("pythia-6.9b", "EleutherAI/pythia-6.9b"),
    ("pythia-12b", "EleutherAI/pythia-12b"),
    ("stablelm-base-alpha-3b", "stabilityai/stablelm-base-alpha-3b"),
    ("stablelm-base-alpha-7b", "stabilityai/stablelm-base-alpha-7b"),
    ("stablelm-3b", "stabilityai/stablelm-base-alpha-3b"),
    ("stablelm-7b", "stabilityai/stablelm-base-alpha-7b"),
    ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
    ("mistral-7b-v0.1", "mistralai/Mistral-7B-v0.1"),
    ("llama-2-7b", "meta-llama/Llama-2-7b-hf"),
    ("llama-3-8b", "meta-llama/Meta-Llama-3-8B"),
    ("llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
    ("llama-3.2-1b", "meta-llama/Llama-3.2-1B"),
    ("llama-3.2-3b", "meta-llama/Llama-3.2-3B"),
    ("qwen2-0.5b", "Qwen/Qwen2-0.5B"),
    ("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B"),
    ("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B"),
    ("qwen2.5-7b", "Qwen/Qwen2.5-7B"),
    ("qwen3-0.6b", "Qwen/Qwen3-0.6B-Base"),
    ("qwen3-1.7b", "Qwen/Qwen3-1.7B-Base"),
    ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
];

/// Where a model is to come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// The model that is part of the program.
    Demo,
    /// A folder on disk.
    Folder(PathBuf),
    /// A GGUF file on disk.
    File(PathBuf),
    /// A repository on the Hub, at a branch, tag or commit.
    Hub {
        /// `organisation/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// Random weights in the shape of a published model.
    Random {
        /// The shape's name.
        alias: String,
    },
}

/// A model's place and the folder name of its results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// Where it comes from.
    pub place: Place,
    /// What its results are filed under.
    pub name: String,
}

/// Reads a model's name: `demo`, `random:<alias>`, an alias, a folder, a GGUF file, or `organisation/name`, the last two kinds of
/// Hub names with `@revision` if wished. An alias wins over a folder of the same name: write `./gpt2` for the folder.
/// Behind `NAME=` it is the same model, filed under that name.
pub(crate) fn parse(spec: &str, revision: Option<&str>) -> Result<Named, ModelError> {
    let named = match spec.split_once('=') {
        Some((name, model)) if is_name(name) && !Path::new(spec).exists() => {
            Ok(Named { name: name.to_owned(), ..unnamed(model, revision)? })
        }
        _ => unnamed(spec, revision),
    };
    let named = named.and_then(|named| checked(spec, named))?;
    match (&named.place, revision) {
        (Place::Hub { .. }, _) | (_, None) => Ok(named),
        (_, Some(revision)) => {
            let message = format!("has no revision `{revision}`: it is no model of the Hub");
            Err(ModelError::Name { spec: spec.to_owned(), message })
        }
    }
}

/// Refuses a name that results cannot be filed under: a folder may be called anything, a revision may be long.
fn checked(spec: &str, named: Named) -> Result<Named, ModelError> {
    let is_taken = TAKEN.iter().any(|taken| named.name.eq_ignore_ascii_case(taken));
    if named.name.len() <= LONGEST_NAME && !named.name.chars().any(char::is_control) && !is_taken {
        return Ok(named);
    }
    let spec = spec.escape_debug().to_string();
    let message = format!(
        "results cannot be filed under {:?} (at most {LONGEST_NAME} bytes, no control characters, not {}); another NAME= in \
         front files them under another name",
        named.name,
        TAKEN.join(" or ")
    );
    Err(ModelError::Name { spec, message })
}

/// What else lies in a folder of results.
const TAKEN: [&str; 2] = ["figures", "index.html"];

/// Longest name that results are filed under, in bytes: it is the name of a folder.
const LONGEST_NAME: usize = 200;

/// What results can be filed under: letters, digits, `_`, `-` and `.`, which does not come first.
fn is_name(name: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
    !name.is_empty() && name.len() <= LONGEST_NAME && !name.starts_with('.') && name.chars().all(plain)
}

/// A name without a name for the results in front.
fn unnamed(spec: &str, revision: Option<&str>) -> Result<Named, ModelError> {
    let error = |message: String| ModelError::Name { spec: spec.to_owned(), message };
    if spec == "demo" {
        return Ok(Named { place: Place::Demo, name: "demo".to_owned() });
    }
    if let Some(alias) = spec.strip_prefix("random:") {
        let alias = if alias == "gpt2" { "gpt2-small" } else { alias };
        if !shapes::aliases().any(|known| known == alias) {
            let known: Vec<&str> = shapes::aliases().collect();
            return Err(error(format!("no shape called `{alias}`; there are {}", known.join(", "))));
        }
        return Ok(Named { place: Place::Random { alias: alias.to_owned() }, name: format!("random-{alias}") });
    }
    let (id, pinned) = match spec.split_once('@') {
        Some((id, pinned)) if !Path::new(spec).is_dir() => (id, Some(pinned)),
        _ => (spec, None),
    };
    if let (Some(pinned), Some(revision)) = (pinned, revision)
        && pinned != revision
    {
        return Err(error(format!("asks for revision `{pinned}`, but the options ask for `{revision}`")));
    }
    let revision = pinned.or(revision).unwrap_or("main");
    if let Some((_, repo)) = ALIASES.iter().find(|(alias, _)| *alias == id) {
        return hub(repo, revision).map_err(error);
    }
    if pinned.is_none() && Path::new(spec).is_dir() {
        return folder(spec);
    }
    if gguf::is_gguf(Path::new(spec)) {
        return file(spec);
    }
    if pinned.is_none() && Path::new(spec).is_file() {
        return Err(error("a file that is no .gguf file: a model of several files is named by its folder".to_owned()));
    }
    if id.split('/').count() == 2 && !id.starts_with(['.', '/', '~']) {
        return hub(id, revision).map_err(error);
    }
    let aliases: Vec<&str> = ALIASES.iter().map(|(alias, _)| *alias).collect();
    Err(error(format!(
        "not a folder, not a GGUF file, not a Hub id (organisation/name[@revision]), not `demo`, not `random:<alias>` \
         and none of the aliases {}{}",
        aliases.join(", "),
        suggestion(nearest_of(id, aliases.iter().copied()).first().copied())
    )))
}

/// The short names of a repository.
pub(crate) fn aliases_of(repo: &str) -> impl Iterator<Item = &'static str> {
    ALIASES.iter().filter(move |(_, known)| *known == repo).map(|(alias, _)| *alias)
}

fn hub(repo: &str, revision: &str) -> Result<Named, String> {
    if !is_repo(repo) {
        return Err("a Hub id is organisation/name, of letters, digits, `-`, `_` and `.`".to_owned());
    }
    if !is_revision(revision) {
        return Err(format!("`{revision}` cannot be a revision: expected a branch, a tag or a commit"));
    }
    let bare = repo.rsplit('/').next().unwrap_or(repo);
    let mut name = results_name(bare);
    // Checkpoints of a training run are different models; a pinned commit is the same one, made sure of.
    if revision != "main" && !is_commit(revision) {
        name = format!("{name}@{}", revision.replace('/', "-"));
    }
    Ok(Named { place: Place::Hub { repo: repo.to_owned(), revision: revision.to_owned() }, name })
}

fn folder(spec: &str) -> Result<Named, ModelError> {
    let path = std::fs::canonicalize(spec).map_err(|source| ModelError::Io { path: spec.into(), source })?;
    let own = || path.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
    let name = snapshot_of(&path).unwrap_or_else(own);
    Ok(Named { place: Place::Folder(path), name: results_name(&name) })
}

/// The model's name where a folder is a snapshot in a cache of the Hub, `models--organisation--name/snapshots/<commit>`:
/// filed as the same model from the Hub is.
fn snapshot_of(path: &Path) -> Option<String> {
    let part = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let snapshots = path.parent().filter(|parent| part(parent).as_deref() == Some("snapshots"))?;
    let repo = part(snapshots.parent()?)?;
    let repo = repo.strip_prefix("models--").filter(|_| part(path).is_some_and(|commit| is_commit(&commit)))?;
    let bare = repo.rsplit("--").next().filter(|bare| is_name(bare))?;
    Some(bare.to_owned())
}

/// A model in one file is filed under that file's name.
fn file(spec: &str) -> Result<Named, ModelError> {
    let io = |source| ModelError::Io { path: spec.into(), source };
    // Links are not followed: a cache may link to files of other names, beside which there are no further parts.
    std::fs::metadata(spec).map_err(io)?;
    let path = std::path::absolute(spec).map_err(io)?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    // A name of nothing but points would lead elsewhere.
    let name = stem.filter(|stem| stem.chars().any(|letter| letter != '.')).unwrap_or_else(|| "model".to_owned());
    Ok(Named { place: Place::File(path), name })
}

/// The Hub's `gpt2` is filed as `gpt2-small`, as the paper's data are.
fn results_name(name: &str) -> String {
    if name == "gpt2" { "gpt2-small".to_owned() } else { name.to_owned() }
}

/// Is this `organisation/name` (or an old repository's bare `name`), safe as a part of a path and of a URL?
pub(crate) fn is_repo(repo: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    repo.split('/').count() <= 2 && repo.split('/').all(plain)
}

/// Is this safe as a branch, tag or commit in a path and in a URL?
pub(crate) fn is_revision(revision: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(is_revision_character);
    revision.split('/').all(plain)
}

fn is_revision_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.+".contains(c)
}

/// Is this a full commit hash?
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.chars().all(|c| c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub_of(spec: &str, revision: Option<&str>) -> (String, String, String) {
        let named = parse(spec, revision).unwrap();
        let Place::Hub { repo, revision } = named.place else { panic!("{spec} is not on the Hub: {named:?}") };
        (repo, revision, named.name)
    }

    fn owned(repo: &str, revision: &str, name: &str) -> (String, String, String) {
        (repo.to_owned(), revision.to_owned(), name.to_owned())
    }

    #[test]
    fn hub_names() {
        assert_eq!(hub_of("gpt2", None), owned("openai-community/gpt2", "main", "gpt2-small"));
        assert_eq!(hub_of("gpt2-small", None), owned("openai-community/gpt2", "main", "gpt2-small"));
        assert_eq!(hub_of("openai-community/gpt2", None), owned("openai-community/gpt2", "main", "gpt2-small"));
        assert_eq!(hub_of("pythia-1.4b", None), owned("EleutherAI/pythia-1.4b", "main", "pythia-1.4b"));
        assert_eq!(
            hub_of("stablelm-base-alpha-3b", None),
            owned("stabilityai/stablelm-base-alpha-3b", "main", "stablelm-base-alpha-3b")
        );
        assert_eq!(hub_of("mistral-7b", None), owned("mistralai/Mistral-7B-v0.1", "main", "Mistral-7B-v0.1"));
        assert_eq!(hub_of("a/b@step1000", None), owned("a/b", "step1000", "b@step1000"));
        assert_eq!(hub_of("pythia-70m@step1", None).0, "EleutherAI/pythia-70m");
        assert_eq!(hub_of("a/b", Some("refs/pr/1")), owned("a/b", "refs/pr/1", "b@refs-pr-1"));
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(hub_of("a/b", Some(commit)), owned("a/b", commit, "b"));
    }

    #[test]
    fn names_that_mean_nothing_are_explained() {
        for (spec, revision, part) in [
            ("gpt3", None, "gpt2-medium"),
            ("random:gpt3", None, "mistral-7b"),
            ("../etc/passwd", None, "not a folder"),
            ("a/..", None, "organisation/name"),
            ("a/b@x/../y", None, "revision"),
            ("a/b@v1", Some("v2"), "`v1`"),
            ("demo", Some("v2"), "no revision `v2`"),
            ("", None, "aliases"),
        ] {
            let message = parse(spec, revision).unwrap_err().to_string();
            assert!(message.contains(part), "{spec}: {message}");
        }
    }

    #[test]
    fn folders_are_known_by_their_last_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gpt2");
        std::fs::create_dir(&path).unwrap();
        let named = parse(path.to_str().unwrap(), None).unwrap();
        assert_eq!(named.name, "gpt2-small");
        assert!(matches!(named.place, Place::Folder(_)));
    }

    #[test]
    fn snapshots_of_the_hubs_cache_are_known_by_their_repository() {
        let cache = tempfile::tempdir().unwrap();
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let name_of = |folder: &str| {
            let path = cache.path().join(folder);
            std::fs::create_dir_all(&path).unwrap();
            parse(path.to_str().unwrap(), None).unwrap().name
        };
        for (repo, name) in [
            ("EleutherAI--pythia-1.4b", "pythia-1.4b"),
            ("gpt2", "gpt2-small"),
            ("openai-community--gpt2", "gpt2-small"),
        ] {
            assert_eq!(name_of(&format!("models--{repo}/snapshots/{commit}")), name);
        }
        // Other folders of these names are what they are called.
        for folder in [format!("models--a--b/{commit}"), format!("a--b/snapshots/{commit}")] {
            assert_eq!(name_of(&folder), commit);
        }
        assert_eq!(name_of("models--a--b/snapshots/main"), "main");
    }

    #[test]
    fn files_are_known_by_their_names_without_the_ending() {
        let folder = tempfile::tempdir().unwrap();
        for (file, name) in [("SmolLM2.Q4_1.gguf", "SmolLM2.Q4_1"), ("tiny.GGUF", "tiny"), ("...gguf", "model")] {
            let path = folder.path().join(file);
            std::fs::write(&path, "").unwrap();
            let named = parse(path.to_str().unwrap(), None).unwrap();
            assert_eq!((named.name.as_str(), named.place), (name, Place::File(path)));
        }
        assert!(parse("a/none.gguf", None).unwrap_err().to_string().starts_with("a/none.gguf: "));
    }

    #[test]
    fn folders_that_results_cannot_be_called_after_need_a_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in [&"x".repeat(LONGEST_NAME + 1), "a\u{1b}[31m", "a\nb", "figures", "Index.html"] {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            let spec = path.to_str().unwrap();
            let message = parse(spec, None).unwrap_err().to_string();
            assert!(message.contains("NAME=") && !message.contains(['\u{1b}', '\n']), "{message}");
            assert_eq!(parse(&format!("mine={spec}"), None).unwrap().name, "mine");
        }
        assert!(parse("figures=demo", None).unwrap_err().to_string().contains("not figures or index.html"));
        let long = format!("a/b@{}", "x".repeat(LONGEST_NAME));
        assert!(parse(&long, None).unwrap_err().to_string().contains("at most 200"));
        assert!(parse(&format!("{}=demo", "x".repeat(LONGEST_NAME + 1)), None).is_err());
        assert_eq!(parse(&format!("{}=demo", "x".repeat(LONGEST_NAME)), None).unwrap().name.len(), LONGEST_NAME);
    }

    #[test]
    fn every_alias_has_its_memory_documented() {
        let page = include_str!("../../docs/families.md");
        for (alias, repo) in ALIASES {
            let same = |other: &str| ALIASES.iter().any(|(name, place)| *name == other && *place == repo);
            let documented = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
            assert!(documented.map(|(name, _)| name).any(same), "{alias} is not in docs/families.md");
        }
    }

    #[test]
    fn random_shapes() {
        let named = parse("random:gpt2", None).unwrap();
        assert_eq!(
            named,
            Named { place: Place::Random { alias: "gpt2-small".into() }, name: "random-gpt2-small".into() }
        );
    }
}
