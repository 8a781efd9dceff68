//! A system that refuses a rebuild: no room, no permission, a file system that is read only, a medium that fails. None of that is
//! damage: the file stays as it is, nothing is left beside it, what is rendered stays, and the next start ends the work.
//!
//! Each call of the rebuild that changes something is refused, once and from then on; a sample by default, all with
//! `CKPT_DB_KILLS=all`. Then the same by real file systems and permissions.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ckpt_db::store::{install_panic_hook, kept_beside};
use serde_json::Value;

use crate::common::namespaces::{Small, run_inside};
use crate::common::program::{Listing, Node, Ran, STORE, assert_same};
use crate::common::strace;

/// What the system says, and to which calls it says so.
const REFUSALS: [(&str, &str, &[&str]); 4] = [
    (
        "ENOSPC",
        "No space left on device",
        &["write", "pwrite", "ftruncate", "fallocate", "sync", "open", "link", "rename"],
    ),
    (
        "EIO",
        "Input/output error",
        &["write", "pwrite", "ftruncate", "fallocate", "fsync", "fdatasync", "open", "link", "rename"],
    ),
    (
        "EROFS",
        "Read-only file system",
        &["write", "pwrite", "ftruncate", "fallocate", "sync", "open", "link", "rename", "unlink"],
    ),
    ("EACCES", "Permission denied", &["open", "link", "rename", "unlink"]),
];

/// A node whose store has lost its end: every record is there, but it is no sound file.
struct Damaged {
    node: Node,
    store: PathBuf,
    bytes: Vec<u8>,
    dump: Value,
    rendered: Listing,
}

impl Damaged {
    fn new() -> Self {
        install_panic_hook();
        let node = Node::with_example();
        let (store, dump, rendered) = (node.at(STORE), node.dump(), node.rendered());
        let mut bytes = fs::read(&store).unwrap();
        bytes.pop();
        fs::write(&store, &bytes).unwrap();
        Self { node, store, bytes, dump, rendered }
    }

    fn start(&self) -> Command {
        let mut command = self.node.command("run", &["--once", "--manifests"]);
        command.arg(self.node.source());
        command
    }

    /// As it was before any attempt.
    fn damage_again(&self) {
        kept_beside(&self.store).iter().for_each(|kept| fs::remove_file(kept).unwrap());
        fs::write(&self.store, &self.bytes).unwrap();
    }

    /// Everything beside the store that is no evidence.
    fn beside(&self) -> BTreeMap<PathBuf, u64> {
        let entries = fs::read_dir(self.store.parent().unwrap()).unwrap().map(|entry| entry.unwrap());
        let kept = kept_beside(&self.store);
        entries
            .filter(|entry| entry.path() != self.store && !kept.contains(&entry.path()))
            .map(|entry| (entry.path(), entry.metadata().unwrap().len()))
            .collect()
    }

    /// Whether the file is as it was found; else it is a whole store, and the evidence lies beside it. What was rendered is there
    /// in both cases.
    #[track_caller]
    fn is_untouched(&self, what: &str) -> bool {
        for kept in kept_beside(&self.store) {
            assert!(fs::read(kept).unwrap() == self.bytes, "{what}: the evidence is another file");
        }
        assert_same(&self.node.rendered(), &self.rendered, what);
        if fs::read(&self.store).unwrap() == self.bytes {
            return true;
        }
        assert_eq!(kept_beside(&self.store).len(), 1, "{what}: the evidence is gone");
        self.node.ran("verify", &[]).expect(0);
        assert!(self.node.dump()["items"] == self.dump["items"], "{what}: something else is stored");
        false
    }

    /// What was refused is done by the next start, without help.
    #[track_caller]
    fn next_start_ends_it(&self, what: &str) {
        Ran::of(self.start()).expect(0);
        assert!(!self.is_untouched(what), "{what}: not rebuilt by the next start");
    }
}

#[test]
fn refused_at_any_call_it_leaves_the_damaged_file_and_the_next_start_ends_it() {
    if !strace::works() {
        return;
    }
    let damaged = Damaged::new();
    let scratch = tempfile::tempdir().unwrap();
    let log = scratch.path().join("log");
    let beside = damaged.beside();
    assert_eq!(strace::run(&log, &[], &damaged.start()).code(), Some(0), "undisturbed");
    assert!(!damaged.is_untouched("undisturbed"));
    let points = of_the_rebuild(&fs::read_to_string(&log).unwrap());
    let renamed = points.iter().position(|(call, _)| call.starts_with("rename")).unwrap();
    assert!(points[..renamed].iter().any(|(call, _)| call.starts_with("link")), "{points:?}");

    let all = std::env::var_os("CKPT_DB_KILLS").is_some_and(|kills| kills == "all");
    let (mut faults, mut ended) = (0, 0);
    for (at, point) in strace::choose_with_last(&points, 6).iter().enumerate() {
        let position = points.iter().position(|other| other == point).unwrap();
        let fits = |(_, _, calls): &&(&str, &str, &[&str])| calls.iter().any(|call| point.0.contains(call));
        let refusals: Vec<_> = REFUSALS.iter().filter(fits).flat_map(|row| [(row, ""), (row, "+")]).collect();
        let first = if all { 0 } else { at % refusals.len().max(1) };
        for ((error, reason, _), from_then_on) in refusals.iter().skip(first).take(if all { usize::MAX } else { 1 }) {
            let (call, number) = point;
            let what = format!("{error} at {call} {number}{from_then_on}");
            damaged.damage_again();
            let inject = format!("inject={call}:error={error}:when={number}{from_then_on}");
            let ran = Ran::of(strace::traced(&log, &["-e", &inject], &damaged.start()));
            assert!(matches!(ran.code, Some(0..=2)), "{what}: {:?} {}", ran.code, ran.stderr);
            assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
            let untouched = damaged.is_untouched(&what);
            if position < renamed && ran.code != Some(0) {
                assert!(untouched, "{what}: it failed, and something was replaced");
                assert!(damaged.beside() == beside || call.starts_with("unlink"), "{what}: {:?}", damaged.beside());
            }
            if untouched {
                assert_ne!(ran.code, Some(0), "{what}: it says that all is well: {}", ran.stderr);
                let named = ran.stderr.lines().any(|line| line.contains("/var/lib/ckpt-db") && line.contains(reason));
                assert!(named, "{what}: {}", ran.stderr);
                ended += 1;
            }
            damaged.next_start_ends_it(&what);
            faults += 1;
        }
    }
    assert!(ended > 5, "{ended} of {faults} ended it: the faults came too early or too late");
    strace::say(&format!("{ended} of {faults} refusals ended the rebuild"));
    strace::say(&format!("campaign: refusals in a rebuild: {faults} judged, 0 stores lost, 0 panics"));
}

/// The calls from the making of the new file on, to the sync of the directory after it got its name.
fn of_the_rebuild(log: &str) -> Vec<(String, usize)> {
    let mut points = strace::points_from(log, ".checkpoint-store.db.rotate");
    let renamed = points.iter().position(|(call, _)| call.starts_with("rename")).expect("it takes its place");
    let synced = points[renamed..].iter().position(|(call, _)| call == "fsync").expect("which is made durable");
    points.truncate(renamed + synced + 1);
    points
}

#[test]
fn a_file_system_that_refuses_it() {
    if let Some(out) = run_inside("refused::inside", "a rebuild on a full and on a read-only file system") {
        out.lines().filter(|line| line.starts_with("rebuild ")).for_each(|line| println!("{line}"));
    }
}

#[test]
#[ignore = "run by the test above, in namespaces of its own"]
fn inside() {
    type Step = fn(&Small);
    let rows: [(&str, Step, Step); 2] = [
        ("No space left on device", Small::fill, Small::empty),
        ("Read-only file system", |small| small.remount("ro"), |small| small.remount("rw")),
    ];
    for (reason, refuse, allow) in rows {
        let damaged = Damaged::new();
        let directory = damaged.store.parent().unwrap();
        let files: BTreeMap<PathBuf, Vec<u8>> = beside_or_at(directory);
        let small = Small::mounted(directory.to_owned(), "8m");
        for (path, bytes) in &files {
            fs::write(path, bytes).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        refuse(&small);
        let ran = Ran::of(damaged.start());
        assert_refused(&damaged, ran, reason);
        let same = beside_or_at(directory).into_iter().filter(|(path, _)| !path.ends_with("filler")).collect();
        assert!(files == same, "{reason}: {:?}", same.keys());
        allow(&small);
        damaged.next_start_ends_it(reason);
        // It ends before its directory goes.
        drop(small);
    }
}

/// Also for root: a user namespace without any mapping has none of root's rights over its files.
#[test]
fn permissions_that_refuse_it() {
    if !Command::new("unshare").args(["-U", "true"]).output().is_ok_and(|output| output.status.success()) {
        strace::say("SKIPPED: a rebuild without permission: no user namespaces can be made here (unshare -U)");
        return;
    }
    for (of_directory, of_file) in [(0o500, 0o600), (0o700, 0o400)] {
        let damaged = Damaged::new();
        let directory = damaged.store.parent().unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(&damaged.store, of_file);
        set(directory, of_directory);
        let before = beside_or_at(directory);
        let mut command = Command::new("unshare");
        command.arg("-U").arg(damaged.start().get_program()).args(damaged.start().get_args());
        let ran = Ran::of(crate::common::program::clean(command));
        set(directory, 0o700);
        set(&damaged.store, 0o600);
        assert_refused(&damaged, ran, "Permission denied");
        assert!(beside_or_at(directory) == before, "{of_directory:o} {of_file:o}");
        damaged.next_start_ends_it("with permissions again");
    }
}

/// It was refused, and says so of the store; nothing was changed.
#[track_caller]
fn assert_refused(damaged: &Damaged, ran: Ran, reason: &str) {
    println!("rebuild refused: {}", ran.stderr.lines().last().unwrap_or_default());
    let ran = ran.expect(2);
    let named = ran.stderr.lines().any(|line| line.contains("/var/lib/ckpt-db") && line.contains(reason));
    assert!(named, "{reason}: {}", ran.stderr);
    assert!(damaged.is_untouched(reason), "{reason}: something was replaced");
}

fn beside_or_at(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}
