//! What each exact shortcut of a sweep buys: the work with it beside the full computation it replaces, which the library
//! does when asked for it. Values are compared too.
//!
//! `cargo bench --bench shortcuts [-- --threads N]`: the shape of gpt2-small with random weights, 26 prompts of 19
//! tokens, milliseconds: median (fastest - slowest).

use actpatch::backend::{Backend, CpuBackend, Dtype};
use actpatch::bench::{Shape, Spread, direction, prompts};
use actpatch::engine::{
    Cell, Engine, EngineError, Intervention, Metric, Mode, Op, Output, PairedRun, Part, Patch, PatchPositions, Plan,
    Resume, Run, Site, Source,
};
use actpatch::experiments::patching_suite::{Layers, residual_cell};
use actpatch::model::{LoadOptions, Model};
use std::time::Instant;

const SHAPE: Shape = Shape { prompts: 26, tokens: 19, answer_pairs: 5 };
const REPETITIONS: usize = 5;
const LAYER: usize = 6;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|i| arguments.get(i + 1)?.parse().ok());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(after("--threads").unwrap_or(2)).build();
    pool.expect("a thread pool").install(run);
}

/// Times both, alternating, and prints what the first saves.
fn compare(name: &str, mut with: impl FnMut() -> Vec<f32>, mut without: impl FnMut() -> Vec<f32>) {
    let mut seconds = [const { Vec::new() }; 2];
    let mut difference = 0f32;
    for repetition in 0..=REPETITIONS {
        let start = Instant::now();
        let found = with();
        let middle = Instant::now();
        let expected = without();
        let end = Instant::now();
        if repetition > 0 {
            seconds[0].push(1e3 * (middle - start).as_secs_f64());
            seconds[1].push(1e3 * (end - middle).as_secs_f64());
        }
        assert_eq!(found.len(), expected.len(), "{name}");
        difference = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(difference, f32::max);
    }
    let [with, without] = seconds.map(|list| Spread::of(&list).expect("repetitions"));
    let text = |s: Spread| format!("{:.1} ({:.1} - {:.1})", s.median, s.fastest, s.slowest);
    let gain = without.median / with.median;
    println!("{name:<58} {:>24} {:>24} {gain:>6.2} x  difference {difference:.0e}", text(with), text(without));
}

fn answers(run: &Run<CpuBackend>) -> Vec<f32> {
    run.logits().expect("logits").values.data.clone()
}

fn run() {
    let model = Model::load("random:gpt2-small", &LoadOptions::default()).expect("a shape");
    let engine = Engine::new(CpuBackend::new(Dtype::F32).expect("f32"), model).expect("memory");
    println!("{}\n{:<58} {:>24} {:>24}", engine.backend().describe(), "", "with, ms", "without, ms");
    let set = prompts(SHAPE, engine.config().d_vocab, 0);
    let position = PatchPositions::One(SHAPE.patched_position());
    let sites: Vec<Site> = (0..engine.config().n_layers).map(Site::ResidPre).collect();
    let paired = PairedRun::new(&engine, set.clone(), &sites, &[position], false).expect("a run");
    let output = Output::Answers(paired.columns());
    let of = |side: &[usize]| side.iter().map(|&s| set.sequences[s].clone()).collect::<Vec<_>>();
    let (clean, corrupted) = (of(&set.clean), of(&set.corrupted));

    compare(
        "one pass for clean and corrupted | two",
        || answers(&engine.run(&clean, &[], &[], output).expect("a run")),
        || {
            engine.run(&corrupted, &[], &[], output).expect("a run");
            answers(&engine.run(&clean, &[], &[], output).expect("a run"))
        },
    );
    let bases = engine.backend().upload(&direction(engine.config().d_model, 1).data).expect("memory");
    let swap = || {
        let at = SHAPE.patched_position();
        let patch =
            |row: usize| Patch { row, position: at, source: paired.run().token(row, at).expect("there"), basis: 0 };
        let op = Op::Swap { source: Source::Run(paired.run()), bases: &bases, k: 1 };
        let patches = (0..SHAPE.prompts).map(patch).collect();
        [Intervention { site: Site::ResidPre(LAYER), part: Part::All, patches, op }]
    };
    let resumed = |start: usize| {
        let rows: Vec<(usize, usize)> = set.corrupted.iter().map(|&s| (s, start)).collect();
        let resume = Resume { run: paired.run(), layer: LAYER, rows: &rows };
        answers(&engine.resume(&resume, &swap(), &[], output).expect("a run"))
    };
    compare(
        "rows start at the patched layer, 6 of 12 | from tokens",
        || resumed(0),
        || answers(&engine.run_patched(&corrupted, &swap(), &[], output).expect("a run")),
    );
    compare("rows start at the patched position, 6 of 19 | at 0", || resumed(SHAPE.patched_position()), || resumed(0));
    last_positions(&engine, &paired, &clean);
    batches(&engine, &paired, position);
}

/// The last block and the logits, at last positions and answer columns alone or everywhere.
fn last_positions(engine: &Engine<CpuBackend>, paired: &PairedRun<CpuBackend>, sequences: &[Vec<u32>]) {
    let tokens = paired.columns().tokens();
    compare(
        "last positions and answer columns alone | all logits",
        || answers(&engine.run(sequences, &[], &[], Output::Answers(paired.columns())).expect("a run")),
        || {
            let run = engine.run(sequences, &[], &[], Output::All).expect("a run");
            let values = &run.logits().expect("logits").values;
            let row = |prompt: usize| values.row((prompt + 1) * SHAPE.tokens - 1);
            (0..SHAPE.prompts).flat_map(|p| tokens.iter().map(move |&t| row(p)[t as usize])).collect()
        },
    );
}

/// Many cells as rows of one batch, or one cell at a time. Small datasets gain most.
fn batches(engine: &Engine<CpuBackend>, paired: &PairedRun<CpuBackend>, positions: PatchPositions) {
    let (d_model, n_layers) = (engine.config().d_model, engine.config().n_layers);
    let cell = |seed| residual_cell(direction(d_model, seed), Layers::Own(LAYER), positions, Mode::Denoising, n_layers);
    let cells: Vec<Cell> = (0..5).map(cell).collect();
    let scores = |cells: &[Cell]| -> Vec<f32> {
        let plan = Plan::new(engine.config(), paired.prompts(), cells, engine.max_tokens()).expect("a plan");
        let found = plan.run(engine, paired, &[Metric::LogitDiff], |_| Ok::<(), EngineError>(())).expect("scores");
        found.iter().map(|scores| scores.logit_difference() as f32).collect()
    };
    compare(
        "five cells in one batch | one at a time",
        || scores(&cells),
        || cells.chunks(1).flat_map(scores).collect(),
    );
}
