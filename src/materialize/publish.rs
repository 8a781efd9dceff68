//! Publishing: a file or link appears under its name whole, or not at all.
//!
//! The only module that does it: temporary name, owner and mode, write, sync, rename. The caller syncs the directory,
//! since one sync may serve many files.

use std::ffi::OsStr;

use super::Published;
use super::dir::{Dir, Entry, Moved};
use super::error::MaterializeError;
use super::modes::Attr;
use super::name::Name;

/// There is one writer, so that one temporary name per directory is enough, and numbers where several files wait together
/// for their syncs.
const TEMPORARY: &str = ".ckpt-db.new";

/// Makes `name` a regular file with these contents and attributes. What has the name must be ours (or nothing).
///
/// A file of the same contents and attributes is not written again. Attributes are never changed in place, as another
/// hard link to the file may be somebody else's.
pub(super) fn file(dir: &Dir, name: &Name, contents: &[u8], attr: Attr) -> Result<Published, MaterializeError> {
    let before = dir.look(name)?;
    if is_file(dir, name, contents, attr)? {
        return Ok(Published::Unchanged);
    }
    let temporary = Name::of(TEMPORARY);
    sweep_one(dir, &temporary)?;
    dir.create(&temporary, contents, attr).and_then(|()| place(dir, &temporary, name)).inspect_err(|_| {
        // Clear text should not wait for the next pass; if this fails as well, that pass removes it.
        let _ = dir.unlink(&temporary);
    })?;
    Ok(Published::over(&before))
}

/// Makes `name` a symbolic link to `target`, as [`file`] does for files. `temporary` is the name it has before.
pub(super) fn link(dir: &Dir, name: &Name, target: &OsStr, temporary: &Name) -> Result<Published, MaterializeError> {
    let before = dir.look(name)?;
    if matches!(&before, Entry::Link(old) if old == target) {
        return Ok(Published::Unchanged);
    }
    sweep_one(dir, temporary)?;
    dir.make_link(temporary, target).and_then(|()| place(dir, temporary, name)).inspect_err(|_| {
        let _ = dir.unlink(temporary);
    })?;
    Ok(Published::over(&before))
}

/// The temporary name in directories whose temporary names carry our prefix.
pub(super) fn temporary() -> Name {
    Name::of(TEMPORARY)
}

/// The same for one of several that are there at once.
pub(super) fn temporary_of(number: usize) -> Name {
    if number == 0 { temporary() } else { Name::numbered(TEMPORARY, number) }
}

/// Whether `name` already is this file.
pub(super) fn is_file(dir: &Dir, name: &Name, contents: &[u8], attr: Attr) -> Result<bool, MaterializeError> {
    let same_size =
        matches!(dir.look(name)?, Entry::File(meta) if meta.size == contents.len() as u64 && meta.has(attr));
    if !same_size {
        return Ok(false);
    }
    Ok(dir.read(name, contents.len() as u64)?.is_some_and(|(_, bytes)| bytes.expose() == contents))
}

/// Removes what an interrupted run left under our prefix, except `keep`. Others' dot-files are not ours.
pub(super) fn sweep(dir: &Dir, keep: Option<&Name>) -> Result<(), MaterializeError> {
    for name in dir.names()? {
        if name.is_own() && Some(&name) != keep {
            sweep_one(dir, &name)?;
        }
    }
    Ok(())
}

/// Removes a leftover, whatever it is: a tree that was cut short before its first publishing is a directory.
pub(super) fn sweep_one(dir: &Dir, name: &Name) -> Result<(), MaterializeError> {
    match dir.look(name)? {
        Entry::Absent => Ok(()),
        Entry::Directory(_) => dir.remove_all(name),
        Entry::File(_) | Entry::Link(_) | Entry::Special => dir.unlink(name).map(|_| ()),
    }
}

/// Gives what was made under a temporary name its own.
pub(super) fn place(dir: &Dir, temporary: &Name, name: &Name) -> Result<(), MaterializeError> {
    match dir.rename(temporary, dir, name)? {
        Moved::Done => Ok(()),
        // Two names of one directory, unless something is mounted on one of them.
        Moved::OtherFileSystem => Err(dir.conflict(name)),
    }
}
