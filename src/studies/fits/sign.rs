//! Which way a direction of DAS points. Its loss is the same for both signs, so training leaves that to chance.

use super::{Fitting, Job, places};
use crate::backend::Backend;
use crate::compat::Compat;
use crate::directions::{DirectionError, Method, fit};
use crate::experiments::chunks::embeddings_at;
use crate::session::Session;
use crate::types::Matrix;
use anyhow::Result;
use std::collections::BTreeMap;

/// What records call the sign of the first column: that of the positive class, where the prompts have both.
pub(super) const POSITIVE: &str = "positive class";

/// What records call the sign that training ended with.
pub(super) const AS_FITTED: &str = "as fitted";

/// The sign that a session's directions of DAS have.
pub(super) fn asked(session: &Session) -> &'static str {
    if session.options().compat.contains(&Compat::DasSign) { AS_FITTED } else { POSITIVE }
}

/// From the negative to the positive class, by the position's name and the layer of a fit.
pub(super) struct Signs(BTreeMap<(String, usize), Vec<f32>>);

impl Signs {
    /// Mean differences of the residuals that a classical fit would see; none where the prompts are of one class, or
    /// where the session leaves directions as fitted.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn new<B: Backend>(fitting: &Fitting<'_, B>, jobs: &[&Job]) -> Result<Self> {
        let Fitting { session, engine, prompts, .. } = *fitting;
        let mut all = BTreeMap::new();
        if asked(session) == AS_FITTED {
            return Ok(Self(all));
        }
        let at_once = fitting.layers_at_once(prompts.clean.len());
        for same_position in places(jobs).chunk_by(|a, b| a.0 == b.0) {
            for group in same_position.chunks(at_once) {
                let layers: Vec<usize> = group.iter().map(|(_, _, layer)| *layer).collect();
                let (seed, budget) = (session.seed(), engine.memory_budget());
                for (layer, embeddings) in embeddings_at(engine, prompts, &layers, group[0].1, seed, budget)? {
                    match fit(Method::MeanDiff, &embeddings, &prompts.positive) {
                        Ok(Some(fit)) => drop(all.insert((group[0].0.clone(), layer), fit.direction.data)),
                        Ok(None) | Err(DirectionError::OneClass { .. } | DirectionError::Degenerate { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        Ok(Self(all))
    }

    /// Turns the first column of a job's subspace to the positive class; the subspace stays the same. Returns what the
    /// record calls its sign.
    pub fn turn(&self, job: &Job, columns: &mut Matrix) -> &'static str {
        let place = (job.name.position().unwrap_or_default().to_owned(), job.layer);
        let Some(towards) = self.0.get(&place) else { return AS_FITTED };
        let width = columns.cols.max(1);
        let first = || columns.data.iter().step_by(width);
        let along: f64 = first().zip(towards).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        if along < 0.0 {
            columns.data.iter_mut().step_by(width).for_each(|value| *value = -*value);
        }
        POSITIVE
    }
}
