//! Ablations and circuit faithfulness against TransformerLens hooks in f64, on tiny random models.
//!
//! Fixtures and the script that made them: `tests/fixtures/ablation`, `tests/reference/make_ablation_fixtures.py`.

mod support;

use actpatch::backend::{CpuBackend, Dtype};
use actpatch::engine::*;
use actpatch::experiments::ablation::*;
use actpatch::experiments::chunks::{MEMORY_BUDGET, Progress, patch_dataset};
use actpatch::experiments::component::Component;
use actpatch::experiments::faithfulness::*;
use actpatch::model::{LoadOptions, Model};
use actpatch::types::{Matrix, PairedPrompts};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

const MODELS: [&str; 6] = ["gpt2-tiny", "neox-parallel", "neox-sequential", "llama-tiny", "mistral-tiny", "qwen3-tiny"];

/// Logit differences of order 1 to 10 in f32, through up to three blocks: 1e-4 absolute.
const ABSOLUTE: f64 = 1e-4;

struct Fixture {
    name: &'static str,
    engine: Engine<CpuBackend>,
    prompts: PairedPrompts,
    tensors: support::Tensors,
    cases: Value,
}

fn fixtures() -> impl Iterator<Item = Fixture> {
    MODELS.into_iter().map(|name| {
        let folder = support::fixture(&format!("../ablation/{name}"));
        let tensors = support::read_tensors(&folder.join("results.safetensors"));
        let model = support::fixture(&format!("../engine/{name}"));
        let model = Model::load(model.to_str().unwrap(), &LoadOptions::default()).unwrap();
        let cases = serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
        let engine = Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap();
        Fixture { name, engine, prompts: support::circuit_prompts(&tensors), tensors, cases }
    })
}

impl Fixture {
    fn direction(&self, layer: usize) -> Arc<Matrix> {
        let stored = &self.tensors[&format!("direction.{layer}")];
        Arc::new(Matrix::new(stored.shape[0], stored.shape[1], stored.values()))
    }

    fn condition(&self, case: &Value) -> Condition {
        let along = case["along"].as_bool().unwrap();
        let ablated = |node: &Value| {
            let component: Component = node[0].as_str().unwrap().parse().unwrap();
            let layer = node[1].as_u64().unwrap() as usize;
            let part = node[2].as_u64().map_or(Part::All, |number| component.part(number as usize));
            let site = if along && component == Component::Z { Site::Result(layer) } else { component.site(layer) };
            let subspace = along.then(|| self.direction(layer + usize::from(component == Component::ResidPost)));
            Ablated { site, part, subspace }
        };
        Condition {
            ablated: case["nodes"].as_array().unwrap().iter().map(ablated).collect(),
            replacement: case["method"].as_str().unwrap().parse().unwrap(),
            places: places(&case["positions"]),
            kept: (!case["kept"].is_null()).then(|| places(&case["kept"])),
            frozen_attention: case["frozen"].as_bool().unwrap(),
        }
    }

    /// Conditions on the whole dataset.
    fn outcome(&self, conditions: &[Condition], budget: usize) -> Outcome {
        let told = |_: f64| Ok::<(), EngineError>(());
        ablation(&self.engine, &self.prompts, conditions, 3, budget, told).unwrap()
    }
}

fn places(lists: &Value) -> Places {
    let list = |list: &Value| list.as_array().unwrap().iter().map(|p| p.as_u64().unwrap() as usize).collect();
    let lists: Vec<Vec<usize>> = lists.as_array().unwrap().iter().map(list).collect();
    match &lists[0][..] {
        // The same places by their names.
        everywhere if everywhere.len() == 9 => PatchPositions::All.into(),
        &[8] if lists.iter().all(|list| list == &[8]) => PatchPositions::Last.into(),
        _ => Places::PerPrompt(Arc::new(lists)),
    }
}

#[track_caller]
fn compare(what: &str, found: &[f64], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(f, e)| (f - f64::from(*e)).abs()).fold(0.0, f64::max);
    assert!(worst <= ABSOLUTE, "{what}: off by {worst:e}: {found:?} {expected:?}");
    worst
}

/// Does something differ by more than what rounding does?
fn differ(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-3)
}

#[test]
fn ablations_match_hooks() {
    for fixture in fixtures() {
        let cases = fixture.cases.as_array().unwrap();
        let conditions: Vec<Condition> = cases.iter().map(|case| fixture.condition(case)).collect();
        let clean = fixture.tensors["clean"].values();
        let mut worst: f64 = 0.0;
        for budget in [MEMORY_BUDGET, 1] {
            let outcome = fixture.outcome(&conditions, budget);
            compare(fixture.name, &outcome.clean.logit_differences, &clean);
            for (number, scores) in outcome.ablated.iter().enumerate() {
                let expected = fixture.tensors[&format!("ablation.{number}")].values();
                assert!(differ(&expected, &clean), "{} case {number}: the reference must move", fixture.name);
                let what = format!("{} case {number}: {}", fixture.name, cases[number]);
                worst = worst.max(compare(&what, &scores.logit_differences, &expected));
            }
        }
        println!("{}: {} ablations off by at most {worst:e}", fixture.name, conditions.len());
    }
}

/// Resampling is what `corrupted` is on the pairs that are drawn.
#[test]
fn resampling_takes_the_drawn_prompts_values() {
    for mut fixture in fixtures().take(2) {
        let mut condition = fixture.condition(&fixture.cases[6]);
        condition.replacement = Replacement::Resample;
        let drawn = fixture.outcome(std::slice::from_ref(&condition), MEMORY_BUDGET);
        fixture.prompts = resampled(&fixture.prompts, 3).unwrap();
        condition.replacement = Replacement::Corrupted;
        assert_eq!(fixture.outcome(&[condition], MEMORY_BUDGET), drawn);
    }
}

#[test]
fn what_a_condition_reaches_is_planned() {
    let fixture = fixtures().next().unwrap();
    let mut condition = fixture.condition(&fixture.cases[5]);
    let config = fixture.engine.config();
    assert_eq!(condition.plan(config, &fixture.prompts, 4096).unwrap().reached, [0, 1, 3]);
    let refused = |condition: &Condition| condition.plan(config, &fixture.prompts, 4096).unwrap_err().to_string();
    condition.replacement = Replacement::Corrupted;
    // Before the first position at which the runs differ there is nothing to replace.
    condition.places = PatchPositions::One(1).into();
    assert!(refused(&condition).contains("never fires"), "{}", refused(&condition));
    condition.places = PatchPositions::One(99).into();
    assert!(refused(&condition).contains("found 99"), "{}", refused(&condition));
    let mut pattern = fixture.condition(&fixture.cases[2]);
    pattern.replacement = Replacement::Mean;
    assert!(refused(&pattern).contains("expected zero, resample or corrupted, found mean"), "{}", refused(&pattern));
    let mut late = fixture.condition(&fixture.cases[1]);
    late.ablated.retain(|ablated| ablated.part != Part::All);
    late.ablated[0].site = Site::Z(config.n_layers - 1);
    assert!(refused(&late).contains("reaches the logits"), "{}", refused(&late));
}

#[test]
fn faithfulness_matches_hooks() {
    for fixture in fixtures() {
        let config = fixture.engine.config();
        let along: BTreeMap<usize, Arc<Matrix>> = (0..config.n_layers).map(|l| (l, fixture.direction(l))).collect();
        let at = |positions: &[usize]| Places::PerPrompt(Arc::new(vec![positions.to_vec(); 4]));
        let circuit = |places: [Places; 2]| {
            let heads = [(0, 1), (1, 0)].into_iter().zip(places);
            heads.map(|((layer, head), places)| CircuitHead { layer, head, places }).collect::<Vec<_>>()
        };
        let everywhere = || circuit([PatchPositions::All.into(), PatchPositions::All.into()]);
        let settings = [
            ("heads", everywhere(), None),
            ("heads_positions", circuit([at(&[3, 4]), PatchPositions::Last.into()]), None),
            ("heads_direction", everywhere(), Some(&along)),
        ];
        let mut worst: f64 = 0.0;
        for (setting, circuit, along) in &settings {
            for patched in Patched::ALL {
                let cell = faithfulness_cell(config, &fixture.prompts, circuit, *along, patched).unwrap();
                for budget in [MEMORY_BUDGET, 1] {
                    let told = |_: Progress<'_>| Ok::<(), EngineError>(());
                    let cells = [cell.clone()];
                    let metrics = [Metric::LogitDiff];
                    let (_, scores) =
                        patch_dataset(&fixture.engine, &fixture.prompts, &cells, &metrics, budget, told).unwrap();
                    let name = format!("faithfulness.{setting}.{}", patched.name());
                    let expected = fixture.tensors[&name].values();
                    assert!(
                        differ(&expected, &fixture.tensors["corrupted"].values()),
                        "{name}: the reference must move"
                    );
                    let what = format!("{} {name}", fixture.name);
                    worst = worst.max(compare(&what, &scores[0].logit_differences, &expected));
                }
            }
        }
        println!("{}: faithfulness off by at most {worst:e}", fixture.name);
        let wrong = |heads: &[(usize, usize)]| {
            let head = |&(layer, head): &_| CircuitHead { layer, head, places: PatchPositions::All.into() };
            let circuit: Vec<CircuitHead> = heads.iter().map(head).collect();
            let cell = faithfulness_cell(config, &fixture.prompts, &circuit, None, Patched::Circuit);
            cell.unwrap_err().to_string()
        };
        assert!(wrong(&[(0, 9)]).contains("found 0.9"));
        assert!(wrong(&[(0, 1), (0, 1)]).contains("0.1 twice"));
    }
}
