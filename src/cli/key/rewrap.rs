//! `ckpt-db key rewrap`: fresh wrappings of the same data key, and slots for keys of the node that lack one.

use std::io::Write;

use clap::Args;

use super::{Found, Wanted, named};
use crate::cli::args::StoreArgs;
use crate::cli::dump::how_to_give;
use crate::cli::output::line;
use crate::cli::unlock::PolicyArgs;
use crate::cli::{Exit, say};

/// Wrap the data key anew for every key at hand
///
/// Keys that the node has now and that lack a slot get one. Slots whose keys are not at hand stay as they are and are named;
/// the exit code is 1 then. This is no new data key: see 'key rotate'.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ckpt-db key rewrap
  ckpt-db key rewrap --key-file /media/stick/node-7.key")]
pub(crate) struct Rewrap {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    policy: PolicyArgs,
}

impl Rewrap {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let keys = self.store.keys()?;
        let found = Found::look(&self.store, &keys)?;
        // Of the keys from before a rotation those that still have a slot, and of the others all.
        let has_slot = |at: usize| found.slots().iter().any(|slot| keys.is_of(at, slot));
        let add = (0..keys.unlockers.len()).filter(|at| keys.sources[*at].current || has_slot(*at));
        let wanted = Wanted {
            add: add.map(|at| &keys.unlockers[at]).collect(),
            rewrap: true,
            policy: self.policy.policy(),
            ..Wanted::default()
        };
        let changed = found.change("wrap the data key anew in", &wanted)?;
        let mut missed = false;
        for slot in found.slots() {
            let full = data_encoding::HEXLOWER.encode(&slot.fingerprint);
            if changed.rewrapped.contains(&full) {
                line(out, format_args!("wrapped anew: {}", named(slot)))?;
            } else if changed.removed.contains(&full) {
                line(out, format_args!("removed: {}", named(slot)))?;
            } else {
                missed = true;
                say(format_args!("left as it is: {}; give its key with {}", named(slot), how_to_give(slot.kind)));
            }
        }
        for fingerprint in &changed.added {
            let name = (0..keys.unlockers.len()).find(|at| keys.fingerprint(*at).as_deref() == Some(fingerprint));
            let name = name.map_or("a key of the agent", |at| keys.sources[at].name.as_str());
            line(out, format_args!("added: {} ({name})", &fingerprint[..fingerprint.len().min(16)]))?;
        }
        Ok(Exit::findings(missed))
    }
}
