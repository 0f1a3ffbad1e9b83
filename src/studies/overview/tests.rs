//! Folders of results that are as they should be, and those that are not.

use super::*;
use crate::files::sha256_of_file;
use crate::report::pages::{Grid, Part};
use crate::session::{Session, SessionOptions, Silent};
use crate::studies::{FitDirections, PatchingSuite, Study};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A folder with directions of the demo model, and what the suite has measured along them.
fn measured() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let options = SessionOptions { data_dir: data.path().into(), ..SessionOptions::default() };
    let session = Session::open("demo", options).unwrap();
    let fit = FitDirections {
        methods: vec!["mean_diff".parse().unwrap()],
        layers: vec!["1".into(), "2".into()],
        ..FitDirections::default()
    };
    fit.run(&session, &mut Silent).unwrap();
    let suite = PatchingSuite { eval_sets: vec!["simple_test".into()], ..PatchingSuite::default() };
    suite.run(&session, &mut Silent).unwrap();
    data
}

const DIRECTION: &str = "mean_diff_simple_train_ADJ_layer1.npy";
const TABLE: &str = "direction_patching_logit_diff_resid_plain.csv";

fn page(data: &Path) -> OverviewPage {
    Overview::open(data).unwrap().page(false).unwrap()
}

fn only(mut page: OverviewPage) -> Part {
    assert_eq!(page.parts.len(), 1);
    page.parts.remove(0)
}

/// The kinds of what is wrong, by file.
fn wrong(part: &Part) -> BTreeMap<String, &'static str> {
    part.troubles.iter().map(|trouble| (trouble.what.clone(), trouble.kind)).collect()
}

fn column(grid: &Grid, name: &str) -> Vec<String> {
    let place = grid.columns.iter().position(|column| column == name).unwrap();
    grid.rows.iter().map(|row| row[place].as_text().to_owned()).collect()
}

/// The manifest of a study in the demo model's folder.
fn manifest(data: &Path, study: &str) -> PathBuf {
    let entries = std::fs::read_dir(data.join("demo/manifests")).unwrap();
    let names = entries.map(|entry| entry.unwrap().path());
    names.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with(study)).unwrap()
}

fn changed(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

#[test]
fn everything_is_listed_and_nothing_is_wrong() {
    let data = measured();
    let page = page(data.path());
    assert_eq!((page.sweeps.len(), &*page.sweeps[0].name, page.sweeps[0].done), (1, "demo", 2));
    assert_eq!((page.sweeps[0].missing, page.sweeps[0].stale), (0, 0));
    let part = only(page);
    assert_eq!(wrong(&part), BTreeMap::new());
    assert_eq!(part.name, "demo");
    assert!(part.facts.contains(&("from".into(), "the demo model".into())), "{:?}", part.facts);
    let runs = part.runs.unwrap();
    assert_eq!(column(&runs, "study"), ["direction-patching-suite", "fit-directions"], "the last first");
    assert_eq!(column(&runs, "ended"), ["yes", "yes"]);
    assert_eq!(column(&runs, "datasets")[1], "simple_train (26 pairs)");
    let settings = serde_json::to_value(&runs.rows[1][1]).unwrap()["settings"].to_string();
    assert!(settings.contains(r#"["methods","mean_diff"]"#) && settings.contains(r#"["seed","0"]"#), "{settings}");
    let directions = part.directions.unwrap();
    assert_eq!(column(&directions, "layer"), ["1", "2"]);
    assert_eq!(column(&directions, "fitted on"), ["simple_train ADJ"; 2]);
    let best = part.best.unwrap();
    assert_eq!(
        (column(&best, "method"), column(&best, "patched")),
        (vec!["mean_diff".into()], vec!["simple_test ADJ".into()])
    );
    let table = part.tables.iter().find(|table| table.name.ends_with(TABLE)).unwrap();
    assert_eq!(
        (&table.columns[..], table.rows.len(), table.total),
        (&["direction".into(), "simple_test ADJ".to_owned()][..], 2, Some(2))
    );
    let files = part.files.unwrap();
    let [names, made] = ["file", "written by"].map(|name| column(&files, name));
    let place = names.iter().position(|name| name == &format!("demo/{DIRECTION}")).unwrap();
    assert!(made[place].starts_with("fit-directions, 20"), "{}", made[place]);
    assert!(!names.iter().any(|name| name.contains("manifests")), "{names:?}");
}

#[test]
fn what_is_missing_changed_or_of_another_model_is_marked() {
    let data = measured();
    let demo = data.path().join("demo");
    // A direction that was replaced by hand: its record and the values along it are of the old one.
    std::fs::copy(demo.join("mean_diff_simple_train_ADJ_layer2.npy"), demo.join(DIRECTION)).unwrap();
    std::fs::remove_file(demo.join("direction_patching.csv")).unwrap();
    let results = [("kept", "kept"), ("edited", "another"), ("lost", "lost"), ("theirs", "theirs")];
    std::fs::create_dir_all(demo.join("provenance")).unwrap();
    for (name, text) in results {
        let file = demo.join(format!("{name}.csv"));
        std::fs::write(&file, name).unwrap();
        let hash = sha256_of_file(&file).unwrap();
        let weights: Value = serde_json::from_slice(&std::fs::read(demo.join("model.json")).unwrap()).unwrap();
        let weights = if name == "theirs" { json!("0123") } else { weights["weights"].clone() };
        let settings = json!({ "weights": weights, "dataset": "simple" });
        let record = json!({ "version": "0", "study": "ablation", "settings": settings, "files": { file.file_name().unwrap().to_str().unwrap(): hash } });
        std::fs::write(demo.join(format!("provenance/{name}.json")), record.to_string()).unwrap();
        std::fs::write(&file, text).unwrap();
    }
    std::fs::write(demo.join("edited.svg"), "<svg/>").unwrap();
    // A figure one of whose files is lost.
    std::fs::write(demo.join("lost.svg"), "<svg/>").unwrap();
    std::fs::write(demo.join("lost.pdf"), "%PDF").unwrap();
    std::fs::remove_file(demo.join("lost.csv")).unwrap();
    let page = page(data.path());
    assert_eq!((page.sweeps[0].done, page.sweeps[0].stale), (1, 1));
    let part = only(page);
    let of = |name: &str| format!("demo/{name}");
    let expected = BTreeMap::from([
        (of(DIRECTION), "changed"),
        (of(TABLE), "stale"),
        (of("direction_patching.csv"), "missing"),
        (of("edited.csv"), "changed"),
        (of("lost.csv"), "missing"),
        (of("theirs.csv"), "other model"),
    ]);
    assert_eq!(wrong(&part), expected, "{:?}", part.troubles);
    let why = |name: &str| part.troubles.iter().find(|trouble| trouble.what == of(name)).unwrap().why.clone();
    assert!(
        why("direction_patching.csv").starts_with("written by direction-patching-suite, 20"),
        "{}",
        why("direction_patching.csv")
    );
    assert!(why("lost.csv").contains("provenance/lost.json") && why("theirs.csv").contains("0123"));
    assert_eq!(why(TABLE), "1 values of directions or prompts that have changed since");
    let card = part.cards.iter().find(|card| card.name == "demo/edited").unwrap();
    assert!(card.trouble.as_ref().unwrap().starts_with("changed: "));
    let lost = part.cards.iter().find(|card| card.name == "demo/lost").unwrap();
    assert!(lost.trouble.as_ref().unwrap().starts_with("missing: "), "{lost:?}");
    assert_eq!(lost.files.iter().map(|(ending, _)| &**ending).collect::<Vec<_>>(), ["svg", "pdf"]);
    assert!(card.settings.contains(&("dataset".into(), "simple".into())), "{:?}", card.settings);
    let files = part.files.unwrap();
    assert_eq!(column(&files, "what is wrong").iter().filter(|why| !why.is_empty()).count(), 4, "those that are there");
}

#[test]
fn damaged_records_are_listed_and_no_error() {
    let data = measured();
    let demo = data.path().join("demo");
    std::fs::write(manifest(data.path(), "fit-directions"), "{").unwrap();
    // Hostile manifests name files that are no concern of a folder.
    changed(&manifest(data.path(), "direction-patching-suite"), |json| {
        json["written"] = json!({ "../../etc/passwd": [], "/etc/passwd": [], TABLE: [] });
    });
    std::fs::write(demo.join("manifests/other-1.json"), "[]").unwrap();
    std::fs::write(demo.join("model.json"), "{}").unwrap();
    std::fs::write(demo.join("mean_diff_simple_train_ADJ_layer2.json"), "no record").unwrap();
    std::fs::create_dir_all(demo.join("provenance")).unwrap();
    std::fs::write(demo.join("provenance/x.json"), r#"{"files":{}}"#).unwrap();
    let outside = json!({ "version": "0", "study": "x", "settings": {}, "files": { "../model.json": "0" } });
    std::fs::write(demo.join("provenance/y.json"), outside.to_string()).unwrap();
    std::fs::write(demo.join("ledger.jsonl"), "somebody's notes\n").unwrap();
    std::fs::write(demo.join("direction_patching_logit_flip_resid_plain.csv"), "a\nb\nc,d\n").unwrap();
    std::fs::write(demo.join("ragged.csv"), b"a,b\n1,\xff,3\n\"").unwrap();
    std::fs::write(demo.join("empty.csv"), "").unwrap();
    let page = page(data.path());
    let damaged = page.sweeps[0].damaged.clone().unwrap();
    assert!(damaged.contains("a ledger of actpatch"), "{damaged}");
    let part = only(page);
    let found = wrong(&part);
    let names: Vec<&str> = found.keys().map(|name| name.strip_prefix("demo/").unwrap()).collect();
    let [suite, fit] = ["direction-patching-suite", "fit-directions"].map(|study| manifest(data.path(), study));
    let [suite, fit] = [&suite, &fit].map(|path| path.strip_prefix(&demo).unwrap().to_str().unwrap());
    let expected = [
        "direction_patching_logit_flip_resid_plain.csv",
        "ledger.jsonl",
        suite,
        fit,
        "manifests/other-1.json",
        "mean_diff_simple_train_ADJ_layer2.json",
        "model.json",
        "provenance/x.json",
        "provenance/y.json",
    ];
    assert_eq!(names, expected, "{:?}", part.troubles);
    assert!(found.values().all(|kind| *kind == "damaged"), "{found:?}");
    let [ragged, empty] =
        ["ragged.csv", "empty.csv"].map(|name| part.tables.iter().find(|table| table.name.ends_with(name)).unwrap());
    assert_eq!((ragged.columns.len(), ragged.rows[0][1].as_text()), (3, "\u{fffd}"));
    assert_eq!((&*empty.note, empty.rows.len()), ("an empty file", 0));
    assert_eq!(column(&part.runs.unwrap(), "study"), ["direction-patching-suite"]);
    assert!(write_overview(data.path()).unwrap().troubles.len() == expected.len());
}

#[cfg(unix)]
#[test]
fn hostile_names_stay_names_and_links_that_lead_out_are_not_followed() {
    use std::os::unix::ffi::OsStrExt;
    let outside = tempfile::tempdir().unwrap();
    let data = outside.path().join("data");
    let demo = data.join("demo");
    std::fs::create_dir_all(&demo).unwrap();
    std::fs::write(demo.join("model.json"), "{}").unwrap();
    std::fs::write(outside.path().join("secret.svg"), "<svg/>").unwrap();
    for name in
        ["javascript:alert(1).svg", "</script><script>.html", "\"onerror=\"x.svg", "a\u{202e}b.csv", "q?#%2e.csv"]
    {
        let path = demo.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "a\n").unwrap();
    }
    std::fs::write(demo.join(std::ffi::OsStr::from_bytes(b"\xff.svg")), "<svg/>").unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret.svg"), demo.join("secret.svg")).unwrap();
    std::os::unix::fs::symlink(outside.path(), demo.join("up")).unwrap();
    std::os::unix::fs::symlink(demo.join("model.json"), demo.join("same.json")).unwrap();
    let part = only(page(&data));
    let hrefs: Vec<&str> = part.cards.iter().map(|card| &*card.href).collect();
    let expected =
        ["demo/%22onerror%3D%22x.svg", "demo/%3C/script%3E%3Cscript%3E.html", "demo/javascript%3Aalert%281%29.svg"];
    assert_eq!(hrefs, expected);
    let files = part.files.as_ref().unwrap();
    let json = serde_json::to_value(files).unwrap();
    let hrefs: Vec<&str> =
        json["rows"].as_array().unwrap().iter().map(|row| row[0]["href"].as_str().unwrap()).collect();
    assert!(hrefs.contains(&"demo/q%3F%23%252e.csv") && hrefs.contains(&"demo/same.json"), "{hrefs:?}");
    assert!(
        hrefs.iter().all(|href| href.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%/._-~".contains(&byte)))
    );
    assert_eq!(hrefs.len(), 7, "{hrefs:?}");
    let left_out: Vec<&str> = part.troubles.iter().filter(|one| one.kind == "left out").map(|one| &*one.what).collect();
    assert_eq!(left_out.len(), 3, "{left_out:?}");
    assert!(left_out.contains(&"demo/secret.svg") && left_out.contains(&"demo/up"), "{left_out:?}");
    let written = write_overview(&data).unwrap();
    let html = std::fs::read_to_string(written.page).unwrap();
    assert_eq!(html.matches("<script").count(), 2);
}

#[test]
fn large_tables_are_bounded_and_small_ones_come_first() {
    let data = tempfile::tempdir().unwrap();
    let demo = data.path().join("demo");
    std::fs::create_dir_all(demo.join("manifests")).unwrap();
    let rows = |count: usize, cell: &str| "head\n".to_owned() + &format!("{cell}\n").repeat(count);
    std::fs::write(demo.join("long.csv"), rows(1234, "1")).unwrap();
    std::fs::write(
        demo.join("wide.csv"),
        (0..100).map(|column| column.to_string()).collect::<Vec<_>>().join(",") + "\n",
    )
    .unwrap();
    // More than a page has room for: each takes the most that one may.
    let text = vec!["x".repeat(400); 60].join(",");
    for number in 0..3 {
        std::fs::write(demo.join(format!("full{number}.csv")), rows(600, &text)).unwrap();
    }
    let part = only(page(data.path()));
    let tables: BTreeMap<&str, &Grid> = part.tables.iter().map(|table| (&table.name[5..], table)).collect();
    assert_eq!((tables["long.csv"].rows.len(), tables["long.csv"].total), (500, Some(1234)));
    assert_eq!((tables["wide.csv"].columns.len(), &*tables["wide.csv"].note), (60, "40 more columns are in the file"));
    let shown: usize = (0..3).map(|number| tables[&*format!("full{number}.csv")].rows.len()).sum();
    assert!(shown > 100 && shown < 300, "{shown}");
    assert!(tables.values().all(|table| table.href.is_some()));
    write_overview(data.path()).unwrap();
}

#[test]
fn a_page_of_somebody_else_is_not_replaced_and_ours_is() {
    let data = tempfile::tempdir().unwrap();
    let refused = |words: &str| {
        let message = write_overview(data.path()).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    };
    refused("no results");
    std::fs::create_dir_all(data.path().join("demo/manifests")).unwrap();
    let index = data.path().join("index.html");
    std::fs::write(&index, "<p>my own</p>").unwrap();
    refused("somebody's own");
    assert_eq!(std::fs::read_to_string(&index).unwrap(), "<p>my own</p>");
    std::fs::remove_file(&index).unwrap();
    for _ in 0..2 {
        assert_eq!(write_overview(data.path()).unwrap().models, ["demo"]);
    }
    assert!(Overview::open(&data.path().join("nowhere")).unwrap_err().to_string().contains("data_dir: "));
    assert!(Overview::open(&index).unwrap_err().to_string().contains("expected a folder"));
}

#[test]
fn progress_follows_ledgers_and_results() {
    use crate::sweep::{Cell, CellId, Ledger, Outcome, Parts, Place, Running};
    use std::sync::Arc;
    let data = tempfile::tempdir().unwrap();
    let shard = data.path().join("demo/shards/1-of-2");
    let cell = |number: usize| Cell {
        id: CellId::of("test", &Default::default(), &[("number".to_owned(), number.to_string())].into()),
        place: Place { file: "x.csv".into(), at: vec![number.to_string().into()] },
        inputs: Arc::default(),
        texts: Arc::default(),
        settings: Arc::default(),
        shard: Some(number % 2),
    };
    let mut ledger = Ledger::open(&shard, &Default::default()).unwrap();
    ledger.want((0..8).map(cell)).unwrap();
    let overview = Overview::open(data.path()).unwrap();
    let bar = || overview.progress().unwrap().sweeps.remove(0);
    assert_eq!((&*bar().name, bar().done, bar().missing, bar().left), ("demo/shards/1-of-2", 0, 4, None));
    ledger
        .record([
            (cell(1).id, Outcome::Done { value: 1.0.into(), parts: Parts::default(), seconds: 40.0 }),
            (cell(3).id, Outcome::Failed("NaN".into())),
        ])
        .unwrap();
    let mut mark = Running::start(&shard, None).unwrap();
    mark.computing(2);
    let found = bar();
    assert_eq!((found.done, found.failed, found.missing, found.processes, found.computing), (1, 1, 2, 1, 2));
    assert_eq!((found.left.as_deref(), &*found.failures[0].1), (Some("1 min"), "NaN"));
    let stamp = overview.progress().unwrap().stamp;
    ledger.record([(cell(5).id, Outcome::Done { value: 1.0.into(), parts: Parts::default(), seconds: 1.0 })]).unwrap();
    assert_eq!(overview.progress().unwrap().stamp, stamp, "a ledger is no result");
    std::fs::write(data.path().join("demo/x.csv"), "a\n").unwrap();
    assert_ne!(overview.progress().unwrap().stamp, stamp);
}
