//! `ckpt-db adopt`: a store of another node, or of another cluster, becomes this one's.

use std::io::Write;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;

use ckpt_db::agent::Adoption;
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::source::api::credentials::Credentials;
use ckpt_db::store::{Backend as _, LockState, RedbStore, StoreError, open_offline};

use super::args::{ApiArgs, StoreArgs, short};
use super::dump::why_closed;
use super::output::line;
use super::{Exit, now_unix_ms};

/// Make a store this node's: by the name and the cluster CA of the present credentials
///
/// A store that belongs to another node or cluster is not acted upon, since its pods may run elsewhere. This says that it
/// is right all the same: after the node was renamed, or the cluster got a new CA while the node was off.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  systemctl stop ckpt-db                    stops no pod
  ckpt-db adopt --dry-run                   whose it is, and whose it would be
  ckpt-db adopt
  systemctl start ckpt-db")]
pub(crate) struct Adopt {
    #[command(flatten)]
    store: StoreArgs,

    #[command(flatten)]
    api: ApiArgs,

    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Adopt {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let place = self.api.place(&self.store)?;
        let credentials = Credentials::load(&place).context("cannot tell which node and cluster this is")?;
        let node = match (&self.api.node_name, credentials.node_name()) {
            (Some(told), Some(found)) if told != found => {
                bail!("--node-name says {told}, but the credentials are those of node {found}")
            }
            (Some(name), _) => name.clone(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => {
                return Err(anyhow!("the credentials ({}) name no node; give --node-name NAME", credentials.user()));
            }
        };
        let (path, keys) = (self.store.store()?, self.store.keys()?);
        // Read first: what is refused, and what changes nothing, leaves no trace in the file.
        let snapshot =
            if self.dry_run { self.store.snapshot(&keys)? } else { alone(open_offline(&path, &keys.secrets()))? };
        let snapshot = snapshot.into_inner();
        if snapshot.lock_state() == LockState::Locked {
            bail!("cannot write to {}: {}", path.display(), why_closed(&snapshot, &keys.tried()));
        }
        let identity = snapshot.identity().with_context(|| {
            format!("the record of whose store {} is, is damaged: 'ckpt-db verify' tells more", path.display())
        })?;
        let Some(adoption) = Adoption::of(identity, &node, credentials.cluster_ca_sha256()) else {
            line(out, format_args!("{} is the store of node {node} and its cluster already", path.display()))?;
            return Ok(Exit::Fine);
        };
        if !self.dry_run {
            let mut store = alone(RedbStore::open(&path, &keys.secrets(), Box::new(SystemEntropy)))?;
            let _durable = store.update(vec![adoption.change()], now_unix_ms())?;
        }
        let Adoption { node: (was, is), ca_sha256: (were, are) } = &adoption;
        let done = if self.dry_run { "would become" } else { "is now" };
        line(out, format_args!("{} {done} the store of node {is}{}", path.display(), before(was, is)))?;
        if were != are {
            let named = |cas: &[[u8; 32]]| {
                let shown: Vec<String> = cas.iter().map(short).collect();
                if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
            };
            line(out, format_args!("cluster CAs: {} (before: {})", named(are), named(were)))?;
        }
        if self.dry_run {
            line(out, format_args!("nothing was changed (--dry-run)"))?;
        }
        Ok(Exit::Fine)
    }
}

/// An agent that runs has to be stopped first: it knows whose store it began with.
pub(super) fn alone<T>(opened: Result<T, StoreError>) -> anyhow::Result<T> {
    match opened {
        Ok(opened) => Ok(opened),
        Err(StoreError::InUse(path)) => bail!(
            "{} is in use by a running agent; stop it first ('systemctl stop ckpt-db', which stops no pod)",
            path.display()
        ),
        Err(error) => Err(error.into()),
    }
}

fn before(was: &str, is: &str) -> String {
    match was {
        "" => " (before: nobody's)".to_owned(),
        was if was == is => String::new(),
        was => format!(" (before: node {was})"),
    }
}
