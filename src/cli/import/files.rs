//! `ckpt-db import -f`: manifests.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;

use ckpt_db::agent::{Fate, Import, open_or_create};
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::source::api::credentials::Place;
use ckpt_db::source::cluster::cluster_cas;
use ckpt_db::source::manifests::{self, Input, Severity};
use ckpt_db::store::{Backend as _, LockState, Snapshot, StoreError, open_offline};

use super::super::adopt::alone;
use super::super::args::{StoreArgs, short};
use super::super::dump::why_closed;
use super::super::output::line;
use super::super::unlock::Keys;
use super::super::{Exit, follow, now_unix_ms, say, usage, whose};

/// Where manifests are, and what to do with them.
#[derive(Args, Debug)]
pub(super) struct Files {
    #[command(flatten)]
    store: StoreArgs,

    /// File or directory with manifests, YAML or JSON, or - for standard input
    #[arg(short, long, value_name = "FILE", required = true)]
    filename: Option<PathBuf>,

    /// Say what would be added and changed, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Name of this node, for a store that has none yet [default: that of the kubelet's certificate, else of the pods]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
}

impl Files {
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let Some(filename) = &self.filename else { return Err(usage("give the manifests with -f")) };
        let input = Input::from_option(filename);
        if input == Input::Stdin && self.store.unlock.reads_stdin() {
            return Err(usage("standard input can be read once only: give the recovery code in a file"));
        }
        let loaded = manifests::read(&input, &mut io::stdin().lock())?;
        for problem in &loaded.problems {
            say(format_args!("{problem}"));
        }
        let skipped = loaded.problems.iter().any(|problem| problem.severity == Severity::Skipped);
        if loaded.objects.is_empty() {
            bail!("there is nothing in {} that the store keeps; nothing was changed", filename.display());
        }
        let (path, keys) = (self.store.store()?, self.store.keys()?);
        // Read first: what is refused, and what changes nothing, leaves no trace in the file.
        let stored = self.stored(&path, &keys)?;
        let place = follow::place(None, self.store.layout()?.root());
        self.refuse_foreign(&path, stored.as_ref(), filename, &loaded.objects, &place)?;
        let own_place = self.store.is_of_this_node().then_some(&place);
        let own = whose::own_name(stored.as_ref(), self.node_name.as_deref(), own_place, &loaded.objects)?;
        let secrets = loaded.objects.iter().any(|object| object.key.kind() == Kind::Secret);
        if stored.is_none() && secrets && keys.found.is_empty() {
            bail!(
                "there is no store yet, and no node key to encrypt Secrets with (looked at {}); name one with --node-key FILE",
                keys.absent.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
            );
        }
        let mut import = Import::new(loaded.objects, stored.as_ref(), &own);
        for (key, conflict) in &import.refused {
            say(format_args!("error: {key} was not taken: {conflict}"));
        }
        let mut rejected = 0;
        let fates = if self.dry_run || import.changes.is_empty() {
            import.fates.clone()
        } else {
            let mut store = alone(open_or_create(&path, &keys.secrets(), &own, now_unix_ms()))?;
            // What was compared is what is changed.
            let now = store.snapshot()?.get().revision();
            if stored.as_ref().is_some_and(|stored| stored.revision() != now) {
                bail!("{} was changed meanwhile; nothing was changed by this import: try it again", path.display());
            }
            let update = store.update(std::mem::take(&mut import.changes), now_unix_ms())?.into_inner();
            for refused in &update.rejected {
                say(format_args!("error: {} was not stored: {}", refused.object, refused.problem));
            }
            rejected = update.rejected.len();
            import.done(&update)
        };
        self.tell(out, &path, &fates)?;
        let taken = fates.values().any(|fate| matches!(fate, Fate::Created | Fate::Configured | Fate::Unchanged));
        let refused = !import.refused.is_empty() || rejected > 0;
        let keyless = fates.values().any(|fate| *fate == Fate::NoKey);
        if refused && !taken {
            return Ok(Exit::Failed);
        }
        Ok(Exit::findings(skipped || refused || keyless))
    }

    /// The store as it is, if there is one.
    fn stored(&self, path: &Path, keys: &Keys) -> anyhow::Result<Option<Snapshot>> {
        if matches!(open_offline(path, &[]), Err(StoreError::NotFound(_))) {
            return Ok(None);
        }
        // Who only asks may ask the agent.
        let stored =
            if self.dry_run { self.store.snapshot(keys)? } else { alone(open_offline(path, &keys.secrets()))? };
        let stored = stored.into_inner();
        if stored.lock_state() == LockState::Locked {
            bail!("cannot write to {}: {}", path.display(), why_closed(&stored, &keys.tried()));
        }
        if let Some(finding) = stored.findings().first() {
            bail!(
                "{} is not sound, so that nobody can tell what a manifest would replace ({finding}); nothing was changed. \
                 'ckpt-db verify' tells more, and an agent that starts rebuilds it",
                path.display()
            );
        }
        Ok(Some(stored))
    }

    /// Refuses to mix clusters, as far as that can be told, and a store that is not this node's.
    fn refuse_foreign(
        &self,
        path: &Path,
        stored: Option<&Snapshot>,
        filename: &Path,
        objects: &[Object],
        place: &Place,
    ) -> anyhow::Result<()> {
        let Some(stored) = stored else { return Ok(()) };
        if self.store.is_of_this_node()
            && let Some(other) = follow::foreign(stored, place)
        {
            bail!("{other}; nothing was changed ('ckpt-db adopt' makes it this node's)");
        }
        let known = stored.identity().map(|identity| identity.cluster_ca_sha256.as_slice()).unwrap_or_default();
        let given = cluster_cas(objects);
        if !known.is_empty() && !given.is_empty() && !known.iter().any(|ca| given.contains(ca)) {
            let named = |cas: &mut dyn Iterator<Item = &[u8; 32]>| cas.map(short).collect::<Vec<_>>().join(", ");
            bail!(
                "{} has manifests of another cluster (CA {} in kube-root-ca.crt) than {} (CA {}); nothing was changed",
                filename.display(),
                named(&mut given.iter()),
                path.display(),
                named(&mut known.iter())
            );
        }
        Ok(())
    }

    fn tell(&self, out: &mut dyn Write, path: &Path, fates: &BTreeMap<ObjectKey, Fate>) -> anyhow::Result<()> {
        let dry = if self.dry_run { " (dry run)" } else { "" };
        let mut counts = BTreeMap::new();
        for (key, fate) in fates {
            *counts.entry(*fate).or_insert(0_usize) += 1;
            let done = match fate {
                Fate::Created => "created",
                Fate::Configured => "configured",
                Fate::Unchanged => "unchanged",
                Fate::Removed => "removed, since no pod names it any more",
                Fate::NoKey => "left out: the store has no key yet, and Secrets are never stored without",
                Fate::Unreferenced => continue,
            };
            line(out, format_args!("{key} {done}{dry}"))?;
        }
        let count = |fate| counts.get(&fate).copied().unwrap_or_default();
        let unreferenced = count(Fate::Unreferenced);
        if unreferenced > 0 {
            say(format_args!("note: no stored pod names {unreferenced} of the ConfigMaps and Secrets: not stored"));
        }
        let (created, configured, unchanged) = (count(Fate::Created), count(Fate::Configured), count(Fate::Unchanged));
        line(
            out,
            format_args!("{}: {created} created, {configured} configured, {unchanged} unchanged{dry}", path.display()),
        )?;
        Ok(())
    }
}
