//! Exchanging the data key: every record goes into a new file, sealed and tagged anew, which then takes the old one's place.
//!
//! Until the rename the old file is only read; from then on the new one is the store, whole. What a crash leaves of a new
//! file lies under a name that no store has, and the next exchange removes it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use store_format::{Envelope, Event, Form, Table, Unlocker, meta_key};

use super::file::{self, Access};
use super::fresh::Fresh;
use super::load::{self, SlotRow};
use super::progress::{self, Phase};
use super::tables::{Row, RowKey, Tables};
use super::vault::Vault;
use super::{Committed, LockState, Revision, SlotInfo, StoreError, engine, offline, record};
use crate::crypto::Entropy;

/// A store with a new data key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// Its revision.
    pub revision: Revision,
    /// Its slots: one for each slot that an unlocker at hand opened before, with its fingerprint and time.
    pub slots: Vec<SlotInfo>,
    /// Slots that are lost, because what opens them was not at hand. Whoever has it can have a new slot made.
    pub lost: Vec<SlotInfo>,
    /// How many slots of kinds that this version does not know are lost.
    pub lost_unknown: usize,
}

/// Exchanges the data key of the store at `path`, which nobody else may have open.
///
/// Slots are made for those `unlockers` only that have one now: a key whose slot was removed does not come back by this. It
/// is what gives the removal of a slot its effect, for everything that is written from now on.
///
/// # Errors
/// The store is in use, locked ([`StoreError::NoKeyOpens`]), without a data key ([`StoreError::NoDataKey`]) or not sound
/// ([`StoreError::NotSound`]), or the system refuses. The store is then as it was, with one exception: if the directory can't
/// be synced after the rename, the new file is in place and whole, but a power cut may still bring back the old one.
pub fn rotate(
    path: &Path,
    unlockers: &[&Unlocker],
    now_unix_ms: u64,
    entropy: &dyn Entropy,
) -> Result<Committed<Rotated>, StoreError> {
    let (old_file, base) = offline::locked(path, file::open(path, Access::Write)?)?;
    let before = offline::open_base(path, &base, unlockers)?.into_inner();
    let old = match (before.lock, before.vault.clone()) {
        (LockState::Keyless, _) => return Err(StoreError::NoDataKey),
        (LockState::Locked, _) | (LockState::Open, None) => return Err(StoreError::NoKeyOpens),
        (LockState::Open, Some(vault)) => vault,
    };
    if let Some(first) = before.findings().first() {
        let (path, findings) = (path.to_owned(), before.findings().len());
        return Err(StoreError::NotSound { path, findings, first: first.to_string() });
    }
    let (objects, slots_before) = (before.objects().count(), before.slots().to_vec());
    drop(before);

    let (rows, _) = offline::rows(path, &base)?;
    let exchange = Exchange { new: Vault::generate(*old.store_id(), entropy)?, old, entropy };
    let holders = exchange.holders(&rows, unlockers);
    let lost_unknown = unknown_slots(&rows);
    let fresh = Fresh::replacing(
        path,
        unlockers,
        |tables| exchange.write(tables, &rows, &holders, now_unix_ms),
        |after| after.findings().is_empty() && after.lock == LockState::Open && after.objects().count() == objects,
    )?;
    drop(rows);
    let revision = fresh.revision;
    fresh.replace(&old_file)?;
    let kept: BTreeSet<[u8; 32]> = holders.iter().map(|holder| holder.slot.fingerprint).collect();
    let (slots, lost) = slots_before.into_iter().partition(|slot| kept.contains(&slot.fingerprint));
    Ok(Committed::new(Rotated { revision, slots, lost, lost_unknown }))
}

/// Somebody who opened the store before, and shall do so after.
struct Holder<'a> {
    unlocker: &'a Unlocker,
    slot: SlotInfo,
}

struct Exchange<'a> {
    old: Arc<Vault>,
    new: Vault,
    entropy: &'a dyn Entropy,
}

impl Exchange<'_> {
    fn holders<'a>(&self, rows: &[Row], unlockers: &[&'a Unlocker]) -> Vec<Holder<'a>> {
        let mut holders: Vec<Holder<'a>> = Vec::new();
        for SlotRow { slot, .. } in load::slot_rows(rows) {
            let store_id = *self.old.store_id();
            let opens = |unlocker: &&&Unlocker| {
                unlocker.kind() == slot.kind
                    && Vault::unlock(store_id, &slot, unlocker).is_ok_and(|wrapped| wrapped.is(&self.old))
            };
            let known = holders.iter().any(|holder| holder.slot.fingerprint == slot.fingerprint);
            if let (false, Some(unlocker)) = (known, unlockers.iter().find(opens)) {
                let slot = SlotInfo {
                    kind: slot.kind,
                    fingerprint: slot.fingerprint,
                    created_at_unix_ms: slot.created_at_unix_ms,
                    opens: true,
                };
                holders.push(Holder { unlocker, slot });
            }
        }
        holders
    }

    /// Writes what the new file holds.
    fn write(
        &self,
        tables: &mut dyn Tables,
        rows: &[Row],
        holders: &[Holder<'_>],
        now_unix_ms: u64,
    ) -> Result<Revision, StoreError> {
        progress::begin(Phase::Writing, rows.len());
        for row in rows.iter().filter(|row| !is_slot(row)) {
            progress::step();
            let Some(place) = RowKey::from_parts(row.table, &row.key) else { continue };
            tables.put(place, &self.exchanged(place, row)?)?;
        }
        for Holder { unlocker, slot } in holders {
            let slot = self.new.slot_named(unlocker, slot.fingerprint, slot.created_at_unix_ms, self.entropy)?;
            engine::put_slot(tables, &self.new, &slot)?;
        }
        let rotated = vec![engine::of_store(Event::Rotated, "")];
        engine::finish_slots(tables, &self.new, rotated, now_unix_ms)
    }

    /// One record, sealed anew if it is sealed, and tagged anew.
    fn exchanged(&self, place: RowKey<'_>, row: &Row) -> Result<Vec<u8>, StoreError> {
        let unreadable = || StoreError::NotReadBack { table: row.table.name(), key: row.key.join("/") };
        let payload = record::check(row.table, &place.parts(), &row.bytes, Some(&self.old));
        let payload = payload.map_err(|_| unreadable())?.payload;
        if row.table != Table::Objects {
            return Ok(record::frame(place, payload, Some(&self.new)));
        }
        let mut envelope = Envelope::decode(payload).map_err(|_| unreadable())?;
        match envelope.form {
            Form::Clear => Ok(record::frame(place, payload, Some(&self.new))),
            Form::Sealed => {
                envelope.body = record::reseal(&envelope, &self.old, &self.new, self.entropy)
                    .and_then(|sealed| sealed.ok_or_else(unreadable))?;
                Ok(record::frame(place, &envelope.encode()?, Some(&self.new)))
            }
        }
    }
}

pub(super) fn is_slot(row: &Row) -> bool {
    let mirror = || row.key.first().is_some_and(|key| key.starts_with(meta_key::SLOT_MIRROR));
    row.table == Table::Slots || (row.table == Table::Meta && mirror())
}

fn unknown_slots(rows: &[Row]) -> usize {
    let slots = rows.iter().filter(|row| row.table == Table::Slots).count();
    let known: BTreeSet<_> =
        load::slot_rows(rows).filter(|slot| slot.row.table == Table::Slots).map(|slot| slot.slot.fingerprint).collect();
    slots.saturating_sub(known.len())
}
