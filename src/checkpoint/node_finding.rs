//! One thing that is true of a node: its stable code, how much it matters, and the sentence with the remedy.

use std::fmt;
use std::path::{Path, PathBuf};

use super::network::Offline;
use super::object::Shown;
use super::settings::KubeletVersion;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// The operator should know it.
    Note,
    /// Pods that should come back would not.
    Problem,
}

impl Severity {
    /// A stable name for scripts, metrics and logs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Ok => "Ok",
            Self::Note => "Note",
            Self::Problem => "Problem",
        }
    }
}

/// One thing that is true of the node. Its text names the remedy where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeFinding {
    /// The kubelet reads our directory.
    StaticPodsRead(PathBuf),
    /// The kubelet will read our directory, which does not exist yet.
    StaticPodsNotThere(PathBuf),
    /// The kubelet reads another directory.
    StaticPodsElsewhere {
        /// The kubelet's.
        kubelet: PathBuf,
        /// Ours.
        ours: PathBuf,
    },
    /// The kubelet's configuration names no directory.
    StaticPodsOff {
        /// The configuration file; none if the kubelet is started without one.
        file: Option<PathBuf>,
        /// Our directory.
        ours: PathBuf,
    },
    /// Nobody knows what the kubelet reads.
    StaticPodsUnknown {
        /// Why.
        reason: String,
        /// Our directory.
        ours: PathBuf,
    },
    /// The pod network needs nobody.
    NetworkWorks {
        /// Its plug-ins.
        plugins: Vec<String>,
    },
    /// The pod network needs the API server, may need it, or nobody knows.
    Network(Offline),
    /// The pod network's configuration could not be read.
    NetworkUnknown(String),
    /// The kubelet's version is one that the translation was written for.
    KubeletVersion(KubeletVersion),
    /// The kubelet is older or newer than those.
    KubeletUntested(KubeletVersion),
    /// The kubelet's version is not stored.
    KubeletUnknown,
    /// Values of Secrets are kept in memory.
    SecretRootMemory,
    /// Values of Secrets lie on a disk.
    SecretRootDisk,
    /// The secret root can't be used.
    SecretRootUnusable(String),
    /// A key at hand opens the store.
    KeysOpen {
        /// How many slots there are.
        slots: usize,
    },
    /// No key at hand opens the store.
    KeysLocked {
        /// How many slots there are.
        slots: usize,
    },
    /// The store has no key slot.
    Keyless,
    /// There is no swap.
    SwapOff,
    /// Swapped pages stay in memory, compressed.
    SwapInMemory,
    /// Swapped pages are written to these areas.
    SwapOn(Vec<String>),
    /// Nobody knows whether there is swap.
    SwapUnknown(String),
}

/// The kubelets whose rules for static pods the translation follows.
pub(super) const KUBELETS: (KubeletVersion, KubeletVersion) =
    (KubeletVersion { major: 1, minor: 30 }, KubeletVersion { major: 1, minor: 37 });

impl NodeFinding {
    /// A stable name for scripts, metrics and logs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::StaticPodsRead(_) => "StaticPodsRead",
            Self::StaticPodsNotThere(_) => "StaticPodsNotThere",
            Self::StaticPodsElsewhere { .. } => "StaticPodsElsewhere",
            Self::StaticPodsOff { .. } => "StaticPodsOff",
            Self::StaticPodsUnknown { .. } => "StaticPodsUnknown",
            Self::NetworkWorks { .. } | Self::Network(Offline::Works) => "NetworkWorks",
            Self::Network(Offline::NeedsServer { .. }) => "NetworkNeedsServer",
            Self::Network(Offline::SubnetFileLost { .. }) => "NetworkSubnetFileLost",
            Self::Network(Offline::SubnetFileNeeded { .. }) => "NetworkSubnetFileNeeded",
            Self::Network(Offline::UnknownPlugin { .. } | Offline::NoPlugin) | Self::NetworkUnknown(_) => {
                "NetworkUnknown"
            }
            Self::KubeletVersion(_) => "KubeletVersion",
            Self::KubeletUntested(_) => "KubeletUntested",
            Self::KubeletUnknown => "KubeletUnknown",
            Self::SecretRootMemory => "SecretRootMemory",
            Self::SecretRootDisk => "SecretRootDisk",
            Self::SecretRootUnusable(_) => "SecretRootUnusable",
            Self::KeysOpen { .. } => "KeysOpen",
            Self::KeysLocked { .. } => "KeysLocked",
            Self::Keyless => "Keyless",
            Self::SwapOff => "SwapOff",
            Self::SwapInMemory => "SwapInMemory",
            Self::SwapOn(_) => "SwapOn",
            Self::SwapUnknown(_) => "SwapUnknown",
        }
    }

    /// How much it matters.
    ///
    /// A network that needs the API server is no problem of the node's: the verdicts of its pods say that they wait.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::StaticPodsRead(_)
            | Self::NetworkWorks { .. }
            | Self::Network(Offline::Works)
            | Self::KubeletVersion(_)
            | Self::SecretRootMemory
            | Self::KeysOpen { .. }
            | Self::SwapOff
            | Self::SwapInMemory => Severity::Ok,
            Self::StaticPodsNotThere(_)
            | Self::StaticPodsUnknown { .. }
            | Self::Network(
                Offline::NeedsServer { .. }
                | Offline::SubnetFileLost { .. }
                | Offline::SubnetFileNeeded { .. }
                | Offline::UnknownPlugin { .. }
                | Offline::NoPlugin,
            )
            | Self::NetworkUnknown(_)
            | Self::KubeletUntested(_)
            | Self::KubeletUnknown
            | Self::SecretRootDisk
            | Self::SwapOn(_)
            | Self::SwapUnknown(_) => Severity::Note,
            Self::StaticPodsElsewhere { .. }
            | Self::StaticPodsOff { .. }
            | Self::SecretRootUnusable(_)
            | Self::KeysLocked { .. }
            | Self::Keyless => Severity::Problem,
        }
    }
}

/// The sentence, and after a semicolon what to do. One line, without control characters of a file's.
impl fmt::Display for NodeFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StaticPodsRead(ours) => {
                write!(f, "static pods: the kubelet reads {}, as expected", path(ours))
            }
            Self::StaticPodsNotThere(ours) => {
                write!(f, "static pods: the kubelet reads {}, which does not exist; `ckpt-db run` makes it", path(ours))
            }
            Self::StaticPodsElsewhere { kubelet, ours } => write!(
                f,
                "static pods: the kubelet reads {}, not {}, so it would start nothing; use --pod-manifest-path",
                path(kubelet),
                path(ours)
            ),
            Self::StaticPodsOff { file: None, ours } => write!(
                f,
                "static pods: the kubelet is started without --config and --pod-manifest-path, so it would start nothing; \
                 let it read {}",
                path(ours)
            ),
            Self::StaticPodsOff { file: Some(file), ours } => write!(
                f,
                "static pods: {} has no staticPodPath, so the kubelet would start nothing; set it to {}",
                path(file),
                path(ours)
            ),
            Self::StaticPodsUnknown { reason, ours } => write!(
                f,
                "static pods: unknown whether the kubelet reads {}: {}; compare with its staticPodPath",
                path(ours),
                plain(reason)
            ),
            Self::NetworkWorks { plugins } => {
                write!(f, "pod network: works offline ({})", plain(&plugins.join(", ")))
            }
            Self::Network(offline) => network_text(f, offline),
            Self::NetworkUnknown(reason) => {
                write!(f, "pod network: unknown whether it works offline: {}", plain(reason))
            }
            Self::KubeletVersion(version) => write!(f, "kubelet: {}", Version(*version)),
            Self::KubeletUntested(version) => write!(
                f,
                "kubelet: {} is not between {} and {}, whose rules the manifests follow; try it before you rely on it",
                Version(*version),
                Version(KUBELETS.0),
                Version(KUBELETS.1)
            ),
            Self::KubeletUnknown => {
                f.write_str("kubelet: its version is unknown, the newest is taken; add the Node object to the source")
            }
            Self::SecretRootMemory => f.write_str("secret root: in memory"),
            Self::SecretRootDisk => {
                f.write_str("secret root: on disk, values of Secrets lie there in clear text; mount a tmpfs on it")
            }
            Self::SecretRootUnusable(reason) => write!(f, "secret root: can't be used: {}", plain(reason)),
            Self::KeysOpen { slots } => write!(f, "keys: the store opens ({slots} {})", slot_word(*slots)),
            Self::KeysLocked { slots } => write!(
                f,
                "keys: no key at hand opens the store ({slots} {}), Secrets stay sealed; name the key file with --node-key",
                slot_word(*slots)
            ),
            Self::Keyless => {
                f.write_str("keys: the store has no key yet, Secrets are not stored; name a key file with --node-key")
            }
            Self::SwapOff => f.write_str("swap: off"),
            Self::SwapInMemory => f.write_str("swap: on zram only, which stays in memory"),
            Self::SwapOn(areas) => write!(
                f,
                "swap is on: values of Secrets in memory may reach the disk ({}); turn it off or encrypt it",
                plain(&areas.join(", "))
            ),
            Self::SwapUnknown(reason) => write!(f, "swap: unknown: {}", plain(reason)),
        }
    }
}

fn network_text(f: &mut fmt::Formatter<'_>, offline: &Offline) -> fmt::Result {
    match offline {
        Offline::Works => f.write_str("pod network: works offline"),
        Offline::NeedsServer { plugin } => write!(
            f,
            "pod network: {} needs the API server; pods on the host network start without it, all others wait",
            plain(plugin)
        ),
        Offline::SubnetFileLost { file } => write!(
            f,
            "pod network: flannel needs {}, which a reboot removes; set its subnetFile to a path on disk, or all pods \
             but those on the host network wait for the API server",
            plain(file)
        ),
        Offline::SubnetFileNeeded { file } => {
            write!(f, "pod network: flannel works offline if {} survives a reboot; make sure of it", plain(file))
        }
        Offline::UnknownPlugin { plugin } => write!(
            f,
            "pod network: unknown whether {} works offline; try it: stop the API server and restart a pod",
            plain(plugin)
        ),
        Offline::NoPlugin => f.write_str("pod network: unknown, its CNI configuration names no plug-in"),
    }
}

fn slot_word(slots: usize) -> &'static str {
    if slots == 1 { "key slot" } else { "key slots" }
}

fn path(path: &Path) -> String {
    plain(&path.to_string_lossy())
}

/// As it is, or quoted with its control characters escaped.
fn plain(text: &str) -> String {
    if text.chars().any(char::is_control) { Shown::new(text).to_string() } else { text.to_owned() }
}

struct Version(KubeletVersion);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.major, self.0.minor)
    }
}
