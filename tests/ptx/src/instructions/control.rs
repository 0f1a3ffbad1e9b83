//! Branches, barriers, exchanges between lanes.

use super::{Decoder, Operand, Operation, Register};
use crate::values::{Lanes, Mask, Type, WARP, lanes_of};

/// `shfl.sync.bfly.b32 to|valid, from, lanes, clamp, members`.
#[derive(Debug)]
pub struct Shuffle {
    pub to: Register,
    pub valid: Option<Register>,
    /// Value, lane mask, clamp and segments, members.
    pub from: [Register; 4],
}

/// The operation, or `None` for other groups' instructions.
pub fn decode(decoder: &mut Decoder, name: &str, operands: &[Operand<'_>]) -> Result<Option<Operation>, String> {
    let operation = match (name, operands) {
        // The target is filled in when all labels are known.
        ("bra" | "bra.uni", [Operand::Word(_)]) => Operation::Branch(0),
        ("ret", []) => Operation::Return,
        ("bar.sync", [Operand::Word(number)]) => {
            let number = number.parse().ok().filter(|number| *number < 16);
            Operation::Barrier(number.ok_or("the number of a barrier expected, 0 to 15")?)
        }
        ("shfl.sync.bfly.b32", [to, Operand::Word(value), Operand::Word(a), Operand::Word(b), Operand::Word(c)]) => {
            let (to, valid) = match to {
                Operand::Word(to) => (to, None),
                Operand::Pair(to, valid) => (to, Some(valid)),
                _ => return Err("a register expected".into()),
            };
            let kind = |name| Type::named(name).ok_or("no type");
            let predicate = kind("pred")?;
            Operation::Shuffle(Shuffle {
                to: decoder.register(to, kind("b32")?, false)?,
                valid: valid.map(|name| decoder.register(name, predicate, false)).transpose()?,
                from: [
                    decoder.source(value, "b32", false)?,
                    decoder.source(a, "b32", false)?,
                    decoder.source(b, "b32", false)?,
                    decoder.source(c, "b32", false)?,
                ],
            })
        }
        ("bra" | "bra.uni" | "ret" | "bar.sync" | "shfl.sync.bfly.b32", _) => {
            return Err("these are not the instruction's operands".into());
        }
        _ => return Ok(None),
    };
    Ok(Some(operation))
}

/// Values of an exchange, and where they come from a lane of the same segment.
pub fn shuffle(from: [&Lanes; 4], active: Mask) -> Result<(Lanes, Lanes), String> {
    let [values, turns, clamps, members] = from;
    let (mut to, mut valid) = (*values, [0; WARP]);
    for lane in lanes_of(active) {
        if members[lane] as Mask != active {
            let members = members[lane] as Mask;
            return Err(format!("a shuffle among the lanes {members:#x}, of which {active:#x} are here"));
        }
        let (clamp, segments) = (clamps[lane] as usize & 31, clamps[lane] as usize >> 8 & 31);
        let most = (lane & segments) | (clamp & !segments);
        let other = lane ^ (turns[lane] as usize & 31);
        if other <= most {
            if active >> other & 1 == 0 {
                return Err(format!("lane {lane} reads lane {other}, which is not here"));
            }
            (to[lane], valid[lane]) = (values[other], 1);
        }
    }
    Ok((to, valid))
}
