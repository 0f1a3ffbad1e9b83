//! What instructions are, and how they are decoded: one file per group.

mod arithmetic;
pub mod control;
mod convert;
mod logic;
pub mod memory;
pub mod tensor;

use crate::module::Names;
use crate::values::{Form, Kind, Lanes, Type};
use control::Shuffle;
use memory::{Copy, Load, Parameter, Store};
use std::collections::HashMap;
use tensor::{Matrices, Multiply};

/// A register's number; numbers behind the registers are constants.
pub type Register = u16;

/// An instruction of a kernel.
#[derive(Debug)]
pub struct Instruction {
    pub line: u32,
    /// As the text names it.
    pub name: Box<str>,
    /// The predicate that lets it happen, or that must be false.
    pub guard: Option<(Register, bool)>,
    pub operation: Operation,
}

impl Instruction {
    /// Fills in where a branch goes.
    pub fn jump_to(&mut self, place: usize) {
        self.operation = Operation::Branch(place);
    }
}

#[derive(Debug)]
pub enum Operation {
    /// Every lane for itself, registers only.
    Compute(Compute),
    /// `a b + c` rounded once, and the same rounded twice.
    MultiplyAdd(Compute, fn(&[&Lanes; 4], &mut Lanes)),
    /// 64 bits into two registers.
    Split([Register; 2], Register),
    Parameter(Parameter),
    Load(Load),
    Store(Store),
    Copy(Copy),
    CommitCopies,
    WaitForCopies(u64),
    Matrices(Matrices),
    Multiply(Box<Multiply>),
    Shuffle(Shuffle),
    Barrier(u64),
    Branch(usize),
    Return,
}

/// An operation of registers; sources that it has not are the first one.
#[derive(Debug)]
pub struct Compute {
    pub to: Register,
    pub from: [Register; 4],
    pub n_from: usize,
    /// The second source must not be zero.
    pub divides: bool,
    /// The first source or the second, as the third says.
    pub chooses: bool,
    pub run: fn(&[&Lanes; 4], &mut Lanes),
}

/// An operand as it is written.
#[derive(Debug, PartialEq, Eq)]
pub enum Operand<'a> {
    Word(&'a str),
    /// `{a, b}`.
    Group(Vec<&'a str>),
    /// `[base+offset]`.
    Address(&'a str, i64),
    /// `a|b`.
    Pair(&'a str, &'a str),
}

/// An address in memory.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    pub base: Register,
    pub offset: i64,
}

/// Turns the instructions of one kernel into operations.
#[derive(Debug)]
pub struct Decoder {
    pub names: Names,
    constants: Vec<u64>,
    numbers: HashMap<u64, Register>,
}

impl Decoder {
    pub fn new(names: Names) -> Self {
        Self { names, constants: Vec::new(), numbers: HashMap::new() }
    }

    pub fn constants(self) -> Vec<u64> {
        self.constants
    }

    /// An instruction, or what is wrong with it.
    pub fn decode(
        &mut self,
        line: u32,
        guard: Option<(bool, &str)>,
        name: &str,
        operands: &[Operand<'_>],
    ) -> Result<Instruction, String> {
        let predicate = Type::named("pred").ok_or("no predicates")?;
        let guard = guard.map(|(negated, name)| Ok::<_, String>((self.register(name, predicate, false)?, negated)));
        let guard = guard.transpose()?;
        let operation = match control::decode(self, name, operands)? {
            Some(operation) => operation,
            None => match memory::decode(self, name, operands)? {
                Some(operation) => operation,
                None => match tensor::decode(self, name, operands)? {
                    Some(operation) => operation,
                    None => self.compute(name, operands)?,
                },
            },
        };
        Ok(Instruction { line, name: name.into(), guard, operation })
    }

    fn compute(&mut self, name: &str, operands: &[Operand<'_>]) -> Result<Operation, String> {
        if let ("mov.b64", [Operand::Group(parts), Operand::Word(from)]) = (name, operands) {
            let bits = Type::named("b32").ok_or("no type")?;
            let [low, high] = parts[..] else { return Err("64 bits are two registers".into()) };
            let to = [self.register(low, bits, false)?, self.register(high, bits, false)?];
            return Ok(Operation::Split(to, self.source(from, "b64", false)?));
        }
        // The two halves that make 64 bits are sources like others.
        let (name, flat) = match (name, operands) {
            ("mov.b64", [Operand::Word(to), Operand::Group(parts)]) => {
                ("mov.b64.pair", Ok([&[*to], &parts[..]].concat()))
            }
            _ => (name, words(operands)),
        };
        let forms = [arithmetic::form, logic::form, convert::form];
        let form = forms.iter().find_map(|form| form(name)).ok_or_else(|| format!("unknown instruction `{name}`"))?;
        let (Form { to, from, run }, flat) = (form, flat?);
        if flat.len() != 1 + from.len() {
            return Err(format!("{} operands expected, found {}", 1 + from.len(), flat.len()));
        }
        // A conversion takes the lower part of a larger register.
        let wider = name.starts_with("cvt.");
        let mut sources = [0; 4];
        for (i, (word, kind)) in flat[1..].iter().zip(from).enumerate() {
            sources[i] = self.source(word, kind, wider)?;
        }
        let first = sources[0];
        sources[from.len()..].fill(first);
        let to = self.register(flat[0], Type::named(to).ok_or("no type")?, false)?;
        let divides = matches!(name.split('.').next(), Some("div" | "rem")) && !name.contains(".f");
        let chooses = name.starts_with("selp.");
        let compute = Compute { to, from: sources, n_from: from.len(), divides, chooses, run };
        Ok(match arithmetic::rounded_twice(name) {
            Some(twice) => Operation::MultiplyAdd(compute, twice),
            None => Operation::Compute(compute),
        })
    }

    /// A register that an operand of type `kind` may be.
    pub fn register(&self, name: &str, kind: Type, wider: bool) -> Result<Register, String> {
        let (number, found) = self.names.registers.get(name).ok_or_else(|| format!("no register `{name}`"))?;
        match kind.fits(*found, wider) {
            true => Ok(*number),
            false => Err(format!("register `{name}` has another type than the instruction")),
        }
    }

    /// The number of a constant.
    pub fn constant(&mut self, value: u64) -> Register {
        let next = (self.names.registers.len() + self.constants.len()) as Register;
        *self.numbers.entry(value).or_insert_with(|| {
            self.constants.push(value);
            next
        })
    }

    /// A register, a number or the address of a variable in shared memory.
    pub fn source(&mut self, word: &str, kind: &str, wider: bool) -> Result<Register, String> {
        let kind = Type::named(kind).ok_or_else(|| format!("unknown type `{kind}`"))?;
        if let Some(&address) = self.names.shared.get(word) {
            return Ok(self.constant(address as u64));
        }
        if word.starts_with('%') {
            return self.register(word, kind, wider);
        }
        let value = number(word, kind).ok_or_else(|| format!("`{word}` is no value of the instruction's type"))?;
        Ok(self.constant(value))
    }

    /// The address `[base+offset]`: a register of `bytes`, or a variable in shared memory.
    pub fn address(&mut self, operand: &Operand<'_>, bytes: usize) -> Result<Address, String> {
        let Operand::Address(base, offset) = operand else { return Err("an address expected".into()) };
        let kind = if bytes == 8 { "u64" } else { "u32" };
        Ok(Address { base: self.source(base, kind, false)?, offset: *offset })
    }
}

/// The operands, when all are plain words.
fn words<'a>(operands: &[Operand<'a>]) -> Result<Vec<&'a str>, String> {
    let word = |operand: &Operand<'a>| match operand {
        Operand::Word(word) => Ok(*word),
        _ => Err("a register or a number expected".to_owned()),
    };
    operands.iter().map(word).collect()
}

/// The bits of a number as it is written: `12`, `-1`, `0f3F800000`, `0d3FF0000000000000`.
fn number(word: &str, kind: Type) -> Option<u64> {
    if let Some(bits) = word.strip_prefix("0f").or_else(|| word.strip_prefix("0F")) {
        let fits = kind.bytes == 4 && kind.kind != Kind::Integer && bits.len() == 8;
        return if fits { u32::from_str_radix(bits, 16).ok().map(u64::from) } else { None };
    }
    if let Some(bits) = word.strip_prefix("0d").or_else(|| word.strip_prefix("0D")) {
        let fits = kind.bytes == 8 && kind.kind != Kind::Integer && bits.len() == 16;
        return if fits { u64::from_str_radix(bits, 16).ok() } else { None };
    }
    let value: i128 = word.parse().ok()?;
    let range = match (kind.kind, kind.bytes) {
        (Kind::Float, _) => return None,
        (Kind::Predicate, _) => -1..=1,
        (_, 4) => i128::from(i32::MIN)..=i128::from(u32::MAX),
        _ => i128::from(i64::MIN)..=i128::from(u64::MAX),
    };
    let bits = if range.contains(&value) { value as u64 } else { return None };
    Some(match (kind.kind, kind.bytes) {
        (Kind::Predicate, _) => u64::from(bits != 0),
        (_, 4) => u64::from(bits as u32),
        _ => bits,
    })
}
