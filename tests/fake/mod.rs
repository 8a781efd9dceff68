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
mod contents;
mod faults;
mod log;
mod reachable;
mod request;
mod state;
mod store;
mod watch;
mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;

use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

#[allow(unused_imports, reason = "each test program uses a part of it")]
pub(crate) use {
    certificates::{Rotation, Validity},
    contents::error_event,
    faults::{Broken, CANARY, End, Fault, Times},
    request::{Match, Request, Verb},
};

use certificates::Credentials;
use state::{Shared, State};

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

    // Faults

    /// Of the faults that are set and fit a request, the one that was set first strikes.
    pub(crate) fn fault(&self, on: Match, fault: Fault, times: Times) {
        self.shared.change(|state| state.faults.set(on, fault, times));
    }

    /// No further faults. What has already been struck stays so.
    pub(crate) fn clear_faults(&self) {
        self.shared.change(|state| state.faults.clear());
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
