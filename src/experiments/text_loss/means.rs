//! Mean residuals of the tokens that are ablated, over a corpus.

use super::{TextCondition, TextPlaces, mismatch};
use crate::backend::Backend;
use crate::engine::{Engine, EngineError, Output, Site};
use crate::experiments::ablation::Replacement;
use crate::experiments::corpus::{CorpusError, Row};
use crate::experiments::neuroscope::next_batch;
use crate::experiments::sum::Sum;
use crate::types::Matrix;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Mean residuals in front of blocks (behind the last one for `n_layers`), of some places each.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TextMeans(Vec<(TextPlaces, BTreeMap<usize, Arc<Matrix>>)>);

impl TextMeans {
    /// The mean at a layer, `(1, d_model)`.
    pub(super) fn of(&self, places: &TextPlaces, layer: usize) -> Result<&Matrix, EngineError> {
        let own = self.0.iter().find(|(own, _)| own == places).and_then(|(_, means)| means.get(&layer));
        own.map(AsRef::as_ref).ok_or_else(|| mismatch(&format!("means of {} at layer {layer}", places.name), "one", 0))
    }
}

/// The means that conditions ask for, each of all its places in a corpus; without such conditions the corpus is not read.
/// `told` hears how many tokens have passed through the model: those of texts with such places.
///
/// # Errors
/// Those of the corpus, of the engine and of `told`; [`EngineError::NeverFires`] for places that no text has.
pub fn text_means<B: Backend, E: From<EngineError> + From<CorpusError>>(
    engine: &Engine<B>,
    rows: impl Iterator<Item = Result<Row, CorpusError>>,
    conditions: &[TextCondition],
    mut told: impl FnMut(usize) -> Result<(), E>,
) -> Result<TextMeans, E> {
    let config = engine.config();
    let conditions = || conditions.iter().filter(|one| one.replacement == Replacement::MeanOverPlaces);
    let layers: BTreeSet<usize> = conditions().flat_map(|condition| condition.ablated.keys().copied()).collect();
    if layers.is_empty() {
        return Ok(TextMeans::default());
    }
    // Every layer for all places: most often they are the same.
    let mut sums: Vec<(TextPlaces, Vec<Sum>)> = Vec::new();
    for TextCondition { places, .. } in conditions() {
        if sums.iter().all(|(own, _)| own != places) {
            sums.push((places.clone(), vec![Sum::new(config.d_model); layers.len()]));
        }
    }
    let sites: Vec<Site> = layers.iter().map(|&layer| Site::resid(layer, config.n_layers)).collect();
    let room = engine.memory_budget() / (4 * config.d_model * sites.len());
    let most = engine.max_tokens().min(room.max(1));
    let wanted = |row: &Row| conditions().any(|condition| !condition.places.of(&row.tokens).is_empty());
    let mut rows = rows.filter(|row| row.as_ref().map_or(true, wanted)).peekable();
    let mut tokens = 0;
    while rows.peek().is_some() {
        let texts: Vec<Vec<u32>> = next_batch(&mut rows, most)?.into_iter().map(|row| row.tokens).collect();
        let run = engine.run(&texts, &sites, &[], Output::None)?;
        for (places, sums) in &mut sums {
            let mut found = Vec::new();
            for (row, text) in texts.iter().enumerate() {
                for position in places.of(text) {
                    found.push(run.token(row, position)?);
                }
            }
            for (&site, sum) in sites.iter().zip(sums).filter(|_| !found.is_empty()) {
                let values = engine.captured_rows(&run, site, &found)?;
                (0..values.rows).for_each(|row| sum.add(values.row(row)));
            }
        }
        tokens += texts.iter().map(Vec::len).sum::<usize>();
        told(tokens)?;
    }
    let empty = |places: &TextPlaces| sums.iter().any(|(own, sums)| own == places && sums.iter().any(Sum::is_empty));
    if let Some(condition) = conditions().find(|condition| empty(&condition.places)) {
        let reason = format!("no text of the corpus that means are taken of has a token {}", condition.places.name);
        return Err(condition.never_fires(config, reason).into());
    }
    let means = |sums: Vec<Sum>| layers.iter().copied().zip(sums.into_iter().map(Sum::mean)).collect();
    Ok(TextMeans(sums.into_iter().map(|(places, sums)| (places, means(sums))).collect()))
}
