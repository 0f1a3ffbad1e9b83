//! Experiments whose numbers are those of whole runs.

use super::directions::fit_named;
use super::experiment::{Experiment, Numbers, Setup};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::datasets::treebank::Scaffold;
use crate::engine::Engine;
use crate::experiments::ablation::Replacement;
use crate::experiments::chunks::{baselines, chosen};
use crate::experiments::path_patching::NodePattern;
use crate::report::Golden;
use crate::session::{DeviceWork, Observer};
use crate::studies::maps::MapSets;
use crate::studies::{self, Attention, Study};
use anyhow::{Result, bail};
use serde::Deserialize;

/// Text around prompts where an entry names none.
pub(super) fn plain() -> Scaffold {
    Scaffold::Plain
}

/// Mean logit differences of the unpatched runs; numbers `clean`, `corrupted`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Baselines {
    dataset: String,
    #[serde(default = "plain")]
    scaffold: Scaffold,
    /// The prompts that count, by number; all without them.
    prompts: Option<Vec<usize>>,
}

impl Experiment for Baselines {
    const NAME: &'static str = "baselines";

    fn numbers(self, _: &Golden, setup: &Setup, observer: &mut dyn Observer) -> Result<Numbers> {
        let prompts = counted(setup.prompts(&self.dataset, self.scaffold)?, self.prompts.as_deref())?;
        let (clean, corrupted) = setup.session()?.compute(observer, LogitDifferences(&prompts))?;
        Ok(Numbers::from([("clean".into(), clean), ("corrupted".into(), corrupted)]))
    }
}

/// The prompts that count.
fn counted(prompts: PairedPrompts, numbers: Option<&[usize]>) -> Result<PairedPrompts> {
    let Some(numbers) = numbers else { return Ok(prompts) };
    let total = prompts.clean.len();
    match numbers.iter().find(|&&number| number >= total) {
        Some(beyond) => bail!("prompts: there is no prompt {beyond} of {total}"),
        None if numbers.is_empty() => bail!("prompts: expected at least one"),
        None => Ok(chosen(&prompts, numbers)),
    }
}

struct LogitDifferences<'a>(&'a PairedPrompts);

impl DeviceWork for LogitDifferences<'_> {
    type Output = (f64, f64);

    fn run<B: Backend>(self, engine: &Engine<B>, _: &mut dyn Observer) -> Result<(f64, f64)> {
        Ok(baselines(engine, self.0, engine.memory_budget())?.logit_differences())
    }
}

/// Logit differences without and with nodes or directions ablated together; numbers `clean`, `ablated`, and their `change` in
/// percent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ablation {
    dataset: String,
    #[serde(default = "plain")]
    scaffold: Scaffold,
    /// Nodes as the study of ablations names them.
    #[serde(default)]
    nodes: Vec<NodePattern>,
    /// Directions as it names them, which are fitted first.
    directions: Option<String>,
    /// One of its methods.
    method: Replacement,
    /// Positions as it names them.
    #[serde(default = "everywhere")]
    positions: String,
    keep_at: Option<String>,
    #[serde(default)]
    frozen_attention: bool,
}

fn everywhere() -> String {
    "ALL".into()
}

/// The numbers of an ablation, and the columns of its table that they stand in.
const COLUMNS: [(&str, &str); 3] =
    [("clean", "logit_diff_clean"), ("ablated", "logit_diff"), ("change", "logit_diff_change_percent")];

impl Experiment for Ablation {
    const NAME: &'static str = "ablation";

    fn numbers(self, _: &Golden, setup: &Setup, observer: &mut dyn Observer) -> Result<Numbers> {
        only_single("nodes", &self.nodes)?;
        setup.prompts(&self.dataset, self.scaffold)?;
        if let Some(directions) = &self.directions {
            fit_named(setup, directions, observer)?;
        }
        let ablation = studies::Ablation {
            sets: MapSets { eval_sets: vec![self.dataset], scaffold: self.scaffold },
            nodes: self.nodes,
            directions: self.directions.into_iter().collect(),
            random: 0,
            methods: vec![self.method],
            positions: vec![self.positions],
            attention: vec![if self.frozen_attention { Attention::Frozen } else { Attention::Live }],
            keep_at: self.keep_at,
            ..Default::default()
        };
        let tables = ablation.run(setup.session()?, observer)?;
        let rows = tables.tables.iter().flat_map(|table| &table.rows);
        let of_all = rows.filter(|row| row.keys.last().is_some_and(|prompts| prompts == "all"));
        let named = of_all.flat_map(|row| {
            let number = |(name, column): (&str, &str)| Some((name.to_owned(), row.number(tables.columns, column)?));
            COLUMNS.into_iter().filter_map(number).collect::<Vec<_>>()
        });
        Ok(named.collect())
    }
}

/// Refuses a component of every layer, which no one number tells of.
pub(super) fn only_single(field: &str, nodes: &[NodePattern]) -> Result<()> {
    match nodes.iter().find(|node| matches!(node, NodePattern::Every(_))) {
        Some(every) => bail!("{field}: expected a layer, such as {every}:0, found {every}"),
        None => Ok(()),
    }
}
