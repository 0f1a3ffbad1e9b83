//! `activation-patching-maps`.

use super::common::{bar, distinct, print, print_json};
use super::device::DeviceWork;
use super::maps::{MapArgs, Named, as_json, check_defined, percent, position_labels, summary, write};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Metric, Plan};
use crate::experiments::activation_maps::{ActivationMap, MapKind, activation_maps, map_cells};
use crate::experiments::chunks::MEMORY_BUDGET;
use crate::model::Model;
use crate::report::{Manifest, ResultMap, Table};
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::Path;

/// Arguments of `activation-patching-maps`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch activation-patching-maps --models gpt2-small --eval-sets simple
  actpatch activation-patching-maps --maps z,z_by_position --metrics logit_diff,logit_diff_noising

Files in DATA_DIR/<model>/: activation_patching_<metric>_<dataset>_<scaffold>_<map>.npy and .csv, in percent, and .svg,
.png and .html.")]
pub struct Args {
    #[command(flatten)]
    pub shared: MapArgs,
    /// Maps: z, q, k, v, pattern (layer, head), the same with _by_position (layer, position, head), and resid_pre,
    /// resid_mid, resid_post, attn_out, mlp_out (layer, position).
    #[arg(long, value_delimiter = ',', default_value = "z,q,k,v,pattern,resid_pre,attn_out,mlp_out")]
    #[serde(serialize_with = "names")]
    pub maps: Vec<MapKind>,
    /// Metrics: logit_diff, logit_diff_noising, logit_flip, sign_flip, prob_diff.
    #[arg(long, value_delimiter = ',', default_value = "logit_diff")]
    pub metrics: Vec<Metric>,
}

fn names<S: serde::Serializer>(maps: &[MapKind], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(maps.iter().map(MapKind::to_string))
}

impl Args {
    fn stem(&self, kind: MapKind, metric: Metric, set: &str) -> String {
        self.shared.stem("activation_patching", &kind.to_string(), metric, set)
    }

    /// The kinds whose maps are not all there.
    fn wanted(&self, folder: &Path, set: &str) -> Vec<(MapKind, Metric)> {
        let all: Vec<(MapKind, Metric)> = distinct(&self.maps)
            .into_iter()
            .flat_map(|kind| distinct(&self.metrics).into_iter().map(move |metric| (kind, metric)))
            .collect();
        self.shared.wanted(&all, folder, |&(kind, metric)| self.stem(kind, metric, set))
    }
}

/// The maps of one model.
struct Maps<'a> {
    args: &'a Args,
    work: Vec<(PairedPrompts, Vec<(MapKind, Metric)>)>,
    folder: &'a Path,
    manifest: &'a mut Manifest,
}

impl DeviceWork for Maps<'_> {
    type Output = Vec<Named>;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Vec<Named>> {
        self.manifest.computed_on(engine);
        let mut all = Vec::new();
        for (prompts, wanted) in self.work {
            self.manifest.saw(&prompts)?;
            let set = prompts.name.clone();
            let found = patch(engine, &prompts, &wanted).with_context(|| set.clone())?;
            let named = |map: ActivationMap| Named {
                stem: self.args.stem(map.kind, map.metric, &set),
                title: format!("Activation patching of {} on {set}, {}", map.kind, engine.model().name),
                metric: map.metric,
                positions: position_labels(&prompts),
                map: ResultMap { axes: map.kind.axes(), shape: map.shape, percent: percent(&map.values) },
            };
            let found: Vec<Named> = found.into_iter().map(named).collect();
            write(&found, self.folder, self.manifest)?;
            all.extend(found);
        }
        Ok(all)
    }
}

/// The wanted maps of one dataset.
fn patch<B: Backend>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    wanted: &[(MapKind, Metric)],
) -> Result<Vec<ActivationMap>> {
    let (kinds, metrics) = sides(wanted);
    let progress = bar(1000, format!("patching {}", prompts.name));
    let (baselines, mut maps) =
        activation_maps(engine, prompts, &kinds, &metrics, MEMORY_BUDGET, |share| -> Result<()> {
            progress.set_position((1000.0 * share) as u64);
            Ok(())
        })?;
    progress.finish_and_clear();
    check_defined(&baselines, &metrics, &prompts.name)?;
    maps.retain(|map| wanted.contains(&(map.kind, map.metric)));
    Ok(maps)
}

fn sides(wanted: &[(MapKind, Metric)]) -> (Vec<MapKind>, Vec<Metric>) {
    let (kinds, metrics): (Vec<_>, Vec<_>) = wanted.iter().copied().unzip();
    (distinct(&kinds), distinct(&metrics))
}

/// Makes the maps that the arguments name, for every model.
pub fn run(args: Args) -> Result<()> {
    let catalogue = args.shared.compat.catalogue(&args.shared.run)?;
    let mut all = Vec::new();
    for spec in &distinct(&args.shared.models.models) {
        let model = args.shared.models.load(spec, args.shared.run.seed)?;
        let (name, folder) = (model.name.clone(), args.shared.run.folder(&model.name));
        let mut work = Vec::new();
        for prompts in args.shared.prompts(&catalogue, &model)? {
            let wanted = args.wanted(&folder, &prompts.name);
            if !wanted.is_empty() {
                work.push((prompts, wanted));
            }
        }
        if args.shared.run.dry_run {
            print(&plan(&args, &model, &work)?)?;
            continue;
        }
        let (mut maps, mut record) = (Vec::new(), None);
        if !work.is_empty() {
            let mut manifest = args.shared.run.manifest("activation-patching-maps", &args, &folder, Some(&model))?;
            let maps_of = Maps { args: &args, work, folder: &folder, manifest: &mut manifest };
            maps = args.shared.run.in_pool(|| args.shared.run.on_device(model, maps_of))?;
            record = Some(manifest.finish()?);
        }
        if !args.shared.run.json {
            print(&summary(&name, &maps))?;
        }
        all.push(as_json(&name, &maps, &record));
    }
    if args.shared.run.json {
        print_json(&all)?;
    }
    Ok(())
}

/// The text of a dry run.
fn plan(args: &Args, model: &Model, work: &[(PairedPrompts, Vec<(MapKind, Metric)>)]) -> Result<String> {
    let mut table = Table::new(["prompt", "map", "metric", "values", "arithmetic"]);
    for (prompts, wanted) in work {
        for &(kind, metric) in wanted {
            let (cells, _) = map_cells(&model.config, prompts, &[kind], &[metric])?;
            let flops = Plan::new(&model.config, prompts, &cells, args.shared.run.batch_tokens as usize)?.flops();
            let count = cells.len().to_string();
            table.push([prompts.name.clone(), kind.to_string(), metric.to_string(), count, flops.to_string()]);
        }
    }
    Ok(format!("{}\n{table}", model.name))
}
