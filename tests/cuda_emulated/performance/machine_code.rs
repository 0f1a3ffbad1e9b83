//! What ptxas makes of a kernel's PTX: registers, and the instructions with the lines of the text that they come from.
//! Together with the interpreter's counts it says how many instructions a multiprocessor issues.

use ptx::{Counts, Kernel};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The assembler whose code is committed as figures.
const RELEASE: &str = "release 13.0,";

/// ptxas and nvdisasm.
pub struct Tools {
    ptxas: PathBuf,
    nvdisasm: PathBuf,
}

impl Tools {
    /// Those that `PTXAS` names and that lie beside it; or why there are none.
    pub fn find() -> Result<Self, String> {
        let ptxas = std::env::var_os("PTXAS").map(PathBuf::from).ok_or("PTXAS does not name a ptxas")?;
        let tools = Self { nvdisasm: ptxas.with_file_name("nvdisasm"), ptxas };
        for tool in [&tools.ptxas, &tools.nvdisasm] {
            let version = Command::new(tool).arg("--version").output();
            let version = version.map_err(|error| format!("{}: {error}", tool.display()))?;
            if tool == &tools.ptxas && !String::from_utf8_lossy(&version.stdout).contains(RELEASE) {
                return Err(format!("{}: not {RELEASE}", tool.display()));
            }
        }
        Ok(tools)
    }

    /// The kernels of a text for a compute capability, by name.
    pub fn assemble(&self, text: &Path, capability: u32, scratch: &Path) -> BTreeMap<String, MachineCode> {
        let output = scratch.join("kernels.cubin");
        let architecture = format!("-arch=sm_{capability}");
        let report = run(Command::new(&self.ptxas)
            .args([architecture.as_str(), "-lineinfo", "-v", "-o"])
            .arg(&output)
            .arg(text));
        let listing = run(Command::new(&self.nvdisasm).args(["-c", "-gp"]).arg(&output));
        let mut kernels = read_listing(&listing);
        for (name, registers) in read_registers(&report) {
            kernels.get_mut(&name).unwrap_or_else(|| panic!("{name} is not in the listing")).registers = registers;
        }
        kernels
    }
}

/// What a command writes to either stream.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// An instruction of the machine and the line of the text that it comes from.
#[derive(Debug, PartialEq)]
struct Instruction {
    name: String,
    line: u32,
}

/// Instructions that are all executed or none of them, and the block that the last one may go to.
#[derive(Debug, Default, PartialEq)]
struct Block {
    instructions: Vec<Instruction>,
    target: Option<usize>,
    /// Does it call a function, the slow path of a division or a root?
    calls: bool,
}

/// A kernel for one compute capability.
#[derive(Debug, Default)]
pub struct MachineCode {
    pub registers: usize,
    blocks: Vec<Block>,
}

/// Instructions issued in a launch.
#[derive(Debug, Clone, Copy, Default)]
pub struct Issued {
    pub all: f64,
    pub tensor: f64,
}

fn read_registers(report: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut name = "";
    for line in report.lines() {
        if let Some(behind) = line.split("Compiling entry function '").nth(1) {
            name = behind.split('\'').next().unwrap_or_default();
        } else if let Some(behind) = line.split("Used ").nth(1) {
            let registers = behind.split(' ').next().and_then(|number| number.parse().ok());
            found.push((name.to_owned(), registers.unwrap_or_else(|| panic!("registers of {name}: {line}"))));
        }
    }
    found
}

/// Reads what `nvdisasm -c -gp` prints. A block ends at a label and behind an instruction that may go elsewhere.
fn read_listing(listing: &str) -> BTreeMap<String, MachineCode> {
    let mut kernels: BTreeMap<String, MachineCode> = BTreeMap::new();
    let mut lines = listing.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(kernel) = line.strip_prefix(".text.").and_then(|rest| rest.strip_suffix(':')) {
            let mut body = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with("//-----")) {
                body.push(line);
            }
            let code = MachineCode { registers: 0, blocks: read_body(&body) };
            kernels.insert(kernel.to_owned(), code);
        }
    }
    kernels
}

fn read_body(body: &[&str]) -> Vec<Block> {
    let mut blocks = vec![Block::default()];
    let mut labels: HashMap<&str, usize> = HashMap::new();
    let mut jumps = Vec::new();
    let mut from = 0;
    for line in body {
        if let Some(number) = line.split("\", line ").nth(1) {
            from = number.trim().parse().unwrap_or_else(|_| panic!("a line's number expected: {line}"));
        } else if let Some(label) = line.strip_suffix(':') {
            // Behind a label like this come divisions and roots of unusual values, which are called as functions.
            if label.starts_with('$') {
                break;
            }
            start_block(&mut blocks);
            labels.insert(label, blocks.len() - 1);
        } else if let Some(instruction) = instruction_of(line) {
            let mut words = instruction.split_whitespace().skip_while(|word| word.starts_with('@'));
            let name = words.next().unwrap_or_default().trim_end_matches(';').to_owned();
            let ends = ["BRA", "EXIT", "RET", "CALL", "BRX"].contains(&name.split('.').next().unwrap_or_default());
            let target = instruction.split("`(").nth(1).and_then(|rest| rest.split(')').next());
            if let Some(target) = target.filter(|_| name.starts_with("BRA")) {
                jumps.push((blocks.len() - 1, target));
            }
            let last = blocks.len() - 1;
            // A call of a label is a branch to far away.
            blocks[last].calls |= name.starts_with("CALL") && target.is_some_and(|target| target.starts_with('$'));
            blocks[last].instructions.push(Instruction { name, line: from });
            if ends {
                start_block(&mut blocks);
            }
        }
    }
    for (block, label) in jumps {
        blocks[block].target = labels.get(label).copied();
    }
    blocks
}

fn start_block(blocks: &mut Vec<Block>) {
    if blocks.last().is_none_or(|block| !block.instructions.is_empty()) {
        blocks.push(Block::default());
    }
}

/// What stands behind `/*0120*/`.
fn instruction_of(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("/*")?;
    let (address, instruction) = rest.split_once("*/")?;
    address.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(instruction.trim())
}

/// What an instruction of the text becomes, one for one, where it becomes anything: it says how many copies ptxas has
/// made of a part of the text.
const SINGLE: [(&str, &str); 9] = [
    ("mma.", "HMMA"),
    ("ldmatrix", "LDSM"),
    ("cp.async.c", "LDGSTS"),
    ("ld.global", "LDG"),
    ("st.global", "STG"),
    ("ld.shared", "LDS"),
    ("st.shared", "STS"),
    ("bar.sync", "BAR"),
    ("shfl", "SHFL"),
];

/// Copies of a block of the text by those of its instructions: tensor-core instructions on average, which are never
/// split or merged, else the middle of what is there at all.
fn copies_of(found: &[(&str, usize)]) -> f64 {
    let tensor: Vec<usize> = found.iter().filter(|(kind, _)| *kind == "HMMA").map(|(_, copies)| *copies).collect();
    if tensor.iter().any(|copies| *copies > 0) {
        return tensor.iter().sum::<usize>() as f64 / tensor.len() as f64;
    }
    let mut copies: Vec<usize> = found.iter().map(|(_, copies)| *copies).filter(|copies| *copies > 0).collect();
    copies.sort_unstable();
    copies.get(copies.len() / 2).map_or(1.0, |copies| *copies as f64)
}

fn is(machine: &str, kind: &str) -> bool {
    machine.split('.').next() == Some(kind)
}

impl MachineCode {
    /// Instructions issued in the launches that were counted: all of them, and those of the innermost loop with the most
    /// tensor-core instructions.
    ///
    /// A block of the machine's code is executed as often as the block of the text that most of its instructions come
    /// from, which the copies share that ptxas has made of that one (unrolled loops, for one).
    pub fn issued(&self, kernel: &Kernel, counts: &Counts) -> [Issued; 2] {
        let weights = self.executions(kernel, counts);
        let range = self.tensor_loop(&weights);
        let sum = |blocks: std::ops::Range<usize>| {
            let mut issued = Issued::default();
            for (block, weight) in self.blocks[blocks.clone()].iter().zip(&weights[blocks]) {
                let tensor = block.instructions.iter().filter(|instruction| is(&instruction.name, "HMMA")).count();
                issued.all += weight * block.instructions.len() as f64;
                issued.tensor += weight * tensor as f64;
            }
            issued
        };
        [sum(0..self.blocks.len()), sum(range)]
    }

    fn executions(&self, kernel: &Kernel, counts: &Counts) -> Vec<f64> {
        let text_block = kernel.blocks();
        let n_blocks = text_block.last().map_or(0, |last| last + 1);
        let mut executed = vec![0; n_blocks];
        let mut found = vec![Vec::new(); n_blocks];
        let mut machine: HashMap<(u32, &str), usize> = HashMap::new();
        for instruction in self.blocks.iter().flat_map(|block| &block.instructions) {
            let kind = instruction.name.split('.').next().unwrap_or_default();
            *machine.entry((instruction.line, kind)).or_default() += 1;
        }
        let mut block_of_line = HashMap::new();
        for ((instruction, tally), &block) in kernel.instructions.iter().zip(&counts.0).zip(&text_block) {
            executed[block] = executed[block].max(tally.executed);
            block_of_line.insert(instruction.line, block);
            if let Some((_, kind)) = SINGLE.iter().find(|(name, _)| instruction.name.starts_with(name)) {
                let copies = machine.get(&(instruction.line, *kind)).copied().unwrap_or_default();
                found[block].push((*kind, copies));
            }
        }
        let copies: Vec<f64> = found.iter().map(|found| copies_of(found)).collect();
        let weight = |(number, block): (usize, &Block)| {
            // Slow paths of divisions, and the endless loop behind a kernel's end.
            if block.calls || (block.target == Some(number) && block.instructions.len() == 1) {
                return 0.0;
            }
            // What was moved here from elsewhere is outvoted; tensor-core instructions are where the text has them.
            let tensor = block.instructions.iter().any(|instruction| is(&instruction.name, "HMMA"));
            let counts = |instruction: &&Instruction| match tensor {
                true => is(&instruction.name, "HMMA"),
                false => !is(&instruction.name, "NOP"),
            };
            let mut votes: BTreeMap<usize, usize> = BTreeMap::new();
            for instruction in block.instructions.iter().filter(counts) {
                if let Some(&text) = block_of_line.get(&instruction.line) {
                    *votes.entry(text).or_default() += 1;
                }
            }
            let most = votes.into_iter().max_by_key(|(_, votes)| *votes);
            most.map_or(0.0, |(text, _)| executed[text] as f64 / copies[text])
        };
        self.blocks.iter().enumerate().map(weight).collect()
    }

    /// The smallest range that a branch goes back over and that executes the most tensor-core instructions; everything
    /// without one.
    fn tensor_loop(&self, weights: &[f64]) -> std::ops::Range<usize> {
        let tensor = |range: &std::ops::Range<usize>| -> f64 {
            let blocks = self.blocks[range.clone()].iter().zip(&weights[range.clone()]);
            blocks
                .map(|(block, weight)| {
                    weight * block.instructions.iter().filter(|i| is(&i.name, "HMMA")).count() as f64
                })
                .sum()
        };
        let back = |(at, block): (usize, &Block)| block.target.filter(|&to| to < at).map(|to| to..at + 1);
        let loops = self.blocks.iter().enumerate().filter_map(back);
        let most = |a: &std::ops::Range<usize>, b: &std::ops::Range<usize>| {
            tensor(a).total_cmp(&tensor(b)).then(b.len().cmp(&a.len()))
        };
        loops.filter(|range| tensor(range) > 0.0).max_by(most).unwrap_or(0..self.blocks.len())
    }
}

#[test]
fn a_listing_is_read_block_by_block() {
    let listing = "\
.text.k:
\t//## File \".nv_debug_ptx_txt\", line 12
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
\t//## File \".nv_debug_ptx_txt\", line 20
        /*0010*/                   HMMA.1688.F32.TF32 R4, R8, R9, R4 ;
        /*0020*/              @!P0 BRA `(.L_x_1) ;
        /*0030*/                   EXIT ;
.L_x_2:
        /*0040*/                   BRA `(.L_x_2);
$k$__internal_0_$__cuda_sm20_div:
        /*0050*/                   RET.REL.NODEC R2 `(k) ;
//--------------------- .nv.info
";
    let kernels = read_listing(listing);
    let blocks = &kernels["k"].blocks;
    let shown = |block: &Block| {
        let names = block.instructions.iter().map(|found| format!("{} {}", found.name, found.line));
        (names.collect::<Vec<_>>().join(", "), block.target)
    };
    let expected = [
        ("LDC 12", None),
        ("HMMA.1688.F32.TF32 20, BRA 20", Some(1)),
        ("EXIT 20", None),
        ("BRA 20", Some(3)),
        ("", None),
    ];
    assert_eq!(
        blocks.iter().map(shown).collect::<Vec<_>>(),
        expected.map(|(names, target)| (names.to_owned(), target))
    );
    let report = "ptxas info    : Compiling entry function 'k' for 'sm_90'\nptxas info    : Used 128 registers, used 1 barriers\n";
    assert_eq!(read_registers(report), [("k".to_owned(), 128)]);
}
