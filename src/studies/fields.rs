//! How the fields of specifications are read: lists may be written as one value, or as a text with commas.

use crate::session::Fault;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A specification from settings by name, its defaults where they say nothing.
///
/// # Errors
/// A [`Fault`] that names the setting: one that there is not, or a value that it cannot have.
pub fn from_settings<S: Serialize + DeserializeOwned + Default>(settings: Map<String, Value>) -> Result<S, Fault> {
    let defaults = serde_json::to_value(S::default()).map_err(|error| Fault::new(error.to_string()))?;
    let Value::Object(mut fields) = defaults else { return Err(Fault::new("a specification has fields")) };
    let names: Vec<String> = fields.keys().cloned().collect();
    for (name, value) in settings {
        if !fields.contains_key(&name) {
            let found = format!("there is no such setting; there are {}", names.join(", "));
            return Err(Fault::of(name, found));
        }
        fields.insert(name.clone(), value);
        if let Err(error) = serde_json::from_value::<S>(fields.clone().into()) {
            return Err(Fault::of(name, error.to_string()));
        }
    }
    serde_json::from_value(fields.into()).map_err(|error| Fault::new(error.to_string()))
}

/// Reads a list, one value, or a text with commas between values.
pub(crate) fn list<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let values = match Value::deserialize(deserializer)? {
        Value::Array(values) => values,
        value => vec![value],
    };
    let mut read = Vec::with_capacity(values.len());
    for value in values {
        match value {
            Value::String(text) => {
                for part in text.split(',') {
                    read.push(entry(Value::String(part.to_owned())).map_err(D::Error::custom)?);
                }
            }
            value => read.push(entry(value).map_err(D::Error::custom)?),
        }
    }
    Ok(read)
}

/// A value, whether it is written as a number or as a text.
fn entry<T: DeserializeOwned>(value: Value) -> Result<T, serde_json::Error> {
    serde_json::from_value(value.clone()).or_else(|error| {
        let other = match &value {
            Value::String(text) => serde_json::from_str(text).ok(),
            Value::Number(number) => Some(Value::String(number.to_string())),
            _ => None,
        };
        other.and_then(|other| serde_json::from_value(other).ok()).ok_or(error)
    })
}

/// Reads a text that may be a number.
pub(crate) fn text<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    entry(Value::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Reads one text or a list of texts, which keep their commas.
pub(crate) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Array(values) => values.into_iter().map(|value| entry(value).map_err(D::Error::custom)).collect(),
        value => Ok(vec![entry(value).map_err(D::Error::custom)?]),
    }
}

/// Writes a path, whatever its bytes.
pub(crate) fn path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// The same, if there is one.
pub(crate) fn optional_path<S: Serializer>(own: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match own {
        Some(own) => path(own, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Spec {
        #[serde(deserialize_with = "list")]
        layers: Vec<String>,
        #[serde(deserialize_with = "list")]
        prompts: Vec<usize>,
        #[serde(deserialize_with = "text")]
        position: Option<String>,
        #[serde(deserialize_with = "texts")]
        text: Vec<String>,
        #[serde(serialize_with = "optional_path")]
        corpus: Option<PathBuf>,
        seed: u64,
    }

    fn read(json: Value) -> Result<Spec, Fault> {
        let Value::Object(settings) = json else { panic!() };
        from_settings(settings)
    }

    #[test]
    fn lists_and_texts_are_read_as_people_write_them() {
        let expected = Spec {
            layers: vec!["0".into(), "2..3".into()],
            prompts: vec![1, 2],
            position: Some("4".into()),
            seed: 7,
            ..Spec::default()
        };
        let lists = serde_json::json!({ "layers": [0, "2..3"], "prompts": [1, 2], "position": 4, "seed": 7 });
        let texts = serde_json::json!({ "layers": "0,2..3", "prompts": "1,2", "position": "4", "seed": 7 });
        assert_eq!(read(lists).unwrap(), expected);
        assert_eq!(read(texts).unwrap(), expected);
        assert_eq!(read(serde_json::json!({ "layers": 5 })).unwrap().layers, ["5"]);
        assert_eq!(read(serde_json::json!({ "text": "Well, good" })).unwrap().text, ["Well, good"]);
        let several = read(serde_json::json!({ "text": ["Well, good", 7], "corpus": "a.txt" })).unwrap();
        assert_eq!((several.text, several.corpus), (vec!["Well, good".into(), "7".into()], Some("a.txt".into())));
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        let message = |json| read(json).unwrap_err().to_string();
        let unknown = message(serde_json::json!({ "layer": 5 }));
        assert_eq!(unknown, "layer: there is no such setting; there are layers, prompts, position, text, corpus, seed");
        assert!(message(serde_json::json!({ "prompts": ["x"] })).starts_with("prompts: "));
        assert!(message(serde_json::json!({ "seed": -1 })).starts_with("seed: "));
    }
}
