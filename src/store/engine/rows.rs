//! What is known of a pod beyond its object: whether it ran and how it ended, what it lacks, what was decided.

use store_format::{AbsentObject, Activity, PodRow, TEXT_MAX_BYTES, Table};

use super::Batch;
use crate::checkpoint::judge::{has_run, outcome};
use crate::checkpoint::object::Object;
use crate::checkpoint::rendering::PodName;
use crate::store::tables::RowKey;
use crate::store::{StoreError, record};

impl Batch<'_> {
    /// Keeps what is known of a pod beyond its object; a pod of another UID starts afresh. `before` is what is stored of
    /// this very pod, if it is.
    pub(super) fn write_pod_row(
        &mut self,
        pod: &Object,
        before: Option<&Object>,
        absent: Vec<AbsentObject>,
    ) -> Result<(), StoreError> {
        let row = self.pod_row(pod.key.namespace(), pod.key.name())?.filter(|row| row.uid == pod.uid);
        let (ran, ended) = match (&row, before) {
            (Some(row), _) => (row.ran, row.ended.clone()),
            // A row that was lost said something of a pod that is stored: the doubt is in favour of its coming back, if it
            // had not ended when it was stored.
            (None, Some(before)) => (true, ending(before)),
            (None, None) => (false, String::new()),
        };
        let overtaken = self.overtaken.remove(&pod.key).unwrap_or_default();
        let seen: Vec<&Object> = overtaken.iter().filter(|seen| seen.uid == pod.uid).chain([pod]).collect();
        // A restored etcd may show a pod as running that has ended. Without a UID it may be another pod each time.
        let ended = if pod.uid.is_empty() {
            ending(pod)
        } else if ended.is_empty() {
            seen.iter().map(|seen| ending(seen)).find(|ended| !ended.is_empty()).unwrap_or_default()
        } else {
            ended
        };
        let now = PodRow {
            uid: pod.uid.clone(),
            ran: ran || seen.iter().any(|seen| has_run(seen)),
            activity: row.as_ref().map_or(Activity::Inactive, |row| row.activity),
            decided_at_unix_ms: row.as_ref().map_or(self.context.now_unix_ms, |row| row.decided_at_unix_ms),
            ended,
            absent,
        };
        if row.as_ref() == Some(&now) {
            return Ok(());
        }
        self.put(RowKey::Pod(pod.key.namespace(), pod.key.name()), &now.encode()?)
    }

    pub(super) fn write_decision(&mut self, pod: &PodName, uid: &str, activity: Activity) -> Result<(), StoreError> {
        let Some(row) = self.pod_row(&pod.namespace, &pod.name)? else { return Ok(()) };
        if row.uid != uid || row.activity == activity {
            return Ok(());
        }
        let row = PodRow { activity, decided_at_unix_ms: self.context.now_unix_ms, ..row };
        self.put(RowKey::Pod(&pod.namespace, &pod.name), &row.encode()?)
    }

    pub(super) fn pod_row(&self, namespace: &str, name: &str) -> Result<Option<PodRow>, StoreError> {
        let place = RowKey::Pod(namespace, name);
        let Some(bytes) = self.tables.get(place)? else { return Ok(None) };
        let checked = record::check(Table::Pods, &place.parts(), &bytes, self.context.vault);
        Ok(checked.ok().and_then(|checked| PodRow::decode(checked.payload).ok()))
    }
}

/// How the pod ended, as its status tells; empty if it has not. The kubelet's reason is cut to what a text can hold.
fn ending(pod: &Object) -> String {
    let mut ended = outcome(pod).unwrap_or_default();
    let mut end = ended.len().min(TEXT_MAX_BYTES);
    while !ended.is_char_boundary(end) {
        end -= 1;
    }
    ended.truncate(end);
    ended
}
