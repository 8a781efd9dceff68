//! The kubelet's key is rotated: while the agent runs, while it does not, and while it is killed. After each rotation a cold
//! start without any API server brings every Secret back.
//!
//! Each look is taken on a copy of the node that has the store and the keys that are named, and nothing else.
//! `CKPT_DB_ROTATIONS=N` rotates N times where a few do otherwise.
#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

#[allow(dead_code, reason = "tests/program uses the rest")]
#[path = "../program/agent.rs"]
mod agent;
#[path = "../common/mod.rs"]
mod common;
#[path = "../fake/mod.rs"]
mod fake;
mod pki;
#[allow(dead_code, reason = "tests/program uses the rest")]
#[path = "../program/scene.rs"]
mod scene;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use ckpt_db::checkpoint::object::Kind;
use rustix::process::Signal;
use serde_json::json;

use crate::agent::{Agent, at_once};
use crate::common::program::{KEY, MANIFESTS, Node, PREPARED, Ran, SECRETS, STORE, listing};
use crate::common::search::{Canary, Search, below};
use crate::pki::{Dated, Pki, STEPS, Step};
use crate::scene::{OFF, PEM, Scene, pod, secret};

/// What every value of a Secret begins with.
const CANARY: &str = "canary value";
const NEW_KEY: &str = "note: a new key opens the store from now on";
const PODS: [&str; 3] = ["a", "b", "c"];

fn rotations(usually: usize) -> usize {
    std::env::var("CKPT_DB_ROTATIONS").map_or(usually, |text| text.parse().expect("CKPT_DB_ROTATIONS is a number"))
}

/// A node with three pods that have a Secret each, and one that has none.
struct Place {
    scene: Scene,
    pki: Pki,
    /// What the Secrets hold now.
    values: BTreeMap<String, String>,
}

impl Place {
    fn new() -> Self {
        let scene = Scene::new();
        PODS.iter().for_each(|name| scene.pod("shop", name));
        scene.server.create(Kind::ConfigMap, "shop", "plain", json!({"data": {"config": "of plain"}}));
        scene.server.create(Kind::Pod, "shop", "plain", pod(&[], &["plain"]));
        let pki = Pki::of(&scene);
        let mut place = Self { scene, pki, values: BTreeMap::new() };
        PODS.iter().for_each(|name| place.replace(name, &format!("of {name}")));
        place
    }

    /// The same with all of it stored, and an agent that runs.
    fn followed() -> (Self, Agent) {
        let place = Self::new();
        let mut agent = place.scene.start(&OFF);
        agent.in_step(10);
        (place, agent)
    }

    /// The same with the agent stopped and nobody answering.
    fn cut_off() -> Self {
        let (place, agent) = Self::followed();
        assert_eq!(agent.stop(Signal::TERM).code, Some(0));
        place.scene.server.stop();
        place
    }

    fn replace(&mut self, name: &str, value: &str) {
        let value = format!("{CANARY} {value}");
        self.scene.server.replace(Kind::Secret, "shop", name, secret(&value));
        self.values.insert(name.to_owned(), value);
    }

    /// Neither a file of the node, moved aside or not, nor what its agent has said shows a value of a Secret in any form.
    #[track_caller]
    fn tells_nothing(&self, said: &[String]) {
        let search = Search::new(&[Canary { name: "a value", bytes: CANARY.as_bytes().to_vec() }]);
        let files = below(&self.scene.node.root());
        assert!(files.iter().any(|(path, _)| path.ends_with("checkpoint-store.db")));
        let said = ("what was said".to_owned(), said.join("\n").into_bytes());
        for (path, octets) in files.into_iter().chain([said]) {
            assert_eq!(search.found(&octets), BTreeMap::new(), "{path}");
        }
        // What is there to be found is found.
        let cold = below(&self.cold_start(&self.pki.keys).node.root());
        assert!(cold.iter().any(|(_, octets)| !search.found(octets).is_empty()));
    }

    /// The store's file as it is between two commits.
    fn store(&self) -> Vec<u8> {
        let path = self.scene.node.at(STORE);
        loop {
            let (one, other) = (fs::read(&path).unwrap(), fs::read(&path).unwrap());
            if one == other {
                return one;
            }
        }
    }

    /// A cold start with these keys and no others.
    fn cold_start(&self, keys: &[Dated]) -> Cold {
        let node = Node::new();
        fs::create_dir_all(node.at(STORE).parent().unwrap()).unwrap();
        fs::write(node.at(STORE), self.store()).unwrap();
        Pki::write(keys, &node.root());
        let ran = node.run_store();
        let secrets = values(&node);
        let manifests =
            listing(&node.at(MANIFESTS)).into_keys().map(|path| path.to_str().unwrap().to_owned()).collect();
        Cold { ran, secrets, manifests, node }
    }

    /// These keys bring everything back.
    #[track_caller]
    fn all_comes_back_with(&self, keys: &[Dated], when: &str) {
        let cold = self.cold_start(keys);
        assert_eq!(cold.secrets, self.values, "{when}: {}{}", cold.ran.stdout, cold.ran.stderr);
        assert_eq!(cold.manifests, ["shop_a.json", "shop_b.json", "shop_c.json", "shop_plain.json"], "{when}");
        cold.ran.expect(0);
        let verified = cold.node.ran("verify", &[]).expect(0);
        assert!(verified.stdout.contains("sound: 0 findings"), "{when}: {}", verified.stdout);
    }

    /// With these keys nothing sealed opens, and all the rest works.
    #[track_caller]
    fn only_the_unsealed_comes_back_with(&self, keys: &[Dated], when: &str) {
        let cold = self.cold_start(keys);
        assert!(cold.secrets.is_empty(), "{when}");
        assert_eq!(cold.manifests, ["shop_plain.json"], "{when}: {}", cold.ran.stderr);
        let said = cold.ran.expect(1);
        assert!(said.stderr.contains("no key at hand opens the store"), "{when}: {}", said.stderr);
        let dump = cold.node.ran("dump", &["-o", "json", "--kind", "pod", "--kind", "configmap"]).expect(0);
        assert_eq!(dump.json()["items"].as_array().unwrap().len(), 8, "{when}");
        let revealed = cold.node.ran("dump", &["-o", "json", "--kind", "secret", "--reveal"]).expect(2);
        assert!(!revealed.stdout.contains("password"), "{when}");
        let verified = cold.node.ran("verify", &[]).expect(0);
        assert!(verified.stderr.contains("no key at hand opens the store"), "{when}: {}", verified.stderr);
    }
}

struct Cold {
    ran: Ran,
    secrets: BTreeMap<String, String>,
    manifests: Vec<String>,
    node: Node,
}

/// What containers find in their Secrets, by the pod.
fn values(node: &Node) -> BTreeMap<String, String> {
    let value = |name: &str| fs::read_to_string(node.at(SECRETS).join(format!("shop/{name}/{name}/password"))).ok();
    PODS.iter().filter_map(|name| Some((name.to_string(), value(name)?))).collect()
}

/// A key that no store knows.
fn unrelated() -> Dated {
    let elsewhere = Scene::new();
    Dated { name: "kubelet-client-2030-01-01-00-00-00.pem".to_owned(), ..Pki::of(&elsewhere).newest().clone() }
}

#[test]
fn while_the_agent_runs() {
    let (mut place, mut agent) = Place::followed();
    place.all_comes_back_with(&place.pki.keys, "before any rotation");
    for round in 1..=rotations(10) {
        // Commits under way meanwhile, and slow steps: what is half-written is nothing to complain of.
        place.replace(PODS[round % 3], &format!("{round}, before"));
        place.pki.issue(&place.scene);
        STEPS.into_iter().for_each(|step| {
            place.pki.step(step);
            place.replace(PODS[round % 3], &format!("{round}, {step:?}"));
        });
        let began = Instant::now();
        let said = agent.until(NEW_KEY);
        assert!(began.elapsed() < Duration::from_secs(30), "it did not wait for its next look, a minute later");
        assert!(!said.iter().any(|line| line.starts_with("warning")), "{said:#?}");
        // It is stored by now, or will be: the API server still answers.
        let stored = |place: &Place| place.cold_start(&place.pki.keys).secrets == place.values;
        at_once("the Secrets to be stored", || stored(&place));
        place.all_comes_back_with(&[place.pki.newest().clone()], &format!("round {round}, the newest key alone"));
    }
    let keys = &place.pki.keys;
    let slots = 3.min(keys.len());
    for (age, key) in keys.iter().rev().enumerate() {
        if age < slots {
            place.all_comes_back_with(std::slice::from_ref(key), &format!("{age} rotations old"));
        } else if age < slots + 2 || age + 1 == keys.len() {
            place.only_the_unsealed_comes_back_with(std::slice::from_ref(key), &format!("{age} rotations old"));
        }
    }
    place.only_the_unsealed_comes_back_with(&[unrelated()], "an unrelated key");
    place.only_the_unsealed_comes_back_with(&[], "no key at all");
    place.tells_nothing(&agent.lines());
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
}

#[test]
fn while_it_does_not_run() {
    let mut place = Place::cut_off();
    for round in 1..=rotations(10) {
        // Several in a row, now and then more than there are slots.
        for _ in 0..1 + round % 5 {
            place.pki.rotate(&place.scene);
        }
        let when = format!("round {round}");
        place.all_comes_back_with(&place.pki.keys, &format!("{when}, before a start"));
        place.only_the_unsealed_comes_back_with(&[place.pki.newest().clone()], &format!("{when}, before a start"));
        let mut agent = place.scene.start(&OFF);
        agent.until(NEW_KEY);
        place.all_comes_back_with(&[place.pki.newest().clone()], &when);
        if round % 2 == 0 {
            agent.kill()
        } else {
            assert_eq!(agent.stop(Signal::TERM).code, Some(0))
        }
        place.all_comes_back_with(&[place.pki.newest().clone()], &when);
    }
    place.only_the_unsealed_comes_back_with(&place.pki.keys[..1], "the oldest key alone");
    place.tells_nothing(&[]);
}

/// The moments are those between two steps of the kubelet, and for the last one those around the commit of the slot.
#[test]
fn while_it_is_killed() {
    let (mut place, agent) = Place::followed();
    agent.kill();
    let mut durable = [0, 0];
    for round in 0..rotations(10) {
        let mut agent = place.scene.start(&OFF);
        agent.until("in step");
        place.pki.issue(&place.scene);
        let steps = [4, 1, 4, 2, 4, 3, 4, 4][round % 8];
        STEPS[..steps].iter().for_each(|step| place.pki.step(*step));
        // It waits for 200 ms before it looks.
        let until = Instant::now() + Duration::from_millis([0, 0, 190, 205, 200, 0, 215, 230, 210, 220][round % 10]);
        while Instant::now() < until {
            std::thread::yield_now();
        }
        agent.kill();
        let when = format!("round {round}, killed after {steps} steps");
        // Before the rotation goes on, if it does.
        let there = &place.pki.keys[..place.pki.keys.len() - usize::from(steps < 2)];
        place.all_comes_back_with(there, &when);
        if steps == STEPS.len() {
            let alone = place.cold_start(&[place.pki.newest().clone()]).secrets;
            assert!(alone.is_empty() || alone == place.values, "{when}");
            durable[usize::from(!alone.is_empty())] += 1;
        }
        STEPS[steps..].iter().for_each(|step| place.pki.step(*step));
        place.all_comes_back_with(&place.pki.keys, &when);
        let mut agent = place.scene.start(&OFF);
        agent.until("in step");
        place.all_comes_back_with(&[place.pki.newest().clone()], &format!("{when}, and started again"));
        place.tells_nothing(&agent.lines());
        agent.kill();
    }
    let [before, after] = durable;
    eprintln!("killed {before} times before the new key had its slot, and {after} times after");
    eprintln!("campaign: kills while a key is rotated: {} judged, 0 stores that no key opens", rotations(10));
}

/// A store that no key opens: the agent runs on, and brings back what is not sealed. The key comes back without a restart.
#[test]
fn locked_until_a_key_comes() {
    let mut place = Place::cut_off();
    let known = place.pki.keys.clone();
    let unrelated = unrelated();
    Pki::write(std::slice::from_ref(&unrelated), &place.scene.node.root());
    let mut agent = place.scene.start(&["--activation-delay", "0s"]);
    agent.until("error: cannot write to");
    at_once("the pod without a Secret", || place.scene.node.at(PREPARED).join("shop_plain.json").exists());
    assert!(values(&place.scene.node).is_empty());
    // As from a backup, beside the key that the kubelet has now.
    let pem = place.scene.node.at(PEM);
    fs::write(pem.with_file_name(&known[0].name), &known[0].pem).unwrap();
    agent.until(NEW_KEY);
    at_once("the Secrets", || values(&place.scene.node) == place.values);
    let errors = agent.lines().iter().filter(|line| line.starts_with("error")).count();
    assert_eq!(errors, 1, "{:#?}", agent.lines());
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    place.pki.keys.push(unrelated);
    place.all_comes_back_with(&[place.pki.newest().clone()], "the kubelet's new key alone");
}

/// The same with manifests as the source.
#[test]
fn locked_beside_its_source() {
    let node = Node::with_example();
    let ours = node.at("var/lib/kubelet/pki/kubelet-client-2026-01-01-00-00-00.pem");
    fs::create_dir_all(ours.parent().unwrap()).unwrap();
    fs::rename(node.at(KEY), &ours).unwrap();
    let away = node.at("away.pem");
    fs::rename(&ours, &away).unwrap();
    fs::write(node.at(KEY), unrelated().pem).unwrap();
    let mut command = node.command("run", &["--file-check-frequency", "1", "--manifests"]);
    command.arg(node.source());
    let mut agent = Agent::start(command, Vec::new());
    agent.until("error: cannot write to");
    fs::rename(&away, &ours).unwrap();
    agent.until(NEW_KEY);
    let errors = agent.lines().iter().filter(|line| line.starts_with("error")).count();
    assert_eq!(errors, 1, "{:#?}", agent.lines());
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    fs::remove_file(&ours).unwrap();
    node.remove_rendered();
    node.run_store().expect(0);
}

/// A store that no key opens any more, and an API server that answers: the old file is kept, Secrets are fetched again.
#[test]
fn locked_for_ever() {
    let mut place = Place::cut_off();
    let known = place.pki.newest().clone();
    let old = place.store();
    place.pki.rotate(&place.scene);
    let new = place.pki.newest().clone();
    Pki::write(std::slice::from_ref(&new), &place.scene.node.root());
    let kept = || -> Vec<_> {
        let entries =
            fs::read_dir(place.scene.node.at(STORE).parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.to_str().unwrap().contains(".locked-")).collect()
    };

    // What nobody has checked must not count as authentic.
    let mut agent = place.scene.start(&["--activation-policy", "off", "--require-authentication"]);
    agent.until("error: cannot write to");
    place.scene.server.listen();
    agent.until("API server: answering");
    agent.signal(Signal::HUP);
    place.scene.requests(fake::Match::list(Kind::Pod).answered(200), 2);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    place.scene.server.stop();
    assert!(place.store() == old && kept().is_empty());

    // Nobody is there to fetch them from.
    let mut agent = place.scene.start(&OFF);
    agent.until("error: cannot write to");
    assert!(place.store() == old && kept().is_empty());
    place.scene.server.listen();
    let said = agent.until("warning: no key at hand opens the store");
    assert!(said.last().unwrap().contains("begins anew with its 10 objects"), "{said:#?}");
    agent.until("in step");
    let kept = kept();
    assert_eq!(kept.len(), 1);
    assert!(fs::read(&kept[0]).unwrap() == old, "the old file is untouched");
    at_once("the Secrets to be stored", || place.cold_start(std::slice::from_ref(&new)).secrets == place.values);
    place.all_comes_back_with(std::slice::from_ref(&new), "the new key");
    place.tells_nothing(&agent.lines());
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));

    // It opens with its own key, as ever.
    fs::write(place.scene.node.at(STORE), old).unwrap();
    place.all_comes_back_with(&[known], "the old file and the old key");
}

/// A link that leads nowhere, and half a file, for as long as they like: the old key stays the store's, nothing is said of
/// what lasts a moment, and the serving key does not take its place.
#[test]
fn what_lasts_a_moment_is_waited_for() {
    let (mut place, mut agent) = Place::followed();
    let pem = place.scene.node.at(PEM);
    let before = place.store();
    place.pki.issue(&place.scene);
    fs::write(pem.with_file_name("kubelet.key"), unrelated().pem).unwrap();
    fs::remove_file(&pem).unwrap();
    std::os::unix::fs::symlink("nowhere.pem", &pem).unwrap();
    place.pki.step(Step::Half);
    agent.says("warning: going on with the credentials that were read before");
    assert!(place.store() == before, "nothing was written");
    place.pki.step(Step::Whole);
    place.pki.step(Step::Updated);
    place.pki.step(Step::Renamed);
    agent.until(NEW_KEY);
    place.all_comes_back_with(&[place.pki.newest().clone()], "when it is whole");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
}
