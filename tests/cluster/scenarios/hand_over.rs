//! The API server is back: parents take over, each in the way that its class needs, and none is rejected.
//!
//! A kube-apiserver takes connections seconds before it serves, and then answers all that wait at once. A kubelet takes 4 ms
//! from there to rejecting a parent for good, so that the agent has to have made way by then.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use super::pods::{annotate, pod, sleeper};
use super::{Stage, copy_of, file_of, key, seconds};
use crate::api::one;
use crate::node::{Options, PATIENCE};
use crate::{full, until};

/// A power cut without an API server; then it is back. Asserts that each of the pods was copied and goes back to its parent,
/// and that `yields` of the copies were gone before anybody was answered.
fn cut_and_come_back(stage: &mut Stage, pods: &[Value], yields: usize) {
    stage.run(pods);
    stage.cluster.kill_apiserver();
    stage.node.power_cut();
    stage.boot();
    for pod in pods {
        stage.until_copied(&key(pod));
    }
    let answers = start_apiserver(stage);
    for pod in pods {
        stage.until_handed_over(&key(pod));
    }
    until("no manifest to be left", PATIENCE, || match stage.node.watched().present() {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}; the agent says\n{}", stage.node.agent_log())),
    });
    let seen = stage.node.watched().seen();
    let before: Vec<_> = seen.iter().filter(|seen| !seen.came && seen.at < answers).collect();
    assert!(before.len() >= yields, "{before:?}; the agent says\n{}", stage.node.agent_log());
    let lead = before.last().map(|seen| answers - seen.at).unwrap_or_default();
    eprintln!("{} copies made way {} before the API server answered", before.len(), seconds(lead));
    for pod in pods {
        let file = file_of(&key(pod));
        let came = stage.node.watched().seen().iter().filter(|seen| seen.came && seen.file == file).count();
        assert_eq!(came, 1, "{file}");
    }
    stage.node.stop_agent();
}

/// Starts the API server; when it answered. A request of ours waits in it like all others.
fn start_apiserver(stage: &Stage) -> Instant {
    stage.cluster.launch_apiserver();
    until("the API server to answer", PATIENCE, || stage.cluster.admin().send(Method::GET, "/version", None).map(drop));
    let answered = Instant::now();
    stage.cluster.wait_ready();
    answered
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
    if !full() {
        return;
    }
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

/// However long the outage: with a short one the kubelet asks each second, and its request waits in the server that starts.
#[test]
fn no_parent_is_rejected_however_long_the_outage_was() {
    if !full() {
        return;
    }
    let Some(mut stage) = Stage::set(&Options::default()) else { return };
    for (outage_s, rounds) in [(0, 2), (10, 4), (60, 3)] {
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
            let launched = Instant::now();
            let answers = start_apiserver(&stage);
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
            let went = stage.node.watched().seen().iter().rev().find(|seen| !seen.came).map(|seen| seen.at);
            let went = went.map_or_else(|| "never".to_owned(), |at| seconds(at.saturating_duration_since(launched)));
            eprintln!(
                "outage of {outage_s} s and a boot: {phase}; the API server was started, the copy went after {went}, and it \
                 answered after {}",
                seconds(answers.saturating_duration_since(launched))
            );
            stage.cluster.admin().delete(&one("pods", "default", &name)).ok();
            stage.node.until_gone(&racer_key, PATIENCE);
            stage.node.until_gone(&copy_of(&racer_key), PATIENCE);
        }
        eprintln!("outage of {outage_s} s and a boot: {rejected} of {rounds} parents with a host port were rejected");
        assert_eq!(rejected, 0, "the agent says\n{}", stage.node.agent_log());
    }
    stage.node.stop_agent();
}

/// Its etcd is dead: it takes connections, gives up and starts anew, and never answers. That costs the copy one gap.
#[test]
fn an_api_server_that_never_serves_makes_one_gap() {
    if !full() {
        return;
    }
    let Some(mut stage) = Stage::set(&Options::default()) else { return };
    let port = pod("port", "httpd -f -p 80", |pod| {
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 8080}]);
    });
    stage.run(std::slice::from_ref(&port));
    stage.cluster.kill_apiserver();
    stage.cluster.kill_etcd();
    stage.node.power_cut();
    stage.boot();
    stage.until_copied(&key(&port));
    for attempt in 0..3 {
        stage.cluster.launch_apiserver();
        std::thread::sleep(Duration::from_secs(15));
        stage.cluster.kill_apiserver();
        std::thread::sleep(Duration::from_secs(5));
        eprintln!("attempt {attempt}: {:?}", stage.node.watched().present());
    }
    stage.until_copied(&key(&port));
    let seen = stage.node.watched().seen();
    let came: Vec<bool> = seen.iter().map(|seen| seen.came).collect();
    assert_eq!(came, [true, false, true], "the agent says\n{}", stage.node.agent_log());
    eprintln!("the copy was away for {}", seconds(seen[2].at - seen[1].at));
    // The one sign is used up: now the kubelet may be faster. It is told, not asserted.
    stage.cluster.start_etcd();
    start_apiserver(&stage);
    let phase = until("the kubelet to decide", PATIENCE, || {
        let parent = stage.pod(&key(&port)).unwrap_or_default();
        match parent["status"]["phase"].as_str() {
            Some("Failed") => Ok("was rejected"),
            Some("Running") if !stage.node.running_of(&key(&port)).is_empty() => Ok("runs"),
            _ => Err(parent["status"].to_string()),
        }
    });
    eprintln!("without a further sign the parent {phase}");
    stage.node.stop_agent();
}
