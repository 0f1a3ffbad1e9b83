//! The four text files and their lines.

use super::TreebankError;
use std::path::{Path, PathBuf};

/// The names each of the four files may have; the corrected one comes first.
pub const FILES: [&[&str]; 4] = [
    &["datasetSentences_fixed.txt", "datasetSentences.txt"],
    &["dictionary_fixed.txt", "dictionary.txt"],
    &["sentiment_labels.txt"],
    &["datasetSplit.txt"],
];

/// The folder's name inside the official archive.
const INNER: &str = "stanfordSentimentTreebank";

/// Where the four files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreebankFiles {
    /// Sentence index, tab, sentence.
    pub sentences: PathBuf,
    /// Phrase, bar, phrase id.
    pub dictionary: PathBuf,
    /// Phrase id, bar, score between 0 and 1.
    pub labels: PathBuf,
    /// Sentence index, comma, split.
    pub splits: PathBuf,
}

impl TreebankFiles {
    /// Finds the files in `root`, or in the folder `stanfordSentimentTreebank` in it.
    ///
    /// # Errors
    /// The names of the files that neither folder has.
    pub fn find(root: &Path) -> Result<Self, Vec<String>> {
        let in_folder = |folder: &Path| {
            FILES.map(|names| names.iter().map(|name| folder.join(name)).find(|path| path.is_file()).ok_or(names))
        };
        let complete = |found: [Result<PathBuf, &[&str]>; 4]| match found {
            [Ok(sentences), Ok(dictionary), Ok(labels), Ok(splits)] => {
                Ok(Self { sentences, dictionary, labels, splits })
            }
            found => Err(found.into_iter().filter_map(Result::err).map(|names| names.join(" or ")).collect()),
        };
        complete(in_folder(root)).or_else(|missing: Vec<String>| match complete(in_folder(&root.join(INNER))) {
            Ok(files) => Ok(files),
            // Whichever folder has more of them is the one that was meant.
            Err(inner) if inner.len() < missing.len() => Err(inner),
            Err(_) => Err(missing),
        })
    }

    /// The four paths.
    pub fn paths(&self) -> [&Path; 4] {
        [&self.sentences, &self.dictionary, &self.labels, &self.splits]
    }
}

/// One line cut into its two fields.
pub(super) struct Line<'a> {
    path: &'a Path,
    /// From 1.
    pub number: usize,
    pub fields: (&'a str, &'a str),
}

impl Line<'_> {
    pub fn error(&self, field: &'static str, expected: &str, found: &str) -> TreebankError {
        let (path, expected, found) = (self.path.into(), expected.into(), found.chars().take(80).collect());
        TreebankError::Line { path, line: self.number, field, expected, found }
    }

    /// A field that is a whole number.
    pub fn number(&self, field: &'static str, text: &str) -> Result<u64, TreebankError> {
        text.trim().parse().map_err(|_| self.error(field, "a whole number", text))
    }
}

/// What a file's lines look like.
pub(super) struct Shape {
    pub separator: char,
    /// Cut at the last separator instead of the first: the text comes first and may hold one itself.
    pub text_first: bool,
    pub has_header: bool,
}

/// The bytes of a file as text, without a byte order mark.
pub(super) fn read(path: &Path) -> Result<String, TreebankError> {
    let bytes = std::fs::read(path).map_err(|source| TreebankError::Io { path: path.into(), source })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
        let found = error.as_bytes()[valid..].iter().take(4).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
        let (field, found) = ("text", format!("bytes {}", found.join(" ")));
        TreebankError::Line { path: path.into(), line, field, expected: "UTF-8".into(), found }
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Calls `each` for every line that is neither empty nor the header. Lines end in LF or CRLF.
pub(super) fn for_each_line<'a>(
    path: &'a Path,
    text: &'a str,
    shape: &Shape,
    mut each: impl FnMut(Line<'a>) -> Result<(), TreebankError>,
) -> Result<(), TreebankError> {
    let mut first = true;
    for (index, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.trim().is_empty() {
            continue;
        }
        let number = index + 1;
        let cut = if shape.text_first { line.rsplit_once(shape.separator) } else { line.split_once(shape.separator) };
        let Some(fields) = cut else {
            let expected = format!("two fields with {:?} between them", shape.separator);
            return Err(Line { path, number, fields: ("", "") }.error("line", &expected, line));
        };
        let header = std::mem::take(&mut first) && shape.has_header && fields.0.trim().parse::<u64>().is_err();
        // A header has no number in either field; a broken first line has one.
        if header && fields.1.trim().parse::<f64>().is_err() {
            continue;
        }
        each(Line { path, number, fields })?;
    }
    Ok(())
}
