//! Texts of any number as rows of tokens, read from a file piece by piece.
//!
//! Every line of a file that is not blank is a document; in a file whose name ends in `.jsonl` it is `{"text": "…"}` or
//! `{"tokens": [1, 2]}` (other fields are skipped), and in an `.npy` file every row of an array of token ids is one. A
//! byte order mark at the beginning and line ends, CRLF among them, are no part of a document; a NUL character is an
//! error (in `.jsonl` a text may hold one as `\u0000`). Documents do not run together: each is cut into rows of its
//! own, and every row begins with BOS where the model has one; where given tokens begin with it already it is that one.

use super::token_array::TokenArray;
use crate::files::text_of_line;
use crate::model::{ModelError, Tokenizer};
use crate::types::numbers;
use serde::Deserialize;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Longest line of a file, in bytes: a document is in memory as a whole.
const LONGEST_LINE: u64 = 16 << 20;

/// What can be wrong with a corpus.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line that is no document.
    #[error("{path}: line {line}: expected {expected}, found {found}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
        /// What would fit.
        expected: String,
        /// What is there.
        found: String,
    },
    /// An array that holds no tokens of the model.
    #[error("{path}: {field}: expected {expected}, found {found}")]
    Array {
        /// The file.
        path: PathBuf,
        /// A field of its head, or a place in the array, from 0.
        field: String,
        /// What would fit.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file of a format that is not read.
    #[error("{path}: format: expected texts, one a line, or .jsonl or .npy, found .{found}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its ending.
        found: String,
    },
    /// No token in the whole corpus.
    #[error("{name}: expected a text, found none")]
    Empty {
        /// The file.
        name: String,
    },
    /// A text that the tokenizer refuses.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// How a file of documents is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CorpusFormat {
    /// A text in every line.
    Lines,
    /// An object in every line.
    JsonLines,
    /// An array of token ids.
    Array,
}

impl CorpusFormat {
    /// The format that a file's ending tells, in letters of any case.
    ///
    /// # Errors
    /// [`CorpusError::Format`] for the ending of another one, whose lines would be read as texts.
    pub fn of(path: &Path) -> Result<Self, CorpusError> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        match ending.to_ascii_lowercase().as_str() {
            "npy" => Ok(Self::Array),
            "jsonl" => Ok(Self::JsonLines),
            "json" | "csv" | "tsv" | "parquet" | "arrow" | "npz" | "gz" | "xz" | "zst" | "zip" => {
                Err(CorpusError::Format { path: path.into(), found: ending.into() })
            }
            _ => Ok(Self::Lines),
        }
    }
}

/// Consecutive tokens of one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Number of the document, from 0.
    pub document: usize,
    /// Position in the document of the first token behind BOS.
    pub start: usize,
    /// The tokens, BOS included.
    pub tokens: Vec<u32>,
    /// How many of them are BOS: 1 or 0.
    pub bos: usize,
}

/// How documents become rows.
#[derive(Debug, Clone, Copy)]
pub struct RowShape<'a> {
    /// Encodes texts, and knows BOS.
    pub tokenizer: &'a Tokenizer,
    /// Most tokens of a row, BOS included; at least 2.
    pub length: usize,
    /// Size of the vocabulary.
    pub d_vocab: usize,
}

impl RowShape<'_> {
    /// Given tokens without the BOS in front of them, if it is there: every row has one of its own.
    fn behind_bos(&self, mut tokens: Vec<u32>) -> Vec<u32> {
        let begins = self.tokenizer.bos().is_some_and(|bos| tokens.first() == Some(&bos));
        if begins {
            tokens.remove(0);
        }
        tokens
    }
}

/// The rows of a corpus, one after the other; a corpus without any token ends in [`CorpusError::Empty`].
pub struct Rows<'a> {
    name: String,
    /// Their tokens, without BOS.
    documents: Box<dyn Iterator<Item = Result<Vec<u32>, CorpusError>> + 'a>,
    shape: RowShape<'a>,
    /// Documents cut so far.
    count: usize,
    ready: VecDeque<Row>,
    /// Was there a row, or the error that there is none?
    told: bool,
}

impl<'a> Rows<'a> {
    /// The rows of given texts.
    pub fn of_texts(texts: Vec<String>, shape: RowShape<'a>) -> Self {
        let documents = texts.into_iter().map(move |text| Ok(shape.tokenizer.encode(&text)?));
        Self::new("text".into(), Box::new(documents), shape)
    }

    /// The rows of a file.
    ///
    /// # Errors
    /// [`CorpusError::Io`], [`CorpusError::Array`], [`CorpusError::Format`].
    pub fn of_file(path: &Path, shape: RowShape<'a>) -> Result<Self, CorpusError> {
        let name = path.display().to_string();
        let format = CorpusFormat::of(path)?;
        if format == CorpusFormat::Array {
            let documents = TokenArray::open(path, shape.d_vocab)?.map(move |row| Ok(shape.behind_bos(row?)));
            return Ok(Self::new(name, Box::new(documents), shape));
        }
        let file = File::open(path).map_err(|source| CorpusError::Io { path: path.into(), source })?;
        let mut lines = Lines { path: path.into(), reader: BufReader::new(file), number: 0 };
        let documents = std::iter::from_fn(move || {
            let tokens = |text: String, lines: &Lines| match format {
                CorpusFormat::JsonLines => tokens_of_json(&text, &shape, lines),
                CorpusFormat::Lines | CorpusFormat::Array => Ok(shape.tokenizer.encode(&text)?),
            };
            let text = lines.next_text().transpose()?;
            Some(text.and_then(|text| tokens(text, &lines)))
        });
        Ok(Self::new(name, Box::new(documents), shape))
    }

    fn new(
        name: String,
        documents: Box<dyn Iterator<Item = Result<Vec<u32>, CorpusError>> + 'a>,
        shape: RowShape<'a>,
    ) -> Self {
        Self { name, documents, shape, count: 0, ready: VecDeque::new(), told: false }
    }

    /// Puts a document's rows behind the ready ones.
    fn cut(&mut self, tokens: &[u32]) {
        let bos = self.shape.tokenizer.bos();
        let room = self.shape.length.saturating_sub(bos.iter().len()).max(1);
        for (number, piece) in tokens.chunks(room).enumerate() {
            let tokens = bos.into_iter().chain(piece.iter().copied()).collect();
            let row = Row { document: self.count, start: number * room, tokens, bos: bos.iter().len() };
            self.ready.push_back(row);
        }
        self.count += 1;
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            match self.documents.next() {
                Some(Ok(tokens)) => self.cut(&tokens),
                Some(Err(error)) => return Some(Err(error)),
                None if self.told => return None,
                None => {
                    self.told = true;
                    return Some(Err(CorpusError::Empty { name: self.name.clone() }));
                }
            }
        }
        self.told = true;
        self.ready.pop_front().map(Ok)
    }
}

/// The lines of a file, none longer than [`LONGEST_LINE`].
struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    number: usize,
}

impl Lines {
    /// The next line that is not blank, without its end; none behind the last one.
    fn next_text(&mut self) -> Result<Option<String>, CorpusError> {
        loop {
            let mut bytes = Vec::new();
            let read = self.reader.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut bytes);
            read.map_err(|source| CorpusError::Io { path: self.path.clone(), source })?;
            if bytes.is_empty() {
                return Ok(None);
            }
            self.number += 1;
            if bytes.len() as u64 > LONGEST_LINE {
                return Err(self.wrong(format!("at most {LONGEST_LINE} bytes"), "more".into()));
            }
            let text = text_of_line(self.number, bytes).map_err(|error| self.wrong(error.expected, error.found))?;
            if !text.trim().is_empty() {
                return Ok(Some(text));
            }
        }
    }

    fn wrong(&self, expected: String, found: String) -> CorpusError {
        CorpusError::Line { path: self.path.clone(), line: self.number, expected, found }
    }
}

/// A line of a `.jsonl` file.
#[derive(Deserialize)]
struct Document {
    text: Option<String>,
    tokens: Option<Vec<u32>>,
}

/// The tokens of a line of JSON, which `lines` has just read.
fn tokens_of_json(line: &str, shape: &RowShape<'_>, lines: &Lines) -> Result<Vec<u32>, CorpusError> {
    let expected = r#"{"text": "…"} or {"tokens": [1, 2]}"#;
    match serde_json::from_str(line) {
        Ok(Document { text: Some(text), tokens: None }) => Ok(shape.tokenizer.encode(&text)?),
        Ok(Document { text: None, tokens: Some(tokens) }) => {
            match tokens.iter().find(|token| **token as usize >= shape.d_vocab) {
                None => Ok(shape.behind_bos(tokens)),
                Some(token) => Err(lines.wrong(format!("tokens {}", numbers(shape.d_vocab)), token.to_string())),
            }
        }
        Ok(Document { text: Some(_), tokens: Some(_) }) => Err(lines.wrong(expected.into(), "both".into())),
        _ => Err(lines.wrong(expected.into(), line.chars().take(40).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LoadOptions, Model};

    #[test]
    fn documents_are_cut_into_rows_and_faults_are_named() {
        let model = Model::load("demo", &LoadOptions::default()).unwrap();
        let tokenizer = &model.tokenizer;
        let shape = RowShape { tokenizer, length: 4, d_vocab: model.config.d_vocab };
        let folder = tempfile::tempdir().unwrap();
        let rows = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            Rows::of_file(&path, shape).unwrap().collect::<Result<Vec<_>, _>>()
        };
        let bos = tokenizer.bos().unwrap();
        let found = rows("a.jsonl", b"{\"tokens\": [5, 6, 7, 8], \"id\": 1}\n\n{\"text\": \" great\"}\n").unwrap();
        let row = |document, start, tokens: &[u32]| Row { document, start, tokens: tokens.to_vec(), bos: 1 };
        let great = tokenizer.encode(" great").unwrap();
        let last = [&[bos], &great[..]].concat();
        assert_eq!(found, [row(0, 0, &[bos, 5, 6, 7]), row(0, 3, &[bos, 8]), row(1, 0, &last)]);
        assert_eq!(rows("a.txt", b" great\r\n\n great").unwrap(), [row(0, 0, &last), row(1, 0, &last)]);
        assert_eq!(rows("m.txt", b"\xef\xbb\xbf great\r\n").unwrap(), [row(0, 0, &last)]);
        assert_eq!(rows("m.jsonl", b"\xef\xbb\xbf{\"text\": \" great\"}\r\n").unwrap(), [row(0, 0, &last)]);
        assert_eq!(rows("m.JSONL", b"{\"text\": \" great\"}\n").unwrap(), [row(0, 0, &last)]);
        let both = rows("both.jsonl", b"{\"text\": \" great\", \"tokens\": [5]}\n").unwrap_err().to_string();
        assert!(both.contains("both.jsonl: line 1: expected") && both.ends_with("found both"), "{both}");
        let table = CorpusFormat::of(Path::new("a.CSV")).unwrap_err().to_string();
        assert!(table.contains("a.CSV: format: expected texts") && table.ends_with("found .CSV"), "{table}");
        let nul = tokenizer.encode("a\0b").unwrap();
        assert_eq!(rows("n.jsonl", b"{\"text\": \"a\\u0000b\"}\n").unwrap()[0].tokens[1..], nul[..3]);
        // The BOS of given tokens is a row's own; an array has a document in every row.
        let array = ndarray::array![[bos as i64, 5, 6, 7, 8], [9, 10, 11, 12, 13]];
        let mut bytes = Vec::new();
        ndarray_npy::WriteNpyExt::write_npy(&array, &mut bytes).unwrap();
        let cut =
            [row(0, 0, &[bos, 5, 6, 7]), row(0, 3, &[bos, 8]), row(1, 0, &[bos, 9, 10, 11]), row(1, 3, &[bos, 12, 13])];
        assert_eq!(rows("a.npy", &bytes).unwrap(), cut);
        assert_eq!(rows("a.NPY", &bytes).unwrap(), cut);
        let lines = format!("{{\"tokens\": [{bos}, 5, 6, 7, 8]}}\n{{\"tokens\": [9, 10, 11, 12, 13]}}\n");
        assert_eq!(rows("b.jsonl", lines.as_bytes()).unwrap(), cut);
        let array = ndarray::Array2::<i64>::zeros((0, 5));
        let mut none = Vec::new();
        ndarray_npy::WriteNpyExt::write_npy(&array, &mut none).unwrap();
        assert!(rows("n.npy", &none).unwrap_err().to_string().contains("n.npy: expected a text, found none"));
        let long = vec![b'a'; LONGEST_LINE as usize + 1];
        for (name, content, words) in [
            ("e.txt", &b"\n \n"[..], "e.txt: expected a text, found none"),
            ("e.jsonl", b"{\"text\": \"\"}", "e.jsonl: expected a text"),
            ("b.jsonl", b"{\"text\": \"a\"}\n{\"title\": 1}", "b.jsonl: line 2: expected {\"text\""),
            ("b.jsonl", b"[1", "line 1"),
            ("b.jsonl", b"{\"tokens\": [99999]}", "line 1: expected tokens 0 to "),
            ("b.txt", b"fine\nfi\xff\xfe", "b.txt: line 2: expected UTF-8, found other bytes behind byte 2"),
            ("n.txt", b"fine\na\0b", "n.txt: line 2: expected a text, found a NUL character behind byte 1"),
            ("long.txt", &long, "long.txt: line 1: expected at most 16777216 bytes, found more"),
        ] {
            let message = rows(name, content).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
        let missing = Rows::of_file(&folder.path().join("c.txt"), shape).map(|_| ()).unwrap_err().to_string();
        assert!(missing.contains("c.txt"), "{missing}");
        let texts = |texts: &[&str]| {
            let texts = texts.iter().map(|text| (*text).to_owned()).collect();
            Rows::of_texts(texts, shape).collect::<Result<Vec<_>, _>>()
        };
        assert_eq!(texts(&["", " great"]).unwrap(), [row(1, 0, &last)]);
        assert!(texts(&[""]).unwrap_err().to_string().contains("text: expected a text"));
    }
}
