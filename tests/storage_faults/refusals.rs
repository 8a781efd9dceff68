//! A medium that refuses: no room, errors of reading, writing and syncing, once or from then on. The store says so, loses
//! nothing that was acknowledged, and goes on as soon as the medium does.

use ckpt_db::crypto::SystemEntropy;
use ckpt_db::store::{Backend as _, RedbStore};
use store_format::Unlocker;

use crate::disk::{Class, Disk, Fault, Lasts};
use crate::images::{Fate, Recorded};
use crate::workload::{Step, workload};
use crate::{Run, take, told};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Pods and random commits of the workload.
const SIZE: (usize, usize) = (4, 30);

/// How many operations after a fault a power cut may come.
const MOMENTS: usize = 30;

/// What a run with a fault came to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) runs: usize,
    struck: usize,
    reopened: usize,
    repeated: usize,
    images: usize,
}

/// One run with a fault in it, as an agent lives through it: what is refused is tried again, on a handle opened anew where
/// the store says that it must be. `undisturbed` is the same workload without a fault.
fn live_through(fault: Fault, seed: u64, undisturbed: &Run, tally: &mut Tally) {
    let before = undisturbed.recorded.before.clone();
    let unlockers: Vec<&Unlocker> = undisturbed.unlockers.iter().collect();
    let disk = Disk::with(before.clone());
    disk.set(Some(fault));
    let open = |disk: &Disk| RedbStore::open_on(disk.clone(), disk.live(), &unlockers, Box::new(SystemEntropy));
    let mut store = open(&disk).ok();
    let mut acknowledged = vec![(0, undisturbed.acknowledged[0].1)];
    tally.runs += 1;
    'steps: for (number, step) in workload(seed, SIZE.0, SIZE.1).into_iter().enumerate() {
        // What a refused compaction comes to is looked at in `compaction.rs`. Its repair at the next opening has a moment in
        // which the file looks as if it was closed with the wrong commit; a process that dies there leaves a store that is
        // rebuilt, which this test would take for damage.
        if matches!(step, Step::Compact) {
            continue;
        }
        // A medium that fails for ever is given up after a while: then it is mended.
        for attempt in 0..8 {
            if attempt == 3 {
                disk.set(None);
            }
            let Some(handle) = &mut store else {
                tally.reopened += 1;
                store = open(&disk).ok();
                continue;
            };
            match take(handle, step.clone(), &undisturbed.unlockers) {
                Ok(revision) => {
                    acknowledged.push((disk.ops(), revision));
                    continue 'steps;
                }
                Err(error) if error.needs_reopening() => store = None,
                Err(_) => tally.repeated += 1,
            }
        }
        panic!("{fault:?}: step {number} was never taken, though the medium was mended");
    }
    let Some(struck) = disk.struck() else { return };
    tally.struck += 1;
    let last = told(store.expect("the last step was taken").snapshot().unwrap().get());
    assert_eq!(
        Some(&last),
        undisturbed.states.last_key_value().map(|(_, state)| state),
        "{fault:?}: the end is another"
    );
    // A power cut at any later moment: what a failed sync left behind never became durable.
    let recorded = Recorded { before, ops: disk.done(), lost: disk.lost() };
    let run =
        Run { recorded, acknowledged, states: undisturbed.states.clone(), unlockers: undisturbed.unlockers.clone() };
    for (at, moment) in run.recorded.moments().skip(struck).take(MOMENTS) {
        for fate in [Fate::ProcessDied, Fate::Dropped] {
            tally.images += 1;
            if let Some(problem) = run.problem(at, moment.image(fate)) {
                panic!("{fault:?}, then a power cut after {at} operations ({fate:?}): {problem}");
            }
        }
    }
}

#[test]
fn a_medium_that_refuses_costs_nothing_that_was_acknowledged() {
    ckpt_db::store::install_panic_hook();
    let seed = 11;
    let undisturbed = crate::run(seed, SIZE.0, SIZE.1);
    let all = crate::is_campaign();
    let counts = |class: Class| match class {
        Class::Write => undisturbed.recorded.ops.len(),
        Class::Sync => undisturbed.recorded.ops.iter().filter(|op| **op == crate::disk::Op::Sync).count(),
        Class::Read => 200,
    };
    let mut tally = Tally::default();
    for class in [Class::Write, Class::Sync, Class::Read] {
        for errno in [EIO, ENOSPC] {
            if errno == ENOSPC && class == Class::Read {
                continue;
            }
            for lasts in [Lasts::Once, Lasts::ForEver] {
                let step = if all {
                    1
                } else if class == Class::Sync {
                    15
                } else {
                    250
                };
                // The first reads are those of an opening, and of the first commit after it.
                let (step, end) = if class == Class::Read && !all { (1, 12) } else { (step, counts(class)) };
                for at in (0..end).step_by(step) {
                    live_through(Fault { at, class, errno, lasts }, seed, &undisturbed, &mut tally);
                }
            }
        }
    }
    assert!(tally.struck > tally.runs / 2, "{tally:?}");
    println!("{tally:?}");
    let Tally { runs, images, .. } = tally;
    println!(
        "campaign: storage refusals: {runs} faults, {images} images judged, 0 acknowledged changes lost, 0 panics"
    );
}
