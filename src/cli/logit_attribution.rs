//! `logit-attribution`.

use super::maps::{MadeMaps, MapArgs, MapCommand, Named, names};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Flops, Layout};
use crate::experiments::activation_maps::common_length;
use crate::experiments::logit_attribution::{Attributed, Attribution, LogitMap, logit_attribution};
use crate::model::{Model, ModelConfig};
use crate::report::figure::{Axis, Facet, Figure, Plot, Series};
use crate::report::{ResultMap, Table};
use anyhow::Result;
use serde::Serialize;

/// Arguments of `logit-attribution`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch logit-attribution --models gpt2-small --eval-sets simple
  actpatch logit-attribution --models gpt2-small --maps heads,neurons --of difference

The final norm is frozen at its scale in the run, so that parts add up: `layers` to the logit difference, heads (without
the bias they share) to their block's attention. Means over the prompts, at the last position.
Files in DATA_DIR/<model>/: logit_attribution_<run>_<dataset>_<scaffold>_<map>.npy and .csv, in logits, and .svg, .png and
.html.")]
pub struct Args {
    #[command(flatten)]
    pub shared: MapArgs,
    /// Maps: lens (the residual stream in front of every block, inside and at the end), lens_by_position, layers
    /// (embeddings, attention, MLPs, biases), heads, neurons.
    #[arg(long, value_delimiter = ',', default_value = "lens,layers,heads,neurons")]
    #[serde(serialize_with = "names")]
    pub maps: Vec<LogitMap>,
    /// Whose: the clean prompts', the corrupted ones' (with the clean ones' answers), or clean less corrupted.
    #[arg(long, value_enum, default_value = "clean")]
    pub of: Attributed,
}

/// What the values are.
const MEASURE: &str = "logit difference (logits)";

impl MapCommand for Args {
    const NAME: &'static str = "logit-attribution";
    type Kind = LogitMap;

    fn shared(&self) -> &MapArgs {
        &self.shared
    }

    fn kinds(&self, _: &Model, prompts: &PairedPrompts) -> Result<Vec<LogitMap>> {
        if self.maps.contains(&LogitMap::LensByPosition) {
            common_length(prompts)?;
        }
        Ok(self.maps.clone())
    }

    fn stem(&self, map: &LogitMap, set: &str) -> String {
        self.shared.stem("logit_attribution", map.name(), self.of.name(), set)
    }

    fn plan(&self, model: &Model, prompts: &PairedPrompts, maps: &[LogitMap]) -> Result<String> {
        let mut table = Table::new(["prompt", "map", "values"]);
        for map in maps {
            let shape = map.shape(&model.config, prompts.sequences.first().map_or(0, Vec::len));
            table.push([prompts.name.clone(), map.to_string(), shape.iter().product::<usize>().to_string()]);
        }
        let layout = Layout::new(prompts.sequences.iter().map(|sequence| (0, sequence.len())));
        let pass = Flops::forward(&model.config, &layout, 0, 1);
        Ok(format!("{table}one pass over {} prompts, {pass}\n", prompts.sequences.len()))
    }
}

impl MadeMaps for Args {
    fn make<B: Backend>(&self, engine: &Engine<B>, prompts: &PairedPrompts, maps: &[LogitMap]) -> Result<Vec<Named>> {
        let config = engine.config();
        let found = logit_attribution(engine, prompts, maps, self.of, engine.memory_budget())?;
        let named = |Attribution { map, shape, values }: Attribution| {
            let title = format!("{} on {} ({}), {}", heading(map), prompts.name, self.of.name(), engine.model().name);
            let stem = self.stem(&map, &prompts.name);
            let components = map.components(config);
            let result = ResultMap { axes: map.axes(), shape, components, unit: "logits", values };
            match map {
                LogitMap::Lens => {
                    Named { figure: Some(lens_figure(title, &result, config)), ..Named::bare(stem, result) }
                }
                _ => Named::new(stem, result, &title, MEASURE, prompts),
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
        LogitMap::Neurons => "Direct logit attribution of neurons",
    }
}

/// The lens along the layers; a block's middle lies half way to the next.
fn lens_figure(title: String, map: &ResultMap, config: &ModelConfig) -> Figure {
    let step = if config.parallel_residual { 1.0 } else { 0.5 };
    let points = map.values.iter().enumerate().map(|(number, value)| (step * number as f64, *value)).collect();
    let series = Series { name: "residual stream".into(), points, baseline: false };
    let x = Axis::whole("layer");
    Figure::new(title, vec![Facet { title: String::new(), x, y: Axis::new(MEASURE), plot: Plot::Lines(vec![series]) }])
}
