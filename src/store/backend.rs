//! What the agent asks of a store, whatever lies beneath: redb with the feature gate on, memory with it off.
//!
//! [`super::conformance`] is the suite that every implementation passes, those of embedding programs included.

use store_format::{Activity, Identity, NodeSecret};

use super::{Committed, LockState, Revision, Snapshot, StoreError};
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
    /// A whole listing, compared with the store inside the transaction: what it does not name is deleted.
    Reset {
        /// Everything that there is.
        objects: Vec<Object>,
        /// The kinds for which the listing is complete; objects of other kinds stay.
        kinds: Vec<Kind>,
    },
    /// What was decided for a pod, recorded after it was acted on.
    Decided {
        /// The pod.
        pod: PodName,
        /// Its UID; the record of another one is left alone.
        uid: String,
        /// Whether its manifest is in the kubelet's directory.
        activity: Activity,
    },
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
    /// Objects that were there already, byte for byte.
    pub unchanged: usize,
    /// ConfigMaps and Secrets that no stored pod names: not stored.
    pub unreferenced: Vec<ObjectKey>,
    /// Secrets that could not be stored because the store has no key yet.
    pub unsealed: Vec<ObjectKey>,
    /// Objects that can't be stored.
    pub rejected: Vec<Rejected>,
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

    /// Gives a keyless store its data key, wrapped for `secret`, and tags every record, in one durable transaction.
    ///
    /// # Errors
    /// As for [`Backend::update`]; [`StoreError::NoKeyOpens`] if the store has a data key already.
    fn add_first_key(&mut self, secret: &NodeSecret, now_unix_ms: u64) -> Result<Committed<Revision>, StoreError>;

    /// A consistent view of everything that is durable.
    ///
    /// # Errors
    /// The store can't be read; damaged records alone are no error but findings of the snapshot.
    fn snapshot(&self) -> Result<Committed<Snapshot>, StoreError>;
}
