//! `ckpt-db backup`: a copy of the store in one file, while the agent runs or not. Nothing is opened for it.

use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;

use ckpt_db::checkpoint::object::Kind;
use ckpt_db::date::utc;
use ckpt_db::store::{Existing, LockState, Snapshot, StoreCopy};
use store_format::SlotKind;

use super::args::StoreArgs;
use super::output::{line, plural};
use super::{Exit, say};

/// Copy the store to a file, while the agent runs or not
///
/// The copy is of one moment, and has every record as it is: Secrets stay sealed, and the keys that open the store then open the
/// copy for ever. A backup that outlives the node needs a key that does: see 'key add --recovery-code'. FILE is there whole or not
/// at all, with mode 0600. To look at it, use 'verify', 'dump' and others with --store FILE.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ckpt-db backup /mnt/usb/edge-1.db
  ckpt-db backup --force /mnt/usb/edge-1.db              in the place of an older one
  ckpt-db backup - | ssh vault 'cat > edge-1.db'         then: ckpt-db verify --store edge-1.db")]
pub(crate) struct Backup {
    #[command(flatten)]
    store: StoreArgs,

    /// File to make; - is standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Replace FILE if it is there
    #[arg(long)]
    force: bool,

    /// Copy what reads of a store that is not sound, damaged records as they are
    #[arg(long)]
    allow_damaged: bool,
}

impl Backup {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let path = self.store.store()?;
        let to_stdout = self.file == Path::new("-");
        if to_stdout && io::stdout().is_terminal() {
            bail!("a backup is no text: it is not written to a terminal; name a file");
        }
        if !to_stdout && same_file(&self.file, &path) {
            bail!("{} is the store itself; name another file", self.file.display());
        }
        let keys = self.store.keys()?;
        let (copy, _) = self.store.copy_and_holder(&keys)?;
        let snapshot = copy.snapshot();
        let findings = snapshot.findings();
        for finding in findings {
            say(format_args!("warning: {finding}"));
        }
        if !findings.is_empty() && !self.allow_damaged {
            bail!(
                "{} is not sound ({} finding{}); no backup was made. --allow-damaged copies what reads, and damaged records as \
                 they are",
                path.display(),
                findings.len(),
                plural(findings.len())
            );
        }
        let octets = if to_stdout { self.pipe(out, &copy)? } else { self.save(&copy)? };
        let said = format!("{}: {octets} octets; {}", self.file.display(), contents(snapshot));
        if to_stdout {
            say(format_args!("{said}"))
        } else {
            line(out, format_args!("{said}"))?
        }
        match snapshot.lock_state() {
            LockState::Keyless => {}
            LockState::Locked => {
                say(format_args!("note: no key at hand opens the store; only damage can be found, not tampering"));
            }
            LockState::Open => {
                let outlives = |kind: SlotKind| match kind {
                    SlotKind::NodeKey => false,
                    SlotKind::RecoveryCode | SlotKind::KeyFile | SlotKind::Credential => true,
                };
                if !snapshot.slots().iter().any(|slot| outlives(slot.kind)) {
                    say(format_args!(
                        "note: nothing but keys of this node opens its Secrets; before you need it without the node: 'ckpt-db key \
                         add --recovery-code', and a backup after it"
                    ));
                }
            }
        }
        Ok(Exit::findings(!findings.is_empty()))
    }

    fn save(&self, copy: &StoreCopy) -> anyhow::Result<u64> {
        let existing = if self.force { Existing::Replace } else { Existing::Refuse };
        let saved = copy.save(&self.file, existing).map_err(|error| match error {
            ckpt_db::store::StoreError::Exists(path) => {
                anyhow!("{} exists already; no backup was made. --force replaces it", path.display())
            }
            error => anyhow::Error::new(error).context("no backup was made"),
        });
        Ok(saved?.get().octets)
    }

    fn pipe(&self, out: &mut dyn Write, copy: &StoreCopy) -> anyhow::Result<u64> {
        let octets = copy.octets().context("no backup was made")?;
        // Without the cause as such: a reader that goes away before the end of a backup has none.
        let written = out.write_all(&octets).and_then(|()| out.flush());
        written.map_err(|error| anyhow!("cannot write the backup to standard output: {error}"))?;
        Ok(octets.len() as u64)
    }
}

/// Whether both name one file that is there.
pub(super) fn same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// `revision 12, 13 objects (4 pods) of node edge-1, last change 2026-11-21T04:34:46Z`
pub(super) fn contents(snapshot: &Snapshot) -> String {
    let (mut objects, mut pods, mut last_ms) = (0, 0, 0);
    for object in snapshot.objects() {
        objects += 1;
        pods += usize::from(object.key.kind() == Kind::Pod);
        last_ms = last_ms.max(object.stored_at_unix_ms);
    }
    last_ms = last_ms.max(snapshot.log().next_back().map_or(0, |(_, record)| record.at_unix_ms));
    let mut text =
        format!("revision {}, {objects} object{} ({pods} pod{})", snapshot.revision(), plural(objects), plural(pods));
    if let Some(node) = snapshot.node_name().filter(|node| !node.is_empty()) {
        text.push_str(&format!(" of node {node}"));
    }
    if last_ms > 0 {
        text.push_str(&format!(", last change {}", utc(last_ms / 1000)));
    }
    text
}
