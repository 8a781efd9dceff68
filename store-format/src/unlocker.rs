//! What opens a key slot, whoever keeps it: the node, the operator, or systemd.

use zeroize::Zeroizing;

use crate::{NodeSecret, Purpose, SlotKind, key_info};

/// Octets of a recovery code, before they are written as text.
pub const RECOVERY_CODE_BYTES: usize = 20;
/// The shortest contents of a key file or credential, in octets: as much as a data key has.
pub const KEY_FILE_MIN_BYTES: usize = 32;
/// The longest contents of a key file or credential, in octets.
pub const KEY_FILE_MAX_BYTES: usize = 4096;

/// Octets that are a secret as they are. Wiped on drop; neither printable nor comparable.
#[derive(Clone)]
pub struct SymmetricSecret(Zeroizing<Vec<u8>>);

/// The contents of a key file or credential are too short to be a key, or too long to be meant as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key file or credential of {found} octets; it must have {KEY_FILE_MIN_BYTES} to {KEY_FILE_MAX_BYTES}")]
pub struct SecretLength {
    /// How many octets there are.
    pub found: usize,
}

impl SymmetricSecret {
    /// The octets of a recovery code.
    #[must_use]
    pub fn of_recovery_code(octets: &[u8; RECOVERY_CODE_BYTES]) -> Self {
        Self(Zeroizing::new(octets.to_vec()))
    }

    /// The contents of a key file or credential, all of them: a line feed at the end counts.
    ///
    /// # Errors
    /// Fewer than [`KEY_FILE_MIN_BYTES`] octets, or more than [`KEY_FILE_MAX_BYTES`].
    pub fn of_file(contents: &[u8]) -> Result<Self, SecretLength> {
        if (KEY_FILE_MIN_BYTES..=KEY_FILE_MAX_BYTES).contains(&contents.len()) {
            Ok(Self(Zeroizing::new(contents.to_vec())))
        } else {
            Err(SecretLength { found: contents.len() })
        }
    }

    /// The octets.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// What opens a key slot. Wiped on drop; not printable.
#[derive(Clone)]
pub enum Unlocker {
    /// A private key of the node.
    NodeKey(NodeSecret),
    /// The octets of a recovery code.
    RecoveryCode(SymmetricSecret),
    /// The contents of a key file of the operator.
    KeyFile(SymmetricSecret),
    /// The contents of a systemd credential.
    Credential(SymmetricSecret),
}

impl Unlocker {
    /// The kind of the slots that it opens.
    #[must_use]
    pub const fn kind(&self) -> SlotKind {
        match self {
            Self::NodeKey(_) => SlotKind::NodeKey,
            Self::RecoveryCode(_) => SlotKind::RecoveryCode,
            Self::KeyFile(_) => SlotKind::KeyFile,
            Self::Credential(_) => SlotKind::Credential,
        }
    }

    /// Input key material of the slot's key derivation. Secret.
    #[must_use]
    pub fn key_material(&self) -> &[u8] {
        match self {
            Self::NodeKey(secret) => secret.canonical(),
            Self::RecoveryCode(secret) | Self::KeyFile(secret) | Self::Credential(secret) => secret.expose(),
        }
    }
}

impl From<NodeSecret> for Unlocker {
    fn from(secret: NodeSecret) -> Self {
        Self::NodeKey(secret)
    }
}

/// The `info` of HKDF-SHA-256 that makes the fingerprint of an unlocker without a public part, with a salt of 32 zero octets
/// and 32 octets out.
#[must_use]
pub fn fingerprint_info(kind: SlotKind) -> Vec<u8> {
    key_info(Purpose::Fingerprint, &[kind.code()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_has_a_length() {
        for (len, fits) in [(0, false), (31, false), (32, true), (4096, true), (4097, false)] {
            let secret = SymmetricSecret::of_file(&vec![7; len]);
            assert_eq!(
                secret.map(|secret| secret.expose().len()),
                fits.then_some(len).ok_or(SecretLength { found: len })
            );
        }
    }
}
