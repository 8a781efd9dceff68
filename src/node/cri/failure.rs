//! Why a container runtime gave no answer, and what to do about it.

use std::error::Error;
use std::io;

use super::{ANSWER_MAX_BYTES, DEADLINE};

/// `UNIMPLEMENTED` of gRPC's status codes.
const UNIMPLEMENTED: u16 = 12;

/// As much of a runtime's own words as is passed on.
const WORDS_MAX_CHARS: usize = 300;

/// What was attempted, and what came of it. The socket is named by whoever tells it.
#[derive(Debug, thiserror::Error)]
#[error("{attempted}: {problem}")]
pub(super) struct Failure {
    /// `connect`, or a method of the CRI.
    pub(super) attempted: &'static str,
    pub(super) problem: Problem,
}

/// What came of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("there is no such socket: start the container runtime, or name the socket that it has")]
    NoSocket,
    #[error("nobody listens there: start the container runtime")]
    Refused,
    #[error("permission denied: only root may ask the container runtime")]
    Denied,
    #[error("{0}: look whether this is the socket of the container runtime and whether it runs")]
    Io(#[source] io::Error),
    #[error("no answer within {} s: the container runtime hangs or is overloaded, see its log", DEADLINE.as_secs())]
    Late,
    #[error("the connection broke ({0}): look whether this is the socket of the container runtime and whether it runs")]
    Broken(String),
    #[error("the answer is longer than {} MiB: remove dead containers or unused images", ANSWER_MAX_BYTES >> 20)]
    TooLong,
    #[error("this is no answer of CRI v1 ({0}): look whether this is the socket of the container runtime")]
    Garbage(String),
    #[error(
        "the runtime does not serve it: CRI v1 is needed, which containerd has from 1.6 on unless its plug-in `cri` is \
         disabled"
    )]
    Unimplemented,
    #[error("the runtime answers with gRPC status {code} ({message}): see its log")]
    Status { code: u16, message: String },
}

impl Problem {
    /// What a failure to connect comes to.
    pub(super) fn of_connecting(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NoSocket,
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::PermissionDenied => Self::Denied,
            _ => Self::Io(error),
        }
    }

    /// What an error of hyper comes to, with all of its causes: the first one says little.
    pub(super) fn of_http(error: &(dyn Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        Self::Broken(words(&text))
    }

    /// What a gRPC status that is not `OK` comes to. `message` is percent-encoded, as it is sent.
    pub(super) fn of_status(code: u16, message: &[u8]) -> Self {
        match code {
            UNIMPLEMENTED => Self::Unimplemented,
            code => Self::Status { code, message: words(&String::from_utf8_lossy(&decoded(message))) },
        }
    }
}

/// Foreign text on its way into a line of a log: short, and without control characters.
fn words(text: &str) -> String {
    let clean = text.chars().take(WORDS_MAX_CHARS).map(|c| if c.is_control() { ' ' } else { c });
    clean.collect()
}

/// Percent-decoding, as gRPC has it for `grpc-message`; what is not well-formed stays as it is.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = match (first, after) {
            (b'%', [high, low, after @ ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| (high << 4 | low, after)),
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((first, after));
        out.push(byte);
        rest = after;
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_status_says() {
        #[rustfmt::skip]
        let rows: [(u16, &[u8], &str); 5] = [
            (12, b"unknown service runtime.v1.RuntimeService", "the runtime does not serve it: CRI v1 is needed"),
            (14, b"server is not initialized yet", "the runtime answers with gRPC status 14 (server is not initialized yet)"),
            (2,  b"50%25 of %e2%82%ac",            "the runtime answers with gRPC status 2 (50% of \u{20ac})"),
            (2,  b"a%0Ab%1b[31m",                  "the runtime answers with gRPC status 2 (a b [31m)"),
            (2,  b"%zz%4",                         "the runtime answers with gRPC status 2 (%zz%4)"),
        ];
        for (code, message, want) in rows {
            let text = Problem::of_status(code, message).to_string();
            assert!(text.starts_with(want), "{text}");
        }
        let Problem::Status { message, .. } = Problem::of_status(2, &[b'x'; 5000]) else { panic!("it is a status") };
        assert_eq!(message.len(), WORDS_MAX_CHARS);
    }

    #[test]
    fn what_a_failure_to_connect_says() {
        let text = |kind: io::ErrorKind| Problem::of_connecting(kind.into()).to_string();
        assert!(text(io::ErrorKind::NotFound).starts_with("there is no such socket"));
        assert!(text(io::ErrorKind::ConnectionRefused).starts_with("nobody listens there"));
        assert!(text(io::ErrorKind::PermissionDenied).starts_with("permission denied"));
        assert!(text(io::ErrorKind::WouldBlock).contains("look whether"));
    }
}
