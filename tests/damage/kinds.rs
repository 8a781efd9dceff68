//! Damage of every kind but single bytes, over files in every state: read, then opened for writing, which rebuilds the store,
//! then filled by its source again.
//!
//! `CKPT_DB_DAMAGE=N` makes N random cases for each file beside those that are always made; `CKPT_DB_SEED` another choice.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use ckpt_db::agent::open_or_rebuild;
use ckpt_db::checkpoint::object::Kind;
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::store::{
    Backend as _, Carry, Change, LockState, Missing, RedbStore, StoreError, begin_anew, install_panic_hook,
    kept_beside, open_offline,
};

use crate::common::NOW;
use crate::{Files, Random, is_structure, named, readable, scratch, write};

const PAGE: usize = 4096;
const SEED: u64 = 0x5eed_0006;
/// Random cases for each file in an ordinary run.
const SAMPLE: usize = 16;

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    Zeroed(usize),
    Swapped(usize, usize),
    /// A write that went to the wrong place.
    Misdirected {
        from: usize,
        to: usize,
    },
    /// Random octets in place of a page.
    Garbage(usize),
    /// Torn: the second half of a page is random.
    HalfGarbage(usize),
    Cut(usize),
    /// So many octets behind the end.
    Appended(usize),
    Flipped(usize),
}

impl Harm {
    const KINDS: usize = 8;

    /// Of pages with something on them; a half of the cuts as well.
    fn random(random: &mut Random, kind: usize, bytes: &[u8]) -> Self {
        let len = bytes.len();
        let used = |page: &usize| bytes[page * PAGE..(page + 1) * PAGE].iter().any(|octet| *octet != 0);
        let pages: Vec<usize> = (0..len / PAGE).filter(used).collect();
        let mut page = || pages[random.below(pages.len())];
        match kind {
            0 => Self::Zeroed(page()),
            1 => Self::Swapped(page(), page()),
            2 => Self::Misdirected { from: page(), to: page() },
            3 => Self::Garbage(page()),
            4 => Self::HalfGarbage(page()),
            5 if random.below(2) == 0 => Self::Cut(random.below(len)),
            5 => Self::Cut(pages[random.below(pages.len())] * PAGE + random.below(PAGE)),
            6 => Self::Appended(1 + random.below(3 * PAGE)),
            _ => Self::Flipped(random.below(len)),
        }
    }

    fn apply(self, bytes: &[u8], random: &mut Random) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let mut noise = |octets: &mut [u8]| octets.iter_mut().for_each(|octet| *octet = random.next() as u8);
        let at = |page: usize| page * PAGE..(page + 1) * PAGE;
        match self {
            Self::Zeroed(page) => bytes[at(page)].fill(0),
            Self::Swapped(a, b) => {
                let (first, second) = (bytes[at(a)].to_vec(), bytes[at(b)].to_vec());
                bytes[at(a)].copy_from_slice(&second);
                bytes[at(b)].copy_from_slice(&first);
            }
            Self::Misdirected { from, to } => bytes.copy_within(at(from), to * PAGE),
            Self::Garbage(page) => noise(&mut bytes[at(page)]),
            Self::HalfGarbage(page) => noise(&mut bytes[page * PAGE + PAGE / 2..(page + 1) * PAGE]),
            Self::Cut(len) => bytes.truncate(len),
            Self::Appended(count) => {
                let len = bytes.len();
                bytes.resize(len + count, 0);
                noise(&mut bytes[len..]);
            }
            Self::Flipped(octet) => bytes[octet] ^= 1 << (octet % 8),
        }
        bytes
    }
}

#[derive(Default)]
struct Tally {
    cases: usize,
    without_effect: usize,
    unreadable: usize,
    rebuilt: usize,
    began_anew: usize,
    locked: usize,
    objects_lost: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cases: {} without effect, {} rebuilt (nothing read of {}, {} of which began anew; no key opened {}), {} objects lost until \
             the source told them again; panics, wrong values, and findings without a name: 0",
            self.cases,
            self.without_effect,
            self.rebuilt,
            self.unreadable,
            self.began_anew,
            self.locked,
            self.objects_lost
        )
    }
}

#[test]
fn whatever_happens_to_a_closed_file() {
    campaign("closed cleanly", |files| &files.closed);
}

#[test]
fn whatever_happens_to_a_file_that_was_not_closed() {
    campaign("not closed", |files| &files.unclean);
}

#[test]
fn whatever_happens_to_a_file_that_another_tool_closed() {
    campaign("closed by another tool", |files| &files.foreign);
}

fn campaign(name: &str, bytes: impl Fn(&Files) -> &Vec<u8>) {
    install_panic_hook();
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let (sample, seed) = (number("CKPT_DB_DAMAGE"), number("CKPT_DB_SEED").unwrap_or(SEED));
    let files = Files::new(5);
    let bytes = bytes(&files);
    let mut random = Random(seed);
    // What costs everything; then what costs nothing.
    let mut harms = vec![Harm::Cut(0), Harm::Cut(100), Harm::Zeroed(0), Harm::Cut(bytes.len() - 1)];
    if sample.is_some() {
        harms.extend((0..bytes.len()).step_by(PAGE).flat_map(|at| [Harm::Cut(at), Harm::Cut(at + PAGE / 2 + 1)]));
        harms.extend((0..bytes.len() / PAGE).flat_map(|page| [Harm::Zeroed(page), Harm::Garbage(page)]));
    }
    for case in 0..sample.map_or(SAMPLE, |sample| sample as usize) {
        harms.push(Harm::random(&mut random, case % Harm::KINDS, bytes));
    }
    let mut tally = Tally::default();
    for harm in harms {
        let damaged = harm.apply(bytes, &mut random);
        judge(&format_args!("{name}, CKPT_DB_SEED={seed}, {harm:?}"), &damaged, damaged == *bytes, &files, &mut tally);
    }
    println!("{name}, CKPT_DB_SEED={seed}: {tally}");
    assert!(tally.rebuilt > 3, "damage that costs nothing shows nothing");
    println!("campaign: damage, {name}: {} files judged, 0 wrong values, 0 panics", tally.cases);
}

fn judge(what: &dyn fmt::Display, damaged: &[u8], same: bool, files: &Files, tally: &mut Tally) {
    tally.cases += 1;
    let directory = scratch();
    let path = directory.path().join("checkpoint-store.db");
    write(&path, damaged);
    let secrets = [&files.secret];

    // As a cold start reads it.
    let before = match open_offline(&path, &secrets) {
        Ok(snapshot) => Some(snapshot.into_inner()),
        Err(error) => {
            assert!(error.is_damage(), "{what}: {error}");
            tally.unreadable += 1;
            None
        }
    };
    let there = before.as_ref().map(|snapshot| readable(snapshot, &files.expected, what)).unwrap_or_default();
    if let Some(snapshot) = &before {
        for key in files.expected.keys().filter(|key| !there.contains(key)) {
            let told = named(snapshot, key) || snapshot.findings().iter().any(is_structure);
            assert!(told, "{what}: {key} is lost, and nothing says so");
        }
        assert!(!same || snapshot.findings().is_empty(), "{what}: {:?}", snapshot.findings());
    }
    assert!(fs::read(&path).unwrap() == damaged, "{what}: reading changed the file");
    tally.objects_lost += files.expected.len() - there.len();

    // As an agent opens it.
    let opened = open_or_rebuild(&path, &secrets, Carry::Sound, "edge-1", NOW + 5_000);
    let (mut store, rebuilt) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    match &rebuilt {
        None => {
            tally.without_effect += 1;
            assert!(
                before.is_some_and(|snapshot| !snapshot.findings().iter().any(is_structure)),
                "{what}: not rebuilt"
            );
            assert!(kept_beside(&path).is_empty(), "{what}");
        }
        Some(rebuilt) => {
            tally.rebuilt += 1;
            tally.began_anew += usize::from(rebuilt.began_anew);
            assert!(fs::read(&rebuilt.kept_at).unwrap() == damaged, "{what}: the evidence is gone");
            assert_eq!(kept_beside(&path), std::slice::from_ref(&rebuilt.kept_at), "{what}");
            let after = store.snapshot().unwrap().into_inner();
            assert!(!after.findings().iter().any(is_structure), "{what}: {:?}", after.findings());
            assert_eq!(readable(&after, &files.expected, what), there, "{what}: not the same is there");
            // Where nobody can say what is lost, nobody may say that something is gone.
            let pods = |keys: &[&_]| {
                keys.iter().filter(|key: &&&ckpt_db::checkpoint::object::ObjectKey| key.kind() == Kind::Pod).count()
            };
            let all: Vec<_> = files.expected.keys().collect();
            assert!(!after.populated() || pods(&there) == pods(&all), "{what}: it claims to know every pod");
            let whose = |snapshot: &ckpt_db::store::Snapshot| snapshot.identity().map(|identity| identity.store_id);
            if let Some(before) = &before {
                assert!(whose(before).is_none() || whose(before) == whose(&after), "{what}: another store");
                assert!(
                    before.slots().iter().all(|slot| after.slots().contains(slot)),
                    "{what}: a slot that was read is gone"
                );
                assert!(before.revision() <= after.revision(), "{what}: it went back");
            }
        }
    }

    // As its source fills it.
    if store.lock_state() == LockState::Locked {
        tally.locked += 1;
        drop(store);
        let _ = begin_anew(&path, &secrets, &secrets, NOW + 6_000, &SystemEntropy)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        store = RedbStore::open(&path, &secrets, Box::new(SystemEntropy)).unwrap();
    }
    let objects = files.expected.values().cloned().collect();
    let listing = Change::Reset { objects, kinds: Kind::ALL.to_vec(), missing: Missing::Delete };
    let _ = store.update(vec![listing], NOW + 7_000).unwrap_or_else(|error: StoreError| panic!("{what}: {error}"));
    drop(store);
    let after = open_offline(&path, &secrets).unwrap().into_inner();
    assert_eq!(readable(&after, &files.expected, what).len(), files.expected.len(), "{what}: something is missing");
    assert!(after.populated(), "{what}");
    assert!(rebuilt.is_none() || after.findings().is_empty(), "{what}: {:?}", after.findings());
    assert_no_leftovers(directory.path(), what);
}

fn assert_no_leftovers(directory: &Path, what: &dyn fmt::Display) {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let others: Vec<String> = names.filter(|name| !name.starts_with("checkpoint-store.db")).collect();
    assert!(others.is_empty(), "{what}: {others:?}");
}

/// The cases are what they are called.
#[test]
fn what_the_kinds_do() {
    let bytes: Vec<u8> = (0..3 * PAGE).map(|at| (at / PAGE) as u8 + 1).collect();
    let pages = |bytes: &[u8]| bytes.chunks(PAGE).map(|page| page[0]).collect::<Vec<_>>();
    let of = |harm: Harm| harm.apply(&bytes, &mut Random(1));
    let seen: BTreeMap<Harm, Vec<u8>> =
        [Harm::Zeroed(1), Harm::Swapped(0, 2), Harm::Misdirected { from: 0, to: 2 }, Harm::Cut(PAGE + 1)]
            .map(|harm| (harm, pages(&of(harm))))
            .into();
    assert_eq!(seen[&Harm::Zeroed(1)], [1, 0, 3]);
    assert_eq!(seen[&Harm::Swapped(0, 2)], [3, 2, 1]);
    assert_eq!(seen[&Harm::Misdirected { from: 0, to: 2 }], [1, 2, 1]);
    assert_eq!(seen[&Harm::Cut(PAGE + 1)], [1, 2]);
    assert_eq!(of(Harm::Appended(7)).len(), bytes.len() + 7);
    assert_eq!(of(Harm::HalfGarbage(1))[..PAGE + PAGE / 2], bytes[..PAGE + PAGE / 2]);
    assert_ne!(of(Harm::Garbage(1))[PAGE..2 * PAGE], bytes[PAGE..2 * PAGE]);
}
