//! The built-in datasets with the real GPT-2 and GPT-NeoX tokenizers and with a small one that spells spaces as Mistral's
//! does, against an independent expansion of the templates (`tests/reference/make_dataset_fixtures.py`) and against
//! published sizes and positions. The real tokenizers are not part of the repository; without them these tests say that
//! they skip.

use actpatch::compat::Compat;
use actpatch::datasets::{BuildOptions, Catalogue, PairedPrompts};
use actpatch::model::Tokenizer;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

const MODELS: [(&str, u32); 2] = [("gpt2", 50256), ("gpt-neox", 0)];
const MISTRAL_LIKE: &str = "mistral-like";

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

/// The small tokenizer, and the real ones that are there.
fn tokenizers() -> Vec<(&'static str, Tokenizer)> {
    let small = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizers/mistral-like/tokenizer.json");
    let small = Tokenizer::from_file(Path::new(small), Some(1)).unwrap();
    let real = MODELS.into_iter().filter_map(|(model, bos)| Some((model, tokenizer(model, bos)?)));
    std::iter::once((MISTRAL_LIKE, small)).chain(real).collect()
}

type Expected = BTreeMap<String, BTreeMap<String, Value>>;

/// The dataset is exactly what the reference expansion has found.
fn assert_expected(prompts: &PairedPrompts, expected: &Value, at: &str) {
    let n_prompts = prompts.clean.len();
    assert_eq!(n_prompts, expected["n_prompts"], "{at}");
    assert!(prompts.sequences.iter().all(|sequence| sequence.len() == expected["length"]), "{at}");
    assert_eq!(serde_json::json!(prompts.positions), expected["positions"], "{at}");
    assert_eq!(serde_json::json!(prompts.sequences[prompts.clean[0]]), expected["first_prompt"], "{at}");
    assert_eq!(fingerprint(prompts), expected["sha256"], "{at}");
    for row in 0..n_prompts {
        let positive = match expected["corrupted"].as_str() {
            Some("neutral") => at.ends_with("simple_positive"),
            _ => row % 2 == 0,
        };
        match expected["corrupted"].as_str() {
            Some("next") => assert_eq!(prompts.corrupted[row], prompts.clean[(row + 1) % n_prompts], "{at}, row {row}"),
            Some("partner") => assert_eq!(prompts.corrupted[row], prompts.clean[row ^ 1], "{at}, row {row}"),
            // The other prompts have no row: what they say is compared here, the clean ones by their fingerprint.
            _ => assert!(prompts.texts[prompts.corrupted[row]].contains(", I watched it."), "{at}, row {row}"),
        }
        assert_eq!(prompts.positive[row], positive, "{at}, row {row}");
        let unswapped: Vec<_> =
            prompts.answers[row].iter().map(|&(a, b)| if positive { (a, b) } else { (b, a) }).collect();
        assert_eq!(serde_json::json!(unswapped), expected["answers"], "{at}, row {row}");
    }
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
    let fixture: Expected = serde_json::from_str(include_str!("fixtures/datasets.json")).unwrap();
    let catalogue = Catalogue::load(None).unwrap();
    for (model, _) in MODELS {
        assert_eq!(catalogue.names(), fixture[model].keys().collect::<Vec<_>>());
    }
    // Its vocabulary has adverbs, French words and rare adjectives in other pieces than those datasets need.
    assert_eq!(fixture[MISTRAL_LIKE].len(), catalogue.names().len() - 3);
    for (model, tokenizer) in tokenizers() {
        for (name, expected) in &fixture[model] {
            assert_expected(&build(&catalogue, name, &tokenizer), expected, &format!("{model} {name}"));
        }
    }
}

#[test]
fn prompts_of_the_research_code_can_be_had() {
    let fixture: Expected = serde_json::from_str(include_str!("fixtures/dataset_compat.json")).unwrap();
    for (model, tokenizer) in tokenizers() {
        let mut compared = 0;
        for compat in [Compat::DoubleSpaces, Compat::PastedAdjectives, Compat::TrailingSpace] {
            let catalogue = Catalogue::load(None).unwrap().with_compat(compat);
            for (name, expected) in &fixture[&format!("{model} {compat}")] {
                assert_expected(&build(&catalogue, name, &tokenizer), expected, &format!("{model} {compat} {name}"));
                compared += 1;
            }
        }
        assert!(compared >= 8, "{model}: {compared}");
    }
}

/// Two spaces are one token of GPT-NeoX's, behind which some verbs are more than one.
#[test]
fn prompts_that_come_out_unequal_are_refused() {
    let Some(tokenizer) = tokenizer("gpt-neox", 0) else { return };
    let catalogue = Catalogue::load(None).unwrap().with_compat(Compat::DoubleSpaces);
    let error = catalogue.build("multi_subject_1", &tokenizer, &BuildOptions::default()).unwrap_err().to_string();
    assert!(error.contains("`multi_subject_1`") && error.contains("tokens"), "{error}");
}

/// A word is as long as it is inside a text: there Mistral's space is no token of its own.
#[test]
fn spaces_that_stand_alone_do_not_count() {
    let (_, tokenizer) = tokenizers().swap_remove(0);
    assert_eq!(tokenizer.encode(" great").unwrap().len(), 2);
    let prompts = build(&Catalogue::load(None).unwrap(), "simple_train", &tokenizer);
    assert_eq!(prompts.positions["ADJ"], 6);
    let word = |row: usize| tokenizer.decode(&prompts.sequences[prompts.clean[row]][6..7]).unwrap();
    assert_eq!([word(0), word(1)].map(|word| word.trim().to_owned()), ["adequate", "annoying"]);
}

/// ` Messi` is one of GPT-2's tokens, `Messi` is not: no word for a prompt's beginning.
#[test]
fn a_word_that_begins_a_prompt_is_as_long_without_its_space() {
    let Some(tokenizer) = tokenizer("gpt2", 50256) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fans.toml");
    let fans = r#"
[words]
names = ["Messi", "Anne", "Sarah"]
[fans]
template = "{NAME} is{ADJ}."
limit = ["names"]
answers = { positive = "excited", negative = "nervous" }
fill = { NAME = { both = "names" }, ADJ = { positive = "excited", negative = "nervous" } }
"#;
    std::fs::write(&path, fans).unwrap();
    let catalogue = Catalogue::load(None).unwrap().with_file(&path).unwrap();
    let texts = build(&catalogue, "fans", &tokenizer).texts;
    assert_eq!(texts, ["Anne is excited.", "Anne is nervous.", "Sarah is excited.", "Sarah is nervous."]);
}

/// Positions of the commas and full stops that the paper's summarisation experiments patch.
#[test]
fn stories_have_their_published_positions() {
    for (model, bos) in MODELS {
        let Some(tokenizer) = tokenizer(model, bos) else { continue };
        let prompts = build(&Catalogue::load(None).unwrap(), "mood_stories", &tokenizer);
        let names = ["NAME1", "VRB1", "COMMA1", "JOIN1", "STOP1", "NAME2", "COMMA2", "STOP2", "NAME", "END"];
        assert_eq!(names.map(|name| prompts.positions[name]), [1, 2, 4, 6, 10, 11, 14, 20, 33, 35], "{model}");
        let text = |row: usize| prompts.texts[prompts.clean[row]].as_str();
        let lover = "John loves parties, and joins them whenever possible. Anne hates parties, and avoids them \
                     whenever possible. One day, they were invited to a grand gala.";
        let hater = "John hates parties, and avoids them whenever possible. Anne loves parties, and joins them \
                     whenever possible. One day, they were invited to a grand gala.";
        for (row, expected) in [(lover, "John"), (hater, "John"), (hater, "Anne"), (lover, "Anne")].iter().enumerate() {
            assert_eq!(text(row), format!("{} {} feels very", expected.0, expected.1), "{model} {row}");
        }
        // The fifteen names of the paper repeat two; the thirteen distinct ones begin with the same.
        assert_eq!(prompts.clean.len(), 4 * 13, "{model}");
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
        ("two_token_adjectives", 11, 7),
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

/// The notebooks' prompts behind golden numbers: as many, and as long, as the notebooks print.
#[test]
fn prompts_of_the_notebooks_have_their_sizes() {
    let catalogue = Catalogue::load(None).unwrap().with_text("golden", actpatch::report::GOLDEN_DATASETS).unwrap();
    for ((model, bos), sizes) in MODELS
        .into_iter()
        .zip([&[("simple_first", 50, 19), ("contrastive", 50, 26)][..], &[("notebook_mood_stories", 16, 36)]])
    {
        let Some(tokenizer) = tokenizer(model, bos) else { continue };
        for (name, n_prompts, length) in sizes {
            let prompts = build(&catalogue, name, &tokenizer);
            assert_eq!((prompts.clean.len(), prompts.answers[0].len()), (*n_prompts, 1), "{name}");
            assert!(prompts.sequences.iter().all(|sequence| sequence.len() == *length), "{name}");
        }
    }
}
