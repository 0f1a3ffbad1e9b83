//! Activation-patching maps: every head, or every place of the residual stream, patched on its own.
//!
//! The maps of TransformerLens' `get_act_patch_*` functions, in their shapes: one value per layer and head, layer and
//! position, or layer, position and head. All maps of a call share one plan.

use super::chunks::{Progress, patch_dataset};
use super::component::Component;
use crate::backend::Backend;
use crate::choice::{Malformed, serde_by_text};
use crate::engine::{
    Baselines, Cell, Edit, Engine, EngineError, Metric, Mode, Pairs, Part, PatchPositions, Scores, Site,
};
use crate::model::ModelConfig;
use crate::types::PairedPrompts;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// A kind of map: `z` is one value per layer and head, `z_by_position` per layer, position and head, `post` per layer and
/// neuron, `resid_pre` per layer and position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MapKind {
    component: Component,
    /// One position at a time.
    by_position: bool,
}

const BY_POSITION: &str = "_by_position";

impl fmt::Display for MapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = if self.by_position && self.component.part_name().is_some() { BY_POSITION } else { "" };
        write!(f, "{}{suffix}", self.component)
    }
}

impl FromStr for MapKind {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (name, by_position) = match text.strip_suffix(BY_POSITION) {
            Some(name) => (name, true),
            None => (text, false),
        };
        let unknown = || {
            Malformed::from(format!(
                "unknown map {text:?}, expected z, q, k, v, pattern, pre or post (each also as z{BY_POSITION}, …), \
                 resid_pre, resid_mid, resid_post, attn_out or mlp_out"
            ))
        };
        let component: Component = name.parse().map_err(|_| unknown())?;
        match component.part_name() {
            None if by_position => Err(unknown()),
            parts => Ok(Self { component, by_position: by_position || parts.is_none() }),
        }
    }
}

serde_by_text!(MapKind);

impl MapKind {
    /// What is patched.
    pub fn component(self) -> Component {
        self.component
    }

    /// One position at a time?
    pub fn by_position(self) -> bool {
        self.by_position
    }

    /// The names of the map's axes, outermost first: `layer`, `position`, `head` or `neuron`.
    pub fn axes(self) -> Vec<&'static str> {
        let position = self.by_position.then_some("position");
        [Some("layer"), position, self.component.part_name()].into_iter().flatten().collect()
    }

    /// Length of every axis on prompts of `length` tokens.
    pub fn shape(self, config: &ModelConfig, length: usize) -> Vec<usize> {
        let len = |axis: &&str| match *axis {
            "layer" => config.n_layers,
            "position" => length,
            _ => self.component.n_parts(config),
        };
        self.axes().iter().map(len).collect()
    }

    /// What each value patches, in the order of the shape.
    pub(super) fn places(self, config: &ModelConfig, length: usize) -> Vec<(Site, Part, PatchPositions)> {
        let parts = self.component.parts(config);
        let positions: Vec<PatchPositions> = match self.by_position {
            true => (0..length).map(PatchPositions::One).collect(),
            false => vec![PatchPositions::All],
        };
        let mut places = Vec::with_capacity(config.n_layers * positions.len() * parts.len());
        for layer in 0..config.n_layers {
            for &position in &positions {
                places.extend(parts.iter().map(|&part| (self.component.site(layer), part, position)));
            }
        }
        places
    }
}

/// The cell that patches one place.
fn cell((site, part, position): (Site, Part, PatchPositions), mode: Mode) -> Cell {
    Cell { mode, edits: vec![Edit::replace(site, part, position)] }
}

/// A finished map.
#[derive(Debug, Clone, PartialEq)]
pub struct ActivationMap {
    /// What was patched.
    pub kind: MapKind,
    /// What was measured.
    pub metric: Metric,
    /// Length of every axis.
    pub shape: Vec<usize>,
    /// The metric as a fraction, row-major.
    pub values: Vec<f64>,
}

/// The number of tokens that all prompts have.
///
/// # Errors
/// [`EngineError::Mismatch`] when they differ: there is no axis of positions then.
pub fn common_length(prompts: &PairedPrompts) -> Result<usize, EngineError> {
    let mut lengths = prompts.sequences.iter().map(Vec::len);
    let first = lengths.next().unwrap_or(0);
    match lengths.find(|length| *length != first) {
        None => Ok(first),
        Some(other) => Err(EngineError::Mismatch {
            what: format!("{}: tokens of a prompt, in a map by position", prompts.name),
            expected: format!("{first}, as in the first prompt"),
            found: other.to_string(),
        }),
    }
}

/// Every map of `kinds` under every metric, on the whole dataset. `told` hears the share of the work that is done.
///
/// # Errors
/// Those of [`map_values`].
pub fn activation_maps<'p, B: Backend, E: From<EngineError> + Send>(
    engine: &Engine<B>,
    pairs: impl Into<Pairs<'p>>,
    kinds: &[MapKind],
    metrics: &[Metric],
    budget: usize,
    told: impl FnMut(f64) -> Result<(), E> + Send,
) -> Result<(Baselines, Vec<ActivationMap>), E> {
    let pairs = pairs.into();
    let length = map_length(&pairs.prompts, kinds)?;
    let (mut maps, mut places) = (Vec::new(), Vec::new());
    for &kind in kinds {
        for &metric in metrics {
            let shape = kind.shape(engine.config(), length);
            let count: usize = shape.iter().product();
            places.extend((0..count).map(|index| MapPlace { kind, metric, index }));
            maps.push(ActivationMap { kind, metric, shape, values: Vec::new() });
        }
    }
    let (baselines, values) = map_values(engine, &pairs, &places, budget, told)?;
    let mut values = values.into_iter();
    for map in &mut maps {
        map.values = values.by_ref().take(map.shape.iter().product()).collect();
    }
    Ok((baselines, maps))
}

/// One value of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapPlace {
    /// Which map.
    pub kind: MapKind,
    /// What is measured.
    pub metric: Metric,
    /// The value's number in row-major order.
    pub index: usize,
}

/// Some values of some maps, as fractions, in the order of `places`; metrics of one patching direction share their
/// passes. `told` hears the share of the work that is done.
///
/// # Errors
/// Those of the engine and of `told`, prompts of unequal length for a map by position, a site that the model lacks, a place
/// outside its map.
pub fn map_values<'p, B: Backend, E: From<EngineError> + Send>(
    engine: &Engine<B>,
    pairs: impl Into<Pairs<'p>>,
    places: &[MapPlace],
    budget: usize,
    told: impl FnMut(f64) -> Result<(), E> + Send,
) -> Result<(Baselines, Vec<f64>), E> {
    let mut values = vec![f64::NAN; places.len()];
    let found = |number: usize, baselines: &Baselines, scores: &Scores| {
        values[number] = baselines.evaluate(places[number].metric, scores);
    };
    let baselines = map_scores(engine, pairs, places, budget, found, told)?;
    Ok((baselines, values))
}

/// The scores that some values of some maps are made of: `found` hears the number of each of `places` with the baselines
/// and the scores of the whole dataset, in the order in which they are finished.
///
/// # Errors
/// Those of [`map_values`].
pub fn map_scores<'p, B: Backend, E: From<EngineError> + Send>(
    engine: &Engine<B>,
    pairs: impl Into<Pairs<'p>>,
    places: &[MapPlace],
    budget: usize,
    mut found: impl FnMut(usize, &Baselines, &Scores) + Send,
    mut told: impl FnMut(f64) -> Result<(), E> + Send,
) -> Result<Baselines, E> {
    let pairs = pairs.into();
    let kinds: BTreeSet<MapKind> = places.iter().map(|place| place.kind).collect();
    let kinds: Vec<MapKind> = kinds.into_iter().collect();
    let length = map_length(&pairs.prompts, &kinds)?;
    let mut metrics: Vec<Metric> = Vec::new();
    // The places that a cell gives values to.
    let (mut cells, mut served) = (Vec::new(), Vec::<Vec<usize>>::new());
    for (kind, mode) in kinds.iter().flat_map(|&kind| [Mode::Denoising, Mode::Noising].map(|mode| (kind, mode))) {
        let mut by_index: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (number, place) in places.iter().enumerate() {
            if place.kind == kind && place.metric.mode() == mode {
                by_index.entry(place.index).or_default().push(number);
                if !metrics.contains(&place.metric) {
                    metrics.push(place.metric);
                }
            }
        }
        if by_index.is_empty() {
            continue;
        }
        let all = kind.places(engine.config(), length);
        for (index, numbers) in by_index {
            let place = all.get(index).ok_or_else(|| EngineError::Mismatch {
                what: format!("place in a map of {kind}"),
                expected: format!("less than {}", all.len()),
                found: index.to_string(),
            });
            cells.push(cell(*place?, mode));
            served.push(numbers);
        }
    }
    patch_dataset(engine, &pairs, &cells, &metrics, budget, |progress: Progress<'_>| {
        for (cell, scores) in &progress.finished {
            served[*cell].iter().for_each(|&number| found(number, progress.baselines, scores));
        }
        told(progress.share)
    })
}

/// The length of the axis of positions, if one of the kinds has it.
fn map_length(prompts: &PairedPrompts, kinds: &[MapKind]) -> Result<usize, EngineError> {
    if kinds.iter().any(|kind| kind.by_position) { common_length(prompts) } else { Ok(0) }
}

/// The cells of maps, and which of them each kind has in each patching direction.
type MapCells = (Vec<Cell>, Vec<(MapKind, Mode, std::ops::Range<usize>)>);

/// The cells of every map, in both patching directions if the metrics ask for both.
///
/// # Errors
/// Prompts of unequal length for a map by position.
pub fn map_cells(
    config: &ModelConfig,
    prompts: &PairedPrompts,
    kinds: &[MapKind],
    metrics: &[Metric],
) -> Result<MapCells, EngineError> {
    let length = map_length(prompts, kinds)?;
    let wanted = |mode: &Mode| metrics.iter().any(|metric| metric.mode() == *mode);
    let (mut cells, mut ranges) = (Vec::new(), Vec::new());
    for mode in [Mode::Denoising, Mode::Noising].into_iter().filter(wanted) {
        for &kind in kinds {
            let first = cells.len();
            cells.extend(kind.places(config, length).into_iter().map(|place| cell(place, mode)));
            ranges.push((kind, mode, first..cells.len()));
        }
    }
    Ok((cells, ranges))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_recorded_by_their_names() {
        for name in ["z", "z_by_position", "post", "resid_pre"] {
            let kind: MapKind = serde_json::from_value(name.into()).unwrap();
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
        }
        assert!(serde_json::from_value::<MapKind>("attn_out_by_position".into()).is_err());
    }
}
