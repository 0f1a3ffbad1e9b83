//! Shards: a sweep dealt out to several processes.

use super::CellId;
use crate::choice::{Malformed, serde_by_text};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// One of `count` shares of a sweep, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// Its number, below [`Shard::count`].
    pub fn index(self) -> usize {
        self.index
    }

    /// How many shards there are.
    pub fn count(self) -> usize {
        self.count
    }

    /// The shard's own folder in a model's folder.
    pub fn folder(self, model: &Path) -> PathBuf {
        model.join("shards").join(format!("{}-of-{}", self.index, self.count))
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parsed = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match parsed {
            Some((index, count)) if index < count => Ok(Self { index, count }),
            _ => {
                let expected = "expected I/N with 0 <= I < N, such as 0/4 for the first of four";
                Err(format!("{expected}, found {text:?}").into())
            }
        }
    }
}

serde_by_text!(Shard);

/// The number of the shard, of `count`, that computes each of `units`: pieces of work that cannot be divided further. A unit
/// that stands in the list several times goes to one shard.
///
/// The units are dealt in the order of their ids, which has nothing to do with what they cost: every shard gets as many
/// (give or take one), of all layers and datasets, and the same ones whenever the sweep is the same.
pub fn deal(units: &[CellId], count: usize) -> Vec<usize> {
    let distinct: BTreeSet<CellId> = units.iter().copied().collect();
    let shards: BTreeMap<CellId, usize> =
        distinct.into_iter().enumerate().map(|(place, unit)| (unit, place % count.max(1))).collect();
    units.iter().map(|unit| shards[unit]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::Configuration;

    #[test]
    fn shards_are_counted_from_zero() {
        let shard: Shard = "3/4".parse().unwrap();
        assert_eq!((shard.index(), shard.count(), shard.to_string().as_str()), (3, 4, "3/4"));
        assert_eq!(serde_json::from_value::<Shard>(serde_json::to_value(shard).unwrap()).unwrap(), shard);
        assert!(shard.folder(Path::new("data/demo")).ends_with("demo/shards/3-of-4"));
        for wrong in ["5/4", "4/4", "0/0", "1", "", "-1/4", "1/4/2", "a/b", "1/"] {
            assert!(wrong.parse::<Shard>().unwrap_err().to_string().contains("I/N"), "{wrong}");
        }
    }

    #[test]
    fn every_unit_goes_to_one_shard_and_the_shares_are_even() {
        let unit = |n: usize| CellId::of("test", &Configuration::new(), &[("n".into(), n.to_string())].into());
        let units: Vec<CellId> = (0..103).map(unit).collect();
        let shards = deal(&units, 5);
        let sizes: Vec<usize> = (0..5).map(|shard| shards.iter().filter(|s| **s == shard).count()).collect();
        assert_eq!(sizes, [21, 21, 21, 20, 20]);
        // In another order every unit stays where it was.
        let reversed: Vec<CellId> = units.iter().rev().copied().collect();
        assert!(deal(&reversed, 5).into_iter().rev().eq(shards.iter().copied()));
        // Units that are there twice count once.
        let twice = deal(&[units.as_slice(), &units].concat(), 5);
        assert_eq!(twice, [shards.as_slice(), &shards].concat());
    }
}
