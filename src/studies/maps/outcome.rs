//! What comes of a study whose results are maps.

use super::{AskedSet, Named};
use crate::experiments::attribution_patching::Agreement;
use crate::report::{RunRecord, Table};
use crate::session::Session;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;

/// The maps of a study on one model.
#[derive(Debug, Clone)]
pub struct Maps {
    /// The model's name.
    pub model: String,
    /// Every map that was asked for, those that were there already among them.
    pub maps: Vec<Named>,
    /// The manifest; none when nothing had to be made.
    pub manifest: Option<RunRecord>,
}

impl Maps {
    /// The maps in the order in which they were asked for, and behind them what came of making them.
    pub(crate) fn new<K>(
        session: &Session,
        sets: Vec<AskedSet<K>>,
        made: Vec<Vec<Named>>,
        manifest: Option<RunRecord>,
    ) -> Self {
        let mut maps = Vec::new();
        for (set, made) in sets.into_iter().zip(made) {
            let mut made: BTreeMap<usize, Named> = made.into_iter().enumerate().collect();
            for asked in set.maps {
                let number = made.iter().find(|(_, named)| named.stem == asked.stem).map(|(number, _)| *number);
                maps.extend(number.and_then(|number| made.remove(&number)).or(asked.kept));
            }
            maps.extend(made.into_values());
        }
        Self { model: session.model().name.clone(), maps, manifest }
    }
}

/// How many values of a map its text shows.
const SHOWN: usize = 8;

impl fmt::Display for Maps {
    /// The largest values of every map; components all, in their order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.model)?;
        self.maps.iter().try_for_each(|named| writeln!(f, "{}", shown(named)))
    }
}

fn shown(Named { stem, map, agreement, .. }: &Named) -> String {
    if !map.has_values() {
        return format!("{stem}: undefined, {} empty values\n", map.values.len());
    }
    let (shown, what) = match map.axes == ["component"] {
        true => ((0..map.values.len()).collect::<Vec<_>>(), ""),
        false => (map.by_size().into_iter().take(SHOWN).collect(), "largest of "),
    };
    let decimals = if map.unit == "percent" { 2 } else { 4 };
    let mut table = Table::new(map.axes.iter().chain([&map.unit]).cloned());
    for index in shown {
        table.push(map.labels(index).into_iter().chain([format!("{:.decimals$}", map.values[index])]));
    }
    let mut text = format!("{stem}: {what}{} values\n{table}", map.values.len());
    if let Some(Agreement { correlation, largest_difference }) = agreement {
        let correlation = correlation.map_or("none".into(), |value| format!("{value:.4}"));
        text += &format!(
            "beside exact patching: correlation {correlation}, largest difference {largest_difference:.2} {}\n",
            map.unit
        );
    }
    text
}

impl Serialize for Maps {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let map = |Named { stem, map, agreement, .. }: &Named| {
            let mut value = json!({ "file": stem, "axes": map.axes, "shape": map.shape });
            value[&map.unit] = json!(map.values);
            if !map.components.is_empty() {
                value["components"] = json!(map.components);
            }
            if let Some(agreement) = agreement {
                value["beside_exact"] = json!(agreement);
            }
            value
        };
        let maps: Vec<Value> = self.maps.iter().map(map).collect();
        json!({ "model": self.model, "maps": maps, "manifest": self.manifest }).serialize(serializer)
    }
}
