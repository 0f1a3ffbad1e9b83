//! Structure and errors of built datasets, with a tokenizer small enough to count tokens by eye.

use super::*;
use crate::compat::Compat;
use crate::model::Tokenizer;
use std::collections::BTreeMap;
use std::path::Path;

pub(super) const BOS: u32 = 0;

/// Splits a text into words with their leading space, other spaces and single signs: ` well-made` is 3 tokens.
pub(super) fn tokenizer(bos: Option<u32>) -> Tokenizer {
    let words = " good| bad| fine| sour| great| awful| made| well| ill| loved| hated| yes| no| It| film| was|It|.|-|,| |{|}|good|It's";
    let vocab: serde_json::Map<_, _> = ["<bos>", "<unk>"]
        .into_iter()
        .chain(words.split('|'))
        .enumerate()
        .map(|(id, word)| (word.into(), id.into()))
        .collect();
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": " ?[A-Za-z]+|[^A-Za-z]"}, "behavior": "Isolated", "invert": false},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    Tokenizer::from_bytes(Path::new("small.json"), json.to_string().as_bytes(), bos).unwrap()
}

fn id(word: &str) -> u32 {
    match tokenizer(None).encode(word).unwrap().as_slice() {
        [token] => *token,
        tokens => panic!("{word:?} is {tokens:?}"),
    }
}

/// The catalogue with `text` as a user's file `mine.toml`.
fn with_text(text: &str) -> Result<Catalogue, DatasetError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    std::fs::write(&path, text).unwrap();
    Catalogue::load(None)?.with_file(&path)
}

fn build(text: &str, options: &BuildOptions) -> Result<PairedPrompts, DatasetError> {
    with_text(text)?.build("mine", &tokenizer(Some(BOS)), options)
}

fn built(text: &str) -> PairedPrompts {
    build(text, &BuildOptions::default()).unwrap()
}

/// The error's message, for a file that must not build.
fn refused(text: &str) -> String {
    build(text, &BuildOptions::default()).unwrap_err().to_string()
}

const WORDS: &str = r#"
[words]
up = ["good", "great", "well-made", "good", "fine"]
down = ["bad", "sour", "ill-made"]
loved = ["loved"]
hated = ["hated"]
yes = ["yes", "well-made", "fine"]
no = ["no", "sour", "bad"]
"#;

const MINE: &str = r#"
[mine]
template = "It was{ADJ},{VRB} it.{SBJ: film}"
limit = ["up", "down"]
answers = { positive = "yes", negative = "no" }
[mine.fill]
ADJ = { positive = "up", negative = "down" }
VRB = { positive = "loved", negative = "hated" }
"#;

fn mine() -> String {
    format!("{WORDS}{MINE}")
}

/// `MINE` with one piece of text replaced by another, which must be there.
fn changed(from: &str, to: &str) -> String {
    let text = mine();
    assert!(text.contains(from), "{from:?}");
    text.replacen(from, to, 1)
}

#[test]
fn rows_alternate_and_the_next_one_is_the_corrupted() {
    let prompts = built(&mine());
    assert_eq!(prompts.name, "mine");
    // `up` keeps good, great, fine (the second good is dropped, well-made has 3 tokens), `down` keeps bad, sour.
    let expected =
        ["good, loved", "bad, hated", "great, loved", "sour, hated"].map(|words| format!("It was {words} it. film"));
    assert_eq!(prompts.texts, expected);
    assert_eq!(prompts.clean, [0, 1, 2, 3]);
    assert_eq!(prompts.corrupted, [1, 2, 3, 0]);
    assert_eq!(prompts.positive, [true, false, true, false]);
    let tokens = tokenizer(None).encode(&expected[0]).unwrap();
    assert_eq!(prompts.sequences[0], [&[BOS][..], &tokens].concat());
}

#[test]
fn positions_count_bos_and_fall_on_last_tokens() {
    // <bos> It was good , loved it . film
    let names = |positions: &BTreeMap<String, usize>| {
        ["ADJ", "VRB", "SBJ", END].map(|name| positions.get(name).copied().unwrap_or(usize::MAX))
    };
    let prompts = built(&mine());
    assert_eq!(names(&prompts.positions), [3, 5, 8, 8]);
    assert_eq!(prompts.positions.len(), 4);
    let without = BuildOptions { prepend_bos: false, ..BuildOptions::default() };
    let prompts = with_text(&mine()).unwrap().build("mine", &tokenizer(None), &without).unwrap();
    assert_eq!(names(&prompts.positions), [2, 4, 7, 7]);
    assert!(prompts.sequences.iter().all(|sequence| sequence.len() == 8));
}

#[test]
fn a_filler_of_more_tokens_is_found_at_its_last() {
    let text = changed(r#"VRB = { positive = "loved", negative = "hated" }"#, "").replace(",{VRB}", "");
    let prompts = build(&text, &BuildOptions { filter_length: Some(3), ..BuildOptions::default() }).unwrap();
    assert_eq!(prompts.texts, ["It was well-made it. film", "It was ill-made it. film"]);
    assert_eq!(prompts.positions["ADJ"], 5);
}

#[test]
fn answers_are_single_tokens_and_swap_with_the_sign() {
    // Of `yes`, well-made is dropped: fine meets sour.
    let prompts = built(&mine());
    let pairs = [(id(" yes"), id(" no")), (id(" fine"), id(" sour"))];
    assert_eq!(prompts.answers[0], pairs);
    assert_eq!(prompts.answers[1], pairs.map(|(correct, incorrect)| (incorrect, correct)));
    assert_eq!(prompts.answers[2], pairs);

    let first = built(&changed(r#"negative = "no" }"#, r#"negative = "no", first_token = true }"#));
    assert_eq!(first.answers[0], [pairs[0], (id(" well"), id(" sour")), (id(" fine"), id(" bad"))]);

    let one = build(&mine(), &BuildOptions { n_answers: Some(1), ..BuildOptions::default() }).unwrap();
    assert_eq!(one.answers, [[pairs[0]], [(pairs[0].1, pairs[0].0)], [pairs[0]], [(pairs[0].1, pairs[0].0)]]);
}

#[test]
fn wrapping_and_offsets() {
    let text = changed(r#"limit = ["up", "down"]"#, r#"limit = ["up"]"#).replace(
        r#"ADJ = { positive = "up", negative = "down" }"#,
        r#"ADJ = { positive = "up", negative = "down", offset = 2 }"#,
    );
    let adjectives: Vec<String> =
        built(&text).texts.iter().map(|text| text.split([' ', ',']).nth(2).unwrap().to_string()).collect();
    // Three indices; positives good great fine from 2 on, negatives bad sour from 2 on: `fine bad, good sour, great bad`.
    assert_eq!(adjectives, ["fine", "bad", "good", "sour", "great"]);
    // The sixth prompt equals the second: stored once.
    assert_eq!(built(&text).clean, [0, 1, 2, 3, 4, 1]);
}

#[test]
fn without_a_limit_every_list_limits() {
    assert_eq!(built(&changed(r#"limit = ["up", "down"]"#, "")).clean.len(), 2);
}

#[test]
fn a_partner_can_be_the_corrupted_prompt() {
    let prompts = built(&changed("limit =", "corrupted = \"partner\"\nlimit ="));
    assert_eq!((prompts.clean, prompts.corrupted), (vec![0, 1, 2, 3], vec![1, 0, 3, 2]));
    assert!(refused(&changed("limit =", "corrupted = \"last\"\nlimit =")).contains("corrupted"));
}

#[test]
fn one_side_can_have_the_rows() {
    let of = |sides: &str| built(&changed("limit =", &format!("corrupted = \"partner\"\nrows = \"{sides}\"\nlimit =")));
    let (positive, negative) = (of("positive"), of("negative"));
    assert_eq!((positive.clean, positive.corrupted), (vec![0, 2], vec![1, 3]));
    assert_eq!((negative.clean, negative.corrupted), (vec![1, 3], vec![0, 2]));
    assert_eq!((positive.positive, negative.positive), (vec![true; 2], vec![false; 2]));
    let swapped: Vec<_> = positive.answers[0].iter().map(|&(correct, incorrect)| (incorrect, correct)).collect();
    assert_eq!(negative.answers[0], swapped);
}

#[test]
fn a_prompt_that_begins_with_a_word_has_no_space_there() {
    let prompts = built(&changed("It was{ADJ},{VRB} it.{SBJ: film}", "{ADJ},{VRB} It{VRB}"));
    assert_eq!(prompts.texts[0], "good, loved It loved");
    assert_eq!((prompts.positions["ADJ"], prompts.positions["VRB"]), (1, 5));
}

#[test]
fn spaces_are_doubled_and_trailed_on_request_alone() {
    let text = changed("limit =", "double_spaces = [\"VRB\"]\nlimit =");
    assert_eq!(built(&text).texts, built(&mine()).texts);
    let build = |compat| {
        let catalogue = with_text(&text).unwrap().with_compat(compat);
        catalogue.build("mine", &tokenizer(Some(BOS)), &BuildOptions::default())
    };
    let doubled = build(Compat::DoubleSpaces).unwrap();
    assert_eq!(doubled.texts[0], "It was good,  loved it. film");
    assert_eq!((doubled.positions["ADJ"], doubled.positions["VRB"]), (3, 6));
    // `yes` and `no` have no token without their space here.
    assert!(build(Compat::TrailingSpace).unwrap_err().to_string().contains("`answers`"));
    assert!(refused(&changed("limit =", "double_spaces = [\"NOUN\"]\nlimit =")).contains("{NOUN}"));
}

#[test]
fn variants_share_an_index() {
    let text = format!(
        "{WORDS}{}",
        r#"
[mine]
template = "It was{FIRST} film was{SECOND}."
limit = ["up", "down"]
answers = { positive = "yes", negative = "no" }
[mine.fill]
FIRST = { positive = "up", negative = "down" }
[[mine.variants]]
SECOND = { both = "loved" }
[[mine.variants]]
SECOND = { both = "hated" }
"#
    );
    let words: Vec<String> =
        built(&text).texts.iter().map(|text| text.replace("It was ", "").replace(" film was", "")).collect();
    let expected = "good loved.|bad loved.|good hated.|bad hated.|great loved.|sour loved.|great hated.|sour hated.";
    assert_eq!(words, expected.split('|').collect::<Vec<_>>());
}

#[test]
fn explicit_prompts_keep_their_own_corrupted_one() {
    let prompts = built(
        r#"
[mine]
prompts = [
    { clean = "It was{ADJ: good}, It", corrupted = "It was{ADJ: bad}, It", correct = " yes", incorrect = " no", label = "positive" },
    { clean = "It was{ADJ: bad}, It", corrupted = "It was{ADJ: good}, It", correct = " no", incorrect = " yes", label = "negative" },
]
"#,
    );
    assert_eq!(prompts.texts, ["It was good, It", "It was bad, It"]);
    assert_eq!((prompts.clean, prompts.corrupted), (vec![0, 1], vec![1, 0]));
    assert_eq!(prompts.positive, [true, false]);
    assert_eq!(prompts.answers, [[(id(" yes"), id(" no"))], [(id(" no"), id(" yes"))]]);
    assert_eq!(prompts.positions, BTreeMap::from([("ADJ".to_string(), 3), (END.to_string(), 5)]));
}

/// One explicit prompt; `clean` and `corrupted` as given.
fn explicit(clean: &str, corrupted: &str, answers: &str) -> String {
    format!(
        "[mine]\nprompts = [{{ clean = \"{clean}\", corrupted = \"{corrupted}\", {answers}, label = \"positive\" }}]\n"
    )
}

#[test]
fn explicit_prompts_that_make_no_sense_are_refused() {
    let answers = r#"correct = " yes", incorrect = " no""#;
    for (text, says) in [
        (
            explicit("It was good", "It was good film", answers),
            vec!["\"It was good\" has 4", "\"It was good film\" has 5"],
        ),
        (explicit("It was good", "It was good", answers), vec!["same tokens", "\"It was good\""]),
        (explicit("It was{ADJ}", "It was bad", answers), vec!["prompts[0].clean", "{ADJ}"]),
        (explicit("It was{ADJ: good}", "It was bad", answers), vec!["`ADJ` is at token 3", "absent"]),
        (explicit("It{A: was} good", "It was{A: bad}", answers), vec!["`A` is at token 2", "at token 3"]),
        (
            explicit("It was{A: go}od", "It was bad", answers),
            vec!["the position `A`", "where a token ends", "It was good"],
        ),
        (
            explicit("It was good", "It was bad", r#"correct = " well-made", incorrect = " no""#),
            vec!["prompts[0].correct", "3"],
        ),
        (explicit("It was good", "It was bad", r#"correct = " no", incorrect = " no""#), vec!["same token"]),
        (
            explicit("It was good", "It was bad", r#"correct = "s", incorrect = " no""#),
            vec!["prompts[0].correct", "melts"],
        ),
        (explicit("It was good", "It was bad", "correct = 3"), vec!["prompts[0]", "in `correct`"]),
        (explicit("It was good", "It was bad", answers).replace("positive", "good"), vec!["prompts[0]", "in `label`"]),
        ("[mine]\nprompts = []\n".to_string(), vec!["a clean and a corrupted prompt", "found 0"]),
        (
            format!("{}filter_length = 2\n", explicit("a", "b", answers)),
            vec!["`filter_length` belongs to a `template`"],
        ),
    ] {
        let message = refused(&text);
        for part in says.iter().chain(&["mine.toml", "`mine`"]) {
            assert!(message.contains(part), "{message:?} lacks {part:?}\n{text}");
        }
    }
}

#[test]
fn ragged_datasets_compare_lengths_within_an_entry_alone() {
    let answers = r#"correct = " yes", incorrect = " no", label = "positive""#;
    let entry =
        |clean: &str, corrupted: &str| format!("{{ clean = \"{clean}\", corrupted = \"{corrupted}\", {answers} }}");
    let entries = [entry("It was good", "It was bad"), entry("It was good, It", "It was bad, It")].join(", ");
    let prompts = built(&format!("[mine]\nragged = true\nprompts = [{entries}]\n"));
    let lengths: Vec<usize> = prompts.clean.iter().map(|&sequence| prompts.sequences[sequence].len()).collect();
    assert_eq!(lengths, [4, 6]);
    assert!(prompts.positions.is_empty(), "END is not one position");
    let plain = format!("[mine]\nprompts = [{entries}]\n");
    assert!(
        refused(&plain).contains("has 4")
            && refused(&plain.replace("prompts =", "ragged = false\nprompts =")).contains("has 4")
    );
    let unequal = refused(&format!("[mine]\nragged = true\nprompts = [{}]\n", entry("It was good", "It was bad, It")));
    assert!(unequal.contains("has 4") && unequal.contains("has 6"), "{unequal}");
    let moved = [entry("It was{A: good}", "It was{A: bad}"), entry("It{A: was} good", "It{A: was} bad")].join(", ");
    let moved = refused(&format!("[mine]\nragged = true\nprompts = [{moved}]\n"));
    assert!(moved.contains("`A` is at token 3") && moved.contains("at token 2"), "{moved}");
    let template = refused(&changed("[mine]\n", "[mine]\nragged = true\n"));
    assert!(template.contains("`ragged` belongs to listed `prompts`"), "{template}");
}

#[test]
fn templates_that_make_no_sense_are_refused() {
    for (text, says) in [
        (changed("template = \"It", "template = \"{It"), vec!["`template`", "letters"]),
        (changed("{VRB}", "{VERB}"), vec!["`fill.VRB`", "{VRB}"]),
        (changed("{SBJ: film}", "{SBJ}"), vec!["`fill`", "{SBJ}"]),
        (changed(r#"positive = "up""#, r#"positive = "upp""#), vec!["`fill.ADJ`", "`upp`"]),
        (changed(r#"limit = ["up""#, r#"limit = ["upp""#), vec!["`limit`", "`upp`"]),
        (changed("limit =", "limits ="), vec!["limits"]),
        (changed(r#"answers = { positive = "yes", negative = "no" }"#, ""), vec!["answers"]),
        (changed("template =", "tamplate ="), vec!["tamplate"]),
        (changed(r#"positive = "loved", "#, ""), vec!["`fill.VRB`", "both"]),
        (
            changed(r#"yes = ["yes", "well-made", "fine"]"#, r#"yes = ["well-made"]"#),
            vec!["`answers`", "leave 0", "small.json"],
        ),
        (changed(r#"yes = ["yes""#, r#"yes = ["no""#), vec!["the same token 14 (\" no\")", "same token"]),
        (changed(r#"hated = ["hated"]"#, r#"hated = ["well-made"]"#), vec!["`hated`", "exactly 1", "small.json"]),
        (changed(r#"limit = ["up", "down"]"#, "prompts = []"), vec!["both `template` and `prompts`"]),
        (changed("{VRB} it.", "{VRB}it."), vec!["the position `VRB`", "where a token ends"]),
        (changed("[mine.fill]", "variants = []\n[mine.fill]"), vec!["variants", "empty"]),
    ] {
        let message = refused(&text);
        for part in says.iter().chain(&["mine.toml", "`mine`"]) {
            assert!(message.contains(part), "{message:?} lacks {part:?}\n{text}");
        }
    }
}

#[test]
fn broken_files_are_named() {
    for (text, says) in [
        ("[mine", vec!["mine.toml", "line 1"]),
        ("mine = 3", vec!["mine.toml", "`mine`", "integer"]),
        ("words = 3", vec!["mine.toml", "words", "integer"]),
        ("[words]\nup = 3", vec!["mine.toml", "`up`", "integer"]),
        ("[words]\nup = [\"good\", \" \"]", vec!["mine.toml", "`up`", "word 2 is empty"]),
        ("[mine]", vec!["mine.toml", "`mine`", "neither"]),
    ] {
        let message = with_text(text).unwrap_err().to_string();
        for part in says {
            assert!(message.contains(part), "{message:?} lacks {part:?}\n{text}");
        }
    }
    let missing = Catalogue::load(None).unwrap().with_file(Path::new("nowhere/mine.toml")).unwrap_err();
    assert!(missing.to_string().contains("nowhere/mine.toml"), "{missing}");
}

#[test]
fn options_are_checked() {
    let no_bos = with_text(&mine()).unwrap().build("mine", &tokenizer(None), &BuildOptions::default()).unwrap_err();
    assert!(no_bos.to_string().contains("small.json") && no_bos.to_string().contains("BOS"), "{no_bos}");
    for (n_answers, says) in [(0, "at least one"), (3, "3 answer pair(s) wanted, but the lists leave 2")] {
        let error =
            build(&mine(), &BuildOptions { n_answers: Some(n_answers), ..BuildOptions::default() }).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    let error = build(&mine(), &BuildOptions { filter_length: Some(0), ..BuildOptions::default() }).unwrap_err();
    assert!(matches!(error, DatasetError::NoWords { filter_length: 0, .. }), "{error}");
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let catalogue = with_text(&mine()).unwrap();
    assert!(catalogue.names().is_sorted() && catalogue.names().contains(&"mine"));
    let message = catalogue.build("simpel", &tokenizer(Some(BOS)), &BuildOptions::default()).unwrap_err().to_string();
    assert!(message.contains("`simpel`") && message.contains("mine") && message.contains("simple_train"), "{message}");
}

#[test]
fn a_data_folder_lies_over_the_built_in_files() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Catalogue::load(Some(folder.path())).unwrap().names(), Catalogue::load(None).unwrap().names());
    std::fs::write(
        folder.path().join("words.toml"),
        "up = [\"good\"]\ndown = [\"bad\"]\nyes = [\"yes\"]\nno = [\"no\"]\n",
    )
    .unwrap();
    let dataset = "template = \"It was{ADJ}.\"\nanswers = { positive = \"yes\", negative = \"no\" }\n";
    let fill = "fill.ADJ = { positive = \"up\", negative = \"down\" }\n";
    std::fs::write(folder.path().join("datasets.toml"), format!("[simple]\n{dataset}{fill}")).unwrap();
    let catalogue = Catalogue::load(Some(folder.path())).unwrap();
    assert_eq!(catalogue.names(), Catalogue::load(None).unwrap().names());
    let prompts = catalogue.build("simple", &tokenizer(Some(BOS)), &BuildOptions::default()).unwrap();
    assert_eq!(prompts.texts, ["It was good.", "It was bad."]);
}
