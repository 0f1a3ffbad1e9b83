//! The official archive: downloaded in parts that add up, checked, and only the needed files taken out.

use super::{FILES, TreebankError, TreebankFiles};
use crate::files::{sha256_of_file, write_whole};
use crate::model::hub::address::shown;
use crate::model::hub::failure::{Failure, TransferError};
use crate::model::hub::transport::{Client, Fetch};
use crate::model::hub::{Limits, lock};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where the authors of the Treebank publish it.
pub const OFFICIAL_ARCHIVE: &str = "https://nlp.stanford.edu/~socherr/stanfordSentimentTreebank.zip";

/// The largest file that is taken out of an archive; the largest real one has about 12 MB.
const LARGEST: u64 = 256 << 20;

/// The largest archive that is downloaded; the official one has about 6 MB.
const LARGEST_ARCHIVE: u64 = 1 << 30;

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
    /// Finds the Treebank's files in `root`; when some are missing there, downloads the archive into it (continuing an
    /// earlier attempt) and takes out the files. `progress` hears bytes there are and bytes there will be.
    ///
    /// The SHA-256 of what came is written beside the archive, in `stanfordSentimentTreebank.zip.sha256`.
    ///
    /// # Errors
    /// [`TreebankError::Missing`] with every missing file, offline or when the server cannot be reached; other
    /// variants for an interrupted download, a different hash and a damaged archive.
    pub fn provide(&self, root: &Path, mut progress: impl FnMut(u64, u64)) -> Result<TreebankFiles, TreebankError> {
        let missing = match TreebankFiles::find(root) {
            Ok(files) => return Ok(files),
            Err(missing) => missing,
        };
        let failed = |missing: Vec<String>, reason: Option<String>| TreebankError::Missing {
            root: root.into(),
            missing,
            address: shown(&self.url),
            reason,
        };
        let path = root.join("stanfordSentimentTreebank.zip");
        if !path.is_file() {
            if self.offline {
                return Err(failed(missing, Some("offline, so it was not downloaded".into())));
            }
            fs::create_dir_all(root).map_err(io_error(root))?;
            match self.download(&path, &mut progress) {
                Err(TreebankError::Answer { url, found, .. }) => {
                    return Err(failed(missing, Some(format!("the download from {url} failed: {found}"))));
                }
                other => other?,
            }
        }
        self.check(&path)?;
        extract(&path, root)?;
        TreebankFiles::find(root).map_err(|missing| failed(missing, Some(format!("not in {} either", path.display()))))
    }

    /// Downloads into `<path>.part`, which becomes `path` when all of it is there. Of several processes one does so,
    /// and the others wait for it.
    fn download(&self, path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<(), TreebankError> {
        let (part, turn) = (beside(path, "part"), beside(path, "lock"));
        let _lock = lock(&turn).map_err(io_error(&turn))?;
        if path.is_file() {
            return Ok(());
        }
        let (url, part) = (self.url.as_str(), part.as_path());
        let fetch = Fetch { url, part, size: None, largest: LARGEST_ARCHIVE, small: false, by_hash: false };
        Client::new(&self.limits).fetch(&fetch, progress).map_err(failure)?;
        fetch.finish(path).map_err(io_error(path))?;
        // Whoever takes a new lock now finds the archive.
        let _ = fs::remove_file(&turn);
        Ok(())
    }

    /// Compares the archive's hash with the user's, and notes it.
    fn check(&self, path: &Path) -> Result<(), TreebankError> {
        let found = sha256_of_file(path).map_err(io_error(path))?;
        if let Some(expected) = self.sha256.as_ref().filter(|expected| !expected.eq_ignore_ascii_case(&found)) {
            let (expected, found) = (format!("SHA-256 {expected}"), format!("SHA-256 {found}"));
            return Err(TreebankError::Archive { path: path.into(), expected, found });
        }
        let note = beside(path, "sha256");
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        write_whole(&note, format!("{found}  {name}\n").as_bytes()).map_err(io_error(&note))
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> TreebankError {
    move |source| TreebankError::Io { path: path.into(), source }
}

/// The path with another ending behind its own.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{ending}"));
    name.into()
}

fn failure(error: TransferError) -> TreebankError {
    let (reason, url) = (error.reason(), error.url);
    match error.failure {
        Failure::Broken { expected, found, reason } => TreebankError::Incomplete { url, expected, found, reason },
        Failure::File { path, source } => TreebankError::Io { path, source },
        _ => TreebankError::Answer { url, expected: "the archive".into(), found: reason },
    }
}

/// Takes the Treebank's files, known by their last name, out of the archive into `root`. No path of the archive's own
/// is ever used.
fn extract(path: &Path, root: &Path) -> Result<(), TreebankError> {
    let broken =
        |found: String| TreebankError::Archive { path: path.into(), expected: "a whole zip archive".into(), found };
    let file = File::open(path).map_err(io_error(path))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| broken(error.to_string()))?;
    let mut taken: Vec<&str> = Vec::new();
    for index in 0..archive.len() {
        let member = archive.by_index(index).map_err(|error| broken(error.to_string()))?;
        let full = member.name().to_owned();
        let last = full.rsplit(['/', '\\']).next().unwrap_or_default();
        let Some(name) = FILES.iter().copied().flatten().copied().find(|name| *name == last) else { continue };
        if full.split('/').any(|folder| folder == "__MACOSX") || !member.is_file() {
            continue;
        }
        if taken.contains(&name) {
            return Err(broken(format!("two files {name}")));
        }
        let mut bytes = Vec::new();
        // Reading to the end checks the member's checksum.
        member.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| broken(format!("{full}: {error}")))?;
        if bytes.len() as u64 > LARGEST {
            return Err(broken(format!("{full}: more than {LARGEST} bytes")));
        }
        let target = root.join(name);
        taken.push(name);
        // A file that the user has put there is the one to use.
        if target.is_file() {
            continue;
        }
        write_whole(&target, &bytes).map_err(io_error(&target))?;
    }
    Ok(())
}
