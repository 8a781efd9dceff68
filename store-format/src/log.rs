//! The log of what happened to the store and what was decided, for `ckpt-db log`: bounded, and without any value of an object.

use crate::codec::{self, LAYOUT_VERSION, LogItemWire, LogWire, fits, limit, text, text_fits};
use crate::{DecodeError, EncodeError, Phase, Record};

/// The most records that the log holds.
pub const LOG_RECORDS_MAX: usize = 1000;
/// The most items of one record; what happened beyond them is counted.
pub const LOG_ITEMS_MAX: usize = 64;
/// The longest reason of an item, in octets of UTF-8.
pub const LOG_WHY_MAX_BYTES: usize = 256;

/// Digits of a key.
const KEY_DIGITS: usize = 20;
/// The first of the 25 codes of [`Event::Decided`]: this, plus five times the phase before, plus the phase after.
const DECIDED: u8 = 64;

/// The key of the record of the commit that led to `revision`: 20 decimal digits, so that keys sort as revisions do.
#[must_use]
pub fn log_key(revision: u64) -> String {
    format!("{revision:020}")
}

/// The revision that a key names; `None` if it is not the key of any.
#[must_use]
pub fn log_key_revision(key: &str) -> Option<u64> {
    let digits = key.len() == KEY_DIGITS && key.bytes().all(|octet| octet.is_ascii_digit());
    digits.then(|| key.parse().ok()).flatten()
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// An object was stored that was not there before, or a pod of another UID than before.
    Stored,
    /// A stored object was replaced by a newer version of itself.
    Changed,
    /// An object was removed.
    Removed,
    /// The source has proven that a parent is gone; the pod is kept for its grace period.
    Gone,
    /// A parent that was gone is there again.
    Back,
    /// A pod ended here; the reason says how.
    Ended,
    /// An object that a pod names is not to be had; the reason says why.
    Absent,
    /// A decision for a pod.
    Decided {
        /// What held before.
        from: Phase,
        /// What holds now.
        to: Phase,
    },
    /// The copy of a pod was published anew, because it did not start.
    Republished,
    /// An operator holds the copy of a pod down.
    Held,
    /// An operator no longer does.
    Released,
    /// An operator made the store this node's, or this cluster's.
    Adopted,
    /// The source told whose store it is, or with which CAs and which kubelet.
    Identified,
    /// The first complete listing is stored.
    Populated,
    /// The node has started anew.
    Booted,
    /// The store has got its data key.
    Keyed,
    /// A key slot was added.
    SlotAdded,
    /// A key slot was removed.
    SlotRemoved,
    /// The data key was exchanged: every record was sealed and tagged anew.
    Rotated,
}

impl Event {
    const PLAIN: [(Self, u8); 18] = [
        (Self::Stored, 0),
        (Self::Changed, 1),
        (Self::Removed, 2),
        (Self::Gone, 3),
        (Self::Back, 4),
        (Self::Ended, 5),
        (Self::Absent, 6),
        (Self::Republished, 7),
        (Self::Held, 8),
        (Self::Released, 9),
        (Self::Adopted, 10),
        (Self::Identified, 11),
        (Self::Populated, 12),
        (Self::Booted, 13),
        (Self::Keyed, 14),
        (Self::SlotAdded, 15),
        (Self::SlotRemoved, 16),
        (Self::Rotated, 17),
    ];

    fn code(self) -> u8 {
        let phases = Phase::ALL.len() as u8;
        match self {
            Self::Decided { from, to } => DECIDED + phases * from.code() + to.code(),
            plain => {
                let row = Self::PLAIN.iter().find(|(event, _)| *event == plain);
                row.expect("every event but a decision is in the table").1
            }
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        let phases = Phase::ALL.len() as u8;
        match code.checked_sub(DECIDED) {
            None => Self::PLAIN.iter().find(|(_, known)| *known == code).map(|(event, _)| *event),
            Some(pair) => {
                let (from, to) = (Phase::from_code(pair / phases)?, Phase::from_code(pair % phases)?);
                Some(Self::Decided { from, to })
            }
        }
    }

    /// A word for people and scripts; of a decision without its phases.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Gone => "gone",
            Self::Back => "back",
            Self::Ended => "ended",
            Self::Absent => "absent",
            Self::Decided { .. } => "decided",
            Self::Republished => "republished",
            Self::Held => "held",
            Self::Released => "released",
            Self::Adopted => "adopted",
            Self::Identified => "identified",
            Self::Populated => "populated",
            Self::Booted => "booted",
            Self::Keyed => "keyed",
            Self::SlotAdded => "slot-added",
            Self::SlotRemoved => "slot-removed",
            Self::Rotated => "rotated",
        }
    }
}

/// One thing that happened to one object, or to the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogItem {
    /// What happened.
    pub event: Event,
    /// Kubernetes kind of the object; empty where the whole store is meant, and then so are the next three.
    pub kind: String,
    /// Its namespace; empty for a kind without.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; empty if it has none, or it is not known.
    pub uid: String,
    /// Why, for people; may be empty. Never a value of an object.
    pub why: String,
}

/// What one commit did: table `log`, key [`log_key`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// When it was made, in milliseconds since 1970-01-01T00:00:00Z by the node's clock.
    pub at_unix_ms: u64,
    /// `/proc/sys/kernel/random/boot_id` as it was known then; empty while not known.
    pub boot_id: String,
    /// What happened, in the order in which it did.
    pub items: Vec<LogItem>,
    /// How much more happened than there is room for.
    pub more: u32,
}

impl LogRecord {
    const RECORD: Record = Record::Log;

    /// The payload of the record.
    ///
    /// # Errors
    /// A text or the list of items is over its limit.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        text_fits(Self::RECORD, "boot id", &self.boot_id)?;
        fits(Self::RECORD, "items", self.items.len(), LOG_ITEMS_MAX)?;
        for item in &self.items {
            text_fits(Self::RECORD, "kind", &item.kind)?;
            text_fits(Self::RECORD, "namespace", &item.namespace)?;
            text_fits(Self::RECORD, "name", &item.name)?;
            text_fits(Self::RECORD, "uid", &item.uid)?;
            fits(Self::RECORD, "why", item.why.len(), LOG_WHY_MAX_BYTES)?;
        }
        let items = self.items.iter().map(|item| LogItemWire {
            event: item.event.code(),
            kind: &item.kind,
            namespace: &item.namespace,
            name: &item.name,
            uid: &item.uid,
            why: &item.why,
        });
        let wire =
            LogWire { at_unix_ms: self.at_unix_ms, boot_id: &self.boot_id, items: items.collect(), more: self.more };
        Ok(codec::encode(&[LAYOUT_VERSION], &wire))
    }

    /// Reads the payload of the record. The caller has checked the digest.
    ///
    /// # Errors
    /// `log.*`: see `SPEC.md`.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let wire: LogWire<'_> = codec::decode(Self::RECORD, codec::after_version(Self::RECORD, payload)?)?;
        limit(Self::RECORD, "items", wire.items.len(), LOG_ITEMS_MAX)?;
        let item = |item: &LogItemWire<'_>| {
            let unknown = DecodeError::Code { record: Self::RECORD, field: "event", found: item.event };
            limit(Self::RECORD, "why", item.why.len(), LOG_WHY_MAX_BYTES)?;
            Ok(LogItem {
                event: Event::from_code(item.event).ok_or(unknown)?,
                kind: text(Self::RECORD, "kind", item.kind)?,
                namespace: text(Self::RECORD, "namespace", item.namespace)?,
                name: text(Self::RECORD, "name", item.name)?,
                uid: text(Self::RECORD, "uid", item.uid)?,
                why: item.why.to_owned(),
            })
        };
        Ok(Self {
            at_unix_ms: wire.at_unix_ms,
            boot_id: text(Self::RECORD, "boot id", wire.boot_id)?,
            items: wire.items.iter().map(item).collect::<Result<_, DecodeError>>()?,
            more: wire.more,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_of_one_event() {
        let known: Vec<u8> = (0..=u8::MAX).filter(|code| Event::from_code(*code).is_some()).collect();
        assert_eq!(known, (0..18).chain(64..89).collect::<Vec<u8>>());
        for code in known {
            assert_eq!(Event::from_code(code).map(Event::code), Some(code));
        }
    }

    #[test]
    fn keys_sort_as_revisions_do() {
        #[rustfmt::skip]
        let rows = [
            (0,        "00000000000000000000"),
            (9,        "00000000000000000009"),
            (10,       "00000000000000000010"),
            (u64::MAX, "18446744073709551615"),
        ];
        for (revision, key) in rows {
            assert_eq!(log_key(revision), key);
            assert_eq!(log_key_revision(key), Some(revision));
        }
        assert!(rows.is_sorted_by(|a, b| a.1 < b.1));
        for no_key in ["", "1", "18446744073709551616", "+0000000000000000001", "0000000000000000000x"] {
            assert_eq!(log_key_revision(no_key), None, "{no_key:?}");
        }
    }
}
