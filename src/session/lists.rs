//! How lists are read: as they are, one value, or a text with commas.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

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
pub(crate) fn entry<T: DeserializeOwned>(value: Value) -> Result<T, serde_json::Error> {
    serde_json::from_value(value.clone()).or_else(|error| {
        let other = match &value {
            Value::String(text) => serde_json::from_str(text).ok(),
            Value::Number(number) => Some(Value::String(number.to_string())),
            _ => None,
        };
        other.and_then(|other| serde_json::from_value(other).ok()).ok_or(error)
    })
}
