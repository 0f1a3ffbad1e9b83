//! Tokenizers as they come: with settings of a training run, broken, as bare vocabularies; and the tokens that open and end a
//! text. (Against transformers on folders of every kind: model_folders.rs.)

mod support;

use actpatch::backend::{CpuBackend, Dtype};
use actpatch::engine::{Engine, Output};
use actpatch::model::{Bos, LoadOptions, Model, ModelError};
use serde_json::{Value, json};
use support::{Copy, offline, warnings};

const GPT2: &str = "gpt2-tiny";
const LLAMA: &str = "../engine/llama-tiny";
const QWEN2: &str = "../engine/qwen2-tiny";

fn load(copy: &Copy, bos: Bos) -> Result<Model, ModelError> {
    let options = LoadOptions { bos, ..LoadOptions::default() };
    Model::load_from(copy.path().to_str().unwrap(), &options, &offline(copy.path()))
}

/// The BOS token and who decided.
fn bos(copy: &Copy, setting: Bos) -> (Option<u32>, String) {
    let model = load(copy, setting).unwrap();
    let record = model.provenance.bos_choice.clone().unwrap();
    assert_eq!((record.setting, record.token), (setting, model.tokenizer.bos()));
    (record.token, record.because)
}

/// A tokenizer that puts `token` in front of a text.
fn opening(token: &str, id: u32) -> Value {
    json!({
        "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": token, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 0 } }],
        "special_tokens": { token: { "id": token, "ids": [id], "tokens": [token] } }
    })
}

#[test]
fn texts_are_neither_cut_nor_padded() {
    let text = "It was very good and bad";
    let right = load(&Copy::of(GPT2), Bos::Auto).unwrap().tokenizer.encode(text).unwrap();
    assert_eq!(right.len(), 10);
    let truncation = json!({ "direction": "Right", "max_length": 6, "strategy": "LongestFirst", "stride": 0 });
    let impossible = json!({ "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 3 });
    let padding = |length: u64| {
        json!({
            "strategy": { "Fixed": length }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<|endoftext|>"
        })
    };
    for (field, value) in [
        ("truncation", truncation),
        ("truncation", impossible),
        ("padding", padding(24)),
        ("padding", padding(1_000_000_000_000)),
    ] {
        let copy = Copy::of(GPT2);
        copy.tokenizer(|json| json[field] = value.clone());
        let tokenizer = load(&copy, Bos::Auto).unwrap().tokenizer;
        assert_eq!(tokenizer.encode(text).unwrap(), right, "{field} = {value}");
    }
}

#[test]
fn a_tokenizer_that_makes_its_library_panic_is_an_error_that_names_the_file() {
    let parts = [
        ("normalizer", json!({ "type": "Replace", "pattern": { "String": "" }, "content": "x" })),
        ("normalizer", json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA" })),
        ("pre_tokenizer", json!({ "type": "FixedLength", "length": 0 })),
        (
            "post_processor",
            json!({
                "type": "TemplateProcessing", "single": [{ "Sequence": { "id": "B", "type_id": 0 } }], "pair": [],
                "special_tokens": {}
            }),
        ),
    ];
    for (part, value) in parts {
        let copy = Copy::of(GPT2);
        copy.tokenizer(|json| json[part] = value.clone());
        let result = load(&copy, Bos::Auto).and_then(|model| model.tokenizer.encode("It was good"));
        let message = result.expect_err(part).to_string();
        assert!(message.contains("tokenizer.json: cannot") && message.contains("stopped with"), "{part}: {message}");
    }
    // A file that is no JSON at all.
    let copy = Copy::of(GPT2);
    let path = copy.file("tokenizer.json");
    let broken = std::fs::read_to_string(&path).unwrap().replace("\"decoder\":", "\"decoder\"::");
    std::fs::write(&path, broken).unwrap();
    assert!(copy.complaint().contains("tokenizer.json: cannot be read"));
}

#[test]
fn bos_is_the_tokenizers_before_it_is_the_configurations() {
    let copy = Copy::of(LLAMA);
    copy.json("tokenizer_config.json", json!({ "bos_token": "w1", "add_bos_token": false }));
    copy.json("generation_config.json", json!({ "bos_token_id": 2 })).config("bos_token_id", json!(3));
    assert_eq!(bos(&copy, Bos::Auto), (Some(1), "tokenizer_config.json: bos_token".into()));
    copy.json("tokenizer_config.json", json!({ "bos_token": { "content": "w4" } }));
    assert_eq!(bos(&copy, Bos::Auto).0, Some(4));
    // What the tokenizer itself puts in front of a text is what transformers' users see there.
    copy.tokenizer(|json| json["post_processor"] = opening("w5", 5));
    assert_eq!(bos(&copy, Bos::Auto), (Some(5), "what the tokenizer puts in front of a text".into()));
    copy.tokenizer(|json| json["post_processor"] = Value::Null);
    // The older file wins where the newer one does not list the added tokens.
    copy.json("special_tokens_map.json", json!({ "bos_token": "w6" }));
    assert_eq!(bos(&copy, Bos::Auto), (Some(6), "special_tokens_map.json: bos_token".into()));
    copy.json("tokenizer_config.json", json!({ "bos_token": "w4", "added_tokens_decoder": {} }));
    assert_eq!(bos(&copy, Bos::Auto).0, Some(4));
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        std::fs::remove_file(copy.file(file)).unwrap();
    }
    assert_eq!(bos(&copy, Bos::Auto), (Some(2), "generation_config.json: bos_token_id".into()));
    std::fs::remove_file(copy.file("generation_config.json")).unwrap();
    assert_eq!(bos(&copy, Bos::Auto), (Some(3), "config.json: bos_token_id".into()));
    copy.config("bos_token_id", Value::Null);
    assert_eq!(bos(&copy, Bos::Auto), (Some(0), "the usual name <|endoftext|>".into()));
}

#[test]
fn a_tokenizer_without_bos_and_families_that_are_used_without_one() {
    let null = json!({ "bos_token": null, "add_bos_token": false });
    let copy = Copy::of(QWEN2);
    assert_eq!(bos(&copy, Bos::Auto).0, None);
    copy.json("tokenizer_config.json", null.clone());
    assert_eq!(bos(&copy, Bos::Auto).0, None);
    // The configuration's, for whoever wants it.
    assert_eq!(bos(&copy, Bos::Always), (Some(0), "config.json: bos_token_id".into()));
    copy.json("tokenizer_config.json", json!({ "bos_token": "w3" }));
    assert_eq!((bos(&copy, Bos::Auto).0, bos(&copy, Bos::Always).0), (None, Some(3)));
    copy.tokenizer(|json| json["post_processor"] = opening("w5", 5));
    assert_eq!(bos(&copy, Bos::Auto).0, Some(5));
    let copy = Copy::of(LLAMA);
    assert_eq!(bos(&copy, Bos::Auto).0, Some(0));
    assert_eq!(bos(&copy, Bos::Never), (None, "asked for".into()));
    copy.json("tokenizer_config.json", null);
    assert_eq!(bos(&copy, Bos::Auto), (None, "tokenizer_config.json: bos_token".into()));
    copy.json("tokenizer_config.json", json!({ "bos_token": 3 }));
    assert!(copy.complaint().contains("tokenizer_config.json: field `bos_token`: expected a token"));
}

#[test]
fn a_bos_that_does_not_exist_is_a_warning() {
    // GPT2Config's default, in a smaller vocabulary.
    let copy = Copy::of(LLAMA);
    copy.config("bos_token_id", json!(50_256)).config("eos_token_id", json!([50_256, 7]));
    let (model, said) = warnings(|| load(&copy, Bos::Auto).unwrap());
    assert_eq!((model.tokenizer.bos(), model.tokenizer.ends()), (Some(0), &[7][..]));
    assert!(said.contains("config.json: bos_token_id: the token id 50256 does not exist"), "{said}");
    copy.json("tokenizer_config.json", json!({ "bos_token": "<beginning>" })).config("bos_token_id", json!(-1));
    let (model, said) = warnings(|| load(&copy, Bos::Auto).unwrap());
    assert_eq!(model.tokenizer.bos(), Some(0));
    assert!(said.contains("<beginning> does not exist") && said.contains("id -1 does not exist"), "{said}");
    // Nobody names one that exists.
    copy.tokenizer(|json| {
        let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
        let unknown = vocabulary.remove("<|endoftext|>").unwrap();
        vocabulary.insert("<unk>".into(), unknown);
        json["model"]["unk_token"] = "<unk>".into();
    });
    assert_eq!(bos(&copy, Bos::Auto), (None, "no file names one".into()));
    let message = load(&copy, Bos::Always).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json: no beginning-of-sequence token"), "{message}");
}

#[test]
fn a_text_ends_at_every_token_that_generation_would_end_at() {
    let ends = |copy: &Copy| load(copy, Bos::Auto).unwrap().tokenizer.ends().to_vec();
    let copy = Copy::of(LLAMA);
    copy.config("eos_token_id", json!([9, 2]));
    assert_eq!(ends(&copy), [9, 2]);
    copy.json("generation_config.json", json!({ "eos_token_id": [0, 49] }));
    assert_eq!(ends(&copy), [0, 49]);
    copy.json("generation_config.json", json!({ "eos_token_id": 4 }));
    assert_eq!(ends(&copy), [4]);
    copy.json("generation_config.json", json!({ "bos_token_id": 4 }));
    assert_eq!(ends(&copy), [9, 2]);
    copy.config("eos_token_id", Value::Null).json("tokenizer_config.json", json!({ "eos_token": "w8" }));
    assert_eq!(ends(&copy), [8]);
}

#[test]
fn vocabulary_and_merges_without_a_tokenizer() {
    let copy = Copy::of(GPT2);
    let whole = load(&copy, Bos::Auto).unwrap().tokenizer;
    let json: Value = serde_json::from_slice(&std::fs::read(copy.file("tokenizer.json")).unwrap()).unwrap();
    let merges = json["model"]["merges"].as_array().unwrap();
    let pair = |pair: &Value| match pair {
        Value::String(text) => text.clone(),
        parts => format!("{} {}", parts[0].as_str().unwrap(), parts[1].as_str().unwrap()),
    };
    let lines: Vec<String> = merges.iter().map(pair).collect();
    std::fs::write(copy.file("merges.txt"), format!("#version: 0.2\n{}\n", lines.join("\n"))).unwrap();
    copy.json("vocab.json", json["model"]["vocab"].clone());
    std::fs::remove_file(copy.file("tokenizer.json")).unwrap();
    let model = load(&copy, Bos::Auto).unwrap();
    for text in ["It was very good", " bad<|endoftext|>\ngood", "it's 12"] {
        assert_eq!(model.tokenizer.encode(text).unwrap(), whole.encode(text).unwrap(), "{text}");
        assert_eq!(model.tokenizer.decode(&whole.encode(text).unwrap()).unwrap(), text);
    }
    assert_eq!(model.tokenizer.bos(), Some(0));
    assert_eq!(model.provenance.tokenizer.unwrap().name, "vocab.json");
    std::fs::write(copy.file("merges.txt"), "a b c\n").unwrap();
    assert!(copy.complaint().contains("merges.txt: line 1: expected two tokens"));
    copy.json("tokenizer_config.json", json!({ "tokenizer_class": "SomeTokenizer" }));
    let message = copy.complaint();
    assert!(message.contains("vocab.json") && message.contains("SomeTokenizer"), "{message}");
}

#[test]
fn tokens_without_an_embedding_are_an_error_where_a_text_uses_them() {
    let copy = Copy::of(GPT2);
    copy.json(
        "tokenizer_config.json",
        json!({
            "pad_token": "[PAD]",
            "added_tokens_decoder": { "200": { "content": "<extra>", "special": false, "lstrip": true } }
        }),
    );
    let model = load(&copy, Bos::Auto).unwrap();
    let d_vocab = model.config.d_vocab as u32;
    let (extra, padding) = (model.tokenizer.id("<extra>").unwrap(), model.tokenizer.id("[PAD]").unwrap());
    assert_eq!((extra, padding), (d_vocab, d_vocab + 1));
    let plain = model.tokenizer.encode("It was good").unwrap();
    let padded = model.tokenizer.encode("It[PAD]").unwrap();
    assert_eq!(padded.last(), Some(&padding));
    // Spaces before it are the token's own.
    assert_eq!(model.tokenizer.encode("It  <extra>").unwrap(), [&padded[..2], &[extra]].concat());
    let engine = Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap();
    engine.run(&[plain], &[], &[], Output::Last).unwrap();
    let message = engine.run(&[padded], &[], &[], Output::Last).err().unwrap().to_string();
    assert!(message.contains(&format!("token id {padding} is out of range")), "{message}");
}
