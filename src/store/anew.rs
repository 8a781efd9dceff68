//! Beginning anew with a store that no key opens: what is not sealed goes into a new file with a data key of its own, which
//! takes the old one's place, and the old file stays beside it.
//!
//! Nothing is lost by it: with one of its keys the old file opens as before. Secrets have to be fetched again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use store_format::{Envelope, Event, Form, State, Table, Unlocker, meta_key};

use super::file::{self, Access};
use super::fresh::Fresh;
use super::rotate::is_slot;
use super::tables::{Row, RowKey, Tables};
use super::vault::Vault;
use super::{Committed, Finding, LockState, Revision, StoreError, engine, fingerprint, offline, record};
use crate::checkpoint::object::Kind;
use crate::crypto::Entropy;

/// A store that was begun anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BegunAnew {
    /// Its revision.
    pub revision: Revision,
    /// Where the old file is.
    pub kept_at: PathBuf,
    /// How many objects were carried over; they count as authentic from now on.
    pub carried: usize,
    /// How many are in the old file only: those that are sealed, and those whose records are damaged.
    pub left: usize,
}

/// Begins anew with the store at `path`, which nobody else may have open and none of `unlockers` opens. Each of `wanted` gets a
/// slot in the new one; they are among `unlockers`.
///
/// The old file stays as it is, under the name of the store with `.locked-` and the time in seconds since 1970 behind it.
///
/// To be called only where everything can be fetched again: a pod whose Secrets are left behind does not come back until
/// they are.
///
/// # Errors
/// The store is in use, not locked ([`StoreError::NotLocked`]) or its file is damaged ([`StoreError::NotSound`]), no slot can
/// be made for `wanted` ([`StoreError::NoPublicKey`]), or the system refuses. The store is then as it was; if only the
/// directory can't be synced the new file is in place, and a power cut may still bring back the old one.
pub fn begin_anew(
    path: &Path,
    unlockers: &[&Unlocker],
    wanted: &[&Unlocker],
    now_unix_ms: u64,
    entropy: &dyn Entropy,
) -> Result<Committed<BegunAnew>, StoreError> {
    let (old_file, base) = offline::locked(path, file::open(path, Access::Write)?)?;
    let before = offline::open_base(path, &base, unlockers)?.into_inner();
    match before.lock {
        LockState::Locked => {}
        LockState::Open | LockState::Keyless => return Err(StoreError::NotLocked),
    }
    let structure = before.findings().iter().find(|finding| matches!(finding, Finding::Structure(_)));
    let Some(identity) = before.identity().filter(|_| structure.is_none()) else {
        let first = structure.map_or("whose store it is can't be read".to_owned(), ToString::to_string);
        return Err(StoreError::NotSound { path: path.to_owned(), findings: before.findings().len(), first });
    };
    if wanted.is_empty() || wanted.iter().any(|unlocker| fingerprint(unlocker).is_none()) {
        return Err(StoreError::NoPublicKey);
    }
    let vault = Vault::generate(identity.store_id, entropy)?;
    drop(before);

    let (rows, _) = offline::rows(path, &base)?;
    let carried = rows.iter().filter_map(carried).collect::<Vec<_>>();
    let is_object = |table: Table| table == Table::Objects;
    let objects = carried.iter().filter(|row| is_object(row.row.table)).count();
    let left = rows.iter().filter(|row| is_object(row.table)).count() - objects;
    let fresh = Fresh::replacing(
        path,
        wanted,
        |tables| fill(tables, &vault, &carried, wanted, now_unix_ms, entropy),
        |after| after.lock == LockState::Open && after.objects().count() == objects,
    )?;
    let revision = fresh.revision;
    let kept_at = file::aside_name(path, "locked", now_unix_ms / 1000, &old_file);
    fresh.replace_keeping(&old_file, &kept_at)?;
    Ok(Committed::new(BegunAnew { revision, kept_at, carried: objects, left }))
}

/// A row that goes into the new file, and what is in it there.
struct Carried<'a> {
    row: &'a Row,
    payload: Vec<u8>,
}

/// What becomes of a row: neither slots, nor what is sealed or damaged, is carried over.
fn carried(row: &Row) -> Option<Carried<'_>> {
    let place = RowKey::from_parts(row.table, &row.key)?;
    if is_slot(row) {
        return None;
    }
    let payload = record::check(row.table, &place.parts(), &row.bytes, None).ok()?.payload;
    if row.table != Table::Objects {
        return Some(Carried { row, payload: payload.to_vec() });
    }
    let mut envelope = Envelope::decode(payload).ok()?;
    if envelope.form == Form::Sealed {
        return None;
    }
    // What a pod names is stored with it or fetched again; until then it is simply not stored.
    envelope.links.retain(|link| Kind::from_name(&link.kind).is_some_and(|kind| !kind.row().sealed));
    Some(Carried { row, payload: envelope.encode().ok()? })
}

/// Writes what the new file holds.
fn fill(
    tables: &mut dyn Tables,
    vault: &Vault,
    carried: &[Carried<'_>],
    wanted: &[&Unlocker],
    now_unix_ms: u64,
    entropy: &dyn Entropy,
) -> Result<Revision, StoreError> {
    let mut census: BTreeMap<String, u64> = BTreeMap::new();
    for Carried { row, .. } in carried.iter().filter(|carried| carried.row.table == Table::Objects) {
        *census.entry(row.key.first().cloned().unwrap_or_default()).or_default() += 1;
    }
    for Carried { row, payload } in carried {
        let Some(place) = RowKey::from_parts(row.table, &row.key) else { continue };
        let state = row.table == Table::Meta && row.key == [meta_key::STATE];
        let payload = match State::decode(payload).ok().filter(|_| state) {
            Some(state) => State { census: census.clone().into_iter().collect(), ..state }.encode()?,
            None => payload.clone(),
        };
        tables.put(place, &record::frame(place, &payload, Some(vault)))?;
    }
    for unlocker in wanted {
        engine::put_slot(tables, vault, &vault.slot(unlocker, now_unix_ms, entropy)?)?;
    }
    let begun = vec![engine::of_store(Event::Rotated, "no key opened it: the old file was kept beside it")];
    engine::finish_slots(tables, vault, begun, now_unix_ms)
}
