//! The rules of the house, checked on the sources: which room may import which, what belongs to the command line alone,
//! and that CONTRIBUTING.md says the same.
//!
//! The sources are read as tokens: names in comments do not count, paths inside macros do, and what stands under
//! `#[cfg(test)]` is left out.

use proc_macro2::{Delimiter, Group, Spacing, TokenStream, TokenTree};
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The rooms from the top to the bottom, each with those right below it. A room may import these and all that lie below
/// them in turn.
const ROOMS: [(&str, &[&str]); 19] = [
    ("main", &["cli"]),
    ("cli", &["studies", "session"]),
    ("studies", &["session", "bench", "experiments", "report", "sweep"]),
    ("session", &["report", "sweep", "experiments"]),
    ("bench", &["experiments"]),
    ("report", &["directions", "engine", "datasets"]),
    ("sweep", &["files", "choice"]),
    ("experiments", &["directions", "engine", "datasets"]),
    ("directions", &["engine", "datasets", "npy"]),
    ("engine", &["backend", "model"]),
    ("datasets", &["model", "compat"]),
    ("model", &["types", "files", "choice"]),
    ("backend", &["types", "choice", "strided"]),
    ("compat", &["choice"]),
    ("choice", &[]),
    ("files", &[]),
    ("npy", &[]),
    ("strided", &[]),
    ("types", &[]),
];

/// Crates that the command line alone knows.
const OF_THE_COMMAND_LINE: [&str; 4] = ["clap", "indicatif", "signal_hook", "tracing_subscriber"];

/// The most lines that the command line may have.
const LINES_OF_THE_COMMAND_LINE: usize = 4_000;

#[test]
fn the_rooms_stand_above_each_other() {
    for (number, (room, below)) in ROOMS.iter().enumerate() {
        for lower in *below {
            let place = ROOMS.iter().position(|(name, _)| name == lower);
            assert!(place.is_some_and(|place| place > number), "{room} -> {lower} goes upwards, or to no room");
        }
    }
    let listed: BTreeSet<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    let sources = sources();
    let there: BTreeSet<&str> = sources.iter().filter_map(Source::room).collect();
    assert_eq!(listed, there);
}

#[test]
fn imports_go_downwards() {
    let mut complaints = String::new();
    for source in sources() {
        let Some(room) = source.room() else { continue };
        let allowed = below(room);
        for (line, target) in source.found.rooms.iter().filter(|(_, target)| target != room) {
            if ROOMS.iter().any(|(known, _)| known == target) && !allowed.contains(target.as_str()) {
                writeln!(complaints, "{}:{line}: {room} imports {target}", source.path.display()).unwrap();
            }
        }
    }
    assert!(complaints.is_empty(), "imports that do not go down:\n{complaints}");
}

#[test]
fn the_command_line_keeps_its_crates() {
    let mut complaints = String::new();
    for source in sources().iter().filter(|source| source.room() != Some("cli")) {
        for (line, word) in &source.found.words {
            if OF_THE_COMMAND_LINE.contains(&word.as_str()) {
                writeln!(complaints, "{}:{line}: {word}", source.path.display()).unwrap();
            }
        }
    }
    assert!(complaints.is_empty(), "crates of the command line elsewhere:\n{complaints}");
}

#[test]
fn messages_of_the_library_name_no_option_and_no_command() {
    let mut complaints = String::new();
    for source in sources().iter().filter(|source| !matches!(source.room(), Some("cli" | "main"))) {
        for (line, text) in source.found.texts.iter().filter(|(_, text)| speaks_of_the_command_line(text)) {
            writeln!(complaints, "{}:{line}: {text}", source.path.display()).unwrap();
        }
    }
    assert!(complaints.is_empty(), "texts that speak of the command line:\n{complaints}");
}

#[test]
fn the_command_line_is_thin() {
    let texts = sources().into_iter().filter(|source| source.room() == Some("cli")).map(|source| source.text);
    let lines: usize = texts.map(|text| text.lines().count()).sum();
    assert!(lines > 0 && lines <= LINES_OF_THE_COMMAND_LINE, "{lines} lines");
}

#[test]
fn contributing_has_the_rooms_and_the_dependencies() {
    let page = read("CONTRIBUTING.md");
    for (room, below) in ROOMS.iter().filter(|(_, below)| !below.is_empty()) {
        let rule = format!("\n{room} -> {}\n", below.join(", "));
        assert!(page.contains(&rule), "CONTRIBUTING.md lacks the rule{rule}");
    }
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let names = |table: &toml::Value| table.as_table().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut expected = BTreeSet::from_iter(names(&manifest["dependencies"]));
    expected.extend(names(&manifest["dev-dependencies"]));
    for target in manifest["target"].as_table().unwrap().values() {
        expected.extend(names(&target["dependencies"]));
    }
    let (_, table) = page.split_once("## Dependencies").unwrap();
    let table = table.split("\n## ").next().unwrap();
    let first_cells = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let rows: BTreeMap<String, &str> = first_cells
        .flat_map(|(names, reason)| names.split("`, `").map(move |name| (name.to_owned(), reason)))
        .collect();
    assert_eq!(rows.keys().cloned().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let rooms = |text: &str| -> Vec<String> {
        let module = ["engine", "plan"].map(str::to_owned);
        Found::of(text, &module).rooms.into_iter().map(|(_, room)| room).collect()
    };
    assert_eq!(rooms("use crate::types::Matrix;"), ["types"]);
    assert_eq!(
        rooms("pub use crate::{backend::{cpu, Dtype}, model::*, types as plain};"),
        ["backend", "model", "types"]
    );
    assert_eq!(rooms("use super::super::report; use super::run;"), ["report", "engine"]);
    assert_eq!(rooms("mod inner { use super::super::super::sweep::Cell; use super::groups; }"), ["sweep", "engine"]);
    assert_eq!(
        rooms("fn f(budget: crate::model::Model) -> crate::types::Matrix { vec![crate::files::sha256(b\"\")] }"),
        ["model", "types", "files"]
    );
    assert_eq!(rooms("#[derive(crate::choice::Choices)] struct S;"), ["choice"]);
    assert_eq!(rooms("/// See [`crate::cli`].\n// use crate::cli;\nfn f() { \"crate::cli\"; }"), [""; 0]);
    assert_eq!(rooms("#[cfg(test)] mod tests { use crate::cli; } use crate::types;"), ["types"]);
    assert_eq!(rooms("#[cfg(test)] use crate::{cli, studies}; use crate::files;"), ["files"]);
    assert_eq!(rooms("#[cfg(feature = \"cuda\")] use crate::cli;"), ["cli"]);
}

#[test]
fn texts_and_lines_are_found_wherever_they_stand() {
    let text =
        "//! --flag\n#[error(\"use --flag\")]\nstruct S;\n/// --flag\nfn f() { wrong!(\"run actpatch verify\") }";
    let found = Found::of(text, &[]);
    let lines: Vec<usize> =
        found.texts.iter().filter(|(_, text)| speaks_of_the_command_line(text)).map(|(line, _)| *line).collect();
    assert_eq!(lines, [2, 5]);
    for silent in ["a -- b", "x--y", "--", "actpatch/0.1", "of actpatch", "-- 3"] {
        assert!(!speaks_of_the_command_line(&format!("{silent:?}")), "{silent}");
    }
    for speaking in ["--layers: expected 3", "use\n--layers", "(--layers)", "`--layers`", "run `actpatch self-check`"] {
        assert!(speaks_of_the_command_line(&format!("\"{speaking}\"")), "{speaking}");
    }
    assert_eq!(Found::of("#[cfg(test)]\n#[path = \"x_tests.rs\"]\nmod tests;", &[]).tests, ["x_tests.rs"]);
    assert_eq!(Found::of("#[cfg(test)]\nmod tests;", &[]).tests, ["tests.rs"]);
}

/// The rooms that `room` may import.
fn below(room: &str) -> BTreeSet<&'static str> {
    let mut reached = BTreeSet::new();
    let mut next = vec![room];
    while let Some(room) = next.pop() {
        for lower in ROOMS.iter().filter(|(name, _)| *name == room).flat_map(|(_, below)| *below) {
            if reached.insert(*lower) {
                next.push(lower);
            }
        }
    }
    reached
}

/// Is there an option or a command of the program in a literal, as it stands in the source?
fn speaks_of_the_command_line(literal: &str) -> bool {
    Regex::new(r#"["\s(\[`'|]--[a-z]|\bactpatch [a-z]"#).unwrap().is_match(literal)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file of `src`.
struct Source {
    /// From the root of the repository.
    path: PathBuf,
    /// The names of its module, outermost first.
    module: Vec<String>,
    text: String,
    found: Found,
}

impl Source {
    fn read(path: PathBuf) -> Self {
        let mut module: Vec<String> =
            path.with_extension("").iter().skip(1).map(|part| part.to_str().unwrap().to_owned()).collect();
        if module.last().is_some_and(|last| last == "mod" || last == "lib") {
            module.pop();
        }
        let text = read(&path);
        let found = Found::of(&text, &module);
        Self { path, module, text, found }
    }

    /// The room it is in; the root of the library is in none.
    fn room(&self) -> Option<&str> {
        self.module.first().map(String::as_str)
    }
}

/// Every file of `src` but those that are only tests.
fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    let mut folders = vec![PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let sources: Vec<Source> = paths.into_iter().map(Source::read).collect();
    let tests: BTreeSet<PathBuf> = sources
        .iter()
        .flat_map(|source| source.found.tests.iter().map(|file| source.path.with_file_name(file)))
        .collect();
    sources.into_iter().filter(|source| !tests.contains(&source.path)).collect()
}

/// What stands in a source outside its comments and tests, each with its line.
#[derive(Default)]
struct Found {
    /// The rooms that paths lead to.
    rooms: Vec<(usize, String)>,
    /// Every name.
    words: Vec<(usize, String)>,
    /// Literals.
    texts: Vec<(usize, String)>,
    /// Files beside this one that are modules of tests.
    tests: Vec<String>,
}

impl Found {
    fn of(text: &str, module: &[String]) -> Self {
        let mut found = Self::default();
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{module:?}: {error}"));
        found.walk(&tokens.into_iter().collect::<Vec<_>>(), module);
        found
    }

    fn walk(&mut self, tokens: &[TokenTree], module: &[String]) {
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            if let Some((length, attribute)) = attribute(&tokens[at..]) {
                at += length;
                if is_only_for_tests(attribute) {
                    at += self.skip_item(&tokens[at..]);
                } else if !is_named(attribute, "doc") {
                    self.walk(&attribute.stream().into_iter().collect::<Vec<_>>(), module);
                }
                continue;
            }
            if !matches!(&tokens[..at], [.., first, second] if is_joint_colon(first) && is_colon(second)) {
                for target in targets(&tokens[at..], module) {
                    self.rooms.push((line(token), target));
                }
            }
            match token {
                TokenTree::Ident(name) => self.words.push((line(token), name.to_string())),
                TokenTree::Literal(literal) => self.texts.push((line(token), literal.to_string())),
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    match tokens[..at] {
                        [.., TokenTree::Ident(ref word), TokenTree::Ident(ref name)] if word == "mod" => {
                            self.walk(&inner, &[module, &[name.to_string()]].concat());
                        }
                        _ => self.walk(&inner, module),
                    }
                }
                TokenTree::Punct(_) => {}
            }
            at += 1;
        }
    }

    /// The number of tokens of an item behind its first attribute; notes the file of a module.
    fn skip_item(&mut self, tokens: &[TokenTree]) -> usize {
        let mut at = 0;
        let mut file = None;
        while let Some((length, attribute)) = attribute(&tokens[at..]) {
            if is_named(attribute, "path") {
                let last = attribute.stream().into_iter().last().unwrap().to_string();
                file = Some(last.trim_matches('"').to_owned());
            }
            at += length;
        }
        let is_use = tokens[at..].iter().take(3).any(|token| is_word(token, "use"));
        let ends = |token: &TokenTree| match token {
            TokenTree::Punct(mark) => mark.as_char() == ';',
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace && !is_use,
            _ => false,
        };
        let length = tokens[at..].iter().position(ends).map_or(tokens.len() - at, |last| last + 1);
        if let [.., TokenTree::Ident(word), TokenTree::Ident(name), TokenTree::Punct(_)] = &tokens[at..at + length]
            && word == "mod"
        {
            self.tests.push(file.unwrap_or_else(|| format!("{name}.rs")));
        }
        at + length
    }
}

fn line(token: &TokenTree) -> usize {
    token.span().start().line
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(name) if name == word)
}

fn is_colon(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(mark) if mark.as_char() == ':')
}

fn is_joint_colon(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(mark) if mark.as_char() == ':' && mark.spacing() == Spacing::Joint)
}

/// The attribute that these tokens begin with, and how many of them it takes.
fn attribute(tokens: &[TokenTree]) -> Option<(usize, &Group)> {
    let is_mark = |token: &TokenTree, mark: char| matches!(token, TokenTree::Punct(found) if found.as_char() == mark);
    match tokens {
        [hash, TokenTree::Group(group), ..] if is_mark(hash, '#') => Some((2, group)),
        [hash, bang, TokenTree::Group(group), ..] if is_mark(hash, '#') && is_mark(bang, '!') => Some((3, group)),
        _ => None,
    }
}

fn is_named(attribute: &Group, name: &str) -> bool {
    attribute.stream().into_iter().next().is_some_and(|first| is_word(&first, name))
}

/// `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn is_only_for_tests(attribute: &Group) -> bool {
    let text: String = attribute.to_string().split_whitespace().collect();
    text == "[cfg(test)]" || text.starts_with("[cfg(all(test,")
}

/// The rooms that the path at the start of these tokens leads to, of which a `use` may have several; `module` is where it
/// stands.
fn targets(tokens: &[TokenTree], module: &[String]) -> Vec<String> {
    let base = match tokens.first() {
        // The program's own crate and, seen from `main`, the library.
        Some(TokenTree::Ident(word)) if word == "crate" || word == "actpatch" => Vec::new(),
        Some(TokenTree::Ident(word)) if word == "self" => module.to_vec(),
        Some(TokenTree::Ident(word)) if word == "super" => module[..module.len().saturating_sub(1)].to_vec(),
        _ => return Vec::new(),
    };
    ends(base, &tokens[1..])
}

/// The rooms at the ends of a path of which `base` is known and the rest are these tokens.
fn ends(mut base: Vec<String>, tokens: &[TokenTree]) -> Vec<String> {
    let [first, second, next, rest @ ..] = tokens else { return Vec::new() };
    if !is_colon(first) || !is_colon(second) {
        return Vec::new();
    }
    match next {
        TokenTree::Ident(word) if word == "super" => {
            base.pop();
            ends(base, rest)
        }
        TokenTree::Group(group) if base.is_empty() => {
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            let branches = inner.split(|token| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ','));
            branches.filter_map(|branch| branch.first()).map(ToString::to_string).collect()
        }
        // Within the room, where nothing but `super` leads out.
        _ if !base.is_empty() => vec![base.swap_remove(0)],
        TokenTree::Ident(word) => vec![word.to_string()],
        _ => Vec::new(),
    }
}
