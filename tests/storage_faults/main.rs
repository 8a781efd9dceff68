//! Power cuts of a simulated disk: each operation that the store asks of its medium is a crash point, and what the cut leaves
//! of the writes after the last sync is tried in many ways ([`images`]). Whatever was acknowledged is there, whole; what was
//! being committed is there or not; nothing else is.
//!
//! `CKPT_DB_IMAGES=N cargo test --profile campaign --test storage_faults` tries N images; without it a sample is.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

#[path = "../common/mod.rs"]
mod common;
mod compaction;
mod disk;
mod images;
mod refusals;
mod workload;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ckpt_db::checkpoint::lookup::{Lookup, Objects as _};
use ckpt_db::checkpoint::object::Kind;
use ckpt_db::crypto::{SystemEntropy, sha256};
use ckpt_db::store::{
    Backend as _, NewStore, RedbStore, Revision, SlotPolicy, SlotsWanted, Snapshot, StoreError, install_panic_hook,
    open_image,
};
use store_format::Unlocker;

use disk::Disk;
use images::{Fate, Recorded};
use workload::{KEYS, Step, workload};

/// Images of an ordinary run.
const SAMPLE: usize = 900;

/// Everything that a snapshot tells, without what differs from one opening to the next.
fn told(snapshot: &Snapshot) -> [u8; 32] {
    let mut text = String::new();
    let known = snapshot.objects().map(|object| (object.key.clone(), object.authenticated));
    for (key, authenticated) in known {
        let Lookup::Found(object) = snapshot.get(&key) else { panic!("{key} can't be read") };
        let body = data_encoding::HEXLOWER.encode(&sha256(object.body.expose()));
        writeln!(text, "{key} {} {} {authenticated} {body}", object.uid, object.resource_version).unwrap();
        if key.kind() == Kind::Pod {
            let absent: Vec<_> = snapshot.absent(&key).map(|(key, why)| format!("{key} {why:?}")).collect();
            let row = (snapshot.lifecycle(&key), snapshot.gone(&key), snapshot.held(&key), snapshot.republished(&key));
            writeln!(text, "{row:?} {:?} {} {absent:?}", snapshot.ended(&key), snapshot.ran(&key)).unwrap();
        }
    }
    let log: Vec<_> = snapshot.log().collect();
    let slots: Vec<_> = snapshot.slots().iter().map(|slot| slot.fingerprint).collect();
    let rest =
        (snapshot.boot_id(), snapshot.populated(), snapshot.source_position(), snapshot.lock_state(), slots, log);
    write!(text, "{:?} {rest:?}", snapshot.identity()).unwrap();
    sha256(text.as_bytes())
}

/// A run of a workload, and what the store held after each of its commits.
struct Run {
    recorded: Recorded,
    /// How many operations were done when a commit was acknowledged, and its revision.
    acknowledged: Vec<(usize, Revision)>,
    states: BTreeMap<Revision, [u8; 32]>,
    unlockers: Vec<Unlocker>,
}

/// One commit of a rotation: the new slot, or without it what is removed, so that each state is known.
fn slots_wanted<'a>(key: &'a [&'a Unlocker], node_keys_max: Option<usize>) -> SlotsWanted<'a> {
    SlotsWanted { add: key, fresh: false, remove: &[], node_keys_max, policy: SlotPolicy::Any }
}

fn take(store: &mut RedbStore, step: Step, unlockers: &[Unlocker]) -> Result<Revision, StoreError> {
    match step {
        Step::Update(changes) => match store.update(changes, common::NOW) {
            Ok(update) => Ok(update.get().revision),
            // A workload may ask for what is refused; it changes nothing.
            Err(StoreError::EmptyListing { .. }) => Ok(store.snapshot()?.get().revision()),
            Err(error) => Err(error),
        },
        Step::Compact => {
            store.compact()?;
            Ok(store.snapshot()?.get().revision())
        }
        Step::Key(number) => {
            let key = [&unlockers[number]];
            Ok(store.keep_slots(&slots_wanted(&key, None), common::NOW)?.get().revision)
        }
        Step::OldSlots(number) => {
            let key = [&unlockers[number]];
            Ok(store.keep_slots(&slots_wanted(&key, Some(2)), common::NOW)?.get().revision)
        }
    }
}

fn keyless() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let new = NewStore { identity: common::identity(), secret: None };
    drop(RedbStore::create(&path, new, Box::new(SystemEntropy)).unwrap());
    std::fs::read(path).unwrap()
}

fn run(seed: u64, pods: usize, commits: usize) -> Run {
    let unlockers: Vec<Unlocker> = (0..KEYS).map(|_| common::secret()).collect();
    let before = keyless();
    let disk = Disk::with(before.clone());
    let mut store = RedbStore::open_on(disk.clone(), before.clone(), &[], Box::new(SystemEntropy)).unwrap();
    let first = store.snapshot().unwrap().into_inner();
    let mut states = BTreeMap::from([(first.revision(), told(&first))]);
    // The creation is the acknowledgement of the first state.
    let mut acknowledged = vec![(disk.ops(), first.revision())];
    for step in workload(seed, pods, commits) {
        let revision = take(&mut store, step, &unlockers).unwrap();
        let state = told(store.snapshot().unwrap().get());
        assert_eq!(*states.entry(revision).or_insert(state), state, "one revision, two states");
        acknowledged.push((disk.ops(), revision));
    }
    drop(store);
    Run { recorded: Recorded { before, ops: disk.done(), lost: disk.lost() }, acknowledged, states, unlockers }
}

impl Run {
    /// What is wrong with an image of the disk at a moment of this run.
    fn problem(&self, at: usize, image: Vec<u8>) -> Option<String> {
        let unlockers: Vec<&Unlocker> = self.unlockers.iter().collect();
        let durable =
            self.acknowledged.iter().rev().find(|(ops, _)| *ops <= at).map_or(Revision(0), |(_, revision)| *revision);
        let in_flight = self.acknowledged.iter().find(|(ops, _)| *ops > at).map_or(durable, |(_, revision)| *revision);
        let opened = match open_image(image, &unlockers) {
            Ok(opened) => opened.into_inner(),
            Err(error) => return Some(format!("it does not open: {error}")),
        };
        if let Some(finding) = opened.findings().first() {
            return Some(finding.to_string());
        }
        let revision = opened.revision();
        if revision < durable || revision > in_flight {
            return Some(format!("revision {} where {} to {} were possible", revision.0, durable.0, in_flight.0));
        }
        match self.states.get(&revision) {
            Some(state) if *state == told(&opened) => None,
            Some(_) => Some(format!("revision {} with other contents", revision.0)),
            None => Some(format!("revision {} that never was", revision.0)),
        }
    }
}

fn images_wanted() -> usize {
    match std::env::var("CKPT_DB_IMAGES") {
        Ok(number) => number.parse().expect("CKPT_DB_IMAGES is a number of images"),
        Err(_) => SAMPLE,
    }
}

/// Whether far more is wanted than a sample.
fn is_campaign() -> bool {
    images_wanted() >= 10 * SAMPLE
}

#[test]
fn what_was_acknowledged_survives_every_power_cut() {
    install_panic_hook();
    let wanted = images_wanted();
    let (commits, shuffles) = if is_campaign() { (150, 24) } else { (40, 4) };
    let (mut tried, mut runs, mut points, mut kinds) = (0, 0, 0, BTreeMap::<&str, usize>::new());
    while tried < wanted {
        runs += 1;
        let run = run(runs, 6, commits);
        assert!(run.states.len() > run.acknowledged.len() / 3, "a workload that changes hardly anything");
        // A sample lies spread over the whole run.
        let all: usize = run.recorded.moments().map(|(at, moment)| moment.fates(at, shuffles).len()).sum();
        let step = all.div_ceil(wanted - tried);
        let mut number = 0;
        for (at, moment) in run.recorded.moments() {
            let before = tried;
            for fate in moment.fates(at, shuffles) {
                number += 1;
                if number % step != 0 {
                    continue;
                }
                if let Some(problem) = run.problem(at, moment.image(fate)) {
                    panic!("run {runs}, after {at} of {} operations, {fate:?}: {problem}", run.recorded.ops.len());
                }
                *kinds.entry(kind(fate)).or_default() += 1;
                tried += 1;
            }
            points += usize::from(tried > before);
        }
    }
    println!("{runs} runs, {points} crash points: {kinds:?}");
    println!("campaign: storage images: {tried} judged, 0 acknowledged changes lost, 0 partial changes, 0 panics");
}

fn kind(fate: Fate) -> &'static str {
    match fate {
        Fate::ProcessDied => "process died",
        Fate::Dropped => "all dropped",
        Fate::Without(_) => "one dropped",
        Fate::Only(_) => "one arrived",
        Fate::TornAt(_) => "torn",
        Fate::Shuffled(_) => "reordered",
    }
}
