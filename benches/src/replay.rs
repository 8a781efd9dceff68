//! What a commit does to the disk, and nothing else: the writes and syncs of real commits, recorded and done again.
//!
//! The difference between it and the floor is the disk's: two syncs instead of one, and pages here and there. The difference
//! between it and the store is the processor's.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ckpt_db::crypto::SystemEntropy;
use ckpt_db::store::{Backend as _, Change, RedbStore};
use store_format::Unlocker;

/// How many commits are done again in turns: their pages lie elsewhere each time.
const COMMITS: usize = 8;

/// One call of a commit.
#[derive(Clone, Debug)]
enum Call {
    Write { at: u64, bytes: usize },
    Sync,
}

/// A store's file in memory, and the calls of its commits.
#[derive(Clone, Debug)]
struct Recorder(Arc<Mutex<(Vec<u8>, Vec<Call>)>>);

impl redb::StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().0.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = offset as usize;
        out.copy_from_slice(&self.0.lock().unwrap().0[from..from + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().0.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.lock().unwrap().1.push(Call::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let from = offset as usize;
        let (file, calls) = &mut *self.0.lock().unwrap();
        file[from..from + data.len()].copy_from_slice(data);
        calls.push(Call::Write { at: offset, bytes: data.len() });
        Ok(())
    }
}

/// Commits to do again.
pub(crate) struct Replay {
    file: File,
    commits: Vec<Vec<Call>>,
    contents: Vec<u8>,
}

impl Replay {
    /// Records what a copy of the store at `path` does for some rounds of `make`.
    pub(crate) fn of(
        path: &Path,
        key: &Unlocker,
        now_unix_ms: u64,
        make: &dyn Fn(usize) -> Vec<Change>,
        directory: &Path,
    ) -> Self {
        let image = std::fs::read(path).unwrap();
        let recorder = Recorder(Arc::new(Mutex::new((image.clone(), Vec::new()))));
        let mut store = RedbStore::open_on(recorder.clone(), image, &[key], Box::new(SystemEntropy)).unwrap();
        let mut commits = Vec::new();
        // As many digits as those that are measured have, and others than what is stored.
        for round in 0..2 * COMMITS {
            let _ = store.update(make(70 + round), now_unix_ms).unwrap().into_inner();
            commits.push(std::mem::take(&mut recorder.0.lock().unwrap().1));
        }
        // The first ones open tables anew and find room.
        let commits = commits.split_off(COMMITS);
        drop(store);
        let contents = std::mem::take(&mut recorder.0.lock().unwrap().0);
        let path = directory.join("replay");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
        file.write_all_at(&contents, 0).unwrap();
        file.sync_all().unwrap();
        Self { file, commits, contents }
    }

    /// How many pages a commit writes, and in how many places: what lies side by side goes to the disk in one piece.
    pub(crate) fn shape(&self) -> (usize, usize) {
        let mut writes: Vec<(u64, usize)> = self.commits[0]
            .iter()
            .filter_map(|call| match call {
                Call::Write { at, bytes } => Some((*at, *bytes)),
                Call::Sync => None,
            })
            .collect();
        writes.sort_unstable();
        let apart = writes.windows(2).filter(|pair| pair[0].0 + pair[0].1 as u64 != pair[1].0).count();
        (writes.len(), 1 + apart)
    }

    pub(crate) fn commit(&mut self, round: usize) -> Duration {
        let began = Instant::now();
        for call in &self.commits[round % self.commits.len()] {
            match call {
                Call::Write { at, bytes } => {
                    let from = *at as usize;
                    self.file.write_all_at(&self.contents[from..from + bytes], *at).unwrap();
                }
                Call::Sync => self.file.sync_data().unwrap(),
            }
        }
        began.elapsed()
    }
}
