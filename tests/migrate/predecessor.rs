//! What the pod-checkpointer leaves on a node, written from its documented layout:
//!
//! ```text
//! /etc/kubernetes/inactive-manifests/<namespace>-<pod>.json      0644  compact JSON of the sanitised pod
//! /etc/kubernetes/manifests/<namespace>-<pod>.json               the same bytes, while the checkpoint is active
//! /etc/kubernetes/checkpoint-secrets/<namespace>/<pod>/<secret>/<key>          0700 directories, 0600 files
//! /etc/kubernetes/checkpoint-configmaps/<namespace>/<pod>/<configmap>/<key>    likewise
//! ```
//! Sanitised: labels stay, all annotations go but `checkpoint-of`, one owner reference to the parent, no service account,
//! node selector or affinity; volumes of Secrets and ConfigMaps become hostPaths without a type; all else stays.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::common::program::{CONFIGMAPS, KEY, MANIFESTS, Node, PREPARED, Ran, SECRETS, program};

pub(crate) const NODE: &str = "edge-1";
pub(crate) const SYSTEM: &str = "kube-system";

/// A node that a pod-checkpointer has left.
pub(crate) struct Predecessor {
    pub(crate) node: Node,
}

impl Predecessor {
    /// A node with a key, and nothing of the pod-checkpointer yet.
    pub(crate) fn new() -> Self {
        let node = Node::new();
        let mut command = program();
        command.args(["key", "init", "--root"]).arg(node.root());
        Ran::of(command).expect(0);
        assert!(node.at(KEY).exists());
        for directory in [MANIFESTS, PREPARED] {
            fs::create_dir_all(node.at(directory)).unwrap();
        }
        fs::set_permissions(node.at(PREPARED), fs::Permissions::from_mode(0o700)).unwrap();
        Self { node }
    }

    /// The usual: an active API server with a Secret and a ConfigMap, and an inactive scheduler with a Secret.
    pub(crate) fn usual() -> Self {
        Self::new().with_usual()
    }

    /// The same on this node.
    pub(crate) fn with_usual(self) -> Self {
        let left = self;
        left.value("secrets", "kube-apiserver", "kube-apiserver", "apiserver.key", b"the key");
        left.value("secrets", "kube-apiserver", "kube-apiserver", "apiserver.crt", b"the certificate");
        left.value("configmaps", "kube-apiserver", "kube-apiserver-config", "audit.yaml", b"rules: []\n");
        left.active(&apiserver());
        left.inactive(&apiserver());
        left.value("secrets", "kube-scheduler", "kubeconfig-in-cluster", "kubeconfig", b"a kubeconfig");
        left.inactive(&scheduler());
        left
    }

    pub(crate) fn active(&self, copy: &Value) -> PathBuf {
        self.manifest(MANIFESTS, &file_name(copy), copy.to_string().as_bytes())
    }

    pub(crate) fn inactive(&self, copy: &Value) -> PathBuf {
        self.manifest(PREPARED, &file_name(copy), copy.to_string().as_bytes())
    }

    pub(crate) fn manifest(&self, directory: &str, file: &str, bytes: &[u8]) -> PathBuf {
        let path = self.node.at(directory).join(file);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    /// One key of an object of a pod in `kube-system`; `root` is `secrets` or `configmaps`.
    pub(crate) fn value(&self, root: &str, pod: &str, object: &str, key: &str, value: &[u8]) -> PathBuf {
        self.value_in(root, SYSTEM, pod, object, key, value)
    }

    pub(crate) fn value_in(&self, root: &str, ns: &str, pod: &str, object: &str, key: &str, value: &[u8]) -> PathBuf {
        let root = if root == "secrets" { SECRETS } else { CONFIGMAPS };
        let directory = self.object(root, ns, pod, object);
        let path = directory.join(key);
        fs::write(&path, value).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// The directory of an object, made if it is not there.
    pub(crate) fn object(&self, root: &str, namespace: &str, pod: &str, object: &str) -> PathBuf {
        let mut path = self.node.at(root);
        for name in [namespace, pod, object] {
            path.push(name);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        }
        path
    }

    pub(crate) fn import(&self, options: &[&str]) -> Ran {
        let options: Vec<&str> = ["pod-checkpointer"].iter().chain(options).copied().collect();
        // The subcommand's own options follow its name.
        let mut command = program();
        command.arg("import").arg(options[0]).arg("--root").arg(self.node.root()).args(&options[1..]);
        Ran::of(command)
    }

    /// The stored object.
    #[track_caller]
    pub(crate) fn stored(&self, kind: &str, name: &str) -> Value {
        let dump = self.node.dump();
        let found = dump["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("no {kind} {name} in {dump}")).clone()
    }
}

/// Sets when a file was written last.
pub(crate) fn written_before(path: &Path, seconds: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

pub(crate) fn file_name(copy: &Value) -> String {
    let text = |field: &str| copy["metadata"][field].as_str().unwrap().to_owned();
    format!("{}-{}.json", text("namespace"), text("name"))
}

/// A sanitised copy.
pub(crate) fn copy(namespace: &str, name: &str, uid: &str, spec: &Value) -> Value {
    let mut copy = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": name, "namespace": namespace, "creationTimestamp": null,
            "labels": {"k8s-app": name, "tier": "control-plane"},
            "annotations": {"checkpointer.alpha.coreos.com/checkpoint-of": name},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid, "controller": true}],
        },
        "spec": {
            "volumes": [],
            "containers": [{
                "name": name, "image": format!("registry.example/{name}:1"), "resources": {},
                "volumeMounts": [], "imagePullPolicy": "IfNotPresent",
            }],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "nodeName": NODE, "hostNetwork": true, "schedulerName": "default-scheduler",
            "tolerations": [{"key": "node-role.kubernetes.io/master", "operator": "Exists", "effect": "NoSchedule"}],
            "automountServiceAccountToken": false,
        },
        "status": {},
    });
    for (field, value) in spec.as_object().unwrap() {
        copy["spec"][field] = value.clone();
    }
    copy
}

/// A volume of a Secret or ConfigMap as sanitising leaves it.
pub(crate) fn volume(name: &str, root: &str, pod: &str, object: &str) -> Value {
    json!({"name": name, "hostPath": {"path": format!("/etc/kubernetes/checkpoint-{root}/{SYSTEM}/{pod}/{object}")}})
}

pub(crate) fn apiserver() -> Value {
    let volumes = json!([
        volume("secrets", "secrets", "kube-apiserver", "kube-apiserver"),
        volume("config", "configmaps", "kube-apiserver", "kube-apiserver-config"),
        {"name": "var-lock", "hostPath": {"path": "/var/lock", "type": ""}},
    ]);
    copy(SYSTEM, "kube-apiserver", "11111111-0000-4000-8000-000000000001", &json!({"volumes": volumes}))
}

pub(crate) fn scheduler() -> Value {
    let volumes = json!([volume("kubeconfig", "secrets", "kube-scheduler", "kubeconfig-in-cluster")]);
    copy(SYSTEM, "kube-scheduler", "11111111-0000-4000-8000-000000000002", &json!({"volumes": volumes}))
}

/// A copy without any volume.
pub(crate) fn plain(name: &str) -> Value {
    copy(SYSTEM, name, "11111111-0000-4000-8000-000000000003", &json!({}))
}
