//! The frame around every value of every table: a digest that finds damage, a tag that finds tampering.

use std::fmt;

use crate::fields::Fields;
use crate::{DecodeError, StoreId};

/// Layout version octet of a frame.
const FRAME_VERSION: u8 = 1;
/// Flag: a tag follows the digest.
const FLAG_TAG: u8 = 0b0000_0001;
/// Version and flags.
const HEADER_BYTES: usize = 2;
/// SHA-256, and HMAC-SHA-256.
const HASH_BYTES: usize = 32;

/// Domain label of [`digest_input`].
const DIGEST_LABEL: &[u8] = b"ckpt-db digest 1";
/// Domain label of [`tag_input`].
const TAG_LABEL: &[u8] = b"ckpt-db tag 1";

/// A table of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Store-wide records; key: one of [`crate::meta_key`].
    Meta,
    /// Key slots; key: [`crate::slot_key`] of the fingerprint.
    Slots,
    /// Objects; key: (kind, namespace, name).
    Objects,
    /// Per-pod lifecycle state; key: (namespace, name).
    Pods,
    /// What happened; key: [`crate::log_key`] of the revision.
    Log,
}

impl Table {
    /// Every table, in the order of `SPEC.md`.
    pub const ALL: [Self; 5] = [Self::Meta, Self::Slots, Self::Objects, Self::Pods, Self::Log];

    /// The table's name in the database. The digest of each record binds it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Slots => "slots",
            Self::Objects => "objects",
            Self::Pods => "pods",
            Self::Log => "log",
        }
    }
}

/// The stored value of one record: what its payload must hash to, and the payload.
///
/// Decoding checks the layout only. The caller compares `digest` with the SHA-256 of [`digest_input`] before it looks at
/// the payload, and, where the data key is open, `tag` with the HMAC-SHA-256 of [`tag_input`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// SHA-256 of [`digest_input`].
    pub digest: [u8; 32],
    /// HMAC-SHA-256 of [`tag_input`]; absent where the record was written without a data key.
    pub tag: Option<[u8; 32]>,
    /// The record itself, in the layout of its table.
    pub payload: &'a [u8],
}

impl fmt::Debug for Frame<'_> {
    /// The payload's length, not its contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("digest", &crate::hex(&self.digest))
            .field("tag", &self.tag.is_some())
            .field("payload_bytes", &self.payload.len())
            .finish()
    }
}

impl<'a> Frame<'a> {
    /// Takes a stored value apart.
    ///
    /// # Errors
    /// `frame.length`, `frame.version`, `frame.flags`.
    pub fn decode(value: &'a [u8]) -> Result<Self, DecodeError> {
        let short = DecodeError::FrameLength { len: value.len() };
        let (&[version, flags], rest) = value.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| short.clone())?;
        if version != FRAME_VERSION {
            return Err(DecodeError::FrameVersion { found: version });
        }
        if flags & !FLAG_TAG != 0 {
            return Err(DecodeError::FrameFlags { found: flags });
        }
        let (&digest, rest) = rest.split_first_chunk::<HASH_BYTES>().ok_or_else(|| short.clone())?;
        let (tag, payload) = if flags & FLAG_TAG == 0 {
            (None, rest)
        } else {
            let (&tag, payload) = rest.split_first_chunk::<HASH_BYTES>().ok_or(short)?;
            (Some(tag), payload)
        };
        Ok(Self { digest, tag, payload })
    }

    /// The stored value: version, flags, digest, tag where there is one, payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(HEADER_BYTES + 2 * HASH_BYTES + self.payload.len());
        value.push(FRAME_VERSION);
        value.push(if self.tag.is_some() { FLAG_TAG } else { 0 });
        value.extend_from_slice(&self.digest);
        if let Some(tag) = &self.tag {
            value.extend_from_slice(tag);
        }
        value.extend_from_slice(self.payload);
        value
    }
}

/// What the digest of a record is the SHA-256 of: a label, the table, each part of the key, the payload.
///
/// A record that turns up under another key or in another table therefore fails its digest.
#[must_use]
pub fn digest_input(table: Table, key: &[&str], payload: &[u8]) -> Vec<u8> {
    let mut input = digest_head(table, key, payload.len());
    input.extend_from_slice(payload);
    input
}

/// What comes before the payload in [`digest_input`], for a digest that is made without a copy of the payload.
#[must_use]
pub fn digest_head(table: Table, key: &[&str], payload_bytes: usize) -> Vec<u8> {
    let capacity = 64 + key.iter().map(|part| part.len() + 8).sum::<usize>();
    let fields = Fields::with_capacity(capacity)
        .push(DIGEST_LABEL)
        .push(table.name().as_bytes())
        .push(&(key.len() as u64).to_le_bytes());
    key.iter().fold(fields, |fields, part| fields.push(part.as_bytes())).start(payload_bytes).finish()
}

/// What the tag of a record is the HMAC-SHA-256 of, under the tag key: a label, the store, the record's digest.
#[must_use]
pub fn tag_input(store_id: &StoreId, digest: &[u8; 32]) -> Vec<u8> {
    Fields::with_capacity(128).push(TAG_LABEL).push(&store_id.0).push(digest).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_digest_binds_table_key_and_payload() {
        let inputs = [
            digest_input(Table::Objects, &["Secret", "a", "b"], b"x"),
            digest_input(Table::Objects, &["Secret", "ab", ""], b"x"),
            digest_input(Table::Objects, &["Secret", "a", "b"], b"y"),
            digest_input(Table::Objects, &["Secret", "a"], b"bx"),
            digest_input(Table::Objects, &["Secret", "a", "b", "x"], b""),
            digest_input(Table::Pods, &["Secret", "a", "b"], b"x"),
        ];
        for (at, one) in inputs.iter().enumerate() {
            assert!(inputs.iter().skip(at + 1).all(|other| other != one), "input {at} is not unique");
        }
    }

    #[test]
    fn debug_shows_no_payload() {
        let frame = Frame { digest: [0; 32], tag: None, payload: b"canary" };
        assert!(!format!("{frame:?}").contains("canary"));
        assert!(!format!("{frame:?}").contains("99, 97"));
    }

    proptest! {
        #[test]
        fn round_trip(digest: [u8; 32], tag: Option<[u8; 32]>, payload: Vec<u8>) {
            let frame = Frame { digest, tag, payload: &payload };
            let value = frame.encode();
            prop_assert_eq!(Frame::decode(&value), Ok(frame));
        }

        #[test]
        fn accepted_values_are_canonical(flags in 0u8..4, rest in prop::collection::vec(any::<u8>(), 0..100)) {
            let value = [&[FRAME_VERSION, flags], rest.as_slice()].concat();
            if let Ok(frame) = Frame::decode(&value) {
                prop_assert_eq!(frame.encode(), value);
            }
        }
    }
}
