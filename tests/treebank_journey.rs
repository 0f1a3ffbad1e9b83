//! The Treebank on the demo model: from files to fitted and patched directions by the commands, and the same numbers
//! whether a dataset is captured at once or in stretches.

use actpatch::backend::{CpuBackend, Dtype};
use actpatch::datasets::treebank::{Scaffold, Split, Treebank, TreebankFiles, answer_tokens, encode};
use actpatch::datasets::{BuildOptions, Catalogue, PairedPrompts};
use actpatch::directions::Method;
use actpatch::directions::das::{AdamSettings, TrainError, TrainSettings, Trained};
use actpatch::engine::{Cell, Engine, EngineError, MEMORY_BUDGET, Metric, Mode, PatchPositions, Scores, Site};
use actpatch::experiments::chunks::{Kept, Progress, baselines, embeddings_at, part, patch_dataset, stretches};
use actpatch::experiments::das_fits::{DasJob, TrainPlan, train_all};
use actpatch::experiments::logit_filter::logit_differences;
use actpatch::experiments::patching_suite::{Layers, residual_cell};
use actpatch::model::{LoadOptions, Model};
use actpatch::types::Matrix;
use assert_cmd::Command;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/treebank")
}

fn expected() -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture().join("expected.json")).unwrap()).unwrap()
}

/// Runs a command in which DATA_DIR is `data`.
fn actpatch(data: &Path, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::cargo_bin("actpatch").unwrap();
    command.env("HF_HUB_OFFLINE", "1").args(arguments).arg("--data-dir").arg(data).output().unwrap()
}

fn succeed(data: &Path, arguments: &[&str]) -> (String, String) {
    let output = actpatch(data, arguments);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

fn fail(data: &Path, arguments: &[&str]) -> String {
    let output = actpatch(data, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn generate(data: &Path, more: &[&str]) -> (String, String) {
    let root = fixture();
    let arguments = [&["treebank-data-gen", "--models", "demo", "--root", root.to_str().unwrap()], more].concat();
    succeed(data, &arguments)
}

#[test]
fn files_become_datasets_directions_and_patched_cells() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let (report, _) = generate(data, &["--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let expected = expected();
    assert_eq!(report["losses"]["no_phrase"], 3);
    for made in report["models"][0]["datasets"].as_array().unwrap() {
        let (set, scaffold) = (made["dataset"].as_str().unwrap(), made["scaffold"].as_str().unwrap());
        let rows = expected["rows"][format!("{}_{scaffold}", set.trim_start_matches("treebank_"))].as_array().unwrap();
        assert_eq!(made["rows"], rows.len(), "{set} {scaffold}");
        let csv = std::fs::read_to_string(data.join(format!("demo/{set}_{scaffold}.csv"))).unwrap();
        assert_eq!(csv.lines().count(), rows.len() + 1);
    }
    let lost = std::fs::read_to_string(data.join("treebank_losses.csv")).unwrap();
    assert!(lost.contains("no_phrase,-LRB- A great film -RRB- ."), "{lost}");

    let fit = ["fit-directions", "--methods", "kmeans,das", "--layers", "1,2,4", "--train-sets", "treebank_train"];
    let fit = [&fit[..], &["--test-sets", "treebank_test"]].concat();
    succeed(data, &fit);
    let record = std::fs::read_to_string(data.join("demo/das_treebank_train_ALL_layer1.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["settings"]["epochs"], 1);
    assert_eq!(record["settings"]["scaffold"], "classification");
    let stats = std::fs::read_to_string(data.join("demo/direction_fitting_stats.csv")).unwrap();
    assert!(stats.contains("treebank_train,1,ALL,treebank_test,1,ALL,kmeans"), "{stats}");

    let suite = ["direction-patching-suite", "--eval-sets", "treebank_test", "--scaffold", "classification"];
    let suite = [&suite[..], &["--positions", "END,ALL", "--metrics", "logit_diff,logit_flip"]].concat();
    succeed(data, &suite);
    let csv = data.join("demo/direction_patching_logit_diff_resid_classification.csv");
    let text = std::fs::read_to_string(&csv).unwrap();
    assert!(text.starts_with("prompt,treebank_test,treebank_test\nposition,ALL,END\n"), "{text}");
    assert_eq!(text.lines().count(), 2 + 6, "two methods at three layers");

    let (_, noted) = succeed(data, &suite);
    assert!(noted.contains("24 cells exist already"), "{noted}");
    let (_, noted) = succeed(data, &fit);
    assert!(noted.contains("6 directions exist already"), "{noted}");
    let (_, noted) = generate(data, &[]);
    assert!(noted.contains("9 datasets exist already"), "{noted}");
    assert_eq!(std::fs::read_to_string(&csv).unwrap(), text);
    let other = fail(data, &[&fit[..], &["--scaffold", "continuation"]].concat());
    assert!(other.contains("scaffold: expected continuation, found classification"), "{other}");
}

#[test]
fn what_cannot_be_run_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let missing = fail(data, &["fit-directions", "--train-sets", "treebank_train", "--scaffold", "continuation"]);
    for part in ["treebank_train_continuation.toml is missing", "treebank-data-gen --models demo", "--data-dir"] {
        assert!(missing.contains(part), "{missing}");
    }
    let toy = fail(data, &["fit-directions", "--train-sets", "simple_train", "--scaffold", "classification"]);
    assert!(toy.contains("--scaffold: expected plain for dataset simple_train, found classification"), "{toy}");
    let offline = fail(data, &["treebank-data-gen", "--root", data.join("nowhere").to_str().unwrap()]);
    for part in
        ["dictionary_fixed.txt or dictionary.txt", "datasetSplit.txt", "stanfordSentimentTreebank.zip", "offline"]
    {
        assert!(offline.contains(part), "{offline}");
    }
    generate(data, &["--splits", "dev", "--scaffolds", "classification"]);
    let position =
        fail(data, &["fit-directions", "--train-sets", "treebank_dev", "--positions", "ADJ", "--methods", "kmeans"]);
    assert!(position.contains("has no position \"ADJ\", it has END and ALL"), "{position}");
}

#[test]
fn the_filter_keeps_what_the_model_gets_right() {
    let treebank = Treebank::read(&TreebankFiles::find(&fixture()).unwrap(), false).unwrap();
    let engine = engine();
    let tokenizer = &engine.model().tokenizer;
    let sentences = encode(treebank.split(Split::Test), Scaffold::Classification, tokenizer).unwrap();
    let sequences: Vec<_> = sentences.iter().map(|one| one.tokens.clone()).collect();
    let answers = answer_tokens(Scaffold::Classification, tokenizer).unwrap();
    let found = logit_differences(&engine, &sequences, answers).unwrap();
    let reference = expected()["test_classification_logit_differences"].clone();
    let reference: Vec<f64> = reference.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
    assert_eq!(found.len(), reference.len());
    for ((one, found), reference) in sentences.iter().zip(&found).zip(&reference) {
        // f32 sums in another order, and a reference rounded to five digits.
        let found = if one.positive { *found } else { -found };
        assert!((found - reference).abs() < 2e-4, "{}: {found} {reference}", one.text);
    }
    let wrong = reference.iter().filter(|difference| **difference <= 0.0).count();
    assert!(wrong > 0, "the fixture has sentences that the model gets wrong");

    let folder = tempfile::tempdir().unwrap();
    let report = generate(folder.path(), &["--filter", "always", "--splits", "test", "--json"]).0;
    let report: Value = serde_json::from_str(&report).unwrap();
    let counts: Vec<&Value> =
        report["models"][0]["datasets"].as_array().unwrap().iter().map(|made| &made["filtered_out"]).collect();
    assert_eq!(counts[0], 0, "a plain prompt asks nothing");
    assert_eq!(counts[1], wrong);
}

fn engine() -> Engine<CpuBackend> {
    let model = Model::load("demo", &LoadOptions::default()).unwrap();
    Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap()
}

/// The training split with the classification scaffold, as the catalogue reads it back.
fn prompts(engine: &Engine<CpuBackend>) -> PairedPrompts {
    let folder = tempfile::tempdir().unwrap();
    generate(folder.path(), &["--scaffolds", "classification", "--splits", "train"]);
    let file = Scaffold::Classification.dataset_file(&folder.path().join("demo"), Split::Train);
    let catalogue = Catalogue::load(None).unwrap();
    catalogue.build_from(&file, "treebank_train", &engine.model().tokenizer, &BuildOptions::default()).unwrap()
}

#[test]
fn the_dataset_file_holds_the_reference_rows() {
    let prompts = prompts(&engine());
    let expected = expected();
    let rows = expected["rows"]["train_classification"].as_array().unwrap();
    assert_eq!(prompts.clean.len(), rows.len());
    assert!(prompts.positions.is_empty(), "no position is the same in every prompt");
    for (index, row) in rows.iter().enumerate() {
        let text = |sequence: usize| &prompts.texts[sequence];
        assert_eq!(*text(prompts.clean[index]), Scaffold::Classification.apply(row[0].as_str().unwrap()));
        assert_eq!(*text(prompts.corrupted[index]), Scaffold::Classification.apply(row[2].as_str().unwrap()));
        assert_eq!(prompts.sequences[prompts.clean[index]].len() as u64, row[3].as_u64().unwrap());
        assert_eq!(prompts.positive[index], row[1] == 1);
    }
    assert!(prompts.texts.iter().any(|text| text.contains('é')));
    // The corrupted rows are clean rows of the same length: every sequence is stored, and runs, once.
    assert_eq!(prompts.sequences.len(), rows.len());
}

#[test]
fn stretches_cover_every_prompt_once_in_whole_batches() {
    let engine = engine();
    let prompts = prompts(&engine);
    let sites = [Site::ResidPre(0), Site::ResidPre(1), Site::ResidPre(2)];
    let kept = Kept { sites: &sites, positions: &[PatchPositions::Last] };
    let all = stretches(engine.config(), &prompts, kept, 4, 6 << 18).unwrap();
    assert!(all.len() > 2, "{all:?}");
    assert_eq!(
        all.iter().flat_map(|range| range.clone()).collect::<Vec<_>>(),
        (0..prompts.clean.len()).collect::<Vec<_>>()
    );
    assert!(all.iter().rev().skip(1).all(|range| range.len() % 4 == 0));
    assert_eq!(stretches(engine.config(), &prompts, kept, 4, MEMORY_BUDGET).unwrap().len(), 1);
    let last = part(&prompts, all.last().unwrap().clone());
    let text = |set: &PairedPrompts, row: usize| set.texts[set.corrupted[row]].clone();
    assert_eq!(text(&last, last.clean.len() - 1), text(&prompts, prompts.clean.len() - 1));
}

/// Scores of cells in the order of the cells, each of which is finished once.
fn in_order(mut finished: Vec<(usize, Scores)>, count: usize) -> Vec<Scores> {
    finished.sort_unstable_by_key(|(cell, _)| *cell);
    assert!(finished.iter().map(|(cell, _)| *cell).eq(0..count));
    finished.into_iter().map(|(_, scores)| scores).collect()
}

/// Largest difference between two lists of numbers.
fn deviation(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn patching_in_stretches_changes_nothing() {
    let engine = engine();
    let prompts = prompts(&engine);
    let d_model = engine.config().d_model;
    let column: Vec<f32> = (0..d_model).map(|i| if i % 3 == 0 { 1.0 } else { -0.5 }).collect();
    let norm = column.iter().map(|value| value * value).sum::<f32>().sqrt();
    let columns = Matrix::new(d_model, 1, column.iter().map(|value| value / norm).collect());
    let cell = |layer, positions, mode| residual_cell(columns.clone(), Layers::Own(layer), positions, mode, 4);
    let of_mode = |mode| {
        [(1, PatchPositions::All), (3, PatchPositions::Last), (4, PatchPositions::Last)]
            .map(|(layer, positions)| cell(layer, positions, mode))
    };
    let cells: Vec<Cell> = [Mode::Denoising, Mode::Noising].into_iter().flat_map(of_mode).collect();
    let metrics = [Metric::ProbDiff, Metric::LogitDiffNoising];
    let run = |budget| {
        let (mut finished, mut share) = (Vec::new(), 0.0);
        let baselines = patch_dataset(&engine, &prompts, &cells, &metrics, budget, |step: Progress<'_>| {
            share = step.share;
            let n_prompts = prompts.clean.len();
            assert!(step.finished.iter().all(|(_, scores)| scores.logit_differences.len() == n_prompts));
            assert!(step.finished.is_empty() || step.baselines.clean.logit_differences.len() == n_prompts);
            finished.extend(step.finished);
            Ok::<(), EngineError>(())
        })
        .unwrap();
        assert!((share - 1.0).abs() < 1e-9, "{share}");
        (baselines, in_order(finished, cells.len()))
    };
    let ((whole, scores), (baselines_in_parts, in_parts)) = (run(MEMORY_BUDGET), run(1 << 20));
    // The same products in batches of other sizes: rounding of f32 sums over logits of size 10.
    let tolerance = 1e-4;
    let close = |a: &Scores, b: &Scores| {
        assert!(deviation(&a.logit_differences, &b.logit_differences) < tolerance);
        assert!(deviation(&a.probability_differences, &b.probability_differences) < tolerance);
    };
    close(&whole.clean, &baselines_in_parts.clean);
    close(&whole.corrupted, &baselines_in_parts.corrupted);
    assert_eq!(whole.positive, baselines_in_parts.positive);
    for (a, b) in scores.iter().zip(&in_parts) {
        close(a, b);
    }
    // Behind the last block, swapping one dimension at the last position must do something.
    assert!(deviation(&scores[2].logit_differences, &whole.corrupted.logit_differences) > 1e-3);
    let alone = baselines(&engine, &prompts, 1 << 20).unwrap();
    assert!(deviation(&alone.clean.logit_differences, &whole.clean.logit_differences) < tolerance);
}

#[test]
fn fitting_in_stretches_changes_nothing() {
    let engine = engine();
    let prompts = prompts(&engine);
    let of = |budget| embeddings_at(&engine, &prompts, &[0, 2, 4], PatchPositions::All, 0, budget).unwrap();
    let (whole, in_parts) = (of(MEMORY_BUDGET), of(1 << 20));
    for (layer, matrix) in &whole {
        let wide = |matrix: &Matrix| matrix.data.iter().map(|value| f64::from(*value)).collect::<Vec<_>>();
        // Residuals of size 10, other batches.
        assert!(deviation(&wide(matrix), &wide(&in_parts[layer])) < 1e-4, "layer {layer}");
    }
}

/// What becomes of three jobs at position ALL; every training must succeed.
fn trained(
    engine: &Engine<CpuBackend>,
    prompts: &PairedPrompts,
    settings: &TrainSettings,
    budget: usize,
) -> Vec<Trained> {
    let simple = Catalogue::load(None).unwrap();
    let simple = simple.build("simple_test", &engine.model().tokenizer, &BuildOptions::default()).unwrap();
    let test_positions = vec![PatchPositions::All, PatchPositions::One(simple.positions["ADJ"])];
    let job = |layer, method| {
        let test_positions = test_positions.clone();
        DasJob { method, layer, positions: PatchPositions::All, test_positions }
    };
    let jobs = [job(1, Method::Das), job(2, Method::Das2d), job(4, Method::Das)];
    let tests = [prompts.clone(), simple];
    let plan = TrainPlan { settings, seed: 5, tests: &tests, budget, stop: &|| false };
    let mut found: Vec<Option<Trained>> = vec![None; jobs.len()];
    train_all(engine, prompts, &jobs, &plan, |number, trained| -> Result<(), TrainError> {
        found[number] = Some(trained?);
        Ok(())
    })
    .unwrap();
    found.into_iter().map(Option::unwrap).collect()
}

#[test]
fn training_in_stretches_changes_nothing() {
    let engine = engine();
    let prompts = prompts(&engine);
    let settings = TrainSettings { epochs: 3, batch_size: 8, ..TrainSettings::default() };
    let train = |budget| trained(&engine, &prompts, &settings, budget);
    let (whole, in_parts) = (train(MEMORY_BUDGET), train(8 << 20));
    for (a, b) in whole.iter().zip(&in_parts) {
        assert_eq!(a.losses.len(), 3);
        assert!(a.losses[2] < a.losses[0], "{:?}", a.losses);
        // Losses are shares of a logit difference of 7; Adam's first steps turn rounding into steps of up to 1e-3.
        assert!(deviation(&a.losses, &b.losses) < 1e-3, "{:?} {:?}", a.losses, b.losses);
        let cosine: f64 = a.columns.data.iter().zip(&b.columns.data).map(|(a, b)| f64::from(a * b)).sum();
        assert!((cosine - a.columns.cols as f64).abs() < 1e-3, "{cosine}");
        for (a, b) in a.test_losses.iter().zip(&b.test_losses) {
            assert!(a.len() == 2 && deviation(a, b) < 1e-3, "{a:?} {b:?}");
        }
    }
}

#[test]
fn test_losses_are_those_of_the_next_step_and_of_the_suite() {
    let engine = engine();
    let prompts = prompts(&engine);
    // One batch: the loss that an epoch begins with is that of the columns the epoch before ended with.
    let settings = TrainSettings { epochs: 4, batch_size: prompts.clean.len(), ..TrainSettings::default() };
    for (trained, layer) in trained(&engine, &prompts, &settings, MEMORY_BUDGET).iter().zip([1, 2, 4]) {
        assert_eq!(trained.kept_epoch, 4);
        for (next, test) in trained.losses[1..].iter().zip(&trained.test_losses) {
            // f32 sums in batches of other shapes, of losses of size 1.
            assert!((next - test[0]).abs() < 1e-4, "{:?} {:?}", trained.losses, trained.test_losses);
        }
        let (columns, layers) = (trained.columns.clone(), Layers::Own(layer));
        let cells = [residual_cell(columns, layers, PatchPositions::All, Mode::Denoising, 4)];
        let mut recovered = f64::NAN;
        let told = |step: Progress<'_>| {
            step.finished.iter().for_each(|(_, s)| recovered = step.baselines.evaluate(Metric::LogitDiff, s));
            Ok::<(), EngineError>(())
        };
        patch_dataset(&engine, &prompts, &cells, &[Metric::LogitDiff], MEMORY_BUDGET, told).unwrap();
        assert!((1.0 - recovered - trained.test_losses[3][0]).abs() < 1e-4, "{recovered}");
    }
}

#[test]
fn a_training_stops_early_at_its_best_epoch() {
    let engine = engine();
    let prompts = prompts(&engine);
    // Steps so large that the loss goes up and down.
    let adam = AdamSettings { learning_rate: 0.3, ..AdamSettings::default() };
    let all_epochs = TrainSettings { epochs: 40, batch_size: prompts.clean.len(), adam, early_stop: None };
    let stopping = TrainSettings { early_stop: Some(2), ..all_epochs.clone() };
    for (budget, batch_size) in [(MEMORY_BUDGET, prompts.clean.len()), (8 << 20, 8)] {
        let early = trained(&engine, &prompts, &TrainSettings { batch_size, ..stopping.clone() }, budget);
        for early in &early {
            let epochs = early.losses.len();
            assert!(epochs < 40, "{:?}", early.test_losses);
            let mean = |tests: &Vec<f64>| tests.iter().sum::<f64>() / tests.len() as f64;
            let watched: Vec<f64> = early.test_losses.iter().map(mean).collect();
            let smallest = watched.iter().copied().fold(f64::INFINITY, f64::min);
            assert_eq!(watched[early.kept_epoch - 1], smallest, "{watched:?}");
            assert_eq!(epochs, early.kept_epoch + 2, "{watched:?}");
        }
        // The columns are those of that epoch: a training of that many epochs ends with them.
        let kept = early[0].kept_epoch;
        let shorter = TrainSettings { epochs: kept, batch_size, ..all_epochs.clone() };
        let shorter = &trained(&engine, &prompts, &shorter, budget)[0];
        assert_eq!((&shorter.columns, &shorter.losses[..]), (&early[0].columns, &early[0].losses[..kept]));
    }
}
