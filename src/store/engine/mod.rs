//! What a batch of changes does to the tables; the same for every backend.
//!
//! All of it happens inside one transaction of the caller: a listing is compared with the stored state there, and a pod is
//! written together with the list of the objects that it needs, so that a record lost later is noticed.

#[cfg(test)]
mod cost;
mod identity;
mod log;
mod rows;
mod settle;
mod slots;

pub(super) use log::{append as append_log, of_store};
pub(super) use slots::{Ground, add as add_slots, finish as finish_slots, keep as keep_slots, put as put_slot};

use std::collections::{BTreeMap, BTreeSet};

use store_format::{
    AbsentObject, Envelope, Event, FORMAT_VERSION, Identity, Lifecycle, Link, LogItem, State, Table, decode_format,
    encode_format, log_key_revision, meta_key,
};

use crate::checkpoint::judge::Past;
use crate::checkpoint::lookup::Absence;
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::crypto::Entropy;
use crate::store::backend::{Change, Missing, Rejected, Update};
use crate::store::record;
use crate::store::tables::{RowKey, Tables};
use crate::store::vault::Vault;
use crate::store::{LockState, Revision, StoreError};

/// Everything a batch needs besides the tables.
pub(in crate::store) struct Context<'a> {
    pub(in crate::store) vault: Option<&'a Vault>,
    pub(in crate::store) lock: LockState,
    pub(in crate::store) entropy: &'a dyn Entropy,
    pub(in crate::store) now_unix_ms: u64,
}

/// What sealing adds to a body: salt and tag.
const SEALING_BYTES: usize = store_format::SALT_BYTES + store_format::GCM_TAG_BYTES;

/// The longest JSON that is stored.
const OBJECT_MAX_BYTES: usize = store_format::BODY_MAX_BYTES - SEALING_BYTES;

/// Applies `changes`. `Ok` with an unchanged revision means that nothing was written.
pub(in crate::store) fn apply(
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
        overtaken: BTreeMap::new(),
        absences: BTreeMap::new(),
        missing: BTreeMap::new(),
        gone: BTreeMap::new(),
        update: Update::default(),
        known: BTreeMap::new(),
        pasts: BTreeMap::new(),
        grown: BTreeMap::new(),
        populated: false,
        position: None,
        boot_id: None,
        noted: Vec::new(),
        wrote: false,
    };
    // The last word counts: what is taken back in the same batch is no news.
    let mut decided = BTreeMap::new();
    let mut holds = BTreeMap::new();
    let mut owners = Owners::default();
    for change in changes {
        match change {
            Change::Apply { object, with } => {
                for needed in with {
                    batch.stage(needed);
                }
                batch.stage(object);
            }
            Change::Delete { key, uid } => batch.stage_delete(key, &uid)?,
            Change::Gone { key, uid } => batch.stage_gone(key, &uid)?,
            Change::Absent { key, why } => drop(batch.absences.insert(key, Some(why))),
            Change::Reset { objects, kinds, missing } => batch.stage_reset(objects, &kinds, missing)?,
            Change::Complete => batch.populated |= batch.has_pending_pod(),
            Change::NodeName(name) => owners.nodes.push(name),
            Change::Cluster { ca_sha256 } => owners.clusters.push(ca_sha256.into_iter().collect()),
            Change::Adopt { node_name, ca_sha256 } => {
                owners.adopted.push((node_name, ca_sha256.into_iter().collect()));
            }
            Change::Position(position) => batch.position = Some(position),
            // What does not fit is as good as unknown; no batch fails for it.
            Change::Boot(id) if id.is_empty() || id.len() > store_format::TEXT_MAX_BYTES => {}
            Change::Boot(id) => batch.boot_id = Some(id),
            Change::Decided { pod, uid, lifecycle, republished, why } => {
                decided.insert((pod, uid), Decision { lifecycle, republished, why });
            }
            Change::Hold { pod, held } => drop(holds.insert(pod, held)),
        }
    }
    batch.settle_namespaces()?;
    batch.write_cluster_objects()?;
    batch.write_gone()?;
    for ((pod, uid), decision) in decided {
        batch.write_decision(&pod, &uid, decision)?;
    }
    for (pod, held) in holds {
        batch.write_hold(&pod, held)?;
    }
    let identity = batch.update_identity(&owners)?;
    batch.finish(identity)
}

struct Batch<'a> {
    tables: &'a mut dyn Tables,
    context: &'a Context<'a>,
    /// What each touched object shall be afterwards; `None`: gone.
    pending: BTreeMap<ObjectKey, Option<Object>>,
    /// Versions of pods that a later step of the batch replaced, oldest first: what they tell of a pod stays true.
    overtaken: BTreeMap<ObjectKey, Vec<Object>>,
    /// What this batch says last of objects that pods may name: why they are not to be had; `None`: they are.
    absences: BTreeMap<ObjectKey, Option<Absence>>,
    /// What listings lack, and the UID that is stored of it.
    missing: BTreeMap<ObjectKey, String>,
    /// What this batch says last of pods: whether they are gone.
    gone: BTreeMap<ObjectKey, bool>,
    update: Update,
    /// Stored objects that were looked at already and are written next; without a body where it is not asked for.
    known: BTreeMap<ObjectKey, Stored>,
    /// What the statuses of pods that are written next tell of their past, where they were read already.
    pasts: BTreeMap<ObjectKey, Past>,
    /// By how many records each kind has grown in this batch.
    grown: BTreeMap<Kind, i64>,
    populated: bool,
    position: Option<String>,
    boot_id: Option<String>,
    /// What goes into the log.
    noted: Vec<LogItem>,
    wrote: bool,
}

/// What was decided for a pod.
struct Decision {
    lifecycle: Lifecycle,
    republished: u32,
    why: String,
}

/// Whose store it is, as operator and source say.
#[derive(Default)]
struct Owners {
    /// Names and CAs that an operator gives it.
    adopted: Vec<(String, BTreeSet<[u8; 32]>)>,
    /// What the source calls the node.
    nodes: Vec<String>,
    /// The CAs that the source is trusted by.
    clusters: Vec<BTreeSet<[u8; 32]>>,
}

/// What a pod needs, as it is written with it.
#[derive(Clone, Default)]
struct Needs {
    /// The objects of it that are stored.
    links: Vec<Link>,
    /// Those that are not to be had.
    absent: Vec<AbsentObject>,
}

/// A stored object as the engine finds it; damaged records count as absent, since a new version replaces them.
struct Stored {
    envelope: Envelope,
}

impl Stored {
    /// Whether it may be the same as `object`: another version is another object, and need not be opened to see that.
    fn may_be(&self, object: &Object) -> bool {
        self.envelope.uid == object.uid && self.envelope.resource_version == object.resource_version
    }
}

impl Batch<'_> {
    /// An object that does not fit is left out and named; it does not take the rest of the batch with it.
    fn stage(&mut self, object: Object) {
        self.missing.remove(&object.key);
        self.absences.insert(object.key.clone(), None);
        if object.key.kind() == Kind::Pod {
            self.gone.insert(object.key.clone(), false);
        }
        let texts = object.uid.len().max(object.resource_version.len());
        let problem = if object.body.len() > OBJECT_MAX_BYTES {
            format!("it has {} bytes of JSON; the store takes {OBJECT_MAX_BYTES}", object.body.len())
        } else if texts > store_format::TEXT_MAX_BYTES {
            "its uid or resourceVersion is too long".to_owned()
        } else {
            self.set_pending(object.key.clone(), Some(object));
            return;
        };
        self.update.rejected.push(Rejected { object: object.key, problem });
    }

    /// What the object shall be after the batch, unless a later step says otherwise.
    fn set_pending(&mut self, key: ObjectKey, object: Option<Object>) {
        let replaced = self.pending.insert(key.clone(), object).flatten();
        if let Some(pod) = replaced.filter(|_| key.kind() == Kind::Pod) {
            self.overtaken.entry(key).or_default().push(pod);
        }
    }

    fn has_pending_pod(&self) -> bool {
        self.pending.iter().any(|(key, object)| key.kind() == Kind::Pod && object.is_some())
    }

    fn stage_delete(&mut self, key: ObjectKey, uid: &str) -> Result<(), StoreError> {
        let current = match self.pending.get(&key) {
            // A step before this one, in the same batch, may have made it anew.
            Some(object) => object.as_ref().map(|object| object.uid.clone()),
            None => self.stored(&key)?.map(|stored| stored.envelope.uid),
        };
        let another = current.is_some_and(|current| !uid.is_empty() && current != uid);
        if !another {
            self.absences.insert(key.clone(), Some(Absence::NotFound));
            self.set_pending(key, None);
        }
        Ok(())
    }

    /// A pod that is not there can't be gone: what is not stored needs no grace period.
    fn stage_gone(&mut self, key: ObjectKey, uid: &str) -> Result<(), StoreError> {
        if key.kind() != Kind::Pod {
            self.update.rejected.push(Rejected { object: key, problem: "only a pod has a grace period".to_owned() });
            return Ok(());
        }
        let current = match self.pending.get(&key) {
            Some(object) => object.as_ref().map(|object| object.uid.clone()),
            None => match self.stored(&key)? {
                Some(stored) => Some(stored.envelope.uid),
                // Its record can't be read; its row may still say which pod it was.
                None => self.pod_row(key.namespace(), key.name())?.map(|row| row.uid),
            },
        };
        if current.is_some_and(|current| uid.is_empty() || current == uid) {
            self.missing.remove(&key);
            self.gone.insert(key, true);
        }
        Ok(())
    }

    /// Whether the source has proven already that a stored pod is gone.
    fn is_gone(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        if key.kind() != Kind::Pod {
            return Ok(false);
        }
        if let Some(gone) = self.gone.get(key) {
            return Ok(*gone);
        }
        let Some(row) = self.pod_row(key.namespace(), key.name())? else { return Ok(false) };
        // Of a pod that was lost its row only is left, which goes with the next proof.
        Ok(row.gone
            && self.tables.has(RowKey::object(key))?
            && self.stored(key)?.is_none_or(|stored| stored.envelope.uid == row.uid))
    }

    fn stage_reset(&mut self, objects: Vec<Object>, kinds: &[Kind], missing: Missing) -> Result<(), StoreError> {
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
        let empty = kinds.contains(&Kind::Pod) && stored_pods > 0 && !listed.iter().any(|key| is_pod(&key));
        if empty && missing == Missing::Delete {
            return Err(StoreError::EmptyListing { stored: stored_pods });
        }
        if kinds.contains(&Kind::Pod) {
            there.extend(self.lost_pods()?);
        }
        // A listing without any pod says too little to be called complete: a new node's source may still be empty.
        self.populated |= listed.iter().any(|key| is_pod(&key));
        let absent: Vec<ObjectKey> = there.into_iter().filter(|key| !listed.contains(key)).collect();
        for key in absent {
            match missing {
                Missing::Delete => self.set_pending(key, None),
                Missing::Report if self.is_gone(&key)? => {}
                Missing::Report => {
                    let uid = match self.pending.get(&key) {
                        Some(object) => object.as_ref().map(|object| object.uid.clone()),
                        None => match self.stored(&key)? {
                            Some(stored) => Some(stored.envelope.uid),
                            None if key.kind() == Kind::Pod => {
                                self.pod_row(key.namespace(), key.name())?.map(|row| row.uid)
                            }
                            None => None,
                        },
                    };
                    self.missing.insert(key, uid.unwrap_or_default());
                }
            }
        }
        for object in objects {
            self.stage(object);
        }
        Ok(())
    }

    /// Pods of which the row is left only: their objects were lost with a damaged file.
    fn lost_pods(&self) -> Result<Vec<ObjectKey>, StoreError> {
        let mut lost = Vec::new();
        for row in self.tables.rows(Table::Pods)? {
            let [namespace, name] = row.key.as_slice() else { continue };
            let Ok(key) = ObjectKey::new(Kind::Pod, namespace, name) else { continue };
            if !self.pending.contains_key(&key) && !self.tables.has(RowKey::object(&key))? {
                lost.push(key);
            }
        }
        Ok(lost)
    }

    fn stored(&self, key: &ObjectKey) -> Result<Option<Stored>, StoreError> {
        let place = RowKey::object(key);
        let mut envelope = None;
        self.tables.look(place, &mut |bytes| {
            let checked = record::check(Table::Objects, &place.parts(), bytes, self.context.vault);
            envelope = checked.ok().and_then(|checked| Envelope::decode(checked.payload).ok());
        })?;
        Ok(envelope.filter(|envelope| record::belongs(envelope, key)).map(|envelope| Stored { envelope }))
    }

    /// Services and Nodes: nothing is linked to them, and they are linked to nothing.
    fn write_cluster_objects(&mut self) -> Result<(), StoreError> {
        for (key, object) in std::mem::take(&mut self.pending) {
            match object {
                Some(object) => self.write(&object, Needs::default())?,
                None => self.remove(&key)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, object: &Object, needs: Needs) -> Result<(), StoreError> {
        if object.key.kind().row().sealed && self.context.vault.is_none() {
            self.update.unsealed.push(object.key.clone());
            return Ok(());
        }
        let before = match self.known.remove(&object.key) {
            Some(stored) => Some(stored),
            None => self.stored(&object.key)?,
        };
        // Of a pod what it said before counts as well.
        let opened = before
            .as_ref()
            .filter(|stored| object.key.kind() == Kind::Pod || stored.may_be(object))
            .and_then(|stored| record::open(&object.key, &stored.envelope, self.context.vault).ok().flatten());
        let linked = before.as_ref().is_some_and(|stored| stored.envelope.links == needs.links);
        let event = match &before {
            Some(stored) if stored.envelope.uid == object.uid => Event::Changed,
            Some(_) | None => Event::Stored,
        };
        if linked && opened.as_ref() == Some(object) {
            self.update.unchanged += 1;
        } else {
            let context = self.context;
            let envelope = record::envelope(object, needs.links, context.now_unix_ms, context.vault, context.entropy)?;
            let payload = envelope.encode()?;
            // A record that can't be read is there all the same.
            if before.is_none() && !self.tables.has(RowKey::object(&object.key))? {
                *self.grown.entry(object.key.kind()).or_default() += 1;
            }
            self.put(RowKey::object(&object.key), &payload)?;
            self.update.stored.push(object.key.clone());
            // One that is written for its links only is the same object.
            if opened.as_ref() != Some(object) {
                self.note(event, &object.key, &object.uid, "");
            }
        }
        if object.key.kind() == Kind::Pod {
            let before = opened.filter(|stored| stored.uid == object.uid);
            self.write_pod_row(object, before.as_ref(), needs.absent)?;
        }
        Ok(())
    }

    fn remove(&mut self, key: &ObjectKey) -> Result<(), StoreError> {
        if !self.tables.has(RowKey::object(key))? {
            return self.remove_lost(key);
        }
        let uid = self.stored(key)?.map(|stored| stored.envelope.uid).unwrap_or_default();
        self.tables.remove(RowKey::object(key))?;
        self.note(Event::Removed, key, &uid, "");
        if key.kind() == Kind::Pod {
            self.tables.remove(RowKey::Pod(key.namespace(), key.name()))?;
        }
        self.wrote = true;
        *self.grown.entry(key.kind()).or_default() -= 1;
        self.update.removed.push(key.clone());
        Ok(())
    }

    /// Removes what is left of a pod that was lost.
    fn remove_lost(&mut self, key: &ObjectKey) -> Result<(), StoreError> {
        let place = RowKey::Pod(key.namespace(), key.name());
        if key.kind() == Kind::Pod && self.tables.has(place)? {
            let uid = self.pod_row(key.namespace(), key.name())?.map(|row| row.uid).unwrap_or_default();
            self.tables.remove(place)?;
            self.note(Event::Removed, key, &uid, "");
            self.wrote = true;
            self.update.removed.push(key.clone());
        }
        Ok(())
    }

    fn put(&mut self, key: RowKey<'_>, payload: &[u8]) -> Result<(), StoreError> {
        self.wrote = true;
        let frame = record::frame(key, payload, self.context.vault);
        self.update.written_bytes += frame.len() as u64;
        self.tables.put(key, &frame)
    }

    fn finish(mut self, identity: Option<Identity>) -> Result<(Update, Option<Identity>), StoreError> {
        let before = read_meta(self.tables, meta_key::STATE, self.context.vault, State::decode)?;
        let populated = self.populated || before.as_ref().is_some_and(|state| state.populated);
        let boot_id = match (self.boot_id.take(), &before) {
            (Some(boot_id), _) => boot_id,
            (None, Some(state)) => state.boot_id.clone(),
            (None, None) => String::new(),
        };
        let unchanged = !self.wrote
            && before.as_ref().is_some_and(|state| state.populated == populated && state.boot_id == boot_id);
        let revision = match &before {
            Some(state) => state.revision,
            // A record that was lost must not make the log begin anew.
            None => self.tables.log_last()?.and_then(|key| log_key_revision(&key)).unwrap_or_default(),
        };
        self.update.revision = Revision(if unchanged { revision } else { revision + 1 });
        for (key, uid) in std::mem::take(&mut self.missing) {
            // A later step of the batch may have deleted it, or taken away the last pod that named it.
            let lost = key.kind() == Kind::Pod && self.tables.has(RowKey::Pod(key.namespace(), key.name()))?;
            if lost || self.tables.has(RowKey::object(&key))? {
                self.update.missing.push((key, uid));
            }
        }
        if !unchanged {
            if populated && before.as_ref().is_some_and(|state| !state.populated) {
                self.note_store(Event::Populated, "");
            }
            if before.as_ref().is_some_and(|state| state.boot_id != boot_id) {
                self.note_store(Event::Booted, "");
            }
            self.write_log(&boot_id)?;
            upgrade_format(self.tables, self.context.vault)?;
            let state = State {
                boot_id,
                revision: self.update.revision.0,
                populated,
                changed_at_unix_ms: self.context.now_unix_ms,
                census: self.census(before.as_ref())?,
                // What does not fit is as good as unknown; no batch fails for it.
                source_position: match self.position.take() {
                    Some(position) if position.len() <= store_format::TEXT_MAX_BYTES => position,
                    Some(_) => String::new(),
                    None => before.as_ref().map(|state| state.source_position.clone()).unwrap_or_default(),
                },
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

/// Raises the version of a store that an older program made: from this commit on it holds what that one does not know.
fn upgrade_format(tables: &mut dyn Tables, vault: Option<&Vault>) -> Result<(), StoreError> {
    // A damaged record stays as it is, for `verify` to report.
    let found = read_meta(tables, meta_key::FORMAT, vault, decode_format)?;
    if found.is_none_or(|found| found >= FORMAT_VERSION) {
        return Ok(());
    }
    let place = RowKey::Meta(meta_key::FORMAT);
    tables.put(place, &record::frame(place, &encode_format(), vault))
}

/// Reads one record of the `meta` table; a damaged one counts as absent.
pub(in crate::store) fn read_meta<T>(
    tables: &dyn Tables,
    key: &str,
    vault: Option<&Vault>,
    decode: impl FnOnce(&[u8]) -> Result<T, store_format::DecodeError>,
) -> Result<Option<T>, StoreError> {
    let mut decode = Some(decode);
    let mut found = None;
    tables.look(RowKey::Meta(key), &mut |bytes| {
        let checked = record::check(Table::Meta, &[key], bytes, vault).ok();
        found = checked.zip(decode.take()).and_then(|(checked, decode)| decode(checked.payload).ok());
    })?;
    Ok(found)
}

/// As much of `text` as fits into `max` octets.
fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
