//! `text-loss`.

use super::common::{CompatArgs, ModelArgs, RunArgs, distinct, optional_path, resolve_layers, spinner};
use super::corpus::CorpusArgs;
use super::places::resolve_text_places;
use super::stored_directions::{at_layers, with_random};
use super::tables::{Keyed, Subject, TableCommand, bar_figure};
use super::text_loss_files::{TokenFiles, conditions_of};
use crate::backend::Backend;
use crate::engine::{Engine, Flops, Layout};
use crate::experiments::ablation::Replacement;
use crate::experiments::text_loss::{TextCondition, TextLoss, TextPlaces, check_conditions, text_losses, text_means};
use crate::model::Model;
use crate::report::figure::Figure;
use crate::report::{Columns, KeyedRow, KeyedTable, Manifest, Table};
use crate::types::Matrix;
use anyhow::{Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments of `text-loss`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch text-loss --models gpt2-small --corpus openwebtext.jsonl --directions kmeans_simple_train_ADJ_layer1
  actpatch text-loss --corpus reviews.txt --directions das_simple_train_ADJ --methods zero,resample --random 4
  actpatch text-loss --corpus reviews.txt --positions COMMA,PERIOD --methods mean_over_places --by-token 100

A corpus is a file of texts, one per line, .jsonl with {\"text\": …} or {\"tokens\": […]} per line, or .npy with an array
(rows, tokens) of token ids. Directions, or whole residuals without any, are replaced in front of every block and at the end
(--layers chooses). Where only some tokens are ablated, the loss that is predicted from one of them is not counted: what
counts is what other tokens read there.
Files in DATA_DIR/<model>/: text_loss_<name>.csv (mean loss of the next token in nats, and its change; `reached` are the tokens
behind an ablated one), .svg, .png, .html; with --by-token N text_loss_<name>_by_token_<N>.csv, _top.csv and .html, which hold
what the last such run was asked for.")]
pub struct Args {
    #[command(flatten)]
    pub models: ModelArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub corpus: CorpusArgs,
    /// Directions to ablate: das_simple_train_ADJ is every layer's own, das_simple_train_ADJ_layer2 the same one everywhere;
    /// the whole residual without any.
    #[arg(long, value_delimiter = ',')]
    pub directions: Vec<String>,
    /// Layers at which to ablate (the number of layers stands for the end); all that are there without it.
    #[arg(long, value_delimiter = ',')]
    pub layers: Vec<String>,
    /// How many random directions to ablate in the same places for comparison.
    #[arg(long, default_value_t = 4)]
    pub random: u32,
    /// What takes their place: zero, resample (another text's at the same position), mean_over_places (one mean of every
    /// layer over all such tokens).
    #[arg(long, value_delimiter = ',', default_value = "resample", value_parser = ["zero", "resample", "mean_over_places"])]
    pub methods: Vec<String>,
    /// The corpus that means are taken of, instead of the one whose loss is measured.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "optional_path")]
    pub means_corpus: Option<PathBuf>,
    /// Tokens to ablate: ALL, COMMA, PERIOD; joined by + they are ablated together.
    #[arg(long, value_delimiter = ',', default_value = "ALL")]
    pub positions: Vec<String>,
    /// Write the change of the loss of every token of the first N texts, and the N tokens of all texts that it grows most at.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub by_token: Option<u32>,
    #[command(flatten)]
    pub compat: CompatArgs,
    #[command(flatten)]
    pub run: RunArgs,
}

/// What values are.
pub const CHANGE: &str = "change of the loss (nats per token)";

/// A corpus by its name; it is read again whenever it is needed.
pub struct Corpus(String);

impl Subject for Corpus {
    fn name(&self) -> &str {
        &self.0
    }

    fn note(&self, _: &mut Manifest) -> Result<()> {
        Ok(())
    }
}

/// What is ablated, by layer, under the name that its rows have.
type Target = (String, BTreeMap<usize, Option<Arc<Matrix>>>);

impl Args {
    /// Every direction and its random companions, or whole residuals.
    fn targets(&self, model: &Model) -> Result<Vec<Target>> {
        let n_layers = model.config.n_layers;
        let layers = match self.layers.is_empty() {
            true => None,
            false => Some(resolve_layers(&self.layers, n_layers)?),
        };
        if self.directions.is_empty() {
            let layers = layers.unwrap_or_else(|| (0..=n_layers).collect());
            let whole = layers.into_iter().map(|layer| (layer, None)).collect();
            return Ok(vec![(format!("residual{}", at_layers(&whole, n_layers)), whole)]);
        }
        let stored = (&self.run, &self.compat);
        let directions = with_random(stored, model, &self.directions, layers.as_deref(), self.random)?;
        let target = |(name, columns): (String, BTreeMap<usize, Arc<Matrix>>)| {
            let name = format!("{name}{}", at_layers(&columns, n_layers));
            (name, columns.into_iter().map(|(layer, columns)| (layer, Some(columns))).collect())
        };
        Ok(directions.into_iter().map(target).collect())
    }

    /// The corpus that means are taken of.
    fn of_means(&self) -> CorpusArgs {
        match &self.means_corpus {
            None => self.corpus.clone(),
            corpus => CorpusArgs { corpus: corpus.clone(), text: Vec::new(), name: None, ..self.corpus.clone() },
        }
    }

    /// A method as rows name it: with the corpus of its means, if that is another one.
    fn method(&self, replacement: Replacement) -> Result<String> {
        match (replacement, &self.means_corpus) {
            (Replacement::MeanOverPlaces, Some(_)) => Ok(format!("{replacement} of {}", self.of_means().name()?)),
            _ => Ok(replacement.to_string()),
        }
    }

    /// What a dry run says of the means: only texts with such tokens pass through the model.
    fn planned_means(&self, model: &Model, cases: &[Keyed<TextCondition>]) -> Result<String> {
        let of_means = |(_, condition): &&Keyed<TextCondition>| condition.replacement == Replacement::MeanOverPlaces;
        let cases: Vec<&Keyed<TextCondition>> = cases.iter().filter(of_means).collect();
        let mut flops = Flops::default();
        if cases.is_empty() {
            return Ok(String::new());
        }
        for row in self.of_means().rows(&model.tokenizer, &model.config)? {
            let row = row?.tokens;
            if cases.iter().any(|(_, condition)| !condition.places.of(&row).is_empty()) {
                flops = flops + Flops::forward(&model.config, &Layout::new([(0, row.len())]), 0, 0);
            }
        }
        Ok(format!(", {flops} for means"))
    }

    /// The files of losses by token, without their ending.
    fn by_token(&self, model: &str, corpus: &Corpus) -> Option<(u32, PathBuf)> {
        let stem = |texts| format!("{}_by_token_{texts}", self.stem(&corpus.0));
        self.by_token.map(|texts| (texts, self.run.folder(model).join(stem(texts))))
    }
}

impl TableCommand for Args {
    const NAME: &'static str = "text-loss";
    const COLUMNS: Columns = Columns {
        keys: &["ablated", "method", "positions"],
        numbers: &["tokens", "reached", "clean_loss", "loss", "change"],
    };
    type Set = Corpus;
    type Case = TextCondition;

    fn shared(&self) -> (&ModelArgs, &RunArgs) {
        (&self.models, &self.run)
    }

    fn sets(&self, _: &Model) -> Result<Vec<Corpus>> {
        Ok(vec![Corpus(self.corpus.name()?)])
    }

    fn stem(&self, corpus: &str) -> String {
        format!("text_loss_{corpus}")
    }

    fn cases(&self, model: &Model, _: &Corpus) -> Result<Vec<Keyed<TextCondition>>> {
        let methods = distinct(&self.methods).into_iter().map(|method| method.parse().map_err(anyhow::Error::msg));
        let methods: Vec<Replacement> = methods.collect::<Result<_>>()?;
        if self.means_corpus.is_some() && !methods.contains(&Replacement::MeanOverPlaces) {
            bail!("--means-corpus: expected --methods mean_over_places, found no method that takes means");
        }
        let places = distinct(&self.positions);
        let places = places.iter().map(|name| resolve_text_places("--positions", model, name));
        let places: Vec<TextPlaces> = places.collect::<Result<_>>()?;
        let mut cases = Vec::new();
        for (target, ablated) in self.targets(model)? {
            for &replacement in &methods {
                for places in &places {
                    let keys = vec![target.clone(), self.method(replacement)?, places.name.clone()];
                    let (ablated, places) = (ablated.clone(), places.clone());
                    cases.push((keys, TextCondition { ablated, places, replacement }));
                }
            }
        }
        let conditions: Vec<TextCondition> = cases.iter().map(|(_, condition)| condition.clone()).collect();
        let rows = self.corpus.rows(&model.tokenizer, &model.config)?;
        check_conditions::<anyhow::Error>(&model.config, rows, &conditions)?;
        Ok(cases)
    }

    fn complete(&self, model: &Model, corpus: &Corpus, cases: &[Keyed<TextCondition>]) -> Result<bool> {
        let Some((_, stem)) = self.by_token(&model.name, corpus) else { return Ok(true) };
        let there = conditions_of(&stem)?;
        Ok(cases.iter().all(|(keys, _)| there.contains(keys)))
    }

    /// The corpus is counted, not read by the model.
    fn plan(&self, model: &Model, corpus: &Corpus, cases: &[Keyed<TextCondition>]) -> Result<String> {
        let (mut tokens, mut clean, mut ablated) = (0, Flops::default(), vec![Flops::default(); cases.len()]);
        for row in self.corpus.rows(&model.tokenizer, &model.config)? {
            let row = row?.tokens;
            let flops = Flops::whole(&model.config, &Layout::new([(0, row.len())]));
            tokens += row.len() - 1;
            clean = clean + flops;
            let reached = cases.iter().zip(&mut ablated).filter(|((_, one), _)| one.places.reached(&row) > 0);
            reached.for_each(|(_, sum)| *sum = *sum + flops);
        }
        let mut table = Table::new(["ablated", "method", "positions", "arithmetic"]);
        for ((keys, _), flops) in cases.iter().zip(&ablated) {
            table.push(keys.iter().cloned().chain([flops.to_string()]));
        }
        let means = self.planned_means(model, cases)?;
        Ok(format!("{}\n{table}{tokens} tokens to predict, {clean} without ablation{means}\n", self.stem(&corpus.0)))
    }

    fn make<B: Backend>(
        &self,
        engine: &Engine<B>,
        corpus: &Corpus,
        cases: &[Keyed<TextCondition>],
        manifest: &mut Manifest,
    ) -> Result<Vec<KeyedRow>> {
        let (model, config) = (engine.model(), engine.config());
        let conditions: Vec<TextCondition> = cases.iter().map(|(_, condition)| condition.clone()).collect();
        let progress = spinner("reading".into());
        let means = self.of_means().rows(&model.tokenizer, config)?;
        let means = text_means(engine, means, &conditions, |tokens| -> Result<()> {
            progress.set_message(format!("means of {tokens} tokens"));
            Ok(())
        })?;
        let files = self.by_token(&model.name, corpus);
        let mut files = files.map(|(texts, stem)| TokenFiles::new(model, cases, texts as usize, stem)).transpose()?;
        let (rows, mut tokens) = (self.corpus.rows(&model.tokenizer, config)?, 0);
        let losses = text_losses(engine, rows, (&conditions, &means), self.run.seed, |rows, losses| -> Result<()> {
            tokens += rows.iter().map(|row| row.tokens.len()).sum::<usize>();
            progress.set_message(format!("{tokens} tokens"));
            files.iter_mut().try_for_each(|files| files.add(rows, losses))
        })?;
        progress.finish_and_clear();
        files.map(|files| files.write(&self.title(&corpus.0, &model.name), manifest)).transpose()?;
        let row = |((keys, _), loss): (&Keyed<TextCondition>, &TextLoss)| KeyedRow {
            keys: keys.clone(),
            numbers: [loss.tokens as f64, loss.reached as f64, loss.clean, loss.ablated, loss.ablated - loss.clean]
                .map(Some)
                .to_vec(),
        };
        Ok(cases.iter().zip(&losses).map(row).collect())
    }

    fn figure(&self, title: String, table: &KeyedTable) -> Figure {
        let rows: Vec<&KeyedRow> = table.rows().iter().collect();
        bar_figure(title, table.columns(), &rows, |row| row.keys.join(" "), &[("change", CHANGE)])
    }

    fn title(&self, corpus: &str, model: &str) -> String {
        format!("Change of the loss on {corpus}, {model}")
    }
}
