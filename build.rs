//! Puts the kernels' PTX where the crate embeds it, and tells the crate its commit (`ACTPATCH_COMMIT`).
//!
//! 1. `kernels/ptx/*.ptx`, made by the pinned compiler, is used when `SOURCES.sum` says that it belongs to these very
//!    sources: no nvcc, no GPU, no network.
//! 2. Edited sources are compiled with nvcc (from `NVCC`, `PATH`, `CUDA_HOME`, `CUDA_PATH`, `/usr/local/cuda`);
//!    `PTX_UPDATE=1` also writes the result back to `kernels/ptx`.
//! 3. Edited sources and no nvcc: an error that says how to get one.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

/// A kernel file and the virtual architecture it is compiled for.
#[derive(Debug)]
struct Kernel {
    name: &'static str,
    /// Compute capability, major * 10 + minor: every GPU from it on runs the result.
    capability: u32,
    /// Lowest PTX version that has all the file uses, so that older drivers load it; ptxas checks it (tests/ptxas.sh).
    ptx_version: &'static str,
}

const fn ampere(name: &'static str) -> Kernel {
    Kernel { name, capability: 80, ptx_version: "7.0" }
}

/// A second entry of the same name with a higher capability would be taken on GPUs from that capability on. (PTX for
/// `compute_90a` runs on 9.0 alone: its entry would also need an upper end in `load_module`.)
const KERNELS: [Kernel; 9] = [
    ampere("activation"),
    ampere("attention"),
    ampere("attention_backward"),
    ampere("layer_norm"),
    ampere("logits"),
    ampere("matmul"),
    ampere("rotary"),
    ampere("rotation"),
    ampere("rows"),
];

const FLAGS: [&str; 2] = ["-O3", "-std=c++17"];

/// The compiler whose PTX is committed: a later one writes PTX that older drivers refuse.
const NVCC_RELEASE: &str = "13.0";

const NO_NVCC: &str = "the sources in kernels/ were edited, kernels/ptx was not made from them, and there is no nvcc. \
    To get one without a system installation: \
    pip install --target .cuda 'cuda-toolkit[nvcc,cudart,crt,nvvm,cccl]==13.0.2', then set \
    NVCC=.cuda/nvidia/cu13/bin/nvcc (or build with --no-default-features: no GPU, no kernels)";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "PTX_UPDATE"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rustc-env=ACTPATCH_COMMIT={}", commit());
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return ExitCode::SUCCESS;
    }
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

/// The commit that is built, with `-dirty` behind it when files differ from it; `unknown` outside the repository and in
/// debug builds, which would otherwise be compiled anew after every commit.
fn commit() -> String {
    if env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
        return "unknown".into();
    }
    let git = |arguments: &[&str]| run(Command::new("git").args(arguments)).map(|text| text.trim().to_owned());
    // A copy of the sources inside another project's repository has not that one's commit.
    let root = git(&["rev-parse", "--show-toplevel"]).ok().and_then(|root| fs::canonicalize(root).ok());
    if root.is_none() || root != folder("CARGO_MANIFEST_DIR").ok().and_then(|here| fs::canonicalize(here).ok()) {
        return "unknown".into();
    }
    // HEAD changes with the branch, its log with every commit.
    let changing = ["HEAD", "logs/HEAD"].map(|name| git(&["rev-parse", "--git-path", name]));
    // A path that is not there would run this script, and compile the crate, every time.
    let watched = changing.into_iter().flatten().chain(["src".into(), "data".into(), "Cargo.toml".into()]);
    watched.filter(|path| Path::new(path).exists()).for_each(|path| println!("cargo::rerun-if-changed={path}"));
    git(&["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]).unwrap_or_else(|_| "unknown".into())
}

fn folder(variable: &str) -> Result<PathBuf, String> {
    env::var_os(variable).map(PathBuf::from).ok_or_else(|| format!("{variable} is not set: run this through cargo"))
}

/// Writes `ptx.rs`, a list of (name, capability, text).
fn embed() -> Result<(), String> {
    let (sources, out) = (folder("CARGO_MANIFEST_DIR")?.join("kernels"), folder("OUT_DIR")?);
    let committed = sources.join("ptx");
    let sum = format!("{:016x}", source_sum(&sources)?);
    let fresh = fs::read_to_string(committed.join("SOURCES.sum")).is_ok_and(|stored| stored.trim() == sum);
    let update = env::var_os("PTX_UPDATE").is_some();
    let from = if fresh && !update {
        committed
    } else {
        let nvcc = find_nvcc().ok_or(NO_NVCC)?;
        compile_all(&nvcc, &sources, &out)?;
        if update {
            write_back(&out, &committed, &sum)?;
        } else {
            println!("cargo::warning=kernels/ptx is older than kernels/: run with PTX_UPDATE=1 before you commit");
        }
        out.clone()
    };
    let mut list = String::from("&[\n");
    for Kernel { name, capability, .. } in &KERNELS {
        let path = from.join(file_name(name, *capability));
        list += &format!("    ({name:?}, {capability}, include_str!({path:?})),\n");
    }
    write(&out.join("ptx.rs"), &(list + "]\n"))
}

fn file_name(name: &str, capability: u32) -> String {
    format!("{name}.sm_{capability}.ptx")
}

fn compile_all(nvcc: &Path, sources: &Path, out: &Path) -> Result<(), String> {
    let version = run(Command::new(nvcc).arg("--version"))?;
    if !version.contains(&format!("release {NVCC_RELEASE},")) {
        println!("cargo::warning={}: not release {NVCC_RELEASE}, drivers may refuse what it writes", nvcc.display());
    }
    for Kernel { name, capability, ptx_version } in &KERNELS {
        let target = out.join(file_name(name, *capability));
        let mut command = Command::new(nvcc);
        command.args(["--ptx", &format!("-arch=compute_{capability}")]).args(FLAGS);
        run(command.arg("-o").arg(&target).arg(sources.join(format!("{name}.cu"))))?;
        write(&target, &lowered(&read(&target)?, ptx_version))?;
    }
    Ok(())
}

/// States the lowest PTX version, and leaves out comments and a hint to the assembler that only newer versions know.
fn lowered(ptx: &str, version: &str) -> String {
    let mut text = String::with_capacity(ptx.len());
    for line in ptx.lines().filter(|line| !line.starts_with("//") && !line.contains("used_bytes_mask")) {
        match line.starts_with(".version ") {
            true => text += &format!(".version {version}"),
            false => text += line,
        }
        text.push('\n');
    }
    text
}

fn write_back(out: &Path, committed: &Path, sum: &str) -> Result<(), String> {
    fs::create_dir_all(committed).map_err(|error| format!("{}: {error}", committed.display()))?;
    for Kernel { name, capability, .. } in &KERNELS {
        let name = file_name(name, *capability);
        write(&committed.join(&name), &read(&out.join(&name))?)?;
    }
    write(&committed.join("SOURCES.sum"), &format!("{sum}\n"))
}

/// FNV-1a over names and contents of the sources and all that decides what nvcc makes of them; line ends do not count.
fn source_sum(sources: &Path) -> Result<u64, String> {
    let entries = fs::read_dir(sources).map_err(|error| format!("{}: {error}", sources.display()))?;
    let is_source = |path: &PathBuf| path.extension().is_some_and(|e| e == "cu" || e == "cuh");
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_source).collect();
    files.sort();
    let mut text = format!("{KERNELS:?}{FLAGS:?}{NVCC_RELEASE}");
    for file in files {
        text += &file.file_name().unwrap_or_default().to_string_lossy();
        text += &read(&file)?;
    }
    let add = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    Ok(text.bytes().filter(|byte| *byte != b'\r').fold(0xcbf2_9ce4_8422_2325, add))
}

fn find_nvcc() -> Option<PathBuf> {
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    let there = |path: &PathBuf| path.is_file();
    let in_path = || env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(&name)).find(there);
    let home = |variable: &str| env::var_os(variable).map(|home| PathBuf::from(home).join("bin").join(&name));
    (env::var_os("NVCC").map(PathBuf::from).filter(there))
        .or_else(in_path)
        .or_else(|| home("CUDA_HOME").filter(there))
        .or_else(|| home("CUDA_PATH").filter(there))
        .or_else(|| Some(PathBuf::from("/usr/local/cuda/bin").join(&name)).filter(there))
}

fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        let messages = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{name} failed: {}", messages.lines().collect::<Vec<_>>().join(" | ")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
