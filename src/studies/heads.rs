//! Heads as settings name them: `9.2` is layer 9, head 2; `9.2@END` the same at a position; `all` and `top:6` are
//! choices among all of them.

use crate::choice::{Malformed, serde_by_text};
use crate::experiments::attention::Head;
use crate::model::ModelConfig;
use crate::session::{distinct, wrong};
use crate::types::numbers;
use anyhow::Result;
use std::fmt;
use std::str::FromStr;

/// Reads `9.2`, or `z:9.2` as nodes are named.
fn head(text: &str) -> Option<Head> {
    let (layer, head) = text.strip_prefix("z:").unwrap_or(text).split_once('.')?;
    Some((layer.parse().ok()?, head.parse().ok()?))
}

/// Reads `9.2`, or `9.2@END` with what is behind the `@`.
fn placed(text: &str) -> Option<(Head, Option<String>)> {
    match text.split_once('@') {
        None => Some((head(text)?, None)),
        Some((_, "")) => None,
        Some((place, positions)) => Some((head(place)?, Some(positions.to_owned()))),
    }
}

/// Reads `9.2,10.4`: every head once.
pub(crate) fn listed(text: &str) -> Option<Vec<Head>> {
    let heads: Vec<Head> = text.split(',').map(head).collect::<Option<_>>()?;
    Some(distinct(&heads))
}

/// A head's name, `9.2`.
pub(crate) fn head_name((layer, head): Head) -> String {
    format!("{layer}.{head}")
}

fn names(heads: &[Head]) -> String {
    heads.iter().map(|&head| head_name(head)).collect::<Vec<_>>().join(",")
}

/// What is wrong with a text that names no head.
pub(crate) fn expected(what: &str, found: &str) -> String {
    format!("expected {what}, found {found:?}")
}

/// Refuses a head that the model does not have, as a fault of `setting`; `name` is what the setting calls it.
///
/// # Errors
/// The layers and heads there are.
pub(crate) fn check_head(
    setting: &str,
    config: &ModelConfig,
    (layer, head): Head,
    name: impl fmt::Display,
) -> Result<()> {
    let (layers, heads) = (config.n_layers, config.n_heads);
    if layer >= layers || head >= heads {
        wrong!(setting, "the model has layers {} and heads {}, found {name}", numbers(layers), numbers(heads));
    }
    Ok(())
}

/// A head, everywhere or at some positions: `9.2`, `9.2@ADJ+VRB`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadAt {
    /// Layer, head.
    pub head: Head,
    /// Names of positions, joined by `+`; everywhere without any.
    pub positions: Option<String>,
}

impl fmt::Display for HeadAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&head_name(self.head))?;
        self.positions.iter().try_for_each(|positions| write!(f, "@{positions}"))
    }
}

impl FromStr for HeadAt {
    type Err = Malformed;

    fn from_str(text: &str) -> std::result::Result<Self, Malformed> {
        let what = "layer.head or layer.head@POSITION+POSITION, such as 9.2@END";
        let (head, positions) = placed(text).ok_or_else(|| expected(what, text))?;
        Ok(Self { head, positions })
    }
}

serde_by_text!(HeadAt);

/// A head at one position: `9.2@END`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadAtPosition {
    /// Layer, head.
    pub head: Head,
    /// The position's name or number.
    pub position: String,
}

impl fmt::Display for HeadAtPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", head_name(self.head), self.position)
    }
}

impl FromStr for HeadAtPosition {
    type Err = Malformed;

    fn from_str(text: &str) -> std::result::Result<Self, Malformed> {
        match placed(text) {
            Some((head, Some(position))) => Ok(Self { head, position }),
            _ => Err(expected("layer.head@POSITION, such as 9.2@END", text).into()),
        }
    }
}

serde_by_text!(HeadAtPosition);

/// A choice among a model's heads: `all`, `top:6`, or a list such as `9.2,10.4`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadChoice {
    /// Every head.
    All,
    /// The first ones of a ranking, which the study describes.
    Top(usize),
    /// These.
    List(Vec<Head>),
}

impl HeadChoice {
    /// The same as a part of file names.
    pub(crate) fn file_part(&self) -> String {
        self.to_string().replace(':', "").replace(',', "-")
    }
}

impl fmt::Display for HeadChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeadChoice::All => f.write_str("all"),
            HeadChoice::Top(count) => write!(f, "top:{count}"),
            HeadChoice::List(heads) => f.write_str(&names(heads)),
        }
    }
}

impl FromStr for HeadChoice {
    type Err = Malformed;

    fn from_str(text: &str) -> std::result::Result<Self, Malformed> {
        let count = |count: &str| count.parse().ok().filter(|count| *count > 0).map(HeadChoice::Top);
        let choice = match (text, text.strip_prefix("top:")) {
            ("all", _) => Some(HeadChoice::All),
            (_, Some(top)) => count(top),
            (list, None) => listed(list).map(HeadChoice::List),
        };
        choice.ok_or_else(|| expected("heads such as 9.2,10.4, all, or top:6", text).into())
    }
}

serde_by_text!(HeadChoice);

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    #[track_caller]
    fn round_trip<T: Serialize + DeserializeOwned>(name: &str) -> T {
        let read: T = serde_json::from_value(name.into()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), name);
        read
    }

    #[test]
    fn heads_are_written_as_they_are_read() {
        assert_eq!(round_trip::<HeadAt>("9.2"), HeadAt { head: (9, 2), positions: None });
        assert_eq!(round_trip::<HeadAt>("9.2@ADJ+VRB").positions.unwrap(), "ADJ+VRB");
        assert_eq!(round_trip::<HeadAtPosition>("9.2@END"), HeadAtPosition { head: (9, 2), position: "END".into() });
        for (name, file_part) in [("all", "all"), ("top:6", "top6"), ("9.2,10.4", "9.2-10.4")] {
            assert_eq!(round_trip::<HeadChoice>(name).file_part(), file_part);
        }
        assert_eq!("9.2,1.0,9.2".parse(), Ok(HeadChoice::List(vec![(9, 2), (1, 0)])));
        assert_eq!("z:9.2,1.0".parse(), Ok(HeadChoice::List(vec![(9, 2), (1, 0)])));
        assert_eq!("z:9.2@END".parse(), Ok(HeadAtPosition { head: (9, 2), position: "END".into() }));
    }

    #[test]
    fn what_names_no_head_is_told_what_does() {
        for text in ["", "9", "9.", ".2", "9.x", "-1.2", "9.2.1", "9.2@", "@END"] {
            let message = text.parse::<HeadAt>().unwrap_err().to_string();
            assert!(message.contains("such as 9.2@END, found") && message.contains(text), "{message}");
            assert!(text.parse::<HeadAtPosition>().is_err() && text.parse::<HeadChoice>().is_err(), "{text}");
        }
        assert!("9.2".parse::<HeadAtPosition>().unwrap_err().to_string().contains("expected layer.head@POSITION"));
        for text in ["top:0", "top:", "top:x", "9.2,", "9.2@END", "All"] {
            assert!(text.parse::<HeadChoice>().unwrap_err().to_string().contains("or top:6"), "{text}");
        }
    }
}
