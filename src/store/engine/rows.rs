//! What is known of a pod beyond its object: whether it ran and how it ended, what it lacks, what was decided.

use store_format::{Absence, AbsentObject, Event, Lifecycle, PodRow, TEXT_MAX_BYTES, Table};

use super::{Batch, Decision, cut};
use crate::checkpoint::judge::Past;
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::checkpoint::rendering::PodName;
use crate::store::backend::Rejected;
use crate::store::tables::RowKey;
use crate::store::{StoreError, record};

impl Batch<'_> {
    /// Keeps what is known of a pod beyond its object. A pod of another UID starts afresh, but for what is true of its name:
    /// an operator holds it, and the copy of its predecessor may still run. `before` is what is stored of this very pod, if
    /// it is.
    pub(super) fn write_pod_row(
        &mut self,
        pod: &Object,
        before: Option<&Object>,
        absent: Vec<AbsentObject>,
    ) -> Result<(), StoreError> {
        let known = self.pod_row(pod.key.namespace(), pod.key.name())?;
        let held = known.as_ref().is_some_and(|row| row.held);
        let (row, predecessor) = match known {
            Some(row) if row.uid == pod.uid => (Some(row), None),
            other => (None, other),
        };
        let lifecycle = match (&row, predecessor) {
            (Some(row), _) => row.lifecycle,
            (None, Some(row)) if row.lifecycle.runs() => Lifecycle::Active,
            (None, _) => Lifecycle::Inactive,
        };
        let (ran, ended) = match (&row, before) {
            (Some(row), _) => (row.ran, row.ended.clone()),
            // A row that was lost said something of a pod that is stored: the doubt is in favour of its coming back, if it
            // had not ended when it was stored.
            (None, Some(before)) => (true, ending(&Past::of(before))),
            (None, None) => (false, String::new()),
        };
        let overtaken = self.overtaken.remove(&pod.key).unwrap_or_default();
        let seen: Vec<Past> = overtaken.iter().filter(|seen| seen.uid == pod.uid).map(Past::of).collect();
        let told = self.pasts.remove(&pod.key).unwrap_or_else(|| Past::of(pod));
        // A restored etcd may show a pod as running that has ended. Without a UID it may be another pod each time.
        let ended = if pod.uid.is_empty() {
            ending(&told)
        } else if ended.is_empty() {
            seen.iter().chain([&told]).map(ending).find(|ended| !ended.is_empty()).unwrap_or_default()
        } else {
            ended
        };
        let now = PodRow {
            uid: pod.uid.clone(),
            ran: ran || told.ran || seen.iter().any(|seen| seen.ran),
            lifecycle,
            // What this batch says of it is written when all of its objects are.
            gone: row.as_ref().is_some_and(|row| row.gone),
            held,
            republished: row.as_ref().map_or(0, |row| row.republished),
            decided_at_unix_ms: row.as_ref().map_or(self.context.now_unix_ms, |row| row.decided_at_unix_ms),
            ended,
            absent,
        };
        if row.as_ref() == Some(&now) {
            return Ok(());
        }
        if !now.ended.is_empty() && row.as_ref().is_none_or(|row| row.ended != now.ended) {
            self.note(Event::Ended, &pod.key, &pod.uid, &now.ended);
        }
        self.note_absences(pod.key.namespace(), &now.absent, row.as_ref());
        self.put(RowKey::Pod(pod.key.namespace(), pod.key.name()), &now.encode()?)
    }

    /// Notes what is not to be had and was not known to be, once for all pods that name it.
    fn note_absences(&mut self, namespace: &str, absent: &[AbsentObject], before: Option<&PodRow>) {
        for object in absent.iter().filter(|object| before.is_none_or(|row| !row.absent.contains(object))) {
            let key = Kind::from_name(&object.kind).map(|kind| ObjectKey::new(kind, namespace, &object.name));
            let Some(Ok(key)) = key else { continue };
            let why = match object.why {
                Absence::NotFound => "not found",
                Absence::Forbidden => "forbidden",
            };
            let is_it = |item: &store_format::LogItem| {
                item.event == Event::Absent
                    && (item.kind == object.kind && item.namespace == namespace && item.name == object.name)
            };
            if !self.noted.iter().any(is_it) {
                self.note(Event::Absent, &key, "", why);
            }
        }
    }

    pub(super) fn write_decision(&mut self, pod: &PodName, uid: &str, decision: Decision) -> Result<(), StoreError> {
        let Decision { lifecycle, republished, why } = decision;
        let Some(row) = self.pod_row(&pod.namespace, &pod.name)? else { return Ok(()) };
        if row.uid != uid || (row.lifecycle, row.republished) == (lifecycle, republished) {
            return Ok(());
        }
        let (from, to) = (row.lifecycle.phase(), lifecycle.phase());
        if let Ok(key) = ObjectKey::new(Kind::Pod, &pod.namespace, &pod.name) {
            if from != to {
                self.note(Event::Decided { from, to }, &key, uid, &why);
            }
            if republished > row.republished {
                self.note(Event::Republished, &key, uid, &why);
            }
        }
        let decided_at_unix_ms = if from == to { row.decided_at_unix_ms } else { self.context.now_unix_ms };
        let row = PodRow { lifecycle, republished, decided_at_unix_ms, ..row };
        self.put(RowKey::Pod(&pod.namespace, &pod.name), &row.encode()?)
    }

    pub(super) fn write_gone(&mut self) -> Result<(), StoreError> {
        for (key, gone) in std::mem::take(&mut self.gone) {
            // A later step of the batch may have deleted it.
            let Some(row) = self.pod_row(key.namespace(), key.name())? else { continue };
            // Nothing is left of it that a grace period could be for.
            if gone && !self.tables.has(RowKey::object(&key))? {
                self.remove_lost(&key)?;
                continue;
            }
            if row.gone == gone {
                continue;
            }
            self.note(if gone { Event::Gone } else { Event::Back }, &key, &row.uid, "");
            let row = PodRow { gone, ..row };
            self.put(RowKey::Pod(key.namespace(), key.name()), &row.encode()?)?;
        }
        Ok(())
    }

    pub(super) fn write_hold(&mut self, pod: &PodName, held: bool) -> Result<(), StoreError> {
        // What has no name can't be stored, nor be named in an answer.
        let Ok(key) = ObjectKey::new(Kind::Pod, &pod.namespace, &pod.name) else { return Ok(()) };
        let Some(row) = self.pod_row(&pod.namespace, &pod.name)? else {
            self.update.rejected.push(Rejected { object: key, problem: "no such pod is stored".to_owned() });
            return Ok(());
        };
        if row.held == held {
            return Ok(());
        }
        self.note(if held { Event::Held } else { Event::Released }, &key, &row.uid, "");
        let row = PodRow { held, ..row };
        self.put(RowKey::Pod(&pod.namespace, &pod.name), &row.encode()?)
    }

    pub(super) fn pod_row(&self, namespace: &str, name: &str) -> Result<Option<PodRow>, StoreError> {
        let place = RowKey::Pod(namespace, name);
        let mut row = None;
        self.tables.look(place, &mut |bytes| {
            let checked = record::check(Table::Pods, &place.parts(), bytes, self.context.vault);
            row = checked.ok().and_then(|checked| PodRow::decode(checked.payload).ok());
        })?;
        Ok(row)
    }
}

/// How the pod ended, as its status tells; empty if it has not. The kubelet's reason is cut to what a text can hold.
fn ending(past: &Past) -> String {
    cut(past.outcome.as_deref().unwrap_or_default(), TEXT_MAX_BYTES).to_owned()
}
