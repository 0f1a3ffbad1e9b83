//! Stored directions of one dimension, as commands that read along them name them.

use super::common::{CompatArgs, RunArgs};
use super::direction_patching_suite::selected;
use super::stored_directions::check_records;
use crate::directions::{Direction, DirectionName};
use crate::model::Model;
use anyhow::{Result, bail};

/// The stored directions that match any of `patterns` (`*`, `?`), of unit length.
///
/// # Errors
/// A pattern that matches nothing, a subspace of several dimensions, and those of [`check_records`].
pub fn unit_directions(
    (run, compat): (&RunArgs, &CompatArgs),
    model: &Model,
    patterns: &[String],
) -> Result<Vec<(DirectionName, Vec<f32>)>> {
    let folder = run.folder(&model.name);
    let names = selected(patterns, &folder)?;
    check_records(run, compat, &folder, &names, model)?;
    let read = |name: DirectionName| {
        let columns = Direction::read(&folder, &name, model.config.d_model)?.unit_columns();
        match columns.cols {
            1 => Ok((name, columns.data)),
            found => bail!("--directions: {name}: expected a direction, found a subspace of {found} dimensions"),
        }
    };
    names.into_iter().map(read).collect()
}
