//! `verify`: our numbers beside those that others have published or computed.

mod experiments;

use super::common::{ModelArgs, RunArgs, distinct, print, print_json};
use crate::model::Model;
use crate::report::{Golden, GoldenFile, Table};
use anyhow::{Context, Result, bail};
use experiments::{Ran, Verifier};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Arguments of `verify`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch verify
  actpatch verify --models gpt2-small --experiments baselines,direction_cosines
  actpatch verify --models ./my_model --golden my_numbers.toml

Every experiment is run anew, in a folder of its own that is gone afterwards; imported directions and Treebank datasets
are taken from DATA_DIR/<model>. Exit code 1: a number is off, or none could be checked.")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    /// Another file of golden numbers (docs/verify.md describes the format).
    #[arg(long)]
    golden: Vec<PathBuf>,
    /// Only these kinds of experiments.
    #[arg(long, value_delimiter = ',')]
    experiments: Vec<String>,
    #[command(flatten)]
    run: RunArgs,
}

/// What became of one golden entry.
struct Outcome<'a> {
    golden: &'a Golden,
    ran: Ran,
}

impl Outcome<'_> {
    fn passes(&self, key: &str, ours: f64) -> bool {
        // A NaN is no pass.
        self.golden.values.get(key).is_some_and(|theirs| (ours - theirs).abs() <= self.golden.tolerance)
    }

    /// Numbers that were computed, and those of them that are off.
    fn counts(&self) -> (usize, usize) {
        match &self.ran {
            Ran::Cannot(_) => (0, 0),
            Ran::Values(values) => {
                (values.len(), values.iter().filter(|(key, ours)| !self.passes(key, **ours)).count())
            }
        }
    }

    fn text(&self) -> String {
        let Golden { name, experiment, source, tolerance, .. } = self.golden;
        let head = format!("{name}\n  {experiment}; {source}\n");
        let values = match &self.ran {
            Ran::Cannot(reason) => return format!("{head}  cannot run: {reason}\n\n"),
            Ran::Values(values) => values,
        };
        let mut table = Table::new(["", "theirs", "ours", "difference", "tolerance", "result"]);
        for (key, ours) in values {
            let theirs = self.golden.values.get(key).copied().unwrap_or(f64::NAN);
            let numbers = [theirs, *ours, ours - theirs].map(|number| format!("{number:.4}"));
            let result = if self.passes(key, *ours) { "passed" } else { "FAILED" };
            let row = [key.clone()].into_iter().chain(numbers).chain([tolerance.to_string(), result.to_owned()]);
            table.push(row);
        }
        format!("{head}{table}\n")
    }

    fn json(&self, model: &str) -> Value {
        let Golden { name, experiment, source, tolerance, values: theirs, .. } = self.golden;
        let (values, reason) = match &self.ran {
            Ran::Cannot(reason) => (Vec::new(), Some(reason)),
            Ran::Values(values) => {
                let row = |(key, ours): (&String, &f64)| json!({ "name": key, "theirs": theirs.get(key), "ours": ours, "passed": self.passes(key, *ours) });
                (values.iter().map(row).collect(), None)
            }
        };
        json!({
            "model": model, "name": name, "experiment": experiment, "source": source, "tolerance": tolerance,
            "values": values, "cannot_run": reason,
        })
    }
}

/// Runs the experiments behind the golden numbers of every model; fails when a number is off or none could be checked.
pub fn run(args: Args) -> Result<()> {
    let mut files = GoldenFile::built_in()?;
    for path in &args.golden {
        files.push(GoldenFile::read(path)?);
    }
    let (mut all, mut checked, mut failed, mut not_run) = (Vec::new(), 0, 0, 0);
    for spec in &distinct(&args.models.models) {
        let name = Model::results_name(spec, args.models.revision.as_deref()).context("--models")?;
        let entries = selected(&args, &files, &name)?;
        if args.run.dry_run {
            print(&plan(&name, &entries))?;
            continue;
        }
        let mut verifier = Verifier::new(&args.models, &args.run, spec, &name)?;
        for golden in entries {
            let outcome = Outcome { golden, ran: args.run.in_pool(|| verifier.run(golden))? };
            let (numbers, off) = outcome.counts();
            checked += numbers;
            failed += off;
            not_run += usize::from(matches!(outcome.ran, Ran::Cannot(_)));
            match args.run.json {
                true => all.push(outcome.json(&name)),
                false => print(&outcome.text())?,
            }
        }
    }
    if args.run.dry_run {
        return Ok(());
    }
    match args.run.json {
        true => print_json(&all)?,
        false => {
            let passed = checked - failed;
            print(&format!("{passed} numbers passed, {failed} failed; {not_run} experiments could not run\n"))?;
        }
    }
    match (checked, failed) {
        (0, _) => bail!("no number could be checked"),
        (_, 0) => Ok(()),
        _ => bail!("{failed} of {checked} numbers are off"),
    }
}

/// The entries of a model that the arguments ask for.
fn selected<'a>(args: &Args, files: &'a [GoldenFile], model: &str) -> Result<Vec<&'a Golden>> {
    let of_model: Vec<&Golden> =
        files.iter().filter(|file| file.model == model).flat_map(|file| &file.golden).collect();
    if of_model.is_empty() {
        let known: Vec<&str> = files.iter().map(|file| file.model.as_str()).collect();
        bail!("--models: no golden numbers for {model}, but for {}; --golden names a file", known.join(", "));
    }
    let kinds: Vec<&str> = distinct(&of_model.iter().map(|golden| golden.experiment.as_str()).collect::<Vec<_>>());
    if let Some(unknown) = args.experiments.iter().find(|kind| !kinds.contains(&kind.as_str())) {
        bail!("--experiments: {model} has no golden numbers of {unknown:?}, it has those of {}", kinds.join(", "));
    }
    let wanted = |golden: &&Golden| args.experiments.is_empty() || args.experiments.contains(&golden.experiment);
    Ok(of_model.into_iter().filter(wanted).collect())
}

fn plan(model: &str, entries: &[&Golden]) -> String {
    let mut table = Table::new([model, "experiment", "numbers"]);
    for golden in entries {
        table.push([golden.name.clone(), golden.experiment.clone(), golden.values.len().to_string()]);
    }
    format!("{table}\n")
}

/// Numbers by name.
type Values = BTreeMap<String, f64>;
