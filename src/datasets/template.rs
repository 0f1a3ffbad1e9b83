//! A prompt with named pieces: `This{SBJ: movie} was{ADJ}` has fixed text, fixed text with a name, and a placeholder.

use std::collections::BTreeMap;

/// The name of the last token's position, which no piece of a template may take.
pub const END: &str = "END";

/// A prompt's text, and where each named piece of it ends.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prompt {
    /// The whole text, without BOS.
    pub text: String,
    /// Name to the byte just behind its last occurrence.
    pub ends: BTreeMap<String, usize>,
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Named { name: String, text: String },
    Placeholder(String),
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

impl Template {
    /// Parses `{NAME}`, `{NAME:text}` and the escapes `{{` and `}}`. The error says what is wrong, not where.
    pub fn parse(source: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            text.push_str(before);
            if let Some(after) = brace.strip_prefix("{{").or_else(|| brace.strip_prefix("}}")) {
                text.push_str(&brace[..1]);
                rest = after;
                continue;
            }
            let Some(inside) = brace.strip_prefix('{') else {
                return Err("a `}` that closes nothing (write `}}` for a literal one)".into());
            };
            let Some((name, after)) = inside.split_once('}') else {
                return Err("a `{` that is not closed (write `{{` for a literal one)".into());
            };
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(Piece::parse(name)?);
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        if pieces.is_empty() {
            return Err("it is empty".into());
        }
        Ok(Self { pieces })
    }

    /// Does the template have the placeholder `name`?
    pub fn has_placeholder(&self, name: &str) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Placeholder(own) if own == name))
    }

    /// The placeholder that the prompt begins with.
    pub fn first_placeholder(&self) -> Option<&str> {
        match self.pieces.first() {
            Some(Piece::Placeholder(name)) => Some(name),
            _ => None,
        }
    }

    /// Puts one more space in front of the placeholders `names`.
    pub fn space_before(&mut self, names: &[String]) {
        let spaced = |piece: Piece| match &piece {
            Piece::Placeholder(name) if names.contains(name) => vec![Piece::Text(" ".into()), piece],
            _ => vec![piece],
        };
        self.pieces = std::mem::take(&mut self.pieces).into_iter().flat_map(spaced).collect();
    }

    /// Puts a space behind everything.
    pub fn space_behind(&mut self) {
        self.pieces.push(Piece::Text(" ".into()));
    }

    /// The prompt in which `word` gives each placeholder's filler; the error is the placeholder that has none. At the
    /// beginning of the prompt a filler loses its leading space.
    pub fn render<'word>(&self, word: impl Fn(&str) -> Option<&'word str>) -> Result<Prompt, String> {
        let mut prompt = Prompt { text: String::new(), ends: BTreeMap::new() };
        for piece in &self.pieces {
            let name = match piece {
                Piece::Text(text) => {
                    prompt.text.push_str(text);
                    continue;
                }
                Piece::Named { name, text } => {
                    prompt.text.push_str(text);
                    name
                }
                Piece::Placeholder(name) => {
                    let word = word(name).ok_or_else(|| name.clone())?;
                    prompt.text.push_str(if prompt.text.is_empty() { word.trim_start() } else { word });
                    name
                }
            };
            prompt.ends.insert(name.clone(), prompt.text.len());
        }
        Ok(prompt)
    }
}

impl Piece {
    /// Parses what stands between braces.
    fn parse(inside: &str) -> Result<Self, String> {
        let (name, text) = match inside.split_once(':') {
            Some((name, text)) => (name, Some(text)),
            None => (inside, None),
        };
        check_position_name(name).map_err(|message| format!("{{{inside}}}: {message}"))?;
        match text {
            Some("") => Err(format!("{{{inside}}}: there is no text behind the colon")),
            Some(text) => Ok(Self::Named { name: name.into(), text: text.into() }),
            None => Ok(Self::Placeholder(name.into())),
        }
    }
}

/// Longest name of a position, in bytes: it is a part of file names.
const LONGEST_NAME: usize = 40;

/// Refuses a position's name that is no part of a file name, or means something else.
pub(super) fn check_position_name(name: &str) -> Result<(), String> {
    let plain = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    if !plain || !name.starts_with(|first: char| first.is_ascii_alphabetic()) || name.len() > LONGEST_NAME {
        return Err(format!("a name is up to {LONGEST_NAME} letters, digits and `_`, a letter first"));
    }
    match name {
        END => Err(format!("`{END}` is always the last token")),
        "ALL" => Err("`ALL` is always every token".into()),
        "auto" => Err("`auto` is always the main position".into()),
        "EACH" => Err("`EACH` is always one position after the other".into()),
        "COMMA" | "PERIOD" => Err(format!("`{name}` is always every token of that kind")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_words_names_and_escapes() {
        let template = Template::parse("{{x}} This{SBJ: movie} was{ADJ}, é{ADJ}.").unwrap();
        assert!(template.has_placeholder("ADJ") && !template.has_placeholder("SBJ"));
        let prompt = template.render(|name| (name == "ADJ").then_some(" good")).unwrap();
        assert_eq!(prompt.text, "{x} This movie was good, é good.");
        // Bytes: `{x} This movie` is 14; the last ` good` ends one byte before the end.
        assert_eq!(prompt.ends, BTreeMap::from([("SBJ".to_string(), 14), ("ADJ".to_string(), prompt.text.len() - 1)]));
    }

    #[test]
    fn spaces_go_where_they_are_put() {
        let mut template = Template::parse("{A} very{B}{A}").unwrap();
        assert_eq!(template.first_placeholder(), Some("A"));
        template.space_before(&["B".to_string()]);
        template.space_behind();
        let prompt = template.render(|name| Some(if name == "A" { " one" } else { " two" })).unwrap();
        assert_eq!(prompt.text, "one very  two one ");
        assert_eq!(prompt.ends, BTreeMap::from([("A".to_string(), 17), ("B".to_string(), 13)]));
        assert_eq!(Template::parse("a{B}").unwrap().first_placeholder(), None);
    }

    #[test]
    fn names_the_placeholder_that_has_no_word() {
        assert_eq!(
            Template::parse("a{X}{Y}").unwrap().render(|name| (name == "X").then_some("b")),
            Err("Y".to_string())
        );
    }

    #[test]
    fn refuses_what_it_cannot_mean() {
        let too_long = format!("{{{}}}", "A".repeat(LONGEST_NAME + 1));
        for (source, says) in [
            ("", "empty"),
            ("a { b", "not closed"),
            ("a } b", "closes nothing"),
            ("{}", "letters"),
            ("{A B}", "letters"),
            ("{A:}", "no text"),
            ("{END}", "last token"),
            ("{ALL}", "every token"),
            ("{auto}", "main position"),
            ("{EACH}", "after the other"),
            ("{COMMA}", "every token"),
            ("{4}", "a letter first"),
            ("{_A}", "a letter first"),
            (too_long.as_str(), "up to 40"),
        ] {
            let error = Template::parse(source).unwrap_err();
            assert!(error.contains(says), "{source:?}: {error}");
        }
    }
}
