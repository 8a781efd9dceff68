//! Values of Secrets do not come back to the API: not in mirror pods, not in events, not in the audit log, although bodies of
//! pods are logged in full, as many clusters do.

use std::fs;

use data_encoding::BASE64;
use serde_json::json;
use tempfile::TempDir;

use super::pods::{annotate, object, pod, sleeper};
use super::{DELAY_S, GRACE, NODE, Stage, copy_of};
use crate::control_plane::{Cluster, Options as ClusterOptions};
use crate::full;
use crate::node::{Options, PATIENCE};
use crate::until;

const VOLUME: &str = "kT6canaryVolumeR2vY9bN4mXw";
const ENV: &str = "jS1canaryEnvironmentH7qL3zPd";

/// Pods with what was asked and answered; of all else who asked for what.
const AUDIT_POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: None
  users: ["test-admin", "system:apiserver"]
- level: RequestResponse
  resources: [{group: "", resources: ["pods", "pods/status", "events"]}]
- level: Metadata
"#;

/// Whether `text` has the first 18 octets of a canary, as they are or in base64, whatever stands before them.
pub(super) fn shows(text: &str, canary: &str) -> bool {
    let encoded = |skip: usize| BASE64.encode(&canary.as_bytes()[skip..skip + 15]);
    text.contains(&canary[..15]) || (0..3).any(|skip| text.contains(&encoded(skip)))
}

/// The canaries in `text`.
fn found(text: &str) -> Vec<&'static str> {
    [VOLUME, ENV].into_iter().filter(|canary| shows(text, canary)).collect()
}

/// A control plane that logs so, and the directory of its policy, which it reads again at each start.
pub(super) fn audited() -> Option<(TempDir, Cluster)> {
    let policy = crate::directory("policy");
    let file = policy.path().join("policy.yaml");
    fs::write(&file, AUDIT_POLICY).unwrap();
    let apiserver = vec![format!("--audit-policy-file={}", file.display())];
    Some((policy, Cluster::start(ClusterOptions { apiserver })?))
}

#[test]
fn nothing_secret_comes_back_to_the_api() {
    if !full() {
        return;
    }
    let Some((_policy, cluster)) = audited() else { return };
    let Some(mut stage) = Stage::of(cluster, &Options::default()) else { return };
    let [delay, grace] = [DELAY_S, GRACE.as_secs()].map(|seconds| format!("{seconds}s"));
    let options = ["--activation-delay", &delay, "--checkpoint-grace-period", &grace, "--secret-env", "refuse"];
    stage.node.start_agent(&options);

    let keeps = pod("keeps", "exec sleep 1000000", |pod| {
        annotate(pod);
        pod["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "volume"}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "s", "mountPath": "/secret"}]);
    });
    let mut refused = sleeper("refused");
    annotate(&mut refused);
    refused["spec"]["containers"][0]["env"] =
        json!([{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "env", "key": "password"}}}]);
    stage.create(&[
        object("Secret", "volume", json!({"password": VOLUME})),
        object("Secret", "env", json!({"password": ENV})),
        refused,
        keeps,
    ]);
    stage.node.until_running("default/refused", PATIENCE);
    stage.until_prepared("default/keeps");

    stage.cluster.kill_apiserver();
    stage.node.power_cut();
    stage.node.boot();
    stage.node.start_containerd();
    stage.node.start_agent(&options);
    stage.node.until_ready();
    stage.node.start_kubelet();
    stage.until_copied("default/keeps");
    assert_eq!(stage.node.running_of(&copy_of("default/refused")), [], "{}", stage.node.agent_log());

    // The kubelet looks at its static pods once a minute or so: the copy has to be there still.
    stage.node.kill_agent();
    stage.cluster.start_apiserver();
    let audit_file = stage.cluster.audit_file();
    let audit = || fs::read_to_string(&audit_file).unwrap();
    until("the mirror pod of the copy in the audit log", PATIENCE, || {
        let mirrored = audit().lines().any(|line| line.contains("kubernetes.io/config.mirror") && line.contains(NODE));
        if mirrored { Ok(()) } else { Err(stage.node.kubelet_log()) }
    });
    stage.node.start_agent(&options);
    stage.until_handed_over("default/keeps");
    for place in ["pods", "events", "configmaps", "nodes"] {
        let objects = stage.cluster.admin().get(&format!("/api/v1/{place}")).ok().to_string();
        assert_eq!(found(&objects), [""; 0], "{place}");
    }
    assert_eq!(found(&audit()), [""; 0]);
    assert_eq!(found(&stage.node.agent_log()), [""; 0]);
    // They are there to be found.
    let secrets = stage.cluster.admin().get("/api/v1/secrets").ok().to_string();
    assert_eq!(found(&secrets), [VOLUME, ENV]);
    stage.node.stop_agent();
}
