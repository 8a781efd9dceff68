//! The node is shut down gracefully, which marks every pod as failed, and boots without an API server.

use serde_json::json;

use super::pods::sleeper;
use super::{Stage, copy_of, file_of};
use crate::api::one;
use crate::node::{Options, PATIENCE};
use crate::{full, until};

/// The shutdown manager of the kubelet needs systemd; what it does to a pod's status is done in its place.
#[test]
fn a_graceful_shutdown_is_no_outcome() {
    if !full() {
        return;
    }
    let Some(mut stage) = Stage::set(&Options::default()) else { return };
    let names = ["terminated", "shutdown", "evicted"];
    stage.run(&names.map(sleeper));
    stage.node.stop_kubelet();
    for (name, reason) in [("terminated", "Terminated"), ("shutdown", "Shutdown"), ("evicted", "Evicted")] {
        let status =
            json!({"status": {"phase": "Failed", "reason": reason, "message": "Node is shutting, evicting pods"}});
        stage.cluster.admin().patch(&format!("{}/status", one("pods", "default", name)), &status).ok();
    }
    until("the agent to know", PATIENCE, || {
        let status = stage.node.status()?;
        let evicted = status["pods"].as_array().into_iter().flatten().find(|pod| pod["name"] == "evicted");
        match evicted.map(|pod| pod["meantToRun"] == true) {
            Some(false) => Ok(()),
            Some(true) | None => Err(status.to_string()),
        }
    });
    stage.node.shut_down();
    stage.cluster.kill_apiserver();
    stage.boot();
    for name in ["terminated", "shutdown"] {
        stage.until_copied(&format!("default/{name}"));
    }
    assert!(!stage.node.watched().files().contains(&file_of("default/evicted")));

    // Controllers replace what has failed, and delete it.
    stage.cluster.start_apiserver();
    for name in ["terminated", "shutdown"] {
        stage.cluster.admin().delete(&one("pods", "default", name)).ok();
    }
    stage.create(&[sleeper("successor")]);
    stage.node.until_running("default/successor", PATIENCE);
    for name in ["terminated", "shutdown"] {
        stage.node.until_gone(&copy_of(&format!("default/{name}")), PATIENCE);
    }
    stage.node.stop_agent();
}
