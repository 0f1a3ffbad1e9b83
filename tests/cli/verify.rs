//! `verify`: golden numbers of the demo model, made by other programs, and every way they can be off or out of reach.

use super::*;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/golden/demo.toml");

/// A golden file with one entry.
fn golden(folder: &Path, model: &str, entry: &str) -> String {
    let path = folder.join("golden.toml");
    let head = format!("model = \"{model}\"\n[[golden]]\nname = \"mine\"\nsource = \"here\"\n");
    std::fs::write(&path, head + entry).unwrap();
    path.display().to_string()
}

/// The entries of a kind, by the JSON that `verify` prints.
fn entries(json: &serde_json::Value, kind: &str) -> Vec<serde_json::Value> {
    json.as_array().unwrap().iter().filter(|entry| entry["experiment"] == kind).cloned().collect()
}

#[test]
fn the_demo_model_meets_the_numbers_of_transformer_lens_and_scikit_learn() {
    let data = tempfile::tempdir().unwrap();
    let json = run_in(data.path(), &["verify", "--json"]).success().json();
    let numbers = |kind: &str| -> usize {
        let ran = entries(&json, kind);
        assert!(!ran.is_empty() && ran.iter().all(|entry| entry["cannot_run"].is_null()), "{kind}");
        ran.iter().map(|entry| entry["values"].as_array().unwrap().len()).sum()
    };
    // Two datasets, and three prompts of one.
    assert_eq!(numbers("baselines"), 3 * 2);
    // The lens in front of, inside and behind four blocks; both embeddings, attention and MLPs; heads.
    assert_eq!(numbers("logit_attribution"), 9 + 10 + 16);
    assert_eq!(numbers("ablation"), 3);
    // Five methods at four layers, and the best layer of each; two datasets, two metrics.
    assert_eq!(numbers("directional_patching"), 5 * (4 + 1) * 2 * 2);
    assert_eq!(numbers("path_patching"), 4 * 4);
    assert_eq!(numbers("activation_patching"), 26);
    let values = json.as_array().unwrap().iter().flat_map(|entry| entry["values"].as_array().unwrap());
    assert!(values.clone().all(|value| value["passed"] == true && value["ours"].is_f64()));
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0, "the runs leave nothing behind");
    let plan = run_in(data.path(), &["verify", "--dry-run"]).success();
    assert!(plan.stdout.contains("simple_product: logit difference"), "{}", plan.stdout);
}

#[test]
fn a_number_that_is_off_fails() {
    let data = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(GOLDEN).unwrap();
    let baselines = text.split("\n\n").nth(1).unwrap();
    let clean = baselines.lines().find(|line| line.starts_with("\"clean\"")).unwrap();
    let path = data.path().join("wrong.toml");
    std::fs::write(&path, text.replace(clean, "\"clean\" = 3.5607")).unwrap();
    // The built-in file is met and the other one is not in one number, by 1e-3 where 1e-4 is allowed.
    let arguments = ["verify", "--experiments", "baselines", "--golden", path.to_str().unwrap()];
    let finished = run_in(data.path(), &arguments);
    assert!(finished.stdout.contains("FAILED") && finished.stdout.contains("11 numbers passed, 1 failed"));
    finished.fails(1, &["1 of 12 numbers are off"]);
    let finished = run_in(data.path(), &[&arguments[..], &["--json"]].concat());
    let all = finished.json();
    let off = all.as_array().unwrap().iter().flat_map(|entry| entry["values"].as_array().unwrap());
    let off: Vec<_> = off.filter(|value| value["passed"] == false).collect();
    assert_eq!((off.len(), &off[0]["name"], &off[0]["theirs"]), (1, &"clean".into(), &3.5607.into()));
    finished.fails(1, &["1 of 12"]);
    // As a step of an analysis it fails that, and the step behind it is run.
    let analysis = data.path().join("analysis.toml");
    let steps = "[[steps]]\ncommand = \"verify\"\nexperiments = \"baselines\"\ngolden = \"PATH\"\n[[steps]]\n";
    let steps = format!("model = \"demo\"\n{steps}command = \"random-directions\"\n");
    std::fs::write(&analysis, steps.replace("PATH", path.to_str().unwrap())).unwrap();
    let options = ["--weight-processing", "fold_ln,center_writing_weights,center_unembed,fold_value_biases"];
    let arguments = [&["circuit", "--config", analysis.to_str().unwrap(), "--"][..], &options].concat();
    let finished = run_in(data.path(), &arguments);
    assert!(finished.stdout.contains("11 numbers passed, 1 failed") && finished.stderr.contains("step 2: random"));
    finished.fails(1, &["analysis.toml: step 1: 1 of 12 numbers are off"]);
    // Random weights are no trained ones.
    let text = text.replace("model = \"demo\"", "model = \"random-pythia-14m\"");
    std::fs::write(&path, text).unwrap();
    let random = ["verify", "--models", "random:pythia-14m", "--experiments", "baselines", "--golden"];
    run_in(data.path(), &[&random[..], &[path.to_str().unwrap()]].concat()).fails(1, &["6 of 6 numbers are off"]);
}

#[test]
fn what_cannot_run_says_why() {
    let data = tempfile::tempdir().unwrap();
    let cache = data.path().join("cache");
    let verify = |extra: &[&str]| {
        let mut command = actpatch(&[&["verify", "--models", "gpt2-small", "--json"], extra].concat());
        finish(command.arg("--data-dir").arg(data.path()).env("HF_HUB_CACHE", &cache))
    };
    let finished = verify(&[]);
    let json = finished.json();
    let reasons: Vec<&str> =
        json.as_array().unwrap().iter().map(|entry| entry["cannot_run"].as_str().unwrap()).collect();
    for reason in ["HF_HUB_OFFLINE", "directions import FOLDER --model gpt2-small"] {
        assert!(reasons.iter().any(|found| found.contains(reason)), "{reason} is not in {reasons:?}");
    }
    finished.fails(1, &["no number could be checked"]);

    // Settings are read before weights: those of all built-in files are whole.
    for model in ["pythia-1.4b", "pythia-2.8b", "stablelm-base-alpha-3b"] {
        let mut command = actpatch(&["verify", "--models", model]);
        let finished = finish(command.arg("--data-dir").arg(data.path()).env("HF_HUB_CACHE", &cache));
        finished.fails(1, &["no number could be checked"]);
    }

    let entry = "tolerance = 1\nvalues = { clean = 1 }\n";
    let path = golden(data.path(), "demo", &format!("experiment = \"telepathy\"\n{entry}"));
    let arguments = ["verify", "--json", "--experiments", "telepathy", "--golden", &path];
    let finished = run_in(data.path(), &arguments);
    assert_eq!(finished.json()[0]["cannot_run"], "there is no experiment telepathy to run yet");
    finished.fails(1, &["no number could be checked"]);
    let try_one = |settings: &str| {
        let path = golden(data.path(), "demo", &format!("{settings}\n{entry}"));
        run_in(data.path(), &["verify", "--json", "--experiments", "baselines", "--golden", &path])
    };
    let reason = |settings: &str| {
        let json = try_one(settings).success().json();
        json.as_array().unwrap().last().unwrap()["cannot_run"].as_str().unwrap().to_owned()
    };
    let missing = reason("experiment = \"baselines\"\nmissing = \"the prompts are lost\"");
    assert_eq!(missing, "the prompts are lost");
    let treebank = reason("experiment = \"baselines\"\ndataset = \"treebank_test\"\nscaffold = \"classification\"");
    assert!(
        treebank.contains("treebank_test_classification.toml") && treebank.contains("treebank-data-gen"),
        "{treebank}"
    );
}

#[test]
fn golden_files_that_are_wrong_are_named() {
    let data = tempfile::tempdir().unwrap();
    let tail = "tolerance = 1\nvalues = { clean = 1 }\n";
    let simple =
        |kind: &str, settings: &str| format!("experiment = \"{kind}\"\ndataset = \"simple\"\n{settings}\n{tail}");
    let values = "method = \"zero\"\nnodes = [\"v:0\"]\n";
    for (entry, words) in [
        ("experiment = \"baselines\"\n", &["golden.toml", "content", "tolerance"][..]),
        ("experiment = \"baselines\"\ntolerance = -1\nvalues = { clean = 1 }", &["golden.toml", "\"mine\": tolerance"]),
        (&format!("experiment = \"baselines\"\n{tail}"), &["mine", "dataset"]),
        (&format!("experiment = \"baselines\"\ndataset = \"nope\"\n{tail}"), &["mine", "`nope`"]),
        (&format!("experiment = \"baselines\"\ndataset = \"simple\"\nlayer = 3\n{tail}"), &["mine", "layer"]),
        (
            "experiment = \"baselines\"\ndataset = \"simple\"\ntolerance = 1\nvalues = { both = 1 }",
            &["mine", "values.both", "no such number"],
        ),
        (&simple("baselines", "prompts = [99]"), &["mine", "prompts", "no prompt 99 of"]),
        (&simple("baselines", "prompts = []"), &["mine", "prompts", "at least one"]),
        (&simple("logit_attribution", "map = \"lenses\""), &["mine", "map", "lenses", "lens_by_position"]),
        (&simple("logit_attribution", "map = \"heads\""), &["mine", "values.clean", "no such number"]),
        (&simple("ablation", "method = \"zero\"\nnodes = [\"v\"]"), &["mine", "nodes", "v:0"]),
        (&simple("ablation", "method = \"zero\"\nnodes = [\"v:99\"]"), &["mine", "99"]),
        (&simple("ablation", "method = \"melt\"\nnodes = [\"v:0\"]"), &["mine", "method", "melt", "resample"]),
        (&simple("ablation", &format!("{values}positions = \"NOUN\"")), &["mine", "positions", "NOUN"]),
        (&simple("ablation", &format!("{values}keep_at = \"300\"")), &["mine", "keep_at", "300"]),
        (&simple("ablation", &format!("{values}keep_at = \"ALL\"")), &["mine", "no prompt of simple"]),
        (
            "experiment = \"directional_patching\"\ntrain_set = \"simple\"\neval_set = \"simple\"\n\
             metric = \"logit_diff\"\ntolerance = 1\nvalues = { das4d = 1 }",
            &["mine", "das4d"],
        ),
    ] {
        let path = golden(data.path(), "random-pythia-14m", entry);
        run_in(data.path(), &["verify", "--models", "random:pythia-14m", "--golden", &path]).fails(1, words);
    }
    run_in(data.path(), &["verify", "--golden", "nowhere.toml"]).fails(1, &["nowhere.toml"]);
    run_in(data.path(), &["verify", "--models", "gpt2-medium"])
        .fails(1, &["no golden numbers for gpt2-medium", "demo"]);
    run_in(data.path(), &["verify", "--experiments", "nope"]).fails(1, &["--experiments", "nope", "baselines"]);
    run_in(data.path(), &["verify", "--models", "nope"]).fails(1, &["--models", "`nope`"]);
}
