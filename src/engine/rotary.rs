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
    let pairs = dims.div_ceil(2);
    let frequency = |i: usize| 1.0 / base.powf(2.0 * i as f32 / dims as f32);
    let plain = (0..pairs).map(frequency);
    let stretched = |divisors: &[f32]| {
        let exponent = |i: usize| base.powf(2.0 * i as f32 / dims as f32);
        divisors.iter().enumerate().map(|(i, divisor)| 1.0 / (divisor * exponent(i))).collect()
    };
    let mut turns = Turns { frequencies: Vec::new(), long: None, magnitude: 1.0 };
    turns.frequencies = match scaling {
        RotaryScaling::None => plain.collect(),
        RotaryScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
        &RotaryScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_n_ctx } => {
            let (low, high) = (low_frequency_factor, high_frequency_factor);
            let original = original_n_ctx as f32;
            let stretch = |frequency: f32| {
                let wavelength = TAU / frequency;
                // In this order, in which factors that leave no wavelength between them never meet the division.
                if wavelength > original / low {
                    frequency / factor
                } else if wavelength < original / high || high <= low {
                    frequency
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            };
            plain.map(stretch).collect()
        }
        &RotaryScaling::Yarn { factor, fast_turns, slow_turns, whole_pairs, original_n_ctx, magnitude } => {
            turns.magnitude = magnitude;
            // The pair that turns so often within the pre-training's context.
            let pair = |turns: f64| {
                let context = original_n_ctx as f64 / (turns * std::f64::consts::TAU);
                dims as f64 * context.ln() / (2.0 * f64::from(base).ln())
            };
            let (mut first, mut last) = (pair(fast_turns), pair(slow_turns));
            if whole_pairs {
                (first, last) = (first.floor(), last.ceil());
            }
            (first, last) = (first.max(0.0), last.min(dims as f64 - 1.0));
            let width = if first == last { 0.001 } else { last - first };
            let blend = |(i, frequency): (usize, f32)| {
                let stretched = ((i as f32 - first as f32) / width as f32).clamp(0.0, 1.0);
                let kept = 1.0 - stretched;
                frequency / factor as f32 * (1.0 - kept) + frequency * kept
            };
            plain.enumerate().map(blend).collect()
        }
        RotaryScaling::LongRope { short, long, magnitude, .. } => {
            turns.magnitude = *magnitude;
            turns.long = Some(stretched(long));
            stretched(short)
        }
        &RotaryScaling::Proportional { pairs: turning, factor } => {
            plain.enumerate().map(|(i, frequency)| if i < turning { frequency / factor } else { 0.0 }).collect()
        }
    };
    turns
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
