//! What each fuzz target does with its octets, in one place: cargo-fuzz runs these functions with octets of its own making,
//! and the ordinary test `tests/corpus.rs` with every file of `fuzz/corpus/`.
//!
//! A body panics where a promise is broken. Hangs and memory are the runner's to notice.

#![allow(clippy::unwrap_used, reason = "a failure here is a finding")]

pub mod admin_request;
pub mod api_payload;
pub mod image;
pub mod key_files;
pub mod key_slots;
pub mod manifests;
pub mod pipeline;
pub mod records;
pub mod recovery_code;
pub mod store_image;

/// A target's name, which is also that of its directory in the corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 8] = [
    ("records", records::run),
    ("key_slots", key_slots::run),
    ("key_files", key_files::run),
    ("manifests", manifests::run),
    ("api_payload", api_payload::run),
    ("store_image", store_image::run),
    ("recovery_code", recovery_code::run),
    ("admin_request", admin_request::run),
];

/// Takes octets off the front of an input, as small numbers that say what is to be done with the rest.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next octet; 0 where there is none.
    pub fn octet(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next `len` octets, or as many as there are.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A text of at most 255 octets, its length before it; what is no UTF-8 is left out.
    pub fn text(&mut self) -> String {
        let len = self.octet().into();
        String::from_utf8_lossy(self.take(len)).into_owned()
    }

    /// Octets with their length before them, in two octets.
    pub fn blob(&mut self) -> &'a [u8] {
        let len = usize::from(self.octet()) | usize::from(self.octet()) << 8;
        self.take(len)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Asserts that a message stays on its line and leaves the terminal alone, whatever it is about.
pub fn assert_shown(message: &str) {
    let acts = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    assert!(!message.contains(acts), "{message:?}");
}
