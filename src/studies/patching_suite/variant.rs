//! What sets a table of the suite apart from others of its metric and site, as the end of its name.

use super::{PatchedLayers, Projection};
use crate::choice::Malformed;
use std::fmt;
use std::str::FromStr;

/// The parts of the end, which names have in this order, joined by `_`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Where cells patch.
    pub layers: PatchedLayers,
    /// What they keep of a direction.
    pub projection: Option<Projection>,
    /// Names of the ways of the paper's code that they follow.
    pub compat: Vec<String>,
}

const ALL_LAYERS: &str = "all_layers";
const COMPAT: &str = "compat";

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = (self.layers == PatchedLayers::All).then_some(ALL_LAYERS);
        let compat = (!self.compat.is_empty()).then_some(COMPAT);
        let parts = layers.into_iter().chain(self.projection.map(Projection::name)).chain(compat);
        let parts: Vec<&str> = parts.chain(self.compat.iter().map(String::as_str)).collect();
        f.write_str(&parts.join("_"))
    }
}

impl FromStr for Variant {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut rest = text.split('_').peekable();
        let all = text == ALL_LAYERS || text.starts_with(&format!("{ALL_LAYERS}_"));
        let layers = if all { PatchedLayers::All } else { PatchedLayers::Own };
        rest.by_ref().take(if all { 2 } else { 0 }).for_each(drop);
        let projection = rest.peek().and_then(|part| part.parse().ok());
        if projection.is_some() {
            rest.next();
        }
        let compat = match rest.next() {
            None | Some("") => Vec::new(),
            Some(COMPAT) => rest.map(str::to_owned).collect(),
            Some(_) => return Err(format!("expected the end of a table's name, found {text:?}").into()),
        };
        Ok(Self { layers, projection, compat })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_read_as_they_are_written() {
        for layers in PatchedLayers::ALL {
            for projection in [None, Some(Projection::Parallel), Some(Projection::Orthogonal)] {
                for compat in [vec![], vec!["double-spaces".to_owned(), "unprocessed-fits".to_owned()]] {
                    let variant = Variant { layers, projection, compat };
                    assert_eq!(variant.to_string().parse(), Ok(variant));
                }
            }
        }
        assert!("all".parse::<Variant>().unwrap_err().to_string().contains("\"all\""));
    }
}
