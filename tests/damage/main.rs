//! Damage of a store file: never a panic, a hang or a wrong value; what is lost is named; the damaged file is kept; and what
//! still reads is in the store that takes its place.
//!
//! Samples run with the ordinary tests; the long forms are `just flips` and `just damage`.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]
#![allow(clippy::print_stdout, reason = "the figures of the campaign")]

#[path = "../common/mod.rs"]
mod common;
mod flips;
mod kills;
mod kinds;
mod rebuilding;
mod refused;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ckpt_db::checkpoint::lookup::{Lookup, Objects as _};
use ckpt_db::checkpoint::object::{Object, ObjectKey};
use ckpt_db::store::{Finding, Snapshot};
use store_format::Unlocker;

/// A store in a file, in the states in which a file can be found.
struct Files {
    secret: Unlocker,
    expected: BTreeMap<ObjectKey, Object>,
    /// As the program leaves it when it ends.
    closed: Vec<u8>,
    /// As a power cut leaves it: copied while it is open.
    unclean: Vec<u8>,
    /// The store never closes in redb's own way, for a reason (`src/store/detach.rs`); another tool may have done so. Then both
    /// commits in the file share the page that names the tables, and some bytes of that one page cost everything.
    foreign: Vec<u8>,
}

impl Files {
    fn new(pods: usize) -> Self {
        let secret = common::secret();
        let objects = common::objects(pods);
        let directory = scratch();
        let path = directory.path().join("checkpoint-store.db");
        let store = common::store_with(&path, objects.clone(), &secret);
        let unclean = fs::read(&path).unwrap();
        drop(store);
        let closed = fs::read(&path).unwrap();
        drop(redb::Database::open(&path).unwrap());
        let foreign = fs::read(&path).unwrap();
        assert_ne!(closed, foreign);
        let expected = objects.into_iter().map(|object| (object.key.clone(), object)).collect();
        Self { secret, expected, closed, unclean, foreign }
    }
}

/// Which of `expected` a snapshot has; none of them with another value, and nothing else.
fn readable<'a>(
    snapshot: &Snapshot,
    expected: &'a BTreeMap<ObjectKey, Object>,
    what: &dyn std::fmt::Display,
) -> Vec<&'a ObjectKey> {
    let is_there = |(key, original): &(&'a ObjectKey, &'a Object)| match snapshot.get(key) {
        Lookup::Found(found) => {
            assert!(found == **original, "{what}: a wrong value of {key}");
            true
        }
        Lookup::Missing | Lookup::Forbidden | Lookup::Sealed | Lookup::NoKeyYet | Lookup::Damaged => false,
    };
    let there = expected.iter().filter(is_there).map(|(key, _)| key).collect();
    assert!(snapshot.objects().all(|object| expected.contains_key(object.key)), "{what}: an object out of nowhere");
    there
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

fn is_structure(finding: &Finding) -> bool {
    matches!(finding, Finding::Structure(_))
}

/// In memory where that can be: what is written here is synced thousands of times, and no power is cut.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}
