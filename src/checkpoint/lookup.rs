//! Where translation gets the objects that a pod names.
//!
//! One object's clear text is handed out at a time and wiped when the caller drops it.

use super::object::{Object, ObjectKey};

/// The answer for one object. Each variant but `Found` is a different sentence in the verdict.
#[derive(Debug)]
pub enum Lookup {
    /// The object, opened if it was sealed.
    Found(Object),
    /// The store does not hold it.
    Missing,
    /// The store does not hold it, because the API server does not let this node read it.
    Forbidden,
    /// It is stored, but no node key at hand opens the store.
    Sealed,
    /// The store has no data key yet, so the Secret was not stored.
    NoKeyYet,
    /// Its record is damaged and quarantined.
    Damaged,
}

/// Why an object that a pod names is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Absence {
    /// The API server says that it does not exist.
    NotFound,
    /// The API server does not let this node read it.
    Forbidden,
}

/// A consistent set of stored objects.
pub trait Objects {
    /// Looks one object up.
    fn get(&self, key: &ObjectKey) -> Lookup;
}
