//! Clear text and key material in memory: bytes that are wiped on drop and can't be printed.
//!
//! [`Clear`] has no `Debug`, `Display` or `Serialize`, so that neither a log line nor an error can carry its contents by
//! accident. Whoever needs the bytes says so with [`Clear::expose`], which is easy to search for in a review.

use zeroize::Zeroizing;

/// Bytes that may be secret. Wiped on drop.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Clear(Zeroizing<Vec<u8>>);

impl Clear {
    /// Takes over `bytes`; they are wiped when the value is dropped.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves. Callers must not copy them into anything that outlives the need.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes there are; not secret here (the file size tells it as well).
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for Clear {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl From<String> for Clear {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}
