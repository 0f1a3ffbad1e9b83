//! How a direction was found, as far as its name tells.

use super::Method;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// How a direction was found: by a method of ours, or elsewhere, under any name. Ordered in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FoundBy {
    /// By a method of ours.
    Method(Method),
    /// Elsewhere: the direction's name without its layer.
    Elsewhere(String),
}

impl FoundBy {
    /// The method, if it is one of ours.
    pub fn method(&self) -> Option<Method> {
        match self {
            FoundBy::Method(method) => Some(*method),
            FoundBy::Elsewhere(_) => None,
        }
    }
}

impl fmt::Display for FoundBy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FoundBy::Method(method) => method.fmt(formatter),
            FoundBy::Elsewhere(name) => formatter.pad(name),
        }
    }
}

impl Serialize for FoundBy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FoundBy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let method = Method::all().find(|method| method.name() == text);
        Ok(method.map_or(FoundBy::Elsewhere(text), FoundBy::Method))
    }
}
