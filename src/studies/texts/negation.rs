//! How far negated words flip along directions between two layers.

use super::hash_of_direction;
use crate::backend::Backend;
use crate::engine::Engine;
use crate::experiments::corpus::{RowShape, Rows};
use crate::experiments::negation::{Change, NegationScores, pooled};
use crate::experiments::neuroscope::{Channel, Channels, Measure, read_corpus};
use crate::files::{read_text, sha256};
use crate::model::Tokenizer;
use crate::report::neuroscope::ChannelSummary;
use crate::report::{Manifest, RunRecord, Table, read_csv, write_csv};
use crate::session::{
    DeviceWork, Note, Observer, OfSetting, Progress, Provenance, Session, Standing, note_kept, wrong,
};
use crate::studies::fields::{list, optional_path};
use crate::studies::{Notes, Plan, Study};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;

/// The paper's texts.
const TEXTS: &str = include_str!("../../../data/negations.csv");

/// How far negated words flip along directions between two layers.
///
/// Every text has a word that it negates. The word's cosine with a direction is read in front of an early and of a late
/// block: `raw_score` is the mean change; with a summary of plain text `z_score` is the mean absolute change over the
/// standard deviation there, and a text's flip half its change in units of the way from the early value to the mean
/// there (`flip_percent` are above zero, `flip_size` is the median).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Negation {
    /// Directions by name, `*` and `?` match anything.
    #[serde(deserialize_with = "list")]
    pub directions: Vec<String>,
    /// A CSV file with columns text and word instead of the paper's texts.
    #[serde(serialize_with = "optional_path")]
    pub texts: Option<PathBuf>,
    /// Where the word's early value is read: 0 to `n_layers`.
    pub initial: usize,
    /// Where its late value is read: `initial` to `n_layers`; two in front of the end of the model without it (10 of gpt2-small).
    pub last: Option<usize>,
    /// The `_summary.csv` of a reading of plain text along the same directions; its layers up to the late one count.
    #[serde(serialize_with = "optional_path")]
    pub summary: Option<PathBuf>,
}

impl Default for Negation {
    fn default() -> Self {
        Self { directions: Vec::new(), texts: None, initial: 1, last: None, summary: None }
    }
}

/// A text and the word that it negates.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Negated {
    text: String,
    word: String,
}

/// A row of the table of scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreRow {
    /// The direction's name.
    pub direction: String,
    /// How many texts.
    pub texts: usize,
    /// Mean change.
    pub raw_score: f64,
    /// Mean absolute change over the standard deviation of plain text.
    pub z_score: Option<f64>,
    /// Share of the texts that flip, in percent.
    pub flip_percent: Option<f64>,
    /// Median flip.
    pub flip_size: Option<f64>,
}

/// A row of the table of texts.
#[derive(Debug, Clone, Serialize)]
struct TextRow {
    direction: String,
    text: String,
    word: String,
    initial: f64,
    last: f64,
    change: f64,
    flip: Option<f64>,
}

/// The scores of a model's directions.
#[derive(Debug, Clone, Serialize)]
pub struct Negations {
    /// The model's name.
    pub model: String,
    /// The early and the late layer.
    pub layers: [usize; 2],
    /// A row per direction, the largest mean change first.
    pub scores: Vec<ScoreRow>,
    /// The manifest; none when the table was there.
    pub manifest: Option<RunRecord>,
}

impl fmt::Display for Negations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["direction", "raw_score", "z_score", "flip_percent", "flip_size"]);
        for row in &self.scores {
            let number = |number: Option<f64>| number.map_or(String::new(), |number| format!("{number:.4}"));
            let numbers = [Some(row.raw_score), row.z_score, row.flip_percent, row.flip_size].map(number);
            table.push([row.direction.clone()].into_iter().chain(numbers));
        }
        let [initial, last] = self.layers;
        write!(f, "{}, layers {initial} to {last}\n{table}", self.model)
    }
}

impl Negation {
    /// The texts.
    fn negated(&self) -> Result<Vec<Negated>> {
        let (name, text) = match &self.texts {
            Some(path) => match read_text(path) {
                Ok(text) => (path.display().to_string(), text),
                Err(error) => wrong!("texts", "{}: {error}", path.display()),
            },
            None => ("the paper's texts".to_owned(), TEXTS.to_owned()),
        };
        let rows = csv::Reader::from_reader(text.as_bytes()).deserialize().collect::<Result<Vec<Negated>, _>>();
        let rows = rows.with_context(|| format!("{name}: expected columns text and word")).of_setting("texts")?;
        if rows.is_empty() {
            wrong!("texts", "{name}: expected texts, found none");
        }
        Ok(rows)
    }

    /// The beginning of the files' names.
    fn stem(&self) -> String {
        let own = self.texts.as_ref().and_then(|path| path.file_stem());
        own.map_or("negation".into(), |stem| format!("negation_{}", stem.to_string_lossy()))
    }

    /// The early and the late layer.
    fn layers(&self, n_layers: usize) -> Result<[usize; 2]> {
        let (initial, last) = (self.initial, self.last.unwrap_or(n_layers.saturating_sub(2)));
        if initial >= last || last > n_layers {
            let setting = if self.last.is_some() { "last" } else { "initial" };
            wrong!(setting, "expected two layers of 0 to {n_layers} in order, found {initial} and {last}");
        }
        Ok([initial, last])
    }

    /// What is asked for of a model.
    fn asked(&self, session: &Session) -> Result<Asked> {
        self.validate()?;
        let (texts, stem) = (self.negated()?, self.stem());
        let summaries = self.summary.as_deref().map(ChannelSummary::read).transpose()?;
        let layers = self.layers(session.config().n_layers)?;
        let directions = session.unit_directions(&self.directions)?;
        let mut provenance = session
            .provenance(Self::NAME)?
            .with("texts", sha256(&serde_json::to_vec(&texts)?))?
            .with("layers", layers)?;
        let mut asked = Vec::new();
        for (name, direction) in directions {
            let name = name.to_string();
            let plain = plain_text(summaries.as_deref(), &name, layers[1]).of_setting("summary")?;
            provenance = provenance.with(format!("direction {name}"), hash_of_direction(&direction))?;
            if let Some(plain) = &plain {
                provenance = provenance.with(format!("plain text along {name}"), plain)?;
            }
            asked.push(AskedDirection { name, direction, plain });
        }
        Ok(Asked { texts, stem, layers, directions: asked, provenance })
    }

    /// The scores that are there, if they are what is asked for.
    fn kept(&self, session: &Session, asked: &Asked, observer: &mut dyn Observer) -> Result<Option<Vec<ScoreRow>>> {
        let paths = asked.paths(session);
        if session.options().overwrite {
            return Ok(None);
        }
        match session.standing(&asked.stem, &paths, &asked.provenance)? {
            Standing::Absent => Ok(None),
            Standing::Other(difference) => {
                observer.note(&Note::Renewed { what: asked.stem.clone(), difference });
                Ok(None)
            }
            Standing::Kept(_) => {
                note_kept(observer, 1, "table of negations", session.folder());
                let [_, scores] = paths;
                Ok(Some(read_csv(&scores, "a row of scores")?))
            }
        }
    }
}

/// A direction with mean and standard deviation of its values in plain text, if they are known.
struct AskedDirection {
    name: String,
    direction: Vec<f32>,
    plain: Option<(f64, f64)>,
}

/// What is asked for of a model.
struct Asked {
    texts: Vec<Negated>,
    /// The beginning of the files' names.
    stem: String,
    layers: [usize; 2],
    directions: Vec<AskedDirection>,
    provenance: Provenance,
}

impl Asked {
    /// The files: every text's values, and the scores.
    fn paths(&self, session: &Session) -> [PathBuf; 2] {
        [format!("{}_texts.csv", self.stem), format!("{}.csv", self.stem)].map(|name| session.folder().join(name))
    }

    /// The directions at the early layer, and those at the late one.
    fn channels(&self) -> Channels {
        let at = |layer: usize| {
            self.directions
                .iter()
                .map(move |asked| (Channel { direction: asked.name.clone(), layer }, asked.direction.clone()))
        };
        Channels::new(self.layers.into_iter().flat_map(at).collect())
    }

    /// The scores of every direction, largest mean change first, and the values of every text, of which `values` has
    /// the directions' at the early layer before those at the late one.
    fn tables(&self, values: &[Vec<f32>]) -> (Vec<ScoreRow>, Vec<TextRow>) {
        let (mut scores, mut rows) = (Vec::new(), Vec::new());
        for (number, AskedDirection { name, plain, .. }) in self.directions.iter().enumerate() {
            let change = |values: &Vec<f32>| {
                let [initial, last] =
                    [number, self.directions.len() + number].map(|channel| f64::from(values[channel]));
                Change { initial, last }
            };
            let changes: Vec<Change> = values.iter().map(change).collect();
            for (Negated { text, word }, change) in self.texts.iter().zip(&changes) {
                let Change { initial, last } = *change;
                let (direction, text, word) = (name.clone(), text.clone(), word.clone());
                let flip = plain.map(|(mean, _)| change.flip(mean));
                rows.push(TextRow { direction, text, word, initial, last, change: change.size(), flip });
            }
            let NegationScores { raw, z, flipped, flip_size } = NegationScores::of(&changes, *plain);
            scores.push(ScoreRow {
                direction: name.clone(),
                texts: self.texts.len(),
                raw_score: raw,
                z_score: z,
                flip_percent: flipped.map(|share| 100.0 * share),
                flip_size,
            });
        }
        scores.sort_by(|a, b| b.raw_score.total_cmp(&a.raw_score));
        (scores, rows)
    }
}

impl Study for Negation {
    const NAME: &'static str = "negation";
    type Outcome = Negations;

    fn validate(&self) -> Result<()> {
        if self.directions.is_empty() {
            wrong!("directions", "expected names of directions, found none");
        }
        if let Some(path) = self.texts.as_ref().filter(|_| self.stem() == "negation_texts") {
            let why = "negation_texts.csv is a table of the paper's own texts";
            wrong!("texts", "{}: expected another name of the file: {why}", path.display());
        }
        Ok(())
    }

    fn plan(&self, session: &Session) -> Result<Plan> {
        let (asked, model) = (self.asked(session)?, &session.model().name);
        let mut notes = Notes::default();
        if self.kept(session, &asked, &mut notes)?.is_some() {
            return Ok(Plan::of(format!("{model}\n")).with(notes));
        }
        let (directions, texts) = (asked.directions.len(), asked.texts.len());
        Ok(Plan::of(format!("{model}: {directions} directions, one pass over {texts} texts\n")).with(notes))
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Negations> {
        let asked = self.asked(session)?;
        let (model, layers) = (session.model().name.clone(), asked.layers);
        if let Some(scores) = self.kept(session, &asked, observer)? {
            return Ok(Negations { model, layers, scores, manifest: None });
        }
        let mut manifest = session.manifest(Self::NAME, self)?;
        let work = Pass { asked: &asked, manifest: &mut manifest };
        let (scores, rows) = asked.tables(&session.compute(observer, work)?);
        let paths = asked.paths(session);
        write_csv(&paths[0], &rows)?;
        write_csv(&paths[1], &scores)?;
        session.record(&asked.stem, &asked.provenance, &paths, Value::Null)?;
        paths.iter().for_each(|path| manifest.wrote(path, []));
        Ok(Negations { model, layers, scores, manifest: Some(manifest.finish()?) })
    }
}

/// The position, BOS not counted, of the last token of the first `word` that stands alone in `text`.
fn position(tokenizer: &Tokenizer, Negated { text, word }: &Negated) -> Result<usize> {
    let letter = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
    let alone = |(start, found): &(usize, &str)| {
        !letter(text[..*start].chars().next_back()) && !letter(text[start + found.len()..].chars().next())
    };
    let found = text.match_indices(word.as_str()).find(alone).filter(|_| !word.is_empty());
    let Some((start, _)) = found else { bail!("{text:?}: expected the word {word:?} in it, found none") };
    let (head, all) = (tokenizer.encode(&text[..start + word.len()])?, tokenizer.encode(text)?);
    if head.is_empty() || !all.starts_with(&head) {
        bail!("{text:?}: expected {word:?} to end with a token, found it inside one");
    }
    Ok(head.len() - 1)
}

/// The pass over the texts: every word's values, the directions' at the early layer before those at the late one.
struct Pass<'a> {
    asked: &'a Asked,
    manifest: &'a mut Manifest,
}

impl DeviceWork for Pass<'_> {
    type Output = Vec<Vec<f32>>;

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<Vec<Vec<f32>>> {
        self.manifest.computed_on(engine);
        let (texts, channels) = (&self.asked.texts, self.asked.channels());
        let (tokenizer, config) = (&engine.model().tokenizer, engine.config());
        let positions = texts.iter().map(|text| position(tokenizer, text)).collect::<Result<Vec<_>>>()?;
        let rows = Rows::of_texts(
            texts.iter().map(|negated| negated.text.clone()).collect(),
            RowShape { tokenizer, length: config.n_ctx, d_vocab: config.d_vocab },
        );
        let mut progress = Progress::new(observer, "reading negations", texts.len());
        let mut values = Vec::new();
        read_corpus(engine, rows, &channels, Measure::Cosine, |reading| {
            if positions[reading.document()] == reading.position() {
                values.push(reading.values().to_vec());
                progress.add(1)?;
            }
            anyhow::Ok(())
        })?;
        Ok(values)
    }
}

/// Mean and standard deviation of a direction's values in plain text, at the summary's layers up to `last`.
fn plain_text(summaries: Option<&[ChannelSummary]>, direction: &str, last: usize) -> Result<Option<(f64, f64)>> {
    let Some(summaries) = summaries else { return Ok(None) };
    let own = summaries.iter().filter(|row| row.direction == direction && row.layer <= last);
    match pooled(&own.map(|row| (row.mean, row.std)).collect::<Vec<_>>()) {
        None => bail!("expected rows of {direction} at layers up to {last}, found none"),
        found => Ok(found),
    }
}
