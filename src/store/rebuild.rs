//! Rebuilding a store whose file is damaged: what still reads goes into a new file, which takes the damaged one's place, and
//! the damaged one stays beside it.
//!
//! Store id, data key and key slots are carried over where they read, records as they are, to the byte. What is lost has to be
//! fetched again; until a complete listing says which pods there are, a store that may have lost one does not claim to know.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use store_format::{Event, Identity, KeySlot, State, StoreId, Table, Unlocker, log_key_revision, meta_key};

use super::file::{self, Access};
use super::finding::{self, Finding};
use super::fresh::Fresh;
use super::load::{self, SlotRow};
use super::memory::first_records;
use super::overlay::Base;
use super::tables::{Row, RowKey, Tables};
use super::vault::Vault;
use super::{Committed, LockState, Revision, Snapshot, StoreError, engine, offline, record, superheader};
use crate::checkpoint::object::Kind;
use crate::crypto::{Entropy, fresh};

/// What a store is called where nobody says otherwise: a file of this name is one, whatever became of its contents.
const FILE_NAME: &str = "checkpoint-store.db";

/// So many damaged files are kept beside one store. A medium that damages it again and again needs somebody to look at it, and
/// is not filled up with copies.
const KEPT_MAX: usize = 10;

/// What may be carried over where no key is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carry {
    /// Whatever passes its digests.
    Sound,
    /// What a key of the store authenticates, and nothing else: what is carried over counts as authentic from the next key on.
    Authentic,
}

/// A store that was rebuilt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// Its revision.
    pub revision: Revision,
    /// What was found of the damage.
    pub what: String,
    /// Where the damaged file is.
    pub kept_at: PathBuf,
    /// How many objects were carried over.
    pub carried: usize,
    /// How many are known to be lost. There may be more where what tells their number is lost as well.
    pub lost: usize,
    /// Whether nothing read, so that this is a new store.
    pub began_anew: bool,
}

/// Rebuilds the store at `path`, which nobody else may have open. `node_name` is whose store it is, where that does not read;
/// it may be empty.
///
/// The damaged file keeps its bytes, under the name of the store with `.damaged-` and the time in seconds since 1970 behind it.
/// At each moment the name of the store is that of the damaged file or of the new one, whole and on disk.
///
/// To be called when [`super::RedbStore::open`] says [`StoreError::Damaged`].
///
/// # Errors
/// The store is in use or of a newer version, the file is none of ours ([`StoreError::NotOurs`]), there are too many damaged
/// files beside it ([`StoreError::TooManyKept`]), no key opens it though `carry` asks for one ([`StoreError::NoKeyOpens`]), or
/// the system refuses. The file is then as it was; if only the directory can't be synced the new one is in place, and a power
/// cut may still bring back the damaged one.
pub fn rebuild(
    path: &Path,
    unlockers: &[&Unlocker],
    carry: Carry,
    node_name: &str,
    now_unix_ms: u64,
    entropy: &dyn Entropy,
) -> Result<Committed<Rebuilt>, StoreError> {
    let (old_file, base) = offline::locked(path, file::open_even_empty(path, Access::Write)?)?;
    let salvage = Salvage::read(path, &base, unlockers, carry, node_name, now_unix_ms, entropy)?;
    if kept_beside(path).len() >= KEPT_MAX {
        return Err(StoreError::TooManyKept { path: path.to_owned(), kept: KEPT_MAX });
    }
    let kept_at = file::aside_name(path, "damaged", now_unix_ms / 1000, &old_file);
    let why = salvage.why(&kept_at);
    let fresh = Fresh::replacing(
        path,
        unlockers,
        |tables| salvage.write(tables, &why, now_unix_ms),
        |after| salvage.is_in(after),
    )?;
    let revision = fresh.revision;
    fresh.replace_keeping(&old_file, &kept_at)?;
    let Salvage { what, objects, lost, began_anew, .. } = salvage;
    Ok(Committed::new(Rebuilt { revision, what, kept_at, carried: objects, lost, began_anew }))
}

/// The files that were kept beside the store at `path` because they were damaged, oldest first.
#[must_use]
pub fn kept_beside(path: &Path) -> Vec<PathBuf> {
    file::kept_aside(path, "damaged")
}

/// What goes into the new file.
struct Salvage {
    what: String,
    vault: Option<Arc<Vault>>,
    lock: LockState,
    identity: Identity,
    /// As they were found.
    rows: Vec<Row>,
    /// Where the new store stands; the record as it was found where no tag can be made for another one.
    state: State,
    objects: usize,
    lost: usize,
    began_anew: bool,
}

impl Salvage {
    fn read(
        path: &Path,
        base: &Base,
        unlockers: &[&Unlocker],
        carry: Carry,
        node_name: &str,
        now_unix_ms: u64,
        entropy: &dyn Entropy,
    ) -> Result<Self, StoreError> {
        let len = base.len().map_err(|error| StoreError::io("look at", path, error))?;
        let (rows, structure) = match offline::rows(path, base) {
            // The database code takes an empty file for one to begin with.
            Ok(_) if len == 0 => (Vec::new(), vec![Finding::Structure("it was empty (0 bytes)".to_owned())]),
            Ok(found) => found,
            Err(StoreError::Damaged { what, .. }) => {
                if !was_a_store(path, base).map_err(|error| StoreError::io("read", path, error))? {
                    return Err(StoreError::NotOurs(path.to_owned()));
                }
                (Vec::new(), vec![Finding::Structure(what)])
            }
            Err(error) => return Err(error),
        };
        let unlocked = load::unlock(path, &rows, unlockers)?;
        let (lock, vault) = (unlocked.lock, unlocked.vault.clone());
        let mut rows = rows;
        if carry == Carry::Authentic && vault.is_none() {
            if lock == LockState::Locked {
                return Err(StoreError::NoKeyOpens);
            }
            rows.clear();
        }
        let found = load::snapshot(rows.clone(), unlocked, structure, load::CheckLog::Now);
        let bad: BTreeSet<(&str, String)> = found.findings().iter().filter_map(named).collect();
        rows.retain(|row| is_sound(row) && !bad.contains(&(row.table.name(), finding::shown_key(&row.key))));
        let what = found.findings().first().map_or_else(
            || "the database code failed on contents in which no damage is found".to_owned(),
            |finding| match finding {
                Finding::Structure(what) => what.clone(),
                other => other.to_string(),
            },
        );
        let began_anew = rows.is_empty();

        let identity = match found.identity() {
            Some(identity) => identity.clone(),
            None => Identity::new(
                store_id(&rows, vault.as_deref(), entropy)?,
                now_unix_ms,
                found.node_name().unwrap_or(node_name).to_owned(),
            ),
        };
        let mut census: BTreeMap<String, u64> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.table == Table::Objects) {
            *census.entry(row.key.first().cloned().unwrap_or_default()).or_default() += 1;
        }
        let objects = rows.iter().filter(|row| row.table == Table::Objects).count();
        let before = state_of(&rows);
        let fewer = |(kind, written): &(String, u64)| written.saturating_sub(census.get(kind).copied().unwrap_or(0));
        let hidden: u64 = before.iter().flat_map(|state| &state.census).map(fewer).sum();
        let lost = found.damaged().count().max(usize::try_from(hidden).unwrap_or(usize::MAX));
        let pods = Kind::Pod.row().name;
        let all_pods = before
            .as_ref()
            .is_some_and(|state| state.census.iter().filter(|(kind, _)| kind == pods).all(|entry| fewer(entry) == 0));
        let logged =
            rows.iter().filter(|row| row.table == Table::Log).filter_map(|row| log_key_revision(row.key.first()?));
        let logged = logged.max().unwrap_or_default();
        let state = match before {
            Some(state) if lock == LockState::Locked => state,
            before => {
                let before = before.unwrap_or_else(|| State::new(now_unix_ms));
                State {
                    revision: before.revision.max(logged) + 1,
                    // A pod that nobody knows of any more may well be running: nothing of it is to be removed.
                    populated: before.populated && all_pods,
                    changed_at_unix_ms: now_unix_ms,
                    census: census.into_iter().collect(),
                    // The source tells what is lost only if it is asked for everything.
                    source_position: if lost == 0 { before.source_position } else { String::new() },
                    boot_id: before.boot_id,
                }
            }
        };
        Ok(Self { what, vault, lock, identity, rows, state, objects, lost, began_anew })
    }

    /// What the log says of it.
    fn why(&self, kept_at: &Path) -> String {
        let name = kept_at.file_name().unwrap_or_default().to_string_lossy();
        let (carried, lost) = (self.objects, self.lost);
        format!(
            "the file was damaged and is kept as {name}; carried over: {carried} objects, lost: {lost}; {}",
            self.what
        )
    }

    /// Writes what the new file holds.
    fn write(&self, tables: &mut dyn Tables, why: &str, now_unix_ms: u64) -> Result<Revision, StoreError> {
        let vault = self.vault.as_deref();
        for (key, payload) in first_records(&self.identity)? {
            let place = RowKey::Meta(key);
            tables.put(place, &record::frame(place, &payload, vault))?;
        }
        for row in &self.rows {
            // Records of this format are written; its record says so, unless nobody can vouch for another one.
            let format = row.table == Table::Meta && row.key == [meta_key::FORMAT];
            if let Some(place) = RowKey::from_parts(row.table, &row.key).filter(|_| !format || self.locked()) {
                tables.put(place, &row.bytes)?;
            }
        }
        self.write_slots(tables)?;
        if self.locked() && state_of(&self.rows).is_some() {
            return Ok(Revision(self.state.revision));
        }
        if !self.locked() {
            let event = engine::of_store(Event::Stored, why);
            let revision = Revision(self.state.revision);
            engine::append_log(tables, vault, revision, now_unix_ms, &self.state.boot_id, vec![event])?;
        }
        let place = RowKey::Meta(meta_key::STATE);
        tables.put(place, &record::frame(place, &self.state.encode()?, vault))?;
        Ok(Revision(self.state.revision))
    }

    /// A slot that reads in one of its two places is written to the other one.
    fn write_slots(&self, tables: &mut dyn Tables) -> Result<(), StoreError> {
        let (mut slots, mut mirrors) = (BTreeMap::new(), BTreeMap::new());
        for SlotRow { row, store_id, slot } in load::slot_rows(&self.rows) {
            if store_id == Some(self.identity.store_id) {
                let place = if row.table == Table::Slots { &mut slots } else { &mut mirrors };
                place.insert(store_format::slot_key(&self.identity.store_id, &slot.fingerprint), slot);
            }
        }
        for (key, slot) in mirrors.iter().filter(|(key, _)| !slots.contains_key(*key)) {
            let place = RowKey::Slot(key);
            tables.put(place, &record::frame(place, &KeySlot::encode(slot), None))?;
        }
        // Without a key there is no tag for it. Whoever comes with one has both places written anew.
        let Some(vault) = &self.vault else { return Ok(()) };
        for (key, slot) in slots.iter().filter(|(key, _)| !mirrors.contains_key(*key)) {
            let mirror = meta_key::slot_mirror(key);
            let place = RowKey::Meta(&mirror);
            tables.put(place, &record::frame(place, &KeySlot::encode(slot), Some(vault)))?;
        }
        Ok(())
    }

    /// Nothing that is written can be vouched for.
    fn locked(&self) -> bool {
        self.lock == LockState::Locked
    }

    fn is_in(&self, after: &Snapshot) -> bool {
        let structure = after.findings().iter().any(|finding| matches!(finding, Finding::Structure(_)));
        !structure
            && after.lock_state() == self.lock
            && after.identity() == Some(&self.identity)
            && after.objects().count() == self.objects
    }
}

/// Table and key of the record that a finding is about.
fn named(finding: &Finding) -> Option<(&'static str, String)> {
    match finding {
        Finding::Record { table, key, .. } => Some((table.name(), key.clone())),
        Finding::Structure(_) | Finding::Missing { .. } | Finding::Revision { .. } | Finding::Hidden { .. } => None,
    }
}

/// Also of a record that this version makes nothing of: its digest is right.
fn is_sound(row: &Row) -> bool {
    let place = RowKey::from_parts(row.table, &row.key);
    place.is_some_and(|place| record::check(row.table, &place.parts(), &row.bytes, None).is_ok())
}

fn state_of(rows: &[Row]) -> Option<State> {
    let row = rows.iter().find(|row| row.table == Table::Meta && row.key == [meta_key::STATE])?;
    let checked = record::check(Table::Meta, &[meta_key::STATE], &row.bytes, None).ok()?;
    State::decode(checked.payload).ok()
}

/// Which store it is, where the record that says so is lost: the data key and the keys of slots tell.
fn store_id(rows: &[Row], vault: Option<&Vault>, entropy: &dyn Entropy) -> Result<StoreId, StoreError> {
    if let Some(vault) = vault {
        return Ok(*vault.store_id());
    }
    match load::slot_rows(rows).find_map(|slot| slot.store_id) {
        Some(store_id) => Ok(store_id),
        None => Ok(StoreId(fresh(entropy)?)),
    }
}

/// Whether a file in which nothing reads was a store: by its first bytes, its name, or since a medium has lost its contents.
///
/// Somebody may have named another program's file, and that is not to be moved away.
fn was_a_store(path: &Path, base: &Base) -> std::io::Result<bool> {
    const HEAD_BYTES: usize = 4096;
    let len = base.len()?;
    let mut buffer = vec![0; HEAD_BYTES.min(usize::try_from(len).unwrap_or(HEAD_BYTES))];
    base.read_exact_at(&mut buffer, 0)?;
    if superheader::is_magic(&buffer) {
        return Ok(true);
    }
    let named = path.file_name().is_some_and(|name| name == FILE_NAME);
    if buffer.iter().any(|octet| *octet != 0) {
        let text = std::str::from_utf8(&buffer).is_ok_and(|text| !text.contains('\0'));
        return Ok(named && !text && !buffer.starts_with(b"SQLite format 3\0"));
    }
    let mut offset = buffer.len() as u64;
    while offset < len {
        let count = HEAD_BYTES.min(usize::try_from(len - offset).unwrap_or(HEAD_BYTES));
        base.read_exact_at(&mut buffer[..count], offset)?;
        if buffer[..count].iter().any(|octet| *octet != 0) {
            return Ok(named);
        }
        offset += count as u64;
    }
    Ok(true)
}
