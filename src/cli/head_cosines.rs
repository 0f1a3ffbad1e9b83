//! `head-cosines`.

use super::common::{distinct, prompt_positions};
use super::maps::{MadeMaps, MapArgs, MapCommand, Named};
use crate::backend::Backend;
use crate::choice::serde_by_text;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Flops, Layout};
use crate::experiments::head_cosines::{HeadNode, head_cosines};
use crate::model::Model;
use crate::report::ResultMap;
use anyhow::{Result, bail};
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// Arguments of `head-cosines`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Example:
  actpatch head-cosines --models gpt2-small --nodes 0.4@ADJ,0.4@VRB,7.1@END,9.2@END,10.1@END,10.4@END

What a head writes at a position in the clean prompts less what it writes in the corrupted ones (the other way round where
the clean one is negative), each through the scale of its block's norm there, averaged over the prompts; cosines of these
changes with each other.
Files in DATA_DIR/<model>/: head_cosines_cosine_<dataset>_<scaffold>_<nodes>.npy and .csv (node, other node), .svg, .png and
.html.")]
pub struct Args {
    #[command(flatten)]
    pub shared: MapArgs,
    /// Heads at positions: layer.head@POSITION, a placeholder, END or a number.
    #[arg(long, value_delimiter = ',', required = true)]
    pub nodes: Vec<Node>,
}

/// A head at a position, as it is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    layer: usize,
    head: usize,
    position: String,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{}", self.layer, self.head, self.position)
    }
}

impl FromStr for Node {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let node = || {
            let (place, position) = text.split_once('@').filter(|(_, position)| !position.is_empty())?;
            let (layer, head) = place.split_once('.')?;
            Some(Self { layer: layer.parse().ok()?, head: head.parse().ok()?, position: position.into() })
        };
        node().ok_or_else(|| format!("expected layer.head@POSITION, such as 9.2@END, found {text:?}"))
    }
}

serde_by_text!(Node);

impl Args {
    fn nodes(&self, model: &Model, prompts: &PairedPrompts) -> Result<Vec<HeadNode>> {
        let config = &model.config;
        let node = |node: &Node| {
            let Node { layer, head, ref position } = *node;
            if layer >= config.n_layers || head >= config.n_heads {
                let (layers, heads) = (config.n_layers, config.n_heads);
                bail!("--nodes: the model has layers 0..{layers} and heads 0..{heads}, found {node}");
            }
            Ok(HeadNode { layer, head, positions: prompt_positions("--nodes", prompts, position)? })
        };
        distinct(&self.nodes).iter().map(node).collect()
    }
}

impl MapCommand for Args {
    const NAME: &'static str = "head-cosines";
    type Kind = ();

    fn shared(&self) -> &MapArgs {
        &self.shared
    }

    fn kinds(&self, model: &Model, prompts: &PairedPrompts) -> Result<Vec<()>> {
        self.nodes(model, prompts).map(|_| vec![()])
    }

    fn stem(&self, (): &(), set: &str) -> String {
        let nodes = distinct(&self.nodes).iter().map(Node::to_string).collect::<Vec<_>>().join("-");
        self.shared.stem("head_cosines", &nodes, "cosine", set)
    }

    fn plan(&self, model: &Model, prompts: &PairedPrompts, _: &[()]) -> Result<String> {
        let layout = Layout::new(prompts.sequences.iter().map(|sequence| (0, sequence.len())));
        let pass = Flops::forward(&model.config, &layout, 0, 1);
        Ok(format!("{} nodes, one pass over {} prompts, {pass}\n", self.nodes.len(), prompts.sequences.len()))
    }
}

impl MadeMaps for Args {
    fn make<B: Backend>(&self, engine: &Engine<B>, prompts: &PairedPrompts, _: &[()]) -> Result<Vec<Named>> {
        let nodes = self.nodes(engine.model(), prompts)?;
        let values = head_cosines(engine, prompts, &nodes, engine.memory_budget())?;
        let components: Vec<String> = distinct(&self.nodes).iter().map(Node::to_string).collect();
        let shape = vec![nodes.len(), nodes.len()];
        let map = ResultMap { axes: vec!["node", "other_node"], shape, components, unit: "cosine", values };
        let title = format!("Changes that heads write on {}, {}", prompts.name, engine.model().name);
        Ok(vec![Named::new(self.stem(&(), &prompts.name), map, &title, "cosine", prompts)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_recorded_by_their_names() {
        let node: Node = serde_json::from_value("9.2@END".into()).unwrap();
        assert_eq!(node, Node { layer: 9, head: 2, position: "END".into() });
        assert_eq!(serde_json::to_value(&node).unwrap(), "9.2@END");
    }
}
