//! Maps whose values are cells of a sweep: recorded as they are found, resumed and sharded like any other sweep.

use super::common::{bar, check_writable};
use super::device::DeviceWork;
use super::maps::{MapCommand, Named, Work, for_every_model, write};
use super::sweeping::{Known, Recorder, SweepArgs, configuration, fingerprint, finite};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Metric};
use crate::experiments::path_patching::PathFlops;
use crate::files::sha256;
use crate::model::Model;
use crate::report::{Manifest, ResultMap, RunRecord};
use crate::sweep::{Cell, CellId, Configuration, Inputs, Ledger, Place, deal};
use anyhow::{Context, Result};
use indicatif::ProgressBar;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// A map before it is made.
pub struct Outline {
    /// Names of its axes, outermost first.
    pub axes: Vec<&'static str>,
    /// Their lengths.
    pub shape: Vec<usize>,
    /// What its values are measured in.
    pub metric: Metric,
    /// Everything else that a value depends on, beside model, dataset and place.
    pub settings: Configuration,
}

/// Values of some places.
pub struct Computed {
    /// As fractions.
    pub values: Vec<f64>,
    /// What the structure of the computation has saved, if that is worth saying.
    pub flops: Option<PathFlops>,
}

/// A command whose maps are made value by value.
pub trait SweptMaps: MapCommand {
    /// How many values are computed, and then recorded, together: as few as do not make what they share (the clean and the
    /// corrupted run) count.
    const PORTION: usize;

    /// Shards and failures.
    fn sweep(&self) -> &SweepArgs;

    /// What a map is going to look like.
    ///
    /// # Errors
    /// Whatever cannot be made of this model and dataset.
    fn outline(&self, model: &Model, prompts: &PairedPrompts, kind: &Self::Kind) -> Result<Outline>;

    /// The values of some places of some maps, as fractions; a place is a number in row-major order.
    ///
    /// # Errors
    /// Those of the engine; a metric that is not defined on this dataset.
    fn values<B: Backend>(
        &self,
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        places: &[(Self::Kind, usize)],
    ) -> Result<Computed>;

    /// A finished map.
    fn named(&self, model: &str, prompts: &PairedPrompts, kind: &Self::Kind, map: ResultMap) -> Named;
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
}

impl<K: Clone> Swept<K> {
    fn new<C: SweptMaps<Kind = K>>(
        command: &C,
        model: &Model,
        shared: &Configuration,
        prompts: &PairedPrompts,
        kind: K,
    ) -> Result<Self> {
        let outline = command.outline(model, prompts, &kind)?;
        let mut own = outline.settings.clone();
        own.insert("dataset".into(), fingerprint(prompts)?);
        if let Some(direction) = model.readout() {
            let bytes: Vec<u8> = direction.iter().flat_map(|value| value.to_le_bytes()).collect();
            own.insert("along".into(), sha256(&bytes));
        }
        let (mut passes, mut ids) = (Vec::new(), Vec::new());
        let map = outline.map(Vec::new());
        for index in 0..outline.shape.iter().product() {
            own.insert("place".into(), map.labels(index).join("."));
            passes.push(CellId::of(C::NAME, shared, &own));
            own.insert("metric".into(), outline.metric.to_string());
            ids.push(CellId::of(C::NAME, shared, &own));
            own.remove("metric");
        }
        let (stem, shards) = (command.stem(&kind, &prompts.name), vec![None; ids.len()]);
        Ok(Self { kind, outline, stem, passes, ids, shards })
    }

    /// The cells as the ledger knows them.
    fn cells(&self) -> impl Iterator<Item = Cell> {
        let (file, inputs): (Arc<str>, _) = (format!("{}.npy", self.stem).into(), Arc::new(Inputs::new()));
        let outline = self.outline.map(Vec::new());
        self.ids.iter().zip(&self.shards).enumerate().map(move |(index, (&id, &shard))| {
            let named = outline.axes.iter().zip(outline.labels(index));
            let at = named.map(|(axis, label)| format!("{axis} {label}").into()).collect();
            Cell { id, place: Place { file: file.clone(), at }, inputs: inputs.clone(), shard }
        })
    }
}

impl Outline {
    fn map(&self, fractions: Vec<f64>) -> ResultMap {
        super::maps::in_percent(self.axes.clone(), self.shape.clone(), &fractions)
    }
}

/// Makes the maps that a command asks for, for every model.
pub fn run<C: SweptMaps>(command: &C) -> Result<()> {
    for_every_model(command, |model, folder, work| make(command, model, folder, work))
}

/// The maps of one model; none in a shard, whose ledger is merged first.
fn make<C: SweptMaps>(
    command: &C,
    model: Model,
    folder: &Path,
    work: Work<C::Kind>,
) -> Result<(Vec<Named>, RunRecord)> {
    let (run, sweep, name) = (&command.shared().run, command.sweep(), model.name.clone());
    let configuration = configuration(run, &model)?;
    let known = Known::read(folder, sweep, &configuration)?;
    let swept = |(prompts, kinds): (PairedPrompts, Vec<C::Kind>)| {
        let swept = |kind| Swept::new(command, &model, &configuration, &prompts, kind);
        let maps = kinds.into_iter().map(swept).collect::<Result<Vec<_>>>()?;
        Ok((prompts, maps))
    };
    let mut sets = work.into_iter().map(swept).collect::<Result<Vec<_>>>()?;
    if let Some(shard) = sweep.shard {
        let units: Vec<CellId> = sets.iter().flat_map(|(_, maps)| maps).flat_map(|map| map.passes.clone()).collect();
        let mut shards = deal(&units, shard.count()).into_iter().map(Some);
        sets.iter_mut()
            .flat_map(|(_, maps)| maps)
            .for_each(|map| map.shards = shards.by_ref().take(map.ids.len()).collect());
    }
    let own = sweep.shard.map(|shard| shard.index());
    let lacking = |map: &Swept<C::Kind>| -> Vec<(C::Kind, usize, CellId)> {
        let all = map.ids.iter().zip(&map.shards).enumerate();
        let lacking = all.filter(|(_, (id, shard))| **shard == own && known.lacks(id, run, sweep));
        lacking.map(|(index, (&id, _))| (map.kind.clone(), index, id)).collect()
    };
    let places: Vec<Vec<_>> = sets.iter().map(|(_, maps)| maps.iter().flat_map(&lacking).collect()).collect();
    let left = places.iter().map(Vec::len).sum();
    check_writable(folder)?;
    let mut manifest = run.manifest(C::NAME, command, folder, Some(&model))?;
    let wanted = sets.iter().flat_map(|(_, maps)| maps).flat_map(|map| map.cells()).collect();
    let mut recorder = Recorder::start(folder, sweep, &configuration, wanted, left)?;
    if left > 0 {
        let sets = sets.iter().map(|(prompts, _)| prompts).zip(places).collect();
        let work = Values { command, sets, recorder: &mut recorder, manifest: &mut manifest };
        run.in_pool(|| run.on_device(model, work))?;
    }
    let keys = sets.iter().enumerate().flat_map(|(set, (_, maps))| {
        maps.iter().enumerate().flat_map(move |(number, map)| {
            let cells = map.ids.iter().zip(&map.shards).enumerate().filter(move |(_, (_, shard))| **shard == own);
            cells.map(move |(index, (&id, _))| ((set, number, index), id))
        })
    });
    let found = recorder.results(folder, sweep, keys.collect())?;
    let mut all = Vec::new();
    if let Some(shard) = sweep.shard {
        let place = sweep.folder(folder).join(Ledger::FILE);
        let (count, place) = (found.len(), place.display());
        writeln!(
            std::io::stderr(),
            "{name}: {count} values of share {shard} in {place}; actpatch merge joins the shares"
        )
        .context("stderr")?;
    } else {
        for (set, (prompts, maps)) in sets.iter().enumerate() {
            for (number, Swept { kind, outline, ids, .. }) in maps.iter().enumerate() {
                let value = |index| found.get(&(set, number, index)).copied().flatten().unwrap_or(f64::NAN);
                let map = outline.map((0..ids.len()).map(value).collect());
                all.push(command.named(&name, prompts, kind, map));
            }
        }
        write(&all, folder, &mut manifest)?;
    }
    Ok((all, manifest.finish()?))
}

/// A value that has to be computed.
type Lacking<K> = (K, usize, CellId);

/// The computation of the values that no ledger knows, on one model.
struct Values<'a, C: SweptMaps> {
    command: &'a C,
    sets: Vec<(&'a PairedPrompts, Vec<Lacking<C::Kind>>)>,
    recorder: &'a mut Recorder,
    manifest: &'a mut Manifest,
}

impl<C: SweptMaps> DeviceWork for Values<'_, C> {
    type Output = ();

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<()> {
        self.manifest.computed_on(engine);
        self.recorder.begin();
        for (prompts, lacking) in self.sets.iter().filter(|(_, lacking)| !lacking.is_empty()) {
            self.manifest.saw(prompts)?;
            let progress: ProgressBar = bar(lacking.len(), format!("patching {}", prompts.name));
            let mut saved = None;
            for portion in lacking.chunks(C::PORTION) {
                let places: Vec<(C::Kind, usize)> =
                    portion.iter().map(|(kind, index, _)| (kind.clone(), *index)).collect();
                let Computed { values, flops } =
                    self.command.values(engine, prompts, &places).with_context(|| prompts.name.clone())?;
                if let Some(PathFlops { done, naive }) = flops {
                    let all = saved.get_or_insert_with(PathFlops::default);
                    *all = PathFlops { done: all.done + done, naive: all.naive + naive };
                }
                let outcome = |((_, _, id), value): (&Lacking<C::Kind>, f64)| (*id, finite(value));
                self.recorder.record(portion.iter().zip(values).map(outcome).collect())?;
                progress.inc(portion.len() as u64);
            }
            progress.finish_and_clear();
            saved.map_or(Ok(()), |saved| note_flops(&prompts.name, saved))?;
        }
        Ok(())
    }
}

/// Says on stderr what the structure of path patching has saved.
fn note_flops(set: &str, PathFlops { done, naive }: PathFlops) -> Result<()> {
    let ratio = naive.0 as f64 / done.0.max(1) as f64;
    writeln!(
        std::io::stderr(),
        "{set}: {done} done; whole passes for every node would be {naive}, {ratio:.0} times that"
    )
    .context("stderr")
}
