//! Notices that key files change, as soon as they do.
//!
//! inotify on the directories that they lie in, or would. It tells nothing but that there is reason to look; whoever relies
//! on it looks now and then without a reason as well, since file systems of other machines tell nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

/// A watch of the directories of key files. Its descriptor is readable when there are news.
pub struct KeyWatch {
    inotify: OwnedFd,
    /// What is watched, by the kernel's number.
    watched: BTreeMap<i32, Interest>,
}

/// Which names in one directory matter.
#[derive(Default)]
struct Interest {
    names: BTreeSet<OsString>,
    /// Key files lie in it: dated ones come under names that nobody knows before.
    holds_keys: bool,
}

impl Interest {
    fn has(&self, name: &OsStr) -> bool {
        let ends = |end: &str| name.as_bytes().ends_with(end.as_bytes());
        // The kubelet of a Secret volume exchanges the link `..data`.
        self.names.contains(name) || (self.holds_keys && (ends(".pem") || ends(".key") || ends("..data")))
    }
}

impl KeyWatch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// The system has no inotify to give: their number is limited for each user.
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify, watched: BTreeMap::new() })
    }

    /// Watches for these files from now on, and for no others. Of a directory that is not there yet, the nearest one above it
    /// is watched until it comes.
    ///
    /// To miss nothing: first this, then look.
    ///
    /// # Errors
    /// One of the directories can't be watched; the others are.
    pub fn arm(&mut self, files: &[PathBuf]) -> io::Result<()> {
        let mut wanted: BTreeMap<PathBuf, Interest> = BTreeMap::new();
        for file in files {
            let Some((directory, name, holds_keys)) = nearest(file) else { continue };
            let interest = wanted.entry(directory).or_default();
            interest.names.insert(name);
            interest.holds_keys |= holds_keys;
        }
        let mut watched: BTreeMap<i32, Interest> = BTreeMap::new();
        let mut result = Ok(());
        let flags = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        for (directory, interest) in wanted {
            match inotify::add_watch(&self.inotify, &directory, flags) {
                // Two paths may lead to one directory.
                Ok(number) => {
                    let known = watched.entry(number).or_default();
                    known.names.extend(interest.names);
                    known.holds_keys |= interest.holds_keys;
                }
                Err(error) => result = Err(error.into()),
            }
        }
        for number in self.watched.keys().filter(|number| !watched.contains_key(number)) {
            // One whose directory is gone is gone with it.
            let _ = inotify::remove_watch(&self.inotify, *number);
        }
        self.watched = watched;
        result
    }

    /// Takes what was told so far; whether any of it matters.
    ///
    /// # Errors
    /// The descriptor can't be read.
    pub fn drain(&mut self) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(self.inotify.as_fd(), &mut buffer);
        let mut matters = false;
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(rustix::io::Errno::AGAIN) => return Ok(matters),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            // Something was left out, or the directory itself has gone elsewhere.
            let whole = ReadFlags::QUEUE_OVERFLOW | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF;
            matters |= event.events().intersects(whole)
                || self.watched.get(&event.wd()).is_some_and(|interest| {
                    event.file_name().is_some_and(|name| interest.has(OsStr::from_bytes(name.to_bytes())))
                });
        }
    }
}

impl AsFd for KeyWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl AsRawFd for KeyWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_raw_fd()
    }
}

/// The nearest directory above `file` that is there, the name in it that leads to the file, and whether that is the file's.
fn nearest(file: &Path) -> Option<(PathBuf, OsString, bool)> {
    file.ancestors().zip(file.ancestors().skip(1)).enumerate().find_map(|(at, (below, directory))| {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        let there = std::fs::metadata(directory).is_ok_and(|found| found.is_dir());
        there.then(|| Some((directory.to_owned(), below.file_name()?.to_owned(), at == 0))).flatten()
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A watch for one file below a new directory, with what was told so far taken.
    fn watch(below: &str) -> (tempfile::TempDir, PathBuf, KeyWatch) {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join(below);
        let mut watch = KeyWatch::new().unwrap();
        watch.arm(std::slice::from_ref(&file)).unwrap();
        (root, file, watch)
    }

    #[test]
    fn what_a_rotation_does_is_told() {
        let (root, file, mut watch) = watch("kubelet-client-current.pem");
        assert!(!watch.drain().unwrap());
        let dated = root.path().join("kubelet-client-2026-11-21-07-30-33.pem");
        fs::write(&dated, "half").unwrap();
        assert!(watch.drain().unwrap());
        assert!(!watch.drain().unwrap(), "it is told once");
        let updated = root.path().join("kubelet-client-updated.pem");
        symlink(&dated, &updated).unwrap();
        watch.drain().unwrap();
        fs::rename(&updated, &file).unwrap();
        assert!(watch.drain().unwrap(), "the link was exchanged");
        let writing = fs::OpenOptions::new().append(true).open(&dated).unwrap();
        assert!(!watch.drain().unwrap());
        drop(writing);
        assert!(watch.drain().unwrap(), "it was finished");
    }

    #[test]
    fn what_else_happens_beside_it_is_not() {
        let (root, _, mut watch) = watch("node-key.pem");
        fs::write(root.path().join("checkpoint-store.db"), "").unwrap();
        fs::create_dir(root.path().join("directory")).unwrap();
        assert!(!watch.drain().unwrap());
        fs::write(root.path().join("node-key.pem"), "").unwrap();
        assert!(watch.drain().unwrap());
    }

    #[test]
    fn directories_that_come_and_go_are_followed() {
        let (root, file, mut watch) = watch("var/lib/kubelet/pki/kubelet.key");
        fs::write(root.path().join("other"), "").unwrap();
        assert!(!watch.drain().unwrap());
        for directory in ["var", "var/lib", "var/lib/kubelet", "var/lib/kubelet/pki"] {
            fs::create_dir(root.path().join(directory)).unwrap();
            assert!(watch.drain().unwrap(), "{directory}");
            watch.arm(std::slice::from_ref(&file)).unwrap();
        }
        fs::write(&file, "").unwrap();
        assert!(watch.drain().unwrap());
        fs::rename(root.path().join("var/lib/kubelet/pki"), root.path().join("aside")).unwrap();
        assert!(watch.drain().unwrap());
        watch.arm(std::slice::from_ref(&file)).unwrap();
        fs::rename(root.path().join("aside"), root.path().join("var/lib/kubelet/pki")).unwrap();
        assert!(watch.drain().unwrap(), "it came back");
        watch.arm(std::slice::from_ref(&file)).unwrap();
        fs::remove_dir_all(root.path().join("var")).unwrap();
        assert!(watch.drain().unwrap(), "it was removed");
        watch.arm(std::slice::from_ref(&file)).unwrap();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        assert!(watch.drain().unwrap());
    }

    /// As a kubelet updates the files of a volume.
    #[test]
    fn a_volume_that_is_updated_is_told() {
        let (root, file, mut watch) = watch("key.pem");
        symlink("..data/key.pem", &file).unwrap();
        watch.drain().unwrap();
        symlink("..2026", root.path().join("..data_tmp")).unwrap();
        assert!(!watch.drain().unwrap());
        fs::rename(root.path().join("..data_tmp"), root.path().join("..data")).unwrap();
        assert!(watch.drain().unwrap());
    }
}
