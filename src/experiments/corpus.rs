//! Texts of any number as rows of tokens, read from a file piece by piece.
//!
//! A file whose name ends in `.jsonl` has a document per line, `{"text": "…"}` or `{"tokens": [1, 2]}` (other fields are
//! skipped); of any other file every line that is not blank is a document. Documents do not run together: each is cut into
//! rows of its own, and every row begins with BOS where the model has one.

use crate::model::{ModelError, Tokenizer};
use serde::Deserialize;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};

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
        source: std::io::Error,
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
    /// No token in the whole corpus.
    #[error("{path}: expected a text, found none")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A text that the tokenizer refuses.
    #[error(transparent)]
    Model(#[from] ModelError),
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

/// Where documents come from.
enum Source {
    Texts(std::vec::IntoIter<String>),
    Lines { path: PathBuf, lines: Lines<BufReader<File>>, number: usize, json: bool },
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

/// The rows of a corpus, one after the other.
pub struct Rows<'a> {
    source: Source,
    shape: RowShape<'a>,
    documents: usize,
    ready: VecDeque<Row>,
}

/// A line of a `.jsonl` file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Tokens { tokens: Vec<u32> },
    Text { text: String },
}

impl<'a> Rows<'a> {
    /// The rows of given texts.
    pub fn of_texts(texts: Vec<String>, shape: RowShape<'a>) -> Self {
        Self { source: Source::Texts(texts.into_iter()), shape, documents: 0, ready: VecDeque::new() }
    }

    /// The rows of a file.
    ///
    /// # Errors
    /// [`CorpusError::Io`].
    pub fn of_file(path: &Path, shape: RowShape<'a>) -> Result<Self, CorpusError> {
        let file = File::open(path).map_err(|source| CorpusError::Io { path: path.into(), source })?;
        let json = path.extension().is_some_and(|ending| ending == "jsonl");
        let source = Source::Lines { path: path.into(), lines: BufReader::new(file).lines(), number: 0, json };
        Ok(Self { source, shape, documents: 0, ready: VecDeque::new() })
    }

    /// The tokens of the next document without BOS; none behind the last one.
    fn next_document(&mut self) -> Option<Result<Vec<u32>, CorpusError>> {
        let RowShape { tokenizer, d_vocab, .. } = self.shape;
        match &mut self.source {
            Source::Texts(texts) => Some(tokenizer.encode(&texts.next()?).map_err(CorpusError::from)),
            Source::Lines { path, lines, number, json } => loop {
                let text = match lines.next()? {
                    Ok(text) => text,
                    Err(source) => return Some(Err(CorpusError::Io { path: path.clone(), source })),
                };
                *number += 1;
                if text.trim().is_empty() {
                    continue;
                }
                let found = if *json { document_of(&text, tokenizer, d_vocab) } else { Ok(tokenizer.encode(&text)) };
                return Some(match found {
                    Ok(tokens) => tokens.map_err(CorpusError::from),
                    Err((expected, found)) => {
                        Err(CorpusError::Line { path: path.clone(), line: *number, expected, found })
                    }
                });
            },
        }
    }

    /// The error of a corpus without any row.
    fn nothing(&self) -> CorpusError {
        let path = match &self.source {
            Source::Texts(_) => "--text".into(),
            Source::Lines { path, .. } => path.clone(),
        };
        CorpusError::Empty { path }
    }

    /// Puts a document's rows behind the ready ones.
    fn cut(&mut self, tokens: &[u32]) {
        let bos = self.shape.tokenizer.bos();
        let room = self.shape.length.saturating_sub(bos.iter().len()).max(1);
        for (number, piece) in tokens.chunks(room).enumerate() {
            let tokens: Vec<u32> = bos.into_iter().chain(piece.iter().copied()).collect();
            let start = number * room;
            self.ready.push_back(Row { document: self.documents, start, tokens, bos: bos.iter().len() });
        }
        self.documents += 1;
    }
}

/// The tokens of a line of JSON, or what was expected and found.
fn document_of(
    line: &str,
    tokenizer: &Tokenizer,
    d_vocab: usize,
) -> Result<Result<Vec<u32>, ModelError>, (String, String)> {
    let expected = r#"{"text": "…"} or {"tokens": [1, 2]}"#;
    let start = || line.chars().take(40).collect::<String>();
    match serde_json::from_str(line).map_err(|_| (expected.to_owned(), start()))? {
        Line::Text { text } => Ok(tokenizer.encode(&text)),
        Line::Tokens { tokens } => match tokens.iter().find(|token| **token as usize >= d_vocab) {
            None => Ok(Ok(tokens)),
            Some(token) => Err((format!("tokens 0..{d_vocab}"), token.to_string())),
        },
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.documents == 0;
        while self.ready.is_empty() {
            match self.next_document() {
                Some(Ok(tokens)) => self.cut(&tokens),
                Some(Err(error)) => return Some(Err(error)),
                None if first => {
                    // Said once: the next call finds nothing without being first.
                    self.documents = usize::MAX;
                    return Some(Err(self.nothing()));
                }
                None => return None,
            }
        }
        self.ready.pop_front().map(Ok)
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
        assert_eq!(rows("a.txt", b" great\n\n").unwrap(), [row(0, 0, &last)]);
        for (name, content, words) in [
            ("e.txt", &b"\n \n"[..], "e.txt: expected a text, found none"),
            ("e.jsonl", b"{\"text\": \"\"}", "e.jsonl: expected a text"),
            ("b.jsonl", b"{\"text\": \"a\"}\n{\"title\": 1}", "b.jsonl: line 2: expected {\"text\""),
            ("b.jsonl", b"[1", "line 1"),
            ("b.jsonl", b"{\"tokens\": [99999]}", "line 1: expected tokens 0.."),
            ("b.txt", b"\xff\xfe", "b.txt: "),
        ] {
            let message = rows(name, content).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
        let missing = Rows::of_file(&folder.path().join("c.txt"), shape).map(|_| ()).unwrap_err().to_string();
        assert!(missing.contains("c.txt"), "{missing}");
        let texts = Rows::of_texts(vec![" great".into()], shape).collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(texts, [row(0, 0, &last)]);
    }
}
