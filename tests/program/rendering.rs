//! What appears on disk: nothing under the policy `off`; else prepared manifests and trees, after the store has them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use ckpt_db::checkpoint::object::Kind;
use rustix::process::Signal;
use serde_json::json;

use crate::agent::at_once;
use crate::common::program::{
    CONFIGMAPS, MANIFESTS, PREPARED, Ran, SECRETS, Stamp, assert_same, listing, manifests, stamps,
};
use crate::scene::{OFF, Scene, secret};

/// What an earlier start left, with a manifest for each pod in the kubelet's directory: as after a cold start offline.
pub(crate) fn activated(scene: &Scene) {
    let source = tempfile::tempdir().unwrap();
    for kind in [Kind::Pod, Kind::Secret, Kind::ConfigMap] {
        for (n, mut object) in scene.server.objects(kind).into_iter().enumerate() {
            object["metadata"].as_object_mut().unwrap().remove("managedFields");
            fs::write(source.path().join(format!("{kind}-{n}.json")), object.to_string()).unwrap();
        }
    }
    let mut command = scene.node.command("run", &["--once", "--manifests"]);
    command.arg(source.path());
    Ran::of(command).expect(0);
}

fn contents(scene: &Scene, directory: &str) -> Vec<String> {
    let at = scene.node.at(directory);
    if at.exists() { manifests(&at).into_keys().collect() } else { Vec::new() }
}

/// Where a container finds a value.
fn value(scene: &Scene, root: &str, end: &str) -> Option<String> {
    let top = scene.node.at(root);
    let path = listing(&top).into_keys().find(|path| path.ends_with(end))?;
    // The name that a container sees is a link.
    Some(fs::read_to_string(top.join(path)).unwrap())
}

fn outside_of_the_store(scene: &Scene) -> BTreeMap<PathBuf, Stamp> {
    let all = stamps(&scene.node.root()).into_iter();
    // The admin socket's place is in memory on a node.
    all.filter(|(path, _)| !path.starts_with("var/lib/ckpt-db") && !path.starts_with("run")).collect()
}

/// Not even the copy that an earlier policy has started, as long as its parent neither takes over nor is gone: it is named.
#[test]
fn off_touches_nothing() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    activated(&scene);
    assert_eq!(contents(&scene, MANIFESTS), ["shop_web.json"]);
    let before = (listing(&scene.node.at("etc")), outside_of_the_store(&scene));

    let mut agent = scene.start(&OFF);
    agent.in_step(2);
    scene.server.replace(Kind::Secret, "shop", "web", secret("another"));
    agent.stored(1, 0);
    scene.pod("shop", "api");
    agent.stored(3, 0);
    agent.says(
        "warning: the activation policy is off, and copies that were started before still run (shop/web): each goes",
    );
    let status = scene.node.ran("status", &["-o", "json"]).json();
    assert_eq!(status["alarms"][0]["code"], "LeftOver", "{status}");
    agent.signal(Signal::HUP);
    agent.until("API server: answering");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    // And a start, which sees the store first.
    let mut agent = scene.start(&OFF);
    agent.until("in step");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));

    assert_same(&listing(&scene.node.at("etc")), &before.0, "policy off");
    assert!(outside_of_the_store(&scene) == before.1, "something was touched");
    scene.assert_store_is_the_servers();

    // The parent is gone for good: nobody else would ever take its copy away.
    let mut agent = scene.start(&OFF);
    agent.until("in step");
    scene.delete_pod("shop", "web");
    agent.stored(0, 3);
    at_once("the copy to go", || contents(&scene, MANIFESTS).is_empty());
    at_once("no alarm", || scene.node.ran("status", &["-o", "json"]).json()["alarms"] == json!([]));
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    let left: Vec<_> = listing(&scene.node.at("etc")).into_keys().filter(|path| !before.0.contains_key(path)).collect();
    assert!(
        left.iter().all(|path| path.ends_with(".ckpt-db.remove-after")),
        "no copy of another is prepared: {left:?}"
    );
}

#[test]
fn off_makes_no_directory() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let before = outside_of_the_store(&scene);
    let mut agent = scene.start(&OFF);
    agent.until("in step");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    let after: Vec<_> = outside_of_the_store(&scene).into_keys().collect();
    assert_eq!(after, before.into_keys().collect::<Vec<_>>());
}

#[test]
fn prepared_and_not_activated() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    activated(&scene);
    let active = (listing(&scene.node.at(MANIFESTS)), stamps(&scene.node.at(MANIFESTS)));
    let left_alone = |why: &str| {
        assert_same(&listing(&scene.node.at(MANIFESTS)), &active.0, why);
        assert!(stamps(&scene.node.at(MANIFESTS)) == active.1, "{why}: the active copy was written anew");
    };
    let mut agent = scene.start(&["--checkpoint-grace-period=0s"]);
    agent.in_step(2);
    left_alone("after the start");

    scene.pod("shop", "api");
    agent.stored(3, 0);
    agent.rendered(2);
    assert_eq!(contents(&scene, PREPARED), ["shop_api.json"]);
    assert_eq!(value(&scene, SECRETS, "shop/api/api/password").as_deref(), Some("secret of api"));
    assert_eq!(value(&scene, CONFIGMAPS, "shop/api/api/config").as_deref(), Some("config of api"));
    left_alone("with another pod");

    scene.server.replace(Kind::Secret, "shop", "web", secret("another"));
    agent.stored(1, 0);
    agent.rendered(2);
    assert_eq!(value(&scene, SECRETS, "shop/web/web/password").as_deref(), Some("another"));
    left_alone("with another Secret");

    // Somebody else's change is put right when its time has come.
    fs::remove_file(scene.node.at(PREPARED).join("shop_api.json")).unwrap();
    agent.rendered(2);
    assert_eq!(contents(&scene, PREPARED), ["shop_api.json"]);

    scene.delete_pod("shop", "api");
    agent.stored(0, 3);
    agent.rendered(1);
    assert_eq!(contents(&scene, PREPARED), Vec::<String>::new());
    left_alone("after another pod has gone");
    let ended = agent.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0));
    left_alone("after the end");
    scene.assert_store_is_the_servers();
}

/// Whoever sees a prepared manifest can rely on the store: it is killed the moment the file is there.
#[test]
fn the_store_is_there_first() {
    let scene = Scene::new();
    scene.pod("shop", "p0");
    for n in 1..=6 {
        let mut agent = scene.start::<&str>(&[]);
        agent.until("in step");
        let name = format!("p{n}");
        let prepared = scene.node.at(PREPARED).join(format!("shop_{name}.json"));
        scene.pod("shop", &name);
        at_once("a prepared manifest", || prepared.exists());
        agent.kill();
        scene.assert_store_is_the_servers();
        // The trees are there before the manifest that names them.
        assert_eq!(value(&scene, SECRETS, &format!("shop/{name}/{name}/password")), Some(format!("secret of {name}")));
    }
}
