//! The suite's shortcuts against the computation they stand for, on the demo model.

use actpatch::backend::{Backend, CpuBackend, Dtype};
use actpatch::datasets::{BuildOptions, Catalogue};
use actpatch::directions::{Method, embeddings, fit, random_direction};
use actpatch::engine::{Engine, Intervention, Metric, Mode, Op, Output, PairedRun, Part, Patch, PatchPositions};
use actpatch::engine::{Scores, Site, Source};
use actpatch::experiments::patching_suite::{Cell, Layers, patched_scores};
use actpatch::model::{LoadOptions, Model};
use actpatch::types::Matrix;

/// f32 sums in another order: relative to the largest logit difference.
const SAME: f64 = 1e-5;

fn engine() -> Engine<CpuBackend> {
    let model = Model::load("demo", &LoadOptions::default()).unwrap();
    Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap()
}

/// `simple_test` with every layer captured, and the places `ADJ`, `ALL` and `END`.
fn paired(engine: &Engine<CpuBackend>) -> (PairedRun<CpuBackend>, [PatchPositions; 3]) {
    let tokenizer = &engine.model().tokenizer;
    let prompts = Catalogue::load(None).unwrap().build("simple_test", tokenizer, &BuildOptions::default()).unwrap();
    let one = |name: &str| PatchPositions::One(prompts.positions[name]);
    let positions = [one("ADJ"), PatchPositions::All, PatchPositions::Last];
    let layers: Vec<usize> = (0..=engine.config().n_layers).collect();
    (PairedRun::new(engine, prompts, &layers, &positions, false).unwrap(), positions)
}

/// A direction with a large effect, and for `k = 2` one with a small effect beside it.
fn columns(engine: &Engine<CpuBackend>, paired: &PairedRun<CpuBackend>, layer: usize, k: usize) -> Matrix {
    let d_model = engine.config().d_model;
    let position = PatchPositions::One(paired.prompts().positions["ADJ"]);
    let residuals = embeddings(engine, paired, layer, position, 0).unwrap();
    let mean = fit(Method::MeanDiff, &residuals, &paired.prompts().positive).unwrap().unwrap().direction.data;
    let length = mean.iter().map(|v| v * v).sum::<f32>().sqrt();
    let random = random_direction(d_model, layer, 3).data;
    let data = (0..d_model).flat_map(|i| [mean[i] / length, random[i]].into_iter().take(k)).collect();
    Matrix::new(d_model, k, data)
}

/// Every cell of layers x positions x k, and those that patch in front of every block.
fn cells(engine: &Engine<CpuBackend>, paired: &PairedRun<CpuBackend>, places: &[PatchPositions]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &positions in places {
        for k in [1, 2] {
            for layer in 0..=engine.config().n_layers {
                let columns = columns(engine, paired, layer, k);
                cells.push(Cell { columns, layers: Layers::Own(layer), positions });
            }
            cells.push(Cell { columns: columns(engine, paired, 1, k), layers: Layers::All, positions });
        }
    }
    cells
}

/// The cell without any shortcut: whole prompts from their tokens, patched at every position the cell names.
fn from_tokens(engine: &Engine<CpuBackend>, paired: &PairedRun<CpuBackend>, cell: &Cell, mode: Mode) -> Scores {
    let (prompts, n_layers) = (paired.prompts(), engine.config().n_layers);
    let mut sequences = Vec::new();
    let mut patches = Vec::new();
    for (row, (&clean, &corrupted)) in prompts.clean.iter().zip(&prompts.corrupted).enumerate() {
        let (base, from) = if mode == Mode::Denoising { (corrupted, clean) } else { (clean, corrupted) };
        sequences.push(prompts.sequences[base].clone());
        let positions = match cell.positions {
            PatchPositions::One(position) => position..position + 1,
            PatchPositions::Last => prompts.sequences[base].len() - 1..prompts.sequences[base].len(),
            PatchPositions::All => 0..prompts.sequences[base].len(),
        };
        for position in positions {
            patches.push(Patch { row, position, source: paired.run().token(from, position).unwrap(), basis: 0 });
        }
    }
    let k = cell.columns.cols;
    let rows: Vec<f32> =
        (0..k).flat_map(|j| (0..cell.columns.rows).map(move |i| cell.columns.data[i * k + j])).collect();
    let bases = engine.backend().upload(&rows).unwrap();
    let layers = match cell.layers {
        Layers::Own(layer) => layer..layer + 1,
        Layers::All => 0..n_layers,
    };
    let swap = |layer| Intervention {
        site: Site::resid(layer, n_layers),
        part: Part::All,
        patches: patches.clone(),
        op: Op::Swap { source: Source::Run(paired.run()), bases: &bases, k },
    };
    let swaps: Vec<_> = layers.map(swap).collect();
    let run = engine.run_patched(&sequences, &swaps, &[], Output::Answers(paired.columns())).unwrap();
    Scores::new(run.logits().unwrap(), 0, paired.answers())
}

#[track_caller]
fn assert_same(found: &Scores, expected: &Scores, what: &str) {
    assert_eq!(found.logit_differences.len(), expected.logit_differences.len());
    let largest = expected.logit_differences.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (prompt, (f, e)) in found.logit_differences.iter().zip(&expected.logit_differences).enumerate() {
        assert!((f - e).abs() <= SAME * largest, "{what}, prompt {prompt}: {f} instead of {e}");
    }
}

fn all_scores(engine: &Engine<CpuBackend>, paired: &PairedRun<CpuBackend>, cells: &[Cell], mode: Mode) -> Vec<Scores> {
    patched_scores(engine, paired, cells, mode, &[Metric::LogitDiff], |_| {}).unwrap()
}

#[test]
fn the_demo_model_knows_the_answers() {
    let engine = engine();
    let (paired, _) = paired(&engine);
    let accuracy = paired.baselines().clean.accuracy();
    assert!(accuracy >= 0.95, "clean accuracy {accuracy}");
    let (clean, corrupted) = paired.baselines().logit_differences();
    assert!(clean > 1.0 && corrupted < -1.0, "logit differences {clean} and {corrupted}");
}

#[test]
fn cells_equal_the_full_recomputation() {
    let engine = engine();
    let (paired, places) = paired(&engine);
    let cells = cells(&engine, &paired, &places);
    for mode in [Mode::Denoising, Mode::Noising] {
        let found = all_scores(&engine, &paired, &cells, mode);
        for (cell, found) in cells.iter().zip(&found) {
            let what = format!("{mode:?} {:?} {:?} k = {}", cell.layers, cell.positions, cell.columns.cols);
            assert_same(found, &from_tokens(&engine, &paired, cell, mode), &what);
        }
    }
}

#[test]
fn cells_do_not_depend_on_their_batch() {
    let engine = engine();
    let (paired, places) = paired(&engine);
    let cells = cells(&engine, &paired, &places);
    let together = all_scores(&engine, &paired, &cells, Mode::Denoising);
    let baseline = &paired.baselines().corrupted;
    let moved = together.iter().filter(|scores| *scores != baseline).count();
    // With k = 1 and 2: ADJ behind the last block reaches no logit, END in front of the first block holds one token.
    assert_eq!(moved, cells.len() - 4);
    for (index, (cell, scores)) in cells.iter().zip(&together).enumerate() {
        let alone = all_scores(&engine, &paired, std::slice::from_ref(cell), Mode::Denoising);
        assert_same(scores, &alone[0], &format!("cell {index}"));
    }
    let single = self::engine().with_max_tokens(1);
    let (paired, _) = self::paired(&single);
    for (index, (found, expected)) in
        all_scores(&single, &paired, &cells, Mode::Denoising).iter().zip(&together).enumerate()
    {
        assert_same(found, expected, &format!("cell {index} in batches of one token"));
    }
}
