//! Rendered files: the only code that writes manifests and the trees they mount.
//!
//! [`Materializer::reconcile`] brings the directories in line with a [`Plan`]. Three rules hold at every moment, whatever
//! is cut short: a reader sees each manifest and tree whole, old or new; a manifest appears after all that it mounts;
//! nothing that somebody else made is changed, removed or followed.
//!
//! Values of Secrets are written below the secret root only, which must be in memory unless the operator allows a disk.
//!
//! There is one writer: whoever calls this holds the store's lock.

mod adopted;
mod adopted_tree;
mod clearing;
mod dir;
mod error;
mod folder;
mod gate;
mod generation;
mod layout;
mod leftover;
mod manifest;
mod medium;
mod modes;
mod name;
mod publish;
mod reconcile;
mod removal;
mod selinux;
mod syncs;
mod tree;

#[cfg(test)]
mod adopting;
#[cfg(test)]
mod as_it_is;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod mixed;
#[cfg(test)]
mod power;
#[cfg(test)]
mod random;
#[cfg(test)]
mod sandbox;
#[cfg(test)]
mod stopping;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use clearing::{OnDisk, on_disk};
pub use error::{ContentsProblem, Foreign, MaterializeError, NoMount, RenderingProblem, SecretRootError};
pub use folder::{Contents, Folder};
pub use leftover::remove_leftover;
pub use medium::probe as probe_secret_root;

use crate::checkpoint::lookup::Objects;
use crate::checkpoint::rendering::{Plan, PodName, TreeRoot};
use crate::store::Committed;
use dir::{Dir, Entry};
use gate::Gate;
use manifest::Manifests;
use selinux::SeLinux;

/// The directories that files are rendered to. Missing ones are made.
#[derive(Clone, Debug)]
pub struct Roots {
    /// The kubelet's static pod directory (`staticPodPath`).
    pub manifests: PathBuf,
    /// Manifests that are ready but not active; on the same file system as `manifests`, so that activation is one rename.
    pub prepared: PathBuf,
    /// Trees with values of Secrets, and the manifests that carry such.
    pub secrets: PathBuf,
    /// All other trees.
    pub configmaps: PathBuf,
}

/// What a directory is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A tmpfs or ramfs: gone with the power.
    Memory,
    /// Anything else.
    Disk,
}

/// What the secret root must be (`--secret-root-medium`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretRootPolicy {
    /// A memory file system; nothing that needs the secret root is written otherwise.
    #[default]
    RequireMemory,
    /// Anything: the operator accepts clear text at rest.
    AllowDisk,
}

/// Who is to own rendered files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// `root:root`, and a pod's `fsGroup` as the group of its trees; needs `CAP_CHOWN`.
    Root,
    /// Whoever runs this: for trying it out without root.
    Unchanged,
}

/// What became of a file or tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It was not there before.
    Created,
    /// It was there, and was different.
    Replaced,
    /// It was there as it should be; nothing was written.
    Unchanged,
}

impl Published {
    fn over(before: &Entry) -> Self {
        if *before == Entry::Absent { Self::Created } else { Self::Replaced }
    }

    /// What became of two things together.
    fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::Replaced }
    }
}

/// What became of one planned pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodOutcome {
    /// Everything is as planned.
    Published {
        /// Its trees, all together.
        trees: Published,
        /// Its manifest; [`Published::Created`] when an active one was not active before.
        manifest: Published,
    },
    /// Something could not be done. The manifest stays where and as it was, and so does the tree in question.
    Failed(MaterializeError),
}

impl PodOutcome {
    /// Whether something could not be done.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

/// Files of ours that were removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The pod that they belonged to.
    pub pod: PodName,
    /// Which.
    pub files: RemovedFiles,
}

/// Which files were removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovedFiles {
    /// The manifest in the kubelet's directory: the kubelet stops the copy.
    ActiveManifest,
    /// The manifest that was ready.
    PreparedManifest,
    /// Trees below one of the roots.
    Trees,
}

/// Trees that a later pass removes, since containers may still be using them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The pod that they belong to.
    pub pod: PodName,
    /// The time from which on a pass removes them, in seconds since 1970.
    pub until_unix_s: u64,
}

/// What one pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Each planned pod, in the plan's order, but those in `left`.
    pub outcomes: Vec<(PodName, PodOutcome)>,
    /// What was removed.
    pub removed: Vec<Removed>,
    /// Pods whose active manifest was left as it is, since too little is known of them.
    pub left: Vec<PodName>,
    /// What is to be removed by a later pass.
    pub waiting: Vec<Waiting>,
    /// What else went wrong; no planned pod lacks a file because of these.
    pub problems: Vec<MaterializeError>,
}

/// Writes rendered files below its roots.
pub struct Materializer {
    manifests: Dir,
    prepared: Dir,
    secrets: Result<Dir, MaterializeError>,
    configmaps: Result<Dir, MaterializeError>,
    secrets_path: PathBuf,
    owners: Owners,
    selinux: SeLinux,
}

impl Materializer {
    /// Opens the roots, making those that are missing (0700), and a memory file system for the secret root if it has
    /// none and `policy` asks for it.
    ///
    /// The two roots of trees are ours alone and get mode 0700 (a tmpfs mounted without one would be open to everybody);
    /// an existing directory for manifests keeps its own.
    ///
    /// Where the kernel uses SELinux, trees of [`Owners::Root`] are labelled for containers.
    ///
    /// The answer about the secret root is that of this moment: after its unit has been started, open anew.
    ///
    /// # Errors
    /// The directories for manifests can't be used, or two roots are one directory. Trouble with the roots of trees is no
    /// error here, but of each pod that needs them.
    pub fn open(roots: Roots, policy: SecretRootPolicy, owners: Owners) -> Result<Self, MaterializeError> {
        let selinux = match owners {
            Owners::Root => SeLinux::of_kernel(),
            // No kubelet mounts these from where they are.
            Owners::Unchanged => SeLinux::Off,
        };
        Self::open_with(roots, policy, owners, selinux, &Gate::default())
    }

    fn open_with(
        roots: Roots,
        policy: SecretRootPolicy,
        owners: Owners,
        selinux: SeLinux,
        gate: &Gate,
    ) -> Result<Self, MaterializeError> {
        let secrets_path = absolute(&roots.secrets)?;
        let private = |dir: Dir| dir.set_own_attr(modes::private_dir(owners)).map(|_| dir);
        let opened = Self {
            manifests: Dir::open_root(&absolute(&roots.manifests)?, gate.clone())?,
            prepared: Dir::open_root(&absolute(&roots.prepared)?, gate.clone())?,
            secrets: medium::open(&secrets_path, policy, gate).and_then(private),
            configmaps: Dir::open_root(&absolute(&roots.configmaps)?, gate.clone()).and_then(private),
            secrets_path,
            owners,
            selinux,
        };
        opened.check_distinct()?;
        // Two passes at once would trip over each other's temporary names.
        opened.prepared.lock()?;
        Ok(opened)
    }

    /// Links name the secret root by `path` from now on: files that are rendered elsewhere, to be copied to their place,
    /// name that place.
    #[must_use]
    pub fn naming_secrets(self, path: PathBuf) -> Self {
        Self { secrets_path: path, ..self }
    }

    /// What the secret root is kept in.
    ///
    /// # Errors
    /// Why it can't be used; pods that need it fail with the same.
    pub fn medium(&self) -> Result<Medium, &MaterializeError> {
        self.secrets.as_ref().map(Dir::medium)
    }

    /// Brings the files in line with `plan`: publishes what it holds and removes what else is ours.
    ///
    /// A pod that fails is reported and does not stop the others. `now_unix_s` only decides when trees that were in use
    /// may go. Whatever interrupts a pass, the next one completes it.
    #[must_use]
    pub fn reconcile(&self, plan: &Committed<Plan>, objects: &dyn Objects, now_unix_s: u64) -> Report {
        reconcile::run(self, plan.get(), objects, now_unix_s)
    }

    /// The manifests of ours in the kubelet's directory, each with the UID of the parent that it stands in for: empty for
    /// a parent without one, and where the body of the manifest is gone or can't be read. One that was taken over from the
    /// pod-checkpointer has [`crate::checkpoint::named_parent`] for a UID.
    ///
    /// No link is followed, and no file read that is longer than what the kubelet takes.
    ///
    /// # Errors
    /// The directory can't be listed, or what has a manifest's name in it can't be looked at.
    pub fn active(&self) -> Result<BTreeMap<PodName, String>, MaterializeError> {
        self.manifests().active_parents()
    }

    fn manifests(&self) -> Manifests<'_> {
        Manifests {
            active: &self.manifests,
            prepared: &self.prepared,
            secrets: self.secrets.as_ref(),
            secrets_path: self.secrets_path.clone(),
            owners: self.owners,
        }
    }

    fn root(&self, root: TreeRoot) -> Result<&Dir, MaterializeError> {
        match root {
            TreeRoot::Secrets => self.secrets.as_ref(),
            TreeRoot::ConfigMaps => self.configmaps.as_ref(),
        }
        .map_err(Clone::clone)
    }

    fn check_distinct(&self) -> Result<(), MaterializeError> {
        let dirs =
            [Some(&self.manifests), Some(&self.prepared), self.secrets.as_ref().ok(), self.configmaps.as_ref().ok()];
        let mut seen: Vec<((u64, u64), &Dir)> = Vec::new();
        for dir in dirs.into_iter().flatten() {
            let id = dir.id()?;
            if let Some((_, first)) = seen.iter().find(|(other, _)| *other == id) {
                let (first, second) = (first.path().to_owned(), dir.path().to_owned());
                return Err(MaterializeError::SameRoot { first, second });
            }
            seen.push((id, dir));
        }
        Ok(())
    }
}

/// Links name the secret root, and must mean the same to the kubelet.
fn absolute(path: &Path) -> Result<PathBuf, MaterializeError> {
    std::path::absolute(path).map_err(|error| {
        let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::INVAL);
        MaterializeError::io("make absolute the path", path, errno)
    })
}
