//! What an error comes down to, for whoever reads the status.

use std::io;
use std::iter::successors;

use crate::store::StoreError;

/// Whether an error comes from a file system, or a quota, that has no room.
#[must_use]
pub fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    successors(Some(error), |error| error.source()).any(|cause| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let kind = kind.or_else(|| cause.downcast_ref::<rustix::io::Errno>().map(|errno| errno.kind()));
        matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
            || cause.downcast_ref().is_some_and(StoreError::is_full)
    })
}

/// An error and its causes.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for cause in successors(Some(error), |error| error.source()).map(ToString::to_string) {
        // Wrappers that repeat their cause say nothing new.
        if !text.ends_with(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    text
}
