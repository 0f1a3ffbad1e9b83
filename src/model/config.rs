//! Typed access to `config.json`: every complaint names the file, the field, what was expected and what was found.

use super::ModelError;
use super::gguf::shown;
use crate::types::Activation;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Larger counts than any model has: products of two of them still fit 64 bits.
const LARGEST_COUNT: u64 = 1 << 28;

/// Largest number of layers; a table of every tensor's name is built from it.
const LARGEST_DEPTH: usize = 4096;

/// Longest context of a model with rotary positions, whose table of angles is built from it: no text here is as long.
const LONGEST_CONTEXT: usize = 1 << 20;

/// A parsed `config.json`, or an object inside one, or what another kind of file says in its place.
#[derive(Debug, Clone)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    /// `rope_parameters.` for an object inside the file.
    prefix: String,
    fields: Map<String, Value>,
    /// By field, what a file of another kind has in its place; empty for a `config.json`.
    keys: Arc<HashMap<String, StoredKey>>,
}

/// What a file of another kind has in the place of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredKey {
    /// Its name.
    pub name: String,
    /// Where it is, if it is there.
    pub byte: Option<usize>,
}

impl ConfigFile {
    /// Parses the bytes of a JSON object; `path` names it in errors.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        let fields = serde_json::from_slice(bytes)
            .map_err(|error| ModelError::Json { path: path.into(), message: error.to_string() })?;
        Ok(Self { path: path.into(), prefix: String::new(), fields, keys: Arc::default() })
    }

    /// The fields that a file of another kind stands for, and its keys that errors name in their place.
    pub fn translated(path: &Path, fields: Map<String, Value>, keys: HashMap<String, StoredKey>) -> Self {
        Self { path: path.into(), prefix: String::new(), fields, keys: Arc::new(keys) }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A field's value; `null` counts as absent.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// Is the field in the file, be it as `null`?
    pub fn mentions(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// Is the object empty?
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// An object inside the file that is not there.
    pub fn nothing(&self, field: &str) -> Self {
        self.inside(field, Map::new())
    }

    fn inside(&self, field: &str, fields: Map<String, Value>) -> Self {
        let (path, keys) = (self.path.clone(), Arc::clone(&self.keys));
        Self { path, prefix: format!("{}{field}.", self.prefix), fields, keys }
    }

    /// The complaint about `field`.
    pub fn error(&self, field: &str, expected: impl Into<String>) -> ModelError {
        let found = self.fields.get(field).map_or_else(|| "nothing".to_owned(), Value::to_string);
        self.wrong(field, expected, found)
    }

    /// The complaint about a value that follows from several fields, of which `field` is the one to change.
    pub fn wrong(&self, field: &str, expected: impl Into<String>, found: String) -> ModelError {
        let (path, field, expected) = (self.path.clone(), self.full_name(field), expected.into());
        match self.keys.get(&field) {
            Some(StoredKey { name, byte }) => {
                let (what, found) = (format!("key `{name}`"), shown(&found));
                ModelError::Gguf { path, byte: *byte, what, expected, found }
            }
            None => ModelError::Config { path, field, expected, found },
        }
    }

    /// Says that `field` is not followed as it stands, because the libraries do not follow it either.
    pub fn warn(&self, field: &str, message: impl Display) {
        tracing::warn!("{}: field `{}`: {message}", self.path.display(), self.stored_name(field));
    }

    fn full_name(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    /// What the file itself calls the field.
    fn stored_name(&self, field: &str) -> String {
        let field = self.full_name(field);
        self.keys.get(&field).map_or(field, |key| key.name.clone())
    }

    /// A value by `read`; `default` when the field is absent. `null` is not absent: the library refuses it.
    fn or<T>(
        &self,
        field: &str,
        default: T,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, ModelError> {
        match self.fields.get(field) {
            None => Ok(default),
            Some(value) => read(value).ok_or_else(|| self.error(field, expected)),
        }
    }

    /// A whole number of at least 1; `default` when the field is absent.
    pub fn count(&self, field: &str, default: usize) -> Result<usize, ModelError> {
        self.or(field, default, &format!("a whole number from 1 to {LARGEST_COUNT}"), count)
    }

    /// A whole number of at least 1, if the field is there and not `null`.
    pub fn optional_count(&self, field: &str) -> Result<Option<usize>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(_) => self.count(field, 0).map(Some),
        }
    }

    /// A whole number; `default` when the field is absent.
    pub fn whole(&self, field: &str, default: i64) -> Result<i64, ModelError> {
        self.or(field, default, "a whole number", Value::as_i64)
    }

    /// Number of layers.
    pub fn depth(&self, field: &str, default: usize) -> Result<usize, ModelError> {
        let depth = self.count(field, default)?;
        if depth > LARGEST_DEPTH {
            return Err(self.error(field, format!("at most {LARGEST_DEPTH} layers")));
        }
        Ok(depth)
    }

    /// `total` shared out among `count`, which must come out even; both with their fields' names.
    pub fn equal_shares(&self, width: &str, total: usize, heads: &str, count: usize) -> Result<usize, ModelError> {
        if !total.is_multiple_of(count) {
            return Err(self.wrong(heads, format!("a divisor of {width} = {total}"), count.to_string()));
        }
        Ok(total / count)
    }

    /// Longest sequence of a model with rotary positions.
    pub fn context(&self, field: &str, default: usize) -> Result<usize, ModelError> {
        let context = self.count(field, default)?;
        if context > LONGEST_CONTEXT {
            self.warn(field, format!("only the first {LONGEST_CONTEXT} of {context} positions can be used"));
        }
        Ok(context.min(LONGEST_CONTEXT))
    }

    /// A finite number above 0; `default` when the field is absent.
    pub fn positive(&self, field: &str, default: f64) -> Result<f64, ModelError> {
        let positive = |value: &Value| value.as_f64().filter(|number| *number > 0.0 && number.is_finite());
        self.or(field, default, "a number above 0", positive)
    }

    /// A finite number, if the field is there and not `null`.
    pub fn optional_number(&self, field: &str) -> Result<Option<f64>, ModelError> {
        let number = |value: &Value| value.as_f64().filter(|number| number.is_finite());
        self.get(field).map(|value| number(value).ok_or_else(|| self.error(field, "a number"))).transpose()
    }

    /// A finite number of at least 0, what a norm adds under its root; `default` when the field is absent.
    pub fn epsilon(&self, field: &str, default: f64) -> Result<f32, ModelError> {
        let number = |value: &Value| value.as_f64().filter(|number| *number >= 0.0 && number.is_finite());
        Ok(self.or(field, default, "a number of at least 0", number)? as f32)
    }

    /// `true` or `false`; `default` when the field is absent.
    pub fn flag(&self, field: &str, default: bool) -> Result<bool, ModelError> {
        self.or(field, default, "true or false", Value::as_bool)
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
            Some(Value::Object(fields)) => Ok(Some(self.inside(field, fields.clone()))),
            Some(_) => Err(self.error(field, "an object")),
        }
    }

    /// The MLP's activation by the name that Hugging Face gives it; `default` when the field is absent.
    pub fn activation(&self, field: &str, default: Activation) -> Result<Activation, ModelError> {
        let expected = "one of gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu, silu";
        self.or(field, default, expected, |value| match value.as_str()? {
            "gelu" | "gelu_python" => Some(Activation::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Some(Activation::GeluTanh),
            "relu" => Some(Activation::Relu),
            "silu" | "swish" => Some(Activation::Silu),
            _ => None,
        })
    }

    /// The token ids in a field, one or a list of them; none when it is absent. Configurations name ids that do not exist
    /// (-1, or the default of a larger vocabulary), so any whole number is taken here.
    pub fn token_ids(&self, field: &str) -> Result<Vec<i64>, ModelError> {
        let ids = match self.get(field) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(Value::as_i64).collect(),
            Some(one) => one.as_i64().map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.error(field, "a token id or a list of them"))
    }

    /// The file and the field, to say where a value came from.
    pub fn name_of(&self, field: &str) -> String {
        let file = self.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        format!("{file}: {}", self.stored_name(field))
    }
}

fn count(value: &Value) -> Option<usize> {
    value.as_u64().filter(|count| (1..=LARGEST_COUNT).contains(count)).map(|count| count as usize)
}
