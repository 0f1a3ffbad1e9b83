//! Under which names a checkpoint keeps the tensors of its family.
//!
//! The library writes `model.layers.0…` or, without the head, `layers.0…`; trainers and compilers put names of their own in
//! front (`module.`, `_orig_mod.`), and a model inside a model doubles the family's. The last norm's gain, which every
//! checkpoint has once, shows what stands in front.

use super::families::{Architecture, TensorSpec};
use std::collections::{BTreeSet, HashSet};

/// What stands in front of a checkpoint's tensors.
#[derive(Debug)]
pub(crate) struct StoredNames {
    /// In front of all but the head, the likeliest first.
    roots: Vec<String>,
    /// In front of the head.
    head_roots: Vec<String>,
    /// How many blocks are stored, as far as their names tell.
    blocks: usize,
}

impl StoredNames {
    /// Looks through the names of all stored tensors.
    ///
    /// # Errors
    /// What stands in front of the tensors of several models, none of which has the family's usual names.
    pub fn find(stored: &HashSet<&str>, architecture: &dyn Architecture) -> Result<Self, Vec<String>> {
        let outer = architecture.outer();
        let in_front: BTreeSet<&str> =
            stored.iter().filter_map(|name| name.strip_suffix(outer.final_gain)).filter(|root| is_root(root)).collect();
        let usual = [architecture.prefix(), ""];
        let mut roots: Vec<String> = usual.map(str::to_owned).to_vec();
        let unusual: Vec<String> =
            in_front.iter().filter(|root| !usual.contains(root)).map(|s| (*s).to_owned()).collect();
        if !usual.iter().any(|root| in_front.contains(root)) {
            match unusual.as_slice() {
                [] => {}
                [root] => roots.insert(0, root.clone()),
                _ => return Err(unusual),
            }
        }
        let mut head_roots: Vec<String> = Vec::new();
        for root in roots.iter().flat_map(|root| leading_parts(root)) {
            if !head_roots.iter().any(|known| known == root) {
                head_roots.push(root.to_owned());
            }
        }
        let blocks = roots.iter().map(|root| count_blocks(stored, &format!("{root}{}", outer.blocks))).max();
        Ok(Self { roots, head_roots, blocks: blocks.unwrap_or(0) })
    }

    /// How many blocks are stored, as far as their names tell; 0 when no name tells.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// The names that a tensor may be stored under.
    pub fn candidates<'a>(&'a self, spec: &'a TensorSpec, is_head: bool) -> impl Iterator<Item = String> + 'a {
        let names = std::iter::once(spec.name.as_str()).chain(spec.also);
        let roots = if is_head { &self.head_roots } else { &self.roots };
        names.flat_map(move |name| roots.iter().map(move |root| format!("{root}{name}")))
    }
}

/// Is this the part of a name in front of a tensor's own?
fn is_root(text: &str) -> bool {
    text.is_empty() || text.ends_with('.')
}

/// `a.b.`, `a.` and nothing of `a.b.`.
fn leading_parts(root: &str) -> impl Iterator<Item = &str> {
    let ends = (0..=root.len()).rev().filter(|&end| root.is_char_boundary(end));
    ends.map(|end| &root[..end]).filter(|part| is_root(part))
}

/// The largest block number behind `start`, and one.
fn count_blocks(stored: &HashSet<&str>, start: &str) -> usize {
    let number = |name: &&str| name.strip_prefix(start)?.split_once('.')?.0.parse::<usize>().ok();
    stored.iter().filter_map(number).max().map_or(0, |last| last.saturating_add(1))
}
