//! The page of predictions: the likeliest tokens at a position, run beside run, and the logit lens.

use super::View;
use super::packed::floats;
use crate::report::{PredictedAs, PredictionRow};
use serde::Serialize;
use std::collections::BTreeMap;

/// What runs of prompts predict at every layer and position.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PredictionsPage {
    /// Above everything.
    title: String,
    /// Names of the layers, in the order in which they were read.
    layers: Vec<String>,
    /// Names of the runs.
    runs: Vec<String>,
    /// Texts of all tokens that the page shows, each of which it names by its place here.
    vocabulary: Vec<String>,
    /// How many of the likeliest tokens every prediction has.
    top: usize,
    prompts: Vec<PredictedPrompt>,
}

/// A prompt with its runs, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct PredictedPrompt {
    caption: String,
    runs: Vec<PredictedRun>,
}

/// What a run predicts. Numbers are those of one position after the other, and within it layer by layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct PredictedRun {
    /// The sequence.
    tokens: Vec<usize>,
    /// The likeliest tokens, `(positions, layers, top)`, and their log probabilities.
    #[serde(serialize_with = "floats")]
    likeliest: Vec<f32>,
    #[serde(serialize_with = "floats")]
    values: Vec<f32>,
    /// What is asked for: position, token, and why.
    asked: Vec<(usize, usize, PredictedAs)>,
    /// Its ranks, `(layers, tokens that are asked for there)` for every position, and log probabilities.
    #[serde(serialize_with = "floats")]
    ranks: Vec<f32>,
    #[serde(serialize_with = "floats")]
    asked_values: Vec<f32>,
}

/// The texts of tokens, each of which has its place from when it is first seen.
#[derive(Default)]
struct Vocabulary<'a> {
    places: BTreeMap<u32, usize>,
    texts: Vec<&'a str>,
}

impl<'a> Vocabulary<'a> {
    fn place(&mut self, id: u32, text: &'a str) -> usize {
        *self.places.entry(id).or_insert_with(|| {
            self.texts.push(text);
            self.texts.len() - 1
        })
    }
}

impl PredictionsPage {
    /// A page of a table's rows, in their order; `n_layers` is that of the model.
    pub fn new(title: String, n_layers: usize, rows: &[PredictionRow]) -> Self {
        let mut vocabulary = Vocabulary::default();
        let mut layers: Vec<usize> = rows.iter().map(|row| row.layer).collect();
        layers.sort_unstable();
        layers.dedup();
        let top = rows.iter().filter(|row| row.role == PredictedAs::Top).map(|row| row.rank).max().unwrap_or(0);
        let (mut runs, mut prompts) = (Vec::new(), Vec::new());
        for of_prompt in rows.chunk_by(|a, b| a.prompt == b.prompt) {
            let sequences: Vec<&[PredictionRow]> = of_prompt.chunk_by(|a, b| a.sequence() == b.sequence()).collect();
            runs = sequences.iter().filter_map(|rows| rows.first()).map(PredictionRow::run_name).collect();
            prompts.push(PredictedPrompt {
                caption: of_prompt.first().map_or(String::new(), |row| format!("prompt {}", row.prompt)),
                runs: sequences.into_iter().map(|rows| PredictedRun::new(rows, &mut vocabulary)).collect(),
            });
        }
        let layer = |layer: usize| if layer == n_layers { format!("{layer} (end)") } else { layer.to_string() };
        Self {
            title,
            layers: layers.into_iter().map(layer).collect(),
            runs,
            vocabulary: vocabulary.texts.into_iter().map(str::to_owned).collect(),
            top,
            prompts,
        }
    }
}

impl PredictedRun {
    fn new<'a>(rows: &'a [PredictionRow], vocabulary: &mut Vocabulary<'a>) -> Self {
        let mut run = Self::default();
        for of_position in rows.chunk_by(|a, b| a.position == b.position) {
            let Some(first) = of_position.first() else { continue };
            run.tokens.push(vocabulary.place(first.token_id, &first.token));
            for row in of_position {
                let predicted = vocabulary.place(row.predicted_id, &row.predicted);
                if row.role == PredictedAs::Top {
                    run.likeliest.push(predicted as f32);
                    run.values.push(row.log_probability);
                    continue;
                }
                if row.layer == first.layer {
                    run.asked.push((row.position, predicted, row.role));
                }
                run.ranks.push(row.rank as f32);
                run.asked_values.push(row.log_probability);
            }
        }
        run
    }
}

impl View for PredictionsPage {
    const NAME: &'static str = "predictions";
    const SCRIPT: &'static str = include_str!("predictions.js");

    fn title(&self) -> &str {
        &self.title
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::PredictedBy;

    fn row(position: usize, layer: usize, role: PredictedAs, rank: usize, predicted: u32) -> PredictionRow {
        PredictionRow {
            prompt: 3,
            run: PredictedBy::Clean,
            patched: "none".into(),
            patched_positions: "none".into(),
            position,
            token: format!("t{}", 10 + position),
            layer,
            role,
            rank,
            predicted: format!("t{predicted}"),
            log_probability: -(rank as f32),
            predicted_id: predicted,
            token_id: 10 + position as u32,
        }
    }

    #[test]
    fn predictions_stand_position_by_position_and_layer_by_layer() {
        use PredictedAs::{Correct, Incorrect, Next, Top};
        let rows = [
            row(0, 1, Top, 1, 7),
            row(0, 1, Next, 5, 11),
            row(0, 2, Top, 1, 11),
            row(0, 2, Next, 1, 11),
            row(1, 1, Top, 1, 7),
            row(1, 1, Correct, 4, 8),
            row(1, 1, Incorrect, 6, 9),
            row(1, 2, Top, 1, 8),
            row(1, 2, Correct, 1, 8),
            row(1, 2, Incorrect, 2, 9),
        ];
        let page = PredictionsPage::new("title".into(), 2, &rows);
        assert_eq!((page.layers, page.runs, page.top), (vec!["1".into(), "2 (end)".into()], vec!["clean".into()], 1));
        let texts = |places: &[usize]| places.iter().map(|&place| &*page.vocabulary[place]).collect::<Vec<_>>();
        let PredictedPrompt { caption, runs } = &page.prompts[0];
        let [run] = &runs[..] else { panic!("{runs:?}") };
        assert_eq!((&**caption, texts(&run.tokens)), ("prompt 3", vec!["t10", "t11"]));
        let likeliest: Vec<usize> = run.likeliest.iter().map(|place| *place as usize).collect();
        assert_eq!(texts(&likeliest), ["t7", "t11", "t7", "t8"]);
        let asked: Vec<_> = run.asked.iter().map(|&(at, token, role)| (at, &*page.vocabulary[token], role)).collect();
        assert_eq!(asked, [(0, "t11", Next), (1, "t8", Correct), (1, "t9", Incorrect)]);
        assert_eq!(run.ranks, [5.0, 1.0, 4.0, 6.0, 1.0, 2.0]);
        assert_eq!(run.asked_values, [-5.0, -1.0, -4.0, -6.0, -1.0, -2.0]);
    }
}
