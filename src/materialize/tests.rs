//! What a materializer does to directories that nobody else touches, seen from outside.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use super::sandbox::*;
use super::*;
use crate::checkpoint::rendering::Activity::{Active, Prepared};
use crate::checkpoint::rendering::PlannedPod;
use Published::{Created, Replaced, Unchanged};

#[test]
fn a_pod_is_rendered_whole() {
    let sandbox = SandBox::new();
    let shelf = Shelf::default().secret("tls", &[("crt", "C"), ("key", "K"), ("unused", "U")]);
    let trees = vec![
        tree("tls", &["crt=crt", "key=key"]),
        tree("kubernetes.io~projected/tls", &["d/e/key=key", "d/f:text", "g:"]),
        config("kubernetes.io~configmap/v", &["a:1"]),
        config("empty", &[]),
    ];
    let report = sandbox.open().reconcile(&plan(vec![pod("web", Active, "v1", trees)]), &shelf, NOW);
    fine(&report);
    assert_eq!(outcomes(&report), [("web", &PUBLISHED(Created, Created))]);
    let (uid, gid) = (fs::metadata(sandbox.path("")).unwrap().uid(), fs::metadata(sandbox.path("")).unwrap().gid());
    let want = r#"
        configmaps 40700
        configmaps/default 40700
        configmaps/default/web 40700
        configmaps/default/web/empty 40755
        configmaps/default/web/empty/..1 40755
        configmaps/default/web/empty/..data 120777 -> ..1
        configmaps/default/web/kubernetes.io~configmap 40700
        configmaps/default/web/kubernetes.io~configmap/v 40755
        configmaps/default/web/kubernetes.io~configmap/v/..1 40755
        configmaps/default/web/kubernetes.io~configmap/v/..1/a 100644 "1"
        configmaps/default/web/kubernetes.io~configmap/v/..data 120777 -> ..1
        configmaps/default/web/kubernetes.io~configmap/v/a 120777 -> ..data/a
        manifests 40700
        manifests/default_web.json 100600 JSON
        prepared 40700
        secrets 40700
        secrets/default 40700
        secrets/default/web 40700
        secrets/default/web/kubernetes.io~projected 40700
        secrets/default/web/kubernetes.io~projected/tls 40755
        secrets/default/web/kubernetes.io~projected/tls/..1 40755
        secrets/default/web/kubernetes.io~projected/tls/..1/d 40755
        secrets/default/web/kubernetes.io~projected/tls/..1/d/e 40755
        secrets/default/web/kubernetes.io~projected/tls/..1/d/e/key 100644 "K"
        secrets/default/web/kubernetes.io~projected/tls/..1/d/f 100644 "text"
        secrets/default/web/kubernetes.io~projected/tls/..1/g 100644 ""
        secrets/default/web/kubernetes.io~projected/tls/..data 120777 -> ..1
        secrets/default/web/kubernetes.io~projected/tls/d 120777 -> ..data/d
        secrets/default/web/kubernetes.io~projected/tls/g 120777 -> ..data/g
        secrets/default/web/tls 40755
        secrets/default/web/tls/..1 40755
        secrets/default/web/tls/..1/crt 100644 "C"
        secrets/default/web/tls/..1/key 100644 "K"
        secrets/default/web/tls/..data 120777 -> ..1
        secrets/default/web/tls/crt 120777 -> ..data/crt
        secrets/default/web/tls/key 120777 -> ..data/key
    "#;
    let found: Vec<String> = sandbox
        .listing()
        .iter()
        .map(|line| line.replace(&format!(" {uid} {gid} "), " ").replace(&format!("{:?}", json("v1")), "JSON"))
        .map(|line| line.trim_end().to_owned())
        .collect();
    assert_eq!(found, want.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>());
    // Two trees, one object: once each, never a second time for its second file.
    assert_eq!(shelf.opened(), ["tls", "tls"]);
}

#[test]
fn what_is_unchanged_is_not_written() {
    let sandbox = SandBox::new();
    let shelf = Shelf::default().secret("tls", &[("key", "K")]);
    let plan = plan(vec![
        pod("a", Active, "v1", vec![tree("tls", &["key=key"])]),
        clear_pod("b", Prepared, "v1", vec![config("c", &["k:v"])]),
        clear_pod("c", Active, "v1", vec![]),
    ]);
    fine(&sandbox.open().reconcile(&plan, &shelf, NOW));
    let before = sandbox.identities();
    shelf.opened();
    let report = sandbox.open().reconcile(&plan, &shelf, NOW + 1000);
    fine(&report);
    let unchanged = PUBLISHED(Unchanged, Unchanged);
    assert_eq!(outcomes(&report), [("a", &unchanged), ("b", &unchanged), ("c", &unchanged)]);
    assert!(report.removed.is_empty() && report.waiting.is_empty(), "{report:?}");
    assert_eq!(sandbox.identities(), before);
    assert_eq!(shelf.opened(), ["tls"]);
}

#[test]
fn a_change_replaces_and_a_removed_key_disappears() {
    let sandbox = SandBox::new();
    let materializer = sandbox.open();
    let at = "secrets/default/web/tls";
    let run = |files: &[&str], data: &[(&str, &str)]| {
        let shelf = Shelf::default().secret("tls", data);
        let report =
            materializer.reconcile(&plan(vec![pod("web", Active, "v1", vec![tree("tls", files)])]), &shelf, NOW);
        fine(&report);
        match report.outcomes[0].1 {
            PodOutcome::Published { trees, manifest } => (trees, manifest),
            PodOutcome::Failed(_) => unreachable!(),
        }
    };
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(sandbox.path(at)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(run(&["a=a", "b=b"], &[("a", "1"), ("b", "1")]), (Created, Created));
    assert_eq!(names(), "..1 ..data a b");
    assert_eq!(run(&["a=a", "b=b"], &[("a", "2"), ("b", "1")]), (Replaced, Unchanged));
    assert_eq!((names().as_str(), sandbox.read(&format!("{at}/a")).as_str()), ("..2 ..data a b", "2"));
    assert_eq!(run(&["b=b", "c/d=a"], &[("a", "2"), ("b", "1")]), (Replaced, Unchanged));
    assert_eq!((names().as_str(), sandbox.read(&format!("{at}/c/d")).as_str()), ("..3 ..data b c", "2"));
    assert_eq!(run(&[], &[]), (Replaced, Unchanged));
    assert_eq!(names(), "..4 ..data");
    assert_eq!(run(&["b=b"], &[("b", "same length")]), (Replaced, Unchanged));
    assert_eq!(run(&["b=b"], &[("b", "SAME LENGTH")]), (Replaced, Unchanged));
    assert_eq!(sandbox.read(&format!("{at}/b")), "SAME LENGTH");
}

#[test]
fn owners_and_modes_are_set_and_repaired() {
    let sandbox = SandBox::new();
    let shelf = Shelf::default().secret("s", &[("k", "K")]);
    let mut grouped = tree("s", &["d/k=k", "l=k"]);
    grouped.files[0].mode = 0o400;
    grouped.fs_group = Some(2000);
    let plan = plan(vec![clear_pod("p", Active, "v1", vec![grouped])]);
    let run = || {
        let report = sandbox.open().reconcile(&plan, &shelf, NOW);
        fine(&report);
        report.outcomes[0].1.clone()
    };
    run();
    let setgid = if is_root() { 0o2000 } else { 0 };
    let group = if is_root() { 2000 } else { fs::metadata(sandbox.path("")).unwrap().gid() };
    let check = |generation: &str| {
        #[rustfmt::skip]
        let rows = [
            ("secrets", 0o700, None), ("secrets/default", 0o700, None), ("secrets/default/p", 0o700, None),
            ("secrets/.manifests", 0o700, None), ("secrets/.manifests/default_p.json", 0o600, None),
            ("secrets/default/p/s", 0o755 | setgid, Some(group)),
            (generation, 0o755 | setgid, Some(group)),
            ("secrets/default/p/s/d", 0o755 | setgid, Some(group)),
            ("secrets/default/p/s/d/k", 0o440, Some(group)),
            ("secrets/default/p/s/l", 0o644, Some(group)),
        ];
        for (path, mode, group) in rows {
            let meta = fs::metadata(sandbox.path(path)).unwrap();
            assert_eq!(format!("{:o}", meta.mode() & 0o7777), format!("{mode:o}"), "{path}");
            assert!(group.is_none_or(|group| meta.gid() == group), "{path}: {}", meta.gid());
        }
    };
    check("secrets/default/p/s/..1");
    let rows = [
        // what is spoilt, and what is repaired
        ("secrets", 0o777, PUBLISHED(Unchanged, Unchanged), 1),
        ("secrets/default", 0o755, PUBLISHED(Unchanged, Unchanged), 1),
        ("secrets/default/p", 0o711, PUBLISHED(Unchanged, Unchanged), 1),
        ("secrets/default/p/s", 0o700, PUBLISHED(Replaced, Unchanged), 1),
        ("secrets/default/p/s/d", 0o777, PUBLISHED(Replaced, Unchanged), 2),
        ("secrets/default/p/s/d/k", 0o666, PUBLISHED(Replaced, Unchanged), 3),
        ("secrets/default/p/s/..3", 0o711, PUBLISHED(Replaced, Unchanged), 4),
        ("secrets/.manifests", 0o755, PUBLISHED(Unchanged, Unchanged), 4),
        ("secrets/.manifests/default_p.json", 0o644, PUBLISHED(Unchanged, Replaced), 4),
    ];
    for (path, mode, want, generation) in rows {
        fs::set_permissions(sandbox.path(path), fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(run(), want, "{path}");
        check(&format!("secrets/default/p/s/..{generation}"));
    }
    if is_root() {
        std::os::unix::fs::chown(sandbox.path("secrets/default/p/s/l"), Some(1), Some(1)).unwrap();
        assert_eq!(run(), PUBLISHED(Replaced, Unchanged));
        check("secrets/default/p/s/..5");
    }
}

#[test]
fn activation_is_one_rename_and_so_is_the_way_back() {
    let sandbox = SandBox::new();
    let materializer = sandbox.open();
    let run = |activity, says: &str| {
        let report = materializer.reconcile(&plan(vec![pod("web", activity, says, vec![])]), &Shelf::default(), NOW);
        fine(&report);
        report.outcomes[0].1.clone()
    };
    let (active, prepared) = ("manifests/default_web.json", "prepared/default_web.json");
    let inode = |path: &str| fs::metadata(sandbox.path(path)).unwrap().ino();

    assert_eq!(run(Prepared, "v1"), PUBLISHED(Unchanged, Created));
    assert!(!sandbox.exists(active));
    let first = inode(prepared);
    assert_eq!(run(Active, "v1"), PUBLISHED(Unchanged, Created));
    assert!(!sandbox.exists(prepared));
    assert_eq!(inode(active), first);
    assert_eq!(run(Prepared, "v1"), PUBLISHED(Unchanged, Unchanged));
    assert!(!sandbox.exists(active));
    assert_eq!(inode(prepared), first);

    assert_eq!(run(Prepared, "v2"), PUBLISHED(Unchanged, Replaced));
    assert_eq!(sandbox.read(prepared), json("v2"));
    assert_eq!(run(Active, "v3"), PUBLISHED(Unchanged, Created));
    assert_eq!(run(Active, "v4"), PUBLISHED(Unchanged, Replaced));
    assert_eq!(sandbox.read(active), json("v4"));
    // An old prepared copy does not outlive activation.
    sandbox.write(prepared, &json("v0"));
    assert_eq!(run(Active, "v4"), PUBLISHED(Unchanged, Unchanged));
    assert!(!sandbox.exists(prepared));
    assert_eq!(run(Prepared, "v5"), PUBLISHED(Unchanged, Replaced));
    assert_eq!((sandbox.exists(active), sandbox.read(prepared)), (false, json("v5")));
}

#[test]
fn two_file_systems_do_without_the_rename() {
    let (disk, memory) = (SandBox::new(), SandBox::fast());
    let roots = Roots { prepared: memory.path("prepared"), ..disk.roots() };
    let owners = if is_root() { Owners::Root } else { Owners::Unchanged };
    let materializer = Materializer::open(roots, SecretRootPolicy::AllowDisk, owners).unwrap();
    for (activity, says) in [(Prepared, "v1"), (Active, "v1"), (Active, "v2"), (Prepared, "v2"), (Prepared, "v3")] {
        let report = materializer.reconcile(&plan(vec![pod("web", activity, says, vec![])]), &Shelf::default(), NOW);
        fine(&report);
        let (here, there) = if activity == Active { (&disk, &memory) } else { (&memory, &disk) };
        let path = |dir: &str| format!("{dir}/default_web.json");
        let (want, other) = if activity == Active { ("manifests", "prepared") } else { ("prepared", "manifests") };
        assert_eq!(here.read(&path(want)), json(says));
        assert!(!there.exists(&path(other)), "{activity:?} {says}");
    }
}

#[test]
fn a_manifest_with_clear_text_is_a_link_into_the_secret_root() {
    let sandbox = SandBox::new();
    let materializer = sandbox.open();
    let body = "secrets/.manifests/default_web.json";
    let active = sandbox.path("manifests/default_web.json");
    let run = |planned: Vec<PlannedPod>| {
        let report = materializer.reconcile(&plan(planned), &Shelf::default(), NOW);
        fine(&report);
        report
    };
    run(vec![clear_pod("web", Prepared, "v1", vec![])]);
    assert_eq!(fs::read_link(sandbox.path("prepared/default_web.json")).unwrap(), sandbox.path(body));
    run(vec![clear_pod("web", Active, "v1", vec![])]);
    assert_eq!(fs::read_link(&active).unwrap(), sandbox.path(body));
    assert_eq!(fs::read_to_string(&active).unwrap(), json("v1"));
    assert!(!sandbox.exists("prepared/default_web.json"));
    let report = run(vec![clear_pod("web", Active, "v2", vec![])]);
    assert_eq!(outcomes(&report), [("web", &PUBLISHED(Unchanged, Replaced))]);
    assert_eq!(fs::read_to_string(&active).unwrap(), json("v2"));

    // It no longer carries clear text, and then it does again.
    run(vec![pod("web", Active, "v3", vec![])]);
    assert!(fs::symlink_metadata(&active).unwrap().is_file() && !sandbox.exists(body));
    run(vec![clear_pod("web", Active, "v4", vec![])]);
    assert_eq!((fs::read_link(&active).unwrap(), sandbox.read(body)), (sandbox.path(body), json("v4")));

    // A reboot empties the secret root: the dangling link is still ours, and is filled or removed.
    fs::remove_dir_all(sandbox.path("secrets/.manifests")).unwrap();
    let report = run(vec![clear_pod("web", Active, "v4", vec![])]);
    assert_eq!(outcomes(&report), [("web", &PUBLISHED(Unchanged, Replaced))]);
    assert_eq!(sandbox.read(body), json("v4"));
    fs::remove_dir_all(sandbox.path("secrets/.manifests")).unwrap();
    run(vec![]);
    assert!(!sandbox.exists("manifests/default_web.json"));

    // Nobody's link names it any more: gone at once.
    run(vec![clear_pod("web", Active, "v5", vec![])]);
    run(vec![]);
    assert!(!sandbox.exists(body));
}

#[test]
fn after_a_reboot_all_comes_back_the_same() {
    let sandbox = SandBox::new();
    let shelf = Shelf::default().secret("s", &[("k", "K")]);
    let plan = plan(vec![
        clear_pod("a", Active, "v1", vec![tree("s", &["k=k"]), config("c", &["k:v"])]),
        pod("b", Prepared, "v1", vec![tree("kubernetes.io~secret/s", &["x=k"])]),
    ]);
    fine(&sandbox.open().reconcile(&plan, &shelf, NOW));
    let before = sandbox.listing();
    for entry in fs::read_dir(sandbox.path("secrets")).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    fine(&sandbox.open().reconcile(&plan, &shelf, NOW));
    assert_eq!(sandbox.listing(), before);
}

#[test]
fn trees_outlive_their_manifest_until_the_containers_are_gone() {
    let sandbox = SandBox::new();
    let materializer = sandbox.open();
    let shelf = Shelf::default();
    let run = |planned: Vec<PlannedPod>, now| {
        let report = materializer.reconcile(&plan(planned), &shelf, now);
        fine(&report);
        report
    };
    let trees = || vec![tree("s", &["k:v"]), tree("a~b/v", &["k:v"]), config("c", &["k:v"])];
    let waiting = |until_unix_s| Waiting { pod: name("a"), until_unix_s };
    run(vec![pod("a", Active, "v1", trees()), pod("b", Prepared, "v1", trees())], NOW);

    let report = run(vec![], NOW);
    assert!(!sandbox.exists("manifests/default_a.json") && !sandbox.exists("prepared/default_b.json"));
    assert!(!sandbox.exists("secrets/default/b") && !sandbox.exists("configmaps/default/b"), "never active: at once");
    assert_eq!(sandbox.read("secrets/default/a/s/k"), "v");
    assert_eq!(sandbox.read("secrets/default/a/.ckpt-db.remove-after"), format!("{LATER} 90\n"));
    assert_eq!(report.waiting, [waiting(LATER), waiting(LATER)]);
    let removed: Vec<_> = report.removed.iter().map(|r| (r.pod.name.as_str(), r.files)).collect();
    use RemovedFiles::{ActiveManifest, PreparedManifest, Trees};
    assert_eq!(removed, [("a", ActiveManifest), ("b", PreparedManifest), ("b", Trees), ("b", Trees)]);

    // What an interrupted run began is in nobody's use.
    sandbox.write("secrets/default/a/a~b/.ckpt-db.new/..1/k", "begun");
    let report = run(vec![], LATER - 1);
    assert!(!sandbox.exists("secrets/default/a/a~b/.ckpt-db.new") && sandbox.exists("secrets/default/a/a~b/v/k"));
    assert_eq!((report.removed.len(), report.waiting.len()), (0, 2));
    let report = run(vec![], LATER);
    assert_eq!((report.removed.len(), report.waiting.len()), (2, 0));
    assert!(!sandbox.exists("secrets/default") && !sandbox.exists("configmaps/default"));

    // Wanted again in between: nothing of it goes, and the marker does.
    run(vec![pod("a", Active, "v1", trees())], NOW);
    run(vec![], NOW);
    let report = run(vec![pod("a", Active, "v1", trees())], NOW + 1);
    assert_eq!(outcomes(&report), [("a", &PUBLISHED(Unchanged, Created))]);
    assert!(!sandbox.exists("secrets/default/a/.ckpt-db.remove-after") && report.waiting.is_empty());

    // Deactivated, then not wanted: its containers may be running still.
    run(vec![pod("a", Prepared, "v1", trees())], NOW);
    let report = run(vec![], NOW + 10);
    assert_eq!(report.waiting, [waiting(LATER), waiting(LATER)]);
    // The clock was wrong and is put back: no wait of years.
    let report = run(vec![], 1000);
    assert_eq!(report.waiting, [waiting(1090), waiting(1090)]);
    run(vec![], 1090);
    assert!(!sandbox.exists("secrets/default"));
}

#[test]
fn trees_that_a_pod_no_longer_names_go_when_its_old_containers_are_gone() {
    let sandbox = SandBox::new();
    let materializer = sandbox.open();
    let run = |activity, says, trees, now| {
        let report = materializer.reconcile(&plan(vec![pod("a", activity, says, trees)]), &Shelf::default(), now);
        fine(&report);
        report
    };
    let (one, two) = (|| tree("one", &["k:v"]), || tree("two", &["k:v"]));
    run(Active, "v1", vec![one(), two()], NOW);
    let report = run(Active, "v2", vec![two()], NOW);
    assert_eq!(report.waiting, [Waiting { pod: name("a"), until_unix_s: LATER }]);
    assert!(sandbox.exists("secrets/default/a/one/k"));
    run(Active, "v2", vec![two()], LATER);
    assert!(!sandbox.exists("secrets/default/a/one") && sandbox.exists("secrets/default/a/two/k"));
    assert!(!sandbox.exists("secrets/default/a/.ckpt-db.remove-after"));
    // Of a pod that is not active: at once, after the marker of the last time.
    run(Prepared, "v2", vec![two()], NOW);
    run(Prepared, "v2", vec![two()], LATER);
    run(Prepared, "v3", vec![one()], LATER);
    assert!(!sandbox.exists("secrets/default/a/two") && sandbox.exists("secrets/default/a/one/k"));
    // The same for a manifest behind a link, whose entry does not change.
    let run = |says, trees| {
        fine(&materializer.reconcile(&plan(vec![clear_pod("a", Active, says, trees)]), &Shelf::default(), NOW));
    };
    run("v4", vec![one(), two()]);
    run("v5", vec![two()]);
    assert!(sandbox.exists("secrets/default/a/one/k") && sandbox.exists("secrets/default/a/.ckpt-db.remove-after"));
}

#[test]
fn a_memory_file_system_is_recognised() {
    let sandbox = SandBox::fast();
    let owners = if is_root() { Owners::Root } else { Owners::Unchanged };
    if sandbox.path("").starts_with("/dev/shm") {
        let materializer = Materializer::open(sandbox.roots(), SecretRootPolicy::RequireMemory, owners).unwrap();
        assert_eq!(materializer.medium(), Ok(Medium::Memory));
    }
}

#[test]
fn a_reader_sees_the_old_tree_or_the_new_one() {
    let sandbox = SandBox::fast();
    let materializer = sandbox.open();
    let run = |round: u32| {
        let text = round.to_string().repeat(1000);
        let files: Vec<String> = ["a", "b", "d/c"].iter().map(|path| format!("{path}:{text}")).collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        fine(&materializer.reconcile(
            &plan(vec![pod("p", Active, "v1", vec![tree("s", &files)])]),
            &Shelf::default(),
            NOW,
        ));
    };
    run(0);
    let stop = AtomicBool::new(false);
    let at = sandbox.path("secrets/default/p/s");
    let whole = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut whole = 0;
            while !stop.load(Ordering::Relaxed) {
                let before = fs::read_link(at.join("..data")).unwrap();
                let generation = at.join(&before);
                let texts: Vec<_> = ["a", "b", "d/c"].map(|path| fs::read_to_string(generation.join(path)).ok()).into();
                if texts.iter().all(Option::is_some) {
                    assert!(texts.iter().all(|text| *text == texts[0] && text.as_ref().unwrap().len() >= 1000));
                    whole += 1;
                } else {
                    // Only a generation that is no longer the current one may lack anything.
                    assert_ne!(fs::read_link(at.join("..data")).unwrap(), before);
                }
                // A path through the links always leads to a whole file.
                if let Ok(text) = fs::read_to_string(at.join("a")) {
                    assert!(text.len() >= 1000);
                }
            }
            whole
        });
        for round in 1..=200 {
            run(round);
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(whole > 0);
}

#[test]
fn what_is_not_known_is_left_as_it_is() {
    use crate::checkpoint::rendering::Untouched;
    let name = |name: &str| PodName { namespace: "default".to_owned(), name: name.to_owned() };
    let sandbox = SandBox::new();
    let shelf = Shelf::default().secret("s", &[("k", "v")]);
    let all = || {
        vec![
            pod("kept", Active, "v1", vec![tree("s", &["k=k"])]),
            clear_pod("clear", Active, "v1", vec![]),
            pod("ready", Prepared, "v1", vec![config("c", &["k:v"])]),
            pod("gone", Active, "v1", vec![tree("s", &["k=k"])]),
        ]
    };
    fine(&sandbox.open().reconcile(&plan(all()), &shelf, NOW));
    let before = sandbox.listing();

    let everything = plan(vec![]).map(|plan| Plan { untouched: Untouched::All, ..plan });
    let report = sandbox.open().reconcile(&everything, &shelf, NOW);
    assert_eq!(report.left.len(), 3, "{report:?}");
    assert_eq!(sandbox.listing(), before);

    let some = Untouched::Only(["kept", "clear", "ready"].map(name).into());
    let some = plan(vec![]).map(|plan| Plan { untouched: some, ..plan });
    let report = sandbox.open().reconcile(&some, &shelf, NOW);
    assert!(report.removed.iter().all(|removed| removed.pod == name("gone")), "{report:?}");
    let _ = sandbox.open().reconcile(&some, &shelf, NOW + 1000);
    let after = sandbox.listing();
    let expected: Vec<String> = before.iter().filter(|line| !line.contains("gone")).cloned().collect();
    assert_eq!(after, expected);
}

#[test]
fn a_doubtful_rendering_replaces_nothing_that_runs() {
    let name = PodName { namespace: "default".to_owned(), name: "web".to_owned() };
    let doubtful = |says: &str| {
        let plan = plan(vec![pod("web", Active, says, vec![tree("s", &["k=k"])])]);
        plan.map(|plan| Plan { unsure: [name.clone()].into(), ..plan })
    };
    let sandbox = SandBox::new();
    let shelf = Shelf::default().secret("s", &[("k", "v")]);
    fine(&sandbox.open().reconcile(&doubtful("v1"), &shelf, NOW));
    assert_eq!(sandbox.read("manifests/default_web.json"), json("v1"), "it is better than nothing");
    let before = sandbox.listing();
    let report = sandbox.open().reconcile(&doubtful("v2"), &shelf, NOW);
    assert_eq!((report.left, report.outcomes.len()), (vec![name.clone()], 0));
    assert_eq!(sandbox.listing(), before);
}
