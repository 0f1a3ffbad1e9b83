//! Matrix products: the packed product of the CPU backend beside the `gemm` crate's, and both beside the processor's
//! measured peak, alternating in one run.
//!
//! `cargo bench --bench products [-- --threads N]` prints GFLOP/s: median (slowest - fastest) of the repetitions.

use actpatch::backend::{Backend, CpuBackend, Dtype, Epilogue};
use actpatch::types::Matrix;
use std::hint::black_box;
use std::time::Instant;

/// (rows, inputs, outputs): the MLP of gpt2-small and of pythia-1.4b at 512 rows, a patched batch of 26 prompts, one
/// row per prompt, one row.
const SHAPES: [(usize, usize, usize); 6] =
    [(512, 768, 3072), (512, 3072, 768), (512, 2048, 8192), (338, 768, 768), (26, 768, 3072), (1, 768, 3072)];
const REPETITIONS: usize = 15;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|i| arguments.get(i + 1)?.parse().ok());
    let threads: usize = after("--threads").unwrap_or(2);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    pool.install(|| run(threads));
}

fn run(threads: usize) {
    let f32_backend = CpuBackend::new(Dtype::F32).expect("f32 runs everywhere");
    let bf16_backend = CpuBackend::new(Dtype::Bf16).ok();
    println!("{}", f32_backend.describe());
    println!("rows x inputs x outputs: GFLOP/s median (slowest - fastest), share of the f32 peak of the same run");
    for shape in SHAPES {
        let (rows, inputs, outputs) = shape;
        let flops = 2.0 * (rows * inputs * outputs) as f64;
        // Small products are repeated until a sample takes some milliseconds.
        let inner = (2e9 / flops).ceil().max(1.0) as usize;
        let mut packed = Product::new(&f32_backend, shape);
        let mut rounded = bf16_backend.as_ref().map(|backend| Product::new(backend, shape));
        let mut plain = Plain::new(shape, threads);
        let mut samples = [const { Vec::new() }; 4];
        for _ in 0..=REPETITIONS {
            samples[0].push(f32_backend.peak().expect("the processor's") / 1e9);
            samples[1].push(flops * inner as f64 / seconds(|| (0..inner).for_each(|_| packed.run())) / 1e9);
            samples[2].push(flops * inner as f64 / seconds(|| (0..inner).for_each(|_| plain.run())) / 1e9);
            if let Some(rounded) = &mut rounded {
                samples[3].push(flops * inner as f64 / seconds(|| (0..inner).for_each(|_| rounded.run())) / 1e9);
            }
        }
        let top = median(&samples[0]);
        print!("{rows:>4} x {inputs:>4} x {outputs:<5} peak {top:>4.0}");
        for (name, list) in ["packed", "gemm", "packed bf16"].iter().zip(&samples[1..]) {
            if !list.is_empty() {
                let (low, mid, high) = spread(list);
                print!(" | {name} {mid:>4.0} ({low:.0} - {high:.0}) {:>3.0} %", 100.0 * mid / top);
            }
        }
        let difference = packed.largest_difference(&plain);
        println!(" | packed / gemm {:.2} | difference {difference:.1e}", median(&samples[1]) / median(&samples[2]));
    }
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Slowest, median and fastest, without the first sample, which warms up.
fn spread(samples: &[f64]) -> (f64, f64, f64) {
    let mut sorted = samples[1..].to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1])
}

fn median(samples: &[f64]) -> f64 {
    spread(samples).1
}

/// Values that no processor treats specially, the same in every run.
fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0).collect()
}

/// A product with packed weights.
struct Product<'a> {
    backend: &'a CpuBackend,
    x: <CpuBackend as Backend>::Tensor,
    y: <CpuBackend as Backend>::Tensor,
    weight: <CpuBackend as Backend>::Weight,
}

impl<'a> Product<'a> {
    fn new(backend: &'a CpuBackend, (rows, inputs, outputs): (usize, usize, usize)) -> Self {
        let weight = Matrix::new(inputs, outputs, values(inputs * outputs, 2));
        Self {
            x: backend.upload(&values(rows * inputs, 1)).expect("host memory"),
            y: backend.tensor(rows * outputs).expect("host memory"),
            weight: backend.pack(&weight, &vec![0.0; outputs]).expect("host memory"),
            backend,
        }
    }

    fn run(&mut self) {
        self.backend.linear(&self.x, &self.weight, Epilogue::Store, &mut self.y).expect("a product");
        black_box(&self.y);
    }

    fn largest_difference(&self, other: &Plain) -> f32 {
        self.y.iter().zip(&other.y).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }
}

/// The same product through the `gemm` crate, with weights (out, in) as a checkpoint has them.
struct Plain {
    shape: (usize, usize, usize),
    x: Vec<f32>,
    weight: Vec<f32>,
    y: Vec<f32>,
    threads: usize,
}

impl Plain {
    fn new(shape: (usize, usize, usize), threads: usize) -> Self {
        let (rows, inputs, outputs) = shape;
        let weight = values(inputs * outputs, 2);
        let transposed =
            (0..outputs).flat_map(|j| weight.iter().skip(j).step_by(outputs).copied().collect::<Vec<_>>()).collect();
        Self { shape, x: values(rows * inputs, 1), weight: transposed, y: vec![0.0; rows * outputs], threads }
    }

    fn run(&mut self) {
        let (m, k, n) = self.shape;
        let [ki, ni] = [k as isize, n as isize];
        // SAFETY: the three matrices have the stated shapes and strides.
        unsafe {
            let (y, x, w) = (self.y.as_mut_ptr(), self.x.as_ptr(), self.weight.as_ptr());
            let parallel = gemm::Parallelism::Rayon(self.threads);
            gemm::gemm(m, n, k, y, 1, ni, false, x, 1, ki, w, ki, 1, 0.0, 1.0, false, false, false, parallel);
        }
        black_box(&self.y);
    }
}
