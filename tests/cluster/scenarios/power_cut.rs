//! The power fails while the API server is dead: every recoverable pod runs again, as it was; then the API server comes
//! back, and each goes back to its parent.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use super::pods::{annotated, as_user, small, volumes};
use super::{Stage, copy_of, file_of, key, seconds};
use crate::node::{Options, PATIENCE};
use crate::{full, until};

#[test]
fn every_pod_runs_again_as_it_was_and_goes_back_to_its_parent() {
    come_back(10);
    if full() {
        come_back(50);
    }
}

fn come_back(count: usize) {
    let Some(mut stage) = Stage::set(&Options::default()) else { return };
    let mut objects: Vec<Value> = [volumes(), annotated(), as_user()].concat();
    let special = objects.iter().filter(|object| object["kind"] == "Pod").count();
    objects.extend((special..count).flat_map(small));
    stage.run(&objects);
    let pods: Vec<String> = objects.iter().filter(|object| object["kind"] == "Pod").map(key).collect();
    assert_eq!(pods.len(), count);
    let views: BTreeMap<&String, String> =
        pods.iter().map(|pod| (pod, stage.view(&stage.node.until_running(pod, PATIENCE)))).collect();
    assert_eq!(stage.node.watched().files(), [].into(), "nothing is published while all is well");

    stage.cluster.kill_apiserver();
    stage.node.power_cut();
    let booted = stage.boot();
    until("all copies", PATIENCE, || {
        let running = stage.node.running();
        let missing = pods.iter().filter(|pod| running.iter().all(|container| container.pod != copy_of(pod))).count();
        if missing == 0 {
            Ok(())
        } else {
            Err(format!("{missing} are missing; the agent says\n{}", stage.node.agent_log()))
        }
    });
    let all_run = Instant::now();
    let came = stage.node.watched().seen();
    let first = |file: &str| came.iter().find(|seen| seen.came && seen.file == file).expect("it came").at;
    let last_manifest = pods.iter().map(|pod| first(&file_of(pod))).max().expect("there are pods");
    eprintln!(
        "{count} pods: agent start to the annotated manifest {}, to the last manifest {} (activation delay {} s), kubelet start \
         to the last container {} (5 s of which this kubelet looks for a Docker)",
        seconds(first(&file_of("kube-system/annotated")) - booted.agent),
        seconds(last_manifest - booted.agent),
        super::DELAY_S,
        seconds(all_run - booted.kubelet),
    );
    for pod in &pods {
        assert_eq!(stage.view(&stage.until_copied(pod)), views[pod], "{pod}");
    }

    let back = Instant::now();
    stage.cluster.start_apiserver();
    for pod in &pods {
        stage.until_handed_over(pod);
    }
    eprintln!("{count} pods: start of the API server to the last hand-over {}", seconds(back.elapsed()));
    let manifests: Vec<_> = stage.node.watched().present().into_iter().collect();
    assert_eq!(manifests, [""; 0]);
    for pod in &pods {
        let parent = stage.node.until_running(pod, PATIENCE);
        assert_eq!(stage.view(&parent), views[pod], "{pod}");
        assert_eq!(stage.pod(pod).unwrap()["metadata"]["uid"], *parent.uid);
    }
    stage.node.stop_agent();
}

/// By hand, without a resident agent: `ckpt-db run --once` before the kubelet starts.
#[test]
fn the_store_alone_is_enough() {
    if !full() {
        return;
    }
    let Some(mut stage) = Stage::set(&Options::default()) else { return };
    let objects: Vec<Value> = [volumes(), annotated(), as_user(), small(1).to_vec()].concat();
    stage.run(&objects);
    let pods: Vec<String> = objects.iter().filter(|object| object["kind"] == "Pod").map(key).collect();
    let views: BTreeMap<&String, String> =
        pods.iter().map(|pod| (pod, stage.view(&stage.node.until_running(pod, PATIENCE)))).collect();
    stage.cluster.kill_apiserver();
    stage.node.power_cut();
    stage.node.boot();
    stage.node.start_containerd();
    let output = stage.node.program("run").arg("--once").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    stage.node.start_kubelet();
    for pod in &pods {
        assert_eq!(stage.view(&stage.until_copied(pod)), views[pod], "{pod}");
    }
    assert_eq!(stage.node.running().len(), pods.len());
}
