//! No room on a disk: at the start, in the middle, and while files are rendered. It is said once, with the file and what to do;
//! nothing is lost, nothing half-written stays, and when there is room again everything goes on by itself.
//!
//! Small file systems of their own are mounted for it, in namespaces where anybody may do so.

use std::fs;
use std::path::Path;

use ckpt_db::checkpoint::object::Kind;
use rustix::process::Signal;
use serde_json::json;

use crate::agent::at_once;
use crate::amount;
use crate::common::namespaces::{Small, run_inside};
use crate::common::program::{Listing, SECRETS, STORE, What, listing};
use crate::scene::{KUBELET_CONF, Scene};

/// With this test, the test program runs itself inside of the namespaces.
#[test]
fn a_full_disk_is_said_and_survived() {
    let Some(out) = run_inside("disk_full::inside", "a full disk") else { return };
    out.lines().filter(|line| line.starts_with("full disk")).for_each(|line| eprintln!("{line}"));
    eprintln!("campaign: bounds, full disks: 3 judged, 0 changes lost, 0 files in part");
}

#[test]
#[ignore = "run by the test above, in namespaces of its own"]
fn inside() {
    std::thread::scope(|scope| {
        scope.spawn(at_the_start);
        scope.spawn(in_the_middle);
        scope.spawn(while_rendering);
    });
}

/// How often each message was said that speaks of room, most first.
fn of_room(lines: &[String]) -> Vec<&String> {
    lines.iter().filter(|line| line.contains("No space left") || line.contains("room")).collect()
}

/// Said once, however often it was tried.
#[track_caller]
fn assert_said_once(lines: &[String]) {
    let mut said = of_room(lines);
    let all = said.len();
    said.sort();
    said.dedup();
    assert!(!said.is_empty(), "{lines:#?}");
    assert_eq!(said.len(), all, "the same line again: {lines:#?}");
    assert!(all <= 4, "{lines:#?}");
}

/// The first start of a node, and no room for a store.
fn at_the_start() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let small = Small::mounted(scene.node.at("var/lib/ckpt-db"), "8m");
    small.fill();
    let before = listing(&small.at);
    let mut agent = scene.start::<&str>(&[]);
    let said = agent.until("error:");
    let ended = agent.stop_by_itself();
    eprintln!("full disk, at the start: exit {:?}: {:?}", ended.code, said.last());
    assert_eq!(ended.code, Some(2), "{:#?}", ended.lines);
    let line = said.last().unwrap();
    assert!(line.contains("ROOT/var/lib/ckpt-db/") && line.contains("No space left on device"), "{line}");
    assert!(line.contains("make room"), "{line}");
    assert_said_once(&ended.lines);
    let names = |listing: &Listing| listing.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&listing(&small.at)), names(&before), "something half-written stays");
    // As its service manager starts it again.
    small.empty();
    let mut agent = scene.start::<&str>(&[]);
    agent.in_step(5);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    scene.assert_store_is_the_servers();
}

fn status(scene: &Scene) -> (Option<i32>, String) {
    let ran = scene.node.ran("status", &[]);
    (ran.code, ran.stdout + &ran.stderr)
}

/// The disk of the store is full while it follows.
fn in_the_middle() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let small = Small::mounted(scene.node.at("var/lib/ckpt-db"), "16m");
    let mut agent = scene.start(&["--secret-root-medium", "disk", "--activation-policy", "all"]);
    agent.in_step(5);
    agent.rendered(1);
    let rendered = scene.node.rendered();
    assert!(rendered.len() > 3);
    small.fill();
    // More than any free page of the file takes.
    for n in 0..12 {
        let config = json!({"data": {"config": format!("{n}").repeat(900_000)}});
        scene.server.replace(Kind::ConfigMap, "shop", "web", config);
    }
    let said = agent.until("error:");
    eprintln!("full disk, in the middle: {:?}", said.last());
    let line = said.last().unwrap();
    assert!(line.contains(&format!("ROOT/{STORE}")) && line.contains("No space left on device"), "{line}");
    assert!(line.contains("make room"), "{line}");
    let shown = || {
        let (code, text) = status(&scene);
        (code == Some(1) && text.contains("No space left on device") && text.contains("make room")).then_some(text)
    };
    at_once("a status that says so", || shown().is_some());
    let line = shown().unwrap();
    eprintln!("full disk, in the middle, status: {:?}", line.lines().find(|line| line.contains("No space")));
    if amount(2, 1) == 2 {
        // It is tried twice in vain, after 10 and 20 seconds more: each lists the pods.
        std::thread::sleep(std::time::Duration::from_secs(40));
    }
    let lost = |path: &Path| rendered.get(path) != scene.node.rendered().get(path);
    let missing: Vec<_> =
        rendered.keys().filter(|path| !path.starts_with("kubernetes/checkpoint-configmaps") && lost(path)).collect();
    assert!(missing.is_empty(), "what was rendered before does not stay: {missing:?}");
    small.empty();
    agent.stored(1, 0);
    at_once("a status without it", || !status(&scene).1.contains("No space left"));
    let ended = agent.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0));
    assert_said_once(&ended.lines);
    scene.assert_store_is_the_servers();
    scene.node.ran("verify", &[]).expect(0);
}

/// The disk of the manifests and trees is full while a pod is rendered.
fn while_rendering() {
    let scene = Scene::joining();
    let small = Small::mounted(scene.node.at("etc/kubernetes"), "2m");
    scene.write_kubeconfig(KUBELET_CONF);
    scene.pod("shop", "web");
    let mut agent = scene.start(&["--secret-root-medium", "disk", "--activation-policy", "all"]);
    agent.in_step(5);
    agent.rendered(1);
    let before = scene.node.rendered();
    small.fill();
    scene.pod("shop", "next");
    let said = agent.until("error:");
    eprintln!("full disk, while rendering: {:?}", said.last());
    let line = said.last().unwrap();
    assert!(
        line.starts_with("error: Pod shop/next was not rendered") && line.contains("ROOT/etc/kubernetes/"),
        "{line}"
    );
    assert!(line.contains("No space left on device"), "{line}");
    let (code, text) = status(&scene);
    let alarm = text.lines().find(|line| line.contains("shop/next") && line.contains("No space left on device"));
    eprintln!("full disk, while rendering, status {code:?}: {alarm:?}");
    assert_eq!(code, Some(1), "{text}");
    assert!(alarm.is_some_and(|line| line.contains("make room there")), "{text}");
    // Some rounds later.
    if amount(2, 1) == 2 {
        std::thread::sleep(std::time::Duration::from_secs(20));
    }
    let after = scene.node.rendered();
    let others: Vec<_> = after.keys().filter(|path| !before.contains_key(*path) && !path.ends_with("filler")).collect();
    let files: Vec<_> = others.iter().filter(|path| after[**path].what != What::Directory).collect();
    assert!(files.is_empty(), "something half-written stays: {files:?}");
    let changed: Vec<_> =
        before.iter().filter(|(path, entry)| after.get(*path) != Some(entry)).map(|(path, _)| path).collect();
    assert!(changed.is_empty(), "what was rendered before does not stay: {changed:?}");
    small.empty();
    let next = scene.node.at(SECRETS).join("shop/next/next/password");
    at_once("the pod to be rendered", || fs::read_to_string(&next).is_ok_and(|value| value == "secret of next"));
    at_once("a status without it", || !status(&scene).1.contains("No space left"));
    let ended = agent.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0));
    assert_said_once(&ended.lines);
}
