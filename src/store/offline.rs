//! Opening a store without touching it: for offline commands, for the cold start, and before every open for writing.
//!
//! redb's page checksums are verified here, in the overlay, at every open. Where they fail, or redb refuses the file, the
//! records that still read are read one by one: each carries its own digest, so that none is believed for being found.
//! What can't be found is named by the records that refer to it.

use std::fs::File;
use std::path::Path;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use store_format::{Table, Unlocker};

use super::detach::Detach;
use super::file::{self, Access};
use super::finding::Finding;
use super::guard::guard;
use super::overlay::{Base, Overlay};
use super::progress::{self, Phase};
use super::redb_store::open_error;
use super::redb_tables::{LOG, META, OBJECTS, PODS, SLOTS, object_parts, pod_parts, read_rows};
use super::tables::{Row, TABLES};
use super::{Committed, Snapshot, StoreError, load, superheader};

/// Loads a snapshot of the store at `path`, trying `secrets` on its key slots. The file is never written to.
///
/// Damage is no error as long as anything reads: it is in [`Snapshot::findings`].
///
/// # Errors
/// The file is absent, of another type, forbidden, in use, newer than this program, or nothing in it reads.
pub fn open_offline(path: &Path, secrets: &[&Unlocker]) -> Result<Committed<Snapshot>, StoreError> {
    let file = file::open(path, Access::Read)?;
    file::lock_shared(path, &file)?;
    open_base(path, &Base::from(file), secrets)
}

/// Loads a snapshot from an image of a store that is in use ([`super::Backend::image`]), as [`open_offline`] does from a file.
///
/// # Errors
/// Newer than this program, or nothing in it reads.
pub fn open_image(image: Vec<u8>, secrets: &[&Unlocker]) -> Result<Committed<Snapshot>, StoreError> {
    open_base(Path::new(IMAGE), &Base::from(image), secrets)
}

/// What an image is called in messages.
const IMAGE: &str = "the image of the store";

/// A file that is to be replaced, with the lock that keeps everybody else out, and what is read of it.
///
/// # Errors
/// Somebody else has it ([`StoreError::InUse`]), or the system refuses.
pub(super) fn locked(path: &Path, file: File) -> Result<(File, Base), StoreError> {
    file::lock_exclusive(path, &file)?;
    let again = file.try_clone().map_err(|error| StoreError::io("open again", path, error))?;
    Ok((file, Base::from(again)))
}

pub(super) fn open_base(path: &Path, base: &Base, secrets: &[&Unlocker]) -> Result<Committed<Snapshot>, StoreError> {
    let (rows, structure) = rows(path, base)?;
    // What was committed once and is read back is as durable as it will ever be.
    Ok(Committed::new(snapshot_of(path, rows, structure, secrets)?))
}

/// What rows say that were read with these findings.
pub(super) fn snapshot_of(
    path: &Path,
    rows: Vec<Row>,
    structure: Vec<Finding>,
    secrets: &[&Unlocker],
) -> Result<Snapshot, StoreError> {
    let unlocked = load::unlock(path, &rows, secrets)?;
    Ok(load::snapshot(rows, unlocked, structure, load::CheckLog::Now))
}

/// How the overlay is made ready for an attempt to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    AsItIs,
    /// The fixed fields set to what this version of redb writes, and the commit slots judged by their checksums.
    Rebuilt,
}

/// Every row that can be reached, and what is wrong with the structure of the file.
///
/// # Errors
/// Nothing reads ([`StoreError::Damaged`]); or what does not read is no damage: the system refused, or the file is newer.
pub(super) fn rows(path: &Path, base: &Base) -> Result<(Vec<Row>, Vec<Finding>), StoreError> {
    if let Some(found) = superheader::newer(base) {
        return Err(StoreError::Newer { path: path.to_owned(), found, known: superheader::VERSION.into() });
    }
    progress::begin(Phase::Reading, 0);
    let found = rows_found(path, base);
    // The database code hides errors of the system behind its own, and goes on without what it could not read.
    match base.refused() {
        Some(error) => Err(StoreError::io("read", path, error)),
        None => found,
    }
}

fn rows_found(path: &Path, base: &Base) -> Result<(Vec<Row>, Vec<Finding>), StoreError> {
    let first = match sound(path, base) {
        Ok(rows) => return Ok((rows, Vec::new())),
        Err(error) if !error.is_damage() => return Err(error),
        Err(error) => error,
    };
    let finding = match &first {
        StoreError::Damaged { what, .. } => Finding::Structure(what.clone()),
        other => Finding::Structure(other.to_string()),
    };
    let lengths = superheader::length_by_header(base).map_or(vec![None], |len| vec![Some(len), None]);
    let ways = lengths.iter().flat_map(|len| [Header::AsItIs, Header::Rebuilt].map(|header| (header, *len)));
    let mut without_objects = Vec::new();
    for (header, len) in ways {
        let rows = salvage(path, base, header, len);
        if rows.iter().any(|row| row.table == Table::Objects) {
            return Ok((rows, vec![finding]));
        }
        if without_objects.is_empty() {
            without_objects = rows;
        }
    }
    // An empty store has no objects; its meta records are enough to call it one.
    if without_objects.is_empty() { Err(first) } else { Ok((without_objects, vec![finding])) }
}

/// The rows of a file whose structure verifies.
fn sound(path: &Path, base: &Base) -> Result<Vec<Row>, StoreError> {
    let damaged = |what: &str| StoreError::Damaged { path: path.to_owned(), what: what.to_owned() };
    let attempt = guard(|| -> Result<Vec<Row>, StoreError> {
        let (overlay, detach) = overlay(path, base)?;
        if superheader::points_at_older_commit(&overlay) {
            return Err(damaged("its header points at an older commit than the last one"));
        }
        let mut db = database(overlay).map_err(|error| open_error(path, error))?;
        // Declared after the handle, and so dropped before it.
        let _detach = detach;
        match db.check_integrity() {
            Ok(true) => read_rows(&db).map_err(|_| damaged("its tables can't be read")),
            Ok(false) => Err(damaged("page checksums do not match")),
            Err(error) => Err(open_error(path, error)),
        }
    });
    attempt.unwrap_or_else(|_| Err(damaged("the database code met contents that it can't handle")))
}

fn overlay(path: &Path, base: &Base) -> Result<(Overlay, Detach), StoreError> {
    Overlay::new(base.clone()).map_err(|error| StoreError::io("look at", path, error))
}

fn database(overlay: Overlay) -> Result<Database, redb::DatabaseError> {
    // Without a cache every visit of a page is a read of the overlay, which counts them: no damage makes this run for ever.
    Database::builder().set_cache_size(0).create_with_backend(overlay)
}

/// Every row that can still be reached, whatever the structure says. Duplicates are possible, order is not kept.
fn salvage(path: &Path, base: &Base, header: Header, len: Option<u64>) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in TABLES {
        for end in [End::Front, End::Back] {
            // Each pass gets a database of its own: after a panic inside redb its locks are poisoned.
            let opened = guard(|| {
                let (overlay, detach) = overlay(path, base).ok()?;
                if let Some(len) = len {
                    redb::StorageBackend::set_len(&overlay, len).ok()?;
                }
                if header == Header::Rebuilt {
                    superheader::rebuild(&overlay).ok()?;
                }
                Some((database(overlay).ok()?, detach))
            });
            let Ok(Some((db, detach))) = opened else { return rows };
            let found = match table {
                Table::Meta => walk(&db, META, table, end, |key: &str| vec![key.to_owned()]),
                Table::Slots => walk(&db, SLOTS, table, end, |key: &str| vec![key.to_owned()]),
                Table::Objects => walk(&db, OBJECTS, table, end, object_parts),
                Table::Pods => walk(&db, PODS, table, end, pod_parts),
                Table::Log => walk(&db, LOG, table, end, |key: &str| vec![key.to_owned()]),
            };
            for row in found {
                let known = rows.iter().any(|other: &Row| other.table == row.table && other.key == row.key);
                if !known {
                    rows.push(row);
                }
            }
            // Closing may meet the damage as well.
            drop(detach);
            let _ = guard(move || drop(db));
        }
    }
    rows
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Front,
    Back,
}

/// Walks a table from one end until its order breaks, redb refuses or redb panics.
fn walk<K: redb::Key + 'static>(
    db: &Database,
    definition: TableDefinition<'_, K, &'static [u8]>,
    table: Table,
    end: End,
    parts: impl for<'a> Fn(K::SelfType<'a>) -> Vec<String>,
) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    // The rows read before a panic are kept: they are outside of the closure that panics.
    let _ = guard(|| -> Option<()> {
        let txn = db.begin_read().ok()?;
        let opened = txn.open_table(definition).ok()?;
        let mut entries = opened.iter().ok()?;
        loop {
            let entry = match end {
                End::Front => entries.next(),
                End::Back => entries.next_back(),
            };
            let (key, value) = entry?.ok()?;
            // A key or value that can't be read costs itself only.
            let Ok((key, bytes)) = guard(|| (parts(key.value()), value.value().to_vec())) else { continue };
            if let Some(last) = rows.last() {
                let in_order = match end {
                    End::Front => last.key < key,
                    End::Back => last.key > key,
                };
                if !in_order {
                    return None;
                }
            }
            rows.push(Row { table, key, bytes });
        }
    });
    rows
}
