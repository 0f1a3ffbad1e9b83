//! Runs journeys and the help of every command.

use crate::journeys::{Files, JOURNEYS, Journey};
use crate::normalise::{Manifest, manifest, text};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Journeys under way at the same time, each on one thread unless a command line says otherwise.
const SIDE_BY_SIDE: usize = 2;

/// Commands that say with `--dry-run` what they would do.
const PLANNED: [&str; 24] = [
    "ablation",
    "ablation-maps",
    "activation-patching-maps",
    "attention",
    "attribution-patching",
    "ccs",
    "circuit",
    "demo",
    "direction-patching-suite",
    "faithfulness",
    "fit-directions",
    "head-cosines",
    "logit-attribution",
    "logit-lens",
    "negation",
    "neuron-cosines",
    "neuroscope",
    "path-patching",
    "probing",
    "random-directions",
    "self-check",
    "steering",
    "text-loss",
    "treebank-data-gen",
];

/// What a command did.
pub struct Ran {
    /// Its command line.
    pub line: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    /// The manifests it left behind, by folder.
    pub manifests: Vec<Manifest>,
}

/// What a journey did, and the files that it left behind beside manifests.
pub struct Travelled {
    pub journey: &'static Journey,
    pub commands: Vec<Ran>,
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Is the journey of this name to be run? `ACTPATCH_PINS_ONLY` lists some; without it all are.
pub fn wanted(name: &str) -> bool {
    std::env::var("ACTPATCH_PINS_ONLY").map_or(true, |only| only.split(',').any(|one| one == name))
}

/// Runs the journeys, in the order of the table.
pub fn travel() -> Vec<Travelled> {
    let journeys: Vec<&'static Journey> = JOURNEYS.iter().filter(|journey| wanted(journey.name)).collect();
    assert!(!journeys.is_empty(), "ACTPATCH_PINS_ONLY: expected names of journeys");
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(journey) = journeys.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let travelled = run(journey);
                    done.lock().unwrap().push(travelled);
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|travelled| travelled.journey.name);
    done
}

fn run(journey: &'static Journey) -> Travelled {
    let folder = tempfile::tempdir().unwrap();
    let given = given(journey);
    for (name, contents) in &given {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }
    let mut seen = BTreeSet::new();
    let mut commands = Vec::new();
    for line in journey.lines {
        commands.extend(dry_run(line).map(|line| step(folder.path(), line, &mut seen)));
        commands.push(step(folder.path(), (*line).to_owned(), &mut seen));
    }
    let mut files = files(folder.path());
    files.retain(|name, contents| {
        !is_manifest(name) && given.iter().all(|(path, given)| path != name || given != contents)
    });
    Travelled { journey, commands, files }
}

/// The journey's own files and the shipped analyses.
fn given(journey: &Journey) -> Files {
    let experiments = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/experiments");
    let shipped = files(&experiments).into_iter().map(|(name, text)| (format!("data/experiments/{name}"), text));
    (journey.setup)().into_iter().chain(shipped).collect()
}

/// The same command as a dry run, if it has one and is none.
fn dry_run(line: &str) -> Option<String> {
    let command = line.split(' ').next()?;
    if !PLANNED.contains(&command) || line.contains("--dry-run") {
        return None;
    }
    let flag = match (command, line.contains(" -- ")) {
        ("circuit", false) => "-- --dry-run",
        _ => "--dry-run",
    };
    Some(format!("{} {flag}", line.replace(" --json", "")))
}

fn step(folder: &Path, line: String, seen: &mut BTreeSet<String>) -> Ran {
    let output = actpatch(folder, &words(&line));
    let mut manifests = Vec::new();
    for name in names(folder).into_iter().filter(|name| is_manifest(name)) {
        if seen.insert(name.clone()) {
            manifests.push(manifest(&name, &std::fs::read(folder.join(&name)).unwrap()));
        }
    }
    manifests.sort();
    let code = output.status.code().expect("no signal ends it");
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| text(bytes, folder));
    assert!(!stderr.contains("panicked at"), "actpatch {line}: {stderr}");
    Ran { line, code, stdout, stderr, manifests }
}

/// `<model's folder>/manifests/<command>-<time>-<random>.json`, and not the prompts below.
fn is_manifest(name: &str) -> bool {
    let folder = Path::new(name).parent().and_then(Path::file_name);
    folder.is_some_and(|folder| folder == "manifests")
}

/// The program in a folder, out of reach of the caller's settings, of the network, and of GPUs.
fn actpatch(folder: &Path, arguments: &[String]) -> Output {
    let program = std::env::var_os("ACTPATCH_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_actpatch").into());
    let threads = std::env::var_os("ACTPATCH_PINS_THREADS").unwrap_or_else(|| "1".into());
    let mut command = Command::new(program);
    for name in ["RUST_LOG", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "COLUMNS"] {
        command.env_remove(name);
    }
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", folder.join("hub")).env("CUDA_VISIBLE_DEVICES", "");
    // The program's name is part of what it prints.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::arg0(&mut command, "actpatch");
    command.env("RAYON_NUM_THREADS", threads).current_dir(folder).args(arguments).output().unwrap()
}

/// The words of a command line; single quotes hold spaces together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, part) in line.split('\'').enumerate() {
        match number % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// Every file below a folder with its bytes.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| {
        let contents = std::fs::read(folder.join(&name)).unwrap();
        (name, contents)
    };
    names(folder).into_iter().map(read).collect()
}

/// The names of all files below a folder, with `/` between their parts.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let of = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.file_type().unwrap().is_dir() {
            true => names(&entry.path()).into_iter().map(|inner| format!("{name}/{inner}")).collect(),
            false => vec![name],
        }
    };
    entries.flat_map(of).collect()
}

/// The long help of the program and of every command, by the name of its snapshot.
pub fn help() -> BTreeMap<PathBuf, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut found = BTreeMap::new();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(command) = open.pop() {
        let output = actpatch(folder.path(), &[&command[..], &["--help".into()]].concat());
        assert!(output.status.success(), "actpatch {command:?} --help");
        let shown = text(&output.stdout, folder.path());
        open.extend(subcommands(&shown).into_iter().map(|name| [&command[..], &[name]].concat()));
        let name = [&["actpatch".to_owned()], &command[..]].concat().join("_");
        found.insert(PathBuf::from(format!("help/{name}.txt")), shown);
    }
    found
}

/// The commands that a help text lists.
fn subcommands(help: &str) -> Vec<String> {
    let Some((_, list)) = help.split_once("Commands:\n") else { return Vec::new() };
    let names =
        list.lines().take_while(|line| !line.trim().is_empty()).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}
