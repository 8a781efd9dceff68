//! Which key slots a store gets and loses, decided before anything is written; and how they are written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use store_format::{Event, KeySlot, LogItem, SlotKind, State, StoreId, Table, Unlocker, log_key_revision, meta_key};

use super::{log, read_meta, upgrade_format};
use crate::crypto::Entropy;
use crate::store::backend::{SlotPolicy, SlotsKept, SlotsWanted};
use crate::store::load::{self, Keys, SlotRow};
use crate::store::tables::{Row, RowKey, TABLES, Tables};
use crate::store::vault::{Vault, fingerprint};
use crate::store::{Revision, SlotInfo, StoreError, record};

/// What [`SlotsWanted`] comes to for the slots that are there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Which of the wanted unlockers get a slot, by their place in [`SlotsWanted::add`].
    add: Vec<usize>,
    /// The time that the first added slot is said to be made at, in milliseconds since 1970; each one after it counts one more.
    created_at_unix_ms: u64,
    /// Which slots go once the others are durable.
    remove: Vec<[u8; 32]>,
}

/// Decides. `slots` says of each slot whether a key at hand opens it, `fingerprints` names the unlockers of `wanted.add`.
///
/// # Errors
/// [`StoreError::LastSlot`]: after the removals no key at hand would open the store.
fn plan(
    slots: &[SlotInfo],
    wanted: &SlotsWanted<'_>,
    fingerprints: &[[u8; 32]],
    now_unix_ms: u64,
) -> Result<Plan, StoreError> {
    let allowed = |kind: SlotKind| match wanted.policy {
        SlotPolicy::Any => true,
        SlotPolicy::CredentialOnly => !matches!(kind, SlotKind::NodeKey | SlotKind::KeyFile),
    };
    let mut plan = Plan::default();
    let mut named = BTreeSet::new();
    for (index, (unlocker, name)) in wanted.add.iter().zip(fingerprints).enumerate() {
        let there = slots.iter().any(|slot| slot.kind == unlocker.kind() && slot.fingerprint == *name && slot.opens);
        if (!there || wanted.fresh) && allowed(unlocker.kind()) && named.insert(*name) {
            plan.add.push(index);
        }
    }
    if wanted.fresh {
        // Which of them is the oldest stays as it is.
        let made = |index: &usize| {
            let slot = slots.iter().find(|slot| slot.fingerprint == fingerprints[*index]);
            slot.map_or(u64::MAX, |slot| slot.created_at_unix_ms)
        };
        plan.add.sort_by_key(made);
    }
    let newest = slots.iter().map(|slot| slot.created_at_unix_ms).max();
    // A clock that is not set must not make the newest slot the oldest.
    plan.created_at_unix_ms = now_unix_ms.max(newest.map_or(0, |newest| newest.saturating_add(1)));

    // What would be there if nothing went: the slots that stay as they are, and the new ones.
    let mut after: Vec<SlotInfo> = slots.iter().filter(|slot| !named.contains(&slot.fingerprint)).cloned().collect();
    for (at, index) in (plan.created_at_unix_ms..).zip(&plan.add) {
        let (kind, fingerprint) = (wanted.add[*index].kind(), fingerprints[*index]);
        after.push(SlotInfo { kind, fingerprint, created_at_unix_ms: at, opens: true });
    }
    let keeps = |slot: &SlotInfo| fingerprints.contains(&slot.fingerprint) && allowed(slot.kind);
    let mut node_keys: Vec<&SlotInfo> = after.iter().filter(|slot| slot.kind == SlotKind::NodeKey).collect();
    node_keys.sort_by_key(|slot| std::cmp::Reverse((slot.created_at_unix_ms, slot.fingerprint)));
    let too_old = node_keys.into_iter().skip(wanted.node_keys_max.unwrap_or(usize::MAX));
    let mut gone: BTreeSet<[u8; 32]> = too_old.filter(|slot| !keeps(slot)).map(|slot| slot.fingerprint).collect();
    gone.extend(after.iter().filter(|slot| wanted.remove.contains(&slot.fingerprint)).map(|slot| slot.fingerprint));
    // Other slots go only where a credential opens in their place.
    if after.iter().any(|slot| slot.kind == SlotKind::Credential && slot.opens && !gone.contains(&slot.fingerprint)) {
        gone.extend(after.iter().filter(|slot| !allowed(slot.kind)).map(|slot| slot.fingerprint));
    }
    if !gone.is_empty() && !after.iter().any(|slot| slot.opens && !gone.contains(&slot.fingerprint)) {
        return Err(StoreError::LastSlot);
    }
    // What would go at once is not made.
    plan.add.retain(|index| !gone.contains(&fingerprints[*index]));
    let there = |name: &[u8; 32]| slots.iter().any(|slot| slot.fingerprint == *name);
    plan.remove = gone.into_iter().filter(there).collect();
    Ok(plan)
}

/// Where slots are kept: the database, or memory.
pub(in crate::store) trait Ground {
    /// The rows of the tables `meta` and `slots`.
    fn rows(&self) -> Result<Vec<Row>, StoreError>;
    /// Runs a change in one transaction and commits it durably.
    fn commit(
        &mut self,
        change: &mut dyn FnMut(&mut dyn Tables) -> Result<Revision, StoreError>,
    ) -> Result<Revision, StoreError>;
}

/// Does what [`crate::store::Backend::keep_slots`] promises, and keeps `keys` true.
pub(in crate::store) fn keep(
    ground: &mut dyn Ground,
    keys: &mut Keys,
    store_id: StoreId,
    wanted: &SlotsWanted<'_>,
    now_unix_ms: u64,
    entropy: &dyn Entropy,
) -> Result<SlotsKept, StoreError> {
    let named = wanted.add.iter().map(|unlocker| fingerprint(unlocker).ok_or(StoreError::NoPublicKey));
    let fingerprints = named.collect::<Result<Vec<_>, _>>()?;
    let rows = ground.rows()?;
    let slots = look(&rows, store_id, keys, wanted.add);
    let plan = plan(&slots, wanted, &fingerprints, now_unix_ms)?;
    let mut kept = SlotsKept { revision: revision_of(&rows), ..SlotsKept::default() };

    if !plan.add.is_empty() {
        let first = keys.vault.is_none();
        let vault = match &keys.vault {
            Some(vault) => Arc::clone(vault),
            None => Arc::new(Vault::generate(store_id, entropy)?),
        };
        let unlockers: Vec<&Unlocker> = plan.add.iter().map(|index| wanted.add[*index]).collect();
        let names: Vec<[u8; 32]> = plan.add.iter().map(|index| fingerprints[*index]).collect();
        kept.revision = ground.commit(&mut |tables| {
            add(tables, &vault, &unlockers, plan.created_at_unix_ms, entropy)?;
            if first {
                tag_all(tables, &vault)?;
            }
            let mut events = if first { vec![log::of_store(Event::Keyed, "")] } else { Vec::new() };
            // The first slot is what a data key comes with.
            let others = unlockers.iter().zip(&names).skip(usize::from(first));
            events.extend(others.map(|(unlocker, name)| added(unlocker.kind(), name)));
            finish(tables, &vault, events, now_unix_ms)
        })?;
        keys.vault = Some(vault);
        kept.added = names;
        // Nothing goes on the word of a write: what replaces it is read back, and opened, first.
        let there = look(&ground.rows()?, store_id, keys, &unlockers);
        let opens = |name: &[u8; 32]| there.iter().any(|slot| slot.fingerprint == *name && slot.opens);
        if !kept.added.iter().all(opens) {
            return Err(StoreError::SlotNotReadBack);
        }
        keys.opened.extend(&kept.added);
    }
    if let (Some(vault), false) = (&keys.vault, plan.remove.is_empty()) {
        kept.revision = ground.commit(&mut |tables| {
            let gone = slots.iter().filter(|slot| plan.remove.contains(&slot.fingerprint));
            let events = gone.map(|slot| log::of_store(Event::SlotRemoved, &shown(slot.kind, &slot.fingerprint)));
            remove(tables, vault, &plan.remove)?;
            finish(tables, vault, events.collect(), now_unix_ms)
        })?;
        keys.opened.retain(|name| !plan.remove.contains(name));
        kept.removed = plan.remove;
    }
    Ok(kept)
}

/// The slots of this store as they lie in the tables. Each of `unlockers` is tried on its own slot; of all others it is
/// believed that they still open if they did.
fn look(rows: &[Row], store_id: StoreId, keys: &Keys, unlockers: &[&Unlocker]) -> Vec<SlotInfo> {
    let names: Vec<_> = unlockers.iter().map(|unlocker| (fingerprint(unlocker), *unlocker)).collect();
    let mut slots: Vec<SlotInfo> = Vec::new();
    for SlotRow { slot, .. } in load::slot_rows(rows).filter(|slot| slot.store_id == Some(store_id)) {
        let at_hand =
            names.iter().find(|(name, unlocker)| *name == Some(slot.fingerprint) && unlocker.kind() == slot.kind);
        let opens = match (at_hand, &keys.vault) {
            (_, None) => false,
            (None, Some(_)) => keys.opened.contains(&slot.fingerprint),
            (Some((_, unlocker)), Some(vault)) => {
                Vault::unlock(store_id, &slot, unlocker).is_ok_and(|wrapped| wrapped.is(vault))
            }
        };
        match slots.iter_mut().find(|known| known.fingerprint == slot.fingerprint) {
            // Table and mirror: where one of them does not open both are written anew.
            Some(known) => known.opens &= opens,
            None => slots.push(SlotInfo {
                kind: slot.kind,
                fingerprint: slot.fingerprint,
                created_at_unix_ms: slot.created_at_unix_ms,
                opens,
            }),
        }
    }
    slots
}

/// The revision that the state record says.
fn revision_of(rows: &[Row]) -> Revision {
    let row = rows.iter().find(|row| row.table == Table::Meta && row.key == [meta_key::STATE]);
    let payload = row.and_then(|row| record::check(Table::Meta, &[meta_key::STATE], &row.bytes, None).ok());
    let state = payload.and_then(|checked| State::decode(checked.payload).ok());
    Revision(state.map_or(0, |state| state.revision))
}

/// Writes a slot for each of `unlockers`, in both places.
pub(in crate::store) fn add(
    tables: &mut dyn Tables,
    vault: &Vault,
    unlockers: &[&Unlocker],
    created_at_unix_ms: u64,
    entropy: &dyn Entropy,
) -> Result<(), StoreError> {
    for (at, unlocker) in (created_at_unix_ms..).zip(unlockers) {
        put(tables, vault, &vault.slot(unlocker, at, entropy)?)?;
    }
    Ok(())
}

/// Writes a slot in both places.
pub(in crate::store) fn put(tables: &mut dyn Tables, vault: &Vault, slot: &KeySlot) -> Result<(), StoreError> {
    let key = store_format::slot_key(vault.store_id(), &slot.fingerprint);
    let payload = slot.encode();
    tables.put(RowKey::Slot(&key), &record::frame(RowKey::Slot(&key), &payload, None))?;
    // Without a slot no Secret opens: a second one in another table, and so on another page, survives a bad byte.
    let mirror = meta_key::slot_mirror(&key);
    tables.put(RowKey::Meta(&mirror), &record::frame(RowKey::Meta(&mirror), &payload, Some(vault)))
}

/// Tags every record that is there: a keyless store has got its data key.
pub(in crate::store) fn tag_all(tables: &mut dyn Tables, vault: &Vault) -> Result<(), StoreError> {
    for table in TABLES.into_iter().filter(|table| *table != Table::Slots) {
        for row in tables.rows(table)? {
            let Some(place) = RowKey::from_parts(table, &row.key) else { continue };
            // A damaged record stays as it is, for `verify` to report; a tag would vouch for it.
            if let Ok(checked) = record::check(table, &place.parts(), &row.bytes, None) {
                tables.put(place, &record::frame(place, checked.payload, Some(vault)))?;
            }
        }
    }
    Ok(())
}

/// Removes the slots of these fingerprints from both places.
fn remove(tables: &mut dyn Tables, vault: &Vault, fingerprints: &[[u8; 32]]) -> Result<(), StoreError> {
    for fingerprint in fingerprints {
        let key = store_format::slot_key(vault.store_id(), fingerprint);
        tables.remove(RowKey::Slot(&key))?;
        tables.remove(RowKey::Meta(&meta_key::slot_mirror(&key)))?;
    }
    Ok(())
}

/// What the log says of a slot that was added.
fn added(kind: SlotKind, fingerprint: &[u8; 32]) -> LogItem {
    log::of_store(Event::SlotAdded, &shown(kind, fingerprint))
}

/// `node-key 0f3c25e1a7b60d42`.
fn shown(kind: SlotKind, fingerprint: &[u8; 32]) -> String {
    let digits: String = fingerprint[..8].iter().map(|octet| format!("{octet:02x}")).collect();
    format!("{} {digits}", kind.name())
}

/// Ends a commit that changed slots: format, log and state.
pub(in crate::store) fn finish(
    tables: &mut dyn Tables,
    vault: &Vault,
    events: Vec<LogItem>,
    now_unix_ms: u64,
) -> Result<Revision, StoreError> {
    let before = read_meta(tables, meta_key::STATE, Some(vault), State::decode)?;
    let before = match before {
        Some(state) => state,
        None => state_anew(tables, now_unix_ms)?,
    };
    upgrade_format(tables, Some(vault))?;
    let revision = Revision(before.revision + 1);
    log::append(tables, Some(vault), revision, now_unix_ms, &before.boot_id, events)?;
    let state = State { revision: revision.0, changed_at_unix_ms: now_unix_ms, ..before };
    let place = RowKey::Meta(meta_key::STATE);
    tables.put(place, &record::frame(place, &state.encode()?, Some(vault)))?;
    Ok(revision)
}

/// What can be told of a state record that was lost.
fn state_anew(tables: &dyn Tables, now_unix_ms: u64) -> Result<State, StoreError> {
    let mut census = BTreeMap::new();
    for row in tables.rows(Table::Objects)? {
        *census.entry(row.key.into_iter().next().unwrap_or_default()).or_insert(0) += 1;
    }
    let revision = tables.log_last()?.and_then(|key| log_key_revision(&key)).unwrap_or_default();
    let (populated, census) = (!census.is_empty(), census.into_iter().collect());
    Ok(State { revision, populated, census, ..State::new(now_unix_ms) })
}

#[cfg(test)]
mod tests {
    use store_format::SymmetricSecret;

    use super::*;

    /// A fresh wrapping is made for what has a slot too, and which slot is the oldest stays as it is.
    #[test]
    fn what_is_wrapped_anew_keeps_its_order() {
        let key = |octet: u8| Unlocker::KeyFile(SymmetricSecret::of_file(&[octet; 32]).unwrap());
        let keys: Vec<Unlocker> = [1, 2, 3].map(key).into();
        let names: Vec<[u8; 32]> = keys.iter().map(|key| fingerprint(key).unwrap()).collect();
        let slot = |at: usize, created_at_unix_ms| SlotInfo {
            kind: SlotKind::KeyFile,
            fingerprint: names[at],
            created_at_unix_ms,
            opens: true,
        };
        let slots = [slot(1, 20), slot(0, 10)];
        let add: Vec<&Unlocker> = [2, 1, 0].map(|at: usize| &keys[at]).into();
        let names: Vec<[u8; 32]> = [2, 1, 0].map(|at: usize| names[at]).into();
        for (fresh, want) in [(false, vec![0]), (true, vec![2, 1, 0])] {
            let wanted = SlotsWanted { add: &add, fresh, ..SlotsWanted::default() };
            let found = plan(&slots, &wanted, &names, 5).unwrap();
            assert_eq!((found.add, found.created_at_unix_ms, found.remove), (want, 21, Vec::new()), "{fresh}");
        }
    }
}
