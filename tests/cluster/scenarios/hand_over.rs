//! The API server is back: parents take over, each in the way that its class needs, and none is rejected.
//!
//! Who sees the API server first, the kubelet or the agent, is not up to either: a kube-apiserver takes connections seconds
//! before it serves, and then answers all that wait at once. So the kubelet is held until the agent has done what it does
//! first; how often it wins unheld is measured by the long form.

use std::time::Duration;

use serde_json::{Value, json};

use super::pods::{annotate, pod, sleeper};
use super::{Stage, copy_of, file_of, full, key, seconds};
use crate::api::one;
use crate::node::{Options, PATIENCE};
use crate::until;

/// A power cut without an API server; then it is back. Asserts that each of the pods was copied and goes back to its parent,
/// `yields` of them before their parents are seen.
fn cut_and_come_back(stage: &mut Stage, pods: &[Value], yields: usize) {
    stage.run(pods);
    stage.cluster.kill_apiserver();
    stage.node.power_cut();
    stage.boot();
    for pod in pods {
        stage.until_copied(&key(pod));
    }
    stage.node.freeze_kubelet();
    stage.cluster.start_apiserver();
    until("the first to yield", PATIENCE, || match pods.len() - stage.node.watched().present().len() {
        found if found == yields => Ok(()),
        found => Err(format!("{found} of {yields} have; the agent says\n{}", stage.node.agent_log())),
    });
    stage.node.thaw_kubelet();
    for pod in pods {
        stage.until_handed_over(&key(pod));
    }
    until("no manifest to be left", PATIENCE, || match stage.node.watched().present() {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}; the agent says\n{}", stage.node.agent_log())),
    });
    for pod in pods {
        let file = file_of(&key(pod));
        let came = stage.node.watched().seen().iter().filter(|seen| seen.came && seen.file == file).count();
        assert_eq!(came, 1, "{file}");
    }
    stage.node.stop_agent();
}

#[test]
fn neither_a_host_port_nor_most_of_the_cpu_gets_a_parent_rejected() {
    let Some(mut stage) = Stage::set(&Options::default()) else { return };
    let port = pod("port", "httpd -f -p 80", |pod| {
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 8080}]);
    });
    let node = stage.cluster.admin().get(&format!("/api/v1/nodes/{}", super::NODE)).ok();
    let cpus: f64 = node["status"]["allocatable"]["cpu"].as_str().unwrap().parse().unwrap();
    let large = pod("large", "exec sleep 1000000", |pod| {
        let millis = (cpus * 600.0).round();
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": format!("{millis}m")}});
    });
    let writer = pod("writer", "echo $HOSTNAME >> /data/who; exec sleep 1000000", |pod| {
        pod["spec"]["volumes"] = json!([{"name": "d", "hostPath": {"path": "/var/data", "type": "DirectoryOrCreate"}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "d", "mountPath": "/data"}]);
    });
    cut_and_come_back(&mut stage, &[port, large, writer], 2);
}

#[test]
fn a_full_node_finds_room_for_its_parents() {
    if !full() {
        return;
    }
    let Some(mut stage) = Stage::set(&Options { max_pods: 5, ..Options::default() }) else { return };
    let pods: Vec<Value> = (0..4).map(|number| sleeper(&format!("full-{number}"))).collect();
    // Four copies and four parents are three too many.
    cut_and_come_back(&mut stage, &pods, 3);
}

#[test]
fn a_server_on_the_hosts_network_whose_parent_can_not_bind_while_the_copy_lives() {
    let Some(mut stage) = Stage::set(&Options::default()) else { return };
    let server = pod("server", "exec httpd -f -p 7000", |pod| {
        annotate(pod);
        pod["spec"]["hostNetwork"] = true.into();
        // The API server makes it a host port too; the copy declares none, and so neither rejects nor is first to go.
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 7000}]);
    });
    stage.run(std::slice::from_ref(&server));
    stage.cluster.kill_apiserver();
    stage.node.power_cut();
    stage.boot();
    stage.until_copied("default/server");
    let probe = stage.node.probe(7000);
    until("the copy to serve", PATIENCE, || if probe.is_open() { Ok(()) } else { Err(String::new()) });
    stage.cluster.start_apiserver();
    stage.until_handed_over("default/server");
    until("the parent to serve", PATIENCE, || {
        let copies = stage.node.running_of(&copy_of("default/server"));
        if probe.is_open() && copies.is_empty() { Ok(()) } else { Err(format!("{copies:?}")) }
    });
    // Longer than a kubelet pauses after the first crashes, in which a copy that came back would be seen.
    std::thread::sleep(Duration::from_secs(20));
    assert!(probe.is_open());
    let gaps = probe.gaps();
    eprintln!("nobody served for {:?}", gaps.iter().map(|gap| seconds(*gap)).collect::<Vec<_>>());
    let seen: Vec<bool> = stage.node.watched().seen().iter().map(|seen| seen.came).collect();
    assert_eq!(seen, [true, false], "one activation, one removal; the agent says\n{}", stage.node.agent_log());
    stage.node.stop_agent();
}

/// Not held: how often the kubelet is faster than the agent, and the parent is rejected for good. It is told, not asserted.
#[test]
fn who_sees_the_api_server_first() {
    if !full() {
        return;
    }
    let Some(mut stage) = Stage::set(&Options::default()) else { return };
    for outage_s in [0, 60] {
        let rounds = 4;
        let mut rejected = 0;
        for round in 0..rounds {
            let name = format!("race-{outage_s}-{round}");
            let racer = pod(&name, "httpd -f -p 80", |pod| {
                pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 8080}]);
            });
            let racer_key = key(&racer);
            stage.run(&[racer]);
            stage.cluster.kill_apiserver();
            stage.node.power_cut();
            stage.boot();
            stage.until_copied(&racer_key);
            std::thread::sleep(Duration::from_secs(outage_s));
            stage.cluster.start_apiserver();
            let phase = until("the kubelet to decide", PATIENCE, || {
                let parent = stage.pod(&racer_key).unwrap_or_default();
                let runs = !stage.node.running_of(&racer_key).is_empty();
                match parent["status"]["phase"].as_str() {
                    Some("Failed") => Ok("Failed"),
                    Some("Running") if runs => Ok("Running"),
                    _ => Err(parent["status"].to_string()),
                }
            });
            rejected += usize::from(phase == "Failed");
            stage.cluster.admin().delete(&one("pods", "default", &name)).ok();
            stage.node.until_gone(&racer_key, PATIENCE);
            stage.node.until_gone(&copy_of(&racer_key), PATIENCE);
        }
        eprintln!("outage of {outage_s} s and a boot: {rejected} of {rounds} parents with a host port were rejected");
    }
    stage.node.stop_agent();
}
