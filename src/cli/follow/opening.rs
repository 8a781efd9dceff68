//! Opens the store for writing, or makes a new one: also where no key opens it any more, and the API server has what is in it.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use store_format::{SlotKind, Unlocker};

use ckpt_db::agent::Shared;
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::source::api::reach::Reach;
use ckpt_db::store::{Backend, BegunAnew, LockState, SlotPolicy, begin_anew};

use crate::cli::dump::why_closed;
use crate::cli::key_look::KeyLook;
use crate::cli::unlock::Keys;
use crate::cli::{now_unix_ms, rebuilt, say};

/// Whether a store that no key opens may be begun anew.
#[derive(Clone, Copy)]
pub(super) enum Anew {
    /// What is in it would count as authentic, though nobody has checked it.
    Never,
    /// If the API server answers: then the Secrets can be fetched again.
    If(bool),
}

/// Whether the API server answers now.
pub(super) fn answers(shared: &Shared) -> bool {
    let line = shared.line();
    line.is_some_and(|(_, line)| line.has_changed().is_ok() && line.borrow().reach == Some(Reach::Answering))
}

/// Opens the store for writing, or makes a new one.
pub(super) fn open(keys: &KeyLook, path: &Path, policy: SlotPolicy, anew: Anew) -> anyhow::Result<Box<dyn Backend>> {
    let keys = keys.look()?;
    let authentic = matches!(anew, Anew::Never);
    // A new one is nobody's until there are credentials: a name that they contradict must not stay in it.
    let store = rebuilt::open(path, &keys.secrets(), authentic, "")?;
    match store.lock_state() {
        LockState::Open => Ok(Box::new(store)),
        LockState::Keyless => {
            say(format_args!(
                "note: no node key yet: Secrets are not stored until the kubelet has one (or name another with --node-key)"
            ));
            Ok(Box::new(store))
        }
        LockState::Locked => {
            let why = why_closed(store.snapshot()?.get(), &keys.tried());
            drop(store);
            let mut wanted = keys.at_hand().wanted(LockState::Locked);
            if policy == SlotPolicy::CredentialOnly {
                wanted.retain(|unlocker| unlocker.kind() == SlotKind::Credential);
            }
            let hope = match anew {
                Anew::If(true) if !wanted.is_empty() => {
                    begin_anew_at(path, &keys, &wanted, &why)?;
                    return Ok(Box::new(rebuilt::open(path, &keys.secrets(), authentic, "")?));
                }
                Anew::If(_) => {
                    "When the API server answers, and there is a key, it is kept aside and Secrets are fetched again"
                }
                Anew::Never => "With --require-authentication it is not begun anew: move it away for that",
            };
            Err(anyhow!("{why}. {hope}")).with_context(|| format!("cannot write to {}", path.display()))
        }
    }
}

/// Nobody can open the Secrets of the store any more, and the API server has them.
fn begin_anew_at(path: &Path, keys: &Keys, wanted: &[Unlocker], why: &str) -> anyhow::Result<()> {
    let wanted: Vec<&Unlocker> = wanted.iter().collect();
    let begun = begin_anew(path, &keys.secrets(), &wanted, now_unix_ms(), &SystemEntropy)
        .with_context(|| format!("cannot begin anew with {}: {why}", path.display()))?
        .into_inner();
    let BegunAnew { kept_at, carried, left, .. } = begun;
    say(format_args!(
        "warning: {why}. It is kept at {}, and {} begins anew with its {carried} objects that are not sealed; the other {left} \
         are fetched from the API server, which answers",
        kept_at.display(),
        path.display()
    ));
    Ok(())
}
