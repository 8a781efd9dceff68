//! Looking at a store: every format, every selection, what is redacted, and that nothing from the store reaches a
//! terminal raw.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::scene::{EXE, SEED, STORE, Scene, look, words};

const STORE_AND_KEY: &str = "--root node --node-key key.pem";

/// A scene and a recorder of one command on its store.
fn inspect(commands: &[&str], name: &str) {
    let mut scene = Scene::seeded();
    for command in commands {
        scene.run(&format!("{command} {STORE_AND_KEY}"));
    }
    scene.expect(name);
}

#[test]
fn dump_formats() {
    let formats = ["dump", "dump -o wide", "dump -o name", "dump -o json", "dump -o yaml"];
    inspect(&formats, "dump_formats");
}

#[test]
fn dump_selections() {
    let commands = [
        "dump -n shop",
        "dump --kind po",
        "dump --kind Secret --kind configmaps",
        "dump web dns",
        "dump -n shop --kind pod web -o name",
        "dump -n kube-system web",
        "dump -n nowhere",
        "dump absent -o yaml",
    ];
    inspect(&commands, "dump_selections");
}

#[test]
fn dump_reveals_with_a_key() {
    let mut scene = Scene::seeded();
    let hidden = scene.run(&format!("dump --kind secret -o yaml {STORE_AND_KEY}"));
    assert!(!hidden.stdout.contains("horse") && !hidden.stdout.contains("Y29ycmVjdCBob3JzZQ"));
    let shown = scene.run(&format!("dump --kind secret -o yaml --reveal {STORE_AND_KEY}"));
    assert!(shown.stdout.contains("Y29ycmVjdCBob3JzZQ"));
    scene.expect("dump_reveal");
}

#[test]
fn plan_formats() {
    let commands = [
        "plan",
        "plan -o name",
        "plan -o yaml",
        "plan -o json web",
        "plan -n kube-system",
        "plan --activation-policy off",
        "plan --activation-policy annotated",
        "plan -n kube-system ledger",
        "plan absent",
    ];
    inspect(&commands, "plan_formats");
}

#[test]
fn render_elsewhere() {
    let mut scene = Scene::seeded();
    scene.run(&format!("render --out out {STORE_AND_KEY}"));
    // The same files as on the node; what differs is the directory they lie in.
    let files = |below: &str| -> Vec<(String, Vec<u8>)> {
        let below = scene.path(below);
        let found = look(&below).into_keys().filter(|path| path.is_file());
        found
            .map(|path| (path.strip_prefix(&below).unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()))
            .collect()
    };
    assert_eq!(files("out/etc"), files("node/etc"));
    assert!(files("out/etc").len() >= 4, "two manifests and two files in trees");
    scene.run(&format!("render --out pods.yaml {STORE_AND_KEY}"));
    scene.expect("render");
}

#[test]
fn verify_finds_damage() {
    let mut scene = Scene::seeded();
    scene.run(&format!("verify {STORE_AND_KEY}"));
    // One octet of the sealed Secret's record.
    let mut bytes = fs::read(scene.path(STORE)).unwrap();
    let record = record(&scene, ("Secret", "shop", "web-tls"));
    // The last octets of the record are ciphertext, found in each copy of the page.
    let needle = &record[record.len() - 24..];
    let places: Vec<usize> = (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(needle)).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at] ^= 1;
    }
    fs::write(scene.path(STORE), bytes).unwrap();
    for command in ["verify", "dump", "plan", "render --out out", "run --once", "run --once --manifests pods.yaml"] {
        scene.run(&format!("{command} {STORE_AND_KEY}"));
    }
    scene.expect("verify_finds_damage");
}

fn record(scene: &Scene, key: (&str, &str, &str)) -> Vec<u8> {
    use redb::{ReadableDatabase as _, TableDefinition};
    let objects: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("objects");
    // A copy, since redb writes to what it opens.
    let copy = tempfile::NamedTempFile::new().unwrap();
    fs::copy(scene.path(STORE), copy.path()).unwrap();
    let db = redb::Database::open(copy.path()).unwrap();
    let table = db.begin_read().unwrap().open_table(objects).unwrap();
    table.get(key).unwrap().unwrap().value().to_vec()
}

/// `kubectl apply --dry-run` reads what is printed: a v1 List whose items are objects in their own right.
#[test]
fn a_dump_is_a_list_of_objects() {
    let scene = Scene::seeded();
    for options in ["", "--reveal", "--node-key pods.yaml"] {
        let options = format!("{STORE_AND_KEY} {options}");
        let json = scene.answer(&format!("dump -o json {options}"));
        let yaml = scene.answer(&format!("dump -o yaml {options}"));
        let list: Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(list, serde_saphyr::from_str::<Value>(&yaml.stdout).unwrap(), "both formats say the same");
        assert_well_formed(&list, 5);
    }
    let sealed: Value = serde_json::from_str(&scene.answer("dump -o json --root node").stdout).unwrap();
    assert_well_formed(&sealed, 5);
}

fn assert_well_formed(list: &Value, items: usize) {
    assert_eq!((&list["apiVersion"], &list["kind"]), (&"v1".into(), &"List".into()));
    let found = list["items"].as_array().unwrap();
    assert_eq!(found.len(), items);
    for item in found {
        assert_eq!(item["apiVersion"], "v1", "{item}");
        let kind = item["kind"].as_str().unwrap();
        assert!(["Pod", "Secret", "ConfigMap"].contains(&kind), "{item}");
        assert!(item["metadata"]["name"].as_str().is_some_and(|name| !name.is_empty()), "{item}");
        assert!(item["metadata"]["namespace"].as_str().is_some_and(|name| !name.is_empty()), "{item}");
        if let Some(data) = item.get("data").filter(|_| kind == "Secret") {
            for value in data.as_object().unwrap().values() {
                data_encoding::BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap();
            }
        }
    }
}

/// What is dumped can be stored again: the same objects come out.
#[test]
fn a_dump_is_a_source() {
    let scene = Scene::seeded();
    let dump = scene.answer(&format!("dump -o yaml --reveal {STORE_AND_KEY}")).stdout;
    let other = Scene::with_source();
    other.write("pods.yaml", &dump);
    let answer = other.answer(SEED);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    assert_eq!(other.answer(&format!("dump -o yaml --reveal {STORE_AND_KEY}")).stdout, dump);
}

/// The reader of a pipe that goes away is no failure, and nothing is said of it.
#[test]
fn a_closed_pipe_ends_quietly() {
    let scene = Scene::seeded();
    for command in
        ["dump", "dump -o json", "dump -o yaml", "dump -o name", "plan", "plan -o json", "verify", "run --once"]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(EXE)
            .args(words(&format!("{command} {STORE_AND_KEY}")))
            .current_dir(scene.path(""))
            .env_clear()
            .stdout(Stdio::from(writer))
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{command}: {said}");
        assert!(said.lines().all(|line| line.starts_with("note: ")), "{command}: {said}");
    }
}

/// Pods are stored and rendered whether or not anybody reads what is said about it.
#[test]
fn an_unread_run_does_its_work() {
    let scene = Scene::with_source();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(EXE);
    command.args(words(SEED)).current_dir(scene.path("")).env_clear();
    let output = command.stdout(Stdio::from(writer)).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(scene.path("node/etc/kubernetes/manifests/shop_web.json").exists(), "{output:?}");
    let verified = scene.answer(&format!("verify {STORE_AND_KEY}"));
    assert!(verified.stdout.starts_with("sound: 0 findings"), "{}", verified.stdout);
}

const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{1b}[31m\u{9b}2J\r\u{202e}\u{7f}";

/// Whoever can make objects can write into annotations, and must not write to the operator's terminal.
#[test]
fn nothing_stored_acts_on_a_terminal() {
    let mut scene = Scene::with_source();
    scene.node_may_change = true;
    // As a manifest has to write it: YAML allows none of these characters as they are.
    let escaped: String = HOSTILE.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    let escaped = format!("\"{escaped}\"");
    let pods = include_str!("pods.yaml")
        .replace("labels: {app: web}", &format!("annotations: {{note: {escaped}, {escaped}: x}}"))
        .replace("owner: web team", &format!("owner: {escaped}"))
        .replace("correct horse", "value")
        .replacen("nodeName: edge-1", &format!("nodeName: {escaped}"), 1);
    scene.write("pods.yaml", &pods);
    // Such a name is no node's: not this one's either.
    assert_eq!(scene.answer(SEED).code, 2);
    let seeded = scene.answer(&format!("{SEED} --node-name edge-1"));
    assert_eq!(seeded.code, 0, "{}", seeded.stderr);
    let mut outputs = vec![seeded];
    // Records that no source could have brought.
    tamper(&scene);
    for command in [
        "dump",
        "dump -o wide",
        "dump -o name",
        "dump -o json",
        "dump -o yaml",
        "dump -o yaml --reveal",
        "plan",
        "plan -o wide",
        "plan -o name",
        "plan -o json",
        "plan -o yaml",
        "verify",
        "render --out out",
        "run --once",
        "run --once --manifests pods.yaml",
    ] {
        for name in ["", " --node-name edge-1"] {
            if name.is_empty() || command.starts_with("run") {
                outputs.push(scene.answer(&format!("{command} {STORE_AND_KEY}{name}")));
            }
        }
        outputs.push(scene.answer(&format!("{command} --root node")));
    }
    let acts = |c: char| c != '\n' && (c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c));
    for answer in &outputs {
        for text in [&answer.stdout, &answer.stderr] {
            assert!(!text.chars().any(acts), "{text:?}");
        }
    }
    let all: String = outputs.iter().flat_map(|answer| [answer.stdout.as_str(), answer.stderr.as_str()]).collect();
    assert!(all.contains("owned"), "it was shown, escaped");
}

/// Puts a row under a hostile key, and a hostile uid into a genuine-looking row of a keyless reader's.
fn tamper(scene: &Scene) {
    use redb::TableDefinition;
    let objects: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("objects");
    let db = redb::Database::open(scene.path(STORE)).unwrap();
    let txn = db.begin_write().unwrap();
    for key in [("Pod", HOSTILE, HOSTILE), (HOSTILE, "shop", "web"), ("Secret", "shop\nError: forged", "x")] {
        txn.open_table(objects).unwrap().insert(key, &b"no frame"[..]).unwrap();
    }
    txn.commit().unwrap();
}
