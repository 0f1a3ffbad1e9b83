//! The parts of the page: what there is of every model, and what belongs to several.

use super::files::{Found, Hashes, Listing, minute, size};
use super::records::{Records, standing};
use super::tables::Tables;
use super::{cards, directions, sweeps};
use crate::report::pages::{Entry, Grid, Part, Trouble};
use crate::report::results::{BEST_LAYER, ResultFile};
use std::collections::BTreeMap;
use std::path::Path;

/// Every part, those of models first.
pub(super) fn parts(root: &Path, listing: &Listing, hashes: &Hashes) -> Vec<Part> {
    let mut tables = Tables::read(root, &listing.files);
    let models = listing.models();
    let mut parts: Vec<Part> = models.iter().map(|model| of_model(root, model, listing, hashes, &mut tables)).collect();
    let is_shared = |found: &&Found| !models.iter().any(|model| found.path.starts_with(model));
    let shared: Vec<&Found> = listing.files.iter().filter(is_shared).collect();
    let left_out = listing.left_out(|path| !models.iter().any(|model| path.starts_with(model)));
    // Datasets of one's own alone are no results.
    let has_results = match models.is_empty() {
        true => shared.iter().any(|found| cards::is_shown(found)),
        false => !shared.is_empty() || !left_out.is_empty(),
    };
    if has_results {
        parts.push(Part {
            name: if models.is_empty() { "Results".into() } else { "All models".into() },
            ..of_files(&shared, Records::default(), left_out, &mut tables)
        });
    }
    parts
}

fn of_model(root: &Path, model: &str, listing: &Listing, hashes: &Hashes, tables: &mut Tables) -> Part {
    let own: Vec<&Found> = listing.files.iter().filter(|found| found.path.starts_with(model)).collect();
    let left_out = listing.left_out(|path| path.starts_with(model));
    let mut records = Records::read(root, model, listing, hashes);
    sweeps::note_stale(root, model, &mut records);
    let directions = directions::grid(root, model, &mut records, hashes);
    let best = best_layers(root, model, &own, &mut records);
    let (facts, runs) = (records.facts(), records.runs());
    Part { name: model.to_owned(), facts, runs, best, directions, ..of_files(&own, records, left_out, tables) }
}

/// What there is in files, with what is wrong with them.
fn of_files(own: &[&Found], records: Records, left_out: Vec<Trouble>, tables: &mut Tables) -> Part {
    let cards = cards::of(own, &records);
    let row = |found: &&Found| {
        vec![
            Entry::link(found.path.display().to_string(), found.href()),
            Entry::text(found.ending()),
            Entry::sorted(size(found.bytes), found.bytes as f64),
            Entry::text(minute(found.modified)),
            Entry::text(records.made(&found.path).unwrap_or_default()),
            Entry::text(standing(&records.wrong, found)),
        ]
    };
    let rows: Vec<Vec<Entry>> = own.iter().map(row).collect();
    let files = Grid {
        name: "All files".into(),
        columns: ["file", "kind", "size", "changed (UTC)", "written by", "what is wrong"].map(str::to_owned).into(),
        total: Some(rows.len()),
        rows,
        ..Grid::default()
    };
    let tables = tables.take(own);
    let troubles = records.wrong.into_values().chain(left_out).collect();
    Part { cards, tables, troubles, files: Some(files), ..Part::default() }
}

/// The best layers of every table of the suite; tables that cannot be read are noted.
fn best_layers(root: &Path, model: &str, own: &[&Found], records: &mut Records) -> Option<Grid> {
    let mut rows: BTreeMap<String, Vec<Vec<Entry>>> = BTreeMap::new();
    for found in own.iter().filter(|found| found.ending() == "csv") {
        match ResultFile::read(model, &root.join(&found.path)) {
            Ok(None) => {}
            Err(error) => records.note(found.path.clone(), "damaged", error.to_string()),
            Ok(Some(file)) => {
                let of_file = file.best_layers().into_iter().map(|best| {
                    vec![
                        Entry::text(best.method.to_string()),
                        Entry::text(best.fitted_on),
                        Entry::text(best.patched),
                        Entry::text(file.kind()),
                        Entry::text(file.name.metric.to_string()),
                        Entry::text(format!("{:.1}", best.percent)),
                        Entry::text(best.layer.to_string()),
                        Entry::text(best.random.map_or(String::new(), |random| format!("{random:.1}"))),
                    ]
                });
                rows.entry(found.name().to_owned()).or_default().extend(of_file);
            }
        }
    }
    let rows: Vec<Vec<Entry>> = rows.into_values().flatten().collect();
    let columns = ["method", "fitted on", "patched", "what", "metric", "percent", "layer", "random direction, percent"];
    (!rows.is_empty()).then(|| Grid {
        name: "Best layers".into(),
        columns: columns.map(str::to_owned).into(),
        total: Some(rows.len()),
        rows,
        bars: Some(5),
        note: BEST_LAYER.into(),
        ..Grid::default()
    })
}
