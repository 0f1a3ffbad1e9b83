//! What is known of a kernel without a GPU, and the committed file of it.

use std::collections::BTreeMap;

/// Compute capabilities that the kernels are assembled for, major * 10 + minor.
pub const CAPABILITIES: [u32; 3] = [80, 89, 90];

/// What ptxas makes of a kernel for a compute capability.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Code {
    pub registers: u64,
    /// Blocks that a multiprocessor holds.
    pub blocks: u64,
    /// Instructions issued.
    pub slots: u64,
    /// Tensor-core instructions among those of the inner loop, in 10,000ths.
    pub tensor_per_slot: u64,
}

/// A kernel doing some work.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Figures {
    pub kernel: String,
    /// Arithmetic that the work needs; nothing where bytes are what matters.
    pub flops: u64,
    /// Arithmetic of the tensor cores: three times as much for f32.
    pub tensor_operations: u64,
    /// Are factors of 16 bits multiplied?
    pub sixteen_bits: bool,
    /// Of the PTX, executed by warps.
    pub instructions: u64,
    /// Accesses to shared memory, in cycles.
    pub wavefronts: u64,
    /// Sectors of global memory that were touched, in bytes.
    pub global_bytes: u64,
    /// Shared memory of a block.
    pub shared_bytes: u64,
    pub codes: [Code; 3],
}

/// Which way a column gets worse.
#[derive(Clone, Copy)]
enum Worse {
    More,
    Less,
    Neither,
}

/// Columns in front of those of every capability.
const COLUMNS: [(&str, Worse); 7] = [
    ("flops", Worse::Neither),
    ("tensor_operations", Worse::More),
    ("sixteen_bits", Worse::Neither),
    ("instructions", Worse::More),
    ("wavefronts", Worse::More),
    ("global_bytes", Worse::More),
    ("shared_bytes", Worse::More),
];
const CODE_COLUMNS: [(&str, Worse); 4] =
    [("registers", Worse::More), ("blocks", Worse::Less), ("slots", Worse::More), ("tensor_per_slot", Worse::Less)];

fn columns() -> impl Iterator<Item = (String, Worse)> {
    let shared = COLUMNS.map(|(name, worse)| (name.to_owned(), worse));
    let of_code = |capability: u32| CODE_COLUMNS.map(|(name, worse)| (format!("{name}_{capability}"), worse));
    shared.into_iter().chain(CAPABILITIES.into_iter().flat_map(of_code))
}

impl Figures {
    pub fn code_for(&self, capability: u32) -> &Code {
        let place = CAPABILITIES.iter().position(|known| *known == capability);
        &self.codes[place.unwrap_or_else(|| panic!("no figures for compute capability {capability}"))]
    }

    fn numbers(&self) -> Vec<u64> {
        let Self { flops, tensor_operations, instructions, wavefronts, global_bytes, shared_bytes, .. } = *self;
        let shared =
            [flops, tensor_operations, self.sixteen_bits.into(), instructions, wavefronts, global_bytes, shared_bytes];
        let of_code = |code: &Code| [code.registers, code.blocks, code.slots, code.tensor_per_slot];
        shared.into_iter().chain(self.codes.iter().flat_map(of_code)).collect()
    }

    /// What has changed, column by column, and whether for the worse.
    pub fn changes(&self, before: &Self) -> Vec<String> {
        let values = before.numbers().into_iter().zip(self.numbers());
        let changed = columns().zip(values).filter(|(_, (before, now))| before != now);
        let shown = changed.map(|((column, worse), (before, now))| {
            let verdict = match worse {
                Worse::More if now > before => "worse: ",
                Worse::Less if now < before => "worse: ",
                Worse::Neither => "",
                _ => "better: ",
            };
            format!("{verdict}{}: {column} was {before}, is {now}", self.kernel)
        });
        shown.collect()
    }
}

/// The committed file's text.
pub fn written(all: &BTreeMap<String, Figures>) -> String {
    let mut text = "kernel".to_owned();
    columns().for_each(|(column, _)| text += &format!(",{column}"));
    for figures in all.values() {
        text += &format!("\n{}", figures.kernel);
        figures.numbers().iter().for_each(|number| text += &format!(",{number}"));
    }
    text + "\n"
}

/// Reads the committed file, whose columns must be today's.
pub fn read(text: &str) -> Result<BTreeMap<String, Figures>, String> {
    let mut lines = text.lines().zip(1..);
    let (head, _) = lines.next().ok_or("it is empty")?;
    let expected: Vec<String> = std::iter::once("kernel".to_owned()).chain(columns().map(|(name, _)| name)).collect();
    if head.split(',').ne(&expected) {
        return Err(format!("line 1: columns {} expected", expected.join(",")));
    }
    let row = |(line, number): (&str, usize)| {
        let (kernel, rest) = line.split_once(',').ok_or_else(|| format!("line {number}: a kernel expected"))?;
        let values: Result<Vec<u64>, _> = rest.split(',').map(str::parse).collect();
        let values = values.map_err(|error| format!("line {number}, {kernel}: {error}"))?;
        if values.len() + 1 != expected.len() {
            return Err(format!("line {number}, {kernel}: {} numbers, expected {}", values.len(), expected.len() - 1));
        }
        let mut values = values.into_iter();
        let mut next = || values.next().unwrap_or_default();
        let mut figures = Figures {
            kernel: kernel.to_owned(),
            flops: next(),
            tensor_operations: next(),
            sixteen_bits: next() != 0,
            instructions: next(),
            wavefronts: next(),
            global_bytes: next(),
            shared_bytes: next(),
            ..Figures::default()
        };
        for code in &mut figures.codes {
            *code = Code { registers: next(), blocks: next(), slots: next(), tensor_per_slot: next() };
        }
        Ok((kernel.to_owned(), figures))
    };
    lines.map(row).collect()
}

#[test]
fn a_file_that_is_read_is_the_one_that_was_written_and_changes_are_named() {
    let mut figures = Figures { kernel: "k".into(), flops: 2, instructions: 5, ..Figures::default() };
    figures.codes[2] = Code { registers: 40, blocks: 3, slots: 9, tensor_per_slot: 1000 };
    let all = BTreeMap::from([("k".to_owned(), figures.clone())]);
    assert_eq!(read(&written(&all)).unwrap(), all);
    let mut now = figures.clone();
    now.instructions = 4;
    now.codes[2].blocks = 2;
    let changes = ["better: k: instructions was 5, is 4", "worse: k: blocks_90 was 3, is 2"];
    assert_eq!(now.changes(&figures), changes);
    let damaged = written(&all).replace(",5,", ",five,");
    assert!(read(&damaged).unwrap_err().starts_with("line 2, k: "));
    assert!(read("kernel,flops\n").unwrap_err().starts_with("line 1: columns"));
}
