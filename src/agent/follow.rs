//! What a resident agent waits for between passes. The only part of the program that runs on an async runtime.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Why the wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// The interval has passed: look at the source again.
    Due,
    /// SIGHUP: look at the source now.
    Reload,
    /// SIGTERM or SIGINT: leave everything as it is and stop.
    Stop,
}

/// Waits for signals and the clock.
pub struct Follow {
    runtime: tokio::runtime::Runtime,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Follow {
    /// Takes over the signals.
    ///
    /// # Errors
    /// The runtime can't be started or a signal not be taken over.
    pub fn new() -> std::io::Result<Self> {
        // One thread: the passes themselves are synchronous and run outside of the runtime.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let hangup = signal(SignalKind::hangup())?;
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        drop(entered);
        Ok(Self { runtime, hangup, terminate, interrupt })
    }

    /// Waits for the next reason to do something.
    pub fn next(&mut self, interval: Duration) -> Tick {
        let Self { runtime, hangup, terminate, interrupt } = self;
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = terminate.recv() => Tick::Stop,
                _ = interrupt.recv() => Tick::Stop,
                _ = hangup.recv() => Tick::Reload,
                () = tokio::time::sleep(interval) => Tick::Due,
            }
        })
    }
}
