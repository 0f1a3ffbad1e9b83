//! The engine against Hugging Face and TransformerLens (f64) on tiny random models: sites, patches, gradients, DAS.
//!
//! Fixtures and the scripts that made them: `tests/fixtures/engine`, `tests/reference/make_engine_fixtures.py`.

mod support;

use actpatch::backend::{Backend, CpuBackend, Dtype};
use actpatch::directions::das::{AdamSettings, Rotation, TrainSettings, train};
use actpatch::engine::*;
use actpatch::model::{LoadOptions, Model, WeightProcessing};
use actpatch::types::{Matrix, PairedPrompts};
use safetensors::tensor::Dtype as Stored;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const MODELS: [&str; 8] = [
    "gpt2-tiny",
    "neox-parallel",
    "neox-sequential",
    "llama-tiny",
    "mistral-tiny",
    "qwen2-tiny",
    "qwen3-tiny",
    "stablelm-tiny",
];

/// Activations and logits are of order 1 to 10 in f32, through up to three blocks: 1e-4 absolute.
const ABSOLUTE: f32 = 1e-4;

/// The tensors of a reference file.
struct Reference(support::Tensors);

impl Reference {
    fn open(path: &Path) -> Self {
        Self(support::read_tensors(path))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.0.get(name).unwrap_or_else(|| panic!("{name} is not in the fixture")).values()
    }

    fn integers(&self, name: &str) -> Vec<i64> {
        let tensor = &self.0[name];
        match tensor.dtype {
            Stored::I64 => tensor.bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            Stored::I32 => tensor.bytes.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
            Stored::I16 => tensor.bytes.as_chunks::<2>().0.iter().map(|b| i64::from(i16::from_le_bytes(*b))).collect(),
            Stored::U8 | Stored::BOOL => tensor.bytes.iter().map(|b| i64::from(*b)).collect(),
            other => panic!("{name} is {other:?}"),
        }
    }
}

struct Fixture {
    name: String,
    engine: Engine<CpuBackend>,
    reference: Reference,
    cases: Value,
    lengths: Vec<usize>,
}

fn fixtures() -> Vec<Fixture> {
    let mut all = Vec::new();
    for model in MODELS {
        let folder = support::fixture(&format!("../engine/{model}"));
        let text = std::fs::read_to_string(folder.join("cases.json")).unwrap();
        let cases: Value = serde_json::from_str(&text).unwrap();
        for (weights, processing) in
            [("unprocessed", WeightProcessing::none()), ("processed", WeightProcessing::processed())]
        {
            let options = LoadOptions { processing, ..LoadOptions::default() };
            let model = Model::load(folder.to_str().unwrap(), &options).unwrap();
            all.push(Fixture {
                name: format!("{} {weights}", model.name),
                engine: Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap(),
                reference: Reference::open(&folder.join(format!("{weights}.safetensors"))),
                cases: cases[weights].clone(),
                lengths: cases["lengths"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect(),
            });
        }
    }
    all
}

impl Fixture {
    /// Consecutive tokens of `name` cut into sequences.
    fn sequences(&self, name: &str, lengths: &[usize]) -> Vec<Vec<u32>> {
        let mut tokens = self.reference.integers(name).into_iter().map(|t| t as u32);
        lengths.iter().map(|&length| tokens.by_ref().take(length).collect()).collect()
    }

    fn values(&self, name: &str) -> Vec<f32> {
        self.reference.floats(name)
    }

    fn patch_prompts(&self) -> Vec<Vec<u32>> {
        self.sequences("patch.tokens", &[9; 4])
    }
}

/// Largest absolute difference; fails when the lengths differ or it is above `tolerance`.
fn compare(what: &str, found: &[f32], expected: &[f32], tolerance: f32) -> f32 {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what}: off by {worst:e}");
    worst
}

fn centred_rows(values: &[f32], width: usize) -> Vec<f32> {
    values
        .chunks(width)
        .flat_map(|row| {
            let mean = row.iter().sum::<f32>() / width as f32;
            row.iter().map(move |v| v - mean)
        })
        .collect()
}

#[test]
fn logits_match_hugging_face_at_every_token() {
    for fixture in fixtures() {
        let sequences = fixture.sequences("tokens", &fixture.lengths);
        let run = fixture.engine.run(&sequences, &[], &[], Output::All).unwrap();
        let found = &run.logits().unwrap().values;
        // center_unembed moves all logits of a token alike.
        let expected = fixture.values("logits");
        let (found, expected) = (centred_rows(&found.data, found.cols), centred_rows(&expected, found.cols));
        let worst = compare(&fixture.name, &found, &expected, ABSOLUTE);
        println!("{}: logits off by at most {worst:e}", fixture.name);
    }
}

#[test]
fn padding_on_either_side_and_batching_change_nothing() {
    for fixture in fixtures() {
        let sequences = fixture.sequences("tokens", &fixture.lengths);
        if !fixture.reference.has("tokens.left") {
            continue;
        }
        for side in ["left", "right"] {
            let mask = fixture.reference.integers(&format!("attention_mask.{side}"));
            let padded = fixture.reference.integers(&format!("tokens.{side}"));
            let width = padded.len() / sequences.len();
            for (row, sequence) in sequences.iter().enumerate() {
                let kept: Vec<u32> =
                    (row * width..(row + 1) * width).filter(|&i| mask[i] == 1).map(|i| padded[i] as u32).collect();
                assert_eq!(&kept, sequence, "{}: the mask alone says what is real", fixture.name);
            }
        }
        let together = fixture.engine.run(&sequences, &[], &[], Output::Last).unwrap();
        for (row, sequence) in sequences.iter().enumerate() {
            let alone = fixture.engine.run(std::slice::from_ref(sequence), &[], &[], Output::Last).unwrap();
            let (alone, together) = (&alone.logits().unwrap().values, &together.logits().unwrap().values);
            // 1e-5: a row's sums have the same order whatever stands beside it.
            compare(&fixture.name, together.row(row), &alone.data, 1e-5);
        }
    }
}

#[test]
fn every_site_matches_transformer_lens() {
    for fixture in fixtures() {
        let all = fixture.sequences("tokens", &fixture.lengths);
        let stored = fixture.cases["stored_prompts"].as_array().unwrap();
        let sequences: Vec<_> = stored.iter().map(|i| all[i.as_u64().unwrap() as usize].clone()).collect();
        let config = fixture.engine.config();
        let names: Vec<&str> = fixture.cases["sites"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
        let sites: Vec<Site> = names.iter().map(|name| name.parse().unwrap()).collect();
        let capture: Vec<Site> = sites.iter().copied().filter(|site| !matches!(site, Site::Result(_))).collect();
        let run = fixture.engine.run(&sequences, &capture, &[], Output::None).unwrap();
        let mut worst: f32 = 0.0;
        for (name, site) in names.iter().zip(sites) {
            let expected = fixture.values(&format!("site.{name}"));
            let found = match site {
                Site::Result(layer) => {
                    let heads: Vec<Matrix> = (0..config.n_heads)
                        .map(|head| fixture.engine.head_result(&run, layer, head).unwrap())
                        .collect();
                    let tokens = 0..run.layout().n_tokens();
                    tokens.flat_map(|t| heads.iter().flat_map(move |h| h.row(t).to_vec())).collect()
                }
                site => fixture.engine.backend().download(run.site(site).unwrap()).unwrap(),
            };
            worst = worst.max(compare(&format!("{} {name}", fixture.name), &found, &expected, ABSOLUTE));
        }
        println!("{}: {} sites off by at most {worst:e}", fixture.name, names.len());
    }
}

/// What the patches of a case refer to.
struct Patched<'a> {
    fixture: &'a Fixture,
    prompts: Vec<Vec<u32>>,
    run: Run<CpuBackend>,
    bases: <CpuBackend as Backend>::Tensor,
    vector: <CpuBackend as Backend>::Tensor,
}

impl<'a> Patched<'a> {
    fn new(fixture: &'a Fixture) -> Self {
        let prompts = fixture.patch_prompts();
        let mut capture: Vec<Site> = Vec::new();
        let n_layers = fixture.engine.config().n_layers;
        for layer in 0..n_layers {
            use Site::*;
            let sites = [ResidPre, ResidMid, ResidPost, AttnOut, MlpOut, Q, K, V, Pattern, Z, MlpPre, MlpPost]
                .map(|f| f(layer));
            capture.extend(sites.into_iter().filter(|site| site.check(fixture.engine.config()).is_ok()));
        }
        // The corrupted prompts are the clean ones rolled by one: the same rows.
        let run = fixture.engine.run(&prompts, &capture, &[8; 4], Output::Last).unwrap();
        let subspace = fixture.values("patch.subspace");
        let bases: Vec<f32> =
            (0..2).flat_map(|j| subspace.iter().skip(j).step_by(2).copied().collect::<Vec<_>>()).collect();
        let upload = |values: &[f32]| fixture.engine.backend().upload(values).unwrap();
        Self { bases: upload(&bases), vector: upload(&fixture.values("patch.vector")), fixture, prompts, run }
    }

    /// Mean over prompts of the corrupted (equally: clean) activation per position, as many rows as positions.
    fn means(&self, site: Site) -> <CpuBackend as Backend>::Tensor {
        let engine = &self.fixture.engine;
        let values = engine.backend().download(self.run.site(site).unwrap()).unwrap();
        let width = site.width(engine.config());
        let mean = |position: usize, column: usize| {
            (0..4).map(|row| values[(row * 9 + position) * width + column]).sum::<f32>() / 4.0
        };
        let rows: Vec<f32> = (0..9).flat_map(|p| (0..width).map(move |c| (p, c))).map(|(p, c)| mean(p, c)).collect();
        engine.backend().upload(&rows).unwrap()
    }
}

fn intervention<'a>(
    context: &'a Patched<'a>,
    means: &'a BTreeMap<Site, <CpuBackend as Backend>::Tensor>,
    case: &Value,
) -> Intervention<'a, CpuBackend> {
    let site: Site = case["site"].as_str().unwrap().parse().unwrap();
    let op = case["op"].as_str().unwrap();
    let positions = case["position"].as_u64().map_or(0..9, |p| p as usize..p as usize + 1);
    let places = |source: &dyn Fn(usize, usize) -> usize| {
        (0..4)
            .flat_map(|row| positions.clone().map(move |position| (row, position)))
            .map(|(row, position)| Patch { row, position, source: source(row, position), basis: 0 })
            .collect()
    };
    let clean = |row: usize, position: usize| row * 9 + position;
    let own = |row: usize, position: usize| (row + 1) % 4 * 9 + position;
    let run = &context.run;
    let swap = |source| Op::Swap { source, bases: &context.bases, k: 2 };
    let (patches, op) = match op {
        "replace" => (places(&clean), Op::Replace(Source::Run(run))),
        "freeze" => (places(&own), Op::Replace(Source::Run(run))),
        "swap" => (places(&clean), swap(Source::Run(run))),
        "ablate_zero" => (places(&clean), swap(Source::Zero)),
        "ablate_mean" => (places(&|_, position| position), swap(Source::Rows(&means[&site]))),
        "zero" => (places(&clean), Op::Replace(Source::Zero)),
        "mean" => (places(&|_, position| position), Op::Replace(Source::Rows(&means[&site]))),
        "add" => (places(&|_, _| 0), Op::Add { source: Source::Rows(&context.vector), scale: 1.0 }),
        other => panic!("{other}"),
    };
    let part = case["head"].as_u64().map_or(Part::All, |head| Part::Head(head as usize));
    Intervention { site, part, patches, op }
}

#[test]
fn every_patch_matches_transformer_lens_from_tokens_and_resumed() {
    for fixture in fixtures() {
        let context = Patched::new(&fixture);
        let corrupted: Vec<Vec<u32>> = (0..4).map(|row| context.prompts[(row + 1) % 4].clone()).collect();
        let mut worst: f32 = 0.0;
        let cases = fixture.cases["patches"].as_array().unwrap();
        for case in cases {
            let list = case["interventions"].as_array().unwrap();
            let mut means = BTreeMap::new();
            for item in list.iter().filter(|item| item["op"].as_str().unwrap().contains("mean")) {
                let site: Site = item["site"].as_str().unwrap().parse().unwrap();
                means.insert(site, context.means(site));
            }
            let interventions: Vec<_> = list.iter().map(|item| intervention(&context, &means, item)).collect();
            let name = case["logits"].as_str().unwrap();
            let expected = fixture.values(name);
            let full = fixture.engine.run_patched(&corrupted, &interventions, &[], Output::Last).unwrap();
            let what = format!("{} {name}", fixture.name);
            worst = worst.max(compare(&what, &full.logits().unwrap().values.data, &expected, ABSOLUTE));
            // The same from the captured residual in front of the first patched block.
            let layer = interventions.iter().filter_map(|i| i.site.layer()).min().unwrap();
            let rows: Vec<_> = (0..4).map(|row| ((row + 1) % 4, 0)).collect();
            let resume = Resume { run: &context.run, layer, rows: &rows };
            let resumed = fixture.engine.resume(&resume, &interventions, &[], Output::Last).unwrap();
            let (resumed, full) = (&resumed.logits().unwrap().values.data, &full.logits().unwrap().values.data);
            let scale = full.iter().fold(1.0f32, |m, v| m.max(v.abs()));
            compare(&format!("{what} resumed"), resumed, full, 1e-5 * scale);
        }
        println!("{}: {} patches off by at most {worst:e}", fixture.name, cases.len());
    }
}

/// The two prompts of the gradient cases: clean, and corrupted by rolling over all four.
fn gradient_prompts(fixture: &Fixture) -> PairedPrompts {
    let sequences = fixture.patch_prompts();
    paired(fixture, sequences, vec![0, 1], vec![1, 2], "patch.answers")
}

fn paired(
    fixture: &Fixture,
    sequences: Vec<Vec<u32>>,
    clean: Vec<usize>,
    corrupted: Vec<usize>,
    answers: &str,
) -> PairedPrompts {
    let tokens: Vec<u32> = fixture.reference.integers(answers).into_iter().map(|t| t as u32).collect();
    let answers = tokens.chunks(4).take(clean.len()).map(|t| vec![(t[0], t[1]), (t[2], t[3])]).collect();
    PairedPrompts {
        name: "fixture".into(),
        texts: vec![String::new(); sequences.len()],
        positive: (0..clean.len()).map(|i| i % 2 == 0).collect(),
        has_classes: true,
        sequences,
        clean,
        corrupted,
        answers,
        positions: BTreeMap::new(),
    }
}

/// Relative error of a whole gradient: the largest difference over the largest value.
fn relative(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-12f32, |m, v| m.max(v.abs()));
    found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max) / largest
}

#[test]
fn gradients_match_autograd() {
    for fixture in fixtures() {
        let n_layers = fixture.engine.config().n_layers;
        let d_model = fixture.engine.config().d_model;
        let mut worst: f32 = 0.0;
        let cases = fixture.cases["gradients"].as_array().unwrap();
        for case in cases {
            let name = case["name"].as_str().unwrap();
            let site: Site = case["site"].as_str().unwrap().parse().unwrap();
            let layer = if let Site::ResidPost(_) = site { n_layers } else { site.layer().unwrap() };
            let positions = case["position"].as_u64().map_or(PatchPositions::All, |p| PatchPositions::One(p as usize));
            let prompts = match case["lengths"].as_array() {
                None => gradient_prompts(&fixture),
                Some(lengths) => {
                    let lengths: Vec<usize> = lengths.iter().map(|v| v.as_u64().unwrap() as usize).collect();
                    let mut sequences = fixture.sequences("grad.ragged.clean", &lengths);
                    sequences.extend(fixture.sequences("grad.ragged.corrupted", &lengths));
                    paired(&fixture, sequences, vec![0, 1, 2], vec![3, 4, 5], "grad.ragged.answers")
                }
            };
            let k = case["rank"].as_u64().unwrap() as usize;
            let columns = fixture.values(&format!("grad.rotation.K{k}"));
            let found = gradient(&fixture, prompts, layer, positions, k, &columns);
            let metric = fixture.values(&format!("{name}.metric"))[0];
            assert!((found.metric as f32 - metric).abs() < ABSOLUTE, "{} {name}", fixture.name);
            let expected = fixture.values(&format!("{name}.resid"));
            let picked: Vec<f32> =
                found.tokens.iter().flat_map(|&t| expected[t * d_model..][..d_model].to_vec()).collect();
            let expected_columns = fixture.values(&format!("{name}.rotation"));
            // The reference is f64: 1e-3 relative is what f32 must reach, and what it exceeds by far.
            let error = relative(&found.resid, &picked).max(relative(&found.columns, &expected_columns));
            let unreachable = found.resid.iter().all(|v| *v == 0.0) && picked.iter().all(|v| *v == 0.0);
            assert!(unreachable || error < 1e-3, "{} {name}: off by {error:e}", fixture.name);
            worst = worst.max(if unreachable { 0.0 } else { error });
        }
        println!("{}: {} gradients off by at most {worst:e} relative", fixture.name, cases.len());
    }
}

struct Gradient {
    metric: f64,
    /// Tokens (of the reference's equal or ragged rows) that were computed.
    tokens: Vec<usize>,
    resid: Vec<f32>,
    columns: Vec<f32>,
}

/// Metric and gradients of one case by the engine's own pieces.
fn gradient(
    fixture: &Fixture,
    prompts: PairedPrompts,
    layer: usize,
    positions: PatchPositions,
    k: usize,
    columns: &[f32],
) -> Gradient {
    use actpatch::backend::SwapGradientRows;
    let engine = &fixture.engine;
    let (backend, d_model) = (engine.backend(), engine.config().d_model);
    let n_layers = engine.config().n_layers;
    let site = Site::resid(layer, n_layers);
    let run = PairedRun::new(engine, prompts, &[site], &[positions], false).unwrap();
    let prompts = run.prompts();
    let basis: Vec<f32> = (0..k).flat_map(|j| (0..d_model).map(move |i| columns[i * k + j])).collect();
    let basis = backend.upload(&basis).unwrap();
    // Behind the last block a patched position need not be the last one: rows then start at the patch.
    let (mut rows, mut patches, mut tokens, mut first) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (row, (&clean, &corrupted)) in prompts.clean.iter().zip(&prompts.corrupted).enumerate() {
        let len = prompts.sequences[clean].len();
        let (start, end) = match positions {
            PatchPositions::One(p) => (p, p + 1),
            PatchPositions::Last => (len - 1, len),
            PatchPositions::All => (0, len),
        };
        let start_of_row = if positions == PatchPositions::All { 0 } else { start };
        rows.push((corrupted, start_of_row));
        for position in start..end {
            patches.push(Patch { row, position, source: run.run().token(clean, position).unwrap(), basis: 0 });
        }
        tokens.extend((start_of_row..len).map(|position| first + position));
        first += len;
    }
    let layout = Layout::new(rows.iter().map(|&(s, start)| (start, prompts.sequences[s].len())));
    let list = |f: &dyn Fn(&Patch) -> usize| {
        backend.upload_indices(&patches.iter().map(|p| f(p) as u32).collect::<Vec<_>>()).unwrap()
    };
    let gradient_rows = list(&|p| layout.token(p.row, p.position).unwrap());
    let base = list(&|p| run.run().token(rows[p.row].0, p.position).unwrap());
    let source = list(&|p| p.source);
    let op = Op::Swap { source: Source::Run(run.run()), bases: &basis, k };
    let swap = Intervention { site, part: Part::All, patches: patches.clone(), op };
    let resume = Resume { run: run.run(), layer, rows: &rows };
    let (patched, tape) = engine.resume_with_tape(&resume, &[swap], run.output(&[])).unwrap();
    let logits = patched.logits().unwrap();
    let d_logits = metrics::logit_difference_gradient(run.answers(), logits.values.cols, 1.0);
    let d_resid = engine.backward(&resume, &tape, run.columns(), &d_logits).unwrap();
    let residuals = run.run().site(site).unwrap();
    let rows = SwapGradientRows { gradient: &gradient_rows, base: &base, source: &source };
    let mut d_basis = backend.tensor(k * d_model).unwrap();
    backend.patch_swap_backward(&d_resid, residuals, residuals, rows, &basis, d_model, &mut d_basis).unwrap();
    let d_basis = backend.download(&d_basis).unwrap();
    Gradient {
        metric: Scores::new(logits, 0, run.answers()).logit_difference(),
        tokens,
        resid: backend.download(&d_resid).unwrap(),
        columns: (0..d_model)
            .flat_map(|i| (0..k).map(move |j| (i, j)))
            .map(|(i, j)| d_basis[j * d_model + i])
            .collect(),
    }
}

#[test]
fn das_follows_the_reference_from_the_same_start() {
    for fixture in fixtures() {
        for case in fixture.cases["das"].as_array().into_iter().flatten() {
            let name = case["name"].as_str().unwrap();
            let prompts =
                paired(&fixture, fixture.patch_prompts(), vec![0, 1, 2, 3], vec![1, 2, 3, 0], "patch.answers");
            let positions = case["position"].as_u64().map_or(PatchPositions::All, |p| PatchPositions::One(p as usize));
            let layer = case["site"].as_str().unwrap().parse::<Site>().unwrap().layer().unwrap();
            let run = PairedRun::new(&fixture.engine, prompts, &[Site::ResidPre(layer)], &[positions], false).unwrap();
            let d_model = fixture.engine.config().d_model;
            let k = case["rank"].as_u64().unwrap() as usize;
            let start = Rotation::from_lower(k, &Matrix::new(d_model, d_model, fixture.values("das.start"))).unwrap();
            let adam =
                AdamSettings { learning_rate: case["learning_rate"].as_f64().unwrap(), ..AdamSettings::default() };
            let settings = TrainSettings { adam, ..TrainSettings::default() };
            let place = (layer, positions);
            let trained =
                train(&fixture.engine, &run, place, &start, &settings, |_| Ok(Vec::new()), &|| false).unwrap();
            let expected = fixture.values(&format!("{name}.loss"));
            let mut worst: f64 = 0.0;
            for (epoch, (found, expected)) in trained.losses.iter().zip(&expected).enumerate() {
                let error = (found - f64::from(*expected)).abs() / f64::from(expected.abs()).max(1e-2);
                // The usual rate: 1e-3 relative (seen: 1e-5). At ten times that rate the path is sensitive to rounding:
                // PyTorch in f32 departs from its own f64 by 2e-3 there, so 2e-2 is allowed.
                let tolerance = if adam.learning_rate > 1e-3 { 2e-2 } else { 1e-3 };
                assert!(error < tolerance, "{} {name} epoch {epoch}: {found} {expected}", fixture.name);
                worst = worst.max(error);
            }
            let columns = fixture.values(&format!("{name}.rotation"));
            for j in 0..k {
                let column = |m: &[f32]| m.iter().skip(j).step_by(k).copied().collect::<Vec<f32>>();
                let cosine = actpatch::directions::cosine(&column(&trained.columns.data), &column(&columns));
                let enough = if adam.learning_rate > 1e-3 { 0.99 } else { 0.999 };
                assert!(cosine > enough, "{} {name}: cosine {cosine}", fixture.name);
            }
            println!("{} {name}: loss off by at most {worst:.1e} relative", fixture.name);
        }
    }
}

#[test]
fn interventions_that_cannot_fire_are_errors() {
    let fixture = &fixtures()[0];
    let context = Patched::new(fixture);
    let at = |site: Site, part: Part, position: usize, source: usize| Intervention {
        site,
        part,
        patches: vec![Patch { row: 0, position, source, basis: 0 }],
        op: Op::Replace(Source::Run(&context.run)),
    };
    let resume = |start| Resume { run: &context.run, layer: 1, rows: if start == 5 { &[(1, 5)] } else { &[(1, 0)] } };
    let message = |start: usize, intervention: Intervention<'_, CpuBackend>| {
        let result = fixture.engine.resume(&resume(start), &[intervention], &[], Output::Last);
        result.err().map(|error| error.to_string()).unwrap_or_default()
    };
    for (start, intervention, expected) in [
        (5, at(Site::ResidPre(1), Part::All, 4, 4), "never fires"),
        (0, at(Site::ResidPre(0), Part::All, 4, 4), "never fires"),
        (0, at(Site::ResidPre(1), Part::All, 9, 4), "never fires"),
        (0, at(Site::Z(1), Part::Head(4), 4, 4), "0 to 3"),
        (0, at(Site::ResidPre(1), Part::Head(0), 4, 4), "heads"),
        (0, at(Site::ResidPre(1), Part::All, 4, 36), "0 to 35"),
        (0, at(Site::ResidPre(7), Part::All, 4, 4), "layers 0 to 2"),
    ] {
        let found = message(start, intervention);
        assert!(found.contains(expected), "expected {expected:?} in {found:?}");
    }
    let twice = Intervention {
        patches: vec![Patch { row: 0, position: 4, source: 4, basis: 0 }; 2],
        ..at(Site::ResidPre(1), Part::All, 4, 4)
    };
    assert!(message(0, twice).contains("twice"));
    let engine = &fixture.engine;
    assert!(engine.run(&[vec![]], &[], &[], Output::Last).is_err());
    assert!(engine.run(&[vec![5; 5000]], &[], &[], Output::Last).is_err());
    assert!(engine.run(&[vec![50]], &[], &[], Output::Last).is_err(), "50 is outside the vocabulary");
}
