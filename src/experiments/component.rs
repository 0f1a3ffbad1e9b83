//! Activations that exist once per block, under TransformerLens' short names.

use crate::choice::choices;
use crate::engine::{Part, Site};
use crate::model::ModelConfig;

choices! {
    /// An activation of every block.
    pub enum Component {
        /// `attn.hook_z`, one part per head.
        Z = "z",
        /// `attn.hook_q`, one part per head.
        Q = "q",
        /// `attn.hook_k`, one part per key-value head.
        K = "k",
        /// `attn.hook_v`, one part per key-value head.
        V = "v",
        /// `attn.hook_pattern`, one part per head.
        Pattern = "pattern",
        /// `hook_resid_pre`.
        ResidPre = "resid_pre",
        /// `hook_resid_mid`.
        ResidMid = "resid_mid",
        /// `hook_resid_post`.
        ResidPost = "resid_post",
        /// `hook_attn_out`.
        AttnOut = "attn_out",
        /// `hook_mlp_out`.
        MlpOut = "mlp_out",
        /// `mlp.hook_pre`, one part per neuron.
        MlpPre = "pre",
        /// `mlp.hook_post`, one part per neuron.
        MlpPost = "post",
    }
}

impl Component {
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
