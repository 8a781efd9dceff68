//! The memory of a running agent: no core file is made of it, nobody else looks into it, it is not swapped, and no clear
//! text stays in it.

#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use ckpt_db::checkpoint::object::Kind;
use ckpt_db::keys::{KeySearch, find};
use rustix::process::{Pid, Resource, Rlimit, Signal, getuid, kill_process, prlimit};
use serde_json::{Value, json};

use crate::agent::{Agent, at_once};
use crate::common::gate::GATE;
use crate::common::program::{SECRETS, program};
use crate::common::search::{Canary, Search, below};
use crate::scene::{PEM, Scene, pod, secret};

const WEB: &str = "vN3canaryOfWebK8rT2qLx5";
const API: &str = "hB6canaryOfApiZ1mC9wYd7";
const CHANGED: &str = "pJ4canaryChangedF0sU8gEa2";
const ENV: &str = "zA9canaryEnvironmentQ4nS1";

/// The form in which the API server sends the values, which is the one that they have in the store.
const AS_SENT: &str = "base64";

fn search(scene: &Scene) -> Search {
    let text = |name, text: &str| Canary { name, bytes: text.as_bytes().to_vec() };
    let key = &find(&KeySearch { explicit: vec![scene.node.at(PEM)], defaults: Vec::new() }).keys[0];
    let canonical = key.secret.canonical();
    let scalar = canonical[canonical.len() - 32..].to_vec();
    Search::new(&[
        text("web", WEB),
        text("api", API),
        text("changed", CHANGED),
        text("env", ENV),
        Canary { name: "node key", bytes: scalar },
    ])
}

/// How often each canary is in the memory that the process can write to, whatever part of it, in use or free.
fn in_memory(pid: u32, search: &Search) -> BTreeMap<(&'static str, &'static str), usize> {
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = BTreeMap::new();
    let mut seen = 0;
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let (range, rights) = line.split_once(' ').unwrap();
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let mut octets = vec![0; (number(to) - number(from)) as usize];
        // What was unmapped meanwhile holds nothing any more.
        let Ok(len) = memory.read_at(&mut octets, number(from)) else { continue };
        seen += len;
        for (what, count) in search.counts(&octets[..len]) {
            *found.entry(what).or_default() += count;
        }
    }
    assert!(seen > 500_000, "only {seen} octets of memory were searched");
    found
}

/// Only root may look, which is the point of [`nobody_looks_into_it`].
fn may_look() -> bool {
    let may = getuid().is_root();
    if !may {
        eprintln!("SKIPPED: the memory of the agent is not searched: only root can read it");
    }
    may
}

/// A pod with a Secret in its environment, which stands in the clear in its manifest.
fn with_environment(scene: &Scene) {
    scene.server.create(Kind::Secret, "shop", "env", secret(ENV));
    let mut environment: Value = pod(&[], &[]);
    environment["spec"]["containers"][0]["env"] =
        json!([{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "env", "key": "password"}}}]);
    scene.server.create(Kind::Pod, "shop", "env", environment);
}

#[test]
fn no_clear_text_stays() {
    if !may_look() {
        return;
    }
    let options = ["--secret-root-medium", "disk", "--secret-env", "literal"];
    let scene = Scene::new();
    let search = search(&scene);
    scene.pod("shop", "web");
    scene.pod("shop", "api");
    scene.server.replace(Kind::Secret, "shop", "web", secret(WEB));
    scene.server.replace(Kind::Secret, "shop", "api", secret(API));
    with_environment(&scene);

    let mut agent = scene.start(&options);
    agent.in_step(8);
    agent.rendered(3);
    connected(&agent, &search);
    scene.server.replace(Kind::Secret, "shop", "api", secret(CHANGED));
    agent.stored(1, 0);
    let rendered = || below(&scene.node.at(SECRETS)).iter().any(|(_, contents)| contents == CHANGED.as_bytes());
    at_once("the new value in its tree", rendered);
    connected(&agent, &search);

    // What was received lies in the buffers of connections until those close.
    scene.server.stop();
    agent.until("warning: API server: silent");
    nothing(&agent, &search, "after the connections are closed");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));

    // A cold start opens and renders everything, with nobody to ask.
    fs::remove_dir_all(scene.node.at(SECRETS)).unwrap();
    let agent = scene.start(&options);
    agent.says("warning: API server: silent");
    at_once("the values in their trees", rendered);
    nothing(&agent, &search, "after a cold start");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
}

/// Of an agent that follows: nothing but what was received last, as it came, in the receive buffers of TLS and HTTP/2,
/// which are not ours. Everything made of it is wiped.
#[track_caller]
fn connected(agent: &Agent, search: &Search) {
    let ours = || in_memory(agent.pid(), search).into_iter().filter(|((_, form), _)| *form != AS_SENT).count();
    at_once("memory without clear text but for receive buffers", || ours() == 0);
    for ((name, form), count) in in_memory(agent.pid(), search) {
        // Both ends of a value are counted, in one buffer each.
        assert!(count <= 4, "{name} as {form} stands {count} times in memory");
    }
}

#[track_caller]
fn nothing(agent: &Agent, search: &Search, when: &str) {
    at_once(&format!("memory without clear text {when}"), || in_memory(agent.pid(), search).is_empty());
}

/// The search has to be able to find: an own process that keeps what the agent must not keep.
#[test]
fn the_search_of_memory_finds() {
    if !may_look() {
        return;
    }
    let search = Search::new(&[Canary { name: "kept", bytes: WEB.as_bytes().to_vec() }]);
    let kept = data_encoding::BASE64.encode(WEB.as_bytes());
    let found = in_memory(std::process::id(), &search);
    assert!(found[&("kept", "base64")] >= 1 && found[&("kept", "raw")] >= 1, "{found:?}");
    drop(kept);
}

/// The program in a directory of its own, resident, with all limits on core files taken off.
fn in_its_own_directory(user: Option<u32>) -> (tempfile::TempDir, Command) {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // Where another user can run it.
    let copy: PathBuf = directory.path().join("ckpt-db");
    // By another process: one that this one starts meanwhile would inherit the open file, and nobody runs a file that is open
    // for writing.
    assert!(Command::new("cp").arg(program().get_program()).arg(&copy).status().unwrap().success());
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh"]).arg(copy).args(["run", GATE, "--root", "node"]);
    command.current_dir(directory.path()).env_clear().stdin(Stdio::null()).stderr(Stdio::piped());
    if let Some(user) = user {
        command.uid(user);
    }
    (directory, command)
}

/// A process that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it, and waits until it has begun its work.
fn waiting(command: &mut Command) -> Running {
    use std::io::BufRead as _;
    let mut running = Running(command.spawn().unwrap());
    let mut lines = std::io::BufReader::new(running.0.stderr.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("waiting for credentials")), "it never began");
    running
}

/// A line of a file of the process below `/proc`.
fn proc_line(pid: u32, file: &str, start: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    text.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned()
}

#[test]
fn limits_are_as_stated() {
    let (_directory, mut command) = in_its_own_directory(None);
    let running = waiting(&mut command);
    let pid = running.0.id();
    let core = proc_line(pid, "limits", "Max core file size");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let locked = proc_line(pid, "status", "VmLck:");
    let limit = proc_line(pid, "limits", "Max locked memory");
    let allowed = limit.contains("unlimited") || proc_line(pid, "status", "CapEff:").ends_with("1fffeffffff");
    assert_eq!(!locked.contains(" 0 kB"), allowed, "{locked}; {limit}");
}

/// What belongs to a process that is not dumpable is root's below `/proc`, and so nobody's who runs as the same user.
#[test]
fn nobody_looks_into_it() {
    let user = getuid().is_root().then_some(65_534);
    let (_directory, mut command) = in_its_own_directory(user);
    let running = waiting(&mut command);
    let owner = |pid: u32| fs::metadata(format!("/proc/{pid}/mem")).unwrap().uid();
    assert_eq!(owner(running.0.id()), 0);
    let mut other = Command::new("sleep");
    other.arg("1000");
    user.map(|user| other.uid(user));
    let other = Running(other.spawn().unwrap());
    let own = user.unwrap_or(getuid().as_raw());
    at_once("an ordinary process to be its user's", || owner(other.0.id()) == own);
}

/// Without the limit too, since a handler that cores are piped to is not bound by it.
#[test]
fn a_crash_leaves_no_core() {
    let cores = |directory: &tempfile::TempDir| {
        let names =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("core")).collect::<Vec<_>>()
    };
    for with_limit in [true, false] {
        let (directory, mut command) = in_its_own_directory(None);
        let mut running = waiting(&mut command);
        let child = &mut running.0;
        if !with_limit {
            let unlimited = Rlimit { current: None, maximum: None };
            if prlimit(Some(Pid::from_child(child)), Resource::Core, unlimited).is_err() {
                eprintln!("SKIPPED: the limit on cores can't be raised here");
            }
        }
        // Rust's own handler takes the first one for an access that will fault again.
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None => drop(kill_process(Pid::from_child(child), Signal::SEGV)),
            }
            std::thread::yield_now();
        };
        assert_eq!(status.signal(), Some(Signal::SEGV.as_raw()));
        assert!(!status.core_dumped());
        assert_eq!(cores(&directory), Vec::<String>::new());
    }
    // An ordinary process does leave one, so that the above means something.
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -c unlimited; kill -SEGV $$"]).current_dir(directory.path());
    let status = command.status().unwrap();
    if !status.core_dumped() {
        eprintln!("SKIPPED: nothing leaves a core here");
    }
}
