//! Whatever is handed on is in the store at that moment, and the store is just what was handed on: random events against a
//! map, read back at every step, with both backends.

use std::collections::BTreeMap;

use ckpt_db::agent::{Durable, Limits};
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::store::{Backend, NewStore, RedbStore};
use futures_util::{StreamExt as _, stream};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::support::*;

fn events() -> impl Strategy<Value = Vec<Event>> {
    let name = prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned);
    let event = prop_oneof![
        4 => (name.clone(), 1..4_u32).prop_map(|(name, version)| Event::Pod { name, version }),
        2 => name.prop_map(|name| Event::Gone { name }),
        1 => any::<u32>().prop_map(Event::Nothing),
    ];
    prop::collection::vec(event, 1..40)
}

/// Runs `events` through a durable stream; a consumer compares the store with a model at each step.
async fn run(store: Box<dyn Backend>, events: Vec<Event>, items_max: usize) -> Box<dyn Backend> {
    let thread = ckpt_db::agent::StoreThread::start(store, || NOW).unwrap();
    let store = thread.handle();
    let source = stream::iter(events.clone());
    let limits = Limits { items_max, ..Limits::default() };
    let mut durable = Durable::new(source, thread.handle(), changes).limited_to(limits);
    let (mut model, mut seen) = (BTreeMap::new(), Vec::new());
    while let Some(yielded) = soon(durable.next()).await {
        let batch = batch(Some(yielded));
        for event in &batch.items {
            match event {
                Event::Pod { name, version } => drop(model.insert(name.clone(), body(name, *version))),
                Event::Gone { name } => drop(model.remove(name)),
                Event::Nothing(_) | Event::EmptyListing => {}
            }
        }
        let snapshot = soon(store.snapshot()).await.unwrap();
        assert_eq!(snapshot.get().revision(), batch.update.revision);
        let want: Vec<_> = model.clone().into_iter().collect();
        assert_eq!(bodies(snapshot.get()), want, "{:?}", batch.items);
        seen.extend(batch.items);
    }
    assert_eq!(seen, events);
    soon(thread.close()).await.unwrap()
}

fn check(cases: u32, mut make: impl FnMut() -> Box<dyn Backend>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    // The closure of a runner may be called from anywhere, in principle.
    let make = std::cell::RefCell::new(&mut make);
    runner
        .run(&(events(), 1..8_usize), |(events, items_max)| {
            let store = (make.borrow_mut())();
            drop(runtime.block_on(run(store, events, items_max)));
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_consumer_of_the_memory_store_reads_back_what_it_was_given() {
    check(100, || Box::new(memory()));
}

#[test]
fn a_consumer_of_the_file_reads_back_what_it_was_given() {
    let directory = tempfile::tempdir().unwrap();
    let mut number = 0;
    check(15, || {
        number += 1;
        let path = directory.path().join(format!("{number}.db"));
        let new = NewStore { identity: identity(), secret: None };
        Box::new(RedbStore::create(&path, new, Box::new(SystemEntropy)).unwrap())
    });
}
