//! What ablating the residual stream, or directions in it, costs on plain text.

use super::corpus::{Corpus, of_corpus};
use super::losses_by_token::{LossesByToken, MadeOf, TokenFiles};
use crate::backend::Backend;
use crate::engine::{Engine, Flops, Layout};
use crate::experiments::ablation::Replacement;
use crate::experiments::text_loss::{
    TextCondition, TextLoss as Loss, TextPlaces, check_conditions, text_losses, text_means, tokens_of_a_batch,
};
use crate::report::figure::Figure;
use crate::report::{Columns, KeyedRow, Manifest, Table};
use crate::session::{
    ByLayer, Fault, Mend, Observer, OfSetting, Progress, Provenance, Session, Standing, at_layers, distinct,
    hash_of_matrix, layers, text_places, wrong,
};
use crate::studies::fields::{list, not_empty, not_endless, optional_path};
use crate::studies::tables::{self, Keyed, Subject, TableStudy, Tables, bar_figure};
use crate::studies::{Plan, Study};
use crate::types::Matrix;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What ablating the residual stream, or directions in it, costs on plain text: the change of the loss of the next
/// token.
///
/// Directions, or whole residuals without any, are replaced in front of every block and at the end. Where only some
/// tokens are ablated, the loss that is predicted from one of them is not counted: what counts is what other tokens
/// read there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TextLoss {
    /// What is read.
    #[serde(flatten)]
    pub corpus: Corpus,
    /// Directions to ablate: das_simple_train_ADJ is every layer's own, das_simple_train_ADJ_layer2 the same one
    /// everywhere; the whole residual without any.
    #[serde(deserialize_with = "list")]
    pub directions: Vec<String>,
    /// Layers at which to ablate (the number of layers stands for the end); all that are there without any.
    #[serde(deserialize_with = "list")]
    pub layers: Vec<String>,
    /// How many random directions to ablate in the same places for comparison: 0 to 10,000.
    pub random: u32,
    /// What takes their place: zero, resample (another text's at the same position), mean_over_places (one mean of
    /// every layer over all such tokens).
    #[serde(deserialize_with = "list")]
    pub methods: Vec<Replacement>,
    /// The corpus that means are taken of, instead of the one whose loss is measured.
    #[serde(serialize_with = "optional_path")]
    pub means_corpus: Option<PathBuf>,
    /// Tokens to ablate: ALL, COMMA, PERIOD; joined by + they are ablated together.
    #[serde(deserialize_with = "list")]
    pub positions: Vec<String>,
    /// Write the change of the loss of every token of the first so many texts, and as many tokens of all texts that it
    /// grows most at.
    pub by_token: Option<u32>,
}

impl Default for TextLoss {
    fn default() -> Self {
        Self {
            corpus: Corpus::default(),
            directions: Vec::new(),
            layers: Vec::new(),
            random: 4,
            methods: vec![Replacement::Resample],
            means_corpus: None,
            positions: vec!["ALL".into()],
            by_token: None,
        }
    }
}

/// What can take an activation's place on plain text.
pub const TEXT_METHODS: [Replacement; 3] = [Replacement::Zero, Replacement::Resample, Replacement::MeanOverPlaces];

/// What values are.
pub(super) const CHANGE: &str = "change of the loss (nats per token)";

/// A corpus by its name and what is in it; it is read again whenever it is needed.
pub(crate) struct NamedCorpus {
    name: String,
    fingerprint: String,
}

impl Subject for NamedCorpus {
    const SETTING: &'static str = "corpus";

    fn name(&self) -> &str {
        &self.name
    }

    fn fingerprint(&self) -> Result<String> {
        Ok(self.fingerprint.clone())
    }

    fn note(&self, _: &mut Manifest) -> Result<()> {
        Ok(())
    }
}

/// A condition, and the hash of the corpus that its means are taken of, if it takes any.
#[derive(Clone)]
pub(crate) struct Case {
    pub(super) condition: TextCondition,
    means: Option<String>,
}

/// What is ablated, by layer, under the name that its rows have.
type Target = (String, BTreeMap<usize, Option<Arc<Matrix>>>);

impl TextLoss {
    /// Every direction and its random companions, or whole residuals.
    fn targets(&self, session: &Session) -> Result<Vec<Target>> {
        let n_layers = session.config().n_layers;
        let layers = match self.layers.is_empty() {
            true => None,
            false => Some(layers("layers", &self.layers, n_layers)?),
        };
        if self.directions.is_empty() {
            let layers = layers.unwrap_or_else(|| (0..=n_layers).collect());
            let whole = layers.into_iter().map(|layer| (layer, None)).collect();
            return Ok(vec![(format!("residual{}", at_layers(&whole, n_layers)), whole)]);
        }
        let directions = session.with_random(&self.directions, layers.as_deref(), self.random)?;
        let target = |(name, columns): (String, ByLayer)| {
            let name = format!("{name}{}", at_layers(&columns, n_layers));
            (name, columns.into_iter().map(|(layer, columns)| (layer, Some(columns))).collect())
        };
        Ok(directions.into_iter().map(target).collect())
    }

    /// The corpus that means are taken of.
    fn of_means(&self) -> Corpus {
        match &self.means_corpus {
            None => self.corpus.clone(),
            corpus => Corpus { corpus: corpus.clone(), text: Vec::new(), name: None, ..self.corpus.clone() },
        }
    }

    /// A method as rows name it: with the corpus of its means, if that is another one.
    fn method(&self, replacement: Replacement) -> Result<String> {
        match (replacement, &self.means_corpus) {
            (Replacement::MeanOverPlaces, Some(_)) => Ok(format!("{replacement} of {}", self.of_means().name()?)),
            _ => Ok(replacement.to_string()),
        }
    }

    /// What a plan says of the means: only texts with such tokens pass through the model.
    fn planned_means(&self, session: &Session, cases: &[Keyed<Case>]) -> Result<String> {
        let (model, config) = (session.model(), session.config());
        let of_means = |(_, case): &&Keyed<Case>| case.condition.replacement == Replacement::MeanOverPlaces;
        let cases: Vec<&Keyed<Case>> = cases.iter().filter(of_means).collect();
        let mut flops = Flops::default();
        if cases.is_empty() {
            return Ok(String::new());
        }
        for row in self.of_means().rows(&model.tokenizer, config)? {
            let row = row?.tokens;
            if cases.iter().any(|(_, case)| !case.condition.places.of(&row).is_empty()) {
                flops = flops + Flops::forward(config, &Layout::new([(0, row.len())]), 0, 0);
            }
        }
        Ok(format!(", {flops} for means"))
    }

    /// The files of losses by token.
    fn token_files(&self, session: &Session, corpus: &NamedCorpus) -> Option<TokenFiles> {
        self.by_token.map(|texts| TokenFiles {
            texts: texts as usize,
            folder: session.folder(),
            stem: format!("{}_by_token_{texts}", self.stem(session, &corpus.name)),
        })
    }
}

impl Study for TextLoss {
    const NAME: &'static str = "text-loss";
    type Outcome = Tables;

    fn validate(&self) -> Result<()> {
        self.corpus.validate()?;
        not_empty(&[("methods", self.methods.len()), ("positions", self.positions.len())])?;
        not_endless("random", self.random)?;
        if let Some(other) = self.methods.iter().find(|method| !TEXT_METHODS.contains(method)) {
            let expected = TEXT_METHODS.map(Replacement::name).join(", ");
            wrong!("methods", "expected one of {expected}, found {other}");
        }
        if self.by_token == Some(0) {
            wrong!("by_token", "expected at least 1, found 0");
        }
        if self.means_corpus.is_some() && !self.methods.contains(&Replacement::MeanOverPlaces) {
            let fault = Fault::of("means_corpus", "found no method that takes means");
            return Err(fault.mended_by(Mend::Set("methods", Replacement::MeanOverPlaces.to_string())).into());
        }
        self.of_means().name().map(drop)
    }

    fn plan(&self, session: &Session) -> Result<Plan> {
        tables::plan(self, session)
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Tables> {
        tables::run(self, session, observer)
    }
}

/// Memory for the logits of a batch, unless the session says: what is free at the moment must not change which texts a
/// text is resampled from.
const LOGITS_MEMORY: usize = 1 << 30;

/// Tokens of a batch, whose texts are resampled from one another.
fn batch_tokens(session: &Session) -> usize {
    let memory = session.options().memory_budget().unwrap_or(LOGITS_MEMORY);
    tokens_of_a_batch(session.config(), session.batch_tokens(), memory)
}

impl TableStudy for TextLoss {
    const COLUMNS: Columns = Columns {
        keys: &["ablated", "method", "positions"],
        numbers: &["tokens", "reached", "clean_loss", "loss", "change"],
    };
    type Set = NamedCorpus;
    type Case = Case;

    fn sets(&self, _: &Session) -> Result<Vec<NamedCorpus>> {
        self.validate()?;
        Ok(vec![NamedCorpus {
            name: self.corpus.name()?,
            fingerprint: self.corpus.fingerprint().of_setting("corpus")?,
        }])
    }

    fn stem(&self, _: &Session, corpus: &str) -> String {
        format!("text_loss_{corpus}")
    }

    fn cases(&self, session: &Session, corpus: &NamedCorpus) -> Result<Vec<Keyed<Case>>> {
        let (model, methods) = (session.model(), distinct(&self.methods));
        let places = distinct(&self.positions);
        let places = places.iter().map(|name| text_places("positions", model, name));
        let places: Vec<TextPlaces> = places.collect::<Result<_>>()?;
        let of_means = match &self.means_corpus {
            None => corpus.fingerprint.clone(),
            Some(_) => self.of_means().fingerprint().of_setting("means_corpus")?,
        };
        let mut cases = Vec::new();
        for (target, ablated) in self.targets(session)? {
            for &replacement in &methods {
                for places in &places {
                    let keys = vec![target.clone(), self.method(replacement)?, places.name.clone()];
                    let (ablated, places) = (ablated.clone(), places.clone());
                    let means = (replacement == Replacement::MeanOverPlaces).then(|| of_means.clone());
                    cases.push((keys, Case { condition: TextCondition { ablated, places, replacement }, means }));
                }
            }
        }
        let conditions: Vec<TextCondition> = cases.iter().map(|(_, case)| case.condition.clone()).collect();
        let rows = self.corpus.rows(&model.tokenizer, &model.config).of_setting("corpus")?;
        of_corpus(check_conditions(&model.config, rows, &conditions))?;
        Ok(cases)
    }

    fn depends(&self, session: &Session, case: &Case, provenance: Provenance) -> Result<Provenance> {
        let hash = |columns: &Option<Arc<Matrix>>| columns.as_ref().map(|columns| hash_of_matrix(columns));
        let config = session.config();
        let mut provenance = provenance
            .with("corpus_format", self.corpus.format())?
            .with("row_tokens", self.corpus.row_length(config))?;
        for (layer, columns) in &case.condition.ablated {
            provenance = provenance.with(format!("ablated at layer {layer}"), hash(columns))?;
        }
        match case.condition.replacement {
            Replacement::MeanOverPlaces => {
                provenance.with("means_corpus", &case.means)?.with("means_format", self.of_means().format())
            }
            Replacement::Resample => provenance.with("batch_tokens", batch_tokens(session)),
            _ => Ok(provenance),
        }
    }

    fn beside(&self, session: &Session, corpus: &NamedCorpus, asked: &[MadeOf]) -> Result<Option<(String, Standing)>> {
        let Some(files) = self.token_files(session, corpus) else { return Ok(None) };
        let standing = files.standing(session, asked)?;
        Ok(Some((files.stem, standing)))
    }

    /// The corpus is counted, not read by the model.
    fn planned(&self, session: &Session, corpus: &NamedCorpus, cases: &[Keyed<Case>]) -> Result<String> {
        let (model, config) = (session.model(), session.config());
        let (mut tokens, mut clean, mut ablated) = (0, Flops::default(), vec![Flops::default(); cases.len()]);
        for row in self.corpus.rows(&model.tokenizer, config)? {
            let row = row?.tokens;
            let flops = Flops::whole(config, &Layout::new([(0, row.len())]));
            tokens += row.len() - 1;
            clean = clean + flops;
            let changed = |(_, case): &Keyed<Case>| case.condition.places.reached(&row) > 0;
            let reached = cases.iter().zip(&mut ablated).filter(|(case, _)| changed(case));
            reached.for_each(|(_, sum)| *sum = *sum + flops);
        }
        let mut table = Table::new(["ablated", "method", "positions", "arithmetic"]);
        for ((keys, _), flops) in cases.iter().zip(&ablated) {
            table.push(keys.iter().cloned().chain([flops.to_string()]));
        }
        let (stem, means) = (self.stem(session, &corpus.name), self.planned_means(session, cases)?);
        Ok(format!("{stem}\n{table}{tokens} tokens to predict, {clean} without ablation{means}\n"))
    }

    fn make<B: Backend>(
        &self,
        session: &Session,
        engine: &Engine<B>,
        corpus: &NamedCorpus,
        cases: &[MadeOf],
        manifest: &mut Manifest,
        observer: &mut dyn Observer,
    ) -> Result<Vec<KeyedRow>> {
        let (model, config) = (engine.model(), engine.config());
        let conditions: Vec<TextCondition> = cases.iter().map(|((_, case), _)| case.condition.clone()).collect();
        let mut progress = Progress::new(observer, "reading", 0);
        let means = self.of_means().rows(&model.tokenizer, config)?;
        let means = text_means(engine, means, &conditions, |tokens| progress.at(format!("means of {tokens} tokens")))?;
        let files = self.token_files(session, corpus);
        let mut by_token = files.map(|files| LossesByToken::new(model, cases, files)).transpose()?;
        let (rows, mut tokens) = (self.corpus.rows(&model.tokenizer, config)?, 0);
        let drawn = (session.seed(), batch_tokens(session));
        let losses = text_losses(engine, rows, (&conditions, &means), drawn, |rows, losses| -> Result<()> {
            tokens += rows.iter().map(|row| row.tokens.len()).sum::<usize>();
            progress.at(format!("{tokens} tokens"))?;
            by_token.iter_mut().try_for_each(|by_token| by_token.add(rows, losses))
        })?;
        drop(progress);
        if let Some(by_token) = by_token {
            by_token.write(session, &self.title(&corpus.name, &model.name), manifest)?;
        }
        Ok(cases.iter().zip(&losses).map(|(((keys, _), _), loss)| row(keys, loss)).collect())
    }

    fn figure(&self, title: String, rows: &[&KeyedRow]) -> Figure {
        bar_figure(title, Self::COLUMNS, rows, |row| row.keys.join(" "), &[("change", CHANGE)])
    }

    fn title(&self, corpus: &str, model: &str) -> String {
        format!("Change of the loss on {corpus}, {model}")
    }
}

fn row(keys: &[String], loss: &Loss) -> KeyedRow {
    let numbers = [loss.tokens as f64, loss.reached as f64, loss.clean, loss.ablated, loss.ablated - loss.clean];
    KeyedRow::new(keys.to_vec(), numbers.map(Some).to_vec())
}
