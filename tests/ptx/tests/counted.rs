//! What the committed products do per launch: tensor-core products, bank conflicts, sectors, instructions.

mod common;

use common::Array;
use half::{bf16, f16};
use ptx::*;
use std::path::Path;

const ROWS: usize = 128;
/// A round of all stages in 16 bits, two in f32.
const DEPTH: usize = 128;
const COLUMNS: usize = 128;

/// A kernel of matmul.cu, and what it takes for 128 x 128 times 128 x 128.
struct Product {
    name: &'static str,
    /// Of rows and columns.
    tile: usize,
    threads: u32,
    /// Tensor-core products that one product of 8 depths is made of, halved for 16 depths.
    per_eight: f64,
    /// Instructions of all warps: a change of the kernels may not raise them unseen. They are PTX's: a GPU takes seven for
    /// `cvt.rna.tf32`.
    most: u64,
}

const PRODUCTS: [Product; 16] = {
    const fn small(name: &'static str, per_eight: f64, most: u64) -> Product {
        Product { name, tile: 64, threads: 128, per_eight, most }
    }
    const fn large(name: &'static str, per_eight: f64, most: u64) -> Product {
        // f32 has smaller tiles of a warp.
        let threads = if per_eight == 3.0 { 256 } else { 128 };
        Product { name, tile: 128, threads, per_eight, most }
    }
    [
        small("matmul_f32", 3.0, 51_488),
        large("matmul_f32_large", 3.0, 42_880),
        small("matmul_f32_backward", 3.0, 50_656),
        large("matmul_f32_backward_large", 3.0, 42_480),
        small("matmul_tf32", 1.0, 38_768),
        large("matmul_tf32_large", 1.0, 31_832),
        small("matmul_tf32_backward", 1.0, 38_880),
        large("matmul_tf32_backward_large", 1.0, 32_008),
        small("matmul_bf16", 0.5, 32_160),
        large("matmul_bf16_large", 0.5, 28_184),
        small("matmul_bf16_backward", 0.5, 32_720),
        large("matmul_bf16_backward_large", 0.5, 28_296),
        small("matmul_f16", 0.5, 32_160),
        large("matmul_f16_large", 0.5, 28_184),
        small("matmul_f16_backward", 0.5, 32_720),
        large("matmul_f16_backward_large", 0.5, 28_296),
    ]
};

/// Whole numbers from -3 to 3: exact in every format.
fn value(i: usize, seed: usize) -> f32 {
    ((i * 7 + i / 11 + seed) % 7) as f32 - 3.0
}

/// Runs a product of 128 x 128 times 128 x 128, whose values are checked.
fn launched(module: &Module, product: &Product) -> Counts {
    let kernel = module.kernel(product.name).unwrap();
    let backward = product.name.contains("backward");
    // The inner dimension is W's rows forwards, its columns backwards.
    let (w_rows, w_columns) = if backward { (COLUMNS, DEPTH) } else { (DEPTH, COLUMNS) };
    let x: Vec<f32> = (0..ROWS * DEPTH).map(|i| value(i, 0)).collect();
    let w: Vec<f32> = (0..w_rows * w_columns).map(|i| value(i, 3)).collect();
    let pairs = |values: &[f32], bits: fn(f32) -> u16| -> Vec<u32> {
        values.chunks(2).map(|pair| u32::from(bits(pair[0])) | u32::from(bits(pair[1])) << 16).collect()
    };
    let stored = |values: &[f32]| match () {
        () if product.name.contains("bf16") => pairs(values, |v| bf16::from_f32(v).to_bits()),
        () if product.name.contains("_f16") => pairs(values, |v| f16::from_f32(v).to_bits()),
        () => values.iter().map(|v| v.to_bits()).collect(),
    };
    let arrays = [
        Array::new(&stored(&x)),
        Array::new(&stored(&w)),
        Array::new(&[1.0f32.to_bits(); COLUMNS]),
        Array::new(&vec![0; ROWS * COLUMNS]),
    ];
    let mut parameters: Vec<u8> = arrays.iter().flat_map(|array| array.region().start.to_le_bytes()).collect();
    parameters.extend(0u64.to_le_bytes());
    let no_activation = -1i32;
    let shape = [ROWS as i32, DEPTH as i32, COLUMNS as i32, w_columns as i32, DEPTH as i32, 0, no_activation];
    parameters.extend(shape.iter().flat_map(|v| v.to_le_bytes()));
    let mut regions: Vec<Region> = arrays.iter().map(Array::region).collect();
    regions.sort_by_key(|region| region.start);
    let launch = Launch {
        grid: [(ROWS / product.tile) as u32, (COLUMNS / product.tile) as u32, 1],
        block: [product.threads, 1, 1],
        dynamic_shared: 80 << 10,
        parameters: &parameters,
        // SAFETY: the arrays live until the end of this function, and nobody else sees them.
        global: unsafe { Global::new(&regions) },
        order: Order::Forward,
        seed: 1,
        sums: Sums::Hopper,
        fused: true,
    };
    let counts = kernel.launch(&launch).unwrap_or_else(|fault| panic!("{fault}"));
    for (i, found) in arrays[3].values().into_iter().enumerate() {
        let (row, column) = (i / COLUMNS, i % COLUMNS);
        let weight = |k: usize| if backward { w[column * w_columns + k] } else { w[k * w_columns + column] };
        let expected = 1.0 + (0..DEPTH).map(|k| x[row * DEPTH + k] * weight(k)).sum::<f32>();
        assert_eq!(f32::from_bits(found), expected, "{}: row {row}, column {column}", product.name);
    }
    counts
}

#[test]
fn products_take_the_tensor_cores_they_need_and_meet_no_bank_twice() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/ptx/matmul.sm_80.ptx");
    let module = Module::read(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut more = Vec::new();
    for product in &PRODUCTS {
        let counts = launched(&module, product);
        let kernel = module.kernel(product.name).unwrap();
        let names = counts.by_name(kernel);
        let multiplied: u64 = names.iter().filter(|(name, _)| name.starts_with("mma.")).map(|(_, n)| n).sum();
        let expected = (ROWS / 16 * COLUMNS / 8 * DEPTH / 8) as f64 * product.per_eight;
        assert_eq!(multiplied as f64, expected, "{}: tensor-core products", product.name);
        let instructions: u64 = names.values().sum();
        if instructions > product.most {
            more.push(format!("{}: {instructions} instructions, {} before", product.name, product.most));
        }
        let conflicts = counts.conflicts(kernel);
        for pair in conflicts.chunks(2) {
            // Two neighbouring words by two instructions are one access of 8 bytes behind ptxas, without a conflict.
            let [(line, first), (next, second)] = pair else { panic!("{}: {pair:?}", product.name) };
            let merged = *next == line + 1 && first == second && first.taken == 2 * first.least;
            assert!(merged, "{}: banks that are met twice at line {line}, {first:?}", product.name);
        }
        assert!(conflicts.len() <= 4, "{}: {conflicts:?}", product.name);
    }
    assert!(more.is_empty(), "{}", more.join("\n"));
}
