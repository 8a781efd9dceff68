//! From rows of bytes to a snapshot: the door at which damaged, foreign and tampered records stop.
//!
//! Pure: the rows may come from a sound file, a damaged one, or memory. What fails a check becomes a finding, and never
//! takes another record down with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use store_format::{
    DecodeError, Envelope, FORMAT_VERSION, Form, Frame, Identity, KeySlot, LogRecord, PodRow, State, StoreId, Table,
    Unlocker, check_format, log_key_revision, meta_key,
};

use super::finding::{Finding, RecordProblem};
use super::progress::{self, Phase};
use super::record::{self, Checked};
use super::snapshot::{LockState, Record, SlotInfo, Snapshot};
use super::tables::Row;
use super::vault::{Vault, fingerprint};
use super::{Revision, StoreError, absence};
use crate::checkpoint::lookup::Absence;
use crate::checkpoint::object::{Kind, ObjectKey};

/// What a store's handle keeps of the keys that opened it.
#[derive(Default)]
pub(super) struct Keys {
    pub(super) vault: Option<Arc<Vault>>,
    /// Fingerprints of the slots that a key at hand opened.
    pub(super) opened: BTreeSet<[u8; 32]>,
}

/// What has to be known before records can be checked: format, and which key opens.
pub(super) struct Unlocked {
    pub(super) lock: LockState,
    pub(super) vault: Option<Arc<Vault>>,
    slots: Vec<SlotInfo>,
    findings: Vec<Finding>,
}

impl Unlocked {
    /// With the keys that the store's handle holds already.
    pub(super) fn with(mut self, keys: &Keys) -> Self {
        if let Some(vault) = &keys.vault {
            self.lock = LockState::Open;
            self.vault = Some(Arc::clone(vault));
            for slot in &mut self.slots {
                slot.opens = keys.opened.contains(&slot.fingerprint);
            }
        }
        self
    }
}

/// Reads the key slots and tries the keys at hand on them: each on the slot that names it, and if none of these opens, on all
/// others of its kind.
///
/// # Errors
/// [`StoreError::Newer`] if the format record says so. Nothing else is an error here.
pub(super) fn unlock(path: &Path, rows: &[Row], unlockers: &[&Unlocker]) -> Result<Unlocked, StoreError> {
    let mut findings = Vec::new();
    for row in rows.iter().filter(|row| row.table == Table::Meta && row.key == [meta_key::FORMAT]) {
        // Only a digest that matches makes the version believable: a flipped bit is damage, not a newer program.
        let found = checked(row, None).and_then(|format| {
            let version = store_format::decode_format(format.payload).and_then(check_format);
            version.map_err(RecordProblem::Malformed)
        });
        match found {
            Ok(()) => {}
            Err(RecordProblem::Malformed(DecodeError::FormatNewer { found })) => {
                return Err(StoreError::Newer { path: path.to_owned(), found, known: FORMAT_VERSION });
            }
            Err(problem) => findings.push(Finding::record(row.table, &row.key, problem)),
        }
    }
    let mut slots: Vec<SlotRow<'_>> = Vec::new();
    let mut any_slot = false;
    for row in rows {
        let Some(key) = slot_key_of(row) else { continue };
        any_slot = true;
        match read_slot(row, key) {
            Ok(slot) => slots.push(slot),
            // A later version may add kinds of slots; one that this version can't use is no damage.
            Err(RecordProblem::Malformed(DecodeError::SlotKind { .. })) => {}
            Err(problem) => findings.push(Finding::record(row.table, &row.key, problem)),
        }
    }
    let mut opened = try_keys(&slots, unlockers);
    let vault = the_data_key(rows, opened.iter().map(|(_, vault)| vault));
    // A slot of before an exchange of the data key, put back, opens to a key that nothing here is tagged with.
    opened.retain(|(index, wrapped)| {
        let right = vault.as_ref().is_some_and(|vault| vault.is(wrapped));
        if let (false, Some(SlotRow { row, .. })) = (right, slots.get(*index)) {
            findings.push(Finding::record(row.table, &row.key, RecordProblem::OtherDataKey));
        }
        right
    });
    let mut infos: Vec<SlotInfo> = Vec::new();
    for (index, SlotRow { slot, .. }) in slots.iter().enumerate() {
        let opens = opened.iter().any(|(opened, _)| *opened == index);
        match infos.iter_mut().find(|info| info.fingerprint == slot.fingerprint && info.kind == slot.kind) {
            Some(info) => info.opens |= opens,
            None => infos.push(SlotInfo {
                kind: slot.kind,
                fingerprint: slot.fingerprint,
                created_at_unix_ms: slot.created_at_unix_ms,
                opens,
            }),
        }
    }
    infos.sort_by_key(|info| (info.created_at_unix_ms, info.fingerprint));
    // Sealed records are proof that there was a slot, even if none can be found.
    let sealed = rows.iter().any(|row| {
        row.table == Table::Objects
            && row.key.first().and_then(|kind| Kind::from_name(kind)).is_some_and(|kind| kind.row().sealed)
    });
    if sealed && !any_slot {
        findings.push(Finding::Missing { object: "every key slot".to_owned(), named_by: "sealed records".to_owned() });
    }
    let lock = match (&vault, any_slot || sealed) {
        (Some(_), _) => LockState::Open,
        (None, true) => LockState::Locked,
        (None, false) => LockState::Keyless,
    };
    Ok(Unlocked { lock, vault, slots: infos, findings })
}

/// A slot as it lies in one of its two places.
pub(super) struct SlotRow<'a> {
    pub(super) row: &'a Row,
    /// The store that its key names; `None` if the key is not of that form.
    pub(super) store_id: Option<StoreId>,
    pub(super) slot: KeySlot,
}

/// Every slot that can be read, in both places.
pub(super) fn slot_rows(rows: &[Row]) -> impl Iterator<Item = SlotRow<'_>> {
    rows.iter().filter_map(|row| read_slot(row, slot_key_of(row)?).ok())
}

fn read_slot<'a>(row: &'a Row, key: &str) -> Result<SlotRow<'a>, RecordProblem> {
    let slot = KeySlot::decode(checked(row, None)?.payload).map_err(RecordProblem::Malformed)?;
    Ok(SlotRow { row, store_id: store_format::slot_key_store_id(key), slot })
}

/// Which of the data keys that were found in slots is the one of these records.
///
/// Somebody without any key can put an old slot back, and it then opens with the key that it always opened with. So what the
/// slots hold is judged by the tags: the data key is the one that made more of them than any other, and most of them.
fn the_data_key<'a>(rows: &[Row], found: impl Iterator<Item = &'a Arc<Vault>>) -> Option<Arc<Vault>> {
    let mut distinct: Vec<&Arc<Vault>> = Vec::new();
    for vault in found {
        if !distinct.iter().any(|known| known.is(vault)) {
            distinct.push(vault);
        }
    }
    let tags: Vec<_> = rows
        .iter()
        .filter(|row| row.table != Table::Slots)
        .filter_map(|row| Frame::decode(&row.bytes).ok().and_then(|frame| Some((frame.digest, frame.tag?))))
        .collect();
    let made = |vault: &Vault| tags.iter().filter(|(digest, tag)| vault.check_tag(digest, tag).is_ok()).count();
    let best = distinct.into_iter().map(|vault| (made(vault), vault)).max_by_key(|(made, _)| *made);
    best.filter(|(made, _)| 2 * made >= tags.len()).map(|(_, vault)| Arc::clone(vault))
}

/// Which slots the keys open, by their place in `slots`, and to what.
fn try_keys(slots: &[SlotRow<'_>], unlockers: &[&Unlocker]) -> Vec<(usize, Arc<Vault>)> {
    let named: Vec<(Option<[u8; 32]>, &Unlocker)> =
        unlockers.iter().map(|unlocker| (fingerprint(unlocker), *unlocker)).collect();
    let open = |by_name: bool| {
        let mut opened = Vec::new();
        for (index, SlotRow { store_id, slot, .. }) in slots.iter().enumerate() {
            let Some(store_id) = store_id else { continue };
            let keys = named.iter().filter(|(name, unlocker)| {
                unlocker.kind() == slot.kind && (*name == Some(slot.fingerprint)) == by_name
            });
            let vault = keys.into_iter().find_map(|(_, unlocker)| Vault::unlock(*store_id, slot, unlocker).ok());
            opened.extend(vault.map(|vault| (index, Arc::new(vault))));
        }
        opened
    };
    let opened = open(true);
    // A key without a public part has no name, and what a certificate beside a key says of it may be wrong.
    if opened.is_empty() { open(false) } else { opened }
}

/// The slot's key if the row is a slot: in its own table, or its mirror in the table `meta`.
fn slot_key_of(row: &Row) -> Option<&str> {
    let key = row.key.first()?;
    match row.table {
        Table::Slots => Some(key),
        Table::Meta => key.strip_prefix(meta_key::SLOT_MIRROR),
        Table::Objects | Table::Pods | Table::Log => None,
    }
}

fn checked<'a>(row: &'a Row, vault: Option<&Vault>) -> Result<Checked<'a>, RecordProblem> {
    let key: Vec<&str> = row.key.iter().map(String::as_str).collect();
    record::check(row.table, &key, &row.bytes, vault)
}

/// Whether the log is checked when a snapshot is made.
///
/// It may be as long as everything else together, and whoever decides and renders does not read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckLog {
    /// Yes: what is damaged is a finding.
    Now,
    /// Only when it is read, by [`Snapshot::log`].
    WhenRead,
}

/// Checks every row. `structure` holds what is known of damage to the file itself.
pub(super) fn snapshot(rows: Vec<Row>, unlocked: Unlocked, structure: Vec<Finding>, check_log: CheckLog) -> Snapshot {
    let Unlocked { lock, vault, slots, findings } = unlocked;
    let (mut log, rows): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.table == Table::Log);
    // What is read from a damaged file comes in no order.
    log.sort_by(|a, b| a.key.cmp(&b.key));
    let mut loader = Loader {
        vault: vault.as_deref(),
        format: false,
        identity: None,
        state: None,
        records: BTreeMap::new(),
        rows: BTreeMap::new(),
        damaged: BTreeSet::new(),
        found: BTreeMap::new(),
        findings: structure,
    };
    loader.findings.extend(findings);
    let log_to_check = match check_log {
        CheckLog::Now => log.as_slice(),
        CheckLog::WhenRead => &[],
    };
    progress::begin(Phase::Checking, rows.len() + log_to_check.len());
    for row in rows.iter().chain(log_to_check) {
        progress::step();
        if let Err(problem) = loader.take(row) {
            loader.findings.push(Finding::record(row.table, &row.key, problem));
        }
    }
    loader.look_for_missing();
    loader.compare_slots(&rows);
    loader.compare_revisions(&log);
    let forbidden = loader.forbidden();
    let Loader { identity, state, records, rows, damaged, findings, .. } = loader;
    Snapshot {
        identity,
        revision: Revision(state.as_ref().map_or(0, |state| state.revision)),
        // A lost state record must not make a full store look like a new one.
        populated: state.as_ref().map_or(!records.is_empty(), |state| state.populated),
        boot_id: state.as_ref().map(|state| state.boot_id.clone()).unwrap_or_default(),
        source_position: state.map(|state| state.source_position).unwrap_or_default(),
        lock,
        slots,
        records,
        rows,
        log,
        forbidden,
        damaged,
        findings,
        vault,
    }
}

struct Loader<'a> {
    vault: Option<&'a Vault>,
    /// Whether the format record is there, sound or not.
    format: bool,
    identity: Option<Identity>,
    state: Option<State>,
    records: BTreeMap<ObjectKey, Record>,
    rows: BTreeMap<(String, String), PodRow>,
    damaged: BTreeSet<ObjectKey>,
    /// How many rows of each kind were seen, sound or not.
    found: BTreeMap<String, u64>,
    findings: Vec<Finding>,
}

impl Loader<'_> {
    fn take(&mut self, row: &Row) -> Result<(), RecordProblem> {
        match row.table {
            Table::Slots => Ok(()),
            Table::Meta => self.take_meta(row),
            Table::Pods => self.take_pod_row(row),
            Table::Objects => self.take_object(row),
            Table::Log => log_record(row, self.vault).map(drop),
        }
    }

    fn take_meta(&mut self, row: &Row) -> Result<(), RecordProblem> {
        match row.key.first().map(String::as_str) {
            Some(meta_key::IDENTITY) => {
                let checked = checked(row, self.vault)?;
                self.identity = Some(Identity::decode(checked.payload).map_err(RecordProblem::Malformed)?);
            }
            Some(meta_key::STATE) => {
                let checked = checked(row, self.vault)?;
                self.state = Some(State::decode(checked.payload).map_err(RecordProblem::Malformed)?);
            }
            // Read by `unlock`, before a key was known; now its tag can be checked as well. A digest that fails here
            // failed there, and was reported.
            Some(key) if key == meta_key::FORMAT || key.starts_with(meta_key::SLOT_MIRROR) => {
                self.format |= key == meta_key::FORMAT;
                if let Err(problem @ (RecordProblem::Tag | RecordProblem::NoTag)) = checked(row, self.vault) {
                    return Err(problem);
                }
            }
            // A later version may keep more here.
            Some(_) | None => {}
        }
        Ok(())
    }

    fn take_pod_row(&mut self, row: &Row) -> Result<(), RecordProblem> {
        let [namespace, name] = row.key.as_slice() else { return Err(RecordProblem::Name) };
        ObjectKey::new(Kind::Pod, namespace, name).map_err(|_| RecordProblem::Name)?;
        let checked = checked(row, self.vault)?;
        let pod_row = PodRow::decode(checked.payload).map_err(RecordProblem::Malformed)?;
        self.rows.insert((namespace.clone(), name.clone()), pod_row);
        Ok(())
    }

    fn take_object(&mut self, row: &Row) -> Result<(), RecordProblem> {
        let [kind, namespace, name] = row.key.as_slice() else { return Err(RecordProblem::Name) };
        *self.found.entry(kind.clone()).or_default() += 1;
        let key = Kind::from_name(kind).and_then(|kind| ObjectKey::new(kind, namespace, name).ok());
        let problem = match &key {
            Some(key) => match self.open_object(row, key) {
                Ok(record) => {
                    self.records.insert(key.clone(), record);
                    return Ok(());
                }
                Err(problem) => problem,
            },
            None => RecordProblem::Name,
        };
        self.damaged.extend(key);
        match (problem, own_key(row)) {
            // The object is lost under its own key; it is named, so that it can be fetched again.
            (RecordProblem::Digest | RecordProblem::Name, Some(own)) => {
                self.damaged.insert(own.clone());
                Err(RecordProblem::OtherKey(own))
            }
            (problem, _) => Err(problem),
        }
    }

    fn open_object(&self, row: &Row, key: &ObjectKey) -> Result<Record, RecordProblem> {
        let Checked { payload, authenticated } = checked(row, self.vault)?;
        let envelope = Envelope::decode(payload).map_err(RecordProblem::Malformed)?;
        if !record::belongs(&envelope, key) {
            return Err(RecordProblem::Misplaced);
        }
        // With a key at hand every record is opened once here, so that what is listed can also be read later.
        if envelope.form == Form::Sealed && record::open(key, &envelope, self.vault).is_err() {
            return Err(RecordProblem::Sealed);
        }
        if envelope.form == Form::Clear && !is_json_object(&envelope.body) {
            return Err(RecordProblem::Body);
        }
        Ok(Record { envelope, authenticated })
    }

    /// Objects that a pod could not be stored with, because they may not be read. A row of another UID than the pod's says
    /// nothing.
    fn forbidden(&self) -> BTreeSet<ObjectKey> {
        let mut forbidden = BTreeSet::new();
        for (pod, record) in self.records.iter().filter(|(key, _)| key.kind() == Kind::Pod) {
            let row = self.rows.get(&(pod.namespace().to_owned(), pod.name().to_owned()));
            let absent = row.filter(|row| row.uid == record.envelope.uid).into_iter();
            let entries = absent.flat_map(|row| absence::entries(pod.namespace(), row));
            forbidden.extend(entries.filter(|(_, why)| *why == Absence::Forbidden).map(|(key, _)| key));
        }
        forbidden
    }

    /// With the data key known, the mirrors have tags, and what they say is what the slots have to say.
    fn compare_slots(&mut self, rows: &[Row]) {
        let own = self.identity.as_ref().map(|identity| identity.store_id);
        let mut places: BTreeMap<&str, [Option<&Row>; 2]> = BTreeMap::new();
        for row in rows {
            let Some(key) = slot_key_of(row) else { continue };
            places.entry(key).or_default()[usize::from(row.table == Table::Meta)] = Some(row);
        }
        for (key, [slot, mirror]) in places {
            let foreign = own.is_some() && store_format::slot_key_store_id(key) != own;
            let payload = |row: &Row| checked(row, None).ok().map(|checked| checked.payload.to_vec());
            if foreign {
                let of_it = |finding: &Finding| matches!(finding, Finding::Record { problem: RecordProblem::OtherDataKey, key: named, .. } if named.ends_with(key));
                self.findings.retain(|finding| !of_it(finding));
                let rows = slot.into_iter().chain(mirror);
                self.findings.extend(rows.map(|row| Finding::record(row.table, &row.key, RecordProblem::OtherStore)));
                continue;
            }
            // Without a key nobody can tell which of two is right.
            let Some(vault) = self.vault else { continue };
            let found = match (slot, mirror) {
                (Some(_), None) => Some(missing_place("meta/slot/", key, "slots/")),
                (None, Some(_)) => Some(missing_place("slots/", key, "meta/slot/")),
                (Some(slot), Some(mirror)) if checked(mirror, Some(vault)).is_ok() => {
                    // One that is damaged is named already, and one that holds another data key was named for that.
                    let differs = payload(slot).is_some_and(|of_slot| Some(of_slot) != payload(mirror));
                    let known = self.findings.iter().any(|finding| matches!(finding, Finding::Record { table: Table::Slots, key: named, problem: RecordProblem::OtherDataKey } if named == key));
                    (differs && !known).then(|| Finding::record(slot.table, &slot.key, RecordProblem::Mirror))
                }
                (None | Some(_), None | Some(_)) => None,
            };
            self.findings.extend(found);
        }
    }

    /// No commit is logged that the state record has not counted.
    fn compare_revisions(&mut self, log: &[Row]) {
        // They are in order; a damaged one says nothing.
        let last = log.iter().rev().find(|row| checked(row, self.vault).is_ok());
        let last = last.and_then(|row| log_key_revision(row.key.first()?));
        if let (Some(log), Some(state)) = (last, self.state.as_ref().map(|state| state.revision))
            && log > state
        {
            self.findings.push(Finding::Revision { log, state });
        }
    }

    /// What other records say should be there.
    fn look_for_missing(&mut self) {
        let mut missing: BTreeMap<ObjectKey, String> = BTreeMap::new();
        for (pod, record) in &self.records {
            for link in &record.envelope.links {
                let Some(kind) = Kind::from_name(&link.kind) else { continue };
                let Ok(key) = ObjectKey::new(kind, &link.namespace, &link.name) else { continue };
                if !self.records.contains_key(&key) && !self.damaged.contains(&key) {
                    missing.entry(key).or_insert_with(|| pod.to_string());
                }
            }
        }
        for (namespace, name) in self.rows.keys() {
            let Ok(pod) = ObjectKey::new(Kind::Pod, namespace, name) else { continue };
            if !self.records.contains_key(&pod) && !self.damaged.contains(&pod) {
                missing.entry(pod).or_insert_with(|| format!("record pods/{namespace}/{name}"));
            }
        }
        for pod in self.records.keys().filter(|key| key.kind() == Kind::Pod) {
            let row = (pod.namespace().to_owned(), pod.name().to_owned());
            let reported = format!("{}/{}", row.0, row.1);
            let known = self
                .findings
                .iter()
                .any(|finding| matches!(finding, Finding::Record { table: Table::Pods, key, .. } if *key == reported));
            if !self.rows.contains_key(&row) && !known {
                self.findings
                    .push(Finding::Missing { object: format!("record pods/{reported}"), named_by: pod.to_string() });
            }
        }
        // A moved record names its own object, which may well be where it belongs.
        self.damaged.retain(|key| !self.records.contains_key(key));
        for (key, named_by) in missing {
            self.findings.push(Finding::Missing { object: key.to_string(), named_by });
            self.damaged.insert(key);
        }
        for (name, there) in [
            (meta_key::FORMAT, self.format),
            (meta_key::IDENTITY, self.identity.is_some()),
            (meta_key::STATE, self.state.is_some()),
        ] {
            let known = self
                .findings
                .iter()
                .any(|finding| matches!(finding, Finding::Record { table: Table::Meta, key, .. } if key == name));
            if !there && !known {
                self.findings.push(Finding::Missing {
                    object: format!("record meta/{name}"),
                    named_by: "every store".to_owned(),
                });
            }
        }
        for (kind, written) in self.state.iter().flat_map(|state| &state.census) {
            let found = self.found.get(kind).copied().unwrap_or_default();
            if found < *written {
                self.findings.push(Finding::Hidden { kind: kind.clone(), written: *written, found });
            }
        }
    }
}

/// A slot stands in two places, and is missing in this one.
fn missing_place(place: &str, key: &str, named_by: &str) -> Finding {
    let shown = super::finding::shown_key(&[key.to_owned()]);
    Finding::Missing { object: format!("record {place}{shown}"), named_by: format!("record {named_by}{shown}") }
}

/// One record of the log, with its revision.
pub(super) fn log_record(row: &Row, vault: Option<&Vault>) -> Result<(Revision, LogRecord), RecordProblem> {
    let [key] = row.key.as_slice() else { return Err(RecordProblem::Name) };
    let revision = log_key_revision(key).ok_or(RecordProblem::Name)?;
    let checked = checked(row, vault)?;
    let record = LogRecord::decode(checked.payload).map_err(RecordProblem::Malformed)?;
    Ok((Revision(revision), record))
}

/// The key that a record's digest does match, if that is the one which its envelope states.
fn own_key(row: &Row) -> Option<ObjectKey> {
    let envelope = Envelope::decode(Frame::decode(&row.bytes).ok()?.payload).ok()?;
    let key = ObjectKey::new(Kind::from_name(&envelope.kind)?, &envelope.namespace, &envelope.name).ok()?;
    let parts = [envelope.kind.as_str(), envelope.namespace.as_str(), envelope.name.as_str()];
    record::check(row.table, &parts, &row.bytes, None).ok()?;
    Some(key)
}

fn is_json_object(body: &[u8]) -> bool {
    serde_json::from_slice::<BTreeMap<String, serde::de::IgnoredAny>>(body).is_ok()
}
