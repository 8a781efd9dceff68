//! A resident agent from outside: it follows its source, keeps a second one out, takes a key that comes later, and leaves
//! everything in place when it is stopped.
//!
//! Nothing is waited for by the clock: every step ends with a line that the agent prints.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ckpt_db::crypto::generate_p256_pkcs8;
use ckpt_db::keys::write_generated;
use rustix::process::{Pid, Signal, kill_process};

#[path = "common/gate.rs"]
mod gate;

use gate::gate;

const EXE: &str = env!("CARGO_BIN_EXE_ckpt-db");

/// Far longer than anything here takes; a test that meets it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with a source and room for a node.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("manifests")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn key(&self) {
        write_generated(&self.path("key.pem"), &generate_p256_pkcs8().unwrap()).unwrap();
    }

    /// A pod that mounts a Secret and a ConfigMap, with both.
    fn pod(&self, name: &str, secret: &str) {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: uid-{name}}}\n\
             spec:\n  nodeName: edge-1\n  containers: [{{name: c, image: registry.example/app:1}}]\n  volumes:\n  \
             - {{name: s, secret: {{secretName: {name}}}}}\n  - {{name: c, configMap: {{name: {name}}}}}\n\
             status: {{phase: Running}}\n---\n\
             apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\nstringData: {{password: {secret}}}\n---\n\
             apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: shop}}\ndata: {{config: of {name}}}\n"
        );
        fs::write(self.path(&format!("manifests/{name}.yaml")), text).unwrap();
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(EXE);
        let (subcommand, options) = arguments.split_once(' ').unwrap_or((arguments, ""));
        command
            .arg(subcommand)
            .args(gate(subcommand))
            .args(options.split_whitespace())
            .current_dir(self.0.path())
            .env_clear();
        command
    }

    fn run(&self, arguments: &str) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    fn start(&self, options: &str) -> Agent {
        let mut child = self
            .command(&format!("run --root node --node-key key.pem --manifests manifests {options}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = channel();
        let stderr = child.stderr.take().unwrap();
        for stream in [Box::new(child.stdout.take().unwrap()) as Box<dyn std::io::Read + Send>, Box::new(stderr)] {
            let send = send.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines() {
                    if send.send(line.unwrap()).is_err() {
                        break;
                    }
                }
            });
        }
        Agent { child, lines }
    }

    /// Every rendered file that a container would see, by its path as the manifests name it.
    fn rendered(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let etc = self.path("node/etc/kubernetes");
        let mut found = BTreeMap::new();
        let mut todo = vec![etc.clone()];
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().as_encoded_bytes().to_vec();
                if name.starts_with(b"..") {
                    continue;
                }
                if path.is_dir() {
                    todo.push(path);
                } else {
                    found.insert(path.strip_prefix(&etc).unwrap().to_owned(), fs::read(&path).unwrap());
                }
            }
        }
        found
    }

    /// Contents of the one rendered file whose path ends so.
    fn contents(&self, end: &str) -> Option<String> {
        let rendered = self.rendered();
        let mut found = rendered.iter().filter(|(path, _)| path.ends_with(Path::new(end)));
        let (_, contents) = found.next()?;
        assert!(found.next().is_none(), "{end} is there twice");
        Some(String::from_utf8(contents.clone()).unwrap())
    }
}

/// A running agent; killed when a test fails.
struct Agent {
    child: Child,
    lines: Receiver<String>,
}

impl Agent {
    /// Reads what the agent prints up to the line that starts with `start`; returns all of it.
    fn until(&self, start: &str) -> Vec<String> {
        self.until_all(&[start])
    }

    /// Reads up to the last of several lines. Lines of the two streams come in no particular order.
    fn until_all(&self, starts: &[&str]) -> Vec<String> {
        let mut missing = starts.to_vec();
        let mut seen = Vec::new();
        while !missing.is_empty() {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    missing.retain(|start| !line.starts_with(start));
                    seen.push(line);
                }
                Err(_) => panic!("the agent never printed {missing:?}, but {seen:#?}"),
            }
        }
        seen
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops the agent; the exit code, and what it still printed.
    fn stop(mut self, signal: Signal) -> (Option<i32>, Vec<String>) {
        self.signal(signal);
        let code = self.child.wait().unwrap().code();
        let rest = std::iter::from_fn(|| self.lines.recv_timeout(PATIENCE).ok()).collect();
        (code, rest)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Its own tick is far away, so that only signals make it look.
const ONLY_SIGNALS: &str = "--file-check-frequency 86400";

#[test]
fn a_change_and_a_signal_are_stored_and_rendered() {
    let place = Place::new();
    place.key();
    place.pod("web", "one");
    let agent = place.start(ONLY_SIGNALS);
    agent.until("ready: 1 pod rendered");
    assert_eq!(place.contents("shop/web/web/password").as_deref(), Some("one"));

    place.pod("web", "two");
    place.pod("dns", "three");
    agent.signal(Signal::HUP);
    let said = agent.until("ready: 2 pods rendered");
    assert!(said.iter().any(|line| line == "stored 4 objects, removed 0, 2 unchanged"), "{said:#?}");
    assert_eq!(place.contents("shop/web/web/password").as_deref(), Some("two"));
    assert_eq!(place.contents("shop/dns/dns/password").as_deref(), Some("three"));

    fs::remove_file(place.path("manifests/web.yaml")).unwrap();
    agent.signal(Signal::HUP);
    let said = agent.until("ready: 1 pod rendered");
    assert!(said.iter().any(|line| line == "stored 0 objects, removed 3, 3 unchanged"), "{said:#?}");
    assert!(
        !place.rendered().keys().any(|path| path.to_string_lossy().contains("web") && path.starts_with("manifests"))
    );
    assert_eq!(agent.stop(Signal::TERM).0, Some(0));
}

/// A bad state of the source costs nothing: what was stored stays, and the next look finds the good one.
#[test]
fn a_source_that_fails_for_a_while() {
    let place = Place::new();
    place.key();
    place.pod("web", "one");
    let agent = place.start(ONLY_SIGNALS);
    agent.until("ready: ");
    let before = place.rendered();

    fs::rename(place.path("manifests"), place.path("away")).unwrap();
    agent.signal(Signal::HUP);
    agent.until("error: cannot read manifests from manifests");
    fs::create_dir(place.path("manifests")).unwrap();
    agent.signal(Signal::HUP);
    agent.until("error: there is no manifest in manifests");
    fs::write(
        place.path("manifests/map.yaml"),
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web, namespace: shop}\n",
    )
    .unwrap();
    agent.signal(Signal::HUP);
    agent.until("error: the source lists no pod, but the store holds 1");
    fs::remove_file(place.path("manifests/map.yaml")).unwrap();
    fs::write(place.path("manifests/bad.yaml"), "kind: [\n").unwrap();
    agent.signal(Signal::HUP);
    agent.until_all(&["ready: 1 pod rendered", "manifests/bad.yaml:"]);
    assert_eq!(place.rendered(), before);

    fs::remove_dir_all(place.path("manifests")).unwrap();
    fs::rename(place.path("away"), place.path("manifests")).unwrap();
    agent.signal(Signal::HUP);
    agent.until("ready: 1 pod rendered");
    assert_eq!(place.rendered(), before);
    assert_eq!(agent.stop(Signal::INT).0, Some(0));
}

#[test]
fn a_second_instance_is_told_so() {
    let place = Place::new();
    place.key();
    place.pod("web", "one");
    let agent = place.start(ONLY_SIGNALS);
    agent.until("ready: ");
    let before = place.rendered();
    for command in ["run --manifests manifests", "run --once --manifests manifests", "run --once", "dump"] {
        let second = place.run(&format!("{command} --root node --node-key key.pem"));
        let said = String::from_utf8(second.stderr).unwrap();
        assert_eq!(second.status.code(), Some(2), "{command}: {said}");
        assert!(said.contains("is in use by another process"), "{command}: {said}");
    }
    assert_eq!(place.rendered(), before);
    assert_eq!(agent.stop(Signal::TERM).0, Some(0));
}

/// A joining node has no key until its kubelet has bootstrapped.
fn key_comes(frequency: &str, tell: impl FnOnce(&Agent)) {
    let place = Place::new();
    place.pod("web", "one");
    place.pod("dns", "two");
    let agent = place.start(frequency);
    let said =
        agent.until_all(&["ready: 0 pods rendered", "warning: no node key yet: Secrets are not stored (2 left out)"]);
    assert!(said.iter().any(|line| line == "stored 4 objects, removed 0, 0 unchanged"), "{said:#?}");

    place.key();
    tell(&agent);
    agent.until_all(&["ready: 2 pods rendered", "note: the store has its first key: Secrets are stored from now on"]);
    assert_eq!(place.contents("shop/web/web/password").as_deref(), Some("one"));
    let before = place.rendered();
    assert_eq!(agent.stop(Signal::TERM).0, Some(0));

    let verified = place.run("verify --root node --node-key key.pem");
    assert!(verified.stdout.starts_with(b"sound: 0 findings, 6 readable objects"), "{verified:?}");
    fs::remove_dir_all(place.path("manifests")).unwrap();
    fs::remove_dir_all(place.path("node/etc")).unwrap();
    let again = place.run("run --once --root node --node-key key.pem");
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    assert_eq!(place.rendered(), before, "everything comes back from the store alone");
}

#[test]
fn a_key_that_comes_later_and_a_signal() {
    key_comes(ONLY_SIGNALS, |agent| agent.signal(Signal::HUP));
}

/// The source has not changed, and nobody sends a signal: the agent notices by itself.
#[test]
fn a_key_that_comes_later_is_noticed() {
    key_comes("--file-check-frequency 1", |_| {});
}

#[test]
fn stopping_leaves_everything_and_a_new_start_changes_nothing() {
    let place = Place::new();
    place.key();
    place.pod("web", "one");
    let agent = place.start(ONLY_SIGNALS);
    agent.until("ready: ");
    let before = place.rendered();
    assert!(before.len() >= 3);
    assert_eq!(agent.stop(Signal::TERM), (Some(0), Vec::new()));
    assert_eq!(place.rendered(), before);

    let agent = place.start(ONLY_SIGNALS);
    agent.until("cold start from ");
    agent.until("ready: 1 pod rendered");
    let said = agent.until("ready: 1 pod rendered");
    assert!(said.iter().any(|line| line == "stored 0 objects, removed 0, 3 unchanged"), "{said:#?}");
    assert_eq!(place.rendered(), before);
    assert_eq!(agent.stop(Signal::TERM).0, Some(0));
}

/// The reader of its log goes away: the agent stays and does its work.
#[test]
fn an_agent_whose_output_nobody_reads_goes_on() {
    let place = Place::new();
    place.key();
    place.pod("web", "one");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = place
        .command("run --root node --node-key key.pem --manifests manifests --file-check-frequency 86400")
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (send, lines) = channel();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    std::thread::spawn(move || stderr.lines().for_each(|line| drop(send.send(line.unwrap()))));
    let agent = Agent { child, lines };
    // Errors go to the other stream, and tell where it is.
    agent.until("note: trial");
    fs::write(place.path("manifests/bad.yaml"), "kind: [\n").unwrap();
    agent.signal(Signal::HUP);
    agent.until("manifests/bad.yaml:");
    assert_eq!(agent.stop(Signal::TERM).0, Some(0));
    assert_eq!(place.contents("shop/web/web/password").as_deref(), Some("one"));
}
