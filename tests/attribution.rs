//! Logit attribution and attribution patching against TransformerLens and autograd in f64, on tiny random models.
//!
//! Fixtures and the script that made them: `tests/fixtures/attribution`, `tests/reference/make_attribution_fixtures.py`.

mod support;

use actpatch::backend::{CpuBackend, Dtype};
use actpatch::engine::*;
use actpatch::experiments::activation_maps::{ActivationMap, MapKind, activation_maps};
use actpatch::experiments::attention::{attention_to, mean_patterns, prompt_patterns};
use actpatch::experiments::attribution_patching::{Gradients, attribution_maps};
use actpatch::experiments::chunks::baselines;
use actpatch::experiments::logit_attribution::{
    Attributed, Attribution, LogitMap, head_contributions, logit_attribution,
};
use actpatch::model::{LoadOptions, Model, WeightProcessing};
use actpatch::types::{Matrix, PairedPrompts};
use support::{ABSOLUTE, compare, within};

const MODELS: [&str; 6] = ["gpt2-tiny", "neox-parallel", "neox-sequential", "llama-tiny", "mistral-tiny", "qwen3-tiny"];

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

#[test]
fn logit_attribution_matches_transformer_lens() {
    for fixture in fixtures() {
        let engine = fixture.engine(WeightProcessing::default());
        // Heads by position are checked along directions, in reading.rs.
        let maps: Vec<LogitMap> = LogitMap::ALL.into_iter().filter(|map| *map != LogitMap::HeadsByPosition).collect();
        let attributed =
            |of, least| within(least, |budget| logit_attribution(&engine, &fixture.prompts, &maps, of, budget));
        let mut worst: f64 = 0.0;
        for (of, name) in [(Attributed::Clean, "clean"), (Attributed::Corrupted, "corrupted")] {
            for least in [false, true] {
                for Attribution { map, shape, mut values } in attributed(of, least) {
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
        let [difference, clean, corrupted] = all.map(|of| attributed(of, false));
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
    assert!(complaint(Site::Z(9), &directions).contains("layers 0 to 2"));
    assert!(complaint(Site::Z(0), &Matrix::zeros(1, 3)).contains("expected 48, found 3"));
    let mut uneven = fixture.prompts.clone();
    uneven.sequences[0].pop();
    let maps = [LogitMap::LensByPosition];
    let error = logit_attribution(&engine, &uneven, &maps, Attributed::Clean, MEMORY_BUDGET).unwrap_err();
    assert!(error.to_string().contains("in a map by position"), "{error}");
}

#[test]
fn attention_matches_transformer_lens() {
    for fixture in fixtures() {
        let engine = fixture.engine(WeightProcessing::default());
        let config = engine.config();
        let heads: Vec<(usize, usize)> =
            (0..config.n_layers).flat_map(|layer| (0..config.n_heads).map(move |head| (layer, head))).collect();
        let expected = |name: &str| fixture.tensors[&format!("att.{name}")].values();
        let mut worst: f64 = 0.0;
        for least in [false, true] {
            let mean = within(least, |budget| mean_patterns(&engine, &fixture.prompts, &heads, budget));
            worst = worst.max(compare(fixture.name, &mean.patterns, &expected("mean")));
            worst = worst.max(compare(fixture.name, &mean.weighted(), &expected("weighted")));
            let contributions = within(least, |budget| head_contributions(&engine, &fixture.prompts, budget));
            worst = worst.max(compare(fixture.name, &contributions, &expected("contribution")));
            // Single prompts average to the mean, and a row of them is the attention of the last position.
            let (n, length) = (fixture.prompts.clean.len(), mean.length);
            let to = vec![2; n];
            let attention = within(least, |budget| attention_to(&engine, &fixture.prompts, &heads, &to, budget));
            let mut sums = vec![0.0; mean.patterns.len()];
            for prompt in 0..n {
                let patterns = prompt_patterns(&engine, &fixture.prompts, prompt, &heads).unwrap();
                for head in 0..heads.len() {
                    let last = patterns[(head * length + length - 1) * length + 2];
                    assert!((attention[head * n + prompt] - last).abs() < 1e-6, "{}", fixture.name);
                }
                sums.iter_mut().zip(patterns).for_each(|(sum, p)| *sum += p / n as f64);
            }
            assert!(sums.iter().zip(&mean.patterns).all(|(sum, mean)| (sum - mean).abs() < 1e-6), "{}", fixture.name);
        }
        println!("{}: attention off by at most {worst:e}", fixture.name);
    }
}

#[test]
fn heads_and_prompts_that_are_not_there_are_named() {
    let fixture = fixtures().next().unwrap();
    let engine = fixture.engine(WeightProcessing::default());
    let complaint = |heads: &[(usize, usize)], prompt| {
        prompt_patterns(&engine, &fixture.prompts, prompt, heads).unwrap_err().to_string()
    };
    assert!(complaint(&[(0, 4)], 0).contains("head 0.4: expected 0 to 3, found 4"));
    assert!(complaint(&[(3, 0)], 0).contains("layers 0 to 2"));
    assert!(complaint(&[(0, 0)], 4).contains("prompt: expected 0 to 3, found 4"));
    let to = attention_to(&engine, &fixture.prompts, &[(0, 0)], &[1, 1, 9, 1], MEMORY_BUDGET);
    assert!(to.unwrap_err().to_string().contains("expected 0 to 8, found 9"));
}

const METRICS: [Metric; 2] = [Metric::LogitDiff, Metric::LogitDiffNoising];

fn kinds(names: &[&str]) -> Vec<MapKind> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// Estimated maps, and how far clean and corrupted logit differences lie apart.
fn estimated(
    engine: &Engine<CpuBackend>,
    prompts: &PairedPrompts,
    kinds: &[MapKind],
    gradients: Gradients,
    least: bool,
) -> (f64, Vec<ActivationMap>) {
    let told = |_| Ok::<(), EngineError>(());
    let maps = |budget| attribution_maps(engine, prompts, kinds, &METRICS, gradients, budget, told);
    let (baselines, maps) = within(least, maps);
    let (clean, corrupted) = baselines.logit_differences();
    (clean - corrupted, maps)
}

#[test]
fn attribution_patching_matches_autograd() {
    for fixture in fixtures() {
        let names = ["z", "q", "k", "v", "pattern", "pre", "post", "resid_pre", "resid_mid", "resid_post", "attn_out"];
        let names = [&names[..], &["mlp_out", "z_by_position", "pattern_by_position"]].concat();
        let there = |name: &&str| fixture.tensors.contains_key(&format!("atp.noising.{name}"));
        let kinds = kinds(&names.into_iter().filter(there).collect::<Vec<_>>());
        let mut worst: f64 = 0.0;
        for (max_tokens, least) in [(4096, false), (4096, true), (10, false)] {
            let engine = fixture.engine(WeightProcessing::default()).with_max_tokens(max_tokens);
            for (method, gradients) in [("atp", Gradients::Plain), ("ig", Gradients::Integrated(3))] {
                let (range, maps) = estimated(&engine, &fixture.prompts, &kinds, gradients, least);
                assert_eq!(maps.len(), 2 * kinds.len());
                for map in maps {
                    let mode = if map.metric.mode() == Mode::Denoising { "denoising" } else { "noising" };
                    let name = format!("{method}.{mode}.{}", map.kind);
                    let expected = &fixture.tensors[&name];
                    assert_eq!(map.shape, expected.shape, "{} {name}", fixture.name);
                    let values: Vec<f64> = map.values.iter().map(|value| value * range).collect();
                    worst = worst.max(compare(&format!("{} {name}", fixture.name), &values, &expected.values()));
                }
            }
        }
        println!("{}: attribution patching off by at most {worst:e}", fixture.name);
    }
}

/// A model without curvature: queries are zero, so that attention is even; MLPs stay where the rectifier is straight;
/// variances vanish beside the norms' epsilon, which the gains make up for.
fn straight() -> Engine<CpuBackend> {
    let copy = support::Copy::of("gpt2-tiny");
    copy.config("layer_norm_epsilon", 1e10.into()).config("activation_function", "relu".into());
    copy.tensors(|tensors| {
        for (name, tensor) in tensors.iter_mut() {
            let mut values = tensor.values();
            let width = *tensor.shape.last().unwrap();
            match name.strip_suffix(".weight") {
                Some(norm) if norm.ends_with("ln_1") || norm.ends_with("ln_2") || norm.ends_with("ln_f") => {
                    values.iter_mut().for_each(|value| *value *= 1e5);
                }
                _ if name.contains("c_attn") => {
                    values.chunks_mut(width).for_each(|row| row[..width / 3].fill(0.0));
                }
                _ if name.ends_with("c_fc.bias") => values.iter_mut().for_each(|value| *value += 10.0),
                Some(first) if first.ends_with("c_fc") => values.iter_mut().for_each(|value| *value *= 0.1),
                _ => continue,
            }
            tensor.bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            tensor.dtype = safetensors::tensor::Dtype::F32;
        }
    });
    Engine::new(CpuBackend::new(Dtype::F32).unwrap(), copy.load().unwrap()).unwrap()
}

#[test]
fn in_a_model_without_curvature_attribution_is_exact_patching() {
    let engine = straight();
    let prompts = fixtures().next().unwrap().prompts;
    let names = ["z", "v", "post", "pre", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"];
    let kinds = kinds(&[&names[..], &["z_by_position", "pattern", "k", "q"]].concat());
    let told = |_| Ok::<(), EngineError>(());
    let (_, exact) = activation_maps(&engine, &prompts, &kinds, &METRICS, MEMORY_BUDGET, told).unwrap();
    for gradients in [Gradients::Plain, Gradients::Integrated(2)] {
        let (_, maps) = estimated(&engine, &prompts, &kinds, gradients, false);
        for map in maps {
            let exact = exact.iter().find(|exact| (exact.kind, exact.metric) == (map.kind, map.metric)).unwrap();
            let pairs = map.values.iter().zip(&exact.values);
            // Shares of order 1; f32 sums of values of order 10, the rectifier's, leave 1e-5 of them.
            let worst = pairs.map(|(found, exact)| (found - exact).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-4, "{} {}: off by {worst:e}", map.kind, map.metric);
            let even = ["pattern", "k", "q"].contains(&&*map.kind.to_string());
            assert_eq!(map.values.iter().all(|value| value.abs() < 1e-4), even, "{}: {:?}", map.kind, map.values);
        }
    }
}

#[test]
fn integrated_gradients_of_the_input_add_up_to_the_whole_change() {
    for fixture in fixtures() {
        let engine = fixture.engine(WeightProcessing::default());
        let sums = [1, 8, 64].map(|steps| {
            let (_, maps) =
                estimated(&engine, &fixture.prompts, &kinds(&["resid_pre"]), Gradients::Integrated(steps), false);
            let length = maps[0].shape[1];
            [maps[0].values[..length].iter().sum::<f64>(), -maps[1].values[..length].iter().sum::<f64>()]
        });
        // The rule of middles converges with the square of the steps.
        let off = sums.map(|both| both.map(|sum| (sum - 1.0).abs()));
        assert!(off[2].iter().all(|off| *off < 1e-2), "{}: {sums:?}", fixture.name);
        assert!(off[0].iter().zip(off[2]).all(|(one, many)| many < *one), "{}: {sums:?}", fixture.name);
    }
}

#[test]
fn gradients_are_refused_where_there_are_none() {
    let fixture = fixtures().next().unwrap();
    let engine = fixture.engine(WeightProcessing::default());
    let told = |_| Ok::<(), EngineError>(());
    let metrics = [Metric::LogitFlip];
    let kinds = kinds(&["z"]);
    let error = attribution_maps(&engine, &fixture.prompts, &kinds, &metrics, Gradients::Plain, MEMORY_BUDGET, told)
        .unwrap_err();
    assert!(error.to_string().contains("expected logit_diff or logit_diff_noising"), "{error}");
    let paired =
        PairedRun::new(&engine, fixture.prompts.clone(), &[Site::ResidPre(0)], &[PatchPositions::All], false).unwrap();
    let resume = Resume { run: paired.run(), layer: 0, rows: &[(0, 0)] };
    let (_, tape) = engine.resume_with_tape(&resume, &[], paired.output(&[])).unwrap();
    let d_logits = Matrix::zeros(1, paired.columns().tokens().len());
    for (site, words) in [(Site::Embed, "no gradient there"), (Site::Z(9), "layers 0 to 2")] {
        let found = engine.gradients(&resume, &tape, paired.columns(), &d_logits, &[site], |_, _| Ok(()));
        assert!(found.err().unwrap().to_string().contains(words), "{site}");
    }
}
