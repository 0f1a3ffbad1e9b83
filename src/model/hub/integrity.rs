//! Whether a file holds the bytes that the Hub has: the hashes that the Hub's etags are.
//!
//! A large file's etag is its SHA-256; a small file's is the hash that Git gives it, SHA-1 of `blob <length>`, a zero
//! byte and the contents. Some mirrors answer with the plain SHA-1, which is as good. Blobs in the cache are named by
//! their etags, so that a blob can be compared with its own name.

use crate::files::{hexadecimal, sha256_of_file};
use crate::model::names::is_commit as is_git_hash;
use crate::model::provenance::{HASHED_BYTES, is_sha256};
use crate::model::{gguf, tensors};
use sha1::{Digest, Sha1};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

/// How a file differs from what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    /// The size or hash that it should have.
    pub expected: String,
    /// The one that it has.
    pub found: String,
}

/// Compares a file with the hash that `etag` is; with an etag that is none there is nothing to compare.
pub(super) fn compare(path: &Path, etag: &str) -> io::Result<Option<Damage>> {
    let expected = etag.to_ascii_lowercase();
    let (kind, found, same) = if is_sha256(etag) {
        let found = sha256_of_file(path)?;
        ("SHA-256", found.clone(), found == expected)
    } else if is_git_hash(etag) {
        let mut git = Sha1::new_with_prefix(format!("blob {}\0", std::fs::metadata(path)?.len()));
        let mut plain = Sha1::new();
        read(path, |piece| {
            git.update(piece);
            plain.update(piece);
        })?;
        let (git, plain) = (hexadecimal(&git.finalize()), hexadecimal(&plain.finalize()));
        let same = [&git, &plain].contains(&&expected);
        ("Git hash", git, same)
    } else {
        return Ok(None);
    };
    Ok((!same).then(|| Damage { expected: format!("{kind} {expected}"), found: format!("{kind} {found}") }))
}

/// Hands over a file piece by piece.
fn read(path: &Path, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut contents = BufReader::with_capacity(1 << 20, File::open(path)?);
    loop {
        let piece = contents.fill_buf()?;
        if piece.is_empty() {
            return Ok(());
        }
        take(piece);
        let used = piece.len();
        contents.consume(used);
    }
}

/// Compares a blob in the cache with its name. Large weights whose length is the one that their own header gives are
/// not read for their hash again, which was compared when they came.
pub(super) fn compare_blob(path: &Path) -> io::Result<Option<Damage>> {
    let blob = std::fs::canonicalize(path)?;
    let name = blob.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let weights = path.extension().is_some_and(|ending| ending == "safetensors");
    let is_whole = || (weights && tensors::is_whole(&blob)) || (gguf::is_gguf(path) && gguf::is_whole(&blob));
    if std::fs::metadata(&blob)?.len() > HASHED_BYTES && is_whole() {
        return Ok(None);
    }
    compare(&blob, &name)
}

/// Does an etag stand for the contents?
pub(super) fn is_hash(etag: &str) -> bool {
    is_sha256(etag) || is_git_hash(etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_of_the_standards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "hello\n").unwrap();
        // `git hash-object`, `sha1sum`, `sha256sum`.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha1 = "f572d396fae9206628714fb2ce00f72e94f2258f";
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        for etag in [git, sha1, sha256, &git.to_uppercase(), "5f3c-1a", ""] {
            assert_eq!(compare(&path, etag).unwrap(), None, "{etag}");
        }
        std::fs::write(&path, "hallo\n").unwrap();
        assert_eq!(compare(&path, "5f3c-1a").unwrap(), None);
        let found = "4cf5aa5f9a644263dbe3d6e78bcbef45487a802c";
        let damage = Damage { expected: format!("Git hash {git}"), found: format!("Git hash {found}") };
        assert_eq!(compare(&path, git).unwrap(), Some(damage));
        let found = "622cb3371c1a08096eaac564fb59acccda1fcdbe13a9dd10b486e6463c8c2525";
        let damage = Damage { expected: format!("SHA-256 {sha256}"), found: format!("SHA-256 {found}") };
        assert_eq!(compare(&path, sha256).unwrap(), Some(damage));
        std::fs::write(&path, "").unwrap();
        assert_eq!(compare(&path, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391").unwrap(), None);
    }

    #[test]
    #[cfg(unix)]
    fn large_weights_are_read_for_their_hash_only_when_their_length_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let [blob, weights] = ["0".repeat(64).as_str(), "model.safetensors"].map(|name| folder.path().join(name));
        write_weights(&blob, HASHED_BYTES);
        std::os::unix::fs::symlink(&blob, &weights).unwrap();
        assert_eq!(compare_blob(&weights).unwrap(), None);
        File::options().write(true).open(&blob).unwrap().set_len(HASHED_BYTES + 1).unwrap();
        let damage = compare_blob(&weights).unwrap().unwrap();
        assert_eq!(damage.expected, format!("SHA-256 {}", "0".repeat(64)));
    }

    /// A file with one tensor of so many zero bytes.
    #[cfg(unix)]
    fn write_weights(path: &Path, bytes: u64) {
        let header = format!(r#"{{"a":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[0,{bytes}]}}}}"#);
        let mut contents = (header.len() as u64).to_le_bytes().to_vec();
        contents.extend(header.bytes());
        std::fs::write(path, &contents).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(contents.len() as u64 + bytes).unwrap();
    }
}
