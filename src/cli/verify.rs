//! `ckpt-db verify`: check every record and change nothing.
//!
//! Exit status: 0 sound, 1 findings, 2 the check could not be made.

use std::io::Write;

use clap::Args;

use ckpt_db::store::{LockState, kept_beside};

use super::args::StoreArgs;
use super::output::{line, plural};
use super::progress::Shown;
use super::{Exit, say};

/// Check every record of the store, without changing it
///
/// Prints one line a finding. With a key that opens the store, tampering is found as well as damage.
#[derive(Args, Debug)]
#[command(after_help = "Exit codes:
  0   sound
  1   findings
  2   the check could not be made
  64  wrong usage

Examples:
  ckpt-db verify                            while the agent runs, or not
  ckpt-db verify --store edge-1.db --recovery-code
                                            a backup, on any machine")]
pub(crate) struct Verify {
    #[command(flatten)]
    store: StoreArgs,
}

impl Verify {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let path = self.store.store()?;
        let keys = self.store.keys()?;
        let shown = Shown::begin();
        let snapshot = self.store.snapshot(&keys);
        drop(shown);
        let snapshot = snapshot?.into_inner();
        for finding in snapshot.findings() {
            line(out, format_args!("{}: {finding}", finding.code()))?;
        }
        match snapshot.lock_state() {
            LockState::Open => {}
            LockState::Keyless => {
                say(format_args!("note: the store has no data key; only damage can be found, not tampering"))
            }
            LockState::Locked => {
                say(format_args!("note: no key at hand opens the store; only damage can be found, not tampering"))
            }
        }
        for damaged in kept_beside(&path) {
            say(format_args!("note: this store was rebuilt; the damaged file is kept at {}", damaged.display()));
        }
        let count = snapshot.findings().len();
        let records = snapshot.objects().count();
        line(
            out,
            format_args!(
                "{}: {count} finding{}, {records} readable object{}, revision {}, {}",
                if count == 0 { "sound" } else { "NOT SOUND" },
                plural(count),
                plural(records),
                snapshot.revision(),
                path.display(),
            ),
        )?;
        Ok(Exit::findings(count > 0))
    }
}
