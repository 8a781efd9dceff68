//! What is on record of a pod's lifecycle, what an operator says, and the log of it.

use store_format::{Event, LOG_ITEMS_MAX, LOG_RECORDS_MAX, LOG_WHY_MAX_BYTES, Lifecycle, LogItem, Phase, Unlocker};

use super::{NOW, absent, apply, holds, keyed, missing, object, pod, pod_with_status, secret_object};
use crate::checkpoint::lookup::Absence;
use crate::checkpoint::object::{Kind, Object};
use crate::checkpoint::rendering::PodName;
use crate::store::{Backend, Change, Missing, Snapshot, StoreError, open_image};

pub(super) fn run(make: &mut dyn FnMut() -> Box<dyn Backend>, secret: &Unlocker) {
    a_decision_is_written_if_it_is_news(make(), secret);
    a_successor_inherits_what_is_true_of_its_name(make, secret);
    a_gone_pod_is_kept(make(), secret);
    a_gone_pod_may_come_back(make, secret);
    a_gone_pod_is_no_news_to_a_listing(make(), secret);
    an_operator_holds_a_name(make(), secret);
    an_operator_overrules_whose_store_it_is(make(), secret);
    another_boot_is_recorded_once(make(), secret);
    the_log_says_what_a_commit_did(make(), secret);
    the_log_says_who_keeps_the_store(make(), secret);
    the_log_is_bounded(make(), secret);
    an_image_is_the_store(make(), secret);
}

fn look(store: &dyn Backend) -> Snapshot {
    let snapshot = store.snapshot().expect("a snapshot can be taken").into_inner();
    assert!(snapshot.findings().is_empty(), "a snapshot has findings: {:?}", snapshot.findings());
    snapshot
}

fn web() -> PodName {
    PodName { namespace: "default".to_owned(), name: "web".to_owned() }
}

fn decided(uid: &str, lifecycle: Lifecycle, republished: u32, why: &str) -> Change {
    Change::Decided { pod: web(), uid: uid.to_owned(), lifecycle, republished, why: why.to_owned() }
}

fn gone(object: &Object, uid: &str) -> Change {
    Change::Gone { key: object.key.clone(), uid: uid.to_owned() }
}

fn listing(objects: &[&Object], missing: Missing) -> Change {
    let objects = objects.iter().map(|object| (*object).clone()).collect();
    Change::Reset { objects, kinds: vec![Kind::Pod], missing }
}

/// The events of the last record, as `event name` or `event`.
fn last_events(store: &dyn Backend) -> Vec<String> {
    let snapshot = look(store);
    let items = snapshot.log().next_back().map(|(_, record)| record.items.clone()).unwrap_or_default();
    items.iter().map(|item| format!("{} {}", item.event.name(), item.name).trim_end().to_owned()).collect()
}

fn a_decision_is_written_if_it_is_news(store: Box<dyn Backend>, secret: &Unlocker) {
    use Lifecycle::{Active, ActiveGrace, HandedOver, Inactive};
    let mut store = keyed(store, secret);
    let object = pod("web", "u1", &[]);
    let _ = store.update(apply(object.clone(), vec![]), NOW).expect("stored");
    let stored = look(&*store);
    assert_eq!(stored.lifecycle(&object.key), Some(Inactive), "a new pod's copy does not run");
    assert_eq!((stored.republished(&object.key), stored.log().count()), (0, 2), "the key and the pod");
    drop(stored);
    let _ = store.update(vec![decided("u0", Active, 7, "")], NOW).expect("no error");
    assert_eq!(look(&*store).lifecycle(&object.key), Some(Inactive), "a decision for another UID is not taken");
    // Lifecycle, publications; whether it is written, and what the log says of it.
    #[rustfmt::skip]
    let steps: [(Lifecycle, u32, bool, &[&str]); 9] = [
        (Inactive,                     0, false, &[]),
        (Active,                       0, true,  &["decided inactive active"]),
        (Active,                       0, false, &[]),
        (Active,                       1, true,  &["republished"]),
        (ActiveGrace { left_s: 60 },   1, true,  &["decided active active-grace"]),
        (ActiveGrace { left_s: 50 },   1, true,  &[]),
        (ActiveGrace { left_s: 50 },   1, false, &[]),
        (HandedOver { left_s: 360 },   2, true,  &["decided active-grace handed-over", "republished"]),
        (Inactive,                     0, true,  &["decided handed-over inactive"]),
    ];
    for (lifecycle, republished, writes, says) in steps {
        let before = look(&*store);
        let update = store.update(vec![decided("u1", lifecycle, republished, "because")], NOW).expect("a decision");
        let after = look(&*store);
        let case = format!("{lifecycle:?}, published {republished} times");
        assert_eq!(after.lifecycle(&object.key), Some(lifecycle), "{case}");
        assert_eq!(after.republished(&object.key), republished, "{case}");
        assert_eq!(update.get().revision != before.revision(), writes, "it is written if it is news: {case}");
        let items: Vec<LogItem> = after
            .log()
            .filter(|(revision, _)| *revision > before.revision())
            .flat_map(|(_, record)| record.items.clone())
            .collect();
        let said = |item: &LogItem| match item.event {
            Event::Decided { from, to } => format!("decided {} {}", from.name(), to.name()),
            plain => plain.name().to_owned(),
        };
        assert_eq!(items.iter().map(said).collect::<Vec<_>>(), says, "the log: {case}");
        let named =
            |item: &LogItem| (item.why.as_str(), item.name.as_str(), item.uid.as_str()) == ("because", "web", "u1");
        assert!(items.iter().all(named), "with the reason: {case}");
    }
    let long = "é".repeat(LOG_WHY_MAX_BYTES);
    let _ = store.update(vec![decided("u1", Active, 0, &long)], NOW).expect("a long reason is no error");
    let why = look(&*store).log().next_back().map(|(_, record)| record.items[0].why.clone());
    assert_eq!(why, Some("é".repeat(LOG_WHY_MAX_BYTES / 2)), "but cut");
    // What is on record outlives a version of the pod, and the decision of a batch comes after its pods.
    let next = pod_with_status("u1", r#"{"phase":"Running"}"#);
    let changes =
        vec![decided("u1", HandedOver { left_s: 5 }, 3, ""), Change::Apply { object: next.clone(), with: vec![] }];
    let _ = store.update(changes, NOW).expect("stored");
    let after = look(&*store);
    assert_eq!((after.lifecycle(&next.key), after.republished(&next.key)), (Some(HandedOver { left_s: 5 }), 3));
}

fn a_successor_inherits_what_is_true_of_its_name(make: &mut dyn FnMut() -> Box<dyn Backend>, secret: &Unlocker) {
    use Lifecycle::{Active, ActiveGrace, HandedOver, Inactive, InactiveGrace};
    #[rustfmt::skip]
    let rows = [
        (Inactive,                     Inactive),
        (InactiveGrace { left_s: 60 }, Inactive),
        (Active,                       Active),
        (ActiveGrace { left_s: 60 },   Active),
        (HandedOver { left_s: 60 },    Inactive),
    ];
    let mut store = keyed(make(), secret);
    for (n, (before, after)) in rows.into_iter().enumerate() {
        let (old, new) = (pod("web", &format!("old{n}"), &[]), pod("web", &format!("new{n}"), &[]));
        let _ = store.update(apply(old.clone(), vec![]), NOW).expect("stored");
        let hold = Change::Hold { pod: web(), held: n % 2 == 0 };
        let _ = store.update(vec![decided(&old.uid, before, 4, ""), gone(&old, &old.uid), hold], NOW).expect("taken");
        let _ = store.update(apply(new.clone(), vec![]), NOW).expect("stored");
        let snapshot = look(&*store);
        assert_eq!(snapshot.lifecycle(&new.key), Some(after), "the copy of a predecessor may still run: {before:?}");
        assert_eq!(snapshot.held(&new.key), n % 2 == 0, "an operator means the name");
        assert!(!snapshot.gone(&new.key), "a new pod is there");
        assert_eq!(snapshot.republished(&new.key), 0, "and was never published");
    }
}

fn a_gone_pod_is_kept(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let (web, tls) = (pod("web", "u1", &["tls"]), secret_object("tls", "AAEC"));
    let nothing = store.update(vec![gone(&web, "")], NOW).expect("what is not stored can't go").into_inner();
    let first = store.update(apply(web.clone(), vec![tls.clone()]), NOW).expect("stored").into_inner();
    assert_eq!(nothing.revision.0 + 1, first.revision.0, "and is not recorded");
    let other = store.update(vec![gone(&web, "u0")], NOW).expect("no error").into_inner();
    assert_eq!((other.revision, look(&*store).gone(&web.key)), (first.revision, false), "its predecessor went before");
    let update = store.update(vec![gone(&web, "u1")], NOW).expect("a pod is gone").into_inner();
    assert!(update.removed.is_empty() && update.rejected.is_empty(), "nothing is removed");
    assert!(look(&*store).gone(&web.key), "it is on record");
    assert!(holds(&*store, &web) && holds(&*store, &tls), "the pod and its objects are kept");
    let again = store.update(vec![gone(&web, "")], NOW).expect("it is still gone").into_inner();
    assert_eq!(again.revision, update.revision, "which is no news");
    // Another version of an object that it names, and another pod beside it, are no signs of life.
    let newer = secret_object("tls", "AAED");
    let _ = store.update(apply(newer.clone(), vec![]), NOW).expect("stored");
    let _ = store.update(apply(pod("job", "u2", &["tls"]), vec![]), NOW).expect("stored");
    assert!(look(&*store).gone(&web.key) && holds(&*store, &newer), "its objects are followed");
    let refused = store.update(vec![gone(&tls, "")], NOW).expect("no error").into_inner();
    assert_eq!(refused.rejected.len(), 1, "a Secret has no grace period");
    let update = store.update(vec![Change::Delete { key: web.key.clone(), uid: "u1".to_owned() }], NOW);
    assert_eq!(update.expect("deleted").get().removed, std::slice::from_ref(&web.key), "in the end it is deleted");
    let _ = store.update(apply(web.clone(), vec![]), NOW).expect("stored");
    assert!(!look(&*store).gone(&web.key), "and nothing is left of it");
}

fn a_gone_pod_may_come_back(make: &mut dyn FnMut() -> Box<dyn Backend>, secret: &Unlocker) {
    let web = |uid: &str| pod("web", uid, &[]);
    let applied = |uid: &str| Change::Apply { object: web(uid), with: vec![] };
    // What follows the proof, and whether the pod is gone after that.
    let cases: [(&str, Vec<Change>, bool); 8] = [
        ("the same version", vec![applied("u1")], false),
        ("a successor", vec![applied("u2")], false),
        ("a listing with it", vec![listing(&[&web("u1")], Missing::Report)], false),
        ("a listing with a successor", vec![listing(&[&web("u2")], Missing::Delete)], false),
        ("a proof after a sign of life", vec![applied("u1"), gone(&web(""), "u1")], true),
        ("a proof for the successor", vec![applied("u2"), gone(&web(""), "u2")], true),
        ("a proof for the predecessor", vec![applied("u2"), gone(&web(""), "u1")], false),
        ("a sign of life after a proof", vec![gone(&web(""), "u1"), applied("u1")], false),
    ];
    for (case, changes, stays) in cases {
        let mut store = keyed(make(), secret);
        let _ = store.update(vec![applied("u1")], NOW).expect("stored");
        let _ = store.update(vec![gone(&web(""), "u1")], NOW).expect("gone");
        let _ = store.update(changes, NOW).expect("taken");
        assert_eq!(look(&*store).gone(&web("").key), stays, "{case}");
    }
    let mut store = keyed(make(), secret);
    let _ = store.update(vec![applied("u1")], NOW).expect("stored");
    let _ = store.update(vec![gone(&web(""), "u1")], NOW).expect("gone");
    let broken = Object { body: "{}".to_owned().into(), ..web("u1") };
    let update = store.update(apply(broken, vec![]), NOW).expect("refused alone").into_inner();
    assert_eq!(update.rejected.len(), 1, "a version that can't be stored is named");
    assert!(!look(&*store).gone(&web("").key) && holds(&*store, &web("u1")), "and is a sign of life all the same");
}

fn a_gone_pod_is_no_news_to_a_listing(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let (a, b, c) = (pod("a", "ua", &[]), pod("b", "ub", &[]), pod("c", "uc", &[]));
    let _ = store.update(vec![listing(&[&a, &b, &c], Missing::Report)], NOW).expect("stored");
    let changes = vec![listing(&[&c], Missing::Report), gone(&a, "ua")];
    let update = store.update(changes, NOW).expect("a listing and a proof").into_inner();
    let only_b = vec![(b.key.clone(), "ub".to_owned())];
    assert_eq!(update.missing, only_b, "what a later step proves to be gone is not missing");
    let update = store.update(vec![listing(&[&c], Missing::Report)], NOW).expect("the next listing").into_inner();
    assert_eq!(update.missing, only_b, "nor what is known to be gone");
    let update = store.update(vec![listing(&[], Missing::Report)], NOW).expect("an empty one").into_inner();
    assert_eq!(update.missing, vec![only_b[0].clone(), (c.key.clone(), "uc".to_owned())], "nor when it is empty");
    let update = store.update(vec![listing(&[&c], Missing::Delete)], NOW).expect("the truth").into_inner();
    assert_eq!(update.removed, vec![a.key.clone(), b.key.clone()], "a listing that is the truth deletes it");
}

fn an_operator_holds_a_name(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let object = pod("web", "u1", &[]);
    let hold = |held| vec![Change::Hold { pod: web(), held }];
    let update = store.update(hold(true), NOW).expect("no error").into_inner();
    assert_eq!(update.rejected.len(), 1, "a pod that is not stored is named");
    assert_eq!(update.rejected[0].object, object.key);
    let mut changes = hold(true);
    changes.extend(apply(object.clone(), vec![]));
    let stored = store.update(changes, NOW).expect("stored").into_inner();
    assert!(look(&*store).held(&object.key) && stored.rejected.is_empty(), "one that comes with it can be held");
    let again = store.update(hold(true), NOW).expect("again").into_inner();
    assert_eq!(again.revision, stored.revision, "again is no news");
    let _ = store.update(vec![decided("u1", Lifecycle::Active, 0, "")], NOW).expect("decided");
    let _ = store.update(apply(pod_with_status("u1", r#"{"phase":"Running"}"#), vec![]), NOW).expect("stored");
    assert!(look(&*store).held(&object.key), "it stays held until it is released");
    let _ = store.update(hold(false), NOW).expect("released");
    assert_eq!((look(&*store).held(&object.key), last_events(&*store)), (false, vec!["released web".to_owned()]));
    assert_eq!(look(&*store).lifecycle(&object.key), Some(Lifecycle::Active), "which says nothing else");
    let nameless = PodName { namespace: "De fault".to_owned(), name: String::new() };
    let update = store.update(vec![Change::Hold { pod: nameless, held: true }], NOW);
    assert!(update.is_ok(), "what is no name is no error");
}

fn an_operator_overrules_whose_store_it_is(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let cluster = |ca: u8| Change::Cluster { ca_sha256: vec![[ca; 32]] };
    let node = |name: &str| Change::NodeName(name.to_owned());
    let own = store.identity().node_name.clone();
    let body = format!(r#"{{"metadata":{{"name":"{own}"}},"status":{{"nodeInfo":{{"kubeletVersion":"v1.34.2"}}}}}}"#);
    let known = object(Kind::Node, &own, "n1", &body);
    let _ = store.update(vec![Change::Apply { object: known, with: vec![] }, cluster(1)], NOW).expect("stored");
    assert_eq!(store.identity().node_uid, "n1");
    let adopt = |node_name: &str, cas: &[u8]| Change::Adopt {
        node_name: node_name.to_owned(),
        ca_sha256: cas.iter().map(|ca| [*ca; 32]).collect(),
    };
    let before = look(&*store).revision();
    let update = store.update(vec![adopt(&own, &[1]), adopt("", &[])], NOW).expect("its own").into_inner();
    assert_eq!(update.revision, before, "what is known already is no news");
    assert_eq!(store.identity().node_uid, "n1", "under its own name it is the same node");
    assert!(store.update(vec![node("edge-9")], NOW).is_err(), "another node is refused");
    // It comes first, wherever in the batch it stands.
    let changes = vec![node("edge-9"), cluster(3), adopt("edge-9", &[2, 3])];
    let _ = store.update(changes, NOW).expect("an operator overrules that");
    let identity = store.identity().clone();
    assert_eq!((identity.node_name.as_str(), identity.node_uid.as_str()), ("edge-9", ""), "another node object");
    assert_eq!(identity.cluster_ca_sha256, [[3; 32]], "and what the source says of its own cluster after that");
    assert_eq!(look(&*store).identity(), Some(&identity), "the handle knows what is durable");
    assert_eq!(last_events(&*store), ["adopted", "identified"]);
    let _ = store.update(vec![adopt("", &[7])], NOW).expect("only the cluster");
    assert_eq!(store.identity().node_name, "edge-9", "an empty name keeps the name");
    assert_eq!(store.identity().cluster_ca_sha256, [[7; 32]]);
    assert!(matches!(store.update(vec![cluster(3)], NOW), Err(StoreError::OtherCluster { .. })), "it is theirs now");
}

fn another_boot_is_recorded_once(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let boot = |id: &str| vec![Change::Boot(id.to_owned())];
    assert_eq!(look(&*store).boot_id(), None, "a new store knows no boot");
    for (id, known, writes) in [
        ("", None, false),
        ("b1", Some("b1"), true),
        ("b1", Some("b1"), false),
        ("", Some("b1"), false),
        ("b2", Some("b2"), true),
        ("b1", Some("b1"), true),
    ] {
        let before = look(&*store).revision();
        let update = store.update(boot(id), NOW).expect("a boot is taken").into_inner();
        assert_eq!(look(&*store).boot_id(), known, "{id:?}");
        assert_eq!(update.revision != before, writes, "it is worth a commit if it is another one: {id:?}");
    }
    let _ = store.update(apply(pod("web", "u1", &[]), vec![]), NOW).expect("stored");
    let snapshot = look(&*store);
    assert_eq!(snapshot.boot_id(), Some("b1"), "it stays until there is another");
    let boots: Vec<String> = snapshot.log().map(|(_, record)| record.boot_id).collect();
    assert_eq!(boots, ["", "b1", "b2", "b1", "b1"], "each record has that of its commit");
}

fn the_log_says_what_a_commit_did(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let apply = |object: &Object| Change::Apply { object: object.clone(), with: vec![] };
    let delete = |object: &Object| Change::Delete { key: object.key.clone(), uid: String::new() };
    let (v1, v2) = (pod("web", "u1", &["tls"]), pod_with_status("u1", r#"{"phase":"Running"}"#));
    let failed = pod_with_status("u1", r#"{"phase":"Failed","reason":"Evicted"}"#);
    let (next, tls) = (pod("web", "u2", &["tls", "key"]), secret_object("tls", "c2VjcmV0LXZhbHVl"));
    let hold = |held| Change::Hold { pod: web(), held };
    let steps: [(Vec<Change>, &[&str]); 14] = [
        (vec![apply(&v1), absent("tls", Absence::NotFound)], &["stored Pod web", "absent Secret tls (not found)"]),
        (vec![absent("tls", Absence::Forbidden)], &["absent Secret tls (forbidden)"]),
        (vec![absent("tls", Absence::Forbidden)], &[]),
        // The pod is written with it, for its links: that is no change of the pod.
        (vec![apply(&tls)], &["stored Secret tls"]),
        (vec![apply(&tls), apply(&v1)], &[]),
        (vec![apply(&v2)], &["changed Pod web", "removed Secret tls"]),
        (vec![gone(&v2, "u1")], &["gone Pod web"]),
        (vec![apply(&v2)], &["back Pod web"]),
        (vec![apply(&failed)], &["changed Pod web", "ended Pod web (Failed: Evicted)"]),
        (vec![hold(true)], &["held Pod web"]),
        (vec![apply(&next), apply(&tls)], &["stored Pod web", "stored Secret tls"]),
        (
            vec![hold(false), decided("u2", Lifecycle::Active, 1, "")],
            &["decided Pod web", "republished Pod web", "released Pod web"],
        ),
        (vec![Change::Position("7".to_owned()), Change::Complete], &[]),
        (vec![delete(&next)], &["removed Pod web", "removed Secret tls"]),
    ];
    for (at, (changes, says)) in steps.into_iter().enumerate() {
        let before = look(&*store).revision();
        let case = format!("step {at}, {changes:?}");
        let update = store.update(changes, NOW + at as u64).expect("taken").into_inner();
        let snapshot = look(&*store);
        let new: Vec<_> = snapshot.log().filter(|(revision, _)| *revision > before).collect();
        let said = |item: &LogItem| {
            let why = if item.why.is_empty() { String::new() } else { format!(" ({})", item.why) };
            assert_eq!(item.namespace, "default", "{case}");
            format!("{} {} {}{why}", item.event.name(), item.kind, item.name)
        };
        let mut items: Vec<String> = new.iter().flat_map(|(_, record)| &record.items).map(said).collect();
        // The order of objects within a commit is the store's business.
        let mut says: Vec<String> = says.iter().map(|say| (*say).to_owned()).collect();
        items.sort();
        says.sort();
        assert_eq!(items, says, "{case}");
        let commits: Vec<_> =
            new.iter().map(|(revision, record)| (*revision, record.at_unix_ms, record.more)).collect();
        let expected = if says.is_empty() { vec![] } else { vec![(update.revision, NOW + at as u64, 0)] };
        assert_eq!(commits, expected, "one record for the commit: {case}");
    }
    let snapshot = look(&*store);
    assert!(snapshot.log().map(|(revision, _)| revision).is_sorted(), "oldest first");
    let whole = format!("{:?}", snapshot.log().collect::<Vec<_>>());
    assert!(!whole.contains("c2VjcmV0"), "no value of an object is in it");
    let uids: Vec<String> = snapshot
        .log()
        .flat_map(|(_, record)| record.items)
        .filter(|item| item.event == Event::Stored && item.kind == "Pod")
        .map(|item| item.uid)
        .collect();
    assert_eq!(uids, ["u1", "u2"], "a pod of another UID is another pod");
}

fn the_log_says_who_keeps_the_store(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    assert_eq!(last_events(&*store), ["keyed"]);
    let pods: Vec<Object> = (0..=LOG_ITEMS_MAX).map(|n| pod(&format!("p{n}"), &format!("u{n}"), &[])).collect();
    let changes = vec![Change::Boot("b".to_owned()), listing(&pods.iter().collect::<Vec<_>>(), Missing::Report)];
    let _ = store.update(changes, NOW).expect("stored");
    let snapshot = look(&*store);
    let (_, record) = snapshot.log().next_back().expect("a record");
    // As many pods and one more, the first boot and the first listing.
    assert_eq!((record.items.len(), record.more), (LOG_ITEMS_MAX, 3), "what is too much is counted");
    assert!(record.items.iter().all(|item| item.event == Event::Stored));
    drop(snapshot);
    let cluster = Change::Cluster { ca_sha256: vec![[1; 32], [2; 32]] };
    let _ = store.update(vec![cluster], NOW).expect("taken");
    let snapshot = look(&*store);
    let (_, record) = snapshot.log().next_back().expect("a record");
    let item = &record.items[0];
    assert_eq!((item.event, item.why.as_str(), item.kind.as_str()), (Event::Identified, "2 cluster CAs", ""));
}

fn the_log_is_bounded(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let _ = store.update(apply(pod("web", "u1", &[]), vec![]), NOW).expect("stored");
    let mut shortest = usize::MAX;
    for n in 0..LOG_RECORDS_MAX + 40 {
        let lifecycle = if n % 2 == 0 { Lifecycle::Active } else { Lifecycle::Inactive };
        let _ = store.update(vec![decided("u1", lifecycle, 0, "")], NOW).expect("decided");
        // A snapshot of a full log takes its time; a few are enough.
        if n >= LOG_RECORDS_MAX - 3 && n % 7 == 0 {
            let len = look(&*store).log().count();
            assert!(len <= LOG_RECORDS_MAX, "{len} records");
            shortest = shortest.min(len);
        }
    }
    assert!(shortest > LOG_RECORDS_MAX * 9 / 10, "no more than needed is removed, but {shortest} are left");
    let snapshot = look(&*store);
    let (newest, record) = snapshot.log().next_back().expect("a record");
    assert_eq!(newest, snapshot.revision(), "the newest stays");
    assert_eq!(record.items[0].event, Event::Decided { from: Phase::Active, to: Phase::Inactive });
    let revisions: Vec<u64> = snapshot.log().map(|(revision, _)| revision.0).collect();
    assert!(revisions.windows(2).all(|pair| pair[0] + 1 == pair[1]), "and none is lost in between");
}

/// A store in a file has an image of it; others say that they have none.
fn an_image_is_the_store(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let (object, tls) = (pod("web", "u1", &["tls"]), secret_object("tls", "AAEC"));
    for n in 0..5_u32 {
        let changes = vec![
            Change::Apply { object: object.clone(), with: vec![tls.clone()] },
            decided("u1", Lifecycle::ActiveGrace { left_s: 100 - n }, n, ""),
        ];
        let _ = store.update(changes, NOW).expect("stored");
        let image = match store.image() {
            Ok(image) => image,
            Err(StoreError::NoFile) => return,
            Err(error) => panic!("an image can't be taken: {error}"),
        };
        let read = open_image(image, &[secret]).expect("an image can be read").into_inner();
        let own = look(&*store);
        assert!(read.findings().is_empty(), "an image has findings: {:?}", read.findings());
        assert_eq!(read.revision(), own.revision(), "it is what is durable");
        assert!(read.objects().eq(own.objects()) && read.log().eq(own.log()), "with everything in it");
        assert_eq!(read.lifecycle(&object.key), Some(Lifecycle::ActiveGrace { left_s: 100 - n }));
        assert!(missing(&*store, &object).is_empty() && holds(&*store, &tls), "and the store goes on");
    }
}
