//! What can go wrong while files are rendered, sorted by what the operator can do about it.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::checkpoint::data::DataError;
use crate::checkpoint::object::{ObjectKey, Shown};

/// Why a file, a tree or a root could not be brought in line. Never carries contents.
///
/// After any of them a reader sees what was published before, whole; the next pass tries again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaterializeError {
    /// Something that we did not make has a name that we need, or lies where we would remove. It was not touched.
    #[error("{path:?} is {found} that ckpt-db did not make; it was left as it is: move it away")]
    Conflict {
        /// What is in the way.
        path: PathBuf,
        /// What it is.
        found: Foreign,
    },
    /// The contents of a file could not be had from the store.
    #[error("tree {tree:?} can't be written: {problem}")]
    Contents {
        /// The tree that needs them.
        tree: PathBuf,
        /// Which object, and why.
        problem: ContentsProblem,
    },
    /// The secret root can't be used, so nothing that needs it is written.
    #[error(transparent)]
    SecretRoot(#[from] SecretRootError),
    /// Another process renders to the same directories at this moment. Nothing was changed.
    #[error("another process is rendering to {path:?}; try again when it is done")]
    InUse {
        /// The directory that holds the lock.
        path: PathBuf,
    },
    /// Two of the configured directories are one, so that one's files would be taken for the other's.
    #[error("{first:?} and {second:?} are the same directory; each root needs one of its own")]
    SameRoot {
        /// One root.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A rendering names a file that can't or must not exist. Nothing was written for this pod.
    #[error("the rendering can't be written: {0}")]
    Rendering(RenderingProblem),
    /// An SELinux label was refused. The tree is published all the same, with whatever labels it got.
    #[error(
        "could not label all of {tree:?} for SELinux, so containers may be refused to read it; let the policy allow \
         ckpt-db to relabel files to container_file_t, or run chcon -R system_u:object_r:container_file_t:s0 on it"
    )]
    Label {
        /// The directory that is mounted.
        tree: PathBuf,
        /// The system's answer to the first attempt that it refused; no other was made.
        source: Errno,
    },
    /// The file system refused.
    #[error("could not {action} {path:?}")]
    Io {
        /// What was attempted, as an infinitive.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: Errno,
    },
}

/// What stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// A symbolic link; never followed.
    Link,
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A FIFO, socket or device; never opened.
    Special,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Link => "a symbolic link",
            Self::File => "a file",
            Self::Directory => "a directory",
            Self::Special => "a FIFO, socket or device",
        })
    }
}

/// Why an object gave no contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentsProblem {
    /// The store does not hold it.
    #[error("{0} is not stored")]
    Missing(ObjectKey),
    /// The store does not hold it, because the API server does not let this node read it.
    #[error("{0}: the API server does not let this node read it")]
    Forbidden(ObjectKey),
    /// It is sealed, and no key at hand opens it.
    #[error("{0} is sealed and no key at hand opens it")]
    Sealed(ObjectKey),
    /// It was not stored for lack of a key.
    #[error("{0} is not stored: no node key yet")]
    NoKeyYet(ObjectKey),
    /// Its record is quarantined.
    #[error("{0} is damaged in the store")]
    Damaged(ObjectKey),
    /// Its data is not what the API allows.
    #[error("{object}: {problem}")]
    Data {
        /// The object.
        object: ObjectKey,
        /// What is wrong, without values.
        problem: DataError,
    },
    /// It has no such data key.
    #[error("{object} has no key {key}")]
    MissingKey {
        /// The object.
        object: ObjectKey,
        /// The data key.
        key: Shown,
    },
}

/// What is wrong with a rendering. The translator should never make such a one; names are checked again all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderingProblem {
    /// Namespace or name are not what the API server allows.
    #[error("pod {0} has a name that the API server would refuse")]
    PodName(Shown),
    /// `<namespace>_<name>.json` is longer than a file name may be.
    #[error("the manifest's file name for pod {0} would be longer than 255 characters")]
    ManifestName(Shown),
    /// A tree's own path.
    #[error("tree path {0} is not one or two plain file names")]
    TreePath(Shown),
    /// A file's path in a tree.
    #[error("path {0} in a tree is not made of plain file names")]
    FilePath(Shown),
    /// Two files of a tree have one name, or one's name is the other's directory.
    #[error("path {0} stands twice in one tree, or is a file and a directory at once")]
    FileTwice(Shown),
    /// Two trees of a pod have one path.
    #[error("tree path {0} stands twice in one pod")]
    TreeTwice(Shown),
    /// The plan holds two pods of this name.
    #[error("pod {0} stands twice in the plan")]
    PodTwice(Shown),
}

/// The secret root is not memory-backed and can't be made so from here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "secret root {path:?} is not a memory file system, so no value of a Secret is written there: {why}; \
     enable {unit} on the node, name a directory that is in memory (--secret-root), or choose --secret-root-medium=disk"
)]
pub struct SecretRootError {
    /// The configured root.
    pub path: PathBuf,
    /// Why no memory file system was mounted there.
    pub why: NoMount,
    /// The systemd mount unit of that path.
    pub unit: String,
}

/// Why a memory file system was not mounted over the secret root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoMount {
    /// This process has a mount namespace of its own: the kubelet would not see the mount.
    OwnNamespace,
    /// Whose mount namespace this is can't be told.
    UnknownNamespace,
    /// Another file system is mounted there.
    MountPoint,
    /// There are files, which a mount would hide.
    NotEmpty,
    /// The kernel refused the mount.
    Refused(Errno),
}

impl fmt::Display for NoMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnNamespace => {
                f.write_str("a mount made in this process's own mount namespace would be invisible to the kubelet")
            }
            Self::UnknownNamespace => f.write_str("it can't be told whether the kubelet would see a mount made here"),
            Self::MountPoint => f.write_str("another file system is mounted there already"),
            Self::NotEmpty => f.write_str("it holds files, and nothing is mounted over files"),
            Self::Refused(errno) => write!(f, "mounting a tmpfs failed ({errno})"),
        }
    }
}

impl MaterializeError {
    /// An answer of the file system.
    pub(super) fn io(action: &'static str, path: &Path, source: Errno) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}
