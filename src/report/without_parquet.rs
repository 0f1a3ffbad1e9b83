//! Parquet for a crate without the feature `parquet`: nothing is written.

use super::{ReportError, SuiteRow};
use std::io::{Error, ErrorKind};
use std::path::Path;

impl SuiteRow {
    /// Writes nothing: that needs the feature `parquet`.
    ///
    /// # Errors
    /// [`ReportError::Io`], always.
    pub fn write_parquet(_: &[Self], path: &Path) -> Result<(), ReportError> {
        let reason = "Parquet needs the feature `parquet`, without which this program was built; the same rows are in \
                      direction_patching.csv of the model's folder";
        Err(ReportError::Io { path: path.into(), source: Error::new(ErrorKind::Unsupported, reason) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_out_is_told() {
        let message = SuiteRow::write_parquet(&[], Path::new("x.parquet")).unwrap_err().to_string();
        assert!(message.starts_with("x.parquet: ") && message.contains("direction_patching.csv"), "{message}");
    }
}
