//! `ckpt-db hold` and `ckpt-db release`: the operator's break-glass while there is no API server to say it to.

use std::io::Write;

use anyhow::{Context as _, bail};
use clap::Args;

use ckpt_db::agent::{self, HeldDown};
use ckpt_db::checkpoint::object::{Kind, ObjectKey};
use ckpt_db::checkpoint::rendering::{Manifest, PodName};
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::ops::admin::{AskError, Client, pod_name};
use ckpt_db::store::{Committed, LockState, RedbStore, Update, open_offline};

use super::args::{StoreArgs, TargetArgs};
use super::dump::why_closed;
use super::output::line;
use super::{Exit, chain, now_unix_ms, say, usage};

/// Take the copy of a pod away, and keep it away until 'release' or the API server answers
///
/// The running agent does it. With no agent running, it is recorded in the store and the copy is taken away at once.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ckpt-db hold shop/web
  ckpt-db hold -n shop web")]
pub(crate) struct Hold {
    #[command(flatten)]
    which: Which,
}

/// Let the copy of a pod that was held run again, where it is due
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ckpt-db release shop/web
  ckpt-db release -n shop web")]
pub(crate) struct Release {
    #[command(flatten)]
    which: Which,
}

#[derive(Args, Debug)]
struct Which {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    target: TargetArgs,

    /// Its namespace, where POD does not say it
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// The pod, as NAMESPACE/NAME, or its name
    #[arg(value_name = "POD")]
    pod: String,
}

impl Which {
    fn pod(&self) -> anyhow::Result<PodName> {
        match (&self.namespace, self.pod.contains('/')) {
            (Some(_), true) => Err(usage("the namespace is given twice: by --namespace and before the slash")),
            (Some(namespace), false) => {
                pod_name(&format!("{namespace}/{}", self.pod)).map_err(|message| usage(&message))
            }
            (None, true) => pod_name(&self.pod).map_err(|message| usage(&message)),
            (None, false) => Err(usage("which namespace? Name the pod as NAMESPACE/NAME, or give --namespace")),
        }
    }

    /// The agent's answer; `None` if no agent runs.
    fn ask(&self, ask: impl FnOnce(&Client) -> Result<String, AskError>) -> anyhow::Result<Option<String>> {
        match ask(&Client::new(&self.store.admin_socket()?)) {
            Ok(said) => Ok(Some(said)),
            Err(AskError::NoAgent(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The store, opened for writing. What can be refused is refused before, since opening leaves traces in the file.
    fn open(&self, pod: &PodName) -> anyhow::Result<RedbStore> {
        let (path, keys) = (self.store.store()?, self.store.keys()?);
        let context = || match self.store.admin_socket() {
            Ok(socket) => format!("no agent listens on {}, and it can't be recorded either", socket.display()),
            Err(_) => "no agent runs, and it can't be recorded either".to_owned(),
        };
        let snapshot = open_offline(&path, &keys.secrets()).with_context(context)?.into_inner();
        let key = ObjectKey::new(Kind::Pod, &pod.namespace, &pod.name)?;
        if !snapshot.objects().any(|object| *object.key == key) {
            bail!("no pod {pod} is stored in {}", path.display());
        }
        if snapshot.lock_state() == LockState::Locked {
            bail!("{}: {}", context(), why_closed(&snapshot, &keys.tried()));
        }
        RedbStore::open(&path, &keys.secrets(), Box::new(SystemEntropy)).with_context(context)
    }
}

/// A pod that is not stored has no copy that could be held.
fn accepted(update: &Committed<Update>) -> anyhow::Result<()> {
    match update.get().rejected.first() {
        Some(rejected) => bail!("{}: {}", rejected.object, rejected.problem),
        None => Ok(()),
    }
}

impl Hold {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let pod = self.which.pod()?;
        if let Some(said) = self.which.ask(|client| client.hold(&pod))? {
            line(out, format_args!("{said}"))?;
            return Ok(Exit::Fine);
        }
        let target = self.which.target.target(&self.which.store)?;
        let mut store = self.which.open(&pod)?;
        let HeldDown { update, taken_down } = agent::hold(&mut store, &pod, &target, now_unix_ms())?;
        accepted(&update)?;
        line(
            out,
            format_args!("{pod} is held until 'ckpt-db release', or until the API server answers (no agent runs)"),
        )?;
        match taken_down {
            Ok(true) => {
                line(out, format_args!("its manifest was active and is no more: a running kubelet stops its copy now"))?
            }
            Ok(false) => line(out, format_args!("no copy of it is active"))?,
            Err(error) => {
                let file = target.roots.manifests.join(Manifest::file_name(&pod));
                say(format_args!("error: its copy was not taken away: {}", chain(&error.into())));
                say(format_args!("if it is there, remove {} by hand", file.display()));
                return Ok(Exit::Failed);
            }
        }
        Ok(Exit::Fine)
    }
}

impl Release {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let pod = self.which.pod()?;
        if let Some(said) = self.which.ask(|client| client.release(&pod))? {
            line(out, format_args!("{said}"))?;
            return Ok(Exit::Fine);
        }
        let update = agent::release(&mut self.which.open(&pod)?, &pod, now_unix_ms())?;
        accepted(&update)?;
        line(
            out,
            format_args!("{pod} is no longer held; no agent runs, so what comes of it is decided at its next start"),
        )?;
        Ok(Exit::Fine)
    }
}
