//! Opening and creating the store's file: no symbolic link followed, mode 0600, regular files only, nothing replaced.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, OFlags, RenameFlags};

use super::StoreError;
use crate::lock::{Sharing, lock};
use crate::new_directory;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Opens an existing store file.
///
/// # Errors
/// Says which of "not there", "not a regular file", "empty" and the system's own refusals it is. Nothing is changed.
pub(super) fn open(path: &Path, access: Access) -> Result<File, StoreError> {
    let file = open_even_empty(path, access)?;
    let len = file.metadata().map_err(|error| StoreError::io("look at", path, error))?.len();
    if len == 0 {
        let what = "it is empty (0 bytes), which a store never is, so its contents were lost";
        return Err(StoreError::Damaged { path: path.to_owned(), what: what.to_owned() });
    }
    Ok(file)
}

/// The same, also of a file that has lost all of its contents.
pub(super) fn open_even_empty(path: &Path, access: Access) -> Result<File, StoreError> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    // What it is comes first: a FIFO opened for writing would block or fail with an error that explains nothing.
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::NotFound(path.to_owned())),
        Err(error) => return Err(StoreError::io("look at", path, error)),
    };
    refuse_others(path, &metadata)?;
    let opened =
        OpenOptions::new().read(true).write(access == Access::Write).custom_flags(flags.bits() as i32).open(path);
    let file = opened.map_err(|error| StoreError::io("open", path, error))?;
    let metadata = file.metadata().map_err(|error| StoreError::io("look at", path, error))?;
    refuse_others(path, &metadata)?;
    Ok(file)
}

pub(super) fn refuse_others(path: &Path, metadata: &std::fs::Metadata) -> Result<(), StoreError> {
    let kind = metadata.file_type();
    let found = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a directory",
        () if kind.is_symlink() => "a symbolic link (give the path of the file itself)",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(StoreError::NotAFile { path: path.to_owned(), found })
}

/// Takes a shared lock, so that a running agent is noticed: it holds an exclusive one.
///
/// # Errors
/// [`StoreError::InUse`] if another process writes to the file.
pub(super) fn lock_shared(path: &Path, file: &File) -> Result<(), StoreError> {
    match lock(file, Sharing::Shared).map_err(|error| StoreError::io("lock", path, error))? {
        true => Ok(()),
        false => Err(StoreError::InUse(path.to_owned())),
    }
}

pub(super) fn lock_exclusive(path: &Path, file: &File) -> Result<(), StoreError> {
    match lock(file, Sharing::Exclusive).map_err(|error| StoreError::io("lock", path, error))? {
        true => Ok(()),
        false => Err(StoreError::InUse(path.to_owned())),
    }
}

/// Removes what a start left that was cut short; one that is still at work holds a lock on it.
pub(super) fn remove_leftover(path: &Path, temporary: &Path) -> Result<(), StoreError> {
    match std::fs::symlink_metadata(temporary) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io("look at", temporary, error)),
        Ok(found) => refuse_others(temporary, &found)?,
    }
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(temporary);
    let leftover = opened.map_err(|error| StoreError::io("open", temporary, error))?;
    lock_exclusive(path, &leftover)?;
    std::fs::remove_file(temporary)
        .map_err(|error| StoreError::io("remove what an earlier start left at", temporary, error))
}

/// How the temporary name of a copy ends: one that tells what it is, wherever it is found.
pub(super) const COPY_SUFFIX: &str = "ckpt-db-backup";

/// A file under a temporary name, to be published under its own once its first commit is durable.
///
/// Until then a power cut leaves no file under the final name, so that an empty one is never ours.
pub(super) struct Unpublished {
    pub(super) temporary: PathBuf,
    path: PathBuf,
    file: File,
}

impl Unpublished {
    /// Creates the directory (0700) where it is missing, and an empty file (0600) in it.
    ///
    /// # Errors
    /// The final name is taken, or the system refuses.
    pub(super) fn create(path: &Path) -> Result<(Self, File), StoreError> {
        if std::fs::symlink_metadata(path).is_ok() {
            return Err(StoreError::Exists(path.to_owned()));
        }
        let directory = directory_of(path);
        new_directory::make(directory).map_err(|error| StoreError::io("create the directory", directory, error))?;
        Self::named(path, "new")
    }

    /// An empty file (0600) beside a store that it is to replace.
    ///
    /// # Errors
    /// The system refuses; or another process makes such a file.
    pub(super) fn replacing(path: &Path) -> Result<(Self, File), StoreError> {
        Self::named(path, "rotate")
    }

    /// The same for a copy that is written to wherever an operator likes.
    ///
    /// # Errors
    /// As for [`Self::replacing`].
    pub(super) fn copying(path: &Path) -> Result<(Self, File), StoreError> {
        Self::named(path, COPY_SUFFIX)
    }

    /// The same for a copy that is to replace a store.
    ///
    /// # Errors
    /// As for [`Self::replacing`].
    pub(super) fn restoring(path: &Path) -> Result<(Self, File), StoreError> {
        Self::named(path, "restore")
    }

    fn named(path: &Path, suffix: &str) -> Result<(Self, File), StoreError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = directory_of(path).join(format!(".{name}.{suffix}"));
        remove_leftover(path, &temporary)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits() as i32)
            .open(&temporary)
            .map_err(|error| StoreError::io("create", &temporary, error))?;
        lock_exclusive(path, &file)?;
        let kept = file.try_clone().map_err(|error| StoreError::io("open again", &temporary, error))?;
        Ok((Self { temporary, path: path.to_owned(), file: kept }, file))
    }

    /// The same open file.
    pub(super) fn again(&self) -> Result<File, StoreError> {
        self.file.try_clone().map_err(|error| StoreError::io("open again", &self.temporary, error))
    }

    /// Takes the lock that closing a database gave up.
    pub(super) fn lock(&self) -> Result<(), StoreError> {
        lock_exclusive(&self.path, &self.file)
    }

    /// Puts the file in the place of `old`, durably.
    ///
    /// # Errors
    /// Another file took one of the two names meanwhile, or the system refuses: then nothing was replaced, and the temporary
    /// file is gone as far as it can be removed. If only the directory can't be synced it was.
    pub(super) fn replace(self, old: &File) -> Result<(), StoreError> {
        if !(is_at(&self.file, &self.temporary) && is_at(old, &self.path)) {
            return Err(StoreError::InUse(self.path));
        }
        let synced = self.file.sync_all().map_err(|error| StoreError::io("sync", &self.temporary, error));
        let renamed = synced.and_then(|()| {
            std::fs::rename(&self.temporary, &self.path).map_err(|error| StoreError::io("replace", &self.path, error))
        });
        let directory = directory_of(&self.path).to_owned();
        if let Err(error) = renamed {
            self.discard();
            return Err(error);
        }
        sync_directory(&directory)
    }

    /// The same; `old` stays under the name `kept_at`, which is durable before its own is taken.
    ///
    /// # Errors
    /// As for [`Self::replace`], and that name is another file's. Where nothing was replaced `old` has its own name only, as
    /// far as the other can be removed.
    pub(super) fn replace_keeping(self, old: &File, kept_at: &Path) -> Result<(), StoreError> {
        let path = self.path.clone();
        let replaced = match keep_aside(&path, kept_at, old) {
            Ok(()) => self.replace(old),
            Err(error) => {
                self.discard();
                Err(error)
            }
        };
        if replaced.is_err() && is_at(old, &path) && is_at(old, kept_at) {
            let _ = std::fs::remove_file(kept_at);
        }
        replaced
    }

    /// Removes the file; what can't be removed the next attempt removes.
    pub(super) fn discard(self) {
        if is_at(&self.file, &self.temporary) {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }

    /// Gives the file its name, durably; refuses to replace anything.
    ///
    /// # Errors
    /// The name was taken meanwhile, or the system refuses; then the temporary file is gone as far as it can be removed. If only
    /// the directory can't be synced the file has its name.
    pub(super) fn publish(self) -> Result<(), StoreError> {
        if let Err(error) = self.give_name() {
            self.discard();
            return Err(error);
        }
        sync_directory(directory_of(&self.path))
    }

    fn give_name(&self) -> Result<(), StoreError> {
        // Another start may have taken this file for a leftover before it was locked.
        if !is_at(&self.file, &self.temporary) {
            return Err(StoreError::InUse(self.path.clone()));
        }
        match rustix::fs::renameat_with(CWD, &self.temporary, CWD, &self.path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::EXIST) => Err(StoreError::Exists(self.path.clone())),
            // File systems without the flag: a link refuses to replace as well.
            Err(rustix::io::Errno::INVAL) => {
                rustix::fs::linkat(CWD, &self.temporary, CWD, &self.path, AtFlags::empty())
                    .map_err(|error| StoreError::io("publish", &self.path, error))?;
                std::fs::remove_file(&self.temporary).map_err(|error| StoreError::io("remove", &self.temporary, error))
            }
            Err(error) => Err(StoreError::io("publish", &self.path, error)),
        }
    }
}

/// Whether the open file is the one that lies at `path`.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
    let named = std::fs::symlink_metadata(path).map(identity);
    matches!((named, file.metadata().map(identity)), (Ok(named), Ok(own)) if named == own)
}

/// Where a file that is about to be replaced is to be kept: the name of the store with `.`, `why` and the time in seconds since
/// 1970 behind it, and a number where another file has that name.
pub(super) fn aside_name(path: &Path, why: &str, now_unix_s: u64, old: &File) -> PathBuf {
    let candidate = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        let more = if number == 0 { String::new() } else { format!("-{number}") };
        name.push(format!(".{why}-{now_unix_s}{more}"));
        PathBuf::from(name)
    };
    // An attempt that was cut short has given the same file a name.
    if let Some(same) = kept_aside(path, why).into_iter().find(|name| is_at(old, name)) {
        return same;
    }
    let free = |name: &PathBuf| std::fs::symlink_metadata(name).is_err();
    (0..100).map(candidate).find(free).unwrap_or_else(|| candidate(0))
}

/// The files that were kept beside the store at `path` for that reason, oldest first.
pub(super) fn kept_aside(path: &Path, why: &str) -> Vec<PathBuf> {
    let prefix = format!("{}.{why}-", path.file_name().unwrap_or_default().to_string_lossy());
    let entries = std::fs::read_dir(directory_of(path)).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    let mut kept: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    kept.sort();
    kept
}

/// Every earlier store whose place the one at `path` took, by name: a damaged one, one that no key opened, one that a backup
/// replaced. Whatever is not named exactly as they are is not among them.
#[must_use]
pub fn earlier_stores(path: &Path) -> Vec<PathBuf> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let dated = |name: &PathBuf| {
        let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.rsplit_once('.').and_then(|(_, end)| end.split_once('-')).is_some_and(|(_, when)| {
            when.split_once('-').map_or(is_number(when), |(seconds, number)| is_number(seconds) && is_number(number))
        })
    };
    ["damaged", "locked", "replaced"].into_iter().flat_map(|why| kept_aside(path, why)).filter(dated).collect()
}

/// Gives `old`, which lies at `path` and is about to be replaced, a second name, which stays when the first is taken. It is
/// durable when this returns, so that no power cut leaves the replacement without it.
///
/// # Errors
/// That name is taken, or the system refuses.
fn keep_aside(path: &Path, kept_at: &Path, old: &File) -> Result<(), StoreError> {
    if !is_at(old, kept_at) {
        std::fs::hard_link(path, kept_at).map_err(|error| StoreError::io("keep the old store at", kept_at, error))?;
    }
    sync_directory(directory_of(path))
}

/// Makes the directory's entries durable; redb never does.
pub(super) fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(|error| StoreError::io("sync", directory, error))
}

pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// All octets of an open file. The caller sees to it that nobody writes meanwhile.
pub(super) fn contents(file: &File) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut octets = Vec::new();
    octets.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    octets.resize(len, 0);
    file.read_exact_at(&mut octets, 0)?;
    Ok(octets)
}

/// Whether others than the owner may read or write the file.
pub(super) fn open_to_others(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.mode() & 0o077 != 0)
}
