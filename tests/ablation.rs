//! Ablations and circuit faithfulness against TransformerLens hooks in f64, on tiny random models.
//!
//! Fixtures and the script that made them: `tests/fixtures/ablation`, `tests/reference/make_ablation_fixtures.py`.

mod support;

use actpatch::backend::{CpuBackend, Dtype};
use actpatch::engine::*;
use actpatch::experiments::ablation::*;
use actpatch::experiments::activation_maps::{MapKind, activation_maps};
use actpatch::experiments::chunks::{patch_dataset, patched_scores};
use actpatch::experiments::component::Component;
use actpatch::experiments::corpus::{CorpusError, Row};
use actpatch::experiments::faithfulness::*;
use actpatch::experiments::logit_attribution::{Attributed, LogitMap, logit_attribution};
use actpatch::experiments::text_loss::*;
use actpatch::model::{LoadOptions, Model};
use actpatch::types::{Matrix, PairedPrompts};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
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
    fn outcome(&self, conditions: &[Condition], least: bool) -> Outcome {
        let told = |_: f64| Ok::<(), EngineError>(());
        within(least, |budget| ablation(&self.engine, &self.prompts, conditions, 3, budget, told))
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
        for least in [false, true] {
            let outcome = fixture.outcome(&conditions, least);
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

#[test]
fn a_mean_of_the_other_class_needs_both() {
    let mut fixture = fixtures().next().unwrap();
    let case = fixture.cases.as_array().unwrap().iter().find(|case| case["method"] == "mean_of_other_class").unwrap();
    let condition = fixture.condition(case);
    fixture.prompts.positive = vec![true; 4];
    let error = condition.plan(fixture.engine.config(), &fixture.prompts, 3, 4096).unwrap_err().to_string();
    assert!(error.contains("expected positive and negative prompts, found no negative ones"), "{error}");
}

/// Resampling is what `corrupted` is on the pairs that are drawn.
#[test]
fn resampling_takes_the_drawn_prompts_values() {
    for mut fixture in fixtures().take(2) {
        let mut condition = fixture.condition(&fixture.cases[6]);
        condition.replacement = Replacement::Resample;
        let drawn = fixture.outcome(std::slice::from_ref(&condition), false);
        fixture.prompts = resampled(&fixture.prompts, 3).unwrap();
        condition.replacement = Replacement::Corrupted;
        assert_eq!(fixture.outcome(&[condition], false), drawn);
    }
}

#[test]
fn what_a_condition_reaches_is_planned() {
    let fixture = fixtures().next().unwrap();
    let (config, prompts) = (fixture.engine.config(), &fixture.prompts);
    let reached = |condition: &Condition| condition.plan(config, prompts, 3, 4096).map(|planned| planned.reached);
    let refused = |condition: &Condition| condition.plan_that_fires(config, prompts, 3, 4096).unwrap_err().to_string();
    let on_lists = fixture.condition(&fixture.cases[5]);
    assert_eq!(reached(&on_lists).unwrap(), [0, 1, 3]);
    // What keeps its value is not ablated.
    let kept = Condition { kept: Some(places(&serde_json::json!([[4], [3], [], [5, 6, 8]]))), ..on_lists.clone() };
    assert_eq!(reached(&kept).unwrap(), [1]);
    // Before the first position at which the runs differ there is nothing to take from the other one.
    let early = |replacement| Condition {
        replacement,
        places: PatchPositions::One(0).into(),
        ..fixture.condition(&fixture.cases[6])
    };
    let same_start = |other: usize| prompts.sequences[other][0] == prompts.sequences[0][0];
    assert!((0..4).all(same_start), "the fixture's prompts begin with the same token");
    for replacement in [Replacement::Corrupted, Replacement::Resample] {
        assert_eq!(reached(&early(replacement)).unwrap(), [] as [usize; 0]);
        assert!(refused(&early(replacement)).contains("never fires"), "{}", refused(&early(replacement)));
    }
    assert_eq!(reached(&early(Replacement::Zero)).unwrap(), [0, 1, 2, 3]);
    let outside = Condition { places: PatchPositions::One(99).into(), ..on_lists };
    assert!(refused(&outside).contains("found 99"), "{}", refused(&outside));
    let last_layer = Ablated { site: Site::Z(config.n_layers - 1), part: Part::Head(0), subspace: None };
    let late = Condition { ablated: vec![last_layer], ..fixture.condition(&fixture.cases[1]) };
    assert!(refused(&late).contains("reaches the logits"), "{}", refused(&late));
    let mut pattern = fixture.condition(&fixture.cases[2]);
    pattern.replacement = Replacement::Mean;
    assert!(refused(&pattern).contains("expected zero, resample or corrupted, found mean"), "{}", refused(&pattern));
    pattern.replacement = Replacement::Zero;
    pattern.frozen_attention = true;
    assert!(refused(&pattern).contains("attention is frozen"), "{}", refused(&pattern));
}

/// Tensors and cases of ablated twins.
fn twins(fixture: &Fixture) -> (support::Tensors, Vec<Condition>) {
    let folder = support::fixture(&format!("../ablation/{}", fixture.name));
    let cases: Value = serde_json::from_slice(&std::fs::read(folder.join("twins.json")).unwrap()).unwrap();
    let conditions = cases.as_array().unwrap().iter().map(|case| fixture.condition(case)).collect();
    (support::read_tensors(&folder.join("twins.safetensors")), conditions)
}

#[test]
fn maps_from_ablated_twins_match_transformer_lens() {
    for mut fixture in fixtures() {
        let (tensors, conditions) = twins(&fixture);
        let names = ["z", "q", "k", "v", "pattern", "resid_pre", "attn_out", "mlp_out", "z_by_position"];
        let kinds: Vec<MapKind> = names.iter().map(|name| name.parse().unwrap()).collect();
        let metrics = [Metric::LogitDiffNoising, Metric::LogProbNoising];
        let told = |_: f64| Ok::<(), EngineError>(());
        let mut worst: f64 = 0.0;
        for (number, condition) in conditions.iter().enumerate() {
            let same = fixture.outcome(std::slice::from_ref(condition), false);
            // In one batch, one prompt at a time, and every sequence in a batch of its own.
            for (max_tokens, least) in [(4096, false), (4096, true), (10, false)] {
                fixture.engine = fixture.engine.with_max_tokens(max_tokens);
                let (baselines, maps) = within(least, |budget| {
                    let pairs = condition.twins(&fixture.engine, &fixture.prompts, budget)?;
                    activation_maps(&fixture.engine, &pairs, &kinds, &metrics, budget, told)
                });
                let what = format!("{} case {number}", fixture.name);
                let twin = tensors[&format!("{number}.twin")].values();
                assert!(differ(&twin, &fixture.tensors["clean"].values()), "{what}: the reference must move");
                worst = worst.max(compare(&what, &baselines.corrupted.logit_differences, &twin));
                compare(&what, &baselines.clean.logit_differences, &fixture.tensors["clean"].values());
                let both = baselines.corrupted.logit_differences.iter().zip(&same.ablated[0].logit_differences);
                assert!(both.into_iter().all(|(a, b)| (a - b).abs() < 1e-5), "{what}: as `ablation` has it");
                for map in &maps {
                    let level = |scores: &Scores| match map.metric {
                        Metric::LogitDiffNoising => scores.logit_difference(),
                        _ => scores.log_probabilities.iter().sum::<f64>() / 4.0,
                    };
                    let set = if map.metric == Metric::LogitDiffNoising { "map" } else { "log_prob" };
                    let name = format!("{number}.{set}.{}", map.kind);
                    let Some(expected) = tensors.get(&name) else { continue };
                    assert_eq!(map.shape, expected.shape, "{} {name}", fixture.name);
                    let (clean, ablated) = (level(&baselines.clean), level(&baselines.corrupted));
                    let found: Vec<f64> = map.values.iter().map(|value| clean + value * (clean - ablated)).collect();
                    worst = worst.max(compare(&format!("{} {name}", fixture.name), &found, &expected.values()));
                }
            }
        }
        println!("{}: maps of twins off by at most {worst:e}", fixture.name);
    }
}

#[test]
fn attribution_of_the_clean_less_the_ablated_run_matches_transformer_lens() {
    for fixture in fixtures() {
        let (tensors, conditions) = twins(&fixture);
        let maps: Vec<LogitMap> = LogitMap::ALL.into_iter().filter(|map| *map != LogitMap::HeadsByPosition).collect();
        let mut worst: f64 = 0.0;
        for (number, condition) in conditions.iter().enumerate() {
            for least in [false, true] {
                let found = within(least, |budget| {
                    let pairs = condition.twins(&fixture.engine, &fixture.prompts, budget)?;
                    logit_attribution(&fixture.engine, &pairs, &maps, Attributed::Difference, budget)
                });
                for mut attribution in found {
                    let name = format!("{number}.dla.{}", attribution.map);
                    if attribution.map == LogitMap::Layers {
                        // TransformerLens leaves the biases out.
                        attribution.values.pop();
                    }
                    let what = format!("{} {name}", fixture.name);
                    worst = worst.max(compare(&what, &attribution.values, &tensors[&name].values()));
                }
            }
        }
        println!("{}: attribution of twins off by at most {worst:e}", fixture.name);
    }
}

#[test]
fn twins_differ_from_the_ablation_on() {
    let fixture = fixtures().next().unwrap();
    let (config, prompts) = (fixture.engine.config(), &fixture.prompts);
    let condition = &twins(&fixture).1[1];
    let pairs = condition.planned_twins(config, prompts).unwrap();
    let first: Vec<usize> = (0..4).map(|prompt| pairs.first_difference(prompt)).collect();
    assert_eq!(first, [4, 3, 9, 5], "the first ablated positions, and the length of what has none");
    let cell = |site, position, mode| Cell { mode, edits: vec![Edit::replace(site, Part::All, position)] };
    let reached = |site, position| {
        let cells = [cell(site, position, Mode::Noising)];
        Plan::new(config, &pairs, &cells, 4096).unwrap().reached(0)
    };
    assert_eq!(reached(Site::ResidPre(1), PatchPositions::All), [0, 1, 3]);
    assert_eq!(reached(Site::ResidPre(1), PatchPositions::One(4)), [0, 1]);
    // What lies in front of the ablation is the same in both runs.
    assert_eq!(reached(Site::MlpOut(0), PatchPositions::All), [] as [usize; 0]);
    assert_eq!(reached(Site::ResidPost(0), PatchPositions::One(8)), [0, 1, 3]);
    let denoising = [cell(Site::ResidPre(1), PatchPositions::All, Mode::Denoising)];
    let error = Plan::new(config, &pairs, &denoising, 4096).unwrap_err().to_string();
    assert!(error.contains("expected the clean run (noising), found the twins (denoising)"), "{error}");
    let told = |_: actpatch::experiments::chunks::Progress<'_>| Ok::<(), EngineError>(());
    let ran = patch_dataset(&fixture.engine, &pairs, &denoising, &[Metric::LogitDiff], 1 << 30, told);
    assert!(ran.unwrap_err().to_string().contains("the twins (denoising)"));
    for replacement in [Replacement::Corrupted, Replacement::Resample] {
        let other = Condition { replacement, ..condition.clone() };
        let error = other.planned_twins(config, prompts).unwrap_err().to_string();
        assert!(error.contains("expected zero or a mean, found"), "{error}");
    }
    let frozen = Condition { frozen_attention: true, ..condition.clone() };
    let error = frozen.planned_twins(config, prompts).unwrap_err().to_string();
    assert!(error.contains("expected zero or given rows, found those of a run"), "{error}");
    let outside = Condition { places: PatchPositions::One(99).into(), ..condition.clone() };
    let error = outside
        .planned_twins(config, prompts)
        .and_then(|pairs| PairedRun::new(&fixture.engine, pairs, &[], &[], false).map(|_| ()));
    assert!(error.unwrap_err().to_string().contains("expected 0 to 8, found 99"));
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
                for least in [false, true] {
                    let cells = [cell.clone()];
                    let told = |_: f64| Ok::<(), EngineError>(());
                    let (_, scores) = within(least, |budget| {
                        patched_scores(&fixture.engine, &fixture.prompts, &cells, &[Metric::LogitDiff], budget, told)
                    });
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

/// A case of `losses.json`, and how many of the prompts its means are taken of.
fn text_condition(fixture: &Fixture, case: &Value, places: &BTreeSet<u32>) -> (TextCondition, usize) {
    let layers = case["layers"].as_array().unwrap().iter().map(|layer| layer.as_u64().unwrap() as usize);
    let along = case["along"].as_bool().unwrap();
    let ablated = layers.map(|layer| (layer, along.then(|| fixture.direction(layer)))).collect();
    let some = case["some"].as_bool().unwrap();
    let places = TextPlaces { name: "SOME".into(), tokens: some.then(|| places.clone()) };
    let replacement = case["method"].as_str().unwrap().parse().unwrap();
    (TextCondition { ablated, places, replacement }, case["means"].as_u64().unwrap() as usize)
}

/// Texts as a corpus.
fn corpus<'a>(texts: &'a [Vec<u32>]) -> impl Iterator<Item = Result<Row, CorpusError>> + 'a {
    let row = |(document, tokens): (usize, &Vec<u32>)| Ok(Row { document, start: 0, tokens: tokens.clone(), bos: 0 });
    texts.iter().enumerate().map(row)
}

#[test]
fn losses_of_tokens_match_hooks() {
    for fixture in fixtures() {
        let folder = support::fixture(&format!("../ablation/{}", fixture.name));
        let expected = support::read_tensors(&folder.join("losses.safetensors"));
        let cases: Value = serde_json::from_slice(&std::fs::read(folder.join("losses.json")).unwrap()).unwrap();
        let (engine, texts) = (&fixture.engine, &fixture.prompts.sequences);
        let places = BTreeSet::from_iter(support::integers(&expected, "places"));
        let others: Vec<usize> = (0..texts.len()).map(|row| (row + texts.len() - 1) % texts.len()).collect();
        let (mut worst, mut moved) = (0.0_f64, 0);
        for (number, case) in cases.as_array().unwrap().iter().enumerate() {
            let (condition, of_means) = text_condition(&fixture, case, &places);
            let conditions = [condition.clone()];
            let means = text_means::<_, Failure>(engine, corpus(&texts[..of_means]), &conditions, |_| Ok(())).unwrap();
            let found = batch_losses(engine, texts, &others, (&conditions, &means)).unwrap();
            let what = format!("{} case {number}: {case}", fixture.name);
            let clean = expected["clean"].values();
            worst = worst.max(compare(&what, &found.clean.concat(), &clean));
            let counts = |row: &Vec<u32>| row[..row.len() - 1].iter().map(|&t| condition.places.counts(t)).collect();
            let counted: Vec<bool> = texts.iter().flat_map::<Vec<bool>, _>(counts).collect();
            let of_counted = |values: &[f64]| -> Vec<f64> {
                values.iter().zip(&counted).filter(|(_, counted)| **counted).map(|(value, _)| *value).collect()
            };
            let widened = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
            let ablated = widened(expected[&format!("loss.{number}")].values());
            let narrowed = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect::<Vec<_>>();
            worst = worst.max(compare(&what, &of_counted(&found.ablated[0].concat()), &narrowed(of_counted(&ablated))));
            // What changes in the reference can change; it is not all only because resampled prompts begin alike.
            let reached: usize = texts.iter().map(|text| condition.places.reached(text)).sum();
            let changed = ablated.iter().zip(&clean).zip(&counted);
            let changed = changed.filter(|((a, b), counted)| **counted && (**a - f64::from(**b)).abs() > 1e-6).count();
            assert!(changed <= reached && reached < 2 * changed, "{what}: {changed} of {reached}");
            moved += changed;
            let Some(&[count, clean, ablated]) = expected[&format!("mean.{number}")].values().first_chunk() else {
                panic!("{what}: a mean has three numbers")
            };
            if condition.replacement != Replacement::Resample {
                let told = |_: &[Row], _: &BatchLosses| Ok::<(), Failure>(());
                let found = text_losses(engine, corpus(texts), (&conditions, &means), (1, engine.max_tokens()), told)
                    .unwrap()[0];
                assert_eq!((found.tokens, found.reached), (count as usize, reached), "{what}");
                worst = worst.max(compare(&what, &[found.clean, found.ablated], &[clean, ablated]));
            }
        }
        assert!(moved > 100, "{}: {moved} losses moved", fixture.name);
        println!("{}: losses of tokens off by at most {worst:e}", fixture.name);
    }
}

#[test]
fn corpora_are_cut_into_batches_and_faults_are_named() {
    let fixture = fixtures().next().unwrap();
    let engine = &fixture.engine;
    let texts = [&fixture.prompts.sequences[..], &fixture.prompts.sequences[..]].concat();
    let columns = (0..=engine.config().n_layers).map(|layer| (layer, Some(fixture.direction(layer))));
    let all = TextPlaces { name: "ALL".into(), tokens: None };
    let zero = TextCondition { ablated: columns.collect(), places: all, replacement: Replacement::Zero };
    let condition = |replacement| TextCondition { replacement, ..zero.clone() };
    let at = |token: u32| TextPlaces { name: "SOME".into(), tokens: Some([token].into()) };
    let none = TextMeans::default();
    let losses = |condition: &TextCondition, texts: &[Vec<u32>]| {
        let mut told = 0;
        let found = text_losses(
            engine,
            corpus(texts),
            (std::slice::from_ref(condition), &none),
            (1, engine.max_tokens()),
            |rows, losses| {
                told += rows.len();
                assert_eq!((losses.clean.len(), losses.ablated[0].len()), (rows.len(), rows.len()));
                Ok::<(), Failure>(())
            },
        );
        found.map(|found| {
            assert_eq!(told, texts.len());
            found[0]
        })
    };
    // The same rows in batches of two and three.
    for count in [2, 5, 8] {
        let found = losses(&zero, &texts[..count]).unwrap();
        let expected =
            batch_losses(engine, &texts[..count], &vec![0; count], (std::slice::from_ref(&zero), &none)).unwrap();
        let mean = |rows: &[Vec<f64>]| rows.iter().flatten().sum::<f64>() / found.tokens as f64;
        // Only the order of sums differs.
        assert!((found.clean - mean(&expected.clean)).abs() < 1e-6);
        assert!((found.ablated - mean(&expected.ablated[0])).abs() < 1e-6);
    }
    let refused = |condition: &TextCondition, count: usize, words: &str| {
        let error = losses(condition, &texts[..count]).unwrap_err().0;
        assert!(error.contains(words), "{error}");
    };
    refused(&zero, 0, "texts in the corpus: expected at least one, found 0");
    refused(&condition(Replacement::Resample), 1, "texts to resample from: expected at least 2, found 1");
    refused(&condition(Replacement::Corrupted), 4, "expected zero, resample or mean_over_places, found corrupted");
    refused(&condition(Replacement::MeanOverPlaces), 4, "means of ALL at layer 0");
    // The last token of every row predicts nothing.
    let last = TextCondition { places: at(texts[0][8]), ..zero.clone() };
    refused(
        &last,
        1,
        "blocks.0.hook_resid_pre never fires: no text of the corpus has a token SOME with others behind it",
    );
    let behind = (engine.config().n_layers, None);
    let end = TextCondition { places: at(texts[0][1]), ablated: [behind].into(), ..zero.clone() };
    refused(&end, 4, "never fires: no block is left in which other tokens read SOME");
    let check = |condition: TextCondition| {
        check_conditions::<Failure>(engine.config(), corpus(&texts), &[zero.clone(), condition])
            .map_err(|error| error.0)
    };
    assert_eq!(check(TextCondition { places: at(texts[3][4]), ..zero.clone() }), Ok(()));
    assert!(check(end).unwrap_err().contains("no block is left"));
    let missing = TextCondition { places: at(48), ..condition(Replacement::MeanOverPlaces) };
    assert!(check(missing.clone()).unwrap_err().contains("no text of the corpus has a token SOME"));
    let means = text_means::<_, Failure>(engine, corpus(&texts), &[missing], |_| Ok(())).unwrap_err().0;
    assert!(means.contains("no text of the corpus that means are taken of has a token SOME"), "{means}");
}

/// What keeps a corpus from being read.
#[derive(Debug)]
struct Failure(String);

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self(error.to_string())
    }
}

impl From<CorpusError> for Failure {
    fn from(error: CorpusError) -> Self {
        Self(error.to_string())
    }
}
