//! Tokens that were found worth showing, spelled for tables and pages.

use crate::experiments::neuroscope::Found;
use crate::model::{ModelError, Tokenizer};
use crate::report::figure::ColouredText;

/// A token that is marked among its neighbours.
///
/// # Errors
/// A token that cannot be spelled.
pub(super) fn around(tokenizer: &Tokenizer, found: &Found) -> Result<ColouredText, ModelError> {
    let spell = |(token, value): (&u32, &f32)| Ok((tokenizer.decode(&[*token])?, f64::from(*value)));
    let tokens = found.tokens.iter().zip(&found.values).map(spell).collect::<Result<_, ModelError>>()?;
    let caption = format!("{:.4}  document {}, position {}", found.value(), found.document, found.position);
    Ok(ColouredText { caption, tokens, marked: Some(found.place) })
}

/// A token, and it among its neighbours.
///
/// # Errors
/// A token that cannot be spelled.
pub(super) fn spelled(tokenizer: &Tokenizer, found: &Found) -> Result<[String; 2], ModelError> {
    Ok([tokenizer.decode(&[found.token()])?, tokenizer.decode(&found.tokens)?])
}
