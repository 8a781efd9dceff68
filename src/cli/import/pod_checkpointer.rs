//! `ckpt-db import pod-checkpointer`: adopts what the file-based pod-checkpointer left on the node.
//!
//! Exit status: 0 all of it is adopted, 1 something is not (and said), 2 nothing could be done.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;

use ckpt_db::agent::{Cleared, Imported, clear_away, import, is_truth, open_or_create, unneeded};
use ckpt_db::checkpoint::object::{Kind, ObjectKey};
use ckpt_db::source::api::credentials::Credentials;
use ckpt_db::source::pod_checkpointer::{Inventory, Place, Places, keep_out, look};
use ckpt_db::store::{LockState, Snapshot, StoreError, open_offline};

use super::super::adopt::alone;
use super::super::args::{StoreArgs, TargetArgs};
use super::super::dump::why_closed;
use super::super::output::{line, plural};
use super::super::{Exit, chain_of, follow, now_unix_ms, say};

/// Adopt what the file-based pod-checkpointer left on this node, while neither it nor an agent runs
///
/// Its checkpoints are stored, with the Secrets and ConfigMaps beside them. An active one goes on under the very manifest that
/// it has, so that none of its containers restarts, until its parent takes over. What the pod-checkpointer did not keep (service
/// account, affinity, owner, annotations, items and modes of volumes) comes with the first listing of the API server, which needs
/// not to be there now.
///
/// Whatever can't be adopted is named, with the reason. Values in clear text that are no longer needed stay until
/// --remove-leftovers, and what an active checkpoint mounts stays even then.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  systemctl stop ckpt-db                                  stops no pod
  ckpt-db import pod-checkpointer --dry-run               what would be adopted, what not, and why
  ckpt-db import pod-checkpointer
  systemctl start ckpt-db
  ckpt-db import pod-checkpointer --remove-leftovers      again, when no checkpoint of it is active any more")]
pub(crate) struct PodCheckpointer {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    target: TargetArgs,

    /// Name of this node [default: the store's, else the one that the checkpoints name, else that of the kubelet's certificate]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,

    /// Its inactive checkpoints [default: /etc/kubernetes/inactive-manifests below --root]
    #[arg(long, value_name = "DIR")]
    inactive_manifests: Option<PathBuf>,

    /// Its values of Secrets [default: /etc/kubernetes/checkpoint-secrets below --root]
    #[arg(long, value_name = "DIR")]
    checkpoint_secrets: Option<PathBuf>,

    /// Its values of ConfigMaps [default: /etc/kubernetes/checkpoint-configmaps below --root]
    #[arg(long, value_name = "DIR")]
    checkpoint_configmaps: Option<PathBuf>,

    /// Its lock file, which a running one holds [default: /var/run/lock/pod-checkpointer.lock below --root]
    #[arg(long, value_name = "FILE")]
    lock_file: Option<PathBuf>,

    /// Remove its files that nothing needs any more: they hold values in clear text
    #[arg(long)]
    remove_leftovers: bool,

    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl PodCheckpointer {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let (path, keys) = (self.store.store()?, self.store.keys()?);
        let target = self.target.target(&self.store)?;
        let layout = self.store.layout()?;
        let places = Places {
            active: target.roots.manifests.clone(),
            inactive: self.inactive_manifests.clone().unwrap_or(layout.prepared()),
            secrets: self.checkpoint_secrets.clone().unwrap_or(layout.secrets()),
            configmaps: self.checkpoint_configmaps.clone().unwrap_or(layout.configmaps()),
        };
        let _kept_out = self.keep_out(&layout.root().join("var/run/lock/pod-checkpointer.lock"))?;
        // Read first: what is refused leaves no trace in the file.
        let present = match open_offline(&path, &keys.secrets()) {
            Err(StoreError::NotFound(_)) => None,
            opened => Some(alone(opened)?.into_inner()),
        };
        if let Some(present) = present.as_ref().filter(|present| present.lock_state() == LockState::Locked) {
            bail!("cannot write to {}: {}", path.display(), why_closed(present, &keys.tried()));
        }
        let stored = |key: &ObjectKey| present.as_ref().is_some_and(|present| is_truth(present, key));
        let told = self.told_name(present.as_ref())?;
        let inventory = look(&places, told.as_deref(), &stored);
        for finding in &inventory.findings {
            say(format_args!("warning: {finding}"));
        }
        let mut exit = Exit::findings(!inventory.findings.is_empty());
        if inventory.found.is_empty() && inventory.leftovers.is_empty() {
            line(out, format_args!("there is nothing of a pod-checkpointer on this node"))?;
            return Ok(exit);
        }
        let node = match told {
            Some(node) => node,
            None => self.found_name(&inventory)?,
        };
        if self.dry_run {
            self.announce(out, &inventory, &places, &stored)?;
            return Ok(exit);
        }
        let mut store = alone(open_or_create(&path, &keys.secrets(), &node, now_unix_ms()))?;
        let imported = import(&mut store, &inventory, &places, &target, now_unix_ms())?;
        exit = exit.and(account(out, &inventory, &imported, &stored)?);
        let left = self.leave(out, &inventory, &imported, &places)?;
        if !inventory.found.is_empty() {
            say(format_args!(
                "next: start the agent (systemctl start ckpt-db); the API server's answer replaces what was imported"
            ));
        }
        Ok(exit.and(left))
    }

    /// Keeps a pod-checkpointer from working meanwhile, if there is a sign of one.
    fn keep_out(&self, default: &std::path::Path) -> anyhow::Result<Option<File>> {
        let path = self.lock_file.as_deref().unwrap_or(default);
        match keep_out(path) {
            Ok(lock) => Ok(lock),
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.dry_run => {
                say(format_args!(
                    "note: a pod-checkpointer runs: it holds {}. Stop it before the import",
                    path.display()
                ));
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => bail!(
                "a pod-checkpointer runs on this node (it holds {}) and would undo this; stop it first, as \
                 docs/how-to/migrate-pod-checkpointer.md says: deleting its DaemonSet alone makes it remove all checkpoints",
                path.display()
            ),
            Err(error) => Err(error).with_context(|| format!("cannot look at {}", path.display())),
        }
    }

    /// The name that this node is told to have, or that the store has.
    fn told_name(&self, present: Option<&Snapshot>) -> anyhow::Result<Option<String>> {
        let stored = present.and_then(Snapshot::node_name).filter(|name| !name.is_empty());
        match (&self.node_name, stored) {
            (Some(told), Some(stored)) if told != stored => bail!(
                "the store belongs to node {stored}, but --node-name says {told}; 'ckpt-db adopt' makes it this node's"
            ),
            (Some(told), _) => Ok(Some(told.clone())),
            (None, stored) => Ok(stored.map(str::to_owned)),
        }
    }

    /// The name that the checkpoints have for it, or the kubelet.
    fn found_name(&self, inventory: &Inventory) -> anyhow::Result<String> {
        let names: Vec<&String> = inventory.nodes.iter().collect();
        match names.as_slice() {
            [name] => Ok((*name).clone()),
            [] => {
                let place = follow::place(None, self.store.layout()?.root());
                let name = Credentials::load(&place).ok().and_then(|found| found.node_name().map(str::to_owned));
                name.context("no checkpoint names its node, and no credentials of a kubelet do; give --node-name NAME")
            }
            several => bail!(
                "the checkpoints are of several nodes ({}); give --node-name NAME",
                several.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
            ),
        }
    }

    fn announce(
        &self,
        out: &mut dyn Write,
        inventory: &Inventory,
        places: &Places,
        stored: &dyn Fn(&ObjectKey) -> bool,
    ) -> anyhow::Result<()> {
        for found in &inventory.found {
            let kept = if stored(&found.pod.key) { "is stored already" } else { "would be adopted" };
            let active = if found.active { "; its active manifest would be taken over as it is" } else { "" };
            line(out, format_args!("{} {kept}{active}", found.name))?;
        }
        for object in inventory.objects.iter().filter(|object| !stored(&object.key)) {
            line(out, format_args!("{} would be stored", object.key))?;
        }
        for leftover in &inventory.leftovers {
            let path = places.path(leftover.place).join(PathBuf::from_iter(&leftover.below));
            let would = match (self.remove_leftovers, leftover.place) {
                (_, Place::Tree(_)) if !leftover.after.is_empty() => "would be taken over, or be a leftover",
                (true, _) => "would be removed",
                (false, _) => "would be a leftover; --remove-leftovers removes it",
            };
            line(out, format_args!("{} {would}", path.display()))?;
        }
        line(out, format_args!("nothing was changed (--dry-run)"))?;
        Ok(())
    }

    /// Removes what is left over, or says what is; whether something is that should not be.
    fn leave(
        &self,
        out: &mut dyn Write,
        inventory: &Inventory,
        imported: &Imported,
        places: &Places,
    ) -> anyhow::Result<Exit> {
        if !self.remove_leftovers {
            let count = unneeded(imported, inventory).count();
            if count > 0 {
                say(format_args!(
                    "note: {count} leftover{} of the pod-checkpointer may hold values in clear text; --remove-leftovers removes \
                     {}",
                    plural(count),
                    if count == 1 { "it" } else { "them" }
                ));
            }
            return Ok(Exit::Fine);
        }
        if inventory.blind {
            say(format_args!(
                "note: a file in {} can't be read, which may mount anything, so no directory of values is removed",
                places.active.display()
            ));
        }
        let mut exit = Exit::Fine;
        for Cleared { path, result } in clear_away(imported, inventory, places) {
            match result {
                Ok(true) => line(out, format_args!("removed {}", path.display()))?,
                Ok(false) => {}
                Err(error) => {
                    say(format_args!("error: {} was not removed: {}", path.display(), chain_of(&error)));
                    exit = Exit::Findings;
                }
            }
        }
        Ok(exit)
    }
}

/// Says what was adopted, and what could not be.
fn account(
    out: &mut dyn Write,
    inventory: &Inventory,
    imported: &Imported,
    stored: &dyn Fn(&ObjectKey) -> bool,
) -> anyhow::Result<Exit> {
    let update = imported.update.get();
    let rejected: BTreeSet<&ObjectKey> = update.rejected.iter().map(|rejected| &rejected.object).collect();
    for found in inventory.found.iter().filter(|found| !rejected.contains(&found.pod.key)) {
        let kept = if stored(&found.pod.key) { "was stored already" } else { "adopted" };
        let active = match (found.active, imported.taken_over.contains(&found.name)) {
            (true, true) => "; its copy goes on under the manifest that it has",
            (true, false) => "; its active manifest is left alone",
            (false, _) => "",
        };
        line(out, format_args!("{} {kept}{active}", found.name))?;
    }
    for rejected in &update.rejected {
        say(format_args!("error: {} was not stored: {}", rejected.object, rejected.problem));
    }
    for key in &update.unsealed {
        say(format_args!(
            "warning: {key} was not stored: there is no node key yet; its files stay. Import again when there is one"
        ));
    }
    for (pod, problem) in &imported.problems {
        say(format_args!("warning: {pod}: {}", chain_of(problem)));
    }
    let pods = update.stored.iter().filter(|key| key.kind() == Kind::Pod).count();
    let objects = update.stored.len() - pods;
    line(
        out,
        format_args!(
            "stored {pods} pod{} and {objects} of their Secrets and ConfigMaps; {} active manifest{} taken over",
            plural(pods),
            imported.taken_over.len(),
            plural(imported.taken_over.len())
        ),
    )?;
    let bad = !update.rejected.is_empty() || !update.unsealed.is_empty() || !imported.problems.is_empty();
    Ok(Exit::findings(bad))
}
