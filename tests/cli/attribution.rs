//! Attribution by the command line, on the demo model.

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
    for ending in ["npy", "svg", "png", "html"] {
        assert!(folder.join(format!("logit_attribution_clean_simple_plain_neurons.{ending}")).is_file(), "{ending}");
    }
    let again = run_in(data.path(), &arguments).success();
    assert!(again.stderr.contains("5 maps exist already"), "{}", again.stderr);
    let plan = run_in(data.path(), &["logit-attribution", "--of", "difference", "--dry-run"]).success();
    assert!(plan.stdout.contains("neurons    2048") && plan.stdout.contains("FLOP"), "{}", plan.stdout);
    run_in(data.path(), &["logit-attribution", "--maps", "mlps"]).fails(2, &["--maps", "unknown map", "lens"]);
    run_in(data.path(), &["logit-attribution", "--of", "both"]).fails(2, &["--of", "difference"]);
}
