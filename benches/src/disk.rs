//! Floors: the least that durability costs on this disk.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Appends to a file whose blocks are there already, and waits for the data alone: nothing durable is cheaper.
pub(crate) struct Log {
    file: File,
    at: u64,
}

/// So much is written over and over.
const LOG_BYTES: u64 = 32 << 20;

impl Log {
    pub(crate) fn new(directory: &Path) -> Self {
        let path = directory.join("log");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
        let zeros = vec![0; 1 << 20];
        for at in (0..LOG_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at).unwrap();
        }
        file.sync_all().unwrap();
        Self { file, at: 0 }
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Duration {
        let began = Instant::now();
        if self.at + bytes.len() as u64 > LOG_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at).unwrap();
        self.file.sync_data().unwrap();
        self.at += bytes.len() as u64;
        began.elapsed()
    }
}

/// One file per object, as checkpointers without a database have it, each replaced durably.
pub(crate) struct Files(PathBuf);

impl Files {
    pub(crate) fn new(directory: &Path) -> Self {
        let directory = directory.join("files");
        fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    pub(crate) fn put(&self, objects: &[(String, Vec<u8>)]) -> Duration {
        let began = Instant::now();
        for (name, bytes) in objects {
            let temporary = self.0.join(".new");
            let mut file = File::create(&temporary).unwrap();
            file.write_all(bytes).unwrap();
            file.sync_all().unwrap();
            fs::rename(temporary, self.0.join(name)).unwrap();
        }
        // Once for all of them: the promise is that the burst is durable afterwards.
        File::open(&self.0).unwrap().sync_all().unwrap();
        began.elapsed()
    }
}
