//! The built-in datasets with the real GPT-2 and GPT-NeoX tokenizers, against an independent expansion of the templates
//! (`tests/reference/make_dataset_fixtures.py`) and against published sizes and positions. The tokenizers are not part of
//! the repository; without them these tests say that they skip.

use actpatch::datasets::{BuildOptions, Catalogue, PairedPrompts};
use actpatch::model::Tokenizer;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

const MODELS: [(&str, u32); 2] = [("gpt2", 50256), ("gpt-neox", 0)];

/// The tokenizer, when it is there.
fn tokenizer(model: &str, bos: u32) -> Option<Tokenizer> {
    let path =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/tokenizers")).join(model).join("tokenizer.json");
    if !path.exists() {
        println!("skipped for {model}: no tokenizer at {}", path.display());
        return None;
    }
    Some(Tokenizer::from_file(&path, Some(bos)).unwrap())
}

fn build(catalogue: &Catalogue, name: &str, tokenizer: &Tokenizer) -> PairedPrompts {
    catalogue.build(name, tokenizer, &BuildOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// SHA-256 of all clean rows in order: ids joined by spaces, rows ended by newlines.
fn fingerprint(prompts: &PairedPrompts) -> String {
    let line = |&row: &usize| {
        let ids: Vec<String> = prompts.sequences[row].iter().map(u32::to_string).collect();
        format!("{}\n", ids.join(" "))
    };
    let text: String = prompts.clean.iter().map(line).collect();
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_dataset_equals_the_reference_expansion() {
    let fixture: BTreeMap<String, BTreeMap<String, Value>> =
        serde_json::from_str(include_str!("fixtures/datasets.json")).unwrap();
    let catalogue = Catalogue::load(None).unwrap();
    for (model, bos) in MODELS {
        assert_eq!(catalogue.names(), fixture[model].keys().collect::<Vec<_>>());
        let Some(tokenizer) = tokenizer(model, bos) else { continue };
        for (name, expected) in &fixture[model] {
            let prompts = build(&catalogue, name, &tokenizer);
            let n_prompts = prompts.clean.len();
            let at = format!("{model} {name}");
            assert_eq!(n_prompts, expected["n_prompts"], "{at}");
            assert!(prompts.sequences.iter().all(|sequence| sequence.len() == expected["length"]), "{at}");
            assert_eq!(serde_json::json!(prompts.positions), expected["positions"], "{at}");
            assert_eq!(serde_json::json!(prompts.sequences[prompts.clean[0]]), expected["first_prompt"], "{at}");
            assert_eq!(fingerprint(&prompts), expected["sha256"], "{at}");
            for row in 0..n_prompts {
                assert_eq!(prompts.corrupted[row], prompts.clean[(row + 1) % n_prompts], "{at}, row {row}");
                assert_eq!(prompts.positive[row], row % 2 == 0, "{at}, row {row}");
                let unswapped: Vec<_> =
                    prompts.answers[row].iter().map(|&(a, b)| if row % 2 == 0 { (a, b) } else { (b, a) }).collect();
                assert_eq!(serde_json::json!(unswapped), expected["answers"], "{at}, row {row}");
            }
        }
    }
}

/// Prompt pairs per dataset as counted in the original research code.
#[test]
fn sizes_are_the_published_ones() {
    let sizes = [
        ("simple", 13, 11),
        ("simple_train", 13, 11),
        ("simple_test", 14, 11),
        ("simple_book", 5, 4),
        ("simple_res", 9, 6),
        ("simple_product", 13, 11),
        ("simple_adverb", 17, 12),
        ("simple_french", 16, 13),
        ("proper_nouns", 16, 12),
        ("medical", 16, 16),
        ("multi_subject_1", 26, 22),
    ];
    let catalogue = Catalogue::load(None).unwrap();
    for (column, (model, bos)) in MODELS.into_iter().enumerate() {
        let Some(tokenizer) = tokenizer(model, bos) else { continue };
        for (name, gpt2, neox) in sizes {
            let expected = [gpt2, neox][column];
            assert_eq!(build(&catalogue, name, &tokenizer).clean.len(), 2 * expected, "{model} {name}");
        }
    }
}

#[test]
fn positions_and_words_are_the_published_ones() {
    let catalogue = Catalogue::load(None).unwrap();
    let positions = |prompts: &PairedPrompts, names: &[&str]| -> Vec<usize> {
        names.iter().map(|&name| prompts.positions[name]).collect()
    };
    for (model, bos) in MODELS {
        let Some(tokenizer) = tokenizer(model, bos) else { continue };
        for name in ["simple", "simple_train", "simple_test"] {
            let prompts = build(&catalogue, name, &tokenizer);
            assert!(prompts.sequences.iter().all(|sequence| sequence.len() == 19), "{model} {name}");
            let found = positions(&prompts, &["SBJ1", "ADJ", "VRB", "DTR", "SBJ2", "END"]);
            assert_eq!(found, [4, 6, 9, 16, 17, 18], "{model} {name}");
        }
        let simple = build(&catalogue, "simple", &tokenizer);
        let verb = |row: usize| tokenizer.decode(&simple.sequences[simple.clean[row]][9..10]).unwrap();
        assert_eq!([verb(0), verb(1)], [" admired", " condemned"], "{model}");

        let classification = build(&catalogue, "classification_4", &tokenizer);
        assert!(classification.sequences.iter().all(|sequence| sequence.len() == 35), "{model}");
        let found = positions(&classification, &["ADJ1", "ADJ2", "ADJ3", "ADJ4", "VRB", "END"]);
        assert_eq!(found, [6, 15, 20, 29, 9, 34], "{model}");
        let answers = [[(33733, 36183)], [(29071, 32725)]][usize::from(model == "gpt-neox")];
        assert_eq!(classification.answers[0], answers, "{model}");
    }
}

/// The prompts of the research code's last commit can still be written: two spaces before ADJ4 are one token more.
#[test]
fn a_file_can_have_the_double_space() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("head.toml");
    let built_in = include_str!("../data/datasets.toml");
    let table = &built_in[built_in.find("[classification_4]").unwrap()..built_in.find("# Two reviews").unwrap()];
    std::fs::write(&path, table.replace("very{ADJ4}", "very {ADJ4}")).unwrap();
    let catalogue = Catalogue::load(None).unwrap().with_file(&path).unwrap();
    for (model, bos) in MODELS {
        let Some(tokenizer) = tokenizer(model, bos) else { continue };
        let prompts = build(&catalogue, "classification_4", &tokenizer);
        assert!(prompts.sequences.iter().all(|sequence| sequence.len() == 36), "{model}");
        assert_eq!(prompts.positions["ADJ4"], 30, "{model}");
    }
}
