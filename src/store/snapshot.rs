//! A consistent view of the store: every record that passed its checks, opened one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use store_format::{Envelope, Form, Identity, Lifecycle, LogRecord, PodRow, SlotKind};

use super::finding::Finding;
use super::tables::Row;
use super::vault::Vault;
use super::{Revision, absence, load, record};
use crate::checkpoint::lookup::{Absence, Lookup, Objects};
use crate::checkpoint::object::{Kind, Object, ObjectKey};

/// Whether Secrets can be read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    /// There is no data key yet: no Secret is stored.
    Keyless,
    /// There are key slots, but no key at hand opens one.
    Locked,
    /// A key opened a slot.
    Open,
}

/// What there is to know of a key slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// What opens it.
    pub kind: SlotKind,
    /// Names what opens it: see [`super::fingerprint`].
    pub fingerprint: [u8; 32],
    /// When it was made, in milliseconds since 1970; never before a slot that was there already.
    pub created_at_unix_ms: u64,
    /// Whether a key at hand opened it.
    pub opens: bool,
}

/// What a listing says of a stored object without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject<'a> {
    /// The object.
    pub key: &'a ObjectKey,
    /// Its `metadata.uid`.
    pub uid: &'a str,
    /// Its `metadata.resourceVersion`.
    pub resource_version: &'a str,
    /// When it was stored, in milliseconds since 1970, by the clock of that time.
    pub stored_at_unix_ms: u64,
    /// Whether its body is sealed.
    pub sealed: bool,
    /// Whether a key authenticated the record.
    pub authenticated: bool,
    /// Size of the body as stored, in bytes.
    pub body_bytes: usize,
}

/// One record that passed its checks.
pub(super) struct Record {
    pub(super) envelope: Envelope,
    pub(super) authenticated: bool,
}

/// Everything that is durable at one revision.
///
/// Bodies of Secrets stay sealed in memory; [`Objects::get`] opens one at a time.
pub struct Snapshot {
    pub(super) identity: Option<Identity>,
    pub(super) revision: Revision,
    pub(super) populated: bool,
    pub(super) source_position: String,
    pub(super) boot_id: String,
    pub(super) lock: LockState,
    pub(super) slots: Vec<SlotInfo>,
    pub(super) records: BTreeMap<ObjectKey, Record>,
    pub(super) rows: BTreeMap<(String, String), PodRow>,
    /// Rows of the log, by key; not checked yet.
    pub(super) log: Vec<Row>,
    /// Objects that are not stored because the API server does not let this node read them.
    pub(super) forbidden: BTreeSet<ObjectKey>,
    /// Objects whose records are there but failed a check, or were named by another record and are gone.
    pub(super) damaged: BTreeSet<ObjectKey>,
    pub(super) findings: Vec<Finding>,
    pub(super) vault: Option<Arc<Vault>>,
}

impl Snapshot {
    /// Whose store it is; `None` if that record is damaged.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// The name of the node that the store belongs to: from its identity, else from the one Node object in it.
    #[must_use]
    pub fn node_name(&self) -> Option<&str> {
        let mut nodes = self.records.keys().filter(|key| key.kind() == Kind::Node);
        self.identity.as_ref().map(|identity| identity.node_name.as_str()).or_else(|| {
            match (nodes.next(), nodes.next()) {
                (Some(node), None) => Some(node.name()),
                _ => None,
            }
        })
    }

    /// How many commits led here.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Whether a complete listing of the source was ever stored.
    #[must_use]
    pub fn populated(&self) -> bool {
        self.populated
    }

    /// How far the source was read when something was last written, in the source's own words.
    #[must_use]
    pub fn source_position(&self) -> Option<&str> {
        Some(self.source_position.as_str()).filter(|position| !position.is_empty())
    }

    /// Whether Secrets can be read.
    #[must_use]
    pub fn lock_state(&self) -> LockState {
        self.lock
    }

    /// The key slots that could be read, those of unknown kinds left out. By creation.
    #[must_use]
    pub fn slots(&self) -> &[SlotInfo] {
        &self.slots
    }

    /// Everything that is not as it should be; empty for a sound store.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Objects whose records are quarantined or lost.
    pub fn damaged(&self) -> impl Iterator<Item = &ObjectKey> {
        self.damaged.iter()
    }

    /// All readable objects, by kind, namespace and name.
    pub fn objects(&self) -> impl Iterator<Item = StoredObject<'_>> {
        self.records.iter().map(|(key, record)| StoredObject {
            key,
            uid: &record.envelope.uid,
            resource_version: &record.envelope.resource_version,
            stored_at_unix_ms: record.envelope.stored_at_unix_ms,
            sealed: record.envelope.form == Form::Sealed,
            authenticated: record.authenticated,
            body_bytes: record.envelope.body.len(),
        })
    }

    /// Whether this pod has run on this node, as far as the store knows.
    #[must_use]
    pub fn ran(&self, pod: &ObjectKey) -> bool {
        match self.row(pod) {
            Some(row) => row.ran,
            // The row is lost: the pod object's own status still tells what it told when it was stored.
            None => matches!(self.get(pod), Lookup::Found(object) if crate::checkpoint::judge::has_run(&object)),
        }
    }

    /// How this pod ended here, if it is on record that it has: `Succeeded`, or `Failed` with a reason. Final for its UID,
    /// whatever its status says.
    #[must_use]
    pub fn ended(&self, pod: &ObjectKey) -> Option<&str> {
        self.row(pod).map(|row| row.ended.as_str()).filter(|ended| !ended.is_empty())
    }

    /// Objects that this pod names and that were not to be had when the source was asked, and why. By key.
    pub fn absent(&self, pod: &ObjectKey) -> impl Iterator<Item = (ObjectKey, Absence)> {
        let row = self.row(pod).into_iter();
        row.flat_map(|row| absence::entries(pod.namespace(), row)).filter(|(key, _)| !self.records.contains_key(key))
    }

    /// What was last decided for this pod; `None` if that is not on record.
    #[must_use]
    pub fn lifecycle(&self, pod: &ObjectKey) -> Option<Lifecycle> {
        self.row(pod).map(|row| row.lifecycle)
    }

    /// Whether the source has proven that this pod is gone, and it is kept for its grace period.
    #[must_use]
    pub fn gone(&self, pod: &ObjectKey) -> bool {
        self.row(pod).is_some_and(|row| row.gone)
    }

    /// Whether an operator holds this pod's copy down.
    #[must_use]
    pub fn held(&self, pod: &ObjectKey) -> bool {
        self.row(pod).is_some_and(|row| row.held)
    }

    /// How often this pod's copy was published anew because it did not start.
    #[must_use]
    pub fn republished(&self, pod: &ObjectKey) -> u32 {
        self.row(pod).map_or(0, |row| row.republished)
    }

    /// The boot in which the agent last ran; `None` if that is not known.
    #[must_use]
    pub fn boot_id(&self) -> Option<&str> {
        Some(self.boot_id.as_str()).filter(|boot_id| !boot_id.is_empty())
    }

    /// What the last commits did, each with its revision, oldest first. A commit of which there is nothing to say is left
    /// out, as are records that are damaged.
    pub fn log(&self) -> impl DoubleEndedIterator<Item = (Revision, LogRecord)> {
        self.log.iter().filter_map(|row| load::log_record(row, self.vault.as_deref()).ok())
    }

    fn row(&self, pod: &ObjectKey) -> Option<&PodRow> {
        let row = self.rows.get(&(pod.namespace().to_owned(), pod.name().to_owned()))?;
        let record = self.records.get(pod)?;
        (row.uid == record.envelope.uid).then_some(row)
    }

    /// Every readable object of a kind, opened.
    #[must_use]
    pub fn all(&self, kind: Kind) -> Vec<Object> {
        let keys = self.records.keys().filter(|key| key.kind() == kind);
        keys.filter_map(|key| match self.get(key) {
            Lookup::Found(object) => Some(object),
            Lookup::Missing | Lookup::Forbidden | Lookup::Sealed | Lookup::NoKeyYet | Lookup::Damaged => None,
        })
        .collect()
    }
}

impl Objects for Snapshot {
    fn get(&self, key: &ObjectKey) -> Lookup {
        let Some(record) = self.records.get(key) else {
            return if self.damaged.contains(key) {
                Lookup::Damaged
            } else if self.forbidden.contains(key) {
                Lookup::Forbidden
            } else if key.kind().row().sealed && self.lock == LockState::Keyless {
                Lookup::NoKeyYet
            } else {
                Lookup::Missing
            };
        };
        match record::open(key, &record.envelope, self.vault.as_deref()) {
            Ok(Some(object)) => Lookup::Found(object),
            Ok(None) => Lookup::Sealed,
            Err(_) => Lookup::Damaged,
        }
    }
}
