//! The suite that every backend passes; public, so that an embedding program can hold its own backend to it.
//!
//! Each check panics with the sentence that does not hold, as a test does.

use store_format::{Activity, NodeSecret};

use super::{Backend, Change, LockState, Missing, StoreError};
use crate::checkpoint::lookup::{Lookup, Objects as _};
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::checkpoint::rendering::PodName;

/// Runs every check, each on a fresh, keyless store that `make` provides.
///
/// `secret` is a node key with a public part.
///
/// # Panics
/// If the backend does not conform; the message says in what.
pub fn run(make: &mut dyn FnMut() -> Box<dyn Backend>, secret: &NodeSecret) {
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

fn secret_object(name: &str, value: &str) -> Object {
    let body = format!(
        r#"{{"apiVersion":"v1","kind":"Secret","metadata":{{"namespace":"default","name":"{name}"}},"data":{{"k":"{value}"}}}}"#
    );
    object(Kind::Secret, name, "", &body)
}

fn apply(object: Object, with: Vec<Object>) -> Vec<Change> {
    vec![Change::Apply { object, with }]
}

fn keyed(mut store: Box<dyn Backend>, secret: &NodeSecret) -> Box<dyn Backend> {
    let _ = store.add_first_key(secret, NOW).expect("a keyless store takes its first key");
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

fn a_pod_is_stored_with_what_it_names(store: Box<dyn Backend>, secret: &NodeSecret) {
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

fn a_keyless_store_takes_everything_but_secrets(mut store: Box<dyn Backend>, secret: &NodeSecret) {
    let (web, tls) = (pod("web", "u1", &["tls"]), secret_object("tls", "AAEC"));
    let update = store.update(apply(web.clone(), vec![tls.clone()]), NOW).expect("a keyless store takes pods");
    assert_eq!(update.get().unsealed, vec![tls.key.clone()], "the Secret is left out and named");
    let snapshot = store.snapshot().expect("a snapshot can be taken").into_inner();
    assert!(matches!(snapshot.get(&tls.key), Lookup::NoKeyYet), "the Secret's absence is explained");
    drop(snapshot);
    let mut store = keyed(store, secret);
    assert_eq!(store.lock_state(), LockState::Open, "the first key opens the store");
    let _ = store.update(apply(web.clone(), vec![tls.clone()]), NOW).expect("then Secrets are stored");
    assert!(holds(&*store, &web) && holds(&*store, &tls), "both can be read back exactly");
    let again = store.add_first_key(secret, NOW);
    assert!(again.is_err(), "a store has one first key");
}

fn the_same_again_changes_nothing(store: Box<dyn Backend>, secret: &NodeSecret) {
    let mut store = keyed(store, secret);
    let changes = || apply(pod("web", "u1", &["tls"]), vec![secret_object("tls", "AAEC")]);
    let first = store.update(changes(), NOW).expect("a closure is stored").into_inner();
    let second = store.update(changes(), NOW + 1).expect("the same closure is taken").into_inner();
    assert_eq!(second.revision, first.revision, "the same again is no new revision");
    assert!(second.stored.is_empty() && second.removed.is_empty(), "the same again writes nothing");
}

fn what_no_pod_names_is_not_kept(store: Box<dyn Backend>, secret: &NodeSecret) {
    let mut store = keyed(store, secret);
    let stray = secret_object("stray", "AAEC");
    let update = store.update(apply(stray.clone(), vec![]), NOW).expect("a stray Secret is no error").into_inner();
    assert_eq!(update.unreferenced, vec![stray.key.clone()], "a Secret that no pod names is not stored");
    let _ = store.update(apply(pod("web", "u1", &["tls"]), vec![secret_object("tls", "AAEC")]), NOW).expect("stored");
    let _ = store.update(apply(pod("web", "u1", &[]), vec![]), NOW).expect("a pod may need less");
    let snapshot = store.snapshot().expect("a snapshot can be taken");
    assert_eq!(snapshot.get().objects().count(), 1, "what a pod no longer names goes");
}

fn a_listing_is_compared_with_the_store(store: Box<dyn Backend>, secret: &NodeSecret) {
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

fn an_empty_listing_deletes_nothing(store: Box<dyn Backend>, secret: &NodeSecret) {
    let mut store = keyed(store, secret);
    let web = pod("web", "u1", &[]);
    let _ = store.update(apply(web.clone(), vec![]), NOW).expect("stored");
    let result =
        store.update(vec![Change::Reset { objects: vec![], kinds: vec![Kind::Pod], missing: Missing::Delete }], NOW);
    assert!(matches!(result, Err(StoreError::EmptyListing { stored: 1 })), "silence is not deletion");
    assert!(holds(&*store, &web), "and the pod is still there");
}

fn a_pod_of_another_uid_is_another_pod(store: Box<dyn Backend>, secret: &NodeSecret) {
    let mut store = keyed(store, secret);
    let mut running = pod("web", "u1", &[]);
    let body = String::from_utf8(running.body.expose().to_vec()).expect("the suite's own JSON is UTF-8");
    running.body = body.replacen('{', r#"{"status":{"phase":"Running"},"#, 1).into();
    let _ = store.update(apply(running.clone(), vec![]), NOW).expect("stored");
    assert!(store.snapshot().expect("a snapshot").get().ran(&running.key), "a running pod has run");
    let mut pending = pod("web", "u2", &[]);
    let body = String::from_utf8(pending.body.expose().to_vec()).expect("the suite's own JSON is UTF-8");
    pending.body = body.replacen('{', r#"{"status":{"phase":"Pending"},"#, 1).into();
    let _ = store.update(apply(pending.clone(), vec![]), NOW).expect("stored");
    assert!(!store.snapshot().expect("a snapshot").get().ran(&pending.key), "a re-created pod has not run yet");
}

fn a_deletion_of_another_uid_is_ignored(store: Box<dyn Backend>, secret: &NodeSecret) {
    let mut store = keyed(store, secret);
    let web = pod("web", "u2", &[]);
    let _ = store.update(apply(web.clone(), vec![]), NOW).expect("stored");
    let _ = store.update(vec![Change::Delete { key: web.key.clone(), uid: "u1".to_owned() }], NOW).expect("no error");
    assert!(holds(&*store, &web), "the deletion of a predecessor does not delete the pod");
}

fn a_bad_object_does_not_take_others_down(store: Box<dyn Backend>, secret: &NodeSecret) {
    let mut store = keyed(store, secret);
    let good = pod("good", "u1", &[]);
    let bad = object(Kind::Pod, "bad", "u2", r#"{"spec":{"volumes":7}}"#);
    let changes =
        vec![Change::Apply { object: bad.clone(), with: vec![] }, Change::Apply { object: good.clone(), with: vec![] }];
    let update = store.update(changes, NOW).expect("the batch is taken").into_inner();
    assert_eq!(update.rejected.len(), 1, "the bad object is named");
    assert!(holds(&*store, &good), "the good one is stored");
}

fn an_object_that_appears_later_is_linked(store: Box<dyn Backend>, secret: &NodeSecret) {
    let mut store = keyed(store, secret);
    let _ = store.update(apply(pod("web", "u1", &["tls"]), vec![]), NOW).expect("stored");
    let tls = secret_object("tls", "AAEC");
    let _ = store.update(apply(tls.clone(), vec![]), NOW).expect("stored");
    assert!(holds(&*store, &tls), "a Secret that a stored pod names is stored when it appears");
    let _ = store.update(apply(secret_object("tls", "AAED"), vec![]), NOW).expect("stored");
    assert!(holds(&*store, &secret_object("tls", "AAED")), "and replaced when it changes");
}

fn decisions_are_kept_for_the_same_pod(store: Box<dyn Backend>, secret: &NodeSecret) {
    let mut store = keyed(store, secret);
    let web = pod("web", "u1", &[]);
    let _ = store.update(apply(web.clone(), vec![]), NOW).expect("stored");
    let decided = |uid: &str| {
        let pod = PodName { namespace: "default".to_owned(), name: "web".to_owned() };
        vec![Change::Decided { pod, uid: uid.to_owned(), activity: Activity::Active }]
    };
    let _ = store.update(decided("other"), NOW).expect("no error");
    let activity = |store: &dyn Backend| store.snapshot().expect("a snapshot").get().activity(&web.key);
    assert_eq!(activity(&*store), Some(Activity::Inactive), "a decision for another UID is not taken");
    let _ = store.update(decided("u1"), NOW).expect("no error");
    assert_eq!(activity(&*store), Some(Activity::Active), "a decision is kept");
}
