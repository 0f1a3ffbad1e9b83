//! `attribution-patching`.

use super::activation_patching_maps::exact_maps;
use super::common::{bar, distinct};
use super::maps::{MadeMaps, MapArgs, MapCommand, Named, check_defined, exact_plan, in_percent};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Metric};
use crate::experiments::activation_maps::{ActivationMap, MapKind};
use crate::experiments::attribution_patching::{Agreement, Gradients, attribution_maps};
use crate::model::Model;
use crate::report::ResultMap;
use crate::report::figure::{Axis, Class, Facet, Plot, Point};
use anyhow::{Result, bail};
use serde::Serialize;

/// Arguments of `attribution-patching`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch attribution-patching --models gpt2-small --maps z,resid_pre,post
  actpatch attribution-patching --models gpt2-small --maps z,mlp_out --exact
  actpatch attribution-patching --models gpt2-small --maps z,mlp_out --integrated 10 --exact

Maps as activation-patching-maps makes them, to first order: change of a node times the metric's gradient there, two forward
passes and one backward pass for all of them.
Files in DATA_DIR/<model>/: attribution_patching_<metric>_<dataset>_<scaffold>_<map>.npy and .csv, in percent, and .svg, .png
and .html; with --integrated N integrated_gradients_N_…")]
pub struct Args {
    #[command(flatten)]
    pub shared: MapArgs,
    /// Maps: z, q, k, v, pattern (layer, head), pre, post (layer, neuron), the same with _by_position, and resid_pre,
    /// resid_mid, resid_post, attn_out, mlp_out (layer, position).
    #[arg(long, value_delimiter = ',', default_value = "z,q,k,v,pattern,resid_pre,attn_out,mlp_out")]
    pub maps: Vec<MapKind>,
    /// Metrics: logit_diff, logit_diff_noising.
    #[arg(long, value_delimiter = ',', default_value = "logit_diff")]
    pub metrics: Vec<Metric>,
    /// Integrated gradients: their mean over this many steps from one run's input to the other's.
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub integrated: Option<u16>,
    /// Patch every node exactly too, into the files of activation-patching-maps, and compare.
    #[arg(long)]
    pub exact: bool,
}

impl Args {
    fn gradients(&self) -> Gradients {
        self.integrated.map_or(Gradients::Plain, |steps| Gradients::Integrated(steps.into()))
    }

    fn title(&self, kind: MapKind, set: &str, model: &str) -> String {
        match self.integrated {
            None => format!("Attribution patching of {kind} on {set}, {model}"),
            Some(steps) => format!("Integrated gradients ({steps} steps) of {kind} on {set}, {model}"),
        }
    }
}

impl MapCommand for Args {
    const NAME: &'static str = "attribution-patching";
    type Kind = (MapKind, Metric);

    fn shared(&self) -> &MapArgs {
        &self.shared
    }

    fn renews(&self) -> bool {
        self.shared.run.overwrite || self.exact
    }

    fn kinds(&self, _: &Model, _: &PairedPrompts) -> Result<Vec<Self::Kind>> {
        if let Some(other) = self.metrics.iter().find(|m| !matches!(m, Metric::LogitDiff | Metric::LogitDiffNoising)) {
            bail!("--metrics: expected logit_diff or logit_diff_noising, which have gradients, found {other}");
        }
        let metrics = |&kind: &MapKind| self.metrics.iter().map(move |&metric| (kind, metric));
        Ok(self.maps.iter().flat_map(metrics).collect())
    }

    fn stem(&self, &(kind, metric): &Self::Kind, set: &str) -> String {
        let experiment = match self.integrated {
            None => "attribution_patching".to_owned(),
            Some(steps) => format!("integrated_gradients_{steps}"),
        };
        self.shared.stem(&experiment, &kind.to_string(), metric, set)
    }

    fn plan(&self, model: &Model, prompts: &PairedPrompts, kinds: &[Self::Kind]) -> Result<String> {
        let table = exact_plan(&self.shared, model, prompts, kinds, "exactly")?;
        let metrics = distinct(&kinds.iter().map(|kind| kind.1).collect::<Vec<_>>()).len();
        let all = self.gradients().flops(&model.config, prompts);
        Ok(format!("{table}all maps of a metric from gradients: {all} ({metrics} metrics)\n"))
    }
}

impl MadeMaps for Args {
    fn make<B: Backend>(
        &self,
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        wanted: &[Self::Kind],
    ) -> Result<Vec<Named>> {
        let (kinds, metrics): (Vec<_>, Vec<_>) = wanted.iter().copied().unzip();
        let (kinds, metrics) = (distinct(&kinds), distinct(&metrics));
        let progress = bar(1000, format!("gradients of {}", prompts.name));
        let told = |share| -> Result<()> {
            progress.set_position((1000.0 * share) as u64);
            Ok(())
        };
        let gradients = self.gradients();
        let (baselines, mut maps) =
            attribution_maps(engine, prompts, &kinds, &metrics, gradients, engine.memory_budget(), told)?;
        progress.finish_and_clear();
        check_defined(&baselines, metrics, &prompts.name)?;
        let place = |map: &ActivationMap| wanted.iter().position(|kind| *kind == (map.kind, map.metric));
        maps.retain(|map| place(map).is_some());
        maps.sort_by_key(place);
        let mut exact = if self.exact { exact_maps(&self.shared, engine, prompts, wanted)? } else { Vec::new() };
        let named = |(number, map): (usize, ActivationMap)| {
            let title = self.title(map.kind, &prompts.name, &engine.model().name);
            let percent = in_percent(map.kind.axes(), map.shape, &map.values);
            let measure = format!("{} (%)", map.metric);
            let mut named =
                Named::new(self.stem(&(map.kind, map.metric), &prompts.name), percent, &title, &measure, prompts);
            if let Some(exact) = exact.get(number) {
                named.agreement = Some(Agreement::of(&named.map.values, &exact.map.values));
                if let Some(figure) = &mut named.figure {
                    // The scatter plot names the largest heads too.
                    if let Some(Plot::HeatMap(_)) = figure.facets.first().map(|facet| &facet.plot) {
                        figure.facets.retain(|facet| matches!(facet.plot, Plot::HeatMap(_)));
                    }
                    figure.facets.push(beside(&named.map, &exact.map, &measure));
                }
            }
            named
        };
        let mut all: Vec<Named> = maps.into_iter().enumerate().map(named).collect();
        all.append(&mut exact);
        Ok(all)
    }
}

/// Points of a scatter plot have a name from this share of the largest value on.
const NAMED: f64 = 0.1;

/// Every node's estimate over its exact value.
fn beside(estimate: &ResultMap, exact: &ResultMap, measure: &str) -> Facet {
    let order = exact.by_size();
    let largest = order.first().map_or(0.0, |&index| exact.values[index].abs());
    let point = |&index: &usize| Point {
        x: exact.values[index],
        y: estimate.values[index],
        label: match exact.values[index].abs() > NAMED * largest {
            true => estimate.labels(index).join("."),
            false => String::new(),
        },
    };
    Facet {
        title: format!("beside exact patching ({})", estimate.axes.join(".")),
        x: Axis::new(format!("exact {measure}")),
        y: Axis::new(format!("estimated {measure}")),
        plot: Plot::Scatter(vec![Class { name: measure.to_owned(), points: order.iter().map(point).collect() }]),
    }
}
