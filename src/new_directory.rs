//! Makes directories that are there after a power cut.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// Makes `directory` and what is missing above it, of mode 0700, each name durable before anything is made below it. What is
/// there stays as it is.
///
/// # Errors
/// The system refuses; what is made already stays.
pub fn make(directory: &Path) -> io::Result<()> {
    let parent = directory.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    match (DirBuilder::new().mode(0o700).create(directory), parent) {
        (Ok(()), Some(parent)) => File::open(parent)?.sync_all(),
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            make(parent)?;
            make(directory)
        }
        (Err(_), _) if directory.is_dir() => Ok(()),
        (result, _) => result,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_missing_is_made_and_what_is_there_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path().join("top");
        fs::create_dir(&top).unwrap();
        fs::set_permissions(&top, fs::Permissions::from_mode(0o755)).unwrap();
        for _ in 0..2 {
            make(&top.join("a/b/c")).unwrap();
        }
        let mode = |path: &str| fs::metadata(top.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(["", "a", "a/b", "a/b/c"].map(mode), [0o755, 0o700, 0o700, 0o700]);
        fs::write(top.join("file"), "").unwrap();
        for path in ["file", "file/below"] {
            assert!(make(&top.join(path)).is_err(), "{path}");
        }
        make(Path::new("/")).unwrap();
        make(Path::new(".")).unwrap();
    }
}
