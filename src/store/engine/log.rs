//! What a commit did, for `ckpt-db log`: one small record, written in the same transaction.

use store_format::{Event, LOG_ITEMS_MAX, LOG_RECORDS_MAX, LOG_WHY_MAX_BYTES, LogItem, LogRecord, log_key};

use super::{Batch, cut};
use crate::checkpoint::object::ObjectKey;
use crate::store::tables::{RowKey, Tables};
use crate::store::vault::Vault;
use crate::store::{Revision, StoreError, record};

/// How many records are removed at once when there are too many: most commits then touch one end of the log only, and none
/// does more than this.
const TRIMMED: usize = 16;

impl Batch<'_> {
    /// Notes what happened to an object.
    pub(super) fn note(&mut self, event: Event, key: &ObjectKey, uid: &str, why: &str) {
        self.noted.push(LogItem {
            event,
            kind: key.kind().row().name.to_owned(),
            namespace: key.namespace().to_owned(),
            name: key.name().to_owned(),
            uid: uid.to_owned(),
            why: cut(why, LOG_WHY_MAX_BYTES).to_owned(),
        });
    }

    /// Notes what happened to the store as a whole.
    pub(super) fn note_store(&mut self, event: Event, why: &str) {
        self.noted.push(of_store(event, why));
    }

    /// Writes what was noted. A commit of which there is nothing to say has no record.
    pub(super) fn write_log(&mut self, boot_id: &str) -> Result<(), StoreError> {
        let noted = std::mem::take(&mut self.noted);
        append(self.tables, self.context.vault, self.update.revision, self.context.now_unix_ms, boot_id, noted)
    }
}

/// Something that happened to the store as a whole.
pub(in crate::store) fn of_store(event: Event, why: &str) -> LogItem {
    LogItem {
        event,
        kind: String::new(),
        namespace: String::new(),
        name: String::new(),
        uid: String::new(),
        why: cut(why, LOG_WHY_MAX_BYTES).to_owned(),
    }
}

/// Appends the record of one commit, and removes the oldest ones where there are too many.
pub(in crate::store) fn append(
    tables: &mut dyn Tables,
    vault: Option<&Vault>,
    revision: Revision,
    at_unix_ms: u64,
    boot_id: &str,
    mut items: Vec<LogItem>,
) -> Result<(), StoreError> {
    if items.is_empty() {
        return Ok(());
    }
    let more = items.len().saturating_sub(LOG_ITEMS_MAX).try_into().unwrap_or(u32::MAX);
    items.truncate(LOG_ITEMS_MAX);
    let payload = LogRecord { at_unix_ms, boot_id: boot_id.to_owned(), items, more }.encode()?;
    if tables.log_len()? >= LOG_RECORDS_MAX as u64 {
        for oldest in tables.log_first(TRIMMED)? {
            tables.remove(RowKey::Log(&oldest))?;
        }
    }
    let key = log_key(revision.0);
    let place = RowKey::Log(&key);
    tables.put(place, &record::frame(place, &payload, vault))
}
