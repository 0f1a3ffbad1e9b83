//! Metrics that have nothing to compare: what is said of them, and when they are an error.

use super::maps::{AskedSet, MapStudy, Named};
use crate::engine::Metric;
use crate::session::{Fault, Note, Observer, distinct};
use anyhow::Result;

/// That a metric is undefined on a dataset, and why.
pub(crate) fn undefined_metric(metric: Metric) -> String {
    format!("{metric} is undefined: clean and corrupted runs do not differ in it, or all prompts are of one class")
}

/// Tells of every dataset which of its maps have no values, and what is done about it.
pub(crate) fn note_undefined<S: MapStudy>(
    study: &S,
    set: &AskedSet<S::Kind>,
    made: &[Named],
    observer: &mut dyn Observer,
) {
    for reason in undefined(study, set, made) {
        let note = format!("{}: {reason}; its values stay empty, without a figure", set.prompts.name);
        observer.note(&Note::Warning(note));
    }
}

/// Why maps that were made, or were there, have no values; each reason once.
fn undefined<S: MapStudy>(study: &S, set: &AskedSet<S::Kind>, made: &[Named]) -> Vec<String> {
    let kept = set.maps.iter().filter_map(|asked| asked.kept.as_ref());
    let empty = kept.chain(made).filter(|named| !named.map.has_values());
    let kind = |named: &Named| set.maps.iter().find(|asked| asked.stem == named.stem).map(|asked| &asked.kind);
    distinct(&empty.filter_map(kind).map(|kind| study.undefined(kind)).collect::<Vec<_>>())
}

/// Refuses to go on where no map that is asked for has a value.
///
/// # Errors
/// Every dataset with the reasons.
pub(crate) fn check_any_defined<S: MapStudy>(study: &S, sets: &[AskedSet<S::Kind>], made: &[Vec<Named>]) -> Result<()> {
    let kept = sets.iter().flat_map(|set| &set.maps).filter_map(|asked| asked.kept.as_ref());
    let mut maps = kept.chain(made.iter().flatten()).peekable();
    if maps.peek().is_none() || maps.any(|named| named.map.has_values()) {
        return Ok(());
    }
    let of_set = |(set, made): (&AskedSet<S::Kind>, &Vec<Named>)| {
        let reasons = undefined(study, set, made).join("; ");
        (!reasons.is_empty()).then(|| format!("{}: {reasons}", set.prompts.name))
    };
    let reasons: Vec<String> = sets.iter().zip(made).filter_map(of_set).collect();
    if reasons.is_empty() { Ok(()) } else { Err(Fault::new(reasons.join("; ")).into()) }
}
