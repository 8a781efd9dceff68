//! What is wrong with a store: one value, one line and one stable code per finding. Names keys and rules, never contents.

use std::fmt;

use store_format::Table;

use crate::checkpoint::object::{Kind, ObjectKey, Shown};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The database's own structure is damaged; records may be hidden.
    Structure(String),
    /// A record is damaged or was tampered with. It is quarantined: reported, kept, never rendered.
    Record {
        /// Its table.
        table: Table,
        /// Its key, parts joined by `/`.
        key: String,
        /// What is wrong.
        problem: RecordProblem,
    },
    /// A record that another one names is not there.
    Missing {
        /// The absent object or row.
        object: String,
        /// Who names it.
        named_by: String,
    },
    /// The log goes further than the state record says the store has come: the state is that of an older copy, or the log of
    /// another.
    Revision {
        /// The last revision in the log.
        log: u64,
        /// The revision in the state record.
        state: u64,
    },
    /// There are fewer records of a kind than were written.
    Hidden {
        /// The kind.
        kind: String,
        /// How many were written.
        written: u64,
        /// How many can be read, damaged ones included.
        found: u64,
    },
}

/// What is wrong with one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordProblem {
    /// Its bytes do not follow SPEC.md.
    Malformed(store_format::DecodeError),
    /// Its digest does not match: damaged.
    Digest,
    /// Its tag does not match: changed by someone without the data key.
    Tag,
    /// It has no tag although the store has a key.
    NoTag,
    /// It is sound, but belongs under the key of this object: it was moved, or its key is damaged.
    OtherKey(ObjectKey),
    /// Its envelope names an object of another kind than its place, or is not sealed as its kind asks for.
    Misplaced,
    /// It does not open although its tag matches.
    Sealed,
    /// It is a key slot, and opens, but to another data key than the one that made the tags of this store: it was put back from
    /// before the data key was exchanged, or from elsewhere. It unlocks nothing.
    OtherDataKey,
    /// It is a key slot that says something else than its mirror, whose tag is right: one that was put back or changed.
    Mirror,
    /// It is a key slot of another store.
    OtherStore,
    /// Its key is no name that Kubernetes allows, or of a kind that this version does not keep.
    Name,
    /// Its body is not the JSON of the object it claims to be.
    Body,
}

impl Finding {
    /// A stable name for scripts and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Structure(_) => "Structure",
            Self::Missing { .. } => "Missing",
            Self::Revision { .. } => "Revision",
            Self::Hidden { .. } => "Hidden",
            Self::Record { problem, .. } => match problem {
                RecordProblem::Malformed(_) => "Malformed",
                RecordProblem::Digest => "Digest",
                RecordProblem::Tag => "Tag",
                RecordProblem::NoTag => "NoTag",
                RecordProblem::OtherKey(_) => "OtherKey",
                RecordProblem::Misplaced => "Misplaced",
                RecordProblem::Sealed => "Sealed",
                RecordProblem::OtherDataKey => "OtherDataKey",
                RecordProblem::Mirror => "Mirror",
                RecordProblem::OtherStore => "OtherStore",
                RecordProblem::Name => "Name",
                RecordProblem::Body => "Body",
            },
        }
    }

    pub(super) fn record(table: Table, key: &[String], problem: RecordProblem) -> Self {
        Self::Record { table, key: shown_key(key), problem }
    }
}

/// A key of unknown origin made fit for a line of output.
pub(super) fn shown_key(parts: &[String]) -> String {
    let joined = parts.join("/");
    if joined.chars().all(|c| c.is_ascii_graphic()) && joined.len() <= 600 {
        joined
    } else {
        Shown::new(&joined).to_string()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Structure(what) => write!(f, "the database structure is damaged: {what}"),
            Self::Record { table, key, problem } => {
                write!(f, "record {}/{key} ", table.name())?;
                match problem {
                    RecordProblem::Malformed(error) => write!(f, "is malformed: {error}"),
                    RecordProblem::Digest => f.write_str("is damaged: its digest does not match"),
                    RecordProblem::Tag => {
                        f.write_str("was changed by someone without the data key: its tag does not match")
                    }
                    RecordProblem::NoTag => f.write_str("has no authentication tag, although the store has a key"),
                    RecordProblem::OtherKey(object) => {
                        write!(f, "is the record of {object}: it was moved, or its key is damaged")
                    }
                    RecordProblem::Misplaced => f.write_str("does not say of itself what its key says"),
                    RecordProblem::Sealed => f.write_str("does not open with the data key"),
                    RecordProblem::OtherDataKey => f.write_str(
                        "holds another data key than this store's: it was put back from an older or another store",
                    ),
                    RecordProblem::Mirror => {
                        f.write_str("is not what its mirror in the table meta says, which is right")
                    }
                    RecordProblem::OtherStore => f.write_str("is a key slot of another store"),
                    RecordProblem::Name => f.write_str("has a key that is no object's name"),
                    RecordProblem::Body => f.write_str("does not hold the object that its key names"),
                }
            }
            Self::Missing { object, named_by } => write!(f, "{object} is missing; {named_by} names it"),
            Self::Revision { log, state } => write!(
                f,
                "record meta/state says revision {state}, but the log goes to {log}: it was put back from an older copy"
            ),
            Self::Hidden { kind, written, found } => {
                let lost = written.saturating_sub(*found);
                // Without a key at hand the state record is anybody's.
                match Kind::from_name(kind) {
                    Some(kind) => write!(f, "{lost} of {written} {kind} records can't be found"),
                    None => write!(f, "{lost} of {written} {} records can't be found", Shown::new(kind)),
                }
            }
        }
    }
}
