//! Direct logit attribution against TransformerLens in f64, on tiny random models.
//!
//! Fixtures and the script that made them: `tests/fixtures/attribution`, `tests/reference/make_attribution_fixtures.py`.

mod support;

use actpatch::backend::{CpuBackend, Dtype};
use actpatch::engine::*;
use actpatch::experiments::chunks::{MEMORY_BUDGET, baselines};
use actpatch::experiments::logit_attribution::{Attributed, Attribution, LogitMap, logit_attribution};
use actpatch::model::{LoadOptions, Model, WeightProcessing};
use actpatch::types::{Matrix, PairedPrompts};

const MODELS: [&str; 6] = ["gpt2-tiny", "neox-parallel", "neox-sequential", "llama-tiny", "mistral-tiny", "qwen3-tiny"];

/// Logits of order 1 in f32, through up to three blocks.
const ABSOLUTE: f64 = 1e-4;

struct Fixture {
    name: &'static str,
    prompts: PairedPrompts,
    tensors: support::Tensors,
}

fn fixtures() -> impl Iterator<Item = Fixture> {
    MODELS.into_iter().map(|name| {
        let file = |path: String| support::read_tensors(&support::fixture(&path));
        let prompts = support::circuit_prompts(&file(format!("../circuits/{name}/results.safetensors")));
        Fixture { name, prompts, tensors: file(format!("../attribution/{name}.safetensors")) }
    })
}

impl Fixture {
    fn engine(&self, processing: WeightProcessing) -> Engine<CpuBackend> {
        let folder = support::fixture(&format!("../engine/{}", self.name));
        let options = LoadOptions { processing, ..LoadOptions::default() };
        let model = Model::load(folder.to_str().unwrap(), &options).unwrap();
        Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap()
    }
}

#[track_caller]
fn compare(what: &str, found: &[f64], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(f, e)| (f - f64::from(*e)).abs()).fold(0.0, f64::max);
    assert!(worst <= ABSOLUTE, "{what}: off by {worst:e}: {found:?} {expected:?}");
    worst
}

#[test]
fn logit_attribution_matches_transformer_lens() {
    for fixture in fixtures() {
        let engine = fixture.engine(WeightProcessing::default());
        let attributed = |of, budget| logit_attribution(&engine, &fixture.prompts, &LogitMap::ALL, of, budget).unwrap();
        let mut worst: f64 = 0.0;
        for (of, name) in [(Attributed::Clean, "clean"), (Attributed::Corrupted, "corrupted")] {
            for budget in [MEMORY_BUDGET, 1] {
                for Attribution { map, shape, mut values } in attributed(of, budget) {
                    let expected = &fixture.tensors[&format!("dla.{name}.{map}")];
                    if map == LogitMap::Layers {
                        // TransformerLens leaves the biases out.
                        values.pop();
                    } else {
                        assert_eq!(shape, expected.shape, "{} {map}", fixture.name);
                    }
                    let what = format!("{} {name} {map}", fixture.name);
                    worst = worst.max(compare(&what, &values, &expected.values()));
                }
            }
        }
        println!("{}: attribution off by at most {worst:e}", fixture.name);
        let all = [Attributed::Difference, Attributed::Clean, Attributed::Corrupted];
        let [difference, clean, corrupted] = all.map(|of| attributed(of, MEMORY_BUDGET));
        for ((difference, clean), corrupted) in difference.iter().zip(&clean).zip(&corrupted) {
            for ((d, a), b) in difference.values.iter().zip(&clean.values).zip(&corrupted.values) {
                assert!((d - (a - b)).abs() < 1e-12);
            }
        }
    }
}

#[test]
fn layers_add_up_to_the_logit_difference_whatever_was_folded() {
    for fixture in fixtures() {
        for processing in [WeightProcessing::default(), WeightProcessing::none()] {
            let engine = fixture.engine(processing);
            let maps = [LogitMap::Layers, LogitMap::Lens, LogitMap::Heads];
            let found = logit_attribution(&engine, &fixture.prompts, &maps, Attributed::Clean, MEMORY_BUDGET).unwrap();
            let (logits, _) = baselines(&engine, &fixture.prompts, MEMORY_BUDGET).unwrap().logit_differences();
            let sum: f64 = found[0].values.iter().sum();
            assert!((sum - logits).abs() < ABSOLUTE, "{}: {sum} of {logits}", fixture.name);
            let [.., bias] = found[0].values[..] else { panic!() };
            let [.., end] = found[1].values[..] else { panic!() };
            assert!((end + bias - logits).abs() < ABSOLUTE, "{}: {end} + {bias} of {logits}", fixture.name);
        }
    }
}

#[test]
fn readouts_refuse_what_they_cannot_read() {
    let fixture = fixtures().next().unwrap();
    let engine = fixture.engine(WeightProcessing::default());
    let directions = Matrix::zeros(1, engine.config().d_model);
    let complaint = |site, directions: &Matrix| engine.written_along(site, directions).unwrap_err().to_string();
    assert!(complaint(Site::AttnOut(0), &directions).contains("expected attn.hook_z or mlp.hook_post"));
    assert!(complaint(Site::Z(9), &directions).contains("layers 0..3"));
    assert!(complaint(Site::Z(0), &Matrix::zeros(1, 3)).contains("expected 48, found 3"));
    let mut uneven = fixture.prompts.clone();
    uneven.sequences[0].pop();
    let maps = [LogitMap::LensByPosition];
    let error = logit_attribution(&engine, &uneven, &maps, Attributed::Clean, MEMORY_BUDGET).unwrap_err();
    assert!(error.to_string().contains("in a map by position"), "{error}");
}
