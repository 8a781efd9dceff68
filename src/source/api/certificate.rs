//! What certificates say: whose they are, how long they are valid, which public key they have. Verifies nothing.

use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::pem::{self, SectionKind};
use x509_cert::der::{DateTime, Decode as _, Encode as _, oid::ObjectIdentifier};

use crate::crypto;

/// `commonName` (RFC 4519, section 2.3).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Whose a client certificate is, and when it may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The subject, e.g. `CN=system:node:n1,O=system:nodes`.
    pub subject: String,
    /// First second of validity, since 1970.
    pub not_before_unix_s: u64,
    /// Last second of validity, since 1970.
    pub not_after_unix_s: u64,
    /// The file that it was read from.
    pub file: PathBuf,
}

impl Validity {
    /// What a clock says against the certificate: nothing, or that it is expired or not yet valid, by name and date.
    #[must_use]
    pub fn complaint(&self, now_unix_s: u64) -> Option<String> {
        let (what, at) = if now_unix_s > self.not_after_unix_s {
            ("expired on", self.not_after_unix_s)
        } else if now_unix_s < self.not_before_unix_s {
            ("is not valid before", self.not_before_unix_s)
        } else {
            return None;
        };
        Some(format!("the client certificate {} in {} {what} {}", self.subject, self.file.display(), date(at)))
    }
}

/// The certificate of a client: its validity and its common name.
pub(super) fn client(der: &[u8], file: PathBuf) -> Option<(Validity, Option<String>)> {
    let certificate = x509_cert::Certificate::from_der(der).ok()?.tbs_certificate;
    let mut attributes = certificate.subject.0.iter().rev().flat_map(|part| part.0.iter());
    let name = attributes.find(|attribute| attribute.oid == COMMON_NAME);
    let name = name.and_then(|attribute| String::from_utf8(attribute.value.value().to_vec()).ok());
    let validity = Validity {
        subject: certificate.subject.to_string(),
        not_before_unix_s: certificate.validity.not_before.to_unix_duration().as_secs(),
        not_after_unix_s: certificate.validity.not_after.to_unix_duration().as_secs(),
        file,
    };
    Some((validity, name))
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo.
pub(in crate::source) fn public_key_sha256(der: &[u8]) -> Option<[u8; 32]> {
    let certificate = x509_cert::Certificate::from_der(der).ok()?;
    let info = certificate.tbs_certificate.subject_public_key_info.to_der().ok()?;
    Some(crypto::sha256(&info))
}

/// The certificates of a PEM file in their order; `None` if a section is damaged.
pub(in crate::source) fn sections(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut reader = text;
    let mut found = Vec::new();
    while let Some((kind, der)) = pem::from_buf(&mut reader).ok()? {
        if kind == SectionKind::Certificate {
            found.push(der);
        }
    }
    Some(found)
}

/// A time as RFC 3339 has it.
pub(super) fn date(unix_s: u64) -> String {
    match DateTime::from_unix_duration(Duration::from_secs(unix_s)) {
        Ok(date) => date.to_string(),
        Err(_) => format!("second {unix_s} of the Unix epoch"),
    }
}

/// A time in RFC 3339, in UTC and whole seconds, as seconds since 1970.
pub(super) fn unix_s(date: &str) -> Option<u64> {
    date.parse::<DateTime>().ok().map(|date| date.unix_duration().as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_and_read() {
        for (seconds, text) in [(0, "1970-01-01T00:00:00Z"), (1_793_491_200, "2026-11-01T00:00:00Z")] {
            assert_eq!(date(seconds), text);
            assert_eq!(unix_s(text), Some(seconds));
        }
        assert_eq!(date(u64::MAX), "second 18446744073709551615 of the Unix epoch");
        for bad in ["", "2026-11-01", "2026-13-01T00:00:00Z", "2026-11-01T00:00:00+01:00"] {
            assert_eq!(unix_s(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_certificate_is_valid_from_its_first_to_its_last_second() {
        let validity = Validity {
            subject: "CN=system:node:n1".into(),
            not_before_unix_s: 100,
            not_after_unix_s: 200,
            file: "/pki/current.pem".into(),
        };
        let said = |now| validity.complaint(now).map(|text| text.replace("the client certificate ", ""));
        let begins = "CN=system:node:n1 in /pki/current.pem is not valid before 1970-01-01T00:01:40Z";
        let ended = "CN=system:node:n1 in /pki/current.pem expired on 1970-01-01T00:03:20Z";
        assert_eq!(said(99).as_deref(), Some(begins));
        assert_eq!(said(100), None);
        assert_eq!(said(200), None);
        assert_eq!(said(201).as_deref(), Some(ended));
    }

    #[test]
    fn what_is_no_certificate_says_nothing() {
        assert_eq!(client(b"", PathBuf::new()), None);
        assert_eq!(public_key_sha256(b"\x30\x00"), None);
        assert_eq!(sections(b"no PEM at all"), Some(vec![]));
        assert_eq!(sections(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), None);
        assert_eq!(sections(b"-----BEGIN CERTIFICATE-----\nAAAA\n"), None);
    }
}
