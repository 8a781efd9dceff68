//! Sorts the errors of the network libraries, by the types in their chain of causes.

use std::error::Error;
use std::io;

use rustls::{AlertDescription as Alert, CertificateError};

use super::certificate::{Validity, date};
use super::reach::{Cause, Failure};

/// Whether an attempt to connect was refused or ended by the other side, before it has said anything.
pub(super) fn is_turned_away(error: &(dyn Error + 'static)) -> bool {
    let mut link = Some(error);
    while let Some(error) = link {
        if error.downcast_ref::<rustls::Error>().is_some() {
            return false;
        }
        link = match error.downcast_ref::<io::Error>() {
            Some(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof => return true,
                _ => error.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            },
            None => error.source(),
        };
    }
    false
}

/// What a failed connection or request comes to. `client` is the certificate that we showed. The result does not say what
/// was attempted; the caller puts that before it.
pub(super) fn sort(error: &(dyn Error + 'static), client: Option<&Validity>) -> Failure {
    let mut link = Some(error);
    let mut last_io = None;
    while let Some(error) = link {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return tls(error, client);
        }
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return http2(error);
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout) {
            return unreachable("no answer to keep-alive pings: the peer or the way to it is dead");
        }
        link = match error.downcast_ref::<io::Error>() {
            Some(error) => {
                last_io = Some(error);
                // `source` of an `io::Error` leaves out the error that it wraps.
                error.get_ref().map(|inner| inner as &(dyn Error + 'static))
            }
            None => error.source(),
        };
    }
    if let Some(error) = last_io {
        return lost(error);
    }
    match error.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_canceled() || error.is_closed() || error.is_incomplete_message() => {
            unreachable("the connection was closed before an answer came")
        }
        _ => Failure::Garbage(Cause("it does not speak HTTP/2 as it should".to_owned())),
    }
}

fn unreachable(text: &str) -> Failure {
    Failure::Unreachable(Cause(text.to_owned()))
}

fn lost(error: &io::Error) -> Failure {
    match error.kind() {
        // A server that was killed does not end TLS as it should, and rustls explains that at length.
        io::ErrorKind::UnexpectedEof => unreachable("the server closed the connection"),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => Failure::NoRoute(Cause(error.to_string())),
        // The standard library gives a failed look-up no kind of its own.
        _ if error.to_string().starts_with("failed to lookup address information") => {
            Failure::NoRoute(Cause(error.to_string()))
        }
        _ => unreachable(&error.to_string()),
    }
}

/// Debug data of a GOAWAY is the peer's text and is left out.
fn http2(error: &h2::Error) -> Failure {
    if let Some(error) = error.get_io() {
        return lost(error);
    }
    let reason = error.reason();
    if error.is_go_away() && error.is_remote() && reason == Some(h2::Reason::NO_ERROR) {
        return unreachable("the server is shutting the connection down");
    }
    let what = if error.is_remote() { "the server broke off" } else { "the server broke the rules of HTTP/2" };
    let reason = reason.map_or_else(String::new, |reason| format!(" ({})", reason.description()));
    Failure::Garbage(Cause(format!("{what}{reason}")))
}

fn tls(error: &rustls::Error, client: Option<&Validity>) -> Failure {
    use CertificateError as Certificate;
    let clock = |text: String| Failure::ClockDependent(Cause(format!("the server's certificate {text}")));
    let by_our_clock =
        |time: &rustls::pki_types::UnixTime| format!("by this node's clock it is {}", date(time.as_secs()));
    let untrusted = |text: String| Failure::Untrusted(Cause(text));
    match error {
        rustls::Error::InvalidCertificate(error) => match error {
            Certificate::Expired => clock("is expired".into()),
            Certificate::ExpiredContext { time, not_after } => {
                clock(format!("expired on {}; {}", date(not_after.as_secs()), by_our_clock(time)))
            }
            Certificate::NotValidYet => clock("is not yet valid".into()),
            Certificate::NotValidYetContext { time, not_before } => {
                clock(format!("is not valid before {}; {}", date(not_before.as_secs()), by_our_clock(time)))
            }
            Certificate::UnknownIssuer => untrusted("the server's certificate is not of a CA that we trust".into()),
            Certificate::NotValidForName => untrusted("the server's certificate is for another name".into()),
            Certificate::NotValidForNameContext { expected, presented } => {
                let expected = expected.to_str();
                untrusted(format!("the server's certificate is not for {expected} but for {}", names(presented)))
            }
            Certificate::BadSignature => untrusted(
                "the server's certificate is of a CA with the name of ours and another key (is it another cluster?)"
                    .into(),
            ),
            Certificate::Revoked => untrusted("the server's certificate is revoked".into()),
            Certificate::InvalidPurpose | Certificate::InvalidPurposeContext { .. } => {
                untrusted("the server's certificate is not one for servers".into())
            }
            _ => untrusted("the server's certificate can't be used".into()),
        },
        rustls::Error::FailedToGetCurrentTime => clock("can't be judged: the clock is before 1970".into()),
        rustls::Error::AlertReceived(alert) => match alert {
            Alert::CertificateExpired => refused(client, "is expired"),
            Alert::CertificateRevoked => refused(client, "is revoked"),
            Alert::UnknownCA => refused(client, "is not of a CA that it trusts"),
            Alert::CertificateRequired => refused(client, "is missing"),
            Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown | Alert::AccessDenied => {
                refused(client, "is not accepted")
            }
            Alert::DecryptError if client.is_some() => refused(client, "is not accepted"),
            Alert::NoApplicationProtocol => no_http2(),
            other => untrusted(format!("the server ended TLS with alert {other:?}")),
        },
        rustls::Error::InvalidMessage(_) => untrusted("what answers does not speak TLS".into()),
        rustls::Error::PeerIncompatible(_) => untrusted("the server has no version of TLS that we speak".into()),
        _ => untrusted("the TLS handshake failed".into()),
    }
}

/// The peer offers HTTP/1.1 at most.
pub(super) fn no_http2() -> Failure {
    Failure::Garbage(Cause("what answers does not speak HTTP/2, which every API server does".to_owned()))
}

fn refused(client: Option<&Validity>, why: &str) -> Failure {
    let which = client.map_or_else(
        || "the client certificate (we have none)".to_owned(),
        |client| {
            let (from, to) = (date(client.not_before_unix_s), date(client.not_after_unix_s));
            format!(
                "the client certificate {} in {}, valid from {from} to {to},",
                client.subject,
                client.file.display()
            )
        },
    );
    Failure::ClientRefused(Cause(format!("the server says that {which} {why}")))
}

/// Names as a certificate has them. The peer wrote them, so they are cut and cleaned; rustls gives them as
/// `DnsName("...")` and `IpAddress(...)`.
fn names(presented: &[String]) -> String {
    let clean = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
        inner.trim_matches('"').chars().filter(char::is_ascii_graphic).take(100).collect::<String>()
    };
    match presented {
        [] => "no name".to_owned(),
        names => names.iter().take(5).map(clean).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::{ServerName, UnixTime};
    use std::time::Duration;

    fn of_tls(error: rustls::Error) -> Failure {
        let client = Validity {
            subject: "CN=system:node:n1".into(),
            not_before_unix_s: 0,
            not_after_unix_s: 60,
            file: "/c.pem".into(),
        };
        // As hyper-rustls wraps it.
        sort(&io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error)), Some(&client))
    }

    #[test]
    fn every_way_in_which_tls_fails() {
        use Failure::{ClientRefused, ClockDependent, Garbage, Untrusted};
        use rustls::Error::{AlertReceived, InvalidCertificate};
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = || ServerName::try_from("10.0.0.1").unwrap();
        let presented = vec!["DnsName(\"a\u{1b}[2J\")".to_owned(), "IpAddress(10.0.0.2)".to_owned(), "b".repeat(300)];
        let long = "b".repeat(100);
        let mine = "the server says that the client certificate CN=system:node:n1 in /c.pem, valid from \
                    1970-01-01T00:00:00Z to 1970-01-01T00:01:00Z,";
        #[rustfmt::skip]
        let table = [
            (InvalidCertificate(CertificateError::Expired), ClockDependent as fn(Cause) -> Failure, "the server's certificate is expired".to_owned()),
            (InvalidCertificate(CertificateError::ExpiredContext { time: at(120), not_after: at(60) }), ClockDependent,
                "the server's certificate expired on 1970-01-01T00:01:00Z; by this node's clock it is 1970-01-01T00:02:00Z".into()),
            (InvalidCertificate(CertificateError::NotValidYet), ClockDependent, "the server's certificate is not yet valid".into()),
            (InvalidCertificate(CertificateError::NotValidYetContext { time: at(0), not_before: at(60) }), ClockDependent,
                "the server's certificate is not valid before 1970-01-01T00:01:00Z; by this node's clock it is 1970-01-01T00:00:00Z".into()),
            (rustls::Error::FailedToGetCurrentTime, ClockDependent,
                "the server's certificate can't be judged: the clock is before 1970".into()),
            (InvalidCertificate(CertificateError::UnknownIssuer), Untrusted, "the server's certificate is not of a CA that we trust".into()),
            (InvalidCertificate(CertificateError::NotValidForNameContext { expected: name(), presented }), Untrusted,
                format!("the server's certificate is not for 10.0.0.1 but for a[2J, 10.0.0.2, {long}")),
            (InvalidCertificate(CertificateError::NotValidForNameContext { expected: name(), presented: vec![] }), Untrusted,
                "the server's certificate is not for 10.0.0.1 but for no name".into()),
            (InvalidCertificate(CertificateError::BadSignature), Untrusted,
                "the server's certificate is of a CA with the name of ours and another key (is it another cluster?)".into()),
            (AlertReceived(Alert::CertificateExpired), ClientRefused, format!("{mine} is expired")),
            (AlertReceived(Alert::UnknownCA), ClientRefused, format!("{mine} is not of a CA that it trusts")),
            (AlertReceived(Alert::BadCertificate), ClientRefused, format!("{mine} is not accepted")),
            (AlertReceived(Alert::DecryptError), ClientRefused, format!("{mine} is not accepted")),
            (AlertReceived(Alert::CertificateRequired), ClientRefused, format!("{mine} is missing")),
            (AlertReceived(Alert::NoApplicationProtocol), Garbage, "what answers does not speak HTTP/2, which every API server does".into()),
            (AlertReceived(Alert::HandshakeFailure), Untrusted, "the server ended TLS with alert HandshakeFailure".into()),
            (rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), Untrusted, "what answers does not speak TLS".into()),
            (rustls::Error::DecryptError, Untrusted, "the TLS handshake failed".into()),
        ];
        for (error, kind, text) in table {
            let shown = format!("{error:?}");
            assert_eq!(of_tls(error), kind(Cause(text)), "{shown}");
        }
    }

    #[test]
    fn who_is_turned_away() {
        use io::ErrorKind as Kind;
        #[rustfmt::skip]
        let table = [
            (Kind::ConnectionRefused,  true),
            (Kind::ConnectionReset,    true),
            (Kind::ConnectionAborted,  true),
            (Kind::BrokenPipe,         true),
            (Kind::UnexpectedEof,      true),
            // It is the network, or nobody knows.
            (Kind::TimedOut,           false),
            (Kind::HostUnreachable,    false),
            (Kind::NetworkUnreachable, false),
            (Kind::NetworkDown,        false),
            (Kind::Other,              false),
        ];
        for (kind, want) in table {
            assert_eq!(is_turned_away(&io::Error::from(kind)), want, "{kind:?}");
            assert_eq!(is_turned_away(&io::Error::other(io::Error::from(kind))), want, "{kind:?}, wrapped");
        }
        // Whoever speaks TLS is there.
        let tls = io::Error::new(Kind::InvalidData, rustls::Error::AlertReceived(Alert::AccessDenied));
        assert!(!is_turned_away(&io::Error::other(tls)));
    }

    #[test]
    fn the_network_and_http2() {
        let text = |kind: io::ErrorKind| match kind {
            io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
            kind => io::Error::from(kind).to_string(),
        };
        let lost = |kind: io::ErrorKind| Failure::Unreachable(Cause(text(kind)));
        for kind in [
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::HostUnreachable,
            io::ErrorKind::TimedOut,
            io::ErrorKind::BrokenPipe,
        ] {
            assert_eq!(sort(&io::Error::from(kind), None), lost(kind));
            assert_eq!(sort(&io::Error::other(io::Error::from(kind)), None), lost(kind), "wrapped");
        }
        // A network that is not up says nothing of the server.
        let of_this_node = [
            io::Error::from(io::ErrorKind::NetworkUnreachable),
            io::Error::from(io::ErrorKind::NetworkDown),
            io::Error::other("failed to lookup address information: Name or service not known"),
        ];
        for error in of_this_node {
            let text = error.to_string();
            assert_eq!(sort(&error, None), Failure::NoRoute(Cause(text.clone())));
            assert_eq!(sort(&io::Error::other(error), None), Failure::NoRoute(Cause(text)), "wrapped");
        }
        let ended = io::Error::new(io::ErrorKind::UnexpectedEof, "a page about close_notify");
        assert_eq!(sort(&ended, None), Failure::Unreachable(Cause("the server closed the connection".into())));
        let reset = h2::Error::from(h2::Reason::INTERNAL_ERROR);
        let said = "the server broke the rules of HTTP/2 (unexpected internal error encountered)";
        assert_eq!(sort(&reset, None), Failure::Garbage(Cause(said.into())));
        assert!(matches!(sort(&std::fmt::Error, None), Failure::Garbage(_)));
        assert!(
            matches!(tls(&rustls::Error::AlertReceived(Alert::CertificateRequired), None), Failure::ClientRefused(Cause(text))
            if text == "the server says that the client certificate (we have none) is missing")
        );
    }
}
