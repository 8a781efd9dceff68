//! The cold start: everything that the store holds is rendered, with no source contacted and no disk written to but where
//! the files go.

use std::path::Path;

use store_format::NodeSecret;

use super::pass::{PassError, Rendered, Target, render};
use crate::checkpoint::decide::PodNetwork;
use crate::checkpoint::settings::Settings;
use crate::store::{Committed, Snapshot, StoreError, open_offline};

/// What a start found.
pub enum ColdStart {
    /// There is no store yet: one has to be created and a source waited for.
    NoStore,
    /// The store was loaded and everything recoverable in it is rendered.
    Ready(Box<Ready>),
}

/// A loaded store and what came of it.
pub struct Ready {
    /// What the store holds.
    pub snapshot: Committed<Snapshot>,
    /// What was rendered, or why nothing was.
    pub rendered: Result<Rendered, PassError>,
}

/// Loads the store through the overlay and renders from it.
///
/// # Errors
/// The store is there but can't be read at all; nothing was rendered, and the file is as it was.
pub fn cold_start(
    store: &Path,
    secrets: &[&NodeSecret],
    settings: &Settings,
    own_name: Option<&str>,
    network: PodNetwork,
    target: &Target,
    now_unix_s: u64,
) -> Result<ColdStart, StoreError> {
    let snapshot = match open_offline(store, secrets) {
        Ok(snapshot) => snapshot,
        Err(StoreError::NotFound(_)) => return Ok(ColdStart::NoStore),
        Err(error) => return Err(error),
    };
    let rendered = render(&snapshot, settings, own_name, network, target, now_unix_s);
    Ok(ColdStart::Ready(Box::new(Ready { snapshot, rendered })))
}
