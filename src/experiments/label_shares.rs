//! What people's labels say of values: the share of every label along them, and how well the ends tell signs apart.

use crate::files::{TextError, read_text};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The labels that an end of a good direction has.
const SIGNS: [&str; 2] = ["Positive", "Negative"];

/// What can be wrong with a file of labels.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: csv::Error,
    },
    /// It is no file of labels.
    #[error("{path}: {place}: expected {expected}, found {found}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Which of its lines or columns.
        place: String,
        /// What would fit.
        expected: String,
        /// What is there.
        found: String,
    },
}

/// Values with labels: those of one direction at one layer, or all of a file that knows no directions.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    /// Direction and layer, if the file has them.
    pub keys: Vec<String>,
    /// Every value with its label.
    pub values: Vec<(f64, String)>,
}

/// A part of the range of the values.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Its middle.
    pub middle: f64,
    /// How many values lie in it.
    pub count: usize,
    /// Share of every label of the file.
    pub shares: BTreeMap<String, f64>,
}

/// How well the two ends of the values tell the labels apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accuracy {
    /// Labelled tokens above the upper and below the lower quantile of all tokens.
    pub labelled: [usize; 2],
    /// Mean over both ends of the share of their more frequent sign, neutral tokens counted: the paper's, which two
    /// ends of one sign pass too.
    pub paper: f64,
    /// The same with the ends being of opposite signs, whichever way round.
    pub opposite: f64,
}

/// Columns that tell directions apart.
pub const KEYS: [&str; 2] = ["direction", "layer"];

/// Reads a table that has `value` and `label` among its columns, and may have both of [`KEYS`].
///
/// # Errors
/// [`LabelError::File`]; [`LabelError::Content`] for a line that is no text in UTF-8, a column that is not there, a
/// value that is no finite number, a row without a label, no rows at all.
pub fn read(path: &Path, value: &str, label: &str) -> Result<Vec<Labelled>, LabelError> {
    let failed = |source| LabelError::File { path: path.into(), source };
    let content = |place: String, expected: &str, found: &str| LabelError::Content {
        path: path.into(),
        place,
        expected: expected.into(),
        found: found.into(),
    };
    let text = read_text(path).map_err(|error| match error {
        TextError::Io(source) => failed(source.into()),
        TextError::Line(line) => content(format!("line {}", line.line), &line.expected, &line.found),
    })?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().map_err(failed)?.clone();
    let column = |name: &str| header.iter().position(|head| head == name);
    let needed = |name: &str| {
        let there: String = header.iter().collect::<Vec<_>>().join(",").chars().take(200).collect();
        let there = if there.is_empty() { "none" } else { &there };
        column(name).ok_or_else(|| content("header".into(), &format!("a column {name} of a CSV table"), there))
    };
    let (value, label) = (needed(value)?, needed(label)?);
    let keys = match KEYS.map(column) {
        [Some(direction), Some(layer)] => vec![direction, layer],
        _ => Vec::new(),
    };
    let mut groups: BTreeMap<Vec<String>, Vec<(f64, String)>> = BTreeMap::new();
    for (number, record) in reader.records().enumerate() {
        let record = record.map_err(failed)?;
        let cell = |column: usize| record.get(column).unwrap_or_default().trim();
        let line = || format!("line {}", record.position().map_or(number as u64 + 2, csv::Position::line));
        let found: Option<f64> = cell(value).parse().ok().filter(|number: &f64| number.is_finite());
        let found = found.ok_or_else(|| content(line(), "a finite value", cell(value)))?;
        if cell(label).is_empty() {
            return Err(content(line(), "a label", "none"));
        }
        let keys = keys.iter().map(|&column| cell(column).to_owned()).collect();
        groups.entry(keys).or_default().push((found, cell(label).to_owned()));
    }
    match groups.is_empty() {
        true => Err(content("file".into(), "labels", "none")),
        false => Ok(groups.into_iter().map(|(keys, values)| Labelled { keys, values }).collect()),
    }
}

impl Labelled {
    /// The values in `n` equal parts of their range, those without a value left out; where there are no more different
    /// values than that, such as coefficients, every one is a part of its own.
    pub fn parts(&self, n: usize) -> Vec<Part> {
        let mut different: Vec<f64> = self.values.iter().map(|(value, _)| *value).collect();
        different.sort_by(f64::total_cmp);
        different.dedup();
        let apart = different.len() <= n;
        let ends = (f64::INFINITY, f64::NEG_INFINITY);
        let (low, high) = self.values.iter().fold(ends, |(low, high), (value, _)| (low.min(*value), high.max(*value)));
        let width = (high - low) / n as f64;
        let part = |value: f64| match apart {
            true => different.partition_point(|other| *other < value),
            false => (((value - low) / width) as usize).min(n - 1),
        };
        let labels: BTreeSet<&String> = self.values.iter().map(|(_, label)| label).collect();
        let mut counts: BTreeMap<usize, Vec<&String>> = BTreeMap::new();
        for (value, label) in &self.values {
            counts.entry(part(*value)).or_default().push(label);
        }
        let shares = |(number, found): (usize, Vec<&String>)| {
            let share = |label: &&String| found.iter().filter(|one| *one == label).count() as f64 / found.len() as f64;
            Part {
                middle: if apart { different[number] } else { low + (number as f64 + 0.5) * width },
                count: found.len(),
                shares: labels.iter().map(|label| ((*label).clone(), share(label))).collect(),
            }
        };
        counts.into_iter().map(shares).collect()
    }

    /// The accuracy of the values below and above two quantiles of all tokens' values; none when no label lies beyond
    /// one of them.
    pub fn accuracy(&self, [lower, upper]: [f64; 2]) -> Option<Accuracy> {
        let shares = |inside: &dyn Fn(f64) -> bool| {
            let labels: Vec<&String> = self.values.iter().filter(|(v, _)| inside(*v)).map(|(_, label)| label).collect();
            let share =
                |sign: &str| labels.iter().filter(|label| label.as_str() == sign).count() as f64 / labels.len() as f64;
            (labels.len(), SIGNS.map(share))
        };
        let ((above, top), (below, bottom)) = (shares(&|value| value > upper), shares(&|value| value < lower));
        let mean = |a: f64, b: f64| (a + b) / 2.0;
        (above > 0 && below > 0).then(|| Accuracy {
            labelled: [above, below],
            paper: mean(top[0].max(top[1]), bottom[0].max(bottom[1])),
            opposite: mean(top[0], bottom[1]).max(mean(top[1], bottom[0])),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(values: &[(f64, &str)]) -> Labelled {
        let values = values.iter().map(|(value, label)| (*value, (*label).to_owned())).collect();
        Labelled { keys: vec!["das".into(), "1".into()], values }
    }

    #[test]
    fn ends_of_one_sign_pass_the_papers_accuracy_alone() {
        let accuracy = |values: &[(f64, &str)]| labelled(values).accuracy([-0.4, 0.4]);
        let good = [(0.49, "Positive"), (0.48, "Positive"), (0.47, "Neutral"), (-0.49, "Negative"), (0.0, "Negative")];
        let found = accuracy(&good).unwrap();
        let mean = (2.0 / 3.0 + 1.0) / 2.0;
        assert_eq!((found.labelled, found.paper, found.opposite), ([3, 1], mean, mean));
        let found = accuracy(&[(0.49, "Positive"), (-0.49, "Positive")]).unwrap();
        assert_eq!((found.paper, found.opposite), (1.0, 0.5));
        assert_eq!(accuracy(&[(0.49, "Positive")]), None);
        let parts = labelled(&good).parts(2);
        assert_eq!((parts.len(), parts[0].count, parts[1].count), (2, 1, 4));
        assert_eq!((parts[0].shares["Negative"], parts[1].shares["Negative"]), (1.0, 0.25));
        assert_eq!((parts[0].shares["Positive"], parts[1].shares["Positive"]), (0.0, 0.5));
        assert!((parts[0].middle + 0.245).abs() < 1e-12, "{}", parts[0].middle);
        assert_eq!(labelled(&[(2.0, "a"), (2.0, "b")]).parts(50)[0].shares["a"], 0.5);
        let coefficients = labelled(&[(8.0, "a"), (-8.0, "b"), (0.0, "a"), (-0.0, "b")]).parts(3);
        let found: Vec<_> = coefficients.iter().map(|part| (part.middle, part.count)).collect();
        assert_eq!(found, [(-8.0, 1), (0.0, 2), (8.0, 1)]);
    }

    #[test]
    fn faults_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.csv");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            super::read(&path, "value", "sentiment")
        };
        std::fs::write(&path, b"value,sentiment\n1,caf\xe9\n").unwrap();
        let latin = super::read(&path, "value", "sentiment").unwrap_err().to_string();
        assert!(latin.contains("labels.csv: line 2: expected UTF-8"), "{latin}");
        for (text, words) in [
            ("value,token\n0, a\n", "header: expected a column sentiment of a CSV table, found value,token"),
            ("sentiment\nPositive\n", "header: expected a column value"),
            ("value,sentiment\nx,Positive\n", "line 2: expected a finite value, found x"),
            ("value,sentiment\nNaN,Positive\n", "line 2: expected a finite value"),
            ("value,sentiment\n1,Positive\n1,\n", "line 3: expected a label, found none"),
            ("value,sentiment\n1\n", "labels.csv: "),
            ("value,sentiment\n", "expected labels, found none"),
            ("value,sentiment\n1,a\0\n", "line 2: expected a text, found a NUL character behind byte 3"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(words) && message.contains("labels.csv"), "{message}");
        }
        let found = read("layer,value,direction,sentiment\n2,1,das,Positive\n10,2,das,Neutral\n2,3,das, Negative\n");
        let found = found.unwrap();
        assert_eq!(found.iter().map(|group| group.keys.join("@")).collect::<Vec<_>>(), ["das@10", "das@2"]);
        assert_eq!(found[1].values, [(1.0, "Positive".to_owned()), (3.0, "Negative".to_owned())]);
        assert_eq!(read("value,sentiment\n1,a\n").unwrap()[0].keys, Vec::<String>::new());
        let marked = read("\u{feff}value,sentiment\r\n1,a\r\n").unwrap();
        assert_eq!(marked[0].values, [(1.0, "a".to_owned())]);
    }
}
