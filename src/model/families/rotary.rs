//! Rotary positions in `config.json`, under their old names and their new one (`rope_parameters`).

use crate::model::ModelError;
use crate::model::config::ConfigFile;
use crate::types::{Positions, RotaryScaling};

/// What a family calls its rotary settings outside `rope_parameters`.
#[derive(Debug, Clone, Copy)]
pub(super) struct RotaryFields {
    /// Base of the wavelengths, besides `rope_theta`.
    pub base: &'static str,
    /// Share of a head that is rotated, besides `partial_rotary_factor`.
    pub share: &'static str,
    /// That share where the file does not say.
    pub default_share: f64,
}

/// Reads base, rotated share and scaling for heads of width `d_head`.
pub(super) fn read(file: &ConfigFile, d_head: usize, fields: RotaryFields) -> Result<Positions, ModelError> {
    let mut base = file.positive(fields.base)?.or(file.positive("rope_theta")?);
    let mut share = file.positive(fields.share)?.or(file.positive("partial_rotary_factor")?);
    let mut scaling = RotaryScaling::None;
    for field in ["rope_scaling", "rope_parameters"] {
        let Some(object) = file.object(field)? else { continue };
        scaling = read_scaling(file, &object)?.unwrap_or(scaling);
        base = object.positive("rope_theta")?.or(base);
        share = object.positive("partial_rotary_factor")?.or(share);
    }
    // The library truncates the product, in double precision.
    let share = share.unwrap_or(fields.default_share);
    let dims = (d_head as f64 * share) as usize;
    if share > 1.0 || !dims.is_multiple_of(2) || dims == 0 {
        return Err(ModelError::Config {
            path: file.path().into(),
            field: fields.share.to_owned(),
            expected: format!("a share of d_head = {d_head} that is an even number of dimensions from 2 to {d_head}"),
            found: format!("{share}, which is {dims} dimensions"),
        });
    }
    Ok(Positions::Rotary { dims, base: base.unwrap_or(10_000.0) as f32, scaling })
}

/// The scaling that `rope_type` (`type` in older files) names, if the object names one.
fn read_scaling(file: &ConfigFile, object: &ConfigFile) -> Result<Option<RotaryScaling>, ModelError> {
    let kind = if object.get("rope_type").is_some() { "rope_type" } else { "type" };
    let number = |field: &str| {
        object.positive(field)?.map(|value| value as f32).ok_or_else(|| object.error(field, "a number above 0"))
    };
    match object.text(kind)? {
        None => Ok(None),
        Some("default") => Ok(Some(RotaryScaling::None)),
        Some("linear") => Ok(Some(RotaryScaling::Linear { factor: number("factor")? })),
        Some("llama3") => {
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if high <= low {
                return Err(object.error("high_freq_factor", format!("a number above low_freq_factor = {low}")));
            }
            let original_n_ctx = match object.optional_count("original_max_position_embeddings")? {
                Some(count) => count,
                None => file.count("max_position_embeddings")?,
            };
            Ok(Some(RotaryScaling::Llama3 {
                factor: number("factor")?,
                low_frequency_factor: low,
                high_frequency_factor: high,
                original_n_ctx,
            }))
        }
        Some(_) => Err(object.error(kind, "default, linear or llama3 (other rotary scalings are not supported)")),
    }
}
