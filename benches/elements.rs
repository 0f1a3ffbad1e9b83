//! Operations without products on the CPU backend: the bytes that they must move, beside a plain copy of the same arrays,
//! alternating in one run.
//!
//! `cargo bench --bench elements [-- --threads N]` prints GB/s, median (slowest - fastest), and the share of the copy.

use actpatch::backend::{Backend, CpuBackend, Dtype, Norm, NormKind, Result};
use actpatch::bench::Spread;
use actpatch::types::Activation;
use rayon::prelude::*;
use std::time::Instant;

type Tensor = <CpuBackend as Backend>::Tensor;

/// (rows, width): the MLP of gpt2-small in a patched batch of 26 prompts, which caches hold, and in a full batch, which they
/// do not.
const SHAPES: [(usize, usize); 2] = [(338, 3072), (8192, 3072)];
const REPETITIONS: usize = 15;
/// Values that a thread copies at a time.
const CHUNK: usize = 16_384;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|i| arguments.get(i + 1)?.parse().ok());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(after("--threads").unwrap_or(2)).build();
    pool.expect("a thread pool").install(run)
}

fn run() -> Result<()> {
    let backend = CpuBackend::new(Dtype::F32)?;
    println!("{}", backend.describe());
    for (rows, width) in SHAPES {
        println!("{rows} x {width}: GB/s median (slowest - fastest), share of the copy");
        let mut arrays = Arrays::new(&backend, rows * width)?;
        for kind in [NormKind::Layer, NormKind::Rms] {
            let norm = Norm { kind, width, eps: 1e-5, gain: None, bias: None };
            arrays.show(&format!("{kind:?} norm"), 2, |[x, _], [y, _]| backend.layer_norm(x, &norm, y))?;
            let name = format!("{kind:?} norm, backward");
            arrays.show(&name, 4, |[x, dy], [dx, _]| backend.layer_norm_backward(dy, x, &norm, dx))?;
        }
        for f in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu] {
            arrays.show(&format!("{f:?}"), 2, |[x, _], [y, _]| backend.activate(f, x, y))?;
            arrays.show(&format!("{f:?}, backward"), 3, |[x, _], [dy, _]| backend.activate_backward(f, x, dy))?;
            arrays.show(&format!("{f:?} gate"), 3, |[gate, _], [y, _]| backend.gate(f, gate, y))?;
            let name = format!("{f:?} gate, backward");
            arrays.show(&name, 5, |[gate, value], [dy, d_gate]| backend.gate_backward(f, gate, value, dy, d_gate))?;
        }
        arrays.show("sum", 3, |[x, _], [y, _]| backend.add(x, y))?;
    }
    Ok(())
}

/// Two arrays to read and two to write.
struct Arrays<'a> {
    backend: &'a CpuBackend,
    read: [Tensor; 2],
    written: [Tensor; 2],
}

impl<'a> Arrays<'a> {
    fn new(backend: &'a CpuBackend, len: usize) -> Result<Self> {
        let filled = |seed| backend.upload(&values(len, seed));
        Ok(Self { backend, read: [filled(1)?, filled(2)?], written: [filled(3)?, filled(4)?] })
    }

    /// Times work that moves so many arrays.
    fn show(
        &mut self,
        name: &str,
        moved: usize,
        work: impl Fn([&Tensor; 2], [&mut Tensor; 2]) -> Result<()>,
    ) -> Result<()> {
        let bytes = (4 * self.backend.len(&self.read[0])) as f64;
        let mut rates = [const { Vec::new() }; 2];
        for repetition in 0..=REPETITIONS {
            let [first, second] = &mut self.written;
            let start = Instant::now();
            // What the work changes is the same in every repetition.
            first
                .par_chunks_mut(CHUNK)
                .zip(self.read[1].par_chunks(CHUNK))
                .for_each(|(to, from)| to.copy_from_slice(from));
            let middle = Instant::now();
            work(self.read.each_ref(), [first, second])?;
            let end = Instant::now();
            if repetition > 0 {
                rates[0].push(2.0 * bytes / (middle - start).as_secs_f64() / 1e9);
                rates[1].push(moved as f64 * bytes / (end - middle).as_secs_f64() / 1e9);
            }
        }
        // Of rates, the lowest is the slowest.
        let [copy, rate] = rates.map(|list| Spread::of(&list).expect("repetitions"));
        let share = 100.0 * rate.median / copy.median;
        println!("{name:<24} {:>6.1} ({:.1} - {:.1}) {share:>4.0} %", rate.median, rate.fastest, rate.slowest);
        Ok(())
    }
}

/// Values from -3 to 3, the same in every run.
fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 333.5 - 3.0).collect()
}
