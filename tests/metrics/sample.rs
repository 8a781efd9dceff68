//! A page with every metric in it: of a node on which everything is, and goes wrong.

use std::time::Duration;

use ckpt_db::checkpoint::object::Kind;
use ckpt_db::ops::health::Health;
use ckpt_db::ops::metrics::{Counters, Failed, Feature, Gathered, Inventory, Process, Slot, page};
use ckpt_db::ops::status::CheckpointerStatus;
use serde_json::{Value, json};

fn pod(name: &str, state: &str, running: &str, copy: Option<&str>, verdict: &[&str]) -> Value {
    let meant = !verdict.contains(&"Finished");
    let mut pod = json!({
        "namespace": "shop", "name": name, "uid": name, "state": state, "parentRunning": running, "meantToRun": meant,
        "held": name == "held", "verdict": verdict, "why": "because",
    });
    if let Some(copy) = copy {
        pod["copy"] = json!({"state": copy});
    }
    pod
}

/// What the agent says of such a node, with as many pods as it likes.
pub(crate) fn status(pods: &[Value]) -> CheckpointerStatus {
    serde_json::from_value(json!({
        "apiVersion": "ckpt-db.io/v1alpha1", "kind": "CheckpointerStatus", "node": "node-1", "version": "1.2.3",
        "nowUnixS": 1_800_000_000_u64, "startedAtUnixS": 1_799_999_000_u64, "upS": 1000, "policy": "all",
        "apiServer": {"state": "Silent", "sinceUnixS": 1_799_999_700_u64, "forS": 300, "cause": "connection refused"},
        "store": {
            "path": "/var/lib/ckpt-db/checkpoint-store.db", "revision": 42, "objects": 9, "populated": true, "lock": "Locked",
            "readOnly": true, "findings": 2, "damagedFiles": ["checkpoint-store.db.damaged-1"], "problem": "disk full",
        },
        "bootstrap": {"path": "/b", "files": 3, "failures": 6, "writesFailed": 3, "removalsFailed": 2},
        "runtime": {"known": false, "reason": "connection refused"},
        "kubelet": {"state": "Running", "forS": 7},
        "pods": pods,
        "alarms": [
            {"code": "ParentRejected", "pod": "shop/a", "message": "m"}, {"code": "NotRendered", "message": "m"},
            {"code": "NotRendered", "message": "m"},
        ],
    }))
    .unwrap()
}

/// One pod of each sort.
pub(crate) fn pods() -> Vec<Value> {
    vec![
        pod("runs", "Inactive", "Yes", None, &["Recoverable", "LabelsDropped"]),
        pod("network", "Inactive", "Yes", None, &["WhenNetworkIs"]),
        pod("starting", "Active", "No", Some("starting"), &["Recoverable"]),
        pod("running", "Active", "No", Some("running"), &["Recoverable"]),
        pod("failing", "ActiveGrace", "No", Some("failing"), &["Recoverable"]),
        pod("unknown", "SelfActive", "No", Some("unknown"), &["Recoverable"]),
        pod("handed", "HandedOver", "Yes", None, &["Recoverable"]),
        pod("held", "Inactive", "No", None, &["Recoverable"]),
        pod("lost", "None", "No", None, &["MissingObject", "Sealed"]),
        pod("lost-too", "None", "Unknown", None, &["MissingObject"]),
        pod("done", "InactiveGrace", "No", None, &["Finished"]),
    ]
}

/// The page.
pub(crate) fn text(pods: &[Value]) -> String {
    let counters = Counters::default();
    counters.committed(Duration::from_micros(1_500), 3, 4_096);
    counters.committed(Duration::from_secs(60), 5_000, 1);
    counters.failed(Failed::Commit);
    counters.failed(Failed::Round);
    counters.rejected(2);
    counters.listed();
    counters.round();
    counters.kept(4, 3, 2, 1);
    counters.cold_start_took(1_250);
    counters.certificate_expires(Some(1_800_086_400));
    let status = status(pods);
    let health = Health::of(&status, Some(1_000), false);
    let slot = |kind, created_at_unix_ms| Slot { kind, created_at_unix_ms };
    let gathered = Gathered {
        inventory: Some(Inventory {
            objects: vec![(Kind::Pod, 5), (Kind::ConfigMap, 0), (Kind::Secret, 4), (Kind::Service, 0), (Kind::Node, 1)],
            slots: vec![
                slot("node-key", 1_799_990_000_000),
                slot("node-key", 1_799_999_000_500),
                slot("recovery-code", 1_700_000_000_000),
                // Of a clock that ran ahead.
                slot("credential", 1_900_000_000_000),
            ],
            in_step: false,
            out_of_step_s: Some(300),
        }),
        health,
        features: vec![
            Feature { name: "Checkpointing", stage: "ALPHA", on: true },
            Feature { name: "Other", stage: "", on: false },
        ],
        watch_ends: vec![(Kind::Pod, "cut", 7), (Kind::Secret, "failed", 0)],
        file_bytes: Some(1_000_000),
        available_bytes: Some(5_000_000),
        process: Some(Process {
            cpu_s: 1.25,
            resident_bytes: 17_000_000,
            started_ms: 500_000,
            open_fds: Some(20),
            max_fds: Some(1024),
        }),
        now_ms: 1_500_000,
        status,
    };
    page(&gathered, &counters)
}
