//! Child processes that never outlive the tests: etcd, the API server, and the agent under test.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, mpsc};

/// A program that can be started, killed and started again with the same command line. Dropping it kills it.
pub(crate) struct Process {
    command: Command,
    child: Option<Child>,
    log: PathBuf,
}

/// The agent under test; its messages are in [`Process::log`].
pub(crate) type Agent = Process;

impl Process {
    /// A program that is not yet started. What it writes to standard output and standard error is appended to `log`.
    ///
    /// Where `setpriv` is at hand, the kernel kills the program as soon as the test program is gone, however it ended.
    pub(crate) fn new(command: Command, log: &Path) -> Self {
        Self { command: bound_to_us(command), child: None, log: log.to_owned() }
    }

    /// As [`Process::new`], and starts it.
    pub(crate) fn started(command: Command, log: &Path) -> Self {
        let mut process = Self::new(command, log);
        process.start();
        process
    }

    /// Starts it; one that runs already is left alone.
    pub(crate) fn start(&mut self) {
        if self.child.is_some() && self.exited().is_none() {
            return;
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        self.command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let command = std::mem::replace(&mut self.command, Command::new("true"));
        let (command, child) = spawn_from_the_keeper(command);
        self.child = Some(child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")));
        self.command = command;
    }

    /// Kills it with SIGKILL and waits until it is gone. One that does not run is left alone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended on its own in the meantime.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Its process id, the same after `setpriv` became the program.
    pub(crate) fn pid(&self) -> rustix::process::Pid {
        let child = self.child.as_ref().expect("it runs");
        rustix::process::Pid::from_child(child)
    }

    /// Sends a signal, such as STOP, CONT or TERM.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// How it ended, if it ended on its own.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().unwrap())
    }

    /// Everything that it has written since the first start.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How many established TCP connections it holds to `port` on loopback.
    pub(crate) fn connections(&self, port: u16) -> usize {
        let pid = self.pid().as_raw_nonzero();
        let mut sockets = std::collections::BTreeSet::new();
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            // A descriptor may be closed while we read.
            let Ok(link) = std::fs::read_link(entry.path()) else { continue };
            if let Some(inode) = link.to_str().and_then(|link| link.strip_prefix("socket:[")) {
                sockets.insert(inode.trim_end_matches(']').to_owned());
            }
        }
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
        // The kernel may show a socket twice in a table that changes while it is read.
        let mut ours = std::collections::BTreeSet::new();
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // proc(5): remote address, state (01 is established), inode.
            if fields[2].ends_with(&format!(":{port:04X}")) && fields[3] == "01" && sockets.contains(fields[9]) {
                ours.insert(fields[9]);
            }
        }
        ours.len()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn bound_to_us(command: Command) -> Command {
    static SETPRIV: LazyLock<bool> = LazyLock::new(|| {
        let probe = Command::new("setpriv").args(["--pdeathsig", "KILL", "true"]).output();
        probe.is_ok_and(|output| output.status.success())
    });
    if !*SETPRIV {
        return command;
    }
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        wrapped.current_dir(directory);
    }
    wrapped
}

type Spawned = (Command, std::io::Result<Child>);
type Job = (Command, mpsc::Sender<Spawned>);

/// Spawns on a thread that lives as long as the test program: the signal at the parent's death is sent when the
/// *thread* that spawned ends, and each test has a thread of its own.
fn spawn_from_the_keeper(command: Command) -> Spawned {
    static KEEPER: LazyLock<Mutex<mpsc::Sender<Job>>> = LazyLock::new(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in jobs {
                let child = command.spawn();
                let _ = answer.send((command, child));
            }
        });
        Mutex::new(sender)
    });
    let (answer, spawned) = mpsc::channel();
    KEEPER.lock().unwrap().send((command, answer)).unwrap();
    spawned.recv().unwrap()
}
