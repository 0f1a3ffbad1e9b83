//! Runs a block: its warps one after another, from barrier to barrier.

use crate::counts::{Counts, sectors, wavefronts};
use crate::global::{read, write};
use crate::instructions::memory::{Copy, Load, Parameter, Space, Store};
use crate::instructions::tensor::{Matrices, Multiply, multiply};
use crate::instructions::{Compute, Instruction, Operation, control};
use crate::module::{Kernel, SPECIAL};
use crate::shared::{SEVERAL, Shared, Thread};
use crate::values::{ALL_LANES, Lanes, Mask, Type, WARP, lanes_of};
use crate::warp::{Copied, Warp};
use crate::{Fault, Launch, Order};

#[derive(Debug)]
pub struct Block<'a> {
    kernel: &'a Kernel,
    launch: &'a Launch<'a>,
    index: [u32; 3],
    shared: &'a mut Shared,
    counts: &'a mut Counts,
}

/// Why a warp stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// At this instruction.
    Barrier(usize),
    End,
}

/// What follows an instruction.
enum Next {
    Behind,
    At(usize),
    /// Two places: the lanes that branch, and where to.
    Parted(Mask, usize),
    Barrier,
}

impl<'a> Block<'a> {
    pub fn new(
        kernel: &'a Kernel,
        launch: &'a Launch<'a>,
        index: [u32; 3],
        shared: &'a mut Shared,
        counts: &'a mut Counts,
    ) -> Self {
        Self { kernel, launch, index, shared, counts }
    }

    /// Runs all warps to their ends.
    pub fn run(&mut self) -> Result<(), Fault> {
        self.shared.begin(self.kernel.shared_bytes + self.launch.dynamic_shared);
        let mut warps = self.warps();
        let mut random = self.launch.seed;
        loop {
            let mut stops = vec![Stop::End; warps.len()];
            for i in self.turns(warps.len(), &mut random) {
                if warps[i].live != 0 {
                    stops[i] = self.run_warp(&mut warps[i])?;
                }
            }
            if stops.iter().all(|stop| *stop == Stop::End) {
                return self.check_end(&warps);
            }
            if let Some(i) = (1..stops.len()).find(|&i| stops[i] != stops[0]) {
                let at = [stops[0], stops[i]]
                    .iter()
                    .find_map(|stop| if let Stop::Barrier(at) = stop { Some(*at) } else { None });
                let other = stops.iter().position(|stop| *stop != stops[i]).unwrap_or(0);
                let what = |stop| match stop {
                    Stop::End => "has ended".to_owned(),
                    Stop::Barrier(at) => format!("waits at line {}", self.kernel.instructions[at].line),
                };
                let message = format!("warp {other} {}, warp {i} {}", what(stops[other]), what(stops[i]));
                return Err(self.fault(at.unwrap_or(0), i, format!("a barrier that not all threads reach: {message}")));
            }
            self.shared.barrier();
        }
    }

    /// Copies that nobody waited for go to memory that may be another block's by then.
    fn check_end(&self, warps: &[Warp]) -> Result<(), Fault> {
        match warps.iter().find(|warp| !warp.copies.is_empty()) {
            None => Ok(()),
            Some(warp) => {
                let last = self.kernel.instructions.len() - 1;
                let message = "a thread ended with asynchronous copies that it has not waited for".into();
                Err(self.fault(last, warp.number, message))
            }
        }
    }

    fn warps(&self) -> Vec<Warp> {
        let [x, y, z] = self.launch.block.map(|n| n as usize);
        let threads = x * y * z;
        let warp = |number: usize| {
            let thread = |lane| number * WARP + lane;
            let lanes = (0..WARP).filter(|&lane| thread(lane) < threads).fold(0, |mask, lane| mask | 1 << lane);
            let place = |lane| {
                let thread = thread(lane);
                [thread % x, thread / x % y, thread / x / y].map(|n| n as u32)
            };
            // In the order of `SPECIAL`.
            let value = |i: usize, lane| [place(lane), self.launch.block, self.index, self.launch.grid][i / 3][i % 3];
            let special: [Lanes; SPECIAL.len()] =
                std::array::from_fn(|i| std::array::from_fn(|lane| u64::from(value(i, lane))));
            Warp::new(self.kernel, number, lanes, &special)
        };
        (0..threads.div_ceil(WARP)).map(warp).collect()
    }

    /// In which order the warps run until the next barrier.
    fn turns(&self, n: usize, random: &mut u32) -> Vec<usize> {
        let mut turns: Vec<usize> = (0..n).collect();
        match self.launch.order {
            Order::Forward => {}
            Order::Reverse => turns.reverse(),
            Order::Random => {
                for i in (1..n).rev() {
                    *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    turns.swap(i, (*random >> 8) as usize % (i + 1));
                }
            }
        }
        turns
    }

    fn fault(&self, at: usize, warp: usize, message: String) -> Fault {
        let line = self.kernel.instructions[at].line as usize;
        Fault {
            kernel: self.kernel.name.clone(),
            line,
            instruction: self.kernel.lines.get(&line).cloned().unwrap_or_default(),
            block: self.index,
            warp,
            message,
        }
    }

    fn run_warp(&mut self, warp: &mut Warp) -> Result<Stop, Fault> {
        while let Some(front) = warp.front() {
            let Some(instruction) = self.kernel.instructions.get(front.at) else {
                return Err(self.fault(front.at - 1, warp.number, "the kernel ends without `ret`".into()));
            };
            let next = self.step(warp, front.at, instruction, front.lanes);
            match next.map_err(|message| self.fault(front.at, warp.number, message))? {
                Next::Behind => warp.go(front.at + 1),
                Next::At(place) => warp.go(place),
                Next::Parted(taken, place) => warp.part(taken, place, front.at + 1, self.kernel.joins[front.at]),
                Next::Barrier => {
                    warp.go(front.at + 1);
                    return Ok(Stop::Barrier(front.at));
                }
            }
        }
        Ok(Stop::End)
    }

    fn step(&mut self, warp: &mut Warp, at: usize, instruction: &Instruction, lanes: Mask) -> Result<Next, String> {
        let active = match instruction.guard {
            None => lanes,
            Some((predicate, negated)) => {
                let holds = warp.holds(predicate, lanes)?;
                if negated { lanes & !holds } else { holds }
            }
        };
        self.counts.0[at].executed += 1;
        match &instruction.operation {
            Operation::Branch(target) => {
                return Ok(match active {
                    0 => Next::Behind,
                    _ if active == lanes => Next::At(*target),
                    _ => Next::Parted(active, *target),
                });
            }
            _ if active == 0 => {}
            Operation::Compute(compute) => self.compute(warp, compute, compute.run, active)?,
            Operation::MultiplyAdd(compute, twice) => {
                let run = if self.launch.fused { compute.run } else { *twice };
                self.compute(warp, compute, run, active)?;
            }
            Operation::Split(to, from) => {
                let from = *warp.get(*from, active)?;
                warp.set(to[0], &from.map(|bits| bits & u64::from(u32::MAX)), active);
                warp.set(to[1], &from.map(|bits| bits >> 32), active);
            }
            Operation::Parameter(parameter) => self.parameter(warp, parameter, active),
            Operation::Load(load) => self.load(warp, at, load, active)?,
            Operation::Store(store) => self.store(warp, at, store, active)?,
            Operation::Copy(copy) => self.copy(warp, at, copy, active)?,
            Operation::CommitCopies => lanes_of(active).for_each(|lane| warp.closed[lane] += 1),
            Operation::WaitForCopies(pending) => self.wait(warp, *pending, active)?,
            Operation::Return => warp.end(active),
            Operation::Shuffle(shuffle) => {
                let [value, turns, clamp, members] = shuffle.from;
                let from = [warp.get(value, active)?, warp.get(turns, active)?, warp.get(clamp, active)?];
                let (to, valid) = control::shuffle([from[0], from[1], from[2], warp.get(members, active)?], active)?;
                warp.set(shuffle.to, &to, active);
                shuffle.valid.iter().for_each(|register| warp.set(*register, &valid, active));
            }
            // From here on, what all lanes must do together.
            _ if active != warp.live || warp.live != warp.all => {
                let others = warp.all & !active;
                return Err(format!("all lanes must come here together, the lanes {others:#x} do not"));
            }
            Operation::Barrier(_) => return Ok(Next::Barrier),
            Operation::Matrices(matrices) => self.matrices(warp, at, matrices)?,
            Operation::Multiply(product) => self.multiply(warp, product)?,
        }
        Ok(Next::Behind)
    }

    fn compute(
        &self,
        warp: &mut Warp,
        compute: &Compute,
        run: fn(&[&Lanes; 4], &mut Lanes),
        active: Mask,
    ) -> Result<(), String> {
        let sources = compute.from.map(|register| warp.peek(register));
        let from = sources.map(|(lanes, _)| lanes);
        let mut known = sources[..compute.n_from].iter().fold(active, |known, source| known & source.1);
        if compute.chooses {
            let [(_, first), (_, second), (choices, chosen), _] = sources;
            let choice = choices.iter().enumerate().fold(0, |mask, (lane, choice)| mask | (*choice as Mask) << lane);
            known = active & chosen & (choice & first | !choice & second);
        }
        if compute.divides && lanes_of(known).any(|lane| from[1][lane] == 0) {
            return Err("a division by zero".into());
        }
        let mut to = [0; WARP];
        run(&from, &mut to);
        warp.set_known(compute.to, &to, active, known);
        Ok(())
    }

    fn parameter(&self, warp: &mut Warp, parameter: &Parameter, active: Mask) {
        let Parameter { kind, to, offset } = parameter;
        for (i, register) in to.iter().enumerate() {
            let bytes = &self.launch.parameters[offset + i * kind.bytes..][..kind.bytes];
            let value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            warp.set(*register, &[extended(value, *kind); WARP], active);
        }
    }

    fn tally(&mut self, at: usize, (taken, least): (u64, u64)) {
        self.counts.0[at].taken += taken;
        self.counts.0[at].least += least;
    }

    fn load(&mut self, warp: &mut Warp, at: usize, load: &Load, active: Mask) -> Result<(), String> {
        let (words, bytes) = (load.kind.bytes / 4, load.kind.bytes * load.to.len());
        let addresses = warp.addresses(load.at, active, bytes)?;
        let mut values = [[0u64; WARP]; 4];
        match load.space {
            Space::Shared => {
                for lane in lanes_of(active) {
                    let thread = thread(warp, lane);
                    for i in 0..bytes / 4 {
                        let word = self.shared.read(addresses[lane] + 4 * i as u64, thread)?;
                        values[i / words][lane] |= u64::from(word) << (32 * (i % words));
                    }
                }
                self.tally(at, wavefronts(&addresses, active, bytes));
            }
            Space::Global => {
                for lane in lanes_of(active) {
                    let found = self.launch.global.words(addresses[lane], bytes, &mut warp.region);
                    let found = found.map_err(|message| format!("lane {lane}: {message}"))?;
                    for (i, word) in found.iter().enumerate() {
                        values[i / words][lane] |= u64::from(read(word)) << (32 * (i % words));
                    }
                }
                self.tally(at, sectors(&addresses, active, bytes));
            }
        }
        for (register, mut value) in load.to.iter().zip(values) {
            value.iter_mut().for_each(|value| *value = extended(*value, load.kind));
            warp.set(*register, &value, active);
        }
        Ok(())
    }

    fn store(&mut self, warp: &mut Warp, at: usize, store: &Store, active: Mask) -> Result<(), String> {
        let (words, bytes) = (store.kind.bytes / 4, store.kind.bytes * store.from.len());
        let addresses = warp.addresses(store.at, active, bytes)?;
        for (n, register) in store.from.iter().enumerate() {
            let values = warp.get(*register, active)?;
            let mut region = warp.region;
            for lane in lanes_of(active) {
                let address = addresses[lane] + (n * store.kind.bytes) as u64;
                let word = |i: usize| (values[lane] >> (32 * i)) as u32;
                match store.space {
                    Space::Shared => {
                        let thread = thread(warp, lane);
                        for i in 0..words {
                            self.shared.write(address + 4 * i as u64, word(i), thread)?;
                        }
                    }
                    Space::Global => {
                        let found = self.launch.global.words(address, store.kind.bytes, &mut region);
                        let found = found.map_err(|message| format!("lane {lane}: {message}"))?;
                        found.iter().enumerate().for_each(|(i, to)| write(to, word(i)));
                    }
                }
            }
            warp.region = region;
        }
        self.tally(
            at,
            match store.space {
                Space::Shared => wavefronts(&addresses, active, bytes),
                Space::Global => sectors(&addresses, active, bytes),
            },
        );
        Ok(())
    }

    /// Only notes the copy; its source is read when it is waited for.
    fn copy(&mut self, warp: &mut Warp, at: usize, copy: &Copy, active: Mask) -> Result<(), String> {
        let to = warp.addresses(copy.to, active, copy.bytes)?;
        let from = warp.addresses(copy.from, active, copy.bytes)?;
        let inside = *warp.get(copy.inside, active)?;
        let reading = lanes_of(active).filter(|&lane| inside[lane] != 0).fold(0, |mask, lane| mask | 1 << lane);
        for lane in lanes_of(active) {
            let inside = inside[lane];
            if inside > copy.bytes as u64 || inside % 4 != 0 {
                return Err(format!(
                    "lane {lane}: a copy of {} bytes, {inside} of them from global memory",
                    copy.bytes
                ));
            }
            if inside > 0 {
                let found = self.launch.global.words(from[lane], inside as usize, &mut warp.region);
                found.map_err(|message| format!("lane {lane}: {message}"))?;
            }
            for offset in (0..copy.bytes as u64).step_by(4) {
                self.shared.begin_copy(to[lane] + offset, thread(warp, lane))?;
                let from = if offset < inside { from[lane] + offset } else { 0 };
                warp.copies.push(Copied { lane, group: warp.closed[lane], to: to[lane] + offset, from });
            }
        }
        if reading != 0 {
            self.tally(at, sectors(&from, reading, copy.bytes));
        }
        Ok(())
    }

    fn wait(&mut self, warp: &mut Warp, pending: u64, active: Mask) -> Result<(), String> {
        let copies = std::mem::take(&mut warp.copies);
        for copy in copies {
            let done = active >> copy.lane & 1 == 1 && copy.group + pending < warp.closed[copy.lane];
            if !done {
                warp.copies.push(copy);
                continue;
            }
            let value = match copy.from {
                0 => 0,
                from => read(&self.launch.global.words(from, 4, &mut warp.region)?[0]),
            };
            self.shared.end_copy(copy.to, value, thread(warp, copy.lane))?;
        }
        Ok(())
    }

    fn matrices(&mut self, warp: &mut Warp, at: usize, matrices: &Matrices) -> Result<(), String> {
        const ROW_BYTES: usize = 16;
        let rows = warp.addresses(matrices.at, ALL_LANES, ROW_BYTES)?;
        for (matrix, register) in matrices.to.iter().enumerate() {
            let mut words = [[0u32; 4]; 8];
            for (row, words) in words.iter_mut().enumerate() {
                for (i, word) in words.iter_mut().enumerate() {
                    *word = self.shared.read(rows[matrix * 8 + row] + 4 * i as u64, SEVERAL)?;
                }
            }
            let half = |row: usize, column: usize| words[row][column / 2] >> (16 * (column % 2)) & 0xffff;
            let value = std::array::from_fn(|lane| {
                let (group, pair) = (lane / 4, lane % 4 * 2);
                u64::from(match matrices.transposed {
                    false => words[group][pair / 2],
                    true => half(pair, group) | half(pair + 1, group) << 16,
                })
            });
            warp.set(*register, &value, ALL_LANES);
        }
        self.tally(at, wavefronts(&rows, ALL_LANES, ROW_BYTES));
        Ok(())
    }

    fn multiply(&self, warp: &mut Warp, product: &Multiply) -> Result<(), String> {
        let Multiply { numbers, to, a, b, c } = product;
        let get = |register| warp.get(register, ALL_LANES);
        let a = [get(a[0])?, get(a[1])?, get(a[2])?, get(a[3])?];
        let c = [get(c[0])?, get(c[1])?, get(c[2])?, get(c[3])?];
        let sums = multiply(*numbers, self.launch.sums, a, [get(b[0])?, get(b[1])?], c);
        for (register, sums) in to.iter().zip(&sums) {
            warp.set(*register, sums, ALL_LANES);
        }
        Ok(())
    }
}

fn thread(warp: &Warp, lane: usize) -> Thread {
    (warp.number * WARP + lane) as Thread
}

/// A value of 32 bits in a larger register keeps its sign, if its type has one.
fn extended(value: u64, kind: Type) -> u64 {
    if kind.signed && kind.bytes == 4 { value as u32 as i32 as i64 as u64 } else { value }
}
