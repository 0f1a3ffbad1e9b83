//! Head cosines: how alike the changes are that heads write when prompts are corrupted.

use super::fields::{list, not_empty};
use super::heads::{HeadAtPosition, check_head};
use super::maps::{AskedSet, MadeMaps, MapSets, MapStudy, Named, maps_study, pass, position_labels};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Flops};
use crate::experiments::head_cosines::{HeadNode, head_cosines};
use crate::report::ResultMap;
use crate::report::figure::Figure;
use crate::session::{Observer, Provenance, Session, distinct, need_classes, wrong};
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Compares the changes that heads write when prompts are corrupted.
///
/// What a head writes at a position in the clean prompts less what it writes in the corrupted ones (the other way round
/// where the clean one is negative), each through the scale of its block's norm there, averaged over the prompts;
/// cosines of these changes with each other.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeadCosines {
    /// Which datasets.
    #[serde(flatten)]
    pub sets: MapSets,
    /// Heads at positions: layer.head@POSITION, a placeholder, END or a number.
    #[serde(deserialize_with = "list")]
    pub nodes: Vec<HeadAtPosition>,
}

impl HeadCosines {
    fn nodes(&self, session: &Session, prompts: &PairedPrompts) -> Result<Vec<HeadNode>> {
        let node = |node: &HeadAtPosition| {
            check_head("nodes", session.config(), node.head, node)?;
            let (layer, head) = node.head;
            Ok(HeadNode { layer, head, positions: session.prompt_positions("nodes", prompts, &node.position)? })
        };
        distinct(&self.nodes).iter().map(node).collect()
    }

    fn names(&self) -> Vec<String> {
        distinct(&self.nodes).iter().map(HeadAtPosition::to_string).collect()
    }
}

maps_study!(HeadCosines, "head-cosines", {
    fn validate(&self) -> Result<()> {
        if self.nodes.is_empty() {
            wrong!("nodes", "expected heads at positions, such as 9.2@END, found none");
        }
        Ok(not_empty(&[self.sets.counted()])?)
    }
});

impl MapStudy for HeadCosines {
    type Kind = ();

    fn sets(&self) -> &MapSets {
        &self.sets
    }

    fn kinds(&self, session: &Session, prompts: &PairedPrompts) -> Result<Vec<()>> {
        need_classes("eval_sets", prompts, "turning the changes of negative prompts round")?;
        self.nodes(session, prompts).map(|_| vec![()])
    }

    fn stem(&self, session: &Session, (): &(), set: &str) -> String {
        self.sets.stem(session, "head_cosines", &self.names().join("-"), "cosine", set)
    }

    fn depends(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        (): &(),
        provenance: Provenance,
    ) -> Result<Provenance> {
        let positions: Vec<Vec<usize>> = self.nodes(session, prompts)?.into_iter().map(|node| node.positions).collect();
        provenance.with("positions", positions)
    }

    fn planned(&self, session: &Session, prompts: &PairedPrompts, _: &[()]) -> Result<(String, Flops)> {
        let pass = pass(session.config(), &prompts.sequences);
        Ok((format!("{} nodes, one pass over {} prompts\n", self.nodes.len(), prompts.sequences.len()), pass))
    }

    fn figure(&self, session: &Session, prompts: &PairedPrompts, (): &(), map: &ResultMap) -> Result<Option<Figure>> {
        let title = format!("Changes that heads write on {}, {}", prompts.name, session.model().name);
        Ok(map.figure(&title, "cosine", &position_labels(prompts)))
    }
}

impl MadeMaps for HeadCosines {
    fn make<B: Backend>(
        &self,
        session: &Session,
        engine: &Engine<B>,
        set: &AskedSet<()>,
        _: &mut dyn Observer,
    ) -> Result<Vec<Named>> {
        let prompts = &set.prompts;
        let nodes = self.nodes(session, prompts)?;
        let values = head_cosines(engine, prompts, &nodes, engine.memory_budget())?;
        let shape = vec![nodes.len(), nodes.len()];
        let map = ResultMap::new(&["node", "other_node"], shape, "cosine", values).with_components(self.names());
        Ok(vec![Named::new(self.stem(session, &(), &prompts.name), map)])
    }
}
