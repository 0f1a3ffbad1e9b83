//! Datasets for a session's model, and the positions in them.

use super::{Fault, Mend, OfSetting, Session, distinct, wrong};
use crate::compat::Compat;
use crate::datasets::treebank::{Scaffold, Split};
use crate::datasets::{BuildOptions, Catalogue, DatasetError, END, PairedPrompts};
use crate::engine::{Layout, PatchPositions};
use crate::files::sha256;
use crate::types::numbers;
use anyhow::Result;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

/// Placeholders in the order in which they are a dataset's main position; the last token where it has none of them.
const MAIN_POSITIONS: [&str; 7] = ["ADJ", "ADJ1", "ADV", "FEEL", "NOUN", "MED", "VRB"];

impl Session {
    /// The built-in datasets and the user's, as the session's compatibility settings have them.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, a data folder that is none.
    pub fn catalogue(&self) -> Result<Arc<Catalogue>> {
        if let Some(catalogue) = self.catalogue.get() {
            return Ok(catalogue.clone());
        }
        let folder = &self.options.data_dir;
        let mut catalogue = match Catalogue::load(Some(folder)) {
            Err(DatasetError::Io { source, .. }) if source.kind() == ErrorKind::NotADirectory => {
                wrong!("data_dir", "{} is no folder: {source}", folder.display())
            }
            catalogue => catalogue?,
        };
        for file in &self.options.dataset_file {
            catalogue = catalogue.with_file(file)?;
        }
        let catalogue = self.options.compat().into_iter().fold(catalogue, Catalogue::with_compat);
        Ok(self.catalogue.get_or_init(|| Arc::new(catalogue)).clone())
    }

    /// The same session with further datasets from a text; `file` names it in errors.
    ///
    /// # Errors
    /// A text that cannot be parsed, and those of [`Session::catalogue`].
    pub fn with_datasets(&self, file: &str, text: &str) -> Result<Self> {
        let catalogue = Catalogue::clone(&*self.catalogue()?).with_text(file, text)?;
        Ok(Self { catalogue: Arc::new(Arc::new(catalogue).into()), ..self.clone() })
    }

    /// Builds a dataset for the model; where the session reads along a direction, that is all prompts' answer. Datasets
    /// of the Treebank are files in the model's folder, one per scaffold; all others are plain.
    ///
    /// # Errors
    /// A dataset that is not there or cannot be built, a scaffold around a plain one.
    pub fn prompts(&self, name: &str, scaffold: Scaffold) -> Result<PairedPrompts> {
        let model = self.model();
        let options = BuildOptions { prepend_bos: model.tokenizer.bos().is_some(), ..BuildOptions::default() };
        let prompts = match Split::of_dataset(name) {
            Some(split) => {
                let file = self.treebank_file(split, scaffold)?;
                self.catalogue()?.build_from(&file, name, &model.tokenizer, &options)?
            }
            None if scaffold == Scaffold::Plain => self.catalogue()?.build(name, &model.tokenizer, &options)?,
            None => {
                wrong!(
                    "scaffold",
                    "expected plain for dataset {name}, found {scaffold} (scaffolds are for the Treebank)"
                )
            }
        };
        if let Some(warning) = self.opened_twice(&prompts) {
            tracing::warn!("dataset {name}: {warning}");
        }
        match model.readout_answers() {
            Some(pair) => {
                need_classes("along", &prompts, "measuring along a direction")?;
                Ok(prompts.with_answers(pair))
            }
            None => Ok(prompts),
        }
    }

    /// What is to be said of prompts that spell the token which is put in front of them anyhow.
    pub(crate) fn opened_twice(&self, prompts: &PairedPrompts) -> Option<String> {
        let tokenizer = &self.model().tokenizer;
        let bos = tokenizer.bos()?;
        let twice = |number: &usize| prompts.sequences[*number].iter().skip(1).any(|token| *token == bos);
        let found: Vec<usize> = (0..prompts.sequences.len()).filter(twice).collect();
        let (count, text) = (found.len(), &prompts.texts[*found.first()?]);
        let bos = tokenizer.decode(&[bos]).unwrap_or_default();
        let start: String = text.chars().take(40).collect();
        Some(format!("{count} prompts hold {bos:?}, which is put in front of every prompt, the first {start:?}"))
    }

    /// The file of a Treebank dataset.
    ///
    /// # Errors
    /// A file that has to be made first.
    pub(crate) fn treebank_file(&self, split: Split, scaffold: Scaffold) -> Result<PathBuf, Fault> {
        let file = scaffold.dataset_file(&self.folder(), split);
        if file.is_file() {
            return Ok(file);
        }
        let mut settings = vec![
            ("models", self.model().name.clone()),
            ("splits", split.to_string()),
            ("scaffolds", scaffold.to_string()),
        ];
        if self.options.data_dir != super::SessionOptions::default().data_dir {
            settings.push(("data_dir", self.options.data_dir.display().to_string()));
        }
        let fault = Fault::new(format!("{}: {} is missing", split.dataset(), file.display()));
        Err(fault.mended_by(Mend::Study("treebank-data-gen", settings)))
    }

    /// Several datasets, each once.
    ///
    /// # Errors
    /// Those of [`Session::prompts`].
    pub fn every_prompts(&self, names: &[String], scaffold: Scaffold) -> Result<Vec<PairedPrompts>> {
        distinct(names).iter().map(|name| self.prompts(name, scaffold)).collect()
    }

    /// A position of a dataset by name: a placeholder, `END`, `ALL`, a number (negative ones count from the end), or `auto` for
    /// its main placeholder, which is the first one of the template where the session follows the paper's code in that.
    ///
    /// # Errors
    /// A position that the dataset does not have, as a fault of `setting`.
    pub fn position(&self, setting: &str, prompts: &PairedPrompts, name: &str) -> Result<(String, PatchPositions)> {
        let follows = name == "auto" && self.options.compat.contains(&Compat::FirstPlaceholder);
        let first = || {
            let there = MAIN_POSITIONS.iter().filter(|main| prompts.positions.contains_key(**main));
            there.min_by_key(|main| prompts.positions[**main]).copied()
        };
        position(setting, prompts, follows.then(first).flatten().unwrap_or(name))
    }

    /// The positions of a list, each once: `auto` may name one that stands there too.
    ///
    /// # Errors
    /// Those of [`Session::position`].
    pub fn positions(&self, prompts: &PairedPrompts, names: &[String]) -> Result<Vec<(String, PatchPositions)>> {
        let found = names.iter().map(|name| self.position("positions", prompts, name)).collect::<Result<Vec<_>>>()?;
        Ok(distinct(&found))
    }

    /// Every prompt's position of this name: one each.
    ///
    /// # Errors
    /// A position that a prompt does not have, as a fault of `setting`.
    pub fn prompt_positions(&self, setting: &str, prompts: &PairedPrompts, name: &str) -> Result<Vec<usize>> {
        let lengths = prompts.clean.iter().map(|&sequence| prompts.sequences[sequence].len());
        match self.position(setting, prompts, name)?.1 {
            PatchPositions::One(position) => Ok(vec![position; prompts.clean.len()]),
            PatchPositions::Last => Ok(lengths.map(|length| length.saturating_sub(1)).collect()),
            PatchPositions::All => wrong!(setting, "expected one position, found {name}"),
        }
    }
}

/// Refuses prompts without classes where `what` needs them, as a fault of `setting`.
pub(crate) fn need_classes(setting: &str, prompts: &PairedPrompts, what: &str) -> Result<()> {
    if prompts.has_classes {
        return Ok(());
    }
    wrong!(setting, "{what} needs positive and negative prompts, and dataset {} has no classes", prompts.name)
}

/// Hash of everything about a dataset that a measurement depends on: every prompt's tokens, clean and corrupted, its
/// sign, and its answers.
pub fn fingerprint(prompts: &PairedPrompts) -> Result<String> {
    let tokens = |sequences: &[usize]| -> Vec<_> { sequences.iter().map(|&s| &prompts.sequences[s]).collect() };
    let signs = prompts.has_classes.then_some(&prompts.positive);
    let all = (tokens(&prompts.clean), tokens(&prompts.corrupted), signs, &prompts.answers);
    Ok(sha256(&serde_json::to_vec(&all)?))
}

/// The placeholder that `auto` stands for: the first of the usual ones; of a dataset's own ones the first at which clean
/// and corrupted prompts differ, or the first; `END` without any.
fn main_position(prompts: &PairedPrompts) -> &str {
    if let Some(usual) = MAIN_POSITIONS.into_iter().find(|usual| prompts.positions.contains_key(*usual)) {
        return usual;
    }
    let mut own: Vec<(usize, &str)> = prompts.positions.iter().map(|(name, at)| (*at, name.as_str())).collect();
    own.retain(|(_, name)| *name != END);
    own.sort_unstable();
    let pairs = || prompts.clean.iter().zip(&prompts.corrupted);
    let token = |sequence: usize, at: usize| prompts.sequences[sequence].get(at);
    let differs = |at: usize| pairs().any(|(&clean, &corrupted)| token(clean, at) != token(corrupted, at));
    own.iter().find(|(at, _)| differs(*at)).or(own.first()).map_or(END, |(_, name)| name)
}

/// A position of a dataset by name: a placeholder, `END`, `ALL`, a number (negative ones count from the end: -1 is `END`),
/// or `auto` for its main placeholder: in a dataset without any `END`, and `ALL` where prompts differ in length (the Treebank).
///
/// Returns the name it goes by in files, and the position.
///
/// # Errors
/// A position that the dataset does not have, as a fault of `setting`.
fn position(setting: &str, prompts: &PairedPrompts, name: &str) -> Result<(String, PatchPositions)> {
    let ragged = !prompts.positions.contains_key(END);
    let name = if name == "-1" { END } else { name };
    if let Some(number) = number(name) {
        let position = numbered(setting, prompts, number)?;
        return Ok((position.to_string(), PatchPositions::One(position)));
    }
    if name == "ALL" || (name == "auto" && prompts.positions.is_empty()) {
        return Ok(("ALL".into(), PatchPositions::All));
    }
    if name == END && ragged {
        return Ok((END.into(), PatchPositions::Last));
    }
    let chosen = match name {
        "auto" => main_position(prompts),
        name => name,
    };
    let Some(position) = prompts.positions.get(chosen) else {
        let known: Vec<&str> = prompts.positions.keys().map(String::as_str).collect();
        let known = if ragged { [&known[..], &[END]].concat() } else { known };
        wrong!(setting, "dataset {} has no position {chosen:?}, it has {} and ALL", prompts.name, known.join(", "))
    };
    Ok((chosen.into(), PatchPositions::One(*position)))
}

/// A whole number as positions are written: digits, with a minus in front of those that count from the end.
fn number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && text != "-0";
    if plain { text.parse().ok() } else { None }
}

/// A position that every prompt has, by its number; below zero from the end, which is possible if all prompts have one
/// length.
fn numbered(setting: &str, prompts: &PairedPrompts, number: i64) -> Result<usize> {
    let lengths = || prompts.clean.iter().chain(&prompts.corrupted).map(|&sequence| prompts.sequences[sequence].len());
    let (shortest, longest) = (lengths().min().unwrap_or(0), lengths().max().unwrap_or(0));
    let position = match usize::try_from(number) {
        Ok(position) => Some(position),
        Err(_) if shortest < longest => {
            let why = "its prompts have different lengths, and only END counts from the end of each";
            wrong!(setting, "{}: expected a number from 0 on, found {number}: {why}", prompts.name)
        }
        Err(_) => usize::try_from(number.unsigned_abs()).ok().and_then(|from_end| shortest.checked_sub(from_end)),
    };
    match position.filter(|position| *position < shortest) {
        Some(position) => Ok(position),
        None => {
            let expected = numbers(shortest);
            wrong!(setting, "{}: expected a position of {expected}, found {number}", prompts.name)
        }
    }
}

/// The rows of a dataset patched at `positions`, as a plan counts them: ALL from the first position on.
pub fn planned_rows(prompts: &PairedPrompts, positions: PatchPositions) -> Layout {
    Layout::new(prompts.clean.iter().map(|&sequence| {
        let len = prompts.sequences[sequence].len();
        match positions {
            PatchPositions::One(position) => (position, len),
            PatchPositions::Last => (len.saturating_sub(1), len),
            PatchPositions::All => (0, len),
        }
    }))
}

/// Layers, 0 to `n_layers`, as `all`, or a list of numbers and ranges such as `0,3,6..9` (both ends are meant). Negative
/// numbers count from the end: -1 is `n_layers`, which is behind the last block. A range without an end goes to it: `6..`.
///
/// # Errors
/// A layer that the model does not have, as a fault of `setting`.
pub fn layers(setting: &str, list: &[String], n_layers: usize) -> Result<Vec<usize>> {
    let mut layers = Vec::new();
    for item in list {
        let ends = layer_range(item, n_layers)
            .ok_or_else(|| Fault::new(format!("expected `all`, a number or a range such as 2..5, found {item:?}")));
        let [Some(first), Some(last)] = ends.of_setting(setting)? else {
            wrong!(setting, "{item} is outside -{} to {n_layers} ({n_layers} is behind the last block)", n_layers + 1);
        };
        if first > last {
            wrong!(setting, "{item}: expected a range that goes up, found layers {first} and {last}");
        }
        if last > n_layers {
            wrong!(setting, "{item} is outside 0 to {n_layers} ({n_layers} is behind the last block)");
        }
        layers.extend(first..=last);
    }
    layers.sort_unstable();
    layers.dedup();
    Ok(layers)
}

/// Both ends of a range of layers; none for what is no such thing, and for an end in front of the first layer.
fn layer_range(item: &str, n_layers: usize) -> Option<[Option<usize>; 2]> {
    // A number of any length is one, and too large.
    let number = |digits: &str| -> Option<usize> {
        let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        is_number.then(|| digits.parse().unwrap_or(usize::MAX))
    };
    let layer = |text: &str| -> Option<Option<usize>> {
        match text.strip_prefix('-') {
            Some(from_end) => Some((n_layers + 1).checked_sub(number(from_end)?)),
            None => Some(Some(number(text)?)),
        }
    };
    let item = item.trim();
    let end = |text: &str, open| if text.is_empty() { Some(Some(open)) } else { layer(text) };
    match item.split_once("..") {
        _ if item == "all" => Some([Some(0), Some(n_layers)]),
        Some(("", "")) => None,
        Some((first, last)) => Some([end(first, 0)?, end(last, n_layers)?]),
        None => layer(item).map(|layer| [layer, layer]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_twelve(list: &[&str]) -> Result<Vec<usize>> {
        layers("layers", &list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), 12)
    }

    #[test]
    fn the_main_position_is_a_usual_one_or_where_prompts_differ() {
        let prompts = |names: &[(&str, usize)]| PairedPrompts {
            name: "own".into(),
            texts: Vec::new(),
            sequences: vec![vec![1, 2, 3, 4], vec![1, 2, 5, 4]],
            clean: vec![0],
            corrupted: vec![1],
            positive: vec![true],
            has_classes: false,
            answers: vec![vec![(6, 7)]],
            positions: names.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect(),
        };
        for (names, expected) in [
            (&[("END", 3)][..], "END"),
            (&[("END", 3), ("SUBJ", 1), ("TOPIC", 2)], "TOPIC"),
            (&[("END", 3), ("A_LATER", 3), ("B_FIRST", 1)], "B_FIRST"),
            (&[("END", 3), ("TOPIC", 2), ("VRB", 1)], "VRB"),
        ] {
            assert_eq!(position("positions", &prompts(names), "auto").unwrap().0, expected);
        }
        let message = need_classes("train_sets", &prompts(&[]), "fitting").unwrap_err().to_string();
        assert_eq!(message, "train_sets: fitting needs positive and negative prompts, and dataset own has no classes");
        let classed = PairedPrompts { has_classes: true, ..prompts(&[]) };
        assert_ne!(fingerprint(&classed).unwrap(), fingerprint(&prompts(&[])).unwrap());
    }

    #[test]
    fn layer_lists_hold_numbers_and_ranges() {
        assert_eq!(of_twelve(&["all"]).unwrap(), (0..=12).collect::<Vec<_>>());
        assert_eq!(of_twelve(&["6..8", "0", "7"]).unwrap(), [0, 6, 7, 8]);
        assert_eq!(of_twelve(&["-1", "-13"]).unwrap(), [0, 12]);
        assert_eq!(of_twelve(&["10..", "-13..-12"]).unwrap(), [0, 1, 10, 11, 12]);
        assert_eq!(of_twelve(&["..1"]).unwrap(), [0, 1]);
        for wrong in ["13", "5..20", "8..6", "x", "..", "-14", "-0", "--1", "1..-14", "-1..2", "1...2", "1.5", ""] {
            assert!(of_twelve(&[wrong]).unwrap_err().to_string().contains("layers: "), "{wrong}");
        }
        for outside in ["99999999999999999999", "-99999999999999999999", "0..99999999999999999999"] {
            let message = of_twelve(&[outside]).unwrap_err().to_string();
            assert!(message.contains(&format!("{outside} is outside ")), "{message}");
        }
    }
}
