//! What may go wrong around the agent: it is killed, the clock is not set, the disk is full or can't be written, there is
//! nothing to begin with. The kubelet starts each time.

use std::time::{Duration, Instant};

use super::pods::{annotated, sleeper, small};
use super::{NODE, Stage, copy_of, key};
use crate::control_plane::{Cluster, Options as ClusterOptions};
use crate::node::{Options, PATIENCE, RealNode};
use crate::{full, until};

/// Kills the agent and starts it again, each time later than the last, until `done`; then leaves one running.
fn harass(stage: &mut Stage, mut done: impl FnMut(&Stage) -> bool) {
    let begin = Instant::now();
    let mut after = Duration::from_millis(20);
    while !done(stage) {
        assert!(begin.elapsed() < 2 * PATIENCE, "it never gets there:\n{}", stage.node.agent_log());
        stage.node.kill_agent();
        stage.start_agent();
        std::thread::sleep(after);
        after = after * 5 / 4;
    }
}

#[test]
fn the_agent_is_killed_in_each_phase() {
    if !full() {
        return;
    }
    let Some(mut stage) = Stage::set(&Options::default()) else { return };
    let objects = [annotated(), small(1).to_vec(), small(2).to_vec()].concat();
    let pods: Vec<String> = objects.iter().filter(|object| object["kind"] == "Pod").map(key).collect();
    let prepared = |stage: &Stage| {
        let count =
            std::fs::read_dir(stage.node.path("etc/kubernetes/inactive-manifests")).into_iter().flatten().count();
        count >= pods.len()
    };
    // While it stores.
    stage.create(&objects);
    harass(&mut stage, prepared);
    for pod in &pods {
        stage.node.until_running(pod, PATIENCE);
        stage.until_prepared(pod);
    }

    // While it activates: the kubelet starts each copy once.
    stage.cluster.kill_apiserver();
    stage.node.power_cut();
    stage.node.boot();
    stage.node.start_containerd();
    stage.start_agent();
    stage.node.start_kubelet();
    let copies = |stage: &Stage| {
        let running = stage.node.running();
        pods.iter().filter(|pod| running.iter().any(|container| container.pod == copy_of(pod))).count()
    };
    harass(&mut stage, |stage| copies(stage) == pods.len());
    let running = stage.node.running();
    assert_eq!(running.len(), pods.len(), "{running:?}");
    stage.node.kill_agent();
    stage.start_agent();
    stage.node.until_ready();
    assert_eq!(stage.node.running(), running, "they were left alone");

    // While it hands over.
    stage.cluster.start_apiserver();
    let parents = |stage: &Stage| {
        let running = stage.node.running();
        let of = |name: &str| running.iter().any(|container| container.pod == name);
        pods.iter().all(|pod| of(pod) && !of(&copy_of(pod)))
    };
    harass(&mut stage, parents);
    for pod in &pods {
        stage.until_handed_over(pod);
    }
    until("no manifest to be left", PATIENCE, || match stage.node.watched().present() {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}; the agent says\n{}", stage.node.agent_log())),
    });
    stage.node.stop_agent();
    assert!(!stage.node.agent_log().contains("panicked"), "{}", stage.node.agent_log());
}

#[test]
fn the_disk_of_the_store_and_the_manifests_is_full() {
    if !full() {
        return;
    }
    let Some(mut stage) = Stage::set_without_agent(&Options::default()) else { return };
    // One file system of their own for both, and no room left on it at the boot that counts.
    stage.node.shut_down();
    stage.node.at_boot(
        "[ -e /var/small.img ] || {
           truncate -s 24M /var/small.img; mke2fs -q -t ext4 /var/small.img
           mkdir -p /small /var/lib/ckpt-db; mount -o loop /var/small.img /small
           mkdir /small/ckpt-db; cp -a /etc/kubernetes /small/kubernetes; umount /small; }
         mount -o loop /var/small.img /small
         mount --bind /small/ckpt-db /var/lib/ckpt-db; mount --bind /small/kubernetes /etc/kubernetes
         [ ! -e /var/fill ] || { dd if=/dev/zero of=/small/filler bs=64k || dd if=/dev/zero of=/small/filler-2 bs=1k || true; }",
    );
    stage.boot();
    let objects = [annotated(), small(1).to_vec(), vec![sleeper("plain")]].concat();
    stage.run(&objects);
    let pods: Vec<String> = objects.iter().filter(|object| object["kind"] == "Pod").map(key).collect();
    stage.cluster.kill_apiserver();
    stage.node.told("touch /var/fill");
    stage.node.power_cut();
    stage.boot();
    assert!(stage.node.told("df /small | tail -n 1").contains("100%"));
    for pod in &pods {
        stage.until_copied(pod);
    }
    stage.cluster.start_apiserver();
    for pod in &pods {
        stage.until_handed_over(pod);
    }
    stage.node.stop_agent();
}

#[test]
fn nothing_can_be_written_where_the_store_is() {
    if !full() {
        return;
    }
    let Some(mut stage) = Stage::set(&Options::default()) else { return };
    let objects = [annotated(), small(1).to_vec()].concat();
    stage.run(&objects);
    let pods: Vec<String> = objects.iter().filter(|object| object["kind"] == "Pod").map(key).collect();
    stage.cluster.kill_apiserver();
    stage.node.power_cut();
    stage.node.at_boot("mount --bind /var/lib/ckpt-db /var/lib/ckpt-db; mount -o remount,ro,bind /var/lib/ckpt-db");
    stage.boot();
    for pod in &pods {
        stage.until_copied(pod);
    }
    let status = stage.node.status().unwrap();
    assert_eq!(status["store"]["readOnly"], true, "{status}");
    stage.cluster.start_apiserver();
    for pod in &pods {
        stage.until_handed_over(pod);
    }

    // Not even into the kubelet's directory: nothing can come back, and the kubelet starts all the same.
    stage.node.power_cut();
    stage.node.at_boot(
        "for at in /var/lib/ckpt-db /etc/kubernetes; do mount --bind $at $at; mount -o remount,ro,bind $at; done",
    );
    stage.boot();
    for pod in &pods {
        stage.node.until_running(pod, PATIENCE);
    }
}

#[test]
fn the_clock_is_in_1970() {
    if !full() {
        return;
    }
    let Some(mut stage) = Stage::set(&Options::default()) else { return };
    let objects = [annotated(), small(1).to_vec()].concat();
    stage.run(&objects);
    let pods: Vec<String> = objects.iter().filter(|object| object["kind"] == "Pod").map(key).collect();
    stage.cluster.kill_apiserver();
    stage.node.power_cut();
    stage.node.wrong_clock(true);
    stage.boot();
    for pod in &pods {
        stage.until_copied(pod);
    }
    // Its certificate is not valid yet by such a clock, which tells nothing about the API server.
    stage.cluster.start_apiserver();
    std::thread::sleep(Duration::from_secs(10));
    let status = stage.node.status().unwrap();
    assert_eq!(status["clockIsSet"], false, "{status}");
    // Set it: the agent is started again by nobody, and has to go on by itself, or by its service manager.
    stage.node.stop_agent();
    stage.node.wrong_clock(false);
    stage.start_agent();
    for pod in &pods {
        stage.until_handed_over(pod);
    }
    stage.node.stop_agent();
}

#[test]
fn a_node_that_has_nothing_yet() {
    if !full() {
        return;
    }
    let Some(cluster) = Cluster::start(ClusterOptions::default()) else { return };
    let Some(mut node) = RealNode::install(&cluster, NODE, &Options::default()) else { return };
    // Neither credentials nor a store: those come when the node joins, which needs the kubelet, which waits for the agent.
    for gone in ["etc/kubernetes/kubelet.conf", "var/lib/kubelet/pki"] {
        node.told_off(&format!("rm -r {gone}"));
    }
    node.boot();
    node.start_containerd();
    node.import_images();
    let mut stage = Stage { node, cluster };
    let begin = Instant::now();
    stage.start_agent();
    stage.node.until_ready();
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    stage.node.join(&stage.cluster);
    stage.node.start_kubelet();
    until("the node to register", PATIENCE, || {
        match stage.cluster.admin().get(&format!("/api/v1/nodes/{NODE}")).status {
            200 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    stage.run(&small(1));
    stage.cluster.kill_apiserver();
    stage.node.power_cut();
    stage.boot();
    stage.until_copied("default/small-1");
    stage.node.stop_agent();
}
