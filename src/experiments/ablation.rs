//! Ablation: what the clean run loses when activations, or only their part along directions, are taken away.
//!
//! `x := v`, or along a subspace with unit columns `R`: `x += R Rᵀ (v - x)` (arXiv 2310.15154, section on ablation), where
//! `v` is zero, a mean, or the same place in another prompt. Attention may be frozen to the clean run's patterns, and
//! places may keep their clean values.

use super::activation_maps::{MapKind, common_length};
use super::chunks::{Kept, Progress, patch_dataset, stretches};
use crate::backend::Backend;
use crate::engine::{
    Cell, Change, Edit, Engine, EngineError, Metric, Mode, Output, Part, PatchPositions, Places, Plan, Scores, Site,
    Values,
};
use crate::model::ModelConfig;
use crate::types::{Matrix, PairedPrompts};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What an ablated place holds instead of its own value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Replacement {
    /// Zero.
    Zero,
    /// The mean over the clean prompts at the same position; all prompts have one length.
    Mean,
    /// One mean over all ablated places of all clean prompts.
    MeanOverPlaces,
    /// The value in another clean prompt of the same length, drawn for every prompt.
    Resample,
    /// The value in the prompt's own corrupted prompt.
    Corrupted,
}

impl Replacement {
    /// All of them.
    pub const ALL: [Replacement; 5] = [
        Replacement::Zero,
        Replacement::Mean,
        Replacement::MeanOverPlaces,
        Replacement::Resample,
        Replacement::Corrupted,
    ];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Replacement::Zero => "zero",
            Replacement::Mean => "mean",
            Replacement::MeanOverPlaces => "mean_over_places",
            Replacement::Resample => "resample",
            Replacement::Corrupted => "corrupted",
        }
    }
}

impl fmt::Display for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Replacement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Replacement::ALL.map(Replacement::name).join(", ");
        let found = Replacement::ALL.into_iter().find(|replacement| replacement.name() == text);
        found.ok_or_else(|| format!("expected one of {known}, found {text:?}"))
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

impl Condition {
    /// The condition as edits of the clean run; `value` gives what takes a site's place at the positions of a mean.
    fn cell(&self, config: &ModelConfig, length: usize, value: impl Fn(Site, &Places, usize) -> Values) -> Cell {
        let mut edits = Vec::new();
        for Ablated { site, part, subspace } in &self.ablated {
            let edit = |places: Places, values: Values| {
                let change = match subspace {
                    None => Change::Replace(values),
                    Some(columns) => Change::Swap(values, columns.clone()),
                };
                Edit { site: *site, part: *part, places, change }
            };
            match self.replacement {
                Replacement::Zero => edits.push(edit(self.places.clone(), Values::Zero)),
                Replacement::Resample | Replacement::Corrupted => {
                    edits.push(edit(self.places.clone(), Values::OtherRun));
                }
                Replacement::MeanOverPlaces => {
                    edits.push(edit(self.places.clone(), value(*site, &self.places, 0)));
                }
                // One edit per position, which has one row for all prompts.
                Replacement::Mean => {
                    let rows = by_position(&self.places, length).into_iter();
                    edits.extend(rows.map(|(position, places)| edit(places, value(*site, &self.places, position))));
                }
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
        Cell { mode: Mode::Noising, edits }
    }

    /// In which prompts can the ablation change the logits, and what does it cost?
    ///
    /// # Errors
    /// [`EngineError::NeverFires`] when it can in none; a site, head, neuron or position that is not there, a mean by
    /// position over prompts of several lengths.
    pub fn plan(
        &self,
        config: &ModelConfig,
        prompts: &PairedPrompts,
        max_tokens: usize,
    ) -> Result<Planned, EngineError> {
        self.check(config)?;
        let length = self.common_length(prompts)?;
        let cells = [self.cell(config, length, |_, _, _| Values::Zero)];
        let plan = Plan::new(config, prompts, &cells, max_tokens)?;
        let site = self.ablated.first().map_or_else(String::new, |ablated| ablated.site.to_string());
        let reached = plan.reached(0);
        if reached.is_empty() {
            let reason = format!("no prompt of {} has a position there that reaches the logits", prompts.name);
            return Err(EngineError::NeverFires { site, reason });
        }
        Ok(Planned { reached, flops: plan.flops() })
    }

    /// Can the engine replace this?
    fn check(&self, config: &ModelConfig) -> Result<(), EngineError> {
        let means = matches!(self.replacement, Replacement::Mean | Replacement::MeanOverPlaces);
        for Ablated { site, .. } in &self.ablated {
            site.check(config)?;
            if means && matches!(site, Site::Pattern(_) | Site::Result(_)) {
                return Err(EngineError::Mismatch {
                    what: format!("replacement at {site}"),
                    expected: "zero, resample or corrupted".into(),
                    found: self.replacement.to_string(),
                });
            }
        }
        Ok(())
    }

    /// The length of all prompts, where a mean by position needs one.
    fn common_length(&self, prompts: &PairedPrompts) -> Result<usize, EngineError> {
        if self.replacement == Replacement::Mean { common_length(prompts) } else { Ok(0) }
    }
}

/// What a condition will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Prompts whose logits it can change.
    pub reached: Vec<usize>,
    /// Its arithmetic.
    pub flops: crate::engine::Flops,
}

/// Places taken apart by position, in prompts of one length.
fn by_position(places: &Places, length: usize) -> Vec<(usize, Places)> {
    if let Places::Of(positions) = places {
        return positions.range(length).map(|position| (position, PatchPositions::One(position).into())).collect();
    }
    let Places::PerPrompt(lists) = places else { return Vec::new() };
    let wanted: BTreeSet<usize> = lists.iter().flatten().copied().collect();
    let of = |position: usize| {
        let list = |list: &Vec<usize>| if list.contains(&position) { vec![position] } else { Vec::new() };
        (position, Places::PerPrompt(Arc::new(lists.iter().map(list).collect())))
    };
    wanted.into_iter().map(of).collect()
}

/// One condition per value of a map, in the order of its shape.
///
/// # Errors
/// Prompts of unequal length for a map by position or a mean by position.
pub fn map_conditions(
    kind: MapKind,
    replacement: Replacement,
    config: &ModelConfig,
    prompts: &PairedPrompts,
) -> Result<Vec<Condition>, EngineError> {
    let length = if kind.by_position() { common_length(prompts)? } else { 0 };
    let condition = |(site, part, position): (Site, Part, PatchPositions)| {
        let condition = Condition {
            ablated: vec![Ablated { site, part, subspace: None }],
            replacement,
            places: position.into(),
            kept: None,
            frozen_attention: false,
        };
        condition.check(config)?;
        condition.common_length(prompts)?;
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

/// Means of activations over the clean prompts: `(positions, width)` for a mean by position, else one row.
struct Means(Vec<(Site, Option<Places>, Vec<Arc<Matrix>>)>);

impl Means {
    /// Every mean that the conditions need, from one pass over the clean prompts.
    fn new<B: Backend>(
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        conditions: &[Condition],
        budget: usize,
    ) -> Result<Self, EngineError> {
        let mut wanted: Vec<(Site, Option<Places>)> = Vec::new();
        for condition in conditions {
            let places = match condition.replacement {
                Replacement::Mean => None,
                Replacement::MeanOverPlaces => Some(condition.places.clone()),
                _ => continue,
            };
            for ablated in &condition.ablated {
                let entry = (ablated.site, places.clone());
                if !wanted.contains(&entry) {
                    wanted.push(entry);
                }
            }
        }
        let mut sums: Vec<Vec<Sum>> = vec![Vec::new(); wanted.len()];
        let sites: BTreeSet<Site> = wanted.iter().map(|(site, _)| *site).collect();
        let sites: Vec<Site> = sites.into_iter().collect();
        if sites.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let kept = Kept { sites: &sites, positions: &[] };
        for range in stretches(engine.config(), prompts, kept, 1, budget) {
            let numbers: Vec<usize> = range.collect();
            let sequence = |&prompt: &usize| prompts.sequences[prompts.clean[prompt]].clone();
            let sequences: Vec<Vec<u32>> = numbers.iter().map(sequence).collect();
            let run = engine.run(&sequences, &sites, &[], Output::None)?;
            for ((site, places), sums) in wanted.iter().zip(&mut sums) {
                let values = engine.backend().download(run.site(*site)?)?;
                let width = site.width(engine.config());
                for (row, (&prompt, sequence)) in numbers.iter().zip(&sequences).enumerate() {
                    let everywhere = PatchPositions::All.into();
                    for position in places.as_ref().unwrap_or(&everywhere).of(prompt, sequence.len()) {
                        let token = run.token(row, position)?;
                        let group = if places.is_some() { 0 } else { position };
                        sums.resize(sums.len().max(group + 1), Sum::new(width));
                        sums[group].add(&values[token * width..(token + 1) * width]);
                    }
                }
            }
        }
        let means = |sums: Vec<Sum>| sums.into_iter().map(Sum::mean).collect();
        Ok(Self(wanted.into_iter().zip(sums).map(|((site, places), sums)| (site, places, means(sums))).collect()))
    }

    /// The mean that takes a site's place.
    fn of(&self, site: Site, places: &Places, replacement: Replacement, position: usize) -> Values {
        let wanted = (replacement == Replacement::MeanOverPlaces).then_some(places);
        let mean = self.0.iter().find(|(own, places, _)| *own == site && places.as_ref() == wanted);
        let row = mean.and_then(|(_, _, rows)| rows.get(position));
        // Places that no prompt has are never written.
        row.map_or(Values::Zero, |row| Values::Rows(row.clone()))
    }
}

/// A sum of vectors.
#[derive(Clone)]
struct Sum {
    values: Vec<f64>,
    count: usize,
}

impl Sum {
    fn new(width: usize) -> Self {
        Self { values: vec![0.0; width], count: 0 }
    }

    fn add(&mut self, values: &[f32]) {
        self.values.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(*value));
        self.count += 1;
    }

    fn mean(self) -> Arc<Matrix> {
        let mean: Vec<f32> = self.values.iter().map(|sum| (sum / self.count.max(1) as f64) as f32).collect();
        Arc::new(Matrix::new(1, mean.len(), mean))
    }
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
/// Those of the engine and of `told`; those of [`resampled`]; a mean by position over prompts of several lengths.
pub fn ablation<B: Backend, E: From<EngineError> + Send>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    conditions: &[Condition],
    seed: u64,
    budget: usize,
    mut told: impl FnMut(f64) -> Result<(), E> + Send,
) -> Result<Outcome, E> {
    let config = engine.config();
    let means = Means::new(engine, prompts, conditions, budget)?;
    let mut outcome = Outcome {
        clean: Scores { logit_differences: Vec::new(), probability_differences: Vec::new() },
        ablated: vec![Scores { logit_differences: Vec::new(), probability_differences: Vec::new() }; conditions.len()],
    };
    let (drawn, own): (Vec<usize>, Vec<usize>) =
        (0..conditions.len()).partition(|&number| conditions[number].replacement == Replacement::Resample);
    let mut before = 0.0;
    for (numbers, resample) in [(own, false), (drawn, true)] {
        if numbers.is_empty() {
            continue;
        }
        let pairs = if resample { &resampled(prompts, seed)? } else { prompts };
        let mut cells = Vec::with_capacity(numbers.len());
        for &number in &numbers {
            let condition = &conditions[number];
            condition.check(config)?;
            let length = condition.common_length(prompts)?;
            let mean = |site, places: &Places, position| means.of(site, places, condition.replacement, position);
            cells.push(condition.cell(config, length, mean));
        }
        let weight = numbers.len() as f64 / conditions.len() as f64;
        let metrics = [Metric::LogitDiffNoising];
        let (baselines, scores) = patch_dataset(engine, pairs, &cells, &metrics, budget, |progress: Progress<'_>| {
            told(before + weight * progress.share)
        })?;
        before += weight;
        outcome.clean = baselines.clean;
        numbers.into_iter().zip(scores).for_each(|(number, scores)| outcome.ablated[number] = scores);
    }
    Ok(outcome)
}

/// What an ablation did to some prompts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effect {
    /// How many.
    pub prompts: usize,
    /// Their mean logit difference without and with the ablation.
    pub logit_difference: (f64, f64),
    /// The share of them with a positive logit difference, without and with.
    pub accuracy: (f64, f64),
    /// How many have another sign than before.
    pub flipped: usize,
}

impl Effect {
    /// The effect on the prompts that `among` keeps; none if it keeps none.
    pub fn new(clean: &Scores, ablated: &Scores, among: impl Fn(usize) -> bool) -> Option<Self> {
        let numbers: Vec<usize> = (0..clean.logit_differences.len()).filter(|&prompt| among(prompt)).collect();
        if numbers.is_empty() {
            return None;
        }
        let (clean, ablated) = (clean.select(&numbers), ablated.select(&numbers));
        let pairs = clean.logit_differences.iter().zip(&ablated.logit_differences);
        Some(Self {
            prompts: numbers.len(),
            logit_difference: (clean.logit_difference(), ablated.logit_difference()),
            accuracy: (clean.accuracy(), ablated.accuracy()),
            flipped: pairs.filter(|(before, after)| (**before > 0.0) != (**after > 0.0)).count(),
        })
    }

    /// Change of the logit difference in percent of what it was; none where it was zero.
    pub fn change(&self) -> Option<f64> {
        let (before, after) = self.logit_difference;
        (before != 0.0).then(|| 100.0 * (after - before) / before)
    }

    /// Accuracy lost in percent of what it was above chance (one half); none where it was not above it.
    pub fn lost_above_chance(&self) -> Option<f64> {
        let (before, after) = self.accuracy;
        (before > 0.5).then(|| 100.0 * (before - after) / (before - 0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(values: &[f64]) -> Scores {
        Scores { logit_differences: values.to_vec(), probability_differences: Vec::new() }
    }

    fn prompts(lengths: &[usize]) -> PairedPrompts {
        PairedPrompts {
            name: "set".into(),
            texts: vec![String::new(); lengths.len()],
            sequences: lengths.iter().enumerate().map(|(number, &len)| vec![number as u32; len]).collect(),
            clean: (0..lengths.len()).collect(),
            corrupted: (0..lengths.len()).collect(),
            positive: vec![true; lengths.len()],
            answers: vec![vec![(0, 1)]; lengths.len()],
            positions: BTreeMap::new(),
        }
    }

    #[test]
    fn effects_count_and_compare() {
        let (clean, ablated) = (scores(&[2.0, 1.0, -1.0, 2.0]), scores(&[1.0, -1.0, -1.0, 1.0]));
        let all = Effect::new(&clean, &ablated, |_| true).unwrap();
        assert_eq!((all.prompts, all.flipped, all.logit_difference), (4, 1, (1.0, 0.0)));
        assert_eq!((all.change(), all.lost_above_chance()), (Some(-100.0), Some(100.0)));
        let one = Effect::new(&clean, &ablated, |prompt| prompt == 2).unwrap();
        assert_eq!((one.change(), one.lost_above_chance()), (Some(0.0), None));
        assert_eq!(Effect::new(&clean, &ablated, |_| false), None);
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
