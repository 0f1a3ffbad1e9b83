//! Files that appear whole or not at all, and their hashes.

use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

/// Writes `bytes` beside `path` and renames the result into place; makes the folder if need be.
///
/// # Errors
/// Any of the file system; an existing file is unchanged then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = temporary_beside(path)?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// An empty file beside `path` that may be renamed to it, and is deleted otherwise; makes the folder if need be.
///
/// # Errors
/// Any of the file system.
pub fn temporary_beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    // Temporary files are private by default; results are as readable as the user's umask says.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Rows as CSV: structs under a header of their fields' names, lists of cells as they are.
///
/// # Errors
/// A row of another length than the first one.
pub fn csv_bytes<R: Serialize>(rows: impl IntoIterator<Item = R>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer = csv::Writer::from_writer(&mut bytes);
    rows.into_iter().try_for_each(|row| writer.serialize(row))?;
    writer.flush()?;
    drop(writer);
    Ok(bytes)
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
    fn rows_become_csv_with_quotes_where_they_are_needed() {
        let text = |rows: &[&[&str]]| csv_bytes(rows).map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(text(&[&["token", "n"], &[" \"a\",\n", "2"]]).unwrap(), "token,n\n\" \"\"a\"\",\n\",2\n");
        assert!(text(&[&["token", "n"], &["b"]]).is_err());
        #[derive(Serialize)]
        struct Row {
            token: &'static str,
            mean: Option<f64>,
        }
        let rows = [Row { token: "a", mean: Some(0.5) }, Row { token: "b", mean: None }];
        assert_eq!(csv_bytes(rows).unwrap(), b"token,mean\na,0.5\nb,\n");
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
