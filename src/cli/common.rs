//! Arguments and steps that several commands share.

use super::device::Device;
use crate::backend::Dtype;
use crate::compat::Compat;
use crate::datasets::treebank::{Scaffold, Split};
use crate::datasets::{BuildOptions, Catalogue, DatasetError, END, PairedPrompts};
use crate::engine::{Layout, MEMORY_BUDGET, PatchPositions};
use crate::model::{Bos, LoadOptions, Model, ModelConfig, ModelError, WeightProcessing};
use crate::report::{Manifest, ModelRecord, RunStart};
use anyhow::{Context, Result, anyhow, bail};
use bytesize::ByteSize;
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Serialize, Serializer};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Which models, and how their weights are read.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct ModelArgs {
    /// Models: `demo`, an alias (gpt2-small, pythia-1.4b, …), a Hub id, a folder, or `random:<alias>`.
    #[arg(long, value_delimiter = ',', default_value = "demo")]
    pub models: Vec<String>,
    /// Branch, tag or commit on the Hub.
    #[arg(long)]
    pub revision: Option<String>,
    /// Tokenizer (file, folder or Hub id) instead of the model's own; random models use the demo model's without it.
    #[arg(long)]
    pub tokenizer: Option<String>,
    /// Beginning-of-sequence token in front of every text: as the model's family is used, always, or never.
    #[arg(long, value_enum, default_value_t)]
    pub bos: BosChoice,
    /// Rewrites of the weights as TransformerLens does them; `none` for the checkpoint's own.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Rewrite::ALL)]
    pub weight_processing: Vec<Rewrite>,
}

/// When a beginning-of-sequence token stands in front of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BosChoice {
    /// Where the family is used with one and the model has one, or where its tokenizer puts one there.
    #[default]
    Auto,
    /// Always; a model without one is refused.
    Always,
    /// Never.
    Never,
}

impl From<BosChoice> for Bos {
    fn from(choice: BosChoice) -> Self {
        match choice {
            BosChoice::Auto => Bos::Auto,
            BosChoice::Always => Bos::Always,
            BosChoice::Never => Bos::Never,
        }
    }
}

/// One rewrite of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[value(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Rewrite {
    /// Fold layer norms' gain and bias into the next product.
    FoldLn,
    /// Centre everything that writes to the residual stream.
    CenterWritingWeights,
    /// Centre the unembedding over the vocabulary.
    CenterUnembed,
    /// Move value biases behind the attention.
    FoldValueBiases,
    /// None of them.
    None,
}

impl Rewrite {
    const ALL: [Rewrite; 4] =
        [Rewrite::FoldLn, Rewrite::CenterWritingWeights, Rewrite::CenterUnembed, Rewrite::FoldValueBiases];

    fn name(self) -> &'static str {
        match self {
            Rewrite::FoldLn => "fold_ln",
            Rewrite::CenterWritingWeights => "center_writing_weights",
            Rewrite::CenterUnembed => "center_unembed",
            Rewrite::FoldValueBiases => "fold_value_biases",
            Rewrite::None => "none",
        }
    }
}

/// The names of the rewrites that are on, as records store them.
pub fn processing_names(processing: WeightProcessing) -> Vec<String> {
    let on = [
        processing.fold_ln,
        processing.center_writing_weights,
        processing.center_unembed,
        processing.fold_value_biases,
    ];
    Rewrite::ALL.into_iter().zip(on).filter(|(_, on)| *on).map(|(rewrite, _)| rewrite.name().to_owned()).collect()
}

/// What `--weight-processing` asks for.
pub fn processing_of(rewrites: &[Rewrite]) -> Result<WeightProcessing> {
    let has = |rewrite| rewrites.contains(&rewrite);
    if has(Rewrite::None) && rewrites.len() > 1 {
        bail!("--weight-processing: `none` stands alone");
    }
    Ok(WeightProcessing {
        fold_ln: has(Rewrite::FoldLn),
        center_writing_weights: has(Rewrite::CenterWritingWeights),
        center_unembed: has(Rewrite::CenterUnembed),
        fold_value_biases: has(Rewrite::FoldValueBiases),
    })
}

impl ModelArgs {
    /// Loads one of the models.
    pub fn load(&self, spec: &str, seed: u64) -> Result<Model> {
        let processing = processing_of(&self.weight_processing)?;
        let (revision, tokenizer) = (self.revision.clone(), self.tokenizer.clone());
        let options = LoadOptions { processing, revision, tokenizer, bos: self.bos.into(), seed };
        let model = Model::load(spec, &options).map_err(|error| {
            let culprit = match &error {
                ModelError::Name { spec: name, .. } if name == spec => "--models".to_owned(),
                ModelError::Name { .. } => "--tokenizer".to_owned(),
                _ => format!("model {spec}"),
            };
            anyhow::Error::new(error).context(culprit)
        })?;
        tracing::info!(model = model.name, config = ?model.config, "loaded");
        Ok(model)
    }
}

/// Which ways of the paper's code to follow.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct CompatArgs {
    /// Follow the paper's code where results here differ from it on purpose (docs/fidelity.md says what each name is).
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_enum)]
    compat: Vec<Compat>,
}

impl CompatArgs {
    /// The names, sorted, each once.
    pub fn names(&self) -> Vec<Compat> {
        self.compat.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Is `compat` asked for?
    pub fn has(&self, compat: Compat) -> bool {
        self.compat.contains(&compat)
    }

    /// The datasets as these names have them.
    pub fn catalogue(&self, run: &RunArgs) -> Result<Catalogue> {
        Ok(self.names().into_iter().fold(run.catalogue()?, Catalogue::with_compat))
    }

    /// The ending that sets result files of a run apart from those of one without these names.
    pub fn ending(&self) -> String {
        let names = self.names().into_iter().map(Compat::name).collect::<Vec<_>>().join("_");
        if names.is_empty() { names } else { format!("_compat_{names}") }
    }
}

/// In the data folder: hashes of large weight files, see [`crate::model::Provenance::with_every_hash`].
pub const KNOWN_HASHES: &str = "weights_sha256.json";

/// A path for a manifest, whatever its bytes.
pub fn lossy_path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// The same, if there is one.
pub fn optional_path<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    match path {
        Some(path) => lossy_path(path, serializer),
        None => serializer.serialize_none(),
    }
}

fn as_text<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn lossy_paths<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.display().to_string()))
}

/// Number format of the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DtypeArg {
    /// Single precision.
    F32,
    /// TensorFloat-32 products, on a GPU.
    Tf32,
    /// bfloat16 products: half the memory for weights, and faster on a GPU and on processors that multiply bfloat16.
    Bf16,
    /// f16 products, on a GPU; values from 65520 on overflow.
    F16,
}

/// Where results go and how they are computed.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct RunArgs {
    /// Results go to DATA_DIR/<model>; its words.toml and datasets.toml, if there, add to the built-in ones.
    #[arg(long, default_value = "data")]
    #[serde(serialize_with = "lossy_path")]
    pub data_dir: PathBuf,
    /// Another file of datasets (the format is described in data/datasets.toml).
    #[arg(long)]
    #[serde(serialize_with = "lossy_paths")]
    pub dataset_file: Vec<PathBuf>,
    /// Device: cpu, cuda or cuda:N (the N-th GPU), cuda:0,cuda:1 or cuda:all (they share the work of a sweep), or auto
    /// for a GPU when there is one.
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// Number format of the matrix products.
    #[arg(long, value_enum, default_value = "f32")]
    pub dtype: DtypeArg,
    /// Threads; 0 for one per core.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=1024))]
    pub threads: u16,
    /// Most tokens of one batch.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_tokens: u32,
    /// Most memory for what is kept of prompts at once, such as 500MB or 8GB; a batch may take as much again, and the weights
    /// come on top. By default a quarter of what the device has free behind the weights.
    #[arg(long, value_name = "SIZE")]
    #[serde(serialize_with = "as_text")]
    pub memory: Option<ByteSize>,
    /// Seed of DAS starts, of sampled positions, and of `random:` models.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Compute what already exists again, instead of skipping it.
    #[arg(long)]
    pub overwrite: bool,
    /// Print what would be computed, its arithmetic and memory, and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Print the results as JSON.
    #[arg(long, conflicts_with = "dry_run")]
    pub json: bool,
}

impl RunArgs {
    /// Runs `work` in a pool of the chosen number of threads.
    pub fn in_pool<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads.into()).build().context("--threads")?;
        pool.install(work)
    }

    /// The built-in datasets and the user's.
    pub fn catalogue(&self) -> Result<Catalogue> {
        let mut catalogue = Catalogue::load(Some(&self.data_dir)).map_err(|error| match &error {
            DatasetError::Io { source, .. } if source.kind() == ErrorKind::NotADirectory => {
                anyhow::Error::new(error).context(format!("--data-dir: {} is no folder", self.data_dir.display()))
            }
            _ => error.into(),
        })?;
        for file in &self.dataset_file {
            catalogue = catalogue.with_file(file)?;
        }
        Ok(catalogue)
    }

    /// The number format as the backend names it.
    pub fn dtype(&self) -> Dtype {
        match self.dtype {
            DtypeArg::F32 => Dtype::F32,
            DtypeArg::Tf32 => Dtype::Tf32,
            DtypeArg::Bf16 => Dtype::Bf16,
            DtypeArg::F16 => Dtype::F16,
        }
    }

    /// The folder of a model's results.
    pub fn folder(&self, model: &str) -> PathBuf {
        self.data_dir.join(model)
    }

    /// Begins the manifest of a command that will write to `folder`, which is refused if it cannot be written to.
    pub fn manifest(
        &self,
        command: &str,
        options: &impl Serialize,
        folder: &Path,
        model: Option<&Model>,
    ) -> Result<Manifest> {
        let hashes = self.data_dir.join(KNOWN_HASHES);
        let record = |model: &Model| ModelRecord::new(model, processing_names(model.processing), &hashes);
        begin_manifest(command, options, folder, model.map(record).transpose()?)
    }

    /// The memory budget, if the user gives one, in bytes.
    pub fn memory_budget(&self) -> Option<usize> {
        self.memory.map(|size| usize::try_from(size.as_u64()).unwrap_or(usize::MAX))
    }

    /// Values that a run over `whole` keeps at most, as a dry run counts them.
    pub fn planned_values(&self, config: &ModelConfig, whole: &Layout) -> usize {
        let budget = self.memory_budget().unwrap_or(MEMORY_BUDGET);
        (whole.n_tokens() * config.d_model * (3 * config.n_layers + 20)).min(budget / 4)
    }

    /// Expected memory of a run on a model, in bytes: packed weights, and `activations` values in f32.
    pub fn memory(&self, config: &ModelConfig, activations: usize) -> usize {
        config.n_layers * config.block_weights() * self.dtype().weight_bytes() + 4 * activations
    }
}

/// A command line without arguments.
#[derive(clap::Parser)]
struct Defaults<T: clap::Args> {
    #[command(flatten)]
    args: T,
}

/// A command's own defaults, for commands that are made of others.
pub fn defaults<T: clap::Args>() -> Result<T> {
    Defaults::try_parse_from(["actpatch"]).map(|parsed| parsed.args).context("default arguments")
}

/// Refuses a folder that cannot be written to before any work is done.
pub fn check_writable(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("--data-dir: cannot make {}", folder.display()))?;
    tempfile::tempfile_in(folder).with_context(|| format!("--data-dir: cannot write to {}", folder.display()))?;
    Ok(())
}

/// Begins the manifest of a command that will write to `folder`, with or without a model.
pub fn begin_manifest(
    command: &str,
    options: &impl Serialize,
    folder: &Path,
    model: Option<ModelRecord>,
) -> Result<Manifest> {
    check_writable(folder)?;
    let arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let configuration = serde_json::to_value(options)?;
    Ok(Manifest::start(folder, RunStart { command, arguments, configuration, model })?)
}

/// Builds a dataset for a model. Those of the Treebank are files in the model's folder, one per scaffold; all others are
/// plain.
pub fn build_prompts(
    run: &RunArgs,
    catalogue: &Catalogue,
    name: &str,
    scaffold: Scaffold,
    model: &Model,
) -> Result<PairedPrompts> {
    let options = BuildOptions { prepend_bos: model.tokenizer.bos().is_some(), ..BuildOptions::default() };
    let Some(split) = Split::of_dataset(name) else {
        if scaffold != Scaffold::Plain {
            bail!("--scaffold: expected plain for dataset {name}, found {scaffold} (scaffolds are for the Treebank)");
        }
        return Ok(catalogue.build(name, &model.tokenizer, &options)?);
    };
    let file = scaffold.dataset_file(&run.folder(&model.name), split);
    if !file.is_file() {
        bail!(
            "{name}: {} is missing; make it with: actpatch treebank-data-gen --models {} --splits {split} --scaffolds {scaffold}{}",
            file.display(),
            model.name,
            if run.data_dir == Path::new("data") {
                String::new()
            } else {
                format!(" --data-dir {}", run.data_dir.display())
            }
        );
    }
    Ok(catalogue.build_from(&file, name, &model.tokenizer, &options)?)
}

/// The rows of a dataset patched at `positions`, as a dry run counts them: ALL from the first position on.
pub fn planned_rows(prompts: &PairedPrompts, positions: PatchPositions) -> Layout {
    Layout::new(prompts.clean.iter().map(|&sequence| {
        let len = prompts.sequences[sequence].len();
        match positions {
            PatchPositions::One(position) => (position, len),
            PatchPositions::Last => (len.saturating_sub(1), len),
            PatchPositions::All => (0, len),
        }
    }))
}

/// Placeholders in the order in which they are a dataset's default position.
const USUAL_POSITIONS: [&str; 8] = ["ADJ", "ADJ1", "ADV", "FEEL", "NOUN", "MED", "VRB", "END"];

/// A position of a dataset by name: a placeholder, `END`, `ALL`, or `auto` for its main placeholder, in a dataset without
/// any (the Treebank) `ALL`.
///
/// Returns the name it goes by in files, and the position.
pub fn resolve_position(prompts: &PairedPrompts, name: &str) -> Result<(String, PatchPositions)> {
    position_for("--positions", prompts, name)
}

/// The same for the option `flag`.
pub fn position_for(flag: &str, prompts: &PairedPrompts, name: &str) -> Result<(String, PatchPositions)> {
    let ragged = !prompts.positions.contains_key(END);
    if name == "ALL" || (name == "auto" && prompts.positions.is_empty()) {
        return Ok(("ALL".into(), PatchPositions::All));
    }
    if name == END && ragged {
        return Ok((END.into(), PatchPositions::Last));
    }
    let chosen = match name {
        "auto" => USUAL_POSITIONS.into_iter().find(|usual| prompts.positions.contains_key(*usual)).unwrap_or(name),
        name => name,
    };
    let position = prompts.positions.get(chosen).ok_or_else(|| {
        let known: Vec<&str> = prompts.positions.keys().map(String::as_str).collect();
        let known = if ragged { [&known[..], &[END]].concat() } else { known };
        anyhow!("{flag}: dataset {} has no position {chosen:?}, it has {} and ALL", prompts.name, known.join(", "))
    })?;
    Ok((chosen.into(), PatchPositions::One(*position)))
}

/// The positions of a list, each once: `auto` may name one that stands there too.
pub fn resolve_positions(prompts: &PairedPrompts, names: &[String]) -> Result<Vec<(String, PatchPositions)>> {
    let found = names.iter().map(|name| resolve_position(prompts, name)).collect::<Result<Vec<_>>>()?;
    Ok(distinct(&found))
}

/// Every prompt's position of this name, or number: one each. `option` is what they were asked for by.
pub fn prompt_positions(option: &str, prompts: &PairedPrompts, name: &str) -> Result<Vec<usize>> {
    let lengths: Vec<usize> = prompts.clean.iter().map(|&sequence| prompts.sequences[sequence].len()).collect();
    let found = match name.parse() {
        Ok(position) => PatchPositions::One(position),
        Err(_) => resolve_position(prompts, name)?.1,
    };
    match found {
        PatchPositions::One(position) => match lengths.iter().find(|length| position >= **length) {
            None => Ok(vec![position; lengths.len()]),
            Some(length) => bail!("{option}: {}: expected a position in 0..{length}, found {position}", prompts.name),
        },
        PatchPositions::Last => Ok(lengths.iter().map(|length| length - 1).collect()),
        PatchPositions::All => bail!("{option}: expected one position, found {name}"),
    }
}

/// The entries of a list in their order, each once.
pub fn distinct<T: Clone + PartialEq>(list: &[T]) -> Vec<T> {
    let mut kept: Vec<T> = Vec::with_capacity(list.len());
    for entry in list {
        if !kept.contains(entry) {
            kept.push(entry.clone());
        }
    }
    kept
}

/// Layers `0..=n_layers` as `all`, or a list of numbers and ranges such as `0,3,6..9` (both ends included).
pub fn resolve_layers(list: &[String], n_layers: usize) -> Result<Vec<usize>> {
    layers_for("--layers", list, n_layers)
}

/// The same for the option `flag`.
pub fn layers_for(flag: &str, list: &[String], n_layers: usize) -> Result<Vec<usize>> {
    let mut layers = Vec::new();
    for item in list {
        let bad = || anyhow!("{flag}: expected `all`, a number or a range such as 2..5, found {item:?}");
        let (first, last) = match item.split_once("..") {
            _ if item == "all" => (0, n_layers),
            Some((first, last)) => (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?),
            None => {
                let layer: usize = item.parse().map_err(|_| bad())?;
                (layer, layer)
            }
        };
        if first > last || last > n_layers {
            bail!("{flag}: {item} is outside 0..{n_layers} ({n_layers} is behind the last block)");
        }
        layers.extend(first..=last);
    }
    layers.sort_unstable();
    layers.dedup();
    Ok(layers)
}

/// Writes text to stdout; a closed pipe ends the program quietly.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.context("stdout"),
    }
}

/// Prints a value as JSON.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Says on stderr what was skipped because it exists.
pub fn note_skipped(count: usize, what: &str, place: &Path) {
    if count > 0 {
        let _ = writeln!(
            std::io::stderr(),
            "{count} {what} exist already in {} and are kept (--overwrite computes them again)",
            place.display()
        );
    }
}

/// A progress bar on stderr; invisible when stderr is no terminal.
pub fn bar(len: usize, message: impl Into<String>) -> ProgressBar {
    let bar = ProgressBar::new(len as u64).with_message(message.into());
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar
}

/// A spinner on stderr for work of unknown length.
pub fn spinner(message: String) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(message);
    spinner.enable_steady_tick(std::time::Duration::from_millis(200));
    spinner
}

/// Bytes for people.
pub fn bytes(count: usize) -> String {
    match count {
        0..1_000_000 => format!("{:.0} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(list: &[&str]) -> Result<Vec<usize>> {
        resolve_layers(&list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), 12)
    }

    #[test]
    fn layer_lists_hold_numbers_and_ranges() {
        assert_eq!(layers(&["all"]).unwrap(), (0..=12).collect::<Vec<_>>());
        assert_eq!(layers(&["6..8", "0", "7"]).unwrap(), [0, 6, 7, 8]);
        for wrong in ["13", "5..20", "8..6", "x", "1..", "-1", ""] {
            assert!(layers(&[wrong]).unwrap_err().to_string().contains("--layers"), "{wrong}");
        }
    }
}
