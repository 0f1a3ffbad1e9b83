//! Path patching: what senders change, measured only as far as it reaches receivers (Goldowsky-Dill et al. 2023,
//! arXiv 2304.05969; Wang et al. 2022, arXiv 2211.00593).
//!
//! *Three steps*: (1) both runs are known; (2) in the patched run every head keeps its output while the senders take their
//! values from the other run and the MLPs are computed again; (3) a second pass in which the receivers alone take what
//! arrived at them. *Two steps*: the senders' change, as it stands in the residual stream, is added to what the receivers
//! read, so that nothing between them takes part.
//!
//! Step 2 has no attention to run and is local to positions; step 3 and the two-step method are cells of a [`crate::engine::Plan`].

mod node;
mod three_steps;
mod two_steps;

pub use node::{End, Node, NodePattern};

use super::activation_maps::common_length;
use super::chunks::{Kept, joined_baselines, joined_scores, part, stretches};
use super::component::Component;
use crate::backend::Backend;
use crate::engine::{
    Baselines, Engine, EngineError, Flops, Layout, Metric, Mode, PairedRun, PatchPositions, Scores, Site,
};
use crate::model::ModelConfig;
use crate::types::PairedPrompts;
use std::collections::BTreeSet;
use std::sync::Arc;

/// One end of the paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nodes {
    /// These, together.
    Together(Vec<Node>),
    /// Every node of a component on its own: a map.
    Every(Component),
}

/// At which positions the senders take new values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SenderPositions {
    /// At all of them.
    All,
    /// At one, the same in every prompt.
    One(usize),
    /// At a list per prompt.
    PerPrompt(Vec<Vec<usize>>),
    /// At each on its own: the map gets an axis of positions.
    Each,
}

/// How a change travels from the senders to the receivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Through the MLPs between them, or with `mlps` off past them.
    ThreeSteps {
        /// Are MLPs part of the path?
        mlps: bool,
    },
    /// Along the residual stream alone.
    TwoSteps,
}

/// What to patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Where paths begin.
    pub senders: Nodes,
    /// Where they end.
    pub receivers: Nodes,
    /// Where the senders change.
    pub positions: SenderPositions,
    /// How the change travels.
    pub method: Method,
    /// Patch the whole activation of a receiver's layer, whichever head or neuron was named, as the paper's code does in
    /// three steps.
    pub layer_wide: bool,
}

/// A finished map of paths.
#[derive(Debug, Clone, PartialEq)]
pub struct PathMap {
    /// Names of the axes, outermost first: `position`, `layer`, `head` or `neuron`; none for a single number.
    pub axes: Vec<&'static str>,
    /// Their lengths.
    pub shape: Vec<usize>,
    /// What was measured.
    pub metric: Metric,
    /// The metric as a fraction, row-major.
    pub values: Vec<f64>,
}

/// The arithmetic of path patching: what was done, and what whole passes for every node would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathFlops {
    /// Done, without the run that both methods start from.
    pub done: Flops,
    /// Two passes per node (one in the two-step method) over all prompts, positions and logits.
    pub naive: Flops,
}

/// One number of a map: senders that act together, receivers that they reach, and where.
#[derive(Clone)]
struct Case {
    senders: Vec<Node>,
    receivers: Vec<Node>,
    /// Per prompt, only positions that can change and matter.
    positions: Arc<Vec<Vec<usize>>>,
}

/// Maps of `paths` under every metric of one patching direction, `told` hears the share of the work that is done.
///
/// Denoising patches clean activations into the corrupted run, noising the other way round. A node that reaches no receiver
/// gives the unpatched score.
///
/// # Errors
/// A node that is not there or cannot be that end, a receiver that no sender reaches and a sender that reaches none
/// ([`EngineError::NeverFires`]), positions outside a prompt, metrics of two patching directions; those of the engine.
pub fn path_patching<B: Backend, E: From<EngineError>>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    paths: &Paths,
    metrics: &[Metric],
    budget: usize,
    told: impl FnMut(f64) -> Result<(), E>,
) -> Result<(Baselines, Vec<PathMap>, PathFlops), E> {
    paths.check(engine.config(), prompts)?;
    let (axes, shape) = paths.axes(engine.config(), prompts)?;
    let all: Vec<usize> = (0..shape.iter().product()).collect();
    let (baselines, scores, flops) = path_scores(engine, prompts, paths, metrics, &all, budget, told)?;
    let map = |&metric: &Metric| {
        let values = scores.iter().map(|scores| baselines.evaluate(metric, scores)).collect();
        PathMap { axes: axes.clone(), shape: shape.clone(), metric, values }
    };
    let maps = metrics.iter().map(map).collect();
    Ok((baselines, maps, flops))
}

/// The scores that some values of the maps of [`path_patching`] are made of: those at `places`, which are numbers in
/// row-major order.
///
/// # Errors
/// Those of [`path_patching`]; a place outside the map.
pub fn path_scores<B: Backend, E: From<EngineError>>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    paths: &Paths,
    metrics: &[Metric],
    places: &[usize],
    budget: usize,
    mut told: impl FnMut(f64) -> Result<(), E>,
) -> Result<(Baselines, Vec<Scores>, PathFlops), E> {
    let config = engine.config();
    let mode = common_mode(metrics)?;
    paths.check(config, prompts)?;
    let sites = paths.captured(config);
    let positions = [PatchPositions::Last];
    let ranges = stretches(config, prompts, Kept { sites: &sites, positions: &positions }, 1, budget)?;
    let (mut baselines, mut scores, mut flops) = (Vec::new(), Vec::<Vec<Scores>>::new(), PathFlops::default());
    for (number, range) in ranges.iter().enumerate() {
        let paths = paths.part(range);
        let stretch = part(prompts, range.clone());
        let probabilities = metrics.iter().any(|metric| metric.needs_probabilities());
        let paired = PairedRun::new(engine, stretch, &sites, &positions, probabilities)?;
        let work = Work { engine, paired: &paired, mode, metrics, layer_wide: paths.layer_wide };
        let cases = chosen_cases(paths.cases(config, paired.prompts())?, places)?;
        let share = |done: f64| (number as f64 + done) / ranges.len() as f64;
        let (found, done) = match paths.method {
            Method::ThreeSteps { mlps } => work.three_steps(&cases, mlps, |done| told(share(done)))?,
            Method::TwoSteps => work.two_steps(&cases, |done| told(share(done)))?,
        };
        let whole = Layout::new(paired.prompts().clean.iter().map(|&s| (0, paired.prompts().sequences[s].len())));
        let passes = if paths.method == Method::TwoSteps { 1 } else { 2 };
        flops.done = flops.done + done;
        flops.naive = flops.naive + Flops(Flops::whole(config, &whole).0 * (passes * cases.len()) as u64);
        baselines.push(paired.baselines().clone());
        scores.push(found);
    }
    let baselines = joined_baselines(baselines);
    let of_case = |case: usize| joined_scores(scores.iter().map(|stretch| stretch[case].clone()).collect());
    Ok((baselines, (0..places.len()).map(of_case).collect(), flops))
}

fn chosen_cases(all: Vec<Case>, places: &[usize]) -> Result<Vec<Case>, EngineError> {
    let count = all.len();
    let chosen = |&place: &usize| {
        all.get(place).cloned().ok_or_else(|| EngineError::Mismatch {
            what: "place in a map of paths".into(),
            expected: format!("less than {count}"),
            found: place.to_string(),
        })
    };
    places.iter().map(chosen).collect()
}

/// What both methods work on.
struct Work<'a, B: Backend> {
    engine: &'a Engine<B>,
    paired: &'a PairedRun<B>,
    mode: Mode,
    metrics: &'a [Metric],
    layer_wide: bool,
}

/// The patching direction of all metrics.
///
/// # Errors
/// Metrics of both.
pub(crate) fn common_mode(metrics: &[Metric]) -> Result<Mode, EngineError> {
    let mode = metrics.first().map_or(Mode::Denoising, |metric| metric.mode());
    match metrics.iter().find(|metric| metric.mode() != mode) {
        None => Ok(mode),
        Some(other) => Err(EngineError::Mismatch {
            what: "metrics of one path patching".into(),
            expected: format!("all of one patching direction, as {}", metrics[0]),
            found: other.to_string(),
        }),
    }
}

impl Nodes {
    /// Checks that every node is there and can be this end.
    ///
    /// # Errors
    /// The node and what it lacks.
    pub(crate) fn check(&self, end: End, config: &ModelConfig) -> Result<(), EngineError> {
        self.list(config).iter().try_for_each(|node| node.check(end, config))
    }

    fn list(&self, config: &ModelConfig) -> Vec<Node> {
        match self {
            Nodes::Together(nodes) => nodes.clone(),
            Nodes::Every(component) => Node::every(*component, config),
        }
    }

    /// The sets of nodes that are patched together, one after the other.
    fn sets(&self, config: &ModelConfig) -> Vec<Vec<Node>> {
        match self {
            Nodes::Together(nodes) => vec![nodes.clone()],
            Nodes::Every(component) => Node::every(*component, config).into_iter().map(|node| vec![node]).collect(),
        }
    }
}

impl Paths {
    /// Refuses what cannot be patched or would change nothing.
    ///
    /// # Errors
    /// As [`path_patching`] lists them.
    pub fn check(&self, config: &ModelConfig, prompts: &PairedPrompts) -> Result<(), EngineError> {
        let mismatch = |what: &str, expected: &str, found: String| {
            Err(EngineError::Mismatch { what: what.into(), expected: expected.into(), found })
        };
        if let (Nodes::Every(sender), Nodes::Every(receiver)) = (&self.senders, &self.receivers) {
            let found = format!("all of {sender} and all of {receiver}");
            return mismatch("senders and receivers", "every node of at most one of them", found);
        }
        let (senders, receivers) = (self.senders.list(config), self.receivers.list(config));
        for (name, nodes) in [("senders", &senders), ("receivers", &receivers)] {
            let distinct: BTreeSet<&Node> = nodes.iter().collect();
            if nodes.is_empty() || distinct.len() < nodes.len() {
                return mismatch(name, "at least one node, and none of them twice", format!("{} nodes", nodes.len()));
            }
        }
        self.senders.check(End::Sender, config)?;
        self.receivers.check(End::Receiver, config)?;
        if self.method == Method::TwoSteps
            && let Some(node) = receivers.iter().find(|node| node.component == Component::MlpPre)
        {
            return mismatch("receiver of two steps", "no pre: the change goes past the MLPs", node.to_string());
        }
        if self.method == Method::TwoSteps && self.layer_wide {
            return mismatch("layer_wide", "three steps", "two steps".into());
        }
        self.check_order(&senders, &receivers, config)?;
        for (prompt, &sequence) in prompts.clean.iter().enumerate() {
            let len = prompts.sequences[sequence].len();
            let check = |position: usize| PatchPositions::One(position).check(&prompts.name, prompt, len);
            match &self.positions {
                SenderPositions::One(position) => check(*position)?,
                SenderPositions::PerPrompt(lists) => {
                    lists.get(prompt).into_iter().flatten().try_for_each(|&p| check(p))?
                }
                SenderPositions::All | SenderPositions::Each => {}
            }
        }
        match &self.positions {
            SenderPositions::PerPrompt(lists) if lists.len() != prompts.clean.len() => {
                mismatch("lists of positions", &prompts.clean.len().to_string(), lists.len().to_string())
            }
            _ => Ok(()),
        }
    }

    /// Every fixed node must have something to do; of a map's nodes, some.
    fn check_order(&self, senders: &[Node], receivers: &[Node], config: &ModelConfig) -> Result<(), EngineError> {
        let never = |node: &Node, reason: &str| {
            Err(EngineError::NeverFires { site: node.site().to_string(), reason: format!("{node} {reason}") })
        };
        let reaches = |sender: &Node| receivers.iter().any(|receiver| receiver.comes_after(*sender, config));
        let unreached = |receiver: &&Node| !senders.iter().any(|sender| receiver.comes_after(*sender, config));
        if let (Nodes::Together(_), Some(node)) = (&self.receivers, receivers.iter().find(unreached)) {
            return never(node, "as a receiver comes before every sender");
        }
        if let (Nodes::Together(_), Some(node)) = (&self.senders, senders.iter().find(|sender| !reaches(sender))) {
            return never(node, "as a sender comes behind every receiver");
        }
        Ok(())
    }

    /// The paths on a range of the dataset's prompts.
    fn part(&self, range: &std::ops::Range<usize>) -> Self {
        let positions = match &self.positions {
            SenderPositions::PerPrompt(lists) => SenderPositions::PerPrompt(lists[range.clone()].to_vec()),
            other => other.clone(),
        };
        Self { positions, ..self.clone() }
    }

    /// What a run has to capture.
    fn captured(&self, config: &ModelConfig) -> Vec<Site> {
        let n_layers = config.n_layers;
        let mut sites = BTreeSet::from([Site::resid(n_layers, n_layers)]);
        for layer in 0..n_layers {
            sites.extend([Site::ResidPre(layer), Site::AttnOut(layer)]);
            if self.method == (Method::ThreeSteps { mlps: false }) {
                sites.insert(Site::MlpPost(layer));
            }
        }
        let received = self.receivers.list(config).into_iter().flat_map(Node::received);
        let nodes = self.senders.list(config).into_iter().chain(received);
        sites.extend(nodes.map(|node| node.site().canonical(n_layers)));
        // Where a second pass enters behind the attention.
        if self
            .receivers
            .list(config)
            .iter()
            .any(|node| matches!(node.component, Component::MlpPre | Component::ResidMid))
        {
            sites.extend((0..n_layers).map(Site::Z));
        }
        sites.into_iter().collect()
    }

    /// Names and lengths of the map's axes.
    ///
    /// # Errors
    /// Prompts of unequal length, when there is an axis of positions.
    pub fn axes(
        &self,
        config: &ModelConfig,
        prompts: &PairedPrompts,
    ) -> Result<(Vec<&'static str>, Vec<usize>), EngineError> {
        let (mut axes, mut shape) = (Vec::new(), Vec::new());
        if self.positions == SenderPositions::Each {
            axes.push("position");
            shape.push(common_length(prompts)?);
        }
        for nodes in [&self.senders, &self.receivers] {
            if let Nodes::Every(component) = nodes {
                axes.push("layer");
                shape.push(config.n_layers);
                if let Some(name) = component.part_name() {
                    axes.push(name);
                    shape.push(component.n_parts(config));
                }
            }
        }
        Ok((axes, shape))
    }

    /// The numbers of a map, in its order: positions, then layers, then parts.
    fn cases(&self, config: &ModelConfig, prompts: &PairedPrompts) -> Result<Vec<Case>, EngineError> {
        let len = |prompt: usize| prompts.sequences[prompts.clean[prompt]].len();
        let lists = |of: &dyn Fn(usize) -> Vec<usize>| -> Vec<Vec<usize>> {
            (0..prompts.clean.len())
                .map(|prompt| {
                    let first = prompts.first_difference(prompt);
                    of(prompt).into_iter().filter(|position| *position >= first).collect()
                })
                .collect()
        };
        let positions: Vec<Vec<Vec<usize>>> = match &self.positions {
            SenderPositions::All => vec![lists(&|prompt| (0..len(prompt)).collect())],
            SenderPositions::One(position) => vec![lists(&|_| vec![*position])],
            SenderPositions::PerPrompt(all) => vec![lists(&|prompt| all[prompt].clone())],
            SenderPositions::Each => (0..common_length(prompts)?).map(|p| lists(&|_| vec![p])).collect(),
        };
        let sets = |nodes: &Nodes| nodes.sets(config);
        let mut cases = Vec::new();
        for positions in positions {
            let last = |prompt: usize| positions[prompt].iter().copied().filter(|p| p + 1 == len(prompt)).collect();
            let at_last: Arc<Vec<Vec<usize>>> = Arc::new((0..positions.len()).map(last).collect());
            let positions = Arc::new(positions);
            for senders in sets(&self.senders) {
                for receivers in sets(&self.receivers) {
                    let received = receivers.iter().flat_map(|node| node.received());
                    let reached = |receiver: &Node| senders.iter().any(|s| receiver.comes_after(*s, config));
                    let receivers: Vec<Node> = received.filter(reached).collect();
                    let last_alone = receivers.iter().all(|node| node.last_alone(config));
                    let positions = if last_alone { at_last.clone() } else { positions.clone() };
                    cases.push(Case { senders: senders.clone(), receivers, positions });
                }
            }
        }
        Ok(cases)
    }
}
