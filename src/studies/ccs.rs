//! Contrast-consistent search: every layer's direction of truth, without labels.

use super::fields::not_empty;
use super::fits::{is_there, revision};
use super::maps::{AskedSet, MadeMaps, MapSets, MapStudy, Named, maps_study, provenance_of};
use super::probing::passes;
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::datasets::treebank::Split;
use crate::directions::{CcsSettings, Direction, DirectionName, FitRecord, Method};
use crate::engine::{Engine, Flops};
use crate::experiments::probing::{CcsLayers, ccs_layers};
use crate::report::ResultMap;
use crate::report::figure::{Axis, Facet, Figure, Plot, Series};
use crate::session::{Note, Observer, Progress, Provenance, Session, need_classes, processing_names, wrong};
use crate::types::Matrix;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::ops::RangeInclusive;

/// Searches every layer for a direction of truth without labels (contrast-consistent search).
///
/// Every prompt is completed with its positive and its negative answer; at the completion's token, in front of every
/// block and behind the last, contrast-consistent search (no labels) and a logistic regression on the difference of
/// both completions (labels) are fitted on the first half of the prompts and tested on the second. Every layer's
/// direction, from false to true, is stored like those of [`super::FitDirections`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ccs {
    /// Which datasets.
    #[serde(flatten)]
    pub sets: MapSets,
    /// Steps of each try.
    pub epochs: u32,
    /// Random starts, of which the one with the lowest loss counts.
    pub tries: u32,
}

impl Default for Ccs {
    fn default() -> Self {
        Self { sets: MapSets::default(), epochs: 1000, tries: 10 }
    }
}

/// Steps that a try may have.
const EPOCHS: RangeInclusive<u32> = 1..=1_000_000;

/// Random starts there may be.
const TRIES: RangeInclusive<u32> = 1..=1000;

/// The position of a direction of completions: that of the answer's token, behind the prompt.
const ANSWER: &str = "ANSWER";

impl Ccs {
    fn settings(&self, session: &Session) -> CcsSettings {
        let (epochs, tries) = (self.epochs as usize, self.tries as usize);
        CcsSettings { epochs, tries, seed: session.seed(), ..CcsSettings::default() }
    }

    fn direction(&self, prompts: &PairedPrompts, layer: usize) -> Result<DirectionName> {
        Ok(DirectionName::fitted(Method::Ccs, &prompts.name, ANSWER, layer)?)
    }

    /// The directions that the search has found, with their records.
    fn directions(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        found: &CcsLayers,
        observer: &mut dyn Observer,
    ) -> Result<Vec<(Direction, FitRecord)>> {
        let CcsSettings { learning_rate, weight_decay, epochs, tries, seed } = self.settings(session);
        let mut settings = json!({
            "learning_rate": learning_rate, "weight_decay": weight_decay, "epochs": epochs, "tries": tries,
            "dtype": session.options().dtype.name(),
        });
        if Split::of_dataset(&prompts.name).is_some() {
            settings["scaffold"] = json!(self.sets.scaffold);
        }
        let provenance = provenance_of(self, session, prompts, &())?.settings;
        let mut all = Vec::new();
        for (layer, values) in found.directions.iter().enumerate() {
            let name = self.direction(prompts, layer)?;
            let Some(values) = values else {
                let why = "completions by one answer are all the same there";
                observer.note(&Note::Warning(format!("{name} is not written: {why}")));
                continue;
            };
            let record = FitRecord {
                model: session.asked().into(),
                revision: revision(session.model()),
                weight_processing: processing_names(session.model().processing),
                seed,
                compat: session.options().compat(),
                settings: settings.clone(),
                final_metric: found.train.get(layer).copied(),
                provenance: Some(provenance.clone()),
                ..FitRecord::of(&name)
            };
            all.push((Direction { name, columns: Matrix::new(values.len(), 1, values.clone()) }, record));
        }
        Ok(all)
    }
}

maps_study!(Ccs, "ccs", {
    fn validate(&self) -> Result<()> {
        not_empty(&[self.sets.counted()])?;
        for (setting, range, found) in [("epochs", EPOCHS, self.epochs), ("tries", TRIES, self.tries)] {
            if !range.contains(&found) {
                wrong!(setting, "expected {} to {}, found {found}", range.start(), range.end());
            }
        }
        Ok(())
    }
});

impl MapStudy for Ccs {
    type Kind = ();

    fn sets(&self) -> &MapSets {
        &self.sets
    }

    fn kinds(&self, _: &Session, prompts: &PairedPrompts) -> Result<Vec<()>> {
        need_classes("eval_sets", prompts, "a search for truth")?;
        // A name that cannot be a file's is found before the work is done.
        self.direction(prompts, 0)?;
        Ok(vec![()])
    }

    fn stem(&self, session: &Session, (): &(), set: &str) -> String {
        self.sets.stem(session, "ccs", "resid", "accuracy", set)
    }

    fn depends(&self, session: &Session, _: &PairedPrompts, (): &(), provenance: Provenance) -> Result<Provenance> {
        let provenance = provenance.with("epochs", self.epochs)?.with("tries", self.tries)?;
        provenance.with("seed", session.seed())
    }

    fn spares(&self, session: &Session, prompts: &PairedPrompts, (): &(), provenance: &Provenance) -> Result<()> {
        for layer in 0..=session.config().n_layers {
            is_there(session, &self.direction(prompts, layer)?, provenance)?;
        }
        Ok(())
    }

    fn planned(&self, session: &Session, prompts: &PairedPrompts, _: &[()]) -> Result<(String, Flops)> {
        let layers = session.config().n_layers + 1;
        let flops = passes(session.config(), prompts, 2 * layers);
        let fits = format!("{layers} x {} fits of {} epochs", self.tries, self.epochs);
        Ok((format!("{}: {fits}, {flops} for the passes\n", self.stem(session, &(), &prompts.name)), flops))
    }

    fn figure(&self, session: &Session, prompts: &PairedPrompts, (): &(), map: &ResultMap) -> Result<Option<Figure>> {
        let title = format!("Contrast-consistent search on {}, {}", prompts.name, session.model().name);
        Ok(Some(figure(title, map, session.config().n_layers + 1)))
    }
}

impl MadeMaps for Ccs {
    fn make<B: Backend>(
        &self,
        session: &Session,
        engine: &Engine<B>,
        set: &AskedSet<()>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Named>> {
        let prompts = &set.prompts;
        let mut progress = Progress::of_shares(observer, format!("searching {}", prompts.name));
        let told = |share| progress.share(share);
        let found = ccs_layers(engine, prompts, &self.settings(session), engine.memory_budget(), told)?;
        drop(progress);
        let directions = self.directions(session, prompts, &found, observer)?;
        let layers = found.test.len();
        let methods = [
            ("ccs_test", &found.test),
            ("ccs_train", &found.train),
            ("logistic_regression_test", &found.supervised_test),
            ("logistic_regression_train", &found.supervised_train),
        ];
        let values: Vec<f64> = methods.iter().flat_map(|(_, values)| values.iter().copied()).collect();
        let map = ResultMap::percent(&["method", "layer"], vec![methods.len(), layers], &values);
        let map = map.with_components(methods.iter().map(|(name, _)| (*name).to_owned()).collect());
        let weights = Some((vec![layers, session.config().d_model + 1], found.weights));
        Ok(vec![Named { weights, directions, ..Named::new(self.stem(session, &(), &prompts.name), map) }])
    }
}

/// Accuracy over layers, a line per method.
fn figure(title: String, map: &ResultMap, layers: usize) -> Figure {
    let line = |(name, values): (&String, &[f64])| Series {
        name: name.replace('_', " "),
        points: values.iter().enumerate().map(|(layer, value)| (layer as f64, *value)).collect(),
        baseline: false,
    };
    let mut series: Vec<Series> = map.components.iter().zip(map.values.chunks(layers.max(1))).map(line).collect();
    let ends = [0.0, layers.saturating_sub(1) as f64];
    series.push(Series { name: "chance".into(), points: ends.map(|layer| (layer, 50.0)).to_vec(), baseline: true });
    let plot = Plot::Lines(series);
    let facet = Facet { title: String::new(), x: Axis::whole("layer"), y: Axis::new("accuracy (%)"), plot };
    Figure::new(title, vec![facet])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::studies::Study;

    #[test]
    fn steps_and_starts_have_bounds() {
        let message = |study: Ccs| study.validate().unwrap_err().to_string();
        assert_eq!(message(Ccs { epochs: 0, ..Ccs::default() }), "epochs: expected 1 to 1000000, found 0");
        assert_eq!(message(Ccs { tries: 1001, ..Ccs::default() }), "tries: expected 1 to 1000, found 1001");
        assert!(Ccs { epochs: 1_000_000, tries: 1, ..Ccs::default() }.validate().is_ok());
    }
}
