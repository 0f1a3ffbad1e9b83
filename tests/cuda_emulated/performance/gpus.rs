//! GPUs as their data sheets describe them, and how long one of their multiprocessors takes at least.

use crate::performance::figures::Figures;

/// Rates are dense, at the boost clock. Limits of a multiprocessor are those of the CUDA C++ Programming Guide, table
/// "Technical Specifications per Compute Capability".
#[derive(Debug)]
pub struct Gpu {
    pub name: &'static str,
    /// Compute capability, major * 10 + minor.
    pub capability: u32,
    multiprocessors: f64,
    /// Hertz.
    clock: f64,
    /// Tensor operations per second with f32 sums: TF32, and the 16-bit formats.
    tf32: f64,
    sixteen_bits: f64,
    /// What `mma.sync` reaches of them: `wgmma` alone reaches all on Hopper.
    synchronous_share: f64,
    /// Bytes per second of its memory.
    bandwidth: f64,
    /// Bytes of shared memory that the blocks of a multiprocessor share.
    shared: usize,
    warps: usize,
    blocks: usize,
}

/// `mma.sync` on an H100 by the measurements of Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU
/// Architecture via Microbenchmarking" (arXiv 2402.13499).
const HOPPER_SYNCHRONOUS: f64 = 0.62;

pub const GPUS: [Gpu; 4] = [
    // NVIDIA A100 Tensor Core GPU data sheet and architecture white paper: SXM, 80 GB.
    Gpu {
        name: "A100",
        capability: 80,
        multiprocessors: 108.0,
        clock: 1.41e9,
        tf32: 156e12,
        sixteen_bits: 312e12,
        synchronous_share: 1.0,
        bandwidth: 2.039e12,
        shared: 164 << 10,
        warps: 64,
        blocks: 32,
    },
    // NVIDIA Ada GPU Architecture white paper, appendix A.
    Gpu {
        name: "RTX 4090",
        capability: 89,
        multiprocessors: 128.0,
        clock: 2.52e9,
        tf32: 82.6e12,
        sixteen_bits: 165.2e12,
        synchronous_share: 1.0,
        bandwidth: 1.008e12,
        shared: 100 << 10,
        warps: 48,
        blocks: 24,
    },
    // NVIDIA H100 Tensor Core GPU data sheet and architecture white paper: SXM5; the clock is that of the tensor rates.
    Gpu {
        name: "H100",
        capability: 90,
        multiprocessors: 132.0,
        clock: 1.83e9,
        tf32: 494.7e12,
        sixteen_bits: 989.4e12,
        synchronous_share: HOPPER_SYNCHRONOUS,
        bandwidth: 3.35e12,
        shared: 228 << 10,
        warps: 64,
        blocks: 32,
    },
    // NVIDIA H200 Tensor Core GPU data sheet: an H100 with another memory.
    Gpu {
        name: "H200",
        capability: 90,
        multiprocessors: 132.0,
        clock: 1.83e9,
        tf32: 494.7e12,
        sixteen_bits: 989.4e12,
        synchronous_share: HOPPER_SYNCHRONOUS,
        bandwidth: 4.8e12,
        shared: 228 << 10,
        warps: 64,
        blocks: 32,
    },
];

/// What a kernel can reach at most on a GPU.
#[derive(Debug, PartialEq)]
pub struct Bound {
    /// Operations per second where the kernel multiplies on tensor cores, else bytes.
    pub rate: f64,
    /// What takes the longest.
    pub by: &'static str,
}

/// Registers of a multiprocessor; what warps get of them comes in this many; bytes that a block's shared memory costs
/// beside its own.
const REGISTERS: usize = 65_536;
const REGISTER_UNIT: usize = 256;
const RESERVED_SHARED: usize = 1 << 10;
const WARP: usize = 32;
const SCHEDULERS: f64 = 4.0;

impl Gpu {
    /// Blocks that a multiprocessor holds at a time.
    pub fn resident_blocks(&self, threads: usize, registers: usize, shared_bytes: usize) -> usize {
        let warps = threads.div_ceil(WARP);
        let of_warp = (registers * WARP).next_multiple_of(REGISTER_UNIT);
        let by_registers = REGISTERS / of_warp / warps;
        let by_shared = self.shared / (shared_bytes + RESERVED_SHARED);
        by_registers.min(by_shared).min(self.warps / warps).min(self.blocks)
    }

    /// A multiprocessor issues four instructions a cycle, passes on one wavefront of shared memory, and multiplies at its
    /// share of the data sheet's rate; the memory has its bandwidth. Latencies, the last wave of blocks and the cache
    /// between are left out, so a kernel reaches less. Products read what the cache holds: their arrays' bytes are
    /// few beside their arithmetic.
    pub fn bound(&self, figures: &Figures) -> Bound {
        let per_cycle = |rate: f64| rate / self.multiprocessors / self.clock;
        let multiplies = figures.tensor_operations > 0;
        let tensor_rate = if figures.sixteen_bits { self.sixteen_bits } else { self.tf32 };
        let bytes = figures.global_bytes as f64;
        let memory = if figures.kernel.starts_with("matmul") { 0.0 } else { bytes / per_cycle(self.bandwidth) };
        let code = figures.code_for(self.capability);
        let times = [
            ("issue", code.slots as f64 / SCHEDULERS),
            ("tensor cores", figures.tensor_operations as f64 / per_cycle(tensor_rate * self.synchronous_share)),
            ("shared memory", figures.wavefronts as f64),
            ("memory", memory),
        ];
        let (by, cycles) = times.into_iter().fold(times[0], |most, time| if time.1 > most.1 { time } else { most });
        let work = if multiplies { figures.flops as f64 } else { bytes };
        Bound { rate: work / cycles * self.clock * self.multiprocessors, by }
    }
}

#[test]
fn blocks_are_bound_by_registers_shared_memory_and_warps() {
    let [a100, rtx, h100, _] = &GPUS;
    // 230 registers are 232: one block of 8 warps takes 59,392 of 65,536.
    assert_eq!(h100.resident_blocks(256, 230, 71_680), 1);
    assert_eq!(h100.resident_blocks(256, 128, 71_680), 2);
    // 72 KiB each: 164 KiB hold two, 100 KiB one.
    assert_eq!([a100, rtx].map(|gpu| gpu.resident_blocks(128, 96, 72 << 10)), [2, 1]);
    assert_eq!([a100, rtx].map(|gpu| gpu.resident_blocks(256, 16, 0)), [8, 6]);
    assert_eq!([a100, rtx].map(|gpu| gpu.resident_blocks(32, 16, 0)), [32, 24]);
}
