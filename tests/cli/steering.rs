//! Steering by the command line, on the demo model.

use super::*;
use serde_json::Value;

const DIRECTION: &str = "mean_diff_simple_train_ADJ_layer1";
const STEER: [&str; 8] = [
    "steering",
    "--directions",
    DIRECTION,
    "--max-new-tokens",
    "6",
    "--prompt",
    "I thought this movie was",
    "--seed=7",
];

fn lines(data: &Path) -> Vec<Value> {
    let file = std::fs::read_to_string(data.join(format!("demo/steering_{DIRECTION}.jsonl"))).unwrap();
    file.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_grid_of_texts_grows_and_is_the_same_in_any_order() {
    let (once, grown) = (fitted(), fitted());
    let grid = ["--coefficients", "-4..4:4", "--samples", "3"];
    let found = run_in(once.path(), &[&STEER[..], &grid, &["--json"]].concat()).success().json();
    let texts = lines(once.path());
    assert_eq!((texts.len(), found[0]["directions"][0]["texts"].as_array().unwrap().len()), (9, 9));
    for text in &texts {
        let (tokens, log_probabilities) = (text["tokens"].as_array().unwrap(), text["log_probabilities"].as_array());
        assert!(tokens.len() == 6 || text["ended"] == true, "{text}");
        assert_eq!(tokens.len(), log_probabilities.unwrap().len());
        let sum: f64 = log_probabilities.unwrap().iter().map(|value| value.as_f64().unwrap()).sum();
        assert!((sum - text["log_probability"].as_f64().unwrap()).abs() < 1e-4, "{text}");
        assert_eq!(text["sites"], serde_json::json!(["blocks.1.hook_resid_pre"]));
        assert!(!text["text"].as_str().unwrap().contains("<|endoftext|>"), "{text}");
    }
    let manifest = &manifests(once.path())[1];
    assert_eq!((&manifest["command"], &manifest["finished"]), (&"steering".into(), &true.into()));
    let seen = &manifest["prompts"][0];
    assert_eq!((&seen["begins_with_bos"], &seen["texts"], &seen["pairs"]), (&true.into(), &1.into(), &Value::Null));
    let prompts = once.path().join(format!("demo/manifests/prompts/{}.json", seen["sha256"].as_str().unwrap()));
    let prompts: Value = serde_json::from_slice(&std::fs::read(prompts).unwrap()).unwrap();
    assert_eq!(prompts["texts"], serde_json::json!(["I thought this movie was"]));
    assert_eq!(prompts["sequences"][0].as_array().unwrap()[0], 0, "the BOS that the model sees");
    run_in(grown.path(), &[&STEER[..], &["--coefficients", "4,0", "--samples", "2"]].concat()).success();
    let more = run_in(grown.path(), &[&STEER[..], &grid, &["--threads", "1"]].concat()).success();
    assert!(more.stderr.contains("4 texts exist already"), "{}", more.stderr);
    assert_eq!(files(once.path()), files(grown.path()));
    // All of them exist: nothing is computed, and everything is shown.
    let again = run_in(once.path(), &[&STEER[..], &grid].concat()).success();
    assert_eq!(manifests(once.path()).len(), 2);
    assert!(again.stderr.contains("9 texts exist already") && again.stdout.contains("coefficient"), "{}", again.stdout);
    run_in(once.path(), &[&STEER[..], &grid, &["--overwrite"]].concat()).success();
    assert_eq!(files(once.path()), files(grown.path()));
    // Other settings are other texts.
    run_in(once.path(), &[&STEER[..], &grid, &["--top-k", "0"]].concat()).success();
    assert_eq!(lines(once.path()).len(), 18);
}

#[test]
fn directions_are_added_where_they_are_told_to_be() {
    let data = fitted();
    let greedy = ["--temperature", "0", "--coefficients", "-5,5"];
    let sites = |extra: &[&str]| {
        let found = run_in(data.path(), &[&STEER[..1], &STEER[3..], &greedy, extra, &["--json"]].concat()).success();
        let texts = found.json()[0]["directions"][0]["texts"].as_array().unwrap().clone();
        assert_eq!(texts.len(), 2, "one text of each coefficient, because there is no chance in it");
        assert_ne!(texts[0]["tokens"], texts[1]["tokens"]);
        texts[0]["sites"].clone()
    };
    let resid = |layers: &[usize]| layers.iter().map(|l| format!("blocks.{l}.hook_resid_pre")).collect::<Vec<_>>();
    assert_eq!(
        sites(&["--directions", "mean_diff_simple_train_ADJ", "--layers", "1,3"]),
        serde_json::json!(resid(&[1, 3]))
    );
    assert_eq!(sites(&["--directions", DIRECTION, "--layers", "0..1"]), serde_json::json!(resid(&[0, 1])));
    let outputs = "blocks.0.hook_mlp_out,blocks.2.hook_attn_out";
    assert_eq!(
        sites(&["--directions", DIRECTION, "--sites", outputs]),
        serde_json::json!(outputs.split(',').collect::<Vec<_>>())
    );
    let plan = run_in(data.path(), &[&STEER[..], &greedy, &["--dry-run"]].concat()).success().stdout;
    assert!(plan.contains("blocks.1.hook_resid_pre") && plan.contains("FLOP") && plan.contains("memory"), "{plan}");
    assert_eq!(lines(data.path()).len(), 4, "a dry run writes nothing");
}

#[test]
fn what_cannot_be_steered_is_named() {
    let data = fitted();
    let before = files(data.path());
    let run = |extra: &[&str]| run_in(data.path(), &[&["steering"], extra].concat());
    let along = |extra: &[&str]| run(&[&["--directions", DIRECTION], extra].concat());
    run(&[]).fails(2, &["--directions"]);
    run(&["--directions", "kmeans_simple_train_ADJ_layer1"]).fails(1, &["kmeans_simple_train_ADJ_layer1"]);
    run(&["--directions", "*mode*_simple_train_ADJ"]).fails(1, &["--directions: pattern \"*mode*_simple_train_ADJ\""]);
    run(&["--directions", "mode_simple_train_ADJ"]).fails(1, &["--directions: mode_simple_train_ADJ is not in"]);
    run(&["--directions", "das2d_simple_train_ADJ_layer1"]).fails(1, &["subspace of 2 dimensions"]);
    run(&["--directions", "mean_diff_simple_train_ADJ", "--sites", "blocks.0.hook_mlp_out"]).fails(1, &["--sites"]);
    along(&["--coefficients", "1..x"]).fails(2, &["--coefficients", "1..x"]);
    along(&["--coefficients", "5..1"]).fails(2, &["--coefficients", "goes up"]);
    along(&["--coefficients", "0..1:0"]).fails(2, &["--coefficients", "steps above 0"]);
    along(&["--coefficients", "0..1e9"]).fails(2, &["--coefficients", "at most 10000"]);
    along(&["--coefficients", "nan"]).fails(2, &["--coefficients", "nan"]);
    along(&["--coefficients", "1e20"]).fails(1, &["--coefficients", "-1e15 to 1e15", "1e20"]);
    along(&["--layers", "9"]).fails(1, &["--layers", "9", "0 to 4"]);
    along(&["--sites", "blocks.9.hook_mlp_out"]).fails(1, &["blocks.9.hook_mlp_out", "layers 0 to 3"]);
    along(&["--sites", "blocks.0.attn.hook_z"]).fails(1, &["blocks.0.attn.hook_z", "as wide as the residual stream"]);
    along(&["--sites", "resid"]).fails(2, &["--sites", "resid"]);
    along(&["--sites", "blocks.0.hook_resid_post,blocks.1.hook_resid_pre"]).fails(1, &["twice"]);
    along(&["--temperature", "0", "--samples", "2"]).fails(1, &["--samples", "found 2"]);
    along(&["--temperature=-1"]).fails(2, &["--temperature"]);
    along(&["--max-new-tokens", "128"]).fails(1, &["--prompt", "128", "--max-new-tokens"]);
    along(&["--prompt", &"very ".repeat(200)]).fails(1, &["--prompt", "at most 128"]);
    assert_eq!(files(data.path()), before);
    let file = data.path().join(format!("demo/steering_{DIRECTION}.jsonl"));
    std::fs::write(&file, "{\"direction\": 3}\n").unwrap();
    along(&[]).fails(1, &[&format!("{DIRECTION}.jsonl: line 1"), "expected a steered text"]);
    // A direction of another width.
    let other = data.path().join("demo/pca_simple_train_ADJ_layer1.npy");
    std::fs::write(other, directions::npy(&[0.5; 7], "(7,)")).unwrap();
    run(&["--directions", "pca_simple_train_ADJ_layer1"]).fails(1, &["pca_simple_train_ADJ_layer1.npy", "d_model 128"]);
}
