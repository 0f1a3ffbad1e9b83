//! Names of the suite's tables: `direction_patching_<metric>_<site>_<scaffold>[_<variant>].csv`.

use crate::choice::Malformed;
use crate::datasets::treebank::Scaffold;
use crate::engine::Metric;
use std::fmt;
use std::str::FromStr;

/// What a table of the suite holds, as the name of its file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuiteName {
    /// What the values measure.
    pub metric: Metric,
    /// What was patched.
    pub site: SuiteSite,
    /// Text around the Treebank's sentences.
    pub scaffold: Scaffold,
    /// What else sets the table apart, joined by `_`: `all_layers`, `para`, `ortho`, `compat_…`; mostly nothing.
    pub variant: String,
}

/// What the suite patches along directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SuiteSite {
    /// The residual stream: `resid`.
    Residual,
    /// The results of the heads that the paper patches: `attn_result`.
    PaperHeads,
    /// The results of other heads, joined by `-`: `attn_result_9.2-10.1`.
    Heads(String),
}

/// How the names begin and end.
const PREFIX: &str = "direction_patching_";
const SUFFIX: &str = ".csv";
const RESIDUAL: &str = "resid";
const HEADS: &str = "attn_result";

impl SuiteName {
    /// Is a file's name one of a table of the suite, or meant as one?
    pub(super) fn resembles(file: &str) -> bool {
        file.starts_with(PREFIX) && file.ends_with(SUFFIX)
    }
}

impl fmt::Display for SuiteSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SuiteSite::Residual => f.write_str(RESIDUAL),
            SuiteSite::PaperHeads => f.write_str(HEADS),
            SuiteSite::Heads(heads) => write!(f, "{HEADS}_{heads}"),
        }
    }
}

impl SuiteSite {
    fn named(name: &str) -> Option<Self> {
        match name {
            RESIDUAL => Some(SuiteSite::Residual),
            HEADS => Some(SuiteSite::PaperHeads),
            _ => {
                let heads = name.strip_prefix(HEADS)?.strip_prefix('_')?;
                Some(SuiteSite::Heads(heads.to_owned()))
            }
        }
    }
}

impl fmt::Display for SuiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { metric, site, scaffold, variant } = self;
        let variant = if variant.is_empty() { String::new() } else { format!("_{variant}") };
        write!(f, "{PREFIX}{metric}_{site}_{scaffold}{variant}{SUFFIX}")
    }
}

impl FromStr for SuiteName {
    type Err = Malformed;

    fn from_str(file: &str) -> Result<Self, Malformed> {
        let parts = file.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
        let name = parts.and_then(|parts| Metric::ALL.into_iter().find_map(|metric| of_metric(metric, parts)));
        name.ok_or_else(|| {
            format!("expected {PREFIX}<metric>_<site>_<scaffold>{SUFFIX}, perhaps with _<variant>, found {file:?}")
                .into()
        })
    }
}

/// The name whose part behind the prefix is `parts`, if it is one of this metric.
fn of_metric(metric: Metric, parts: &str) -> Option<SuiteName> {
    let rest = parts.strip_prefix(metric.name())?.strip_prefix('_')?;
    Scaffold::ALL.into_iter().find_map(|scaffold| {
        let (site, variant) = rest.split_once(&format!("_{scaffold}"))?;
        // `plainly` is no scaffold, and `logit_diff` no metric in front of `noising_resid`.
        let variant = if variant.is_empty() { "" } else { variant.strip_prefix('_')? };
        Some(SuiteName { metric, site: SuiteSite::named(site)?, scaffold, variant: variant.to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let heads = SuiteSite::Heads("1.0-2.1".into());
        for (file, metric, site, scaffold, variant) in [
            ("logit_diff_resid_plain", Metric::LogitDiff, SuiteSite::Residual, Scaffold::Plain, ""),
            (
                "logit_diff_noising_resid_plain_ortho",
                Metric::LogitDiffNoising,
                SuiteSite::Residual,
                Scaffold::Plain,
                "ortho",
            ),
            (
                "logit_flip_attn_result_classification",
                Metric::LogitFlip,
                SuiteSite::PaperHeads,
                Scaffold::Classification,
                "",
            ),
            ("logit_diff_attn_result_1.0-2.1_plain", Metric::LogitDiff, heads, Scaffold::Plain, ""),
            (
                "sign_flip_resid_continuation_all_layers_para_compat_double-spaces",
                Metric::SignFlip,
                SuiteSite::Residual,
                Scaffold::Continuation,
                "all_layers_para_compat_double-spaces",
            ),
        ] {
            let name = SuiteName { metric, site, scaffold, variant: variant.into() };
            let file = format!("direction_patching_{file}.csv");
            assert_eq!(name.to_string(), file);
            assert_eq!(file.parse(), Ok(name));
        }
    }

    #[test]
    fn other_files_are_none_of_the_suite() {
        for file in [
            "direction_patching_notes.csv",
            "direction_patching_banana_resid_plain.csv",
            "direction_patching_logit_diff_resid_plainly.csv",
            "direction_patching_logit_diff_mlp_plain.csv",
            "direction_patching_logit_diff_resid_plain.npy",
            "activation_patching_logit_diff_simple_plain_z.csv",
        ] {
            assert!(file.parse::<SuiteName>().unwrap_err().to_string().contains(file), "{file}");
        }
        assert!(SuiteName::resembles("direction_patching_notes.csv") && !SuiteName::resembles("notes.csv"));
    }
}
