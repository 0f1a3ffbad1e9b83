//! Metrics that are undefined on a dataset: their cells stay empty, all others are computed.

use super::*;
use serde_json::Value;

/// `mild`: the corrupted prompt has the same sentiment, so the answer stays right and no sign flips. `crossed`: two prompts
/// are each other's corrupted one and have the same answers, so that both runs have one mean. `opposed`: one prompt with
/// answers either way, whose logit differences cancel.
const DATASETS: &str = r#"
[mild]
prompts = [
    { clean = "I thought this movie was{ADJ: amazing}, I loved it. \nConclusion: This movie is", corrupted = "I thought this movie was{ADJ: good}, I loved it. \nConclusion: This movie is", correct = " great", incorrect = " terrible", label = "positive" },
    { clean = "I thought this movie was{ADJ: terrible}, I hated it. \nConclusion: This movie is", corrupted = "I thought this movie was{ADJ: bad}, I hated it. \nConclusion: This movie is", correct = " terrible", incorrect = " great", label = "negative" },
]
[crossed]
prompts = [
    { clean = "I thought this movie was{ADJ: amazing}, I loved it. \nConclusion: This movie is", corrupted = "I thought this movie was{ADJ: bad}, I loved it. \nConclusion: This movie is", correct = " great", incorrect = " terrible", label = "positive" },
    { clean = "I thought this movie was{ADJ: bad}, I loved it. \nConclusion: This movie is", corrupted = "I thought this movie was{ADJ: amazing}, I loved it. \nConclusion: This movie is", correct = " great", incorrect = " terrible", label = "negative" },
]
[opposed]
prompts = [
    { clean = "I thought this movie was{ADJ: amazing}, I loved it. \nConclusion: This movie is", corrupted = "I thought this movie was{ADJ: bad}, I loved it. \nConclusion: This movie is", correct = " great", incorrect = " terrible", label = "positive" },
    { clean = "I thought this movie was{ADJ: amazing}, I loved it. \nConclusion: This movie is", corrupted = "I thought this movie was{ADJ: bad}, I loved it. \nConclusion: This movie is", correct = " terrible", incorrect = " great", label = "negative" },
]
"#;

const UNDEFINED: &str = "is undefined: clean and corrupted runs do not differ in it";

/// A data folder with these datasets in it, and a run there.
struct Data(tempfile::TempDir);

impl Data {
    fn new() -> Self {
        let data = fitted();
        std::fs::write(data.path().join("datasets.toml"), DATASETS).unwrap();
        Self(data)
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        run_in(self.0.path(), arguments)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join("demo").join(name)
    }
}

/// The warnings of a run, which is successful.
fn warnings(finished: Finished) -> (Finished, Vec<String>) {
    let finished = finished.success();
    let lines = finished.stderr.lines().filter(|line| line.starts_with("warning: "));
    let warnings = lines.map(str::to_owned).collect();
    (finished, warnings)
}

/// The values of a map.
fn values<'a>(json: &'a Value, file: &str) -> &'a Vec<Value> {
    let maps = json[0]["maps"].as_array().unwrap();
    maps.iter().find(|map| map["file"] == file).unwrap_or_else(|| panic!("no {file}"))["percent"].as_array().unwrap()
}

#[test]
fn maps_without_contrast_are_empty_and_the_others_are_not() {
    let maps = ["activation-patching-maps", "--maps", "z,attn_out"];
    let paths = ["path-patching", "--senders", "z", "--receivers", "resid_post:3"];
    for (command, stem, ends) in [
        (&maps[..], "activation_patching", &["z", "attn_out"][..]),
        (&paths[..], "path_patching", &["z_to_resid_post3_ALL"][..]),
    ] {
        let data = Data::new();
        let of = |sets: &'static str, metrics: &'static str| {
            [command, &["--json", "--eval-sets", sets, "--metrics", metrics]].concat()
        };
        let both = of("mild", "logit_diff,logit_flip");
        let (finished, told) = warnings(data.run(&both));
        assert!(told.len() == 1 && told[0].contains(&format!("mild: logit_flip {UNDEFINED}")), "{told:?}");
        let json = finished.json();
        let alone = Data::new().run(&of("mild", "logit_diff")).success().json();
        for end in ends {
            let [difference, flip] =
                ["logit_diff", "logit_flip"].map(|metric| format!("{stem}_{metric}_mild_plain_{end}"));
            assert_eq!(values(&json, &difference), values(&alone, &difference));
            assert!(values(&json, &difference).iter().all(Value::is_number));
            assert!(values(&json, &flip).iter().all(Value::is_null));
            let table = std::fs::read_to_string(data.file(&format!("{flip}.csv"))).unwrap();
            assert!(table.lines().skip(1).all(|line| line.ends_with(',')), "{table}");
            let array: ndarray::ArrayD<f64> = ndarray_npy::read_npy(data.file(&format!("{flip}.npy"))).unwrap();
            assert!(array.len() == values(&json, &flip).len() && array.iter().all(|value| value.is_nan()));
            for ending in ["svg", "png", "pdf", "html"] {
                assert!(!data.file(&format!("{flip}.{ending}")).exists());
                assert!(data.file(&format!("{difference}.{ending}")).is_file());
            }
        }
        let again = data.run(&both).success();
        assert!(again.stderr.contains("exist already") && again.json()[0]["manifest"].is_null(), "{}", again.stderr);
        let text: Vec<&str> = both.iter().copied().filter(|word| *word != "--json").collect();
        let text = data.run(&text).success().stdout;
        assert!(text.contains("_logit_flip_mild_plain_") && text.contains(": undefined, "), "{text}");
        // Nothing at all is an error, also from what is known by then.
        let nothing = Data::new();
        for _ in 0..2 {
            nothing.run(&of("mild", "logit_flip")).fails(1, &[&format!("mild: logit_flip {UNDEFINED}")]);
        }
        // Where another dataset has a contrast it is none.
        let (finished, told) = warnings(nothing.run(&of("mild,simple_test", "logit_flip")));
        assert!(told.len() == 1 && told[0].contains("mild: logit_flip"), "{told:?}");
        let flips = format!("{stem}_logit_flip_simple_test_plain_{}", ends[0]);
        assert!(values(&finished.json(), &flips).iter().all(Value::is_number));
    }
}

#[test]
fn estimates_without_contrast_are_empty() {
    let data = Data::new();
    let attribution = ["attribution-patching", "--maps", "z", "--exact", "--json", "--eval-sets"];
    data.run(&[&attribution[..], &["crossed"]].concat()).fails(1, &[&format!("crossed: logit_diff {UNDEFINED}")]);
    let (finished, told) = warnings(data.run(&[&attribution[..], &["crossed,simple_test"]].concat()));
    assert!(told.len() == 1 && told[0].contains(&format!("crossed: logit_diff {UNDEFINED}")), "{told:?}");
    let json = finished.json();
    for stem in ["attribution_patching", "activation_patching"] {
        let map = |set: &str| values(&json, &format!("{stem}_logit_diff_{set}_plain_z")).clone();
        assert!(map("crossed").iter().all(Value::is_null) && map("simple_test").iter().all(Value::is_number));
    }
    let again = data.run(&[&attribution[..], &["crossed,simple_test"]].concat()).success().json();
    assert!(again[0]["manifest"].is_null(), "{again}");
}

#[test]
fn tables_without_contrast_have_empty_cells() {
    let data = Data::new();
    let (_, told) = warnings(data.run(&["faithfulness", "--heads", "1.0", "--eval-sets", "crossed"]));
    assert!(told.len() == 1 && told[0].contains("crossed: logit_diff is undefined"), "{told:?}");
    let table = std::fs::read_to_string(data.file("faithfulness_crossed_plain.csv")).unwrap();
    let column = |table: &str, name: &str| {
        let mut reader = csv::Reader::from_reader(table.as_bytes());
        let place = reader.headers().unwrap().iter().position(|head| head == name).unwrap();
        reader.records().map(|row| row.unwrap()[place].to_owned()).collect::<Vec<_>>()
    };
    assert!(column(&table, "logit_diff_percent").iter().all(String::is_empty), "{table}");
    assert!(column(&table, "logit_diff").iter().all(|cell| !cell.is_empty()), "{table}");

    let maps = ["ablation-maps", "--maps", "z", "--eval-sets", "opposed", "--json", "--measures"];
    data.run(&[&maps[..], &["logit_diff"]].concat()).fails(1, &["opposed: logit_diff is undefined"]);
    let (finished, told) = warnings(data.run(&[&maps[..], &["logit_diff,accuracy"]].concat()));
    assert!(told.len() == 1 && told[0].contains("opposed: logit_diff is undefined"), "{told:?}");
    let json = finished.json();
    assert!(values(&json, "ablation_mean_logit_diff_opposed_plain_z").iter().all(Value::is_null));
    assert!(values(&json, "ablation_mean_accuracy_opposed_plain_z").iter().all(Value::is_number));

    let (_, told) = warnings(data.run(&["ablation", "--nodes", "z:1.0", "--eval-sets", "opposed"]));
    assert!(told.iter().any(|told| told.contains("opposed: logit_diff_change_percent is undefined")), "{told:?}");
    let table = std::fs::read_to_string(data.file("ablation_opposed_plain.csv")).unwrap();
    assert!(column(&table, "logit_diff_change_percent")[0].is_empty(), "{table}");
    assert!(column(&table, "logit_diff").iter().all(|cell| !cell.is_empty()), "{table}");

    let suite = ["direction-patching-suite", "--directions", "mean_diff*layer1", "--eval-sets", "mild", "--metrics"];
    data.run(&[&suite[..], &["logit_flip"]].concat()).fails(1, &[&format!("mild: logit_flip {UNDEFINED}")]);
    let (_, told) = warnings(data.run(&[&suite[..], &["logit_flip,logit_diff"]].concat()));
    assert!(told.len() <= 1, "{told:?}");
}
