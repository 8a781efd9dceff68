//! `ckpt-db key rotate`: a new data key, and every record written anew with it. The only thing that revokes a key.

use std::io::Write;

use anyhow::bail;
use clap::Args;

use ckpt_db::crypto::SystemEntropy;
use ckpt_db::store::{LockState, SlotInfo, rotate};

use super::{Found, named};
use crate::cli::args::StoreArgs;
use crate::cli::dump::{how_to_give, why_closed};
use crate::cli::open::Holder;
use crate::cli::output::line;
use crate::cli::progress::Shown;
use crate::cli::{Exit, now_unix_ms, say};

/// Make a new data key, and write the whole store anew with it
///
/// The only thing that revokes a key: afterwards the store opens with the keys at hand that have a slot, and with no other. Slots
/// whose keys are not at hand are lost, recovery codes too; they are named, and nothing is done without --yes. No agent may run:
/// stopping it leaves what it rendered in place. Copies of the store from before open as they did.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  systemctl stop ckpt-db                    stops no pod
  ckpt-db key rotate                        says which slots would be lost
  ckpt-db key rotate --recovery-code --yes  a recovery code is kept when it is given
  systemctl start ckpt-db")]
pub(crate) struct Rotate {
    #[command(flatten)]
    store: StoreArgs,

    /// Go on although slots are lost
    #[arg(long)]
    yes: bool,
}

impl Rotate {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let path = self.store.store()?;
        let keys = self.store.keys()?;
        let found = Found::look(&self.store, &keys)?;
        if found.holder == Holder::Agent {
            bail!(
                "an agent has {} open: stop it first (systemctl stop ckpt-db), which leaves what it rendered in place, and start \
                 it afterwards",
                path.display()
            );
        }
        match found.snapshot.lock_state() {
            LockState::Open => {}
            LockState::Keyless | LockState::Locked => {
                bail!(
                    "cannot rotate the data key of {}: {}",
                    path.display(),
                    why_closed(&found.snapshot, &keys.tried())
                )
            }
        }
        let lost: Vec<&SlotInfo> = found.slots().iter().filter(|slot| !slot.opens).collect();
        for slot in &lost {
            say(format_args!(
                "{}: {}{}",
                if self.yes { "lost" } else { "would be lost" },
                named(slot),
                if self.yes { String::new() } else { format!("; give its key with {}", how_to_give(slot.kind)) }
            ));
        }
        if !lost.is_empty() && !self.yes {
            bail!("nothing was changed: give the keys of these slots as well, or --yes to do without them");
        }
        let shown = Shown::begin();
        let rotated = rotate(&path, &keys.secrets(), now_unix_ms(), &SystemEntropy);
        drop(shown);
        let rotated = rotated?.into_inner();
        for slot in &rotated.slots {
            let with = keys.source_of(slot).map_or("a key", |source| source.name.as_str());
            line(out, format_args!("opens: {} ({with})", named(slot)))?;
        }
        if rotated.lost_unknown > 0 {
            say(format_args!("lost: {} of kinds that this version does not know", rotated.lost_unknown));
        }
        line(out, format_args!("{} has a new data key", path.display()))?;
        say(format_args!(
            "note: copies and backups from before open with the keys of before; a Secret that was in one is not secret from \
             whoever has such a key"
        ));
        Ok(Exit::Fine)
    }
}
