//! A copy-on-write view of a store file: redb may repair and write as it likes, the file on disk keeps its bytes.
//!
//! Offline commands and the cold start read through it, so that a full or read-only disk, and the evidence in a damaged
//! file, stay as they are. It also bounds the work: a damaged file can send redb in circles, and each read counts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::detach::{self, Attached, Detach};

const PAGE: u64 = 4096;

/// What lies under the view: never written to.
#[derive(Clone, Debug)]
pub(super) enum Base {
    /// A file, open for reading, and the number of the error by which the system refused to read it; 0 if it never did.
    File(Arc<(File, AtomicI32)>),
    /// A copy of one.
    Image(Arc<Vec<u8>>),
}

impl From<File> for Base {
    fn from(file: File) -> Self {
        Self::File(Arc::new((file, AtomicI32::new(0))))
    }
}

impl From<Vec<u8>> for Base {
    fn from(image: Vec<u8>) -> Self {
        Self::Image(Arc::new(image))
    }
}

impl Base {
    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.0.metadata()?.len()),
            Self::Image(image) => Ok(image.len() as u64),
        }
    }

    pub(super) fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.0.read_exact_at(out, offset).inspect_err(|error| {
                file.1.store(error.raw_os_error().unwrap_or_else(|| file.1.load(Ordering::Relaxed)), Ordering::Relaxed);
            }),
            // As of a file: nothing can be read from anywhere.
            Self::Image(_) if out.is_empty() => Ok(()),
            Self::Image(image) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let octets = from.checked_add(out.len()).and_then(|to| image.get(from..to));
                out.copy_from_slice(octets.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}

impl Base {
    /// Why the system refused to read, if it ever did: then what does not read says nothing of damage.
    pub(super) fn refused(&self) -> Option<io::Error> {
        match self {
            Self::File(file) => {
                Some(file.1.load(Ordering::Relaxed)).filter(|number| *number != 0).map(io::Error::from_raw_os_error)
            }
            Self::Image(_) => None,
        }
    }
}

/// The view. Reads fall through to the file where nothing was written.
#[derive(Debug)]
pub(super) struct Overlay {
    attached: Attached,
    base: Base,
    state: Mutex<State>,
    reads_left: AtomicU64,
}

#[derive(Debug)]
struct State {
    len: u64,
    /// Bytes of the file at or beyond this offset are not looked at: the view was shortened to it once.
    file_len: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    /// A view of `base`, and what cuts it off.
    ///
    /// # Errors
    /// The file's length can't be read.
    pub(super) fn new(base: Base) -> io::Result<(Self, Detach)> {
        let len = base.len()?;
        // A sound open, check and read takes each page a few times; 64 reads a page are never needed.
        let reads_left = AtomicU64::new((len / PAGE + 16) * 64);
        let (attached, detach) = detach::pair();
        let state = Mutex::new(State { len, file_len: len, pages: BTreeMap::new() });
        Ok((Self { attached, base, state, reads_left }, detach))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A poisoned lock means that a read or write panicked; its pages are still whole.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Changes bytes in the view, as a repair of the header does.
    pub(super) fn patch(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        redb::StorageBackend::write(self, offset, data)
    }
}

impl State {
    fn page<'a>(&'a mut self, base: &Base, number: u64) -> io::Result<&'a mut Vec<u8>> {
        use std::collections::btree_map::Entry;
        match self.pages.entry(number) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let mut page = vec![0; PAGE as usize];
                read_base(base, self.file_len, number * PAGE, &mut page)?;
                Ok(entry.insert(page))
            }
        }
    }
}

/// Reads from what lies under as far as it is looked at; what lies beyond is zero.
fn read_base(base: &Base, file_len: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
    let within = usize::try_from(file_len.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
    let (read, rest) = out.split_at_mut(within);
    base.read_exact_at(read, offset)?;
    rest.fill(0);
    Ok(())
}

impl redb::StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.attached.check()?;
        let spent = self.reads_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if spent.is_err() {
            return Err(io::Error::other("the damaged file leads in circles"));
        }
        let state = self.lock();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > state.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read_base(&self.base, state.file_len, offset, out)?;
        let end = offset + out.len() as u64;
        for (number, page) in state.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let (from, to) = ((number * PAGE).max(offset), ((number + 1) * PAGE).min(end));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&page[(from - number * PAGE) as usize..(to - number * PAGE) as usize]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.attached.check()?;
        let mut state = self.lock();
        if len < state.len {
            state.file_len = state.file_len.min(len);
            state.pages.retain(|number, _| number * PAGE < len);
            // What is written again beyond a shortened end must be zero.
            if let Some(page) = state.pages.get_mut(&(len / PAGE)) {
                page[(len % PAGE) as usize..].fill(0);
            }
        }
        state.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.attached.check()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.attached.check()?;
        let mut state = self.lock();
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > state.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut at = 0;
        while at < data.len() {
            let (number, within) = ((offset + at as u64) / PAGE, ((offset + at as u64) % PAGE) as usize);
            let count = (PAGE as usize - within).min(data.len() - at);
            let page = state.page(&self.base, number)?;
            page[within..within + count].copy_from_slice(&data[at..at + count]);
            at += count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redb::StorageBackend as _;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        SetLen(u64),
        Read(u64, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20_000_u64, proptest::collection::vec(any::<u8>(), 1..6000))
                .prop_map(|(at, data)| Step::Write(at, data)),
            (0..24_000_u64).prop_map(Step::SetLen),
            (0..20_000_u64, 1..9000_usize).prop_map(|(at, count)| Step::Read(at, count)),
        ]
    }

    proptest! {
        /// Against the simplest model: a vector. The file must keep its bytes.
        #[test]
        fn behaves_as_a_file_would(contents in proptest::collection::vec(any::<u8>(), 0..16_000), steps in proptest::collection::vec(step(), 1..40), image: bool) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            std::fs::write(&path, &contents).unwrap();
            let base = if image { Base::from(contents.clone()) } else { Base::from(File::open(&path).unwrap()) };
            let (overlay, _detach) = Overlay::new(base).unwrap();
            let mut model = contents.clone();
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        let fits = at as usize + data.len() <= model.len();
                        prop_assert_eq!(overlay.write(at, &data).is_ok(), fits);
                        if fits {
                            model[at as usize..at as usize + data.len()].copy_from_slice(&data);
                        }
                    }
                    Step::SetLen(len) => {
                        overlay.set_len(len).unwrap();
                        model.resize(len as usize, 0);
                    }
                    Step::Read(at, count) => {
                        let mut out = vec![0xee; count];
                        let fits = at as usize + count <= model.len();
                        prop_assert_eq!(overlay.read(at, &mut out).is_ok(), fits);
                        if fits {
                            prop_assert_eq!(&out[..], &model[at as usize..at as usize + count]);
                        }
                    }
                }
                prop_assert_eq!(overlay.len().unwrap(), model.len() as u64);
            }
            prop_assert_eq!(std::fs::read(&path).unwrap(), contents);
        }
    }
}
