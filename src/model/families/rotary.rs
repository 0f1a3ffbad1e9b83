//! Rotary positions in `config.json`: under their old names and their new one (`rope_parameters`), read in the order in which
//! the library reads them.

use crate::model::ModelError;
use crate::model::config::ConfigFile;
use crate::types::{Positions, RotaryScaling};
use serde_json::Value;

/// Kinds of layers that newer configurations give settings of their own.
const LAYER_TYPES: [&str; 2] = ["full_attention", "sliding_attention"];

/// What scalings are set by, besides their name.
const OF_SCALINGS: [&str; 12] = [
    "factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "short_factor",
    "long_factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
];

/// What a family calls its rotary settings outside `rope_parameters`, and their defaults.
#[derive(Debug, Clone, Copy)]
pub(super) struct RotaryFields {
    /// Base of the wavelengths.
    pub base: &'static str,
    /// Share of a head that is rotated.
    pub share: &'static str,
    /// That share where the file does not say.
    pub default_share: f64,
    /// Does the family rotate a part of a head? If not, the library ignores the share, or stops at it.
    pub partial: bool,
    /// Longest sequence where the file does not say.
    pub default_n_ctx: usize,
}

/// The object with the settings, and what stands in for those that it leaves out.
struct Settings<'a> {
    file: &'a ConfigFile,
    object: ConfigFile,
    fields: RotaryFields,
    d_head: usize,
}

/// Reads base, rotated share and scaling for heads of width `d_head`.
pub(super) fn read(file: &ConfigFile, d_head: usize, fields: RotaryFields) -> Result<Positions, ModelError> {
    // The first that is there and not empty; the other one is not looked at.
    let mut objects = Vec::new();
    for field in ["rope_scaling", "rope_parameters"] {
        objects.extend(file.object(field)?.filter(|object| !object.is_empty()));
    }
    let object = objects.into_iter().next().unwrap_or_else(|| file.nothing("rope_parameters"));
    if let Some(kind) = LAYER_TYPES.into_iter().find(|kind| object.mentions(kind)) {
        return Err(object.error(kind, "nothing (settings of one kind of layer only are not supported)"));
    }
    let settings = Settings { file, object, fields, d_head };
    let kind = settings.kind()?;
    let base = settings.number("rope_theta", fields.base, 10_000.0)?;
    let dims = settings.dims(&kind)?;
    let scaling = settings.scaling(&kind, dims, base)?;
    Ok(Positions::Rotary { dims, base: base as f32, scaling })
}

impl Settings<'_> {
    /// A number of the object, else of the file, where it is called `outside`, else `default`.
    fn number(&self, field: &str, outside: &str, default: f64) -> Result<f64, ModelError> {
        if self.object.mentions(field) {
            self.object.positive(field, default)
        } else {
            self.file.positive(outside, default)
        }
    }

    /// Name of the scaling.
    fn kind(&self) -> Result<String, ModelError> {
        let object = &self.object;
        let field = if object.mentions("rope_type") { "rope_type" } else { "type" };
        match object.text(field)? {
            Some(kind) => Ok(kind.to_owned()),
            None if object.mentions(field) => Err(object.error(field, "the name of a rotary scaling")),
            None => {
                for field in OF_SCALINGS.into_iter().filter(|field| object.mentions(field)) {
                    object.warn(field, "not used, because no `rope_type` says what it is for");
                }
                Ok("default".to_owned())
            }
        }
    }

    /// Number of rotated dimensions, which the library truncates, in double precision.
    fn dims(&self, kind: &str) -> Result<usize, ModelError> {
        let RotaryFields { share: name, partial, .. } = self.fields;
        if kind == "proportional" || (kind == "default" && !partial) {
            return self.whole_head();
        }
        let share = self.share()?;
        let dims = (self.d_head as f64 * share) as usize;
        if !partial {
            let found = format!("{share}, which is {dims} of {} dimensions", self.d_head);
            let expected = "1 (in this family the library rotates whole heads)";
            return if dims == self.d_head { self.whole_head() } else { Err(self.file.wrong(name, expected, found)) };
        }
        // An odd number is rounded up, but not by `yarn`, apart from 3; one beyond the head may be too large to round.
        let within = (1..=self.d_head).contains(&dims) && dims.next_multiple_of(2) <= self.d_head;
        if !within || (kind == "yarn" && !dims.is_multiple_of(2) && dims != 3) {
            let expected =
                format!("a share of d_head = {} that is an even number of dimensions from 2 to {0}", self.d_head);
            return Err(self.file.wrong(name, expected, format!("{share}, which is {dims} dimensions")));
        }
        Ok(dims)
    }

    /// The share of a head that is rotated.
    fn share(&self) -> Result<f64, ModelError> {
        let RotaryFields { share: name, default_share, partial, .. } = self.fields;
        let field = "partial_rotary_factor";
        if self.object.mentions(field) {
            self.object.positive(field, default_share)
        } else if !partial && self.file.get(name).is_none() {
            Ok(default_share)
        } else {
            self.file.positive(name, default_share)
        }
    }

    fn whole_head(&self) -> Result<usize, ModelError> {
        if self.d_head.is_multiple_of(2) {
            return Ok(self.d_head);
        }
        Err(self.file.wrong("head_dim", "an even number of dimensions to rotate", self.d_head.to_string()))
    }

    fn scaling(&self, kind: &str, dims: usize, base: f64) -> Result<RotaryScaling, ModelError> {
        let (object, factor) = (&self.object, || self.required("factor"));
        match kind {
            // Dynamic scaling begins behind the context, where no sequence reaches.
            "dynamic" if dims <= 2 => {
                Err(self.file.wrong(self.fields.share, "more than one pair for `dynamic`", "one".to_owned()))
            }
            "dynamic" => factor().map(|_| RotaryScaling::None),
            "default" => Ok(RotaryScaling::None),
            "linear" => Ok(RotaryScaling::Linear { factor: factor()? as f32 }),
            "llama3" => Ok(RotaryScaling::Llama3 {
                factor: factor()? as f32,
                low_frequency_factor: self.required("low_freq_factor")? as f32,
                high_frequency_factor: self.required("high_freq_factor")? as f32,
                original_n_ctx: self.original_n_ctx()?,
            }),
            "yarn" => self.yarn(base),
            "longrope" => self.longrope(dims),
            "proportional" => self.proportional(),
            _ => {
                let field = if object.mentions("rope_type") { "rope_type" } else { "type" };
                Err(object.error(field, "default, linear, dynamic, llama3, yarn, longrope or proportional"))
            }
        }
    }

    fn proportional(&self) -> Result<RotaryScaling, ModelError> {
        // Rounded down from the double-precision product, as the library does.
        let (share, pairs) = (self.share()?, self.d_head / 2);
        let turning = (share * self.d_head as f64 / 2.0) as usize;
        if turning > pairs {
            return Err(self.file.wrong(self.fields.share, "at most 1", share.to_string()));
        }
        Ok(RotaryScaling::Proportional { pairs: turning, factor: self.object.positive("factor", 1.0)? as f32 })
    }

    fn yarn(&self, base: f64) -> Result<RotaryScaling, ModelError> {
        let object = &self.object;
        let original_n_ctx = self.original_n_ctx()?;
        if !object.mentions("factor") {
            return Err(object.error("factor", "a number above 0"));
        }
        let factor = self.factor_or_ratio(original_n_ctx)?;
        if base == 1.0 {
            return Err(self.file.wrong(self.fields.base, "a number other than 1 for `yarn`", "1".to_owned()));
        }
        let scale = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        // 0 counts as absent in the library.
        let (above, below) = (object.optional_number("mscale")?, object.optional_number("mscale_all_dim")?);
        let given = |number: Option<f64>| number.filter(|number| *number != 0.0);
        let magnitude = match (object.optional_number("attention_factor")?, given(above), given(below)) {
            (Some(magnitude), ..) => magnitude,
            (None, Some(above), Some(below)) => scale(above) / scale(below),
            _ => scale(1.0),
        };
        Ok(RotaryScaling::Yarn {
            factor,
            fast_turns: self.turns("beta_fast", 32.0)?,
            slow_turns: self.turns("beta_slow", 1.0)?,
            whole_pairs: object.flag("truncate", true)?,
            original_n_ctx,
            magnitude: self.finite("attention_factor", magnitude)?,
        })
    }

    /// Turns within a context; absent, `null` and 0 are the default.
    fn turns(&self, field: &str, default: f64) -> Result<f64, ModelError> {
        match self.object.optional_number(field)? {
            None | Some(0.0) => Ok(default),
            Some(_) => self.object.positive(field, default),
        }
    }

    fn longrope(&self, dims: usize) -> Result<RotaryScaling, ModelError> {
        let original_n_ctx = self.original_n_ctx()?;
        let factor = self.factor_or_ratio(original_n_ctx)?;
        let magnitude = match self.object.optional_number("attention_factor")? {
            Some(magnitude) => magnitude,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / (original_n_ctx as f64).ln()).sqrt(),
        };
        let divisors = |field: &str| {
            let pairs = dims.div_ceil(2);
            let list = self.object.get(field).and_then(Value::as_array).filter(|list| list.len() == pairs);
            let number = |value: &Value| value.as_f64().filter(|number| *number > 0.0).map(|number| number as f32);
            let divisors: Option<Vec<f32>> = list.and_then(|list| list.iter().map(number).collect());
            divisors.ok_or_else(|| self.object.error(field, format!("a list of {pairs} numbers above 0")))
        };
        Ok(RotaryScaling::LongRope {
            short: divisors("short_factor")?,
            long: divisors("long_factor")?,
            original_n_ctx,
            magnitude: self.finite("attention_factor", magnitude)?,
        })
    }

    /// The factor; absent or `null`, how much longer the context is than the pre-training's.
    fn factor_or_ratio(&self, original_n_ctx: usize) -> Result<f64, ModelError> {
        match self.object.get("factor") {
            Some(_) => self.required("factor"),
            None => Ok(self.n_ctx()? as f64 / original_n_ctx as f64),
        }
    }

    fn finite(&self, field: &str, value: f64) -> Result<f32, ModelError> {
        let value = value as f32;
        if value.is_finite() { Ok(value) } else { Err(self.object.wrong(field, "a finite number", value.to_string())) }
    }

    fn required(&self, field: &str) -> Result<f64, ModelError> {
        match self.object.get(field) {
            Some(_) => self.object.positive(field, 0.0),
            None => Err(self.object.error(field, "a number above 0")),
        }
    }

    /// Context of the pre-training. What stands outside the object wins.
    fn original_n_ctx(&self) -> Result<usize, ModelError> {
        let field = "original_max_position_embeddings";
        for file in [self.file, &self.object] {
            if file.mentions(field) {
                return file.count(field, 0);
            }
        }
        self.n_ctx()
    }

    fn n_ctx(&self) -> Result<usize, ModelError> {
        self.file.count("max_position_embeddings", self.fields.default_n_ctx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_share_beyond_the_head_is_refused_however_large() {
        let fields = RotaryFields {
            base: "rotary_emb_base",
            share: "rotary_pct",
            default_share: 0.25,
            partial: true,
            default_n_ctx: 2048,
        };
        let read = |share: &str| {
            let text = format!("{{\"rotary_pct\": {share}}}");
            let file = ConfigFile::parse(Path::new("config.json"), text.as_bytes()).unwrap();
            read(&file, 16, fields).map_err(|error| error.to_string())
        };
        assert!(matches!(read("1.0"), Ok(Positions::Rotary { dims: 16, .. })));
        for share in ["1e30", "1e300", "1.0625", "0.01"] {
            let message = read(share).unwrap_err();
            assert!(message.contains("field `rotary_pct`: expected a share of d_head = 16"), "{message}");
        }
    }
}
