//! `negation`.

use super::common::{CompatArgs, ModelArgs, RunArgs, distinct, note_skipped, optional_path, print, print_json};
use super::device::DeviceWork;
use super::stored_directions::unit_directions;
use crate::backend::Backend;
use crate::engine::Engine;
use crate::experiments::corpus::{RowShape, Rows};
use crate::experiments::negation::{Change, NegationScores, pooled};
use crate::experiments::neuroscope::{Channel, Channels, Measure, read_corpus};
use crate::model::{Model, Tokenizer};
use crate::report::neuroscope::ChannelSummary;
use crate::report::{Manifest, Table, write_csv};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::PathBuf;

/// The paper's texts.
const TEXTS: &str = include_str!("../../data/negations.csv");

/// Arguments of `negation`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Example:
  actpatch neuroscope --models gpt2-small --corpus openwebtext.jsonl --directions '*_layer1' --layers 0..10
  actpatch negation --models gpt2-small --directions '*_layer1' --summary data/gpt2-small/neuroscope_openwebtext_summary.csv

Every text has a word that it negates. The word's cosine with a direction is read in front of an early and of a late block:
raw_score is the mean change; with a summary of plain text z_score is the mean absolute change over the standard deviation
there, and a text's flip half its change in units of the way from the early value to the mean there (flip_percent are
above zero, flip_size is the median).
Files in DATA_DIR/<model>/: negation.csv, the scores of every direction, and negation_texts.csv, every text's values; with
--texts named negation_<file>.")]
pub struct Args {
    #[command(flatten)]
    pub models: ModelArgs,
    /// Directions by name, `*` and `?` match anything.
    #[arg(long, value_delimiter = ',', required = true)]
    pub directions: Vec<String>,
    /// A CSV file with columns text and word instead of the paper's texts.
    #[arg(long)]
    #[serde(serialize_with = "optional_path")]
    pub texts: Option<PathBuf>,
    /// Where the word's early value is read.
    #[arg(long, default_value_t = 1)]
    pub initial: usize,
    /// Where its late value is read; two in front of the end of the model without it (10 of gpt2-small).
    #[arg(long)]
    pub last: Option<usize>,
    /// The _summary.csv of a reading of plain text along the same directions; its layers up to the late one count.
    #[arg(long)]
    #[serde(serialize_with = "optional_path")]
    pub summary: Option<PathBuf>,
    #[command(flatten)]
    pub compat: CompatArgs,
    #[command(flatten)]
    pub run: RunArgs,
}

/// A text and the word that it negates.
#[derive(Debug, Clone, Deserialize)]
struct Negated {
    text: String,
    word: String,
}

/// A row of the table of scores.
#[derive(Debug, Clone, Serialize)]
struct ScoreRow {
    direction: String,
    texts: usize,
    raw_score: f64,
    z_score: Option<f64>,
    flip_percent: Option<f64>,
    flip_size: Option<f64>,
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

impl Args {
    fn texts(&self) -> Result<Vec<Negated>> {
        let (name, text) = match &self.texts {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("--texts: {}", path.display()))?;
                (path.display().to_string(), text)
            }
            None => ("the paper's texts".to_owned(), TEXTS.to_owned()),
        };
        let rows = csv::Reader::from_reader(text.as_bytes()).deserialize().collect::<Result<Vec<Negated>, _>>();
        let rows = rows.with_context(|| format!("--texts: {name}: expected columns text and word"))?;
        if rows.is_empty() {
            bail!("--texts: {name}: expected texts, found none");
        }
        Ok(rows)
    }

    fn stem(&self) -> String {
        let own = self.texts.as_ref().and_then(|path| path.file_stem());
        own.map_or("negation".into(), |stem| format!("negation_{}", stem.to_string_lossy()))
    }

    /// The early and the late layer.
    fn layers(&self, model: &Model) -> Result<[usize; 2]> {
        let n_layers = model.config.n_layers;
        let last = self.last.unwrap_or(n_layers.saturating_sub(2));
        if self.initial >= last || last > n_layers {
            bail!(
                "--initial, --last: expected two layers of 0..{n_layers} in order, found {} and {last}",
                self.initial
            );
        }
        Ok([self.initial, last])
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
    texts: &'a [Negated],
    channels: &'a Channels,
    manifest: &'a mut Manifest,
}

impl DeviceWork for Pass<'_> {
    type Output = Vec<Vec<f32>>;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Vec<Vec<f32>>> {
        self.manifest.computed_on(engine);
        let (tokenizer, config) = (&engine.model().tokenizer, engine.config());
        let positions = self.texts.iter().map(|text| position(tokenizer, text)).collect::<Result<Vec<_>>>()?;
        let texts = self.texts.iter().map(|negated| negated.text.clone()).collect();
        let rows = Rows::of_texts(texts, RowShape { tokenizer, length: config.n_ctx, d_vocab: config.d_vocab });
        let mut values = Vec::new();
        read_corpus(engine, rows, self.channels, Measure::Cosine, |reading| {
            if positions[reading.document()] == reading.position() {
                values.push(reading.values().to_vec());
            }
            anyhow::Ok(())
        })?;
        Ok(values)
    }
}

/// Reads negated words along directions, for every model.
pub fn run(args: Args) -> Result<()> {
    let (texts, stem) = (args.texts()?, args.stem());
    let summaries = args.summary.as_deref().map(ChannelSummary::read).transpose()?;
    let mut all = Vec::new();
    for spec in &distinct(&args.models.models) {
        let model = args.models.load(spec, args.run.seed)?;
        let (name, folder) = (model.name.clone(), args.run.folder(&model.name));
        let layers = args.layers(&model)?;
        let directions = unit_directions((&args.run, &args.compat), &model, &args.directions)?;
        let names: Vec<String> = directions.iter().map(|(name, _)| name.to_string()).collect();
        let plain = names.iter().map(|name| plain_text(summaries.as_deref(), name, layers[1]));
        let plain = plain.collect::<Result<Vec<_>>>().context("--summary")?;
        if args.run.dry_run {
            print(&format!("{name}: {} directions, one pass over {} texts\n", names.len(), texts.len()))?;
            continue;
        }
        if folder.join(format!("{stem}.csv")).is_file() && !args.run.overwrite {
            note_skipped(1, "table of negations", &folder);
            continue;
        }
        let at = |layer: usize| {
            let channel = |name: &String| Channel { direction: name.clone(), layer };
            names.iter().map(channel).zip(directions.iter().map(|(_, direction)| direction.clone())).collect::<Vec<_>>()
        };
        let channels = Channels::new(layers.into_iter().flat_map(at).collect());
        let mut manifest = args.run.manifest("negation", &args, &folder, Some(&model))?;
        let work = Pass { texts: &texts, channels: &channels, manifest: &mut manifest };
        let values = args.run.in_pool(|| args.run.on_device(model, work))?;
        let (scores, rows) = tables(&texts, &names, &values, &plain);
        // The scores last: they say that the texts are there.
        let paths = [format!("{stem}_texts.csv"), format!("{stem}.csv")].map(|name| folder.join(name));
        write_csv(&paths[0], &rows)?;
        write_csv(&paths[1], &scores)?;
        paths.iter().for_each(|path| manifest.wrote(path, []));
        let record = manifest.finish()?;
        if !args.run.json {
            print(&format!("{name}, layers {} to {}\n{}", layers[0], layers[1], shown(&scores)))?;
        }
        all.push(json!({ "model": name, "layers": layers, "scores": scores, "manifest": record }));
    }
    if args.run.json && !args.run.dry_run { print_json(&all) } else { Ok(()) }
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

/// The scores of every direction, largest mean change first, and the values of every text.
fn tables(
    texts: &[Negated],
    names: &[String],
    values: &[Vec<f32>],
    plain: &[Option<(f64, f64)>],
) -> (Vec<ScoreRow>, Vec<TextRow>) {
    let (mut scores, mut rows) = (Vec::new(), Vec::new());
    for (number, (direction, plain)) in names.iter().zip(plain).enumerate() {
        let change = |values: &Vec<f32>| {
            let [initial, last] = [number, names.len() + number].map(|channel| f64::from(values[channel]));
            Change { initial, last }
        };
        let changes: Vec<Change> = values.iter().map(change).collect();
        for (Negated { text, word }, change) in texts.iter().zip(&changes) {
            let Change { initial, last } = *change;
            let (direction, text, word) = (direction.clone(), text.clone(), word.clone());
            let flip = plain.map(|(mean, _)| change.flip(mean));
            rows.push(TextRow { direction, text, word, initial, last, change: change.size(), flip });
        }
        let NegationScores { raw, z, flipped, flip_size } = NegationScores::of(&changes, *plain);
        scores.push(ScoreRow {
            direction: direction.clone(),
            texts: texts.len(),
            raw_score: raw,
            z_score: z,
            flip_percent: flipped.map(|share| 100.0 * share),
            flip_size,
        });
    }
    scores.sort_by(|a, b| b.raw_score.total_cmp(&a.raw_score));
    (scores, rows)
}

fn shown(scores: &[ScoreRow]) -> Table {
    let mut table = Table::new(["direction", "raw_score", "z_score", "flip_percent", "flip_size"]);
    for row in scores {
        let number = |number: Option<f64>| number.map_or(String::new(), |number| format!("{number:.4}"));
        let numbers = [Some(row.raw_score), row.z_score, row.flip_percent, row.flip_size].map(number);
        table.push([row.direction.clone()].into_iter().chain(numbers));
    }
    table
}
