//! Flipped bytes in a store file: never a panic, a hang or a wrong value; what is lost is named.
//!
//! Every byte of the file, cleanly and uncleanly closed, is flipped in turn by `CKPT_DB_FLIPS=all cargo test --release
//! --test damage`; without the variable a spread sample is. The file has no other redundancy than its records' digests.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use ckpt_db::checkpoint::lookup::{Lookup, Objects as _};
use ckpt_db::checkpoint::object::{Object, ObjectKey};
use ckpt_db::store::{Finding, Snapshot, install_panic_hook, open_offline};
use store_format::Unlocker;

/// How many flips a sampled run makes for each of the two files.
const SAMPLE: u64 = 400;

#[derive(Debug, Default)]
struct Tally {
    flips: u64,
    unnoticed: u64,
    records_lost: u64,
    unnamed: u64,
    structure: u64,
    unreadable: Vec<u64>,
}

#[test]
fn no_flipped_byte_gives_a_wrong_value() {
    install_panic_hook();
    let secret = common::secret();
    let objects = common::objects(6);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let store = common::store_with(&path, objects.clone(), &secret);
    // As the power cut leaves it: copied while it is open.
    let unclean = fs::read(&path).unwrap();
    drop(store);
    let closed = fs::read(&path).unwrap();
    // The store never closes in redb's own way, for a reason (`src/store/detach.rs`); another tool may have done so. Then
    // both commits in the file share the page that names the tables, and some bytes of that one page cost everything.
    drop(redb::Database::open(&path).unwrap());
    let foreign = fs::read(&path).unwrap();
    assert_ne!(closed, foreign);
    let expected: BTreeMap<ObjectKey, Object> =
        objects.into_iter().map(|object| (object.key.clone(), object)).collect();
    for (name, bytes, sample, all_readable) in [
        ("closed cleanly", closed, SAMPLE, true),
        ("not closed", unclean, SAMPLE, true),
        ("closed by another tool", foreign, SAMPLE / 2, false),
    ] {
        let tally = campaign(directory.path(), &bytes, sample, all_readable, &expected, &secret);
        println!(
            "{name}: {} bytes, {} flips: {} without effect, {} lost records ({} unnamed), {} structural, {} unreadable {:?}",
            bytes.len(),
            tally.flips,
            tally.unnoticed,
            tally.records_lost,
            tally.unnamed,
            tally.structure,
            tally.unreadable.len(),
            &tally.unreadable[..tally.unreadable.len().min(20)],
        );
        assert!(
            !all_readable || tally.unreadable.is_empty(),
            "{name}: a flip at these offsets made the whole store unreadable: {:?}",
            tally.unreadable
        );
    }
}

fn campaign(
    directory: &Path,
    bytes: &[u8],
    sample: u64,
    all_named: bool,
    expected: &BTreeMap<ObjectKey, Object>,
    secret: &Unlocker,
) -> Tally {
    let path = directory.join("flipped.db");
    fs::write(&path, bytes).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut tally = Tally::default();
    for at in offsets(bytes, sample) {
        tally.flips += 1;
        let original = bytes[at as usize];
        // Alternately all bits and one bit, so that both a wild and a subtle change are seen everywhere.
        let flipped = if at % 2 == 0 { original ^ 0xff } else { original ^ (1 << (at / 2 % 8)) };
        file.write_all_at(&[flipped], at).unwrap();
        match open_offline(&path, &[secret]) {
            Err(error) => {
                assert!(error.is_damage(), "offset {at}: {error}");
                tally.unreadable.push(at);
            }
            Ok(snapshot) => judge(at, snapshot.get(), all_named, expected, &mut tally),
        }
        file.write_all_at(&[original], at).unwrap();
    }
    assert!(fs::read(&path).unwrap() == bytes, "reading changed the file");
    tally
}

/// Every offset, or a sample: all of the header, and every page that is not all zeros.
fn offsets(bytes: &[u8], sample: u64) -> Vec<u64> {
    let used: Vec<bool> = bytes.chunks(4096).map(|page| page.iter().any(|byte| *byte != 0)).collect();
    let all: Vec<u64> = (0..bytes.len() as u64).filter(|at| used[*at as usize / 4096]).collect();
    if std::env::var_os("CKPT_DB_FLIPS").is_some_and(|flips| flips == "all") {
        return all;
    }
    let step = (all.len() as u64 / sample).max(1) | 1;
    all.into_iter().filter(|at| *at < 320 || at % step == 0).collect()
}

fn judge(at: u64, snapshot: &Snapshot, all_named: bool, expected: &BTreeMap<ObjectKey, Object>, tally: &mut Tally) {
    let mut lost = 0;
    for (key, original) in expected {
        match snapshot.get(key) {
            Lookup::Found(found) => assert!(found == *original, "offset {at}: a wrong value of {key}"),
            Lookup::Missing | Lookup::Forbidden | Lookup::Sealed | Lookup::NoKeyYet | Lookup::Damaged => {
                lost += 1;
                tally.unnamed += u64::from(!named(snapshot, key));
                assert!(
                    !all_named || named(snapshot, key),
                    "offset {at}: {key} is lost, and no finding names it: {:?}",
                    snapshot.findings()
                );
            }
        }
    }
    assert!(
        snapshot.objects().all(|object| expected.contains_key(object.key)),
        "offset {at}: an object out of nowhere"
    );
    tally.records_lost += lost;
    if snapshot.findings().is_empty() {
        tally.unnoticed += 1;
    } else if snapshot.findings().iter().any(|finding| matches!(finding, Finding::Structure(_))) {
        tally.structure += 1;
    }
}

/// Whether some finding says that `key` is lost: by name, or for a Secret by the loss of every key slot.
fn named(snapshot: &Snapshot, key: &ObjectKey) -> bool {
    snapshot.damaged().any(|damaged| damaged == key)
        || snapshot.findings().iter().any(|finding| match finding {
            Finding::Hidden { kind, .. } => kind == key.kind().row().name,
            Finding::Missing { object, .. } => object == "every key slot" && key.kind().row().sealed,
            Finding::Structure(_) | Finding::Record { .. } | Finding::Revision { .. } => false,
        })
}
