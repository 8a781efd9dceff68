//! One file name as a type, so that no path component can leave its directory.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// The prefix of every temporary file and marker of ours. The kubelet ignores names that start with a dot.
pub(super) const OWN_PREFIX: &str = ".ckpt-db.";

/// A single path component: 1 to 255 bytes without `/` and NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(OsString);

impl Name {
    /// Checks `text`; `None` if it is no single component.
    pub(super) fn new(text: impl AsRef<OsStr>) -> Option<Self> {
        let text = text.as_ref();
        let bytes = text.as_bytes();
        let fits = (1..=255).contains(&bytes.len())
            && !bytes.iter().any(|b| matches!(b, b'/' | 0))
            && !matches!(bytes, b"." | b"..");
        fits.then(|| Self(text.to_owned()))
    }

    /// A name that stands in our source.
    pub(super) fn of(text: &'static str) -> Self {
        Self::new(text).expect("names in the source are single components")
    }

    /// A name that stands in our source, with a number behind it.
    pub(super) fn numbered(text: &'static str, number: usize) -> Self {
        Self::new(format!("{text}{number}")).expect("a number holds nothing that ends a component")
    }

    pub(super) fn as_os_str(&self) -> &OsStr {
        &self.0
    }

    /// The name as text; `None` if it is not UTF-8, and thus not ours.
    pub(super) fn text(&self) -> Option<&str> {
        self.0.to_str()
    }

    /// Whether it carries our prefix.
    pub(super) fn is_own(&self) -> bool {
        self.0.as_bytes().starts_with(OWN_PREFIX.as_bytes())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_components_are_names() {
        let longest = "x".repeat(255);
        let too_long = "x".repeat(256);
        #[rustfmt::skip]
        let rows = [
            ("a", true), ("..data", true), ("...", true), (".a", true), ("a b", true), (longest.as_str(), true),
            ("", false), (".", false), ("..", false), ("a/b", false), ("/", false), ("../a", false), ("a\0", false),
            (too_long.as_str(), false),
        ];
        for (text, want) in rows {
            assert_eq!(Name::new(text).is_some(), want, "{text:?}");
        }
    }
}
