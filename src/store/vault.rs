//! Sealing, tags and key slots: what the data key of an open store does. The inputs of each primitive are those of SPEC.md.

use store_format::{
    KeySlot, Purpose, RecordContext, SealedBody, StoreId, Unlocker, fingerprint_info, key_info, slot_context,
};

use crate::clear::Clear;
use crate::crypto::{self, Entropy, Key, NotAuthentic};
use crate::store::StoreError;

/// The data key of one store, and what follows from it.
pub(super) struct Vault {
    store_id: StoreId,
    data_key: Key,
    tag_key: Key,
}

impl Vault {
    /// A vault with a fresh data key.
    pub(super) fn generate(store_id: StoreId, entropy: &dyn Entropy) -> Result<Self, StoreError> {
        Ok(Self::new(store_id, Key::new(crypto::fresh(entropy)?)))
    }

    fn new(store_id: StoreId, data_key: Key) -> Self {
        let info = key_info(Purpose::Tag, &store_format::store_context(&store_id));
        let tag_key = crypto::hkdf_sha256(data_key.expose(), &[0; 32], &info);
        Self { store_id, data_key, tag_key }
    }

    /// The vault that `slot` wraps, if `unlocker` opens it.
    pub(super) fn unlock(store_id: StoreId, slot: &KeySlot, unlocker: &Unlocker) -> Result<Self, NotAuthentic> {
        let context = slot_context(&store_id, slot.kind, &slot.fingerprint);
        let key = crypto::hkdf_sha256(unlocker.key_material(), &slot.salt, &key_info(Purpose::Slot, &context));
        let data_key = crypto::open_once(&key, &context, &slot.wrapped)?;
        let octets = <[u8; 32]>::try_from(data_key.expose()).map_err(|_| NotAuthentic)?;
        Ok(Self::new(store_id, Key::new(octets)))
    }

    /// A slot by which `unlocker` opens this vault.
    pub(super) fn slot(
        &self,
        unlocker: &Unlocker,
        now_unix_ms: u64,
        entropy: &dyn Entropy,
    ) -> Result<KeySlot, StoreError> {
        let fingerprint = fingerprint(unlocker).ok_or(StoreError::NoPublicKey)?;
        self.slot_named(unlocker, fingerprint, now_unix_ms, entropy)
    }

    /// The same under a name that is known from another slot.
    pub(super) fn slot_named(
        &self,
        unlocker: &Unlocker,
        fingerprint: [u8; 32],
        now_unix_ms: u64,
        entropy: &dyn Entropy,
    ) -> Result<KeySlot, StoreError> {
        let kind = unlocker.kind();
        let context = slot_context(&self.store_id, kind, &fingerprint);
        let salt = crypto::fresh(entropy)?;
        let key = crypto::hkdf_sha256(unlocker.key_material(), &salt, &key_info(Purpose::Slot, &context));
        let wrapped = crypto::seal_once(&key, &context, self.data_key.expose())?;
        let wrapped = wrapped.try_into().expect("32 octets of key and 16 of tag are 48");
        Ok(KeySlot { kind, fingerprint, created_at_unix_ms: now_unix_ms, salt, wrapped })
    }

    /// Seals one record's body under a key of its own.
    pub(super) fn seal(
        &self,
        context: &RecordContext<'_>,
        clear: &Clear,
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, StoreError> {
        let salt = crypto::fresh(entropy)?;
        let associated_data = context.associated_data();
        let ciphertext =
            crypto::seal_once(&self.record_key(&salt, &associated_data), &associated_data, clear.expose())?;
        Ok(SealedBody { salt, ciphertext: &ciphertext }.encode())
    }

    /// Opens one record's body.
    pub(super) fn open(&self, context: &RecordContext<'_>, body: &[u8]) -> Result<Clear, NotAuthentic> {
        let sealed = SealedBody::decode(body).map_err(|_| NotAuthentic)?;
        let associated_data = context.associated_data();
        crypto::open_once(&self.record_key(&sealed.salt, &associated_data), &associated_data, sealed.ciphertext)
    }

    /// The authentication tag over a record's digest.
    pub(super) fn tag(&self, digest: &[u8; 32]) -> [u8; 32] {
        crypto::hmac_sha256(&self.tag_key, &store_format::tag_input(&self.store_id, digest))
    }

    /// Checks a record's tag.
    pub(super) fn check_tag(&self, digest: &[u8; 32], tag: &[u8; 32]) -> Result<(), NotAuthentic> {
        crypto::hmac_sha256_verify(&self.tag_key, &store_format::tag_input(&self.store_id, digest), tag)
    }

    /// Whether both have the same data key, and so the same of everything.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.store_id == other.store_id && self.data_key.is(&other.data_key)
    }

    pub(super) fn store_id(&self) -> &StoreId {
        &self.store_id
    }

    fn record_key(&self, salt: &[u8; 32], associated_data: &[u8]) -> Key {
        crypto::hkdf_sha256(self.data_key.expose(), salt, &key_info(Purpose::Record, associated_data))
    }
}

/// The fingerprint by which a slot names what opens it. No secret.
///
/// Of a node key: SHA-256 of its SubjectPublicKeyInfo, as `openssl pkey -pubout -outform DER | sha256sum` prints it; `None`
/// where the key file has no public part. Of all others: derived from the secret (SPEC.md, section 8).
#[must_use]
pub fn fingerprint(unlocker: &Unlocker) -> Option<[u8; 32]> {
    match unlocker {
        Unlocker::NodeKey(secret) => secret.public_spki().map(crypto::sha256),
        Unlocker::RecoveryCode(_) | Unlocker::KeyFile(_) | Unlocker::Credential(_) => {
            let info = fingerprint_info(unlocker.kind());
            Some(*crypto::hkdf_sha256(unlocker.key_material(), &[0; 32], &info).expose())
        }
    }
}

#[cfg(test)]
mod vectors;
