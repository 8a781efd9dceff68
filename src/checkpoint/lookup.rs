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
    /// It is stored, but no node key at hand opens the store.
    Sealed,
    /// The store has no data key yet, so the Secret was not stored.
    NoKeyYet,
    /// Its record is damaged and quarantined.
    Damaged,
}

/// A consistent set of stored objects.
pub trait Objects {
    /// Looks one object up.
    fn get(&self, key: &ObjectKey) -> Lookup;
}
