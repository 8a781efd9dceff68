//! Plans of what may run or not, nobody knows: the kubelet's directory stays as it is, whatever it holds.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::gate::{Cut, Gate, Script};
use super::sandbox::*;
use super::*;
use super::{random, removal};
use crate::checkpoint::rendering::Activity::{Active, Prepared};
use crate::checkpoint::rendering::{Activity, PlannedPod, Tree, Untouched};
use Published::{Replaced, Unchanged};

const ACTIVE: &str = "manifests/default_web.json";
const PREPARED: &str = "prepared/default_web.json";
const BODY: &str = "secrets/.manifests/default_web.json";

type Arrange = Box<dyn Fn(&SandBox)>;
type Make = fn(&str, Activity, &str, Vec<Tree>) -> PlannedPod;

/// The same files, with nothing started and nothing stopped by them, as when nobody knows what runs.
fn as_it_is(mut plan: Plan) -> Plan {
    plan.pods.iter_mut().for_each(|planned| planned.activity = Activity::AsItIs);
    Plan { untouched: Untouched::All, ..plan }
}

fn held(pods: Vec<PlannedPod>) -> Committed<Plan> {
    plan(pods).map(as_it_is)
}

fn trees(value: &str) -> Vec<Tree> {
    let file = format!("k:{value}");
    vec![tree("s", &[&file]), config("c", &[&file])]
}

/// What the kubelet sees: each entry, which file it is and when it was written, and what it reads there.
fn kubelets_view(sandbox: &SandBox) -> Vec<String> {
    let identity = |meta: fs::Metadata| (meta.ino(), meta.mode(), meta.mtime(), meta.mtime_nsec());
    let look = |path: &Path| {
        let itself = identity(fs::symlink_metadata(path).unwrap());
        let target = fs::metadata(path).map(identity).map_err(|error| error.kind());
        let text = fs::read_to_string(path).map_err(|error| error.kind());
        format!("{} {itself:?} {target:?} {text:?}", path.display())
    };
    let entries = fs::read_dir(sandbox.path("manifests")).unwrap();
    let mut seen: Vec<String> = entries.map(|entry| look(&entry.unwrap().path())).collect();
    seen.sort();
    seen
}

#[test]
fn an_active_manifest_stays_and_anything_else_is_prepared() {
    fn before(activity: Activity, make: Make, says: &'static str) -> Arrange {
        Box::new(move |sandbox| {
            let plan = plan(vec![make("web", activity, says, trees("old"))]);
            fine(&sandbox.open().reconcile(&plan, &Shelf::default(), NOW));
        })
    }
    let without_body: Arrange = Box::new(|sandbox| {
        before(Active, clear_pod, "v1")(sandbox);
        fs::remove_file(sandbox.path(BODY)).unwrap();
    });
    let others_link: Arrange = Box::new(|sandbox| {
        sandbox.write("else.json", &json("v1"));
        std::os::unix::fs::symlink(sandbox.path("else.json"), sandbox.path(ACTIVE)).unwrap();
    });
    #[rustfmt::skip]
    let rows: Vec<(&str, Arrange, bool)> = vec![
        // before                                                             stays as it is
        ("nothing",                    Box::new(|_| {}),                      false),
        ("prepared",                   before(Prepared, pod, "v1"),           false),
        ("prepared as it would be",    before(Prepared, pod, "v2"),           false),
        ("prepared, with clear text",  before(Prepared, clear_pod, "v1"),     false),
        ("active",                     before(Active, pod, "v1"),             true),
        ("active as it would be",      before(Active, pod, "v2"),             true),
        ("active, with clear text",    before(Active, clear_pod, "v1"),       true),
        // There is nothing for the kubelet to read now; with its body there would be, and the copy would start.
        ("active, its body is gone",   without_body,                          true),
        ("somebody else's pod",        Box::new(|s| s.write(ACTIVE, "kind: Pod")), false),
        ("somebody else's link",       others_link,                           false),
    ];
    for make in [pod as Make, clear_pod] {
        for (before, arrange, stays) in &rows {
            let sandbox = SandBox::new();
            drop(sandbox.open());
            arrange(&sandbox);
            let (view, body) = (kubelets_view(&sandbox), sandbox.read(BODY));
            let wanted = held(vec![make("web", Active, "v2", trees("new"))]);
            let report = sandbox.open().reconcile(&wanted, &Shelf::default(), NOW);
            fine(&report);
            assert_eq!(kubelets_view(&sandbox), view, "{before}");
            for file in ["secrets/default/web/s/k", "configmaps/default/web/c/k"] {
                assert_eq!(sandbox.read(file), "new", "{before}: trees are brought up to date");
            }
            assert!(report.removed.is_empty() && report.left.is_empty(), "{before}: {report:?}");
            if *stays {
                assert_eq!(outcomes(&report), [("web", &PUBLISHED(Replaced, Unchanged))], "{before}");
                assert_eq!((sandbox.exists(PREPARED), sandbox.read(BODY)), (false, body), "{before}");
            } else {
                assert_eq!(sandbox.read(PREPARED), json("v2"), "{before}");
            }
            let all = sandbox.identities();
            let again = sandbox.open().reconcile(&wanted, &Shelf::default(), NOW + 1000);
            assert_eq!(outcomes(&again), [("web", &PUBLISHED(Unchanged, Unchanged))], "{before}");
            assert_eq!(sandbox.identities(), all, "{before}: the same again is no work");
        }
    }
}

#[test]
fn trees_of_a_manifest_that_stays_stay_with_it() {
    let sandbox = SandBox::new();
    let run = |plan: Committed<Plan>, now| {
        let report = sandbox.open().reconcile(&plan, &Shelf::default(), now);
        fine(&report);
        report
    };
    let (one, two) = (|| tree("one", &["k:v"]), || tree("two", &["k:v"]));
    run(plan(vec![pod("a", Active, "v1", vec![one()])]), NOW);
    for round in 1..4 {
        let report = run(held(vec![pod("a", Active, "v2", vec![two()])]), NOW + round * removal::GRACE_S);
        assert!(report.removed.is_empty() && report.waiting.is_empty(), "{report:?}");
        assert_eq!(sandbox.read("secrets/default/a/one/k"), "v", "the manifest there mounts it");
    }
    // Decided again: the new manifest, and the old tree after its containers.
    let report = run(plan(vec![pod("a", Active, "v2", vec![two()])]), NOW);
    assert_eq!(outcomes(&report), [("a", &PUBLISHED(Unchanged, Replaced))]);
    assert_eq!((report.waiting.len(), sandbox.exists("secrets/default/a/one/k")), (1, true));
    run(plan(vec![pod("a", Active, "v2", vec![two()])]), LATER);
    assert!(!sandbox.exists("secrets/default/a/one"));
}

#[test]
fn a_doubtful_rendering_changes_nothing_of_what_may_run() {
    let sandbox = SandBox::new();
    let doubtful = |says: &str| {
        let plan = held(vec![pod("a", Active, says, trees(says)), pod("b", Prepared, says, trees(says))]);
        plan.map(|plan| Plan { unsure: [name("a"), name("b")].into(), ..plan })
    };
    fine(&sandbox.open().reconcile(&plan(vec![pod("a", Active, "v1", trees("v1"))]), &Shelf::default(), NOW));
    let report = sandbox.open().reconcile(&doubtful("v2"), &Shelf::default(), NOW);
    fine(&report);
    assert_eq!((report.left, report.outcomes.len()), (vec![name("a")], 1));
    assert_eq!(
        (sandbox.read("manifests/default_a.json"), sandbox.read("secrets/default/a/s/k")),
        (json("v1"), "v1".into())
    );
    assert_eq!(sandbox.read("prepared/default_b.json"), json("v2"), "it is better than nothing");
}

/// Directories of trees of pods that are active: what their containers may have mounted.
fn mounted(sandbox: &SandBox) -> BTreeSet<String> {
    let active = |pod: &&str| sandbox.exists(&format!("manifests/default_{pod}.json"));
    let pods: Vec<&str> = ["x", "y", "z"].into_iter().filter(active).collect();
    let lines = sandbox.listing();
    let paths = lines.iter().filter_map(|line| line.split_once("/..data ")).map(|(path, _)| path.to_owned());
    paths.filter(|path| pods.iter().any(|pod| path.contains(&format!("/default/{pod}/")))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whatever there was, and wherever the pass is cut.
    #[test]
    fn no_history_makes_it_touch_the_kubelets_directory(history in random::steps(), holding in random::steps()) {
        let shelf = Shelf::default().secret("t", &[("a", "A"), ("b", "B")]);
        let sandbox = SandBox::fast();
        drop(sandbox.open());
        let gate = |cut: Option<Cut>| {
            let script = Arc::new(Mutex::new(Script { cut, ..Script::default() }));
            (Gate { script: Some(script.clone()) }, script)
        };
        let mut now = NOW;
        for step in &history {
            let _ = sandbox.open_with(&gate(step.cut).0).reconcile(&random::made(&step.pods), &shelf, now);
            now += step.pause_s;
        }
        let (view, trees) = (kubelets_view(&sandbox), mounted(&sandbox));
        for step in &holding {
            let (gate, script) = gate(step.cut);
            let plan = random::made(&step.pods).map(as_it_is);
            let report = sandbox.open_with(&gate).reconcile(&plan, &shelf, now);
            let manifests = sandbox.path("manifests");
            let touched: Vec<_> = script.lock().unwrap().log.iter().filter(|(_, at)| at.starts_with(&manifests) && *at != manifests).cloned().collect();
            prop_assert!(touched.is_empty(), "{:?}", touched);
            prop_assert_eq!(&kubelets_view(&sandbox), &view, "{:?}", report);
            prop_assert!(mounted(&sandbox).is_superset(&trees), "{:?}", report);
            now += step.pause_s;
        }
    }
}
