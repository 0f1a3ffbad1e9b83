//! Kernels of the CUDA backend on a GPU: products beside cuBLASLt, norms and patches beside the measured copy bandwidth,
//! attention by itself (benches/gpu.sh sets PyTorch's beside it).
//!
//! `cargo bench --bench gpu --features cublaslt [-- --device N] [--tiny]`. Both sides run as CUDA graphs of many calls,
//! alternating, so that what is timed is the GPU. `--tiny` takes small shapes, for a trial under the emulator.

use actpatch::backend::{
    AttentionRow, Backend, Bases, Columns, CudaBackend, Dtype, Epilogue, Heads, KeyValues, Norm, NormKind, PatchRows,
    Result,
};
use actpatch::types::Matrix;
use cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig, MatmulShared, Workspace, sys};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaGraph, CudaSlice, CudaStream};
use half::{bf16, f16};
use std::sync::Arc;
use std::time::Instant;

const REPETITIONS: usize = 15;

/// (rows, inputs, outputs) of the products of GPT-2 small and Pythia-1.4b: queries, keys and values, into and out of the
/// MLP, at one patched batch of 26 prompts and at full batches.
const PRODUCTS: [(usize, usize, usize); 10] = [
    (494, 768, 768),
    (494, 768, 3072),
    (4096, 768, 768),
    (4096, 768, 3072),
    (4096, 3072, 768),
    (494, 2048, 8192),
    (4096, 2048, 2048),
    (4096, 2048, 4096),
    (4096, 2048, 8192),
    (4096, 8192, 2048),
];

/// (prompts, tokens, heads, width of a head).
const ATTENTIONS: [(usize, usize, usize, usize); 4] =
    [(216, 19, 12, 64), (216, 19, 16, 128), (64, 64, 16, 128), (8, 512, 16, 128)];

/// (rows, width) of norms and patches.
const ROWS: [(usize, usize); 3] = [(4096, 768), (4096, 2048), (16384, 2048)];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|i| arguments.get(i + 1)?.parse().ok());
    let (device, tiny) = (after("--device").unwrap_or(0), arguments.iter().any(|argument| argument == "--tiny"));
    if let Err(error) = run(device, tiny) {
        println!("{error}");
        std::process::exit(1);
    }
}

fn run(device: usize, tiny: bool) -> Result<()> {
    for dtype in Dtype::ALL {
        let backend = match CudaBackend::new(device, dtype) {
            Err(actpatch::backend::BackendError::NoDriver) => {
                println!("skipped: no CUDA driver");
                return Ok(());
            }
            backend => backend?,
        };
        println!("{}", backend.describe());
        let products = if tiny { &[(19, 24, 40)][..] } else { &PRODUCTS };
        let peer = CublasLt::new(device).map_err(|error| println!("cuBLASLt cannot be measured: {error}")).ok();
        for &shape in products {
            product(&backend, dtype, shape, peer.as_ref())?;
        }
        if dtype == Dtype::F32 {
            rows(&backend, if tiny { &[(8, 32)] } else { &ROWS })?;
            attentions(&backend, if tiny { &[(2, 5, 2, 16)] } else { &ATTENTIONS })?;
        }
    }
    Ok(())
}

/// Seconds of one of `count` calls of `work`, each a run of a CUDA graph. The first run of three makes the arrays, the
/// second the graph.
struct Timed<'a> {
    backend: &'a CudaBackend,
    recording: <CudaBackend as Backend>::Recording,
    mark: <CudaBackend as Backend>::Tensor,
    count: usize,
}

impl<'a> Timed<'a> {
    fn new(backend: &'a CudaBackend, count: usize) -> Result<Self> {
        Ok(Self { recording: Default::default(), mark: backend.upload(&[0.0])?, backend, count })
    }

    fn seconds(&mut self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        let start = Instant::now();
        self.backend.repeat(&mut self.recording, || {
            (0..self.count).try_for_each(|_| work())?;
            self.backend.download(&self.mark)
        })?;
        Ok(start.elapsed().as_secs_f64() / self.count as f64)
    }

    fn median(&mut self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        let samples = (0..REPETITIONS + 3).map(|_| self.seconds(&mut work)).collect::<Result<Vec<f64>>>()?;
        Ok(median(&samples[3..]))
    }
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Calls in a graph of about 5 ms at `rate` operations or bytes per second.
fn calls(work: f64, rate: f64) -> usize {
    (5e-3 * rate / work).clamp(1.0, 200.0) as usize
}

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0).collect()
}

fn product(
    backend: &CudaBackend,
    dtype: Dtype,
    (rows, inputs, outputs): (usize, usize, usize),
    peer: Option<&CublasLt>,
) -> Result<()> {
    let flops = 2.0 * (rows * inputs * outputs) as f64;
    let x = backend.upload(&values(rows * inputs, 1))?;
    let weight = backend.pack(&Matrix::new(inputs, outputs, values(inputs * outputs, 2)), &vec![0.0; outputs])?;
    let mut y = backend.tensor(rows * outputs)?;
    let count = calls(flops, if dtype.weight_bytes() == 4 { 1e14 } else { 4e14 });
    let mut timed = Timed::new(backend, count)?;
    let shape = (rows, inputs, outputs);
    let mut peers: Vec<_> = peer.into_iter().flat_map(|peer| peer.products(dtype, shape, count)).collect();
    let mut ours = Vec::new();
    for _ in 0..REPETITIONS + 3 {
        ours.push(timed.seconds(|| backend.linear(&x, &weight, Epilogue::Store, &mut y))?);
        peers.iter_mut().for_each(PeerProduct::sample);
    }
    let rate = |samples: &[f64]| flops / median(&samples[3..]) / 1e12;
    print!("{rows:>5} x {inputs:>4} x {outputs:<5} {dtype:>4}: {:>7.2} TFLOP/s", rate(&ours));
    for PeerProduct { name, graph, samples } in &peers {
        match graph {
            Ok(_) => print!(" | {name} {:>7.2}, share {:>3.0} %", rate(samples), 100.0 * rate(&ours) / rate(samples)),
            Err(error) => print!(" | {name} fails: {error}"),
        }
    }
    println!();
    Ok(())
}

/// Norms and patches: the bytes they must move, beside a plain copy of the same array.
fn rows(backend: &CudaBackend, shapes: &[(usize, usize)]) -> Result<()> {
    for &(rows, width) in shapes {
        let array = (rows * width * 4) as f64;
        let x = backend.upload(&values(rows * width, 1))?;
        let mut y = backend.tensor(rows * width)?;
        let all: Vec<u32> = (0..rows as u32).collect();
        let indices = backend.upload_indices(&all)?;
        let basis = backend.upload_indices(&vec![0; rows])?;
        let direction = backend.upload(&values(width, 3))?;
        let timed = |work: &mut dyn FnMut() -> Result<()>| Timed::new(backend, calls(2.0 * array, 2e12))?.median(work);
        let copy = 2.0 * array / timed(&mut || backend.copy_into(&x, &mut y, 0))?;
        println!("{rows} x {width}: copy {:.0} GB/s", copy / 1e9);
        let norm = Norm { kind: NormKind::Layer, width, eps: 1e-5, gain: None, bias: None };
        let show = |name: &str, bytes: f64, seconds: f64| {
            println!(
                "  {name}: {:.0} GB/s, {:.0} % of the copy",
                bytes / seconds / 1e9,
                100.0 * bytes / seconds / copy
            );
        };
        show("layer_norm", 2.0 * array, timed(&mut || backend.layer_norm(&x, &norm, &mut y))?);
        show("layer_norm_backward", 4.0 * array, timed(&mut || backend.layer_norm_backward(&x, &x, &norm, &mut y))?);
        let columns = Columns::all(width);
        let patched = || PatchRows { target: &indices, source: &indices };
        let seconds = timed(&mut || backend.patch_replace(&mut y, columns, &x, columns, patched()))?;
        show("patch_replace", 2.0 * array, seconds);
        let bases = || Bases { directions: &direction, k: 1, basis: &basis };
        let seconds = timed(&mut || backend.patch_swap(&mut y, columns, &x, columns, patched(), bases()))?;
        show("patch_swap", 3.0 * array, seconds);
    }
    Ok(())
}

/// Causal attention of equal rows, in the arithmetic of the visible half.
fn attentions(backend: &CudaBackend, shapes: &[(usize, usize, usize, usize)]) -> Result<()> {
    for &(prompts, tokens, count, width) in shapes {
        let heads = Heads { count, kv_count: count, width, scale: 1.0 / (width as f32).sqrt(), window: None };
        let row = |prompt: usize| AttentionRow {
            query_start: prompt * tokens,
            n_queries: tokens,
            key_start: prompt * tokens,
            n_keys: tokens,
            prefix_start: 0,
            n_prefix: 0,
            pattern_start: 0,
        };
        let rows = backend.upload_attention_rows(&(0..prompts).map(row).collect::<Vec<_>>())?;
        let all = prompts * tokens;
        let q = backend.upload(&values(all * count * width, 1))?;
        let kv = backend.upload(&values(all * heads.kv_stride(), 2))?;
        let mut z = backend.tensor(all * count * width)?;
        let flops = 4.0 * (prompts * count * width * tokens * (tokens + 1) / 2) as f64;
        let mut timed = Timed::new(backend, calls(flops, 1e13))?;
        let seconds = timed.median(|| {
            let kv = KeyValues { own: &kv, prefix: None };
            backend.attention(&q, kv, &rows, heads, &mut z, None)
        })?;
        println!(
            "attention {prompts} x {tokens}, {count} heads of {width}: {:.1} us, {:.2} TFLOP/s",
            1e6 * seconds,
            flops / seconds / 1e12
        );
    }
    Ok(())
}

/// cuBLASLt on a stream of its own.
struct CublasLt {
    stream: Arc<CudaStream>,
    handle: CudaBlasLT,
}

impl CublasLt {
    fn new(device: usize) -> Tried<Self> {
        // SAFETY: looks for the library.
        if !unsafe { cudarc::cublaslt::sys::is_culib_present() } {
            return Err("its library is not found".into());
        }
        let context = CudaContext::new(device)?;
        // SAFETY: one stream uses all that is made here. Arrays would otherwise carry events from before a capture, which
        // may not wait for them.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        Ok(Self { handle: CudaBlasLT::new(stream.clone())?, stream })
    }

    /// Graphs of `count` products each, in the formats to compare with: f32 products as PyTorch does them by default, and
    /// as TF32, which is less exact than ours.
    fn products(&self, dtype: Dtype, shape: (usize, usize, usize), count: usize) -> Vec<PeerProduct> {
        let (rows, inputs, outputs) = shape;
        let (x, w) = (values(rows * inputs, 1), values(inputs * outputs, 2));
        let tf32 = || ("cuBLASLt tf32", self.captured(&self.handle, &x, &w, shape, count));
        let products = match dtype {
            Dtype::F32 => vec![("cuBLASLt f32", self.captured(&TrueF32(&self.handle), &x, &w, shape, count)), tf32()],
            Dtype::Tf32 => vec![tf32()],
            Dtype::Bf16 => {
                let [x, w] = [&x, &w].map(|values| values.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>());
                vec![("cuBLASLt bf16", self.captured(&self.handle, &x, &w, shape, count))]
            }
            Dtype::F16 => {
                let [x, w] = [&x, &w].map(|values| values.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>());
                vec![("cuBLASLt f16", self.captured(&self.handle, &x, &w, shape, count))]
            }
        };
        products.into_iter().map(|(name, graph)| PeerProduct { name, graph, samples: Vec::new() }).collect()
    }

    /// Row-major `y = x W` is column-major `yᵀ = Wᵀ xᵀ`.
    fn captured<T>(
        &self,
        library: &impl Matmul<T>,
        x: &[T],
        w: &[T],
        (rows, inputs, outputs): (usize, usize, usize),
        count: usize,
    ) -> Tried<Captured>
    where
        T: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits + 'static,
    {
        let (x, w) = (self.stream.clone_htod(x)?, self.stream.clone_htod(w)?);
        let mut y: CudaSlice<T> = self.stream.alloc_zeros(rows * outputs)?;
        let config = || MatmulConfig {
            transa: false,
            transb: false,
            transc: false,
            m: outputs as u64,
            n: rows as u64,
            k: inputs as u64,
            alpha: 1.0,
            lda: outputs as i64,
            ldb: inputs as i64,
            beta: 0.0,
            ldc: outputs as i64,
            stride_a: None,
            stride_b: None,
            stride_c: None,
            stride_bias: None,
            batch_size: None,
        };
        // SAFETY: the shapes are those of the arrays.
        let mut call = || unsafe { library.matmul(config(), &w, &x, &mut y, None, None) };
        // Once outside of the capture: the library sets itself up.
        call()?;
        self.stream.synchronize()?;
        self.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)?;
        let called = (0..count).try_for_each(|_| call());
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0))?;
        called?;
        let graph = graph.ok_or("the driver made no graph")?;
        Ok(Captured { graph, stream: self.stream.clone(), count, _held: Box::new((x, w, y)) })
    }
}

/// The library's f32 products without TF32.
struct TrueF32<'a>(&'a CudaBlasLT);

impl MatmulShared for TrueF32<'_> {
    fn handle(&self) -> &sys::cublasLtHandle_t {
        self.0.handle()
    }

    fn workspace(&self) -> &Workspace {
        self.0.workspace()
    }

    fn stream(&self) -> &Arc<CudaStream> {
        self.0.stream()
    }
}

impl Matmul<f32> for TrueF32<'_> {
    fn matrix_type() -> sys::cudaDataType {
        sys::cudaDataType_t::CUDA_R_32F
    }

    fn compute_type() -> sys::cublasComputeType_t {
        sys::cublasComputeType_t::CUBLAS_COMPUTE_32F
    }
}

/// What comes of a call of another library.
type Tried<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A graph of several products, and the arrays that it works on.
struct Captured {
    graph: CudaGraph,
    stream: Arc<CudaStream>,
    count: usize,
    _held: Box<dyn std::any::Any>,
}

impl Captured {
    fn seconds(&self) -> Tried<f64> {
        let start = Instant::now();
        self.graph.launch()?;
        self.stream.synchronize()?;
        Ok(start.elapsed().as_secs_f64() / self.count as f64)
    }
}

struct PeerProduct {
    name: &'static str,
    graph: Tried<Captured>,
    /// Seconds of a product.
    samples: Vec<f64>,
}

impl PeerProduct {
    fn sample(&mut self) {
        let Ok(graph) = &self.graph else { return };
        match graph.seconds() {
            Ok(seconds) => self.samples.push(seconds),
            Err(error) => self.graph = Err(error),
        }
    }
}
