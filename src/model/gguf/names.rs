//! What GGUF files call the tensors of each family, and in which order they hold their rows.

/// How the rows of a tensor are ordered in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As in the family's own checkpoints.
    Own,
    /// The two halves of a head that the rotary embedding turns against each other lie side by side, pair by pair.
    Pairs,
    /// All heads' queries, then all keys, then all values; the family's own are head by head.
    Parts,
    /// The family's own tensor is the transposed one.
    Transposed,
}

/// Tensors of a block, the family's name first.
type Block = &'static [(&'static str, &'static str)];

/// Names of a family.
#[derive(Debug)]
pub(super) struct FamilyNames {
    outer: Block,
    block: Block,
    /// Stems whose weights are transposed.
    transposed: &'static [&'static str],
    /// Stems whose rows are in pairs.
    pairs: &'static [&'static str],
    /// Stems whose rows are in parts.
    parts: &'static [&'static str],
}

const GPT2: FamilyNames = FamilyNames {
    outer: &[("wte", "token_embd"), ("wpe", "position_embd"), ("ln_f", "output_norm"), ("lm_head", "output")],
    block: &[
        ("ln_1", "attn_norm"),
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("ln_2", "ffn_norm"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
    ],
    transposed: &["attn_qkv", "attn_output", "ffn_up", "ffn_down"],
    pairs: &[],
    parts: &[],
};

const GPT_NEOX: FamilyNames = FamilyNames {
    outer: &[("embed_in", "token_embd"), ("final_layer_norm", "output_norm"), ("embed_out", "output")],
    block: &[
        ("input_layernorm", "attn_norm"),
        ("attention.query_key_value", "attn_qkv"),
        ("attention.dense", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.dense_h_to_4h", "ffn_up"),
        ("mlp.dense_4h_to_h", "ffn_down"),
    ],
    transposed: &[],
    pairs: &[],
    parts: &["attn_qkv"],
};

/// Qwen's too.
const LLAMA_OUTER: Block = &[("embed_tokens", "token_embd"), ("norm", "output_norm"), ("lm_head", "output")];
const LLAMA_BLOCK: Block = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

const LLAMA: FamilyNames =
    FamilyNames { outer: LLAMA_OUTER, block: LLAMA_BLOCK, transposed: &[], pairs: &["attn_q", "attn_k"], parts: &[] };

const QWEN: FamilyNames =
    FamilyNames { outer: LLAMA_OUTER, block: LLAMA_BLOCK, transposed: &[], pairs: &[], parts: &[] };

/// The names of a family by its `model_type`.
pub(super) fn of(model_type: &str) -> &'static FamilyNames {
    match model_type {
        "gpt2" => &GPT2,
        "gpt_neox" => &GPT_NEOX,
        "llama" => &LLAMA,
        _ => &QWEN,
    }
}

impl FamilyNames {
    /// The file's name of the family's tensor `name`, whose blocks begin with `blocks`, and the order of its rows.
    pub fn stored(&self, name: &str, blocks: &str) -> Option<(String, Order)> {
        let (stem, ending) = name.rsplit_once('.')?;
        let find = |table: Block, own: &str| table.iter().find(|(known, _)| *known == own).map(|(_, stored)| *stored);
        let numbered = stem.strip_prefix(blocks).and_then(|rest| rest.split_once('.'));
        let (stored, block) = match numbered {
            Some((layer, own)) => (find(self.block, own)?, format!("blk.{layer}.")),
            None => (find(self.outer, stem)?, String::new()),
        };
        let order = match ending {
            "weight" if self.transposed.contains(&stored) => Order::Transposed,
            _ if self.pairs.contains(&stored) => Order::Pairs,
            _ if self.parts.contains(&stored) => Order::Parts,
            _ => Order::Own,
        };
        Some((format!("{block}{stored}.{ending}"), order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_family_lead_to_the_files() {
        let stored = |family: &str, name: &str, blocks: &str| of(family).stored(name, blocks).unwrap();
        let own = |name: &str, order| (name.to_owned(), order);
        assert_eq!(stored("gpt2", "wpe.weight", "h."), own("position_embd.weight", Order::Own));
        assert_eq!(stored("gpt2", "h.11.attn.c_attn.weight", "h."), own("blk.11.attn_qkv.weight", Order::Transposed));
        assert_eq!(stored("gpt2", "h.11.attn.c_attn.bias", "h."), own("blk.11.attn_qkv.bias", Order::Own));
        let qkv = "layers.0.attention.query_key_value.bias";
        assert_eq!(stored("gpt_neox", qkv, "layers."), own("blk.0.attn_qkv.bias", Order::Parts));
        let query = "layers.3.self_attn.q_proj.weight";
        assert_eq!(stored("llama", query, "layers."), own("blk.3.attn_q.weight", Order::Pairs));
        assert_eq!(stored("qwen2", query, "layers."), own("blk.3.attn_q.weight", Order::Own));
        assert_eq!(of("llama").stored("layers.3.self_attn.sinks.weight", "layers."), None);
    }
}
