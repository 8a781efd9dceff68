//! Random histories against the simplest model of the store: a set of pods with their lifecycles, and the objects that
//! they name.
//!
//! After each batch the store holds what the model holds, byte for byte, and is sound; redb is closed and opened again in
//! between, and an image of it read. A revision counts up whenever something changed, and never down.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use ckpt_db::checkpoint::lookup::{Absence, Lookup, Objects as _};
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::checkpoint::rendering::PodName;
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::store::{
    Backend, Change, MemoryStore, Missing, NewStore, RedbStore, Revision, SlotsWanted, Snapshot, StoreError,
    open_image, open_offline,
};
use proptest::prelude::*;
use store_format::{Lifecycle, Unlocker};

const NAMESPACES: [&str; 2] = ["a", "b"];
const NAMES: u8 = 3;

/// One change over a small world, so that histories meet themselves.
#[derive(Clone, Debug)]
enum Step {
    /// Pod, its version, whether it has ended, the objects that it names, and which of them come with it.
    Pod(usize, u8, u8, bool, Vec<(Kind, u8)>, u8),
    Object(usize, Kind, u8, u8),
    DeletePod(usize, u8, bool),
    DeleteObject(usize, Kind, u8),
    Absent(usize, Kind, u8, Absence),
    /// Pod, and whether the proof is one for another UID.
    GonePod(usize, u8, bool),
    Decided(usize, u8, Lifecycle, u32),
    Hold(usize, u8, bool),
    Boot(u8),
    /// A listing, and whether what it lacks is deleted or, if it is a pod, reported.
    Listing(Vec<Step>, Missing),
}

fn key(kind: Kind, namespace: usize, name: u8) -> ObjectKey {
    ObjectKey::new(kind, NAMESPACES[namespace], &format!("n{name}")).unwrap()
}

fn pod(namespace: usize, name: u8, version: u8, ended: bool, wanted: &[(Kind, u8)]) -> Object {
    let volumes: Vec<_> = wanted
        .iter()
        .enumerate()
        .map(|(n, (kind, object))| match kind {
            Kind::Secret => {
                serde_json::json!({"name": format!("v{n}"), "secret": {"secretName": format!("n{object}")}})
            }
            _ => serde_json::json!({"name": format!("v{n}"), "configMap": {"name": format!("n{object}")}}),
        })
        .collect();
    let body = serde_json::json!({
        "metadata": {"uid": format!("uid-{version}")},
        "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": volumes},
        "status": {"phase": if ended { "Failed" } else { "Running" }},
    });
    common::object(Kind::Pod, NAMESPACES[namespace], &format!("n{name}"), body)
}

fn data(namespace: usize, kind: Kind, name: u8, version: u8) -> Object {
    let value = if kind == Kind::Secret { format!("AAA{}", version % 4) } else { version.to_string() };
    common::object(kind, NAMESPACES[namespace], &format!("n{name}"), serde_json::json!({"data": {"k": value}}))
}

fn data_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Secret), Just(Kind::ConfigMap)]
}

fn simple_step() -> impl Strategy<Value = Step> {
    let namespace = || 0..NAMESPACES.len();
    let wanted = proptest::collection::vec((data_kind(), 0..NAMES), 0..3);
    prop_oneof![
        4 => (namespace(), 0..NAMES, 0..3_u8, 0..4_u8, wanted, any::<u8>()).prop_map(|(ns, name, version, ended, mut wanted, with)| {
            wanted.sort();
            wanted.dedup();
            Step::Pod(ns, name, version, ended == 0, wanted, with)
        }),
        4 => (namespace(), data_kind(), 0..NAMES, 0..3_u8).prop_map(|(ns, kind, name, version)| Step::Object(ns, kind, name, version)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let why = prop_oneof![Just(Absence::NotFound), Just(Absence::Forbidden)];
    let missing = prop_oneof![Just(Missing::Delete), Just(Missing::Report)];
    prop_oneof![
        8 => simple_step(),
        2 => (0..NAMESPACES.len(), 0..NAMES, any::<bool>()).prop_map(|(ns, name, other)| Step::DeletePod(ns, name, other)),
        1 => (0..NAMESPACES.len(), data_kind(), 0..NAMES).prop_map(|(ns, kind, name)| Step::DeleteObject(ns, kind, name)),
        3 => (0..NAMESPACES.len(), 0..NAMES, 0..4_u8).prop_map(|(ns, name, other)| Step::GonePod(ns, name, other == 0)),
        4 => (0..NAMESPACES.len(), 0..NAMES, lifecycle(), 0..2_u32).prop_map(|(ns, name, lifecycle, times)| Step::Decided(ns, name, lifecycle, times)),
        1 => (0..NAMESPACES.len(), 0..NAMES, any::<bool>()).prop_map(|(ns, name, held)| Step::Hold(ns, name, held)),
        1 => (0..3_u8).prop_map(Step::Boot),
        2 => (0..NAMESPACES.len(), data_kind(), 0..NAMES, why).prop_map(|(ns, kind, name, why)| Step::Absent(ns, kind, name, why)),
        2 => (proptest::collection::vec(simple_step(), 0..6), missing).prop_map(|(steps, missing)| Step::Listing(steps, missing)),
    ]
}

fn lifecycle() -> impl Strategy<Value = Lifecycle> {
    prop_oneof![
        Just(Lifecycle::Inactive),
        Just(Lifecycle::Active),
        (0..3_u32).prop_map(|left_s| Lifecycle::InactiveGrace { left_s }),
        (0..3_u32).prop_map(|left_s| Lifecycle::ActiveGrace { left_s }),
        (0..3_u32).prop_map(|left_s| Lifecycle::HandedOver { left_s }),
    ]
}

/// What is on record of one pod.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    uid: String,
    lifecycle: Lifecycle,
    republished: u32,
    held: bool,
}

/// What a batch says of pods after all of its objects.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Decided(ObjectKey, String, Lifecycle, u32),
    Hold(ObjectKey, bool),
}

#[derive(Clone, Default, PartialEq)]
struct Model {
    pods: BTreeMap<ObjectKey, (Object, BTreeSet<ObjectKey>)>,
    objects: BTreeMap<ObjectKey, Object>,
    /// UIDs of pods that have ended.
    ended: BTreeSet<(ObjectKey, String)>,
    /// What is not to be had of what pods name.
    absent: BTreeMap<ObjectKey, Absence>,
    populated: bool,
    rows: BTreeMap<ObjectKey, Row>,
    gone: BTreeSet<ObjectKey>,
    boot_id: Option<String>,
    said: Vec<Said>,
    /// Pods that are held or released without being there.
    unknown: BTreeSet<ObjectKey>,
    /// Pods that listings of this batch lack, with their UIDs.
    missing: BTreeMap<ObjectKey, String>,
    /// A listing without pods was met while there were some: the whole batch must be refused.
    refused: bool,
}

impl Model {
    fn put_pod(&mut self, pod: &Object, ns: usize, ended: bool, wanted: &[(Kind, u8)]) {
        if ended {
            self.ended.insert((pod.key.clone(), pod.uid.clone()));
        }
        self.missing.remove(&pod.key);
        self.gone.remove(&pod.key);
        let needs = wanted.iter().map(|(kind, name)| key(*kind, ns, *name)).collect();
        self.pods.insert(pod.key.clone(), (pod.clone(), needs));
    }

    fn put(&mut self, object: Object) {
        self.absent.remove(&object.key);
        self.objects.insert(object.key.clone(), object);
    }

    /// The change for the store, after the same was done to the model. A later step of a batch sees an earlier one.
    fn apply(&mut self, step: &Step) -> Change {
        match step {
            Step::Pod(ns, name, version, ended, wanted, with) => {
                let pod = pod(*ns, *name, *version, *ended, wanted);
                self.put_pod(&pod, *ns, *ended, wanted);
                let with: Vec<Object> = wanted
                    .iter()
                    .enumerate()
                    .filter(|(n, _)| with >> n & 1 == 1)
                    .map(|(_, (kind, name))| data(*ns, *kind, *name, *version))
                    .collect();
                with.iter().for_each(|object| self.put(object.clone()));
                Change::Apply { object: pod, with }
            }
            Step::Object(ns, kind, name, version) => {
                let object = data(*ns, *kind, *name, *version);
                self.put(object.clone());
                Change::Apply { object, with: Vec::new() }
            }
            Step::DeletePod(ns, name, other) => {
                let key = key(Kind::Pod, *ns, *name);
                let stored = self.pods.get(&key).map(|(pod, _)| pod.uid.clone());
                if *other {
                    return Change::Delete { key, uid: "uid-of-another".to_owned() };
                }
                self.pods.remove(&key);
                Change::Delete { key, uid: stored.unwrap_or_default() }
            }
            Step::GonePod(ns, name, other) => {
                let key = key(Kind::Pod, *ns, *name);
                if *other {
                    return Change::Gone { key, uid: "uid-of-another".to_owned() };
                }
                let stored = self.pods.get(&key).map(|(pod, _)| pod.uid.clone());
                if stored.is_some() {
                    self.gone.insert(key.clone());
                    self.missing.remove(&key);
                }
                Change::Gone { key, uid: stored.unwrap_or_default() }
            }
            Step::Decided(ns, name, lifecycle, republished) => {
                let key = key(Kind::Pod, *ns, *name);
                // As the agent does: for the pod that it saw, which a later step may replace.
                let uid = self.pods.get(&key).map(|(pod, _)| pod.uid.clone()).unwrap_or_default();
                self.said.push(Said::Decided(key.clone(), uid.clone(), *lifecycle, *republished));
                let (lifecycle, republished) = (*lifecycle, *republished);
                Change::Decided { pod: pod_name(&key), uid, lifecycle, republished, why: String::new() }
            }
            Step::Hold(ns, name, held) => {
                let key = key(Kind::Pod, *ns, *name);
                self.said.push(Said::Hold(key.clone(), *held));
                Change::Hold { pod: pod_name(&key), held: *held }
            }
            Step::Boot(boot) => {
                let id = format!("boot-{boot}");
                self.boot_id = Some(id.clone());
                Change::Boot(id)
            }
            Step::DeleteObject(ns, kind, name) => {
                let key = key(*kind, *ns, *name);
                self.objects.remove(&key);
                self.absent.insert(key.clone(), Absence::NotFound);
                Change::Delete { key, uid: String::new() }
            }
            Step::Absent(ns, kind, name, why) => {
                let key = key(*kind, *ns, *name);
                self.absent.insert(key.clone(), *why);
                Change::Absent { key, why: *why }
            }
            Step::Listing(steps, missing) => {
                let mut listed = Self::default();
                for step in steps {
                    listed.apply(step);
                }
                let mut objects: Vec<Object> = listed.pods.values().map(|(pod, _)| pod.clone()).collect();
                objects.extend(listed.objects.values().cloned());
                self.populated |= !listed.pods.is_empty();
                let mut kinds = vec![Kind::Pod];
                match missing {
                    Missing::Delete => {
                        self.refused |= listed.pods.is_empty() && !self.pods.is_empty();
                        self.pods.clear();
                        self.objects.clear();
                        kinds.extend([Kind::ConfigMap, Kind::Secret]);
                    }
                    Missing::Report => {
                        let uids = self.pods.iter().map(|(key, (pod, _))| (key.clone(), pod.uid.clone()));
                        self.missing = uids.filter(|(key, _)| !self.gone.contains(key)).collect();
                    }
                }
                for (pod, needs) in listed.pods.into_values() {
                    self.missing.remove(&pod.key);
                    self.gone.remove(&pod.key);
                    self.pods.insert(pod.key.clone(), (pod, needs));
                }
                let last = |pod: &Object| String::from_utf8(pod.body.expose().to_vec()).unwrap().contains("Failed");
                let ended = self.pods.values().filter(|(pod, _)| last(pod));
                self.ended.extend(ended.map(|(pod, _)| (pod.key.clone(), pod.uid.clone())));
                listed.objects.into_values().for_each(|object| self.put(object));
                Change::Reset { objects, kinds, missing: *missing }
            }
        }
    }

    /// What no pod names is not kept, and what is known of a pod goes with it.
    fn settle(&mut self) {
        let needed: BTreeSet<&ObjectKey> = self.pods.values().flat_map(|(_, needs)| needs).collect();
        self.objects.retain(|key, _| needed.contains(key));
        self.absent.retain(|key, _| needed.contains(key) && !self.objects.contains_key(key));
        self.ended.retain(|(key, uid)| self.pods.get(key).is_some_and(|(pod, _)| pod.uid == *uid));
        self.missing.retain(|key, _| self.pods.contains_key(key));
        self.gone.retain(|key| self.pods.contains_key(key));
        let before = std::mem::take(&mut self.rows);
        for (key, (pod, _)) in &self.pods {
            let known = before.get(key);
            let row = known.filter(|row| row.uid == pod.uid).cloned().unwrap_or_else(|| Row {
                uid: pod.uid.clone(),
                lifecycle: match known.map(|row| row.lifecycle) {
                    Some(Lifecycle::Active | Lifecycle::ActiveGrace { .. }) => Lifecycle::Active,
                    _ => Lifecycle::Inactive,
                },
                republished: 0,
                held: known.is_some_and(|row| row.held),
            });
            self.rows.insert(key.clone(), row);
        }
        self.unknown.clear();
        // Decisions first, whatever the order in the batch.
        self.said.sort_by_key(|said| matches!(said, Said::Hold(..)));
        for said in std::mem::take(&mut self.said) {
            match said {
                Said::Decided(key, uid, lifecycle, republished) => {
                    if let Some(row) = self.rows.get_mut(&key).filter(|row| row.uid == uid) {
                        (row.lifecycle, row.republished) = (lifecycle, republished);
                    }
                }
                Said::Hold(key, held) => match self.rows.get_mut(&key) {
                    Some(row) => row.held = held,
                    None => drop(self.unknown.insert(key)),
                },
            }
        }
    }

    fn holds(&self) -> BTreeMap<&ObjectKey, &Object> {
        self.pods.iter().map(|(key, (pod, _))| (key, pod)).chain(&self.objects).collect()
    }
}

fn pod_name(key: &ObjectKey) -> PodName {
    PodName { namespace: key.namespace().to_owned(), name: key.name().to_owned() }
}

fn check(snapshot: &Snapshot, model: &Model) {
    assert!(snapshot.findings().is_empty(), "{:?}", snapshot.findings());
    let holds = model.holds();
    let keys: Vec<&ObjectKey> = snapshot.objects().map(|object| object.key).collect();
    assert_eq!(keys, holds.keys().copied().collect::<Vec<_>>());
    for (key, want) in holds {
        match snapshot.get(key) {
            Lookup::Found(found) => assert!(found == *want, "{key} has another body"),
            other => panic!("{key}: {other:?}"),
        }
    }
    for (key, why) in &model.absent {
        match (why, snapshot.get(key)) {
            (Absence::NotFound, Lookup::Missing) | (Absence::Forbidden, Lookup::Forbidden) => {}
            (why, other) => panic!("{key}: {other:?} where it is {why:?}"),
        }
    }
    for (key, (pod, needs)) in &model.pods {
        let absent: Vec<_> = model.absent.iter().filter(|(key, _)| needs.contains(key)).collect();
        let recorded: Vec<_> = snapshot.absent(key).collect();
        assert_eq!(recorded.iter().map(|(key, why)| (key, why)).collect::<Vec<_>>(), absent, "{key}");
        assert_eq!(snapshot.ended(key).is_some(), model.ended.contains(&(key.clone(), pod.uid.clone())), "{key}");
    }
    for (key, row) in &model.rows {
        assert_eq!(snapshot.lifecycle(key), Some(row.lifecycle), "{key}");
        assert_eq!((snapshot.republished(key), snapshot.held(key)), (row.republished, row.held), "{key}");
        assert_eq!(snapshot.gone(key), model.gone.contains(key), "{key}");
    }
    assert_eq!(snapshot.boot_id(), model.boot_id.as_deref());
    assert_eq!(snapshot.populated(), model.populated);
    let logged: Vec<Revision> = snapshot.log().map(|(revision, _)| revision).collect();
    assert!(logged.is_sorted() && logged.last().is_none_or(|last| *last <= snapshot.revision()));
    assert!(snapshot.log().all(|(_, record)| !record.items.is_empty()));
}

/// Runs one history; `reopen` may exchange the store's handle after each batch.
fn history(
    mut store: Box<dyn Backend>,
    secrets: &[&Unlocker],
    batches: &[Vec<Step>],
    mut reopen: impl FnMut(Box<dyn Backend>) -> Box<dyn Backend>,
) {
    let mut model = Model::default();
    let mut revision = store.snapshot().unwrap().get().revision();
    for batch in batches {
        let mut after = model.clone();
        let changes: Vec<Change> = batch.iter().map(|step| after.apply(step)).collect();
        match store.update(changes, common::NOW) {
            Err(StoreError::EmptyListing { .. }) => assert!(after.refused, "{batch:?}"),
            Err(error) => panic!("{batch:?}: {error}"),
            Ok(update) => {
                assert!(!after.refused, "a listing without pods was taken: {batch:?}");
                after.settle();
                let missing: Vec<_> = std::mem::take(&mut after.missing).into_iter().collect();
                assert_eq!(update.get().missing, missing, "{batch:?}");
                let rejected: BTreeSet<_> =
                    update.get().rejected.iter().map(|rejected| rejected.object.clone()).collect();
                assert_eq!(rejected, std::mem::take(&mut after.unknown), "{batch:?}");
                // What changes is written, and what does not is not.
                let next = Revision(revision.0 + u64::from(after != model));
                assert_eq!(update.get().revision, next, "{batch:?}");
                revision = update.get().revision;
                model = after;
            }
        }
        let snapshot = store.snapshot().unwrap().into_inner();
        check(&snapshot, &model);
        match store.image() {
            Ok(image) => {
                let read = open_image(image, secrets).unwrap().into_inner();
                assert_eq!(read.revision(), snapshot.revision());
                assert!(read.log().eq(snapshot.log()), "{batch:?}");
                check(&read, &model);
            }
            Err(StoreError::NoFile) => {}
            Err(error) => panic!("{batch:?}: {error}"),
        }
        store = reopen(store);
    }
}

fn batches() -> impl Strategy<Value = Vec<Vec<Step>>> {
    proptest::collection::vec(proptest::collection::vec(step(), 1..4), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn memory_holds_what_the_model_holds(batches in batches()) {
        let mut store = MemoryStore::new(common::identity(), Box::new(SystemEntropy)).unwrap();
        let secret = common::secret();
        let wanted = SlotsWanted { add: &[&secret], ..SlotsWanted::default() };
        let _durable = store.keep_slots(&wanted, common::NOW).unwrap();
        history(Box::new(store), &[], &batches, |store| store);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn redb_holds_what_the_model_holds(batches in batches(), reopen in any::<u16>()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoint-store.db");
        let secret = common::secret();
        let new = NewStore { identity: common::identity(), secret: Some(&secret) };
        let store = RedbStore::create(&path, new, Box::new(SystemEntropy)).unwrap();
        let mut batch = 0;
        history(Box::new(store), &[&secret], &batches, |store| {
            batch += 1;
            if reopen >> (batch % 16) & 1 == 0 {
                return store;
            }
            drop(store);
            Box::new(RedbStore::open(&path, &[&secret], Box::new(SystemEntropy)).unwrap())
        });
        let left = open_offline(&path, &[&secret]).unwrap();
        prop_assert!(left.get().findings().is_empty(), "{:?}", left.get().findings());
    }
}
