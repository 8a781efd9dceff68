//! That the pieces for the campaigns fit: the workload runs over kills and a restore, and truth is what it made.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use ckpt_db::checkpoint::closure::references;
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};

use crate::api::{Api, one};
use crate::control_plane::{Cluster, Options, node_user};
use crate::process::Process;
use crate::truth::{self, Objects};
use crate::workload::Workload;
use crate::{full, until};

const NODE: &str = "edge-1";

#[test]
fn a_workload_runs_over_kills_and_a_restore() {
    if !full() {
        return;
    }
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let admin = cluster.admin();
    let mut workload = Workload::new(7, NODE, 20);
    workload.prepare(admin);
    for _ in 0..150 {
        workload.step(admin);
    }
    check(&cluster, &workload);
    let (snapshot, earlier) = (cluster.snapshot_etcd(), workload.clone());
    let before = truth::read(admin, NODE);

    for n in 0..150 {
        if n % 60 == 30 {
            // In the middle of a step as often as not: it is carried out by another thread.
            std::thread::scope(|scope| {
                let step = scope.spawn(|| workload.step(admin));
                cluster.kill_apiserver();
                cluster.launch_apiserver();
                step.join().unwrap();
            });
        } else {
            workload.step(admin);
        }
    }
    check(&cluster, &workload);
    let after = truth::read(admin, NODE);
    assert!(!truth::compare(&before, &as_dump(&after)).is_empty());

    cluster.restore_etcd(&snapshot);
    assert_eq!(truth::compare(&before, &as_dump(&truth::read(admin, NODE))), Vec::<String>::new());
    let mut workload = earlier;
    for _ in 0..100 {
        workload.step(admin);
    }
    check(&cluster, &workload);
}

/// The API server has what the workload made, and the node may read all of it.
fn check(cluster: &Cluster, workload: &Workload) {
    let truth = truth::read(cluster.admin(), NODE);
    let pods: Vec<&Value> = truth.values().filter(|object| object["kind"] == "Pod").collect();
    assert_eq!(pods.len(), workload.pods());
    let mut named = BTreeSet::new();
    for pod in &pods {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap();
        let ours = truth::named(pod);
        assert_eq!(ours, of_the_program(pod), "{}", pod["metadata"]["name"]);
        named.extend(ours.into_iter().map(|(plural, name)| (plural, namespace.to_owned(), name)));
    }
    assert_eq!(named, workload.named());
    assert!(named.len() > 20, "only {} objects are named", named.len());

    let directory = tempfile::tempdir().unwrap();
    let node = Api::new(&cluster.kubeconfig(NODE, directory.path()));
    let mut existing = 0;
    for (plural, namespace, name) in &named {
        let path = one(plural, namespace, name);
        let kind = if *plural == "secrets" { "Secret" } else { "ConfigMap" };
        let key = format!("{kind} {namespace}/{name}");
        let want = if truth.contains_key(&key) { 200 } else { 404 };
        existing += usize::from(want == 200);
        until(&path, Duration::from_secs(10), || match node.get(&path).status {
            status if status == want => Ok(()),
            status => Err(format!("{status}, not {want}")),
        });
    }
    assert_eq!(truth.len(), pods.len() + existing);
    assert!(existing < named.len(), "some objects are named before they exist");
    assert_eq!(cluster.audit().of(&node_user(NODE)).bad_manners(NODE), Vec::<String>::new());
}

/// What the program under test finds named.
fn of_the_program(pod: &Value) -> BTreeSet<(&'static str, String)> {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap();
    let key = ObjectKey::new(Kind::Pod, text("namespace"), text("name")).unwrap();
    let body = pod.to_string().into();
    let object = Object { key, uid: String::new(), resource_version: String::new(), body };
    let all = references(&object).unwrap();
    all.into_iter().map(|reference| (reference.key.kind().row().plural, reference.key.name().to_owned())).collect()
}

/// The form that `ckpt-db dump -o json --reveal` prints.
fn as_dump(objects: &Objects) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": objects.values().collect::<Vec<_>>()})
}

#[test]
fn a_population_of_a_given_size() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let mut workload = Workload::new(1, NODE, 0);
    workload.prepare(cluster.admin());
    workload.populate(cluster.admin(), 11, 20);
    assert_eq!((workload.pods(), workload.named().len()), (11, 20));
    assert_eq!(truth::read(cluster.admin(), NODE).len(), 31);
}

#[test]
fn a_process_can_be_killed_and_started_again() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut command = Command::new("sh");
    command.args(["-c", "echo $WORD >&2; exec sleep 600"]).env("WORD", "here");
    let mut process = Process::started(command, &log);
    let first = process.pid();
    until("the log", Duration::from_secs(10), || {
        (process.log() == "here\n").then_some(()).ok_or_else(|| process.log())
    });
    assert!(process.exited().is_none());
    process.kill();
    assert!(rustix::process::test_kill_process(first).is_err(), "it is gone, and waited for");
    process.start();
    assert_ne!(process.pid(), first);
    until("the log", Duration::from_secs(10), || {
        (process.log() == "here\nhere\n").then_some(()).ok_or_else(|| process.log())
    });
}

/// The kernel's signal at the parent's death is one at the death of the thread that spawned.
#[test]
fn a_process_outlives_the_thread_that_started_it() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let starter = std::thread::spawn(move || {
        let mut command = Command::new("sh");
        command.args(["-c", "echo here; exec sleep 600"]);
        let process = Process::started(command, &log);
        until("the log", Duration::from_secs(10), || {
            (process.log() == "here\n").then_some(()).ok_or_else(|| process.log())
        });
        process
    });
    let mut process = starter.join().unwrap();
    for _ in 0..20 {
        assert_eq!(process.exited(), None);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn established_connections_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut command = Command::new("bash");
    command.args(["-c", &format!("exec 3<>/dev/tcp/127.0.0.1/{port} 4<>/dev/tcp/127.0.0.1/{port}; exec sleep 600")]);
    let process = Process::started(command, &directory.path().join("log"));
    // Of another process, to the same port.
    let _other = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    until("two connections", Duration::from_secs(10), || match process.connections(port) {
        2 => Ok(()),
        other => Err(format!("{other}: {}", process.log())),
    });
}
