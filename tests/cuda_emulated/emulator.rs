//! Builds the emulated driver (tests/emulator) and puts it where the crate's driver calls find it.

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
}

/// Forwards, backwards, random.
pub const ORDERS: [i64; 3] = [0, 1, 2];

/// The emulated driver, loaded into this process.
pub struct Emulator(Library);

impl Emulator {
    /// Builds and loads the driver; without a C++ compiler says that the test is skipped.
    pub fn start() -> Option<&'static Self> {
        static LOADED: OnceLock<Option<Emulator>> = OnceLock::new();
        let loaded = LOADED.get_or_init(|| {
            // SAFETY: the library's initialisers do nothing but fill its own tables.
            built().map(|path| Self(unsafe { Library::new(path) }.expect("the emulated driver loads")))
        });
        if loaded.is_none() {
            println!("skipped: no C++ compiler (g++, or the one that CXX names) to build the emulated driver");
        }
        loaded.as_ref()
    }

    /// Changes a setting for kernels and calls of this thread.
    pub fn set(&self, setting: Setting, value: i64) {
        // SAFETY: the function has this type in tests/emulator/driver.cpp.
        unsafe {
            let set: Symbol<'_, unsafe extern "C" fn(i32, i64)> = self.0.get(b"emulator_set").unwrap();
            set(setting as i32, value);
        }
    }

    /// Allocations of device memory by this thread so far.
    pub fn allocations(&self) -> i64 {
        // SAFETY: as above.
        unsafe {
            let count: Symbol<'_, unsafe extern "C" fn() -> i64> = self.0.get(b"emulator_allocations").unwrap();
            count()
        }
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
        .args(["-std=c++17", "-O2", "-g1", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-shared", "-fPIC"])
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
