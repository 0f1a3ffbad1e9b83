//! Predictions by the command line, on the demo model.

use super::*;
use actpatch::report::{PredictedAs, PredictedBy, PredictionRow};
use actpatch::session::{Forward, Session, SessionOptions, Silent};
use serde_json::Value;
use std::collections::BTreeSet;

const DIRECTION: &str = "mean_diff_simple_train_ADJ_layer1";
const TEXT: &str = "I thought this movie was great, I loved it.";

fn rows(data: &Path, name: &str) -> Vec<PredictionRow> {
    PredictionRow::read(&data.join(format!("demo/logit_lens_{name}.csv"))).unwrap()
}

/// The rows of a run at a layer, by what is patched.
fn of<'a>(rows: &'a [PredictionRow], run: PredictedBy, patched: &str, layer: usize) -> Vec<&'a PredictionRow> {
    rows.iter().filter(|row| row.run == run && row.patched == patched && row.layer == layer).collect()
}

/// What rows predict, whoever they are of.
fn predicted(rows: &[&PredictionRow]) -> Vec<(usize, usize, usize, u32)> {
    rows.iter().map(|row| (row.prompt, row.position, row.rank, row.predicted_id)).collect()
}

#[test]
fn texts_are_predicted_token_by_token_as_the_models_logits_say() {
    let data = tempfile::tempdir().unwrap();
    let arguments = ["logit-lens", "--text", TEXT, "--text", "awful", "--top", "3", "--layers", "0,2,-1"];
    let found = run_in(data.path(), &[&arguments[..], &["--json"]].concat()).success().json();
    let rows = rows(data.path(), "text");
    assert_eq!(found[0]["sets"][0]["rows"].as_array().unwrap().len(), rows.len());
    assert_eq!(rows.iter().map(|row| row.layer).collect::<BTreeSet<_>>(), [0, 2, 4].into());
    let session = Session::open("demo", SessionOptions { data_dir: data.path().into(), ..Default::default() }).unwrap();
    let tokenizer = &session.model().tokenizer;
    let encoded = |text: &str| [&[tokenizer.bos().unwrap()], &tokenizer.encode(text).unwrap()[..]].concat();
    let sequences = [encoded(TEXT), encoded("awful")];
    let logits = session.forward(&Forward { sequences: &sequences, ..Forward::default() }, &mut Silent).unwrap();
    let logits = logits.logits.unwrap();
    let mut token = 0;
    for (prompt, sequence) in sequences.iter().enumerate() {
        for position in 0..sequence.len() {
            let here = |row: &&PredictionRow| (row.prompt, row.position) == (prompt, position);
            let own: Vec<&PredictionRow> = rows.iter().filter(here).collect();
            let next = sequence.get(position + 1);
            assert_eq!(own.len(), 3 * (3 + next.iter().len()), "three layers");
            assert!(own.iter().all(|row| row.token_id == sequence[position] && row.run == PredictedBy::Clean));
            let values: Vec<f64> = logits.row(token).iter().map(|logit| f64::from(*logit)).collect();
            let sum = values.iter().map(|value| value.exp()).sum::<f64>().ln();
            let mut order: Vec<usize> = (0..values.len()).collect();
            order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
            for row in own.iter().filter(|row| row.layer == 4) {
                assert_eq!(order[row.rank - 1], row.predicted_id as usize, "{row:?}");
                assert!(
                    (f64::from(row.log_probability) - values[row.predicted_id as usize] + sum).abs() < 1e-4,
                    "{row:?}"
                );
                assert_eq!(tokenizer.decode(&[row.predicted_id]).unwrap(), row.predicted);
            }
            let asked: Vec<_> = own.iter().filter(|row| row.role == PredictedAs::Next).collect();
            assert!(asked.iter().all(|row| Some(&row.predicted_id) == next));
            token += 1;
        }
    }
    // The page has the same.
    let page = std::fs::read_to_string(data.path().join("demo/logit_lens_text.html")).unwrap();
    let page = pages::data(&page);
    assert_eq!(
        (&page["view"], &page["top"], page["prompts"].as_array().unwrap().len()),
        (&"predictions".into(), &3.into(), 2)
    );
    assert_eq!(page["layers"], serde_json::json!(["0", "2", "4 (end)"]));
    let values = pages::floats(&page["prompts"][0]["runs"][0]["values"]);
    let expected = rows.iter().filter(|row| row.prompt == 0 && row.role == PredictedAs::Top);
    assert_eq!(values, expected.map(|row| row.log_probability).collect::<Vec<_>>());
}

#[test]
fn clean_corrupted_and_patched_runs_stand_side_by_side() {
    let data = fitted();
    let sites = "blocks.2.hook_resid_pre,blocks.3.hook_resid_post";
    let arguments = ["logit-lens", "--eval-sets", "simple_test", "--prompts", "3,0", "--directions", DIRECTION];
    let arguments = [&arguments[..], &["--sites", sites, "--positions", "ALL,ADJ+END", "--top", "4"]].concat();
    let plan = run_in(data.path(), &[&arguments[..], &["--dry-run"]].concat()).success().stdout;
    assert!(plan.contains("FLOP") && plan.contains(" of memory"), "{plan}");
    assert!(!data.path().join("demo/logit_lens_simple_test_plain.csv").exists());
    let first = run_in(data.path(), &arguments).success();
    let rows = rows(data.path(), "simple_test_plain");
    assert!(plan.contains(&rows.len().to_string()), "{plan}");
    assert_eq!(rows.iter().map(|row| row.prompt).collect::<BTreeSet<_>>(), [0, 3].into());
    let patched: BTreeSet<(&str, &str)> =
        rows.iter().map(|row| (&*row.patched, &*row.patched_positions)).filter(|(what, _)| *what != "none").collect();
    assert_eq!(patched.len(), 6, "{patched:?}");
    let all: Vec<PredictionRow> = rows.iter().filter(|row| row.patched_positions != "ADJ+END").cloned().collect();
    // The tokens that come next are those of the corrupted prompt in a patched run.
    let layer = |run, patched: &str, layer| {
        let rows = of(&all, run, patched, layer).into_iter();
        predicted(&rows.filter(|row| row.role == PredictedAs::Top).collect::<Vec<_>>())
    };
    use PredictedBy::{Clean, Corrupted, Patched};
    let resid = "blocks.2.hook_resid_pre";
    assert_eq!(layer(Patched, resid, 1), layer(Corrupted, "none", 1), "in front of the patch nothing changes");
    assert_eq!(layer(Patched, resid, 2), layer(Clean, "none", 2), "behind a patch of everything nothing is left");
    assert_eq!(layer(Patched, resid, 4), layer(Clean, "none", 4));
    assert_eq!(layer(Patched, "blocks.3.hook_resid_post", 3), layer(Corrupted, "none", 3));
    assert_eq!(layer(Patched, "blocks.3.hook_resid_post", 4), layer(Clean, "none", 4));
    assert_eq!(layer(Patched, DIRECTION, 0), layer(Corrupted, "none", 0));
    assert_ne!(layer(Patched, DIRECTION, 4), layer(Corrupted, "none", 4));
    // The direction carries the sentiment: the right answer is likelier than in the corrupted run.
    let answers = |run, patched: &str| -> Vec<f32> {
        let of_run = of(&all, run, patched, 4).into_iter();
        of_run.filter(|row| row.role == PredictedAs::Correct).map(|row| row.log_probability).collect()
    };
    let (corrupted, along) = (answers(Corrupted, "none"), answers(Patched, DIRECTION));
    assert!(!along.is_empty() && along.iter().zip(&corrupted).all(|(a, b)| a > b), "{along:?} {corrupted:?}");
    for role in [PredictedAs::Correct, PredictedAs::Incorrect] {
        assert!(rows.iter().filter(|row| row.role == role).all(|row| row.position == 18), "at the end alone");
    }
    // All of it is there, and is printed again.
    let again = run_in(data.path(), &arguments).success();
    assert!(again.stderr.contains("exist already"), "{}", again.stderr);
    assert_eq!(again.stdout, first.stdout);
    let manifest = &manifests(data.path())[1];
    assert_eq!((&manifest["command"], &manifest["prompts"][0]["pairs"]), (&"logit-lens".into(), &2.into()));
    let written: Vec<&String> = manifest["written"].as_object().unwrap().keys().collect();
    assert_eq!(written, ["logit_lens_simple_test_plain.csv", "logit_lens_simple_test_plain.html"]);
}

#[test]
fn predictions_of_something_else_are_read_again() {
    let data = fitted();
    let lens = ["logit-lens", "--text", TEXT, "--top", "2"];
    run_in(data.path(), &lens).success();
    let before = files(data.path());
    let page = data.path().join("demo/logit_lens_text.html");
    std::fs::remove_file(&page).unwrap();
    let kept = run_in(data.path(), &lens).success();
    assert!(kept.stderr.contains("exist already"), "{}", kept.stderr);
    assert_eq!(files(data.path()), before, "a page that is lost is made of the table");
    let renewed = |arguments: &[&str], words: &str| {
        let run = run_in(data.path(), arguments).success();
        assert!(run.stderr.contains(&format!("is computed again: {words}")), "{}", run.stderr);
    };
    renewed(&["logit-lens", "--text", "It was bad.", "--top", "2"], "texts: expected ");
    renewed(&["logit-lens", "--text", "It was bad.", "--top", "3"], "top: expected 3, found 2");
    renewed(&["logit-lens", "--text", "It was bad.", "--top", "3", "--layers", "1,2"], "layers: expected 1,2, found ");
    std::fs::write(data.path().join("demo/logit_lens_text.csv"), "prompt\n").unwrap();
    renewed(&["logit-lens", "--text", "It was bad.", "--top", "3", "--layers", "1,2"], "its files have changed");
    let pairs = ["logit-lens", "--prompts", "0", "--directions", DIRECTION];
    run_in(data.path(), &pairs).success();
    let path = data.path().join(format!("demo/{DIRECTION}.npy"));
    std::fs::write(path, directions::npy(&[1.0; 128], "(128,)")).unwrap();
    renewed(&pairs, &format!("patched {DIRECTION} at ADJ: expected "));
    renewed(&["logit-lens", "--prompts", "0,1"], "prompts: expected 0,1, found 0");
}

#[test]
fn what_cannot_be_predicted_is_named() {
    let data = fitted();
    let before = files(data.path());
    let run = |extra: &[&str]| run_in(data.path(), &[&["logit-lens"], extra].concat());
    run(&["--text", "a", "--eval-sets", "simple"]).fails(2, &["--text", "--eval-sets"]);
    run(&["--text", "a", "--directions", DIRECTION]).fails(2, &["--text", "--directions"]);
    run(&["--name", "a"]).fails(2, &["--text"]);
    run(&["--text", "a", "--name", "a/b"]).fails(1, &["--name", "a/b"]);
    run(&["--text", &"very ".repeat(200)]).fails(1, &["--text: text 0 has", "at most 128"]);
    run(&["--top", "0"]).fails(2, &["--top"]);
    run(&["--layers", "9"]).fails(1, &["--layers", "9", "0 to 4"]);
    run(&["--prompts", "0,999"]).fails(1, &["--prompts", "found 999"]);
    run(&["--eval-sets", "nowhere"]).fails(1, &["--eval-sets", "nowhere"]);
    run(&["--positions", "END"]).fails(1, &["--positions: expected directions or sites"]);
    run(&["--directions", "kmeans_nowhere"]).fails(1, &["--directions", "kmeans_nowhere"]);
    run(&["--directions", DIRECTION, "--positions", "XYZ"]).fails(1, &["--positions", "XYZ"]);
    run(&["--directions", DIRECTION, "--layers", "0"]).fails(1, &["blocks.1.hook_resid_pre never fires", "layer 1 on"]);
    run(&["--sites", "blocks.1.hook_attn_out"]).fails(1, &["blocks.1.hook_attn_out", "expected the residual stream"]);
    run(&["--sites", "blocks.9.hook_resid_pre"]).fails(1, &["blocks.9.hook_resid_pre", "layers 0 to 3"]);
    run(&["--sites", "resid_pre"]).fails(2, &["--sites", "resid_pre"]);
    let many = ["--top", "60000", "--sites", "blocks.1.hook_resid_pre"];
    run(&many).fails(1, &["--prompts: simple: expected at most 500000 rows", "use another --layers", "--top"]);
    let of_other_width = data.path().join("demo/pca_simple_train_ADJ_layer1.npy");
    assert_eq!(files(data.path()), before);
    std::fs::write(of_other_width, directions::npy(&[0.5; 7], "(7,)")).unwrap();
    run(&["--directions", "pca_simple_train_ADJ_layer1"]).fails(1, &["pca_simple_train_ADJ_layer1.npy", "d_model 128"]);
}

#[test]
fn no_token_of_a_text_leaves_its_cell_or_its_page() {
    let data = tempfile::tempdir().unwrap();
    let text = "=1+2 </script><script>alert(1)</script>\u{202e}, \"日本\"\nit";
    run_in(data.path(), &["logit-lens", "--text", text, "--csv-guard"]).success();
    let rows = rows(data.path(), "text");
    let spelled: String = rows
        .iter()
        .filter(|row| row.layer == 0 && row.rank == 1 && row.role == PredictedAs::Top && row.position > 0)
        .map(|row| &*row.token)
        .collect();
    assert!(spelled.starts_with("=1+2 </script>") && spelled.ends_with("\nit"), "{spelled}");
    let page = std::fs::read_to_string(data.path().join("demo/logit_lens_text.html")).unwrap();
    assert_eq!(page.matches("</script>").count(), 2);
    let data: Value = pages::data(&page);
    let vocabulary: BTreeSet<&str> = data["vocabulary"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(rows.iter().all(|row| vocabulary.contains(&*row.predicted) && vocabulary.contains(&*row.token)));
}
