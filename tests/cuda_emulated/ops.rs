//! Every operation against its CPU twin, on odd sizes, with threads running forwards, backwards and in random order.

use crate::emulator::{Emulator, ORDERS, Setting, random};
use actpatch::backend::cuda::{CudaTensor, Tile};
use actpatch::backend::*;
use actpatch::types::{Activation, Matrix};

/// An operation, run on any backend.
pub trait Case {
    /// Runs it and returns all it has written.
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>>;
}

/// Runs a case on the CPU and, in every thread order, on the emulated GPU. Differences are measured against the largest
/// value of an output; `tolerance` covers sums in another order.
pub fn check(what: &str, case: &impl Case, tolerance: f32) {
    let Some(emulator) = Emulator::start() else { return };
    let expected = case.run(&CpuBackend::new(Dtype::F32).unwrap()).unwrap();
    for order in ORDERS {
        emulator.set(Setting::Order, order);
        let found = case.run(&emulator.backend(Dtype::F32)).unwrap();
        compare(&format!("{what}, order {order}"), &found, &expected, tolerance);
    }
}

pub fn compare(what: &str, found: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (output, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len(), "{what}: length of output {output}");
        let scale = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        for (i, (f, e)) in found.iter().zip(expected).enumerate() {
            let close = (f - e).abs() <= tolerance * scale;
            assert!(close, "{what}: value {i} of output {output} is {f}, on the CPU {e} (scale {scale})");
        }
    }
}

pub const ACTIVATIONS: [Activation; 4] = [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu];

pub struct NormCase {
    pub rows: usize,
    pub width: usize,
    pub kind: NormKind,
    pub gain: bool,
    pub bias: bool,
}

impl Case for NormCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let (n, width) = (self.rows * self.width, self.width);
        let part = |there: bool, seed| there.then(|| backend.upload(&random(width, seed))).transpose();
        let (gain, bias) = (part(self.gain, 2)?, part(self.bias, 3)?);
        let norm = Norm { kind: self.kind, width, eps: 1e-2, gain, bias };
        let (x, dy) = (backend.upload(&random(n, 1))?, backend.upload(&random(n, 4))?);
        let (mut y, mut dx) = (backend.tensor(n)?, backend.upload(&random(n, 5))?);
        backend.layer_norm(&x, &norm, &mut y)?;
        backend.layer_norm_backward(&dy, &x, &norm, &mut dx)?;
        let mut scaled = backend.upload(&random(n, 6))?;
        backend.gain_and_bias(&mut scaled, &norm)?;
        [&y, &dx, &scaled].into_iter().map(|t| backend.download(t)).collect()
    }
}

#[test]
pub fn norms() {
    for width in [1, 7, 33, 64, 130, 257, 516] {
        for kind in [NormKind::Layer, NormKind::Rms] {
            for (gain, bias) in [(false, false), (true, false), (true, true)] {
                let case = NormCase { rows: 5, width, kind, gain, bias };
                // 1e-5: the roundings of sums of a few hundred terms.
                check(&format!("{kind:?} norm of {width}"), &case, 1e-5);
            }
        }
    }
}

pub struct ProductCase {
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    /// What goes in is rounded to this format, so that f32 products are those of the format.
    pub dtype: Dtype,
}

impl ProductCase {
    fn values(&self, len: usize, seed: u64) -> Vec<f32> {
        let round = |v: f32| match self.dtype {
            Dtype::F32 => v,
            Dtype::Tf32 => f32::from_bits(v.to_bits() & !0x1fff),
            Dtype::Bf16 => half::bf16::from_f32(v).to_f32(),
            Dtype::F16 => half::f16::from_f32(v).to_f32(),
        };
        random(len, seed).into_iter().map(round).collect()
    }
}

impl Case for ProductCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let &Self { rows, inputs, outputs, .. } = self;
        let weight = Matrix::new(inputs, outputs, self.values(inputs * outputs, 2));
        let weight = backend.pack(&weight, &random(outputs, 3))?;
        let x = backend.upload(&self.values(rows * inputs, 1))?;
        let mut stored = backend.tensor(rows * outputs)?;
        backend.linear(&x, &weight, Epilogue::Store, &mut stored)?;
        let mut accumulated = backend.upload(&random(rows * outputs, 4))?;
        backend.linear(&x, &weight, Epilogue::Accumulate, &mut accumulated)?;
        let mut results = vec![backend.download(&stored)?, backend.download(&accumulated)?];
        // One activation per shape is enough: the epilogue calls the function that the activations' test covers.
        let activation = ACTIVATIONS[inputs % 4];
        let (mut y, mut before) = (backend.tensor(rows * outputs)?, backend.tensor(rows * outputs)?);
        backend.linear(&x, &weight, Epilogue::Activate(activation, Some(&mut before)), &mut y)?;
        let mut alone = backend.tensor(rows * outputs)?;
        backend.linear(&x, &weight, Epilogue::Activate(activation, None), &mut alone)?;
        let dy = backend.upload(&self.values(rows * outputs, 5))?;
        let mut dx = backend.tensor(rows * inputs)?;
        backend.linear_backward(&dy, &weight, &mut dx)?;
        for tensor in [&y, &before, &alone, &dx] {
            results.push(backend.download(tensor)?);
        }
        Ok(results)
    }
}

/// Tails in every direction; rows of x on and off 16 bytes; outputs that fill their memory to the last value (56 x 64); more
/// than one large tile forward (next to last) and backward (last).
pub const PRODUCTS: [(usize, usize, usize); 8] =
    [(1, 5, 3), (2, 1, 1), (7, 48, 33), (26, 64, 192), (56, 64, 64), (65, 70, 66), (130, 36, 136), (129, 131, 37)];

#[test]
pub fn f32_products() {
    for (rows, inputs, outputs) in PRODUCTS {
        let case = ProductCase { rows, inputs, outputs, dtype: Dtype::F32 };
        // 1e-6 of the largest value: three TF32 products keep 22 bits of every factor. One product alone is off by
        // 1e-3 and fails.
        check(&format!("{rows} x {inputs} x {outputs}"), &case, 1e-6);
    }
}

#[test]
fn products_of_either_tile_size_agree() {
    let Some(emulator) = Emulator::start() else { return };
    let mut orders = ORDERS.into_iter().cycle();
    for tile in [Tile::Small, Tile::Large] {
        for (rows, inputs, outputs) in PRODUCTS {
            let case = ProductCase { rows, inputs, outputs, dtype: Dtype::F32 };
            let expected = case.run(&CpuBackend::new(Dtype::F32).unwrap()).unwrap();
            emulator.set(Setting::Order, orders.next().unwrap_or_default());
            let found = case.run(&emulator.backend(Dtype::F32).with_tile(tile)).unwrap();
            compare(&format!("{rows} x {inputs} x {outputs} by {tile:?} tiles"), &found, &expected, 1e-6);
        }
    }
}

/// Root mean square of `found - expected`, in that of `expected`.
fn relative_rms(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |v: f64| v * v;
    let off: f64 = found.iter().zip(expected).map(|(&f, e)| square(f64::from(f) - e)).sum();
    (off / expected.iter().map(|&e| square(e)).sum::<f64>()).sqrt()
}

/// Tensor cores cut off what they sum: kept in them over 8,192 depths, a sum in f32 is off by 5e-5. These are the depths
/// of gpt2-small's, Pythia-1.4b's and Mistral-7B's products.
#[test]
fn deep_products_are_as_precise_as_f32() {
    let Some(emulator) = Emulator::start() else { return };
    let depths = [768, 2048, 3072, 4096, 8192, 14336];
    for (depth, tile) in depths.map(|depth| (depth, Tile::Small)).into_iter().chain([(8192, Tile::Large)]) {
        let (rows, outputs) = (3, 8);
        // Values above zero, as behind an activation: nothing cancels what is lost.
        let x: Vec<f32> = random(rows * depth, 1).into_iter().map(f32::abs).collect();
        let w = random(depth * outputs, 2);
        let backend = emulator.backend(Dtype::F32).with_tile(tile);
        let on_device = backend.upload(&x).unwrap();
        let mut y = backend.tensor(rows * outputs).unwrap();
        // What is off, where depth k of output j is weight `at(k, j)`.
        let off = |y: &CudaTensor, at: &dyn Fn(usize, usize) -> usize| {
            let product = |i: usize, k: usize| f64::from(x[i / outputs * depth + k]) * f64::from(w[at(k, i % outputs)]);
            let exact: Vec<f64> = (0..rows * outputs).map(|i| (0..depth).map(|k| product(i, k)).sum()).collect();
            relative_rms(&backend.download(y).unwrap(), &exact)
        };
        let weight = backend.pack(&Matrix::new(depth, outputs, w.clone()), &vec![0.0; outputs]).unwrap();
        backend.linear(&on_device, &weight, Epilogue::Store, &mut y).unwrap();
        let forward = off(&y, &|k, j| k * outputs + j);
        let weight = backend.pack(&Matrix::new(outputs, depth, w.clone()), &vec![0.0; depth]).unwrap();
        backend.linear_backward(&on_device, &weight, &mut y).unwrap();
        let backward = off(&y, &|k, j| j * depth + k);
        println!("depth {depth}, {tile:?} tiles: forward {forward:.1e}, backward {backward:.1e}");
        assert!(forward.max(backward) <= 1e-6, "depth {depth}, {tile:?} tiles: {forward:.1e}, {backward:.1e}");
    }
}

#[test]
pub fn products_of_other_formats_are_those_of_rounded_factors() {
    let Some(emulator) = Emulator::start() else { return };
    let mut orders = ORDERS.into_iter().cycle();
    for dtype in [Dtype::Tf32, Dtype::Bf16, Dtype::F16] {
        for (rows, inputs, outputs) in PRODUCTS {
            let case = ProductCase { rows, inputs, outputs, dtype };
            let expected = case.run(&CpuBackend::new(Dtype::F32).unwrap()).unwrap();
            emulator.set(Setting::Order, orders.next().unwrap_or_default());
            let found = case.run(&emulator.backend(dtype)).unwrap();
            // 3e-6: products of two such numbers are exact in f32, only sums are rounded.
            compare(&format!("{rows} x {inputs} x {outputs} in {dtype}"), &found, &expected, 3e-6);
        }
    }
}

#[test]
pub fn products_round_what_goes_in_and_f16_overflows() {
    let Some(emulator) = Emulator::start() else { return };
    let product = |dtype, x: f32| -> f32 {
        let backend = emulator.backend(dtype);
        let weight = backend.pack(&Matrix::new(1, 1, vec![1.0]), &[0.0]).unwrap();
        let mut y = backend.tensor(1).unwrap();
        backend.linear(&backend.upload(&[x]).unwrap(), &weight, Epilogue::Store, &mut y).unwrap();
        backend.download(&y).unwrap()[0]
    };
    let x = 1.0 + 3.0 / 4096.0;
    let nearest =
        [(Dtype::F32, x), (Dtype::Tf32, 1.0 + 1.0 / 1024.0), (Dtype::Bf16, 1.0), (Dtype::F16, 1.0 + 1.0 / 1024.0)];
    for (dtype, expected) in nearest {
        assert_eq!(product(dtype, x), expected, "{dtype}");
    }
    // The smallest f16, half of it (ties to even), and one beyond the largest.
    let tiny = 2f32.powi(-24);
    assert_eq!([tiny, tiny / 2.0, 65519.0, 1e5].map(|x| product(Dtype::F16, x)), [tiny, 0.0, 65504.0, f32::INFINITY]);
    assert_eq!(product(Dtype::Bf16, 65536.0), 65536.0);
}

pub struct RotaryCase {
    /// Of a head; its columns start at as many.
    pub width: usize,
    pub half: usize,
    pub inverse: bool,
}

impl Case for RotaryCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let width = self.width;
        let heads = Heads { count: 3, kv_count: 3, width, scale: 1.0, window: None };
        let columns = Columns { stride: 5 * width, start: width, width: 3 * width };
        let mut x = backend.upload(&random(5 * columns.stride, 1))?;
        let table = backend.upload(&random(9 * 2 * self.half, 2))?;
        let positions = backend.upload_indices(&[8, 0, 3, 3, 5])?;
        backend.rotary(&mut x, columns, heads, self.half, &table, &positions, self.inverse)?;
        Ok(vec![backend.download(&x)?])
    }
}

#[test]
pub fn rotations() {
    for (width, half, inverse) in [(10, 1, false), (10, 4, true), (11, 5, false), (10, 5, true), (12, 4, false)] {
        // 1e-6: two products and a sum.
        check(&format!("rotary of {half} pairs"), &RotaryCase { width, half, inverse }, 1e-6);
    }
}

/// (prefix, keys, queries) per row.
pub type Lengths = &'static [(usize, usize, usize)];

pub struct AttentionCase {
    pub count: usize,
    pub kv_count: usize,
    pub width: usize,
    pub window: Option<usize>,
    pub lengths: Lengths,
}

impl AttentionCase {
    /// The rows, and how many queries, keys, prefix rows and probabilities there are.
    fn rows(&self) -> (Vec<AttentionRow>, [usize; 4]) {
        let mut ends = [0; 4];
        let mut rows = Vec::new();
        for &(n_prefix, n_keys, n_queries) in self.lengths {
            let [query_start, key_start, prefix_start, pattern_start] = ends;
            rows.push(AttentionRow {
                query_start,
                n_queries,
                key_start,
                n_keys,
                prefix_start,
                n_prefix,
                pattern_start,
            });
            ends[0] += n_queries;
            ends[1] += n_keys;
            ends[2] += n_prefix;
            ends[3] += self.count * n_queries * (n_prefix + n_keys);
        }
        (rows, ends)
    }
}

impl Case for AttentionCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let (rows, [queries, keys, prefix, patterns]) = self.rows();
        let &Self { count, kv_count, width, window, .. } = self;
        let heads = Heads { count, kv_count, width, scale: 1.0 / (width as f32).sqrt(), window };
        let (d_attn, stride) = (count * width, heads.kv_stride());
        let rows = backend.upload_attention_rows(&rows)?;
        let q = backend.upload(&random(queries * d_attn, 1))?;
        let (own, prefix) = (backend.upload(&random(keys * stride, 2))?, backend.upload(&random(prefix * stride, 3))?);
        let kv = || KeyValues { own: &own, prefix: Some(&prefix) };
        let (mut z, mut sums) = (backend.tensor(queries * d_attn)?, backend.tensor(queries * count)?);
        backend.attention(&q, kv(), &rows, heads, &mut z, Some(&mut sums))?;
        let mut alone = backend.tensor(queries * d_attn)?;
        backend.attention(&q, kv(), &rows, heads, &mut alone, None)?;
        let mut pattern = backend.tensor(patterns)?;
        backend.attention_pattern(&q, kv(), &rows, heads, &mut pattern)?;
        let mut applied = backend.tensor(queries * d_attn)?;
        backend.apply_pattern(&pattern, kv(), &rows, heads, &mut applied)?;
        let dz = backend.upload(&random(queries * d_attn, 4))?;
        let (mut dq, mut dkv) = (backend.tensor(queries * d_attn)?, backend.tensor(keys * stride)?);
        backend.attention_backward(&q, kv(), &rows, heads, &sums, &dz, &mut dq, &mut dkv)?;
        [&z, &sums, &alone, &pattern, &applied, &dq, &dkv].into_iter().map(|t| backend.download(t)).collect()
    }
}

/// Short and long rows, captured prefixes, fewer queries than keys.
pub const LENGTHS: [Lengths; 6] = [
    &[(0, 1, 1)],
    &[(0, 19, 19), (0, 5, 5)],
    &[(6, 13, 13), (1, 4, 1), (0, 40, 40)],
    &[(33, 30, 25), (0, 2, 2)],
    &[(21, 133, 90), (0, 64, 64)],
    // With a window: a whole tile of keys that no query sees.
    &[(0, 90, 3)],
];

/// (heads, key-value heads, width, window).
pub const HEADS: [(usize, usize, usize, Option<usize>); 6] = [
    (1, 1, 3, None),
    (2, 2, 12, Some(5)),
    (1, 1, 128, Some(1)),
    (4, 2, 24, None),
    (3, 1, 8, Some(9)),
    (2, 2, 80, None),
];

#[test]
pub fn attention_of_all_shapes() {
    for (count, kv_count, width, window) in HEADS {
        for lengths in LENGTHS {
            let case = AttentionCase { count, kv_count, width, window, lengths };
            let what = format!("{count}/{kv_count} heads of {width}, window {window:?}, rows {lengths:?}");
            // 1e-5: sums over up to 63 keys and 40 queries.
            check(&what, &case, 1e-5);
        }
    }
}

/// The mean of 3,000 values above zero, by probabilities that are nearly all the same.
#[test]
fn attention_over_many_keys_is_as_precise_as_f32() {
    let Some(emulator) = Emulator::start() else { return };
    let (n_keys, width) = (3000, 8);
    let backend = emulator.backend(Dtype::F32);
    let row = AttentionRow {
        query_start: 0,
        n_queries: 1,
        key_start: 0,
        n_keys,
        prefix_start: 0,
        n_prefix: 0,
        pattern_start: 0,
    };
    let heads = Heads { count: 1, kv_count: 1, width, scale: 0.1, window: None };
    let (q, mut kv) = (random(width, 1), random(2 * n_keys * width, 2));
    kv.chunks_exact_mut(2 * width).for_each(|row| row[width..].iter_mut().for_each(|value| *value = value.abs()));
    let rows = backend.upload_attention_rows(&[row]).unwrap();
    let own = backend.upload(&kv).unwrap();
    let mut z = backend.tensor(width).unwrap();
    let keys = KeyValues { own: &own, prefix: None };
    backend.attention(&backend.upload(&q).unwrap(), keys, &rows, heads, &mut z, None).unwrap();

    let dot = |key: &[f32]| -> f64 { key.iter().zip(&q).map(|(&k, &q)| f64::from(k) * f64::from(q)).sum() };
    let weights: Vec<f64> = kv.chunks_exact(2 * width).map(|row| (0.1 * dot(&row[..width])).exp()).collect();
    let mean = |column: usize| -> f64 {
        let values = kv.chunks_exact(2 * width).map(|row| f64::from(row[width + column]));
        weights.iter().zip(values).map(|(weight, value)| weight * value).sum::<f64>() / weights.iter().sum::<f64>()
    };
    let off = relative_rms(&backend.download(&z).unwrap(), &(0..width).map(mean).collect::<Vec<_>>());
    assert!(off <= 1e-6, "{off:.1e}");
}

#[test]
pub fn attention_in_other_formats_is_close() {
    let Some(emulator) = Emulator::start() else { return };
    for (dtype, (count, kv_count, width, window)) in
        [Dtype::Tf32, Dtype::Bf16, Dtype::F16].into_iter().zip(HEADS.into_iter().skip(3))
    {
        let case = AttentionCase { count, kv_count, width, window, lengths: LENGTHS[4] };
        let (expected, found) = (case.run(&CpuBackend::new(Dtype::F32).unwrap()), case.run(&emulator.backend(dtype)));
        let (expected, found) = (expected.unwrap(), found.unwrap());
        // 2e-3: factors rounded to 11 bits. f32's own tolerance must not hold, or the other kernels were never run.
        compare(&format!("attention in {dtype}"), &found, &expected, 2e-3);
        let exact = std::panic::AssertUnwindSafe(|| compare("", &found, &expected, 1e-5));
        assert!(std::panic::catch_unwind(exact).is_err(), "{dtype} is as exact as f32");
    }
}

#[test]
pub fn heads_that_are_too_wide_are_an_error() {
    let Some(emulator) = Emulator::start() else { return };
    let case = AttentionCase { count: 1, kv_count: 1, width: 129, window: None, lengths: LENGTHS[0] };
    let message = case.run(&emulator.backend(Dtype::F32)).unwrap_err().to_string();
    assert!(message.contains("129") && message.contains("128"), "{message}");
}

pub struct ActivationCase(pub Activation);

impl Case for ActivationCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let n = 1003;
        let wide: Vec<f32> = random(n, 1).iter().map(|v| 5.0 * v).collect();
        let (x, value) = (backend.upload(&wide)?, backend.upload(&random(n, 2))?);
        let mut y = backend.tensor(n)?;
        backend.activate(self.0, &x, &mut y)?;
        let mut slope = backend.upload(&random(n, 3))?;
        backend.activate_backward(self.0, &x, &mut slope)?;
        let mut gated = backend.upload(&random(n, 4))?;
        backend.gate(self.0, &x, &mut gated)?;
        let (mut dy, mut d_gate) = (backend.upload(&random(n, 5))?, backend.tensor(n)?);
        backend.gate_backward(self.0, &x, &value, &mut dy, &mut d_gate)?;
        let mut sum = backend.upload(&random(n, 6))?;
        backend.add(&x, &mut sum)?;
        [&y, &slope, &gated, &dy, &d_gate, &sum].into_iter().map(|t| backend.download(t)).collect()
    }
}

#[test]
pub fn activations_and_gates() {
    for activation in ACTIVATIONS {
        // 1e-6: each side's exp and erf are within a few units of the last place.
        check(&format!("{activation:?}"), &ActivationCase(activation), 1e-6);
    }
}

/// Copies, gathers, scatters and patches of a matrix with 40 columns.
pub struct RowsCase {
    /// Columns patched, of 40.
    pub width: usize,
    pub k: usize,
}

impl Case for RowsCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let &Self { width, k } = self;
        let columns = Columns { stride: 40, start: 40 - width, width };
        // Whole groups of 16 bytes where the patched columns are, and not otherwise.
        let from = match width % 4 {
            0 => Columns { stride: width + 8, start: 4, width },
            _ => Columns { stride: width + 3, start: 2, width },
        };
        let matrix = |seed| backend.upload(&random(6 * 40, seed));
        let source = backend.upload(&random(4 * from.stride, 2))?;
        let (target, rows) = (backend.upload_indices(&[5, 0, 3])?, backend.upload_indices(&[1, 3, 3])?);
        let patch = || PatchRows { target: &target, source: &rows };
        let (mut replaced, mut added, mut swapped) = (matrix(1)?, matrix(1)?, matrix(1)?);
        backend.patch_replace(&mut replaced, columns, &source, from, patch())?;
        backend.patch_add(&mut added, columns, &source, from, patch(), -0.7)?;
        let directions = backend.upload(&random(2 * k * width, 3))?;
        let basis = backend.upload_indices(&[1, 0, 1])?;
        let bases = Bases { directions: &directions, k, basis: &basis };
        backend.patch_swap(&mut swapped, columns, &source, from, patch(), bases)?;
        let mut gathered = backend.tensor(3 * 40)?;
        backend.gather_rows(&matrix(4)?, 40, &target, &mut gathered)?;
        let mut scattered = matrix(5)?;
        backend.scatter_add_rows(&gathered, 40, &target, &mut scattered)?;
        let mut copied = matrix(6)?;
        backend.copy_into(&gathered, &mut copied, 17)?;
        let spans = backend.upload_indices(&[3, 100, 57, 200, 0, 40, 80, 7, 0, 100, 9, 1])?;
        backend.copy_spans(&matrix(7)?, &spans, &mut copied)?;
        let mut zeroed = matrix(8)?;
        backend.zero(&mut zeroed)?;
        [&replaced, &added, &swapped, &gathered, &scattered, &copied, &zeroed]
            .into_iter()
            .map(|t| backend.download(t))
            .collect()
    }
}

#[test]
pub fn rows_and_patches() {
    for (width, k) in [(1, 1), (13, 3), (40, 1), (33, 33), (20, 2)] {
        // 1e-5: a swap along up to 33 directions that are neither orthogonal nor of unit length.
        check(&format!("patches of {width} columns, {k} directions"), &RowsCase { width, k }, 1e-5);
    }
}

pub struct SwapGradientCase {
    pub width: usize,
    pub k: usize,
}

impl Case for SwapGradientCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let &Self { width, k } = self;
        let (dy, x) = (backend.upload(&random(5 * width, 1))?, backend.upload(&random(4 * width, 2))?);
        let source = backend.upload(&random(3 * width, 3))?;
        let basis = backend.upload(&random(k * width, 4))?;
        let list = |rows: &[u32]| backend.upload_indices(rows);
        let (gradient, base, from) = (list(&[4, 0, 2, 3])?, list(&[3, 0, 1, 1])?, list(&[0, 2, 2, 1])?);
        let rows = SwapGradientRows { gradient: &gradient, base: &base, source: &from };
        let mut d_basis = backend.tensor(k * width)?;
        backend.patch_swap_backward(&dy, &x, &source, rows, &basis, width, &mut d_basis)?;
        Ok(vec![backend.download(&d_basis)?])
    }
}

#[test]
pub fn the_gradient_of_a_swap() {
    for (width, k) in [(1, 1), (40, 1), (129, 3), (64, 7)] {
        // 1e-5: dot products of up to 129 terms.
        check(&format!("gradient of {k} directions of {width}"), &SwapGradientCase { width, k }, 1e-5);
    }
}

pub struct LogitsCase {
    pub rows: usize,
    pub n: usize,
    pub width: usize,
}

impl Case for LogitsCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let &Self { rows, n, width } = self;
        let (x, columns) = (backend.upload(&random(rows * width, 1))?, backend.upload(&random(n * width, 2))?);
        let bias = backend.upload(&random(n, 3))?;
        let mut y = backend.tensor(rows * n)?;
        backend.answer_logits(&x, &columns, &bias, &mut y)?;
        let (dy, mut dx) = (backend.upload(&random(rows * n, 4))?, backend.tensor(rows * width)?);
        backend.answer_logits_backward(&dy, &columns, n, &mut dx)?;
        let large: Vec<f32> = random(rows * width, 5).iter().map(|v| 400.0 + 10.0 * v).collect();
        let mut sums = backend.tensor(rows)?;
        backend.log_sum_exp(&backend.upload(&large)?, width, &mut sums)?;
        [&y, &dx, &sums].into_iter().map(|t| backend.download(t)).collect()
    }
}

#[test]
pub fn logits_and_log_sums() {
    for (rows, n, width) in [(1, 1, 1), (5, 3, 37), (4, 10, 300), (9, 2, 64)] {
        // 1e-6 of the largest value, which is 400 for the log-sums.
        check(&format!("{n} answers of {rows} rows"), &LogitsCase { rows, n, width }, 1e-6);
    }
}

/// Training of a rotation: Lanczos, series, adjoint, and two steps of Adam.
pub struct RotationCase {
    pub d: usize,
    pub k: usize,
    pub degree: usize,
    /// Of the gradient: 1 stays below the norm that is clipped.
    pub size: f32,
}

impl Case for RotationCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let &Self { d, k, degree, size } = self;
        let mut triangle = backend.upload(&random(packed_row(d), 1))?;
        let start: Vec<f32> = random(d, 2).iter().map(|v| v / (d as f32).sqrt()).collect();
        let betas = backend.rotation_lanczos(&triangle, &backend.upload(&start)?, 6)?;
        let coefficients = random(degree + 1, 3).into_iter().map(f64::from).collect();
        let series = ChebyshevSeries { radius: 2.0 * (d as f64).sqrt(), coefficients };
        let mut basis = backend.tensor((degree + 1) * k * d)?;
        backend.rotation_basis(&triangle, k, &series, &mut basis)?;
        let mut columns = backend.tensor(k * d)?;
        backend.rotation_columns(&basis, &series, &mut columns)?;
        let gradient = backend.upload(&random(k * d, 4).iter().map(|v| size * v).collect::<Vec<_>>())?;
        let mut adjoints = backend.tensor(degree * k * d)?;
        backend.rotation_adjoint(&triangle, &series, &gradient, &mut adjoints)?;
        let mut results = vec![betas.iter().map(|beta| *beta as f32).collect()];
        let (mut first, mut second) = (backend.tensor(packed_row(d))?, backend.tensor(packed_row(d))?);
        backend.zero(&mut first)?;
        backend.zero(&mut second)?;
        let mut norm = backend.tensor(1)?;
        for correction in [4.0, 2.0] {
            let step = AdamStep {
                max_gradient_norm: 1.0,
                keep_first: 0.9,
                keep_second: 0.999,
                add_first: 0.1,
                add_second: 0.001,
                inverse_correction: correction,
                // A tenth of a usual square root: the update depends on it, and on a tiny gradient not wildly.
                epsilon: 1e-3,
                rate: 0.1,
            };
            let state = AdamState { triangle: &mut triangle, first: &mut first, second: &mut second };
            let low_rank = LowRank { rank: degree * k, left: &adjoints, right: &basis };
            backend.rotation_step(low_rank, &step, state, &mut norm)?;
            results.push(backend.download(&norm)?);
        }
        for tensor in [&basis, &columns, &adjoints, &triangle, &first, &second] {
            results.push(backend.download(tensor)?);
        }
        Ok(results)
    }
}

/// One and several tiles, with tails; one dimension; ranks on and off the number that is staged; k above one.
pub const ROTATIONS: [(usize, usize, usize, f32); 6] =
    [(1, 1, 1, 1.0), (2, 2, 1, 1.0), (37, 1, 3, 1e-2), (64, 3, 5, 1.0), (129, 2, 8, 30.0), (200, 1, 17, 1.0)];

#[test]
pub fn rotations_in_training() {
    for (d, k, degree, size) in ROTATIONS {
        let case = RotationCase { d, k, degree, size };
        // 2e-5: up to 17 products, each with sums of 200 terms; the step divides by a root that rounding reaches.
        check(&format!("{k} columns of a rotation of {d}, degree {degree}"), &case, 2e-5);
    }
}

/// A gradient that is not finite: the norm says so, and nothing moves.
pub struct BadGradientCase;

impl Case for BadGradientCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let (d, n) = (70, packed_row(70));
        let mut results = Vec::new();
        for bad in [f32::NAN, f32::INFINITY] {
            let mut left = random(d, 1);
            left[65] = bad;
            let (left, right) = (backend.upload(&left)?, backend.upload(&random(d, 2))?);
            let mut state =
                [backend.upload(&random(n, 3))?, backend.upload(&random(n, 4))?, backend.upload(&[0.5; 2415])?];
            let [triangle, first, second] = &mut state;
            let mut norm = backend.tensor(1)?;
            let step = AdamStep {
                max_gradient_norm: 1.0,
                keep_first: 0.9,
                keep_second: 0.999,
                add_first: 0.1,
                add_second: 0.001,
                inverse_correction: 1.0,
                epsilon: 1e-8,
                rate: 0.1,
            };
            let low_rank = LowRank { rank: 1, left: &left, right: &right };
            backend.rotation_step(low_rank, &step, AdamState { triangle, first, second }, &mut norm)?;
            assert!(!backend.download(&norm)?[0].is_finite());
            for tensor in &state {
                results.push(backend.download(tensor)?);
            }
        }
        assert_eq!(results[0], random(n, 3));
        Ok(results)
    }
}

#[test]
pub fn a_gradient_that_is_not_finite_moves_nothing() {
    check("gradient that is not finite", &BadGradientCase, 0.0);
}

/// One small shape of every kernel with a barrier, for the slow ThreadSanitizer run of tests/emulator/sanitize.sh.
#[test]
pub fn small_shapes_of_kernels_with_barriers() {
    let norm = NormCase { rows: 1, width: 33, kind: NormKind::Layer, gain: true, bias: true };
    check("small norm", &norm, 1e-5);
    let product = ProductCase { rows: 17, inputs: 40, outputs: 20, dtype: Dtype::F32 };
    check("small product", &product, 1e-6);
    if let Some(emulator) = Emulator::start() {
        product.run(&emulator.backend(Dtype::F32).with_tile(Tile::Large)).unwrap();
    }
    let lengths: Lengths = &[(3, 7, 6)];
    check("small attention", &AttentionCase { count: 2, kv_count: 1, width: 5, window: None, lengths }, 1e-5);
    check("small patches", &RowsCase { width: 13, k: 5 }, 1e-5);
    check("small logits", &LogitsCase { rows: 1, n: 2, width: 64 }, 1e-6);
    check("small rotation", &RotationCase { d: 66, k: 2, degree: 2, size: 1.0 }, 2e-5);
}
