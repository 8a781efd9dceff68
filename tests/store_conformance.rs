//! Both backends pass the public conformance suite, and what redb holds is what the in-memory model holds.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

mod common;

use ckpt_db::crypto::SystemEntropy;
use ckpt_db::store::{Backend, MemoryStore, NewStore, RedbStore, conformance};
use common::{identity, secret};

#[test]
fn memory_conforms() {
    let mut make = || Box::new(MemoryStore::new(identity(), Box::new(SystemEntropy)).unwrap()) as Box<dyn Backend>;
    conformance::run(&mut make, &secret());
}

#[test]
fn redb_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let mut number = 0;
    let mut make = || {
        number += 1;
        let path = directory.path().join(format!("{number}.db"));
        let new = NewStore { identity: identity(), secret: None };
        Box::new(RedbStore::create(&path, new, Box::new(SystemEntropy)).unwrap()) as Box<dyn Backend>
    };
    conformance::run(&mut make, &secret());
}
