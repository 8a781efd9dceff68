//! What passes have carried out and said, beyond what is on record: the store may take no commit for days.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::lifecycle::Record;
use crate::checkpoint::rendering::PodName;

/// What a pass has carried out beyond what is on record.
#[derive(Default)]
pub(super) struct Told {
    pub(super) records: Vec<Record>,
    pub(super) removed: Vec<(PodName, String)>,
}

impl Told {
    /// Whether it is in here already.
    pub(super) fn has(&self, record: &Record) -> bool {
        self.records.iter().any(|told| tells_the_same(told, record))
    }
}

/// Whether there is nothing new in it. What is left of a period runs on meanwhile.
fn tells_the_same(told: &Record, record: &Record) -> bool {
    let what = |record: &Record| (record.uid.clone(), record.state.code(), record.republished, record.why.clone());
    told.pod == record.pod && what(told) == what(record)
}

/// What was said last of each pod: what is left of a period is recorded now and then, which is no news.
#[derive(Default)]
pub(super) struct Said(BTreeMap<PodName, Record>);

impl Said {
    /// What there is to say, which counts as said from now on; `pods` are all that there are.
    pub(super) fn news<'a>(&mut self, records: &[Record], pods: impl Iterator<Item = &'a PodName>) -> Vec<Record> {
        let pods: BTreeSet<&PodName> = pods.collect();
        self.0.retain(|pod, _| pods.contains(pod));
        let mut news = Vec::new();
        for record in records {
            let last = self.0.insert(record.pod.clone(), record.clone());
            if last.is_none_or(|last| !tells_the_same(&last, record)) {
                news.push(record.clone());
            }
        }
        news
    }
}
