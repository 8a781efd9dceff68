//! Removes a file or directory that the file-based pod-checkpointer left and nothing uses, on an operator's word.

use std::path::{Path, PathBuf};

use super::dir::{Dir, Entry};
use super::error::MaterializeError;
use super::gate::Gate;
use super::name::Name;
use crate::store::Committed;

/// Removes what stands at `below` (plain names) below the directory `root`, with all that it holds; directories on the way
/// that are empty then go as well, `root` stays. No link on the way is followed. Whether there was something.
///
/// Whoever asks for it has made durable what is worth keeping of it.
///
/// # Errors
/// It, or a part of it, is there still.
pub fn remove_leftover(root: &Path, below: &Committed<Vec<String>>) -> Result<bool, MaterializeError> {
    let invalid =
        || MaterializeError::io("remove", &root.join(PathBuf::from_iter(below.get())), rustix::io::Errno::INVAL);
    let names: Option<Vec<Name>> = below.get().iter().map(Name::new).collect();
    let names = names.ok_or_else(invalid)?;
    let (last, above) = names.split_last().ok_or_else(invalid)?;
    if !root.is_dir() {
        return Ok(false);
    }
    let mut dirs = vec![Dir::open_root(root, Gate::default())?];
    for name in above {
        match dirs.last().and_then(|dir| dir.open(name).transpose()).transpose()? {
            Some(dir) => dirs.push(dir),
            None => return Ok(false),
        }
    }
    let parent = dirs.last().ok_or_else(invalid)?;
    match parent.look(last)? {
        Entry::Absent => return Ok(false),
        Entry::Directory(_) => parent.remove_all(last)?,
        Entry::File(_) | Entry::Link(_) | Entry::Special => drop(parent.unlink(last)?),
    }
    for (depth, name) in above.iter().enumerate().rev() {
        let (above, dir) = (&dirs[depth], &dirs[depth + 1]);
        dir.sync()?;
        if !dir.names()?.is_empty() {
            return Ok(true);
        }
        above.remove_empty(name)?;
    }
    dirs[0].sync()?;
    Ok(true)
}
