//! `ckpt-db key list`: which slots the store has, and which of them open with the keys at hand.

use std::io::Write;

use clap::Args;
use serde_json::{Value, json};

use ckpt_db::date::utc;
use ckpt_db::ops::status::API_VERSION;
use ckpt_db::store::{LockState, SlotInfo};

use super::Found;
use crate::cli::args::{StoreArgs, short};
use crate::cli::dump::{or_none, why_closed};
use crate::cli::output::{Format, document};
use crate::cli::status::duration;
use crate::cli::{Exit, now_unix_ms, say, table};

/// Show the key slots of the store, and which of them open now
///
/// Works with the agent running, and changes nothing. The exit code is 1 if there are slots and none opens.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ckpt-db key list
  ckpt-db key list -o json")]
pub(crate) struct List {
    #[command(flatten)]
    store: StoreArgs,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
}

impl List {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let keys = self.store.keys()?;
        let found = Found::look(&self.store, &keys)?;
        let slots = found.slots();
        let hex = |slot: &SlotInfo| data_encoding::HEXLOWER.encode(&slot.fingerprint);
        let with = |slot: &SlotInfo| keys.source_of(slot).filter(|_| slot.opens).map(|source| source.name.clone());
        match self.output {
            Format::Table | Format::Wide if slots.is_empty() => {
                say(format_args!("no key slot: the store has no data key yet, and so no Secrets"));
            }
            Format::Table | Format::Wide => {
                let wide = self.output == Format::Wide;
                let mut header = vec!["KIND", "FINGERPRINT", "AGE", "OPENS"];
                if wide {
                    header.extend(["MADE", "WITH"]);
                }
                let now = now_unix_ms();
                let row = |slot: &SlotInfo| {
                    let age = duration(now.saturating_sub(slot.created_at_unix_ms) / 1000);
                    let fingerprint = if wide { hex(slot) } else { short(&slot.fingerprint) };
                    let opens = if slot.opens { "yes" } else { "no" };
                    let mut row = vec![slot.kind.name().to_owned(), fingerprint, age, opens.to_owned()];
                    if wide {
                        row.push(utc(slot.created_at_unix_ms / 1000));
                        row.push(or_none(&with(slot).unwrap_or_default()));
                    }
                    row
                };
                table::write(out, &header, &slots.iter().map(row).collect::<Vec<_>>())?;
            }
            Format::Name => {
                for slot in slots {
                    writeln!(out, "keyslot/{}", short(&slot.fingerprint))?;
                }
            }
            Format::Json | Format::Yaml => {
                let item = |slot: &SlotInfo| {
                    let mut item = json!({
                        "kind": slot.kind.name(), "fingerprint": hex(slot),
                        "createdAt": utc(slot.created_at_unix_ms / 1000), "opens": slot.opens,
                    });
                    if let Some(with) = with(slot) {
                        item["with"] = with.into();
                    }
                    item
                };
                let items: Vec<Value> = slots.iter().map(item).collect();
                let list = json!({"apiVersion": API_VERSION, "kind": "KeySlotList", "items": items});
                document(out, self.output, &list)?;
            }
        }
        let locked = found.snapshot.lock_state() == LockState::Locked;
        if locked {
            say(format_args!("warning: {}", why_closed(&found.snapshot, &keys.tried())));
        }
        Ok(Exit::findings(locked))
    }
}
