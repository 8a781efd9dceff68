//! What the server was asked, and waiting for it.

use std::sync::Arc;
use std::time::Duration;

use super::Server;
use super::request::{Match, Request};

/// After this long a test that waits for the agent to do something has failed.
const DEADLINE: Duration = Duration::from_secs(60);

impl Server {
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
            state.log.iter().filter(|request| open.binary_search(&request.number).is_ok()).cloned().collect()
        })
    }

    /// How many those are.
    pub(crate) fn count_open_watches(&self, on: &Match) -> usize {
        self.shared.read(|state| state.open_watches(on).len())
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
}
