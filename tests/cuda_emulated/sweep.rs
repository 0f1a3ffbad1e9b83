//! Sweeps on more than one GPU, on one whose memory is too small, and on one that is lost.

use crate::emulator::{Counter, Emulator, Setting, random};
use crate::engine::{load, pairs};
use actpatch::backend::{BackendError, CudaBackend, Dtype};
use actpatch::directions::Method;
use actpatch::directions::das::{TrainError, TrainSettings, Trained};
use actpatch::engine::*;
use actpatch::experiments::chunks::patch_dataset;
use actpatch::experiments::das_fits::{DasJob, TrainPlan, train_all};
use actpatch::experiments::patching_suite::{Layers, residual_cell};
use actpatch::model::WeightProcessing;
use actpatch::types::Matrix;
use std::collections::BTreeMap;
use std::ops::Range;

fn opened(index: usize) -> Engine<CudaBackend> {
    let model = load("neox-parallel", WeightProcessing::processed());
    Engine::new(CudaBackend::new(index, Dtype::F32).unwrap(), model).unwrap()
}

/// Directions at every layer, patched at one position and at all of them.
fn cells(config: &actpatch::model::ModelConfig) -> Vec<Cell> {
    let unit = |seed| {
        let values = random(config.d_model, seed);
        let norm = values.iter().map(|v| v * v).sum::<f32>().sqrt();
        Matrix::new(config.d_model, 1, values.iter().map(|v| v / norm).collect())
    };
    let places = [PatchPositions::One(3), PatchPositions::All];
    let layers = (0..=config.n_layers).flat_map(|layer| places.map(|positions| (layer, positions)));
    let cell = |(layer, positions)| {
        residual_cell(unit(layer as u64), Layers::Own(layer), positions, Mode::Denoising, config.n_layers)
    };
    layers.map(cell).collect()
}

/// Scores of all cells, or why there are none; and the cells in the order in which they were finished.
fn patched(engine: &Engine<CudaBackend>) -> (Result<Vec<Scores>, EngineError>, Vec<usize>) {
    let (prompts, cells) = (pairs(engine.config().d_vocab), cells(engine.config()));
    let (mut finished, mut share) = (Vec::new(), 0.0);
    let mut scores = vec![None; cells.len()];
    let result = patch_dataset(engine, &prompts, &cells, &[Metric::LogitDiff], MEMORY_BUDGET, |progress| {
        assert!(progress.share >= share && progress.share < 1.0 + 1e-9, "{} behind {share}", progress.share);
        share = progress.share;
        for (cell, found) in progress.finished {
            assert_eq!(found.logit_differences.len(), 4);
            finished.push(cell);
            scores[cell] = Some(found);
        }
        Ok(())
    });
    (result.map(|_| scores.into_iter().flatten().collect()), finished)
}

fn trained(engine: &Engine<CudaBackend>, layers: Range<usize>) -> Result<BTreeMap<usize, Trained>, TrainError> {
    let job = |layer| DasJob { method: Method::Das, layer, positions: PatchPositions::All, test_positions: Vec::new() };
    let jobs: Vec<DasJob> = layers.map(job).collect();
    let settings = TrainSettings { epochs: 2, ..TrainSettings::default() };
    let mut found = BTreeMap::new();
    let plan = TrainPlan { settings: &settings, seed: 3, tests: &[], budget: MEMORY_BUDGET, stop: &|| false };
    train_all(engine, &pairs(engine.config().d_vocab), &jobs, &plan, |number, trained| {
        found.insert(number, trained?);
        Ok::<(), TrainError>(())
    })?;
    Ok(found)
}

#[test]
fn three_gpus_give_exactly_what_one_gives() {
    let Some(emulator) = Emulator::alone() else { return };
    emulator.set(Setting::Devices, 3);
    let one = opened(0);
    let three = opened(0).with_peers(vec![opened(1), opened(2)]);
    let expected = patched(&one).0.unwrap();
    let (found, mut finished) = patched(&three);
    assert_eq!(found.unwrap(), expected);
    finished.sort_unstable();
    assert_eq!(finished, (0..expected.len()).collect::<Vec<_>>(), "every cell is finished once");
    let fits = trained(&one, 0..2).unwrap();
    assert_eq!(fits.len(), 2);
    assert_eq!(trained(&three, 0..2).unwrap(), fits);
}

/// Does `work` with less and less memory behind the model, until there is too little even for single rows; `work` checks
/// its own numbers. Batches must have been halved on the way.
fn with_less_and_less_memory(emulator: &Emulator, work: impl Fn(&Engine<CudaBackend>) -> Result<(), String>) {
    let engine = opened(0);
    let before = emulator.count(Counter::BytesInUse);
    work(&engine).unwrap();
    let needed = emulator.count(Counter::BytesInUse) - before;
    let mut halved = false;
    for percent in (5..100).rev().step_by(5) {
        let engine = opened(0);
        emulator.set(Setting::Memory, emulator.count(Counter::BytesInUse) + needed * percent / 100);
        let result = work(&engine);
        emulator.set(Setting::Memory, 1 << 33);
        if let Err(message) = result {
            assert!(halved, "with {percent} % of the memory: {message}, and no batch was halved before");
            assert!(message.contains("the GPU has no"), "{message}");
            return;
        }
        halved |= engine.max_tokens() < Engine::<CudaBackend>::DEFAULT_MAX_TOKENS;
    }
    assert!(halved, "no batch was halved");
}

#[test]
fn a_full_memory_halves_the_batch_and_the_numbers_stay() {
    let Some(emulator) = Emulator::alone() else { return };
    let expected = patched(&opened(0)).0.unwrap();
    with_less_and_less_memory(emulator, |engine| {
        assert_eq!(patched(engine).0.map_err(|error| error.to_string())?, expected);
        Ok(())
    });
}

#[test]
fn a_fit_that_finds_the_memory_full_takes_its_batch_in_parts() {
    let Some(emulator) = Emulator::alone() else { return };
    let expected = trained(&opened(0), 1..2).unwrap();
    with_less_and_less_memory(emulator, |engine| {
        let found = trained(engine, 1..2).map_err(|error| error.to_string())?;
        for (job, fit) in &found {
            let differences = fit.losses.iter().zip(&expected[job].losses).map(|(a, b)| (a - b).abs());
            // Gradients are summed in parts, and Adam divides small ones by their size.
            assert!(differences.fold(0.0, f64::max) < 1e-3, "losses of job {job}");
        }
        Ok(())
    });
}

#[test]
fn a_gpu_that_is_lost_keeps_what_was_finished() {
    let Some(emulator) = Emulator::alone() else { return };
    let engine = opened(0).with_max_tokens(16);
    let (expected, all) = patched(&engine);
    let expected = expected.unwrap();
    let [launches] = emulator.counts([Counter::Launches], || drop(patched(&engine).0.unwrap()));
    // Known at once, and only where the host waits: then the launches in between do nothing.
    for late in [0, 1] {
        let engine = opened(0).with_max_tokens(16);
        emulator.set(Setting::Late, late);
        emulator.set(Setting::LaunchesLeft, launches / 2);
        let (result, finished) = patched(&engine);
        let error = result.expect_err("the GPU is lost on the way");
        assert!(matches!(error, EngineError::Backend(BackendError::Lost { .. })), "{error}");
        assert!(!finished.is_empty() && finished.len() < expected.len(), "{} cells", finished.len());
        assert_eq!(finished, all[..finished.len()]);
        emulator.set(Setting::LaunchesLeft, -1);
    }
}
