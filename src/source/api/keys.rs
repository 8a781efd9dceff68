//! A few keys of objects, in order: what a pod names, and the pods that name an object.
//!
//! Most of these sets have one member or two, and there are several for each pod: a B-tree would take room for eleven in
//! each, also where nothing is left in it.

use crate::checkpoint::object::ObjectKey;

/// A set of keys that takes no more memory than they do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys(Vec<ObjectKey>);

impl Keys {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &ObjectKey> {
        self.0.iter()
    }

    /// Adds one, unless it is there.
    pub(super) fn insert(&mut self, key: ObjectKey) {
        if let Err(at) = self.0.binary_search(&key) {
            if self.0.is_empty() {
                // A vector would begin with four.
                self.0.reserve_exact(1);
            }
            self.0.insert(at, key);
        }
    }

    /// Takes one out, if it is there.
    pub(super) fn remove(&mut self, key: &ObjectKey) {
        if let Ok(at) = self.0.binary_search(key) {
            self.0.remove(at);
        }
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }

    /// Those that `other` has not.
    pub(super) fn difference<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a ObjectKey> {
        self.0.iter().filter(|key| other.0.binary_search(key).is_err())
    }
}

impl FromIterator<ObjectKey> for Keys {
    fn from_iter<I: IntoIterator<Item = ObjectKey>>(keys: I) -> Self {
        let mut keys: Vec<ObjectKey> = keys.into_iter().collect();
        keys.sort_unstable();
        keys.dedup();
        keys.shrink_to_fit();
        Self(keys)
    }
}

impl IntoIterator for Keys {
    type Item = ObjectKey;
    type IntoIter = std::vec::IntoIter<ObjectKey>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::checkpoint::object::Kind;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(Kind::Secret, "shop", name).unwrap()
    }

    fn keys(names: &str) -> Keys {
        names.split_terminator(' ').map(key).collect()
    }

    #[test]
    fn it_does_what_a_set_does() {
        // Every sequence of six insertions and removals of three names, against the library's set.
        for mut code in 0..6_usize.pow(6) {
            let (mut ours, mut model) = (Keys::default(), BTreeSet::new());
            for _ in 0..6 {
                let name = key(["a", "b", "c"][code % 3]);
                if code / 3 % 2 == 0 {
                    ours.insert(name.clone());
                    model.insert(name);
                } else {
                    ours.remove(&name);
                    model.remove(&name);
                }
                code /= 6;
                assert!(ours.iter().eq(&model), "{ours:?} {model:?}");
                assert_eq!(ours.is_empty(), model.is_empty());
            }
            assert!(ours.into_iter().eq(model));
        }
    }

    #[test]
    fn keys_are_gathered_and_compared() {
        assert_eq!(keys("c a b a"), keys("a b c"));
        #[rustfmt::skip]
        let rows = [
            ("",      "a",   ""),
            ("a b",   "",    "a b"),
            ("a b c", "b d", "a c"),
            ("a b",   "b a", ""),
        ];
        for (ours, other, want) in rows {
            let (ours, other) = (keys(ours), keys(other));
            assert!(ours.difference(&other).eq(keys(want).iter()), "{ours:?} {other:?}");
        }
    }

    #[test]
    fn it_takes_no_more_room_than_its_members() {
        let mut one = Keys::default();
        one.insert(key("a"));
        assert_eq!(one.0.capacity(), 1);
        one.remove(&key("a"));
        assert_eq!(one.0.capacity(), 0);
        assert_eq!(keys("a a b").0.capacity(), 2);
    }
}
