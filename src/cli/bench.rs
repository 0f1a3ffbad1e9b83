//! `bench`.

use super::common::{ModelArgs, RunArgs, bytes, distinct, print, print_json};
use super::device::DeviceWork;
use crate::backend::Backend;
use crate::bench::{Bench, Shape, Spread, Timing, Workload, peak_resident_bytes, prompts};
use crate::engine::{Engine, Flops};
use crate::report::Table;
use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde_json::json;
use std::io::BufRead;
use std::time::Instant;

/// Arguments of `bench`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    /// Workloads: forward, forward-all-logits, shared, cell:LAYER, das:LAYER, das (every block), sweep, head-map,
    /// resid-map; all of them, with cells and DAS epochs at the first, middle and last block, without the option.
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<Workload>,
    /// Repetitions of each workload, behind one that warms up.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repetitions: u32,
    /// Prompts of a dataset.
    #[arg(long, default_value_t = 26, value_parser = clap::value_parser!(u32).range(2..=65_536))]
    prompts: u32,
    /// Tokens of a prompt.
    #[arg(long, default_value_t = 19, value_parser = clap::value_parser!(u32).range(4..=65_536))]
    tokens: u32,
    /// Answer pairs of a prompt.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    answer_pairs: u32,
    /// Run one repetition per line of stdin, which names its workload (or `peak`), and print one line of JSON each: for
    /// alternating with another program.
    #[arg(long, conflicts_with_all = ["json", "dry_run", "workloads"])]
    paced: bool,
    #[command(flatten)]
    run: RunArgs,
}

const EXAMPLES: &str = "\
Examples:
  actpatch bench --models random:gpt2-small
  actpatch bench --models random:pythia-1.4b --workloads cell:12,das:12 --repetitions 3 --json
  actpatch bench --models ./folder --prompts 256 --tokens 60 --workloads cell:6

Prompts are made of token ids alone, of the shape given; nothing is written.";

/// What was measured of one model.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    device: String,
    shape: Shape,
    /// Operations per second, from measurements between the repetitions.
    peak: Option<f64>,
    timings: Vec<Timing>,
    peak_resident_bytes: Option<u64>,
}

impl Args {
    fn shape(&self) -> Shape {
        let [prompts, tokens, answer_pairs] = [self.prompts, self.tokens, self.answer_pairs].map(|n| n as usize);
        Shape { prompts, tokens, answer_pairs }
    }

    fn workloads(&self, n_layers: usize) -> Vec<Workload> {
        if self.workloads.is_empty() { Workload::all(n_layers) } else { distinct(&self.workloads) }
    }
}

/// Every workload, one after the other.
struct Repetitions<'a>(&'a Args);

impl DeviceWork for Repetitions<'_> {
    type Output = Report;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Report> {
        let (args, shape, config) = (self.0, self.0.shape(), engine.config());
        let mut bench = Bench::new(engine, shape)?;
        let mut samples = Vec::new();
        let mut peaks = Vec::new();
        for workload in args.workloads(config.n_layers) {
            bench.prepare(workload)?;
            let mut seconds = Vec::new();
            for _ in 0..=args.repetitions {
                let start = Instant::now();
                bench.run(workload)?;
                seconds.push(start.elapsed().as_secs_f64());
                peaks.extend(engine.backend().peak());
            }
            samples.push((workload, seconds));
        }
        // The median: a share of the peak compares what was measured under the same conditions.
        let peak = Spread::of(&peaks).map(|spread| spread.median);
        let mut timings = Vec::new();
        for (workload, seconds) in &samples {
            timings.extend(Timing::new(workload.to_string(), workload.flops(config, shape)?, seconds, peak));
        }
        Ok(Report {
            model: engine.model().name.clone(),
            device: engine.backend().describe(),
            shape,
            peak,
            timings,
            peak_resident_bytes: peak_resident_bytes(),
        })
    }
}

/// One repetition per line of stdin.
struct Paced<'a>(&'a Args);

impl DeviceWork for Paced<'_> {
    type Output = ();

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<()> {
        let shape = self.0.shape();
        let mut bench = Bench::new(engine, shape)?;
        let set = prompts(shape, engine.config().d_vocab, 0);
        let greeting = json!({
            "device": engine.backend().describe(),
            "patched_position": shape.patched_position(),
            "sequences": set.sequences,
            "corrupted": set.corrupted,
            "answers": set.answers,
        });
        print(&format!("{greeting}\n"))?;
        for line in std::io::stdin().lock().lines() {
            let line = line.context("stdin")?;
            if line.trim() == "peak" {
                print(&format!("{}\n", json!({ "peak": engine.backend().peak() })))?;
                continue;
            }
            let workload: Workload = line.trim().parse().map_err(|error: String| anyhow!("stdin: {error}"))?;
            bench.prepare_once(workload)?;
            let start = Instant::now();
            let values = bench.run(workload)?;
            let seconds = start.elapsed().as_secs_f64();
            let flops = workload.flops(engine.config(), shape)?.0;
            let memory = peak_resident_bytes();
            let reply = json!({
                "workload": workload.to_string(), "seconds": seconds, "flops": flops, "values": values,
                "peak_resident_bytes": memory,
            });
            print(&format!("{reply}\n"))?;
        }
        Ok(())
    }
}

/// Runs the workloads of every model.
pub fn run(args: Args) -> Result<()> {
    let models = distinct(&args.models.models);
    if args.paced && models.len() > 1 {
        bail!("--paced: expected one model, found {}", models.len());
    }
    let mut reports = Vec::new();
    for spec in &models {
        let model = args.models.load(spec, args.run.seed)?;
        if args.run.dry_run {
            for workload in args.workloads(model.config.n_layers) {
                let flops = workload.flops(&model.config, args.shape())?;
                print(&format!("{}: {workload}, {flops}, {} times\n", model.name, args.repetitions + 1))?;
            }
            continue;
        }
        if args.paced {
            return args.run.in_pool(|| args.run.on_device(model, Paced(&args)));
        }
        let report = args.run.in_pool(|| args.run.on_device(model, Repetitions(&args)))?;
        if !args.run.json {
            print(&text(&report))?;
        }
        reports.push(report);
    }
    if args.run.json {
        print_json(&reports)?;
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let Shape { prompts, tokens, answer_pairs } = report.shape;
    let mut text = format!(
        "{}, {prompts} prompts of {tokens} tokens, {answer_pairs} answer pairs; {}",
        report.model, report.device
    );
    if let Some(peak) = report.peak {
        text += &format!("; peak {:.0} GFLOP/s", peak / 1e9);
    }
    if let Some(memory) = report.peak_resident_bytes {
        text += &format!("; at most {} resident", bytes(memory as usize));
    }
    let mut table = Table::new(["workload", "arithmetic", "median", "fastest", "slowest", "share of peak"]);
    for Timing { workload, flops, seconds, share_of_peak, .. } in &report.timings {
        let share = share_of_peak.map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share));
        let [median, fastest, slowest] = [seconds.median, seconds.fastest, seconds.slowest].map(duration);
        table.push([workload.clone(), Flops(*flops).to_string(), median, fastest, slowest, share]);
    }
    format!("{text}\n{table}")
}

fn duration(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.2} ms", 1e3 * seconds) } else { format!("{seconds:.2} s") }
}
