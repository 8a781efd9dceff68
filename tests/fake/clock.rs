//! A paused clock that stands still.
//!
//! `tokio::time::pause` lets time jump to the next timer whenever nothing else is to be done in this process, and waiting
//! for an answer over a socket is nothing to be done: a request would time out at once. tokio doesn't jump while a blocking
//! task runs, so that is what [`Stopped`] keeps running. Then only `tokio::time::advance` moves time.

use std::sync::mpsc;

/// While it lives, the paused clock of the runtime in which it was made moves by `tokio::time::advance` alone.
pub(crate) struct Stopped {
    _running: mpsc::Sender<()>,
}

impl Stopped {
    /// Pauses the clock, unless it is paused already.
    pub(crate) fn new() -> Self {
        let (running, stopped) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || stopped.recv());
        Self { _running: running }
    }
}
