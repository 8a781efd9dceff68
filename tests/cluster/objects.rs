//! Objects of unusual kinds and sizes, and an API server that hangs: with the real one.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::{Api, collection, one};
use crate::control_plane::{Cluster, Options, node_user};
use crate::process::Agent;
use crate::program::{IN_STEP, Node, PATIENCE, missed, said, stop};
use crate::truth;
use crate::until;

const NODE: &str = "edge-1";

/// Longer than an event takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn pod(name: &str, secrets: &[&str], configmaps: &[&str]) -> Value {
    let volumes = secrets.iter().map(|name| json!({"name": format!("s-{name}"), "secret": {"secretName": name}}));
    let others = configmaps.iter().map(|name| json!({"name": format!("c-{name}"), "configMap": {"name": name}}));
    let volumes: Vec<Value> = volumes.chain(others).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}], "volumes": volumes},
    })
}

fn secret(name: &str, value: &str, immutable: bool) -> Value {
    json!({"metadata": {"name": name}, "stringData": {"a": value}, "immutable": immutable})
}

fn node(admin: &Api) {
    admin.create("/api/v1/nodes", &json!({"metadata": {"name": NODE}})).ok();
}

/// Waits until so many commits have stored something, which tells that a change is durable.
fn stored(agent: &Agent, count: usize) {
    said(agent, " committed revision=", count, SOON);
}

fn commits(agent: &Agent) -> usize {
    agent.log().matches(" committed revision=").count()
}

/// The store holds exactly what the API server has; the agent has been stopped.
#[track_caller]
fn equal(cluster: &Cluster, node: &Node) {
    assert_eq!(truth::compare(&truth::read(cluster.admin(), NODE), &node.dump()), Vec::<String>::new());
}

#[test]
fn immutable_objects_are_read_once_and_not_watched() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let (admin, directory) = (cluster.admin(), crate::directory("node"));
    let place = Node(directory.path().to_owned());
    cluster.join(NODE, directory.path(), cluster.port());
    node(admin);
    let secrets = collection("secrets", "default");
    for (name, immutable) in [("fixed", true), ("later", false), ("free", false)] {
        admin.create(&secrets, &secret(name, "1", immutable)).ok();
    }
    admin.create(&collection("pods", "default"), &pod("web", &["fixed", "later", "free"], &[])).ok();
    // `verb name` of each request for a Secret since the `after`th, sorted.
    let asked = |after: usize| {
        let log = cluster.audit().of(&node_user(NODE));
        let of = log.requests.iter().skip(after).filter(|request| request.resource == "secrets");
        let mut all: Vec<String> =
            of.map(|request| format!("{} {}", request.verb, request.selectors().join(","))).collect();
        all.sort();
        all
    };
    let requests = || cluster.audit().of(&node_user(NODE)).requests.len();
    let asks = |what: &str, after: usize, want: &[&str]| {
        let want: Vec<String> = want.iter().map(|line| line.replacen(' ', " metadata.name=", 1)).collect();
        until(what, SOON, || {
            let found = asked(after);
            if found == want { Ok(()) } else { Err(format!("{found:?}")) }
        });
    };

    let mut agent = place.agent(&[]);
    agent.start();
    said(&agent, IN_STEP, 1, PATIENCE);
    asks("the start", 0, &["list fixed", "list free", "list later", "watch free", "watch later"]);

    // From its last change on nobody looks at it any more.
    let (before, so_far) = (requests(), commits(&agent));
    admin.replace(&one("secrets", "default", "later"), &secret("later", "2", true)).ok();
    stored(&agent, so_far + 1);
    until("the end of the watch", SOON, || {
        let log = cluster.audit().of(&node_user(NODE));
        let mut of_later = log.requests.iter().filter(|request| {
            request.verb == "watch" && request.selectors().contains(&"metadata.name=later".to_owned())
        });
        let ended = of_later.all(|request| request.stage == "ResponseComplete");
        if ended { Ok(()) } else { Err("it stands".to_owned()) }
    });
    assert_eq!(asked(before), Vec::<String>::new());

    // A new API server may be of another past: each object is read once more.
    cluster.kill_apiserver();
    missed(&agent);
    cluster.start_apiserver();
    let listed = |line: &String| line.starts_with("list ");
    until("another reading", PATIENCE, || {
        let found = asked(before);
        let all = ["list fixed", "list free", "list later", "watch free"];
        let all: Vec<String> = all.iter().map(|line| line.replacen(' ', " metadata.name=", 1)).collect();
        // Rights come a moment after the restart, so that a request may have been repeated.
        let mut once = found.clone();
        once.dedup();
        once.retain(|line| listed(line) || line.starts_with("watch "));
        if once == all { Ok(()) } else { Err(format!("{found:?}")) }
    });
    stop(&mut agent);
    equal(&cluster, &place);
}

#[test]
fn objects_as_large_as_etcd_takes() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let (admin, directory) = (cluster.admin(), crate::directory("node"));
    let place = Node(directory.path().to_owned());
    cluster.join(NODE, directory.path(), cluster.port());
    node(admin);
    const MIB: usize = 1024 * 1024;
    // The API server takes 1 MiB of values and 256 KiB of annotations; in JSON either may be longer.
    let annotations = json!({"example.com/large": "é\"\n".repeat(60_000)});
    let bytes = |seed: u8| data_encoding::BASE64.encode(&vec![seed; MIB - 100]);
    let large_secret =
        |seed: u8| json!({"metadata": {"name": "large", "annotations": annotations}, "data": {"a": bytes(seed)}});
    // Six characters each in the JSON of the API server.
    let large_configmap = |text: &str| json!({"metadata": {"name": "large", "annotations": annotations}, "data": {"a": text.repeat(MIB - 100)}});
    let mut large_pod = pod("large", &["large"], &["large"]);
    large_pod["metadata"]["annotations"] = annotations.clone();
    large_pod["spec"]["containers"][0]["env"] = json!([{"name": "LARGE", "value": "x".repeat(MIB)}]);
    admin.create(&collection("secrets", "default"), &large_secret(1)).ok();
    admin.create(&collection("configmaps", "default"), &large_configmap("<")).ok();
    let created = admin.create(&collection("pods", "default"), &large_pod).ok();
    assert!(created.to_string().len() > MIB + MIB / 4);

    // As lists. The agent is stopped at the first one, which comes out of the API server's cache.
    until("the pod to be in the cache", SOON, || {
        let listed = admin.get(&format!("{}?resourceVersion=0", collection("pods", "default"))).ok();
        let count = listed["items"].as_array().map_or(0, Vec::len);
        if count == 1 { Ok(()) } else { Err(format!("{count} are")) }
    });
    let mut agent = place.agent(&[]);
    agent.start();
    said(&agent, IN_STEP, 1, PATIENCE);
    stop(&mut agent);
    equal(&cluster, &place);

    // As events.
    agent.start();
    said(&agent, IN_STEP, 2, PATIENCE);
    until("both to be watched", SOON, || {
        let log = cluster.audit().of(&node_user(NODE));
        let watches =
            log.requests.iter().filter(|request| request.verb == "watch" && request.stage == "RequestReceived");
        let count = watches.filter(|request| ["secrets", "configmaps"].contains(&request.resource.as_str())).count();
        if count == 2 { Ok(()) } else { Err(format!("{count} are")) }
    });
    let mut so_far = commits(&agent);
    let mut change = |path: &str, body: &Value| {
        admin.replace(path, body).ok();
        so_far += 1;
        stored(&agent, so_far);
    };
    change(&one("secrets", "default", "large"), &large_secret(2));
    change(&one("configmaps", "default", "large"), &large_configmap("&"));
    let path = one("pods", "default", "large");
    let mut newer = admin.get(&path).ok();
    newer["metadata"]["annotations"]["example.com/large"] = "\u{1}".repeat(250_000).into();
    change(&path, &newer);
    stop(&mut agent);
    equal(&cluster, &place);
    assert!(!agent.log().contains("error:"), "{}", agent.log());
}

#[test]
fn an_api_server_that_hangs_is_noticed() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let (admin, directory) = (cluster.admin(), crate::directory("node"));
    let place = Node(directory.path().to_owned());
    cluster.join(NODE, directory.path(), cluster.port());
    node(admin);
    admin.create(&collection("secrets", "default"), &secret("named", "1", false)).ok();
    admin.create(&collection("pods", "default"), &pod("web", &["named"], &[])).ok();
    let mut agent = place.agent(&[]);
    agent.start();
    said(&agent, IN_STEP, 1, PATIENCE);

    // Its connections stay open, and the kernel goes on acknowledging what comes.
    cluster.freeze_apiserver();
    let began = Instant::now();
    said(&agent, "warning: API server: silent", 1, PATIENCE);
    let noticed = began.elapsed();
    eprintln!("noticed after {:.1} s", noticed.as_secs_f64());
    assert!(noticed <= Duration::from_secs(30), "{noticed:?}");

    // Long enough that an attempt to connect anew fails too.
    let attempts = Instant::now() + Duration::from_secs(12);
    while Instant::now() < attempts {
        assert_eq!(agent.log().matches("API server: answering").count(), 1, "{}", agent.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    let so_far = commits(&agent);
    cluster.thaw_apiserver();
    said(&agent, "API server: answering", 2, PATIENCE);
    said(&agent, IN_STEP, 2, PATIENCE);
    cluster.wait_ready();
    admin.replace(&one("secrets", "default", "named"), &secret("named", "2", false)).ok();
    stored(&agent, so_far + 1);
    stop(&mut agent);
    equal(&cluster, &place);
    assert!(!agent.log().contains("refusing"), "it hung, and refused nothing: {}", agent.log());
}
