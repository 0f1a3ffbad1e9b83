//! Arguments, result files and folders that are wrong: one error that names the culprit, and nothing written.

use super::*;

const FIT: [&str; 5] = ["fit-directions", "--methods", "mean_diff", "--layers", "1"];
const SUITE: [&str; 3] = ["direction-patching-suite", "--directions", "mean_diff*layer1"];

/// Runs a command in an empty folder, which must fail and leave the folder empty.
#[track_caller]
fn refused(arguments: &[&str], code: i32, words: &[&str]) {
    let data = tempfile::tempdir().unwrap();
    run_in(data.path(), arguments).fails(code, words);
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0, "{arguments:?} left something behind");
}

#[test]
fn arguments_that_make_no_sense_are_refused_before_any_work() {
    for (extra, words) in [
        (&["--threads", "abc"][..], ["--threads", "abc"]),
        (&["--threads", "100000"], ["--threads", "100000"]),
        (&["--batch-tokens", "0"], ["--batch-tokens", "0"]),
        (&["--batch-size", "0"], ["--batch-size", "0"]),
        (&["--epochs", "0"], ["--epochs", "0"]),
        (&["--learning-rate", "nan"], ["--learning-rate", "nan"]),
        (&["--learning-rate", "inf"], ["--learning-rate", "inf"]),
        (&["--learning-rate", "0"], ["--learning-rate", "above zero"]),
        (&["--learning-rate=-0.1"], ["--learning-rate", "-0.1"]),
        (&["--methods", ""], ["--methods", "mean_diff"]),
        (&["--methods", "das4d"], ["--methods", "das4d"]),
        (&["--seed=-1"], ["--seed", "-1"]),
        (&["--seed", "-1"], ["'-1'", "--seed"]),
        (&["--weight-processing", "fold"], ["--weight-processing", "fold_ln"]),
        (&["--device", "tpu"], ["--device", "cpu"]),
    ] {
        refused(&[&["fit-directions"], extra].concat(), 2, &words);
    }
    for (metrics, words) in [("nope", ["--metrics", "logit_flip"]), ("", ["--metrics", "logit_diff"])] {
        refused(&["direction-patching-suite", "--metrics", metrics], 2, &words);
    }
    finish(&mut actpatch(&["fit-direction"])).fails(2, &["fit-directions"]);
    assert_eq!(finish(&mut actpatch(&[])).code, 2);
}

#[test]
fn names_that_do_not_exist_are_named() {
    for (extra, words) in [
        (&["--models", ""][..], &["--models", "``", "gpt2-small"][..]),
        (&["--models", "nope"], &["--models", "`nope`", "gpt2-small"]),
        (&["--models", "random:nope"], &["random:nope", "pythia-14m"]),
        (&["--tokenizer", "nope"], &["--tokenizer", "`nope`"]),
        (&["--train-sets", "nope"], &["`nope`", "simple_train"]),
        (&["--train-sets", ""], &["dataset ``", "simple_train"]),
        (&["--test-sets", "nope"], &["`nope`", "simple_train"]),
        (&["--positions", "NOUN"], &["--positions", "simple_train", "NOUN", "ADJ", "ALL"]),
        (&["--positions", ""], &["--positions", "simple_train", "ADJ"]),
        (&["--layers", "5"], &["--layers", "5", "0 to 4"]),
        (&["--layers", ""], &["--layers", "expected"]),
        (&["--layers", "3..1"], &["--layers", "3..1"]),
        (&["--layers", "0..18446744073709551615"], &["--layers", "0 to 4"]),
        (&["--layers", "99999999999999999999"], &["--layers: 99999999999999999999 is outside"]),
        (&["--models", "demo,nope"], &["--models", "`nope`"]),
        (&["--models", "demo,demo=random:gpt2-small"], &["--models", "of demo are filed under demo"]),
        (&["--models", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")], &["Cargo.toml`", "by its folder"]),
        (&["--weight-processing", "none,fold_ln"], &["--weight-processing", "none"]),
        (&["--dataset-file", "no_such_file.toml"], &["no_such_file.toml"]),
    ] {
        refused(&[&["fit-directions", "--methods", "mean_diff"], extra].concat(), 1, words);
    }
    let neuroscope = ["neuroscope", "--directions", "das_simple_train_ADJ_layer1", "--text", ""];
    refused(&neuroscope, 1, &["--text: expected a text"]);
    refused(&["self-check", "--eval-set", "nope"], 1, &["--eval-set: ", "`nope`", "simple_test"]);
    refused(&["probing", "--eval-sets", "nope"], 1, &["--eval-sets: ", "`nope`", "simple_test"]);
    refused(&["self-check", "--layers", "5"], 1, &["--layers", "5", "0 to 4"]);
}

#[test]
fn the_suite_needs_directions_that_fit() {
    refused(&SUITE, 1, &["demo", "no such folder", "fit-directions"]);
    let data = fitted();
    let before = files(data.path());
    let complaint = |extra: &[&str], words: &[&str]| {
        run_in(data.path(), &[&["direction-patching-suite"], extra].concat()).fails(1, words);
    };
    complaint(&["--directions", "kmeans*"], &["kmeans*", "matches none"]);
    complaint(&["--directions", ""], &["\"\"", "matches none"]);
    complaint(&["--eval-sets", "simple_test,nope"], &["`nope`", "simple_test"]);
    complaint(&["--positions", "ADJ,NOUN"], &["--positions", "simple_test", "NOUN"]);
    let none = ["--directions", "mean*", "--weight-processing", "none"];
    complaint(&none, &["mean_diff_simple_train_ADJ_layer0.json", "weight_processing", "expected none", "fold_ln"]);
    let ortho = ["--directions", "mean*layer1", "--projection", "ortho"];
    complaint(&ortho, &["mean_diff_simple_test_ADJ_layer1.npy", "missing", "--train-sets simple_test"]);
    complaint(&["--directions", "random*", "--projection", "para"], &["--projection", "random_direction_layer00"]);
    assert!(before == files(data.path()));
    // What is there already is not shown for other weights either.
    run_in(data.path(), &SUITE).success();
    run_in(data.path(), &[&SUITE[..], &["--weight-processing", "none"]].concat()).fails(1, &["weight_processing"]);
}

#[test]
fn broken_direction_files_are_named_with_their_fault() {
    let data = fitted();
    let path = data.path().join("demo/mean_diff_simple_train_ADJ_layer1.npy");
    let good = std::fs::read(&path).unwrap();
    let mut not_a_number = good.clone();
    let end = not_a_number.len();
    not_a_number[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let mut zeros = good.clone();
    zeros[end - 128 * 4..].fill(0);
    let plane = std::fs::read(data.path().join("demo/das2d_simple_train_ADJ_layer1.npy")).unwrap();
    for (bytes, words) in [
        (b"garbage".to_vec(), ["header", ".npy"]),
        (Vec::new(), ["header", ".npy"]),
        (good[..good.len() - 1].to_vec(), ["data", "511 bytes"]),
        (not_a_number, ["values", "NaN at row 127"]),
        (zeros, ["values", "zeros"]),
        (plane, ["shape", "(128, 2)"]),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let words = [&["mean_diff_simple_train_ADJ_layer1.npy"][..], &words].concat();
        run_in(data.path(), &SUITE).fails(1, &words);
        assert!(!result_file(data.path(), "logit_diff", "").exists());
    }
    std::fs::write(&path, &good).unwrap();
    std::fs::write(data.path().join("demo/mean_diff_simple_train_ADJ_layer9.npy"), &good).unwrap();
    for extra in [&[][..], &["--dry-run"]] {
        let arguments = [&["direction-patching-suite", "--directions", "mean*layer9"], extra].concat();
        run_in(data.path(), &arguments).fails(1, &["mean_diff_simple_train_ADJ_layer9", "layer", "0 to 4"]);
    }
    // A file whose name is no direction's is none of ours.
    std::fs::write(data.path().join("demo/rotation_layer1.npy"), &good).unwrap();
    run_in(data.path(), &["direction-patching-suite", "--directions", "rotation*"]).fails(1, &["rotation*"]);
    std::fs::remove_file(path.with_extension("json")).unwrap();
    let without = run_in(data.path(), &SUITE).success();
    assert!(without.stderr.contains("1 directions have no record") && !without.stderr.contains('\x1b'));
    std::fs::write(path.with_extension("json"), "{").unwrap();
    run_in(data.path(), &SUITE).fails(1, &["mean_diff_simple_train_ADJ_layer1.json", "record of a fit"]);
}

#[test]
fn broken_result_files_are_named_and_left_alone() {
    let data = fitted();
    let path = result_file(data.path(), "logit_diff", "");
    for (text, words) in [
        ("", ["header", "two header rows"]),
        ("prompt,simple_test\n", ["header", "1 rows"]),
        ("prompt,simple_test\nposition,ADJ\nx\n", ["line: 3", "1 fields"]),
        ("prompt,simple_test\nposition,ADJ\nmean_diff_x_ADJ_layer01,many\n", ["line 3, column 2", "many"]),
        ("prompt,simple_test\nposition,ADJ\nmean_diff_x_ADJ_layer01,NaN\n", ["line 3, column 2", "NaN"]),
    ] {
        std::fs::write(&path, text).unwrap();
        let words = [&["direction_patching_logit_diff_resid_plain.csv"][..], &words].concat();
        // The suite never reads such a file, and does not replace one that it has not made.
        run_in(data.path(), &SUITE).fails(1, &[words[0], "--overwrite"]);
        run_in(data.path(), &["direction-patching-results"]).fails(1, &words);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    std::fs::write(&path, "prompt,simple_test\nposition,ADJ\nbanana,1\n").unwrap();
    let words = ["direction_patching_logit_diff_resid_plain.csv", "banana", "layer"];
    run_in(data.path(), &["direction-patching-results"]).fails(1, &words);
    let stats = data.path().join("demo/direction_fitting_stats.csv");
    std::fs::write(&stats, "my notes\n").unwrap();
    run_in(data.path(), &[&FIT[..], &["--overwrite"]].concat()).fails(1, &["direction_fitting_stats.csv", "header"]);
    assert_eq!(std::fs::read_to_string(&stats).unwrap(), "my notes\n");
}

#[test]
fn results_need_files() {
    refused(&["direction-patching-results"], 1, &["demo", "direction_patching_*.csv", "direction-patching-suite"]);
    let data = fitted();
    run_in(data.path(), &["direction-patching-results"]).fails(1, &["demo", "direction_patching_*.csv"]);
    run_in(data.path(), &["direction-patching-results", "--models", ""]).fails(1, &["--models"]);
}

#[test]
fn a_data_folder_that_cannot_be_is_named() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("file");
    std::fs::write(&file, "text").unwrap();
    for folder in [file.clone(), file.join("below")] {
        for command in [&FIT[..], &SUITE, &["self-check"], &["demo"], &["random-directions"]] {
            run_in(&folder, command).fails(1, &["--data-dir", "file"]);
        }
        run_in(&folder, &["direction-patching-results"]).fails(1, &["file"]);
    }
    // A file where the model's folder should be.
    std::fs::write(data.path().join("demo"), "text").unwrap();
    run_in(data.path(), &FIT).fails(1, &["--data-dir", "demo"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
    assert_eq!(files(data.path()).len(), 2);
}

#[test]
fn any_path_will_do() {
    let data = tempfile::tempdir().unwrap();
    let mut names = vec![std::ffi::OsString::from("données δ 数据"), "with space/../and $HOME".into()];
    #[cfg(target_os = "linux")]
    names.push(std::os::unix::ffi::OsStringExt::from_vec(b"caf\xe9".to_vec()));
    std::fs::create_dir(data.path().join("with space")).unwrap();
    for name in names {
        let folder = data.path().join(&name);
        let fit = run_in(&folder, &[&FIT[..], &["--json"]].concat()).success();
        assert_eq!(fit.json()[0]["directions"][0]["name"], "mean_diff_simple_train_ADJ_layer1");
        run_in(&folder, &[&SUITE[..], &["--json"]].concat()).success().json();
        run_in(&folder, &["direction-patching-results", "--json"]).success().json();
        assert!(result_file(&folder, "logit_diff", "").exists(), "{name:?}");
    }
}

#[test]
fn quiet_commands_print_results_and_warnings_alone() {
    let data = tempfile::tempdir().unwrap();
    let fit = ["fit-directions", "--methods", "mean_diff", "--layers", "1"];
    run_in(data.path(), &fit).success();
    let loud = run_in(data.path(), &fit).success();
    assert!(loud.stderr.contains("exist already"), "{}", loud.stderr);
    let quiet = run_in(data.path(), &[&fit[..], &["--quiet"]].concat()).success();
    assert_eq!((quiet.stdout, quiet.stderr.as_str()), (loud.stdout, ""));
    std::fs::remove_file(data.path().join("demo/mean_diff_simple_train_ADJ_layer1.json")).unwrap();
    let suite = ["direction-patching-suite", "--directions", "mean_diff*", "-q", "--dry-run"];
    assert!(run_in(data.path(), &suite).success().stderr.contains("no record"));
    run_in(data.path(), &[&fit[..], &["--quiet", "--verbose"]].concat()).fails(2, &["--quiet", "--verbose"]);
}

#[test]
fn a_damaged_file_is_warned_of_once() {
    let data = tempfile::tempdir().unwrap();
    run_in(data.path(), &FIT).success();
    std::fs::write(data.path().join("demo/model.json"), "{").unwrap();
    let stderr = run_in(data.path(), &["fit-directions", "--methods", "mean_diff", "--layers", "2"]).success().stderr;
    assert_eq!(stderr.matches("model.json is damaged").count(), 1, "{stderr}");
}

/// What cannot be printed is a failure, whoever prints it.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_fails_help_and_results() {
    for arguments in [&["--help"][..], &["--version"], &["directions", "list", "--help"], &["completions", "bash"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_actpatch"));
        let status = command.args(arguments).stdout(full).stderr(std::process::Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(1), "{arguments:?}");
    }
}

#[test]
fn a_layer_below_zero_is_a_value_and_no_option() {
    let data = tempfile::tempdir().unwrap();
    let suite = ["direction-patching-suite", "--layers", "-1"];
    run_in(data.path(), &suite).fails(2, &["invalid value '-1' for '--layers <LAYERS>'", "possible values: own, all"]);
    run_in(data.path(), &["fit-directions", "--methods", "kmeans", "--layer", "-1"]).success();
    assert!(data.path().join("demo/kmeans_simple_train_ADJ_layer4.npy").is_file());
    let text = ["text-loss", "--text", "I loved it.", "--positions", "-1"];
    run_in(data.path(), &text).fails(1, &["--positions"]);
}

#[test]
fn messages_name_only_options_that_the_command_has() {
    let data = tempfile::tempdir().unwrap();
    // The folder of the demo model is another's.
    run_in(data.path(), &["random-directions", "--models", "demo=random:gpt2-small"]).success();
    let named = run_in(data.path(), &["fit-directions"]);
    assert!(
        named.stderr.contains("use --models NAME=demo with another NAME, or use another --data-dir"),
        "{}",
        named.stderr
    );
    let demo = run_in(data.path(), &["demo"]);
    assert!(!demo.stderr.contains("--models") && demo.stderr.contains("; use another --data-dir"), "{}", demo.stderr);
}

#[test]
fn the_processors_instructions_can_be_limited() {
    let limited = |limit: &str| {
        let data = tempfile::tempdir().unwrap();
        let mut command = actpatch(&[&FIT[..], &["--device", "cpu"]].concat());
        let finished = finish(command.arg("--data-dir").arg(data.path()).env("ACTPATCH_ISA", limit));
        (finished, manifests(data.path()))
    };
    let (finished, found) = limited("portable");
    finished.success();
    assert!(found[0]["device"].as_str().unwrap().contains("portable"), "{found:?}");
    let (finished, _) = limited("sse9");
    finished.fails(1, &["ACTPATCH_ISA", "sse9", "portable", "avx2", "avx512-bf16", "amx"]);
}

/// What files and texts hold does not steer the terminal: neither in errors nor in what is printed.
#[test]
fn no_escape_reaches_the_terminal() {
    let data = fitted();
    let steering = ["steering", "--directions", "mean_diff_simple_train_ADJ_layer1", "--coefficients", "0"];
    let prompt = ["--prompt", "It was \u{1b}[31mgood", "--max-new-tokens", "1", "--temperature", "0"];
    let printed = run_in(data.path(), &[&steering[..], &prompt[..]].concat()).success().stdout;
    assert!(!printed.contains('\u{1b}') && printed.contains("\\u{1b}[31mgood"), "{printed:?}");
    let named = run_in(data.path(), &["fit-directions", "--models", "a\u{1b}[31mb"]);
    assert!(named.code != 0 && !named.stderr.contains('\u{1b}') && named.stderr.contains("31m"), "{:?}", named.stderr);
}
