//! Run manifests: what a run was told, what the model saw, what was written.

use super::*;
use sha2::{Digest, Sha256};

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_manifest_tells_how_results_came_about() {
    let data = fitted();
    let suite = ["direction-patching-suite", "--directions", "das_*layer1,mean*layer2", "--metrics", "logit_diff"];
    let json = run_in(data.path(), &[&suite[..], &["--json", "--threads", "1"]].concat()).success().json();
    let all = manifests(data.path());
    let found = all.iter().find(|manifest| manifest["command"] == "direction-patching-suite").unwrap();
    assert_eq!(json[0]["manifest"], *found, "--json prints what is on disk");

    let configuration = &found["configuration"];
    assert_eq!(configuration["directions"], serde_json::json!(["das_*layer1", "mean*layer2"]));
    assert_eq!((&configuration["seed"], &configuration["dtype"]), (&0.into(), &"f32".into()));
    assert_eq!((&configuration["batch_tokens"], &configuration["layers"]), (&4096.into(), &"own".into()));
    assert!(found["arguments"].as_array().unwrap().contains(&"das_*layer1,mean*layer2".into()));
    assert_eq!((&found["version"], &found["finished"]), (&env!("CARGO_PKG_VERSION").into(), &true.into()));
    assert_eq!((&found["padding"], &found["threads"]), (&"none".into(), &1.into()));
    assert!(found["device"].as_str().unwrap().contains("f32") && found["wall_seconds"].as_f64().unwrap() > 0.0);
    assert!(found["started"].as_str().unwrap().ends_with('Z') && found["commit"].is_string());

    let model = &found["model"];
    assert_eq!((&model["name"], &model["source"]["kind"]), (&"demo".into(), &"embedded".into()));
    assert_eq!(model["weight_processing"].as_array().unwrap().len(), 4);
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/models/demo");
    let records = model["files"].as_array().unwrap().iter().chain([&model["tokenizer"]]);
    for record in records {
        let bytes = std::fs::read(demo.join(record["name"].as_str().unwrap())).unwrap();
        assert_eq!(record["sha256"], hash(&bytes), "{record}");
    }

    let name = "direction_patching_logit_diff_resid_plain.csv";
    let cells = ["mean_diff_simple_train_ADJ_layer02 simple_test ADJ", "das_simple_train_ADJ_layer01 simple_test ADJ"];
    assert_eq!(found["written"], serde_json::json!({ name: cells, "direction_patching.csv": [] }));
    let fit = all.iter().find(|manifest| manifest["command"] == "fit-directions").unwrap();
    assert_eq!(fit["written"]["mean_diff_simple_train_ADJ_layer4.npy"], serde_json::json!([]));
}

#[test]
fn the_prompts_are_there_as_the_model_saw_them() {
    let data = fitted();
    run_in(data.path(), &["direction-patching-suite", "--directions", "mean*layer2"]).success();
    let found = manifests(data.path());
    let prompts = found.iter().flat_map(|manifest| manifest["prompts"].as_array().unwrap());
    let test = prompts.clone().find(|prompts| prompts["dataset"] == "simple_test").unwrap();
    assert_eq!((&test["begins_with_bos"], prompts.count()), (&true.into(), 2));
    let sha256 = test["sha256"].as_str().unwrap();
    let text = std::fs::read(data.path().join(format!("demo/manifests/prompts/{sha256}.json"))).unwrap();
    assert_eq!(hash(&text), sha256);
    let seen: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let model = actpatch::model::Model::load("demo", &Default::default()).unwrap();
    let sequences = seen["sequences"].as_array().unwrap();
    assert_eq!((sequences.len(), &test["pairs"]), (seen["texts"].as_array().unwrap().len(), &sequences.len().into()));
    for (tokens, text) in sequences.iter().zip(seen["texts"].as_array().unwrap()) {
        let tokens: Vec<u32> = tokens.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(Some(tokens[0]), model.tokenizer.bos());
        assert_eq!(model.tokenizer.decode(&tokens[1..]).unwrap(), text.as_str().unwrap());
    }
    assert!(seen["positions"]["ADJ"].is_u64() && seen["answers"][0][0].as_array().unwrap().len() == 2);
    // The same prompts again are the same file.
    let count = || all_files(&data.path().join("demo/manifests/prompts")).len();
    let before = count();
    run_in(data.path(), &["direction-patching-suite", "--directions", "mean*layer1"]).success();
    assert_eq!((count(), manifests(data.path()).len()), (before, 3));
}

#[test]
fn bos_is_a_setting_that_the_manifest_records() {
    let data = tempfile::tempdir().unwrap();
    let fit = ["fit-directions", "--methods", "mean_diff", "--layers", "1", "--overwrite"];
    let bos_of = |choice: &[&str]| {
        run_in(data.path(), &[&fit[..], choice].concat()).success();
        let mut all = manifests(data.path());
        all.sort_by_key(|manifest| manifest["started"].as_str().unwrap().to_owned());
        let expected = choice.last().copied().unwrap_or("auto");
        let of_choice = |manifest: &&serde_json::Value| manifest["model"]["bos_choice"]["setting"] == expected;
        let manifest = all.iter().find(of_choice).unwrap();
        assert_eq!(manifest["model"]["bos"], manifest["model"]["bos_choice"]["token"]);
        (manifest["model"]["bos"].clone(), manifest["prompts"][0]["begins_with_bos"].clone())
    };
    assert_eq!(bos_of(&[]), (0.into(), true.into()));
    assert_eq!(bos_of(&["--bos", "never"]), (serde_json::Value::Null, false.into()));
    assert_eq!(bos_of(&["--bos", "always"]), (0.into(), true.into()));
}

#[test]
fn runs_side_by_side_and_runs_that_fail_leave_manifests_of_their_own() {
    let data = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let fit = || run_in(data.path(), &["fit-directions", "--methods", "mean_diff", "--layers", "1"]).success().code;
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(fit)).collect();
        runs.into_iter().for_each(|run| assert_eq!(run.join().unwrap(), 0));
    });
    let after = manifests(data.path());
    assert!(!after.is_empty() && after.iter().all(|manifest| manifest["finished"] == true));
    // The direction is written when the model has run: the fit fails after its manifest was begun.
    let direction = data.path().join("demo/mean_diff_simple_train_ADJ_layer1.npy");
    std::fs::remove_file(&direction).unwrap();
    std::fs::create_dir(&direction).unwrap();
    let again = ["fit-directions", "--methods", "mean_diff", "--layers", "1", "--overwrite"];
    run_in(data.path(), &again).fails(1, &["mean_diff_simple_train_ADJ_layer1.npy"]);
    let failed: Vec<_> = manifests(data.path()).into_iter().filter(|manifest| manifest["finished"] == false).collect();
    assert_eq!((failed.len(), manifests(data.path()).len()), (1, after.len() + 1));
    assert_eq!(
        (&failed[0]["prompts"][0]["dataset"], &failed[0]["written"]),
        (&"simple_train".into(), &serde_json::json!({}))
    );
}
