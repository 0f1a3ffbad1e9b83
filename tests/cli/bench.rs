//! `bench`: what it reports, its conversation with another program, and what it refuses.

use crate::{actpatch, finish};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

const SMALL: [&str; 8] = ["bench", "--device", "cpu", "--prompts", "6", "--tokens", "10", "--repetitions=2"];

#[test]
fn every_workload_is_timed() {
    let report = finish(actpatch(&SMALL).arg("--json")).success().json();
    let names: Vec<_> = report[0]["timings"].as_array().unwrap().iter().map(|t| t["workload"].clone()).collect();
    let passes = ["forward", "forward-all-logits", "shared"];
    let by_layer = ["cell:0", "cell:2", "cell:3", "das:0", "das:2", "das:3"];
    assert_eq!(names, [&passes[..], &by_layer, &["das", "sweep", "head-map", "resid-map"]].concat());
    for timing in report[0]["timings"].as_array().unwrap() {
        assert_eq!(timing["repetitions"], 2);
        let seconds = |name: &str| timing["seconds"][name].as_f64().unwrap();
        assert!(0.0 < seconds("fastest") && seconds("fastest") <= seconds("slowest"), "{timing}");
        assert!(timing["flops"].as_u64().unwrap() > 1000 && timing["share_of_peak"].as_f64().unwrap() > 0.0);
    }
    assert!(report[0]["peak"].as_f64().unwrap() > 1e8, "any processor does 0.1 GFLOP/s");
    let text = finish(actpatch(&SMALL).args(["--workloads", "cell:1"])).success().stdout;
    assert!(text.contains("cell:1") && text.contains("share of peak") && !text.contains("sweep"), "{text}");
    let planned = finish(actpatch(&SMALL).args(["--workloads", "cell:1", "--dry-run"])).success().stdout;
    assert!(planned.contains("cell:1") && planned.contains("3 times"), "{planned}");
}

#[test]
fn a_paced_run_does_what_each_line_says_and_finds_the_same_again() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_actpatch"))
        .args(SMALL)
        .arg("--paced")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
    let greeting = next();
    assert_eq!(greeting["sequences"].as_array().unwrap().len(), 6);
    assert_eq!(greeting["patched_position"], 3);
    let mut ask = |line: &str| {
        writeln!(stdin, "{line}").unwrap();
        next()
    };
    let (first, again) = (ask("cell:1"), ask("cell:1"));
    assert_eq!(first["values"], again["values"]);
    assert!(ask("peak")["peak"].as_f64().unwrap() > 0.0);
    let losses = [ask("das:1"), ask("das:1")].map(|reply| reply["values"][0].as_f64().unwrap());
    assert_ne!(losses[0], losses[1], "the second epoch goes on from the first");
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_does_not_fit_is_refused() {
    finish(actpatch(&SMALL).args(["--workloads", "cell:4"])).fails(1, &["cell:4", "blocks 0 to 3"]);
    finish(actpatch(&SMALL).args(["--workloads", "train"])).fails(2, &["das:LAYER", "train"]);
    finish(actpatch(&SMALL).args(["--models", "demo,random:gpt2-small", "--paced"]))
        .fails(1, &["--paced", "one model"]);
    finish(&mut actpatch(&["bench", "--prompts", "1"])).fails(2, &["--prompts"]);
    finish(&mut actpatch(&["bench", "--device", "cpu", "--tokens", "60000"])).fails(1, &["60000 tokens", "at most"]);
}
