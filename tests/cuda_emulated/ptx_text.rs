//! The committed PTX itself, run by the interpreter of tests/ptx in place of the kernels' sources: the same comparisons
//! with the CPU, and bit for bit with the sources where both round alike.

use crate::emulator::{Emulator, Setting};
use crate::ops::*;
use crate::{engine, ops};
use actpatch::backend::cuda::Tile;
use actpatch::backend::{Backend, Dtype, NormKind};

/// From now on this thread's GPU runs PTX.
fn interpreted(test: fn()) {
    let Some(emulator) = Emulator::alone() else { return };
    emulator.set(Setting::Interpret, 1);
    test();
    assert!(!ptx::counted().is_empty(), "no PTX was run");
}

macro_rules! on_ptx {
    ($($module:ident::$test:ident)*) => {
        $(
            #[test]
            fn $test() {
                interpreted($module::$test);
            }
        )*
    };
}

on_ptx! {
    ops::norms
    ops::f32_products
    ops::products_of_other_formats_are_those_of_rounded_factors
    ops::products_round_what_goes_in_and_f16_overflows
    ops::rotations
    ops::attention_of_all_shapes
    ops::attention_in_other_formats_is_close
    ops::activations_and_gates
    ops::rows_and_patches
    ops::the_gradient_of_a_swap
    ops::logits_and_log_sums
    ops::rotations_in_training
    ops::a_gradient_that_is_not_finite_moves_nothing
    engine::whole_passes_equal_those_of_the_cpu
    engine::resumed_and_patched_passes_and_gradients_equal_those_of_the_cpu
    engine::das_fits_equal_those_of_the_cpu
    engine::attributions_and_attention_equal_those_of_the_cpu
    engine::growing_texts_equal_those_of_the_cpu
}

/// What the sources give and what the PTX gives, under one rounding of sums. Products and the sums that take them are
/// rounded apart, as the sources' are here; the tensor cores' own sums are of the kind asked for.
fn both(case: &impl Case, (dtype, tile): (Dtype, Tile), sums: i64) -> Option<[Vec<Vec<u32>>; 2]> {
    let emulator = Emulator::alone()?;
    emulator.set(Setting::Sums, sums);
    emulator.set(Setting::Fused, 0);
    let found = [0, 1].map(|interpret| {
        emulator.set(Setting::Interpret, interpret);
        let outputs = case.run(&emulator.backend(dtype).with_tile(tile)).unwrap();
        outputs.into_iter().map(|output| output.into_iter().map(f32::to_bits).collect()).collect()
    });
    Some(found)
}

fn same(what: &str, case: &impl Case, products: (Dtype, Tile), sums: i64) {
    let Some([sources, text]) = both(case, products, sums) else { return };
    for (output, (sources, text)) in sources.iter().zip(&text).enumerate() {
        let differs = sources.iter().zip(text).position(|(a, b)| a != b);
        let values = differs.map(|i| (i, f32::from_bits(sources[i]), f32::from_bits(text[i])));
        assert_eq!(values, None, "{what}: value of output {output}, by the sources and by the PTX");
    }
}

const FORMATS: [Dtype; 4] = [Dtype::F32, Dtype::Tf32, Dtype::Bf16, Dtype::F16];

/// The epilogue that computes exponentials is left out.
struct PlainProduct(ProductCase);

impl Case for PlainProduct {
    fn run<B: Backend>(&self, backend: &B) -> actpatch::backend::Result<Vec<Vec<f32>>> {
        let mut outputs = self.0.run(backend)?;
        // Stored, accumulated, before the activation, gradient.
        outputs.remove(4);
        outputs.remove(2);
        Ok(outputs)
    }
}

#[test]
fn products_have_the_bits_of_the_sources() {
    for dtype in FORMATS {
        for sums in [0, 1] {
            for (rows, inputs, outputs) in PRODUCTS {
                let product = PlainProduct(ProductCase { rows, inputs, outputs, dtype });
                let tile = if rows < Tile::Large as usize { Tile::Small } else { Tile::Large };
                same(&format!("{rows} x {inputs} x {outputs} in {dtype}, sums {sums}"), &product, (dtype, tile), sums);
            }
        }
    }
}

#[test]
fn what_needs_no_exponential_has_the_bits_of_the_sources() {
    for (kind, width) in [(NormKind::Layer, 130), (NormKind::Rms, 33), (NormKind::Layer, 64)] {
        let case = NormCase { rows: 5, width, kind, gain: true, bias: true };
        same(&format!("{kind:?} norm of {width}"), &case, (Dtype::F32, Tile::Small), 0);
    }
    for (width, half, inverse) in [(10, 4, true), (12, 4, false)] {
        same("rotary", &RotaryCase { width, half, inverse }, (Dtype::F32, Tile::Small), 0);
    }
    for (width, k) in [(1, 1), (13, 3), (40, 1), (20, 2)] {
        same("patches", &RowsCase { width, k }, (Dtype::F32, Tile::Small), 0);
        same("gradient of a swap", &SwapGradientCase { width, k }, (Dtype::F32, Tile::Small), 0);
    }
    for (d, k, degree, size) in ROTATIONS {
        same("rotation", &RotationCase { d, k, degree, size }, (Dtype::F32, Tile::Small), 0);
    }
}
