//! What an operator asks for while no agent runs: one copy taken down, or a node cleared of all that was rendered.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::dir::Dir;
use super::error::MaterializeError;
use super::gate::Gate;
use super::manifest::{BODIES, ManifestName, Manifests};
use super::name::Name;
use super::{Materializer, Owners, Roots, removal};
use crate::checkpoint::rendering::{PodName, TreeRoot};
use crate::store::Committed;

type Result<T, E = MaterializeError> = std::result::Result<T, E>;

/// What lies on a node of what was rendered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnDisk {
    /// Pods with a manifest in the kubelet's directory: their copies run.
    pub active: BTreeSet<PodName>,
    /// Pods with a manifest that is ready.
    pub prepared: BTreeSet<PodName>,
    /// Pods with trees.
    pub trees: BTreeSet<PodName>,
}

impl OnDisk {
    /// Whether nothing does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.prepared.is_empty() && self.trees.is_empty()
    }
}

/// Looks at what is rendered below `roots`, without making or changing anything.
///
/// # Errors
/// A directory can't be read.
pub fn on_disk(roots: &Roots) -> Result<OnDisk> {
    let open = |path: &Path| match path.try_exists() {
        Ok(false) => Ok(None),
        // What can't be looked at can't be opened either, and that error says why.
        Ok(true) | Err(_) => Dir::open_root(path, Gate::default()).map(Some),
    };
    let secrets = open(&roots.secrets)?;
    let no_secrets = MaterializeError::io("open directory", &roots.secrets, rustix::io::Errno::NOENT);
    let secrets_path = super::absolute(&roots.secrets)?;
    let names = |active: &Dir, prepared: &Dir, adopted: bool| -> Result<BTreeSet<PodName>> {
        let manifests = Manifests {
            active,
            prepared,
            secrets: secrets.as_ref().ok_or(&no_secrets),
            secrets_path: secrets_path.clone(),
            owners: Owners::Unchanged,
        };
        let names = if adopted { manifests.adopted()? } else { manifests.list(active)? };
        Ok(names.into_iter().map(|name| name.pod).collect())
    };
    let (manifests_dir, prepared_dir) = (open(&roots.manifests)?, open(&roots.prepared)?);
    let list = |dir: Option<&Dir>| dir.map_or(Ok(BTreeSet::new()), |dir| names(dir, dir, false));
    let (mut active, prepared) = (list(manifests_dir.as_ref())?, list(prepared_dir.as_ref())?);
    if let (Some(manifests), Some(prepared)) = (&manifests_dir, &prepared_dir) {
        active.extend(names(manifests, prepared, true)?);
    }
    let mut trees = BTreeSet::new();
    for root in [secrets.as_ref(), open(&roots.configmaps)?.as_ref()].into_iter().flatten() {
        for (namespace, pods) in removal::pods(root)? {
            let names = pods.iter().filter_map(|pod| Some((namespace.text()?.to_owned(), pod.text()?.to_owned())));
            trees.extend(names.map(|(namespace, name)| PodName { namespace, name }));
        }
    }
    Ok(OnDisk { active, prepared, trees })
}

impl Materializer {
    /// Takes the manifest of `pod` out of the kubelet's directory, where it has one of ours there; whether it had. Its
    /// trees stay, and it stays prepared.
    ///
    /// # Errors
    /// The manifest is where it was, or its removal is not durable yet; the next pass of an agent tries again.
    pub fn take_down(&self, pod: &Committed<PodName>, now_unix_s: u64) -> Result<bool> {
        let manifests = self.manifests();
        let name = ManifestName::of(pod.get()).map_err(MaterializeError::Rendering)?;
        if !manifests.is_active(&name)? {
            return Ok(false);
        }
        let grace_s = removal::grace(manifests.termination_s(&name));
        for root in [TreeRoot::Secrets, TreeRoot::ConfigMaps] {
            let Ok(root) = self.root(root) else { continue };
            if let Ok(Some(dir)) = removal::open_pod_dir(root, pod.get()) {
                // Without a marker as well: a copy that goes on is worse than a volume that goes early.
                let _ = removal::mark(&dir, grace_s, now_unix_s, self.owners);
            }
        }
        manifests.deactivate(&name)?;
        self.manifests.sync()?;
        self.prepared.sync()?;
        Ok(true)
    }

    /// Removes the roots that are empty: for a node that is cleared. The kubelet's directory stays. Answers the ones that
    /// could not be removed, each with the reason.
    #[must_use]
    pub fn remove_roots(self) -> Vec<(PathBuf, io::Error)> {
        let trees = [self.secrets.as_ref().ok(), self.configmaps.as_ref().ok()].into_iter().flatten();
        if let Ok(secrets) = &self.secrets {
            // One that is not empty stays, and the root with it.
            let _ = secrets.remove_empty(&Name::of(BODIES));
        }
        let mut kept = Vec::new();
        for path in trees.chain([&self.prepared]).map(Dir::path) {
            match fs::remove_dir(path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => kept.push((path.to_owned(), error)),
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::sandbox::*;
    use super::super::*;
    use super::*;
    use crate::checkpoint::rendering::Activity;

    fn names(pods: &[&str]) -> BTreeSet<PodName> {
        pods.iter().map(|pod| name(pod)).collect()
    }

    #[test]
    fn one_copy_is_taken_down_and_nothing_else() {
        let sandbox = SandBox::fast();
        let shelf = Shelf::default();
        let both = vec![pod("a", Activity::Active, "v1", vec![]), clear_pod("b", Activity::Active, "v1", vec![])];
        let report = sandbox.open().reconcile(&plan(both), &shelf, NOW);
        fine(&report);
        let materializer = sandbox.open();
        for pod in ["b", "a"] {
            let down =
                |materializer: &Materializer| materializer.take_down(&Committed::pretended(name(pod)), NOW).unwrap();
            assert!(down(&materializer));
            assert!(!down(&materializer), "there is no second one");
        }
        assert!(materializer.take_down(&Committed::pretended(name("../x")), NOW).is_err());
        drop(materializer);
        let roots = sandbox.roots();
        let there = on_disk(&roots).unwrap();
        assert_eq!((there.active, there.prepared), (names(&[]), names(&["a", "b"])));
    }

    #[test]
    fn what_is_there_is_listed_and_nothing_is_made() {
        let sandbox = SandBox::fast();
        let roots = sandbox.roots();
        let before = sandbox.identities();
        assert!(on_disk(&roots).unwrap().is_empty());
        assert_eq!(sandbox.identities(), before);

        let shelf = Shelf::default().secret("t", &[("a", "A"), ("b", "B")]);
        let pods = vec![
            pod("a", Activity::Active, "v1", vec![config("t", &["a:A"])]),
            clear_pod("b", Activity::Prepared, "v1", vec![]),
        ];
        fine(&sandbox.open().reconcile(&plan(pods), &shelf, NOW));
        std::fs::write(roots.manifests.join("shop_foreign.json"), "{}").unwrap();
        let want = OnDisk { active: names(&["a"]), prepared: names(&["b"]), trees: names(&["a"]) };
        assert_eq!(on_disk(&roots).unwrap(), want);
    }

    /// What others put there stays, and so does the root that holds it.
    #[test]
    fn empty_roots_go() {
        let sandbox = SandBox::fast();
        let shelf = Shelf::default();
        let roots = sandbox.roots();
        fine(&sandbox.open().reconcile(&plan(vec![clear_pod("b", Activity::Active, "v1", vec![])]), &shelf, NOW));
        fine(&sandbox.open().reconcile(&plan(vec![]), &shelf, NOW));
        std::fs::write(roots.configmaps.join("theirs"), "").unwrap();
        let kept = sandbox.open().remove_roots();
        assert_eq!(kept.iter().map(|(path, _)| path).collect::<Vec<_>>(), [&roots.configmaps]);
        assert!(!roots.prepared.exists() && !roots.secrets.exists() && roots.manifests.exists());
    }
}
