//! Texts that the model writes, with vectors added to its residual stream on the way.

use super::{DeviceWork, Observer, Progress, Session, Stopped};
use crate::backend::Backend;
use crate::engine::{Engine, Site};
use crate::experiments::sampling::Sampling;
use crate::experiments::steering::{Steering, Wanted, Written, write_texts};
use anyhow::Result;

/// What is to be written.
#[derive(Debug, Clone, Copy)]
pub struct Continue<'a> {
    /// Token ids of every prompt, BOS included where the model is to see one.
    pub prompts: &'a [Vec<u32>],
    /// Texts of each prompt.
    pub samples: u32,
    /// What is added at every position of prompts and texts: sites of the residual stream, `d_model` values each.
    pub steered: &'a [(Site, Vec<f32>)],
    /// Tokens that end a text.
    pub ends: &'a [u32],
    /// How tokens are drawn.
    pub sampling: Sampling,
}

impl Session {
    /// Writes texts, those of one prompt behind each other, in the order of the prompts. A text depends on no other.
    ///
    /// # Errors
    /// Those of [`write_texts`]; [`Stopped`].
    pub fn write(&self, asked: &Continue<'_>, observer: &mut dyn Observer) -> Result<Vec<Written>> {
        self.compute(observer, Writing(asked))
    }
}

struct Writing<'a>(&'a Continue<'a>);

impl DeviceWork for Writing<'_> {
    type Output = Vec<Written>;

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<Vec<Written>> {
        let Continue { prompts, samples, steered, ends, sampling } = *self.0;
        let each = |prompt| (0..samples).map(move |sample| Wanted { prompt, coefficient: 1.0, sample });
        let wanted: Vec<Wanted> = (0..prompts.len()).flat_map(each).collect();
        let mut texts = vec![Written::default(); wanted.len()];
        if wanted.is_empty() {
            return Ok(texts);
        }
        let mut progress = Progress::new(observer, "texts", wanted.len());
        let steering = Steering { prompts, steered, ends, sampling };
        write_texts(engine, &steering, &wanted, |batch| -> Result<()> {
            let count = batch.len();
            batch.into_iter().for_each(|(number, text)| texts[number] = text);
            progress.counted(count);
            if progress.cancelled() { Err(Stopped { left: None }.into()) } else { Ok(()) }
        })?;
        drop(progress);
        Ok(texts)
    }
}
