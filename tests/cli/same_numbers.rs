//! Settings that may change the speed of a run and nothing else.

use super::*;

fn fit_and_patch(data: &Path, extra: &[&str]) -> BTreeMap<PathBuf, Vec<u8>> {
    let fit = ["fit-directions", "--methods", "kmeans,logistic_regression,das2d", "--layers", "1", "--epochs", "8"];
    run_in(data, &[&fit[..], extra].concat()).success();
    let suite = ["direction-patching-suite", "--positions", "ADJ,ALL", "--metrics", "logit_diff,prob_diff"];
    run_in(data, &[&suite[..], extra].concat()).success();
    files(data)
}

#[test]
fn threads_change_no_byte() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (fit_and_patch(one.path(), &["--threads", "1"]), fit_and_patch(two.path(), &["--threads", "2"]));
    // Directions with their records, statistics, two tables and that of all values; whose folder it is, and its lock.
    assert_eq!(one.len(), 3 * 2 + 1 + 3 + 2);
    for (path, bytes) in &one {
        assert!(two[path] == *bytes, "{} differs between one and two threads", path.display());
    }
}

/// The largest difference between two data folders' cells of a metric, in percent of the effect.
fn largest_difference(a: &Path, b: &Path, metric: &str) -> f64 {
    let read = |data| actpatch::report::SuiteCsv::read(&result_file(data, metric, "")).unwrap();
    let (a, b) = (read(a), read(b));
    assert!(a.cells().keys().eq(b.cells().keys()) && !a.cells().is_empty());
    a.cells().values().zip(b.cells().values()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn one_token_batches_give_the_same_cells() {
    let (whole, single) = (fitted(), fitted());
    for (data, batch) in [(&whole, "4096"), (&single, "1")] {
        let suite =
            ["direction-patching-suite", "--positions", "ADJ,ALL", "--metrics", "logit_diff,logit_diff_noising"];
        run_in(data.path(), &[&suite[..], &["--batch-tokens", batch]].concat()).success();
    }
    for metric in ["logit_diff", "logit_diff_noising"] {
        // 1e-3 of a percent is 1e-5 of the effect: f32 sums in another order.
        let difference = largest_difference(whole.path(), single.path(), metric);
        assert!(difference < 1e-3, "{metric}: {difference}");
    }
}

#[test]
fn bf16_is_close() {
    let (full, half) = (fitted(), fitted());
    let suite = ["direction-patching-suite", "--directions", "das_*,mean*"];
    run_in(half.path(), &[&suite[..], &["--dtype", "bf16"]].concat()).success();
    run_in(full.path(), &suite).success();
    // Products rounded to 8 bits: the effects agree within a few percent, and not bit by bit.
    let difference = largest_difference(full.path(), half.path(), "logit_diff");
    assert!(difference > 0.0 && difference < 3.0, "{difference}");
}

#[test]
fn formats_of_gpus_are_refused_on_the_processor() {
    for dtype in ["tf32", "f16"] {
        let folder = fitted();
        let suite = ["direction-patching-suite", "--directions", "mean*", "--device", "cpu", "--dtype", dtype];
        run_in(folder.path(), &suite).fails(1, &["--dtype", dtype, "only a GPU"]);
        assert!(!result_file(folder.path(), "logit_diff", "").exists());
    }
}

#[test]
fn the_seed_moves_what_is_drawn_and_nothing_else() {
    let (zero, one) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let fit = ["fit-directions", "--methods", "das,mean_diff,random,kmeans", "--layers", "2", "--epochs", "2"];
    run_in(zero.path(), &fit).success();
    run_in(one.path(), &[&fit[..], &["--seed", "1"]].concat()).success();
    let (zero, one) = (files(zero.path()), files(one.path()));
    for (name, same) in [
        ("mean_diff_simple_train_ADJ_layer2", true),
        ("kmeans_simple_train_ADJ_layer2", true),
        ("random_direction_layer02", false),
        ("das_simple_train_ADJ_layer2", false),
    ] {
        let path = PathBuf::from(format!("demo/{name}.npy"));
        assert_eq!(zero[&path] == one[&path], same, "{name}");
    }
}

#[test]
fn directions_of_another_random_model_are_refused() {
    let data = tempfile::tempdir().unwrap();
    let model = ["--models", "random:pythia-14m"];
    let fit = ["fit-directions", "--methods", "mean_diff", "--layers", "2"];
    run_in(data.path(), &[&fit[..], &model].concat()).success();
    let suite = [&["direction-patching-suite"][..], &model].concat();
    run_in(data.path(), &suite).success();
    let other = || run_in(data.path(), &[&suite[..], &["--seed", "1"]].concat());
    other().fails(1, &["random-pythia-14m", "expected results of random:pythia-14m with seed 1", "with seed 0"]);
    // So are directions in a folder that is nobody's.
    let folder = data.path().join("random-pythia-14m");
    std::fs::remove_file(folder.join("model.json")).unwrap();
    std::fs::remove_dir_all(folder.join("manifests")).unwrap();
    other().fails(1, &["mean_diff_simple_train_ADJ_layer2.json", "seed", "--seed 0"]);
}
