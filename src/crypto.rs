//! The cryptographic primitives that the store's format names; the one file that uses `ring`.
//!
//! The format (`store-format/SPEC.md`) says what goes into each of them. Keys are types of their own: they have no
//! `Debug`, are wiped on drop, and can't be mixed up with other bytes.

use ring::{aead, digest, hkdf, hmac, rand::SecureRandom as _, signature};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::clear::Clear;

/// A 256-bit symmetric key.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; 32]);

impl Key {
    /// Takes over 32 octets of key material.
    #[must_use]
    pub fn new(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    /// The octets, for wrapping this key under another one.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Key {
    /// Whether both are the same key, told in a time that does not depend on where they differ.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).fold(0, |differing, (one, two)| differing | (one ^ two)) == 0
    }
}

/// Authentication failed: another key, or other bytes. Which of the two can't be told (RFC 5116, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key does not open it, or it was changed")]
pub struct NotAuthentic;

/// The operating system gave no randomness, or a value is longer than the algorithm takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic operation failed: {0}")]
pub struct CryptoError(&'static str);

/// Where fresh octets come from: an argument, so that tests and vectors can fix them.
pub trait Entropy: Send + Sync {
    /// Fills `octets` with unpredictable values.
    ///
    /// # Errors
    /// The source failed; `octets` must not be used.
    fn fill(&self, octets: &mut [u8]) -> Result<(), CryptoError>;
}

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, octets: &mut [u8]) -> Result<(), CryptoError> {
        ring::rand::SystemRandom::new().fill(octets).map_err(|_| CryptoError("no randomness from the operating system"))
    }
}

/// Fresh octets of a fixed length.
///
/// # Errors
/// The source failed.
pub fn fresh<const N: usize>(entropy: &dyn Entropy) -> Result<[u8; N], CryptoError> {
    let mut octets = [0; N];
    entropy.fill(&mut octets)?;
    Ok(octets)
}

/// SHA-256 (FIPS 180-4).
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    sha256_of(&[bytes])
}

/// SHA-256 of several pieces, one behind the other.
#[must_use]
pub fn sha256_of(pieces: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    pieces.iter().for_each(|piece| context.update(piece));
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// HMAC-SHA-256 (RFC 2104).
#[must_use]
pub fn hmac_sha256(key: &Key, message: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key.0), message).as_ref());
    out
}

/// Checks an HMAC-SHA-256 in constant time.
///
/// # Errors
/// The tag belongs to another key or message.
pub fn hmac_sha256_verify(key: &Key, message: &[u8], tag: &[u8; 32]) -> Result<(), NotAuthentic> {
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key.0), message, tag).map_err(|_| NotAuthentic)
}

/// HKDF-SHA-256 (RFC 5869): extract with `salt`, expand with `info` to one key.
#[must_use]
pub fn hkdf_sha256(secret: &[u8], salt: &[u8; 32], info: &[u8]) -> Key {
    let mut key = Key([0; 32]);
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    extracted
        .expand(&[info], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut key.0))
        .expect("32 octets are within the 255 blocks that HKDF can expand to");
    key
}

/// AES-256-GCM with 12 zero octets as nonce: `key` must be used for one message only, which a derived key is.
///
/// Returns the ciphertext with the 16-octet tag at its end.
///
/// # Errors
/// `clear` is longer than GCM takes (64 GiB).
pub fn seal_once(key: &Key, associated_data: &[u8], clear: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let mut bytes = Vec::with_capacity(clear.len() + aead::AES_256_GCM.tag_len());
    bytes.extend_from_slice(clear);
    match gcm(key).seal_in_place_append_tag(zero_nonce(), aead::Aad::from(associated_data), &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => {
            bytes.zeroize();
            Err(CryptoError("too much clear text for one AES-GCM message"))
        }
    }
}

/// Opens what [`seal_once`] made.
///
/// # Errors
/// Another key, other associated data, or changed bytes.
pub fn open_once(key: &Key, associated_data: &[u8], ciphertext: &[u8]) -> Result<Clear, NotAuthentic> {
    let mut bytes = ciphertext.to_vec();
    let clear_len = match gcm(key).open_in_place(zero_nonce(), aead::Aad::from(associated_data), &mut bytes) {
        Ok(clear) => clear.len(),
        Err(_) => return Err(NotAuthentic),
    };
    bytes.truncate(clear_len);
    Ok(Clear::new(bytes))
}

// A function, since ring's nonce is consumed by its use.
fn zero_nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN])
}

fn gcm(key: &Key) -> aead::LessSafeKey {
    let unbound = aead::UnboundKey::new(&aead::AES_256_GCM, &key.0).expect("AES-256-GCM takes any 32 octets");
    aead::LessSafeKey::new(unbound)
}

/// A new ECDSA P-256 private key as PKCS#8 DER, for `--generate-node-key`.
///
/// # Errors
/// The operating system gave no randomness.
pub fn generate_p256_pkcs8() -> Result<Clear, CryptoError> {
    signature::EcdsaKeyPair::generate_pkcs8(
        &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        &ring::rand::SystemRandom::new(),
    )
    .map(|document| Clear::new(document.as_ref().to_vec()))
    .map_err(|_| CryptoError("no P-256 key could be generated"))
}

/// The public key of an Ed25519 seed (RFC 8032).
#[must_use]
pub fn ed25519_public(seed: &[u8; 32]) -> [u8; 32] {
    use signature::KeyPair as _;
    let pair = signature::Ed25519KeyPair::from_seed_unchecked(seed).expect("every 32 octets are an Ed25519 seed");
    let mut out = [0; 32];
    out.copy_from_slice(pair.public_key().as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    #[test]
    fn a_sealed_message_opens_with_its_key_and_context_only() {
        let key = Key::new([7; 32]);
        let sealed = seal_once(&key, b"context", b"clear").unwrap();
        assert_eq!(open_once(&key, b"context", &sealed).unwrap().expose(), b"clear");
        assert!(open_once(&key, b"other", &sealed).is_err());
        assert!(open_once(&Key::new([8; 32]), b"context", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open_once(&key, b"context", &changed).is_err(), "octet {at}");
        }
        assert!(open_once(&key, b"context", &sealed[..sealed.len() - 1]).is_err());
        assert!(open_once(&key, b"context", b"").is_err());
    }

    /// RFC 5869, test case 1, cut to the 32 octets that we ask for (its salt padded with zeros to 32 octets is the same
    /// HMAC key).
    #[test]
    fn hkdf_is_that_of_the_rfc() {
        let mut salt = [0; 32];
        salt[..13].copy_from_slice(&HEXLOWER.decode(b"000102030405060708090a0b0c").unwrap());
        let info = HEXLOWER.decode(b"f0f1f2f3f4f5f6f7f8f9").unwrap();
        let key = hkdf_sha256(&[0x0b; 22], &salt, &info);
        assert_eq!(HEXLOWER.encode(key.expose()), "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
    }

    /// RFC 8032, section 7.1, test 1.
    #[test]
    fn ed25519_public_is_that_of_the_rfc() {
        let seed = HEXLOWER.decode(b"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let public = ed25519_public(&seed.try_into().unwrap());
        assert_eq!(HEXLOWER.encode(&public), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    }

    #[test]
    fn tags_are_checked() {
        let key = Key::new([1; 32]);
        let mut tag = hmac_sha256(&key, b"message");
        assert_eq!(hmac_sha256_verify(&key, b"message", &tag), Ok(()));
        tag[0] ^= 1;
        assert_eq!(hmac_sha256_verify(&key, b"message", &tag), Err(NotAuthentic));
    }
}
