//! How fast the kernels can be, told without a GPU: what they do, counted by the interpreter of PTX, what ptxas makes of
//! them, and the rates of data sheets. The figures are committed (`figures.csv`), and so is the table of them in
//! docs/cuda.md: a change of the kernels that changes a figure changes both files.
//!
//! ```text
//! PTXAS=.cuda/nvidia/cu13/bin/ptxas PERFORMANCE_UPDATE=1 cargo test --test cuda_emulated performance
//! ```
//!
//! writes them anew; ptxas and nvdisasm come from PyPI (docs/cuda.md). Without `PTXAS` the interpreter's counts alone are
//! compared.

mod figures;
mod gpus;
mod machine_code;
mod work;

use crate::emulator::{Emulator, Setting};
use figures::{CAPABILITIES, Code, Figures};
use gpus::GPUS;
use machine_code::{MachineCode, Tools};
use ptx::{Kernel, Module};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use work::Done;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The committed texts.
fn texts() -> Vec<PathBuf> {
    let files = std::fs::read_dir(root().join("kernels/ptx")).unwrap().map(|file| file.unwrap().path());
    let mut texts: Vec<_> = files.filter(|file| file.extension().is_some_and(|ending| ending == "ptx")).collect();
    texts.sort();
    texts
}

/// The part of the figures that the interpreter counts.
fn counted(kernel: &Kernel, done: &Done) -> Figures {
    let mut figures = Figures {
        kernel: kernel.name.clone(),
        flops: done.flops,
        shared_bytes: (kernel.shared_bytes + done.launched.dynamic_shared) as u64,
        ..Figures::default()
    };
    for (instruction, tally) in kernel.instructions.iter().zip(&done.launched.counts.0) {
        let name = &*instruction.name;
        figures.instructions += tally.executed;
        if name.starts_with("ld.shared") || name.starts_with("st.shared") || name.starts_with("ldmatrix") {
            figures.wavefronts += tally.taken;
        } else if name.starts_with("mma.") {
            figures.sixteen_bits = name.contains("k16");
            let depth = if figures.sixteen_bits { 16 } else { 8 };
            figures.tensor_operations += tally.executed * 2 * 16 * 8 * depth;
        } else if tally.taken > 0 {
            const SECTOR: u64 = 32;
            figures.global_bytes += tally.taken * SECTOR;
            // A copy's 32 lanes write 4 or 16 bytes each.
            let copied = if name.starts_with("cp.async.cg") { 4 } else { u64::from(name.starts_with("cp.async")) };
            figures.wavefronts += tally.executed * copied;
        }
    }
    figures
}

/// The part that ptxas decides.
fn code(machine: &MachineCode, capability: u32, kernel: &Kernel, done: &Done, figures: &Figures) -> Code {
    let [all, inner] = machine.issued(kernel, &done.launched.counts);
    let operations = if figures.sixteen_bits { 4096.0 } else { 2048.0 };
    let multiplied = figures.tensor_operations as f64 / operations;
    let off = (all.tensor - multiplied).abs();
    // The same count on both ways, or blocks of the machine's code were not told apart.
    let name = &kernel.name;
    assert!(
        off <= 1e-3 * multiplied,
        "{name}: {} tensor instructions for sm_{capability}, {multiplied} in PTX",
        all.tensor
    );
    let gpu = GPUS.iter().find(|gpu| gpu.capability == capability).expect("a GPU of every capability");
    Code {
        registers: machine.registers as u64,
        blocks: gpu.resident_blocks(done.launched.threads, machine.registers, figures.shared_bytes as usize) as u64,
        slots: all.all.round() as u64,
        tensor_per_slot: (1e4 * inner.tensor / inner.all.max(1.0)).round() as u64,
    }
}

/// Figures of every kernel; without tools those of ptxas are taken from `committed`.
fn measured(tools: Option<&Tools>, committed: &BTreeMap<String, Figures>) -> BTreeMap<String, Figures> {
    let done = work::all();
    let scratch = tempfile::tempdir().unwrap();
    let mut all = BTreeMap::new();
    for path in texts() {
        let module = Module::read(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let machines =
            tools.map(|tools| CAPABILITIES.map(|capability| tools.assemble(&path, capability, scratch.path())));
        for kernel in &module.kernels {
            let name = &kernel.name;
            let done = done
                .get(name)
                .unwrap_or_else(|| panic!("{name} has no work in tests/cuda_emulated/performance/work.rs"));
            let mut figures = counted(kernel, done);
            figures.codes = match (&machines, committed.get(name)) {
                (Some(machines), _) => {
                    std::array::from_fn(|i| code(&machines[i][name], CAPABILITIES[i], kernel, done, &figures))
                }
                (None, Some(committed)) => committed.codes.clone(),
                (None, None) => Default::default(),
            };
            all.insert(name.clone(), figures);
        }
    }
    all
}

/// The table of docs/cuda.md.
fn table(all: &BTreeMap<String, Figures>) -> String {
    let mut text = String::from(
        "| kernel | registers 8.0 / 8.9 / 9.0 | blocks | tensor instructions per slot | issue / shared cycles | bytes per FLOP |",
    );
    GPUS.iter().for_each(|gpu| text += &format!(" {} |", gpu.name));
    text += &format!("\n{}|\n", "|---".repeat(6 + GPUS.len()));
    for figures in all.values() {
        let each = |value: fn(&Code) -> String| {
            let values = figures.codes.each_ref().map(value);
            if values.iter().all(|value| *value == values[0]) { values[0].clone() } else { values.join(" / ") }
        };
        let multiplies = figures.tensor_operations > 0;
        let share =
            if multiplies { each(|code| format!("{} %", (code.tensor_per_slot + 50) / 100)) } else { String::new() };
        let bytes = figures.global_bytes as f64 / figures.flops as f64;
        let bytes = if multiplies { format!("{bytes:.3}") } else { String::new() };
        let [.., newest] = &figures.codes;
        let cycles = format!("{} / {}", newest.slots / 4, figures.wavefronts);
        text += &format!(
            "| `{}` | {} | {} | {share} | {cycles} | {bytes} |",
            figures.kernel,
            each(|code| code.registers.to_string()),
            each(|code| code.blocks.to_string())
        );
        for gpu in &GPUS {
            let bound = gpu.bound(figures);
            text += &match multiplies {
                true => format!(" {:.0} TFLOP/s ({}) |", bound.rate / 1e12, bound.by),
                false => format!(" {:.0} GB/s ({}) |", bound.rate / 1e9, bound.by),
            };
        }
        text.push('\n');
    }
    text
}

const BEGIN: &str = "<!-- figures of tests/cuda_emulated/performance -->\n";
const END: &str = "<!-- end of the figures -->\n";

/// `document` with another table between the marks.
fn with_table(document: &str, table: &str) -> String {
    let (before, rest) = document.split_once(BEGIN).expect("docs/cuda.md has a place for the figures");
    let (_, behind) = rest.split_once(END).expect("docs/cuda.md has an end of the figures");
    format!("{before}{BEGIN}{table}{END}{behind}")
}

#[test]
fn no_kernel_gets_slower_unseen() {
    let Some(emulator) = Emulator::alone() else { return };
    emulator.set(Setting::Interpret, 1);
    let (file, document) = (root().join("tests/cuda_emulated/performance/figures.csv"), root().join("docs/cuda.md"));
    let updates = std::env::var_os("PERFORMANCE_UPDATE").is_some();
    let tools = match Tools::find() {
        Ok(tools) => Some(tools),
        Err(why) if updates => panic!("{why}: ptxas' part of the figures cannot be written"),
        Err(why) => {
            println!("ptxas' part of the figures is skipped: {why}");
            None
        }
    };
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let committed = match figures::read(&text) {
        Ok(committed) => committed,
        Err(_) if updates => BTreeMap::new(),
        Err(error) => panic!("{}: {error}", file.display()),
    };
    let found = measured(tools.as_ref(), &committed);
    let shown = std::fs::read_to_string(&document).unwrap();
    if updates {
        std::fs::write(&file, figures::written(&found)).unwrap();
        std::fs::write(&document, with_table(&shown, &table(&found))).unwrap();
    }
    let before = |name: &String| committed.get(name).cloned().unwrap_or_default();
    let mut changes: Vec<String> = found.iter().flat_map(|(name, now)| now.changes(&before(name))).collect();
    changes.extend(committed.keys().filter(|name| !found.contains_key(*name)).map(|name| format!("{name} is gone")));
    if updates {
        println!("{}", changes.join("\n"));
        return;
    }
    let how = "PTXAS=... PERFORMANCE_UPDATE=1 cargo test --test cuda_emulated performance writes the figures anew";
    assert!(changes.is_empty(), "{}\n{how}", changes.join("\n"));
    assert!(
        shown == with_table(&shown, &table(&found)),
        "docs/cuda.md shows another table than the figures give\n{how}"
    );
}
