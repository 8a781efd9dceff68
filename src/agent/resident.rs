//! The resident agent on the API server: opens the store, follows, and begins anew when the store fails, until a signal
//! says stop.

use std::io;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::api::{FollowError, Following, Observer, follow};
use super::store_thread::StoreThread;
use crate::ops::notify::Notifier;
use crate::store::{Backend, StoreError};

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

/// What ends or interrupts following.
enum Interrupted<E> {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP: everything is read and listed again.
    Reload,
    /// The store can't be opened.
    NoStore(E),
    /// Following ended by itself.
    Failed(FollowError),
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

/// Follows until SIGTERM or SIGINT. `open` opens the store, or creates it; `failed` learns why following was interrupted.
///
/// Stopping removes nothing: what runs from rendered files goes on running.
///
/// # Errors
/// The runtime or the signals are not to be had, or the first opening of the store failed. A later failure is told to
/// `failed` and tried again.
pub fn reside<E: From<io::Error>>(
    mut open: impl FnMut() -> Result<Box<dyn Backend>, E>,
    clock_ms: fn() -> u64,
    mut following: Following,
    observer: &mut dyn Observer,
    mut failed: impl FnMut(Result<FollowError, E>),
) -> Result<(), E> {
    // Two: one may wait for the materializer, while the other answers the API server's pings.
    let notifier = Notifier::from_env();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let resident = async {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut store = open().map(Some)?;
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let session = async {
                let opened = match store.take() {
                    Some(opened) => opened,
                    None => match open() {
                        Ok(opened) => opened,
                        Err(error) => return Interrupted::NoStore(error),
                    },
                };
                let thread = match StoreThread::start(opened, clock_ms) {
                    Ok(thread) => thread,
                    Err(error) => return Interrupted::NoStore(error.into()),
                };
                let handle = thread.handle();
                let ended = tokio::select! {
                    biased;
                    _ = terminate.recv() => Interrupted::Stop,
                    _ = interrupt.recv() => Interrupted::Stop,
                    _ = hangup.recv() => Interrupted::Reload,
                    result = follow(&handle, &mut following, observer) => match result {
                        Ok(never) => match never {},
                        Err(error) => Interrupted::Failed(error),
                    },
                };
                // Its file is closed, and so unlocked, before it is opened again.
                drop(handle);
                drop(thread.close().await);
                ended
            };
            let ended = session.await;
            if began.elapsed() >= WELL_AFTER {
                failures = 0;
            }
            let wait = match ended {
                Interrupted::Stop => return Ok(()),
                Interrupted::Reload => continue,
                // Nobody was asked for anything.
                Interrupted::NoStore(error) => {
                    failed(Err(error));
                    AFTER_FAILURE
                }
                Interrupted::Failed(error) => {
                    let listed = !is_said_before_anything_is_asked(&error);
                    failed(Ok(error));
                    let wait = after_failure(failures);
                    failures = if listed { failures + 1 } else { 0 };
                    wait
                }
            };
            tokio::select! {
                biased;
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = hangup.recv() => {}
                () = sleep(wait) => {}
            }
        }
    };
    runtime.block_on(async {
        tokio::select! {
            ended = resident => ended,
            never = notifier.pulse() => match never {},
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
