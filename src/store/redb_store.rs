//! The durable backend: redb, one two-phase commit per batch.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::Database;
use redb::backends::FileBackend;
use store_format::{Event, Identity, Table, Unlocker};

use super::backend::{Backend, Change, SlotsKept, SlotsWanted, Update};
use super::compact::{self, Size};
use super::detach::{Detach, DetachableBackend};
use super::file::{self, Access, Unpublished};
use super::guard::{Closing, guard};
use super::load::Keys;
use super::redb_tables::{Outcome, read_rows, read_tables, write};
use super::tables::{Row, RowKey, Tables};
use super::vault::Vault;
use super::{Committed, LockState, Revision, Snapshot, StoreError, engine, fingerprint, load, memory, record};
use crate::crypto::Entropy;

/// redb's page cache; its default of 1 GiB is no size for a node agent.
const CACHE_BYTES: usize = 1024 * 1024;

/// The store in its file, open for writing.
pub struct RedbStore {
    path: PathBuf,
    db: OpenDatabase,
    /// What the database lies on: its length, and the whole of it, for images.
    medium: Box<dyn Medium>,
    identity: Identity,
    lock: LockState,
    keys: Keys,
    entropy: Box<dyn Entropy>,
    /// Set when redb failed in a way after which its handle is not to be trusted.
    unusable: bool,
}

/// What a new store is made with.
pub struct NewStore<'a> {
    /// Whose store it is.
    pub identity: Identity,
    /// What gets the first slot; `None` makes a keyless store.
    pub secret: Option<&'a Unlocker>,
}

impl RedbStore {
    /// Creates a store where there is none, durably, and opens it.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the name is taken. After any failure there is no file under that name.
    pub fn create(path: &Path, new: NewStore<'_>, entropy: Box<dyn Entropy>) -> Result<Self, StoreError> {
        let (unpublished, file) = Unpublished::create(path)?;
        match Self::fill(path, &unpublished, file, new, entropy) {
            Ok(store) => {
                unpublished.publish()?;
                Ok(store)
            }
            Err(error) => {
                // Where the disk is full it must not keep what little room there was.
                unpublished.discard();
                Err(error)
            }
        }
    }

    /// Writes the first records into an empty file.
    fn fill(
        path: &Path,
        unpublished: &Unpublished,
        file: File,
        new: NewStore<'_>,
        entropy: Box<dyn Entropy>,
    ) -> Result<Self, StoreError> {
        let medium = medium_of(path, &file)?;
        let db = open_file(&unpublished.temporary, file)?;
        let vault = new.secret.map(|_| Vault::generate(new.identity.store_id, &*entropy)).transpose()?;
        let now_unix_ms = new.identity.created_at_unix_ms;
        write(&db, |tables| {
            for (key, payload) in memory::first_records(&new.identity)? {
                let key = RowKey::Meta(key);
                tables.put(key, &record::frame(key, &payload, vault.as_ref()))?;
            }
            if let (Some(vault), Some(secret)) = (&vault, new.secret) {
                engine::add_slots(tables, vault, &[secret], now_unix_ms, &*entropy)?;
                engine::finish_slots(tables, vault, vec![engine::of_store(Event::Keyed, "")], now_unix_ms)?;
            }
            Ok(((), Outcome::Commit))
        })?;
        let lock = if vault.is_some() { LockState::Open } else { LockState::Keyless };
        let opened = new.secret.and_then(fingerprint).into_iter().collect();
        let keys = Keys { vault: vault.map(Arc::new), opened };
        Ok(Self { path: path.to_owned(), db, medium, identity: new.identity, lock, keys, entropy, unusable: false })
    }

    /// Opens a store for writing, after its integrity was checked without touching it.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the structure of the file is damaged (records alone are findings of the snapshot);
    /// all other variants mean that the file was left as it is.
    pub fn open(path: &Path, secrets: &[&Unlocker], entropy: Box<dyn Entropy>) -> Result<Self, StoreError> {
        let first = file::open(path, Access::Read)?;
        let (identity, lock, keys) = checked(path, super::open_offline(path, secrets)?.into_inner())?;
        let file = file::open(path, Access::Write)?;
        if file::open_to_others(&file) {
            tracing::warn!(store = %path.display(), "the store file is open to other users; its mode should be 0600");
        }
        let own = file.try_clone().map_err(|error| StoreError::io("open again", path, error))?;
        let medium = medium_of(path, &file)?;
        let db = open_file(path, file)?;
        // From here on it is locked. An exchange of the data key may have put another file there meanwhile, which other keys open.
        if !(file::is_at(&own, path) && file::is_at(&first, path)) {
            return Err(StoreError::InUse(path.to_owned()));
        }
        Ok(Self { path: path.to_owned(), db, medium, identity, lock, keys, entropy, unusable: false })
    }

    /// Opens a store for writing that lies on `medium` and not in a file; `image` is what lies there.
    ///
    /// For campaigns of faults that no real file system can be made to show.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    #[doc(hidden)]
    pub fn open_on(
        medium: impl redb::StorageBackend + Clone,
        image: Vec<u8>,
        secrets: &[&Unlocker],
        entropy: Box<dyn Entropy>,
    ) -> Result<Self, StoreError> {
        let path = Path::new("a medium of a test");
        let (identity, lock, keys) = checked(path, super::open_image(image, secrets)?.into_inner())?;
        let own = Box::new(Other(medium.clone()));
        let db = open_database(path, || Ok(medium))?;
        let medium: Box<dyn Medium> = own;
        Ok(Self { path: path.to_owned(), db, medium, identity, lock, keys, entropy, unusable: false })
    }

    fn usable(&self) -> Result<(), StoreError> {
        if self.unusable { Err(StoreError::Unusable) } else { Ok(()) }
    }

    /// After an unknown outcome the handle is done for: what its memory says and what the disk says may differ.
    fn note<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.as_ref().is_err_and(StoreError::needs_reopening) {
            self.unusable = true;
        }
        result
    }
}

impl Backend for RedbStore {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn lock_state(&self) -> LockState {
        self.lock
    }

    fn update(&mut self, changes: Vec<Change>, now_unix_ms: u64) -> Result<Committed<Update>, StoreError> {
        self.usable()?;
        let result = write(&self.db, |tables| {
            let context = engine::Context {
                vault: self.keys.vault.as_deref(),
                lock: self.lock,
                entropy: &*self.entropy,
                now_unix_ms,
            };
            let applied = engine::apply(tables, &context, changes)?;
            Ok((applied, if tables.wrote() { Outcome::Commit } else { Outcome::Abort }))
        });
        let (update, identity) = self.note(result)?;
        if let Some(identity) = identity {
            self.identity = identity;
        }
        Ok(Committed::new(update))
    }

    fn keep_slots(&mut self, wanted: &SlotsWanted<'_>, now_unix_ms: u64) -> Result<Committed<SlotsKept>, StoreError> {
        self.usable()?;
        if self.lock == LockState::Locked {
            return Err(StoreError::NoKeyOpens);
        }
        let (store_id, entropy) = (self.identity.store_id, &*self.entropy);
        let mut ground = SlotGround { path: &self.path, db: &self.db };
        let result = engine::keep_slots(&mut ground, &mut self.keys, store_id, wanted, now_unix_ms, entropy);
        if self.keys.vault.is_some() {
            self.lock = LockState::Open;
        }
        Ok(Committed::new(self.note(result)?))
    }

    fn snapshot(&self) -> Result<Committed<Snapshot>, StoreError> {
        self.usable()?;
        let rows = guard(|| read_rows(&self.db)).map_err(|_| panicked(&self.path))??;
        let unlocked = load::unlock(&self.path, &rows, &[])?.with(&self.keys);
        Ok(Committed::new(load::snapshot(rows, unlocked, Vec::new(), load::CheckLog::WhenRead)))
    }

    fn image(&self) -> Result<Vec<u8>, StoreError> {
        self.usable()?;
        // A commit returns when everything that it changed was written and synced, and nothing else writes: whoever holds
        // this handle sees the file between two commits, as a crash at this moment would leave it.
        self.medium.contents().map_err(|error| StoreError::io("copy", &self.path, error))
    }

    fn file_bytes(&self) -> Result<Option<u64>, StoreError> {
        self.medium.bytes().map(Some).map_err(|error| StoreError::io("look at", &self.path, error))
    }

    fn size(&self) -> Result<Option<Size>, StoreError> {
        self.usable()?;
        let live_bytes = compact::live_bytes(&self.db)?;
        Ok(self.file_bytes()?.map(|file_bytes| Size { file_bytes, live_bytes }))
    }

    fn compact(&mut self) -> Result<(), StoreError> {
        self.usable()?;
        let result = compact::compact(self.db.get_mut());
        self.note(result)
    }
}

/// What [`engine::keep_slots`] reads and writes.
struct SlotGround<'a> {
    path: &'a Path,
    db: &'a Database,
}

impl engine::Ground for SlotGround<'_> {
    fn rows(&self) -> Result<Vec<Row>, StoreError> {
        guard(|| read_tables(self.db, &[Table::Meta, Table::Slots])).map_err(|_| panicked(self.path))?
    }

    fn commit(
        &mut self,
        change: &mut dyn FnMut(&mut dyn Tables) -> Result<Revision, StoreError>,
    ) -> Result<Revision, StoreError> {
        write(self.db, |tables| Ok((change(tables)?, Outcome::Commit)))
    }
}

/// redb's handle, cut off from the file before it closes: fields are dropped in their order.
pub(super) struct OpenDatabase {
    _detach: Detach,
    db: Closing<Database>,
}

impl std::ops::Deref for OpenDatabase {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.db
    }
}

impl OpenDatabase {
    fn get_mut(&mut self) -> &mut Database {
        &mut self.db
    }
}

fn panicked(path: &Path) -> StoreError {
    StoreError::Damaged {
        path: path.to_owned(),
        what: "the database code met contents that it can't handle".to_owned(),
    }
}

/// What a store that is sound as a whole says of itself.
fn checked(path: &Path, before: Snapshot) -> Result<(Identity, LockState, Keys), StoreError> {
    let structure = before.findings().iter().find(|finding| matches!(finding, super::Finding::Structure(_)));
    if let Some(finding) = structure {
        return Err(StoreError::Damaged { path: path.to_owned(), what: finding.to_string() });
    }
    let Some(identity) = before.identity().cloned() else {
        let what = "the record that says whose store it is can't be read".to_owned();
        return Err(StoreError::Damaged { path: path.to_owned(), what });
    };
    let opened = before.slots.iter().filter(|slot| slot.opens).map(|slot| slot.fingerprint).collect();
    Ok((identity, before.lock, Keys { vault: before.vault.clone(), opened }))
}

/// What a database lies on, beside the database.
trait Medium: Send {
    fn bytes(&self) -> io::Result<u64>;
    fn contents(&self) -> io::Result<Vec<u8>>;
}

impl Medium for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn contents(&self) -> io::Result<Vec<u8>> {
        file::contents(self)
    }
}

/// A medium of a test.
struct Other<M>(M);

impl<M: redb::StorageBackend> Medium for Other<M> {
    fn bytes(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn contents(&self) -> io::Result<Vec<u8>> {
        let mut octets = vec![0; usize::try_from(self.0.len()?).map_err(io::Error::other)?];
        self.0.read(0, &mut octets)?;
        Ok(octets)
    }
}

/// The same open file as the database's.
fn medium_of(path: &Path, file: &File) -> Result<Box<dyn Medium>, StoreError> {
    Ok(Box::new(file.try_clone().map_err(|error| StoreError::io("open again", path, error))?))
}

pub(super) fn open_file(path: &Path, file: File) -> Result<OpenDatabase, StoreError> {
    // The same lock as redb's, which asks for it once only.
    file::lock_exclusive(path, &file)?;
    open_database(path, || FileBackend::new(file))
}

fn open_database<M: redb::StorageBackend>(
    path: &Path,
    medium: impl FnOnce() -> Result<M, redb::DatabaseError>,
) -> Result<OpenDatabase, StoreError> {
    let opened = guard(|| {
        let (backend, detach) = DetachableBackend::new(medium()?);
        let db = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?;
        Ok(OpenDatabase { _detach: detach, db: Closing::new(db) })
    });
    opened.map_err(|_| panicked(path))?.map_err(|error| open_error(path, error))
}

/// Sorts what redb says on opening: damage, or a condition that must leave the file alone.
pub(super) fn open_error(path: &Path, error: redb::DatabaseError) -> StoreError {
    use redb::{DatabaseError, StorageError};
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
        // An error of the system has a number; redb's and the overlay's own ("invalid data", "end of file") are findings.
        DatabaseError::Storage(StorageError::Io(source)) if source.raw_os_error().is_some() => {
            let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            StoreError::io(if full { "write" } else { "read" }, path, source)
        }
        other => StoreError::Damaged { path: path.to_owned(), what: plainly(&other) },
    }
}

/// What redb found, in words for someone who never heard of redb.
fn plainly(error: &redb::DatabaseError) -> String {
    use redb::{DatabaseError, StorageError};
    let what = match error {
        DatabaseError::Storage(StorageError::Io(source)) if source.to_string().contains("magic number") => {
            "its first bytes are not those of a store".to_owned()
        }
        DatabaseError::Storage(StorageError::Io(source)) => source.to_string(),
        DatabaseError::Storage(StorageError::Corrupted(what)) => what.clone(),
        other => other.to_string(),
    };
    // It may quote the file, and what lies in a damaged one is anything.
    what.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}
