//! Takes manifests into a store that nobody has open: what is added, what changes, what is refused and why. Never removes what
//! the manifests do not name, but for what no pod names any more.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::closure::references;
use crate::checkpoint::lookup::{Lookup, Objects as _};
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::source::manifests::bound_to;
use crate::source::text::says_the_same;
use crate::store::{Change, LockState, Snapshot, Update};

/// Why an object is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The store has another object of this name.
    #[error("the store has another one of this name (UID {stored}, and this one is {given}); it stays")]
    OtherUid {
        /// The UID of the stored one.
        stored: String,
        /// That of the one that was given.
        given: String,
    },
    /// A pod that may be the stored one or another.
    #[error(
        "it has no metadata.uid, and the store has a pod of this name (UID {stored}), which may be another one; it stays"
    )]
    NoUid {
        /// The UID of the stored one.
        stored: String,
    },
    /// A pod of another node, or another Node.
    #[error("it is of node {node}, and the store of node {own}")]
    OtherNode {
        /// Its node.
        node: String,
        /// The store's.
        own: String,
    },
}

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It is new in the store.
    Created,
    /// It takes the place of what the store has of it.
    Configured,
    /// The store has it already.
    Unchanged,
    /// No stored pod names it, so that it is not stored.
    Unreferenced,
    /// It is a Secret, and the store has no key yet.
    NoKey,
    /// It was stored, and no pod names it any more.
    Removed,
}

/// What an import comes to.
pub struct Import {
    /// Objects that are not taken.
    pub refused: Vec<(ObjectKey, Conflict)>,
    /// What becomes of the others, as far as it can be told beforehand.
    pub fates: BTreeMap<ObjectKey, Fate>,
    /// To be stored in one transaction.
    pub changes: Vec<Change>,
    /// What the store had.
    known: BTreeSet<ObjectKey>,
}

impl Import {
    /// What taking `objects` into a store of node `own` comes to; `stored` is the store, if there is one. Changes nothing.
    #[must_use]
    pub fn new(objects: Vec<Object>, stored: Option<&Snapshot>, own: &str) -> Self {
        let mut import = Self {
            refused: Vec::new(),
            fates: BTreeMap::new(),
            changes: Vec::new(),
            known: stored.iter().flat_map(|stored| stored.objects()).map(|object| object.key.clone()).collect(),
        };
        let mut pods = named_by_pods(stored);
        let mut taken = Vec::new();
        for object in objects {
            if let Some(conflict) = conflict(&object, stored, own) {
                import.refused.push((object.key, conflict));
                continue;
            }
            if object.key.kind() == Kind::Pod {
                // What names nothing that could be followed was refused when it was read.
                let named = references(&object).unwrap_or_default();
                pods.insert(object.key.clone(), named.into_iter().map(|reference| reference.key).collect());
            }
            taken.push(object);
        }
        let named: BTreeSet<&ObjectKey> = pods.values().flatten().collect();
        let keyless = stored.is_some_and(|stored| stored.lock_state() == LockState::Keyless);
        for object in taken {
            let kind = object.key.kind();
            let needs_a_pod = matches!(kind, Kind::ConfigMap | Kind::Secret);
            let found = stored.map_or(Lookup::Missing, |stored| stored.get(&object.key));
            let fate = match found {
                _ if needs_a_pod && !named.contains(&object.key) => Fate::Unreferenced,
                Lookup::Found(known) if says_the_same(&object, &known) => Fate::Unchanged,
                _ if kind.row().sealed && keyless => Fate::NoKey,
                _ if import.known.contains(&object.key) => Fate::Configured,
                _ => Fate::Created,
            };
            import.fates.insert(object.key.clone(), fate);
            match fate {
                // Written again, it would lose the version that was left out.
                Fate::Unchanged | Fate::Unreferenced => {}
                Fate::Created | Fate::Configured | Fate::NoKey | Fate::Removed => {
                    import.changes.push(Change::Apply { object, with: Vec::new() });
                }
            }
        }
        let touched: BTreeSet<String> = import
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::Apply { object, .. } => Some(object.key.namespace().to_owned()),
                _ => None,
            })
            .collect();
        let orphans = import.known.iter().filter(|key| {
            matches!(key.kind(), Kind::ConfigMap | Kind::Secret)
                && !named.contains(key)
                && touched.contains(key.namespace())
        });
        import.fates.extend(orphans.map(|key| (key.clone(), Fate::Removed)));
        import
    }

    /// What became of the objects, after the transaction.
    #[must_use]
    pub fn done(&self, update: &Update) -> BTreeMap<ObjectKey, Fate> {
        let stored = |key: &ObjectKey| if self.known.contains(key) { Fate::Configured } else { Fate::Created };
        let of_given = |key: &&ObjectKey| self.fates.contains_key(*key);
        let mut fates: BTreeMap<ObjectKey, Fate> = self
            .fates
            .iter()
            .filter(|(_, fate)| matches!(fate, Fate::Unchanged | Fate::Unreferenced))
            .map(|(key, fate)| (key.clone(), *fate))
            .collect();
        fates.extend(update.stored.iter().filter(of_given).map(|key| (key.clone(), stored(key))));
        fates.extend(update.removed.iter().map(|key| (key.clone(), Fate::Removed)));
        fates.extend(update.unreferenced.iter().map(|key| (key.clone(), Fate::Unreferenced)));
        fates.extend(update.unsealed.iter().map(|key| (key.clone(), Fate::NoKey)));
        fates
    }
}

fn conflict(object: &Object, stored: Option<&Snapshot>, own: &str) -> Option<Conflict> {
    let node = match object.key.kind() {
        Kind::Pod => bound_to(object),
        Kind::Node => Some(object.key.name().to_owned()),
        Kind::ConfigMap | Kind::Secret | Kind::Service => None,
    };
    if let Some(node) = node.filter(|node| node != own) {
        return Some(Conflict::OtherNode { node, own: own.to_owned() });
    }
    let known = stored?.objects().find(|known| *known.key == object.key)?;
    let (stored, given) = (known.uid.to_owned(), object.uid.clone());
    match (stored.is_empty(), given.is_empty()) {
        (true, _) => None,
        (false, true) if object.key.kind() == Kind::Pod => Some(Conflict::NoUid { stored }),
        // Somebody who changes a ConfigMap by hand need not know its UID.
        (false, true) => None,
        (false, false) => (stored != given).then_some(Conflict::OtherUid { stored, given }),
    }
}

/// What each stored pod names.
fn named_by_pods(stored: Option<&Snapshot>) -> BTreeMap<ObjectKey, BTreeSet<ObjectKey>> {
    let pods = stored.map(|stored| stored.all(Kind::Pod)).unwrap_or_default();
    let named = |pod: &Object| references(pod).unwrap_or_default().into_iter().map(|reference| reference.key).collect();
    pods.iter().map(|pod| (pod.key.clone(), named(pod))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SystemEntropy;
    use crate::store::{Backend, MemoryStore};

    fn object(kind: Kind, name: &str, uid: &str, rest: serde_json::Value) -> Object {
        let namespace = if kind.row().namespaced { "shop" } else { "" };
        let mut body = serde_json::json!({"metadata": {"name": name, "namespace": namespace, "uid": uid}});
        for (field, value) in rest.as_object().unwrap() {
            body[field] = value.clone();
        }
        let key = ObjectKey::new(kind, namespace, name).unwrap();
        Object { key, uid: uid.to_owned(), resource_version: String::new(), body: body.to_string().into() }
    }

    fn pod(name: &str, uid: &str, node: &str, map: &str) -> Object {
        let spec = serde_json::json!({"nodeName": node, "containers": [{"name": "c", "image": "i:1"}],
            "volumes": [{"name": "v", "configMap": {"name": map}}]});
        object(Kind::Pod, name, uid, serde_json::json!({"spec": spec}))
    }

    fn map(name: &str, uid: &str, value: &str) -> Object {
        object(Kind::ConfigMap, name, uid, serde_json::json!({"data": {"k": value}}))
    }

    fn store() -> MemoryStore {
        let identity = store_format::Identity::new(store_format::StoreId([7; 16]), 0, "edge-1");
        let mut store = MemoryStore::new(identity, Box::new(SystemEntropy)).unwrap();
        let objects = vec![
            pod("web", "u1", "edge-1", "m1"),
            map("m1", "m", "old"),
            pod("other", "u2", "edge-1", "m2"),
            map("m2", "m", "x"),
        ];
        let changes = objects.into_iter().map(|object| Change::Apply { object, with: Vec::new() });
        let _durable = store.update(changes.collect(), 0).unwrap();
        store
    }

    #[test]
    fn each_conflict_is_refused_by_name() {
        let snapshot = store().snapshot().unwrap().into_inner();
        let node = |name: &str| object(Kind::Node, name, "n", serde_json::json!({}));
        #[rustfmt::skip]
        let rows = [
            (pod("web", "u1", "edge-1", "m1"),   None),
            (pod("new", "u7", "edge-1", "m1"),   None),
            (pod("new", "", "edge-1", "m1"),     None),
            (pod("new", "u7", "", "m1"),         None),
            (pod("web", "u9", "edge-1", "m1"),   Some("UID u1, and this one is u9")),
            (pod("web", "", "edge-1", "m1"),     Some("no metadata.uid")),
            (pod("web", "u1", "edge-2", "m1"),   Some("of node edge-2")),
            (map("m1", "m", "new"),              None),
            (map("m1", "", "new"),               None),
            (map("m1", "m9", "new"),             Some("UID m, and this one is m9")),
            (node("edge-1"),                     None),
            (node("edge-2"),                     Some("of node edge-2")),
        ];
        for (object, want) in rows {
            let (key, uid) = (object.key.clone(), object.uid.clone());
            let import = Import::new(vec![object], Some(&snapshot), "edge-1");
            let said = import.refused.first().map(|(_, conflict)| conflict.to_string());
            match want {
                None => assert_eq!(said, None, "{key} {uid}"),
                Some(want) => assert!(said.as_ref().is_some_and(|said| said.contains(want)), "{key} {uid}: {said:?}"),
            }
            assert_eq!(
                import.changes.is_empty(),
                want.is_some() || key.name() == "web",
                "{key}: refused, or there already"
            );
        }
    }

    /// What a dry run says is what happens; what is not named stays.
    #[test]
    fn fates_are_told_beforehand() {
        #[rustfmt::skip]
        let rows = [
            (vec![pod("new", "u7", "edge-1", "m7"), map("m7", "m", "x")],  vec![("m7", Fate::Created), ("new", Fate::Created)]),
            (vec![map("m1", "", "new")],                                   vec![("m1", Fate::Configured)]),
            (vec![map("m1", "", "old")],                                   vec![("m1", Fate::Configured)]),
            (vec![map("m1", "m", "old")],                                  vec![("m1", Fate::Unchanged)]),
            (vec![map("stray", "m", "x")],                                 vec![("stray", Fate::Unreferenced)]),
            // The pod names another ConfigMap from now on.
            (vec![pod("web", "u1", "edge-1", "m2")],                       vec![("m1", Fate::Removed), ("web", Fate::Configured)]),
            (vec![pod("web", "u1", "edge-1", "m2"), map("m1", "m", "y")],  vec![("m1", Fate::Removed), ("web", Fate::Configured)]),
        ];
        for (number, (objects, want)) in rows.into_iter().enumerate() {
            let mut store = store();
            let before = store.snapshot().unwrap().into_inner();
            let import = Import::new(objects, Some(&before), "edge-1");
            let named = |fates: &BTreeMap<ObjectKey, Fate>| {
                let mut named: Vec<(String, Fate)> =
                    fates.iter().map(|(key, fate)| (key.name().to_owned(), *fate)).collect();
                named.sort();
                named
            };
            let want: Vec<(String, Fate)> = want.into_iter().map(|(name, fate)| (name.to_owned(), fate)).collect();
            assert_eq!(named(&import.fates), want, "row {number}");
            let update = store.update(import.changes.clone(), 0).unwrap().into_inner();
            assert_eq!(named(&import.done(&update)), want, "row {number}, done");
        }
    }
}
