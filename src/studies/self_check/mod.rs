//! Identities that must hold before a number can be trusted, checked on a model.

mod reference;

use super::fields::{list, not_empty, optional_path};
use super::{Plan, Study, bytes};
use crate::backend::{Backend, Dtype};
use crate::datasets::PairedPrompts;
use crate::datasets::treebank::Scaffold;
use crate::engine::{Engine, Flops, Layout, PairedRun, PatchPositions, Site};
use crate::experiments::comparison::{Measured, compare, measure};
use crate::experiments::self_check::{Check, self_check};
use crate::model::ModelConfig;
use crate::report::Table;
use crate::session::{
    Device, DeviceWork, Observer, OfSetting, Progress, Provenance, Session, fingerprint, layers, planned_rows, wrong,
};
use anyhow::Result;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;
use std::fmt;
use std::path::{Path, PathBuf};

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
    /// Write what the processor computes in f32 to this folder, in a file per model.
    #[serde(serialize_with = "optional_path")]
    pub record: Option<PathBuf>,
    /// Compare as `against_cpu` does, with what was recorded in this folder instead of computing it here.
    #[serde(serialize_with = "optional_path")]
    pub against: Option<PathBuf>,
}

impl Default for SelfCheck {
    fn default() -> Self {
        let layers = vec!["all".into()];
        Self { eval_set: "simple_test".into(), layers, against_cpu: false, record: None, against: None }
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
    const GOES_ON: bool = false;
    type Outcome = Checked;

    fn validate(&self) -> Result<()> {
        not_empty(&[("layers", self.layers.len())])?;
        let computed = [("record", self.record.is_some()), ("against_cpu", self.against_cpu)];
        if let Some((setting, _)) = computed.into_iter().find(|(_, asked)| *asked && self.against.is_some()) {
            wrong!(setting, "what was recorded is compared with, and not computed: against is set");
        }
        Ok(())
    }

    fn plan(&self, session: &Session) -> Result<Plan> {
        let (prompts, layers) = self.subject(session)?;
        let (model, set) = (&session.model().name, &prompts.name);
        let whole = Layout::whole(&prompts.sequences);
        let memory = session.planned_memory(session.planned_values(&whole));
        let flops = arithmetic(session.config(), &prompts, &layers);
        let cost = format!("{flops}, about {} of memory", bytes(memory));
        let text = format!("{model}: every check on {set} at {} layers, {cost}\n", layers.len());
        Ok(Plan::of(text).costing(flops, Some(memory)))
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Checked> {
        let (prompts, layers) = self.subject(session)?;
        // First: a file that is not the wanted one is told before the work.
        let reference = self.reference(session, &prompts, &layers, observer)?;
        let checks = Checks { prompts: prompts.clone(), layers: &layers, seed: session.seed() };
        let mut checks = session.compute(observer, checks)?;
        if self.against_cpu || self.against.is_some() {
            let found = session.compute(observer, Measures::new(session, &prompts, &layers))?;
            for ((layer, found), (_, reference)) in found.iter().zip(&reference) {
                let compared = compare(found, reference, session.options().dtype);
                checks.extend(compared.into_iter().map(|check| (*layer, check)));
            }
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

    /// What the processor computes in f32, or has computed; nothing when nobody asks for it.
    fn reference(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        layers: &[usize],
        observer: &mut dyn Observer,
    ) -> Result<Vec<(usize, Measured)>> {
        if !self.against_cpu && self.record.is_none() && self.against.is_none() {
            return Ok(Vec::new());
        }
        let processor = session.with(|options| (options.device, options.dtype) = (Device::Cpu, Dtype::F32))?;
        let made_of = || -> Result<Provenance> {
            processor.provenance(Self::NAME)?.with("prompts", fingerprint(prompts)?)?.with("seed", session.seed())
        };
        let file = |folder: &Path| folder.join(format!("{}.safetensors", session.model().name));
        let work = Measures::new(session, prompts, layers);
        if let Some(folder) = &self.against {
            return reference::read(&file(folder), &made_of()?, &work.layers).of_setting("against");
        }
        let measured = processor.compute(observer, work)?;
        if let Some(folder) = &self.record {
            reference::write(&file(folder), &made_of()?, &measured).of_setting("record")?;
        }
        Ok(measured)
    }
}

/// The least arithmetic of the checks at `layers`: what is compared with the processor comes on top.
fn arithmetic(config: &ModelConfig, prompts: &PairedPrompts, layers: &[usize]) -> Flops {
    let all = Layout::whole(&prompts.sequences);
    let rows = planned_rows(prompts, PatchPositions::All);
    let answers = prompts.answers.iter().flatten().count();
    let run = Flops::forward(config, &all, 0, answers);
    // Both replacements of everything, one position's resumed and recomputed rows, the last block both ways, a cell.
    let checks = |&layer: &usize| {
        let resumed = Flops::forward(config, &rows, layer, answers);
        let recomputed = Flops::forward(config, &rows, 0, answers);
        Flops(4 * resumed.0 + recomputed.0 + run.0 + Flops::whole(config, &all).0)
    };
    layers.iter().map(checks).fold(run, |sum, layer| sum + layer)
}

/// The checks of one model.
struct Checks<'a> {
    prompts: PairedPrompts,
    layers: &'a [usize],
    seed: u64,
}

impl DeviceWork for Checks<'_> {
    type Output = Vec<(usize, Check)>;

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<Self::Output> {
        let n_layers = engine.config().n_layers;
        let mut progress = Progress::new(observer, "checks at layers", self.layers.len());
        let sites: Vec<Site> = self.layers.iter().map(|&layer| Site::resid(layer, n_layers)).collect();
        let paired = PairedRun::new(engine, self.prompts, &sites, &[PatchPositions::All], false)?;
        let mut all = Vec::new();
        for &layer in self.layers {
            all.extend(self_check(engine, &paired, layer, self.seed)?.into_iter().map(|check| (layer, check)));
            progress.add(1)?;
        }
        Ok(all)
    }
}

/// What a device is compared by, at the layers in front of a block.
struct Measures<'a> {
    prompts: &'a PairedPrompts,
    layers: Vec<usize>,
    seed: u64,
}

impl<'a> Measures<'a> {
    fn new(session: &Session, prompts: &'a PairedPrompts, layers: &[usize]) -> Self {
        let n_layers = session.config().n_layers;
        let layers = layers.iter().copied().filter(|&layer| layer < n_layers).collect();
        Self { prompts, layers, seed: session.seed() }
    }
}

impl DeviceWork for Measures<'_> {
    type Output = Vec<(usize, Measured)>;

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<Self::Output> {
        let mut progress = Progress::new(observer, "results at layers", self.layers.len());
        let mut measured = Vec::new();
        for &layer in &self.layers {
            measured.push((layer, measure(engine, self.prompts.clone(), layer, self.seed)?));
            progress.add(1)?;
        }
        Ok(measured)
    }
}
