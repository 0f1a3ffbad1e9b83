//! The projections of `fit-directions`: where the prompts of PCA and SVD fits lie in the plane of the fit.

use crate::datasets::PairedPrompts;
use crate::directions::{DirectionName, Projection};
use crate::model::Tokenizer;
use crate::report::{ProjectedPrompt, Projections};
use crate::types::Matrix;
use anyhow::Result;
use std::path::Path;

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

/// Writes the projections of `sets` beside the direction `name`. Those of other datasets stay when it is `kept`, not
/// when it is fitted again.
pub(super) fn write(
    folder: &Path,
    name: &DirectionName,
    plane: &Projection,
    tokenizer: &Tokenizer,
    sets: &[Embedded],
    kept: bool,
) -> Result<()> {
    let mut all = if kept { Projections::read(folder, name)?.unwrap_or_default() } else { Projections::default() };
    all.prompts.retain(|prompt| !sets.iter().any(|set| set.prompts.name == prompt.set));
    for set in sets {
        all.prompts.extend(set.projected(plane, tokenizer)?);
    }
    all.write(folder, name)?;
    Ok(())
}
