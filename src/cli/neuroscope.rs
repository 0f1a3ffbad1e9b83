//! `neuroscope`.

use super::choice::choice;
use super::common::{
    CompatArgs, ModelArgs, RunArgs, distinct, note_skipped, optional_path, print, print_json, resolve_layers, spinner,
};
use super::corpus::CorpusArgs;
use super::device::DeviceWork;
use super::neuroscope_files::{Files, Outcome};
use super::stored_directions::unit_directions;
use crate::backend::Backend;
use crate::engine::{Engine, Flops, Layout};
use crate::experiments::neuroscope::{Channel, Channels, Measure, Settings, Words, read_corpus};
use crate::model::Model;
use crate::report::{Manifest, RunRecord, Table};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::json;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Arguments of `neuroscope`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch neuroscope --text 'I loved it. The plot was awful.' --directions 'das_*' --layers all
  actpatch neuroscope --models gpt2-small --corpus openwebtext.jsonl --directions 'das_*layer1,kmeans_*layer1'
  actpatch neuroscope --models gpt2-small --corpus openwebtext.npy --directions 'das_*layer1' --exclude plain_words.txt

A corpus is a file of texts, one per line, .jsonl with {\"text\": …} or {\"tokens\": […]} per line, or .npy with an array
(rows, tokens) of uint16, uint32, int32 or int64. It goes through the model once, piece by piece, whatever the number of
directions and layers. BOS is not counted; every row begins with it, whether or not given tokens do.
Files in DATA_DIR/<model>/, all named neuroscope_<name>: _summary.csv (tokens, mean, deviation, ends and quantiles),
_top.csv and .html (the largest and smallest values with their surroundings), _samples.csv (random tokens of every bin, to
be labelled), _token_means.csv, .svg, .png and .html (the vocabulary's extreme means and deviations); for --text and
--every-token _values.csv (every token), _texts.html (the texts in colour), and of short texts a heat map.")]
pub struct Args {
    #[command(flatten)]
    pub models: ModelArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub corpus: CorpusArgs,
    /// Directions by name, `*` and `?` match anything.
    #[arg(long, value_delimiter = ',', required = true)]
    pub directions: Vec<String>,
    /// Where residuals are read: `own`, each direction at its own layer, or layers for all directions (`all`, 0,3,6..9).
    #[arg(long, value_delimiter = ',', default_value = "own")]
    pub layers: Vec<String>,
    /// Values: cosines of residual and direction, or their products (no samples and no quantiles then).
    #[arg(long, value_parser = choice::<Measure>(), default_value = "cosine")]
    pub measure: Measure,
    /// How many largest and smallest values.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub top: u16,
    /// Tokens shown on either side of one.
    #[arg(long, default_value_t = 10)]
    pub window: u16,
    /// Width of the bins that samples are drawn from.
    #[arg(long, default_value_t = 0.02, value_parser = bin_width)]
    pub bin_width: f64,
    /// Samples of each bin.
    #[arg(long, default_value_t = 20)]
    pub samples: u16,
    /// Least occurrences of a token in _token_means.csv.
    #[arg(long, default_value_t = 10)]
    pub min_count: u64,
    /// A file of words, one a line, that _top, _samples and _token_means leave out: each in lower case, Capitalised and in
    /// UPPER CASE, with and without a space in front or behind.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "optional_path")]
    pub exclude: Option<PathBuf>,
    /// Share of the tokens beyond either quantile of the summary.
    #[arg(long, default_value_t = 0.001, value_parser = tail)]
    pub tail: f64,
    /// Write every token's values; always done for --text.
    #[arg(long)]
    pub every_token: bool,
    #[command(flatten)]
    pub compat: CompatArgs,
    #[command(flatten)]
    pub run: RunArgs,
}

fn bin_width(text: &str) -> std::result::Result<f64, String> {
    let found = text.parse().ok().filter(|width| (0.001..=1.0).contains(width));
    found.ok_or_else(|| "expected a width of 0.001 to 1".into())
}

fn tail(text: &str) -> std::result::Result<f64, String> {
    let found = text.parse().ok().filter(|share| (0.0..0.5).contains(share));
    found.ok_or_else(|| "expected a share of 0 or more and below 0.5".into())
}

impl Args {
    /// Does every token get a line?
    pub fn writes_values(&self) -> bool {
        self.every_token || self.corpus.corpus.is_none()
    }

    /// How much is kept.
    pub fn settings(&self) -> Settings {
        Settings {
            measure: self.measure,
            top: self.top.into(),
            window: self.window.into(),
            bin_width: self.bin_width,
            samples: self.samples.into(),
            seed: self.run.seed,
        }
    }

    /// The tokens of the vocabulary that lists leave out.
    fn excluded(&self, model: &Model) -> Result<HashSet<u32>> {
        let Some(path) = &self.exclude else { return Ok(HashSet::new()) };
        let file = format!("--exclude: {}", path.display());
        let words = Words::of_lines(&std::fs::read_to_string(path).with_context(|| file.clone())?);
        if words.is_empty() {
            bail!("{file}: expected a word a line, found none");
        }
        let mut excluded = HashSet::new();
        for token in 0..model.config.d_vocab as u32 {
            if words.contains(&model.tokenizer.decode(&[token])?) {
                excluded.insert(token);
            }
        }
        if excluded.is_empty() {
            bail!("{file}: expected a word that is one token of {}, found none", model.name);
        }
        Ok(excluded)
    }

    /// The directions that are asked for, at their layers.
    fn channels(&self, model: &Model) -> Result<Channels> {
        let own = self.layers == ["own"];
        let layers = if own { Vec::new() } else { resolve_layers(&self.layers, model.config.n_layers)? };
        let mut channels = Vec::new();
        for (name, direction) in unit_directions((&self.run, &self.compat), model, &self.directions)? {
            for layer in if own { vec![name.layer()] } else { layers.clone() } {
                channels.push((Channel { direction: name.to_string(), layer }, direction.clone()));
            }
        }
        Ok(Channels::new(channels))
    }
}

/// The pass over the corpus.
struct Pass<'a> {
    args: &'a Args,
    channels: Channels,
    excluded: HashSet<u32>,
    name: &'a str,
    folder: &'a Path,
    manifest: &'a mut Manifest,
}

impl DeviceWork for Pass<'_> {
    type Output = Outcome;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Outcome> {
        let Self { args, channels, excluded, name, folder, manifest } = self;
        manifest.computed_on(engine);
        let rows = args.corpus.rows(&engine.model().tokenizer, engine.config())?;
        let stem = folder.join(format!("neuroscope_{name}"));
        let mut files = Files::new(args, &channels, excluded, engine.model(), stem)?;
        let progress = spinner(format!("reading {name}"));
        let count = read_corpus(engine, rows, &channels, args.measure, |reading| files.add(&reading))?;
        progress.finish_and_clear();
        tracing::info!(tokens = count, "read");
        files.write(manifest)
    }
}

/// Reads a corpus along directions, for every model.
pub fn run(args: Args) -> Result<()> {
    let name = args.corpus.name()?;
    let mut all = Vec::new();
    for spec in &distinct(&args.models.models) {
        let model = args.models.load(spec, args.run.seed)?;
        let (model_name, folder) = (model.name.clone(), args.run.folder(&model.name));
        let (channels, excluded) = (args.channels(&model)?, args.excluded(&model)?);
        if args.run.dry_run {
            print(&plan(&args, &model, &channels)?)?;
            continue;
        }
        // The summary is written last: it says that the other files are there.
        if folder.join(format!("neuroscope_{name}_summary.csv")).is_file() && !args.run.overwrite {
            note_skipped(1, &format!("reading of {name:?}"), &folder);
            continue;
        }
        let mut manifest = args.run.manifest("neuroscope", &args, &folder, Some(&model))?;
        let work = Pass { args: &args, channels, excluded, name: &name, folder: &folder, manifest: &mut manifest };
        let outcome = args.run.in_pool(|| args.run.on_device(model, work))?;
        let record: RunRecord = manifest.finish()?;
        if !args.run.json {
            print(&format!("{model_name}, {} per token\n{}", args.measure.name(), outcome.table()))?;
        }
        let Outcome { summaries, top } = outcome;
        all.push(json!({ "model": model_name, "channels": summaries, "top": top, "manifest": record }));
    }
    if args.run.json && !args.run.dry_run { print_json(&all) } else { Ok(()) }
}

/// The text of a dry run: the corpus is counted, not read by the model.
fn plan(args: &Args, model: &Model, channels: &Channels) -> Result<String> {
    let (mut rows, mut tokens, mut flops) = (0usize, 0usize, Flops::default());
    for row in args.corpus.rows(&model.tokenizer, &model.config)? {
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
