//! Following within this process, at a pace at which nothing is waited for: what the program does between its command line and
//! its files, with every layer but those.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ckpt_db::agent::{
    Batch, Compaction, Departed, FollowError, Following, Idle, KeySlots, Look, Observer, Shared, Status, StoreThread,
    follow,
};
use ckpt_db::checkpoint::object::{Kind, Object};
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::source::api::collect::Step;
use ckpt_db::source::api::connect::Limits;
use ckpt_db::source::api::credentials::Place;
use ckpt_db::source::api::feed::Told;
use ckpt_db::source::api::pace::Pace;
use ckpt_db::source::api::tracker::ObjectRefresh;
use ckpt_db::store::{Committed, NewStore, RedbStore};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::common::{identity, secret};
use crate::fake::Server;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

const NEVER: Duration = Duration::from_secs(60 * 60);

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// What is durable, as far as it was told.
#[derive(Default)]
struct Seen {
    /// The resourceVersion of each object; none of one that is gone.
    versions: HashMap<(Kind, String), String>,
    batches: usize,
    listings: usize,
}

#[derive(Default)]
struct Durably {
    seen: Mutex<Seen>,
    more: Condvar,
}

impl Durably {
    fn note(&self, batch: &Batch<Told>) {
        let mut seen = self.seen.lock().unwrap();
        seen.batches += 1;
        let is = |seen: &mut Seen, object: &Object| {
            let key = (object.key.kind(), object.key.name().to_owned());
            seen.versions.insert(key, object.resource_version.clone());
        };
        for told in &batch.items {
            let Told::Step(step) = told else { continue };
            match step {
                Step::Listing { pods, .. } => {
                    seen.listings += 1;
                    for gathered in pods {
                        is(&mut seen, &gathered.pod);
                        gathered.with.iter().for_each(|object| is(&mut seen, object));
                    }
                }
                Step::Pod(gathered) => {
                    is(&mut seen, &gathered.pod);
                    gathered.with.iter().for_each(|object| is(&mut seen, object));
                }
                Step::Object(object) | Step::Node(object) => is(&mut seen, object),
                Step::PodGone { key, .. } => {
                    // What only it named goes with it; nothing else is named as it is.
                    Kind::ALL.iter().for_each(|kind| drop(seen.versions.remove(&(*kind, key.name().to_owned()))));
                }
                Step::ObjectAbsent { key, .. } => {
                    seen.versions.remove(&(key.kind(), key.name().to_owned()));
                }
                Step::Services { .. } => {}
            }
        }
        drop(seen);
        self.more.notify_all();
    }
}

struct Noting(Arc<Durably>);

impl Observer for Noting {
    fn status(&mut self, _: &Status) {}

    fn committed(&mut self, batch: &Committed<Batch<Told>>, _: Look<'_>) {
        self.0.note(batch.get());
    }

    fn tick(&mut self, _: Look<'_>) {}
}

/// Follows into a store in a file, until it is dropped.
pub(crate) struct Follower {
    told: Arc<Durably>,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<thread::JoinHandle<Option<FollowError>>>,
}

impl Follower {
    pub(crate) fn start(server: &Server, directory: &Path) -> Self {
        let key = secret();
        let identity = store_format::Identity { node_name: "node-1".to_owned(), ..identity() };
        let new = NewStore { identity, secret: Some(&key) };
        let store = RedbStore::create(&directory.join("store.db"), new, Box::new(SystemEntropy)).unwrap();
        let idle = Idle { compaction: Compaction::in_a_hurry(), failed: Box::new(|error| panic!("{error}")) };
        let store = StoreThread::start_compacting(Box::new(store), now_ms, idle).unwrap();
        let mut following = Following {
            place: Place::Explicit(server.kubeconfig(directory)),
            node_name: None,
            host_name: "localhost".to_owned(),
            refresh: ObjectRefresh::Watch,
            pace: Pace {
                spread: Duration::ZERO,
                patience: NEVER,
                watch: NEVER,
                poll: Duration::from_millis(50),
                services: NEVER,
                retry_first: Duration::from_millis(2),
                retry_longest: Duration::from_millis(10),
                forbidden_longest: Duration::from_millis(10),
                credentials: Duration::from_millis(50),
                requests: Limits::default(),
            },
            clock: || now_ms() / 1000,
            newest_stored_at_unix_s: 0,
            departed: Departed::Remove,
            shared: Arc::new(Shared::default()),
            keys: KeySlots::none(),
        };
        let told = Arc::<Durably>::default();
        let (stop, stopped) = oneshot::channel();
        let noting = Arc::clone(&told);
        let ended = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let handle = store.handle();
                let mut noting = Noting(noting);
                let ended = tokio::select! {
                    _ = stopped => None,
                    ended = follow(&handle, &mut following, &mut noting) => match ended {
                        Ok(never) => match never {},
                        Err(error) => Some(error),
                    },
                };
                drop(handle);
                drop(store.close().await);
                ended
            })
        });
        Self { told, stop: Some(stop), ended: Some(ended) }
    }

    /// Waits until each of these is durable as it is here, or is gone where there is none.
    #[track_caller]
    pub(crate) fn until(&self, wanted: &HashMap<(Kind, String), Option<Value>>) {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = self.told.seen.lock().unwrap();
        let lacks = |seen: &Seen| {
            let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().map(str::to_owned);
            let fits = |(key, object): &(&(Kind, String), &Option<Value>)| {
                seen.versions.get(*key).cloned() == object.as_ref().and_then(version)
            };
            wanted.iter().find(|row| !fits(row)).map(|(key, _)| key.clone())
        };
        while let Some(key) = lacks(&seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {key:?}");
            seen = self.told.more.wait_timeout(seen, left.min(Duration::from_secs(1))).unwrap().0;
        }
    }

    /// How many transactions were told.
    pub(crate) fn batches(&self) -> usize {
        self.told.seen.lock().unwrap().batches
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Ok(Some(error))) = self.ended.take().map(thread::JoinHandle::join)
            && !thread::panicking()
        {
            panic!("following ended: {error}");
        }
    }
}
