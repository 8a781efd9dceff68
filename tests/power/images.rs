//! What a power cut leaves of a disk: what was flushed, and any part of the rest.
//!
//! A write that no flush followed is there, or not, or in part; each sector of 512 bytes is the old one or the new one,
//! whole. Which it is, is chosen from a seed, without regard to the order of the writes.

use crate::log_writes::{Operation, SECTOR_BYTES};
use crate::random::Random;

/// What becomes of the writes that were not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unflushed {
    /// None of them is there.
    Lost,
    /// All of them are there: what killing the machine alone would leave.
    Kept,
    /// The first ones are there, the next one in part.
    InOrder,
    /// The last ones are there, those before them are not.
    Reversed,
    /// Each is there or not.
    Scattered,
    /// Each sector of each is there or not.
    Torn,
}

impl Unflushed {
    pub(crate) const ALL: [Self; 6] =
        [Self::Lost, Self::Kept, Self::InOrder, Self::Reversed, Self::Scattered, Self::Torn];
}

/// A disk on its way through a log of operations.
pub(crate) struct Replay<'a> {
    operations: &'a [Operation],
    /// The medium: everything up to the last flush before `at`.
    medium: Vec<u8>,
    /// How many operations are in `medium`, the flush included.
    flushed: usize,
}

impl<'a> Replay<'a> {
    /// A disk that holds `medium`, to be given `operations`. What they write beyond its end is passed over.
    pub(crate) fn new(medium: Vec<u8>, operations: &'a [Operation]) -> Self {
        Self { operations, medium, flushed: 0 }
    }

    /// What is left when the power is cut after the first `at` operations. Never goes back: `at` grows from call to call.
    pub(crate) fn cut(&mut self, at: usize, unflushed: Unflushed, random: &mut Random) -> Vec<u8> {
        assert!(at >= self.flushed, "a replay does not go back");
        let flush = self.operations[self.flushed..at].iter().rposition(|operation| *operation == Operation::Flush);
        if let Some(flush) = flush {
            let next = self.flushed + flush + 1;
            for operation in &self.operations[self.flushed..next] {
                if let Operation::Write { sector, data } = operation {
                    put(&mut self.medium, *sector, data, |_| true);
                }
            }
            self.flushed = next;
        }

        let mut image = self.medium.clone();
        let open = &self.operations[self.flushed..at];
        let turn = random.below(open.len() + 1);
        for (index, operation) in open.iter().enumerate() {
            let Operation::Write { sector, data } = operation else { unreachable!("the last flush is behind") };
            let mut half = || random.chance(50);
            match unflushed {
                Unflushed::Lost => {}
                Unflushed::Kept => put(&mut image, *sector, data, |_| true),
                Unflushed::InOrder if index < turn => put(&mut image, *sector, data, |_| true),
                Unflushed::InOrder if index == turn => torn(&mut image, *sector, data, &mut half),
                Unflushed::InOrder => {}
                Unflushed::Reversed if index >= turn => put(&mut image, *sector, data, |_| true),
                Unflushed::Reversed => {}
                Unflushed::Scattered => {
                    if half() {
                        put(&mut image, *sector, data, |_| true);
                    }
                }
                Unflushed::Torn => torn(&mut image, *sector, data, &mut half),
            }
        }
        image
    }
}

/// What a disk leaves that says it has flushed and has not: one write in `one_in` is lost, whenever it was made.
pub(crate) fn lying_disk(mut medium: Vec<u8>, operations: &[Operation], one_in: usize, random: &mut Random) -> Vec<u8> {
    for operation in operations {
        if let Operation::Write { sector, data } = operation
            && random.below(one_in) > 0
        {
            put(&mut medium, *sector, data, |_| true);
        }
    }
    medium
}

/// The sectors before this one are ext4's superblock, which it writes in place and which it can't read when it is torn: its
/// checksum lies in the second of its sectors. No program can do anything about that, so it is whole here.
const SUPERBLOCK_END: u64 = 8;

/// Writes any part of `data`.
fn torn(image: &mut [u8], sector: u64, data: &[u8], half: &mut dyn FnMut() -> bool) {
    if sector < SUPERBLOCK_END {
        let all = half();
        put(image, sector, data, |_| all);
    } else {
        put(image, sector, data, |_| half());
    }
}

/// Writes those sectors of `data` for which `kept` says so.
fn put(image: &mut [u8], sector: u64, data: &[u8], mut kept: impl FnMut(usize) -> bool) {
    for (index, bytes) in data.chunks(SECTOR_BYTES).enumerate() {
        let at = (usize::try_from(sector).unwrap() + index) * SECTOR_BYTES;
        if at + bytes.len() <= image.len() && kept(index) {
            image[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Two sectors, counted from the end of the superblock.
    fn write(sector: u64, byte: u8) -> Operation {
        Operation::Write { sector: SUPERBLOCK_END + sector, data: vec![byte; 2 * SECTOR_BYTES] }
    }

    /// The first byte of each sector from there on.
    fn short(image: &[u8]) -> String {
        let image = &image[8 * SECTOR_BYTES..];
        assert!(image.chunks(SECTOR_BYTES).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        image.chunks(SECTOR_BYTES).map(|sector| char::from(sector[0])).collect()
    }

    fn disk() -> Vec<u8> {
        vec![b'.'; 14 * SECTOR_BYTES]
    }

    #[test]
    fn what_was_flushed_is_there_and_nothing_else() {
        let operations = [write(0, b'a'), Operation::Flush, write(2, b'b'), write(3, b'c'), Operation::Flush];
        let mut replay = Replay::new(disk(), &operations);
        let mut random = Random::new(1);
        #[rustfmt::skip]
        let rows = [
            (0, Unflushed::Kept, "......"),
            (1, Unflushed::Lost, "......"),
            (1, Unflushed::Kept, "aa...."),
            (2, Unflushed::Lost, "aa...."),
            (4, Unflushed::Lost, "aa...."),
            (4, Unflushed::Kept, "aabcc."),
            (5, Unflushed::Lost, "aabcc."),
        ];
        for (at, unflushed, want) in rows {
            assert_eq!(short(&replay.cut(at, unflushed, &mut random)), want, "{at} {unflushed:?}");
        }
    }

    #[test]
    fn every_part_of_the_rest_comes_up() {
        let operations = [write(0, b'a'), Operation::Flush, write(1, b'b'), write(4, b'c'), write(5, b'x')];
        let mut random = Random::new(2);
        #[rustfmt::skip]
        let rows = [
            (Unflushed::Lost,      "aa...."),
            (Unflushed::Kept,      "abb.cc"),
            (Unflushed::InOrder,   "aa.... aab... ab.... abb... abb..c abb.c. abb.cc"),
            (Unflushed::Reversed,  "aa.... aa..cc abb.cc"),
            (Unflushed::Scattered, "aa.... aa..cc abb... abb.cc"),
            (Unflushed::Torn,      "aa.... aa...c aa..c. aa..cc aab... aab..c aab.c. aab.cc ab.... ab...c ab..c. ab..cc abb... abb..c abb.c. abb.cc"),
        ];
        for (unflushed, want) in rows {
            let cut = |_| short(&Replay::new(disk(), &operations).cut(4, unflushed, &mut random));
            let images: BTreeSet<String> = (0..400).map(cut).collect();
            assert_eq!(images.into_iter().collect::<Vec<_>>().join(" "), want, "{unflushed:?}");
        }
    }

    #[test]
    fn the_superblock_is_not_torn() {
        let operations = [Operation::Write { sector: 0, data: vec![b'a'; 8 * SECTOR_BYTES] }];
        let mut random = Random::new(4);
        for _ in 0..20 {
            let image = Replay::new(disk(), &operations).cut(1, Unflushed::Torn, &mut random);
            assert!(image[..8 * SECTOR_BYTES].iter().all(|byte| *byte == image[0]));
        }
    }

    #[test]
    fn a_lying_disk_loses_what_was_flushed() {
        let operations = [write(0, b'a'), Operation::Flush];
        let mut random = Random::new(3);
        let images: BTreeSet<String> =
            (0..50).map(|_| short(&lying_disk(disk(), &operations, 2, &mut random))).collect();
        assert_eq!(images.into_iter().collect::<Vec<_>>(), ["......", "aa...."]);
    }
}
