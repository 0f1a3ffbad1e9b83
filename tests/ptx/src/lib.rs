//! Runs the committed PTX on the processor, for tests: the text is read as the driver would, each instruction is decoded
//! or refused by line and name, and a launch runs block by block, warps in a chosen order, with checks that no GPU makes.
//!
//! What is checked: types of registers, address spaces, bounds and alignment of every access, values of registers and
//! shared memory that were never written, races between barriers, asynchronous copies that are read or overwritten before
//! they were waited for, barriers and warp-wide instructions that not all lanes reach, divisions by zero, the bytes of
//! parameters.
//!
//! What this does not show: what ptxas makes of the text, ordering between blocks, timing, the last bits of `ex2.approx`.

mod block;
pub mod counts;
mod driver;
mod flow;
mod global;
mod instructions;
mod module;
mod shared;
mod text;
mod values;
mod warp;

pub use counts::{Counts, Tally};
pub use driver::{INTERPRETER, Interpreter, Launched, counted, edit, last_fault};
pub use global::{Global, Region};
pub use instructions::tensor::Sums;
pub use module::{Kernel, Module};
pub use text::ReadError;

use block::Block;
use rayon::prelude::*;
use shared::Shared;
use std::fmt::{Display, Formatter};

/// In which order warps run between two barriers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    #[default]
    Forward,
    Reverse,
    Random,
}

/// A kernel's launch.
#[derive(Debug)]
pub struct Launch<'a> {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of shared memory behind what the text asks for.
    pub dynamic_shared: usize,
    /// All parameters, each at its offset.
    pub parameters: &'a [u8],
    pub global: Global<'a>,
    pub order: Order,
    /// Of the random order.
    pub seed: u32,
    pub sums: Sums,
    /// Is `fma` rounded once, as it is on a GPU? Else twice, as in the kernels' sources compiled for a processor without it.
    pub fused: bool,
}

/// A launch that went wrong, with the instruction at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub kernel: String,
    /// Of the PTX text, counted from 1; 0 for a launch that does not fit the kernel.
    pub line: usize,
    pub instruction: String,
    pub block: [u32; 3],
    pub warp: usize,
    pub message: String,
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { kernel, line, instruction, block: [x, y, z], warp, message } = self;
        if *line == 0 {
            return write!(f, "{kernel}: {message}");
        }
        write!(f, "{kernel}, line {line}: `{instruction}`, block ({x}, {y}, {z}), warp {warp}: {message}")
    }
}

impl std::error::Error for Fault {}

impl Kernel {
    /// Runs the blocks of a launch, several at a time.
    ///
    /// # Errors
    /// The [`Fault`] of a block.
    pub fn launch(&self, launch: &Launch<'_>) -> Result<Counts, Fault> {
        let threads: usize = launch.block.iter().map(|n| *n as usize).product();
        let refused = |message: String| Fault {
            kernel: self.name.clone(),
            line: 0,
            instruction: String::new(),
            block: [0; 3],
            warp: 0,
            message,
        };
        if let Some(most) = self.most_threads.filter(|most| *most < threads) {
            return Err(refused(format!("{threads} threads in a block, the text allows {most}")));
        }
        if launch.parameters.len() != self.parameter_bytes() {
            let (found, expected) = (launch.parameters.len(), self.parameter_bytes());
            return Err(refused(format!("{found} bytes of parameters, the text has {expected}")));
        }
        let [x, y, z] = launch.grid;
        let index = |i: u64| {
            let (x, y) = (u64::from(x), u64::from(y));
            [i % x, i / x % y, i / x / y].map(|n| n as u32)
        };
        let start = || (Shared::default(), Counts::new(self));
        let blocks = (0..u64::from(x) * u64::from(y) * u64::from(z)).into_par_iter();
        let run = |(mut shared, mut counts): (Shared, Counts), i| {
            Block::new(self, launch, index(i), &mut shared, &mut counts).run()?;
            Ok((shared, counts))
        };
        let parts = blocks.try_fold(start, run).map(|part| part.map(|(_, counts)| counts));
        parts.try_reduce(
            || Counts::new(self),
            |mut sum, part| {
                sum.add(&part);
                Ok(sum)
            },
        )
    }
}
