//! `ckpt-db dump`: what the store holds, offline and without touching it.

use std::io::Write;

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

use ckpt_db::checkpoint::lookup::{Lookup, Objects as _};
use ckpt_db::checkpoint::object::{Kind, ObjectKey};
use ckpt_db::date::utc;
use ckpt_db::store::{LockState, Snapshot, StoredObject};
use store_format::SlotKind;

use super::args::{StoreArgs, short};
use super::output::{Format, document, plural};
use super::redact::redact;
use super::{Exit, say, table};

/// Show what the store holds, without changing it
///
/// Values of Secrets are redacted unless --reveal is given and a key opens the store. Without a key, Secrets are listed as
/// sealed and everything else is shown as usual.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ckpt-db dump                                  everything, as a table
  ckpt-db dump -n kube-system --kind pod -o wide
  ckpt-db dump -n shop --kind secret web-tls -o yaml --reveal")]
pub(crate) struct Dump {
    #[command(flatten)]
    store: StoreArgs,

    /// Only objects in this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Only objects of this kind: pod, configmap, secret, service, node; may be given several times
    #[arg(long, value_name = "KIND", value_parser = parse_kind)]
    kind: Vec<Kind>,

    /// Only objects of these names
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,

    /// Show the values of Secrets; needs a key that opens the store
    #[arg(long)]
    reveal: bool,
}

/// Takes kinds as kubectl does: any case, singular, plural or short.
fn parse_kind(text: &str) -> Result<Kind, String> {
    let lower = text.to_lowercase();
    let known = |kind: &Kind| {
        let row = kind.row();
        [row.name.to_lowercase().as_str(), row.plural, row.short].contains(&lower.as_str())
    };
    Kind::ALL.into_iter().find(known).ok_or_else(|| {
        let known: Vec<String> = Kind::ALL.iter().map(|kind| kind.row().name.to_lowercase()).collect();
        format!("the store keeps no such kind; known are {}", known.join(", "))
    })
}

impl Dump {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let path = self.store.store()?;
        let keys = self.store.keys()?;
        let snapshot = self.store.snapshot(&keys)?.into_inner();
        if self.reveal && snapshot.lock_state() != LockState::Open {
            bail!("cannot reveal Secrets of {}: {}", path.display(), why_closed(&snapshot, &keys.tried()));
        }
        for finding in snapshot.findings() {
            say(format_args!("warning: {finding}"));
        }
        let wanted: Vec<StoredObject<'_>> = snapshot.objects().filter(|object| self.wants(object.key)).collect();
        let mut exit = Exit::findings(!snapshot.findings().is_empty());
        for name in &self.names {
            if !wanted.iter().any(|object| object.key.name() == name) {
                let place = self.place();
                say(format_args!("error: nothing named {name:?}{place} is readable in {}", path.display()));
                exit = Exit::Findings;
            }
        }
        let sealed = wanted.iter().filter(|object| object.sealed).count();
        if sealed > 0 {
            say_sealed(&snapshot, &keys.tried());
        }
        match self.output {
            Format::Table | Format::Wide if wanted.is_empty() => say(format_args!("nothing found{}", self.place())),
            Format::Table | Format::Wide => self.table(out, &snapshot, &wanted)?,
            Format::Name => {
                for object in &wanted {
                    writeln!(out, "{}/{}", object.key.kind().row().name.to_lowercase(), object.key.name())?;
                }
            }
            Format::Json | Format::Yaml => {
                let items: Vec<Value> = wanted.iter().map(|object| self.item(&snapshot, object)).collect();
                let list =
                    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items});
                if sealed > 0 && !self.reveal {
                    say(format_args!(
                        "note: the values of {sealed} Secret{} are left out or redacted: do not apply this to a cluster",
                        plural(sealed)
                    ));
                }
                document(out, self.output, &list)?;
            }
        }
        Ok(exit)
    }

    /// ` in namespace shop`, where one was asked for.
    fn place(&self) -> String {
        self.namespace.as_ref().map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default()
    }

    fn wants(&self, key: &ObjectKey) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| key.namespace() == namespace)
            && (self.kind.is_empty() || self.kind.contains(&key.kind()))
            && (self.names.is_empty() || self.names.iter().any(|name| name == key.name()))
    }

    fn table(&self, out: &mut dyn Write, snapshot: &Snapshot, objects: &[StoredObject<'_>]) -> anyhow::Result<()> {
        let wide = self.output == Format::Wide;
        let mut header = vec!["KIND", "NAMESPACE", "NAME", "STATE", "BYTES"];
        if wide {
            header.extend(["LIFECYCLE", "STORED", "RESOURCE VERSION", "UID"]);
        }
        let rows: Vec<Vec<String>> = objects
            .iter()
            .map(|object| {
                let mut row = vec![
                    object.key.kind().to_string(),
                    or_none(object.key.namespace()),
                    object.key.name().to_owned(),
                    state(object).to_owned(),
                    object.body_bytes.to_string(),
                ];
                if wide {
                    row.extend([
                        lifecycle(snapshot, object.key),
                        utc(object.stored_at_unix_ms / 1000),
                        or_none(object.resource_version),
                        or_none(object.uid),
                    ]);
                }
                row
            })
            .collect();
        table::write(out, &header, &rows)?;
        Ok(())
    }

    /// One object as a document that `kubectl apply --dry-run` reads.
    fn item(&self, snapshot: &Snapshot, object: &StoredObject<'_>) -> Value {
        let row = object.key.kind().row();
        let body = match snapshot.get(object.key) {
            Lookup::Found(found) => serde_json::from_slice(found.body.expose()).ok(),
            Lookup::Missing | Lookup::Forbidden | Lookup::Sealed | Lookup::NoKeyYet | Lookup::Damaged => None,
        };
        let mut body: Value = body.unwrap_or_else(|| {
            let mut metadata = json!({"name": object.key.name(), "annotations": {"ckpt-db.io/sealed": "true"}});
            for (field, value) in [
                ("namespace", object.key.namespace()),
                ("uid", object.uid),
                ("resourceVersion", object.resource_version),
            ] {
                if !value.is_empty() {
                    metadata[field] = value.into();
                }
            }
            json!({"apiVersion": row.api_version, "kind": row.name, "metadata": metadata})
        });
        // What a server lists carries neither.
        body["apiVersion"] = row.api_version.into();
        body["kind"] = row.name.into();
        if row.sealed && !self.reveal {
            redact(&mut body);
        }
        body
    }
}

/// What is on record of a pod's copy: `active`, `active-grace 60 s, gone`, `inactive, held`.
fn lifecycle(snapshot: &Snapshot, key: &ObjectKey) -> String {
    let Some(lifecycle) = snapshot.lifecycle(key) else { return or_none("") };
    let mut marks = vec![lifecycle.phase().name().to_owned()];
    if let Some(left_s) = lifecycle.left_s() {
        marks[0].push_str(&format!(" {left_s} s"));
    }
    for (mark, is_so) in [("gone", snapshot.gone(key)), ("held", snapshot.held(key))] {
        marks.extend(is_so.then(|| mark.to_owned()));
    }
    let republished = snapshot.republished(key);
    if republished > 0 {
        marks.push(format!("republished {republished}x"));
    }
    marks.join(", ")
}

fn state(object: &StoredObject<'_>) -> &'static str {
    match (object.sealed, object.authenticated) {
        (true, true) => "sealed, authentic",
        (true, false) => "sealed",
        (false, true) => "authentic",
        (false, false) => "unauthenticated",
    }
}

/// Says why Secrets can't be read, if they can't.
pub(crate) fn say_sealed(snapshot: &Snapshot, tried: &str) {
    if snapshot.lock_state() == LockState::Locked {
        say(format_args!("warning: Secrets stay sealed: {}", why_closed(snapshot, tried)));
    }
}

/// Why Secrets can't be read, and what to do.
pub(crate) fn why_closed(snapshot: &Snapshot, tried: &str) -> String {
    match snapshot.lock_state() {
        LockState::Keyless => "the store has no data key yet, and so no Secrets".to_owned(),
        LockState::Open => "it is open".to_owned(),
        LockState::Locked => {
            let mut kinds: Vec<SlotKind> = snapshot.slots().iter().map(|slot| slot.kind).collect();
            kinds.sort();
            let of_kind = |kind: SlotKind| {
                let slots = snapshot.slots().iter().filter(move |slot| slot.kind == kind);
                let names: Vec<String> = slots.map(|slot| short(&slot.fingerprint)).collect();
                format!("{} {} ({})", kind.name(), names.join(", "), how_to_give(kind))
            };
            kinds.dedup();
            let slots: Vec<String> = kinds.into_iter().map(of_kind).collect();
            format!("no key at hand opens the store ({tried}); give one of those that do: {}", slots.join("; "))
        }
    }
}

/// The option with which a key of this kind is given.
pub(crate) fn how_to_give(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::NodeKey => "--node-key FILE",
        SlotKind::RecoveryCode => "--recovery-code",
        SlotKind::KeyFile => "--key-file FILE",
        SlotKind::Credential => "--credential NAME",
    }
}

pub(crate) fn or_none(text: &str) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_as_kubectl_names_them() {
        for text in ["po", "Pod", "PODS", "pod"] {
            assert_eq!(parse_kind(text), Ok(Kind::Pod));
        }
        assert_eq!(parse_kind("cm"), Ok(Kind::ConfigMap));
        assert!(parse_kind("deployment").is_err());
    }
}
