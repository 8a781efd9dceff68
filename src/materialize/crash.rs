//! A pass is cut at each of its steps in turn: no reader may see a part of anything, and the next pass must end where an
//! uncut one ends.
//!
//! The steps of an uncut pass are counted first. Then the same pass runs once for each of them on fresh directories and
//! fails there: for good, as if the process had been killed, or once, as if the disk had been full for a moment. A
//! second property is checked on the recorded steps: at each commit point all that it makes visible has been synced.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::gate::{Cut, Gate, Script, Step, Watch};
use super::sandbox::{NOW, SandBox, Shelf, clear_pod, config, json, plan, pod, tree};
use super::*;
use crate::checkpoint::rendering::Activity::{Active, Prepared};

pub(super) fn before() -> (Committed<Plan>, Shelf) {
    let pods = vec![
        pod("changing", Active, "v1", vec![tree("s", &["a=a", "b=b"]), tree("old", &["k:v"]), config("c", &["k:v1"])]),
        pod("leaving", Active, "v1", vec![tree("s", &["a=a"]), config("a~b/c", &["k:v"])]),
        clear_pod("starting", Prepared, "v1", vec![tree("s", &["a=a"])]),
        clear_pod("stopping", Active, "v1", vec![config("c", &["k:v"])]),
        pod("forgotten", Prepared, "v1", vec![tree("s", &["a=a"])]),
    ];
    (plan(pods), Shelf::default().secret("s", &[("a", "a1"), ("b", "b1")]))
}

pub(super) fn after() -> (Committed<Plan>, Shelf) {
    let mut grouped = tree("kubernetes.io~projected/s", &["d/e/a=a", "d/b=b", "k:v"]);
    grouped.fs_group = Some(2000);
    let pods = vec![
        pod("starting", Active, "v1", vec![tree("s", &["a=a"])]),
        pod("changing", Active, "v2", vec![tree("s", &["b=b", "d/c=a"]), config("c", &["k:v2"])]),
        clear_pod("new", Active, "v1", vec![grouped, config("c", &[])]),
        pod("stopping", Prepared, "v2", vec![config("c", &["k:v"])]),
    ];
    (plan(pods), Shelf::default().secret("s", &[("a", "a2"), ("b", "b2")]))
}

/// Fresh directories as the first plan leaves them.
pub(super) fn prepared(sandbox: SandBox) -> SandBox {
    let (plan, shelf) = before();
    assert!(sandbox.open().reconcile(&plan, &shelf, NOW).problems.is_empty());
    sandbox
}

/// One pass to the second plan, cut or not; the steps that it took.
pub(super) fn pass(sandbox: &SandBox, cut: Option<Cut>, now: u64) -> Vec<(Step, PathBuf)> {
    watched_pass(sandbox, cut, now, None)
}

/// The same, with somebody who looks before each step.
pub(super) fn watched_pass(
    sandbox: &SandBox,
    cut: Option<Cut>,
    now: u64,
    watch: Option<Watch>,
) -> Vec<(Step, PathBuf)> {
    let script = Arc::new(Mutex::new(Script::default()));
    // Opening makes no step: the roots are there.
    let materializer = sandbox.open_with(&Gate { script: Some(script.clone()) });
    {
        let mut script = script.lock().unwrap();
        (script.cut, script.watch) = (cut, watch);
    }
    let (plan, shelf) = after();
    let _ = materializer.reconcile(&plan, &shelf, now);
    std::mem::take(&mut script.lock().unwrap().log)
}

#[test]
fn a_kill_at_any_step_leaves_whole_files_and_the_next_pass_ends_the_same() {
    let (steps, ends) = uncut();
    for step in 0..steps {
        let sandbox = prepared(SandBox::fast());
        pass(&sandbox, Some(Cut::From(step)), NOW);
        all_is_whole(&sandbox, &format!("killed at {step}"));
        pass(&sandbox, None, NOW);
        assert_eq!(sandbox.listing(), ends[0], "killed at {step}");
        pass(&sandbox, None, NOW + 90);
        assert_eq!(sandbox.listing(), ends[1], "killed at {step}");
    }
}

#[test]
fn two_kills_are_no_worse_than_one() {
    let (steps, ends) = uncut();
    for step in (0..steps).step_by(3) {
        let sandbox = prepared(SandBox::fast());
        pass(&sandbox, Some(Cut::From(step)), NOW);
        pass(&sandbox, Some(Cut::From(step / 2)), NOW);
        all_is_whole(&sandbox, &format!("killed at {step} and {}", step / 2));
        pass(&sandbox, None, NOW);
        assert_eq!(sandbox.listing(), ends[0], "killed at {step} and {}", step / 2);
    }
}

#[test]
fn a_failure_of_any_step_leaves_whole_files_and_later_passes_end_the_same() {
    let (steps, ends) = uncut();
    for step in 0..steps {
        let sandbox = prepared(SandBox::fast());
        pass(&sandbox, Some(Cut::Only(step)), NOW);
        all_is_whole(&sandbox, &format!("failed at {step}"));
        pass(&sandbox, None, NOW);
        all_is_whole(&sandbox, &format!("after failure at {step}"));
        // What waits for 90 s may differ where the failure was; what is left in the end may not.
        pass(&sandbox, None, NOW + 90);
        pass(&sandbox, None, NOW + 180);
        assert_eq!(sandbox.listing(), ends[1], "failed at {step}");
    }
}

#[test]
fn what_becomes_visible_is_durable() {
    let sandbox = prepared(SandBox::fast());
    let mut commits = 0;
    for (now, log) in [(NOW, pass(&sandbox, None, NOW)), (NOW + 90, pass(&sandbox, None, NOW + 90))] {
        let manifests = [sandbox.path("manifests"), sandbox.path("prepared")];
        let of_manifests = |path: &PathBuf| manifests.iter().any(|dir| path.starts_with(dir));
        // Contents, owners and modes that have not been synced; and names whose directory has not been.
        let mut contents: BTreeSet<PathBuf> = BTreeSet::new();
        let mut names: BTreeSet<PathBuf> = BTreeSet::new();
        for (number, (step, path)) in log.iter().enumerate() {
            let what = format!("{now} {number} {step:?} {}", path.display());
            match step {
                Step::Rename => {
                    // What the new name shows is durable: a manifest shows all that it mounts, so that nothing at all may be
                    // open; a tree what is in it. Files that wait for their own syncs beside it are no part of it.
                    let shown = match path.ends_with("..data") {
                        true => path.parent().unwrap().to_owned(),
                        false => path.with_file_name(".ckpt-db.new"),
                    };
                    let shows = |open: &PathBuf| {
                        of_manifests(path)
                            || open.starts_with(&shown)
                            || open.to_str().unwrap().starts_with(shown.to_str().unwrap())
                    };
                    // The temporary name may be lost with the new one, and no manifest mounts a tree of a temporary name, which
                    // another pod's may have. Manifests need no order among themselves.
                    let is_temporary = |name: &PathBuf| {
                        let text = name.file_name().unwrap().to_str().unwrap();
                        let beside = name.parent() == path.parent();
                        text.starts_with(".ckpt-db.new") && (beside || of_manifests(path))
                            || beside && text == "..data_tmp"
                    };
                    let open: Vec<_> = contents.iter().filter(|open| shows(open)).collect();
                    assert!(open.is_empty(), "{what}: {open:?}");
                    let open: Vec<_> = names.iter().filter(|name| shows(name)).collect();
                    let open: Vec<_> =
                        open.into_iter().filter(|name| !of_manifests(name) && !is_temporary(name)).collect();
                    assert!(open.is_empty(), "{what}: {open:?}");
                    names.insert(path.clone());
                    // The name that it had in the directory of prepared manifests.
                    names.extend(of_manifests(path).then(|| sandbox.path("prepared/..")));
                    commits += 1;
                }
                Step::Unlink => {
                    // A tree goes after its manifest has gone for good; a manifest after its marker has come.
                    if path.ends_with("..data") {
                        assert!(!names.iter().any(of_manifests), "{what}: {names:?}");
                    }
                    if of_manifests(path) {
                        assert!(
                            contents.is_empty() && names.iter().all(of_manifests),
                            "{what}: {contents:?} {names:?}"
                        );
                    }
                    contents.remove(path);
                    names.insert(path.clone());
                    commits += 1;
                }
                Step::RemoveDir => {
                    names.retain(|name| !name.starts_with(path));
                    names.insert(path.clone());
                }
                Step::MakeDir | Step::MakeLink => drop(names.insert(path.clone())),
                Step::Create => {
                    contents.insert(path.clone());
                    names.insert(path.clone());
                }
                Step::Write | Step::SetAttr => drop(contents.insert(path.clone())),
                // What a power cut takes is set again; see `selinux`.
                Step::Label => {}
                Step::SyncFile => drop(contents.remove(path)),
                Step::SyncDir => {
                    contents.remove(path);
                    names.retain(|name| name.parent() != Some(path));
                }
            }
        }
        assert!(contents.is_empty() && names.is_empty(), "{now}: never synced: {contents:?} {names:?}");
        // What must go is gone for good before anything new is begun.
        let first_of =
            |wanted: &dyn Fn(&Step, &PathBuf) -> bool| log.iter().position(|(step, path)| wanted(step, path));
        let begun = first_of(&|step, _| *step == Step::MakeDir);
        let gone = first_of(&|step, path| *step == Step::SyncDir && manifests.contains(path));
        assert!(begun.is_none() || gone < begun, "{now}: {gone:?} {begun:?}");
    }
    assert!(commits > 10);
}

/// How many steps the pass takes, and what there is after it and after the waiting time.
pub(super) fn uncut() -> (usize, [Vec<String>; 2]) {
    let sandbox = prepared(SandBox::fast());
    let steps = pass(&sandbox, None, NOW).len();
    let first = sandbox.listing();
    pass(&sandbox, None, NOW + 90);
    assert!(steps > 100, "{steps}");
    (steps, [first, sandbox.listing()])
}

/// A manifest, what it was, what it is to be, and the trees that must be there first.
type Row = (&'static str, Option<&'static str>, Option<&'static str>, &'static [&'static str]);

/// The contents of a tree, as whoever reads it sees them.
type Seen = BTreeMap<String, String>;

pub(super) fn all_is_whole(sandbox: &SandBox, what: &str) {
    let seen = |files: &[(&str, &str)]| -> Option<Seen> {
        Some(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    };
    // tree, what it was, what it is to be
    #[rustfmt::skip]
    let trees = [
        ("secrets/default/changing/s",      seen(&[("a", "a1"), ("b", "b1")]), seen(&[("b", "b2"), ("d/c", "a2")])),
        ("secrets/default/changing/old",    seen(&[("k", "v")]),  seen(&[("k", "v")])),
        ("configmaps/default/changing/c",   seen(&[("k", "v1")]), seen(&[("k", "v2")])),
        ("secrets/default/leaving/s",       seen(&[("a", "a1")]), seen(&[("a", "a1")])),
        ("configmaps/default/leaving/a~b/c", seen(&[("k", "v")]), seen(&[("k", "v")])),
        ("secrets/default/starting/s",      seen(&[("a", "a1")]), seen(&[("a", "a2")])),
        ("configmaps/default/stopping/c",   seen(&[("k", "v")]),  seen(&[("k", "v")])),
        ("secrets/default/forgotten/s",     seen(&[("a", "a1")]), None),
        ("secrets/default/new/kubernetes.io~projected/s", None,
            seen(&[("d/b", "b2"), ("d/e/a", "a2"), ("k", "v")])),
        ("configmaps/default/new/c",        None, seen(&[])),
    ];
    let mut now_is: BTreeMap<&str, Option<Seen>> = BTreeMap::new();
    for (path, old, new) in &trees {
        let mounted = sandbox.path(path);
        let found = read_tree(&mounted);
        // Trees that are being removed may have lost `..data`; with it, they are whole.
        assert!(found == *old || found == *new, "{what}: {path}: {found:?}");
        if old.is_none() {
            assert_eq!(mounted.exists(), found.is_some(), "{what}: {path} is there before its contents");
        }
        now_is.insert(path, found);
    }
    #[rustfmt::skip]
    let manifests: [Row; 5] = [
        ("changing",  Some("v1"), Some("v2"), &["secrets/default/changing/s", "configmaps/default/changing/c"]),
        ("leaving",   Some("v1"), None,       &[]),
        ("starting",  None,       Some("v1"), &["secrets/default/starting/s"]),
        ("stopping",  Some("v1"), None,       &[]),
        ("new",       None,       Some("v1"), &["secrets/default/new/kubernetes.io~projected/s", "configmaps/default/new/c"]),
    ];
    for (name, old, new, needs) in manifests {
        let found = fs::read_to_string(sandbox.path(&format!("manifests/default_{name}.json"))).ok();
        let (old, new) = (old.map(json), new.map(json));
        assert!(found == old || found == new, "{what}: {name}: {found:?}");
        if found == new && found.is_some() {
            for (path, _, new) in trees.iter().filter(|(path, ..)| needs.contains(path)) {
                assert_eq!(&now_is[path], new, "{what}: {name} is there before {path}");
            }
        }
        // Whatever runs or may still be running has its trees.
        if name == "leaving" {
            assert!(now_is["secrets/default/leaving/s"].is_some(), "{what}: a tree went before the containers");
        }
    }
    assert!(now_is["secrets/default/changing/old"].is_some(), "{what}: a tree went before the containers");
}

fn read_tree(mounted: &Path) -> Option<Seen> {
    fn walk(top: &Path, dir: &Path, seen: &mut Seen) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(top, &path, seen);
            } else {
                let shown = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
                seen.insert(shown, fs::read_to_string(&path).unwrap());
            }
        }
    }
    let data = mounted.join("..data");
    data.exists().then(|| {
        let mut seen = Seen::new();
        walk(&data, &data, &mut seen);
        seen
    })
}
