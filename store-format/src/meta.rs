//! Store-wide records: format version, identity, state.

use std::fmt;

use crate::codec::{self, IdentityWire, LAYOUT_VERSION, StateWire, fits, flag, limit, text, text_fits};
use crate::{DecodeError, EncodeError, FORMAT_VERSION, FORMAT_VERSION_OLDEST, Record};

/// Keys of the table `meta`.
pub mod meta_key {
    /// The format version; its frame and payload are the same in all versions.
    pub const FORMAT: &str = "format";
    /// [`crate::Identity`].
    pub const IDENTITY: &str = "identity";
    /// [`crate::State`].
    pub const STATE: &str = "state";
    /// Prefix of the mirror of a [`crate::KeySlot`]: the key of its record in the table `slots` follows.
    ///
    /// Without a slot no Secret opens; in another table it lies on another page, so that one bad byte leaves one.
    pub const SLOT_MIRROR: &str = "slot/";

    /// The key of the mirror of the slot whose record in the table `slots` has the key `slot_key`.
    #[must_use]
    pub fn slot_mirror(slot_key: &str) -> String {
        format!("{SLOT_MIRROR}{slot_key}")
    }
}

/// Length of the payload of `meta`/`format`.
pub const FORMAT_BYTES: usize = 4;
/// The most cluster CAs an identity may hold.
pub const CLUSTER_CAS_MAX: usize = 256;
/// The most kinds a census may hold.
const CENSUS_MAX: usize = 1024;

/// The payload of `meta`/`format`: [`FORMAT_VERSION`].
#[must_use]
pub const fn encode_format() -> [u8; FORMAT_BYTES] {
    FORMAT_VERSION.to_le_bytes()
}

/// The format version that a payload of `meta`/`format` states, whether or not this program knows it.
///
/// # Errors
/// `format.length`.
pub fn decode_format(payload: &[u8]) -> Result<u32, DecodeError> {
    let octets = payload.try_into().map_err(|_| DecodeError::FormatLength { len: payload.len() })?;
    Ok(u32::from_le_bytes(octets))
}

/// Whether this program reads stores of format `version`.
///
/// # Errors
/// `format.newer` (not damage: leave the file alone), `format.zero`.
pub const fn check_format(version: u32) -> Result<(), DecodeError> {
    match version {
        0 => Err(DecodeError::FormatZero),
        FORMAT_VERSION_OLDEST..=FORMAT_VERSION => Ok(()),
        found => Err(DecodeError::FormatNewer { found }),
    }
}

/// Names one store; made at random when the store is created, and bound into every tag and sealing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex(&self.0))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

/// Which store this is, and whose: record `meta`/`identity`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Random, made with the store.
    pub store_id: StoreId,
    /// When the store was made, in milliseconds since 1970-01-01T00:00:00Z by the node's clock.
    pub created_at_unix_ms: u64,
    /// `metadata.name` of the Node.
    pub node_name: String,
    /// `metadata.uid` of the Node; empty while not known.
    pub node_uid: String,
    /// SHA-256 of the SubjectPublicKeyInfo (DER) of each CA that the cluster's API server is trusted by.
    pub cluster_ca_sha256: Vec<[u8; 32]>,
    /// `status.nodeInfo.kubeletVersion` of the Node; empty while not known.
    pub kubelet_version: String,
}

impl Identity {
    const RECORD: Record = Record::Identity;

    /// That of a store which is made for a node of that name: of the Node and its cluster nothing more is known yet.
    #[must_use]
    pub fn new(store_id: StoreId, created_at_unix_ms: u64, node_name: impl Into<String>) -> Self {
        Self {
            store_id,
            created_at_unix_ms,
            node_name: node_name.into(),
            node_uid: String::new(),
            cluster_ca_sha256: Vec::new(),
            kubelet_version: String::new(),
        }
    }

    /// The payload of the record.
    ///
    /// # Errors
    /// A text or the list of CAs is over its limit.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        text_fits(Self::RECORD, "node name", &self.node_name)?;
        text_fits(Self::RECORD, "node uid", &self.node_uid)?;
        fits(Self::RECORD, "cluster CAs", self.cluster_ca_sha256.len(), CLUSTER_CAS_MAX)?;
        text_fits(Self::RECORD, "kubelet version", &self.kubelet_version)?;
        let wire = IdentityWire {
            store_id: self.store_id.0,
            created_at_unix_ms: self.created_at_unix_ms,
            node_name: &self.node_name,
            node_uid: &self.node_uid,
            cluster_ca_sha256: self.cluster_ca_sha256.clone(),
            kubelet_version: &self.kubelet_version,
        };
        Ok(codec::encode(&[LAYOUT_VERSION], &wire))
    }

    /// Reads the payload of the record. The caller has checked the digest.
    ///
    /// # Errors
    /// `identity.*`: see `SPEC.md`.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let wire: IdentityWire<'_> = codec::decode(Self::RECORD, codec::after_version(Self::RECORD, payload)?)?;
        limit(Self::RECORD, "cluster CAs", wire.cluster_ca_sha256.len(), CLUSTER_CAS_MAX)?;
        Ok(Self {
            store_id: StoreId(wire.store_id),
            created_at_unix_ms: wire.created_at_unix_ms,
            node_name: text(Self::RECORD, "node name", wire.node_name)?,
            node_uid: text(Self::RECORD, "node uid", wire.node_uid)?,
            cluster_ca_sha256: wire.cluster_ca_sha256,
            kubelet_version: text(Self::RECORD, "kubelet version", wire.kubelet_version)?,
        })
    }
}

/// Where the store stands: record `meta`/`state`, rewritten by every commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Number of commits that changed something. Each raises it by one.
    pub revision: u64,
    /// Whether a complete listing of a source was ever stored. Before that, absence means nothing.
    pub populated: bool,
    /// When the last such commit was made, in milliseconds since 1970-01-01T00:00:00Z by the node's clock.
    pub changed_at_unix_ms: u64,
    /// Number of object records of each kind, so that hidden records are noticed.
    pub census: Vec<(String, u64)>,
    /// `/proc/sys/kernel/random/boot_id` at the last commit; empty while not known.
    pub boot_id: String,
    /// How far the source was read, opaque; empty while not known.
    pub source_position: String,
}

impl State {
    /// The state of a new store.
    #[must_use]
    pub fn new(created_at_unix_ms: u64) -> Self {
        Self {
            revision: 0,
            populated: false,
            changed_at_unix_ms: created_at_unix_ms,
            census: Vec::new(),
            boot_id: String::new(),
            source_position: String::new(),
        }
    }

    const RECORD: Record = Record::State;

    /// The payload of the record.
    ///
    /// # Errors
    /// A text or the census is over its limit.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        fits(Self::RECORD, "census", self.census.len(), CENSUS_MAX)?;
        for (kind, _) in &self.census {
            text_fits(Self::RECORD, "census kind", kind)?;
        }
        text_fits(Self::RECORD, "boot id", &self.boot_id)?;
        text_fits(Self::RECORD, "source position", &self.source_position)?;
        let wire = StateWire {
            revision: self.revision,
            populated: u8::from(self.populated),
            changed_at_unix_ms: self.changed_at_unix_ms,
            census: self.census.iter().map(|(kind, count)| (kind.as_str(), *count)).collect(),
            boot_id: &self.boot_id,
            source_position: &self.source_position,
        };
        Ok(codec::encode(&[LAYOUT_VERSION], &wire))
    }

    /// Reads the payload of the record. The caller has checked the digest.
    ///
    /// # Errors
    /// `state.*`: see `SPEC.md`.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let wire: StateWire<'_> = codec::decode(Self::RECORD, codec::after_version(Self::RECORD, payload)?)?;
        limit(Self::RECORD, "census", wire.census.len(), CENSUS_MAX)?;
        let entry = |(kind, count): (&str, u64)| Ok((text(Self::RECORD, "census kind", kind)?, count));
        Ok(Self {
            revision: wire.revision,
            populated: flag(Self::RECORD, "populated", wire.populated)?,
            changed_at_unix_ms: wire.changed_at_unix_ms,
            census: wire.census.into_iter().map(entry).collect::<Result<_, DecodeError>>()?,
            boot_id: text(Self::RECORD, "boot id", wire.boot_id)?,
            source_position: text(Self::RECORD, "source position", wire.source_position)?,
        })
    }
}
