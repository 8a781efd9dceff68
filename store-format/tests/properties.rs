//! What holds for all octets: decoders are total, and one meaning has one encoding.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use store_format::{
    ABSENT_MAX, Absence, AbsentObject, Codec, DecodeError, EncodeError, Envelope, Event, Form, Frame, Identity,
    KeySlot, LINKS_MAX, LOG_ITEMS_MAX, LOG_WHY_MAX_BYTES, Lifecycle, Link, LogItem, LogRecord, NodeSecret, Phase,
    PodRow, SealedBody, SlotKind, State, StoreId, TEXT_MAX_BYTES,
};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[a-z0-9.-]{0,20}", Just(String::new())]
}

prop_compose! {
    fn link()(kind in text(), namespace in text(), name in text()) -> Link {
        Link { kind, namespace, name }
    }
}

prop_compose! {
    fn envelope()(
        kind in text(), namespace in text(), name in text(), uid in text(), resource_version in text(),
        stored_at_unix_ms: u64, sealed: bool, links in vec(link(), 0..5), body in vec(any::<u8>(), 0..200),
    ) -> Envelope {
        let form = if sealed { Form::Sealed } else { Form::Clear };
        Envelope { kind, namespace, name, uid, resource_version, stored_at_unix_ms, codec: Codec::None, form, links, body }
    }
}

prop_compose! {
    fn slot()(
        kind in prop::sample::select(SlotKind::ALL.to_vec()), fingerprint: [u8; 32], created_at_unix_ms: u64, salt: [u8; 32], wrapped in vec(any::<u8>(), 48),
    ) -> KeySlot {
        let wrapped = wrapped.try_into().unwrap();
        KeySlot { kind, fingerprint, created_at_unix_ms, salt, wrapped }
    }
}

prop_compose! {
    fn identity()(
        store_id: [u8; 16], created_at_unix_ms: u64, node_name in text(), node_uid in text(),
        cluster_ca_sha256 in vec(any::<[u8; 32]>(), 0..4), kubelet_version in text(),
    ) -> Identity {
        let store_id = StoreId(store_id);
        Identity { store_id, created_at_unix_ms, node_name, node_uid, cluster_ca_sha256, kubelet_version }
    }
}

prop_compose! {
    fn state()(
        revision: u64, populated: bool, changed_at_unix_ms: u64, census in vec((text(), any::<u64>()), 0..6),
        boot_id in text(), source_position in text(),
    ) -> State {
        State { revision, populated, changed_at_unix_ms, census, boot_id, source_position }
    }
}

prop_compose! {
    fn pod_row()(
        uid in text(), ran: bool, lifecycle in lifecycle(), gone: bool, held: bool, republished: u32,
        decided_at_unix_ms: u64, ended in text(), absent in btree_map((text(), text()), any::<bool>(), 0..5),
    ) -> PodRow {
        let why = |forbidden| if forbidden { Absence::Forbidden } else { Absence::NotFound };
        let absent = absent.into_iter().map(|((kind, name), forbidden)| AbsentObject { kind, name, why: why(forbidden) });
        PodRow { uid, ran, lifecycle, gone, held, republished, decided_at_unix_ms, ended, absent: absent.collect() }
    }
}

fn lifecycle() -> impl Strategy<Value = Lifecycle> {
    prop_oneof![
        Just(Lifecycle::Inactive),
        Just(Lifecycle::Active),
        any::<u32>().prop_map(|left_s| Lifecycle::InactiveGrace { left_s }),
        any::<u32>().prop_map(|left_s| Lifecycle::ActiveGrace { left_s }),
        any::<u32>().prop_map(|left_s| Lifecycle::HandedOver { left_s }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let phase = || proptest::sample::select(Phase::ALL.as_slice());
    let plain = [Event::Stored, Event::Removed, Event::Absent, Event::Republished, Event::Keyed];
    prop_oneof![
        proptest::sample::select(plain.to_vec()),
        (phase(), phase()).prop_map(|(from, to)| Event::Decided { from, to }),
    ]
}

prop_compose! {
    fn item()(
        event in event(), kind in text(), namespace in text(), name in text(), uid in text(), why in "[a-z0-9 .-]{0,40}",
    ) -> LogItem {
        LogItem { event, kind, namespace, name, uid, why }
    }
}

prop_compose! {
    fn log()(at_unix_ms: u64, boot_id in text(), items in vec(item(), 0..5), more: u32) -> LogRecord {
        LogRecord { at_unix_ms, boot_id, items, more }
    }
}

/// Gives `octets` to every decoder. What one accepts must encode to the same octets again.
fn decode_with_all(octets: &[u8]) {
    if let Ok(frame) = Frame::decode(octets) {
        assert_eq!(frame.encode(), octets);
    }
    if let Ok(value) = Envelope::decode(octets) {
        assert_eq!(value.encode().unwrap(), octets);
    }
    if let Ok(body) = SealedBody::decode(octets) {
        assert_eq!(body.encode(), octets);
    }
    if let Ok(slot) = KeySlot::decode(octets) {
        assert_eq!(slot.encode(), octets);
    }
    if let Ok(value) = Identity::decode(octets) {
        assert_eq!(value.encode().unwrap(), octets);
    }
    if let Ok(value) = State::decode(octets) {
        assert_eq!(value.encode().unwrap(), octets);
    }
    if let Ok(value) = PodRow::decode(octets) {
        let written = value.encode().unwrap();
        // A row of the older layout is written in the newer one.
        assert!(if octets[0] == 1 { PodRow::decode(&written) == Ok(value) } else { written == octets });
    }
    if let Ok(value) = LogRecord::decode(octets) {
        assert_eq!(value.encode().unwrap(), octets);
    }
    if let Ok(version) = store_format::decode_format(octets) {
        assert_eq!(version.to_le_bytes(), octets);
    }
    for secret in [NodeSecret::from_sec1(octets), NodeSecret::from_pkcs8(octets), NodeSecret::from_pkcs1(octets)] {
        assert!(secret.is_err() || secret.is_ok_and(|secret| secret.canonical().len() >= 32));
    }
}

/// Any record or key, valid.
fn valid() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        envelope().prop_map(|value| value.encode().unwrap()),
        slot().prop_map(|value| value.encode()),
        identity().prop_map(|value| value.encode().unwrap()),
        state().prop_map(|value| value.encode().unwrap()),
        pod_row().prop_map(|value| value.encode().unwrap()),
        log().prop_map(|value| value.encode().unwrap()),
        (any::<[u8; 32]>(), any::<Option<[u8; 32]>>(), vec(any::<u8>(), 0..50))
            .prop_map(|(digest, tag, payload)| Frame { digest, tag, payload: &payload }.encode()),
        proptest::sample::select(KEYS.as_slice()).prop_map(<[u8]>::to_vec),
    ]
}

/// RFC 8410 section 10.3, second example, and the skeleton of an ECPrivateKey.
const KEYS: [&[u8]; 2] = [
    b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20\xd4\xee\x72\xdb\xf9\x13\x58\x4a\xd5\xb6\xd8\xf1\xf7\x69\xf8\xad\x3a\xfe\x7c\x28\xcb\xf1\xd4\xfb\xe0\x97\xa8\x8f\x44\x75\x58\x42",
    b"\x30\x13\x02\x01\x01\x04\x02\x12\x34\xa0\x0a\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn decoders_are_total(octets in vec(any::<u8>(), 0..300)) {
        decode_with_all(&octets);
    }

    #[test]
    fn decoders_are_total_past_the_version(octets in vec(prop_oneof![0u8..4, any::<u8>()], 0..200)) {
        decode_with_all(&[&[1], octets.as_slice()].concat());
        decode_with_all(&[&[2], octets.as_slice()].concat());
    }

    #[test]
    fn decoders_are_total_near_valid_octets(
        mut octets in valid(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<Option<prop::sample::Index>>(),
        more in vec(any::<u8>(), 0..3),
    ) {
        for (at, value) in changes {
            let at = at.index(octets.len());
            octets[at] = value;
        }
        if let Some(cut) = cut {
            octets.truncate(cut.index(octets.len()));
        }
        octets.extend(more);
        decode_with_all(&octets);
    }

    /// A prefix of a record, or a record with something behind it, is none.
    #[test]
    fn records_know_their_end(
        value in envelope(), row in pod_row(), log in log(), cut in any::<prop::sample::Index>(), more in 1usize..9,
    ) {
        for (octets, decode) in [
            (value.encode().unwrap(), (|octets| Envelope::decode(octets).err()) as fn(&[u8]) -> Option<DecodeError>),
            (row.encode().unwrap(), |octets| PodRow::decode(octets).err()),
            (log.encode().unwrap(), |octets| LogRecord::decode(octets).err()),
        ] {
            let shorter = &octets[..cut.index(octets.len())];
            let ends_early = matches!(decode(shorter), Some(DecodeError::Layout { .. }));
            prop_assert!(ends_early);
            let longer = [octets.as_slice(), &vec![0; more]].concat();
            let goes_on = matches!(decode(&longer), Some(DecodeError::Trailing { extra, .. }) if extra == more);
            prop_assert!(goes_on);
        }
    }

    #[test]
    fn records_round_trip(
        envelope in envelope(), slot in slot(), identity in identity(), state in state(), pod_row in pod_row(), log in log(),
    ) {
        prop_assert_eq!(Envelope::decode(&envelope.encode().unwrap()), Ok(envelope));
        prop_assert_eq!(KeySlot::decode(&slot.encode()), Ok(slot));
        prop_assert_eq!(Identity::decode(&identity.encode().unwrap()), Ok(identity));
        prop_assert_eq!(State::decode(&state.encode().unwrap()), Ok(state));
        prop_assert_eq!(PodRow::decode(&pod_row.encode().unwrap()), Ok(pod_row));
        prop_assert_eq!(LogRecord::decode(&log.encode().unwrap()), Ok(log));
    }

    /// However a scalar is padded, the secret is the same, and as long as its curve wants.
    #[test]
    fn padding_of_a_scalar_is_of_no_account(scalar in vec(any::<u8>(), 1..32), zeros in 0usize..40) {
        prop_assume!(scalar.iter().any(|octet| *octet != 0));
        let read = |scalar: &[u8]| NodeSecret::from_sec1(&sec1(scalar)).map(|secret| secret.canonical().to_vec());
        let plain = read(&scalar);
        prop_assert_eq!(plain.as_ref().map(Vec::len), Ok(42));
        prop_assert_eq!(read(&[vec![0; zeros], scalar].concat()), plain);
    }
}

/// An ECPrivateKey on P-256 without its public part.
fn sec1(scalar: &[u8]) -> Vec<u8> {
    let mut contents = vec![2, 1, 1, 4, u8::try_from(scalar.len()).unwrap()];
    contents.extend_from_slice(scalar);
    contents.extend_from_slice(b"\xa0\x0a\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07");
    [&[0x30, u8::try_from(contents.len()).unwrap()], contents.as_slice()].concat()
}

/// What is over a limit is refused when writing, at the same point as when reading.
#[test]
fn limits_hold_when_writing() {
    let base = Envelope {
        kind: String::new(),
        namespace: String::new(),
        name: String::new(),
        uid: String::new(),
        resource_version: String::new(),
        stored_at_unix_ms: 0,
        codec: Codec::None,
        form: Form::Clear,
        links: Vec::new(),
        body: Vec::new(),
    };
    let text = |len| "x".repeat(len);
    let links = |count, len| vec![Link { kind: text(len), namespace: text(len), name: text(len) }; count];
    let largest = Envelope {
        kind: text(TEXT_MAX_BYTES),
        body: vec![0; store_format::BODY_MAX_BYTES],
        links: links(LINKS_MAX, 1),
        ..base.clone()
    };
    assert_eq!(Envelope::decode(&largest.encode().unwrap()), Ok(largest));
    for (field, over) in [
        ("kind", Envelope { kind: text(TEXT_MAX_BYTES + 1), ..base.clone() }),
        ("namespace", Envelope { namespace: text(TEXT_MAX_BYTES + 1), ..base.clone() }),
        ("name", Envelope { name: text(TEXT_MAX_BYTES + 1), ..base.clone() }),
        ("uid", Envelope { uid: text(TEXT_MAX_BYTES + 1), ..base.clone() }),
        ("resourceVersion", Envelope { resource_version: text(TEXT_MAX_BYTES + 1), ..base.clone() }),
        ("links", Envelope { links: links(LINKS_MAX + 1, 0), ..base.clone() }),
        ("link kind", Envelope { links: links(1, TEXT_MAX_BYTES + 1), ..base.clone() }),
        ("body", Envelope { body: vec![0; store_format::BODY_MAX_BYTES + 1], ..base.clone() }),
        ("record", Envelope { links: links(LINKS_MAX, TEXT_MAX_BYTES), ..base }),
    ] {
        match over.encode() {
            Err(EncodeError::TooLarge { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {:?}", other.map(|octets| octets.len())),
        }
    }
}

/// A pod row is held to its limits, and to the order of its list, when writing as when reading.
#[test]
fn a_pod_row_is_written_only_as_it_may_be_read() {
    let base = PodRow {
        uid: String::new(),
        ran: false,
        lifecycle: Lifecycle::Inactive,
        gone: false,
        held: false,
        republished: 0,
        decided_at_unix_ms: 0,
        ended: String::new(),
        absent: Vec::new(),
    };
    let text = |len| "x".repeat(len);
    let absent = |names: &[&str]| -> Vec<AbsentObject> {
        let object =
            |name: &&str| AbsentObject { kind: String::new(), name: (*name).to_owned(), why: Absence::NotFound };
        names.iter().map(object).collect()
    };
    let numbered = |count: usize, len: usize| -> Vec<AbsentObject> {
        (0..count).flat_map(|n| absent(&[&format!("{n:04}{}", text(len))])).collect()
    };
    let largest = PodRow {
        uid: text(TEXT_MAX_BYTES),
        ended: text(TEXT_MAX_BYTES),
        absent: numbered(ABSENT_MAX, 253),
        ..base.clone()
    };
    assert_eq!(PodRow::decode(&largest.encode().unwrap()), Ok(largest));
    for (field, over) in [
        ("uid", PodRow { uid: text(TEXT_MAX_BYTES + 1), ..base.clone() }),
        ("ended", PodRow { ended: text(TEXT_MAX_BYTES + 1), ..base.clone() }),
        ("absent objects", PodRow { absent: numbered(ABSENT_MAX + 1, 0), ..base.clone() }),
        ("absent name", PodRow { absent: numbered(1, TEXT_MAX_BYTES), ..base.clone() }),
        ("record", PodRow { absent: numbered(ABSENT_MAX, 4000), ..base.clone() }),
    ] {
        match over.encode() {
            Err(EncodeError::TooLarge { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {:?}", other.map(|octets| octets.len())),
        }
    }
    for names in [["b", "a"], ["a", "a"]] {
        let unsorted = PodRow { absent: absent(&names), ..base.clone() };
        assert!(matches!(unsorted.encode(), Err(EncodeError::Order { field: "absent objects", .. })), "{names:?}");
    }
}

/// A log record too.
#[test]
fn a_log_record_is_written_only_as_it_may_be_read() {
    let text = |len| "x".repeat(len);
    let item = LogItem {
        event: Event::Stored,
        kind: text(TEXT_MAX_BYTES),
        namespace: text(TEXT_MAX_BYTES),
        name: text(TEXT_MAX_BYTES),
        uid: text(TEXT_MAX_BYTES),
        why: text(LOG_WHY_MAX_BYTES),
    };
    let of = |items| LogRecord { at_unix_ms: 0, boot_id: text(TEXT_MAX_BYTES), items, more: 0 };
    let largest = of(vec![item.clone(); LOG_ITEMS_MAX]);
    assert_eq!(LogRecord::decode(&largest.encode().unwrap()), Ok(largest));
    for (field, over) in [
        ("boot id", LogRecord { boot_id: text(TEXT_MAX_BYTES + 1), ..of(Vec::new()) }),
        ("items", of(vec![item.clone(); LOG_ITEMS_MAX + 1])),
        ("kind", of(vec![LogItem { kind: text(TEXT_MAX_BYTES + 1), ..item.clone() }])),
        ("namespace", of(vec![LogItem { namespace: text(TEXT_MAX_BYTES + 1), ..item.clone() }])),
        ("name", of(vec![LogItem { name: text(TEXT_MAX_BYTES + 1), ..item.clone() }])),
        ("uid", of(vec![LogItem { uid: text(TEXT_MAX_BYTES + 1), ..item.clone() }])),
        ("why", of(vec![LogItem { why: text(LOG_WHY_MAX_BYTES + 1), ..item.clone() }])),
    ] {
        match over.encode() {
            Err(EncodeError::TooLarge { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {:?}", other.map(|octets| octets.len())),
        }
    }
}
