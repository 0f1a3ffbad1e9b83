//! Whole passes on tiny models: tokens to logits, resumed rows with patches, gradients, a DAS fit and attributions, each
//! compared with the CPU backend.

use crate::emulator::{Emulator, ORDERS, Setting, random};
use crate::support;
use actpatch::backend::{Backend, CpuBackend, Dtype};
use actpatch::directions::das::{Rotation, TrainSettings, train};
use actpatch::engine::*;
use actpatch::experiments::activation_maps::MapKind;
use actpatch::experiments::attention::mean_patterns;
use actpatch::experiments::attribution_patching::{Gradients, attribution_maps};
use actpatch::experiments::component::Component;
use actpatch::experiments::logit_attribution::{Attributed, LogitMap, head_contributions, logit_attribution};
use actpatch::model::{LoadOptions, Model, WeightProcessing};
use actpatch::types::{Matrix, PairedPrompts};
use std::collections::BTreeMap;

const MODELS: [&str; 3] = ["gpt2-tiny", "neox-parallel", "neox-sequential"];

/// Of the largest value of an output, through up to three blocks, both sides in f32 with sums in different orders (seen:
/// 4e-6).
const TOLERANCE: f32 = 2e-5;

/// What a pass has computed, by name.
type Values = Vec<(String, Vec<f32>)>;

pub fn load(name: &str, processing: WeightProcessing) -> Model {
    let folder = support::fixture(&format!("../engine/{name}"));
    Model::load(folder.to_str().unwrap(), &LoadOptions { processing, ..LoadOptions::default() }).unwrap()
}

pub fn prompts(lengths: &[usize], vocabulary: usize) -> Vec<Vec<u32>> {
    let token = |v: &f32| ((v + 1.0) / 2.0 * vocabulary as f32) as u32;
    lengths.iter().zip(1..).map(|(&length, seed)| random(length, seed).iter().map(token).collect()).collect()
}

fn sites<B: Backend>(engine: &Engine<B>) -> Vec<Site> {
    use Site::*;
    let per_layer = [ResidPre, ResidMid, ResidPost, AttnOut, MlpOut, Q, K, V, Pattern, Z, MlpPre, MlpPost];
    let layers = 0..engine.config().n_layers;
    let all = layers.flat_map(|layer| per_layer.map(|site| site(layer))).chain([Embed, FinalNormalized]);
    all.filter(|site| site.check(engine.config()).is_ok()).collect()
}

/// Tokens to logits over a ragged batch, every site captured.
fn whole<B: Backend>(engine: &Engine<B>) -> Values {
    let sequences = prompts(&[5, 9, 1, 12], engine.config().d_vocab);
    let sites = sites(engine);
    let run = engine.run(&sequences, &sites, &[], Output::All).unwrap();
    let mut values: Values = sites
        .iter()
        .map(|&site| (site.to_string(), engine.backend().download(run.site(site).unwrap()).unwrap()))
        .collect();
    values.push(("logits".into(), run.logits().unwrap().values.data.clone()));
    let answers = engine.answer_columns(&[3, 1, 4]).unwrap();
    let run = engine.run(&sequences, &[], &[], Output::AnswersAndLogSumExp(&answers)).unwrap();
    let logits = run.logits().unwrap();
    values.push(("answers".into(), logits.values.data.clone()));
    values.push(("log-sums".into(), logits.log_sum_exp.clone().unwrap()));
    values
}

/// Rows resumed behind captured prefixes, patched at several sites, and the gradient of their answers.
fn resumed<B: Backend>(engine: &Engine<B>) -> Values {
    let (backend, config) = (engine.backend(), engine.config());
    let sequences = prompts(&[8, 8, 10], config.d_vocab);
    let run = engine.run(&sequences, &sites(engine), &[4, 4, 6], Output::Last).unwrap();
    let bases = backend.upload(&random(2 * 2 * config.d_model, 7)).unwrap();
    let steering = backend.upload(&random(config.d_model, 8)).unwrap();
    let places = |position: usize| {
        let source = |row: usize| run.token((row + 1) % 3, position).unwrap();
        (0..3).map(|row| Patch { row, position, source: source(row), basis: row % 2 }).collect::<Vec<_>>()
    };
    let at = |site, part, position, op| Intervention { site, part, patches: places(position), op };
    let swap = || Op::Swap { source: Source::Run(&run), bases: &bases, k: 2 };
    let resume = Resume { run: &run, layer: 1, rows: &[(0, 4), (1, 4), (2, 6)] };
    let mut values = Values::new();
    let whole_rows = Resume { run: &run, layer: 1, rows: &[(0, 0), (1, 0), (2, 0)] };
    let mut steered = at(Site::MlpOut(1), Part::All, 7, Op::Add { source: Source::Rows(&steering), scale: 0.5 });
    steered.patches.iter_mut().for_each(|patch| patch.source = 0);
    let patterns = Intervention {
        patches: vec![Patch { row: 0, position: 6, source: run.token(1, 6).unwrap(), basis: 0 }],
        ..at(Site::Pattern(1), Part::Head(1), 6, Op::Replace(Source::Run(&run)))
    };
    for (name, resume, interventions) in [
        ("swap", &resume, vec![at(Site::ResidPre(1), Part::All, 6, swap())]),
        ("head", &resume, vec![at(Site::Z(1), Part::Head(0), 7, Op::Replace(Source::Run(&run)))]),
        ("zero", &resume, vec![at(Site::AttnOut(1), Part::All, 7, Op::Replace(Source::Zero))]),
        ("result", &resume, vec![at(Site::Result(1), Part::Head(1), 7, swap())]),
        ("steering and pattern", &whole_rows, vec![steered, patterns]),
    ] {
        let patched = engine.resume(resume, &interventions, &[], Output::Last).unwrap();
        values.push((name.to_owned(), patched.logits().unwrap().values.data.clone()));
    }
    let answers = engine.answer_columns(&[3, 1, 4]).unwrap();
    let swapped = [at(Site::ResidPre(1), Part::All, 6, swap())];
    let (_, tape) = engine.resume_with_tape(&resume, &swapped, Output::Answers(&answers)).unwrap();
    let d_logits = Matrix::new(3, 3, random(9, 9));
    let gradient = engine.backward(&resume, &tape, &answers, &d_logits).unwrap();
    values.push(("gradient".into(), backend.download(&gradient).unwrap()));
    values
}

/// Four prompts, each the corrupted one of another.
pub fn pairs(vocabulary: usize) -> PairedPrompts {
    PairedPrompts {
        name: "random".into(),
        texts: vec![String::new(); 4],
        sequences: prompts(&[7; 4], vocabulary),
        clean: vec![0, 1, 2, 3],
        corrupted: vec![1, 2, 3, 0],
        positive: vec![true, false, true, false],
        has_classes: true,
        answers: vec![vec![(3, 1), (4, 2)], vec![(1, 3), (2, 4)], vec![(3, 1), (4, 2)], vec![(1, 3), (2, 4)]],
        positions: BTreeMap::new(),
    }
}

/// Losses and columns of a short DAS fit, at one position and at all of them.
fn fitted<B: Backend>(engine: &Engine<B>) -> Values {
    let paired = pairs(engine.config().d_vocab);
    let mut values = Values::new();
    for positions in [PatchPositions::One(4), PatchPositions::All] {
        let paired = PairedRun::new(engine, paired.clone(), &[Site::ResidPre(1)], &[positions], false).unwrap();
        let rotation = Rotation::random(engine.config().d_model, 2, 5).unwrap();
        let settings = TrainSettings { epochs: 3, batch_size: 4, ..TrainSettings::default() };
        let trained =
            train(engine, &paired, (1, positions), &rotation, &settings, |_| Ok(Vec::new()), &|| false).unwrap();
        values.push((format!("losses {positions:?}"), trained.losses.iter().map(|v| *v as f32).collect()));
        values.push((format!("columns {positions:?}"), trained.columns.data));
    }
    values
}

/// Logit attribution, attribution patching, patterns and contributions of heads.
fn attributed<B: Backend>(engine: &Engine<B>) -> Values {
    let (paired, config) = (pairs(engine.config().d_vocab), engine.config());
    let mut values = Values::new();
    let mut push = |name: String, found: Vec<f64>| values.push((name, found.iter().map(|v| *v as f32).collect()));
    for map in logit_attribution(engine, &paired, &LogitMap::ALL, Attributed::Difference, MEMORY_BUDGET).unwrap() {
        push(map.map.to_string(), map.values);
    }
    let there = |component: &Component| component.site(0).check(config).is_ok();
    let kinds = Component::ALL.into_iter().filter(there).map(|component| component.name().parse().unwrap());
    let kinds: Vec<MapKind> = kinds.collect();
    for gradients in [Gradients::Plain, Gradients::Integrated(2)] {
        let metrics = [Metric::LogitDiffNoising];
        let told = |_| Ok::<(), EngineError>(());
        let (baselines, maps) =
            attribution_maps(engine, &paired, &kinds, &metrics, gradients, MEMORY_BUDGET, told).unwrap();
        let (clean, corrupted) = baselines.logit_differences();
        for map in maps {
            push(map.kind.to_string(), map.values.iter().map(|value| value * (clean - corrupted)).collect());
        }
    }
    let heads = [(0, 1), (1, 0)];
    let mean = mean_patterns(engine, &paired, &heads, MEMORY_BUDGET).unwrap();
    push("mean patterns".into(), mean.weighted());
    push("contributions".into(), head_contributions(engine, &paired, MEMORY_BUDGET).unwrap());
    values
}

/// Logits of texts that grow, of which one stops, with something added and a head's pattern patched at every new token.
fn continued<B: Backend>(engine: &Engine<B>) -> Values {
    let row = engine.backend().upload(&random(engine.config().d_model, 11)).unwrap();
    let at = |places: &[(usize, usize)]| {
        let patches: Vec<Patch> =
            places.iter().map(|&(row, position)| Patch { row, position, source: 0, basis: 0 }).collect();
        let add = Op::Add { source: Source::Rows(&row), scale: 0.5 };
        let zero = Op::Replace(Source::Zero);
        [
            Intervention { site: Site::ResidPre(1), part: Part::All, patches: patches.clone(), op: add },
            Intervention { site: Site::Pattern(0), part: Part::Head(1), patches, op: zero },
        ]
    };
    let sequences = prompts(&[5, 3], engine.config().d_vocab);
    let everywhere: Vec<(usize, usize)> =
        sequences.iter().enumerate().flat_map(|(row, tokens)| (0..tokens.len()).map(move |at| (row, at))).collect();
    let (mut texts, first) = engine.begin_texts(&sequences, &at(&everywhere), &[0, 1, 0], 3).unwrap();
    let mut values: Values = vec![("prompts".into(), first.values.data)];
    for next in [&[(0, 7), (1, 2), (2, 30)][..], &[(2, 4), (0, 1)], &[(2, 9)]] {
        let places: Vec<_> = next.iter().enumerate().map(|(row, next)| (row, texts.next_position(next.0))).collect();
        let run = engine.extend_texts(&mut texts, next, &at(&places), &[], Output::Last).unwrap();
        values.push((format!("{next:?}"), run.logits().unwrap().values.data.clone()));
    }
    values
}

fn compare(what: &str, found: &Values, expected: &Values) {
    assert_eq!(found.len(), expected.len());
    let mut worst = 0.0f32;
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        assert_eq!(found.len(), expected.len(), "{what}, {name}");
        let scale = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        for (i, (f, e)) in found.iter().zip(expected).enumerate() {
            let error = (f - e).abs() / scale;
            assert!(error <= TOLERANCE, "{what}, {name}: value {i} is {f}, on the CPU {e}");
            worst = worst.max(error);
        }
    }
    println!("{what}: {} outputs off by at most {worst:.1e} of their largest value", found.len());
}

/// A computation that can run on any backend.
trait Computation {
    fn values<B: Backend>(engine: &Engine<B>) -> Values;
}

struct Whole;
struct Resumed;
struct Fitted;
struct AttributedTo;
struct Continued;

impl Computation for Whole {
    fn values<B: Backend>(engine: &Engine<B>) -> Values {
        whole(engine)
    }
}

impl Computation for Resumed {
    fn values<B: Backend>(engine: &Engine<B>) -> Values {
        resumed(engine)
    }
}

impl Computation for Fitted {
    fn values<B: Backend>(engine: &Engine<B>) -> Values {
        fitted(engine)
    }
}

impl Computation for AttributedTo {
    fn values<B: Backend>(engine: &Engine<B>) -> Values {
        attributed(engine)
    }
}

impl Computation for Continued {
    fn values<B: Backend>(engine: &Engine<B>) -> Values {
        continued(engine)
    }
}

/// Compares both backends on every model, with threads in one of the orders each.
fn check<C: Computation>(name: &str) {
    let Some(emulator) = Emulator::start() else { return };
    let mut orders = ORDERS.into_iter().cycle();
    for model in MODELS {
        for processing in [WeightProcessing::none(), WeightProcessing::processed()] {
            emulator.set(Setting::Order, orders.next().unwrap_or_default());
            let gpu = Engine::new(emulator.backend(Dtype::F32), load(model, processing)).unwrap();
            let cpu = Engine::new(CpuBackend::new(Dtype::F32).unwrap(), load(model, processing)).unwrap();
            compare(&format!("{name} of {model}"), &C::values(&gpu), &C::values(&cpu));
        }
    }
}

#[test]
pub fn whole_passes_equal_those_of_the_cpu() {
    check::<Whole>("whole pass");
}

#[test]
pub fn resumed_and_patched_passes_and_gradients_equal_those_of_the_cpu() {
    check::<Resumed>("resumed pass");
}

#[test]
pub fn das_fits_equal_those_of_the_cpu() {
    check::<Fitted>("DAS fit");
}

#[test]
pub fn attributions_and_attention_equal_those_of_the_cpu() {
    check::<AttributedTo>("attribution");
}

#[test]
pub fn growing_texts_equal_those_of_the_cpu() {
    check::<Continued>("texts");
}
