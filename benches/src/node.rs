//! Nodes to measure: a root of their own, a source of pods, the program that stores and renders them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::Bench;

pub(crate) const NODE: &str = "edge-1";
const MANIFESTS: &str = "etc/kubernetes/manifests";

/// A node below a directory of its own.
pub(crate) struct Node {
    pub(crate) root: PathBuf,
    /// In memory, where there is such a place; removed with the node.
    pub(crate) secrets: tempfile::TempDir,
    pub(crate) pods: usize,
}

impl Node {
    /// A node whose store holds so many pods, each with a Secret and a ConfigMap; nothing is rendered.
    pub(crate) fn with_pods(bench: &Bench, directory: &Path, pods: usize) -> Self {
        let root = directory.join(format!("node-{pods}"));
        let source = directory.join(format!("source-{pods}"));
        fs::create_dir_all(&source).unwrap();
        for pod in 0..pods {
            let text: String = objects(pod).iter().map(|object| format!("{object}\n")).collect();
            fs::write(source.join(format!("{pod}.json")), text).unwrap();
        }
        let memory = Path::new("/dev/shm");
        let secrets = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let node = Self { root, secrets, pods };
        let mut command = node.command(bench, &["--once", "--generate-node-key", "--manifests"]);
        let ended = command.arg(&source).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        assert_eq!(node.rendered(), pods, "{}", String::from_utf8_lossy(&ended.stdout));
        node
    }

    /// `ckpt-db run` on this node.
    pub(crate) fn command(&self, bench: &Bench, options: &[&str]) -> Command {
        let mut command = Command::new(&bench.program);
        command.args(["run", "--feature-gates=Checkpointing=true", "--root"]).arg(&self.root);
        command.arg("--secret-root").arg(self.secrets.path().join("root")).args(options);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.root.join(MANIFESTS)
    }

    pub(crate) fn configmaps(&self) -> PathBuf {
        self.root.join("etc/kubernetes/checkpoint-configmaps")
    }

    pub(crate) fn secret_root(&self) -> PathBuf {
        self.secrets.path().join("root")
    }

    /// How many manifests are active.
    pub(crate) fn rendered(&self) -> usize {
        fs::read_dir(self.manifests()).map_or(0, Iterator::count)
    }

    /// Takes away everything that was rendered; empty directories for it stay, as on a node.
    ///
    /// What lies on the disk is moved aside, not removed: for minutes an ext4 without a journal looks at each inode that was
    /// removed whenever it makes one, and whoever writes next, floor and program alike, would be measured by what was there
    /// before. Nothing was removed on a node that has just been started.
    pub(crate) fn unrender(&self) {
        let aside = tempfile::tempdir_in(self.root.parent().unwrap()).unwrap().keep();
        for directory in ["etc", "run"] {
            let _ = fs::rename(self.root.join(directory), aside.join(directory));
        }
        let _ = fs::remove_dir_all(self.secret_root());
        for directory in [self.manifests(), self.configmaps(), self.secret_root()] {
            fs::create_dir_all(directory).unwrap();
        }
        // What the removal left to be written must not meet whoever is measured next.
        rustix::fs::syncfs(fs::File::open(&self.root).unwrap()).unwrap();
    }
}

/// A pod with its objects, as the API server shows them.
fn objects(pod: usize) -> [Value; 3] {
    let name = format!("app-{pod}");
    let namespace = format!("team-{}", pod % 10);
    let with_metadata = |kind: &str, mut object: Value| {
        object["apiVersion"] = json!("v1");
        object["kind"] = json!(kind);
        object["metadata"] = json!({
            "name": name, "namespace": namespace, "resourceVersion": "1",
            "uid": format!("6b3f0d3e-{pod:04}-4c1c-9d0c-{}", kind.len()),
        });
        object
    };
    let mut of_pod = with_metadata("Pod", pod_body(&name, &name, 0));
    of_pod["metadata"]["annotations"] = json!({"checkpointer.alpha.coreos.com/checkpoint": "true"});
    [of_pod, with_metadata("Secret", secret()), with_metadata("ConfigMap", configmap())]
}

/// A Secret without its metadata.
pub(crate) fn secret() -> Value {
    let password = BASE64.encode("correct horse ".repeat(40).as_bytes());
    json!({"type": "Opaque", "data": {"password": password, "user": "YXBw"}})
}

/// A ConfigMap without its metadata.
pub(crate) fn configmap() -> Value {
    json!({"data": {"app.conf": "key = value\n".repeat(80), "log.level": "info"}})
}

/// A pod that runs and mounts one Secret and one ConfigMap.
pub(crate) fn pod_body(secret: &str, configmap: &str, round: usize) -> Value {
    json!({
        "spec": {
            "nodeName": NODE,
            "containers": [{
                "name": "app", "image": "registry.example/app:1", "args": ["--listen=:8080", "--config=/config/app.conf"],
                "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "volumeMounts": [
                    {"name": "secret", "mountPath": "/secret", "readOnly": true},
                    {"name": "config", "mountPath": "/config", "readOnly": true},
                ],
            }],
            "volumes": [
                {"name": "secret", "secret": {"secretName": secret}},
                {"name": "config", "configMap": {"name": configmap}},
            ],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
        },
        "status": {
            "phase": "Running", "startTime": "2026-02-28T08:30:07Z", "podIP": format!("10.1.0.{}", round % 250),
            "containerStatuses": [{
                "name": "app", "started": true, "ready": true, "restartCount": round, "image": "a", "imageID": "a",
                "containerID": "containerd://a", "state": {"running": {"startedAt": "2026-02-28T08:30:15Z"}},
            }],
        },
    })
}
