//! A PTX text as the driver loads it: directives, registers, parameters, shared memory, and instructions decoded.

use crate::flow::{self, joins};
use crate::instructions::{Decoder, Instruction, Operand};
use crate::text::{ReadError, Tokens};
use crate::values::Type;
use std::collections::HashMap;

/// The newest PTX that drivers of the oldest supported release read.
const NEWEST: f32 = 7.0;

/// A loaded text.
#[derive(Debug)]
pub struct Module {
    pub kernels: Vec<Kernel>,
}

/// A parameter's place in the bytes that a launch hands over.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    pub offset: usize,
    pub bytes: usize,
}

/// An entry point.
#[derive(Debug)]
pub struct Kernel {
    pub name: String,
    pub parameters: Vec<Parameter>,
    /// Bytes of shared memory that the text itself asks for; dynamic shared memory begins behind.
    pub shared_bytes: usize,
    /// Most threads of a block, where the text says it.
    pub most_threads: Option<usize>,
    pub instructions: Vec<Instruction>,
    /// Where lanes that part at an instruction meet again.
    pub joins: Vec<usize>,
    pub n_registers: usize,
    /// Values of the sources that are no registers; they are numbered behind the registers.
    pub constants: Vec<u64>,
    /// The text's lines with instructions, for messages.
    pub lines: HashMap<usize, String>,
}

impl Kernel {
    /// For every instruction, the number of its block: those that are all executed or none of them.
    pub fn blocks(&self) -> Vec<usize> {
        flow::blocks(&self.instructions)
    }

    /// Bytes of all parameters.
    pub fn parameter_bytes(&self) -> usize {
        self.parameters.last().map_or(0, |last| last.offset + last.bytes)
    }
}

/// What the names of a kernel stand for.
#[derive(Debug, Default, Clone)]
pub struct Names {
    pub registers: HashMap<String, (u16, Type)>,
    pub parameters: HashMap<String, Parameter>,
    /// Addresses in shared memory.
    pub shared: HashMap<String, usize>,
}

/// Registers that are filled before a kernel starts.
pub const SPECIAL: [&str; 12] = [
    "%tid.x",
    "%tid.y",
    "%tid.z",
    "%ntid.x",
    "%ntid.y",
    "%ntid.z",
    "%ctaid.x",
    "%ctaid.y",
    "%ctaid.z",
    "%nctaid.x",
    "%nctaid.y",
    "%nctaid.z",
];

impl Module {
    /// Reads a text.
    ///
    /// # Errors
    /// [`ReadError`] with the line, when a directive or an instruction is unknown or is not what it must be.
    pub fn read(text: &str) -> Result<Self, ReadError> {
        let mut tokens = Tokens::new(text);
        let mut kernels = Vec::new();
        let mut dynamic = Vec::new();
        while tokens.peek().is_some() {
            let (line, token) = (tokens.line(), tokens.take()?);
            match token {
                ".version" => {
                    let version = tokens.take()?;
                    if version.parse::<f32>().is_ok_and(|version| version > NEWEST) {
                        let message = format!("version {version}, the oldest driver reads {NEWEST:.1}");
                        return Err(tokens.error(line, message));
                    }
                }
                ".target" => drop(tokens.take()?),
                ".address_size" => tokens.expect("64")?,
                ".visible" => {}
                ".extern" => {
                    tokens.expect(".shared")?;
                    dynamic.push(variable(&mut tokens)?.name);
                }
                ".entry" => kernels.push(kernel(&mut tokens, &dynamic)?),
                _ => return Err(tokens.error(line, format!("unknown directive `{token}`"))),
            }
        }
        Ok(Self { kernels })
    }

    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }
}

/// `.align 16 .b8 name[bytes]`, or `.u64 name`.
struct Variable {
    name: String,
    align: usize,
    bytes: usize,
}

fn variable(tokens: &mut Tokens<'_>) -> Result<Variable, ReadError> {
    let align = if tokens.takes(".align") { Some(tokens.number()?) } else { None };
    let (line, named) = (tokens.line(), tokens.take()?);
    let one = named.strip_prefix('.').and_then(Type::named);
    let one = one.ok_or_else(|| tokens.error(line, format!("a type expected, found `{named}`")))?;
    let name = tokens.take()?.to_owned();
    let mut bytes = one.bytes;
    if tokens.takes("[") {
        bytes *= if tokens.peek() == Some("]") { 0 } else { tokens.number()? };
        tokens.expect("]")?;
    }
    if tokens.peek() == Some(";") {
        tokens.expect(";")?;
    }
    Ok(Variable { name, align: align.unwrap_or(one.bytes).max(1), bytes })
}

fn kernel(tokens: &mut Tokens<'_>, dynamic: &[String]) -> Result<Kernel, ReadError> {
    let name = tokens.take()?.to_owned();
    let (mut names, mut parameters) = (Names::default(), Vec::new());
    let mut end = 0usize;
    tokens.expect("(")?;
    while !tokens.takes(")") {
        tokens.expect(".param")?;
        let Variable { name, align, bytes } = variable(tokens)?;
        let parameter = Parameter { offset: end.next_multiple_of(align), bytes };
        end = parameter.offset + bytes;
        parameters.push(parameter);
        names.parameters.insert(name, parameter);
        tokens.takes(",");
    }
    let mut most_threads = None;
    while !tokens.takes("{") {
        // How many blocks a multiprocessor is to have room for: a matter of ptxas.
        if tokens.takes(".minnctapersm") {
            tokens.number()?;
            continue;
        }
        tokens.expect(".maxntid")?;
        let mut threads = tokens.number()?;
        while tokens.takes(",") {
            threads *= tokens.number()?;
        }
        most_threads = Some(threads);
    }
    for name in SPECIAL {
        declare(&mut names, name.into(), Type::named("u32").expect("a type"));
    }
    let shared_bytes = declarations(tokens, &mut names, dynamic)?;
    let body = body(tokens, names)?;
    Ok(Kernel { name, parameters, shared_bytes, most_threads, ..body })
}

fn declare(names: &mut Names, name: String, kind: Type) {
    let number = names.registers.len() as u16;
    names.registers.insert(name, (number, kind));
}

/// Registers and shared memory, at the head of a kernel. Returns the bytes of shared memory.
fn declarations(tokens: &mut Tokens<'_>, names: &mut Names, dynamic: &[String]) -> Result<usize, ReadError> {
    let mut end = 0usize;
    loop {
        let line = tokens.line();
        if tokens.takes(".reg") {
            let named = tokens.take()?;
            let kind = named.strip_prefix('.').and_then(Type::named);
            let kind = kind.ok_or_else(|| tokens.error(line, format!("unknown type `{named}`")))?;
            let prefix = tokens.take()?;
            tokens.expect("<")?;
            for i in 1..tokens.number()? {
                declare(names, format!("{prefix}{i}"), kind);
            }
            tokens.expect(">")?;
            tokens.expect(";")?;
            if names.registers.len() > usize::from(u16::MAX) / 2 {
                return Err(tokens.error(line, "too many registers"));
            }
        } else if tokens.takes(".shared") {
            let Variable { name, align, bytes } = variable(tokens)?;
            let at = end.next_multiple_of(align);
            end = at + bytes;
            names.shared.insert(name, at);
        } else {
            break;
        }
    }
    let end = end.next_multiple_of(16);
    names.shared.extend(dynamic.iter().map(|name| (name.clone(), end)));
    Ok(end)
}

/// Instructions and labels up to the closing brace; the head's fields are left empty.
fn body(tokens: &mut Tokens<'_>, names: Names) -> Result<Kernel, ReadError> {
    let n_registers = names.registers.len();
    let mut decoder = Decoder::new(names);
    let mut lines = HashMap::new();
    let mut labels: HashMap<&str, usize> = HashMap::new();
    let mut instructions = Vec::new();
    let mut jumps: Vec<(usize, &str)> = Vec::new();
    while !tokens.takes("}") {
        let line = tokens.line();
        if tokens.second() == Some(":") {
            labels.insert(tokens.take()?, instructions.len());
            tokens.expect(":")?;
            continue;
        }
        if tokens.takes(".pragma") {
            tokens.take()?;
            tokens.expect(";")?;
            continue;
        }
        let guard = if tokens.takes("@") { Some((tokens.takes("!"), tokens.take()?)) } else { None };
        let name = tokens.take()?;
        if name.starts_with('.') {
            return Err(tokens.error(line, format!("unknown directive `{name}`")));
        }
        let operands = operands(tokens)?;
        if name == "bra" || name == "bra.uni" {
            let [Operand::Word(target)] = operands[..] else {
                return Err(tokens.error(line, "a branch has one label"));
            };
            jumps.push((instructions.len(), target));
        }
        let decoded = decoder.decode(line as u32, guard, name, &operands);
        instructions.push(decoded.map_err(|message| tokens.error(line, message))?);
        lines.insert(line, tokens.error(line, "").text);
    }
    for (from, label) in jumps {
        let line = instructions[from].line as usize;
        let target = labels.get(label).ok_or_else(|| tokens.error(line, format!("no label `{label}`")))?;
        instructions[from].jump_to(*target);
    }
    Ok(Kernel {
        name: String::new(),
        parameters: Vec::new(),
        shared_bytes: 0,
        most_threads: None,
        joins: joins(&instructions),
        instructions,
        n_registers,
        constants: decoder.constants(),
        lines,
    })
}

fn operands<'a>(tokens: &mut Tokens<'a>) -> Result<Vec<Operand<'a>>, ReadError> {
    let mut operands = Vec::new();
    while !tokens.takes(";") {
        operands.push(operand(tokens)?);
        if !tokens.takes(",") && tokens.peek() != Some(";") {
            let line = tokens.line();
            let found = tokens.take()?;
            return Err(tokens.error(line, format!("`,` or `;` expected, found `{found}`")));
        }
    }
    Ok(operands)
}

fn operand<'a>(tokens: &mut Tokens<'a>) -> Result<Operand<'a>, ReadError> {
    let line = tokens.line();
    match tokens.take()? {
        "{" => {
            let mut parts = Vec::new();
            while !tokens.takes("}") {
                parts.push(tokens.take()?);
                tokens.takes(",");
            }
            Ok(Operand::Group(parts))
        }
        "[" => {
            let base = tokens.take()?;
            let offset = match tokens.takes("+") {
                true => {
                    let text = tokens.take()?;
                    text.parse().map_err(|_| tokens.error(line, format!("an offset expected, found `{text}`")))?
                }
                false => 0,
            };
            tokens.expect("]")?;
            Ok(Operand::Address(base, offset))
        }
        word if tokens.takes("|") => Ok(Operand::Pair(word, tokens.take()?)),
        word => Ok(Operand::Word(word)),
    }
}
