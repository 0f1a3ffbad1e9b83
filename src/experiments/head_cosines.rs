//! How alike the changes are that heads write when a prompt is corrupted.
//!
//! Changes are those towards the positive prompt: a negative prompt's change is turned round, since clean and corrupted
//! prompts may be the same ones in another order, and their plain means equal.

use super::chunks::{Kept, part, stretches};
use crate::backend::Backend;
use crate::engine::{Engine, EngineError, PairedRun, Site, norm_scale};
use crate::types::{NormKind, PairedPrompts, numbers};
use std::collections::BTreeSet;

/// A head where it is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadNode {
    /// Its block.
    pub layer: usize,
    /// Its number.
    pub head: usize,
    /// Position in every prompt.
    pub positions: Vec<usize>,
}

/// Cosines of the nodes' mean results, those of the clean prompts less those of the corrupted ones, `(nodes, nodes)`. Every
/// result is divided by the scale that its block's first norm has at its position (and centred, if that norm centres).
///
/// # Errors
/// A head or position that is not there, a node in front of every difference; those of the engine.
pub fn head_cosines<B: Backend>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    nodes: &[HeadNode],
    budget: usize,
) -> Result<Vec<f64>, EngineError> {
    let config = engine.config();
    for HeadNode { layer, head, positions } in nodes {
        Site::Result(*layer).check(config)?;
        if *head >= config.n_heads {
            let (expected, found) = (numbers(config.n_heads), head.to_string());
            return Err(EngineError::Mismatch { what: "head".into(), expected, found });
        }
        let before = |(prompt, position): (usize, &usize)| *position < prompts.first_difference(prompt);
        if positions.iter().enumerate().all(before) {
            let what = format!("{}: clean and corrupted tokens in reach of head {layer}.{head}", prompts.name);
            return Err(EngineError::Mismatch { what, expected: "a difference".into(), found: "none".into() });
        }
    }
    let layers: BTreeSet<usize> = nodes.iter().map(|node| node.layer).collect();
    let sites: Vec<Site> = layers.iter().flat_map(|&layer| [Site::ResidPre(layer), Site::Z(layer)]).collect();
    let mut changes = vec![vec![0.0; config.d_head]; nodes.len()];
    for range in stretches(config, prompts, Kept { sites: &sites, positions: &[] }, 1, budget)? {
        let first = range.start;
        let paired = PairedRun::new(engine, part(prompts, range), &sites, &[], false)?;
        for (node, change) in nodes.iter().zip(&mut changes) {
            add_change(engine, &paired, node, first, change)?;
        }
    }
    let mut written = Vec::with_capacity(nodes.len());
    for (HeadNode { layer, head, .. }, change) in nodes.iter().zip(&changes) {
        let weight = engine.model().layer(*layer)?.attn_out.weight;
        let mut result = vec![0.0; config.d_model];
        for (row, z) in (head * config.d_head..).zip(change) {
            result.iter_mut().zip(weight.row(row)).for_each(|(sum, w)| *sum += z * f64::from(*w));
        }
        if config.norm == NormKind::Layer {
            let mean = result.iter().sum::<f64>() / result.len() as f64;
            result.iter_mut().for_each(|value| *value -= mean);
        }
        let length = result.iter().map(|value| value * value).sum::<f64>().sqrt();
        result.iter_mut().for_each(|value| *value /= length.max(f64::MIN_POSITIVE));
        written.push(result);
    }
    let cosine = |a: &Vec<f64>, b: &Vec<f64>| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    Ok(written.iter().flat_map(|a| written.iter().map(move |b| cosine(a, b))).collect())
}

/// Adds a node's scaled `hook_z` of every clean prompt of a stretch, less that of the corrupted one; `first` is the number
/// of the stretch's first prompt.
fn add_change<B: Backend>(
    engine: &Engine<B>,
    paired: &PairedRun<B>,
    node: &HeadNode,
    first: usize,
    change: &mut [f64],
) -> Result<(), EngineError> {
    let (config, prompts) = (engine.config(), paired.prompts());
    for (sequences, sign) in [(&prompts.clean, 1.0), (&prompts.corrupted, -1.0)] {
        let token = |(number, &sequence): (usize, &usize)| paired.run().token(sequence, node.positions[first + number]);
        let tokens = sequences.iter().enumerate().map(token).collect::<Result<Vec<_>, _>>()?;
        let resid = engine.captured_rows(paired.run(), Site::ResidPre(node.layer), &tokens)?;
        let z = engine.captured_rows(paired.run(), Site::Z(node.layer), &tokens)?;
        for row in 0..tokens.len() {
            let turned = if prompts.positive[row] { sign } else { -sign };
            let scale = turned / norm_scale(resid.row(row), config.norm, f64::from(config.norm_eps));
            let z = z.row(row).iter().skip(node.head * config.d_head);
            change.iter_mut().zip(z).for_each(|(sum, z)| *sum += scale * f64::from(*z));
        }
    }
    Ok(())
}
