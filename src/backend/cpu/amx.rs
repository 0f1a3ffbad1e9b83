//! bfloat16 products on Intel's matrix unit (AMX): 32 rows by 32 columns at a time, in eight registers of 16 lines.
//!
//! The panels are those of [`super::bf16`]: a step of 16 pairs of inputs is two tiles of a panel. `x` is rounded into
//! tiles that lie behind each other. Stable Rust has no intrinsics for the unit, so the innermost loop is assembly.
//! Every output is one chain over the inputs in order, whatever the rows and threads around it.

use super::bf16::Pairs;
use super::matmul::Product;
use super::pool::Pool;
use super::simd::{Limit, has_bf16};
use super::tile::PANEL;
use rayon::prelude::*;
use std::arch::{asm, x86_64::*};
use std::ops::Range;
use std::sync::OnceLock;

/// Rows of a block, and of the two tiles of `x` that it is made of.
const ROWS: usize = 32;
/// Pairs of inputs of a step.
const STEP: usize = 16;
/// 32-bit values of a step of a block, and of a panel.
const STEP_LEN: usize = ROWS * STEP;
/// Bytes of the panels that one task walks over again for every block of rows: half of the second-level cache.
const CACHED: usize = 1 << 20;

/// Can weights with this many inputs be multiplied here? All real models' are; it must not depend on the rows, or a batch's
/// size would show in its results.
pub fn takes(inputs: usize) -> bool {
    inputs > 0 && inputs.is_multiple_of(2 * STEP) && available()
}

/// Does the processor have the unit, and may this process use it?
pub fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| Limit::Amx.allows() && has_bf16() && has_unit() && permitted())
}

/// CPUID, leaf 7: EDX bit 22 is AMX-BF16, bit 24 AMX-TILE.
fn has_unit() -> bool {
    // SAFETY: every processor with AVX-512, which was found before, has this leaf. (Newer compilers call it safe.)
    #[allow(unused_unsafe)]
    let features = unsafe { __cpuid_count(7, 0) }.edx;
    features & (1 << 22) != 0 && features & (1 << 24) != 0
}

/// Asks Linux for the registers' state, which a process has to do once (`Documentation/arch/x86/xstate.rst`).
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    // SAFETY: the call takes two numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The shapes of the registers: eight of 16 lines of 64 bytes.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    line_bytes: [u16; 16],
    lines: [u8; 16],
}

static SHAPES: Shapes = Shapes {
    palette: 1,
    start: 0,
    reserved: [0; 14],
    line_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    lines: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// The sums of a block.
#[repr(C, align(64))]
struct Sums([f32; ROWS * PANEL]);

/// The product of [`super::bf16::linear`], for a depth that [`takes`] takes.
pub fn linear(job: &Product<'_>, pool: &Pool, x: &[f32], weight: &Pairs<'_>) {
    debug_assert!(takes(job.depth));
    let pairs = job.depth / 2;
    let mut rounded = pool.take(job.rows.next_multiple_of(ROWS) * pairs);
    let rounded: &mut [u32] = bytemuck::cast_slice_mut(&mut rounded);
    rounded.par_chunks_mut(ROWS * pairs).zip(x.par_chunks(ROWS * job.depth)).for_each(|(block, rows)| {
        // SAFETY: `available` has looked for AVX-512 with bfloat16.
        unsafe { round_block(rows, job.depth, block) };
    });
    let rounded: &[u32] = rounded;
    let n_panels = job.columns.div_ceil(PANEL);
    let fair = n_panels.div_ceil(2 * rayon::current_num_threads());
    let per_task = fair.min(CACHED / (4 * pairs * PANEL)).max(1);
    (0..n_panels.div_ceil(per_task)).into_par_iter().for_each(|task| {
        let panels = task * per_task..((task + 1) * per_task).min(n_panels);
        let mut made = None;
        let values = weight.of(job.isa, panels.clone(), pairs, pool, &mut made);
        // SAFETY: tasks own disjoint panels of `y`; shapes are those of `job`; `takes` has asked for the unit.
        unsafe { multiply(job, rounded, values, panels) };
    });
}

/// Rounds up to 32 rows of `depth` values into a block of tiles, `[step][half][16 rows][16 pairs]`; rows that are not there
/// become zero.
#[target_feature(enable = "avx512f,avx512bf16")]
fn round_block(rows: &[f32], depth: usize, block: &mut [u32]) {
    for (step, tiles) in block.chunks_exact_mut(STEP_LEN).enumerate() {
        for (row, out) in tiles.chunks_exact_mut(STEP).enumerate() {
            match rows.get(row * depth + step * 2 * STEP..row * depth + (step + 1) * 2 * STEP) {
                // SAFETY: `values` holds 32 of them, `out` 16 pairs.
                Some(values) => unsafe {
                    let [low, high] = [0, 16].map(|at| _mm512_loadu_ps(values.as_ptr().add(at)));
                    let pairs: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                    _mm512_storeu_si512(out.as_mut_ptr().cast(), pairs);
                },
                None => out.fill(0),
            }
        }
    }
}

/// Every row against some panels.
///
/// # Safety
/// The processor and the process have the unit; `y` is the caller's alone at these panels, whose values are `packed`; `x` is as
/// long as `job` says.
#[target_feature(enable = "avx512f")]
unsafe fn multiply(job: &Product<'_>, x: &[u32], packed: &[u32], panels: Range<usize>) {
    let pairs = job.depth / 2;
    let mut sums = Sums([0.0; ROWS * PANEL]);
    // SAFETY: the unit is there; the configuration is static.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(nostack, readonly)) };
    for (block, rows) in x.chunks_exact(ROWS * pairs).enumerate() {
        let row = block * ROWS;
        let m = ROWS.min(job.rows - row);
        for (panel, values) in panels.clone().zip(packed.chunks_exact(pairs * PANEL)) {
            let n = PANEL.min(job.columns - panel * PANEL);
            // SAFETY: both slices hold `pairs / 16` steps; the rest by the caller's promise.
            unsafe {
                multiply_block(rows, values, &mut sums);
                store(job, &sums, row, m, panel, n);
                job.finish(row, m, panel * PANEL, n);
            }
        }
    }
    // SAFETY: as above; leaves the registers as they were found.
    unsafe { asm!("tilerelease", options(nomem, nostack)) };
}

/// Assembles the innermost loop, with a prefetch of each of these bytes behind the panel's place two steps on: it streams from
/// the second-level cache.
macro_rules! block_loop {
    ([$($line:literal)*], $($operands:tt)*) => {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            $(concat!("prefetcht0 [{panel} + 4096 + ", $line, "]"),)*
            "tileloadd tmm6, [{panel} + {panel_line}]",
            "tileloadd tmm4, [{rows} + {row_line}]",
            "tileloadd tmm7, [{panel} + {panel_line} + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{rows} + {row_line} + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {rows}, 2048",
            "add {panel}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {panel_line}], tmm0",
            "tilestored [{sums} + {panel_line} + 64], tmm1",
            "tilestored [{sums} + {panel_line} + 2048], tmm2",
            "tilestored [{sums} + {panel_line} + 2112], tmm3",
            $($operands)*
        )
    };
}

/// 32 rows times 32 columns.
///
/// # Safety
/// The unit is configured by [`SHAPES`]; `rows` and `panel` hold the same number of whole steps, at least one.
#[inline(always)]
unsafe fn multiply_block(rows: &[u32], panel: &[u32], sums: &mut Sums) {
    debug_assert!(rows.len() == panel.len() && !rows.is_empty() && rows.len().is_multiple_of(STEP_LEN));
    // SAFETY: the loop reads `steps` blocks of 2 KiB of either and writes the sums; prefetches never fault.
    unsafe {
        block_loop!(
            [0 64 128 192 256 320 384 448 512 576 640 704 768 832 896 960 1024 1088 1152 1216 1280 1344 1408 1472 1536
             1600 1664 1728 1792 1856 1920 1984],
            rows = inout(reg) rows.as_ptr() => _,
            panel = inout(reg) panel.as_ptr() => _,
            steps = inout(reg) rows.len() / STEP_LEN => _,
            row_line = in(reg) 64usize,
            panel_line = in(reg) 4 * PANEL,
            sums = in(reg) sums.0.as_mut_ptr(),
            options(nostack),
        );
    }
}

/// `y := sums (+ y) (+ bias)` for `m` rows and `n` columns.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f")]
unsafe fn store(job: &Product<'_>, sums: &Sums, row: usize, m: usize, panel: usize, n: usize) {
    for half in 0..n.div_ceil(16) {
        let lanes = n - 16 * half;
        let mask: __mmask16 = if lanes >= 16 { u16::MAX } else { (1 << lanes) - 1 };
        let column = panel * PANEL + 16 * half;
        // SAFETY: biases are padded to whole panels; rows and lanes that `y` lacks are not touched.
        unsafe {
            let bias = job.bias.map_or(_mm512_setzero_ps(), |bias| _mm512_loadu_ps(bias[column..].as_ptr()));
            for (i, line) in sums.0.chunks_exact(PANEL).enumerate().take(m) {
                let y = job.y.get().add((row + i) * job.columns + column);
                let mut value = _mm512_add_ps(_mm512_loadu_ps(line[16 * half..].as_ptr()), bias);
                if job.load {
                    value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), value);
                }
                _mm512_mask_storeu_ps(y, mask, value);
            }
        }
    }
}

/// Steps of products in registers alone on one thread; returns its number of operations.
///
/// # Safety
/// The processor and the process have the unit.
pub unsafe fn products_in_registers(steps: usize) -> usize {
    // SAFETY: by the caller's promise; no memory but the configuration is read.
    unsafe {
        asm!(
            "ldtilecfg [{shapes}]",
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", "tilezero tmm4", "tilezero tmm6",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm4, tmm6",
            "tdpbf16ps tmm3, tmm4, tmm6",
            "dec {steps}",
            "jnz 2b",
            "tilerelease",
            shapes = in(reg) &raw const SHAPES,
            steps = inout(reg) steps => _,
            options(nostack, readonly),
        );
    }
    4 * 2 * 16 * 16 * 2 * STEP * steps
}
