//! Ablation: what the clean run loses when activations, or only their part along directions, are taken away.
//!
//! `x := v`, or along a subspace with unit columns `R`: `x += R Rᵀ (v - x)` (arXiv 2310.15154, section on ablation), where
//! `v` is zero, a mean, or the same place in another prompt. Attention may be frozen to the clean run's patterns, and
//! places may keep their clean values.

mod effect;
mod means;

pub use effect::{Effect, NEGLIGIBLE};

use super::activation_maps::{MapKind, common_length};
use super::chunks::patched_scores;
use crate::backend::Backend;
use crate::choice::choices;
use crate::engine::{
    Cell, Change, Edit, Engine, EngineError, Flops, Metric, Mode, Pairs, Part, PatchPositions, Places, Plan, Scores,
    Site, Values,
};
use crate::model::ModelConfig;
use crate::types::{Matrix, PairedPrompts};
use means::Means;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

choices! {
    /// What an ablated place holds instead of its own value.
    pub enum Replacement {
        /// Zero.
        Zero = "zero",
        /// The mean over the clean prompts at the same position; all prompts have one length.
        Mean = "mean",
        /// One mean over all ablated places of all clean prompts.
        MeanOverPlaces = "mean_over_places",
        /// One mean over all ablated places of the clean prompts of the other class: of the negative ones for a
        /// positive one.
        MeanOfOtherClass = "mean_of_other_class",
        /// The value in another clean prompt of the same length, drawn for every prompt.
        Resample = "resample",
        /// The value in the prompt's own corrupted prompt.
        Corrupted = "corrupted",
    }
}

impl Replacement {
    /// The pairs of prompts whose corrupted side takes the clean one's place.
    fn pairs(self, prompts: &PairedPrompts, seed: u64) -> Result<Cow<'_, PairedPrompts>, EngineError> {
        match self {
            Replacement::Resample => Ok(Cow::Owned(resampled(prompts, seed)?)),
            _ => Ok(Cow::Borrowed(prompts)),
        }
    }
}

/// One activation that is ablated.
#[derive(Debug, Clone, PartialEq)]
pub struct Ablated {
    /// Where in the forward pass.
    pub site: Site,
    /// Which part of it.
    pub part: Part,
    /// Only along these unit columns, `(width of the part, k)`; all of it without.
    pub subspace: Option<Arc<Matrix>>,
}

impl Ablated {
    /// All of an activation's part.
    pub fn whole(site: Site, part: Part) -> Self {
        Self { site, part, subspace: None }
    }
}

/// What is ablated together, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The activations.
    pub ablated: Vec<Ablated>,
    /// What they hold instead.
    pub replacement: Replacement,
    /// At which positions.
    pub places: Places,
    /// Positions at which the same activations keep their clean values, whatever reaches them.
    pub kept: Option<Places>,
    /// Do all attention patterns stay those of the clean run?
    pub frozen_attention: bool,
}

/// What a condition will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Prompts whose logits it can change.
    pub reached: Vec<usize>,
    /// Its arithmetic.
    pub flops: Flops,
}

impl Condition {
    /// The condition as edits of the clean run. `mean` gives what takes a site's place, by number: of the position, or of the
    /// class that the mean is taken of (0 negative, 1 positive), or 0.
    ///
    /// # Errors
    /// Prompts of several lengths for a mean by position; places of one class alone for a mean of the other one.
    fn cell(
        &self,
        config: &ModelConfig,
        prompts: &PairedPrompts,
        mean: impl Fn(Site, usize) -> Values,
    ) -> Result<Cell, EngineError> {
        let length = self.length(prompts)?;
        let classes = match self.replacement {
            Replacement::MeanOfOtherClass => self.by_class(prompts)?,
            _ => Vec::new(),
        };
        let mut edits = Vec::new();
        for Ablated { site, part, subspace } in &self.ablated {
            let mut edit = |places: Places, values: Values| {
                let change = match subspace {
                    None => Change::Replace(values),
                    Some(columns) => Change::Swap(values, columns.clone()),
                };
                edits.push(Edit { site: *site, part: *part, places, change });
            };
            match self.replacement {
                Replacement::Zero => edit(self.places.clone(), Values::Zero),
                Replacement::Resample | Replacement::Corrupted => edit(self.places.clone(), Values::OtherRun),
                Replacement::MeanOverPlaces => edit(self.places.clone(), mean(*site, 0)),
                Replacement::MeanOfOtherClass => classes
                    .iter()
                    .for_each(|(positive, places)| edit(places.clone(), mean(*site, usize::from(!positive)))),
                // One edit per position, which has one row for all prompts.
                Replacement::Mean => by_position(&self.places, length)
                    .into_iter()
                    .for_each(|(position, places)| edit(places, mean(*site, position))),
            }
        }
        let freeze = |site, part, places: &Places| {
            let change = Change::Replace(Values::OwnRun);
            Edit { site, part, places: places.clone(), change }
        };
        if let Some(kept) = &self.kept {
            edits.extend(self.ablated.iter().map(|ablated| freeze(ablated.site, ablated.part, kept)));
        }
        if self.frozen_attention {
            let first = self.ablated.iter().filter_map(|ablated| ablated.site.layer()).min().unwrap_or(0);
            let everywhere = Places::from(PatchPositions::All);
            edits.extend((first..config.n_layers).map(|layer| freeze(Site::Pattern(layer), Part::All, &everywhere)));
        }
        Ok(Cell { mode: Mode::Noising, edits })
    }

    /// The places of positive prompts, and those of negative ones.
    fn by_class(&self, prompts: &PairedPrompts) -> Result<Vec<(bool, Places)>, EngineError> {
        if !prompts.has_classes {
            return Err(EngineError::Mismatch {
                what: format!("{}: classes with places to take {} of", prompts.name, self.replacement),
                expected: "positive and negative prompts".into(),
                found: "no classes".into(),
            });
        }
        let of = |class: bool| {
            let own = |(prompt, &positive): (usize, &bool)| match positive == class {
                true => self.places.of(prompt, prompts.sequences[prompts.clean[prompt]].len()),
                false => Vec::new(),
            };
            let lists: Vec<Vec<usize>> = prompts.positive.iter().enumerate().map(own).collect();
            if lists.iter().all(Vec::is_empty) {
                return Err(EngineError::Mismatch {
                    what: format!("{}: classes with places to take {} of", prompts.name, self.replacement),
                    expected: "positive and negative prompts".into(),
                    found: format!("no {} ones", if class { "positive" } else { "negative" }),
                });
            }
            Ok((class, Places::PerPrompt(Arc::new(lists))))
        };
        [true, false].into_iter().map(of).collect()
    }

    /// In which prompts can the ablation change the logits (none, where it acts behind the last token that they come
    /// from), and what does it cost?
    ///
    /// # Errors
    /// A site, head, neuron or position that is not there, a mean by position over prompts of several lengths, a
    /// replacement that the site cannot have, what frozen attention hides, those of [`resampled`].
    pub fn plan(
        &self,
        config: &ModelConfig,
        prompts: &PairedPrompts,
        seed: u64,
        max_tokens: usize,
    ) -> Result<Planned, EngineError> {
        self.check(config)?;
        let pairs = self.replacement.pairs(prompts, seed)?;
        let cells = [self.cell(config, prompts, |_, _| Values::Zero)?];
        let plan = Plan::new(config, &*pairs, &cells, max_tokens)?;
        let mut reached = plan.reached(0);
        reached.retain(|&prompt| self.changes(prompt, prompts.sequences[prompts.clean[prompt]].len()));
        Ok(Planned { reached, flops: plan.flops() })
    }

    /// As [`Condition::plan`], for an ablation that has to do something.
    ///
    /// # Errors
    /// Besides those of [`Condition::plan`], [`EngineError::NeverFires`] when it changes the logits of no prompt.
    pub fn plan_that_fires(
        &self,
        config: &ModelConfig,
        prompts: &PairedPrompts,
        seed: u64,
        max_tokens: usize,
    ) -> Result<Planned, EngineError> {
        let planned = self.plan(config, prompts, seed, max_tokens)?;
        if planned.reached.is_empty() {
            let site = self.ablated.first().map_or_else(String::new, |ablated| ablated.site.to_string());
            let reason = format!("no prompt of {} has a position there that reaches the logits", prompts.name);
            return Err(EngineError::NeverFires { site, reason });
        }
        Ok(planned)
    }

    /// The clean prompts and their ablated twins, whose activations can be patched into the clean run.
    ///
    /// # Errors
    /// Those of the engine, and those of [`Condition::planned_twins`].
    pub fn twins<B: Backend>(
        &self,
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        budget: usize,
    ) -> Result<Pairs<'static>, EngineError> {
        let means = Means::new(engine, prompts, std::slice::from_ref(self), budget)?;
        self.paired(engine.config(), prompts, |site, number| means.of(site, self, number))
    }

    /// The same for a plan: means are not taken.
    ///
    /// # Errors
    /// Those of [`Condition::plan`]; a replacement that comes from another prompt, and what keeps its clean value, which
    /// twins cannot have.
    pub fn planned_twins(&self, config: &ModelConfig, prompts: &PairedPrompts) -> Result<Pairs<'static>, EngineError> {
        self.paired(config, prompts, |_, _| Values::Zero)
    }

    fn paired(
        &self,
        config: &ModelConfig,
        prompts: &PairedPrompts,
        mean: impl Fn(Site, usize) -> Values,
    ) -> Result<Pairs<'static>, EngineError> {
        self.check(config)?;
        if matches!(self.replacement, Replacement::Resample | Replacement::Corrupted) {
            return Err(EngineError::Mismatch {
                what: "replacement in twins of the clean prompts".into(),
                expected: "zero or a mean".into(),
                found: self.replacement.to_string(),
            });
        }
        Pairs::twins(prompts, self.cell(config, prompts, mean)?)
    }

    /// Is something of a prompt ablated that does not keep its clean value?
    fn changes(&self, prompt: usize, length: usize) -> bool {
        let kept = self.kept.as_ref().map_or_else(Vec::new, |kept| kept.of(prompt, length));
        self.places.of(prompt, length).iter().any(|position| !kept.contains(position))
    }

    /// Can the engine replace this, and would it make a difference?
    fn check(&self, config: &ModelConfig) -> Result<(), EngineError> {
        let means = [Replacement::Mean, Replacement::MeanOverPlaces, Replacement::MeanOfOtherClass];
        for Ablated { site, .. } in &self.ablated {
            site.check(config)?;
            if means.contains(&self.replacement) && matches!(site, Site::Pattern(_) | Site::Result(_)) {
                return Err(EngineError::Mismatch {
                    what: format!("replacement at {site}"),
                    expected: "zero, resample or corrupted".into(),
                    found: self.replacement.to_string(),
                });
            }
            if self.frozen_attention && matches!(site, Site::Q(_) | Site::K(_) | Site::Pattern(_)) {
                let reason = "attention is frozen to the clean run's patterns".into();
                return Err(EngineError::NeverFires { site: site.to_string(), reason });
            }
        }
        Ok(())
    }

    /// The length of all prompts, where a mean by position needs one.
    fn length(&self, prompts: &PairedPrompts) -> Result<usize, EngineError> {
        if self.replacement == Replacement::Mean { common_length(prompts) } else { Ok(0) }
    }
}

/// Places taken apart by position, in prompts of one length.
fn by_position(places: &Places, length: usize) -> Vec<(usize, Places)> {
    match places {
        Places::Of(positions) => {
            positions.range(length).map(|position| (position, PatchPositions::One(position).into())).collect()
        }
        Places::PerPrompt(lists) => {
            let positions: BTreeSet<usize> = lists.iter().flatten().copied().collect();
            let of = |position: usize| {
                let list = |list: &Vec<usize>| if list.contains(&position) { vec![position] } else { Vec::new() };
                (position, Places::PerPrompt(Arc::new(lists.iter().map(list).collect())))
            };
            positions.into_iter().map(of).collect()
        }
    }
}

/// One condition per value of a map, in the order of its shape.
///
/// # Errors
/// Prompts of unequal length for a map by position or a mean by position, a replacement that the map's site cannot have.
pub fn map_conditions(
    kind: MapKind,
    replacement: Replacement,
    config: &ModelConfig,
    prompts: &PairedPrompts,
) -> Result<Vec<Condition>, EngineError> {
    let length = if kind.by_position() { common_length(prompts)? } else { 0 };
    let condition = |(site, part, position): (Site, Part, PatchPositions)| {
        let condition = Condition {
            ablated: vec![Ablated::whole(site, part)],
            replacement,
            places: position.into(),
            kept: None,
            frozen_attention: false,
        };
        condition.check(config)?;
        condition.length(prompts)?;
        Ok(condition)
    };
    kind.places(config, length).into_iter().map(condition).collect()
}

/// The same clean prompts, each with another clean prompt of its length, drawn at random, in the place of its corrupted
/// one.
///
/// # Errors
/// [`EngineError::Mismatch`] for a prompt that no other one is as long as.
pub fn resampled(prompts: &PairedPrompts, seed: u64) -> Result<PairedPrompts, EngineError> {
    let mut of_length: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for &sequence in &prompts.clean {
        of_length.entry(prompts.sequences[sequence].len()).or_default().insert(sequence);
    }
    let mut random = ChaCha20Rng::seed_from_u64(seed);
    let mut draw = |(prompt, &own): (usize, &usize)| {
        let length = prompts.sequences[own].len();
        let others: Vec<usize> = of_length[&length].iter().copied().filter(|&other| other != own).collect();
        if others.is_empty() {
            return Err(EngineError::Mismatch {
                what: format!("{}: other prompts of {length} tokens to resample prompt {prompt} from", prompts.name),
                expected: "at least one".into(),
                found: "none".into(),
            });
        }
        Ok(others[random.random_range(0..others.len())])
    };
    let corrupted = prompts.clean.iter().enumerate().map(&mut draw).collect::<Result<_, _>>()?;
    Ok(PairedPrompts { corrupted, ..prompts.clone() })
}

/// Scores of the clean run, and of every condition in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Without any ablation.
    pub clean: Scores,
    /// With each.
    pub ablated: Vec<Scores>,
}

/// Ablates every condition on the whole dataset. `told` hears the share of the work that is done.
///
/// # Errors
/// Those of the engine and of `told`; those of [`Condition::plan`].
pub fn ablation<B: Backend, E: From<EngineError> + Send>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    conditions: &[Condition],
    seed: u64,
    budget: usize,
    mut told: impl FnMut(f64) -> Result<(), E> + Send,
) -> Result<Outcome, E> {
    let config = engine.config();
    conditions.iter().try_for_each(|condition| condition.check(config))?;
    // Those that draw another prompt have pairs of their own.
    let (drawn, others): (Vec<usize>, Vec<usize>) =
        (0..conditions.len()).partition(|&number| conditions[number].replacement == Replacement::Resample);
    let with_pairs = |numbers: Vec<usize>| {
        let replacement = conditions[*numbers.first()?].replacement;
        Some(replacement.pairs(prompts, seed).map(|pairs| (numbers, pairs)))
    };
    let groups = [others, drawn].into_iter().filter_map(with_pairs).collect::<Result<Vec<_>, EngineError>>()?;
    let means = Means::new(engine, prompts, conditions, budget)?;
    let mut outcome = Outcome { clean: Scores::default(), ablated: vec![Scores::default(); conditions.len()] };
    let mut before = 0.0;
    for (numbers, pairs) in groups {
        let mut cells = Vec::with_capacity(numbers.len());
        for condition in numbers.iter().map(|&number| &conditions[number]) {
            cells.push(condition.cell(config, prompts, |site, number| means.of(site, condition, number))?);
        }
        let weight = numbers.len() as f64 / conditions.len() as f64;
        let metrics = [Metric::LogitDiffNoising];
        let (baselines, scores) =
            patched_scores(engine, &pairs, &cells, &metrics, budget, |share| told(before + weight * share))?;
        before += weight;
        outcome.clean = baselines.clean;
        numbers.into_iter().zip(scores).for_each(|(number, scores)| outcome.ablated[number] = scores);
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(lengths: &[usize]) -> PairedPrompts {
        PairedPrompts {
            name: "set".into(),
            texts: vec![String::new(); lengths.len()],
            sequences: lengths.iter().enumerate().map(|(number, &len)| vec![number as u32; len]).collect(),
            clean: (0..lengths.len()).collect(),
            corrupted: (0..lengths.len()).collect(),
            positive: vec![true; lengths.len()],
            has_classes: true,
            answers: vec![vec![(0, 1)]; lengths.len()],
            positions: BTreeMap::new(),
        }
    }

    #[test]
    fn another_prompt_of_the_same_length_is_drawn() {
        let pairs = resampled(&prompts(&[3, 4, 3, 4, 3]), 1).unwrap();
        for (own, other) in pairs.clean.iter().zip(&pairs.corrupted) {
            assert_ne!(own, other);
            assert_eq!(pairs.sequences[*own].len(), pairs.sequences[*other].len());
        }
        let error = resampled(&prompts(&[3, 3, 4]), 1).unwrap_err().to_string();
        assert!(error.contains("other prompts of 4 tokens to resample prompt 2"), "{error}");
    }

    #[test]
    fn places_fall_apart_by_position() {
        let everywhere = by_position(&PatchPositions::All.into(), 2);
        assert_eq!(everywhere, [(0, PatchPositions::One(0).into()), (1, PatchPositions::One(1).into())]);
        let lists = |lists: &[&[usize]]| Places::PerPrompt(Arc::new(lists.iter().map(|l| l.to_vec()).collect()));
        let apart = by_position(&lists(&[&[1, 4], &[4], &[]]), 9);
        assert_eq!(apart, [(1, lists(&[&[1], &[], &[]])), (4, lists(&[&[4], &[4], &[]]))]);
    }
}
