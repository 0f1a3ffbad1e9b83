//! Pins: what they are, where they are stored, and how they are compared.

use crate::normalise::{Ledger, hash, headings, ledger, page_data, shape};
use crate::runner::{Ran, Travelled};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::path::PathBuf;

/// What a pin is about.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Options, prompts and written files of every run.
    Manifest,
    /// Names, headers, rows and shapes of files.
    Shape,
    /// Configurations and places of ledgers.
    Places,
    /// Cells' ids, of which those of directions depend on the directions' hashes.
    Ids,
    /// Cells' values.
    Values,
    /// Bytes of files.
    File,
    /// What is printed, with all numbers.
    Stdout,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Manifest => "manifest",
            Kind::Shape => "shape",
            Kind::Places => "places",
            Kind::Ids => "ids",
            Kind::Values => "values",
            Kind::File => "file",
            Kind::Stdout => "stdout",
        })
    }
}

/// Pins of one file, by kind and what they are of: `<kind> <journey>…`.
#[derive(Debug, Default)]
pub struct Pins(pub BTreeMap<String, String>);

/// The pins of journeys: those that hold everywhere, and by set of instructions those that depend on rounding.
#[derive(Default)]
pub struct AllPins {
    pub everywhere: Pins,
    pub by_machine: BTreeMap<String, Pins>,
}

impl Pins {
    fn add(&mut self, kind: Kind, key: String, value: String) {
        let before = self.0.insert(format!("{kind} {key}"), value);
        assert!(before.is_none(), "two pins of {kind} {key}");
    }

    /// The pins that a file holds.
    pub fn parse(text: &str) -> Self {
        let pin = |line: &str| {
            let (key, value) = line.split_once(" = ").unwrap_or_else(|| panic!("no pin: {line}"));
            (key.to_owned(), value.to_owned())
        };
        Self(text.lines().map(pin).collect())
    }

    /// The pins of the journeys that `wanted` holds true of, and the others.
    pub fn split(self, wanted: impl Fn(&str) -> bool) -> (Self, Self) {
        let of = |key: &String| key.split([' ', '/']).nth(1).is_some_and(&wanted);
        let (some, others) = self.0.into_iter().partition(|(key, _)| of(key));
        (Self(some), Self(others))
    }
}

/// The file: one line per pin.
impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(key, value)| writeln!(f, "{key} = {value}"))
    }
}

/// All pins of journeys; `machine` names the instructions of a journey.
pub fn collect(travelled: &[Travelled], machine: impl Fn(bool) -> String) -> AllPins {
    let mut all = AllPins::default();
    for one in travelled {
        let numbers = all.by_machine.entry(machine(one.journey.bf16)).or_default();
        pin_commands(one, &mut all.everywhere, numbers);
        pin_files(one, &mut all.everywhere, numbers);
    }
    all
}

fn pin_commands(one: &Travelled, everywhere: &mut Pins, numbers: &mut Pins) {
    for (number, ran) in one.commands.iter().enumerate() {
        let name = format!("{} {number:02} {}", one.journey.name, ran.line.split(' ').next().unwrap_or_default());
        for (count, manifest) in ran.manifests.iter().enumerate() {
            let key = format!("{name}: {}/{} {count}", manifest.folder, manifest.command);
            everywhere.add(Kind::Manifest, key, manifest.summary.clone());
        }
        if !is_wordy(ran) {
            let lines = ran.stdout.lines().count();
            numbers.add(Kind::Stdout, name, format!("{lines} lines {}", hash(ran.stdout.as_bytes())));
        }
    }
}

fn pin_files(one: &Travelled, everywhere: &mut Pins, numbers: &mut Pins) {
    // Files that differ in their endings alone share a line.
    let mut shapes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, contents) in &one.files {
        let key = format!("{}/{name}", one.journey.name);
        if name.ends_with("ledger.jsonl") {
            pin_ledger(&key, &ledger(contents), everywhere, numbers);
            continue;
        }
        let (stem, ending) = key.rsplit_once('.').unwrap_or((&key, ""));
        shapes.entry(stem.to_owned()).or_default().push(shape(ending, contents));
        let pinned = if ending == "html" { page_data(contents) } else { contents };
        numbers.add(Kind::File, key, format!("{} bytes {}", pinned.len(), hash(pinned)));
    }
    shapes.into_iter().for_each(|(stem, shapes)| everywhere.add(Kind::Shape, stem, shapes.join("; ")));
}

fn pin_ledger(name: &str, ledger: &Ledger, everywhere: &mut Pins, numbers: &mut Pins) {
    let of = |set: &BTreeSet<String>| {
        let all: Vec<&str> = set.iter().map(String::as_str).collect();
        format!("{} cells {}", all.len(), hash(all.join("\n").as_bytes()))
    };
    everywhere.add(Kind::Places, name.to_owned(), ledger.configuration.clone());
    for (file, cells) in &ledger.files {
        let key = format!("{name}: {file}");
        let ids = if cells.depend_on_files { &mut *numbers } else { &mut *everywhere };
        ids.add(Kind::Ids, key.clone(), of(&cells.ids));
        everywhere.add(Kind::Places, key.clone(), of(&cells.places));
        numbers.add(Kind::Values, key, of(&cells.values));
    }
}

/// Is what the command prints the same whatever the numbers are?
fn is_wordy(ran: &Ran) -> bool {
    let command = ran.line.split(' ').next().unwrap_or_default();
    ran.code != 0 || ran.line.contains("--dry-run") || ["status", "merge", "--version"].contains(&command)
}

/// What commands say, as the files of `spoken/`: exit codes, notes, plans, and of results the lines without numbers.
pub fn spoken(travelled: &[Travelled]) -> BTreeMap<PathBuf, String> {
    let of = |one: &Travelled| {
        let mut text = String::new();
        for ran in &one.commands {
            writeln!(text, "$ actpatch {}\nexit {}", ran.line, ran.code).unwrap();
            ran.stderr.lines().for_each(|line| writeln!(text, "stderr {line}").unwrap());
            if is_wordy(ran) {
                text += &ran.stdout;
            } else if !ran.stdout.starts_with(['{', '[']) {
                headings(&ran.stdout).iter().for_each(|line| writeln!(text, "{line}").unwrap());
            }
            text.push('\n');
        }
        text
    };
    travelled.iter().map(|one| (PathBuf::from(format!("spoken/{}.txt", one.journey.name)), of(one))).collect()
}
