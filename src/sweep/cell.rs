//! What identifies a cell, and where its value belongs.

use crate::choice::Malformed;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Names and values of settings, resolved: `dtype` is `f32`, not "the default".
pub type Configuration = BTreeMap<String, String>;

/// Names a cell by everything its value depends on.
///
/// The SHA-256 of the JSON text `{"cell": own, "shared": shared, "sweep": sweep}` without spaces, where `own` and
/// `shared` are objects of strings with sorted keys. Paths, times, threads, devices and batch sizes are no part of it:
/// the same cell has the same id in every run and on every machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CellId([u8; 32]);

impl CellId {
    /// The id of a cell of the sweep called `sweep`: `shared` is the configuration of its ledger, `own` the cell's.
    pub fn of(sweep: &str, shared: &Configuration, own: &Configuration) -> Self {
        let text = serde_json::json!({ "cell": own, "shared": shared, "sweep": sweep }).to_string();
        Self(Sha256::digest(text).into())
    }
}

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CellId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = || Malformed::from(format!("expected 64 hexadecimal digits, found {text:?}"));
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for CellId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CellId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a value belongs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The result file in the model's folder.
    pub file: Arc<str>,
    /// Row and column heads in it.
    pub at: Vec<Arc<str>>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.at.join(" "), self.file)
    }
}

/// Files in the model's folder that a value was computed from, with the SHA-256 they had.
pub type Inputs = BTreeMap<Arc<str>, Arc<str>>;

/// What a value was computed from besides files, by a name that the values of other tables share, with its hash.
pub type Texts = BTreeMap<Arc<str>, Arc<str>>;

/// One value of a sweep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// What it depends on.
    pub id: CellId,
    /// Where it belongs.
    #[serde(flatten)]
    pub place: Place,
    /// The files among what it depends on. When one of them changes, the value is no longer shown.
    pub inputs: Arc<Inputs>,
    /// Its prompts: values of others under the same name are not shown beside it, in whatever table.
    #[serde(skip_serializing_if = "texts_are_none", default)]
    pub texts: Arc<Texts>,
    /// Settings that its place does not tell, for tables with a column for each.
    #[serde(skip_serializing_if = "no_settings", default)]
    pub settings: Arc<Configuration>,
    /// The shard that computes it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shard: Option<usize>,
}

fn texts_are_none(texts: &Arc<Texts>) -> bool {
    texts.is_empty()
}

fn no_settings(settings: &Configuration) -> bool {
    settings.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(fields: &[(&str, &str)]) -> Configuration {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn ids_are_the_same_everywhere_and_follow_every_setting() {
        let shared = configuration(&[("dtype", "f32"), ("model", "demo")]);
        let own = configuration(&[("metric", "logit_diff"), ("layers", "3")]);
        let id = CellId::of("suite", &shared, &own);
        // What sha256sum says about the text
        // {"cell":{"layers":"3","metric":"logit_diff"},"shared":{"dtype":"f32","model":"demo"},"sweep":"suite"}
        assert_eq!(id.to_string(), "7b6e34c59cc90c82853ef6e768d52d7c35a7a7dd8770a7614be611dc0c640738");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(id, CellId::of("fits", &shared, &own));
        assert_ne!(id, CellId::of("suite", &configuration(&[("dtype", "bf16"), ("model", "demo")]), &own));
        assert_ne!(id, CellId::of("suite", &shared, &configuration(&[("metric", "logit_diff"), ("layers", "4")])));
        for wrong in ["", "f4", &"g".repeat(64), &"é".repeat(32)] {
            assert!(wrong.parse::<CellId>().unwrap_err().to_string().contains("64 hexadecimal"), "{wrong}");
        }
    }
}
