//! Timing fixed workloads beside the processor's peak. Prompts are made of token ids alone; nothing is written.

use super::fields::list;
use super::{Plan, Study, bytes};
use crate::backend::Backend;
use crate::bench::{Bench, Shape, Spread, Timing, Workload, peak_resident_bytes, prompts};
use crate::engine::{Engine, Flops, Layout};
use crate::report::Table;
use crate::session::{DeviceWork, Observer, Progress, Session, distinct, wrong};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Instant;

/// Times workloads of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Benchmark {
    /// Workloads; all of them, with cells and DAS epochs at the first, middle and last block, without any.
    #[serde(deserialize_with = "list")]
    pub workloads: Vec<Workload>,
    /// Repetitions of each workload, behind one that warms up.
    pub repetitions: u32,
    /// Prompts of a dataset.
    pub prompts: u32,
    /// Tokens of a prompt.
    pub tokens: u32,
    /// Answer pairs of a prompt.
    pub answer_pairs: u32,
}

impl Default for Benchmark {
    fn default() -> Self {
        Self { workloads: Vec::new(), repetitions: 5, prompts: 26, tokens: 19, answer_pairs: 5 }
    }
}

/// What was measured of one model.
#[derive(Debug, Clone, Serialize)]
pub struct Timings {
    /// The model's name.
    pub model: String,
    /// The device, as its backend describes it.
    pub device: String,
    /// Of the prompts.
    pub shape: Shape,
    /// Operations per second, from measurements between the repetitions.
    pub peak: Option<f64>,
    /// Workload by workload.
    pub timings: Vec<Timing>,
    /// The most memory that the process has held, in bytes.
    pub peak_resident_bytes: Option<u64>,
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { prompts, tokens, answer_pairs } = self.shape;
        let prompts = format!("{prompts} prompts of {tokens} tokens, {answer_pairs} answer pairs");
        write!(f, "{}, {prompts}; {}", self.model, self.device)?;
        if let Some(peak) = self.peak {
            write!(f, "; peak {:.0} GFLOP/s", peak / 1e9)?;
        }
        if let Some(memory) = self.peak_resident_bytes {
            write!(f, "; at most {} resident", bytes(memory as usize))?;
        }
        let mut table = Table::new(["workload", "arithmetic", "median", "fastest", "slowest", "share of peak"]);
        for Timing { workload, flops, seconds, share_of_peak, .. } in &self.timings {
            let share = share_of_peak.map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share));
            let [median, fastest, slowest] = [seconds.median, seconds.fastest, seconds.slowest].map(duration);
            table.push([workload.clone(), Flops(*flops).to_string(), median, fastest, slowest, share]);
        }
        write!(f, "\n{table}")
    }
}

fn duration(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.2} ms", 1e3 * seconds) } else { format!("{seconds:.2} s") }
}

/// What can be asked for.
const PROMPTS: RangeInclusive<u32> = 2..=65_536;
const TOKENS: RangeInclusive<u32> = 4..=65_536;
const ANSWER_PAIRS: RangeInclusive<u32> = 1..=1_024;
const REPETITIONS: RangeInclusive<u32> = 1..=10_000;

impl Study for Benchmark {
    const NAME: &'static str = "bench";
    const GOES_ON: bool = false;
    type Outcome = Timings;

    fn validate(&self) -> Result<()> {
        let ranges = [
            ("prompts", self.prompts, PROMPTS),
            ("tokens", self.tokens, TOKENS),
            ("answer_pairs", self.answer_pairs, ANSWER_PAIRS),
            ("repetitions", self.repetitions, REPETITIONS),
        ];
        for (field, found, range) in ranges {
            if !range.contains(&found) {
                wrong!(field, "expected {} to {}, found {found}", range.start(), range.end());
            }
        }
        Ok(())
    }

    fn plan(&self, session: &Session) -> Result<Plan> {
        let times = self.repetitions + 1;
        let (mut text, mut total) = (String::new(), Flops::default());
        for workload in self.workloads(session.config().n_layers) {
            let flops = workload.flops(session.config(), self.shape())?;
            text += &format!("{workload}, {flops}, {times} times\n");
            total = total + Flops(flops.0 * u64::from(times));
        }
        let rows = Layout::new(std::iter::repeat_n((0, self.tokens as usize), 2 * self.prompts as usize));
        Ok(Plan::of_passes(session, &text, total, session.planned_values(&rows)))
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Timings> {
        session.compute(observer, Repetitions(self))
    }
}

impl Benchmark {
    fn shape(&self) -> Shape {
        let [prompts, tokens, answer_pairs] = [self.prompts, self.tokens, self.answer_pairs].map(|n| n as usize);
        Shape { prompts, tokens, answer_pairs }
    }

    fn workloads(&self, n_layers: usize) -> Vec<Workload> {
        if self.workloads.is_empty() { Workload::all(n_layers) } else { distinct(&self.workloads) }
    }

    /// Runs one repetition per line, which names its workload, or `peak`, and replies to each, for alternating with another
    /// program; first it says what the prompts are.
    ///
    /// # Errors
    /// A line that names no workload; those of the device, and of `reply`.
    pub fn paced(
        &self,
        session: &Session,
        lines: &mut (dyn Iterator<Item = std::io::Result<String>> + Send),
        reply: &mut (dyn FnMut(&Value) -> Result<()> + Send),
        observer: &mut dyn Observer,
    ) -> Result<()> {
        session.compute(observer, Paced { study: self, lines, reply })
    }
}

/// Every workload, one after the other.
struct Repetitions<'a>(&'a Benchmark);

impl DeviceWork for Repetitions<'_> {
    type Output = Timings;

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<Timings> {
        let (study, shape, config) = (self.0, self.0.shape(), engine.config());
        let mut bench = Bench::new(engine, shape)?;
        let mut samples = Vec::new();
        let mut peaks = Vec::new();
        let workloads = study.workloads(config.n_layers);
        let mut progress = Progress::new(observer, "repetitions", workloads.len() * (study.repetitions as usize + 1));
        for workload in workloads {
            bench.prepare(workload)?;
            let mut seconds = Vec::new();
            for _ in 0..=study.repetitions {
                let start = Instant::now();
                bench.run(workload)?;
                seconds.push(start.elapsed().as_secs_f64());
                peaks.extend(engine.backend().peak());
                progress.add(1)?;
            }
            samples.push((workload, seconds));
        }
        // The median: a share of the peak compares what was measured under the same conditions.
        let peak = Spread::of(&peaks).map(|spread| spread.median);
        let mut timings = Vec::new();
        for (workload, seconds) in &samples {
            timings.extend(Timing::new(workload.to_string(), workload.flops(config, shape)?, seconds, peak));
        }
        Ok(Timings {
            model: engine.model().name.clone(),
            device: engine.backend().describe(),
            shape,
            peak,
            timings,
            peak_resident_bytes: peak_resident_bytes(),
        })
    }
}

/// One repetition per line.
struct Paced<'a> {
    study: &'a Benchmark,
    lines: &'a mut (dyn Iterator<Item = std::io::Result<String>> + Send),
    reply: &'a mut (dyn FnMut(&Value) -> Result<()> + Send),
}

impl DeviceWork for Paced<'_> {
    type Output = ();

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<()> {
        let Self { study, lines, reply } = self;
        let mut progress = Progress::new(observer, "repetitions", 0);
        let shape = study.shape();
        let mut bench = Bench::new(engine, shape)?;
        let set = prompts(shape, engine.config().d_vocab, 0);
        reply(&json!({
            "device": engine.backend().describe(),
            "patched_position": shape.patched_position(),
            "sequences": set.sequences,
            "corrupted": set.corrupted,
            "answers": set.answers,
        }))?;
        for line in lines {
            let line = line.context("the line of a workload")?;
            if line.trim() == "peak" {
                reply(&json!({ "peak": engine.backend().peak() }))?;
                continue;
            }
            let workload: Workload = line.trim().parse().context("the line of a workload")?;
            bench.prepare_once(workload)?;
            let start = Instant::now();
            let values = bench.run(workload)?;
            let seconds = start.elapsed().as_secs_f64();
            let flops = workload.flops(engine.config(), shape)?.0;
            reply(&json!({
                "workload": workload.to_string(), "seconds": seconds, "flops": flops, "values": values,
                "peak_resident_bytes": peak_resident_bytes(),
            }))?;
            progress.add(1)?;
        }
        Ok(())
    }
}
