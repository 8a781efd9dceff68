//! `ckpt-db export`: pods and what they name, as plain manifests.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{anyhow, bail};
use clap::{Args, ValueEnum};

use ckpt_db::agent::{Exported, Exporting, For, LeftOut, export};
use ckpt_db::checkpoint::object::{Kind, ObjectKey};
use ckpt_db::materialize::Published;
use ckpt_db::source::text::Form;
use ckpt_db::store::{LockState, Snapshot};

use super::args::StoreArgs;
use super::dump::why_closed;
use super::output::{line, plural};
use super::{Exit, say};

/// Write pods and their objects as manifests, while the agent runs or not
///
/// One file for each pod, and for each ConfigMap and Secret that it names: as 'import -f DIR' takes them, or with --for=apply as
/// 'kubectl apply -f DIR' does. Files have mode 0600, and are there whole or not at all. Secrets are left out unless --reveal is
/// given: they are then on that disk in clear text.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ckpt-db export /mnt/usb/edge-1                every pod
  ckpt-db export out -n shop web                one, in clear text with its Secrets: add --reveal
  ckpt-db import -f /mnt/usb/edge-1 --dry-run   on the other side
  ckpt-db export out --for=apply --reveal       what 'kubectl apply [--server-side] -f out' takes")]
pub(crate) struct Export {
    #[command(flatten)]
    store: StoreArgs,

    /// Directory to write to; it is made if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// Only these pods: names, or namespace/name
    #[arg(value_name = "POD")]
    pods: Vec<String>,

    /// Only pods in this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = FormArg::Yaml, value_name = "FORMAT")]
    output: FormArg,

    /// Who is to take the manifests
    #[arg(long = "for", value_enum, default_value_t = ForArg::Import, value_name = "WHOM")]
    for_whom: ForArg,

    /// Write Secrets too, in clear text; needs a key that opens the store
    #[arg(long)]
    reveal: bool,

    /// Replace files that are there already
    #[arg(long)]
    overwrite: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ForArg {
    /// ckpt-db import: as stored, but for metadata.resourceVersion
    Import,
    /// kubectl apply: without status, UID, owner and whatever else an API server gives an object or refuses in a new one
    Apply,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormArg {
    /// YAML
    Yaml,
    /// JSON
    Json,
}

impl Export {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let (path, keys) = (self.store.store()?, self.store.keys()?);
        let snapshot = self.store.snapshot(&keys)?.into_inner();
        if self.reveal && snapshot.lock_state() != LockState::Open {
            bail!("cannot reveal Secrets of {}: {}", path.display(), why_closed(&snapshot, &keys.tried()));
        }
        for finding in snapshot.findings() {
            say(format_args!("warning: {finding}"));
        }
        let pods = self.chosen(&snapshot)?;
        let form = match self.output {
            FormArg::Yaml => Form::Yaml,
            FormArg::Json => Form::Json,
        };
        let for_whom = match self.for_whom {
            ForArg::Import => For::Import,
            ForArg::Apply => For::Apply,
        };
        let exporting = Exporting { for_whom, form, reveal: self.reveal, overwrite: self.overwrite };
        let exported = export(&snapshot, &pods, &self.directory, exporting)?;
        let unreadable = tell(out, &exported)?;
        Ok(Exit::findings(unreadable || !snapshot.findings().is_empty()))
    }

    /// The pods that are asked for; each name has to be one.
    fn chosen(&self, snapshot: &Snapshot) -> anyhow::Result<Vec<ObjectKey>> {
        let all = snapshot.objects().map(|object| object.key).filter(|key| key.kind() == Kind::Pod);
        let in_place =
            |key: &&ObjectKey| self.namespace.as_deref().is_none_or(|namespace| key.namespace() == namespace);
        let pods: Vec<&ObjectKey> = all.filter(in_place).collect();
        let place = self.namespace.as_ref().map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default();
        let is = |key: &ObjectKey, name: &str| match name.split_once('/') {
            Some((namespace, name)) => key.namespace() == namespace && key.name() == name,
            None => key.name() == name,
        };
        for name in &self.pods {
            if !pods.iter().any(|key| is(key, name)) {
                bail!("no pod {name:?}{place} is stored; nothing was written ('ckpt-db dump --kind pod' lists them)");
            }
        }
        if pods.is_empty() {
            return Err(anyhow!("no pod{place} is stored; nothing was written"));
        }
        let named = |key: &&&ObjectKey| self.pods.is_empty() || self.pods.iter().any(|name| is(key, name));
        Ok(pods.iter().filter(named).map(|key| (*key).clone()).collect())
    }
}

/// A line for each file; whether anything could not be read.
fn tell(out: &mut dyn Write, exported: &Exported) -> anyhow::Result<bool> {
    for (key, path, published) in &exported.files {
        let done = match published {
            Published::Created => "written to",
            Published::Replaced => "replaced in",
            Published::Unchanged => "unchanged in",
        };
        line(out, format_args!("{key} {done} {}", path.display()))?;
    }
    let left = |why| exported.left_out.iter().filter(move |(_, left)| *left == why).map(|(key, _)| key);
    for key in left(LeftOut::Unreadable) {
        say(format_args!("error: {key} can't be read: left out ('ckpt-db verify' tells more)"));
    }
    for key in left(LeftOut::NotStored) {
        say(format_args!("note: {key} is named by a pod and not stored: left out"));
    }
    let secrets = left(LeftOut::Secret).count();
    if secrets > 0 {
        say(format_args!("note: {secrets} Secret{} left out; --reveal writes them in clear text", plural(secrets)));
    }
    Ok(left(LeftOut::Unreadable).next().is_some())
}
