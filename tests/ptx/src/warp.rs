//! A warp: its registers, and which of its lanes are where.

use crate::instructions::{Address, Register};
use crate::module::Kernel;
use crate::values::{Lanes, Mask, WARP, lanes_of};

/// Lanes that go together until they meet others.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    pub at: usize,
    /// Where the lanes of the frame below are met.
    pub join: usize,
    pub lanes: Mask,
}

/// Four bytes that are on their way to shared memory; `from` is 0 for zeros.
#[derive(Debug, Clone, Copy)]
pub struct Copied {
    pub lane: usize,
    /// Counted by each lane for itself.
    pub group: u64,
    pub to: u64,
    pub from: u64,
}

#[derive(Debug)]
pub struct Warp {
    pub number: usize,
    /// Lanes that have begun, and those that have not ended.
    pub all: Mask,
    pub live: Mask,
    pub frames: Vec<Frame>,
    pub copies: Vec<Copied>,
    /// Groups of copies that each lane has closed.
    pub closed: [u64; WARP],
    /// Of global memory, the region that was used last.
    pub region: usize,
    registers: Vec<Lanes>,
    /// Lanes with a value, per register; constants have them all. What is computed without one has none either: compilers
    /// compute ahead what they then do not choose.
    known: Vec<Mask>,
}

impl Warp {
    /// A warp at a kernel's start. `special` are the first registers.
    pub fn new(kernel: &Kernel, number: usize, lanes: Mask, special: &[Lanes]) -> Self {
        let mut registers = vec![[0; WARP]; kernel.n_registers];
        registers[..special.len()].copy_from_slice(special);
        registers.extend(kernel.constants.iter().map(|&value| [value; WARP]));
        let mut known = vec![0; registers.len()];
        known[..special.len()].fill(Mask::MAX);
        known[kernel.n_registers..].fill(Mask::MAX);
        Self {
            number,
            all: lanes,
            live: lanes,
            frames: vec![Frame { at: 0, join: usize::MAX, lanes }],
            copies: Vec::new(),
            closed: [0; WARP],
            region: 0,
            registers,
            known,
        }
    }

    /// A register's lanes, and which of them have a value.
    pub fn peek(&self, register: Register) -> (&Lanes, Mask) {
        (&self.registers[usize::from(register)], self.known[usize::from(register)])
    }

    /// A register's lanes, for a use that shows.
    ///
    /// # Errors
    /// When an active lane of it was never written, or computed from what never was.
    pub fn get(&self, register: Register, active: Mask) -> Result<&Lanes, String> {
        let (lanes, known) = self.peek(register);
        match active & !known {
            0 => Ok(lanes),
            unknown => Err(format!("a value that lane {} made of a register it never wrote", unknown.trailing_zeros())),
        }
    }

    pub fn set(&mut self, register: Register, value: &Lanes, active: Mask) {
        self.set_known(register, value, active, active);
    }

    /// Sets the active lanes, of which some are without a value.
    pub fn set_known(&mut self, register: Register, value: &Lanes, active: Mask, known: Mask) {
        let (to, i) = (&mut self.registers[usize::from(register)], usize::from(register));
        if active == Mask::MAX {
            *to = *value;
        } else {
            lanes_of(active).for_each(|lane| to[lane] = value[lane]);
        }
        self.known[i] = self.known[i] & !active | known;
    }

    /// The lanes, of the active ones, whose predicate is `true`.
    pub fn holds(&self, predicate: Register, active: Mask) -> Result<Mask, String> {
        let values = self.get(predicate, active)?;
        let all = values.iter().enumerate().fold(0, |mask, (lane, value)| mask | (*value as Mask) << lane);
        Ok(all & active)
    }

    /// Addresses, each on a multiple of `bytes`.
    pub fn addresses(&self, address: Address, active: Mask, bytes: usize) -> Result<Lanes, String> {
        let base = self.get(address.base, active)?;
        let mut found = [0; WARP];
        for lane in 0..WARP {
            found[lane] = base[lane].wrapping_add_signed(address.offset);
        }
        match lanes_of(active).find(|&lane| found[lane] % bytes as u64 != 0) {
            None => Ok(found),
            Some(lane) => Err(format!(
                "lane {lane}: address {:#x} does not start on the {bytes} bytes of the access",
                found[lane]
            )),
        }
    }

    /// Ends the lanes wherever they are.
    pub fn end(&mut self, lanes: Mask) {
        self.live &= !lanes;
        self.frames.iter_mut().for_each(|frame| frame.lanes &= !lanes);
    }

    /// The lanes that go on, and where; frames that have arrived are taken off.
    pub fn front(&mut self) -> Option<Frame> {
        while let Some(frame) = self.frames.last() {
            if frame.lanes != 0 && frame.at != frame.join {
                return Some(*frame);
            }
            self.frames.pop();
        }
        None
    }

    /// The front goes on at one place.
    pub fn go(&mut self, at: usize) {
        if let Some(frame) = self.frames.last_mut() {
            frame.at = at;
        }
    }

    /// Of the front, `taken` goes to one place and the rest to another; they meet at `join`.
    pub fn part(&mut self, taken: Mask, target: usize, behind: usize, join: usize) {
        let Some(frame) = self.frames.last_mut() else { return };
        let others = frame.lanes & !taken;
        frame.at = join;
        for (lanes, at) in [(others, behind), (taken, target)] {
            if at != join {
                self.frames.push(Frame { at, join, lanes });
            }
        }
    }
}
