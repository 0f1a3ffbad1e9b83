//! Batches that are done again: nothing is allocated, the host waits once, and as repeated work they are graphs.

use crate::emulator::{Counter, Emulator, Setting, random};
use crate::engine::{load, pairs, prompts};
use actpatch::backend::{Backend, BackendError, CudaBackend, Dtype};
use actpatch::directions::das::{Rotation, TrainSettings, train};
use actpatch::engine::*;
use actpatch::model::WeightProcessing;
use actpatch::types::Matrix;

/// Rows that resume behind captured prefixes, patched along a direction that changes from batch to batch.
struct Patching<'a> {
    engine: &'a Engine<CudaBackend>,
    run: Run<CudaBackend>,
    answers: AnswerColumns<CudaBackend>,
}

fn opened(emulator: &Emulator) -> Engine<CudaBackend> {
    Engine::new(emulator.backend(Dtype::F32), load("neox-parallel", WeightProcessing::processed())).unwrap()
}

impl<'a> Patching<'a> {
    fn new(engine: &'a Engine<CudaBackend>) -> Self {
        let sequences = prompts(&[8, 8, 10], engine.config().d_vocab);
        let run = engine.run(&sequences, &[Site::ResidPre(1)], &[4, 4, 6], Output::Last).unwrap();
        Self { answers: engine.answer_columns(&[3, 1, 4]).unwrap(), engine, run }
    }

    /// Logits of `rows` rows, and the gradient of the first answer, in a batch of its own for every seed.
    fn batch(&self, rows: usize, seed: u64) -> Result<(Vec<f32>, Vec<f32>), EngineError> {
        let (engine, run) = (self.engine, &self.run);
        let bases = engine.backend().upload(&random(engine.config().d_model, seed))?;
        let starts = &[(0, 4), (1, 4), (2, 6)][..rows];
        let resume = Resume { run, layer: 1, rows: starts };
        let patch = |row| Patch { row, position: 7, source: run.token(0, 7).unwrap(), basis: 0 };
        let op = Op::Swap { source: Source::Run(run), bases: &bases, k: 1 };
        let patches = (0..rows).map(patch).collect();
        let swap = [Intervention { site: Site::ResidPre(1), part: Part::All, patches, op }];
        let (patched, tape) = engine.resume_with_tape(&resume, &swap, Output::Answers(&self.answers))?;
        let d_logits = Matrix::new(rows, 3, [1.0, 0.0, 0.0].repeat(rows));
        let gradient = engine.backward(&resume, &tape, &self.answers, &d_logits)?;
        let logits = patched.logits().unwrap().values.data.clone();
        Ok((logits, engine.backend().download(&gradient)?))
    }
}

#[test]
fn an_equal_batch_takes_no_memory_and_waits_once_per_result() {
    let Some(emulator) = Emulator::alone() else { return };
    let engine = opened(emulator);
    let patching = Patching::new(&engine);
    patching.batch(3, 1).unwrap();
    let counters = [Counter::Allocations, Counter::Synchronisations, Counter::PageableCopies];
    let counts = emulator.counts(counters, || drop(patching.batch(3, 2).unwrap()));
    assert_eq!(counts, [0, 2, 0], "everything from the pool and through page-locked memory; logits, gradient");
    let sequences = prompts(&[8, 8, 10], engine.config().d_vocab);
    let forward = || drop(engine.run(&sequences, &[], &[], Output::Answers(&patching.answers)).unwrap());
    forward();
    assert_eq!(emulator.counts(counters, forward), [0, 1, 0], "a forward pass");
}

#[test]
fn repeated_work_gives_the_same_numbers_as_two_graphs() {
    let Some(emulator) = Emulator::alone() else { return };
    let engine = opened(emulator);
    let patching = Patching::new(&engine);
    let mut recording = Default::default();
    for seed in 1..6 {
        let expected = patching.batch(3, seed).unwrap();
        let mut found = None;
        let counters = [Counter::Launches, Counter::GraphLaunches, Counter::Allocations];
        let [launches, graphs, allocations] = emulator.counts(counters, || {
            found = Some(engine.backend().repeat(&mut recording, || patching.batch(3, seed)).unwrap());
        });
        assert_eq!(found.unwrap(), expected, "run {seed}");
        match seed {
            1 => assert!(launches > 20 && graphs == 0, "the first run is as usual: {launches} launches"),
            2 => assert_eq!((launches, graphs), (0, 2), "one graph to the logits, one to the gradient"),
            _ => assert_eq!((launches, graphs, allocations), (0, 2, 0), "run {seed}"),
        }
    }
}

#[test]
fn the_steps_of_a_das_fit_are_graphs() {
    let Some(emulator) = Emulator::alone() else { return };
    let engine = opened(emulator);
    let all = PatchPositions::All;
    let paired = PairedRun::new(&engine, pairs(engine.config().d_vocab), &[Site::ResidPre(1)], &[all], false).unwrap();
    let fit = |epochs| {
        let rotation = Rotation::random(engine.config().d_model, 1, 5).unwrap();
        let settings = TrainSettings { epochs, ..TrainSettings::default() };
        train(&engine, &paired, (1, all), &rotation, &settings, |_| Ok(Vec::new()), &|| false).unwrap()
    };
    let [graphs] = emulator.counts([Counter::GraphLaunches], || drop(fit(6)));
    assert_eq!(graphs, 10, "forward and backward of every step but the first");
    assert_eq!(fit(6).losses[..1], fit(1).losses, "the first step is not");
}

#[test]
fn a_run_that_differs_is_done_as_usual() {
    let Some(emulator) = Emulator::start() else { return };
    let engine = opened(emulator);
    let patching = Patching::new(&engine);
    let mut recording = Default::default();
    for (rows, seed) in [3, 3, 3, 2, 3, 3, 3, 1, 2, 3, 2, 1].into_iter().zip(1..) {
        let expected = patching.batch(rows, seed).unwrap();
        let found = engine.backend().repeat(&mut recording, || patching.batch(rows, seed)).unwrap();
        assert_eq!(found, expected, "run {seed} with {rows} rows");
    }
}

#[test]
fn work_that_keeps_changing_is_not_recorded_any_more() {
    let Some(emulator) = Emulator::alone() else { return };
    let engine = opened(emulator);
    let patching = Patching::new(&engine);
    let mut recording = Default::default();
    let mut graphs = |rows| {
        emulator.counts([Counter::GraphLaunches], || {
            engine.backend().repeat(&mut recording, || patching.batch(rows, 1)).unwrap();
        })
    };
    for _ in 0..3 {
        assert_eq!([3, 3].map(&mut graphs), [[0], [2]], "recorded in the second run");
        graphs(2);
    }
    assert_eq!([3, 3, 3].map(graphs), [[0], [0], [0]]);
}

#[test]
fn a_failed_run_leaves_a_recording_that_can_be_used() {
    let Some(emulator) = Emulator::start() else { return };
    let engine = opened(emulator);
    let patching = Patching::new(&engine);
    let expected = patching.batch(3, 1).unwrap();
    let mut recording = Default::default();
    let repeat = |recording: &mut _| engine.backend().repeat(recording, || patching.batch(3, 1));
    for _ in 0..3 {
        assert_eq!(repeat(&mut recording).unwrap(), expected);
    }
    let failed = engine.backend().repeat(&mut recording, || {
        patching.batch(2, 1)?;
        Err::<(), _>(EngineError::Backend(BackendError::TooLarge { size: 0 }))
    });
    assert!(failed.is_err());
    for _ in 0..4 {
        assert_eq!(repeat(&mut recording).unwrap(), expected);
    }
}

#[test]
fn repeated_work_that_finds_the_memory_full_has_its_free_arrays_given_back() {
    let Some(emulator) = Emulator::alone() else { return };
    let backend = emulator.backend(Dtype::F32);
    emulator.set(Setting::Memory, 64 << 10);
    let mut recording = Default::default();
    for run in 0..4 {
        let values = backend.repeat(&mut recording, || {
            let x = backend.upload(&[run as f32; 8000])?;
            let mut y = backend.tensor(8000)?;
            backend.copy_into(&x, &mut y, 0)?;
            drop(x);
            // No room is left beside two arrays of this size, and the copy that still reads the first may be waiting.
            let mut z = backend.tensor(5000)?;
            backend.zero(&mut z)?;
            drop(z);
            backend.download(&y)
        });
        assert_eq!(values.map_err(|error: BackendError| error.to_string()), Ok(vec![run as f32; 8000]), "run {run}");
    }
}
