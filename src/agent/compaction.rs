//! When the store's file is made shorter: never while a commit waits, rarely, and only where it gives much back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::{Backend, Size, StoreError};

/// Shorter files are left as they are: there is nothing to win. An empty one has 1 MiB already.
const FLOOR_BYTES: u64 = 4 << 20;

/// A file that is more than so many times as long as what is stored in it is made shorter.
const SPARSE: u64 = 2;

/// One that is more than so many times as long waits for a short pause only: on some nodes there never is a long one.
const VERY_SPARSE: u64 = 4;

/// How long nothing was written before a file is made shorter.
const IDLE: Duration = Duration::from_secs(60);

/// The same of a very sparse one. Nothing is looked at before.
const PAUSE: Duration = Duration::from_secs(10);

/// After a failure, and after one that did not bring the file below [`SPARSE`], for so long none is tried.
const AFTER_FAILURE: Duration = Duration::from_secs(60 * 60);

/// How the last compaction of this process went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// How long ago that was.
    pub ago: Duration,
    /// Whether the file was short enough after it.
    pub was_enough: bool,
}

/// How long nothing must have been written for a file of this size to be made shorter; `None` if it stays as it is until
/// something is written.
#[must_use]
pub fn quiet_before(size: Size, last: Option<Last>) -> Option<Duration> {
    let exceeds = |times: u64| size.file_bytes > size.live_bytes.saturating_mul(times);
    let in_vain = last.is_some_and(|last| !last.was_enough && last.ago < AFTER_FAILURE);
    if size.file_bytes <= FLOOR_BYTES || in_vain {
        return None;
    }
    match () {
        () if exceeds(VERY_SPARSE) => Some(PAUSE),
        () if exceeds(SPARSE) => Some(IDLE),
        () => None,
    }
}

/// What the process remembers, from one opening of the store to the next. Clones are the same.
#[derive(Clone, Debug)]
pub struct Compaction {
    last: Arc<Mutex<Option<(Instant, bool)>>>,
    /// All waits are divided by it.
    hurry: u32,
}

impl Default for Compaction {
    fn default() -> Self {
        Self { last: Arc::default(), hurry: 1 }
    }
}

impl Compaction {
    /// For tests: a minute is a twentieth of a second.
    #[doc(hidden)]
    #[must_use]
    pub fn in_a_hurry() -> Self {
        Self { hurry: 1200, ..Self::default() }
    }

    /// How long nothing is written before the store is looked at at all.
    pub(super) fn look_after(&self) -> Duration {
        PAUSE / self.hurry
    }

    /// How long nothing must have been written to `store` for it to be made shorter, as [`quiet_before`] has it at `now`.
    ///
    /// # Errors
    /// The store can't be read.
    pub(super) fn quiet_before(&self, store: &dyn Backend, now: Instant) -> Result<Option<Duration>, StoreError> {
        // Measuring reads all of it.
        if store.file_bytes()?.is_none_or(|bytes| bytes <= FLOOR_BYTES) {
            return Ok(None);
        }
        let last = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .map(|(at, was_enough)| Last { ago: now.saturating_duration_since(at), was_enough });
        Ok(store.size()?.and_then(|size| quiet_before(size, last)).map(|quiet| quiet / self.hurry))
    }

    /// Makes the file shorter.
    ///
    /// # Errors
    /// As [`Backend::compact`].
    pub(super) fn run(&self, store: &mut dyn Backend, now: Instant) -> Result<(), StoreError> {
        let done = compact(store);
        let was_enough = matches!(done, Ok(Some(size)) if quiet_before(size, None).is_none());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, was_enough));
        done.map(drop)
    }
}

/// Makes it shorter, and tells how large it is then.
fn compact(store: &mut dyn Backend) -> Result<Option<Size>, StoreError> {
    let before = store.file_bytes()?;
    store.compact()?;
    let size = store.size()?;
    if let (Some(before), Some(after)) = (before, size) {
        let Size { file_bytes, live_bytes } = after;
        tracing::info!(before, after = file_bytes, stored = live_bytes, "the store's file was made shorter");
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        const MIB: u64 = 1 << 20;
        const MINUTE: Option<Duration> = Some(Duration::from_secs(60));
        const TEN: Option<Duration> = Some(Duration::from_secs(10));
        const NO: Option<Duration> = None;
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let enough = |ago| Some(Last { ago, was_enough: true });
        let in_vain = |ago| Some(Last { ago, was_enough: false });
        #[rustfmt::skip]
        let rows = [
            // file         stored       never    enough   enough   in vain    in vain
            //                           before   now      1 h ago  59 min ago 1 h ago
            (0,             0,         [ NO,      NO,      NO,      NO,        NO     ]),
            (4 * MIB,       0,         [ NO,      NO,      NO,      NO,        NO     ]), // as short as it matters
            (4 * MIB + 1,   0,         [ TEN,     TEN,     TEN,     NO,        TEN    ]), // everything was deleted
            (10 * MIB,      10 * MIB,  [ NO,      NO,      NO,      NO,        NO     ]),
            (20 * MIB,      10 * MIB,  [ NO,      NO,      NO,      NO,        NO     ]),
            (20 * MIB + 1,  10 * MIB,  [ MINUTE,  MINUTE,  MINUTE,  NO,        MINUTE ]),
            (40 * MIB,      10 * MIB,  [ MINUTE,  MINUTE,  MINUTE,  NO,        MINUTE ]),
            (40 * MIB + 1,  10 * MIB,  [ TEN,     TEN,     TEN,     NO,        TEN    ]),
            (u64::MAX,      u64::MAX,  [ NO,      NO,      NO,      NO,        NO     ]),
        ];
        let lasts = [None, enough(minutes(0)), enough(minutes(60)), in_vain(minutes(59)), in_vain(minutes(60))];
        for (file_bytes, live_bytes, expected) in rows {
            let size = Size { file_bytes, live_bytes };
            for (last, want) in lasts.into_iter().zip(expected) {
                assert_eq!(quiet_before(size, last), want, "{size:?} after {last:?}");
            }
        }
    }
}
