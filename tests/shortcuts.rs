//! The exact shortcuts of a sweep, each against the full recomputation it replaces, on the demo model.
//!
//! Other tests hold more of them: padding and batching (`engine_parity`), resumed rows in every family
//! (`engine_families`), the exponential's action against dense exponentials (`directions`).

use actpatch::backend::{Backend, CpuBackend, Dtype};
use actpatch::bench::direction;
use actpatch::datasets::{BuildOptions, Catalogue};
use actpatch::engine::{
    Cell, Engine, EngineError, Intervention, Metric, Mode, Op, Output, PairedRun, Part, Patch, PatchPositions, Plan,
    Resume, Scores, Site, Source,
};
use actpatch::experiments::patching_suite::{Layers, residual_cell};
use actpatch::model::{LoadOptions, Model};
use actpatch::types::{Matrix, PairedPrompts};

type Paired = PairedRun<CpuBackend>;

/// f32 sums in another order, on logit differences of order 1.
const SAME: f64 = 1e-5;
const METRICS: [Metric; 1] = [Metric::LogitDiff];

fn engine() -> Engine<CpuBackend> {
    let model = Model::load("demo", &LoadOptions::default()).unwrap();
    Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap()
}

fn dataset(engine: &Engine<CpuBackend>) -> PairedPrompts {
    // Prompts that the model answers: patches move their logit differences by far more than the tolerance.
    Catalogue::load(None).unwrap().build("simple_test", &engine.model().tokenizer, &BuildOptions::default()).unwrap()
}

fn paired(engine: &Engine<CpuBackend>) -> Paired {
    let sites: Vec<Site> = (0..=engine.config().n_layers).map(|l| Site::resid(l, engine.config().n_layers)).collect();
    let prompts = dataset(engine);
    let positions = [PatchPositions::One(prompts.positions["ADJ"]), PatchPositions::All];
    PairedRun::new(engine, prompts, &sites, &positions, false).unwrap()
}

/// The position that single cells patch.
fn adjective(paired: &Paired) -> usize {
    paired.prompts().positions["ADJ"]
}

fn cell(engine: &Engine<CpuBackend>, layer: usize, seed: usize, positions: PatchPositions) -> Cell {
    let (columns, n_layers) = (direction(engine.config().d_model, seed), engine.config().n_layers);
    residual_cell(columns, Layers::Own(layer), positions, Mode::Denoising, n_layers)
}

/// The unit vector from the first prompt's corrupted residual to its clean one: a swap along it moves that prompt as far
/// as any swap can, where a random direction may move none.
fn first_difference(engine: &Engine<CpuBackend>, paired: &Paired, layer: usize) -> Matrix {
    let positions = vec![adjective(paired); paired.n_prompts()];
    let residuals = paired.clean_residuals(engine, layer, &positions).unwrap();
    let corrupted = paired.prompts().clean.iter().position(|&s| s == paired.prompts().corrupted[0]).unwrap();
    let pairs = residuals.row(0).iter().zip(residuals.row(corrupted));
    let difference: Vec<f32> = pairs.map(|(clean, corrupted)| clean - corrupted).collect();
    let length = difference.iter().map(|v| v * v).sum::<f32>().sqrt();
    Matrix::new(difference.len(), 1, difference.iter().map(|v| v / length).collect())
}

fn patched(engine: &Engine<CpuBackend>, paired: &Paired, cells: &[Cell]) -> Vec<Scores> {
    let plan = Plan::new(engine.config(), paired.prompts(), cells, engine.max_tokens()).unwrap();
    plan.run(engine, paired, &METRICS, |_| Ok::<(), EngineError>(())).unwrap()
}

#[track_caller]
fn assert_same(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() < SAME, "{f}, expected {e}");
    }
}

/// The swap of the clean residual into the corrupted prompts at `layer`, for whole rows or resumed ones.
fn swap<'a>(
    paired: &'a Paired,
    layer: usize,
    bases: &'a <CpuBackend as Backend>::Tensor,
) -> Intervention<'a, CpuBackend> {
    let position = adjective(paired);
    let source = |row: usize| paired.run().token(paired.prompts().clean[row], position).unwrap();
    let patches = (0..paired.n_prompts()).map(|row| Patch { row, position, source: source(row), basis: 0 }).collect();
    let op = Op::Swap { source: Source::Run(paired.run()), bases, k: 1 };
    Intervention { site: Site::ResidPre(layer), part: Part::All, patches, op }
}

#[test]
fn one_batch_of_distinct_prompts_serves_clean_and_corrupted() {
    let engine = engine();
    let paired = paired(&engine);
    let prompts = paired.prompts();
    assert_eq!(prompts.sequences.len(), paired.n_prompts(), "the corrupted prompts are the clean ones, rolled");
    for (side, baseline) in
        [(&prompts.clean, &paired.baselines().clean), (&prompts.corrupted, &paired.baselines().corrupted)]
    {
        for (prompt, &sequence) in side.iter().enumerate() {
            let alone = [prompts.sequences[sequence].clone()];
            let run = engine.run(&alone, &[], &[], Output::Answers(paired.columns())).unwrap();
            let answers = vec![paired.answers()[prompt].clone()];
            let scores = Scores::new(run.logits().unwrap(), 0, &answers);
            assert_same(&scores.logit_differences, &baseline.logit_differences[prompt..=prompt]);
        }
    }
}

#[test]
fn cells_resumed_at_layer_and_position_equal_passes_from_the_tokens() {
    let engine = engine();
    let paired = paired(&engine);
    let prompts = paired.prompts();
    let sequences: Vec<_> = prompts.corrupted.iter().map(|&s| prompts.sequences[s].clone()).collect();
    for layer in 0..engine.config().n_layers {
        let columns = first_difference(&engine, &paired, layer);
        let bases = engine.backend().upload(&columns.data).unwrap();
        let positions = PatchPositions::One(adjective(&paired));
        let n_layers = engine.config().n_layers;
        let cell = residual_cell(columns, Layers::Own(layer), positions, Mode::Denoising, n_layers);
        let swap = swap(&paired, layer, &bases);
        let whole = engine.run_patched(&sequences, &[swap], &[], Output::All).unwrap();
        // Every position and the whole vocabulary computed: what the last block and the answer columns leave out.
        let logits = whole.logits().unwrap();
        let difference = |prompt: usize| {
            let row = logits.values.row((prompt + 1) * sequences[0].len() - 1);
            let pairs = &prompts.answers[prompt];
            pairs.iter().map(|&(right, wrong)| f64::from(row[right as usize] - row[wrong as usize])).sum::<f64>()
                / pairs.len() as f64
        };
        let expected: Vec<f64> = (0..paired.n_prompts()).map(difference).collect();
        let found = patched(&engine, &paired, &[cell]);
        assert_same(&found[0].logit_differences, &expected);
        let moved = found[0].logit_differences.iter().zip(&paired.baselines().corrupted.logit_differences);
        assert!(moved.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) > 10.0 * SAME, "layer {layer} moves something");
    }
}

#[test]
fn cells_of_one_batch_equal_cells_one_at_a_time() {
    let engine = engine();
    let paired = paired(&engine);
    let positions = [PatchPositions::One(adjective(&paired)), PatchPositions::All];
    let each = |layer: usize| positions.into_iter().enumerate().map(move |(seed, at)| (layer, 2 * layer + seed, at));
    let cells: Vec<Cell> = (0..engine.config().n_layers)
        .flat_map(each)
        .map(|(layer, seed, positions)| cell(&engine, layer, seed, positions))
        .collect();
    let together = patched(&engine, &paired, &cells);
    for (cell, expected) in cells.iter().zip(&together) {
        let alone = patched(&engine, &paired, std::slice::from_ref(cell));
        assert_same(&alone[0].logit_differences, &expected.logit_differences);
    }
}

#[test]
fn gradients_of_resumed_positions_equal_those_of_whole_rows() {
    let engine = engine();
    let paired = paired(&engine);
    let (first, d_model) = (adjective(&paired), engine.config().d_model);
    let tokens = paired.prompts().sequences[0].len();
    let layer = 1;
    let bases = engine.backend().upload(&direction(d_model, 3).data).unwrap();
    let gradient = |start: usize| {
        let rows: Vec<(usize, usize)> = paired.prompts().corrupted.iter().map(|&s| (s, start)).collect();
        let resume = Resume { run: paired.run(), layer, rows: &rows };
        let output = Output::Answers(paired.columns());
        let (_, tape) = engine.resume_with_tape(&resume, &[swap(&paired, layer, &bases)], output).unwrap();
        let n_answers = paired.columns().tokens().len();
        let ones = Matrix::new(rows.len(), n_answers, (0..rows.len() * n_answers).map(|i| (i % 3) as f32).collect());
        let all = engine.backward(&resume, &tape, paired.columns(), &ones).unwrap();
        let row = |prompt: usize| ((prompt * (tokens - start)) + first - start) * d_model;
        (0..paired.n_prompts()).flat_map(|p| all[row(p)..row(p) + d_model].to_vec()).map(f64::from).collect::<Vec<_>>()
    };
    let (resumed, whole) = (gradient(first), gradient(0));
    assert!(whole.iter().map(|v| v.abs()).fold(0.0, f64::max) > 1e-3);
    assert_same(&resumed, &whole);
}
