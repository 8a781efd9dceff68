//! Trees that are no longer wanted: they go when no container can be using them any more, and only if they are ours.
//!
//! When a manifest leaves the kubelet's directory its containers still run for a while. So before that happens a marker
//! with a time is put into the pod's directory; until then none of its trees is removed. No marker: no container.

use std::collections::BTreeSet;

use super::dir::{Dir, Entry};
use super::error::MaterializeError;
use super::layout::Names;
use super::modes::private_file;
use super::name::Name;
use super::{Owners, publish, tree};
use crate::checkpoint::object::{is_dns_label, is_dns_subdomain};
use crate::checkpoint::rendering::PodName;

type Result<T, E = MaterializeError> = std::result::Result<T, E>;

/// How long containers may outlive their manifest: the kubelet's default termination grace period is 30 s, and removal
/// is noticed within 20 s at the latest.
pub(super) const GRACE_S: u64 = 90;

const MARKER: &str = ".ckpt-db.remove-after";

/// The directory of `pod` below `root`, if there is one.
pub(super) fn open_pod_dir(root: &Dir, pod: &PodName) -> Result<Option<Dir>> {
    let (Some(namespace), Some(name)) = (Name::new(&pod.namespace), Name::new(&pod.name)) else { return Ok(None) };
    root.open(&namespace)?.map_or(Ok(None), |dir| dir.open(&name))
}

/// Says, durably, that trees in `pod_dir` may be in use for the next [`GRACE_S`] seconds.
pub(super) fn mark(pod_dir: &Dir, now_unix_s: u64, owners: Owners) -> Result<()> {
    let marker = Name::of(MARKER);
    match pod_dir.look(&marker)? {
        Entry::Absent | Entry::File(_) => {}
        Entry::Directory(_) | Entry::Link(_) | Entry::Special => return Err(pod_dir.conflict(&marker)),
    }
    let text = format!("{}\n", now_unix_s.saturating_add(GRACE_S));
    publish::file(pod_dir, &marker, text.as_bytes(), private_file(owners))?;
    pod_dir.sync()
}

/// When trees in a pod's directory may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Now,
    /// Not before this time.
    At(u64),
    /// As `At`, but the marker names an impossible time and is to be written anew.
    Again(u64),
}

/// A marker further ahead than it can have been set, because the clock was wrong once, counts from now on.
fn due(marker: Option<u64>, now_unix_s: u64) -> Due {
    let latest = now_unix_s.saturating_add(GRACE_S);
    match marker {
        None => Due::Now,
        Some(at) if at <= now_unix_s => Due::Now,
        Some(at) if at > latest => Due::Again(latest),
        Some(at) => Due::At(at),
    }
}

/// What there is to know about one pod when its directory is cleaned up.
pub(super) struct Keep<'a> {
    /// Paths of the trees that are wanted.
    pub(super) trees: BTreeSet<&'a Names>,
    /// Whether the pod's manifest is active, as planned: a marker has no other use then than to keep old trees.
    pub(super) active: bool,
    /// Whether trees may be in use although no marker says so.
    pub(super) hold: bool,
}

/// What became of a pod's old trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retired {
    /// There were none.
    Nothing,
    /// Some were removed.
    Removed,
    /// They stay at least until then.
    Waiting(u64),
}

/// Removes the trees in `pod_dir` that are not kept, once they are due. Links and files that are not ours stay.
pub(super) fn retire(
    pod_dir: &Dir,
    keep: &Keep<'_>,
    now_unix_s: u64,
    owners: Owners,
    problems: &mut Vec<MaterializeError>,
) -> Result<Retired> {
    let marker = Name::of(MARKER);
    publish::sweep(pod_dir, Some(&marker))?;
    let stale = stale_trees(pod_dir, &keep.trees, problems)?;
    let marked = read_marker(pod_dir, &marker)?;
    let due = match due(marked, now_unix_s) {
        // Writing the marker may succeed now; if not, this error is all that keeps the trees for this pass.
        Due::Now if keep.hold => Due::Again(now_unix_s.saturating_add(GRACE_S)),
        due => due,
    };
    let retired = match due {
        Due::Now => {
            let mut retired = Retired::Nothing;
            for path in &stale {
                match remove(pod_dir, path) {
                    Ok(true) => retired = Retired::Removed,
                    Ok(false) => {}
                    Err(problem) => problems.push(problem),
                }
            }
            // Last: a run that is cut short before leaves the marker, and the next one goes on.
            if marked.is_some() {
                pod_dir.unlink(&marker)?;
            }
            retired
        }
        Due::At(_) | Due::Again(_) if keep.active && stale.is_empty() && marked.is_some() => {
            pod_dir.unlink(&marker)?;
            Retired::Nothing
        }
        Due::At(_) | Due::Again(_) if stale.is_empty() && marked.is_none() => Retired::Nothing,
        Due::At(at) => Retired::Waiting(at),
        Due::Again(at) => {
            mark(pod_dir, now_unix_s, owners)?;
            Retired::Waiting(at)
        }
    };
    pod_dir.sync()?;
    Ok(retired)
}

/// Paths of directories in `pod_dir` that look like trees and are not kept. What can't be one is reported.
pub(super) fn stale_trees(
    pod_dir: &Dir,
    keep: &BTreeSet<&Names>,
    problems: &mut Vec<MaterializeError>,
) -> Result<Vec<Names>> {
    let mut stale = Vec::new();
    for name in pod_dir.names()? {
        if name.is_own() {
            continue;
        }
        let Entry::Directory(_) = pod_dir.look(&name)? else {
            problems.push(pod_dir.conflict(&name));
            continue;
        };
        if !name.text().is_some_and(|text| text.contains('~')) {
            stale.push(vec![name]);
            continue;
        }
        let Some(kind) = pod_dir.open(&name)? else { continue };
        publish::sweep(&kind, None)?;
        let volumes = kind.names()?;
        // The directory itself goes with its last volume.
        if volumes.is_empty() {
            stale.push(vec![name]);
            continue;
        }
        for volume in volumes {
            match kind.look(&volume)? {
                Entry::Directory(_) => stale.push(vec![name.clone(), volume]),
                _ => problems.push(kind.conflict(&volume)),
            }
        }
    }
    stale.retain(|path| !keep.contains(path));
    Ok(stale)
}

/// Every pod that has a directory below `root`, with its namespace's directory. What can't be one is not ours.
pub(super) fn pods(root: &Dir) -> Result<Vec<(Name, Vec<Name>)>> {
    let mut pods = Vec::new();
    for namespace in directories(root, is_dns_label)? {
        let Some(dir) = root.open(&namespace)? else { continue };
        pods.push((namespace, directories(&dir, is_dns_subdomain)?));
    }
    Ok(pods)
}

/// Removes `name` if it is an empty directory. Looks first, as nearly all are not.
pub(super) fn remove_if_empty(parent: &Dir, name: &Name) -> Result<()> {
    let Some(dir) = parent.open(name)? else { return Ok(()) };
    if dir.names()?.is_empty() {
        parent.remove_empty(name)?;
    }
    Ok(())
}

fn directories(dir: &Dir, is_name: fn(&str) -> bool) -> Result<Vec<Name>> {
    let mut names = dir.names()?;
    names.retain(|name| name.text().is_some_and(is_name));
    let mut found = Vec::new();
    for name in names {
        if matches!(dir.look(&name)?, Entry::Directory(_)) {
            found.push(name);
        }
    }
    Ok(found)
}

fn remove(pod_dir: &Dir, path: &Names) -> Result<bool> {
    match path.as_slice() {
        [name] => tree::remove(pod_dir, name),
        [kind, volume] => {
            let Some(parent) = pod_dir.open(kind)? else { return Ok(false) };
            let removed = tree::remove(&parent, volume)?;
            remove_if_empty(pod_dir, kind)?;
            Ok(removed)
        }
        _ => Ok(false),
    }
}

fn read_marker(pod_dir: &Dir, marker: &Name) -> Result<Option<u64>> {
    match pod_dir.look(marker)? {
        Entry::Absent => Ok(None),
        // We write it whole; if somebody else did not, it counts as too far ahead, and is written anew.
        Entry::File(_) => Ok(Some(
            pod_dir
                .read(marker, 32)?
                .and_then(|(_, text)| std::str::from_utf8(text.expose()).ok()?.trim_end().parse().ok())
                .unwrap_or(u64::MAX),
        )),
        Entry::Directory(_) | Entry::Link(_) | Entry::Special => Err(pod_dir.conflict(marker)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_go_when_their_time_has_come() {
        #[rustfmt::skip]
        let rows = [
            // marker, now -> due
            (None,           1000, Due::Now),
            (Some(999),      1000, Due::Now),
            (Some(1000),     1000, Due::Now),
            (Some(1001),     1000, Due::At(1001)),
            (Some(1090),     1000, Due::At(1090)),
            (Some(1091),     1000, Due::Again(1090)),
            (Some(u64::MAX), 1000, Due::Again(1090)),
            (Some(u64::MAX), u64::MAX, Due::Now),
        ];
        for (marker, now, want) in rows {
            assert_eq!(due(marker, now), want, "{marker:?} {now}");
        }
    }
}
