//! The file or files that a GGUF model lies in: one, or numbered parts of which the first has the metadata.

use super::file::{GgufFile, Place};
use super::quantised::TensorType;
use crate::model::ModelError;
use crate::model::provenance::file_name;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The ending of a GGUF file's name.
const ENDING: &str = "gguf";

/// How many parts there are.
const COUNT: &str = "split.count";

/// Which part it is, from 0.
const NUMBER: &str = "split.no";

/// The most parts a model has: their numbers have five digits.
const MOST_PARTS: u64 = 99_999;

/// A model's files.
#[derive(Debug)]
pub(crate) struct Parts {
    /// At least one.
    files: Vec<GgufFile>,
}

impl Parts {
    /// Opens a file, and the parts behind it if it is the first of several.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let first = GgufFile::open(path)?;
        let count = first.metadata.whole(COUNT)?.unwrap_or(1);
        if count <= 1 {
            return Ok(Self { files: vec![first] });
        }
        let number = first.metadata.whole(NUMBER)?.unwrap_or(0);
        if number != 0 {
            let found = format!("part {} of {count}", number + 1);
            return Err(first.metadata.wrong(NUMBER, "0: the first part, which leads to the others", found));
        }
        let others = other_parts(path, count).ok_or_else(|| {
            let expected = format!("a file called NAME-00001-of-{count:05}.{ENDING}");
            first.metadata.wrong(COUNT, expected, file_name(path))
        })?;
        let mut files = vec![first];
        for (number, path) in others {
            let part = open_part(&files[0], &path, number, count)?;
            files.push(part);
        }
        Ok(Self { files })
    }

    /// The file with the metadata.
    pub(super) fn first(&self) -> &GgufFile {
        &self.files[0]
    }

    /// The files' paths, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(GgufFile::path)
    }

    /// All files.
    pub(super) fn files(&self) -> &[GgufFile] {
        &self.files
    }

    /// A tensor, and the number of its file.
    pub(super) fn find(&self, name: &str) -> Option<(usize, &Place)> {
        self.files.iter().enumerate().find_map(|(number, file)| Some((number, file.tensors.get(name)?)))
    }

    /// How many tensors there are of every type, if any is quantised: `Q4_1 210, F32 61, Q8_0 1`.
    pub fn quantisation(&self) -> Option<String> {
        let mut counts: BTreeMap<TensorType, usize> = BTreeMap::new();
        for place in self.files.iter().flat_map(|file| file.tensors.values()) {
            *counts.entry(place.kind).or_default() += 1;
        }
        let mut counts: Vec<(TensorType, usize)> = counts.into_iter().collect();
        counts.sort_by_key(|(kind, count)| (std::cmp::Reverse(*count), *kind));
        let quantised = counts.iter().any(|(kind, _)| kind.is_quantised());
        let shown = counts.iter().map(|(kind, count)| format!("{} {count}", kind.name()));
        quantised.then(|| shown.collect::<Vec<_>>().join(", "))
    }
}

/// A part that the first one leads to.
fn open_part(first: &GgufFile, path: &Path, number: u64, count: u64) -> Result<GgufFile, ModelError> {
    if !path.is_file() {
        let hint = format!("{} has the key `{COUNT}`, {count}: all parts have to be there", file_name(first.path()));
        return Err(ModelError::MissingFile { path: path.into(), hint });
    }
    let part = GgufFile::open(path)?;
    for (key, right) in [(NUMBER, number), (COUNT, count)] {
        let found = part.metadata.whole(key)?;
        if found != Some(right) {
            let found = found.map_or_else(|| "nothing".to_owned(), |found| found.to_string());
            return Err(part.metadata.wrong(key, right.to_string(), found));
        }
    }
    Ok(part)
}

/// Numbers, from 0, and names of the parts behind the first one, which end as its name does.
fn other_parts(first: &Path, count: u64) -> Option<Vec<(u64, PathBuf)>> {
    let (stem, ending) = without_ending(first.file_name()?.to_str()?)?;
    let stem = stem.strip_suffix(&format!("-00001-of-{count:05}")).filter(|_| count <= MOST_PARTS)?;
    let part = |number: u64| (number, first.with_file_name(format!("{stem}-{:05}-of-{count:05}.{ending}", number + 1)));
    Some((1..count).map(part).collect())
}

/// A GGUF file's name without its ending, and the ending as it is spelled there.
fn without_ending(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(_, ending)| ending.eq_ignore_ascii_case(ENDING))
}

/// The names of all parts of a model whose first, or only, file this is, by that file's name.
#[cfg(feature = "hub")]
pub(crate) fn parts_of(first: &Path) -> Vec<String> {
    let name = file_name(first);
    let count = without_ending(&name).and_then(|(stem, _)| stem.rsplit_once("-of-")?.1.parse().ok());
    let others = count.and_then(|count| other_parts(first, count)).unwrap_or_default();
    std::iter::once(name).chain(others.iter().map(|(_, path)| file_name(path))).collect()
}

/// Does the name end as a GGUF file's does?
pub(crate) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case(ENDING))
}

/// The GGUF file of a folder that has one.
pub(crate) fn in_folder(folder: &Path) -> Result<Option<PathBuf>, ModelError> {
    let io = |source| ModelError::Io { path: folder.into(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if is_gguf(&path) && path.is_file() {
            names.push(file_name(&path));
        }
    }
    names.sort();
    match the_one(&names) {
        Ok(name) => Ok(name.map(|name| folder.join(name))),
        Err(several) => Err(ModelError::Name { spec: folder.display().to_string(), message: several }),
    }
}

/// The only name among those of GGUF files, or that of the first part where they are the parts of one model; else what is wrong.
pub(crate) fn the_one(names: &[String]) -> Result<Option<&String>, String> {
    match names {
        [] => Ok(None),
        [name] => Ok(Some(name)),
        [first, others @ ..] => {
            let parts = other_parts(Path::new(first), names.len() as u64).unwrap_or_default();
            match parts.iter().map(|(_, path)| file_name(path)).eq(others.iter().cloned()) {
                true => Ok(Some(first)),
                false => Err(format!("holds several GGUF files, of which one has to be named: {}", names.join(", "))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_or_the_first_part_is_taken_and_others_have_to_be_chosen() {
        let chosen = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            the_one(&names).map(|name| name.cloned())
        };
        assert_eq!(chosen(&[]), Ok(None));
        assert_eq!(chosen(&["a.Q8_0.gguf"]), Ok(Some("a.Q8_0.gguf".to_owned())));
        let parts = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"];
        assert_eq!(chosen(&parts), Ok(Some(parts[0].to_owned())));
        let several = chosen(&["a.Q4_0.gguf", "a.Q8_0.gguf"]).unwrap_err();
        assert!(several.ends_with("a.Q4_0.gguf, a.Q8_0.gguf"), "{several}");
        assert!(chosen(&["a-00001-of-00003.gguf", "a-00002-of-00003.gguf"]).is_err(), "one part is missing");
    }

    #[cfg(feature = "hub")]
    #[test]
    fn the_first_parts_name_tells_those_of_the_others() {
        let all = |first: &str| parts_of(Path::new(first));
        assert_eq!(all("a-00001-of-00002.gguf"), ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]);
        assert_eq!(all("a-00001-of-00002.GGUF"), ["a-00001-of-00002.GGUF", "a-00002-of-00002.GGUF"]);
        assert_eq!(all("a.gguf"), ["a.gguf"]);
        assert_eq!(all("a-of-x.gguf"), ["a-of-x.gguf"]);
    }
}
