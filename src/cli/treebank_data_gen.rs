//! `treebank-data-gen`.

use super::common::{ModelArgs, RunArgs, bar, distinct, lossy_path, note_skipped, print, print_json};
use super::device::DeviceWork;
use crate::backend::Backend;
use crate::datasets::treebank::{
    Archive, Encoded, Loss, OFFICIAL_ARCHIVE, PairedSentence, Provenance, Scaffold, Split, Treebank, TreebankFiles,
    answer_tokens, dataset_text, encode, pair, table_of_pairs,
};
use crate::engine::Engine;
use crate::experiments::logit_filter::logit_differences;
use crate::files::{csv_bytes, sha256_of_file, write_whole};
use crate::model::{HubSettings, Model};
use crate::report::{Manifest, RunRecord, Table};
use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Arguments of `treebank-data-gen`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch treebank-data-gen --root stanfordSentimentTreebank --models gpt2-small
  actpatch treebank-data-gen --models pythia-1.4b --scaffolds classification --splits train,test
  actpatch treebank-data-gen --models gpt2-small --filter always --overwrite

Writes DATA_DIR/<model>/treebank_<split>_<scaffold>.toml (the dataset) and .csv (the same pairs as a table), and
DATA_DIR/treebank_losses.csv: the sentences that are in no dataset because the files do not join there.")]
pub struct Args {
    #[command(flatten)]
    #[serde(flatten)]
    models: ModelArgs,
    /// Folder with the Treebank's files, or where they are downloaded to.
    #[arg(long, default_value = "stanfordSentimentTreebank")]
    #[serde(serialize_with = "lossy_path")]
    root: PathBuf,
    /// Texts around the sentences.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Scaffold::ALL)]
    scaffolds: Vec<Scaffold>,
    /// Parts of the Treebank.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Split::ALL)]
    splits: Vec<Split>,
    /// Keep only sentences to which the model prefers the right answer: auto does so where the paper's code did
    /// (pythia-1.4b, test, classification).
    #[arg(long, value_enum, default_value = "auto")]
    filter: Filter,
    /// Look up sentences without a phrase again, with bracket tokens written out and doubly encoded letters decoded.
    /// The paper's sizes (7864 train, 1007 dev, 2058 test) are those without.
    #[arg(long)]
    repair: bool,
    /// Address of the archive that is downloaded when files are missing.
    #[arg(long, default_value = OFFICIAL_ARCHIVE)]
    url: String,
    /// SHA-256 that the archive must have.
    #[arg(long)]
    sha256: Option<String>,
    /// Never download (HF_HUB_OFFLINE=1 does the same).
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    #[serde(flatten)]
    run: RunArgs,
}

/// Which datasets keep only what the model gets right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Filter {
    /// Those of the paper's code.
    Auto,
    /// All but plain ones.
    Always,
    /// None.
    Never,
}

impl Filter {
    fn applies(self, model: &str, split: Split, scaffold: Scaffold) -> bool {
        match self {
            Filter::Auto => model == "pythia-1.4b" && split == Split::Test && scaffold == Scaffold::Classification,
            Filter::Always => scaffold != Scaffold::Plain,
            Filter::Never => false,
        }
    }
}

/// What became of one dataset.
#[derive(Debug, Serialize)]
struct Outcome {
    dataset: &'static str,
    scaffold: Scaffold,
    #[serde(serialize_with = "lossy_path")]
    file: PathBuf,
    /// Sentences of the split.
    sentences: usize,
    /// Sentences whose prompt is longer than the model's context.
    too_long: usize,
    /// Sentences that the model gets wrong; none unless filtered.
    filtered_out: usize,
    /// Sentences without a partner of the same length.
    unpaired: usize,
    rows: usize,
}

/// Makes the datasets that the arguments name, for every model.
pub fn run(args: Args) -> Result<()> {
    let files = provide(&args)?;
    let treebank = Treebank::read(&files, args.repair)?;
    let provenance = files.paths().map(|path| -> Result<_> {
        let sha256 = sha256_of_file(path).with_context(|| path.display().to_string())?;
        Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), sha256))
    });
    let sources = provenance.into_iter().collect::<Result<Vec<_>>>()?;
    let losses = args.run.data_dir.join("treebank_losses.csv");
    if !args.run.dry_run {
        write_whole(&losses, &losses_csv(&treebank)?).with_context(|| losses.display().to_string())?;
    }
    if !args.run.json {
        print(&joined(&treebank, &losses))?;
    }
    let mut all = Vec::new();
    for spec in &distinct(&args.models.models) {
        let model = args.models.load(spec, args.run.seed)?;
        let name = model.name.clone();
        let folder = args.run.folder(&name);
        let (outcomes, manifest) = args.run.in_pool(|| generate(&args, &treebank, &sources, model, &folder))?;
        if !args.run.json {
            print(&format!("{name}\n{}\n", table(&outcomes)))?;
        }
        all.push(json!({ "model": name, "datasets": outcomes, "manifest": manifest }));
    }
    if args.run.json {
        let lost = count_losses(&treebank);
        print_json(&json!({ "sentences": treebank.sentences.len(), "losses": lost, "models": all }))?;
    }
    Ok(())
}

/// The files, downloaded if need be.
fn provide(args: &Args) -> Result<TreebankFiles> {
    let HubSettings { offline, limits, .. } = HubSettings::from_environment();
    let offline = args.offline || args.run.dry_run || offline;
    let archive = Archive { url: args.url.clone(), sha256: args.sha256.clone(), offline, limits };
    let progress = bar(0, "downloading the Treebank");
    let files = archive.provide(&args.root, |done, total| {
        progress.set_length(total);
        progress.set_position(done);
    })?;
    progress.finish_and_clear();
    Ok(files)
}

/// Sentences per split, and why others are missing.
fn joined(treebank: &Treebank, losses: &Path) -> String {
    let mut table = Table::new(["split", "sentences", "positive", "negative"]);
    for split in Split::ALL {
        let (all, positive) = (treebank.split(split).count(), treebank.split(split).filter(|s| s.positive).count());
        table.push([split.to_string(), all.to_string(), positive.to_string(), (all - positive).to_string()]);
    }
    let lost: Vec<String> =
        count_losses(treebank).into_iter().map(|(loss, count)| format!("{count} {}", loss.name())).collect();
    match lost.is_empty() {
        true => format!("{table}no sentence is lost in joining the files\n\n"),
        false => format!("{table}lost in joining the files: {} (see {})\n\n", lost.join(", "), losses.display()),
    }
}

fn count_losses(treebank: &Treebank) -> BTreeMap<Loss, usize> {
    let mut counts = BTreeMap::new();
    treebank.losses.iter().for_each(|(_, _, loss)| *counts.entry(*loss).or_insert(0) += 1);
    counts
}

fn losses_csv(treebank: &Treebank) -> std::io::Result<Vec<u8>> {
    let row = |(index, text, loss): &(u64, String, Loss)| [index.to_string(), loss.name().to_owned(), text.clone()];
    let header = ["sentence_index", "reason", "text"].map(str::to_owned);
    csv_bytes(std::iter::once(header).chain(treebank.losses.iter().map(row)))
}

fn table(outcomes: &[Outcome]) -> String {
    let head = ["dataset", "scaffold", "sentences", "too long", "filtered out", "unpaired", "rows"];
    let mut table = Table::new(head);
    for outcome in outcomes {
        let Outcome { sentences, too_long, filtered_out, unpaired, rows, .. } = outcome;
        let counts = [sentences, too_long, filtered_out, unpaired, rows].map(ToString::to_string);
        table.push([outcome.dataset.to_owned(), outcome.scaffold.to_string()].into_iter().chain(counts));
    }
    table.to_string()
}

/// Makes the datasets of one model that are not there yet; the manifest is none when nothing was to be written.
fn generate(
    args: &Args,
    treebank: &Treebank,
    sources: &[(String, String)],
    model: Model,
    folder: &Path,
) -> Result<(Vec<Outcome>, Option<RunRecord>)> {
    let mut wanted = Vec::new();
    let mut kept = 0;
    for &split in &args.splits {
        for &scaffold in &args.scaffolds {
            let there =
                [scaffold.dataset_file(folder, split), scaffold.csv_file(folder, split)].iter().all(|p| p.is_file());
            if there && !args.run.overwrite {
                kept += 1;
            } else if !wanted.contains(&(split, scaffold)) {
                wanted.push((split, scaffold));
            }
        }
    }
    note_skipped(kept, "datasets", folder);
    let filtered = wanted.iter().any(|&(split, scaffold)| args.filter.applies(&model.name, split, scaffold));
    let mut manifest = match args.run.dry_run || wanted.is_empty() {
        true => None,
        false => Some(args.run.manifest("treebank-data-gen", args, folder, Some(&model))?),
    };
    let datasets = Datasets { args, treebank, sources, folder, wanted, manifest: manifest.as_mut() };
    // Only the filter runs the model; everything else needs its tokenizer alone.
    let outcomes = match filtered && !args.run.dry_run {
        true => args.run.on_device(model, datasets)?,
        false => datasets.make(&model, None)?,
    };
    Ok((outcomes, manifest.map(Manifest::finish).transpose()?))
}

/// Keeps the sentences whose right answer, of the two given tokens, has the higher logit.
type Keep<'a> = &'a dyn Fn(Vec<Encoded>, (u32, u32)) -> Result<Vec<Encoded>>;

/// The datasets of one model that are to be made.
struct Datasets<'a> {
    args: &'a Args,
    treebank: &'a Treebank,
    sources: &'a [(String, String)],
    folder: &'a Path,
    wanted: Vec<(Split, Scaffold)>,
    manifest: Option<&'a mut Manifest>,
}

impl DeviceWork for Datasets<'_> {
    type Output = Vec<Outcome>;

    fn run<B: Backend>(mut self, engine: &Engine<B>) -> Result<Vec<Outcome>> {
        self.manifest.iter_mut().for_each(|manifest| manifest.computed_on(engine));
        self.make(engine.model(), Some(&|all, answers| right_ones(engine, all, answers)))
    }
}

impl Datasets<'_> {
    fn make(self, model: &Model, filter: Option<Keep<'_>>) -> Result<Vec<Outcome>> {
        let Self { args, treebank, sources, folder, wanted, mut manifest } = self;
        let progress = bar(wanted.len(), format!("datasets of {}", model.name));
        let mut outcomes = Vec::new();
        for (split, scaffold) in wanted {
            let maker = Maker { args, treebank, model, filter, split, scaffold };
            outcomes.push(maker.make(sources, folder)?);
            if let Some(manifest) = &mut manifest {
                manifest.wrote(&scaffold.csv_file(folder, split), []);
                manifest.wrote(&scaffold.dataset_file(folder, split), []);
            }
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok(outcomes)
    }
}

/// One dataset in the making.
struct Maker<'a> {
    args: &'a Args,
    treebank: &'a Treebank,
    model: &'a Model,
    filter: Option<Keep<'a>>,
    split: Split,
    scaffold: Scaffold,
}

impl Maker<'_> {
    fn make(&self, sources: &[(String, String)], folder: &Path) -> Result<Outcome> {
        let Self { args, treebank, model, split, scaffold, .. } = *self;
        let answers = answer_tokens(scaffold, &model.tokenizer)?;
        let all = encode(treebank.split(split), scaffold, &model.tokenizer)?;
        let sentences = all.len();
        let mut usable: Vec<Encoded> = all.into_iter().filter(|one| one.tokens.len() <= model.config.n_ctx).collect();
        let too_long = sentences - usable.len();
        let filtered = args.filter.applies(&model.name, split, scaffold);
        if let (true, Some(filter)) = (filtered, self.filter) {
            usable = filter(usable, answers)?;
        }
        let filtered_out = sentences - too_long - usable.len();
        let rows = pair(&usable, split)?;
        let unpaired = usable.len() - rows.len();
        let provenance = Provenance { model: model.name.clone(), sources: sources.to_vec(), filtered, sentences };
        let file = scaffold.dataset_file(folder, split);
        if !args.run.dry_run {
            self.write(&rows, &provenance, folder)?;
        }
        let (dataset, rows) = (split.dataset(), rows.len());
        Ok(Outcome { dataset, scaffold, file, sentences, too_long, filtered_out, unpaired, rows })
    }

    /// The table first: a dataset that is there has its table.
    fn write(&self, rows: &[PairedSentence], provenance: &Provenance, folder: &Path) -> Result<()> {
        let (split, scaffold) = (self.split, self.scaffold);
        let csv = scaffold.csv_file(folder, split);
        write_whole(&csv, &csv_bytes(table_of_pairs(rows))?).with_context(|| csv.display().to_string())?;
        let file = scaffold.dataset_file(folder, split);
        let text = dataset_text(rows, split, scaffold, provenance);
        write_whole(&file, text.as_bytes()).with_context(|| file.display().to_string())
    }
}

/// The sentences whose right answer has the higher logit.
fn right_ones<B: Backend>(engine: &Engine<B>, mut all: Vec<Encoded>, answers: (u32, u32)) -> Result<Vec<Encoded>> {
    let sequences: Vec<Vec<u32>> = all.iter().map(|one| one.tokens.clone()).collect();
    let differences = logit_differences(engine, &sequences, answers)?;
    let mut right = all.iter().zip(differences).map(|(one, difference)| match one.positive {
        true => difference > 0.0,
        false => difference < 0.0,
    });
    let keep: Vec<bool> = right.by_ref().collect();
    let mut keep = keep.into_iter();
    all.retain(|_| keep.next().unwrap_or(false));
    Ok(all)
}
