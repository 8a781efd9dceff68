//! A machine of its own for a node, made of namespaces: its power can be cut, and its disk stays.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use rustix::thread::LinkNameSpaceType;

use crate::process::Process;
use crate::until;

/// Far longer than a boot takes.
const BOOT: Duration = Duration::from_secs(60);

/// Where the cgroup hierarchies of the host are.
const CGROUPS: &str = "/sys/fs/cgroup";

/// A machine that is on or off. Dropping it cuts its power; nothing of it but the disk is left then.
pub(crate) struct Machine {
    name: String,
    disk: PathBuf,
    programs: Vec<PathBuf>,
    cgroup: String,
    on: Option<On>,
}

struct On {
    /// What holds process 1; it ends with it.
    unshare: Process,
    init: i32,
}

impl Machine {
    /// A machine that is off, whose root file system is the directory `disk`. Each of `programs`, a file or a directory of
    /// them, appears below `/opt`.
    pub(crate) fn new(name: &str, disk: &Path, programs: &[&Path]) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        sweep();
        fs::create_dir_all(disk.join("var")).unwrap();
        Self {
            name: name.to_owned(),
            disk: disk.to_owned(),
            programs: programs.iter().map(|program| program.to_path_buf()).collect(),
            cgroup: format!("ckpt-db-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed)),
            on: None,
        }
    }

    /// A path on its disk, as seen from here; not what is mounted over it.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.disk.join(below.trim_start_matches('/'))
    }

    /// Turns it on and waits until commands can be run. One that is on is left alone.
    pub(crate) fn boot(&mut self) {
        if self.on.is_some() {
            return;
        }
        let mark = self.path("var/machine-is-up");
        let _ = fs::remove_file(&mark);
        let mut command = Command::new("bash");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/node/machine.sh"));
        command.arg(&self.disk).arg(&self.cgroup).arg(&self.name).args(&self.programs);
        let mut unshare = Process::started(command, &self.path("var/machine.log"));
        until("the machine to boot", BOOT, || {
            if let Some(status) = unshare.exited() {
                panic!("it ended with {status}: {}", unshare.log());
            }
            if mark.exists() { Ok(()) } else { Err(unshare.log()) }
        });
        let init = only_child(unshare.pid()).expect("it has booted");
        self.on = Some(On { unshare, init });
    }

    /// Ends everything that runs on it at once. One that is off is left alone.
    pub(crate) fn cut_power(&mut self) {
        let Some(mut on) = self.on.take() else { return };
        // It can have ended on its own.
        let _ = rustix::process::kill_process(Pid::from_raw(on.init).expect("not 0"), Signal::KILL);
        until("the machine to be off", BOOT, || on.unshare.exited().ok_or_else(String::new));
        until("its cgroups to be empty", BOOT, || remove_cgroups(&self.cgroup).map_err(|error| error.to_string()));
    }

    /// Whether it is on.
    pub(crate) fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// A command that runs on it, with the environment that a service manager would give it.
    ///
    /// # Panics
    /// If it is off.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let init = self.init().to_string();
        command.args(["--target", &init, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--time", "--"]);
        command.args(["env", "-i", "PATH=/usr/sbin:/usr/bin", "HOME=/root", program]);
        command
    }

    /// Runs a shell command on it to its end.
    #[track_caller]
    pub(crate) fn shell(&self, script: &str) -> Output {
        self.command("sh").args(["-euc", script]).output().unwrap()
    }

    /// As [`Machine::shell`]; what it has written to standard output.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub(crate) fn told(&self, script: &str) -> String {
        let output = self.shell(script);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{script}: {}\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// The path of a file as its processes see it, mounts included, for this process to open. An absolute link on the way
    /// would lead out of it.
    pub(crate) fn seen(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init())).join(path.trim_start_matches('/'))
    }

    /// Its network namespace.
    pub(crate) fn network(&self) -> Network {
        Network(fs::File::open(format!("/proc/{}/ns/net", self.init())).unwrap().into())
    }

    /// Process 1, as the host counts.
    fn init(&self) -> i32 {
        self.on.as_ref().expect("the machine is on").init
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A second panic would abort the test program, and what the first one said would be lost.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.cut_power()));
        } else {
            self.cut_power();
        }
    }
}

/// A network namespace.
pub(crate) struct Network(OwnedFd);

impl Network {
    /// Moves the calling thread there for the rest of its life.
    pub(crate) fn enter(&self) {
        rustix::thread::move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }
}

/// A program on a machine that can be started, signalled and killed; nobody but its machine ends it otherwise.
pub(crate) struct Service(Process);

impl Service {
    pub(crate) fn started(command: Command, log: &Path) -> Self {
        Self(Process::started(command, log))
    }

    /// Its process id, as the host counts.
    pub(crate) fn pid(&mut self) -> Pid {
        let what = "the program to run";
        until(what, BOOT, || match self.0.exited() {
            Some(status) => panic!("it ended with {status}: {}", self.0.log()),
            None => only_child(self.0.pid()).and_then(Pid::from_raw).ok_or_else(|| self.0.log()),
        })
    }

    /// How it ended, if it has.
    pub(crate) fn exited(&mut self) -> Option<std::process::ExitStatus> {
        self.0.exited()
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
        if signal == Signal::CONT {
            // nsenter stops when its child is stopped.
            self.0.signal(signal);
        }
    }

    /// Sends SIGTERM and waits until it has ended.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> std::process::ExitStatus {
        self.signal(Signal::TERM);
        until("the program to stop", BOOT, || self.exited().ok_or_else(|| self.log()))
    }

    /// Sends SIGKILL and waits until it has ended. One that has ended is left alone.
    pub(crate) fn kill(&mut self) {
        if self.exited().is_none() {
            self.signal(Signal::KILL);
            until("the program to end", BOOT, || self.exited().ok_or_else(|| self.log()));
        }
    }

    /// Everything that was written to its log, by those before it too.
    pub(crate) fn log(&self) -> String {
        self.0.log()
    }
}

fn only_child(parent: Pid) -> Option<i32> {
    let parent = parent.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Removes the cgroups of a machine that is off, in all hierarchies.
fn remove_cgroups(name: &str) -> std::io::Result<()> {
    fn remove(at: &Path) -> std::io::Result<()> {
        for entry in fs::read_dir(at)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                remove(&entry.path())?;
            }
        }
        fs::remove_dir(at)
    }
    for hierarchy in fs::read_dir(CGROUPS)? {
        let ours = hierarchy?.path().join(name);
        if ours.exists() {
            remove(&ours)?;
        }
    }
    Ok(())
}

/// Removes the cgroups that a test program which was killed has left.
fn sweep() {
    let Ok(entries) = fs::read_dir(Path::new(CGROUPS).join("memory")) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix("ckpt-db-").and_then(|rest| rest.split('-').next()) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            // Another one may be at it.
            let _ = remove_cgroups(&name);
        }
    }
}
