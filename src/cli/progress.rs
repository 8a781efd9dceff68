//! How far a command has come, on one line of standard error that goes away again; on terminals only.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ckpt_db::store::{Phase, Progress, progress};

/// How often it is looked at.
const EACH: Duration = Duration::from_millis(100);

/// Back to the beginning of the line, which is cleared.
const CLEAR: &str = "\r\u{1b}[K";

/// Shows how far the work on the store has come, until it is dropped. To be dropped before anything else is said.
pub(crate) struct Shown(Option<(Sender<()>, JoinHandle<()>)>);

impl Shown {
    /// Begins. Where standard error is no terminal, or a dumb one, nothing is shown.
    pub(crate) fn begin() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if dumb || !io::stderr().is_terminal() {
            return Self(None);
        }
        show(&line(progress()));
        let (stop, stopped) = channel();
        Self(std::thread::Builder::new().spawn(move || look(&stopped)).ok().map(|thread| (stop, thread)))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            // It has nothing to fail at.
            let _ = thread.join();
            show("");
        }
    }
}

fn look(stopped: &Receiver<()>) {
    while stopped.recv_timeout(EACH) == Err(RecvTimeoutError::Timeout) {
        show(&line(progress()));
    }
}

fn show(line: &str) {
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{CLEAR}{line}").and_then(|()| stderr.flush());
}

/// `checking records: 1200 of 5400 (22%)`
fn line(progress: Progress) -> String {
    let Progress { phase, done, total } = progress;
    let what = match phase {
        Phase::Reading => "reading the store",
        Phase::Checking => "checking records",
        Phase::Writing => "writing records",
    };
    match (done * 100).checked_div(total) {
        // Two counts are not read at one moment.
        Some(percent) => format!("{what}: {done} of {total} ({}%)", percent.min(100)),
        None => format!("{what} ..."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        #[rustfmt::skip]
        let table = [
            (Phase::Reading,  0,    0,    "reading the store ..."),
            (Phase::Checking, 0,    5400, "checking records: 0 of 5400 (0%)"),
            (Phase::Checking, 1200, 5400, "checking records: 1200 of 5400 (22%)"),
            (Phase::Writing,  5400, 5400, "writing records: 5400 of 5400 (100%)"),
            (Phase::Writing,  9,    3,    "writing records: 9 of 3 (100%)"),
        ];
        for (phase, done, total, expected) in table {
            assert_eq!(line(Progress { phase, done, total }), expected);
        }
    }
}
