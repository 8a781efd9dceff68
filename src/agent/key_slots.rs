//! Keeps the store's key slots in step with the keys at hand.
//!
//! A kubelet's certificate rotation makes a new private key: it gets its slot while the store is open, whether or not the
//! earlier key is still there.

use std::fmt;

use store_format::Unlocker;

use super::key_bell::{KeyNews, key_news};
use super::store_thread::{KeepSlots, StoreHandle};
use crate::store::{Backend, Committed, LockState, SlotPolicy, SlotsKept, SlotsWanted, StoreError, fingerprint};

/// The keys at hand.
#[derive(Default)]
pub struct AtHand {
    /// Those that get a slot, in the order of preference.
    pub current: Vec<Unlocker>,
    /// Further ones. The first of them gets the first slot of a store for which there is no current key.
    pub others: Vec<Unlocker>,
}

impl AtHand {
    /// Those that get a slot in a store that is locked like this. One without a name that a slot could have is left out.
    #[must_use]
    pub fn wanted(self, lock: LockState) -> Vec<Unlocker> {
        let nameable = |unlocker: &Unlocker| fingerprint(unlocker).is_some();
        let mut wanted: Vec<Unlocker> = self.current.into_iter().filter(nameable).collect();
        if lock == LockState::Keyless && wanted.is_empty() {
            wanted.extend(self.others.into_iter().find(nameable));
        }
        wanted
    }
}

/// Which slots the store has.
#[derive(Clone, Copy, Debug)]
pub struct SlotRules {
    /// How many slots of node keys stay, the newest; at least one.
    pub node_keys_max: usize,
    /// Which kinds there may be.
    pub policy: SlotPolicy,
}

impl Default for SlotRules {
    /// Three node keys: that of now, and two from before a rotation.
    fn default() -> Self {
        Self { node_keys_max: 3, policy: SlotPolicy::Any }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotNews {
    /// The store had no data key, and has one now.
    FirstKey,
    /// Further keys open the store; the slots of earlier ones may have gone.
    Changed {
        /// How many slots are new.
        added: usize,
        /// How many have gone.
        removed: usize,
    },
    /// The keys have no slot, and why. It is tried again.
    NotKept(String),
}

impl fmt::Display for SlotNews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstKey => f.write_str("the store has its first key: Secrets are stored from now on"),
            Self::Changed { added: 0, removed } => {
                write!(f, "key slots of the store: {removed} of earlier keys removed")
            }
            Self::Changed { added, removed } => {
                let keys = if *added == 1 { "a new key opens" } else { "new keys open" };
                write!(f, "{keys} the store from now on")?;
                match removed {
                    0 => Ok(()),
                    1 => f.write_str("; the oldest key slot was removed"),
                    _ => write!(f, "; the {removed} oldest key slots were removed"),
                }
            }
            Self::NotKept(why) => write!(
                f,
                "a key of this node has no slot in the store yet, and would not open it after a restart: {why} (tried again \
                 until it works)"
            ),
        }
    }
}

/// Keeps slots, look after look.
pub struct KeySlots {
    /// Looks for keys.
    pub look: Box<dyn FnMut() -> AtHand + Send>,
    /// Reason to look.
    pub news: KeyNews,
    /// What there shall be.
    pub rules: SlotRules,
    /// What was told of a failure.
    pub told: Told,
}

/// What was told of a failure: once is enough.
#[derive(Clone, Debug, Default)]
pub struct Told(Option<String>);

impl KeySlots {
    /// No key at hand, and none that comes: the slots stay as they are.
    #[must_use]
    pub fn none() -> Self {
        let (_, news) = key_news();
        Self { look: Box::new(AtHand::default), news, rules: SlotRules::default(), told: Told::default() }
    }

    /// Looks for keys now and gives the current ones their slots.
    ///
    /// # Errors
    /// The store has to be opened anew. Any other failure is in the news, the first time.
    pub async fn keep(&mut self, store: &StoreHandle) -> Result<Option<SlotNews>, StoreError> {
        let lock = store.lock_state().await?;
        let wanted = (self.look)().wanted(lock);
        if wanted.is_empty() || lock == LockState::Locked {
            return Ok(None);
        }
        let SlotRules { node_keys_max, policy } = self.rules;
        let wanted =
            KeepSlots { add: wanted, remove: Vec::new(), node_keys_max: Some(node_keys_max), policy, fresh: false };
        let kept = store.keep_slots(wanted).await;
        self.told.news(lock, kept)
    }
}

/// The same for a caller that has the store itself.
///
/// # Errors
/// As [`KeySlots::keep`].
pub fn keep_slots(
    store: &mut dyn Backend,
    at_hand: AtHand,
    rules: SlotRules,
    told: &mut Told,
    now_unix_ms: u64,
) -> Result<Option<SlotNews>, StoreError> {
    let lock = store.lock_state();
    let wanted = at_hand.wanted(lock);
    if wanted.is_empty() || lock == LockState::Locked {
        return Ok(None);
    }
    let wanted: Vec<&Unlocker> = wanted.iter().collect();
    let wanted = SlotsWanted {
        add: &wanted,
        remove: &[],
        node_keys_max: Some(rules.node_keys_max),
        policy: rules.policy,
        fresh: false,
    };
    told.news(lock, store.keep_slots(&wanted, now_unix_ms))
}

impl Told {
    fn news(
        &mut self,
        before: LockState,
        kept: Result<Committed<SlotsKept>, StoreError>,
    ) -> Result<Option<SlotNews>, StoreError> {
        let kept = match kept {
            Ok(kept) => kept.into_inner(),
            Err(error) if error.needs_reopening() => return Err(error),
            Err(error) => {
                let why = why(&error);
                let news = (self.0.as_ref() != Some(&why)).then(|| SlotNews::NotKept(why.clone()));
                self.0 = Some(why);
                return Ok(news);
            }
        };
        self.0 = None;
        let (added, removed) = (kept.added.len(), kept.removed.len());
        Ok(match before {
            LockState::Keyless if added > 0 => Some(SlotNews::FirstKey),
            LockState::Keyless | LockState::Open | LockState::Locked => {
                (added + removed > 0).then_some(SlotNews::Changed { added, removed })
            }
        })
    }
}

/// An error with its causes.
fn why(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::generate_p256_pkcs8;
    use crate::store::MemoryStore;

    fn key() -> Unlocker {
        store_format::NodeSecret::from_pkcs8(generate_p256_pkcs8().unwrap().expose()).unwrap().into()
    }

    fn store() -> MemoryStore {
        let identity = store_format::Identity::new(store_format::StoreId([7; 16]), 0, "edge-1");
        MemoryStore::new(identity, Box::new(crate::crypto::SystemEntropy)).unwrap()
    }

    /// As on a node that joins, and whose kubelet then gets one certificate after the other.
    #[test]
    fn the_newest_keys_have_slots() {
        let (mut store, mut told) = (store(), Told::default());
        let keys: Vec<Unlocker> = (0..5).map(|_| key()).collect();
        let mut keep = |current: &[&Unlocker], others: &[&Unlocker]| {
            let owned = |keys: &[&Unlocker]| keys.iter().map(|key| (*key).clone()).collect();
            let at_hand = AtHand { current: owned(current), others: owned(others) };
            let news = keep_slots(&mut store, at_hand, SlotRules::default(), &mut told, 0).unwrap();
            let slots: Vec<_> = store.snapshot().unwrap().get().slots().iter().map(|slot| slot.fingerprint).collect();
            let there = keys.iter().map(|key| slots.contains(&fingerprint(key).unwrap())).collect::<Vec<_>>();
            (news, there)
        };
        let changed = |added, removed| Some(SlotNews::Changed { added, removed });
        let [a, b, c, d, e] = [&keys[0], &keys[1], &keys[2], &keys[3], &keys[4]];
        type Keys<'a> = &'a [&'a Unlocker];
        #[rustfmt::skip]
        let rows: [(Keys<'_>, Keys<'_>, Option<SlotNews>, [bool; 5]); 9] = [
            // current     others     news                       slots of a to e
            (&[],          &[],       None,                      [false, false, false, false, false]),
            (&[],          &[a, b],   Some(SlotNews::FirstKey),  [true,  false, false, false, false]),
            (&[a],         &[b],      None,                      [true,  false, false, false, false]),
            (&[b],         &[a],      changed(1, 0),             [true,  true,  false, false, false]),
            (&[b],         &[],       None,                      [true,  true,  false, false, false]),
            (&[c],         &[b, a],   changed(1, 0),             [true,  true,  true,  false, false]),
            (&[],          &[],       None,                      [true,  true,  true,  false, false]),
            (&[d, e],      &[],       changed(2, 2),             [false, false, true,  true,  true]),
            (&[a, b, c, d],&[],       changed(2, 0),             [true,  true,  true,  true,  true]),
        ];
        for (at, (current, others, news, slots)) in rows.into_iter().enumerate() {
            assert_eq!(keep(current, others), (news, slots.to_vec()), "{at}");
        }
    }

    /// As on a full disk, and on one that is read-only for a while.
    #[test]
    fn what_hinders_is_told_once() {
        let mut told = Told::default();
        let fails = |told: &mut Told, error| told.news(LockState::Open, Err(error)).unwrap();
        assert!(
            matches!(fails(&mut told, StoreError::LastSlot), Some(SlotNews::NotKept(why)) if why.contains("no key"))
        );
        assert_eq!(fails(&mut told, StoreError::LastSlot), None);
        assert!(fails(&mut told, StoreError::SlotNotReadBack).is_some(), "something else");
        let (mut store, one) = (store(), key());
        let kept = store.keep_slots(&SlotsWanted { add: &[&one], ..SlotsWanted::default() }, 0);
        assert_eq!(told.news(LockState::Keyless, kept).unwrap(), Some(SlotNews::FirstKey));
        assert!(fails(&mut told, StoreError::SlotNotReadBack).is_some(), "again");
        assert!(told.news(LockState::Open, Err(StoreError::Panicked)).is_err(), "it has to be opened anew");
    }
}
