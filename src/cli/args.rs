//! Options that several commands share, and what they become in the library's terms.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, ValueEnum};

use ckpt_db::agent::Target;
use ckpt_db::checkpoint::env_file::NoHelper;
use ckpt_db::checkpoint::settings::{ActivationPolicy, SecretEnv, Settings, TokenPolicy};
use ckpt_db::layout::Layout;
use ckpt_db::materialize::{Owners, Roots, SecretRootPolicy};
use ckpt_db::node::helper;
use ckpt_db::ops::admin::Client;
use ckpt_db::source::api::credentials::Place;

use super::unlock::{Keys, UnlockArgs};
use super::{follow, say};

/// Where the store is, and what opens it.
#[derive(Args, Clone, Debug)]
pub(crate) struct StoreArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) unlock: UnlockArgs,
}

/// Where the store is.
#[derive(Args, Clone, Debug)]
pub(crate) struct PlaceArgs {
    /// Directory that all default paths are below, for trying things out without root [default: /]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,

    #[command(flatten)]
    config: ConfigArgs,

    #[command(flatten)]
    store: StoreFile,

    /// Socket on which the running agent is asked [default: /run/ckpt-db/admin.sock below --root]
    #[arg(long, value_name = "FILE")]
    admin_socket: Option<PathBuf>,
}

/// Where settings are read from, before any other option is looked at.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConfigArgs {
    /// File with settings, a CheckpointerConfiguration, which options override [default: /etc/ckpt-db/config.yaml below
    /// --root, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// `--store`, and whether it was given: what the configuration says is where this node has its store.
#[derive(Clone, Debug)]
struct StoreFile {
    path: Option<PathBuf>,
    named: bool,
}

impl Args for StoreFile {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.arg(
            Arg::new("store")
                .long("store")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("The store [default: /var/lib/ckpt-db/checkpoint-store.db below --root]"),
        )
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for StoreFile {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let named = matches.value_source("store") == Some(ValueSource::CommandLine);
        Ok(Self { path: matches.get_one("store").cloned(), named })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl StoreArgs {
    pub(crate) fn admin_socket(&self) -> anyhow::Result<PathBuf> {
        Ok(self.place.admin_socket.clone().unwrap_or(self.layout()?.admin_socket()))
    }

    pub(crate) fn layout(&self) -> anyhow::Result<Layout> {
        let root = self.place.root.as_deref().unwrap_or(std::path::Path::new("/"));
        // Manifests name absolute paths.
        let root = std::path::absolute(root).with_context(|| format!("cannot make {} absolute", root.display()))?;
        Ok(Layout::new(&root))
    }

    /// Whether it is the store of the node below the root, and not a copy from elsewhere.
    pub(crate) fn is_of_this_node(&self) -> bool {
        !self.place.store.named
    }

    pub(crate) fn store(&self) -> anyhow::Result<PathBuf> {
        Ok(self.place.store.path.clone().unwrap_or(self.layout()?.store()))
    }

    /// Every key that can be found. A key file that was named and can't be used is said; it ends nothing.
    pub(crate) fn keys(&self) -> anyhow::Result<Keys> {
        let keys = self.look_for_keys()?;
        keys.warnings.iter().for_each(|warning| say(format_args!("{warning}")));
        Ok(keys)
    }

    /// The same, with what there is to say left to the caller.
    pub(crate) fn look_for_keys(&self) -> anyhow::Result<Keys> {
        self.unlock.look(&self.layout()?)
    }

    /// The files in which keys are looked for.
    pub(crate) fn key_files(&self) -> anyhow::Result<Vec<PathBuf>> {
        Ok(self.unlock.files(&self.layout()?))
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

    #[command(flatten)]
    config: ConfigArgs,

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

/// Which node this is, and who says so.
#[derive(Args, Clone, Debug)]
pub(crate) struct ApiArgs {
    /// Name of this node [default: as the credentials or the store say]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(crate) node_name: Option<String>,

    /// Credentials for the API server [default: the kubelet's]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

impl ApiArgs {
    /// Where credentials are looked for.
    pub(crate) fn place(&self, store: &StoreArgs) -> anyhow::Result<Place> {
        Ok(follow::place(self.kubeconfig.clone(), store.layout()?.root()))
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
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
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
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
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

    /// Whether nothing may be rendered that no key authenticates.
    pub(crate) fn requires_authentication(&self) -> bool {
        self.require_authentication
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

    /// Where values of Secrets are rendered to [default: /etc/kubernetes/checkpoint-secrets below --root]
    #[arg(long, value_name = "DIR")]
    secret_root: Option<PathBuf>,

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
        let trial = store.place.root.is_some();
        let secrets = self.secret_root.clone().unwrap_or(layout.secrets());
        Ok(Target {
            roots: Roots {
                manifests: self.pod_manifest_path.clone().unwrap_or(layout.manifests()),
                prepared: layout.prepared(),
                // Manifests name it.
                secrets: std::path::absolute(&secrets)
                    .with_context(|| format!("cannot make {} absolute", secrets.display()))?,
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
