//! What the studies share that make maps of datasets: datasets, files, what is kept, and the outcome.

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
use crate::files::sha256;
use crate::model::ModelConfig;
use crate::report::figure::Figure;
use crate::report::{Manifest, MapHead, ResultMap, RunRecord, Table, write_array};
use crate::session::{
    DeviceWork, Note, Observer, OfSetting, Provenance, Session, Standing, check_output, distinct, fingerprint,
    note_kept, wrong,
};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
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
    /// Weights of the probes that the map tells of, with their shape: `<stem>_weights.npy`.
    pub(crate) weights: Option<(Vec<usize>, Vec<f32>)>,
    /// Directions that were found with it, to be stored as others are.
    pub(crate) directions: Vec<(Direction, FitRecord)>,
}

impl Named {
    /// A map alone.
    pub(crate) fn new(stem: String, map: ResultMap) -> Self {
        Self { stem, map, agreement: None, figure: None, weights: None, directions: Vec::new() }
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

/// A map that is asked for.
pub(crate) struct Asked<K> {
    pub kind: K,
    pub stem: String,
    pub provenance: Provenance,
    /// The map, if it is there already; with its figure only if that is lost.
    pub kept: Option<Named>,
}

/// A dataset with the maps that are asked for.
pub(crate) struct AskedSet<K> {
    pub prompts: PairedPrompts,
    pub maps: Vec<Asked<K>>,
}

impl<K: Clone> AskedSet<K> {
    /// The maps that have to be made.
    pub fn wanted(&self) -> Vec<K> {
        self.maps.iter().filter(|map| map.kept.is_none()).map(|map| map.kind.clone()).collect()
    }

    /// The map of this kind, if it is there already.
    pub fn kept(&self, kind: &K) -> Option<&Named>
    where
        K: PartialEq,
    {
        self.maps.iter().find(|map| map.kind == *kind).and_then(|map| map.kept.as_ref())
    }

    /// What a map of this name is made of.
    fn provenance_of(&self, stem: &str) -> Option<&Provenance> {
        self.maps.iter().find(|map| map.stem == stem).map(|map| &map.provenance)
    }
}

/// The maps that a study asks for of one model.
pub(crate) struct AskedMaps<K> {
    /// The session that computes: with a readout, if there is one.
    pub session: Session,
    pub sets: Vec<AskedSet<K>>,
}

/// Finds out which maps are asked for, and which of them are there.
pub(crate) fn asked<S: MapStudy>(
    study: &S,
    session: &Session,
    observer: &mut dyn Observer,
) -> Result<AskedMaps<S::Kind>> {
    study.validate()?;
    let session = match study.readout() {
        Some(along) => session.reading_along(session.unit_direction("along", along)?)?,
        None => session.clone(),
    };
    let mut all = Vec::new();
    for prompts in study.sets().prompts(&session)? {
        let mut maps = Vec::new();
        for kind in distinct(&study.kinds(&session, &prompts)?) {
            maps.push(asked_map(study, &session, &prompts, kind, observer)?);
        }
        note_kept(observer, maps.iter().filter(|map| map.kept.is_some()).count(), "maps", session.folder());
        all.push(AskedSet { prompts, maps });
    }
    Ok(AskedMaps { session, sets: all })
}

fn asked_map<S: MapStudy>(
    study: &S,
    session: &Session,
    prompts: &PairedPrompts,
    kind: S::Kind,
    observer: &mut dyn Observer,
) -> Result<Asked<S::Kind>> {
    let stem = study.stem(session, &kind, &prompts.name);
    let provenance = provenance_of(study, session, prompts, &kind)?;
    let draw = |map: &ResultMap| study.figure(session, prompts, &kind, map);
    let lacks = |named: &Named, figure_lost| study.lacks(&kind, named, figure_lost);
    let kept = kept(session, &stem, &provenance, draw, lacks, observer)?;
    if kept.is_none() {
        study.spares(session, prompts, &kind, &provenance)?;
    }
    Ok(Asked { kind, stem, provenance, kept })
}

/// What a map is made of.
pub(crate) fn provenance_of<S: MapStudy>(
    study: &S,
    session: &Session,
    prompts: &PairedPrompts,
    kind: &S::Kind,
) -> Result<Provenance> {
    let mut provenance = session.provenance(S::NAME)?.with("dataset", fingerprint(prompts)?)?;
    provenance = provenance.with("placeholders", &prompts.positions)?;
    if let Some(direction) = session.model().readout() {
        provenance = provenance.with("along", sha256(bytemuck::cast_slice(direction)))?;
    }
    study.depends(session, prompts, kind, provenance)
}

/// The map of a name if it is there, made of `provenance` and whole; with its figure only if that is lost. `lacks` is
/// [`MapStudy::lacks`].
pub(crate) fn kept(
    session: &Session,
    stem: &str,
    provenance: &Provenance,
    draw: impl FnOnce(&ResultMap) -> Result<Option<Figure>>,
    lacks: impl FnOnce(&Named, bool) -> Option<&'static str>,
    observer: &mut dyn Observer,
) -> Result<Option<Named>> {
    check_output(stem)?;
    let folder = session.results()?;
    if session.options().overwrite {
        return Ok(None);
    }
    let mut made_again = |difference: String| {
        observer.note(&Note::Renewed { what: stem.to_owned(), difference });
        Ok(None)
    };
    let own = ResultMap::paths(&folder, stem);
    let recorded = session.recorded_files(stem).filter(|files| own.iter().all(|path| files.contains(path)));
    let files = recorded.unwrap_or_else(|| own.into());
    let notation = match session.standing(stem, &files, provenance)? {
        Standing::Absent => return Ok(None),
        Standing::Other(difference) => return made_again(difference),
        Standing::Kept(notation) => notation,
    };
    let Notation { head, agreement, figure } = match serde_json::from_value(notation) {
        Ok(notation) => notation,
        Err(error) => return made_again(format!("what is noted of it cannot be read ({error})")),
    };
    let named = Named { agreement, ..Named::new(stem.to_owned(), ResultMap::read(&folder, stem, head)?) };
    let lost = figure && !Figure::paths(&folder, stem).iter().all(|path| path.is_file());
    if let Some(lacking) = lacks(&named, lost) {
        return made_again(lacking.to_owned());
    }
    let figure = if lost { draw(&named.map)? } else { None };
    Ok(Some(Named { figure, ..named }))
}

/// Draws the figures again that are lost beside maps that are there.
pub(crate) fn redraw<'a, K: 'a>(session: &Session, maps: impl IntoIterator<Item = &'a Asked<K>>) -> Result<()> {
    for Named { stem, figure, .. } in maps.into_iter().filter_map(|asked| asked.kept.as_ref()) {
        if let Some(figure) = figure {
            figure.write_beside_data(&session.folder(), stem)?;
        }
    }
    Ok(())
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
            named.figure = study.figure(session, &set.prompts, &asked.kind, &named.map)?;
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
    let Named { stem, map, figure, weights, directions, agreement } = named;
    // Results must never outlive the direction they were measured with.
    let found = directions.iter().map(|(direction, _)| format!("{}.npy", direction.name)).collect();
    forget(folder, &found, session.options().csv_guard)?;
    let mut files: Vec<PathBuf> = ResultMap::paths(folder, stem).into();
    for (direction, record) in directions {
        files.push(direction.write(folder, record)?);
    }
    map.write(folder, stem, session.options().csv_guard)?;
    if let Some((shape, values)) = weights {
        let path = folder.join(format!("{stem}_weights.npy"));
        write_array(&path, shape, values)?;
        files.push(path);
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

/// The maps of a study on one model.
#[derive(Debug, Clone)]
pub struct Maps {
    /// The model's name.
    pub model: String,
    /// Every map that was asked for, those that were there already among them.
    pub maps: Vec<Named>,
    /// The manifest; none when nothing had to be made.
    pub manifest: Option<RunRecord>,
}

impl Maps {
    /// The maps in the order in which they were asked for, and behind them what came of making them.
    pub(crate) fn new<K>(
        session: &Session,
        sets: Vec<AskedSet<K>>,
        made: Vec<Vec<Named>>,
        manifest: Option<RunRecord>,
    ) -> Self {
        let mut maps = Vec::new();
        for (set, made) in sets.into_iter().zip(made) {
            let mut made: BTreeMap<usize, Named> = made.into_iter().enumerate().collect();
            for asked in set.maps {
                let number = made.iter().find(|(_, named)| named.stem == asked.stem).map(|(number, _)| *number);
                maps.extend(number.and_then(|number| made.remove(&number)).or(asked.kept));
            }
            maps.extend(made.into_values());
        }
        Self { model: session.model().name.clone(), maps, manifest }
    }
}

/// How many values of a map its text shows.
const SHOWN: usize = 8;

impl fmt::Display for Maps {
    /// The largest values of every map; components all, in their order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.model)?;
        self.maps.iter().try_for_each(|named| writeln!(f, "{}", shown(named)))
    }
}

fn shown(Named { stem, map, agreement, .. }: &Named) -> String {
    if !map.has_values() {
        return format!("{stem}: undefined, {} empty values\n", map.values.len());
    }
    let (shown, what) = match map.axes == ["component"] {
        true => ((0..map.values.len()).collect::<Vec<_>>(), ""),
        false => (map.by_size().into_iter().take(SHOWN).collect(), "largest of "),
    };
    let decimals = if map.unit == "percent" { 2 } else { 4 };
    let mut table = Table::new(map.axes.iter().chain([&map.unit]).cloned());
    for index in shown {
        table.push(map.labels(index).into_iter().chain([format!("{:.decimals$}", map.values[index])]));
    }
    let mut text = format!("{stem}: {what}{} values\n{table}", map.values.len());
    if let Some(Agreement { correlation, largest_difference }) = agreement {
        let correlation = correlation.map_or("none".into(), |value| format!("{value:.4}"));
        text += &format!(
            "beside exact patching: correlation {correlation}, largest difference {largest_difference:.2} {}\n",
            map.unit
        );
    }
    text
}

impl Serialize for Maps {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let map = |Named { stem, map, agreement, .. }: &Named| {
            let mut value = json!({ "file": stem, "axes": map.axes, "shape": map.shape });
            value[&map.unit] = json!(map.values);
            if !map.components.is_empty() {
                value["components"] = json!(map.components);
            }
            if let Some(agreement) = agreement {
                value["beside_exact"] = json!(agreement);
            }
            value
        };
        let maps: Vec<Value> = self.maps.iter().map(map).collect();
        json!({ "model": self.model, "maps": maps, "manifest": self.manifest }).serialize(serializer)
    }
}
