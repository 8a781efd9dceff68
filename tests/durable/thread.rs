//! The thread: order, failures, panics, and how it ends.

use ckpt_db::agent::{KeepSlots, StoreThread};
use ckpt_db::crypto::generate_p256_pkcs8;
use ckpt_db::store::{LockState, StoreError};
use futures_util::FutureExt as _;
use store_format::NodeSecret;

use super::support::*;

#[tokio::test]
async fn a_handle_asks_all_that_a_store_answers() {
    let thread = started(memory());
    let store = thread.handle();
    assert_eq!(soon(store.identity()).await.unwrap().node_name, "edge-1");
    assert_eq!(soon(store.lock_state()).await.unwrap(), LockState::Keyless);
    let secret = NodeSecret::from_pkcs8(generate_p256_pkcs8().unwrap().expose()).unwrap();
    let wanted = KeepSlots { add: vec![secret.into()], ..KeepSlots::default() };
    let keyed = soon(store.keep_slots(wanted)).await.unwrap().into_inner();
    assert_eq!(soon(store.lock_state()).await.unwrap(), LockState::Open);
    let update = soon(store.update(changes(&applied("a", 1)))).await.unwrap().into_inner();
    assert!(update.revision > keyed.revision);
    let snapshot = soon(store.snapshot()).await.unwrap().into_inner();
    assert_eq!(bodies(&snapshot), [("a".to_owned(), body("a", 1))]);
    assert_eq!(snapshot.objects().next().unwrap().stored_at_unix_ms, NOW, "the clock is asked");
}

#[tokio::test]
async fn questions_are_answered_in_their_order() {
    let (store, mut gate) = gated();
    let thread = started(store);
    let store = thread.handle();
    // Asked by being called: nobody waits for an answer yet.
    let mut first = store.update(changes(&applied("a", 1)));
    let (second, between) = (thread.handle().update(changes(&applied("a", 2))), store.snapshot());
    let third = store.update(changes(&applied("a", 3)));
    assert_eq!(gate.entered().await, 1);
    assert!((&mut first).now_or_never().is_none(), "an answer before the commit");
    gate.open([Verdict::Pass; 3]);
    let revisions =
        [soon(first).await, soon(second).await, soon(third).await].map(|u| u.unwrap().into_inner().revision);
    assert!(revisions.is_sorted_by(|one, next| one < next), "{revisions:?}");
    assert_eq!(bodies(soon(between).await.unwrap().get()), [("a".to_owned(), body("a", 2))]);
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_is_no_question_taken_back() {
    let thread = started(memory());
    drop(thread.handle().update(changes(&applied("a", 1))));
    assert_eq!(bodies(soon(thread.handle().snapshot()).await.unwrap().get()).len(), 1);
}

#[tokio::test]
async fn a_refusal_is_not_the_end() {
    let (store, gate) = gated();
    let thread = started(store);
    gate.open([Verdict::Refuse, Verdict::Pass]);
    let refused = soon(thread.handle().update(changes(&applied("a", 1)))).await;
    assert!(matches!(refused, Err(StoreError::NoKeyOpens)));
    assert!(soon(thread.handle().update(changes(&applied("a", 1)))).await.is_ok());
}

#[tokio::test]
async fn after_a_failure_everything_is_refused_until_the_store_is_opened_anew() {
    for (verdict, is_there) in [(Verdict::Break, false), (Verdict::Panic, false), (Verdict::PassAndPanic, true)] {
        let (store, gate) = gated();
        let thread = started(store);
        let store = thread.handle();
        // More than needed: whoever is refused does not come to the gate.
        gate.open([verdict, Verdict::Pass, Verdict::Pass]);
        let (first, second) = (store.update(changes(&applied("a", 1))), store.update(changes(&applied("b", 1))));
        match (verdict, soon(first).await.map(|_| ())) {
            (Verdict::Break, Err(StoreError::Damaged { .. })) => {}
            (Verdict::Panic | Verdict::PassAndPanic, Err(StoreError::Panicked)) => {}
            (verdict, answer) => panic!("{verdict:?}: {answer:?}"),
        }
        assert!(matches!(soon(second).await, Err(StoreError::Unusable)), "{verdict:?}");
        assert!(matches!(soon(store.snapshot()).await, Err(StoreError::Unusable)), "{verdict:?}");
        assert!(matches!(soon(store.lock_state()).await, Err(StoreError::Unusable)), "{verdict:?}");
        // The owner gets it back, lock and all, and opens it anew.
        let thread = StoreThread::start(soon(thread.close()).await.unwrap(), || NOW).unwrap();
        let snapshot = soon(thread.handle().snapshot()).await.unwrap();
        assert_eq!(bodies(snapshot.get()).len(), usize::from(is_there), "{verdict:?}");
        assert!(matches!(soon(store.snapshot()).await, Err(StoreError::Closed)), "an old handle stays closed");
    }
}

#[tokio::test]
async fn closing_does_what_was_asked_before_and_nothing_after() {
    let (store, mut gate) = gated();
    let thread = started(store);
    let store = thread.handle();
    let before = store.update(changes(&applied("a", 1)));
    gate.entered().await;
    let closing = tokio::spawn(thread.close());
    // The thread is at the gate: whether this comes before or behind the request to close, it is answered.
    gate.open([Verdict::Pass]);
    let closed = soon(closing).await.unwrap().unwrap();
    assert!(soon(before).await.is_ok());
    assert!(matches!(soon(store.update(changes(&applied("b", 1)))).await, Err(StoreError::Closed)));
    assert_eq!(bodies(closed.snapshot().unwrap().get()).len(), 1);
}

#[tokio::test]
async fn the_thread_ends_with_its_last_handle() {
    let (store, mut gate) = gated();
    let thread = started(store);
    let (one, other) = (thread.handle(), thread.handle());
    drop((thread, one));
    gate.open([Verdict::Pass]);
    soon(other.update(changes(&applied("a", 1)))).await.unwrap().into_inner();
    gate.entered().await;
    drop(other);
    // The gate's other end is a part of the store.
    gate.is_gone().await;
}

#[tokio::test]
async fn a_panic_of_the_clock_is_an_error_too() {
    let thread = StoreThread::start(Box::new(memory()), || panic!("as the test wants it")).unwrap();
    assert!(matches!(soon(thread.handle().snapshot()).await, Err(StoreError::Panicked)));
    assert!(soon(thread.close()).await.is_ok());
}
