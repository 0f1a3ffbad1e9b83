//! Where the lanes of a warp that went different ways come together again: the immediate post-dominator of a branch.

use crate::instructions::{Instruction, Operation};

/// The place behind a kernel's last instruction, where every path ends.
fn end_of(instructions: &[Instruction]) -> usize {
    instructions.len()
}

/// Where an instruction can be followed by: at most two places.
fn next(instructions: &[Instruction], at: usize) -> [Option<usize>; 2] {
    let Instruction { guard, operation, .. } = &instructions[at];
    let behind = Some(at + 1);
    match operation {
        Operation::Branch(target) if guard.is_some() => [behind, Some(*target)],
        Operation::Branch(target) => [Some(*target), None],
        Operation::Return if guard.is_some() => [behind, Some(end_of(instructions))],
        Operation::Return => [Some(end_of(instructions)), None],
        _ => [behind, None],
    }
}

/// For every instruction, the number of the block that it is in: those that are all executed or none of them.
pub fn blocks(instructions: &[Instruction]) -> Vec<usize> {
    let mut begins = vec![false; end_of(instructions) + 1];
    for (at, instruction) in instructions.iter().enumerate() {
        if let Operation::Branch(target) = instruction.operation {
            begins[target] = true;
        }
        begins[at + 1] |= matches!(instruction.operation, Operation::Branch(_) | Operation::Return);
    }
    begins[0] = false;
    let numbered = begins.into_iter().scan(0, |number, begins| {
        *number += usize::from(begins);
        Some(*number)
    });
    numbered.take(instructions.len()).collect()
}

/// For every instruction, the first one that all paths from it go through; the number of instructions stands for the
/// end. By Cooper, Harvey and Kennedy, "A simple, fast dominance algorithm", on the graph turned around.
pub fn joins(instructions: &[Instruction]) -> Vec<usize> {
    let end = end_of(instructions);
    let order = backwards(instructions);
    let mut rank = vec![usize::MAX; end + 1];
    for (i, &at) in order.iter().enumerate() {
        rank[at] = i;
    }
    let mut join = vec![usize::MAX; end + 1];
    join[end] = end;
    let mut changed = true;
    while changed {
        changed = false;
        for &at in &order[1..] {
            let mut found = usize::MAX;
            for mut other in next(instructions, at).into_iter().flatten().filter(|&other| join[other] != usize::MAX) {
                if found == usize::MAX {
                    found = other;
                }
                while found != other {
                    while rank[other] > rank[found] {
                        other = join[other];
                    }
                    while rank[found] > rank[other] {
                        found = join[found];
                    }
                }
            }
            changed |= join[at] != found;
            join[at] = found;
        }
    }
    // Code from which no path leads to the end, or that none reaches from it.
    join.iter_mut().filter(|join| **join == usize::MAX).for_each(|join| *join = end);
    join
}

/// All places from which the end can be reached, each behind those that follow it (but for loops).
fn backwards(instructions: &[Instruction]) -> Vec<usize> {
    let end = end_of(instructions);
    let mut before = vec![Vec::new(); end + 1];
    for at in 0..end {
        for other in next(instructions, at).into_iter().flatten() {
            before[other].push(at);
        }
    }
    let mut seen = vec![false; end + 1];
    let mut finished = Vec::with_capacity(end + 1);
    let mut open = vec![(end, 0)];
    seen[end] = true;
    while let Some((at, turn)) = open.pop() {
        match before[at].get(turn) {
            Some(&other) => {
                open.push((at, turn + 1));
                if !std::mem::replace(&mut seen[other], true) {
                    open.push((other, 0));
                }
            }
            None => finished.push(at),
        }
    }
    finished.reverse();
    finished
}
