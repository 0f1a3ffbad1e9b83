//! Identities that must hold before a number can be trusted, checked on a model.

use super::fields::{list, not_empty};
use super::{Plan, Study, bytes};
use crate::backend::{Backend, Dtype};
use crate::datasets::PairedPrompts;
use crate::datasets::treebank::Scaffold;
use crate::engine::{Engine, Layout, PairedRun, PatchPositions, Site};
use crate::experiments::comparison::{Measured, compare, measure};
use crate::experiments::self_check::{Check, self_check};
use crate::report::Table;
use crate::session::{Device, DeviceWork, Observer, OfSetting, Session, layers};
use anyhow::Result;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;
use std::fmt;

/// Checks the engine on a model: patching clean into clean changes nothing, and the like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SelfCheck {
    /// Dataset to check on.
    pub eval_set: String,
    /// Layers: `all`, numbers, ranges such as 2..5; layer n_layers is behind the last block.
    #[serde(deserialize_with = "list")]
    pub layers: Vec<String>,
    /// Also compare the device and the number format with the processor in f32: logits, patches, gradients, a DAS fit.
    pub against_cpu: bool,
}

impl Default for SelfCheck {
    fn default() -> Self {
        Self { eval_set: "simple_test".into(), layers: vec!["all".into()], against_cpu: false }
    }
}

/// The checks of one model, layer by layer.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The model's name.
    pub model: String,
    /// A layer, and a check of it.
    pub checks: Vec<(usize, Check)>,
}

impl Checked {
    /// How many checks failed.
    pub fn failed(&self) -> usize {
        self.checks.iter().filter(|(_, check)| !check.passed()).count()
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["check", "layer", "deviation", "tolerance", "result"]);
        for (layer, check) in &self.checks {
            let result = match (check.passed(), check.tolerance) {
                (false, _) => "FAILED",
                (true, Some(_)) => "passed",
                (true, None) => "shown",
            };
            let tolerance = check.tolerance.map_or(String::new(), |tolerance| format!("{tolerance:.1e}"));
            let deviation = format!("{:.1e}", check.deviation);
            table.push([check.name.to_owned(), layer.to_string(), deviation, tolerance, result.to_owned()]);
        }
        write!(f, "{}\n{table}", self.model)
    }
}

impl Serialize for Checked {
    /// An entry for every check.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entry = |(layer, check): &(usize, Check)| json!({ "model": self.model, "layer": layer, "check": check, "passed": check.passed() });
        serializer.collect_seq(self.checks.iter().map(entry))
    }
}

impl Study for SelfCheck {
    const NAME: &'static str = "self-check";
    type Outcome = Checked;

    fn validate(&self) -> Result<()> {
        Ok(not_empty(&[("layers", self.layers.len())])?)
    }

    fn plan(&self, session: &Session) -> Result<Plan> {
        let (prompts, layers) = self.subject(session)?;
        let (model, set) = (&session.model().name, &prompts.name);
        let whole = Layout::whole(&prompts.sequences);
        let memory = session.planned_memory(session.planned_values(&whole));
        let text =
            format!("{model}: every check on {set} at {} layers, about {} of memory\n", layers.len(), bytes(memory));
        Ok(Plan { memory_bytes: Some(memory), ..Plan::of(text) })
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Checked> {
        let (prompts, layers) = self.subject(session)?;
        let checks = Checks { prompts: prompts.clone(), layers: &layers, seed: session.seed() };
        let mut checks = session.compute(observer, checks)?;
        if self.against_cpu {
            checks.extend(against_cpu(session, &prompts, &layers, observer)?);
        }
        Ok(Checked { model: session.model().name.clone(), checks })
    }

    fn failed(checked: &Checked) -> Option<String> {
        match checked.failed() {
            0 => None,
            failed => Some(format!("{}: {failed} of {} checks failed", checked.model, checked.checks.len())),
        }
    }
}

impl SelfCheck {
    fn subject(&self, session: &Session) -> Result<(PairedPrompts, Vec<usize>)> {
        self.validate()?;
        session.catalogue()?;
        let prompts = session.prompts(&self.eval_set, Scaffold::Plain).of_setting("eval_set")?;
        Ok((prompts, layers("layers", &self.layers, session.config().n_layers)?))
    }
}

/// The checks of one model.
struct Checks<'a> {
    prompts: PairedPrompts,
    layers: &'a [usize],
    seed: u64,
}

impl DeviceWork for Checks<'_> {
    type Output = Vec<(usize, Check)>;

    fn run<B: Backend>(self, engine: &Engine<B>, _: &mut dyn Observer) -> Result<Self::Output> {
        let n_layers = engine.config().n_layers;
        let sites: Vec<Site> = self.layers.iter().map(|&layer| Site::resid(layer, n_layers)).collect();
        let paired = PairedRun::new(engine, self.prompts, &sites, &[PatchPositions::All], false)?;
        let mut all = Vec::new();
        for &layer in self.layers {
            all.extend(self_check(engine, &paired, layer, self.seed)?.into_iter().map(|check| (layer, check)));
        }
        Ok(all)
    }
}

/// What a device is compared by, at the layers in front of a block.
struct Measures<'a> {
    prompts: &'a PairedPrompts,
    layers: &'a [usize],
    seed: u64,
}

impl DeviceWork for Measures<'_> {
    type Output = Vec<(usize, Measured)>;

    fn run<B: Backend>(self, engine: &Engine<B>, _: &mut dyn Observer) -> Result<Self::Output> {
        let layers = self.layers.iter().filter(|&&layer| layer < engine.config().n_layers);
        layers.map(|&layer| Ok((layer, measure(engine, self.prompts.clone(), layer, self.seed)?))).collect()
    }
}

/// Compares the session's device and number format with the processor in f32.
fn against_cpu(
    session: &Session,
    prompts: &PairedPrompts,
    layers: &[usize],
    observer: &mut dyn Observer,
) -> Result<Vec<(usize, Check)>> {
    let work = || Measures { prompts, layers, seed: session.seed() };
    let found = session.compute(observer, work())?;
    let processor = session.with(|options| (options.device, options.dtype) = (Device::Cpu, Dtype::F32))?;
    let reference = processor.compute(observer, work())?;
    let mut all = Vec::new();
    for ((layer, found), (_, reference)) in found.iter().zip(&reference) {
        let checks = compare(found, reference, session.options().dtype);
        all.extend(checks.into_iter().map(|check| (*layer, check)));
    }
    Ok(all)
}
