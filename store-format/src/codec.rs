//! The one place that knows bincode: the wire form of each record's fields.
//!
//! `SPEC.md` describes the same bytes without it: integers little-endian of fixed width, lengths and counts unsigned 64-bit,
//! fields one after the other. The wire structs hold plain numbers and borrowed octets only; meaning (codes, limits) is the
//! business of the modules that convert them, so that each broken rule gets its own error.
//!
//! bincode 2.0.1 is pinned. Without a limit it panics on a hostile length, and it ignores trailing bytes: [`decode`] sets
//! the one and refuses the others.

use bincode::{BorrowDecode, Encode, config};

use crate::{DecodeError, EncodeError, RECORD_MAX_BYTES, Record};

/// The layout version octet that starts every record of format version 1, and every record that has not changed since.
pub(crate) const LAYOUT_VERSION: u8 = 1;

/// What bincode may claim in memory for one record. Three times the record: an entry of a list takes less than thrice as
/// much room in memory as it does at least on the wire (slices and an octet, padded, for as many lengths and an octet).
const CLAIM_MAX_BYTES: usize = 3 * RECORD_MAX_BYTES;

/// Fixed width, little-endian, bounded.
fn settings() -> impl config::Config {
    config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<CLAIM_MAX_BYTES>()
}

/// Wire form of [`crate::Link`].
#[derive(Encode, BorrowDecode)]
pub(crate) struct LinkWire<'a> {
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// Wire form of [`crate::Envelope`].
#[derive(Encode, BorrowDecode)]
pub(crate) struct EnvelopeWire<'a> {
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) resource_version: &'a str,
    pub(crate) stored_at_unix_ms: u64,
    pub(crate) codec: u8,
    pub(crate) form: u8,
    pub(crate) links: Vec<LinkWire<'a>>,
    pub(crate) body: &'a [u8],
}

/// Wire form of [`crate::KeySlot`], after its kind.
#[derive(Encode, BorrowDecode)]
pub(crate) struct SlotWire {
    pub(crate) fingerprint: [u8; 32],
    pub(crate) created_at_unix_ms: u64,
    pub(crate) salt: [u8; 32],
    pub(crate) wrapped: [u8; 48],
}

/// Wire form of [`crate::Identity`].
#[derive(Encode, BorrowDecode)]
pub(crate) struct IdentityWire<'a> {
    pub(crate) store_id: [u8; 16],
    pub(crate) created_at_unix_ms: u64,
    pub(crate) node_name: &'a str,
    pub(crate) node_uid: &'a str,
    pub(crate) cluster_ca_sha256: Vec<[u8; 32]>,
    pub(crate) kubelet_version: &'a str,
}

/// Wire form of [`crate::State`].
#[derive(Encode, BorrowDecode)]
pub(crate) struct StateWire<'a> {
    pub(crate) revision: u64,
    pub(crate) populated: u8,
    pub(crate) changed_at_unix_ms: u64,
    pub(crate) census: Vec<(&'a str, u64)>,
    pub(crate) boot_id: &'a str,
    pub(crate) source_position: &'a str,
}

/// Wire form of [`crate::PodRow`], layout 2.
#[derive(Encode, BorrowDecode)]
pub(crate) struct PodRowWire<'a> {
    pub(crate) uid: &'a str,
    pub(crate) ran: u8,
    pub(crate) phase: u8,
    pub(crate) left_s: u32,
    pub(crate) gone: u8,
    pub(crate) held: u8,
    pub(crate) republished: u32,
    pub(crate) decided_at_unix_ms: u64,
    pub(crate) ended: &'a str,
    pub(crate) absent: Vec<AbsentWire<'a>>,
}

/// Wire form of [`crate::PodRow`], layout 1, which is only read.
#[derive(BorrowDecode)]
pub(crate) struct PodRow1Wire<'a> {
    pub(crate) uid: &'a str,
    pub(crate) ran: u8,
    pub(crate) activity: u8,
    pub(crate) decided_at_unix_ms: u64,
    pub(crate) ended: &'a str,
    pub(crate) absent: Vec<AbsentWire<'a>>,
}

/// Wire form of [`crate::AbsentObject`].
#[derive(Encode, BorrowDecode)]
pub(crate) struct AbsentWire<'a> {
    pub(crate) kind: &'a str,
    pub(crate) name: &'a str,
    pub(crate) why: u8,
}

/// Wire form of [`crate::LogRecord`].
#[derive(Encode, BorrowDecode)]
pub(crate) struct LogWire<'a> {
    pub(crate) at_unix_ms: u64,
    pub(crate) boot_id: &'a str,
    pub(crate) items: Vec<LogItemWire<'a>>,
    pub(crate) more: u32,
}

/// Wire form of [`crate::LogItem`].
#[derive(Encode, BorrowDecode)]
pub(crate) struct LogItemWire<'a> {
    pub(crate) event: u8,
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) why: &'a str,
}

/// `prefix`, then the fields of `wire`.
pub(crate) fn encode(prefix: &[u8], wire: &impl Encode) -> Vec<u8> {
    let fields = bincode::encode_to_vec(wire, settings())
        .expect("wire structs hold integers, octets and lists of them, which always encode into memory");
    [prefix, &fields].concat()
}

/// The layout version of a payload of `record`, and what comes after it, if the whole is within the size limit.
pub(crate) fn versioned(record: Record, payload: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    limit(record, "record", payload.len(), RECORD_MAX_BYTES)?;
    let (&version, rest) = payload.split_first().ok_or(DecodeError::Layout { record })?;
    Ok((version, rest))
}

/// The payload of a `record` that has one layout only, after its layout version.
pub(crate) fn after_version(record: Record, payload: &[u8]) -> Result<&[u8], DecodeError> {
    match versioned(record, payload)? {
        (LAYOUT_VERSION, rest) => Ok(rest),
        (found, _) => Err(DecodeError::Version { record, found }),
    }
}

/// The fields of a `record` from exactly `octets`.
pub(crate) fn decode<'a, W: BorrowDecode<'a, ()>>(record: Record, octets: &'a [u8]) -> Result<W, DecodeError> {
    use bincode::error::DecodeError as Cause;
    let (wire, read) = bincode::borrow_decode_from_slice(octets, settings()).map_err(|cause| match cause {
        Cause::Utf8 { .. } => DecodeError::Text { record },
        // The wire structs can otherwise only fail for want of octets: at the end, or by a length or count beyond it.
        _ => DecodeError::Layout { record },
    })?;
    match octets.len() - read {
        0 => Ok(wire),
        extra => Err(DecodeError::Trailing { record, extra }),
    }
}

/// A limit, when reading.
pub(crate) fn limit(record: Record, field: &'static str, len: usize, max: usize) -> Result<(), DecodeError> {
    if len > max { Err(DecodeError::Limit { record, field, len, max }) } else { Ok(()) }
}

/// The same limit, when writing.
pub(crate) fn fits(record: Record, field: &'static str, len: usize, max: usize) -> Result<(), EncodeError> {
    if len > max { Err(EncodeError::TooLarge { record, field, len, max }) } else { Ok(()) }
}

/// A text field of at most [`crate::TEXT_MAX_BYTES`], when reading.
pub(crate) fn text(record: Record, field: &'static str, value: &str) -> Result<String, DecodeError> {
    limit(record, field, value.len(), crate::TEXT_MAX_BYTES)?;
    Ok(value.to_owned())
}

/// The same limit, when writing.
pub(crate) fn text_fits(record: Record, field: &'static str, value: &str) -> Result<(), EncodeError> {
    fits(record, field, value.len(), crate::TEXT_MAX_BYTES)
}

/// A truth value: 0 or 1, nothing else.
pub(crate) fn flag(record: Record, field: &'static str, code: u8) -> Result<bool, DecodeError> {
    match code {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(DecodeError::Code { record, field, found }),
    }
}
