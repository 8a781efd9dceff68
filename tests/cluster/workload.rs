//! A seeded random workload: what a cluster does to the pods of one node and to what they name.
//!
//! The operations depend on the seed alone, never on the API server's answers, so that a run can be repeated, and a clone
//! of a [`Workload`] continues from a snapshot of etcd that was taken at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::api::{Api, collection, one};
use crate::pods::{self, Name, Naming};
use crate::random::Random;

const NAMESPACES: [&str; 3] = ["default", "shop", "edge-system"];
const KINDS: [&str; 2] = ["secrets", "configmaps"];

/// How long the API server may stay away before a step gives up.
const PATIENCE: Duration = Duration::from_secs(180);

/// The generator, with its model of what exists.
#[derive(Clone)]
pub(crate) struct Workload {
    random: Random,
    node: String,
    /// About how many pods of the node exist at a time.
    target: usize,
    pods: BTreeMap<(String, String), Pod>,
    objects: BTreeMap<Name, Object>,
    done: usize,
    names: usize,
}

/// Draws one operation of a kind; `None` where there is nothing for it to act on.
type Draw = fn(&mut Workload) -> Option<Operation>;

#[derive(Clone)]
struct Pod {
    ours: bool,
    finished: bool,
    terminating: bool,
    containers: Vec<String>,
    names: BTreeSet<Name>,
}

#[derive(Clone)]
struct Object {
    immutable: bool,
    /// The type of a Secret, which can't be changed.
    kind: &'static str,
}

/// One operation: a few calls, to be made in their order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Operation {
    /// As in `update secrets/shop/s4`.
    pub(crate) what: String,
    calls: Vec<Call>,
}

#[derive(Clone, Debug, PartialEq)]
struct Call {
    method: Method,
    path: String,
    body: Option<Value>,
}

impl Call {
    fn create(plural: &str, namespace: &str, body: Value) -> Self {
        Self { method: Method::POST, path: collection(plural, namespace), body: Some(body) }
    }

    fn replace((plural, namespace, name): &Name, body: Value) -> Self {
        Self { method: Method::PUT, path: one(plural, namespace, name), body: Some(body) }
    }

    fn patch(path: String, body: Value) -> Self {
        Self { method: Method::PATCH, path, body: Some(body) }
    }

    fn delete(plural: &str, namespace: &str, name: &str, grace_s: u32) -> Self {
        let path = format!("{}?gracePeriodSeconds={grace_s}", one(plural, namespace, name));
        Self { method: Method::DELETE, path, body: None }
    }
}

impl Workload {
    /// A workload for `node`, of which about `target` pods exist at a time once it has run for a while.
    pub(crate) fn new(seed: u64, node: &str, target: usize) -> Self {
        Self {
            random: Random::new(seed),
            node: node.to_owned(),
            target,
            pods: BTreeMap::new(),
            objects: BTreeMap::new(),
            done: 0,
            names: 0,
        }
    }

    /// Creates the namespaces and this node's Node and the other's, if they don't exist.
    pub(crate) fn prepare(&self, admin: &Api) {
        let node = |name: &str| {
            let body = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
            Call { method: Method::POST, path: "/api/v1/nodes".to_owned(), body: Some(body) }
        };
        let namespace = |name: &str| {
            let body = Some(json!({"metadata": {"name": name}}));
            Call { method: Method::POST, path: "/api/v1/namespaces".to_owned(), body }
        };
        let mut calls: Vec<Call> = NAMESPACES[1..].iter().map(|name| namespace(name)).collect();
        calls.extend([node(&self.node), node(&other(&self.node))]);
        for call in calls {
            persist(admin, &call, true);
        }
    }

    /// Draws the next operation and carries it out. Returns it as text.
    ///
    /// An API server that is away is waited for, and a call whose outcome is unknown is repeated.
    ///
    /// # Panics
    /// If the API server refuses what should be possible, or stays away.
    pub(crate) fn step(&mut self, admin: &Api) -> String {
        let operation = self.draw();
        for call in &operation.calls {
            persist(admin, call, false);
        }
        operation.what
    }

    /// Creates `pods` pods of the node which name `objects` ConfigMaps and Secrets, each named once.
    pub(crate) fn populate(&mut self, admin: &Api, pods: usize, objects: usize) {
        for n in 0..pods {
            let namespace = NAMESPACES[n % NAMESPACES.len()].to_owned();
            let mut calls = Vec::new();
            let mut namings = Vec::new();
            for m in (n..objects).step_by(pods) {
                let name: Name = (KINDS[m % 2], namespace.clone(), format!("fixed-{m}"));
                calls.push(self.create_object(&name, false));
                namings.push(Naming { plural: name.0, name: name.2, optional: false });
            }
            calls.push(self.create_pod(namespace, format!("fixed-{n}"), true, &namings));
            for call in &calls {
                persist(admin, call, false);
            }
        }
    }

    /// How many operations were drawn.
    pub(crate) fn done(&self) -> usize {
        self.done
    }

    /// What the node's pods name, whether it exists or not.
    pub(crate) fn named(&self) -> BTreeSet<Name> {
        self.pods.values().filter(|pod| pod.ours).flat_map(|pod| pod.names.iter().cloned()).collect()
    }

    /// How many pods of the node exist.
    pub(crate) fn pods(&self) -> usize {
        self.pods.values().filter(|pod| pod.ours).count()
    }

    /// Draws the next operation and takes it as done.
    pub(crate) fn draw(&mut self) -> Operation {
        self.done += 1;
        let ours = self.pods();
        let many = ours >= self.target + self.target / 4;
        #[rustfmt::skip]
        let weights: [(usize, Draw); 12] = [
            (if many { 0 } else if ours < self.target { 30 } else { 10 }, Self::new_pod),
            (if many { 20 } else if ours < self.target / 2 { 0 } else { 9 }, Self::delete_pod),
            (2, Self::other_pod),
            (6, Self::recreate_pod),
            (4, Self::terminate_pod),
            (12, Self::annotate_pod),
            (18, Self::pod_status),
            (22, Self::update_object),
            (4, Self::replace_object),
            (6, Self::create_missing),
            (6, Self::delete_unnamed),
            (5, Self::noise),
        ];
        let total: usize = weights.iter().map(|(weight, _)| weight).sum();
        // What is drawn may have no object to act on, at first above all.
        loop {
            let mut at = self.random.below(total);
            let drawn = weights.iter().find(|(weight, _)| {
                let here = at < *weight;
                at = at.saturating_sub(*weight);
                here
            });
            let (_, draw) = drawn.expect("it is below the total");
            if let Some(operation) = draw(self) {
                return operation;
            }
        }
    }

    fn new_pod(&mut self) -> Option<Operation> {
        let namespace = (*self.random.pick(&NAMESPACES)).to_owned();
        // Few enough names that many are used again.
        let name = format!("pod-{}", self.random.below(self.target * 2));
        if self.pods.contains_key(&(namespace.clone(), name.clone())) {
            return None;
        }
        let what = format!("create pods/{namespace}/{name}");
        Some(Operation { what, calls: self.pod_and_objects(namespace, name, true) })
    }

    fn other_pod(&mut self) -> Option<Operation> {
        let theirs: Vec<(String, String)> =
            self.pods.iter().filter(|(_, pod)| !pod.ours).map(|(name, _)| name.clone()).collect();
        if theirs.len() > 5 {
            let (namespace, name) = self.random.pick(&theirs).clone();
            return Some(self.gone(&namespace, &name));
        }
        let namespace = (*self.random.pick(&NAMESPACES)).to_owned();
        let name = self.fresh("elsewhere");
        let what = format!("create pods/{namespace}/{name} on another node");
        Some(Operation { what, calls: self.pod_and_objects(namespace, name, false) })
    }

    /// A pod and the objects that it names: before it, after it, later or never.
    fn pod_and_objects(&mut self, namespace: String, name: String, ours: bool) -> Vec<Call> {
        let (mut before, mut after, mut namings) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.random.below(5) {
            let plural = *self.random.pick(&KINDS);
            let existing: Vec<Name> =
                self.objects.keys().filter(|(p, ns, _)| *p == plural && *ns == namespace).cloned().collect();
            let object = if !existing.is_empty() && self.random.chance(40) {
                self.random.pick(&existing).clone()
            } else {
                (plural, namespace.clone(), self.object_name(plural, &namespace))
            };
            let optional = self.random.chance(25);
            if !self.objects.contains_key(&object) {
                let immutable = self.random.chance(15);
                match self.random.below(10) {
                    0..6 => before.push(self.create_object(&object, immutable)),
                    6..8 => after.push(self.create_object(&object, immutable)),
                    _ => {}
                }
            }
            namings.push(Naming { plural, name: object.2, optional });
        }
        before.push(self.create_pod(namespace, name, ours, &namings));
        before.extend(after);
        before
    }

    fn create_pod(&mut self, namespace: String, name: String, ours: bool, namings: &[Naming]) -> Call {
        let node = if ours { self.node.clone() } else { other(&self.node) };
        let body = pods::pod(&mut self.random, &namespace, &name, &node, namings);
        let containers = body["spec"]["containers"].as_array().unwrap();
        let pod = Pod {
            ours,
            finished: false,
            terminating: false,
            containers: containers.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect(),
            names: namings.iter().map(|n| (n.plural, namespace.clone(), n.name.clone())).collect(),
        };
        let call = Call::create("pods", &namespace, body);
        self.pods.insert((namespace, name), pod);
        call
    }

    fn create_object(&mut self, object: &Name, immutable: bool) -> Call {
        let kind = *self.random.pick(&["Opaque", "Opaque", "example.com/custom"]);
        self.objects.insert(object.clone(), Object { immutable, kind });
        let body = self.object_body(object, immutable);
        Call::create(object.0, &object.1, body)
    }

    fn object_body(&mut self, object: &Name, immutable: bool) -> Value {
        let mut body = pods::object(&mut self.random, object, immutable);
        if object.0 == "secrets" {
            body["type"] = self.objects[object].kind.into();
        }
        body
    }

    fn delete_pod(&mut self) -> Option<Operation> {
        let (namespace, name) = self.any_pod(|_| true)?;
        Some(self.gone(&namespace, &name))
    }

    fn gone(&mut self, namespace: &str, name: &str) -> Operation {
        self.pods.remove(&(namespace.to_owned(), name.to_owned()));
        let what = format!("delete pods/{namespace}/{name}");
        Operation { what, calls: vec![Call::delete("pods", namespace, name, 0)] }
    }

    /// Under the same name at once, with another specification.
    fn recreate_pod(&mut self) -> Option<Operation> {
        let (namespace, name) = self.any_pod(|_| true)?;
        let what = format!("re-create pods/{namespace}/{name}");
        let mut calls = vec![Call::delete("pods", &namespace, &name, 0)];
        self.pods.remove(&(namespace.clone(), name.clone()));
        calls.extend(self.pod_and_objects(namespace, name, true));
        Some(Operation { what, calls })
    }

    /// With a grace period: the pod stays, with a `deletionTimestamp`, until a kubelet would end it.
    fn terminate_pod(&mut self) -> Option<Operation> {
        let (namespace, name) = self.any_pod(|pod| !pod.finished && !pod.terminating)?;
        self.pods.get_mut(&(namespace.clone(), name.clone())).unwrap().terminating = true;
        let what = format!("terminate pods/{namespace}/{name}");
        Some(Operation { what, calls: vec![Call::delete("pods", &namespace, &name, 600)] })
    }

    fn annotate_pod(&mut self) -> Option<Operation> {
        let (namespace, name) = self.any_pod(|_| true)?;
        let mut annotations = pods::annotations(&mut self.random);
        if self.random.chance(30) {
            annotations["example.com/note"] = Value::Null;
        }
        let length = self.random.below(40);
        annotations["example.com/step"] = format!("{} {}", self.done, pods::text(&mut self.random, length)).into();
        let metadata = json!({"annotations": annotations, "labels": {"step": self.done.to_string()}});
        let what = format!("annotate pods/{namespace}/{name}");
        let call = Call::patch(one("pods", &namespace, &name), json!({"metadata": metadata}));
        Some(Operation { what, calls: vec![call] })
    }

    fn pod_status(&mut self) -> Option<Operation> {
        let (namespace, name) = self.any_pod(|pod| !pod.finished)?;
        let phase = match self.random.below(100) {
            0..3 => "Failed",
            3..6 => "Succeeded",
            _ => "Running",
        };
        let pod = self.pods.get_mut(&(namespace.clone(), name.clone())).unwrap();
        pod.finished = phase != "Running";
        let containers = pod.containers.clone();
        let body = pods::status(&mut self.random, &containers, phase, self.done);
        let what = format!("{phase} pods/{namespace}/{name}");
        let path = format!("{}/status", one("pods", &namespace, &name));
        Some(Operation { what, calls: vec![Call::patch(path, body)] })
    }

    fn update_object(&mut self) -> Option<Operation> {
        let object = self.any_object(|_, object| !object.immutable)?;
        // From time to time the change is the last one.
        let immutable = self.random.chance(3);
        self.objects.get_mut(&object).unwrap().immutable = immutable;
        let body = self.object_body(&object, immutable);
        let what = format!("update {}/{}/{}", object.0, object.1, object.2);
        Some(Operation { what, calls: vec![Call::replace(&object, body)] })
    }

    /// Deleted and created again at once, under the eyes of the pods that name it. Immutable ones only where no pod does:
    /// who reads such an object once, as the kubelet does, can't see that it is another one.
    fn replace_object(&mut self) -> Option<Operation> {
        let named = self.named_by_any();
        let object = self.any_object(|name, object| !object.immutable || !named.contains(name))?;
        let immutable = self.random.chance(10);
        let calls = vec![Call::delete(object.0, &object.1, &object.2, 0), self.create_object(&object, immutable)];
        Some(Operation { what: format!("replace {}/{}/{}", object.0, object.1, object.2), calls })
    }

    /// An object that pods name already.
    fn create_missing(&mut self) -> Option<Operation> {
        let missing: Vec<Name> =
            self.named_by_any().into_iter().filter(|name| !self.objects.contains_key(name)).collect();
        if missing.is_empty() {
            return None;
        }
        let object = self.random.pick(&missing).clone();
        let immutable = self.random.chance(15);
        let calls = vec![self.create_object(&object, immutable)];
        Some(Operation { what: format!("create missing {}/{}/{}", object.0, object.1, object.2), calls })
    }

    fn delete_unnamed(&mut self) -> Option<Operation> {
        let named = self.named_by_any();
        let object = self.any_object(|name, _| !named.contains(name))?;
        self.objects.remove(&object);
        let what = format!("delete {}/{}/{}", object.0, object.1, object.2);
        Some(Operation { what, calls: vec![Call::delete(object.0, &object.1, &object.2, 0)] })
    }

    /// An object that no pod names.
    fn noise(&mut self) -> Option<Operation> {
        let plural = *self.random.pick(&KINDS);
        let namespace = (*self.random.pick(&NAMESPACES)).to_owned();
        let object: Name = (plural, namespace.clone(), self.object_name(plural, &namespace));
        if self.objects.contains_key(&object) || self.named_by_any().contains(&object) {
            return None;
        }
        let calls = vec![self.create_object(&object, false)];
        Some(Operation { what: format!("create unnamed {}/{}/{}", object.0, object.1, object.2), calls })
    }

    fn named_by_any(&self) -> BTreeSet<Name> {
        self.pods.values().flat_map(|pod| pod.names.iter().cloned()).collect()
    }

    fn any_pod(&mut self, fits: impl Fn(&Pod) -> bool) -> Option<(String, String)> {
        let all: Vec<(String, String)> =
            self.pods.iter().filter(|(_, pod)| pod.ours && fits(pod)).map(|(name, _)| name.clone()).collect();
        (!all.is_empty()).then(|| self.random.pick(&all).clone())
    }

    fn any_object(&mut self, fits: impl Fn(&Name, &Object) -> bool) -> Option<Name> {
        let all: Vec<Name> =
            self.objects.iter().filter(|(name, object)| fits(name, object)).map(|(name, _)| name.clone()).collect();
        (!all.is_empty()).then(|| self.random.pick(&all).clone())
    }

    /// A name for an object: often one that an earlier object had.
    fn object_name(&mut self, plural: &str, namespace: &str) -> String {
        if self.names > 0 && self.random.chance(40) {
            let earlier = format!("x-{}", self.random.below(self.names));
            if !self.objects.keys().any(|(p, ns, name)| *p == plural && ns == namespace && *name == earlier) {
                return earlier;
            }
        }
        self.fresh("x")
    }

    fn fresh(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}-{}", self.names - 1)
    }
}

/// The node whose pods are none of ours.
fn other(node: &str) -> String {
    format!("not-{node}")
}

/// Makes one call until it has an outcome. `exists` allows for an object that exists already.
fn persist(admin: &Api, call: &Call, exists: bool) {
    let start = Instant::now();
    let mut repeated = exists;
    loop {
        let outcome = admin.send(call.method.clone(), &call.path, call.body.as_ref());
        let (verdict, reason) = match &outcome {
            Ok(answer) => (judge(&call.method, answer.status, answer.message(), repeated), answer.message()),
            Err(reason) => (Verdict::Again, reason.as_str()),
        };
        match verdict {
            Verdict::Done => return,
            Verdict::Again => assert!(start.elapsed() < PATIENCE, "{} {}: {reason}", call.method, call.path),
            Verdict::Refused => panic!("{} {}: {reason}", call.method, call.path),
        }
        repeated = true;
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Done,
    Again,
    Refused,
}

/// What an answer means. `repeated`: an earlier attempt may have had its effect without an answer.
fn judge(method: &Method, status: u16, message: &str, repeated: bool) -> Verdict {
    match (method.as_str(), status) {
        (_, 200..300) => Verdict::Done,
        ("POST", 409) | ("DELETE", 404) if repeated => Verdict::Done,
        (_, 429 | 500 | 502 | 503 | 504) => Verdict::Again,
        // While it starts, it refuses what its plugins can't judge yet.
        (_, 403) if message.contains("not yet ready") => Verdict::Again,
        _ => Verdict::Refused,
    }
}

#[test]
fn answers() {
    use Verdict::{Again, Done, Refused};
    #[rustfmt::skip]
    let rows = [
        // method, status, message, first try, repeated
        (Method::POST,   201, "",                                 Done,    Done),
        (Method::POST,   409, "already exists",                   Refused, Done),
        (Method::POST,   404, "namespaces \"shop\" not found",    Refused, Refused),
        (Method::POST,   403, "not yet ready to handle request",  Again,   Again),
        (Method::POST,   403, "forbidden",                        Refused, Refused),
        (Method::PUT,    200, "",                                 Done,    Done),
        (Method::PUT,    409, "conflict",                         Refused, Refused),
        (Method::PUT,    422, "field is immutable",               Refused, Refused),
        (Method::PATCH,  504, "timeout",                          Again,   Again),
        (Method::PATCH,  404, "not found",                        Refused, Refused),
        (Method::DELETE, 404, "not found",                        Refused, Done),
        (Method::DELETE, 500, "etcd is away",                     Again,   Again),
        (Method::DELETE, 429, "",                                 Again,   Again),
    ];
    for (method, status, message, first, repeated) in rows {
        assert_eq!(judge(&method, status, message, false), first, "{method} {status} {message}");
        assert_eq!(judge(&method, status, message, true), repeated, "{method} {status} {message}, repeated");
    }
}

#[test]
fn the_seed_alone_decides() {
    let run = |seed| {
        let mut workload = Workload::new(seed, "edge-1", 20);
        (0..500).map(|_| workload.draw()).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for operation in run(1) {
        let kind = operation.what.split('/').next().unwrap().to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    for kind in [
        "create pods",
        "delete pods",
        "re-create pods",
        "terminate pods",
        "annotate pods",
        "Running pods",
        "update secrets",
        "update configmaps",
        "create missing secrets",
        "delete secrets",
        "create unnamed configmaps",
    ] {
        assert!(kinds.contains_key(kind), "{kind} is missing from {kinds:?}");
    }
}
