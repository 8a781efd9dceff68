//! One key file: PEM in, canonical node secret out.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustls_pki_types::pem::{self, SectionKind};
use store_format::{Algorithm, KeyError, NodeSecret};
use zeroize::{Zeroize as _, Zeroizing};

use super::certificate::public_key_info;
use crate::clear::Clear;
use crate::crypto;
use crate::new_directory;
use crate::regular_file::{self, ReadError};

/// No key file is larger; what is, is something else.
const FILE_MAX_BYTES: usize = 1024 * 1024;

/// SubjectPublicKeyInfo of Ed25519 up to the key itself (RFC 8410, section 4).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A private key of the node. Has no `Debug`: it holds the secret.
pub struct NodeKey {
    /// The canonical secret, the same for every encoding of one key.
    pub secret: NodeSecret,
    /// The file that it was read from.
    pub source: PathBuf,
    /// Whether others than the owner may read that file.
    pub open_to_others: bool,
}

/// Why a file gives no node key. Never carries anything of its contents.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It is not there, the system refused, it is no regular file, or larger than any key file.
    #[error("cannot read node key {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ReadError,
    },
    /// A PEM section is cut short or damaged.
    #[error("node key {} has a damaged or unfinished PEM section; restore the file or name another", .0.display())]
    NotPem(PathBuf),
    /// PEM without a private key in it.
    #[error("{} holds {found}; a section EC PRIVATE KEY, PRIVATE KEY or RSA PRIVATE KEY is needed", .path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        found: String,
    },
    /// The key is protected by a passphrase.
    #[error("the private key in {} is encrypted; the node has to open it without anybody's help", .0.display())]
    Encrypted(PathBuf),
    /// The key is of a kind that opens no slot, or is malformed.
    #[error("cannot use the private key in {}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// There is a file already where a new key was to be written.
    #[error("{} exists already; it is not replaced", .0.display())]
    Exists(PathBuf),
    /// A new key could not be written.
    #[error("cannot write node key {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl KeyFileError {
    /// Whether there simply is no such file.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.is_absent())
    }
}

/// Reads the first private key of a PEM file; text and sections of other kinds beside it are skipped.
///
/// Where the key lies there without its public part, a certificate in the same file gives it. Symbolic links are
/// followed: `kubelet-client-current.pem` is one.
///
/// # Errors
/// [`KeyFileError`] names the file and what is wrong with it.
pub fn load(path: &Path) -> Result<NodeKey, KeyFileError> {
    let file = regular_file::read(path, FILE_MAX_BYTES)
        .map_err(|source| KeyFileError::Read { path: path.to_owned(), source })?;
    let text = file.contents.expose();
    // Also the older form, which says so in a header inside of the section.
    if contains(text, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || contains(text, b"\nProc-Type: 4,ENCRYPTED") {
        return Err(KeyFileError::Encrypted(path.to_owned()));
    }
    let mut certificates = Vec::new();
    let mut key = None;
    let mut damaged = false;
    let mut rest = io::Cursor::new(text);
    loop {
        let (kind, der) = match pem::from_buf(&mut rest) {
            Ok(Some((kind, der))) => (kind, Clear::new(der)),
            Ok(None) => break,
            // Each error consumes a line at least. A damaged certificate is no reason to do without the key.
            Err(_) => {
                damaged = true;
                continue;
            }
        };
        let secret = match kind {
            SectionKind::Certificate => {
                certificates.push(der);
                continue;
            }
            SectionKind::EcPrivateKey => NodeSecret::from_sec1(der.expose()),
            SectionKind::PrivateKey => NodeSecret::from_pkcs8(der.expose()),
            SectionKind::RsaPrivateKey => NodeSecret::from_pkcs1(der.expose()),
            _ => continue,
        };
        if key.is_none() {
            key = Some(secret.map_err(|source| KeyFileError::Key { path: path.to_owned(), source })?);
        }
    }
    let Some(secret) = key else {
        if damaged {
            return Err(KeyFileError::NotPem(path.to_owned()));
        }
        return Err(KeyFileError::NoKey { path: path.to_owned(), found: sections(text) });
    };
    let secret = certificates.iter().fold(with_public(secret), with_certificate);
    Ok(NodeKey { secret, source: path.to_owned(), open_to_others: file.mode & 0o077 != 0 })
}

/// The kinds of sections in `text`, for a message. Labels only: they are no secret.
fn sections(text: &[u8]) -> String {
    let mut labels: Vec<&str> = text
        .split(|&b| b == b'\n' || b == b'\r')
        .filter_map(|line| line.strip_prefix(b"-----BEGIN ")?.strip_suffix(b"-----"))
        .filter(|label| label.len() <= 40 && label.iter().all(|&b| b == b' ' || b.is_ascii_alphanumeric()))
        .filter_map(|label| std::str::from_utf8(label).ok())
        .collect();
    labels.sort_unstable();
    labels.dedup();
    if labels.is_empty() { "no PEM section".to_owned() } else { format!("only {}", labels.join(", ")) }
}

/// Ed25519 keys usually lie there without their public part, which follows from the seed.
fn with_public(secret: NodeSecret) -> NodeSecret {
    match (secret.algorithm(), <&[u8; 32]>::try_from(secret.canonical())) {
        (Algorithm::Ed25519, Ok(seed)) => {
            let spki = [&ED25519_SPKI[..], &crypto::ed25519_public(seed)].concat();
            secret.with_public_spki(&spki)
        }
        (Algorithm::Ed25519 | Algorithm::P256 | Algorithm::P384 | Algorithm::Rsa, _) => secret,
    }
}

/// SubjectPublicKeyInfo of an uncompressed P-256 or P-384 point, up to the point (RFC 5480).
const P256_SPKI: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04";
const P384_SPKI: &[u8] =
    b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00\x04";

/// The certificate's public key, where the secret has none and it is one of the same curve.
fn with_certificate(secret: NodeSecret, certificate: &Clear) -> NodeSecret {
    let head = match secret.algorithm() {
        Algorithm::P256 => P256_SPKI,
        Algorithm::P384 => P384_SPKI,
        // Both have their public part already.
        Algorithm::Ed25519 | Algorithm::Rsa => return secret,
    };
    match public_key_info(certificate.expose()) {
        Some(info) if info.starts_with(head) => secret.with_public_spki(info),
        _ => secret,
    }
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}

/// Writes a generated PKCS#8 key, mode 0600, durably; the directory is made if it is missing (0700).
///
/// # Errors
/// There is something under that name already, or the system refuses. Then no file of ours is left under that name.
pub fn write_generated(path: &Path, pkcs8_der: &Clear) -> Result<(), KeyFileError> {
    let failed = |source| KeyFileError::Write { path: path.to_owned(), source };
    let directory = path.parent().unwrap_or(Path::new("/"));
    new_directory::make(directory).map_err(failed)?;
    let temporary = directory.join(".ckpt-db.node-key.new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let text = Zeroizing::new(pem_text(pkcs8_der));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(failed)?;
    // A link refuses to replace what is there.
    let linked = std::fs::hard_link(&temporary, path);
    std::fs::remove_file(&temporary).map_err(failed)?;
    match linked {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(KeyFileError::Exists(path.to_owned()));
        }
        Err(error) => return Err(failed(error)),
    }
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

fn pem_text(der: &Clear) -> String {
    let mut base64 = data_encoding::BASE64.encode(der.expose());
    let mut text = String::with_capacity(base64.len() * 2 + 64);
    text.push_str("-----BEGIN PRIVATE KEY-----\n");
    for start in (0..base64.len()).step_by(64) {
        text.push_str(&base64[start..base64.len().min(start + 64)]);
        text.push('\n');
    }
    text.push_str("-----END PRIVATE KEY-----\n");
    base64.zeroize();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_private_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/node-key.pem");
        let der = crypto::generate_p256_pkcs8().unwrap();
        write_generated(&path, &der).unwrap();
        let key = load(&path).unwrap();
        assert!(!key.open_to_others);
        assert!(key.secret.public_spki().is_some());
        let before = std::fs::read(&path).unwrap();
        let other = crypto::generate_p256_pkcs8().unwrap();
        assert!(matches!(write_generated(&path, &other), Err(KeyFileError::Exists(_))));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn what_is_no_key_is_said_without_its_contents() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        #[rustfmt::skip]
        let rows = [
            ("canary",                                                                                  "no PEM section"),
            ("",                                                                                        "no PEM section"),
            ("-----BEGIN CERTIFICATE-----\naGk=\n-----END CERTIFICATE-----\n",                          "only CERTIFICATE;"),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\naGk=\n-----END ENCRYPTED PRIVATE KEY-----\n",      "is encrypted"),
            ("-----BEGIN PRIVATE KEY-----\ncanary\n",                                                   "unfinished PEM section"),
            ("-----BEGIN PRIVATE KEY-----\naGk=\n-----END PRIVATE KEY-----\n",                          "cannot use the private key"),
        ];
        for (text, want) in rows {
            std::fs::write(&path, text).unwrap();
            let message = load(&path).err().expect(want).to_string();
            assert!(message.contains(want) && !message.contains("canary"), "{message}");
        }
        assert!(load(&directory.path().join("absent")).err().unwrap().is_absent());
        assert!(matches!(load(directory.path()), Err(KeyFileError::Read { source: ReadError::NotRegular(_), .. })));
    }
}
