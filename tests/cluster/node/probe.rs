//! Whether somebody serves a port of a node, all the time.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::machine::Network;

/// How often it is tried.
const PACE: Duration = Duration::from_millis(10);

/// Tries until it is dropped.
pub(crate) struct Probe {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Each change, and when: whether somebody serves.
    changes: Mutex<Vec<(Instant, bool)>>,
    end: AtomicBool,
}

impl Probe {
    pub(super) fn start(network: Network, port: u16) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                network.enter();
                while !shared.end.load(Ordering::Relaxed) {
                    let open = TcpStream::connect(("127.0.0.1", port)).is_ok();
                    let mut changes = shared.changes.lock().unwrap();
                    if changes.last().is_none_or(|(_, last)| *last != open) {
                        changes.push((Instant::now(), open));
                    }
                    drop(changes);
                    std::thread::sleep(PACE);
                }
            })
        };
        Self { shared, thread: Some(thread) }
    }

    /// Whether somebody serves it now.
    pub(crate) fn is_open(&self) -> bool {
        self.shared.changes.lock().unwrap().last().is_some_and(|(_, open)| *open)
    }

    /// How long nobody did, each time between somebody and somebody.
    pub(crate) fn gaps(&self) -> Vec<Duration> {
        let changes = self.shared.changes.lock().unwrap();
        let since_open = changes.iter().skip_while(|(_, open)| !open).collect::<Vec<_>>();
        since_open.windows(2).filter(|pair| !pair[0].1).map(|pair| pair[1].0 - pair[0].0).collect()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        // It holds the namespace.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
