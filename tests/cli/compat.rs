//! `--compat`: what it changes, where it is written down, and what it may not be mixed with.

use super::*;

fn record(data: &Path, name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(data.join(format!("demo/{name}.json"))).unwrap()).unwrap()
}

#[test]
fn prompts_of_the_papers_code_are_fitted_patched_and_recorded() {
    let data = tempfile::tempdir().unwrap();
    let fit = ["fit-directions", "--methods", "mean_diff", "--layers", "1", "--train-sets", "classification_4"];
    let name = "mean_diff_classification_4_ADJ1_layer1";
    let compat = ["--compat", "pasted-adjectives,double-spaces,double-spaces"];
    run_in(data.path(), &[&fit[..], &compat[..]].concat()).success();
    assert_eq!(record(data.path(), name)["compat"], serde_json::json!(["double-spaces", "pasted-adjectives"]));
    run_in(data.path(), &[&fit[..], &compat[..]].concat()).success();
    let differs = [name, "compat", "expected none", "found double-spaces,pasted-adjectives", "--overwrite"];
    run_in(data.path(), &fit).fails(1, &differs);

    let suite = ["direction-patching-suite", "--eval-sets", "classification_4"];
    run_in(data.path(), &[&suite[..], &compat[..]].concat()).success();
    run_in(data.path(), &suite).success();
    let label = "mean_diff_classification_4_ADJ1_layer01";
    let at = |ending| value(&result_file(data.path(), "logit_diff", ending), label, "classification_4", "ADJ1");
    let (old, ours) = (at("_compat_double-spaces_pasted-adjectives"), at(""));
    assert!(old.is_finite() && (old - ours).abs() > 1e-3, "{old} {ours}");
}

/// A direction without a record is patched as it is, whatever it was fitted with: the compat's cell must be that cell.
#[test]
fn directions_of_unprocessed_weights_are_patched_on_request() {
    let data = tempfile::tempdir().unwrap();
    let fit = ["fit-directions", "--methods", "mean_diff", "--layers", "1", "--weight-processing", "none"];
    run_in(data.path(), &fit).success();
    let suite = ["direction-patching-suite"];
    run_in(data.path(), &suite).fails(1, &["weight_processing", "expected fold_ln", "found none"]);
    run_in(data.path(), &["direction-patching-suite", "--compat", "unprocessed-fits"]).success();
    let label = "mean_diff_simple_train_ADJ_layer01";
    let at = |ending| value(&result_file(data.path(), "logit_diff", ending), label, "simple_test", "ADJ");
    let mixed = at("_compat_unprocessed-fits");
    std::fs::remove_file(data.path().join("demo/mean_diff_simple_train_ADJ_layer1.json")).unwrap();
    run_in(data.path(), &suite).success();
    assert_eq!(mixed, at(""));
    // What the mixture mixes: processed residuals are the checkpoint's own less their mean over the dimensions.
    let processed = tempfile::tempdir().unwrap();
    run_in(processed.path(), &fit[..5]).success();
    let vector = |data: &tempfile::TempDir| -> Vec<f64> {
        let bytes = std::fs::read(data.path().join("demo/mean_diff_simple_train_ADJ_layer1.npy")).unwrap();
        let values = bytes[bytes.len() - 128 * 4..].as_chunks::<4>().0;
        values.iter().map(|value| f64::from(f32::from_le_bytes(*value))).collect()
    };
    let (own, centred) = (vector(&data), vector(&processed));
    let mean = own.iter().sum::<f64>() / 128.0;
    let largest = centred.iter().fold(0.0f64, |most, value| most.max(value.abs()));
    assert!(mean.abs() > 1e-4 * largest, "{mean} {largest}");
    for (own, centred) in own.iter().zip(&centred) {
        // f32 sums through one block.
        assert!((own - mean - centred).abs() < 1e-5 * largest, "{own} {mean} {centred}");
    }
}

#[test]
fn names_without_meaning_are_refused() {
    let data = tempfile::tempdir().unwrap();
    run_in(data.path(), &["fit-directions", "--compat", "unprocessed-fits"])
        .fails(1, &["--compat", "unprocessed-fits"]);
    run_in(data.path(), &["fit-directions", "--compat", "unpatched-runs"]).fails(1, &["--compat", "unpatched-runs"]);
    run_in(data.path(), &["fit-directions", "--compat", "layer-wide"]).fails(2, &["--compat", "double-spaces"]);
    run_in(data.path(), &["random-directions", "--compat", "double-spaces"]).fails(2, &["--compat"]);
}

/// At every position the last layer's patch undoes all before it: what is left is that layer's own patch.
#[test]
fn patches_of_all_layers_are_made_of_the_unpatched_runs_on_request() {
    let data = fitted();
    let name = |layer: usize| format!("mean_diff_simple_train_ADJ_layer{layer}");
    for layer in 0..4 {
        let from = std::fs::read(data.path().join(format!("demo/{}.npy", name(1)))).unwrap();
        std::fs::write(data.path().join(format!("demo/{}.npy", name(layer))), from).unwrap();
        let _ = std::fs::remove_file(data.path().join(format!("demo/{}.json", name(layer))));
    }
    let suite = |extra: &[&str]| {
        let directions = ["direction-patching-suite", "--directions", "mean_diff*", "--positions", "ALL,ADJ"];
        run_in(data.path(), &[&directions[..], extra].concat()).success();
    };
    suite(&[]);
    suite(&["--layers", "all"]);
    suite(&["--layers", "all", "--compat", "unpatched-runs"]);
    suite(&["--compat", "unpatched-runs"]);
    let at = |ending, layer: usize, position| {
        let label = format!("mean_diff_simple_train_ADJ_layer{layer:02}");
        value(&result_file(data.path(), "logit_diff", ending), &label, "simple_test", position)
    };
    let theirs = at("_all_layers_compat_unpatched-runs", 1, "ALL");
    // 1e-3 of a percent: f32 along other passes.
    assert!((theirs - at("", 3, "ALL")).abs() < 1e-3, "{theirs} {}", at("", 3, "ALL"));
    assert!((theirs - at("_all_layers", 1, "ALL")).abs() > 1.0, "{theirs} {}", at("_all_layers", 1, "ALL"));
    for layer in 0..4 {
        for position in ["ALL", "ADJ"] {
            // One place alone is patched as it is.
            let (own, theirs) = (at("", layer, position), at("_compat_unpatched-runs", layer, position));
            assert!((own - theirs).abs() < 1e-3, "layer {layer} {position}: {own} {theirs}");
        }
    }
    let heads = ["direction-patching-suite", "--directions", "mean_diff*layer1", "--heads"];
    let of_heads = |list: &str, compat: &[&str]| {
        run_in(data.path(), &[&heads[..], &[list], compat].concat()).success();
        let ending = if compat.is_empty() { "" } else { "_compat_unpatched-runs" };
        let list = list.replace(',', "-");
        let file = format!("demo/direction_patching_logit_diff_attn_result_{list}_plain{ending}.csv");
        value(&data.path().join(file), "mean_diff_simple_train_ADJ_layer01", "simple_test", "ALL")
    };
    let compat = ["--compat", "unpatched-runs"];
    let (ours, theirs) = (of_heads("1.0,2.1,3.0", &[]), of_heads("1.0,2.1,3.0", &compat));
    assert!((ours - theirs).abs() > 1e-6, "{ours} {theirs}");
    // Heads of one layer do not reach each other.
    let (ours, theirs) = (of_heads("2.0,2.1", &[]), of_heads("2.0,2.1", &compat));
    assert!((ours - theirs).abs() < 1e-3, "{ours} {theirs}");
}

#[test]
fn the_main_position_is_the_first_placeholder_on_request() {
    let data = tempfile::tempdir().unwrap();
    let fit =
        ["fit-directions", "--methods", "mean_diff", "--layers", "1", "--train-sets", "simple_product,simple_book"];
    run_in(data.path(), &fit).success();
    let compat = ["--compat", "first-placeholder"];
    run_in(data.path(), &[&fit[..], &compat[..]].concat()).success();
    let names = ["simple_product_ADJ", "simple_product_FEEL", "simple_book_ADJ", "simple_book_VRB"];
    let direction = |name: &str| format!("mean_diff_{name}_layer1");
    assert!(names.iter().all(|name| data.path().join(format!("demo/{}.npy", direction(name))).is_file()));
    // The position is in the name: it is the same direction as that of the position by name.
    let named = [&fit[..6], &["simple_product", "--positions", "FEEL"]].concat();
    let kept = run_in(data.path(), &named).success();
    assert!(kept.stderr.contains("exist already"), "{}", kept.stderr);
    let suite = ["direction-patching-suite", "--eval-sets", "simple_product,simple_test", "--directions", "*FEEL*"];
    run_in(data.path(), &[&suite[..], &compat[..]].concat()).success();
    let at = |set, position| {
        value(&result_file(data.path(), "logit_diff", ""), "mean_diff_simple_product_FEEL_layer01", set, position)
    };
    assert!(at("simple_product", "FEEL").is_finite() && at("simple_test", "ADJ").is_finite());
}

/// At every position the base is the one fitted at the dataset's own: along one column nothing but that base is parallel.
#[test]
fn projections_at_every_position_use_the_base_of_its_own_position() {
    let data = fitted();
    let fit = ["fit-directions", "--methods", "mean_diff", "--layers", "2", "--train-sets", "simple_test"];
    run_in(data.path(), &fit).success();
    let suite = |extra: &[&str]| {
        let directions = ["direction-patching-suite", "--directions", "mean_diff*layer2", "--positions", "ALL"];
        run_in(data.path(), &[&directions[..], extra].concat()).success();
    };
    suite(&[]);
    suite(&["--projection", "para"]);
    suite(&["--projection", "ortho"]);
    let at = |ending, set| {
        let label = format!("mean_diff_{set}_ADJ_layer02");
        value(&result_file(data.path(), "logit_diff", ending), &label, "simple_test", "ALL")
    };
    let (para, base) = (at("_para", "simple_train"), at("", "simple_test"));
    assert!((para - base).abs() < 1e-3, "{para} {base}");
    assert!(at("_ortho", "simple_test").abs() < 1e-9 && at("_ortho", "simple_train").abs() > 1e-6);
}
