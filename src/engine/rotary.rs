//! Rotary positions: the table of angles, and queries and keys on their way into the scores.

use super::pass::Pass;
use super::{Engine, EngineError, Layer, Layout};
use crate::backend::{Backend, Columns, PatchRows};
use crate::model::ModelConfig;
use crate::types::{Positions, RotaryScaling};
use std::f32::consts::TAU;

/// Cosines and sines of the rotary embedding on the device, `(n_ctx, 2, half)`; of a model that turns long sequences
/// otherwise those of short ones, then those of long ones.
pub(super) struct RotaryTable<B: Backend> {
    pub(super) half: usize,
    pub(super) table: B::Tensor,
}

/// Angle per position of every rotated pair in sequences within the pre-training's context, and what cosines and sines are
/// multiplied by.
struct Turns {
    frequencies: Vec<f32>,
    /// The same in longer sequences, where they differ.
    long: Option<Vec<f32>>,
    magnitude: f32,
}

/// `base^(-2i / dims)` stretched by the scaling, in f32 as the reference implementations compute it.
fn turns(dims: usize, base: f32, scaling: &RotaryScaling) -> Turns {
    let plain = (0..dims.div_ceil(2)).map(|pair| 1.0 / base_power(dims, base, pair));
    let (mut long, mut magnitude) = (None, 1.0);
    let frequencies = match scaling {
        RotaryScaling::None => plain.collect(),
        RotaryScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
        &RotaryScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_n_ctx } => {
            let ends = (low_frequency_factor, high_frequency_factor);
            plain.map(|frequency| llama3(frequency, factor, ends, original_n_ctx as f32)).collect()
        }
        &RotaryScaling::Yarn { factor, fast_turns, slow_turns, whole_pairs, original_n_ctx, magnitude: own } => {
            magnitude = own;
            let pair = |turns| pair_of_turns(dims, base, original_n_ctx, turns);
            let bounds = yarn_bounds(dims, (pair(fast_turns), pair(slow_turns)), whole_pairs);
            // Of three dimensions the reference blends both pairs as the first one.
            let blended = |pair: usize| pair.min((dims / 2).max(1) - 1);
            plain.enumerate().map(|(pair, frequency)| yarn(blended(pair), frequency, factor as f32, bounds)).collect()
        }
        RotaryScaling::LongRope { short, long: longer, magnitude: own, .. } => {
            (long, magnitude) = (Some(divided(dims, base, longer)), *own);
            divided(dims, base, short)
        }
        &RotaryScaling::Proportional { pairs, factor } => {
            plain.enumerate().map(|(pair, frequency)| if pair < pairs { frequency / factor } else { 0.0 }).collect()
        }
    };
    Turns { frequencies, long, magnitude }
}

/// `base^(2 pair / dims)`.
fn base_power(dims: usize, base: f32, pair: usize) -> f32 {
    base.powf(2.0 * pair as f32 / dims as f32)
}

/// Every pair's frequency by a divisor of its own.
fn divided(dims: usize, base: f32, divisors: &[f32]) -> Vec<f32> {
    let frequency = |(pair, divisor): (usize, &f32)| 1.0 / (divisor * base_power(dims, base, pair));
    divisors.iter().enumerate().map(frequency).collect()
}

/// Llama 3.1's: long wavelengths are stretched, short ones stay, those between are blended.
fn llama3(frequency: f32, factor: f32, (low, high): (f32, f32), original_n_ctx: f32) -> f32 {
    let wavelength = TAU / frequency;
    // In this order, in which factors that leave no wavelength between them never meet the division.
    if wavelength > original_n_ctx / low {
        frequency / factor
    } else if wavelength < original_n_ctx / high || high <= low {
        frequency
    } else {
        let smooth = (original_n_ctx / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// The pair that turns so often within the pre-training's context, as a real number.
fn pair_of_turns(dims: usize, base: f32, original_n_ctx: usize, turns: f64) -> f64 {
    let context = original_n_ctx as f64 / (turns * std::f64::consts::TAU);
    dims as f64 * context.ln() / (2.0 * f64::from(base).ln())
}

/// The pairs between which YaRN blends: the first one, and how many follow it.
fn yarn_bounds(dims: usize, (mut first, mut last): (f64, f64), whole_pairs: bool) -> (f32, f32) {
    if whole_pairs {
        (first, last) = (first.floor(), last.ceil());
    }
    (first, last) = (first.max(0.0), last.min(dims as f64 - 1.0));
    let width = if first == last { 0.001 } else { last - first };
    (first as f32, width as f32)
}

/// YaRN's: pairs in front of the first bound stay, those behind the last one are stretched, those between are blended.
fn yarn(pair: usize, frequency: f32, factor: f32, (first, width): (f32, f32)) -> f32 {
    let stretched = ((pair as f32 - first) / width).clamp(0.0, 1.0);
    let kept = 1.0 - stretched;
    frequency / factor * (1.0 - kept) + frequency * kept
}

/// The table of a model with rotary positions.
pub(super) fn table<B: Backend>(backend: &B, config: &ModelConfig) -> Result<Option<RotaryTable<B>>, EngineError> {
    let Positions::Rotary { dims, base, scaling } = &config.positions else { return Ok(None) };
    let half = dims.div_ceil(2);
    let Turns { frequencies, long, magnitude } = turns(*dims, *base, scaling);
    let mut table = Vec::with_capacity(config.n_ctx * 2 * half * if long.is_some() { 2 } else { 1 });
    for frequencies in std::iter::once(&frequencies).chain(&long) {
        for position in 0..config.n_ctx {
            let angle = |f: &f32| f64::from(position as f32 * f);
            table.extend(frequencies.iter().map(|f| angle(f).cos() as f32 * magnitude));
            table.extend(frequencies.iter().map(|f| angle(f).sin() as f32 * magnitude));
        }
    }
    Ok(Some(RotaryTable { half, table: backend.upload(&table)? }))
}

/// Queries and keys before their norms, which the backward pass needs.
pub(super) struct QkInputs<B: Backend> {
    /// `(T, n_heads * d_head)`; of last positions only where only those ask.
    query: B::Tensor,
    /// `(T, n_kv_heads * d_head)`.
    key: B::Tensor,
}

impl<B: Backend> Engine<B> {
    /// The keys among rows of keys and values.
    fn key_columns(&self) -> Columns {
        let width = self.config().d_kv();
        Columns { stride: 2 * width, start: 0, width }
    }

    /// Copies columns of `x` into columns of `y`, row by row.
    pub(super) fn copy_columns(
        &self,
        x: &B::Tensor,
        from: Columns,
        y: &mut B::Tensor,
        to: Columns,
    ) -> Result<(), EngineError> {
        let backend = &self.backend;
        let every = backend.upload_indices(&(0..(backend.len(x) / from.stride) as u32).collect::<Vec<_>>())?;
        backend.patch_replace(y, to, x, from, PatchRows { target: &every, source: &every })?;
        Ok(())
    }

    /// Columns of `x` as a matrix of their own.
    pub(super) fn columns_of(&self, x: &B::Tensor, columns: Columns) -> Result<B::Tensor, EngineError> {
        let mut copy = self.backend.tensor(self.backend.len(x) / columns.stride * columns.width)?;
        self.copy_columns(x, columns, &mut copy, Columns::all(columns.width))?;
        Ok(copy)
    }

    /// Every token's row in the table of positions, learned or rotary.
    pub(super) fn position_rows(&self, layout: &Layout) -> Vec<u32> {
        let mut rows = layout.positions();
        let config = self.config();
        if let Positions::Rotary { scaling: RotaryScaling::LongRope { original_n_ctx, .. }, .. } = &config.positions {
            for (token, row) in rows.iter_mut().enumerate() {
                if layout.len(layout.place(token).0) > *original_n_ctx {
                    *row += config.n_ctx as u32;
                }
            }
        }
        rows
    }

    /// Rotates queries, asked at `asked`, and keys of block `layer` in place, backwards when `inverse`; nothing with learned
    /// positions.
    pub(super) fn rotate(
        &self,
        layer: usize,
        q: &mut B::Tensor,
        kv: &mut B::Tensor,
        (asked, positions): (&B::Indices, &B::Indices),
        inverse: bool,
    ) -> Result<(), EngineError> {
        let Some(RotaryTable { half, table }) = &self.rotary else { return Ok(()) };
        let (heads, queries) = (self.heads(layer), Columns::all(self.config().d_attn()));
        self.backend.rotary(q, queries, heads, *half, table, asked, inverse)?;
        self.backend.rotary(kv, self.key_columns(), heads, *half, table, positions, inverse)?;
        Ok(())
    }

    /// Gradients to queries and keys before their norms, from those behind them, in place.
    pub(super) fn qk_norm_backward(
        &self,
        layer: &Layer<B>,
        inputs: &QkInputs<B>,
        d_q: &mut B::Tensor,
        d_kv: &mut B::Tensor,
    ) -> Result<(), EngineError> {
        let (Some(query_norm), Some(key_norm)) = (&layer.query_norm, &layer.key_norm) else { return Ok(()) };
        let backend = &self.backend;
        let mut d_query = backend.tensor(backend.len(d_q))?;
        backend.zero(&mut d_query)?;
        backend.layer_norm_backward(d_q, &inputs.query, query_norm, &mut d_query)?;
        *d_q = d_query;
        let d_normed = self.columns_of(d_kv, self.key_columns())?;
        let mut d_key = backend.tensor(backend.len(&d_normed))?;
        backend.zero(&mut d_key)?;
        backend.layer_norm_backward(&d_normed, &inputs.key, key_norm, &mut d_key)?;
        let columns = self.key_columns();
        self.copy_columns(&d_key, Columns::all(columns.width), d_kv, columns)
    }
}

impl<B: Backend> Pass<'_, B> {
    /// Norms of queries and keys in place, for models that have them; returns their inputs when a tape is kept.
    pub(super) fn norm_queries_and_keys(
        &self,
        layer: &Layer<B>,
        q: &mut B::Tensor,
        kv: &mut B::Tensor,
    ) -> Result<Option<QkInputs<B>>, EngineError> {
        let (Some(query_norm), Some(key_norm)) = (&layer.query_norm, &layer.key_norm) else { return Ok(None) };
        let normed = self.norm(q, query_norm)?;
        let query = std::mem::replace(q, normed);
        let key = self.engine.columns_of(kv, self.engine.key_columns())?;
        let columns = self.engine.key_columns();
        self.engine.copy_columns(&self.norm(&key, key_norm)?, Columns::all(columns.width), kv, columns)?;
        Ok(self.tape.is_some().then_some(QkInputs { query, key }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Llama 3.1's numbers: 64 pairs, base 500000, factor 8 over 8192 positions.
    #[test]
    fn llama3_scaling_keeps_short_wavelengths_and_stretches_long_ones() {
        let scaling = RotaryScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_n_ctx: 8192,
        };
        let frequencies = |scaling| turns(128, 5e5, &scaling).frequencies;
        let (plain, scaled) = (frequencies(RotaryScaling::None), frequencies(scaling));
        let ratio: Vec<f32> = scaled.iter().zip(&plain).map(|(s, p)| s / p).collect();
        // Wavelength 2π 500000^(i/64): below 2048 up to i = 28, above 8192 from i = 35 on.
        assert!(ratio[..=28].iter().all(|r| *r == 1.0) && ratio[35..].iter().all(|r| *r == 0.125), "{ratio:?}");
        assert!(ratio[29..35].windows(2).all(|pair| pair[0] > pair[1]) && ratio[29] < 1.0 && ratio[34] > 0.125);
        let linear = frequencies(RotaryScaling::Linear { factor: 4.0 });
        assert!(linear.iter().zip(&plain).all(|(l, p)| l * 4.0 == *p));
    }
}
