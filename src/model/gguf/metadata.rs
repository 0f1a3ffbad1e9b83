//! A GGUF file's metadata: typed values by key. Every complaint names the key and its place.

use super::reader::{Reader, shown};
use super::value::{self, List, Stored};
use crate::model::ModelError;
use crate::model::config::StoredKey;
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The longest key, by the format's description.
const LONGEST_KEY: u64 = 65_535;

/// More blocks than any model has.
const MOST_BLOCKS: u64 = 4096;

/// An entry and where it begins.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    byte: usize,
    value: Stored,
}

/// The metadata of one file.
#[derive(Debug)]
pub(super) struct Metadata {
    path: PathBuf,
    entries: HashMap<String, Entry>,
}

/// What messages call a key.
fn what(key: &str) -> String {
    format!("key `{}`", shown(key))
}

impl Metadata {
    /// Bytes of the shortest entry: an empty key's length, a type and a byte.
    pub const SHORTEST: usize = 13;

    /// Reads `count` entries.
    pub fn read(path: &Path, reader: &mut Reader<'_>, count: usize) -> Result<Self, ModelError> {
        let mut entries = HashMap::new();
        for number in 1..=count {
            let byte = reader.at();
            let key = reader.name(LONGEST_KEY, &format!("name of key {number} of {count}"))?;
            let value = value::read(reader, &what(key))?;
            if entries.insert(key.to_owned(), Entry { byte, value }).is_some() {
                return Err(reader.wrong(byte, &what(key), "each key once", "it a second time"));
            }
        }
        Ok(Self { path: path.into(), entries })
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Is the key there?
    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// A key by its name and its place, for errors of those who read it.
    pub fn stored_key(&self, key: &str) -> StoredKey {
        StoredKey { name: key.to_owned(), byte: self.entries.get(key).map(|entry| entry.byte) }
    }

    /// The complaint about a key's value.
    pub fn wrong(&self, key: &str, expected: impl Into<String>, found: impl ToString) -> ModelError {
        ModelError::Gguf {
            path: self.path.clone(),
            byte: self.entries.get(key).map(|entry| entry.byte),
            what: what(key),
            expected: expected.into(),
            found: shown(&found.to_string()),
        }
    }

    fn unfit(&self, key: &str, expected: &str) -> ModelError {
        match self.entries.get(key).map(|entry| &entry.value) {
            None => self.wrong(key, expected, "nothing"),
            Some(Stored::One(value)) => self.wrong(key, expected, value),
            Some(Stored::Many(list)) => self.wrong(key, expected, format!("a list of {} values", list.count)),
        }
    }

    /// A value that is no list.
    fn one<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        match self.entries.get(key).map(|entry| &entry.value) {
            None => Ok(None),
            Some(Stored::One(value)) => read(value).map(Some).ok_or_else(|| self.unfit(key, expected)),
            Some(Stored::Many(_)) => Err(self.unfit(key, expected)),
        }
    }

    /// A text, if the key is there.
    pub fn text(&self, key: &str) -> Result<Option<String>, ModelError> {
        self.one(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A flag, if the key is there.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.one(key, "true or false", Value::as_bool)
    }

    /// A number of at least 0 without a fraction, if the key is there.
    pub fn whole(&self, key: &str) -> Result<Option<u64>, ModelError> {
        self.one(key, "a whole number of at least 0", Value::as_u64)
    }

    /// A number without a fraction, if the key is there.
    pub fn integer(&self, key: &str) -> Result<Option<i128>, ModelError> {
        let integer = |value: &Value| value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
        self.one(key, "a whole number", integer)
    }

    /// A number, if the key is there.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.one(key, "a number", Value::as_f64)
    }

    /// A number that some files have once and some once per block, where all of them have to be the same.
    pub fn same_whole(&self, reader: &Reader<'_>, key: &str, blocks: u64) -> Result<Option<u64>, ModelError> {
        let Some(list) = self.list(key) else { return self.whole(key) };
        let expected = format!("a whole number, or {blocks} times the same one");
        if list.count as u64 != blocks || !(1..=MOST_BLOCKS).contains(&blocks) {
            return Err(self.unfit(key, &expected));
        }
        let values = list.values(reader, &what(key))?;
        match values.first().and_then(Value::as_u64).filter(|_| values.iter().all(|value| *value == values[0])) {
            Some(whole) => Ok(Some(whole)),
            None => Err(self.wrong(key, expected, Value::from(values))),
        }
    }

    /// A list, if the key is there and holds one.
    fn list(&self, key: &str) -> Option<&List> {
        match self.entries.get(key).map(|entry| &entry.value) {
            Some(Stored::Many(list)) => Some(list),
            _ => None,
        }
    }

    /// A list of texts, if the key is there.
    pub fn texts<'a>(&self, reader: &Reader<'a>, key: &str) -> Result<Option<Vec<&'a str>>, ModelError> {
        match self.list(key) {
            Some(list) => list.texts(reader, &what(key)).map(Some),
            None if self.has(key) => Err(self.unfit(key, "a list of texts")),
            None => Ok(None),
        }
    }

    /// A list of `count` values by `read`, if the key is there.
    pub fn values<T>(
        &self,
        reader: &Reader<'_>,
        key: &str,
        count: usize,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, ModelError> {
        let expected = format!("{count} numbers, one per token");
        match self.list(key).filter(|list| list.count == count) {
            Some(list) => {
                let values = list.values(reader, &what(key))?;
                let read = values.iter().map(read).collect::<Option<Vec<T>>>();
                read.map(Some).ok_or_else(|| self.unfit(key, &expected))
            }
            None if self.has(key) => Err(self.unfit(key, &expected)),
            None => Ok(None),
        }
    }
}
