//! Plans in which every pod has another fate, one after another, against a model: what the kubelet reads afterwards, and
//! that nothing goes which a container may have mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::gate::{Cut, Gate, Script};
use super::sandbox::*;
use super::*;
use super::{random, removal};
use crate::checkpoint::rendering::{Activity, Untouched};

const PODS: [&str; 3] = ["x", "y", "z"];

/// The trees of `random::some_tree` that lie below the secret root.
const SECRET_TREES: usize = 4;

/// One pass, and what comes before it.
#[derive(Clone, Debug)]
struct Step {
    pods: BTreeMap<&'static str, Planned>,
    untouched: BTreeSet<&'static str>,
    stopped: BTreeSet<&'static str>,
    unsure: BTreeSet<&'static str>,
    /// The secret root loses all that is in it, as at a reboot.
    forgets: bool,
    pause_s: u64,
    cut: Option<Cut>,
}

#[derive(Clone, Debug)]
struct Planned {
    activity: Activity,
    version: Version,
}

/// A manifest, and the trees that it mounts: another set of trees is another manifest, as translation has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    says: &'static str,
    carries_secret: bool,
    trees: BTreeSet<usize>,
}

impl Version {
    fn json(&self) -> String {
        json(&format!("{} {:?}", self.says, self.trees))
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let activity = prop::sample::select(vec![Activity::Active, Activity::AsItIs, Activity::Prepared]);
    let trees = prop::sample::subsequence((0..6_usize).collect::<Vec<_>>(), 0..4);
    let version = (prop::sample::select(vec!["v1", "v2"]), any::<bool>(), trees)
        .prop_map(|(says, carries_secret, trees)| Version { says, carries_secret, trees: trees.into_iter().collect() });
    let planned = (activity, version).prop_map(|(activity, version)| Planned { activity, version });
    let pods = prop::collection::vec(prop::option::weighted(0.7, planned), 3).prop_map(|pods| {
        PODS.into_iter().zip(pods).filter_map(|(name, planned)| Some((name, planned?))).collect::<BTreeMap<_, _>>()
    });
    let some = |weight| {
        prop::collection::vec(prop::bool::weighted(weight), 3).prop_map(|chosen| {
            PODS.into_iter().zip(chosen).filter_map(|(name, chosen)| chosen.then_some(name)).collect::<BTreeSet<_>>()
        })
    };
    let cut = prop::option::weighted(0.4, 0..120_usize).prop_map(|step| step.map(Cut::From));
    let sets = (some(0.3), some(0.4), some(0.2));
    let step = (pods, sets, prop::bool::weighted(0.2), 0..120_u64, cut).prop_map(
        |(pods, (untouched, stopped, unsure), forgets, pause_s, cut)| Step {
            pods,
            untouched,
            stopped,
            unsure,
            forgets,
            pause_s,
            cut,
        },
    );
    prop::collection::vec(step, 1..8)
}

impl Step {
    fn plan(&self) -> Committed<Plan> {
        let pods = self.pods.iter().map(|(name, planned)| {
            let Version { carries_secret, ref trees, .. } = planned.version;
            let make = if carries_secret { clear_pod } else { pod };
            let trees = trees.iter().map(|number| random::some_tree(*number)).collect();
            let mut made = make(name, planned.activity, "", trees);
            made.rendering.manifest.json = planned.version.json().into();
            made
        });
        let named = |pods: &BTreeSet<&str>| pods.iter().map(|pod| name(pod)).collect();
        plan(pods.collect()).map(|plan| Plan {
            untouched: Untouched::Only(named(&self.untouched)),
            stopped: named(&self.stopped),
            unsure: named(&self.unsure),
            ..plan
        })
    }
}

/// What should be true of one pod.
#[derive(Clone, Debug, Default)]
struct Pod {
    /// What the kubelet's directory has, and whether it can be read there.
    active: Option<(Version, bool)>,
    prepared: Option<(Version, bool)>,
    /// Trees that containers may have mounted, of the manifest that is active.
    mounted: BTreeSet<usize>,
    /// The same, of manifests that are active no more: until when.
    after: Vec<(u64, BTreeSet<usize>)>,
}

impl Pod {
    fn forget(&mut self) {
        for (version, readable) in self.active.iter_mut().chain(&mut self.prepared) {
            *readable &= !version.carries_secret;
        }
        for trees in self.after.iter_mut().map(|(_, trees)| trees).chain([&mut self.mounted]) {
            trees.retain(|tree| *tree >= SECRET_TREES);
        }
    }

    /// Whether the pass leaves its active manifest alone and says so.
    fn pass(&mut self, pod: &str, step: &Step, now: u64) -> bool {
        let was_active = self.active.is_some();
        if step.stopped.contains(pod) && !was_active {
            self.after.clear();
        }
        self.after.retain(|(until, _)| *until > now);
        let Some(planned) = step.pods.get(pod) else {
            let untouched = step.untouched.contains(pod);
            if !untouched {
                self.prepared = None;
            }
            if untouched {
                return was_active;
            }
            self.leave(now);
            return false;
        };
        let whole = |version: &Version| Some((version.clone(), true));
        match planned.activity {
            Activity::Active | Activity::AsItIs if was_active && step.unsure.contains(pod) => return true,
            Activity::AsItIs if was_active => {}
            Activity::Active => {
                if self.active.as_ref().is_some_and(|(version, _)| *version != planned.version) {
                    self.leave(now);
                }
                (self.active, self.prepared) = (whole(&planned.version), None);
                self.mounted.clone_from(&planned.version.trees);
            }
            Activity::Prepared | Activity::AsItIs => {
                self.leave(now);
                self.prepared = whole(&planned.version);
            }
        }
        false
    }

    fn leave(&mut self, now: u64) {
        if self.active.take().is_some() {
            self.after.push((now + removal::GRACE_S, std::mem::take(&mut self.mounted)));
        }
    }
}

/// What can be read under a pod's name in a directory: `None` if there is nothing, empty if the body is gone.
fn manifest(sandbox: &SandBox, directory: &str, pod: &str) -> Option<String> {
    let path = sandbox.path(&format!("{directory}/default_{pod}.json"));
    fs::symlink_metadata(&path).ok().map(|_| fs::read_to_string(&path).unwrap_or_default())
}

fn has_tree(sandbox: &SandBox, pod: &str, number: usize) -> bool {
    let tree = random::some_tree(number);
    let root = if number < SECRET_TREES { "secrets" } else { "configmaps" };
    sandbox.path(&format!("{root}/default/{pod}/{}/..data/", tree.path.join("/"))).is_dir()
}

fn check(sandbox: &SandBox, pod: &str, model: &Pod) -> Result<(), TestCaseError> {
    let shown = |manifest: &Option<(Version, bool)>| {
        manifest.as_ref().map(|(version, whole)| if *whole { version.json() } else { String::new() })
    };
    prop_assert_eq!(manifest(sandbox, "manifests", pod), shown(&model.active), "{} {:?}", pod, model);
    prop_assert_eq!(manifest(sandbox, "prepared", pod), shown(&model.prepared), "{} {:?}", pod, model);
    for number in model.after.iter().flat_map(|(_, trees)| trees).chain(&model.mounted) {
        prop_assert!(has_tree(sandbox, pod, *number), "{} lacks tree {}: {:?}", pod, number, model);
    }
    Ok(())
}

fn forget(sandbox: &SandBox) {
    for entry in fs::read_dir(sandbox.path("secrets")).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    /// Passes that are cut are completed by the next of the same plan, so that the model needs to know nothing of them.
    #[test]
    fn each_pod_of_a_plan_gets_its_own_fate(steps in steps()) {
        let shelf = Shelf::default().secret("t", &[("a", "A"), ("b", "B")]);
        let sandbox = SandBox::fast();
        drop(sandbox.open());
        let mut model: BTreeMap<&str, Pod> = PODS.into_iter().map(|pod| (pod, Pod::default())).collect();
        let mut now = NOW;
        for step in &steps {
            now += step.pause_s;
            if step.forgets {
                forget(&sandbox);
                model.values_mut().for_each(Pod::forget);
            }
            let plan = step.plan();
            let mut report = None;
            if step.cut.is_some() {
                let script = Arc::new(Mutex::new(Script { cut: step.cut, ..Script::default() }));
                let _ = sandbox.open_with(&Gate { script: Some(script) }).reconcile(&plan, &shelf, now);
            } else {
                report = Some(sandbox.open().reconcile(&plan, &shelf, now));
            }
            // A manifest may leave in this one, and its trees in the next, if the copy is known to have stopped.
            let again = sandbox.open().reconcile(&plan, &shelf, now);
            fine(&again);
            let (mut left, mut left_again) = (BTreeSet::new(), BTreeSet::new());
            for (pod, model) in &mut model {
                left.extend(model.pass(pod, step, now).then(|| name(pod)));
                left_again.extend(model.pass(pod, step, now).then(|| name(pod)));
                check(&sandbox, pod, model)?;
            }
            if let Some(report) = report {
                fine(&report);
                prop_assert_eq!(report.left.into_iter().collect::<BTreeSet<_>>(), left.clone());
                prop_assert_eq!(again.left.into_iter().collect::<BTreeSet<_>>(), left_again);
            }
            for (pod, planned) in &step.pods {
                for number in planned.version.trees.iter().filter(|_| !left.contains(&name(pod))) {
                    prop_assert!(has_tree(&sandbox, pod, *number), "{} {:?}", pod, planned);
                }
            }
            if step.cut.is_some() {
                fine(&sandbox.open().reconcile(&plan, &shelf, now));
            }
            let before = sandbox.identities();
            let idle = sandbox.open().reconcile(&plan, &shelf, now);
            fine(&idle);
            prop_assert!(idle.removed.is_empty(), "{:?}", idle);
            prop_assert_eq!(sandbox.identities(), before, "the same again is no work");
            let active = sandbox.open().active().unwrap();
            let want: BTreeSet<PodName> =
                model.iter().filter(|(_, pod)| pod.active.is_some()).map(|(pod, _)| name(pod)).collect();
            prop_assert_eq!(active.into_keys().collect::<BTreeSet<_>>(), want);
        }

        // In the end nothing is left that nobody wants.
        let Some(last) = steps.last() else { return Ok(()) };
        now += removal::GRACE_S;
        fine(&sandbox.open().reconcile(&last.plan(), &shelf, now));
        for (pod, model) in &model {
            let stays = model.active.is_some() && last.pods.get(pod).is_none_or(|p| p.activity == Activity::AsItIs);
            if stays || last.untouched.contains(pod) || last.unsure.contains(pod) {
                continue;
            }
            for number in 0..6 {
                let wanted = last.pods.get(pod).is_some_and(|planned| planned.version.trees.contains(&number));
                prop_assert_eq!(has_tree(&sandbox, pod, number), wanted, "{} {}", pod, number);
            }
        }
    }
}
