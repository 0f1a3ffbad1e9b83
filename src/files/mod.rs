//! Files that appear whole or not at all, their hashes, tables, and texts that users give.

mod table;

pub use table::{CsvRows, csv_bytes, read_table, unguarded, written_otherwise};

use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tempfile::NamedTempFile;

/// Writes `bytes` beside `path` and renames the result into place; makes the folder if need be.
///
/// # Errors
/// Any of the file system; an existing file is unchanged then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_all(&[(path, bytes)]).map_err(|(_, error)| error)
}

/// Writes files that belong together, in their order: none is replaced before all of them have found room on the disk.
///
/// # Errors
/// Any of the file system, with the file that it is about.
pub fn write_all<'a>(files: &[(&'a Path, &[u8])]) -> Result<(), (&'a Path, io::Error)> {
    let written = |&(path, bytes): &(&'a Path, &[u8])| {
        let write = || -> io::Result<NamedTempFile> {
            let mut file = temporary_beside(path)?;
            file.write_all(bytes)?;
            Ok(file)
        };
        write().map(|file| (path, file)).map_err(|error| (path, error))
    };
    let written = files.iter().map(written).collect::<Result<Vec<_>, _>>()?;
    written.into_iter().try_for_each(|(path, file)| file.persist(path).map(drop).map_err(|error| (path, error.error)))
}

/// What the names of files begin with that are not whole yet.
const UNFINISHED: &str = ".actpatch-";

/// An empty file beside `path` that may be renamed to it, and is deleted otherwise; makes the folder if need be.
///
/// # Errors
/// Any of the file system.
pub fn temporary_beside(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    static CLEARED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut cleared = CLEARED.lock().unwrap_or_else(PoisonError::into_inner);
    if cleared.insert(folder.to_owned()) {
        remove_abandoned(folder, UNFINISHED);
    }
    drop(cleared);
    held_file(folder, UNFINISHED, "")
}

/// A new file in `folder` that is deleted when it is dropped. The process holds a lock of it, which goes with the process
/// however that ends: then it counts as abandoned.
///
/// # Errors
/// Any of the file system.
pub(crate) fn held_file(folder: &Path, prefix: &str, suffix: &str) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    // Temporary files are private by default; results are as readable as the user's umask says.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    loop {
        let file = builder.prefix(prefix).suffix(suffix).tempfile_in(folder)?;
        // Where nothing can be locked, nothing is found abandoned either.
        let locked = file.as_file().lock();
        // Until it was locked, somebody who looked may have taken it for that of a dead process, and taken it away.
        if locked.is_err() || file.path().exists() {
            return Ok(file);
        }
    }
}

/// Removes what killed processes have left in a folder: files whose names begin so and which nobody holds.
pub(crate) fn remove_abandoned(folder: &Path, prefix: &str) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)) {
        let path = entry.path();
        // It may be renamed, or go with its process, at any moment.
        let Ok(file) = File::open(&path) else { continue };
        if file.try_lock_shared().is_ok() {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// The same for all files of a folder of results that are not whole, in whatever folder below it.
pub fn clear_unfinished(folder: &Path) {
    remove_abandoned(folder, UNFINISHED);
    let folders = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = folders.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.for_each(|entry| clear_unfinished(&entry.path()));
}

/// Refuses a link that leads to nothing where a file is about to be made: it would be made wherever the link says.
///
/// # Errors
/// Such a link.
pub(crate) fn refuse_dangling(path: &Path) -> io::Result<()> {
    match std::fs::read_link(path) {
        Ok(target) if !path.exists() => {
            let target = target.display();
            Err(io::Error::other(format!("expected a file, found a link to {target}, which does not exist")))
        }
        _ => Ok(()),
    }
}

/// What some editors put in front of a text in UTF-8.
pub const BYTE_ORDER_MARK: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// What can be wrong with a file that ought to be a text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line of it is no text.
    #[error(transparent)]
    Line(#[from] LineError),
}

/// A line that is no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: expected {expected}, found {found}")]
pub struct LineError {
    /// Its number, from 1.
    pub line: usize,
    /// What would fit.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// A text that a user gives, without a byte order mark.
///
/// # Errors
/// A file that cannot be read, and those of [`text_of_line`].
pub fn read_text(path: &Path) -> Result<String, TextError> {
    text_of(std::fs::read(path)?)
}

/// The same of a file of at most `most` bytes.
///
/// # Errors
/// Those of [`read_text`], and a file that is longer.
pub fn read_text_within(path: &Path, most: u64) -> Result<String, TextError> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("expected at most {most} bytes")).into());
    }
    text_of(bytes)
}

/// The text of bytes, without a byte order mark.
fn text_of(mut bytes: Vec<u8>) -> Result<String, TextError> {
    without_mark(&mut bytes);
    // Whole texts are text far more often than not: lines are told apart when one of them is not.
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        Ok(text) => first_error(text.as_bytes()).map_or(Ok(text), |error| Err(error.into())),
        Err(other) => Err(first_error(other.as_bytes()).map_or_else(|| io::Error::other(other).into(), Into::into)),
    }
}

/// What is wrong with the first line that is no text.
fn first_error(bytes: &[u8]) -> Option<LineError> {
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    lines.map(|(number, line)| text_of_line(number + 1, line.to_vec())).find_map(Result::err)
}

/// The text of a line by its number, from 1, without its end, and in the first line without a byte order mark.
///
/// # Errors
/// Bytes that are not UTF-8. NUL characters, which no text has: they tell of a binary file, or of UTF-16.
pub fn text_of_line(line: usize, mut bytes: Vec<u8>) -> Result<String, LineError> {
    let wrong = |expected: &str, found: String| LineError { line, expected: expected.into(), found };
    if line == 1 {
        without_mark(&mut bytes);
    }
    let mut text = String::from_utf8(bytes)
        .map_err(|error| wrong("UTF-8", format!("other bytes behind byte {}", error.utf8_error().valid_up_to())))?;
    if let Some(place) = text.find('\0') {
        return Err(wrong("a text", format!("a NUL character behind byte {place}")));
    }
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(text)
}

fn without_mark(bytes: &mut Vec<u8>) {
    if bytes.starts_with(&BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
}

/// The SHA-256 of a file in hexadecimal digits, read piece by piece.
///
/// # Errors
/// Any of the file system.
pub fn sha256_of_file(path: &Path) -> io::Result<String> {
    let mut contents = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut digest = Sha256::new();
    loop {
        let bytes = contents.fill_buf()?;
        if bytes.is_empty() {
            return Ok(hexadecimal(&digest.finalize()));
        }
        digest.update(bytes);
        let used = bytes.len();
        contents.consume(used);
    }
}

/// The SHA-256 of `bytes` in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal digits of `bytes`.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_replaced_stays_and_leaves_no_litter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/result.csv");
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        // A folder in the way cannot be renamed over.
        let blocked = folder.path().join("deep/blocked");
        std::fs::create_dir_all(blocked.join("inside")).unwrap();
        assert!(write_whole(&blocked, b"three").is_err());
        assert_eq!(std::fs::read_dir(folder.path().join("deep")).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn files_that_belong_together_are_all_written_or_none_is() {
        let folder = tempfile::tempdir().unwrap();
        let [record, array] = ["x.json", "x.npy"].map(|name| folder.path().join(name));
        write_all(&[(&record, b"1"), (&array, b"1")]).unwrap();
        // Where a file stands no folder can be made.
        let nowhere = array.join("x.npy");
        let (path, _) = write_all(&[(&record, b"2"), (&nowhere, b"2")]).unwrap_err();
        assert_eq!(path, nowhere);
        assert_eq!(std::fs::read(&record).unwrap(), b"1");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn what_killed_processes_left_is_cleared_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("provenance");
        std::fs::create_dir(&deep).unwrap();
        for path in [folder.path().join(".actpatch-1"), deep.join(".actpatch-2"), folder.path().join(".tmp3")] {
            std::fs::write(path, "half").unwrap();
        }
        let held = held_file(folder.path(), UNFINISHED, "").unwrap();
        clear_unfinished(folder.path());
        let names = |folder: &Path| {
            let entries = std::fs::read_dir(folder).unwrap();
            let names: BTreeSet<String> =
                entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
            names
        };
        let own = held.path().file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(names(folder.path()), BTreeSet::from([own, ".tmp3".into(), "provenance".into()]));
        assert_eq!(names(&deep), BTreeSet::new());
        // Whoever writes into a folder clears it, too.
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join(".actpatch-4"), "half").unwrap();
        write_whole(&elsewhere.path().join("whole"), b"one").unwrap();
        assert_eq!(names(elsewhere.path()), BTreeSet::from(["whole".to_owned()]));
    }

    #[test]
    fn texts_are_read_without_marks_and_lines_that_are_none_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.txt");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_text(&path).map_err(|error| error.to_string())
        };
        assert_eq!(read(b"\xef\xbb\xbfgreat\r\nbad\n").unwrap(), "great\r\nbad\n");
        assert_eq!(read(b"a\n\xef\xbb\xbfb").unwrap(), "a\n\u{feff}b", "elsewhere it is a character");
        assert_eq!(read(b"").unwrap(), "");
        assert_eq!(
            read(b"a\n\xef\xbb\xbf\xe9").unwrap_err(),
            "line 2: expected UTF-8, found other bytes behind byte 3"
        );
        assert_eq!(read(b"a\nb\0").unwrap_err(), "line 2: expected a text, found a NUL character behind byte 1");
        // UTF-16, as some editors write it.
        assert_eq!(read(b"\xff\xfea\0").unwrap_err(), "line 1: expected UTF-8, found other bytes behind byte 0");
        assert!(read_text(&folder.path().join("none")).is_err());
        let line = |number, bytes: &[u8]| text_of_line(number, bytes.to_vec()).unwrap();
        assert_eq!(line(1, b"\xef\xbb\xbfgreat \r\n"), "great ");
        assert_eq!(line(2, b"\xef\xbb\xbfgreat"), "\u{feff}great");
    }

    #[test]
    fn hashes_are_those_of_the_standard() {
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), expected);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(sha256_of_file(&path).unwrap(), expected);
    }
}
