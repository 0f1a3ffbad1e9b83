//! Tables of pairs, beside the same pairs in TOML, with the small tokenizer of the other tests.

use super::rows::{Row, csv_rows};
use super::tests::{BOS, tokenizer};
use super::*;
use crate::compat::Compat;
use std::path::{Path, PathBuf};

/// A file with this text in a folder of its own.
fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn build(path: &Path) -> Result<PairedPrompts, DatasetError> {
    let catalogue = Catalogue::load(None)?.with_file(path)?;
    catalogue.build("mine", &tokenizer(Some(BOS)), &BuildOptions::default())
}

/// The prompts of a file called `mine`, and its other faults than the first.
fn built(name: &str, text: &str) -> PairedPrompts {
    build(&file(name, text.as_bytes()).1).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The message of a file that must not build.
fn refused(name: &str, bytes: &[u8]) -> String {
    let (_folder, path) = file(name, bytes);
    build(&path).map(|_| String::from_utf8_lossy(bytes).into_owned()).unwrap_err().to_string()
}

const TOML: &str = r#"
[mine]
prompts = [
    { clean = "It was{ADJ: good}, It", corrupted = "It was{ADJ: bad}, It", correct = " yes", incorrect = " no", label = "positive" },
    { clean = "It was{ADJ: bad}, It", corrupted = "It was{ADJ: great}, It", correct = " no", incorrect = " yes", label = "negative" },
]
"#;

const CSV: &str = "\
clean,corrupted,answer,wrong_answer,class,position_ADJ
\"It was good, It\",\"It was bad, It\", yes, no,positive,good
\"It was bad, It\",\"It was great, It\", no, yes,negative, bad
";

const JSON_LINES: &str = r#"
{"clean": "It was good, It", "corrupted": "It was bad, It", "answer": " yes", "wrong_answer": " no", "label": 1, "position_ADJ": "was good"}

{"corrupted": "It was great, It", "clean": "It was bad, It", "position_ADJ": "bad", "wrong_answer": " yes", "answer": " no", "label": false}
"#;

#[test]
fn a_table_is_the_same_pairs_in_toml() {
    let expected = built("mine.toml", TOML);
    assert!(expected.has_classes && expected.positions["ADJ"] == 3 && expected.positions[END] == 5);
    assert_eq!(built("mine.csv", CSV), expected);
    assert_eq!(built("mine.jsonl", JSON_LINES), expected);
    for text in
        [CSV.replace('\n', "\r\n"), format!("\u{feff}{CSV}"), CSV.replace("\n\"", "\n\n\""), CSV.trim_end().into()]
    {
        assert_eq!(built("mine.csv", &text), expected, "{text:?}");
    }
    for text in [JSON_LINES.replace('\n', "\r\n"), format!("\u{feff}{}", JSON_LINES.trim())] {
        assert_eq!(built("mine.JSONL", &text), expected, "{text:?}");
    }
}

#[test]
fn pairs_may_differ_in_length_among_each_other() {
    let toml = r#"
[mine]
ragged = true
prompts = [
    { clean = "It was good", corrupted = "It was bad", correct = " yes", incorrect = " no" },
    { clean = "It was bad, It", corrupted = "It was great, It", correct = " no", incorrect = " yes" },
]
"#;
    let csv = "\
clean,corrupted,answer,wrong_answer
It was good,It was bad, yes, no
\"It was bad, It\",\"It was great, It\", no, yes
";
    let expected = built("mine.toml", toml);
    assert_eq!(built("mine.csv", csv), expected);
    assert!(expected.positions.is_empty(), "END is not one position");
    let unequal = refused("mine.csv", csv.replacen("It was good,", "It was,", 1).as_bytes());
    for part in ["line 2", "\"It was\" has 3", "\"It was bad\" has 4"] {
        assert!(unequal.contains(part), "{unequal}");
    }
}

#[test]
fn texts_stand_as_they_are_and_classes_may_be_left_out() {
    let csv = "clean,corrupted,answer,wrong_answer\n{It was good,{It was bad, yes, no\n";
    let prompts = built("mine.csv", csv);
    assert_eq!(prompts.texts, ["{It was good", "{It was bad"]);
    assert_eq!((prompts.has_classes, prompts.positive), (false, vec![true]));
    let toml = TOML.replace(", label = \"positive\"", "").replace(", label = \"negative\"", "");
    let prompts = built("mine.toml", &toml);
    assert_eq!((prompts.has_classes, prompts.positive), (false, vec![true, true]));
    assert!(!built("mine.csv", &CSV.replace("positive", "").replace("negative", "")).has_classes);
    let numbers = TOML.replace("\"positive\"", "1").replace("\"negative\"", "false");
    assert_eq!(built("mine.toml", &numbers).positive, built("mine.toml", TOML).positive);
    let half = refused("mine.toml", TOML.replace(", label = \"negative\"", "").as_bytes());
    assert!(half.contains("prompts[1]") && half.contains("all pairs have one or none"), "{half}");
}

#[test]
fn faults_of_tables_name_the_line_and_the_field() {
    let long = "x".repeat((1 << 17) + 1);
    let csv = |from: &str, to: &str| CSV.replacen(from, to, 1);
    for (text, says) in [
        (String::new(), &["line 1", "empty file"][..]),
        (csv("answer", "answr"), &["unknown column \"answr\"", "did you mean \"answer\"", "`wrong_answer`"]),
        (csv("clean", "Clean"), &["unknown column \"Clean\"", "did you mean \"clean\""]),
        (csv(",class", ";class"), &["unknown column \"wrong_answer;class\""]),
        (csv("class", "clean"), &["two columns are called \"clean\""]),
        (csv("class", "position_END"), &["position_END", "last token"]),
        (csv("class", "position_"), &["position_", "a letter first"]),
        (csv("class,position_ADJ", "class,label"), &["`class` or `label`, found both"]),
        ("clean,corrupted\nIt,It\n".into(), &["expected a column `answer`, `wrong_answer`, found none"]),
        (csv(" yes, no,positive,good", " yes, no,positive"), &["line 2", "expected 6 cells", "found 5"]),
        (csv("positive", "good"), &["line 2, class", "positive or negative", "\"good\""]),
        (csv("positive", ""), &["line 2", "all pairs have one or none"]),
        (
            csv(" yes, no,positive", " well-made, no,positive"),
            &["line 2, answer", "is 3 (\" well\", \"-\", \"<unk>\")", "small.json"],
        ),
        (csv(" yes, no,positive", " no, no,positive"), &["line 2, wrong_answer", "are the same token", "(\" no\")"]),
        (csv(" yes, no,positive", "good, no,positive"), &["line 2, answer", "with a space in front it is one"]),
        (csv("positive,good", "positive,sour"), &["line 2, position_ADJ", "a part of the clean text", "\"sour\""]),
        (csv("positive,good", "positive,It"), &["line 2, position_ADJ", "more than once"]),
        (csv("positive,good", "positive,goo"), &["line 2", "the position `ADJ` must end where a token ends"]),
        (csv("positive,good", "positive,"), &["line 2, position_ADJ", "found none"]),
        (csv(", bad\n", ",was\n"), &["line 3", "`ADJ` is at token 3", "at token 2"]),
        (csv("\"It was good, It\",", ","), &["line 2, clean", "found none"]),
        (csv("\"It was bad, It\"", "\"It was good, It\""), &["line 2", "same tokens"]),
        (csv("It was good, It", &long), &["line 2, clean", "at most 131072 bytes", "131073"]),
        (csv("negative, bad\n", "negative,\" bad\n"), &["line 3, position_ADJ", "closed", "end of the file"]),
        (
            csv("\"It was good, It\"", "\"It \"was\" good, It\""),
            &["line 2, clean", "behind the closing quote", "found 'w'"],
        ),
        (csv("positive,good", "positive,go\"od\""), &["line 2, position_ADJ", "at the beginning of a cell", "\"go\""]),
        (csv("positive,good", "positive, \"good\""), &["line 2, position_ADJ", "at the beginning of a cell"]),
        (csv("clean", "\"clean\"x"), &["line 1", "behind the closing quote", "found 'x'"]),
    ] {
        let message = refused("mine.csv", text.as_bytes());
        for part in says.iter().chain(&["mine.csv"]) {
            assert!(message.contains(part), "{:.300} lacks {part:?}", message);
        }
    }
    let row = |from: &str, to: &str| JSON_LINES.replacen(from, to, 1);
    for (text, says) in [
        (row("\"answer\": \" yes\"", "\"answer\": 3"), &["line 2, answer", "expected a text, found 3"][..]),
        (row("\"answer\": \" yes\", ", ""), &["line 2, answer", "found none"]),
        (row("\"answer\"", "\"anwser\""), &["unknown column \"anwser\"", "\"answer\""]),
        (row("\"label\": 1", "\"label\": 2"), &["line 2, label", "found \"2\""]),
        (row("\"label\": 1", "\"label\": 1, \"label\": 0"), &["line 2", "two fields are called \"label\""]),
        (row("It was good", "It\\u0000was good"), &["line 2, clean", "NUL"]),
        (row("{\"clean\"", "[\"clean\""), &["line 2", "an object in JSON"]),
        (row("\"label\": false}", "\"label\": false"), &["line 4", "an object in JSON", "column"]),
        ("\n\n".into(), &["line 1", "none in the file"]),
    ] {
        let message = refused("mine.jsonl", text.as_bytes());
        for part in says.iter().chain(&["mine.jsonl"]) {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    }
}

#[test]
fn quotes_are_those_of_rfc_4180() {
    let rows = |text: &str| {
        csv_rows(text, &mut |line, column: Option<&str>, message| panic!("line {line}, {column:?}: {message}"))
    };
    let cells = |text: &str| -> Vec<(usize, Vec<String>)> {
        let cells = |row: Row| row.cells.into_iter().map(|(_, cell)| cell.as_str().unwrap().to_owned()).collect();
        rows(text).rows.into_iter().map(|row| (row.line, cells(row))).collect()
    };
    let row = |line, cells: [&str; 2]| (line, cells.map(str::to_owned).to_vec());
    let text = "a,b\n\"I said \"\"good\"\" to\nhim\",\"\"\n\"\"\"\",\"é,\"\r\nx,\"y\"";
    assert_eq!(cells(text), [row(2, ["I said \"good\" to\nhim", ""]), row(4, ["\"", "é,"]), row(5, ["x", "y"])]);
    let faults = |text: &str| {
        let mut faults = Vec::new();
        csv_rows(text, &mut |line, column: Option<&str>, message| {
            faults.push((line, column.map(str::to_owned), message))
        });
        faults
    };
    for (text, line, column) in [
        ("a,b\n\"I said \"good\" to him\",x\n", 2, "a"),
        ("a,b\n\"one\ntwo\",x\ny,\"z\" \n", 4, "b"),
        ("a,b\nx,\"\"\"\n", 2, "b"),
        ("a,b\nx,5\"\ny,6\"\n", 2, "b"),
    ] {
        let found = faults(text);
        assert_eq!((found[0].0, found[0].1.as_deref(), found.len()), (line, Some(column), 1), "{found:?}");
    }
}

#[test]
fn a_position_has_one_place_and_places_may_overlap() {
    let file = |span: &str| format!("clean,corrupted,answer,wrong_answer,position_A\n- - -,- - ., yes, no,{span}\n");
    assert!(refused("mine.csv", file("- -").as_bytes()).contains("line 2, position_A"));
    assert_eq!(built("mine.csv", &file("- - -")).positions["A"], 5);
}

#[test]
fn a_file_is_checked_as_a_run_builds_it() {
    let toml = r#"
[mine]
template = "It was{ADJ},{VRB} it"
double_spaces = ["VRB"]
answers = { positive = "yes", negative = "no" }
fill.ADJ = { positive = "up", negative = "down" }
fill.VRB = { positive = "loved", negative = "hated" }
[words]
up = ["good"]
down = ["bad"]
loved = ["loved"]
hated = ["hated"]
yes = ["yes"]
no = ["no"]
"#;
    let (_folder, path) = file("mine.toml", toml.as_bytes());
    let (tokenizer, options) = (tokenizer(Some(BOS)), BuildOptions::default());
    let catalogue = Catalogue::load(None).unwrap();
    for compat in [&[][..], &[Compat::DoubleSpaces]] {
        let run = catalogue.clone().with_file(&path).unwrap();
        let run = compat.iter().copied().fold(run, Catalogue::with_compat);
        let expected = run.build("mine", &tokenizer, &options).unwrap();
        assert_eq!(expected.texts[0].contains("good,  loved"), !compat.is_empty());
        let checked = catalogue.check(&path, &tokenizer, &options, compat);
        assert_eq!((checked.prompts, checked.faults.len()), (vec![expected], 0));
    }
    // Their answers have no token without a space here, as a run would find.
    let checked = catalogue.check(&path, &tokenizer, &options, &[Compat::TrailingSpace]);
    assert!(checked.prompts.is_empty() && checked.faults[0].to_string().contains("`answers`"), "{:?}", checked.faults);
}

#[test]
fn what_is_no_text_and_names_that_are_none_are_refused() {
    for (bytes, says) in [
        ([CSV.as_bytes(), b"\xff"].concat(), "line 4: expected UTF-8"),
        ([CSV.as_bytes(), b"a\0"].concat(), "line 4: expected a text, found a NUL character"),
    ] {
        assert!(refused("mine.csv", &bytes).contains(says), "{says}");
    }
    for (name, says) in [("a b.csv", "letters"), ("treebank_train.csv", "Treebank"), (".csv", "letters")] {
        let (_folder, path) = file(name, CSV.as_bytes());
        let path = if name == ".csv" { path.with_file_name("..csv") } else { path };
        std::fs::write(&path, CSV).unwrap();
        let message = Catalogue::load(None).unwrap().with_file(&path).unwrap_err().to_string();
        assert!(message.contains(says), "{name}: {message}");
    }
    let wide = format!("{}\n", vec!["x"; 1001].join(","));
    assert!(refused("mine.csv", wide.as_bytes()).contains("at most 1000 columns"));
}

#[test]
fn a_check_finds_everything_at_once() {
    let rows = "\
clean,corrupted,answer,wrong_answer,position_ADJ
It was good,It was bad, well-made, ill-made,good
It was good,It was bad, film,yes, no,good
It was good,It was good, yes, no,good
It was good,It was, yes, no,sour
It was bad,It was good, yes, no,bad
";
    let (_folder, path) = file("mine.csv", rows.as_bytes());
    let check =
        |path: &Path| Catalogue::load(None).unwrap().check(path, &tokenizer(Some(BOS)), &BuildOptions::default(), &[]);
    let messages: Vec<String> = check(&path).faults.iter().map(ToString::to_string).collect();
    // What cannot be read comes first, and of the other rows what they are as tokens.
    let expected = [
        ("line 3", "found 6"),
        ("line 5, position_ADJ", "\"sour\""),
        ("line 2, answer", "is 3"),
        ("line 2, wrong_answer", "is 3"),
        ("line 4", "same tokens"),
    ];
    assert_eq!(messages.len(), expected.len(), "{messages:#?}");
    for (message, (place, what)) in messages.iter().zip(expected) {
        assert!(message.contains(place) && message.contains(what), "{message}");
    }
    assert_eq!(check(&path).prompts, []);
    let toml = r#"
[one]
template = "It was{ADJ}"
fill.ADJ = { positive = "nope", negative = "neither" }
answers = { positive = "none", negative = "no" }
[two]
prompts = [{ clean = "a" }, { clean = "{", corrupted = "b", correct = "c", incorrect = "d" }]
[three]
tamplate = "It"
[words]
no = ["no"]
"#;
    let (_folder, path) = file("mine.toml", toml.as_bytes());
    let messages: Vec<String> = check(&path).faults.iter().map(ToString::to_string).collect();
    for part in ["`nope`", "`neither`", "`none`", "prompts[0]", "prompts[1].clean", "tamplate"] {
        assert!(messages.iter().any(|message| message.contains(part)), "{part}: {messages:#?}");
    }
    assert_eq!(messages.len(), 6, "{messages:#?}");
    assert_eq!(check(&path).prompts, []);
    let (_folder, path) = file("mine.toml", TOML.as_bytes());
    assert_eq!((check(&path).faults.len(), check(&path).prompts.len()), (0, 1));
}
