//! The node itself, without the program under test: what all other tests on it stand on.

use std::time::Duration;

use ckpt_db::checkpoint::look::ContainerState;
use ckpt_db::checkpoint::node::Fact;
use ckpt_db::node::cri::Cri;
use serde_json::json;

use super::{IMAGE, Options, PATIENCE, RealNode};
use crate::api::collection;
use crate::control_plane::{Cluster, Options as ClusterOptions};
use crate::{full, until};

const NODE: &str = "edge-1";

fn pod(name: &str, spec: serde_json::Value) -> serde_json::Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": IMAGE, "command": ["sh", "-c", "hostname; exec sleep 100000"]}]},
    });
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    pod
}

#[test]
fn a_node_runs_pods_and_loses_its_power() {
    if !full() {
        return;
    }
    let start = std::time::Instant::now();
    let took = |what: &str| eprintln!("{:5.1} s {what}", start.elapsed().as_secs_f64());
    let Some(cluster) = Cluster::start(ClusterOptions::default()) else { return };
    took("the control plane runs");
    let Some(mut node) = RealNode::start(&cluster, NODE, &Options::default()) else { return };
    took("the node runs");
    let admin = cluster.admin();

    // A static pod and two of the API server, one in the pod network and one on the host's.
    node.put_static_pod(&pod("static", json!({})));
    until("the node to register", PATIENCE, || match admin.get(&format!("/api/v1/nodes/{NODE}")).status {
        200 => Ok(()),
        other => Err(format!("{other}: {}", node.kubelet_log())),
    });
    took("it is registered");
    for (name, spec) in [("api", json!({})), ("hosted", json!({"hostNetwork": true}))] {
        let mut pod = pod(name, spec);
        pod["spec"]["nodeName"] = NODE.into();
        admin.create(&collection("pods", "default"), &pod).ok();
    }
    let fixed = node.until_running("default/static-edge-1", PATIENCE);
    for name in ["api", "hosted"] {
        let container = node.until_running(&format!("default/{name}"), PATIENCE);
        let status = until("its status", PATIENCE, || {
            let pod = admin.get(&format!("/api/v1/namespaces/default/pods/{name}")).ok();
            if pod["status"]["phase"] == "Running" { Ok(pod) } else { Err(pod["status"].to_string()) }
        });
        assert_eq!(status["metadata"]["uid"], *container.uid);
    }
    assert_ne!(fixed.uid, "");
    took("three pods run");

    // The container runtime interface, as the agent asks it, tells the same as runc and the kernel.
    let ids = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    let Fact::Known(runtime) = Cri::new(node.path("run/containerd/containerd.sock")).look_blocking() else {
        panic!("the runtime does not say");
    };
    let containers = runtime.sandboxes.iter().flat_map(|sandbox| &sandbox.containers);
    let running = containers.filter(|container| container.state == ContainerState::Running);
    let running = ids(running.map(|container| container.id.clone()).collect());
    assert_eq!(running, ids(node.running().into_iter().map(|container| container.id).collect()));
    assert_eq!(running.len(), 3);

    // The API server dies, and then the power goes: nothing runs, and after the boot only what is static.
    cluster.kill_apiserver();
    node.power_cut();
    assert_eq!(node.running(), []);
    node.boot();
    assert_eq!(node.running(), []);
    node.start_containerd();
    node.start_kubelet();
    let again = node.until_running("default/static-edge-1", PATIENCE);
    took("after the power cut the static pod runs");
    assert_ne!(again.id, fixed.id);
    node.assert_never_running("default/api", Duration::from_secs(3));
    assert_eq!(node.running().len(), 1);

    // A container that dies is started again; the runtime and the kubelet can go and come without its pods.
    node.kill_container("default/static-edge-1", "c");
    let third = until("another container", PATIENCE, || match node.until_running("default/static-edge-1", PATIENCE) {
        same if same.id == again.id => Err(format!("{same:?}")),
        other => Ok(other),
    });
    took("its container was killed, and runs again");
    node.kill_kubelet();
    node.kill_containerd();
    node.start_containerd();
    node.start_kubelet();
    assert_eq!(node.running(), [third]);
    took("kubelet and runtime were killed and run again");

    // The API server is back, and with it its pods.
    cluster.start_apiserver();
    for name in ["api", "hosted"] {
        node.until_running(&format!("default/{name}"), PATIENCE);
    }
    took("the API server is back and its pods run");
    assert!(node.watched().seen().is_empty(), "nobody else writes there");
}
