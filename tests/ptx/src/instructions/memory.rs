//! Loads, stores, parameters, asynchronous copies.

use super::{Address, Decoder, Operand, Operation, Register};
use crate::values::Type;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Global,
    Shared,
}

impl Space {
    /// Bytes of an address.
    fn address_bytes(self) -> usize {
        if self == Self::Global { 8 } else { 4 }
    }
}

/// Neighbouring values from memory into registers.
#[derive(Debug)]
pub struct Load {
    pub space: Space,
    pub kind: Type,
    pub to: Vec<Register>,
    pub at: Address,
}

#[derive(Debug)]
pub struct Store {
    pub space: Space,
    pub kind: Type,
    pub from: Vec<Register>,
    pub at: Address,
}

/// Neighbouring values among the bytes of the parameters.
#[derive(Debug)]
pub struct Parameter {
    pub kind: Type,
    pub to: Vec<Register>,
    pub offset: usize,
}

/// `cp.async`: `bytes` to shared memory, of which the first so many come from global memory and the rest are zero.
#[derive(Debug)]
pub struct Copy {
    pub bytes: usize,
    pub to: Address,
    pub from: Address,
    pub inside: Register,
}

/// The operation, or `None` for other groups' instructions.
pub fn decode(decoder: &mut Decoder, name: &str, operands: &[Operand<'_>]) -> Result<Option<Operation>, String> {
    let operation = match (name, operands) {
        ("cp.async.commit_group", []) => Operation::CommitCopies,
        ("cp.async.wait_group", [Operand::Word(pending)]) => {
            Operation::WaitForCopies(pending.parse().map_err(|_| format!("a number of groups expected: `{pending}`"))?)
        }
        ("cp.async.cg.shared.global" | "cp.async.ca.shared.global", [to, from, Operand::Word(bytes), inside]) => {
            let sizes: &[usize] = if name.contains(".cg") { &[16] } else { &[4, 8, 16] };
            let bytes = bytes.parse().ok().filter(|bytes| sizes.contains(bytes));
            let Operand::Word(inside) = inside else { return Err("a register expected".into()) };
            Operation::Copy(Copy {
                bytes: bytes.ok_or_else(|| format!("copies of {sizes:?} bytes expected"))?,
                to: decoder.address(to, Space::Shared.address_bytes())?,
                from: decoder.address(from, Space::Global.address_bytes())?,
                inside: decoder.source(inside, "u32", false)?,
            })
        }
        _ if name.starts_with("cp.async") => return Err("unknown kind of copy, or not its operands".into()),
        ("ret" | "bra", _) => return Ok(None),
        (_, [to, from]) if name.starts_with("ld.") => load(decoder, name, to, from)?,
        (_, [to, from]) if name.starts_with("st.") => {
            let (space, kind, count) = place(name)?;
            let space = match space {
                "shared" => Space::Shared,
                "global" => Space::Global,
                _ => return Err(format!("unknown instruction `{name}`")),
            };
            let from = registers(decoder, from, kind, count)?;
            Operation::Store(Store { space, kind, from, at: decoder.address(to, space.address_bytes())? })
        }
        _ => return Ok(None),
    };
    Ok(Some(operation))
}

/// Space, type and number of values, from a name such as `ld.global.v4.f32`.
fn place(name: &str) -> Result<(&str, Type, usize), String> {
    let unknown = || format!("unknown instruction `{name}`");
    let parts: Vec<&str> = name.split('.').collect();
    let (space, count, kind) = match parts[..] {
        [_, space, kind] => (space, 1, kind),
        [_, space, "v2", kind] => (space, 2, kind),
        [_, space, "v4", kind] => (space, 4, kind),
        _ => return Err(unknown()),
    };
    let kind = Type::named(kind).filter(|kind| kind.bytes == 4 || kind.bytes == 8).ok_or_else(unknown)?;
    Ok((space, kind, count))
}

fn load(decoder: &mut Decoder, name: &str, to: &Operand<'_>, from: &Operand<'_>) -> Result<Operation, String> {
    let (space, kind, count) = place(name)?;
    let to = registers(decoder, to, kind, count)?;
    let space = match space {
        "param" => {
            let Operand::Address(base, offset) = from else { return Err("an address expected".into()) };
            let parameter = decoder.names.parameters.get(*base).ok_or_else(|| format!("no parameter `{base}`"))?;
            let end = *offset + (kind.bytes * count) as i64;
            if *offset < 0 || end > parameter.bytes as i64 {
                let bytes = parameter.bytes;
                return Err(format!("bytes {offset} to {end} of a parameter of {bytes}"));
            }
            let offset = parameter.offset + *offset as usize;
            if !offset.is_multiple_of(kind.bytes * count) {
                return Err("a parameter that does not start on its size".into());
            }
            return Ok(Operation::Parameter(Parameter { kind, to, offset }));
        }
        "shared" => Space::Shared,
        "global" => Space::Global,
        _ => return Err(format!("unknown instruction `{name}`")),
    };
    Ok(Operation::Load(Load { space, kind, to, at: decoder.address(from, space.address_bytes())? }))
}

fn registers(decoder: &Decoder, operand: &Operand<'_>, kind: Type, count: usize) -> Result<Vec<Register>, String> {
    let words = match operand {
        Operand::Word(word) => vec![*word],
        Operand::Group(words) => words.clone(),
        _ => return Err("registers expected".into()),
    };
    if words.len() != count {
        return Err(format!("{count} registers expected, found {}", words.len()));
    }
    words.iter().map(|word| decoder.register(word, kind, true)).collect()
}
