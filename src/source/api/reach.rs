//! Whether the API server answers: `Answering`, `Silent` and `Refusing` are kept apart, since only an answer carries facts.

use std::fmt;

/// How the API server stands to us (lifecycle.md, "What is looked at").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It answers requests for the pods of this node.
    Answering,
    /// Nothing is heard of it: no route, no connection, no answer in time; or certificates can't be judged, since the
    /// clock is not set.
    Silent(Cause),
    /// It, or something in its place, answers and gives no facts: 401, 403, 429, 5xx, bad TLS, garbage.
    Refusing(Cause),
}

/// Why, in one line, fit for a log: what was attempted and what came of it. Never carries a response's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause(pub String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What came of a request that was not answered with 2xx and a whole body. Never carries a response's body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Refused, reset, no answer in time, or the connection was lost.
    #[error("{0}")]
    Unreachable(Cause),
    /// The network of this node is not up: no route, or no name was found. That says nothing of the server.
    #[error("{0}")]
    NoRoute(Cause),
    /// Nothing was asked, since there is no token: its file can't be read, or the exec plugin gave none.
    #[error("{0}")]
    NoToken(Cause),
    /// What answers is not proven to be the API server: no TLS, unknown CA, wrong name.
    #[error("{0}")]
    Untrusted(Cause),
    /// The server's certificate is expired or not yet valid by this node's clock.
    #[error("{0}")]
    ClockDependent(Cause),
    /// The server ended TLS on account of our client certificate: by its clock and its CA, not by ours.
    #[error("{0}")]
    ClientRefused(Cause),
    /// The server answered with another status than 2xx.
    #[error("{request}: {code} {reason}{}", note(.certificate.as_ref()))]
    Status {
        /// HTTP status.
        code: u16,
        /// `reason` of the answer's `Status`, e.g. `Forbidden` or `Expired`; else the usual text of the code.
        reason: String,
        /// How long the server asks us to wait before the next request.
        retry_after_s: Option<u64>,
        /// Method, path and server; without the query.
        request: String,
        /// With a 401: what this node's clock says against the client certificate, which may be why.
        certificate: Option<Cause>,
    },
    /// What answers does not speak HTTP/2, or broke off in the middle.
    #[error("{0}")]
    Garbage(Cause),
    /// The answer is longer than the caller takes.
    #[error("{0}")]
    TooLong(Cause),
}

fn note(certificate: Option<&Cause>) -> String {
    certificate.map_or_else(String::new, |cause| format!("; {cause}"))
}

impl Failure {
    /// What the failure says about the API server. An answer to a question about one object (404, 403, 410) is for the
    /// caller to look at first: it carries a fact. Where the clock is not set, nothing that it says of certificates counts.
    #[must_use]
    pub fn reach(&self, clock_is_set: bool) -> Reach {
        match self {
            Self::Unreachable(cause) | Self::NoRoute(cause) | Self::NoToken(cause) => Reach::Silent(cause.clone()),
            Self::ClockDependent(cause) if !clock_is_set => Reach::Silent(Cause(format!(
                "{cause}; that can't be judged: the clock of this node is not set (is it waiting for time synchronisation?)"
            ))),
            Self::Status { certificate: Some(_), code, reason, request, .. } if !clock_is_set => {
                Reach::Refusing(Cause(format!("{request}: {code} {reason}")))
            }
            Self::Untrusted(_)
            | Self::ClockDependent(_)
            | Self::ClientRefused(_)
            | Self::Status { .. }
            | Self::Garbage(_)
            | Self::TooLong(_) => Reach::Refusing(Cause(self.to_string())),
        }
    }

    /// Whether the server could have been reached, as far as this node's network goes.
    #[must_use]
    pub fn had_route(&self) -> bool {
        match self {
            Self::NoRoute(_) | Self::NoToken(_) => false,
            Self::Unreachable(_)
            | Self::Untrusted(_)
            | Self::ClockDependent(_)
            | Self::ClientRefused(_)
            | Self::Status { .. }
            | Self::Garbage(_)
            | Self::TooLong(_) => true,
        }
    }

    /// Whether the server did not take our credentials, so that reading them again is worth a try.
    #[must_use]
    pub fn refuses_credentials(&self) -> bool {
        matches!(self, Self::ClientRefused(_) | Self::Status { code: 401, .. })
    }

    /// The same failure, with what was attempted before its cause.
    pub(super) fn during(mut self, attempt: &str) -> Self {
        match &mut self {
            Self::Unreachable(cause)
            | Self::NoRoute(cause)
            | Self::NoToken(cause)
            | Self::Untrusted(cause)
            | Self::ClockDependent(cause)
            | Self::ClientRefused(cause)
            | Self::Garbage(cause)
            | Self::TooLong(cause) => cause.0 = format!("{attempt}: {cause}"),
            Self::Status { .. } => {}
        }
        self
    }
}

/// 2026-11-01T00:00:00Z. Kept by hand, for builds that do not say when they were made; raised now and then.
const NOT_BEFORE_UNIX_S: u64 = 1_793_491_200;

/// No clock that is set shows an earlier time. A build may give a later one (<https://reproducible-builds.org/specs/source-date-epoch/>).
const BUILT_UNIX_S: u64 = later(option_env!("SOURCE_DATE_EPOCH"), NOT_BEFORE_UNIX_S);

/// Whether the wall clock can be right: boards without a battery start at 1970 or at the image's date. All in seconds since
/// 1970; `newest_stored_at_unix_s` is of the store, 0 if it is empty.
#[must_use]
pub fn clock_is_set(now_unix_s: u64, newest_stored_at_unix_s: u64) -> bool {
    now_unix_s >= newest_stored_at_unix_s && now_unix_s >= BUILT_UNIX_S
}

/// The larger of a decimal number and `floor`; `floor` if it is none.
const fn later(decimal: Option<&str>, floor: u64) -> u64 {
    let Some(text) = decimal else { return floor };
    let digits = text.as_bytes();
    // 18 digits always fit.
    if digits.is_empty() || digits.len() > 18 {
        return floor;
    }
    let (mut value, mut at) = (0, 0);
    while at < digits.len() {
        if !digits[at].is_ascii_digit() {
            return floor;
        }
        value = value * 10 + (digits[at] - b'0') as u64;
        at += 1;
    }
    if value > floor { value } else { floor }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(text: &str) -> Cause {
        Cause(text.to_owned())
    }

    fn status(code: u16, certificate: Option<&str>) -> Failure {
        let certificate = certificate.map(cause);
        Failure::Status { code, reason: "Why".into(), retry_after_s: None, request: "GET /x".into(), certificate }
    }

    #[test]
    fn every_failure_is_sorted() {
        let unset =
            "c; that can't be judged: the clock of this node is not set (is it waiting for time synchronisation?)";
        let silent = |text: &str| Reach::Silent(cause(text));
        let refusing = |text: &str| Reach::Refusing(cause(text));
        #[rustfmt::skip]
        let table = [
            // failure                             | the clock is set              | it is not
            (Failure::Unreachable(cause("c")),       silent("c"),                    silent("c")),
            (Failure::NoRoute(cause("c")),           silent("c"),                    silent("c")),
            (Failure::NoToken(cause("c")),           silent("c"),                    silent("c")),
            (Failure::ClockDependent(cause("c")),    refusing("c"),                  silent(unset)),
            (Failure::Untrusted(cause("c")),         refusing("c"),                  refusing("c")),
            (Failure::ClientRefused(cause("c")),     refusing("c"),                  refusing("c")),
            (Failure::Garbage(cause("c")),           refusing("c"),                  refusing("c")),
            (Failure::TooLong(cause("c")),           refusing("c"),                  refusing("c")),
            (status(301, None),                      refusing("GET /x: 301 Why"),    refusing("GET /x: 301 Why")),
            (status(400, None),                      refusing("GET /x: 400 Why"),    refusing("GET /x: 400 Why")),
            (status(401, None),                      refusing("GET /x: 401 Why"),    refusing("GET /x: 401 Why")),
            (status(401, Some("late")),              refusing("GET /x: 401 Why; late"), refusing("GET /x: 401 Why")),
            (status(403, None),                      refusing("GET /x: 403 Why"),    refusing("GET /x: 403 Why")),
            (status(404, None),                      refusing("GET /x: 404 Why"),    refusing("GET /x: 404 Why")),
            (status(410, None),                      refusing("GET /x: 410 Why"),    refusing("GET /x: 410 Why")),
            (status(429, None),                      refusing("GET /x: 429 Why"),    refusing("GET /x: 429 Why")),
            (status(500, None),                      refusing("GET /x: 500 Why"),    refusing("GET /x: 500 Why")),
            (status(503, None),                      refusing("GET /x: 503 Why"),    refusing("GET /x: 503 Why")),
            (status(504, None),                      refusing("GET /x: 504 Why"),    refusing("GET /x: 504 Why")),
        ];
        for (failure, set, unset) in table {
            assert_eq!(failure.reach(true), set, "{failure:?}");
            assert_eq!(failure.reach(false), unset, "{failure:?}");
            let asks_anew = matches!(failure, Failure::ClientRefused(_) | Failure::Status { code: 401, .. });
            assert_eq!(failure.refuses_credentials(), asks_anew, "{failure:?}");
        }
    }

    #[test]
    fn a_clock_before_what_is_known_is_not_set() {
        assert!(clock_is_set(BUILT_UNIX_S, 0));
        assert!(!clock_is_set(BUILT_UNIX_S - 1, 0));
        assert!(!clock_is_set(0, 0));
        assert!(clock_is_set(BUILT_UNIX_S + 5, BUILT_UNIX_S + 5));
        assert!(!clock_is_set(BUILT_UNIX_S + 4, BUILT_UNIX_S + 5));
    }

    #[test]
    fn the_date_of_a_build_only_raises_the_floor() {
        let table = [
            (None, 10),
            (Some("11"), 11),
            (Some("9"), 10),
            (Some(""), 10),
            (Some("-1"), 10),
            (Some("12s"), 10),
            (Some("999999999999999999"), 999_999_999_999_999_999),
            (Some("9999999999999999999"), 10),
        ];
        for (text, expected) in table {
            assert_eq!(later(text, 10), expected, "{text:?}");
        }
        const { assert!(BUILT_UNIX_S >= NOT_BEFORE_UNIX_S) };
    }
}
