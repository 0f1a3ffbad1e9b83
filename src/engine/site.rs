//! Where an activation can be captured or patched, under its TransformerLens hook name.

use super::EngineError;
use crate::choice::serde_by_text;
use crate::model::ModelConfig;
use crate::types::numbers;
use std::fmt;
use std::str::FromStr;

/// Where a resumed row enters the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// The first block that is computed.
    pub(super) layer: usize,
    /// Its attention is that of the captured run: the row enters at `hook_z`.
    pub(super) behind_attention: bool,
}

/// A place in the forward pass. Displayed and parsed as the TransformerLens hook name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// `hook_embed`: the token's embedding, `d_model` wide.
    Embed,
    /// `hook_pos_embed`: the learned position vector, `d_model` wide; only with learned positions.
    PosEmbed,
    /// `blocks.{l}.hook_resid_pre`, `d_model` wide.
    ResidPre(usize),
    /// `blocks.{l}.hook_q_input`: what a head's query is computed from, `d_model` wide per head. Never stored: without a
    /// patch it is `hook_resid_pre`.
    QInput(usize),
    /// `blocks.{l}.hook_k_input`: the same for a key-value head's key.
    KInput(usize),
    /// `blocks.{l}.hook_v_input`: the same for a key-value head's value.
    VInput(usize),
    /// `blocks.{l}.attn.hook_q`, before the query's norm (if the model has one) and the rotary embedding,
    /// `n_heads * d_head` wide.
    Q(usize),
    /// `blocks.{l}.attn.hook_k`, before the rotary embedding, `n_kv_heads * d_head` wide.
    K(usize),
    /// `blocks.{l}.attn.hook_v`, `n_kv_heads * d_head` wide.
    V(usize),
    /// `blocks.{l}.attn.hook_pattern`: attention probabilities, one row of keys per head and query.
    Pattern(usize),
    /// `blocks.{l}.attn.hook_z`: each head's mix of values, `n_heads * d_head` wide.
    Z(usize),
    /// `blocks.{l}.attn.hook_result`: each head's output in the residual stream. Never stored: patched through `z`.
    Result(usize),
    /// `blocks.{l}.hook_attn_out`, `d_model` wide.
    AttnOut(usize),
    /// `blocks.{l}.hook_resid_mid`, `d_model` wide; does not exist in models with a parallel residual.
    ResidMid(usize),
    /// `blocks.{l}.mlp.hook_pre`, `d_mlp` wide: what the activation acts on, in a gated MLP the gate `x W_gate`.
    MlpPre(usize),
    /// `blocks.{l}.mlp.hook_post`, `d_mlp` wide: what `W_out` reads, in a gated MLP `f(x W_gate) * (x W_in)`.
    MlpPost(usize),
    /// `blocks.{l}.hook_mlp_out`, `d_model` wide.
    MlpOut(usize),
    /// `blocks.{l}.hook_resid_post`: the same value as the next block's `hook_resid_pre`.
    ResidPost(usize),
    /// `ln_final.hook_normalized`, `d_model` wide: before the gain and bias, if those were not folded away.
    FinalNormalized,
}

/// Makes the site of a given block.
type BlockSite = fn(usize) -> Site;

/// The part of a hook name behind the block, and the site it names.
const BLOCK_SITES: [(&str, BlockSite); 16] = [
    ("hook_resid_pre", Site::ResidPre),
    ("hook_q_input", Site::QInput),
    ("hook_k_input", Site::KInput),
    ("hook_v_input", Site::VInput),
    ("attn.hook_q", Site::Q),
    ("attn.hook_k", Site::K),
    ("attn.hook_v", Site::V),
    ("attn.hook_pattern", Site::Pattern),
    ("attn.hook_z", Site::Z),
    ("attn.hook_result", Site::Result),
    ("hook_attn_out", Site::AttnOut),
    ("hook_resid_mid", Site::ResidMid),
    ("mlp.hook_pre", Site::MlpPre),
    ("mlp.hook_post", Site::MlpPost),
    ("hook_mlp_out", Site::MlpOut),
    ("hook_resid_post", Site::ResidPost),
];

impl Site {
    /// The residual stream in front of block `layer`; behind the last block for `layer == n_layers`.
    pub fn resid(layer: usize, n_layers: usize) -> Self {
        if layer < n_layers { Site::ResidPre(layer) } else { Site::ResidPost(n_layers.saturating_sub(1)) }
    }

    /// The block this site belongs to.
    pub fn layer(self) -> Option<usize> {
        use Site::*;
        match self {
            Embed | PosEmbed | FinalNormalized => None,
            ResidPre(l) | QInput(l) | KInput(l) | VInput(l) | Q(l) | K(l) | V(l) | Pattern(l) | Z(l) | Result(l)
            | AttnOut(l) | ResidMid(l) | MlpPre(l) | MlpPost(l) | MlpOut(l) | ResidPost(l) => Some(l),
        }
    }

    /// One name per tensor: a block's `hook_resid_post` is the next one's `hook_resid_pre`.
    pub(crate) fn canonical(self, n_layers: usize) -> Self {
        match self {
            Site::ResidPost(l) if l + 1 < n_layers => Site::ResidPre(l + 1),
            other => other,
        }
    }

    /// Values per token.
    pub fn width(self, config: &ModelConfig) -> usize {
        match self {
            Site::Q(_) | Site::Z(_) => config.d_attn(),
            Site::K(_) | Site::V(_) => config.d_kv(),
            Site::MlpPre(_) | Site::MlpPost(_) => config.d_mlp,
            _ => config.d_model,
        }
    }

    /// Is it the residual stream, wherever in a block?
    pub fn is_residual(self) -> bool {
        matches!(self, Site::ResidPre(_) | Site::ResidMid(_) | Site::ResidPost(_))
    }

    /// Does the site have one part per head?
    pub fn has_heads(self) -> bool {
        use Site::*;
        matches!(self, QInput(_) | KInput(_) | VInput(_) | Q(_) | K(_) | V(_) | Z(_) | Pattern(_) | Result(_))
    }

    /// How many parts that is: keys and values have one per key-value head.
    pub fn n_heads(self, config: &ModelConfig) -> usize {
        match self {
            Site::K(_) | Site::V(_) | Site::KInput(_) | Site::VInput(_) => config.n_kv_heads,
            _ if self.has_heads() => config.n_heads,
            _ => 0,
        }
    }

    /// Where a row enters the stack when this (canonical) site is patched.
    pub(super) fn entry(self, n_layers: usize) -> Entry {
        let behind_attention = matches!(
            self,
            Site::Z(_) | Site::Result(_) | Site::AttnOut(_) | Site::ResidMid(_) | Site::MlpPre(_) | Site::MlpPost(_)
        ) || matches!(self, Site::MlpOut(_));
        let layer = match self {
            Site::ResidPost(_) | Site::FinalNormalized => n_layers,
            site => site.layer().unwrap_or(0),
        };
        Entry { layer, behind_attention }
    }

    /// The site whose captured values stand for this one's, if it is never stored itself.
    pub(crate) fn stored(self) -> Self {
        match self {
            Site::Result(layer) => Site::Z(layer),
            Site::QInput(layer) | Site::KInput(layer) | Site::VInput(layer) => Site::ResidPre(layer),
            site => site,
        }
    }

    /// Is the site computed after the keys and values of its block: the part of the last block that only the last
    /// position needs?
    pub(crate) fn behind_keys(self) -> bool {
        use Site::*;
        !matches!(self, Embed | PosEmbed | ResidPre(_) | KInput(_) | VInput(_) | K(_) | V(_))
    }

    /// Every site that a pass over this model can be asked for, in the order of the pass.
    pub fn all(config: &ModelConfig) -> Vec<Site> {
        let blocks = (0..config.n_layers).flat_map(|layer| BLOCK_SITES.iter().map(move |(_, make)| make(layer)));
        let all = [Site::Embed, Site::PosEmbed].into_iter().chain(blocks).chain([Site::FinalNormalized]);
        all.filter(|site| site.check(config).is_ok()).collect()
    }

    /// Does this model have the site?
    pub fn check(self, config: &ModelConfig) -> Result<(), EngineError> {
        let missing = |reason: String| EngineError::NoSuchSite { site: self.to_string(), reason };
        if let Some(layer) = self.layer()
            && layer >= config.n_layers
        {
            return Err(missing(format!("the model has layers {}", numbers(config.n_layers))));
        }
        match self {
            Site::ResidMid(_) if config.parallel_residual => {
                Err(missing("attention and MLP run in parallel, there is no residual between them".into()))
            }
            Site::PosEmbed if config.positions != crate::types::Positions::Learned => {
                Err(missing("positions are rotary, not learned".into()))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Site::Embed => f.write_str("hook_embed"),
            Site::PosEmbed => f.write_str("hook_pos_embed"),
            Site::FinalNormalized => f.write_str("ln_final.hook_normalized"),
            site => {
                let layer = site.layer().unwrap_or_default();
                let name = BLOCK_SITES.iter().find(|(_, make)| make(layer) == *site).map_or("", |(name, _)| name);
                write!(f, "blocks.{layer}.{name}")
            }
        }
    }
}

impl FromStr for Site {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self, EngineError> {
        match name {
            "hook_embed" => return Ok(Site::Embed),
            "hook_pos_embed" => return Ok(Site::PosEmbed),
            "ln_final.hook_normalized" => return Ok(Site::FinalNormalized),
            _ => {}
        }
        let block = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
        block
            .and_then(|(layer, rest)| {
                let layer = layer.parse().ok()?;
                BLOCK_SITES.iter().find(|(known, _)| *known == rest).map(|(_, make)| make(layer))
            })
            .ok_or_else(|| EngineError::NoSuchSite {
                site: name.into(),
                reason: "expected a hook name such as blocks.3.hook_resid_pre, blocks.3.attn.hook_z or hook_embed"
                    .into(),
            })
    }
}

serde_by_text!(Site);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for (_, make) in BLOCK_SITES {
            for layer in [0, 7, 23] {
                let site = make(layer);
                assert_eq!(site.to_string().parse::<Site>().unwrap(), site);
            }
        }
        for site in [Site::Embed, Site::PosEmbed, Site::FinalNormalized] {
            assert_eq!(site.to_string().parse::<Site>().unwrap(), site);
        }
        assert_eq!(Site::K(11).to_string(), "blocks.11.attn.hook_k");
        let recorded = serde_json::to_value(Site::K(11)).unwrap();
        assert_eq!(recorded, "blocks.11.attn.hook_k");
        assert_eq!(serde_json::from_value::<Site>(recorded).unwrap(), Site::K(11));
        for wrong in ["", "blocks.x.hook_resid_pre", "blocks.1", "blocks.1.hook_resid", "resid_pre"] {
            assert!(wrong.parse::<Site>().is_err(), "{wrong}");
        }
    }
}
