//! The feature gate off, which is the default: the agent follows and reports, keeps nothing, and leaves alone what it finds.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use ckpt_db::checkpoint::object::Kind;
use rustix::process::Signal;
use serde_json::Value;

use crate::agent::{Agent, at_once};
use crate::common::program::{MANIFESTS, Stamp, assert_same, listing, program, stamps};
use crate::rendering::activated;
use crate::scene::{FOLLOWING, KUBELET_CONF, Scene};

const OFF: &str = "note: the feature gate Checkpointing is off (ALPHA - default=false): nothing is stored or rendered, and no \
                   pod comes back after a power cut; --feature-gates=Checkpointing=true turns it on";

/// `ckpt-db run`, and nothing else: the default.
fn start(scene: &Scene) -> Agent {
    let mut command = program();
    command.arg("run").arg("--root").arg(scene.node.root());
    scene.start_command(command)
}

/// Everything but the admin socket's place, which is in memory on a node.
fn touched(scene: &Scene) -> BTreeMap<PathBuf, Stamp> {
    let root = scene.node.root();
    fs::create_dir_all(root.join("run")).unwrap();
    let mut all = stamps(&root);
    all.retain(|path, _| !path.starts_with("run"));
    all
}

fn status(scene: &Scene) -> Value {
    scene.node.ran("status", &["-o", "json"]).json()
}

#[test]
fn off_by_default_it_follows_and_reports_and_keeps_nothing() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let before = touched(&scene);
    let mut agent = start(&scene);
    agent.in_step(3);
    let said = agent.lines();
    assert_eq!(said[1..4], [OFF, FOLLOWING, "API server: answering"], "{said:#?}");
    assert_eq!(said[4], "in step with the API server: memory: revision N, node node-1, 1 Pod, 1 ConfigMap, 1 Secret");
    scene.pod("shop", "api");
    at_once("both pods to be stored", || {
        let found = status(&scene);
        found["pods"].as_array().unwrap().len() == 2 && found["store"]["objects"].as_u64() >= Some(6)
    });
    // A reload is no restart: what is followed is not forgotten.
    agent.signal(Signal::HUP);
    agent.until("API server: answering");

    let found = scene.node.ran("status", &[]);
    assert!(
        found.stdout.contains("gate         Checkpointing=false: nothing is stored or rendered"),
        "{}",
        found.stdout
    );
    assert!(found.stdout.contains("store        none; in memory revision "), "{}", found.stdout);
    assert!(found.stdout.contains("pods         2 followed"), "{}", found.stdout);
    let found = status(&scene);
    assert_eq!((&found["checkpointing"], &found["policy"]), (&Value::from(false), &Value::from("off")));
    assert_eq!((&found["store"]["path"], found["store"]["objects"].as_u64() >= Some(6)), (&Value::from(""), true));
    let pods = found["pods"].as_array().unwrap();
    assert_eq!(pods.len(), 2);
    assert!(pods.iter().all(|pod| pod["verdict"][0] == "Recoverable" && pod["state"] == "Inactive"), "{pods:#?}");
    for command in [["hold", "shop/web"], ["release", "shop/web"]] {
        let refused = scene.node.ran(command[0], &command[1..]).expect(2).stderr;
        assert!(refused.contains("the feature gate Checkpointing is off"), "{refused}");
    }
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    assert!(touched(&scene) == before, "something was touched");

    // With nobody to ask, a restart has forgotten all of it.
    fs::remove_file(scene.node.at(KUBELET_CONF)).unwrap();
    let mut agent = start(&scene);
    agent.until("note: waiting for credentials");
    assert_eq!(status(&scene)["pods"], Value::Array(Vec::new()));
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
}

#[test]
fn turning_it_off_and_on_changes_neither_store_nor_files() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    activated(&scene);
    let before = (listing(&scene.node.root()), touched(&scene));
    let mut agent = start(&scene);
    agent.in_step(3);
    scene.delete_pod("shop", "web");
    agent.stored(0, 3);
    let said = agent.lines();
    let left = "an earlier run has left files of 1 pod, and copies of 1 of them run";
    assert!(said[2].starts_with(&format!("warning: {left}")), "{said:#?}");
    let alarms = &status(&scene)["alarms"];
    assert_eq!(alarms[0]["code"], "LeftOver");
    assert!(alarms[0]["message"].as_str().unwrap().starts_with(left), "{alarms}");
    // The store can be looked at meanwhile: the agent does not have it.
    assert_eq!(scene.node.dump()["items"].as_array().unwrap().len(), 3);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    assert!(touched(&scene) == before.1, "something was touched");
    let mut after = listing(&scene.node.root());
    after.retain(|path, _| !path.starts_with("run"));
    assert_same(&after, &before.0, "the gate is off");

    // On again, it goes on from the store: the parent is gone there, and the copy goes.
    let mut agent = scene.start(&["--checkpoint-grace-period=0s"]);
    agent.until("in step");
    agent.until("shop/web: removed");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    assert_eq!(fs::read_dir(scene.node.at(MANIFESTS)).unwrap().count(), 0);
    assert!(
        scene.node.dump()["items"].as_array().unwrap().iter().all(|object| object["kind"] != Kind::Pod.to_string())
    );
}
