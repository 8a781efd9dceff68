//! What went wrong with the store, sorted by what the caller now knows about the file.

use std::io;
use std::path::{Path, PathBuf};

/// Why an operation on the store failed. No variant carries a value of an object.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such file. Nothing was changed.
    #[error("there is no checkpoint store at {}", .0.display())]
    NotFound(PathBuf),
    /// A new store was asked for where a file is already. Nothing was changed.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// Not a regular file: a directory, FIFO, device or symbolic link. Nothing was opened for writing.
    #[error("cannot use {} as a store: it is {found}, not a regular file", .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is instead.
        found: &'static str,
    },
    /// The operating system refused. Not damage: the file was left as it is.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another process has it open. Not damage.
    #[error("{} is in use by another process (a running ckpt-db agent?); stop it first, which leaves what it rendered in place", .0.display())]
    InUse(PathBuf),
    /// Written by a newer version. Not damage: the file was left as it is.
    #[error("{} has format version {found}, this program knows up to {known}; use the newer ckpt-db", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// The file can't be read as a checkpoint store at all. It was left as it is.
    #[error(
        "{} is damaged or no checkpoint store: {what}. It was left as it is; if it was a store, the agent ('ckpt-db run') rebuilds it, and keeps this file", .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// Nothing in the file reads, and nothing says that it ever was a store: another program may need it. It was left as it is.
    #[error(
        "{} is no checkpoint store, and nothing says that it ever was one: it was left as it is; name another file, or move \
         this one away", .0.display()
    )]
    NotOurs(PathBuf),
    /// The store was damaged again and again, and the damaged files were kept. Nothing was changed.
    #[error(
        "{} is damaged, and {kept} damaged files are kept beside it: its medium may be failing. It is not rebuilt before they are moved \
         away", .path.display()
    )]
    TooManyKept {
        /// The store.
        path: PathBuf,
        /// How many are kept.
        kept: usize,
    },
    /// The database refused; nothing was written. Trying again is safe.
    #[error("the database refused to {action}")]
    Refused {
        /// What was attempted.
        action: &'static str,
        /// The database's answer.
        source: Box<redb::Error>,
    },
    /// The transaction is durable or gone, and nobody can tell which. The handle takes no further work: reopen and read.
    #[error("the outcome of a commit is unknown")]
    OutcomeUnknown {
        /// The database's answer.
        source: Box<redb::Error>,
    },
    /// The file could not be made shorter. What is stored is unchanged; the handle takes no further work: reopen.
    #[error("the store's file could not be made shorter (nothing stored was changed)")]
    NotCompacted {
        /// The database's answer.
        source: Box<redb::Error>,
    },
    /// An earlier operation on this handle failed in a way that leaves its memory untrustworthy. Reopen it.
    #[error("the store must be reopened after an earlier failure")]
    Unusable,
    /// The code of the store panicked while it did what it was asked. Whether that is durable is unknown; reopen and read.
    #[error("the code of the store panicked, and the store must be reopened")]
    Panicked,
    /// It was closed before it did what it was asked. Nothing was written.
    #[error("the store is closed")]
    Closed,
    /// An image of a store that is no file was asked for.
    #[error("this store lives in memory: there is no file to copy")]
    NoFile,
    /// The store has key slots, but no key at hand opens one; writing would leave records that nobody authenticates.
    #[error("no key at hand opens this store; nothing was written")]
    NoKeyOpens,
    /// A listing without any pod, while the store holds some: more likely a fault of the source than the truth.
    #[error(
        "the source lists no pod, but the store holds {stored}; nothing was removed. Should this node really have none, move the store away"
    )]
    EmptyListing {
        /// How many pods the store holds.
        stored: usize,
    },
    /// The source speaks for another node than the store's. Nothing was written.
    #[error(
        "the store belongs to node {stored}, but this is node {found}. The store is kept as it is; to begin anew with this \
         node, move it away"
    )]
    OtherNode {
        /// The node that the store names.
        stored: String,
        /// The node that the source names.
        found: String,
    },
    /// The source is another cluster than the store's: its API server is trusted by none of the CAs that the store knows.
    /// Nothing was written.
    #[error(
        "the source belongs to another cluster: its API server is trusted by {}, but the store's by {}. The store is kept \
         as it is; to begin anew with this cluster, move it away", shown(.found), shown(.stored)
    )]
    OtherCluster {
        /// SHA-256 of the SubjectPublicKeyInfo of each CA that the store knows.
        stored: Vec<[u8; 32]>,
        /// The same of the source.
        found: Vec<[u8; 32]>,
    },
    /// A field is longer than the format allows. Nothing was written.
    #[error("a record can't be written")]
    Unstorable(#[from] store_format::EncodeError),
    /// A key has no public part, so that its slot could not be named.
    #[error("the node key has no public part; add its certificate, or write it again with 'openssl pkey'")]
    NoPublicKey,
    /// Without the slots that were to go no key at hand would open the store. Nothing was written.
    #[error("after that no key at hand would open the store, so nothing was changed; add a slot for another key first")]
    LastSlot,
    /// The store has no data key yet that could be exchanged. Nothing was written.
    #[error("this store has no data key yet: there is nothing to exchange")]
    NoDataKey,
    /// The store opens, or has no data key: there is no need to begin anew. Nothing was written.
    #[error("this store is not locked, and so it is not begun anew")]
    NotLocked,
    /// The data key of a store with findings is not exchanged: what is damaged could not be carried over. Nothing was written.
    #[error("{} is not sound ({findings} findings, the first: {first}); its data key was not exchanged", .path.display())]
    NotSound {
        /// The file.
        path: PathBuf,
        /// How many findings.
        findings: usize,
        /// One of them.
        first: String,
    },
    /// A record that was sound a moment ago is not any more. Nothing was written.
    #[error("record {table}/{key} can't be read any more; the data key was not exchanged")]
    NotReadBack {
        /// Its table.
        table: &'static str,
        /// Its key.
        key: String,
    },
    /// A file that was to become a store, or a copy of one, could not be written. It was given up; nothing was replaced.
    #[error("cannot write the new file {}; it was given up", .path.display())]
    NotWritten {
        /// The new file.
        path: PathBuf,
        /// The database's answer.
        source: Box<redb::Error>,
    },
    /// A copy of a store does not read back as it was written. It was given up; nothing was replaced.
    #[error("{} does not read back as it was written from {}: it was given up. Look for errors of the disk", .path.display(), .from.display())]
    CopyDiffers {
        /// The copy.
        path: PathBuf,
        /// What it is a copy of.
        from: PathBuf,
    },
    /// A slot that was just written does not open the store when it is read back. It was not relied on: no slot was removed.
    #[error("a key slot that was just written can't be read back; no other slot was removed")]
    SlotNotReadBack,
    /// Randomness or a cipher failed. Nothing was written.
    #[error("cannot encrypt")]
    Crypto(#[from] crate::crypto::CryptoError),
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), source: source.into() }
    }

    pub(super) fn refused(action: &'static str) -> impl Fn(redb::Error) -> Self {
        move |source| Self::Refused { action, source: Box::new(source) }
    }

    /// The same of a file that nobody has heard of yet: how far it came does not matter, as it is given up.
    pub(super) fn of_new_file(self, path: &Path) -> Self {
        match self {
            Self::OutcomeUnknown { source } | Self::Refused { source, .. } => {
                Self::NotWritten { path: path.to_owned(), source }
            }
            other => other,
        }
    }

    /// Whether the handle is of no use after this: what its memory says and what the disk says may differ, or redb refuses
    /// everything from now on, as it does after any error of its medium, one of reading too.
    #[must_use]
    pub fn needs_reopening(&self) -> bool {
        match self {
            Self::Refused { source, .. } => matches!(**source, redb::Error::Io(_) | redb::Error::PreviousIo),
            other => matches!(
                other,
                Self::OutcomeUnknown { .. }
                    | Self::NotCompacted { .. }
                    | Self::Damaged { .. }
                    | Self::Panicked
                    | Self::Unusable
                    | Self::Closed
            ),
        }
    }

    /// Whether there is no room, on the file system or in somebody's quota.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let source = match self {
            Self::Io { source, .. } => source,
            Self::Refused { source, .. }
            | Self::OutcomeUnknown { source }
            | Self::NotCompacted { source }
            | Self::NotWritten { source, .. } => {
                let redb::Error::Io(source) = &**source else { return false };
                source
            }
            _ => return false,
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether the file itself is damaged, as opposed to busy, forbidden, full or too new.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}

/// `CA 0f3c25e1a7b60d42, 9d…`: the first octets of each hash, and no more than a line can bear.
fn shown(hashes: &[[u8; 32]]) -> String {
    const SHOWN_MAX: usize = 3;
    let short = |hash: &[u8; 32]| hash[..8].iter().map(|octet| format!("{octet:02x}")).collect::<String>();
    let more = hashes.len().saturating_sub(SHOWN_MAX);
    let tail = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("CA {}{tail}", hashes.iter().take(SHOWN_MAX).map(short).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cluster_is_named_by_its_cas() {
        let hash = |octet: u8| [octet; 32];
        let error = StoreError::OtherCluster { stored: vec![hash(0xab)], found: (1..=5).map(hash).collect() };
        assert_eq!(
            error.to_string(),
            "the source belongs to another cluster: its API server is trusted by CA 0101010101010101, 0202020202020202, \
             0303030303030303 and 2 more, but the store's by CA abababababababab. The store is kept as it is; to begin anew \
             with this cluster, move it away"
        );
    }
}
