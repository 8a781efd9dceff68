//! A rebuild that is killed at a system call: the name of the store is that of the damaged file or of the whole new one, and
//! the next attempt ends it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ckpt_db::agent::open_or_rebuild;
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::store::{Carry, install_panic_hook, kept_beside, open_offline, rebuild};

use crate::common::NOW;
use crate::{Files, is_structure, readable, scratch, write};

/// Names the store that the victim rebuilds.
const VICTIM: &str = "CKPT_DB_TEST_REBUILD";

const CALLS: [&str; 13] = [
    "write",
    "pwrite64",
    "ftruncate",
    "fsync",
    "fdatasync",
    "?link",
    "linkat",
    "?rename",
    "?renameat",
    "renameat2",
    "?unlink",
    "unlinkat",
    "openat",
];

#[test]
#[ignore = "run by the test that kills it"]
fn rebuild_what_the_environment_names() {
    install_panic_hook();
    let path = PathBuf::from(std::env::var_os(VICTIM).unwrap());
    let _ = rebuild(&path, &[], Carry::Sound, "", NOW + 1_000, &SystemEntropy).unwrap();
}

#[test]
fn killed_at_any_call_it_leaves_the_damaged_file_or_the_new_store() {
    let works = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).status();
    if !works.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI has to show what kills do");
        let _ = writeln!(std::io::stderr(), "\nSKIPPED: strace does not work here");
        return;
    }
    install_panic_hook();
    let files = Files::new(2);
    // Its end is gone: everything is there, but it is no sound file.
    let damaged = &files.closed[..files.closed.len() - 1];
    let directory = scratch();
    let (path, log) = (directory.path().join("checkpoint-store.db"), directory.path().join("log"));
    let traced = |inject: Option<String>| {
        for kept in kept_beside(&path) {
            fs::remove_file(kept).unwrap();
        }
        write(&path, damaged);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o"]).arg(&log).arg("-e").arg(format!("trace={}", CALLS.join(",")));
        strace.args(inject.iter().flat_map(|inject| ["-e", inject]));
        strace.arg("--").arg(std::env::current_exe().unwrap());
        strace.args(["--exact", "kills::rebuild_what_the_environment_names", "--ignored", "--test-threads=1"]);
        strace.env(VICTIM, &path).env("RUST_BACKTRACE", "0").stdout(Stdio::null()).stderr(Stdio::null());
        strace.status().unwrap()
    };
    assert!(traced(None).success(), "undisturbed");
    assert!(holds(&path, &files, damaged, "undisturbed"));

    // From the first call that has to do with the new file. strace counts by thread; the harness has one of its own.
    let text = fs::read_to_string(&log).unwrap();
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let (mut points, mut begun) = (Vec::new(), false);
    for line in text.lines() {
        let (thread, rest) = line.split_once(' ').unwrap();
        let Some((call, arguments)) = rest.trim_start().split_once('(') else { continue };
        let count = counts.entry((thread, call)).or_default();
        *count += 1;
        begun |= arguments.contains(".checkpoint-store.db.rotate");
        if begun && (!call.starts_with("open") || arguments.contains("O_CREAT")) {
            points.push((call.to_owned(), *count));
        }
    }
    assert!(points.iter().any(|(call, _)| call.starts_with("link")), "{points:?}");
    // A sample, with the last ones: sync, link, sync of the directory, sync, rename, sync of the directory.
    let step = if std::env::var_os("CKPT_DB_KILLS").is_some() { 1 } else { points.len().div_ceil(8) };
    let last = points.len() - 9;
    let (mut kills, mut news) = (0, 0);
    for (_, (call, number)) in points.iter().enumerate().filter(|(at, _)| at % step == 0 || *at >= last) {
        let killed = traced(Some(format!("inject={call}:signal=SIGKILL:when={number}")));
        let what = format!("killed at {call} {number}");
        // Calls of the harness itself come after all is done.
        assert!(killed.signal() == Some(9) || killed.success(), "{what}: {killed}");
        kills += usize::from(killed.signal() == Some(9));
        news += usize::from(holds(&path, &files, damaged, &what));
        drop(
            open_or_rebuild(&path, &[], Carry::Sound, "", NOW + 2_000)
                .unwrap_or_else(|error| panic!("{what}: {error}")),
        );
        assert!(holds(&path, &files, damaged, &what), "{what}: not rebuilt");
        let leftover = path.with_file_name(".checkpoint-store.db.rotate");
        assert!(!leftover.exists() || news > 0, "{what}: what was left is still there");
    }
    println!("{news} had done it");
    println!("campaign: kills of a rebuild: {kills} of {} system calls judged, 0 stores lost", points.len());
    assert!(kills > 5 && news > 0, "{kills}, {news}: the kills came too early or too late");
}

/// Whether the new store is there, whole; else the damaged file is, as it was. In either case nothing of it is lost.
fn holds(path: &Path, files: &Files, damaged: &[u8], what: &str) -> bool {
    let found = open_offline(path, &[&files.secret]).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(readable(found.get(), &files.expected, &what).len(), files.expected.len(), "{what}");
    let kept = kept_beside(path);
    assert!(kept.iter().all(|kept| fs::read(kept).unwrap() == damaged), "{what}: the evidence is another file");
    if fs::read(path).unwrap() == damaged {
        return false;
    }
    assert!(!found.get().findings().iter().any(is_structure), "{what}: {:?}", found.get().findings());
    assert_eq!(kept.len(), 1, "{what}: the evidence is gone");
    true
}
