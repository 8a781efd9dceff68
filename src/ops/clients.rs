//! Whoever connects to a socket of the agent: so many are served at a time, and no error of the socket ends it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Those that are served.
pub(super) struct Clients {
    what: &'static str,
    places: Arc<Semaphore>,
    served: JoinSet<()>,
}

/// Leave to serve one of them.
pub(super) struct Place(#[expect(dead_code, reason = "it is given back when it is dropped")] OwnedSemaphorePermit);

impl Clients {
    /// Of the socket that is called `what` in the log; `at_most` at a time.
    pub(super) fn new(what: &'static str, at_most: usize) -> Self {
        Self { what, places: Arc::new(Semaphore::new(at_most)), served: JoinSet::new() }
    }

    /// Takes in what accepting has come to. `None`: nobody came, and it is time to try again.
    pub(super) async fn come<S>(&mut self, accepted: io::Result<S>) -> Option<S> {
        match accepted {
            Ok(client) => {
                while self.served.try_join_next().is_some() {}
                Some(client)
            }
            Err(error) => {
                // Most likely there are no more descriptors; that passes, and does not have to be waited for busily.
                tracing::warn!("{}: {error}", self.what);
                sleep(Duration::from_millis(100)).await;
                None
            }
        }
    }

    /// A place for one more, if there is one.
    pub(super) fn place(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok().map(Place)
    }

    /// Serves one until it is done, or this is dropped.
    pub(super) fn serve(&mut self, place: Place, client: impl Future<Output = ()> + Send + 'static) {
        self.served.spawn(async move {
            client.await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Notify;
    use tokio::task::yield_now;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_at_a_time_and_no_error_ends_it() {
        let mut clients = Clients::new("a socket", 1);
        let begun = Instant::now();
        assert_eq!(clients.come::<()>(Err(io::Error::from_raw_os_error(24))).await, None);
        assert!(begun.elapsed() >= Duration::from_millis(100), "it is not tried again busily");
        let done = Arc::new(Notify::new());
        let place = clients.place().unwrap();
        clients.serve(place, {
            let done = Arc::clone(&done);
            async move { done.notified().await }
        });
        assert_eq!(clients.come(Ok("another")).await, Some("another"));
        assert!(clients.place().is_none(), "there is one place");
        done.notify_one();
        for _ in 0..3 {
            yield_now().await;
        }
        assert!(clients.place().is_some());
    }
}
