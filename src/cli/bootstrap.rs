//! `--bootstrap-checkpoint-path`: what happens with these files before anything else does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;

use ckpt_db::agent::{Bootstrap, Mirrored, untold};
use ckpt_db::checkpoint::lookup::{Lookup, Objects as _};
use ckpt_db::checkpoint::object::Object;
use ckpt_db::source::api::credentials::Place;
use ckpt_db::source::manifests::bound_to;
use ckpt_db::store::{Backend, Change, Committed, Snapshot, StoreError, open_offline};

use super::output::plural;
use super::unlock::Keys;
use super::{chain, chain_of, follow, now_unix_ms, rebuilt, say, whose};

/// Where bootstrap checkpoints are.
#[derive(Args, Clone, Debug)]
pub(crate) struct BootstrapArgs {
    /// Directory with a file for each pod annotated node.kubernetes.io/bootstrap-checkpoint=true, as kubelets 1.9 to 1.18 had it
    ///
    /// Written before a pod is acted on, removed with it, and read at the start where the store does not know which pods there are.
    #[arg(long, value_name = "DIR")]
    bootstrap_checkpoint_path: Option<PathBuf>,
}

/// What is known at the start.
pub(super) struct Start<'a> {
    /// The store.
    pub(super) path: &'a Path,
    /// What opens it.
    pub(super) keys: &'a Keys,
    /// Where the credentials are.
    pub(super) place: &'a Place,
    /// `--node-name`.
    pub(super) node_name: Option<&'a str>,
    /// Whether nothing may be rendered that no key authenticates.
    pub(super) require_authentication: bool,
}

impl BootstrapArgs {
    /// Takes in what only the files tell, and brings the files in line with the store. Trouble is said, and holds nothing up.
    pub(super) fn begin(&self, start: &Start<'_>) -> anyhow::Result<Option<Arc<Bootstrap>>> {
        let Some(directory) = &self.bootstrap_checkpoint_path else { return Ok(None) };
        let directory =
            std::path::absolute(directory).with_context(|| format!("cannot make {} absolute", directory.display()))?;
        let files = Arc::new(Bootstrap::new(&directory));
        if let Err(error) = start.take_in(&files) {
            say(format_args!(
                "error: bootstrap checkpoints of {} were not taken in: {}",
                directory.display(),
                chain(&error)
            ));
        }
        // What is acted on first is what is stored now.
        if let Ok(stored) = open_offline(start.path, &start.keys.secrets()) {
            files.sync(&stored);
        }
        Ok(Some(files))
    }
}

/// A store whose commits are in the files, where there are any, before anybody learns of them.
pub(super) fn mirrored(
    store: Box<dyn Backend>,
    files: Option<&Arc<Bootstrap>>,
) -> Result<Box<dyn Backend>, StoreError> {
    Ok(match files {
        Some(files) => Box::new(Mirrored::new(store, Arc::clone(files))?),
        None => store,
    })
}

impl Start<'_> {
    fn take_in(&self, files: &Bootstrap) -> anyhow::Result<()> {
        let found = files.read()?;
        for unreadable in &found.unreadable {
            say(format_args!("warning: {}", chain_of(unreadable)));
        }
        let stored = match open_offline(self.path, &self.keys.secrets()) {
            Ok(stored) => Some(stored.into_inner()),
            Err(StoreError::NotFound(_)) => None,
            Err(error) if error.is_damage() => None,
            // Whoever has it acts, and not this process.
            Err(StoreError::InUse(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let foreign = |stored: &Snapshot| follow::foreign(stored, self.place).is_some();
        if found.checkpoints.is_empty() || stored.as_ref().is_some_and(foreign) {
            return Ok(());
        }
        let (mut untold, others) = untold(found.checkpoints, stored.as_ref());
        let deleted =
            |pod: &&Object| stored.as_ref().is_some_and(|stored| !matches!(stored.get(&pod.key), Lookup::Found(_)));
        for pod in others.iter().filter(deleted) {
            say(format_args!(
                "note: {} has a bootstrap checkpoint, but the store knows that it was deleted: it is not brought back",
                pod.key
            ));
        }
        if untold.is_empty() {
            return Ok(());
        }
        if self.require_authentication {
            anyhow::bail!("nobody vouches for files, and --require-authentication is given");
        }
        let own = whose::own_name(stored.as_ref(), self.node_name, Some(self.place), &untold)?;
        untold.retain(|pod| match bound_to(pod).filter(|node| *node != own) {
            Some(node) => {
                say(format_args!(
                    "warning: {} has a bootstrap checkpoint of node {node}, and this is {own}: left out",
                    pod.key
                ));
                false
            }
            None => true,
        });
        if untold.is_empty() {
            return Ok(());
        }
        let count = untold.len();
        let changes = untold.into_iter().map(|object| Change::Apply { object, with: Vec::new() }).collect();
        let mut store = rebuilt::open(self.path, &self.keys.secrets(), false, &own)?;
        let update = Backend::update(&mut store, changes, now_unix_ms()).map(Committed::into_inner)?;
        for rejected in &update.rejected {
            say(format_args!("error: {} was not stored: {}", rejected.object, rejected.problem));
        }
        say(format_args!(
            "note: the store {} knew nothing of {count} pod{} with a bootstrap checkpoint in {}: taken in",
            self.path.display(),
            plural(count),
            files.directory().display()
        ));
        Ok(())
    }
}
