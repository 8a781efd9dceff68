//! Bytes of a watch, cut anywhere, become events.
//!
//! The API server writes one JSON object per line: `{"type":"ADDED","object":{...}}`. What waits for the rest of its line
//! may be a Secret in clear text, so the buffer is wiped wherever bytes leave it.

use std::io::BufRead as _;

use zeroize::{Zeroize, Zeroizing};

use super::body::{self, BodyError, BodyProblem, ErrorStatus, Members};
use crate::checkpoint::object::{Kind, Object};

/// The longest line. An object of etcd's limit (1.5 MiB by default, 8 MiB where raised) with escapes stays below it.
pub const LINE_MAX_BYTES: usize = 16 * 1024 * 1024;

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An object is new or different.
    Applied(Object),
    /// An object is gone, or left the selector; this was its last state, with its UID.
    Deleted(Object),
    /// Nothing happened up to this resourceVersion.
    Bookmark {
        /// Where a later watch can go on.
        resource_version: String,
        /// The objects that were there at the start have all been told (`sendInitialEvents`).
        initial_events_end: bool,
    },
    /// The server ends the watch, most often with 410 Expired.
    Error(ErrorStatus),
}

/// A line that is no event. Never carries a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// A line is longer than any object of Kubernetes; the decoder is finished.
    #[error("cannot read a watch event: it is longer than {LINE_MAX_BYTES} bytes")]
    TooLong,
    /// The line is no JSON object with `type` and `object`. The stream can't be trusted from here on.
    #[error("cannot read a watch event: {0}")]
    Malformed(BodyProblem),
    /// The event is of a type that this program doesn't know.
    #[error("cannot read a watch event: its type is none of ADDED, MODIFIED, DELETED, BOOKMARK and ERROR")]
    UnknownType,
    /// An ERROR event without a `Status` in it.
    #[error("cannot read a watch event of type ERROR: it holds no Status of a failure")]
    NoStatus,
    /// The event is in order and its object is not. The decoder goes on with the next line.
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// Cuts a watch's bytes into events. As an iterator it gives what is complete so far, and more after another
/// [`Decoder::push`].
pub struct Decoder {
    kind: Kind,
    pending: Zeroizing<Vec<u8>>,
    /// Where the first line that was not told yet begins.
    start: usize,
    /// Up to where there is no line end, so that no byte is searched twice.
    searched: usize,
    finished: bool,
}

impl Decoder {
    /// For a watch of objects of `kind`.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self { kind, pending: Zeroizing::default(), start: 0, searched: 0, finished: false }
    }

    /// Takes the next bytes of the stream. After [`EventError::TooLong`] they are dropped.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.finished {
            return;
        }
        if self.pending.capacity() - self.pending.len() < bytes.len() {
            // Growing in place would leave a copy behind, so that the buffer is replaced and the old one wiped by its drop.
            let rest = &self.pending[self.start..];
            let needed = rest.len() + bytes.len();
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(2 * rest.len())));
            larger.extend_from_slice(rest);
            self.searched -= self.start;
            self.start = 0;
            self.pending = larger;
        }
        self.pending.extend_from_slice(bytes);
    }

    /// Whether the bytes so far end in the middle of an event. To be asked when the stream has ended and every complete
    /// event was taken: the rest is dropped, and the caller goes on from the last resourceVersion that it has.
    #[must_use]
    pub fn is_inside_event(&self) -> bool {
        !self.pending[self.start..].trim_ascii().is_empty()
    }

    fn finish(&mut self) -> EventError {
        self.finished = true;
        self.clear();
        EventError::TooLong
    }

    /// Forgets the bytes up to `end`, wiped.
    fn consume(&mut self, end: usize) {
        self.pending[self.start..end].zeroize();
        self.start = end;
        self.searched = end;
        if end == self.pending.len() {
            self.clear();
        }
    }

    /// Hundreds of watches are silent most of the time: an empty buffer keeps no memory.
    fn clear(&mut self) {
        self.pending = Zeroizing::default();
        self.start = 0;
        self.searched = 0;
    }
}

impl Iterator for Decoder {
    type Item = Result<Event, EventError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.finished {
            let Some(length) = line_end(&self.pending[self.searched..]) else {
                self.searched = self.pending.len();
                let too_long = self.searched - self.start > LINE_MAX_BYTES;
                return too_long.then(|| Err(self.finish()));
            };
            let end = self.searched + length;
            if end - self.start > LINE_MAX_BYTES {
                return Some(Err(self.finish()));
            }
            let line = &self.pending[self.start..end];
            let event = (!line.trim_ascii().is_empty()).then(|| event(line, self.kind));
            self.consume(end + 1);
            if event.is_some() {
                return event;
            }
        }
        None
    }
}

/// Where the first line ends.
fn line_end(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    // The library's search for one byte, several times as fast as a loop over them.
    let read = rest.skip_until(b'\n').expect("a slice is read without errors");
    bytes[..read].ends_with(b"\n").then(|| read - 1)
}

/// Type and object of an event as API servers spell it, so that the object is not searched for its end before it is read.
/// What is cut out must be read as a whole to be known for one object.
fn usual(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = line.strip_prefix(br#"{"type":""#)?;
    let end = rest.iter().position(|b| *b == b'"')?;
    let object = rest[end..].strip_prefix(br#"","object":"#)?.strip_suffix(b"}")?;
    Some((&rest[..end], object))
}

fn event(line: &[u8], kind: Kind) -> Result<Event, EventError> {
    let read = |object| body::object(object, kind).ok();
    let usual = match usual(line) {
        Some((b"ADDED" | b"MODIFIED", object)) => read(object).map(Event::Applied),
        Some((b"DELETED", object)) => read(object).map(Event::Deleted),
        Some(_) | None => None,
    };
    if let Some(event) = usual {
        return Ok(event);
    }
    // Anything else, and what is wrong with it.
    let members = Members::read(line, "the event").map_err(EventError::Malformed)?;
    let missing = |field, expected| EventError::Malformed(BodyProblem::Form { field, expected });
    let kind_of_event = members.text("type").ok_or_else(|| missing("type", "text"))?;
    let object = members.get("object").ok_or_else(|| missing("object", "there"))?.as_bytes();
    match kind_of_event.as_ref() {
        "ADDED" | "MODIFIED" => Ok(Event::Applied(body::object(object, kind)?)),
        "DELETED" => Ok(Event::Deleted(body::object(object, kind)?)),
        "BOOKMARK" => bookmark(object).map_err(|problem| BodyError { kind, list: false, object: None, problem }.into()),
        "ERROR" => body::error_status(object).map(Event::Error).ok_or(EventError::NoStatus),
        _ => Err(EventError::UnknownType),
    }
}

/// A bookmark's object has nothing but a resourceVersion, and an annotation at the end of the initial events.
fn bookmark(object: &[u8]) -> Result<Event, BodyProblem> {
    let metadata = body::metadata(&Members::read(object, "the object")?)?;
    let annotations = metadata.get("annotations").and_then(|raw| Members::read(raw.as_bytes(), "annotations").ok());
    let end = annotations.and_then(|annotations| annotations.text("k8s.io/initial-events-end"));
    Ok(Event::Bookmark {
        resource_version: body::resource_version(&metadata)?,
        initial_events_end: end.is_some_and(|text| text == "true"),
    })
}

#[cfg(test)]
mod tests;
