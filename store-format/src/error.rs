//! Errors of the record codecs: which rule of `SPEC.md` the bytes break.

use std::fmt;

/// A kind of record, as named in errors and in `SPEC.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Record {
    /// [`crate::Envelope`], table `objects`.
    Envelope,
    /// [`crate::KeySlot`], table `slots`.
    Slot,
    /// [`crate::Identity`], record `meta`/`identity`.
    Identity,
    /// [`crate::State`], record `meta`/`state`.
    State,
    /// [`crate::PodRow`], table `pods`.
    PodRow,
    /// [`crate::LogRecord`], table `log`.
    Log,
}

impl Record {
    /// The name that starts the codes of errors about this record.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Slot => "slot",
            Self::Identity => "identity",
            Self::State => "state",
            Self::PodRow => "pod-row",
            Self::Log => "log",
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why bytes are not a valid record. Nothing is known about the record then, except that it is damaged, foreign or newer.
///
/// No variant carries contents: only lengths, codes and versions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A frame is shorter than its fixed part.
    #[error("frame of {len} octets is shorter than its header; the record is damaged")]
    FrameLength {
        /// Octets there are.
        len: usize,
    },
    /// A frame starts with an unknown layout version.
    #[error(
        "frame layout version {found} is not known to this program; the record is damaged, or was written by a newer version"
    )]
    FrameVersion {
        /// The version octet.
        found: u8,
    },
    /// A frame has flags set that this version does not define.
    #[error("frame has unknown flags {found:#04x}; the record is damaged, or was written by a newer version")]
    FrameFlags {
        /// The flags octet.
        found: u8,
    },
    /// The payload of `meta`/`format` is not four octets.
    #[error("format version record has {len} octets instead of 4; the record is damaged")]
    FormatLength {
        /// Octets there are.
        len: usize,
    },
    /// The store has a format version that no program ever wrote.
    #[error("format version 0 was never written; the record is damaged")]
    FormatZero,
    /// The store was written by a newer program. Not damage: leave the file alone.
    #[error(
        "the store has format version {found}, this program reads up to {}; use the newer program",
        crate::FORMAT_VERSION
    )]
    FormatNewer {
        /// The version the store states.
        found: u32,
    },
    /// A list is not in the order that its record asks for, or names something twice.
    #[error("{record} record: {field} are not sorted; it is damaged or was not written by this program")]
    Order {
        /// Which record.
        record: Record,
        /// Which list.
        field: &'static str,
    },
    /// A record starts with an unknown layout version.
    #[error("{record} record has unknown layout version {found}; it is damaged, or was written by a newer version")]
    Version {
        /// Which record.
        record: Record,
        /// The version octet.
        found: u8,
    },
    /// A record ends inside a field, or a length or count in it runs past its end.
    #[error("{record} record ends inside a field; it is damaged")]
    Layout {
        /// Which record.
        record: Record,
    },
    /// A record goes on after its last field.
    #[error("{record} record has {extra} octets after its last field; it is damaged")]
    Trailing {
        /// Which record.
        record: Record,
        /// Octets too many.
        extra: usize,
    },
    /// A text field is not UTF-8.
    #[error("{record} record holds text that is not UTF-8; it is damaged")]
    Text {
        /// Which record.
        record: Record,
    },
    /// A field, a list or the whole record exceeds its limit.
    #[error(
        "{record} record: {field} of {len} exceeds the limit of {max}; it is damaged or was not written by this program"
    )]
    Limit {
        /// Which record.
        record: Record,
        /// Which field.
        field: &'static str,
        /// Octets, or entries of a list.
        len: usize,
        /// The most there may be.
        max: usize,
    },
    /// A field holds a code that this version does not define.
    #[error("{record} record: {field} has the unknown code {found}; it is damaged, or was written by a newer version")]
    Code {
        /// Which record.
        record: Record,
        /// Which field.
        field: &'static str,
        /// The code.
        found: u8,
    },
    /// Two fields contradict each other.
    #[error("{record} record: {field} contradicts another field; it is damaged or was not written by this program")]
    Contradiction {
        /// Which record.
        record: Record,
        /// Which field.
        field: &'static str,
    },
    /// A key slot is of a kind that this version does not know. The slot is to be skipped and kept, not dropped.
    #[error("key slot is of unknown kind {found}; it was written by a newer version, or is damaged")]
    SlotKind {
        /// The kind's code.
        found: u8,
    },
    /// A sealed body is shorter than salt and tag together.
    #[error("sealed body of {len} octets is shorter than its salt and tag; the record is damaged")]
    SealedLength {
        /// Octets there are.
        len: usize,
    },
}

/// `"<record>.<rule>"` for each record.
macro_rules! per_record {
    ($record:expr, $rule:literal) => {
        match $record {
            Record::Envelope => concat!("envelope.", $rule),
            Record::Slot => concat!("slot.", $rule),
            Record::Identity => concat!("identity.", $rule),
            Record::State => concat!("state.", $rule),
            Record::PodRow => concat!("pod-row.", $rule),
            Record::Log => concat!("log.", $rule),
        }
    };
}

impl DecodeError {
    /// The stable name of the broken rule, as `SPEC.md` and the vectors name it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::FrameLength { .. } => "frame.length",
            Self::FrameVersion { .. } => "frame.version",
            Self::FrameFlags { .. } => "frame.flags",
            Self::FormatLength { .. } => "format.length",
            Self::FormatZero => "format.zero",
            Self::FormatNewer { .. } => "format.newer",
            Self::Version { record, .. } => per_record!(*record, "version"),
            Self::Layout { record } => per_record!(*record, "layout"),
            Self::Trailing { record, .. } => per_record!(*record, "trailing"),
            Self::Text { record } => per_record!(*record, "text"),
            Self::Limit { record, .. } => per_record!(*record, "limit"),
            Self::Code { record, .. } => per_record!(*record, "code"),
            Self::Order { record, .. } => per_record!(*record, "order"),
            Self::Contradiction { record, .. } => per_record!(*record, "contradiction"),
            Self::SlotKind { .. } => "slot.kind",
            Self::SealedLength { .. } => "sealed.length",
        }
    }
}

/// Why a value can't be written as a record. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A field, a list or the whole record exceeds its limit.
    #[error("{record} record: {field} of {len} exceeds the limit of {max}")]
    TooLarge {
        /// Which record.
        record: Record,
        /// Which field.
        field: &'static str,
        /// Octets, or entries of a list.
        len: usize,
        /// The most there may be.
        max: usize,
    },
    /// A list is not in the order that its record asks for, or names something twice.
    #[error("{record} record: {field} are not sorted")]
    Order {
        /// Which record.
        record: Record,
        /// Which list.
        field: &'static str,
    },
}
