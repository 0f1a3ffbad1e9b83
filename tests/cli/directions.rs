//! `directions`: import, list, show, compare.

use super::*;

/// The first layers' norms of the demo model: d_model is 128, and there are 4 blocks.
const WIDTH: usize = 128;

/// A direction as the paper's code publishes it: a JSON list of numbers.
fn list(seed: usize) -> String {
    let values: Vec<f64> = (0..WIDTH).map(|index| ((index * 7 + seed * 13) % 17) as f64 / 17.0 - 0.4).collect();
    serde_json::to_string(&values).unwrap()
}

/// An `.npy` file of f32 values.
pub fn npy(values: &[f32], shape: &str) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| std::fs::write(folder.path().join(name), bytes).unwrap());
    folder
}

fn import(data: &Path, from: &Path, extra: &[&str]) -> Finished {
    let arguments = ["directions", "import", from.to_str().unwrap(), "--model", "demo"];
    run_in(data, &[&arguments[..], extra].concat())
}

#[test]
fn imported_directions_are_stored_with_their_source_and_patched_along() {
    let data = fitted();
    let ramp: Vec<f32> = (0..2 * WIDTH).map(|index| (index as f32).sin()).collect();
    let plane = npy(&ramp, &format!("({WIDTH}, 2)"));
    let nested: Vec<[f32; 3]> = (0..WIDTH).map(|row| [row as f32, (row * row) as f32, 1.0]).collect();
    let files = [
        // An editor's mark is no part of it.
        ("das_theirs_ADJ_layer1.json", format!("\u{feff}{}", list(1)).into_bytes()),
        ("das2d_theirs_ADJ_layer02.npy", plane),
        ("das3d_theirs_ADJ_layer3.json", serde_json::to_vec(&nested).unwrap()),
        ("kmeans_theirs_ADJ_layer4.npy", npy(&ramp[..WIDTH], &format!("({WIDTH},)"))),
        ("notes.txt", b"none of ours".to_vec()),
    ];
    let from = folder(&files.each_ref().map(|(name, bytes)| (*name, &bytes[..])));
    let plan = import(data.path(), from.path(), &["--dry-run"]).success();
    assert!(plan.stdout.contains("4 directions would be imported") && manifests(data.path()).len() == 1);
    assert!(!data.path().join("demo/das_theirs_ADJ_layer1.npy").exists());

    let json = import(data.path(), from.path(), &["--weight-processing", "fold_ln,center_unembed", "--json"]).success();
    let json = json.json();
    assert_eq!(json["directions"].as_array().unwrap().len(), 4);
    let manifest = &json["manifest"];
    assert_eq!((&manifest["command"], &manifest["finished"]), (&"directions-import".into(), &true.into()));
    assert!(
        manifest["written"]["das2d_theirs_ADJ_layer2.npy"].is_array(),
        "layers are written without zeros: {manifest}"
    );
    let record = std::fs::read(data.path().join("demo/das_theirs_ADJ_layer1.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    assert_eq!((&record["model"], &record["dataset"]), (&"demo".into(), &"theirs".into()));
    assert_eq!(record["weight_processing"], serde_json::json!(["fold_ln", "center_unembed"]));
    let source = from.path().join("das_theirs_ADJ_layer1.json").display().to_string();
    assert_eq!(
        (&record["imported"]["file"], record["imported"]["sha256"].as_str().unwrap().len()),
        (&source.into(), 64)
    );

    // The suite takes them under the processing that was stated, and under no other.
    let suite = ["direction-patching-suite", "--directions", "*_theirs_*"];
    run_in(data.path(), &suite).fails(1, &["weight_processing", "--weight-processing fold_ln,center_unembed"]);
    let stated = [&suite[..], &["--weight-processing", "fold_ln,center_unembed"]].concat();
    run_in(data.path(), &stated).success();
    let path = result_file(data.path(), "logit_diff", "");
    assert!(value(&path, "das2d_theirs_ADJ_layer02", "simple_test", "ADJ").abs() > 1e-3);

    // What is there is kept; what is replaced loses its results.
    import(data.path(), from.path(), &[]).fails(1, &["weight_processing fold_ln,center_unembed", "--overwrite"]);
    let again = import(data.path(), from.path(), &["--weight-processing", "fold_ln,center_unembed"]).success();
    assert!(again.stderr.contains("4 directions exist already") && again.stdout.contains("0 directions imported"));
    import(data.path(), from.path(), &["--directions", "das_*", "--overwrite"]).success();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("das_theirs_ADJ_layer01") && text.contains("das2d_theirs_ADJ_layer02"), "{text}");
}

#[test]
fn one_fault_and_nothing_is_imported() {
    let good = list(1);
    let short = serde_json::to_string(&vec![0.5; 3]).unwrap();
    let hollow = npy(&[f32::NAN; WIDTH], &format!("({WIDTH},)"));
    let array = npy(&[0.5; WIDTH], &format!("({WIDTH},)"));
    let flat = npy(&[0.5; WIDTH], &format!("({WIDTH}, 1)"));
    let large = format!("[1e300{}]", ", 0.5".repeat(WIDTH - 1));
    let small = format!("[1e-300{}]", ", 0".repeat(WIDTH - 1));
    for (name, bytes, words) in [
        ("my probe_layer1.json", good.as_bytes(), &["my probe_layer1", "name", "letters"][..]),
        ("das_theirs_ADJ_layer5.json", good.as_bytes(), &["das_theirs_ADJ_layer5.json", "layer", "0 to 4", "found 5"]),
        ("das_theirs_ADJ_layer2.json", short.as_bytes(), &["das_theirs_ADJ_layer2.json", "shape", "(128,)", "(3,)"]),
        ("das_theirs_ADJ_layer2.npy", &hollow, &["das_theirs_ADJ_layer2.npy", "values", "NaN"]),
        ("das_theirs_ADJ_layer2.json", b"[0.1, NaN]", &["das_theirs_ADJ_layer2.json", "list of numbers"]),
        ("das_theirs_ADJ_layer2.json", large.as_bytes(), &["das_theirs_ADJ_layer2.json", "up to 3.4", "found 1e300"]),
        ("das_theirs_ADJ_layer2.json", small.as_bytes(), &["das_theirs_ADJ_layer2.json", "zero in 32 bits"]),
        ("das_theirs_ADJ_layer2.json", b"{}", &["das_theirs_ADJ_layer2.json", "list of numbers"]),
        ("das2d_theirs_ADJ_layer2.json", good.as_bytes(), &["das2d_theirs_ADJ_layer2.json", "(128, 2)", "(128,)"]),
        (
            "das2d_theirs_ADJ_layer2.json",
            b"[[1, 2], [3]]",
            &["das2d_theirs_ADJ_layer2.json", "2 numbers", "1 in row 1"],
        ),
        ("das2d_theirs_ADJ_layer2.npy", &flat, &["das2d_theirs_ADJ_layer2.npy", "shape", "(128, 2)"]),
        ("das_theirs_ADJ_layer2.npy", b"garbage", &["das_theirs_ADJ_layer2.npy", "header"]),
        ("das_theirs_ADJ_layer1.npy", &array, &["das_theirs_ADJ_layer1", "one file", "das_theirs_ADJ_layer1.json"]),
        ("das_theirs_ADJ_layer2.pt", b"PK", &["das_theirs_ADJ_layer2.pt", "torch.save", "numpy.save"]),
        ("das_theirs_ADJ_layer2.npz", b"PK", &["das_theirs_ADJ_layer2.npz", "archive", ".npz"]),
        ("das_theirs_ADJ_layer2.safetensors", b"PK", &["das_theirs_ADJ_layer2.safetensors", "header"]),
        ("das_theirs_ADJ_layer01.json", good.as_bytes(), &["das_theirs_ADJ_layer1.json", "one file", "layer01.json"]),
    ] {
        let data = tempfile::tempdir().unwrap();
        let from = folder(&[("das_theirs_ADJ_layer1.json", good.as_bytes()), (name, bytes)]);
        import(data.path(), from.path(), &[]).fails(1, words);
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0, "{name} left something behind");
        // The rest can be had by name.
        let only = import(data.path(), from.path(), &["--directions", "das_theirs_ADJ_layer3"]);
        only.fails(1, &["das_theirs_ADJ_layer3", "matches none of the 2"]);
    }
    let data = tempfile::tempdir().unwrap();
    import(data.path(), &data.path().join("nowhere"), &[]).fails(1, &["nowhere"]);
    let empty = tempfile::tempdir().unwrap();
    import(data.path(), empty.path(), &[]).fails(1, &["matches none of the 0", empty.path().to_str().unwrap()]);
    let nameless = folder(&[("rotation_direction0.json", good.as_bytes())]);
    let words = ["rotation_direction0.json: direction name", "layer", "use --layer L"];
    import(data.path(), nameless.path(), &[]).fails(1, &words);
    import(data.path(), nameless.path(), &["--layer", "-6"]).fails(1, &["--layer: -6 is outside -5 to 4"]);
    import(data.path(), nameless.path(), &["--layer", "1..2"]).fails(1, &["--layer: expected one layer"]);
    let last = import(data.path(), nameless.path(), &["--layer", "-1", "--dry-run"]).success();
    assert!(last.stdout.contains("rotation_direction0_layer4"), "{}", last.stdout);
    let notes = folder(&[("notes.txt", b"none of ours".as_slice())]);
    import(data.path(), &notes.path().join("notes.txt"), &[])
        .fails(1, &["notes.txt", "format", ".safetensors", "\"txt\""]);
    let from = folder(&[("das_theirs_ADJ_layer1.json", good.as_bytes())]);
    import(data.path(), from.path(), &["--weight-processing", "none,fold_ln"]).fails(1, &["--weight-processing"]);
    let unknown = ["directions", "import", from.path().to_str().unwrap(), "--model", "nope"];
    run_in(data.path(), &unknown).fails(1, &["--model", "`nope`"]);
}

/// A direction of `make_direction_files.py` by number.
fn reference(number: usize) -> Vec<f32> {
    (0..WIDTH).map(|index| ((7 * index + 3 * number) % 17) as f32 / 16.0 - 0.5).collect()
}

#[test]
fn directions_of_any_name_come_from_the_files_of_other_tools() {
    let data = tempfile::tempdir().unwrap();
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/directions/files");
    let processing = "fold_ln,center_writing_weights,center_unembed,fold_value_biases";
    let by_name = ["--directions", "concept,truth_*"];
    import(data.path(), &files, &by_name).fails(1, &["\"concept\"", "layer", "use --layer L"]);
    let idle = ["--directions", "truth_*", "--layer", "2"];
    import(data.path(), &files, &idle).fails(1, &["--layer", "has no layer for 2", "truth_layer0"]);
    let plan = import(data.path(), &files, &["--dry-run"]).success();
    assert!(plan.stdout.contains("11 directions would be imported"), "{}", plan.stdout);
    assert!(plan.stderr.contains("1 without a layer in the name: concept (concept.safetensors)"), "{}", plan.stderr);
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);
    let stated = ["--weight-processing", processing, "--layer", "2"];
    let json = import(data.path(), &files, &[&stated[..], &["--json"]].concat()).success().json();
    let names: Vec<&str> = json["directions"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
    let expected = [
        ("das2d_theirs_ADJ_layer3", vec![5, 6]),
        ("concept_layer2", vec![12]),
        ("honest_layer1", vec![10]),
        ("honest_layer2", vec![11]),
        ("lens-v2.1_layer2", vec![8]),
        ("listed_layer3", vec![13]),
        ("plane_layer1", vec![5, 6, 7]),
        ("single_layer4", vec![9]),
        ("truth_layer0", vec![0]),
        ("truth_layer1", vec![1]),
        ("truth_layer2", vec![2]),
        ("truth_layer3", vec![3]),
    ];
    assert_eq!(names, expected.each_ref().map(|(name, _)| *name));
    for (name, columns) in &expected {
        let bytes = std::fs::read(data.path().join(format!("demo/{name}.npy"))).unwrap();
        let columns: Vec<Vec<f32>> = columns.iter().map(|number| reference(*number)).collect();
        let values = (0..WIDTH).flat_map(|row| columns.iter().map(move |column| column[row]));
        let expected: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        assert!(bytes.ends_with(&expected) && bytes.len() == 128 + expected.len(), "{name}");
    }
    let record = std::fs::read(data.path().join("demo/plane_layer1.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    assert_eq!((&record["method"], &record["dataset"]), (&"plane".into(), &serde_json::Value::Null));
    assert_eq!(record["imported"]["array"], "plane_layer1");
    let again = ["--weight-processing", processing, "--directions", "plane*,truth_layer?"];
    let again = import(data.path(), &files, &again).success();
    assert!(again.stderr.contains("5 directions exist already"), "{}", again.stderr);

    // Every command takes them by these names.
    let suite = ["direction-patching-suite", "--directions", "truth_*,plane_layer1", "--metrics", "logit_diff"];
    run_in(data.path(), &suite).success();
    let path = result_file(data.path(), "logit_diff", "");
    assert!(value(&path, "truth_layer01", "simple_test", "ADJ").is_finite());
    assert!(value(&path, "plane_layer01", "simple_test", "ADJ").abs() > 1e-6);
    let results = run_in(data.path(), &["direction-patching-results"]).success();
    assert!(results.stdout.contains("truth") && results.stdout.contains("plane"), "{}", results.stdout);
    let steer = ["steering", "--coefficients", "0", "--max-new-tokens", "1", "--samples", "1", "--directions"];
    for name in ["truth", "truth_layer1", "lens-v2.1_layer2"] {
        run_in(data.path(), &[&steer[..], &[name]].concat()).success();
    }
    run_in(data.path(), &[&steer[..], &["truht_layer1"]].concat()).fails(1, &["truht_layer1 is not in", "truth"]);
    let show = run_in(data.path(), &["directions", "show", "truth_layer1"]).success();
    assert!(show.stdout.contains("imported") && show.stdout.contains("truth_layer1.npy"), "{}", show.stdout);
    let along = ["logit-attribution", "--maps", "heads", "--along", "truth_layer2"];
    run_in(data.path(), &along).success();
    // An array of results is no direction, whatever it is called.
    let listed = run_in(data.path(), &["directions", "list", "*layer2", "--json"]).success().json();
    let listed: Vec<&str> = listed.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(listed, ["concept_layer2", "honest_layer2", "lens-v2.1_layer2", "truth_layer2"]);
}

#[test]
fn a_folder_of_results_is_imported_as_it_lies() {
    let data = fitted();
    let maps = ["activation-patching-maps", "--maps", "z", "--metrics", "logit_diff"];
    run_in(data.path(), &maps).success();
    let from = data.path().join("demo");
    let model = data.path().join("other-model");
    std::fs::create_dir(&model).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/models/demo").join(name);
        std::fs::copy(demo, model.join(name)).unwrap();
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let import = ["directions", "import", from.to_str().unwrap(), "--model", model.to_str().unwrap()];
    let processed = "fold_ln,center_writing_weights,center_unembed,fold_value_biases";
    let import = [&import[..], &["--weight-processing", processed]].concat();
    let done = run_in(elsewhere.path(), &import).success();
    assert!(done.stdout.contains("23 directions imported"), "{}", done.stdout);
    assert!(done.stderr.contains("without a layer in the name: activation_patching"), "{}", done.stderr);
    let stored = files(&elsewhere.path().join("other-model"));
    let arrays = stored.iter().filter(|(path, _)| path.extension().is_some_and(|ending| ending == "npy"));
    assert_eq!(arrays.clone().count(), 23);
    arrays.for_each(|(path, bytes)| assert!(*bytes == std::fs::read(from.join(path)).unwrap(), "{}", path.display()));
}

#[test]
fn stored_directions_are_listed_and_shown() {
    let data = fitted();
    let json = run_in(data.path(), &["directions", "list", "--json"]).success().json();
    // mean_diff, pca and random at five layers, das and das2d at four.
    assert_eq!(json.as_array().unwrap().len(), 3 * 5 + 2 * 4);
    let plane = json.as_array().unwrap().iter().find(|row| row["name"] == "das2d_simple_train_ADJ_layer2").unwrap();
    assert_eq!((&plane["shape"], &plane["provenance"]), (&serde_json::json!([128, 2]), &"fitted".into()));
    let text = run_in(data.path(), &["directions", "list", "das_*"]).success().stdout;
    assert!(text.contains("das_simple_train_ADJ_layer3") && !text.contains("mean_diff"), "{text}");
    let show = ["directions", "show", "das_simple_train_ADJ_layer2"];
    let text = run_in(data.path(), &show).success().stdout;
    for part in
        ["norm              1.000000", "fitted", "fold_ln,center_writing_weights", "\"epochs\":64", "epoch", "\n64 "]
    {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let json = run_in(data.path(), &[&show[..], &["--json"]].concat()).success().json();
    assert!((json[0]["norms"][0].as_f64().unwrap() - 1.0).abs() < 1e-6);
    assert_eq!(json[0]["record"]["loss_curve"].as_array().unwrap().len(), 64);
    std::fs::remove_file(data.path().join("demo/pca_simple_train_ADJ_layer0.json")).unwrap();
    let text = run_in(data.path(), &["directions", "show", "pca*layer0"]).success().stdout;
    assert!(text.contains("no record"), "{text}");
    run_in(data.path(), &["directions", "show", "svd*"]).fails(1, &["svd*", "matches none"]);
    run_in(data.path(), &["directions", "list", "--model", "gpt2-small"]).fails(1, &["gpt2-small", "no such folder"]);
    run_in(data.path(), &["directions", "list", "--model", "nope"]).fails(1, &["--model", "`nope`"]);
    assert_eq!(finish(&mut actpatch(&["directions"])).code, 2);
}

#[test]
fn every_two_directions_are_compared() {
    let data = fitted();
    let compare = ["directions", "compare", "mean_diff*layer1", "das*layer1"];
    let json = run_in(data.path(), &[&compare[..], &["--json"]].concat()).success().json();
    let names = ["mean_diff", "das", "das2d"].map(|method| format!("{method}_simple_train_ADJ_layer1"));
    assert_eq!(json["directions"], serde_json::json!(names));
    let at = |row: usize, column: usize| json["cosines"][row][column].as_f64().unwrap();
    for row in 0..3 {
        assert!((at(row, row) - 1.0).abs() < 1e-6);
        (0..3).for_each(|column| assert_eq!(at(row, column), at(column, row)));
    }
    // Against the library's own cosine of two vectors.
    let read = |name: &str| {
        let bytes = std::fs::read(data.path().join(format!("demo/{name}.npy"))).unwrap();
        let values = bytes[bytes.len() - WIDTH * 4..].as_chunks::<4>().0.iter();
        values.map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<_>>()
    };
    let expected = actpatch::directions::cosine(&read(&names[0]), &read(&names[1]));
    assert!((at(0, 1) - expected).abs() < 1e-9 && expected.abs() > 0.1, "{} {expected}", at(0, 1));
    let text = run_in(data.path(), &[&compare[..], &["--csv"]].concat()).success().stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], format!("direction,{}", names.join(",")));
    assert!((lines[1].split(',').nth(2).unwrap().parse::<f64>().unwrap() - at(0, 1)).abs() < 1e-12);
    let table = run_in(data.path(), &compare).success().stdout;
    assert!(table.contains("1 mean_diff_simple_train_ADJ_layer1") && table.contains("1.000"), "{table}");
}

/// The published directions' neighbouring layers; `|cosine|` as their authors' files give it.
#[test]
fn published_directions_have_the_published_cosines() {
    let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/directions/gpt2-small");
    if !published.is_dir() {
        println!("skipped: the published directions are not at {}", published.display());
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let import = ["directions", "import", published.to_str().unwrap(), "--model", "gpt2-small"];
    let done = run_in(data.path(), &import).success();
    assert!(done.stdout.contains("13 directions imported"), "{}", done.stdout);
    let compare = ["directions", "compare", "das_*", "--model", "gpt2-small", "--json"];
    let json = run_in(data.path(), &compare).success().json();
    let expected = [0.371, 0.910, 0.873, 0.914, 0.735, 0.814, 0.875, 0.840, 0.926, -0.895, -0.848, -0.044];
    for (layer, expected) in expected.into_iter().enumerate() {
        let found = json["cosines"][layer][layer + 1].as_f64().unwrap();
        // Half a unit of the last published digit.
        assert!((found - expected).abs() <= 5e-4, "layers {layer} and {}: {found}", layer + 1);
    }
}

#[test]
fn columns_that_share_a_part_are_no_basis() {
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut values = vec![0.0f32; 2 * WIDTH];
    (values[0], values[1], values[3]) = (1.0, 1.0, 0.5);
    std::fs::write(folder.path().join("pair_layer1.npy"), npy(&values, &format!("({WIDTH}, 2)"))).unwrap();
    let import = ["directions", "import", folder.path().to_str().unwrap(), "--model", "demo", "--overwrite"];
    let warned = run_in(data.path(), &import).success().stderr;
    assert!(warned.contains("columns 0 and 1 are not orthogonal (their cosine is 0.8944)"), "{warned}");
    (values[1], values[3]) = (0.0, 1.0);
    std::fs::write(folder.path().join("pair_layer1.npy"), npy(&values, &format!("({WIDTH}, 2)"))).unwrap();
    assert!(!run_in(data.path(), &import).success().stderr.contains("orthogonal"));
}

#[test]
fn a_fit_that_is_imported_keeps_the_weights_it_was_fitted_on() {
    let (data, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run_in(data.path(), &["fit-directions", "--methods", "mean_diff", "--layers", "1"]).success();
    let folder = data.path().join("demo");
    let import = ["directions", "import", folder.to_str().unwrap(), "--model", "demo", "--directions", "mean_diff*"];
    run_in(other.path(), &import).fails(1, &["mean_diff_simple_train_ADJ_layer1.npy", "its record says fold_ln"]);
    let named = "fold_ln,center_writing_weights,center_unembed,fold_value_biases";
    run_in(other.path(), &[&import[..], &["--weight-processing", named]].concat()).success();
}

#[test]
fn lists_of_names_are_separated_by_commas() {
    let data = tempfile::tempdir().unwrap();
    run_in(data.path(), &["fit-directions", "--methods", "kmeans,pca", "--layers", "1,2"]).success();
    let names = "kmeans_simple_train_ADJ_layer1,pca_simple_train_ADJ_layer2";
    for command in ["list", "show", "compare"] {
        let typed = run_in(data.path(), &["directions", command, names, "--model", "demo"]).success().stdout;
        let words: Vec<&str> = names.split(',').collect();
        let listed = run_in(data.path(), &[&["directions", command], &words[..]].concat()).success().stdout;
        assert!(typed == listed && words.iter().all(|word| typed.contains(word)), "{typed}");
        assert!(!typed.contains("pca_simple_train_ADJ_layer1"), "{typed}");
    }
}

/// A pattern stands for the directions of the run's own weights, and a name for what it says.
#[test]
fn a_folder_may_hold_directions_of_several_weight_processings() {
    let data = tempfile::tempdir().unwrap();
    run_in(data.path(), &["fit-directions", "--methods", "kmeans", "--layers", "1"]).success();
    let none = ["--weight-processing", "none"];
    run_in(data.path(), &[&["fit-directions", "--methods", "pca", "--layers", "1,2"], &none[..]].concat()).success();
    let left_out = "2 directions of another weight processing than fold_ln,center_writing_weights,center_unembed,\
                    fold_value_biases are left out: pca_simple_train_ADJ_layer1, pca_simple_train_ADJ_layer2";
    for command in [
        &["direction-patching-suite"][..],
        &["neuron-cosines", "--directions", "*"],
        &["neuroscope", "--text", "I loved it.", "--directions", "*_layer1"],
        &["steering", "--directions", "*_layer1", "--coefficients", "1", "--samples", "1", "--max-new-tokens", "2"],
        &["ablation", "--directions", "*_ADJ", "--methods", "zero"],
    ] {
        let run = run_in(data.path(), command).success();
        assert!(run.stderr.contains(left_out) || run.stderr.contains("1 directions of another"), "{}", run.stderr);
        assert!(!run.stdout.contains("pca") && run.stdout.contains("kmeans"), "{}", run.stdout);
    }
    let ours = run_in(data.path(), &[&["neuron-cosines", "--directions", "*"], &none[..]].concat()).success();
    assert!(ours.stdout.contains("pca") && ours.stderr.contains("than none are left out: kmeans"), "{}", ours.stderr);
    // What is named itself is refused, and so is a pattern of others alone; the way out is the message's.
    for name in ["pca_simple_train_ADJ_layer1", "pca_*", "pca_simple_train_ADJ"] {
        let suite = ["direction-patching-suite", "--directions", name];
        run_in(data.path(), &suite).fails(1, &["pca_simple_train_ADJ_layer1.json", "use --weight-processing none"]);
    }
    let kept = ["fit-directions", "--methods", "pca", "--layers", "1"];
    run_in(data.path(), &kept).fails(1, &["weight_processing: expected fold_ln", "found none; use --overwrite"]);
    let cosines = run_in(data.path(), &["directions", "compare"]).success().stdout;
    assert!(cosines.contains("note: cosines between directions of different weight processing"), "{cosines}");
    let cosines = run_in(data.path(), &["directions", "compare", "pca_*"]).success().stdout;
    assert!(!cosines.contains("note"), "{cosines}");
}

#[test]
fn the_seed_moves_random_directions_and_their_usual_seed_stays_42() {
    let array = |arguments: &[&str]| {
        let data = tempfile::tempdir().unwrap();
        run_in(data.path(), arguments).success();
        let record = std::fs::read(data.path().join("demo/random_direction_layer01.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        assert_eq!(record["seed"], record["provenance"]["seed"]);
        (std::fs::read(data.path().join("demo/random_direction_layer01.npy")).unwrap(), record["seed"].clone())
    };
    let usual = array(&["random-directions"]);
    assert_eq!(usual.1, 42);
    let fit = ["fit-directions", "--methods", "random", "--layers", "1"];
    assert_eq!(array(&fit), usual);
    assert_eq!(array(&["random-directions", "--direction-seed", "42", "--seed", "7"]), usual);
    let seven = array(&["random-directions", "--seed", "7"]);
    assert!(seven.1 == 7 && seven.0 != usual.0);
    assert_eq!(array(&[&fit[..], &["--seed", "7"]].concat()), seven);
    assert_eq!(array(&["random-directions", "--direction-seed", "7"]), seven);
}

#[test]
fn why_a_direction_has_no_fit_stands_below_the_table() {
    let data = tempfile::tempdir().unwrap();
    let fit = ["fit-directions", "--methods", "das,das2d", "--layers", "3,4", "--epochs", "1"];
    let shown = run_in(data.path(), &fit).success().stdout;
    let why = "das_simple_train_ADJ_layer4, das2d_simple_train_ADJ_layer4: layer 4: a patch behind the last block";
    assert!(shown.lines().last().unwrap().starts_with(why), "{shown}");
    let cell = shown.lines().find(|line| line.starts_with("das_simple_train_ADJ_layer4 ")).unwrap();
    assert!(cell.trim_end().ends_with(" -") && cell.len() < 60, "{cell}");
}
