//! Activation-patching maps, path patching and heads mode by the command line, on the demo model.

use super::*;
use actpatch::sweep::{Cell, Ledger, Outcome, Parts};

#[test]
fn maps_are_written_as_arrays_and_tables_and_kept() {
    let data = tempfile::tempdir().unwrap();
    let arguments = ["activation-patching-maps", "--maps", "z,resid_pre", "--metrics", "logit_diff,logit_diff_noising"];
    let first = run_in(data.path(), &[&arguments[..], &["--json"]].concat()).success().json();
    let maps = first[0]["maps"].as_array().unwrap();
    assert_eq!(maps.len(), 4);
    let folder = data.path().join("demo");
    for map in maps {
        let file = map["file"].as_str().unwrap();
        let shape: Vec<usize> =
            map["shape"].as_array().unwrap().iter().map(|len| len.as_u64().unwrap() as usize).collect();
        let count: usize = shape.iter().product();
        assert_eq!(map["percent"].as_array().unwrap().len(), count);
        let table = std::fs::read_to_string(folder.join(format!("{file}.csv"))).unwrap();
        assert_eq!(table.lines().count(), count + 1);
        let axes = if file.contains("_z") { "layer,head,percent" } else { "layer,position,percent" };
        assert_eq!(table.lines().next().unwrap(), axes);
        let array = std::fs::read(folder.join(format!("{file}.npy"))).unwrap();
        assert!(["svg", "png", "pdf", "html"].iter().all(|ending| folder.join(format!("{file}.{ending}")).is_file()));
        assert!(String::from_utf8_lossy(&array[..128]).contains(&format!("({}, {})", shape[0], shape[1])), "{file}");
    }
    let resid = maps.iter().find(|map| map["file"] == "activation_patching_logit_diff_simple_plain_resid_pre").unwrap();
    let last = resid["shape"][1].as_u64().unwrap() as usize - 1;
    // Up to the adjective clean and corrupted are the same.
    assert_eq!(resid["percent"][0], 0.0);
    assert!(resid["percent"].as_array().unwrap()[last..].iter().any(|v| v.as_f64().unwrap() > 20.0), "{resid}");
    let again = run_in(data.path(), &arguments).success();
    assert!(again.stderr.contains("4 maps exist already"), "{}", again.stderr);
    assert_eq!(manifests(data.path()).len(), 1);
    let plan = run_in(data.path(), &["activation-patching-maps", "--maps", "z_by_position", "--dry-run"]).success();
    assert!(plan.stdout.contains("z_by_position") && plan.stdout.contains("FLOP"), "{}", plan.stdout);
}

#[test]
fn paths_of_single_nodes_and_of_maps() {
    let data = tempfile::tempdir().unwrap();
    let direct = ["path-patching", "--senders", "z", "--receivers", "resid_post:3", "--json"];
    let map = run_in(data.path(), &direct).success();
    assert!(map.stderr.contains("times that"), "{}", map.stderr);
    let map = map.json();
    let map = &map[0]["maps"][0];
    assert_eq!(map["file"], "path_patching_logit_diff_noising_simple_plain_z_to_resid_post3_ALL");
    assert_eq!((&map["axes"], &map["shape"][0]), (&serde_json::json!(["layer", "head"]), &4.into()));
    let each =
        ["path-patching", "--senders", "mlp_out:0", "--receivers", "v:1.0,q:2.1", "--positions", "EACH", "--json"];
    let each = run_in(data.path(), &each).success().json();
    assert_eq!(each[0]["maps"][0]["axes"], serde_json::json!(["position"]));
    let one =
        ["path-patching", "--senders", "z:0.0", "--receivers", "v:1.0", "--positions", "ADJ", "--method", "two-steps"];
    let one = run_in(data.path(), &one).success();
    assert!(one.stdout.contains("z0.0_to_v1.0_ADJ_two_steps: largest of 1 values"), "{}", one.stdout);
}

/// Reviews with a label behind them: true in clean prompts, false in corrupted ones.
const LABELLED: &str = r#"
[true_labels]
template = "I thought this movie was{ADJ}, I{VRB} it. Review Sentiment:{LABEL}"
corrupted = "partner"
rows = "positive"
limit = ["positive_core_adjectives", "negative_core_adjectives"]
answers = { positive = "positive_sentiments", negative = "negative_sentiments" }
[true_labels.fill]
ADJ = { positive = "positive_core_adjectives", negative = "negative_core_adjectives" }
VRB = { positive = "positive_verbs", negative = "negative_verbs" }
LABEL = { both = "positive_sentiments" }
"#;

#[test]
fn maps_and_paths_are_measured_along_a_direction() {
    let data = fitted();
    let map = |arguments: &[&str]| {
        let found = run_in(data.path(), &[arguments, &["--json"]].concat()).success().json();
        let map = found[0]["maps"][0].clone();
        (map["file"].as_str().unwrap().to_owned(), map["percent"].clone())
    };
    let activations = ["activation-patching-maps", "--maps", "resid_pre"];
    let along = |name: &str| map(&[&activations[..], &["--along", name]].concat());
    let (file, mean_diff) = along("mean_diff_simple_train_ADJ_layer2");
    assert_eq!(file, "activation_patching_along_mean_diff_simple_train_ADJ_layer2_logit_diff_simple_plain_resid_pre");
    assert!(data.path().join("demo").join(file).with_extension("png").is_file());
    // One ledger keeps the values of every direction, and of the answers, apart.
    let (answers, _) = (map(&activations).1, map(&["path-patching", "--receivers", "resid_post:3"]));
    let pca = along("pca_simple_train_ADJ_layer2").1;
    assert!(mean_diff != answers && mean_diff != pca && pca != answers, "{mean_diff} {answers}");
    let number = |map: &serde_json::Value, index: usize| map[index].as_f64().unwrap();
    // The adjective makes nearly all of the difference.
    let rows = mean_diff.as_array().unwrap().len() / 19;
    assert_eq!((rows, number(&mean_diff, 0)), (4, 0.0));
    assert!(number(&mean_diff, 6) > 90.0, "{mean_diff}");
    let paths = ["path-patching", "--receivers", "resid_post:3", "--along", "mean_diff_simple_train_ADJ_layer2"];
    let (file, _) = map(&paths);
    let expected =
        "path_patching_along_mean_diff_simple_train_ADJ_layer2_logit_diff_noising_simple_plain_z_to_resid_post3_ALL";
    assert_eq!(file, expected);

    // The search for truth, and where the model keeps it.
    run_in(data.path(), &["ccs", "--epochs", "100", "--tries", "2", "--eval-sets", "classification_4"]).success();
    let reviews = data.path().join("reviews.toml");
    std::fs::write(&reviews, LABELLED).unwrap();
    let labelled = ["--dataset-file", reviews.to_str().unwrap(), "--eval-sets", "true_labels"];
    let truth = [&activations[..], &labelled, &["--along", "ccs_classification_4_ANSWER_layer4"]].concat();
    let (_, truth) = map(&truth);
    assert!(truth.as_array().unwrap().iter().all(serde_json::Value::is_f64), "{truth}");

    let run = |extra: &[&str]| run_in(data.path(), &[&activations[..], extra].concat());
    run(&["--along", "nope_layer1"]).fails(1, &["--along", "nope_layer1"]);
    run(&["--along", "das_*"]).fails(1, &["--along", "expected one direction, found", "das_*"]);
    run(&["--along", "pc?_simple_train_ADJ_layer2"])
        .fails(1, &["--along: expected the name of a direction, found pc?_"]);
    run(&["--along", "das2d_simple_train_ADJ_layer2"]).fails(1, &["--along", "found a subspace of 2"]);
    let probabilities = ["--along", "mean_diff_simple_train_ADJ_layer2", "--metrics", "logit_diff,log_prob"];
    run(&probabilities).fails(1, &["--along: log_prob is about the answers' probabilities"]);
}

#[test]
fn what_cannot_be_mapped_is_named() {
    let data = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| run_in(data.path(), arguments);
    run(&["activation-patching-maps", "--maps", "result"]).fails(2, &["--maps", "unknown map"]);
    run(&["path-patching", "--receivers", "v:0.0"]).fails(1, &["v:0.0 as a receiver comes before every sender"]);
    run(&["path-patching", "--receivers", "v:9.0"]).fails(1, &["blocks.9.attn.hook_v", "layers 0 to 3"]);
    run(&["path-patching", "--receivers", "v:1.99"]).fails(1, &["head of receiver v:1.99"]);
    run(&["path-patching", "--receivers", "v,k:1"]).fails(1, &["--receivers", "v without a layer"]);
    run(&["path-patching", "--receivers", "resid_post:3", "--positions", "99"]).fails(1, &["found 99"]);
    run(&["path-patching", "--receivers", "resid_post:3", "--positions", "XYZ"]).fails(1, &["--positions", "XYZ"]);
    let mixed = ["--receivers", "resid_post:3", "--metrics", "logit_diff,logit_diff_noising"];
    run(&[&["path-patching"], &mixed[..]].concat()).fails(1, &["one patching direction"]);
    let suite = |heads: &str| run_in(fitted().path(), &["direction-patching-suite", "--heads", heads]);
    suite("9").fails(2, &["--heads", "layer.head"]);
    suite("paper").fails(1, &["--heads", "no list for demo"]);
    suite("4.0").fails(1, &["--heads", "layers 0 to 3", "4.0"]);
}

#[test]
fn heads_are_patched_at_every_position() {
    let data = fitted();
    let suite = ["direction-patching-suite", "--directions", "mean_diff*layer2", "--heads", "1.0,2.1"];
    let found = run_in(data.path(), &[&suite[..], &["--json"]].concat()).success().json();
    let cell = &found[0]["cells"][0];
    assert_eq!((&cell["position"], cell["percent"].is_f64()), (&"ALL".into(), true), "{cell}");
    assert!(data.path().join("demo/direction_patching_logit_diff_attn_result_1.0-2.1_plain.csv").is_file());
    let positions = run_in(data.path(), &[&suite[..], &["--positions", "ADJ"]].concat());
    positions.fails(1, &["--positions", "expected ALL, found ADJ"]);
}

/// The analysis that ships with the program.
const CIRCUIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/experiments/toy_movie_review.toml");

#[test]
fn the_shipped_circuit_analysis_runs_on_the_demo_model() {
    let data = tempfile::tempdir().unwrap();
    let done = run_in(data.path(), &["circuit", "--config", CIRCUIT, "--"]).success();
    assert_eq!(done.stderr.lines().filter(|line| line.starts_with("step ")).count(), 8, "{}", done.stderr);
    let names: Vec<String> = files(data.path()).keys().map(|path| path.display().to_string()).collect();
    for expected in [
        "_clean_simple_plain_heads.npy",
        "_plain_z.npy",
        "_plain_pattern.csv",
        "_z_to_resid_post3_ALL.npy",
        "_EACH.npy",
        "_SBJ2.csv",
    ] {
        assert!(names.iter().any(|name| name.ends_with(expected)), "{expected} in {names:?}");
    }
    // The same steps for gpt2-small's shape, without weights to download.
    let plan = ["circuit", "--config", CIRCUIT, "--model", "random:gpt2-small", "--", "--dry-run"];
    let plan = run_in(data.path(), &plan).success();
    assert!(plan.stdout.contains("z_to_v7.1-v10.1-v10.4-v11.9_EACH: [19, 12, 12] values"), "{}", plan.stdout);
}

/// A config of this name.
fn shipped(name: &str) -> String {
    format!("{}/data/experiments/{name}.toml", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_other_shipped_analyses_are_planned_for_the_demo_model_and_for_their_own() {
    let data = tempfile::tempdir().unwrap();
    for (name, steps, plans) in [
        ("sentiment_classification", 9, [("demo", "z_to_v2.3_EACH"), ("random:pythia-1.4b", "z_to_v21.0_EACH")]),
        ("sentiment_continuation", 9, [("demo", "completion_plain_z"), ("random:pythia-1.4b", "completion_plain_z")]),
        ("contrastive_sentiment", 5, [("demo", "v2.3_ALL_two_steps"), ("random:gpt2-small", "v7.1_ALL_two_steps")]),
        ("one_sided_sentiment", 8, [("demo", "z_to_v1.0_EACH"), ("random:gpt2-small", "z_to_v9.2_SBJ2")]),
    ] {
        for (model, paths) in plans {
            let plan = ["circuit", "--config", &shipped(name), "--model", model, "--dry-run", "--"];
            let plan = run_in(data.path(), &plan).success();
            let found = plan.stderr.lines().filter(|line| line.starts_with("step ")).count();
            assert_eq!(found, steps, "{name}: {}", plan.stderr);
            assert!(plan.stdout.contains(paths), "{name}: {}", plan.stdout);
        }
    }
}

#[test]
fn one_sided_and_contrastive_analyses_run_on_the_demo_model() {
    let data = tempfile::tempdir().unwrap();
    for name in ["one_sided_sentiment", "contrastive_sentiment"] {
        run_in(data.path(), &["circuit", "--config", &shipped(name), "--"]).success();
    }
    let read = |name: &str| std::fs::read_to_string(data.path().join("demo").join(format!("{name}.csv"))).unwrap();
    for set in ["positive", "negative"] {
        // All of the effect is in the residual stream at the adjective in front of the first block, or where it went.
        let table = read(&format!("activation_patching_log_prob_simple_{set}_plain_resid_pre"));
        let percent = |line: &str| line.rsplit(',').next().unwrap().parse::<f64>().unwrap();
        let first: f64 = table.lines().skip(1).filter(|line| line.starts_with("0,")).map(percent).sum();
        assert!(first > 50.0, "{set}: {first}");
    }
    assert!(
        read("path_patching_logit_diff_noising_contrastive_plain_z_to_v2.2-v2.3_ALL_two_steps").lines().count() > 1
    );
}

#[test]
fn a_broken_analysis_is_named_before_it_begins() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("analysis.toml");
    let start = "model = \"demo\"\n[groups.demo]\nends = [\"resid_post:3\"]\n[[steps]]\n";
    for (text, words) in [
        ("command = \"paths\"", &["step 1", "paths"][..]),
        ("command = \"circuit\"\nconfig = \"x\"", &["step 1"]),
        ("senders = \"z\"", &["step 1", "command: expected"]),
        ("command = \"path-patching\"\nreceivers = \"$nothing\"", &["receivers", "[groups.demo]: nothing is missing"]),
        ("command = \"path-patching\"\nreceivers = \"w:3\"", &["step 1", "w:3"]),
        ("command = \"path-patching\"\nreceivers = { a = 1 }", &["receivers: expected text"]),
        ("command = \"demo\"\njson = true", &["step 1", "--json: it is asked of the whole analysis"]),
        ("command = \"ablation\"\nlayers = 1", &["step 1", "--layers: expected directions"]),
        ("command = \"activation-patching-maps\"\nablate-layers = 1", &["--ablate-layers: expected a direction"]),
        ("command = \"direction-patching-results\"\nlayers = 1", &["--layers: there is no such setting"]),
    ] {
        std::fs::write(&file, format!("{start}{text}\n")).unwrap();
        run_in(data.path(), &["circuit", "--config", file.to_str().unwrap(), "--"]).fails(1, words);
    }
    std::fs::write(&file, "steps = 3").unwrap();
    run_in(data.path(), &["circuit", "--config", file.to_str().unwrap(), "--"])
        .fails(1, &["--config", "analysis.toml"]);
    let other = ["circuit", "--config", CIRCUIT, "--model", "pythia-160m", "--"];
    run_in(data.path(), &other).fails(1, &["[groups.pythia-160m] is missing", "demo, gpt2-small"]);
    assert_eq!(files(data.path()).len(), 1, "nothing was run");
}

/// The arrays and tables of a run's maps.
fn maps(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let table = |path: &Path| path.extension().is_some_and(|ending| ending == "npy" || ending == "csv");
    files(data).into_iter().filter(|(path, _)| path.to_string_lossy().contains("_patching_") && table(path)).collect()
}

#[test]
fn maps_are_the_means_of_their_prompts() {
    let data = tempfile::tempdir().unwrap();
    let metrics = "logit_diff,logit_diff_noising,logit_flip,sign_flip,prob_diff,log_prob";
    let activations = ["activation-patching-maps", "--maps", "z", "--metrics", metrics];
    let others = ["activation-patching-maps", "--maps", "resid_pre,post"];
    let paths = ["path-patching", "--receivers", "v:2.2,v:2.3", "--positions", "EACH"];
    let ablations = ["ablation-maps", "--methods", "resample", "--measures", "logit_diff,accuracy"];
    for command in [&activations[..], &others[..], &paths[..], &ablations[..]] {
        let found = run_in(data.path(), &[command, &["--json"]].concat()).success().json();
        for map in found[0]["maps"].as_array().unwrap() {
            let stem = data.path().join("demo").join(map["file"].as_str().unwrap());
            let array = |end: &str| PathBuf::from(format!("{}{end}", stem.display()));
            let values: ndarray::ArrayD<f64> = ndarray_npy::read_npy(array(".npy")).unwrap();
            let prompts: ndarray::ArrayD<f32> = ndarray_npy::read_npy(array("_prompts.npy")).unwrap();
            assert_eq!((prompts.shape()[0], &prompts.shape()[1..]), (26, values.shape()), "{}", stem.display());
            let mean = prompts.mapv(f64::from).mean_axis(ndarray::Axis(0)).unwrap();
            let largest = (&mean - &values).mapv(f64::abs).fold(0.0, |most: f64, one| most.max(*one));
            assert!(largest < 1e-4, "{}: {largest}", stem.display());
            // Neurons are shown as bars: there is no cell to choose.
            let page = std::fs::read_to_string(array(".html")).unwrap();
            let data = page.split_once("id=\"data\">").unwrap().1;
            let is_map = !map["axes"].as_array().unwrap().contains(&"neuron".into());
            assert_eq!(data.contains("\"prompts\":{"), is_map, "{}", stem.display());
        }
    }
    // A page that is lost is written again as it was.
    let page = data.path().join("demo/activation_patching_logit_diff_simple_plain_z.html");
    let before = std::fs::read(&page).unwrap();
    std::fs::remove_file(&page).unwrap();
    let again = run_in(data.path(), &activations).success();
    assert!(again.stderr.contains("6 maps exist already"), "{}", again.stderr);
    assert!(std::fs::read(&page).unwrap() == before);
    // A ledger of an earlier version knows no prompts: the map is there, its prompts are not.
    let (configuration, state) = Ledger::read(&data.path().join("demo")).unwrap().unwrap();
    let cells: Vec<_> = state.cells().map(|(cell, outcome)| (cell, outcome.cloned())).collect();
    let old = tempfile::tempdir().unwrap();
    let folder = old.path().join("demo");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(data.path().join("demo/model.json"), folder.join("model.json")).unwrap();
    let mut ledger = Ledger::open(&folder, &configuration).unwrap();
    ledger.want(cells.iter().map(|(cell, _)| cell.clone())).unwrap();
    let without = |(cell, outcome): &(Cell, Option<Outcome>)| match outcome {
        Some(Outcome::Done { value, seconds, .. }) => {
            Some((cell.id, Outcome::Done { value: value.clone(), parts: Parts::default(), seconds: *seconds }))
        }
        _ => None,
    };
    ledger.record(cells.iter().filter_map(without)).unwrap();
    run_in(old.path(), &activations).success();
    let name = "activation_patching_logit_diff_simple_plain_z";
    let read = |data: &Path, end: &str| std::fs::read(data.join("demo").join(format!("{name}{end}"))).ok();
    assert!(read(old.path(), ".npy") == read(data.path(), ".npy"));
    assert!(read(old.path(), "_prompts.npy").is_none() && read(data.path(), "_prompts.npy").is_some());
    let page = String::from_utf8(read(old.path(), ".html").unwrap()).unwrap();
    assert!(!page.contains("\"prompts\":{"));
    // Where both are known, prompts of other values do not stay behind.
    std::fs::copy(folder.join("ledger.jsonl"), data.path().join("demo/ledger.jsonl")).unwrap();
    std::fs::remove_file(data.path().join("demo").join(format!("{name}.npy"))).unwrap();
    run_in(data.path(), &activations).success();
    assert!(read(data.path(), "_prompts.npy").is_none() && read(data.path(), ".npy").is_some());
}

#[test]
fn shards_of_maps_joined_are_the_whole_maps() {
    let exact = ["activation-patching-maps", "--maps", "z,resid_pre", "--metrics", "logit_diff,prob_diff"];
    let paths = ["path-patching", "--senders", "z", "--receivers", "v:2.2,v:2.3", "--positions", "EACH"];
    for command in [&exact[..], &paths[..]] {
        let whole = tempfile::tempdir().unwrap();
        run_in(whole.path(), command).success();
        let data = tempfile::tempdir().unwrap();
        for shard in ["0/3", "1/3", "2/3"] {
            run_in(data.path(), &[command, &["--shard", shard]].concat()).success();
        }
        assert!(maps(data.path()).is_empty(), "a shard has no maps");
        let status = run_in(data.path(), &["status", "--json"]).success().json();
        let done: Vec<u64> = (0..3).map(|shard| status[shard]["done"].as_u64().unwrap()).collect();
        assert!(done.iter().all(|count| count.abs_diff(done[0]) <= 2), "metrics share a pass: {done:?}");
        let merged = run_in(data.path(), &["merge"]).success();
        assert!(merged.stdout.contains(" 0 missing"), "{}", merged.stdout);
        let last = run_in(data.path(), command).success();
        assert!(!last.stderr.contains("times that"), "nothing is computed again: {}", last.stderr);
        assert!(maps(data.path()) == maps(whole.path()) && !maps(whole.path()).is_empty());
    }
}

#[test]
fn maps_go_on_where_they_were_killed() {
    let command = ["activation-patching-maps", "--maps", "z_by_position,resid_pre"];
    let whole = tempfile::tempdir().unwrap();
    run_in(whole.path(), &command).success();
    let data = tempfile::tempdir().unwrap();
    let mut child = sweeps::spawn(data.path(), &[&command[..], &["--threads", "1"]].concat());
    sweeps::wait_for_records(&sweeps::ledger(data.path()), 0);
    child.kill().unwrap();
    child.wait().unwrap();
    let status = run_in(data.path(), &["status", "--json"]).success().json();
    assert!(status[0]["done"].as_u64().unwrap() > 0 && status[0]["missing"].as_u64().unwrap() > 0, "{status}");
    assert!(maps(data.path()).is_empty());
    run_in(data.path(), &command).success();
    assert!(maps(data.path()) == maps(whole.path()));
}
