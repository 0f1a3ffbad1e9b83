//! Positions as commands that edit several of them together name them.

use super::common::resolve_position;
use crate::datasets::PairedPrompts;
use crate::engine::{PatchPositions, Places};
use crate::model::Tokenizer;
use anyhow::Result;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Positions that are found by their token: the name, and the token's text without spaces.
const BY_TOKEN: [(&str, &str); 2] = [("COMMA", ","), ("PERIOD", ".")];

/// Places of the clean prompts by name: a placeholder, END, ALL, a number, COMMA or PERIOD (every such token), or several
/// of them joined by `+`, which are edited together.
///
/// # Errors
/// A name that the dataset does not have, a number behind the end of a prompt.
pub fn resolve_places(prompts: &PairedPrompts, tokenizer: &Tokenizer, text: &str) -> Result<Places> {
    let mut lists: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); prompts.clean.len()];
    for name in text.split('+') {
        let places = match BY_TOKEN.iter().find(|(own, _)| *own == name && !prompts.positions.contains_key(name)) {
            Some((_, token)) => by_token(prompts, tokenizer, token)?,
            None => match name.parse() {
                Ok(position) => PatchPositions::One(position).into(),
                Err(_) => resolve_position(prompts, name)?.1.into(),
            },
        };
        for (prompt, list) in lists.iter_mut().enumerate() {
            let length = prompts.sequences[prompts.clean[prompt]].len();
            if let Places::Of(positions) = places {
                positions.check(&prompts.name, prompt, length)?;
            }
            list.extend(places.of(prompt, length));
        }
        if name == text && matches!(places, Places::Of(_)) {
            return Ok(places);
        }
    }
    Ok(Places::PerPrompt(Arc::new(lists.into_iter().map(|list| list.into_iter().collect()).collect())))
}

/// The positions of every clean prompt whose token is `wanted`, with or without spaces around it.
fn by_token(prompts: &PairedPrompts, tokenizer: &Tokenizer, wanted: &str) -> Result<Places> {
    let mut known: HashMap<u32, bool> = HashMap::new();
    let mut lists = Vec::with_capacity(prompts.clean.len());
    for &sequence in &prompts.clean {
        let mut list = Vec::new();
        for (position, &token) in prompts.sequences[sequence].iter().enumerate() {
            if let std::collections::hash_map::Entry::Vacant(entry) = known.entry(token) {
                entry.insert(tokenizer.decode(&[token])?.trim() == wanted);
            }
            if known[&token] {
                list.push(position);
            }
        }
        lists.push(list);
    }
    Ok(Places::PerPrompt(Arc::new(lists)))
}
