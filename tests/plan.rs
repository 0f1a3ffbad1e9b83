//! The planner against whole passes from tokens: every site, part, operation and direction of patching in one plan.

mod support;

use actpatch::backend::{Backend, CpuBackend, Dtype};
use actpatch::engine::*;
use actpatch::experiments::patching_suite::{Base, Layers, head_results_cell, residual_cell};
use actpatch::model::{LoadOptions, Model};
use actpatch::types::{Matrix, PairedPrompts};
use std::collections::BTreeMap;
use std::sync::Arc;

/// f32 sums in another order: relative to the largest logit difference.
const SAME: f64 = 2e-5;

/// All shapes there are: sequential and parallel residuals, learned and rotary positions, grouped heads, a window.
const MODELS: [&str; 4] = ["gpt2-tiny", "neox-parallel", "llama-tiny", "mistral-tiny"];

fn engine(name: &str) -> Engine<CpuBackend> {
    let folder = support::fixture(&format!("../engine/{name}"));
    let model = Model::load(folder.to_str().unwrap(), &LoadOptions::default()).unwrap();
    Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap()
}

/// Numbers between 0 and 1 that look random.
fn noise(seed: usize) -> impl Iterator<Item = f32> {
    let mut state = seed as u64 + 1;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    })
}

/// Four prompts of two lengths; clean and corrupted share their first two or three tokens, the third pair all but its
/// last token.
fn prompts() -> PairedPrompts {
    let tokens = |seed, len| -> Vec<u32> { noise(seed).take(len).map(|v| (v * 50.0) as u32).collect() };
    let with_end = |start: &[u32], end: Vec<u32>| [start, &end].concat();
    let (a, b) = (tokens(1, 8), tokens(2, 10));
    let sequences = vec![
        a.clone(),
        with_end(&a[..3], tokens(3, 5)),
        b.clone(),
        with_end(&b[..2], tokens(4, 8)),
        with_end(&a[..7], vec![(a[7] + 1) % 50]),
    ];
    PairedPrompts {
        name: "random".into(),
        texts: vec![String::new(); sequences.len()],
        sequences,
        clean: vec![0, 1, 2, 4],
        corrupted: vec![1, 0, 3, 0],
        positive: vec![true, false, true, false],
        has_classes: true,
        answers: vec![vec![(3, 1), (4, 2)], vec![(1, 3), (2, 4)], vec![(3, 1), (4, 2)], vec![(1, 3), (2, 4)]],
        positions: BTreeMap::new(),
    }
}

/// `k` orthonormal columns.
fn columns(width: usize, k: usize, seed: usize) -> Arc<Matrix> {
    let mut rows: Vec<Vec<f32>> = Vec::new();
    let mut values = noise(seed);
    for _ in 0..k {
        let mut row: Vec<f32> = values.by_ref().take(width).map(|v| v - 0.5).collect();
        for other in &rows {
            let along: f32 = row.iter().zip(other).map(|(a, b)| a * b).sum();
            row.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
        }
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        rows.push(row.iter().map(|v| v / norm).collect());
    }
    Arc::new(Matrix::new(width, k, (0..width).flat_map(|i| rows.iter().map(move |row| row[i])).collect()))
}

fn rows(n: usize, width: usize, seed: usize) -> Arc<Matrix> {
    Arc::new(Matrix::new(n, width, noise(seed).take(n * width).map(|v| 2.0 * v - 1.0).collect()))
}

const PLACES: [PatchPositions; 4] =
    [PatchPositions::One(1), PatchPositions::One(5), PatchPositions::Last, PatchPositions::All];

/// One edit per cell: every site and part at every layer and place, replaced; and every other operation at some.
fn single_edits(config: &actpatch::model::ModelConfig) -> Vec<Edit> {
    use Site::*;
    let mut edits = Vec::new();
    for layer in 0..config.n_layers {
        let whole =
            [ResidPre, ResidMid, ResidPost, AttnOut, MlpOut, MlpPre, MlpPost].map(|site| (site(layer), Part::All));
        let heads = [Q, K, V, Z, Pattern, Result].map(|site| (site(layer), Part::Head(1)));
        let others = [(Z(layer), Part::All), (Pattern(layer), Part::All), (MlpPost(layer), Part::Neuron(7))];
        let parts = whole.into_iter().chain(heads).chain(others);
        for (site, part) in parts.filter(|(site, _)| site.check(config).is_ok()) {
            edits.extend(PLACES.map(|positions| Edit::replace(site, part, positions)));
        }
    }
    edits.extend(PLACES.map(|positions| Edit::replace(FinalNormalized, Part::All, positions)));
    let (d_model, d_head) = (config.d_model, config.d_head);
    let swap = |k: usize| Change::Swap(Values::OtherRun, columns(d_model, k, 10 + k));
    let swap_head = Change::Swap(Values::Zero, columns(d_head, 2, 20));
    let mean = Change::Replace(Values::Rows(rows(1, config.d_attn(), 30)));
    let direction = Change::Swap(Values::Rows(rows(1, d_model, 31)), columns(d_model, 1, 32));
    for positions in PLACES {
        let at = |site, part, change: &Change| Edit { site, part, places: positions.into(), change: change.clone() };
        edits.extend([
            at(ResidPre(1), Part::All, &swap(1)),
            at(ResidPre(1), Part::All, &swap(3)),
            at(ResidPost(0), Part::All, &swap(2)),
            at(Result(1), Part::Head(0), &swap(2)),
            at(Z(1), Part::Head(1), &swap_head),
            at(Z(0), Part::All, &mean),
            at(MlpOut(0), Part::All, &Change::Replace(Values::Zero)),
            at(ResidPre(1), Part::All, &direction),
            at(ResidPre(1), Part::All, &Change::Add(rows(1, d_model, 33), -1.5)),
            at(ResidPre(1), Part::All, &Change::Add(rows(1, d_model, 34), 0.5)),
        ]);
    }
    edits
}

/// Cells of several edits: at several layers, twice at one place, and with frozen patterns.
fn joint_cells(config: &actpatch::model::ModelConfig) -> Vec<Cell> {
    let d_model = config.d_model;
    let all = PatchPositions::All;
    let at = |site, positions: PatchPositions, change| Edit { site, part: Part::All, places: positions.into(), change };
    let add = Change::Add(rows(1, d_model, 40), 1.0);
    let swap = Change::Swap(Values::OtherRun, columns(d_model, 1, 41));
    let zero = Change::Swap(Values::Zero, columns(d_model, 1, 42));
    let frozen = |layer| at(Site::Pattern(layer), all, Change::Replace(Values::OwnRun));
    let lists = [
        vec![at(Site::ResidPre(1), all, add.clone()), at(Site::ResidPre(1), all, swap.clone())],
        vec![at(Site::ResidPre(1), all, swap.clone()), at(Site::ResidPost(0), all, add.clone())],
        // The first edit makes the second one matter at a position that is the same in both runs.
        vec![at(Site::MlpOut(0), PatchPositions::One(1), add), Edit::replace(Site::AttnOut(1), Part::All, all)],
        (0..config.n_layers).map(|layer| at(Site::ResidPre(layer), all, zero.clone())).collect(),
        (0..config.n_layers).map(frozen).chain([at(Site::ResidPre(0), PatchPositions::One(5), swap)]).collect(),
    ];
    // Another list of positions, and another row for each of them, in every prompt.
    let lists_of_places = Arc::new(vec![vec![4, 7], vec![], vec![9, 3, 5], vec![0]]);
    let listed = |site, part, change| Edit { site, part, places: Places::PerPrompt(lists_of_places.clone()), change };
    let per_prompt = [
        vec![listed(Site::Z(1), Part::Head(1), Change::Replace(Values::OtherRun))],
        vec![listed(Site::MlpOut(0), Part::All, Change::Replace(Values::Rows(rows(6, d_model, 45))))],
        vec![
            listed(Site::ResidPre(1), Part::All, Change::Add(rows(6, d_model, 46), 0.5)),
            listed(Site::ResidPre(1), Part::All, Change::Add(rows(1, d_model, 47), -0.5)),
        ],
        vec![listed(Site::VInput(1), Part::Head(1), Change::Add(rows(6, d_model, 48), 1.0))],
    ];
    let inputs = [Site::QInput, Site::KInput, Site::VInput].map(|site| {
        let add = Change::Add(rows(1, d_model, 49), 1.0);
        vec![at(site(0), PatchPositions::One(5), add), Edit::replace(site(1), Part::Head(0), all)]
    });
    let heads = [(0, 1), (1, 0), (1, 1)];
    let mut cells = vec![];
    for mode in [Mode::Denoising, Mode::Noising] {
        let lists = lists.iter().chain(&per_prompt).chain(&inputs);
        cells.extend(lists.map(|edits| Cell { mode, edits: edits.clone() }));
        cells.push(residual_cell((*columns(d_model, 2, 43)).clone(), Layers::All, all, mode, config.n_layers));
        cells.push(head_results_cell((*columns(d_model, 1, 44)).clone(), &heads, mode));
    }
    cells
}

fn all_cells(config: &actpatch::model::ModelConfig) -> Vec<Cell> {
    let single = |mode| single_edits(config).into_iter().map(move |edit| Cell { mode, edits: vec![edit] });
    single(Mode::Denoising).chain(single(Mode::Noising)).chain(joint_cells(config)).collect()
}

/// Every site captured by one run, for the whole passes.
fn everything(engine: &Engine<CpuBackend>, prompts: &PairedPrompts) -> Run<CpuBackend> {
    use Site::*;
    let sites = [ResidPre, ResidMid, ResidPost, AttnOut, MlpOut, Q, K, V, Pattern, Z, MlpPre, MlpPost];
    let all = (0..engine.config().n_layers).flat_map(|layer| sites.map(|site| site(layer))).chain([FinalNormalized]);
    let all: Vec<Site> = all.filter(|site| site.check(engine.config()).is_ok()).collect();
    engine.run(&prompts.sequences, &all, &[], Output::All).unwrap()
}

/// Number of rows that an edit adds.
fn added(edit: &Edit) -> usize {
    if let Change::Add(rows, _) = &edit.change { rows.rows } else { 0 }
}

/// The cell without any shortcut: whole prompts from their tokens, one pass per cell, its edits one after the other.
fn from_tokens(
    engine: &Engine<CpuBackend>,
    paired: &PairedRun<CpuBackend>,
    run: &Run<CpuBackend>,
    cell: &Cell,
) -> Scores {
    let prompts = paired.prompts();
    let backend = engine.backend();
    let sides: Vec<(usize, usize)> = (0..prompts.clean.len())
        .map(|p| (prompts.clean[p], prompts.corrupted[p]))
        .map(|(clean, corrupted)| if cell.mode == Mode::Denoising { (corrupted, clean) } else { (clean, corrupted) })
        .collect();
    let sequences: Vec<_> = sides.iter().map(|&(own, _)| prompts.sequences[own].clone()).collect();
    let upload_columns = |columns: &Matrix| {
        let rows = (0..columns.cols).flat_map(|j| (0..columns.rows).map(move |i| (i, j)));
        backend.upload(&rows.map(|(i, j)| columns.data[i * columns.cols + j]).collect::<Vec<_>>()).unwrap()
    };
    let tensors: Vec<_> = cell
        .edits
        .iter()
        .map(|edit| match &edit.change {
            Change::Swap(Values::Rows(rows), columns) => (Some(upload_columns(columns)), Some(rows)),
            Change::Swap(_, columns) => (Some(upload_columns(columns)), None),
            Change::Replace(Values::Rows(rows)) | Change::Add(rows, _) => (None, Some(rows)),
            Change::Replace(_) => (None, None),
        })
        .map(|(bases, rows)| (bases, rows.map(|rows| backend.upload(&rows.data).unwrap())))
        .collect();
    let places = |edit: &Edit| {
        let values = match &edit.change {
            Change::Replace(values) | Change::Swap(values, _) => Some(values),
            Change::Add(..) => None,
        };
        let mut patches = Vec::new();
        for (row, &(own, other)) in sides.iter().enumerate() {
            let len = prompts.sequences[own].len();
            let positions: Vec<usize> = match &edit.places {
                Places::Of(PatchPositions::One(position)) => vec![*position],
                Places::Of(PatchPositions::Last) => vec![len - 1],
                Places::Of(PatchPositions::All) => (0..len).collect(),
                Places::PerPrompt(lists) => lists[row].clone(),
            };
            for position in positions {
                let source = match values {
                    Some(Values::OtherRun) => run.token(other, position).unwrap(),
                    Some(Values::OwnRun) => run.token(own, position).unwrap(),
                    Some(Values::Zero) => 0,
                    Some(Values::Rows(rows)) if rows.rows > 1 => patches.len(),
                    None if added(edit) > 1 => patches.len(),
                    _ => 0,
                };
                patches.push(Patch { row, position, source, basis: 0 });
            }
        }
        (patches, values.cloned())
    };
    let places: Vec<_> = cell.edits.iter().map(places).collect();
    let interventions: Vec<Intervention<'_, CpuBackend>> = cell
        .edits
        .iter()
        .zip(&places)
        .zip(&tensors)
        .map(|((edit, (patches, values)), (bases, rows))| {
            let source = match (values, rows) {
                (Some(Values::Zero), _) => Source::Zero,
                (_, Some(rows)) => Source::Rows(rows),
                _ => Source::Run(run),
            };
            let op = match (&edit.change, bases) {
                (Change::Swap(_, columns), Some(bases)) => Op::Swap { source, bases, k: columns.cols },
                (Change::Add(_, scale), _) => Op::Add { source, scale: *scale },
                _ => Op::Replace(source),
            };
            Intervention { site: edit.site, part: edit.part, patches: patches.clone(), op }
        })
        .collect();
    let run = engine.run_patched(&sequences, &interventions, &[], paired.output(&[])).unwrap();
    Scores::new(run.logits().unwrap(), 0, paired.answers())
}

#[track_caller]
fn assert_same(found: &Scores, expected: &Scores, largest: f64, what: &str) {
    assert_eq!(found.logit_differences.len(), expected.logit_differences.len());
    for (prompt, (f, e)) in found.logit_differences.iter().zip(&expected.logit_differences).enumerate() {
        assert!((f - e).abs() <= SAME * largest, "{what}, prompt {prompt}: {f} instead of {e}");
    }
}

fn paired(engine: &Engine<CpuBackend>, cells: &[Cell]) -> PairedRun<CpuBackend> {
    let needs = Needs::of(cells, engine.config().n_layers);
    PairedRun::new(engine, prompts(), &needs.sites, &needs.positions, false).unwrap()
}

fn planned(engine: &Engine<CpuBackend>, paired: &PairedRun<CpuBackend>, cells: &[Cell]) -> Vec<Scores> {
    let plan = Plan::new(engine.config(), paired.prompts(), cells, engine.max_tokens()).unwrap();
    let mut finished = vec![0; cells.len()];
    let mut share = -1.0;
    let scores = plan
        .run(engine, paired, &[], |step| -> std::result::Result<(), EngineError> {
            step.finished.iter().for_each(|&cell| finished[cell] += 1);
            assert!(step.share > share, "{} after {share}", step.share);
            share = step.share;
            Ok(())
        })
        .unwrap();
    assert!(finished.iter().all(|&times| times == 1), "{finished:?}");
    assert!((share - 1.0).abs() < 1e-12, "{share}");
    scores
}

/// The largest logit difference there is.
fn largest(paired: &PairedRun<CpuBackend>) -> f64 {
    let Baselines { clean, corrupted, .. } = paired.baselines();
    clean.logit_differences.iter().chain(&corrupted.logit_differences).fold(0.0, |m, v| v.abs().max(m))
}

#[test]
fn every_kind_of_cell_equals_its_whole_pass() {
    for name in MODELS {
        let engine = engine(name);
        let cells = all_cells(engine.config());
        let paired = paired(&engine, &cells);
        let run = everything(&engine, &prompts());
        let largest = largest(&paired);
        let found = planned(&engine, &paired, &cells);
        for (cell, found) in cells.iter().zip(&found) {
            let expected = from_tokens(&engine, &paired, &run, cell);
            assert_same(found, &expected, largest, &format!("{name} {cell:?}"));
        }
        let unpatched =
            |mode| if mode == Mode::Denoising { &paired.baselines().corrupted } else { &paired.baselines().clean };
        let moved = cells.iter().zip(&found).filter(|(cell, found)| *found != unpatched(cell.mode)).count();
        assert!(moved > cells.len() / 2, "{name}: only {moved} of {} cells change anything", cells.len());
    }
}

#[test]
fn cells_do_not_depend_on_their_batch() {
    for name in MODELS {
        let whole = engine(name);
        let cells: Vec<Cell> = all_cells(whole.config()).into_iter().step_by(7).collect();
        let together = planned(&whole, &paired(&whole, &cells), &cells);
        for max_tokens in [1, 30] {
            let cut = engine(name).with_max_tokens(max_tokens);
            let paired = paired(&cut, &cells);
            let found = planned(&cut, &paired, &cells);
            for ((cell, found), expected) in cells.iter().zip(&found).zip(&together) {
                assert_same(found, expected, largest(&paired), &format!("{name}, {max_tokens} tokens: {cell:?}"));
            }
        }
    }
}

#[test]
fn what_is_not_there_is_named() {
    let engine = engine("llama-tiny");
    let config = engine.config();
    let cell = |edit| vec![Cell { mode: Mode::Denoising, edits: vec![edit] }];
    let all = PatchPositions::All;
    let swap = |k_rows| Change::Swap(Values::OtherRun, columns(k_rows, 1, 1));
    let at = |site, part, positions: PatchPositions, change| Edit { site, part, places: positions.into(), change };
    for (edit, expected) in [
        (Edit::replace(Site::Z(2), Part::All, all), "layers 0 to 1"),
        (Edit::replace(Site::Z(1), Part::Head(4), all), "0 to 3"),
        (Edit::replace(Site::K(1), Part::Head(2), all), "0 to 1 key-value heads"),
        (Edit::replace(Site::MlpPost(1), Part::Neuron(44), all), "0 to 43"),
        (Edit::replace(Site::ResidPre(1), Part::Head(0), all), "a site with heads"),
        (
            Edit::replace(Site::ResidPre(1), Part::All, PatchPositions::One(8)),
            "patched position of prompt 0: expected 0 to 7",
        ),
        (
            at(Site::ResidPre(1), Part::All, all, swap(39)),
            "length of the direction at blocks.1.hook_resid_pre: expected 40",
        ),
        (at(Site::Result(1), Part::Head(1), all, swap(10)), "expected 40, found 10"),
        (at(Site::ResidPre(1), Part::All, all, Change::Add(rows(1, 3, 1), 1.0)), "length of the vector"),
        (at(Site::ResidPre(1), Part::All, all, Change::Add(rows(2, 40, 1), 1.0)), "number of rows"),
    ] {
        let cells = cell(edit);
        let message = Plan::new(config, prompts(), &cells, 100).unwrap_err().to_string();
        assert!(message.contains(expected), "expected {expected:?} in {message:?}");
    }
}

#[test]
fn an_error_of_the_listener_ends_the_plan() {
    let engine = engine("gpt2-tiny");
    let cells = all_cells(engine.config());
    let paired = paired(&engine, &cells);
    let plan = Plan::new(engine.config(), paired.prompts(), &cells, engine.max_tokens()).unwrap();
    let mut heard = 0;
    let ended = plan.run(&engine, &paired, &[], |_| -> std::result::Result<(), EngineError> {
        heard += 1;
        Err(EngineError::NotCaptured { site: "stop".into() })
    });
    assert!(ended.is_err() && heard == 1);
}

/// `own + R Rᵀ (other - own)` on the host, as the paper's code makes it of two caches.
fn moved(own: &[f32], other: &[f32], columns: &Matrix) -> Vec<f32> {
    let mut moved = own.to_vec();
    for j in 0..columns.cols {
        let column: Vec<f32> = (0..columns.rows).map(|i| columns.data[i * columns.cols + j]).collect();
        let along: f32 = column.iter().zip(other.iter().zip(own)).map(|(c, (other, own))| c * (other - own)).sum();
        moved.iter_mut().zip(&column).for_each(|(value, c)| *value += along * c);
    }
    moved
}

/// The sequences of every prompt: that of the run that is patched, and the other one.
fn both_sides(prompts: &PairedPrompts, mode: Mode) -> Vec<(usize, usize)> {
    let pairs = prompts.clean.iter().copied().zip(prompts.corrupted.iter().copied());
    pairs
        .map(|(clean, corrupted)| if mode == Mode::Noising { (clean, corrupted) } else { (corrupted, clean) })
        .collect()
}

#[test]
fn residuals_of_the_unpatched_runs_replace_what_is_patched_before_them() {
    for name in MODELS {
        let engine = engine(name);
        let (n_layers, d_model) = (engine.config().n_layers, engine.config().d_model);
        let columns = columns(d_model, 2, 50);
        let everything = everything(&engine, &prompts());
        // At the first place there is no difference yet, and nothing to compute.
        let places = |mode| PLACES[1..].iter().map(move |&place| (mode, place));
        for (mode, place) in places(Mode::Denoising).chain(places(Mode::Noising)) {
            let running = residual_cell(columns.clone(), Layers::All, place, mode, n_layers);
            let last = residual_cell(columns.clone(), Layers::Own(n_layers - 1), place, mode, n_layers);
            let cells = [Base::Unpatched.of(running.clone()), running, last];
            let paired = paired(&engine, &cells);
            let found = planned(&engine, &paired, &cells);
            let sides = both_sides(paired.prompts(), mode);
            let list = |&(own, _): &(usize, usize)| match place {
                PatchPositions::One(position) => vec![position],
                PatchPositions::Last => vec![paired.prompts().sequences[own].len() - 1],
                PatchPositions::All => (0..paired.prompts().sequences[own].len()).collect(),
            };
            let places = Arc::new(sides.iter().map(list).collect::<Vec<_>>());
            let replaced = |layer: usize| {
                let site = Site::ResidPre(layer);
                let values = engine.backend().download(everything.site(site).unwrap()).unwrap();
                let value = |sequence: usize, position: usize| {
                    let token = everything.token(sequence, position).unwrap();
                    &values[token * d_model..(token + 1) * d_model]
                };
                let rows: Vec<f32> = sides
                    .iter()
                    .zip(&*places)
                    .flat_map(|(side, list)| list.iter().map(move |&position| (side, position)))
                    .flat_map(|(&(own, other), position)| moved(value(own, position), value(other, position), &columns))
                    .collect();
                let rows = Arc::new(Matrix::new(rows.len() / d_model, d_model, rows));
                let change = Change::Replace(Values::Rows(rows));
                Edit { site, part: Part::All, places: Places::PerPrompt(places.clone()), change }
            };
            let whole = Cell { mode, edits: (0..n_layers).map(replaced).collect() };
            let (largest, what) = (largest(&paired), format!("{name} {mode:?} {place:?}"));
            assert_same(&found[0], &from_tokens(&engine, &paired, &everything, &whole), largest, &what);
            if place == PatchPositions::All {
                assert_same(&found[0], &found[2], largest, &what);
                let apart = found[0].logit_differences.iter().zip(&found[1].logit_differences);
                assert!(apart.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) > 1e-3 * largest, "{what}");
            }
        }
    }
}

/// A block's output that is given: its site, where, and its rows.
type Given = (Site, Vec<Patch>, <CpuBackend as Backend>::Tensor);

fn replacing((site, patches, rows): &Given) -> Intervention<'_, CpuBackend> {
    let op = Op::Replace(Source::Rows(rows));
    Intervention { site: *site, part: Part::All, patches: patches.clone(), op }
}

#[test]
fn results_of_the_unpatched_runs_replace_what_reaches_them() {
    let heads = [(0, 1), (1, 0), (1, 1)];
    for name in MODELS {
        let engine = engine(name);
        let (n_layers, d_model, backend) = (engine.config().n_layers, engine.config().d_model, engine.backend());
        let columns = columns(d_model, 2, 51);
        let everything = everything(&engine, &prompts());
        for mode in [Mode::Denoising, Mode::Noising] {
            let running = head_results_cell(columns.clone(), &heads, mode);
            let cells = [Base::Unpatched.of(running.clone()), running];
            let paired = paired(&engine, &cells);
            let found = planned(&engine, &paired, &cells);
            let sides = both_sides(paired.prompts(), mode);
            let sequences: Vec<_> = sides.iter().map(|&(own, _)| paired.prompts().sequences[own].clone()).collect();
            // Whole passes, one layer after the other: what a head adds now gives way to what it adds in neither patched run.
            let mut outputs: Vec<Given> = Vec::new();
            let run = |outputs: &[Given], sites: &[Site]| {
                let edits: Vec<_> = outputs.iter().map(replacing).collect();
                engine.run_patched(&sequences, &edits, sites, paired.output(&[])).unwrap()
            };
            for layer in 0..n_layers {
                let site = Site::AttnOut(layer);
                let now = run(&outputs, &[site, Site::Z(layer)]);
                let mut rows = backend.download(now.site(site).unwrap()).unwrap();
                let mut patches = Vec::new();
                for (row, sequence) in sequences.iter().enumerate() {
                    let patch = |position| Patch { row, position, source: now.token(row, position).unwrap(), basis: 0 };
                    patches.extend((0..sequence.len()).map(patch));
                }
                for &(_, head) in heads.iter().filter(|(of, _)| *of == layer) {
                    let result = |run: &Run<CpuBackend>| engine.head_result(run, layer, head).unwrap();
                    let (unpatched, running) = (result(&everything), result(&now));
                    for patch in &patches {
                        let value = |sequence| unpatched.row(everything.token(sequence, patch.position).unwrap());
                        let (own, other) = sides[patch.row];
                        let wanted = moved(value(own), value(other), &columns);
                        let at = &mut rows[patch.source * d_model..(patch.source + 1) * d_model];
                        let change = wanted.iter().zip(running.row(patch.source));
                        at.iter_mut().zip(change).for_each(|(value, (wanted, now))| *value += wanted - now);
                    }
                }
                outputs.push((site, patches, backend.upload(&rows).unwrap()));
            }
            let whole = run(&outputs, &[]);
            let expected = Scores::new(whole.logits().unwrap(), 0, paired.answers());
            let (largest, what) = (largest(&paired), format!("{name} {mode:?}"));
            assert_same(&found[0], &expected, largest, &what);
            let apart = found[0].logit_differences.iter().zip(&found[1].logit_differences);
            assert!(apart.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) > 1e-3 * largest, "{what}");
        }
    }
}
