//! What single prompts say to a map, whose values are the means over them.

use super::{MapStudy, Named};
use crate::datasets::PairedPrompts;
use crate::report::figure::{Figure, Prompts};
use crate::report::{ReportError, ResultMap, write_array};
use crate::session::Session;
use anyhow::{Context, Result};
use ndarray::ArrayD;
use std::path::{Path, PathBuf};

/// Most values of all prompts together that are kept of a map: every head at every position of pythia-1.4b on 100 prompts of
/// 20 tokens has 768,000, its neurons 25 times as many.
const MOST: usize = 1_000_000;

/// Are the values of every prompt kept, of a map of so many?
pub(crate) fn keeps_prompts(prompts: &PairedPrompts, values: usize) -> bool {
    prompts.clean.len().saturating_mul(values) <= MOST
}

/// The map of every prompt in percent, from every cell's `parts`, which are fractions prompt by prompt; none unless all
/// prompts have a part in all cells.
pub(crate) fn prompt_maps(prompts: usize, parts: &[&[f32]]) -> Option<Vec<f32>> {
    if prompts == 0 || parts.iter().any(|parts| parts.len() != prompts) {
        return None;
    }
    Some((0..prompts).flat_map(|prompt| parts.iter().map(move |parts| 100.0 * parts[prompt])).collect())
}

/// Where the maps of the prompts lie.
pub(super) fn prompts_path(folder: &Path, stem: &str) -> PathBuf {
    folder.join(format!("{stem}_prompts.npy"))
}

/// Writes the maps of the prompts: f32, C order, the prompts first, behind them the map's own axes.
pub(super) fn write_prompts(
    folder: &Path,
    stem: &str,
    map: &ResultMap,
    values: &[f32],
) -> Result<PathBuf, ReportError> {
    let path = prompts_path(folder, stem);
    let prompts = values.len() / map.values.len().max(1);
    let shape: Vec<usize> = std::iter::once(prompts).chain(map.shape.iter().copied()).collect();
    write_array(&path, &shape, values)?;
    Ok(path)
}

/// Reads what [`write_prompts`] wrote.
pub(super) fn read_prompts(folder: &Path, stem: &str) -> Result<Vec<f32>> {
    let path = prompts_path(folder, stem);
    let array: ArrayD<f32> = ndarray_npy::read_npy(&path).with_context(|| path.display().to_string())?;
    Ok(array.iter().copied().collect())
}

/// The figure of a map, whose page leads from its cells to their prompts.
pub(super) fn figure_of<S: MapStudy>(
    study: &S,
    session: &Session,
    prompts: &PairedPrompts,
    kind: &S::Kind,
    named: &Named,
) -> Result<Option<Figure>> {
    let Some(figure) = study.figure(session, prompts, kind, &named.map)? else { return Ok(None) };
    let fits = |values: &&Vec<f32>| values.len() == prompts.clean.len() * named.map.values.len();
    let behind = named.prompts.as_ref().filter(fits).map(|values| {
        let text = |sequence: usize| prompts.texts[sequence].clone();
        let corrupted = |prompt: usize| study.has_corrupted().then(|| text(prompts.corrupted[prompt]));
        let pair = |(prompt, &clean): (usize, &usize)| (text(clean), corrupted(prompt));
        Prompts {
            texts: prompts.clean.iter().enumerate().map(pair).collect(),
            values: values.clone(),
            cells: named.map.cells_of_facets(),
        }
    });
    // Without a heat map there is no cell to go from.
    let prompts = behind.filter(|behind| !behind.cells.is_empty());
    Ok(Some(Figure { prompts, ..figure }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_kept_whole_or_not_at_all() {
        assert_eq!(prompt_maps(2, &[&[0.5, 0.25], &[1.0, -1.0]]), Some(vec![50.0, 100.0, 25.0, -100.0]));
        assert_eq!(prompt_maps(2, &[&[0.5, 0.25], &[]]), None);
        assert_eq!(prompt_maps(0, &[]), None);
    }
}
