//! Upgrade and downgrade of a node: the service opens the store that an older program left, and refuses by name what a newer one
//! has written, without touching it and without keeping the kubelet from starting.

use std::fs;

use serde_json::Value;
use store_format::{FORMAT_VERSION, Frame, Table, digest_input, meta_key};

use crate::machine::Scene;
use crate::{example, runnable};

const STORE: &str = "var/lib/ckpt-db/checkpoint-store.db";

const FORMAT_1: &str = include_str!("../../store-format/stores/format-1.txt");
const FORMAT_2: &str = include_str!("../../store-format/stores/format-2.txt");

/// The octets of a store of `store-format/stores`, and the key that opens it, as a kubelet's file has it.
fn released(text: &str) -> (Vec<u8>, String) {
    let (header, body) = text.split_once("\n\n").unwrap();
    let hex = |digits: &str| data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap();
    let key = header.lines().find_map(|line| line.strip_prefix("key-pkcs8: ")).unwrap();
    let octets = body.lines().flat_map(|line| {
        let (digits, count) = line.split_once(" * ").unwrap_or((line, "1"));
        hex(digits).repeat(count.parse().unwrap())
    });
    let kind = ["PRIVATE", "KEY"].join(" ");
    let key = data_encoding::BASE64.encode(&hex(key));
    (octets.collect(), format!("-----BEGIN {kind}-----\n{key}\n-----END {kind}-----\n"))
}

/// A key for tests, as a kubelet's file has it.
pub(crate) fn kubelet_key() -> String {
    released(FORMAT_1).1
}

#[test]
fn an_upgrade_opens_the_store_of_the_release_before() {
    if !runnable("an_upgrade_opens_the_store_of_the_release_before") {
        return;
    }
    for text in [FORMAT_1, FORMAT_2] {
        let (octets, key) = released(text);
        let scene = Scene::without_us();
        scene.write("var/lib/kubelet/pki/kubelet-client-current.pem", &key);
        fs::create_dir_all(scene.path("var/lib/ckpt-db")).unwrap();
        fs::write(scene.path(STORE), &octets).unwrap();
        scene.install(&[]);
        let machine = scene.boot();
        let found = machine.kubelet();
        assert!(found.contains("inactive-manifests/shop_web.json"), "{found}{}", machine.account());
        assert!(found.contains("  checkpoint-secrets/"), "its Secrets are opened: {found}");
        let status = machine.wait("it answers", |machine| {
            let said = machine.inside(&["/usr/local/bin/ckpt-db", "status", "-o", "json"]);
            serde_json::from_slice::<Value>(&said.stdout).ok()
        });
        assert_eq!((&status["store"]["lock"], &status["node"]), (&"Open".into(), &"edge-1".into()), "{status}");
    }
}

#[test]
fn a_downgrade_is_refused_by_name() {
    if !runnable("a_downgrade_is_refused_by_name") {
        return;
    }
    let scene = Scene::new();
    scene.store(example());
    // As a program after the next would leave it.
    let payload = (FORMAT_VERSION + 1).to_le_bytes();
    let digest = ckpt_db::crypto::sha256(&digest_input(Table::Meta, &[meta_key::FORMAT], &payload));
    let frame = Frame { digest, tag: None, payload: &payload }.encode();
    let db = redb::Database::open(scene.path(STORE)).unwrap();
    let change = db.begin_write().unwrap();
    let table = redb::TableDefinition::<&str, &[u8]>::new("meta");
    drop(change.open_table(table).unwrap().insert(meta_key::FORMAT, frame.as_slice()).unwrap());
    change.commit().unwrap();
    drop(db);
    let before = fs::read(scene.path(STORE)).unwrap();
    scene.hurry("RestartSec=100ms\nStandardError=append:/run/said");
    let machine = scene.boot();
    let found = machine.kubelet();
    assert!(!found.contains("manifests/"), "{found}");
    machine.wait("it says why, and goes on trying", |machine| {
        let said = String::from_utf8(machine.inside(&["cat", "/run/said"]).stdout).unwrap();
        let named = format!("has format version {}, this program knows up to {FORMAT_VERSION}", FORMAT_VERSION + 1);
        (said.matches(&named).count() > 1 && said.contains("use the newer ckpt-db")).then_some(())
    });
    assert!(fs::read(machine.scene.path(STORE)).unwrap() == before, "the newer store is as it was");
    assert_eq!(machine.property("kubelet.service", "SubState"), "running");
}
