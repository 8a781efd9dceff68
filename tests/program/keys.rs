//! Key slots while the agent runs: it has the store open, and is asked over its admin socket.

use std::fs;

use data_encoding::BASE64;
use rustix::process::Signal;
use serde_json::Value;

use crate::common::program::{Ran, program};
use crate::scene::{OFF, Scene};

/// `ckpt-db key ... --root ROOT`.
fn key(scene: &Scene, arguments: &[&str]) -> Ran {
    let mut command = program();
    command.arg("key").args(arguments).arg("--root").arg(scene.node.root());
    Ran::of(command)
}

fn slots(scene: &Scene) -> Vec<(String, String)> {
    let list = key(scene, &["list", "-o", "json"]).expect(0).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list["items"].as_array().unwrap().iter().map(|item| (text(&item["kind"]), text(&item["fingerprint"]))).collect()
}

fn kinds(scene: &Scene) -> Vec<String> {
    slots(scene).into_iter().map(|(kind, _)| kind).collect()
}

/// A recovery code is added while the agent runs; later the node has lost its key, and the code brings the Secrets back.
#[test]
fn a_code_that_was_added_while_it_ran_recovers_the_node() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let mut agent = scene.start(&OFF);
    agent.in_step(5);
    assert_eq!(kinds(&scene), ["node-key"]);

    // The last slot stays.
    let (_, node_key) = slots(&scene).remove(0);
    let refused = key(&scene, &["remove", &node_key[..8]]).expect(2);
    assert!(
        refused.stderr.contains("the agent says: after that no key at hand would open the store"),
        "{}",
        refused.stderr
    );
    let refused = key(&scene, &["rotate"]).expect(2);
    assert!(refused.stderr.contains("stop it first (systemctl stop ckpt-db)"), "{}", refused.stderr);

    let added = key(&scene, &["add", "--recovery-code"]).expect(0);
    let code = added.stdout.trim_end().to_owned();
    assert_eq!((code.len(), added.stdout.lines().count()), (44, 1), "alone on standard output");
    assert!(!added.stderr.contains(&code[..9]), "and nowhere else");
    assert_eq!(kinds(&scene), ["node-key", "recovery-code"]);

    let secret = [b'k'; 48];
    let file = scene.node.root().join("operator.key");
    fs::write(&file, secret).unwrap();
    let file = file.to_str().unwrap();
    key(&scene, &["add", "--key-file", file]).expect(0);
    let again = key(&scene, &["add", "--key-file", file]).expect(0);
    assert!(again.stdout.contains("has a slot already"), "{}", again.stdout);
    assert_eq!(kinds(&scene), ["node-key", "recovery-code", "key-file"]);

    // The agent wraps anew for its own key without being given it.
    let rewrapped = key(&scene, &["rewrap", "--key-file", file]).expect(1);
    assert!(rewrapped.stderr.contains("left as it is: recovery-code"), "{}", rewrapped.stderr);
    let anew: Vec<&str> = rewrapped.stdout.lines().filter_map(|line| line.strip_prefix("wrapped anew: ")).collect();
    assert_eq!(anew.len(), 2, "{}", rewrapped.stdout);

    let (_, key_file) = slots(&scene).into_iter().find(|(kind, _)| kind == "key-file").unwrap();
    let removed = key(&scene, &["remove", &key_file]).expect(0);
    assert!(removed.stderr.contains("this revokes nothing"), "{}", removed.stderr);
    assert_eq!(kinds(&scene), ["recovery-code", "node-key"]);

    let ended = agent.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0));
    let said = String::from_utf8_lossy(&ended.octets).into_owned();
    for secret in [&code[..9], &BASE64.encode(&secret[..30])] {
        assert!(!said.contains(secret), "the journal has no secret");
    }

    // The kubelet's keys are gone.
    fs::remove_dir_all(scene.node.at("var/lib/kubelet")).unwrap();
    let locked = key(&scene, &["list"]).expect(1);
    assert!(locked.stderr.contains("no key at hand opens the store"), "{}", locked.stderr);
    let written = scene.node.root().join("code");
    fs::write(&written, &code).unwrap();
    let out = scene.node.root().join("out");
    let (written, out) = (written.to_str().unwrap(), out.to_str().unwrap());
    scene.node.ran("render", &["--out", out, "--recovery-code-file", written]).expect(0);
    let rendered = scene.node.root().join("out");
    assert!(contains(&rendered, "secret of web"), "the Secret's value is rendered");
}

/// Whether a file below `directory` is this text.
fn contains(directory: &std::path::Path, text: &str) -> bool {
    fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        let is_link = fs::symlink_metadata(&path).unwrap().is_symlink();
        match path.is_dir() {
            _ if is_link => false,
            true => contains(&path, text),
            false => fs::read(&path).unwrap() == text.as_bytes(),
        }
    })
}

/// With credentials only, the agent takes the slots of files away and lets none be made.
#[test]
fn credentials_only() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let mut agent = scene.start(&OFF);
    agent.in_step(5);
    assert_eq!(kinds(&scene), ["node-key"]);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));

    let credentials = tempfile::tempdir().unwrap();
    fs::write(credentials.path().join("ckpt-db.key"), [b'c'; 32]).unwrap();
    let mut command = scene.command(&[OFF[0], OFF[1], "--key-slots", "credential-only"]);
    command.env("CREDENTIALS_DIRECTORY", credentials.path());
    let mut agent = scene.start_command(command);
    agent.until("in step");
    let list = key(&scene, &["list", "-o", "json"]).expect(1).json();
    let items = list["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["kind"]), (1, &Value::from("credential")), "{list}");

    let file = scene.node.root().join("operator.key");
    fs::write(&file, [b'k'; 48]).unwrap();
    let refused = key(&scene, &["add", "--key-file", file.to_str().unwrap()]).expect(2);
    assert!(refused.stderr.contains("the agent runs with --key-slots credential-only"), "{}", refused.stderr);
    key(&scene, &["add", "--recovery-code"]).expect(0);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));

    // The kubelet's key opens nothing any more, and the credential does.
    key(&scene, &["list"]).expect(1);
    let mut command = scene.node.command("verify", &[] as &[&str]);
    command.env("CREDENTIALS_DIRECTORY", credentials.path());
    let verified = Ran::of(command).expect(0);
    assert!(
        verified.stdout.starts_with("sound: ") && !verified.stderr.contains("no key at hand"),
        "{}",
        verified.stderr
    );
}
