//! Texts whose tokens have values, on their way to a page in colour.

use super::figure::ColouredText;

/// Most tokens of a page of texts.
pub const PAGE_TOKENS: usize = 5000;

/// A token of the texts on a page: its document, its text, its values.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownToken {
    /// Number of its document.
    pub document: usize,
    /// The token.
    pub text: String,
    /// One value per channel.
    pub values: Vec<f32>,
}

/// The texts with one channel's values, a paragraph per document.
pub fn documents(shown: &[ShownToken], channel: usize) -> Vec<ColouredText> {
    let document = |tokens: &[ShownToken]| ColouredText {
        caption: format!("document {}", tokens.first().map_or(0, |token| token.document)),
        tokens: tokens.iter().map(|token| (token.text.clone(), token.values[channel].into())).collect(),
        marked: None,
    };
    shown.chunk_by(|a, b| a.document == b.document).map(document).collect()
}
