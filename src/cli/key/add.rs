//! `ckpt-db key add`: one more key that opens the store.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{anyhow, bail};
use clap::Args;

use ckpt_db::crypto::{SystemEntropy, fresh, sha256};
use ckpt_db::keys::{load, load_credential, load_key_file};
use ckpt_db::store::{LockState, SlotPolicy, fingerprint};
use store_format::{SlotKind, SymmetricSecret, Unlocker, recovery_code_text};
use zeroize::Zeroizing;

use super::{Found, Wanted};
use crate::cli::args::{PlaceArgs, StoreArgs, short};
use crate::cli::output::line;
use crate::cli::unlock::{PolicyArgs, WithArgs};
use crate::cli::{Exit, say};

/// Add a key slot: one more key that opens the store
///
/// The store has to open with a key at hand, or with one that is given with --with-...; the running agent has it open already.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ckpt-db key add --recovery-code > code.txt    shown once; keep it apart from the node
  ckpt-db key add --key-file /media/stick/node-7.key
  ckpt-db key add --node-key new.pem --with-recovery-code")]
pub(crate) struct Add {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    with: WithArgs,
    #[command(flatten)]
    policy: PolicyArgs,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct What {
    /// Generate a recovery code, and print it to standard output, once
    #[arg(long)]
    recovery_code: bool,

    /// The contents of this file, 32 to 4096 octets; a line feed at its end counts
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// The contents of this credential, which systemd passed to this process
    #[arg(long, value_name = "NAME")]
    credential: Option<String>,

    /// The private key in this PEM file
    #[arg(long, value_name = "FILE")]
    node_key: Option<PathBuf>,
}

impl Add {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let store = StoreArgs { place: self.place.clone(), unlock: self.with.clone().into() };
        let (unlocker, code) = self.what.unlocker()?;
        let name = unlocker.kind().name();
        let Some(fingerprint) = fingerprint(&unlocker) else {
            bail!("the node key has no public part; add its certificate, or write it again with 'openssl pkey'");
        };
        let keys = store.keys()?;
        let found = Found::look(&store, &keys)?;
        if found
            .slots()
            .iter()
            .any(|slot| slot.fingerprint == fingerprint && slot.kind == unlocker.kind() && slot.opens)
        {
            line(out, format_args!("{name} {} has a slot already", short(&fingerprint)))?;
            return Ok(Exit::Fine);
        }
        if found.snapshot.lock_state() == LockState::Keyless && unlocker.kind() == SlotKind::RecoveryCode {
            bail!(
                "no slot was made: the store has no data key yet, and with a recovery code alone it would be closed to its agent. \
                 The node's first key makes one; add the code afterwards"
            );
        }
        let policy = self.policy.policy();
        if policy == SlotPolicy::CredentialOnly && matches!(unlocker.kind(), SlotKind::NodeKey | SlotKind::KeyFile) {
            bail!("--key-slots credential-only takes no {name}; only credentials and recovery codes");
        }
        let wanted = Wanted { add: vec![&unlocker], policy, ..Wanted::default() };
        let changed = found.change(&format!("add a key slot for the {name} to"), &wanted)?;
        if changed.added.is_empty() && changed.rewrapped.is_empty() {
            if found.slots().iter().any(|slot| slot.fingerprint == fingerprint) {
                line(out, format_args!("{name} {} has a slot already", short(&fingerprint)))?;
                return Ok(Exit::Fine);
            }
            bail!("no slot was made for the {name}: the agent runs with --key-slots credential-only");
        }
        let added = format!("added {name} {}", short(&fingerprint));
        let Some(code) = code else {
            line(out, format_args!("{added}"))?;
            return Ok(Exit::Fine);
        };
        // Alone on standard output, so that a file that it is sent to is one for --recovery-code-file.
        let shown = out.write_all(code.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
        shown.map_err(|error| {
            anyhow!(
                "the code could not be shown ({error}), and opens for nobody: 'ckpt-db key remove {}'",
                short(&fingerprint)
            )
        })?;
        say(format_args!("{added}"));
        say(format_args!(
            "note: write the code down now: it is not shown again, and is kept nowhere. Whoever has it and the store has the \
             Secrets; keep it apart from this node, and where you find it when the node's keys are lost. Try it with 'ckpt-db \
             verify --recovery-code'"
        ));
        Ok(Exit::Fine)
    }
}

impl What {
    /// What is to be added; the text of a recovery code.
    fn unlocker(&self) -> anyhow::Result<(Unlocker, Option<Zeroizing<String>>)> {
        if let Some(path) = &self.key_file {
            let held = load_key_file(path)?;
            warn_if_open(held.open_to_others, &held.source);
            return Ok((Unlocker::KeyFile(held.secret), None));
        }
        if let Some(name) = &self.credential {
            let directory = std::env::var_os("CREDENTIALS_DIRECTORY");
            return Ok((Unlocker::Credential(load_credential(directory.as_deref(), name)?.secret), None));
        }
        if let Some(path) = &self.node_key {
            let key = load(path)?;
            warn_if_open(key.open_to_others, &key.source);
            return Ok((Unlocker::NodeKey(key.secret), None));
        }
        let octets = Zeroizing::new(fresh(&SystemEntropy)?);
        let secret = SymmetricSecret::of_recovery_code(&octets);
        Ok((Unlocker::RecoveryCode(secret), Some(recovery_code_text(&octets, sha256))))
    }
}

fn warn_if_open(open_to_others: bool, path: &std::path::Path) {
    if open_to_others {
        say(format_args!("warning: {} can be read by others; its mode should be 0600", path.display()));
    }
}
