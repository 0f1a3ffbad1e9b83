//! Work that reaches every kernel, in shapes of Pythia-1.4b where that is what decides.

use crate::emulator::{Emulator, random};
use crate::ops::*;
use actpatch::backend::cuda::Tile;
use actpatch::backend::*;
use actpatch::types::{Activation, Matrix};
use ptx::Launched;
use std::collections::BTreeMap;

/// What the launches of a kernel have done.
pub struct Done {
    pub launched: Launched,
    /// Arithmetic that the work needs.
    pub flops: u64,
}

/// Rows, columns and depth of a product: one large tile, and the depth of Pythia-1.4b's residual.
const SIDE: usize = 128;
const DEPTH: usize = 2048;

/// Prompts of 19 tokens, two heads.
const PROMPTS: usize = 4;
const TOKENS: usize = 19;
const HEADS: usize = 2;
const LENGTHS: Lengths = &[(0, TOKENS, TOKENS); PROMPTS];

/// Runs everything; by the kernels' names.
pub fn all() -> BTreeMap<String, Done> {
    let emulator = Emulator::alone().expect("the caller has started the emulator");
    drop(ptx::counted());
    let mut all = BTreeMap::new();
    let mut take = |flops: &dyn Fn(&str) -> u64| {
        for (name, launched) in ptx::counted() {
            let flops = launched.launches * flops(&name);
            all.entry(name).or_insert(Done { launched, flops });
        }
    };
    for dtype in Dtype::ALL {
        for tile in [Tile::Small, Tile::Large] {
            products(&emulator.backend(dtype).with_tile(tile), DEPTH).unwrap();
            take(&|name| if name.starts_with("pack_") { 0 } else { (2 * SIDE * DEPTH * SIDE) as u64 });
        }
    }
    for dtype in [Dtype::F32, Dtype::Tf32] {
        for width in [128, 64] {
            let case = AttentionCase { count: HEADS, kv_count: HEADS, width, window: None, lengths: LENGTHS };
            case.run(&emulator.backend(dtype)).unwrap();
            take(&|name| attention_flops(name, width));
        }
    }
    let backend = emulator.backend(Dtype::F32);
    NormCase { rows: 64, width: DEPTH, kind: NormKind::Layer, gain: true, bias: true }.run(&backend).unwrap();
    ActivationCase(Activation::GeluTanh).run(&backend).unwrap();
    RotaryCase { width: 128, half: 16, inverse: false }.run(&backend).unwrap();
    LogitsCase { rows: 26, n: 10, width: DEPTH }.run(&backend).unwrap();
    RotationCase { d: 512, k: 1, degree: 8, size: 1.0 }.run(&backend).unwrap();
    patches(&backend).unwrap();
    // Rows of f32 are packed where they do not begin on 16 bytes.
    products(&backend, DEPTH - 1).unwrap();
    take(&|_| 0);
    all
}

/// Products of the visible half: a forward pass has two, the gradient of the queries three, that of the keys four.
fn attention_flops(name: &str, width: usize) -> u64 {
    let products = match name {
        _ if name.starts_with("attention_backward_queries") => 3,
        _ if name.starts_with("attention_backward_keys") => 4,
        "attention_pattern" | "apply_pattern" => 1,
        _ => 2,
    };
    (products * 2 * width * HEADS * PROMPTS * TOKENS * (TOKENS + 1) / 2) as u64
}

fn products(backend: &CudaBackend, depth: usize) -> Result<()> {
    let matrix = |rows: usize, columns: usize, seed| Matrix::new(rows, columns, random(rows * columns, seed));
    let x = backend.upload(&random(SIDE * depth, 1))?;
    let mut y = backend.tensor(SIDE * SIDE)?;
    let forward = backend.pack(&matrix(depth, SIDE, 2), &random(SIDE, 3))?;
    backend.linear(&x, &forward, Epilogue::Store, &mut y)?;
    let backward = backend.pack(&matrix(SIDE, depth, 4), &random(depth, 5))?;
    backend.linear_backward(&x, &backward, &mut y)
}

/// Copies and patches of 26 rows.
fn patches(backend: &CudaBackend) -> Result<()> {
    const ROWS: usize = 26;
    let matrix = |seed| backend.upload(&random(ROWS * DEPTH, seed));
    let (mut x, source, columns) = (matrix(1)?, matrix(2)?, Columns::all(DEPTH));
    let all: Vec<u32> = (0..ROWS as u32).collect();
    let (target, rows) = (backend.upload_indices(&all)?, backend.upload_indices(&all)?);
    let patch = || PatchRows { target: &target, source: &rows };
    backend.patch_replace(&mut x, columns, &source, columns, patch())?;
    backend.patch_add(&mut x, columns, &source, columns, patch(), 0.5)?;
    let basis = backend.upload_indices(&[0; ROWS])?;
    for k in [1, 32] {
        let directions = backend.upload(&random(k * DEPTH, 3))?;
        backend.patch_swap(
            &mut x,
            columns,
            &source,
            columns,
            patch(),
            Bases { directions: &directions, k, basis: &basis },
        )?;
        let mut gradient = backend.tensor(k * DEPTH)?;
        let rows = SwapGradientRows { gradient: &target, base: &rows, source: &rows };
        backend.patch_swap_backward(&x, &x, &source, rows, &directions, DEPTH, &mut gradient)?;
    }
    let mut gathered = matrix(4)?;
    backend.gather_rows(&x, DEPTH, &target, &mut gathered)?;
    backend.scatter_add_rows(&gathered, DEPTH, &target, &mut x)?;
    let length = (ROWS * DEPTH) as u32;
    backend.copy_spans(&gathered, &backend.upload_indices(&[0, 0, length])?, &mut x)
}
