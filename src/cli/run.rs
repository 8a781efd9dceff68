//! `ckpt-db run`: cold start from the store, then follow the source.

mod pass;
pub(super) mod reload;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use ckpt_db::agent::{Follow, SlotRules, Target};
use ckpt_db::checkpoint::settings::{ActivationPolicy, Settings};
use ckpt_db::crypto::generate_p256_pkcs8;
use ckpt_db::hardening::harden;
use ckpt_db::keys::write_generated;
use ckpt_db::source::api::tracker::ObjectRefresh;
use ckpt_db::source::manifests::Input;

use self::pass::Pass;
use self::reload::began;
use super::args::{StoreArgs, TargetArgs, TranslateArgs};
use super::bootstrap::BootstrapArgs;
use super::config::Reload;
use super::gates::{GateArgs, say_off};
use super::keeping::KeepArgs;
use super::key_look::KeyLook;
use super::logging::LogArgs;
use super::metrics::{MetricsArgs, features};
use super::output::Unheard;
use super::unlock::PolicyArgs;
use super::{Exit, follow, say, usage};

/// Keep the node's pods: render what the store holds, then follow the API server, or files
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  G=--feature-gates=Checkpointing=true         without it nothing is stored or rendered
  ckpt-db run $G --once                         render everything from the store, with no source
  ckpt-db run $G --once --manifests DIR         store what DIR holds, then render it
  ckpt-db run $G --manifests DIR                the same, and again when DIR changes, or on SIGHUP
  ckpt-db run $G --activation-policy off        follow the API server: store and report only
  ckpt-db run $G                                the same, and bring pods back while it is silent")]
pub(crate) struct Run {
    #[command(flatten)]
    gates: GateArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    translate: TranslateArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    keep: KeepArgs,
    #[command(flatten)]
    key_slots: PolicyArgs,
    #[command(flatten)]
    bootstrap: BootstrapArgs,
    #[command(flatten)]
    metrics: MetricsArgs,

    /// One pass, then exit
    #[arg(long)]
    once: bool,

    /// File or directory with the node's pods and their objects, YAML or JSON, or - for standard input
    ///
    /// It is the whole truth: what it no longer names is removed from the store. For example the output of 'kubectl get -o
    /// yaml'; pods bound to other nodes are left out.
    #[arg(long, value_name = "PATH")]
    manifests: Option<PathBuf>,

    /// Refuse the whole source if one document in it is bad
    #[arg(long, requires = "manifests")]
    strict: bool,

    /// How often the files of --manifests are looked at again
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    file_check_frequency: u64,

    /// Credentials for the API server [default: the kubelet's, where kubeadm, k3s, RKE2, k0s, MicroShift and others keep them]
    ///
    /// Where none is found yet, it is waited for. In a pod without any, its ServiceAccount is used.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["manifests", "once"])]
    kubeconfig: Option<PathBuf>,

    /// How ConfigMaps and Secrets are followed
    #[arg(long, value_enum, default_value_t = RefreshArg::Watch, value_name = "HOW", conflicts_with = "manifests")]
    object_refresh: RefreshArg,

    /// How many of the node's keys keep their slot in the store: the newest, since each rotation makes another one
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    node_key_slots: u16,

    /// Make a node key below --root, for trying things out; says what it is
    #[arg(long, requires = "root")]
    generate_node_key: bool,

    #[command(flatten)]
    logging: LogArgs,

    /// How this was started, to be read again.
    #[arg(skip)]
    reload: Option<Reload>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RefreshArg {
    /// A watch each; where that is forbidden, as poll
    Watch,
    /// Each is read once a minute
    Poll,
}

impl Run {
    /// Learns how it was started, and which gates the configuration file sets.
    pub(super) fn configured(&mut self, reload: Reload, gates: &[(String, bool)]) {
        self.reload = Some(reload);
        self.gates.under(gates);
    }

    /// How it was started.
    pub(super) fn reload(&self) -> Option<&Reload> {
        self.reload.as_ref()
    }

    fn refresh(&self) -> ObjectRefresh {
        match self.object_refresh {
            RefreshArg::Watch => ObjectRefresh::Watch,
            RefreshArg::Poll => ObjectRefresh::Poll,
        }
    }

    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        self.logging.begin();
        tracing::debug!("{}", harden());
        // Pods come back whether or not anybody reads what is said about it.
        let out = &mut Unheard(out);
        let input = self.manifests.as_deref().map(Input::from_option);
        if matches!(input, Some(Input::Stdin)) && self.store.unlock.reads_stdin() {
            return Err(usage("standard input can be read once only: give the recovery code in a file"));
        }
        match (self.once, &input) {
            (true, None) => self.render_store(out),
            (true, Some(input)) => {
                let mut pass = self.prepare()?;
                pass.cold_start(out)?;
                pass.store_and_render(input, out)
            }
            (false, Some(Input::Path(source))) => {
                // Before anything else: a signal that comes during the first pass waits for its end.
                let keys = KeyLook::new(&self.store);
                let follow = Follow::new(move || keys.files()).context("cannot wait for signals")?;
                let mut pass = self.prepare()?;
                if let Some(reload) = &self.reload {
                    began(reload, self.gates.checkpointing()?);
                }
                pass.cold_start(out)?;
                follow.ready();
                pass.follow(source, follow, out)
            }
            (false, Some(Input::Stdin)) => Err(usage(
                "standard input can be read once only: give --once with --manifests -, or a file or directory",
            )),
            (false, None) => self.follow_api(),
        }
    }

    /// Follows the API server.
    fn follow_api(&self) -> anyhow::Result<Exit> {
        let (target, mut settings) = self.begin()?;
        let checkpointing = self.gates.checkpointing()?;
        let metrics = self.metrics.address(self.store.place.root.is_some());
        if !checkpointing {
            settings.activation = ActivationPolicy::Off;
        }
        let left_over = if checkpointing { None } else { say_off(&self.store.store()?, &target.roots) };
        let keys = KeyLook::new(&self.store);
        let reloading = self.reloading(&keys, &target.roots, checkpointing);
        let follow = follow::Follow {
            store: &self.store,
            keys,
            slots: self.slots(),
            keep: &self.keep,
            bootstrap: &self.bootstrap,
            metrics: metrics
                .map(|address| Ok::<_, anyhow::Error>((address, features(&self.gates.gates()?))))
                .transpose()?,
            began_without: self.reload.as_ref().and_then(|reload| began(reload, checkpointing)),
            settings,
            checkpointing,
            left_over,
            rendered_to: target,
            node_name: self.translate.node_name.clone(),
            kubeconfig: self.kubeconfig.clone(),
            refresh: self.refresh(),
            reloading,
        };
        follow.run()
    }

    fn slots(&self) -> SlotRules {
        SlotRules { node_keys_max: self.node_key_slots.into(), policy: self.key_slots.policy() }
    }

    /// Renders what the store holds, and nothing else.
    fn render_store(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        if !self.gates.checkpointing()? {
            bail!(
                "the feature gate Checkpointing is off: nothing is read from the store or rendered; give \
                 --feature-gates=Checkpointing=true"
            );
        }
        let mut pass = self.prepare()?;
        match pass.cold_start(out)? {
            Some(exit) => Ok(exit),
            None => {
                bail!("there is no checkpoint store at {}; give --manifests PATH to make one", pass.path().display())
            }
        }
    }

    fn prepare(&self) -> anyhow::Result<Pass<'_>> {
        let path = self.store.store()?;
        let (target, settings) = self.begin()?;
        let checkpointing = self.gates.checkpointing()?;
        if !checkpointing {
            say_off(&path, &target.roots);
        }
        Ok(Pass::new(self, path, target, settings, checkpointing))
    }

    /// Where files are rendered to, and how; a node key is made where that is asked for.
    fn begin(&self) -> anyhow::Result<(Target, Settings)> {
        let target = self.target.target(&self.store)?;
        let settings = self.translate.settings(&target.roots)?;
        self.say_trial(&target);
        if self.generate_node_key && self.gates.checkpointing()? {
            self.generate_key()?;
        }
        Ok((target, settings))
    }

    fn say_trial(&self, target: &Target) {
        if let Some(root) = &self.store.place.root {
            say(format_args!(
                "note: trial below {}: owners of files are not changed, and the secret root {} is a plain directory, not memory",
                root.display(),
                target.roots.secrets.display()
            ));
        }
    }

    fn generate_key(&self) -> anyhow::Result<()> {
        let path = self.store.layout()?.generated_key();
        match write_generated(&path, &generate_p256_pkcs8()?) {
            Ok(()) => say(format_args!(
                "note: made a node key at {}, for trying things out: whoever has this file and the store has the Secrets",
                path.display()
            )),
            // It was made by an earlier start.
            Err(ckpt_db::keys::KeyFileError::Exists(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
