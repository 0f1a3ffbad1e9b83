//! The page of texts whose tokens are coloured by values.

use super::View;
use super::packed::floats;
use serde::Serialize;

/// Texts with the values of their tokens along directions, or whatever else a channel is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextPage {
    /// Above everything.
    pub title: String,
    /// What the values are, with their unit.
    pub measure: String,
    /// What there are values of.
    pub channels: Vec<Channel>,
    /// Texts with values of every channel, token by token.
    pub documents: Vec<PageText>,
    /// Texts that were found for a channel, channel by channel, with its values alone.
    pub samples: Vec<Vec<PageText>>,
}

/// A name and the layer, which is empty where there is none.
pub type Channel = (String, String);

/// Tokens in a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PageText {
    /// In front of them.
    pub caption: String,
    /// The tokens.
    pub tokens: Vec<String>,
    /// Position of the first one in its document, where the caption is the document's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
    /// The token that the text is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marked: Option<usize>,
    /// `(tokens, channels)` of a document, `(tokens)` of a sample; NaN where there is none.
    #[serde(serialize_with = "floats")]
    pub values: Vec<f32>,
}

/// Most tokens of a page's documents.
pub const PAGE_TOKENS: usize = 5000;

/// A token on its way to a page: its document, its text, its values.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownToken {
    /// Number of its document.
    pub document: usize,
    /// The token.
    pub text: String,
    /// One value per channel.
    pub values: Vec<f32>,
}

/// The documents of tokens, which begin with them.
pub fn documents(shown: &[ShownToken]) -> Vec<PageText> {
    let document = |tokens: &[ShownToken]| PageText {
        caption: format!("document {}", tokens.first().map_or(0, |token| token.document)),
        tokens: tokens.iter().map(|token| token.text.clone()).collect(),
        position: Some(0),
        marked: None,
        values: tokens.iter().flat_map(|token| token.values.iter().copied()).collect(),
    };
    shown.chunk_by(|a, b| a.document == b.document).map(document).collect()
}

impl View for TextPage {
    const NAME: &'static str = "texts";
    const SCRIPT: &'static str = include_str!("texts.js");

    fn title(&self) -> &str {
        &self.title
    }
}
