//! Where things lie on a node: every default path in one place, so that `--root` can move them all.

use std::path::{Path, PathBuf};

/// The default paths below a root (`/` on a node; any directory for trying things out).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The root itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The settings of the agent and of every command.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("etc/ckpt-db/config.yaml")
    }

    /// A copy of the settings that held last, for a start at which the file is wrong.
    #[must_use]
    pub fn last_good_config(&self) -> PathBuf {
        self.root.join("var/lib/ckpt-db/last-good-config.yaml")
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.root.join("var/lib/ckpt-db/checkpoint-store.db")
    }

    /// The key that `--generate-node-key` makes.
    #[must_use]
    pub fn generated_key(&self) -> PathBuf {
        self.root.join("var/lib/ckpt-db/node-key.pem")
    }

    /// The kubelet's static pod directory where nothing else is configured.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.root.join("etc/kubernetes/manifests")
    }

    /// Prepared manifests, named as the file-based pod-checkpointer named its inactive checkpoints.
    #[must_use]
    pub fn prepared(&self) -> PathBuf {
        self.root.join("etc/kubernetes/inactive-manifests")
    }

    /// Trees with values of Secrets.
    #[must_use]
    pub fn secrets(&self) -> PathBuf {
        self.root.join("etc/kubernetes/checkpoint-secrets")
    }

    /// All other trees.
    #[must_use]
    pub fn configmaps(&self) -> PathBuf {
        self.root.join("etc/kubernetes/checkpoint-configmaps")
    }

    /// The admin socket of the running agent, in a directory of its own.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.root.join("run/ckpt-db/admin.sock")
    }
}
