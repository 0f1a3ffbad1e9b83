//! Ablations and circuit faithfulness by the command line, on the demo model.

use super::*;
use serde_json::Value;

fn rows(found: &Value) -> &Vec<Value> {
    found[0]["tables"][0]["rows"].as_array().unwrap()
}

/// The number in `column` of the only row with these keys.
#[track_caller]
fn number(found: &Value, keys: &[(&str, &str)], column: &str) -> f64 {
    let wanted: Vec<&Value> = rows(found).iter().filter(|row| keys.iter().all(|(key, is)| row[key] == *is)).collect();
    let [row] = wanted[..] else { panic!("{} rows with {keys:?}", wanted.len()) };
    row[column].as_f64().unwrap()
}

#[test]
fn maps_of_ablations_are_written_and_kept() {
    let data = tempfile::tempdir().unwrap();
    let arguments =
        ["ablation-maps", "--maps", "z,mlp_out", "--methods", "zero,resample", "--measures", "logit_diff,accuracy"];
    let found = run_in(data.path(), &[&arguments[..], &["--json"]].concat()).success().json();
    let maps = found[0]["maps"].as_array().unwrap();
    assert_eq!(maps.len(), 8);
    // A value of a map is the same ablation by itself.
    for (method, measure) in [("zero", "logit_diff"), ("resample", "logit_diff"), ("zero", "accuracy")] {
        let file = format!("ablation_{method}_{measure}_simple_plain_z");
        let map = maps.iter().find(|map| map["file"] == *file).unwrap();
        assert_eq!(map["axes"], serde_json::json!(["layer", "head"]));
        let heads = map["shape"][1].as_u64().unwrap() as usize;
        let value = map["percent"][heads + 2].as_f64().unwrap();
        let one = ["ablation", "--nodes", "z:1.2", "--methods", method, "--json"];
        let one = run_in(data.path(), &one).success().json();
        let of_all = |column: &str| number(&one, &[("prompts", "all"), ("method", method)], column);
        let expected = match measure {
            "logit_diff" => of_all("logit_diff_change_percent"),
            _ => 100.0 * (of_all("accuracy") - of_all("accuracy_clean")),
        };
        assert!((value - expected).abs() < 1e-4, "{file}: {value} {expected}");
        let largest = map["percent"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap().abs()).fold(0.0, f64::max);
        assert!(measure == "accuracy" || largest > 0.0, "{file}");
    }
    let again = run_in(data.path(), &arguments).success();
    assert!(again.stderr.contains("8 maps exist already"), "{}", again.stderr);
    let plan = run_in(data.path(), &["ablation-maps", "--maps", "post", "--dry-run"]).success();
    assert!(plan.stdout.contains("mean") && plan.stdout.contains("FLOP"), "{}", plan.stdout);
}

#[test]
fn directions_and_their_random_companions_are_ablated() {
    let data = fitted();
    let arguments = [
        "ablation",
        "--directions",
        "mean_diff_simple_train_ADJ",
        "--positions",
        "ALL,ADJ",
        "--attention",
        "live,frozen",
        "--eval-sets",
        "simple_test",
        "--random",
        "2",
    ];
    let found = run_in(data.path(), &[&arguments[..], &["--json"]].concat()).success().json();
    // 3 directions, 2 positions, 2 kinds of attention, 3 sets of prompts.
    assert_eq!(rows(&found).len(), 36);
    let change = |ablated: &str, positions: &str| {
        let keys = [("ablated", ablated), ("positions", positions), ("attention", "live"), ("prompts", "all")];
        number(&found, &keys, "logit_diff_change_percent")
    };
    for random in ["random_1", "random_2"] {
        assert!(change("mean_diff_simple_train_ADJ", "ALL") < -change(random, "ALL").abs());
    }
    assert_ne!(change("random_1", "ALL"), change("random_2", "ALL"));
    let [all, positive, negative] = &rows(&found)[..3] else { panic!() };
    assert_eq!(all["n"].as_f64().unwrap(), positive["n"].as_f64().unwrap() + negative["n"].as_f64().unwrap());
    assert_eq!(all["reached"], all["n"]);
    let table = data.path().join("demo/ablation_simple_test_plain.csv");
    assert_eq!(std::fs::read_to_string(&table).unwrap().lines().count(), 37);
    assert!(table.with_extension("png").is_file());
    // Further conditions are added, those that are there are kept.
    let more = [&arguments[..], &["--methods", "zero,mean"]].concat();
    let more = run_in(data.path(), &more).success();
    assert!(more.stderr.contains("12 conditions exist already"), "{}", more.stderr);
    assert_eq!(std::fs::read_to_string(&table).unwrap().lines().count(), 73);
    // One direction everywhere, some layers, and the part of nodes along it.
    let some = ["--directions", "das_simple_train_ADJ_layer1", "--layers", "1..2", "--json"];
    let some = run_in(data.path(), &[&["ablation"], &some[..]].concat()).success().json();
    assert_eq!(rows(&some)[0]["ablated"], "das_simple_train_ADJ_layer1 at layers 1..2");
    let nodes = ["--directions", "das2d_simple_train_ADJ", "--nodes", "z:1.0,resid_post:2", "--json"];
    let nodes = run_in(data.path(), &[&["ablation"], &nodes[..]].concat()).success().json();
    assert_eq!(rows(&nodes)[0]["ablated"], "das2d_simple_train_ADJ in z:1.0 resid_post:2");
    assert_eq!(rows(&nodes)[3]["ablated"], "random2d_1 in z:1.0 resid_post:2");
}

#[test]
fn only_the_wanted_prompts_are_ablated() {
    let data = fitted();
    let arguments = [
        "ablation",
        "--nodes",
        "z:1.0,mlp_out:0",
        "--positions",
        "COMMA,7+END",
        "--require",
        "COMMA",
        "--correct-only",
        "--balance",
        "--json",
    ];
    let found = run_in(data.path(), &arguments).success().json();
    assert_eq!(found[0]["tables"][0]["file"], "ablation_simple_plain_with_COMMA_correct_balanced");
    for row in rows(&found) {
        assert_eq!((&row["accuracy_clean"], &row["ablated"]), (&1.0.into(), &"z:1.0 mlp_out:0".into()), "{row}");
    }
    let classes =
        ["positive", "negative"].map(|class| number(&found, &[("positions", "COMMA"), ("prompts", class)], "n"));
    assert_eq!(classes[0], classes[1]);
    let kept = ["--methods", "corrupted", "--positions", "ADJ+VRB", "--keep-at", "COMMA", "--attention", "frozen"];
    let kept = run_in(data.path(), &[&["ablation", "--nodes", "v:1", "--json"], &kept[..]].concat()).success().json();
    assert_eq!(rows(&kept)[0]["positions"], "ADJ+VRB (kept: COMMA)");
}

/// The map of this name.
#[track_caller]
fn map<'a>(found: &'a Value, file: &str) -> &'a Value {
    let maps = found[0]["maps"].as_array().unwrap();
    maps.iter().find(|map| map["file"] == file).unwrap_or_else(|| panic!("{file} in {maps:?}"))
}

fn values(map: &Value, unit: &str) -> Vec<f64> {
    map[unit].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

/// One direction at one layer and one position.
const ABLATED: [&str; 6] =
    ["--ablate", "das_simple_train_ADJ_layer1", "--ablate-layers", "1", "--ablate-positions", "ADJ"];

#[test]
fn activations_of_the_ablated_run_are_patched_into_the_clean_one() {
    let data = fitted();
    let maps = ["activation-patching-maps", "--maps", "z,resid_pre"];
    let command = [&maps[..], &ABLATED].concat();
    let plan = run_in(data.path(), &[&command[..], &["--dry-run"]].concat()).success();
    assert!(plan.stdout.contains("logit_diff_noising") && plan.stdout.contains("FLOP"), "{}", plan.stdout);
    let found = run_in(data.path(), &[&command[..], &["--json"]].concat()).success().json();
    let stem = "activation_patching_ablated_das_simple_train_ADJ_layer1_at_1_zero_ADJ_logit_diff_noising_simple_plain";
    let resid = map(&found, &format!("{stem}_resid_pre"));
    let (length, percent) = (resid["shape"][1].as_u64().unwrap() as usize, values(resid, "percent"));
    // In front of the ablation both runs are the same; where it acts, its place holds all of its effect.
    assert!(percent[..length].iter().all(|value| *value == 0.0), "{percent:?}");
    let ablated: Vec<f64> = percent[length..2 * length].iter().copied().filter(|value| *value != 0.0).collect();
    assert!(ablated.len() == 1 && (ablated[0] + 100.0).abs() < 1e-2, "{ablated:?}");
    assert!(values(map(&found, &format!("{stem}_z")), "percent").iter().any(|value| *value < -5.0));
    assert!(data.path().join(format!("demo/{stem}_z.png")).is_file());
    // Another ablation has cells of its own, and so have the corrupted prompts.
    let done = || {
        let status = run_in(data.path(), &["status", "--json"]).success().json();
        status[0]["done"].as_u64().unwrap() as usize
    };
    let cells = percent.len() + 16;
    assert_eq!(done(), cells);
    let mean = [&command[..], &["--ablate-method", "mean_over_places", "--json"]].concat();
    let mean = run_in(data.path(), &mean).success().json();
    assert_ne!(values(map(&mean, &format!("{}_z", stem.replace("zero", "mean_over_places"))), "percent")[4], 0.0);
    assert_eq!(done(), 2 * cells);
    let corrupted = [&maps[..], &["--metrics", "logit_diff_noising", "--json"]].concat();
    let corrupted = run_in(data.path(), &corrupted).success().json();
    assert_ne!(
        map(&corrupted, "activation_patching_logit_diff_noising_simple_plain_z")["percent"],
        map(&found, &format!("{stem}_z"))["percent"]
    );
    assert_eq!(done(), 3 * cells);
    let again = run_in(data.path(), &command).success();
    assert!(again.stderr.contains("2 maps exist already"), "{}", again.stderr);
    // The same in shards.
    let shared = fitted();
    for shard in ["0/2", "1/2"] {
        run_in(shared.path(), &[&command[..], &["--shard", shard]].concat()).success();
    }
    run_in(shared.path(), &["merge"]).success();
    run_in(shared.path(), &command).success();
    let read = |data: &Path| std::fs::read(data.join(format!("demo/{stem}_resid_pre.npy"))).unwrap();
    assert_eq!(read(shared.path()), read(data.path()));
}

#[test]
fn what_writes_the_effect_of_an_ablation_adds_up_to_it() {
    let data = fitted();
    let attributed = [&["logit-attribution", "--maps", "layers,heads", "--json"][..], &ABLATED].concat();
    let attributed = run_in(data.path(), &attributed).success().json();
    let stem = "logit_attribution_ablated_das_simple_train_ADJ_layer1_at_1_zero_ADJ_difference_simple_plain";
    let sum: f64 = values(map(&attributed, &format!("{stem}_layers")), "logits").iter().sum();
    let ablation = ["ablation", "--directions", "das_simple_train_ADJ_layer1", "--layers", "1", "--positions", "ADJ"];
    let ablation = run_in(data.path(), &[&ablation[..], &["--random", "0", "--json"]].concat()).success().json();
    let difference = |column| number(&ablation, &[("prompts", "all")], column);
    let expected = difference("logit_diff_clean") - difference("logit_diff");
    assert!(expected > 0.1 && (sum - expected).abs() < 1e-4, "{sum} {expected}");
    let along = [&["logit-attribution", "--maps", "heads", "--along", "pca_simple_train_ADJ_layer2"][..], &ABLATED];
    let along = run_in(data.path(), &along.concat()).success();
    assert!(along.stdout.contains("direction_attribution_pca_simple_train_ADJ_layer2_ablated_das"), "{}", along.stdout);
}

#[test]
fn what_the_clean_run_cannot_be_compared_with_is_named() {
    let data = fitted();
    let fails = |command: &str, arguments: &[&str], code: i32, words: &[&str]| {
        run_in(data.path(), &[&[command], arguments].concat()).fails(code, words);
    };
    let ablate = |rest: &[&'static str]| [&["--ablate", "das_simple_train_ADJ_layer1"], rest].concat();
    for command in ["activation-patching-maps", "logit-attribution"] {
        fails(command, &["--ablate", "das_absent_ADJ"], 1, &["--ablate: das_absent_ADJ is not in"]);
        fails(command, &["--ablate", "das_simple_train_ADJ_layer9"], 1, &["das_simple_train_ADJ_layer9"]);
        fails(command, &ablate(&["--ablate-layers", "9"]), 1, &["--ablate-layers: 9 is outside 0 to 4"]);
        fails(command, &ablate(&["--ablate-positions", "XYZ"]), 1, &["--ablate-positions: ", "XYZ"]);
        fails(command, &ablate(&["--ablate-positions", "99"]), 1, &["--ablate-positions: ", "found 99"]);
        fails(command, &ablate(&["--ablate-method", "corrupted"]), 1, &["--ablate-method: ", "found corrupted"]);
        fails(command, &ablate(&["--ablate-method", "median"]), 2, &["expected one of zero, mean"]);
        let late = ablate(&["--ablate-layers", "4", "--ablate-positions", "ADJ"]);
        fails(command, &late, 1, &["--ablate: ", "never fires"]);
        fails(command, &["--ablate-layers", "1"], 2, &["--ablate"]);
        fails(command, &["--ablate-method", "mean"], 2, &["--ablate"]);
    }
    fails("activation-patching-maps", &ablate(&["--metrics", "logit_diff"]), 1, &["--metrics: ", "found logit_diff"]);
    fails("logit-attribution", &ablate(&["--of", "corrupted"]), 1, &["--of: ", "found corrupted"]);
    // The first token is the same in all prompts, and so is its mean.
    let nothing = ablate(&["--ablate-method", "mean_over_places", "--ablate-positions", "0", "--maps", "z"]);
    let words =
        ["simple: logit_diff_noising is undefined", "ablation of das_simple_train_ADJ_layer1 changes it by less"];
    fails("activation-patching-maps", &nothing, 1, &words);
}

#[test]
fn circuits_are_tested_against_all_other_heads() {
    let data = fitted();
    let faithfulness = |arguments: &[&str]| run_in(data.path(), &[&["faithfulness"], arguments].concat()).success();
    let arguments = ["--heads", "1.0@ADJ,2.2@END,2.3@SBJ2+END", "--directions", "das_simple_train_ADJ_layer1"];
    let plan = faithfulness(&[&arguments[..], &["--dry-run"]].concat());
    assert!(plan.stdout.contains("complement") && plan.stdout.contains("FLOP"), "{}", plan.stdout);
    let found = faithfulness(&[&arguments[..], &["--json"]].concat()).json();
    let settings = ["heads", "heads at positions", "heads along das_simple_train_ADJ_layer1", "heads along random_1"];
    assert_eq!(rows(&found).len(), 3 * settings.len());
    let percent = |found: &Value, setting: &str, patched: &str| {
        number(found, &[("setting", setting), ("patched", patched)], "logit_diff_percent")
    };
    // The heads that the demo model's path patching finds carry more than all others together, and a direction of an early
    // layer less than whole heads.
    let circuit = percent(&found, "heads", "circuit");
    assert!(circuit > percent(&found, "heads", "complement"), "{circuit}");
    assert!(percent(&found, "heads along das_simple_train_ADJ_layer1", "circuit").abs() < circuit, "{circuit}");
    assert!(data.path().join("demo/faithfulness_simple_plain.png").is_file());
    // A circuit of all heads is the full one, and nothing is left over.
    let every: Vec<String> = (0..16).map(|number| format!("{}.{}", number / 4, number % 4)).collect();
    let found = faithfulness(&["--heads", &every.join(","), "--json"]).json();
    let [complement, circuit, full] =
        ["complement", "circuit", "full"].map(|patched| percent(&found, "heads", patched));
    assert_eq!((complement, circuit), (0.0, full));
}

#[test]
fn what_cannot_be_ablated_is_named() {
    let data = fitted();
    let run = |arguments: &[&str]| run_in(data.path(), arguments);
    let ablation = |arguments: &[&str]| run(&[&["ablation"], arguments].concat());
    ablation(&[]).fails(1, &["--nodes: expected nodes or directions"]);
    ablation(&["--nodes", "z"]).fails(1, &["ablation-maps --maps z"]);
    ablation(&["--nodes", "z:1.99"]).fails(1, &["blocks.1.attn.hook_z", "found 99"]);
    ablation(&["--nodes", "z:9.0"]).fails(1, &["blocks.9.attn.hook_z", "layers 0 to 3"]);
    ablation(&["--nodes", "z:3.0", "--positions", "ADJ"]).fails(1, &["never fires", "reaches the logits"]);
    ablation(&["--nodes", "z:1.0", "--positions", "XYZ"]).fails(1, &["--positions: ", "XYZ"]);
    ablation(&["--nodes", "z:1.0", "--positions", "99"]).fails(1, &["--positions: ", "found 99"]);
    ablation(&["--nodes", "z:1.0", "--positions", "ADJ+"]).fails(1, &["--positions: ", "no position \"\""]);
    ablation(&["--nodes", "z:1.0", "--keep-at", "XYZ"]).fails(1, &["--keep-at: ", "XYZ"]);
    ablation(&["--nodes", "z:1.0", "--keep-at", "ALL"]).fails(1, &["never fires"]);
    ablation(&["--nodes", "z:1.0", "--require", "99"]).fails(1, &["--require: ", "found 99"]);
    ablation(&["--nodes", "q:1.0", "--attention", "frozen"]).fails(1, &["never fires", "attention is frozen"]);
    ablation(&["--nodes", "z:1.0", "--methods", "median"]).fails(2, &["expected one of zero, mean"]);
    ablation(&["--nodes", "z:1.0", "--eval-sets", "absent"]).fails(1, &["absent"]);
    ablation(&["--nodes", "z:1.0", "--shard", "1/2"]).fails(2, &["--shard"]);
    ablation(&["--nodes", "z:1.0", "--layers", "1"]).fails(2, &["--nodes", "--layers"]);
    ablation(&["--nodes", "post:1", "--directions", "das_simple_train_ADJ"]).fails(1, &["post is not as wide"]);
    ablation(&["--directions", "das_absent_ADJ"]).fails(1, &["das_absent_ADJ is not in", "mean_diff_simple_train_ADJ"]);
    ablation(&["--directions", "das_simple_train_ADJ_layer9"]).fails(1, &["das_simple_train_ADJ_layer9"]);
    ablation(&["--directions", "mean_diff_simple_train_ADJ", "--layers", "9"]).fails(1, &["--layers: 9"]);
    let empty = tempfile::tempdir().unwrap();
    run_in(empty.path(), &["ablation", "--directions", "das_simple_train_ADJ"]).fails(1, &["fit-directions"]);
    run(&["ablation-maps", "--maps", "pattern", "--methods", "mean"]).fails(1, &["replacement at", "found mean"]);
    run(&["faithfulness", "--heads", "1"]).fails(2, &["layer.head"]);
    run(&["faithfulness", "--heads", "1.9"]).fails(1, &["--heads: ", "head of a circuit", "found 1.9"]);
    run(&["faithfulness", "--heads", "1.0,1.0@END"]).fails(1, &["1.0 twice"]);
    run(&["faithfulness", "--heads", "1.0@XYZ"]).fails(1, &["--heads: ", "XYZ"]);
    run(&["faithfulness", "--heads", "3.0@ADJ"]).fails(1, &["--heads: 3.0@ADJ never fires"]);
    let table = data.path().join("demo/faithfulness_simple_plain.csv");
    std::fs::write(&table, "circuit,setting\n1.0,heads\n").unwrap();
    run(&["faithfulness", "--heads", "1.0"]).fails(1, &["faithfulness_simple_plain.csv", "header"]);
}
