//! Model folders and dataset files with one fault each.

use super::*;
use serde_json::json;

/// A folder with the demo model's files, to be spoiled.
fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/models/demo");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(demo.join(file), folder.path().join(file)).unwrap();
    }
    folder
}

/// Sets a field of `config.json`; null removes it.
fn configure(folder: &Path, field: &str, value: serde_json::Value) {
    let path = folder.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let fields = config.as_object_mut().unwrap();
    if value.is_null() {
        fields.remove(field)
    } else {
        fields.insert(field.into(), value)
    };
    std::fs::write(path, config.to_string()).unwrap();
}

/// Every command must refuse the model, with these words, and write nothing.
#[track_caller]
fn refused(folder: &Path, words: &[&str]) {
    let data = tempfile::tempdir().unwrap();
    let path = folder.to_str().unwrap();
    for command in [&["fit-directions", "--methods", "mean_diff"][..], &["self-check"], &["random-directions"]] {
        run_in(data.path(), &[command, &["--models", path]].concat()).fails(1, words);
    }
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);
}

#[test]
fn a_folder_of_the_demo_files_is_the_demo_model() {
    let (folder, data) = (model(), tempfile::tempdir().unwrap());
    let fit = ["fit-directions", "--methods", "mean_diff", "--layers", "1"];
    run_in(data.path(), &fit).success();
    run_in(data.path(), &[&fit[..], &["--models", folder.path().to_str().unwrap()]].concat()).success();
    let name = "mean_diff_simple_train_ADJ_layer1.npy";
    let own = data.path().join(folder.path().file_name().unwrap()).join(name);
    assert_eq!(std::fs::read(own).unwrap(), std::fs::read(data.path().join("demo").join(name)).unwrap());
}

#[test]
fn missing_and_truncated_files_are_named() {
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let folder = model();
        std::fs::remove_file(folder.path().join(file)).unwrap();
        refused(folder.path(), &[file]);
        let folder = model();
        let bytes = std::fs::read(folder.path().join(file)).unwrap();
        for kept in [0, 5, bytes.len() / 2] {
            std::fs::write(folder.path().join(file), &bytes[..kept]).unwrap();
            refused(folder.path(), &[file]);
        }
    }
}

#[test]
fn fields_of_the_configuration_are_named() {
    for (field, value, words) in [
        ("model_type", json!("bert"), &["model_type", "bert", "gpt2"][..]),
        ("n_embd", json!(0), &["n_embd"]),
        ("n_embd", json!(-1), &["n_embd", "-1"]),
        ("n_head", json!(7), &["n_head"]),
        ("n_layer", json!(0), &["n_layer"]),
        ("n_layer", json!(1e18), &["n_layer"]),
        ("n_layer", json!(null), &["n_layer"]),
        ("activation_function", json!("swish9"), &["activation_function", "swish9"]),
    ] {
        let folder = model();
        configure(folder.path(), field, value);
        refused(folder.path(), &[&["config.json"], words].concat());
    }
}

#[test]
fn tensors_of_the_wrong_shape_are_named() {
    for (field, value, words) in [
        ("n_positions", json!(2048), ["wpe.weight", "shape"]),
        ("vocab_size", json!(7), ["wte.weight", "shape"]),
        ("n_layer", json!(9), ["n_layer", "at most 4"]),
    ] {
        let folder = model();
        configure(folder.path(), field, value);
        refused(folder.path(), &[&["model.safetensors"], &words[..]].concat());
    }
}

/// A dataset file that differs from a good one in one place.
fn dataset(from: &str, to: &str) -> String {
    let good = r#"
        [mine]
        template = "I thought this movie was{ADJ}"
        [mine.fill]
        ADJ = { positive = "good_words", negative = "bad_words" }
        [mine.answers]
        positive = "good_words"
        negative = "bad_words"
        [words]
        good_words = ["good", "great"]
        bad_words = ["bad", "terrible"]
    "#;
    assert!(good.contains(from));
    good.replace(from, to)
}

#[test]
fn faults_of_dataset_files_are_named() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("mine.toml");
    let path = file.to_str().unwrap();
    let out = data.path().join("out");
    let fit =
        ["fit-directions", "--methods", "mean_diff", "--layers", "1", "--train-sets", "mine", "--dataset-file", path];
    for (from, to, words) in [
        ("[mine]", "[mine", &["line 2"][..]),
        ("template", "templates", &["mine", "templates"]),
        ("{ADJ}\"", "{ADJ\"", &["mine", "template"]),
        ("positive = \"good_words\", negative", "positive = \"nope\", negative", &["mine", "fill.ADJ", "`nope`"]),
        ("positive = \"good_words\"\n", "positive = \"nope\"\n", &["mine", "answers", "`nope`"]),
        ("good_words = [\"good\", \"great\"]", "good_words = []", &["mine", "good_words"]),
        ("good_words = [\"good\", \"great\"]", "good_words = [\"qzxvkjw\"]", &["mine", "good_words"]),
        ("good_words = [\"good\", \"great\"]", "good_words = 3", &["good_words", "list"]),
        ("{ADJ}", "", &["mine"]),
    ] {
        std::fs::write(&file, dataset(from, to)).unwrap();
        let words = [&["mine.toml"], words].concat();
        run_in(&out, &fit).fails(1, &words);
        assert!(!out.exists());
    }
    std::fs::write(&file, b"\xff\xfe").unwrap();
    run_in(&out, &fit).fails(1, &["mine.toml", "UTF-8"]);
    // Prompts of different lengths cannot be paired position by position.
    let unequal = r#"[[mine.prompts]]
        clean = "good"
        corrupted = "bad bad bad"
        correct = " good"
        incorrect = " bad"
        label = "positive""#;
    std::fs::write(&file, unequal).unwrap();
    run_in(&out, &fit).fails(1, &["mine.toml", "mine", "prompts"]);
    std::fs::write(&file, dataset("[mine]", "[mine]")).unwrap();
    run_in(&out, &fit).success();
}

#[test]
fn damaged_results_are_named_with_the_way_out() {
    let data = tempfile::tempdir().unwrap();
    let fit = ["fit-directions", "--methods", "mean_diff", "--layers", "1"];
    let ablation = ["ablation", "--nodes", "z:1.0"];
    let steering =
        ["steering", "--directions", "mean_diff_simple_train_ADJ_layer01", "--coefficients", "4", "--prompt", "I"];
    let commands: [(&[&str], &str, &[u8]); 3] = [
        (&fit, "direction_fitting_stats.csv", b"train_set,train_layer\nsimple_train,x\n"),
        (&ablation, "ablation_simple_plain.csv", b"ablated,method\nz:1.0\n"),
        (&steering, "steering_mean_diff_simple_train_ADJ_layer1.jsonl", b"{\"direction\":\n"),
    ];
    for (command, file, damaged) in commands {
        run_in(data.path(), command).success();
        let path = data.path().join("demo").join(file);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, damaged).unwrap();
        run_in(data.path(), command).fails(1, &[file, "moved away, it is made again by its study"]);
        assert_eq!(std::fs::read(&path).unwrap(), damaged);
        std::fs::remove_file(&path).unwrap();
        run_in(data.path(), command).success();
        assert_eq!(std::fs::read(&path).unwrap(), whole, "{file}");
    }
}
