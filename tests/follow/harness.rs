//! A cluster of one node, and the agent that follows it within this process.
//!
//! The agent runs on threads of its own. A test does something to the server, and waits for what the agent tells: a status,
//! a committed batch, or the store as it should be. No test waits for time to pass; a wait that is in vain ends the test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ckpt_db::agent::{
    Batch, Departed, FollowError, Following, KeySlots, Look, Observer, Status, StoreHandle, StoreThread, follow,
};
use ckpt_db::checkpoint::closure::references;
use ckpt_db::checkpoint::lookup::{Lookup, Objects as _};
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::crypto::{SystemEntropy, generate_p256_pkcs8};
use ckpt_db::source::api::body;
use ckpt_db::source::api::collect::Step;
use ckpt_db::source::api::connect::Limits;
use ckpt_db::source::api::credentials::Place;
use ckpt_db::source::api::feed::{Note, Told};
use ckpt_db::source::api::pace::Pace;
use ckpt_db::source::api::tracker::ObjectRefresh;
use ckpt_db::store::{
    Backend, Change, Committed, LockState, MemoryStore, SlotsKept, SlotsWanted, Snapshot, StoreError, Update,
};
use serde_json::{Value, json};
use store_format::{Identity, StoreId, Unlocker};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::fake::{Fault, Match, Options, Server, Times};
use crate::held::not_held;

pub(crate) const NODE: &str = "node-1";

/// After this long a wait is in vain.
const DEADLINE: Duration = Duration::from_secs(60);

/// Longer than any test takes.
pub(crate) const NEVER: Duration = Duration::from_secs(60 * 60);

/// Retries at once. What happens rarely does not happen in a test that does not ask for it.
pub(crate) fn pace() -> Pace {
    Pace {
        spread: Duration::ZERO,
        patience: NEVER,
        watch: NEVER,
        poll: Duration::from_millis(50),
        services: NEVER,
        retry_first: Duration::from_millis(5),
        retry_longest: Duration::from_millis(40),
        forbidden_longest: Duration::from_millis(40),
        credentials: Duration::from_millis(50),
        requests: Limits::default(),
    }
}

/// A server with this node's Node and the Service that each cluster has, and the node's credentials.
pub(crate) struct Cluster {
    pub(crate) server: Server,
    directory: tempfile::TempDir,
    kubeconfig: PathBuf,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let server = Server::start(options);
        server.create(Kind::Node, "", NODE, json!({"status": {"nodeInfo": {"kubeletVersion": "v1.37.0"}}}));
        server.create(Kind::Service, "default", "kubernetes", json!({"spec": {"clusterIP": "10.96.0.1"}}));
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = server.kubeconfig(directory.path());
        Self { server, directory, kubeconfig }
    }

    /// Makes a pod of this node.
    pub(crate) fn pod(&self, name: &str, names: &[Named]) {
        self.server.create(Kind::Pod, "shop", name, pod(names));
    }

    pub(crate) fn secret(&self, name: &str, value: &str) {
        self.server.create(Kind::Secret, "shop", name, secret(value));
    }

    pub(crate) fn config_map(&self, name: &str, value: &str) {
        self.server.create(Kind::ConfigMap, "shop", name, json!({"data": {"key": value}}));
    }

    /// Changes something that no reader of the object cares for.
    pub(crate) fn touch(&self, kind: Kind, name: &str, value: &str) {
        let annotate = |object: &mut Value| object["metadata"]["annotations"]["touched"] = json!(value);
        self.server.modify(kind, "shop", name, annotate);
    }

    /// Moves the resourceVersion on by something that is no business of the node.
    pub(crate) fn happen_elsewhere(&self, count: usize) {
        for n in 0..count {
            let name = format!("elsewhere-{}-{n}", self.server.resource_version());
            self.server.create(Kind::Pod, "shop", &name, json!({"spec": {"nodeName": "node-2", "containers": []}}));
        }
    }

    /// The API server does not answer for a moment.
    pub(crate) fn is_away(&self) {
        self.server.fault(pods_listing(), Fault::status(503), Times::Once);
        self.server.close_connections();
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the store has to hold: the pods of this node, what they name, and its Node, each as the server has it.
    pub(crate) fn truth(&self) -> Contents {
        let mut truth = Contents::new();
        if let Some(node) = self.server.object(Kind::Node, "", NODE) {
            truth.insert(format!("Node {NODE}"), text(&as_stored(Kind::Node, &node)));
        }
        for pod in self.server.objects(Kind::Pod).iter().filter(|pod| pod["spec"]["nodeName"] == NODE) {
            let pod = as_stored(Kind::Pod, pod);
            for named in references(&pod).unwrap() {
                let (kind, namespace, name) = (named.key.kind(), named.key.namespace(), named.key.name());
                if let Some(object) = self.server.object(kind, namespace, name) {
                    truth.insert(named.key.to_string(), text(&as_stored(kind, &object)));
                }
            }
            truth.insert(pod.key.to_string(), text(&pod));
        }
        truth
    }

    /// Starts to follow into an empty store in memory, and waits until that is what the server has.
    pub(crate) async fn followed(&self) -> Agent {
        self.followed_at(pace()).await
    }

    pub(crate) async fn followed_at(&self, pace: Pace) -> Agent {
        let mut agent = Agent::start(memory(), Following { pace, ..self.following() });
        // The last thing that it comes to know by itself.
        let service = |snapshot: &Snapshot| !snapshot.all(Kind::Service).is_empty();
        agent.until("the Service to be stored", service).await;
        agent.in_step(self).await;
        agent
    }

    pub(crate) fn following(&self) -> Following {
        Following {
            place: Place::Explicit(self.kubeconfig()),
            node_name: None,
            host_name: "localhost".to_owned(),
            refresh: ObjectRefresh::Watch,
            pace: pace(),
            clock: || now_ms() / 1000,
            newest_stored_at_unix_s: 0,
            departed: Departed::Remove,
            shared: std::sync::Arc::default(),
            keys: KeySlots::none(),
        }
    }
}

/// What a pod names.
#[derive(Clone, Copy)]
pub(crate) enum Named {
    Secret(&'static str),
    ConfigMap(&'static str),
}

/// A running pod of this node.
pub(crate) fn pod(names: &[Named]) -> Value {
    let volume = |named: &Named| match named {
        Named::Secret(name) => json!({"name": name, "secret": {"secretName": name}}),
        Named::ConfigMap(name) => json!({"name": name, "configMap": {"name": name}}),
    };
    json!({
        "spec": {
            "nodeName": NODE,
            "containers": [{"name": "c", "image": "registry.example/app:1"}],
            "volumes": names.iter().map(volume).collect::<Vec<_>>(),
        },
        "status": {"phase": "Running"},
    })
}

pub(crate) fn secret(value: &str) -> Value {
    json!({"data": {"password": data_encoding::BASE64.encode(value.as_bytes())}, "type": "Opaque"})
}

pub(crate) fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "shop", name).unwrap()
}

/// Requests for an object by its name.
pub(crate) fn of_object(kind: Kind, name: &str) -> Match {
    let name = name.to_owned();
    Match::when(move |request| request.kind == Some(kind) && request.name.as_ref() == Some(&name))
}

/// The listing of this node's pods.
pub(crate) fn pods_listing() -> Match {
    Match::list(Kind::Pod).unnamed()
}

/// Objects by `Kind namespace/name`, as they are stored.
pub(crate) type Contents = BTreeMap<String, String>;

fn as_stored(kind: Kind, object: &Value) -> Object {
    body::object(object.to_string().as_bytes(), kind).unwrap()
}

fn text(object: &Object) -> String {
    String::from_utf8(object.body.expose().to_vec()).unwrap()
}

pub(crate) fn contents(snapshot: &Snapshot) -> Contents {
    // Services are looked at once an hour, in a test once.
    let followed = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Service);
    let objects = followed.flat_map(|kind| snapshot.all(kind));
    objects.map(|object| (object.key.to_string(), text(&object))).collect()
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

pub(crate) fn identity() -> Identity {
    Identity::new(StoreId([7; 16]), now_ms(), NODE)
}

pub(crate) fn keyless() -> Box<dyn Backend> {
    Box::new(MemoryStore::new(identity(), Box::new(SystemEntropy)).unwrap())
}

/// An empty store with a key.
pub(crate) fn memory() -> Box<dyn Backend> {
    let mut store = keyless();
    let secret = node_secret();
    let wanted = SlotsWanted { add: &[&secret], ..SlotsWanted::default() };
    let _durable = store.keep_slots(&wanted, now_ms()).unwrap();
    store
}

pub(crate) fn node_secret() -> Unlocker {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    ckpt_db::keys::write_generated(&path, &generate_p256_pkcs8().unwrap()).unwrap();
    ckpt_db::keys::load(&path).unwrap().secret.into()
}

/// What the agent told.
pub(crate) enum Heard {
    Status(Status),
    Batch(Committed<Batch<Told>>),
    /// What the store did not hold of a batch.
    NotHeld(Vec<String>),
}

/// An agent that follows. Ends with this.
pub(crate) struct Agent {
    pub(crate) store: StoreHandle,
    thread: Option<StoreThread>,
    heard: mpsc::UnboundedReceiver<Heard>,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<thread::JoinHandle<Option<FollowError>>>,
    /// What has been told so far and looked at by the test.
    statuses: Vec<Status>,
    /// What was deleted by the batches among it.
    removed: Vec<ObjectKey>,
}

struct Forwarder(mpsc::UnboundedSender<Heard>);

impl Observer for Forwarder {
    fn status(&mut self, status: &Status) {
        let _ = self.0.send(Heard::Status(status.clone()));
    }

    fn committed(&mut self, batch: &Committed<Batch<Told>>, look: Look<'_>) {
        let problems = match look() {
            Ok(snapshot) => not_held(batch.get(), snapshot.get()),
            Err(error) => vec![error.to_string()],
        };
        if !problems.is_empty() {
            let _ = self.0.send(Heard::NotHeld(problems));
        }
        let _ = self.0.send(Heard::Batch(batch.clone()));
    }

    fn tick(&mut self, _: Look<'_>) {}
}

impl Agent {
    pub(crate) fn start(store: Box<dyn Backend>, mut following: Following) -> Self {
        let thread = StoreThread::start(store, now_ms).unwrap();
        let (handle, store) = (thread.handle(), thread.handle());
        let (say, heard) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let ended = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let mut observer = Forwarder(say);
                tokio::select! {
                    _ = stopped => None,
                    ended = follow(&handle, &mut following, &mut observer) => match ended {
                        Ok(never) => match never {},
                        Err(error) => Some(error),
                    },
                }
            })
        });
        Self {
            store,
            thread: Some(thread),
            heard,
            stop: Some(stop),
            ended: Some(ended),
            statuses: Vec::new(),
            removed: Vec::new(),
        }
    }

    fn take_down(&mut self, heard: &Heard) {
        match heard {
            Heard::Status(status) => self.statuses.push(status.clone()),
            Heard::Batch(batch) => self.removed.extend(batch.get().update.removed.iter().cloned()),
            Heard::NotHeld(problems) => panic!("told before it was durable: {problems:#?}"),
        }
    }

    fn take_down_all(&mut self) {
        while let Ok(heard) = self.heard.try_recv() {
            self.take_down(&heard);
        }
    }

    /// The next thing that the agent tells.
    async fn next(&mut self, waiting_for: &str) -> Heard {
        let heard = match timeout(DEADLINE, self.heard.recv()).await {
            Ok(Some(heard)) => heard,
            Ok(None) => panic!("the agent ended: {:?}", self.ended.take().unwrap().join()),
            Err(_) => panic!("waited in vain for {waiting_for}; told so far: {}", self.told()),
        };
        self.take_down(&heard);
        heard
    }

    fn told(&self) -> String {
        self.statuses.iter().map(|status| format!("\n  {status}")).collect()
    }

    /// The next batch with such a step; statuses and other batches before it are passed over.
    pub(crate) async fn batch(&mut self, what: &str, fits: impl Fn(&Step) -> bool) -> Batch<Told> {
        loop {
            if let Heard::Batch(batch) = self.next(what).await
                && steps(batch.get()).any(&fits)
            {
                return batch.into_inner();
            }
        }
    }

    /// The next status that fits; what is told before it is passed over.
    pub(crate) async fn status<T>(&mut self, what: &str, fits: impl Fn(&Status) -> Option<T>) -> T {
        loop {
            if let Heard::Status(status) = self.next(what).await
                && let Some(found) = fits(&status)
            {
                return found;
            }
        }
    }

    /// The next listing that is durable: the agent is back.
    pub(crate) async fn listed(&mut self) -> Batch<Told> {
        self.batch("a listing", |step| matches!(step, Step::Listing { .. })).await
    }

    /// Waits until the store is as `wanted` says, which looks at it after everything that is told.
    pub(crate) async fn until(&mut self, what: &str, mut wanted: impl FnMut(&Snapshot) -> bool) {
        self.until_or(what, |snapshot| if wanted(snapshot) { Ok(()) } else { Err(String::new()) }).await;
    }

    async fn until_or(&mut self, what: &str, mut wanted: impl FnMut(&Snapshot) -> Result<(), String>) {
        loop {
            // Everything that was told before is no news, once the store itself is looked at.
            self.take_down_all();
            let snapshot = self.snapshot().await;
            let Err(why) = wanted(&snapshot) else { return };
            self.next(&format!("{what} ({why})")).await;
        }
    }

    /// Waits until the store holds what the server has, byte for byte, and no more.
    pub(crate) async fn in_step(&mut self, cluster: &Cluster) {
        self.until_or("the store to be in step", |snapshot| {
            let (truth, stored) = (cluster.truth(), contents(snapshot));
            if stored == truth { Ok(()) } else { Err(differences(&truth, &stored)) }
        })
        .await;
    }

    /// Returns when everything that was doubted before is settled: one is asked for after the other, and the last is a pod
    /// that comes and goes.
    pub(crate) async fn doubts_are_settled(&mut self, cluster: &Cluster) {
        cluster.pod("passing", &[]);
        let passing = key(Kind::Pod, "passing");
        self.until("the passing pod", |snapshot| matches!(snapshot.get(&passing), Lookup::Found(_))).await;
        cluster.server.delete(Kind::Pod, "shop", "passing");
        self.batch("its end", |step| matches!(step, Step::PodGone { key, .. } if *key == passing)).await;
        self.removed.retain(|key| *key != passing);
    }

    pub(crate) async fn snapshot(&self) -> Snapshot {
        timeout(DEADLINE, self.store.snapshot()).await.expect("the store answers").unwrap().into_inner()
    }

    pub(crate) async fn contents(&self) -> Contents {
        contents(&self.snapshot().await)
    }

    /// How many commits changed something.
    pub(crate) async fn revision(&self) -> u64 {
        self.snapshot().await.revision().0
    }

    pub(crate) async fn lookup(&self, kind: Kind, name: &str) -> Lookup {
        self.snapshot().await.get(&key(kind, name))
    }

    /// Everything that was told so far.
    pub(crate) fn statuses(&mut self) -> &[Status] {
        self.take_down_all();
        &self.statuses
    }

    /// Every object that was deleted so far.
    pub(crate) fn removed(&mut self) -> &[ObjectKey] {
        self.take_down_all();
        &self.removed
    }

    pub(crate) fn notes(&mut self) -> Vec<Note> {
        let notes = self.statuses().iter().filter_map(|status| match status {
            Status::Note(note) => Some(note.clone()),
            _ => None,
        });
        notes.collect()
    }

    /// Waits for the end that following comes to by itself.
    pub(crate) async fn ended(mut self) -> (FollowError, Box<dyn Backend>) {
        while timeout(DEADLINE, self.heard.recv()).await.expect("it ends by itself").is_some() {}
        let error = self.ended.take().unwrap().join().unwrap().expect("it ended by itself");
        (error, self.thread.take().unwrap().close().await.unwrap())
    }

    /// Ends it; what it stored is handed back.
    pub(crate) async fn stop(mut self) -> Box<dyn Backend> {
        self.halt();
        self.thread.take().unwrap().close().await.unwrap()
    }

    fn halt(&mut self) {
        drop(self.stop.take());
        if let Some(ended) = self.ended.take() {
            let _ = ended.join();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.halt();
    }
}

pub(crate) fn steps(batch: &Batch<Told>) -> impl Iterator<Item = &Step> {
    batch.items.iter().filter_map(|told| match told {
        Told::Step(step) => Some(step),
        Told::Reach(_) | Told::Note(_) => None,
    })
}

/// Names alone: bodies would fill the screen.
fn differences(truth: &Contents, stored: &Contents) -> String {
    let lacks: Vec<_> = truth.keys().filter(|key| !stored.contains_key(*key)).collect();
    let too_much: Vec<_> = stored.keys().filter(|key| !truth.contains_key(*key)).collect();
    let differ = truth.iter().filter(|(key, body)| stored.get(*key).is_some_and(|stored| stored != *body));
    let differ: Vec<_> = differ.map(|(key, _)| key).collect();
    format!("lacks {lacks:?}, has too much {too_much:?}, differs in {differ:?}")
}

/// A store whose commits wait while its gate is closed.
pub(crate) struct Gated {
    inner: Box<dyn Backend>,
    gate: Arc<Gate>,
}

#[derive(Default)]
pub(crate) struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn close(&self) {
        *self.closed.lock().unwrap() = true;
    }

    pub(crate) fn open(&self) {
        *self.closed.lock().unwrap() = false;
        self.opened.notify_all();
    }
}

impl Gated {
    pub(crate) fn new(inner: Box<dyn Backend>) -> (Self, Arc<Gate>) {
        let gate = Arc::<Gate>::default();
        (Self { inner, gate: Arc::clone(&gate) }, gate)
    }
}

impl Backend for Gated {
    fn identity(&self) -> &Identity {
        self.inner.identity()
    }

    fn lock_state(&self) -> LockState {
        self.inner.lock_state()
    }

    fn update(&mut self, changes: Vec<Change>, now_unix_ms: u64) -> Result<Committed<Update>, StoreError> {
        drop(self.gate.opened.wait_while(self.gate.closed.lock().unwrap(), |closed| *closed).unwrap());
        self.inner.update(changes, now_unix_ms)
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
