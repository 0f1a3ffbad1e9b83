//! Ablations and circuit faithfulness by the command line, on the demo model.

use super::*;

fn rows(found: &serde_json::Value) -> &Vec<serde_json::Value> {
    found[0]["tables"][0]["rows"].as_array().unwrap()
}

#[test]
fn maps_of_ablations_are_written_and_kept() {
    let data = tempfile::tempdir().unwrap();
    let arguments =
        ["ablation-maps", "--maps", "z,mlp_out", "--methods", "zero,resample", "--measures", "logit_diff,accuracy"];
    let found = run_in(data.path(), &[&arguments[..], &["--json"]].concat()).success().json();
    let maps = found[0]["maps"].as_array().unwrap();
    assert_eq!(maps.len(), 8);
    let zero = maps.iter().find(|map| map["file"] == "ablation_zero_logit_diff_simple_plain_z").unwrap();
    assert_eq!(zero["axes"], serde_json::json!(["layer", "head"]));
    let values: Vec<f64> = zero["percent"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
    assert!(values.iter().any(|value| *value < -5.0) && values.iter().any(|value| value.abs() < 5.0), "{values:?}");
    let again = run_in(data.path(), &arguments).success();
    assert!(again.stderr.contains("8 maps exist already"), "{}", again.stderr);
    let plan = run_in(data.path(), &["ablation-maps", "--maps", "post", "--dry-run"]).success();
    assert!(plan.stdout.contains("post") && plan.stdout.contains("mean"), "{}", plan.stdout);
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
        let wanted = |row: &&serde_json::Value| {
            row["ablated"] == ablated
                && row["positions"] == positions
                && row["attention"] == "live"
                && row["prompts"] == "all"
        };
        rows(&found).iter().find(wanted).unwrap()["logit_diff_change_percent"].as_f64().unwrap()
    };
    assert!(change("mean_diff_simple_train_ADJ", "ALL") < -50.0);
    assert!(change("random_1", "ALL").abs() < 20.0);
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
    let kept = ["--methods", "corrupted", "--positions", "ADJ+VRB", "--keep-at", "COMMA", "--attention", "frozen"];
    let kept = run_in(data.path(), &[&["ablation", "--nodes", "v:1", "--json"], &kept[..]].concat()).success().json();
    assert_eq!(rows(&kept)[0]["positions"], "ADJ+VRB (kept: COMMA)");
}

#[test]
fn circuits_are_tested_against_all_other_heads() {
    let data = fitted();
    let arguments =
        ["faithfulness", "--heads", "1.0@ADJ,2.2@END,2.3@SBJ2+END", "--directions", "das_simple_train_ADJ_layer1"];
    let plan = run_in(data.path(), &[&arguments[..], &["--dry-run"]].concat()).success();
    assert!(plan.stdout.contains("complement") && plan.stdout.contains("FLOP"), "{}", plan.stdout);
    let found = run_in(data.path(), &[&arguments[..], &["--json"]].concat()).success().json();
    let settings = ["heads", "heads at positions", "heads along das_simple_train_ADJ_layer1", "heads along random_1"];
    assert_eq!(rows(&found).len(), 3 * settings.len());
    let percent = |setting: &str, patched: &str| {
        let row = rows(&found).iter().find(|row| row["setting"] == setting && row["patched"] == patched).unwrap();
        row["logit_diff_percent"].as_f64().unwrap()
    };
    for setting in settings {
        assert!(percent(setting, "full").is_finite(), "{setting}");
    }
    assert!(percent("heads", "circuit") > percent("heads along random_1", "circuit"));
    assert!(data.path().join("demo/faithfulness_simple_plain.png").is_file());
}

#[test]
fn what_cannot_be_ablated_is_named() {
    let data = fitted();
    let run = |arguments: &[&str]| run_in(data.path(), arguments);
    let ablation = |arguments: &[&str]| run(&[&["ablation"], arguments].concat());
    ablation(&[]).fails(1, &["--nodes or --directions"]);
    ablation(&["--nodes", "z"]).fails(1, &["ablation-maps --maps z"]);
    ablation(&["--nodes", "z:1.99"]).fails(1, &["blocks.1.attn.hook_z", "found 99"]);
    ablation(&["--nodes", "z:9.0"]).fails(1, &["blocks.9.attn.hook_z", "layers 0..4"]);
    ablation(&["--nodes", "z:3.0", "--positions", "ADJ"]).fails(1, &["never fires", "reaches the logits"]);
    ablation(&["--nodes", "z:1.0", "--positions", "XYZ"]).fails(1, &["--positions", "XYZ"]);
    ablation(&["--nodes", "z:1.0", "--positions", "99"]).fails(1, &["found 99"]);
    ablation(&["--nodes", "z:1.0", "--methods", "median"]).fails(2, &["expected one of zero, mean"]);
    ablation(&["--nodes", "z:1.0", "--methods", "mean", "--eval-sets", "mood_stories,absent"]).fails(1, &["absent"]);
    ablation(&["--nodes", "post:1", "--directions", "das_simple_train_ADJ"]).fails(1, &["post is not as wide"]);
    ablation(&["--directions", "das_absent_ADJ"]).fails(1, &["das_absent_ADJ is not in", "mean_diff_simple_train_ADJ"]);
    ablation(&["--directions", "mean_diff_simple_train_ADJ", "--layers", "9"]).fails(1, &["--layers: 9"]);
    run(&["ablation-maps", "--maps", "pattern", "--methods", "mean"]).fails(1, &["replacement at", "found mean"]);
    run(&["faithfulness", "--heads", "1"]).fails(2, &["layer.head"]);
    run(&["faithfulness", "--heads", "1.9"]).fails(1, &["head of a circuit", "found 1.9"]);
    run(&["faithfulness", "--heads", "1.0@XYZ"]).fails(1, &["XYZ"]);
}
