//! The stored directions of a model.

use super::files::Hashes;
use super::records::Records;
use crate::directions::{Direction, DirectionName, FitRecord, list};
use crate::report::pages::{Entry, Grid, link};
use crate::session::shown;
use serde_json::Value;
use std::path::Path;

/// A row for every stored direction; what is wrong with one is noted.
pub(super) fn grid(root: &Path, model: &str, records: &mut Records, hashes: &Hashes) -> Option<Grid> {
    let folder = root.join(model);
    let names = match list(&folder) {
        Ok(names) => names,
        Err(error) => {
            records.note(model.into(), "damaged", error.to_string());
            return None;
        }
    };
    let rows: Vec<Vec<Entry>> = names.iter().map(|name| row(root, model, name, records, hashes)).collect();
    let columns = ["direction", "method", "fitted on", "layer", "final metric", "seed", "settings", "what is wrong"];
    (!rows.is_empty()).then(|| Grid {
        name: "Directions".into(),
        columns: columns.map(str::to_owned).into(),
        total: Some(rows.len()),
        rows,
        ..Grid::default()
    })
}

fn row(root: &Path, model: &str, name: &DirectionName, records: &mut Records, hashes: &Hashes) -> Vec<Entry> {
    let (array, json) = Direction::paths(Path::new(model), name);
    let record = match root.join(&json).exists() {
        true => FitRecord::read(&root.join(model), name).inspect_err(|error| {
            records.note(json.clone(), "damaged", error.to_string());
        }),
        false => Ok(FitRecord::of(name)),
    };
    let is_recorded = root.join(&json).exists() && record.is_ok();
    let record = record.unwrap_or_else(|_| FitRecord::of(name));
    if let Some(hash) = &record.array_sha256 {
        records.check(root, &array, &json, hash, hashes);
    }
    let weights = record.provenance.as_ref().and_then(|settings| settings.get("weights")).and_then(Value::as_str);
    if let Some(why) = weights.and_then(|weights| records.weights_differ(weights)) {
        records.note(array.clone(), "other model", why);
    }
    let wrong = records.wrong.get(&array).or_else(|| records.wrong.get(&json));
    let wrong = wrong.map_or(String::new(), |trouble| format!("{}: {}", trouble.kind, trouble.why));
    let fitted_on = [&record.dataset, &record.position].map(|part| part.as_deref().unwrap_or_default()).join(" ");
    let settings = match &record.settings {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), shown(value))).collect(),
        _ => Vec::new(),
    };
    let said = match (is_recorded, settings.is_empty()) {
        (false, _) => Entry::text("no record"),
        (true, true) => Entry::link("record", link(&json)),
        (true, false) => Entry::folded("settings", settings),
    };
    vec![
        Entry::link(name.to_string(), link(&array).filter(|_| root.join(&array).is_file())),
        Entry::text(record.method.to_string()),
        Entry::text(fitted_on.trim().to_owned()),
        Entry::text(record.layer.to_string()),
        Entry::text(record.final_metric.map_or(String::new(), |metric| format!("{metric:.4}"))),
        Entry::text(if is_recorded { record.seed.to_string() } else { String::new() }),
        said,
        Entry::text(wrong),
    ]
}
