//! Means of activations over the clean prompts, which take their place in mean ablation.

use super::{Condition, Replacement};
use crate::backend::Backend;
use crate::engine::{Engine, EngineError, Output, PatchPositions, Places, Site, Values};
use crate::experiments::chunks::{Kept, stretches};
use crate::experiments::sum::Sum;
use crate::types::{Matrix, PairedPrompts};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a mean is taken of.
#[derive(Clone, PartialEq)]
struct Wanted {
    site: Site,
    /// One mean over these places; without them one per position.
    places: Option<Places>,
    /// One per class of prompts: of the negative ones, then of the positive ones.
    by_class: bool,
}

impl Wanted {
    fn new(site: Site, condition: &Condition) -> Option<Self> {
        let (places, by_class) = match condition.replacement {
            Replacement::Mean => (None, false),
            Replacement::MeanOverPlaces => (Some(condition.places.clone()), false),
            Replacement::MeanOfOtherClass => (Some(condition.places.clone()), true),
            Replacement::Zero | Replacement::Resample | Replacement::Corrupted => return None,
        };
        Some(Self { site, places, by_class })
    }
}

/// Every mean that some conditions need, as wide as its site.
pub(super) struct Means(Vec<(Wanted, Vec<Arc<Matrix>>)>);

impl Means {
    /// Takes them all in one pass over the clean prompts.
    pub(super) fn new<B: Backend>(
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        conditions: &[Condition],
        budget: usize,
    ) -> Result<Self, EngineError> {
        let mut sums: Vec<(Wanted, Vec<Sum>)> = Vec::new();
        for condition in conditions {
            let wanted = condition.ablated.iter().filter_map(|ablated| Wanted::new(ablated.site, condition));
            for wanted in wanted {
                if sums.iter().all(|(own, _)| *own != wanted) {
                    sums.push((wanted, Vec::new()));
                }
            }
        }
        let sites: BTreeSet<Site> = sums.iter().map(|(wanted, _)| wanted.site).collect();
        let sites: Vec<Site> = sites.into_iter().collect();
        if sites.is_empty() {
            return Ok(Self(Vec::new()));
        }
        for range in stretches(engine.config(), prompts, Kept { sites: &sites, positions: &[] }, 1, budget)? {
            add_stretch(engine, prompts, &range.collect::<Vec<_>>(), &sites, &mut sums)?;
        }
        let means = |sums: Vec<Sum>| sums.into_iter().map(Sum::mean).collect();
        Ok(Self(sums.into_iter().map(|(wanted, sums)| (wanted, means(sums))).collect()))
    }

    /// A mean of a site's values, by its number: the position, the class, or 0 for the only one.
    pub(super) fn of(&self, site: Site, condition: &Condition, number: usize) -> Values {
        let wanted = Wanted::new(site, condition);
        let rows = self.0.iter().find(|(own, _)| Some(own) == wanted.as_ref()).map(|(_, rows)| rows);
        // Places that no prompt has are never written.
        rows.and_then(|rows| rows.get(number)).map_or(Values::Zero, |row| Values::Rows(row.clone()))
    }
}

/// Adds the activations of some prompts to the sums.
fn add_stretch<B: Backend>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    numbers: &[usize],
    sites: &[Site],
    sums: &mut [(Wanted, Vec<Sum>)],
) -> Result<(), EngineError> {
    let sequences: Vec<Vec<u32>> =
        numbers.iter().map(|&prompt| prompts.sequences[prompts.clean[prompt]].clone()).collect();
    let run = engine.run(&sequences, sites, &[], Output::None)?;
    let everywhere = Places::from(PatchPositions::All);
    for &site in sites {
        let values = engine.backend().download(run.site(site)?)?;
        let width = site.width(engine.config());
        for (Wanted { places, by_class, .. }, sums) in sums.iter_mut().filter(|(wanted, _)| wanted.site == site) {
            for (row, (&prompt, sequence)) in numbers.iter().zip(&sequences).enumerate() {
                for position in places.as_ref().unwrap_or(&everywhere).of(prompt, sequence.len()) {
                    let token = run.token(row, position)?;
                    let number = match (places.is_some(), *by_class) {
                        (false, _) => position,
                        (_, true) => usize::from(prompts.positive[prompt]),
                        _ => 0,
                    };
                    sums.resize(sums.len().max(number + 1), Sum::new(width));
                    sums[number].add(&values[token * width..(token + 1) * width]);
                }
            }
        }
    }
    Ok(())
}
