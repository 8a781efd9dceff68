//! Key slots: what is added, what goes, and what never does.

use store_format::{Event, NodeSecret, SlotKind, SymmetricSecret, Unlocker};

use super::{NOW, keyed};
use crate::store::{Backend, LockState, Revision, SlotPolicy, SlotsKept, SlotsWanted, StoreError, fingerprint};

pub(super) fn run(make: &mut dyn FnMut() -> Box<dyn Backend>, secret: &Unlocker) {
    every_kind_gets_a_slot_once(keyed(make(), secret), secret);
    a_keyless_store_takes_any_kind_first(make);
    the_last_slot_that_opens_stays(keyed(make(), secret), secret);
    the_newest_node_keys_stay(keyed(make(), secret), secret);
    a_credential_may_be_all_there_is(make, secret);
}

/// A test key of the node: Ed25519, with the seed that it is made of.
fn node_key(seed: u8) -> Unlocker {
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend([seed; 32]);
    NodeSecret::from_pkcs8(&der).expect("an Ed25519 seed").with_public_spki(&[seed]).into()
}

fn file(octet: u8) -> SymmetricSecret {
    SymmetricSecret::of_file(&[octet; 32]).expect("32 octets are enough")
}

fn name(unlocker: &Unlocker) -> [u8; 32] {
    fingerprint(unlocker).expect("it has a public part")
}

fn keep(store: &mut dyn Backend, wanted: SlotsWanted<'_>, now_unix_ms: u64) -> SlotsKept {
    store.keep_slots(&wanted, now_unix_ms).expect("slots can be changed").into_inner()
}

/// Kind and fingerprint of each slot, by creation; all of them open, and nothing is found.
fn slots(store: &dyn Backend) -> Vec<(SlotKind, [u8; 32])> {
    let snapshot = store.snapshot().expect("a snapshot can be taken").into_inner();
    assert!(snapshot.findings().is_empty(), "slots have findings: {:?}", snapshot.findings());
    assert!(snapshot.slots().iter().all(|slot| slot.opens), "a slot does not open: {:?}", snapshot.slots());
    let times: Vec<u64> = snapshot.slots().iter().map(|slot| slot.created_at_unix_ms).collect();
    assert!(times.is_sorted_by(|one, next| one < next), "no slot is as old as another: {times:?}");
    snapshot.slots().iter().map(|slot| (slot.kind, slot.fingerprint)).collect()
}

fn revision(store: &dyn Backend) -> Revision {
    store.snapshot().expect("a snapshot can be taken").get().revision()
}

fn every_kind_gets_a_slot_once(mut store: Box<dyn Backend>, secret: &Unlocker) {
    let code = Unlocker::RecoveryCode(SymmetricSecret::of_recovery_code(&[1; 20]));
    let (key_file, credential) = (Unlocker::KeyFile(file(1)), Unlocker::Credential(file(1)));
    let all = [secret, &code, &key_file, &credential, &key_file];
    let before = revision(&*store);
    let kept = keep(&mut *store, SlotsWanted { add: &all, ..SlotsWanted::default() }, 0);
    assert_eq!(kept.added, [name(&code), name(&key_file), name(&credential)], "one slot each, none twice");
    assert_eq!(kept.revision, Revision(before.0 + 1), "they are one commit");
    let expected: Vec<_> = [secret, &code, &key_file, &credential].map(|key| (key.kind(), name(key))).into();
    assert_eq!(slots(&*store), expected, "a clock that is not set does not make the newest slot the oldest");
    let again = keep(&mut *store, SlotsWanted { add: &all, ..SlotsWanted::default() }, NOW);
    assert_eq!(again, SlotsKept { revision: kept.revision, ..SlotsKept::default() }, "nothing to do is no commit");
    let unknown = keep(&mut *store, SlotsWanted { remove: &[[9; 32]], ..SlotsWanted::default() }, NOW);
    assert_eq!(unknown, again, "what is not there need not go");

    let gone = keep(&mut *store, SlotsWanted { remove: &[name(&code)], ..SlotsWanted::default() }, NOW);
    assert_eq!((gone.removed, gone.revision), (vec![name(&code)], Revision(kept.revision.0 + 1)), "one slot goes");
    assert_eq!(slots(&*store).len(), 3, "the others stay");
    let snapshot = store.snapshot().expect("a snapshot can be taken").into_inner();
    let events: Vec<_> = snapshot.log().flat_map(|(_, record)| record.items).map(|item| item.event).collect();
    let expected = [Event::Keyed, Event::SlotAdded, Event::SlotAdded, Event::SlotAdded, Event::SlotRemoved];
    assert_eq!(events, expected, "the log says it");
}

fn a_keyless_store_takes_any_kind_first(make: &mut dyn FnMut() -> Box<dyn Backend>) {
    let code = Unlocker::RecoveryCode(SymmetricSecret::of_recovery_code(&[1; 20]));
    for first in [node_key(1), code, Unlocker::KeyFile(file(1)), Unlocker::Credential(file(1))] {
        let mut store = make();
        let kept = keep(&mut *store, SlotsWanted { add: &[&first], ..SlotsWanted::default() }, NOW);
        assert_eq!(kept.added, [name(&first)], "the first slot");
        assert_eq!(store.lock_state(), LockState::Open, "the first key opens the store");
        assert_eq!(slots(&*store), [(first.kind(), name(&first))], "it has one slot");
    }
    let mut store = make();
    assert_eq!(keep(&mut *store, SlotsWanted::default(), NOW), SlotsKept::default(), "no key, no commit");
    assert_eq!(store.lock_state(), LockState::Keyless, "and no data key");
}

fn the_last_slot_that_opens_stays(mut store: Box<dyn Backend>, secret: &Unlocker) {
    let before = (revision(&*store), slots(&*store));
    let refused = store.keep_slots(&SlotsWanted { remove: &[name(secret)], ..SlotsWanted::default() }, NOW);
    assert!(matches!(refused, Err(StoreError::LastSlot)), "the last slot does not go");
    let both = SlotsWanted { add: &[secret], remove: &[name(secret)], ..SlotsWanted::default() };
    assert!(
        matches!(store.keep_slots(&both, NOW), Err(StoreError::LastSlot)),
        "nor does it when it is asked for as well"
    );
    assert_eq!((revision(&*store), slots(&*store)), before, "and nothing was written");
    let other = node_key(1);
    let wanted = SlotsWanted { add: &[&other], remove: &[name(secret)], ..SlotsWanted::default() };
    let kept = keep(&mut *store, wanted, NOW);
    assert_eq!((kept.added, kept.removed), (vec![name(&other)], vec![name(secret)]), "another one takes its place");
    assert_eq!(kept.revision, Revision(before.0.0 + 2), "by two commits, the new slot first");
}

fn the_newest_node_keys_stay(mut store: Box<dyn Backend>, secret: &Unlocker) {
    let code = Unlocker::RecoveryCode(SymmetricSecret::of_recovery_code(&[1; 20]));
    let _ = keep(&mut *store, SlotsWanted { add: &[&code], ..SlotsWanted::default() }, NOW);
    let keys: Vec<Unlocker> = (1..=4).map(node_key).collect();
    for (at, key) in (NOW..).zip(&keys) {
        let wanted = SlotsWanted { add: &[key], node_keys_max: Some(3), ..SlotsWanted::default() };
        let _ = keep(&mut *store, wanted, at);
    }
    let expected: Vec<_> = [&code, &keys[1], &keys[2], &keys[3]].map(|key| (key.kind(), name(key))).into();
    assert_eq!(slots(&*store), expected, "the three newest node keys, and what is none");
    // What is at hand is not pruned, however old its slot is.
    let wanted = SlotsWanted { add: &[&keys[1]], node_keys_max: Some(1), ..SlotsWanted::default() };
    let kept = keep(&mut *store, wanted, NOW);
    assert_eq!(kept.removed.len(), 1, "one of the two that are older than the newest is at hand");
    let expected: Vec<_> = [&code, &keys[1], &keys[3]].map(|key| (key.kind(), name(key))).into();
    assert_eq!(slots(&*store), expected, "it stays with the newest");
    let _ = secret;
}

fn a_credential_may_be_all_there_is(make: &mut dyn FnMut() -> Box<dyn Backend>, secret: &Unlocker) {
    let policy = SlotPolicy::CredentialOnly;
    let code = Unlocker::RecoveryCode(SymmetricSecret::of_recovery_code(&[1; 20]));
    let (key_file, credential) = (Unlocker::KeyFile(file(1)), Unlocker::Credential(file(2)));

    let mut store = make();
    let wanted = SlotsWanted { add: &[secret, &key_file], policy, ..SlotsWanted::default() };
    assert_eq!(keep(&mut *store, wanted, NOW), SlotsKept::default(), "neither a node key nor a file gets a slot");
    assert_eq!(store.lock_state(), LockState::Keyless, "so there is no data key");

    let mut store = keyed(make(), secret);
    let _ = keep(&mut *store, SlotsWanted { add: &[&key_file, &code], ..SlotsWanted::default() }, NOW);
    let wanted = SlotsWanted { add: &[secret, &code], policy, ..SlotsWanted::default() };
    assert_eq!(
        keep(&mut *store, wanted, NOW).removed,
        Vec::<[u8; 32]>::new(),
        "nothing goes before there is a credential"
    );
    let wanted = SlotsWanted { add: &[secret, &credential], policy, ..SlotsWanted::default() };
    let kept = keep(&mut *store, wanted, NOW);
    assert_eq!(kept.added, [name(&credential)], "the credential gets a slot");
    assert_eq!(kept.removed.len(), 2, "then the others go");
    let expected: Vec<_> = [&code, &credential].map(|key| (key.kind(), name(key))).into();
    assert_eq!(slots(&*store), expected, "a recovery code may stay");
}
