//! `directions compare`.

use super::StoredArgs;
use crate::cli::common::{print, print_json};
use crate::directions::{Direction, similarity};
use crate::files::csv_bytes;
use crate::report::Table;
use anyhow::{Result, bail};
use serde_json::json;

/// Arguments of `directions compare`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch directions compare 'das_simple_train_ADJ_*' --model gpt2-small
  actpatch directions compare '*_layer6' --model gpt2-small --csv > cosines.csv

Of two directions the cosine; where a subspace is one of them (das2d, das3d), the root mean square of the cosines of
the principal angles, which has no sign.")]
pub(super) struct Args {
    #[command(flatten)]
    stored: StoredArgs,
    /// Print as CSV, with all digits.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let all: Vec<Direction> = args.stored.read()?.into_iter().map(|(direction, _)| direction).collect();
    if let [first, rest @ ..] = &all[..]
        && let Some(other) = rest.iter().find(|other| other.columns.rows != first.columns.rows)
    {
        let (ours, theirs) = (first.columns.rows, other.columns.rows);
        bail!("{}: width: expected {ours}, that of {}, found {theirs}", other.name, first.name);
    }
    let names: Vec<String> = all.iter().map(|direction| direction.name.to_string()).collect();
    let row = |a: &Direction| -> Vec<f64> { all.iter().map(|b| similarity(&a.columns, &b.columns)).collect() };
    let cosines: Vec<Vec<f64>> = all.iter().map(row).collect();
    if args.stored.json {
        print_json(&json!({ "directions": names, "cosines": cosines }))
    } else if args.csv {
        print(&csv(&names, &cosines)?)
    } else {
        print(&table(&names, &cosines))
    }
}

fn csv(names: &[String], cosines: &[Vec<f64>]) -> Result<String> {
    let header = ["direction".to_owned()].into_iter().chain(names.iter().cloned()).collect::<Vec<_>>();
    let row =
        |(name, row): (&String, &Vec<f64>)| [name.clone()].into_iter().chain(row.iter().map(f64::to_string)).collect();
    Ok(String::from_utf8(csv_bytes(std::iter::once(header).chain(names.iter().zip(cosines).map(row)))?)?)
}

/// Columns carry the rows' numbers: names side by side would not fit on a screen.
fn table(names: &[String], cosines: &[Vec<f64>]) -> String {
    let mut table = Table::new(["cosine".to_owned()].into_iter().chain((1..=names.len()).map(|n| n.to_string())));
    for (number, (name, row)) in names.iter().zip(cosines).enumerate() {
        let cells = row.iter().map(|cosine| format!("{cosine:.3}"));
        table.push([format!("{} {name}", number + 1)].into_iter().chain(cells));
    }
    table.to_string()
}
