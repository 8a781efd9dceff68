//! A whole store in a new file: written under a temporary name, synced, read back as after a restart, and then given its name.
//!
//! Until it has that name nobody takes it for a store, and what lay under the name is as it was. What a crash leaves of it the
//! next attempt removes.

use std::fs::File;
use std::path::Path;

use store_format::Unlocker;

use super::file::Unpublished;
use super::overlay::Base;
use super::redb_store::open_file;
use super::redb_tables::{Outcome, RedbTables, write};
use super::{Revision, Snapshot, StoreError, offline};

/// A sound new store that has not got its name yet.
#[must_use = "it is no store before it has its name"]
pub(super) struct Fresh {
    unpublished: Unpublished,
    /// The revision that it was written with.
    pub(super) revision: Revision,
}

impl Fresh {
    /// Writes a store that is to replace the one at `path`, durably, in one transaction of `fill`, and reads it back with
    /// `unlockers`: `holds` says whether what is read is what was to be written.
    ///
    /// # Errors
    /// Another process makes such a file, `fill` fails, the file is not what it should be ([`StoreError::NotSound`]), or the
    /// system refuses. The new file is gone, as far as it can be removed, and nothing else was touched.
    pub(super) fn replacing(
        path: &Path,
        unlockers: &[&Unlocker],
        fill: impl FnOnce(&mut RedbTables<'_>) -> Result<Revision, StoreError>,
        holds: impl FnOnce(&Snapshot) -> bool,
    ) -> Result<Self, StoreError> {
        Self::write(Unpublished::replacing(path)?, unlockers, fill, holds)
    }

    fn write(
        (unpublished, file): (Unpublished, File),
        unlockers: &[&Unlocker],
        fill: impl FnOnce(&mut RedbTables<'_>) -> Result<Revision, StoreError>,
        holds: impl FnOnce(&Snapshot) -> bool,
    ) -> Result<Self, StoreError> {
        match written(&unpublished, file, unlockers, fill, holds) {
            Ok(revision) => Ok(Self { unpublished, revision }),
            Err(error) => {
                unpublished.discard();
                Err(error)
            }
        }
    }

    /// Puts it in the place of `old`, which is open and lies at the path that it was made for, durably.
    ///
    /// # Errors
    /// Another file took one of the two names meanwhile, or the system refuses: then nothing was replaced. If only the
    /// directory can't be synced it was, and a power cut may still bring back the old one.
    pub(super) fn replace(self, old: &File) -> Result<(), StoreError> {
        self.unpublished.replace(old)
    }

    /// The same; `old` stays under the name `kept_at`, which is durable before its own is taken.
    ///
    /// # Errors
    /// As for [`Self::replace`], and that name is another file's.
    pub(super) fn replace_keeping(self, old: &File, kept_at: &Path) -> Result<(), StoreError> {
        self.unpublished.replace_keeping(old, kept_at)
    }
}

fn written(
    unpublished: &Unpublished,
    file: File,
    unlockers: &[&Unlocker],
    fill: impl FnOnce(&mut RedbTables<'_>) -> Result<Revision, StoreError>,
    holds: impl FnOnce(&Snapshot) -> bool,
) -> Result<Revision, StoreError> {
    let path = &unpublished.temporary;
    let revision = open_file(path, file)
        .and_then(|db| write(&db, |tables| Ok((fill(tables)?, Outcome::Commit))))
        .map_err(|error| error.of_new_file(path))?;
    unpublished.lock()?;
    let after = offline::open_base(path, &Base::from(unpublished.again()?), unlockers)?.into_inner();
    if after.revision == revision && holds(&after) {
        return Ok(revision);
    }
    let first = after.findings().first();
    let first = first.map_or("it does not hold what was written to it".to_owned(), ToString::to_string);
    Err(StoreError::NotSound { path: path.clone(), findings: after.findings().len(), first })
}
