//! What the records of a model's folder say: who owns it, what was run, and what results were made of.

use super::files::{Found, Hashes, Listing, minute_of, size};
use crate::model::Source;
use crate::report::pages::{Entry, Grid, Trouble, link};
use crate::report::{ModelRecord, PromptsCount, RunRecord};
use crate::session::{MODEL, Owner, Provenance, Recorded, is_hash, place, shown};
use anyhow::{Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

/// No manifest is larger.
const LARGEST: u64 = 1 << 28;

/// Longest text of a setting.
const LONGEST: usize = 300;

/// The records of a model's folder.
#[derive(Debug, Default)]
pub(super) struct Records {
    owner: Option<Owner>,
    /// The last one comes first.
    runs: Vec<Run>,
    /// What the results in files were made of, by the file.
    made_of: BTreeMap<PathBuf, Provenance>,
    /// What is wrong with a file, by its path below the folder of all results.
    pub wrong: BTreeMap<PathBuf, Trouble>,
}

/// A run, as its manifest tells of it.
#[derive(Debug)]
struct Run {
    record: RunRecord,
    /// The manifest.
    path: PathBuf,
    /// The folder that it tells of, below that of all results.
    folder: PathBuf,
}

impl Run {
    /// Which study it was, and when.
    fn told(&self) -> String {
        format!("{}, {}", self.record.command, minute_of(&self.record.started))
    }
}

impl Records {
    /// Reads the records of a model, which is a folder below `root`.
    pub fn read(root: &Path, model: &str, listing: &Listing, hashes: &Hashes) -> Self {
        let mut records = Self::default();
        match Owner::read(&root.join(model)) {
            Ok(owner) => records.owner = owner,
            Err(error) => {
                let why = format!("nothing says whose folder it is: {error}");
                records.note(Path::new(model).join(MODEL), "damaged", why);
            }
        }
        for folder in listing.manifests(model) {
            records.read_manifests(root, folder);
        }
        records.runs.sort_by(|a, b| b.record.started.cmp(&a.record.started));
        records.look_for_written(root);
        records.read_results(root, model, hashes);
        records
    }

    /// Notes what is wrong with a file; the first fault counts.
    pub fn note(&mut self, path: PathBuf, kind: &'static str, why: String) {
        // What is missing has no address.
        let href = if kind == "missing" { None } else { link(&path) };
        let trouble = Trouble { kind, what: path.display().to_string(), href, why };
        self.wrong.entry(path).or_insert(trouble);
    }

    fn read_manifests(&mut self, root: &Path, folder: &Path) {
        for path in json_files(root, folder) {
            match read_manifest(&root.join(&path)) {
                Ok(record) => {
                    if let Some(why) = self.of_another(&record) {
                        self.note(path.clone(), "other model", why);
                    }
                    let folder = folder.parent().unwrap_or(folder).to_owned();
                    self.runs.push(Run { record, path, folder });
                }
                Err(error) => self.note(path, "damaged", format!("{error:#}")),
            }
        }
    }

    /// Why a run is not of the folder's model, if it is not.
    fn of_another(&self, run: &RunRecord) -> Option<String> {
        let (owner, model) = (self.owner.as_ref()?, run.model.as_ref()?);
        let theirs = &model.provenance;
        let same = match &theirs.source {
            Source::Random { .. } => theirs.source == owner.source,
            _ => theirs.known_by().ok()? == owner.weights,
        };
        (!same).then(|| format!("its run was of {}, the folder is that of {}", place(&theirs.source), owner.asked))
    }

    /// Notes files that a manifest names and that are not there.
    fn look_for_written(&mut self, root: &Path) {
        let mut absent = Vec::new();
        for run in &self.runs {
            for name in run.record.written.keys() {
                match inside(&run.folder, name) {
                    Some(path) if root.join(&path).is_file() => {}
                    Some(path) => absent.push((path, "missing", format!("written by {}, and not there", run.told()))),
                    None => {
                        let why = format!("it names {name:?}, which is no file of the folder");
                        absent.push((run.path.clone(), "damaged", why));
                    }
                }
            }
        }
        absent.into_iter().for_each(|(path, kind, why)| self.note(path, kind, why));
    }

    fn read_results(&mut self, root: &Path, model: &str, hashes: &Hashes) {
        let folder = Path::new(model);
        for path in json_files(root, &folder.join(Recorded::FOLDER)) {
            match Recorded::read(&root.join(&path)) {
                Err(error) => self.note(path, "damaged", format!("{error:#}")),
                Ok(Recorded::Rows(rows)) => {
                    let table = folder.join(path.with_extension("csv").file_name().unwrap_or_default());
                    if let Some(why) = rows.values().find_map(|made_of| self.other_weights(made_of)) {
                        self.note(table, "other model", format!("rows of it: {why}"));
                    }
                }
                Ok(Recorded::Result(made_of, files)) => {
                    for (name, hash) in files {
                        let Some(file) = inside(folder, &name) else {
                            self.note(
                                path.clone(),
                                "damaged",
                                format!("it names {name:?}, which is no file of the folder"),
                            );
                            continue;
                        };
                        self.check(root, &file, &path, &hash, hashes);
                        if let Some(why) = self.other_weights(&made_of) {
                            self.note(file.clone(), "other model", why);
                        }
                        self.made_of.insert(file, made_of.clone());
                    }
                }
            }
        }
    }

    /// Notes a file that is not as its record says.
    pub fn check(&mut self, root: &Path, file: &Path, record: &Path, hash: &str, hashes: &Hashes) {
        let record = record.display();
        let (kind, why) = match hashes.of(&root.join(file)) {
            Ok(found) if found == hash => return,
            Ok(_) => ("changed", format!("no longer what {record} says of it")),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                ("missing", format!("recorded in {record}, and not there"))
            }
            Err(error) => ("damaged", error.to_string()),
        };
        self.note(file.to_owned(), kind, why);
    }

    /// Why a result is not of the folder's model, if it is not.
    fn other_weights(&self, made_of: &Provenance) -> Option<String> {
        let found = made_of.settings.get("weights")?.as_str()?;
        self.weights_differ(found)
    }

    /// The same of the weights that a record names.
    pub fn weights_differ(&self, found: &str) -> Option<String> {
        let owner = self.owner.as_ref()?;
        let differ = found != owner.weights;
        differ.then(|| format!("made with weights {}, the folder's are {}", cut(found), cut(&owner.weights)))
    }

    /// Which model it is, and how it was read.
    pub fn facts(&self) -> Vec<(String, String)> {
        let mut facts: Vec<(&str, String)> = Vec::new();
        let model: Option<&ModelRecord> = self.runs.iter().find_map(|run| run.record.model.as_ref());
        if let Some(owner) = &self.owner {
            facts.push(("model", owner.asked.clone()));
            facts.push(("weights", cut(&owner.weights)));
        }
        let source = self.owner.as_ref().map(|owner| &owner.source).or(model.map(|model| &model.provenance.source));
        facts.extend(source.map(|source| ("from", place(source))));
        if let Some(model) = model {
            let bytes = model.provenance.files.iter().map(|file| file.bytes).sum();
            facts.push(("size", size(bytes)));
            facts.extend(model.provenance.quantised.clone().map(|types| ("quantised", types)));
            let processing = model.weight_processing.join(", ");
            facts.push(("weight processing", if processing.is_empty() { "none".into() } else { processing }));
            facts.push(("BOS", model.bos.map_or("none".into(), |bos| format!("token {bos}"))));
        }
        if facts.is_empty() {
            facts.push(("model", "nothing says which one".into()));
        }
        facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The study that wrote a file last, and when.
    pub fn made(&self, file: &Path) -> Option<String> {
        let wrote = |run: &&Run| {
            let name = file.strip_prefix(&run.folder).ok().and_then(Path::to_str);
            name.is_some_and(|name| run.record.written.contains_key(name))
        };
        self.runs.iter().find(wrote).map(Run::told)
    }

    /// What the result in a file was made of.
    pub fn settings(&self, file: &Path) -> Vec<(String, String)> {
        let made_of = self.made_of.get(file);
        let settings = made_of.map(|made_of| made_of.settings.iter().map(|(name, value)| (name.clone(), told(value))));
        settings.into_iter().flatten().collect()
    }

    /// What was run, the last first.
    pub fn runs(&self) -> Option<Grid> {
        let columns = ["started (UTC)", "study", "ended", "seconds", "datasets", "device", "files", "version"];
        let rows: Vec<Vec<Entry>> = self.runs.iter().map(|run| run_row(&run.record, link(&run.path))).collect();
        (!rows.is_empty()).then(|| Grid {
            name: "Runs".into(),
            columns: columns.map(str::to_owned).into(),
            total: Some(rows.len()),
            rows,
            ..Grid::default()
        })
    }
}

fn run_row(run: &RunRecord, href: Option<String>) -> Vec<Entry> {
    let settings = match &run.configuration {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), told(value))).collect(),
        _ => Vec::new(),
    };
    let counted = |count: PromptsCount| match count {
        PromptsCount::Pairs(pairs) => format!("{pairs} pairs"),
        PromptsCount::Texts(texts) => format!("{texts} texts"),
    };
    let prompts = run.prompts.iter().map(|prompts| format!("{} ({})", prompts.dataset, counted(prompts.count)));
    let commit = run.commit.get(..10).unwrap_or(&run.commit);
    vec![
        Entry::link(minute_of(&run.started), href),
        Entry::folded(run.command.clone(), settings),
        Entry::text(if run.finished { "yes" } else { "no" }),
        Entry::text(format!("{:.1}", run.wall_seconds)),
        Entry::text(prompts.collect::<Vec<_>>().join(", ")),
        Entry::text(run.device.clone().unwrap_or_default()),
        Entry::text(run.written.len().to_string()),
        Entry::text(format!("{} ({commit})", run.version)),
    ]
}

fn read_manifest(path: &Path) -> Result<RunRecord> {
    let bytes = std::fs::metadata(path)?.len();
    if bytes > LARGEST {
        bail!("expected at most {LARGEST} bytes, found {bytes}");
    }
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// The JSON files right in a folder below `root`, sorted.
fn json_files(root: &Path, folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
    let plain = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let names = plain.map(|entry| entry.file_name()).filter(|name| {
        let name = name.to_string_lossy();
        name.ends_with(".json") && !name.starts_with('.')
    });
    let mut paths: Vec<PathBuf> = names.map(|name| folder.join(name)).collect();
    paths.sort();
    paths
}

/// The path of a file that a record names, below the folder of all results as `folder` is, which the record tells of; none
/// for one that leads elsewhere.
fn inside(folder: &Path, name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let plain = !name.is_empty() && path.components().all(|part| matches!(part, Component::Normal(_)));
    plain.then(|| folder.join(path))
}

/// A setting for people.
fn told(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        value => cut(&shown(value)),
    }
}

/// Hashes are long, and their beginnings tell them apart; so are some lists.
fn cut(text: &str) -> String {
    match text.char_indices().nth(if is_hash(text) { 12 } else { LONGEST }) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What the standing of a listed file is.
pub(super) fn standing(wrong: &BTreeMap<PathBuf, Trouble>, found: &Found) -> String {
    wrong.get(&found.path).map_or(String::new(), |trouble| format!("{}: {}", trouble.kind, trouble.why))
}
