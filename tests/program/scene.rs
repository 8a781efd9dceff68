//! A node and its API server: credentials where a kubelet keeps them, and objects of the usual kinds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ckpt_db::checkpoint::object::Kind;
use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::common::program::Node;
use crate::fake::{Match, Options, Request, Server};

pub(crate) const KUBELET_CONF: &str = "etc/kubernetes/kubelet.conf";
/// Below it, the kubelet has its certificates.
pub(crate) const KUBELET: &str = "var/lib/kubelet";
pub(crate) const PEM: &str = "var/lib/kubelet/pki/kubelet-client-current.pem";

/// Shadow mode: how a fleet starts.
pub(crate) const OFF: [&str; 2] = ["--activation-policy", "off"];

/// What is said of the kubelet's credentials.
pub(crate) const FOLLOWING: &str = "following https://SERVER for node node-1 as O=system:nodes,CN=system:node:node-1 (client \
                                    certificate), certificate valid until DATE";

pub(crate) struct Scene {
    pub(crate) node: Node,
    pub(crate) server: Server,
}

impl Scene {
    /// A node that kubeadm has joined, and a server that knows it and has no pods for it.
    pub(crate) fn new() -> Self {
        let scene = Self::joining();
        scene.write_kubeconfig(KUBELET_CONF);
        scene
    }

    /// The same, with nothing on the node yet.
    pub(crate) fn joining() -> Self {
        let server = Server::start(Options::default());
        server.create(Kind::Node, "", "node-1", json!({"spec": {}, "status": {}}));
        server.create(Kind::Service, "default", "kubernetes", json!({"spec": {"clusterIP": "10.96.0.1"}}));
        Self { node: Node::new(), server }
    }

    /// The kubelet's certificate, and the kubeconfig that names it, as on a real node: by paths that begin at its root.
    pub(crate) fn write_kubeconfig(&self, at: &str) -> PathBuf {
        self.server.swap_current_pem(&self.node.at(KUBELET));
        self.write(at, &self.kubeconfig_text())
    }

    pub(crate) fn kubeconfig_text(&self) -> String {
        let elsewhere = tempfile::tempdir().unwrap();
        let path = self.server.kubeconfig(elsewhere.path());
        let pem = elsewhere.path().join("pki/kubelet-client-current.pem");
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(pem.to_str().unwrap()), "{text}");
        text.replace(pem.to_str().unwrap(), &format!("/{PEM}"))
    }

    /// Writes a file of the node.
    pub(crate) fn write(&self, at: &str, text: &str) -> PathBuf {
        let path = self.node.at(at);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// `run` with these options.
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(&self, options: &[S]) -> Command {
        self.node.command("run", options)
    }

    pub(crate) fn start<S: AsRef<std::ffi::OsStr>>(&self, options: &[S]) -> Agent {
        self.start_command(self.command(options))
    }

    pub(crate) fn start_command(&self, mut command: Command) -> Agent {
        command.env_remove("KUBERNETES_SERVICE_HOST").env_remove("KUBERNETES_SERVICE_PORT");
        command.env("RUST_LOG", "ckpt_db=info");
        self.watch(command)
    }

    /// Starts a command whose environment is left as it is.
    pub(crate) fn watch(&self, command: Command) -> Agent {
        let names = vec![(shown(&self.node.root()), "ROOT"), (self.server.address().to_string(), "SERVER")];
        Agent::start(command, names)
    }

    /// Waits for a request, in the past or to come.
    pub(crate) fn request(&self, on: Match) -> Request {
        self.requests(on, 1).remove(0)
    }

    pub(crate) fn requests(&self, on: Match, count: usize) -> Vec<Request> {
        wait(self.server.wait_for_requests(on, count))
    }

    /// The store, read by the program with no agent running, is what the server has: every object, every field.
    #[track_caller]
    pub(crate) fn assert_store_is_the_servers(&self) {
        let key = |object: &Value| {
            let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
            let metadata = &object["metadata"];
            (text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
        };
        let dump = self.node.dump();
        let found: BTreeMap<_, _> =
            dump["items"].as_array().unwrap().iter().map(|object| (key(object), object.clone())).collect();
        let all = Kind::ALL.into_iter().flat_map(|kind| self.server.objects(kind)).map(without_managed_fields);
        // Those are looked at once an hour, and may not have been yet.
        let rarely = |(kind, ..): &(String, String, String)| ["Service", "Node"].contains(&kind.as_str());
        let want: BTreeMap<_, _> = all.map(|object| (key(&object), object)).collect();
        let names: Vec<_> = want.keys().filter(|key| !rarely(key)).collect();
        assert_eq!(found.keys().filter(|key| !rarely(key)).collect::<Vec<_>>(), names);
        for (key, object) in &found {
            assert_eq!(object, &want[key], "{key:?}");
        }
    }

    /// A pod of this node, with a Secret and a ConfigMap of its own.
    pub(crate) fn pod(&self, namespace: &str, name: &str) {
        self.server.create(Kind::Secret, namespace, name, secret(&format!("secret of {name}")));
        self.server.create(Kind::ConfigMap, namespace, name, json!({"data": {"config": format!("config of {name}")}}));
        self.server.create(Kind::Pod, namespace, name, pod(&[name], &[name]));
    }

    /// Deletes it, and what belongs to it.
    pub(crate) fn delete_pod(&self, namespace: &str, name: &str) {
        for kind in [Kind::Pod, Kind::Secret, Kind::ConfigMap] {
            self.server.delete(kind, namespace, name);
        }
    }
}

/// An object as both sides shall have it.
fn without_managed_fields(mut object: Value) -> Value {
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    object
}

/// Something that the server does on its own threads.
pub(crate) fn wait<T>(done: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(done)
}

pub(crate) fn shown(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

pub(crate) fn secret(value: &str) -> Value {
    json!({"type": "Opaque", "data": {"password": BASE64.encode(value.as_bytes())}})
}

/// A pod of `node-1` that runs, with these Secrets and ConfigMaps.
pub(crate) fn pod(secrets: &[&str], configmaps: &[&str]) -> Value {
    let volumes: Vec<Value> = secrets
        .iter()
        .map(|name| json!({"name": format!("s-{name}"), "secret": {"secretName": name}}))
        .chain(configmaps.iter().map(|name| json!({"name": format!("c-{name}"), "configMap": {"name": name}})))
        .collect();
    json!({
        "spec": {
            "nodeName": "node-1",
            "containers": [{"name": "c", "image": "registry.example/app:1"}],
            "volumes": volumes,
            "restartPolicy": "Always",
        },
        "status": {
            "phase": "Running", "startTime": "2026-02-28T08:30:07Z",
            "containerStatuses": [{
                "name": "c", "started": true, "ready": true, "restartCount": 0, "image": "a", "imageID": "a",
                "containerID": "containerd://a", "state": {"running": {"startedAt": "2026-02-28T08:30:15Z"}},
            }],
        },
    })
}
