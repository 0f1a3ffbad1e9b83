//! `reproduce`: everything at once, and again.

use super::*;

const SMALL: [&str; 5] = ["reproduce", "--methods", "mean_diff,random", "--layers", "1,2"];

#[test]
fn everything_is_made_once_and_stands_on_one_page() {
    let data = tempfile::tempdir().unwrap();
    let first = run_in(data.path(), &SMALL).success();
    let page = data.path().join("demo/reproduce.md");
    let text = std::fs::read_to_string(&page).unwrap();
    for words in [
        "# demo\n",
        "## What it was made of",
        "\"methods\":[\"mean_diff\",\"random_direction\"]",
        "logit_flip, percent at the best layer",
        "simple_product ADJ",
        "simple_product ALL",
        "random_direction ",
        "## Heads, layers and positions on simple\n",
        "mean_diff_simple_train_ADJ at layers 1..2",
        "COMMA",
        "](<figures/direction_patching_logit_diff_",
        "](<activation_patching_logit_diff_simple_plain_z.svg>)",
    ] {
        assert!(text.contains(words), "{words:?} is not on\n{text}");
    }
    // Either class is in the table's file alone.
    let classes = |line: &&str| line.contains(" COMMA ") && !line.contains(" all ");
    assert_eq!(text.lines().find(classes), None);
    let links = text.lines().filter_map(|line| line.split_once("](<")?.1.strip_suffix(">)"));
    let links: Vec<&str> = links.collect();
    assert!(links.len() > 10 && links.iter().all(|link| data.path().join("demo").join(link).is_file()), "{links:?}");
    // Layers of other runs are not what was asked for.
    run_in(data.path(), &["fit-directions", "--methods", "mean_diff", "--layers", "3"]).success();
    let again = run_in(data.path(), &SMALL).success();
    assert!(again.stderr.contains("exist already"), "{}", again.stderr);
    assert_eq!((again.stdout, std::fs::read_to_string(&page).unwrap()), (first.stdout, text));
    let json = run_in(data.path(), &[&SMALL[..], &["--json"]].concat()).success().json();
    assert_eq!(json[0]["model"], "demo");
    assert!(json[0]["best_layers"]["logit_diff"].as_array().unwrap().iter().all(|best| best["layer"] != 3));
}

#[test]
fn what_a_model_cannot_have_is_left_out_and_what_is_mistyped_is_an_error() {
    let data = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| run_in(data.path(), &[&SMALL[..], arguments].concat());
    run(&["--eval-sets", "simple_tset", "--dry-run"]).fails(1, &["--eval-sets: unknown dataset `simple_tset`"]);
    run(&["--map-set", "simpel"]).fails(1, &["--map-set: unknown dataset `simpel`", "did you mean \"simple\"?"]);
    let plain = data.path().join("plain.csv");
    std::fs::write(&plain, "clean,corrupted,answer,wrong_answer\nI loved it,I hated it, great, bad\n").unwrap();
    let plain = ["--dataset-file", plain.to_str().unwrap(), "--comma-set", "plain"];
    run(&plain).fails(1, &["--comma-set: COMMA: no prompt of plain"]);
    run(&["--eval-sets", ""]).fails(1, &["--eval-sets"]);
    assert!(!data.path().join("demo").exists());
    let pairs = data.path().join("odd.csv");
    std::fs::write(&pairs, "clean,corrupted,answer,wrong_answer\nI loved it,I hated it, extraordinarily, horrid\n")
        .unwrap();
    let odd = ["--dataset-file", pairs.to_str().unwrap(), "--eval-sets", "odd,simple_test"];
    let odd = [&["reproduce", "--methods", "random", "--layers", "1"], &odd[..]].concat();
    let plan = run_in(data.path(), &[&odd[..], &["--dry-run"]].concat()).success();
    assert!(plan.stderr.contains("odd is left out: "), "{}", plan.stderr);
    let done = run_in(data.path(), &odd).success();
    assert!(done.stdout.contains("left out: odd: "), "{}", done.stdout);
    let page = std::fs::read_to_string(data.path().join("demo/reproduce.md")).unwrap();
    assert!(page.contains("## Left out\n\n- odd: ") && !page.contains("The direction at commas"), "{page}");
}
