//! The commands of how-tos and tutorial, as they stand there: on a node with a real systemd that has joined a real API server.
//!
//! What a page needs beforehand is done by functions of `prelude.sh`, which comments before its blocks name. Only what runs
//! containers is missing: the kubelet is a stand-in, and nothing tells that no parent runs.

#[path = "../../systemd/machine.rs"]
mod machine;
#[path = "../../documentation/markdown.rs"]
mod markdown;
#[path = "../../documentation/scenes.rs"]
mod scenes;
#[path = "../../documentation/session.rs"]
mod session;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::control_plane::{Cluster, Options, binaries};
use crate::operation::{NODE, cluster_with_a_node, populate, sandbox_environment};
use machine::{Machine, cgroups};
use scenes::{SCENES, Scene};

const PRELUDE: &str = "tests/cluster/documented/prelude.sh";

/// A page that hangs fails.
const PATIENCE_SECONDS: &str = "180";

/// Those of `examples/node`.
const IMAGES: [&str; 5] = [
    "docker.io/library/nginx:1.29.1",
    "docker.io/library/postgres:18.1",
    "docker.io/valkey/valkey:8.1.4",
    "registry.k8s.io/ingress-nginx/controller:v1.13.3",
    "registry.k8s.io/kube-apiserver:v1.34.3",
];

/// systemd's journal with the sockets that services write to, and none that would be seen outside of the machine.
const JOURNAL: [(&str, &str); 3] = [
    (
        "units/systemd-journald.socket",
        "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/systemd/journal/stdout\n\
         ListenDatagram=/run/systemd/journal/socket\nService=systemd-journald.service\n",
    ),
    (
        "units/systemd-journald.service",
        "[Unit]\nDefaultDependencies=no\nRequires=systemd-journald.socket\nAfter=systemd-journald.socket\n[Service]\n\
         Type=notify\nExecStart=/lib/systemd/systemd-journald\nStandardOutput=null\n",
    ),
    ("etc/systemd/journald.conf", "[Journal]\nReadKMsg=no\nAudit=no\nForwardToSyslog=no\n"),
];

/// Whether a systemd can be run here; where not, it is said.
fn runnable() -> bool {
    let containerd = Path::new("/usr/bin/containerd").exists();
    let why = match cgroups() {
        Ok(_) if containerd => return true,
        Ok(_) => "there is no containerd".to_owned(),
        Err(why) => why,
    };
    assert!(std::env::var_os("CKPT_DB_REQUIRE_SYSTEMD").is_none(), "{why}");
    eprintln!("SKIPPED: the commands of the how-tos: {why}");
    false
}

/// A node that has joined the cluster, where nothing of ours is installed yet.
fn machine(cluster: &Cluster) -> Machine {
    let scene = machine::Scene::without_us();
    // It tells that nothing runs.
    assert!(scene.runtime(&IMAGES), "no containerd");
    for (name, contents) in JOURNAL {
        scene.write(name, contents);
    }
    scene.write("units/boot.target", "[Unit]\nWants=systemd-journald.service kubelet.service\nAllowIsolate=yes\n");
    cluster.join(NODE, &scene.path(""), cluster.port());
    for directory in ["etc/kubernetes/manifests", "etc/systemd/system", "etc/default"] {
        fs::create_dir_all(scene.path(directory)).unwrap();
    }
    scene.write(
        "var/lib/kubelet/config.yaml",
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nstaticPodPath: /etc/kubernetes/manifests\n",
    );
    // The machine has a /tmp of its own, in which the control plane's files may lie.
    let from = cluster.admin_kubeconfig();
    let text = fs::read_to_string(&from).unwrap().replace(from.parent().unwrap().to_str().unwrap(), "/var");
    scene.write("var/admin.conf", &text);
    fs::copy(from.with_file_name("admin-client.pem"), scene.path("var/admin-client.pem")).unwrap();
    let checkout = scene.path("var/checkout");
    fs::create_dir(&checkout).unwrap();
    for name in ["LICENSE", "Makefile", "dist", "docs", "examples"] {
        symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join(name), checkout.join(name)).unwrap();
    }
    fs::copy(env!("CARGO_BIN_EXE_ckpt-db"), checkout.join("ckpt-db")).unwrap();
    let machine = scene.boot();
    machine.kubelet();
    machine
}

/// Runs a script, and does to the API server what it asks for by a file of the machine, since that runs outside of it.
fn run(cluster: &Cluster, asked: &Path, told: &Path, session: impl FnOnce() -> Output) -> Output {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let wanted = fs::read_to_string(asked).unwrap_or_default();
                if !wanted.is_empty() && wanted != fs::read_to_string(told).unwrap_or_default() {
                    match wanted.trim() {
                        "down" => cluster.kill_apiserver(),
                        "up" => cluster.start_apiserver(),
                        other => panic!("{other}?"),
                    }
                    fs::write(told, wanted).unwrap();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let down = fs::read_to_string(told).is_ok_and(|state| state.trim() == "down");
            if down {
                cluster.start_apiserver();
            }
        });
        let output = session();
        over.store(true, Ordering::Relaxed);
        output
    })
}

/// The blocks of a page, behind what they may need.
fn script(page: &str, kubeconfig: &Path) -> String {
    let prelude = fs::read_to_string(PRELUDE).unwrap();
    let blocks = markdown::split(&fs::read_to_string(page).unwrap()).0;
    format!(
        "export KUBECONFIG='{}' PATH='{}':\"$PATH\"\n{prelude}\n{}",
        kubeconfig.display(),
        binaries().unwrap().display(),
        session::script(page, &blocks)
    )
}

/// Pages of a scene, all or the one that `CKPT_DB_PAGE` names.
fn pages(scene: Scene) -> impl Iterator<Item = &'static str> {
    let only = std::env::var("CKPT_DB_PAGE").ok();
    let of = SCENES.iter().filter(move |(_, of)| *of == scene).map(|(page, _)| *page);
    of.filter(move |page| only.as_ref().is_none_or(|only| page.contains(only)))
}

#[test]
fn how_tos() {
    if !runnable() {
        return;
    }
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    populate(cluster.admin());
    let mut wrong = Vec::new();
    for page in pages(Scene::Node) {
        let machine = machine(&cluster);
        let script = script(page, Path::new("/var/admin.conf"));
        let [asked, told] = ["var/api-server.asked", "var/api-server.told"].map(|name| machine.scene.path(name));
        let command = ["timeout", PATIENCE_SECONDS, "bash", "-c", &script];
        let output = run(&cluster, &asked, &told, || machine.inside(&command));
        wrong.extend(session::judge(page, &output).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tutorial() {
    let directory = crate::directory("node");
    let Some((cluster, node)) = cluster_with_a_node(directory.path()) else { return };
    for page in pages(Scene::Sandbox) {
        let environment = sandbox_environment(&cluster, &node);
        let script = format!(". {}\n{}", environment.display(), script(page, &cluster.admin_kubeconfig()));
        let [asked, told] = ["api-server.asked", "api-server.told"].map(|name| node.path(name));
        let output = run(&cluster, &asked, &told, || {
            let mut shell = Command::new("timeout");
            shell.args([PATIENCE_SECONDS, "bash", "-c", &script]).current_dir(&node.0).stdin(Stdio::null());
            shell.env_remove("NODE_NAME").output().unwrap()
        });
        session::judge(page, &output).unwrap_or_else(|told| panic!("{told}"));
    }
}
