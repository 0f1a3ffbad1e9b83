//! The lines of a ledger.
//!
//! A line is a JSON object whose first field is the checksum of the rest of the line:
//! `{"sum":"<16 hexadecimal digits>","kind":"done","id":"…","value":98.25,"seconds":0.004}`.

use super::{Cell, CellId, Configuration, Outcome, Parts};
use crate::files::sha256;
use serde::{Deserialize, Serialize};

/// The format of the lines and the definition of ids; a ledger of another one is refused.
pub(super) const FORMAT: u32 = 1;

const BEFORE_SUM: &[u8] = b"{\"sum\":\"";
const AFTER_SUM: &[u8] = b"\",";
const SUM_DIGITS: usize = 16;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Record {
    /// What all cells of the ledger share.
    Header { format: u32, version: String, configuration: Configuration },
    /// A cell is wanted. Of several at one place the last one counts.
    Cell(Cell),
    /// A cell has a value. `seconds` is its share of its batch's time, `parts` what the value is the mean of.
    Done {
        id: CellId,
        value: serde_json::Value,
        seconds: f64,
        #[serde(default, skip_serializing_if = "Parts::is_empty")]
        parts: Parts,
    },
    /// A cell has none.
    Failed { id: CellId, error: String },
}

impl Record {
    /// The record of what became of a cell.
    pub(super) fn of(id: CellId, outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done { value, parts, seconds } => Record::Done { id, value, seconds, parts },
            Outcome::Failed(error) => Record::Failed { id, error },
        }
    }
}

/// Why a line is no record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The checksum does not fit: the line was damaged, or is no record at all.
    Damaged,
    /// Written as it stands, but by a program that knows other records.
    Unknown(String),
}

fn checksum(rest: &[u8]) -> String {
    sha256(rest)[..SUM_DIGITS].to_owned()
}

/// Appends a record's line to `lines`.
pub(super) fn encode(record: &Record, lines: &mut Vec<u8>) -> serde_json::Result<()> {
    let object = serde_json::to_vec(record)?;
    let rest = &object[1..];
    lines.extend(BEFORE_SUM);
    lines.extend(checksum(rest).as_bytes());
    lines.extend(AFTER_SUM);
    lines.extend(rest);
    lines.push(b'\n');
    Ok(())
}

/// Reads a line, given without its end.
pub(super) fn decode(line: &[u8]) -> Result<Record, Fault> {
    let (sum, rest) = line
        .strip_prefix(BEFORE_SUM)
        .and_then(|line| line.split_at_checked(SUM_DIGITS))
        .and_then(|(sum, rest)| Some((sum, rest.strip_prefix(AFTER_SUM)?)))
        .ok_or(Fault::Damaged)?;
    if checksum(rest).as_bytes() != sum {
        return Err(Fault::Damaged);
    }
    let object = [b"{", rest].concat();
    serde_json::from_slice(&object).map_err(|error| Fault::Unknown(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::Place;
    use std::sync::Arc;

    #[test]
    fn records_survive_a_round_trip_and_no_damage() {
        let id = CellId::of("suite", &Configuration::new(), &Configuration::new());
        let place = Place { file: "a.csv".into(), at: vec!["das".into(), "ünder\n\"".into()] };
        let inputs = Arc::new([("das.npy".into(), "ab".into())].into());
        let records = [
            Record::Header { format: 1, version: "0.1.0".into(), configuration: [("a".into(), "b".into())].into() },
            Record::Cell(Cell {
                id,
                place: place.clone(),
                inputs,
                texts: Arc::new([("simple".into(), "cd".into())].into()),
                settings: Arc::new([("seed".into(), "3".into())].into()),
                shard: Some(3),
            }),
            Record::Cell(Cell {
                id,
                place,
                inputs: Default::default(),
                texts: Arc::default(),
                settings: Default::default(),
                shard: None,
            }),
            // The shortest text of this value has 17 digits: every bit must come back.
            Record::Done { id, value: serde_json::json!(0.1 + 0.2), seconds: 0.1, parts: Parts::default() },
            Record::Done { id, value: 2.0.into(), seconds: 0.1, parts: Parts::new([0.1, -0.0, f32::MIN_POSITIVE]) },
            Record::Failed { id, error: "undefined".into() },
        ];
        for record in records {
            let mut line = Vec::new();
            encode(&record, &mut line).unwrap();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            let line = line.strip_suffix(b"\n").unwrap();
            assert_eq!(decode(line), Ok(record));
            assert!(serde_json::from_slice::<serde_json::Value>(line).is_ok(), "every line is JSON");
            for place in 0..line.len() {
                let mut damaged = line.to_vec();
                damaged[place] ^= 1;
                assert_eq!(decode(&damaged), Err(Fault::Damaged), "byte {place}");
                assert_eq!(decode(&line[..place]), Err(Fault::Damaged), "cut at {place}");
            }
        }
    }

    #[test]
    fn a_value_without_its_parts_is_written_as_ever() {
        let id = CellId::of("suite", &Configuration::new(), &Configuration::new());
        let line = |parts| {
            let mut line = Vec::new();
            encode(&Record::Done { id, value: 1.5.into(), seconds: 0.5, parts }, &mut line).unwrap();
            String::from_utf8(line).unwrap()
        };
        assert!(line(Parts::default()).ends_with("\"value\":1.5,\"seconds\":0.5}\n"));
        assert!(line(Parts::new([1.0, 2.0])).ends_with("\"seconds\":0.5,\"parts\":\"AACAPwAAAEA=\"}\n"));
        let cut = format!(r#"{{"kind":"done","id":"{id}","value":1.5,"seconds":0.5,"parts":"AACA"}}"#);
        assert!(serde_json::from_str::<Record>(&cut).unwrap_err().to_string().contains("found 3 bytes"));
    }

    #[test]
    fn a_record_of_a_later_program_is_not_taken_for_damage() {
        let rest = br#""kind":"note","text":"hello"}"#;
        let line = [BEFORE_SUM, checksum(rest).as_bytes(), AFTER_SUM, rest].concat();
        assert!(matches!(decode(&line), Err(Fault::Unknown(why)) if why.contains("note")));
    }
}
