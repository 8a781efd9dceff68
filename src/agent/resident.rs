//! The resident agent on the API server: opens the store, follows, and begins anew when the store fails, until a signal
//! says stop.

use std::io;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::api::{FollowError, Following, Observer, follow};
use super::store_thread::StoreThread;
use crate::store::Backend;

/// How long a store that failed, or is not this node's, is left alone.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

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
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut store = open().map(Some)?;
        loop {
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
            match session.await {
                Interrupted::Stop => return Ok(()),
                Interrupted::Reload => continue,
                Interrupted::NoStore(error) => failed(Err(error)),
                Interrupted::Failed(error) => failed(Ok(error)),
            }
            tokio::select! {
                biased;
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = hangup.recv() => {}
                () = sleep(AFTER_FAILURE) => {}
            }
        }
    })
}
