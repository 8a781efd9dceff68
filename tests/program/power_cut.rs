//! After a power cut, with the API server dead and no container runtime yet: what must run at once does not wait for anybody.

use std::fs::{self, File};
use std::time::{Duration, Instant, SystemTime};

use ckpt_db::checkpoint::object::Kind;
use rustix::process::Signal;
use serde_json::json;

use crate::common::program::{MANIFESTS, PREPARED, manifests};
use crate::scene::Scene;

/// Far less than any period for which copies wait (30 s), and far more than a start takes.
const AT_ONCE: Duration = Duration::from_secs(20);

const SOCKET: &str = "var/lib/kubelet/device-plugins/kubelet.sock";

/// The kernel's second process, as the first PID namespace shows it: all processes of the host can be seen, and no kubelet is
/// among them.
const KTHREADD: &str = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 3 0 0";

/// The agent is before the kubelet in the order of units, so that there is none, and nothing of it is younger than this boot.
#[test]
fn annotated_pods_are_there_before_the_kubelet() {
    let scene = Scene::new();
    for name in ["web", "db"] {
        scene.pod("shop", name);
    }
    let annotation = json!({"checkpointer.alpha.coreos.com/checkpoint": "true"});
    scene.server.modify(Kind::Pod, "shop", "db", |pod| pod["metadata"]["annotations"] = annotation);
    scene.write("proc/2/stat", KTHREADD);
    scene.write(SOCKET, "");
    let boot = scene.write("boot", "a\n");
    let options = ["--boot-id-file", boot.to_str().unwrap()];
    let mut agent = scene.start(&options);
    agent.in_step(6);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));

    scene.node.remove_rendered();
    fs::create_dir_all(scene.node.at(MANIFESTS)).unwrap();
    fs::write(&boot, "b\n").unwrap();
    // Later than the socket by more than file systems' clocks are coarse.
    File::options().write(true).open(&boot).unwrap().set_modified(SystemTime::now() + Duration::from_secs(10)).unwrap();
    let Scene { node, server } = scene;
    drop(server);
    let began = Instant::now();
    let agent = crate::agent::Agent::start(node.command("run", &options), Vec::new());
    while manifests(&node.at(MANIFESTS)).is_empty() {
        assert!(began.elapsed() < AT_ONCE, "nothing after {AT_ONCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let said = agent.stop(Signal::TERM);
    assert_eq!(manifests(&node.at(MANIFESTS)).into_keys().collect::<Vec<_>>(), ["shop_db.json"]);
    assert_eq!(manifests(&node.at(PREPARED)).into_keys().collect::<Vec<_>>(), ["shop_web.json"], "it waits");
    let wrong = said.lines.iter().find(|line| line.contains("no copy is started"));
    assert_eq!(wrong, None, "it has started one");
}
