//! Where translation gets the objects that a pod names.
//!
//! Whoever makes files of them goes through a [`Reader`], which has one object's clear text open at a time: its types don't
//! allow a second one.

use std::marker::PhantomData;
use std::ops::Deref;

use super::data::{self, Data, DataError};
use super::object::{Object, ObjectKey};

/// The answer for one object. Each variant but `Found` is a different sentence in the verdict.
#[derive(Debug)]
pub enum Lookup<T = Object> {
    /// The object, opened if it was sealed.
    Found(T),
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

/// Opens objects one after the other.
///
/// ```
/// # use ckpt_db::checkpoint::lookup::{Lookup, Objects, Reader};
/// # use ckpt_db::checkpoint::object::ObjectKey;
/// fn one_by_one(objects: &dyn Objects, first: &ObjectKey, second: &ObjectKey) {
///     let mut reader = Reader::new(objects);
///     let one = reader.open(first);
///     drop(one);
///     let other = reader.open(second);
///     # drop(other);
/// }
/// ```
///
/// Two at a time do not compile:
/// ```compile_fail,E0499
/// # use ckpt_db::checkpoint::lookup::{Lookup, Objects, Reader};
/// # use ckpt_db::checkpoint::object::ObjectKey;
/// fn both(objects: &dyn Objects, first: &ObjectKey, second: &ObjectKey) {
///     let mut reader = Reader::new(objects);
///     let one = reader.open(first);
///     let other = reader.open(second);
///     drop((one, other));
/// }
/// ```
///
/// Nor does the decoded data of one beside another:
/// ```compile_fail,E0499
/// # use ckpt_db::checkpoint::lookup::{Lookup, Objects, Reader};
/// # use ckpt_db::checkpoint::object::ObjectKey;
/// fn data(objects: &dyn Objects, first: &ObjectKey, second: &ObjectKey) {
///     let mut reader = Reader::new(objects);
///     let Lookup::Found(one) = reader.open(first) else { return };
///     let data = one.into_data();
///     let other = reader.open(second);
///     drop((data, other));
/// }
/// ```
pub struct Reader<'o> {
    objects: &'o dyn Objects,
}

impl<'o> Reader<'o> {
    /// A reader of these objects.
    #[must_use]
    pub fn new(objects: &'o dyn Objects) -> Self {
        Self { objects }
    }

    /// Opens one object. No other can be opened before what is found, and what is made of it, is dropped and so wiped.
    pub fn open(&mut self, key: &ObjectKey) -> Lookup<Opened<'_>> {
        match self.objects.get(key) {
            Lookup::Found(object) => Lookup::Found(Opened { object, turn: PhantomData }),
            Lookup::Missing => Lookup::Missing,
            Lookup::Forbidden => Lookup::Forbidden,
            Lookup::Sealed => Lookup::Sealed,
            Lookup::NoKeyYet => Lookup::NoKeyYet,
            Lookup::Damaged => Lookup::Damaged,
        }
    }
}

/// The one object that a [`Reader`] has open. It has no `Debug`.
pub struct Opened<'r> {
    object: Object,
    /// Stands for the borrowed reader.
    turn: PhantomData<&'r mut ()>,
}

impl<'r> Opened<'r> {
    /// The object.
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// Its decoded data, in its place.
    ///
    /// # Errors
    /// As [`data::data`].
    pub fn into_data(self) -> Result<OpenedData<'r>, DataError> {
        data::data(&self.object).map(|data| OpenedData { data, turn: PhantomData })
    }
}

/// The data of the one object that a [`Reader`] has open. It has no `Debug`.
pub struct OpenedData<'r> {
    data: Data,
    /// Stands for the borrowed reader.
    turn: PhantomData<&'r mut ()>,
}

impl Deref for OpenedData<'_> {
    type Target = Data;

    fn deref(&self) -> &Data {
        &self.data
    }
}
