//! The walk of README's operation section on a node as kubeadm lays it out, and a sandbox to take it by hand.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use ckpt_db::checkpoint::object::Kind;
use ckpt_db::source::manifests::{Input, read};

use crate::api::{Api, collection, one};
use crate::certificates::Validity;
use crate::control_plane::{Cluster, Options, node_user};
use crate::process::Agent;
use crate::program::{IN_STEP, Node, PATIENCE, manifests, said, stop};
use crate::truth;
use crate::until;

/// The node of `examples/node`.
pub(crate) const NODE: &str = "edge-1";

/// What of `examples/node` each API server since 1.20 takes as it is.
const EXAMPLES: [&str; 7] = [
    "control-plane.yaml",
    "daemonset.yaml",
    "deployment.yaml",
    "job.yaml",
    "node.yaml",
    "pvc.yaml",
    "statefulset.yaml",
];

/// Creates the examples, and tells what a kubelet would tell of them.
pub(crate) fn populate(admin: &Api) {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/node");
    let mut objects: Vec<(Kind, Value)> = Vec::new();
    for file in EXAMPLES {
        let loaded = read(&Input::Path(examples.join(file)), &mut std::io::empty()).unwrap();
        assert!(loaded.problems.is_empty(), "{file}: {:?}", loaded.problems);
        let parsed =
            |object: &ckpt_db::checkpoint::object::Object| serde_json::from_slice(object.body.expose()).unwrap();
        objects.extend(loaded.objects.iter().map(|object| (object.key.kind(), parsed(object))));
    }
    // What pods name first.
    objects.sort_by_key(|(kind, _)| *kind == Kind::Pod);
    for (kind, mut object) in objects {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        if !namespace.is_empty() && admin.get(&format!("/api/v1/namespaces/{namespace}")).status == 404 {
            admin.create("/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).ok();
        }
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.retain(|field, _| !["uid", "resourceVersion", "creationTimestamp"].contains(&field.as_str()));
        let plural = kind.row().plural;
        let (all, path) = if namespace.is_empty() {
            (format!("/api/v1/{plural}"), format!("/api/v1/{plural}/{name}"))
        } else {
            (collection(plural, &namespace), one(plural, &namespace, &name))
        };
        admin.create(&all, &object).ok();
        if !object["status"].is_null() {
            admin.patch(&format!("{path}/status"), &json!({"status": object["status"]})).ok();
        }
    }
}

/// A cluster with the examples, and a node below `root` that has joined it.
pub(crate) fn cluster_with_a_node(root: &Path) -> Option<(Cluster, Node)> {
    let cluster = Cluster::start(Options::default())?;
    populate(cluster.admin());
    cluster.join(NODE, root, cluster.port());
    fs::create_dir_all(root.join("etc/kubernetes/manifests")).unwrap();
    Some((cluster, Node(root.to_owned())))
}

const RENDERED: [&str; 4] = ["manifests", "inactive-manifests", "checkpoint-secrets", "checkpoint-configmaps"];

/// Every rendered file with its contents.
fn rendered(node: &Node) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(at: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        let Ok(entries) = fs::read_dir(at) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    for directory in RENDERED {
        walk(&node.path("etc/kubernetes").join(directory), &mut found);
    }
    found
}

/// `rm -r` of everything that was rendered.
fn forget(node: &Node) {
    for directory in RENDERED {
        // Not each of them is made by each policy.
        let _ = fs::remove_dir_all(node.path("etc/kubernetes").join(directory));
    }
}

fn commits(agent: &Agent) -> usize {
    agent.log().matches(" committed revision=").count()
}

#[test]
fn a_kubeadm_node_from_installation_to_a_power_cut() {
    let directory = crate::directory("node");
    let Some((cluster, node)) = cluster_with_a_node(directory.path()) else { return };
    let admin = cluster.admin();

    // In shadow mode: it stores, and renders nothing.
    let mut agent = node.agent(&[]);
    agent.start();
    said(&agent, IN_STEP, 1, PATIENCE);
    let log = agent.log();
    let told = format!("following https://127.0.0.1:{} for node {NODE} as ", cluster.port());
    assert!(log.contains(&told) && log.contains(", certificate valid until 20"), "{log}");
    assert!(!log.contains("warning:") && !log.contains("error:"), "{log}");
    assert_eq!(rendered(&node), BTreeMap::new());

    // While it runs, it lets others see what it has. Exit code 1: a pod with a claim would not come back.
    let (exit, while_it_runs, errors) = node.tell("plan", &[]);
    assert_eq!((exit, errors.as_str()), (1, ""), "{while_it_runs}");

    stop(&mut agent);
    let wanted = truth::read(admin, NODE);
    assert_eq!(truth::compare(&wanted, &node.dump()), Vec::<String>::new());
    let (exit, plan, errors) = node.tell("plan", &[]);
    assert_eq!((exit, errors.as_str()), (1, ""), "{plan}");
    assert_eq!(plan, while_it_runs);
    for pod in wanted.values().filter(|object| object["kind"] == "Pod") {
        assert!(plan.contains(pod["metadata"]["name"].as_str().unwrap()), "{plan}");
    }

    // The kubelet rotates its certificate: nothing is lost, and nothing listed again.
    agent.start();
    said(&agent, IN_STEP, 2, PATIENCE);
    let log = || cluster.audit().of(&node_user(NODE));
    let watches = |after: usize| {
        let log = log().after(after);
        log.requests.iter().filter(|request| request.verb == "watch" && request.stage == "RequestReceived").count()
    };
    let objects = wanted.values().filter(|object| object["kind"] != "Pod" && object["immutable"] != true).count();
    until("the watches to stand", PATIENCE, || match watches(0) {
        // Besides the objects, the pods and the node.
        found if found == objects + 2 => Ok(()),
        found => Err(format!("{found} of {}", objects + 2)),
    });
    let before = log().requests.len();
    cluster.rotate(NODE, &node.path("var/lib/kubelet"), Validity::usual());
    said(&agent, "following https://", 3, PATIENCE);
    until("the watches to stand again", PATIENCE, || match watches(before) {
        found if found == objects + 2 => Ok(()),
        found => Err(format!("{found} of {}", objects + 2)),
    });
    let asked: Vec<(String, String)> =
        log().after(before).counts().into_keys().filter(|(verb, _)| verb != "watch").collect();
    assert_eq!(asked, []);
    let so_far = commits(&agent);
    let path = one("configmaps", "shop", "storefront-site");
    admin.patch(&path, &json!({"data": {"after-the-rotation": "yes"}})).ok();
    said(&agent, " committed revision=", so_far + 1, PATIENCE);

    // The control plane dies; then the power goes, and with it everything that was rendered. The store opens with the key
    // that the kubelet had before, and pods come back from it alone.
    let wanted = truth::read(admin, NODE);
    cluster.kill_apiserver();
    said(&agent, "warning: API server: silent", 1, PATIENCE);
    agent.kill();
    let (exit, out, errors) = node.tell("run", &["--once"]);
    assert_eq!((exit, out.lines().last().unwrap().starts_with("ready: ")), (0, true), "{out}{errors}");
    let first = rendered(&node);
    let back = [
        "ingress-nginx_ingress-nginx-controller-5hjlb.json",
        "kube-system_kube-apiserver-m4xzt.json",
        "shop_storefront-7d9c8b6f5d-q8xkz.json",
    ];
    assert_eq!(manifests(&node.0), back);
    assert!(first.values().any(|contents| contents == b"yes"), "the last change is there");
    forget(&node);
    assert_eq!(node.tell("run", &["--once"]).0, 0);
    assert_eq!(rendered(&node), first);
    assert_eq!(truth::compare(&wanted, &node.dump()), Vec::<String>::new());
}

/// Writes what a shell has to read before it is used as `docs/tutorial.md` does.
pub(crate) fn sandbox_environment(cluster: &Cluster, node: &Node) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_ckpt-db")).parent().unwrap();
    let kubernetes = crate::control_plane::binaries().unwrap();
    let path = node.path("environment");
    let text = format!(
        "export PATH='{}':'{}':\"$PATH\"\nexport KUBECONFIG='{}'\nexport CKPT_DB_ROOT='{}'\nexport APISERVER={}\nexport AUDIT='{}'\n",
        program.display(),
        kubernetes.display(),
        cluster.admin_kubeconfig().display(),
        node.0.display(),
        cluster.apiserver_pid(),
        cluster.audit_file().display(),
    );
    fs::write(&path, text).unwrap();
    path
}

/// Not a test: a cluster and a node to play with, until it is interrupted.
#[test]
#[ignore = "stays until it is interrupted; see docs/tutorial.md"]
fn sandbox() {
    let directory = crate::directory("node");
    let Some((cluster, node)) = cluster_with_a_node(directory.path()) else { return };
    let environment = sandbox_environment(&cluster, &node);
    eprintln!(
        "
A control plane ({version}) and node {NODE}, which lies below {root} as kubeadm lays it out. In another shell:

  . {environment}

and go on in docs/tutorial.md. That gives it ckpt-db and kubectl with the administrator's kubeconfig, and these variables:

  $CKPT_DB_ROOT   the root of the node's file system
  $APISERVER      the API server's process: kill -STOP $APISERVER makes it hang, kill -CONT $APISERVER go on
  $AUDIT          what it was asked for, a line a request: tail -f $AUDIT

Ctrl-C here ends and removes all of it.",
        version = cluster.version(),
        root = node.0.display(),
        environment = environment.display(),
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(tokio::signal::ctrl_c()).unwrap();
}
