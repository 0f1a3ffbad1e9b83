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
    run_in(data.path(), &["fit-directions", "--compat", "layer-wide"]).fails(2, &["--compat", "double-spaces"]);
    run_in(data.path(), &["random-directions", "--compat", "double-spaces"]).fails(2, &["--compat"]);
}
