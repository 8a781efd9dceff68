//! A small API server of our own, for faults that a real one can't be made to show.
//!
//! [`Server::start`] serves TLS and HTTP/2 on a port of 127.0.0.1, from a store in memory, with the semantics of
//! kube-apiserver in what this project uses of it: get, list and watch of five kinds, the Node authorizer, client
//! certificates. Tests write to the store, set [`Fault`]s for requests that a [`Match`] picks, and read the log.
//!
//! Nothing in it depends on how long something takes. It has a thread and a runtime of its own, so a test may pause the
//! clock of its runtime (see [`clock`]); its own clock, for `timeoutSeconds` and [`Fault::Drip`], moves by
//! [`Server::advance`] alone. Only certificates are judged by the real time. Except for the `wait_` functions no handle is
//! async, and each returns when what it does is done.
//!
//! It does not do: writing, label selectors, WatchList, other encodings than JSON, compression, HTTP/1.1.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

mod answer;
mod authorize;
mod body;
mod certificates;
pub(crate) mod clock;
mod faults;
mod request;
mod store;
mod watch;
mod wire;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use ckpt_db::checkpoint::object::Kind;
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio::sync::{oneshot, watch as channel};
use tokio::task::JoinHandle;

pub(crate) use certificates::{ClientCertificate, Rotation, Validity};
#[allow(unused_imports, reason = "each test program uses a part of it")]
pub(crate) use faults::{Broken, CANARY, End, Fault, Times};
pub(crate) use request::{Match, Request, Verb};

use certificates::{Credentials, Login};
use faults::{Faults, status_body};
use store::{Entry, Key, Store};
use wire::{Connections, Gate};

/// After this long a test that waits for the agent to do something has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// How the server behaves; can be changed while it runs.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Whose credentials it issues.
    pub(crate) node_name: String,
    /// Whether the Node authorizer is on. If not, whoever is recognised may read everything.
    pub(crate) node_authorizer: bool,
    /// Whether listing and watching Secrets and ConfigMaps is forbidden, as the Role of the predecessor has it.
    pub(crate) get_only: bool,
    /// SETTINGS_MAX_CONCURRENT_STREAMS of new connections.
    pub(crate) streams_per_connection: u32,
    /// How a watch is refused that would start too far back.
    pub(crate) gone: Gone,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node_name: "node-1".to_owned(),
            node_authorizer: true,
            get_only: false,
            streams_per_connection: 100,
            gone: Gone::Event,
        }
    }
}

/// How 410 is said to a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// As the answer's status.
    Status,
    /// As an ERROR event in an answer with status 200, which then ends: what current API servers do.
    Event,
}

/// A running server. It ends with all its connections when this is dropped.
pub(crate) struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    runtime: tokio::runtime::Handle,
    listening: Mutex<Listening>,
    quit: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// One of both: the port is held all the time.
struct Listening {
    reserved: Option<TcpSocket>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens when this returns. There is nothing in the store, and one client certificate is issued.
    pub(crate) fn start(options: Options) -> Self {
        let mut credentials = Credentials::new();
        credentials.issue(&format!("system:node:{}", options.node_name), "system:nodes", Validity::now());
        let shared = Arc::new(Shared::new(options, credentials));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (quit, told) = oneshot::channel();
        let thread = thread::spawn(move || {
            let _ = runtime.block_on(told);
        });
        let socket = wire::reserve(wire::any_port());
        let address = socket.local_addr().unwrap();
        let server = Self {
            shared,
            address,
            runtime: handle,
            listening: Mutex::new(Listening { reserved: Some(socket), accepting: None }),
            quit: Some(quit),
            thread: Some(thread),
        };
        server.listen();
        server
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set_options(&self, change: impl FnOnce(&mut Options)) {
        self.shared.change(|state| change(&mut state.options));
    }

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

    /// Moves the server's clock: watches end whose `timeoutSeconds` are over, pieces of a [`Fault::Drip`] are sent.
    pub(crate) fn advance(&self, by: Duration) {
        self.shared.change(|state| state.clock_ms += by.as_millis() as u64);
    }

    // Faults

    /// Of the faults that are set and fit a request, the one that was set first strikes.
    pub(crate) fn fault(&self, on: Match, fault: Fault, times: Times) {
        self.shared.change(|state| state.faults.set(on, fault, times));
    }

    /// No further faults. What has already been struck stays so.
    pub(crate) fn clear_faults(&self) {
        self.shared.change(|state| state.faults.clear());
    }

    // Connections

    /// A silent peer: the kernel takes connections and bytes, and nobody answers.
    pub(crate) fn pause(&self) {
        self.shared.gate.close();
    }

    pub(crate) fn resume(&self) {
        self.shared.gate.open();
    }

    /// Connections are refused, and those that there are have ended when this returns. The port stays ours.
    pub(crate) fn stop(&self) {
        let mut listening = self.listening.lock().unwrap();
        let Some(accepting) = listening.accepting.take() else { return };
        accepting.abort();
        self.wait_here(async {
            let _ = accepting.await;
        });
        self.close_connections();
        listening.reserved = Some(wire::reserve(self.address));
    }

    /// Listens again, on the same port.
    pub(crate) fn listen(&self) {
        let mut listening = self.listening.lock().unwrap();
        let Some(socket) = listening.reserved.take() else { return };
        let _inside = self.runtime.enter();
        let listener = socket.listen(1_024).unwrap();
        listening.accepting = Some(self.runtime.spawn(wire::accept(Arc::clone(&self.shared), listener)));
    }

    /// All connections end, as when the server's process is killed; new ones are accepted.
    pub(crate) fn close_connections(&self) {
        self.close_connections_after(|state| state.connections.keys().copied().collect());
    }

    /// GOAWAY on all connections, as when the server shuts down, or balances its load.
    pub(crate) fn go_away(&self) {
        self.shared.read(|state| state.connections.values().for_each(|connection| connection.go_away()));
    }

    fn close_connections_after(&self, choose: impl FnOnce(&mut State) -> Vec<u64>) {
        let chosen = self.shared.change(|state| {
            let chosen = choose(state);
            let connections = chosen.iter().filter_map(|number| state.connections.get(number));
            connections.for_each(|connection| connection.close());
            chosen
        });
        let shared = Arc::clone(&self.shared);
        self.wait_here(async move {
            let mut changed = shared.changed.subscribe();
            let gone = |state: &State| !chosen.iter().any(|number| state.connections.contains_key(number));
            while !shared.read(gone) {
                changed.changed().await.expect("`shared` holds the sender");
            }
        });
    }

    /// TCP connections since the start.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.read(|state| state.opened)
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.shared.read(|state| state.connections.len())
    }

    // Credentials

    /// Writes `kubelet.conf` into `dir`, and the newest client certificate behind `pki/kubelet-client-current.pem`.
    /// Returns the path of the former.
    pub(crate) fn kubeconfig(&self, dir: &Path) -> PathBuf {
        self.swap_current_pem(dir);
        certificates::write_kubeconfig(dir, self.address, &self.authority_pem(), &Login::CurrentPem)
    }

    /// Writes a kubeconfig with a token file, `token` in `dir`, which stands for this node.
    pub(crate) fn token_kubeconfig(&self, dir: &Path, token: &str) -> PathBuf {
        self.set_tokens(&[token]);
        certificates::write_kubeconfig(dir, self.address, &self.authority_pem(), &Login::Token(token))
    }

    /// Only these tokens are accepted from now on; each stands for this node.
    pub(crate) fn set_tokens(&self, tokens: &[&str]) {
        self.shared.change(|state| {
            let user = state.node_user();
            state.credentials.tokens = tokens.iter().map(|&token| (token.to_owned(), user.clone())).collect();
        });
    }

    /// The certificate of the authority that signed the server's.
    pub(crate) fn authority_pem(&self) -> String {
        self.shared.read(|state| state.credentials.authority_pem())
    }

    /// New handshakes see another certificate; connections that are open stay.
    pub(crate) fn rotate_server_certificate(&self, rotation: Rotation) {
        self.shared.change(|state| state.credentials.rotate(rotation));
    }

    /// Issues a further client certificate to this node. The files change with [`Server::swap_current_pem`].
    pub(crate) fn issue_client_certificate(&self, validity: Validity) -> ClientCertificate {
        self.shared.change(|state| {
            let user = state.node_user();
            state.credentials.issue(&user, "system:nodes", validity)
        })
    }

    /// The kubelet's rotation below `pki` in `dir`: the newest client certificate in a dated file of its own, then the
    /// link is swapped. Returns the dated file.
    pub(crate) fn swap_current_pem(&self, dir: &Path) -> PathBuf {
        let newest = self.shared.read(|state| state.credentials.newest().clone());
        certificates::write_current_pem(dir, &newest)
    }

    /// Whether every client certificate but the newest is refused: 401.
    pub(crate) fn require_newest_certificate(&self, required: bool) {
        self.shared.change(|state| state.credentials.newest_only = required);
    }

    // The log

    pub(crate) fn log(&self) -> Vec<Request> {
        self.shared.read(|state| state.log.clone())
    }

    pub(crate) fn requests(&self, on: &Match) -> Vec<Request> {
        self.shared.read(|state| state.log.iter().filter(|request| on.matches(request)).cloned().collect())
    }

    /// The watches that are open now.
    pub(crate) fn open_watches(&self, on: &Match) -> Vec<Request> {
        self.shared.read(|state| {
            let open = state.open_watches(on);
            state.log.iter().filter(|request| open.contains(&request.number)).cloned().collect()
        })
    }

    /// The number of the latest request, for [`Match::after`].
    pub(crate) fn mark(&self) -> u64 {
        self.shared.read(|state| state.requests)
    }

    /// The first request that fits, in the past or to come.
    pub(crate) async fn wait_for_request(&self, on: Match) -> Request {
        self.wait_for_requests(on, 1).await.remove(0)
    }

    /// As many requests that fit, in the past or to come.
    pub(crate) async fn wait_for_requests(&self, on: Match, count: usize) -> Vec<Request> {
        self.wait_for_log("such a request", move |log| {
            let found: Vec<Request> = log.iter().filter(|request| on.matches(request)).take(count).cloned().collect();
            (found.len() == count).then_some(found)
        })
        .await
    }

    /// Returns when no request that fits is under way any more, an open watch among them.
    pub(crate) async fn wait_until_none_is_open(&self, on: Match) {
        self.wait_for_log("the end of such a request", move |log| {
            (!log.iter().any(|request| request.open && on.matches(request))).then_some(())
        })
        .await;
    }

    /// Looks at the log at each change of it. The deadline is real time, even where the test's clock is paused.
    async fn wait_for_log<T: Send + 'static>(
        &self,
        what: &str,
        mut found: impl FnMut(&[Request]) -> Option<T> + Send + 'static,
    ) -> T {
        let shared = Arc::clone(&self.shared);
        let mut logged = shared.logged.subscribe();
        let waiting = async move {
            loop {
                logged.borrow_and_update();
                if let Some(found) = shared.read(|state| found(&state.log)) {
                    return found;
                }
                logged.changed().await.expect("`shared` holds the sender");
            }
        };
        let waited = self.runtime.spawn(async { tokio::time::timeout(DEADLINE, waiting).await });
        match waited.await.expect("waiting does not panic") {
            Ok(found) => found,
            Err(_) => {
                let log: String = self.log().iter().map(|request| format!("\n{request}")).collect();
                panic!("waited {DEADLINE:?} in vain for {what}; the log:{log}");
            }
        }
    }

    /// Blocks this thread: the server has its own.
    fn wait_here(&self, done: impl Future<Output = ()> + Send) {
        thread::scope(|scope| {
            scope.spawn(|| self.runtime.block_on(done));
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.quit.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
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

/// What the handles, the listener and the streams share.
struct Shared {
    state: Mutex<State>,
    /// Counts changes of everything but the log.
    changed: channel::Sender<u64>,
    /// Counts changes of the log.
    logged: channel::Sender<u64>,
    gate: Arc<Gate>,
}

struct State {
    options: Options,
    store: Store,
    /// The version that is read at `resourceVersion=0`.
    cached_at: Option<u64>,
    faults: Faults,
    credentials: Credentials,
    log: Vec<Request>,
    /// How many requests there were.
    requests: u64,
    /// TCP connections since the start.
    opened: u64,
    connections: Connections,
    /// The server's clock, since its start.
    clock_ms: u64,
}

impl State {
    fn cached_version(&self) -> u64 {
        self.cached_at.unwrap_or(self.store.version)
    }

    fn node_user(&self) -> String {
        format!("system:node:{}", self.options.node_name)
    }

    /// The server's clock as objects show it. It starts with the year 2026.
    fn now(&self) -> String {
        let now = rcgen::date_time_ymd(2026, 1, 1) + Duration::from_millis(self.clock_ms);
        let (year, month, day) = (now.year(), now.month() as u8, now.day());
        format!("{year}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", now.hour(), now.minute(), now.second())
    }

    fn open_watches(&self, on: &Match) -> Vec<u64> {
        let open = self.log.iter().filter(|request| {
            request.verb == Verb::Watch && request.open && request.status == Some(200) && on.matches(request)
        });
        open.map(|request| request.number).collect()
    }
}

impl Shared {
    fn new(options: Options, credentials: Credentials) -> Self {
        let state = State {
            options,
            store: Store::new(),
            cached_at: None,
            faults: Faults::default(),
            credentials,
            log: Vec::new(),
            requests: 0,
            opened: 0,
            connections: Connections::new(),
            clock_ms: 0,
        };
        Self {
            state: Mutex::new(state),
            changed: channel::Sender::new(0),
            logged: channel::Sender::new(0),
            gate: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.lock())
    }

    /// Changes the state, and tells everyone who waits for a change.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_modify(|count| *count += 1);
        result
    }

    fn log_new(&self, request: impl FnOnce(&State) -> Request) -> Request {
        let request = {
            let mut state = self.lock();
            let request = request(&state);
            state.log.push(request.clone());
            state.requests += 1;
            request
        };
        self.logged.send_modify(|count| *count += 1);
        request
    }

    fn log(&self, number: u64, change: impl FnOnce(&mut Request)) {
        {
            let mut state = self.lock();
            if let Ok(at) = state.log.binary_search_by_key(&number, |request| request.number) {
                change(&mut state.log[at]);
            }
        }
        self.logged.send_modify(|count| *count += 1);
    }
}
