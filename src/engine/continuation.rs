//! Texts that grow token by token.
//!
//! A prompt's keys and values are computed once and serve all texts that continue it; those of a text's own tokens are kept as
//! they come. A new token therefore costs the work of one token, and texts that have ended cost nothing: a batch holds the new
//! tokens of those that go on.

use super::pass::{Pass, PrefixOf};
use super::run::Prefix;
use super::{Engine, EngineError, Intervention, Layout, Logits, Output, Run, Site};
use crate::backend::{AttentionRow, Backend};
use crate::types::numbers;

/// One text: the prompt that it continues, and how many tokens have joined it.
struct Text {
    prompt: usize,
    grown: usize,
}

/// Texts under way, with the keys and values of all their tokens.
pub struct Texts<B: Backend> {
    prompts: Prefix<B>,
    /// Of the texts' own tokens, per layer: `(texts * room, 2 * n_kv_heads * d_head)`.
    own: Vec<B::Tensor>,
    /// Most tokens that can join a text.
    room: usize,
    texts: Vec<Text>,
}

impl<B: Backend> Texts<B> {
    /// The position of a text's next token: as many as it has, its prompt included. 0 for a text that is not there.
    pub fn next_position(&self, text: usize) -> usize {
        self.texts.get(text).map_or(0, |text| self.prompts.lens[text.prompt] + text.grown)
    }

    /// Is every text there, named once, and has room?
    fn check(&self, next: &[(usize, u32)]) -> Result<(), EngineError> {
        let mismatch = |what: &str, expected: String, found: String| {
            Err(EngineError::Mismatch { what: what.into(), expected, found })
        };
        if next.is_empty() {
            return mismatch("texts to continue", "one at least".into(), "none".into());
        }
        let mut named = vec![false; self.texts.len()];
        for &(text, _) in next {
            let Some(Text { grown, .. }) = self.texts.get(text) else {
                return mismatch("text to continue", numbers(self.texts.len()), text.to_string());
            };
            if *grown == self.room {
                let found = format!("one more of text {text}");
                return mismatch("new tokens", format!("at most {}", self.room), found);
            }
            if std::mem::replace(&mut named[text], true) {
                return mismatch("texts to continue", "each once".into(), format!("text {text} twice"));
            }
        }
        Ok(())
    }

    /// The attention of the next tokens: one query each, which sees its prompt, the text's tokens and itself.
    fn attention_rows(&self, next: &[(usize, u32)], n_heads: usize) -> Vec<AttentionRow> {
        let mut pattern_start = 0;
        let rows = next.iter().enumerate().map(|(query_start, &(text, _))| {
            let Text { prompt, grown } = self.texts[text];
            let row = AttentionRow {
                query_start,
                n_queries: 1,
                key_start: text * self.room,
                n_keys: grown + 1,
                prefix_start: self.prompts.offsets[prompt],
                n_prefix: self.prompts.lens[prompt],
                pattern_start,
            };
            pattern_start += n_heads * row.total_keys();
            row
        });
        rows.collect()
    }
}

impl<B: Backend> Engine<B> {
    /// Runs `prompts` with interventions and begins a text for every entry of `continued`, the number of the prompt that it
    /// continues, with room for `room` more tokens. Returns the texts and every prompt's logits at its last position,
    /// `(prompts, d_vocab)`.
    ///
    /// # Errors
    /// Those of [`Engine::run_patched`], a prompt that leaves less than `room` tokens of the context, a prompt that is not
    /// there.
    pub fn begin_texts(
        &self,
        prompts: &[Vec<u32>],
        interventions: &[Intervention<'_, B>],
        continued: &[usize],
        room: usize,
    ) -> Result<(Texts<B>, Logits), EngineError> {
        self.check_sequences(prompts)?;
        let n_ctx = self.config().n_ctx;
        if let Some((index, prompt)) = prompts.iter().enumerate().find(|(_, prompt)| prompt.len() + room > n_ctx) {
            let reason = format!("{} tokens and {room} more, the model takes at most {n_ctx}", prompt.len());
            return Err(EngineError::Sequence { index, reason });
        }
        if let Some(prompt) = continued.iter().find(|prompt| **prompt >= prompts.len()) {
            return Err(EngineError::Mismatch {
                what: "prompt to continue".into(),
                expected: numbers(prompts.len()),
                found: prompt.to_string(),
            });
        }
        let lens: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let mut run = self.pass_over(prompts, &[], interventions, &lens, Output::Last)?;
        let missing = |site: &str| EngineError::NotCaptured { site: site.into() };
        let prefix = run.prefix.take().ok_or_else(|| missing("keys and values of the prompts"))?;
        let logits = run.logits.take().ok_or_else(|| missing("logits of the prompts"))?;
        let values = continued.len() * room * 2 * self.config().d_kv();
        let own = (0..self.config().n_layers).map(|_| self.backend.tensor(values)).collect::<Result<_, _>>()?;
        let texts = continued.iter().map(|&prompt| Text { prompt, grown: 0 }).collect();
        Ok((Texts { prompts: prefix, own, room, texts }, logits))
    }

    /// Adds a token to each of some texts, (text, token), and runs it. The pass has one row of one token per entry of `next`,
    /// in that order: row `i` of patches, captures and logits is `next[i]`, its position [`Texts::next_position`] before the call.
    ///
    /// # Errors
    /// Those of a pass; a text that is not there, named twice or without room. The texts are as before then.
    pub fn extend_texts(
        &self,
        texts: &mut Texts<B>,
        next: &[(usize, u32)],
        interventions: &[Intervention<'_, B>],
        capture: &[Site],
        output: Output<'_, B>,
    ) -> Result<Run<B>, EngineError> {
        texts.check(next)?;
        let positions = next.iter().map(|&(text, _)| texts.next_position(text));
        let layout = Layout::new(positions.map(|position| (position, position + 1)));
        let attention = texts.attention_rows(next, self.config().n_heads);
        let kept: Vec<u32> =
            next.iter().map(|&(text, _)| (text * texts.room + texts.texts[text].grown) as u32).collect();
        let prefix = PrefixOf { prefix: Some(&texts.prompts), offsets: Vec::new() };
        let mut pass = Pass::new(self, layout, prefix, interventions, (0, capture), &output)?;
        pass.grow(&mut texts.own, &attention, &kept)?;
        let tokens: Vec<Vec<u32>> = next.iter().map(|&(_, token)| vec![token]).collect();
        let resid = pass.embed(&tokens)?;
        let run = pass.finish(resid, 0, &[], output)?.0;
        next.iter().for_each(|&(text, _)| texts.texts[text].grown += 1);
        Ok(run)
    }
}
