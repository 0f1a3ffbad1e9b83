//! Numbers and texts of a GGUF file, one after the other. Nothing is believed: a length is compared with what is left of the
//! file before anything is read or made room for.

use crate::model::ModelError;
use std::path::Path;

/// The most characters of a name or a value that a message shows.
const SHOWN: usize = 80;

/// A name or a value of the file as messages show it: its beginning, without control characters, which terminals obey.
pub(crate) fn shown(text: &str) -> String {
    let (mut letters, mut shown) = (text.chars(), String::new());
    for letter in letters.by_ref().take(SHOWN) {
        if letter.is_control() {
            shown.extend(letter.escape_debug());
        } else {
            shown.push(letter);
        }
    }
    if letters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// A place in a file.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Begins at byte `at`.
    pub fn new(path: &'a Path, bytes: &'a [u8], at: usize) -> Self {
        Self { path, bytes, at }
    }

    /// The same file from byte `at` on.
    pub fn moved(&self, at: usize) -> Self {
        Self { at, ..self.clone() }
    }

    /// The next byte's number.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes behind this place.
    pub fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// The complaint about the part that begins at byte `byte`.
    pub fn wrong(&self, byte: usize, what: &str, expected: impl Into<String>, found: impl ToString) -> ModelError {
        let (path, expected, found) = (self.path.into(), expected.into(), shown(&found.to_string()));
        ModelError::Gguf { path, byte: Some(byte), what: what.to_owned(), expected, found }
    }

    /// The next `count` bytes, a part of `what`.
    pub fn bytes(&mut self, count: u64, what: &str) -> Result<&'a [u8], ModelError> {
        let left = self.left();
        match usize::try_from(count).ok().filter(|count| *count <= left) {
            Some(count) => {
                let bytes = &self.bytes[self.at..self.at + count];
                self.at += count;
                Ok(bytes)
            }
            None => Err(self.wrong(
                self.at,
                what,
                format!("{count} bytes"),
                format!("{left} to the end of the file (is it truncated?)"),
            )),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ModelError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N as u64, what)?);
        Ok(array)
    }

    /// The next 32-bit number.
    pub fn u32(&mut self, what: &str) -> Result<u32, ModelError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// The next 64-bit number.
    pub fn u64(&mut self, what: &str) -> Result<u64, ModelError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// The next text behind its length.
    pub fn text(&mut self, what: &str) -> Result<&'a str, ModelError> {
        let start = self.at;
        let length = self.u64(what)?;
        let bytes = self.bytes(length, what)?;
        std::str::from_utf8(bytes).map_err(|error| self.wrong(start, what, "a text in UTF-8", error))
    }

    /// The next text, which is a name of at most `longest` bytes.
    pub fn name(&mut self, longest: u64, what: &str) -> Result<&'a str, ModelError> {
        let start = self.at;
        let length = self.u64(what)?;
        if length > longest {
            return Err(self.wrong(start, what, format!("at most {longest} bytes"), length));
        }
        self.at = start;
        self.text(what)
    }

    /// A count of things of at least `size` bytes each, so that no more can follow than the file has room for.
    pub fn count(&mut self, size: usize, what: &str) -> Result<usize, ModelError> {
        let start = self.at;
        let count = self.u64(what)?;
        let most = self.left() / size;
        match usize::try_from(count).ok().filter(|count| *count <= most) {
            Some(count) => Ok(count),
            None => Err(self.wrong(start, what, format!("at most {most}, for which the file has room"), count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_show_the_beginning_of_long_texts_and_no_control_characters() {
        assert_eq!(shown("blk.0.attn_q.weight"), "blk.0.attn_q.weight");
        assert_eq!(shown("a\u{1b}[31m\n\u{85}é"), "a\\u{1b}[31m\\n\\u{85}é");
        assert_eq!(shown(&"é".repeat(SHOWN)), "é".repeat(SHOWN));
        assert_eq!(shown(&"é".repeat(SHOWN + 1)), "é".repeat(SHOWN) + "…");
    }
}
