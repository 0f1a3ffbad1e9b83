//! `treebank-data-gen`.

use crate::cli::args::{Asked, CompatArgs, ModelArgs, RunArgs, listed};
use crate::cli::choice::choice;
use crate::cli::runner::{Printer, Terminal, print, print_json};
use crate::datasets::treebank::{Scaffold, Split};
use crate::session::Session;
use crate::studies::{Filter, Study, TreebankDataGen};
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `treebank-data-gen`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch treebank-data-gen --root stanfordSentimentTreebank --models gpt2-small
  actpatch treebank-data-gen --models pythia-1.4b --scaffolds classification --splits train,test
  actpatch treebank-data-gen --models gpt2-small --filter always --overwrite

Writes DATA_DIR/<model>/treebank_<split>_<scaffold>.toml (the dataset) and .csv (the same pairs as a table), and
DATA_DIR/treebank_losses.csv: the sentences that are in no dataset because the files do not join there.")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    /// Folder with the Treebank's files, or where they are downloaded to.
    #[arg(long, default_value_os_t = TreebankDataGen::default().root)]
    root: PathBuf,
    /// Texts around the sentences.
    #[arg(long, value_delimiter = ',', value_parser = choice::<Scaffold>(), default_value = listed(&TreebankDataGen::default().scaffolds))]
    scaffolds: Vec<Scaffold>,
    /// Parts of the Treebank.
    #[arg(long, value_delimiter = ',', value_parser = choice::<Split>(), default_value = listed(&TreebankDataGen::default().splits))]
    splits: Vec<Split>,
    /// Keep only sentences to which the model prefers the right answer: auto does so where the paper's code did
    /// (pythia-1.4b, test, classification).
    #[arg(long, value_parser = choice::<Filter>(), default_value_t = TreebankDataGen::default().filter)]
    filter: Filter,
    /// Look up sentences without a phrase again, with bracket tokens written out and doubly encoded letters decoded.
    /// The paper's sizes (7864 train, 1007 dev, 2058 test) are those without.
    #[arg(long)]
    repair: bool,
    /// Address of the archive that is downloaded when files are missing.
    #[arg(long, default_value_t = TreebankDataGen::default().url)]
    url: String,
    /// SHA-256 that the archive must have.
    #[arg(long)]
    sha256: Option<String>,
    /// Never download (HF_HUB_OFFLINE=1 does the same).
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// Makes the datasets that the arguments name, for every model; the Treebank's files are read once.
pub fn run(args: Args) -> Result<()> {
    let asked = Asked { models: args.models, compat: CompatArgs::default(), run: args.run };
    let study = TreebankDataGen {
        root: args.root,
        scaffolds: args.scaffolds,
        splits: args.splits,
        filter: args.filter,
        repair: args.repair,
        url: args.url,
        sha256: args.sha256,
        offline: args.offline,
    };
    let (options, mut terminal, json) = (asked.options()?, Terminal::new()?, asked.run.json);
    let joined = study.join(&options, asked.run.dry_run, &mut terminal)?;
    if !json {
        print(&joined.to_string())?;
    }
    let (mut printer, mut all) = (Printer::new(json), Vec::new());
    for model in asked.models() {
        let session = Session::open(&model, options.clone())?;
        if asked.run.dry_run {
            printer.plan(&session.model().name, &study.plan(&session)?.timed(&session))?;
            continue;
        }
        let made = study.generate(&joined, &session, &mut terminal)?;
        match json {
            true => all.push(made),
            false => print(&made.to_string())?,
        }
    }
    match json && !asked.run.dry_run {
        true => print_json(&joined.with_models(all)),
        false => printer.finish(Ok(())),
    }
}
