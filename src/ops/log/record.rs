//! One record: what `tracing` hands over, in a form that can be kept and written.

use std::fmt;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::events::{self, Known};

/// How bad it is, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Something that was to be done was not.
    Error,
    /// Something is not as it should be.
    Warning,
    /// To be taken note of.
    Notice,
    /// What happens in the normal course.
    Info,
    /// For whoever looks for a fault.
    Debug,
    /// Each step.
    Trace,
}

impl Severity {
    /// The severity that a line's beginning says, and the rest of it.
    #[must_use]
    pub fn split(line: &str) -> (Self, &str) {
        let said = [Self::Error, Self::Warning, Self::Notice].into_iter();
        let mut found = said.filter_map(|severity| Some((severity, line.strip_prefix(severity.prefix())?)));
        found.next().unwrap_or((Self::Info, line))
    }

    /// What a line of text begins with. Nothing for the normal course.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Error => "error: ",
            Self::Warning => "warning: ",
            Self::Notice => "note: ",
            Self::Info => "",
            Self::Debug => "debug: ",
            Self::Trace => "trace: ",
        }
    }

    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    /// The level of syslog(3), which the journal takes from the beginning of a line (sd-daemon(3)).
    #[must_use]
    pub const fn priority(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Notice => 5,
            Self::Info => 6,
            Self::Debug | Self::Trace => 7,
        }
    }
}

/// One line of the log, not written yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of event it is, if it is one of the known ones.
    pub event: Option<&'static Known>,
    /// The module that says it.
    pub target: &'static str,
    /// What it says.
    pub message: String,
    /// What it says it of.
    pub fields: Vec<(&'static str, Value)>,
    /// How many more like it were left out.
    pub repeated: u64,
}

impl Record {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        let known = events::find(metadata.name());
        let severity = match *metadata.level() {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warning,
            Level::INFO if [events::NOTE, events::KEY_SLOTS].contains(&metadata.name()) => Severity::Notice,
            Level::INFO => Severity::Info,
            Level::DEBUG => Severity::Debug,
            Level::TRACE => Severity::Trace,
        };
        let (target, fields) = (metadata.target(), Vec::new());
        let mut record = Self { severity, event: known, target, message: String::new(), fields, repeated: 0 };
        event.record(&mut record);
        if let Some(known) = known {
            let listed = |name| known.shown.contains(&name) || known.in_message.contains(&name);
            debug_assert!(record.fields.iter().all(|(name, _)| listed(*name)), "{} has other fields", known.name);
        }
        record
    }

    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::String(value.to_owned()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
}
