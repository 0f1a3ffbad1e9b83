//! Tokens that people have labelled, and how well the ends of a channel's values tell the labels apart.

use super::{Distribution, Reading};
use crate::model::{ModelError, Tokenizer};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// The labels that an end of a good direction has.
const SIGNS: [&str; 2] = ["Positive", "Negative"];

/// What can be wrong with a file of labels.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// It cannot be read, or a line is none.
    #[error("{path}: expected columns document, position, token, sentiment: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: csv::Error,
    },
    /// It does not fit the corpus.
    #[error("{path}: {place}: expected {expected}, found {found}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Which of its lines.
        place: String,
        /// What would fit.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A token that the tokenizer cannot spell.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// One line of the file; other columns are skipped.
#[derive(Debug, Deserialize)]
struct Line {
    document: usize,
    position: usize,
    token: String,
    sentiment: String,
}

#[derive(Debug, Clone)]
struct Labelled {
    token: String,
    sentiment: String,
    /// One per channel, once the pass has come by.
    values: Vec<f32>,
}

/// Labels of tokens of a corpus, by place.
#[derive(Debug, Clone)]
pub struct Labels {
    path: PathBuf,
    places: HashMap<(usize, usize), Labelled>,
}

/// How well the two ends of a channel tell the labels apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accuracy {
    /// Labelled tokens above the upper and below the lower threshold.
    pub labelled: (usize, usize),
    /// Mean over both ends of the share of their more frequent sign, neutral tokens counted: the paper's, which two ends of
    /// one sign pass too.
    pub paper: f64,
    /// The same with the ends being of opposite signs, whichever way round.
    pub opposite: f64,
}

impl Labels {
    /// Reads a file of samples to which a column `sentiment` was added.
    ///
    /// # Errors
    /// [`LabelError::File`]; [`LabelError::Content`] for no labels, and for a place that has two.
    pub fn read(path: &Path) -> Result<Self, LabelError> {
        let failed = |source| LabelError::File { path: path.into(), source };
        let content = |place: String, expected: &str, found: String| LabelError::Content {
            path: path.into(),
            place,
            expected: expected.into(),
            found,
        };
        let mut places: HashMap<(usize, usize), Labelled> = HashMap::new();
        for line in csv::Reader::from_path(path).map_err(failed)?.deserialize() {
            let Line { document, position, token, sentiment } = line.map_err(failed)?;
            let sentiment = sentiment.trim().to_owned();
            let place = || format!("document {document}, position {position}");
            if sentiment.is_empty() {
                return Err(content(place(), "a sentiment", "none".into()));
            }
            let new = Labelled { token, sentiment, values: Vec::new() };
            match places.get(&(document, position)) {
                // One token may be a sample of several directions.
                Some(old) if old.sentiment != new.sentiment => {
                    return Err(content(place(), &format!("one sentiment ({})", old.sentiment), new.sentiment));
                }
                _ => places.insert((document, position), new),
            };
        }
        match places.is_empty() {
            true => Err(content("file".into(), "labels", "none".into())),
            false => Ok(Self { path: path.into(), places }),
        }
    }

    /// Looks at a token, which has to be the labelled one if its place has a label.
    ///
    /// # Errors
    /// [`LabelError::Content`].
    pub fn add(&mut self, reading: &Reading<'_>, tokenizer: &Tokenizer) -> Result<(), LabelError> {
        let (document, position) = (reading.document(), reading.position());
        let Some(labelled) = self.places.get_mut(&(document, position)) else { return Ok(()) };
        let token = tokenizer.decode(&[reading.token()])?;
        if token != labelled.token {
            return Err(LabelError::Content {
                path: self.path.clone(),
                place: format!("document {document}, position {position}"),
                expected: format!("the corpus' token {token:?}"),
                found: format!("{:?}", labelled.token),
            });
        }
        labelled.values = reading.values.to_vec();
        Ok(())
    }

    /// Has the pass come by all of them?
    ///
    /// # Errors
    /// [`LabelError::Content`] for a place that the corpus does not have.
    pub fn check(&self) -> Result<(), LabelError> {
        let missing = self.places.iter().filter(|(_, labelled)| labelled.values.is_empty()).map(|(place, _)| place);
        match missing.min() {
            None => Ok(()),
            Some((document, position)) => Err(LabelError::Content {
                path: self.path.clone(),
                place: format!("document {document}, position {position}"),
                expected: "a token of the corpus".into(),
                found: "none there".into(),
            }),
        }
    }

    /// Values and labels of a channel.
    fn of_channel(&self, channel: usize) -> impl Iterator<Item = (f64, &str)> {
        let value = move |labelled: &'_ Labelled| labelled.values.get(channel).copied().map(f64::from);
        self.places.values().filter_map(move |labelled| Some((value(labelled)?, labelled.sentiment.as_str())))
    }

    /// The accuracy of a channel whose values above the quantile `1 - share` and below `share` are taken for labels; none
    /// when no labelled token lies there, or when values have no quantiles.
    pub fn accuracy(&self, channel: usize, distribution: &Distribution, share: f64) -> Option<Accuracy> {
        let (low, high) = (distribution.quantile(share)?, distribution.quantile(1.0 - share)?);
        let shares = |inside: &dyn Fn(f64) -> bool| {
            let labels: Vec<&str> =
                self.of_channel(channel).filter(|(v, _)| inside(*v)).map(|(_, label)| label).collect();
            let share =
                |sign: &str| labels.iter().filter(|label| **label == sign).count() as f64 / labels.len().max(1) as f64;
            (labels.len(), SIGNS.map(share))
        };
        let (above, top) = shares(&|value| value > high);
        let (below, bottom) = shares(&|value| value < low);
        let mean = |a: f64, b: f64| (a + b) / 2.0;
        (above > 0 && below > 0).then(|| Accuracy {
            labelled: (above, below),
            paper: mean(top[0].max(top[1]), bottom[0].max(bottom[1])),
            opposite: mean(top[0], bottom[1]).max(mean(top[1], bottom[0])),
        })
    }

    /// Shares of every label in `n` equal parts of the range of a channel's labelled values, those without a label left
    /// out: the middle of each part, and by label its share there.
    pub fn proportions(&self, channel: usize, n: usize) -> Vec<(f64, BTreeMap<String, f64>)> {
        let all: Vec<(f64, &str)> = self.of_channel(channel).collect();
        let (low, high) = all.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), (v, _)| (l.min(*v), h.max(*v)));
        let width = (high - low) / n as f64;
        let part = |value: f64| if width > 0.0 { (((value - low) / width) as usize).min(n - 1) } else { 0 };
        let mut counts: BTreeMap<usize, BTreeMap<String, f64>> = BTreeMap::new();
        for (value, label) in &all {
            // Every label has a share in every part.
            let of_part = counts
                .entry(part(*value))
                .or_insert_with(|| all.iter().map(|(_, label)| ((*label).to_owned(), 0.0)).collect());
            *of_part.entry((*label).to_owned()).or_default() += 1.0;
        }
        let shares = |(number, mut labels): (usize, BTreeMap<String, f64>)| {
            let total: f64 = labels.values().sum();
            labels.values_mut().for_each(|count| *count /= total);
            (low + (number as f64 + 0.5) * width, labels)
        };
        counts.into_iter().map(shares).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(of: &[(f32, &str)]) -> Labels {
        let labelled = |(number, (value, label)): (usize, &(f32, &str))| {
            let labelled = Labelled { token: String::new(), sentiment: (*label).into(), values: vec![*value] };
            ((0, number), labelled)
        };
        Labels { path: "labels.csv".into(), places: of.iter().enumerate().map(labelled).collect() }
    }

    #[test]
    fn ends_of_one_sign_pass_the_papers_accuracy_alone() {
        let mut all = Distribution::new(true);
        (0..1000).for_each(|step| all.add(step as f32 / 1000.0 - 0.5));
        let good = labels(&[
            (0.49, "Positive"),
            (0.48, "Positive"),
            (0.47, "Neutral"),
            (-0.49, "Negative"),
            (0.0, "Negative"),
        ]);
        let found = good.accuracy(0, &all, 0.05).unwrap();
        assert_eq!((found.labelled, found.paper, found.opposite), ((3, 1), 5.0 / 6.0, 5.0 / 6.0));
        let one_sided = labels(&[(0.49, "Positive"), (-0.49, "Positive")]);
        let found = one_sided.accuracy(0, &all, 0.05).unwrap();
        assert_eq!((found.paper, found.opposite), (1.0, 0.5));
        assert_eq!(labels(&[(0.49, "Positive")]).accuracy(0, &all, 0.05), None);
        let shares = good.proportions(0, 2);
        assert_eq!(shares.len(), 2);
        assert_eq!((shares[0].1["Negative"], shares[1].1["Negative"], shares[1].1["Positive"]), (1.0, 0.25, 0.5));
    }

    #[test]
    fn faults_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.csv");
        let complaint = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Labels::read(&path).unwrap_err().to_string()
        };
        let header = "document,position,token,sentiment\n";
        for (text, words) in [
            ("document,position,token\n0,1, a\n", "sentiment"),
            (&format!("{header}0,x, a,Positive\n"), "line 2"),
            (&format!("{header}0,1, a,\n"), "document 0, position 1: expected a sentiment"),
            (&format!("{header}0,1, a,Positive\n0,1, a,Negative\n"), "one sentiment (Positive), found Negative"),
            (header, "expected labels, found none"),
        ] {
            let message = complaint(text);
            assert!(message.contains(words) && message.contains("labels.csv"), "{message}");
        }
        assert!(labels(&[]).check().is_ok());
        let unread = Labels {
            places: HashMap::from([(
                (2, 5),
                Labelled { token: " a".into(), sentiment: "Positive".into(), values: vec![] },
            )]),
            ..labels(&[])
        };
        assert!(
            unread.check().unwrap_err().to_string().contains("document 2, position 5: expected a token of the corpus")
        );
    }
}
