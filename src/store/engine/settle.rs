//! Closures: what the pods of a namespace name is kept and linked, the rest goes.

use std::collections::{BTreeMap, BTreeSet};

use store_format::{ABSENT_MAX, LINKS_MAX, Link};

use super::{Batch, Needs, Stored};
use crate::checkpoint::closure::{REFERENCES_MAX, Reference, references, references_of};
use crate::checkpoint::judge::Past;
use crate::checkpoint::lookup::Absence;
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::checkpoint::pod::ParentPod;
use crate::store::backend::Rejected;
use crate::store::tables::RowKey;
use crate::store::{StoreError, absence, record};

/// What is absent for a pod is among what it names, and that is bounded by its links.
const _: () = assert!(LINKS_MAX >= REFERENCES_MAX && ABSENT_MAX >= REFERENCES_MAX);

impl Batch<'_> {
    /// Brings every namespace in order in which a pod, or the set of its objects, may have changed.
    pub(super) fn settle_namespaces(&mut self) -> Result<(), StoreError> {
        let absent = self.absences.iter().filter(|(_, why)| why.is_some()).map(|(key, _)| key);
        let touched: BTreeSet<String> = self
            .pending
            .keys()
            .chain(absent)
            .filter(|key| needs_closure(key.kind()))
            .map(|key| key.namespace().to_owned())
            .collect();
        for namespace in touched {
            match self.needs_stay(&namespace)? {
                Some(needs_of) => self.write_pending_in(&namespace, &needs_of)?,
                None => self.settle(&namespace)?,
            }
        }
        Ok(())
    }

    /// The steady state: what is stored already gets a new version (a pod one that names the same objects), and nothing else
    /// happens. What is stored is named by some pod, so that no closure changes and no other record is looked at.
    ///
    /// What the pods among them need; `None` if closures may change.
    fn needs_stay(&mut self, namespace: &str) -> Result<Option<BTreeMap<ObjectKey, Needs>>, StoreError> {
        if self.absences.iter().any(|(key, why)| key.namespace() == namespace && why.is_some()) {
            return Ok(None);
        }
        let (mut known, mut pasts, mut needs_of) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (key, object) in &self.pending {
            if key.namespace() != namespace || !needs_closure(key.kind()) {
                continue;
            }
            let Some(object) = object else { return Ok(None) };
            let Some(mut stored) = self.stored(key)? else { return Ok(None) };
            if key.kind() == Kind::Pod {
                let Some((needs, past)) = self.same_needs(object, &stored)? else { return Ok(None) };
                pasts.insert(key.clone(), past);
                needs_of.insert(key.clone(), needs);
            } else if !stored.may_be(object) {
                stored.envelope.body = Vec::new();
            }
            known.insert(key.clone(), stored);
        }
        // They are written next.
        (self.known, self.pasts) = (known, pasts);
        Ok(Some(needs_of))
    }

    /// What a pod needs, and what its status tells, if it is a new version of the stored one that names the same objects:
    /// the API server forbids most changes of a spec, so that hardly any version names others.
    fn same_needs(&self, pod: &Object, stored: &Stored) -> Result<Option<(Needs, Past)>, StoreError> {
        if stored.envelope.uid != pod.uid {
            return Ok(None);
        }
        // What is not to be had of it is kept in its row. One that was lost is made anew with the closure.
        let row = self.pod_row(pod.key.namespace(), pod.key.name())?.filter(|row| row.uid == pod.uid);
        let (Some(row), Ok(now)) = (row, ParentPod::parse(pod)) else { return Ok(None) };
        let keys = |found: Vec<Reference>| found.into_iter().map(|reference| reference.key).collect::<Vec<_>>();
        let Ok(named) = references_of(&now).map(keys) else { return Ok(None) };
        let Ok(Some(before)) = record::open(&pod.key, &stored.envelope, self.context.vault) else { return Ok(None) };
        if !references(&before).map(keys).is_ok_and(|before| before == named) {
            return Ok(None);
        }
        let absences = absence::entries(pod.key.namespace(), &row).collect();
        Ok(Some((self.needs(&named, &absences)?, Past::told_by(&now))))
    }

    /// Recomputes the closures of a namespace: what its pods need is kept and linked, the rest goes.
    fn settle(&mut self, namespace: &str) -> Result<(), StoreError> {
        let mut references_of: BTreeMap<ObjectKey, BTreeSet<ObjectKey>> = BTreeMap::new();
        let staged: Vec<ObjectKey> = self
            .pending
            .keys()
            .filter(|key| key.kind() == Kind::Pod && key.namespace() == namespace)
            .cloned()
            .collect();
        for key in staged {
            let Some(Some(pod)) = self.pending.get(&key) else { continue };
            let refused = match references(pod) {
                Ok(found) => {
                    references_of.insert(key, found.into_iter().map(|reference| reference.key).collect());
                    continue;
                }
                Err(error) => error.to_string(),
            };
            // The stored pod stays if this was a version of it. It is gone if another pod has its name now.
            let replaces = self.stored(&key)?.is_some_and(|stored| stored.envelope.uid != pod.uid);
            if replaces {
                self.pending.insert(key.clone(), None);
            } else {
                self.pending.remove(&key);
            }
            self.update.rejected.push(Rejected { object: key, problem: refused });
        }
        for pod in self.stored_in(Kind::Pod, namespace)? {
            if !self.pending.contains_key(&pod.key) {
                let found = references(&pod).map(|found| found.into_iter().map(|reference| reference.key).collect());
                references_of.insert(pod.key.clone(), found.unwrap_or_default());
                // A pod whose set of objects may have changed is written again with its new links.
                self.pending.insert(pod.key.clone(), Some(pod));
            }
        }
        let mut needed: BTreeSet<ObjectKey> = references_of.values().flatten().cloned().collect();
        if self.has_unreadable_pod(namespace)? {
            // What that pod needs is not known, so everything that is stored may be needed.
            for kind in [Kind::ConfigMap, Kind::Secret] {
                for row in self.tables.objects(kind.row().name, Some(namespace))? {
                    needed.extend(ObjectKey::new(kind, &row.key[1], &row.key[2]));
                }
            }
        }
        for kind in Kind::ALL.into_iter().filter(|kind| needs_closure(*kind) && *kind != Kind::Pod) {
            for row in self.tables.objects(kind.row().name, Some(namespace))? {
                if let Ok(key) = ObjectKey::new(kind, &row.key[1], &row.key[2])
                    && !needed.contains(&key)
                {
                    self.pending.insert(key, None);
                }
            }
        }
        let unneeded: Vec<ObjectKey> = self
            .pending
            .iter()
            .filter(|(key, object)| {
                object.is_some()
                    && key.namespace() == namespace
                    && needs_closure(key.kind())
                    && key.kind() != Kind::Pod
                    && !needed.contains(key)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in unneeded {
            self.pending.remove(&key);
            self.update.unreferenced.push(key);
        }
        let absences = self.absences_in(namespace)?;
        let mut needs_of = BTreeMap::new();
        for (pod, wanted) in references_of {
            needs_of.insert(pod, self.needs(&wanted, &absences)?);
        }
        self.write_pending_in(namespace, &needs_of)
    }

    /// What of these objects will be there, and what is known of the others.
    fn needs<'k>(
        &self,
        wanted: impl IntoIterator<Item = &'k ObjectKey>,
        absences: &BTreeMap<ObjectKey, Absence>,
    ) -> Result<Needs, StoreError> {
        let mut needs = Needs::default();
        for key in wanted {
            if self.will_exist(key)? {
                needs.links.push(link(key));
            } else if let Some(why) = absences.get(key) {
                needs.absent.push(absence::entry(key, *why));
            }
        }
        needs.absent.sort();
        Ok(needs)
    }

    /// What is known of objects of a namespace that are not to be had: what this batch says of them, else what the row of
    /// any pod there says. A pod that comes to name one learns it from the others.
    fn absences_in(&self, namespace: &str) -> Result<BTreeMap<ObjectKey, Absence>, StoreError> {
        let mut known = BTreeMap::new();
        for pod in self.tables.objects(Kind::Pod.row().name, Some(namespace))? {
            let Some(row) = self.pod_row(namespace, &pod.key[2])? else { continue };
            known.extend(absence::entries(namespace, &row));
        }
        for (key, why) in self.absences.iter().filter(|(key, _)| key.namespace() == namespace) {
            match why {
                Some(why) => drop(known.insert(key.clone(), *why)),
                None => drop(known.remove(key)),
            }
        }
        Ok(known)
    }

    /// Whether a pod is stored whose record can't be read, and which this batch neither replaces nor deletes.
    fn has_unreadable_pod(&self, namespace: &str) -> Result<bool, StoreError> {
        for row in self.tables.objects(Kind::Pod.row().name, Some(namespace))? {
            let Ok(key) = ObjectKey::new(Kind::Pod, &row.key[1], &row.key[2]) else { return Ok(true) };
            if !self.pending.contains_key(&key) && self.stored(&key)?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn will_exist(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        match self.pending.get(key) {
            Some(Some(_)) => Ok(!key.kind().row().sealed || self.context.vault.is_some()),
            Some(None) => Ok(false),
            None => Ok(self.tables.has(RowKey::object(key))?),
        }
    }

    /// Objects of a kind that is never sealed, as they are stored.
    fn stored_in(&self, kind: Kind, namespace: &str) -> Result<Vec<Object>, StoreError> {
        let mut found = Vec::new();
        for row in self.tables.objects(kind.row().name, Some(namespace))? {
            let Ok(key) = ObjectKey::new(kind, &row.key[1], &row.key[2]) else { continue };
            if let Some(stored) = self.stored(&key)?
                && let Ok(Some(object)) = record::open(&key, &stored.envelope, self.context.vault)
            {
                found.push(object);
            }
        }
        Ok(found)
    }

    fn write_pending_in(&mut self, namespace: &str, needs_of: &BTreeMap<ObjectKey, Needs>) -> Result<(), StoreError> {
        let keys: Vec<ObjectKey> = self
            .pending
            .keys()
            .filter(|key| key.namespace() == namespace && needs_closure(key.kind()))
            .cloned()
            .collect();
        for key in keys {
            let object = self.pending.remove(&key).expect("the key was listed a line above");
            match object {
                Some(object) => self.write(&object, needs_of.get(&key).cloned().unwrap_or_default())?,
                None => self.remove(&key)?,
            }
        }
        Ok(())
    }
}

/// Kinds whose objects are pods or are kept because a pod names them.
fn needs_closure(kind: Kind) -> bool {
    match kind {
        Kind::Pod | Kind::ConfigMap | Kind::Secret => true,
        Kind::Service | Kind::Node => false,
    }
}

fn link(key: &ObjectKey) -> Link {
    Link { kind: key.kind().row().name.to_owned(), namespace: key.namespace().to_owned(), name: key.name().to_owned() }
}
