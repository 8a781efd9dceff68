//! Key slots: the store's data key, wrapped under a key derived from what opens it.
//!
//! The wrapping key is HKDF-SHA-256 with [`Unlocker::key_material`](crate::Unlocker::key_material) as input key material, the slot's salt as salt, and
//! [`key_info`](crate::key_info) of [`Purpose::Slot`](crate::Purpose::Slot) over [`slot_context`] as info, 32 octets out. The
//! data key is AES-256-GCM under it, with a nonce of twelve zero octets and [`slot_context`] as associated data.

use std::fmt;

use crate::codec::{self, LAYOUT_VERSION, SlotWire};
use crate::fields::Fields;
use crate::{BINDING_VERSION, DecodeError, Record, StoreId};

/// Length of a store's data key.
pub const DATA_KEY_BYTES: usize = 32;
/// Length of a wrapped data key: the key and a GCM tag.
pub const WRAPPED_BYTES: usize = DATA_KEY_BYTES + crate::GCM_TAG_BYTES;

const RECORD: Record = Record::Slot;

/// What opens a slot. One of an unknown kind is kept and skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotKind {
    /// A private key of the node, in canonical form ([`crate::NodeSecret`]).
    NodeKey,
    /// A recovery code, which was shown to an operator once.
    RecoveryCode,
    /// The contents of a file that an operator keeps.
    KeyFile,
    /// The contents of a systemd credential.
    Credential,
}

impl SlotKind {
    /// All kinds, by their codes.
    pub const ALL: [Self; 4] = [Self::NodeKey, Self::RecoveryCode, Self::KeyFile, Self::Credential];

    /// The name users know.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NodeKey => "node-key",
            Self::RecoveryCode => "recovery-code",
            Self::KeyFile => "key-file",
            Self::Credential => "credential",
        }
    }

    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::NodeKey => 1,
            Self::RecoveryCode => 2,
            Self::KeyFile => 3,
            Self::Credential => 4,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::NodeKey),
            2 => Some(Self::RecoveryCode),
            3 => Some(Self::KeyFile),
            4 => Some(Self::Credential),
            _ => None,
        }
    }
}

/// One slot, table `slots`.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySlot {
    /// What opens it.
    pub kind: SlotKind,
    /// Names what opens it: of a node key, SHA-256 of its SubjectPublicKeyInfo in DER; else derived with
    /// [`fingerprint_info`](crate::fingerprint_info).
    pub fingerprint: [u8; 32],
    /// When the slot was made, in milliseconds since 1970-01-01T00:00:00Z by the node's clock.
    pub created_at_unix_ms: u64,
    /// Fresh random octets for each wrapping.
    pub salt: [u8; 32],
    /// AES-256-GCM ciphertext of the data key; its last 16 octets are the tag.
    pub wrapped: [u8; WRAPPED_BYTES],
}

impl fmt::Debug for KeySlot {
    /// Which slot, not what is in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySlot")
            .field("kind", &self.kind)
            .field("fingerprint", &crate::hex(&self.fingerprint))
            .field("created_at_unix_ms", &self.created_at_unix_ms)
            .finish_non_exhaustive()
    }
}

impl KeySlot {
    /// The payload of the slot's record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let wire = SlotWire {
            fingerprint: self.fingerprint,
            created_at_unix_ms: self.created_at_unix_ms,
            salt: self.salt,
            wrapped: self.wrapped,
        };
        codec::encode(&[LAYOUT_VERSION, self.kind.code()], &wire)
    }

    /// Reads the payload of a slot's record. The caller has checked the digest, and compares the key.
    ///
    /// # Errors
    /// `slot.kind` where only the kind is unknown (skip the slot, keep it), else `slot.*`: see `SPEC.md`.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let rest = codec::after_version(RECORD, payload)?;
        // The kind comes first, and alone: what follows it may look different in slots of a later version.
        let (&code, rest) = rest.split_first().ok_or(DecodeError::Layout { record: RECORD })?;
        let kind = SlotKind::from_code(code).ok_or(DecodeError::SlotKind { found: code })?;
        let wire: SlotWire = codec::decode(RECORD, rest)?;
        Ok(Self {
            kind,
            fingerprint: wire.fingerprint,
            created_at_unix_ms: wire.created_at_unix_ms,
            salt: wire.salt,
            wrapped: wire.wrapped,
        })
    }
}

/// Context of a slot: format version, store id, code of the kind, fingerprint.
#[must_use]
pub fn slot_context(store_id: &StoreId, kind: SlotKind, fingerprint: &[u8; 32]) -> Vec<u8> {
    Fields::with_capacity(128)
        .push(&BINDING_VERSION.to_le_bytes())
        .push(&store_id.0)
        .push(&[kind.code()])
        .push(fingerprint)
        .finish()
}

/// The key of a slot's record: `<store id>.<fingerprint>`, both in lower-case hexadecimal.
///
/// The store id stands in it so that a slot opens even where the identity record is lost; the slot's associated data
/// binds it.
#[must_use]
pub fn slot_key(store_id: &StoreId, fingerprint: &[u8; 32]) -> String {
    format!("{store_id}.{}", crate::hex(fingerprint))
}

/// The store id in the key of a slot's record; `None` if the key is not of that form.
#[must_use]
pub fn slot_key_store_id(key: &str) -> Option<StoreId> {
    let (store_id, fingerprint) = key.split_once('.')?;
    let is_hex = |text: &str| text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if store_id.len() != 32 || fingerprint.len() != 64 || !is_hex(store_id) || !is_hex(fingerprint) {
        return None;
    }
    let mut octets = [0; 16];
    for (octet, digits) in octets.iter_mut().zip(store_id.as_bytes().chunks(2)) {
        *octet = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(StoreId(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_key_names_its_store() {
        let id = StoreId(*b"0123456789abcdef");
        let key = slot_key(&id, &[0xab; 32]);
        assert_eq!(slot_key_store_id(&key), Some(id));
        let (store, fingerprint) = key.split_once('.').unwrap();
        let others = [
            String::new(),
            ".".to_owned(),
            store.to_owned(),
            fingerprint.to_owned(),
            format!("{store}{fingerprint}"),
            key.to_uppercase(),
            format!("{key}0"),
            format!("0{key}"),
            format!("{store}.{}.", &fingerprint[1..]),
            format!("+{}.{fingerprint}", &store[1..]),
            format!("{}\u{e9}.{fingerprint}", &store[2..]),
        ];
        for other in others {
            assert_eq!(slot_key_store_id(&other), None, "{other}");
        }
    }

    #[test]
    fn debug_shows_no_key_material() {
        let slot = KeySlot {
            kind: SlotKind::NodeKey,
            fingerprint: [0x11; 32],
            created_at_unix_ms: 7,
            salt: [0xcd; 32],
            wrapped: [0xef; 48],
        };
        let shown = format!("{slot:?}");
        assert!(shown.contains("1111") && !shown.contains("205") && !shown.contains("239"), "{shown}");
    }
}
