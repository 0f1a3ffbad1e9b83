//! What comes of steering.

use crate::report::{RunRecord, SteeredText, Table};
use serde::Serialize;
use std::fmt;

/// The texts of a model.
#[derive(Debug, Clone, Serialize)]
pub struct Texts {
    /// The model's name.
    pub model: String,
    /// Direction by direction.
    pub directions: Vec<SteeredDirection>,
    /// The manifest; none when all texts were there.
    pub manifest: Option<RunRecord>,
}

/// The texts along a direction.
#[derive(Debug, Clone, Serialize)]
pub struct SteeredDirection {
    /// The direction, as it was asked for.
    pub direction: String,
    /// The file's name.
    pub file: String,
    /// All that were asked for, those that were there already among them.
    pub texts: Vec<SteeredText>,
}

/// How much of a text is shown, and of a prompt.
const SHOWN: usize = 100;
const SHOWN_OF_PROMPT: usize = 24;

impl fmt::Display for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.model)?;
        for SteeredDirection { direction, texts, .. } in &self.directions {
            let mut table = Table::new(["prompt", "coefficient", "texts", "ended", "mean log probability"]);
            let mut firsts = String::new();
            for group in texts.chunk_by(|a, b| (&a.prompt, a.coefficient) == (&b.prompt, b.coefficient)) {
                let tokens: usize = group.iter().map(|text| text.tokens.len()).sum();
                let sum: f32 = group.iter().map(|text| text.log_probability).sum();
                let first = &group[0];
                table.push([
                    shortened(&first.prompt, SHOWN_OF_PROMPT),
                    first.coefficient.to_string(),
                    group.len().to_string(),
                    group.iter().filter(|text| text.ended).count().to_string(),
                    format!("{:.3}", sum / tokens.max(1) as f32),
                ]);
                firsts += &format!("{:>6}: {}\n", first.coefficient, shortened(&first.text, SHOWN));
            }
            writeln!(f, "steering_{direction}\n{table}the first text of each:\n{firsts}")?;
        }
        Ok(())
    }
}

/// A text on one line, its end left out when it is long.
fn shortened(text: &str, length: usize) -> String {
    let line = text.replace('\n', "\\n");
    match line.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_shortened_between_letters() {
        assert_eq!(shortened("né\nà", 9), "né\\nà");
        assert_eq!(shortened("éééé", 3), "ééé…");
    }
}
