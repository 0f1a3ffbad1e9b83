//! Typed access to `config.json`: every complaint names the file, the field, what was expected and what was found.

use super::ModelError;
use crate::types::Activation;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Larger counts than any model has: products of two of them still fit 64 bits.
const LARGEST_COUNT: u64 = 1 << 28;

/// Largest number of layers; a table of every tensor's name is built from it.
const LARGEST_DEPTH: usize = 4096;

/// A parsed `config.json`, or an object inside one.
#[derive(Debug, Clone)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    /// `rope_parameters.` for an object inside the file.
    prefix: String,
    fields: Map<String, Value>,
}

impl ConfigFile {
    /// Parses the bytes of a JSON object; `path` names it in errors.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        let fields = serde_json::from_slice(bytes)
            .map_err(|error| ModelError::Json { path: path.into(), message: error.to_string() })?;
        Ok(Self { path: path.into(), prefix: String::new(), fields })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A field's value; JSON's `null` counts as absent.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// Is the field in the file, be it as `null`?
    pub fn mentions(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// The complaint about `field`.
    pub fn error(&self, field: &str, expected: impl Into<String>) -> ModelError {
        let found = self.get(field).map_or_else(|| "nothing".to_owned(), Value::to_string);
        ModelError::Config {
            path: self.path.clone(),
            field: format!("{}{field}", self.prefix),
            expected: expected.into(),
            found,
        }
    }

    /// A whole number of at least 1, if the field is there.
    pub fn optional_count(&self, field: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64() {
            Some(count @ 1..=LARGEST_COUNT) => Ok(Some(count as usize)),
            _ => Err(self.error(field, format!("a whole number from 1 to {LARGEST_COUNT}"))),
        }
    }

    /// A whole number of at least 1.
    pub fn count(&self, field: &str) -> Result<usize, ModelError> {
        self.optional_count(field)?.ok_or_else(|| self.error(field, "a whole number"))
    }

    /// Number of layers.
    pub fn depth(&self, field: &str) -> Result<usize, ModelError> {
        let depth = self.count(field)?;
        if depth > LARGEST_DEPTH {
            return Err(self.error(field, format!("at most {LARGEST_DEPTH} layers")));
        }
        Ok(depth)
    }

    /// Width of a head: `width / heads`, which must come out even.
    pub fn head_width(&self, width: &str, heads: &str) -> Result<usize, ModelError> {
        let (d_model, n_heads) = (self.count(width)?, self.count(heads)?);
        if !d_model.is_multiple_of(n_heads) {
            return Err(self.error(heads, format!("a divisor of {width} = {d_model}")));
        }
        Ok(d_model / n_heads)
    }

    /// A finite number above 0, if the field is there.
    pub fn positive(&self, field: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number > 0.0 && number.is_finite() => Ok(Some(number)),
            _ => Err(self.error(field, "a number above 0")),
        }
    }

    /// `true` or `false`; `default` when the field is absent.
    pub fn flag(&self, field: &str, default: bool) -> Result<bool, ModelError> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.error(field, "true or false")),
        }
    }

    /// Complains unless a switch that would change the answer has the one value there is code for.
    pub fn require_flag(&self, field: &str, only: bool) -> Result<(), ModelError> {
        if self.flag(field, only)? == only {
            Ok(())
        } else {
            Err(self.error(field, format!("{only} (the only value supported)")))
        }
    }

    /// A string, if the field is there.
    pub fn text(&self, field: &str) -> Result<Option<&str>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or_else(|| self.error(field, "a string")),
        }
    }

    /// An object inside the file, if the field is there.
    pub fn object(&self, field: &str) -> Result<Option<ConfigFile>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self {
                path: self.path.clone(),
                prefix: format!("{}{field}.", self.prefix),
                fields: fields.clone(),
            })),
            Some(_) => Err(self.error(field, "an object")),
        }
    }

    /// The MLP's activation by the name that Hugging Face gives it.
    pub fn activation(&self, field: &str, default: &str) -> Result<Activation, ModelError> {
        match self.text(field)?.unwrap_or(default) {
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            "silu" | "swish" => Ok(Activation::Silu),
            _ => Err(self.error(field, "one of gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu, silu")),
        }
    }

    /// The beginning-of-sequence id, if the file has one.
    pub fn bos(&self) -> Result<Option<u32>, ModelError> {
        let Some(value) = self.get("bos_token_id") else { return Ok(None) };
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.map(Some).ok_or_else(|| self.error("bos_token_id", "a token id"))
    }

    /// The ids that end a text, if the file has any: one, or a list of them.
    pub fn ends(&self) -> Result<Vec<u32>, ModelError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.get("eos_token_id") {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(one) => id(one).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.error("eos_token_id", "a token id or a list of them"))
    }
}
