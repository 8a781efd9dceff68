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

/// How many pods are published together at most. Tests have few pods, and want several batches of them.
const BATCH_PODS_MAX: usize = if cfg!(test) { 2 } else { 64 };

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
        syncs: Syncs::default(),
        report: Report::default(),
        running: BTreeSet::new(),
        unmarked: BTreeSet::new(),
        stuck: BTreeMap::new(),
        hold: false,
    };
    pass.manifests.sweep(&mut pass.report.problems);
    let wanted = plan.pods.iter().map(|pod| (&pod.rendering.pod, pod.activity)).collect();
    pass.remove_manifests(&wanted);

    let done = pass.publish();
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

/// A pod whose files are written.
struct Begun<'a> {
    planned: &'a PlannedPod,
    name: ManifestName,
    /// Where its manifest goes; `None` if it stays as it is.
    place: Option<Place>,
    trees: Vec<(Layout<'a>, tree::Begun)>,
    staged: Option<Staged>,
}

/// A pod on its way.
struct OnItsWay<'a> {
    /// Another one for each pod of the plan.
    number: usize,
    pod: &'a PodName,
    begun: Result<Begun<'a>>,
}

/// The trees of each planned pod, where those that it has from now on are known.
type Done<'a> = BTreeMap<&'a PodName, Option<Wanted<'a>>>;

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
    /// What new files wait for.
    syncs: Syncs,
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

    /// Publishes the planned pods: their trees, then their manifests.
    ///
    /// What has to be durable before the next step is so for all pods of a batch at once: what is in new trees and manifests,
    /// the trees' names. While the disk has to do with the names in one batch, the next one is written. A pod that fails at one
    /// step takes no other with it.
    fn publish(&mut self) -> Done<'a> {
        let mut done = Done::new();
        let mut taken = BTreeSet::new();
        let mut named: Vec<OnItsWay<'a>> = Vec::new();
        let mut numbers = 0..;
        for batch in batches(&self.plan.pods) {
            let mut written = Vec::with_capacity(batch.len());
            for (planned, number) in batch.iter().zip(&mut numbers) {
                let pod = &planned.rendering.pod;
                let meant_to_run = matches!(planned.activity, Activity::Active | Activity::AsItIs);
                if self.plan.unsure.contains(pod) && meant_to_run && self.running.contains(pod) {
                    self.report.left.push(pod.clone());
                    done.insert(pod, None);
                    continue;
                }
                self.syncs.of(number);
                let begun = match taken.insert(pod) {
                    true => self.begin(planned, number),
                    false => Err(MaterializeError::Rendering(RenderingProblem::PodTwice(Shown::new(&pod.to_string())))),
                };
                written.push(OnItsWay { number, pod, begun });
            }
            self.make_durable(&mut [&mut named, &mut written]);
            // Nothing at all that is not durable lies there when manifests appear.
            self.finish_all(std::mem::replace(&mut named, written), &mut done);
            for pod in &mut named {
                self.syncs.of(pod.number);
                if let Ok(begun) = &mut pod.begun
                    && let Err(error) = self.place_trees(begun)
                {
                    self.abandon(begun);
                    pod.begun = Err(error);
                }
            }
            self.syncs.start();
        }
        self.make_durable(&mut [&mut named]);
        self.finish_all(named, &mut done);
        done
    }

    fn make_durable(&self, pods: &mut [&mut [OnItsWay<'a>]]) {
        let mut failed = self.syncs.all(self.manifests.prepared.gate());
        for pod in pods.iter_mut().flat_map(|pods| pods.iter_mut()) {
            if let Some(error) = failed.remove(&pod.number)
                && let Ok(begun) = &mut pod.begun
            {
                self.abandon(begun);
                pod.begun = Err(error);
            }
        }
    }

    fn finish_all(&mut self, pods: Vec<OnItsWay<'a>>, done: &mut Done<'a>) {
        for OnItsWay { pod, begun, .. } in pods {
            let result = begun.and_then(|begun| self.finish(begun));
            let (wanted, outcome) = result.unwrap_or_else(|error| (None, PodOutcome::Failed(error)));
            done.insert(pod, wanted);
            self.report.outcomes.push((pod.clone(), outcome));
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

    /// Checks a pod and writes its trees and its manifest. New ones have no names yet; `number` is another one for each pod.
    fn begin(&mut self, planned: &'a PlannedPod, number: usize) -> Result<Begun<'a>> {
        let rendering = &planned.rendering;
        let name = ManifestName::of(&rendering.pod).map_err(MaterializeError::Rendering)?;
        let mut layouts: Vec<Layout<'a>> = Vec::with_capacity(rendering.trees.len());
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
            match self.begin_tree(&pod.name.pod, (&layout, pod.trees.len())) {
                Ok(begun) => pod.trees.push((layout, begun)),
                Err(error) => {
                    self.abandon(&mut pod);
                    return Err(error);
                }
            }
        }
        if let Err(error) = self.stage(&mut pod, number) {
            self.abandon(&mut pod);
            return Err(error);
        }
        Ok(pod)
    }

    fn begin_tree(&mut self, pod: &PodName, (layout, number): (&Layout<'_>, usize)) -> Result<tree::Begun> {
        let pod_dir = self.make_pod_dir(layout.root, pod)?;
        let Materializer { owners, selinux, .. } = *self.materializer;
        let problems = &mut self.report.problems;
        tree::begin(&pod_dir, (layout, number), owners, selinux, &mut self.reader, problems)
    }

    /// Gives new trees their names: what is in them is durable.
    fn place_trees(&self, pod: &mut Begun<'_>) -> Result<()> {
        for (number, (layout, begun)) in pod.trees.iter_mut().enumerate() {
            if *begun == tree::Begun::Unplaced {
                let pod_dir = self.make_pod_dir(layout.root, &pod.name.pod)?;
                *begun = tree::Begun::Done(tree::place(&pod_dir, layout, number)?);
            }
        }
        Ok(())
    }

    /// Writes the manifest under a temporary name, which no kubelet reads.
    fn stage(&self, pod: &mut Begun<'_>, number: usize) -> Result<()> {
        let Some(place) = pod.place else { return Ok(()) };
        let prepared = self.manifests.prepared.together(&self.syncs)?;
        pod.staged =
            Some(self.manifests.stage(&pod.name, &pod.planned.rendering.manifest, place, (&prepared, number))?);
        Ok(())
    }

    /// Publishes the manifest: all that it mounts is there, and it is durable itself but for its name.
    fn finish(&mut self, pod: Begun<'a>) -> Result<(Option<Wanted<'a>>, PodOutcome)> {
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

    /// The directory of `pod` below `root`; if it is new it is durable when [`Syncs::all`] has synced, as is what is made in it.
    fn make_pod_dir(&self, root: TreeRoot, pod: &PodName) -> Result<Dir> {
        let attr = private_dir(self.materializer.owners);
        let mut at = self.materializer.root(root)?.together(&self.syncs)?;
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
