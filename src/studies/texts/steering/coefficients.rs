//! What directions are multiplied by.

use crate::choice::Malformed;
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use std::str::FromStr;

/// An entry of the list of coefficients, a number or a range; in records its numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Coefficients(Vec<f32>);

/// A range of more is a slip of the hand.
const MOST_COEFFICIENTS: f64 = 10_000.0;

impl Coefficients {
    /// The numbers.
    pub fn values(&self) -> impl Iterator<Item = f32> {
        self.0.iter().copied()
    }
}

impl From<Vec<f32>> for Coefficients {
    /// Zero has one sign: random numbers depend on the coefficient.
    fn from(values: Vec<f32>) -> Self {
        Self(values.into_iter().map(|value| value + 0.0).collect())
    }
}

impl FromStr for Coefficients {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let expected = |what: &str| Malformed::from(format!("expected {what}, found {text:?}"));
        let number = |part: &str| {
            let value = part.parse().ok().filter(|value: &f64| (*value as f32).is_finite());
            value.ok_or_else(|| expected("numbers and ranges such as -20..0 or -20..0:5"))
        };
        let Some((first, rest)) = text.split_once("..") else { return Ok(vec![number(text)? as f32].into()) };
        let (last, step) = rest.split_once(':').unwrap_or((rest, "1"));
        let (first, last, step) = (number(first)?, number(last)?, number(step)?);
        if first > last || step <= 0.0 {
            return Err(expected("a range that goes up, in steps above 0"));
        }
        // What is lost in decimals must not cost the last one.
        let steps = ((last - first) / step + 1e-6).floor();
        if steps >= MOST_COEFFICIENTS {
            return Err(expected(&format!("at most {MOST_COEFFICIENTS} coefficients")));
        }
        let values: Vec<f32> = (0..=steps as u32).map(|i| (first + f64::from(i) * step) as f32).collect();
        Ok(values.into())
    }
}

/// An entry as specifications may have it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Number(f32),
    Numbers(Vec<f32>),
    Text(String),
}

impl<'de> Deserialize<'de> for Coefficients {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Entry::deserialize(deserializer)? {
            Entry::Number(number) => Ok(vec![number].into()),
            Entry::Numbers(numbers) => Ok(numbers.into()),
            Entry::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_are_numbers_and_ranges() {
        let list = |text: &str| text.parse::<Coefficients>().map(|list| list.0);
        assert_eq!(list("-3..0").unwrap(), [-3.0, -2.0, -1.0, 0.0]);
        assert_eq!(list("-1..1:0.5").unwrap(), [-1.0, -0.5, 0.0, 0.5, 1.0]);
        assert_eq!(list("0..0.3:0.1").unwrap(), [0.0, 0.1, 0.2, 0.3]);
        assert_eq!(list("2.5").unwrap(), [2.5]);
        assert_eq!(list("-0").unwrap()[0].to_bits(), 0);
        for wrong in
            ["", "x", "..", "1..", "1..0", "0..1:0", "0..1:-1", "0..1e9", "nan", "inf", "0..inf", "1:2", "0..1:x"]
        {
            let message = list(wrong).unwrap_err().to_string();
            assert!(message.starts_with("expected") && message.contains(&format!("{wrong:?}")), "{message}");
        }
    }

    #[test]
    fn specifications_have_numbers_ranges_and_lists() {
        use crate::studies::{Steering, from_settings};
        let read = |value: serde_json::Value| {
            let settings = serde_json::Map::from_iter([("coefficients".to_owned(), value)]);
            let study: Steering = from_settings(settings).unwrap();
            study.coefficients.iter().flat_map(|entry| entry.0.clone()).collect::<Vec<f32>>()
        };
        assert_eq!(read(serde_json::json!("-2..0,5")), [-2.0, -1.0, 0.0, 5.0]);
        assert_eq!(read(serde_json::json!(["0..4:2", 7.5, -1])), [0.0, 2.0, 4.0, 7.5, -1.0]);
        let recorded = serde_json::to_value(Steering::default()).unwrap();
        assert_eq!(read(recorded["coefficients"].clone()).len(), 21);
    }
}
