//! Places in prompts and texts, by name.

use super::{Fault, OfSetting, Session, wrong};
use crate::datasets::PairedPrompts;
use crate::engine::Places;
use crate::experiments::text_loss::TextPlaces;
use crate::model::{Model, Tokenizer};
use anyhow::Result;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Positions that are found by their token: the name, and the token's text without spaces.
const BY_TOKEN: [(&str, &str); 2] = [("COMMA", ","), ("PERIOD", ".")];

impl Session {
    /// Places of the clean prompts by name, as `setting` gives them: a placeholder, END, ALL, a number, COMMA or PERIOD
    /// (every such token), or several of them joined by `+`, which are edited together.
    ///
    /// # Errors
    /// A name that the dataset does not have, a number behind the end of a prompt, a token that no prompt has.
    pub fn places(&self, setting: &str, prompts: &PairedPrompts, text: &str) -> Result<Places> {
        let mut lists: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); prompts.clean.len()];
        for name in text.split('+') {
            let places: Places = match token_of(prompts, name) {
                Some(token) => by_token(prompts, &self.model().tokenizer, (name, token)).of_setting(setting)?,
                None => self.position(setting, prompts, name)?.1.into(),
            };
            if name == text {
                return Ok(places);
            }
            for (prompt, (list, &sequence)) in lists.iter_mut().zip(&prompts.clean).enumerate() {
                list.extend(places.of(prompt, prompts.sequences[sequence].len()));
            }
        }
        Ok(Places::PerPrompt(Arc::new(lists.into_iter().map(Vec::from_iter).collect())))
    }

    /// The names of places as results have them: `auto` is the placeholder that it stands for, a number from the end the
    /// number that it is.
    ///
    /// # Errors
    /// A name that the dataset does not have.
    pub fn places_name(&self, setting: &str, prompts: &PairedPrompts, text: &str) -> Result<String> {
        let named = |name: &str| match token_of(prompts, name) {
            Some(_) => Ok(name.to_owned()),
            None => Ok(self.position(setting, prompts, name)?.0),
        };
        Ok(text.split('+').map(named).collect::<Result<Vec<_>>>()?.join("+"))
    }
}

/// The token that a name of positions stands for, unless the dataset has a placeholder of that name.
fn token_of(prompts: &PairedPrompts, name: &str) -> Option<&'static str> {
    let by_name = BY_TOKEN.iter().find(|(own, _)| *own == name && !prompts.positions.contains_key(name));
    by_name.map(|(_, token)| *token)
}

/// The positions of every clean prompt whose token is `wanted`, with or without spaces around it.
fn by_token(prompts: &PairedPrompts, tokenizer: &Tokenizer, (name, wanted): (&str, &str)) -> Result<Places> {
    let mut known: HashMap<u32, bool> = HashMap::new();
    let mut lists = vec![Vec::new(); prompts.clean.len()];
    for (list, &sequence) in lists.iter_mut().zip(&prompts.clean) {
        for (position, token) in prompts.sequences[sequence].iter().enumerate() {
            let is_wanted = match known.get(token) {
                Some(&is_wanted) => is_wanted,
                None => tokenizer.decode(&[*token])?.trim() == wanted,
            };
            known.insert(*token, is_wanted);
            if is_wanted {
                list.push(position);
            }
        }
    }
    if lists.iter().all(Vec::is_empty) {
        return Err(Fault::new(format!("{name}: no prompt of {} has a token {wanted:?}", prompts.name)).into());
    }
    Ok(Places::PerPrompt(Arc::new(lists)))
}

/// Tokens of plain text by name, as `setting` gives them: ALL, COMMA or PERIOD (every such token), or several of these joined
/// by `+`.
///
/// # Errors
/// Another name, a token that the model does not have.
pub fn text_places(setting: &str, model: &Model, text: &str) -> Result<TextPlaces> {
    let name = text.to_owned();
    if text == "ALL" {
        return Ok(TextPlaces { name, tokens: None });
    }
    let mut wanted = Vec::new();
    for part in text.split('+') {
        let Some((_, token)) = BY_TOKEN.iter().find(|(own, _)| *own == part) else {
            let known = BY_TOKEN.map(|(name, _)| name).join(", ");
            wrong!(
                setting,
                "expected ALL, or of {known} several joined by +, found {text:?} (texts have no other positions)"
            );
        };
        wanted.push(*token);
    }
    let mut tokens = BTreeSet::new();
    for token in 0..model.config.d_vocab as u32 {
        if wanted.contains(&model.tokenizer.decode(&[token])?.trim()) {
            tokens.insert(token);
        }
    }
    if tokens.is_empty() {
        wrong!(setting, "{text}: the tokenizer of {} has no such token", model.name);
    }
    Ok(TextPlaces { name, tokens: Some(tokens) })
}
