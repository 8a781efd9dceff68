//! The agent as `dist/kustomize/base` runs it, from its image: an offline reboot in which nobody but the kubelet starts
//! anything, two instances at once, an update, and the end.
//!
//! There is no kube-controller-manager here. Its part, a pod made from the template and bound to the node, is done by hand.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::pods::{sleeper, small};
use super::{DELAY_S, NODE, Stage, copy_of, file_of, seconds};
use crate::api::{collection, one};
use crate::kustomize::{kubectl, render, the};
use crate::node::{Container, Options, PATIENCE};
use crate::{full, until};

/// Longer than an update takes here, where the image is there already.
const GRACE: Duration = Duration::from_secs(30);

/// As the DaemonSet's controller names its pods.
const FIRST: &str = "kube-system/ckpt-db-x7k2p";
const SECOND: &str = "kube-system/ckpt-db-n8w4q";

const SECRETS: &str = "/run/ckpt-db-secrets";

/// The pod that the controller would make, with shorter times.
fn instance(daemon_set: &Value, pod: &str) -> Value {
    let (namespace, name) = pod.split_once('/').unwrap();
    let metadata = &daemon_set["metadata"];
    let mut pod = daemon_set["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["namespace"] = namespace.into();
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["generateName"] = "ckpt-db-".into();
    pod["metadata"]["labels"]["controller-revision-hash"] = "6d5f8c7b9".into();
    pod["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "DaemonSet", "name": metadata["name"], "uid": metadata["uid"],
        "controller": true, "blockOwnerDeletion": true,
    }]);
    let spec = &mut pod["spec"];
    let fields = json!([{"key": "metadata.name", "operator": "In", "values": [NODE]}]);
    spec["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": fields}]}}});
    spec["nodeName"] = NODE.into();
    let args = spec["containers"][0]["args"].as_array_mut().unwrap();
    let grace = args.iter_mut().find(|arg| **arg == "--checkpoint-grace-period=5m").expect("it is there");
    *grace = format!("--checkpoint-grace-period={}s", GRACE.as_secs()).into();
    args.push(format!("--activation-delay={DELAY_S}s").into());
    pod
}

/// A node with the agent's image, and the DaemonSet in its cluster, by one of the directories of `dist/kustomize`.
fn set(form: &str) -> Option<(Stage, Value)> {
    let stage = Stage::set_without_agent(&Options::default())?;
    let output = Command::new("bash")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/image.sh"))
        .stderr(std::process::Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "the image is not built");
    fs::copy(String::from_utf8(output.stdout).unwrap().trim_end(), stage.node.path("var/agent.tar")).unwrap();
    stage.node.told("ctr -n k8s.io images import /var/agent.tar && rm /var/agent.tar");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": render(form).expect("there is kubectl")});
    let kubeconfig = stage.cluster.admin_kubeconfig();
    let output = kubectl(&["--kubeconfig", kubeconfig.to_str().unwrap(), "apply", "-f", "-"], &list.to_string());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let daemon_set = the("DaemonSet", &[stage.cluster.admin().get(DAEMON_SET).ok()]);
    Some((stage, daemon_set))
}

const DAEMON_SET: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets/ckpt-db";

fn create(stage: &Stage, daemon_set: &Value, pod: &str) {
    stage.cluster.admin().create(&collection("pods", "kube-system"), &instance(daemon_set, pod)).ok();
}

/// Waits until these manifests, and no others, lie in the kubelet's directory.
#[track_caller]
fn present(stage: &Stage, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|pod| file_of(pod)).collect();
    until(&format!("{wanted:?} to be active"), PATIENCE, || match stage.node.watched().present() {
        found if found == wanted => Ok(()),
        found => Err(format!("{found:?}; it says\n{}", logs(stage))),
    });
}

/// What all its containers have written.
fn logs(stage: &Stage) -> String {
    stage.node.told("tail -n 60 /var/log/pods/kube-system_ckpt-db*/*/*.log")
}

#[track_caller]
fn says(stage: &Stage, container: &Container, what: &str) {
    until(&format!("{} to say {what:?}", container.pod), PATIENCE, || {
        let log = stage.node.log_of(container);
        if log.contains(what) { Ok(()) } else { Err(format!("{log}\nall of them:\n{}", logs(stage))) }
    });
}

const WAITS: &str = "another instance has the store";
const WORKS: &str = "in step with the API server";

#[test]
fn the_form_that_users_install_brings_itself_back_and_the_others() {
    if !full() {
        return;
    }
    let Some((mut stage, daemon_set)) = set("base") else { return };
    create(&stage, &daemon_set, FIRST);
    stage.create(&small(1));
    let parent = stage.node.until_running(FIRST, PATIENCE);
    stage.until_prepared("default/small-1");
    says(&stage, &parent, WORKS);
    present(&stage, &[FIRST]);
    let before = stage.view(&stage.node.until_running("default/small-1", PATIENCE));
    assert!(stage.node.told(&format!("stat -f -c %T {SECRETS}")).starts_with("tmpfs"));

    // A copy and its parent: one works, the other waits. A host service says so, and ends.
    let copy = stage.until_copied(FIRST);
    says(&stage, &copy, WAITS);
    let service = stage.node.program("run").output().unwrap();
    let said = String::from_utf8_lossy(&service.stderr).into_owned();
    assert!(service.status.code() == Some(2) && said.contains("in use"), "{said}");
    // The parent dies. Whoever is first has the store then: the copy, or the parent that is started again, which gets it back.
    stage.node.kill_container(FIRST, "ckpt-db");
    let parent = until("the parent to be started again", PATIENCE, || {
        let found = stage.node.running_of(FIRST).into_iter().find(|found| found.id != parent.id);
        found.ok_or_else(|| logs(&stage))
    });
    says(&stage, &parent, WORKS);

    // Rights and roots are enough for everything: nothing is complained of.
    let status = stage.node.status().unwrap();
    assert_eq!(status["alarms"], json!([]), "{status:#}");

    stage.cluster.kill_apiserver();
    stage.node.power_cut();
    stage.node.boot();
    stage.node.start_containerd();
    let begin = Instant::now();
    stage.node.start_kubelet();
    stage.until_copied(FIRST);
    let up = begin.elapsed();
    let back = stage.until_copied("default/small-1");
    eprintln!(
        "from the start of the kubelet: {} to the agent's own copy, {} to that of another pod",
        seconds(up),
        seconds(begin.elapsed())
    );
    assert_eq!(stage.view(&back).replace(&copy_of("small-1"), "small-1"), before, "the same Secret and ConfigMap");
    assert!(stage.node.told(&format!("stat -f -c %T {SECRETS}")).starts_with("tmpfs"));

    stage.cluster.start_apiserver();
    stage.until_handed_over("default/small-1");
    let parent = stage.node.until_running(FIRST, PATIENCE);
    says(&stage, &parent, WORKS);
    present(&stage, &[FIRST]);

    // An update: a pod of another name comes into its place.
    stage.cluster.admin().delete(&one("pods", "kube-system", "ckpt-db-x7k2p")).ok();
    stage.node.until_gone(FIRST, PATIENCE);
    create(&stage, &daemon_set, SECOND);
    let second = stage.node.until_running(SECOND, PATIENCE);
    says(&stage, &second, WORKS);
    present(&stage, &[SECOND]);
    stage.node.until_gone(&copy_of(FIRST), PATIENCE);
    stage.until_copied(SECOND);

    // It is no longer wanted: all that it made goes, its own copy last; the parents run on, and the store is kept.
    stage.cluster.admin().delete(DAEMON_SET).ok();
    stage.cluster.admin().delete(&one("pods", "kube-system", "ckpt-db-n8w4q")).ok();
    present(&stage, &[]);
    stage.node.until_gone(&copy_of(SECOND), PATIENCE);
    assert_eq!(stage.node.running_of("default/small-1").len(), 1);
    let left =
        stage.node.told("ls -A /etc/kubernetes/inactive-manifests /etc/kubernetes/manifests; ls /var/lib/ckpt-db");
    assert!(!left.contains(".json") && left.contains("checkpoint-store.db"), "{left}");
}

/// As the audit log names who has the rights of `dist/kustomize/role`.
const ACCOUNT: &str = "system:serviceaccount:kube-system:ckpt-db";

#[test]
fn with_rights_of_its_own_it_brings_back_what_these_let_it_see() {
    if !full() {
        return;
    }
    let Some((mut stage, daemon_set)) = set("role") else { return };
    // The token's Secret stays empty, since there is no controller that fills it.
    stage.cluster.token_kubeconfig("ckpt-db", &stage.node.path("etc/kubernetes/ckpt-db.conf"));
    // One whose objects the Role shows, one that names none, and one of a namespace without a binding.
    let mut bound = small(1);
    bound.iter_mut().for_each(|object| object["metadata"]["namespace"] = "kube-system".into());
    create(&stage, &daemon_set, FIRST);
    stage.create(&[&bound[..], &[sleeper("plain")], &small(2)].concat());
    // After its init container, which makes the key.
    let parent = until("the agent's container", PATIENCE, || {
        let found = stage.node.running_of(FIRST).into_iter().find(|found| found.name == "ckpt-db");
        found.ok_or_else(|| stage.node.kubelet_log())
    });
    says(&stage, &parent, "for node edge-1 as the token in /etc/kubernetes/ckpt-db.conf");
    says(&stage, &parent, WORKS);
    assert!(stage.node.path("var/lib/ckpt-db/node-key.pem").exists());
    for pod in ["kube-system/small-1", "default/plain"] {
        stage.node.until_running(pod, PATIENCE);
        stage.until_prepared(pod);
    }
    let before = stage.view(&stage.node.until_running("kube-system/small-1", PATIENCE));
    stage.node.until_running("default/small-2", PATIENCE);

    stage.cluster.kill_apiserver();
    stage.node.power_cut();
    stage.node.boot();
    stage.node.start_containerd();
    stage.node.start_kubelet();
    stage.until_copied(FIRST);
    let back = stage.until_copied("kube-system/small-1");
    assert_eq!(stage.view(&back).replace(&copy_of("small-1"), "small-1"), before, "the same Secret and ConfigMap");
    stage.until_copied("default/plain");
    assert_eq!(stage.node.running_of(&copy_of("default/small-2")), []);
    let status = stage.node.status().unwrap();
    let pods = status["pods"].as_array().unwrap();
    let found = pods.iter().find(|pod| pod["name"] == "small-2").expect("it is stored");
    assert_eq!(found["verdict"], json!(["Forbidden", "Forbidden"]), "{found}");

    stage.cluster.start_apiserver();
    for pod in ["kube-system/small-1", "default/plain"] {
        stage.until_handed_over(pod);
    }
    // It asked for nothing that is not its business, and was refused what the Role does not show, and no more.
    let asked = stage.cluster.audit().of(ACCOUNT);
    assert_eq!(asked.bad_manners(NODE), Vec::<String>::new());
    let refused: BTreeSet<(&str, &str, &str)> = (asked.requests.iter().filter(|request| request.status == 403))
        .map(|request| (request.verb.as_str(), request.resource.as_str(), request.namespace.as_str()))
        .collect();
    let of_objects = |(_, resource, _): &&(&str, &str, &str)| ["secrets", "configmaps"].contains(resource);
    assert_eq!(refused.iter().filter(of_objects).count(), refused.len(), "{refused:?}");
    assert!(!refused.iter().any(|(verb, _, namespace)| (*verb, *namespace) == ("get", "kube-system")), "{refused:?}");
    assert!(refused.iter().any(|(verb, _, namespace)| (*verb, *namespace) == ("get", "default")), "{refused:?}");
}
