//! One generation of a tree: a directory that is filled before anybody sees it, and never changed afterwards.

use std::collections::{BTreeMap, BTreeSet};

use super::Owners;
use super::dir::{Dir, Entry, Meta};
use super::error::MaterializeError;
use super::layout::{Layout, Names};
use super::modes::{tree_dir, tree_file};
use super::name::Name;
use crate::checkpoint::lookup::Reader;

type Result<T, E = MaterializeError> = std::result::Result<T, E>;

/// Fills the empty directory `fresh` and makes it durable. After an error it holds a part.
pub(super) fn write(fresh: &Dir, layout: &Layout<'_>, owners: Owners, reader: &mut Reader<'_>) -> Result<()> {
    let mut inner: BTreeMap<&[Name], Dir> = BTreeMap::new();
    for names in &layout.dirs {
        let (parent, name) = parent_of(fresh, &inner, names);
        let made = parent.make(name, tree_dir(owners, layout.fs_group))?;
        inner.insert(names, made);
    }
    layout.contents(reader, |names, file, bytes| {
        let (parent, name) = parent_of(fresh, &inner, names);
        parent.create(name, bytes, tree_file(owners, file.mode, layout.fs_group))?;
        Ok(true)
    })?;
    for dir in inner.values().rev() {
        dir.sync_complete()?;
    }
    fresh.sync_complete()
}

/// Whether `current` holds exactly this: the same names, kinds, owners, modes and contents.
///
/// Names and modes are compared first, so that no object is opened for a tree that is written anew in any case.
pub(super) fn is_same(current: &Dir, layout: &Layout<'_>, owners: Owners, reader: &mut Reader<'_>) -> Result<bool> {
    let mut found = Found::default();
    if !found.collect(current, &mut Vec::new())? {
        return Ok(false);
    }
    let dir_attr = tree_dir(owners, layout.fs_group);
    let same_names = found.dirs.keys().eq(layout.dirs.iter()) && found.files.keys().eq(layout.files.keys());
    let same_modes = found.dirs.values().all(|meta| meta.has(dir_attr))
        && found
            .files
            .values()
            .zip(layout.files.values())
            .all(|(meta, file)| meta.has(tree_file(owners, file.mode, layout.fs_group)));
    if !same_names || !same_modes {
        return Ok(false);
    }
    layout.contents(reader, |names, _, bytes| {
        if found.files.get(names).is_none_or(|meta| meta.size != bytes.len() as u64) {
            return Ok(false);
        }
        let (name, above) = names.split_last().expect("a layout's paths are not empty");
        let Some(parent) = descend(current, above)? else { return Ok(false) };
        let read = parent.as_ref().unwrap_or(current).read(name, bytes.len() as u64)?;
        Ok(read.is_some_and(|(_, contents)| contents.expose() == bytes))
    })
}

/// What a generation holds.
#[derive(Default)]
struct Found {
    dirs: BTreeMap<Names, Meta>,
    files: BTreeMap<Names, Meta>,
}

impl Found {
    /// Collects all below `dir`; false if something is there that no generation holds.
    fn collect(&mut self, dir: &Dir, at: &mut Names) -> Result<bool> {
        for name in dir.names()? {
            at.push(name.clone());
            match dir.look(&name)? {
                Entry::File(meta) => {
                    self.files.insert(at.clone(), meta);
                }
                Entry::Directory(meta) => {
                    self.dirs.insert(at.clone(), meta);
                    let whole = match dir.open(&name)? {
                        Some(inner) => self.collect(&inner, at)?,
                        None => false,
                    };
                    if !whole {
                        return Ok(false);
                    }
                }
                Entry::Link(_) | Entry::Special | Entry::Absent => return Ok(false),
            }
            at.pop();
        }
        Ok(true)
    }
}

/// The directory in which `names` lies, and its last name.
fn parent_of<'a>(top: &'a Dir, inner: &'a BTreeMap<&[Name], Dir>, names: &'a Names) -> (&'a Dir, &'a Name) {
    let (name, above) = names.split_last().expect("a layout's paths are not empty");
    (if above.is_empty() { top } else { inner.get(above).expect("a layout lists parents first") }, name)
}

/// The directory at `names` below `top`: `Some(None)` is `top` itself, `None` that there is none.
fn descend(top: &Dir, names: &[Name]) -> Result<Option<Option<Dir>>> {
    let mut at: Option<Dir> = None;
    for name in names {
        match at.as_ref().unwrap_or(top).open(name)? {
            Some(dir) => at = Some(dir),
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// The number of a generation directory `..<n>`, written in one way only.
pub(super) fn number(name: &str) -> Option<u64> {
    let number: u64 = name.strip_prefix("..")?.parse().ok()?;
    (dir_name(number).text() == Some(name)).then_some(number)
}

/// The name of generation `number`. A counter, not a time or a hash: the same input gives the same names, and nothing
/// about the contents.
pub(super) fn dir_name(number: u64) -> Name {
    Name::new(format!("..{number}")).expect("two dots and digits are one component")
}

/// The number after `current` that none of `taken` has.
pub(super) fn next(current: u64, taken: &BTreeSet<u64>) -> u64 {
    let mut next = current;
    loop {
        next = next.checked_add(1).unwrap_or(1);
        if !taken.contains(&next) {
            return next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_counters_are_generations() {
        #[rustfmt::skip]
        let rows = [
            ("..1", Some(1)), ("..0", Some(0)), ("..18446744073709551615", Some(u64::MAX)),
            ("..18446744073709551616", None), ("..01", None), ("..+1", None), ("..", None), ("..data", None),
            (".1", None), ("1", None), ("..1 ", None), ("..2024_05_01_10_00_00.123", None),
        ];
        for (name, want) in rows {
            assert_eq!(number(name), want, "{name}");
        }
    }

    #[test]
    fn numbers_go_on_and_avoid_what_is_there() {
        let taken = |numbers: &[u64]| numbers.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(next(0, &taken(&[])), 1);
        assert_eq!(next(7, &taken(&[7])), 8);
        assert_eq!(next(7, &taken(&[7, 8, 9])), 10);
        assert_eq!(next(u64::MAX, &taken(&[u64::MAX, 1])), 2);
    }
}
