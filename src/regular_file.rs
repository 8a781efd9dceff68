//! Reads a whole regular file into [`Clear`] memory: never blocks on a FIFO or device, never more than a limit.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{FileType, Mode, OFlags};

use crate::clear::Clear;

/// A file's contents, and what was true of it while it was open.
pub struct Regular {
    /// All of it.
    pub contents: Clear,
    /// Permission bits, e.g. 0o600.
    pub mode: u32,
    /// Modification time, where the file system has one.
    pub modified: Option<SystemTime>,
}

/// Why a file was not read. It is untouched in any case.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It can't be opened: absent, no permission.
    #[error("it can't be opened")]
    Open(#[source] io::Error),
    /// It is something else than a regular file.
    #[error("it is a {0}, not a regular file")]
    NotRegular(&'static str),
    /// It is larger than the limit.
    #[error("it is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// Reading failed.
    #[error("it can't be read")]
    Read(#[source] io::Error),
}

impl ReadError {
    /// Whether the file is simply not there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Open(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
    }
}

/// Reads the file at `path`; symbolic links are followed.
///
/// # Errors
/// [`ReadError`]; only a regular file of at most `limit_bytes` is ever read.
pub fn read(path: &Path, limit_bytes: usize) -> Result<Regular, ReadError> {
    // Asked before opening, since opening a device can have effects of its own, and again of what was opened.
    regular(&rustix::fs::stat(path).map_err(|error| ReadError::Open(error.into()))?)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| ReadError::Open(error.into()))?;
    let stat = rustix::fs::fstat(&file).map_err(|error| ReadError::Read(error.into()))?;
    regular(&stat)?;
    let mut file = File::from(file);
    let modified = file.metadata().and_then(|metadata| metadata.modified()).ok();
    let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
    let contents = read_all(&mut file, limit_bytes, size)?;
    Ok(Regular { contents, mode: Mode::from_raw_mode(stat.st_mode).bits() & 0o7777, modified })
}

fn regular(stat: &rustix::fs::Stat) -> Result<(), ReadError> {
    Err(ReadError::NotRegular(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "directory",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "file of unknown type",
    }))
}

/// Reads `reader` to its end; `size_hint` saves copies where the size is known. Outgrown buffers are wiped.
///
/// # Errors
/// [`ReadError::TooLarge`] as soon as more than `limit_bytes` come, or [`ReadError::Read`].
pub fn read_all(reader: &mut dyn Read, limit_bytes: usize, size_hint: usize) -> Result<Clear, ReadError> {
    if size_hint > limit_bytes && size_hint != usize::MAX {
        return Err(ReadError::TooLarge { limit_bytes });
    }
    // One byte more than expected, so that the end is seen without another buffer.
    let mut buffer = vec![0; size_hint.min(limit_bytes).saturating_add(1).max(8192)];
    let mut len = 0;
    loop {
        match reader.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                drop(Clear::new(buffer));
                return Err(ReadError::Read(error));
            }
        }
        if len > limit_bytes {
            drop(Clear::new(buffer));
            return Err(ReadError::TooLarge { limit_bytes });
        }
        if len == buffer.len() {
            let mut larger = vec![0; buffer.len() * 2];
            larger[..len].copy_from_slice(&buffer);
            drop(Clear::new(std::mem::replace(&mut buffer, larger)));
        }
    }
    buffer.truncate(len);
    Ok(Clear::new(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "hello").unwrap();
        std::fs::write(path("empty"), "").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();

        let text = |name: &str, limit| read(&path(name), limit).map(|file| file.contents.expose().to_vec());
        assert_eq!(text("file", 5).unwrap(), b"hello");
        assert_eq!(text("link", 5).unwrap(), b"hello");
        assert_eq!(text("empty", 5).unwrap(), b"");
        assert!(matches!(text("file", 4), Err(ReadError::TooLarge { limit_bytes: 4 })));
        assert!(matches!(text("fifo", 5), Err(ReadError::NotRegular("FIFO"))));
        assert!(matches!(text("socket", 5), Err(ReadError::NotRegular("socket"))));
        assert!(matches!(read(dir.path(), 5).map(|_| ()), Err(ReadError::NotRegular("directory"))));
        assert!(matches!(read(Path::new("/dev/zero"), 5).map(|_| ()), Err(ReadError::NotRegular("device"))));
        assert!(text("dangling", 5).unwrap_err().is_absent());
        assert!(read(&path("file").join("x"), 5).map(|_| ()).unwrap_err().is_absent());
    }

    #[test]
    fn a_stream_of_unknown_length_is_read_to_its_end() {
        for len in [0, 1, 8191, 8192, 8193, 40_000] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            for hint in [0, len, len + 1] {
                let read = read_all(&mut bytes.as_slice(), 50_000, hint).unwrap();
                assert_eq!(read.expose(), bytes, "{len} {hint}");
            }
        }
        assert!(matches!(read_all(&mut io::repeat(1), 50_000, 0), Err(ReadError::TooLarge { .. })));
    }
}
