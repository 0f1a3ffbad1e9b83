//! Where passes begin: from tokens, or resumed in the middle of the stack; batches of one run are joined here.

use super::backward::Tape;
use super::pass::{Pass, PrefixOf};
use super::run::Prefix;
use super::{AnswerColumns, Engine, EngineError, Intervention, Layout, Run, Site};
use crate::backend::Backend;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Which logits a pass ends with.
pub enum Output<'a, B: Backend> {
    /// None: the pass stops behind the last captured site.
    None,
    /// Every row's last position, only the answers' columns.
    Answers(&'a AnswerColumns<B>),
    /// The same, and the log of the sum of exponentials over the whole vocabulary, for probabilities.
    AnswersAndLogSumExp(&'a AnswerColumns<B>),
    /// Every row's last position, the whole vocabulary.
    Last,
    /// Every token, the whole vocabulary.
    All,
}

impl<B: Backend> Clone for Output<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Output<'_, B> {}

/// Where a resumed pass begins: rows in the middle of the stack, from the residual that a run captured there.
pub struct Resume<'a, B: Backend> {
    /// A run that captured the residual at `layer`, and the keys and values of every position it skips.
    pub run: &'a Run<B>,
    /// First block computed; `n_layers` for the final norm alone.
    pub layer: usize,
    /// Per row: the run's sequence and the first computed position. Positions before it are those of the run.
    pub rows: &'a [(usize, usize)],
}

/// Variants of a resumed pass.
enum ResumeKind {
    Plain,
    /// The first block's `hook_z` is that of the run.
    BehindAttention,
    /// With what gradients need.
    WithTape,
}

impl<B: Backend> Engine<B> {
    /// Runs `sequences` from their tokens, in batches of at most [`Engine::max_tokens`] tokens.
    ///
    /// `prefix[s]` first positions of sequence `s` keep their keys and values, so that resumed rows can start behind
    /// them; an empty list keeps none.
    ///
    /// # Errors
    /// An empty or too long sequence, a token outside the vocabulary, a site that the model does not have, logits
    /// that are not finite.
    pub fn run(
        &self,
        sequences: &[Vec<u32>],
        capture: &[Site],
        prefix: &[usize],
        output: Output<'_, B>,
    ) -> Result<Run<B>, EngineError> {
        self.run_edited(sequences, |_| Vec::new(), capture, prefix, output)
    }

    /// As [`Engine::run`], with interventions: `edits` gives those of a range of sequences, as rows of a batch of their own.
    pub(super) fn run_edited<'i>(
        &self,
        sequences: &[Vec<u32>],
        edits: impl Fn(Range<usize>) -> Vec<Intervention<'i, B>>,
        capture: &[Site],
        prefix: &[usize],
        output: Output<'_, B>,
    ) -> Result<Run<B>, EngineError>
    where
        B: 'i,
    {
        self.check_sequences(sequences)?;
        let mut parts = Vec::new();
        let mut first = 0;
        while first < sequences.len() {
            let (end, tokens) = self.batch_from(sequences, first);
            let prefix = prefix.get(first..end).unwrap_or(&[]);
            match self.pass_over(&sequences[first..end], capture, &edits(first..end), prefix, output) {
                Ok(part) => {
                    parts.push(part);
                    first = end;
                }
                Err(error) if end > first + 1 && self.halves_batches(&error, tokens) => {}
                Err(error) => return Err(error),
            }
        }
        self.join(parts)
    }

    /// The end of the batch that begins with sequence `first`, and its tokens: at most [`Engine::max_tokens`], or one
    /// sequence.
    pub(crate) fn batch_from(&self, sequences: &[Vec<u32>], first: usize) -> (usize, usize) {
        let (mut end, mut tokens) = (first, 0);
        while end < sequences.len() && (end == first || tokens + sequences[end].len() <= self.max_tokens()) {
            tokens += sequences[end].len();
            end += 1;
        }
        (end, tokens)
    }

    /// Runs `sequences` from their tokens with interventions, in one batch.
    pub fn run_patched(
        &self,
        sequences: &[Vec<u32>],
        interventions: &[Intervention<'_, B>],
        capture: &[Site],
        output: Output<'_, B>,
    ) -> Result<Run<B>, EngineError> {
        self.check_sequences(sequences)?;
        self.pass_over(sequences, capture, interventions, &[], output)
    }

    /// Resumes rows at a layer, applies the interventions in place, and goes on to the output.
    pub fn resume(
        &self,
        resume: &Resume<'_, B>,
        interventions: &[Intervention<'_, B>],
        capture: &[Site],
        output: Output<'_, B>,
    ) -> Result<Run<B>, EngineError> {
        Ok(self.resume_pass(resume, interventions, capture, output, ResumeKind::Plain)?.0)
    }

    /// As [`Engine::resume`], with the attention of the first block taken from the run, up to `hook_z`: for interventions
    /// behind it. The run must have captured the layer's `hook_z` too.
    pub(super) fn resume_behind_attention(
        &self,
        resume: &Resume<'_, B>,
        interventions: &[Intervention<'_, B>],
        output: Output<'_, B>,
    ) -> Result<Run<B>, EngineError> {
        Ok(self.resume_pass(resume, interventions, &[], output, ResumeKind::BehindAttention)?.0)
    }

    /// As [`Engine::resume`], keeping what [`Engine::backward`] needs.
    ///
    /// # Errors
    /// Besides those of a pass: an intervention anywhere but at the residual where the rows resume, because gradients
    /// pass through the model alone.
    pub fn resume_with_tape(
        &self,
        resume: &Resume<'_, B>,
        interventions: &[Intervention<'_, B>],
        output: Output<'_, B>,
    ) -> Result<(Run<B>, Tape<B>), EngineError> {
        let start = Site::resid(resume.layer, self.config().n_layers);
        if let Some(other) = interventions.iter().find(|i| i.site.canonical(self.config().n_layers) != start) {
            return Err(EngineError::Mismatch {
                what: "site of an intervention in a pass with gradients".into(),
                expected: start.to_string(),
                found: other.site.to_string(),
            });
        }
        self.resume_pass(resume, interventions, &[], output, ResumeKind::WithTape)
    }

    pub(super) fn check_sequences(&self, sequences: &[Vec<u32>]) -> Result<(), EngineError> {
        for (index, sequence) in sequences.iter().enumerate() {
            if sequence.is_empty() {
                return Err(EngineError::Sequence { index, reason: "it is empty".into() });
            }
            if sequence.len() > self.config().n_ctx {
                let reason = format!("{} tokens, the model takes at most {}", sequence.len(), self.config().n_ctx);
                return Err(EngineError::Sequence { index, reason });
            }
        }
        Ok(())
    }

    pub(super) fn pass_over(
        &self,
        sequences: &[Vec<u32>],
        capture: &[Site],
        interventions: &[Intervention<'_, B>],
        keep: &[usize],
        output: Output<'_, B>,
    ) -> Result<Run<B>, EngineError> {
        let layout = Layout::whole(sequences);
        let prefix = PrefixOf { prefix: None, offsets: Vec::new() };
        let mut pass = Pass::new(self, layout, prefix, interventions, (0, capture), &output)?;
        pass.keep_prefix(keep)?;
        let resid = pass.embed(sequences)?;
        Ok(pass.finish(resid, 0, keep, output)?.0)
    }

    fn resume_pass(
        &self,
        resume: &Resume<'_, B>,
        interventions: &[Intervention<'_, B>],
        capture: &[Site],
        output: Output<'_, B>,
        kind: ResumeKind,
    ) -> Result<(Run<B>, Tape<B>), EngineError> {
        let config = self.config();
        let base = &resume.run.layout;
        let mut rows = Vec::new();
        let mut tokens = Vec::new();
        let mut offsets = Vec::new();
        for &(sequence, start) in resume.rows {
            let first = resume.run.token(sequence, start)?;
            let len = base.len(sequence);
            rows.push((start, len));
            tokens.extend((first..first + len - start).map(|t| t as u32));
            offsets.push(resume.run.prefix_offset(sequence, start, resume.layer == config.n_layers)?);
        }
        let layout = Layout::new(rows);
        let prefix = PrefixOf { prefix: resume.run.prefix.as_ref(), offsets };
        let mut pass = Pass::new(self, layout, prefix, interventions, (resume.layer, capture), &output)?;
        self.check_entry(interventions, resume.layer)?;
        let tokens = self.backend.upload_indices(&tokens)?;
        match kind {
            ResumeKind::Plain => {}
            ResumeKind::BehindAttention => pass.z = Some(self.rows_of(resume.run, Site::Z(resume.layer), &tokens)?),
            ResumeKind::WithTape => pass.tape = Some(Vec::new()),
        }
        let resid = self.rows_of(resume.run, Site::resid(resume.layer, config.n_layers), &tokens)?;
        pass.finish(resid, resume.layer, &[], output)
    }

    /// Refuses interventions in front of the block where a pass begins.
    pub(super) fn check_entry(&self, interventions: &[Intervention<'_, B>], layer: usize) -> Result<(), EngineError> {
        let n_layers = self.config().n_layers;
        let early = |site: Site| {
            let site = site.canonical(n_layers);
            site.layer().is_none_or(|l| l < layer)
                && site != Site::FinalNormalized
                && site != Site::resid(layer, n_layers)
        };
        match interventions.iter().find(|intervention| early(intervention.site)) {
            None => Ok(()),
            Some(intervention) => {
                let reason = format!("the pass resumes at layer {layer}");
                Err(EngineError::NeverFires { site: intervention.site.to_string(), reason })
            }
        }
    }

    /// Rows of a captured site.
    pub(super) fn rows_of(&self, run: &Run<B>, site: Site, tokens: &B::Indices) -> Result<B::Tensor, EngineError> {
        let width = site.width(self.config());
        let mut rows = self.backend.tensor(self.backend.indices_len(tokens) * width)?;
        self.backend.gather_rows(run.site(site)?, width, tokens, &mut rows)?;
        Ok(rows)
    }

    /// Joins the batches of one run.
    fn join(&self, mut parts: Vec<Run<B>>) -> Result<Run<B>, EngineError> {
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        let rows = parts.iter().flat_map(|p| (0..p.layout.n_rows()).map(|r| (0, p.layout.len(r)))).collect::<Vec<_>>();
        let mut joined = Run {
            layout: Layout::new(rows),
            sites: HashMap::new(),
            prefix: None,
            logits: None,
            n_layers: self.config().n_layers,
        };
        let sites: HashSet<Site> = parts.iter().flat_map(|p| p.sites.keys().copied()).collect();
        for site in sites {
            let mut tensors = Vec::new();
            for part in &mut parts {
                tensors.extend(part.sites.remove(&site));
            }
            joined.sites.insert(site, self.concatenate(tensors)?);
        }
        let prefixes: Vec<_> = parts.iter_mut().filter_map(|p| p.prefix.take()).collect();
        if !prefixes.is_empty() {
            joined.prefix = Some(self.join_prefixes(prefixes)?);
        }
        joined.logits = parts.into_iter().filter_map(|p| p.logits).reduce(|mut all, next| {
            all.values.rows += next.values.rows;
            all.values.data.extend(next.values.data);
            all.log_sum_exp = all.log_sum_exp.zip(next.log_sum_exp).map(|(a, b)| [a, b].concat());
            all
        });
        Ok(joined)
    }

    fn join_prefixes(&self, mut prefixes: Vec<Prefix<B>>) -> Result<Prefix<B>, EngineError> {
        let lens: Vec<usize> = prefixes.iter().flat_map(|p| p.lens.iter().copied()).collect();
        let mut key_values = Vec::new();
        for _ in 0..self.config().n_layers {
            let tensors = prefixes.iter_mut().map(|p| p.key_values.remove(0)).collect();
            key_values.push(self.concatenate(tensors)?);
        }
        Ok(Prefix { offsets: running_sum(&lens), lens, key_values })
    }

    fn concatenate(&self, tensors: Vec<B::Tensor>) -> Result<B::Tensor, EngineError> {
        let total = tensors.iter().map(|t| self.backend.len(t)).sum();
        let mut all = self.backend.tensor(total)?;
        let mut offset = 0;
        for tensor in tensors {
            self.backend.copy_into(&tensor, &mut all, offset)?;
            offset += self.backend.len(&tensor);
        }
        Ok(all)
    }
}

/// Where each of several consecutive stretches starts.
pub(super) fn running_sum(lens: &[usize]) -> Vec<usize> {
    lens.iter()
        .scan(0, |sum, len| {
            *sum += len;
            Some(*sum - len)
        })
        .collect()
}

impl<B: Backend> Run<B> {
    /// Where the kept keys of `sequence` start, checked to reach up to `start`.
    fn prefix_offset(&self, sequence: usize, start: usize, unused: bool) -> Result<usize, EngineError> {
        let kept = self.prefix.as_ref().map_or(0, |p| p.lens[sequence]);
        if start > kept && !unused {
            return Err(EngineError::Mismatch {
                what: format!("first computed position of sequence {sequence}"),
                expected: format!("at most {kept}, the positions whose keys and values the run kept"),
                found: start.to_string(),
            });
        }
        Ok(self.prefix.as_ref().map_or(0, |p| p.offsets[sequence]))
    }
}
