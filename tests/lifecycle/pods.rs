//! Pods as the API server would send them, and the real first stage over them.

use std::collections::BTreeMap;

use ckpt_db::checkpoint::decide::{Decision, PodNetwork, decide};
use ckpt_db::checkpoint::examine::{Examined, Parent, examine};
use ckpt_db::checkpoint::images::NodeImages;
use ckpt_db::checkpoint::judge;
use ckpt_db::checkpoint::lifecycle::{Checkpoint, Lives, Rules, State, Timeline};
use ckpt_db::checkpoint::look::{ApiServer, Boot, Container, ContainerState, Kubelet, Look, Runtime, Sandbox};
use ckpt_db::checkpoint::lookup::{Lookup, Objects};
use ckpt_db::checkpoint::node::Fact;
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::checkpoint::rendering::PodName;
use ckpt_db::checkpoint::settings::Settings;
use serde_json::{Value, json};

/// Asks for a checkpoint, as the predecessor's users wrote it.
pub(crate) const ANNOTATED: &str = "checkpointer.alpha.coreos.com/checkpoint";

/// No pod here names another object.
struct Nothing;

impl Objects for Nothing {
    fn get(&self, _: &ObjectKey) -> Lookup {
        Lookup::Missing
    }
}

/// A pod's name in the namespace of all pods here.
pub(crate) fn name(name: &str) -> PodName {
    PodName { namespace: "default".to_owned(), name: name.to_owned() }
}

/// A pod that runs: one container, `restartPolicy: Always`. `change` is merged over its body.
pub(crate) fn object(pod: &PodName, uid: &str, change: &Value) -> Object {
    let mut body = json!({
        "metadata": {"namespace": pod.namespace, "name": pod.name, "uid": uid},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]},
        "status": {"phase": "Running"},
    });
    merge(&mut body, change);
    let key = ObjectKey::new(Kind::Pod, &pod.namespace, &pod.name).unwrap();
    Object { key, uid: uid.to_owned(), resource_version: "1".to_owned(), body: body.to_string().into() }
}

fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, change) => into.clone_from(change),
    }
}

/// The first stage's answer for one stored pod.
pub(crate) fn examined(object: &Object, ran: bool, ended: bool) -> Examined {
    examine(
        Parent { object, ran, ended, authenticated: true, republished: 0 },
        &Nothing,
        &[],
        &Settings::default(),
        &NodeImages::unknown(),
    )
}

/// A checkpoint of a pod that has run here.
pub(crate) fn checkpoint(object: &Object, state: State) -> Checkpoint {
    let ended = judge::outcome(object);
    Checkpoint {
        examined: examined(object, judge::has_run(object), ended.is_some()),
        state,
        gone: false,
        held: false,
        republished: 0,
        ended,
    }
}

/// The first stage over all of them.
pub(crate) fn first_stage(checkpoints: &[Checkpoint]) -> Decision {
    decide(checkpoints.iter().map(|checkpoint| checkpoint.examined.clone()).collect(), PodNetwork::Yes)
}

/// Both stages.
pub(crate) fn both_stages(checkpoints: &[Checkpoint], look: &Look, rules: &Rules, timeline: &mut Timeline) -> Lives {
    ckpt_db::checkpoint::lifecycle::decide(first_stage(checkpoints), checkpoints, look, rules, timeline)
}

/// A machine that was just switched on: nothing runs, nobody answers, and nothing lies in the kubelet's directory.
pub(crate) fn dark() -> Look {
    Look {
        now_ms: 1000,
        api: ApiServer::silent(),
        runtime: Fact::Known(Runtime::default()),
        kubelet: Fact::Known(Kubelet::NotRunning),
        boot: Fact::Known(Boot::New { kubelet_ran: false }),
        manifests: Fact::Known(BTreeMap::new()),
    }
}

/// A ready sandbox of an API pod with one container `c`.
pub(crate) fn sandbox(pod: &PodName, uid: &str, container: ContainerState) -> Sandbox {
    Sandbox {
        id: format!("sandbox-{uid}"),
        pod: pod.clone(),
        uid: uid.to_owned(),
        ready: true,
        parent_uid: None,
        created_at_unix_ns: 0,
        containers: vec![Container {
            id: format!("container-{uid}"),
            name: "c".to_owned(),
            state: container,
            attempt: 0,
        }],
    }
}
