//! Faults that were reported, one test each: what was done, and what has to happen. Those of commands that read texts are
//! in `tests/cli/renewed.rs`, those of model folders in `tests/reading/`, those of the Hub in `tests/model_hub/`.

#[path = "support/program.rs"]
mod program;

use program::{Finished, files, run_in};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A copy of the demo model's folder in `folder/name`, whose weights are multiplied by `factor`.
fn model(folder: &Path, name: &str, factor: f32) -> String {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/models/demo");
    let copy = folder.join(name);
    std::fs::create_dir_all(&copy).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(demo.join(file), copy.join(file)).unwrap();
    }
    let bytes = std::fs::read(demo.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let changed: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors
        .tensors()
        .into_iter()
        .map(|(name, tensor)| (name, tensor.dtype(), tensor.shape().to_vec(), scaled(&tensor, factor)))
        .collect();
    let views = changed
        .iter()
        .map(|(name, dtype, shape, data)| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    std::fs::write(copy.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    copy.display().to_string()
}

fn scaled(tensor: &TensorView<'_>, factor: f32) -> Vec<u8> {
    match tensor.dtype() {
        Dtype::F32 => {
            let values = tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            values.flat_map(|value| (factor * value).to_le_bytes()).collect()
        }
        Dtype::F16 => {
            let values = tensor.data().as_chunks::<2>().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes));
            values.flat_map(|value| half::f16::from_f32(factor * value.to_f32()).to_le_bytes()).collect()
        }
        Dtype::BF16 => {
            let values = tensor.data().as_chunks::<2>().0.iter().map(|bytes| half::bf16::from_le_bytes(*bytes));
            values.flat_map(|value| half::bf16::from_f32(factor * value.to_f32()).to_le_bytes()).collect()
        }
        other => panic!("the demo model holds no {other:?}"),
    }
}

fn fit(data: &Path, extra: &[&str]) -> Finished {
    run_in(data, &[&["fit-directions", "--methods", "kmeans", "--layers", "1"], extra].concat())
}

/// The table of an ablation, line by line.
fn ablations(data: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(data.join("demo/ablation_simple_plain.csv")).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn two_models_of_one_name_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (model(folder.path(), "run1/checkpoint", 1.0), model(folder.path(), "run2/checkpoint", 1.25));
    let data = folder.path().join("data");
    fit(&data, &["--models", &first]).success();
    let before = files(&data);
    let refused = &["results of", "run1/checkpoint", "run2/checkpoint", "--models NAME=", "--data-dir"];
    fit(&data, &["--models", &second]).fails(1, refused);
    let suite = ["direction-patching-suite", "--models", &second];
    run_in(&data, &suite).fails(1, refused);
    assert!(files(&data) == before, "nothing was written");
    // Under a name of its own it has a folder of its own, and directions of its own.
    let named = format!("second={second}");
    fit(&data, &["--models", &named]).success();
    let read = |name: &str| std::fs::read(data.join(name).join("kmeans_simple_train_ADJ_layer1.npy")).unwrap();
    assert_ne!(read("checkpoint"), read("second"));
    run_in(&data, &["direction-patching-suite", "--models", &named]).success();
}

#[test]
fn two_organisations_models_of_one_name_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    for (organisation, factor) in [("orga", 1.0), ("orgb", 1.25)] {
        let repository = format!("models--{organisation}--tiny");
        model(folder.path(), &format!("{repository}/snapshots/{commit}"), factor);
        std::fs::create_dir_all(folder.path().join(&repository).join("refs")).unwrap();
        std::fs::write(folder.path().join(&repository).join("refs/main"), commit).unwrap();
    }
    let fit_on = |model: &str| {
        let mut command = program::actpatch(&["fit-directions", "--methods", "kmeans", "--layers", "1"]);
        command.args(["--models", model, "--data-dir", data.to_str().unwrap()]).env("HF_HUB_CACHE", folder.path());
        program::finish(&mut command)
    };
    fit_on("orga/tiny").success();
    let before = files(&data);
    fit_on("orgb/tiny").fails(1, &["results of orgb/tiny", "orga/tiny", "--models NAME=orgb/tiny", "--data-dir"]);
    assert!(files(&data) == before, "nothing was written");
    fit_on("tiny-b=orgb/tiny").success();
}

#[test]
fn a_search_for_truth_replaces_no_direction_unasked() {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("demo");
    let ccs = |tries: &str, extra: &[&str]| {
        run_in(data.path(), &[&["ccs", "--epochs", "50", "--tries", tries], extra].concat())
    };
    ccs("1", &[]).success();
    let before = files(data.path());
    ccs("2", &[]).fails(1, &["ccs_simple_ANSWER_layer", ".json: tries: expected 2, found 1", "--overwrite"]);
    assert!(files(data.path()) == before, "nothing was changed");
    ccs("2", &["--overwrite"]).success();
    // Nor one that nothing is known of.
    std::fs::remove_dir_all(folder.join("provenance")).unwrap();
    std::fs::remove_file(folder.join("ccs_simple_ANSWER_layer2.json")).unwrap();
    ccs("2", &[]).fails(1, &["ccs_simple_ANSWER_layer2.json: nothing says what it was made of"]);
}

#[test]
fn changed_weights_in_the_same_folder_are_another_model() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let path = model(folder.path(), "checkpoint", 1.0);
    fit(&data, &["--models", &path]).success();
    model(folder.path(), "checkpoint", 1.25);
    fit(&data, &["--models", &path]).fails(1, &["results of", "whose files have changed", "--models NAME="]);
}

#[test]
fn directions_of_other_settings_are_not_kept() {
    let data = tempfile::tempdir().unwrap();
    let das = |extra: &[&str]| {
        let fit = ["fit-directions", "--methods", "das", "--layers", "1"];
        run_in(data.path(), &[&fit[..], extra].concat())
    };
    das(&["--epochs", "2"]).success();
    let before = files(data.path());
    let again = das(&["--epochs", "2"]).success();
    assert!(again.stderr.contains("1 directions exist already"), "{}", again.stderr);
    assert!(again.stdout.contains("das_simple_train_ADJ_layer1"), "{}", again.stdout);
    for (extra, words) in [
        (&["--epochs", "3"][..], &["epochs: expected 3, found 2", "--overwrite", "--data-dir"][..]),
        (&["--epochs", "2", "--seed", "1"], &["seed: expected 1, found 0"]),
        (&["--epochs", "2", "--learning-rate", "0.01"], &["learning_rate: expected 0.01, found 0.001"]),
        (&["--epochs", "2", "--batch-size", "4"], &["batch_size: expected 4, found 128"]),
        (&["--epochs", "2", "--weight-processing", "none"], &["weight_processing: expected", "found fold_ln"]),
        (&["--epochs", "2", "--dtype", "bf16"], &["dtype: expected bf16, found f32"]),
    ] {
        das(extra).fails(1, &[&["das_simple_train_ADJ_layer1.json"], words].concat());
    }
    assert!(files(data.path()) == before, "nothing was changed");
    das(&["--epochs", "3", "--overwrite"]).success();
    assert!(files(data.path()) != before);
}

/// The first columns of the demo model's directions of a method, layer by layer.
fn first_columns(data: &Path, method: &str) -> Vec<Vec<f32>> {
    let column = |layer: usize| {
        let path = data.join(format!("demo/{method}_simple_train_ADJ_layer{layer}.npy"));
        match ndarray_npy::read_npy::<_, ndarray::Array1<f32>>(&path) {
            Ok(values) => values.to_vec(),
            Err(_) => ndarray_npy::read_npy::<_, ndarray::Array2<f32>>(&path).unwrap().column(0).to_vec(),
        }
    };
    (0..4).map(column).collect()
}

#[test]
fn directions_of_das_point_to_the_positive_class() {
    let (turned, left) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let fit = ["fit-directions", "--methods", "mean_diff,das,das2d", "--epochs", "8", "--layers", "0..3"];
    run_in(turned.path(), &fit).success();
    run_in(left.path(), &[&fit[..], &["--compat", "das-sign"]].concat()).success();
    let towards = first_columns(turned.path(), "mean_diff");
    let mut otherwise = 0;
    for method in ["das", "das2d"] {
        let (found, as_fitted) = (first_columns(turned.path(), method), first_columns(left.path(), method));
        for ((found, as_fitted), towards) in found.iter().zip(&as_fitted).zip(&towards) {
            assert!(found.iter().zip(towards).map(|(a, b)| a * b).sum::<f32>() > 0.0, "{method}");
            let opposite: Vec<f32> = as_fitted.iter().map(|value| -value).collect();
            assert!(found == as_fitted || *found == opposite, "{method}");
            otherwise += usize::from(*found == opposite);
        }
    }
    assert!(otherwise > 0, "training happened to end with every sign as wanted: nothing is shown");
    let sign = |data: &Path| {
        let record = std::fs::read(data.join("demo/das_simple_train_ADJ_layer1.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&record).unwrap()["settings"]["sign"].clone()
    };
    assert_eq!((sign(turned.path()), sign(left.path())), ("positive class".into(), "as fitted".into()));
    run_in(left.path(), &fit).fails(1, &["sign: expected positive class, found as fitted", "--overwrite"]);
    // What is patched does not depend on it.
    let suite = ["direction-patching-suite", "--directions", "das*", "--json"];
    let values = |data: &Path| {
        let cells = run_in(data, &suite).success().json()[0]["cells"].clone();
        assert!(cells.as_array().is_some_and(|cells| cells.len() == 8), "{cells}");
        cells
    };
    assert_eq!(values(turned.path()), values(left.path()));
}

/// Everything that a dataset's file can change is computed again when it is edited.
#[test]
fn an_edited_dataset_file_is_noticed_by_every_command() {
    let data = tempfile::tempdir().unwrap();
    fit(data.path(), &[]).success();
    let file = data.path().join("own.toml");
    let own = own_dataset();
    let direction = "kmeans_simple_train_ADJ_layer1";
    let commands: &[&[&str]] = &[
        &["activation-patching-maps", "--maps", "resid_pre"],
        &["attribution-patching", "--maps", "z"],
        &["path-patching", "--receivers", "resid_post:3"],
        &["ablation", "--nodes", "z:1.0"],
        &["ablation-maps", "--maps", "z", "--methods", "zero"],
        &["faithfulness", "--heads", "1.0"],
        &["logit-attribution", "--maps", "layers"],
        &["attention", "--heads", "1.0", "--maps", "mean"],
        &["head-cosines", "--nodes", "1.0@END,1.2@END"],
        &["probing", "--components", "resid_post"],
        &["activation-patching-maps", "--maps", "z", "--along", direction],
        &["direction-patching-suite", "--directions", direction],
    ];
    for command in commands {
        let run = |dataset: &str| {
            std::fs::write(&file, dataset).unwrap();
            let shared = ["--dataset-file", file.to_str().unwrap(), "--eval-sets", "own"];
            run_in(data.path(), &[command, &shared[..]].concat()).success()
        };
        let (first, again) = (run(&own[0]), run(&own[0]));
        assert!(again.stderr.contains("exist already"), "{command:?}: {}", again.stderr);
        assert_eq!(again.stdout, first.stdout, "{command:?}: what was kept is printed");
        let before = files(data.path());
        let other = run(&own[1]);
        assert!(files(data.path()) != before, "{command:?} keeps the old values: {}", other.stderr);
        // Accuracies may be the same.
        let told = other.stdout != first.stdout || command[0] == "probing";
        assert!(told, "{command:?}: {}", other.stdout);
    }
}

/// A dataset of explicit prompts, and the same with other words.
fn own_dataset() -> [String; 2] {
    let prompt = |clean: &str, corrupted: &str, right: &str, wrong: &str, label: &str| {
        let text = |word: &str| format!("I thought this movie was{{ADJ: {word}}}, I{{VRB: loved}} it. This movie is");
        format!(
            "  {{ clean = \"{}\", corrupted = \"{}\", correct = \" {right}\", incorrect = \" {wrong}\", label = \"{label}\" }},\n",
            text(clean),
            text(corrupted)
        )
    };
    let with = |good: &str, bad: &str| {
        let words = [(good, bad), ("perfect", "dreadful"), ("fantastic", "bad"), ("good", "horrible")];
        let both = |(good, bad): (&str, &str)| {
            let [right, wrong] = ["great", "terrible"];
            prompt(good, bad, right, wrong, "positive") + &prompt(bad, good, wrong, right, "negative")
        };
        format!("[own]\nprompts = [\n{}]\n", words.map(both).concat())
    };
    [with("great", "terrible"), with("wonderful", "awful")]
}

#[test]
fn a_placeholder_that_moves_is_another_fit() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("own.toml");
    let own = own_dataset()[0].clone();
    // The same text; the placeholder one word on, which goes by the same name.
    let moved = own.replace("{ADJ: ", " ").replace("}, I{VRB", ",{ADJ: I}{VRB");
    assert_ne!(own, moved);
    let fit_on = |dataset: &str, extra: &[&str]| {
        std::fs::write(&file, dataset).unwrap();
        let fit = ["fit-directions", "--dataset-file", file.to_str().unwrap(), "--train-sets", "own", "--layers", "2"];
        run_in(data.path(), &[&fit[..], &["--methods", "kmeans"], extra].concat())
    };
    fit_on(&own, &[]).success();
    fit_on(&moved, &[]).fails(1, &["position: expected ", "--overwrite", "--data-dir"]);
    // And other words at the same place.
    fit_on(&own_dataset()[1], &[]).fails(1, &["dataset: expected ", "--overwrite", "--data-dir"]);
}

#[test]
fn losses_of_das_on_a_test_set_that_has_changed_are_not_told_as_its_own() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("own.toml");
    let das = |dataset: &str| {
        std::fs::write(&file, dataset).unwrap();
        let fit = ["fit-directions", "--methods", "das", "--layers", "1", "--epochs", "2", "--test-sets", "own"];
        run_in(data.path(), &[&fit[..], &["--dataset-file", file.to_str().unwrap()]].concat()).success()
    };
    let [own, other] = own_dataset();
    let (first, again) = (das(&own), das(&own));
    assert_eq!(first.stdout, again.stdout);
    let changed = das(&other);
    assert!(changed.stderr.contains("is kept without a loss on own"), "{}", changed.stderr);
    assert_ne!(changed.stdout, first.stdout);
}

#[test]
fn a_direction_whose_array_has_changed_is_not_kept() {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("demo");
    let fit = ["fit-directions", "--methods", "kmeans,pca", "--layers", "1"];
    run_in(data.path(), &fit).success();
    let array = |method: &str| folder.join(format!("{method}_simple_train_ADJ_layer1.npy"));
    std::fs::copy(array("pca"), array("kmeans")).unwrap();
    let refused = ["kmeans_simple_train_ADJ_layer1.json", "has changed since it was written", "--overwrite"];
    run_in(data.path(), &fit).fails(1, &refused);
    std::fs::write(array("kmeans").with_extension("json"), "{").unwrap();
    run_in(data.path(), &fit).fails(1, &["kmeans_simple_train_ADJ_layer1.json: damaged", "--overwrite"]);
    run_in(data.path(), &[&fit[..], &["--overwrite"]].concat()).success();
    run_in(data.path(), &fit).success();
}

#[test]
fn a_direction_of_another_model_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    for (name, factor) in [("first", 1.0), ("second", 1.25)] {
        fit(&data, &["--models", &model(folder.path(), name, factor)]).success();
    }
    let file = "kmeans_simple_train_ADJ_layer1";
    for ending in ["npy", "json"] {
        let [from, to] = ["first", "second"].map(|name| data.join(name).join(format!("{file}.{ending}")));
        std::fs::copy(from, to).unwrap();
    }
    let second = folder.path().join("second").display().to_string();
    for command in ["direction-patching-suite", "ablation"] {
        let uses = [command, "--directions", file, "--models", &second];
        run_in(&data, &uses).fails(1, &[&format!("{file}.json: weights: expected "), "--data-dir"]);
    }
}

#[test]
fn rows_that_have_changed_are_made_again() {
    let data = tempfile::tempdir().unwrap();
    let command = ["ablation", "--nodes", "z:1.2"];
    let first = run_in(data.path(), &command).success();
    let table = data.path().join("demo/ablation_simple_plain.csv");
    let written = std::fs::read_to_string(&table).unwrap();
    let record = data.path().join("demo/provenance/ablation_simple_plain.json");
    let again = |why: &str| {
        let again = run_in(data.path(), &command).success();
        assert!(again.stderr.contains(&format!("is computed again: {why}")), "{}", again.stderr);
        assert_eq!((again.stdout, std::fs::read_to_string(&table).unwrap()), (first.stdout.clone(), written.clone()));
    };
    let lines: Vec<&str> = written.lines().collect();
    std::fs::write(
        &table,
        format!(
            "{}
",
            lines[..lines.len() - 1].join(
                "
"
            )
        ),
    )
    .unwrap();
    again("its rows have changed since they were written");
    std::fs::write(&record, "{").unwrap();
    again("nothing says what it was made of");
}

#[test]
fn tokens_that_a_file_beside_the_tokenizer_adds_are_a_part_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let path = model(folder.path(), "tiny", 1.0);
    let corpus = folder.path().join("corpus.txt");
    std::fs::write(
        &corpus,
        "It was great, and I loved it.
It was terrible, and I hated it.
",
    )
    .unwrap();
    let losses = ["text-loss", "--models", &path, "--corpus", corpus.to_str().unwrap(), "--random", "1"];
    let losses = || run_in(&data, &[&losses[..], &["--layers", "1", "--methods", "zero"]].concat());
    let first = losses().success();
    let added = r#"{"added_tokens_decoder": {"288": {"content": "it", "special": false}}}"#;
    std::fs::write(Path::new(&path).join("tokenizer_config.json"), added).unwrap();
    let second = losses().success();
    assert!(second.stderr.contains("is computed again"), "{}", second.stderr);
    assert_ne!(first.stdout, second.stdout);
}

#[test]
fn a_dataset_s_name_is_a_part_of_file_names() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("own.toml");
    let long = "x".repeat(101);
    for name in ["../../escaped", "a/b", "", ".hidden", "tab\tin it", long.as_str()] {
        std::fs::write(&file, own_dataset()[0].replace("[own]", &format!("[\"{}\"]", name.escape_debug()))).unwrap();
        for command in ["direction-patching-suite", "ablation-maps", "fit-directions"] {
            let arguments = [command, "--dataset-file", file.to_str().unwrap()];
            run_in(data.path(), &arguments).fails(1, &["own.toml: dataset `", "a dataset's name has 1 to 100 letters"]);
        }
    }
    assert_eq!(files(data.path()).len(), 1, "nothing but the dataset file");
}

/// Names of corpora, texts and models become names of files: they are checked where they come in.
#[test]
fn nothing_is_written_where_a_name_leads_out_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("a/b/data");
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/models/demo").display().to_string();
    for name in ["../../../escaped", "/tmp/escaped", "..", "."] {
        for command in [
            &["text-loss", "--methods", "zero", "--text", "It was great."][..],
            &["neuroscope", "--text", "It was great.", "--directions", "das_x_ADJ_layer1"],
        ] {
            run_in(&data, &[command, &["--name", name]].concat()).fails(1, &["--name", "letters", name]);
        }
        let named = format!("{name}={demo}");
        run_in(&data, &["random-directions", "--models", &named]).fails(1, &["--models", &named]);
    }
    run_in(&data, &["fit-directions", "--scaffold", "../escaped"]).fails(2, &["--scaffold", "../escaped"]);
    assert!(files(folder.path()).is_empty(), "nothing was written");
}

#[test]
fn a_column_of_the_suite_has_values_of_one_text() {
    let data = tempfile::tempdir().unwrap();
    run_in(data.path(), &["fit-directions", "--methods", "kmeans,mean_diff", "--layers", "1"]).success();
    let file = data.path().join("own.toml");
    let [own, other] = own_dataset();
    let patch = |dataset: &str, direction: &str| {
        std::fs::write(&file, dataset).unwrap();
        let suite = ["direction-patching-suite", "--dataset-file", file.to_str().unwrap(), "--eval-sets", "own"];
        run_in(data.path(), &[&suite[..], &["--directions", direction]].concat()).success();
        let table = data.path().join("demo/direction_patching_logit_diff_resid_plain.csv");
        let table = std::fs::read_to_string(table).unwrap();
        let rows = table.lines().skip(2).filter(|line| !line.ends_with(','));
        rows.map(str::to_owned).collect::<Vec<String>>()
    };
    let first = patch(&own, "kmeans*");
    assert_eq!(first.len(), 1);
    let second = patch(&other, "mean_diff*");
    assert!(second.len() == 1 && second[0].starts_with("mean_diff"), "{second:?}");
    assert_eq!(patch(&other, "*").len(), 2);
    // The first text's value is known, and alone in its column.
    assert_eq!(patch(&own, "kmeans*"), first);
}

#[test]
fn rows_of_another_number_format_are_told_apart() {
    let data = tempfile::tempdir().unwrap();
    let ablate = |extra: &[&str]| {
        run_in(data.path(), &[&["ablation", "--nodes", "z:1.2", "--device", "cpu"], extra].concat()).success()
    };
    let bf16 = ablate(&["--dtype", "bf16"]);
    let f32 = ablate(&[]);
    assert_ne!(bf16.stdout, f32.stdout);
    let lines = ablations(data.path());
    assert!(lines[0].ends_with(",dtype,weight_processing,seed,provenance"), "{}", lines[0]);
    let of = |dtype: &str| lines.iter().filter(|line| line.contains(&format!(",{dtype},"))).count();
    assert_eq!((of("bf16"), of("f32")), (3, 3), "{lines:?}");
    // Both are kept, and either is printed when it is asked for.
    assert_eq!(ablate(&[]).stdout, f32.stdout);
    assert_eq!(ablate(&["--dtype", "bf16"]).stdout, bf16.stdout);
    let unprocessed = ablate(&["--weight-processing", "none"]);
    assert!(!unprocessed.stderr.contains("exist already"), "{}", unprocessed.stderr);
}

#[test]
fn maps_along_a_direction_that_is_fitted_again_are_made_again() {
    let data = tempfile::tempdir().unwrap();
    let das = |epochs: &str| {
        let fit = ["fit-directions", "--methods", "das", "--layers", "1", "--epochs", epochs, "--overwrite"];
        run_in(data.path(), &fit).success();
    };
    let maps = |option: &str| {
        let maps = ["activation-patching-maps", "--maps", "z", option, "das_simple_train_ADJ_layer1"];
        run_in(data.path(), &maps).success()
    };
    das("1");
    let (along, ablated) = (maps("--along"), maps("--ablate"));
    assert!(maps("--along").stderr.contains("1 maps exist already"));
    das("8");
    for (option, before) in [("--along", along), ("--ablate", ablated)] {
        let after = maps(option);
        assert_ne!(after.stdout, before.stdout, "{option} keeps the old direction's values");
        assert!(after.stderr.contains("is computed again"), "{option}: {}", after.stderr);
    }
}

#[test]
fn a_lost_figure_is_drawn_again_from_what_is_kept() {
    let data = tempfile::tempdir().unwrap();
    for (command, stem) in [
        (&["activation-patching-maps", "--maps", "z"][..], "activation_patching_logit_diff_simple_plain_z"),
        (&["ablation", "--nodes", "z:1.2"], "ablation_simple_plain"),
    ] {
        run_in(data.path(), command).success();
        let path = |ending: &str| data.path().join("demo").join(format!("{stem}.{ending}"));
        let before = ["svg", "png", "pdf", "html"].map(|ending| std::fs::read(path(ending)).unwrap());
        std::fs::remove_file(path("png")).unwrap();
        let again = run_in(data.path(), command).success();
        assert!(again.stderr.contains("exist already"), "{}", again.stderr);
        assert!(["svg", "png", "pdf", "html"].map(|ending| std::fs::read(path(ending)).unwrap()) == before, "{stem}");
    }
}

#[test]
fn a_damaged_record_is_named_and_not_trusted() {
    let data = tempfile::tempdir().unwrap();
    let command = ["activation-patching-maps", "--maps", "z"];
    let first = run_in(data.path(), &command).success();
    let record = data.path().join("demo/provenance/activation_patching_logit_diff_simple_plain_z.json");
    std::fs::write(&record, "{").unwrap();
    let again = run_in(data.path(), &command).success();
    assert!(again.stderr.contains("activation_patching_logit_diff_simple_plain_z.json is damaged"), "{}", again.stderr);
    assert_eq!(again.stdout, first.stdout);
    assert!(run_in(data.path(), &command).success().stderr.contains("1 maps exist already"));
}

/// Starts several processes at once, and waits for all of them.
fn at_once(data: &Path, commands: &[Vec<&str>]) {
    let start = |arguments: &Vec<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_actpatch"));
        command.args(arguments).arg("--data-dir").arg(data).args(["--threads", "1"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = commands.iter().map(start).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn rows_of_processes_that_run_at_once_are_all_there() {
    let data = tempfile::tempdir().unwrap();
    fit(data.path(), &[]).success();
    let nodes = ["z:1.0", "z:1.1", "z:1.2", "z:1.3", "mlp_out:0", "mlp_out:1"];
    let ablations: Vec<Vec<&str>> = nodes.iter().map(|node| vec!["ablation", "--nodes", *node]).collect();
    at_once(data.path(), &ablations);
    let lines = self::ablations(data.path());
    for node in nodes {
        let of_node = lines.iter().filter(|line| line.starts_with(&format!("{node},"))).count();
        assert_eq!(of_node, 3, "{node}: {lines:#?}");
    }
    let heads = ["1.0", "1.1", "1.2", "2.0"];
    let circuits: Vec<Vec<&str>> = heads.iter().map(|head| vec!["faithfulness", "--heads", *head]).collect();
    at_once(data.path(), &circuits);
    let table = std::fs::read_to_string(data.path().join("demo/faithfulness_simple_plain.csv")).unwrap();
    for head in heads {
        assert_eq!(table.lines().filter(|line| line.starts_with(&format!("{head},"))).count(), 3, "{table}");
    }
}

#[test]
fn losses_of_processes_that_run_at_once_are_all_there() {
    let data = tempfile::tempdir().unwrap();
    fit(data.path(), &[]).success();
    let corpus = data.path().join("corpus.txt");
    std::fs::write(&corpus, "It was great, and I loved it.\nIt was terrible, and I hated it.\n").unwrap();
    let layers = ["0", "1", "2", "3"];
    let losses = ["text-loss", "--corpus", corpus.to_str().unwrap(), "--methods", "zero", "--layers"];
    let commands: Vec<Vec<&str>> = layers.iter().map(|layer| [&losses[..], &[*layer]].concat()).collect();
    at_once(data.path(), &commands);
    let table = std::fs::read_to_string(data.path().join("demo/text_loss_corpus.csv")).unwrap();
    let alone = |command: &Vec<&str>| run_in(data.path(), command).success().stderr.contains("exist already");
    assert!(commands.iter().all(alone), "{table}");
}

#[test]
fn statistics_of_fits_that_run_at_once_are_all_there() {
    let data = tempfile::tempdir().unwrap();
    let methods = ["kmeans", "mean_diff", "pca", "svd", "logistic_regression"];
    let fit = |method: &&'static str| vec!["fit-directions", "--methods", *method, "--test-sets", "simple_test"];
    at_once(data.path(), &methods.iter().map(fit).collect::<Vec<_>>());
    let path: PathBuf = data.path().join("demo/direction_fitting_stats.csv");
    let table = std::fs::read_to_string(path).unwrap();
    for method in methods {
        let rows = table.lines().filter(|line| line.contains(&format!(",{method},"))).count();
        let fitted = std::fs::read_dir(data.path().join("demo")).unwrap().filter(|entry| {
            let name = entry.as_ref().unwrap().file_name().to_string_lossy().into_owned();
            name.starts_with(&format!("{method}_simple_train")) && name.ends_with(".npy")
        });
        assert_eq!(rows, 2 * fitted.count(), "{method}: {table}");
    }
}
