//! Builds the emulated driver (tests/emulator) and puts it where the crate's driver calls find it. With
//! `ACTPATCH_TEST_GPU` in the environment (tests/gpu_bundle.sh) the machine's own driver and GPU take its place.

use actpatch::backend::{CudaBackend, Dtype};
use libloading::{Library, Symbol};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// What can be set, as tests/emulator/driver.cpp numbers it.
#[derive(Debug, Clone, Copy)]
pub enum Setting {
    /// Order in which threads run.
    Order = 0,
    /// Number of GPUs.
    Devices = 2,
    /// Compute capability, major * 10 + minor.
    Capability = 3,
    /// Bytes of memory.
    Memory = 4,
    /// 1: the driver refuses all PTX as too new.
    RefusePtx = 5,
    /// 1: every launch fails.
    FailLaunch = 6,
    /// Newest CUDA that the driver knows, major * 1000 + minor * 10.
    Version = 7,
    /// Launches until the last GPU stops working; negative: it never does.
    LaunchesLeft = 8,
    /// 1: what is loaded from now on runs as PTX.
    Interpret = 9,
    /// Of tensor cores: 0 to nearest, 1 as an H100.
    Sums = 10,
    /// 1: PTX's fused products and sums are rounded once, 0: twice, as where the sources are compiled here.
    Fused = 11,
    /// 1: freed memory stays the driver's pool's until that is trimmed.
    KeepsFreed = 12,
    /// 1: that a GPU has stopped working shows when the host waits for it.
    Late = 13,
}

/// What the driver counts per thread, as tests/emulator/driver.cpp numbers it.
#[derive(Debug, Clone, Copy)]
pub enum Counter {
    /// Of device and of page-locked memory.
    Allocations = 0,
    /// Of kernels, outside of graphs.
    Launches = 1,
    GraphLaunches = 2,
    /// Times at which the host waited.
    Synchronisations = 3,
    /// Copies between the device and memory that is not page-locked.
    PageableCopies = 4,
    /// Bytes of the GPUs' memory that this thread holds.
    BytesInUse = 5,
}

/// Forwards, backwards, random.
pub const ORDERS: [i64; 3] = [0, 1, 2];

/// The emulated driver, loaded into this process; or none, for a real GPU.
pub struct Emulator(Option<Library>);

impl Emulator {
    /// Builds and loads the driver; without a C++ compiler says that the test is skipped.
    pub fn start() -> Option<&'static Self> {
        static LOADED: OnceLock<Option<Emulator>> = OnceLock::new();
        let loaded = LOADED.get_or_init(|| {
            if std::env::var_os("ACTPATCH_TEST_GPU").is_some() {
                return Some(Self(None));
            }
            // SAFETY: the library's initialisers do nothing but fill its own tables.
            let library = built().map(|path| unsafe { Library::new(path) }.expect("the emulated driver loads"))?;
            // SAFETY: the function has this type in tests/emulator/driver.cpp, and the table is there for good.
            unsafe {
                let interpreter: Symbol<'_, unsafe extern "C" fn(&'static ptx::Interpreter)> =
                    library.get(b"emulator_interpreter").unwrap();
                interpreter(&ptx::INTERPRETER);
            }
            Some(Self(Some(library)))
        });
        if loaded.is_none() {
            println!("skipped: no C++ compiler (g++, or the one that CXX names) to build the emulated driver");
        }
        loaded.as_ref()
    }

    /// As [`Emulator::start`] for tests that need its settings and counters: they are skipped on a real GPU.
    pub fn alone() -> Option<&'static Self> {
        Self::start().filter(|emulator| emulator.0.is_some())
    }

    /// Changes a setting for kernels and calls of this thread. A real GPU has an order of its own.
    pub fn set(&self, setting: Setting, value: i64) {
        let Some(library) = &self.0 else { return };
        // SAFETY: the function has this type in tests/emulator/driver.cpp.
        unsafe {
            let set: Symbol<'_, unsafe extern "C" fn(i32, i64)> = library.get(b"emulator_set").unwrap();
            set(setting as i32, value);
        }
    }

    /// What this thread has done so far.
    pub fn count(&self, counter: Counter) -> i64 {
        let library = self.0.as_ref().expect("a real GPU does not count");
        // SAFETY: as above.
        unsafe {
            let count: Symbol<'_, unsafe extern "C" fn(i32) -> i64> = library.get(b"emulator_count").unwrap();
            count(counter as i32)
        }
    }

    /// How often `work` does each of these.
    pub fn counts<const N: usize>(&self, counters: [Counter; N], work: impl FnOnce()) -> [i64; N] {
        let before = counters.map(|counter| self.count(counter));
        work();
        std::array::from_fn(|i| self.count(counters[i]) - before[i])
    }

    /// A backend on the emulated GPU.
    pub fn backend(&self, dtype: Dtype) -> CudaBackend {
        CudaBackend::new(0, dtype).expect("the emulated GPU opens")
    }
}

/// Where the built driver is, for programs that are started with it preloaded.
pub fn library() -> PathBuf {
    let flags = std::env::var("EMULATOR_FLAGS").unwrap_or_default();
    let name: String = flags.chars().filter(char::is_ascii_alphanumeric).collect();
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("libcuda_emulated{name}.so"))
}

/// Builds the driver unless it is newer than all its sources. The soname makes the crate's own search find it.
fn built() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (emulator, kernels) = (root.join("tests/emulator"), root.join("kernels"));
    let library = library();
    let changed = |path: &Path| path.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let sources = [&emulator, &kernels].map(|folder| std::fs::read_dir(folder).unwrap().flatten());
    let newest = sources.into_iter().flatten().map(|file| changed(&file.path())).max();
    if library.exists() && newest <= Some(changed(&library)) {
        return Some(library);
    }
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    Command::new(&compiler).arg("--version").output().ok()?;
    let scratch = library.with_extension(format!("{}.so", std::process::id()));
    let output = Command::new(compiler)
        // Products and sums are rounded apart on every processor: what the PTX is compared with bit for bit.
        .args([
            "-std=c++17",
            "-O2",
            "-ffp-contract=off",
            "-g1",
            "-Wall",
            "-Wextra",
            "-Wno-unknown-pragmas",
            "-shared",
            "-fPIC",
        ])
        .args(std::env::var("EMULATOR_FLAGS").unwrap_or_default().split_whitespace())
        .args(["-Wl,-soname,libcuda.so", "-I"])
        .arg(&emulator)
        .arg("-I")
        .arg(&kernels)
        .arg("-o")
        .arg(&scratch)
        .arg(emulator.join("driver.cpp"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(scratch, &library).unwrap();
    Some(library)
}

/// `len` values in [-1, 1), a different sequence for every seed.
pub fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}
