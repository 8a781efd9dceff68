//! The log as machines read it: JSON, priorities of the journal, and nothing secret at any level.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;

use rustix::process::Signal;
use serde_json::Value;

use crate::agent::Agent;
use crate::common::search::{Canary, Search};
use crate::fake::{CANARY, Match};
use crate::quiet::{TOKEN, VALUE, fill};
use crate::scene::{KUBELET_CONF, Scene};

/// Each line is an object; those of this event.
#[track_caller]
fn events(agent: &Agent, event: &str) -> Vec<Value> {
    let lines = agent.lines();
    let parsed = lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")));
    parsed.filter(|line: &Value| line["event"] == event).collect()
}

#[test]
fn each_line_is_an_object_and_tells_nothing_secret() {
    let scene = Scene::new();
    fill(&scene, Match::list);
    scene.pod("shop", "web");
    let text = scene.kubeconfig_text();
    let kubelet = tempfile::tempdir().unwrap();
    scene.server.token_kubeconfig(kubelet.path(), TOKEN);
    scene.write("token", TOKEN);
    scene.write(KUBELET_CONF, &format!("{text}    tokenFile: /token\n"));
    let options = ["--generate-node-key", "--logging-format=json", "-v", "10", "--checkpoint-grace-period", "1s"];
    let mut agent = scene.watch(scene.command(&options));
    agent.until_has("\"event\":\"InStep\"");
    scene.delete_pod("shop", "web");
    agent.until_has("\"event\":\"CheckpointEnded\"");
    let of_web = |line: &Value| line["pod"] == "shop/web";

    let state = events(&agent, "CheckpointState").into_iter().find(of_web).unwrap();
    assert_eq!(state["level"], "info", "{state}");
    assert_eq!(state["state"], "InactiveGrace", "{state}");
    assert!(state["uid"].as_str().is_some_and(|uid| !uid.is_empty()), "{state}");
    assert!(state["revision"].as_u64().is_some_and(|revision| revision > 0), "{state}");
    let cause = state["cause"].as_str().unwrap();
    assert_eq!(state["msg"], format!("shop/web: no copy runs; kept for the grace period ({cause})"));
    let ended = events(&agent, "CheckpointEnded");
    assert_eq!((&ended[0]["pod"], &ended[0]["uid"]), (&"shop/web".into(), &state["uid"]));
    let api = events(&agent, "ApiServer");
    assert_eq!((&api[0]["reach"], &api[0]["msg"]), (&"Answering".into(), &"API server: answering".into()));
    // What is asked for with --v, of the program itself.
    let lines: Vec<Value> = agent.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let stored = |line: &&Value| line["msg"] == "stored" && line["object"] == "Secret shop/web";
    assert!(lines.iter().any(|line| stored(&line)), "{lines:#?}");
    for line in &lines {
        assert!(line["ts"].is_string() && line["level"].is_string() && line["logger"].is_string(), "{line}");
        let library = ["debug", "trace"].contains(&line["level"].as_str().unwrap());
        assert!(!library || line["logger"].as_str().unwrap().starts_with("ckpt_db"), "{line}");
    }

    let ended = agent.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0));
    let text = |name, text: &str| Canary { name, bytes: text.as_bytes().to_vec() };
    let search = Search::new(&[text("broken", CANARY), text("value", VALUE), text("token", TOKEN)]);
    search.assert_none(&ended.octets, "the JSON log");
}

/// Text on the way to the journal begins with the priority; elsewhere it does not.
#[test]
fn the_journal_gets_priorities() {
    let scene = Scene::new();
    let said = |journal: bool| {
        let path = scene.node.at("log");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let log = File::create(&path).unwrap();
        let metadata = log.metadata().unwrap();
        let mut command = scene.command(&["--once"]);
        let inode = metadata.ino() + u64::from(!journal);
        command.env("JOURNAL_STREAM", format!("{}:{inode}", metadata.dev())).stderr(log);
        assert_eq!(command.status().unwrap().code(), Some(2));
        fs::read_to_string(&path).unwrap()
    };
    let (inside, outside) = (said(true), said(false));
    let lines: Vec<&str> = inside.lines().collect();
    assert!(lines[0].starts_with("<5>note: trial below"), "{inside}");
    assert!(lines.last().unwrap().starts_with("<3>error: there is no checkpoint store"), "{inside}");
    let without: String = lines.iter().map(|line| format!("{}\n", &line[3..])).collect();
    assert_eq!(outside, without);
}

#[test]
fn levels_that_are_none_are_refused() {
    let scene = Scene::new();
    for (option, why) in [
        ("--v=11", "11 is not in 0..=10"),
        ("--vmodule=sorce=4", "there is no module \"sorce\""),
        ("--vmodule=source", "\"source\" is not MODULE=LEVEL"),
        ("--logging-format=xml", "possible values: text, json"),
    ] {
        let output = scene.command(&[option]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{stderr}");
        assert!(stderr.contains(why), "{stderr}");
    }
}
