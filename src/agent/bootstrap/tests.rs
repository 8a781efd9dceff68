//! What is in the files, at every moment and after every accident.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::crypto::SystemEntropy;
use crate::source::bootstrap::ANNOTATION;
use crate::store::{Backend, MemoryStore, Missing};

fn memory() -> Box<dyn Backend> {
    let identity = store_format::Identity::new(store_format::StoreId([7; 16]), 0, "edge-1");
    Box::new(MemoryStore::new(identity, Box::new(SystemEntropy)).unwrap())
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(Kind::Pod, "shop", name).unwrap()
}

fn pod(name: &str, uid: &str, version: u32, annotated: bool) -> Object {
    let annotations = if annotated { json!({ANNOTATION: "true"}) } else { json!({}) };
    let body = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "resourceVersion": version.to_string(), "annotations": annotations},
        "spec": {"nodeName": "edge-1", "containers": [{"name": "c", "image": "i:1"}]},
    });
    let (uid, resource_version) = (uid.to_owned(), version.to_string());
    Object { key: key(name), uid, resource_version, body: body.to_string().into() }
}

fn apply(object: Object) -> Change {
    Change::Apply { object, with: Vec::new() }
}

fn delete(name: &str) -> Change {
    Change::Delete { key: key(name), uid: String::new() }
}

/// The pods of the readable files, by UID.
fn on_disk(directory: &Path) -> BTreeMap<String, Object> {
    let found = Bootstrap::new(directory).read().unwrap();
    found.checkpoints.into_iter().map(|found| (found.pod.uid.clone(), found.pod)).collect()
}

/// What should be there.
fn wanted(store: &dyn Backend) -> BTreeMap<String, Object> {
    let snapshot = store.snapshot().unwrap().into_inner();
    let pods = snapshot.all(Kind::Pod).into_iter().filter(|pod| is_wanted(pod) && !snapshot.gone(&pod.key));
    pods.map(|pod| (pod.uid.clone(), pod)).collect()
}

fn update(store: &mut dyn Backend, changes: Vec<Change>) {
    let _durable = store.update(changes, 0).unwrap();
}

#[test]
fn when_a_commit_is_known_its_files_are_there() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("bootstrap");
    let files = Arc::new(Bootstrap::new(&directory));
    let mut store = Mirrored::new(memory(), Arc::clone(&files)).unwrap();
    assert!(!directory.exists(), "nothing is made before there is something to write");
    let mut uids_after = |changes| {
        update(&mut store, changes);
        assert_eq!(on_disk(&directory), wanted(&store));
        on_disk(&directory).into_keys().collect::<Vec<_>>()
    };
    assert_eq!(uids_after(vec![apply(pod("web", "u1", 1, true)), apply(pod("plain", "u2", 1, false))]), ["u1"]);
    assert_eq!(uids_after(vec![apply(pod("web", "u1", 2, true))]), ["u1"]);
    // It loses the annotation, and gets it again.
    assert!(uids_after(vec![apply(pod("web", "u1", 3, false))]).is_empty());
    assert_eq!(uids_after(vec![apply(pod("web", "u1", 4, true))]), ["u1"]);
    // It is created anew.
    assert_eq!(uids_after(vec![apply(pod("web", "u9", 5, true))]), ["u9"]);
    // It is gone, kept for its grace period, and then it is not.
    assert!(uids_after(vec![Change::Gone { key: key("web"), uid: "u9".to_owned() }]).is_empty());
    assert_eq!(uids_after(vec![apply(pod("web", "u9", 5, true))]), ["u9"]);
    assert_eq!(uids_after(vec![Change::Gone { key: key("web"), uid: "another".to_owned() }]), ["u9"]);
    assert!(uids_after(vec![delete("web")]).is_empty());
    // A version that can't be stored is not written either.
    assert_eq!(uids_after(vec![apply(pod("web", "u1", 1, true))]), ["u1"]);
    let bad = pod("web", "u1", 2, true);
    let text = String::from_utf8(bad.body.expose().to_vec()).unwrap();
    let text =
        text.replace(r#""containers""#, r#""volumes":[{"name":"v","secret":{"secretName":"../x"}}],"containers""#);
    assert_eq!(uids_after(vec![apply(Object { body: text.into(), ..bad })]), ["u1"]);
    assert_eq!(on_disk(&directory)["u1"].resource_version, "1");
    // A whole listing.
    let listed = vec![pod("other", "u5", 1, true), pod("plain", "u2", 1, true)];
    let reset = Change::Reset { objects: listed, kinds: vec![Kind::Pod], missing: Missing::Delete };
    assert_eq!(uids_after(vec![reset]), ["u2", "u5"]);
    assert_eq!(files.status().files, 2);
    assert_eq!(files.status().failures, 0);

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&directory.join("Pod_u5.yaml"))), (0o700, 0o600));
}

/// Random changes against the rule that files are what the store has.
#[test]
fn files_are_what_the_store_has_whatever_happens() {
    for seed in 0..8_u64 {
        let scratch = tempfile::tempdir().unwrap();
        let files = Arc::new(Bootstrap::new(scratch.path()));
        let mut store: Box<dyn Backend> = Box::new(Mirrored::new(memory(), Arc::clone(&files)).unwrap());
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for step in 0..40 {
            let count = 1 + next(3);
            let changes = (0..count)
                .map(|_| {
                    let name = ["a", "b", "c"][next(3) as usize];
                    let uid = format!("{name}{}", next(2));
                    let object = pod(name, &uid, next(3) as u32, next(3) > 0);
                    let reset =
                        |missing| Change::Reset { objects: vec![object.clone()], kinds: vec![Kind::Pod], missing };
                    match next(12) {
                        0 => delete(name),
                        1 => Change::Delete { key: key(name), uid },
                        2 => Change::Gone { key: key(name), uid },
                        3 => reset(Missing::Report),
                        4 => reset(Missing::Delete),
                        _ => apply(object),
                    }
                })
                .collect::<Vec<_>>();
            update(&mut *store, changes.clone());
            assert_eq!(on_disk(scratch.path()), wanted(&*store), "seed {seed}, step {step}: {changes:?}");
        }
        assert_eq!(files.status().failures, 0);
    }
}

#[test]
fn what_can_not_be_written_holds_nothing_up_and_is_counted_and_tried_again() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("in-the-way");
    fs::write(&directory, "a file").unwrap();
    let files = Arc::new(Bootstrap::new(&directory));
    let mut store = Mirrored::new(memory(), Arc::clone(&files)).unwrap();
    let before = files.status();
    update(&mut store, vec![apply(pod("web", "u1", 1, true))]);
    assert_eq!(wanted(&store).len(), 1, "it is stored all the same");
    let status = files.status();
    assert_eq!((status.files, status.failures), (0, before.failures + 1));
    assert!(status.problem.is_some_and(|problem| problem.contains("in-the-way")));

    fs::remove_file(&directory).unwrap();
    // Any other change does.
    update(&mut store, vec![apply(pod("plain", "u2", 1, false))]);
    assert_eq!(on_disk(&directory), wanted(&store));
    let status = files.status();
    assert_eq!((status.files, status.failures, status.problem), (1, before.failures + 1, None));
    assert_eq!((status.writes_failed, status.removals_failed), (1, 0));

    // A file that can't be removed is told apart: it is a pod that may come back.
    let away = scratch.path().join("away");
    fs::rename(&directory, &away).unwrap();
    fs::write(&directory, "a file").unwrap();
    update(&mut store, vec![Change::Delete { key: pod("web", "u1", 1, true).key, uid: String::new() }]);
    let status = files.status();
    assert_eq!((status.writes_failed, status.removals_failed), (1, 1));
    assert!(status.problem.is_some_and(|problem| problem.contains("in-the-way")));
    fs::remove_file(&directory).unwrap();
    fs::rename(&away, &directory).unwrap();
    update(&mut store, vec![apply(pod("plain", "u2", 2, false))]);
    assert_eq!(on_disk(&directory), wanted(&store), "it is tried again");
    assert_eq!(files.status().removals_failed, 1);

    // No file can have this name.
    update(&mut store, vec![apply(pod("odd", "../u3", 1, true))]);
    assert!(files.status().problem.is_some_and(|problem| problem.contains("Pod shop/odd")));
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1, "and none is elsewhere");
}

/// The process ended between a commit and its files, or the removal failed.
#[test]
fn a_start_makes_good_what_was_cut_short() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let mut store = memory();
    update(&mut *store, vec![apply(pod("new", "u1", 1, true)), apply(pod("hurt", "u2", 1, true)), Change::Complete]);
    let put = |name: &str, text: &[u8]| {
        fs::write(at(name), text).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o600)).unwrap();
    };
    let ours = |pod: &Object| write(pod).unwrap().expose().to_vec();
    // Ours, of a pod that was deleted; the same of another one, which somebody else has written; and two that are damaged.
    put("Pod_u3.yaml", &ours(&pod("deleted", "u3", 1, true)));
    let manifest = ours(&pod("theirs", "u4", 1, true)).splitn(3, |&b| b == b'\n').nth(2).unwrap().to_vec();
    put("Pod_u4.yaml", &manifest);
    put("Pod_u2.yaml", b"{\"Pod\":");
    put("Pod_u5.yaml", b"");
    put("notes.txt", b"mine");

    let found = Bootstrap::new(scratch.path()).read().unwrap();
    assert_eq!(found.unreadable.len(), 2);
    let snapshot = store.snapshot().unwrap().into_inner();
    let (untold, rest) = untold(found.checkpoints, Some(&snapshot));
    assert!(untold.is_empty(), "a deleted pod does not come back");
    assert_eq!(rest.len(), 2);

    let files = Arc::new(Bootstrap::new(scratch.path()));
    let store = Mirrored::new(store, Arc::clone(&files)).unwrap();
    let there = on_disk(scratch.path());
    assert_eq!(there.keys().collect::<Vec<_>>(), ["u1", "u2", "u4"]);
    assert_eq!(there["u1"], wanted(&store)["u1"]);
    assert_eq!(fs::read(at("Pod_u2.yaml.damaged")).unwrap(), b"{\"Pod\":");
    assert_eq!(fs::read(at("Pod_u4.yaml")).unwrap(), manifest);
    assert_eq!(fs::read(at("Pod_u5.yaml")).unwrap(), b"", "what is damaged is never removed");
    assert!(at("notes.txt").exists());
    assert_eq!(files.status().failures, 0);
}

#[test]
fn files_tell_only_what_the_store_does_not_know() {
    let files = || {
        let pods = [pod("web", "u1", 9, true), pod("lost", "u2", 1, true)];
        pods.map(|pod| Checkpoint { pod, writer: Writer::Us }).to_vec()
    };
    let names = |stored: Option<&Snapshot>| {
        let (untold, _) = untold(files(), stored);
        untold.iter().map(|pod| pod.key.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(None), ["web", "lost"]);
    let mut store = memory();
    assert_eq!(names(Some(store.snapshot().unwrap().get())), ["web", "lost"], "an empty store knows nothing");
    update(&mut *store, vec![apply(pod("web", "u1", 1, true))]);
    assert_eq!(names(Some(store.snapshot().unwrap().get())), ["lost"], "the store wins where it has the pod");
    update(&mut *store, vec![apply(pod("web", "u1", 1, true)), Change::Complete]);
    assert!(names(Some(store.snapshot().unwrap().get())).is_empty(), "a complete listing did not have it");
}

#[test]
fn what_others_may_write_to_is_not_believed() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("Pod_u1.yaml");
    fs::write(&path, write(&pod("web", "u1", 1, true)).unwrap().expose()).unwrap();
    for (mode, believed) in [(0o600, true), (0o644, true), (0o620, false), (0o666, false)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let found = Bootstrap::new(scratch.path()).read().unwrap();
        assert_eq!(
            (found.checkpoints.len(), found.unreadable.len()),
            if believed { (1, 0) } else { (0, 1) },
            "{mode:o}"
        );
    }
}
