//! The whole journey on one model: fits, the suite, the best layer of every method.

use super::{FitDirections, PatchingSuite, Plan, Study};
use crate::engine::Metric;
use crate::model::Bos;
use crate::report::RunRecord;
use crate::report::results::{Best, ResultFile, best_layers_table};
use crate::session::{DEFAULT_MODEL, Observer, Rewrite, Session};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

/// Fits every method at every layer, patches two datasets along the directions, and finds the best layer of every
/// method.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Demo {}

/// The dataset of the same sentence that the directions are tested on.
const SAME_SENTENCE: &str = "simple_test";

/// The out-of-distribution dataset: other words in another sentence about another subject.
const OUT_OF_DISTRIBUTION: &str = "simple_product";

/// The best layers of a demonstration.
#[derive(Debug, Clone, Serialize)]
pub struct DemoResults {
    /// By metric.
    pub best_layers: BTreeMap<Metric, Vec<Best>>,
    /// The manifests of the fits and of the suite, where there was something to do.
    pub manifests: Vec<RunRecord>,
    /// The folder of directions, records and tables.
    #[serde(skip)]
    pub folder: String,
    /// How long it took.
    #[serde(skip)]
    pub seconds: f64,
}

impl fmt::Display for DemoResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (metric, bests) in &self.best_layers {
            writeln!(f, "{metric}: percent at the best layer (layer)\n{}", best_layers_table(bests))?;
        }
        writeln!(f, "{:.1} s; directions, records and CSV files are in {}", self.seconds, self.folder)
    }
}

/// The best layer of every method by metric.
pub(super) fn best_layers(files: &[ResultFile]) -> BTreeMap<Metric, Vec<Best>> {
    files.iter().map(|file| (file.name.metric, file.best_layers())).collect()
}

impl Demo {
    /// The model that is part of the program.
    pub const MODEL: &'static str = DEFAULT_MODEL;
    /// Whether its texts begin with a token of their own.
    pub const BOS: Bos = Bos::Auto;
    /// How its weights are rewritten.
    pub const REWRITES: [Rewrite; 4] = Rewrite::TRANSFORMER_LENS;

    fn fits() -> FitDirections {
        FitDirections { test_sets: vec![SAME_SENTENCE.into()], ..FitDirections::default() }
    }

    fn suite() -> PatchingSuite {
        PatchingSuite {
            eval_sets: vec![SAME_SENTENCE.into(), OUT_OF_DISTRIBUTION.into()],
            metrics: vec![Metric::LogitDiff, Metric::LogitFlip],
            ..PatchingSuite::default()
        }
    }
}

impl Study for Demo {
    const NAME: &'static str = "demo";
    type Outcome = DemoResults;

    /// What the fits will compute: the suite needs their directions.
    fn plan(&self, session: &Session) -> Result<Plan> {
        Self::fits().plan(session)
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<DemoResults> {
        let started = Instant::now();
        let suite = Self::suite();
        let fitted = Self::fits().run(session, observer)?.manifest;
        let patched = suite.run(session, observer)?.manifest;
        Ok(DemoResults {
            best_layers: best_layers(&suite.results(session)?),
            manifests: fitted.into_iter().chain(patched).collect(),
            folder: session.folder().display().to_string(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}
