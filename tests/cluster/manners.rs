//! What following costs the API server, and that it is asked for nothing that is not this node's: the program itself at the
//! size of a full node, read off the audit log.
//!
//! `docs/explanation/api-load.md` has the figures of `CKPT_DB_CAMPAIGN=full`, which are printed; the short form looks less
//! long.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::{Api, collection, one};
use crate::audit::{AuditLog, Request};
use crate::control_plane::{Cluster, Options, node_user};
use crate::process::Agent;
use crate::program::{IN_STEP, Node, PATIENCE, missed, removed, said, stop};
use crate::relay::{Relay, Traffic};
use crate::workload::Workload;
use crate::{full, until};

const NODE: &str = "edge-1";
const ROLE: &str = "predecessor";

/// As many pods as a kubelet takes, and the ConfigMaps and Secrets that they name.
const PODS: usize = 110;
const OBJECTS: usize = 200;

/// Of the population, the one that is deleted under the eyes of the agent.
const DELETED: &str = "fixed-0";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Watch,
    Poll,
    Role,
}

/// How long steady state is looked at.
fn window() -> Duration {
    Duration::from_secs(if full() { 120 } else { 8 })
}

#[test]
fn a_full_node_is_followed_with_good_manners() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let mut workload = Workload::new(1, NODE, 0);
    workload.prepare(cluster.admin());
    workload.populate(cluster.admin(), PODS, OBJECTS);
    for plural in ["secrets", "configmaps"] {
        let of_others = json!({"metadata": {"name": "of-others"}});
        cluster.admin().create(&collection(plural, "default"), &of_others).ok();
    }
    let ways = if full() { &[Way::Poll, Way::Role, Way::Watch][..] } else { &[Way::Watch] };
    for way in ways.iter().copied() {
        let directory = crate::directory("node");
        follow(&cluster, directory.path(), way);
    }
}

fn follow(cluster: &Cluster, directory: &Path, way: Way) {
    let relay = Relay::to(cluster.port());
    let node = Node(directory.to_owned());
    let mut agent = match way {
        Way::Watch | Way::Poll => {
            cluster.join(NODE, directory, relay.port());
            node.agent(if way == Way::Poll { &["--object-refresh", "poll"] } else { &[] })
        }
        Way::Role => {
            // A test that is run again finds its Role there.
            let kubeconfig = cluster.role_kubeconfig_over(ROLE, &directory.join("role"), relay.port());
            node.agent(&["--kubeconfig", kubeconfig.to_str().unwrap(), "--node-name", NODE, "--generate-node-key"])
        }
    };
    let looked = Looked { cluster, way, relay, before: cluster.audit().of(&user(way)).requests.len() };

    // At start.
    let start = looked.phase("start", 0);
    agent.start();
    let start = start.until_followed(&agent);
    said(&agent, IN_STEP, 1, PATIENCE);
    let now = looked.log();
    start.tell(now.requests.len());
    let expected = match way {
        Way::Watch => {
            "1 list nodes, 1 list pods, 200 list secrets and configmaps, 3 list services, 1 watch nodes, 1 watch pods, 200 watch secrets and configmaps"
        }
        Way::Poll => {
            "200 get secrets and configmaps, 1 list nodes, 1 list pods, 3 list services, 1 watch nodes, 1 watch pods"
        }
        // One object finds out for all that they can't be listed.
        Way::Role => {
            "200 get secrets and configmaps, 1 list nodes, 1 list pods, 2 list secrets and configmaps, 3 list services, 1 watch nodes, 1 watch pods"
        }
    };
    assert_eq!(shown(&counts(&now)), expected);
    let refused = now.requests.iter().filter(|request| !answered(request)).count();
    assert_eq!(refused, if way == Way::Role { 2 } else { 0 }, "{:?}", now.statuses());
    let falls_back = agent.log().contains("these credentials may not watch ConfigMaps and Secrets");
    assert_eq!(falls_back, way == Way::Role, "{}", agent.log());

    // In steady state.
    if full() && way != Way::Watch {
        // The first reading of all at once is spread by the second.
        until("each object to be read again", PATIENCE, || match looked.log().requests.len() - now.requests.len() {
            OBJECTS.. => Ok(()),
            again => Err(format!("{again} requests")),
        });
    }
    let before = looked.log().requests.len();
    let steady = looked.phase("steady state", before).watched_for(window(), &agent);
    let requests = looked.log().after(before);
    steady.tell(before + requests.requests.len());
    let counts = counts(&requests);
    match way {
        Way::Watch => assert_eq!(shown(&counts), "", "watches last longer than this"),
        // Each one every 45 to 75 s, and so none in the first seconds.
        Way::Poll | Way::Role if full() => {
            assert_eq!(counts.keys().collect::<Vec<_>>(), ["get secrets and configmaps"]);
            assert!((320..520).contains(&requests.requests.len()), "{counts:?}");
        }
        Way::Poll | Way::Role => assert_eq!(shown(&counts), "", "a minute has not passed"),
    }

    // At a reconnection. Meanwhile an object is deleted that a pod names.
    let removals = removed(&agent);
    let object = deleted(cluster.admin());
    let before = looked.log().requests.len();
    cluster.kill_apiserver();
    missed(&agent);
    let again = looked.phase("reconnection", before);
    cluster.start_apiserver();
    let again = again.until_followed(&agent);
    said(&agent, IN_STEP, 2, PATIENCE);
    again.tell(looked.log().requests.len());
    let requests = looked.log().after(before);
    let asked: Vec<(String, u16)> = requests
        .requests
        .iter()
        .filter(|request| object_of(request).is_some_and(|(_, name)| name == DELETED))
        .map(|request| (request.verb.clone(), request.status))
        .collect();
    if way == Way::Watch {
        until("the deleted object to leave the store", PATIENCE, || match removed(&agent) - removals {
            0 => Err(agent.log()),
            _ => Ok(()),
        });
        gone(&looked, &mut agent);
        stop(&mut agent);
        let left: Vec<String> =
            kinds(&node.dump()).into_iter().filter(|kind| !["Node", "Service"].contains(&kind.as_str())).collect();
        assert_eq!(left, Vec::<String>::new(), "everything has left the store");
    } else {
        stop(&mut agent);
        let stored = kinds(&node.dump()).iter().filter(|kind| ["ConfigMap", "Secret"].contains(&kind.as_str())).count();
        // That a GET does not find it proves nothing: a listing has to, and where that is forbidden, it stays.
        let found = asked.iter().position(|asked| *asked == ("get".to_owned(), 404)).expect("it was read");
        let (listed, left) = if way == Way::Poll { (200, OBJECTS - 1) } else { (403, OBJECTS) };
        assert!(asked[found..].contains(&("list".to_owned(), listed)), "{asked:?}");
        assert_eq!(stored, left);
    }
    restored(cluster.admin(), object);

    let log = looked.log();
    assert_eq!(log.bad_manners(NODE), Vec::<String>::new());
    let of_pods = log.requests.iter().filter(|request| request.resource == "pods");
    assert_eq!(of_pods.filter(|request| request.verb == "get").count(), 0, "a GET of a pod proves nothing");
}

/// Deletes all pods; each has to leave the store on its own proof.
fn gone(looked: &Looked<'_>, agent: &mut Agent) {
    let admin = looked.cluster.admin();
    let before = looked.log().requests.len();
    let phase = looked.phase("all pods deleted", before);
    let (so_far, mut pods) = (removed(agent), BTreeSet::new());
    for pod in admin.get("/api/v1/pods").items() {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap().to_owned();
        pods.insert((text("namespace"), text("name")));
        admin.delete(&one("pods", &text("namespace"), &text("name"))).ok();
    }
    assert_eq!(pods.len(), PODS);
    until("everything to leave the store", PATIENCE, || {
        // The object that was deleted before was removed then.
        let left = PODS + OBJECTS - 1 - (removed(agent) - so_far);
        if left == 0 { Ok(()) } else { Err(format!("{left} objects are left\n{}", agent.log())) }
    });
    let requests = looked.log().after(before);
    phase.sampled(agent).tell(before + requests.requests.len());
    let proven: BTreeSet<(String, String)> = requests
        .requests
        .iter()
        .filter(|request| request.resource == "pods" && request.verb == "list" && request.status == 200)
        .filter(|request| request.query("resourceVersion").is_empty())
        .filter_map(|request| Some((request.namespace.clone(), named_by(request)?)))
        .collect();
    assert_eq!(proven, pods, "each pod was asked for a second time, consistently");
    assert!(!requests.counts().keys().any(|(verb, _)| verb == "get"), "{:?}", requests.counts());
}

/// Deletes one object that a pod names. Returns it.
fn deleted(admin: &Api) -> Value {
    let path = one("secrets", "default", DELETED);
    let object = admin.get(&path).ok();
    admin.delete(&path).ok();
    json!({"metadata": {"name": DELETED}, "type": object["type"], "data": object["data"]})
}

fn restored(admin: &Api, object: Value) {
    admin.create(&collection("secrets", "default"), &object).ok();
}

fn kinds(dump: &Value) -> Vec<String> {
    dump["items"].as_array().unwrap().iter().map(|item| item["kind"].as_str().unwrap().to_owned()).collect()
}

fn user(way: Way) -> String {
    match way {
        Way::Watch | Way::Poll => node_user(NODE),
        Way::Role => format!("system:serviceaccount:kube-system:{ROLE}"),
    }
}

/// One way of following, looked at.
struct Looked<'a> {
    cluster: &'a Cluster,
    way: Way,
    relay: Relay,
    /// How many requests the user had made before.
    before: usize,
}

impl Looked<'_> {
    /// The requests of this way.
    fn log(&self) -> AuditLog {
        self.cluster.audit().of(&user(self.way)).after(self.before)
    }

    fn phase(&self, name: &'static str, after: usize) -> Phase<'_> {
        Phase { looked: self, name, after, traffic: self.relay.traffic(), began: Instant::now(), connections: 0 }
    }
}

/// A while, of which a row of the table tells.
struct Phase<'a> {
    looked: &'a Looked<'a>,
    name: &'static str,
    /// How many requests there were before.
    after: usize,
    traffic: Traffic,
    began: Instant,
    /// The most that were established at any time that it was looked.
    connections: usize,
}

impl Phase<'_> {
    /// Waits until the pods, the Node and each object are followed, or read.
    fn until_followed(mut self, agent: &Agent) -> Self {
        let start = Instant::now();
        loop {
            self = self.sampled(agent);
            let log = self.looked.log().after(self.after);
            let done = |verb: &str, resource: &str| {
                let mut of = log.requests.iter().filter(|request| request.verb == verb && request.resource == resource);
                of.any(answered)
            };
            let wanted = if self.looked.way == Way::Watch { ["watch", "watch"] } else { ["get", "list"] };
            let of_objects: BTreeSet<(String, String)> = log
                .requests
                .iter()
                .filter(|request| wanted.contains(&request.verb.as_str()) && answered(request))
                .filter_map(object_of)
                .collect();
            if of_objects.len() == OBJECTS && done("watch", "pods") && done("watch", "nodes") && done("list", "pods") {
                return self;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{} of {OBJECTS} objects are followed\n{}\n{}",
                of_objects.len(),
                shown(&counts(&log)),
                agent.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Looks on, while others change what is none of this node's business, as others do all the time.
    fn watched_for(mut self, window: Duration, agent: &Agent) -> Self {
        let admin = self.looked.cluster.admin();
        for n in 0.. {
            if self.began.elapsed() >= window {
                break;
            }
            self = self.sampled(agent);
            for plural in ["secrets", "configmaps"] {
                let note = json!({"metadata": {"annotations": {"example.com/n": n.to_string()}}});
                admin.patch(&one(plural, "default", "of-others"), &note).ok();
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        self
    }

    /// Looks how many connections there are.
    fn sampled(mut self, agent: &Agent) -> Self {
        let now = agent.connections(self.looked.relay.port());
        assert!(now <= 4, "{now} connections");
        self.connections = self.connections.max(now);
        self
    }

    /// Prints a row of the table, of the requests up to the `to`th.
    fn tell(&self, to: usize) {
        let log = self.looked.log();
        let requests = AuditLog { requests: log.requests[self.after..to].to_vec() };
        let Traffic { sent, received, opened } = self.looked.relay.traffic().since(self.traffic);
        eprintln!(
            "| {:?} | {} ({:.1} s) | {} | {}: {} | {} a second | {} ({opened} opened) | {:.0} kB sent, {:.0} kB received |",
            self.looked.way,
            self.name,
            self.began.elapsed().as_secs_f64(),
            requests.requests.len(),
            shown(&counts(&requests)),
            requests
                .statuses()
                .iter()
                .map(|(status, count)| format!("{count} x {status}"))
                .collect::<Vec<_>>()
                .join(", "),
            busiest_second(&requests),
            self.connections,
            sent as f64 / 1e3,
            received as f64 / 1e3,
        );
    }
}

/// Whether the answer is that the object is there, or is not. Of a watch that stands the log has no answer yet.
fn answered(request: &Request) -> bool {
    [200, 404].contains(&request.status) || request.verb == "watch" && request.stage == "RequestReceived"
}

/// By verb and resource, with ConfigMaps and Secrets together.
fn counts(log: &AuditLog) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for ((verb, resource), count) in log.counts() {
        let resource =
            if ["secrets", "configmaps"].contains(&resource.as_str()) { "secrets and configmaps" } else { &resource };
        *counts.entry(format!("{verb} {resource}")).or_default() += count;
    }
    counts
}

fn shown(counts: &BTreeMap<String, usize>) -> String {
    counts.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

fn busiest_second(log: &AuditLog) -> usize {
    let mut seconds: BTreeMap<&str, usize> = BTreeMap::new();
    for request in &log.requests {
        *seconds.entry(request.received.split('.').next().unwrap()).or_default() += 1;
    }
    seconds.into_values().max().unwrap_or_default()
}

/// The ConfigMap or Secret that a request is about, as plural and namespace with name: names are unique here.
fn object_of(request: &Request) -> Option<(String, String)> {
    let about = ["secrets", "configmaps"].contains(&request.resource.as_str());
    let name = if request.verb == "get" { Some(request.name.clone()) } else { named_by(request) };
    about.then(|| Some((request.namespace.clone(), name?)))?
}

fn named_by(request: &Request) -> Option<String> {
    request.selectors().iter().find_map(|term| term.strip_prefix("metadata.name=").map(str::to_owned))
}
