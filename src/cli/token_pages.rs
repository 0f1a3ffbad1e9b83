//! Texts whose tokens have values, on their way to a page in colour.

use crate::experiments::neuroscope::Found;
use crate::model::{ModelError, Tokenizer};
use crate::report::figure::ColouredText;

/// Most tokens of a page of texts.
pub const PAGE_TOKENS: usize = 5000;

/// A token of the texts on a page: its document, its text, its values.
pub struct Shown {
    /// Number of its document.
    pub document: usize,
    /// The token.
    pub text: String,
    /// One value per channel.
    pub values: Vec<f32>,
}

/// The texts with one channel's values, a paragraph per document.
pub fn documents(shown: &[Shown], channel: usize) -> Vec<ColouredText> {
    let document = |tokens: &[Shown]| ColouredText {
        caption: format!("document {}", tokens.first().map_or(0, |token| token.document)),
        tokens: tokens.iter().map(|token| (token.text.clone(), token.values[channel].into())).collect(),
        marked: None,
    };
    shown.chunk_by(|a, b| a.document == b.document).map(document).collect()
}

/// A token that is marked among its neighbours.
///
/// # Errors
/// A token that cannot be spelled.
pub fn around(tokenizer: &Tokenizer, found: &Found) -> Result<ColouredText, ModelError> {
    let spell = |(token, value): (&u32, &f32)| Ok((tokenizer.decode(&[*token])?, f64::from(*value)));
    let tokens = found.tokens.iter().zip(&found.values).map(spell).collect::<Result<_, ModelError>>()?;
    let caption = format!("{:.4}  document {}, position {}", found.value(), found.document, found.position);
    Ok(ColouredText { caption, tokens, marked: Some(found.place) })
}

/// A token, and it among its neighbours.
///
/// # Errors
/// A token that cannot be spelled.
pub fn spelled(tokenizer: &Tokenizer, found: &Found) -> Result<[String; 2], ModelError> {
    Ok([tokenizer.decode(&[found.token()])?, tokenizer.decode(&found.tokens)?])
}
