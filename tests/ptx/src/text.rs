//! PTX text as tokens: words, numbers and punctuation, each with its line.

use std::fmt::{Display, Formatter};

/// A text that cannot be read, with the line at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadError {
    /// Counted from 1.
    pub line: usize,
    /// The line itself.
    pub text: String,
    pub message: String,
}

impl Display for ReadError {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "PTX, line {}: `{}`: {}", self.line, self.text, self.message)
    }
}

impl std::error::Error for ReadError {}

/// The tokens of a text, read one after another.
#[derive(Debug)]
pub struct Tokens<'a> {
    lines: Vec<&'a str>,
    tokens: Vec<(usize, &'a str)>,
    next: usize,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}

impl<'a> Tokens<'a> {
    pub fn new(text: &'a str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        let mut tokens = Vec::with_capacity(text.len() / 4);
        for (line, full) in lines.iter().enumerate() {
            let mut rest = full.split_once("//").map_or(*full, |(code, _)| code).trim_start();
            while let Some(first) = rest.chars().next() {
                let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                let len = match first {
                    // A sign is part of its number.
                    '-' => 1 + rest[1..].find(|c| !is_word(c)).unwrap_or(rest.len() - 1),
                    '"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
                    _ if word > 0 => word,
                    _ => first.len_utf8(),
                };
                tokens.push((line + 1, &rest[..len]));
                rest = rest[len..].trim_start();
            }
        }
        Self { lines, tokens, next: 0 }
    }

    pub fn line(&self) -> usize {
        let last = self.tokens.last().map_or(1, |token| token.0);
        self.tokens.get(self.next).map_or(last, |token| token.0)
    }

    pub fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.next).map(|token| token.1)
    }

    /// The token behind the next one.
    pub fn second(&self) -> Option<&'a str> {
        self.tokens.get(self.next + 1).map(|token| token.1)
    }

    pub fn take(&mut self) -> Result<&'a str, ReadError> {
        let token = self.peek().ok_or_else(|| self.error(self.line(), "the text ends too early"))?;
        self.next += 1;
        Ok(token)
    }

    /// Takes the token if it is this one.
    pub fn takes(&mut self, token: &str) -> bool {
        let found = self.peek() == Some(token);
        self.next += usize::from(found);
        found
    }

    pub fn expect(&mut self, token: &str) -> Result<(), ReadError> {
        let (line, found) = (self.line(), self.take()?);
        if found == token { Ok(()) } else { Err(self.error(line, format!("`{token}` expected, found `{found}`"))) }
    }

    pub fn number(&mut self) -> Result<usize, ReadError> {
        let (line, found) = (self.line(), self.take()?);
        found.parse().map_err(|_| self.error(line, format!("a number expected, found `{found}`")))
    }

    pub fn error(&self, line: usize, message: impl Into<String>) -> ReadError {
        let text = self.lines.get(line - 1).map_or("", |text| text.trim());
        ReadError { line, text: text.into(), message: message.into() }
    }
}
