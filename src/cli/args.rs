//! Options that several commands share, and what they become in the library's terms.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use ckpt_db::agent::{AtHand, Target};
use ckpt_db::checkpoint::env_file::NoHelper;
use ckpt_db::checkpoint::settings::{ActivationPolicy, SecretEnv, Settings, TokenPolicy};
use ckpt_db::keys::{self, NodeKey};
use ckpt_db::layout::Layout;
use ckpt_db::materialize::{Owners, Roots, SecretRootPolicy};
use ckpt_db::node::helper;
use ckpt_db::ops::admin::Client;
use ckpt_db::store::fingerprint;
use store_format::Unlocker;

use super::say;

/// Where the store and the node's keys are.
#[derive(Args, Clone, Debug)]
pub(crate) struct StoreArgs {
    /// Directory that all default paths are below, for trying things out without root [default: /]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,

    /// The store [default: /var/lib/ckpt-db/checkpoint-store.db below --root]
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,

    /// PEM file with a private key of the node; may be given several times
    ///
    /// Without it the kubelet's client and serving keys are looked for, and the key that --generate-node-key made.
    #[arg(long, value_name = "FILE")]
    node_key: Vec<PathBuf>,

    /// Socket on which the running agent is asked [default: /run/ckpt-db/admin.sock below --root]
    #[arg(long, value_name = "FILE")]
    admin_socket: Option<PathBuf>,
}

impl StoreArgs {
    pub(crate) fn admin_socket(&self) -> anyhow::Result<PathBuf> {
        Ok(self.admin_socket.clone().unwrap_or(self.layout()?.admin_socket()))
    }

    pub(crate) fn layout(&self) -> anyhow::Result<Layout> {
        let root = self.root.as_deref().unwrap_or(std::path::Path::new("/"));
        // Manifests name absolute paths.
        let root = std::path::absolute(root).with_context(|| format!("cannot make {} absolute", root.display()))?;
        Ok(Layout::new(&root))
    }

    /// Whether it is the store of the node below the root, and not a copy from elsewhere.
    pub(crate) fn is_of_this_node(&self) -> bool {
        self.store.is_none()
    }

    pub(crate) fn store(&self) -> anyhow::Result<PathBuf> {
        Ok(self.store.clone().unwrap_or(self.layout()?.store()))
    }

    /// Every key that can be found. A key file that was named and can't be used is said; it ends nothing.
    pub(crate) fn keys(&self) -> anyhow::Result<Keys> {
        let keys = self.look_for_keys()?;
        keys.warnings.iter().for_each(|warning| say(format_args!("{warning}")));
        Ok(keys)
    }

    /// Where keys are looked for: the files that were named, else the usual ones.
    pub(crate) fn key_search(&self) -> anyhow::Result<keys::KeySearch> {
        let defaults =
            if self.node_key.is_empty() { keys::default_key_paths(self.layout()?.root()) } else { Vec::new() };
        Ok(keys::KeySearch { explicit: self.node_key.clone(), defaults })
    }

    /// The same, with what there is to say left to the caller.
    pub(crate) fn look_for_keys(&self) -> anyhow::Result<Keys> {
        let found = keys::find(&self.key_search()?);
        let mut unusable = Vec::new();
        let mut absent = Vec::new();
        let mut warnings = Vec::new();
        for (path, error) in found.tried {
            if error.is_absent() && !self.node_key.contains(&path) {
                absent.push(path);
            } else {
                warnings.push(format!("warning: {}", super::chain(&anyhow::Error::new(error))));
                unusable.push(path);
            }
        }
        let unlockers = found.keys.iter().map(|key| Unlocker::from(key.secret.clone())).collect();
        Ok(Keys { found: found.keys, current: found.current, unlockers, unusable, absent, warnings })
    }
}

/// The keys at hand.
pub(crate) struct Keys {
    pub(crate) found: Vec<NodeKey>,
    /// Which of them get a key slot, by their place.
    pub(crate) current: Vec<usize>,
    /// What they open, in the same order.
    pub(crate) unlockers: Vec<Unlocker>,
    /// Files that are there, or were asked for, and hold no key that can be used.
    pub(crate) unusable: Vec<PathBuf>,
    /// Default places where there is no file.
    pub(crate) absent: Vec<PathBuf>,
    /// What is wrong with the unusable ones, a line each.
    pub(crate) warnings: Vec<String>,
}

impl Keys {
    /// The same for the agent: those that get a key slot, and the others.
    pub(crate) fn at_hand(&self) -> AtHand {
        let current = self.current.iter().filter_map(|at| self.unlockers.get(*at).cloned()).collect();
        let others = self.unlockers.iter().enumerate().filter(|(at, _)| !self.current.contains(at));
        AtHand { current, others: others.map(|(_, unlocker)| unlocker.clone()).collect() }
    }

    pub(crate) fn secrets(&self) -> Vec<&Unlocker> {
        self.unlockers.iter().collect()
    }

    /// The keys at hand and their fingerprints, to be compared with those of the store.
    pub(crate) fn tried(&self) -> String {
        let shown: Vec<String> = self
            .found
            .iter()
            .zip(&self.unlockers)
            .map(|(key, unlocker)| {
                let fingerprint = fingerprint(unlocker).map_or("no public part".to_owned(), |octets| short(&octets));
                format!("{} ({fingerprint})", key.source.display())
            })
            .collect();
        if shown.is_empty() { "no key was found".to_owned() } else { format!("tried {}", shown.join(", ")) }
    }
}

/// The first eight octets of a fingerprint: enough to tell a node's keys apart.
pub(crate) fn short(fingerprint: &[u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(&fingerprint[..8])
}

/// Where the running agent is asked.
#[derive(Args, Clone, Debug)]
pub(crate) struct AgentArgs {
    /// Directory that all default paths are below, for trying things out without root [default: /]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,

    /// Socket on which the running agent is asked [default: /run/ckpt-db/admin.sock below --root]
    #[arg(long, value_name = "FILE")]
    admin_socket: Option<PathBuf>,
}

impl AgentArgs {
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let root = self.root.as_deref().unwrap_or(std::path::Path::new("/"));
        let socket = self.admin_socket.clone().unwrap_or(Layout::new(root).admin_socket());
        let socket =
            std::path::absolute(&socket).with_context(|| format!("cannot make {} absolute", socket.display()))?;
        Ok(Client::new(&socket))
    }
}

/// How pods are judged and translated.
#[derive(Args, Debug)]
pub(crate) struct TranslateArgs {
    /// Name of this node; a store of another one is refused
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(crate) node_name: Option<String>,

    /// Which stored pods are activated
    #[arg(long, value_enum, default_value_t = PolicyArg::All, value_name = "POLICY")]
    activation_policy: PolicyArg,

    /// Environment values that come from Secrets (others can read them in the mirror pod)
    #[arg(long, value_enum, default_value_t = SecretEnvArg::Auto, value_name = "WHAT")]
    secret_env: SecretEnvArg,

    /// Statically linked ckpt-db on the node, which copies run to make their env file [default: this program]
    #[arg(long, value_name = "FILE")]
    env_file_helper: Option<PathBuf>,

    /// Projected service account tokens, which nobody can issue offline
    #[arg(long, value_enum, default_value_t = TokenArg::Omit, value_name = "WHAT")]
    service_account_tokens: TokenArg,

    /// Keep the parents' labels, so that Services, PDBs and controllers count the copies
    #[arg(long)]
    keep_labels: bool,

    /// Resource requests of the copies: zero, or kept (a copy that does not fit evicts running pods)
    #[arg(long, value_enum, default_value_t = ResourcesArg::Zero, value_name = "WHAT")]
    copy_resources: ResourcesArg,

    /// Pods with a runtime class, which is read through the API: refuse, or drop the class (weakens their sandbox)
    #[arg(long, value_enum, default_value_t = RuntimeClassArg::Refuse, value_name = "WHAT")]
    runtime_class: RuntimeClassArg,

    /// Annotation (or prefix ending in / or *) to keep on the copies beside the default ones; may be given several times
    #[arg(long, value_name = "NAME")]
    keep_annotation: Vec<String>,

    /// Render nothing that no key authenticates
    #[arg(long)]
    require_authentication: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PolicyArg {
    /// Store and report, render nothing
    Off,
    /// Only pods annotated checkpointer.alpha.coreos.com/checkpoint=true
    Annotated,
    /// All pods that a power cut should not stop
    All,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SecretEnvArg {
    /// Through an env file where that is possible; else literal for annotated pods, refuse for all others
    Auto,
    /// Through a file in memory, which an init container makes (kubelets since 1.35); else refuse
    EnvFile,
    /// Written into the manifest
    Literal,
    /// Such pods are not recoverable
    Refuse,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TokenArg {
    /// Render the volume without the token
    Omit,
    /// Such pods are not recoverable
    Refuse,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ResourcesArg {
    /// Explicitly zero
    Zero,
    /// As in the parent
    Keep,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RuntimeClassArg {
    /// Such pods are not recoverable
    Refuse,
    /// Start them without it
    Drop,
}

impl TranslateArgs {
    /// The settings for trees below these roots.
    pub(crate) fn settings(&self, roots: &Roots) -> anyhow::Result<Settings> {
        let mut settings = Settings {
            secret_root: path_text(&roots.secrets)?,
            configmap_root: path_text(&roots.configmaps)?,
            activation: match self.activation_policy {
                PolicyArg::Off => ActivationPolicy::Off,
                PolicyArg::Annotated => ActivationPolicy::Annotated,
                PolicyArg::All => ActivationPolicy::All,
            },
            secret_env: match self.secret_env {
                SecretEnvArg::Auto => SecretEnv::Auto,
                SecretEnvArg::EnvFile => SecretEnv::EnvFile,
                SecretEnvArg::Literal => SecretEnv::Literal,
                SecretEnvArg::Refuse => SecretEnv::Refuse,
            },
            env_file_helper: self.env_file_helper(),
            tokens: match self.service_account_tokens {
                TokenArg::Omit => TokenPolicy::Omit,
                TokenArg::Refuse => TokenPolicy::Refuse,
            },
            keep_labels: self.keep_labels,
            keep_requests: matches!(self.copy_resources, ResourcesArg::Keep),
            drop_runtime_class: matches!(self.runtime_class, RuntimeClassArg::Drop),
            require_authentication: self.require_authentication,
            ..Settings::default()
        };
        settings.kept_annotations.extend(self.keep_annotation.iter().cloned());
        Ok(settings)
    }

    /// In a pod of its own the agent sees other files than the kubelet does.
    fn env_file_helper(&self) -> Result<String, NoHelper> {
        let in_pod = std::env::var_os("POD_NAME").is_some_and(|name| !name.is_empty());
        match (&self.env_file_helper, in_pod) {
            (Some(path), true) => helper::named(path),
            (Some(path), false) => helper::look(path),
            (None, true) => Err(NoHelper::InPod),
            (None, false) => match std::env::current_exe() {
                Ok(path) => helper::look(&path),
                Err(error) => Err(NoHelper::Unusable(format!("the path of this program is not known: {error}"))),
            },
        }
    }
}

/// Where rendered files go.
#[derive(Args, Debug)]
pub(crate) struct TargetArgs {
    /// The kubelet's static pod directory [default: /etc/kubernetes/manifests below --root]
    #[arg(long, value_name = "DIR")]
    pod_manifest_path: Option<PathBuf>,

    /// What the secret root must be kept in; with --root it may be a plain directory in any case
    #[arg(long, value_enum, default_value_t = MediumArg::Memory, value_name = "MEDIUM")]
    secret_root_medium: MediumArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MediumArg {
    /// A memory file system
    Memory,
    /// Any file system: Secrets lie on disk in clear text
    Disk,
}

impl TargetArgs {
    pub(crate) fn target(&self, store: &StoreArgs) -> anyhow::Result<Target> {
        let layout = store.layout()?;
        let trial = store.root.is_some();
        Ok(Target {
            roots: Roots {
                manifests: self.pod_manifest_path.clone().unwrap_or(layout.manifests()),
                prepared: layout.prepared(),
                secrets: layout.secrets(),
                configmaps: layout.configmaps(),
            },
            secret_root: match self.secret_root_medium {
                MediumArg::Memory if !trial => SecretRootPolicy::RequireMemory,
                MediumArg::Memory | MediumArg::Disk => SecretRootPolicy::AllowDisk,
            },
            owners: if trial { Owners::Unchanged } else { Owners::Root },
        })
    }
}

fn path_text(path: &std::path::Path) -> anyhow::Result<String> {
    let text =
        path.to_str().with_context(|| format!("{} is not UTF-8, which a manifest could not name", path.display()))?;
    Ok(text.to_owned())
}
