//! Sealed bodies: their layout, and the exact inputs of the key derivation and the cipher that open them.
//!
//! The key of one record is HKDF-SHA-256 with the data key as input key material, the body's salt as salt, and
//! [`key_info`] of [`Purpose::Record`] as info, 32 octets out. The body is AES-256-GCM under that key, with a nonce of twelve
//! zero octets (the key is used once) and [`RecordContext::associated_data`]. The tag key of a store is derived likewise
//! from [`Purpose::Tag`] and [`store_context`], with a salt of 32 zero octets.

use std::fmt;

use crate::fields::Fields;
use crate::{BINDING_VERSION, DecodeError, StoreId};

/// Length of the salt that starts a sealed body.
pub const SALT_BYTES: usize = 32;
/// Length of the AES-GCM tag that ends a sealed body.
pub const GCM_TAG_BYTES: usize = 16;

/// The body of an envelope in the form [`crate::Form::Sealed`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SealedBody<'a> {
    /// Fresh random octets for each sealing.
    pub salt: [u8; 32],
    /// AES-256-GCM ciphertext; its last 16 octets are the tag.
    pub ciphertext: &'a [u8],
}

impl fmt::Debug for SealedBody<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedBody").field("ciphertext_bytes", &self.ciphertext.len()).finish_non_exhaustive()
    }
}

impl<'a> SealedBody<'a> {
    /// Takes a sealed body apart.
    ///
    /// # Errors
    /// `sealed.length`: it has not even room for salt and tag.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        match body.split_first_chunk::<SALT_BYTES>() {
            Some((&salt, ciphertext)) if ciphertext.len() >= GCM_TAG_BYTES => Ok(Self { salt, ciphertext }),
            Some(_) | None => Err(DecodeError::SealedLength { len: body.len() }),
        }
    }

    /// The body: salt, then ciphertext.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [&self.salt, self.ciphertext].concat()
    }
}

/// What a derived key is for. Keys for different purposes are unrelated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Seals one record's body.
    Record,
    /// Makes the tags of all records of one store.
    Tag,
    /// Wraps the data key in one slot.
    Slot,
    /// Names a recovery code, key file or credential in its slot; shows nothing of it.
    Fingerprint,
}

impl Purpose {
    /// The label that goes into the key derivation.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Tag => "tag",
            Self::Slot => "slot",
            Self::Fingerprint => "fingerprint",
        }
    }
}

/// The identity that a sealed body is bound to. Under any other it does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordContext<'a> {
    /// The store the record is in.
    pub store_id: &'a StoreId,
    /// Kubernetes kind.
    pub kind: &'a str,
    /// Namespace; empty for a kind without.
    pub namespace: &'a str,
    /// `metadata.name`.
    pub name: &'a str,
    /// `metadata.uid`.
    pub uid: &'a str,
    /// `metadata.resourceVersion`.
    pub resource_version: &'a str,
}

impl RecordContext<'_> {
    /// Associated data of the sealing: format version, store id, kind, namespace, name, uid, resourceVersion.
    #[must_use]
    pub fn associated_data(&self) -> Vec<u8> {
        Fields::with_capacity(256)
            .push(&BINDING_VERSION.to_le_bytes())
            .push(&self.store_id.0)
            .push(self.kind.as_bytes())
            .push(self.namespace.as_bytes())
            .push(self.name.as_bytes())
            .push(self.uid.as_bytes())
            .push(self.resource_version.as_bytes())
            .finish()
    }
}

/// Context of keys that belong to a whole store: format version, store id.
#[must_use]
pub fn store_context(store_id: &StoreId) -> Vec<u8> {
    Fields::with_capacity(64).push(&BINDING_VERSION.to_le_bytes()).push(&store_id.0).finish()
}

/// The `info` of HKDF-SHA-256: a label of this program, the purpose's label, the associated data.
#[must_use]
pub fn key_info(purpose: Purpose, associated_data: &[u8]) -> Vec<u8> {
    Fields::with_capacity(64 + associated_data.len())
        .push(b"ckpt-db key 1")
        .push(purpose.label().as_bytes())
        .push(associated_data)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_body_needs_room_for_salt_and_tag() {
        for (len, fits) in [(0, false), (31, false), (32, false), (47, false), (48, true), (49, true)] {
            assert_eq!(SealedBody::decode(&vec![7; len]).is_ok(), fits, "{len} octets");
        }
    }

    #[test]
    fn every_part_of_the_context_counts() {
        let (here, there) = (StoreId([1; 16]), StoreId([2; 16]));
        let base =
            RecordContext { store_id: &here, kind: "k", namespace: "n", name: "m", uid: "u", resource_version: "r" };
        let others = [
            RecordContext { store_id: &there, ..base },
            RecordContext { kind: "x", ..base },
            RecordContext { namespace: "x", ..base },
            RecordContext { name: "x", ..base },
            RecordContext { uid: "x", ..base },
            RecordContext { resource_version: "x", ..base },
            RecordContext { namespace: "nm", name: "", ..base },
        ];
        for other in others {
            assert_ne!(other.associated_data(), base.associated_data(), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(body in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(sealed) = SealedBody::decode(&body) {
                prop_assert_eq!(sealed.encode(), body);
            }
        }
    }
}
