//! `--json`: one document on stdout of every command that has an outcome.

use super::*;
use serde_json::Value;
use std::collections::BTreeSet;

/// Commands that print or write what is no result, and the one that does not end.
const WITHOUT: [&str; 3] = ["completions", "man", "serve"];

/// What every other command does here, in one folder, one after the other; `$` is that folder. What takes long is planned.
const LINES: &[&str] = &[
    "demo --dry-run",
    "reproduce --dry-run --methods random --layers 1",
    "fit-directions --methods mean_diff --layers 4",
    "random-directions",
    "datasets list",
    "datasets show simple_test",
    "datasets check $/pairs.csv",
    "direction-patching-suite --directions mean_diff*",
    "direction-patching-suite --directions random*layer03 --shard 0/1",
    "merge",
    "status",
    "report",
    "direction-patching-results",
    "directions import $/theirs_layer4.json --model demo",
    "directions list",
    "directions show mean_diff*",
    "directions compare *layer4 *layer04",
    "activation-patching-maps --maps attn_out",
    "path-patching --senders mlp_out:0 --receivers resid_post:3",
    "ablation-maps --maps attn_out --methods zero",
    "ablation --nodes z:1.0 --methods zero",
    "faithfulness --heads 1.0",
    "logit-attribution --maps layers",
    "logit-lens --prompts 0 --top 1",
    "attribution-patching --maps attn_out",
    "attention --heads 0.0",
    "probing --components mlp_out",
    "ccs --eval-sets classification_4 --epochs 2 --tries 1",
    "neuroscope --text good --directions random* --layers 1",
    "label-shares --labels $/labelled.csv",
    "text-loss --text I_loved_it. --directions random_direction_layer01 --methods zero",
    "negation --directions random*layer01",
    "head-cosines --nodes 0.0@ADJ,2.2@END",
    "neuron-cosines --directions random_direction_layer01",
    "steering --directions random_direction_layer01 --coefficients 0 --samples 1 --max-new-tokens 2",
    "treebank-data-gen --root tests/fixtures/treebank",
    "self-check --layers 1",
    "verify --experiments token_ids",
    "bench --workloads cell:1 --repetitions 1 --prompts 4 --tokens 6",
    "circuit --config $/circuit.toml",
];

/// The commands that have no commands of their own, as the reference has them.
fn commands() -> BTreeSet<String> {
    let reference = actpatch::cli::reference();
    let names: Vec<&str> = reference.lines().filter_map(|line| line.strip_prefix("## actpatch ")).collect();
    let whole = |name: &&&str| !names.iter().any(|other| other.starts_with(&format!("{name} ")));
    names.iter().filter(whole).map(|name| (*name).to_owned()).collect()
}

/// A file in a folder of one's own.
fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn every_command_prints_its_outcome_as_one_document() {
    let data = tempfile::tempdir().unwrap();
    file(data.path(), "pairs.csv", "clean,corrupted,answer,wrong_answer\nI loved it,I hated it, great, bad\n");
    file(data.path(), "labelled.csv", "value,sentiment\n-5,Negative\n5,Positive\n");
    file(data.path(), "theirs_layer4.json", &serde_json::json!(vec![1.0; 128]).to_string());
    let steps = "[[steps]]\ncommand = \"ablation\"\nnodes = \"z:1.0\"\n[[steps]]\ncommand = \"random-directions\"\n";
    file(data.path(), "circuit.toml", &format!("model = \"demo\"\n{steps}"));
    let mut seen = BTreeSet::new();
    for line in LINES {
        let line = line.replace('$', &data.path().display().to_string());
        let words: Vec<&str> = line.split(' ').collect();
        let of_steps: &[&str] = if words[0] == "circuit" { &["--"] } else { &[] };
        let mut command = actpatch(&[&words[..], &["--json"], of_steps].concat());
        if words[0] != "label-shares" {
            command.arg("--data-dir").arg(data.path());
        }
        let finished = finish(&mut command);
        assert_eq!(finished.code, 0, "{line}: {}", finished.stderr);
        // Two documents, or anything beside one, would be no document.
        let filled = match serde_json::from_str(&finished.stdout) {
            Ok(Value::Array(entries)) => !entries.is_empty(),
            Ok(Value::Object(fields)) => !fields.is_empty(),
            other => panic!("{line}: {other:?}: {}", finished.stdout),
        };
        assert!(filled, "{line}: {}", finished.stdout);
        let name =
            if ["datasets", "directions"].contains(&words[0]) { words[..2].join(" ") } else { words[0].to_owned() };
        seen.insert(name);
    }
    seen.extend(WITHOUT.map(str::to_owned));
    assert_eq!(seen, commands(), "every command has a line here, and --json");
}

#[test]
fn an_analysis_is_one_document_also_when_a_step_fails() {
    let data = tempfile::tempdir().unwrap();
    let first = "model = \"demo\"\n[[steps]]\ncommand = \"ablation\"\nnodes = \"z:1.0\"\nmethods = \"zero\"\n";
    let analysis = |name: &str, second: &str| {
        let config = file(data.path(), name, &format!("{first}[[steps]]\n{second}"));
        let options = ["--", "--data-dir", data.path().to_str().unwrap()];
        finish(&mut actpatch(&[&["circuit", "--config", &config, "--json"], &options[..]].concat()))
    };
    let json = analysis("both.toml", "command = \"random-directions\"\n").success().json();
    assert_eq!((&json[0]["step"], &json[0]["command"]), (&1.into(), &"ablation".into()));
    let own = run_in(data.path(), &["ablation", "--nodes", "z:1.0", "--methods", "zero", "--json"]).success().json();
    assert_eq!(json[0]["results"]["tables"], own[0]["tables"]);
    assert_eq!((&json[1]["step"], json[1]["results"]["written"].as_array().unwrap().len()), (&2.into(), 5));
    let failed = analysis("failed.toml", "command = \"ablation\"\nnodes = \"z:9.0\"\n");
    assert_eq!(failed.json().as_array().unwrap().len(), 1, "what is done is printed");
    failed.fails(1, &["failed.toml: step 2"]);
}

#[test]
fn plans_are_documents_too() {
    let data = tempfile::tempdir().unwrap();
    run_in(data.path(), &["random-directions"]).success();
    let plan = ["direction-patching-suite", "--dry-run", "--json", "--models", "demo,random:pythia-14m"];
    let failed = run_in(data.path(), &plan);
    // The second model has no directions.
    assert_eq!((failed.code, &failed.json()[0]["model"]), (1, &"demo".into()));
    let json = run_in(data.path(), &plan[..3]).success().json();
    assert!(json[0]["operations"].as_u64() > Some(0) && json[0]["memory_bytes"].as_u64() > Some(0), "{json}");
    assert!(json[0]["plan"].as_str().unwrap().contains("total"), "{json}");
    let circuit = "data/experiments/toy_movie_review.toml";
    let options = ["--", "--dry-run", "--data-dir", data.path().to_str().unwrap()];
    let json = finish(&mut actpatch(&[&["circuit", "--config", circuit, "--json"], &options[..]].concat())).success();
    assert!(json.json().as_array().unwrap().len() > 1);
}
