//! What results are made of.
//!
//! Everything that a study writes has a [`Provenance`]: the study and every setting and input that the values depend on.
//! Results of one file each are recorded beside them, in `provenance/<name>.json` of the model's folder, with the hashes
//! of their files; a row of a table that several runs add to carries the id of its own. A result counts as there only if
//! its provenance is the one that is asked for.

use super::{Fault, Session, processing_names};
use crate::files::{sha256, sha256_of_file, write_whole, written_otherwise};
use crate::model::Source;
use crate::sweep::Configuration;
use crate::types::Matrix;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a result was made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The study that makes it.
    pub study: String,
    /// Everything that its values depend on: hashes of inputs, and settings.
    pub settings: BTreeMap<String, Value>,
}

impl Provenance {
    /// The same with a further setting.
    ///
    /// # Errors
    /// A value that has no form in JSON.
    pub fn with(mut self, setting: impl Into<String>, value: impl Serialize) -> Result<Self> {
        let setting = setting.into();
        let value = serde_json::to_value(value).with_context(|| setting.clone())?;
        self.settings.insert(setting, value);
        Ok(self)
    }

    /// A short name of all of it: 16 hexadecimal digits.
    pub fn id(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        sha256(&text)[..16].to_owned()
    }

    /// The first setting that differs, with what is `self`'s and what was found; none if everything is the same. Hashes
    /// come last, since another setting often says why they differ.
    pub fn difference(&self, found: &Self) -> Option<String> {
        if self.study != found.study {
            return Some(format!("study: expected {}, found {}", self.study, found.study));
        }
        let differs = |setting: &&String| self.settings.get(*setting) != found.settings.get(*setting);
        let hashed = |setting: &&String| {
            let value = self.settings.get(*setting).or_else(|| found.settings.get(*setting));
            value.and_then(Value::as_str).is_some_and(is_hash)
        };
        let differing = || self.settings.keys().chain(found.settings.keys()).filter(differs);
        let setting = differing().find(|setting| !hashed(setting)).or_else(|| differing().next())?;
        let shown = |provenance: &Self| provenance.settings.get(setting).map_or("nothing".to_owned(), shown);
        Some(format!("{setting}: expected {}, found {}", shortened(&shown(self)), shortened(&shown(found))))
    }
}

/// The value of a setting for people.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "none".to_owned(),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(","),
        Value::Number(number) => match number.as_f64() {
            Some(whole) if number.is_f64() && whole.fract() == 0.0 && whole.abs() < 1e15 => format!("{whole}"),
            _ => number.to_string(),
        },
        value => value.to_string(),
    }
}

/// Hashes are long, and their beginnings tell them apart.
pub(super) fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(if is_hash(text) { 12 } else { SHOWN }) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Is this a SHA-256 in hexadecimal digits?
pub(crate) fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Longest name of a result without its ending, in bytes: file systems take 255, of which some are for what is written
/// beside it.
const LONGEST_OUTPUT: usize = 230;

/// Refuses a result whose files could not be written once its values are there.
pub(crate) fn check_output(output: &str) -> Result<()> {
    if output.len() <= LONGEST_OUTPUT {
        return Ok(());
    }
    let (length, expected) = (output.len(), format!("expected at most {LONGEST_OUTPUT} bytes"));
    let message = format!("the name of a result is made of datasets, directions and nodes: {expected}, found {length}");
    Err(Fault::new(format!("{message} in {output}")).into())
}

/// How a result that is asked for stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// It is not there.
    Absent,
    /// It is there, made of what is asked for; with what its study has noted beside it.
    Kept(Value),
    /// Something else is there in its place; with the first difference.
    Other(String),
}

/// The record of a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    version: String,
    #[serde(flatten)]
    provenance: Provenance,
    /// SHA-256 of the data files, by name.
    files: BTreeMap<String, String>,
    /// What the study wants to know when it reads the result again.
    #[serde(default)]
    notes: Value,
    /// Are its tables guarded against spreadsheets? It changes no value.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    csv_guard: bool,
}

/// The records of a table's rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RowRecords {
    version: String,
    /// What they were made of, by id.
    rows: BTreeMap<String, Provenance>,
    /// Hashes of the rows of every id.
    contents: BTreeMap<String, String>,
}

impl RowRecords {
    /// What the rows of an id were made of.
    pub fn get(&self, id: &str) -> Option<&Provenance> {
        self.rows.get(id)
    }

    /// Are the rows of an id known, and as they were written? `found` has the hashes of those that are there.
    pub fn whole(&self, id: &str, found: &BTreeMap<String, String>) -> bool {
        self.rows.contains_key(id) && self.contents.get(id) == found.get(id)
    }

    /// Adds what rows were made of.
    pub fn insert(&mut self, provenance: Provenance) {
        self.rows.insert(provenance.id(), provenance);
    }
}

/// What a file of a folder's records says.
#[derive(Debug)]
pub(crate) enum Recorded {
    /// Of a result: what it was made of, and the hashes of its files by name.
    Result(Provenance, BTreeMap<String, String>),
    /// Of the rows of a table: what they were made of, by id.
    Rows(BTreeMap<String, Provenance>),
}

impl Recorded {
    /// Where the records of a folder of results lie in it.
    pub const FOLDER: &'static str = "provenance";

    /// Reads such a file.
    ///
    /// # Errors
    /// A file that cannot be read, or is damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let value: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        if value.get("rows").is_some() {
            return Ok(Self::Rows(serde_json::from_value::<RowRecords>(value)?.rows));
        }
        let Record { provenance, files, .. } = serde_json::from_value(value)?;
        Ok(Self::Result(provenance, files))
    }
}

impl Session {
    /// What the weights are known by: the hash of their files, or what random ones are drawn from.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn weights(&self) -> Result<&str> {
        if let Some(weights) = self.loaded.weights.get() {
            return Ok(weights);
        }
        let provenance = &self.model().provenance;
        let weights = match &provenance.source {
            Source::Random { shape, seed } => format!("random {shape}, seed {seed}"),
            _ => provenance.clone().with_every_hash(&self.known_hashes())?.known_by()?,
        };
        Ok(self.loaded.weights.get_or_init(|| weights))
    }

    /// What all cells of a model's ledger share.
    ///
    /// # Errors
    /// Those of [`Session::weights`].
    pub(crate) fn configuration(&self) -> Result<Configuration> {
        let fields = [
            ("model", self.model().name.clone()),
            ("weights", self.weights()?.to_owned()),
            ("weight_processing", processing_names(self.model().processing).join(",")),
            ("dtype", self.options.dtype.to_string()),
        ];
        Ok(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// The provenance that all results of a study on this model share: weights, tokenizer, BOS, processing, number format.
    ///
    /// # Errors
    /// Those of [`Session::weights`].
    pub fn provenance(&self, study: &str) -> Result<Provenance> {
        let (model, tokenizer) = (self.model(), &self.model().tokenizer);
        let file = model.provenance.tokenizer.as_ref().and_then(|file| file.sha256.clone());
        let mut provenance = Provenance { study: study.to_owned(), settings: BTreeMap::new() }
            .with("weights", self.weights()?)?
            .with("tokenizer", file)?
            .with("bos", tokenizer.bos())?
            .with("weight_processing", processing_names(model.processing).join(","))?
            .with("dtype", self.options.dtype.name())?
            .with("compat", self.options.compat())?;
        if let Some(added) = tokenizer.added() {
            provenance = provenance.with("added_tokens", added)?;
        }
        Ok(provenance)
    }

    fn record_path(&self, output: &str) -> PathBuf {
        self.folder().join(Recorded::FOLDER).join(format!("{output}.json"))
    }

    /// How the result `output` stands, whose data is in `files` and which is to be made of `wanted`.
    ///
    /// # Errors
    /// A file that cannot be read; a name that is too long for one.
    pub fn standing(&self, output: &str, files: &[PathBuf], wanted: &Provenance) -> Result<Standing> {
        check_output(output)?;
        if !files.iter().all(|file| file.is_file()) {
            return Ok(Standing::Absent);
        }
        let path = self.record_path(output);
        let record: Record = match std::fs::read(&path) {
            Err(_) => return Ok(Standing::Other("nothing says what it was made of".into())),
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Err(error) => return Ok(Standing::Other(format!("{} is damaged ({error})", path.display()))),
                Ok(record) => record,
            },
        };
        if let Some(difference) = wanted.difference(&record.provenance) {
            return Ok(Standing::Other(difference));
        }
        match hashes(files)? == record.files {
            true => {
                self.warn_of_guard(output, files, record.csv_guard)?;
                Ok(Standing::Kept(record.notes))
            }
            false => Ok(Standing::Other("its files have changed since they were written".into())),
        }
    }

    /// Warns of tables that are kept with the guard against spreadsheets although it is not asked for, or without it although
    /// it is.
    fn warn_of_guard(&self, output: &str, files: &[PathBuf], guarded: bool) -> Result<()> {
        if guarded == self.options.csv_guard {
            return Ok(());
        }
        for table in files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "csv")) {
            if written_otherwise(table, guarded).with_context(|| table.display().to_string())? {
                let with = if guarded { "with" } else { "without" };
                tracing::warn!("{output} is kept as it was written, {with} csv_guard: overwrite writes it anew");
                break;
            }
        }
        Ok(())
    }

    /// Records what the result `output` in `files` was made of, and what its study wants to know when it reads it again.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn record(&self, output: &str, provenance: &Provenance, files: &[PathBuf], notes: Value) -> Result<()> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let (files, csv_guard) = (hashes(files)?, self.options.csv_guard);
        let record = Record { version, provenance: provenance.clone(), files, notes, csv_guard };
        write_json(&self.record_path(output), &record)
    }

    /// The data files of the result `output` in the folder of results, as its record names them; none without a record.
    pub(crate) fn recorded_files(&self, output: &str) -> Option<Vec<PathBuf>> {
        let record: Record = serde_json::from_slice(&std::fs::read(self.record_path(output)).ok()?).ok()?;
        Some(record.files.keys().map(|name| self.folder().join(name)).collect())
    }

    /// The records of the rows of a table; a damaged file knows none of them.
    pub(crate) fn row_records(&self, table: &str) -> RowRecords {
        let path = self.record_path(table);
        let Ok(bytes) = std::fs::read(&path) else { return RowRecords::default() };
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!("{} is damaged ({error}): the rows it tells of are computed again", path.display());
            RowRecords::default()
        })
    }

    /// Records what the rows of a table were made of, whose hashes `contents` has; those of other ids are forgotten. Under
    /// the folder's lock.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn record_rows(
        &self,
        table: &str,
        RowRecords { mut rows, .. }: RowRecords,
        mut contents: BTreeMap<String, String>,
    ) -> Result<()> {
        rows.retain(|id, _| contents.contains_key(id));
        contents.retain(|id, _| rows.contains_key(id));
        let version = env!("CARGO_PKG_VERSION").to_owned();
        write_json(&self.record_path(table), &RowRecords { version, rows, contents })
    }
}

/// Hashes of the rows of every id, in whatever order they stand; rows are pairs of an id and of what stands there.
///
/// # Errors
/// What cannot be written as JSON.
pub(crate) fn contents<'a, T: Serialize>(rows: impl Iterator<Item = (&'a str, T)>) -> Result<BTreeMap<String, String>> {
    let mut by_id: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (id, row) in rows {
        by_id.entry(id).or_default().push(serde_json::to_string(&row)?);
    }
    let hashed = by_id.into_iter().map(|(id, mut rows)| {
        rows.sort();
        (id.to_owned(), sha256(rows.join("\n").as_bytes()))
    });
    Ok(hashed.collect())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value)?;
    write_whole(path, &text).with_context(|| path.display().to_string())
}

fn hashes(files: &[PathBuf]) -> Result<BTreeMap<String, String>> {
    let hash = |path: &PathBuf| {
        let hash = sha256_of_file(path).with_context(|| path.display().to_string())?;
        Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), hash))
    };
    files.iter().map(hash).collect()
}

/// The hash of a matrix: its shape and its values.
pub(crate) fn hash_of_matrix(matrix: &Matrix) -> String {
    let shape = [matrix.rows as u64, matrix.cols as u64];
    let bytes = shape.iter().flat_map(|side| side.to_le_bytes());
    let bytes: Vec<u8> = bytes.chain(matrix.data.iter().flat_map(|value| value.to_le_bytes())).collect();
    sha256(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionOptions;

    fn provenance(dtype: &str) -> Provenance {
        let settings = BTreeMap::from([("dtype".to_owned(), dtype.into()), ("seed".to_owned(), 3.into())]);
        Provenance { study: "ablation".into(), settings }
    }

    #[test]
    fn names_too_long_for_files_are_found_before_the_work() {
        let data = tempfile::tempdir().unwrap();
        let options = SessionOptions { data_dir: data.path().into(), ..SessionOptions::default() };
        let session = Session::open("demo", options).unwrap();
        let standing =
            |length: usize| session.standing(&"x".repeat(length), &[data.path().join("none")], &provenance("f32"));
        assert_eq!(standing(LONGEST_OUTPUT).unwrap(), Standing::Absent);
        let message = standing(LONGEST_OUTPUT + 1).unwrap_err().to_string();
        assert!(message.contains("at most 230 bytes, found 231"), "{message}");
    }

    #[test]
    fn the_first_difference_is_named() {
        let (f32, bf16) = (provenance("f32"), provenance("bf16"));
        assert_eq!(f32.difference(&bf16).unwrap(), "dtype: expected f32, found bf16");
        assert_eq!(f32.difference(&f32), None);
        assert_eq!(f32.difference(&provenance("")).unwrap(), "dtype: expected f32, found none");
        assert_ne!(f32.id(), bf16.id());
        let other = Provenance { study: "steering".into(), ..f32.clone() };
        assert_eq!(f32.difference(&other).unwrap(), "study: expected ablation, found steering");
        let more = f32.clone().with("dataset", "a".repeat(64)).unwrap();
        assert_eq!(f32.difference(&more).unwrap(), "dataset: expected nothing, found aaaaaaaaaaaa…");
        assert_eq!(bf16.difference(&more).unwrap(), "dtype: expected bf16, found f32", "hashes come last");
    }

    #[test]
    fn settings_are_shown_as_they_are_typed() {
        let settings = serde_json::json!([["-20..20:10", [-20.0, 0.5]], 3, [], "", true]);
        assert_eq!(shown(&settings), "-20..20:10,-20,0.5,3,none,none,true");
        assert_eq!(shown(&serde_json::json!(1e-20)), "1e-20");
    }

    #[test]
    fn a_result_counts_only_with_its_record_and_unchanged() {
        let data = tempfile::tempdir().unwrap();
        let options = SessionOptions { data_dir: data.path().into(), ..SessionOptions::default() };
        let session = Session::open("demo", options).unwrap();
        let file = session.folder().join("x.csv");
        let (files, wanted) = ([file.clone()], provenance("f32"));
        let standing = || session.standing("x", &files, &wanted).unwrap();
        assert_eq!(standing(), Standing::Absent);
        write_whole(&file, b"1\n").unwrap();
        assert!(matches!(standing(), Standing::Other(why) if why.contains("nothing says")));
        session.record("x", &wanted, &files, "note".into()).unwrap();
        assert_eq!(standing(), Standing::Kept("note".into()));
        let other = session.standing("x", &files, &provenance("bf16")).unwrap();
        assert!(matches!(other, Standing::Other(why) if why.contains("dtype: expected bf16, found f32")));
        std::fs::write(&file, "2\n").unwrap();
        assert!(matches!(standing(), Standing::Other(why) if why.contains("have changed")));
        std::fs::write(session.record_path("x"), "{").unwrap();
        assert!(matches!(standing(), Standing::Other(why) if why.contains("x.json is damaged")));
    }
}
