//! Texts that grow token by token: against Hugging Face and TransformerLens on tiny random models of every family, and against
//! passes over the whole text.
//!
//! Fixtures and the script that made them: `tests/fixtures/steering`, `tests/reference/make_steering_fixtures.py`.

mod support;

use actpatch::backend::{Backend, CpuBackend, Dtype};
use actpatch::engine::*;
use actpatch::experiments::sampling::Sampling;
use actpatch::experiments::steering::{Steering, Wanted, Written, write_texts};
use actpatch::model::{LoadOptions, Model, WeightProcessing};

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
const COEFFICIENTS: [f32; 2] = [-4.0, 6.0];
const STEPS: usize = 10;
const CASES: [(&str, &[&str]); 2] =
    [("resid", &["blocks.0.hook_resid_post"]), ("outputs", &["blocks.0.hook_attn_out", "blocks.1.hook_mlp_out"])];

/// Logits of order 5 in f32 against f64, through up to three blocks.
const ABSOLUTE: f32 = 1e-4;

fn engine(name: &str, processing: WeightProcessing) -> Engine<CpuBackend> {
    let folder = support::fixture(&format!("../engine/{name}"));
    let model = Model::load(folder.to_str().unwrap(), &LoadOptions { processing, ..LoadOptions::default() }).unwrap();
    Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap()
}

fn demo() -> Engine<CpuBackend> {
    let model = Model::load("demo", &LoadOptions::default()).unwrap();
    Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap()
}

fn fixture(name: &str) -> (support::Tensors, Vec<Vec<u32>>) {
    let tensors = support::read_tensors(&support::fixture(&format!("../steering/{name}.safetensors")));
    let prompts = (0..2).map(|prompt| support::integers(&tensors, &format!("prompt.{prompt}"))).collect();
    (tensors, prompts)
}

fn greedy(max_new_tokens: usize) -> Sampling {
    Sampling { temperature: 0.0, top_k: 0, max_new_tokens, seed: 0 }
}

/// All texts, in the order of `wanted`.
fn written(
    engine: &Engine<CpuBackend>,
    steering: &Steering<'_>,
    wanted: &[Wanted],
) -> Result<Vec<Written>, EngineError> {
    let mut texts = vec![Written::default(); wanted.len()];
    write_texts(engine, steering, wanted, |batch| -> Result<(), EngineError> {
        batch.into_iter().for_each(|(number, text)| texts[number] = text);
        Ok(())
    })?;
    assert!(texts.iter().all(|text| !text.tokens.is_empty()), "every text was told of");
    Ok(texts)
}

fn largest_difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(l, r)| (l - r).abs()).fold(0.0, f32::max)
}

#[test]
fn greedy_texts_are_those_of_hugging_face() {
    for name in MODELS {
        let (tensors, prompts) = fixture(name);
        let engine = engine(name, WeightProcessing::none());
        let steering = Steering { prompts: &prompts, steered: &[], ends: &[], sampling: greedy(STEPS) };
        let wanted: Vec<Wanted> = (0..2).map(|prompt| Wanted { prompt, coefficient: 0.0, sample: 0 }).collect();
        for (prompt, text) in written(&engine, &steering, &wanted).unwrap().into_iter().enumerate() {
            assert_eq!(text.tokens, support::integers(&tensors, &format!("greedy.{prompt}")), "{name}");
            assert!(!text.ended);
        }
    }
}

/// The logits that every token of a given text is drawn by, while something is added everywhere.
fn logits_of(engine: &Engine<CpuBackend>, prompt: &[u32], tokens: &[u32], added: &[(Site, Vec<f32>)]) -> Vec<f32> {
    let rows: Vec<_> = added.iter().map(|(site, row)| (*site, engine.backend().upload(row).unwrap())).collect();
    let add = |positions: std::ops::Range<usize>| -> Vec<_> {
        let patch = |position| Patch { row: 0, position, source: 0, basis: 0 };
        let patches: Vec<Patch> = positions.map(patch).collect();
        let each = rows.iter().map(|(site, row)| Intervention {
            site: *site,
            part: Part::All,
            patches: patches.clone(),
            op: Op::Add { source: Source::Rows(row), scale: 1.0 },
        });
        each.collect()
    };
    let (mut texts, first) = engine.begin_texts(&[prompt.to_vec()], &add(0..prompt.len()), &[0], tokens.len()).unwrap();
    let mut all = first.values.data;
    for &token in &tokens[..tokens.len() - 1] {
        let position = texts.next_position(0);
        let interventions = add(position..position + 1);
        let run = engine.extend_texts(&mut texts, &[(0, token)], &interventions, &[], Output::Last).unwrap();
        all.extend(&run.logits().unwrap().values.data);
    }
    all
}

#[test]
fn steered_texts_and_their_logits_are_those_of_transformer_lens() {
    let mut worst = 0.0f32;
    for name in MODELS {
        let (tensors, prompts) = fixture(name);
        let engine = engine(name, WeightProcessing::processed());
        let direction = tensors["direction"].values();
        for (case, sites) in CASES {
            let expected = support::integers(&tensors, &format!("{case}.tokens"));
            let expected: Vec<&[u32]> = expected.chunks(STEPS).collect();
            let logits = tensors[&format!("{case}.logits")].values();
            let logits: Vec<&[f32]> = logits.chunks(STEPS * engine.config().d_vocab).collect();
            let sites: Vec<Site> = sites.iter().map(|site| site.parse().unwrap()).collect();
            let steered: Vec<_> = sites.iter().map(|site| (*site, direction.clone())).collect();
            let steering = Steering { prompts: &prompts, steered: &steered, ends: &[], sampling: greedy(STEPS) };
            let of = |prompt| COEFFICIENTS.map(|coefficient| Wanted { prompt, coefficient, sample: 0 });
            let wanted = [of(0), of(1)].concat();
            let found = written(&engine, &steering, &wanted).unwrap();
            for (number, (text, wanted)) in found.iter().zip(&wanted).enumerate() {
                assert_eq!(text.tokens, expected[number], "{name} {case} {wanted:?}");
                let scaled = |(site, direction): &(Site, Vec<f32>)| {
                    (*site, direction.iter().map(|value| wanted.coefficient * value).collect())
                };
                let added: Vec<(Site, Vec<f32>)> = steered.iter().map(scaled).collect();
                let found = logits_of(&engine, &prompts[wanted.prompt], &text.tokens, &added);
                let difference = largest_difference(&found, logits[number]);
                assert!(difference < ABSOLUTE, "{name} {case} {wanted:?}: {difference:e}");
                worst = worst.max(difference);
            }
        }
    }
    println!("steered logits off by at most {worst:e}");
}

/// What can be done at a site, in every row and at every position that is named.
type Edit = (Site, Part, fn(&<CpuBackend as Backend>::Tensor) -> Op<'_, CpuBackend>);

fn edits(config: &actpatch::model::ModelConfig) -> Vec<Edit> {
    let add: fn(&_) -> Op<'_, CpuBackend> = |row| Op::Add { source: Source::Rows(row), scale: 0.7 };
    let zero: fn(&_) -> Op<'_, CpuBackend> = |_| Op::Replace(Source::Zero);
    let ablate: fn(&_) -> Op<'_, CpuBackend> = |row| Op::Swap { source: Source::Zero, bases: row, k: 1 };
    let all = [
        (Site::Embed, Part::All, add),
        (Site::ResidPre(1), Part::All, ablate),
        (Site::ResidMid(0), Part::All, add),
        (Site::K(1), Part::Head(0), zero),
        (Site::V(0), Part::Head(1), zero),
        (Site::Q(1), Part::Head(1), zero),
        (Site::QInput(0), Part::Head(1), add),
        (Site::Pattern(0), Part::Head(1), zero),
        (Site::Pattern(1), Part::All, zero),
        (Site::Z(1), Part::Head(1), zero),
        (Site::Result(1), Part::Head(0), ablate),
        (Site::AttnOut(0), Part::All, ablate),
        (Site::MlpPost(1), Part::Neuron(3), zero),
        (Site::MlpOut(0), Part::All, add),
        (Site::resid(config.n_layers, config.n_layers), Part::All, add),
        (Site::FinalNormalized, Part::All, add),
    ];
    all.into_iter().filter(|(site, ..)| site.check(config).is_ok()).collect()
}

/// Every intervention must act on each new token, behind keys that were kept, as it does in a pass over the whole text.
#[test]
fn a_cache_changes_nothing() {
    let mut worst = 0.0f32;
    for name in MODELS {
        let engine = engine(name, WeightProcessing::processed());
        let (_, prompts) = fixture(name);
        let (backend, config) = (engine.backend(), engine.config());
        let text: Vec<u32> = [&prompts[1][..], &[3, 17, 0, 41, 8, 22]].concat();
        let length = prompts[1].len();
        let unit: Vec<f32> =
            (0..config.d_model).map(|i| ((i * 37 % 11) as f32 - 5.0) / config.d_model as f32).collect();
        let norm = unit.iter().map(|v| v * v).sum::<f32>().sqrt();
        let row = backend.upload(&unit.iter().map(|v| v / norm).collect::<Vec<_>>()).unwrap();
        let plain = engine.run(std::slice::from_ref(&text), &[], &[], Output::All).unwrap();
        for (site, part, op) in edits(config) {
            let at = |positions: std::ops::Range<usize>| {
                let patch = |position| Patch { row: 0, position, source: 0, basis: 0 };
                [Intervention { site, part, patches: positions.map(patch).collect(), op: op(&row) }]
            };
            let whole = engine.run_patched(std::slice::from_ref(&text), &at(0..text.len()), &[], Output::All).unwrap();
            let whole = whole.logits().unwrap().values.clone();
            assert!(largest_difference(&whole.data, &plain.logits().unwrap().values.data) > 1e-3, "{name} {site}");
            let room = text.len() - length;
            let (mut texts, first) =
                engine.begin_texts(&[text[..length].to_vec()], &at(0..length), &[0], room).unwrap();
            let mut difference = largest_difference(first.values.row(0), whole.row(length - 1));
            for (position, &token) in text.iter().enumerate().skip(length) {
                let next = [(0, token)];
                let here = at(position..position + 1);
                let run = engine.extend_texts(&mut texts, &next, &here, &[], Output::Last).unwrap();
                difference =
                    difference.max(largest_difference(run.logits().unwrap().values.row(0), whole.row(position)));
            }
            // The same sums in another order, on logits of order 5.
            assert!(difference < 1e-5, "{name} {site}: {difference:e}");
            worst = worst.max(difference);
        }
    }
    println!("logits behind a cache off by at most {worst:e}");
}

/// Two texts of one prompt and one of another, of which one stops: each is what it is alone. Captures are those of whole texts.
#[test]
fn texts_of_a_batch_do_not_see_each_other() {
    for name in MODELS {
        let engine = engine(name, WeightProcessing::processed());
        let (_, prompts) = fixture(name);
        let (mut texts, first) = engine.begin_texts(&prompts, &[], &[1, 0, 1], 4).unwrap();
        let mut wholes = [prompts[1].clone(), prompts[0].clone(), prompts[1].clone()];
        assert_eq!((first.values.rows, texts.next_position(1)), (2, prompts[0].len()));
        let sites = [Site::ResidPre(1), Site::Pattern(0), Site::V(0)];
        for next in [&[(0, 5), (1, 9), (2, 31)][..], &[(2, 4), (0, 4)], &[(2, 12)], &[(0, 1), (2, 0)]] {
            let run = engine.extend_texts(&mut texts, next, &[], &sites, Output::Last).unwrap();
            let mut pattern_start = 0;
            for (row, &(text, token)) in next.iter().enumerate() {
                wholes[text].push(token);
                let whole = engine.run(&[wholes[text].clone()], &sites, &[], Output::Last).unwrap();
                let logits = |run: &Run<CpuBackend>, row| run.logits().unwrap().values.row(row).to_vec();
                let difference = largest_difference(&logits(&run, row), &logits(&whole, 0));
                assert!(difference < 1e-5, "{name}: {difference:e}");
                let values = |run: &Run<CpuBackend>, site| engine.backend().download(run.site(site).unwrap()).unwrap();
                for site in [Site::ResidPre(1), Site::V(0)] {
                    let width = site.width(engine.config());
                    let (found, whole) = (values(&run, site), values(&whole, site));
                    let last = &whole[whole.len() - width..];
                    assert!(largest_difference(&found[row * width..][..width], last) < 1e-5, "{name} {site}");
                }
                let (found, whole, length) = (values(&run, sites[1]), values(&whole, sites[1]), wholes[text].len());
                for head in 0..engine.config().n_heads {
                    let last = &whole[((head + 1) * length - 1) * length..][..length];
                    assert!(largest_difference(&found[pattern_start..][..length], last) < 1e-5, "{name} {head}");
                    pattern_start += length;
                }
            }
        }
    }
}

fn demo_prompts(engine: &Engine<CpuBackend>) -> Vec<Vec<u32>> {
    let texts = ["<|endoftext|>I thought this movie was", "<|endoftext|>The food was very"];
    texts.iter().map(|text| engine.model().tokenizer.encode(text).unwrap()).collect()
}

fn grid() -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for prompt in 0..2 {
        for coefficient in [-3.0, 0.0, 2.5] {
            wanted.extend((0..4).map(|sample| Wanted { prompt, coefficient, sample }));
        }
    }
    wanted
}

#[test]
fn a_text_depends_on_nothing_but_itself() {
    let engine = demo();
    let (prompts, d_model) = (demo_prompts(&engine), engine.config().d_model);
    let direction: Vec<f32> = (0..d_model).map(|i| ((i * 29 % 13) as f32 - 6.0) / 40.0).collect();
    let steered = [(Site::ResidPost(0), direction)];
    let sampling = Sampling { temperature: 1.0, top_k: 0, max_new_tokens: 12, seed: 3 };
    let steering = Steering { prompts: &prompts, steered: &steered, ends: engine.model().tokenizer.ends(), sampling };
    let all = written(&engine, &steering, &grid()).unwrap();
    let same = |what: &str, others: &[Written]| {
        for (own, other) in all.iter().zip(others) {
            assert_eq!((&own.tokens, own.ended), (&other.tokens, other.ended), "{what}");
            let pairs = own.log_probabilities.iter().zip(&other.log_probabilities);
            assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-5), "{what}");
        }
    };
    let reversed: Vec<Wanted> = grid().into_iter().rev().collect();
    let mut found = written(&engine, &steering, &reversed).unwrap();
    found.reverse();
    same("another order", &found);
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let found = pool.install(|| written(&engine, &steering, &grid()).unwrap());
        assert_eq!(found, all, "{threads} threads");
    }
    same("each alone", &written(&demo().with_max_tokens(1), &steering, &grid()).unwrap());
    let shorter = Steering { sampling: Sampling { max_new_tokens: 5, ..sampling }, ..steering };
    for (long, short) in all.iter().zip(written(&engine, &shorter, &grid()).unwrap()) {
        assert!(long.tokens.starts_with(&short.tokens));
    }
    let other = Steering { sampling: Sampling { seed: 4, ..sampling }, ..steering };
    assert_ne!(written(&engine, &other, &grid()).unwrap(), all);
    assert_ne!(all[0].tokens, all[1].tokens, "samples differ");
}

#[test]
fn first_tokens_follow_the_steered_softmax() {
    let engine = demo();
    let prompts = demo_prompts(&engine);
    let direction: Vec<f32> = (0..engine.config().d_model).map(|i| ((i * 29 % 13) as f32 - 6.0) / 40.0).collect();
    let steered = [(Site::ResidPost(0), direction.clone())];
    let (temperature, top_k, n) = (0.8, 6, 3000);
    let sampling = Sampling { temperature, top_k, max_new_tokens: 1, seed: 1 };
    let steering = Steering { prompts: &prompts, steered: &steered, ends: &[], sampling };
    let wanted: Vec<Wanted> = (0..n).map(|sample| Wanted { prompt: 0, coefficient: 2.0, sample }).collect();
    let texts = written(&engine, &steering, &wanted).unwrap();
    let added = [(Site::ResidPost(0), direction.iter().map(|value| 2.0 * value).collect())];
    let logits: Vec<f64> = logits_of(&engine, &prompts[0], &[0], &added).into_iter().map(f64::from).collect();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let weights: Vec<f64> = order[..top_k].iter().map(|token| (logits[*token] / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    let all: f64 = logits.iter().map(|logit| logit.exp()).sum();
    let mut chi_squared = 0.0;
    for (token, weight) in order[..top_k].iter().zip(weights) {
        let of: Vec<&Written> = texts.iter().filter(|text| text.tokens == [*token as u32]).collect();
        let expected = f64::from(n) * weight / total;
        chi_squared += (of.len() as f64 - expected).powi(2) / expected;
        let log_probability = logits[*token] - all.ln();
        assert!(of.iter().all(|text| (text.log_probabilities[0] - log_probability).abs() < 1e-5));
    }
    assert!(texts.iter().all(|text| order[..top_k].contains(&(text.tokens[0] as usize))));
    // Of 5 degrees of freedom the 0.9999 quantile is 25.7.
    assert!(chi_squared < 25.7, "{chi_squared}");
}

#[test]
fn a_text_ends_with_a_token_that_ends_texts() {
    let (tensors, prompts) = fixture("gpt2-tiny");
    let engine = engine("gpt2-tiny", WeightProcessing::none());
    let whole = support::integers(&tensors, "greedy.0");
    let ends = [whole[3]];
    let steering = Steering { prompts: &prompts, steered: &[], ends: &ends, sampling: greedy(STEPS) };
    let wanted = [0, 1].map(|prompt| Wanted { prompt, coefficient: 0.0, sample: 0 });
    let texts = written(&engine, &steering, &wanted).unwrap();
    let end = whole.iter().position(|token| *token == ends[0]).unwrap();
    assert_eq!((&texts[0].tokens[..], texts[0].ended), (&whole[..=end], true));
    assert_eq!(texts[0].log_probabilities.len(), end + 1);
    let other = support::integers(&tensors, "greedy.1");
    let end = other.iter().position(|token| *token == ends[0]);
    assert_eq!((texts[1].tokens.len(), texts[1].ended), (end.map_or(STEPS, |end| end + 1), end.is_some()));
}

#[test]
fn what_cannot_be_written_is_named() {
    let (_, prompts) = fixture("neox-parallel");
    let engine = engine("neox-parallel", WeightProcessing::none());
    let direction = vec![0.1; engine.config().d_model];
    let complaint = |sites: &[Site], direction: &[f32], sampling: Sampling, prompt: usize| {
        let steered: Vec<_> = sites.iter().map(|site| (*site, direction.to_vec())).collect();
        let steering = Steering { prompts: &prompts, steered: &steered, ends: &[], sampling };
        let wanted = [Wanted { prompt, coefficient: 1.0, sample: 0 }];
        written(&engine, &steering, &wanted).unwrap_err().to_string()
    };
    let site = |sites: &[Site]| complaint(sites, &direction, greedy(3), 0);
    assert!(site(&[Site::ResidPre(3)]).contains("layers 0 to 2"));
    assert!(site(&[Site::ResidMid(0)]).contains("in parallel"));
    assert!(site(&[Site::Z(0)]).contains("as wide as the residual stream"));
    assert!(site(&[Site::ResidPre(1), Site::ResidPost(0)]).contains("blocks.0.hook_resid_post twice"));
    let stream = [Site::ResidPre(0)];
    assert!(complaint(&stream, &[0.1; 3], greedy(3), 0).contains("expected 72 values, found 3"));
    assert!(complaint(&stream, &direction, greedy(20), 0).contains("5 tokens and 20 more, the model takes at most 24"));
    assert!(complaint(&stream, &direction, greedy(3), 2).contains("expected 0 to 1, found 2"));
    assert!(complaint(&stream, &direction, greedy(0), 0).contains("new tokens of a text: expected at least 1"));
    for temperature in [f64::NAN, f64::INFINITY, -1.0] {
        let sampling = Sampling { temperature, ..greedy(3) };
        assert!(complaint(&stream, &direction, sampling, 0).contains("temperature"));
    }
    assert!(complaint(&stream, &[f32::NAN; 72], greedy(3), 0).contains("NaN"));
    assert!(engine.begin_texts(&prompts, &[], &[0, 2], 3).err().unwrap().to_string().contains("found 2"));
    let (mut texts, _) = engine.begin_texts(&prompts, &[], &[0, 1], 1).unwrap();
    let mut extend = |next: &[(usize, u32)]| match engine.extend_texts(&mut texts, next, &[], &[], Output::Last) {
        Ok(run) => format!("{} rows", run.layout().n_rows()),
        Err(error) => error.to_string(),
    };
    assert!(extend(&[]).contains("found none"));
    assert!(extend(&[(2, 1)]).contains("expected 0 to 1, found 2"));
    assert!(extend(&[(0, 1), (0, 2)]).contains("text 0 twice"));
    assert!(extend(&[(0, 99)]).contains("99"), "a token outside the vocabulary");
    assert_eq!(extend(&[(0, 1)]), "1 rows");
    assert!(extend(&[(1, 1), (0, 1)]).contains("one more of text 0"));
    assert_eq!(extend(&[(1, 1)]), "1 rows");
}
