//! `ckpt-db log`: what changed in the store and what was decided, newest last.

use std::io::Write;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use store_format::{Event, LogItem, LogRecord};

use ckpt_db::date::utc;
use ckpt_db::store::Revision;

use super::args::StoreArgs;
use super::output::{Format, document, line, plural};
use super::{Exit, now_unix_ms, table};

/// How far a clock may be set back without having been wrong.
const SET_BACK_MS: u64 = 60_000;

/// Show recent changes and decisions, newest last
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ckpt-db log --since 1h
  ckpt-db log -n shop web
  ckpt-db log -o json")]
pub(crate) struct Log {
    #[command(flatten)]
    store: StoreArgs,

    /// Only what happened in this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Only what happened to pods of this name
    #[arg(value_name = "POD")]
    pod: Option<String>,

    /// Only what happened in this time up to now, as 90s, 30m, 1h or 2d
    #[arg(long, value_name = "TIME", value_parser = duration_s)]
    since: Option<u64>,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = Shape::Table, value_name = "FORMAT")]
    output: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// A line each
    Table,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// `90s`, `30m`, `1h`, `2d`.
fn duration_s(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time like 90s, 30m, 1h or 2d");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

/// One thing that happened.
struct Entry<'a> {
    revision: Revision,
    record: &'a LogRecord,
    /// Whether the clock that dated it can be believed.
    dated: bool,
    /// `None`: there was more in this commit than the log has room for.
    item: Option<&'a LogItem>,
}

impl Log {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let keys = self.store.keys()?;
        let snapshot = self.store.snapshot(&keys)?.into_inner();
        let now_ms = now_unix_ms();
        let from_ms = self.since.map(|since| now_ms.saturating_sub(since.saturating_mul(1000)));
        let mut entries = Vec::new();
        let log: Vec<(Revision, LogRecord)> = snapshot.log().collect();
        for (revision, record, at_ms, dated) in dated(log.iter().map(|(revision, record)| (*revision, record)), now_ms)
        {
            if from_ms.is_some_and(|from| at_ms < from) {
                continue;
            }
            let entry = |item| Entry { revision, record, dated, item };
            entries.extend(record.items.iter().filter(|item| self.wants(item)).map(|item| entry(Some(item))));
            if record.more > 0 && self.pod.is_none() && self.namespace.is_none() {
                entries.push(entry(None));
            }
        }
        match self.output {
            Shape::Table if entries.is_empty() => line(out, format_args!("nothing on record"))?,
            Shape::Table => {
                let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
                table::write(out, &["TIME", "REVISION", "OBJECT", "WHAT"], &rows)?;
            }
            Shape::Json | Shape::Yaml => {
                let items: Vec<Value> = entries.iter().map(value).collect();
                let log = json!({"apiVersion": "ckpt-db.io/v1alpha1", "kind": "Log", "items": items});
                document(out, if self.output == Shape::Yaml { Format::Yaml } else { Format::Json }, &log)?;
            }
        }
        Ok(Exit::Fine)
    }

    fn wants(&self, item: &LogItem) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| item.namespace == namespace)
            && self.pod.as_deref().is_none_or(|pod| item.kind == "Pod" && item.name == pod)
    }
}

/// Each record with the time at which it was made, as well as it can be told, and whether that is what it says itself.
///
/// Commits come one after another: one that is dated well before an earlier one was dated by a clock that was not set, and
/// one of the future by a clock that was wrong then or is now.
fn dated<'a>(
    log: impl Iterator<Item = (Revision, &'a LogRecord)>,
    now_ms: u64,
) -> impl Iterator<Item = (Revision, &'a LogRecord, u64, bool)> {
    let mut newest_ms = 0;
    log.map(move |(revision, record)| {
        let at_ms = record.at_unix_ms;
        let believed = at_ms.saturating_add(SET_BACK_MS) >= newest_ms && at_ms <= now_ms.saturating_add(SET_BACK_MS);
        if believed {
            newest_ms = newest_ms.max(at_ms);
        }
        (revision, record, newest_ms, believed)
    })
}

fn row(entry: &Entry<'_>) -> Vec<String> {
    let mark = if entry.dated { "" } else { " (clock was not set)" };
    let time = format!("{}{mark}", utc(entry.record.at_unix_ms / 1000));
    let (object, what) = match entry.item {
        Some(item) => (object(item), what(item)),
        None => ("-".to_owned(), format!("{} more change{}", entry.record.more, plural(entry.record.more as usize))),
    };
    vec![time, entry.revision.to_string(), object, what]
}

fn object(item: &LogItem) -> String {
    match (item.kind.as_str(), item.namespace.as_str()) {
        ("", _) => "store".to_owned(),
        ("Pod", namespace) => format!("{namespace}/{}", item.name),
        (kind, "") => format!("{kind} {}", item.name),
        (kind, namespace) => format!("{kind} {namespace}/{}", item.name),
    }
}

fn what(item: &LogItem) -> String {
    let event = match item.event {
        Event::Decided { from, to } if from == to => to.name().to_owned(),
        Event::Decided { from, to } => format!("{} -> {}", from.name(), to.name()),
        event => event.name().to_owned(),
    };
    if item.why.is_empty() { event } else { format!("{event}: {}", item.why) }
}

fn value(entry: &Entry<'_>) -> Value {
    let Entry { revision, record, dated, item } = entry;
    let mut value = json!({
        "time": utc(record.at_unix_ms / 1000),
        "clockWasSet": dated,
        "revision": revision.0,
        "bootID": record.boot_id,
    });
    let Some(item) = item else {
        value["event"] = "more".into();
        value["count"] = record.more.into();
        return value;
    };
    value["event"] = item.event.name().into();
    if let Event::Decided { from, to } = item.event {
        value["from"] = from.name().into();
        value["to"] = to.name().into();
    }
    for (member, text) in [
        ("kind", &item.kind),
        ("namespace", &item.namespace),
        ("name", &item.name),
        ("uid", &item.uid),
        ("why", &item.why),
    ] {
        if !text.is_empty() {
            value[member] = text.as_str().into();
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_are_given() {
        #[rustfmt::skip]
        let rows = [
            ("90s", Some(90)), ("30m", Some(1_800)), ("1h", Some(3_600)), ("2d", Some(172_800)), ("0s", Some(0)),
            ("", None), ("h", None), ("1", None), ("1w", None), ("-1h", None), ("1.5h", None), ("é", None),
            ("99999999999999999999d", None),
        ];
        for (text, want) in rows {
            assert_eq!(duration_s(text).ok(), want, "{text:?}");
        }
    }

    #[test]
    fn clocks_that_were_not_set() {
        const NOW: u64 = 1_795_235_686_000;
        const DAY: u64 = 86_400_000;
        #[rustfmt::skip]
        let rows = [
            // dated         counts as    believed
            (NOW - 2 * DAY, NOW - 2 * DAY, true),
            (12_000,        NOW - 2 * DAY, false),
            (NOW - DAY,     NOW - DAY,     true),
            // Set back a little, as time servers do.
            (NOW - DAY - 5, NOW - DAY,     true),
            (NOW + DAY,     NOW - DAY,     false),
            (NOW,           NOW,           true),
        ];
        let records: Vec<LogRecord> = rows
            .iter()
            .map(|(at_unix_ms, _, _)| LogRecord {
                at_unix_ms: *at_unix_ms,
                boot_id: String::new(),
                items: Vec::new(),
                more: 0,
            })
            .collect();
        let log = records.iter().enumerate().map(|(revision, record)| (Revision(revision as u64), record));
        for ((_, _, at, believed), (said, want_at, want)) in dated(log, NOW).zip(rows) {
            assert_eq!((at, believed), (want_at, want), "{said}");
        }
    }
}
