//! What a materializer does to directories, seen from outside; and the sandbox that these and the crash tests use.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use data_encoding::BASE64;

use super::gate::Gate;
use super::*;
use crate::checkpoint::lookup::Lookup;
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::checkpoint::rendering::{Activity, Contents, Manifest, PlannedPod, Rendering, Tree, TreeFile};

pub(super) const NOW: u64 = 1_700_000_000;
const LATER: u64 = NOW + 90;

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Directories to play in.
pub(super) struct SandBox {
    dir: tempfile::TempDir,
}

impl SandBox {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// In memory where there is a tmpfs at hand, which is faster.
    pub(super) fn fast() -> Self {
        tempfile::tempdir_in("/dev/shm").map_or_else(|_| Self::new(), |dir| Self { dir })
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub(super) fn roots(&self) -> Roots {
        Roots {
            manifests: self.path("manifests"),
            prepared: self.path("prepared"),
            secrets: self.path("secrets"),
            configmaps: self.path("configmaps"),
        }
    }

    pub(super) fn open(&self) -> Materializer {
        self.open_with(&Gate::default())
    }

    pub(super) fn open_with(&self, gate: &Gate) -> Materializer {
        let owners = if is_root() { Owners::Root } else { Owners::Unchanged };
        Materializer::open_with(self.roots(), SecretRootPolicy::AllowDisk, owners, gate).unwrap()
    }

    fn write(&self, below: &str, text: &str) {
        fs::create_dir_all(self.path(below).parent().unwrap()).unwrap();
        fs::write(self.path(below), text).unwrap();
    }

    fn read(&self, below: &str) -> String {
        fs::read_to_string(self.path(below)).unwrap_or_else(|error| format!("{below}: {}", error.kind()))
    }

    fn exists(&self, below: &str) -> bool {
        fs::symlink_metadata(self.path(below)).is_ok()
    }

    /// Every entry below: `path kind mode uid gid contents`, links not followed.
    pub(super) fn listing(&self) -> Vec<String> {
        self.list(false)
    }

    /// The same, and what a rewrite would change.
    fn identities(&self) -> Vec<String> {
        self.list(true)
    }

    fn list(&self, identity: bool) -> Vec<String> {
        fn walk(top: &Path, dir: &Path, identity: bool, lines: &mut Vec<String>) {
            let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
            paths.sort();
            for path in paths {
                let meta = fs::symlink_metadata(&path).unwrap();
                let contents = if meta.is_symlink() {
                    format!("-> {}", fs::read_link(&path).unwrap().display())
                } else if meta.is_file() {
                    format!("{:?}", String::from_utf8_lossy(&fs::read(&path).unwrap()))
                } else {
                    String::new()
                };
                let id = if identity {
                    format!(" {} {} {}", meta.ino(), meta.mtime(), meta.mtime_nsec())
                } else {
                    String::new()
                };
                let shown = path.strip_prefix(top).unwrap().display();
                let contents = contents.replace(top.to_str().unwrap(), "TOP");
                lines.push(format!("{shown} {:o} {} {}{id} {contents}", meta.mode(), meta.uid(), meta.gid()));
                if meta.is_dir() {
                    walk(top, &path, identity, lines);
                }
            }
        }
        let mut lines = Vec::new();
        walk(self.dir.path(), self.dir.path(), identity, &mut lines);
        lines
    }
}

/// Stored objects, and how often each was opened.
#[derive(Default)]
pub(super) struct Shelf {
    bodies: BTreeMap<ObjectKey, String>,
    opened: Mutex<Vec<String>>,
}

impl Shelf {
    pub(super) fn secret(mut self, name: &str, data: &[(&str, &str)]) -> Self {
        let data: BTreeMap<_, _> = data.iter().map(|(key, value)| (key, BASE64.encode(value.as_bytes()))).collect();
        let body = serde_json::json!({ "data": data }).to_string();
        self.bodies.insert(ObjectKey::new(Kind::Secret, "default", name).unwrap(), body);
        self
    }

    fn opened(&self) -> Vec<String> {
        std::mem::take(&mut self.opened.lock().unwrap())
    }
}

impl Objects for Shelf {
    fn get(&self, key: &ObjectKey) -> Lookup {
        self.opened.lock().unwrap().push(key.name().to_owned());
        match key.name() {
            "sealed" => Lookup::Sealed,
            "unkeyed" => Lookup::NoKeyYet,
            "damaged" => Lookup::Damaged,
            _ => self.bodies.get(key).map_or(Lookup::Missing, |body| {
                Lookup::Found(Object {
                    key: key.clone(),
                    uid: String::new(),
                    resource_version: String::new(),
                    body: body.clone().into(),
                })
            }),
        }
    }
}

pub(super) fn name(name: &str) -> PodName {
    PodName { namespace: "default".to_owned(), name: name.to_owned() }
}

/// A pod whose manifest says `says`.
pub(super) fn pod(pod: &str, activity: Activity, says: &str, trees: Vec<Tree>) -> PlannedPod {
    let manifest = Manifest { json: json(says).into(), carries_secret: false };
    PlannedPod { rendering: Rendering { pod: name(pod), uid: String::new(), manifest, trees }, activity }
}

/// The same, its manifest carrying a value of a Secret.
pub(super) fn clear_pod(name: &str, activity: Activity, says: &str, trees: Vec<Tree>) -> PlannedPod {
    let mut planned = pod(name, activity, says, trees);
    planned.rendering.manifest.carries_secret = true;
    planned
}

pub(super) fn json(says: &str) -> String {
    format!(
        r#"{{"kind":"Pod","metadata":{{"annotations":{{"checkpointer.alpha.coreos.com/checkpoint-of":"x","ckpt-db.io/parent-uid":"","says":"{says}"}}}}}}"#
    ) + "\n"
}

/// A tree of the secret root: `files` are `path=key` of the Secret that the tree is named for, or `path:text`.
pub(super) fn tree(path: &str, files: &[&str]) -> Tree {
    let path: Vec<String> = path.split('/').map(str::to_owned).collect();
    let object = || ObjectKey::new(Kind::Secret, "default", path.last().unwrap()).unwrap();
    let split = |file: &str| file.split('/').map(str::to_owned).collect();
    let files = files
        .iter()
        .map(|file| {
            let (at, contents) = match file.split_once('=') {
                Some((at, key)) => (at, Contents::Data { object: object(), key: key.to_owned() }),
                None => {
                    let (at, text) = file.split_once(':').unwrap();
                    (at, Contents::Inline(text.as_bytes().to_vec()))
                }
            };
            TreeFile { path: split(at), mode: 0o644, contents }
        })
        .collect();
    Tree { root: TreeRoot::Secrets, path, files, fs_group: None }
}

/// The same below the ConfigMap root.
pub(super) fn config(path: &str, files: &[&str]) -> Tree {
    Tree { root: TreeRoot::ConfigMaps, ..tree(path, files) }
}

pub(super) fn plan(pods: Vec<PlannedPod>) -> Plan {
    Plan { pods }
}

fn outcomes(report: &Report) -> Vec<(&str, &PodOutcome)> {
    report.outcomes.iter().map(|(pod, outcome)| (pod.name.as_str(), outcome)).collect()
}

#[track_caller]
fn fine(report: &Report) {
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    for (pod, outcome) in &report.outcomes {
        assert!(matches!(outcome, PodOutcome::Published { .. }), "{pod}: {outcome:?}");
    }
}

#[track_caller]
fn failure<'a>(report: &'a Report, pod: &str) -> &'a MaterializeError {
    match report.outcomes.iter().find(|(name, _)| name.name == pod) {
        Some((_, PodOutcome::Failed(error))) => error,
        other => panic!("{pod}: {other:?}"),
    }
}

const PUBLISHED: fn(Published, Published) -> PodOutcome = |trees, manifest| PodOutcome::Published { trees, manifest };

use Activity::{Active, Prepared};
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
    let mut run = |files: &[&str], data: &[(&str, &str)]| {
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
        ("secrets/default/p/s/..3", 0o500, PUBLISHED(Replaced, Unchanged), 4),
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
    let mut run = |activity, says: &str| {
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
    assert_eq!(sandbox.read("secrets/default/a/.ckpt-db.remove-after"), format!("{LATER}\n"));
    assert_eq!(report.waiting, [waiting(LATER), waiting(LATER)]);
    let removed: Vec<_> = report.removed.iter().map(|r| (r.pod.name.as_str(), r.files)).collect();
    use RemovedFiles::{ActiveManifest, PreparedManifest, Trees};
    assert_eq!(removed, [("a", ActiveManifest), ("b", PreparedManifest), ("b", Trees), ("b", Trees)]);

    let report = run(vec![], LATER - 1);
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
        ("sealed",   "k", r#"tree "sealed" can't be written: Secret default/sealed is sealed and no key at hand opens it"#),
        ("unkeyed",  "k", r#"tree "unkeyed" can't be written: Secret default/unkeyed is not stored: no node key yet"#),
        ("damaged",  "k", r#"tree "damaged" can't be written: Secret default/damaged is damaged in the store"#),
        ("t",        "x", r#"tree "t" can't be written: Secret default/t has no key "x""#),
    ];
    for (secret, key, want) in rows {
        let files = [format!("a:before"), format!("k={key}")];
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
        assert!(error.contains(".mount, or choose --secret-root-medium=disk"), "{error}");
    }
    assert_eq!(sandbox.read("manifests/default_plain.json"), json("v1"));
    assert_eq!(fs::read_dir(sandbox.path("secrets")).unwrap().count(), 1);
    assert!(!sandbox.listing().iter().any(|line| line.contains("canary")));

    let materializer = open(SecretRootPolicy::AllowDisk);
    assert_eq!(materializer.medium(), Ok(Medium::Disk));
    fine(&materializer.reconcile(&pods(), &shelf, NOW));
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
