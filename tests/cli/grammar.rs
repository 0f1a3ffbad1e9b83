//! One grammar on every command (docs/grammar.md): models, datasets, layers, positions, heads, directions.

use super::*;

/// Every command that computes on a model, with what it needs beside its usual settings.
const COMMANDS: [&str; 19] = [
    "fit-directions --methods pca --layers 1",
    "random-directions",
    "direction-patching-suite --directions mean_diff*layer1",
    "activation-patching-maps --maps z",
    "path-patching --receivers v:2.2",
    "attribution-patching --maps z",
    "ablation-maps --maps z",
    "ablation --nodes z:1.0",
    "faithfulness --heads 1.0",
    "logit-attribution --maps layers",
    "logit-lens",
    "attention --heads 1.0",
    "head-cosines --nodes 1.0@END",
    "neuron-cosines --directions mean_diff*layer1",
    "probing",
    "ccs",
    "neuroscope --text hello --directions mean_diff*layer1",
    "text-loss --text hello --methods zero",
    "steering --directions mean_diff*layer1",
];

/// What a command line would do on a folder with directions.
fn planned(data: &Path, line: &str, more: &[&str]) -> Finished {
    let words: Vec<&str> = line.split_whitespace().chain(more.iter().copied()).chain(["--dry-run"]).collect();
    run_in(data, &words)
}

#[test]
fn settings_go_by_their_plural_and_their_singular() {
    let data = fitted();
    for line in COMMANDS {
        let plain = planned(data.path(), line, &[]).success().stdout;
        for option in ["--models", "--model"] {
            assert_eq!(planned(data.path(), line, &[option, "demo"]).success().stdout, plain, "{line} {option}");
        }
        if planned(data.path(), line, &["--eval-sets", "simple_test"]).code == 2 {
            continue;
        }
        let of = |option| planned(data.path(), line, &[option, "simple_product"]).success().stdout;
        assert_eq!(of("--eval-set"), of("--eval-sets"), "{line}");
    }
    let self_check = |option| finish(&mut actpatch(&["self-check", option, "simple_test", "--layers", "1"])).code;
    assert_eq!((self_check("--eval-set"), self_check("--eval-sets")), (0, 0));
}

#[test]
fn layers_are_numbers_and_ranges_also_from_the_end() {
    let data = fitted();
    let lines = [
        "fit-directions --methods pca --overwrite",
        "ablation --directions mean_diff_simple_train_ADJ_layer1",
        "neuroscope --text hello --directions mean_diff_simple_train_ADJ",
        "text-loss --text hello --directions mean_diff_simple_train_ADJ --methods zero",
        "steering --directions mean_diff_simple_train_ADJ",
        "logit-lens --text hello",
    ];
    for line in lines {
        let of = |layers: &str| planned(data.path(), line, &[&format!("--layers={layers}")]).success().stdout;
        for (same, all) in [
            ("2", &["2..2", "2,2", "-3"][..]),
            ("1,2,3", &["1..3", "1..2,3", "-4..3", "1..-2"]),
            ("0,1,2,3", &["..3", "0..3"]),
        ] {
            for layers in all {
                assert_eq!(of(layers), of(same), "{line}: {layers} is {same}");
            }
        }
    }
    let whole = |layers: &str| planned(data.path(), lines[0], &[&format!("--layers={layers}")]).success().stdout;
    assert_eq!(whole("all"), whole("0.."));
    planned(data.path(), lines[0], &["--layers", "5"]).fails(1, &["--layers", "5 is outside 0 to 4"]);
}

#[test]
fn positions_are_names_and_numbers_also_from_the_end() {
    let data = fitted();
    // `simple_test`: 19 tokens, the adjective at 6.
    let shown = run_in(data.path(), &["datasets", "show", "simple_test", "--json"]).success().json();
    let (adjective, last) = (&shown["positions"]["ADJ"], 18);
    assert_eq!(*adjective, 6);
    for (line, option) in [
        ("fit-directions --train-sets simple_test --methods pca --layers 1", "--positions"),
        ("direction-patching-suite --directions mean_diff*layer1 --eval-sets simple_test", "--positions"),
        ("ablation --nodes z:1.0 --eval-sets simple_test", "--positions"),
        ("path-patching --senders z:1.0 --receivers v:2.2 --eval-sets simple_test", "--positions"),
        ("attention --heads 2.2 --eval-sets simple_test", "--to"),
        ("logit-lens --directions mean_diff*layer1 --eval-sets simple_test", "--positions"),
    ] {
        for position in ["ADJ", "6", "-13", "END", "-1", "18"] {
            planned(data.path(), line, &[&format!("{option}={position}")]).success();
        }
        planned(data.path(), line, &[option, "19"]).fails(1, &[option, "0 to 18", "found 19"]);
        planned(data.path(), line, &[option, "XYZ"]).fails(1, &[option, "XYZ"]);
    }
    let rows = |position: &str| {
        let ablation = ["ablation", "--nodes", "z:1.0", "--eval-sets", "simple_test", "--json"];
        let rows = run_in(data.path(), &[&ablation[..], &[&format!("--positions={position}")]].concat()).success();
        let rows = rows.json()[0]["tables"][0]["rows"].clone();
        let rows = rows.as_array().unwrap().iter().map(|row| row["logit_diff"].clone());
        rows.collect::<Vec<_>>()
    };
    assert_eq!(rows("6"), rows("ADJ"));
    assert_eq!(rows("-13"), rows("ADJ"));
    assert_eq!(rows(&last.to_string()), rows("END"));
    assert_ne!(rows("END"), rows("ADJ"));
}

#[test]
fn heads_are_spelled_alike_wherever_heads_are_asked_for() {
    let data = fitted();
    for line in [
        "faithfulness --heads",
        "attention --heads",
        "direction-patching-suite --directions mean_diff*layer1 --heads",
        "ablation --nodes",
        "path-patching --receivers v:2.2 --senders",
    ] {
        let plain = planned(data.path(), line, &["1.2"]).success();
        assert_eq!(planned(data.path(), line, &["z:1.2"]).success().stdout, plain.stdout, "{line}");
        planned(data.path(), line, &["1.2,z:1.3"]).success();
    }
    for node in ["1.2@END", "z:1.2@END"] {
        planned(data.path(), "head-cosines --nodes", &[node]).success();
        planned(data.path(), "faithfulness --heads", &[node]).success();
    }
    for line in ["ablation --nodes", "path-patching --receivers"] {
        planned(data.path(), line, &["1.2@END"]).fails(2, &["no position behind a node", "@END"]);
    }
    for heads in ["all", "top:2"] {
        planned(data.path(), "attention --heads", &[heads]).success();
    }
}

#[test]
fn directions_go_by_their_names_however_layers_are_written() {
    let data = fitted();
    let name = "mean_diff_simple_train_ADJ_layer1";
    for line in [
        "direction-patching-suite --directions",
        "ablation --directions",
        "neuroscope --text hello --directions",
        "text-loss --text hello --methods zero --directions",
        "negation --directions",
        "steering --directions",
        "neuron-cosines --directions",
        "logit-lens --directions",
        "logit-attribution --along",
        "activation-patching-maps --maps z --along",
    ] {
        let plain = planned(data.path(), line, &[name]).success().stdout;
        for spelled in ["mean_diff_simple_train_ADJ_layer01", "mean_diff_simple_train_ADJ_layer1.npy"] {
            assert_eq!(planned(data.path(), line, &[spelled]).success().stdout, plain, "{line} {spelled}");
        }
        match line.ends_with("--along") {
            true => planned(data.path(), line, &["mean_diff*layer1"]).fails(1, &["--along"]),
            false => assert_eq!(planned(data.path(), line, &["mean_diff*layer1"]).success().stdout, plain, "{line}"),
        }
    }
}

#[test]
fn what_runs_a_model_tells_the_memory_it_will_take() {
    let data = fitted();
    let others = ["self-check --layers 1", "negation --directions mean_diff*layer1", "reproduce", "demo"];
    for line in COMMANDS.iter().chain(&others) {
        // Cosines of weights, and draws, run nothing.
        if line.starts_with("neuron-cosines") || line.starts_with("random-directions") {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().chain(["--overwrite", "--dry-run"]).collect();
        let told = run_in(data.path(), &words);
        let told = if told.code == 2 { planned(data.path(), line, &[]) } else { told }.success().stdout;
        assert!(told.contains("about ") && told.contains(" of memory"), "{line}: {told}");
    }
}

#[test]
fn a_circuit_answers_in_json_as_its_steps_do() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("two.toml");
    let steps = "model = \"demo\"\n[[steps]]\ncommand = \"faithfulness\"\nheads = [\"1.0\"]\n\
                 [[steps]]\ncommand = \"logit-attribution\"\nmaps = [\"layers\"]\n";
    std::fs::write(&file, steps).unwrap();
    let circuit = run_in(data.path(), &["circuit", "--config", file.to_str().unwrap(), "--json", "--"]).success();
    let told = circuit.json();
    let faithfulness = run_in(data.path(), &["faithfulness", "--heads", "1.0", "--json"]).success().json();
    let layers = run_in(data.path(), &["logit-attribution", "--maps", "layers", "--json"]).success().json();
    assert_eq!(told.as_array().unwrap().len(), 2);
    assert!(faithfulness[0]["tables"].is_array() && layers[0]["maps"].is_array());
    assert_eq!(
        (&told[0]["results"]["tables"], &told[1]["results"]["maps"]),
        (&faithfulness[0]["tables"], &layers[0]["maps"])
    );
}

#[test]
fn what_was_not_written_is_not_counted() {
    let data = tempfile::tempdir().unwrap();
    let fit = ["fit-directions", "--methods", "mean_diff", "--layers", "1"];
    run_in(data.path(), &fit).success();
    let again = run_in(data.path(), &fit).success();
    assert!(!again.stdout.contains("1 direction ") && again.stderr.contains("1 directions exist already"), "{again:?}");
}
