//! What the residual stream predicts, at every layer and under patches, against Hugging Face on tiny random models of every
//! family, and against the engine's own logits.
//!
//! Fixtures and the script that made them: `tests/fixtures/lens`, `tests/reference/make_lens_fixtures.py`.

mod support;

use actpatch::backend::{CpuBackend, Dtype};
use actpatch::engine::{Engine, EngineError, Output, Site};
use actpatch::experiments::logit_lens::{Lens, LensPatch, LensPrompt, Predicted, Prediction, Ranked, predictions};
use actpatch::model::{LoadOptions, Model, WeightProcessing};
use actpatch::types::Matrix;
use std::sync::Arc;
use support::compare;

const MODELS: [&str; 8] = [
    "gpt2-tiny",
    "neox-parallel",
    "neox-sequential",
    "stablelm-tiny",
    "llama-tiny",
    "mistral-tiny",
    "qwen2-tiny",
    "qwen3-tiny",
];

/// As in the script.
const LAYER: usize = 1;
const POSITIONS: [usize; 2] = [2, 4];

fn engine(name: &str, processing: WeightProcessing) -> Engine<CpuBackend> {
    let folder = support::fixture(&format!("../engine/{name}"));
    let model = Model::load(folder.to_str().unwrap(), &LoadOptions { processing, ..LoadOptions::default() }).unwrap();
    Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap()
}

fn fixture(name: &str) -> support::Tensors {
    support::read_tensors(&support::fixture(&format!("../lens/{name}.safetensors")))
}

/// The prompts of a fixture: every one's corrupted one is the next.
fn prompts(tensors: &support::Tensors) -> Vec<LensPrompt> {
    let tokens = support::integers(tensors, "tokens");
    let sequences: Vec<Vec<u32>> = tokens.chunks(tensors["tokens"].shape[1]).map(<[u32]>::to_vec).collect();
    let prompt = |number: usize| LensPrompt {
        clean: sequences[number].clone(),
        corrupted: Some(sequences[(number + 1) % sequences.len()].clone()),
        answers: vec![7, 0],
    };
    (0..sequences.len()).map(prompt).collect()
}

/// The patches of a fixture: along its columns, and as a whole.
fn patches(tensors: &support::Tensors, prompts: usize) -> Vec<LensPatch> {
    let [rows, cols] = tensors["columns"].shape[..] else { panic!() };
    let columns = Arc::new(Matrix::new(rows, cols, tensors["columns"].values()));
    let places = vec![POSITIONS.to_vec(); prompts];
    [Some(columns), None].map(|along| LensPatch { site: Site::ResidPre(LAYER), along, places: places.clone() }).into()
}

fn read(
    engine: &Engine<CpuBackend>,
    top: usize,
    prompts: &[LensPrompt],
    patches: &[LensPatch],
) -> Result<Vec<Vec<Predicted>>, EngineError> {
    let layers: Vec<usize> = (0..=engine.config().n_layers).collect();
    let mut told = 0;
    let lens = Lens { layers: &layers, top };
    let found = predictions(engine, lens, prompts, patches, |count| -> Result<(), EngineError> {
        told += count;
        Ok(())
    })?;
    assert_eq!(told, found.iter().flatten().map(Vec::len).sum::<usize>());
    Ok(found)
}

/// The log probabilities of the whole vocabulary in the order of the ids.
fn by_token(prediction: &Prediction) -> Vec<f64> {
    let mut all: Vec<&Ranked> = prediction.top.iter().collect();
    assert!(
        all.windows(2).all(|two| two[0].log_probability >= two[1].log_probability && two[0].rank + 1 == two[1].rank)
    );
    all.sort_by_key(|ranked| ranked.token);
    all.iter().map(|ranked| ranked.log_probability).collect()
}

#[test]
fn every_layer_of_every_run_predicts_what_hugging_face_does() {
    let mut worst: f64 = 0.0;
    for name in MODELS {
        let tensors = fixture(name);
        let (prompts, d_vocab) = (prompts(&tensors), tensors["clean"].shape[3]);
        // A direction means something under the weights that it was found with alone.
        for (processing, cases) in [
            (WeightProcessing::none(), &["clean", "corrupted", "swap", "whole"][..]),
            (WeightProcessing::processed(), &["clean", "corrupted"]),
        ] {
            let patches = if cases.len() > 2 { patches(&tensors, prompts.len()) } else { Vec::new() };
            let found = read(&engine(name, processing), d_vocab, &prompts, &patches).unwrap();
            for (run, case) in cases.iter().enumerate() {
                let predicted: Vec<f64> = found.iter().flat_map(|runs| &runs[run]).flat_map(by_token).collect();
                worst = worst.max(compare(&format!("{name} {case}"), &predicted, &tensors[*case].values()));
            }
            // What is asked for is what stands at its rank.
            for (prompt, runs) in prompts.iter().zip(&found) {
                let n_layers = runs[0].len() / prompt.clean.len();
                for (position, of_layers) in runs[0].chunks(n_layers).enumerate() {
                    let next = prompt.clean.get(position + 1).map_or(prompt.answers.clone(), |&next| vec![next]);
                    for Prediction { top, asked } in of_layers {
                        assert_eq!(asked.iter().map(|ranked| ranked.token).collect::<Vec<_>>(), next);
                        assert!(asked.iter().all(|ranked| top[ranked.rank - 1] == *ranked), "{name}");
                    }
                }
            }
        }
    }
    println!("log probabilities off by at most {worst:e}");
}

#[test]
fn at_the_end_the_lens_is_the_models_own_prediction() {
    for name in MODELS {
        for processing in [WeightProcessing::none(), WeightProcessing::processed()] {
            let engine = engine(name, processing);
            let sequences: Vec<Vec<u32>> = prompts(&fixture(name)).into_iter().map(|prompt| prompt.clean).collect();
            let end = Site::resid(engine.config().n_layers, engine.config().n_layers);
            let run = engine.run(&sequences, &[end], &[], Output::All).unwrap();
            let tokens: Vec<usize> = (0..run.layout().n_tokens()).collect();
            let (lens, logits) = (engine.lens_logits(&run, end, &tokens).unwrap(), &run.logits().unwrap().values);
            assert_eq!((lens.rows, lens.cols), (logits.rows, logits.cols));
            let off = lens.data.iter().zip(&logits.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-6, "{name}: off by {off:e}");
        }
    }
}

#[test]
fn batches_of_any_size_predict_the_same() {
    let tensors = fixture("gpt2-tiny");
    let (prompts, all) = (prompts(&tensors), engine("gpt2-tiny", WeightProcessing::none()));
    let patches = patches(&tensors, prompts.len());
    let expected = read(&all, 5, &prompts, &patches).unwrap();
    // One prompt and one row of logits at a time.
    for small in [all.with_memory_budget(1), engine("gpt2-tiny", WeightProcessing::none()).with_max_tokens(5)] {
        let found = read(&small, 5, &prompts, &patches).unwrap();
        for (found, expected) in found.iter().flatten().flatten().zip(expected.iter().flatten().flatten()) {
            let pairs = found.top.iter().chain(&found.asked).zip(expected.top.iter().chain(&expected.asked));
            for (one, other) in pairs {
                assert_eq!((one.token, one.rank), (other.token, other.rank));
                assert!((one.log_probability - other.log_probability).abs() < 1e-5, "{one:?} {other:?}");
            }
        }
    }
}

#[test]
fn a_patch_of_everything_predicts_what_the_clean_run_does_from_its_layer_on() {
    let tensors = fixture("llama-tiny");
    let (prompts, engine) = (prompts(&tensors), engine("llama-tiny", WeightProcessing::processed()));
    let places = prompts.iter().map(|prompt| (0..prompt.clean.len()).collect()).collect();
    let whole = LensPatch { site: Site::ResidPre(LAYER), along: None, places };
    for runs in read(&engine, 50, &prompts, &[whole]).unwrap() {
        let [clean, corrupted, patched] = &runs[..] else { panic!() };
        for (number, ((clean, corrupted), patched)) in clean.iter().zip(corrupted).zip(patched).enumerate() {
            let from = if number % (engine.config().n_layers + 1) < LAYER { corrupted } else { clean };
            for (one, other) in by_token(patched).iter().zip(by_token(from)) {
                assert!((one - other).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn what_cannot_be_read_or_patched_is_named() {
    let tensors = fixture("neox-parallel");
    let (prompts, engine) = (prompts(&tensors), engine("neox-parallel", WeightProcessing::none()));
    let patch = &patches(&tensors, prompts.len())[0];
    let refused = |lens: Lens<'_>, prompts: &[LensPrompt], patch: LensPatch, words: &[&str]| {
        let told = |_| -> Result<(), EngineError> { Ok(()) };
        let error = predictions(&engine, lens, prompts, &[patch], told).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    let whole = Lens { layers: &[0, 3], top: 2 };
    refused(Lens { layers: &[0, 4], ..whole }, &prompts, patch.clone(), &["layers of the lens", "0 to 3", "found 4"]);
    refused(Lens { layers: &[], ..whole }, &prompts, patch.clone(), &["layers of the lens", "found none"]);
    refused(Lens { top: 0, ..whole }, &prompts, patch.clone(), &["at least 1"]);
    refused(
        Lens { layers: &[0], ..whole },
        &prompts,
        patch.clone(),
        &["blocks.1.hook_resid_pre never fires", "layer 1 on"],
    );
    let at = |site| LensPatch { site, ..patch.clone() };
    let early = Lens { layers: &[0, 2], ..whole };
    refused(early, &prompts, at(Site::ResidPost(2)), &["blocks.2.hook_resid_post never fires", "layer 3 on"]);
    refused(whole, &prompts, at(Site::AttnOut(1)), &["blocks.1.hook_attn_out", "expected the residual stream"]);
    refused(whole, &prompts, at(Site::ResidMid(1)), &["in parallel"]);
    refused(whole, &prompts, at(Site::ResidPre(9)), &["layers 0 to 2"]);
    let narrow = LensPatch { along: Some(Arc::new(Matrix::zeros(3, 1))), ..patch.clone() };
    refused(whole, &prompts, narrow, &["width of the direction", "expected 72, found 3"]);
    let nowhere = LensPatch { places: vec![vec![1], Vec::new()], ..patch.clone() };
    refused(whole, &prompts, nowhere, &["never fires", "prompt 1 "]);
    let mut shorter = prompts.clone();
    shorter[1].corrupted.as_mut().unwrap().pop();
    refused(whole, &shorter, patch.clone(), &["corrupted prompt of pair 1", "expected 6, found 5"]);
    let mut foreign = prompts.clone();
    foreign[0].answers = vec![50];
    refused(whole, &foreign, patch.clone(), &["token of an answer", "0 to 49, found 50"]);
    let run = engine.run(&[prompts[0].clean.clone()], &[Site::AttnOut(0)], &[], Output::None).unwrap();
    let error = engine.lens_logits(&run, Site::AttnOut(0), &[0]).unwrap_err().to_string();
    assert!(error.contains("expected the residual stream"), "{error}");
    let error = engine.lens_logits(&run, Site::ResidPre(0), &[0]).unwrap_err().to_string();
    assert!(error.contains("was not captured"), "{error}");
}
