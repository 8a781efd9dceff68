//! What comes into a kubelet's static pod directory and goes, each file looked at by the independent manifest checker.

use std::collections::BTreeSet;
use std::fs;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::inotify;

use super::machine::Machine;
use crate::manifest_checker;

/// One file of the directory at one time. Those that a kubelet ignores, beginning with a dot, are left out.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) file: String,
    /// Or it has gone.
    pub(crate) came: bool,
    pub(crate) at: Instant,
    /// What a kubelet since 1.34 would refuse in it.
    pub(crate) refusals: Vec<String>,
}

/// Watches from the beginning to the end; the kernel keeps each event until it is read, so that no file is missed, however
/// short it lay there.
pub(crate) struct Watched {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    /// Files that are not of the program under test.
    expected: Mutex<BTreeSet<String>>,
    /// Where absolute links lead.
    root: Mutex<Option<PathBuf>>,
    end: AtomicBool,
}

impl Watched {
    pub(crate) fn start(directory: &Path) -> Self {
        let kernel = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
        let came = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CREATE;
        let went = inotify::WatchFlags::MOVED_FROM | inotify::WatchFlags::DELETE;
        inotify::add_watch(&kernel, directory, came | went).unwrap();
        let (shared, directory) = (Arc::new(Shared::default()), directory.to_owned());
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let mut buffer = [MaybeUninit::uninit(); 64 * 1024];
                let mut last = false;
                // Once more after the end was asked for: what came before that counts.
                while !last {
                    last = shared.end.load(Ordering::Relaxed);
                    let mut reader = inotify::Reader::new(&kernel, &mut buffer);
                    while let Ok(event) = reader.next() {
                        let Some(file) = event.file_name().map(|name| name.to_string_lossy().into_owned()) else {
                            continue;
                        };
                        if !file.starts_with('.') {
                            let went = inotify::ReadFlags::MOVED_FROM | inotify::ReadFlags::DELETE;
                            shared.look(&directory, file, !event.events().intersects(went));
                        }
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            })
        };
        Self { shared, thread: Some(thread) }
    }

    /// From now on links lead to what the machine has mounted.
    pub(super) fn look_through(&self, machine: &Machine) {
        *self.shared.root.lock().unwrap() = Some(machine.seen("/"));
    }

    pub(super) fn look_through_nothing(&self) {
        *self.shared.root.lock().unwrap() = None;
    }

    /// Says that a file is the test's own.
    pub(crate) fn expect(&self, file: &str) {
        self.shared.expected.lock().unwrap().insert(file.to_owned());
    }

    /// Everything so far, in order; the test's own files left out.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The files that have come so far, each of them once.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        self.seen().into_iter().filter(|seen| seen.came).map(|seen| seen.file).collect()
    }

    /// The files that lie there now.
    pub(crate) fn present(&self) -> BTreeSet<String> {
        let mut present = BTreeSet::new();
        for seen in self.seen() {
            if seen.came {
                present.insert(seen.file)
            } else {
                present.remove(&seen.file)
            };
        }
        present
    }
}

impl Shared {
    fn look(&self, directory: &Path, file: String, came: bool) {
        if self.expected.lock().unwrap().contains(&file) {
            return;
        }
        let refusals = if came { self.refusals(&directory.join(&file)) } else { Vec::new() };
        self.seen.lock().unwrap().push(Seen { file, came, at: Instant::now(), refusals });
    }

    fn refusals(&self, path: &Path) -> Vec<String> {
        let root = self.root.lock().unwrap().clone();
        // Links of the node lead somewhere else from here.
        let path = match (fs::read_link(path), root) {
            (Ok(target), Some(root)) if target.is_absolute() => root.join(target.strip_prefix("/").expect("absolute")),
            (Ok(_), _) | (Err(_), _) => path.to_owned(),
        };
        // One that has gone again was there all the same, and is in the list.
        fs::read(path).map(|text| manifest_checker::refusals(&text)).unwrap_or_default()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if !std::thread::panicking() {
            let refused: Vec<Seen> = self.seen().into_iter().filter(|seen| !seen.refusals.is_empty()).collect();
            assert!(refused.is_empty(), "manifests that a current kubelet refuses: {refused:?}");
        }
    }
}
