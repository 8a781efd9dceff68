//! A keyless store becomes one with a data key.

use store_format::{Event, State, Table, meta_key};

use super::{log, read_meta, upgrade_format};
use crate::crypto::Entropy;
use crate::store::tables::{RowKey, TABLES, Tables};
use crate::store::vault::Vault;
use crate::store::{Revision, StoreError, record};

/// Gives the store its data key: a slot for `secret`, and a tag for every record that is there.
pub(in crate::store) fn add_first_key(
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
    for table in TABLES.into_iter().filter(|table| *table != Table::Slots) {
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
    upgrade_format(tables, Some(vault))?;
    let keyed = vec![log::of_store(Event::Keyed, "")];
    log::append(tables, Some(vault), Revision(before.revision + 1), now_unix_ms, &before.boot_id, keyed)?;
    let state = State { revision: before.revision + 1, changed_at_unix_ms: now_unix_ms, ..before };
    let place = RowKey::Meta(meta_key::STATE);
    tables.put(place, &record::frame(place, &state.encode()?, Some(vault)))?;
    Ok(Revision(state.revision))
}
