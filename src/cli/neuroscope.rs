//! `neuroscope`.

use super::common::{CompatArgs, ModelArgs, RunArgs, defaults, distinct, lossy_path, note_skipped, print, print_json};
use super::common::{resolve_layers, spinner};
use super::device::DeviceWork;
use super::direction_patching_suite as suite;
use super::neuroscope_files::Files;
use crate::backend::Backend;
use crate::directions::{Direction, DirectionName};
use crate::engine::{Engine, Flops, Layout};
use crate::experiments::corpus::{CorpusError, RowShape, Rows};
use crate::experiments::neuroscope::{Channel, Channels, Labels, Measure, read_corpus};
use crate::model::{Model, ModelConfig, Tokenizer};
use crate::report::{Manifest, RunRecord, Table};
use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `neuroscope`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch neuroscope --text 'I loved it. \\nThe plot was awful.' --directions 'kmeans_*' --layers all
  actpatch neuroscope --models gpt2-small --corpus openwebtext.jsonl --directions 'das_*layer1,kmeans_*layer1'
  actpatch neuroscope --models gpt2-small --corpus openwebtext.jsonl --directions '*_layer1' --labels labelled.csv

A corpus is a file of texts, one per line, or .jsonl with {\"text\": …} or {\"tokens\": […]} per line. It goes through the
model once, piece by piece, whatever the number of directions and layers. BOS is not counted.
Files in DATA_DIR/<model>/: neuroscope_<name>_summary.csv (tokens, mean, deviation, ends and quantiles), _top.csv (the
largest and smallest values with their surroundings), _samples.csv (random tokens of every part of the range, to be
labelled), _token_means.csv (the vocabulary's extreme means and deviations), _values.csv (every token); with labels
_accuracy.csv, and the labels' shares as .svg, .png and .html.")]
pub struct Args {
    #[command(flatten)]
    pub models: ModelArgs,
    /// A file of texts.
    #[arg(long, required_unless_present = "text", conflicts_with = "text")]
    #[serde(serialize_with = "optional_path")]
    pub corpus: Option<PathBuf>,
    /// A text; may be given again.
    #[arg(long)]
    pub text: Vec<String>,
    /// Directions by name, `*` and `?` match anything.
    #[arg(long, value_delimiter = ',', required = true)]
    pub directions: Vec<String>,
    /// Where residuals are read: `own`, each direction at its own layer, or layers for all directions (`all`, 0,3,6..9).
    #[arg(long, value_delimiter = ',', default_value = "own")]
    pub layers: Vec<String>,
    /// Values: cosines of residual and direction, or their products (no samples and no quantiles then).
    #[arg(long, value_enum, default_value = "cosine")]
    pub measure: Measure,
    /// Name of the files; that of the corpus, or `text`, without it.
    #[arg(long)]
    pub name: Option<String>,
    /// Most tokens of a row, BOS included; longer texts are cut.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(2..))]
    pub row_tokens: u32,
    /// How many largest and smallest values.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub top: u16,
    /// Tokens shown on either side of one.
    #[arg(long, default_value_t = 10)]
    pub window: u16,
    /// Parts of the range that samples are drawn from.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=400))]
    pub bins: u16,
    /// Samples of each part.
    #[arg(long, default_value_t = 20)]
    pub samples: u16,
    /// Least occurrences of a token in _token_means.csv.
    #[arg(long, default_value_t = 10)]
    pub min_count: u64,
    /// Write every token's values; always done for --text.
    #[arg(long)]
    pub every_token: bool,
    /// A _samples.csv to which somebody has added a column `sentiment` (Positive, Negative, Neutral).
    #[arg(long)]
    #[serde(serialize_with = "optional_path")]
    pub labels: Option<PathBuf>,
    /// Share of all tokens at either end that labels are compared at.
    #[arg(long, default_value_t = 0.001, value_parser = share)]
    pub share: f64,
    #[command(flatten)]
    pub compat: CompatArgs,
    #[command(flatten)]
    pub run: RunArgs,
}

fn share(text: &str) -> std::result::Result<f64, String> {
    let found = text.parse().ok().filter(|share| (0.0..0.5).contains(share) && *share > 0.0);
    found.ok_or_else(|| "expected a share above 0 and below 0.5".into())
}

/// A path for a manifest, if there is one.
fn optional_path<S: serde::Serializer>(path: &Option<PathBuf>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    match path {
        Some(path) => lossy_path(path, serializer),
        None => serializer.serialize_none(),
    }
}

impl Args {
    /// The corpus as rows for a model.
    fn rows<'a>(&self, tokenizer: &'a Tokenizer, config: &ModelConfig) -> Result<Rows<'a>, CorpusError> {
        let length = config.n_ctx.min(self.row_tokens as usize);
        let shape = RowShape { tokenizer, length, d_vocab: config.d_vocab };
        match &self.corpus {
            Some(path) => Rows::of_file(path, shape),
            None => Ok(Rows::of_texts(self.text.clone(), shape)),
        }
    }

    /// What the files are named after.
    fn name(&self) -> Result<String> {
        let of_file = || Some(self.corpus.as_ref()?.file_stem()?.to_string_lossy().into_owned());
        let name = self.name.clone().or_else(of_file).unwrap_or_else(|| "text".into());
        let plain = |letter: char| letter.is_alphanumeric() || "_-.".contains(letter);
        if name.is_empty() || !name.chars().all(plain) {
            bail!("--name: expected letters, digits, `_`, `-` and `.`, found {name:?}");
        }
        Ok(name)
    }

    /// Does every token get a line?
    pub fn writes_values(&self) -> bool {
        self.every_token || self.corpus.is_none()
    }

    /// The directions that are asked for, at their layers.
    fn channels(&self, model: &Model) -> Result<Channels> {
        let config = &model.config;
        let directions = selected(&self.run, &self.compat, &self.directions, model)?;
        let own = self.layers == ["own"];
        let layers = if own { Vec::new() } else { resolve_layers(&self.layers, config.n_layers)? };
        let mut channels = Vec::new();
        for (name, direction) in directions {
            let at = if own { vec![name.layer()] } else { layers.clone() };
            for layer in at {
                channels.push((Channel { direction: name.to_string(), layer }, direction.clone()));
            }
        }
        Ok(Channels::new(channels))
    }
}

/// Stored directions of one dimension, of unit length, checked against the model as the suite does.
///
/// # Errors
/// A pattern that matches nothing, a subspace, and those of [`suite::check_records`].
pub(super) fn selected(
    run: &RunArgs,
    compat: &CompatArgs,
    patterns: &[String],
    model: &Model,
) -> Result<Vec<(DirectionName, Vec<f32>)>> {
    let options =
        suite::Args { directions: patterns.to_vec(), run: run.clone(), compat: compat.clone(), ..defaults()? };
    let folder = run.folder(&model.name);
    let names = suite::selected(&options, &folder)?;
    suite::check_records(&options, &folder, &names, model)?;
    let read = |name: DirectionName| {
        let columns = Direction::read(&folder, &name, model.config.d_model)?.unit_columns();
        match columns.cols {
            1 => Ok((name, columns.data)),
            found => bail!("--directions: {name}: expected a direction, found a subspace of {found} dimensions"),
        }
    };
    names.into_iter().map(read).collect()
}

/// The pass over the corpus.
struct Reading<'a> {
    args: &'a Args,
    channels: Channels,
    labels: Option<Labels>,
    name: &'a str,
    folder: &'a Path,
    manifest: &'a mut Manifest,
}

impl DeviceWork for Reading<'_> {
    type Output = Files;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Files> {
        self.manifest.computed_on(engine);
        let (args, config, tokenizer) = (self.args, engine.config(), &engine.model().tokenizer);
        let mut files = Files::new(args, &self.channels, self.labels, config.d_vocab, tokenizer)?;
        let progress = spinner(format!("reading {}", self.name));
        let rows = args.rows(tokenizer, config)?;
        let count = read_corpus(engine, rows, &self.channels, args.measure, |reading| files.add(reading))?;
        progress.finish_and_clear();
        tracing::info!(tokens = count, "read");
        files.check()?;
        let stem = format!("neuroscope_{}", self.name);
        for path in files.write(self.folder, &stem, &engine.model().name)? {
            self.manifest.wrote(&path, []);
        }
        Ok(files)
    }
}

/// Reads a corpus along directions, for every model.
pub fn run(args: Args) -> Result<()> {
    let name = args.name()?;
    if args.labels.is_some() && args.measure == Measure::Projection {
        bail!("--labels: expected --measure cosine, found projection: there are no quantiles to compare labels at");
    }
    let mut all = Vec::new();
    for spec in &distinct(&args.models.models) {
        let model = args.models.load(spec, args.run.seed)?;
        let (model_name, folder) = (model.name.clone(), args.run.folder(&model.name));
        let channels = args.channels(&model)?;
        let labels = args.labels.as_deref().map(Labels::read).transpose()?;
        if args.run.dry_run {
            print(&plan(&args, &model, &channels)?)?;
            continue;
        }
        let exists = folder.join(format!("neuroscope_{name}_summary.csv")).is_file() && !args.run.overwrite;
        note_skipped(exists.into(), &format!("readings of {name}"), &folder);
        if exists {
            continue;
        }
        let mut manifest = args.run.manifest("neuroscope", &args, &folder, Some(&model))?;
        let work = Reading { args: &args, channels, labels, name: &name, folder: &folder, manifest: &mut manifest };
        let files = args.run.in_pool(|| args.run.on_device(model, work))?;
        let record: RunRecord = manifest.finish()?;
        if !args.run.json {
            print(&format!("{model_name}\n{}", files.text(&args)))?;
        }
        all.push(json!({ "model": model_name, "channels": files.as_json(), "manifest": record }));
    }
    if args.run.json && !args.run.dry_run { print_json(&all) } else { Ok(()) }
}

/// The text of a dry run: the corpus is counted, not read by the model.
fn plan(args: &Args, model: &Model, channels: &Channels) -> Result<String> {
    let (mut rows, mut tokens, mut flops) = (0usize, 0usize, Flops::default());
    for row in args.rows(&model.tokenizer, &model.config)? {
        let row = row?;
        rows += 1;
        tokens += row.tokens.len() - row.bos;
        flops = flops + Flops::forward(&model.config, &Layout::new([(0, row.tokens.len())]), 0, 0);
    }
    let mut table = Table::new(["direction", "layer"]);
    for Channel { direction, layer } in channels.list() {
        table.push([direction.clone(), layer.to_string()]);
    }
    Ok(format!("{}\n{table}one pass over {tokens} tokens in {rows} rows, {flops}\n", model.name))
}
