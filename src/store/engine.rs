//! What a batch of changes does to the tables; the same for every backend.
//!
//! All of it happens inside one transaction of the caller: a listing is compared with the stored state there, and a pod is
//! written together with the list of the objects that it needs, so that a record lost later is noticed.

use std::collections::{BTreeMap, BTreeSet};

use store_format::{Activity, Envelope, Identity, Link, PodRow, State, Table, meta_key};

use super::backend::{Change, Rejected, Update};
use super::record;
use super::tables::{RowKey, Tables};
use super::vault::Vault;
use super::{LockState, Revision, StoreError};
use crate::checkpoint::closure::references;
use crate::checkpoint::judge::has_run;
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::checkpoint::rendering::PodName;
use crate::crypto::Entropy;

/// Everything a batch needs besides the tables.
pub(super) struct Context<'a> {
    pub(super) vault: Option<&'a Vault>,
    pub(super) lock: LockState,
    pub(super) entropy: &'a dyn Entropy,
    pub(super) now_unix_ms: u64,
}

/// What sealing adds to a body: salt and tag.
const SEALING_BYTES: usize = store_format::SALT_BYTES + store_format::GCM_TAG_BYTES;

/// The longest JSON that is stored.
const OBJECT_MAX_BYTES: usize = store_format::BODY_MAX_BYTES - SEALING_BYTES;

/// Applies `changes`. `Ok` with an unchanged revision means that nothing was written.
pub(super) fn apply(
    tables: &mut dyn Tables,
    context: &Context<'_>,
    changes: Vec<Change>,
) -> Result<(Update, Option<Identity>), StoreError> {
    if context.lock == LockState::Locked {
        return Err(StoreError::NoKeyOpens);
    }
    let mut batch = Batch {
        tables,
        context,
        pending: BTreeMap::new(),
        update: Update::default(),
        grown: BTreeMap::new(),
        populated: false,
        wrote: false,
    };
    let mut decided = Vec::new();
    for change in changes {
        match change {
            Change::Apply { object, with } => {
                for needed in with {
                    batch.stage(needed);
                }
                batch.stage(object);
            }
            Change::Delete { key, uid } => batch.stage_delete(key, &uid)?,
            Change::Reset { objects, kinds } => batch.stage_reset(objects, &kinds)?,
            Change::Decided { pod, uid, activity } => decided.push((pod, uid, activity)),
        }
    }
    batch.settle_namespaces()?;
    batch.write_cluster_objects()?;
    for (pod, uid, activity) in decided {
        batch.write_decision(&pod, &uid, activity)?;
    }
    let identity = batch.update_identity()?;
    batch.finish(identity)
}

struct Batch<'a> {
    tables: &'a mut dyn Tables,
    context: &'a Context<'a>,
    /// What each touched object shall be afterwards; `None`: gone.
    pending: BTreeMap<ObjectKey, Option<Object>>,
    update: Update,
    /// By how many records each kind has grown in this batch.
    grown: BTreeMap<Kind, i64>,
    populated: bool,
    wrote: bool,
}

/// A stored object as the engine finds it; damaged records count as absent, since a new version replaces them.
struct Stored {
    envelope: Envelope,
}

impl Batch<'_> {
    /// An object that does not fit is left out and named; it does not take the rest of the batch with it.
    fn stage(&mut self, object: Object) {
        let texts = object.uid.len().max(object.resource_version.len());
        let problem = if object.body.len() > OBJECT_MAX_BYTES {
            format!("it has {} bytes of JSON; the store takes {OBJECT_MAX_BYTES}", object.body.len())
        } else if texts > store_format::TEXT_MAX_BYTES {
            "its uid or resourceVersion is too long".to_owned()
        } else {
            self.pending.insert(object.key.clone(), Some(object));
            return;
        };
        self.update.rejected.push(Rejected { object: object.key, problem });
    }

    fn stage_delete(&mut self, key: ObjectKey, uid: &str) -> Result<(), StoreError> {
        let current = match self.pending.get(&key) {
            // A step before this one, in the same batch, may have made it anew.
            Some(object) => object.as_ref().map(|object| object.uid.clone()),
            None => self.stored(&key)?.map(|stored| stored.envelope.uid),
        };
        let another = current.is_some_and(|current| !uid.is_empty() && current != uid);
        if !another {
            self.pending.insert(key, None);
        }
        Ok(())
    }

    fn stage_reset(&mut self, objects: Vec<Object>, kinds: &[Kind]) -> Result<(), StoreError> {
        let listed: BTreeSet<ObjectKey> = objects.iter().map(|object| object.key.clone()).collect();
        // Earlier steps of the batch are as good as stored: the listing is newer than they are.
        let mut there: BTreeSet<ObjectKey> = BTreeSet::new();
        for kind in kinds {
            for row in self.tables.objects(kind.row().name, None)? {
                // A row whose key is no name can't be listed by anybody; it stays for `verify` to report.
                there.extend(ObjectKey::new(*kind, &row.key[1], &row.key[2]));
            }
        }
        for (key, object) in self.pending.iter().filter(|(key, _)| kinds.contains(&key.kind())) {
            match object {
                Some(_) => there.insert(key.clone()),
                None => there.remove(key),
            };
        }
        let is_pod = |key: &&ObjectKey| key.kind() == Kind::Pod;
        let stored_pods = there.iter().filter(is_pod).count();
        if kinds.contains(&Kind::Pod) && stored_pods > 0 && !listed.iter().any(|key| is_pod(&key)) {
            return Err(StoreError::EmptyListing { stored: stored_pods });
        }
        // A listing without any pod says too little to be called complete: a new node's source may still be empty.
        self.populated |= listed.iter().any(|key| is_pod(&key));
        let absent: Vec<ObjectKey> = there.into_iter().filter(|key| !listed.contains(key)).collect();
        for key in absent {
            self.pending.insert(key, None);
        }
        for object in objects {
            self.stage(object);
        }
        Ok(())
    }

    fn stored(&self, key: &ObjectKey) -> Result<Option<Stored>, StoreError> {
        let place = RowKey::object(key);
        let Some(bytes) = self.tables.get(place)? else { return Ok(None) };
        let checked = record::check(Table::Objects, &place.parts(), &bytes, self.context.vault);
        let envelope = checked.ok().and_then(|checked| Envelope::decode(checked.payload).ok());
        Ok(envelope.filter(|envelope| record::belongs(envelope, key)).map(|envelope| Stored { envelope }))
    }

    /// Brings every namespace in order in which a pod, or the set of its objects, may have changed.
    fn settle_namespaces(&mut self) -> Result<(), StoreError> {
        let touched: BTreeSet<String> =
            self.pending.keys().filter(|key| needs_closure(key.kind())).map(|key| key.namespace().to_owned()).collect();
        for namespace in touched {
            if self.only_known_objects_change(&namespace)? {
                self.write_pending_in(&namespace, &BTreeMap::new())?;
            } else {
                self.settle(&namespace)?;
            }
        }
        Ok(())
    }

    /// The steady state: ConfigMaps and Secrets that are stored already get a new version, and nothing else happens. What
    /// is stored is named by some pod, so that no closure changes and no other record is looked at.
    fn only_known_objects_change(&self, namespace: &str) -> Result<bool, StoreError> {
        for (key, object) in &self.pending {
            if key.namespace() != namespace || !needs_closure(key.kind()) {
                continue;
            }
            if key.kind() == Kind::Pod || object.is_none() || self.stored(key)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
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
            match references(pod) {
                Ok(found) => {
                    references_of.insert(key, found.into_iter().map(|reference| reference.key).collect());
                }
                Err(error) => {
                    self.pending.remove(&key);
                    self.update.rejected.push(Rejected { object: key, problem: error.to_string() });
                }
            }
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
        let mut links_of = BTreeMap::new();
        for (pod, wanted) in references_of {
            let mut links = Vec::new();
            for key in wanted {
                if self.will_exist(&key)? {
                    links.push(link(&key));
                }
            }
            links_of.insert(pod, links);
        }
        self.write_pending_in(namespace, &links_of)
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
            None => Ok(self.tables.get(RowKey::object(key))?.is_some()),
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

    fn write_pending_in(
        &mut self,
        namespace: &str,
        links_of: &BTreeMap<ObjectKey, Vec<Link>>,
    ) -> Result<(), StoreError> {
        let keys: Vec<ObjectKey> = self
            .pending
            .keys()
            .filter(|key| key.namespace() == namespace && needs_closure(key.kind()))
            .cloned()
            .collect();
        for key in keys {
            let object = self.pending.remove(&key).expect("the key was listed a line above");
            match object {
                Some(object) => self.write(&object, links_of.get(&key).cloned().unwrap_or_default())?,
                None => self.remove(&key)?,
            }
        }
        Ok(())
    }

    /// Services and Nodes: nothing is linked to them, and they are linked to nothing.
    fn write_cluster_objects(&mut self) -> Result<(), StoreError> {
        for (key, object) in std::mem::take(&mut self.pending) {
            match object {
                Some(object) => self.write(&object, Vec::new())?,
                None => self.remove(&key)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, object: &Object, links: Vec<Link>) -> Result<(), StoreError> {
        if object.key.kind().row().sealed && self.context.vault.is_none() {
            self.update.unsealed.push(object.key.clone());
            return Ok(());
        }
        let before = self.stored(&object.key)?;
        let same = match &before {
            Some(stored) => {
                stored.envelope.links == links
                    && record::open(&object.key, &stored.envelope, self.context.vault).ok().flatten().as_ref()
                        == Some(object)
            }
            None => false,
        };
        if same {
            self.update.unchanged += 1;
        } else {
            let context = self.context;
            let envelope = record::envelope(object, links, context.now_unix_ms, context.vault, context.entropy)?;
            let payload = envelope.encode()?;
            if self.tables.get(RowKey::object(&object.key))?.is_none() {
                *self.grown.entry(object.key.kind()).or_default() += 1;
            }
            self.put(RowKey::object(&object.key), &payload)?;
            self.update.stored.push(object.key.clone());
        }
        if object.key.kind() == Kind::Pod {
            let known = before.is_some_and(|stored| stored.envelope.uid == object.uid);
            self.write_pod_row(object, known)?;
        }
        Ok(())
    }

    /// Keeps what is known of a pod beyond its object; a pod of another UID starts afresh.
    fn write_pod_row(&mut self, pod: &Object, known: bool) -> Result<(), StoreError> {
        let row = self.pod_row(pod.key.namespace(), pod.key.name())?;
        // A row that was lost said something of a pod that is stored: the doubt is in favour of its coming back.
        let lost = known && row.is_none();
        let before = row.filter(|row| row.uid == pod.uid);
        let ran = lost || has_run(pod) || before.as_ref().is_some_and(|row| row.ran);
        let row = match &before {
            Some(row) if row.ran == ran => return Ok(()),
            Some(row) => PodRow { ran, ..row.clone() },
            None => PodRow {
                uid: pod.uid.clone(),
                ran,
                activity: Activity::Inactive,
                decided_at_unix_ms: self.context.now_unix_ms,
            },
        };
        self.put(RowKey::Pod(pod.key.namespace(), pod.key.name()), &row.encode()?)
    }

    fn write_decision(&mut self, pod: &PodName, uid: &str, activity: Activity) -> Result<(), StoreError> {
        let Some(row) = self.pod_row(&pod.namespace, &pod.name)? else { return Ok(()) };
        if row.uid != uid || row.activity == activity {
            return Ok(());
        }
        let row = PodRow { activity, decided_at_unix_ms: self.context.now_unix_ms, ..row };
        self.put(RowKey::Pod(&pod.namespace, &pod.name), &row.encode()?)
    }

    fn pod_row(&self, namespace: &str, name: &str) -> Result<Option<PodRow>, StoreError> {
        let place = RowKey::Pod(namespace, name);
        let Some(bytes) = self.tables.get(place)? else { return Ok(None) };
        let checked = record::check(Table::Pods, &place.parts(), &bytes, self.context.vault);
        Ok(checked.ok().and_then(|checked| PodRow::decode(checked.payload).ok()))
    }

    fn remove(&mut self, key: &ObjectKey) -> Result<(), StoreError> {
        if self.tables.get(RowKey::object(key))?.is_none() {
            return Ok(());
        }
        self.tables.remove(RowKey::object(key))?;
        if key.kind() == Kind::Pod {
            self.tables.remove(RowKey::Pod(key.namespace(), key.name()))?;
        }
        self.wrote = true;
        *self.grown.entry(key.kind()).or_default() -= 1;
        self.update.removed.push(key.clone());
        Ok(())
    }

    fn put(&mut self, key: RowKey<'_>, payload: &[u8]) -> Result<(), StoreError> {
        self.wrote = true;
        self.tables.put(key, &record::frame(key, payload, self.context.vault))
    }

    /// Takes over what the stored Node says of this node: its UID and the kubelet's version.
    fn update_identity(&mut self) -> Result<Option<Identity>, StoreError> {
        let Some(identity) = read_meta(self.tables, meta_key::IDENTITY, self.context.vault, Identity::decode)? else {
            return Ok(None);
        };
        let Ok(key) = ObjectKey::new(Kind::Node, "", &identity.node_name) else { return Ok(None) };
        if !self.update.stored.contains(&key) {
            return Ok(None);
        }
        let Some(stored) = self.stored(&key)? else { return Ok(None) };
        let kubelet_version =
            kubelet_version(&stored.envelope.body).unwrap_or_else(|| identity.kubelet_version.clone());
        let updated = Identity { node_uid: stored.envelope.uid, kubelet_version, ..identity.clone() };
        if updated == identity {
            return Ok(None);
        }
        self.put(RowKey::Meta(meta_key::IDENTITY), &updated.encode()?)?;
        Ok(Some(updated))
    }

    fn finish(mut self, identity: Option<Identity>) -> Result<(Update, Option<Identity>), StoreError> {
        let before = read_meta(self.tables, meta_key::STATE, self.context.vault, State::decode)?;
        let populated = self.populated || before.as_ref().is_some_and(|state| state.populated);
        let unchanged = !self.wrote && before.as_ref().is_some_and(|state| state.populated == populated);
        let revision = before.as_ref().map_or(0, |state| state.revision);
        self.update.revision = Revision(if unchanged { revision } else { revision + 1 });
        if !unchanged {
            let state = State {
                revision: self.update.revision.0,
                populated,
                changed_at_unix_ms: self.context.now_unix_ms,
                census: self.census(before.as_ref())?,
                ..before.unwrap_or_else(|| State::new(self.context.now_unix_ms))
            };
            self.put(RowKey::Meta(meta_key::STATE), &state.encode()?)?;
        }
        Ok((self.update, identity))
    }

    /// How many records of each kind there are now: counted on from before, or counted anew where that was lost.
    fn census(&self, before: Option<&State>) -> Result<Vec<(String, u64)>, StoreError> {
        let mut census = Vec::new();
        for kind in Kind::ALL {
            let name = kind.row().name;
            let counted = before.and_then(|state| state.census.iter().find(|(kind, _)| kind == name));
            let count = match counted {
                Some((_, count)) => count.saturating_add_signed(self.grown.get(&kind).copied().unwrap_or_default()),
                None => self.tables.objects(name, None)?.len() as u64,
            };
            census.push((name.to_owned(), count));
        }
        Ok(census)
    }
}

/// Reads one record of the `meta` table; a damaged one counts as absent.
pub(super) fn read_meta<T>(
    tables: &dyn Tables,
    key: &str,
    vault: Option<&Vault>,
    decode: impl FnOnce(&[u8]) -> Result<T, store_format::DecodeError>,
) -> Result<Option<T>, StoreError> {
    let Some(bytes) = tables.get(RowKey::Meta(key))? else { return Ok(None) };
    let checked = record::check(Table::Meta, &[key], &bytes, vault);
    Ok(checked.ok().and_then(|checked| decode(checked.payload).ok()))
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

/// `status.nodeInfo.kubeletVersion` of a Node.
fn kubelet_version(node: &[u8]) -> Option<String> {
    let node: serde_json::Value = serde_json::from_slice(node).ok()?;
    node.pointer("/status/nodeInfo/kubeletVersion")?.as_str().map(str::to_owned)
}

/// Gives the store its data key: a slot for `secret`, and a tag for every record that is there.
pub(super) fn add_first_key(
    tables: &mut dyn Tables,
    vault: &Vault,
    secret: &store_format::NodeSecret,
    now_unix_ms: u64,
    entropy: &dyn Entropy,
) -> Result<Revision, StoreError> {
    let slot = vault.slot(secret, now_unix_ms, entropy)?;
    let key = store_format::slot_key(vault.store_id(), &slot.fingerprint);
    let payload = slot.encode();
    tables.put(RowKey::Slot(&key), &record::frame(RowKey::Slot(&key), &payload, None))?;
    // Without a slot no Secret opens: a second one in another table, and so on another page, survives a bad byte.
    let mirror = meta_key::slot_mirror(&key);
    tables.put(RowKey::Meta(&mirror), &record::frame(RowKey::Meta(&mirror), &payload, Some(vault)))?;
    for table in super::tables::TABLES.into_iter().filter(|table| *table != Table::Slots) {
        for row in tables.rows(table)? {
            let Some(place) = RowKey::from_parts(table, &row.key) else { continue };
            // A damaged record stays as it is, for `verify` to report; a tag would vouch for it.
            if let Ok(checked) = record::check(table, &place.parts(), &row.bytes, None) {
                tables.put(place, &record::frame(place, checked.payload, Some(vault)))?;
            }
        }
    }
    let before =
        read_meta(tables, meta_key::STATE, Some(vault), State::decode)?.unwrap_or_else(|| State::new(now_unix_ms));
    let state = State { revision: before.revision + 1, changed_at_unix_ms: now_unix_ms, ..before };
    let place = RowKey::Meta(meta_key::STATE);
    tables.put(place, &record::frame(place, &state.encode()?, Some(vault)))?;
    Ok(Revision(state.revision))
}
