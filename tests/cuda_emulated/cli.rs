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
    Emulator::start()?;
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
