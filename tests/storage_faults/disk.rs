//! A disk in memory that remembers what was asked of it: each write-class operation in order, and when it was synced.
//!
//! Reads see every write at once, as through the page cache. What a power cut would leave of it is made from the record by
//! [`crate::images`]. A fault can be set for one operation, or for one and all that follow.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

/// One operation that changes what the disk holds, or promises that it will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Write { offset: u64, data: Vec<u8> },
    SetLen(u64),
    Sync,
}

/// What the disk refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Which operation is hit, counted from 0 over all operations of its class.
    pub(crate) at: usize,
    pub(crate) class: Class,
    /// `ENOSPC` or `EIO`.
    pub(crate) errno: i32,
    pub(crate) lasts: Lasts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Writes and changes of length.
    Write,
    Sync,
    Read,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lasts {
    Once,
    ForEver,
}

#[derive(Debug, Default)]
struct State {
    live: Vec<u8>,
    done: Vec<Op>,
    /// What a failed sync has left behind: writes that reads see, and that no later sync makes durable.
    lost: Vec<usize>,
    fault: Option<Fault>,
    /// How many operations had been carried out when the fault struck first.
    struck: Option<usize>,
    counted: [usize; 3],
}

/// A handle to a disk; clones are handles to the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// A disk that holds `image`, durably.
    pub(crate) fn with(image: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { live: image, ..State::default() })))
    }

    pub(crate) fn set(&self, fault: Option<Fault>) {
        let mut state = self.lock();
        (state.fault, state.counted) = (fault, [0; 3]);
    }

    /// How many operations had been carried out when the fault struck first; `None` if it did not.
    pub(crate) fn struck(&self) -> Option<usize> {
        self.lock().struck
    }

    /// How many write-class operations were carried out.
    pub(crate) fn ops(&self) -> usize {
        self.lock().done.len()
    }

    /// What reads see.
    pub(crate) fn live(&self) -> Vec<u8> {
        self.lock().live.clone()
    }

    pub(crate) fn done(&self) -> Vec<Op> {
        self.lock().done.clone()
    }

    /// Which of the operations will never be durable, since a sync that should have made them so has failed.
    pub(crate) fn lost(&self) -> Vec<usize> {
        self.lock().lost.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn strike(&mut self, class: Class) -> io::Result<()> {
        let count = &mut self.counted[class as usize];
        let now = *count;
        *count += 1;
        match self.fault {
            Some(fault)
                if fault.class == class && (now == fault.at || (fault.lasts == Lasts::ForEver && now > fault.at)) =>
            {
                self.struck.get_or_insert(self.done.len());
                Err(io::Error::from_raw_os_error(fault.errno))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Applies an operation to what a disk holds.
pub(crate) fn apply(bytes: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write { offset, data } => write(bytes, *offset, data),
        Op::SetLen(len) => bytes.resize(usize::try_from(*len).unwrap(), 0),
        Op::Sync => {}
    }
}

pub(crate) fn write(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let from = usize::try_from(offset).unwrap();
    if bytes.len() < from + data.len() {
        bytes.resize(from + data.len(), 0);
    }
    bytes[from..from + data.len()].copy_from_slice(data);
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.lock();
        state.strike(Class::Read)?;
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = state.live.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        state.strike(Class::Write)?;
        let op = Op::SetLen(len);
        apply(&mut state.live, &op);
        state.done.push(op);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.lock();
        if let Err(error) = state.strike(Class::Sync) {
            // The kernel marks the pages clean all the same: nobody writes them again.
            let since = state.done.iter().rposition(|op| *op == Op::Sync).map_or(0, |at| at + 1);
            let lost = since..state.done.len();
            state.lost.extend(lost);
            return Err(error);
        }
        state.done.push(Op::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        state.strike(Class::Write)?;
        let op = Op::Write { offset, data: data.to_vec() };
        apply(&mut state.live, &op);
        state.done.push(op);
        Ok(())
    }
}
