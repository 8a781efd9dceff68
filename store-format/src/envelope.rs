//! The envelope around a stored object: whose bytes these are, how they are coded, and which objects they need.

use std::fmt;

use crate::codec::{self, EnvelopeWire, LAYOUT_VERSION, LinkWire, fits, limit, text, text_fits};
use crate::{BODY_MAX_BYTES, DecodeError, EncodeError, RECORD_MAX_BYTES, Record};

/// The most links one envelope may hold.
pub const LINKS_MAX: usize = 4096;

const RECORD: Record = Record::Envelope;

/// How the clear body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all: the body is the object's JSON.
    None,
}

impl Codec {
    const fn code(self) -> u8 {
        match self {
            Self::None => 0,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::None),
            _ => None,
        }
    }
}

/// Whether the body is readable as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// The body is the object itself.
    Clear,
    /// The body is a [`crate::SealedBody`].
    Sealed,
}

impl Form {
    const fn code(self) -> u8 {
        match self {
            Self::Clear => 0,
            Self::Sealed => 1,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Clear),
            1 => Some(Self::Sealed),
            _ => None,
        }
    }
}

/// An object that the enveloped one needs, so that a missing one is noticed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link {
    /// Kubernetes kind, e.g. `Secret`.
    pub kind: String,
    /// Namespace; empty for a kind without.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// One stored object, table `objects`.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Kubernetes kind, e.g. `Pod`; equal to the first part of the key.
    pub kind: String,
    /// Namespace, empty for a kind without; equal to the second part of the key.
    pub namespace: String,
    /// `metadata.name`; equal to the third part of the key.
    pub name: String,
    /// `metadata.uid`. An object of another UID is another object.
    pub uid: String,
    /// `metadata.resourceVersion`, opaque: compared for equality only.
    pub resource_version: String,
    /// When the record was written, in milliseconds since 1970-01-01T00:00:00Z by the node's clock.
    pub stored_at_unix_ms: u64,
    /// How the clear body is compressed.
    pub codec: Codec,
    /// Whether `body` is sealed.
    pub form: Form,
    /// What the object needs, in the order the writer gave.
    pub links: Vec<Link>,
    /// The object's JSON, or a [`crate::SealedBody`] of it.
    pub body: Vec<u8>,
}

impl fmt::Debug for Envelope {
    /// Everything but the body, of which only the length is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("kind", &self.kind)
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .field("uid", &self.uid)
            .field("resource_version", &self.resource_version)
            .field("stored_at_unix_ms", &self.stored_at_unix_ms)
            .field("codec", &self.codec)
            .field("form", &self.form)
            .field("links", &self.links)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

impl Envelope {
    /// The payload of the object's record.
    ///
    /// # Errors
    /// A text, the list of links, the body or the whole is over its limit. Nothing is cut short to fit.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        text_fits(RECORD, "kind", &self.kind)?;
        text_fits(RECORD, "namespace", &self.namespace)?;
        text_fits(RECORD, "name", &self.name)?;
        text_fits(RECORD, "uid", &self.uid)?;
        text_fits(RECORD, "resourceVersion", &self.resource_version)?;
        fits(RECORD, "links", self.links.len(), LINKS_MAX)?;
        for link in &self.links {
            text_fits(RECORD, "link kind", &link.kind)?;
            text_fits(RECORD, "link namespace", &link.namespace)?;
            text_fits(RECORD, "link name", &link.name)?;
        }
        fits(RECORD, "body", self.body.len(), BODY_MAX_BYTES)?;
        let links =
            self.links.iter().map(|link| LinkWire { kind: &link.kind, namespace: &link.namespace, name: &link.name });
        let wire = EnvelopeWire {
            kind: &self.kind,
            namespace: &self.namespace,
            name: &self.name,
            uid: &self.uid,
            resource_version: &self.resource_version,
            stored_at_unix_ms: self.stored_at_unix_ms,
            codec: self.codec.code(),
            form: self.form.code(),
            links: links.collect(),
            body: &self.body,
        };
        let payload = codec::encode(&[LAYOUT_VERSION], &wire);
        fits(RECORD, "record", payload.len(), RECORD_MAX_BYTES)?;
        Ok(payload)
    }

    /// Reads the payload of an object's record. The caller has checked the digest, and compares the key.
    ///
    /// # Errors
    /// `envelope.*`: see `SPEC.md`.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let wire: EnvelopeWire<'_> = codec::decode(RECORD, codec::after_version(RECORD, payload)?)?;
        limit(RECORD, "links", wire.links.len(), LINKS_MAX)?;
        limit(RECORD, "body", wire.body.len(), BODY_MAX_BYTES)?;
        let code = |field, found| DecodeError::Code { record: RECORD, field, found };
        let link = |link: &LinkWire<'_>| {
            Ok(Link {
                kind: text(RECORD, "link kind", link.kind)?,
                namespace: text(RECORD, "link namespace", link.namespace)?,
                name: text(RECORD, "link name", link.name)?,
            })
        };
        Ok(Self {
            kind: text(RECORD, "kind", wire.kind)?,
            namespace: text(RECORD, "namespace", wire.namespace)?,
            name: text(RECORD, "name", wire.name)?,
            uid: text(RECORD, "uid", wire.uid)?,
            resource_version: text(RECORD, "resourceVersion", wire.resource_version)?,
            stored_at_unix_ms: wire.stored_at_unix_ms,
            codec: Codec::from_code(wire.codec).ok_or_else(|| code("codec", wire.codec))?,
            form: Form::from_code(wire.form).ok_or_else(|| code("form", wire.form))?,
            links: wire.links.iter().map(link).collect::<Result<_, DecodeError>>()?,
            body: wire.body.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_body() {
        let envelope = Envelope {
            kind: "Secret".to_owned(),
            namespace: "ns".to_owned(),
            name: "token".to_owned(),
            uid: String::new(),
            resource_version: String::new(),
            stored_at_unix_ms: 0,
            codec: Codec::None,
            form: Form::Clear,
            links: Vec::new(),
            body: b"canary".to_vec(),
        };
        let shown = format!("{envelope:?}");
        assert!(shown.contains("token") && shown.contains("body_bytes: 6"), "{shown}");
        assert!(!shown.contains("canary") && !shown.contains("99, 97"), "{shown}");
    }
}
