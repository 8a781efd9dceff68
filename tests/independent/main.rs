//! The format and not just our code is right: Python's `cryptography` derives every secret, key, tag and sealed body of the
//! vectors again from SPEC.md alone, and opens a store that the program wrote.
//!
//! `tests/independent/python.sh` provides the Python. Without it this is skipped, which CKPT_DB_REQUIRE_PYTHON=1 forbids.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ckpt_db::checkpoint::object::Kind;
use ckpt_db::crypto::{SystemEntropy, sha256};
use ckpt_db::keys;
use ckpt_db::store::{Backend as _, SlotsWanted, rotate};
use data_encoding::HEXLOWER as HEX;
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};
use store_format::{SymmetricSecret, Unlocker, recovery_code_text};

/// The Python that has the module; `None` where it is not there and need not be.
fn python() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/independent/python.sh");
    let found = Command::new(script).arg("--cached").output().unwrap();
    if found.status.success() {
        return Some(String::from_utf8(found.stdout).unwrap().trim_end().into());
    }
    let why = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(std::env::var_os("CKPT_DB_REQUIRE_PYTHON").is_none(), "{why}");
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: {why}");
    None
}

fn checked(records: Option<&Path>) {
    let Some(python) = python() else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(python);
    command.arg("-B").arg(root.join("tests/independent/check.py")).arg(root.join("store-format/vectors")).args(records);
    let ran = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}{err}");
    let _ = writeln!(std::io::stderr(), "\nderived again by another implementation:\n{out}");
}

#[test]
fn the_vectors_are_what_another_implementation_makes_of_the_specification() {
    checked(None);
}

#[test]
fn another_implementation_opens_what_the_program_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let pem = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/keys/test-only-{name}.pem"));
    // All of them test data.
    let files: Vec<PathBuf> =
        ["p256-pkcs8", "p384-sec1", "rsa2048-pkcs1", "ed25519-pkcs8"].iter().map(|name| pem(name)).collect();
    let mut unlockers: Vec<Unlocker> =
        files.iter().map(|path| Unlocker::from(keys::load(path).unwrap().secret)).collect();
    let (code, file, credential) = ([0x5a; 20], [7; 32], [9; 64]);
    unlockers.push(Unlocker::RecoveryCode(SymmetricSecret::of_recovery_code(&code)));
    unlockers.push(Unlocker::KeyFile(SymmetricSecret::of_file(&file).unwrap()));
    unlockers.push(Unlocker::Credential(SymmetricSecret::of_file(&credential).unwrap()));
    let mut stated: Vec<String> = files.iter().map(|path| format!("node-key pem {}", path.display())).collect();
    stated.push(format!("recovery-code {}", *recovery_code_text(&code, sha256)));
    stated.push(format!("key-file {}", HEX.encode(&file)));
    stated.push(format!("credential {}", HEX.encode(&credential)));

    let objects = common::objects(3);
    let mut store = common::store_with(&path, objects.clone(), &unlockers[0]);
    let all: Vec<&Unlocker> = unlockers.iter().collect();
    let _ = store.keep_slots(&SlotsWanted { add: &all, ..SlotsWanted::default() }, common::NOW).unwrap();
    let store_id = store.identity().store_id;
    drop(store);
    for exchanged in [false, true] {
        if exchanged {
            let rotated = rotate(&path, &all, common::NOW, &SystemEntropy).unwrap().into_inner();
            assert_eq!((rotated.slots.len(), rotated.lost.len()), (all.len(), 0));
        }
        let clear: BTreeMap<String, String> = objects
            .iter()
            .map(|object| {
                let key = &object.key;
                let name = format!("{}/{}/{}", key.kind().row().name, key.namespace(), key.name());
                (name, HEX.encode(object.body.expose()))
            })
            .collect();
        assert!(objects.iter().any(|object| object.key.kind() == Kind::Secret));
        let records = serde_json::json!({
            "store_id": HEX.encode(&store_id.0), "unlockers": stated, "rows": rows(&path), "clear": clear,
        });
        let written = directory.path().join("records.json");
        std::fs::write(&written, records.to_string()).unwrap();
        checked(Some(&written));
    }
}

/// Every row of every table: its table, the parts of its key, its octets.
fn rows(path: &Path) -> Vec<(&'static str, Vec<String>, String)> {
    let db = redb::Database::open(path).unwrap();
    let txn = db.begin_read().unwrap();
    let mut rows = Vec::new();
    for name in ["meta", "slots", "log"] {
        let table = txn.open_table(TableDefinition::<&str, &[u8]>::new(name)).unwrap();
        rows.extend(table.iter().unwrap().map(|entry| {
            let (key, value) = entry.unwrap();
            (name, vec![key.value().to_owned()], HEX.encode(value.value()))
        }));
    }
    let pods = txn.open_table(TableDefinition::<(&str, &str), &[u8]>::new("pods")).unwrap();
    rows.extend(pods.iter().unwrap().map(|entry| {
        let (key, value) = entry.unwrap();
        let (namespace, name) = key.value();
        ("pods", vec![namespace.to_owned(), name.to_owned()], HEX.encode(value.value()))
    }));
    let objects = txn.open_table(TableDefinition::<(&str, &str, &str), &[u8]>::new("objects")).unwrap();
    rows.extend(objects.iter().unwrap().map(|entry| {
        let (key, value) = entry.unwrap();
        let (kind, namespace, name) = key.value();
        ("objects", vec![kind.to_owned(), namespace.to_owned(), name.to_owned()], HEX.encode(value.value()))
    }));
    rows
}
