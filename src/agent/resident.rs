//! The resident agent: brings back what the store holds, says that it is ready, follows the API server into the store, and
//! keeps the pods, until a signal says stop.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::admin::Desk;
use super::api::{FollowError, Following, Observer, follow, watch_only};
use super::cause::chain;
use super::compaction::Compaction;
use super::eyes::{Sights, watch_runtime};
use super::key_bell::{KeyRinger, watch_keys};
use super::metering::Metering;
use super::rounds::Rounds;
use super::store_thread::{Idle, StoreThread};
use crate::node::boot;
use crate::ops::admin::Listening;
use crate::ops::endpoints::serve;
use crate::ops::notify::Notifier;
use crate::store::{Backend, Change, StoreError};

/// How long a store that failed, or is not this node's, is left alone.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// The longest that a store that fails again and again is left alone. Each time everything is listed anew, and a full disk
/// may be that of every node.
const AFTER_FAILURES: Duration = Duration::from_secs(5 * 60);

/// A store that took commits for this long has recovered.
const WELL_AFTER: Duration = Duration::from_secs(10 * 60);

/// How long to wait after as many failures in a row, the first of which is 0.
fn after_failure(before: u32) -> Duration {
    AFTER_FAILURE.saturating_mul(2_u32.saturating_pow(before)).min(AFTER_FAILURES)
}

/// What the service manager shows after a reload.
const RELOADED: &str = "everything is read again";

/// How long another instance may take to open the store that it asked for.
const YIELDS_FOR: Duration = Duration::from_secs(15);

/// What ends or interrupts following.
enum Interrupted<E> {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP: everything is read and listed again.
    Reload,
    /// Nothing has begun: the store that was found can't be written to.
    Begin,
    /// Another instance asks for the store.
    Ceded,
    /// The task that keeps the pods has ended, which it never should.
    Ended,
    /// The store can't be opened.
    NoStore(E),
    /// Following ended by itself.
    Failed(FollowError),
}

/// Why the store can't be written to, for the status.
fn problem(error: &FollowError) -> String {
    match error {
        FollowError::Store(store) if store.is_full() => {
            format!("there is no room on its file system: make room there, and it goes on by itself ({})", chain(store))
        }
        FollowError::Store(_) | FollowError::NodeName(_) | FollowError::OtherNode { .. } => error.to_string(),
    }
}

/// Whether following ended before the API server was asked for anything.
fn is_said_before_anything_is_asked(error: &FollowError) -> bool {
    matches!(
        error,
        FollowError::OtherNode { .. }
            | FollowError::Store(
                StoreError::OtherNode { .. } | StoreError::OtherCluster { .. } | StoreError::NoKeyOpens
            )
    )
}

/// Names the key files of the moment.
pub type KeyFiles = Box<dyn Fn() -> Vec<PathBuf> + Send + Sync>;

/// Everything that the resident agent is made of.
pub struct Resident<'a, E> {
    /// Opens the store, or creates it.
    pub open: Box<dyn FnMut() -> Result<Box<dyn Backend>, E> + 'a>,
    /// The wall clock, in milliseconds since 1970.
    pub clock_ms: fn() -> u64,
    /// Whether the store can't be opened because another process has it.
    pub is_in_use: fn(&E) -> bool,
    /// How the API server is followed.
    pub following: Following,
    /// Learns what following comes to.
    pub observer: &'a mut dyn Observer,
    /// Learns why following was interrupted.
    pub failed: Box<dyn FnMut(Result<FollowError, E>) + 'a>,
    /// What keeps the pods, and where the node is looked at. Without it the agent only follows and stores.
    pub keeps: Option<(Rounds, Sights)>,
    /// SIGHUP has come: settings are read again, those of following into what is given.
    pub reload: Box<dyn FnMut(&mut Following) + 'a>,
    /// The service manager.
    pub notifier: Arc<Notifier>,
    /// Which files are watched for keys, and who is told. Without it nobody is.
    pub key_files: Option<(KeyFiles, KeyRinger)>,
    /// Where the command line asks, and who answers there.
    pub desk: Option<(PathBuf, Arc<Desk>)>,
    /// Where metrics and health are told, and who knows. Without it nowhere.
    pub metrics: Option<(SocketAddr, Arc<Metering>)>,
    /// The name of the node in the store that was found, if there was one: with it the agent begins although the store can't
    /// be written to.
    pub found_node: Option<String>,
    /// The store lies in memory only (the feature gate is off): it stays over a reload, and nothing is rendered.
    pub in_memory: bool,
}

impl<E: From<io::Error>> Resident<'_, E> {
    /// Runs until SIGTERM or SIGINT. Ready is said after the first round over what was found, whether or not anything else
    /// works: what waits for this service never waits for the API server.
    ///
    /// Stopping removes nothing: what runs from rendered files goes on running.
    ///
    /// # Errors
    /// The runtime or the signals are not to be had, or there was no store and none could be made. A later failure is told
    /// to `failed` and tried again.
    pub fn run(self) -> Result<(), E> {
        // Two: one may wait for the materializer, while the other answers the API server's pings.
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(self.reside())
    }

    async fn reside(mut self) -> Result<(), E> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shared = Arc::clone(&self.following.shared);
        if let Some((rounds, _)) = &mut self.keeps {
            rounds.round().await;
        }
        let mut store = match (self.open)() {
            Ok(store) => Some(store),
            Err(error) if self.found_node.is_none() => return Err(error),
            Err(error) => {
                shared.closed(Some("it can't be written to".to_owned()));
                (self.failed)(Err(error));
                None
            }
        };
        self.notifier.ready(match self.in_memory {
            false => "what the store holds is rendered",
            true => "nothing is rendered: the feature gate Checkpointing is off",
        });
        shared.counters().goes_on(boot::now_ms());
        // Not before: nothing of it holds up what has to come back.
        let served = match self.metrics.take() {
            Some((address, pages)) => {
                pages.is_started();
                tokio::spawn(async move { match serve(address, pages).await {} })
            }
            None => tokio::spawn(pending()),
        };
        let boot = self.keeps.as_ref().and_then(|(rounds, _)| rounds.boot_id());
        let (mut keeping, events) = match self.keeps {
            Some((rounds, sights)) => (
                tokio::spawn(rounds.run(Arc::clone(&self.notifier))),
                tokio::spawn(watch_runtime(sights, shared.bell())),
            ),
            None => (tokio::spawn(pending()), tokio::spawn(pending())),
        };
        let keys = match self.key_files {
            Some((files, ringer)) => tokio::spawn(async move { match watch_keys(files, ringer).await {} }),
            None => tokio::spawn(pending()),
        };
        let mut news = self.following.keys.news.clone();
        let mut asked = answer(self.desk.as_ref());
        let compaction = Compaction::default();
        let mut failures = 0;
        let mut first = true;
        let ended = loop {
            let began = Instant::now();
            let session = async {
                let opened = match store.take() {
                    Some(opened) => Ok(opened),
                    None if first && self.found_node.is_some() => Err(None),
                    None => (self.open)().map_err(Some),
                };
                first = false;
                let opened = match opened {
                    Ok(opened) => opened,
                    Err(error) => return error.map_or(Interrupted::Begin, Interrupted::NoStore),
                };
                let failing = Arc::clone(&shared);
                let failed = Box::new(move |error| failing.fails(error));
                let idle = Idle { compaction: compaction.clone(), failed };
                let thread = match StoreThread::start_compacting(opened, self.clock_ms, idle) {
                    Ok(thread) => thread,
                    Err(error) => return Interrupted::NoStore(error.into()),
                };
                let thread = thread.counting(Arc::clone(shared.counters()));
                let handle = thread.handle();
                if let Some(boot) = &boot {
                    // It matters to the next boot; a store that takes no commit says so soon enough.
                    drop(handle.update(vec![Change::Boot(boot.clone())]));
                }
                if shared.is_ceded() {
                    asked = answer(self.desk.as_ref());
                }
                shared.opened(handle.clone());
                let ended = tokio::select! {
                    biased;
                    _ = terminate.recv() => Interrupted::Stop,
                    _ = interrupt.recv() => Interrupted::Stop,
                    _ = hangup.recv() => Interrupted::Reload,
                    // It goes on for ever, or has panicked: what is left can't keep a pod.
                    _ = &mut keeping => Interrupted::Ended,
                    () = shared.yield_asked() => Interrupted::Ceded,
                    error = shared.failure() => Interrupted::Failed(FollowError::Store(error)),
                    result = follow(&handle, &mut self.following, self.observer) => match result {
                        Ok(never) => match never {},
                        Err(error) => Interrupted::Failed(error),
                    },
                };
                match &ended {
                    Interrupted::Ceded => shared.cede().await,
                    Interrupted::Failed(error) => {
                        if error.is_foreign() {
                            shared.belongs_to(Some(error.to_string()));
                        }
                        shared.closed(Some(problem(error)));
                    }
                    Interrupted::Stop
                    | Interrupted::Reload
                    | Interrupted::Begin
                    | Interrupted::Ended
                    | Interrupted::NoStore(_) => {
                        shared.closed(None);
                    }
                }
                // Its file is closed, and so unlocked, before it is opened again.
                drop(handle);
                let closed = thread.close().await;
                // What nothing but this process has would be forgotten with it.
                if self.in_memory && matches!(ended, Interrupted::Reload | Interrupted::Ceded) {
                    store = closed.ok();
                }
                ended
            };
            let ended = session.await;
            if began.elapsed() >= WELL_AFTER {
                failures = 0;
            }
            let mut ours = true;
            // A locked store opens with a key that comes.
            let closed = matches!(ended, Interrupted::NoStore(_));
            let wait = match ended {
                Interrupted::Stop => break Ok(()),
                Interrupted::Ended => break Err(has_ended()),
                Interrupted::Reload => {
                    self.notifier.reloading();
                    (self.reload)(&mut self.following);
                    self.notifier.ready(RELOADED);
                    continue;
                }
                Interrupted::Begin => continue,
                Interrupted::Ceded => {
                    // Whoever asked opens it meanwhile, and answers. If nobody does, it is opened here again.
                    asked.abort();
                    sleep(YIELDS_FOR).await;
                    continue;
                }
                // Nobody was asked for anything.
                Interrupted::NoStore(error) => {
                    // Whoever has it may be an agent that acts on it. Where it is none, it gives it back in a moment.
                    if (self.is_in_use)(&error) && !shared.is_ceded() {
                        shared.cede().await;
                        asked.abort();
                    }
                    if !shared.is_ceded() {
                        shared.closed(Some("it can't be opened for writing".to_owned()));
                    }
                    (self.failed)(Err(error));
                    AFTER_FAILURE
                }
                Interrupted::Failed(error) => {
                    let listed = !is_said_before_anything_is_asked(&error);
                    ours = listed;
                    (self.failed)(Ok(error));
                    let wait = after_failure(failures);
                    failures = if listed { failures + 1 } else { 0 };
                    wait
                }
            };
            let node = shared.node().or_else(|| self.found_node.clone());
            // Another node's or cluster's API server says nothing of these pods, and is not asked.
            let node = node.filter(|node| !node.is_empty() && ours && !shared.is_ceded() && shared.foreign().is_none());
            let meanwhile = async {
                let Some(node) = node else {
                    tokio::select! {
                        () = sleep(wait) => {}
                        () = news.rung(), if closed => {}
                    }
                    return None;
                };
                // The feed goes on until there is a store: a new one would list everything at each attempt.
                let opened = async {
                    loop {
                        tokio::select! {
                            () = sleep(wait) => {}
                            () = news.rung(), if closed => {}
                        }
                        match (self.open)() {
                            Ok(store) => return Some(store),
                            Err(error) if (self.is_in_use)(&error) => return None,
                            Err(error) => (self.failed)(Err(error)),
                        }
                    }
                };
                tokio::select! {
                    opened = opened => opened,
                    () = watch_only(&mut self.following, &node, self.observer) => None,
                }
            };
            let mut reload = false;
            tokio::select! {
                biased;
                _ = terminate.recv() => break Ok(()),
                _ = interrupt.recv() => break Ok(()),
                _ = hangup.recv() => reload = true,
                _ = &mut keeping => break Err(has_ended()),
                opened = meanwhile => store = opened,
            }
            if reload {
                self.notifier.reloading();
                (self.reload)(&mut self.following);
                self.notifier.ready(RELOADED);
            }
        };
        self.notifier.stopping();
        for task in [keeping, events, asked, keys, served] {
            task.abort();
            // One that has ended was waited for already.
            if task.is_finished() {
                continue;
            }
            // A round that writes files is not left alone in the middle of it; and its timers are those of the runtime.
            let _ended = task.await;
        }
        ended
    }
}

/// What is left can't keep a pod; the service manager begins anew.
fn has_ended<E: From<io::Error>>() -> E {
    E::from(io::Error::other("keeping the pods has ended by a panic"))
}

/// Answers on the admin socket, where it can be had. Without it everything else goes on.
fn answer(desk: Option<&(PathBuf, Arc<Desk>)>) -> JoinHandle<()> {
    let Some((path, desk)) = desk else { return tokio::spawn(pending()) };
    let (listening, desk) = (Listening::bind(path), Arc::clone(desk));
    tokio::spawn(async move {
        let ended = match listening {
            Ok(listening) => listening.serve(desk).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = ended {
            tracing::warn!("nobody can ask this agent: {why}");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_goes_on_failing_is_left_alone_for_longer() {
        let seconds: Vec<u64> = (0..7).map(|before| after_failure(before).as_secs()).collect();
        assert_eq!(seconds, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(after_failure(u32::MAX), AFTER_FAILURES);
    }
}
