//! GGUF files: logits and token ids against what transformers makes of them, and files that lie.
//!
//! tests/reference/make_gguf_fixtures.py wrote them. ACTPATCH_GGUF names a folder of other files, as compare_gguf.py beside it
//! makes one.

#[path = "../support/mod.rs"]
mod support;

mod hostile;
mod writer;

use actpatch::backend::{CpuBackend, Dtype};
use actpatch::engine::{Engine, Output};
use actpatch::model::{Model, Source, WeightProcessing};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use support::load;
use writer::Gguf;

/// Logits of order 1 to 10 in f32 through up to two blocks, beside f64.
const TOLERANCE: f32 = 1e-4;

/// What transformers makes of a file.
#[derive(Deserialize)]
struct Expected {
    #[serde(default)]
    sequences: Vec<Vec<u32>>,
    /// Of every token of a sequence, one after the other.
    #[serde(default)]
    logits: Vec<Vec<f32>>,
    #[serde(default)]
    texts: Vec<String>,
    #[serde(default)]
    ids: Vec<Vec<u32>>,
    #[serde(default)]
    decoded: Vec<String>,
    bos: Option<u32>,
    #[serde(default)]
    ends: Vec<u32>,
}

/// A fixture's file.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf").join(format!("{name}.gguf"))
}

/// Files with what to expect of them, those that `choose` chooses: the fixtures, or those of the folder that ACTPATCH_GGUF names.
fn fixtures(choose: impl Fn(&Expected) -> bool) -> Vec<(PathBuf, Expected)> {
    let committed = fixture("any").parent().unwrap().to_owned();
    let folder = std::env::var_os("ACTPATCH_GGUF").map_or(committed, PathBuf::from);
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "gguf")).collect();
    paths.sort();
    let all = paths.into_iter().map(|path| (expected(&path), path));
    all.filter(|(expected, _)| choose(expected)).map(|(expected, path)| (path, expected)).collect()
}

/// What to expect of a file.
fn expected(path: &Path) -> Expected {
    serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap()
}

/// Logits of every token of every sequence.
fn logits(model: Model, sequences: &[Vec<u32>]) -> Vec<f32> {
    let engine = Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap();
    let run = engine.run(sequences, &[], &[], Output::All).unwrap();
    run.logits().unwrap().values.data.clone()
}

/// The largest difference of every row, without its mean if asked for, which `center_unembed` takes away.
fn differences(found: &[f32], expected: &[f32], width: usize, centred: bool) -> Vec<f32> {
    assert_eq!(found.len(), expected.len());
    let mean = |row: &[f32]| if centred { row.iter().sum::<f32>() / width as f32 } else { 0.0 };
    let rows = found.chunks(width).zip(expected.chunks(width));
    let difference = |(found, expected): (&[f32], &[f32])| {
        let shift = mean(found) - mean(expected);
        let each = found.iter().zip(expected).map(|(f, e)| (f - e - shift).abs());
        each.fold(0.0, |most: f32, each| if each.is_nan() { f32::INFINITY } else { most.max(each) })
    };
    rows.map(difference).collect()
}

/// The largest of all differences.
fn difference(found: &[f32], expected: &[f32], width: usize, centred: bool) -> f32 {
    differences(found, expected, width, centred).into_iter().fold(0.0, f32::max)
}

#[test]
fn logits_of_every_architecture_and_type_are_those_of_transformers() {
    let fixtures = fixtures(|expected| !expected.logits.is_empty());
    assert!(fixtures.len() >= 22 || std::env::var_os("ACTPATCH_GGUF").is_some(), "{} files", fixtures.len());
    for (path, expected) in fixtures {
        let width = load(&path, WeightProcessing::none()).unwrap().config.d_vocab;
        let right = expected.logits.concat();
        for (processing, centred) in [(WeightProcessing::none(), false), (WeightProcessing::processed(), true)] {
            let found = logits(load(&path, processing).unwrap(), &expected.sequences);
            let each = differences(&found, &right, width, centred);
            let off = each.iter().copied().fold(0.0, f32::max);
            println!("{}: {off:e}", path.file_stem().unwrap().display());
            assert!(off <= TOLERANCE, "{}, processed {centred}: tokens are off by {each:?}", path.display());
        }
    }
}

#[test]
fn tokens_are_those_of_the_tokenizers_that_the_files_were_made_from() {
    let fixtures = fixtures(|expected| !expected.texts.is_empty());
    assert!(fixtures.len() >= 7 || std::env::var_os("ACTPATCH_GGUF").is_some(), "{} files", fixtures.len());
    for (path, expected) in fixtures {
        let model = load(&path, WeightProcessing::none()).unwrap();
        let name = path.file_stem().unwrap().display();
        assert!(expected.texts.len() >= 30);
        assert_eq!([expected.ids.len(), expected.decoded.len()], [expected.texts.len(); 2]);
        for ((text, ids), decoded) in expected.texts.iter().zip(&expected.ids).zip(&expected.decoded) {
            assert_eq!(&model.tokenizer.encode(text).unwrap(), ids, "{name}: {text:?}");
            assert_eq!(&model.tokenizer.decode(ids).unwrap(), decoded, "{name}: {text:?}");
        }
        assert_eq!(model.tokenizer.bos(), expected.bos, "{name}");
        assert_eq!(model.tokenizer.ends(), expected.ends, "{name}");
        let because = model.provenance.bos_choice.unwrap().because;
        assert!(because.contains(": tokenizer.ggml."), "{name}: {because}");
    }
}

#[test]
fn records_name_the_file_and_its_hash_and_say_that_weights_were_quantised() {
    let path = fixture("type-q4_1");
    let provenance = load(&path, WeightProcessing::none()).unwrap().provenance;
    assert_eq!(provenance.source, Source::File { path: path.canonicalize().unwrap().display().to_string() });
    assert_eq!(provenance.quantised.as_deref(), Some("Q4_1 8, F32 3"));
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(provenance.files.len(), 1);
    assert_eq!(provenance.files[0].name, "type-q4_1.gguf");
    assert_eq!(provenance.files[0].sha256, Some(actpatch::files::sha256(&bytes)));
    assert!(provenance.tokenizer.unwrap().sha256.is_some());
    let plain = load(&fixture("llama"), WeightProcessing::none()).unwrap();
    assert_eq!((plain.name.as_str(), plain.provenance.quantised), ("llama", None));
}

#[test]
fn a_folder_with_one_file_is_a_model_and_one_with_several_names_them() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str, to: &str| std::fs::copy(fixture(name), folder.path().join(to)).unwrap();
    copy("llama", "a.gguf");
    let model = load(folder.path(), WeightProcessing::none()).unwrap();
    assert_eq!(model.name, folder.path().file_name().unwrap().to_str().unwrap());
    assert_eq!(model.provenance.files[0].name, "a.gguf");
    copy("gpt2", "b.gguf");
    let message = load(folder.path(), WeightProcessing::none()).unwrap_err().to_string();
    assert!(message.contains("a.gguf, b.gguf"), "{message}");
    let message = load(&folder.path().join("c.gguf"), WeightProcessing::none()).unwrap_err().to_string();
    assert!(message.contains("c.gguf") && message.contains("No such file"), "{message}");
}

#[test]
fn the_parts_of_a_split_file_are_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = |number: u32| folder.path().join(format!("tiny-{number:05}-of-00002.gguf"));
    let split = |gguf: &mut Gguf, number: u32| {
        gguf.number("split.no", number);
        gguf.number("split.count", 2);
    };
    let whole = Gguf::read(&fixture("llama"));
    let mut first = whole.clone();
    let rest = first.tensors.split_off(5);
    split(&mut first, 0);
    first.write(&path(1));
    let message = load(&path(1), WeightProcessing::none()).unwrap_err().to_string();
    assert!(message.contains("tiny-00002-of-00002.gguf: missing") && message.contains("split.count"), "{message}");
    let mut second = Gguf { keys: Vec::new(), tensors: rest, ..whole };
    split(&mut second, 0);
    second.write(&path(2));
    let message = load(&path(1), WeightProcessing::none()).unwrap_err().to_string();
    assert!(message.contains("`split.no`: expected 1, found 0"), "{message}");
    split(&mut second, 1);
    second.write(&path(2));
    let message = load(&path(2), WeightProcessing::none()).unwrap_err().to_string();
    assert!(message.contains("`split.no`") && message.contains("part 2 of 2"), "{message}");
    let expected = expected(&fixture("llama"));
    for place in [path(1), folder.path().to_owned()] {
        let model = load(&place, WeightProcessing::none()).unwrap();
        assert_eq!(model.provenance.files.len(), 2);
        let width = model.config.d_vocab;
        let found = logits(model, &expected.sequences);
        assert!(difference(&found, &expected.logits.concat(), width, false) <= TOLERANCE);
    }
}

#[test]
fn a_files_tokenizer_serves_other_models() {
    let options = actpatch::model::LoadOptions {
        tokenizer: Some(fixture("tokens-smollm").display().to_string()),
        ..actpatch::model::LoadOptions::default()
    };
    let model = Model::load("random:gpt2-small", &options).unwrap();
    let expected = expected(&fixture("tokens-smollm"));
    assert_eq!(model.tokenizer.encode(&expected.texts[0]).unwrap(), expected.ids[0]);
}
