//! `logit-attribution`.

use super::choice::choice;
use super::maps::{MadeMaps, MapArgs, MapCommand, Named};
use super::stored_directions::unit_direction;
use super::twins::TwinArgs;
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Flops, Layout};
use crate::experiments::activation_maps::common_length;
use crate::experiments::logit_attribution::{
    Attributed, Attribution, LogitMap, direction_attribution, logit_attribution,
};
use crate::model::{Model, ModelConfig};
use crate::report::figure::{Axis, Facet, Figure, Plot, Series};
use crate::report::{ResultMap, Table};
use anyhow::{Context, Result, bail};
use clap::builder::ArgPredicate;
use serde::Serialize;

/// Arguments of `logit-attribution`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch logit-attribution --models gpt2-small --eval-sets simple
  actpatch logit-attribution --models gpt2-small --maps heads,neurons --of difference
  actpatch logit-attribution --models gpt2-small --along das_simple_train_ADJ_layer1 --maps heads,heads_by_position
  actpatch logit-attribution --models gpt2-small --ablate kmeans_simple_train_ADJ_layer1 --ablate-layers 1

The final norm is frozen at its scale in the run, so that parts add up: `layers` to the logit difference, heads (without
the bias they share) to their block's attention. Means over the prompts, at the last position.
Files in DATA_DIR/<model>/: logit_attribution_<run>_<dataset>_<scaffold>_<map>.npy and .csv, in logits, and .svg, .png and
.html; along a direction, turned round in negative prompts, direction_attribution_<direction>_<run>_…; with --ablate
logit_attribution_ablated_<direction>_<method>_<positions>_difference_….")]
pub struct Args {
    #[command(flatten)]
    pub shared: MapArgs,
    /// Maps: lens (the residual stream in front of every block, inside and at the end), lens_by_position, layers
    /// (embeddings, attention, MLPs, biases), heads, heads_by_position, neurons.
    #[arg(long, value_delimiter = ',', default_value = "lens,layers,heads,neurons")]
    pub maps: Vec<LogitMap>,
    /// Whose: the clean prompts', the corrupted ones' (with the clean ones' answers), or clean less corrupted; with --ablate
    /// clean less ablated.
    #[arg(long, value_parser = choice::<Attributed>(), default_value = "clean")]
    #[arg(default_value_if("ablate", ArgPredicate::IsPresent, "difference"))]
    pub of: Attributed,
    /// A stored direction to read along instead of the answers.
    #[arg(long)]
    pub along: Option<String>,
    #[command(flatten)]
    pub twin: TwinArgs,
}

impl Args {
    /// The direction, of unit length, if there is one.
    fn direction(&self, model: &Model) -> Result<Option<Vec<f32>>> {
        let Some(name) = &self.along else { return Ok(None) };
        unit_direction((&self.shared.run, &self.shared.compat), model, name).context("--along").map(Some)
    }

    /// What the values are.
    fn measure(&self) -> String {
        self.along.as_ref().map_or("logit difference (logits)".into(), |name| format!("along {name}"))
    }
}

impl MapCommand for Args {
    const NAME: &'static str = "logit-attribution";
    type Kind = LogitMap;

    fn shared(&self) -> &MapArgs {
        &self.shared
    }

    fn kinds(&self, model: &Model, prompts: &PairedPrompts) -> Result<Vec<LogitMap>> {
        if self.maps.iter().any(|map| map.by_position()) {
            common_length(prompts)?;
        }
        self.direction(model)?;
        if self.twin.ablate.is_some() && self.of != Attributed::Difference {
            bail!("--of: with --ablate, expected difference (clean less ablated), found {}", self.of.name());
        }
        self.twin.planned(&self.shared, model, prompts)?;
        Ok(self.maps.clone())
    }

    fn stem(&self, map: &LogitMap, set: &str) -> String {
        let experiment = match &self.along {
            None => "logit_attribution".to_owned(),
            Some(name) => format!("direction_attribution_{name}"),
        };
        self.shared.stem(&format!("{experiment}{}", self.twin.ending()), map.name(), self.of.name(), set)
    }

    fn plan(&self, model: &Model, prompts: &PairedPrompts, maps: &[LogitMap]) -> Result<String> {
        let mut table = Table::new(["prompt", "map", "values"]);
        for map in maps {
            let shape = map.shape(&model.config, prompts.sequences.first().map_or(0, Vec::len));
            table.push([prompts.name.clone(), map.to_string(), shape.iter().product::<usize>().to_string()]);
        }
        let sequences = &self.twin.planned(&self.shared, model, prompts)?.prompts.sequences;
        let layout = Layout::new(sequences.iter().map(|sequence| (0, sequence.len())));
        let pass = Flops::forward(&model.config, &layout, 0, 1);
        Ok(format!("{table}one pass over {} prompts, {pass}\n", sequences.len()))
    }
}

impl MadeMaps for Args {
    fn make<B: Backend>(&self, engine: &Engine<B>, prompts: &PairedPrompts, maps: &[LogitMap]) -> Result<Vec<Named>> {
        let config = engine.config();
        let budget = engine.memory_budget();
        let pairs = self.twin.pairs(&self.shared, engine, prompts)?;
        let found = match self.direction(engine.model())? {
            None => logit_attribution(engine, &pairs, maps, self.of, budget)?,
            Some(along) => direction_attribution(engine, &pairs, maps, self.of, &along, budget)?,
        };
        let unit = if self.along.is_some() { "projection" } else { "logits" };
        let measure = self.measure();
        let named = |Attribution { map, shape, values }: Attribution| {
            let what = self.along.as_ref().map_or(heading(map).into(), |name| format!("{map} along {name}"));
            let run = format!("{}{}", self.of.name(), self.twin.title());
            let title = format!("{what} on {} ({run}), {}", prompts.name, engine.model().name);
            let stem = self.stem(&map, &prompts.name);
            let components = map.components(config);
            let result = ResultMap { axes: map.axes(), shape, components, unit, values };
            match map {
                LogitMap::Lens => {
                    Named { figure: Some(lens_figure(title, &measure, &result, config)), ..Named::bare(stem, result) }
                }
                _ => Named::new(stem, result, &title, &measure, prompts),
            }
        };
        Ok(found.into_iter().map(named).collect())
    }
}

fn heading(map: LogitMap) -> &'static str {
    match map {
        LogitMap::Lens => "Logit lens",
        LogitMap::LensByPosition => "Logit lens by position",
        LogitMap::Layers => "Direct logit attribution of layers",
        LogitMap::Heads => "Direct logit attribution of heads",
        LogitMap::HeadsByPosition => "Direct logit attribution of heads by position",
        LogitMap::Neurons => "Direct logit attribution of neurons",
    }
}

/// The lens along the layers; a block's middle lies half way to the next.
fn lens_figure(title: String, measure: &str, map: &ResultMap, config: &ModelConfig) -> Figure {
    let step = if config.parallel_residual { 1.0 } else { 0.5 };
    let points = map.values.iter().enumerate().map(|(number, value)| (step * number as f64, *value)).collect();
    let series = Series { name: "residual stream".into(), points, baseline: false };
    let x = Axis::whole("layer");
    Figure::new(title, vec![Facet { title: String::new(), x, y: Axis::new(measure), plot: Plot::Lines(vec![series]) }])
}
