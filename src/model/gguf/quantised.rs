//! Types of tensors, and their values as f32.
//!
//! Quantised types keep blocks of 32 or 256 values as small whole numbers with a scale, and some with a minimum; the layouts and
//! the order of the products are those of ggml (`dequantize_row_…` in ggml-quants.c). `d` is a block's scale in f16.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// A type of tensors that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TensorType {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

/// Types by their numbers in the format and by name, those that are not read too.
const TYPES: [(u32, &str, Option<TensorType>); 34] = [
    (0, "F32", Some(TensorType::F32)),
    (1, "F16", Some(TensorType::F16)),
    (2, "Q4_0", Some(TensorType::Q4_0)),
    (3, "Q4_1", Some(TensorType::Q4_1)),
    (6, "Q5_0", Some(TensorType::Q5_0)),
    (7, "Q5_1", Some(TensorType::Q5_1)),
    (8, "Q8_0", Some(TensorType::Q8_0)),
    (9, "Q8_1", None),
    (10, "Q2_K", Some(TensorType::Q2K)),
    (11, "Q3_K", Some(TensorType::Q3K)),
    (12, "Q4_K", Some(TensorType::Q4K)),
    (13, "Q5_K", Some(TensorType::Q5K)),
    (14, "Q6_K", Some(TensorType::Q6K)),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", None),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", None),
    (24, "I8", None),
    (25, "I16", None),
    (26, "I32", None),
    (27, "I64", None),
    (28, "F64", None),
    (29, "IQ1_M", None),
    (30, "BF16", Some(TensorType::Bf16)),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
    (39, "MXFP4", None),
    (40, "NVFP4", None),
    (41, "Q1_0", None),
];

impl TensorType {
    /// The type with a number; else what the number means, for an error.
    pub fn of(number: u32) -> Result<Self, String> {
        let known = TYPES.iter().find(|(known, ..)| *known == number);
        match known {
            Some((_, _, Some(kind))) => Ok(*kind),
            Some((_, name, None)) => Err(format!("{name} ({number})")),
            None => Err(number.to_string()),
        }
    }

    /// Names of the types that are read.
    pub fn names() -> String {
        let read = TYPES.iter().filter(|(_, _, kind)| kind.is_some());
        read.map(|(_, name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// The format's name.
    pub fn name(self) -> &'static str {
        TYPES.iter().find(|(_, _, kind)| *kind == Some(self)).map_or("", |(_, name, _)| name)
    }

    /// Is it one of those that were rounded to fewer bits than a floating-point number has?
    pub fn is_quantised(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Values and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q8_0 => (32, 34),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// Whole blocks as f32; `values` has as many places as they have values.
    pub fn read(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Self::F32 => {
                blocks(bytes, values, |block: &[u8; 4], value: &mut [f32; 1]| *value = [f32::from_le_bytes(*block)])
            }
            Self::F16 => match bytemuck::try_cast_slice::<u8, f16>(bytes) {
                Ok(halves) => halves.convert_to_f32_slice(values),
                Err(_) => blocks(bytes, values, |block: &[u8; 2], value: &mut [f32; 1]| *value = [half(block)]),
            },
            Self::Bf16 => blocks(bytes, values, |block: &[u8; 2], value: &mut [f32; 1]| {
                *value = [bf16::from_le_bytes(*block).to_f32()];
            }),
            Self::Q8_0 => blocks(bytes, values, q8_0),
            Self::Q4_0 => blocks(bytes, values, q4_0),
            Self::Q4_1 => blocks(bytes, values, q4_1),
            Self::Q5_0 => blocks(bytes, values, q5_0),
            Self::Q5_1 => blocks(bytes, values, q5_1),
            Self::Q2K => blocks(bytes, values, q2_k),
            Self::Q3K => blocks(bytes, values, q3_k),
            Self::Q4K => blocks(bytes, values, q4_k),
            Self::Q5K => blocks(bytes, values, q5_k),
            Self::Q6K => blocks(bytes, values, q6_k),
        }
    }
}

fn blocks<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    values: &mut [f32],
    read: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    let values = values.as_chunks_mut::<VALUES>().0;
    bytes.as_chunks::<BYTES>().0.iter().zip(values).for_each(|(block, values)| read(block, values));
}

/// The f16 at the beginning of `bytes`.
fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

fn q8_0(block: &[u8; 34], values: &mut [f32; 32]) {
    let d = half(block);
    values.iter_mut().zip(&block[2..]).for_each(|(value, q)| *value = f32::from(*q as i8) * d);
}

fn q4_0(block: &[u8; 18], values: &mut [f32; 32]) {
    let d = half(block);
    for (place, q) in block[2..].iter().enumerate() {
        values[place] = f32::from((q & 15) as i8 - 8) * d;
        values[place + 16] = f32::from((q >> 4) as i8 - 8) * d;
    }
}

fn q4_1(block: &[u8; 20], values: &mut [f32; 32]) {
    let (d, minimum) = (half(block), half(&block[2..]));
    for (place, q) in block[4..].iter().enumerate() {
        values[place] = f32::from(q & 15) * d + minimum;
        values[place + 16] = f32::from(q >> 4) * d + minimum;
    }
}

/// The fifth bits of 32 values, in their order, as 0 or 16.
fn fifth_bit(bits: &[u8], place: usize) -> u8 {
    ((bits[place / 8] >> (place % 8)) & 1) << 4
}

fn q5_0(block: &[u8; 22], values: &mut [f32; 32]) {
    let (d, bits) = (half(block), &block[2..6]);
    for (place, q) in block[6..].iter().enumerate() {
        values[place] = f32::from((q & 15 | fifth_bit(bits, place)) as i8 - 16) * d;
        values[place + 16] = f32::from((q >> 4 | fifth_bit(bits, place + 16)) as i8 - 16) * d;
    }
}

fn q5_1(block: &[u8; 24], values: &mut [f32; 32]) {
    let (d, minimum, bits) = (half(block), half(&block[2..]), &block[4..8]);
    for (place, q) in block[8..].iter().enumerate() {
        values[place] = f32::from(q & 15 | fifth_bit(bits, place)) * d + minimum;
        values[place + 16] = f32::from(q >> 4 | fifth_bit(bits, place + 16)) * d + minimum;
    }
}

/// 16 groups of 16 values: scales and minima of 4 bits each, values of 2 bits.
fn q2_k(block: &[u8; 84], values: &mut [f32; 256]) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, d_minimum) = (half(&block[80..]), half(&block[82..]));
    for (group, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[group] & 15);
        let minimum = d_minimum * f32::from(scales[group] >> 4);
        let (quants, shift) = two_bits(quants, group);
        values.iter_mut().zip(quants).for_each(|(value, q)| *value = scale * f32::from((q >> shift) & 3) - minimum);
    }
}

/// Where the 2-bit values of a group of 16 are: eight groups share 32 bytes, two of them side by side, four pairs above each
/// other.
fn two_bits(quants: &[u8], group: usize) -> (&[u8], usize) {
    let start = group / 8 * 32 + group % 2 * 16;
    (&quants[start..start + 16], group % 8 / 2 * 2)
}

/// 16 groups of 16 values: scales of 6 bits, values of 2 bits and a third elsewhere, which takes 4 away where it is not set.
fn q3_k(block: &[u8; 110], values: &mut [f32; 256]) {
    let (third, quants, scales, d) = (&block[..32], &block[32..96], &block[96..108], half(&block[108..]));
    for (group, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = if group < 8 { scales[group] & 15 } else { scales[group - 8] >> 4 };
        let high = (scales[8 + group % 4] >> (group / 4 * 2)) & 3;
        let scale = d * f32::from((low | high << 4) as i8 - 32);
        let (quants, shift) = two_bits(quants, group);
        let third = &third[group % 2 * 16..][..16];
        for ((value, q), bits) in values.iter_mut().zip(quants).zip(third) {
            let borrowed = if (bits >> (group / 2)) & 1 == 1 { 0 } else { 4 };
            *value = scale * f32::from(((q >> shift) & 3) as i8 - borrowed);
        }
    }
}

/// Scale and minimum of a group of 32, of 6 bits each, in 12 bytes that eight groups share.
fn scale_and_minimum(scales: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = if group < 4 {
        (scales[group] & 63, scales[group + 4] & 63)
    } else {
        let shared = scales[group + 4];
        (shared & 15 | scales[group - 4] >> 6 << 4, shared >> 4 | scales[group] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

/// 8 groups of 32 values of 4 bits.
fn q4_k(block: &[u8; 144], values: &mut [f32; 256]) {
    let (d, d_minimum, scales, quants) = (half(block), half(&block[2..]), &block[4..16], &block[16..]);
    for (group, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, group);
        let (scale, minimum) = (d * scale, d_minimum * minimum);
        let quants = &quants[group / 2 * 32..][..32];
        let shift = group % 2 * 4;
        values.iter_mut().zip(quants).for_each(|(value, q)| *value = scale * f32::from((q >> shift) & 15) - minimum);
    }
}

/// 8 groups of 32 values of 4 bits and a fifth elsewhere.
fn q5_k(block: &[u8; 176], values: &mut [f32; 256]) {
    let (d, d_minimum, scales) = (half(block), half(&block[2..]), &block[4..16]);
    let (fifth, quants) = (&block[16..48], &block[48..]);
    for (group, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, group);
        let (scale, minimum) = (d * scale, d_minimum * minimum);
        let quants = &quants[group / 2 * 32..][..32];
        let shift = group % 2 * 4;
        for ((value, q), bits) in values.iter_mut().zip(quants).zip(fifth) {
            *value = scale * f32::from((q >> shift) & 15 | ((bits >> group) & 1) << 4) - minimum;
        }
    }
}

/// 16 groups of 16 values of 4 bits and two elsewhere, with scales of 8 bits.
fn q6_k(block: &[u8; 210], values: &mut [f32; 256]) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half(&block[208..]));
    for (quarter, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        // Four runs of 32 values share 64 bytes of low bits and 32 of high ones.
        let (side, run) = (quarter / 4, quarter % 4);
        let low = &low[side * 64 + run % 2 * 32..][..32];
        let high = &high[side * 32..][..32];
        for (place, value) in values.iter_mut().enumerate() {
            let scale = d * f32::from(scales[quarter * 2 + place / 16] as i8);
            let q = (low[place] >> (run / 2 * 4)) & 15 | ((high[place] >> (run * 2)) & 3) << 4;
            *value = scale * f32::from(q as i8 - 32);
        }
    }
}
