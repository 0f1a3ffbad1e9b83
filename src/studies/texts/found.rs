//! Tokens that were found worth showing, spelled for tables and pages.

use crate::experiments::neuroscope::Found;
use crate::model::{ModelError, Tokenizer};
use crate::report::pages::PageText;

/// A token that is marked among its neighbours.
///
/// # Errors
/// A token that cannot be spelled.
pub(super) fn around(tokenizer: &Tokenizer, found: &Found) -> Result<PageText, ModelError> {
    let tokens = found.tokens.iter().map(|token| tokenizer.decode(&[*token])).collect::<Result<_, ModelError>>()?;
    let caption = format!("{:.4}  document {}, position {}", found.value(), found.document, found.position);
    let (marked, values) = (Some(found.place), found.values.clone());
    Ok(PageText { caption, tokens, position: None, marked, values })
}

/// A token, and it among its neighbours.
///
/// # Errors
/// A token that cannot be spelled.
pub(super) fn spelled(tokenizer: &Tokenizer, found: &Found) -> Result<[String; 2], ModelError> {
    Ok([tokenizer.decode(&[found.token()])?, tokenizer.decode(&found.tokens)?])
}
