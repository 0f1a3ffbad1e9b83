//! Tensor-core products and what loads their fragments, with the layouts of the PTX manual.

use super::{Address, Decoder, Operand, Operation, Register};
use crate::values::{Lanes, Type, WARP};
use half::f16;

/// `ldmatrix.x4`: four 8 x 16-byte matrices.
#[derive(Debug)]
pub struct Matrices {
    pub to: [Register; 4],
    pub at: Address,
    pub transposed: bool,
}

/// `to = a b + c` of a warp: 16 x depth times depth x 8.
#[derive(Debug)]
pub struct Multiply {
    pub numbers: Numbers,
    pub to: [Register; 4],
    pub a: [Register; 4],
    pub b: [Register; 2],
    pub c: [Register; 4],
}

/// What is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// The 13 lower bits are ignored.
    Tf32,
    Bf16,
    F16,
}

/// How a tensor core sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sums {
    /// One after another in f32, to nearest: as the emulator of tests/emulator does it.
    #[default]
    Nearest,
    /// As an H100: exact products and the old sum are cut two bits below the last place of the largest of them, added,
    /// and rounded towards zero (arXiv 2512.07004).
    Hopper,
}

/// The operation, or `None` for other groups' instructions.
pub fn decode(decoder: &mut Decoder, name: &str, operands: &[Operand<'_>]) -> Result<Option<Operation>, String> {
    let numbers = match name {
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" => Numbers::Tf32,
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" => Numbers::Bf16,
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" => Numbers::F16,
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16" | "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16" => {
            let [to, at] = operands else { return Err("two operands expected".into()) };
            return Ok(Some(Operation::Matrices(Matrices {
                to: group(decoder, to, "u32")?,
                at: decoder.address(at, 4)?,
                transposed: name.contains(".trans"),
            })));
        }
        _ => return Ok(None),
    };
    let [to, a, b, c] = operands else { return Err("four operands expected".into()) };
    Ok(Some(Operation::Multiply(Box::new(Multiply {
        numbers,
        to: group(decoder, to, "f32")?,
        a: group(decoder, a, "u32")?,
        b: group(decoder, b, "u32")?,
        c: group(decoder, c, "f32")?,
    }))))
}

fn group<const N: usize>(decoder: &Decoder, operand: &Operand<'_>, kind: &str) -> Result<[Register; N], String> {
    let Operand::Group(words) = operand else { return Err("registers in braces expected".into()) };
    let kind = Type::named(kind).ok_or("no type")?;
    let registers: Result<Vec<_>, _> = words.iter().map(|word| decoder.register(word, kind, false)).collect();
    registers?.try_into().map_err(|found: Vec<_>| format!("{N} registers expected, found {}", found.len()))
}

const ROWS: usize = 16;
const COLUMNS: usize = 8;
const DEEPEST: usize = 16;

/// The factors of a product, taken apart.
#[derive(Debug)]
struct Factors {
    depth: usize,
    left: [[f32; DEEPEST]; ROWS],
    right: [[f32; DEEPEST]; COLUMNS],
}

impl Numbers {
    /// Values in a register.
    fn per_register(self) -> usize {
        if self == Self::Tf32 { 1 } else { 2 }
    }

    fn value(self, bits: u64, part: usize) -> f32 {
        match self {
            Self::Tf32 => f32::from_bits(bits as u32 & !0x1fff),
            Self::Bf16 => f32::from_bits((bits as u32 >> (16 * part)) << 16),
            Self::F16 => f16::from_bits((bits >> (16 * part)) as u16).to_f32(),
        }
    }
}

fn factors(numbers: Numbers, a: [&Lanes; 4], b: [&Lanes; 2]) -> Factors {
    let n = numbers.per_register();
    let depth = 8 * n;
    let mut found = Factors { depth, left: [[0.0; DEEPEST]; ROWS], right: [[0.0; DEEPEST]; COLUMNS] };
    for lane in 0..WARP {
        let (group, first) = (lane / 4, lane % 4 * n);
        for part in 0..n {
            for (r, a) in a.iter().enumerate() {
                found.left[group + 8 * (r % 2)][first + part + depth / 2 * (r / 2)] = numbers.value(a[lane], part);
            }
            for (r, b) in b.iter().enumerate() {
                found.right[group][first + part + depth / 2 * r] = numbers.value(b[lane], part);
            }
        }
    }
    found
}

/// The four registers of sums.
pub fn multiply(numbers: Numbers, sums: Sums, a: [&Lanes; 4], b: [&Lanes; 2], c: [&Lanes; 4]) -> [Lanes; 4] {
    let factors = factors(numbers, a, b);
    let exponents = (sums == Sums::Hopper).then(|| Exponents::new(&factors));
    std::array::from_fn(|i| {
        std::array::from_fn(|lane| {
            let (row, column) = (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2);
            let old = f32::from_bits(c[i][lane] as u32);
            let sum = match &exponents {
                None => nearest(&factors, row, column, old),
                Some(exponents) => hopper(&factors, exponents, row, column, old),
            };
            u64::from(sum.to_bits())
        })
    })
}

fn nearest(factors: &Factors, row: usize, column: usize, old: f32) -> f32 {
    let mut product = 0.0f32;
    for k in 0..factors.depth {
        product += factors.left[row][k] * factors.right[column][k];
    }
    old + product
}

/// Exponents of the factors; far below all others for zero.
#[derive(Debug)]
struct Exponents {
    left: [[i32; DEEPEST]; ROWS],
    right: [[i32; DEEPEST]; COLUMNS],
}

const OF_ZERO: i32 = -10_000;

impl Exponents {
    fn new(factors: &Factors) -> Self {
        Self { left: factors.left.map(|row| row.map(exponent)), right: factors.right.map(|row| row.map(exponent)) }
    }
}

fn exponent(value: f32) -> i32 {
    if value == 0.0 { OF_ZERO } else { (f64::from(value).to_bits() >> 52 & 0x7ff) as i32 - 1023 }
}

/// 2 to a power in the range of normal f64.
fn power(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

fn hopper(factors: &Factors, exponents: &Exponents, row: usize, column: usize, old: f32) -> f32 {
    const LOWEST: i32 = -133;
    const PLACES: i32 = 23 + 2;
    let (left, right) = (&factors.left[row], &factors.right[column]);
    let odd = left.iter().zip(right).take(factors.depth).find(|(a, b)| !(*a * *b).is_finite());
    if let Some((a, b)) = odd {
        return old + a * b;
    }
    if !old.is_finite() {
        return old;
    }
    let mut largest = exponent(old).max(LOWEST);
    for (a, b) in exponents.left[row].iter().zip(&exponents.right[column]).take(factors.depth) {
        largest = largest.max(a + b);
    }
    // What is cut is a whole number of these.
    let (unit, units) = (power(largest - PLACES), power(PLACES - largest));
    // At most 17 numbers below 2^27.
    let mut sum = (f64::from(old) * units) as i64;
    for (a, b) in left.iter().zip(right).take(factors.depth) {
        sum += (f64::from(*a) * f64::from(*b) * units) as i64;
    }
    towards_zero(sum as f64 * unit)
}

fn towards_zero(value: f64) -> f32 {
    let nearest = value as f32;
    match value.is_finite() && f64::from(nearest).abs() > value.abs() {
        true if nearest > 0.0 => nearest.next_down(),
        true => nearest.next_up(),
        false => nearest,
    }
}
