//! How the API server stands at this moment, and which pods it names: told at once, not in turn with the steps that wait
//! for the store. A copy that must go before its parent comes can't wait for a disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::reach::Reach;
use crate::checkpoint::judge::{is_being_deleted, outcome};
use crate::checkpoint::object::{Object, ObjectKey};
use crate::checkpoint::rendering::PodName;

/// What is known at one moment without a store.
#[derive(Clone, Debug, Default)]
pub struct Sighting {
    /// How the API server stands; `None` while nobody was asked.
    pub reach: Option<Reach>,
    /// Whether it could have been reached at the last attempt that failed, as far as this node's network goes.
    pub routed: bool,
    /// How many times it has begun to answer. Each [`super::feed::Told::Reach`] that says so belongs to one.
    pub episode: u64,
    /// How many signs of life there were while it was silent: see [`super::connect::Connections::signs`].
    pub signs: u64,
    /// The pods of this node that it names and that will run: neither finished nor being deleted. With their UIDs.
    pub pods: Arc<BTreeMap<PodName, String>>,
}

impl Sighting {
    /// It stands so. If it stood otherwise, what it named before is of the past.
    pub(super) fn stands(&mut self, reach: Reach) {
        if self.reach.as_ref() == Some(&reach) {
            return;
        }
        if reach == Reach::Answering {
            self.episode += 1;
        } else {
            self.pods = Arc::default();
        }
        self.reach = Some(reach);
    }

    /// It has given a sign of life; whether that is news.
    pub(super) fn sign(&mut self) -> bool {
        // One that answers, or refuses, has told more.
        let silent = matches!(self.reach, Some(Reach::Silent(_)));
        self.signs += u64::from(silent);
        silent
    }

    /// It has listed the pods.
    pub(super) fn listed<'a>(&mut self, pods: impl Iterator<Item = &'a Object>) {
        let alive = pods.filter(|pod| will_run(pod)).map(|pod| (name(&pod.key), pod.uid.clone()));
        self.pods = Arc::new(alive.collect());
    }

    /// It has told of one pod; whether that is news.
    pub(super) fn pod(&mut self, pod: &Object) -> bool {
        let name = name(&pod.key);
        let known = self.pods.get(&name);
        match (known, will_run(pod)) {
            (Some(uid), true) if *uid == pod.uid => false,
            (_, true) => {
                Arc::make_mut(&mut self.pods).insert(name, pod.uid.clone());
                true
            }
            (known, false) if known == Some(&pod.uid) => {
                Arc::make_mut(&mut self.pods).remove(&name);
                true
            }
            (_, false) => false,
        }
    }

    /// A pod is gone; whether that is news.
    pub(super) fn gone(&mut self, key: &ObjectKey, uid: &str) -> bool {
        let name = name(key);
        let known = self.pods.get(&name).is_some_and(|known| known == uid);
        if known {
            Arc::make_mut(&mut self.pods).remove(&name);
        }
        known
    }
}

fn will_run(pod: &Object) -> bool {
    outcome(pod).is_none() && !is_being_deleted(pod)
}

fn name(key: &ObjectKey) -> PodName {
    PodName { namespace: key.namespace().to_owned(), name: key.name().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::object::Kind;
    use crate::source::api::reach::Cause;

    fn pod(name: &str, uid: &str, more: &str) -> Object {
        let key = ObjectKey::new(Kind::Pod, "default", name).unwrap();
        let body = format!(r#"{{"metadata":{{"name":"{name}"{more}}},"spec":{{"containers":[{{"name":"c"}}]}}}}"#);
        Object { key, uid: uid.to_owned(), resource_version: String::new(), body: body.into() }
    }

    #[test]
    fn pods_that_will_run_are_sighted_until_nobody_answers() {
        const DELETING: &str = r#","deletionTimestamp":"2026-01-01T00:00:00Z""#;
        let seen = |sighting: &Sighting| {
            sighting.pods.iter().map(|(pod, uid)| format!("{}={uid}", pod.name)).collect::<Vec<_>>().join(" ")
        };
        let mut sighting = Sighting::default();
        sighting.stands(Reach::Answering);
        sighting.listed([pod("a", "1", ""), pod("b", "1", ""), pod("c", "1", DELETING)].iter());
        assert_eq!((seen(&sighting).as_str(), sighting.episode), ("a=1 b=1", 1));
        #[rustfmt::skip]
        let events = [
            // event                             news   then
            (pod("a", "1", ""),                  false, "a=1 b=1"),
            (pod("a", "2", ""),                  true,  "a=2 b=1"),
            // The end of an earlier one of the same name.
            (pod("a", "1", DELETING),            false, "a=2 b=1"),
            (pod("a", "2", DELETING),            true,  "b=1"),
            (pod("d", "1", ""),                  true,  "b=1 d=1"),
        ];
        for (event, news, then) in events {
            assert_eq!((sighting.pod(&event), seen(&sighting).as_str()), (news, then), "{:?}", event.key);
        }
        assert!(!sighting.gone(&pod("b", "1", "").key, "2"));
        assert!(sighting.gone(&pod("b", "1", "").key, "1"));
        sighting.stands(Reach::Silent(Cause("away".to_owned())));
        assert_eq!((seen(&sighting).as_str(), sighting.episode), ("", 1));
        sighting.stands(Reach::Answering);
        assert_eq!(sighting.episode, 2);
        // Told twice, it is one time of answering.
        sighting.listed([pod("a", "1", "")].iter());
        sighting.stands(Reach::Answering);
        assert_eq!((seen(&sighting).as_str(), sighting.episode), ("a=1", 2));
    }

    #[test]
    fn a_sign_of_life_counts_in_silence() {
        let cause = || Cause("why".to_owned());
        let mut sighting = Sighting::default();
        #[rustfmt::skip]
        let rows = [
            (None,                          0),
            (Some(Reach::Silent(cause())),  1),
            (Some(Reach::Silent(cause())),  2),
            (Some(Reach::Refusing(cause())), 2),
            (Some(Reach::Answering),        2),
            (Some(Reach::Silent(cause())),  3),
        ];
        for (reach, signs) in rows {
            if let Some(reach) = reach.clone() {
                sighting.stands(reach);
            }
            assert_eq!(
                (sighting.sign(), sighting.signs),
                (matches!(reach, Some(Reach::Silent(_))), signs),
                "{reach:?}"
            );
        }
    }
}
