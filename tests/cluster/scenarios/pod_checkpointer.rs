//! A node that lives on active checkpoints of the file-based pod-checkpointer while its control plane is dead becomes one of
//! ours by the steps of its migration page: what runs goes on in the same containers, until its parent takes over.
//!
//! The pod-checkpointer is not run. Its files are made of the parents, as the API server has them, by its documented rules, and
//! the kubelet starts what they say.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};

use super::pods::{VIEW, annotate, object, pod, sleeper};
use super::{NODE, Stage, copy_of, file_of, key};
use crate::api::one;
use crate::node::{Container, Options, PATIENCE};
use crate::{full, until};

/// Its checkpoint is active when it is left.
const ACTIVE: &str = "kube-system/active";

/// Its checkpoint is inactive.
const INACTIVE: &str = "kube-system/inactive";

const PASSWORD: &str = "canary-of-the-pod-checkpointer";
const SETTING: &str = "number = 1\n";

/// A parent as the pod-checkpointer wants it, with what it names.
fn parent(name: &str) -> [Value; 3] {
    let parent = pod(name, VIEW, |pod| {
        annotate(pod);
        let spec = &mut pod["spec"];
        spec["nodeSelector"] = json!({"kubernetes.io/hostname": NODE});
        spec["volumes"] = json!([
            {"name": "secret", "secret": {"secretName": name}},
            {"name": "config", "configMap": {"name": name}},
        ]);
        spec["containers"][0]["volumeMounts"] = json!([
            {"name": "secret", "mountPath": "/view/secret"},
            {"name": "config", "mountPath": "/view/config"},
        ]);
    });
    let mut objects = [
        object("Secret", name, json!({"password": format!("{PASSWORD} {name}")})),
        object("ConfigMap", name, json!({"app.conf": SETTING})),
        parent,
    ];
    for object in &mut objects {
        object["metadata"]["namespace"] = "kube-system".into();
    }
    objects
}

/// The checkpoint of a parent: labels stay, all annotations go but one, the parent owns it; no status, service account, node
/// selector or affinity; volumes of Secrets and ConfigMaps are directories of the node. All else stays as the API server has it.
fn checkpoint(parent: &Value) -> Value {
    let metadata = &parent["metadata"];
    let mut copy = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "creationTimestamp": null,
            "labels": metadata["labels"],
            "annotations": {"checkpointer.alpha.coreos.com/checkpoint-of": metadata["name"]},
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"], "controller": true}],
        },
        "spec": parent["spec"],
        "status": {},
    });
    let spec = copy["spec"].as_object_mut().unwrap();
    spec.retain(|field, _| {
        !["serviceAccount", "serviceAccountName", "nodeSelector", "affinity"].contains(&field.as_str())
    });
    for volume in spec["volumes"].as_array_mut().unwrap() {
        for (kind, named, root) in [("secret", "secretName", "secrets"), ("configMap", "name", "configmaps")] {
            if let Some(object) = volume[kind][named].as_str() {
                let path = format!("/etc/kubernetes/checkpoint-{root}/{}/{object}", key(parent));
                *volume = json!({"name": volume["name"], "hostPath": {"path": path}});
            }
        }
    }
    copy
}

/// What the pod-checkpointer writes of a parent that runs: its inactive manifest, and each value in a file of its own.
fn inactive(stage: &Stage, pod: &str) {
    let (namespace, name) = pod.split_once('/').unwrap();
    let parent = stage.pod(pod).unwrap();
    stage.node.told(&format!(
        "umask 077; cd /etc/kubernetes; mkdir -p inactive-manifests checkpoint-secrets/{pod}/{name} checkpoint-configmaps/{pod}/{name}"
    ));
    let write = |below: &str, text: &str| {
        let path = format!("/etc/kubernetes/{below}");
        fs::write(stage.node.path(&path), text).unwrap();
        stage.node.told(&format!("chmod 600 {path}"));
    };
    write(&format!("checkpoint-secrets/{pod}/{name}/password"), &format!("{PASSWORD} {name}"));
    write(&format!("checkpoint-configmaps/{pod}/{name}/app.conf"), SETTING);
    write(&format!("inactive-manifests/{namespace}-{name}.json"), &checkpoint(&parent).to_string());
    stage.node.told(&format!("chmod 644 /etc/kubernetes/inactive-manifests/{namespace}-{name}.json"));
}

/// As the pod-checkpointer does it when a parent does not run and the API server does not answer.
fn activate(stage: &Stage, pod: &str) {
    let file = their_file(pod);
    stage.node.watched().expect(&file);
    stage.node.told(&format!(
        "cd /etc/kubernetes && cp -p inactive-manifests/{file} manifests/.{file} && mv manifests/.{file} manifests/{file}"
    ));
}

fn their_file(pod: &str) -> String {
    format!("{}.json", pod.replace('/', "-"))
}

/// The node with both checkpoints, one of them active and run by the kubelet; nobody works on it any more.
fn left_behind() -> Option<Stage> {
    let mut stage = Stage::set_without_agent(&Options::default())?;
    stage.create(&[parent("active"), parent("inactive")].concat());
    for pod in [ACTIVE, INACTIVE] {
        stage.node.until_running(pod, PATIENCE);
        inactive(&stage, pod);
    }
    stage.cluster.kill_apiserver();
    stage.node.power_cut();
    stage.node.boot();
    stage.node.start_containerd();
    stage.node.start_kubelet();
    activate(&stage, ACTIVE);
    stage.until_copied(ACTIVE);
    Some(stage)
}

/// `ckpt-db import pod-checkpointer`, which finds nothing to complain of; what it says.
#[track_caller]
fn import(stage: &Stage, options: &[&str]) -> String {
    let output = stage.node.program("import").arg("pod-checkpointer").args(options).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && !said.contains("warning"), "{}: {said}", output.status);
    assert!(!said.contains(PASSWORD), "{said}");
    said
}

/// What the mount unit of the package does.
const MOUNT: &str =
    "mount -t tmpfs -o mode=0700,nosuid,nodev,size=64m,nr_inodes=64k tmpfs /etc/kubernetes/checkpoint-secrets";

/// What a container reads now in the volumes that it has mounted.
fn reads(stage: &Stage, container: &Container) -> String {
    stage.node.told(&format!("cd /proc/{}/root/view && cat secret/password config/app.conf", container.pid))
}

/// The file itself: its number, when it was last changed or renamed, and what is in it.
fn stamp(stage: &Stage, file: &str) -> (u64, i64, i64, Vec<u8>) {
    let path = stage.node.path("etc/kubernetes/manifests").join(file);
    let found = fs::metadata(&path).unwrap();
    (found.ino(), found.ctime(), found.ctime_nsec(), fs::read(path).unwrap())
}

/// Waits until the agent takes the copy for its own, and for one that runs.
#[track_caller]
fn until_known_as_running(stage: &Stage, pod: &str) {
    let (_, name) = pod.split_once('/').unwrap();
    until(&format!("{pod} to be active and to run"), PATIENCE, || {
        let status = stage.node.status()?;
        let pods = status["pods"].as_array().cloned().unwrap_or_default();
        let found = pods.iter().find(|pod| pod["name"] == *name).cloned().unwrap_or_default();
        if found["state"] == "Active" && found["copy"]["state"] == "running" {
            Ok(())
        } else {
            Err(format!("{found}; the agent says\n{}", stage.node.agent_log()))
        }
    });
}

#[test]
fn what_the_pod_checkpointer_left_running_goes_on_in_its_containers_until_the_parents_take_over() {
    let Some(mut stage) = left_behind() else { return };
    let copy = stage.node.until_running(&copy_of(ACTIVE), PATIENCE);
    let wanted = format!("{PASSWORD} active{SETTING}");
    assert_eq!(reads(&stage, &copy), wanted);
    let manifest = stamp(&stage, &their_file(ACTIVE));
    let unchanged = |stage: &Stage, when: &str| {
        assert_eq!(stage.node.running_of(&copy_of(ACTIVE)), std::slice::from_ref(&copy), "{when}");
        // The kubelet numbers the logs of a container's lives.
        let lives = stage.node.told("ls /var/log/pods/kube-system_active-*/c");
        assert_eq!(lives.trim(), "0.log", "{when}");
        assert_eq!(stamp(stage, &their_file(ACTIVE)), manifest, "{when}: the kubelet would restart it");
        assert_eq!(reads(stage, &copy), wanted, "{when}");
    };

    // The steps of docs, in their order.
    let told = import(&stage, &["--dry-run"]);
    assert!(
        told.contains("kube-system/active would be adopted; its active manifest would be taken over as it is"),
        "{told}"
    );
    let told = import(&stage, &[]);
    assert!(
        told.contains("stored 2 pods and 4 of their Secrets and ConfigMaps; 1 active manifest taken over"),
        "{told}"
    );
    unchanged(&stage, "after the import");
    stage.node.told(MOUNT);
    stage.start_agent();
    stage.node.until_ready();
    until_known_as_running(&stage, ACTIVE);
    unchanged(&stage, "with an agent");
    // The other one is brought back by us, under a manifest of ours.
    let brought_back = stage.until_copied(INACTIVE);
    assert_eq!(reads(&stage, &brought_back), format!("{PASSWORD} inactive{SETTING}"));
    assert_eq!(stage.node.watched().files(), [file_of(INACTIVE)].into());

    // Whoever is started again sees nothing new in it. A kubelet that has started a pod has read the whole directory.
    stage.node.stop_agent();
    stage.start_agent();
    stage.node.until_ready();
    until_known_as_running(&stage, ACTIVE);
    stage.node.stop_kubelet();
    stage.node.start_kubelet();
    stage.node.put_static_pod(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": sleeper("read")["metadata"],
        "spec": {"containers": sleeper("read")["spec"]["containers"]}}));
    stage.node.until_running(&copy_of("default/read"), PATIENCE);
    unchanged(&stage, "with another agent and another kubelet");

    // A container that fails is started again by its kubelet, and finds its values: now the Secret's are in memory.
    let view = stage.view(&copy);
    stage.node.kill_container(&copy_of(ACTIVE), "c");
    let again = until("the container to be started again", PATIENCE, || {
        let found = stage.node.running_of(&copy_of(ACTIVE)).into_iter().find(|found| found.id != copy.id);
        found.ok_or_else(|| stage.node.kubelet_log())
    });
    assert_eq!(again.uid, copy.uid, "of the same pod");
    assert_eq!(values(&stage.view(&again)), values(&view));

    stage.cluster.start_apiserver();
    for pod in [ACTIVE, INACTIVE] {
        stage.until_handed_over(pod);
    }
    let manifests = stage.node.told("ls /etc/kubernetes/manifests");
    assert_eq!(manifests.trim(), "read.json", "{}", stage.node.agent_log());
    remove_leftovers(&mut stage);
}

/// What a container saw in its volumes, without their modes: the pod-checkpointer writes 0600, a kubelet 0644.
fn values(view: &str) -> Vec<&str> {
    view.lines()
        .map(|line| if line.starts_with("/view") { line.split(' ').next().unwrap_or(line) } else { line })
        .collect()
}

/// The last step: nothing in clear text is left on the disk, and nobody has lost anything.
fn remove_leftovers(stage: &mut Stage) {
    stage.node.stop_agent();
    let running = stage.node.running();
    import(stage, &["--remove-leftovers"]);
    stage.node.told("mkdir /run/below && mount --bind /etc/kubernetes /run/below");
    import(stage, &["--remove-leftovers", "--checkpoint-secrets", "/run/below/checkpoint-secrets"]);
    stage.node.told("umount /run/below && rmdir /run/below");
    assert_eq!(stage.node.running(), running);
    // What is in memory is not on it.
    stage.node.shut_down();
    stage.node.told_off(&format!(
        "! grep -r '{PASSWORD}' etc var/lib/ckpt-db
         ! find etc/kubernetes/inactive-manifests etc/kubernetes/manifests -name 'kube-system-*' | grep ."
    ));
}

/// A power cut between the import and the first start of the agent, with the API server away all the time.
#[test]
fn what_was_imported_comes_back_after_a_power_cut_under_manifests_of_ours() {
    if !full() {
        return;
    }
    let Some(mut stage) = left_behind() else { return };
    import(&stage, &[]);
    stage.node.power_cut();
    stage.node.at_boot(MOUNT);
    stage.boot();
    for pod in [ACTIVE, INACTIVE] {
        let (_, name) = pod.split_once('/').unwrap();
        let copy = stage.until_copied(pod);
        assert_eq!(reads(&stage, &copy), format!("{PASSWORD} {name}{SETTING}"));
        // Each of them has one manifest, and it is ours.
        assert_eq!(stage.node.running_of(&copy_of(pod)), [copy]);
    }
    assert_eq!(stage.node.watched().present(), [ACTIVE, INACTIVE].map(file_of).into());
    assert!(!stage.node.path("etc/kubernetes/manifests").join(their_file(ACTIVE)).exists());
    stage.cluster.start_apiserver();
    for pod in [ACTIVE, INACTIVE] {
        stage.until_handed_over(pod);
        let (namespace, name) = pod.split_once('/').unwrap();
        assert_eq!(stage.cluster.admin().get(&one("pods", namespace, name)).status, 200);
    }
    remove_leftovers(&mut stage);
}
