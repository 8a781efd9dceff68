//! `ckpt-db backup`: a copy of the store in one file, while the agent runs or not. Nothing is opened for it.

use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, ValueEnum};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use ckpt_db::checkpoint::object::Kind;
use ckpt_db::date::utc;
use ckpt_db::store::{Existing, LockState, Snapshot, StoreCopy};
use store_format::SlotKind;

use super::args::StoreArgs;
use super::output::{Format, document, line, plural};
use super::progress::Shown;
use super::{Exit, say, usage};

/// Copy the store to a file, while the agent runs or not
///
/// The copy is of one moment, and has every record as it is: Secrets stay sealed, and the keys that open the store then open the
/// copy for ever. A backup that outlives the node needs a key that does: see 'key add --recovery-code'. FILE is there whole or not
/// at all, with mode 0600. To look at it, use 'verify', 'dump' and others with --store FILE.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ckpt-db backup /mnt/usb/edge-1.db
  ckpt-db backup --force /mnt/usb/edge-1.db              in the place of an older one
  ckpt-db backup -o json /mnt/usb/edge-1.db              what was made, for scripts
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

    /// Output format of what was made; without it, one line
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<MadeFormat>,
}

/// `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MadeFormat {
    /// JSON
    Json,
    /// YAML
    Yaml,
}

impl From<MadeFormat> for Format {
    fn from(format: MadeFormat) -> Self {
        match format {
            MadeFormat::Json => Self::Json,
            MadeFormat::Yaml => Self::Yaml,
        }
    }
}

impl Backup {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let path = self.store.store()?;
        let to_stdout = self.file == Path::new("-");
        if to_stdout && self.output.is_some() {
            return Err(usage("-o writes to standard output, and so does a backup to -: name a file, or leave -o out"));
        }
        if to_stdout && io::stdout().is_terminal() {
            bail!("a backup is no text: it is not written to a terminal; name a file");
        }
        if !to_stdout && same_file(&self.file, &path) {
            bail!("{} is the store itself; name another file", self.file.display());
        }
        let keys = self.store.keys()?;
        let shown = Shown::begin();
        let read = self.store.copy_and_holder(&keys);
        drop(shown);
        let (copy, _) = read?;
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
        let shown = Shown::begin();
        let octets = if to_stdout { self.pipe(out, &copy) } else { self.save(&copy) };
        drop(shown);
        let octets = octets?;
        let said = format!("{}: {octets} octets; {}", self.file.display(), contents(snapshot));
        match self.output {
            Some(format) => document(out, format.into(), &self.value(octets, snapshot))?,
            None if to_stdout => say(format_args!("{said}")),
            None => line(out, format_args!("{said}"))?,
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

    fn value(&self, octets: u64, snapshot: &Snapshot) -> Value {
        let Contents { objects, pods, .. } = counted(snapshot);
        let slots: Vec<Value> = snapshot
            .slots()
            .iter()
            .map(|slot| json!({"kind": slot.kind.name(), "fingerprint": HEXLOWER.encode(&slot.fingerprint)}))
            .collect();
        json!({
            "apiVersion": "ckpt-db.io/v1alpha1",
            "kind": "Backup",
            "file": self.file.display().to_string(),
            "octets": octets,
            "node": snapshot.node_name(),
            "revision": snapshot.revision().0,
            "objects": objects,
            "pods": pods,
            "lastChange": last_change(snapshot),
            "findings": snapshot.findings().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "opensWith": slots,
        })
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

/// How much is in a store, and since when nothing has changed.
struct Contents {
    objects: usize,
    pods: usize,
    last_ms: u64,
}

fn counted(snapshot: &Snapshot) -> Contents {
    let mut counted = Contents { objects: 0, pods: 0, last_ms: 0 };
    for object in snapshot.objects() {
        counted.objects += 1;
        counted.pods += usize::from(object.key.kind() == Kind::Pod);
        counted.last_ms = counted.last_ms.max(object.stored_at_unix_ms);
    }
    let logged = snapshot.log().next_back().map_or(0, |(_, record)| record.at_unix_ms);
    Contents { last_ms: counted.last_ms.max(logged), ..counted }
}

/// When something in the store changed last, or was decided last.
pub(super) fn last_change(snapshot: &Snapshot) -> Option<String> {
    let Contents { last_ms, .. } = counted(snapshot);
    (last_ms > 0).then(|| utc(last_ms / 1000))
}

/// `revision 12, 13 objects (4 pods) of node edge-1, last change 2026-11-21T04:34:46Z`
pub(super) fn contents(snapshot: &Snapshot) -> String {
    let Contents { objects, pods, last_ms } = counted(snapshot);
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
