//! Circuit faithfulness: how much of the clean run the heads of a circuit restore in the corrupted one, and how much all
//! other heads do.
//!
//! The table of the paper's resample ablations: heads whole, only at their positions, or only along directions. A head that
//! is patched along a direction holds its corrupted output with the clean one's component: what other patched heads change
//! in front of it does not pass through it, as it does not through a head that is patched whole.

use crate::engine::{Cell, Change, Edit, EngineError, Mode, Part, PatchPositions, Places, Site, Values};
use crate::model::ModelConfig;
use crate::types::{Matrix, PairedPrompts, numbers};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A head of a circuit.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitHead {
    /// Its block.
    pub layer: usize,
    /// Its number there.
    pub head: usize,
    /// The positions at which it belongs to the circuit.
    pub places: Places,
}

/// Which heads take their clean values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patched {
    /// Those of the circuit.
    Circuit,
    /// All others (at positions: and those of the circuit elsewhere).
    Complement,
    /// All.
    Full,
}

impl Patched {
    /// All three.
    pub const ALL: [Patched; 3] = [Patched::Complement, Patched::Circuit, Patched::Full];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Patched::Circuit => "circuit",
            Patched::Complement => "complement",
            Patched::Full => "full",
        }
    }
}

/// The corrupted run with heads of the clean one; `along` are unit columns by layer, `(d_model, k)`, that the heads are
/// patched along.
///
/// # Errors
/// [`EngineError::Mismatch`] for a head that is not there or is named twice, and a layer that has no direction.
pub fn faithfulness_cell(
    config: &ModelConfig,
    prompts: &PairedPrompts,
    circuit: &[CircuitHead],
    along: Option<&BTreeMap<usize, Arc<Matrix>>>,
    patched: Patched,
) -> Result<Cell, EngineError> {
    let mut places: BTreeMap<(usize, usize), &Places> = BTreeMap::new();
    for CircuitHead { layer, head, places: own } in circuit {
        let there = *layer < config.n_layers && *head < config.n_heads;
        let (n_layers, n_heads) = (config.n_layers, config.n_heads);
        if !there || places.insert((*layer, *head), own).is_some() {
            return Err(EngineError::Mismatch {
                what: "head of a circuit".into(),
                expected: format!("layers {}, heads {}, each head once", numbers(n_layers), numbers(n_heads)),
                found: format!("{layer}.{head}{}", if there { " twice" } else { "" }),
            });
        }
    }
    let mut edits = Vec::new();
    for layer in 0..config.n_layers {
        for head in 0..config.n_heads {
            let own = places.get(&(layer, head)).copied();
            let wanted = match patched {
                Patched::Full => Some(PatchPositions::All.into()),
                Patched::Circuit => own.cloned(),
                Patched::Complement => elsewhere(prompts, own),
            };
            if let Some(wanted) = wanted {
                edits.extend(head_edits((layer, head), wanted, along)?);
            }
        }
    }
    Ok(Cell { mode: Mode::Denoising, edits })
}

/// All positions but these; none if nothing is left.
fn elsewhere(prompts: &PairedPrompts, places: Option<&Places>) -> Option<Places> {
    let Some(places) = places else { return Some(PatchPositions::All.into()) };
    let rest = |(prompt, &sequence): (usize, &usize)| {
        let length = prompts.sequences[sequence].len();
        let own = places.of(prompt, length);
        (0..length).filter(|position| !own.contains(position)).collect::<Vec<_>>()
    };
    let lists: Vec<Vec<usize>> = prompts.corrupted.iter().enumerate().map(rest).collect();
    (!lists.iter().all(Vec::is_empty)).then(|| Places::PerPrompt(Arc::new(lists)))
}

fn head_edits(
    (layer, head): (usize, usize),
    places: Places,
    along: Option<&BTreeMap<usize, Arc<Matrix>>>,
) -> Result<Vec<Edit>, EngineError> {
    let part = Part::Head(head);
    let Some(along) = along else {
        return Ok(vec![Edit { site: Site::Z(layer), part, places, change: Change::Replace(Values::OtherRun) }]);
    };
    let columns = along.get(&layer).ok_or_else(|| EngineError::Mismatch {
        what: "directions to patch heads along".into(),
        expected: format!("one for layer {layer}"),
        found: "none".into(),
    })?;
    let frozen = Change::Replace(Values::OwnRun);
    let swapped = Change::Swap(Values::OtherRun, columns.clone());
    Ok(vec![
        Edit { site: Site::Z(layer), part, places: places.clone(), change: frozen },
        Edit { site: Site::Result(layer), part, places, change: swapped },
    ])
}
