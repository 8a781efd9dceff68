//! Random histories between a small API server and the simplest model of the store.
//!
//! The API server keeps a log of its pods, so that a watch may lag and a listing may be old, and answers trackers in any
//! order. The store drops every object that no stored pod names, in the transaction that removes the pod, and refuses a
//! pod whose references can't be followed. After each call the store holds what the collector believes, with every object
//! that was answered; in the end it holds what the API server has.

use std::collections::VecDeque;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::checkpoint::object::Kind;

const PODS: usize = 3;
const OBJECTS: usize = 3;
const PATIENCE_MS: u64 = 100;

fn key(kind: Kind, n: usize) -> ObjectKey {
    ObjectKey::new(kind, "d", &format!("n{n}")).unwrap()
}

/// What happens next; numbers choose among what there is.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// In the API server: a pod is made, changed, or made anew under its name, and names these objects.
    PutPod {
        pod: usize,
        anew: bool,
        names: u8,
        refused: bool,
    },
    DeletePod(usize),
    PutObject(usize),
    DeleteObject(usize),
    ForbidObject(usize),
    /// The watch tells its next event.
    Watch,
    /// A second read proves that a pod is gone.
    Prove(usize),
    /// A tracker tells what it found.
    Answer(usize),
    Repeat(usize),
    Fail(usize),
    /// The watch starts anew with a listing that is this many events old.
    Relist(usize),
    Wait(u64),
    Forget,
}

fn op() -> impl Strategy<Value = Op> {
    let (pod, object) = (0..PODS, 0..OBJECTS);
    prop_oneof![
        8 => (pod.clone(), prop::bool::weighted(0.2), any::<u8>(), prop::bool::weighted(0.1))
            .prop_map(|(pod, anew, names, refused)| Op::PutPod { pod, anew, names, refused }),
        4 => pod.prop_map(Op::DeletePod),
        4 => object.clone().prop_map(Op::PutObject),
        2 => object.clone().prop_map(Op::DeleteObject),
        1 => object.clone().prop_map(Op::ForbidObject),
        14 => Just(Op::Watch),
        8 => any::<usize>().prop_map(Op::Prove),
        14 => object.clone().prop_map(Op::Answer),
        2 => object.clone().prop_map(Op::Repeat),
        1 => object.prop_map(Op::Fail),
        2 => (0_usize..4).prop_map(Op::Relist),
        4 => prop_oneof![Just(1), Just(30), Just(PATIENCE_MS)].prop_map(Op::Wait),
        1 => Just(Op::Forget),
    ]
}

#[derive(Default)]
struct Server {
    counter: u64,
    pods: BTreeMap<ObjectKey, Object>,
    objects: BTreeMap<ObjectKey, Result<Object, Absence>>,
    /// Every event of the pods since the beginning: `None` is a deletion of that UID.
    log: Vec<(ObjectKey, String, Option<Object>)>,
}

impl Server {
    fn version(&mut self) -> String {
        self.counter += 1;
        self.counter.to_string()
    }

    fn put_pod(&mut self, pod: usize, anew: bool, names: u8, refused: bool) {
        let key = key(Kind::Pod, pod);
        if anew {
            self.delete_pod(pod);
        }
        let resource_version = self.version();
        let uid = self.pods.get(&key).map_or(format!("u{resource_version}"), |pod| pod.uid.clone());
        let mut volumes: Vec<_> = (0..OBJECTS)
            .filter(|n| names >> n & 1 == 1)
            .map(|n| json!({"name": format!("v{n}"), "secret": {"secretName": format!("n{n}")}}))
            .collect();
        if refused {
            volumes.push(json!({"name": "bad", "secret": {"secretName": "Bad"}}));
        }
        let body = json!({"spec": {"containers": [{"name": "c"}], "volumes": volumes}, "at": resource_version});
        let object =
            Object { key: key.clone(), uid: uid.clone(), resource_version, body: body.to_string().into_bytes().into() };
        self.pods.insert(key.clone(), object.clone());
        self.log.push((key, uid, Some(object)));
    }

    fn delete_pod(&mut self, pod: usize) {
        let key = key(Kind::Pod, pod);
        if let Some(pod) = self.pods.remove(&key) {
            self.log.push((key, pod.uid, None));
        }
    }

    fn put_object(&mut self, n: usize) {
        let version = self.version();
        let key = key(Kind::Secret, n);
        let body = json!({"at": version}).to_string().into_bytes().into();
        let object = Object { key: key.clone(), uid: "u".to_owned(), resource_version: version, body };
        self.objects.insert(key, Ok(object));
    }

    fn object(&self, key: &ObjectKey) -> Result<Object, Absence> {
        self.objects.get(key).cloned().unwrap_or(Err(Absence::NotFound))
    }

    /// The pods as they were after `events` events.
    fn at(&self, events: usize) -> Vec<Object> {
        let mut pods = BTreeMap::new();
        for (key, _, object) in &self.log[..events] {
            match object {
                Some(object) => pods.insert(key.clone(), object.clone()),
                None => pods.remove(key),
            };
        }
        pods.into_values().collect()
    }

    fn lacks(&self, key: &ObjectKey, uid: &str) -> bool {
        self.pods.get(key).is_none_or(|pod| pod.uid != uid)
    }
}

fn names_of(pod: &Object) -> Option<BTreeSet<ObjectKey>> {
    references(pod).ok().map(|found| found.into_iter().map(|reference| reference.key).collect())
}

#[derive(Default)]
struct Store {
    pods: BTreeMap<ObjectKey, Object>,
    objects: BTreeMap<ObjectKey, Object>,
}

impl Store {
    fn needed(&self) -> BTreeSet<ObjectKey> {
        self.pods.values().flat_map(|pod| names_of(pod).unwrap()).collect()
    }

    fn gather(&mut self, gathered: Gathered) {
        let names = names_of(&gathered.pod);
        for object in gathered.with {
            assert!(names.as_ref().unwrap().contains(&object.key), "{object:?} comes with a pod that doesn't name it");
            self.objects.insert(object.key.clone(), object);
        }
        for (key, why) in gathered.absent {
            assert!(names.as_ref().unwrap().contains(&key), "{key} is absent for a pod that doesn't name it");
            self.absent(&key, why);
        }
        if names.is_some() {
            self.pods.insert(gathered.pod.key.clone(), gathered.pod);
        }
    }

    fn absent(&mut self, key: &ObjectKey, why: Absence) {
        if why == Absence::NotFound {
            self.objects.remove(key);
        }
    }

    /// One transaction. Afterwards nothing is kept that no pod names.
    fn commit(&mut self, steps: Vec<Step>) {
        let alone = steps.len() == 1;
        for step in steps {
            match step {
                Step::Listing { pods, .. } => pods.into_iter().for_each(|gathered| self.gather(gathered)),
                Step::Pod(gathered) => self.gather(gathered),
                Step::PodGone { key, uid } => {
                    if self.pods.get(&key).is_some_and(|pod| pod.uid == uid) {
                        self.pods.remove(&key);
                    }
                }
                Step::Object(object) => {
                    assert!(!alone || self.needed().contains(&object.key), "no stored pod names {object:?}");
                    self.objects.insert(object.key.clone(), object);
                }
                Step::ObjectAbsent { key, why } => {
                    assert!(!alone || self.needed().contains(&key), "no stored pod names {key}");
                    self.absent(&key, why);
                }
                Step::Node(_) | Step::Services { .. } => unreachable!("the collector has nothing to do with these"),
            }
        }
        let needed = self.needed();
        self.objects.retain(|key, _| needed.contains(key));
    }
}

/// The driver with everything around it.
struct World {
    server: Server,
    store: Store,
    collector: Collector,
    now_ms: u64,
    /// One transaction for all steps of a call, or one for each.
    batched: bool,
    cursor: usize,
    to_prove: VecDeque<(ObjectKey, String)>,
    /// What is tracked, with the last answer since it was asked for.
    tracked: BTreeMap<ObjectKey, Option<Result<Object, Absence>>>,
    /// When each waiting pod was seen first, and the waiting listing.
    since: BTreeMap<ObjectKey, u64>,
    listed_since: Option<u64>,
    /// Pods that were emitted, and not refused by the store, since the collector began.
    emitted: BTreeSet<ObjectKey>,
}

impl World {
    fn new(batched: bool) -> Self {
        Self {
            server: Server::default(),
            store: Store::default(),
            collector: Collector::new(PATIENCE_MS),
            now_ms: 0,
            batched,
            cursor: 0,
            to_prove: VecDeque::new(),
            tracked: BTreeMap::new(),
            since: BTreeMap::new(),
            listed_since: None,
            emitted: BTreeSet::new(),
        }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::PutPod { pod, anew, names, refused } => self.server.put_pod(pod, anew, names, refused),
            Op::DeletePod(pod) => self.server.delete_pod(pod),
            Op::PutObject(n) => self.server.put_object(n),
            Op::DeleteObject(n) => drop(self.server.objects.remove(&key(Kind::Secret, n))),
            Op::ForbidObject(n) => {
                self.server.objects.insert(key(Kind::Secret, n), Err(Absence::Forbidden));
            }
            Op::Watch => self.watch(),
            Op::Prove(n) => {
                if !self.to_prove.is_empty() {
                    let (key, uid) = self.to_prove.remove(n % self.to_prove.len()).unwrap();
                    self.see(Seen::PodGone { key, uid });
                }
            }
            Op::Answer(n) => {
                let key = key(Kind::Secret, n);
                let now = self.server.object(&key);
                self.answer(key, now);
            }
            Op::Repeat(n) => {
                let key = key(Kind::Secret, n);
                if let Some(Some(answer)) = self.tracked.get(&key).cloned() {
                    self.answer(key, answer);
                }
            }
            Op::Fail(n) => self.see(Seen::Answer { key: key(Kind::Secret, n), answer: Answer::Failed }),
            Op::Relist(back) => self.relist(back, false),
            Op::Wait(ms) => {
                self.now_ms += ms;
                let actions = self.collector.tick(self.now_ms);
                self.act(actions);
            }
            Op::Forget => {
                let actions = self.collector.forget();
                self.since.clear();
                self.listed_since = None;
                self.emitted.clear();
                self.act(actions);
                self.relist(0, true);
            }
        }
        self.check();
    }

    fn watch(&mut self) {
        let Some((key, uid, object)) = self.server.log.get(self.cursor).cloned() else { return };
        self.cursor += 1;
        match object {
            Some(object) => {
                self.since.entry(key).or_insert(self.now_ms);
                self.see(Seen::Pod(object));
            }
            None => self.to_prove.push_back((key, uid)),
        }
    }

    fn answer(&mut self, key: ObjectKey, answer: Result<Object, Absence>) {
        if let Some(last) = self.tracked.get_mut(&key) {
            *last = Some(answer.clone());
        }
        let answer = match answer {
            Ok(object) => Answer::Found(object),
            Err(why) => Answer::Absent(why),
        };
        self.see(Seen::Answer { key, answer });
    }

    /// What the listing lacks of the known pods, or of the stored ones at the beginning, is to be proven gone.
    fn relist(&mut self, back: usize, fresh: bool) {
        self.cursor = self.server.log.len().saturating_sub(back);
        let pods = self.server.at(self.cursor);
        let listed: BTreeSet<_> = pods.iter().map(|pod| (pod.key.clone(), pod.uid.clone())).collect();
        let all: BTreeSet<_> = if fresh {
            self.store.pods.values().map(|pod| (pod.key.clone(), pod.uid.clone())).collect()
        } else {
            self.collector.known().map(|(key, uid)| (key.clone(), uid.to_owned())).collect()
        };
        for (key, uid) in all.difference(&listed) {
            if self.server.lacks(key, uid) {
                self.to_prove.push_back((key.clone(), uid.clone()));
            }
        }
        for (key, _) in &listed {
            self.since.entry(key.clone()).or_insert(self.now_ms);
        }
        self.listed_since.get_or_insert(self.now_ms);
        self.see(Seen::Listed { pods, position: self.cursor.to_string() });
    }

    fn see(&mut self, seen: Seen) {
        let actions = self.collector.see(seen, self.now_ms);
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<Action>) {
        let mut steps = Vec::new();
        for action in actions {
            match action {
                Action::Track(key) => assert!(self.tracked.insert(key, None).is_none()),
                Action::Refetch(key) => assert!(self.tracked.insert(key, None).is_some()),
                Action::Untrack(key) => assert!(self.tracked.remove(&key).is_some()),
                Action::Emit(step) => {
                    match &step {
                        Step::Listing { pods, .. } => {
                            pods.iter().for_each(|gathered| self.check_patience(&gathered.pod));
                            self.listed_since = None;
                        }
                        Step::Pod(gathered) => self.check_patience(&gathered.pod),
                        Step::PodGone { key, .. } => {
                            self.emitted.remove(key);
                        }
                        _ => {}
                    }
                    steps.push(step);
                }
            }
        }
        if self.batched {
            self.store.commit(steps);
        } else {
            steps.into_iter().for_each(|step| self.store.commit(vec![step]));
        }
    }

    /// Only a pod that has waited for long enough goes without an answer about each of its objects.
    fn check_patience(&mut self, pod: &Object) {
        if names_of(pod).is_some() {
            self.emitted.insert(pod.key.clone());
        }
        let since = self.since.remove(&pod.key).unwrap_or(self.now_ms);
        let since = self.listed_since.map_or(since, |listed| listed.min(since));
        let unanswered = |name: &ObjectKey| self.tracked.get(name).is_some_and(Option::is_none);
        if since + PATIENCE_MS > self.now_ms {
            assert!(!names_of(pod).unwrap_or_default().iter().any(unanswered), "{} went too early", pod.key);
        }
    }

    fn check(&mut self) {
        let collector = &self.collector;
        let waiting = |key: &ObjectKey| collector.pods.get(key).is_some_and(|known| known.waiting.is_some());
        self.since.retain(|key, _| waiting(key));
        if let Some(due_ms) = collector.due() {
            assert!(due_ms > self.now_ms, "due at {due_ms}, now {}", self.now_ms);
        }
        for known in collector.pods.values() {
            let Some(waiting) = &known.waiting else { continue };
            assert!(collector.listing.is_some() || waiting.deadline_ms > self.now_ms);
            let listed = collector.listing.as_ref().is_some_and(|listing| listing.members.contains(&waiting.pod.key));
            assert!(listed || !known.waits_unchanged(), "{} is held and was emitted", waiting.pod.key);
        }

        let mut named: BTreeSet<ObjectKey> = BTreeSet::new();
        for known in collector.pods.values() {
            named.extend(known.stored_names.iter().cloned());
            named.extend(known.waiting.iter().flat_map(|waiting| waiting.names.iter().cloned()));
        }
        assert_eq!(named, self.tracked.keys().cloned().collect(), "tracked");
        for (key, followed) in &collector.objects {
            let stored = self.store.objects.get(key);
            match &followed.latest {
                Latest::Held(_) => assert!(followed.stored_for.is_empty(), "{key} is held and was emitted"),
                Latest::Stored(Some(version)) => assert!(stored.map(Version::of).as_ref() == Some(version), "{key}"),
                Latest::Stored(None) => assert!(stored.is_some(), "{key}"),
                Latest::Absent(Absence::NotFound) if !followed.stored_for.is_empty() => assert!(stored.is_none()),
                Latest::Absent(_) | Latest::NotSeen | Latest::Unanswered => {}
            }
        }
        // Closure: with each stored pod, everything that was answered about its objects is stored.
        for pod in self.store.pods.values().filter(|pod| self.emitted.contains(&pod.key)) {
            for name in names_of(pod).unwrap() {
                match self.tracked.get(&name) {
                    Some(Some(Ok(object))) => assert_eq!(self.store.objects.get(&name), Some(object), "{}", pod.key),
                    Some(Some(Err(Absence::NotFound))) => assert!(!self.store.objects.contains_key(&name)),
                    Some(Some(Err(Absence::Forbidden)) | None) => {}
                    None => panic!("{name} of the stored {} is not tracked", pod.key),
                }
            }
        }
    }

    /// Everything is told, and all patience ends.
    fn settle(&mut self) {
        while self.cursor < self.server.log.len() {
            self.run(Op::Watch);
        }
        while !self.to_prove.is_empty() {
            self.run(Op::Prove(0));
        }
        // Answering may let pods go, and so ask for others.
        for _ in 0..3 {
            (0..OBJECTS).for_each(|n| self.run(Op::Answer(n)));
        }
        self.run(Op::Wait(2 * PATIENCE_MS));
        (0..OBJECTS).for_each(|n| self.run(Op::Answer(n)));
        assert_eq!(self.collector.due(), None);
    }

    fn check_equal(&self) {
        for (key, pod) in &self.server.pods {
            let stored = self.store.pods.get(key);
            match names_of(pod) {
                Some(_) => assert_eq!(stored, Some(pod)),
                // An older version of the same pod at most.
                None => assert!(stored.is_none_or(|stored| stored.uid == pod.uid), "{key}"),
            }
        }
        assert!(self.store.pods.keys().all(|key| self.server.pods.contains_key(key)), "a pod is stored that is gone");
        // What an earlier run stored of a pod that is refused by now is nothing that the collector could know.
        let known = self.store.pods.values().filter(|pod| self.emitted.contains(&pod.key));
        for name in known.flat_map(|pod| names_of(pod).unwrap()) {
            match self.server.object(&name) {
                Ok(object) => assert_eq!(self.store.objects.get(&name), Some(&object)),
                Err(Absence::NotFound) => assert!(!self.store.objects.contains_key(&name), "{name}"),
                Err(Absence::Forbidden) => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_store_comes_to_hold_what_the_api_server_has(
        ops in proptest::collection::vec(op(), 1..80),
        batched in any::<bool>(),
    ) {
        let mut world = World::new(batched);
        world.run(Op::Relist(0));
        for op in ops {
            world.run(op);
        }
        world.settle();
        world.check_equal();
        // A watch that went on from anywhere says nothing new; a listing of now neither.
        world.run(Op::Relist(3));
        world.settle();
        world.check_equal();

        (0..PODS).for_each(|pod| world.run(Op::DeletePod(pod)));
        world.settle();
        prop_assert!(world.tracked.is_empty() && world.collector.objects.is_empty() && world.collector.pods.is_empty());
        prop_assert!(world.store.pods.is_empty() && world.store.objects.is_empty());
    }
}
