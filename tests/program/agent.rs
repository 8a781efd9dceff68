//! A running agent: what it prints, as it prints it.

use std::io::{BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Far longer than anything here takes; a test that meets it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The program, running; killed when a test fails.
pub(crate) struct Agent {
    child: Child,
    said: Arc<Said>,
    readers: Vec<JoinHandle<()>>,
    /// How many lines [`Agent::until`] has passed.
    passed: usize,
    /// What stands for what in lines; see [`Agent::shown`].
    names: Vec<(String, &'static str)>,
}

/// Everything that was said so far.
#[derive(Default)]
struct Said {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    /// Lines of the messages, without their ends.
    lines: Vec<String>,
    /// All octets of both streams.
    octets: Vec<u8>,
    /// How many streams have ended.
    ended: usize,
}

/// How a program ended, and all that it said.
pub(crate) struct Ended {
    /// `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    /// The messages, with names in place of what differs from run to run.
    pub(crate) lines: Vec<String>,
    /// All octets of both streams.
    pub(crate) octets: Vec<u8>,
}

impl Agent {
    /// Starts it, with both streams read from. `names` stand for texts that differ from run to run.
    pub(crate) fn start(mut command: Command, names: Vec<(String, &'static str)>) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Said::default());
        let streams: [(Box<dyn Read + Send>, bool); 2] =
            [(Box::new(child.stdout.take().unwrap()), false), (Box::new(child.stderr.take().unwrap()), true)];
        let readers = streams
            .into_iter()
            .map(|(stream, messages)| {
                let said = Arc::clone(&said);
                std::thread::spawn(move || said.read(BufReader::new(stream), messages))
            })
            .collect();
        Self { child, said, readers, passed: 0, names }
    }

    /// Waits for a line of the messages that begins so, after those that were waited for before. Returns the lines from
    /// there up to it.
    #[track_caller]
    pub(crate) fn until(&mut self, start: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let said = Arc::clone(&self.said);
        let mut state = said.lock();
        loop {
            let lines: Vec<String> = state.lines[self.passed..].iter().map(|line| self.shown(line)).collect();
            if let Some(at) = lines.iter().position(|line| line.starts_with(start)) {
                self.passed += at + 1;
                return lines[..=at].to_vec();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero() && state.ended < 2, "the agent never printed {start:?} after {lines:#?}");
            state = said.more.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The messages so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.said.lock().lines.iter().map(|line| self.shown(line)).collect()
    }

    fn shown(&self, line: &str) -> String {
        let named = self.names.iter().fold(line.to_owned(), |line, (text, name)| line.replace(text, name));
        without_revision(&without_dates(&named))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sends the signal and waits for the end.
    pub(crate) fn stop(mut self, signal: Signal) -> Ended {
        self.signal(signal);
        self.wait()
    }

    /// As SIGKILL ends it.
    pub(crate) fn kill(self) {
        assert_eq!(self.stop(Signal::KILL).code, None, "it had ended by itself");
    }

    fn wait(&mut self) -> Ended {
        let code = self.child.wait().unwrap().code();
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        let lines = self.lines();
        assert!(!lines.iter().any(|line| line.contains("panicked")), "{lines:#?}");
        let octets = std::mem::take(&mut self.said.lock().octets);
        Ended { code, lines, octets }
    }
}

/// Looks without a pause until it is so.
#[track_caller]
pub(crate) fn at_once(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Said {
    /// A test that has failed while it looked does not keep the readers from reading.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, mut stream: impl std::io::BufRead, messages: bool) {
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|octets| octets > 0) {
            let mut state = self.lock();
            state.octets.extend(&line);
            if messages {
                state.lines.push(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned());
            }
            line.clear();
            self.more.notify_all();
        }
        self.lock().ended += 1;
        self.more.notify_all();
    }
}

/// `DATE` for each date and time, in whichever way it is written.
fn without_dates(line: &str) -> String {
    let mut shown = String::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let length = dated(rest);
        if length > 0 {
            shown.push_str("DATE");
            rest = &rest[length..];
        } else {
            shown.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    shown
}

/// The length of the date and time that `text` begins with, or 0.
fn dated(text: &str) -> usize {
    let form = b"0000-00-00T00:00:00Z";
    let fits = |(found, form): (u8, &u8)| if *form == b'0' { found.is_ascii_digit() } else { found == *form };
    if text.len() >= form.len() && text.bytes().zip(form).all(fits) { form.len() } else { 0 }
}

/// How many transactions a start takes, and whether the Services or the Node are among the first, is a matter of chance.
fn without_revision(line: &str) -> String {
    for start in [": revision ", " revision="] {
        if let Some((before, after)) = line.split_once(start) {
            let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
            return format!("{before}{start}N{}", after.replace(", 1 Service", "").replace(", 1 Node", ""));
        }
    }
    line.to_owned()
}
