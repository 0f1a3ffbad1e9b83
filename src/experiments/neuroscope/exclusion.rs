//! Words that the lists of tokens leave out, so that others come to light.

use std::collections::HashSet;

/// Words in all their variants: lower case, Capitalised, UPPER CASE, each bare or with a space in front, behind, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words(HashSet<String>);

impl Words {
    /// The words of a text, one a line; blank lines are skipped.
    pub fn of_lines(text: &str) -> Self {
        let variants = |word: &str| {
            let lower = word.to_lowercase();
            let mut letters = lower.chars();
            let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
            [first + letters.as_str(), lower.to_uppercase(), lower]
        };
        Self(text.lines().map(str::trim).filter(|word| !word.is_empty()).flat_map(variants).collect())
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is a token's text one of them?
    pub fn contains(&self, token: &str) -> bool {
        let token = token.strip_prefix(' ').unwrap_or(token);
        self.0.contains(token.strip_suffix(' ').unwrap_or(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stands_for_its_variants() {
        let words = Words::of_lines("Great\r\n\n  éclat \nso so\n");
        for token in ["great", " great", "great ", " great ", "Great", " GREAT", "GREAT ", "Éclat", " ÉCLAT", "So so"]
        {
            assert!(words.contains(token), "{token:?}");
        }
        for token in ["greatly", "gREAT", "  great", "great\n", "so", "", " "] {
            assert!(!words.contains(token), "{token:?}");
        }
        assert!(Words::of_lines(" \n\r\n").is_empty() && !words.is_empty());
    }
}
