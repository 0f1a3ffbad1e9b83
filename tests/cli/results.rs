//! Tables and figures of results that lie in a folder: no model is needed.

use super::*;

/// Result files of two models of one family. `pythia-b` has no value for `das` at layer 1, and no random directions.
fn measured() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = data.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let head = "prompt,simple_adverb,simple_test\nposition,ADV,ADJ\n";
    let full = "das_simple_train_ADJ_layer00,10.5,20.25\ndas_simple_train_ADJ_layer01,40,97.125\n\
                kmeans_simple_adverb_ADV_layer00,61.5,-3\nkmeans_simple_adverb_ADV_layer01,52,1.5\n\
                kmeans_simple_train_ADJ_layer00,5,50\nkmeans_simple_train_ADJ_layer01,33,72.5\n\
                random_direction_layer00,0.5,-1\nrandom_direction_layer01,0.25,2\n";
    write("pythia-a/direction_patching_logit_diff_resid_plain.csv", &format!("{head}{full}"));
    let flips =
        "prompt,treebank_test\nposition,ALL\ndas_simple_train_ADJ_layer00,12\ndas_simple_train_ADJ_layer01,53.5\n";
    write("pythia-a/direction_patching_logit_flip_resid_classification.csv", flips);
    write(
        "pythia-a/direction_patching_logit_diff_attn_result_plain.csv",
        &format!("{head}das_simple_train_ADJ_layer00,7,8\n"),
    );
    write(
        "pythia-a/direction_patching_logit_diff_resid_plain_ortho.csv",
        &format!("{head}das_simple_train_ADJ_layer00,0,1\n"),
    );
    let holes =
        "das_simple_train_ADJ_layer00,1,2\nkmeans_simple_train_ADJ_layer00,3,4\nkmeans_simple_train_ADJ_layer01,5,\n";
    write("pythia-b/direction_patching_logit_diff_resid_plain.csv", &format!("{head}{holes}"));
    data
}

const MODELS: [&str; 3] = ["direction-patching-results", "--models", "pythia-a,pythia-b"];

/// What the pointer finds on a page.
fn page_values(path: &Path) -> Vec<String> {
    pages::values(&std::fs::read_to_string(path).unwrap())
}

#[track_caller]
fn holds(values: &[String], wanted: &str) {
    assert!(values.iter().any(|value| value == wanted), "{wanted:?} is not in {values:#?}");
}

#[test]
fn tables_have_the_largest_value_of_every_fit() {
    let data = measured();
    run_in(data.path(), &MODELS).success();
    let table = std::fs::read_to_string(data.path().join("figures/direction_patching_results.csv")).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split(',').collect()).collect();
    // The plain recomputation: every line of the result file, one after the other.
    let file =
        std::fs::read_to_string(data.path().join("pythia-a/direction_patching_logit_diff_resid_plain.csv")).unwrap();
    for (fit, fitted_on) in [
        ("das_simple_train_ADJ", "simple_train ADJ"),
        ("kmeans_simple_adverb_ADV", "simple_adverb ADV"),
        ("kmeans_simple_train_ADJ", "simple_train ADJ"),
        ("random_direction", "-"),
    ] {
        for (column, patched, random) in [(1, "simple_adverb ADV", "0.5"), (2, "simple_test ADJ", "2.0")] {
            let of_fit = file.lines().filter(|line| line.starts_with(&format!("{fit}_layer")));
            let (layer, percent) = of_fit
                .map(|line| line.split(',').nth(column).unwrap().parse::<f64>().unwrap())
                .enumerate()
                .max_by(|a, b| a.1.total_cmp(&b.1))
                .unwrap();
            let method = if fit == "random_direction" { fit } else { fit.split('_').next().unwrap() };
            let found = rows.iter().find(|row| {
                row[..5] == ["pythia-a", "logit_diff", "resid", "plain", ""]
                    && row[5..8] == [method, fitted_on, patched]
            });
            let found = found.unwrap_or_else(|| panic!("{fit} on {patched} is not in {table}"));
            assert_eq!((found[8].parse::<f64>().unwrap(), found[9].parse::<usize>().unwrap()), (percent, layer));
            assert_eq!(found[10], random);
        }
    }
    assert!(
        table.contains("pythia-a,logit_flip,resid,classification,,das,simple_train ADJ,treebank_test ALL,53.5,1,\n")
    );
    assert!(table.contains(",attn_result,plain,,das,") && table.contains(",resid,plain,ortho,das,"));
}

#[test]
fn every_figure_is_drawn_with_its_values() {
    let data = measured();
    let finished = run_in(data.path(), &MODELS).success();
    assert!(
        finished.stdout.contains("optimistic") && finished.stdout.contains("figures/direction_patching_results.csv")
    );
    let at = |path: &str| data.path().join(path);
    for stem in [
        "pythia-a/figures/direction_patching_cross_dataset",
        "pythia-a/figures/direction_patching_cross_dataset_logit_flip",
        "pythia-a/figures/direction_patching_cross_dataset_ortho",
        "pythia-a/figures/direction_patching_cross_dataset_attn_result",
        "pythia-b/figures/direction_patching_cross_dataset",
        "figures/direction_patching_resid_simple",
        "figures/direction_patching_attn_result_simple",
        "figures/direction_patching_logit_diff_resid_plain_pythia_facet_plot_simple_train_ADJ",
        "figures/direction_patching_logit_diff_resid_plain_pythia_facet_plot_simple_adverb_ADV",
        "figures/direction_patching_logit_flip_resid_classification_pythia_facet_plot",
    ] {
        for ending in ["svg", "png", "pdf", "html"] {
            assert!(at(&format!("{stem}.{ending}")).is_file(), "{stem}.{ending} is not in {}", finished.stdout);
        }
    }
    let cross = page_values(&at("pythia-a/figures/direction_patching_cross_dataset.html"));
    let cell = |method: &str, fit: &str, set: &str, value: &str| {
        format!("{method}\nfitted on: {fit}\npatched: {set}\nlogit difference recovered (%): {value}")
    };
    holds(&cross, &cell("das", "simple_train ADJ", "simple_test ADJ", "97.125"));
    holds(&cross, &cell("kmeans", "simple_adverb ADV", "simple_adverb ADV", "61.5"));
    holds(&cross, &cell("kmeans", "random_direction", "simple_test ADJ", "2"));
    let lines =
        page_values(&at("figures/direction_patching_logit_diff_resid_plain_pythia_facet_plot_simple_train_ADJ.html"));
    holds(&lines, "das\nlayer: 1\nlogit difference recovered (%): 97.125");
    holds(&lines, "random_direction\nlayer: 0\nlogit difference recovered (%): -1");
    holds(&lines, "kmeans\nlayer: 1\nlogit difference recovered (%): 5");
    assert!(!lines.iter().any(|value| value.contains("61.5")), "another dataset's fit has a figure of its own");
    let simple = page_values(&at("figures/direction_patching_resid_simple.html"));
    holds(
        &simple,
        "pythia-a\nmethod, fitted on: das simple_train ADJ\npatched, metric: treebank_test ALL classification, logit_flip\nrecovered (%): 53.5",
    );
    holds(
        &simple,
        "pythia-a\nmethod, fitted on: kmeans simple_train ADJ\npatched, metric: treebank_test ALL classification, logit_flip\nrecovered (%): not measured",
    );
}

#[test]
fn what_is_missing_is_listed_and_the_rest_is_drawn() {
    let data = measured();
    std::fs::write(data.path().join("pythia-b/direction_patching_notes.csv"), "mine").unwrap();
    let finished = run_in(data.path(), &MODELS).success();
    for line in [
        "pythia-b/direction_patching_logit_diff_resid_plain.csv: das of simple_train ADJ: layers 1 on simple_adverb ADV, simple_test ADJ",
        "pythia-b/direction_patching_logit_diff_resid_plain.csv: kmeans of simple_train ADJ: layers 1 on simple_test ADJ",
        "pythia-b/direction_patching_notes.csv: not a name of the suite's",
    ] {
        assert!(finished.stdout.contains(line), "{line:?} is not in {}", finished.stdout);
    }
    let json = run_in(data.path(), &[&MODELS[..], &["--json"]].concat()).success().json();
    assert_eq!(json["not_measured"].as_array().unwrap().len(), 3, "{}", json["not_measured"]);
    // 8 figures of one model each, 5 of all, three files each, and the table.
    assert!(json["written"].as_array().unwrap().len() > 20);
}

#[test]
fn fits_projections_and_cosines_are_drawn() {
    let data = tempfile::tempdir().unwrap();
    let fit = ["fit-directions", "--methods", "pca,mean_diff", "--layers", "0..2", "--test-sets", "simple_adverb"];
    run_in(data.path(), &fit).success();
    run_in(data.path(), &["direction-patching-suite"]).success();
    run_in(data.path(), &["direction-patching-results"]).success();
    let folder = data.path().join("demo/figures");
    let accuracy = page_values(&folder.join("direction_fitting_accuracy.html"));
    let stats = std::fs::read_to_string(data.path().join("demo/direction_fitting_stats.csv")).unwrap();
    for row in stats.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>()) {
        let share = 100.0 * row[9].parse::<f64>().unwrap();
        let value = accuracy.iter().filter(|value| value.starts_with(&format!("{}\nlayer: {}\n", row[6], row[1])));
        let found = value.filter_map(|value| value.rsplit_once(": ")?.1.parse::<f64>().ok());
        // Six digits are shown.
        assert!(found.into_iter().any(|found| (found - share).abs() < 1e-3), "{row:?}");
    }
    let words = page_values(&folder.join("pca_simple_train_simple_adverb.html"));
    assert!(words.iter().any(|value| value.contains("\npositive\n(")), "{words:?}");
    assert!(folder.join("pca_simple_train_simple_train.svg").is_file());

    let cosines = page_values(&folder.join("cosine_similarity_cross_dataset.html"));
    let read = |name: &str| {
        let name = name.parse().unwrap();
        actpatch::directions::Direction::read(&data.path().join("demo"), &name, 128).unwrap().columns.data
    };
    let (a, b) = (read("pca_simple_train_ADJ_layer2"), read("mean_diff_simple_train_ADJ_layer2"));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let expected = (dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()).abs();
    let start = "layer 2\ndirection: mean_diff simple_train ADJ\ndirection: pca simple_train ADJ\n|cosine|: ";
    let found = cosines.iter().find_map(|value| value.strip_prefix(start)).unwrap();
    assert!((found.parse::<f64>().unwrap() - expected).abs() < 1e-5, "{found} {expected}");
    let layers = page_values(&folder.join("cosine_similarity_layers.html"));
    holds(&layers, "pca simple_train ADJ\nlayer: 1\nlayer: 1\n|cosine|: 1");
}
