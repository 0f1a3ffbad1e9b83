//! `ablation`.

use super::choice::choice;
use super::common::{ModelArgs, RunArgs, bar, distinct, resolve_layers};
use super::maps::MapArgs;
use super::path_patching::resolve_nodes;
use super::places::resolve_places;
use super::stored_directions::{ByLayer, at_layers, with_random};
use super::tables::{Keyed, TableCommand, bar_figure};
use crate::backend::Backend;
use crate::choice::choices;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Part, Scores, Site};
use crate::experiments::ablation::{Ablated, Condition, Effect, Outcome, Planned, Replacement, ablation};
use crate::experiments::chunks::{baselines, chosen};
use crate::experiments::component::Component;
use crate::experiments::path_patching::{Node, NodePattern, Nodes};
use crate::model::{Model, ModelConfig, Tokenizer};
use crate::report::figure::Figure;
use crate::report::{Columns, KeyedRow, KeyedTable, Manifest, Table};
use crate::types::Matrix;
use anyhow::{Context, Result, bail};
use rand::SeedableRng;
use rand::seq::index::sample;
use rand_chacha::ChaCha20Rng;
use serde::Serialize;
use std::fmt::Write;
use std::sync::Arc;

/// Arguments of `ablation`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch ablation --nodes z:1.0,z:1.2,mlp_out:0 --methods zero,mean,resample
  actpatch ablation --directions kmeans_simple_train_ADJ --positions ALL,ADJ --attention live,frozen --random 3
  actpatch ablation --eval-sets treebank_test --scaffold classification --directions das_simple_train_ADJ \\
      --positions COMMA,ALL --require COMMA --correct-only --balance
  actpatch ablation --eval-sets mood_stories --nodes v:1,v:2 --methods corrupted --attention frozen \\
      --positions NAME1+VRB1+NAME2+VRB2 --keep-at COMMA1+STOP1+COMMA2+STOP2

The nodes of a run are ablated together; so are a direction's layers. Of nodes and a direction, the nodes' part along the
direction (of z, the heads' results).
Files in DATA_DIR/<model>/: ablation_<dataset>_<scaffold>.csv, to which every run adds its rows, and .svg, .png and .html.")]
pub struct Args {
    #[command(flatten)]
    pub shared: MapArgs,
    /// Nodes to ablate together, as in path-patching: z:9.2 is a head, mlp_out:3 an MLP, v:4 all values of a layer.
    #[arg(long, value_delimiter = ',')]
    pub nodes: Vec<NodePattern>,
    /// Directions to ablate: das_simple_train_ADJ is every layer's own in front of its block, das_simple_train_ADJ_layer2
    /// the same one everywhere.
    #[arg(long, value_delimiter = ',')]
    pub directions: Vec<String>,
    /// Layers at which directions are ablated (the number of layers stands for the end); all that are there without it.
    #[arg(long, value_delimiter = ',', requires = "directions", conflicts_with = "nodes")]
    pub layers: Vec<String>,
    /// How many random directions to ablate in the same places for comparison.
    #[arg(long, default_value_t = 1)]
    pub random: u32,
    /// What takes an activation's place: zero, mean (over the prompts, at each position), mean_over_places (one mean),
    /// mean_of_other_class (one of the negative prompts for positive ones, and the other way round), resample (another clean
    /// prompt), corrupted (the prompt's own corrupted one).
    #[arg(long, value_delimiter = ',', default_value = "zero")]
    pub methods: Vec<Replacement>,
    /// Positions: placeholders, END, ALL, numbers, COMMA, PERIOD (every such token); joined by + they are ablated together.
    #[arg(long, value_delimiter = ',', default_value = "ALL")]
    pub positions: Vec<String>,
    /// Attention patterns: as they come, or those of the clean run.
    #[arg(long, value_delimiter = ',', value_parser = choice::<Attention>(), default_value = "live")]
    pub attention: Vec<Attention>,
    /// Positions at which the ablated activations keep their clean values.
    #[arg(long, value_name = "POSITIONS")]
    pub keep_at: Option<String>,
    /// Only prompts that have these positions.
    #[arg(long, value_name = "POSITIONS")]
    pub require: Option<String>,
    /// Only prompts that the clean model answers rightly.
    #[arg(long)]
    pub correct_only: bool,
    /// As many positive as negative prompts, drawn at random from the larger class.
    #[arg(long)]
    pub balance: bool,
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

/// The key of the rows that tell of all prompts.
const ALL_PROMPTS: &str = "all";

/// A condition before it meets the prompts.
pub struct Case {
    ablated: Vec<Ablated>,
    replacement: Replacement,
    positions: String,
    attention: Attention,
}

/// What is ablated together, under the name that its rows have.
type Target = (String, Vec<Ablated>);

impl Args {
    /// The nodes by name.
    fn nodes(&self) -> Result<Vec<Node>> {
        match resolve_nodes("--nodes", &self.nodes)? {
            Nodes::Together(nodes) => Ok(distinct(&nodes)),
            Nodes::Every(component) => bail!(
                "--nodes: {component} without a layer: name layers ({component}:0), or ablate each of them on its own with \
                 ablation-maps --maps {component}"
            ),
        }
    }

    /// Everything that is ablated: the nodes, or every direction and its random companions.
    fn targets(&self, model: &Model) -> Result<Vec<Target>> {
        let (nodes, n_layers) = (self.nodes()?, model.config.n_layers);
        if self.directions.is_empty() {
            if nodes.is_empty() {
                bail!("expected --nodes or --directions: there is nothing to ablate");
            }
            let whole = |node: &Node| Ablated::whole(node.site(), node.part);
            return Ok(vec![(listed(&nodes), nodes.iter().map(whole).collect())]);
        }
        let layers = match nodes.is_empty() {
            true => resolve_layers(&self.layers, n_layers)?,
            false => distinct(&nodes.iter().map(layer_of_direction).collect::<Vec<_>>()),
        };
        let layers = (!layers.is_empty()).then_some(&layers[..]);
        let stored = (&self.shared.run, &self.shared.compat);
        let directions = with_random(stored, model, &self.directions, layers, self.random)?;
        directions.iter().map(|(name, columns)| along(name, &nodes, columns, n_layers)).collect()
    }

    /// The prompts that the filters keep; the clean model has answered them with these logit differences.
    fn kept(
        &self,
        prompts: &PairedPrompts,
        tokenizer: &Tokenizer,
        differences: Option<&[f64]>,
    ) -> Result<PairedPrompts> {
        let mut numbers: Vec<usize> = (0..prompts.clean.len()).collect();
        if let Some(positions) = &self.require {
            let places = resolve_places("--require", prompts, tokenizer, positions)?;
            let length = |prompt: usize| prompts.sequences[prompts.clean[prompt]].len();
            numbers.retain(|&prompt| !places.of(prompt, length(prompt)).is_empty());
        }
        if let Some(differences) = differences {
            numbers.retain(|&prompt| differences[prompt] > 0.0);
        }
        if self.balance {
            let of = |positive| numbers.iter().copied().filter(move |&n| prompts.positive[n] == positive);
            let classes: [Vec<usize>; 2] = [of(true).collect(), of(false).collect()];
            let smaller = classes[0].len().min(classes[1].len());
            let mut random = ChaCha20Rng::seed_from_u64(self.shared.run.seed);
            let draw =
                |class: &Vec<usize>| sample(&mut random, class.len(), smaller).iter().map(|i| class[i]).collect();
            let drawn: Vec<Vec<usize>> = classes.iter().map(draw).collect();
            numbers = drawn.concat();
            numbers.sort_unstable();
        }
        if numbers.is_empty() {
            let total = prompts.clean.len();
            bail!("{}: none of {total} prompts is left by --require, --correct-only and --balance", prompts.name);
        }
        Ok(chosen(prompts, &numbers))
    }

    fn condition(&self, case: &Case, prompts: &PairedPrompts, tokenizer: &Tokenizer) -> Result<Condition> {
        let kept = self.keep_at.as_ref().map(|kept| resolve_places("--keep-at", prompts, tokenizer, kept));
        Ok(Condition {
            ablated: case.ablated.clone(),
            replacement: case.replacement,
            places: resolve_places("--positions", prompts, tokenizer, &case.positions)?,
            kept: kept.transpose()?,
            frozen_attention: case.attention == Attention::Frozen,
        })
    }

    /// What a condition will do; an error if that is nothing.
    fn planned(&self, config: &ModelConfig, condition: &Condition, prompts: &PairedPrompts) -> Result<Planned> {
        let RunArgs { seed, batch_tokens, .. } = self.shared.run;
        Ok(condition.plan_that_fires(config, prompts, seed, batch_tokens as usize)?)
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
            Some(KeyedRow { keys: keys.iter().cloned().chain([name.to_owned()]).collect(), numbers })
        };
        let classes = [(ALL_PROMPTS, None), ("positive", Some(true)), ("negative", Some(false))];
        classes.into_iter().filter_map(row).collect()
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
            other => bail!(
                "--nodes: {other} is not as wide as a direction; with --directions use z, attn_out, mlp_out or resid_*"
            ),
        };
        let layer = layer_of_direction(node);
        let subspace = columns.get(&layer).with_context(|| format!("{name}: no direction for layer {layer}"))?;
        Ok(Ablated { site, part: node.part, subspace: Some(subspace.clone()) })
    };
    let ablated = nodes.iter().map(ablated).collect::<Result<_>>()?;
    Ok((format!("{name} in {}", listed(nodes)), ablated))
}

impl TableCommand for Args {
    const NAME: &'static str = "ablation";
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
            "above_chance_lost_percent",
            "flipped",
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
        let mut stem = format!("ablation_{set}_{}", self.shared.scaffold);
        if let Some(positions) = &self.require {
            let _ = write!(stem, "_with_{positions}");
        }
        let filters = [(self.correct_only, "_correct"), (self.balance, "_balanced")];
        stem.extend(filters.into_iter().filter(|(on, _)| *on).map(|(_, name)| name));
        stem + &self.shared.compat.ending()
    }

    fn cases(&self, model: &Model, prompts: &PairedPrompts) -> Result<Vec<Keyed<Case>>> {
        let mut cases = Vec::new();
        let kept = self.keep_at.as_ref().map_or(String::new(), |positions| format!(" (kept: {positions})"));
        for (target, ablated) in self.targets(model)? {
            for &replacement in &distinct(&self.methods) {
                for positions in &distinct(&self.positions) {
                    for &attention in &distinct(&self.attention) {
                        let (ablated, positions) = (ablated.clone(), positions.clone());
                        let place = format!("{positions}{kept}");
                        let keys = vec![target.clone(), replacement.to_string(), place, attention.name().into()];
                        cases.push((keys, Case { ablated, replacement, positions, attention }));
                    }
                }
            }
        }
        let kept = self.kept(prompts, &model.tokenizer, None)?;
        for (_, case) in &cases {
            self.planned(&model.config, &self.condition(case, &kept, &model.tokenizer)?, &kept)?;
        }
        Ok(cases)
    }

    fn plan(&self, model: &Model, prompts: &PairedPrompts, cases: &[Keyed<Case>]) -> Result<String> {
        let kept = self.kept(prompts, &model.tokenizer, None)?;
        let mut table = Table::new(["ablated", "method", "positions", "attention", "prompts", "arithmetic"]);
        for (keys, case) in cases {
            let planned = self.planned(&model.config, &self.condition(case, &kept, &model.tokenizer)?, &kept)?;
            let cost = [planned.reached.len().to_string(), planned.flops.to_string()];
            table.push(keys.iter().cloned().chain(cost));
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
        let tokenizer = &engine.model().tokenizer;
        let correct = match self.correct_only {
            true => Some(baselines(engine, prompts, engine.memory_budget())?.clean.logit_differences),
            false => None,
        };
        let kept = self.kept(prompts, tokenizer, correct.as_deref())?;
        let conditions: Vec<Condition> =
            cases.iter().map(|(_, case)| self.condition(case, &kept, tokenizer)).collect::<Result<_>>()?;
        let plans: Vec<Planned> = conditions
            .iter()
            .map(|condition| self.planned(engine.config(), condition, &kept))
            .collect::<Result<_>>()?;
        let progress = bar(1000, format!("ablating {}", prompts.name));
        let told = |share: f64| -> Result<()> {
            progress.set_position((1000.0 * share) as u64);
            Ok(())
        };
        let Outcome { clean, ablated } =
            ablation(engine, &kept, &conditions, self.shared.run.seed, engine.memory_budget(), told)?;
        progress.finish_and_clear();
        let rows = cases.iter().zip(&plans).zip(&ablated);
        Ok(rows
            .flat_map(|(((keys, _), plan), ablated)| self.rows(keys, &plan.reached, &kept, [&clean, ablated]))
            .collect())
    }

    fn figure(&self, title: String, table: &KeyedTable) -> Figure {
        let change = table.columns().numbers.iter().position(|name| *name == CHANGE);
        let defined = |row: &&KeyedRow| change.and_then(|number| row.numbers.get(number)).is_some_and(Option::is_some);
        let of_all = |row: &&KeyedRow| row.keys.last().is_some_and(|prompts| prompts == ALL_PROMPTS);
        let (all, classes): (Vec<&KeyedRow>, Vec<&KeyedRow>) = table.rows().iter().partition(of_all);
        // Where the classes cancel, each of them is shown.
        let cancelled = !all.iter().any(defined);
        let shown = if cancelled { classes } else { all };
        let label = |row: &KeyedRow| row.keys[..row.keys.len() - usize::from(!cancelled)].join(" ");
        let measures = [
            (CHANGE, "change of the logit difference (%)"),
            ("above_chance_lost_percent", "accuracy lost, of that above chance (%)"),
        ];
        bar_figure(title, table.columns(), &shown, label, &measures)
    }

    fn title(&self, set: &str, model: &str) -> String {
        format!("Ablation on {set}, {model}")
    }
}
