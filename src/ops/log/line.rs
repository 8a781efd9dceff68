//! How a record is written: one line of text, or one JSON object on a line. Pure.

use std::time::Duration;

use serde_json::{Map, Value};

use super::record::{Record, Severity};
use crate::date::utc;

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// For people. Without a time, which the journal and container runtimes add to each line.
    #[default]
    Text,
    /// For machines, with a time.
    Json,
}

/// One line of text without characters that a terminal would act on: control characters, line breaks among them, and
/// those that reorder text are escaped.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if acts_on_terminal(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Whether a terminal would do something else with it than show it.
#[must_use]
pub fn acts_on_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// `warning: the message uid="..." revision=7`; records that are not said always name their module.
#[must_use]
pub fn text(record: &Record, colour: bool) -> String {
    let mut line = match record.severity {
        Severity::Info if record.event.is_none() => "info: ".to_owned(),
        severity => begun(severity, colour),
    };
    let asked_for = matches!(record.severity, Severity::Info | Severity::Debug | Severity::Trace);
    if record.event.is_none() && asked_for {
        line.push_str(record.target);
        line.push_str(": ");
    }
    line.push_str(&printable(&record.message));
    for (name, value) in &record.fields {
        if record.event.is_none_or(|event| event.shown.contains(name)) {
            let value = match value {
                Value::String(text) => format!("\"{}\"", printable(&text.replace('\\', "\\\\").replace('"', "\\\""))),
                value => value.to_string(),
            };
            line.push_str(&format!(" {name}={value}"));
        }
    }
    if record.repeated > 0 {
        let times = if record.repeated == 1 { "time" } else { "times" };
        line.push_str(&format!(" (said {} more {times}, which was left out)", record.repeated));
    }
    line
}

/// The word that a line begins with.
#[must_use]
pub fn begun(severity: Severity, colour: bool) -> String {
    let prefix = severity.prefix();
    match severity {
        Severity::Error if colour => format!("\u{1b}[1;31m{}\u{1b}[0m", prefix.trim_end()) + " ",
        Severity::Warning if colour => format!("\u{1b}[1;33m{}\u{1b}[0m", prefix.trim_end()) + " ",
        _ => prefix.to_owned(),
    }
}

/// `{"ts":"2026-11-21T04:34:46.123Z","level":"warning","event":"ApiServer","logger":"ckpt_db","msg":"...", ...}`
#[must_use]
pub fn json(record: &Record, since_1970: Duration) -> String {
    let mut members = Map::new();
    let seconds = utc(since_1970.as_secs());
    let ts = format!("{}.{:03}Z", seconds.trim_end_matches('Z'), since_1970.subsec_millis());
    members.insert("ts".to_owned(), ts.into());
    members.insert("level".to_owned(), record.severity.name().into());
    if let Some(event) = record.event {
        members.insert("event".to_owned(), event.name.into());
    }
    members.insert("logger".to_owned(), record.target.into());
    members.insert("msg".to_owned(), record.message.clone().into());
    for (name, value) in &record.fields {
        members.entry((*name).to_owned()).or_insert(value.clone());
    }
    if record.repeated > 0 {
        members.insert("repeated".to_owned(), record.repeated.into());
    }
    let text = Value::Object(members).to_string();
    // serde_json escapes what is below U+0020 only.
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match acts_on_terminal(c) {
            // All of them lie in the basic plane: one escape each.
            true => shown.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::events::{API_SERVER, CHECKPOINT_STATE, MESSAGE, NOTE, find};
    use super::*;

    fn record(event: Option<&str>, severity: Severity, message: &str, fields: Vec<(&'static str, Value)>) -> Record {
        let event = event.map(|name| find(name).unwrap());
        Record { severity, event, target: "ckpt_db::ops", message: message.to_owned(), fields, repeated: 0 }
    }

    #[test]
    fn lines() {
        let state = vec![
            ("pod", "shop/web".into()),
            ("uid", "u-1".into()),
            ("revision", 7.into()),
            ("state", "Active".into()),
            ("cause", "the API server is silent".into()),
        ];
        #[rustfmt::skip]
        let table = [
            (record(Some(MESSAGE), Severity::Info, "hello", vec![]),
             "hello", r#""level":"info","event":"Message","logger":"ckpt_db::ops","msg":"hello""#),
            (record(Some(NOTE), Severity::Notice, "hello", vec![]),
             "note: hello", r#""level":"notice","event":"Note","logger":"ckpt_db::ops","msg":"hello""#),
            (record(Some(MESSAGE), Severity::Warning, "hello", vec![]),
             "warning: hello", r#""level":"warning","event":"Message","logger":"ckpt_db::ops","msg":"hello""#),
            (record(Some(CHECKPOINT_STATE), Severity::Info, "shop/web: copy started (the API server is silent)", state),
             r#"shop/web: copy started (the API server is silent) uid="u-1" revision=7 state="Active""#,
             r#""level":"info","event":"CheckpointState","logger":"ckpt_db::ops","msg":"shop/web: copy started (the API server is silent)","pod":"shop/web","uid":"u-1","revision":7,"state":"Active","cause":"the API server is silent""#),
            (record(Some(API_SERVER), Severity::Info, "API server: answering", vec![("reach", "Answering".into())]),
             "API server: answering", r#""level":"info","event":"ApiServer","logger":"ckpt_db::ops","msg":"API server: answering","reach":"Answering""#),
            (record(None, Severity::Info, "committed", vec![("revision", 3.into()), ("stored", 1.into())]),
             "info: ckpt_db::ops: committed revision=3 stored=1", r#""level":"info","logger":"ckpt_db::ops","msg":"committed","revision":3,"stored":1"#),
            (record(None, Severity::Warning, "open to others", vec![("store", "/a b\"".into())]),
             "warning: open to others store=\"/a b\\\"\"", r#""level":"warning","logger":"ckpt_db::ops","msg":"open to others","store":"/a b\"""#),
            (record(None, Severity::Debug, "a\nb\u{1b}[31m\u{202e}", vec![("x", "\u{9b}".into())]),
             "debug: ckpt_db::ops: a\\u{a}b\\u{1b}[31m\\u{202e} x=\"\\u{9b}\"",
             r#""level":"debug","logger":"ckpt_db::ops","msg":"a\nb\u001b[31m\u202e","x":"\u009b""#),
        ];
        for (record, as_text, as_json) in table {
            assert_eq!(text(&record, false), as_text);
            let line = json(&record, Duration::from_millis(1_795_235_686_045));
            assert_eq!(line, format!("{{\"ts\":\"2026-11-21T04:34:46.045Z\",{as_json}}}"));
            let back: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(back["msg"], record.message);
        }
    }

    #[test]
    fn what_was_left_out_is_counted() {
        let record = Record { repeated: 3, ..record(Some(MESSAGE), Severity::Error, "no", vec![]) };
        assert_eq!(text(&record, false), "error: no (said 3 more times, which was left out)");
        let line: Value = serde_json::from_str(&json(&record, Duration::ZERO)).unwrap();
        assert_eq!((&line["repeated"], &line["ts"]), (&json!(3), &json!("1970-01-01T00:00:00.000Z")));
    }

    #[test]
    fn colour_is_for_what_is_wrong() {
        assert_eq!(text(&record(Some(MESSAGE), Severity::Error, "no", vec![]), true), "\u{1b}[1;31merror:\u{1b}[0m no");
        assert_eq!(
            text(&record(Some(MESSAGE), Severity::Warning, "no", vec![]), true),
            "\u{1b}[1;33mwarning:\u{1b}[0m no"
        );
        assert_eq!(text(&record(Some(NOTE), Severity::Notice, "yes", vec![]), true), "note: yes");
    }

    #[test]
    fn severities() {
        #[rustfmt::skip]
        let table = [
            ("error: no",        Severity::Error,   "no",               3),
            ("warning: perhaps", Severity::Warning, "perhaps",          4),
            ("note: yes",        Severity::Notice,  "yes",              5),
            ("in step: all",     Severity::Info,    "in step: all",     6),
            ("an error: no",     Severity::Info,    "an error: no",     6),
            ("debug: x",         Severity::Info,    "debug: x",         6),
        ];
        for (line, severity, rest, priority) in table {
            assert_eq!(Severity::split(line), (severity, rest));
            assert_eq!(severity.priority(), priority);
        }
    }
}
