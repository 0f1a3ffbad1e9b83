//! Attribution, attention and probes by the command line, on the demo model.

use super::*;
use serde_json::Value;

fn map<'a>(found: &'a Value, ending: &str) -> &'a Value {
    let maps = found[0]["maps"].as_array().unwrap();
    let ends = |map: &&Value| map["file"].as_str().unwrap().ends_with(ending);
    maps.iter().find(ends).unwrap_or_else(|| panic!("{ending} in {found}"))
}

fn numbers(values: &Value) -> Vec<f64> {
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

#[test]
fn logits_are_attributed_to_layers_heads_and_neurons() {
    let data = tempfile::tempdir().unwrap();
    let arguments = ["logit-attribution", "--maps", "lens,lens_by_position,layers,heads,neurons"];
    let found = run_in(data.path(), &[&arguments[..], &["--json"]].concat()).success().json();
    let layers = map(&found, "_clean_simple_plain_layers");
    assert_eq!((&layers["components"][0], &layers["components"][10]), (&"embed".into(), &"bias".into()));
    // What layers write is what the lens sees at the end, and heads are most of their layer's attention.
    let (lens, written) = (numbers(&map(&found, "_clean_simple_plain_lens")["logits"]), numbers(&layers["logits"]));
    let sum: f64 = written.iter().sum();
    assert!(sum > 1.0 && (sum - lens[8] - written[10]).abs() < 1e-4, "{sum} {lens:?}");
    let heads = numbers(&map(&found, "_clean_simple_plain_heads")["logits"]);
    assert!((heads[8..12].iter().sum::<f64>() / written[6] - 1.0).abs() < 0.1, "{heads:?} {written:?}");
    let folder = data.path().join("demo");
    let table = std::fs::read_to_string(folder.join("logit_attribution_clean_simple_plain_layers.csv")).unwrap();
    assert!(table.starts_with("component,logits\nembed,"), "{table}");
    for ending in ["npy", "svg", "png", "pdf", "html"] {
        assert!(folder.join(format!("logit_attribution_clean_simple_plain_neurons.{ending}")).is_file(), "{ending}");
    }
    let again = run_in(data.path(), &arguments).success();
    assert!(again.stderr.contains("5 maps exist already"), "{}", again.stderr);
    let plan = run_in(data.path(), &["logit-attribution", "--of", "difference", "--dry-run"]).success();
    assert!(plan.stdout.contains("neurons    2048") && plan.stdout.contains("FLOP"), "{}", plan.stdout);
    run_in(data.path(), &["logit-attribution", "--maps", "mlps"]).fails(2, &["--maps", "expected one of lens"]);
    run_in(data.path(), &["logit-attribution", "--of", "both"]).fails(2, &["--of", "difference"]);
}

#[test]
fn attribution_patching_stands_beside_exact_patching() {
    let data = tempfile::tempdir().unwrap();
    let arguments =
        ["attribution-patching", "--maps", "z,resid_pre,post", "--metrics", "logit_diff,logit_diff_noising"];
    let found = run_in(data.path(), &[&arguments[..], &["--json"]].concat()).success().json();
    assert_eq!(found[0]["maps"].as_array().unwrap().len(), 6);
    let post = map(&found, "attribution_patching_logit_diff_noising_simple_plain_post");
    assert_eq!((&post["axes"][1], &post["shape"]), (&"neuron".into(), &serde_json::json!([4, 512])));
    let again = run_in(data.path(), &arguments).success();
    assert!(again.stderr.contains("6 maps exist already"), "{}", again.stderr);

    let exact = ["attribution-patching", "--maps", "z,resid_pre", "--exact", "--integrated", "6"];
    let compared = run_in(data.path(), &[&exact[..], &["--json"]].concat()).success().json();
    for kind in ["z", "resid_pre"] {
        let estimate = map(&compared, &format!("integrated_gradients_6_logit_diff_simple_plain_{kind}"));
        let exact = map(&compared, &format!("activation_patching_logit_diff_simple_plain_{kind}"));
        let agreement = &estimate["beside_exact"];
        let pairs = numbers(&estimate["percent"]).into_iter().zip(numbers(&exact["percent"]));
        let largest = pairs.map(|(estimate, exact)| (estimate - exact).abs()).fold(0.0, f64::max);
        assert_eq!(agreement["largest_difference"], largest, "{kind}");
        assert!(agreement["correlation"].as_f64().unwrap() > 0.7, "{kind}: {agreement}");
        assert_eq!(exact["beside_exact"], Value::Null);
    }
    let printed = run_in(data.path(), &exact).success();
    assert_eq!(printed.stdout.matches("beside exact patching: correlation ").count(), 2, "{}", printed.stdout);
    let plan = run_in(data.path(), &["attribution-patching", "--maps", "pre", "--dry-run"]).success();
    assert!(plan.stdout.contains("all maps of a metric from gradients"), "{}", plan.stdout);
}

#[test]
fn what_cannot_be_attributed_is_named() {
    let data = tempfile::tempdir().unwrap();
    let run = |extra: &[&str]| run_in(data.path(), &[&["attribution-patching"], extra].concat());
    run(&["--metrics", "logit_flip"]).fails(1, &["--metrics", "found logit_flip"]);
    run(&["--maps", "result"]).fails(2, &["--maps", "unknown map"]);
    run(&["--maps", "attn_out_by_position"]).fails(2, &["--maps", "unknown map"]);
    run(&["--integrated", "0"]).fails(2, &["--integrated", "0"]);
    run(&["--models", "random:pythia-14m", "--maps", "resid_mid"]).fails(1, &["resid_mid", "in parallel"]);
    assert_eq!(files(data.path()).len(), 0);
}

#[test]
fn attention_of_the_largest_heads_is_drawn() {
    let data = tempfile::tempdir().unwrap();
    let arguments = ["attention", "--heads", "top:2", "--prompts", "1", "--to", "ADJ,18"];
    let found = run_in(data.path(), &[&arguments[..], &["--json"]].concat()).success().json();
    assert_eq!(found[0]["maps"].as_array().unwrap().len(), 6);
    let mean = map(&found, "attention_mean_simple_plain_top2");
    assert_eq!((&mean["components"][0], &mean["shape"]), (&"2.3".into(), &serde_json::json!([2, 19, 19])));
    for kind in ["mean", "weighted", "prompt1"] {
        let rows = numbers(&map(&found, &format!("attention_{kind}_simple_plain_top2"))["probability"]);
        // Every query's probabilities add up to one, and nobody looks ahead.
        assert!(rows.chunks(19).all(|row| (row.iter().sum::<f64>() - 1.0).abs() < 1e-5), "{kind}");
        assert!(
            (0..18).all(|query| rows[query * 19 + query + 1..(query + 1) * 19].iter().all(|p| *p == 0.0)),
            "{kind}"
        );
    }
    // The head that writes most reads the adjective: its contribution is that of logit-attribution.
    let to = map(&found, "attention_to_ADJ_simple_plain_top2");
    assert!(numbers(&to["probability"])[..26].iter().all(|p| *p > 0.5), "{to}");
    let contribution = numbers(&map(&found, "attention_contribution_simple_plain_top2")["logits"]);
    let heads = run_in(data.path(), &["logit-attribution", "--maps", "heads", "--json"]).success().json();
    let heads = numbers(&map(&heads, "_heads")["logits"]);
    assert!((contribution[..26].iter().sum::<f64>() / 26.0 - heads[11]).abs() < 1e-6, "{contribution:?} {heads:?}");
    let table = std::fs::read_to_string(data.path().join("demo/attention_mean_simple_plain_top2.csv")).unwrap();
    assert!(table.starts_with("head,query,key,probability\n2.3,0,0,1\n"), "{}", &table[..100]);
    assert!(data.path().join("demo/attention_to_18_simple_plain_top2.png").is_file());
    let plan = run_in(data.path(), &["attention", "--heads", "2.3,1.0", "--dry-run"]).success();
    assert!(plan.stdout.contains("2.3-1.0") && plan.stdout.contains("FLOP"), "{}", plan.stdout);
}

#[test]
fn attention_is_there_when_its_figure_cannot_be_written() {
    let data = tempfile::tempdir().unwrap();
    let arguments = ["attention", "--heads", "2.3", "--maps", "mean"];
    let stem = data.path().join("demo/attention_mean_simple_plain_2.3");
    let path = |ending: &str| PathBuf::from(format!("{}.{ending}", stem.display()));
    std::fs::create_dir_all(path("svg").join("in the way")).unwrap();
    run_in(data.path(), &arguments).fails(1, &["attention_mean_simple_plain_2.3.svg"]);
    assert!(path("npy").is_file() && path("csv").is_file());
    std::fs::remove_dir_all(path("svg")).unwrap();
    let again = run_in(data.path(), &arguments).success();
    assert!(again.stderr.contains("exist already"), "{}", again.stderr);
    assert!(path("svg").is_file());
}

#[test]
fn attention_that_is_not_there_is_named() {
    let data = tempfile::tempdir().unwrap();
    let run = |extra: &[&str]| run_in(data.path(), &[&["attention"], extra].concat());
    run(&["--heads", "9"]).fails(2, &["--heads", "9.2,10.4"]);
    run(&["--heads", "top:0"]).fails(2, &["--heads", "top:6"]);
    run(&["--heads", "4.0"]).fails(1, &["--heads", "layers 0 to 3", "found 4.0"]);
    run(&["--prompts", "26"]).fails(1, &["--prompts: ", "prompt: expected 0 to 25, found 26"]);
    run(&["--to", "XYZ"]).fails(1, &["XYZ"]);
    run(&["--to", "19"]).fails(1, &["--to", "0 to 18", "found 19"]);
    run(&["--to", "ALL"]).fails(1, &["--to", "one position"]);
    assert_eq!(files(data.path()).len(), 0);
}

#[test]
fn probes_find_the_class_where_it_is() {
    let data = tempfile::tempdir().unwrap();
    let arguments = ["probing", "--components", "resid_post,attn_out", "--json"];
    let found = run_in(data.path(), &arguments).success().json();
    let test = map(&found, "probing_test_simple_plain_resid_post");
    assert_eq!(
        (&test["axes"], &test["shape"]),
        (&serde_json::json!(["layer", "position"]), &serde_json::json!([4, 19]))
    );
    let (test, train) =
        (numbers(&test["percent"]), numbers(&map(&found, "probing_train_simple_plain_resid_post")["percent"]));
    // In front of the adjective nothing differs; behind it the class can be read, and at the end of the model at END.
    assert!(train[..6].iter().all(|accuracy| *accuracy < 70.0), "{train:?}");
    assert_eq!((train[6], test[3 * 19 + 18]), (100.0, 100.0), "{train:?} {test:?}");
    let weights: ndarray::Array3<f32> =
        ndarray_npy::read_npy(data.path().join("demo/probing_test_simple_plain_resid_post_weights.npy")).unwrap();
    assert_eq!(weights.shape(), [4, 19, 129]);
    assert!(weights.iter().all(|weight| weight.is_finite()));
    let run = |extra: &[&str]| run_in(data.path(), &[&["probing"], extra].concat());
    run(&["--components", "pattern"]).fails(1, &["--components", "pattern"]);
    run(&["--components", "result"]).fails(2, &["--components", "resid_pre"]);
    assert!(run(&["--overwrite", "--dry-run"]).success().stdout.contains("[4, 19] values"));
}

#[test]
fn contrast_consistent_search_stands_beside_labels() {
    let data = tempfile::tempdir().unwrap();
    let arguments = ["ccs", "--epochs", "300", "--tries", "4", "--eval-sets", "simple,simple_test", "--json"];
    let found = run_in(data.path(), &arguments).success().json();
    let found = map(&found, "ccs_accuracy_simple_plain_resid");
    assert_eq!((&found["components"][0], &found["shape"]), (&"ccs_test".into(), &serde_json::json!([4, 5])));
    let percent = numbers(&found["percent"]);
    assert!(percent.iter().all(|accuracy| (0.0..=100.0).contains(accuracy)), "{percent:?}");
    // In front of the first block there is nothing but the completion's own token.
    assert!(percent[6..10].iter().all(|train| *train > 90.0), "labels choose the side: {percent:?}");
    assert!(percent[11..15].iter().all(|supervised| *supervised > 90.0), "{percent:?}");
    let weights: ndarray::Array2<f32> =
        ndarray_npy::read_npy(data.path().join("demo/ccs_accuracy_simple_plain_resid_weights.npy")).unwrap();
    assert_eq!(weights.shape(), [5, 129]);

    // Every layer's direction is that of its weights; in front of the first block completions do not differ.
    let folder = data.path().join("demo");
    assert!(!folder.join("ccs_simple_ANSWER_layer0.npy").exists());
    for layer in 1..=4 {
        let name = format!("ccs_simple_ANSWER_layer{layer}");
        let direction: ndarray::Array1<f32> = ndarray_npy::read_npy(folder.join(format!("{name}.npy"))).unwrap();
        let weights = weights.row(layer).slice(ndarray::s![..128]).to_owned();
        let length = weights.dot(&weights).sqrt();
        assert!((&direction * length - &weights).iter().all(|off| off.abs() < 1e-6 * length), "{name}");
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap();
        assert_eq!((&record["method"], &record["position"]), (&"ccs".into(), &"ANSWER".into()));
        assert_eq!((&record["model"], &record["settings"]["epochs"]), (&"demo".into(), &300.into()));
        let train = record["final_metric"].as_f64().unwrap();
        assert!((100.0 * train - percent[5 + layer]).abs() < 1e-9, "{record}");
    }
    // Other commands take it.
    let run = |arguments: &[&str]| run_in(data.path(), arguments).success().stdout;
    let name = "ccs_simple_ANSWER_layer3";
    assert!(run(&["directions", "list", "ccs_*", "--model", "demo"]).contains(name));
    run(&["logit-attribution", "--along", name, "--maps", "heads"]);
    run(&["neuroscope", "--text", "A good film.", "--directions", "ccs_simple_*"]);
    run(&["steering", "--directions", name, "--coefficients", "4", "--samples", "1", "--max-new-tokens", "2"]);
    let suite = ["direction-patching-suite", "--directions", name];
    run(&suite);
    let results = folder.join("direction_patching_logit_diff_resid_plain.csv");
    let rows = || std::fs::read_to_string(&results).unwrap().matches("ccs_simple_ANSWER_layer03").count();
    assert_eq!(rows(), 1);
    // Another search takes the place of its directions, and of what was measured with them.
    run(&["ccs", "--epochs", "200", "--tries", "2", "--overwrite"]);
    assert!(!results.exists() || rows() == 0);
    run_in(data.path(), &["fit-directions", "--methods", "ccs"]).fails(2, &["--methods", "ccs"]);
    run(&suite);
    run_in(data.path(), &[&suite[..], &["--projection", "para"]].concat()).fails(1, &[name, "has no counterpart"]);
    run_in(data.path(), &["ccs", "--epochs", "0"]).fails(2, &["--epochs", "0"]);
    assert!(
        run_in(data.path(), &["ccs", "--overwrite", "--dry-run"]).success().stdout.contains("10 fits of 1000 epochs")
    );
}

#[test]
fn what_is_there_is_printed_again_and_its_lost_figures_drawn_again() {
    let data = fitted();
    let nodes = ["head-cosines", "--nodes", "2.3@END,2.2@END"];
    for (command, figure) in [
        (&["ablation-maps"][..], "ablation_mean_logit_diff_simple_plain_z"),
        (&["faithfulness", "--heads", "2.3"], "faithfulness_simple_plain"),
        (&["attribution-patching", "--maps", "z"], "attribution_patching_logit_diff_simple_plain_z"),
        (&["logit-attribution", "--maps", "lens,heads"], "logit_attribution_clean_simple_plain_lens"),
        (&["attention", "--heads", "top:2", "--prompts", "1"], "attention_prompt1_simple_plain_top2"),
        (&["probing"], "probing_test_simple_plain_resid_post"),
        (&["ccs", "--epochs", "50", "--tries", "1"], "ccs_accuracy_simple_plain_resid"),
        (&nodes, "head_cosines_cosine_simple_plain_2.3@END-2.2@END"),
        (&["neuron-cosines", "--directions", "das_*layer1"], "neuron_cosines_das_simple_train_ADJ_layer1"),
    ] {
        let run = |extra: &[&str]| run_in(data.path(), &[command, extra].concat()).success();
        let first = run(&[]);
        let (before, count) = (files(data.path()), manifests(data.path()).len());
        let png = data.path().join("demo").join(format!("{figure}.png"));
        std::fs::remove_file(&png).unwrap();
        run(&["--dry-run"]);
        assert!(!png.exists(), "a plan draws nothing: {figure}");
        let again = run(&[]);
        assert!(again.stderr.contains("exist already"), "{}", again.stderr);
        assert_eq!(first.stdout, again.stdout);
        assert!(files(data.path()) == before && manifests(data.path()).len() == count, "{figure}");
        assert_eq!(run(&["--json"]).json()[0]["manifest"], Value::Null);
    }
}

#[test]
fn what_was_made_of_something_else_is_made_again() {
    let data = fitted();
    let folder = data.path().join("demo");
    let run = |command: &[&str], extra: &[&str]| run_in(data.path(), &[command, extra].concat()).success();
    let renewed = |command: &[&str], extra: &[&str], difference: &str| {
        let made = run(command, extra);
        assert!(made.stderr.contains("is computed again: ") && made.stderr.contains(difference), "{}", made.stderr);
        let kept = run(command, extra);
        assert!(kept.stderr.contains("exist already") && !kept.stderr.contains("computed again"), "{}", kept.stderr);
        assert_eq!(kept.stdout, made.stdout);
    };
    let seeded = [&["probing"][..], &["ablation-maps", "--methods", "resample"]];
    for command in seeded {
        run(command, &[]);
        renewed(command, &["--seed", "1"], "seed: expected 1, found 0");
    }
    // Nothing is drawn at random, nothing changes with the number of threads or the size of batches.
    for command in [&["ablation-maps"][..], &["logit-attribution"], &["attention"], &["attribution-patching"]] {
        run(command, &[]);
        let other = run(command, &["--seed", "1", "--threads", "1", "--batch-tokens", "512"]);
        assert!(!other.stderr.contains("computed again"), "{}", other.stderr);
    }
    // Another direction of the same name.
    let name = "mean_diff_simple_train_ADJ_layer2";
    let along = ["logit-attribution", "--maps", "heads", "--along", name];
    let cosines = ["neuron-cosines", "--directions", name];
    let circuit = ["faithfulness", "--heads", "2.3", "--random", "0", "--directions", name];
    let used = [&along[..], &cosines, &circuit];
    used.iter().for_each(|command| drop(run(command, &[])));
    std::fs::copy(folder.join("pca_simple_train_ADJ_layer2.npy"), folder.join(format!("{name}.npy"))).unwrap();
    for (command, setting) in used.into_iter().zip(["along: ", "direction: ", "along: "]) {
        renewed(command, &[], setting);
    }
    // Files of version 0.1, which did not say what they were made of.
    std::fs::remove_dir_all(folder.join("provenance")).unwrap();
    renewed(&["probing"], &["--seed", "1"], "nothing says what it was made of");
}

#[test]
fn what_belongs_to_a_map_is_there_with_it() {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("demo");
    let run = |command: &[&str]| run_in(data.path(), command).success();
    let ccs = ["ccs", "--epochs", "50", "--tries", "1"];
    let (probing, to) = (["probing"], ["attention", "--heads", "2.3", "--maps", "mean", "--to", "ADJ"]);
    for (command, file) in [
        (&ccs[..], "ccs_simple_ANSWER_layer2.npy"),
        (&ccs, "ccs_accuracy_simple_plain_resid_weights.npy"),
        (&probing, "probing_test_simple_plain_resid_post_weights.npy"),
        (&to, "attention_to_ADJ_simple_plain_2.3.svg"),
    ] {
        run(command);
        let file = folder.join(file);
        let written = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        run(command);
        assert_eq!(std::fs::read(&file).unwrap(), written, "{}", file.display());
    }
    // A direction that another search has put in the place of its own.
    std::fs::copy(folder.join("ccs_simple_ANSWER_layer3.npy"), folder.join("ccs_simple_ANSWER_layer2.npy")).unwrap();
    run_in(data.path(), &ccs).fails(1, &["layer2.npy has changed since it was written", "--overwrite"]);
    let again = run(&[&ccs[..], &["--overwrite"]].concat());
    assert!(!again.stderr.contains("exist already"), "{}", again.stderr);
}

#[test]
fn exact_maps_beside_estimates_are_those_of_activation_patching() {
    let data = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| run_in(data.path(), arguments).success();
    let plain = ["attribution-patching", "--maps", "z,resid_pre"];
    let exact = [&plain[..], &["--exact"]].concat();
    run(&plain);
    let first = run(&exact);
    assert_eq!(first.stderr.matches("it was not compared with exact patching").count(), 2, "{}", first.stderr);
    let again = run(&exact);
    assert!(again.stderr.contains("4 maps exist already"), "{}", again.stderr);
    assert_eq!(again.stdout, first.stdout);
    let maps = ["activation-patching-maps", "--maps", "z,resid_pre"];
    let kept = run(&maps);
    assert!(kept.stderr.contains("2 maps exist already"), "{}", kept.stderr);
    let tables = kept.stdout.strip_prefix("demo\n").unwrap().trim_end();
    assert!(first.stdout.contains(tables), "{}", kept.stdout);
    // The figure shows both maps: the estimate is made again, the exact map is read.
    let (before, png) = (files(data.path()), "demo/attribution_patching_logit_diff_simple_plain_z.png");
    std::fs::remove_file(data.path().join(png)).unwrap();
    let redrawn = run(&exact);
    assert!(
        redrawn.stderr.contains("3 maps exist already") && redrawn.stderr.contains("is lost"),
        "{}",
        redrawn.stderr
    );
    assert!(files(data.path()) == before);
    // Exact maps that are there are used, those that are lost are made again alone.
    run(&["activation-patching-maps", "--maps", "z", "--eval-sets", "simple_test"]);
    let compared = run(&[&exact[..2], &["z", "--exact", "--eval-sets", "simple_test"]].concat());
    assert!(compared.stderr.contains("1 maps exist already"), "{}", compared.stderr);
    assert_eq!(compared.stdout.matches("beside exact patching: correlation ").count(), 1, "{}", compared.stdout);
    std::fs::remove_file(data.path().join("demo/activation_patching_logit_diff_simple_plain_z.npy")).unwrap();
    let restored = run(&exact);
    assert!(restored.stderr.contains("3 maps exist already"), "{}", restored.stderr);
    assert_eq!(restored.stdout, first.stdout);
}
