//! `kill -9` at every system call that changes a file: no reader sees a part, and the next run completes the work.
//!
//! A first run under `strace` counts the calls; then, from the same state, the program is killed at one of them after the
//! other (the call itself is not carried out). A sample of them by default, other ones each time; all by
//! `CKPT_DB_KILLS=all cargo test --test kill`. This shows the death of the process, not the loss of power: what was written stays written.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use common::program::{
    CONFIGMAPS, Entry, Listing, MANIFESTS, MARKER, Node, PREPARED, SECRETS, STORE, What, assert_same, copy, listing,
};
use common::strace;

#[test]
fn the_first_run() {
    let node = Node::new();
    node.copy_example();
    campaign("the first run", &node, &["--generate-node-key"]);
}

#[test]
fn a_run_that_changes_secrets_and_removes_a_pod() {
    let node = Node::with_example();
    let new = second_source(&node);
    put_source(&node, &new);
    campaign("a changed source", &node, &[]);
}

/// A pod is withdrawn to the prepared ones, another mounts less, and the time of removed trees has come.
#[test]
fn a_run_that_withdraws_and_cleans_up() {
    let node = Node::with_example();
    put_source(&node, &second_source(&node));
    node.run_source().expect(0);
    let mut third = read_source(&node);
    edit(
        &mut third,
        "statefulset.yaml",
        "  annotations:\n    checkpointer.alpha.coreos.com/checkpoint: \"true\"\n",
        "",
    );
    let mount = "      readOnly: true\n    - mountPath: /etc/assets\n      name: assets\n      readOnly: true\n";
    edit(&mut third, "features.yaml", mount, "      readOnly: true\n");
    edit(
        &mut third,
        "features.yaml",
        "  - configMap:\n      defaultMode: 420\n      name: orders-assets\n    name: assets\n",
        "",
    );
    put_source(&node, &third);
    let markers: Vec<_> = node.rendered().into_keys().filter(|path| path.ends_with(MARKER)).collect();
    assert!(!markers.is_empty());
    for marker in markers {
        fs::write(node.at("etc").join(marker), "1\n").unwrap();
    }
    campaign("a clean-up", &node, &[]);
}

/// Secrets of files and of an environment, keys that come and go, a ConfigMap, a manifest, an activation, a removed pod.
fn second_source(node: &Node) -> BTreeMap<String, String> {
    let mut source = read_source(node);
    source.remove("daemonset.yaml").unwrap();
    let old = "  password: ZXhhbXBsZSRwYXNzd29yZC1ub3QtYS1yZWFsLW9uZQ==\n";
    edit(&mut source, "features.yaml", old, "  password: YW5vdGhlci1wYXNzd29yZC1ub3QtYS1yZWFsLW9uZQ==\n");
    let old = "  tls.key: RVhBTVBMRSBPTkxZOiB0aGlzIGlzIG5vdCBhIGtleQo=\n";
    edit(&mut source, "features.yaml", old, "  tls.pem: RVhBTVBMRSBPTkxZOiBub3IgaXMgdGhpcyBvbmUK\n");
    edit(&mut source, "features.yaml", "    Thank you for your order.\n", "    Thank you for both your orders.\n");
    edit(
        &mut source,
        "deployment.yaml",
        "  default.conf: |\n",
        "  other.conf: |\n    # nothing\n  default.conf: |\n    # new\n",
    );
    edit(&mut source, "deployment.yaml", "  - image: nginx:1.29.1\n", "  - image: nginx:1.29.2\n");
    let metadata = "metadata:\n  creationTimestamp: \"2026-02-19T17:45:30Z\"\n";
    let annotated = "metadata:\n  annotations:\n    checkpointer.alpha.coreos.com/checkpoint: \"true\"\n  creationTimestamp: \"2026-02-19T17:45:30Z\"\n";
    edit(&mut source, "statefulset.yaml", metadata, annotated);
    source
}

fn read_source(node: &Node) -> BTreeMap<String, String> {
    let entries = fs::read_dir(node.source()).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())).collect()
}

fn put_source(node: &Node, source: &BTreeMap<String, String>) {
    fs::remove_dir_all(node.source()).unwrap();
    fs::create_dir(node.source()).unwrap();
    for (name, text) in source {
        fs::write(node.source().join(name), text).unwrap();
    }
}

fn edit(source: &mut BTreeMap<String, String>, file: &str, from: &str, to: &str) {
    let text = source.get_mut(file).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{file} has this once: {from}");
    *text = text.replace(from, to);
}

/// Kills `run --once --manifests SOURCE`, begun in the node's present state, at each of the chosen calls.
fn campaign(name: &str, node: &Node, options: &[&str]) {
    if !strace::works() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let start = scratch.path().join("start");
    if node.root().exists() {
        copy(&node.root(), &start);
    }
    let begin_anew = || {
        if node.root().exists() {
            fs::remove_dir_all(node.root()).unwrap();
        }
        if start.exists() {
            copy(&start, &node.root());
        }
    };
    let run = || {
        let mut command = node.command("run", &["--once", "--manifests"]);
        command.arg(node.source()).args(options);
        command
    };

    let old = State::of(node);
    let log = scratch.path().join("log");
    let traced = strace::run(&log, &strace::ALONE, &run());
    assert_eq!(traced.code(), Some(0), "{name}: the undisturbed run");
    let points = strace::points(&fs::read_to_string(&log).unwrap());
    let new = State::of(node);
    let files = files(node);
    assert!(old.seen != new.seen && old.stored != new.stored, "{name}: it changes something");

    // Files are written for all pods together before they get their names: those calls are fewer, and matter most.
    let names: Vec<_> = points.iter().filter(|(call, _)| call.starts_with("rename")).cloned().collect();
    let mut chosen = strace::choose(&points);
    let more: Vec<_> = strace::choose(&names).into_iter().filter(|name| !chosen.contains(name)).collect();
    chosen.extend(more);
    let mut tally: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut halfway, mut told) = (0, 0);
    for (call, number) in &chosen {
        let what = format!("{name}, killed at {call} {number}");
        begin_anew();
        let inject = format!("inject={call}:signal=SIGKILL:when={number}");
        let options = [&strace::ALONE[..], &["-e", &inject]].concat();
        let killed = strace::run(&log, &options, &run());
        assert_eq!(killed.signal(), Some(9), "{what}: it was not killed");
        let between = State::of(node);
        between.is_old_or_new(&old, &new, &what);
        halfway += usize::from(between.seen != old.seen && between.seen != new.seen);
        told += usize::from(between.stored == new.stored);

        let next = common::program::Ran::of(run()).expect(0);
        assert!(!next.stderr.contains("error"), "{what}, next run: {}", next.stderr);
        assert_same(&self::files(node), &files, &format!("{what}, then run again"));
        assert!(State::of(node) == new, "{what}, then run again");
        *tally.entry(call).or_default() += 1;
    }
    assert!(halfway > 2 && told > 2, "{name}: the kills came too early or too late to show anything");
    let tally: Vec<String> = tally.iter().map(|(call, count)| format!("{call} {count}")).collect();
    strace::say(&format!("{name}: {}; {halfway} times with a part of the files new", tally.join(", ")));
    strace::say(&format!(
        "campaign: kills, {name}: {} of {} system calls judged, 0 acknowledged changes lost, 0 partial trees",
        chosen.len(),
        points.len(),
    ));
}

/// What others see of a node, and what its store says.
#[derive(PartialEq, Eq)]
struct State {
    seen: Seen,
    stored: Stored,
}

/// Each manifest by its file name, links followed; each tree by its path: what lies behind `..data`.
#[derive(Default, PartialEq, Eq)]
struct Seen {
    active: BTreeMap<PathBuf, Vec<u8>>,
    prepared: BTreeMap<PathBuf, Vec<u8>>,
    trees: BTreeMap<PathBuf, Listing>,
}

/// The dump; empty without a store.
#[derive(PartialEq, Eq)]
struct Stored(Vec<serde_json::Value>);

impl State {
    /// Looks at the node as a kubelet and a container do, and asserts what holds at every moment.
    fn of(node: &Node) -> Self {
        let mut seen = Seen::default();
        for (directory, manifests) in [(MANIFESTS, &mut seen.active), (PREPARED, &mut seen.prepared)] {
            let Ok(entries) = fs::read_dir(node.at(directory)) else { continue };
            for path in entries.map(|entry| entry.unwrap().path()) {
                let name = PathBuf::from(path.file_name().unwrap());
                // The kubelet passes over such names.
                if name.to_string_lossy().starts_with('.') {
                    continue;
                }
                let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
                serde_json::from_slice::<serde_json::Value>(&bytes).expect("a manifest is whole");
                manifests.insert(name, bytes);
            }
        }
        for root in [SECRETS, CONFIGMAPS].map(|path| node.at(path)) {
            collect_trees(&root, &mut seen.trees);
        }
        let stored =
            if node.at(STORE).exists() { node.dump()["items"].as_array().unwrap().clone() } else { Vec::new() };
        Self { seen, stored: Stored(stored) }
    }

    fn is_old_or_new(&self, old: &Self, new: &Self, what: &str) {
        assert!(self.stored == old.stored || self.stored == new.stored, "{what}: the store holds a mixture");
        each_is_old_or_new(&self.seen.active, &old.seen.active, &new.seen.active, what);
        each_is_old_or_new(&self.seen.trees, &old.seen.trees, &new.seen.trees, what);
        // A manifest is prepared before one rename activates it; while it is, the pod's own old or new one lies there.
        for (name, manifest) in &self.seen.prepared {
            let known = [&old.seen.active, &old.seen.prepared, &new.seen.active, &new.seen.prepared];
            let known = known.iter().any(|all| all.get(name) == Some(manifest));
            assert!(known, "{what}: prepared {name:?} is neither old nor new");
        }
        if self.seen != old.seen {
            // Rendering what an earlier commit left takes nothing new; everything else has to be durable first.
            let cleaned_up = old.stored == self.stored && is_part_of(&self.seen, &old.seen);
            assert!(cleaned_up || self.stored == new.stored, "{what}: rendered before it was durable");
        }
        for (path, manifest) in self.seen.active.iter().chain(&self.seen.prepared) {
            let is_new = ![&old.seen.active, &old.seen.prepared].iter().any(|all| all.get(path) == Some(manifest));
            for tree in mounted(manifest) {
                let found = self.seen.trees.get(&tree);
                assert!(found.is_some(), "{what}: {path:?} mounts {tree:?}, which is not there");
                assert!(!is_new || found == new.seen.trees.get(&tree), "{what}: {path:?} came before {tree:?}");
            }
        }
    }
}

/// Nothing is there that is neither old nor new, and what is both is there.
fn each_is_old_or_new<T: PartialEq>(
    now: &BTreeMap<PathBuf, T>,
    old: &BTreeMap<PathBuf, T>,
    new: &BTreeMap<PathBuf, T>,
    what: &str,
) {
    let all: BTreeSet<&PathBuf> = now.keys().chain(old.keys()).chain(new.keys()).collect();
    for path in all {
        let found = now.get(path);
        assert!(found == old.get(path) || found == new.get(path), "{what}: {path:?} is neither old nor new");
    }
}

/// Whether nothing was added or replaced.
fn is_part_of(now: &Seen, old: &Seen) -> bool {
    now.active.iter().all(|(name, manifest)| old.active.get(name) == Some(manifest))
        && now.prepared.iter().all(|(name, manifest)| old.prepared.get(name) == Some(manifest))
        && now.trees.iter().all(|(path, tree)| old.trees.get(path) == Some(tree))
}

/// The trees that a manifest mounts: its hostPath volumes below our roots.
fn mounted(manifest: &[u8]) -> Vec<PathBuf> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
    let volumes = manifest["spec"]["volumes"].as_array().unwrap();
    let paths = volumes.iter().filter_map(|volume| volume["hostPath"]["path"].as_str()).map(PathBuf::from);
    paths
        .filter(|path| path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("checkpoint-")))
        .collect()
}

/// Finds the trees below `top`: directories with a `..data`, at names that are not temporary.
fn collect_trees(top: &Path, trees: &mut BTreeMap<PathBuf, Listing>) {
    let Ok(entries) = fs::read_dir(top) else { return };
    for entry in entries {
        let entry = entry.unwrap();
        if !entry.file_type().unwrap().is_dir() || entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        if fs::symlink_metadata(path.join("..data")).is_ok() {
            let tree = fs::canonicalize(path.join("..data")).unwrap_or_else(|error| panic!("{path:?}/..data: {error}"));
            assert_eq!(tree.parent(), Some(fs::canonicalize(&path).unwrap().as_path()));
            check_names(&path, &tree);
            trees.insert(path, listing(&tree));
        } else {
            collect_trees(&path, trees);
        }
    }
}

/// What a container sees at the top of a tree are links into the generation behind `..data`, and nothing else.
fn check_names(mounted: &Path, tree: &Path) {
    let mut linked = 0;
    for (name, entry) in listing(mounted).iter().filter(|(path, _)| path.components().count() == 1) {
        if name.to_string_lossy().starts_with("..") {
            continue;
        }
        let want = Path::new("..data").join(name);
        assert!(matches!(&entry.what, What::Link(target) if *target == want), "{mounted:?}: {name:?}");
        linked += usize::from(tree.join(name).exists());
    }
    let all = listing(tree).keys().filter(|path| path.components().count() == 1).count();
    assert!(all == 0 || linked > 0, "{mounted:?}: none of its {all} files can be seen");
}

/// Every file of the node, with the contents of all that is rendered, but for the times in markers.
fn files(node: &Node) -> Listing {
    let hide = |(path, mut entry): (PathBuf, Entry)| {
        if (path.ends_with(MARKER) || path.starts_with("var"))
            && let What::File(contents) = &mut entry.what
        {
            contents.clear();
        }
        (path, entry)
    };
    listing(&node.root()).into_iter().map(hide).collect()
}
