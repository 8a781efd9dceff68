//! Manifests that the file-based pod-checkpointer left active, taken over as they are: a kubelet restarts a static pod
//! whose file changes its contents or its name, so both stay until the copy is to go.
//!
//! Which ones are ours now is told by markers beside the prepared manifests: copies of the files as they were. A file that
//! has other contents today is somebody else's again.

use serde::Deserialize;

use super::dir::Entry;
use super::error::MaterializeError;
use super::manifest::{MANIFEST_MAX_BYTES, ManifestName, Manifests, is_copy};
use super::modes::private_file;
use super::name::Name;
use super::removal;
use super::{Materializer, Published, adopted_tree, publish};
use crate::checkpoint::ANNOTATION_CHECKPOINT_OF;
use crate::checkpoint::rendering::{PodName, TreeRoot};
use crate::clear::Clear;
use crate::store::Committed;

type Result<T, E = MaterializeError> = std::result::Result<T, E>;

/// Before a manifest's file name. The kubelet never reads this directory, and our own prefix keeps the name from being a
/// manifest's.
const MARKER: &str = ".ckpt-db.adopted.";

impl ManifestName {
    /// The name that the pod-checkpointer gives the same pod's manifest. Two pods can have one.
    fn theirs(&self) -> Option<Name> {
        Name::new(format!("{}-{}.json", self.pod.namespace, self.pod.name))
    }

    fn marker(&self) -> Option<Name> {
        Name::new(format!("{MARKER}{}_{}.json", self.pod.namespace, self.pod.name))
    }

    /// The pod whose marker has this name.
    fn of_marker(name: &Name) -> Option<Self> {
        Self::parse(&Name::new(name.text()?.strip_prefix(MARKER)?)?)
    }
}

impl Manifests<'_> {
    /// Every manifest that was taken over and is in the kubelet's directory still.
    pub(super) fn adopted(&self) -> Result<Vec<ManifestName>> {
        let mut adopted = Vec::new();
        for name in self.prepared.names()?.iter().filter_map(ManifestName::of_marker) {
            if self.is_adopted(&name)? {
                adopted.push(name);
            }
        }
        Ok(adopted)
    }

    /// Whether the pod's manifest in the kubelet's directory is one that was taken over.
    pub(super) fn is_adopted(&self, name: &ManifestName) -> Result<bool> {
        Ok(self.read_adopted(name)?.is_some())
    }

    /// That manifest.
    pub(super) fn read_adopted(&self, name: &ManifestName) -> Result<Option<Clear>> {
        let (Some(theirs), Some(marker)) = (name.theirs(), name.marker()) else { return Ok(None) };
        let Some((_, was)) = self.prepared.read(&marker, MANIFEST_MAX_BYTES)? else { return Ok(None) };
        let is = self.active.read(&theirs, MANIFEST_MAX_BYTES)?;
        Ok(is.map(|(_, is)| is).filter(|is| is.expose() == was.expose()))
    }

    /// Takes one that was taken over out of the kubelet's directory, for good.
    pub(super) fn remove_adopted(&self, name: &ManifestName) -> Result<()> {
        if let (Some(theirs), Some(marker)) = (name.theirs(), name.marker()) {
            self.active.unlink(&theirs)?;
            // Without the marker it would be somebody else's, should the power go now.
            self.active.sync()?;
            self.prepared.unlink(&marker)?;
        }
        Ok(())
    }

    /// Removes what an interrupted run left beside the prepared manifests, and markers of files that are gone.
    pub(super) fn sweep_prepared(&self) -> Result<()> {
        for name in self.prepared.names()?.into_iter().filter(Name::is_own) {
            let Some(marked) = ManifestName::of_marker(&name) else {
                publish::sweep_one(self.prepared, &name)?;
                continue;
            };
            let Some(theirs) = marked.theirs() else { continue };
            if self.active.look(&theirs)? == Entry::Absent {
                self.prepared.unlink(&name)?;
            }
        }
        Ok(())
    }

    /// Refuses a place beside an active manifest of theirs that was not taken over: the kubelet would have two of one pod.
    pub(super) fn check_beside_theirs(&self, name: &ManifestName) -> Result<()> {
        let Some(theirs) = name.theirs() else { return Ok(()) };
        match self.active.read(&theirs, MANIFEST_MAX_BYTES)? {
            Some((_, json)) if is_theirs(json.expose(), &name.pod) => Err(self.active.conflict(&theirs)),
            Some(_) | None => Ok(()),
        }
    }

    fn adopt(&self, name: &ManifestName) -> Result<Published> {
        let no_file =
            || MaterializeError::io("find a file name for", self.active.path(), rustix::io::Errno::NAMETOOLONG);
        let (theirs, marker) = (name.theirs().ok_or_else(no_file)?, name.marker().ok_or_else(no_file)?);
        let Some((_, json)) = self.active.read(&theirs, MANIFEST_MAX_BYTES)? else {
            return Err(self.active.conflict(&theirs));
        };
        if !is_theirs(json.expose(), &name.pod) {
            return Err(self.active.conflict(&theirs));
        }
        let published = publish::file(self.prepared, &marker, json.expose(), private_file(self.owners))?;
        self.prepared.sync()?;
        Ok(published)
    }
}

impl Materializer {
    /// Takes over the manifest of `pod` that the pod-checkpointer left in the kubelet's directory
    /// (`<namespace>-<name>.json`): from now on it is this pod's active manifest. The file stays as it is.
    ///
    /// # Errors
    /// There is no such file, or it is none that the pod-checkpointer made; or a manifest of ours is active already, beside
    /// which it can't stay. Nothing was changed.
    pub fn adopt_manifest(&self, pod: &Committed<PodName>) -> Result<Published> {
        let name = ManifestName::of(pod.get()).map_err(MaterializeError::Rendering)?;
        let manifests = self.manifests();
        if manifests.list(manifests.active)?.contains(&name) {
            return Err(manifests.active.conflict(&name.file));
        }
        manifests.adopt(&name)
    }

    /// Makes a tree of ours out of the plain files that the pod-checkpointer keeps of one object, `<namespace>/<pod>/<object>`
    /// below `root`. The directory itself stays, so that whoever has it mounted goes on reading the same values.
    ///
    /// # Errors
    /// There is something in it that is no value of an object: the directory stays as it is. Any other error leaves every
    /// value readable, and the next attempt goes on from there.
    pub fn adopt_tree(&self, pod: &Committed<PodName>, root: TreeRoot, object: &str) -> Result<Published> {
        let (Some(pod_dir), Some(object)) = (removal::open_pod_dir(self.root(root)?, pod.get())?, Name::new(object))
        else {
            return Ok(Published::Unchanged);
        };
        adopted_tree::adopt(&pod_dir, &object, self.owners, self.selinux)
    }
}

/// Whether `json` is a copy of `pod` that the pod-checkpointer made: it names its parent, and not as translation does.
fn is_theirs(json: &[u8], pod: &PodName) -> bool {
    #[derive(Deserialize)]
    struct Copy {
        kind: String,
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default = "default_namespace")]
        namespace: String,
        annotations: std::collections::BTreeMap<String, String>,
    }
    let Ok(Copy { kind, metadata }) = serde_json::from_slice::<Copy>(json) else { return false };
    let parent = metadata.annotations.get(ANNOTATION_CHECKPOINT_OF);
    kind == "Pod" && metadata.namespace == pod.namespace && parent == Some(&pod.name) && !is_copy(json)
}

fn default_namespace() -> String {
    "default".to_owned()
}
