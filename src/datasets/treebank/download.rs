//! The official archive: downloaded in parts that add up, checked, and only the needed files taken out.

use super::{FILES, TreebankError, TreebankFiles};
use crate::files::{sha256_of_file, write_whole};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use ureq::http::Response;

/// Where the authors of the Treebank publish it.
pub const OFFICIAL_ARCHIVE: &str = "https://nlp.stanford.edu/~socherr/stanfordSentimentTreebank.zip";

/// The largest file that is taken out of an archive; the largest real one has about 12 MB.
const LARGEST: u64 = 256 << 20;

/// An archive with the Treebank's files, and what is asked of it.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Its address.
    pub url: String,
    /// Its SHA-256, when the user knows it. None is published.
    pub sha256: Option<String>,
    /// Never use the network.
    pub offline: bool,
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
            address: self.url.clone(),
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

    /// Downloads into `<path>.part`, which becomes `path` when its size is the announced one.
    fn download(&self, path: &Path, progress: &mut impl FnMut(u64, u64)) -> Result<(), TreebankError> {
        let part = beside(path, "part");
        let validator = beside(path, "part.etag");
        let have = fs::metadata(&part).map_or(0, |data| data.len());
        // Without a validator nobody can tell whether the server's file is still the one the part is of.
        let known = fs::read_to_string(&validator).ok().filter(|etag| have > 0 && !etag.is_empty());
        let response = match self.request(known.as_deref().map(|etag| (have, etag))) {
            // The part is as long as the file or longer: only a fresh start can tell.
            Err(ureq::Error::StatusCode(416)) => self.request(None),
            other => other,
        };
        let response = response.map_err(|error| self.answer("the archive", &error.to_string()))?;
        let start = if response.status() == 206 { have } else { 0 };
        let length = header(&response, "content-length").and_then(|text| text.parse::<u64>().ok());
        let total = start + length.ok_or_else(|| self.answer("its size in Content-Length", "none"))?;
        if start > 0 {
            let range = header(&response, "content-range").unwrap_or_default();
            if range != format!("bytes {start}-{}/{total}", total.saturating_sub(1)) {
                return Err(self.answer(&format!("bytes from {start} to the end"), &format!("Content-Range {range:?}")));
            }
        }
        let etag = header(&response, "etag").filter(|etag| !etag.starts_with("W/")).unwrap_or_default();
        write_whole(&validator, etag.as_bytes()).map_err(io_error(&validator))?;
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(start == 0)
            .append(start > 0)
            .open(&part)
            .map_err(io_error(&part))?;
        let ended = copy(response.into_body().into_reader(), &mut file, start, total, progress);
        let found = file.metadata().map_err(io_error(&part))?.len();
        if ended.is_err() || found != total {
            let reason = ended.err().map_or("the server closed the connection".into(), |error| error.to_string());
            return Err(TreebankError::Incomplete { url: self.url.clone(), expected: total, found, reason });
        }
        fs::rename(&part, path).map_err(io_error(path))?;
        let _ = fs::remove_file(&validator);
        Ok(())
    }

    /// Asks for the archive, or for its bytes from `from` on if its validator is still the same.
    fn request(&self, from: Option<(u64, &str)>) -> Result<Response<ureq::Body>, ureq::Error> {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(std::time::Duration::from_secs(20)))
            .timeout_recv_response(Some(std::time::Duration::from_secs(60)))
            .user_agent(concat!("actpatch/", env!("CARGO_PKG_VERSION")))
            .build();
        // A compressed transfer would have another length than the file.
        let mut request = ureq::Agent::new_with_config(config).get(&self.url).header("Accept-Encoding", "identity");
        if let Some((start, etag)) = from {
            request = request.header("Range", format!("bytes={start}-")).header("If-Range", etag);
        }
        request.call()
    }

    fn answer(&self, expected: &str, found: &str) -> TreebankError {
        TreebankError::Answer { url: self.url.clone(), expected: expected.into(), found: found.into() }
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

fn header<'r>(response: &'r Response<ureq::Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

/// Copies at most the announced bytes.
fn copy(
    reader: impl Read,
    file: &mut File,
    start: u64,
    total: u64,
    progress: &mut impl FnMut(u64, u64),
) -> io::Result<()> {
    let mut reader = reader.take(total - start);
    let mut buffer = vec![0; 1 << 16];
    let mut done = start;
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return file.sync_all();
        }
        file.write_all(&buffer[..read])?;
        done += read as u64;
        progress(done, total);
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
