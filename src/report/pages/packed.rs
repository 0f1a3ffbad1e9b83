//! Arrays of numbers as pages hold them: base64, which is a third of the text that JSON would be.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

/// Numbers as 32-bit floats, NaN where there is none.
pub(crate) fn packed(values: impl IntoIterator<Item = f32>) -> Value {
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    json!({ "f32": BASE64_STANDARD.encode(bytes) })
}

/// Numbers of a page's data, [`packed`].
pub(crate) fn floats<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
    packed(values.iter().copied()).serialize(serializer)
}

/// Shares of one in 16 bits: wrong by less than a hundred thousandth, which four decimals never show.
pub(super) fn packed_shares(values: impl IntoIterator<Item = f64>) -> Value {
    let share = |value: f64| (value.clamp(0.0, 1.0) * f64::from(u16::MAX)).round() as u16;
    let bytes: Vec<u8> = values.into_iter().flat_map(|value| share(value).to_le_bytes()).collect();
    json!({ "u16": BASE64_STANDARD.encode(bytes), "low": 0, "high": 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let bytes = |value: &Value, name: &str| BASE64_STANDARD.decode(value[name].as_str().unwrap()).unwrap();
        let floats = packed([0.1, f32::NAN, -3.0]);
        let read: Vec<f32> =
            bytes(&floats, "f32").chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        assert_eq!((read[0], read[1].is_nan(), read[2]), (0.1, true, -3.0));
        let shares = packed_shares([0.0, 0.123_456, 1.0]);
        let read: Vec<f64> = bytes(&shares, "u16")
            .chunks_exact(2)
            .map(|two| f64::from(u16::from_le_bytes(two.try_into().unwrap())) / 65535.0)
            .collect();
        assert_eq!((read[0], read[2]), (0.0, 1.0));
        assert!((read[1] - 0.123_456).abs() < 1e-5, "{read:?}");
    }
}
