//! Neuron cosines: what neurons write, beside directions.

use super::fields::list;
use super::maps::{Asked, Maps, Named, kept, redraw, write_map};
use super::{Notes, Plan, Study, bytes};
use crate::engine::Flops;
use crate::experiments::neuron_cosines::neuron_cosines;
use crate::files::sha256;
use crate::report::ResultMap;
use crate::report::figure::{Axis, Facet, Figure, Histogram, Plot};
use crate::session::{Observer, Progress, Session, note_kept, wrong};
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Takes the cosines of what neurons write, the rows of W_out, with directions; the model does not run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NeuronCosines {
    /// Directions by name, `*` and `?` match anything.
    #[serde(deserialize_with = "list")]
    pub directions: Vec<String>,
}

/// The direction of a map: its name, and `d_model` values of unit length.
struct Along {
    name: String,
    direction: Vec<f32>,
}

/// Bins of the histogram.
const BINS: usize = 100;

impl NeuronCosines {
    /// The map of every direction, if it is there already.
    fn asked(&self, session: &Session, observer: &mut dyn Observer) -> Result<Vec<Asked<Along>>> {
        self.validate()?;
        let mut all = Vec::new();
        for (name, direction) in session.unit_directions(&self.directions)? {
            let name = name.to_string();
            let stem = format!("neuron_cosines_{name}");
            let hash = sha256(bytemuck::cast_slice(&direction));
            let provenance = session.provenance(Self::NAME)?.with("direction", hash)?;
            let draw = |named: &Named| Ok(figure(session, &name, &named.map));
            let kept = kept(session, &stem, &provenance, draw, |_, _| None, observer)?;
            all.push(Asked { kind: Along { name, direction }, stem, provenance, kept });
        }
        let there = all.iter().filter(|asked| asked.kept.is_some()).count();
        note_kept(observer, there, "maps", session.folder());
        Ok(all)
    }
}

impl Study for NeuronCosines {
    const NAME: &'static str = "neuron-cosines";
    type Outcome = Maps;

    fn validate(&self) -> Result<()> {
        if self.directions.is_empty() {
            wrong!("directions", "expected names of stored directions, found none");
        }
        Ok(())
    }

    fn plan(&self, session: &Session) -> Result<Plan> {
        let mut notes = Notes::default();
        let asked = self.asked(session, &mut notes)?;
        let wanted = asked.iter().filter(|asked| asked.kept.is_none()).count();
        let neurons = session.config().n_layers * session.config().d_mlp;
        if wanted == 0 {
            return Ok(Plan::nothing(session).with(notes));
        }
        let flops = Flops(2 * (wanted * neurons * session.config().d_model) as u64);
        let memory = session.planned_memory(wanted * neurons);
        let cost = format!("{flops}, about {} of memory", bytes(memory));
        let text = format!("{}: {wanted} directions, {neurons} neurons, {cost}\n", session.model().name);
        Ok(Plan::of(text).costing(flops, Some(memory)).with(notes))
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Maps> {
        let mut asked = self.asked(session, observer)?;
        redraw(session, &asked)?;
        let mut manifest = None;
        let mut wanted: Vec<&mut Asked<Along>> = asked.iter_mut().filter(|asked| asked.kept.is_none()).collect();
        if !wanted.is_empty() {
            let mut started = session.manifest(Self::NAME, self)?;
            let directions: Vec<Vec<f32>> = wanted.iter().map(|asked| asked.kind.direction.clone()).collect();
            let mut progress = Progress::new(observer, "reading neurons", session.config().n_layers);
            let found = session.in_pool(|| neuron_cosines(session.model(), &directions, |done| progress.set(done)))?;
            for (asked, values) in wanted.iter_mut().zip(found) {
                let shape = vec![session.config().n_layers, session.config().d_mlp];
                let map = ResultMap::new(&["layer", "neuron"], shape, "cosine", values);
                let figure = figure(session, &asked.kind.name, &map);
                let named = Named { figure, ..Named::new(asked.stem.clone(), map) };
                write_map(session, &named, &asked.provenance, &mut started)?;
                asked.kept = Some(named);
            }
            manifest = Some(started.finish()?);
        }
        let maps = asked.into_iter().filter_map(|asked| asked.kept).collect();
        Ok(Maps { model: session.model().name.clone(), maps, manifest })
    }
}

/// The largest cosines with a direction as bars, and all of them as a histogram.
fn figure(session: &Session, direction: &str, map: &ResultMap) -> Option<Figure> {
    let title = format!("Neurons' output along {direction}, {}", session.model().name);
    let mut figure = map.figure(&title, "cosine", &[])?;
    figure.facets.push(histogram(&map.values));
    Some(figure)
}

fn histogram(values: &[f64]) -> Facet {
    let most = values.iter().fold(0.0, |most: f64, value| most.max(value.abs())).max(f64::MIN_POSITIVE);
    let width = 2.0 * most / BINS as f64;
    let mut shares = vec![0.0; BINS];
    for value in values {
        shares[(((value + most) / width) as usize).min(BINS - 1)] += 100.0 / values.len() as f64;
    }
    let edges = (0..=BINS).map(|edge| edge as f64 * width - most).collect();
    let plot = Plot::Histogram(Histogram { edges, series: vec![("neurons".into(), shares)] });
    Facet { title: "all neurons".into(), x: Axis::new("cosine"), y: Axis::new("share of neurons (%)"), plot }
}
