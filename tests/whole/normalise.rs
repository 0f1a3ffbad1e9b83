//! What is left of outputs when times, random names, folders and the machine are taken out of them.

use regex::Regex;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::sync::LazyLock;

/// A number and a unit of time, as commands print them.
static TIME: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b\d+(\.\d+)? (ms|s|min|h)\b").unwrap());

/// What a plan says of this machine.
static LEAST: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?m)^at least .* GFLOP/s$").unwrap());

/// Columns are as wide as what stands in them.
static WIDTH: LazyLock<Regex> = LazyLock::new(|| Regex::new(r" {2,}|-{4,}").unwrap());

/// What a command printed, without the folder it ran in and without times.
pub fn text(bytes: &[u8], folder: &Path) -> String {
    let text = std::str::from_utf8(bytes).unwrap().replace(&folder.display().to_string(), "FOLDER");
    let text = LEAST.replace_all(&text, "at least TIME at the processor's peak").into_owned();
    if text.starts_with(['{', '['])
        && let Ok(value) = serde_json::from_str(&text)
    {
        return serde_json::to_string_pretty(&scrubbed(value)).unwrap() + "\n";
    }
    if !TIME.is_match(&text) {
        return text;
    }
    WIDTH.replace_all(&TIME.replace_all(&text, "TIME"), "  ").into_owned()
}

/// JSON without what differs from run to run and from machine to machine.
fn scrubbed(value: Value) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(scrubbed).collect(),
        Value::Object(fields) => {
            let is_manifest = fields.contains_key("wall_seconds");
            let drop = |name: &str| match name {
                "seconds" | "seconds_left" | "least_seconds" => true,
                "arguments" | "commit" | "device" | "started" | "threads" | "wall_seconds" => is_manifest,
                _ => false,
            };
            fields.into_iter().filter(|(name, _)| !drop(name)).map(|(name, value)| (name, scrubbed(value))).collect()
        }
        other => other,
    }
}

/// What is pinned of a manifest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Manifest {
    /// The folder that it tells of.
    pub folder: String,
    pub command: String,
    /// Options, prompts, names of what was written.
    pub summary: String,
}

/// Reads a manifest of this name.
pub fn manifest(name: &str, contents: &[u8]) -> Manifest {
    let manifest: Value = serde_json::from_slice(contents).unwrap();
    let mut options = Vec::new();
    flatten("", &manifest["configuration"], &mut options);
    let set = options.iter().filter(|(_, value)| !value.is_empty());
    let set: Vec<String> = set.map(|(name, value)| format!("{name}={value}")).collect();
    let mut summary = format!("{} options {}", options.len(), set.join(" "));
    for prompts in manifest["prompts"].as_array().unwrap() {
        let hash = prompts["sha256"].as_str().unwrap();
        write!(summary, "; prompts {} {} {}", prompts["dataset"].as_str().unwrap(), prompts["pairs"], &hash[..16])
            .unwrap();
    }
    let written = manifest["written"].as_object().unwrap();
    write!(summary, "; {} files written {}", written.len(), hash(manifest["written"].to_string().as_bytes())).unwrap();
    if manifest["finished"] != true {
        summary += "; not finished";
    }
    let folder = name.split("/manifests/").next().unwrap().to_owned();
    Manifest { folder, command: manifest["command"].as_str().unwrap().to_owned(), summary }
}

/// The fields of an object, those of inner objects by their path, with the values as the command line has them: empty
/// where an option is not set.
fn flatten(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
    let Some(fields) = value.as_object() else {
        let unset = value.is_null() || *value == Value::Bool(false);
        found.push((path.to_owned(), if unset { String::new() } else { short(value) }));
        return;
    };
    for (name, value) in fields.iter().collect::<BTreeMap<_, _>>() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        flatten(&path, value, found);
    }
}

fn short(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(short).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// The first 64 bits of the SHA-256.
pub fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What a file looks like whatever the numbers in it are; `ending` is that of its name.
pub fn shape(ending: &str, contents: &[u8]) -> String {
    let text = || std::str::from_utf8(contents).unwrap();
    match ending {
        "csv" => format!("csv of {}", csv_shape(contents)),
        "npy" => {
            let length = usize::from(u16::from_le_bytes([contents[8], contents[9]]));
            let header = String::from_utf8_lossy(&contents[10..10 + length]).into_owned();
            let field = |name: &str| header.split(name).nth(1).map(|rest| rest.trim().to_owned()).unwrap();
            let shape = field("'shape': ");
            format!("npy {} {}", &field("'descr': ")[1..4], &shape[..=shape.find(')').unwrap()])
        }
        "json" => format!("json with {}", keys(&[serde_json::from_slice(contents).unwrap()])),
        "jsonl" => {
            let lines: Vec<Value> = text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            format!("jsonl of {} lines with {}", lines.len(), keys(&lines))
        }
        "toml" => format!("toml of {} lines", text().lines().count()),
        figure => figure.to_owned(),
    }
}

/// The data of a page: that its scripts draw them right is for `tests/pages.sh`.
pub fn page_data(page: &[u8]) -> &[u8] {
    let text = std::str::from_utf8(page).unwrap();
    let (_, rest) = text.split_once("id=\"data\">").unwrap();
    rest.split_once("</script>").unwrap().0.as_bytes()
}

/// Rows and header; the suite's files have two rows of heads.
fn csv_shape(contents: &[u8]) -> String {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(contents);
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let heads = if rows.first().is_some_and(|row| row.get(0) == Some("prompt")) { 2 } else { 1 };
    let head = |row: &csv::StringRecord| row.iter().collect::<Vec<_>>().join(",");
    let names: Vec<String> = rows.iter().take(heads).map(head).collect();
    format!("{} rows: {}", rows.len().saturating_sub(heads), names.join(" / "))
}

/// The hash of all names of fields, with those of the objects around them.
fn keys(values: &[Value]) -> String {
    fn collect(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| collect(value, path, found)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = format!("{path}.{name}");
                    collect(value, &path, found);
                    found.insert(path);
                }
            }
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    values.iter().for_each(|value| collect(value, "", &mut found));
    let all: Vec<String> = found.into_iter().collect();
    format!("{} keys {}", all.len(), hash(all.join("\n").as_bytes()))
}

/// A ledger without times and without the order of its lines.
pub struct Ledger {
    /// What all cells share.
    pub configuration: String,
    /// By result file: its cells' ids, places and values.
    pub files: BTreeMap<String, Cells>,
}

/// The cells of one result file.
#[derive(Default)]
pub struct Cells {
    pub places: BTreeSet<String>,
    pub ids: BTreeSet<String>,
    pub values: BTreeSet<String>,
    /// Were they computed from files whose hashes are part of their ids?
    pub depend_on_files: bool,
}

/// Reads a ledger's lines.
pub fn ledger(contents: &[u8]) -> Ledger {
    let text = std::str::from_utf8(contents).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_kind = |kind: &'static str| lines.iter().filter(move |line| line["kind"] == kind);
    let outcome = |line: &Value| [line["value"].to_string(), line["error"].to_string()].join(" ");
    let finished = lines.iter().filter(|line| line["kind"] == "done" || line["kind"] == "failed");
    let outcomes: BTreeMap<String, String> = finished.map(|line| (line["id"].to_string(), outcome(line))).collect();
    let mut files: BTreeMap<String, Cells> = BTreeMap::new();
    for cell in of_kind("cell") {
        let cells = files.entry(cell["file"].as_str().unwrap().to_owned()).or_default();
        let (id, place) = (cell["id"].to_string(), cell["at"].to_string());
        let value = outcomes.get(&id).map_or("missing", String::as_str);
        cells.values.insert(format!("{place} {value} {} {}", cell["inputs"], cell["shard"]));
        cells.ids.insert(format!("{place} {id}"));
        cells.places.insert(place);
        cells.depend_on_files |= cell["inputs"].as_object().is_some_and(|inputs| !inputs.is_empty());
    }
    let mut shared = Vec::new();
    of_kind("header").for_each(|line| flatten("", &line["configuration"], &mut shared));
    let configuration = shared.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
    Ledger { configuration, files }
}

/// Lines of a table or a message that hold no number: titles, headers, notes.
pub fn headings(stdout: &str) -> Vec<String> {
    let wordy = |line: &&str| !line.trim().is_empty() && !line.contains(|letter: char| letter.is_ascii_digit());
    stdout.lines().filter(wordy).map(|line| WIDTH.replace_all(line.trim_end(), "  ").into_owned()).collect()
}
