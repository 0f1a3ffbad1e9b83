//! The archive for a crate without the feature `hub`: files that are there are found, missing ones are not downloaded.

use super::{TreebankError, TreebankFiles};
use crate::model::hub::Limits;
use std::path::Path;

/// Where the authors of the Treebank publish it.
pub const OFFICIAL_ARCHIVE: &str = "https://nlp.stanford.edu/~socherr/stanfordSentimentTreebank.zip";

/// An archive with the Treebank's files, and what is asked of it.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Its address.
    pub url: String,
    /// Its SHA-256, when the user knows it. None is published.
    pub sha256: Option<String>,
    /// Never use the network.
    pub offline: bool,
    /// How long and how often the server is tried.
    pub limits: Limits,
}

impl Archive {
    /// Finds the Treebank's files in `root`. Nothing is downloaded or unpacked, and `progress` hears nothing: that needs
    /// the feature `hub`.
    ///
    /// # Errors
    /// [`TreebankError::Missing`] with every missing file.
    pub fn provide(&self, root: &Path, _progress: impl FnMut(u64, u64)) -> Result<TreebankFiles, TreebankError> {
        TreebankFiles::find(root).map_err(|missing| TreebankError::Missing {
            root: root.into(),
            missing,
            address: self.url.clone(),
            reason: Some("the download needs the feature `hub`, without which this program was built".into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_hub_feature_missing_files_are_an_error() {
        let archive = Archive { url: OFFICIAL_ARCHIVE.into(), sha256: None, offline: false, limits: Limits::default() };
        let folder = tempfile::tempdir().unwrap();
        let message = archive.provide(folder.path(), |_, _| {}).unwrap_err().to_string();
        for part in ["dictionary.txt", "sentiment_labels.txt", OFFICIAL_ARCHIVE, "the feature `hub`"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/treebank");
        assert_eq!(archive.provide(&fixture, |_, _| {}).unwrap(), TreebankFiles::find(&fixture).unwrap());
    }
}
