//! Whatever sequence of plans, cuts and pauses came before, an uncut pass ends where a first one would.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::gate::{Cut, Gate, Script};
use super::sandbox::*;
use super::*;
use crate::checkpoint::rendering::Activity::{Active, Prepared};
use crate::checkpoint::rendering::{PlannedPod, Tree};

#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) pods: Vec<Pod>,
    pub(super) cut: Option<Cut>,
    pub(super) pause_s: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Pod {
    name: &'static str,
    active: bool,
    carries_secret: bool,
    says: &'static str,
    trees: Vec<usize>,
}

pub(super) fn some_tree(number: usize) -> Tree {
    match number {
        0 => tree("s", &["a:1", "b:2"]),
        1 => tree("t", &["d/a=a", "b=b"]),
        2 => tree("a~b/v", &["a:1"]),
        3 => tree("a~b/w", &["d/e/a:1", "d/b:"]),
        4 => config("c", &[]),
        _ => config("c~d/v", &["a:3"]),
    }
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let trees = prop::sample::subsequence((0..6_usize).collect::<Vec<_>>(), 0..4);
    let pod = (any::<bool>(), any::<bool>(), prop::sample::select(vec!["v1", "v2"]), trees);
    let pods = prop::collection::vec(prop::option::of(pod), 3).prop_map(|pods| {
        let named = ["x", "y", "z"].into_iter().zip(pods);
        let made = named.filter_map(|(name, pod)| {
            pod.map(|(active, carries_secret, says, trees)| Pod { name, active, carries_secret, says, trees })
        });
        made.collect::<Vec<_>>()
    });
    let cut = prop::option::of((any::<bool>(), 0..150_usize))
        .prop_map(|cut| cut.map(|(kill, step)| if kill { Cut::From(step) } else { Cut::Only(step) }));
    let step = (pods, cut, 0..120_u64).prop_map(|(pods, cut, pause_s)| Step { pods, cut, pause_s });
    prop::collection::vec(step, 1..5)
}

pub(super) fn made(pods: &[Pod]) -> Committed<Plan> {
    let made = pods.iter().map(|wanted| -> PlannedPod {
        let trees = wanted.trees.iter().map(|number| some_tree(*number)).collect();
        let activity = if wanted.active { Active } else { Prepared };
        let make = if wanted.carries_secret { clear_pod } else { pod };
        make(wanted.name, activity, wanted.says, trees)
    });
    plan(made.collect())
}

/// The listing with all generations given one number, and without the directory for bodies, which stays once it is there.
fn comparable(sandbox: &SandBox) -> Vec<String> {
    let mut lines = sandbox.listing();
    lines.retain(|line| !line.starts_with("secrets/.manifests "));
    for line in &mut lines {
        for number in 1..100 {
            for (before, after) in [(format!("..{number} "), "..N "), (format!("..{number}/"), "..N/")] {
                *line = line.replace(&before, after);
            }
            if line.ends_with(&format!("-> ..{number}")) {
                *line = line.replace(&format!("-> ..{number}"), "-> ..N");
            }
        }
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn every_history_ends_where_a_fresh_start_ends(steps in steps()) {
        let shelf = Shelf::default().secret("t", &[("a", "A"), ("b", "B")]);
        let sandbox = SandBox::fast();
        let _ = sandbox.open();
        let mut now = NOW;
        for step in &steps {
            let script = Arc::new(Mutex::new(Script { cut: step.cut, ..Script::default() }));
            let _ = sandbox.open_with(&Gate { script: Some(script) }).reconcile(&made(&step.pods), &shelf, now);
            now += step.pause_s;
        }
        let last = made(&steps.last().unwrap().pods);
        // One pass to get there, one after all waiting, one to see that nothing is left to do.
        fine(&sandbox.open().reconcile(&last, &shelf, now));
        fine(&sandbox.open().reconcile(&last, &shelf, now + 90));
        let before = sandbox.identities();
        let idle = sandbox.open().reconcile(&last, &shelf, now + 91);
        fine(&idle);
        prop_assert!(idle.removed.is_empty() && idle.waiting.is_empty(), "{:?}", idle);
        prop_assert_eq!(sandbox.identities(), before);

        let fresh = SandBox::fast();
        fine(&fresh.open().reconcile(&last, &shelf, now));
        prop_assert_eq!(comparable(&sandbox), comparable(&fresh));
    }
}
