//! `diff`: what is stored, compared with what a server has, and neither changed.

use std::process::Command;

use ckpt_db::checkpoint::object::Kind;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::program::Ran;
use crate::common::search::{Canary, Search};
use crate::fake::{Fault, Match, Times};
use crate::scene::{KUBELET_CONF, Scene, pod, secret};

const VALUE: &str = "pZ4canaryOfADifferenceW8kR2";
const OTHER: &str = "vM6canaryOfTheOtherSideJ1dQ9";

/// A node whose agent has stored two pods and has ended.
fn stored() -> Scene {
    let scene = Scene::new();
    for name in ["web", "db"] {
        scene.server.create(Kind::Secret, "shop", name, secret(VALUE));
        scene.server.create(Kind::ConfigMap, "shop", name, json!({"data": {"config": "one", "kept": "x"}}));
        scene.server.create(Kind::Pod, "shop", name, pod(&[name], &[name]));
    }
    let mut agent = scene.start(&["--activation-policy", "off", "--generate-node-key"]);
    agent.in_step(8);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    scene
}

fn diff(scene: &Scene, options: &[&str]) -> Ran {
    let mut command: Command = scene.node.command("diff", options);
    command.env_remove("KUBERNETES_SERVICE_HOST");
    Ran::of(command)
}

#[test]
fn what_differs_is_shown_and_no_secret() {
    let scene = stored();
    let mark = scene.server.mark();
    let same = diff(&scene, &[]).expect(0);
    let end = format!("objects of node node-1 compared with https://{}/: no difference\n", scene.server.address());
    assert!(same.stdout.ends_with(&end) || same.stdout.ends_with(&end.replace("/:", ":")), "{}", same.stdout);
    let asked = scene.requests(Match::any().after(mark), 1);
    assert!(asked.iter().all(|request| request.method == "GET"), "it only reads");

    let before = scene.node.dump();
    scene.server.replace(Kind::ConfigMap, "shop", "web", json!({"data": {"config": "two", "kept": "x", "new": "y"}}));
    scene.server.replace(Kind::Secret, "shop", "web", secret(OTHER));
    scene.delete_pod("shop", "db");
    scene.pod("shop", "late");
    let differ = diff(&scene, &[]).expect(1);
    let lines: Vec<&str> = differ.stdout.lines().collect();
    for line in [
        "- Pod shop/db: the API server does not have it",
        "+ Pod shop/late: not stored",
        "- ConfigMap shop/db: no pod that the API server has for this node names it",
        "  ConfigMap shop/web:",
        "-   data.config: \"one\"",
        "+   data.config: \"two\"",
        "+   data.new: \"y\"",
        "  Secret shop/web:",
        "-   data.password: <not shown>",
        "+   data.password: <not shown>",
        "+ Secret shop/late: not stored",
    ] {
        assert!(lines.contains(&line), "no {line:?} in {lines:#?}");
    }
    assert!(lines.last().unwrap().ends_with(": 8 differ"), "{lines:#?}");
    assert_eq!(scene.node.dump(), before, "the store is as it was");

    let value: Value = serde_json::from_str(&diff(&scene, &["-o", "json"]).expect(1).stdout).unwrap();
    let web = |kind: &str| {
        let objects = value["objects"].as_array().unwrap().iter();
        objects.filter(|object| object["kind"] == kind && object["name"] == "web").cloned().collect::<Vec<Value>>()
    };
    assert_eq!(
        web("Secret")[0]["fields"],
        json!([{"path": "data.password", "stored": {"present": true, "withheld": true},
                "apiServer": {"present": true, "withheld": true}}])
    );
    assert_eq!(web("ConfigMap")[0]["change"], "Modified");
    assert_eq!(value["notCompared"], json!([]));
    let names = diff(&scene, &["-o", "name"]).expect(1).stdout;
    assert!(names.lines().any(|line| line == "pod/late"), "{names}");

    let text = |name, text: &str| Canary { name, bytes: text.as_bytes().to_vec() };
    let search = Search::new(&[text("stored", VALUE), text("there", OTHER)]);
    for options in [&[][..], &["-o", "json"], &["-o", "yaml"]] {
        search.assert_quiet(&diff(&scene, options));
    }
}

#[test]
fn what_cannot_be_found_out_is_no_answer() {
    let scene = stored();
    scene.server.fault(Match::get(Kind::Secret).named("web"), Fault::status(403), Times::Forever);
    let refused = diff(&scene, &[]).expect(2);
    assert!(refused.stderr.contains("error: Secret shop/web could not be compared: GET"), "{}", refused.stderr);
    assert!(refused.stdout.contains("no difference, 1 could not be compared"), "{}", refused.stdout);

    scene.server.fault(Match::list(Kind::Pod), Fault::status(500), Times::Forever);
    let silent = diff(&scene, &[]).expect(2);
    assert!(silent.stderr.starts_with("error: cannot read what the API server has: GET"), "{}", silent.stderr);
    assert_eq!(silent.stdout, "");

    // Another node's credentials say nothing of this store.
    let other = diff(&scene, &["--node-name", "node-2"]).expect(2);
    assert!(other.stderr.contains("--node-name says node-2"), "{}", other.stderr);
    std::fs::remove_file(scene.node.at(KUBELET_CONF)).unwrap();
    let none = diff(&scene, &[]).expect(2);
    assert!(none.stderr.starts_with("error: cannot ask the API server"), "{}", none.stderr);
}
