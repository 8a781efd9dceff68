//! `ckpt-db key remove`: a slot goes. What it opened is not revoked by that.

use std::io::Write;

use anyhow::bail;
use clap::Args;

use ckpt_db::store::SlotInfo;

use super::{Found, Wanted, named};
use crate::cli::args::StoreArgs;
use crate::cli::open::Holder;
use crate::cli::output::line;
use crate::cli::{Exit, say};

/// Remove a key slot from the store
///
/// The last one that a key at hand opens stays. This revokes nothing: who has the removed key and an earlier copy of the store
/// can read all of its Secrets, and later ones. 'key rotate' makes a new data key.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ckpt-db key list                          the fingerprints
  ckpt-db key remove 9f86d081884c7d65
  ckpt-db key rotate                        after it: only this revokes the key")]
pub(crate) struct Remove {
    #[command(flatten)]
    store: StoreArgs,

    /// The first digits of the slot's fingerprint, as 'key list' shows it
    #[arg(value_name = "FINGERPRINT")]
    fingerprint: String,
}

impl Remove {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let keys = self.store.keys()?;
        let found = Found::look(&self.store, &keys)?;
        let slot = self.find(found.slots())?;
        let opens_besides = |other: &SlotInfo| other.opens && other.fingerprint != slot.fingerprint;
        // An agent knows better what it has at hand.
        if found.holder == Holder::Nobody && !found.slots().iter().any(opens_besides) {
            bail!(
                "cannot remove {}, since no other slot opens with a key at hand; nothing was changed. Add one first",
                named(slot)
            );
        }
        let wanted = Wanted { remove: vec![slot.fingerprint], ..Wanted::default() };
        found.change(&format!("remove {} from", named(slot)), &wanted)?;
        line(out, format_args!("removed {}", named(slot)))?;
        say(format_args!(
            "note: this revokes nothing: with that key, an earlier copy of the store opens, and whoever opened one reads later \
             ones too. 'ckpt-db key rotate' makes a new data key"
        ));
        if let Some(source) = keys.source_of(slot).filter(|source| source.current) {
            say(format_args!(
                "note: {} is a key that this node has now: a running agent makes a slot for it again, unless it is run with \
                 --key-slots credential-only",
                source.name
            ));
        }
        Ok(Exit::Fine)
    }

    fn find<'a>(&self, slots: &'a [SlotInfo]) -> anyhow::Result<&'a SlotInfo> {
        let prefix = self.fingerprint.to_ascii_lowercase();
        let fits = |slot: &&SlotInfo| {
            data_encoding::HEXLOWER.encode(&slot.fingerprint).starts_with(&prefix) && !prefix.is_empty()
        };
        let found: Vec<&SlotInfo> = slots.iter().filter(fits).collect();
        match found.as_slice() {
            [one] => Ok(one),
            [] => bail!("no key slot has a fingerprint that begins with {prefix:?}; 'ckpt-db key list' shows them"),
            several => {
                let several: Vec<String> = several.iter().map(|slot| named(slot)).collect();
                bail!(
                    "{} key slots have a fingerprint that begins with {prefix:?}: {}",
                    several.len(),
                    several.join(", ")
                )
            }
        }
    }
}
