//! The tables of the suite, made of a ledger.

use crate::report::{CellKey, SuiteCsv, SuiteName};
use crate::sweep::{Cell, Ledger, Outcome, State};
use anyhow::{Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// The tables that a ledger has cells of, without any value. Files of other names are maps, which are written by their
/// studies.
fn tables_of(state: &State) -> BTreeMap<Arc<str>, BTreeMap<CellKey, f64>> {
    let files: BTreeSet<Arc<str>> = state.cells().map(|(cell, _)| cell.place.file).collect();
    let tables = files.into_iter().filter(|file| file.parse::<SuiteName>().is_ok());
    tables.map(|file| (file, BTreeMap::new())).collect()
}

/// Writes the tables of the ledger in `folder`, without the values of cells that are `hidden`.
///
/// # Errors
/// A cell that is at no place of a table; those of the file system.
pub(crate) fn write_tables(folder: &Path, state: &State, hidden: impl Fn(&Cell) -> bool) -> Result<()> {
    let mut files = tables_of(state);
    for (cell, outcome) in state.fresh(folder).filter(|(cell, _)| !hidden(cell)) {
        let Some(of_file) = files.get_mut(&cell.place.file) else { continue };
        let Some(Outcome::Done { value, .. }) = outcome else { continue };
        let [direction, set, position] = &cell.place.at[..] else {
            bail!("{}: expected a direction, a dataset and a position, found {}", Ledger::FILE, cell.place);
        };
        let key = (direction.to_string(), set.to_string(), position.to_string());
        // A metric that is undefined on a dataset has no value: its cell stays empty.
        of_file.extend(value.as_f64().map(|value| (key, value)));
    }
    for (file, cells) in files {
        let path = folder.join(&*file);
        if !cells.is_empty() || path.exists() {
            SuiteCsv::new(&path, cells).write()?;
        }
    }
    Ok(())
}

/// Takes the values out of the tables that depend on files which are about to change.
///
/// # Errors
/// Those of the ledger and of [`write_tables`].
pub(crate) fn forget(folder: &Path, changing: &BTreeSet<String>) -> Result<()> {
    let Some((configuration, _)) = Ledger::read(folder)? else { return Ok(()) };
    let depends = |cell: &Cell| cell.inputs.keys().any(|input| changing.contains(&**input));
    Ledger::open(folder, &configuration)?.with_state(|state| write_tables(folder, state, depends))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::{CellId, Configuration, Place};

    fn cell(file: &str, at: &[&str]) -> Cell {
        let own = [("file".to_owned(), file.to_owned())].into();
        let place = Place { file: file.into(), at: at.iter().map(|head| (*head).into()).collect() };
        Cell {
            id: CellId::of("test", &Configuration::new(), &own),
            place,
            inputs: Arc::default(),
            prompts: None,
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
        let done = |cell: Cell| (cell.id, Outcome::Done { value: 12.5.into(), seconds: 0.0 });
        ledger.record(cells.clone().map(done)).unwrap();
        ledger.with_state(|state| write_tables(folder.path(), state, |_| false)).unwrap();
        let written = SuiteCsv::read(&folder.path().join(&*cells[0].place.file)).unwrap();
        assert_eq!(written.cells().values().copied().collect::<Vec<f64>>(), [12.5]);
        let files = std::fs::read_dir(folder.path()).unwrap();
        assert_eq!(files.count(), 2, "the ledger and one table");
    }
}
