//! The page of steered texts.

use super::View;
use crate::report::SteeredText;
use serde::Serialize;

/// The texts along a direction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SteeringPage {
    /// Above everything.
    title: String,
    texts: Vec<Shown>,
}

/// A text with what tells it from the others.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Shown {
    settings: String,
    prompt: String,
    coefficient: f32,
    sample: u32,
    /// Each with its log probability.
    tokens: Vec<(String, f32)>,
    log_probability: f32,
    ended: bool,
}

impl SteeringPage {
    /// A page of texts, each with its tokens spelled.
    pub fn new<'a>(title: String, texts: impl IntoIterator<Item = (&'a SteeredText, Vec<String>)>) -> Self {
        let shown = |(text, tokens): (&SteeredText, Vec<String>)| Shown {
            settings: format!(
                "{} — at {}, temperature {}, top {}, at most {} tokens, seed {}",
                text.prompt,
                text.sites.join(" "),
                text.temperature,
                if text.top_k == 0 { "all".into() } else { text.top_k.to_string() },
                text.max_new_tokens,
                text.seed
            ),
            prompt: text.prompt.clone(),
            coefficient: text.coefficient,
            sample: text.sample,
            tokens: tokens.into_iter().zip(text.log_probabilities.iter().copied()).collect(),
            log_probability: text.log_probability,
            ended: text.ended,
        };
        Self { title, texts: texts.into_iter().map(shown).collect() }
    }
}

impl View for SteeringPage {
    const NAME: &'static str = "steering";
    const SCRIPT: &'static str = include_str!("steering.js");

    fn title(&self) -> &str {
        &self.title
    }
}
