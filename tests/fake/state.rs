//! What the handles, the listener and the streams share.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch as channel;

use super::Options;
use super::certificates::Credentials;
use super::faults::Faults;
use super::request::{Match, Request, Verb};
use super::store::Store;
use super::wire::{Connections, Gate, Traffic};

/// What the handles, the listener and the streams share.
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Counts changes of everything but the log and the connections.
    pub(super) changed: channel::Sender<u64>,
    /// Counts connections that come and go: none of the thousands of watches has to look up for that.
    pub(super) connected: channel::Sender<u64>,
    /// Counts changes of the log.
    pub(super) logged: channel::Sender<u64>,
    pub(super) gate: Arc<Gate>,
    pub(super) traffic: Arc<Traffic>,
}

pub(super) struct State {
    pub(super) options: Options,
    pub(super) store: Store,
    /// The version that is read at `resourceVersion=0`.
    pub(super) cached_at: Option<u64>,
    pub(super) faults: Faults,
    pub(super) credentials: Credentials,
    pub(super) log: Vec<Request>,
    /// How many requests there were.
    pub(super) requests: u64,
    /// TCP connections since the start.
    pub(super) opened: u64,
    pub(super) connections: Connections,
    /// The server's clock, since its start.
    pub(super) clock_ms: u64,
}

impl State {
    pub(super) fn cached_version(&self) -> u64 {
        self.cached_at.unwrap_or(self.store.version)
    }

    pub(super) fn node_user(&self) -> String {
        format!("system:node:{}", self.options.node_name)
    }

    /// The server's clock as objects show it. It starts with the year 2026.
    pub(super) fn now(&self) -> String {
        let now = rcgen::date_time_ymd(2026, 1, 1) + Duration::from_millis(self.clock_ms);
        let (year, month, day) = (now.year(), now.month() as u8, now.day());
        format!("{year}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", now.hour(), now.minute(), now.second())
    }

    pub(super) fn open_watches(&self, on: &Match) -> Vec<u64> {
        let open = self.log.iter().filter(|request| {
            request.verb == Verb::Watch && request.open && request.status == Some(200) && on.matches(request)
        });
        open.map(|request| request.number).collect()
    }
}

impl Shared {
    pub(super) fn new(options: Options, credentials: Credentials) -> Self {
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
            connected: channel::Sender::new(0),
            logged: channel::Sender::new(0),
            gate: Arc::default(),
            traffic: Arc::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.lock())
    }

    /// Changes the state, and tells everyone who waits for a change.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_modify(|count| *count += 1);
        result
    }

    /// Changes the connections, and tells everyone who waits for their end.
    pub(super) fn change_connections<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.connected.send_modify(|count| *count += 1);
        result
    }

    pub(super) fn log_new(&self, request: impl FnOnce(&State) -> Request) -> Request {
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

    pub(super) fn log(&self, number: u64, change: impl FnOnce(&mut Request)) {
        {
            let mut state = self.lock();
            if let Ok(at) = state.log.binary_search_by_key(&number, |request| request.number) {
                change(&mut state.log[at]);
            }
        }
        self.logged.send_modify(|count| *count += 1);
    }
}
