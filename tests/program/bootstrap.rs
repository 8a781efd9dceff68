//! `--bootstrap-checkpoint-path` under a running agent: the file of a pod is there before anybody hears of the pod, goes with
//! it, and brings it back where the store is lost.

use std::fs;
use std::path::PathBuf;

use ckpt_db::checkpoint::object::Kind;
use rustix::process::Signal;
use serde_json::json;

use crate::agent::at_once;
use crate::common::program::{MANIFESTS, STORE};
use crate::scene::{OFF, Scene, pod, shown};

const ANNOTATION: &str = "node.kubernetes.io/bootstrap-checkpoint";

/// A pod that needs no other object.
fn annotated(scene: &Scene, name: &str) {
    scene.server.create(Kind::Pod, "shop", name, pod(&[], &[]));
    scene.server.modify(Kind::Pod, "shop", name, |pod| pod["metadata"]["annotations"] = json!({ANNOTATION: "true"}));
}

fn directory(scene: &Scene) -> PathBuf {
    scene.node.at("etc/kubernetes/bootstrap-checkpoints")
}

/// What the files say, in the order of their names; none where there is no directory.
fn texts(scene: &Scene) -> Vec<String> {
    let entries = fs::read_dir(directory(scene)).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries.collect();
    paths.sort();
    assert!(paths.iter().all(|path| path.file_name().unwrap().to_str().unwrap().starts_with("Pod_")), "{paths:?}");
    paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn it_is_there_before_its_commit_is_told_and_goes_with_the_pod() {
    let scene = Scene::new();
    annotated(&scene, "web");
    scene.server.create(Kind::Pod, "shop", "plain", pod(&[], &[]));
    let path = shown(&directory(&scene));
    let options = [OFF[0], OFF[1], "--bootstrap-checkpoint-path", path.as_str()];
    let mut agent = scene.start(&options);
    agent.in_step(4);
    let found = texts(&scene);
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("\n  name: web\n"), "{}", found[0]);

    let label = |value: &str| {
        let value = value.to_owned();
        scene.server.modify(Kind::Pod, "shop", "web", move |pod| pod["metadata"]["labels"] = json!({"at": value}));
    };
    label("first");
    agent.stored(1, 0);
    assert!(texts(&scene)[0].contains("at: first"), "what is told is on disk");
    // Killed, it goes on where it was.
    agent.kill();
    label("second");
    let mut agent = scene.start(&options);
    agent.until("in step");
    agent.stored(1, 0);
    assert!(texts(&scene)[0].contains("at: second"));
    let annotate = |value: &str| {
        let value = value.to_owned();
        scene.server.modify(Kind::Pod, "shop", "web", move |pod| {
            pod["metadata"]["annotations"] = json!({ANNOTATION: value});
        });
    };
    annotate("false");
    agent.stored(1, 0);
    assert!(texts(&scene).is_empty());
    annotate("true");
    agent.stored(1, 0);
    assert_eq!(texts(&scene).len(), 1);
    let status = scene.node.ran("status", &["-o", "json"]).json();
    assert_eq!(status["bootstrap"], json!({"path": path, "files": 1, "failures": 0}));
    scene.server.delete(Kind::Pod, "shop", "web");
    at_once("the file goes", || texts(&scene).is_empty());
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
}

#[test]
fn where_the_store_is_lost_the_files_bring_pods_back() {
    let scene = Scene::new();
    annotated(&scene, "web");
    scene.server.create(Kind::Pod, "shop", "plain", pod(&[], &[]));
    let path = shown(&directory(&scene));
    let mut agent = scene.start(&[OFF[0], OFF[1], "--bootstrap-checkpoint-path", path.as_str()]);
    agent.in_step(4);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    let before = texts(&scene);

    // The API server is dead, and the disk with the store was replaced.
    scene.server.stop();
    fs::remove_file(scene.node.at(STORE)).unwrap();
    fs::write(directory(&scene).join("Pod_damaged.yaml"), "{\"Pod\":").unwrap();
    let ran = scene.node.ran("run", &["--once", "--bootstrap-checkpoint-path", path.as_str()]);
    let stderr = ran.stderr.replace(&shown(&scene.node.root()), "ROOT");
    assert!(stderr.contains("Pod_damaged.yaml\" is left out, and left as it is: line 1: "), "{stderr}");
    assert!(
        stderr.contains(
            "note: the store ROOT/var/lib/ckpt-db/checkpoint-store.db knew nothing of 1 pod with a bootstrap checkpoint in \
             ROOT/etc/kubernetes/bootstrap-checkpoints: taken in"
        ),
        "{stderr}"
    );
    assert!(scene.node.at(MANIFESTS).join("shop_web.json").exists(), "{}{stderr}", ran.stdout);
    assert!(!scene.node.at(MANIFESTS).join("shop_plain.json").exists());
    assert_eq!(texts(&scene)[..1], before[..], "the file stays");

    // And when it answers again it is in step.
    fs::remove_file(directory(&scene).join("Pod_damaged.yaml")).unwrap();
    scene.server.listen();
    let mut agent = scene.start(&["--bootstrap-checkpoint-path", path.as_str()]);
    agent.until("in step");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    assert_eq!(texts(&scene), before);
    scene.assert_store_is_the_servers();
}
