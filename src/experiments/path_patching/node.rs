//! Nodes of the computation: senders, receivers, and which can reach which.

use crate::choice::{Malformed, serde_by_text};
use crate::engine::{EngineError, Part, Site};
use crate::experiments::component::Component;
use crate::model::ModelConfig;
use crate::types::numbers;
use std::fmt;
use std::str::FromStr;

/// An activation of one block, or one head or neuron of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// Which activation.
    pub component: Component,
    /// Of which block.
    pub layer: usize,
    /// Which part of it.
    pub part: Part,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.component, self.layer)?;
        match self.part {
            Part::All => Ok(()),
            Part::Head(number) | Part::Neuron(number) => write!(f, ".{number}"),
        }
    }
}

/// Nodes by pattern: `z` is every head of every layer, `z:9` all heads of layer 9 together, `z:9.2` one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePattern {
    /// Every layer and part, one after the other.
    Every(Component),
    /// One node.
    One(Node),
}

impl fmt::Display for NodePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NodePattern::Every(component) => component.fmt(f),
            NodePattern::One(node) => node.fmt(f),
        }
    }
}

impl FromStr for NodePattern {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bad = |reason: String| Malformed::from(format!("node {text:?}: {reason}"));
        let component = |name: &str| name.parse::<Component>().map_err(|unknown| bad(unknown.to_string()));
        if let Some((_, position)) = text.split_once('@') {
            return Err(bad(format!("expected no position behind a node here, found \"@{position}\"")));
        }
        // A head alone, 9.2, is what it writes.
        let is_head = text.split_once('.').is_some_and(|(layer, _)| layer.bytes().all(|byte| byte.is_ascii_digit()));
        let Some((name, place)) = text.split_once(':').or(is_head.then_some((Component::Z.name(), text))) else {
            return Ok(NodePattern::Every(component(text)?));
        };
        let component = component(name)?;
        let number = |digits: &str| {
            let expected = || bad(format!("expected a layer or layer.part behind the colon, found {place:?}"));
            digits.parse::<usize>().map_err(|_| expected())
        };
        let (layer, part) = match place.split_once('.') {
            None => (number(place)?, Part::All),
            Some(_) if component.part_name().is_none() => return Err(bad(format!("{component} has no parts"))),
            Some((layer, part)) => (number(layer)?, component.part(number(part)?)),
        };
        Ok(NodePattern::One(Node { component, layer, part }))
    }
}

serde_by_text!(NodePattern);

/// Which end of a path a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Takes its value from the other run.
    Sender,
    /// Passes on what the senders have changed.
    Receiver,
}

impl Node {
    /// Where the node is.
    pub fn site(self) -> Site {
        self.component.site(self.layer)
    }

    /// The nodes of a component: every layer, and every part of those that have any.
    pub fn every(component: Component, config: &ModelConfig) -> Vec<Node> {
        let parts = component.parts(config);
        let of_layer = |layer| parts.iter().map(move |&part| Node { component, layer, part });
        (0..config.n_layers).flat_map(of_layer).collect()
    }

    /// Place in the forward pass. A sender reaches the receivers whose place is behind its own.
    fn place(self, config: &ModelConfig) -> usize {
        use Component::*;
        let step = match self.component {
            ResidPre => 0,
            Q | K | V | Pattern | Z => 1,
            // A parallel MLP reads what the attention reads.
            MlpPre if config.parallel_residual => 1,
            AttnOut => 2,
            ResidMid => 3,
            MlpPre | MlpPost => 4,
            MlpOut => 5,
            ResidPost => 6,
        };
        6 * self.layer + step
    }

    /// Can the sender change what this receiver gets?
    pub(super) fn comes_after(self, sender: Node, config: &ModelConfig) -> bool {
        sender.place(config) < self.place(config)
    }

    /// In the last block behind its keys and values, only the last position reaches the logits.
    pub(super) fn last_alone(self, config: &ModelConfig) -> bool {
        self.layer + 1 == config.n_layers && self.site().behind_keys()
    }

    /// Is the node there, and can it be this end of a path?
    ///
    /// # Errors
    /// [`EngineError::NoSuchSite`] and [`EngineError::Mismatch`].
    pub(super) fn check(self, end: End, config: &ModelConfig) -> Result<(), EngineError> {
        use Component::*;
        self.site().check(config)?;
        let (role, fits, expected) = match end {
            End::Sender => (
                "sender",
                matches!(self.component, Z | AttnOut | MlpPost | MlpOut | ResidPre | ResidMid | ResidPost),
                "z, attn_out, post, mlp_out, resid_pre, resid_mid or resid_post",
            ),
            End::Receiver => (
                "receiver",
                matches!(self.component, Q | K | V | Pattern | MlpPre | ResidPre | ResidMid | ResidPost),
                "q, k, v, pattern, pre, resid_pre, resid_mid or resid_post",
            ),
        };
        let mismatch =
            |what: String, expected: String, found: String| Err(EngineError::Mismatch { what, expected, found });
        if !fits {
            return mismatch(role.into(), expected.into(), self.to_string());
        }
        let n_parts = self.component.n_parts(config);
        if let Part::Head(number) | Part::Neuron(number) = self.part
            && number >= n_parts
        {
            let name = self.component.part_name().unwrap_or("part");
            return mismatch(format!("{name} of {role} {self}"), numbers(n_parts), number.to_string());
        }
        if self.component == Pattern && config.n_kv_heads < config.n_heads && self.part != Part::All {
            let expected = "q and k receivers: heads share keys in this model".into();
            return mismatch(format!("{role} {self}"), expected, "a pattern".into());
        }
        Ok(())
    }

    /// What stands for this receiver: of a pattern, its query and its key.
    pub(super) fn received(self) -> Vec<Node> {
        match self.component {
            Component::Pattern => [Component::Q, Component::K].map(|component| Node { component, ..self }).to_vec(),
            _ => vec![self],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_parse_back() {
        for text in ["z", "resid_post", "z:9", "z:10.11", "post:3.3071", "mlp_out:0"] {
            assert_eq!(text.parse::<NodePattern>().unwrap().to_string(), text);
            let pattern: NodePattern = serde_json::from_value(text.into()).unwrap();
            assert_eq!(serde_json::to_value(pattern).unwrap(), text);
        }
        assert_eq!("10.11".parse::<NodePattern>().unwrap().to_string(), "z:10.11");
        for (text, expected) in [
            ("", "expected one of z"),
            ("w", "expected one of z"),
            ("z:", "layer.part"),
            (".2", "layer.part"),
            ("9.", "layer.part"),
            ("z:a.1", "layer.part"),
            ("z:1.b", "layer.part"),
            ("mlp_out:1.2", "has no parts"),
        ] {
            let message = text.parse::<NodePattern>().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
