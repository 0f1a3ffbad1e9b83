//! Rotary settings of a GGUF file: base, rotated dimensions, and how the wavelengths are stretched.

use super::config::Fields;
use super::quantised::TensorType;
use super::tensors::ROTARY_DIVISORS;
use crate::model::ModelError;
use serde_json::{Map, Value, json};

impl Fields<'_> {
    /// Rotary settings; GPT-2 has none.
    pub(super) fn positions(&mut self) -> Result<(), ModelError> {
        if self.model_type == "gpt2" {
            let rotary = self.file.metadata.keys().filter(|key| key.starts_with(&self.key("rope.")));
            return match rotary.min() {
                Some(key) => Err(self.file.metadata.wrong(key, "no rotary positions in this architecture", "this key")),
                None => Ok(()),
            };
        }
        let base = self.key("rope.freq_base");
        let field = if self.model_type == "gpt_neox" { "rotary_emb_base" } else { "rope_theta" };
        let number = self.file.metadata.number(&base)?.unwrap_or(10_000.0);
        self.put(field, &base, number);
        let rotated = self.rotated()?;
        self.scaling(rotated)
    }

    /// How many dimensions of a head are rotated: all of them but in GPT-NeoX, where the file says.
    fn rotated(&mut self) -> Result<u64, ModelError> {
        let (key, d_head, metadata) = (self.key("rope.dimension_count"), self.d_head()?, &self.file.metadata);
        let partial = self.model_type == "gpt_neox";
        let (fewest, some) = if partial { (1, "1 to ") } else { (d_head, "") };
        let wrong = |found: String| metadata.wrong(&key, format!("{some}{d_head}, a whole head"), found);
        match metadata.whole(&key)? {
            Some(found) if !(fewest..=d_head).contains(&found) => Err(wrong(found.to_string())),
            Some(found) if partial => {
                // The family multiplies the share by the width and rounds down.
                self.put("rotary_pct", &key, (found as f64 + 0.5) / d_head as f64);
                Ok(found)
            }
            None if partial => Err(wrong("nothing".to_owned())),
            _ => Ok(d_head),
        }
    }

    fn d_head(&self) -> Result<u64, ModelError> {
        match self.fields.get("head_dim").and_then(Value::as_u64) {
            Some(width) => Ok(width),
            None => {
                let (d_model, n_heads) = (self.required("embedding_length")?, self.required("attention.head_count")?);
                Ok(d_model.checked_div(n_heads).unwrap_or(0))
            }
        }
    }

    /// How the rotary wavelengths are stretched.
    fn scaling(&mut self, rotated: u64) -> Result<(), ModelError> {
        let metadata = &self.file.metadata;
        let key = self.key("rope.scaling.type");
        let kind = metadata.text(&key)?;
        self.check_factors()?;
        let divided = self.parts.find(ROTARY_DIVISORS).is_some();
        let scaling = match kind.as_deref() {
            Some("none") => Map::new(),
            // A factor alone, by its newer or its older name, is meant so.
            None | Some("linear") => {
                let names = ["rope.scaling.factor", "rope.scale_linear"];
                match names.into_iter().find(|name| metadata.has(&self.key(name))) {
                    Some(name) => self.with_factor("linear", name)?,
                    None if kind.is_some() => self.with_factor("linear", names[0])?,
                    None => Map::new(),
                }
            }
            Some("yarn") => self.yarn()?,
            Some(other) => return Err(metadata.wrong(&key, "none, linear or yarn", other)),
        };
        let scaling = match (scaling.is_empty(), divided) {
            (true, true) => self.divisors(rotated)?,
            (false, true) => {
                let expected = format!("none beside a tensor `{ROTARY_DIVISORS}`");
                return Err(metadata.wrong(&key, expected, kind.unwrap_or_default()));
            }
            (_, false) => scaling,
        };
        if !scaling.is_empty() {
            self.put("rope_scaling", &key, scaling);
        }
        Ok(())
    }

    /// Refuses what multiplies the attention, or mixes the wavelengths beyond YaRN's own formula.
    fn check_factors(&self) -> Result<(), ModelError> {
        for name in ["rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor"] {
            let key = self.key(name);
            if let Some(found) = self.file.metadata.number(&key)?.filter(|found| *found != 1.0) {
                return Err(self.file.metadata.wrong(&key, "1 (the only value supported)", found));
            }
        }
        Ok(())
    }

    /// A scaling with a factor.
    fn with_factor(&mut self, kind: &str, name: &str) -> Result<Map<String, Value>, ModelError> {
        let key = self.key(name);
        let factor = self.file.metadata.number(&key)?;
        self.keys.insert("rope_scaling.factor".to_owned(), self.file.metadata.stored_key(&key));
        let mut scaling = Map::from_iter([("rope_type".to_owned(), json!(kind))]);
        scaling.extend(factor.map(|factor| ("factor".to_owned(), json!(factor))));
        Ok(scaling)
    }

    fn yarn(&mut self) -> Result<Map<String, Value>, ModelError> {
        let mut scaling = self.with_factor("yarn", "rope.scaling.factor")?;
        let numbers = [
            ("original_max_position_embeddings", "rope.scaling.original_context_length"),
            ("beta_fast", "rope.scaling.yarn_beta_fast"),
            ("beta_slow", "rope.scaling.yarn_beta_slow"),
        ];
        for (field, name) in numbers {
            let key = self.key(name);
            let value = match name.ends_with("context_length") {
                true => self.file.metadata.whole(&key)?.map(Value::from),
                false => self.file.metadata.number(&key)?.map(Value::from),
            };
            self.keys.insert(format!("rope_scaling.{field}"), self.file.metadata.stored_key(&key));
            scaling.extend(value.map(|value| (field.to_owned(), value)));
        }
        Ok(scaling)
    }

    /// Wavelengths that a tensor multiplies pair by pair (so the files have Llama 3.1's scaling): LongRoPE with one list for
    /// texts of every length.
    fn divisors(&self, rotated: u64) -> Result<Map<String, Value>, ModelError> {
        let (part, place) = match self.parts.find(ROTARY_DIVISORS) {
            Some(found) => found,
            None => return Ok(Map::new()),
        };
        let file = &self.parts.files()[part];
        let pairs = rotated.div_ceil(2);
        if place.shape != [pairs as usize] || place.kind != TensorType::F32 {
            let found = format!("{:?} of type {}", place.shape, place.kind.name());
            return Err(file.wrong(ROTARY_DIVISORS, format!("shape [{pairs}] of type F32"), found));
        }
        let mut divisors = vec![0.0; place.shape[0]];
        place.kind.read(&file.bytes()[place.bytes.clone()], &mut divisors);
        if let Some(wrong) = divisors.iter().find(|divisor| !(**divisor > 0.0 && divisor.is_finite())) {
            return Err(file.wrong(ROTARY_DIVISORS, "numbers above 0", wrong));
        }
        let scaling = json!({
            "rope_type": "longrope", "short_factor": divisors, "long_factor": divisors, "attention_factor": 1.0,
            "original_max_position_embeddings": self.required("context_length")?, "factor": 1.0,
        });
        Ok(scaling.as_object().cloned().unwrap_or_default())
    }
}
