//! Small files of the node: read whole, if regular and of at most 1 MiB; and where a path of the node lies from here.

use std::io;
use std::path::{Path, PathBuf};

use crate::clear::Clear;
use crate::regular_file::{self, ReadError};

/// No configuration file that is looked at here is larger.
const FILE_MAX_BYTES: usize = 1024 * 1024;

/// A file's bytes; none if it does not exist. The error names the file and what was attempted.
pub(super) fn bytes(path: &Path) -> Result<Option<Clear>, String> {
    match regular_file::read(path, FILE_MAX_BYTES) {
        Ok(file) => Ok(Some(file.contents)),
        Err(error) if error.is_absent() => Ok(None),
        Err(ReadError::Open(cause) | ReadError::Read(cause)) => Err(cannot("read", path, &cause)),
        Err(error @ (ReadError::NotRegular(_) | ReadError::TooLarge { .. })) => {
            Err(format!("cannot read {}: {error}", path.display()))
        }
    }
}

/// The same as text.
pub(super) fn text(path: &Path) -> Result<Option<String>, String> {
    let Some(bytes) = bytes(path)? else { return Ok(None) };
    match std::str::from_utf8(bytes.expose()) {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(format!("cannot read {}: it is not UTF-8", path.display())),
    }
}

/// `cannot read /a: no such file`.
pub(super) fn cannot(what: &str, path: &Path, cause: &io::Error) -> String {
    format!("cannot {what} {}: {cause}", path.display())
}

/// Where a path of the node lies as seen from here.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
