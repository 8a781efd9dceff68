//! A directory of plain files, for people and other programs: each file is there whole or not at all.

use std::path::{Path, PathBuf};

use super::dir::{Dir, Entry};
use super::error::{MaterializeError, RenderingProblem};
use super::gate::Gate;
use super::name::Name;
use super::{Owners, Published, absolute, modes, publish};
use crate::checkpoint::object::Shown;
use crate::clear::Clear;

/// A directory, kept from other processes that use it in this way for as long as it is open.
pub struct Folder {
    dir: Dir,
}

/// A file in a [`Folder`].
pub struct Contents {
    /// All of it.
    pub bytes: Clear,
    /// Whether others than its owner may write to it.
    pub writable_by_others: bool,
}

impl Folder {
    /// Opens `path`. A missing directory is made, durably and with mode 0700; one that is there keeps its mode. A symbolic
    /// link to it is followed.
    ///
    /// # Errors
    /// The system refuses, or [`MaterializeError::InUse`]: another process has it.
    pub fn open(path: &Path) -> Result<Self, MaterializeError> {
        Self::open_with(path, Gate::default())
    }

    fn open_with(path: &Path, gate: Gate) -> Result<Self, MaterializeError> {
        let dir = Dir::open_root(&absolute(path)?, gate)?;
        dir.lock()?;
        Ok(Self { dir })
    }

    /// The names in it that are UTF-8 and no dot-files, sorted.
    ///
    /// # Errors
    /// It can't be listed.
    pub fn names(&self) -> Result<Vec<String>, MaterializeError> {
        let names = self.dir.names()?;
        Ok(names.iter().filter_map(Name::text).filter(|name| !name.starts_with('.')).map(str::to_owned).collect())
    }

    /// Whether anything, a dangling link too, has the name.
    ///
    /// # Errors
    /// It can't be looked at, or `name` is no single file name.
    pub fn has(&self, name: &str) -> Result<bool, MaterializeError> {
        Ok(self.dir.look(&checked(name)?)? != Entry::Absent)
    }

    /// A regular file of at most `max_bytes`; `None` if it is longer, gone, or something else. No link is followed.
    ///
    /// # Errors
    /// It can't be read, or `name` is no single file name.
    pub fn read(&self, name: &str, max_bytes: u64) -> Result<Option<Contents>, MaterializeError> {
        let found = self.dir.read(&checked(name)?, max_bytes)?;
        Ok(found.map(|(meta, bytes)| Contents { bytes, writable_by_others: meta.mode & 0o022 != 0 }))
    }

    /// Gives `name` these contents, with mode 0600, in the place of what has the name. Durable after the next
    /// [`Folder::sync`]; a file that is like this already is not written again.
    ///
    /// # Errors
    /// The system refuses, or `name` is no single file name. What was there is there still, whole.
    pub fn publish(&self, name: &str, contents: &[u8]) -> Result<Published, MaterializeError> {
        publish::file(&self.dir, &checked(name)?, contents, modes::private_file(Owners::Unchanged))
    }

    /// Gives a file another name in the same directory, which nothing has yet. Whether it could: a name that is taken stays.
    ///
    /// # Errors
    /// The system refuses, or one of the two is no single file name.
    pub fn set_aside(&self, name: &str, aside: &str) -> Result<bool, MaterializeError> {
        if self.has(aside)? {
            return Ok(false);
        }
        publish::place(&self.dir, &checked(name)?, &checked(aside)?)?;
        Ok(true)
    }

    /// Removes a file or link. Whether it was there.
    ///
    /// # Errors
    /// The system refuses, or `name` is no single file name.
    pub fn remove(&self, name: &str) -> Result<bool, MaterializeError> {
        self.dir.unlink(&checked(name)?)
    }

    /// Makes all changes of names durable, those of an earlier process too.
    ///
    /// # Errors
    /// The system refuses: nobody knows then what a power cut leaves.
    pub fn sync(&self) -> Result<(), MaterializeError> {
        self.dir.touch();
        self.dir.sync()
    }

    /// The path of a file, for messages.
    #[must_use]
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// No name leaves the directory, whatever it was made of.
fn checked(name: &str) -> Result<Name, MaterializeError> {
    Name::new(name).ok_or_else(|| MaterializeError::Rendering(RenderingProblem::FilePath(Shown::new(name))))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::sync::{Arc, Mutex};

    use super::super::gate::{Cut, Script, Step};
    use super::*;

    #[test]
    fn files_are_private_and_links_are_replaced_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a/b");
        let folder = Folder::open(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(folder.publish("f", b"one").unwrap(), Published::Created);
        assert_eq!(mode(&path.join("f")), 0o600);
        let inode = fs::metadata(path.join("f")).unwrap().ino();
        assert_eq!(folder.publish("f", b"one").unwrap(), Published::Unchanged);
        assert_eq!(fs::metadata(path.join("f")).unwrap().ino(), inode);
        assert_eq!(folder.publish("f", b"two").unwrap(), Published::Replaced);

        fs::write(scratch.path().join("outside"), "mine").unwrap();
        symlink(scratch.path().join("outside"), path.join("l")).unwrap();
        assert!(folder.has("l").unwrap() && folder.read("l", 9).unwrap().is_none());
        folder.publish("l", b"three").unwrap();
        assert_eq!(fs::read_to_string(scratch.path().join("outside")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(path.join("l")).unwrap(), "three");

        fs::write(path.join(".hidden"), "").unwrap();
        assert_eq!(folder.names().unwrap(), ["f", "l"]);
        assert!(!folder.set_aside("f", "l").unwrap(), "what has the name stays");
        assert!(folder.set_aside("f", "f.aside").unwrap());
        assert!(folder.remove("l").unwrap() && !folder.remove("l").unwrap());
        assert_eq!(folder.names().unwrap(), ["f.aside"]);
    }

    #[test]
    fn no_name_leaves_the_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = Folder::open(&scratch.path().join("in")).unwrap();
        fs::write(scratch.path().join("out"), "mine").unwrap();
        for name in ["../out", "a/b", "..", ".", "", "/etc/passwd", "a\0b"] {
            assert!(folder.publish(name, b"x").is_err(), "{name:?}");
            assert!(folder.remove(name).is_err() && folder.read(name, 9).is_err() && folder.has(name).is_err());
            assert!(folder.set_aside(name, "x").is_err() && folder.set_aside("x", name).is_err());
        }
        assert_eq!(fs::read_to_string(scratch.path().join("out")).unwrap(), "mine");
    }

    #[test]
    fn it_is_one_process_at_a_time() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = Folder::open(scratch.path()).unwrap();
        assert!(matches!(Folder::open(scratch.path()), Err(MaterializeError::InUse { .. })));
        drop(folder);
        Folder::open(scratch.path()).map(drop).unwrap();
    }

    /// Each step cut off in turn: the file is the old or the new one, and what was done is synced in the right order.
    #[test]
    fn whatever_step_fails_a_file_is_whole() {
        let scratch = tempfile::tempdir().unwrap();
        let steps = |cut| {
            let script = Arc::new(Mutex::new(Script { cut, ..Script::default() }));
            let folder = Folder::open_with(scratch.path(), Gate { script: Some(Arc::clone(&script)) }).unwrap();
            let done = folder.publish("f", b"new").and_then(|_| folder.sync());
            let log: Vec<Step> = script.lock().unwrap().log.iter().map(|(step, _)| *step).collect();
            (done.is_ok(), log)
        };
        fs::write(scratch.path().join("f"), "old").unwrap();
        let (done, log) = steps(None);
        assert!(done);
        use Step::{Create, Rename, SetAttr, SyncDir, SyncFile, Write};
        assert_eq!(log, [Create, SetAttr, Write, SyncFile, Rename, SyncDir]);
        for number in 0..log.len() {
            fs::remove_file(scratch.path().join("f")).unwrap();
            fs::write(scratch.path().join("f"), "old").unwrap();
            let (done, _) = steps(Some(Cut::Only(number)));
            assert!(!done, "{number}");
            let found = fs::read_to_string(scratch.path().join("f")).unwrap();
            assert_eq!(found, if number < 5 { "old" } else { "new" }, "{number}");
        }
    }
}
