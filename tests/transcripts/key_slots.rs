//! `ckpt-db key` with no agent running, and stores that something else than a node key opens.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

use std::fs;

use crate::scene::{SEED, STORE, Scene};

const OWN_KEY: &str = "node/var/lib/ckpt-db/node-key.pem";
const WITH_KEY: &str = "--root node --node-key key.pem";

/// The same for `key add`, where the short names say what is added.
const OPENS_WITH_KEY: &str = "--root node --with-node-key key.pem";

/// 32 octets: a key for tests.
const KEY_FILE: &str = "test key, 32 octets, no more....";

/// Adds a recovery code, which goes to `code.txt`.
fn add_code(scene: &Scene) -> String {
    let code = scene.raw(&format!("key add --recovery-code {OPENS_WITH_KEY}"));
    assert_eq!(code.len(), 45, "nine groups of four, and the line's end");
    scene.write("code.txt", &code);
    code.trim_end().to_owned()
}

/// The first digits of the fingerprint of the slot of this kind.
fn slot(scene: &Scene, kind: &str, options: &str) -> String {
    let list: serde_json::Value = serde_json::from_str(&scene.raw(&format!("key list -o json {options}"))).unwrap();
    let slot = list["items"].as_array().unwrap().iter().find(|item| item["kind"] == kind).unwrap();
    slot["fingerprint"].as_str().unwrap()[..12].to_owned()
}

#[test]
fn init() {
    let mut scene = Scene::with_source();
    scene.run("key list --root node");
    scene.run("key init --root node");
    scene.run("key init --root node");
    let mode = fs::metadata(scene.path(OWN_KEY)).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o7777, 0o600);
    assert_eq!(scene.answer("run --once --root node --manifests pods.yaml").code, 0);
    scene.run("key list --root node -o yaml");
    fs::remove_file(scene.path(OWN_KEY)).unwrap();
    scene.key("node/var/lib/kubelet/pki/kubelet-client-current.pem");
    scene.run("key init --root node");
    assert!(!scene.path(OWN_KEY).exists());
    scene.run("key init --root node --force");
    assert!(scene.path(OWN_KEY).exists());
    scene.expect("key_init");
}

#[test]
fn list() {
    let mut scene = Scene::seeded();
    add_code(&scene);
    for options in ["-o json", "-o name", "-o json --recovery-code-file code.txt"] {
        scene.run(&format!("key list {WITH_KEY} {options}"));
    }
    scene.run("key list --root node -o name");
    scene.expect("key_list");
}

/// The columns of the table; ages differ from run to run.
#[test]
fn list_as_a_table() {
    let scene = Scene::seeded();
    for (options, want) in [
        ("", "KIND FINGERPRINT AGE OPENS\nnode-key [FINGERPRINT] N s yes"),
        (" -o wide", "KIND FINGERPRINT AGE OPENS MADE WITH\nnode-key [FINGERPRINT] N s yes [TIME] key.pem"),
    ] {
        let table = scene.answer(&format!("key list {WITH_KEY}{options}")).stdout;
        let words = |line: &str| {
            let word = |word: &str| if word.parse::<u8>().is_ok() { "N".to_owned() } else { word.to_owned() };
            line.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(table.lines().map(words).collect::<Vec<_>>().join("\n"), want);
    }
}

#[test]
fn a_store_without_a_key_has_no_slots() {
    let mut scene = Scene::with_source();
    scene.run_with(
        "run --once --root node --manifests -",
        "{apiVersion: v1, kind: Pod, metadata: {name: dns, namespace: kube-system, uid: u}, \
         spec: {nodeName: edge-1, containers: [{name: c, image: i}]}, status: {phase: Running}}",
    );
    scene.run("key list --root node");
    scene.run("key list --root node -o json");
    scene.run("key rotate --root node");
    scene.run("key remove 00 --root node");
    scene.run("key add --recovery-code --root node");
    scene.run("key add --node-key key.pem --root node");
    scene.run(&format!("key list {WITH_KEY} -o name"));
    scene.expect("key_of_a_keyless_store");
}

/// The disk is there, the kubelet's key is not.
#[test]
fn a_recovery_code_opens_what_no_other_key_does() {
    let mut scene = Scene::seeded();
    let code = add_code(&scene);
    fs::remove_file(scene.path("key.pem")).unwrap();
    scene.run("dump --root node --kind secret --reveal -o name");
    scene.run("dump --root node --kind secret --reveal -o name --recovery-code-file code.txt");
    scene.run_with("verify --root node --recovery-code-file -", &code);
    // As somebody types it from paper.
    let typed = code.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
    scene.run_with("verify --root node --recovery-code-file -", &typed);
    scene.run("render --root node --out out --recovery-code-file code.txt");
    assert!(scene.path("out/etc/kubernetes/checkpoint-secrets").read_dir().unwrap().next().is_some());
    // The node has got a new key; the code makes it one of the store.
    scene.key("key.pem");
    scene.run("key add --node-key key.pem --root node");
    scene.run("key add --node-key key.pem --root node --with-recovery-code-file code.txt");
    scene.run("key add --node-key key.pem --root node --with-recovery-code-file code.txt");
    scene.run(&format!("verify {WITH_KEY}"));
    assert!(!scene.path("node/code.txt").exists());
    scene.expect("key_recovery");
}

/// What is wrong is said, and never with the code.
#[test]
fn codes_that_are_none() {
    let mut scene = Scene::seeded();
    let code = add_code(&scene);
    let (head, tail) = code.split_at(code.len() - 1);
    let mistyped = format!("{head}{}", if tail == "7" { '8' } else { '7' });
    let swapped: String = {
        let mut groups: Vec<&str> = code.split('-').collect();
        groups.swap(1, 2);
        groups.join("-")
    };
    let rows = [
        ("", "empty"),
        ("\n", "blank"),
        (&code[..39], "short"),
        (&mistyped, "mistyped"),
        (&swapped, "swapped"),
        (&code.replace('-', "u"), "strange"),
    ];
    for (text, name) in rows {
        scene.write(name, text);
        let answer = scene.run(&format!("verify --root node --recovery-code-file {name}"));
        assert!(!code.split('-').any(|group| answer.stderr.contains(group)), "{}", answer.stderr);
    }
    // A code of another store is none of this one.
    scene.write("other", &*store_format::recovery_code_text(&[0x5a; 20], ckpt_db::crypto::sha256));
    scene.run("verify --root node --recovery-code-file other");
    scene.run("key list --root node --recovery-code-file other -o name");
    scene.run("verify --root node --recovery-code-file absent");
    scene.run("verify --root node --recovery-code-file node");
    scene.expect("key_codes");
}

/// Nobody is asked where there is no terminal.
#[test]
fn a_prompt_needs_a_terminal() {
    let mut scene = Scene::seeded();
    let answer = scene.answer_without_terminal("verify --root node --recovery-code");
    scene.record("verify --root node --recovery-code", &answer);
    scene.expect("key_prompt");
}

#[test]
fn key_files() {
    let mut scene = Scene::seeded();
    scene.private("operator.key", KEY_FILE);
    scene.run(&format!("key add --key-file operator.key {OPENS_WITH_KEY}"));
    fs::remove_file(scene.path("key.pem")).unwrap();
    scene.run("verify --root node --key-file operator.key");
    scene.run("dump --root node --kind secret --reveal -o name --key-file operator.key");
    for (name, contents) in
        [("empty", String::new()), ("short", "x".repeat(31)), ("long", "x".repeat(4097)), ("other", "y".repeat(32))]
    {
        scene.private(name, &contents);
        scene.run(&format!("key list --root node --key-file {name} -o name"));
        if name != "other" {
            scene.run(&format!("key add --root node --key-file {name} --with-key-file operator.key"));
        }
    }
    scene.run("key add --root node --key-file absent --with-key-file operator.key");
    scene.write("open.key", "z".repeat(32));
    scene.run("key add --root node --key-file open.key --with-key-file operator.key --key-slots credential-only");
    scene.run("key add --root node --key-file open.key --with-key-file operator.key");
    scene.expect("key_files");
}

/// What systemd passes is found by its name; with it alone, no file of the node opens the store.
#[test]
fn credentials() {
    let mut scene = Scene::seeded();
    scene.private("credentials/ckpt-db.key", KEY_FILE);
    scene.private("credentials/other", &"o".repeat(32));
    scene.private("credentials/short", "o");
    scene.run(&format!("key add --credential ckpt-db.key {OPENS_WITH_KEY}"));
    scene.environment.push(("CREDENTIALS_DIRECTORY", scene.path("credentials")));
    scene.run(&format!("key add --credential ckpt-db.key {OPENS_WITH_KEY}"));
    scene.run(&format!("key add --credential other {OPENS_WITH_KEY}"));
    scene.run("key list --root node -o json");
    scene.run("key list --root node -o name --credential other");
    scene.run("key list --root node -o name --credential short");
    scene.run("key list --root node -o name --credential ../key.pem");
    // Now the slots of files go.
    scene.run("key rewrap --root node --key-slots credential-only --credential ckpt-db.key --credential other");
    scene.run(&format!("run --once {WITH_KEY} --key-slots credential-only"));
    scene.run("key list --root node -o json");
    scene.environment.clear();
    scene.run(&format!("verify {WITH_KEY}"));
    scene.expect("key_credentials");
}

#[test]
fn remove() {
    let mut scene = Scene::seeded();
    let node_key = slot(&scene, "node-key", WITH_KEY);
    let refused = scene.raw(&format!("key remove {node_key} {WITH_KEY}"));
    assert_eq!(refused, "");
    add_code(&scene);
    scene.run(&format!("key remove zz {WITH_KEY}"));
    scene.run(&format!("key remove '' {WITH_KEY}"));
    // Of both slots neither can go that opens alone.
    let code = slot(&scene, "recovery-code", WITH_KEY);
    let hidden = |scene: &mut Scene, slot: &str, options: &str| {
        let answer = scene.answer(&format!("key remove {slot} {options}"));
        scene.record(&format!("key remove FINGERPRINT {options}"), &answer);
    };
    hidden(&mut scene, &node_key, WITH_KEY);
    hidden(&mut scene, &node_key, &format!("{WITH_KEY} --recovery-code-file code.txt"));
    hidden(&mut scene, &code, "--root node --recovery-code-file code.txt");
    hidden(&mut scene, &code, WITH_KEY);
    scene.run("verify --root node --recovery-code-file code.txt");
    scene.expect("key_remove");
}

#[test]
fn rewrap() {
    let mut scene = Scene::seeded();
    add_code(&scene);
    scene.key("new.pem");
    let before = fs::read(scene.path(STORE)).unwrap();
    scene.run(&format!("key rewrap {WITH_KEY} --node-key new.pem"));
    assert!(fs::read(scene.path(STORE)).unwrap() != before);
    scene.run(&format!("key rewrap {WITH_KEY} --node-key new.pem --recovery-code-file code.txt"));
    scene.run("verify --root node --node-key new.pem");
    scene.run("verify --root node --recovery-code-file code.txt");
    scene.run("key rewrap --root node");
    scene.expect("key_rewrap");
}

/// After a new data key nothing opens the store that was not at hand.
#[test]
fn rotate() {
    let mut scene = Scene::seeded();
    add_code(&scene);
    let before = fs::read(scene.path(STORE)).unwrap();
    scene.run(&format!("key rotate {WITH_KEY}"));
    assert!(fs::read(scene.path(STORE)).unwrap() == before, "not an octet");
    scene.run(&format!("key rotate {WITH_KEY} --recovery-code-file code.txt"));
    scene.run("verify --root node --recovery-code-file code.txt");
    scene.run(&format!("key rotate {WITH_KEY} --yes"));
    scene.run("dump --root node --recovery-code-file code.txt --kind secret");
    scene.run(&format!("verify {WITH_KEY}"));
    scene.run("key rotate --root node --yes");
    assert_eq!(scene.answer(SEED).code, 0);
    // A copy from before opens with the key from before.
    scene.write("old.db", &before);
    scene.run("verify --root node --store old.db --recovery-code-file code.txt");
    scene.expect("key_rotate");
}
