//! The numbers that a value is the mean of, as ledgers keep them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::sync::Arc;

/// What a cell has come to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// Its value; null where there is none to be had.
    pub value: Value,
    /// What the value is the mean of; empty where that is not kept.
    pub parts: Parts,
}

impl From<Value> for Measured {
    fn from(value: Value) -> Self {
        Self { value, parts: Parts::default() }
    }
}

/// Numbers in a ledger: the base64 of 32-bit floats, lowest byte first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parts(Arc<[f32]>);

impl Parts {
    /// These numbers.
    pub fn new(numbers: impl IntoIterator<Item = f32>) -> Self {
        Self(numbers.into_iter().collect())
    }

    /// The numbers.
    pub fn numbers(&self) -> &[f32] {
        &self.0
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Parts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|number| number.to_le_bytes()).collect();
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Parts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(text).map_err(D::Error::custom)?;
        let (numbers, rest) = bytes.as_chunks::<4>();
        match rest {
            [] => Ok(Self::new(numbers.iter().map(|four| f32::from_le_bytes(*four)))),
            _ => Err(D::Error::custom(format!("expected 4 bytes a number, found {} bytes", bytes.len()))),
        }
    }
}
