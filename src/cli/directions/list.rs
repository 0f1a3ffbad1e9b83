//! `directions list`.

use super::{StoredArgs, processing, provenance};
use crate::cli::common::{print, print_json};
use crate::report::Table;
use anyhow::Result;
use serde_json::json;

/// Arguments of `directions list`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch directions list --model gpt2-small
  actpatch directions list 'das_*' 'kmeans_*' --model gpt2-small --json")]
pub(super) struct Args {
    #[command(flatten)]
    stored: StoredArgs,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let all = args.stored.read()?;
    if args.stored.json {
        let rows = all.iter().map(|(direction, record)| {
            let (name, shape) = (direction.name.to_string(), [direction.columns.rows, direction.columns.cols]);
            json!({ "name": name, "shape": shape, "provenance": provenance(record.as_ref()), "record": record })
        });
        return print_json(&rows.collect::<Vec<_>>());
    }
    let mut table = Table::new(["direction", "shape", "provenance", "weight processing", "final metric"]);
    for (direction, record) in &all {
        let shape = format!("({}, {})", direction.columns.rows, direction.columns.cols);
        let processing = record.as_ref().map_or("unknown".into(), processing);
        let metric = record.as_ref().and_then(|record| record.final_metric);
        let metric = metric.map_or(String::new(), |metric| format!("{metric:.4}"));
        let provenance = provenance(record.as_ref()).to_owned();
        table.push([direction.name.to_string(), shape, provenance, processing, metric]);
    }
    print(&table.to_string())
}
