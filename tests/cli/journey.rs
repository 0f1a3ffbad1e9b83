//! What a first user does with the demo model, and what must be found on disk behind every step.

use super::*;
use actpatch::report::{ProjectedPrompt, Projections};
use std::process::Stdio;

#[test]
fn fitting_writes_arrays_records_and_statistics() {
    let data = fitted();
    let folder = data.path().join("demo");
    for (stem, shape) in [("das", "(128,)"), ("das2d", "(128, 2)"), ("mean_diff", "(128,)"), ("pca", "(128,)")] {
        for layer in 0..4 {
            let name = format!("{stem}_simple_train_ADJ_layer{layer}");
            let array = std::fs::read(folder.join(format!("{name}.npy"))).unwrap();
            assert!(String::from_utf8_lossy(&array[..128]).contains(shape), "{name}");
            let record: serde_json::Value =
                serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap();
            assert_eq!(record["name"], *name);
            assert_eq!((&record["model"], &record["dataset"]), (&"demo".into(), &"simple_train".into()));
            assert_eq!((&record["position"], &record["layer"]), (&"ADJ".into(), &layer.into()));
            assert_eq!(record["weight_processing"].as_array().unwrap().len(), 4);
            assert_eq!((&record["seed"], &record["version"]), (&0.into(), &env!("CARGO_PKG_VERSION").into()));
            assert!(record["final_metric"].is_f64(), "{record}");
            let epochs = if stem.starts_with("das") { 64 } else { 0 };
            assert_eq!(record["loss_curve"].as_array().unwrap().len(), epochs, "{name}");
        }
    }
    // Behind the last block a patch at ADJ reaches no logit: no noise may be saved as a result.
    assert!(!folder.join("das_simple_train_ADJ_layer4.npy").exists());
    assert!(folder.join("mean_diff_simple_train_ADJ_layer4.npy").exists());
    assert!(folder.join("random_direction_layer04.npy").exists());
    let stats = std::fs::read_to_string(folder.join("direction_fitting_stats.csv")).unwrap();
    assert!(stats.starts_with("train_set,train_layer,train_pos,test_set,test_layer,test_pos,method,correct,total,"));
    assert_eq!(stats.lines().count(), 1 + 2 * 5, "mean_diff and pca at five layers:\n{stats}");
}

#[test]
fn principal_components_come_with_the_prompts_in_their_plane() {
    let data = tempfile::tempdir().unwrap();
    let fit = ["fit-directions", "--methods", "pca,svd,mean_diff", "--layers", "2", "--test-sets", "simple_adverb"];
    run_in(data.path(), &fit).success();
    let folder = data.path().join("demo");
    let read = |method: &str| Projections::read(&folder, &format!("{method}_simple_train_ADJ_layer2").parse().unwrap());
    for method in ["pca", "svd"] {
        let prompts = read(method).unwrap().unwrap().prompts;
        let of = |set: &str, positive: bool| -> Vec<&ProjectedPrompt> {
            prompts.iter().filter(|prompt| prompt.set == set && prompt.positive == positive).collect()
        };
        assert!(!of("simple_adverb", true).is_empty() && of("simple_adverb", true)[0].position == "ADV");
        let (positive, negative) = (of("simple_train", true), of("simple_train", false));
        assert!(positive.len() == negative.len() && positive.len() > 5, "{method}");
        let words = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/data/words.toml")).unwrap();
        assert!(positive.iter().all(|prompt| prompt.position == "ADJ" && words.contains(prompt.word.trim())));
        let mean = |prompts: &[&ProjectedPrompt]| {
            prompts.iter().map(|prompt| prompt.component_1).sum::<f64>() / prompts.len() as f64
        };
        assert!(mean(&positive) > mean(&negative), "{method}: the first component points to positive");
    }
    assert_eq!(read("mean_diff").unwrap(), None);
}

/// Behind the last block DAS finds nothing in front of the last token: that is known without a pass.
#[test]
fn what_no_training_finds_is_not_looked_for_again() {
    let data = tempfile::tempdir().unwrap();
    let fit = ["fit-directions", "--methods", "das", "--epochs", "1", "--positions", "ADJ,END", "--layers", "3.."];
    let first = run_in(data.path(), &fit).success();
    let why = "reaches the logits only at the last position";
    assert!(first.stdout.contains(why) && manifests(data.path()).len() == 1, "{}", first.stdout);
    assert!(!data.path().join("demo/das_simple_train_ADJ_layer4.npy").exists());
    assert!(data.path().join("demo/das_simple_train_END_layer4.npy").is_file());
    let again = run_in(data.path(), &fit).success();
    assert_eq!((again.stdout.contains(why), manifests(data.path()).len()), (true, 1), "{}", again.stdout);
    assert!(again.stderr.contains("3 directions exist already"), "{}", again.stderr);
    let dry = run_in(data.path(), &[&fit[..], &["--dry-run"]].concat()).success().stdout;
    assert_eq!(dry, "demo: everything is there, nothing is to be computed\n");
}

#[test]
fn what_exists_is_kept_unless_told_otherwise() {
    let data = fitted();
    let before = files(data.path());
    let arguments = ["fit-directions", "--methods", "mean_diff,random", "--layers", "1..2"];
    let again = run_in(data.path(), &arguments).success();
    assert!(again.stderr.contains("4 directions exist already") && again.stderr.contains("--overwrite"));
    assert!(before == files(data.path()) && manifests(data.path()).len() == 1, "nothing done, no manifest");
    let array = data.path().join("demo/mean_diff_simple_train_ADJ_layer1.npy");
    std::fs::write(&array, "spoiled").unwrap();
    run_in(data.path(), &arguments).fails(1, &["ADJ_layer1.npy has changed since it was written", "--overwrite"]);
    assert_eq!(std::fs::read(&array).unwrap(), b"spoiled");
    let replaced = run_in(data.path(), &[&arguments[..], &["--overwrite"]].concat()).success();
    assert_eq!(replaced.stderr, "");
    assert!(before == files(data.path()), "the same fit gives the same bytes");

    let suite = ["direction-patching-suite", "--directions", "mean_diff*layer2"];
    run_in(data.path(), &suite).success();
    let path = result_file(data.path(), "logit_diff", "");
    let right = std::fs::read_to_string(&path).unwrap();
    let kept = run_in(data.path(), &suite).success();
    assert!(kept.stderr.contains("1 cells exist already"), "{}", kept.stderr);
    // Result files are made of the ledger: what is written into them by hand does not last.
    std::fs::write(&path, "prompt,simple_test\nposition,ADJ\nmean_diff_simple_train_ADJ_layer02,12.5\n").unwrap();
    run_in(data.path(), &suite).success();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), right);
    run_in(data.path(), &[&suite[..], &["--overwrite"]].concat()).success();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), right);

    // A direction that is fitted again loses its cells: a result never outlives what it was measured with.
    run_in(data.path(), &[&arguments[..], &["--overwrite"]].concat()).success();
    assert!(!std::fs::read_to_string(&path).unwrap().contains("mean_diff"));
    // The fit came to the same direction: its value is known.
    let known = run_in(data.path(), &suite).success();
    assert!(known.stderr.contains("1 cells exist already"), "{}", known.stderr);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), right);
}

#[test]
fn random_directions_are_unit_and_follow_their_seed() {
    let data = tempfile::tempdir().unwrap();
    let first = run_in(data.path(), &["random-directions", "--json"]).success().json();
    assert_eq!(first[0]["written"].as_array().unwrap().len(), 5);
    let path = data.path().join("demo/random_direction_layer02.npy");
    let bytes = std::fs::read(&path).unwrap();
    let values = bytes[bytes.len() - 128 * 4..].as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)));
    // 128 values rounded to f32.
    assert!((values.map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-6);
    let other = run_in(data.path(), &["random-directions", "--direction-seed", "7"]);
    other.fails(1, &["random_direction_layer00.json", "seed: expected 7, found 42", "--overwrite"]);
    let kept = run_in(data.path(), &["random-directions"]).success();
    assert!(kept.stderr.contains("5 random directions exist already"), "{}", kept.stderr);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    run_in(data.path(), &["random-directions", "--direction-seed", "7", "--overwrite"]).success();
    assert_ne!(std::fs::read(&path).unwrap(), bytes);
    run_in(data.path(), &["random-directions", "--seed", "9"]).fails(1, &["seed: expected 9, found 7", "--overwrite"]);
    run_in(data.path(), &["random-directions", "--overwrite"]).success();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn the_suite_fills_one_file_per_metric_under_two_header_rows() {
    let data = fitted();
    let metrics = ["logit_diff", "logit_diff_noising", "logit_flip", "prob_diff"];
    let arguments = ["direction-patching-suite", "--directions", "das_*,random*", "--positions", "ADJ,ALL", "--json"];
    let json = run_in(data.path(), &[&arguments[..], &["--metrics", &metrics.join(",")]].concat()).success().json();
    assert_eq!(json[0]["cells"].as_array().unwrap().len(), 4 * 9 * 2);
    for metric in metrics {
        let text = std::fs::read_to_string(result_file(data.path(), metric, "")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["prompt,simple_test,simple_test", "position,ADJ,ALL"]);
        assert!(lines[2].starts_with("das_simple_train_ADJ_layer00,") && lines.len() == 2 + 9, "{text}");
    }
    let at =
        |metric: &str, direction: &str| value(&result_file(data.path(), metric, ""), direction, "simple_test", "ADJ");
    let best = (0..4)
        .map(|layer| at("logit_diff", &format!("das_simple_train_ADJ_layer{layer:02}")))
        .fold(f64::NEG_INFINITY, f64::max);
    assert!(best >= 90.0, "DAS recovers {best} % at its best layer");
    for layer in 0..=4 {
        let random = at("logit_diff", &format!("random_direction_layer{layer:02}"));
        assert!(random.abs() <= 5.0, "random recovers {random} % at layer {layer}");
    }
    assert_eq!(at("logit_flip", "das_simple_train_ADJ_layer02"), 100.0);
    // The layer where denoising restores the answer is one where noising destroys it.
    assert!(at("logit_diff_noising", "das_simple_train_ADJ_layer02") < -80.0);
    assert!(at("prob_diff", "das_simple_train_ADJ_layer02") > 80.0);
    // Behind the last block ADJ reaches no logit; 1e-9: the baselines are means of centred values.
    assert!(at("logit_diff", "random_direction_layer04").abs() < 1e-9);

    let results = run_in(data.path(), &["direction-patching-results"]).success();
    for metric in metrics {
        assert!(results.stdout.contains(&format!("direction_patching_{metric}_resid_plain.csv")));
    }
    let json = run_in(data.path(), &["direction-patching-results", "--json"]).success().json();
    let path = result_file(data.path(), "logit_diff", "").display().to_string();
    let das = json["best_layers"][&path].as_array().unwrap().iter().find(|row| row["method"] == "das").unwrap();
    assert_eq!(das["percent"].as_f64().unwrap(), best);
}

#[test]
fn all_layers_and_projections_go_to_files_of_their_own() {
    let data = fitted();
    let methods = ["--methods", "mean_diff,das2d", "--layers", "2"];
    run_in(data.path(), &[&["fit-directions", "--train-sets", "simple_test"], &methods[..]].concat()).success();
    let suite = |extra: &[&str]| {
        let directions = ["direction-patching-suite", "--directions", "mean_diff_*_layer2,das2d_*_layer2"];
        run_in(data.path(), &[&directions, extra].concat()).success();
    };
    suite(&[]);
    suite(&["--projection", "ortho"]);
    suite(&["--projection", "para"]);
    suite(&["--layers", "all"]);
    let at =
        |ending, direction| value(&result_file(data.path(), "logit_diff", ending), direction, "simple_test", "ADJ");
    for own in ["mean_diff_simple_test_ADJ_layer02", "das2d_simple_test_ADJ_layer02"] {
        // In sample nothing is left behind the direction itself; 1e-9: the corrupted run is its own baseline.
        assert!(at("_ortho", own).abs() < 1e-9, "{own}: {}", at("_ortho", own));
        // 1e-3 of a percent: f32 columns, projected and scaled again.
        assert!((at("_para", own) - at("", own)).abs() < 1e-3, "{own}: {} {}", at("_para", own), at("", own));
    }
    // One column has only one parallel direction, so the part parallel to another fit is that fit (or its opposite).
    let (para, own) = (at("_para", "mean_diff_simple_train_ADJ_layer02"), at("", "mean_diff_simple_test_ADJ_layer02"));
    assert!((para - own).abs() < 1e-3, "{para} {own}");
    assert!(at("_ortho", "mean_diff_simple_train_ADJ_layer02").abs() > 1e-6);
    assert!(at("_all_layers", "mean_diff_simple_train_ADJ_layer02") > 50.0);
}

#[test]
fn test_sets_are_watched_during_training() {
    let (plain, tested) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let fit =
        ["fit-directions", "--methods", "das2d,mean_diff", "--layers", "1", "--positions", "ADJ,VRB", "--epochs", "6"];
    run_in(plain.path(), &fit).success();
    let tests = ["--test-sets", "simple_train,simple_product", "--json"];
    let json = run_in(tested.path(), &[&fit[..], &tests[..]].concat()).success().json();
    for position in ["ADJ", "VRB"] {
        let read = |ending: &str| {
            let name = format!("demo/das2d_simple_train_{position}_layer1.{ending}");
            [&plain, &tested].map(|data| std::fs::read(data.path().join(&name)).unwrap())
        };
        let [without, with] = read("npy");
        assert!(without == with, "a test set changes the training");
        let [without, with] = read("json").map(|text| serde_json::from_slice::<serde_json::Value>(&text).unwrap());
        assert!(without.get("test_loss_curves").is_none());
        let curve = |set: &str| -> Vec<f64> { serde_json::from_value(with["test_loss_curves"][set].clone()).unwrap() };
        let losses: Vec<f64> = serde_json::from_value(with["loss_curve"].clone()).unwrap();
        // One batch: the next epoch begins with the loss that the test of this one ends with, where both are at the
        // fit's own position. 1e-4: other batches of f32 products, losses of size 1.
        let same = losses[1..].iter().zip(curve("simple_train")).all(|(next, test)| (next - test).abs() < 1e-4);
        assert!(same && curve("simple_train").len() == 6, "{with}");
        assert_eq!(curve("simple_product").len(), 6);
        let outcomes = json[0]["directions"].as_array().unwrap();
        let name = format!("das2d_simple_train_{position}_layer1");
        let outcome = outcomes.iter().find(|outcome| outcome["name"] == *name).unwrap();
        assert_eq!(outcome["test_metrics"]["simple_product"], curve("simple_product")[5]);
        let stats = std::fs::read_to_string(tested.path().join("demo/direction_fitting_stats.csv")).unwrap();
        assert!(stats.contains(&format!("simple_train,1,{position},simple_train,1,{position},mean_diff,")));
        // simple_product has no VRB.
        assert!(stats.contains(&format!("simple_train,1,{position},simple_product,1,ADJ,mean_diff,")), "{stats}");
        assert!(!stats.contains("das"), "{stats}");
    }
}

/// Rows of `direction_fitting_stats.csv` as (method, test set), in order.
fn tested(data: &Path) -> Vec<(String, String)> {
    let stats = actpatch::report::FittingStats::read(&data.join("demo")).unwrap();
    stats.rows().iter().map(|row| (row.method.clone(), row.test_set.clone())).collect()
}

#[test]
fn directions_that_are_kept_can_be_tested_later() {
    let data = tempfile::tempdir().unwrap();
    let fit = ["fit-directions", "--methods", "mean_diff,kmeans", "--layers", "1"];
    let with = |extra: &[&str]| run_in(data.path(), &[&fit[..], extra].concat());
    with(&[]).success();
    let suite = run_in(data.path(), &["direction-patching-suite"]).success();
    let before = files(data.path());
    let report = with(&["--test-sets", "simple_test", "--json"]).success().json();
    assert_eq!(report[0]["directions"][0]["test_metrics"]["simple_test"], 1.0);
    assert!(report[0]["directions"][0]["path"].is_null(), "nothing is written again");
    let row = |method: &str, set: &str| (method.to_owned(), set.to_owned());
    let all = ["simple_train", "simple_test"].map(|set| [row("mean_diff", set), row("kmeans", set)]).concat();
    let sorted = |mut rows: Vec<(String, String)>| {
        rows.sort();
        rows
    };
    assert_eq!(sorted(tested(data.path())), sorted(all));
    let same = |(path, bytes): (&PathBuf, &Vec<u8>)| {
        path.ends_with("direction_fitting_stats.csv") || { files(data.path())[path] == *bytes }
    };
    assert!(before.iter().all(same), "results stay: {}", suite.stdout);
    // A direction that this fit does not give is neither tested nor replaced.
    let path = data.path().join("demo/mean_diff_simple_train_ADJ_layer1.npy");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 256;
    bytes[at..].fill(0x3f);
    std::fs::write(&path, &bytes).unwrap();
    with(&["--test-sets", "simple_product"]).fails(1, &["ADJ_layer1.npy has changed since it was written"]);
    assert!(!tested(data.path()).contains(&row("mean_diff", "simple_product")));
    // Fitted again, it loses the tests of the old one.
    with(&["--overwrite", "--test-sets", "simple_adverb"]).success();
    let left = tested(data.path());
    assert!(!left.iter().any(|(_, set)| set == "simple_test" || set == "simple_product"), "{left:?}");
    assert_eq!(left.len(), 4);
}

#[test]
fn early_stopping_is_off_unless_asked_for_and_recorded() {
    let data = tempfile::tempdir().unwrap();
    let fit =
        ["fit-directions", "--methods", "das", "--layers", "1", "--learning-rate", "0.3", "--overwrite", "--json"];
    let record = |extra: &[&str]| {
        run_in(data.path(), &[&fit[..], extra].concat()).success();
        let text = std::fs::read(data.path().join("demo/das_simple_train_ADJ_layer1.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()
    };
    let whole = record(&[]);
    assert!(whole["settings"].get("early_stop").is_none());
    assert_eq!(whole["loss_curve"].as_array().unwrap().len(), 64);
    for (extra, watched) in [(&[][..], "training loss"), (&["--test-sets", "simple_test"], "mean test loss")] {
        let stopped = record(&[&["--early-stop", "4"], extra].concat());
        let setting = &stopped["settings"]["early_stop"];
        assert_eq!((&setting["patience"], &setting["watched"]), (&4.into(), &watched.into()));
        let losses: Vec<f64> = serde_json::from_value(stopped["loss_curve"].clone()).unwrap();
        assert!(losses.len() < 64 && losses.len() as u64 >= setting["kept_epoch"].as_u64().unwrap() + 4, "{stopped}");
        if extra.is_empty() {
            let smallest = losses.iter().copied().fold(f64::INFINITY, f64::min);
            assert_eq!(stopped["final_metric"], smallest);
        }
    }
    run_in(data.path(), &["fit-directions", "--early-stop", "0"]).fails(2, &["--early-stop"]);
}

/// Prompts whose corrupted counterpart has the same sentiment: the answer stays right, it only gets weaker or stronger.
const SAME_SENTIMENT: &str = r#"
[mild]
prompts = [
    { clean = "I thought this movie was{ADJ: amazing}, I loved it. \nConclusion: This movie is", corrupted = "I thought this movie was{ADJ: good}, I loved it. \nConclusion: This movie is", correct = " great", incorrect = " terrible", label = "positive" },
    { clean = "I thought this movie was{ADJ: terrible}, I hated it. \nConclusion: This movie is", corrupted = "I thought this movie was{ADJ: bad}, I hated it. \nConclusion: This movie is", correct = " terrible", incorrect = " great", label = "negative" },
]
"#;

#[test]
fn an_undefined_metric_leaves_the_others_in_peace() {
    let data = fitted();
    let file = data.path().join("mild.toml");
    std::fs::write(&file, SAME_SENTIMENT).unwrap();
    let suite = ["direction-patching-suite", "--directions", "mean_diff*layer1", "--eval-sets", "mild,simple_test"];
    let metrics = ["--metrics", "logit_diff,logit_flip,sign_flip", "--dataset-file", file.to_str().unwrap(), "--json"];
    let finished = run_in(data.path(), &[&suite[..], &metrics[..]].concat()).success();
    let warnings: Vec<&str> = finished.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(warnings.len(), 1, "{}", finished.stderr);
    assert!(warnings[0].contains("mild: logit_flip is undefined"), "{}", warnings[0]);
    let json = finished.json();
    let cells = json[0]["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 6);
    for cell in cells {
        let undefined = cell["prompt"] == "mild" && cell["metric"] == "logit_flip";
        assert_eq!(cell["percent"].is_null(), undefined, "{cell}");
    }
    let direction = "mean_diff_simple_train_ADJ_layer01";
    let flips = |set| value(&result_file(data.path(), "sign_flip", ""), direction, set, "ADJ");
    assert_eq!((flips("mild"), flips("simple_test")), (0.0, 100.0));
    assert!(value(&result_file(data.path(), "logit_diff", ""), direction, "mild", "ADJ").is_finite());
}

#[test]
fn a_dry_run_writes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let nothing = data.path().join("nothing");
    for command in ["fit-directions", "random-directions", "demo"] {
        let plan = run_in(&nothing, &[command, "--dry-run"]).success();
        assert!(!plan.stdout.is_empty() && !nothing.exists(), "{command}");
    }
    let plan = run_in(&nothing, &["fit-directions", "--models", "random:pythia-1.4b", "--dry-run"]).success();
    assert!(plan.stdout.contains("TFLOP") && plan.stdout.contains("GB"), "{}", plan.stdout);
    let data = fitted();
    let before = all_files(data.path());
    let plan = run_in(data.path(), &["direction-patching-suite", "--positions", "ALL", "--dry-run"]).success();
    assert!(plan.stdout.contains("das_simple_train_ADJ_layer02") && plan.stdout.contains("FLOP"));
    assert!(before == all_files(data.path()));
}

#[test]
fn entries_named_twice_are_done_once() {
    let data = tempfile::tempdir().unwrap();
    let twice = ["--models", "demo,demo", "--train-sets", "simple_train,simple_train", "--positions", "ADJ,auto,ADJ"];
    let fit = ["fit-directions", "--methods", "mean_diff,mean_diff", "--layers", "1,1,0..1", "--json"];
    let json = run_in(data.path(), &[&fit[..], &twice[..]].concat()).success().json();
    assert_eq!(json.as_array().unwrap().len(), 1);
    assert_eq!(json[0]["directions"].as_array().unwrap().len(), 2);
    let suite = ["direction-patching-suite", "--directions", "mean*,*", "--metrics", "logit_diff,logit_diff", "--json"];
    let twice = ["--models", "demo,demo", "--eval-sets", "simple_test,simple_test", "--positions", "auto,ADJ"];
    let json = run_in(data.path(), &[&suite[..], &twice[..]].concat()).success().json();
    assert_eq!((json.as_array().unwrap().len(), json[0]["cells"].as_array().unwrap().len()), (1, 2));
}

#[test]
fn the_self_check_passes_on_trained_and_random_weights() {
    for arguments in [&["--models", "demo"][..], &["--models", "random:pythia-14m", "--layers", "0,3,5..6"]] {
        let json = finish(&mut actpatch(&[&["self-check", "--json"], arguments].concat())).success().json();
        let checks = json.as_array().unwrap();
        let layers = if arguments.len() == 2 { 5 } else { 4 };
        assert_eq!(checks.len(), 5 * layers);
        assert!(checks.iter().all(|check| check["passed"] == true && check["check"]["deviation"].is_f64()));
        for name in ["clean into clean", "all clean", "resumed rows", "last positions", "a random direction"] {
            let found = checks.iter().filter(|check| check["check"]["name"].as_str().unwrap().contains(name)).count();
            assert_eq!(found, layers, "{name}");
        }
        // What a random direction does is shown and no fault, in however few dimensions.
        let shown = checks.iter().filter(|check| check["check"]["tolerance"].is_null());
        assert!(shown.clone().all(|check| check["check"]["name"].as_str().unwrap().contains("a random direction")));
        assert_eq!(shown.count(), layers);
    }
}

#[test]
fn recorded_references_are_compared_with_and_refused_for_another_model() {
    let data = tempfile::tempdir().unwrap();
    let check = |more: &[&str]| {
        run_in(data.path(), &[&["self-check", "--models", "random:pythia-14m", "--json"], more].concat())
    };
    let folder = data.path().join("references");
    let folder = folder.to_str().unwrap();
    check(&["--layers", "0,3,6", "--record", folder]).success();
    let json = check(&["--layers", "3,6", "--against", folder]).success().json();
    let checks = json.as_array().unwrap();
    let compared = checks.iter().filter(|check| check["check"]["name"].as_str().unwrap().contains("the processor"));
    assert_eq!(compared.map(|check| check["layer"].as_u64()).collect::<Vec<_>>(), [Some(3); 5]);
    assert!(checks.iter().all(|check| check["passed"] == true));

    let refused = |more: &[&str], words: &[&str]| {
        let finished = check(&[more, &["--against", folder]].concat());
        assert_eq!(finished.code, 1, "{}", finished.stderr);
        assert!(words.iter().all(|word| finished.stderr.contains(word)), "{}", finished.stderr);
    };
    let file = "references/random-pythia-14m.safetensors";
    refused(&["--layers", "2"], &["--against", file, "layer 2 was not recorded"]);
    refused(&["--layers", "3", "--seed", "9"], &[file, "seed: expected 9, found 0"]);
    refused(&["--layers", "3", "--eval-set", "simple_train"], &[file, "prompts: expected"]);
    assert_eq!(check(&["--record", folder, "--against", folder]).code, 2);
    // Another model's file under this model's name.
    let references = data.path().join("references");
    std::fs::rename(data.path().join(file), references.join("demo.safetensors")).unwrap();
    let other = ["self-check", "--models", "demo", "--layers", "3", "--against", folder];
    let finished = run_in(data.path(), &other);
    assert_eq!(finished.code, 1, "{}", finished.stderr);
    assert!(finished.stderr.contains("demo.safetensors: made of something else"), "{}", finished.stderr);
}

#[test]
fn the_demo_prints_every_method_on_both_datasets() {
    let data = tempfile::tempdir().unwrap();
    let finished = run_in(data.path(), &["demo", "--json"]).success();
    let json = finished.json();
    let commands: Vec<_> = json["manifests"].as_array().unwrap().iter().map(|manifest| &manifest["command"]).collect();
    assert_eq!(commands, ["fit-directions", "direction-patching-suite"]);
    let rows = json["best_layers"]["logit_diff"].as_array().unwrap();
    for method in
        ["kmeans", "mean_diff", "pca", "svd", "logistic_regression", "random_direction", "das", "das2d", "das3d"]
    {
        for patched in ["simple_test ADJ", "simple_product ADJ"] {
            assert!(rows.iter().any(|row| row["method"] == method && row["patched"] == patched), "{method} {patched}");
        }
    }
}

#[test]
fn help_has_examples_and_exit_codes() {
    let commands = [
        "demo",
        "fit-directions",
        "random-directions",
        "direction-patching-suite",
        "direction-patching-results",
        "status",
        "merge",
        "self-check",
    ];
    let general = finish(&mut actpatch(&["--help"])).success();
    assert!(general.stdout.contains("Examples:") && general.stdout.contains("Exit codes: 0 success, 1 failure, 2"));
    for command in commands {
        assert!(general.stdout.contains(command));
        let help = finish(&mut actpatch(&[command, "--help"])).success();
        assert!(help.stdout.contains("Example") && help.stdout.contains(&format!("actpatch {command}")), "{command}");
    }
    assert!(finish(&mut actpatch(&["--version"])).success().stdout.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_actpatch"))
        .args(["direction-patching-suite", "--help"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_actpatch"))
        .args(["self-check", "--layers", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
}

#[test]
fn a_fit_that_does_not_exist_is_told_and_the_others_are_made() {
    let data = tempfile::tempdir().unwrap();
    // Adverbs of both classes end in the same token, which is all there is at layer 0.
    let fit = ["fit-directions", "--methods", "mean_diff,pca", "--train-sets", "simple_adverb", "--layers", "0,1"];
    let json = run_in(data.path(), &[&fit[..], &["--json"]].concat()).success().json();
    let outcomes = json[0]["directions"].as_array().unwrap();
    let of = |name: &str| outcomes.iter().find(|outcome| outcome["name"] == name).unwrap();
    let skipped = of("mean_diff_simple_adverb_ADV_layer0");
    assert!(skipped["skipped"].as_str().unwrap().contains("coincide") && skipped["path"].is_null(), "{skipped}");
    assert!(of("mean_diff_simple_adverb_ADV_layer1")["path"].is_string());
}
