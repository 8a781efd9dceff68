//! `ckpt-db restore`: a backup becomes the store, while no agent runs. What was the store before is kept beside it.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use clap::Args;

use ckpt_db::checkpoint::object::{Kind, ObjectKey};
use ckpt_db::ops::admin::{AskError, Client};
use ckpt_db::source::api::credentials::Credentials;
use ckpt_db::store::{Snapshot, StoreCopy, StoreError, open_offline};
use store_format::Identity;

use super::args::{StoreArgs, short};
use super::backup::{contents, same_file};
use super::dump::say_sealed;
use super::output::{line, plural};
use super::{Exit, chain_of, follow, now_unix_ms, say};

/// How many pods a line names.
const NAMED_MAX: usize = 20;

/// Put a backup in the place of the store, while no agent runs
///
/// FILE is checked first, and stays as it is. The present store is kept beside the new one, as checkpoint-store.db.replaced- with
/// the time in seconds since 1970; at every moment there is the one or the other. A backup is an older state: pods that were deleted
/// since are brought back until the API server answers, and Secrets are those of that time. So nothing is done without --yes.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  systemctl stop ckpt-db                        stops no pod
  ckpt-db restore /mnt/usb/edge-1.db --dry-run  what would come back, and what would be missing
  ckpt-db restore /mnt/usb/edge-1.db --yes
  systemctl start ckpt-db")]
pub(crate) struct Restore {
    #[command(flatten)]
    store: StoreArgs,

    /// What 'backup' has made, or a store that was kept aside
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Restore what reads of a file that is not sound
    #[arg(long)]
    allow_damaged: bool,

    /// Restore the backup of another node or cluster; 'adopt' then makes it this node's
    #[arg(long)]
    other_node: bool,

    /// Go back to the older state
    #[arg(long)]
    yes: bool,

    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// What lies in the place of the store.
enum Present {
    Nothing,
    Store(Box<Snapshot>),
    /// Something that does not read as one; it is kept as well.
    Unreadable,
}

impl Restore {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let path = self.store.store()?;
        if same_file(&self.file, &path) {
            bail!("{} is the store itself; name a backup", self.file.display());
        }
        let keys = self.store.keys()?;
        self.refuse_running()?;
        let backup = StoreCopy::of_file(&self.file, &keys.secrets()).map_err(|error| self.unusable(error))?;
        let snapshot = backup.snapshot();
        let findings = snapshot.findings().len();
        for finding in snapshot.findings() {
            say(format_args!("warning: {}: {finding}", self.file.display()));
        }
        if findings > 0 && !self.allow_damaged {
            bail!(
                "{} is not sound ({findings} finding{}); nothing was changed. --allow-damaged restores what reads of it",
                self.file.display(),
                plural(findings)
            );
        }
        let Some(identity) = snapshot.identity() else {
            bail!(
                "whose backup {} is can't be read, so no agent would use it; nothing was changed",
                self.file.display()
            );
        };
        let present = self.present(&path)?;
        self.compare_owner(identity, &present)?;
        line(out, format_args!("{}: {}", self.file.display(), contents(snapshot)))?;
        say_difference(out, snapshot, &present)?;
        say_sealed(snapshot, &keys.tried());
        if self.dry_run {
            line(out, format_args!("nothing was changed (--dry-run)"))?;
            return Ok(Exit::findings(findings > 0));
        }
        if !self.yes {
            bail!("nothing was changed: this goes back to an older state; --yes does it");
        }
        let put = backup.put_in_place(&path, now_unix_ms() / 1000).map_err(|error| self.not_restored(error))?;
        line(out, format_args!("restored {}", path.display()))?;
        if let Some(kept_at) = &put.get().kept_at {
            line(out, format_args!("kept what was there as {}", kept_at.display()))?;
        }
        say(format_args!(
            "next: start the agent (systemctl start ckpt-db). It lists everything anew; once the API server answers, pods that are \
             deleted there go, and what has changed since is stored"
        ));
        Ok(Exit::findings(findings > 0))
    }

    /// Rules out an agent that runs and has no store open at this moment: it would take the restored one while we talk about it.
    fn refuse_running(&self) -> anyhow::Result<()> {
        if !self.store.is_of_this_node() {
            return Ok(());
        }
        match Client::new(&self.store.admin_socket()?).status() {
            Err(AskError::NoAgent(_)) => Ok(()),
            Ok(_) | Err(_) => Err(running("an agent runs on this node")),
        }
    }

    fn unusable(&self, error: StoreError) -> anyhow::Error {
        let file = self.file.display();
        match error {
            StoreError::NotFound(_) => anyhow!("there is no {file}; nothing was changed"),
            StoreError::Damaged { what, .. } => {
                anyhow!("{file} is damaged or no backup: {what}; nothing was changed")
            }
            StoreError::InUse(_) => anyhow!("{file} is being written to by another process; nothing was changed"),
            other => anyhow::Error::new(other).context(format!("cannot restore from {file}; nothing was changed")),
        }
    }

    fn not_restored(&self, error: StoreError) -> anyhow::Error {
        match error {
            StoreError::InUse(path) => running(&format!("{} is in use by another process", path.display())),
            other => anyhow::Error::new(other).context(format!("cannot restore from {}", self.file.display())),
        }
    }

    fn present(&self, path: &Path) -> anyhow::Result<Present> {
        match open_offline(path, &[]) {
            Ok(snapshot) => Ok(Present::Store(Box::new(snapshot.into_inner()))),
            Err(StoreError::NotFound(_)) => Ok(Present::Nothing),
            Err(StoreError::InUse(path)) => Err(running(&format!("{} is in use by an agent", path.display()))),
            Err(error @ (StoreError::Damaged { .. } | StoreError::Newer { .. })) => {
                say(format_args!("warning: the present store can't be read: {}", chain_of(&error)));
                Ok(Present::Unreadable)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Refuses what belongs to somebody else, as far as that can be told: by the credentials of this node, else by its store.
    fn compare_owner(&self, backup: &Identity, present: &Present) -> anyhow::Result<()> {
        let credentials = if self.store.is_of_this_node() {
            Credentials::load(&follow::place(None, self.store.layout()?.root())).ok()
        } else {
            None
        };
        let known = credentials.as_ref().and_then(|found| Some((found.node_name()?, found.cluster_ca_sha256())));
        let stored = match present {
            Present::Store(snapshot) => {
                snapshot.identity().map(|stored| (stored.node_name.as_str(), stored.cluster_ca_sha256.as_slice()))
            }
            Present::Nothing | Present::Unreadable => None,
        };
        let Some((node, cas)) = known.or(stored) else { return Ok(()) };
        let Some(difference) = foreign(backup, node, cas) else { return Ok(()) };
        if !self.other_node {
            bail!(
                "{} {difference}; nothing was changed. --other-node restores it all the same, and 'ckpt-db adopt' then makes it \
                 this node's",
                self.file.display()
            );
        }
        say(format_args!("warning: {} {difference}: no copy starts before 'ckpt-db adopt'", self.file.display()));
        Ok(())
    }
}

fn running(what: &str) -> anyhow::Error {
    anyhow!("{what}; stop it first (systemctl stop ckpt-db), which stops no pod. Nothing was changed")
}

/// Says why a backup is not of this node, if it can't be.
fn foreign(backup: &Identity, node: &str, cas: &[[u8; 32]]) -> Option<String> {
    if !backup.node_name.is_empty() && !node.is_empty() && backup.node_name != node {
        return Some(format!("is of node {}, but this is node {node}", backup.node_name));
    }
    let (theirs, ours): (BTreeSet<_>, BTreeSet<_>) = (backup.cluster_ca_sha256.iter().collect(), cas.iter().collect());
    if !theirs.is_empty() && !ours.is_empty() && theirs.is_disjoint(&ours) {
        let named = |cas: &BTreeSet<&[u8; 32]>| cas.iter().map(|ca| short(ca)).collect::<Vec<_>>().join(", ");
        return Some(format!("is of another cluster (CA {}), but this is that of CA {}", named(&theirs), named(&ours)));
    }
    None
}

/// What is there now, and which pods are in one of the two only.
fn say_difference(out: &mut dyn Write, backup: &Snapshot, present: &Present) -> anyhow::Result<()> {
    let present = match present {
        Present::Store(present) => present,
        Present::Nothing => return Ok(line(out, format_args!("present store: none"))?),
        Present::Unreadable => return Ok(line(out, format_args!("present store: unreadable"))?),
    };
    line(out, format_args!("present store: {}", contents(present)))?;
    let pods = |snapshot: &Snapshot| -> BTreeSet<ObjectKey> {
        let stored = snapshot.objects().map(|object| object.key).filter(|key| key.kind() == Kind::Pod);
        stored.filter(|key| !snapshot.gone(key)).cloned().collect()
    };
    let (then, now) = (pods(backup), pods(present));
    for (what, pods) in [
        ("come back until the API server answers", then.difference(&now)),
        ("missing until the API server answers", now.difference(&then)),
    ] {
        let names: Vec<String> = pods.map(|pod| format!("{}/{}", pod.namespace(), pod.name())).collect();
        if !names.is_empty() {
            let more = names.len().saturating_sub(NAMED_MAX);
            let tail = if more == 0 { String::new() } else { format!(" and {more} more") };
            let shown = names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
            line(out, format_args!("{what}: {} pod{}: {shown}{tail}", names.len(), plural(names.len())))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_backup_it_is() {
        let (a, b) = ([0xaa; 32], [0xbb; 32]);
        #[rustfmt::skip]
        type Whose<'a> = (&'a str, &'a [[u8; 32]]);
        let rows: [(Whose<'_>, Whose<'_>, bool); 10] = [
            // the backup    this node      foreign
            (("n", &[a]), ("n", &[a]), false),
            (("n", &[a]), ("n", &[a, b]), false),
            (("n", &[a]), ("n", &[]), false),
            (("n", &[]), ("n", &[b]), false),
            (("", &[]), ("n", &[a]), false),
            (("n", &[a]), ("", &[a]), false),
            (("n", &[a]), ("m", &[a]), true),
            (("n", &[]), ("m", &[]), true),
            (("n", &[a]), ("n", &[b]), true),
            (("", &[a]), ("n", &[b]), true),
        ];
        for ((name, cas), (node, known), want) in rows {
            let identity =
                Identity { cluster_ca_sha256: cas.to_vec(), ..Identity::new(store_format::StoreId([7; 16]), 0, name) };
            assert_eq!(foreign(&identity, node, known).is_some(), want, "{name} {cas:?} {node} {known:?}");
        }
    }
}
