//! Directories to play in, stored objects and short plans, for the tests of this room.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use data_encoding::BASE64;

use super::gate::Gate;
use super::*;
use crate::checkpoint::lookup::Lookup;
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::checkpoint::rendering::{Activity, Contents, Manifest, PlannedPod, Rendering, Tree, TreeFile};

pub(super) const NOW: u64 = 1_700_000_000;
pub(super) const LATER: u64 = NOW + 90;

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
        self.open_as(SeLinux::Off, gate)
    }

    pub(super) fn open_as(&self, selinux: SeLinux, gate: &Gate) -> Materializer {
        let owners = if is_root() { Owners::Root } else { Owners::Unchanged };
        Materializer::open_with(self.roots(), SecretRootPolicy::AllowDisk, owners, selinux, gate).unwrap()
    }

    pub(super) fn write(&self, below: &str, text: &str) {
        fs::create_dir_all(self.path(below).parent().unwrap()).unwrap();
        fs::write(self.path(below), text).unwrap();
    }

    pub(super) fn read(&self, below: &str) -> String {
        fs::read_to_string(self.path(below)).unwrap_or_else(|error| format!("{below}: {}", error.kind()))
    }

    pub(super) fn exists(&self, below: &str) -> bool {
        fs::symlink_metadata(self.path(below)).is_ok()
    }

    /// Every entry below: `path kind mode uid gid contents`, links not followed.
    pub(super) fn listing(&self) -> Vec<String> {
        self.list(false)
    }

    /// The same, and what a rewrite would change.
    pub(super) fn identities(&self) -> Vec<String> {
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

    pub(super) fn opened(&self) -> Vec<String> {
        std::mem::take(&mut self.opened.lock().unwrap())
    }
}

impl Objects for Shelf {
    fn get(&self, key: &ObjectKey) -> Lookup {
        self.opened.lock().unwrap().push(key.name().to_owned());
        match key.name() {
            "forbidden" => Lookup::Forbidden,
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

pub(super) fn plan(pods: Vec<PlannedPod>) -> Committed<Plan> {
    Committed::pretended(Plan { pods, ..Plan::default() })
}

pub(super) fn outcomes(report: &Report) -> Vec<(&str, &PodOutcome)> {
    report.outcomes.iter().map(|(pod, outcome)| (pod.name.as_str(), outcome)).collect()
}

#[track_caller]
pub(super) fn fine(report: &Report) {
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    for (pod, outcome) in &report.outcomes {
        assert!(matches!(outcome, PodOutcome::Published { .. }), "{pod}: {outcome:?}");
    }
}

#[track_caller]
pub(super) fn failure<'a>(report: &'a Report, pod: &str) -> &'a MaterializeError {
    match report.outcomes.iter().find(|(name, _)| name.name == pod) {
        Some((_, PodOutcome::Failed(error))) => error,
        other => panic!("{pod}: {other:?}"),
    }
}

pub(super) const PUBLISHED: fn(Published, Published) -> PodOutcome =
    |trees, manifest| PodOutcome::Published { trees, manifest };
