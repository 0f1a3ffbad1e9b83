//! What the suite patches along directions: the residual stream, or the results of heads.

use super::super::heads::{check_head, expected, head_name, listed};
use super::PatchingSuite;
use crate::choice::{Malformed, choices, serde_by_text};
use crate::compat::Compat;
use crate::datasets::PairedPrompts;
use crate::directions::DirectionName;
use crate::engine::{Cell, Mode, PatchPositions};
use crate::experiments::attention::Head;
use crate::experiments::patching_suite::{Base, Layers, head_results_cell, paper_heads, residual_cell};
use crate::model::Model;
use crate::report::SuiteSite;
use crate::session::{Session, wrong};
use crate::sweep::Configuration;
use crate::types::Matrix;
use anyhow::Result;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

choices! {
    /// Where cells patch.
    pub enum PatchedLayers {
        /// At the direction's own layer.
        Own = "own",
        /// In front of every block.
        All = "all",
    }
}

/// Heads whose results are patched, as a text: `paper`, or a list such as `9.2,10.1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heads {
    /// The paper's, of the models that it has a list for.
    Paper,
    /// These, as (layer, head).
    List(Vec<Head>),
}

/// What the paper's heads are called.
const PAPER: &str = "paper";

/// Names of heads, joined.
fn joined(heads: &[Head], separator: &str) -> String {
    heads.iter().map(|&head| head_name(head)).collect::<Vec<_>>().join(separator)
}

impl fmt::Display for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Heads::Paper => f.write_str(PAPER),
            Heads::List(heads) => f.write_str(&joined(heads, ",")),
        }
    }
}

impl FromStr for Heads {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text == PAPER {
            return Ok(Heads::Paper);
        }
        listed(text).map(Heads::List).ok_or_else(|| expected("layer.head such as 9.2, or paper", text).into())
    }
}

serde_by_text!(Heads);

impl Heads {
    /// What they are called in names of files.
    pub(super) fn site(&self) -> SuiteSite {
        match self {
            Heads::Paper => SuiteSite::PaperHeads,
            Heads::List(heads) => SuiteSite::Heads(joined(heads, "-")),
        }
    }

    /// The heads of a model.
    ///
    /// # Errors
    /// A model that the paper has no list for, a head that the model does not have.
    fn of(&self, model: &Model) -> Result<Vec<Head>> {
        let heads = match self {
            Heads::List(heads) => heads.clone(),
            Heads::Paper => match paper_heads(&model.name) {
                Some(heads) => heads.to_vec(),
                None => wrong!("heads", "the paper has no list for {}; name heads, for example 2.0,2.1", model.name),
            },
        };
        heads.iter().try_for_each(|&head| check_head("heads", &model.config, head, head_name(head)))?;
        Ok(heads)
    }
}

/// What all cells of a suite patch in one model.
pub(super) struct Target {
    heads: Option<Vec<Head>>,
    layers: PatchedLayers,
    base: Base,
    n_layers: usize,
}

impl Target {
    /// Finds out what a suite patches in a model.
    ///
    /// # Errors
    /// Heads that the model does not have.
    pub fn new(suite: &PatchingSuite, session: &Session) -> Result<Self> {
        let heads = suite.heads.as_ref().map(|heads| heads.of(session.model())).transpose()?;
        let unpatched = session.options().compat.contains(&Compat::UnpatchedRuns);
        let base = if unpatched { Base::Unpatched } else { Base::Running };
        Ok(Self { heads, layers: suite.layers, base, n_layers: session.config().n_layers })
    }

    /// The positions of a dataset that are patched, by name; of heads, all of them.
    ///
    /// # Errors
    /// A position that the dataset does not have, one position with heads.
    pub fn positions(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        names: &[String],
    ) -> Result<Vec<(String, PatchPositions)>> {
        if self.heads.is_none() {
            return session.positions(prompts, names);
        }
        if let Some(other) = names.iter().find(|name| !["auto", "ALL"].contains(&name.as_str())) {
            wrong!("positions", "with heads every position is patched, expected ALL, found {other}");
        }
        Ok(vec![("ALL".into(), PatchPositions::All)])
    }

    /// Where a direction is patched, as ids of cells name it.
    pub fn in_ids(&self, direction: &DirectionName, positions: PatchPositions) -> Configuration {
        let (site, layers) = match (&self.heads, self.layers) {
            (Some(heads), _) => ("attn_result", joined(heads, ",")),
            (None, PatchedLayers::Own) => ("resid", direction.layer().to_string()),
            (None, PatchedLayers::All) => ("resid", "all".into()),
        };
        let base = (self.base == Base::Unpatched).then(|| ("base", "unpatched".to_owned()));
        let fields = [("position", positions.to_string()), ("site", site.into()), ("layers", layers)];
        fields.into_iter().chain(base).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The cell that patches along `columns`, `(d_model, k)`, of a direction at `layer`.
    pub fn cell(&self, layer: usize, columns: Arc<Matrix>, positions: PatchPositions, mode: Mode) -> Cell {
        let layers = match (&self.heads, self.layers) {
            (Some(heads), _) => return self.base.of(head_results_cell(columns, heads, mode)),
            (None, PatchedLayers::Own) => Layers::Own(layer),
            (None, PatchedLayers::All) => Layers::All,
        };
        self.base.of(residual_cell(columns, layers, positions, mode, self.n_layers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_recorded_as_they_are_named() {
        for name in ["paper", "9.2", "9.2,10.1"] {
            let heads: Heads = serde_json::from_value(name.into()).unwrap();
            assert_eq!(serde_json::to_value(&heads).unwrap(), name);
        }
        assert_eq!("9.2,9.2".parse(), Ok(Heads::List(vec![(9, 2)])));
        assert_eq!("9.2,10.1".parse::<Heads>().unwrap().site().to_string(), "attn_result_9.2-10.1");
        assert_eq!(Heads::Paper.site().to_string(), "attn_result");
        for wrong in ["", "9", "9.x", "9.2,", "papers"] {
            assert!(wrong.parse::<Heads>().unwrap_err().to_string().contains("expected layer.head"), "{wrong}");
        }
    }
}
