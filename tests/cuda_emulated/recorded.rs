//! Operations beside recorded values of the interpreter, bit for bit: on a GPU whose tensor cores round as an H100's are
//! modelled, only exponentials may differ.
//!
//! - `ACTPATCH_RECORD=FILE`: writes what the committed PTX gives (tests/gpu_bundle.sh);
//! - `ACTPATCH_RECORDED=FILE`: compares with it what this machine's GPU gives, with `ACTPATCH_TEST_GPU` a real one.
//!   `ACTPATCH_SMALL` leaves the smallest shapes, for compute-sanitizer.
//!
//! Without either the small shapes are recorded, and compared with another order of warps.

use crate::emulator::{Emulator, Setting, random};
use crate::ops::*;
use crate::support::{Stored, Tensors, read_tensors, write_tensors};
use actpatch::backend::cuda::Tile;
use actpatch::backend::*;
use actpatch::types::Matrix;
use std::collections::BTreeMap;
use std::path::Path;

/// An operation in some shape.
struct Operation {
    kind: &'static str,
    shape: String,
    small: bool,
    /// Of the largest value of an output.
    tolerance: f32,
    run: Box<Run>,
}

/// Its outputs.
type Run = dyn Fn(&CudaBackend) -> Result<Vec<Vec<f32>>>;

/// What operations are run on: one backend for all of them.
type Setup = (Dtype, Tile);

fn operation(kind: &'static str, shape: String, small: bool, tolerance: f32, case: impl Case + 'static) -> Operation {
    Operation { kind, shape, small, tolerance, run: Box::new(move |backend| case.run(backend)) }
}

/// A product as deep as Pythia-1.4b's MLP, which shows how sums are rounded: forward and backward.
struct DeepProduct;

impl Case for DeepProduct {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        const DEEP: usize = 8192;
        let weight = |rows: usize, columns: usize, seed| {
            let values = random(rows * columns, seed);
            backend.pack(&Matrix::new(rows, columns, values), &vec![0.25; columns])
        };
        let x = backend.upload(&random(17 * DEEP, 1))?;
        let (mut y, mut dx) = (backend.tensor(17 * 20)?, backend.tensor(17 * 24)?);
        backend.linear(&x, &weight(DEEP, 20, 2)?, Epilogue::Store, &mut y)?;
        backend.linear_backward(&x, &weight(24, DEEP, 3)?, &mut dx)?;
        [&y, &dx].into_iter().map(|tensor| backend.download(tensor)).collect()
    }
}

/// Tolerances are those of ops.rs; of TF32 attention: a probability that is off in the last bit may be rounded to
/// another of 11 bits.
fn operations((dtype, tile): Setup) -> Vec<Operation> {
    let mut all = Vec::new();
    let product = if dtype == Dtype::F32 { 1e-6 } else { 3e-6 };
    for (i, (rows, inputs, outputs)) in PRODUCTS.into_iter().enumerate() {
        let case = ProductCase { rows, inputs, outputs, dtype: Dtype::F32 };
        all.push(operation("products", format!("{rows} x {inputs} x {outputs}"), i == 2, product, case));
    }
    all.push(operation("deep products", "17 x 8192".into(), false, product, DeepProduct));
    if tile == Tile::Large {
        return all;
    }
    if matches!(dtype, Dtype::F32 | Dtype::Tf32) {
        let tolerance = if dtype == Dtype::F32 { 1e-5 } else { 2e-3 };
        for (count, kv_count, width, window) in HEADS {
            for (i, lengths) in LENGTHS.into_iter().enumerate() {
                let case = AttentionCase { count, kv_count, width, window, lengths };
                let shape = format!("{count}/{kv_count} heads of {width}, {window:?}, {lengths:?}");
                all.push(operation("attention", shape, i == 2 && [24, 128].contains(&width), tolerance, case));
            }
        }
    }
    if dtype != Dtype::F32 {
        return all;
    }
    for (kind, width) in [(NormKind::Layer, 33), (NormKind::Layer, 516), (NormKind::Rms, 64), (NormKind::Rms, 257)] {
        let case = NormCase { rows: 5, width, kind, gain: true, bias: true };
        all.push(operation("norms", format!("{kind:?} {width}"), width == 33, 1e-5, case));
    }
    for (width, half, inverse) in [(10, 4, true), (12, 4, false)] {
        all.push(operation("rotary", format!("{width} {half}"), true, 1e-6, RotaryCase { width, half, inverse }));
    }
    for activation in ACTIVATIONS {
        all.push(operation("activations", format!("{activation:?}"), true, 1e-6, ActivationCase(activation)));
    }
    for (width, k) in [(1, 1), (13, 5), (40, 1), (33, 33), (20, 2)] {
        all.push(operation("rows and patches", format!("{width} {k}"), k == 5, 1e-5, RowsCase { width, k }));
        all.push(operation("gradients of swaps", format!("{width} {k}"), k == 5, 1e-5, SwapGradientCase { width, k }));
    }
    for (rows, n, width) in [(5, 3, 37), (4, 10, 300), (9, 2, 64)] {
        let case = LogitsCase { rows, n, width };
        all.push(operation("logits", format!("{rows} {n} {width}"), width == 37, 1e-6, case));
    }
    for (d, k, degree, size) in ROTATIONS {
        let case = RotationCase { d, k, degree, size };
        all.push(operation("rotations", format!("{d} {k} {degree}"), d == 37, 2e-5, case));
    }
    all
}

/// Runs everything on the current GPU; each output by setup, kind, shape and number.
fn outputs(emulator: &Emulator, small: bool, mut take: impl FnMut(Setup, &Operation, usize, Vec<f32>)) {
    for dtype in Dtype::ALL {
        for tile in [Tile::Small, Tile::Large] {
            let backend = emulator.backend(dtype).with_tile(tile);
            for operation in operations((dtype, tile)).iter().filter(|operation| operation.small || !small) {
                let outputs = (operation.run)(&backend).unwrap();
                outputs.into_iter().enumerate().for_each(|(i, values)| take((dtype, tile), operation, i, values));
            }
        }
    }
}

fn name((dtype, tile): Setup, operation: &Operation, output: usize) -> String {
    format!("{} of {} in {dtype}, {tile:?}: {output}", operation.kind, operation.shape)
}

fn record(emulator: &Emulator, small: bool) -> Tensors {
    // As a GPU: fma rounded once, tensor cores' sums an H100's.
    emulator.set(Setting::Interpret, 1);
    emulator.set(Setting::Sums, 1);
    let mut all = Tensors::new();
    outputs(emulator, small, |setup, operation, output, values| {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let stored = Stored { dtype: safetensors::Dtype::F32, shape: vec![values.len()], bytes };
        all.insert(name(setup, operation, output), stored);
    });
    all
}

/// Of all outputs of a kind of operation.
#[derive(Default)]
struct Compared {
    values: usize,
    differing: usize,
    /// Largest difference, of its output's largest value.
    largest: f32,
    failed: usize,
}

impl Compared {
    fn add(&mut self, found: &[f32], recorded: &[f32], tolerance: f32) {
        assert_eq!(found.len(), recorded.len(), "values of an output");
        let scale = recorded.iter().fold(1.0f32, |most, value| most.max(value.abs()));
        for (found, recorded) in found.iter().zip(recorded) {
            self.values += 1;
            if found.to_bits() == recorded.to_bits() {
                continue;
            }
            let difference = (found - recorded).abs() / scale;
            self.differing += 1;
            // A NaN is no small difference.
            self.failed += usize::from(difference.is_nan() || difference > tolerance);
            self.largest = if difference > self.largest || difference.is_nan() { difference } else { self.largest };
        }
    }

    fn verdict(&self) -> String {
        match self {
            Self { differing: 0, .. } => "bit for bit".into(),
            Self { failed: 0, differing, largest, .. } => format!("{differing} differ, by {largest:.1e} at most"),
            Self { failed, largest, .. } => format!("FAILED: {failed} differ too much, by up to {largest:.1e}"),
        }
    }
}

/// Runs everything and prints a line per kind of operation, format and tile; how many lines failed.
fn compare_with(emulator: &Emulator, recorded: &Tensors, small: bool) -> usize {
    let mut all: BTreeMap<_, Compared> = BTreeMap::new();
    outputs(emulator, small, |setup, operation, output, values| {
        let name = name(setup, operation, output);
        let recorded = recorded.get(&name).unwrap_or_else(|| panic!("{name} was not recorded"));
        let kind = (operation.kind, setup.0.name(), setup.1 as usize);
        all.entry(kind).or_default().add(&values, &recorded.values(), operation.tolerance);
    });
    for ((kind, dtype, tile), compared) in &all {
        println!("{kind:<20} {dtype:<5} {tile:>3} x {tile:<3} {:>8} values: {}", compared.values, compared.verdict());
    }
    all.values().filter(|compared| compared.failed > 0).count()
}

#[test]
fn operations_are_those_that_were_recorded() {
    let path = |name| std::env::var_os(name).map(std::path::PathBuf::from);
    let small = std::env::var_os("ACTPATCH_SMALL").is_some();
    if let Some(path) = path("ACTPATCH_RECORD") {
        let emulator = Emulator::alone().expect("a C++ compiler, and no real GPU");
        return write_tensors(&path, &record(emulator, small));
    }
    let Some(emulator) = Emulator::start() else { return };
    if let Some(path) = path("ACTPATCH_RECORDED") {
        let failed = compare_with(emulator, &read_tensors(Path::new(&path)), small);
        assert_eq!(failed, 0, "lines that differ too much");
        return;
    }
    let Some(emulator) = Emulator::alone() else { return };
    let recorded = record(emulator, true);
    emulator.set(Setting::Order, 1);
    assert_eq!(compare_with(emulator, &recorded, true), 0);
}

#[test]
fn differences_are_counted_and_too_large_ones_fail() {
    let mut compared = Compared::default();
    compared.add(&[1.0, 2.0], &[1.0, 2.0], 1e-6);
    assert_eq!(compared.verdict(), "bit for bit");
    compared.add(&[1.0, 2.000_001], &[1.0, 2.0], 1e-6);
    assert_eq!(compared.verdict(), "1 differ, by 4.8e-7 at most");
    compared.add(&[f32::NAN, 2.0], &[1.0, 2.0], 1e-6);
    assert!(compared.verdict().starts_with("FAILED: 1 differ too much"), "{}", compared.verdict());
}
