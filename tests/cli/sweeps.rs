//! Sweeps that are killed, stopped, shared, cut into shards; ledgers that are damaged.

use super::*;
use actpatch::sweep::{Ledger, Outcome, Parts};
use assert_cmd::Command;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A sweep of a second or so.
const SWEEP: [&str; 9] = [
    "direction-patching-suite",
    "--directions",
    "mean_diff*,random*,das_*",
    "--eval-sets",
    "simple_test,simple_adverb,simple_book,proper_nouns",
    "--metrics",
    "logit_diff,logit_flip",
    "--positions",
    "auto,ALL",
];

/// The result files of the demo model.
fn results(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    files(data).into_iter().filter(|(path, _)| path.to_string_lossy().contains("direction_patching_")).collect()
}

/// The result files of a sweep that nothing has disturbed.
fn undisturbed() -> &'static BTreeMap<PathBuf, Vec<u8>> {
    static RESULTS: OnceLock<BTreeMap<PathBuf, Vec<u8>>> = OnceLock::new();
    RESULTS.get_or_init(|| {
        let data = fitted();
        run_in(data.path(), &SWEEP).success();
        results(data.path())
    })
}

pub fn spawn(data: &Path, arguments: &[&str]) -> Child {
    std::process::Command::new(env!("CARGO_BIN_EXE_actpatch"))
        .args(arguments)
        .arg("--data-dir")
        .arg(data)
        .env_remove("RUST_LOG")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Sends a signal by its name.
#[cfg(unix)]
fn send(child: &Child, signal: &str) {
    let kill = std::process::Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
}

pub fn ledger(data: &Path) -> PathBuf {
    data.join("demo").join(Ledger::FILE)
}

/// Outcomes in a ledger file.
fn outcomes(ledger: &Path) -> usize {
    std::fs::read_to_string(ledger).map_or(0, |text| text.matches("\"kind\":\"done\"").count())
}

/// Waits until a sweep has recorded something, beside the `before` outcomes that were there.
pub fn wait_for_records(ledger: &Path, before: usize) {
    let started = Instant::now();
    while outcomes(ledger) <= before {
        assert!(started.elapsed() < Duration::from_secs(120), "nothing was recorded");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_sweep_killed_fifty_times_ends_as_if_nothing_had_happened() {
    // Part of the sweep, for a test that runs it many times.
    let sweep = [&SWEEP[..1], &["--directions", "random*", "--metrics", "logit_diff,logit_flip"]].concat();
    let sweep = [&sweep[..], &["--eval-sets", "simple_test,simple_book", "--batch-tokens", "512"]].concat();
    let data = fitted();
    let started = Instant::now();
    run_in(data.path(), &sweep).success();
    let whole = started.elapsed().as_micros() as u64;
    let expected = results(data.path());
    // A generator of Lehmer's: the moments are spread over a whole run, and another run of the test has others.
    let mut random = u64::from(std::process::id()) * 2 + 1;
    let mut moment = || {
        random = random.wrapping_mul(0xda94_2042_e4dd_58b5);
        Duration::from_micros((random >> 33) % whole)
    };
    let (mut kills, mut amid_the_sweep) = (0, 0);
    while kills < 50 {
        let data = fitted();
        loop {
            let mut child = spawn(data.path(), &sweep);
            std::thread::sleep(moment());
            if let Some(status) = child.try_wait().unwrap() {
                let mut stderr = String::new();
                std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).unwrap();
                assert!(status.success(), "after {kills} kills: {status}: {stderr}");
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            let done = outcomes(&ledger(data.path()));
            amid_the_sweep += usize::from(done > 0);
            if kills >= 50 {
                run_in(data.path(), &sweep).success();
                break;
            }
        }
        assert!(results(data.path()) == expected, "after {kills} kills");
    }
    assert!(amid_the_sweep > 0, "no kill hit a sweep that had recorded something");
}

#[cfg(unix)]
#[test]
fn a_signal_stops_a_sweep_between_batches() {
    for signal in ["TERM", "INT", "USR1"] {
        let data = fitted();
        let before = outcomes(&ledger(data.path()));
        let child = spawn(data.path(), &[&SWEEP[..], &["--threads", "1", "--batch-tokens", "64"]].concat());
        wait_for_records(&ledger(data.path()), before);
        send(&child, signal);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(75), "{signal}: {stderr}");
        assert!(stderr.contains("stopped by a signal with") && stderr.contains("goes on"), "{stderr}");
        assert!(!results(data.path()).is_empty(), "what is done can be looked at");
        let status = run_in(data.path(), &["status", "--json"]).success().json();
        let (done, missing) = (status[0]["done"].as_u64().unwrap(), status[0]["missing"].as_u64().unwrap());
        assert!(done > 0 && missing > 0 && status[0]["seconds_left"].as_f64().unwrap() > 0.0, "{status}");
        assert_eq!(status[0]["running"], serde_json::json!([]));
        let rest = run_in(data.path(), &SWEEP).success();
        assert!(rest.stderr.contains(&format!("{done} cells exist already")), "{}", rest.stderr);
        assert!(results(data.path()) == *undisturbed(), "{signal}");
        let status = run_in(data.path(), &["status"]).success();
        let last: Vec<&str> = status.stdout.lines().last().unwrap().split_whitespace().skip(1).collect();
        assert_eq!(last, [(done + missing).to_string().as_str(), "0", "0", "0", "-"], "{}", status.stdout);
    }
}

/// Texts that are written when a signal comes stay, and the same command goes on behind them.
#[cfg(unix)]
#[test]
fn a_signal_stops_the_writing_of_texts() {
    let data = fitted();
    let name = "mean_diff_simple_train_ADJ_layer1";
    let steering =
        ["steering", "--directions", name, "--coefficients=-20..19", "--max-new-tokens", "60", "--samples", "8"];
    let steering = [&steering[..], &["--threads", "1", "--batch-tokens", "64"]].concat();
    let file = data.path().join(format!("demo/steering_{name}.jsonl"));
    let texts = || std::fs::read_to_string(&file).map_or(0, |text| text.lines().count());
    let child = spawn(data.path(), &steering);
    let started = Instant::now();
    while texts() == 0 {
        assert!(started.elapsed() < Duration::from_secs(120), "nothing was written");
        std::thread::sleep(Duration::from_millis(2));
    }
    send(&child, "INT");
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(75), "{stderr}");
    assert!(stderr.contains("stopped by a signal") && stderr.contains("goes on"), "{stderr}");
    let written = texts();
    assert!(0 < written && written < 40 * 8, "{written} texts");
    let rest = run_in(data.path(), &steering).success();
    assert!(rest.stderr.contains(&format!("{written} texts exist already")), "{}", rest.stderr);
    assert_eq!(texts(), 40 * 8);
}

#[cfg(unix)]
#[test]
fn a_signal_stops_a_fit_between_its_steps() {
    let data = tempfile::tempdir().unwrap();
    let fit = ["fit-directions", "--methods", "das", "--layers", "1", "--epochs"];
    // Days of training.
    let mut child = spawn(data.path(), &[&fit[..], &["100000000"]].concat());
    let started = Instant::now();
    while !data.path().join("demo/manifests").exists() {
        assert!(started.elapsed() < Duration::from_secs(120), "nothing was begun");
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_secs(1));
    assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
    send(&child, "INT");
    let asked = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if asked.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("a minute later it still trains");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(75), "{stderr}");
    assert!(stderr.contains("stopped by a signal; the same command goes on"), "{stderr}");
    // What was half trained has left nothing: the folder is as good as a new one.
    let short = [&fit[..], &["2"]].concat();
    let undisturbed = tempfile::tempdir().unwrap();
    run_in(data.path(), &short).success();
    run_in(undisturbed.path(), &short).success();
    assert!(files(data.path()) == files(undisturbed.path()));
}

/// What leaves nothing to go on from stops as well, and says so.
#[cfg(unix)]
#[test]
fn a_signal_stops_what_begins_anew() {
    let data = tempfile::tempdir().unwrap();
    for command in [
        &["bench", "--device", "cpu", "--repetitions", "10000"][..],
        &["self-check", "--device", "cpu", "--models", "random:gpt2-small", "--against-cpu"],
    ] {
        // A signal before the program listens ends it at once.
        let mut wait = Duration::from_millis(500);
        let output = loop {
            let child = spawn(data.path(), command);
            std::thread::sleep(wait);
            send(&child, "INT");
            let output = child.wait_with_output().unwrap();
            if output.status.code().is_some() {
                break output;
            }
            wait *= 2;
        };
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(75), "{command:?}: {stderr}");
        assert!(stderr.contains("a second signal ends the program at once"), "{stderr}");
        assert!(stderr.contains("stopped by a signal; the same command begins anew"), "{stderr}");
    }
}

#[test]
fn shards_joined_are_the_whole_sweep() {
    let data = fitted();
    for shard in ["0/3", "2/3"] {
        run_in(data.path(), &[&SWEEP[..], &["--shard", shard]].concat()).success();
    }
    assert!(results(data.path()).is_empty(), "a shard has no result files");
    let part = run_in(data.path(), &["merge", "--json"]).success().json();
    let missing = part[0]["missing_cells"].as_array().unwrap().len();
    assert_eq!(part[0]["sweep"]["missing"], missing);
    assert!(missing > 0 && part[0]["missing_cells"][0].as_str().unwrap().contains("direction_patching_"), "{part}");
    assert!(run_in(data.path(), &["merge"]).success().stdout.contains("missing: "));
    run_in(data.path(), &[&SWEEP[..], &["--shard", "1/3"]].concat()).success();
    let status = run_in(data.path(), &["status", "--json"]).success().json();
    let done: Vec<u64> = status.as_array().unwrap().iter().map(|ledger| ledger["done"].as_u64().unwrap()).collect();
    assert_eq!(done.len(), 4, "the folder's own ledger, and three shards': {status}");
    assert_eq!(done[2], missing as u64);
    // Cells come in pairs here: two metrics share a pass.
    assert!(done[1].abs_diff(done[3]) <= 2 && done[1].abs_diff(done[2]) <= 2, "{done:?}");
    let merged = run_in(data.path(), &["merge"]).success();
    assert!(merged.stdout.contains(&format!("{missing} outcomes added")) && merged.stdout.contains(" 0 missing"));
    assert!(results(data.path()) == *undisturbed());
    let again = run_in(data.path(), &["merge"]).success();
    assert!(again.stdout.contains("demo: 0 outcomes added"), "{}", again.stdout);
    // Folders of other machines, and one of them twice.
    let (elsewhere, twice) = (tempfile::tempdir().unwrap(), data.path().to_str().unwrap());
    run_in(elsewhere.path(), &["merge", twice, twice]).success();
    assert!(results(elsewhere.path()) == *undisturbed());
    // The whole sweep has nothing left to do.
    let whole = run_in(data.path(), &SWEEP).success();
    assert!(whole.stderr.contains("cells exist already"), "{}", whole.stderr);
    assert!(results(data.path()) == *undisturbed());
}

#[test]
fn a_shard_beyond_the_last_is_a_wrong_argument() {
    let data = tempfile::tempdir().unwrap();
    for wrong in ["5/4", "4/4", "1", "0/0", "-1/3"] {
        let shard = format!("--shard={wrong}");
        run_in(data.path(), &["direction-patching-suite", &shard]).fails(2, &["--shard", "I/N", wrong]);
    }
    run_in(data.path(), &["merge"]).fails(1, &["nothing to merge"]);
    run_in(data.path(), &["status"]).fails(1, &["ledger.jsonl"]);
    run_in(&data.path().join("nowhere"), &["status"]).fails(1, &["nowhere"]);
}

#[test]
fn shards_of_other_directions_or_other_values_are_not_joined() {
    let data = fitted();
    let suite = ["direction-patching-suite", "--directions", "random*"];
    run_in(data.path(), &suite).success();
    run_in(data.path(), &[&suite[..], &["--overwrite", "--shard", "0/1"]].concat()).success();
    let shard = data.path().join("demo/shards/0-of-1");
    let (_, state) = Ledger::read(&shard).unwrap().unwrap();
    let (configuration, _) = Ledger::read(&data.path().join("demo")).unwrap().unwrap();
    let (cell, _) = state.cells().next().unwrap();
    let wrong = Outcome::Done { value: serde_json::json!(12.5), parts: Parts::default(), seconds: 0.0 };
    Ledger::open(&shard, &configuration).unwrap().record([(cell.id, wrong)]).unwrap();
    let place = cell.place.to_string();
    run_in(data.path(), &["merge"]).fails(1, &["12.5", &place, "shards/0-of-1"]);
    // Once the directions have changed, the shard says nothing about them.
    run_in(data.path(), &["random-directions", "--direction-seed", "7", "--overwrite"]).success();
    let merged = run_in(data.path(), &["merge"]).success();
    assert!(merged.stdout.contains("5 cells are left out"), "{}", merged.stdout);
    let text = std::fs::read_to_string(result_file(data.path(), "logit_diff", "")).unwrap();
    assert!(!text.contains("random_direction"), "{text}");
}

#[test]
fn a_damaged_record_is_computed_again() {
    let data = fitted();
    run_in(data.path(), &SWEEP).success();
    let path = ledger(data.path());
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, after) = text.rsplit_once("\"value\":").unwrap();
    std::fs::write(&path, format!("{before}\"value\":1{after}")).unwrap();
    let again = run_in(data.path(), &SWEEP).success();
    assert!(again.stderr.contains("ledger.jsonl: 1 damaged records"), "{}", again.stderr);
    assert!(results(data.path()) == *undisturbed());
    assert_eq!(outcomes(&path), text.matches("\"kind\":\"done\"").count() + 1);
    // The end of the last record is missing.
    std::fs::write(&path, &text[..text.len() - 9]).unwrap();
    let again = run_in(data.path(), &SWEEP).success();
    assert!(again.stderr.contains("unfinished record"), "{}", again.stderr);
    assert!(results(data.path()) == *undisturbed());
}

#[test]
fn another_model_under_the_same_name_is_refused() {
    let data = fitted();
    run_in(data.path(), &["direction-patching-suite", "--directions", "random*"]).success();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("demo");
    std::fs::create_dir(&copy).unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/models/demo");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(demo.join(file), copy.join(file)).unwrap();
    }
    let suite = ["direction-patching-suite", "--directions", "random*", "--models", copy.to_str().unwrap()];
    let same = run_in(data.path(), &suite).success();
    assert!(same.stderr.contains("5 cells exist already"), "{}", same.stderr);
    let mut config = std::fs::read(copy.join("config.json")).unwrap();
    config.push(b'\n');
    std::fs::write(copy.join("config.json"), config).unwrap();
    run_in(data.path(), &suite).fails(1, &["expected results of", "found those of", "--data-dir"]);
    // A ledger knows its model on its own.
    std::fs::remove_file(data.path().join("demo/model.json")).unwrap();
    std::fs::remove_dir_all(data.path().join("demo/manifests")).unwrap();
    run_in(data.path(), &suite).fails(1, &["ledger.jsonl: weights: expected", "found", "--data-dir"]);
}

#[test]
fn results_without_a_ledger_are_not_replaced_unasked() {
    let data = fitted();
    let path = result_file(data.path(), "logit_diff", "");
    std::fs::write(&path, "prompt,simple_test\nposition,ADJ\nmean_diff_simple_train_ADJ_layer02,12.5\n").unwrap();
    let suite = ["direction-patching-suite", "--directions", "mean_diff*layer2"];
    run_in(data.path(), &suite).fails(1, &["direction_patching_logit_diff_resid_plain.csv", "--overwrite"]);
    assert!(std::fs::read_to_string(&path).unwrap().contains("12.5"));
    run_in(data.path(), &[&suite[..], &["--overwrite"]].concat()).success();
    assert!(!std::fs::read_to_string(&path).unwrap().contains("12.5"));
}

#[test]
fn failed_cells_keep_their_error_until_they_are_retried() {
    let data = fitted();
    let suite = ["direction-patching-suite", "--directions", "random*"];
    run_in(data.path(), &suite).success();
    let right = results(data.path());
    let (configuration, state) = Ledger::read(&data.path().join("demo")).unwrap().unwrap();
    let (cell, _) = state.cells().next().unwrap();
    let error = "expected a finite number, found NaN";
    let mut ledger = Ledger::open(&data.path().join("demo"), &configuration).unwrap();
    ledger.record([(cell.id, Outcome::Failed(error.into()))]).unwrap();
    run_in(data.path(), &suite).fails(1, &["1 cells failed", "--retry-failed", error]);
    let status = run_in(data.path(), &["status"]).success();
    assert!(status.stdout.contains(&format!("failed: {}: {error}", cell.place)), "{}", status.stdout);
    assert!(results(data.path()) != right, "a cell that failed has no value");
    run_in(data.path(), &[&suite[..], &["--retry-failed"]].concat()).success();
    assert!(results(data.path()) == right);
}

#[test]
fn two_processes_share_a_folder() {
    let data = fitted();
    let both = [(); 2].map(|()| spawn(data.path(), &SWEEP));
    wait_for_records(&ledger(data.path()), 0);
    for child in both {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(results(data.path()) == *undisturbed());
}

#[cfg(unix)]
#[test]
fn a_full_disk_stops_a_sweep_and_costs_nothing_that_was_recorded() {
    let whole = fitted();
    run_in(whole.path(), &SWEEP).success();
    // In units of 512 bytes: room for the cells, and for some outcomes.
    let text = std::fs::read_to_string(ledger(whole.path())).unwrap();
    let cells = text.find("\"kind\":\"done\"").unwrap();
    let limit = (cells + (text.len() - cells) / 2) / 512;
    let data = fitted();
    // Ignored, the signal of a file that grows too large becomes an error of the write, as a full disk's.
    let limited = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" \"$@\"");
    let mut command = Command::new("dash");
    command.args(["-c", &limited, env!("CARGO_BIN_EXE_actpatch")]).args(SWEEP).arg("--data-dir").arg(data.path());
    let full = finish(&mut command);
    full.fails(1, &["ledger.jsonl", "File too large"]);
    let kept = std::fs::read_to_string(ledger(data.path())).unwrap();
    assert!(kept.ends_with('\n') && outcomes(&ledger(data.path())) > 0);
    let rest = run_in(data.path(), &SWEEP).success();
    assert!(!rest.stderr.contains("unfinished") && rest.stderr.contains("cells exist already"), "{}", rest.stderr);
    assert!(results(data.path()) == *undisturbed());
}

#[test]
fn a_small_memory_budget_changes_no_value_and_one_that_is_too_small_says_what_is_needed() {
    let data = fitted();
    run_in(data.path(), &[&SWEEP[..], &["--memory", "1kB"]].concat())
        .fails(1, &["prompts 0 to 0 of simple_test need", "--memory"]);
    run_in(data.path(), &[&SWEEP[..], &["--memory", "lots"]].concat()).fails(2, &["--memory", "lots"]);
    // A few prompts at a time, and batches of a few rows.
    run_in(data.path(), &[&SWEEP[..], &["--memory", "400kB"]].concat()).success();
    assert!(results(data.path()) == *undisturbed());
}

#[test]
fn shards_of_fits_are_all_fits() {
    let fit = ["fit-directions", "--methods", "das,kmeans", "--layers", "0..2", "--epochs", "2"];
    let directions = |data: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
        files(data).into_iter().filter(|(path, _)| path.extension().is_some_and(|ending| ending == "npy")).collect()
    };
    let (whole, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run_in(whole.path(), &fit).success();
    run_in(data.path(), &[&fit[..], &["--shard", "1/2"]].concat()).success();
    let second = directions(data.path()).len();
    run_in(data.path(), &[&fit[..], &["--shard", "0/2"]].concat()).success();
    assert!((1..=2).contains(&second), "one or two of three DAS fits, found {second}");
    assert!(directions(data.path()) == directions(whole.path()) && directions(data.path()).len() == 6);
}

#[cfg(unix)]
#[test]
fn a_signal_keeps_the_next_model_from_being_begun() {
    let (data, elsewhere) = (fitted(), tempfile::tempdir().unwrap());
    let other = elsewhere.path().join("copy");
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/models/demo");
    std::fs::create_dir(&other).unwrap();
    for entry in std::fs::read_dir(demo).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), other.join(entry.file_name())).unwrap();
    }
    let models = format!("demo,{}", other.display());
    run_in(data.path(), &["random-directions", "--models", other.to_str().unwrap()]).success();
    // The copy has random directions alone.
    let sweep = [&["direction-patching-suite", "--directions", "random*", "--models", &models], &SWEEP[3..]].concat();
    let before = outcomes(&ledger(data.path()));
    let child = spawn(data.path(), &[&sweep[..], &["--threads", "1", "--batch-tokens", "64"]].concat());
    wait_for_records(&ledger(data.path()), before);
    let kill = std::process::Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!data.path().join("copy").join(Ledger::FILE).exists());
    run_in(data.path(), &sweep).success();
    assert!(data.path().join("copy").join(Ledger::FILE).exists());
}
