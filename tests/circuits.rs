//! Activation-patching maps, heads mode and path patching against TransformerLens in f64, on tiny random models.
//!
//! Fixtures and the scripts that made them: `tests/fixtures/circuits`, `tests/reference/make_circuit_fixtures.py`.

mod support;

use actpatch::backend::{CpuBackend, Dtype};
use actpatch::engine::*;
use actpatch::experiments::activation_maps::{MapKind, activation_maps};
use actpatch::experiments::chunks::{Progress, patch_dataset};
use actpatch::experiments::component::Component;
use actpatch::experiments::patching_suite::head_results_cell;
use actpatch::experiments::path_patching::*;
use actpatch::model::{LoadOptions, Model};
use actpatch::types::{Matrix, PairedPrompts};
use serde_json::Value;
use support::{compare, within};

const MODELS: [&str; 6] = ["gpt2-tiny", "neox-parallel", "neox-sequential", "llama-tiny", "mistral-tiny", "qwen3-tiny"];

struct Fixture {
    name: &'static str,
    engine: Engine<CpuBackend>,
    prompts: PairedPrompts,
    tensors: support::Tensors,
    cases: Value,
}

fn fixtures() -> impl Iterator<Item = Fixture> {
    MODELS.into_iter().map(|name| {
        let folder = support::fixture(&format!("../circuits/{name}"));
        let tensors = support::read_tensors(&folder.join("results.safetensors"));
        let model = support::fixture(&format!("../engine/{name}"));
        let model = Model::load(model.to_str().unwrap(), &LoadOptions::default()).unwrap();
        let cases = serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
        let engine = Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap();
        Fixture { name, engine, prompts: support::circuit_prompts(&tensors), tensors, cases }
    })
}

/// The metrics whose numerators TransformerLens' logit differences are compared with.
fn metric(mode: &str) -> Metric {
    if mode == "noising" { Metric::LogitDiffNoising } else { Metric::LogitDiff }
}

/// The patched logit difference, or log probability, that a normalised metric stands for.
fn unnormalised(baselines: &Baselines, metric: Metric, value: f64) -> f64 {
    let level = |scores: &Scores| {
        let values = if metric.needs_probabilities() { &scores.log_probabilities } else { &scores.logit_differences };
        values.iter().sum::<f64>() / values.len() as f64
    };
    let (clean, corrupted) = (level(&baselines.clean), level(&baselines.corrupted));
    value * (clean - corrupted) + if metric.mode() == Mode::Denoising { corrupted } else { clean }
}

fn go_on(_: f64) -> std::result::Result<(), EngineError> {
    Ok(())
}

#[test]
fn activation_maps_match_transformer_lens() {
    for fixture in fixtures() {
        let names = ["z", "q", "k", "v", "pattern", "resid_pre", "attn_out", "mlp_out", "z_by_position"];
        let kinds: Vec<MapKind> = names.iter().map(|name| name.parse().unwrap()).collect();
        let metrics = [Metric::LogitDiff, Metric::LogitDiffNoising];
        let mut worst: f64 = 0.0;
        for least in [false, true] {
            let maps = |budget| activation_maps(&fixture.engine, &fixture.prompts, &kinds, &metrics, budget, go_on);
            let (baselines, maps) = within(least, maps);
            assert_eq!(maps.len(), 2 * names.len());
            for map in &maps {
                let mode = if map.metric.mode() == Mode::Denoising { "denoising" } else { "noising" };
                let name = format!("map.{mode}.{}", map.kind);
                let expected = &fixture.tensors[&name];
                assert_eq!(map.shape, expected.shape, "{} {name}", fixture.name);
                let values: Vec<f64> = map.values.iter().map(|v| unnormalised(&baselines, map.metric, *v)).collect();
                worst = worst.max(compare(&format!("{} {name}", fixture.name), &values, &expected.values()));
            }
        }
        println!("{}: maps off by at most {worst:e}", fixture.name);
    }
}

/// From every head's `z` to the end of the residual stream.
fn to_the_end(n_layers: usize) -> Paths {
    let end = Node { component: Component::ResidPost, layer: n_layers - 1, part: Part::All };
    Paths {
        senders: Nodes::Every(Component::Z),
        receivers: Nodes::Together(vec![end]),
        positions: SenderPositions::All,
        method: Method::ThreeSteps { mlps: true },
        layer_wide: false,
    }
}

#[test]
fn log_probabilities_match_transformer_lens() {
    for fixture in fixtures() {
        let folder = support::fixture(&format!("../circuits/{}", fixture.name));
        let tensors = support::read_tensors(&folder.join("log_prob.safetensors"));
        let kinds: Vec<MapKind> = ["z", "resid_pre"].map(|name| name.parse().unwrap()).to_vec();
        let paths = to_the_end(fixture.engine.config().n_layers);
        let mut worst: f64 = 0.0;
        for (metric, mode) in [(Metric::LogProb, "denoising"), (Metric::LogProbNoising, "noising")] {
            let (engine, prompts, metrics) = (&fixture.engine, &fixture.prompts, [metric]);
            let (baselines, maps) = activation_maps(engine, prompts, &kinds, &metrics, MEMORY_BUDGET, go_on).unwrap();
            let maps = maps.into_iter().map(|map| (format!("map.{mode}.{}", map.kind), map.values));
            let (_, found, _) = path_patching(engine, prompts, &paths, &metrics, MEMORY_BUDGET, go_on).unwrap();
            let found = found.into_iter().map(|map| (format!("path.{mode}"), map.values));
            for (name, values) in maps.chain(found) {
                let values: Vec<f64> = values.iter().map(|v| unnormalised(&baselines, metric, *v)).collect();
                worst = worst.max(compare(&format!("{} {name}", fixture.name), &values, &tensors[&name].values()));
            }
        }
        println!("{}: log probabilities off by at most {worst:e}", fixture.name);
    }
}

#[test]
fn what_is_measured_along_a_direction_matches_transformer_lens() {
    for Fixture { name, prompts, .. } in fixtures() {
        let tensors =
            support::read_tensors(&support::fixture(&format!("../circuits/{name}")).join("along.safetensors"));
        let model = support::fixture(&format!("../engine/{name}"));
        let load = || Model::load(model.to_str().unwrap(), &LoadOptions::default()).unwrap();
        let model = load().with_readout(tensors["direction"].values()).unwrap();
        let prompts = prompts.with_answers(model.readout_answers().unwrap());
        let engine = Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap();
        let kinds: Vec<MapKind> = ["z", "resid_pre"].map(|name| name.parse().unwrap()).to_vec();
        let paths = to_the_end(engine.config().n_layers);
        let mut worst: f64 = 0.0;
        for (metric, mode) in [(Metric::LogitDiff, "denoising"), (Metric::LogitDiffNoising, "noising")] {
            let metrics = [metric];
            let (baselines, maps) = activation_maps(&engine, &prompts, &kinds, &metrics, MEMORY_BUDGET, go_on).unwrap();
            let unpatched = if mode == "noising" { &baselines.clean } else { &baselines.corrupted };
            let unpatched = vec![(format!("unpatched.{mode}"), vec![unpatched.logit_difference()])];
            let patched = |values: Vec<f64>| values.iter().map(|v| unnormalised(&baselines, metric, *v)).collect();
            let maps = maps.into_iter().map(|map| (format!("map.{mode}.{}", map.kind), patched(map.values)));
            let (_, found, _) = path_patching(&engine, &prompts, &paths, &metrics, MEMORY_BUDGET, go_on).unwrap();
            let found = found.into_iter().map(|map| (format!("path.{mode}"), patched(map.values)));
            for (what, values) in unpatched.into_iter().chain(maps).chain(found) {
                worst = worst.max(compare(&format!("{name} {what}"), &values, &tensors[&what].values()));
            }
        }
        println!("{name}: measured along a direction off by at most {worst:e}");
        let error = load().with_readout(vec![1.0; 3]).unwrap_err().to_string();
        assert!(error.contains("direction to read along: expected") && error.contains("found 3"), "{error}");
        // Pairs of the vocabulary are not read beside it, and without it there is nothing behind the vocabulary.
        let (along, _) = engine.model().readout_answers().unwrap();
        assert!(engine.answer_columns(&[0, along]).is_err() && load().unembed_columns(&[along]).is_err());
    }
}

#[test]
fn swapped_head_results_match_transformer_lens() {
    for fixture in fixtures() {
        let subspace = &fixture.tensors["subspace"];
        let columns = Matrix::new(subspace.shape[0], subspace.shape[1], subspace.values());
        for (mode, name) in [(Mode::Denoising, "denoising"), (Mode::Noising, "noising")] {
            let cells = [head_results_cell(columns.clone(), &[(0, 1), (1, 0), (1, 1)], mode)];
            let mut scores = Vec::new();
            let told = |step: Progress<'_>| {
                scores.extend(step.finished);
                Ok::<(), EngineError>(())
            };
            patch_dataset(&fixture.engine, &fixture.prompts, &cells, &[metric(name)], MEMORY_BUDGET, told).unwrap();
            let expected = fixture.tensors[&format!("heads.{name}")].values();
            let unpatched = fixture.tensors[&format!("unpatched.{name}")].values();
            assert!((expected[0] - unpatched[0]).abs() > 1e-3, "the reference must move");
            compare(&format!("{} {name}", fixture.name), &[scores[0].1.logit_difference()], &expected);
        }
    }
}

fn node(value: &Value) -> Node {
    let component: Component = value[0].as_str().unwrap().parse().unwrap();
    let part = value[2].as_u64().map_or(Part::All, |number| component.part(number as usize));
    Node { component, layer: value[1].as_u64().unwrap() as usize, part }
}

fn paths(case: &Value) -> Paths {
    let swept = Nodes::Every(case["sites"][0].as_str().unwrap().parse().unwrap());
    let fixed = Nodes::Together(case["fixed"].as_array().unwrap().iter().map(node).collect());
    let (senders, receivers) = if case["sweep"] == "senders" { (swept, fixed) } else { (fixed, swept) };
    let list = |list: &Value| list.as_array().unwrap().iter().map(|p| p.as_u64().unwrap() as usize).collect();
    let positions = match &case["positions"] {
        Value::String(name) if name == "all" => SenderPositions::All,
        Value::String(_) => SenderPositions::Each,
        Value::Number(position) => SenderPositions::One(position.as_u64().unwrap() as usize),
        lists => SenderPositions::PerPrompt(lists.as_array().unwrap().iter().map(list).collect()),
    };
    let method = match case["method"].as_str().unwrap() {
        "two_step" => Method::TwoSteps,
        _ => Method::ThreeSteps { mlps: case["mlps"].as_bool().unwrap_or(true) },
    };
    Paths { senders, receivers, positions, method, layer_wide: case["layer_wide"].as_bool().unwrap() }
}

#[test]
fn path_patching_matches_plain_passes_with_hooks() {
    for fixture in fixtures() {
        let (mut worst, mut moved): (f64, usize) = (0.0, 0);
        let cases = fixture.cases.as_array().unwrap();
        for case in cases {
            let (paths, name) = (paths(case), case["result"].as_str().unwrap());
            let metric = metric(case["mode"].as_str().unwrap());
            let expected = &fixture.tensors[name];
            // One of many layers may be stored.
            let layers = case["layers"].as_array().map_or(usize::MAX, Vec::len);
            for least in [false, true] {
                if least && expected.values().len() > 60 {
                    continue;
                }
                let maps = |budget| path_patching(&fixture.engine, &fixture.prompts, &paths, &[metric], budget, go_on);
                let (baselines, maps, flops) = within(least, maps);
                assert!(flops.done.0 < flops.naive.0, "{flops:?}");
                let mut values: Vec<f64> =
                    maps[0].values.iter().map(|v| unnormalised(&baselines, metric, *v)).collect();
                if layers == usize::MAX {
                    assert_eq!(maps[0].shape, expected.shape, "{} {case}", fixture.name);
                }
                values.truncate(expected.values().len());
                worst = worst.max(compare(&format!("{} {case}", fixture.name), &values, &expected.values()));
            }
            let unpatched = fixture.tensors[&format!("unpatched.{}", case["mode"].as_str().unwrap())].values()[0];
            moved += usize::from(expected.values().iter().any(|v| (v - unpatched).abs() > 1e-3));
        }
        assert_eq!(moved, cases.len(), "{}: every case must move something", fixture.name);
        println!("{}: {} path maps off by at most {worst:e}", fixture.name, cases.len());
    }
}

#[test]
fn paths_that_cannot_be_are_named() {
    let fixture = fixtures().find(|fixture| fixture.name == "llama-tiny").unwrap();
    let parse = |text: &str| match text.parse::<NodePattern>().unwrap() {
        NodePattern::Every(component) => Nodes::Every(component),
        NodePattern::One(node) => Nodes::Together(vec![node]),
    };
    let complaint = |senders: &str, receivers: &str, positions: SenderPositions, method: Method| {
        let (senders, receivers) = (parse(senders), parse(receivers));
        let paths = Paths { senders, receivers, positions, method, layer_wide: false };
        let metrics = [Metric::LogitDiffNoising];
        path_patching(&fixture.engine, &fixture.prompts, &paths, &metrics, MEMORY_BUDGET, go_on)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let (all, three) = (SenderPositions::All, Method::ThreeSteps { mlps: true });
    for (senders, receivers, expected) in [
        ("z", "v:0.0", "v:0.0 as a receiver comes before every sender"),
        ("z:1.0", "v:1.0", "v:1.0 as a receiver comes before every sender"),
        ("z:1.0", "q", "z:1.0 as a sender comes behind every receiver"),
        ("z:2.0", "resid_post:1", "layers 0 to 1"),
        ("z:0.4", "resid_post:1", "head of sender z:0.4: expected 0 to 3, found 4"),
        ("post:0.44", "resid_post:1", "neuron of sender post:0.44: expected 0 to 43"),
        ("z", "v:1.2", "head of receiver v:1.2: expected 0 to 1"),
        ("q", "resid_post:1", "sender: expected z, attn_out"),
        ("z", "mlp_out:1", "receiver: expected q, k, v"),
        ("z", "q", "every node of at most one of them"),
        ("z", "pattern:1.0", "heads share keys"),
    ] {
        let message = complaint(senders, receivers, all.clone(), three);
        assert!(message.contains(expected), "{senders} {receivers}: expected {expected:?} in {message:?}");
    }
    assert!(complaint("z", "resid_post:1", SenderPositions::One(9), three).contains("expected 0 to 8, found 9"));
    let short = SenderPositions::PerPrompt(vec![vec![1]]);
    assert!(complaint("z", "resid_post:1", short, three).contains("lists of positions: expected 4, found 1"));
    assert!(complaint("z", "pre:1", all.clone(), Method::TwoSteps).contains("no pre"));
    let (senders, receivers) = (parse("z"), parse("v:1.0"));
    let wide = Paths { senders, receivers, positions: all, method: Method::TwoSteps, layer_wide: true };
    assert!(wide.check(fixture.engine.config(), &fixture.prompts).unwrap_err().to_string().contains("layer_wide"));
}
