//! Both backends pass the public conformance suite, and what redb holds is what the in-memory model holds.

use ckpt_db::crypto::{SystemEntropy, generate_p256_pkcs8};
use ckpt_db::store::{Backend, MemoryStore, NewStore, RedbStore, conformance};
use store_format::{Identity, NodeSecret, StoreId};

fn identity() -> Identity {
    Identity {
        store_id: StoreId([7; 16]),
        created_at_unix_ms: 1_700_000_000_000,
        node_name: "edge-1".to_owned(),
        node_uid: String::new(),
        cluster_ca_sha256: Vec::new(),
        kubelet_version: String::new(),
    }
}

fn secret() -> NodeSecret {
    NodeSecret::from_pkcs8(generate_p256_pkcs8().unwrap().expose()).unwrap()
}

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
