//! Reads what QEMU's `blklogwrites` logged: every write and flush that a machine's disk was given, in the order in which
//! they were done.
//!
//! The format is that of Linux's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst): a header sector,
//! then for each operation a sector that describes it, followed by the data. All numbers are little-endian.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

pub(crate) const SECTOR_BYTES: usize = 512;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;

/// One operation on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// `data`, whole sectors of it, from `sector` on.
    Write { sector: u64, data: Vec<u8> },
    /// Everything before it is on the medium.
    Flush,
}

/// What a log says.
pub(crate) struct Log {
    pub(crate) operations: Vec<Operation>,
    /// Whether the last operations are missing: an entry that was counted had not been written when the machine was killed.
    pub(crate) cut_short: bool,
}

/// Reads the log at `path`.
pub(crate) fn read(path: &Path) -> io::Result<Log> {
    parse(&mut BufReader::with_capacity(1 << 20, File::open(path)?))
}

fn parse(from: &mut dyn Read) -> io::Result<Log> {
    let header = sectors(from, 1)?;
    let mut log = Log { operations: Vec::new(), cut_short: false };
    if header.iter().all(|byte| *byte == 0) {
        // The machine was killed before it touched its disk.
        return Ok(log);
    }
    let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    if (number(&header, 0), number(&header, 8)) != (MAGIC, 1) {
        return wrong("this is no log of writes, version 1".to_owned());
    }
    if number(&header, 24) & 0xffff_ffff != SECTOR_BYTES as u64 {
        return wrong("its sectors have another size".to_owned());
    }
    for entry in 0..number(&header, 16) {
        let head = sectors(from, 1)?;
        let [sector, count, flags] = [0, 8, 16].map(|at| number(&head, at));
        if (count, flags) == (0, 0) {
            log.cut_short = true;
            return Ok(log);
        }
        // Discards and writes of zeros are switched off in the machine: QEMU may log another's data for the latter.
        if flags & !(FLUSH | FUA) != 0 {
            return wrong(format!("entry {entry} has flags {flags:#x}"));
        }
        if flags & FLUSH != 0 {
            log.operations.push(Operation::Flush);
        }
        if count > 0 {
            let data = sectors(from, usize::try_from(count).map_err(io::Error::other)?)?;
            log.operations.push(Operation::Write { sector, data });
        }
        // Forced unit access: on the medium when it is done. A flush says more than that, which no caller relies on.
        if flags & FUA != 0 {
            log.operations.push(Operation::Flush);
        }
    }
    Ok(log)
}

fn sectors(from: &mut dyn Read, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count * SECTOR_BYTES];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn number(sector: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(sector[at..at + 8].try_into().unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector_of(numbers: &[u64]) -> Vec<u8> {
        let mut sector: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        sector.resize(SECTOR_BYTES, 0);
        sector
    }

    fn header(entries: u64) -> Vec<u8> {
        sector_of(&[MAGIC, 1, entries, 512])
    }

    fn write(sector: u64, byte: u8, sectors: usize) -> Operation {
        Operation::Write { sector, data: vec![byte; sectors * SECTOR_BYTES] }
    }

    #[test]
    fn entries_in_their_order() {
        let mut bytes = header(4);
        bytes.extend(sector_of(&[8, 2, 0, 0]));
        bytes.extend([7; 1024]);
        bytes.extend(sector_of(&[0, 0, FLUSH, 0]));
        bytes.extend(sector_of(&[9, 1, FUA, 0]));
        bytes.extend([8; 512]);
        bytes.extend(sector_of(&[3, 1, FLUSH, 0]));
        bytes.extend([9; 512]);
        // What lies behind is of no concern.
        bytes.extend([0xee; 2048]);
        let log = parse(&mut bytes.as_slice()).unwrap();
        let want =
            [write(8, 7, 2), Operation::Flush, write(9, 8, 1), Operation::Flush, Operation::Flush, write(3, 9, 1)];
        assert!(log.operations == want && !log.cut_short);
    }

    #[test]
    fn an_entry_that_was_counted_but_not_written_ends_it() {
        let mut bytes = header(3);
        bytes.extend(sector_of(&[8, 1, 0, 0]));
        bytes.extend([7; 512]);
        bytes.extend(sector_of(&[]));
        bytes.extend(sector_of(&[0, 0, FLUSH, 0]));
        let log = parse(&mut bytes.as_slice()).unwrap();
        assert!(log.operations == [write(8, 7, 1)] && log.cut_short);
    }

    #[test]
    fn what_is_no_such_log() {
        assert!(parse(&mut vec![0; 4096].as_slice()).unwrap().operations.is_empty());
        assert!(parse(&mut vec![1; 4096].as_slice()).is_err());
        assert!(parse(&mut sector_of(&[MAGIC, 1, 1, 4096]).as_slice()).is_err());
        let discard = [header(1), sector_of(&[0, 1, 4, 0])].concat();
        assert!(parse(&mut discard.as_slice()).is_err());
        let short = [header(1), sector_of(&[0, 9, 0, 0])].concat();
        assert!(parse(&mut short.as_slice()).is_err());
    }
}
