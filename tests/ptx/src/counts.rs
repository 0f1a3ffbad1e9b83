//! What a launch has done, per instruction.

use crate::instructions::Operation;
use crate::module::Kernel;
use crate::values::{Mask, WARP, lanes_of};
use std::collections::BTreeMap;

/// Of one instruction of the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Warps that have executed it.
    pub executed: u64,
    /// What its accesses took: wavefronts of shared memory, or sectors of 32 bytes of global memory.
    pub taken: u64,
    /// What they would take without bank conflicts, or with all bytes of a sector used.
    pub least: u64,
}

/// Of all blocks of one or more launches of a kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(pub Vec<Tally>);

impl Counts {
    pub fn new(kernel: &Kernel) -> Self {
        Self(vec![Tally::default(); kernel.instructions.len()])
    }

    pub fn add(&mut self, other: &Self) {
        for (sum, tally) in self.0.iter_mut().zip(&other.0) {
            sum.executed += tally.executed;
            sum.taken += tally.taken;
            sum.least += tally.least;
        }
    }

    /// How often warps have executed each kind of instruction.
    pub fn by_name<'a>(&self, kernel: &'a Kernel) -> BTreeMap<&'a str, u64> {
        let mut found = BTreeMap::new();
        for (instruction, tally) in kernel.instructions.iter().zip(&self.0).filter(|(_, tally)| tally.executed > 0) {
            *found.entry(&*instruction.name).or_default() += tally.executed;
        }
        found
    }

    /// Instructions whose accesses to shared memory took more wavefronts than without bank conflicts: lines and tallies.
    pub fn conflicts(&self, kernel: &Kernel) -> Vec<(u32, Tally)> {
        let shared = |operation: &Operation| match operation {
            Operation::Load(load) => load.space == crate::instructions::memory::Space::Shared,
            Operation::Store(store) => store.space == crate::instructions::memory::Space::Shared,
            Operation::Matrices(_) => true,
            _ => false,
        };
        let all = kernel.instructions.iter().zip(&self.0);
        let found = all.filter(|(instruction, tally)| shared(&instruction.operation) && tally.taken > tally.least);
        found.map(|(instruction, tally)| (instruction.line, *tally)).collect()
    }
}

const BANKS: usize = 32;

/// Wavefronts of an access to shared memory, `bytes` (4, 8 or 16) from each active lane's address on: taken, and without
/// bank conflicts. 8 bytes go by half warps, 16 by quarters.
pub fn wavefronts(addresses: &[u64; WARP], active: Mask, bytes: usize) -> (u64, u64) {
    let lanes = WARP * 4 / bytes;
    let (mut taken, mut least) = (0, 0);
    for first in (0..WARP).step_by(lanes) {
        let part = active & (Mask::MAX >> (WARP - lanes)) << first;
        if part != 0 {
            taken += conflicts(addresses, part, bytes);
            least += 1;
        }
    }
    (taken, least)
}

/// The most different words that lanes want from one bank.
fn conflicts(addresses: &[u64; WARP], active: Mask, bytes: usize) -> u64 {
    let mut words: [Vec<u64>; BANKS] = [const { Vec::new() }; BANKS];
    let mut single = [u64::MAX; BANKS];
    let mut several = false;
    for lane in lanes_of(active) {
        for i in 0..bytes as u64 / 4 {
            let word = addresses[lane] / 4 + i;
            let bank = word as usize % BANKS;
            if single[bank] == u64::MAX {
                single[bank] = word;
            } else if single[bank] != word {
                several = true;
                if !words[bank].contains(&word) {
                    words[bank].push(word);
                }
            }
        }
    }
    if several { 1 + words.iter().map(Vec::len).max().unwrap_or(0) as u64 } else { 1 }
}

/// Sectors of an access to global memory: taken, and those that as many bytes fill.
pub fn sectors(addresses: &[u64; WARP], active: Mask, bytes: usize) -> (u64, u64) {
    const SECTOR: u64 = 32;
    let mut found = [0; WARP];
    let mut n = 0;
    for lane in lanes_of(active) {
        let sector = addresses[lane] / SECTOR;
        if n == 0 || found[n - 1] != sector {
            (found[n], n) = (sector, n + 1);
        }
    }
    let found = &mut found[..n];
    if !found.is_sorted() {
        found.sort_unstable();
    }
    let taken = 1 + found.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64;
    (taken, (u64::from(active.count_ones()) * bytes as u64).div_ceil(SECTOR).min(taken))
}
