//! Circuit faithfulness: how much of the clean run a circuit's heads restore, and how much all others do.

use super::fields::{list, not_empty, not_endless};
use super::heads::HeadAt;
use super::maps::MapSets;
use super::tables::{self, Keyed, TableStudy, Tables, bar_figure};
use super::undefined::undefined_metric;
use super::{Plan, Study};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{self, Cell, Engine, Flops, Metric, PatchPositions, Scores};
use crate::experiments::chunks::patched_scores;
use crate::experiments::faithfulness::{CircuitHead, Patched, faithfulness_cell};
use crate::report::figure::Figure;
use crate::report::{Columns, KeyedRow, Manifest, Table};
use crate::session::{ByLayer, Note, Observer, OfSetting, Progress, Provenance, Session, hash_of_layers, wrong};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Measures how much of the clean run a circuit's heads restore, and how much all others do.
///
/// The corrupted run gets the clean values of the circuit's heads, of all other heads, and of all heads: whole, at the
/// heads' positions if any are given, and along every direction. 0 % is the corrupted run, 100 % the clean one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Faithfulness {
    /// Which datasets.
    #[serde(flatten)]
    pub sets: MapSets,
    /// The circuit: layer.head, and behind @ the positions at which it counts, joined by +.
    #[serde(deserialize_with = "list")]
    pub heads: Vec<HeadAt>,
    /// Directions along which heads are patched: das_simple_train_ADJ is every layer's own, das_simple_train_ADJ_layer2
    /// the same one everywhere.
    #[serde(deserialize_with = "list")]
    pub directions: Vec<String>,
    /// How many random directions to patch along for comparison: 0 to 10,000.
    pub random: u32,
}

impl Default for Faithfulness {
    fn default() -> Self {
        Self { sets: MapSets::default(), heads: Vec::new(), directions: Vec::new(), random: 1 }
    }
}

/// How the heads are patched, and which of them.
#[derive(Clone)]
pub(crate) struct Case {
    at_positions: bool,
    along: Option<ByLayer>,
    patched: Patched,
}

impl Faithfulness {
    /// Whole heads, heads at their positions, heads along directions and along random ones, each under its name.
    fn settings(&self, session: &Session) -> Result<Vec<(String, bool, Option<ByLayer>)>> {
        let mut settings = vec![("heads".to_owned(), false, None)];
        if self.heads.iter().any(|head| head.positions.is_some()) {
            settings.push(("heads at positions".into(), true, None));
        }
        let layers: Vec<usize> = (0..session.config().n_layers).collect();
        let directions = session.with_random(&self.directions, Some(&layers), self.random)?;
        let along = |(name, along)| (format!("heads along {name}"), false, Some(along));
        settings.extend(directions.into_iter().map(along));
        Ok(settings)
    }

    /// The heads, everywhere or where they are named.
    fn circuit(&self, session: &Session, prompts: &PairedPrompts, at_positions: bool) -> Result<Vec<CircuitHead>> {
        let circuit_head = |HeadAt { head: (layer, head), positions }: &HeadAt| {
            let places = match positions {
                Some(positions) if at_positions => session.places("heads", prompts, positions)?,
                _ => PatchPositions::All.into(),
            };
            Ok(CircuitHead { layer: *layer, head: *head, places })
        };
        self.heads.iter().map(circuit_head).collect()
    }

    fn cell(&self, session: &Session, prompts: &PairedPrompts, case: &Case) -> Result<Cell> {
        let circuit = self.circuit(session, prompts, case.at_positions)?;
        Ok(faithfulness_cell(session.config(), prompts, &circuit, case.along.as_ref(), case.patched)?)
    }

    /// Refuses heads that are not there or are named twice, and a head at positions from which it does not reach the logits, or at which both runs are the same.
    fn check_heads(&self, session: &Session, prompts: &PairedPrompts) -> Result<()> {
        let (config, circuit) = (session.config(), self.circuit(session, prompts, true)?);
        faithfulness_cell(config, prompts, &circuit, None, Patched::Circuit).of_setting("heads")?;
        for (named, head) in self.heads.iter().zip(circuit) {
            let cells = [faithfulness_cell(config, prompts, &[head], None, Patched::Circuit)?];
            if engine::Plan::new(config, prompts, &cells, session.batch_tokens())?.reached(0).is_empty() {
                let set = &prompts.name;
                wrong!("heads", "{named} never fires: nothing changes there that reaches the logits of {set}");
            }
        }
        Ok(())
    }
}

impl Study for Faithfulness {
    const NAME: &'static str = "faithfulness";
    type Outcome = Tables;

    fn validate(&self) -> Result<()> {
        if self.heads.is_empty() {
            wrong!("heads", "expected the heads of a circuit, such as 9.2, found none");
        }
        not_empty(&[self.sets.counted()])?;
        Ok(not_endless("random", self.random)?)
    }

    fn plan(&self, session: &Session) -> Result<Plan> {
        tables::plan(self, session)
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Tables> {
        tables::run(self, session, observer)
    }
}

impl TableStudy for Faithfulness {
    const COLUMNS: Columns = Columns {
        keys: &["circuit", "setting", "patched"],
        numbers: &[
            "n",
            "logit_diff_corrupted",
            "logit_diff",
            "logit_diff_clean",
            "logit_diff_percent",
            "accuracy_corrupted",
            "accuracy",
            "accuracy_clean",
        ],
    };
    type Set = PairedPrompts;
    type Case = Case;

    fn sets(&self, session: &Session) -> Result<Vec<PairedPrompts>> {
        self.sets.prompts(session)
    }

    fn stem(&self, session: &Session, set: &str) -> String {
        format!("faithfulness_{set}_{}{}", self.sets.scaffold, session.options().compat_ending())
    }

    fn cases(&self, session: &Session, prompts: &PairedPrompts) -> Result<Vec<Keyed<Case>>> {
        self.check_heads(session, prompts)?;
        let named = |head: &HeadAt| {
            let name = |positions: &String| session.places_name("heads", prompts, positions);
            let positions = head.positions.as_ref().map(name).transpose()?;
            Ok(HeadAt { head: head.head, positions }.to_string())
        };
        let circuit = self.heads.iter().map(named).collect::<Result<Vec<_>>>()?.join(" ");
        let mut cases = Vec::new();
        for (setting, at_positions, along) in self.settings(session)? {
            for patched in Patched::ALL {
                let case = Case { at_positions, along: along.clone(), patched };
                self.cell(session, prompts, &case)?;
                cases.push((vec![circuit.clone(), setting.clone(), patched.name().into()], case));
            }
        }
        Ok(cases)
    }

    fn depends(&self, _: &Session, case: &Case, provenance: Provenance) -> Result<Provenance> {
        provenance.with("along", case.along.as_ref().map(hash_of_layers))
    }

    fn planned(&self, session: &Session, prompts: &PairedPrompts, cases: &[Keyed<Case>]) -> Result<(String, Flops)> {
        let mut table = Table::new(["circuit", "setting", "patched", "arithmetic"]);
        let mut total = Flops::default();
        for (keys, case) in cases {
            let cells = [self.cell(session, prompts, case)?];
            let flops = engine::Plan::new(session.config(), prompts, &cells, session.batch_tokens())?.flops();
            table.push(keys.iter().cloned().chain([flops.to_string()]));
            total = total + flops;
        }
        Ok((format!("{}\n{table}", self.stem(session, &prompts.name)), total))
    }

    fn make<B: Backend>(
        &self,
        session: &Session,
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        cases: &[(Keyed<Case>, Provenance)],
        _: &mut Manifest,
        observer: &mut dyn Observer,
    ) -> Result<Vec<KeyedRow>> {
        let cells: Vec<Cell> =
            cases.iter().map(|((_, case), _)| self.cell(session, prompts, case)).collect::<Result<_>>()?;
        let mut progress = Progress::of_shares(observer, format!("patching {}", prompts.name));
        let told = |share| progress.share(share);
        let metric = Metric::LogitDiff;
        let (baselines, scores) = patched_scores(engine, prompts, &cells, &[metric], engine.memory_budget(), told)?;
        let defined = baselines.defined(metric);
        if !defined {
            progress.note(&Note::Warning(format!(
                "{}: {}; logit_diff_percent stays empty",
                prompts.name,
                undefined_metric(metric)
            )));
        }
        let row = |(((keys, _), _), scores): (&(Keyed<Case>, Provenance), &Scores)| {
            let numbers = vec![
                Some(prompts.clean.len() as f64),
                Some(baselines.corrupted.logit_difference()),
                Some(scores.logit_difference()),
                Some(baselines.clean.logit_difference()),
                defined.then(|| 100.0 * baselines.evaluate(metric, scores)),
                Some(baselines.corrupted.accuracy()),
                Some(scores.accuracy()),
                Some(baselines.clean.accuracy()),
            ];
            KeyedRow::new(keys.clone(), numbers)
        };
        Ok(cases.iter().zip(&scores).map(row).collect())
    }

    fn figure(&self, title: String, rows: &[&KeyedRow]) -> Figure {
        // The circuit is named where there are several.
        let circuits: BTreeSet<&str> = rows.iter().map(|row| row.keys[0].as_str()).collect();
        let named = usize::from(circuits.len() < 2);
        let label = |row: &KeyedRow| row.keys[named..].join(": ");
        let measures = [("logit_diff_percent", "logit difference recovered (%)")];
        bar_figure(title, Self::COLUMNS, rows, label, &measures)
    }

    fn title(&self, set: &str, model: &str) -> String {
        format!("Circuit faithfulness on {set}, {model}")
    }
}
