//! `ckpt-db key`: the key slots of the store, and what opens them.

mod add;
mod init;
mod list;
mod remove;
mod rewrap;
mod rotate;

use std::io::Write;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use ckpt_db::crypto::SystemEntropy;
use ckpt_db::ops::admin::{Client, KeyChange, KeysChanged};
use ckpt_db::store::{Backend as _, LockState, RedbStore, SlotInfo, SlotPolicy, SlotsWanted, Snapshot};
use store_format::Unlocker;

use super::args::{StoreArgs, short};
use super::dump::why_closed;
use super::open::Holder;
use super::unlock::Keys;
use super::{Exit, now_unix_ms};

/// Show and change what opens the store: node keys, recovery codes, key files, credentials
///
/// The store's data key lies in it once for each key slot, wrapped for one key each. Secrets are readable to whoever has the
/// store and one of these keys.
#[derive(Args, Debug)]
pub(crate) struct KeyCommand {
    #[command(subcommand)]
    command: Which,
}

#[derive(Debug, Subcommand)]
enum Which {
    Init(init::Init),
    List(list::List),
    Add(add::Add),
    Remove(remove::Remove),
    Rewrap(rewrap::Rewrap),
    Rotate(rotate::Rotate),
}

impl KeyCommand {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        match &self.command {
            Which::Init(command) => command.run(out),
            Which::List(command) => command.run(out),
            Which::Add(command) => command.run(out),
            Which::Remove(command) => command.run(out),
            Which::Rewrap(command) => command.run(out),
            Which::Rotate(command) => command.run(out),
        }
    }
}

/// The store as it was found, and how its slots are changed.
struct Found<'a> {
    store: &'a StoreArgs,
    keys: &'a Keys,
    snapshot: Snapshot,
    holder: Holder,
}

/// What is to be done with slots.
#[derive(Default)]
struct Wanted<'a> {
    add: Vec<&'a Unlocker>,
    remove: Vec<[u8; 32]>,
    /// Whether what has a slot gets a fresh wrapping.
    rewrap: bool,
    policy: SlotPolicy,
}

impl<'a> Found<'a> {
    fn look(store: &'a StoreArgs, keys: &'a Keys) -> anyhow::Result<Self> {
        let (snapshot, holder) = store.snapshot_and_holder(keys)?;
        Ok(Self { store, keys, snapshot: snapshot.into_inner(), holder })
    }

    fn slots(&self) -> &[SlotInfo] {
        self.snapshot.slots()
    }

    /// Has slots changed by whoever has the store open: the agent, or this process for a moment. A locked store is not.
    fn change(&self, what: &str, wanted: &Wanted<'_>) -> anyhow::Result<KeysChanged> {
        let path = self.store.store()?;
        let context = || format!("cannot {what} {}", path.display());
        let hex = |fingerprint: &[u8; 32]| data_encoding::HEXLOWER.encode(fingerprint);
        match self.holder {
            Holder::Agent => {
                let change = KeyChange {
                    add: wanted.add.iter().map(|unlocker| (*unlocker).clone()).collect(),
                    remove: wanted.remove.clone(),
                    rewrap: wanted.rewrap,
                    credential_only: wanted.policy == SlotPolicy::CredentialOnly,
                };
                Client::new(&self.store.admin_socket()?).change_keys(&change).with_context(context)
            }
            Holder::Nobody => {
                if self.snapshot.lock_state() == LockState::Locked {
                    bail!("{}: {}", context(), why_closed(&self.snapshot, &self.keys.tried()));
                }
                let mut store = RedbStore::open(&path, &self.keys.secrets(), Box::new(SystemEntropy))?;
                let slots = SlotsWanted {
                    add: &wanted.add,
                    remove: &wanted.remove,
                    node_keys_max: None,
                    policy: wanted.policy,
                    fresh: wanted.rewrap,
                };
                let kept = store.keep_slots(&slots, now_unix_ms()).with_context(context)?.into_inner();
                let there = |fingerprint: &&[u8; 32]| self.slots().iter().any(|slot| slot.fingerprint == **fingerprint);
                let (rewrapped, added): (Vec<_>, Vec<_>) = kept.added.iter().partition(there);
                Ok(KeysChanged {
                    added: added.into_iter().map(hex).collect(),
                    rewrapped: rewrapped.into_iter().map(hex).collect(),
                    removed: kept.removed.iter().map(hex).collect(),
                })
            }
        }
    }
}

/// `recovery-code 0f3c25e1a7b60d42`
fn named(slot: &SlotInfo) -> String {
    format!("{} {}", slot.kind.name(), short(&slot.fingerprint))
}
