//! Small texts, run on one array that goes in and one that comes out.
#![allow(dead_code, reason = "every test binary uses another part")]

use ptx::*;
use std::sync::atomic::{AtomicU32, Ordering};

/// A kernel with this body behind a prelude of 14 lines: `%rd1` is the address of what comes out, `%rd2` of what goes in,
/// `%r1` the thread; `%rd3` and `%rd4` are the thread's own words in both.
pub fn text(body: &str) -> String {
    format!(
        ".version 7.0\n.target sm_80\n.address_size 64\n\
         .extern .shared .align 16 .b8 dynamic[];\n\
         .visible .entry test(.param .u64 out, .param .u64 in) .maxntid 1024, 1, 1\n{{\n\
         .reg .pred %p<20>; .reg .f32 %f<40>; .reg .b32 %r<40>; .reg .b64 %rd<20>; .reg .f64 %fd<20>;\n\
         .shared .align 16 .b8 tile[8192];\n\
         ld.param.u64 %rd1, [out]; cvta.to.global.u64 %rd1, %rd1;\n\
         ld.param.u64 %rd2, [in]; cvta.to.global.u64 %rd2, %rd2;\n\
         mov.u32 %r1, %tid.x; mul.wide.u32 %rd3, %r1, 4;\n\
         add.s64 %rd4, %rd2, %rd3;\n\
         add.s64 %rd3, %rd1, %rd3;\n\n\
         {body}\n\
         ret;\n}}\n"
    )
}

/// The line of a body's first line in the whole text.
pub const FIRST_LINE: usize = 15;

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub threads: u32,
    pub order: Order,
    pub sums: Sums,
    pub fused: bool,
}

pub const USUAL: Options = Options { threads: 32, order: Order::Forward, sums: Sums::Nearest, fused: true };

/// Values that start, as a driver's arrays do, on 256 bytes.
pub struct Array {
    words: Vec<AtomicU32>,
    start: usize,
    len: usize,
}

impl Array {
    pub fn new(values: &[u32]) -> Self {
        const ALIGNMENT: usize = 256;
        let words: Vec<AtomicU32> = (0..values.len() + ALIGNMENT / 4).map(|_| AtomicU32::new(0)).collect();
        let address = words.as_ptr() as usize;
        let start = (address.next_multiple_of(ALIGNMENT) - address) / 4;
        words[start..].iter().zip(values).for_each(|(word, value)| word.store(*value, Ordering::Relaxed));
        Self { words, start, len: values.len() }
    }

    pub fn region(&self) -> Region {
        Region { start: self.words[self.start..].as_ptr() as u64, bytes: 4 * self.len as u64 }
    }

    pub fn values(&self) -> Vec<u32> {
        self.words[self.start..][..self.len].iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }
}

/// What `len` words hold after the body has run in one block, and what was counted.
pub fn run_with(body: &str, options: Options, input: &[u32], len: usize) -> Result<(Vec<u32>, Counts), String> {
    let module = Module::read(&text(body)).map_err(|error| error.to_string())?;
    let (input, out) = (Array::new(input), Array::new(&vec![0; len]));
    let mut regions = [input.region(), out.region()];
    let parameters: Vec<u8> = [regions[1], regions[0]].iter().flat_map(|region| region.start.to_le_bytes()).collect();
    regions.sort_by_key(|region| region.start);
    let Options { threads, order, sums, fused } = options;
    let launch = Launch {
        grid: [1; 3],
        block: [threads, 1, 1],
        dynamic_shared: 1024,
        parameters: &parameters,
        // SAFETY: the arrays live until the end of this function, and nobody else sees them.
        global: unsafe { Global::new(&regions) },
        order,
        seed: 1,
        sums,
        fused,
    };
    let counts = module.kernels[0].launch(&launch).map_err(|fault| fault.to_string())?;
    Ok((out.values(), counts))
}

pub fn run(body: &str, input: &[u32], len: usize) -> Result<Vec<u32>, String> {
    run_with(body, USUAL, input, len).map(|(out, _)| out)
}
