//! What is known of a pod beyond its object.

use store_format::{Activity, PodRow, Table};

use super::Batch;
use crate::checkpoint::judge::has_run;
use crate::checkpoint::object::Object;
use crate::checkpoint::rendering::PodName;
use crate::store::tables::RowKey;
use crate::store::{StoreError, record};

impl Batch<'_> {
    /// Keeps what is known of a pod beyond its object; a pod of another UID starts afresh.
    pub(super) fn write_pod_row(&mut self, pod: &Object, known: bool) -> Result<(), StoreError> {
        let row = self.pod_row(pod.key.namespace(), pod.key.name())?;
        // A row that was lost said something of a pod that is stored: the doubt is in favour of its coming back.
        let lost = known && row.is_none();
        let before = row.filter(|row| row.uid == pod.uid);
        let ran = lost || has_run(pod) || before.as_ref().is_some_and(|row| row.ran);
        let row = match &before {
            Some(row) if row.ran == ran => return Ok(()),
            Some(row) => PodRow { ran, ..row.clone() },
            None => PodRow {
                uid: pod.uid.clone(),
                ran,
                activity: Activity::Inactive,
                decided_at_unix_ms: self.context.now_unix_ms,
            },
        };
        self.put(RowKey::Pod(pod.key.namespace(), pod.key.name()), &row.encode()?)
    }

    pub(super) fn write_decision(&mut self, pod: &PodName, uid: &str, activity: Activity) -> Result<(), StoreError> {
        let Some(row) = self.pod_row(&pod.namespace, &pod.name)? else { return Ok(()) };
        if row.uid != uid || row.activity == activity {
            return Ok(());
        }
        let row = PodRow { activity, decided_at_unix_ms: self.context.now_unix_ms, ..row };
        self.put(RowKey::Pod(&pod.namespace, &pod.name), &row.encode()?)
    }

    fn pod_row(&self, namespace: &str, name: &str) -> Result<Option<PodRow>, StoreError> {
        let place = RowKey::Pod(namespace, name);
        let Some(bytes) = self.tables.get(place)? else { return Ok(None) };
        let checked = record::check(Table::Pods, &place.parts(), &bytes, self.context.vault);
        Ok(checked.ok().and_then(|checked| PodRow::decode(checked.payload).ok()))
    }
}
