//! The program, running, and what it does to directories.

use std::collections::BTreeSet;
use std::fs;
use std::mem::MaybeUninit;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::process::{Pid, Signal, kill_process};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sees entries appear in a directory, without looking again and again: that would take the time that is measured.
pub(crate) struct Watch {
    fd: rustix::fd::OwnedFd,
    seen: BTreeSet<String>,
}

impl Watch {
    pub(crate) fn new(directory: &Path) -> Self {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&fd, directory, WatchFlags::CREATE | WatchFlags::MOVED_TO).unwrap();
        Self { fd, seen: BTreeSet::new() }
    }

    /// Waits until so many names that are not hidden have appeared.
    pub(crate) fn until(&mut self, count: usize) -> Instant {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.read();
            if self.seen.len() >= count {
                return Instant::now();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} of {count} names have appeared: {:?}", self.seen.len(), self.seen);
            let mut fds = [rustix::event::PollFd::new(&self.fd, rustix::event::PollFlags::IN)];
            let _ = rustix::event::poll(&mut fds, Some(&left.try_into().unwrap()));
        }
    }

    fn read(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 64 * 1024];
        let mut reader = inotify::Reader::new(&self.fd, &mut buffer);
        while let Ok(event) = reader.next() {
            assert!(!event.events().contains(ReadFlags::QUEUE_OVERFLOW), "too much happened at once");
            let name = event.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if !name.is_empty() && !name.starts_with('.') {
                self.seen.insert(name);
            }
        }
    }
}

/// A running agent; killed when it is dropped.
pub(crate) struct Agent {
    pub(crate) child: Child,
    pub(crate) began: Instant,
}

impl Agent {
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        command.stdout(fs::File::create(log.with_extension("out")).unwrap());
        command.stderr(fs::File::create(log).unwrap());
        let began = Instant::now();
        Self { child: command.spawn().unwrap(), began }
    }

    /// Waits for the end that it comes to by itself.
    pub(crate) fn end(mut self) {
        assert!(self.child.wait().unwrap().success());
    }

    /// Stops it as a service manager does, and waits for its end.
    pub(crate) fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
