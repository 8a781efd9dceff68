//! Has a file or directory changed since it was last looked at? Told without reading it.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What is compared: every directory entry with its inode, size and times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(Vec<(std::ffi::OsString, u64, u64, i64, i64)>);

/// The stamp of a file, or of a directory and everything directly in it.
///
/// Links are followed, as the source follows them.
///
/// # Errors
/// The path itself can't be looked at. An entry that goes away meanwhile is left out.
pub fn stamp(path: &Path) -> io::Result<Stamp> {
    let mut entries = vec![entry(path, path.as_os_str().to_owned())?];
    if std::fs::metadata(path)?.is_dir() {
        for found in std::fs::read_dir(path)? {
            let found = found?;
            entries.extend(entry(&found.path(), found.file_name()).ok());
        }
    }
    entries.sort();
    Ok(Stamp(entries))
}

fn entry(path: &Path, name: std::ffi::OsString) -> io::Result<(std::ffi::OsString, u64, u64, i64, i64)> {
    let metadata = std::fs::metadata(path)?;
    Ok((name, metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_a_directory_shows() {
        let directory = tempfile::tempdir().unwrap();
        let look = || stamp(directory.path()).unwrap();
        let empty = look();
        assert_eq!(empty, look());
        let file = directory.path().join("a.yaml");
        std::fs::write(&file, "a").unwrap();
        let one = look();
        assert_ne!(empty, one);
        // Another size, so that the test does not depend on the clock's resolution.
        std::fs::write(&file, "ab").unwrap();
        let two = look();
        assert_ne!(one, two);
        std::fs::remove_file(&file).unwrap();
        assert_ne!(two, look());
        assert!(stamp(&file).is_err());
    }
}
