//! The bytes of `checkpoint-store.db`, as `SPEC.md` beside this crate defines them.
//!
//! Values in, bytes out, and back: no I/O, no cryptography, no database. Where an algorithm is applied (a digest, a tag, a
//! derived key) this crate builds its exact input and names the algorithm; the caller runs it. Every decoder is total:
//! arbitrary bytes give a value or a [`DecodeError`], and an accepted value encodes to the very same bytes again.

mod canonical;
mod codec;
mod der;
mod envelope;
mod error;
mod fields;
mod frame;
mod log;
mod meta;
mod pod_row;
mod recovery_code;
mod sealed;
mod slot;
mod unlocker;

pub use canonical::{Algorithm, KeyError, NodeSecret};
pub use envelope::{Codec, Envelope, Form, LINKS_MAX, Link};
pub use error::{DecodeError, EncodeError, Record};
pub use frame::{Frame, Table, digest_head, digest_input, tag_input};
pub use log::{
    Event, LOG_ITEMS_MAX, LOG_RECORDS_MAX, LOG_WHY_MAX_BYTES, LogItem, LogRecord, log_key, log_key_revision,
};
pub use meta::{
    CLUSTER_CAS_MAX, FORMAT_BYTES, Identity, State, StoreId, check_format, decode_format, encode_format, meta_key,
};
pub use pod_row::{ABSENT_MAX, Absence, AbsentObject, Lifecycle, Phase, PodRow};
pub use recovery_code::{RecoveryCodeError, recovery_code_checksum_input, recovery_code_octets, recovery_code_text};
pub use sealed::{GCM_TAG_BYTES, Purpose, RecordContext, SALT_BYTES, SealedBody, key_info, store_context};
pub use slot::{DATA_KEY_BYTES, KeySlot, SlotKind, WRAPPED_BYTES, slot_context, slot_key, slot_key_store_id};
pub use unlocker::{
    KEY_FILE_MAX_BYTES, KEY_FILE_MIN_BYTES, RECOVERY_CODE_BYTES, SecretLength, SymmetricSecret, Unlocker,
    fingerprint_info,
};

/// The version of the whole format that this crate writes, kept in the record `meta`/`format`.
pub const FORMAT_VERSION: u32 = 3;

/// The oldest version that this crate reads.
pub const FORMAT_VERSION_OLDEST: u32 = 1;

/// The version that keys, tags and sealed bodies are bound to. It is not raised with the format's: a record that was sealed
/// in a store of an older version opens in the same store of a newer one.
pub(crate) const BINDING_VERSION: u32 = 1;

/// The longest body of an [`Envelope`], in octets as stored (so with salt and tag where it is sealed): 8 MiB.
///
/// A legal Secret of 1 MiB of data is about 1.4 MiB of JSON; the rest is room for annotations and other kinds.
pub const BODY_MAX_BYTES: usize = 8 * 1024 * 1024;

/// The longest payload of any record, in octets: a body and 1 MiB for everything beside it.
pub const RECORD_MAX_BYTES: usize = BODY_MAX_BYTES + 1024 * 1024;

/// The longest single text field of any record, in octets of UTF-8.
pub const TEXT_MAX_BYTES: usize = 4096;

/// Lower-case hexadecimal, for identifiers and fingerprints.
pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
