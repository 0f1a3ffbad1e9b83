//! `self-check`.

use super::common::{ModelArgs, RunArgs, build_prompts, distinct, print, print_json, resolve_layers};
use super::device::DeviceWork;
use crate::backend::{Backend, Dtype};
use crate::datasets::PairedPrompts;
use crate::datasets::treebank::Scaffold;
use crate::engine::{Engine, PairedRun, PatchPositions, Site};
use crate::experiments::comparison::{Measured, compare, measure};
use crate::experiments::self_check::{Check, self_check};
use crate::report::Table;
use anyhow::{Result, bail};
use serde_json::json;

/// Arguments of `self-check`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch self-check --models gpt2-small --eval-set simple_test --layers 0,6,11
  actpatch self-check --models random:pythia-1.4b --layers 12 --device cuda --dtype bf16 --against-cpu")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    /// Dataset to check on.
    #[arg(long, default_value = "simple_test")]
    eval_set: String,
    /// Layers: `all`, numbers, ranges such as 2..5; layer n_layers is behind the last block.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    layers: Vec<String>,
    /// Also compare the device and the number format with the processor in f32: logits, patches, gradients, a DAS fit.
    #[arg(long)]
    against_cpu: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// The checks of one model.
struct Checks<'a> {
    prompts: PairedPrompts,
    layers: &'a [usize],
    seed: u64,
}

impl DeviceWork for Checks<'_> {
    type Output = Vec<(usize, Vec<Check>)>;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Self::Output> {
        let n_layers = engine.config().n_layers;
        let sites: Vec<Site> = self.layers.iter().map(|&layer| Site::resid(layer, n_layers)).collect();
        let paired = PairedRun::new(engine, self.prompts, &sites, &[PatchPositions::All], false)?;
        self.layers.iter().map(|&layer| Ok((layer, self_check(engine, &paired, layer, self.seed)?))).collect()
    }
}

/// What a device is compared by, at the layers in front of a block.
struct Measures<'a> {
    prompts: &'a PairedPrompts,
    layers: &'a [usize],
    seed: u64,
}

impl DeviceWork for Measures<'_> {
    type Output = Vec<(usize, Measured)>;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Self::Output> {
        let layers = self.layers.iter().filter(|&&layer| layer < engine.config().n_layers);
        layers.map(|&layer| Ok((layer, measure(engine, self.prompts.clone(), layer, self.seed)?))).collect()
    }
}

/// Compares the chosen device and number format with the processor in f32.
fn against_cpu(args: &Args, spec: &str, prompts: &PairedPrompts, layers: &[usize]) -> Result<Vec<(usize, Vec<Check>)>> {
    let seed = args.run.seed;
    let work = || Measures { prompts, layers, seed };
    let found = args.run.on_device(args.models.load(spec, seed)?, work())?;
    let reference = args.run.on_processor(Dtype::F32, args.models.load(spec, seed)?, work())?;
    let pairs = found.iter().zip(&reference);
    Ok(pairs.map(|((layer, found), (_, reference))| (*layer, compare(found, reference, args.run.dtype))).collect())
}

/// Runs the checks; fails when one of them does.
pub fn run(args: Args) -> Result<()> {
    let catalogue = args.run.catalogue()?;
    let mut all = Vec::new();
    let mut failed = 0;
    for spec in &distinct(&args.models.models) {
        let model = args.models.load(spec, args.run.seed)?;
        let prompts = build_prompts(&args.run, &catalogue, &args.eval_set, Scaffold::Plain, &model)?;
        let name = model.name.clone();
        let layers = resolve_layers(&args.layers, model.config.n_layers)?;
        if args.run.dry_run {
            print(&format!("{name}: every check on {} at {} layers\n", prompts.name, layers.len()))?;
            continue;
        }
        let mut table = Table::new(["check", "layer", "deviation", "tolerance", "result"]);
        let work = Checks { prompts: prompts.clone(), layers: &layers, seed: args.run.seed };
        let checks = args.run.in_pool(|| {
            let mut checks = args.run.on_device(model, work)?;
            if args.against_cpu {
                checks.extend(against_cpu(&args, spec, &prompts, &layers)?);
            }
            Ok(checks)
        })?;
        for (layer, checks) in &checks {
            for check in checks {
                failed += usize::from(!check.passed());
                let result = if check.passed() { "passed" } else { "FAILED" };
                let numbers = [format!("{:.1e}", check.deviation), format!("{:.1e}", check.tolerance)];
                let [deviation, tolerance] = numbers;
                table.push([check.name.to_owned(), layer.to_string(), deviation, tolerance, result.to_owned()]);
                all.push(json!({ "model": name, "layer": layer, "check": check, "passed": check.passed() }));
            }
        }
        if !args.run.json {
            print(&format!("{name}\n{table}"))?;
        }
    }
    if args.run.json {
        print_json(&all)?;
    }
    if failed > 0 {
        bail!("{failed} checks failed");
    }
    Ok(())
}
