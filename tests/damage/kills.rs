//! A rebuild that is killed at a system call: the name of the store is that of the damaged file or of the whole new one, and
//! the next attempt ends it.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use ckpt_db::agent::open_or_rebuild;
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::store::{Carry, install_panic_hook, kept_beside, open_offline, rebuild};

use crate::common::NOW;
use crate::common::strace::{self, Victim};
use crate::{Files, is_structure, readable, scratch, write};

/// Names the store that the victim rebuilds.
const VICTIM: &str = "CKPT_DB_TEST_REBUILD";

#[test]
#[ignore = "run by the test that kills it"]
fn rebuild_what_the_environment_names() {
    install_panic_hook();
    let path = PathBuf::from(std::env::var_os(VICTIM).unwrap());
    let _ = rebuild(&path, &[], Carry::Sound, "", NOW + 1_000, &SystemEntropy).unwrap();
}

#[test]
fn killed_at_any_call_it_leaves_the_damaged_file_or_the_new_store() {
    if !strace::works() {
        return;
    }
    install_panic_hook();
    let files = Files::new(2);
    // Its end is gone: everything is there, but it is no sound file.
    let damaged = &files.closed[..files.closed.len() - 1];
    let directory = scratch();
    let (path, log) = (directory.path().join("checkpoint-store.db"), directory.path().join("log"));
    let victim = Victim { test: "kills::rebuild_what_the_environment_names", variable: VICTIM, path: &path };
    let run = |killed_at: Option<&(String, usize)>| {
        for kept in kept_beside(&path) {
            fs::remove_file(kept).unwrap();
        }
        write(&path, damaged);
        victim.run(&log, killed_at)
    };
    assert!(run(None).success(), "undisturbed");
    assert!(holds(&path, &files, damaged, "undisturbed"));

    let points = strace::points_from(&fs::read_to_string(&log).unwrap(), ".checkpoint-store.db.rotate");
    assert!(points.iter().any(|(call, _)| call.starts_with("link")), "{points:?}");
    // With the last ones: sync, link, sync of the directory, sync, rename, sync of the directory; some of the harness follow.
    let chosen = strace::choose_with_last(&points, 9);
    let (mut kills, mut news) = (0, 0);
    for point in &chosen {
        let killed = run(Some(point));
        let what = format!("killed at {} {}", point.0, point.1);
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
