//! The program itself with `--device`: on the emulated GPU (preloaded), and on a machine without a driver.

use crate::emulator::{Emulator, library};
use actpatch::backend::BackendError;
use actpatch::directions::{Direction, DirectionName, cosine};
use assert_cmd::Command;
use std::path::Path;

/// A fit of the demo model by k-means: one pass over its training prompts.
fn program(device: &str, folder: &Path) -> Command {
    let mut command = Command::cargo_bin("actpatch").unwrap();
    command.args(["fit-directions", "--methods", "kmeans", "--layers", "1", "-v", "--device", device, "--data-dir"]);
    command.arg(folder);
    command
}

fn on_emulator(device: &str, folder: &Path) -> Option<Command> {
    Emulator::alone()?;
    let mut command = program(device, folder);
    command.env("LD_PRELOAD", library());
    Some(command)
}

fn fitted(folder: &Path) -> Vec<f32> {
    let name = "kmeans_simple_train_ADJ_layer1".parse::<DirectionName>().unwrap();
    Direction::read(&folder.join("demo"), &name, 128).unwrap().columns.data
}

#[test]
fn the_demo_model_gives_the_same_direction_on_the_gpu() {
    let folder = tempfile::tempdir().unwrap();
    let output = program("cpu", &folder.path().join("cpu")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = fitted(&folder.path().join("cpu"));
    let there = folder.path().join("gpu");
    let Some(mut command) = on_emulator("auto", &there) else { return };
    let output = command.output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(log.contains("cuda:0 (emulator"), "the GPU is taken when there is one: {log}");
    // Residuals of one block agree to about 1e-6, and so does the difference of two means of them.
    let cosine = cosine(&fitted(&there), &expected);
    assert!(cosine > 1.0 - 1e-6, "{cosine}");
}

/// Runs the program on emulated GPUs with these settings.
fn run_with(settings: &[(&str, &str)], arguments: &[&str], data: &Path) -> Option<(Option<i32>, String, String)> {
    Emulator::alone()?;
    let mut command = Command::cargo_bin("actpatch").unwrap();
    command.args(arguments).arg("--data-dir").arg(data).env("LD_PRELOAD", library()).envs(settings.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

const SUITE: [&str; 6] = [
    "direction-patching-suite",
    "--directions",
    "random*layer02,random*layer03",
    "--eval-sets",
    "simple_test,simple_adverb",
    "-v",
];

/// Random directions, and what patching along them on one GPU gives.
fn patched_on_one(data: &Path) -> Option<String> {
    run_with(&[], &["random-directions"], data)?;
    let (code, _, log) = run_with(&[], &[&SUITE[..], &["--device", "cuda"]].concat(), data)?;
    assert_eq!(code, Some(0), "{log}");
    Some(results(data))
}

fn results(data: &Path) -> String {
    std::fs::read_to_string(data.join("demo/direction_patching_logit_diff_resid_plain.csv")).unwrap()
}

#[test]
fn two_gpus_write_the_same_file_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let Some(expected) = patched_on_one(&one) else { return };
    run_with(&[], &["random-directions"], &two).unwrap();
    let arguments = [&SUITE[..], &["--device", "cuda:all"]].concat();
    let (code, _, log) = run_with(&[("EMULATOR_DEVICES", "2")], &arguments, &two).unwrap();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("cuda:0 (emulator") && log.contains("cuda:1 (emulator"), "{log}");
    assert_eq!(results(&two), expected);
}

#[test]
fn the_gpu_is_compared_with_the_processor() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["self-check", "--layers", "3", "--device", "cuda", "--against-cpu"];
    let Some((code, table, log)) = run_with(&[], &arguments, folder.path()) else { return };
    assert_eq!(code, Some(0), "{table}{log}");
    for check in [
        "answer logits equal",
        "patched logit differences equal",
        "gradients equal",
        "losses of a DAS fit",
        "its direction",
    ] {
        assert!(table.contains(check), "{check}: {table}");
    }
}

#[test]
fn what_a_driver_refuses_is_an_error_of_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["fit-directions", "--methods", "kmeans", "--layers", "1"];
    for (setting, device, words) in [
        (("EMULATOR_DEVICES", "0"), "cuda:all", &["cuda:0", "finds 0 GPUs"][..]),
        (("EMULATOR_DEVICES", "2"), "cuda:0,cuda:2", &["cuda:2", "finds 2 GPUs"]),
        (("EMULATOR_CAPABILITY", "75"), "cuda", &["7.5", "8.0"]),
        (("EMULATOR_DRIVER", "11020"), "cuda", &["too old", "11.4"]),
        (("EMULATOR_REFUSE_PTX", "1"), "cuda", &["too old", "12.2"]),
        (("EMULATOR_MEMORY", "1000000"), "cuda", &["the GPU has no", "--batch-tokens"]),
        (("EMULATOR_LAUNCHES_LEFT", "3"), "cuda", &["the GPU was lost", "same command"]),
    ] {
        let arguments = [&arguments[..], &["--device", device]].concat();
        let Some((code, _, log)) = run_with(&[setting], &arguments, folder.path()) else { return };
        assert_eq!(code, Some(1), "{setting:?}: {log}");
        assert!(!log.contains("panicked") && words.iter().all(|word| log.contains(word)), "{setting:?}: {log}");
    }
    let arguments = [&arguments[..], &["--device", "auto"]].concat();
    let (code, _, log) = run_with(&[("EMULATOR_CAPABILITY", "75")], &arguments, folder.path()).unwrap();
    assert!(code == Some(0) && log.contains("7.5") && log.contains("the processor computes"), "{log}");
}

#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut command) = on_emulator("cuda:7", folder.path()) else { return };
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("cuda:7") && message.contains("finds 1 GPUs"), "{message}");
}

#[test]
fn without_a_driver_auto_computes_on_the_processor_and_cuda_says_what_is_missing() {
    // This process may have loaded the emulator: a fresh program has not.
    let folder = tempfile::tempdir().unwrap();
    let output = program("cuda", folder.path()).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() || !message.contains("libcuda") {
        println!("skipped: this machine has a CUDA driver: {message}");
        return;
    }
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains(&BackendError::NoDriver.to_string()), "{message}");
    let output = program("auto", folder.path()).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains("cpu ("), "{log}");
}
