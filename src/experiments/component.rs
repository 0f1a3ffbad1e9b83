//! Activations that exist once per block, under TransformerLens' short names.

use crate::engine::{Part, Site};
use crate::model::ModelConfig;
use std::fmt;
use std::str::FromStr;

/// An activation of every block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// `attn.hook_z`, one part per head.
    Z,
    /// `attn.hook_q`, one part per head.
    Q,
    /// `attn.hook_k`, one part per key-value head.
    K,
    /// `attn.hook_v`, one part per key-value head.
    V,
    /// `attn.hook_pattern`, one part per head.
    Pattern,
    /// `hook_resid_pre`.
    ResidPre,
    /// `hook_resid_mid`.
    ResidMid,
    /// `hook_resid_post`.
    ResidPost,
    /// `hook_attn_out`.
    AttnOut,
    /// `hook_mlp_out`.
    MlpOut,
    /// `mlp.hook_pre`, one part per neuron.
    MlpPre,
    /// `mlp.hook_post`, one part per neuron.
    MlpPost,
}

impl Component {
    /// All of them.
    pub const ALL: [Component; 12] = {
        use Component::*;
        [Z, Q, K, V, Pattern, ResidPre, ResidMid, ResidPost, AttnOut, MlpOut, MlpPre, MlpPost]
    };

    /// TransformerLens' short name.
    pub fn name(self) -> &'static str {
        match self {
            Component::Z => "z",
            Component::Q => "q",
            Component::K => "k",
            Component::V => "v",
            Component::Pattern => "pattern",
            Component::ResidPre => "resid_pre",
            Component::ResidMid => "resid_mid",
            Component::ResidPost => "resid_post",
            Component::AttnOut => "attn_out",
            Component::MlpOut => "mlp_out",
            Component::MlpPre => "pre",
            Component::MlpPost => "post",
        }
    }

    /// The site in block `layer`.
    pub fn site(self, layer: usize) -> Site {
        match self {
            Component::Z => Site::Z(layer),
            Component::Q => Site::Q(layer),
            Component::K => Site::K(layer),
            Component::V => Site::V(layer),
            Component::Pattern => Site::Pattern(layer),
            Component::ResidPre => Site::ResidPre(layer),
            Component::ResidMid => Site::ResidMid(layer),
            Component::ResidPost => Site::ResidPost(layer),
            Component::AttnOut => Site::AttnOut(layer),
            Component::MlpOut => Site::MlpOut(layer),
            Component::MlpPre => Site::MlpPre(layer),
            Component::MlpPost => Site::MlpPost(layer),
        }
    }

    /// What its parts are called: `head`, `neuron`, or nothing when it has none.
    pub fn part_name(self) -> Option<&'static str> {
        match self {
            Component::MlpPre | Component::MlpPost => Some("neuron"),
            _ => self.site(0).has_heads().then_some("head"),
        }
    }

    /// One of its parts.
    pub fn part(self, number: usize) -> Part {
        if self.part_name() == Some("neuron") { Part::Neuron(number) } else { Part::Head(number) }
    }

    /// How many parts it has in a model; none if it is one whole.
    pub fn n_parts(self, config: &ModelConfig) -> usize {
        match self.part_name() {
            Some("neuron") => config.d_mlp,
            _ => self.site(0).n_heads(config),
        }
    }

    /// Every part, or all of it at once if it has none.
    pub fn parts(self, config: &ModelConfig) -> Vec<Part> {
        match self.part_name() {
            None => vec![Part::All],
            Some(_) => (0..self.n_parts(config)).map(|number| self.part(number)).collect(),
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Component {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Component::ALL.map(Component::name).join(", ");
        let found = Component::ALL.into_iter().find(|component| component.name() == text);
        found.ok_or_else(|| format!("expected one of {known}, found {text:?}"))
    }
}
