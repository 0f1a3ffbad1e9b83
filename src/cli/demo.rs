//! `demo`: the whole journey on the small model that is part of the program.

use super::common::{RunArgs, defaults, print, print_json};
use super::{direction_patching_results, direction_patching_suite, fit_directions};
use crate::engine::Metric;
use crate::report::results::ResultFile;
use anyhow::{Context, Result};
use serde_json::json;
use std::time::Instant;

/// Arguments of `demo`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  actpatch demo --data-dir /tmp/actpatch")]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
}

/// The out-of-distribution dataset of the demo: other words in another sentence about another subject.
const OUT_OF_DISTRIBUTION: &str = "simple_product";

/// Fits every method at every layer, patches two datasets, prints the best layer of every method.
pub fn run(args: Args) -> Result<()> {
    let started = Instant::now();
    let mut fit: fit_directions::Args = defaults()?;
    fit.run = args.run.clone();
    fit.test_sets = vec!["simple_test".into()];
    let mut suite: direction_patching_suite::Args = defaults()?;
    suite.run = args.run.clone();
    suite.eval_sets = vec!["simple_test".into(), OUT_OF_DISTRIBUTION.into()];
    suite.metrics = vec![Metric::LogitDiff, Metric::LogitFlip];
    if args.run.dry_run {
        return fit_directions::run(fit);
    }
    let catalogue = args.run.catalogue()?;
    let model = fit.models.load("demo", args.run.seed)?;
    let folder = args.run.folder(&model.name);
    let (_, fitted) = args.run.in_pool(|| fit_directions::fit_model(&fit, &catalogue, "demo", model))?;
    let model = suite.models.load("demo", args.run.seed)?;
    let (_, patched) = args.run.in_pool(|| direction_patching_suite::patch_model(&suite, &catalogue, model))?;

    let mut all = std::collections::BTreeMap::new();
    for metric in &suite.metrics {
        let path = folder.join(format!("direction_patching_{metric}_resid_plain.csv"));
        let file = ResultFile::read("demo", &path)?.with_context(|| path.display().to_string())?;
        let bests = file.best_layers();
        if !args.run.json {
            print(&format!(
                "{metric}: percent at the best layer (layer)\n{}\n",
                direction_patching_results::table(&bests)
            ))?;
        }
        all.insert(metric.to_string(), bests);
    }
    if args.run.json {
        let manifests: Vec<_> = [fitted, patched].into_iter().flatten().collect();
        return print_json(&json!({ "best_layers": all, "manifests": manifests }));
    }
    let seconds = started.elapsed().as_secs_f64();
    print(&format!("{seconds:.1} s; directions, records and CSV files are in {}\n", folder.display()))
}
