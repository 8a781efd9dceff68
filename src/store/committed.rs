//! Evidence of durability, as types.

use std::fmt;

/// Evidence that `T` is on disk, or was read from there.
///
/// Only this room makes one: by a commit, or by loading what an earlier commit left. Whoever renders, acknowledges,
/// activates or reports readiness takes one, so that "persist before act" is checked by the compiler.
#[derive(Clone, Debug)]
#[must_use = "what is durable but not acted on will be delivered again"]
pub struct Committed<T>(T);

impl<T> Committed<T> {
    pub(super) fn new(value: T) -> Self {
        Self(value)
    }

    /// For unit tests of code that asks for evidence.
    #[cfg(test)]
    pub(crate) fn pretended(value: T) -> Self {
        Self(value)
    }

    /// Looks at it.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// Something that follows from it alone, and so is as durable as it is.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Committed<U> {
        Committed(f(self.0))
    }

    /// Something that follows from a borrowed one.
    pub fn derive<U>(&self, f: impl FnOnce(&T) -> U) -> Committed<U> {
        Committed(f(&self.0))
    }

    /// Gives the evidence up.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// Counts the commits of one store that changed something; 0 is a new store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
