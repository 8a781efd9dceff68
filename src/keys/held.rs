//! Secrets that somebody holds for the node: the operator a key file or a recovery code, systemd a credential.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use store_format::{KEY_FILE_MAX_BYTES, KEY_FILE_MIN_BYTES, RecoveryCodeError, SymmetricSecret, recovery_code_octets};

use crate::clear::Clear;
use crate::crypto;
use crate::regular_file::{self, ReadError};

/// The credential that is used without being asked for, where systemd has passed one of this name.
pub const DEFAULT_CREDENTIAL: &str = "ckpt-db.key";

/// A recovery code with all the white space that paper and mail add is shorter.
const CODE_MAX_BYTES: usize = 4096;

/// A key file or a credential. Has no `Debug`: it holds the secret.
pub struct HeldSecret {
    /// Its contents, all of them.
    pub secret: SymmetricSecret,
    /// The file that they were read from.
    pub source: PathBuf,
    /// Whether others than the owner may read that file.
    pub open_to_others: bool,
}

/// Why there is no such secret. Never carries anything of its contents.
#[derive(Debug, thiserror::Error)]
pub enum HeldError {
    /// It is not there, the system refused, it is no regular file, or too long to be meant as a key.
    #[error("cannot read {what} {}", .path.display())]
    Read {
        /// `key file`, `credential`, `recovery code`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: ReadError,
    },
    /// There is nothing in it.
    #[error("{what} {} is empty", .path.display())]
    Empty {
        /// `key file`, `credential`.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// It is too short to be a key.
    #[error(
        "{what} {} has {found} octets, and a key has {KEY_FILE_MIN_BYTES} to {KEY_FILE_MAX_BYTES}; make one with 'head -c 32 \
         /dev/urandom'", .path.display()
    )]
    Length {
        /// `key file`, `credential`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// How many octets there are.
        found: usize,
    },
    /// systemd passed no credentials to this process.
    #[error(
        "there is no credential {0:?}: this process was given none ($CREDENTIALS_DIRECTORY is not set); they are seen by the \
         service alone whose unit names them"
    )]
    NoCredentials(String),
    /// It would lead out of the directory of the credentials.
    #[error("{0:?} is no name of a credential")]
    Name(String),
    /// A recovery code was to be given.
    #[error("there is no recovery code in {0}: it is empty")]
    NoCode(String),
    /// It is no recovery code.
    #[error("cannot use the recovery code in {from}")]
    Code {
        /// The file, or what it was read from.
        from: String,
        /// What is wrong with it.
        source: RecoveryCodeError,
    },
}

impl HeldError {
    /// Whether there simply is no such file.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Read { source, .. } => source.is_absent(),
            Self::NoCredentials(_) => true,
            Self::Empty { .. } | Self::Length { .. } | Self::Name(_) | Self::NoCode(_) | Self::Code { .. } => false,
        }
    }
}

/// Reads a key file: its contents are the key, a line feed at the end included.
///
/// # Errors
/// [`HeldError`] names the file and what is wrong with it.
pub fn load_key_file(path: &Path) -> Result<HeldSecret, HeldError> {
    load("key file", path)
}

/// Reads the credential `name` from `directory`, the value of `$CREDENTIALS_DIRECTORY`.
///
/// # Errors
/// As for [`load_key_file`]; the process has no credentials; `name` is none.
pub fn load_credential(directory: Option<&OsStr>, name: &str) -> Result<HeldSecret, HeldError> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(HeldError::Name(name.to_owned()));
    }
    match directory.filter(|directory| !directory.is_empty()) {
        Some(directory) => load("credential", &Path::new(directory).join(name)),
        None => Err(HeldError::NoCredentials(name.to_owned())),
    }
}

fn load(what: &'static str, path: &Path) -> Result<HeldSecret, HeldError> {
    let path = path.to_owned();
    let file = match regular_file::read(&path, KEY_FILE_MAX_BYTES) {
        Ok(file) => file,
        Err(source) => return Err(HeldError::Read { what, path, source }),
    };
    if file.contents.is_empty() {
        return Err(HeldError::Empty { what, path });
    }
    match SymmetricSecret::of_file(file.contents.expose()) {
        Ok(secret) => Ok(HeldSecret { secret, source: path, open_to_others: file.mode & 0o077 != 0 }),
        Err(_) => Err(HeldError::Length { what, path, found: file.contents.len() }),
    }
}

/// Reads a recovery code from a file.
///
/// # Errors
/// The file can't be read; what is in it is no recovery code.
pub fn load_recovery_code(path: &Path) -> Result<SymmetricSecret, HeldError> {
    let failed = |source| HeldError::Read { what: "recovery code", path: path.to_owned(), source };
    let file = regular_file::read(path, CODE_MAX_BYTES).map_err(failed)?;
    from_octets(&path.display().to_string(), &file.contents)
}

/// Reads a recovery code from a stream to its end; `from` names it in messages.
///
/// # Errors
/// As for [`load_recovery_code`].
pub fn read_recovery_code(from: &str, stream: &mut dyn Read) -> Result<SymmetricSecret, HeldError> {
    let failed = |source| HeldError::Read { what: "recovery code", path: from.into(), source };
    from_octets(from, &regular_file::read_all(stream, CODE_MAX_BYTES, 0).map_err(failed)?)
}

fn from_octets(from: &str, text: &Clear) -> Result<SymmetricSecret, HeldError> {
    // What is no UTF-8 has a character that no code has; where, does not matter.
    recovery_code(from, std::str::from_utf8(text.expose()).unwrap_or("?"))
}

/// The secret that a recovery code stands for; `from` names in messages where it came from.
///
/// # Errors
/// It is none, or was mistyped.
pub fn recovery_code(from: &str, text: &str) -> Result<SymmetricSecret, HeldError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(HeldError::NoCode(from.to_owned()));
    }
    let octets = recovery_code_octets(text, crypto::sha256);
    let octets = octets.map_err(|source| HeldError::Code { from: from.to_owned(), source })?;
    Ok(SymmetricSecret::of_recovery_code(&octets))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_file_has_a_length() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ckpt-db.key");
        #[rustfmt::skip]
        let rows: [(usize, Option<&str>); 6] = [
            (0, Some("is empty")), (1, Some("has 1 octets")), (31, Some("has 31 octets")), (32, None), (4096, None),
            (4097, Some("larger than 4096 bytes")),
        ];
        for (len, problem) in rows {
            std::fs::write(&path, vec![b'k'; len]).unwrap();
            let name = directory.path().as_os_str();
            for (what, found) in
                [("key file", load_key_file(&path)), ("credential", load_credential(Some(name), "ckpt-db.key"))]
            {
                match (found, problem) {
                    (Ok(held), None) => assert_eq!(held.secret.expose(), vec![b'k'; len]),
                    (Err(error), Some(problem)) => {
                        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                        let said = format!("{error}: {source}");
                        assert!(said.contains(problem) && said.contains(what) && !said.contains("kk"), "{said}");
                        assert!(!error.is_absent());
                    }
                    (found, _) => panic!("{what} of {len}: {:?}", found.err()),
                }
            }
        }
        assert!(load_key_file(&directory.path().join("absent")).err().unwrap().is_absent());
    }

    #[test]
    fn who_may_read_a_key_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, [7; 32]).unwrap();
        for (mode, open) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(load_key_file(&path).ok().map(|held| held.open_to_others), Some(open), "{mode:o}");
        }
    }

    #[test]
    fn names_of_credentials_lead_nowhere_else() {
        let directory = Some(OsStr::new("/run/credentials/ckpt-db.service"));
        for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden"] {
            assert!(matches!(load_credential(directory, name), Err(HeldError::Name(_))), "{name}");
        }
        for nowhere in [None, Some(OsStr::new(""))] {
            assert!(load_credential(nowhere, "ckpt-db.key").err().unwrap().is_absent());
        }
    }

    #[test]
    fn a_recovery_code_is_read_as_people_copy_it() {
        let text = store_format::recovery_code_text(&[0x5a; 20], crypto::sha256);
        let spaced = format!("\n  {} \r\n", text.to_lowercase().replace('-', "  "));
        for text in [text.as_str(), &spaced] {
            let found = read_recovery_code("it", &mut text.as_bytes());
            assert!(found.is_ok_and(|secret| secret.expose() == [0x5a; 20]));
        }
        let (first, rest) = text.split_at(1);
        let mistyped = format!("{}{rest}", if first == "7" { "8" } else { "7" });
        #[rustfmt::skip]
        let rows = [
            ("",                "is empty"),
            ("  \n",            "is empty"),
            (&text[..30],       "36 characters"),
            (&mistyped,         "checksum"),
            ("canary!",         "character 7"),
        ];
        for (text, want) in rows {
            let error = recovery_code("it", text).err().expect(want);
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            let said = format!("{error}: {source}");
            assert!(said.contains(want), "{said}");
            assert!(!["canary", "B9D5", "MPJT"].iter().any(|part| said.contains(part)), "{said}");
        }
    }
}
