//! Pairs of one's own in CSV and JSON lines, and `datasets list`, `show` and `check`.

use super::*;
use serde_json::{Value, json};

/// Words of one token each in the demo model's vocabulary.
const WORDS: [(&str, &str); 4] =
    [("great", "terrible"), ("amazing", "awful"), ("wonderful", "horrible"), ("fantastic", "dreadful")];

/// Pairs: clean and corrupted text with the word in braces, answers, class.
fn pairs() -> Vec<[String; 5]> {
    let text =
        |word: &str, verb: &str| format!("I thought this movie was{{ {word}}}, I {verb} it. Overall this movie is");
    let both = |(good, bad): &(&str, &str)| {
        let (good, bad) = (text(good, "loved"), text(bad, "hated"));
        let row = |clean: &str, corrupted: &str, right: &str, wrong: &str, class: &str| {
            [clean, corrupted, right, wrong, class].map(str::to_owned)
        };
        [row(&good, &bad, " good", " bad", "positive"), row(&bad, &good, " bad", " good", "negative")]
    };
    WORDS.iter().flat_map(both).collect()
}

fn plain(text: &str) -> String {
    text.replace(['{', '}'], "")
}

fn word(text: &str) -> &str {
    text.split_once('{').unwrap().1.split_once('}').unwrap().0
}

/// The pairs in a file called `own`, with a position of this name.
fn write_pairs(folder: &Path, ending: &str, position: &str, classes: bool) -> String {
    let mut text = String::new();
    let class = if classes { ",class" } else { "" };
    match ending {
        "toml" => text += "[own]\nprompts = [\n",
        "csv" => text += &format!("clean,corrupted,answer,wrong_answer{class},position_{position}\r\n"),
        _ => {}
    }
    for [clean, corrupted, right, wrong, class] in &pairs() {
        let named = |text: &str| text.replacen('{', &format!("{{{position}:"), 1);
        match ending {
            "toml" => {
                let label = if classes { format!(", label = {class:?}") } else { String::new() };
                let (clean, corrupted) = (named(clean), named(corrupted));
                text += &format!(
                    "{{ clean = {clean:?}, corrupted = {corrupted:?}, correct = {right:?}, incorrect = {wrong:?}{label} }},\n"
                );
            }
            "csv" => {
                let class = if classes { format!(",{class}") } else { String::new() };
                let (clean, corrupted, word) = (plain(clean), plain(corrupted), word(clean));
                text += &format!("\"{clean}\",\"{corrupted}\",{right},{wrong}{class},{word}\r\n");
            }
            _ => {
                let mut row = json!({ "clean": plain(clean), "corrupted": plain(corrupted), "answer": right });
                row["wrong_answer"] = json!(wrong);
                row[format!("position_{position}")] = json!(word(clean));
                if classes {
                    row["class"] = json!(class);
                }
                text += &format!("{row}\n");
            }
        }
    }
    text += if ending == "toml" { "]\n" } else { "" };
    let path = folder.join(format!("own.{ending}"));
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_table_of_pairs_gives_the_numbers_of_the_same_pairs_in_toml() {
    let of = |ending: &str| -> (Value, BTreeMap<PathBuf, Vec<u8>>) {
        let data = tempfile::tempdir().unwrap();
        let file = write_pairs(data.path(), ending, "ADJ", true);
        let own = ["--dataset-file", &file];
        let show = ["datasets", "show", "own", "--json"];
        let shown = run_in(data.path(), &[&show[..], &own].concat()).success().json();
        let maps = [
            "activation-patching-maps",
            "--eval-sets",
            "own",
            "--maps",
            "z,resid_pre",
            "--metrics",
            "logit_diff,logit_flip",
        ];
        run_in(data.path(), &[&maps[..], &own].concat()).success();
        let fit =
            ["fit-directions", "--methods", "mean_diff,das", "--layers", "1", "--train-sets", "own", "--epochs", "4"];
        run_in(data.path(), &[&fit[..], &own].concat()).success();
        let suite = ["direction-patching-suite", "--eval-sets", "own", "--positions", "auto,END,ALL"];
        run_in(data.path(), &[&suite[..], &own].concat()).success();
        let mut results = files(&data.path().join("demo"));
        results.retain(|path, _| path.extension().is_some_and(|ending| ending == "csv" || ending == "npy"));
        (shown, results)
    };
    let (shown, results) = of("toml");
    assert_eq!((shown["pairs"].as_array().unwrap().len(), &shown["positions"]["ADJ"]), (8, &json!(6)));
    assert!(results.len() > 6, "{:?}", results.keys());
    for ending in ["csv", "jsonl"] {
        let (own, found) = of(ending);
        assert_eq!(own, shown, "{ending}");
        assert!(found == results, "{ending}");
    }
}

#[test]
fn maps_need_no_classes_and_fits_say_that_they_do() {
    let data = fitted();
    for ending in ["csv", "jsonl", "toml"] {
        let file = write_pairs(data.path(), ending, "TOPIC", false);
        let own = ["--dataset-file", &file];
        let run = |arguments: &[&str]| run_in(data.path(), &[arguments, &own].concat());
        run(&["activation-patching-maps", "--eval-sets", "own", "--maps", "z"]).success();
        run(&["fit-directions", "--train-sets", "own", "--methods", "mean_diff"])
            .fails(1, &["--train-sets", "fitting needs positive and negative prompts", "own has no classes"]);
        let tested = ["fit-directions", "--methods", "mean_diff", "--layers", "1", "--test-sets", "own"];
        run(&tested).fails(1, &["--test-sets", "own has no classes"]);
        let along = ["--along", "mean_diff_simple_train_ADJ_layer1"];
        for (command, setting) in [
            (&["probing", "--eval-sets", "own"][..], "--eval-sets"),
            (&["ccs", "--eval-sets", "own"], "--eval-sets"),
            (&["head-cosines", "--nodes", "1.0@END", "--eval-sets", "own"], "--eval-sets"),
            (&[&["logit-attribution", "--eval-sets", "own"], &along[..]].concat(), "--along"),
            (&[&["activation-patching-maps", "--eval-sets", "own"], &along[..]].concat(), "--along"),
            (&["ablation", "--nodes", "z:1.0", "--balance", "--eval-sets", "own"], "--balance"),
        ] {
            run(command).fails(1, &[setting, "needs positive and negative prompts, and dataset own has no classes"]);
        }
        let rows = run(&["ablation", "--nodes", "z:1.0", "--eval-sets", "own"]).success().stdout;
        assert!(rows.contains(" all ") && !rows.contains("positive"), "{rows}");
        // Its own placeholder is the main position.
        let suite = ["direction-patching-suite", "--directions", "mean_diff*layer1", "--eval-sets", "own", "--json"];
        let cells = run(&suite).success().json();
        assert_eq!(cells[0]["cells"][0]["position"], "TOPIC");
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn datasets_are_listed_and_shown() {
    let data = tempfile::tempdir().unwrap();
    let file = write_pairs(data.path(), "csv", "ADJ", true);
    let list = ["datasets", "list", "--dataset-file", &file];
    let json = run_in(data.path(), &[&list[..], &["--json"]].concat()).success().json();
    let named = |name: &str| json.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone();
    let expected = json!({ "name": "own", "pairs": 8, "classes": true, "placeholders": ["ADJ"], "source": file });
    assert_eq!(named("own"), expected);
    assert_eq!(named("simple_test")["placeholders"], json!(["SBJ1", "ADJ", "VRB", "DTR", "SBJ2"]));
    assert!(named("simple_test")["source"].as_str().unwrap().contains("built in"));
    // French words are not in the demo model's vocabulary: the list says so and goes on.
    let faulty = json.as_array().unwrap().iter().filter(|row| row["pairs"].is_null());
    assert!(faulty.clone().all(|row| row["fault"].as_str().unwrap().contains(row["name"].as_str().unwrap())));
    let text = run_in(data.path(), &list).success().stdout;
    assert!(
        text.lines().any(|line| line.starts_with("own ") && line.contains(" 8 ") && line.contains("ADJ")),
        "{text}"
    );

    let show = ["datasets", "show", "own", "--dataset-file", &file];
    let text = run_in(data.path(), &show).success().stdout;
    for part in
        ["own for demo: 8 pairs, positions: ADJ 6, END", "1, positive", "\" great\"@ADJ \",\"", "over \" bad\" ("]
    {
        assert!(text.contains(part), "{part:?}: {text}");
    }
    let json = run_in(data.path(), &[&show[..], &["--json"]].concat()).success().json();
    let tokenizer = actpatch::session::Session::open("demo", Default::default()).unwrap().model().tokenizer.clone();
    let ids = |tokens: &Value| -> Vec<u32> {
        tokens.as_array().unwrap().iter().map(|token| token["id"].as_u64().unwrap() as u32).collect()
    };
    let expected = tokenizer.encode("I thought this movie was great, I loved it. Overall this movie is").unwrap();
    assert_eq!(ids(&json["pairs"][0]["clean"]), [&[tokenizer.bos().unwrap()][..], &expected].concat());
    assert_eq!(json["pairs"][0]["answers"][0][0]["text"], " good");
    let plain = run_in(data.path(), &[&show[..], &["--json", "--bos", "never"]].concat()).success().json();
    assert_eq!((ids(&plain["pairs"][0]["clean"]), &plain["positions"]["ADJ"]), (expected, &json!(5)));
    run_in(data.path(), &["datasets", "show", "onw", "--dataset-file", &file])
        .fails(1, &["unknown dataset `onw`", "own"]);
    let built_in = run_in(data.path(), &["datasets", "show", "simple_test"]).success().stdout;
    assert!(built_in.contains("more\n") && built_in.contains("@VRB"), "{built_in}");
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 1, "looking writes nothing");
}

#[test]
fn a_check_says_everything_that_is_wrong_and_exits_with_1() {
    let data = tempfile::tempdir().unwrap();
    let file = write_pairs(data.path(), "csv", "ADJ", true);
    let checked = run_in(data.path(), &["datasets", "check", &file]).success().stdout;
    assert!(checked.lines().any(|line| line.starts_with("own ") && line.contains(" 8 ")), "{checked}");
    let long = format!("{} is", "very ".repeat(200));
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replacen(" good, bad", " magnificently, bad", 1).replacen("negative", "sad", 1);
    let text = format!("{text}\"{long}\",\"{long} not\", good, bad,positive,is\r\n");
    std::fs::write(&file, text).unwrap();
    let check = run_in(data.path(), &["datasets", "check", &file]);
    for part in ["line 3, class", "\"sad\"", "line 2, answer", "\" magnificently\"", "line 10"] {
        assert!(check.stdout.contains(part), "{part:?}: {}", check.stdout);
    }
    check.fails(1, &["own.csv: 5 faults for demo"]);
    let json = run_in(data.path(), &["datasets", "check", &file, "--json"]);
    assert_eq!((json.json()["faults"].as_array().unwrap().len(), json.json()["datasets"].clone()), (5, json!([])));
    let long = format!("clean,corrupted,answer,wrong_answer\n\"{long} good,\",\"{long} bad,\", good, bad\n");
    std::fs::write(&file, long).unwrap();
    let check = run_in(data.path(), &["datasets", "check", &file]);
    assert!(check.stdout.contains("`line 2`: expected prompts of at most 128 tokens"), "{}", check.stdout);
    assert!(check.stdout.len() < 600, "a long prompt is not shown as a whole: {}", check.stdout);
    check.fails(1, &["1 fault"]);
    run_in(data.path(), &["datasets", "check", "no_such.csv"]).fails(1, &["1 fault"]);
    std::fs::write(&file, "").unwrap();
    run_in(data.path(), &["datasets", "check", &file]).fails(1, &["1 fault"]);
    let toml = data.path().join("none.toml");
    std::fs::write(&toml, "").unwrap();
    run_in(data.path(), &["datasets", "check", toml.to_str().unwrap()]).fails(1, &["1 fault"]);
    // A file that is refused is refused by every command.
    let maps = ["activation-patching-maps", "--eval-sets", "own", "--dataset-file", &file];
    run_in(data.path(), &maps).fails(1, &["own.csv", "line 1", "empty file"]);
}

#[test]
fn a_check_notes_where_no_direction_can_be_fitted() {
    let data = tempfile::tempdir().unwrap();
    let file = write_pairs(data.path(), "csv", "MY_WORD", true);
    let checked = run_in(data.path(), &["datasets", "check", &file]).success().stdout;
    assert!(checked.contains("note: ") && checked.contains("letters and digits alone, not `MY_WORD`"), "{checked}");
    let json = run_in(data.path(), &["datasets", "check", &file, "--json"]).success().json();
    assert_eq!((json["notes"].as_array().unwrap().len(), &json["faults"]), (1, &json!([])));
    // As the fit says.
    let fit = ["fit-directions", "--methods", "mean_diff", "--train-sets", "own", "--dataset-file", &file];
    run_in(data.path(), &fit).fails(1, &["position", "letters and digits"]);
    let file = write_pairs(data.path(), "csv", "WORD", true);
    let checked = run_in(data.path(), &["datasets", "check", &file]).success().stdout;
    assert!(!checked.contains("note"), "{checked}");
}

/// The pairs of a file that have these classes, each at least once.
fn with_classes(folder: &Path, classes: [&str; 2]) -> String {
    let file = write_pairs(folder, "csv", "ADJ", true);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("positive", classes[0]).replace("negative", classes[1])).unwrap();
    file
}

#[test]
fn classes_are_written_in_several_ways_that_a_check_and_a_run_read_alike() {
    let data = tempfile::tempdir().unwrap();
    for classes in [["Positive", "NEGATIVE"], ["true", "False"], ["1", "0"], ["1.0", "0.0"]] {
        let file = with_classes(data.path(), classes);
        run_in(data.path(), &["datasets", "check", &file]).success();
        let shown = ["datasets", "show", "own", "--dataset-file", &file, "--json"];
        let pairs = run_in(data.path(), &shown).success().json()["pairs"].clone();
        assert_eq!((&pairs[0]["positive"], &pairs[1]["positive"]), (&json!(true), &json!(false)), "{classes:?}");
    }
    for wrong in ["pos", "yes", "1.5", "2"] {
        let file = with_classes(data.path(), [wrong, "negative"]);
        let check = run_in(data.path(), &["datasets", "check", &file]);
        let says =
            format!("`line 2, class`: expected positive or negative (or true or false, 1 or 0), found {wrong:?}");
        assert!(check.stdout.contains(&says), "{}", check.stdout);
        let shown = ["datasets", "show", "own", "--dataset-file", &file];
        run_in(data.path(), &shown).fails(1, &[&says]);
    }
}

#[test]
fn a_check_notes_what_one_class_and_a_second_bos_are_no_good_for() {
    let data = tempfile::tempdir().unwrap();
    let file = with_classes(data.path(), ["positive", "positive"]);
    let checked = run_in(data.path(), &["datasets", "check", &file]).success().stdout;
    assert!(checked.contains("note: ") && checked.contains("`own`: all pairs are positive: directions"), "{checked}");
    let fit = ["fit-directions", "--methods", "kmeans", "--train-sets", "own", "--dataset-file", &file];
    run_in(data.path(), &fit).fails(1, &["expected positive and negative prompts"]);

    let file = write_pairs(data.path(), "csv", "ADJ", true);
    let plain = run_in(data.path(), &["datasets", "check", &file]).success().stdout;
    assert!(!plain.contains("note"), "{plain}");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"I thought", "\"<|endoftext|>I thought")).unwrap();
    let says = "8 prompts hold \"<|endoftext|>\", which is put in front of every prompt";
    let checked = run_in(data.path(), &["datasets", "check", &file]).success().stdout;
    assert!(checked.contains("note: ") && checked.contains(says), "{checked}");
    let never = run_in(data.path(), &["datasets", "check", &file, "--bos", "never"]).success().stdout;
    assert!(!never.contains("note"), "{never}");
    let maps = ["activation-patching-maps", "--eval-sets", "own", "--maps", "z", "--dataset-file", &file];
    let run = run_in(data.path(), &maps).success();
    assert!(run.stderr.contains(says), "{}", run.stderr);
}

#[test]
fn a_column_may_have_a_space_around_its_name_and_texts_an_end() {
    let data = tempfile::tempdir().unwrap();
    let file = write_pairs(data.path(), "csv", "ADJ", true);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("clean,corrupted,", "clean , corrupted, ", 1)).unwrap();
    run_in(data.path(), &["datasets", "check", &file]).success();
    run_in(data.path(), &["datasets", "show", "own", "--dataset-file", &file]).success();

    // A megabyte is refused before it is cut into tokens, wherever it stands.
    let long = "0 ".repeat(1 << 19);
    std::fs::write(&file, text.replacen("\"I thought", &format!("\"{long}I thought"), 1)).unwrap();
    let check = run_in(data.path(), &["datasets", "check", &file]);
    assert!(check.stdout.contains("`line 2, clean`: expected at most 131072 bytes, found 1048"), "{}", check.stdout);
    let toml = write_pairs(data.path(), "toml", "ADJ", true);
    let text = std::fs::read_to_string(&toml).unwrap();
    std::fs::write(&toml, text.replacen("\"I thought", &format!("\"{long}I thought"), 1)).unwrap();
    let check = run_in(data.path(), &["datasets", "check", &toml]);
    assert!(check.stdout.contains("`prompts[0].clean`: expected at most 131072 bytes"), "{}", check.stdout);
}

#[test]
fn a_damaged_line_is_one_fault() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("own.jsonl");
    std::fs::write(&file, "{\"clean\": \"It was\n").unwrap();
    let check = run_in(data.path(), &["datasets", "check", file.to_str().unwrap()]);
    assert_eq!(check.stdout.lines().count(), 1, "{}", check.stdout);
    check.fails(1, &["own.jsonl: 1 fault for demo"]);
}

#[test]
fn a_check_follows_the_compat_of_the_run() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("own.toml");
    let text = r#"
[own]
template = "I thought this movie was{ADJ}, overall this movie is"
answers = { positive = "good", negative = "bad" }
fill.ADJ = { positive = "good", negative = "negative_top_adjectives" }
[words]
good = ["good"]
bad = ["bad"]
negative_top_adjectives = ["magnificently"]
pasted_top_adjectives = ["terrible"]
"#;
    std::fs::write(&file, text).unwrap();
    let check = ["datasets", "check", file.to_str().unwrap()];
    let plain = run_in(data.path(), &check);
    assert!(plain.stdout.contains("`negative_top_adjectives`"), "{}", plain.stdout);
    plain.fails(1, &["1 fault"]);
    let pasted = run_in(data.path(), &[&check[..], &["--compat", "pasted-adjectives"]].concat()).success();
    assert!(pasted.stdout.lines().any(|line| line.starts_with("own ") && line.contains(" 2 ")), "{}", pasted.stdout);
}
