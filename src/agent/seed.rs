//! From a loaded source to a durable listing: opening or creating the store, and one transaction.

use std::path::Path;

use store_format::{Identity, StoreId, SymmetricSecret, Unlocker};

use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::crypto::{Entropy, SystemEntropy, fresh};
use crate::source::manifests::bound_to;
use crate::store::{
    Backend, Carry, Change, Committed, LockState, MemoryStore, Missing, NewStore, Rebuilt, RedbStore, SlotsWanted,
    StoreError, Update, fingerprint, rebuild,
};

/// What a source brought into the store.
pub struct Seeded {
    /// What the transaction did.
    pub update: Committed<Update>,
    /// Pods that are bound to another node: left out.
    pub elsewhere: Vec<(ObjectKey, String)>,
    /// Whether the listing was complete, so that what it does not name was removed.
    pub complete: bool,
}

/// Opens the store for writing, or creates it for `node_name`.
///
/// A keyless store gets its first key here, if there is one.
///
/// # Errors
/// See [`RedbStore::open`] and [`RedbStore::create`].
pub fn open_or_create(
    path: &Path,
    secrets: &[&Unlocker],
    node_name: &str,
    now_unix_ms: u64,
) -> Result<RedbStore, StoreError> {
    let mut store = match RedbStore::open(path, secrets, Box::new(SystemEntropy)) {
        Ok(store) => store,
        Err(StoreError::NotFound(_)) => {
            let new = NewStore { identity: identity(node_name, now_unix_ms)?, secret: first_usable(secrets) };
            RedbStore::create(path, new, Box::new(SystemEntropy))?
        }
        Err(error) => return Err(error),
    };
    if store.lock_state() == LockState::Keyless
        && let Some(secret) = first_usable(secrets)
    {
        let wanted = SlotsWanted { add: &[secret], ..SlotsWanted::default() };
        let _durable = store.keep_slots(&wanted, now_unix_ms)?;
    }
    Ok(store)
}

/// As [`open_or_create`]; a store whose file is damaged is rebuilt from what still reads, and the damaged file is kept beside it.
///
/// What is lost has to come from the source again.
///
/// # Errors
/// As [`open_or_create`], and those of [`rebuild`]: the file is then as it was.
pub fn open_or_rebuild(
    path: &Path,
    secrets: &[&Unlocker],
    carry: Carry,
    node_name: &str,
    now_unix_ms: u64,
) -> Result<(RedbStore, Option<Rebuilt>), StoreError> {
    match open_or_create(path, secrets, node_name, now_unix_ms) {
        Ok(store) => Ok((store, None)),
        Err(error) if error.is_damage() => {
            let rebuilt = rebuild(path, secrets, carry, node_name, now_unix_ms, &SystemEntropy)?.into_inner();
            Ok((open_or_create(path, secrets, node_name, now_unix_ms)?, Some(rebuilt)))
        }
        Err(error) => Err(error),
    }
}

/// A store that is forgotten with the process: what there is while the feature gate `Checkpointing` is off.
///
/// Secrets are sealed in it with a key that is nowhere else.
///
/// # Errors
/// There is no randomness to be had, or `node_name` is longer than the format allows.
pub fn in_memory(node_name: &str, now_unix_ms: u64) -> Result<MemoryStore, StoreError> {
    let mut store = MemoryStore::new(identity(node_name, now_unix_ms)?, Box::new(SystemEntropy))?;
    let key = Unlocker::RecoveryCode(SymmetricSecret::of_recovery_code(&fresh(&SystemEntropy as &dyn Entropy)?));
    let wanted = SlotsWanted { add: &[&key], ..SlotsWanted::default() };
    let _kept = store.keep_slots(&wanted, now_unix_ms)?;
    Ok(store)
}

/// Of a store that is made now.
fn identity(node_name: &str, now_unix_ms: u64) -> Result<Identity, StoreError> {
    Ok(Identity::new(StoreId(fresh(&SystemEntropy as &dyn Entropy)?), now_unix_ms, node_name))
}

/// The first key that a slot can be made for: one with a public part.
fn first_usable<'a>(secrets: &[&'a Unlocker]) -> Option<&'a Unlocker> {
    secrets.iter().copied().find(|secret| fingerprint(secret).is_some())
}

/// Stores a listing in one transaction.
///
/// Where documents were skipped the listing is not complete, and nothing is removed for not being in it.
///
/// # Errors
/// See [`Backend::update`].
pub fn seed(
    store: &mut dyn Backend,
    objects: Vec<Object>,
    complete: bool,
    now_unix_ms: u64,
) -> Result<Seeded, StoreError> {
    let node_name = store.identity().node_name.clone();
    let mut elsewhere = Vec::new();
    let mut own = Vec::new();
    for object in objects {
        match (object.key.kind(), bound_to(&object)) {
            (Kind::Pod, Some(node)) if node != node_name => elsewhere.push((object.key, node)),
            (Kind::Node, _) if object.key.name() != node_name => {}
            _ => own.push(object),
        }
    }
    let changes = if complete {
        vec![Change::Reset { objects: own, kinds: Kind::ALL.to_vec(), missing: Missing::Delete }]
    } else {
        own.into_iter().map(|object| Change::Apply { object, with: Vec::new() }).collect()
    };
    let update = store.update(changes, now_unix_ms)?;
    Ok(Seeded { update, elsewhere, complete })
}
