//! GGUF files: logits and token ids against what transformers makes of them, and files that lie.
//!
//! tests/reference/make_gguf_fixtures.py wrote them. ACTPATCH_GGUF names a folder of other files, as compare_gguf.py beside it
//! makes one.

#[path = "../support/memory.rs"]
mod memory;
#[path = "../support/mod.rs"]
mod support;

mod hostile;
mod writer;

use actpatch::backend::{CpuBackend, Dtype};
use actpatch::engine::{Engine, Output};
use actpatch::model::{Model, Source, WeightProcessing};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use support::{load, warnings};
use writer::{Gguf, I32, U64};

/// Logits of order 1 to 25 in f32 through up to two blocks, beside f64.
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
        let mut incomplete = 0;
        for ((text, ids), decoded) in expected.texts.iter().zip(&expected.ids).zip(&expected.decoded) {
            match model.tokenizer.encode(text) {
                Ok(found) => assert_eq!(&found, ids, "{name}: {text:?}"),
                // transformers leaves bytes out that have no token.
                Err(error) => {
                    assert!(error.to_string().contains("lacks a byte") && decoded != text, "{name}: {error}");
                    incomplete += 1;
                }
            }
            assert_eq!(&model.tokenizer.decode(ids).unwrap(), decoded, "{name}: {text:?}");
        }
        println!("{name}: {incomplete} of {} texts have bytes without a token", expected.texts.len());
        assert!(incomplete == 0 || std::env::var_os("ACTPATCH_GGUF").is_some(), "{name}: {incomplete} texts");
        assert_eq!(model.tokenizer.bos(), expected.bos, "{name}");
        assert_eq!(model.tokenizer.ends(), expected.ends, "{name}");
        let because = model.provenance.bos_choice.unwrap().because;
        assert!(because.contains(": tokenizer.ggml."), "{name}: {because}");
    }
}

#[test]
fn a_text_with_a_byte_that_has_no_token_is_an_error_and_not_shortened() {
    // A vocabulary of capitals.
    let model = load(&fixture("llama"), WeightProcessing::none()).unwrap();
    assert_eq!(model.tokenizer.encode("!!A").unwrap(), [47, 33]);
    let message = model.tokenizer.encode("Aa").unwrap_err().to_string();
    assert!(message.contains("llama.gguf: cannot encode \"Aa\""), "{message}");
    assert!(message.contains("tokenizer.ggml.tokens lacks a byte"), "{message}");
}

#[test]
fn letters_without_tokens_become_bytes_or_the_token_for_the_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.gguf");
    let mut gguf = Gguf::read(&fixture("tokens-llama"));
    gguf.remove("tokenizer.ggml.unknown_token_id");
    let texts = &expected(&fixture("tokens-llama")).texts;
    let encode = |gguf: &Gguf| {
        let _ = std::fs::remove_file(&path);
        gguf.write(&path);
        load(&path, WeightProcessing::none()).map(|model| model.tokenizer.encode(&texts[3]).unwrap())
    };
    // Every byte has a token.
    assert_eq!(encode(&gguf).unwrap(), expected(&fixture("tokens-llama")).ids[3]);
    // Kinds of tokens say which one is for the unknown.
    gguf.rename_token("<0xE6>", "another");
    let ids = encode(&gguf).unwrap();
    assert!(ids.contains(&0) && ids != expected(&fixture("tokens-llama")).ids[3], "{ids:?}");
    gguf.remove("tokenizer.ggml.token_type");
    let message = encode(&gguf).unwrap_err().to_string();
    assert!(message.contains("key `tokenizer.ggml.tokens`: expected an unknown token, or"), "{message}");
}

#[test]
fn ids_that_nothing_depends_on_may_be_those_of_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.gguf");
    let mut gguf = Gguf::read(&fixture("llama"));
    gguf.number("tokenizer.ggml.padding_token_id", 48);
    gguf.set("tokenizer.ggml.eot_token_id", I32, &(-1i32).to_le_bytes());
    gguf.set("tokenizer.ggml.mask_token_id", U64, &u64::MAX.to_le_bytes());
    gguf.write(&path);
    let (model, said) = warnings(|| load(&path, WeightProcessing::none()).unwrap());
    assert_eq!(model.tokenizer.ends(), [0]);
    for part in ["padding_token_id`: 48, but", "eot_token_id`: -1, but", "mask_token_id`: 18446744073709551615, but"] {
        assert!(said.contains(&format!("changed.gguf: key `tokenizer.ggml.{part} there are 48 tokens")), "{said}");
    }
    assert_eq!(said.lines().count(), 3, "{said}");
}

#[test]
fn wavelengths_are_divided_by_a_tensor_where_only_a_part_of_a_head_is_rotated_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.gguf");
    let expected = expected(&fixture("gptneox-parallel"));
    let of = |divisors: &[f32]| {
        let mut gguf = Gguf::read(&fixture("gptneox-parallel"));
        gguf.add("rope_freqs.weight", divisors);
        let _ = std::fs::remove_file(&path);
        gguf.write(&path);
        let found = logits(load(&path, WeightProcessing::none()).unwrap(), &expected.sequences);
        difference(&found, &expected.logits.concat(), 48, false)
    };
    assert!(of(&[1.0; 2]) <= TOLERANCE);
    assert!(of(&[4.0; 2]) > 10.0 * TOLERANCE, "they are not followed");
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
