//! `label-shares`.

use super::common::{print, print_json};
use crate::experiments::label_shares::{Accuracy, KEYS, Labelled, Part, read};
use crate::report::figure::{Axis, Facet, Figure, Plot, Series};
use crate::report::neuroscope::ChannelSummary;
use crate::report::{Table, write_csv};
use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `label-shares`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch label-shares --labels labelled.csv --summary data/gpt2-small/neuroscope_openwebtext_summary.csv
  actpatch label-shares --labels labelled_steering.csv --value coef

A file of labels is any CSV file with a column of values and one of labels: the _samples.csv of neuroscope, or the texts of
steering, to which somebody has added `sentiment`. Its directions and layers, if it has such columns, are kept apart.
Beside the file: <name>_shares.csv and .svg, .png and .html (share of every label along the values, stacked); with a summary
<name>_accuracy.csv: labels beyond the quantiles of all tokens, and the share of signs that are right there.")]
pub struct Args {
    /// The file of labels.
    #[arg(long)]
    pub labels: PathBuf,
    /// Its column of values.
    #[arg(long, default_value = "value")]
    pub value: String,
    /// Its column of labels; accuracy knows Positive and Negative.
    #[arg(long, default_value = "sentiment")]
    pub label: String,
    /// The _summary.csv of the reading that the values come from.
    #[arg(long)]
    pub summary: Option<PathBuf>,
    /// Equal parts of the range of the values.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub parts: u16,
    /// Print the results as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Most facets of a figure.
const MOST_FACETS: usize = 12;

/// Tells what labels say of values.
pub fn run(args: Args) -> Result<()> {
    let groups = read(&args.labels, &args.value, &args.label)?;
    let accuracies = match &args.summary {
        None => None,
        Some(path) => {
            let summaries = ChannelSummary::read(path)?;
            let accuracy = |group: &Labelled| {
                let quantiles = quantiles(&summaries, &group.keys);
                let quantiles =
                    quantiles.with_context(|| format!("{} beside {}", args.labels.display(), path.display()))?;
                Ok(group.accuracy(quantiles))
            };
            Some(groups.iter().map(accuracy).collect::<Result<Vec<_>>>()?)
        }
    };
    let stem = args.labels.file_stem().context("--labels: expected a file")?.to_string_lossy().into_owned();
    let folder = args.labels.parent().unwrap_or(Path::new(""));
    let parts: Vec<Vec<Part>> = groups.iter().map(|group| group.parts(args.parts.into())).collect();
    write_csv(&folder.join(format!("{stem}_shares.csv")), share_rows(&args, &groups, &parts))?;
    figure(&args, &stem, &groups, &parts).write(folder, &format!("{stem}_shares"))?;
    let (heads, rows) = match &accuracies {
        Some(accuracies) => (&ACCURACY[..], groups.iter().zip(accuracies).map(accuracy_row).collect::<Vec<_>>()),
        None => (&["labels"][..], groups.iter().map(count_row).collect()),
    };
    let header: Vec<String> = keys(&groups).iter().chain(heads).map(|name| (*name).to_owned()).collect();
    if accuracies.is_some() {
        write_csv(&folder.join(format!("{stem}_accuracy.csv")), std::iter::once(&header).chain(&rows))?;
    }
    if args.json {
        let object = |row: &Vec<String>| header.iter().cloned().zip(row.iter().map(|cell| json!(cell))).collect();
        return print_json(&rows.iter().map(object).collect::<Vec<serde_json::Map<_, _>>>());
    }
    let mut table = Table::new(header);
    rows.into_iter().for_each(|row| table.push(row));
    print(&table.to_string())
}

/// The quantiles of a direction at a layer.
fn quantiles(summaries: &[ChannelSummary], keys: &[String]) -> Result<[f64; 2]> {
    let name = keys.join(" at layer ");
    let own = |row: &&ChannelSummary| keys == [row.direction.clone(), row.layer.to_string()];
    let row = summaries.iter().find(own);
    let row = row.ok_or_else(|| anyhow!("{name:?}: expected a direction and layer of the summary, found another"))?;
    match (row.lower, row.upper) {
        (Some(lower), Some(upper)) => Ok([lower, upper]),
        _ => bail!("{name}: expected a summary with quantiles (--measure cosine), found none"),
    }
}

/// Columns behind the keys, with a summary.
const ACCURACY: [&str; 5] = ["labels", "labels_above", "labels_below", "accuracy", "accuracy_of_the_paper"];

/// The keys that the file has.
fn keys(groups: &[Labelled]) -> &'static [&'static str] {
    &KEYS[..groups.first().map_or(0, |group| group.keys.len())]
}

fn count_row(group: &Labelled) -> Vec<String> {
    group.keys.iter().cloned().chain([group.values.len().to_string()]).collect()
}

/// Where no label lies beyond one of the quantiles, accuracy is empty.
fn accuracy_row((group, accuracy): (&Labelled, &Option<Accuracy>)) -> Vec<String> {
    let cells = match accuracy {
        None => std::array::from_fn(|_| String::new()),
        Some(Accuracy { labelled: [above, below], paper, opposite }) => {
            [above.to_string(), below.to_string(), opposite.to_string(), paper.to_string()]
        }
    };
    count_row(group).into_iter().chain(cells).collect()
}

/// A row per part of the range and label.
fn share_rows(args: &Args, groups: &[Labelled], parts: &[Vec<Part>]) -> Vec<Vec<String>> {
    let heads = keys(groups).iter().copied().chain([&*args.value, "count", &*args.label, "share"]);
    let mut rows = vec![heads.map(str::to_owned).collect::<Vec<_>>()];
    for (group, parts) in groups.iter().zip(parts) {
        for Part { middle, count, shares } in parts {
            for (label, share) in shares {
                let cells = [middle.to_string(), count.to_string(), label.clone(), share.to_string()];
                rows.push(group.keys.iter().cloned().chain(cells).collect());
            }
        }
    }
    rows
}

/// Stacked shares, one facet per direction and layer.
fn figure(args: &Args, stem: &str, groups: &[Labelled], parts: &[Vec<Part>]) -> Figure {
    let facet = |(group, parts): (&Labelled, &Vec<Part>)| {
        let names = parts.first().into_iter().flat_map(|part| part.shares.keys());
        let points = |name: &String| parts.iter().map(|part| (part.middle, 100.0 * part.shares[name])).collect();
        let series = names.map(|name| Series { name: name.clone(), points: points(name), baseline: false });
        Facet {
            title: group.keys.join(" at layer "),
            x: Axis::new(&*args.value),
            y: Axis { range: Some((0.0, 100.0)), ..Axis::new("share of labels (%)") },
            plot: Plot::Areas(series.collect()),
        }
    };
    let facets = groups.iter().zip(parts).take(MOST_FACETS).map(facet).collect();
    Figure::new(format!("Labels along values, {stem}"), facets)
}
