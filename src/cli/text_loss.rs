//! `text-loss`.

use super::common::{
    CompatArgs, ModelArgs, RunArgs, distinct, note_skipped, print, print_json, resolve_layers, spinner,
};
use super::corpus::CorpusArgs;
use super::device::DeviceWork;
use super::stored_directions::{ByLayer, at_layers, with_random};
use super::tables::bar_figure;
use crate::backend::Backend;
use crate::engine::{Engine, Flops, Layout};
use crate::experiments::ablation::Replacement;
use crate::experiments::text_loss::{TextCondition, TextLosses, text_losses};
use crate::model::Model;
use crate::report::{Columns, KeyedRow, KeyedTable, Manifest, Table};
use anyhow::Result;
use serde::Serialize;
use serde_json::json;

/// Arguments of `text-loss`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch text-loss --models gpt2-small --corpus openwebtext.jsonl --directions kmeans_simple_train_ADJ_layer1
  actpatch text-loss --corpus reviews.txt --directions das_simple_train_ADJ --methods zero,resample --random 4

A corpus is a file of texts, one per line, .jsonl with {\"text\": …} or {\"tokens\": […]} per line, or .npy with an array
(rows, tokens) of token ids. Directions are taken away at every position, in front of every block and at the end (--layers
chooses).
Files in DATA_DIR/<model>/: text_loss_<name>.csv (mean loss of the next token in nats, and its change), .svg, .png, .html.")]
pub struct Args {
    #[command(flatten)]
    pub models: ModelArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub corpus: CorpusArgs,
    /// Directions to take away: das_simple_train_ADJ is every layer's own, das_simple_train_ADJ_layer2 the same one
    /// everywhere.
    #[arg(long, value_delimiter = ',', required = true)]
    pub directions: Vec<String>,
    /// Layers at which directions are taken away (the number of layers stands for the end); all that are there without it.
    #[arg(long, value_delimiter = ',')]
    pub layers: Vec<String>,
    /// How many random directions to take away in the same places for comparison.
    #[arg(long, default_value_t = 4)]
    pub random: u32,
    /// What takes the component's place: zero, or resample (another text's at the same position).
    #[arg(long, value_delimiter = ',', default_value = "resample", value_parser = ["zero", "resample"])]
    pub methods: Vec<String>,
    #[command(flatten)]
    pub compat: CompatArgs,
    #[command(flatten)]
    pub run: RunArgs,
}

/// The table's columns.
const COLUMNS: Columns = Columns { keys: &["ablated", "method"], numbers: &["tokens", "clean_loss", "loss", "change"] };

/// A condition and the keys of its row.
type Case = (Vec<String>, TextCondition);

impl Args {
    /// Every direction and its random companions, with every method.
    fn cases(&self, model: &Model) -> Result<Vec<Case>> {
        let n_layers = model.config.n_layers;
        let layers = match self.layers.is_empty() {
            true => None,
            false => Some(resolve_layers(&self.layers, n_layers)?),
        };
        let targets: Vec<(String, ByLayer)> =
            with_random((&self.run, &self.compat), model, &self.directions, layers.as_deref(), self.random)?;
        let mut cases = Vec::new();
        for (name, columns) in targets {
            for method in distinct(&self.methods) {
                let replacement = method.parse::<Replacement>().map_err(anyhow::Error::msg)?;
                let keys = vec![format!("{name}{}", at_layers(&columns, n_layers)), method];
                cases.push((keys, TextCondition { columns: columns.clone(), replacement }));
            }
        }
        Ok(cases)
    }
}

/// The pass over the corpus.
struct Pass<'a> {
    args: &'a Args,
    conditions: Vec<TextCondition>,
    manifest: &'a mut Manifest,
}

impl DeviceWork for Pass<'_> {
    type Output = TextLosses;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<TextLosses> {
        self.manifest.computed_on(engine);
        let rows = self.args.corpus.rows(&engine.model().tokenizer, engine.config())?;
        let progress = spinner("reading".into());
        let told = |tokens: usize| -> Result<()> {
            progress.set_message(format!("{tokens} tokens"));
            Ok(())
        };
        let losses = text_losses(engine, rows, &self.conditions, self.args.run.seed, told)?;
        progress.finish_and_clear();
        Ok(losses)
    }
}

/// Takes directions away from a corpus, for every model.
pub fn run(args: Args) -> Result<()> {
    let name = args.corpus.name()?;
    let mut all = Vec::new();
    for spec in &distinct(&args.models.models) {
        let model = args.models.load(spec, args.run.seed)?;
        let (model_name, folder) = (model.name.clone(), args.run.folder(&model.name));
        let stem = format!("text_loss_{name}");
        let mut table = KeyedTable::read(&folder.join(format!("{stem}.csv")), COLUMNS)?;
        let asked = args.cases(&model)?;
        let there = |keys: &[String]| !args.run.overwrite && table.rows_of(keys).next().is_some();
        let (kept, cases): (Vec<Case>, Vec<Case>) = asked.iter().cloned().partition(|(keys, _)| there(keys));
        note_skipped(kept.len(), "conditions", table.path());
        if args.run.dry_run {
            print(&plan(&args, &model, &cases)?)?;
            continue;
        }
        let mut record = None;
        if !cases.is_empty() {
            let mut manifest = args.run.manifest("text-loss", &args, &folder, Some(&model))?;
            let (keys, conditions): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
            let work = Pass { args: &args, conditions, manifest: &mut manifest };
            let losses = args.run.in_pool(|| args.run.on_device(model, work))?;
            for (keys, loss) in keys.into_iter().zip(&losses.ablated) {
                let numbers = [losses.tokens as f64, losses.clean, *loss, loss - losses.clean].map(Some).to_vec();
                table.insert(KeyedRow { keys, numbers });
            }
            table.write()?;
            manifest.wrote(table.path(), []);
            let rows: Vec<&KeyedRow> = table.rows().iter().collect();
            let title = format!("Loss on {name} without directions, {model_name}");
            let change = [("change", "change of the loss (nats per token)")];
            let figure = bar_figure(title, COLUMNS, &rows, |row| row.keys.join(" "), &change);
            figure.write(&folder, &stem)?.iter().for_each(|path| manifest.wrote(path, []));
            record = Some(manifest.finish()?);
        }
        let rows: Vec<&KeyedRow> = asked.iter().flat_map(|(keys, _)| table.rows_of(keys)).collect();
        if !args.run.json {
            print(&summary(&model_name, &rows))?;
        }
        let rows: Vec<_> = rows.iter().map(|row| row.as_json(COLUMNS)).collect();
        all.push(json!({ "model": model_name, "file": stem, "rows": rows, "manifest": record }));
    }
    if args.run.json && !args.run.dry_run { print_json(&all) } else { Ok(()) }
}

fn summary(model: &str, rows: &[&KeyedRow]) -> String {
    let mut table = Table::new(["ablated", "method", "tokens", "clean loss", "loss", "change"]);
    for row in rows {
        let decimals = |(number, value): (usize, &Option<f64>)| {
            value.map_or(String::new(), |value| if number == 0 { format!("{value}") } else { format!("{value:.4}") })
        };
        table.push(row.keys.iter().cloned().chain(row.numbers.iter().enumerate().map(decimals)));
    }
    format!("{model}, nats per token\n{table}")
}

/// The text of a dry run: the corpus is counted, not read by the model.
fn plan(args: &Args, model: &Model, cases: &[Case]) -> Result<String> {
    let (mut tokens, mut flops) = (0usize, Flops::default());
    for row in args.corpus.rows(&model.tokenizer, &model.config)? {
        let length = row?.tokens.len();
        tokens += length - 1;
        flops = flops + Flops::whole(&model.config, &Layout::new([(0, length)]));
    }
    let mut table = Table::new(["ablated", "method"]);
    cases.iter().for_each(|(keys, _)| table.push(keys.clone()));
    let passes = cases.len() + 1;
    Ok(format!("{}\n{table}{passes} passes over {tokens} tokens, {flops} each\n", model.name))
}
