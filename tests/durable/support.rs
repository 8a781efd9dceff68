//! Backends that do as a test tells them, and pods to store.

use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;

use ckpt_db::agent::{Batch, NotDurable, StoreThread};
use ckpt_db::checkpoint::lookup::{Lookup, Objects as _};
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::store::{
    Backend, Change, Committed, LockState, MemoryStore, Missing, SlotsKept, SlotsWanted, Snapshot, StoreError, Update,
};
use futures_util::stream::{self, Stream};
use store_format::{Identity, StoreId};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub(crate) const NOW: u64 = 1_700_000_000_000;

pub(crate) fn identity() -> Identity {
    Identity::new(StoreId([7; 16]), NOW, "edge-1")
}

pub(crate) fn memory() -> MemoryStore {
    MemoryStore::new(identity(), Box::new(SystemEntropy)).unwrap()
}

pub(crate) fn started(store: impl Backend + 'static) -> StoreThread {
    StoreThread::start(Box::new(store), || NOW).unwrap()
}

/// A hang becomes a failure. No test waits for this time to pass.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it hangs")
}

/// What a test's stream carries: a pod that exists in some version, or is gone, or nothing that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Pod {
        name: String,
        version: u32,
    },
    Gone {
        name: String,
    },
    Nothing(u32),
    /// A listing that the store refuses if it holds any pod.
    EmptyListing,
}

pub(crate) fn applied(name: impl Into<String>, version: u32) -> Event {
    Event::Pod { name: name.into(), version }
}

pub(crate) fn key(name: &str) -> ObjectKey {
    ObjectKey::new(Kind::Pod, "default", name).unwrap()
}

pub(crate) fn body(name: &str, version: u32) -> String {
    serde_json::json!({
        "metadata": {"namespace": "default", "name": name, "uid": "u"},
        "spec": {"containers": [{"name": "c", "image": format!("registry.example/app:{version}")}]},
    })
    .to_string()
}

pub(crate) fn changes(event: &Event) -> Vec<Change> {
    match event {
        Event::Pod { name, version } => {
            let body = body(name, *version).into();
            let object = Object { key: key(name), uid: "u".to_owned(), resource_version: String::new(), body };
            vec![Change::Apply { object, with: Vec::new() }]
        }
        Event::Gone { name } => vec![Change::Delete { key: key(name), uid: "u".to_owned() }],
        Event::Nothing(_) => Vec::new(),
        Event::EmptyListing => {
            vec![Change::Reset { objects: Vec::new(), kinds: vec![Kind::Pod], missing: Missing::Delete }]
        }
    }
}

/// The body of every stored pod, by name.
pub(crate) fn bodies(snapshot: &Snapshot) -> Vec<(String, String)> {
    let names = snapshot.objects().map(|object| object.key.name().to_owned());
    names
        .map(|name| match snapshot.get(&key(&name)) {
            Lookup::Found(object) => (name, String::from_utf8(object.body.expose().to_vec()).unwrap()),
            _ => panic!("{name} is listed and not readable"),
        })
        .collect()
}

/// A stream that a test feeds.
pub(crate) fn fed<T>() -> (UnboundedSender<T>, impl Stream<Item = T> + Unpin) {
    let (sender, mut receiver) = unbounded_channel();
    (sender, stream::poll_fn(move |context| receiver.poll_recv(context)))
}

pub(crate) type Yielded = Option<Result<Committed<Batch<Event>>, NotDurable<Event>>>;

/// The next batch, which there must be.
#[track_caller]
pub(crate) fn batch(yielded: Yielded) -> Batch<Event> {
    yielded.expect("the stream has not ended").expect("the store has not failed").into_inner()
}

pub(crate) fn names(events: &[Event]) -> Vec<&str> {
    events
        .iter()
        .map(|event| match event {
            Event::Pod { name, .. } | Event::Gone { name } => name.as_str(),
            Event::Nothing(_) => "nothing",
            Event::EmptyListing => "empty",
        })
        .collect()
}

/// How a call of a [`Gated`] store ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    Pass,
    /// Nothing is written, and the store is as good as before.
    Refuse,
    /// Nothing is written, but says that nobody knows.
    Break,
    /// It is written, and then the code panics.
    PassAndPanic,
    Panic,
}

/// A store whose updates wait until the test lets them through.
pub(crate) struct Gated {
    inner: MemoryStore,
    entered: UnboundedSender<usize>,
    verdicts: mpsc::Receiver<Verdict>,
}

/// The test's side of a [`Gated`] store.
pub(crate) struct Gate {
    entered: UnboundedReceiver<usize>,
    verdicts: mpsc::Sender<Verdict>,
}

impl Gate {
    /// Waits until an update stands at the gate; with how many changes.
    pub(crate) async fn entered(&mut self) -> usize {
        soon(self.entered.recv()).await.expect("the store is there")
    }

    /// Whether no update has come since the last that was seen.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.entered.try_recv().is_err()
    }

    /// Waits until the store is closed.
    pub(crate) async fn is_gone(&mut self) {
        assert_eq!(soon(self.entered.recv()).await, None);
    }

    /// Lets as many updates through, now or when they come.
    pub(crate) fn open(&self, verdicts: impl IntoIterator<Item = Verdict>) {
        verdicts.into_iter().for_each(|verdict| self.verdicts.send(verdict).unwrap());
    }
}

pub(crate) fn gated() -> (Gated, Gate) {
    let (say, entered) = unbounded_channel();
    let (verdicts, wait) = mpsc::channel();
    (Gated { inner: memory(), entered: say, verdicts: wait }, Gate { entered, verdicts })
}

impl Backend for Gated {
    fn identity(&self) -> &Identity {
        self.inner.identity()
    }

    fn lock_state(&self) -> LockState {
        self.inner.lock_state()
    }

    fn update(&mut self, changes: Vec<Change>, now_unix_ms: u64) -> Result<Committed<Update>, StoreError> {
        let _ = self.entered.send(changes.len());
        // A test that has ended opens no gate any more.
        match self.verdicts.recv().unwrap_or(Verdict::Refuse) {
            Verdict::Pass => self.inner.update(changes, now_unix_ms),
            Verdict::Refuse => Err(StoreError::NoKeyOpens),
            Verdict::Break => {
                Err(StoreError::Damaged { path: "memory".into(), what: "as the test wants it".to_owned() })
            }
            Verdict::PassAndPanic => {
                let _durable = self.inner.update(changes, now_unix_ms)?;
                panic!("as the test wants it, after the commit")
            }
            Verdict::Panic => panic!("as the test wants it"),
        }
    }

    fn keep_slots(&mut self, wanted: &SlotsWanted<'_>, now_unix_ms: u64) -> Result<Committed<SlotsKept>, StoreError> {
        self.inner.keep_slots(wanted, now_unix_ms)
    }

    fn image(&self) -> Result<Vec<u8>, StoreError> {
        self.inner.image()
    }

    fn snapshot(&self) -> Result<Committed<Snapshot>, StoreError> {
        self.inner.snapshot()
    }
}
