//! A copy of a store, record for record: what a backup is written from, and what is put back into the place of a store.
//!
//! Nothing is opened for it: what is sealed stays sealed, and a damaged record is copied as it is. A copy is whole under its
//! name or not there: it is written under a temporary one, synced, read back and compared before the name is given to it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use store_format::{Table, Unlocker};

use super::file::{self, Access, COPY_SUFFIX, Unpublished};
use super::overlay::Base;
use super::progress::{self, Phase};
use super::redb_store::open_file;
use super::redb_tables::{Outcome, write};
use super::tables::{Row, RowKey, Tables};
use super::{Committed, Snapshot, StoreError, offline};

/// Every record of a store as it was between two commits, in memory.
pub struct StoreCopy {
    /// What it is a copy of, for messages.
    from: PathBuf,
    rows: Vec<Row>,
    snapshot: Snapshot,
}

/// What may be at the name of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Nothing; a file that is there stays.
    Refuse,
    /// A regular file, which the backup takes the place of.
    Replace,
}

/// A copy that is on disk under its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Its length, in octets.
    pub octets: u64,
}

/// A store that was replaced by a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutInPlace {
    /// Where the file is that was the store before; `None` if there was none.
    pub kept_at: Option<PathBuf>,
}

impl StoreCopy {
    /// Reads the store at `path`, which nobody may write to meanwhile; `unlockers` are tried on it, so that tampering is found
    /// too. The file is never written to.
    ///
    /// Damage is no error as long as anything reads: it is in the findings of [`Self::snapshot`].
    ///
    /// # Errors
    /// As [`super::open_offline`].
    pub fn of_file(path: &Path, unlockers: &[&Unlocker]) -> Result<Self, StoreError> {
        let file = file::open(path, Access::Read)?;
        file::lock_shared(path, &file)?;
        Self::of_base(path, &Base::from(file), unlockers)
    }

    /// The same from an image of the store at `path` ([`super::Backend::image`]), which may be in use.
    ///
    /// # Errors
    /// As [`super::open_image`].
    pub fn of_image(path: &Path, image: Vec<u8>, unlockers: &[&Unlocker]) -> Result<Self, StoreError> {
        Self::of_base(path, &Base::from(image), unlockers)
    }

    fn of_base(path: &Path, base: &Base, unlockers: &[&Unlocker]) -> Result<Self, StoreError> {
        let (rows, structure) = offline::rows(path, base)?;
        let snapshot = offline::snapshot_of(path, rows.clone(), structure, unlockers)?;
        Ok(Self { from: path.to_owned(), rows, snapshot })
    }

    /// What is in it.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Writes it to `path`, mode 0600, durably; the directory is there already.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::NotAFile`] or [`StoreError::InUse`] tell what is at `path`; or the system refuses.
    /// What was there is there still, whole; if only the directory can't be synced, the copy is there, and a power cut may bring
    /// the old file back. What can't be removed of the new one the next call for this directory removes.
    pub fn save(&self, path: &Path, existing: Existing) -> Result<Committed<Saved>, StoreError> {
        if existing == Existing::Refuse && std::fs::symlink_metadata(path).is_ok() {
            return Err(StoreError::Exists(path.to_owned()));
        }
        let old = present(path)?;
        remove_leftovers(file::directory_of(path));
        let (unpublished, file) = Unpublished::copying(path)?;
        let octets = match self.fill(&unpublished, file) {
            Ok(octets) => octets,
            Err(error) => {
                unpublished.discard();
                return Err(error);
            }
        };
        match old {
            Some(old) => unpublished.replace(&old)?,
            None => unpublished.publish()?,
        }
        Ok(Committed::new(Saved { octets }))
    }

    /// Puts it in the place of the store at `path`, which nobody else may have open, durably. Whatever file is there, a damaged
    /// one too, stays as it is under the name of the store with `.replaced-` and the time in seconds since 1970 behind it. At every
    /// moment the name is the old file's or the new one's.
    ///
    /// # Errors
    /// The store is in use ([`StoreError::InUse`]) or no regular file, or the system refuses. The store is then as it was; if
    /// only the directory can't be synced the copy is in its place, and a power cut may bring the old file back.
    pub fn put_in_place(&self, path: &Path, now_unix_s: u64) -> Result<Committed<PutInPlace>, StoreError> {
        let old = present(path)?;
        let (unpublished, file) =
            if old.is_some() { Unpublished::restoring(path)? } else { Unpublished::create(path)? };
        if let Err(error) = self.fill(&unpublished, file) {
            unpublished.discard();
            return Err(error);
        }
        let kept_at = match old {
            Some(old) => {
                let kept_at = file::aside_name(path, "replaced", now_unix_s, &old);
                unpublished.replace_keeping(&old, &kept_at)?;
                Some(kept_at)
            }
            None => {
                unpublished.publish()?;
                None
            }
        };
        Ok(Committed::new(PutInPlace { kept_at }))
    }

    /// The octets of a file that [`Self::save`] would write.
    ///
    /// # Errors
    /// There is no room in memory.
    pub fn octets(&self) -> Result<Vec<u8>, StoreError> {
        let name = Path::new("a file in memory");
        let io = |action| move |error: io::Error| StoreError::io(action, name, error);
        let file = rustix::fs::memfd_create("ckpt-db-backup", rustix::fs::MemfdFlags::CLOEXEC);
        let file = File::from(file.map_err(|errno| io("make")(errno.into()))?);
        let again = file.try_clone().map_err(io("open again"))?;
        self.write(name, again)?;
        self.compare(name, &Base::from(file.try_clone().map_err(io("open again"))?))?;
        file::contents(&file).map_err(io("read"))
    }

    /// Writes the new file, durably, and reads it back; its length.
    fn fill(&self, unpublished: &Unpublished, file: File) -> Result<u64, StoreError> {
        let path = &unpublished.temporary;
        self.write(path, file)?;
        unpublished.lock()?;
        let written = unpublished.again()?;
        written.sync_all().map_err(|error| StoreError::io("sync", path, error))?;
        let octets = written.metadata().map_err(|error| StoreError::io("look at", path, error))?.len();
        self.compare(path, &Base::from(written))?;
        Ok(octets)
    }

    fn write(&self, path: &Path, file: File) -> Result<(), StoreError> {
        let written = open_file(path, file).and_then(|db| {
            write(&db, |tables| {
                progress::begin(Phase::Writing, self.rows.len());
                for row in &self.rows {
                    progress::step();
                    let place = RowKey::from_parts(row.table, &row.key).expect("the row was read from such a table");
                    tables.put(place, &row.bytes)?;
                }
                Ok(((), Outcome::Commit))
            })
        });
        written.map_err(|error| error.of_new_file(path))
    }

    /// Reads the new file as a whole, as if it was opened after a restart.
    fn compare(&self, path: &Path, base: &Base) -> Result<(), StoreError> {
        let differs = || StoreError::CopyDiffers { path: path.to_owned(), from: self.from.clone() };
        let (rows, structure) = offline::rows(path, base).map_err(|_| differs())?;
        let same = structure.is_empty() && by_place(&rows) == by_place(&self.rows);
        if same { Ok(()) } else { Err(differs()) }
    }
}

fn by_place(rows: &[Row]) -> BTreeMap<(Table, &[String]), &[u8]> {
    rows.iter().map(|row| ((row.table, row.key.as_slice()), row.bytes.as_slice())).collect()
}

/// The file at `path`, whatever is in it, locked so that nobody else has it open; `None` if there is nothing.
fn present(path: &Path) -> Result<Option<File>, StoreError> {
    let file = match file::open_even_empty(path, Access::Read) {
        Ok(file) => file,
        Err(StoreError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    file::lock_exclusive(path, &file)?;
    Ok(Some(file))
}

/// Removes what copies left in this directory that were cut short. One that is still being written is locked.
fn remove_leftovers(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(b".") && name.ends_with(format!(".{COPY_SUFFIX}").as_bytes()) {
            // Somebody else's stays; what can't be removed is in nobody's way.
            let _ = file::remove_leftover(&entry.path(), &entry.path());
        }
    }
}
