//! Ablation: nodes, or directions in the residual stream, taken away together.

use super::fields::{list, not_empty, not_endless, text};
use super::maps::MapSets;
use super::path_patching::resolve_nodes;
use super::tables::{self, Keyed, TableStudy, Tables, bar_figure};
use super::{Plan, Study};
use crate::backend::Backend;
use crate::choice::choices;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Flops, Part, Scores, Site};
use crate::experiments::ablation::{Ablated, Condition, Effect, Outcome, Planned, Replacement, ablation};
use crate::experiments::chunks::{baselines, chosen};
use crate::experiments::component::Component;
use crate::experiments::path_patching::{Node, NodePattern, Nodes};
use crate::report::figure::Figure;
use crate::report::{Columns, KeyedRow, Manifest, Table};
use crate::session::{
    ByLayer, Fault, Mend, Note, Observer, Progress, Provenance, Session, at_layers, distinct, hash_of_matrix, layers,
    need_classes, wrong,
};
use crate::types::Matrix;
use anyhow::{Context, Result};
use rand::SeedableRng;
use rand::seq::index::sample;
use rand_chacha::ChaCha20Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

/// Ablates nodes or directions together: zero, mean, resample; logit difference, accuracy, counts.
///
/// The nodes of a run are ablated together; so are a direction's layers. Of nodes and a direction, the nodes' part along the
/// direction is ablated (of z, the heads' results).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ablation {
    /// Which datasets.
    #[serde(flatten)]
    pub sets: MapSets,
    /// Nodes to ablate together: z:9.2 is a head, mlp_out:3 an MLP, v:4 all values of a layer.
    #[serde(deserialize_with = "list")]
    pub nodes: Vec<NodePattern>,
    /// Directions to ablate: das_simple_train_ADJ is every layer's own in front of its block, das_simple_train_ADJ_layer2
    /// the same one everywhere.
    #[serde(deserialize_with = "list")]
    pub directions: Vec<String>,
    /// Layers at which directions are ablated (the number of layers stands for the end); all that are there without any.
    #[serde(deserialize_with = "list")]
    pub layers: Vec<String>,
    /// How many random directions to ablate in the same places for comparison: 0 to 10,000.
    pub random: u32,
    /// What takes an activation's place.
    #[serde(deserialize_with = "list")]
    pub methods: Vec<Replacement>,
    /// Positions: placeholders, END, ALL, numbers, COMMA, PERIOD (every such token); joined by + they are ablated together.
    #[serde(deserialize_with = "list")]
    pub positions: Vec<String>,
    /// Attention patterns: as they come, or those of the clean run.
    #[serde(deserialize_with = "list")]
    pub attention: Vec<Attention>,
    /// Positions at which the ablated activations keep their clean values.
    #[serde(deserialize_with = "text")]
    pub keep_at: Option<String>,
    /// Only prompts that have these positions.
    #[serde(deserialize_with = "text")]
    pub require: Option<String>,
    /// Only prompts that the clean model answers rightly.
    pub correct_only: bool,
    /// As many positive as negative prompts, drawn at random from the larger class.
    pub balance: bool,
}

impl Default for Ablation {
    fn default() -> Self {
        Self {
            sets: MapSets::default(),
            nodes: Vec::new(),
            directions: Vec::new(),
            layers: Vec::new(),
            random: 1,
            methods: vec![Replacement::Zero],
            positions: vec!["ALL".into()],
            attention: vec![Attention::Live],
            keep_at: None,
            require: None,
            correct_only: false,
            balance: false,
        }
    }
}

choices! {
    /// What attention does while something is ablated.
    pub enum Attention {
        /// It is computed.
        Live = "live",
        /// It has the clean run's patterns.
        Frozen = "frozen",
    }
}

/// The column of the change of the logit difference.
const CHANGE: &str = "logit_diff_change_percent";

/// The column of the accuracy lost.
const LOST: &str = "above_chance_lost_percent";

/// The key of the rows that tell of all prompts.
const ALL_PROMPTS: &str = "all";

/// Does a row tell of all prompts, not of one class?
pub(super) fn of_all_prompts(row: &KeyedRow) -> bool {
    row.keys.last().is_some_and(|prompts| prompts == ALL_PROMPTS)
}

/// A condition before it meets the prompts.
#[derive(Clone)]
pub(crate) struct Case {
    ablated: Vec<Ablated>,
    replacement: Replacement,
    positions: String,
    attention: Attention,
}

/// What is ablated together, under the name that its rows have.
type Target = (String, Vec<Ablated>);

impl Ablation {
    /// The nodes by name.
    fn nodes(&self) -> Result<Vec<Node>> {
        match resolve_nodes("nodes", &self.nodes)? {
            Nodes::Together(nodes) => Ok(distinct(&nodes)),
            Nodes::Every(component) => {
                let message = format!("{component} without a layer: expected layers ({component}:0)");
                let each = Mend::Study("ablation-maps", vec![("maps", component.to_string())]);
                Err(Fault::of("nodes", message).mended_by(each).into())
            }
        }
    }

    /// Everything that is ablated: the nodes, or every direction and its random companions.
    fn targets(&self, session: &Session) -> Result<Vec<Target>> {
        let (nodes, n_layers) = (self.nodes()?, session.config().n_layers);
        if self.directions.is_empty() {
            if nodes.is_empty() {
                wrong!("nodes", "expected nodes or directions: there is nothing to ablate");
            }
            let whole = |node: &Node| Ablated::whole(node.site(), node.part);
            return Ok(vec![(listed(&nodes), nodes.iter().map(whole).collect())]);
        }
        let layers = match nodes.is_empty() {
            true => layers("layers", &self.layers, n_layers)?,
            false => distinct(&nodes.iter().map(layer_of_direction).collect::<Vec<_>>()),
        };
        let layers = (!layers.is_empty()).then_some(&layers[..]);
        let directions = session.with_random(&self.directions, layers, self.random)?;
        directions.iter().map(|(name, columns)| along(name, &nodes, columns, n_layers)).collect()
    }

    /// The prompts that the filters keep; the clean model has answered them with these logit differences.
    fn kept(&self, session: &Session, prompts: &PairedPrompts, differences: Option<&[f64]>) -> Result<PairedPrompts> {
        let mut numbers: Vec<usize> = (0..prompts.clean.len()).collect();
        if let Some(positions) = &self.require {
            let places = session.places("require", prompts, positions)?;
            let length = |prompt: usize| prompts.sequences[prompts.clean[prompt]].len();
            numbers.retain(|&prompt| !places.of(prompt, length(prompt)).is_empty());
        }
        if let Some(differences) = differences {
            numbers.retain(|&prompt| differences[prompt] > 0.0);
        }
        if self.balance {
            need_classes("balance", prompts, "drawing as many prompts of either class")?;
            let of = |positive| numbers.iter().copied().filter(move |&n| prompts.positive[n] == positive);
            let classes: [Vec<usize>; 2] = [of(true).collect(), of(false).collect()];
            let smaller = classes[0].len().min(classes[1].len());
            let mut random = ChaCha20Rng::seed_from_u64(session.seed());
            let draw =
                |class: &Vec<usize>| sample(&mut random, class.len(), smaller).iter().map(|i| class[i]).collect();
            let drawn: Vec<Vec<usize>> = classes.iter().map(draw).collect();
            numbers = drawn.concat();
            numbers.sort_unstable();
        }
        if numbers.is_empty() {
            let total = prompts.clean.len();
            let filters = "require, correct_only and balance";
            return Err(Fault::new(format!("{}: none of {total} prompts is left by {filters}", prompts.name)).into());
        }
        Ok(chosen(prompts, &numbers))
    }

    fn condition(&self, session: &Session, case: &Case, prompts: &PairedPrompts) -> Result<Condition> {
        let kept = self.keep_at.as_ref().map(|kept| session.places("keep_at", prompts, kept));
        Ok(Condition {
            ablated: case.ablated.clone(),
            replacement: case.replacement,
            places: session.places("positions", prompts, &case.positions)?,
            kept: kept.transpose()?,
            frozen_attention: case.attention == Attention::Frozen,
        })
    }

    /// What a condition will do; an error if that is nothing.
    fn fires(session: &Session, condition: &Condition, prompts: &PairedPrompts) -> Result<Planned> {
        Ok(condition.plan_that_fires(session.config(), prompts, session.seed(), session.batch_tokens())?)
    }

    /// The rows of a case: of all prompts, and of either class.
    fn rows(&self, keys: &[String], reached: &[usize], prompts: &PairedPrompts, scores: [&Scores; 2]) -> Vec<KeyedRow> {
        let [clean, ablated] = scores;
        let row = |(name, class): (&str, Option<bool>)| {
            let among = |prompt: usize| class.is_none_or(|positive| prompts.positive[prompt] == positive);
            let effect = Effect::new(clean, ablated, among)?;
            let reached = reached.iter().filter(|&&prompt| among(prompt)).count();
            let numbers = vec![
                Some(effect.prompts as f64),
                Some(reached as f64),
                Some(effect.logit_difference.0),
                Some(effect.logit_difference.1),
                effect.change(),
                Some(effect.accuracy.0),
                Some(effect.accuracy.1),
                effect.lost_above_chance(),
                Some(effect.flipped as f64),
            ];
            Some(KeyedRow::new(keys.iter().cloned().chain([name.to_owned()]).collect(), numbers))
        };
        let classes = [(ALL_PROMPTS, None), ("positive", Some(true)), ("negative", Some(false))];
        let there = if prompts.has_classes { classes.len() } else { 1 };
        classes.into_iter().take(there).filter_map(row).collect()
    }
}

/// Warns of columns that compare with the clean run and have nothing there to compare with.
fn note_undefined(set: &str, rows: &[KeyedRow], progress: &mut Progress<'_>) {
    for (column, why) in [(CHANGE, "the mean logit difference is zero"), (LOST, "the accuracy is not above chance")] {
        let number = Ablation::COLUMNS.numbers.iter().position(|name| *name == column);
        let empty = |row: &&KeyedRow| number.and_then(|number| row.numbers.get(number)).is_some_and(Option::is_none);
        let classes: BTreeSet<&String> = rows.iter().filter(empty).filter_map(|row| row.keys.last()).collect();
        let classes = classes.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        if !classes.is_empty() {
            progress.note(&Note::Warning(format!(
                "{set}: {column} is undefined for prompts {classes}: {why} in the clean run; its cells stay empty"
            )));
        }
    }
}

/// Nodes as rows name them.
fn listed(nodes: &[Node]) -> String {
    nodes.iter().map(Node::to_string).collect::<Vec<_>>().join(" ")
}

/// The layer whose direction belongs to a node: that of its block, behind which the next one's begins.
fn layer_of_direction(node: &Node) -> usize {
    node.layer + usize::from(node.component == Component::ResidPost)
}

/// The parts of the residual stream along directions, in front of each of their layers.
pub(super) fn in_residual(columns: &ByLayer, n_layers: usize) -> Vec<Ablated> {
    let ablated = |(&layer, columns): (&usize, &Arc<Matrix>)| Ablated {
        site: Site::resid(layer, n_layers),
        part: Part::All,
        subspace: Some(columns.clone()),
    };
    columns.iter().map(ablated).collect()
}

/// The parts along directions, given by layer: of nodes, or without any of the residual stream in front of every block.
fn along(name: &str, nodes: &[Node], columns: &ByLayer, n_layers: usize) -> Result<Target> {
    if nodes.is_empty() {
        return Ok((format!("{name}{}", at_layers(columns, n_layers)), in_residual(columns, n_layers)));
    }
    let ablated = |node: &Node| {
        let site = match node.component {
            Component::Z => Site::Result(node.layer),
            component if component.part_name().is_none() => node.site(),
            other => wrong!(
                "nodes",
                "{other} is not as wide as a direction; with directions, expected z, attn_out, mlp_out or resid_*"
            ),
        };
        let layer = layer_of_direction(node);
        let subspace = columns.get(&layer).with_context(|| format!("{name}: no direction for layer {layer}"))?;
        Ok(Ablated { site, part: node.part, subspace: Some(subspace.clone()) })
    };
    let ablated = nodes.iter().map(ablated).collect::<Result<_>>()?;
    Ok((format!("{name} in {}", listed(nodes)), ablated))
}

impl Study for Ablation {
    const NAME: &'static str = "ablation";
    type Outcome = Tables;

    fn validate(&self) -> Result<()> {
        let (methods, positions) = (("methods", self.methods.len()), ("positions", self.positions.len()));
        not_empty(&[self.sets.counted(), methods, positions, ("attention", self.attention.len())])?;
        not_endless("random", self.random)?;
        match (self.layers.is_empty(), self.directions.is_empty(), self.nodes.is_empty()) {
            (false, true, _) => wrong!("layers", "expected directions, which are ablated at layers, found none"),
            (false, _, false) => wrong!("layers", "expected layers or nodes, found both"),
            _ => Ok(()),
        }
    }

    fn plan(&self, session: &Session) -> Result<Plan> {
        tables::plan(self, session)
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Tables> {
        tables::run(self, session, observer)
    }
}

impl TableStudy for Ablation {
    const COLUMNS: Columns = Columns {
        keys: &["ablated", "method", "positions", "attention", "prompts"],
        numbers: &[
            "n",
            "reached",
            "logit_diff_clean",
            "logit_diff",
            CHANGE,
            "accuracy_clean",
            "accuracy",
            LOST,
            "flipped",
        ],
    };
    type Set = PairedPrompts;
    type Case = Case;

    fn sets(&self, session: &Session) -> Result<Vec<PairedPrompts>> {
        self.sets.prompts(session)
    }

    fn stem(&self, session: &Session, set: &str) -> String {
        let mut stem = format!("ablation_{set}_{}", self.sets.scaffold);
        if let Some(positions) = &self.require {
            let _ = write!(stem, "_with_{positions}");
        }
        let filters = [(self.correct_only, "_correct"), (self.balance, "_balanced")];
        stem.extend(filters.into_iter().filter(|(on, _)| *on).map(|(_, name)| name));
        stem + &session.options().compat_ending()
    }

    fn cases(&self, session: &Session, prompts: &PairedPrompts) -> Result<Vec<Keyed<Case>>> {
        let mut cases = Vec::new();
        let name = |setting: &str, text: &String| session.places_name(setting, prompts, text);
        let kept = self.keep_at.as_ref().map(|kept| name("keep_at", kept)).transpose()?;
        let kept = kept.map_or(String::new(), |positions| format!(" (kept: {positions})"));
        let positions = self.positions.iter().map(|text| name("positions", text)).collect::<Result<Vec<_>>>()?;
        for (target, ablated) in self.targets(session)? {
            for &replacement in &distinct(&self.methods) {
                for positions in &distinct(&positions) {
                    for &attention in &distinct(&self.attention) {
                        let (ablated, positions) = (ablated.clone(), positions.clone());
                        let place = format!("{positions}{kept}");
                        let keys = vec![target.clone(), replacement.to_string(), place, attention.name().into()];
                        cases.push((keys, Case { ablated, replacement, positions, attention }));
                    }
                }
            }
        }
        let kept = self.kept(session, prompts, None)?;
        for (_, case) in &cases {
            Self::fires(session, &self.condition(session, case, &kept)?, &kept)?;
        }
        Ok(cases)
    }

    fn depends(&self, _: &Session, case: &Case, provenance: Provenance) -> Result<Provenance> {
        let hash = |ablated: &Ablated| {
            let subspace = ablated.subspace.as_ref().map(|columns| hash_of_matrix(columns));
            (ablated.site.to_string(), subspace)
        };
        provenance.with("ablated", case.ablated.iter().map(hash).collect::<Vec<_>>())
    }

    fn planned(&self, session: &Session, prompts: &PairedPrompts, cases: &[Keyed<Case>]) -> Result<(String, Flops)> {
        let kept = self.kept(session, prompts, None)?;
        let mut table = Table::new(["ablated", "method", "positions", "attention", "prompts", "arithmetic"]);
        let mut total = Flops::default();
        for (keys, case) in cases {
            let planned = Self::fires(session, &self.condition(session, case, &kept)?, &kept)?;
            let cost = [planned.reached.len().to_string(), planned.flops.to_string()];
            table.push(keys.iter().cloned().chain(cost));
            total = total + planned.flops;
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
        let correct = match self.correct_only {
            true => Some(baselines(engine, prompts, engine.memory_budget())?.clean.logit_differences),
            false => None,
        };
        let kept = self.kept(session, prompts, correct.as_deref())?;
        let conditions: Vec<Condition> =
            cases.iter().map(|((_, case), _)| self.condition(session, case, &kept)).collect::<Result<_>>()?;
        let plans: Vec<Planned> =
            conditions.iter().map(|condition| Self::fires(session, condition, &kept)).collect::<Result<_>>()?;
        let mut progress = Progress::of_shares(observer, format!("ablating {}", prompts.name));
        let told = |share| progress.share(share);
        let Outcome { clean, ablated } =
            ablation(engine, &kept, &conditions, session.seed(), engine.memory_budget(), told)?;
        let rows = cases.iter().zip(&plans).zip(&ablated);
        let rows: Vec<KeyedRow> = rows
            .flat_map(|((((keys, _), _), plan), ablated)| self.rows(keys, &plan.reached, &kept, [&clean, ablated]))
            .collect();
        note_undefined(&prompts.name, &rows, &mut progress);
        Ok(rows)
    }

    fn figure(&self, title: String, rows: &[&KeyedRow]) -> Figure {
        let change = Self::COLUMNS.numbers.iter().position(|name| *name == CHANGE);
        let defined = |row: &&KeyedRow| change.and_then(|number| row.numbers.get(number)).is_some_and(Option::is_some);
        let (all, classes): (Vec<&KeyedRow>, Vec<&KeyedRow>) =
            rows.iter().copied().partition(|row| of_all_prompts(row));
        // Where the classes cancel, each of them is shown.
        let cancelled = !all.iter().any(defined);
        let shown = if cancelled { classes } else { all };
        let label = |row: &KeyedRow| row.keys[..row.keys.len() - usize::from(!cancelled)].join(" ");
        let measures =
            [(CHANGE, "change of the logit difference (%)"), (LOST, "accuracy lost, of that above chance (%)")];
        bar_figure(title, Self::COLUMNS, &shown, label, &measures)
    }

    fn title(&self, set: &str, model: &str) -> String {
        format!("Ablation on {set}, {model}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_those_of_directions() {
        let (layers, directions) = (vec!["1".to_owned()], vec!["das_simple_train_ADJ".to_owned()]);
        let at_layers = Ablation { layers, directions, ..Ablation::default() };
        assert!(at_layers.validate().is_ok());
        let message = |ablation: Ablation| ablation.validate().unwrap_err().to_string();
        let whole = Ablation { directions: Vec::new(), ..at_layers.clone() };
        assert!(message(whole).starts_with("layers: expected directions"));
        let both = Ablation { nodes: "z:1.0".parse().into_iter().collect(), ..at_layers };
        assert_eq!(message(both), "layers: expected layers or nodes, found both");
    }

    #[test]
    fn there_is_something_to_make_and_an_end_to_it() {
        let message = |ablation: Ablation| ablation.validate().unwrap_err().to_string();
        assert!(message(Ablation { methods: Vec::new(), ..Ablation::default() }).starts_with("methods: expected"));
        assert!(message(Ablation { positions: Vec::new(), ..Ablation::default() }).starts_with("positions: expected"));
        assert!(message(Ablation { random: u32::MAX, ..Ablation::default() }).starts_with("random: expected at most"));
    }
}
