//! `kill -9` at every system call that changes a file, and each of these calls refused: the name of the backup, and that of the
//! store, has the old file or the new one, whole; the other file has not changed; the next run completes the work.
//!
//! A sample by default; all with `CKPT_DB_KILLS=all cargo test --test backup`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::program::{Node, Ran, STORE, copy};
use crate::common::strace;
use crate::raw::{Raw, raw};

/// Whether what is done is a backup or a restore, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Backup,
    BackupOverAnOlderOne,
    Restore,
    RestoreWhereNothingIs,
}

#[test]
fn a_backup() {
    campaign(Work::Backup);
}

#[test]
fn a_backup_over_an_older_one() {
    campaign(Work::BackupOverAnOlderOne);
}

#[test]
fn a_restore() {
    campaign(Work::Restore);
}

#[test]
fn a_restore_where_nothing_is() {
    campaign(Work::RestoreWhereNothingIs);
}

/// A kill does not lose what was written and not synced, a power cut does. So the order is looked at: the new file is synced
/// after its last write and before it gets its name, the directory after that; and before it, if the old file gets a second one.
fn in_durable_order(work: Work, log: &str, to: &Path) {
    let calls: Vec<(&str, &str)> = log
        .lines()
        .filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('('))
        .filter(|(_, rest)| !rest.contains(" = -1"))
        .collect();
    let directory = format!("<{}>", to.parent().unwrap().display());
    let name = to.file_name().unwrap().to_str().unwrap();
    let last = |what: &str, fits: &dyn Fn(&str, &str) -> bool| {
        let at = calls.iter().rposition(|(call, rest)| fits(call, rest));
        at.unwrap_or_else(|| panic!("{work:?}: no {what} in\n{log}"))
    };
    let temporary = format!("/.{name}.");
    let named = last("rename", &|call, rest| call.starts_with("rename") && rest.contains(&temporary));
    let written = last("write", &|call, rest| call == "pwrite64" && rest.contains(&temporary));
    let synced = last("sync", &|call, rest| ["fsync", "fdatasync"].contains(&call) && rest.contains(&temporary));
    let recorded = last("sync of the directory", &|call, rest| call == "fsync" && rest.contains(&directory));
    assert!(
        written < synced && synced < named && named < recorded,
        "{work:?}: {written} {synced} {named} {recorded}\n{log}"
    );
    if work == Work::Restore {
        let linked = last("link", &|call, _| call.starts_with("link"));
        let between = calls[linked..named].iter().any(|(call, rest)| *call == "fsync" && rest.contains(&directory));
        assert!(between, "{work:?}: the second name is not durable before the first is taken\n{log}");
    }
}

/// What is done to one system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Killed,
    NoSpace,
    Broken,
}

impl Fault {
    fn inject(self, call: &str, number: usize) -> String {
        match self {
            Self::Killed => format!("inject={call}:signal=SIGKILL:when={number}"),
            Self::NoSpace => format!("inject={call}:error=ENOSPC:when={number}"),
            Self::Broken => format!("inject={call}:error=EIO:when={number}"),
        }
    }
}

/// A node with a store, and an older backup of it.
struct Place {
    node: Node,
    /// Everything that is there before a run.
    start: tempfile::TempDir,
    file: PathBuf,
    store: PathBuf,
}

impl Place {
    fn new(work: Work) -> Self {
        let node = Node::with_example();
        let file = node.at("backups/edge.db");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let store = node.at(STORE);
        if work != Work::Backup {
            Ran::of(backup(&node, &file)).expect(0);
        }
        // The store goes on from there.
        fs::remove_file(node.source().join("daemonset.yaml")).unwrap();
        node.run_source().expect(0);
        if work == Work::RestoreWhereNothingIs {
            fs::remove_file(&store).unwrap();
        }
        let start = tempfile::tempdir().unwrap();
        copy(&node.root(), start.path());
        Self { node, start, file, store }
    }

    fn begin_anew(&self) {
        fs::remove_dir_all(self.node.root()).unwrap();
        copy(self.start.path(), &self.node.root());
    }

    fn command(&self, work: Work) -> Command {
        match work {
            Work::Backup => backup(&self.node, &self.file),
            Work::BackupOverAnOlderOne => {
                let mut command = backup(&self.node, &self.file);
                command.arg("--force");
                command
            }
            Work::Restore | Work::RestoreWhereNothingIs => {
                let mut command = self.node.command("restore", &["--yes"]);
                command.arg(&self.file);
                command
            }
        }
    }
}

fn backup(node: &Node, file: &Path) -> Command {
    let mut command = node.command::<&str>("backup", &[]);
    command.arg(file);
    command
}

fn there(path: &Path) -> Option<Raw> {
    path.exists().then(|| raw(path))
}

/// Every file below the directory of `path` that is not `path`, with its octets; files that were kept aside by what they hold.
fn beside(path: &Path) -> (BTreeMap<PathBuf, Vec<u8>>, Vec<Vec<u8>>) {
    let (mut others, mut kept) = (BTreeMap::new(), Vec::new());
    for entry in fs::read_dir(path.parent().unwrap()).unwrap() {
        let found = entry.unwrap().path();
        if found == path || !found.is_file() {
            continue;
        }
        let octets = fs::read(&found).unwrap();
        if found.to_string_lossy().contains(".replaced-") {
            kept.push(octets);
        } else {
            others.insert(found, octets);
        }
    }
    (others, kept)
}

fn campaign(work: Work) {
    if !strace::works() {
        return;
    }
    let place = Place::new(work);
    let (from, to) = match work {
        Work::Backup | Work::BackupOverAnOlderOne => (&place.store, &place.file),
        Work::Restore | Work::RestoreWhereNothingIs => (&place.file, &place.store),
    };
    let scratch = tempfile::tempdir().unwrap();
    let log = scratch.path().join("log");
    let source = fs::read(from).unwrap();
    let (old, old_octets) = (there(to), fs::read(to).ok());
    let (neighbours, _) = beside(to);
    // With the path behind each descriptor.
    assert_eq!(strace::run(&log, &["-y"], &place.command(work)).code(), Some(0), "{work:?}: the undisturbed run");
    in_durable_order(work, &fs::read_to_string(&log).unwrap(), to);
    let new = there(to);
    assert!(new.is_some() && new != old, "{work:?}: it changes something");
    let points = strace::points(&fs::read_to_string(&log).unwrap());

    // With the last ones, which come after the work is done.
    let chosen = strace::choose_with_last(&points, 4);
    let (mut killed, mut refused, mut failed, mut unmoved, mut finished) = (0, 0, 0, 0, 0);
    let all = std::env::var_os("CKPT_DB_KILLS").is_some_and(|kills| kills == "all");
    for (at, (call, number)) in chosen.iter().enumerate() {
        let faults = [Fault::Killed, Fault::NoSpace, Fault::Broken];
        for fault in faults.into_iter().skip(if all { 0 } else { at % 3 }).take(if all { 3 } else { 1 }) {
            let what = format!("{work:?}, {fault:?} at {call} {number}");
            place.begin_anew();
            let status = strace::run(&log, &["-e", &fault.inject(call, *number)], &place.command(work));
            let now = there(to);
            assert!(now == old || now == new, "{what}: neither the old file nor the new one");
            assert!(fs::read(from).unwrap() == source, "{what}: what was copied from has changed");
            let (others, kept) = beside(to);
            if let (Some(octets), true) = (&old_octets, to == &place.store) {
                let is_old = fs::read(to).is_ok_and(|found| found == *octets);
                assert!(is_old || kept.contains(octets), "{what}: the store of before is nowhere");
            }
            match fault {
                Fault::Killed => {
                    assert_eq!(status.signal(), Some(9), "{what}: it was not killed");
                    killed += 1;
                }
                // A lock file, a line of output or a leftover may be in nobody's way.
                Fault::NoSpace | Fault::Broken => {
                    assert!(matches!(status.code(), Some(0 | 2)), "{what}: {status}");
                    assert!(now == new || status.code() == Some(2), "{what}: it says that it is done");
                    assert!(others == neighbours || call.starts_with("unlink"), "{what}: left {:?}", others.keys());
                    refused += 1;
                    failed += usize::from(status.code() == Some(2));
                }
            }
            unmoved += usize::from(now == old);
            finished += usize::from(now == new);

            // What was done already may be done once more, but for a new file, which is there now.
            if work == Work::Backup && now == new {
                Ran::of(place.command(work)).expect(2);
            } else {
                Ran::of(place.command(work)).expect(0);
            }
            assert_eq!(there(to), new, "{what}, then run again");
            let (others, kept) = beside(to);
            assert!(
                others == neighbours || (work == Work::Backup && now == new),
                "{what}, then run again: left {:?}",
                others.keys()
            );
            if let (Some(octets), true) = (&old_octets, to == &place.store) {
                assert!(kept.contains(octets), "{what}, then run again: the store of before is nowhere");
            }
        }
    }
    assert!(
        unmoved > 2 && finished > 0 && failed > 2,
        "{work:?}: the faults came too early or too late to show anything"
    );
    strace::say(&format!(
        "{work:?}: killed {killed} times, refused {refused} times, of which {failed} ended it; {unmoved} times the old file, \
         {finished} times the new one"
    ));
    strace::say(&format!(
        "campaign: kills, {work:?}: {} of {} system calls judged, 0 files lost, 0 partial files",
        chosen.len(),
        points.len(),
    ));
}
