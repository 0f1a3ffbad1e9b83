//! The tables of the suite, made of a ledger: one of every metric in the layout of the paper's code, and one of all
//! values.

use super::patching_suite::Variant;
use crate::directions::DirectionName;
use crate::report::{CellKey, NOTHING, SuiteCsv, SuiteName, SuiteRow};
use crate::sweep::{Cell, Configuration, Ledger, Outcome, State};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Whether texts begin with BOS, among a cell's settings.
pub(super) const BOS: &str = "bos";

/// The seed of the fit, among a cell's settings.
pub(super) const SEED: &str = "seed";

/// The tables that a ledger has cells of, by name, without any value. Files of other names are maps, which are written
/// by their studies.
fn tables_of(state: &State) -> BTreeMap<Arc<str>, (SuiteName, BTreeMap<CellKey, f64>)> {
    let files: BTreeSet<Arc<str>> = state.cells().map(|(cell, _)| cell.place.file).collect();
    let table = |file: Arc<str>| Some((file.clone(), (file.parse().ok()?, BTreeMap::new())));
    files.into_iter().filter_map(table).collect()
}

/// Writes the tables of the ledger in `folder`, which has this configuration, without the values of cells that are
/// `hidden`; their cells are guarded against spreadsheets or not.
///
/// # Errors
/// A cell that is at no place of a table; those of the file system.
pub(crate) fn write_tables(
    folder: &Path,
    configuration: &Configuration,
    state: &State,
    guard: bool,
    hidden: impl Fn(&Cell) -> bool,
) -> Result<()> {
    let (mut files, mut rows) = (tables_of(state), Vec::new());
    for (cell, outcome) in state.fresh(folder).filter(|(cell, _)| !hidden(cell)) {
        let Some((name, of_file)) = files.get_mut(&cell.place.file) else { continue };
        let Some(Outcome::Done { value, .. }) = outcome else { continue };
        let [direction, set, position] = &cell.place.at[..] else {
            bail!("{}: expected a direction, a dataset and a position, found {}", Ledger::FILE, cell.place);
        };
        let key = (direction.to_string(), set.to_string(), position.to_string());
        rows.push(row(configuration, name, &key, &cell, value.as_f64())?);
        // A metric that is undefined on a dataset has no value: its cell stays empty.
        of_file.extend(value.as_f64().map(|value| (key, value)));
    }
    for (file, (_, cells)) in files {
        let path = folder.join(&*file);
        if !cells.is_empty() || path.exists() {
            SuiteCsv::new(&path, cells).write(guard)?;
        }
    }
    let path = SuiteRow::path(folder);
    if !rows.is_empty() {
        SuiteRow::write(&rows, folder, guard)?;
    } else if path.exists() {
        // A table without rows would be a file without a header.
        std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// A cell's row in the table of all values.
fn row(
    configuration: &Configuration,
    name: &SuiteName,
    (direction, set, position): &CellKey,
    cell: &Cell,
    percent: Option<f64>,
) -> Result<SuiteRow> {
    let direction: DirectionName = direction.parse().with_context(|| cell.place.to_string())?;
    let Variant { layers, projection, compat } = name.variant.parse().with_context(|| cell.place.to_string())?;
    let or_nothing = |text: &str| if text.is_empty() { NOTHING.to_owned() } else { text.to_owned() };
    let shared = |setting: &str| or_nothing(&configuration.get(setting).cloned().unwrap_or_default().replace(',', " "));
    let own = |setting: &str| cell.settings.get(setting);
    Ok(SuiteRow {
        model: shared("model"),
        method: direction.found_by().to_string(),
        train_set: or_nothing(direction.dataset().unwrap_or_default()),
        train_position: or_nothing(direction.position().unwrap_or_default()),
        layer: direction.layer(),
        seed: own(SEED).and_then(|seed| seed.parse().ok()),
        eval_set: set.clone(),
        scaffold: name.scaffold.to_string(),
        position: position.clone(),
        site: name.site.to_string(),
        patched_layers: layers.to_string(),
        projection: projection.map_or(NOTHING.to_owned(), |projection| projection.to_string()),
        compat: or_nothing(&compat.join(" ")),
        dtype: shared("dtype"),
        weight_processing: shared("weight_processing"),
        bos: own(BOS).and_then(|bos| bos.parse().ok()),
        metric: name.metric.to_string(),
        percent,
    })
}

/// Takes the values out of the tables that depend on files which are about to change; cells are guarded against
/// spreadsheets or not.
///
/// # Errors
/// Those of the ledger and of [`write_tables`].
pub(crate) fn forget(folder: &Path, changing: &BTreeSet<String>, guard: bool) -> Result<()> {
    if changing.is_empty() {
        return Ok(());
    }
    let Some((configuration, _)) = Ledger::read(folder)? else { return Ok(()) };
    let depends = |cell: &Cell| cell.inputs.keys().any(|input| changing.contains(&**input));
    let write = |state: &State| write_tables(folder, &configuration, state, guard, depends);
    Ledger::open(folder, &configuration)?.with_state(write)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::{CellId, Configuration, Parts, Place};

    fn cell(file: &str, at: &[&str]) -> Cell {
        let own = [("file".to_owned(), file.to_owned())].into();
        let place = Place { file: file.into(), at: at.iter().map(|head| (*head).into()).collect() };
        Cell {
            id: CellId::of("test", &Configuration::new(), &own),
            place,
            inputs: Arc::default(),
            texts: Arc::default(),
            settings: Arc::default(),
            shard: None,
        }
    }

    /// What makes a table is the name that the suite gives it, not its ending.
    #[test]
    fn cells_of_other_studies_are_no_tables() {
        let folder = tempfile::tempdir().unwrap();
        let table = cell("direction_patching_logit_diff_resid_plain_para.csv", &["das_layer01", "simple", "ADJ"]);
        let map = cell("activation_patching_logit_diff_simple_plain_z.npy", &["layer 0", "head 1"]);
        let other = cell("probes.csv", &["layer 0"]);
        let cells = [table, map, other];
        let mut ledger = Ledger::open(folder.path(), &Configuration::new()).unwrap();
        ledger.want(cells.clone()).unwrap();
        let done = |cell: Cell| (cell.id, Outcome::Done { value: 12.5.into(), parts: Parts::default(), seconds: 0.0 });
        ledger.record(cells.clone().map(done)).unwrap();
        let write = |state: &State| write_tables(folder.path(), &Configuration::new(), state, false, |_| false);
        ledger.with_state(write).unwrap();
        let written = SuiteCsv::read(&folder.path().join(&*cells[0].place.file)).unwrap();
        assert_eq!(written.cells().values().copied().collect::<Vec<f64>>(), [12.5]);
        let files = std::fs::read_dir(folder.path()).unwrap();
        assert_eq!(files.count(), 3, "the ledger, one table and that of all values");
        let rows = SuiteRow::read(folder.path()).unwrap();
        let told = rows.iter().map(|row| (&*row.method, row.layer, &*row.projection, row.seed, row.percent));
        assert_eq!(told.collect::<Vec<_>>(), [("das", 1, "para", None, Some(12.5))]);
        let nothing = |state: &State| write_tables(folder.path(), &Configuration::new(), state, false, |_| true);
        ledger.with_state(nothing).unwrap();
        assert!(!SuiteRow::path(folder.path()).exists());
    }
}
