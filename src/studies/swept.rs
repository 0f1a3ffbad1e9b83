//! Maps whose values are cells of a sweep: recorded as they are found, resumed and sharded like any other sweep.

use super::maps::{
    Asked, AskedMaps, AskedSet, MapStudy, Maps, Named, asked, keeps_prompts, prompt_maps, redraw, write, write_page,
};
use super::undefined::{check_any_defined, note_undefined};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{Baselines, Engine, Metric, Scores};
use crate::experiments::path_patching::PathFlops;
use crate::files::sha256;
use crate::report::{Manifest, ResultMap};
use crate::session::{DeviceWork, Note, Observer, Progress, Session, fingerprint};
use crate::sweep::{
    Cell, CellId, Configuration, Inputs, Known, Ledger, Measured, Parts, Place, Recorder, SweepSettings, deal, finite,
};
use anyhow::{Context, Result};
use std::sync::Arc;

/// A map before it is made.
pub(crate) struct Outline {
    /// Names of its axes, outermost first.
    pub axes: Vec<&'static str>,
    /// Their lengths.
    pub shape: Vec<usize>,
    /// What its values are measured in.
    pub metric: Metric,
    /// Everything else that a value depends on, beside model, dataset and place.
    pub settings: Configuration,
}

impl Outline {
    fn map(&self, fractions: &[f64]) -> ResultMap {
        ResultMap::percent(&self.axes, self.shape.clone(), fractions)
    }
}

/// A value, and those of every prompt, whose mean it is; all as fractions.
pub(crate) struct Found {
    value: f64,
    prompts: Vec<f64>,
}

impl Found {
    /// A metric of a patched run.
    pub fn new(baselines: &Baselines, metric: Metric, scores: &Scores) -> Self {
        Self { value: baselines.evaluate(metric, scores), prompts: baselines.by_prompt(metric, scores) }
    }
}

/// Values of some places.
pub(crate) struct Computed {
    /// None of a metric that is undefined on the dataset.
    pub values: Vec<Option<Found>>,
    /// What the structure of the computation has saved, if that is worth saying.
    pub flops: Option<PathFlops>,
}

/// A study whose maps are made value by value.
pub(crate) trait SweptMaps: MapStudy {
    /// How many values are computed, and then recorded, together: as few as do not make what they share (the clean and the
    /// corrupted run) count.
    const PORTION: usize;

    /// Shards and failures.
    fn sweep(&self) -> &SweepSettings;

    /// What a map is going to look like.
    ///
    /// # Errors
    /// Whatever cannot be made of this model and dataset.
    fn outline(&self, session: &Session, prompts: &PairedPrompts, kind: &Self::Kind) -> Result<Outline>;

    /// The values of some places of some maps, as fractions; a place is a number in row-major order.
    ///
    /// # Errors
    /// Those of the engine.
    fn values<B: Backend>(
        &self,
        session: &Session,
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        places: &[(Self::Kind, usize)],
    ) -> Result<Computed>;
}

/// A map as cells.
struct Swept<K> {
    kind: K,
    outline: Outline,
    stem: String,
    /// What other metrics share with each value: the pass that is patched.
    passes: Vec<CellId>,
    ids: Vec<CellId>,
    /// The shard that computes each value.
    shards: Vec<Option<usize>>,
    /// Is every prompt's value kept?
    by_prompt: bool,
}

impl<K: Clone> Swept<K> {
    fn new<S: SweptMaps<Kind = K>>(
        study: &S,
        session: &Session,
        shared: &Configuration,
        prompts: &PairedPrompts,
        asked: &Asked<K>,
    ) -> Result<Self> {
        let outline = study.outline(session, prompts, &asked.kind)?;
        let mut own = outline.settings.clone();
        own.insert("dataset".into(), fingerprint(prompts)?);
        if let Some(direction) = session.model().readout() {
            let bytes: Vec<u8> = direction.iter().flat_map(|value| value.to_le_bytes()).collect();
            own.insert("along".into(), sha256(&bytes));
        }
        let (mut passes, mut ids) = (Vec::new(), Vec::new());
        let map = outline.map(&[]);
        for index in 0..outline.shape.iter().product() {
            own.insert("place".into(), map.labels(index).join("."));
            passes.push(CellId::of(S::NAME, shared, &own));
            own.insert("metric".into(), outline.metric.to_string());
            ids.push(CellId::of(S::NAME, shared, &own));
            own.remove("metric");
        }
        let (kind, stem, shards) = (asked.kind.clone(), asked.stem.clone(), vec![None; ids.len()]);
        let by_prompt = keeps_prompts(prompts, ids.len());
        Ok(Self { kind, outline, stem, passes, ids, shards, by_prompt })
    }

    /// The cells as the ledger knows them.
    fn cells(&self) -> impl Iterator<Item = Cell> {
        let (file, inputs): (Arc<str>, _) = (format!("{}.npy", self.stem).into(), Arc::new(Inputs::new()));
        let outline = self.outline.map(&[]);
        self.ids.iter().zip(&self.shards).enumerate().map(move |(index, (&id, &shard))| {
            let named = outline.axes.iter().zip(outline.labels(index));
            let at = named.map(|(axis, label)| format!("{axis} {label}").into()).collect();
            let (place, inputs) = (Place { file: file.clone(), at }, inputs.clone());
            Cell { id, place, inputs, texts: Arc::default(), settings: Arc::default(), shard }
        })
    }

    /// The values of a process's own shard: their places and ids.
    fn own(&self, shard: Option<usize>) -> impl Iterator<Item = (usize, CellId)> {
        let cells = self.ids.iter().zip(&self.shards).enumerate();
        cells.filter(move |(_, (_, own))| **own == shard).map(|(index, (&id, _))| (index, id))
    }
}

/// A value that has to be computed.
struct Lacking<K> {
    kind: K,
    index: usize,
    id: CellId,
    by_prompt: bool,
}

/// Makes the maps that are not there; in a shard none, whose ledger is merged first.
pub(crate) fn run<S: SweptMaps>(study: &S, session: &Session, observer: &mut dyn Observer) -> Result<Maps> {
    let AskedMaps { session, sets } = asked(study, session, observer)?;
    let session = &session;
    redraw(session, sets.iter().flat_map(|set| &set.maps))?;
    let nothing = |sets: &[AskedSet<S::Kind>]| sets.iter().map(|_| Vec::new()).collect();
    if sets.iter().all(|set| set.wanted().is_empty()) {
        let made: Vec<Vec<Named>> = nothing(&sets);
        check_any_defined(study, &sets, &made)?;
        sets.iter().try_for_each(|set| write_page(study, session, set, &[]).map(|_| ()))?;
        return Ok(Maps::new(session, sets, made, None));
    }
    let (folder, sweep) = (session.folder(), study.sweep());
    let configuration = session.configuration()?;
    let known = Known::read(&folder, sweep, &configuration)?;
    let swept = divided(study, session, &configuration, &sets)?;
    let own = sweep.shard.map(|shard| shard.index());
    let lacks = |id: &CellId| session.options().overwrite || known.lacks(id, sweep.retry_failed);
    let lacking = |map: &Swept<S::Kind>| -> Vec<Lacking<S::Kind>> {
        let (kind, by_prompt) = (&map.kind, map.by_prompt);
        let lacking = map.own(own).filter(|(_, id)| lacks(id));
        lacking.map(|(index, id)| Lacking { kind: kind.clone(), index, id, by_prompt }).collect()
    };
    let places: Vec<Vec<_>> = swept.iter().map(|maps| maps.iter().flat_map(&lacking).collect()).collect();
    let left = places.iter().map(Vec::len).sum();
    let mut manifest = session.manifest(S::NAME, &study.resolved())?;
    let cells = swept.iter().flatten().flat_map(Swept::cells).collect();
    let mut recorder = Recorder::start(&folder, sweep, &configuration, cells, left)?;
    if left > 0 {
        let sets = sets.iter().map(|set| &set.prompts).zip(places).collect();
        let work = Values { study, session, sets, recorder: &mut recorder, manifest: &mut manifest };
        session.compute(observer, work)?;
    }
    let keys = swept.iter().enumerate().flat_map(|(set, maps)| {
        let of_map = move |(number, map): (usize, &Swept<S::Kind>)| {
            map.own(own).map(move |(index, id)| ((set, number, index), id)).collect::<Vec<_>>()
        };
        maps.iter().enumerate().flat_map(of_map)
    });
    let found = recorder.results(&folder, sweep, keys.collect())?;
    if let Some(shard) = sweep.shard {
        let place = sweep.folder(&folder).join(Ledger::FILE);
        let (model, count, place) = (&session.model().name, found.len(), place.display());
        observer.note(&Note::Remark(format!(
            "{model}: {count} values of share {shard} in {place}; merge joins the shares"
        )));
        let made = nothing(&sets);
        return Ok(Maps::new(session, sets, made, Some(manifest.finish()?)));
    }
    let of_set = |(number, maps): (usize, &Vec<Swept<S::Kind>>)| -> Vec<Named> {
        let named = |(map_number, Swept { outline, stem, ids, .. }): (usize, &Swept<S::Kind>)| {
            let cells: Vec<Option<&Measured>> =
                (0..ids.len()).map(|index| found.get(&(number, map_number, index))).collect();
            let value = |cell: &Option<&Measured>| cell.and_then(|cell| cell.value.as_f64()).unwrap_or(f64::NAN);
            let values: Vec<f64> = cells.iter().map(value).collect();
            // Ledgers of earlier versions know no prompts.
            let parts: Option<Vec<&[f32]>> = cells.iter().map(|cell| Some(cell.as_ref()?.parts.numbers())).collect();
            let prompts = parts.and_then(|parts| prompt_maps(sets[number].prompts.clean.len(), &parts));
            Named { prompts, ..Named::new(stem.clone(), outline.map(&values)) }
        };
        maps.iter().enumerate().map(named).collect()
    };
    let mut all: Vec<Vec<Named>> = swept.iter().enumerate().map(of_set).collect();
    check_any_defined(study, &sets, &all)?;
    for (set, made) in sets.iter().zip(&mut all) {
        note_undefined(study, set, made, observer);
        write(study, session, set, made, &mut manifest)?;
    }
    Ok(Maps::new(session, sets, all, Some(manifest.finish()?)))
}

/// The maps of every dataset that are to be made, as cells that are dealt to shards.
fn divided<S: SweptMaps>(
    study: &S,
    session: &Session,
    configuration: &Configuration,
    sets: &[AskedSet<S::Kind>],
) -> Result<Vec<Vec<Swept<S::Kind>>>> {
    let of_set = |set: &AskedSet<S::Kind>| {
        let wanted = set.maps.iter().filter(|map| map.kept.is_none());
        wanted.map(|map| Swept::new(study, session, configuration, &set.prompts, map)).collect::<Result<Vec<_>>>()
    };
    let mut all = sets.iter().map(of_set).collect::<Result<Vec<_>>>()?;
    if let Some(shard) = study.sweep().shard {
        let units: Vec<CellId> = all.iter().flatten().flat_map(|map| map.passes.clone()).collect();
        let mut shards = deal(&units, shard.count()).into_iter().map(Some);
        all.iter_mut().flatten().for_each(|map| map.shards = shards.by_ref().take(map.ids.len()).collect());
    }
    Ok(all)
}

/// The computation of the values that no ledger knows, on one model.
struct Values<'a, S: SweptMaps> {
    study: &'a S,
    session: &'a Session,
    sets: Vec<(&'a PairedPrompts, Vec<Lacking<S::Kind>>)>,
    recorder: &'a mut Recorder,
    manifest: &'a mut Manifest,
}

impl<S: SweptMaps> DeviceWork for Values<'_, S> {
    type Output = ();

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<()> {
        self.manifest.computed_on(engine);
        self.recorder.begin();
        for (prompts, lacking) in self.sets.iter().filter(|(_, lacking)| !lacking.is_empty()) {
            self.manifest.saw(prompts)?;
            let mut progress = Progress::new(observer, format!("patching {}", prompts.name), lacking.len());
            let mut saved = None;
            for portion in lacking.chunks(S::PORTION) {
                let places: Vec<(S::Kind, usize)> =
                    portion.iter().map(|lacking| (lacking.kind.clone(), lacking.index)).collect();
                let computed = self.study.values(self.session, engine, prompts, &places);
                let Computed { values, flops } = computed.with_context(|| prompts.name.clone())?;
                if let Some(PathFlops { done, naive }) = flops {
                    let all = saved.get_or_insert_with(PathFlops::default);
                    *all = PathFlops { done: all.done + done, naive: all.naive + naive };
                }
                // What is undefined is known to be, and has no value.
                let outcome = |(lacking, found): (&Lacking<S::Kind>, Option<Found>)| {
                    let measured = found.map_or(Ok(Measured::default()), |Found { value, prompts }| {
                        let prompts = prompts.into_iter().filter(|_| lacking.by_prompt);
                        let parts = Parts::new(prompts.map(|value| value as f32));
                        finite(value).map(|value| Measured { value, parts })
                    });
                    (lacking.id, measured)
                };
                self.recorder.record(portion.iter().zip(values).map(outcome).collect())?;
                self.recorder.go_on_unless(progress.cancelled())?;
                progress.counted(portion.len());
            }
            drop(progress);
            if let Some(PathFlops { done, naive }) = saved {
                let ratio = naive.0 as f64 / done.0.max(1) as f64;
                observer.note(&Note::Remark(format!(
                    "{}: {done} done; whole passes for every node would be {naive}, {ratio:.0} times that",
                    prompts.name
                )));
            }
        }
        Ok(())
    }
}
