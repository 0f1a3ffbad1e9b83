//! Gradients of logit differences with respect to activations by hook name.

use super::activations::join;
use super::{DeviceWork, Observer, Progress, Session, distinct};
use crate::backend::Backend;
use crate::engine::metrics::logit_difference_gradient;
use crate::engine::{AnswerColumns, Engine, EngineError, Flops, Layout, Output, Resume, Site};
use crate::model::ModelConfig;
use crate::types::AnswerPair;
use anyhow::Result;
use std::ops::Range;

/// Which gradients are taken: of every sequence's logit difference at its last position, the mean over its pairs of answers.
#[derive(Debug, Clone, Copy)]
pub struct Backward<'a> {
    /// Token ids, as in [`super::Forward`].
    pub sequences: &'a [Vec<u32>],
    /// Per sequence: (correct, incorrect) answers, at least one pair.
    pub answers: &'a [Vec<AnswerPair>],
    /// With respect to what.
    pub sites: &'a [Site],
}

/// Logit differences and their gradients, on the host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gradients {
    /// Length of every sequence, in tokens.
    pub lengths: Vec<usize>,
    /// The logit difference of every sequence.
    pub differences: Vec<f32>,
    /// Gradients by site, laid out as the values of [`super::Activations::sites`].
    pub sites: Vec<(Site, Vec<f32>)>,
}

impl Session {
    /// Takes gradients, in batches of at most the session's tokens, asking the observer between them.
    ///
    /// # Errors
    /// [`EngineError`] for sequences and answers that the model cannot run, and for sites without a gradient: embeddings,
    /// heads' inputs and results, `ln_final.hook_normalized`; [`super::Stopped`].
    pub fn gradients(&self, backward: &Backward<'_>, observer: &mut dyn Observer) -> Result<Gradients> {
        let (sequences, answers) = (backward.sequences, backward.answers);
        if answers.len() != sequences.len() || answers.iter().any(Vec::is_empty) {
            return Err(EngineError::Mismatch {
                what: "answers".into(),
                expected: format!("one pair at least for each of {} sequences", sequences.len()),
                found: format!("{} of {}", answers.iter().filter(|pairs| !pairs.is_empty()).count(), answers.len()),
            }
            .into());
        }
        let (config, layout) = (self.config(), Layout::whole(sequences));
        let arithmetic = Flops::forward(config, &layout, 0, 2) + Flops::backward(config, &layout, 0, 2);
        self.compute_at_hand(observer, arithmetic, Differentiating(backward))
    }
}

struct Differentiating<'a>(&'a Backward<'a>);

impl DeviceWork for Differentiating<'_> {
    type Output = Gradients;

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<Gradients> {
        let Backward { sequences, answers, sites } = *self.0;
        let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let sites = sites.iter().map(|site| (*site, Vec::new())).collect();
        let mut all = Gradients { lengths, differences: Vec::new(), sites };
        if sequences.is_empty() {
            return Ok(all);
        }
        let tokens: Vec<u32> = answers.iter().flatten().flat_map(|&(right, wrong)| [right, wrong]).collect();
        let columns = engine.answer_columns(&distinct(&tokens))?;
        let mut progress = Progress::new(observer, "gradients", sequences.len());
        let mut first = 0;
        while first < sequences.len() {
            let (end, tokens) = engine.batch_from(sequences, first);
            match self.batch(engine, &columns, first..end) {
                Ok(part) => {
                    all.differences.extend(part.differences);
                    all.sites.iter_mut().zip(part.sites).for_each(|((_, all), (_, own))| join(all, own));
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

impl Differentiating<'_> {
    fn batch<B: Backend>(
        &self,
        engine: &Engine<B>,
        columns: &AnswerColumns<B>,
        range: Range<usize>,
    ) -> Result<Gradients, EngineError> {
        let (config, sequences) = (engine.config(), &self.0.sequences[range.clone()]);
        let layout = Layout::whole(sequences);
        let column = |token: u32| columns.tokens().iter().position(|other| *other == token).unwrap_or_default();
        let pairs =
            |pairs: &Vec<AnswerPair>| pairs.iter().map(|&(right, wrong)| (column(right), column(wrong))).collect();
        let answers: Vec<Vec<(usize, usize)>> = self.0.answers[range].iter().map(pairs).collect();
        // Its mean over the sequences, times their number: every sequence's own.
        let d_logits = logit_difference_gradient(&answers, columns.tokens().len(), answers.len() as f64);
        let run = engine.run(sequences, &[Site::ResidPre(0)], &[], Output::None)?;
        let rows: Vec<(usize, usize)> = (0..sequences.len()).map(|sequence| (sequence, 0)).collect();
        let resume = Resume { run: &run, layer: 0, rows: &rows };
        let (patched, tape) = engine.resume_with_tape(&resume, &[], Output::Answers(columns))?;
        let logits = patched.logits().ok_or_else(|| EngineError::NotCaptured { site: "logits".into() })?;
        let difference = |(row, pairs): (usize, &Vec<(usize, usize)>)| {
            let row = logits.values.row(row);
            pairs.iter().map(|&(right, wrong)| row[right] - row[wrong]).sum::<f32>() / pairs.len() as f32
        };
        let differences = answers.iter().enumerate().map(difference).collect();
        let mut sites: Vec<(Site, Vec<f32>)> = self.0.sites.iter().map(|site| (*site, Vec::new())).collect();
        let told = |told: Site, gradient: &B::Tensor| {
            let gradient = spread(told, engine.backend().download(gradient)?, &layout, config);
            let mut same = sites.iter_mut().filter(|(site, _)| site.canonical(config.n_layers) == told);
            if let Some((_, first)) = same.next() {
                same.for_each(|(_, values)| values.clone_from(&gradient));
                *first = gradient;
            }
            Ok(())
        };
        engine.gradients(&resume, &tape, columns, &d_logits, self.0.sites, told)?;
        Ok(Gradients { lengths: Vec::new(), differences, sites })
    }
}

/// The gradient of every token, where only last positions have one, which is zero elsewhere.
fn spread(site: Site, gradient: Vec<f32>, layout: &Layout, config: &ModelConfig) -> Vec<f32> {
    let (rows, n_heads) = (0..layout.n_rows(), config.n_heads);
    let (whole, spans): (usize, Vec<(usize, usize)>) = match site {
        Site::Pattern(_) => {
            let last = |row| (0..n_heads).map(move |head| layout.pattern_span(row, head, layout.len(row) - 1, n_heads));
            (layout.pattern_len(n_heads), rows.flat_map(last).collect())
        }
        site => {
            let width = site.width(config);
            let last = layout.last_tokens();
            (layout.n_tokens() * width, last.into_iter().map(|token| (token as usize * width, width)).collect())
        }
    };
    if gradient.len() == whole {
        return gradient;
    }
    let mut all = vec![0.0; whole];
    let mut left = &gradient[..];
    for (start, length) in spans {
        let (own, rest) = left.split_at(length.min(left.len()));
        all[start..start + own.len()].copy_from_slice(own);
        left = rest;
    }
    all
}
