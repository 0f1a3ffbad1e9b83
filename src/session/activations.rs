//! Passes over token sequences that a user has in hand: activations by hook name, with values from the host patched in.

use super::edits::{Edit, Uploaded};
use super::{DeviceWork, Observer, Progress, Session};
use crate::backend::Backend;
use crate::choice::nearest_of;
use crate::engine::{Engine, EngineError, Flops, Layout, Output, Run, Site};
use crate::model::ModelConfig;
use crate::types::Matrix;
use anyhow::Result;
use std::collections::BTreeSet;
use std::ops::Range;

/// A pass: what runs, what is changed on the way, and what is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forward<'a> {
    /// Token ids, BOS included where the model is to see one. Lengths may differ: nothing is padded.
    pub sequences: &'a [Vec<u32>],
    /// What is changed, in this order at each site.
    pub edits: &'a [Edit<'a>],
    /// Sites whose values are kept, behind the edits.
    pub capture: &'a [Site],
    /// Which logits.
    pub logits: Wanted,
}

/// The logits that a pass ends with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wanted {
    /// None: the pass stops behind the last captured site.
    Nothing,
    /// Of every sequence's last position.
    Last,
    /// Of every token.
    #[default]
    All,
}

/// What came of a pass, on the host. The tokens of all sequences stand behind each other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Activations {
    /// Length of every sequence, in tokens.
    pub lengths: Vec<usize>,
    /// The values of every captured site, in the order in which they were asked for: `(tokens, width)`, row-major; of
    /// `result` `(tokens, n_heads, d_model)`, of `pattern` `(n_heads, length, length)` for one sequence after the other, query
    /// before key.
    pub sites: Vec<(Site, Vec<f32>)>,
    /// `(tokens, d_vocab)`, or `(sequences, d_vocab)` of last positions.
    pub logits: Option<Matrix>,
}

impl Session {
    /// The site of a hook name that the model has.
    ///
    /// # Errors
    /// [`EngineError::NoSuchSite`], with the names that are most like it.
    pub fn site(&self, name: &str) -> Result<Site, EngineError> {
        let config = self.config();
        let found = name.parse::<Site>().and_then(|site| site.check(config).map(|()| site));
        found.map_err(|error| match error {
            EngineError::NoSuchSite { site, reason } => {
                let known: Vec<String> = Site::all(config).iter().map(Site::to_string).collect();
                let reason = match &nearest_of(name, known.iter().map(String::as_str))[..] {
                    [] => reason,
                    alike => format!("{reason}; most like it are {}", alike.join(", ")),
                };
                EngineError::NoSuchSite { site, reason }
            }
            other => other,
        })
    }

    /// Runs sequences in batches of at most the session's tokens, asking the observer between them.
    ///
    /// # Errors
    /// [`EngineError`] for sequences, sites and edits that the model cannot run, and for a `result` that is captured where
    /// it is edited, since it is computed from `z`; [`super::Stopped`].
    pub fn forward(&self, forward: &Forward<'_>, observer: &mut dyn Observer) -> Result<Activations> {
        let config = self.config();
        for edit in forward.edits {
            edit.check(config, forward.sequences)?;
        }
        for site in forward.capture {
            site.check(config)?;
            if matches!(site, Site::Result(_)) && forward.edits.iter().any(|edit| edit.site == *site) {
                let reason =
                    "it is computed from hook_z, so what is changed there does not show: capture hook_attn_out";
                return Err(EngineError::NoSuchSite { site: site.to_string(), reason: reason.into() }.into());
            }
        }
        let layout = Layout::whole(forward.sequences);
        let read = match forward.logits {
            Wanted::Nothing => 0,
            Wanted::Last => layout.n_rows(),
            Wanted::All => layout.n_tokens(),
        };
        let unembedding = Flops((2 * read * config.d_model * config.d_vocab) as u64);
        let arithmetic = Flops::forward(config, &layout, 0, 0) + unembedding;
        self.compute_at_hand(observer, arithmetic, Passing(forward))
    }
}

struct Passing<'a>(&'a Forward<'a>);

impl DeviceWork for Passing<'_> {
    type Output = Activations;

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<Activations> {
        let Forward { sequences, capture, .. } = *self.0;
        let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let sites = capture.iter().map(|site| (*site, Vec::new())).collect();
        let mut all = Activations { lengths, sites, logits: None };
        if sequences.is_empty() {
            return Ok(all);
        }
        let mut progress = Progress::new(observer, "passes", sequences.len());
        let mut first = 0;
        while first < sequences.len() {
            let (end, tokens) = engine.batch_from(sequences, first);
            match self.batch(engine, first..end) {
                Ok(run) => {
                    all.add(engine, run)?;
                    progress.add(end - first)?;
                    first = end;
                }
                Err(error) if end > first + 1 && engine.halves_batches(&error, tokens) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(all)
    }
}

impl Passing<'_> {
    fn batch<B: Backend>(&self, engine: &Engine<B>, range: Range<usize>) -> Result<Run<B>, EngineError> {
        let Forward { sequences, edits, capture, logits } = *self.0;
        let uploaded = edits.iter().map(|edit| Ok((edit, Uploaded::new(engine, edit, sequences, &range)?)));
        let uploaded = uploaded.collect::<Result<Vec<_>, EngineError>>()?;
        let present = uploaded.iter().filter_map(|(edit, uploaded)| Some((edit, uploaded.as_ref()?)));
        let interventions = present.map(|(edit, uploaded)| uploaded.intervention(edit, engine.config()));
        let interventions = interventions.collect::<Result<Vec<_>, _>>()?;
        let output = match logits {
            Wanted::Nothing => Output::None,
            Wanted::Last => Output::Last,
            Wanted::All => Output::All,
        };
        engine.run_patched(&sequences[range], &interventions, &kept(capture), output)
    }
}

/// What a pass keeps for these sites: `z` for the results of heads.
fn kept(capture: &[Site]) -> Vec<Site> {
    let stored = |site: &Site| match site {
        Site::Result(layer) => Site::Z(*layer),
        site => *site,
    };
    capture.iter().map(stored).collect::<BTreeSet<_>>().into_iter().collect()
}

impl Activations {
    /// Adds what a batch has computed.
    fn add<B: Backend>(&mut self, engine: &Engine<B>, mut run: Run<B>) -> Result<(), EngineError> {
        for (site, values) in &mut self.sites {
            join(
                values,
                match site {
                    Site::Result(layer) => results(engine, &run, *layer)?,
                    site => engine.backend().download(run.site(*site)?)?,
                },
            );
        }
        if let Some(own) = run.take_logits() {
            match &mut self.logits {
                Some(logits) => {
                    logits.rows += own.values.rows;
                    logits.data.extend(own.values.data);
                }
                none => *none = Some(own.values),
            }
        }
        Ok(())
    }
}

/// Appends; what is alone is not copied.
pub(super) fn join(all: &mut Vec<f32>, mut more: Vec<f32>) {
    if all.is_empty() {
        *all = more;
    } else {
        all.append(&mut more);
    }
}

/// The results of a layer's heads, `(tokens, n_heads, d_model)`.
fn results<B: Backend>(engine: &Engine<B>, run: &Run<B>, layer: usize) -> Result<Vec<f32>, EngineError> {
    let ModelConfig { n_heads, d_model, .. } = *engine.config();
    let mut all = vec![0.0; run.layout().n_tokens() * n_heads * d_model];
    for head in 0..n_heads {
        let result = engine.head_result(run, layer, head)?;
        let places = all.chunks_mut(d_model).skip(head).step_by(n_heads);
        places.zip(result.data.chunks(d_model)).for_each(|(place, row)| place.copy_from_slice(row));
    }
    Ok(all)
}
