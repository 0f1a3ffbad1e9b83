//! Results of texts that are made of something else are made again, those of the same are kept and printed again.

use super::*;
use serde_json::Value;

const DIRECTION: &str = "mean_diff_simple_train_ADJ_layer1";
const GOOD: &str = "I thought this movie was great, I loved it.";
const BAD: &str = "The plot was awful and the cast was bad.";

/// A folder of texts.
struct Texts(tempfile::TempDir);

impl Texts {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Writes a file, and says where it is.
    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }
}

/// Runs a command in a folder that holds nothing but directions.
fn fresh(arguments: &[&str]) -> (tempfile::TempDir, Finished) {
    let data = fitted();
    let finished = run_in(data.path(), arguments).success();
    (data, finished)
}

/// Checks that a command whose results lie in the place of others, which it tells from its own by `difference`, does
/// what it does in a fresh folder, and that the same again prints the same and computes nothing.
#[track_caller]
fn renews(data: &Path, arguments: &[&str], difference: &str) {
    let renewed = run_in(data, arguments).success();
    assert!(renewed.stderr.contains(&format!("is computed again: {difference}: expected ")), "{}", renewed.stderr);
    let (expected_data, expected) = fresh(arguments);
    assert_eq!(renewed.stdout, expected.stdout);
    assert_eq!(files(data), files(expected_data.path()));
    keeps(data, arguments, &expected.stdout);
}

/// Checks that a command prints this without computing anything.
#[track_caller]
fn keeps(data: &Path, arguments: &[&str], stdout: &str) {
    let (before, runs) = (files(data), manifests(data).len());
    let kept = run_in(data, arguments).success();
    assert!(kept.stderr.contains("exist already") && !kept.stderr.contains("again: "), "{}", kept.stderr);
    assert_eq!(kept.stdout, stdout);
    assert_eq!((files(data), manifests(data).len()), (before, runs));
}

#[test]
fn losses_of_an_edited_corpus_are_computed_again() {
    let texts = Texts::new();
    let corpus = texts.file("c.txt", format!("{GOOD}\n{BAD}\n").as_bytes());
    let losses = ["text-loss", "--corpus", &corpus, "--directions", DIRECTION, "--random", "1", "--methods", "zero"];
    let (data, first) = fresh(&losses);
    keeps(data.path(), &losses, &first.stdout);
    texts.file("c.txt", format!("{BAD}\n{BAD} It was long.\n").as_bytes());
    renews(data.path(), &losses, "corpus");
    // A corpus of the same name in another folder.
    let other = texts.file("other/c.txt", format!("{GOOD}\n{GOOD}\n").as_bytes());
    let others = [&losses[..2], &[&other], &losses[3..]].concat();
    renews(data.path(), &others, "corpus");
    // The same bytes are other texts where they are read as JSON.
    let json = texts.file("c.jsonl", b"{\"text\": \"It was good.\"}\n{\"text\": \"It was bad.\"}\n");
    let lines = texts.file("json/c.txt", &std::fs::read(&json).unwrap());
    let of = |corpus: &str| {
        let arguments = [&losses[..2], &[corpus], &losses[3..]].concat();
        run_in(data.path(), &arguments).success()
    };
    of(&json);
    let as_lines = of(&lines);
    assert!(as_lines.stderr.contains("corpus_format: expected lines, found jsonl"), "{}", as_lines.stderr);
    // A direction of the same name with other values, and a corpus for means that has changed.
    texts.file("c.txt", format!("{GOOD}\n{BAD}\n").as_bytes());
    of(&corpus);
    let path = data.path().join(format!("demo/{DIRECTION}.npy"));
    std::fs::write(path, directions::npy(&[1.0; 128], "(128,)")).unwrap();
    let turned = of(&corpus);
    assert!(turned.stderr.contains("ablated at layer 0: expected "), "{}", turned.stderr);
    let means = texts.file("means.txt", b"Well, good\n");
    let by_means =
        [&losses[..3], &["--methods", "mean_over_places", "--positions", "COMMA", "--means-corpus", &means]].concat();
    let first = run_in(data.path(), &by_means).success().stdout;
    keeps(data.path(), &by_means, &first);
    texts.file("means.txt", b"Oh, no\n");
    let renewed = run_in(data.path(), &by_means).success();
    assert!(renewed.stderr.contains("means_corpus: expected ") && renewed.stdout != first, "{}", renewed.stderr);
}

#[test]
fn losses_by_token_of_an_edited_corpus_are_computed_again() {
    let texts = Texts::new();
    let corpus = texts.file("c.txt", format!("{GOOD}\n{BAD}\n").as_bytes());
    let losses = ["text-loss", "--corpus", &corpus, "--methods", "zero,resample", "--by-token", "2"];
    let (data, first) = fresh(&losses);
    keeps(data.path(), &losses, &first.stdout);
    texts.file("c.txt", format!("{BAD}\n{GOOD}\n").as_bytes());
    renews(data.path(), &losses, "corpus");
    let of_batches = [&losses[..], &["--batch-tokens", "20"]].concat();
    let resampled = run_in(data.path(), &of_batches).success();
    assert!(resampled.stderr.contains("residual resample ALL is computed again: batch_tokens"), "{}", resampled.stderr);
    // A page that is lost is made again with everything beside it.
    let page = data.path().join("demo/text_loss_c_by_token_2.html");
    let before = files(data.path());
    std::fs::remove_file(&page).unwrap();
    run_in(data.path(), &of_batches).success();
    assert_eq!(files(data.path()), before);
    // What says nothing of its making is not trusted.
    std::fs::remove_file(data.path().join("demo/provenance/text_loss_c_by_token_2.json")).unwrap();
    let unknown = run_in(data.path(), &of_batches).success();
    let note = "text_loss_c_by_token_2 is computed again: nothing says what it was made of";
    assert!(unknown.stderr.contains(note), "{}", unknown.stderr);
}

#[test]
fn readings_of_other_texts_and_settings_are_computed_again() {
    let good = ["neuroscope", "--text", GOOD, "--directions", "mean_*layer1,das_*layer2", "--min-count", "1"];
    let (data, first) = fresh(&good);
    assert!(first.stdout.starts_with("demo, cosine per token\n"), "{}", first.stdout);
    keeps(data.path(), &good, &first.stdout);
    let json = run_in(data.path(), &[&good[..], &["--json"]].concat()).success().json();
    let (_, expected) = fresh(&[&good[..], &["--json"]].concat());
    assert_eq!((&json[0]["channels"], &json[0]["top"]), (&expected.json()[0]["channels"], &expected.json()[0]["top"]));
    assert!(json[0]["manifest"].is_null());
    let bad = [&good[..2], &[BAD], &good[3..]].concat();
    renews(data.path(), &bad, "corpus");
    let fewer = [&bad[..4], &["mean_*layer1"], &bad[5..]].concat();
    renews(data.path(), &fewer, "channels");
    for (option, value, setting) in [
        ("--measure", "projection", "measure"),
        ("--top", "2", "bin_width"),
        ("--window", "1", "top"),
        ("--min-count", "2", "min_count"),
        ("--samples", "1", "min_count"),
        ("--bin-width", "0.5", "bin_width"),
        ("--tail", "0.1", "bin_width"),
        ("--layers", "0..2", "channels"),
        ("--row-tokens", "5", "channels"),
        ("--seed", "1", "row_tokens"),
    ] {
        let without = if option == "--min-count" { &fewer[..5] } else { &fewer[..] };
        let other = [without, &[option, value]].concat();
        renews(data.path(), &other, setting);
    }
}

#[test]
fn readings_along_a_direction_of_other_values_are_computed_again() {
    let read = ["neuroscope", "--text", GOOD, "--directions", DIRECTION];
    let (data, first) = fresh(&read);
    let path = data.path().join(format!("demo/{DIRECTION}.npy"));
    let own = std::fs::read(&path).unwrap();
    std::fs::write(&path, directions::npy(&[1.0; 128], "(128,)")).unwrap();
    let renewed = run_in(data.path(), &read).success();
    assert!(renewed.stderr.contains(&format!("direction {DIRECTION}: expected ")), "{}", renewed.stderr);
    assert_ne!(renewed.stdout, first.stdout);
    std::fs::write(&path, own).unwrap();
    assert_eq!(run_in(data.path(), &read).success().stdout, first.stdout);
    // Words that are left out.
    let texts = Texts::new();
    let words = texts.file("words.txt", b"great\n");
    let excluding = [&read[..], &["--exclude", &words]].concat();
    renews(data.path(), &excluding, "exclude");
    texts.file("words.txt", b"loved\n");
    renews(data.path(), &excluding, "exclude");
    texts.file("words.txt", b"LOVED\r\n\r\n");
    keeps(data.path(), &excluding, &fresh(&excluding).1.stdout);
}

/// Everything that is asked for is there.
#[track_caller]
fn plans_nothing(data: &Path, arguments: &[&str]) {
    let plan = run_in(data, &[arguments, &["--dry-run"]].concat()).success();
    assert!(
        plan.stderr.contains("exist already")
            && plan.stdout == "demo: everything is there, nothing is to be computed\n",
        "{}{}",
        plan.stderr,
        plan.stdout
    );
}

#[test]
fn lost_figures_are_drawn_again_from_what_is_kept() {
    let read = ["neuroscope", "--text", GOOD, "--directions", "mean_*layer1", "--min-count", "1"];
    let (data, first) = fresh(&read);
    let before = files(data.path());
    let file = |ending: &str| data.path().join(format!("demo/neuroscope_text_{ending}"));
    for ending in ["token_means.png", "token_means.svg", "values.html", "texts.html"] {
        std::fs::remove_file(file(ending)).unwrap();
    }
    let runs = manifests(data.path()).len();
    let lacking = all_files(data.path());
    plans_nothing(data.path(), &read);
    assert!(lacking == all_files(data.path()), "a plan draws nothing");
    let kept = run_in(data.path(), &read).success();
    assert_eq!((&kept.stdout, manifests(data.path()).len()), (&first.stdout, runs));
    assert_eq!(files(data.path()), before);
    for ending in ["top.html", "samples.csv", "token_means.csv", "values.csv"] {
        std::fs::remove_file(file(ending)).unwrap();
        let made = run_in(data.path(), &read).success();
        let note = format!("neuroscope_text_{ending} is not there");
        assert!(made.stderr.contains(&note), "{}", made.stderr);
        assert_eq!(files(data.path()), before);
    }
    std::fs::write(file("top.csv"), "direction\n").unwrap();
    let changed = run_in(data.path(), &read).success();
    assert!(changed.stderr.contains("its files have changed since they were written"), "{}", changed.stderr);
    assert_eq!(files(data.path()), before);
}

#[test]
fn labels_in_the_samples_are_not_written_over() {
    let read = ["neuroscope", "--text", GOOD, "--directions", "mean_*layer1"];
    let (data, first) = fresh(&read);
    let samples = data.path().join("demo/neuroscope_text_samples.csv");
    let text = std::fs::read_to_string(&samples).unwrap();
    let line =
        |(number, line): (usize, &str)| format!("{line},{}\n", if number == 0 { "sentiment" } else { "Neutral" });
    let labelled: String = text.lines().enumerate().map(line).collect();
    std::fs::write(&samples, &labelled).unwrap();
    keeps(data.path(), &read, &first.stdout);
    let other = [&read[..2], &[BAD], &read[3..]].concat();
    let words =
        ["neuroscope_text_samples.csv: expected samples without labels, found sentiment", "--name", "--overwrite"];
    run_in(data.path(), &other).fails(1, &words);
    assert_eq!(std::fs::read_to_string(&samples).unwrap(), labelled);
    run_in(data.path(), &[&other[..], &["--name", "bad"]].concat()).success();
    run_in(data.path(), &[&other[..], &["--overwrite"]].concat()).success();
    assert!(!std::fs::read_to_string(&samples).unwrap().contains("sentiment"));
}

#[test]
fn negations_of_other_texts_and_directions_are_computed_again() {
    let texts = Texts::new();
    let own = texts.file("own.csv", b"text,word\nThat was not great.,great\n");
    let read = ["negation", "--directions", "mean_*layer1,das_*layer1", "--texts", &own];
    let (data, first) = fresh(&read);
    assert!(first.stdout.starts_with("demo, layers 1 to 2\ndirection"), "{}", first.stdout);
    keeps(data.path(), &read, &first.stdout);
    plans_nothing(data.path(), &read);
    let json = run_in(data.path(), &[&read[..], &["--json"]].concat()).success().json();
    let (_, expected) = fresh(&[&read[..], &["--json"]].concat());
    assert_eq!(
        (&json[0]["layers"], &json[0]["scores"]),
        (&expected.json()[0]["layers"], &expected.json()[0]["scores"])
    );
    texts.file("own.csv", b"text,word\nThat was not good.,good\n");
    renews(data.path(), &read, "texts");
    texts.file("own.csv", b"\xef\xbb\xbftext,word\r\nThat was not good.,good\r\n");
    keeps(data.path(), &read, &fresh(&read).1.stdout);
    let fewer = ["negation", "--directions", "mean_*layer1", "--texts", &own];
    renews(data.path(), &fewer, "direction das_simple_train_ADJ_layer1");
    let later = [&fewer[..], &["--last", "3"]].concat();
    renews(data.path(), &later, "layers");
    let summary = texts.file(
        "summary.csv",
        format!("direction,layer,tokens,mean,std,min,max,lower,upper\n{DIRECTION},1,9,0.1,0.3,-1,1,,\n").as_bytes(),
    );
    let scored = [&later[..], &["--summary", &summary]].concat();
    renews(data.path(), &scored, &format!("plain text along {DIRECTION}"));
}

/// Texts of a few tokens.
const STEER: [&str; 9] =
    ["steering", "--directions", DIRECTION, "--max-new-tokens", "5", "--coefficients", "-8..8:8", "--samples", "2"];

fn steered(data: &Path) -> Vec<Value> {
    let file = std::fs::read_to_string(data.join(format!("demo/steering_{DIRECTION}.jsonl"))).unwrap();
    file.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn texts_along_a_direction_of_other_values_are_written_again() {
    let (data, first) = fresh(&STEER);
    keeps(data.path(), &STEER, &first.stdout);
    let old = steered(data.path());
    let path = data.path().join(format!("demo/{DIRECTION}.npy"));
    let values: Vec<f32> = (0..128).map(|place| if place % 3 == 0 { 1.0 } else { -0.5 }).collect();
    std::fs::write(&path, directions::npy(&values, "(128,)")).unwrap();
    let renewed = run_in(data.path(), &STEER).success();
    let note = format!("steering along {DIRECTION} is computed again: direction at blocks.1.hook_resid_pre: expected ");
    assert_eq!(renewed.stderr.matches(&note).count(), 1, "{}", renewed.stderr);
    let new = steered(data.path());
    assert_eq!(new.len(), 6);
    for (old, new) in old.iter().zip(&new) {
        assert_ne!(old["provenance"], new["provenance"]);
        // Without a direction there is nothing that differs.
        assert_eq!(old["coefficient"] == 0.0, old["log_probabilities"] == new["log_probabilities"], "{old} {new}");
    }
    let other = fitted();
    std::fs::write(other.path().join(format!("demo/{DIRECTION}.npy")), std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(run_in(other.path(), &STEER).success().stdout, renewed.stdout);
    assert_eq!(files(data.path()), files(other.path()));
    keeps(data.path(), &STEER, &renewed.stdout);
    let coarse = run_in(data.path(), &[&STEER[..], &["--dtype", "bf16", "--dry-run"]].concat()).success();
    assert!(coarse.stderr.contains("dtype: expected bf16, found f32"), "{}", coarse.stderr);
}

#[test]
fn texts_of_earlier_versions_are_read_and_written_again() {
    let (data, first) = fresh(&STEER);
    let expected = files(data.path());
    let path = data.path().join(format!("demo/steering_{DIRECTION}.jsonl"));
    // Other texts of version 0.1: two of those that will be asked for, and one that will not.
    let earlier = |mut text: Value| {
        text.as_object_mut().unwrap().remove("provenance");
        text["text"] = "from long ago".into();
        text
    };
    let mut texts: Vec<Value> = steered(data.path()).into_iter().take(2).map(earlier).collect();
    let mut kept = texts[0].clone();
    kept["coefficient"] = 99.0.into();
    texts.push(kept);
    std::fs::write(&path, texts.iter().map(|text| format!("{text}\n")).collect::<String>()).unwrap();
    std::fs::remove_file(data.path().join(format!("demo/provenance/steering_{DIRECTION}.json"))).unwrap();
    let renewed = run_in(data.path(), &STEER).success();
    assert!(renewed.stderr.contains("again: nothing says what it was made of"), "{}", renewed.stderr);
    assert_eq!(renewed.stdout, first.stdout);
    let mut texts = steered(data.path());
    let other = texts.remove(6);
    assert_eq!((&other["text"], &other["provenance"]), (&"from long ago".into(), &"".into()));
    std::fs::write(&path, texts.iter().map(|text| format!("{text}\n")).collect::<String>()).unwrap();
    // The page, which shows all texts that there are, is written anew.
    assert_eq!(run_in(data.path(), &STEER).success().stdout, first.stdout);
    assert!(files(data.path()) == expected);
}

#[test]
fn texts_of_processes_side_by_side_are_all_kept() {
    let (data, expected) = (fitted(), fitted());
    let steer = |data: &Path, coefficients: &str| {
        // Batches of one text: a file that is written as often as can be.
        let one = [&STEER[..5], &["--samples", "4", "--batch-tokens", "1", "--coefficients", coefficients]].concat();
        run_in(data, &one).success();
    };
    let grids = ["-9..-6", "-5..-2", "2..5", "6..9"];
    std::thread::scope(|scope| {
        grids.iter().for_each(|grid| drop(scope.spawn(|| steer(data.path(), grid))));
    });
    assert_eq!(steered(data.path()).len(), 4 * 4 * 4);
    steer(expected.path(), &grids.join(","));
    assert_eq!(files(data.path()), files(expected.path()));
}

#[test]
fn marks_of_editors_are_no_part_of_texts() {
    let (data, texts) = (fitted(), Texts::new());
    let good = "{\"text\": \"I loved this movie.\"}";
    let plain = texts.file("plain.txt", b"I loved this movie.\nI hated this movie.\n");
    let marked = [
        texts.file("marked.txt", b"\xef\xbb\xbfI loved this movie.\r\nI hated this movie.\r\n"),
        texts.file("marked.jsonl", format!("\u{feff}{good}\r\n{}\r\n", good.replace("loved", "hated")).as_bytes()),
    ];
    let read = |corpus: &str, exclude: &str| {
        let arguments =
            ["neuroscope", "--corpus", corpus, "--directions", "das_*layer1", "--every-token", "--name", "x"];
        run_in(data.path(), &[&arguments[..], &["--exclude", exclude, "--overwrite"]].concat()).success();
        let ending = |ending: &str| std::fs::read(data.path().join(format!("demo/neuroscope_x_{ending}.csv"))).unwrap();
        (ending("values"), ending("top"))
    };
    let words = texts.file("words.txt", b"movie\n");
    let marked_words = texts.file("marked_words.txt", b"\xef\xbb\xbfmovie\r\n");
    let expected = read(&plain, &words);
    assert!(!String::from_utf8(expected.1.clone()).unwrap().contains(", movie,"));
    for corpus in &marked {
        assert_eq!(read(corpus, &marked_words), expected, "{corpus}");
    }
    let losses = |corpus: &str| {
        let arguments = ["text-loss", "--corpus", corpus, "--methods", "zero", "--name", "x", "--overwrite"];
        run_in(data.path(), &arguments).success().stdout
    };
    assert_eq!(losses(&marked[0]), losses(&plain));
    let labels = |name: &str, text: &str| {
        let file = texts.file(name, text.as_bytes());
        finish(&mut actpatch(&["label-shares", "--labels", &file, "--json"])).success().stdout
    };
    let table = "value,sentiment\n-5,Negative\n5,Positive\n";
    let marked_table = format!("\u{feff}{}", table.replace('\n', "\r\n"));
    assert_eq!(labels("marked.csv", &marked_table), labels("plain.csv", table));
    let shares = |name: &str| std::fs::read(texts.0.path().join(name)).unwrap();
    assert_eq!(shares("marked_shares.csv"), shares("plain_shares.csv"));
}

#[test]
fn texts_that_are_none_are_named_with_their_line() {
    let (data, texts) = (fitted(), Texts::new());
    let (latin, nul) = (b"fine\ncaf\xe9\n", b"fine\nno\0\n");
    let run = |arguments: &[&str]| run_in(data.path(), arguments);
    let read = ["neuroscope", "--directions", "das_*layer1"];
    for (bytes, words) in [
        (&latin[..], "line 2: expected UTF-8, found other bytes behind byte 3"),
        (&nul[..], "line 2: expected a text, found a NUL character behind byte 2"),
    ] {
        let corpus = texts.file("c.txt", bytes);
        run(&[&read[..], &["--corpus", &corpus]].concat()).fails(1, &["c.txt", words]);
        run(&["text-loss", "--corpus", &corpus, "--methods", "zero"]).fails(1, &["c.txt", words]);
        let exclude = texts.file("words.txt", bytes);
        run(&[&read[..], &["--text", GOOD, "--exclude", &exclude]].concat())
            .fails(1, &["--exclude", "words.txt", words]);
        let table = texts.file("t.csv", bytes);
        let negation = ["negation", "--directions", "das_*layer1", "--texts", &table];
        run(&negation).fails(1, &["--texts", "t.csv", words]);
        finish(&mut actpatch(&["label-shares", "--labels", &table])).fails(1, &["t.csv", words]);
        let settings = texts.file("s.toml", bytes);
        finish(&mut actpatch(&["circuit", "--config", &settings])).fails(1, &["s.toml", words]);
        finish(&mut actpatch(&["verify", "--golden", &settings])).fails(1, &["s.toml", words]);
    }
}

#[test]
fn tokens_that_are_spelled_alike_have_ids() {
    let data = fitted();
    // Bytes of letters that are no tokens: each of them is spelled as the replacement character.
    let text = ["--text", "日本 語語", "--min-count", "1", "--top", "40"];
    run_in(data.path(), &[&["neuroscope", "--directions", "das_*layer1"], &text[..]].concat()).success();
    let losses = ["text-loss", "--text", "日本 語語", "--text", GOOD, "--methods", "zero", "--by-token", "40"];
    run_in(data.path(), &losses).success();
    let tokenizer = actpatch::model::Model::load("demo", &Default::default()).unwrap().tokenizer;
    for (file, distinct) in [
        ("neuroscope_text_values", true),
        ("neuroscope_text_top", true),
        ("neuroscope_text_samples", true),
        ("neuroscope_text_token_means", true),
        ("text_loss_text_by_token_40", true),
        ("text_loss_text_by_token_40_top", false),
    ] {
        let mut reader = csv::Reader::from_path(data.path().join(format!("demo/{file}.csv"))).unwrap();
        let header = reader.headers().unwrap().clone();
        let column = |name: &str| header.iter().position(|head| head == name).unwrap();
        assert_eq!(column("token_id"), header.len() - 1, "{file}: behind the others");
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        let mut unknown = std::collections::BTreeSet::new();
        for row in &rows {
            let id: u32 = row[column("token_id")].parse().unwrap();
            assert_eq!(tokenizer.decode(&[id]).unwrap(), row[column("token")], "{file}");
            if row[column("token")].contains('\u{fffd}') {
                unknown.insert(id);
            }
        }
        // Losses need not grow anywhere on such a text.
        assert!(!distinct || unknown.len() > 1, "{file}: {unknown:?}");
    }
}

#[test]
fn values_of_the_suite_that_others_take_the_place_of_are_named() {
    let data = tempfile::tempdir().unwrap();
    run_in(data.path(), &["fit-directions", "--methods", "mean_diff", "--layers", "1"]).success();
    let pairs = data.path().join("mine.csv");
    let write = |rows: &str| std::fs::write(&pairs, format!("clean,corrupted,answer,wrong_answer\n{rows}")).unwrap();
    let file = pairs.to_str().unwrap();
    let suite = ["direction-patching-suite", "--dataset-file", file, "--eval-sets", "mine", "--positions", "END"];
    let suite = || run_in(data.path(), &suite).success();
    write("I loved it,I hated it, great, bad\nI hated it,I loved it, bad, great\n");
    let first = suite();
    assert!(!first.stderr.contains("computed again"), "{}", first.stderr);
    write("We loved it,We hated it, great, bad\nWe hated it,We loved it, bad, great\n");
    let said = "mine (1 cells) is computed again: dataset: its prompts or positions have changed";
    assert!(suite().stderr.contains(said));
    assert!(!suite().stderr.contains("computed again"));
    write("I loved it,I hated it, great, bad\nI hated it,I loved it, bad, great\n");
    let back = suite();
    assert!(back.stderr.contains("exist already") && !back.stderr.contains("computed again"), "{}", back.stderr);
    assert_eq!(back.stdout, first.stdout);
}

#[test]
fn no_table_of_the_suite_has_values_of_two_texts() {
    let data = tempfile::tempdir().unwrap();
    run_in(data.path(), &["fit-directions", "--methods", "mean_diff", "--layers", "1"]).success();
    let pairs = data.path().join("mine.csv");
    let write = |verb: &str| {
        let rows = format!("I {verb} it,I hated it, great, bad\nI hated it,I {verb} it, bad, great\n");
        std::fs::write(&pairs, format!("clean,corrupted,answer,wrong_answer\n{rows}")).unwrap();
    };
    let suite = |metric: &str, positions: &str| {
        let own = ["direction-patching-suite", "--dataset-file", pairs.to_str().unwrap(), "--eval-sets", "mine"];
        let asked = ["--metrics", metric, "--positions", positions];
        run_in(data.path(), &[&own[..], &asked].concat()).success()
    };
    let table = |metric: &str| {
        let file = data.path().join(format!("demo/direction_patching_{metric}_resid_plain.csv"));
        std::fs::read_to_string(file).unwrap_or_default()
    };
    write("loved");
    suite("logit_diff,prob_diff", "END,ALL");
    let (first, other) = (table("logit_diff"), table("prob_diff"));
    assert!(first.contains("mine") && other.contains("mine"), "{first}{other}");
    // Another text, of which one metric is asked for at one position: everything else is of the old one.
    write("liked");
    let told = suite("logit_diff", "END").stderr;
    assert!(told.contains("warning: direction_patching_prob_diff_resid_plain.csv: 2 values of mine"), "{told}");
    assert!(told.contains("warning: direction_patching_logit_diff_resid_plain.csv: 1 values of mine"), "{told}");
    assert_ne!(table("logit_diff"), first);
    assert!(!table("logit_diff").contains("ALL") && !table("prob_diff").contains("mine"));
    assert!(!suite("logit_diff", "END").stderr.contains("left out"), "it is said once");
    // Asked for, they are computed; and the first text's are still known.
    assert!(suite("prob_diff", "END,ALL").stderr.contains("mine (2 cells) is computed again"));
    assert!(table("prob_diff").contains("mine") && table("prob_diff") != other);
    write("loved");
    let back = suite("logit_diff,prob_diff", "END,ALL").stderr;
    assert!(back.contains("4 cells exist already"), "{back}");
    assert_eq!((table("logit_diff"), table("prob_diff")), (first, other));
}

#[test]
fn a_direction_whose_array_has_changed_is_told_of_wherever_it_is_used() {
    let data = tempfile::tempdir().unwrap();
    run_in(data.path(), &["fit-directions", "--methods", "mean_diff", "--layers", "1,2"]).success();
    let array = |layer: usize| data.path().join(format!("demo/mean_diff_simple_train_ADJ_layer{layer}.npy"));
    std::fs::copy(array(2), array(1)).unwrap();
    let name = "mean_diff_simple_train_ADJ_layer1";
    for command in [&["direction-patching-suite"][..], &["neuroscope", "--text", "I loved it."]] {
        let command = [command, &["--directions", name]].concat();
        let told = run_in(data.path(), &command).success().stderr;
        assert!(told.contains(&format!("{name}.npy has changed since")), "{told}");
    }
    let listed = run_in(data.path(), &["directions", "list"]).success().stdout;
    let origin = |name: &str| listed.lines().find(|line| line.starts_with(name)).unwrap().contains("changed since");
    assert!(origin(name) && !origin("mean_diff_simple_train_ADJ_layer2"), "{listed}");
}

#[test]
fn a_dry_run_tells_arithmetic_and_memory_and_where_nothing_is_left_to_do() {
    let data = fitted();
    let corpus = ["--text", GOOD, "--text", "I hated it."];
    for command in [
        &["fit-directions", "--methods", "kmeans", "--layers", "1"][..],
        &["direction-patching-suite", "--directions", "das_*layer1"],
        &["activation-patching-maps", "--maps", "z"],
        &["attribution-patching", "--maps", "z"],
        &["path-patching", "--senders", "z", "--receivers", "v:2.1"],
        &["ablation-maps", "--maps", "z"],
        &["ablation", "--nodes", "z:1.0", "--methods", "zero"],
        &["faithfulness", "--heads", "1.0"],
        &["logit-attribution", "--maps", "heads"],
        &["attention", "--heads", "1.0", "--maps", "mean"],
        &["probing"],
        &["ccs", "--epochs", "2", "--tries", "1"],
        &["head-cosines", "--nodes", "1.0@END,1.1@END"],
        &["neuron-cosines", "--directions", "das_*layer1"],
        &["negation", "--directions", "das_*layer1", "--last", "3"],
        &[&["neuroscope", "--directions", "das_*layer1"], &corpus[..]].concat(),
        &[&["text-loss", "--methods", "zero"], &corpus[..]].concat(),
        &["steering", "--directions", "das_*layer1", "--coefficients", "1", "--samples", "1", "--max-new-tokens", "2"],
    ] {
        let dry = || run_in(data.path(), &[command, &["--dry-run"]].concat()).success().stdout;
        let before = dry();
        assert!(before.contains("FLOP") && before.contains(" of memory"), "{command:?}: {before}");
        run_in(data.path(), command).success();
        let nothing = "demo: everything is there, nothing is to be computed\n";
        assert_eq!(dry(), nothing, "{command:?}");
    }
    let checks = run_in(data.path(), &["self-check", "--dry-run"]).success();
    assert!(checks.stdout.contains("FLOP, about ") && checks.stderr.contains("at least "), "{checks:?}");
    let random = run_in(data.path(), &["random-directions"]).success();
    assert!(random.stdout.contains("random directions"), "{}", random.stdout);
    let again = run_in(data.path(), &["random-directions", "--dry-run"]).success().stdout;
    assert_eq!(again, "demo: everything is there, nothing is to be computed\n");
}
