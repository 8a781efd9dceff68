//! A published tree: what the kubelet's atomic writer makes of a volume, so that a container sees all new keys at once.
//!
//! ```text
//! <mounted>/..3/          the current generation: files and directories
//! <mounted>/..data        -> ..3, exchanged by one rename
//! <mounted>/<name>        -> ..data/<name>, one for each name at the generation's top
//! ```
//! Whatever is cut short leaves a whole tree behind `..data`; the next run removes what is left over.

use std::collections::BTreeSet;
use std::ffi::OsString;

use super::adopted_tree::is_temporary;
use super::dir::{Dir, Entry};
use super::error::{Foreign, MaterializeError};
use super::generation::{self, number};
use super::layout::Layout;
use super::modes::{private_dir, tree_dir};
use super::name::Name;
use super::selinux::{Labels, SeLinux};
use super::{Owners, Published, publish};
use crate::checkpoint::lookup::Reader;

type Result<T, E = MaterializeError> = std::result::Result<T, E>;

pub(super) const DATA: &str = "..data";
/// As a data key can't start with two dots, this name can't be a key's; `.ckpt-db.new` could.
pub(super) const DATA_TEMPORARY: &str = "..data_tmp";

/// What became of a tree so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// It is as it should be.
    Done(Published),
    /// It is new, and lies under a temporary name: [`place`] or [`discard`] it.
    Unplaced,
}

/// Gives a new tree its own name; all that is in it must be durable.
///
/// # Errors
/// It has no name, and is gone as far as it can be removed.
pub(super) fn place(pod_dir: &Dir, layout: &Layout<'_>, nth: usize) -> Result<Published> {
    let (last, _) = layout.path.split_last().expect("a layout's path is not empty");
    let inner = kind_of(pod_dir, layout)?;
    let parent = inner.as_ref().unwrap_or(pod_dir);
    let temporary = publish::temporary_of(nth);
    publish::place(parent, &temporary, last).inspect_err(|_| {
        let _ = parent.remove_all(&temporary);
    })?;
    parent.sync()?;
    Ok(Published::Created)
}

/// Removes a new tree that is not to get its name. Clear text should not wait for the next pass; if this fails, that pass
/// removes it.
pub(super) fn discard(pod_dir: &Dir, layout: &Layout<'_>, nth: usize) {
    if let Ok(inner) = kind_of(pod_dir, layout) {
        let _ = inner.as_ref().unwrap_or(pod_dir).remove_all(&publish::temporary_of(nth));
    }
}

/// The directory of the volume's type, if the tree lies in one.
fn kind_of(pod_dir: &Dir, layout: &Layout<'_>) -> Result<Option<Dir>> {
    match layout.path.as_slice() {
        [kind, _] => pod_dir.open(kind),
        _ => Ok(None),
    }
}

/// Brings one tree of the pod whose directory is `pod_dir` in line; a new one is written, and waits for its name until what is
/// in it is durable. `nth` is another one for each tree of the pod.
///
/// What is left of older generations afterwards is removed; a failure to do so goes to `problems`, as the tree itself is
/// right. So does the first refusal of an SELinux label, for the same reason.
///
/// # Errors
/// The tree is as it was before, whole, except that owner, mode and label of directories may have been repaired.
pub(super) fn begin(
    pod_dir: &Dir,
    (layout, nth): (&Layout<'_>, usize),
    owners: Owners,
    selinux: SeLinux,
    reader: &mut Reader<'_>,
    problems: &mut Vec<MaterializeError>,
) -> Result<Begun> {
    let (last, between) = layout.path.split_last().expect("a layout's path is not empty");
    let mut labels = Labels::new(selinux, pod_dir.path().join(layout.shown_path()));
    let published = match between {
        [] => begin_in(pod_dir, last, (layout, nth), owners, &mut labels, reader, problems),
        [kind, ..] => {
            let (parent, _) = pod_dir.ensure(kind, private_dir(owners))?;
            pod_dir.sync()?;
            begin_in(&parent, last, (layout, nth), owners, &mut labels, reader, problems)
        }
    };
    problems.extend(labels.refused());
    published
}

fn begin_in(
    parent: &Dir,
    name: &Name,
    (layout, nth): (&Layout<'_>, usize),
    owners: Owners,
    labels: &mut Labels,
    reader: &mut Reader<'_>,
    problems: &mut Vec<MaterializeError>,
) -> Result<Begun> {
    let first = |labels: &mut Labels, reader: &mut Reader<'_>| {
        first(parent, (layout, nth), owners, labels, reader).map(|()| Begun::Unplaced)
    };
    // What is there already is exchanged in steps, each of which is synced before the next.
    let Some(mounted) = parent.open(name)?.map(Dir::at_once) else { return first(labels, reader) };
    // Before anything is changed in it: a directory that somebody else filled stays as it is.
    let census = Census::take(&mounted)?;
    let Some(current) = census.current else {
        for leftover in census.links.iter().cloned().chain(census.leftovers()) {
            remove_leftover(&mounted, &leftover)?;
        }
        // The directory is empty now, and a rename may replace it.
        return first(labels, reader);
    };

    let attr = tree_dir(owners, layout.fs_group);
    let repaired = mounted.set_own_attr(attr)?;
    labels.own(&mounted);
    let mut taken = census.generations.clone();
    for leftover in census.leftovers() {
        match remove_leftover(&mounted, &leftover) {
            Ok(()) => drop(leftover.text().and_then(number).map(|number| taken.remove(&number))),
            Err(problem) => problems.push(problem),
        }
    }

    let same = match mounted.open(&generation::dir_name(current))? {
        Some(dir) => dir.own_meta()?.has(attr) && generation::is_same(&dir, layout, owners, reader)?,
        None => false,
    };
    if !same {
        swap(&mounted, generation::next(current, &taken), layout, owners, labels, reader)?;
    }
    let wanted = layout.top();
    let missing: Vec<_> = wanted.iter().filter(|name| !census.links.contains(**name)).collect();
    let stale: Vec<_> = census.links.iter().filter(|name| !wanted.contains(name)).collect();
    for name in &missing {
        mounted.make_link(name, &link_target(name))?;
    }
    for name in &stale {
        mounted.unlink(name)?;
    }
    if !same && let Err(problem) = mounted.remove_all(&generation::dir_name(current)) {
        problems.push(problem);
    }
    // Also what was there and is right in all else, and without writing it again.
    labels.all(&mounted);
    mounted.sync()?;
    let unchanged = same && !repaired && !labels.changed() && missing.is_empty() && stale.is_empty();
    Ok(Begun::Done(if unchanged { Published::Unchanged } else { Published::Replaced }))
}

/// Writes a tree that is to be published for the first time: the whole directory at once, as a container may be waiting for
/// it (its manifest can be older than the last boot) and must not find it empty.
fn first(
    parent: &Dir,
    (layout, nth): (&Layout<'_>, usize),
    owners: Owners,
    labels: &mut Labels,
    reader: &mut Reader<'_>,
) -> Result<()> {
    let temporary = publish::temporary_of(nth);
    publish::sweep_one(parent, &temporary)?;
    let attr = tree_dir(owners, layout.fs_group);
    let mut make = || -> Result<()> {
        let mounted = parent.make(&temporary, attr)?;
        labels.own(&mounted);
        let number = generation::dir_name(1);
        generation::write(&mounted.make(&number, attr)?, layout, owners, reader)?;
        mounted.make_link(&Name::of(DATA), number.as_os_str())?;
        for name in layout.top() {
            mounted.make_link(name, &link_target(name))?;
        }
        labels.all(&mounted);
        mounted.sync_complete()
    };
    make().inspect_err(|_| {
        // Clear text should not wait for the next pass; if this fails as well, that pass removes it.
        let _ = parent.remove_all(&temporary);
    })
}

/// Writes generation `next` and makes it the current one.
fn swap(
    mounted: &Dir,
    next: u64,
    layout: &Layout<'_>,
    owners: Owners,
    labels: &mut Labels,
    reader: &mut Reader<'_>,
) -> Result<()> {
    let name = generation::dir_name(next);
    let mut fill = || -> Result<()> {
        let fresh = mounted.make(&name, tree_dir(owners, layout.fs_group))?;
        generation::write(&fresh, layout, owners, reader)?;
        labels.all(&fresh);
        mounted.sync()?;
        publish::link(mounted, &Name::of(DATA), name.as_os_str(), &Name::of(DATA_TEMPORARY))?;
        Ok(())
    };
    fill().inspect_err(|_| {
        // Clear text should not wait for the next pass; if this fails as well, that pass removes it.
        let _ = mounted.remove_all(&name);
    })?;
    mounted.sync()
}

/// Removes a tree of ours; `Ok(false)` if there is none. `..data` goes first, so that nobody sees a part of it.
///
/// # Errors
/// A directory with anything in it that is not ours is a conflict, and is left alone as a whole.
pub(super) fn remove(parent: &Dir, name: &Name) -> Result<bool> {
    let Some(mounted) = parent.open(name)? else { return Ok(false) };
    let census = Census::take(&mounted)?;
    if census.current.is_some() {
        mounted.unlink(&Name::of(DATA))?;
        mounted.sync()?;
    }
    for link in &census.links {
        mounted.unlink(link)?;
    }
    for leftover in census.leftovers() {
        remove_leftover(&mounted, &leftover)?;
    }
    if let Some(current) = census.current {
        mounted.remove_all(&generation::dir_name(current))?;
    }
    parent.remove_empty(name)
}

/// What lies in a mounted directory, all of it ours.
#[derive(Default)]
struct Census {
    /// The generation that `..data` names, whether it exists or not.
    current: Option<u64>,
    /// Every generation directory.
    generations: BTreeSet<u64>,
    /// Links `<name> -> ..data/<name>`.
    links: BTreeSet<Name>,
    /// Temporary files and links.
    temporary: BTreeSet<Name>,
}

impl Census {
    /// Looks at every entry.
    ///
    /// # Errors
    /// The first one that is not ours, as a conflict.
    fn take(mounted: &Dir) -> Result<Self> {
        let mut census = Self::default();
        for name in mounted.names()? {
            let entry = mounted.look(&name)?;
            let text = name.text().unwrap_or_default();
            match entry {
                Entry::Absent => {}
                Entry::Link(target) if text == DATA => match target.to_str().and_then(number) {
                    Some(number) => census.current = Some(number),
                    None => return Err(conflict(mounted, &name, Foreign::Link)),
                },
                Entry::Link(_) if text == DATA_TEMPORARY => drop(census.temporary.insert(name)),
                Entry::Link(target) if target == link_target(&name) && !text.starts_with("..") => {
                    census.links.insert(name);
                }
                Entry::Directory(_) if number(text).is_some() => census.generations.extend(number(text)),
                Entry::File(_) | Entry::Link(_) | Entry::Special if name.is_own() => {
                    census.temporary.insert(name);
                }
                // In a tree that was taken over; whoever asks for it has them removed.
                Entry::File(_) if is_temporary(text) => {}
                Entry::File(_) => return Err(conflict(mounted, &name, Foreign::File)),
                Entry::Directory(_) => return Err(conflict(mounted, &name, Foreign::Directory)),
                Entry::Link(_) => return Err(conflict(mounted, &name, Foreign::Link)),
                Entry::Special => return Err(conflict(mounted, &name, Foreign::Special)),
            }
        }
        Ok(census)
    }

    /// Generations that are not current, and temporary files.
    fn leftovers(&self) -> Vec<Name> {
        let old = self.generations.iter().filter(|&&number| Some(number) != self.current);
        old.map(|&number| generation::dir_name(number)).chain(self.temporary.iter().cloned()).collect()
    }
}

fn remove_leftover(mounted: &Dir, name: &Name) -> Result<()> {
    if name.text().and_then(number).is_some() { mounted.remove_all(name) } else { mounted.unlink(name).map(|_| ()) }
}

pub(super) fn conflict(mounted: &Dir, name: &Name, found: Foreign) -> MaterializeError {
    MaterializeError::Conflict { path: mounted.path_of(name), found }
}

pub(super) fn link_target(name: &Name) -> OsString {
    let mut target = OsString::from("..data/");
    target.push(name.as_os_str());
    target
}
