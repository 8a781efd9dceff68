//! What an answer that is no success means to a follower.

use std::fmt;

use super::body::ErrorStatus;
use super::reach::{Cause, Failure};

impl Failure {
    /// The HTTP status, if there was an answer.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// How long the server asks us to wait, in seconds.
    pub(super) fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::Status { retry_after_s, .. } => *retry_after_s,
            _ => None,
        }
    }

    /// Whether the server no longer knows the position that was asked for (410 `Expired` or `Gone`).
    pub(super) fn is_lost_position(&self) -> bool {
        self.status() == Some(410)
    }

    /// An answer that is no answer to `request`, of which a query is not shown.
    pub(super) fn garbage(request: &str, why: &dyn fmt::Display) -> Self {
        let request = request.split('?').next().unwrap_or(request);
        Self::Garbage(Cause(format!("{request}: {why}")))
    }

    /// An error that came as an event in a watch.
    pub(super) fn from_event(status: &ErrorStatus) -> Self {
        Self::Status {
            code: status.code,
            reason: status.reason.clone(),
            retry_after_s: status.retry_after_s,
            request: "watch".to_owned(),
            certificate: None,
        }
    }
}
