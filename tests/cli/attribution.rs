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
