//! The configuration file at a reload: what can be is in force at once, the rest is named, and a wrong file changes nothing.

use std::fs;

use ckpt_db::checkpoint::object::Kind;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::agent::{Agent, at_once};
use crate::common::program::{Node, PREPARED};
use crate::fake::Match;
use crate::scene::{FOLLOWING, Scene};

const FILE: &str = "etc/ckpt-db/config.yaml";

/// Writes the settings and has the agent read them.
fn reload(scene: &Scene, agent: &Agent, settings: &str) {
    write(scene, settings);
    agent.signal(Signal::HUP);
}

fn write(scene: &Scene, settings: &str) {
    let head = "apiVersion: ckpt-db.io/v1alpha1\nkind: CheckpointerConfiguration\n";
    scene.write(FILE, &format!("{head}{settings}"));
}

fn status(node: &Node) -> Value {
    node.ran("status", &["-o", "json"]).json()
}

fn alarms(node: &Node) -> Vec<String> {
    let alarms = status(node)["alarms"].as_array().unwrap().clone();
    let shown = |alarm: &Value| format!("{}: {}", alarm["code"].as_str().unwrap(), alarm["message"].as_str().unwrap());
    alarms.iter().map(shown).collect()
}

/// A node with a pod that has labels.
fn scene() -> Scene {
    let scene = Scene::new();
    scene.pod("shop", "web");
    scene.server.modify(Kind::Pod, "shop", "web", |pod| pod["metadata"]["labels"] = json!({"app": "web"}));
    scene
}

/// Whether its copy would have them.
fn labels(scene: &Scene) -> bool {
    let text = fs::read_to_string(scene.node.at(PREPARED).join("shop_web.json")).unwrap_or_else(|_| "{}".to_owned());
    let manifest: Value = serde_json::from_str(&text).unwrap();
    manifest["metadata"]["labels"].as_object().is_some_and(|labels| labels.contains_key("app"))
}

#[test]
fn what_can_be_is_in_force_at_once_and_the_rest_is_named() {
    let scene = scene();
    write(&scene, "activationPolicy: \"off\"\nactivationWave: 5\n");
    // An option wins at each reload.
    let mut agent = scene.start(&["--activation-delay=1h"]);
    agent.in_step(2);
    assert_eq!(status(&scene.node)["policy"], "off");
    assert!(!scene.node.at(PREPARED).exists());

    reload(&scene, &agent, "activationPolicy: all\nactivationWave: 5\nactivationDelay: 2s\n");
    agent.until("settings read again, with changes of activationPolicy");
    agent.rendered(1);
    assert!(scene.node.at(PREPARED).join("shop_web.json").exists());
    assert_eq!(status(&scene.node)["policy"], "all");
    assert!(!agent.lines().iter().any(|line| line.contains("activationDelay")), "{:#?}", agent.lines());

    reload(&scene, &agent, "store: /srv/s.db\nkeepLabels: true\nactivationWave: 5\nfeatureGates: {AllBeta: true}\n");
    agent.until("settings read again, with changes of keepLabels");
    agent.until("warning: settings read again, but a restart is needed for featureGates, store");
    agent.until("API server: answering");
    at_once("labels", || labels(&scene));
    assert!(!scene.node.at("srv").exists());
    let restart = "RestartNeeded: these settings have changed since the start, and take a restart: featureGates, store";
    assert!(alarms(&scene.node).contains(&restart.to_owned()), "{:#?}", alarms(&scene.node));

    // It is said again until they are as they were.
    reload(&scene, &agent, "store: /srv/s.db\nkeepLabels: true\nactivationWave: 5\n");
    agent.until("warning: settings read again, but a restart is needed for store");
    reload(&scene, &agent, "keepLabels: true\n");
    agent.until("settings read again, with changes of activationWave");
    agent.until("API server: answering");
    assert!(alarms(&scene.node).iter().all(|alarm| !alarm.starts_with("RestartNeeded")));

    // Without a file all is as by default.
    fs::remove_file(scene.node.at(FILE)).unwrap();
    agent.signal(Signal::HUP);
    agent.until("settings read again, with changes of keepLabels");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
}

#[test]
fn a_wrong_file_changes_nothing() {
    let scene = scene();
    write(&scene, "keepLabels: true\n");
    let mut agent = scene.start::<&str>(&[]);
    agent.in_step(2);
    at_once("labels", || labels(&scene));
    let lists = scene.requests(Match::list(Kind::Pod), 1).len();

    reload(&scene, &agent, "keepLabels: maybe\nactivationPolicy: \"off\"\nstores: /x\n");
    agent.until("error: ROOT/etc/ckpt-db/config.yaml:3: keepLabels: \"maybe\" is none of true, false");
    agent.until("error: ROOT/etc/ckpt-db/config.yaml:5: unknown field \"stores\" (did you mean store?)");
    agent.until("warning: the settings stay as they were");
    // What else a reload does is done: the API server is asked again.
    agent.until(FOLLOWING);
    agent.until("API server: answering");
    scene.requests(Match::list(Kind::Pod), lists + 1);
    assert!(labels(&scene));
    assert_eq!(status(&scene.node)["policy"], "all");
    let refused = alarms(&scene.node).into_iter().find(|alarm| alarm.starts_with("ConfigurationRefused")).unwrap();
    assert!(refused.contains("settings were not read again and stay as they were: "), "{refused}");
    assert!(refused.ends_with("keepLabels: \"maybe\" is none of true, false (and 1 more)"), "{refused}");

    reload(&scene, &agent, "keepLabels: false\n");
    agent.until("settings read again, with changes of keepLabels");
    at_once("no labels", || !labels(&scene));
    assert!(alarms(&scene.node).iter().all(|alarm| !alarm.starts_with("ConfigurationRefused")));
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
}

const LAST_GOOD: &str = "var/lib/ckpt-db/last-good-config.yaml";

/// As a power cut leaves a file that was being written: empty. What held last, by a start or a reload, holds.
#[test]
fn a_start_that_finds_the_file_wrong_takes_what_held_last() {
    let scene = scene();
    write(&scene, "keepLabels: false\nactivationPolicy: annotated\n");
    let mut agent = scene.start::<&str>(&[]);
    agent.in_step(2);
    reload(&scene, &agent, "keepLabels: true\nactivationPolicy: annotated\n");
    agent.until("settings read again, with changes of keepLabels");
    at_once("labels", || labels(&scene));
    reload(&scene, &agent, "keepLabels: maybe\n");
    agent.until("warning: the settings stay as they were");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    fs::remove_file(scene.node.at(PREPARED).join("shop_web.json")).unwrap();

    scene.write(FILE, "");
    let mut agent = scene.start::<&str>(&[]);
    agent.until("error: ROOT/etc/ckpt-db/config.yaml: apiVersion is missing: write `apiVersion: ckpt-db.io/v1alpha1`");
    agent.until(
        "warning: this start takes the settings that held last, kept at ROOT/var/lib/ckpt-db/last-good-config.yaml",
    );
    agent.until("in step");
    at_once("labels", || labels(&scene));
    assert_eq!(status(&scene.node)["policy"], "annotated");
    let refused = alarms(&scene.node).into_iter().find(|alarm| alarm.starts_with("ConfigurationRefused")).unwrap();
    assert!(refused.contains("settings could not be read, and are those that held last: "), "{refused}");
    assert!(refused.ends_with("(and 1 more)"), "{refused}");

    // Mended, it is as ever.
    reload(&scene, &agent, "keepLabels: false\nactivationPolicy: annotated\n");
    agent.until("settings read again, with changes of keepLabels");
    at_once("no labels", || !labels(&scene));
    assert!(alarms(&scene.node).iter().all(|alarm| !alarm.starts_with("ConfigurationRefused")));
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    let kept = fs::read_to_string(scene.node.at(LAST_GOOD)).unwrap();
    assert_eq!(kept, fs::read_to_string(scene.node.at(FILE)).unwrap());

    // Nobody waits for an agent that starts; who asks for one pass does, and learns what is wrong.
    scene.write(FILE, "");
    let once = scene.node.ran("run", &["--once"]);
    assert_eq!(once.code, Some(2), "{}", once.stderr);

    // Without a file the defaults hold, and nothing of before comes back.
    fs::remove_file(scene.node.at(FILE)).unwrap();
    let mut agent = scene.start::<&str>(&[]);
    agent.until("in step");
    assert_eq!(status(&scene.node)["policy"], "all");
    assert!(!scene.node.at(LAST_GOOD).exists());
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
}

/// Which pods the operator wants to come back nobody knows then, and it may be none.
#[test]
fn without_settings_that_ever_held_no_agent_starts_with_a_wrong_file() {
    let scene = scene();
    write(&scene, "keepLabels: true\n");
    let mut agent = scene.start::<&str>(&[]);
    agent.in_step(2);
    at_once("labels", || labels(&scene));
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    fs::remove_file(scene.node.at(LAST_GOOD)).unwrap();
    write(&scene, "keepLabels: maybe\n");
    let before = fs::read(scene.node.at(PREPARED).join("shop_web.json")).unwrap();
    let ended = scene.start::<&str>(&[]).stop_by_itself();
    assert_eq!(ended.code, Some(2));
    assert_eq!(ended.lines, ["error: ROOT/etc/ckpt-db/config.yaml:3: keepLabels: \"maybe\" is none of true, false"]);
    assert_eq!(fs::read(scene.node.at(PREPARED).join("shop_web.json")).unwrap(), before);
}
