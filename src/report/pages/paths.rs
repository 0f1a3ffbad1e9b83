//! The page of patched paths.

use super::View;
use super::packed::packed;
use crate::report::ResultMap;
use serde::{Serialize, Serializer};

/// Paths from senders to receivers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PathsPage {
    /// Above everything.
    pub title: String,
    /// Where the paths end.
    pub receivers: String,
    /// Values of the senders.
    pub maps: Vec<PathsMap>,
}

/// One measure of every sender.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PathsMap {
    /// What the values are, with the unit.
    pub measure: String,
    /// What stands before a sender's place: its component.
    pub senders: String,
    /// Labels of the positions.
    pub positions: Vec<String>,
    /// `(position, layer, head)` or less.
    #[serde(flatten, serialize_with = "values")]
    pub map: ResultMap,
}

fn values<S: Serializer>(map: &ResultMap, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Packed<'a> {
        axes: &'a [String],
        shape: &'a [usize],
        values: serde_json::Value,
    }
    let values = packed(map.values.iter().map(|value| *value as f32));
    Packed { axes: &map.axes, shape: &map.shape, values }.serialize(serializer)
}

impl View for PathsPage {
    const NAME: &'static str = "paths";
    const SCRIPT: &'static str = include_str!("paths.js");

    fn title(&self) -> &str {
        &self.title
    }
}
