//! What the agent asks of a store, whatever lies beneath: redb with the feature gate on, memory with it off.
//!
//! [`super::conformance`] is the suite that every implementation passes, those of embedding programs included.

use store_format::{Identity, Lifecycle, Unlocker};

use super::{Committed, LockState, Revision, Size, Snapshot, StoreError};
use crate::checkpoint::lookup::Absence;
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::checkpoint::rendering::PodName;

/// One consistent step.
#[derive(Clone, Debug)]
pub enum Change {
    /// An object as it is now, together with every object that it newly needs.
    Apply {
        /// The object.
        object: Object,
        /// What it needs and the store may lack; empty for anything but a Pod.
        with: Vec<Object>,
    },
    /// An object is gone. Objects that only it needed go with it.
    Delete {
        /// Which one.
        key: ObjectKey,
        /// Only if the stored one has this UID (any, if empty): a re-created pod of the same name stays.
        uid: String,
    },
    /// The source has proven that a pod is gone, and what is stored of it is to be kept for its grace period: recorded with
    /// the pod, nothing is removed. It ends when the pod, of whatever UID, is applied or listed again.
    ///
    /// A gone pod is no news to a later listing: one with [`Missing::Report`] does not name it.
    Gone {
        /// Which pod; an object of another kind is named in [`Update::rejected`].
        key: ObjectKey,
        /// Only if the stored one has this UID (any, if empty).
        uid: String,
    },
    /// A ConfigMap or Secret that stored pods name is not to be had. Recorded with each of these pods for the verdict, after
    /// all objects of the batch; never deletes anything, and says nothing of an object that is stored.
    Absent {
        /// Which one.
        key: ObjectKey,
        /// Why.
        why: Absence,
    },
    /// A whole listing, compared with the store inside the transaction.
    Reset {
        /// Everything that there is.
        objects: Vec<Object>,
        /// The kinds for which the listing is complete; objects of other kinds stay.
        kinds: Vec<Kind>,
        /// What to do with stored objects of these kinds that the listing lacks.
        missing: Missing,
    },
    /// A complete listing was read before, and every step since: with a pod in the same batch the store is populated. A node
    /// that joins has none when it is listed.
    Complete,
    /// Which node the source speaks for. A store that was made before its node had a name takes it; one of another node
    /// refuses the whole batch with [`StoreError::OtherNode`].
    NodeName(String),
    /// Which cluster the source belongs to: the CAs that its API server is trusted by. Empty says nothing.
    ///
    /// A store that knows none yet records them; one that knows some of them takes these instead (a CA was rotated); one
    /// that knows others only refuses the whole batch with [`StoreError::OtherCluster`].
    Cluster {
        /// SHA-256 of each one's SubjectPublicKeyInfo (DER).
        ca_sha256: Vec<[u8; 32]>,
    },
    /// How far the source was read, opaque. Recorded if the batch writes anything; alone it is not worth a commit.
    Position(String),
    /// What was decided for a pod, recorded after it was acted on. Writes nothing if it is on record.
    Decided {
        /// The pod.
        pod: PodName,
        /// Its UID; the record of another one is left alone.
        uid: String,
        /// What was decided. Seconds that change alone are written, but are no news for the log.
        lifecycle: Lifecycle,
        /// How often its copy was published anew because it did not start.
        republished: u32,
        /// Why, for people: goes into the log only. Never a value of an object. Cut to
        /// [`store_format::LOG_WHY_MAX_BYTES`].
        why: String,
    },
    /// An operator holds the copy of a pod down, or releases it. It stays with the name: a pod that is created anew is held
    /// as well.
    Hold {
        /// The pod. One that is not stored is named in [`Update::rejected`], unless its name is none.
        pod: PodName,
        /// Whether it is held from now on.
        held: bool,
    },
    /// An operator says whose store it is from now on (`ckpt-db adopt`), before anything else that the batch says of it.
    Adopt {
        /// The node; empty to keep the name. With another name the UID of the node is forgotten.
        node_name: String,
        /// SHA-256 of the SubjectPublicKeyInfo (DER) of each CA of its cluster; empty to keep those that are known.
        ca_sha256: Vec<[u8; 32]>,
    },
    /// The boot in which the agent runs (`/proc/sys/kernel/random/boot_id`). Empty says nothing. Recorded, with a commit of
    /// its own if need be, where it is another one than before: a later boot is known to be new by it.
    Boot(String),
}

/// What becomes of stored objects that a listing lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Missing {
    /// They are deleted: the listing is the truth. One without any pod is refused ([`StoreError::EmptyListing`]) while
    /// pods are stored.
    Delete,
    /// They stay, and are named in [`Update::missing`]: their absence has yet to be proven. An empty listing is no error.
    Report,
}

/// An object that was left out of a transaction because it can't be stored; the others went in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The object.
    pub object: ObjectKey,
    /// What is wrong with it, without its contents.
    pub problem: String,
}

/// What one transaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// The store's revision after it.
    pub revision: Revision,
    /// Objects written because they were new or different.
    pub stored: Vec<ObjectKey>,
    /// Objects deleted.
    pub removed: Vec<ObjectKey>,
    /// Objects that stayed stored although a listing ([`Missing::Report`]) lacks them, each with the UID that is stored of
    /// it (empty if it has none, or if its record can't be read). By key.
    pub missing: Vec<(ObjectKey, String)>,
    /// Objects that were there already, byte for byte.
    pub unchanged: usize,
    /// ConfigMaps and Secrets that no stored pod names: not stored.
    pub unreferenced: Vec<ObjectKey>,
    /// Secrets that could not be stored because the store has no key yet.
    pub unsealed: Vec<ObjectKey>,
    /// Objects that can't be stored.
    pub rejected: Vec<Rejected>,
    /// How many bytes the records have that it wrote, as a file holds them; 0 if it committed nothing. For counting only.
    pub written_bytes: u64,
}

/// Which key slots a store is to have from now on.
#[derive(Clone, Copy, Default)]
pub struct SlotsWanted<'a> {
    /// Each of them gets a slot, if it has none that it opens. They are as good as newest: `node_keys_max` removes none of
    /// them.
    pub add: &'a [&'a Unlocker],
    /// The slots of these fingerprints go, if they are there; those in `add` as well.
    pub remove: &'a [[u8; 32]],
    /// How many slots of node keys stay, the newest of them. `None`: all.
    pub node_keys_max: Option<usize>,
    /// What kinds of slots there may be.
    pub policy: SlotPolicy,
    /// Whether those in `add` that have a slot get a fresh wrapping in its place. It counts as made now; among
    /// those in `add` their order stays.
    pub fresh: bool,
}

/// What kinds of slots a store may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SlotPolicy {
    /// Any.
    #[default]
    Any,
    /// Systemd credentials, and recovery codes. No slot of another kind is made; those that are there go as soon as a slot of
    /// a credential that opens is durable.
    CredentialOnly,
}

/// What became of the slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotsKept {
    /// The store's revision after it.
    pub revision: Revision,
    /// Fingerprints of the slots that were made, in the order of [`SlotsWanted::add`].
    pub added: Vec<[u8; 32]>,
    /// Fingerprints of the slots that went.
    pub removed: Vec<[u8; 32]>,
}

/// A store.
pub trait Backend: Send {
    /// Whose store it is.
    fn identity(&self) -> &Identity;

    /// Whether Secrets can be read and written.
    fn lock_state(&self) -> LockState;

    /// Applies all `changes` in one durable transaction, or none.
    ///
    /// A batch that changes nothing commits nothing: what it says is durable already.
    ///
    /// # Errors
    /// After [`StoreError::Refused`] nothing was written. After [`StoreError::OutcomeUnknown`] the store must be reopened.
    fn update(&mut self, changes: Vec<Change>, now_unix_ms: u64) -> Result<Committed<Update>, StoreError>;

    /// Adds and removes key slots. A keyless store gets its data key with the first one that is added, and every record its
    /// tag.
    ///
    /// What is added is one durable transaction; what is removed is another, made only after the new slots were read back and
    /// opened. Where there is nothing to do nothing is committed.
    ///
    /// # Errors
    /// As for [`Backend::update`]. After [`StoreError::NoKeyOpens`] (the store is locked), [`StoreError::NoPublicKey`] and
    /// [`StoreError::LastSlot`] nothing was written; after all others slots may have been added, and none that was needed
    /// removed.
    fn keep_slots(&mut self, wanted: &SlotsWanted<'_>, now_unix_ms: u64) -> Result<Committed<SlotsKept>, StoreError>;

    /// A copy of the store's file as it is between two commits, to be read with [`super::open_image`] or kept as a backup.
    ///
    /// # Errors
    /// [`StoreError::NoFile`] if the store is none; the file can't be read, or there is no memory for it.
    fn image(&self) -> Result<Vec<u8>, StoreError>;

    /// The length of the store's file; `None` if the store is none.
    ///
    /// # Errors
    /// The file can't be looked at.
    fn file_bytes(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    /// How large the store is; `None` if it is no file. Reads all of it.
    ///
    /// # Errors
    /// The store can't be read.
    fn size(&self) -> Result<Option<Size>, StoreError> {
        Ok(None)
    }

    /// Gives space of the file back that nothing stored needs. What is stored stays the same, whatever interrupts it.
    ///
    /// # Errors
    /// [`StoreError::NotCompacted`]: what is stored is unchanged, and the store must be reopened.
    fn compact(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// A consistent view of everything that is durable.
    ///
    /// # Errors
    /// The store can't be read; damaged records alone are no error but findings of the snapshot. Those of the log are left
    /// out when it is read.
    fn snapshot(&self) -> Result<Committed<Snapshot>, StoreError>;
}
