//! The agent as a pod, which keeps itself too: an offline boot in which nobody but the kubelet starts anything.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::pods::{pod, small};
use super::{DELAY_S, GRACE, Stage, copy_of, file_of, seconds};
use crate::api::one;
use crate::gate::GATE;
use crate::node::{Options, PATIENCE};
use crate::{full, until};

/// Longer than a pod takes to start that does start.
const SOON: Duration = Duration::from_secs(30);

/// The agent's pod, as its DaemonSet makes it: with the kubelet's credentials by hostPath, and the program and its libraries
/// from the node.
fn agent() -> Value {
    let program = format!(
        "exec /node/opt/ckpt-db run {GATE} --activation-delay {DELAY_S}s --checkpoint-grace-period {}s --boot-id-file \
         /node/host/boot_id",
        GRACE.as_secs()
    );
    pod("ckpt-db", &program, |pod| {
        pod["metadata"]["namespace"] = "kube-system".into();
        let spec = &mut pod["spec"];
        spec["hostNetwork"] = true.into();
        spec["hostPID"] = true.into();
        spec["priorityClassName"] = "system-node-critical".into();
        let mounts = [
            ("kubernetes", "/etc/kubernetes", "/etc/kubernetes"),
            ("kubelet", "/var/lib/kubelet", "/var/lib/kubelet"),
            ("store", "/var/lib/ckpt-db", "/var/lib/ckpt-db"),
            ("containerd", "/run/containerd", "/run/containerd"),
            ("admin", "/run/ckpt-db", "/run/ckpt-db"),
            ("cni", "/etc/cni", "/etc/cni"),
            ("programs", "/opt", "/node/opt"),
            // The kernel of its container does not know of this machine's reboots.
            ("boot", "/run/host", "/node/host"),
            ("libraries", "/usr/lib", "/lib"),
            ("loader", "/usr/lib64", "/lib64"),
        ];
        spec["volumes"] = mounts
            .iter()
            .map(|(name, host, _)| json!({"name": name, "hostPath": {"path": host, "type": "DirectoryOrCreate"}}))
            .collect();
        let container = &mut spec["containers"][0];
        container["volumeMounts"] = mounts.iter().map(|(name, _, at)| json!({"name": name, "mountPath": at})).collect();
        let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
        container["env"] = json!([
            {"name": "POD_NAME", "valueFrom": field("metadata.name")},
            {"name": "POD_NAMESPACE", "valueFrom": field("metadata.namespace")},
            {"name": "NODE_NAME", "valueFrom": field("spec.nodeName")},
        ]);
    })
}

#[test]
fn it_brings_itself_back_and_the_others_and_leaves_when_it_is_no_longer_wanted() {
    if !full() {
        return;
    }
    let Some(mut stage) = Stage::set_without_agent(&Options::default()) else { return };
    // The mount unit of the package: an agent in a pod can't mount for the kubelet.
    let secrets = "mkdir -p /etc/kubernetes/checkpoint-secrets
        mount -t tmpfs -o mode=700,nosuid,nodev tmpfs /etc/kubernetes/checkpoint-secrets";
    stage.node.told(secrets);
    let objects = small(1);
    stage.create(&[agent()]);
    stage.create(&objects);
    let own = "kube-system/ckpt-db";
    stage.node.until_running(own, SOON);
    stage.until_prepared("default/small-1");
    let present = |stage: &Stage, wanted: &[&str]| {
        let wanted: std::collections::BTreeSet<String> = wanted.iter().map(|pod| file_of(pod)).collect();
        until(&format!("{wanted:?} to be active"), PATIENCE, || match stage.node.watched().present() {
            found if found == wanted => Ok(()),
            found => Err(format!("{found:?}; it says\n{}", log(stage))),
        });
    };
    present(&stage, &[own]);

    stage.cluster.kill_apiserver();
    stage.node.power_cut();
    stage.node.at_boot(secrets);
    stage.node.boot();
    stage.node.start_containerd();
    stage.node.start_kubelet();
    stage.until_copied(own);
    let begin = Instant::now();
    stage.until_copied("default/small-1");
    eprintln!("the agent's own copy runs: {} to the copy of the other pod", seconds(begin.elapsed()));

    stage.cluster.start_apiserver();
    stage.until_handed_over("default/small-1");
    stage.node.until_running(own, PATIENCE);
    present(&stage, &[own]);

    // It is no longer scheduled here: all copies go, its own last, and no parent is touched.
    stage.cluster.admin().delete(&one("pods", "kube-system", "ckpt-db")).ok();
    present(&stage, &[]);
    stage.node.until_gone(&copy_of(own), PATIENCE);
    stage.node.until_gone(own, PATIENCE);
    assert_eq!(stage.node.running_of("default/small-1").len(), 1);
}

/// What its containers have written.
fn log(stage: &Stage) -> String {
    stage.node.told("cat /var/log/pods/kube-system_ckpt-db*/*/*.log | tail -n 60")
}
