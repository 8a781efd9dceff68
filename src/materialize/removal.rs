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

/// The longest that trees are kept for, whatever grace period a manifest names.
const GRACE_MAX_S: u64 = 3600;

const MARKER: &str = ".ckpt-db.remove-after";

/// The directory of `pod` below `root`, if there is one.
pub(super) fn open_pod_dir(root: &Dir, pod: &PodName) -> Result<Option<Dir>> {
    let (Some(namespace), Some(name)) = (Name::new(&pod.namespace), Name::new(&pod.name)) else { return Ok(None) };
    root.open(&namespace)?.map_or(Ok(None), |dir| dir.open(&name))
}

/// How long containers of a copy with this `terminationGracePeriodSeconds` may outlive its manifest, in seconds.
///
/// Half a minute more than they are given to end; a whole day of it would only keep clear text.
pub(super) fn grace(termination_s: Option<u64>) -> u64 {
    termination_s.map_or(GRACE_S, |seconds| seconds.saturating_add(30).clamp(GRACE_S, GRACE_MAX_S))
}

/// Says, durably, that trees in `pod_dir` may be in use for the next `grace_s` seconds; a marker that says longer stays.
pub(super) fn mark(pod_dir: &Dir, grace_s: u64, now_unix_s: u64, owners: Owners) -> Result<()> {
    let marker = Name::of(MARKER);
    let until = now_unix_s.saturating_add(grace_s);
    if let Some(Due::At(earlier)) = read_marker(pod_dir, &marker)?.map(|marked| due(Some(marked), now_unix_s))
        && earlier > until
    {
        return pod_dir.sync();
    }
    let text = Marked { until_unix_s: until, grace_s }.text();
    publish::file(pod_dir, &marker, text.as_bytes(), private_file(owners))?;
    pod_dir.sync()
}

/// What a marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marked {
    /// Until when trees may be in use, in seconds since 1970.
    until_unix_s: u64,
    /// How far ahead of its writing that was.
    grace_s: u64,
}

impl Marked {
    /// What can't be read, or was not written by us, counts as too far ahead, and is written anew.
    const STRANGE: Self = Self { until_unix_s: u64::MAX, grace_s: GRACE_S };

    fn text(self) -> String {
        format!("{} {}\n", self.until_unix_s, self.grace_s)
    }

    /// Markers of earlier versions have no grace period.
    fn parse(text: &str) -> Self {
        let mut numbers = text.trim_end().split(' ').map(|number| number.parse::<u64>().ok());
        match (numbers.next().flatten(), numbers.next(), numbers.next()) {
            (Some(until_unix_s), None, None) => Self { until_unix_s, grace_s: GRACE_S },
            (Some(until_unix_s), Some(Some(grace_s)), None) if (GRACE_S..=GRACE_MAX_S).contains(&grace_s) => {
                Self { until_unix_s, grace_s }
            }
            _ => Self::STRANGE,
        }
    }
}

/// When trees in a pod's directory may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Now,
    /// Not before this time.
    At(u64),
    /// As `At`, but the marker is to be written anew, with so many seconds from now on.
    Again {
        grace_s: u64,
    },
}

/// A marker further ahead than it can have been set, because the clock was wrong once, counts from now on.
fn due(marker: Option<Marked>, now_unix_s: u64) -> Due {
    match marker {
        None => Due::Now,
        Some(Marked { until_unix_s, .. }) if until_unix_s <= now_unix_s => Due::Now,
        Some(Marked { until_unix_s, grace_s }) if until_unix_s > now_unix_s.saturating_add(grace_s) => {
            Due::Again { grace_s }
        }
        Some(Marked { until_unix_s, .. }) => Due::At(until_unix_s),
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
    /// Whether the pod is known to have no container, whatever a marker says.
    pub(super) stopped: bool,
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
        Due::Now if keep.hold => Due::Again { grace_s: GRACE_S },
        Due::At(_) | Due::Again { .. } if keep.stopped && !keep.hold => Due::Now,
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
        Due::At(_) | Due::Again { .. } if keep.active && stale.is_empty() && marked.is_some() => {
            pod_dir.unlink(&marker)?;
            Retired::Nothing
        }
        Due::At(_) | Due::Again { .. } if stale.is_empty() && marked.is_none() => Retired::Nothing,
        Due::At(at) => Retired::Waiting(at),
        Due::Again { grace_s } => {
            mark(pod_dir, grace_s, now_unix_s, owners)?;
            Retired::Waiting(now_unix_s.saturating_add(grace_s))
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

fn read_marker(pod_dir: &Dir, marker: &Name) -> Result<Option<Marked>> {
    match pod_dir.look(marker)? {
        Entry::Absent => Ok(None),
        Entry::File(_) => {
            let read = pod_dir.read(marker, 64)?;
            let text = read.as_ref().and_then(|(_, text)| std::str::from_utf8(text.expose()).ok());
            Ok(Some(text.map_or(Marked::STRANGE, Marked::parse)))
        }
        Entry::Directory(_) | Entry::Link(_) | Entry::Special => Err(pod_dir.conflict(marker)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_go_when_their_time_has_come() {
        let again = |grace_s| Due::Again { grace_s };
        #[rustfmt::skip]
        let rows = [
            // marker,                        now -> due
            (None,                            1000, Due::Now),
            (Some("999 90\n"),                1000, Due::Now),
            (Some("1000 90\n"),               1000, Due::Now),
            (Some("1001 90\n"),               1000, Due::At(1001)),
            (Some("1090 90\n"),               1000, Due::At(1090)),
            (Some("1091 90\n"),               1000, again(90)),
            (Some("1630 630\n"),              1000, Due::At(1630)),
            (Some("1631 630\n"),              1000, again(630)),
            (Some("4600 3600\n"),             1000, Due::At(4600)),
            (Some("18446744073709551615 90"), 1000, again(90)),
            (Some("18446744073709551615 90"), u64::MAX, Due::Now),
            // Of an earlier version.
            (Some("999\n"),                   1000, Due::Now),
            (Some("1090\n"),                  1000, Due::At(1090)),
            (Some("1091\n"),                  1000, again(90)),
            // Not as we write it.
            (Some("4601 3601\n"),             1000, again(90)),
            (Some("1089 89\n"),               1000, again(90)),
            (Some("1090 90 90\n"),            1000, again(90)),
            (Some("1090 x\n"),                1000, again(90)),
            (Some("x 90\n"),                  1000, again(90)),
            (Some("-1\n"),                    1000, again(90)),
            (Some(""),                        1000, again(90)),
        ];
        for (marker, now, want) in rows {
            assert_eq!(due(marker.map(Marked::parse), now), want, "{marker:?} {now}");
        }
        for marked in [Marked { until_unix_s: u64::MAX, grace_s: 3600 }, Marked { until_unix_s: 0, grace_s: 90 }] {
            assert_eq!(Marked::parse(&marked.text()), marked);
        }
    }

    #[test]
    fn trees_outlive_what_containers_are_given_to_end() {
        #[rustfmt::skip]
        let rows = [
            // terminationGracePeriodSeconds -> seconds
            (None,           90),
            (Some(0),        90),
            (Some(30),       90),
            (Some(60),       90),
            (Some(61),       91),
            (Some(600),      630),
            (Some(3570),     3600),
            (Some(3571),     3600),
            (Some(u64::MAX), 3600),
        ];
        for (termination, want) in rows {
            assert_eq!(grace(termination), want, "{termination:?}");
        }
    }
}
