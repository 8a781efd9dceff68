//! This boot: its identity, its clock, and whether a kubelet has run in it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::checkpoint::look::{Boot, Kubelet};
use crate::checkpoint::node::Fact;

use super::file::{self, below};
use super::kubelet::configuration;

/// An identity is a UUID; nothing that is much longer is one.
const ID_MAX_BYTES: usize = 128;

/// What is older than the boot by less than this may as well be of it: file systems' clocks are coarse.
const MARGIN_MS: i64 = 1_000;

/// Milliseconds since boot, time asleep included (`CLOCK_BOOTTIME`).
#[must_use]
pub fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Where the identity of this boot is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The kernel's, below `/proc`.
    Kernel,
    /// A file (`--boot-id-file`), for tests: this boot began when the file was written.
    File(PathBuf),
}

/// The identity of this boot, of the node whose root directory is `root`.
#[must_use]
pub fn id(root: &Path, source: &Source) -> Fact<String> {
    let path = match source {
        Source::Kernel => root.join("proc/sys/kernel/random/boot_id"),
        Source::File(path) => path.clone(),
    };
    match file::text(&path) {
        Err(why) => Fact::Unknown(why),
        Ok(None) => Fact::Unknown(format!("cannot read {}: there is no such file", path.display())),
        Ok(Some(text)) => {
            let id = text.trim();
            let is_one = !id.is_empty() && id.len() <= ID_MAX_BYTES && id.chars().all(|c| c.is_ascii_graphic());
            if is_one {
                Fact::Known(id.to_owned())
            } else {
                Fact::Unknown(format!("{} holds no boot ID", path.display()))
            }
        }
    }
}

/// Compares this boot with that of the last commit, `stored`; empty if none was recorded, which counts as the same.
///
/// `kubelet_ran` is asked only in another boot; [`Fact::Unknown`] counts as having run.
pub fn compare(stored: &str, current: &Fact<String>, kubelet_ran: impl FnOnce() -> Fact<bool>) -> Fact<Boot> {
    match current {
        _ if stored.is_empty() => Fact::Known(Boot::Same),
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
        Fact::Known(id) if id == stored => Fact::Known(Boot::Same),
        Fact::Known(_) => Fact::Known(Boot::New {
            kubelet_ran: match kubelet_ran() {
                Fact::Known(ran) => ran,
                Fact::Unknown(_) => true,
            },
        }),
    }
}

/// Whether a kubelet has run in this boot, as far as its traces tell. `kubelet` is its process as seen now.
///
/// No is said only if nothing speaks against it: it does not run; its cgroup, which outlives it and no reboot, is not
/// there; and the sockets that it makes anew at each start are older than this boot.
#[must_use]
pub fn kubelet_ran(root: &Path, source: &Source, kubelet: &Fact<Kubelet>) -> Fact<bool> {
    match kubelet {
        Fact::Known(Kubelet::Running { .. }) => return Fact::Known(true),
        Fact::Known(Kubelet::NotRunning) => {}
        Fact::Unknown(why) => return Fact::Unknown(why.clone()),
    }
    judge(&gather(root, source))
}

/// What was found of kubelets that don't run any more.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Traces {
    /// Whether a cgroup of pods is there.
    cgroup: Fact<bool>,
    /// When the kubelet's sockets or their directories were changed last, in milliseconds since 1970.
    touched_ms: Fact<i64>,
    /// When this boot began, by the wall clock of that time.
    began_ms: Fact<i64>,
    /// When this boot began, by the wall clock of now.
    began_by_now_ms: i64,
    /// Now.
    now_ms: i64,
}

/// A wall clock may have been set in this boot, forward or back; so the sockets must be older than the boot by the clock
/// that was in force when it began, and by that of now as well.
fn judge(traces: &Traces) -> Fact<bool> {
    match &traces.cgroup {
        Fact::Known(true) => return Fact::Known(true),
        Fact::Known(false) => {}
        Fact::Unknown(why) => return Fact::Unknown(why.clone()),
    }
    let (touched_ms, began_ms) = match (&traces.touched_ms, &traces.began_ms) {
        (Fact::Known(touched), Fact::Known(began)) => (*touched, *began),
        (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => return Fact::Unknown(why.clone()),
    };
    let (first, last) = (began_ms.min(traces.began_by_now_ms), began_ms.max(traces.began_by_now_ms));
    if touched_ms < first.saturating_sub(MARGIN_MS) {
        Fact::Known(false)
    } else if touched_ms > last.saturating_add(MARGIN_MS) && touched_ms <= traces.now_ms {
        Fact::Known(true)
    } else {
        Fact::Unknown("the wall clock can't tell whether the kubelet's sockets are of this boot".to_owned())
    }
}

fn gather(root: &Path, source: &Source) -> Traces {
    let now_ms = unix_ms(SystemTime::now());
    let (cgroup, began_ms, began_by_now_ms) = match source {
        Source::Kernel => {
            let up_ms = i64::try_from(self::now_ms()).unwrap_or(i64::MAX);
            (pods_cgroup(root), beginning(&root.join("run")), now_ms.saturating_sub(up_ms))
        }
        // The machine was not rebooted: what the kernel keeps is older than the pretended boot.
        Source::File(path) => {
            let began = modified_ms(path);
            let began_by_now = match &began {
                Fact::Known(ms) => *ms,
                Fact::Unknown(_) => now_ms,
            };
            (Fact::Known(false), began, began_by_now)
        }
    };
    let root_dir = below(root, &configuration::of_files(root).root_dir);
    Traces { cgroup, touched_ms: touched(&root_dir), began_ms, began_by_now_ms, now_ms }
}

/// Whether pods have a cgroup: `kubepods` or `kubepods.slice`, at the top or one level below (a hierarchy of version 1, or
/// a cgroup root of the kubelet's own).
fn pods_cgroup(root: &Path) -> Fact<bool> {
    let top = root.join("sys/fs/cgroup");
    // In a cgroup namespace only what lies below one's own cgroup is shown.
    let first_namespace = std::fs::read_link(root.join("proc/self/ns/cgroup"));
    if first_namespace.is_ok_and(|link| link != Path::new("cgroup:[4026531835]")) {
        return Fact::Unknown("the host's cgroups can't be seen from a cgroup namespace".to_owned());
    }
    let names = |directory: &Path| -> std::io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
        Ok(found)
    };
    let is_of_pods = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains("kubepods"));
    let directories = match names(&top) {
        Ok(directories) if directories.is_empty() => {
            return Fact::Unknown(format!("{} shows no cgroups", top.display()));
        }
        Ok(directories) => directories,
        Err(error) => return Fact::Unknown(file::cannot("read", &top, &error)),
    };
    if directories.iter().any(is_of_pods) {
        return Fact::Known(true);
    }
    for directory in &directories {
        match names(directory) {
            Ok(below) if below.iter().any(is_of_pods) => return Fact::Known(true),
            Ok(_) => {}
            // Cgroups come and go.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Fact::Unknown(file::cannot("read", directory, &error)),
        }
    }
    Fact::Known(false)
}

/// When the sockets for device plug-ins and pod resources, or their directories, were changed last. A kubelet that ends in
/// order may remove a socket, which its directory shows.
fn touched(root_dir: &Path) -> Fact<i64> {
    let mut last = None;
    for directory in ["device-plugins", "pod-resources"] {
        let directory = root_dir.join(directory);
        for path in [directory.clone(), directory.join("kubelet.sock")] {
            match std::fs::symlink_metadata(&path) {
                Ok(found) => last = last.max(Some(changed_ms(&found))),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Fact::Unknown(file::cannot("look at", &path, &error)),
            }
        }
    }
    last.map_or_else(
        || Fact::Unknown(format!("{} holds no trace of a kubelet, so it may be another's", root_dir.display())),
        Fact::Known,
    )
}

/// When the oldest entry of `/run` was changed last. That directory is in memory, and the first things in it are made as
/// soon as the system starts.
fn beginning(run: &Path) -> Fact<i64> {
    let is_in_memory = rustix::fs::statfs(run).is_ok_and(|found| found.f_type == TMPFS_MAGIC);
    if !is_in_memory {
        return Fact::Unknown(format!(
            "{} is not in memory, so its files don't tell when this boot began",
            run.display()
        ));
    }
    oldest(run)
}

/// `TMPFS_MAGIC` of the kernel's `magic.h`.
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

fn oldest(directory: &Path) -> Fact<i64> {
    let unreadable = |error: std::io::Error| Fact::Unknown(file::cannot("read", directory, &error));
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return unreadable(error),
    };
    let mut oldest = None;
    for entry in entries {
        // An entry that goes meanwhile tells nothing.
        let Ok(found) = entry.and_then(|entry| entry.path().symlink_metadata()) else { continue };
        let changed = changed_ms(&found);
        oldest = Some(oldest.map_or(changed, |oldest: i64| oldest.min(changed)));
    }
    oldest.map_or_else(|| Fact::Unknown(format!("{} is empty", directory.display())), Fact::Known)
}

/// The time that no copy or archive sets back.
fn changed_ms(found: &std::fs::Metadata) -> i64 {
    ms(found.ctime(), found.ctime_nsec())
}

fn modified_ms(path: &Path) -> Fact<i64> {
    match std::fs::metadata(path) {
        Ok(found) => Fact::Known(ms(found.mtime(), found.mtime_nsec())),
        Err(error) => Fact::Unknown(file::cannot("look at", path, &error)),
    }
}

fn ms(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000)
}

fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
