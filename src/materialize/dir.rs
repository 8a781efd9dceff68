//! A directory held open, and the only way to reach what lies in it: by single names, never through a symbolic link.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::Medium;
use super::error::{Foreign, MaterializeError};
use super::gate::{Gate, Step};
use super::modes::Attr;
use super::name::Name;
use super::syncs::{More, Syncs};
use crate::clear::Clear;
use crate::lock::{Sharing, lock};

type Result<T, E = MaterializeError> = std::result::Result<T, E>;

/// What stands under a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Absent,
    File(Meta),
    Directory(Meta),
    /// A symbolic link and its target.
    Link(OsString),
    /// FIFO, socket or device.
    Special,
}

impl Entry {
    /// The same as what stands in the way of something; `None` if nothing does.
    pub(super) fn foreign(&self) -> Option<Foreign> {
        match self {
            Self::Absent => None,
            Self::File(_) => Some(Foreign::File),
            Self::Directory(_) => Some(Foreign::Directory),
            Self::Link(_) => Some(Foreign::Link),
            Self::Special => Some(Foreign::Special),
        }
    }
}

/// Owner, permissions and size of a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
}

impl Meta {
    pub(super) fn has(&self, attr: Attr) -> bool {
        self.mode == attr.mode && attr.owner.is_none_or(|owner| owner == (self.uid, self.gid))
    }
}

/// How a rename ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    Done,
    /// The two directories lie on different file systems; nothing happened.
    OtherFileSystem,
}

/// An open directory.
pub(super) struct Dir {
    fd: OwnedFd,
    /// For messages only.
    path: PathBuf,
    medium: Medium,
    gate: Gate,
    /// Who syncs; `None`: each sync is made at once.
    syncs: Option<Syncs>,
    /// Whether entries changed since the last [`Dir::sync`].
    changed: AtomicBool,
}

impl Dir {
    /// Opens a root; a missing one is made (0700; its missing parents 0755). Symbolic links in `path` are followed: they
    /// are the operator's choice.
    pub(super) fn open_root(path: &Path, gate: Gate) -> Result<Self> {
        make_root(path)?;
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| MaterializeError::io("open directory", path, errno))?;
        let medium = medium_of(&fd).map_err(|errno| MaterializeError::io("look at the file system of", path, errno))?;
        Ok(Self { fd, path: path.to_owned(), medium, gate, syncs: None, changed: AtomicBool::new(false) })
    }

    /// The same directory; what is made through it, and in directories that are opened through it, is durable when `syncs` has
    /// synced, and not before.
    ///
    /// # Errors
    /// No further descriptor is to be had.
    pub(super) fn together(&self, syncs: &Syncs) -> Result<Self> {
        let fd = self.fd.try_clone().map_err(|error| MaterializeError::io("open", &self.path, errno_of(&error)))?;
        let (path, medium, gate) = (self.path.clone(), self.medium, self.gate.clone());
        let changed = AtomicBool::new(self.changed.load(Ordering::Relaxed));
        Ok(Self { fd, path, medium, gate, syncs: Some(syncs.clone()), changed })
    }

    /// Each sync is made at once from now on.
    pub(super) fn at_once(self) -> Self {
        Self { syncs: None, ..self }
    }

    /// Keeps other processes from rendering to this directory for as long as it is open.
    ///
    /// # Errors
    /// [`MaterializeError::InUse`] if another one does so now.
    pub(super) fn lock(&self) -> Result<()> {
        match lock(&self.fd, Sharing::Exclusive).map_err(|errno| MaterializeError::io("lock", &self.path, errno))? {
            true => Ok(()),
            false => Err(MaterializeError::InUse { path: self.path.clone() }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn medium(&self) -> Medium {
        self.medium
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn path_of(&self, name: &Name) -> PathBuf {
        self.path.join(name.as_os_str())
    }

    /// The directory `name`; `None` if nothing has that name.
    ///
    /// # Errors
    /// Anything but a directory is a conflict; a link is not followed.
    pub(super) fn open(&self, name: &Name) -> Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name.as_os_str(), flags, Mode::empty()) {
            Ok(fd) => Ok(Some(self.child(fd, name))),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => Err(self.conflict(name)),
            Err(errno) => Err(self.error("open directory", name, errno)),
        }
    }

    /// The directory `name` with these attributes: made if missing, repaired if different. The flag says whether
    /// something was done.
    pub(super) fn ensure(&self, name: &Name, attr: Attr) -> Result<(Self, bool)> {
        if let Some(dir) = self.open(name)? {
            let repaired = dir.set_own_attr(attr)?;
            return Ok((dir, repaired));
        }
        Ok((self.make(name, attr)?, true))
    }

    /// A new directory.
    pub(super) fn make(&self, name: &Name, attr: Attr) -> Result<Self> {
        self.step(Step::MakeDir, "make directory", name)?;
        rustix::fs::mkdirat(&self.fd, name.as_os_str(), Mode::from_raw_mode(0o700))
            .map_err(|errno| self.error("make directory", name, errno))?;
        self.touch();
        let dir = self.open(name)?.ok_or_else(|| self.error("open directory", name, Errno::NOENT))?;
        dir.set_own_attr(attr)?;
        Ok(dir)
    }

    /// Gives this directory these attributes; whether anything had to be done.
    pub(super) fn set_own_attr(&self, attr: Attr) -> Result<bool> {
        if self.own_meta()?.has(attr) {
            return Ok(false);
        }
        self.gate
            .pass(Step::SetAttr, &self.path)
            .and_then(|()| set_attr(&self.fd, attr))
            .map_err(|errno| MaterializeError::io("set owner and mode of", &self.path, errno))?;
        self.touch();
        Ok(true)
    }

    /// Owner and mode of this directory itself.
    pub(super) fn own_meta(&self) -> Result<Meta> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|errno| MaterializeError::io("look at", &self.path, errno))?;
        Ok(meta(&stat))
    }

    /// Device and inode, which tell directories apart whatever their paths.
    pub(super) fn id(&self) -> Result<(u64, u64)> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|errno| MaterializeError::io("look at", &self.path, errno))?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// What stands under `name`.
    pub(super) fn look(&self, name: &Name) -> Result<Entry> {
        let stat = match rustix::fs::statat(&self.fd, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Entry::Absent),
            Err(errno) => return Err(self.error("look at", name, errno)),
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Entry::File(meta(&stat)),
            FileType::Directory => Entry::Directory(meta(&stat)),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&self.fd, name.as_os_str(), Vec::new())
                    .map_err(|errno| self.error("read link", name, errno))?;
                Entry::Link(OsString::from_vec(target.into_bytes()))
            }
            _ => Entry::Special,
        })
    }

    /// A descriptor that only names what stands under `name`, be it a link; nothing is opened. `None` if nothing has
    /// that name.
    pub(super) fn pin(&self, name: &Name) -> Result<Option<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name.as_os_str(), flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.error("look at", name, errno)),
        }
    }

    /// All names, sorted.
    pub(super) fn names(&self) -> Result<Vec<Name>> {
        let list = || -> Result<Vec<Name>, Errno> {
            let mut names = Vec::new();
            for entry in rustix::fs::Dir::read_from(&self.fd)? {
                // `.` and `..` are no names.
                names.extend(Name::new(OsStr::from_bytes(entry?.file_name().to_bytes())));
            }
            names.sort();
            Ok(names)
        };
        list().map_err(|errno| MaterializeError::io("list", &self.path, errno))
    }

    /// The contents of a regular file of at most `max_bytes`; `None` if it is longer, is gone, may not be read, or is no
    /// regular file (which is neither followed nor waited for).
    pub(super) fn read(&self, name: &Name, max_bytes: u64) -> Result<Option<(Meta, Clear)>> {
        // Looking first keeps us from opening devices, which may have side effects; `O_NONBLOCK` covers an exchange.
        if !matches!(self.look(name)?, Entry::File(_)) {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.fd, name.as_os_str(), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::ACCESS) => return Ok(None),
            Err(errno) => return Err(self.error("open", name, errno)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| self.error("look at", name, errno))?;
        let meta = meta(&stat);
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || meta.size > max_bytes {
            return Ok(None);
        }
        // One spare byte lets the end be seen without growing, which would leave a copy behind.
        let mut bytes = Vec::with_capacity(usize::try_from(meta.size).unwrap_or(0) + 1);
        let read = File::from(fd).take(max_bytes + 1).read_to_end(&mut bytes);
        let bytes = Clear::new(bytes);
        read.map_err(|error| self.error("read", name, errno_of(&error)))?;
        Ok((bytes.len() as u64 <= max_bytes).then_some((meta, bytes)))
    }

    /// A new regular file, written and synced, or to be synced with others. After an error it may exist in part.
    pub(super) fn create(&self, name: &Name, contents: &[u8], attr: Attr) -> Result<()> {
        self.step(Step::Create, "create", name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name.as_os_str(), flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| self.error("create", name, errno))?;
        self.touch();
        let mut file = File::from(fd);
        self.step(Step::SetAttr, "set owner and mode of", name)?;
        set_attr(&file, attr).map_err(|errno| self.error("set owner and mode of", name, errno))?;
        self.step(Step::Write, "write", name)?;
        file.write_all(contents).map_err(|error| self.error("write", name, errno_of(&error)))?;
        if let Some(syncs) = &self.syncs {
            let fd = || Ok((self.medium == Medium::Disk).then(|| OwnedFd::from(file)));
            return syncs.add(Step::SyncFile, self.path_of(name), More::No, fd);
        }
        self.step(Step::SyncFile, "sync", name)?;
        match self.medium {
            Medium::Memory => Ok(()),
            Medium::Disk => rustix::fs::fsync(&file).map_err(|errno| self.error("sync", name, errno)),
        }
    }

    /// A new symbolic link.
    pub(super) fn make_link(&self, name: &Name, target: &OsStr) -> Result<()> {
        self.step(Step::MakeLink, "make link", name)?;
        rustix::fs::symlinkat(target, &self.fd, name.as_os_str())
            .map_err(|errno| self.error("make link", name, errno))?;
        self.touch();
        Ok(())
    }

    /// Renames `from` to `to` in directory `target`, replacing what has that name there.
    pub(super) fn rename(&self, from: &Name, target: &Self, to: &Name) -> Result<Moved> {
        target.step(Step::Rename, "rename to", to)?;
        match rustix::fs::renameat(&self.fd, from.as_os_str(), &target.fd, to.as_os_str()) {
            Ok(()) => {
                self.touch();
                target.touch();
                Ok(Moved::Done)
            }
            Err(Errno::XDEV) => Ok(Moved::OtherFileSystem),
            Err(errno) => Err(target.error("rename to", to, errno)),
        }
    }

    /// Removes anything but a directory. Whether it was there.
    pub(super) fn unlink(&self, name: &Name) -> Result<bool> {
        self.step(Step::Unlink, "remove", name)?;
        match rustix::fs::unlinkat(&self.fd, name.as_os_str(), AtFlags::empty()) {
            Ok(()) => {
                self.touch();
                Ok(true)
            }
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.error("remove", name, errno)),
        }
    }

    /// Removes an empty directory. Whether it could: one that is not empty, or gone, stays as it is.
    pub(super) fn remove_empty(&self, name: &Name) -> Result<bool> {
        self.step(Step::RemoveDir, "remove directory", name)?;
        match rustix::fs::unlinkat(&self.fd, name.as_os_str(), AtFlags::REMOVEDIR) {
            Ok(()) => {
                self.touch();
                Ok(true)
            }
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.error("remove directory", name, errno)),
        }
    }

    /// Removes a directory with all that it holds; links in it are removed, not followed.
    pub(super) fn remove_all(&self, name: &Name) -> Result<()> {
        let Some(dir) = self.open(name)? else { return Ok(()) };
        for inner in dir.names()? {
            match dir.look(&inner)? {
                Entry::Directory(_) => dir.remove_all(&inner)?,
                Entry::File(_) | Entry::Link(_) | Entry::Special => {
                    dir.unlink(&inner)?;
                }
                Entry::Absent => {}
            }
        }
        self.remove_empty(name)?;
        Ok(())
    }

    /// Makes changes of this directory's entries durable, if there were any. Means nothing in memory, and is skipped.
    pub(super) fn sync(&self) -> Result<()> {
        self.sync_with(More::May)
    }

    /// The same for a directory that gets no further entries.
    pub(super) fn sync_complete(&self) -> Result<()> {
        self.sync_with(More::No)
    }

    fn sync_with(&self, more: More) -> Result<()> {
        if !self.changed.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(syncs) = &self.syncs {
            let clone = || (self.medium == Medium::Disk).then(|| self.fd.try_clone()).transpose();
            let fd = || clone().map_err(|error| MaterializeError::io("open", &self.path, errno_of(&error)));
            syncs.add(Step::SyncDir, self.path.clone(), more, fd)?;
            self.changed.store(false, Ordering::Relaxed);
            return Ok(());
        }
        self.gate
            .pass(Step::SyncDir, &self.path)
            .and_then(|()| match self.medium {
                Medium::Memory => Ok(()),
                Medium::Disk => rustix::fs::fsync(&self.fd),
            })
            .map_err(|errno| MaterializeError::io("sync directory", &self.path, errno))?;
        self.changed.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The error that says what has `name` and is not ours.
    pub(super) fn conflict(&self, name: &Name) -> MaterializeError {
        match self.look(name) {
            Ok(entry) => match entry.foreign() {
                Some(found) => MaterializeError::Conflict { path: self.path_of(name), found },
                None => self.error("open", name, Errno::NOENT),
            },
            Err(error) => error,
        }
    }

    fn child(&self, fd: OwnedFd, name: &Name) -> Self {
        let (medium, gate, syncs) = (self.medium, self.gate.clone(), self.syncs.clone());
        Self { fd, path: self.path_of(name), medium, gate, syncs, changed: AtomicBool::new(false) }
    }

    /// Says that there is something for the next [`Dir::sync`].
    pub(super) fn touch(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    fn step(&self, step: Step, action: &'static str, name: &Name) -> Result<()> {
        let path = self.path_of(name);
        self.gate.pass(step, &path).map_err(|errno| MaterializeError::io(action, &path, errno))
    }

    fn error(&self, action: &'static str, name: &Name, errno: Errno) -> MaterializeError {
        MaterializeError::io(action, &self.path_of(name), errno)
    }
}

/// Whether an open file lies in memory.
pub(super) fn medium_of(fd: &impl AsFd) -> Result<Medium, Errno> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    const RAMFS_MAGIC: u64 = 0x8584_58f6;
    // The type's width and sign differ between architectures; the magic numbers have 32 bits.
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, clippy::unnecessary_cast)]
    let magic = u64::from(rustix::fs::fstatfs(fd)?.f_type as u32);
    Ok(if magic == TMPFS_MAGIC || magic == RAMFS_MAGIC { Medium::Memory } else { Medium::Disk })
}

/// Makes a missing root durably, so that nothing that is published in it can outlive its own directory.
fn make_root(path: &Path) -> Result<()> {
    let mut missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
    while let Some(next) = missing.pop() {
        let mode = if missing.is_empty() { 0o700 } else { 0o755 };
        match rustix::fs::mkdir(next, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(MaterializeError::io("make directory", next, errno)),
        }
        if let Some(parent) = next.parent() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(parent, flags, Mode::empty())
                .and_then(rustix::fs::fsync)
                .map_err(|errno| MaterializeError::io("sync directory", parent, errno))?;
        }
    }
    Ok(())
}

fn set_attr(fd: &impl AsFd, attr: Attr) -> Result<(), Errno> {
    if let Some((uid, gid)) = attr.owner {
        rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    // After the owner, whose change may clear bits; and by descriptor, so that no umask applies.
    rustix::fs::fchmod(fd, Mode::from_raw_mode(attr.mode))
}

#[allow(clippy::cast_sign_loss)] // A file's size is never negative; its type is.
fn meta(stat: &rustix::fs::Stat) -> Meta {
    Meta { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, size: stat.st_size as u64 }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
