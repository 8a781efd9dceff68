//! When a copy stops: what is said of the manifests that are active, and how long its trees outlive it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex};

use super::gate::{Cut, Gate, Script, Step};
use super::sandbox::*;
use super::*;
use crate::checkpoint::rendering::Activity::{Active, AsItIs, Prepared};
use crate::checkpoint::rendering::{PlannedPod, Tree};

const S: &str = "secrets/default/a/s/k";
const C: &str = "configmaps/default/a/c/k";
const MARKER: &str = "secrets/default/a/.ckpt-db.remove-after";

fn trees(value: &str) -> Vec<Tree> {
    let file = format!("k:{value}");
    vec![tree("s", &[&file]), config("c", &[&file])]
}

/// A manifest of the parent `uid`, whose spec is `spec`.
fn copy(uid: &str, spec: &str) -> String {
    format!(
        r#"{{"kind":"Pod","metadata":{{"annotations":{{"checkpointer.alpha.coreos.com/checkpoint-of":"a","ckpt-db.io/parent-uid":"{uid}"}}}},"spec":{spec}}}"#
    )
}

fn with_spec(mut planned: PlannedPod, spec: &str) -> PlannedPod {
    planned.rendering.manifest.json = copy("u", spec).into();
    planned
}

fn stopped(pods: Vec<PlannedPod>, stopped: &[&str]) -> Committed<Plan> {
    plan(pods).map(|plan| Plan { stopped: stopped.iter().map(|pod| name(pod)).collect(), ..plan })
}

struct Node {
    sandbox: SandBox,
}

impl Node {
    fn new() -> Self {
        Self { sandbox: SandBox::new() }
    }

    #[track_caller]
    fn run(&self, plan: &Committed<Plan>, now: u64) -> Report {
        let report = self.sandbox.open().reconcile(plan, &Shelf::default(), now);
        fine(&report);
        report
    }

    fn has_trees(&self) -> bool {
        let (s, c) = (self.sandbox.exists(S), self.sandbox.exists(C));
        assert_eq!(s, c, "both roots are treated alike");
        s
    }
}

#[test]
fn trees_outlive_the_grace_period_of_the_copy() {
    let grace = |seconds: &str| format!(r#"{{"terminationGracePeriodSeconds":{seconds}}}"#);
    #[rustfmt::skip]
    let rows = [
        // spec of the active manifest           seconds that its trees stay
        (grace("0"),                             90),
        (grace("30"),                            90),
        (grace("60"),                            90),
        (grace("61"),                            91),
        (grace("600"),                           630),
        (grace("3600"),                          3600),
        (grace("9223372036854775807"),           3600),
        (grace("-1"),                            90),
        (grace("null"),                          90),
        (grace("\"600\""),                       90),
        (grace("99999999999999999999"),          90),
        ("{}".to_owned(),                        90),
        ("7".to_owned(),                         90),
    ];
    for make in [pod, clear_pod] {
        for (spec, seconds) in &rows {
            let node = Node::new();
            node.run(&plan(vec![with_spec(make("a", Active, "", trees("v")), spec)]), NOW);
            let report = node.run(&plan(vec![]), NOW);
            let waiting = Waiting { pod: name("a"), until_unix_s: NOW + seconds };
            assert_eq!(report.waiting, [waiting.clone(), waiting], "{spec}");
            node.run(&plan(vec![]), NOW + seconds - 1);
            assert!(node.has_trees(), "{spec}");
            node.run(&plan(vec![]), NOW + seconds);
            assert!(!node.has_trees(), "{spec}");
        }
    }
}

#[test]
fn what_the_copy_was_given_counts_and_not_what_comes_after_it() {
    let long = r#"{"terminationGracePeriodSeconds":600}"#;
    // Replaced by one with other trees and a short grace period, which goes as well: the first may run still.
    let node = Node::new();
    node.run(&plan(vec![with_spec(pod("a", Active, "", trees("v")), long)]), NOW);
    let other = || vec![tree("other", &["k:v"])];
    let report = node.run(&plan(vec![with_spec(pod("a", Active, "", other()), "{}")]), NOW);
    assert!(report.waiting.iter().all(|waiting| waiting.until_unix_s == NOW + 630), "{report:?}");
    let report = node.run(&plan(vec![]), NOW + 10);
    assert!(report.waiting.iter().all(|waiting| waiting.until_unix_s == NOW + 630), "{report:?}");
    node.run(&plan(vec![]), NOW + 629);
    assert!(node.has_trees() && node.sandbox.exists("secrets/default/a/other"));
    node.run(&plan(vec![]), NOW + 630);
    assert!(!node.has_trees() && !node.sandbox.exists("secrets/default/a"));

    // A body that is gone says nothing.
    let node = Node::new();
    node.run(&plan(vec![with_spec(clear_pod("a", Active, "", trees("v")), long)]), NOW);
    fs::remove_file(node.sandbox.path("secrets/.manifests/default_a.json")).unwrap();
    let report = node.run(&plan(vec![]), NOW);
    assert!(report.waiting.iter().all(|waiting| waiting.until_unix_s == NOW + 90), "{report:?}");

    // The clock was wrong when the marker was made: as long again, from now on.
    let node = Node::new();
    node.run(&plan(vec![with_spec(pod("a", Active, "", trees("v")), long)]), NOW);
    node.run(&plan(vec![]), NOW + 100_000);
    let report = node.run(&plan(vec![]), NOW);
    assert!(report.waiting.iter().all(|waiting| waiting.until_unix_s == NOW + 630), "{report:?}");
    assert_eq!(node.sandbox.read(MARKER), format!("{} 630\n", NOW + 630));
}

#[test]
fn trees_of_a_copy_without_a_sandbox_go_at_once() {
    let wanted = |activity| vec![pod("a", activity, "v2", vec![tree("new", &["k:v"])])];
    let nobody: &[&str] = &[];
    type Row<'a> = (&'a str, Vec<PlannedPod>, &'a [&'a str], bool);
    // A copy was active, and its manifest left in an earlier pass.
    #[rustfmt::skip]
    let rows: [Row<'_>; 6] = [
        // what is said                               plan              stopped   trees stay
        ("nothing",                                   vec![],           nobody,   true),
        ("another one has stopped",                   vec![],           &["b"],   true),
        ("it has stopped",                            vec![],           &["a"],   false),
        ("it has stopped, and is prepared",           wanted(Prepared), &["a"],   false),
        ("it has not, and is prepared",               wanted(Prepared), nobody,   true),
        ("it has stopped, and nobody knows more",     wanted(AsItIs),   &["a"],   false),
    ];
    for (said, pods, who, stay) in rows {
        let node = Node::new();
        node.run(&plan(vec![pod("a", Active, "v1", trees("v"))]), NOW);
        node.run(&plan(vec![]), NOW);
        let report = node.run(&stopped(pods, who), NOW + 1);
        assert_eq!(node.has_trees(), stay, "{said}");
        assert_eq!((node.sandbox.exists(MARKER), !report.waiting.is_empty()), (stay, stay), "{said}");
    }
}

#[test]
fn a_manifest_that_was_active_a_moment_ago_may_be_starting_a_copy() {
    // The kubelet may have read it since anyone looked at the sandboxes.
    for pods in [vec![], vec![pod("a", Prepared, "v2", vec![])]] {
        let node = Node::new();
        node.run(&plan(vec![pod("a", Active, "v1", trees("v"))]), NOW);
        let report = node.run(&stopped(pods, &["a"]), NOW);
        assert!(node.has_trees() && report.waiting.len() == 2, "{report:?}");
    }
    // It stays active, with other trees or as it is.
    for activity in [Active, AsItIs] {
        let node = Node::new();
        node.run(&plan(vec![pod("a", Active, "v1", trees("v"))]), NOW);
        node.run(&stopped(vec![pod("a", activity, "v2", vec![tree("new", &["k:v"])])], &["a"]), NOW);
        assert!(node.has_trees());
    }
    // What has its name now is somebody else's.
    let node = Node::new();
    node.run(&plan(vec![pod("a", Active, "v1", trees("v"))]), NOW);
    node.run(&plan(vec![]), NOW);
    node.sandbox.write("manifests/default_a.json", "kind: Pod");
    let report = node.sandbox.open().reconcile(&stopped(vec![], &["a"]), &Shelf::default(), NOW);
    fine(&report);
    assert!(!node.has_trees(), "somebody else's manifest mounts nothing of ours");
}

#[test]
fn nothing_goes_while_what_is_active_may_not_last() {
    // A copy that has stopped is to be cleaned up in the pass that takes another's manifest away.
    let run = |cut| {
        let node = Node::new();
        node.run(&plan(vec![pod("a", Active, "v1", trees("v")), pod("b", Active, "v1", vec![])]), NOW);
        node.run(&plan(vec![pod("b", Active, "v1", vec![])]), NOW);
        let script = Arc::new(Mutex::new(Script { cut, ..Script::default() }));
        let materializer = node.sandbox.open_with(&Gate { script: Some(script.clone()) });
        let report = materializer.reconcile(&stopped(vec![], &["a"]), &Shelf::default(), NOW);
        let log = std::mem::take(&mut script.lock().unwrap().log);
        let sync = log.iter().position(|(step, at)| *step == Step::SyncDir && *at == node.sandbox.path("manifests"));
        (node.has_trees(), report.problems.len(), sync.unwrap())
    };
    let (has_trees, problems, sync) = run(None);
    assert_eq!((has_trees, problems), (false, 0));
    // Whether what left that directory is gone for good is not known.
    assert_eq!(run(Some(Cut::Only(sync))), (true, 1, sync));
}

#[test]
fn which_manifests_are_active_and_whose() {
    let node = Node::new();
    let sandbox = &node.sandbox;
    drop(sandbox.open());
    let carried = |uid: &str, at: &str| {
        let mut planned = clear_pod(at, Active, "", vec![]);
        planned.rendering.manifest.json = copy(uid, "{}").into();
        planned
    };
    let body = |pod: &str| sandbox.path(&format!("secrets/.manifests/default_{pod}.json"));
    let plain = |uid: &str, at: &str| {
        let mut planned = pod(at, Active, "", vec![]);
        planned.rendering.manifest.json = copy(uid, "{}").into();
        planned
    };
    node.run(
        &plan(vec![
            plain("u-plain", "plain"),
            plain("", "no-uid"),
            carried("u-secret", "secret"),
            carried("u-gone", "gone"),
            carried("u-cut", "cut"),
            carried("u-long", "long"),
            carried("u-link", "link"),
            carried("u-dir", "dir"),
            pod("prepared", Prepared, "v1", vec![]),
        ]),
        NOW,
    );
    fs::remove_file(body("gone")).unwrap();
    fs::write(body("cut"), &copy("u-cut", "{}")[..20]).unwrap();
    fs::File::create(body("long")).unwrap().set_len((10 << 20) + 1).unwrap();
    sandbox.write("else.json", &copy("u-else", "{}"));
    fs::remove_file(body("link")).unwrap();
    symlink(sandbox.path("else.json"), body("link")).unwrap();
    fs::remove_file(body("dir")).unwrap();
    fs::create_dir(body("dir")).unwrap();
    // None of ours.
    sandbox.write("manifests/default_other.json", "{\"kind\":\"Pod\"}");
    sandbox.write("manifests/etcd.yaml", &copy("u", "{}"));
    sandbox.write("manifests/.default_hidden.json", &copy("u", "{}"));
    fs::create_dir(sandbox.path("manifests/default_directory.json")).unwrap();
    symlink(sandbox.path("else.json"), sandbox.path("manifests/default_foreign.json")).unwrap();
    symlink(body("secret"), sandbox.path("manifests/default_crossed.json")).unwrap();

    let before = sandbox.identities();
    let active = sandbox.open().active().unwrap();
    let want = [
        ("plain", "u-plain"),
        ("no-uid", ""),
        ("secret", "u-secret"),
        ("gone", ""),
        ("cut", ""),
        ("long", ""),
        ("link", ""),
        ("dir", ""),
    ];
    assert_eq!(active, want.map(|(pod, uid)| (name(pod), uid.to_owned())).into());
    assert_eq!(sandbox.identities(), before, "it only looks");
    // Without the secret root nobody knows what its links mean, and nothing else is lost.
    fs::remove_dir_all(sandbox.path("secrets")).unwrap();
    let active = sandbox.open().active().unwrap();
    assert_eq!(active.len(), want.len());
    assert_eq!((active[&name("plain")].as_str(), active[&name("secret")].as_str()), ("u-plain", ""));
    assert_eq!(SandBox::new().open().active().unwrap(), BTreeMap::new());
}
