//! What a resident agent waits for between passes. The only part of the program that runs on an async runtime.

use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::key_bell::{KeyNews, key_news, watch_keys};
use crate::ops::notify::Notifier;

/// Why the wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// The interval has passed: look at the source again.
    Due,
    /// Key files have changed, or a minute has passed: look at them.
    Keys,
    /// SIGHUP: look at the source now.
    Reload,
    /// SIGTERM or SIGINT: leave everything as it is and stop.
    Stop,
}

/// Waits for signals and the clock, and tells the service manager that it does.
pub struct Follow {
    runtime: tokio::runtime::Runtime,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    keys: KeyNews,
    notifier: Notifier,
    /// When the interval ends, once it has begun.
    due: Option<Instant>,
}

impl Follow {
    /// Takes over the signals, and watches key files.
    ///
    /// # Errors
    /// The runtime can't be started or a signal not be taken over.
    pub fn new(key_files: impl Fn() -> Vec<PathBuf> + Send + 'static) -> std::io::Result<Self> {
        // One thread: the passes themselves are synchronous and run outside of the runtime.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let hangup = signal(SignalKind::hangup())?;
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let (ringer, keys) = key_news();
        runtime.spawn(async move { match watch_keys(key_files, ringer).await {} });
        drop(entered);
        Ok(Self { runtime, hangup, terminate, interrupt, keys, notifier: Notifier::from_env(), due: None })
    }

    /// Tells the service manager that what waits for this agent may start.
    pub fn ready(&self) {
        self.notifier.ready("what the store holds is rendered");
    }

    /// Waits for the next reason to do something.
    pub fn next(&mut self, interval: Duration) -> Tick {
        let Self { runtime, hangup, terminate, interrupt, keys, notifier, due } = self;
        // Keys that change do not make it longer.
        let until = *due.get_or_insert_with(|| Instant::now() + interval);
        let tick = runtime.block_on(async {
            tokio::select! {
                biased;
                _ = terminate.recv() => Tick::Stop,
                _ = interrupt.recv() => Tick::Stop,
                _ = hangup.recv() => Tick::Reload,
                () = keys.rung() => Tick::Keys,
                () = tokio::time::sleep_until(until) => Tick::Due,
                never = notifier.pulse() => match never {},
            }
        });
        if tick == Tick::Stop {
            notifier.stopping();
        }
        if tick != Tick::Keys {
            *due = None;
        }
        tick
    }
}
