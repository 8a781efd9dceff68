//! What is told over HTTP: joins the status document, the counters and the store's file for whoever scrapes.

use std::path::Path;
use std::sync::Arc;

use super::admin::Desk;
use crate::node::boot;
use crate::ops::endpoints::Pages;
use crate::ops::health::Health;
use crate::ops::metrics::{Feature, Gathered, Process, page};

/// Answers for the agent. Nothing is looked at before somebody asks.
pub struct Metering {
    desk: Arc<Desk>,
    features: Vec<Feature>,
}

impl Metering {
    /// Answers from what `desk` knows; `features` are all feature gates.
    #[must_use]
    pub fn new(desk: Arc<Desk>, features: Vec<Feature>) -> Self {
        Self { desk, features }
    }

    /// The cold start is over.
    pub(super) fn is_started(&self) {
        let (shared, _) = self.desk.sources();
        if let Some(process) = Process::now() {
            shared.counters().cold_start_took(boot::now_ms().saturating_sub(process.started_ms));
        }
    }

    fn silent_ms(&self) -> Option<u64> {
        let (shared, _) = self.desk.sources();
        shared.counters().went_on_ms().map(|ms| boot::now_ms().saturating_sub(ms))
    }
}

impl Pages for Metering {
    fn metrics(&self) -> String {
        let (shared, latest) = self.desk.sources();
        let (status, now_ms) = (self.desk.now(), boot::now_ms());
        let inventory = latest.inventory(now_ms);
        let health = Health::of(&status, self.silent_ms(), latest.is_answered());
        let (file_bytes, available_bytes) = latest.path().map(sizes).unwrap_or_default();
        let gathered = Gathered {
            status,
            inventory,
            health,
            features: self.features.clone(),
            watch_ends: shared.watch_ends().iter().collect(),
            file_bytes,
            available_bytes,
            process: Process::now(),
            now_ms,
        };
        page(&gathered, shared.counters())
    }

    fn health(&self) -> Health {
        let (_, latest) = self.desk.sources();
        Health::of(&self.desk.now(), self.silent_ms(), latest.is_answered())
    }
}

/// Size of the store's file, and room on its file system.
fn sizes(path: &Path) -> (Option<u64>, Option<u64>) {
    let file = std::fs::metadata(path).ok().map(|file| file.len());
    let system = path.parent().and_then(|directory| rustix::fs::statvfs(directory).ok());
    (file, system.map(|system| system.f_bavail.saturating_mul(system.f_frsize)))
}
