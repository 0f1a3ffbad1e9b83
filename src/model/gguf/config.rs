//! A GGUF file's metadata as the fields of a `config.json`, so that the families read both alike. A key that asks for something
//! that is not computed is an error, and so is a key of the architecture that is not known here.

use super::file::GgufFile;
use super::parts::Parts;
use crate::model::ModelError;
use crate::model::config::{ConfigFile, StoredKey};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

const ARCHITECTURE: &str = "general.architecture";

/// The key of the version of the quantised types' layouts, and the one that is read.
const QUANTISATION: (&str, u64) = ("general.quantization_version", 2);

/// Architectures by the names of the format and of `config.json`.
const ARCHITECTURES: [(&str, &str); 5] =
    [("llama", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3"), ("gpt2", "gpt2"), ("gptneox", "gpt_neox")];

/// Keys behind the architecture's name that say how large the model is, and their fields in the three kinds of `config.json`:
/// of Llama and Qwen, of GPT-2, of GPT-NeoX.
const SIZES: [(&str, [&str; 3]); 5] = [
    ("block_count", ["num_hidden_layers", "n_layer", "num_hidden_layers"]),
    ("embedding_length", ["hidden_size", "n_embd", "hidden_size"]),
    ("feed_forward_length", ["intermediate_size", "n_inner", "intermediate_size"]),
    ("attention.head_count", ["num_attention_heads", "n_head", "num_attention_heads"]),
    ("context_length", ["max_position_embeddings", "n_positions", "max_position_embeddings"]),
];

/// Do attention and MLP read the same? GPT-NeoX's may.
const PARALLEL: &str = "use_parallel_residual";

/// Further keys behind the architecture's name that are read.
const READ: [&str; 19] = [
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "vocab_size",
    // Where the weights came from, and that the scaling was trained with: neither changes what is computed.
    "tensor_data_layout",
    "rope.scaling.finetuned",
];

/// Keys behind the architecture's name that ask for nothing when they have this value.
const WITHOUT_EFFECT: [(&str, f64); 9] = [
    ("attention.sliding_window", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("final_logit_softcapping", 0.0),
    ("expert_count", 0.0),
    ("expert_used_count", 0.0),
    ("expert_shared_count", 0.0),
    ("leading_dense_block_count", 0.0),
];

/// The fields in the making.
pub(super) struct Fields<'a> {
    pub(super) parts: &'a Parts,
    pub(super) file: &'a GgufFile,
    architecture: String,
    pub(super) model_type: &'static str,
    pub(super) fields: Map<String, Value>,
    pub(super) keys: HashMap<String, StoredKey>,
}

/// The configuration of a model.
pub(super) fn read(parts: &Parts) -> Result<ConfigFile, ModelError> {
    let file = parts.first();
    let kind = file.metadata.text("general.type")?;
    if let Some(kind) = kind.filter(|kind| kind != "model") {
        return Err(file.metadata.wrong("general.type", "model", kind));
    }
    check_quantisation(parts)?;
    let known: Vec<&str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
    let expected = format!("an architecture that is computed: {}", known.join(", "));
    let architecture = file.metadata.text(ARCHITECTURE)?;
    let named = architecture.as_deref().and_then(|own| ARCHITECTURES.iter().find(|(name, _)| *name == own));
    let Some((name, model_type)) = named else {
        let found = architecture.unwrap_or_else(|| "nothing".to_owned());
        return Err(file.metadata.wrong(ARCHITECTURE, expected, found));
    };
    let (architecture, fields) = ((*name).to_owned(), Map::from_iter([("model_type".to_owned(), json!(model_type))]));
    let keys = HashMap::from([("model_type".to_owned(), file.metadata.stored_key(ARCHITECTURE))]);
    let mut fields = Fields { parts, file, architecture, model_type, fields, keys };
    fields.check_keys()?;
    fields.sizes()?;
    fields.norms()?;
    fields.heads()?;
    fields.positions()?;
    fields.vocabulary()?;
    fields.biases();
    fields.ends()?;
    Ok(ConfigFile::translated(file.path(), fields.fields, fields.keys))
}

/// Refuses quantised tensors of another version of their layouts.
fn check_quantisation(parts: &Parts) -> Result<(), ModelError> {
    let ((key, only), metadata) = (QUANTISATION, &parts.first().metadata);
    match metadata.whole(key)?.filter(|found| *found != only && parts.quantisation().is_some()) {
        Some(found) => Err(metadata.wrong(key, format!("{only} (the only value supported)"), found)),
        None => Ok(()),
    }
}

impl Fields<'_> {
    /// A key of the architecture.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub(super) fn put(&mut self, field: &str, key: &str, value: impl Into<Value>) {
        self.keys.insert(field.to_owned(), self.file.metadata.stored_key(key));
        self.fields.insert(field.to_owned(), value.into());
    }

    /// Refuses keys of the architecture that are not known, or that ask for what is not computed.
    fn check_keys(&self) -> Result<(), ModelError> {
        let (start, metadata) = (self.key(""), &self.file.metadata);
        let mut keys: Vec<&str> = metadata.keys().filter_map(|key| key.strip_prefix(&start)).collect();
        keys.sort_unstable();
        for name in keys {
            let key = self.key(name);
            if READ.contains(&name) || SIZES.iter().any(|(size, _)| *size == name) {
                continue;
            }
            match WITHOUT_EFFECT.iter().find(|(known, _)| *known == name) {
                Some((_, only)) => match metadata.number(&key)? {
                    Some(number) if number != *only => {
                        return Err(metadata.wrong(&key, format!("{only} (the only value supported)"), number));
                    }
                    _ => {}
                },
                None if name == "attention.causal" && metadata.flag(&key)? == Some(true) => {}
                None if name == PARALLEL && self.model_type == "gpt_neox" => {}
                None if name == PARALLEL && metadata.flag(&key)? == Some(false) => {}
                None => {
                    let expected = "no such key: what it asks for is not computed";
                    return Err(metadata.wrong(&key, expected, "it"));
                }
            }
        }
        Ok(())
    }

    /// A number that has to be there.
    pub(super) fn required(&self, name: &str) -> Result<u64, ModelError> {
        let key = self.key(name);
        let blocks = self.file.metadata.whole(&self.key("block_count"))?.unwrap_or(0);
        match self.file.metadata.same_whole(&self.file.reader(), &key, blocks)? {
            Some(number) => Ok(number),
            None => Err(self.file.metadata.wrong(&key, "a whole number", "nothing")),
        }
    }

    fn sizes(&mut self) -> Result<(), ModelError> {
        let column = match self.model_type {
            "gpt2" => 1,
            "gpt_neox" => 2,
            _ => 0,
        };
        for (name, fields) in SIZES {
            let number = self.required(name)?;
            self.put(fields[column], &self.key(name), number);
        }
        Ok(())
    }

    fn norms(&mut self) -> Result<(), ModelError> {
        let (name, field) = match self.model_type {
            "gpt2" => ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
            "gpt_neox" => ("attention.layer_norm_epsilon", "layer_norm_eps"),
            _ => ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        };
        let key = self.key(name);
        match self.file.metadata.number(&key)? {
            Some(epsilon) => self.put(field, &key, epsilon),
            None => return Err(self.file.metadata.wrong(&key, "a number", "nothing")),
        }
        if self.model_type == "gpt_neox" {
            let key = self.key(PARALLEL);
            match self.file.metadata.flag(&key)? {
                Some(parallel) => self.put("use_parallel_residual", &key, parallel),
                None => return Err(self.file.metadata.wrong(&key, "true or false", "nothing")),
            }
        }
        Ok(())
    }

    /// Key-value heads, and the width of a head.
    fn heads(&mut self) -> Result<(), ModelError> {
        let n_heads = self.required("attention.head_count")?;
        let d_model = self.required("embedding_length")?;
        let key = self.key("attention.head_count_kv");
        let n_kv_heads = match self.file.metadata.has(&key) {
            true => self.required("attention.head_count_kv")?,
            false => n_heads,
        };
        let shared = d_model.checked_div(n_heads).unwrap_or(0);
        let (length, metadata) = (self.key("attention.key_length"), &self.file.metadata);
        let width = metadata.whole(&length)?;
        let value_width = self.key("attention.value_length");
        if let Some(found) = metadata.whole(&value_width)?.filter(|found| *found != width.unwrap_or(shared)) {
            let expected = format!("{}, as wide as a key", width.unwrap_or(shared));
            return Err(metadata.wrong(&value_width, expected, found));
        }
        if matches!(self.model_type, "gpt2" | "gpt_neox") {
            for (key, right) in [(&key, n_heads), (&length, shared)] {
                if let Some(found) = metadata.whole(key)?.filter(|found| *found != right) {
                    return Err(metadata.wrong(key, format!("{right} (the only value supported)"), found));
                }
            }
            return Ok(());
        }
        self.put("num_key_value_heads", &key, n_kv_heads);
        match width {
            Some(width) => self.put("head_dim", &length, width),
            None if d_model.is_multiple_of(n_heads.max(1)) => {
                self.put("head_dim", &self.key("attention.head_count"), shared);
            }
            None => {
                let expected = format!("a divisor of {} = {d_model}", self.key("embedding_length"));
                return Err(self.file.metadata.wrong(&self.key("attention.head_count"), expected, n_heads));
            }
        }
        Ok(())
    }

    /// The vocabulary is as large as the embedding, which the file's own count must agree with; the head is tied to it where
    /// there is no other.
    fn vocabulary(&mut self) -> Result<(), ModelError> {
        let embedding = "token_embd.weight";
        let rows = match self.parts.find(embedding) {
            Some((_, place)) => place.shape.first().copied().unwrap_or(0) as u64,
            None => return Err(self.file.wrong(embedding, "the embedding", "nothing of that name")),
        };
        let key = self.key("vocab_size");
        if let Some(found) = self.file.metadata.whole(&key)?.filter(|found| *found != rows) {
            let expected = format!("{rows}, the rows of tensor `{embedding}`");
            return Err(self.file.metadata.wrong(&key, expected, found));
        }
        self.put("vocab_size", &key, rows);
        self.fields.insert("tie_word_embeddings".to_owned(), self.parts.find("output.weight").is_none().into());
        Ok(())
    }

    /// The tokens that end a text, or a turn.
    fn ends(&mut self) -> Result<(), ModelError> {
        let (key, metadata) = ("tokenizer.ggml.eos_token_id", &self.file.metadata);
        let rows = self.fields.get("vocab_size").and_then(Value::as_u64).unwrap_or(0);
        // One that no token has is passed over with a warning, which is the tokenizer's.
        let turn = metadata.integer("tokenizer.ggml.eot_token_id")?.and_then(|id| u64::try_from(id).ok());
        let ids: Vec<u64> = metadata.whole(key)?.into_iter().chain(turn.filter(|id| *id < rows)).collect();
        if !ids.is_empty() {
            self.put("eos_token_id", key, ids);
        }
        Ok(())
    }

    /// Biases are there where the first block has them.
    fn biases(&mut self) {
        let has = |name: &str| self.parts.find(&format!("blk.0.{name}.bias")).is_some();
        let (attention, mlp) = (has("attn_q") || has("attn_qkv"), has("ffn_gate"));
        self.fields.insert("attention_bias".to_owned(), attention.into());
        self.fields.insert("mlp_bias".to_owned(), mlp.into());
    }
}
