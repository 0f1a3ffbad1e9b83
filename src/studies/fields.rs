//! How the fields of specifications are read: lists may be written as one value, or as a text with commas.

use crate::session::Fault;
use crate::session::lists::entry;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) use crate::session::lists::list;

/// A specification from settings by name, its defaults where they say nothing. Settings go by their singular and by their
/// plural.
///
/// # Errors
/// A [`Fault`] that names the setting: one that there is not, or a value that it cannot have.
pub fn from_settings<S: Serialize + DeserializeOwned + Default>(settings: Map<String, Value>) -> Result<S, Fault> {
    let mut fields = fields_of::<S>()?;
    let mut said: BTreeMap<String, String> = BTreeMap::new();
    for (given, value) in settings {
        let other = given.strip_suffix('s').map_or_else(|| format!("{given}s"), str::to_owned);
        let name = [given.clone(), other].into_iter().find(|name| fields.contains_key(name));
        let Some(name) = name else {
            let known = Vec::from_iter(fields.keys().map(String::as_str)).join(", ");
            let known = if known.is_empty() { "none" } else { &known };
            return Err(Fault::of(given, format!("there is no such setting; there are {known}")));
        };
        if let Some(before) = said.insert(name.clone(), given.clone()) {
            return Err(Fault::of(given, format!("{before} is the same setting, which is given once")));
        }
        let fits = |value: &Value| {
            fields.insert(name.clone(), value.clone());
            serde_json::from_value::<S>(fields.clone().into()).map(drop)
        };
        as_it_fits(value, fits).map_err(|error| Fault::of(given, error.to_string()))?;
    }
    serde_json::from_value(fields.into()).map_err(|error| Fault::new(error.to_string()))
}

/// The fields of a specification with their defaults.
///
/// # Errors
/// Those of a type that has no fields.
pub(crate) fn fields_of<S: Serialize + Default>() -> Result<Map<String, Value>, Fault> {
    match serde_json::to_value(S::default()) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(Fault::new(format!("a specification has fields, found {other}"))),
        Err(error) => Err(Fault::new(error.to_string())),
    }
}

/// Tries a value as it is, and then the other ways of writing it.
fn as_it_fits(
    value: Value,
    mut fits: impl FnMut(&Value) -> Result<(), serde_json::Error>,
) -> Result<(), serde_json::Error> {
    let Err(error) = fits(&value) else { return Ok(()) };
    let other = match value {
        Value::String(text) => serde_json::from_str(&text).ok(),
        Value::Array(values) => {
            // A fraction is no text: head 9.10 would be head 9.1.
            let text = |value: &Value| match value {
                Value::String(text) => Some(text.clone()),
                value if value.is_u64() => Some(value.to_string()),
                _ => None,
            };
            let texts: Option<Vec<_>> = values.iter().map(text).collect();
            texts.map(|texts| Value::String(texts.join(",")))
        }
        _ => None,
    };
    other.filter(|other| fits(other).is_ok()).map(drop).ok_or(error)
}

/// Reads a text that may be a number.
pub(crate) fn text<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    entry(Value::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Reads a text that may be a number, or nothing.
pub(crate) fn optional_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        value => entry(value).map(Some).map_err(D::Error::custom),
    }
}

/// Reads a text that may be a number, or a list of such texts, which become one with commas.
pub(crate) fn joined<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    let value = match Value::deserialize(deserializer)? {
        Value::Array(values) => {
            let texts: Vec<String> =
                values.into_iter().map(entry).collect::<Result<_, _>>().map_err(D::Error::custom)?;
            Value::String(texts.join(","))
        }
        value => value,
    };
    entry(value).map_err(D::Error::custom)
}

/// Reads one text or a list of texts, which keep their commas.
pub(crate) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Array(values) => values.into_iter().map(|value| entry(value).map_err(D::Error::custom)).collect(),
        value => Ok(vec![entry(value).map_err(D::Error::custom)?]),
    }
}

/// Refuses empty lists, given by their fields and how many entries they have.
pub(crate) fn not_empty(lists: &[(&str, usize)]) -> Result<(), Fault> {
    match lists.iter().find(|(_, count)| *count == 0) {
        None => Ok(()),
        Some((field, _)) => Err(Fault::of(*field, "expected at least one, found none")),
    }
}

/// More random directions or samples than this are a slip of the hand.
const MOST: u32 = 10_000;

/// Refuses a count that no memory is for.
pub(crate) fn not_endless(field: &str, count: u32) -> Result<(), Fault> {
    match count {
        0..=MOST => Ok(()),
        found => Err(Fault::of(field, format!("expected at most {MOST}, found {found}"))),
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
    use serde_json::json;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Spec {
        #[serde(deserialize_with = "list")]
        layers: Vec<String>,
        #[serde(deserialize_with = "list")]
        prompts: Vec<usize>,
        #[serde(deserialize_with = "text")]
        position: Option<String>,
        #[serde(deserialize_with = "joined")]
        heads: String,
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
            heads: "9.2,10.4".into(),
            text: vec!["Good, or not?".into()],
            corpus: Some("reviews.txt".into()),
            seed: 7,
        };
        let lists = json!({
            "layers": [0, "2..3"], "prompts": [1, 2], "position": 4, "heads": [9.2, "10.4"], "text": ["Good, or not?"],
            "corpus": "reviews.txt", "seed": 7,
        });
        let texts = json!({
            "layers": "0,2..3", "prompts": "1,2", "position": "4", "heads": "9.2,10.4", "text": "Good, or not?",
            "corpus": "reviews.txt", "seed": "7",
        });
        assert_eq!(read(lists).unwrap(), expected);
        assert_eq!(read(texts).unwrap(), expected);
        assert_eq!(read(json!({ "layers": 5 })).unwrap().layers, ["5"]);
        assert_eq!(read(json!({ "layer": 5 })).unwrap().layers, ["5"]);
        assert_eq!(read(json!({ "positions": 4 })).unwrap().position, Some("4".into()));
        assert_eq!(read(json!({ "position": ["A", 1] })).unwrap().position, Some("A,1".into()));
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        let message = |json| read(json).unwrap_err().to_string();
        let known = "there are layers, prompts, position, heads, text, corpus, seed";
        assert_eq!(message(json!({ "place": 5 })), format!("place: there is no such setting; {known}"));
        assert!(message(json!({ "prompts": ["x"] })).starts_with("prompts: "));
        assert!(message(json!({ "seed": -1 })).starts_with("seed: "));
        let twice = message(json!({ "layer": 1, "layers": 2 }));
        assert_eq!(twice, "layers: layer is the same setting, which is given once");
    }

    #[test]
    fn lists_need_an_entry_and_counts_an_end() {
        assert!(not_empty(&[("maps", 1), ("metrics", 2)]).is_ok());
        let empty = not_empty(&[("maps", 1), ("metrics", 0)]).unwrap_err().to_string();
        assert_eq!(empty, "metrics: expected at least one, found none");
        assert!(not_endless("random", MOST).is_ok());
        let endless = not_endless("random", u32::MAX).unwrap_err().to_string();
        assert_eq!(endless, "random: expected at most 10000, found 4294967295");
    }
}
