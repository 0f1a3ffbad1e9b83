//! The projections of fits: where the prompts of PCA and SVD fits lie in the plane of the fit.

use super::Standing;
use super::jobs::Job;
use crate::datasets::PairedPrompts;
use crate::directions::Projection;
use crate::model::Tokenizer;
use crate::report::{ProjectedPrompt, Projections};
use crate::session::Session;
use crate::types::Matrix;
use anyhow::Result;

/// A dataset with one residual vector per prompt.
pub(super) struct Embedded<'a> {
    pub prompts: &'a PairedPrompts,
    /// Name of the position.
    pub position: &'a str,
    /// The position in every prompt.
    pub at: &'a [usize],
    /// `(prompts, d_model)`.
    pub embeddings: &'a Matrix,
}

impl Embedded<'_> {
    fn projected(&self, plane: &Projection, tokenizer: &Tokenizer) -> Result<Vec<ProjectedPrompt>> {
        let coordinates = plane.project(self.embeddings)?;
        let places = coordinates.data.as_chunks::<2>().0;
        let prompts = self.prompts.clean.iter().zip(&self.prompts.positive).zip(self.at).zip(places);
        let prompt = |(((&sequence, &positive), &at), place): (((&usize, &bool), &usize), &[f32; 2])| {
            let token = self.prompts.sequences[sequence].get(at..=at).unwrap_or_default();
            Ok(ProjectedPrompt {
                set: self.prompts.name.clone(),
                position: self.position.to_owned(),
                word: tokenizer.decode(token)?,
                positive,
                component_1: place[0].into(),
                component_2: place[1].into(),
            })
        };
        prompts.map(prompt).collect()
    }
}

/// Writes the projections of `sets` beside the direction of a job. Those of other datasets stay when it is only tested,
/// not when it is fitted again.
pub(super) fn write(session: &Session, job: &Job, plane: &Projection, sets: &[Embedded]) -> Result<()> {
    let (folder, tokenizer) = (session.folder(), &session.model().tokenizer);
    let projected = sets.iter().map(|set| set.projected(plane, tokenizer)).collect::<Result<Vec<_>>>()?;
    session.locked(|| {
        let mut all = match job.standing {
            Standing::Absent => Projections::default(),
            _ => Projections::read(&folder, &job.name)?.unwrap_or_default(),
        };
        all.prompts.retain(|prompt| !sets.iter().any(|set| set.prompts.name == prompt.set));
        all.prompts.extend(projected.into_iter().flatten());
        all.write(&folder, &job.name, session.options().csv_guard)?;
        Ok(())
    })
}
