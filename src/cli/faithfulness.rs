//! `faithfulness`.

use super::common::{ModelArgs, RunArgs, bar};
use super::maps::MapArgs;
use super::places::resolve_places;
use super::stored_directions::{ByLayer, with_random};
use super::tables::{Keyed, TableCommand, bar_figure};
use crate::backend::Backend;
use crate::choice::serde_by_text;
use crate::datasets::PairedPrompts;
use crate::engine::{Cell, Engine, Metric, PatchPositions, Plan};
use crate::experiments::chunks::patched_scores;
use crate::experiments::faithfulness::{CircuitHead, Patched, faithfulness_cell};
use crate::model::{Model, Tokenizer};
use crate::report::figure::Figure;
use crate::report::{Columns, KeyedRow, KeyedTable, Manifest, Table};
use anyhow::{Result, bail};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Arguments of `faithfulness`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch faithfulness --models gpt2-small --heads 7.1,9.2,10.1,10.4,11.9,8.5,9.10
  actpatch faithfulness --heads 0.4@ADJ+VRB,7.1@END,9.2@END --directions kmeans_simple_train_ADJ_layer1

The corrupted run gets the clean values of the circuit's heads, of all other heads, and of all heads: whole, at the heads'
positions if any are given, and along every direction. 0 % is the corrupted run, 100 % the clean one.
Files in DATA_DIR/<model>/: faithfulness_<dataset>_<scaffold>.csv, to which every run adds its rows, and .svg, .png and .html.")]
pub struct Args {
    #[command(flatten)]
    pub shared: MapArgs,
    /// The circuit: layer.head, and behind @ the positions at which it counts, joined by +.
    #[arg(long, value_delimiter = ',', required = true)]
    pub heads: Vec<HeadAt>,
    /// Directions along which heads are patched: das_simple_train_ADJ is every layer's own, das_simple_train_ADJ_layer2 the
    /// same one everywhere.
    #[arg(long, value_delimiter = ',')]
    pub directions: Vec<String>,
    /// How many random directions to patch along for comparison.
    #[arg(long, default_value_t = 1)]
    pub random: u32,
}

/// A head and its positions, as they are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadAt {
    layer: usize,
    head: usize,
    positions: Option<String>,
}

impl fmt::Display for HeadAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.layer, self.head)?;
        self.positions.iter().try_for_each(|positions| write!(f, "@{positions}"))
    }
}

impl FromStr for HeadAt {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let expected =
            || format!("expected layer.head or layer.head@POSITION+POSITION, such as 9.2@END, found {text:?}");
        let (place, positions) = match text.split_once('@') {
            Some((_, "")) => return Err(expected()),
            Some((place, positions)) => (place, Some(positions.to_owned())),
            None => (text, None),
        };
        let (layer, head) = place.split_once('.').ok_or_else(expected)?;
        let number = |digits: &str| digits.parse().map_err(|_| expected());
        Ok(Self { layer: number(layer)?, head: number(head)?, positions })
    }
}

serde_by_text!(HeadAt);

/// How the heads are patched, and which of them.
pub struct Case {
    at_positions: bool,
    along: Option<ByLayer>,
    patched: Patched,
}

impl Args {
    /// Whole heads, heads at their positions, heads along directions and along random ones, each under its name.
    fn settings(&self, model: &Model) -> Result<Vec<(String, bool, Option<ByLayer>)>> {
        let mut settings = vec![("heads".to_owned(), false, None)];
        if self.heads.iter().any(|head| head.positions.is_some()) {
            settings.push(("heads at positions".into(), true, None));
        }
        let stored = (&self.shared.run, &self.shared.compat);
        let layers: Vec<usize> = (0..model.config.n_layers).collect();
        let directions = with_random(stored, model, &self.directions, Some(&layers), self.random)?;
        settings
            .extend(directions.into_iter().map(|(name, along)| (format!("heads along {name}"), false, Some(along))));
        Ok(settings)
    }

    /// The heads, everywhere or where they are named.
    fn circuit(&self, prompts: &PairedPrompts, tokenizer: &Tokenizer, at_positions: bool) -> Result<Vec<CircuitHead>> {
        let head = |HeadAt { layer, head, positions }: &HeadAt| {
            let places = match positions {
                Some(positions) if at_positions => resolve_places("--heads", prompts, tokenizer, positions)?,
                _ => PatchPositions::All.into(),
            };
            Ok(CircuitHead { layer: *layer, head: *head, places })
        };
        self.heads.iter().map(head).collect()
    }

    fn cell(&self, model: &Model, prompts: &PairedPrompts, case: &Case) -> Result<Cell> {
        let circuit = self.circuit(prompts, &model.tokenizer, case.at_positions)?;
        Ok(faithfulness_cell(&model.config, prompts, &circuit, case.along.as_ref(), case.patched)?)
    }

    /// Refuses a head at positions from which it does not reach the logits, or at which both runs are the same.
    fn check_heads(&self, model: &Model, prompts: &PairedPrompts) -> Result<()> {
        let config = &model.config;
        for (named, head) in self.heads.iter().zip(self.circuit(prompts, &model.tokenizer, true)?) {
            let cells = [faithfulness_cell(config, prompts, &[head], None, Patched::Circuit)?];
            if Plan::new(config, prompts, &cells, self.shared.run.batch_tokens as usize)?.reached(0).is_empty() {
                bail!(
                    "--heads: {named} never fires: nothing changes there that reaches the logits of {}",
                    prompts.name
                );
            }
        }
        Ok(())
    }
}

impl TableCommand for Args {
    const NAME: &'static str = "faithfulness";
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

    fn shared(&self) -> (&ModelArgs, &RunArgs) {
        (&self.shared.models, &self.shared.run)
    }

    fn sets(&self, model: &Model) -> Result<Vec<PairedPrompts>> {
        self.shared.sets(model)
    }

    fn stem(&self, set: &str) -> String {
        format!("faithfulness_{set}_{}{}", self.shared.scaffold, self.shared.compat.ending())
    }

    fn cases(&self, model: &Model, prompts: &PairedPrompts) -> Result<Vec<Keyed<Case>>> {
        self.check_heads(model, prompts)?;
        let circuit = self.heads.iter().map(HeadAt::to_string).collect::<Vec<_>>().join(" ");
        let mut cases = Vec::new();
        for (setting, at_positions, along) in self.settings(model)? {
            for patched in Patched::ALL {
                let case = Case { at_positions, along: along.clone(), patched };
                self.cell(model, prompts, &case)?;
                cases.push((vec![circuit.clone(), setting.clone(), patched.name().into()], case));
            }
        }
        Ok(cases)
    }

    fn plan(&self, model: &Model, prompts: &PairedPrompts, cases: &[Keyed<Case>]) -> Result<String> {
        let mut table = Table::new(["circuit", "setting", "patched", "arithmetic"]);
        for (keys, case) in cases {
            let cells = [self.cell(model, prompts, case)?];
            let batch = self.shared.run.batch_tokens as usize;
            let flops = Plan::new(&model.config, prompts, &cells, batch)?.flops();
            table.push(keys.iter().cloned().chain([flops.to_string()]));
        }
        Ok(format!("{}\n{table}", self.stem(&prompts.name)))
    }

    fn make<B: Backend>(
        &self,
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        cases: &[Keyed<Case>],
        _: &mut Manifest,
    ) -> Result<Vec<KeyedRow>> {
        let cells: Vec<Cell> =
            cases.iter().map(|(_, case)| self.cell(engine.model(), prompts, case)).collect::<Result<_>>()?;
        let progress = bar(1000, format!("patching {}", prompts.name));
        let told = |share: f64| -> Result<()> {
            progress.set_position((1000.0 * share) as u64);
            Ok(())
        };
        let metric = Metric::LogitDiff;
        let (baselines, scores) = patched_scores(engine, prompts, &cells, &[metric], engine.memory_budget(), told)?;
        progress.finish_and_clear();
        let defined = baselines.defined(metric);
        let row = |((keys, _), scores): (&Keyed<Case>, &crate::engine::Scores)| KeyedRow {
            keys: keys.clone(),
            numbers: vec![
                Some(prompts.clean.len() as f64),
                Some(baselines.corrupted.logit_difference()),
                Some(scores.logit_difference()),
                Some(baselines.clean.logit_difference()),
                defined.then(|| 100.0 * baselines.evaluate(metric, scores)),
                Some(baselines.corrupted.accuracy()),
                Some(scores.accuracy()),
                Some(baselines.clean.accuracy()),
            ],
        };
        Ok(cases.iter().zip(&scores).map(row).collect())
    }

    fn figure(&self, title: String, table: &KeyedTable) -> Figure {
        let rows: Vec<&KeyedRow> = table.rows().iter().collect();
        // The circuit is named where there are several.
        let circuits: BTreeSet<&str> = rows.iter().map(|row| row.keys[0].as_str()).collect();
        let named = usize::from(circuits.len() < 2);
        let label = |row: &KeyedRow| row.keys[named..].join(": ");
        let measures = [("logit_diff_percent", "logit difference recovered (%)")];
        bar_figure(title, table.columns(), &rows, label, &measures)
    }

    fn title(&self, set: &str, model: &str) -> String {
        format!("Circuit faithfulness on {set}, {model}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_recorded_by_their_names() {
        for name in ["9.2", "9.2@ADJ+VRB"] {
            let head: HeadAt = serde_json::from_value(name.into()).unwrap();
            assert_eq!(serde_json::to_value(&head).unwrap(), name);
        }
    }
}
