//! The page of attention patterns.

use super::View;
use super::packed::packed_shares;
use serde::{Serialize, Serializer};

/// Patterns of heads: of single prompts, of all of them, weighted by values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttentionPage {
    /// Above everything.
    pub title: String,
    /// Names of the heads, `layer.head`.
    pub heads: Vec<String>,
    /// The patterns, the first one shown first.
    pub maps: Vec<AttentionPattern>,
}

/// One pattern of every head.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttentionPattern {
    /// What it is of.
    pub name: String,
    /// What its values are.
    pub measure: String,
    /// The tokens, or what stands at the positions.
    pub tokens: Vec<String>,
    /// `(heads, query, key)`, from 0 to 1.
    #[serde(serialize_with = "shares")]
    pub values: Vec<f64>,
}

fn shares<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    packed_shares(values.iter().copied()).serialize(serializer)
}

impl View for AttentionPage {
    const NAME: &'static str = "attention";
    const SCRIPT: &'static str = include_str!("attention.js");

    fn title(&self) -> &str {
        &self.title
    }
}
