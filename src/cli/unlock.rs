//! What opens a store, as it is said on the command line: node keys, key files, credentials, a recovery code.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use clap::{Args, ValueEnum};

use ckpt_db::agent::AtHand;
use ckpt_db::keys::{
    self, DEFAULT_CREDENTIAL, HeldError, HeldSecret, NodeKey, load_credential, load_key_file, load_recovery_code,
    read_recovery_code, recovery_code,
};
use ckpt_db::layout::Layout;
use ckpt_db::store::{SlotInfo, SlotPolicy, fingerprint};
use store_format::{SlotKind, Unlocker};

use super::args::short;
use super::{chain, prompt, say};

/// Where the options stand in the help.
const HEADING: &str = "Keys that open the store";

/// How often a mistyped code is asked for again.
const ATTEMPTS: usize = 3;

/// What opens the store.
#[derive(Args, Clone, Debug)]
pub(crate) struct UnlockArgs {
    /// PEM file with a private key of the node; may be given several times
    ///
    /// Without it the kubelet's client and serving keys are looked for, and the key that 'key init' made.
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    node_key: Vec<PathBuf>,

    /// Key file of the operator, 32 to 4096 octets; may be given several times
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    key_file: Vec<PathBuf>,

    /// Credential that systemd passed to this process; may be given several times [default: ckpt-db.key, if it is there]
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    credential: Vec<String>,

    /// Ask for a recovery code at the terminal
    #[arg(long, conflicts_with = "recovery_code_file", help_heading = HEADING)]
    recovery_code: bool,

    /// File with a recovery code, or - for standard input
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    recovery_code_file: Option<PathBuf>,

    #[arg(skip)]
    typed: Typed,
}

/// The same where the short names say what is added.
#[derive(Args, Clone, Debug)]
pub(crate) struct WithArgs {
    /// As --node-key of the other commands; may be given several times
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    with_node_key: Vec<PathBuf>,

    /// As --key-file of the other commands; may be given several times
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    with_key_file: Vec<PathBuf>,

    /// As --credential of the other commands; may be given several times
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    with_credential: Vec<String>,

    /// Ask for a recovery code at the terminal
    #[arg(long, conflicts_with = "with_recovery_code_file", help_heading = HEADING)]
    with_recovery_code: bool,

    /// File with a recovery code, or - for standard input
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    with_recovery_code_file: Option<PathBuf>,
}

impl From<WithArgs> for UnlockArgs {
    fn from(with: WithArgs) -> Self {
        Self {
            node_key: with.with_node_key,
            key_file: with.with_key_file,
            credential: with.with_credential,
            recovery_code: with.with_recovery_code,
            recovery_code_file: with.with_recovery_code_file,
            typed: Typed::default(),
        }
    }
}

/// A recovery code that was read already: neither a person nor a pipe is asked twice.
#[derive(Clone, Default)]
struct Typed(Arc<OnceLock<Unlocker>>);

impl std::fmt::Debug for Typed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Typed")
    }
}

/// `--key-slots`.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct PolicyArgs {
    /// Which key slots the store may have
    ///
    /// With credential-only no slot of a node key or key file is made, and those that are there go once one of a credential is
    /// durable. What a removed slot opened is revoked by 'key rotate' only.
    #[arg(long, value_enum, default_value_t = KeySlots::Any, value_name = "WHICH")]
    key_slots: KeySlots,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeySlots {
    /// Those of the node's own keys, and all that were added
    Any,
    /// Those of systemd credentials and recovery codes
    CredentialOnly,
}

impl PolicyArgs {
    pub(crate) fn policy(self) -> SlotPolicy {
        match self.key_slots {
            KeySlots::Any => SlotPolicy::Any,
            KeySlots::CredentialOnly => SlotPolicy::CredentialOnly,
        }
    }
}

/// Where an unlocker came from.
pub(crate) struct KeySource {
    /// As it is shown: a path, or what it is.
    pub(crate) name: String,
    /// Whether others than the owner may read that file.
    pub(crate) open_to_others: bool,
    /// Whether it gets a slot: it is no key from before a rotation, and no recovery code, which opens the store once.
    pub(crate) current: bool,
}

/// The keys at hand.
#[derive(Default)]
pub(crate) struct Keys {
    pub(crate) found: Vec<NodeKey>,
    /// Everything that may open the store: the node keys of `found`, in the same order, and then what else was named.
    pub(crate) unlockers: Vec<Unlocker>,
    /// Where each of them came from.
    pub(crate) sources: Vec<KeySource>,
    /// Files that are there, or were asked for, and hold no key that can be used.
    pub(crate) unusable: Vec<PathBuf>,
    /// Default places where there is no file.
    pub(crate) absent: Vec<PathBuf>,
    /// What is wrong with the unusable ones, a line each.
    pub(crate) warnings: Vec<String>,
}

impl Keys {
    pub(crate) fn secrets(&self) -> Vec<&Unlocker> {
        self.unlockers.iter().collect()
    }

    /// The same for the agent: those that get a key slot, and the others.
    pub(crate) fn at_hand(&self) -> AtHand {
        let mut at_hand = AtHand::default();
        for (unlocker, source) in self.unlockers.iter().zip(&self.sources) {
            match (source.current, unlocker.kind()) {
                (true, _) => at_hand.current.push(unlocker.clone()),
                // It was given to open a store once; no store is to depend on it.
                (false, SlotKind::RecoveryCode) => {}
                (false, SlotKind::NodeKey | SlotKind::KeyFile | SlotKind::Credential) => {
                    at_hand.others.push(unlocker.clone());
                }
            }
        }
        at_hand
    }

    /// Whether the slot is for the unlocker at this place.
    pub(crate) fn is_of(&self, at: usize, slot: &SlotInfo) -> bool {
        let unlocker = &self.unlockers[at];
        unlocker.kind() == slot.kind && fingerprint(unlocker) == Some(slot.fingerprint)
    }

    /// The fingerprint of the unlocker at this place, in hexadecimal.
    pub(crate) fn fingerprint(&self, at: usize) -> Option<String> {
        fingerprint(&self.unlockers[at]).map(|octets| data_encoding::HEXLOWER.encode(&octets))
    }

    /// Where the unlocker of this slot came from, if it is at hand.
    pub(crate) fn source_of(&self, slot: &SlotInfo) -> Option<&KeySource> {
        (0..self.unlockers.len()).find(|at| self.is_of(*at, slot)).map(|at| &self.sources[at])
    }

    /// The keys at hand and their fingerprints, to be compared with those of the store.
    pub(crate) fn tried(&self) -> String {
        let shown: Vec<String> = self
            .unlockers
            .iter()
            .zip(&self.sources)
            .map(|(unlocker, source)| {
                let fingerprint = fingerprint(unlocker).map_or("no public part".to_owned(), |octets| short(&octets));
                format!("{} ({fingerprint})", source.name)
            })
            .collect();
        if shown.is_empty() { "no key was found".to_owned() } else { format!("tried {}", shown.join(", ")) }
    }

    fn push(&mut self, unlocker: Unlocker, source: KeySource) {
        self.unlockers.push(unlocker);
        self.sources.push(source);
    }

    fn warn(&mut self, error: HeldError) {
        self.warnings.push(format!("warning: {}", chain(&anyhow::Error::new(error))));
    }
}

impl UnlockArgs {
    /// Takes over where keys are; a recovery code that was typed in stays.
    pub(crate) fn renew(&mut self, other: &Self) {
        self.node_key.clone_from(&other.node_key);
        self.key_file.clone_from(&other.key_file);
        self.credential.clone_from(&other.credential);
    }

    /// Whether standard input is to be read for a recovery code.
    pub(crate) fn reads_stdin(&self) -> bool {
        self.recovery_code_file.as_deref().is_some_and(|path| path.as_os_str() == "-")
    }

    /// Where node keys are looked for: the files that were named, else the usual ones.
    fn search(&self, layout: &Layout) -> keys::KeySearch {
        let defaults = if self.node_key.is_empty() { keys::default_key_paths(layout.root()) } else { Vec::new() };
        keys::KeySearch { explicit: self.node_key.clone(), defaults }
    }

    /// The files in which keys are looked for.
    pub(crate) fn files(&self, layout: &Layout) -> Vec<PathBuf> {
        let keys::KeySearch { explicit, defaults } = self.search(layout);
        [explicit, defaults, self.key_file.clone()].concat()
    }

    /// Every key that can be found, with what there is to say left to the caller.
    ///
    /// # Errors
    /// A recovery code was to be given, and was not, or is none.
    pub(crate) fn look(&self, layout: &Layout) -> anyhow::Result<Keys> {
        let found = keys::find(&self.search(layout));
        let mut keys = Keys {
            found: Vec::new(),
            unlockers: Vec::new(),
            sources: Vec::new(),
            unusable: Vec::new(),
            absent: Vec::new(),
            warnings: Vec::new(),
        };
        for (path, error) in found.tried {
            if error.is_absent() && !self.node_key.contains(&path) {
                keys.absent.push(path);
            } else {
                keys.warnings.push(format!("warning: {}", chain(&anyhow::Error::new(error))));
                keys.unusable.push(path);
            }
        }
        for (at, key) in found.keys.iter().enumerate() {
            let source = KeySource {
                name: key.source.display().to_string(),
                open_to_others: key.open_to_others,
                current: found.current.contains(&at),
            };
            keys.push(Unlocker::from(key.secret.clone()), source);
        }
        keys.found = found.keys;
        self.credentials(&mut keys);
        for path in &self.key_file {
            match load_key_file(path) {
                Ok(held) => push_held(&mut keys, held, Unlocker::KeyFile),
                Err(error) => keys.warn(error),
            }
        }
        if let Some(code) = self.code()? {
            let source = KeySource { name: "the recovery code".to_owned(), open_to_others: false, current: false };
            keys.push(code, source);
        }
        Ok(keys)
    }

    fn credentials(&self, keys: &mut Keys) {
        let directory = std::env::var_os("CREDENTIALS_DIRECTORY");
        let default = [DEFAULT_CREDENTIAL.to_owned()];
        let names = if self.credential.is_empty() { &default[..] } else { &self.credential };
        for name in names {
            match load_credential(directory.as_deref(), name) {
                Ok(held) => push_held(keys, held, Unlocker::Credential),
                Err(error) if error.is_absent() && self.credential.is_empty() => {}
                Err(error) => keys.warn(error),
            }
        }
    }

    /// The recovery code, if one is to be given.
    fn code(&self) -> anyhow::Result<Option<Unlocker>> {
        if let Some(known) = self.typed.0.get() {
            return Ok(Some(known.clone()));
        }
        let secret = match &self.recovery_code_file {
            Some(_) if self.reads_stdin() => read_recovery_code("standard input", &mut io::stdin().lock())?,
            Some(path) => load_recovery_code(path)?,
            None if self.recovery_code => ask()?,
            None => return Ok(None),
        };
        Ok(Some(self.typed.0.get_or_init(|| Unlocker::RecoveryCode(secret)).clone()))
    }
}

fn push_held(keys: &mut Keys, held: HeldSecret, unlocker: fn(store_format::SymmetricSecret) -> Unlocker) {
    let HeldSecret { secret, source, open_to_others } = held;
    let unlocker = unlocker(secret);
    let name = match unlocker.kind() {
        SlotKind::Credential => format!("credential {}", source.display()),
        SlotKind::NodeKey | SlotKind::RecoveryCode | SlotKind::KeyFile => source.display().to_string(),
    };
    keys.push(unlocker, KeySource { name, open_to_others, current: true });
}

/// Asks for a recovery code at the terminal.
fn ask() -> anyhow::Result<store_format::SymmetricSecret> {
    for attempt in 1.. {
        match recovery_code("what was typed", &prompt::hidden("Recovery code")?) {
            Ok(secret) => return Ok(secret),
            Err(error) if attempt == ATTEMPTS => return Err(error.into()),
            Err(error) => say(format_args!("{}", chain(&error.into()))),
        }
    }
    unreachable!("the last attempt returns")
}
