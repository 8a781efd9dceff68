//! Gives space of the file back that nothing stored needs any more.
//!
//! redb never lets a file shrink below what it once grew to by ordinary commits: it doubles it when there is no room, and
//! fills holes later. Compaction moves pages to the front and cuts the file. Each step is a durable commit of two phases with
//! the same contents, so that a power cut leaves the store as it was; but none of them carries the allocator state that
//! every commit of ours does, so that after one the next start has to look at every page.

use redb::{CompactionError, Database, ReadableDatabase as _, ReadableTableMetadata as _, TableDefinition, TableError};

use super::StoreError;
use super::guard::guard;
use super::redb_tables::{LOG, META, OBJECTS, Outcome, PODS, SLOTS, write};
use super::tables::{RowKey, Tables as _};

/// How large a store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// The length of its file.
    pub file_bytes: u64,
    /// What is stored: the sum of the keys and values of all rows, as they lie there, without the database's own pages.
    pub live_bytes: u64,
}

/// [`Size::live_bytes`] of a database. Reads every page.
pub(super) fn live_bytes(db: &Database) -> Result<u64, StoreError> {
    let read = || -> Result<u64, redb::Error> {
        let txn = db.begin_read()?;
        let mut sum = 0;
        sum += stored(&txn, META)?;
        sum += stored(&txn, SLOTS)?;
        sum += stored(&txn, OBJECTS)?;
        sum += stored(&txn, PODS)?;
        sum += stored(&txn, LOG)?;
        Ok(sum)
    };
    let refused = StoreError::refused("measure what is stored");
    // Only reads: whatever it met, the next commit meets it as well, and says so.
    guard(read)
        .unwrap_or_else(|_| Err(redb::Error::Corrupted("the database code panicked".to_owned())))
        .map_err(refused)
}

fn stored<K: redb::Key + 'static>(
    txn: &redb::ReadTransaction,
    table: TableDefinition<'static, K, &'static [u8]>,
) -> Result<u64, redb::Error> {
    match txn.open_table(table) {
        Ok(table) => Ok(table.stats()?.stored_bytes()),
        // A table exists from its first row on.
        Err(TableError::TableDoesNotExist(_)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Makes the file as short as it can be made. What is stored stays the same.
///
/// # Errors
/// [`StoreError::NotCompacted`]: what is stored is unchanged, and the handle must not be used any further.
pub(super) fn compact(db: &mut Database) -> Result<(), StoreError> {
    let attempt = guard(|| match db.compact() {
        Ok(_) => Ok(()),
        Err(error @ CompactionError::Storage(_)) => Err(not_compacted(error.into())),
        // Impossible while this is the only handle, and nothing has been done.
        Err(error) => Err(StoreError::refused("compact the file")(error.into())),
    });
    let panicked = || not_compacted(redb::Error::Corrupted("the database code panicked".to_owned()));
    attempt.unwrap_or_else(|_| Err(panicked()))?;
    // From here on a start finds the allocator state again, and the two commits that the file holds have roots of their own,
    // as after any two changes: one bad page costs its records only.
    for _ in 0..2 {
        rewrite_a_row(db).map_err(|error| match error {
            StoreError::OutcomeUnknown { source } | StoreError::Refused { source, .. } => {
                StoreError::NotCompacted { source }
            }
            other => other,
        })?;
    }
    Ok(())
}

fn not_compacted(error: redb::Error) -> StoreError {
    StoreError::NotCompacted { source: Box::new(error) }
}

/// A commit that changes nothing: the first row of `meta` is written as it is.
fn rewrite_a_row(db: &Database) -> Result<(), StoreError> {
    write(db, |tables| {
        let row = tables.rows(store_format::Table::Meta)?.into_iter().next();
        if let Some(row) = row
            && let [key] = &row.key[..]
        {
            tables.put(RowKey::Meta(key), &row.bytes)?;
        }
        Ok(((), Outcome::Commit))
    })
}
