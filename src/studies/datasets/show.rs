//! A dataset's prompts as a model sees them.

use crate::datasets::treebank::Scaffold;
use crate::model::Tokenizer;
use crate::session::Session;
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// A token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
}

/// A clean prompt and its corrupted one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownPair {
    /// Is it of the positive class? None without classes.
    pub positive: Option<bool>,
    /// The clean prompt.
    pub clean: Vec<ShownToken>,
    /// The corrupted prompt.
    pub corrupted: Vec<ShownToken>,
    /// Right and wrong answers to the clean prompt.
    pub answers: Vec<(ShownToken, ShownToken)>,
}

/// A dataset for a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownDataset {
    /// Its name.
    pub name: String,
    /// The model's name.
    pub model: String,
    /// Named positions, the same in every prompt; `END` is the last one where all prompts have one length.
    pub positions: BTreeMap<String, usize>,
    /// Its prompts.
    pub pairs: Vec<ShownPair>,
}

/// A dataset's prompts with their positions and answers as the model's tokens.
///
/// # Errors
/// Those of [`Session::prompts`].
pub fn show_dataset(session: &Session, name: &str, scaffold: Scaffold) -> Result<ShownDataset> {
    let prompts = session.prompts(name, scaffold)?;
    let tokenizer = &session.model().tokenizer;
    let shown = |sequence: usize| -> Result<Vec<ShownToken>> {
        prompts.sequences[sequence].iter().map(|&id| token(tokenizer, id)).collect()
    };
    let pair = |number: usize| -> Result<ShownPair> {
        let answers = prompts.answers[number].iter();
        let answers = answers.map(|&(right, wrong)| Ok((token(tokenizer, right)?, token(tokenizer, wrong)?)));
        Ok(ShownPair {
            positive: prompts.has_classes.then(|| prompts.positive[number]),
            clean: shown(prompts.clean[number])?,
            corrupted: shown(prompts.corrupted[number])?,
            answers: answers.collect::<Result<_>>()?,
        })
    };
    let pairs = (0..prompts.clean.len()).map(pair).collect::<Result<_>>()?;
    Ok(ShownDataset { name: prompts.name, model: session.model().name.clone(), positions: prompts.positions, pairs })
}

fn token(tokenizer: &Tokenizer, id: u32) -> Result<ShownToken> {
    Ok(ShownToken { id, text: tokenizer.decode(&[id])? })
}

/// Answers of a prompt that people are shown.
const ANSWERS: usize = 3;

impl ShownDataset {
    /// The tokens in quotes, each with the positions that it is at.
    fn line(&self, tokens: &[ShownToken]) -> String {
        let named = |at: usize| self.positions.iter().filter(move |(_, place)| **place == at).map(|(name, _)| name);
        let token = |(at, token): (usize, &ShownToken)| {
            let names: String = named(at).map(|name| format!("@{name}")).collect();
            format!("{:?}{names}", token.text)
        };
        tokens.iter().enumerate().map(token).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for ShownDataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let positions: Vec<String> = self.positions.iter().map(|(name, at)| format!("{name} {at}")).collect();
        let positions = if positions.is_empty() { "none".to_owned() } else { positions.join(", ") };
        writeln!(f, "{} for {}: {} pairs, positions: {positions}", self.name, self.model, self.pairs.len())?;
        for (number, pair) in self.pairs.iter().enumerate() {
            let class = pair.positive.map_or("", |positive| if positive { ", positive" } else { ", negative" });
            let answers =
                pair.answers.iter().take(ANSWERS).map(|(right, wrong)| {
                    format!("{:?} ({}) over {:?} ({})", right.text, right.id, wrong.text, wrong.id)
                });
            let mut answers = answers.collect::<Vec<_>>().join(", ");
            if let Some(more) = pair.answers.len().checked_sub(ANSWERS).filter(|more| *more > 0) {
                answers += &format!(", and {more} more");
            }
            writeln!(f, "\n{}{class}", number + 1)?;
            writeln!(f, "  clean      {}", self.line(&pair.clean))?;
            writeln!(f, "  corrupted  {}", self.line(&pair.corrupted))?;
            writeln!(f, "  answers    {answers}")?;
        }
        Ok(())
    }
}
