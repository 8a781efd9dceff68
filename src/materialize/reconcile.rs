//! One pass: the order in which a plan becomes files.
//!
//! Manifests that must go, go first; then each pod's trees and its manifest after them, in the plan's order; trees that
//! nobody uses any more last. Each step can be repeated, so a pass that is cut short is completed by the next.

use std::collections::{BTreeMap, BTreeSet};

use super::dir::Dir;
use super::error::{MaterializeError, RenderingProblem};
use super::layout::{Layout, Names};
use super::manifest::{ManifestName, Manifests, Place, Staged};
use super::modes::private_dir;
use super::name::Name;
use super::removal::{self, Keep, Retired};
use super::syncs::Syncs;
use super::{Materializer, PodOutcome, Published, Removed, RemovedFiles, Report, Waiting, tree};
use crate::checkpoint::lookup::{Objects, Reader};
use crate::checkpoint::object::Shown;
use crate::checkpoint::rendering::{Activity, Manifest, Plan, PlannedPod, PodName, TreeRoot};

type Result<T, E = MaterializeError> = std::result::Result<T, E>;

/// How many pods are published together at most.
const BATCH_PODS_MAX: usize = 64;

/// How many trees they have together, unless a single pod has more.
const BATCH_TREES_MAX: usize = 256;

const ROOTS: [TreeRoot; 2] = [TreeRoot::Secrets, TreeRoot::ConfigMaps];

/// Brings the files in line with `plan`.
pub(super) fn run(materializer: &Materializer, plan: &Plan, objects: &dyn Objects, now_unix_s: u64) -> Report {
    let mut pass = Pass {
        materializer,
        plan,
        reader: Reader::new(objects),
        now_unix_s,
        manifests: materializer.manifests(),
        report: Report::default(),
        running: BTreeSet::new(),
        unmarked: BTreeSet::new(),
        stuck: BTreeMap::new(),
        hold: false,
    };
    pass.manifests.sweep(&mut pass.report.problems);
    let wanted = plan.pods.iter().map(|pod| (&pod.rendering.pod, pod.activity)).collect();
    pass.remove_manifests(&wanted);

    let mut done: BTreeMap<&PodName, Option<Wanted<'_>>> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for planned in batches(&plan.pods) {
        let mut batch = Vec::with_capacity(planned.len());
        for planned in planned {
            let name = &planned.rendering.pod;
            let meant_to_run = matches!(planned.activity, Activity::Active | Activity::AsItIs);
            if plan.unsure.contains(name) && meant_to_run && pass.running.contains(name) {
                pass.report.left.push(name.clone());
                done.insert(name, None);
            } else {
                batch.push((planned, taken.insert(name)));
            }
        }
        for (name, result) in pass.publish(&batch) {
            let (wanted, outcome) = result.unwrap_or_else(|error| (None, PodOutcome::Failed(error)));
            done.insert(name, wanted);
            pass.report.outcomes.push((name.clone(), outcome));
        }
    }
    pass.sync_manifests();
    pass.note(pass.manifests.remove_unused_bodies());
    for root in ROOTS {
        pass.remove_trees(root, &done);
    }
    pass.report
}

/// The trees of a pod that was published.
struct Wanted<'a> {
    layouts: Vec<Layout<'a>>,
    place: Place,
}

impl Wanted<'_> {
    fn trees(&self, root: TreeRoot) -> BTreeSet<&Names> {
        self.layouts.iter().filter(|layout| layout.root == root).map(|layout| &layout.path).collect()
    }
}

/// A pod whose trees are written.
struct Begun<'a> {
    planned: &'a PlannedPod,
    name: ManifestName,
    /// Where its manifest goes; `None` if it stays as it is.
    place: Option<Place>,
    trees: Vec<(Layout<'a>, tree::Begun)>,
    staged: Option<Staged>,
}

/// Pods that are published together: enough of them to sync many files at once, and few enough that the first ones start while
/// the last ones are still written.
fn batches(mut pods: &[PlannedPod]) -> impl Iterator<Item = &[PlannedPod]> {
    std::iter::from_fn(move || {
        let mut trees = 0;
        let more = pods.iter().take_while(|pod| {
            trees += pod.rendering.trees.len();
            trees <= BATCH_TREES_MAX
        });
        let (batch, rest) = pods.split_at(more.count().clamp(1.min(pods.len()), BATCH_PODS_MAX.min(pods.len())));
        pods = rest;
        (!batch.is_empty()).then_some(batch)
    })
}

struct Pass<'a> {
    materializer: &'a Materializer,
    plan: &'a Plan,
    reader: Reader<'a>,
    now_unix_s: u64,
    manifests: Manifests<'a>,
    report: Report,
    /// Pods whose manifest was active when the pass began.
    running: BTreeSet<PodName>,
    /// Pods whose containers may run on although no marker could be written.
    unmarked: BTreeSet<PodName>,
    /// Pods whose manifest should have left the kubelet's directory, and did not.
    stuck: BTreeMap<PodName, MaterializeError>,
    /// What is active is not known for sure, so that no tree may go.
    hold: bool,
}

impl<'a> Pass<'a> {
    /// Takes out of the kubelet's directory what the plan does not want there, and removes what it does not want at all.
    fn remove_manifests(&mut self, wanted: &BTreeMap<&PodName, Activity>) {
        let (active, prepared) = (self.manifests.active, self.manifests.prepared);
        let adopted = self.adopted();
        for name in self.list(active).into_iter().chain(adopted.iter().cloned()) {
            self.running.insert(name.pod.clone());
            let planned = wanted.get(&name.pod);
            match planned {
                Some(Activity::AsItIs) => continue,
                // What was taken over gives way to our own: beside it the kubelet would read two of one name.
                Some(Activity::Active) if adopted.contains(&name) && !self.plan.unsure.contains(&name.pod) => {}
                Some(Activity::Active) => continue,
                Some(Activity::Prepared) => {}
                None if self.plan.untouched.covers(&name.pod) => {
                    self.report.left.push(name.pod);
                    continue;
                }
                None => {}
            }
            // Even if no marker can be written: a copy that goes on is worse than a volume that goes early.
            self.mark(&name);
            let gone = match planned {
                _ if adopted.contains(&name) => self.manifests.remove_adopted(&name),
                Some(_) => self.manifests.deactivate(&name),
                None => self.manifests.remove(active, &name),
            };
            match gone {
                Ok(()) => self.removed(&name.pod, RemovedFiles::ActiveManifest),
                Err(error) => {
                    self.report.problems.push(error.clone());
                    self.stuck.insert(name.pod, error);
                }
            }
        }
        for name in self.list(prepared) {
            if !wanted.contains_key(&name.pod) && !self.plan.untouched.covers(&name.pod) {
                match self.manifests.remove(prepared, &name) {
                    Ok(()) => self.removed(&name.pod, RemovedFiles::PreparedManifest),
                    Err(error) => self.report.problems.push(error),
                }
            }
        }
        self.sync_manifests();
    }

    /// Publishes pods: their trees, then their manifests; each with the trees that it has from now on, where that is known.
    ///
    /// What has to be durable before the next step is so for all of them at once: what is in new trees, the trees' names, the
    /// manifests. A pod that fails at one step takes no other with it.
    #[expect(clippy::type_complexity, reason = "one result for each pod")]
    fn publish<'p>(
        &mut self,
        batch: &[(&'p PlannedPod, bool)],
    ) -> Vec<(&'p PodName, Result<(Option<Wanted<'p>>, PodOutcome)>)> {
        let syncs = Syncs::default();
        let mut pods: Vec<Result<Begun<'p>>> = Vec::with_capacity(batch.len());
        for (number, (planned, first)) in batch.iter().enumerate() {
            syncs.of(number);
            let name = &planned.rendering.pod;
            pods.push(match first {
                true => self.begin(planned, &syncs),
                false => Err(MaterializeError::Rendering(RenderingProblem::PodTwice(Shown::new(&name.to_string())))),
            });
        }
        self.make_durable(&syncs, &mut pods);
        self.each(&syncs, &mut pods, |pass, _, pod| pass.place_trees(pod, &syncs));
        self.make_durable(&syncs, &mut pods);
        self.each(&syncs, &mut pods, |pass, number, pod| pass.stage(pod, number, &syncs));
        self.make_durable(&syncs, &mut pods);
        let done = pods.into_iter().map(|pod| pod.and_then(|pod| self.finish(pod)));
        batch.iter().map(|(planned, _)| &planned.rendering.pod).zip(done).collect()
    }

    /// Takes a step for each pod that has not failed.
    fn each<'p>(
        &mut self,
        syncs: &Syncs,
        pods: &mut [Result<Begun<'p>>],
        mut step: impl FnMut(&mut Self, usize, &mut Begun<'p>) -> Result<()>,
    ) {
        for (number, pod) in pods.iter_mut().enumerate() {
            syncs.of(number);
            if let Ok(begun) = pod
                && let Err(error) = step(self, number, begun)
            {
                self.abandon(begun);
                *pod = Err(error);
            }
        }
    }

    fn make_durable(&self, syncs: &Syncs, pods: &mut [Result<Begun<'_>>]) {
        for (number, error) in syncs.all(self.manifests.prepared.gate()) {
            if let Ok(begun) = &mut pods[number] {
                self.abandon(begun);
                pods[number] = Err(error);
            }
        }
    }

    /// Removes what a pod that failed has under temporary names.
    fn abandon(&self, pod: &mut Begun<'_>) {
        for (number, (layout, begun)) in pod.trees.iter().enumerate() {
            if *begun == tree::Begun::Unplaced
                && let Ok(root) = self.materializer.root(layout.root)
                && let Ok(Some(pod_dir)) = removal::open_pod_dir(root, &pod.name.pod)
            {
                tree::discard(&pod_dir, layout, number);
            }
        }
        if let Some(staged) = pod.staged.take() {
            self.manifests.discard(staged);
        }
    }

    /// Checks a pod and writes its trees. New ones have no names yet.
    fn begin<'p>(&mut self, planned: &'p PlannedPod, syncs: &Syncs) -> Result<Begun<'p>> {
        let rendering = &planned.rendering;
        let name = ManifestName::of(&rendering.pod).map_err(MaterializeError::Rendering)?;
        let mut layouts: Vec<Layout<'p>> = Vec::with_capacity(rendering.trees.len());
        for tree in &rendering.trees {
            let layout = Layout::new(tree).map_err(MaterializeError::Rendering)?;
            if layouts.iter().any(|other| (other.root, &other.path) == (layout.root, &layout.path)) {
                let shown = Shown::new(&tree.path.join("/"));
                return Err(MaterializeError::Rendering(RenderingProblem::TreeTwice(shown)));
            }
            layouts.push(layout);
        }
        // Before any clear text is written for a pod that can't start.
        if let Some(error) = self.stuck.get(&name.pod) {
            return Err(error.clone());
        }
        // Asked of the directory, not of what was listed: a listing that failed must not turn into a second manifest.
        let place = match planned.activity {
            Activity::Active => Some(Place::Active),
            Activity::Prepared => Some(Place::Prepared),
            Activity::AsItIs if self.manifests.is_active(&name)? => None,
            Activity::AsItIs => Some(Place::Prepared),
        };
        if let Some(place) = place {
            self.manifests.check_free(&name, place)?;
        }
        let mut pod = Begun { planned, name, place, trees: Vec::with_capacity(layouts.len()), staged: None };
        for layout in layouts {
            match self.begin_tree(&pod.name.pod, (&layout, pod.trees.len()), syncs) {
                Ok(begun) => pod.trees.push((layout, begun)),
                Err(error) => {
                    self.abandon(&mut pod);
                    return Err(error);
                }
            }
        }
        Ok(pod)
    }

    fn begin_tree(
        &mut self,
        pod: &PodName,
        (layout, number): (&Layout<'_>, usize),
        syncs: &Syncs,
    ) -> Result<tree::Begun> {
        let pod_dir = self.make_pod_dir(layout.root, pod, syncs)?;
        let Materializer { owners, selinux, .. } = *self.materializer;
        let problems = &mut self.report.problems;
        tree::begin(&pod_dir, (layout, number), owners, selinux, &mut self.reader, problems)
    }

    /// Gives new trees their names: what is in them is durable.
    fn place_trees(&mut self, pod: &mut Begun<'_>, syncs: &Syncs) -> Result<()> {
        for (number, (layout, begun)) in pod.trees.iter_mut().enumerate() {
            if *begun == tree::Begun::Unplaced {
                let pod_dir = self.make_pod_dir(layout.root, &pod.name.pod, syncs)?;
                *begun = tree::Begun::Done(tree::place(&pod_dir, layout, number)?);
            }
        }
        Ok(())
    }

    /// Writes the manifest under a temporary name: the trees are durable.
    fn stage(&mut self, pod: &mut Begun<'_>, number: usize, syncs: &Syncs) -> Result<()> {
        let Some(place) = pod.place else { return Ok(()) };
        let prepared = self.manifests.prepared.together(syncs)?;
        pod.staged =
            Some(self.manifests.stage(&pod.name, &pod.planned.rendering.manifest, place, (&prepared, number))?);
        Ok(())
    }

    /// Publishes the manifest: all that it mounts is there, and it is durable itself but for its name.
    fn finish<'p>(&mut self, pod: Begun<'p>) -> Result<(Option<Wanted<'p>>, PodOutcome)> {
        let Begun { planned, name, place, trees, staged } = pod;
        let mut published = None;
        for (_, begun) in &trees {
            let tree::Begun::Done(one) = *begun else { continue };
            published = Some(published.map_or(one, |all: Published| all.and(one)));
        }
        let layouts = trees.into_iter().map(|(layout, _)| layout).collect();
        let trees = published.unwrap_or(Published::Unchanged);
        let (Some(place), Some(staged)) = (place, staged) else {
            // The manifest that stays may be an older one, and mount trees that are not among these.
            return Ok((None, PodOutcome::Published { trees, manifest: Published::Unchanged }));
        };
        let wanted = Wanted { layouts, place };
        let manifest = &planned.rendering.manifest;
        match self.mark_replaced(&name, manifest, &wanted) {
            Ok(()) => {}
            Err(error) => {
                self.manifests.discard(staged);
                return Err(error);
            }
        }
        let manifest = self.manifests.publish(&name, manifest, place, staged)?;
        Ok((Some(wanted), PodOutcome::Published { trees, manifest }))
    }

    /// Before an active manifest is replaced: trees that only the old one mounts are in use for a while.
    fn mark_replaced(&mut self, name: &ManifestName, manifest: &Manifest, wanted: &Wanted<'_>) -> Result<()> {
        let replaces = self.running.contains(&name.pod)
            && wanted.place == Place::Active
            && !self.manifests.is_active_as(name, manifest)?;
        if replaces && self.has_stale_trees(&name.pod, wanted)? {
            self.mark(name);
        }
        Ok(())
    }

    /// Removes the trees below `root` that nobody wants and nobody can be using.
    fn remove_trees(&mut self, root: TreeRoot, done: &BTreeMap<&PodName, Option<Wanted<'_>>>) {
        // A root that can't be used was reported with each pod that needs it.
        let Ok(dir) = self.materializer.root(root) else { return };
        match removal::pods(dir) {
            Ok(namespaces) => {
                for (namespace, pods) in namespaces {
                    let result = self.remove_trees_in(dir, root, &namespace, &pods, done);
                    self.note(result);
                }
            }
            Err(error) => self.report.problems.push(error),
        }
        self.note(dir.sync());
    }

    fn remove_trees_in(
        &mut self,
        dir: &Dir,
        root: TreeRoot,
        namespace: &Name,
        pods: &[Name],
        done: &BTreeMap<&PodName, Option<Wanted<'_>>>,
    ) -> Result<()> {
        let Some(parent) = dir.open(namespace)? else { return Ok(()) };
        for pod in pods {
            let (Some(namespace), Some(name)) = (namespace.text(), pod.text()) else { continue };
            let key = PodName { namespace: namespace.to_owned(), name: name.to_owned() };
            let hold = self.hold || self.unmarked.contains(&key) || self.stuck.contains_key(&key);
            let stopped = self.plan.stopped.contains(&key) && !self.running.contains(&key);
            let keep = match done.get(&key) {
                // What failed, or was left as it is, may still need what it had.
                Some(None) => continue,
                Some(Some(wanted)) => {
                    Keep { trees: wanted.trees(root), active: wanted.place == Place::Active, hold, stopped }
                }
                None if self.plan.untouched.covers(&key) => continue,
                None => Keep { trees: BTreeSet::new(), active: false, hold, stopped },
            };
            let result = self.retire(&parent, pod, &key, &keep);
            self.note(result);
        }
        parent.sync()?;
        removal::remove_if_empty(dir, namespace)
    }

    fn retire(&mut self, parent: &Dir, name: &Name, pod: &PodName, keep: &Keep<'_>) -> Result<()> {
        let Some(pod_dir) = parent.open(name)? else { return Ok(()) };
        let owners = self.materializer.owners;
        match removal::retire(&pod_dir, keep, self.now_unix_s, owners, &mut self.report.problems)? {
            Retired::Nothing => {}
            Retired::Removed => self.removed(pod, RemovedFiles::Trees),
            Retired::Waiting(until_unix_s) => self.report.waiting.push(Waiting { pod: pod.clone(), until_unix_s }),
        }
        removal::remove_if_empty(parent, name)
    }

    /// The directory of `pod` below `root`; if it is new it is durable when `syncs` has synced, as is what is made in it.
    fn make_pod_dir(&self, root: TreeRoot, pod: &PodName, syncs: &Syncs) -> Result<Dir> {
        let attr = private_dir(self.materializer.owners);
        let mut at = self.materializer.root(root)?.together(syncs)?;
        for text in [&pod.namespace, &pod.name] {
            let name = Name::new(text).expect("a checked pod name has two plain file names");
            let (dir, _) = at.ensure(&name, attr)?;
            at.sync()?;
            at = dir;
        }
        Ok(at)
    }

    fn has_stale_trees(&self, pod: &PodName, wanted: &Wanted<'_>) -> Result<bool> {
        for root in ROOTS {
            let Ok(dir) = self.materializer.root(root) else { continue };
            // What is foreign there is reported when the trees are removed.
            if let Some(pod_dir) = removal::open_pod_dir(dir, pod)?
                && !removal::stale_trees(&pod_dir, &wanted.trees(root), &mut Vec::new())?.is_empty()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Says that containers of a pod may go on for a while, before its active manifest goes or changes.
    fn mark(&mut self, name: &ManifestName) {
        let pod = &name.pod;
        let grace_s = removal::grace(self.manifests.termination_s(name));
        for root in ROOTS {
            let Ok(dir) = self.materializer.root(root) else { continue };
            let marked = match removal::open_pod_dir(dir, pod) {
                Ok(Some(pod_dir)) => removal::mark(&pod_dir, grace_s, self.now_unix_s, self.materializer.owners),
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = marked {
                self.report.problems.push(error);
                self.unmarked.insert(pod.clone());
            }
        }
    }

    fn adopted(&mut self) -> Vec<ManifestName> {
        self.manifests.adopted().unwrap_or_else(|error| {
            self.report.problems.push(error);
            self.hold = true;
            Vec::new()
        })
    }

    fn list(&mut self, dir: &Dir) -> Vec<ManifestName> {
        self.manifests.list(dir).unwrap_or_else(|error| {
            self.report.problems.push(error);
            self.hold = true;
            Vec::new()
        })
    }

    fn sync_manifests(&mut self) {
        for dir in [self.manifests.active, self.manifests.prepared] {
            if let Err(error) = dir.sync() {
                self.report.problems.push(error);
                self.hold = true;
            }
        }
    }

    fn removed(&mut self, pod: &PodName, files: RemovedFiles) {
        self.report.removed.push(Removed { pod: pod.clone(), files });
    }

    fn note(&mut self, result: Result<()>) {
        self.report.problems.extend(result.err());
    }
}
