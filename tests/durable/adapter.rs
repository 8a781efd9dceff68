//! Group commit, limits, order, cancellation and failure of a durable stream, step by step.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ckpt_db::agent::{Durable, Limits, NotDurable, StoreThread};
use ckpt_db::store::StoreError;
use futures_util::{FutureExt as _, StreamExt as _, stream};

use super::support::*;

#[tokio::test]
async fn three_hundred_items_that_arrive_during_a_commit_are_one_commit() {
    let (store, mut gate) = gated();
    let thread = started(store);
    let (send, source) = fed();
    let mut durable = Durable::new(source, thread.handle(), changes);
    send.send(applied("first", 1)).unwrap();
    assert!(durable.next().now_or_never().is_none(), "nothing is handed on before the commit");
    assert_eq!(gate.entered().await, 1);
    for n in 0..300 {
        send.send(applied(format!("p{n}"), 1)).unwrap();
        // Polled after each: the items are taken while the commit is in flight, and none of them is handed on.
        assert!(durable.next().now_or_never().is_none());
    }
    assert!(gate.is_quiet(), "a second commit before the first has ended");
    gate.open([Verdict::Pass]);
    let first = batch(soon(durable.next()).await);
    assert_eq!(names(&first.items), ["first"]);
    // Answered in order: a commit that was asked for too early would stand at the gate before this.
    let meanwhile = soon(thread.handle().snapshot()).await.unwrap();
    assert_eq!(meanwhile.get().revision(), first.update.revision, "nothing is committed while the consumer works");

    gate.open([Verdict::Pass]);
    let second = batch(soon(durable.next()).await);
    assert_eq!(gate.entered().await, 300);
    assert_eq!(second.items, (0..300).map(|n| applied(format!("p{n}"), 1)).collect::<Vec<_>>());
    assert_eq!(second.update.revision.0, first.update.revision.0 + 1, "one transaction");
    assert_eq!(second.update.stored.len(), 300);

    drop(send);
    assert!(soon(durable.next()).await.is_none());
    assert!(gate.is_quiet());
}

#[tokio::test]
async fn what_is_beyond_the_limits_stays_in_the_source() {
    let size = body("p0", 1).len();
    #[rustfmt::skip]
    let rows = [
        // at most so many items, bytes -> the batches of ten items
        (4,          usize::MAX,   vec![4, 4, 2]),
        (10,         usize::MAX,   vec![10]),
        (usize::MAX, 3 * size,     vec![3, 3, 3, 1]),
        (usize::MAX, 3 * size - 1, vec![3, 3, 3, 1]),
        (usize::MAX, 3 * size + 1, vec![4, 4, 2]),
        (2,          3 * size,     vec![2; 5]),
        (usize::MAX, 1,            vec![1; 10]),
        (0,          0,            vec![1; 10]),
    ];
    for (items_max, bytes_max, want) in rows {
        let thread = started(memory());
        let taken = Arc::new(AtomicUsize::new(0));
        let count = taken.clone();
        let source = stream::iter((0..10).map(|n| applied(format!("p{n}"), 1))).inspect(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let limits = Limits { items_max, bytes_max };
        let mut durable = Durable::new(source, thread.handle(), changes).limited_to(limits);
        let (mut sizes, mut yielded) = (Vec::new(), 0);
        while let Some(result) = soon(durable.next()).await {
            let length = batch(Some(result)).items.len();
            (yielded, sizes) = (yielded + length, [sizes, vec![length]].concat());
            // What was handed on, and at most one batch that is gathered behind it.
            let next = want.get(sizes.len()).copied().unwrap_or_default();
            assert!(taken.load(Ordering::Relaxed) <= yielded + next, "{limits:?}: more was taken than may wait");
        }
        assert_eq!(sizes, want, "{limits:?}");
    }
}

#[tokio::test]
async fn an_item_that_changes_nothing_keeps_its_place() {
    let thread = started(memory());
    let events = [Event::Nothing(1), applied("a", 1), Event::Nothing(2), applied("a", 2), Event::Nothing(3)];
    let source = stream::iter(events.clone());
    let limits = Limits { items_max: 2, ..Limits::default() };
    let durable = Durable::new(source, thread.handle(), changes).limited_to(limits);
    let batches: Vec<_> = soon(durable.map(|yielded| batch(Some(yielded))).collect::<Vec<_>>()).await;
    assert_eq!(batches.iter().flat_map(|batch| batch.items.clone()).collect::<Vec<_>>(), events);
    let revisions: Vec<u64> = batches.iter().map(|batch| batch.update.revision.0).collect();
    assert_eq!(revisions, [1, 2, 2], "a batch that changes nothing commits nothing");
}

#[tokio::test]
async fn an_idle_source_is_waited_for_and_its_waker_wakes() {
    let thread = started(memory());
    let (send, source) = fed();
    let mut durable = Durable::new(source, thread.handle(), changes);
    // A real waker, not one that does nothing: the task below sleeps until the item comes.
    let consumer = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(yielded) = durable.next().await {
            seen.extend(batch(Some(yielded)).items);
        }
        seen
    });
    for version in 1..=3 {
        tokio::task::yield_now().await;
        send.send(applied("a", version)).unwrap();
    }
    drop(send);
    assert_eq!(soon(consumer).await.unwrap(), [1, 2, 3].map(|version| applied("a", version)));
}

#[tokio::test]
async fn a_dropped_next_loses_nothing() {
    let (store, mut gate) = gated();
    let thread = started(store);
    let (send, source) = fed();
    let mut durable = Durable::new(source, thread.handle(), changes);
    send.send(applied("a", 1)).unwrap();
    drop(durable.next());
    drop(durable.next().now_or_never());
    gate.entered().await;
    send.send(applied("b", 1)).unwrap();
    drop(durable.next().now_or_never());
    gate.open([Verdict::Pass; 2]);
    assert_eq!(names(&batch(soon(durable.next()).await).items), ["a"]);
    assert_eq!(names(&batch(soon(durable.next()).await).items), ["b"]);
}

#[tokio::test]
async fn dropped_in_the_middle_of_a_commit_it_takes_nothing_back() {
    let (store, mut gate) = gated();
    let thread = started(store);
    let mut durable = Durable::new(stream::iter([applied("a", 1), applied("b", 1)]), thread.handle(), changes)
        .limited_to(Limits { items_max: 1, ..Limits::default() });
    gate.open([Verdict::Pass]);
    let acknowledged = batch(soon(durable.next()).await);
    gate.entered().await;
    assert!(durable.next().now_or_never().is_none());
    gate.entered().await;
    drop(durable);
    gate.open([Verdict::Pass]);
    let snapshot = soon(thread.handle().snapshot()).await.unwrap();
    assert_eq!(names(&acknowledged.items), ["a"]);
    assert_eq!(bodies(snapshot.get()).len(), 2, "the commit goes through, and what was acknowledged is there");
}

#[tokio::test]
async fn a_failure_gives_back_all_that_was_not_handed_on() {
    for verdict in [Verdict::Refuse, Verdict::Break, Verdict::Panic, Verdict::PassAndPanic] {
        let (store, mut gate) = gated();
        let thread = started(store);
        let (send, mut source) = fed();
        let mut durable = Durable::new(&mut source, thread.handle(), changes);
        gate.open([Verdict::Pass]);
        send.send(applied("a", 1)).unwrap();
        assert_eq!(names(&batch(soon(durable.next()).await).items), ["a"]);
        gate.entered().await;
        send.send(applied("b", 1)).unwrap();
        send.send(Event::Nothing(1)).unwrap();
        assert!(durable.next().now_or_never().is_none(), "b is on its way");
        assert_eq!(gate.entered().await, 1);
        send.send(applied("c", 1)).unwrap();
        assert!(durable.next().now_or_never().is_none(), "c is gathered behind it");
        gate.open([verdict]);
        let NotDurable { error, items } = soon(durable.next()).await.unwrap().unwrap_err();
        assert_eq!(names(&items), ["b", "nothing", "c"], "{verdict:?}");
        match (verdict, &error) {
            (Verdict::Refuse, StoreError::NoKeyOpens) | (Verdict::Break, StoreError::Damaged { .. }) => {}
            (Verdict::Panic | Verdict::PassAndPanic, StoreError::Panicked) => {}
            (verdict, error) => panic!("{verdict:?}: {error:?}"),
        }
        send.send(applied("d", 1)).unwrap();
        assert!(soon(durable.next()).await.is_none() && soon(durable.next()).await.is_none(), "the stream has ended");
        assert!(gate.is_quiet(), "nothing is stored after a failure");

        // The owner opens the store anew and goes on where it was.
        drop(send);
        let thread = StoreThread::start(soon(thread.close()).await.unwrap(), || NOW).unwrap();
        gate.open([Verdict::Pass]);
        let durable = Durable::new(stream::iter(items).chain(source), thread.handle(), changes);
        let batches: Vec<_> = soon(durable.map(|yielded| batch(Some(yielded)).items).collect()).await;
        assert_eq!(batches.iter().map(|items| names(items)).collect::<Vec<_>>(), [["b", "nothing", "c", "d"]]);
        assert_eq!(bodies(soon(thread.handle().snapshot()).await.unwrap().get()).len(), 4, "{verdict:?}");
    }
}

#[test]
fn a_failure_says_what_is_wrong_and_shows_no_item() {
    let failed = NotDurable { error: StoreError::Panicked, items: vec![applied("canary", 1)] };
    assert_eq!(failed.to_string(), "the store failed; items of the source not known to be durable: 1");
    assert_eq!(failed.source().unwrap().to_string(), "the code of the store panicked, and the store must be reopened");
    assert!(!format!("{failed:?}").contains("canary"), "{failed:?}");
}

#[tokio::test]
async fn a_store_that_is_closed_ends_the_stream_with_an_error() {
    let thread = started(memory());
    let mut durable = Durable::new(stream::iter([applied("a", 1)]), thread.handle(), changes);
    drop(soon(thread.close()).await.unwrap());
    let failed = soon(durable.next()).await.unwrap().unwrap_err();
    assert!(matches!(failed.error, StoreError::Closed));
    assert_eq!(names(&failed.items), ["a"]);
}

#[tokio::test]
async fn a_listing_that_the_store_refuses_is_an_error_and_the_store_goes_on() {
    let thread = started(memory());
    let (send, mut source) = fed();
    let mut durable = Durable::new(&mut source, thread.handle(), changes);
    send.send(applied("a", 1)).unwrap();
    let _ = batch(soon(durable.next()).await);
    send.send(Event::EmptyListing).unwrap();
    let failed = soon(durable.next()).await.unwrap().unwrap_err();
    assert!(matches!(failed.error, StoreError::EmptyListing { stored: 1 }) && !failed.error.needs_reopening());
    let mut again = Durable::new(source, thread.handle(), changes);
    send.send(applied("b", 1)).unwrap();
    assert_eq!(names(&batch(soon(again.next()).await).items), ["b"]);
}
