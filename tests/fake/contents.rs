//! What the server has: its objects, their versions and history, and what watches are sent beside them.

use std::time::Duration;

use ckpt_db::checkpoint::object::Kind;
use serde_json::Value;

use super::faults::status_body;
use super::request::{Match, Verb};
use super::store::{Entry, Key, Store};
use super::{Server, answer, faults};

impl Server {
    // Objects

    /// Makes an object and returns it as a GET shows it. A UID that it has is kept.
    pub(crate) fn create(&self, kind: Kind, namespace: &str, name: &str, object: Value) -> Value {
        self.shared.change(|state| {
            let now = state.now();
            answer::on_the_wire(kind, &state.store.create(key(kind, namespace, name), object, &now))
        })
    }

    /// Puts another object in the place of one that exists; its UID and creationTimestamp stay.
    pub(crate) fn replace(&self, kind: Kind, namespace: &str, name: &str, object: Value) -> Value {
        self.shared.change(|state| {
            let now = state.now();
            answer::on_the_wire(kind, &state.store.replace(key(kind, namespace, name), object, &now))
        })
    }

    /// Replaces an object by an edited copy of itself.
    pub(crate) fn modify(&self, kind: Kind, namespace: &str, name: &str, edit: impl FnOnce(&mut Value)) -> Value {
        let mut object = self.object(kind, namespace, name).expect("an object that exists");
        edit(&mut object);
        self.replace(kind, namespace, name, object)
    }

    /// Deletes an object at once; a graceful deletion is a [`Server::modify`] of `deletionTimestamp` before.
    pub(crate) fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        self.shared.change(|state| state.store.delete(key(kind, namespace, name)));
    }

    /// An object as a GET shows it.
    pub(crate) fn object(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let key = key(kind, namespace, name);
        self.shared.read(|state| state.store.objects.get(&key).map(|object| answer::on_the_wire(kind, object)))
    }

    /// All objects of a kind, as GETs show them, by namespace and name.
    pub(crate) fn objects(&self, kind: Kind) -> Vec<Value> {
        self.shared.read(|state| {
            let of_kind = state.store.objects.iter().filter(|((other, ..), _)| *other == kind);
            of_kind.map(|(_, object)| answer::on_the_wire(kind, object)).collect()
        })
    }

    // Versions and history

    /// The resourceVersion of the latest write.
    pub(crate) fn resource_version(&self) -> u64 {
        self.shared.read(|state| state.store.version)
    }

    /// An etcd made anew from the same objects: same UIDs, other resourceVersions that end at `to`, no history. Cuts the
    /// connections that carry watches.
    pub(crate) fn set_resource_version(&self, to: u64) {
        self.restore(|store| store.renumber(to));
    }

    /// An etcd restored from a snapshot: objects, resourceVersion and history are those of `to`; what was compacted before
    /// stays so. Cuts the connections that carry watches.
    pub(crate) fn rewind(&self, to: u64) {
        self.restore(|store| store.rewind(to));
    }

    fn restore(&self, change: impl FnOnce(&mut Store)) {
        self.close_connections_after(|state| {
            change(&mut state.store);
            state.cached_at = None;
            // Any watch that is under way, whether or not it has been answered: none of the past may go on.
            let watches = state.log.iter().filter(|request| request.verb == Verb::Watch && request.open);
            watches.map(|request| request.connection).collect()
        });
    }

    /// From now on, nothing older than the present resourceVersion can be watched: 410.
    pub(crate) fn compact(&self) {
        self.shared.change(|state| state.store.compact());
    }

    /// The same, and what watches come across is forgotten, and the log of requests that are over, so that the server does not
    /// grow. Every open watch has to have seen all of it.
    pub(crate) fn forget_history(&self) {
        self.shared.change(|state| {
            state.store.compact();
            state.store.journal.forget();
            state.log.retain(|request| request.open || request.status.is_none());
        });
    }

    /// What is read at `resourceVersion=0` is what was there at this version: a cache that lags behind. With none: the
    /// latest.
    pub(crate) fn lag_cache(&self, at: Option<u64>) {
        self.shared.change(|state| state.cached_at = at);
    }

    // Streams

    /// A BOOKMARK of the present resourceVersion for all watches that are open and allow it.
    pub(crate) fn bookmark(&self) {
        self.shared.change(|state| {
            let version = state.store.version;
            state.store.journal.push(Entry::Bookmark { version });
        });
    }

    /// Puts a line into the streams of open watches, after what they have had so far. Returns how many those are.
    /// Lines are made by [`Server::event`] and [`error_event`]; any bytes will do.
    pub(crate) fn send(&self, to: &Match, line: Vec<u8>) -> usize {
        self.shared.change(|state| {
            let to = state.open_watches(to);
            let count = to.len();
            state.store.journal.push(Entry::Line { to, line });
            count
        })
    }

    /// An event about an object that exists, as a line: `event("DELETED", ...)` sent is a lie.
    pub(crate) fn event(&self, event: &str, kind: Kind, namespace: &str, name: &str) -> Vec<u8> {
        faults::event_line(event, &self.object(kind, namespace, name).expect("an object that exists"))
    }

    /// Ends open watches as if their `timeoutSeconds` had passed. Returns how many those are.
    pub(crate) fn end_watches(&self, of: &Match) -> usize {
        self.shared.change(|state| {
            let of = state.open_watches(of);
            let count = of.len();
            state.store.journal.push(Entry::End { of });
            count
        })
    }

    /// Moves the server's clock: watches end whose `timeoutSeconds` are over, pieces of a `Fault::Drip` are sent.
    pub(crate) fn advance(&self, by: Duration) {
        self.shared.change(|state| state.clock_ms += by.as_millis() as u64);
    }
}

/// An ERROR event with a `Status`, as a line for [`Server::send`].
pub(crate) fn error_event(code: u16, message: &str) -> Vec<u8> {
    faults::event_line("ERROR", &status_body(code, message, None, None))
}

fn key(kind: Kind, namespace: &str, name: &str) -> Key {
    assert_eq!(kind.row().namespaced, !namespace.is_empty(), "{kind} {name}: namespace {namespace:?}");
    (kind, namespace.to_owned(), name.to_owned())
}
