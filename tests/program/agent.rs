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
    /// How many of them [`Agent::rendered`] and [`Agent::stored`] have.
    passed_infos: usize,
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
    /// What the program's own records of level INFO say; they are no part of `lines`.
    infos: Vec<String>,
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
        Self { child, said, readers, passed: 0, passed_infos: 0, names }
    }

    /// Waits for a line of the messages that begins so, after those that were waited for before. Returns the lines from
    /// there up to it.
    #[track_caller]
    pub(crate) fn until(&mut self, start: &str) -> Vec<String> {
        let from = self.passed;
        let (end, lines) = self.wait_for(&format!("a line {start:?}"), |agent, state| {
            let lines: Vec<String> = state.lines[from..].iter().map(|line| agent.shown(line)).collect();
            let at = lines.iter().position(|line| line.starts_with(start))?;
            Some((from + at + 1, lines[..=at].to_vec()))
        });
        self.passed = end;
        lines
    }

    /// Waits for a line of the messages that begins so, wherever it stands among them: on a busy machine the order may differ.
    #[track_caller]
    pub(crate) fn says(&self, start: &str) {
        self.wait_for(&format!("a line {start:?}"), |agent, state| {
            state.lines.iter().any(|line| agent.shown(line).starts_with(start)).then_some(())
        });
    }

    /// Waits for a line that has this in it, after those that were waited for before. Each line is looked at once.
    #[track_caller]
    #[allow(dead_code, reason = "each test program uses a part of it")]
    pub(crate) fn until_has(&mut self, part: &str) {
        let next = std::cell::Cell::new(self.passed);
        self.passed = self.wait_for(&format!("a line with {part:?}"), |_, state| {
            let at = state.lines[next.get()..].iter().position(|line| line.contains(part));
            let from = next.replace(state.lines.len());
            at.map(|at| from + at + 1)
        });
    }

    /// Waits until it follows, and has stored so many objects since its start.
    #[track_caller]
    pub(crate) fn in_step(&mut self, stored: usize) -> Vec<String> {
        let said = self.until("in step");
        self.stored(stored, 0);
        said
    }

    /// Waits until so many objects were stored, and so many removed, in commits after those that were waited for before.
    #[track_caller]
    pub(crate) fn stored(&mut self, stored: usize, removed: usize) {
        let from = self.passed_infos;
        let number = |info: &str, field: &str| -> usize {
            let after = info.split_once(field).unwrap().1;
            after.split(' ').next().unwrap().parse().unwrap()
        };
        self.passed_infos = self.wait_for(&format!("{stored} stored and {removed} removed"), |_, state| {
            let mut sums = (0, 0);
            let at = state.infos[from..].iter().position(|info| {
                if info.starts_with("committed ") {
                    sums = (sums.0 + number(info, "stored="), sums.1 + number(info, "removed="));
                }
                sums.0 >= stored && sums.1 >= removed
            })?;
            Some(from + at + 1)
        });
    }

    /// Waits until so many pods were rendered, after what was waited for before.
    #[track_caller]
    pub(crate) fn rendered(&mut self, pods: usize) {
        let from = self.passed_infos;
        let start = format!("{pods} pod{} rendered", if pods == 1 { "" } else { "s" });
        self.passed_infos = self.wait_for(&start, |_, state| {
            let at = state.infos[from..].iter().position(|info| info.starts_with(&start))?;
            Some(from + at + 1)
        });
    }

    #[track_caller]
    fn wait_for<T>(&self, what: &str, found: impl Fn(&Self, &State) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.said.lock();
        loop {
            if let Some(found) = found(self, &state) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let State { lines, infos, ended, .. } = &*state;
            assert!(!left.is_zero() && *ended < 2, "there never was {what} in {lines:#?}, {infos:#?}");
            state = self.said.more.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
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

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sends the signal and waits for the end.
    pub(crate) fn stop(mut self, signal: Signal) -> Ended {
        self.signal(signal);
        self.wait()
    }

    /// Waits for the end that it comes to by itself.
    #[allow(dead_code, reason = "each test program uses a part of it")]
    pub(crate) fn stop_by_itself(mut self) -> Ended {
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
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                let info = text.strip_prefix("info: ckpt_db::cli::follow").and_then(|rest| rest.split_once(": "));
                match info {
                    Some((_, info)) => state.infos.push(info.to_owned()),
                    None => state.lines.push(text),
                }
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
    let Some((before, after)) = line.split_once(": revision ") else { return line.to_owned() };
    let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{before}: revision N{}", after.replace(", 1 Service", "").replace(", 1 Node", ""))
}
