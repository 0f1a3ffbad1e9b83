//! What the studies share that make maps of datasets: datasets, files, what is kept, and the outcome.

mod asked;
mod outcome;
mod prompts;

pub(crate) use asked::{Asked, AskedMaps, AskedSet, asked, kept, provenance_of, redraw};
pub use outcome::Maps;
pub(crate) use prompts::{keeps_prompts, prompt_maps};

use self::prompts::{figure_of, prompts_path, write_prompts};
use super::fields::list;
use super::suite_tables::forget;
use super::undefined::{check_any_defined, note_undefined};
use super::{Notes, Plan, Study};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::datasets::treebank::Scaffold;
use crate::directions::{Direction, FitRecord, spelled};
use crate::engine::{Baselines, Engine, Flops, Layout, Metric, Pairs};
use crate::experiments::activation_maps::{ActivationMap, MapKind, map_cells};
use crate::experiments::attribution_patching::Agreement;
use crate::model::ModelConfig;
use crate::report::figure::Figure;
use crate::report::{Manifest, MapHead, ResultMap, Table, write_array};
use crate::session::{DeviceWork, Observer, OfSetting, Provenance, Session, distinct, wrong};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::path::PathBuf;

/// Which datasets maps are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MapSets {
    /// Datasets to patch.
    #[serde(deserialize_with = "list")]
    pub eval_sets: Vec<String>,
    /// Text around the Treebank's sentences; all other datasets are plain.
    pub scaffold: Scaffold,
}

impl Default for MapSets {
    fn default() -> Self {
        Self { eval_sets: vec!["simple".into()], scaffold: Scaffold::Plain }
    }
}

impl MapSets {
    /// How many datasets, for a check.
    pub(crate) fn counted(&self) -> (&'static str, usize) {
        ("eval_sets", self.eval_sets.len())
    }

    /// The datasets, each once.
    ///
    /// # Errors
    /// Those of [`Session::every_prompts`], as faults of the names unless a file of datasets is wrong.
    pub(crate) fn prompts(&self, session: &Session) -> Result<Vec<PairedPrompts>> {
        session.catalogue()?;
        session.every_prompts(&self.eval_sets, self.scaffold).of_setting("eval_sets")
    }

    /// File name, without its ending, of a map `name` on a dataset; `measure` says what its values are.
    pub(crate) fn stem(
        &self,
        session: &Session,
        experiment: &str,
        name: &str,
        measure: impl Display,
        set: &str,
    ) -> String {
        format!("{experiment}_{measure}_{set}_{}_{name}{}", self.scaffold, session.options().compat_ending())
    }
}

/// What patched runs are measured by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Readout {
    /// A stored direction to measure along instead of the answers: a prompt's logit difference is then the product of
    /// the direction and the last residual behind the final norm, with its sign changed in negative prompts.
    pub along: Option<String>,
}

impl Readout {
    /// Metrics that a direction has, too.
    pub(crate) fn check(&self, metrics: &[Metric]) -> Result<()> {
        match metrics.iter().find(|metric| self.along.is_some() && metric.needs_probabilities()) {
            Some(metric) => wrong!("along", "{metric} is about the answers' probabilities: a direction has none"),
            None => Ok(()),
        }
    }

    /// The name of an experiment in files.
    pub(crate) fn experiment(&self, name: &str) -> String {
        self.along.as_ref().map_or(name.to_owned(), |along| format!("{name}_along_{}", spelled(along)))
    }

    /// What a metric measures, with its unit.
    pub(crate) fn measure(&self, metric: Metric) -> String {
        let along = self.along.as_ref().map_or(String::new(), |along| format!(" along {}", spelled(along)));
        format!("{metric}{along} (%)")
    }
}

/// Makes a [`MadeMaps`] a study of this name; checks of its fields may follow.
macro_rules! maps_study {
    ($study:ty, $name:literal $(, { $($checks:tt)+ })?) => {
        impl $crate::studies::Study for $study {
            const NAME: &'static str = $name;
            type Outcome = $crate::studies::maps::Maps;

            $($($checks)+)?

            fn plan(&self, session: &$crate::session::Session) -> anyhow::Result<$crate::studies::Plan> {
                $crate::studies::maps::plan(self, session)
            }

            fn run(
                &self,
                session: &$crate::session::Session,
                observer: &mut dyn $crate::session::Observer,
            ) -> anyhow::Result<Self::Outcome> {
                $crate::studies::maps::run(self, session, observer)
            }
        }
    };
}
pub(crate) use maps_study;

/// A study whose results are maps of datasets.
pub(crate) trait MapStudy: Study + Clone {
    /// What a map is told from the others by.
    type Kind: Clone + PartialEq + Send + Sync;

    /// Which datasets.
    fn sets(&self) -> &MapSets;

    /// The settings with those filled in that follow from others, as manifests record them.
    fn resolved(&self) -> Self {
        self.clone()
    }

    /// The stored direction that patched runs are measured along, if it is not the answers.
    fn readout(&self) -> Option<&String> {
        None
    }

    /// Every map that is asked for.
    ///
    /// # Errors
    /// Whatever cannot be made of this model and dataset.
    fn kinds(&self, session: &Session, prompts: &PairedPrompts) -> Result<Vec<Self::Kind>>;

    /// Name of a map's files without their ending.
    fn stem(&self, session: &Session, kind: &Self::Kind, set: &str) -> String;

    /// Adds what a map's values depend on besides the model, the prompts and what its name says.
    ///
    /// # Errors
    /// A direction that cannot be read.
    fn depends(&self, _: &Session, _: &PairedPrompts, _: &Self::Kind, provenance: Provenance) -> Result<Provenance> {
        Ok(provenance)
    }

    /// Checks that the making of a map replaces no direction unasked.
    ///
    /// # Errors
    /// A direction of a name that is to be written, and that was made of something else.
    fn spares(&self, _: &Session, _: &PairedPrompts, _: &Self::Kind, _: &Provenance) -> Result<()> {
        Ok(())
    }

    /// What a plan says of a dataset, and the arithmetic.
    ///
    /// # Errors
    /// Whatever cannot be made of this model and dataset.
    fn planned(&self, session: &Session, prompts: &PairedPrompts, kinds: &[Self::Kind]) -> Result<(String, Flops)>;

    /// The figure of a map, from its values alone; none where [`MadeMaps::make`] draws it.
    ///
    /// # Errors
    /// A token that cannot be spelled.
    fn figure(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        kind: &Self::Kind,
        map: &ResultMap,
    ) -> Result<Option<Figure>>;

    /// Are prompts compared with their corrupted ones?
    fn has_corrupted(&self) -> bool {
        true
    }

    /// Writes a page about the maps of a dataset together, where there is something to see in it.
    ///
    /// # Errors
    /// A token that cannot be spelled; those of the file system.
    fn write_page(&self, _: &Session, _: &PairedPrompts, _: &[(&Self::Kind, &ResultMap)]) -> Result<Option<PathBuf>> {
        Ok(None)
    }

    /// Why a map of this kind may have no values, as a part of a sentence.
    fn undefined(&self, _: &Self::Kind) -> String {
        "there is nothing that has a value".into()
    }

    /// Why a map that is there has to be made again, if so: something that is asked for is not there, or its figure is
    /// lost and not to be drawn from the values alone.
    fn lacks(&self, _kind: &Self::Kind, _kept: &Named, _figure_lost: bool) -> Option<&'static str> {
        None
    }
}

/// A study whose maps of a dataset are made together.
pub(crate) trait MadeMaps: MapStudy {
    /// Makes the maps of a dataset that are wanted.
    ///
    /// # Errors
    /// Those of the engine.
    fn make<B: Backend>(
        &self,
        session: &Session,
        engine: &Engine<B>,
        set: &AskedSet<Self::Kind>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Named>>;
}

/// A map and the name of its files.
#[derive(Debug, Clone)]
pub struct Named {
    /// File name without its ending.
    pub stem: String,
    /// The values.
    pub map: ResultMap,
    /// How they compare with exact patching, where they are an estimate of it.
    pub agreement: Option<Agreement>,
    /// Their picture.
    pub(crate) figure: Option<Figure>,
    /// The map of every prompt, one behind the other, whose mean the values are: `<stem>_prompts.npy`.
    pub(crate) prompts: Option<Vec<f32>>,
    /// Weights of the probes that the map tells of, with their shape: `<stem>_weights.npy`.
    pub(crate) weights: Option<(Vec<usize>, Vec<f32>)>,
    /// Directions that were found with it, to be stored as others are.
    pub(crate) directions: Vec<(Direction, FitRecord)>,
}

impl Named {
    /// A map alone.
    pub(crate) fn new(stem: String, map: ResultMap) -> Self {
        Self { stem, map, agreement: None, figure: None, prompts: None, weights: None, directions: Vec::new() }
    }
}

/// What is noted beside a map, to read it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Notation {
    #[serde(flatten)]
    head: MapHead,
    agreement: Option<Agreement>,
    /// Was there a figure?
    figure: bool,
}

/// Labels of a dataset's positions: their numbers, and the placeholders that end there.
pub(crate) fn position_labels(prompts: &PairedPrompts) -> Vec<String> {
    let length = prompts.sequences.iter().map(Vec::len).max().unwrap_or(0);
    let label = |position: usize| {
        let named = prompts.positions.iter().filter(|(_, place)| **place == position);
        let names = named.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ");
        format!("{position} {names}").trim_end().to_owned()
    };
    (0..length).map(label).collect()
}

/// The values of activation-patching maps, and their arithmetic when every one is patched, under the head `exactly`.
pub(crate) fn exact_plan<'p>(
    session: &Session,
    pairs: impl Into<Pairs<'p>>,
    kinds: &[(MapKind, Metric)],
    exactly: &'static str,
) -> Result<(Table, Flops)> {
    let pairs = pairs.into();
    let prompts = &pairs.prompts;
    let mut total = Flops::default();
    let mut table = Table::new(["prompt", "map", "metric", "values", exactly]);
    for &(kind, metric) in kinds {
        let (cells, _) = map_cells(session.config(), prompts, &[kind], &[metric])?;
        let flops = crate::engine::Plan::new(session.config(), &pairs, &cells, session.batch_tokens())?.flops();
        let count = cells.len().to_string();
        table.push([prompts.name.clone(), kind.to_string(), metric.to_string(), count, flops.to_string()]);
        total = total + flops;
    }
    Ok((table, total))
}

/// The wanted maps of activations in the order of the list, under their names; `compute` makes all of these kinds under
/// all of these metrics.
pub(crate) fn in_order(
    wanted: &[(MapKind, Metric)],
    stem: impl Fn(&(MapKind, Metric)) -> String,
    compute: impl FnOnce(&[MapKind], &[Metric]) -> Result<(Baselines, Vec<ActivationMap>)>,
) -> Result<Vec<Named>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let (kinds, metrics): (Vec<_>, Vec<_>) = wanted.iter().copied().unzip();
    let (kinds, metrics) = (distinct(&kinds), distinct(&metrics));
    let (baselines, maps) = compute(&kinds, &metrics)?;
    let named = |kind: &(MapKind, Metric)| {
        let ActivationMap { shape, values, .. } = maps.iter().find(|map| (map.kind, map.metric) == *kind)?;
        let map = match baselines.defined(kind.1) {
            true => ResultMap::percent(&kind.0.axes(), shape.clone(), values),
            false => ResultMap::percent(&kind.0.axes(), shape.clone(), &vec![f64::NAN; values.len()]),
        };
        Some(Named::new(stem(kind), map))
    };
    Ok(wanted.iter().filter_map(named).collect())
}

/// The arithmetic of one pass over some prompts.
pub(crate) fn pass<'a>(config: &ModelConfig, sequences: impl IntoIterator<Item = &'a Vec<u32>>) -> Flops {
    let layout = Layout::whole(sequences);
    Flops::forward(config, &layout, 0, 1)
}

/// Writes the page about the maps of a dataset that have values, those that were there and those that were `made`.
pub(crate) fn write_page<S: MapStudy>(
    study: &S,
    session: &Session,
    set: &AskedSet<S::Kind>,
    made: &[Named],
) -> Result<Option<PathBuf>> {
    let mut maps = Vec::new();
    for asked in &set.maps {
        let named = made.iter().find(|named| named.stem == asked.stem).or(asked.kept.as_ref());
        maps.extend(named.filter(|named| named.map.has_values()).map(|named| (&asked.kind, &named.map)));
    }
    if maps.is_empty() { Ok(None) } else { study.write_page(session, &set.prompts, &maps) }
}

/// What maps are asked for will cost.
pub(crate) fn plan<S: MapStudy>(study: &S, session: &Session) -> Result<Plan> {
    let mut notes = Notes::default();
    let AskedMaps { session, sets } = asked(study, session, &mut notes)?;
    let (mut texts, mut total, mut kept) = (Vec::new(), Flops::default(), 0);
    for set in &sets {
        let wanted = set.wanted();
        if !wanted.is_empty() {
            let (text, flops) = study.planned(&session, &set.prompts, &wanted)?;
            texts.push(text);
            total = total + flops;
            kept = kept.max(session.planned_values(&Layout::whole(&set.prompts.sequences)));
        }
    }
    Ok(match texts.is_empty() {
        true => Plan::nothing(&session).with(notes),
        false => Plan::of_passes(&session, &texts.join("\n"), total, kept).with(notes),
    })
}

/// The making of maps on one model.
struct Making<'a, S: MadeMaps> {
    study: &'a S,
    session: &'a Session,
    sets: &'a [AskedSet<S::Kind>],
    manifest: &'a mut Manifest,
}

impl<S: MadeMaps> DeviceWork for Making<'_, S> {
    type Output = Vec<Vec<Named>>;

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<Vec<Vec<Named>>> {
        let Self { study, session, sets, manifest } = self;
        manifest.computed_on(engine);
        let mut all: Vec<Vec<Named>> = Vec::new();
        for set in sets {
            let mut made = Vec::new();
            if !set.wanted().is_empty() {
                manifest.saw(&set.prompts)?;
                made = study.make(session, engine, set, observer).with_context(|| set.prompts.name.clone())?;
            }
            // Where nothing has values this may be an error in the end.
            if made.iter().any(|named| named.map.has_values()) {
                note_undefined(study, set, &made, observer);
                write(study, session, set, &mut made, manifest)?;
            }
            all.push(made);
        }
        check_any_defined(study, sets, &all)?;
        for (set, made) in sets.iter().zip(&mut all) {
            if !made.iter().any(|named| named.map.has_values()) {
                note_undefined(study, set, made, observer);
                write(study, session, set, made, manifest)?;
            }
        }
        Ok(all)
    }
}

/// Makes the maps that are not there.
pub(crate) fn run<S: MadeMaps>(study: &S, session: &Session, observer: &mut dyn Observer) -> Result<Maps> {
    let AskedMaps { session, sets } = asked(study, session, observer)?;
    let session = &session;
    redraw(session, sets.iter().flat_map(|set| &set.maps))?;
    if sets.iter().all(|set| set.wanted().is_empty()) {
        let nothing: Vec<Vec<Named>> = sets.iter().map(|_| Vec::new()).collect();
        check_any_defined(study, &sets, &nothing)?;
        sets.iter().try_for_each(|set| write_page(study, session, set, &[]).map(|_| ()))?;
        return Ok(Maps::new(session, sets, nothing, None));
    }
    let mut manifest = session.manifest(S::NAME, &study.resolved())?;
    let work = Making { study, session, sets: &sets, manifest: &mut manifest };
    let made = session.compute(observer, work)?;
    Ok(Maps::new(session, sets, made, Some(manifest.finish()?)))
}

/// Writes maps, their figures and their directions, and notes them in the manifest.
pub(crate) fn write<S: MapStudy>(
    study: &S,
    session: &Session,
    set: &AskedSet<S::Kind>,
    maps: &mut [Named],
    manifest: &mut Manifest,
) -> Result<()> {
    for named in maps.iter_mut().filter(|named| named.figure.is_none()) {
        if let Some(asked) = set.maps.iter().find(|map| map.stem == named.stem) {
            named.figure = figure_of(study, session, &set.prompts, &asked.kind, named)?;
        }
    }
    for named in maps.iter() {
        let provenance = set.provenance_of(&named.stem);
        let provenance = provenance.with_context(|| format!("{}: made of nothing that is known", named.stem))?;
        write_map(session, named, provenance, manifest)?;
    }
    if let Some(page) = write_page(study, session, set, maps)? {
        manifest.wrote(&page, []);
    }
    Ok(())
}

/// Writes one map with everything that belongs to it, and records what it was made of.
pub(crate) fn write_map(
    session: &Session,
    named: &Named,
    provenance: &Provenance,
    manifest: &mut Manifest,
) -> Result<()> {
    let folder = &session.folder();
    let Named { stem, map, figure, prompts, weights, directions, agreement } = named;
    // Results must never outlive the direction they were measured with.
    let found = directions.iter().map(|(direction, _)| format!("{}.npy", direction.name)).collect();
    forget(folder, &found, session.options().csv_guard)?;
    let mut files: Vec<PathBuf> = ResultMap::paths(folder, stem).into();
    for (direction, record) in directions {
        files.push(direction.write(folder, record)?);
    }
    map.write(folder, stem, session.options().csv_guard)?;
    if let Some(prompts) = prompts {
        files.push(write_prompts(folder, stem, map, prompts)?);
    }
    if let Some((shape, values)) = weights {
        let path = folder.join(format!("{stem}_weights.npy"));
        write_array(&path, shape, values)?;
        files.push(path);
    }
    // Prompts of values that were there before are not those of these.
    let stale = prompts_path(folder, stem);
    if prompts.is_none() && session.recorded_files(stem).is_some_and(|files| files.contains(&stale)) && stale.is_file()
    {
        std::fs::remove_file(&stale).with_context(|| stale.display().to_string())?;
    }
    let notation = Notation { head: map.head(), agreement: *agreement, figure: figure.is_some() };
    session.record(stem, provenance, &files, serde_json::to_value(notation)?)?;
    files.iter().for_each(|path| manifest.wrote(path, []));
    // Last: a figure that is lost is drawn again, and values are not computed again for its sake.
    if let Some(figure) = figure {
        figure.write_beside_data(folder, stem)?.iter().for_each(|path| manifest.wrote(path, []));
    }
    Ok(())
}
