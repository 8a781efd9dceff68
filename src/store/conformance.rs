//! The suite that every backend passes; public, so that an embedding program can hold its own backend to it.
//!
//! Each check panics with the sentence that does not hold, as a test does.

mod lifecycle;
mod slots;

use store_format::{Lifecycle, Unlocker};

use super::{Backend, Change, LockState, Missing, SlotsWanted, StoreError};
use crate::checkpoint::lookup::{Absence, Lookup, Objects as _};
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::checkpoint::rendering::PodName;

/// Runs every check, each on a fresh, keyless store of no known cluster that `make` provides.
///
/// `secret` is a node key with a public part.
///
/// # Panics
/// If the backend does not conform; the message says in what.
pub fn run(make: &mut dyn FnMut() -> Box<dyn Backend>, secret: &Unlocker) {
    a_new_store_is_empty_and_keyless(make());
    a_pod_is_stored_with_what_it_names(make(), secret);
    a_keyless_store_takes_everything_but_secrets(make(), secret);
    the_same_again_changes_nothing(make(), secret);
    what_no_pod_names_is_not_kept(make(), secret);
    a_listing_is_compared_with_the_store(make(), secret);
    an_empty_listing_deletes_nothing(make(), secret);
    a_pod_of_another_uid_is_another_pod(make(), secret);
    a_deletion_of_another_uid_is_ignored(make(), secret);
    a_bad_object_does_not_take_others_down(make(), secret);
    an_object_that_appears_later_is_linked(make(), secret);
    decisions_are_kept_for_the_same_pod(make(), secret);
    what_has_ended_stays_ended(make(), secret);
    an_absence_is_recorded_with_each_pod_that_names_the_object(make(), secret);
    an_absence_deletes_nothing_and_ends_when_the_object_comes(make(), secret);
    a_deleted_object_is_not_found(make(), secret);
    a_listing_may_report_what_it_lacks(make(), secret);
    another_cluster_is_refused(make(), secret);
    another_node_is_refused(make(), secret);
    a_refused_pod_ends_its_predecessor(make(), secret);
    a_pod_after_an_empty_listing_populates(make(), secret);
    a_position_is_kept_with_what_is_written(make(), secret);
    lifecycle::run(make, secret);
    slots::run(make, secret);
}

const NOW: u64 = 1_700_000_000_000;

fn object(kind: Kind, name: &str, uid: &str, body: &str) -> Object {
    let namespace = if kind.row().namespaced { "default" } else { "" };
    let key = ObjectKey::new(kind, namespace, name).expect("the suite's own names are valid");
    Object { key, uid: uid.to_owned(), resource_version: String::new(), body: body.to_owned().into() }
}

fn pod(name: &str, uid: &str, secrets: &[&str]) -> Object {
    let volumes: Vec<String> =
        secrets.iter().map(|secret| format!(r#"{{"name":"{secret}","secret":{{"secretName":"{secret}"}}}}"#)).collect();
    let body = format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"namespace":"default","name":"{name}","uid":"{uid}"}},"spec":{{"containers":[{{"name":"c","image":"i"}}],"volumes":[{}]}}}}"#,
        volumes.join(",")
    );
    object(Kind::Pod, name, uid, &body)
}

fn pod_with_status(uid: &str, status: &str) -> Object {
    let mut with_status = pod("web", uid, &[]);
    let body = String::from_utf8(with_status.body.expose().to_vec()).expect("the suite's own JSON is UTF-8");
    with_status.body = body.replacen('{', &format!(r#"{{"status":{status},"#), 1).into();
    with_status
}

fn secret_object(name: &str, value: &str) -> Object {
    let body = format!(
        r#"{{"apiVersion":"v1","kind":"Secret","metadata":{{"namespace":"default","name":"{name}"}},"data":{{"k":"{value}"}}}}"#
    );
    object(Kind::Secret, name, "", &body)
}

fn apply(object: Object, with: Vec<Object>) -> Vec<Change> {
    vec![Change::Apply { object, with }]
}

fn keyed(mut store: Box<dyn Backend>, secret: &Unlocker) -> Box<dyn Backend> {
    let wanted = SlotsWanted { add: &[secret], ..SlotsWanted::default() };
    let _ = store.keep_slots(&wanted, NOW).expect("a keyless store takes its first key");
    store
}

fn holds(store: &dyn Backend, object: &Object) -> bool {
    let snapshot = store.snapshot().expect("a snapshot can be taken");
    assert!(snapshot.get().findings().is_empty(), "a snapshot has findings: {:?}", snapshot.get().findings());
    matches!(snapshot.get().get(&object.key), Lookup::Found(found) if found == *object)
}

fn a_new_store_is_empty_and_keyless(store: Box<dyn Backend>) {
    assert_eq!(store.lock_state(), LockState::Keyless, "a new store has no data key");
    let snapshot = store.snapshot().expect("a new store can be read");
    assert!(snapshot.get().findings().is_empty(), "a new store is sound: {:?}", snapshot.get().findings());
    assert!(!snapshot.get().populated(), "a new store is not populated");
    assert_eq!(snapshot.get().objects().count(), 0, "a new store is empty");
}

fn a_pod_is_stored_with_what_it_names(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let (web, tls) = (pod("web", "u1", &["tls"]), secret_object("tls", "AAEC"));
    let update = store.update(apply(web.clone(), vec![tls.clone()]), NOW).expect("a closure is stored");
    assert_eq!(update.get().stored.len(), 2, "pod and Secret are written together");
    assert!(holds(&*store, &web) && holds(&*store, &tls), "both can be read back exactly");
    let _ = store
        .update(vec![Change::Delete { key: web.key.clone(), uid: "u1".to_owned() }], NOW)
        .expect("a pod can be deleted");
    let snapshot = store.snapshot().expect("a snapshot can be taken");
    assert_eq!(snapshot.get().objects().count(), 0, "what only a deleted pod needed goes with it");
}

fn a_keyless_store_takes_everything_but_secrets(mut store: Box<dyn Backend>, secret: &Unlocker) {
    let (web, tls) = (pod("web", "u1", &["tls"]), secret_object("tls", "AAEC"));
    let update = store.update(apply(web.clone(), vec![tls.clone()]), NOW).expect("a keyless store takes pods");
    assert_eq!(update.get().unsealed, vec![tls.key.clone()], "the Secret is left out and named");
    let snapshot = store.snapshot().expect("a snapshot can be taken").into_inner();
    assert!(matches!(snapshot.get(&tls.key), Lookup::NoKeyYet), "the Secret's absence is explained");
    drop(snapshot);
    let _ = store.update(vec![absent("tls", Absence::Forbidden)], NOW).expect("an absence is taken");
    let snapshot = store.snapshot().expect("a snapshot can be taken").into_inner();
    assert!(matches!(snapshot.get(&tls.key), Lookup::Forbidden), "a key would not help what may not be read");
    drop(snapshot);
    let _ = store.update(apply(tls.clone(), vec![]), NOW).expect("a keyless store takes what it can't keep");
    let snapshot = store.snapshot().expect("a snapshot can be taken").into_inner();
    assert!(matches!(snapshot.get(&tls.key), Lookup::NoKeyYet), "what could be read is no longer forbidden");
    drop(snapshot);
    let mut store = keyed(store, secret);
    assert_eq!(store.lock_state(), LockState::Open, "the first key opens the store");
    let _ = store.update(apply(web.clone(), vec![tls.clone()]), NOW).expect("then Secrets are stored");
    assert!(holds(&*store, &web) && holds(&*store, &tls), "both can be read back exactly");
}

fn the_same_again_changes_nothing(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let changes = || apply(pod("web", "u1", &["tls"]), vec![secret_object("tls", "AAEC")]);
    let first = store.update(changes(), NOW).expect("a closure is stored").into_inner();
    let second = store.update(changes(), NOW + 1).expect("the same closure is taken").into_inner();
    assert_eq!(second.revision, first.revision, "the same again is no new revision");
    assert!(second.stored.is_empty() && second.removed.is_empty(), "the same again writes nothing");
}

fn what_no_pod_names_is_not_kept(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let stray = secret_object("stray", "AAEC");
    let update = store.update(apply(stray.clone(), vec![]), NOW).expect("a stray Secret is no error").into_inner();
    assert_eq!(update.unreferenced, vec![stray.key.clone()], "a Secret that no pod names is not stored");
    let _ = store.update(apply(pod("web", "u1", &["tls"]), vec![secret_object("tls", "AAEC")]), NOW).expect("stored");
    let _ = store.update(apply(pod("web", "u1", &[]), vec![]), NOW).expect("a pod may need less");
    let snapshot = store.snapshot().expect("a snapshot can be taken");
    assert_eq!(snapshot.get().objects().count(), 1, "what a pod no longer names goes");
}

fn a_listing_is_compared_with_the_store(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let listing = |objects| vec![Change::Reset { objects, kinds: Kind::ALL.to_vec(), missing: Missing::Delete }];
    let (a, b, c) = (pod("a", "ua", &[]), pod("b", "ub", &["s"]), pod("c", "uc", &[]));
    let s = secret_object("s", "AAEC");
    let _ = store.update(listing(vec![a.clone(), b, s]), NOW).expect("a listing is stored");
    let update = store.update(listing(vec![a.clone(), c.clone()]), NOW).expect("the next one too").into_inner();
    assert_eq!((update.stored.len(), update.removed.len()), (1, 2), "b and its Secret go, c comes");
    assert!(holds(&*store, &a) && holds(&*store, &c), "what is listed is there");
    assert!(
        store.snapshot().expect("a snapshot can be taken").get().populated(),
        "a complete listing populates a store"
    );
}

fn an_empty_listing_deletes_nothing(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let web = pod("web", "u1", &[]);
    let _ = store.update(apply(web.clone(), vec![]), NOW).expect("stored");
    let result =
        store.update(vec![Change::Reset { objects: vec![], kinds: vec![Kind::Pod], missing: Missing::Delete }], NOW);
    assert!(matches!(result, Err(StoreError::EmptyListing { stored: 1 })), "silence is not deletion");
    assert!(holds(&*store, &web), "and the pod is still there");
}

fn a_pod_of_another_uid_is_another_pod(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let running = pod_with_status("u1", r#"{"phase":"Running"}"#);
    let _ = store.update(apply(running.clone(), vec![]), NOW).expect("stored");
    assert!(store.snapshot().expect("a snapshot").get().ran(&running.key), "a running pod has run");
    let pending = pod_with_status("u2", r#"{"phase":"Pending"}"#);
    let _ = store.update(apply(pending.clone(), vec![]), NOW).expect("stored");
    assert!(!store.snapshot().expect("a snapshot").get().ran(&pending.key), "a re-created pod has not run yet");
}

fn a_deletion_of_another_uid_is_ignored(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let web = pod("web", "u2", &[]);
    let _ = store.update(apply(web.clone(), vec![]), NOW).expect("stored");
    let _ = store.update(vec![Change::Delete { key: web.key.clone(), uid: "u1".to_owned() }], NOW).expect("no error");
    assert!(holds(&*store, &web), "the deletion of a predecessor does not delete the pod");
}

fn a_bad_object_does_not_take_others_down(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let good = pod("good", "u1", &[]);
    let bad = object(Kind::Pod, "bad", "u2", r#"{"spec":{"volumes":7}}"#);
    let names: Vec<String> = (0..=store_format::LINKS_MAX).map(|n| format!("s{n}")).collect();
    let greedy = pod("greedy", "u3", &names.iter().map(String::as_str).collect::<Vec<_>>());
    let apply = |object: &Object| Change::Apply { object: object.clone(), with: vec![] };
    let changes = vec![apply(&bad), apply(&greedy), apply(&good)];
    let update = store.update(changes, NOW).expect("the batch is taken").into_inner();
    let rejected: Vec<_> = update.rejected.into_iter().map(|rejected| rejected.object).collect();
    assert_eq!(rejected, vec![bad.key, greedy.key], "the bad objects are named");
    assert!(holds(&*store, &good), "the good one is stored");
}

fn an_object_that_appears_later_is_linked(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let _ = store.update(apply(pod("web", "u1", &["tls"]), vec![]), NOW).expect("stored");
    let tls = secret_object("tls", "AAEC");
    let _ = store.update(apply(tls.clone(), vec![]), NOW).expect("stored");
    assert!(holds(&*store, &tls), "a Secret that a stored pod names is stored when it appears");
    let _ = store.update(apply(secret_object("tls", "AAED"), vec![]), NOW).expect("stored");
    assert!(holds(&*store, &secret_object("tls", "AAED")), "and replaced when it changes");
}

fn decisions_are_kept_for_the_same_pod(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let web = pod("web", "u1", &[]);
    let _ = store.update(apply(web.clone(), vec![]), NOW).expect("stored");
    let decided = |uid: &str| {
        let pod = PodName { namespace: "default".to_owned(), name: "web".to_owned() };
        vec![Change::Decided {
            pod,
            uid: uid.to_owned(),
            lifecycle: Lifecycle::Active,
            republished: 0,
            why: String::new(),
        }]
    };
    let _ = store.update(decided("other"), NOW).expect("no error");
    let lifecycle = |store: &dyn Backend| store.snapshot().expect("a snapshot").get().lifecycle(&web.key);
    assert_eq!(lifecycle(&*store), Some(Lifecycle::Inactive), "a decision for another UID is not taken");
    let _ = store.update(decided("u1"), NOW).expect("no error");
    assert_eq!(lifecycle(&*store), Some(Lifecycle::Active), "a decision is kept");
}

fn what_has_ended_stays_ended(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let running = |uid: &str| pod_with_status(uid, r#"{"phase":"Running"}"#);
    let failed = |reason: &str| pod_with_status("u1", &format!(r#"{{"phase":"Failed","reason":"{reason}"}}"#));
    let ended = |store: &dyn Backend| {
        let snapshot = store.snapshot().expect("a snapshot can be taken").into_inner();
        assert!(snapshot.findings().is_empty(), "a snapshot has findings: {:?}", snapshot.findings());
        snapshot.ended(&running("").key).map(str::to_owned)
    };
    let mut take = |changes: Vec<Change>| {
        let update = store.update(changes, NOW).expect("a pod is stored").into_inner();
        (update.revision, ended(&*store))
    };
    let (_, how) = take(apply(running("u1"), vec![]));
    assert_eq!(how, None, "a running pod has not ended");
    let (_, how) = take(apply(failed("NodeShutdown"), vec![]));
    assert_eq!(how, None, "the shutdown of a node ends no pod");
    let (_, how) = take(apply(failed("Evicted"), vec![]));
    assert_eq!(how.as_deref(), Some("Failed: Evicted"), "how a pod ended is kept");
    let (_, how) = take(apply(running("u1"), vec![]));
    assert_eq!(how.as_deref(), Some("Failed: Evicted"), "an older state of the API server does not undo it");
    let (_, how) = take(apply(failed("OutOfcpu"), vec![]));
    assert_eq!(how.as_deref(), Some("Failed: Evicted"), "the first ending stands");
    let (before, how) = take(apply(running("u2"), vec![]));
    assert_eq!(how, None, "a re-created pod has not ended");
    let (after, _) = take(apply(running("u2"), vec![]));
    assert_eq!(after, before, "the same again is no new revision");
    let long = format!(r#"{{"phase":"Failed","reason":"{}"}}"#, "é".repeat(5000));
    let both = [pod_with_status("u3", &long), running("u3")];
    let changes = both.into_iter().map(|object| Change::Apply { object, with: vec![] }).collect();
    let (_, how) = take(changes);
    let how = how.expect("what ended in the middle of a batch has ended");
    assert!(how.starts_with("Failed: éé"), "with its reason");
    assert!(how.len() > 4000, "of which no more is cut off than the format asks for");
}

fn missing(store: &dyn Backend, pod: &Object) -> Vec<(String, Absence)> {
    let snapshot = store.snapshot().expect("a snapshot can be taken").into_inner();
    assert!(snapshot.findings().is_empty(), "a snapshot has findings: {:?}", snapshot.findings());
    snapshot.absent(&pod.key).map(|(key, why)| (key.to_string(), why)).collect()
}

fn absent(name: &str, why: Absence) -> Change {
    Change::Absent { key: secret_object(name, "").key, why }
}

fn an_absence_is_recorded_with_each_pod_that_names_the_object(store: Box<dyn Backend>, secret: &Unlocker) {
    use Absence::{Forbidden, NotFound};
    let mut store = keyed(store, secret);
    let (web, job, other) = (pod("web", "u1", &["tls", "key"]), pod("job", "u2", &["tls"]), pod("other", "u3", &[]));
    // The absence comes first, and the pods after it: it is recorded all the same.
    let mut changes = vec![absent("tls", Forbidden), absent("key", NotFound), absent("stray", NotFound)];
    changes.extend([&web, &job, &other].map(|pod| Change::Apply { object: pod.clone(), with: vec![] }));
    let first = store.update(changes, NOW).expect("absences are taken").into_inner();
    assert_eq!((first.stored.len(), first.removed.len()), (3, 0), "they are no objects");
    let (tls, key) = ("Secret default/tls".to_owned(), "Secret default/key".to_owned());
    assert_eq!(missing(&*store, &web), vec![(key.clone(), NotFound), (tls.clone(), Forbidden)], "by name");
    assert_eq!(missing(&*store, &job), vec![(tls.clone(), Forbidden)], "with each pod that names the object");
    assert_eq!(missing(&*store, &other), vec![], "and with no other");
    let snapshot = store.snapshot().expect("a snapshot can be taken").into_inner();
    let look = |name: &str| snapshot.get(&secret_object(name, "").key);
    assert!(matches!(look("tls"), Lookup::Forbidden), "what may not be read is said to be so");
    assert!(matches!(look("key"), Lookup::Missing), "what does not exist is missing");
    assert!(matches!(look("stray"), Lookup::Missing), "what no pod names is not recorded");
    drop(snapshot);

    let same = store.update(vec![absent("tls", Forbidden)], NOW + 1).expect("the same again is taken").into_inner();
    assert_eq!(same.revision, first.revision, "the same again writes nothing");
    let stray = store.update(vec![absent("stray", Forbidden)], NOW + 1).expect("it is taken").into_inner();
    assert_eq!(stray.revision, first.revision, "what no pod names writes nothing");
    let late = pod("late", "u4", &["tls"]);
    let _ = store.update(apply(late.clone(), vec![]), NOW).expect("stored");
    assert_eq!(missing(&*store, &late), vec![(tls.clone(), Forbidden)], "a later pod learns it from the others");
    let _ = store.update(vec![absent("tls", NotFound)], NOW).expect("another reason is taken");
    assert_eq!(missing(&*store, &job), vec![(tls, NotFound)], "the last reason counts");
    let web = pod("web", "u5", &["key"]);
    let _ = store.update(apply(web.clone(), vec![]), NOW).expect("stored");
    assert_eq!(missing(&*store, &web), vec![(key, NotFound)], "what a pod no longer names is no longer absent for it");
}

fn an_absence_deletes_nothing_and_ends_when_the_object_comes(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let (web, tls) = (pod("web", "u1", &["tls"]), secret_object("tls", "AAEC"));
    let first = store.update(apply(web.clone(), vec![tls.clone()]), NOW).expect("stored").into_inner();
    for why in [Absence::Forbidden, Absence::NotFound] {
        let update = store.update(vec![absent("tls", why)], NOW).expect("an absence is taken").into_inner();
        assert!(holds(&*store, &tls), "an absence deletes nothing");
        assert_eq!(update.revision, first.revision, "of an object that is stored it says nothing");
    }
    let _ = store.update(vec![Change::Delete { key: tls.key.clone(), uid: String::new() }], NOW).expect("deleted");
    let _ = store.update(vec![absent("tls", Absence::Forbidden)], NOW).expect("an absence is taken");
    assert_eq!(missing(&*store, &web).len(), 1, "what is not stored can be absent");
    let _ = store.update(apply(tls.clone(), vec![]), NOW).expect("stored");
    assert!(holds(&*store, &tls), "and come back");
    assert_eq!(missing(&*store, &web), vec![], "which ends its absence");
}

fn a_deleted_object_is_not_found(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let (web, tls) = (pod("web", "u1", &["tls"]), Object { uid: "s1".to_owned(), ..secret_object("tls", "AAEC") });
    let _ = store.update(apply(web.clone(), vec![tls.clone()]), NOW).expect("stored");
    let delete = |uid: &str| vec![Change::Delete { key: tls.key.clone(), uid: uid.to_owned() }];
    let _ = store.update(delete("s0"), NOW).expect("no error");
    assert!(holds(&*store, &tls), "the deletion of a predecessor deletes nothing");
    assert_eq!(missing(&*store, &web), vec![], "and records nothing");
    let update = store.update(delete("s1"), NOW).expect("a Secret can be deleted").into_inner();
    assert_eq!(update.removed, vec![tls.key.clone()], "it is gone");
    // The suite's snapshots have no findings: the pod's record no longer says that its Secret is stored.
    let absent = vec![("Secret default/tls".to_owned(), Absence::NotFound)];
    assert_eq!(missing(&*store, &web), absent, "a pod that names it knows");
    assert!(holds(&*store, &web), "and is still there");
}

fn a_listing_may_report_what_it_lacks(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let listing = |objects| Change::Reset { objects, kinds: vec![Kind::Pod], missing: Missing::Report };
    let populated = |store: &dyn Backend| store.snapshot().expect("a snapshot can be taken").get().populated();
    let (a, b, s) = (pod("a", "ua", &[]), pod("b", "ub", &["s"]), secret_object("s", "AAEC"));
    let empty = store.update(vec![listing(vec![])], NOW).expect("an empty listing is no error").into_inner();
    assert_eq!(empty.missing, vec![], "nothing is stored, and so nothing missing");
    assert!(!populated(&*store), "an empty listing does not populate a store");
    let _ = store.update(apply(a.clone(), vec![]), NOW).expect("stored");
    let _ = store.update(apply(b.clone(), vec![s.clone()]), NOW).expect("stored");
    let both = vec![(a.key.clone(), "ua".to_owned()), (b.key.clone(), "ub".to_owned())];
    let empty = store.update(vec![listing(vec![])], NOW).expect("nor is it where there are pods").into_inner();
    assert_eq!(empty.missing, both, "what is stored and not listed is named with its UID");
    assert!(!populated(&*store), "an empty listing does not populate a store");
    let again = pod("a", "ua2", &[]);
    let update = store.update(vec![listing(vec![again.clone()])], NOW).expect("a listing is stored").into_inner();
    assert_eq!(update.missing, vec![(b.key.clone(), "ub".to_owned())], "another UID is not missing but another pod");
    assert!(populated(&*store), "a listing with a pod populates a store");
    assert!(update.removed.is_empty(), "nothing is removed");
    assert!(holds(&*store, &again) && holds(&*store, &b) && holds(&*store, &s), "and nothing is lost");
    let c = pod("c", "uc", &[]);
    let newer = vec![listing(vec![c.clone()]), Change::Apply { object: b.clone(), with: vec![] }];
    let update = store.update(newer, NOW).expect("a listing and a newer step").into_inner();
    let missing = vec![(again.key.clone(), "ua2".to_owned())];
    assert_eq!(update.missing, missing, "what a later step of the batch brings is not missing");
    let gone = vec![listing(vec![c]), Change::Delete { key: b.key.clone(), uid: "ub".to_owned() }];
    let update = store.update(gone, NOW).expect("a listing and a proof").into_inner();
    assert_eq!(update.missing, missing, "nor is what a later step deletes");
    assert_eq!(update.removed.len(), 2, "which deletes it, with what only it named");
}

fn another_cluster_is_refused(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let web = pod("web", "u1", &[]);
    let cluster = |cas: &[u8]| Change::Cluster { ca_sha256: cas.iter().map(|ca| [*ca; 32]).collect() };
    let cas = |store: &dyn Backend| {
        let mut cas = store.identity().cluster_ca_sha256.clone();
        let snapshot = store.snapshot().expect("a snapshot can be taken").into_inner();
        let stored = snapshot.identity().expect("a store has an identity").cluster_ca_sha256.clone();
        assert_eq!(stored, cas, "the handle knows what is durable");
        cas.sort_unstable();
        cas.into_iter().map(|ca| ca[0]).collect::<Vec<u8>>()
    };
    for (say, want, writes) in [
        (&[][..], &[][..], false),
        (&[1, 2], &[1, 2], true),
        (&[2, 1, 2], &[1, 2], false),
        (&[], &[1, 2], false),
        (&[3, 2], &[2, 3], true),
        (&[3], &[3], true),
    ] {
        let before = store.snapshot().expect("a snapshot can be taken").get().revision();
        let update = store.update(vec![cluster(say)], NOW).expect("the same cluster is taken").into_inner();
        assert_eq!(cas(&*store), want, "CAs are recorded, kept, and rotated: {say:?}");
        assert_eq!(update.revision != before, writes, "and written only if they differ: {say:?}");
    }
    let foreign = vec![Change::Apply { object: web.clone(), with: vec![] }, cluster(&[1, 2])];
    let result = store.update(foreign, NOW);
    let refused =
        matches!(&result, Err(StoreError::OtherCluster { stored, found }) if stored.len() == 1 && found.len() == 2);
    assert!(refused, "a source that is trusted by other CAs only is another cluster");
    assert_eq!(cas(&*store), [3], "its CAs are not taken");
    assert_eq!(store.snapshot().expect("a snapshot can be taken").get().objects().count(), 0, "nor is its pod");
    let _ = store.update(apply(web.clone(), vec![]), NOW).expect("the store goes on");
    assert!(holds(&*store, &web), "with what is its own");
    // More than a record can hold are no error, and are recognised again.
    let many = || {
        let mut ca_sha256: Vec<[u8; 32]> = (0..=u8::MAX).map(|ca| [ca; 32]).collect();
        ca_sha256.extend(ca_sha256.clone().into_iter().map(|mut ca| {
            ca[31] ^= 1;
            ca
        }));
        vec![Change::Cluster { ca_sha256 }]
    };
    let _ = store.update(many(), NOW).expect("a large bundle is taken");
    let _ = store.update(many(), NOW).expect("and recognised");
}

fn another_node_is_refused(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let own = store.identity().node_name.clone();
    let before = store.snapshot().expect("a snapshot can be taken").get().revision();
    let same = store.update(vec![Change::NodeName(own.clone())], NOW).expect("its own name is taken").into_inner();
    assert_eq!(same.revision, before, "and is no news");
    let web = pod("web", "u1", &[]);
    let foreign = vec![Change::Apply { object: web, with: vec![] }, Change::NodeName(format!("not-{own}"))];
    let result = store.update(foreign, NOW);
    assert!(matches!(result, Err(StoreError::OtherNode { .. })), "a source of another node is refused");
    let snapshot = store.snapshot().expect("a snapshot can be taken").into_inner();
    assert_eq!(snapshot.objects().count(), 0, "and nothing of it stored");
    assert_eq!(snapshot.node_name(), Some(own.as_str()), "the store stays whose it was");
}

fn a_pod_after_an_empty_listing_populates(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let empty = Change::Reset { objects: vec![], kinds: vec![Kind::Pod], missing: Missing::Report };
    let _ = store.update(vec![empty, Change::Complete], NOW).expect("an empty listing is taken");
    let populated = |store: &dyn Backend| store.snapshot().expect("a snapshot can be taken").get().populated();
    assert!(!populated(&*store), "a listing without pods says too little");
    let _ = store.update(apply(pod("a", "ua", &[]), vec![]), NOW).expect("stored");
    assert!(!populated(&*store), "a pod alone is no listing");
    let joined = vec![Change::Apply { object: pod("b", "ub", &[]), with: vec![] }, Change::Complete];
    let _ = store.update(joined, NOW).expect("stored");
    assert!(populated(&*store), "the first pod after a complete listing populates");
}

fn a_refused_pod_ends_its_predecessor(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let web = pod("web", "u1", &[]);
    let _ = store.update(apply(web.clone(), vec![]), NOW).expect("stored");
    let broken = |uid: &str| Object { uid: uid.to_owned(), body: "{}".to_owned().into(), ..web.clone() };
    let update = store.update(apply(broken("u1"), vec![]), NOW).expect("refused alone").into_inner();
    assert_eq!(update.rejected.len(), 1, "a version that can't be stored is named");
    assert!(holds(&*store, &web), "and the last one that could is kept");
    let next = vec![
        Change::Apply { object: broken("u2"), with: vec![] },
        Change::Delete { key: web.key.clone(), uid: "u1".to_owned() },
    ];
    let update = store.update(next, NOW).expect("refused alone").into_inner();
    assert_eq!(update.removed, std::slice::from_ref(&web.key), "but a pod whose name another one has is gone");
}

fn a_position_is_kept_with_what_is_written(store: Box<dyn Backend>, secret: &Unlocker) {
    let mut store = keyed(store, secret);
    let position = |text: &str| Change::Position(text.to_owned());
    let read = |store: &dyn Backend| {
        store.snapshot().expect("a snapshot can be taken").get().source_position().map(str::to_owned)
    };
    let first = store.update(apply(pod("web", "u1", &[]), vec![]), NOW).expect("stored").into_inner();
    let alone = store.update(vec![position("7")], NOW).expect("a position is taken").into_inner();
    assert_eq!(alone.revision, first.revision, "a position alone is no commit");
    assert_eq!(read(&*store), None, "and not kept");
    let with =
        |text: &str, uid: &str| vec![position(text), Change::Apply { object: pod("web", uid, &[]), with: vec![] }];
    let _ = store.update(with("8", "u2"), NOW).expect("stored");
    assert_eq!(read(&*store).as_deref(), Some("8"), "with a change it is kept");
    let _ = store.update(apply(pod("web", "u3", &[]), vec![]), NOW).expect("stored");
    assert_eq!(read(&*store).as_deref(), Some("8"), "until there is another");
    let _ = store.update(with(&"9".repeat(5000), "u4"), NOW).expect("one that can't be kept is no error");
    assert_eq!(read(&*store), None, "but unknown");
}
