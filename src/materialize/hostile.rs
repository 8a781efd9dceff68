//! What a materializer does where it must not: others' files, links, leftovers, bad plans, missing objects and roots.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::sandbox::*;
use super::*;
use crate::checkpoint::rendering::Activity::{Active, Prepared};

#[test]
fn what_is_not_ours_stays_as_it_is() {
    let sandbox = SandBox::new();
    let ours = json("v0");
    let rows = [
        ("manifests/kube-apiserver.yaml", "kind: Pod"),
        ("manifests/default_stray.json", r#"{"kind":"Pod","metadata":{"name":"stray"}}"#),
        ("manifests/default_broken.json", "{"),
        ("manifests/.hidden", "x"),
        ("manifests/Default_x.json", ours.as_str()),
        ("manifests/sub/default_x.json", ours.as_str()),
        ("manifests/default_dir.json/x", "x"),
        ("prepared/notes", "x"),
        ("prepared/default_other.json", "[]"),
        ("secrets/note", "x"),
        ("secrets/.manifests/notes", "x"),
        ("secrets/UPPER/pod/s/..1/k", "x"),
        ("configmaps/kube-system/dns/config/Corefile", "predecessor's"),
        ("configmaps/kube-system/dns/note", "x"),
        ("configmaps/kube-system/dns/a~b/note", "x"),
    ];
    for (path, text) in rows {
        sandbox.write(path, text);
    }
    fs::create_dir_all(sandbox.path("elsewhere")).unwrap();
    sandbox.write("elsewhere/k", "untouched");
    symlink(sandbox.path("elsewhere"), sandbox.path("secrets/linked")).unwrap();
    symlink(sandbox.path("elsewhere/k"), sandbox.path("manifests/default_link.json")).unwrap();
    let materializer = sandbox.open();
    let before = sandbox.identities();
    let pods = vec![pod("web", Active, "v1", vec![tree("s", &["k:v"])])];
    let report = materializer.reconcile(&plan(pods), &Shelf::default(), NOW);
    // The predecessor's clear text and what lies beside it is reported.
    let mut reported: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
    reported.sort();
    let at = |below: &str| format!("{:?} is a file that ckpt-db did not make", sandbox.path(below));
    let want = [
        at("configmaps/kube-system/dns/a~b/note"),
        at("configmaps/kube-system/dns/config/Corefile"),
        at("configmaps/kube-system/dns/note"),
    ];
    assert_eq!(reported.len(), want.len(), "{reported:?}");
    for (line, want) in reported.iter().zip(want) {
        assert!(line.starts_with(&want), "{line}");
    }
    let _ = materializer.reconcile(&plan(vec![]), &Shelf::default(), LATER);
    let _ = materializer.reconcile(&plan(vec![]), &Shelf::default(), LATER + 100);
    let after = sandbox.identities();
    // Directories in which our own things came and went have another time; everything else is the very same.
    let files = |lines: &[String]| lines.iter().filter(|l| !l.contains(" 40")).cloned().collect::<Vec<_>>();
    assert_eq!(files(&after), files(&before));
}

#[test]
fn a_taken_name_is_a_conflict_of_that_pod_only() {
    type Spoil = fn(&SandBox, &Path);
    let file: Spoil = |_, path| fs::write(path, "{}").unwrap();
    let directory: Spoil = |_, path| fs::create_dir(path).unwrap();
    let full: Spoil = |_, path| {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("key"), "predecessor's").unwrap();
    };
    let link: Spoil = |sandbox, path| {
        fs::create_dir_all(sandbox.path("elsewhere/web/tls/..1")).unwrap();
        fs::write(sandbox.path("elsewhere/key"), "untouched").unwrap();
        symlink(sandbox.path("elsewhere"), path).unwrap();
    };
    let dangling: Spoil = |sandbox, path| symlink(sandbox.path("nowhere"), path).unwrap();
    let fifo: Spoil = |_, path| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    #[rustfmt::skip]
    let rows: &[(&str, &[Spoil], &str)] = &[
        ("manifests/default_web.json",            &[file, directory, link, dangling, fifo], ""),
        ("secrets/default",                       &[file, link, dangling, fifo],            ""),
        ("secrets/default/web",                   &[file, link, dangling, fifo],            ""),
        ("secrets/default/web/a~b",               &[file, link, dangling, fifo],            ""),
        ("secrets/default/web/a~b/tls",           &[file, link, dangling, fifo],            ""),
        ("secrets/default/web/tls",               &[file, link, dangling, fifo],            ""),
        ("secrets/default/web/tls",               &[full],                                  "/key"),
        ("secrets/default/web/tls/key",           &[file, directory, link, dangling, fifo], ""),
        ("secrets/default/web/tls/..data",        &[file, directory, link, dangling, fifo], ""),
        ("secrets/default/web/tls/..data_tmp",    &[file, directory, fifo],                 ""),
        ("secrets/default/web/tls/..7",           &[file, link, dangling, fifo],            ""),
        ("secrets/default/web/tls/..2024_01_01",  &[file, directory],                       ""),
        ("secrets/.manifests",                    &[file, link, dangling, fifo],            ""),
        ("secrets/.manifests/default_web.json",   &[directory, link, dangling, fifo],       ""),
    ];
    let shelf = Shelf::default().secret("tls", &[("key", "canary")]);
    let trees = || vec![tree("tls", &["key=key"]), tree("a~b/tls", &["key=key"])];
    for (path, spoils, inside) in rows {
        for (number, spoil) in spoils.iter().enumerate() {
            for fresh in [true, false] {
                let sandbox = SandBox::fast();
                let materializer = sandbox.open();
                let other = || pod("zz", Active, "v1", vec![config("c", &["k:v"])]);
                if !fresh {
                    let pods = vec![clear_pod("web", Prepared, "v1", trees()), other()];
                    fine(&materializer.reconcile(&plan(pods), &shelf, NOW));
                    let full = sandbox.path(path);
                    if full.is_dir() && !full.is_symlink() {
                        fs::remove_dir_all(&full).unwrap();
                    } else if sandbox.exists(path) {
                        fs::remove_file(&full).unwrap();
                    }
                }
                fs::create_dir_all(sandbox.path(path).parent().unwrap()).unwrap();
                spoil(&sandbox, &sandbox.path(path));
                let foreign = || {
                    let mut lines = sandbox.identities();
                    lines.retain(|line| line.starts_with(path) || line.starts_with("elsewhere"));
                    lines
                };
                let before = foreign();
                let report =
                    materializer.reconcile(&plan(vec![clear_pod("web", Active, "v1", trees()), other()]), &shelf, NOW);
                let what = format!("{path} {number} fresh={fresh}");
                match failure(&report, "web") {
                    MaterializeError::Conflict { path: found, .. } => {
                        assert_eq!(found, &sandbox.path(&format!("{path}{inside}")), "{what}");
                    }
                    error => panic!("{what}: {error}"),
                }
                assert_eq!(foreign(), before, "{what}");
                // Its own manifest did not appear, unless that is what is spoilt.
                assert!(
                    *path == "manifests/default_web.json" || !sandbox.exists("manifests/default_web.json"),
                    "{what}"
                );
                assert_eq!(sandbox.read("manifests/default_zz.json"), json("v1"), "{what}");
                // A pod that can't start gets no clear text either.
                if fresh && path.starts_with("manifests") {
                    assert!(!sandbox.listing().iter().any(|line| line.contains("canary")), "{what}");
                }
                // The same when it is to be removed: not followed, not removed.
                let _ = materializer.reconcile(&plan(vec![]), &shelf, LATER);
                let _ = materializer.reconcile(&plan(vec![]), &shelf, LATER + 100);
                // An empty directory under a name of ours can't be told from ours.
                if !(path.ends_with("tls/..7") || before.len() == 1 && before[0].contains(" 40")) {
                    assert_eq!(foreign(), before, "{what}");
                }
            }
        }
    }
}

#[test]
fn what_an_interrupted_run_left_is_removed_and_nothing_else() {
    let sandbox = SandBox::new();
    let shelf = Shelf::default().secret("s", &[("k", "K")]);
    let plan = plan(vec![clear_pod("p", Active, "v1", vec![tree("s", &["k=k"]), tree("a~b/s", &["k=k"])])]);
    fine(&sandbox.open().reconcile(&plan, &shelf, NOW));
    let clean = sandbox.listing();
    for path in [
        "manifests/.ckpt-db.new",
        "prepared/.ckpt-db.x",
        "secrets/.manifests/.ckpt-db.new",
        "secrets/.manifests/default_old.json",
        "secrets/default/p/.ckpt-db.new/..1/k",
        "secrets/default/p/a~b/.ckpt-db.new/..1/k",
        "secrets/default/p/s/..2/k",
        "secrets/default/p/s/..0/d/k",
        "secrets/default/p/s/.ckpt-db.new",
    ] {
        sandbox.write(path, "left over");
    }
    symlink("..2", sandbox.path("secrets/default/p/s/..data_tmp")).unwrap();
    symlink("..data/gone", sandbox.path("secrets/default/p/s/gone")).unwrap();
    symlink("/etc/passwd", sandbox.path("prepared/.ckpt-db.new")).unwrap();
    fs::create_dir_all(sandbox.path("secrets/default/empty/s")).unwrap();
    fs::create_dir_all(sandbox.path("configmaps/other")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        sandbox.path("manifests/.ckpt-db.fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    fine(&sandbox.open().reconcile(&plan, &shelf, NOW));
    assert_eq!(sandbox.listing(), clean);
}

#[test]
fn a_pod_that_fails_keeps_what_it_had() {
    let sandbox = SandBox::new();
    let materializer = sandbox.open();
    let shelf = || Shelf::default().secret("s", &[("k", "canary")]).secret("t", &[("k", "canary")]);
    fine(&materializer.reconcile(&plan(vec![pod("a", Active, "v1", vec![tree("s", &["k=k"])])]), &shelf(), NOW));
    let before = sandbox.identities();
    #[rustfmt::skip]
    let rows = [
        ("missing",  "k", r#"tree "missing" can't be written: Secret default/missing is not stored"#),
        ("forbidden", "k", r#"tree "forbidden" can't be written: Secret default/forbidden: the API server does not let this node read it"#),
        ("sealed",   "k", r#"tree "sealed" can't be written: Secret default/sealed is sealed and no key at hand opens it"#),
        ("unkeyed",  "k", r#"tree "unkeyed" can't be written: Secret default/unkeyed is not stored: no node key yet"#),
        ("damaged",  "k", r#"tree "damaged" can't be written: Secret default/damaged is damaged in the store"#),
        ("t",        "x", r#"tree "t" can't be written: Secret default/t has no key "x""#),
    ];
    for (secret, key, want) in rows {
        let files = ["a:before".to_owned(), format!("k={key}")];
        let files: Vec<_> = files.iter().map(String::as_str).collect();
        let pods = vec![pod("a", Active, "v2", vec![tree(secret, &files)]), pod("b", Active, "v1", vec![])];
        let report = materializer.reconcile(&plan(pods), &shelf(), NOW);
        assert_eq!(failure(&report, "a").to_string(), want);
        assert!(report.problems.is_empty() && sandbox.exists("manifests/default_b.json"));
        assert!(!sandbox.exists(&format!("secrets/default/a/{secret}")), "no empty directory to be mounted: {secret}");
        let files = |lines: Vec<String>| {
            lines.into_iter().filter(|l| !l.contains(" 40") && !l.contains("default_b")).collect::<Vec<_>>()
        };
        assert_eq!(files(sandbox.identities()), files(before.clone()), "{secret}");
    }
    // An existing tree whose object is gone stays whole.
    let report =
        materializer.reconcile(&plan(vec![pod("a", Active, "v2", vec![tree("s", &["k=k", "l=l"])])]), &shelf(), NOW);
    assert!(matches!(failure(&report, "a"), MaterializeError::Contents { .. }));
    assert_eq!(sandbox.read("secrets/default/a/s/k"), "canary");
    assert_eq!(sandbox.read("manifests/default_a.json"), json("v1"));
    assert!(!sandbox.exists("secrets/default/a/s/..2"), "what was begun is not left in clear");
}

#[test]
fn renderings_that_make_no_sense_are_refused() {
    let sandbox = SandBox::new();
    let materializer = sandbox.open();
    let mut escaping = pod("a", Active, "v1", vec![]);
    escaping.rendering.pod.namespace = "../x".to_owned();
    let rows = [
        (escaping, "a name that the API server would refuse"),
        (pod(&"b".repeat(245), Active, "v1", vec![]), "longer than 255"),
        (pod("c", Active, "v1", vec![tree("../c", &["k:v"])]), "not one or two plain file names"),
        (pod("d", Active, "v1", vec![tree("s", &["../k:v"])]), "not made of plain file names"),
        (pod("e", Active, "v1", vec![tree("s", &["k:v"]), tree("s", &["l:v"])]), "stands twice in one pod"),
        (pod("z", Active, "v1", vec![]), ""),
        (pod("z", Active, "v2", vec![]), "stands twice in the plan"),
    ];
    let (pods, wants): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    let report = materializer.reconcile(&plan(pods), &Shelf::default(), NOW);
    for ((_, outcome), want) in report.outcomes.iter().zip(wants) {
        match outcome {
            PodOutcome::Published { .. } => assert_eq!(want, ""),
            PodOutcome::Failed(error) => assert!(!want.is_empty() && error.to_string().contains(want), "{error}"),
        }
    }
    assert_eq!(sandbox.read("manifests/default_z.json"), json("v1"));
    assert_eq!(fs::read_dir(sandbox.path("manifests")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(sandbox.path("secrets")).unwrap().count(), 0);
}

#[test]
fn without_memory_nothing_secret_is_written_and_the_rest_is() {
    let sandbox = SandBox::new();
    // With a file in it nothing is ever mounted over it, whoever runs this test.
    sandbox.write("secrets/note", "x");
    let owners = if is_root() { Owners::Root } else { Owners::Unchanged };
    let open = |policy| Materializer::open(sandbox.roots(), policy, owners).unwrap();
    let materializer = open(SecretRootPolicy::RequireMemory);
    if materializer.medium() == Ok(Medium::Memory) {
        return; // The temporary directory itself is in memory.
    }
    let shelf = Shelf::default().secret("s", &[("k", "canary")]);
    let pods = || {
        plan(vec![
            pod("tree", Active, "v1", vec![config("c", &["k:v"]), tree("s", &["k=k"])]),
            clear_pod("env", Active, "v1", vec![]),
            pod("plain", Active, "v1", vec![config("c", &["k:v"])]),
        ])
    };
    let report = materializer.reconcile(&pods(), &shelf, NOW);
    for name in ["tree", "env"] {
        let error = failure(&report, name).to_string();
        assert!(error.contains(".mount on the node, name a directory"), "{error}");
    }
    assert_eq!(sandbox.read("manifests/default_plain.json"), json("v1"));
    assert_eq!(fs::read_dir(sandbox.path("secrets")).unwrap().count(), 1);
    assert!(!sandbox.listing().iter().any(|line| line.contains("canary")));

    assert!(matches!(
        Materializer::open(sandbox.roots(), SecretRootPolicy::AllowDisk, owners).err(),
        Some(MaterializeError::InUse { .. })
    ));
    drop(materializer);
    let materializer = open(SecretRootPolicy::AllowDisk);
    assert_eq!(materializer.medium(), Ok(Medium::Disk));
    fine(&materializer.reconcile(&pods(), &shelf, NOW));
}

#[test]
fn roots_must_be_usable_and_distinct() {
    let sandbox = SandBox::new();
    let open = |roots| Materializer::open(roots, SecretRootPolicy::AllowDisk, Owners::Unchanged).map(|_| ());
    fs::create_dir(sandbox.path("real")).unwrap();
    symlink(sandbox.path("real"), sandbox.path("alias")).unwrap();
    let same = Roots { secrets: sandbox.path("real"), configmaps: sandbox.path("alias"), ..sandbox.roots() };
    assert!(matches!(open(same), Err(MaterializeError::SameRoot { .. })));
    sandbox.write("file", "x");
    let error = open(Roots { manifests: sandbox.path("file"), ..sandbox.roots() }).unwrap_err();
    assert!(matches!(&error, MaterializeError::Io { path, .. } if *path == sandbox.path("file")), "{error}");
    // A root of trees that can't be used is an error of the pods that need it.
    let roots = Roots { configmaps: sandbox.path("file/below"), ..sandbox.roots() };
    let materializer = Materializer::open(roots, SecretRootPolicy::AllowDisk, Owners::Unchanged).unwrap();
    let pods = vec![pod("a", Active, "v1", vec![config("c", &["k:v"])]), pod("b", Active, "v1", vec![])];
    let report = materializer.reconcile(&plan(pods), &Shelf::default(), NOW);
    assert!(matches!(failure(&report, "a"), MaterializeError::Io { .. }));
    assert!(sandbox.exists("manifests/default_b.json"));
}
