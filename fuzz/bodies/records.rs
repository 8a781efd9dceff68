//! Arbitrary octets to every decoder of the store's format: none panics, hangs or allocates without bound, and what one
//! accepts encodes to the same octets again, or, where it is of an older layout, to the newer one of the same value.

use store_format::{Envelope, Frame, Identity, KeySlot, LogRecord, PodRow, SealedBody, State};

/// The target's body.
pub fn run(octets: &[u8]) {
    if let Ok(frame) = Frame::decode(octets) {
        assert_eq!(frame.encode(), octets);
        // The path of a record from the file: frame, then payload.
        records(frame.payload);
    }
    records(octets);
}

/// Asserts that an accepted value is written as it was read.
fn same<E: std::fmt::Debug>(written: Result<Vec<u8>, E>, read: &[u8]) {
    assert_eq!(written.expect("what was accepted can be written"), read);
}

fn records(octets: &[u8]) {
    if let Ok(value) = Envelope::decode(octets) {
        same(value.encode(), octets);
        if let Ok(body) = SealedBody::decode(&value.body) {
            assert_eq!(body.encode(), value.body);
        }
    }
    if let Ok(slot) = KeySlot::decode(octets) {
        assert_eq!(slot.encode(), octets);
    }
    if let Ok(value) = Identity::decode(octets) {
        same(value.encode(), octets);
    }
    if let Ok(value) = State::decode(octets) {
        same(value.encode(), octets);
    }
    if let Ok(value) = PodRow::decode(octets) {
        if octets[0] == 1 {
            let written = value.encode().expect("what was accepted can be written");
            assert_eq!(PodRow::decode(&written), Ok(value));
        } else {
            same(value.encode(), octets);
        }
    }
    if let Ok(value) = LogRecord::decode(octets) {
        same(value.encode(), octets);
    }
    if let Ok(version) = store_format::decode_format(octets) {
        assert_eq!(version.to_le_bytes(), octets);
    }
    if let Ok(key) = std::str::from_utf8(octets)
        && let Some(store_id) = store_format::slot_key_store_id(key)
    {
        assert!(key.starts_with(&store_id.to_string()));
    }
}
