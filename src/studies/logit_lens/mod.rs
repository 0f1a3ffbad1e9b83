//! What a model predicts, token by token: the likeliest tokens of clean, corrupted and patched runs, and the logit lens.

mod asked;
mod outcome;

pub use outcome::{PredictedSet, Predictions};

use super::fields::{list, not_empty, texts};
use super::maps::MapSets;
use super::texts::Corpus;
use super::{Notes, Plan, Study};
use crate::backend::Backend;
use crate::engine::{Engine, Flops, Layout, Site};
use crate::experiments::logit_lens::{Lens, predictions};
use crate::report::pages::{PredictionsPage, write_view};
use crate::report::{Manifest, PredictionRow, Table, write_csv};
use crate::session::{DeviceWork, Note, Observer, Progress, Session, Standing, note_kept, wrong};
use anyhow::{Context, Result};
use asked::Asked;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;

/// Shows what a model predicts at every position and layer: token log probabilities and the logit lens.
///
/// The lens applies the final norm and the unembedding to the residual stream in front of every block, and at the end, where it
/// is the model's own prediction. Of a dataset, clean, corrupted and patched runs stand side by side; a patch goes from the
/// clean prompt into the corrupted one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogitLens {
    /// Which datasets.
    #[serde(flatten)]
    pub sets: MapSets,
    /// Texts to read, instead of datasets.
    #[serde(deserialize_with = "texts")]
    pub text: Vec<String>,
    /// Name of the files of texts; `text` without it.
    pub name: Option<String>,
    /// Prompts of the datasets, by number; the first 8 without any.
    #[serde(deserialize_with = "list")]
    pub prompts: Vec<usize>,
    /// Where the residual stream is read: `all`, or layers (the number of layers stands for the end).
    #[serde(deserialize_with = "list")]
    pub layers: Vec<String>,
    /// How many of the likeliest tokens are kept of every prediction.
    pub top: u16,
    /// Stored directions to patch along, one at a time and each at its own layer; `*` and `?` match anything.
    #[serde(deserialize_with = "list")]
    pub directions: Vec<String>,
    /// Hook names at which the residual stream is patched as a whole, one at a time, such as blocks.1.hook_resid_pre.
    #[serde(deserialize_with = "list")]
    pub sites: Vec<Site>,
    /// Positions that are patched, one after the other: placeholders, END, ALL, auto, numbers, COMMA, PERIOD; those joined by +
    /// together.
    #[serde(deserialize_with = "list")]
    pub positions: Vec<String>,
}

impl Default for LogitLens {
    fn default() -> Self {
        Self {
            sets: MapSets::default(),
            text: Vec::new(),
            name: None,
            prompts: Vec::new(),
            layers: vec!["all".into()],
            top: 10,
            directions: Vec::new(),
            sites: Vec::new(),
            positions: vec!["auto".into()],
        }
    }
}

impl LogitLens {
    /// The texts as others read them.
    fn corpus(&self) -> Corpus {
        Corpus { text: self.text.clone(), name: self.name.clone(), ..Corpus::default() }
    }

    /// The rows that are there, if they are those that are asked for.
    fn kept(
        &self,
        session: &Session,
        asked: &Asked,
        observer: &mut dyn Observer,
    ) -> Result<Option<Vec<PredictionRow>>> {
        let path = asked.path(session);
        if session.options().overwrite {
            return Ok(None);
        }
        match session.standing(&asked.stem, std::slice::from_ref(&path), &asked.provenance)? {
            Standing::Absent => Ok(None),
            Standing::Other(difference) => {
                observer.note(&Note::Renewed { what: asked.stem.clone(), difference });
                Ok(None)
            }
            Standing::Kept(_) => {
                note_kept(observer, 1, "table of predictions", session.folder());
                Ok(Some(PredictionRow::read(&path)?))
            }
        }
    }

    /// Everything that is asked for, with the rows that are there.
    fn found(&self, session: &Session, observer: &mut dyn Observer) -> Result<Vec<Set>> {
        self.validate()?;
        session.results()?;
        let mut sets = Vec::new();
        for asked in Asked::all(self, session)? {
            let rows = self.kept(session, &asked, observer)?;
            sets.push(Set { asked, rows });
        }
        Ok(sets)
    }
}

/// What is read under one name, and the rows as soon as they are there.
struct Set {
    asked: Asked,
    rows: Option<Vec<PredictionRow>>,
}

impl Set {
    /// Writes the page about all rows.
    fn write_page(&self, session: &Session) -> Result<Option<PathBuf>> {
        let (model, config) = (&session.model().name, session.config());
        let title = format!("Predictions on {}, {model}", self.asked.name);
        let page = PredictionsPage::new(title, config.n_layers, self.rows.as_deref().unwrap_or_default());
        Ok(write_view(&page, &session.folder(), &self.asked.stem)?)
    }
}

impl Study for LogitLens {
    const NAME: &'static str = "logit-lens";
    type Outcome = Predictions;

    fn validate(&self) -> Result<()> {
        not_empty(&[self.sets.counted(), ("layers", self.layers.len()), ("positions", self.positions.len())])?;
        if self.top == 0 {
            wrong!("top", "expected at least 1, found 0");
        }
        let patched = !self.directions.is_empty() || !self.sites.is_empty();
        if !patched && self.positions != Self::default().positions {
            wrong!("positions", "expected directions or sites to patch there, found none");
        }
        if self.text.is_empty() {
            return match &self.name {
                None => Ok(()),
                Some(name) => wrong!("name", "expected texts to go by the name {name:?}, found none"),
            };
        }
        let of_pairs = [
            ("eval_sets", self.sets != MapSets::default()),
            ("prompts", !self.prompts.is_empty()),
            ("directions", !self.directions.is_empty()),
            ("sites", !self.sites.is_empty()),
        ];
        match of_pairs.into_iter().find(|(_, given)| *given) {
            Some((setting, _)) => wrong!(setting, "expected texts, or what is about datasets, found both"),
            None => self.corpus().validate(),
        }
    }

    fn plan(&self, session: &Session) -> Result<Plan> {
        let (mut notes, config) = (Notes::default(), session.config());
        let mut table = Table::new(["read", "prompts", "runs", "layers", "rows", "arithmetic"]);
        let (mut total, mut kept) = (Flops::default(), None);
        for Set { asked, .. } in self.found(session, &mut notes)?.into_iter().filter(|set| set.rows.is_none()) {
            let layout = Layout::whole(asked.sequences());
            let lens = 2 * (layout.n_tokens() * config.d_model * config.d_vocab) as u64;
            // One layer's logits are part of whole passes.
            let flops = Flops::whole(config, &layout) + Flops(lens * (asked.layers.len() as u64 - 1));
            let counts = [asked.prompts.len(), asked.runs.len(), asked.layers.len(), asked.rows()];
            let cells = counts.map(|count| count.to_string()).into_iter().chain([flops.to_string()]);
            table.push([asked.name.clone()].into_iter().chain(cells));
            total = total + flops;
            kept = kept.max(Some(session.planned_values(&layout)));
        }
        Ok(match kept {
            None => Plan::nothing(session).with(notes),
            Some(kept) => Plan::of_passes(session, &table.to_string(), total, kept).with(notes),
        })
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Predictions> {
        let mut sets = self.found(session, observer)?;
        let mut manifest = None;
        if sets.iter().any(|set| set.rows.is_none()) {
            let mut started = session.manifest(Self::NAME, self)?;
            let work = Reading { study: self, session, sets: &mut sets, manifest: &mut started };
            session.compute(observer, work)?;
            manifest = Some(started.finish()?);
        } else {
            sets.iter().try_for_each(|set| set.write_page(session).map(drop))?;
        }
        let set = |Set { asked, rows }| PredictedSet { file: asked.stem, rows: rows.unwrap_or_default() };
        let sets = sets.into_iter().map(set).collect();
        Ok(Predictions { model: session.model().name.clone(), sets, manifest })
    }
}

/// The reading of what is not there.
struct Reading<'a> {
    study: &'a LogitLens,
    session: &'a Session,
    sets: &'a mut [Set],
    manifest: &'a mut Manifest,
}

impl DeviceWork for Reading<'_> {
    type Output = ();

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<()> {
        let Self { study, session, sets, manifest } = self;
        manifest.computed_on(engine);
        for set in sets {
            if set.rows.is_none() {
                let asked = &set.asked;
                asked.note(manifest)?;
                let what = format!("predictions on {}", asked.name);
                let mut progress = Progress::new(observer, what, asked.predictions());
                let lens = Lens { layers: &asked.layers, top: study.top.into() };
                let found = predictions(engine, lens, &asked.prompts, &asked.patches, |count| progress.add(count))
                    .with_context(|| asked.name.clone())?;
                drop(progress);
                let rows = asked.table(&found, &engine.model().tokenizer)?;
                let path = asked.path(session);
                write_csv(&path, &rows, session.options().csv_guard)?;
                session.record(&asked.stem, &asked.provenance, std::slice::from_ref(&path), Value::Null)?;
                manifest.wrote(&path, []);
                set.rows = Some(rows);
            }
            if let Some(page) = set.write_page(session)? {
                manifest.wrote(&page, []);
            }
        }
        Ok(())
    }
}
