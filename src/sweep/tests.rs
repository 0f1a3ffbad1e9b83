//! Ledgers that are cut, damaged, shared, foreign, joined.

use super::*;
use crate::files::sha256;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

fn shared(dtype: &str) -> Configuration {
    [("dtype".to_owned(), dtype.to_owned()), ("model".into(), "demo".into())].into()
}

fn cell(number: usize, setting: &str) -> Cell {
    let own = [("number".to_owned(), number.to_string()), ("setting".into(), setting.into())].into();
    let place = Place { file: "result.csv".into(), at: vec![format!("row{number:03}").into(), "column".into()] };
    let id = CellId::of("test", &shared("f32"), &own);
    Cell { id, place, inputs: Arc::default(), texts: Arc::default(), settings: Arc::default(), shard: None }
}

fn done(value: f64) -> Outcome {
    Outcome::Done { value: json!(value), parts: Parts::default(), seconds: 0.5 }
}

/// What a ledger knows, without times: place, value or error.
fn known(folder: &Path) -> Vec<(String, Option<String>)> {
    let (_, state) = Ledger::read(folder).unwrap().unwrap();
    let shown = |outcome: &Outcome| match outcome {
        Outcome::Done { value, .. } => value.to_string(),
        Outcome::Failed(error) => error.clone(),
    };
    state.cells().map(|(cell, outcome)| (cell.place.at[0].to_string(), outcome.map(shown))).collect()
}

/// A ledger of `values` cells that are done, made batch by batch, and one cell that is missing.
fn ledger(folder: &Path, values: usize) -> Ledger {
    let mut ledger = Ledger::open(folder, &shared("f32")).unwrap();
    ledger.want((0..=values).map(|number| cell(number, "a"))).unwrap();
    for number in 0..values {
        ledger.record([(cell(number, "a").id, done(number as f64 / 3.0))]).unwrap();
    }
    ledger
}

#[test]
fn a_ledger_cut_anywhere_keeps_every_whole_record() {
    let folder = tempfile::tempdir().unwrap();
    drop(ledger(folder.path(), 5));
    let path = folder.path().join(Ledger::FILE);
    let whole = std::fs::read(&path).unwrap();
    let all = known(folder.path());
    // Every seventh byte hits each field of some record; each of the cuts costs several waits for the disk.
    for length in (0..whole.len()).step_by(7) {
        std::fs::write(&path, &whole[..length]).unwrap();
        let mut again = Ledger::open(folder.path(), &shared("f32")).unwrap();
        let lines = whole[..length].iter().filter(|byte| **byte == b'\n').count();
        // A header, six cells that are wanted, five outcomes.
        assert_eq!(again.state().cells().count(), lines.saturating_sub(1).min(6), "cut at {length}");
        let counts: Counts = again.state().cells().map(|(_, outcome)| outcome).collect();
        assert_eq!(counts.done, lines.saturating_sub(7), "cut at {length}");
        // The same work brings it to the same end.
        again.want((0..=5).map(|number| cell(number, "a"))).unwrap();
        let missing: Vec<Cell> = again.state().cells().filter(|(_, o)| o.is_none()).map(|(cell, _)| cell).collect();
        for (number, cell) in (0..5).map(|number| (number, cell(number, "a"))).filter(|(_, c)| missing.contains(c)) {
            again.record([(cell.id, done(number as f64 / 3.0))]).unwrap();
        }
        assert_eq!(known(folder.path()), all, "cut at {length}");
    }
}

#[test]
fn a_damaged_record_costs_its_own_cell_only() {
    let folder = tempfile::tempdir().unwrap();
    drop(ledger(folder.path(), 5));
    let path = folder.path().join(Ledger::FILE);
    let mut lines: Vec<Vec<u8>> = std::fs::read(&path).unwrap().split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    // The outcome of row 2: in place of its value 0.666… stands another number.
    assert!(String::from_utf8_lossy(&lines[9]).contains("0.666"));
    lines[9] = String::from_utf8_lossy(&lines[9]).replace("0.666", "0.766").into_bytes();
    std::fs::write(&path, lines.join(&b'\n')).unwrap();
    let mut again = Ledger::open(folder.path(), &shared("f32")).unwrap();
    assert_eq!(known(folder.path())[2], ("row002".into(), None));
    assert_eq!(known(folder.path()).iter().filter(|(_, value)| value.is_some()).count(), 4);
    again.record([(cell(2, "a").id, done(2.0 / 3.0))]).unwrap();
    assert_eq!(known(folder.path())[2].1.as_deref(), Some("0.6666666666666666"));
}

#[test]
fn records_behind_a_damaged_header_could_be_anybodys() {
    let folder = tempfile::tempdir().unwrap();
    drop(ledger(folder.path(), 2));
    let path = folder.path().join(Ledger::FILE);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("f32", "f16", 1)).unwrap();
    for error in [Ledger::open(folder.path(), &shared("f32")).unwrap_err(), Ledger::read(folder.path()).unwrap_err()] {
        assert!(error.to_string().contains("ledger.jsonl: header: expected"), "{error}");
    }
    // Without a record there is nothing to be mistaken about.
    std::fs::write(&path, "").unwrap();
    assert!(Ledger::read(folder.path()).unwrap().is_none());
}

#[test]
fn another_configuration_or_format_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    drop(ledger(folder.path(), 1));
    let message = Ledger::open(folder.path(), &shared("bf16")).unwrap_err().to_string();
    assert!(message.contains("ledger.jsonl: dtype: expected bf16, found f32"), "{message}");
    let mut more = shared("f32");
    more.insert("scale".into(), "2".into());
    let message = Ledger::open(folder.path(), &more).unwrap_err().to_string();
    assert!(message.contains("scale: expected 2, found nothing"), "{message}");

    let later = tempfile::tempdir().unwrap();
    let mut line = Vec::new();
    let header = record::Record::Header { format: 9, version: "7.0.0".into(), configuration: shared("f32") };
    record::encode(&header, &mut line).unwrap();
    std::fs::write(later.path().join(Ledger::FILE), line).unwrap();
    let message = Ledger::open(later.path(), &shared("f32")).unwrap_err().to_string();
    assert!(message.contains("format: expected 1, found 9 (actpatch 7.0.0)"), "{message}");
    for foreign in ["my notes\n", "my notes", "{\"a\": 1}\n"] {
        std::fs::write(later.path().join(Ledger::FILE), foreign).unwrap();
        let message = Ledger::open(later.path(), &shared("f32")).unwrap_err().to_string();
        assert!(message.contains("expected a ledger of actpatch"), "{message}");
        assert_eq!(std::fs::read_to_string(later.path().join(Ledger::FILE)).unwrap(), foreign, "it is left alone");
    }
}

#[test]
fn several_writers_see_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || {
                let mut ledger = Ledger::open(path, &shared("f32")).unwrap();
                ledger.want((0..100).map(|number| cell(number, "a"))).unwrap();
                for number in (0..100).filter(|number| number % 4 == writer) {
                    ledger.record([(cell(number, "a").id, done(number as f64))]).unwrap();
                }
            });
        }
    });
    let expected: Vec<_> = (0..100).map(|n| (format!("row{n:03}"), Some(format!("{n}.0")))).collect();
    assert_eq!(known(path), expected);
    let lines = std::fs::read_to_string(path.join(Ledger::FILE)).unwrap().lines().count();
    assert_eq!(lines, 1 + 100 + 100, "one header, and every cell wanted once");
}

#[test]
fn the_last_wish_and_the_last_outcome_count() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = ledger(folder.path(), 1);
    ledger.want([cell(0, "b")]).unwrap();
    assert_eq!(known(folder.path())[0].1, None, "a value of other settings is none of this cell's");
    ledger.record([(cell(0, "b").id, Outcome::Failed("undefined".into()))]).unwrap();
    ledger.record([(cell(0, "b").id, done(4.0))]).unwrap();
    assert_eq!(known(folder.path())[0].1.as_deref(), Some("4.0"));
    ledger.want([cell(0, "a")]).unwrap();
    assert_eq!(known(folder.path())[0].1.as_deref(), Some("0.0"), "what is known need not be computed again");
}

#[test]
fn a_value_is_hidden_when_a_file_it_came_from_changes() {
    let folder = tempfile::tempdir().unwrap();
    let direction = folder.path().join("das.npy");
    std::fs::write(&direction, "one").unwrap();
    let mut ledger = Ledger::open(folder.path(), &shared("f32")).unwrap();
    let inputs = Arc::new([("das.npy".into(), sha256(b"one").into())].into());
    ledger.want([Cell { inputs, ..cell(0, "a") }, cell(1, "a")]).unwrap();
    assert_eq!(ledger.state().fresh(folder.path()).count(), 2);
    std::fs::write(&direction, "two").unwrap();
    assert_eq!(ledger.state().fresh(folder.path()).count(), 1);
    std::fs::remove_file(&direction).unwrap();
    assert_eq!(ledger.state().fresh(folder.path()).count(), 2, "results can be looked at without the directions");
}

#[test]
fn joining_twice_changes_nothing() {
    let (target, a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(ledger(a.path(), 3));
    let mut other = Ledger::open(b.path(), &shared("f32")).unwrap();
    other.want((2..6).map(|number| cell(number, "a"))).unwrap();
    other.record([(cell(2, "a").id, done(2.0 / 3.0)), (cell(4, "a").id, done(4.0))]).unwrap();
    other.record([(cell(5, "a").id, Outcome::Failed("undefined".into()))]).unwrap();
    let sources = [a.path().to_owned(), b.path().to_owned()];
    assert_eq!(join(target.path(), &sources).unwrap(), Joined { cells: 6, outcomes: 5, stale: 0 });
    let all = known(target.path());
    let row = |n: usize| all[n].1.as_deref();
    assert_eq!((row(2), row(3), row(4), row(5)), (Some("0.6666666666666666"), None, Some("4.0"), Some("undefined")));
    let before = std::fs::read(target.path().join(Ledger::FILE)).unwrap();
    assert_eq!(join(target.path(), &sources).unwrap(), Joined::default());
    assert_eq!(std::fs::read(target.path().join(Ledger::FILE)).unwrap(), before);
    // What failed in one shard was computed in another one: the value stays.
    other.record([(cell(5, "a").id, done(5.0))]).unwrap();
    assert_eq!(join(target.path(), &sources).unwrap(), Joined { outcomes: 1, ..Joined::default() });
    assert_eq!(known(target.path())[5].1.as_deref(), Some("5.0"));
}

#[test]
fn ledgers_that_disagree_are_not_joined() {
    let target = tempfile::tempdir().unwrap();
    drop(ledger(target.path(), 2));
    let before = std::fs::read(target.path().join(Ledger::FILE)).unwrap();
    let refused = |number: usize, setting: &str, value: f64, words: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let mut other = Ledger::open(folder.path(), &shared("f32")).unwrap();
        other.want([cell(7, "a"), cell(number, setting)]).unwrap();
        other.record([(cell(7, "a").id, done(7.0)), (cell(number, setting).id, done(value))]).unwrap();
        let message = join(target.path(), &[folder.path().to_owned()]).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "{word:?} is not in {message}");
        }
        assert_eq!(std::fs::read(target.path().join(Ledger::FILE)).unwrap(), before, "all or nothing");
    };
    refused(1, "a", 0.25, &["row001 column (result.csv)", "0.25", "0.3333333333333333"]);
    refused(1, "b", 0.25, &["row001", &cell(1, "a").id.to_string(), &cell(1, "b").id.to_string()]);
    let folder = tempfile::tempdir().unwrap();
    drop(Ledger::open(folder.path(), &shared("bf16")).unwrap());
    let message = join(target.path(), &[folder.path().to_owned()]).unwrap_err().to_string();
    assert!(message.contains("dtype: expected bf16, found f32"), "{message}");
    let empty = tempfile::tempdir().unwrap();
    let message = join(target.path(), &[empty.path().to_owned()]).unwrap_err().to_string();
    assert!(message.contains("ledger.jsonl"), "{message}");
}

#[test]
fn marks_of_processes_go_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut mark = Running::start(folder.path(), Some("1/4".parse().unwrap())).unwrap();
    mark.computing(300);
    mark.computing(8);
    let expected = Process { pid: std::process::id(), shard: Some("1/4".into()), cells: 8 };
    assert_eq!(running(folder.path()).unwrap(), [expected]);
    drop(mark);
    assert_eq!(running(folder.path()).unwrap(), []);
    // What a killed process leaves behind: a file that nobody holds.
    std::fs::write(folder.path().join("running-abc.json"), "{}").unwrap();
    assert_eq!(running(folder.path()).unwrap(), []);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn a_ledger_that_is_a_link_to_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, target) = (folder.path().join(Ledger::FILE), folder.path().join("elsewhere"));
    std::os::unix::fs::symlink(&target, &path).unwrap();
    let message = Ledger::open(folder.path(), &shared("f32")).unwrap_err().to_string();
    assert!(message.contains("ledger.jsonl: expected a file, found a link to ") && message.contains("elsewhere"));
    assert!(!target.exists(), "nothing was made where the link leads");
    // One that leads to a ledger is used: it may have been moved to a larger disk.
    let moved = folder.path().join("moved");
    std::fs::create_dir(&moved).unwrap();
    drop(ledger(&moved, 1));
    std::fs::rename(moved.join(Ledger::FILE), &target).unwrap();
    assert_eq!(Ledger::open(folder.path(), &shared("f32")).unwrap().state().cells().count(), 2);
}

#[test]
fn the_next_process_takes_the_marks_of_killed_ones_away() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("running-abc.json"), "{}").unwrap();
    let mark = Running::start(folder.path(), None).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    drop(mark);
}
