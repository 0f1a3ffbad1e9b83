//! The whole program on the demo model, pinned: every command of the README, the examples of the help texts and the
//! shipped analyses are run in fresh folders, and all that they print and write is compared with what is stored here.
//!
//! - `pins/everywhere.txt`: what holds on every machine: names, headers, rows and shapes of files, cells' places, and
//!   their ids where no file's hash is part of them; what manifests say of options, prompts and files.
//! - `pins/<instructions>.txt`: what depends on rounding: hashes of files and of what is printed, cells' values, the ids
//!   of cells that depend on fitted directions. Without the file of this machine these are not compared.
//! - `spoken/<journey>.txt`: exit codes, notes, dry runs. `help/`: the long help of every command.
//!
//! Changed on purpose: `ACTPATCH_PINS=write cargo test --test whole` stores what is found; `git diff` shows what it is.
//! `ACTPATCH_BIN=/path/to/actpatch` runs another build: pins written with the old one are compared with the new one.
//! `ACTPATCH_PINS_KEEP=folder` keeps what was written and printed there, to compare with other tools.
//! `ACTPATCH_PINS_THREADS=2` computes on more threads, which must change nothing.
//! `ACTPATCH_PINS_ONLY=maps,paths` runs these journeys alone.

mod journeys;
mod normalise;
mod pins;
mod runner;

use pins::Pins;
use runner::{Travelled, wanted};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

const RENEW: &str = "Changed on purpose? ACTPATCH_PINS=write cargo test --test whole stores what is found (see \
    tests/whole/main.rs). Pins of other machines' instructions are renewed there, or deleted.";

#[test]
fn every_journey_is_as_pinned() {
    let travelled = runner::travel();
    keep(&travelled);
    let found = pins::collect(&travelled, instructions);
    let mut different = compare_texts("spoken", &pins::spoken(&travelled));
    different += &compare_pins("everywhere", &found.everywhere);
    for (machine, pins) in &found.by_machine {
        if writes() || stored(machine).is_file() {
            different += &compare_pins(machine, pins);
        } else {
            tell(&format!(
                "NOT PINNED FOR THIS MACHINE: {} is missing, so {} hashes of numbers are not compared",
                stored(machine).display(),
                pins.0.len()
            ));
        }
    }
    assert!(different.is_empty(), "\n{different}\n{RENEW}");
}

#[test]
fn every_help_text_is_as_pinned() {
    let different = compare_texts("help", &runner::help());
    assert!(different.is_empty(), "\n{different}\n{RENEW}");
}

/// What decides the bits of results: the instructions that the processor backend and the `gemm` crate look for, for
/// bfloat16 also the units that multiply it, and the system's mathematical functions.
fn instructions(bf16: bool) -> String {
    #[cfg(target_arch = "x86_64")]
    let (avx512, avx2, pairs) = (
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl"),
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        is_x86_feature_detected!("avx512bf16"),
    );
    #[cfg(not(target_arch = "x86_64"))]
    let (avx512, avx2, pairs) = (false, false, false);
    let mut name = match (avx512, avx2) {
        (true, _) => "avx512".to_owned(),
        (false, true) => "avx2".to_owned(),
        (false, false) => format!("portable-{}", std::env::consts::ARCH),
    };
    if bf16 {
        // Linux lists the matrix unit only where processes may use it.
        let listed = std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains(" amx_bf16"));
        name += match avx512 && pairs {
            true if listed => "-bf16-amx",
            true => "-bf16-pairs",
            false => "-bf16-unpacked",
        };
    }
    name + "-" + &mathematics()
}

/// Tells libraries of mathematical functions apart, whose last digits are part of results: the hash of what those that
/// the program calls give for some arguments.
fn mathematics() -> String {
    let mut values: Vec<u8> = Vec::new();
    for number in 1..=4096u16 {
        let wide = std::hint::black_box(f64::from(number) * 0.01037);
        let narrow = std::hint::black_box(wide as f32);
        for value in [wide.exp(), wide.ln(), wide.ln_1p(), wide.sin(), wide.cos(), wide.tanh(), wide.powf(-0.37)] {
            values.extend(value.to_le_bytes());
        }
        for value in [narrow.exp(), narrow.ln(), narrow.sin(), narrow.cos(), narrow.powf(-0.37)] {
            values.extend(value.to_le_bytes());
        }
    }
    format!("libm-{}", &normalise::hash(&values)[..6])
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/whole")
}

fn stored(name: &str) -> PathBuf {
    here().join("pins").join(format!("{name}.txt"))
}

fn writes() -> bool {
    std::env::var_os("ACTPATCH_PINS").is_some_and(|value| value == "write")
}

/// Says something that the test harness does not hold back.
fn tell(message: &str) {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{message}").unwrap();
}

/// Stores pins, or says which differ.
fn compare_pins(name: &str, found: &Pins) -> String {
    let path = stored(name);
    let (old, others) = Pins::parse(&std::fs::read_to_string(&path).unwrap_or_default()).split(wanted);
    if writes() {
        let all = found.0.iter().chain(&others.0).map(|(key, value)| (key.clone(), value.clone())).collect();
        store(&path, &Pins(all).to_string());
        return String::new();
    }
    let all: BTreeSet<&String> = old.0.keys().chain(found.0.keys()).collect();
    let mut different = String::new();
    for key in all {
        let [old, new] = [&old, found].map(|pins| pins.0.get(key).map_or("(none)", String::as_str));
        if old != new {
            write!(different, "{key}\n    old {old}\n    new {new}\n").unwrap();
        }
    }
    headed(&path, different)
}

/// Stores the texts of a folder, or says which lines differ.
fn compare_texts(folder: &str, found: &BTreeMap<PathBuf, String>) -> String {
    let there: BTreeMap<PathBuf, Vec<u8>> = runner::files(&here().join(folder))
        .into_iter()
        .filter(|(name, _)| folder == "help" || wanted(name.trim_end_matches(".txt")))
        .map(|(name, text)| (Path::new(folder).join(name), text))
        .collect();
    if writes() {
        there.keys().filter(|name| !found.contains_key(*name)).for_each(|name| {
            std::fs::remove_file(here().join(name)).unwrap();
        });
        found.iter().for_each(|(name, text)| store(&here().join(name), text));
        return String::new();
    }
    let all: BTreeSet<&PathBuf> = there.keys().chain(found.keys()).collect();
    let of = |name: &PathBuf| {
        let old = there.get(name).map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
        let new = found.get(name).cloned().unwrap_or_default();
        headed(&here().join(name), changed_lines(&old, &new))
    };
    all.into_iter().map(of).collect()
}

/// The lines between the parts that two texts begin and end with alike.
fn changed_lines(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let start = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let rest = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let rest = rest.min(old.len() - start).min(new.len() - start);
    let mut text = String::new();
    for (sign, lines) in [("old", &old[start..old.len() - rest]), ("new", &new[start..new.len() - rest])] {
        for (number, line) in lines.iter().enumerate() {
            writeln!(text, "    {sign} {}: {line}", start + number + 1).unwrap();
        }
    }
    text
}

fn headed(path: &Path, different: String) -> String {
    if different.is_empty() { different } else { format!("{}:\n{different}", path.display()) }
}

fn store(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Keeps files and outputs in the folder that `ACTPATCH_PINS_KEEP` names.
fn keep(travelled: &[Travelled]) {
    let Some(folder) = std::env::var_os("ACTPATCH_PINS_KEEP").map(PathBuf::from) else { return };
    for one in travelled {
        let folder = folder.join(one.journey.name);
        for (name, contents) in &one.files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, contents).unwrap();
        }
        for (number, ran) in one.commands.iter().enumerate() {
            store(&folder.join(format!("stdout/{number:02}.txt")), &ran.stdout);
        }
    }
}
