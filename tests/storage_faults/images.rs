//! What a power cut can leave of a recorded run: everything synced, and of what came after it any part, in any order, each
//! write whole, missing or torn between sectors.

use crate::common::random::Random;
use crate::disk::{Op, apply, write};

/// What a drive writes at once.
const SECTOR: usize = 512;

/// How the writes after the last sync fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// All of them arrived: the process died, not the machine.
    ProcessDied,
    /// None arrived.
    Dropped,
    /// All but one.
    Without(usize),
    /// Only one.
    Only(usize),
    /// In order, and the last one only up to a sector.
    TornAt(usize),
    /// Some of them, in any order, each whole, or with some of its sectors.
    Shuffled(u64),
}

/// A recorded run: what the disk held before it, durably, and all that was asked of it.
pub(crate) struct Recorded {
    pub(crate) before: Vec<u8>,
    pub(crate) ops: Vec<Op>,
    /// Which of them never became durable, since a sync that should have made them so has failed.
    pub(crate) lost: Vec<usize>,
}

/// The state of the disk at one moment of a run.
pub(crate) struct Moment<'a> {
    durable: Vec<u8>,
    /// As the system shows it.
    live: Vec<u8>,
    pending: Vec<&'a Op>,
}

impl Recorded {
    /// Every moment of the run: before each of its operations, and after the last.
    pub(crate) fn moments(&self) -> impl Iterator<Item = (usize, Moment<'_>)> {
        let (mut durable, mut live) = (self.before.clone(), self.before.clone());
        let mut synced = 0;
        (0..=self.ops.len()).map(move |at| {
            if at > 0 {
                apply(&mut live, &self.ops[at - 1]);
            }
            let pending = |from: usize| {
                let ops = self.ops.iter().enumerate().take(at).skip(from);
                ops.filter(|(n, _)| !self.lost.contains(n)).map(|(_, op)| op)
            };
            if at > 0 && self.ops[at - 1] == Op::Sync {
                pending(synced).for_each(|op| apply(&mut durable, op));
                synced = at;
            }
            (at, Moment { durable: durable.clone(), live: live.clone(), pending: pending(synced).collect() })
        })
    }
}

impl Moment<'_> {
    /// Every fate that is tried here: all the systematic ones, and `shuffles` random ones.
    pub(crate) fn fates(&self, at: usize, shuffles: u64) -> Vec<Fate> {
        let mut fates = vec![Fate::ProcessDied];
        let pending = self.pending.len();
        if pending == 0 {
            return fates;
        }
        fates.push(Fate::Dropped);
        if pending > 1 {
            fates.extend((0..pending).map(Fate::Without));
            fates.extend((0..pending).map(Fate::Only));
        }
        if let Some(Op::Write { data, .. }) = self.pending.last() {
            fates.extend((1..data.len().div_ceil(SECTOR)).map(|sectors| Fate::TornAt(sectors * SECTOR)));
        }
        fates.extend((0..shuffles).map(|n| Fate::Shuffled((at as u64) << 20 | n)));
        fates
    }

    pub(crate) fn image(&self, fate: Fate) -> Vec<u8> {
        let mut image = self.durable.clone();
        match fate {
            Fate::ProcessDied => image.clone_from(&self.live),
            Fate::Dropped => {}
            Fate::Without(lost) => {
                let kept = self.pending.iter().enumerate().filter(|(n, _)| *n != lost);
                kept.for_each(|(_, op)| apply(&mut image, op));
            }
            Fate::Only(kept) => apply(&mut image, self.pending[kept]),
            Fate::TornAt(len) => {
                let (last, others) = self.pending.split_last().expect("a torn write is pending");
                others.iter().for_each(|op| apply(&mut image, op));
                match last {
                    Op::Write { offset, data } => write(&mut image, *offset, &data[..len]),
                    Op::SetLen(_) | Op::Sync => unreachable!("only writes are torn"),
                }
            }
            Fate::Shuffled(seed) => self.shuffled(&mut image, &mut Random::new(seed)),
        }
        image
    }

    fn shuffled(&self, image: &mut Vec<u8>, random: &mut Random) {
        let mut order: Vec<&Op> = self.pending.clone();
        for n in (1..order.len()).rev() {
            order.swap(n, random.below(n + 1));
        }
        for op in order {
            match (random.below(4), op) {
                (0, _) => {}
                (1, Op::Write { offset, data }) => {
                    for (n, sector) in data.chunks(SECTOR).enumerate() {
                        if random.below(2) == 0 {
                            write(image, offset + (n * SECTOR) as u64, sector);
                        }
                    }
                }
                (_, op) => apply(image, op),
            }
        }
    }
}
