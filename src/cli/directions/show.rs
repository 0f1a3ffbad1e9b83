//! `directions show`.

use super::{StoredArgs, processing, provenance};
use crate::cli::common::{print, print_json};
use crate::directions::{Direction, FitRecord};
use crate::report::Table;
use anyhow::Result;
use serde_json::json;

/// Arguments of `directions show`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:
  actpatch directions show das_simple_train_ADJ_layer6 --model gpt2-small")]
pub(super) struct Args {
    #[command(flatten)]
    stored: StoredArgs,
}

/// Points of a loss curve that are printed; JSON has all.
const POINTS: usize = 9;

pub(super) fn run(args: &Args) -> Result<()> {
    let all = args.stored.read()?;
    if args.stored.json {
        let rows = all.iter().map(|(direction, record)| {
            let (name, shape) = (direction.name.to_string(), [direction.columns.rows, direction.columns.cols]);
            json!({ "name": name, "shape": shape, "norms": norms(direction), "record": record })
        });
        return print_json(&rows.collect::<Vec<_>>());
    }
    for (direction, record) in &all {
        print(&text(direction, record.as_ref()))?;
    }
    Ok(())
}

/// Euclidean length of every column.
fn norms(direction: &Direction) -> Vec<f64> {
    let columns = &direction.columns;
    let squares = |col: usize| columns.data.iter().skip(col).step_by(columns.cols).map(|v| f64::from(*v).powi(2));
    (0..columns.cols).map(|col| squares(col).sum::<f64>().sqrt()).collect()
}

fn text(direction: &Direction, record: Option<&FitRecord>) -> String {
    let mut lines = vec![
        ("shape", format!("({}, {})", direction.columns.rows, direction.columns.cols)),
        ("norm", norms(direction).iter().map(|norm| format!("{norm:.6}")).collect::<Vec<_>>().join(" ")),
        ("provenance", provenance(record).to_owned()),
    ];
    if let Some(record) = record {
        let revision = record.revision.as_ref().map_or(String::new(), |revision| format!(" at {revision}"));
        lines.push(("model", format!("{}{revision}", record.model)));
        lines.push(("weight processing", processing(record)));
        match &record.imported {
            Some(source) => {
                lines.push(("file", source.file.clone()));
                lines.push(("sha256", source.sha256.clone()));
            }
            None => {
                lines.push(("seed", record.seed.to_string()));
                lines.push(("settings", record.settings.to_string()));
            }
        }
        lines.extend(record.final_metric.map(|metric| ("final metric", metric.to_string())));
        lines.push(("version", record.version.clone()));
    }
    let mut text = format!("{}\n", direction.name);
    lines.iter().for_each(|(field, value)| text += &format!("  {field:<18}{value}\n"));
    if let Some(curve) = record.map(|record| &record.loss_curve).filter(|curve| !curve.is_empty()) {
        text += &format!("\n{}", curve_table(curve));
    }
    text + "\n"
}

/// A few points of a loss curve, the first and the last among them.
fn curve_table(curve: &[f64]) -> Table {
    let mut table = Table::new(["epoch", "loss"]);
    let last = curve.len() - 1;
    let points = POINTS.min(curve.len());
    let mut epochs: Vec<usize> = (0..points).map(|point| point * last / (points - 1).max(1)).collect();
    epochs.dedup();
    epochs.into_iter().for_each(|epoch| table.push([(epoch + 1).to_string(), format!("{:.6}", curve[epoch])]));
    table
}
