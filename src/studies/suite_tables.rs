//! The tables of the suite, made of a ledger.

use crate::report::{CellKey, SuiteCsv};
use crate::sweep::{Cell, Ledger, Outcome, State};
use anyhow::{Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Does a cell belong to a table of the suite? Maps are arrays, and written by their studies.
fn in_table(cell: &Cell) -> bool {
    cell.place.file.ends_with(".csv")
}

/// Writes the tables of the ledger in `folder`, without the values of cells that are `hidden`.
///
/// # Errors
/// A cell that is at no place of a table; those of the file system.
pub(crate) fn write_tables(folder: &Path, state: &State, hidden: impl Fn(&Cell) -> bool) -> Result<()> {
    let mut files: BTreeMap<Arc<str>, BTreeMap<CellKey, f64>> = BTreeMap::new();
    for (cell, _) in state.cells().filter(|(cell, _)| in_table(cell)) {
        files.entry(cell.place.file).or_default();
    }
    for (cell, outcome) in state.fresh(folder).filter(|(cell, _)| in_table(cell) && !hidden(cell)) {
        let Some(Outcome::Done { value, .. }) = outcome else { continue };
        let [direction, set, position] = &cell.place.at[..] else {
            bail!("{}: expected a direction, a dataset and a position, found {}", Ledger::FILE, cell.place);
        };
        let key = (direction.to_string(), set.to_string(), position.to_string());
        // A metric that is undefined on a dataset has no value: its cell stays empty.
        let of_file = files.entry(cell.place.file).or_default();
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
