//! The kubelet's process: which one it is, since when it runs, how it was called (`/proc/[pid]`, proc(5)).

use std::io;
use std::path::{Path, PathBuf};

use crate::node::file;
use crate::regular_file::{self, ReadError};

/// A line of `stat` is a few hundred bytes, a command line at most a few pages.
const FILE_MAX_BYTES: usize = 128 * 1024;

/// `PF_KTHREAD` of the kernel's `sched.h`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// A process that is a kubelet, or has one in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number in the PID namespace of the `/proc` that was read.
    pub pid: u32,
    /// When it was started, in milliseconds since boot, rounded down to the kernel's clock tick.
    pub since_ms: u64,
    /// Its command line, the program first. Empty where it can't be read.
    pub arguments: Vec<String>,
    /// What it is.
    pub kind: Kind,
}

/// What a process with a kubelet is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The kubelet itself.
    Kubelet,
    /// A program of a distribution, by its name, that runs the kubelet in itself or as a child.
    Distribution(String),
}

/// What a look through the processes has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Kubelets, the oldest first, and after them the programs of distributions: k0s and RKE2 start a kubelet by itself, and
    /// while that one is being restarted their own start is the time that is certain not to be too late.
    pub kubelets: Vec<Process>,
    /// Whether a kubelet that is not among them can't be there, or why that is not certain.
    pub complete: Result<(), Gap>,
}

/// Why a kubelet may run that was not found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gap {
    /// Not all of the host's processes are shown here.
    Hidden(String),
    /// What was attempted on which file, and what came of it.
    Failed(String),
}

/// Looks through the processes below `proc`.
///
/// Nothing is an error: what can't be read is said in [`Scan::complete`]. A process that ends while it is looked at is not
/// there.
#[must_use]
pub fn scan(proc: &Path) -> Scan {
    let mut found = Vec::new();
    let mut complete = is_of_the_host(proc);
    let entries = match std::fs::read_dir(proc) {
        Ok(entries) => entries,
        Err(error) => return Scan { kubelets: found, complete: Err(Gap::Failed(file::cannot("read", proc, &error))) },
    };
    for entry in entries {
        let name = match entry {
            Ok(entry) => entry.file_name(),
            Err(error) => {
                complete = Err(Gap::Failed(file::cannot("read", proc, &error)));
                break;
            }
        };
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        match look(proc, pid) {
            Ok(Some(process)) => found.push(process),
            Ok(None) => {}
            Err(why) => complete = Err(Gap::Failed(why)),
        }
    }
    found.sort_by_key(|process| (process.kind != Kind::Kubelet, process.since_ms, process.pid));
    Scan { kubelets: found, complete }
}

/// Whether the process `pid` is still the one that was started at `since_ms`, and lives.
#[must_use]
pub fn is_alive(proc: &Path, pid: u32, since_ms: u64) -> bool {
    let Ok(Some(text)) = read(&proc.join(pid.to_string()).join("stat")) else { return false };
    parse_stat(&text).is_some_and(|stat| stat.lives() && stat.since_ms() == since_ms)
}

/// Whether all of the host's processes are seen here.
///
/// In the first PID namespace the second process is always the kernel's thread that starts the others. In every other
/// (a pod without `hostPID`) there is none, and where `hidepid` or `ProtectProc=` hides other users' processes it can't be
/// seen either: then a kubelet may run unseen.
fn is_of_the_host(proc: &Path) -> Result<(), Gap> {
    match read(&proc.join("2/stat")).map_err(Gap::Failed)? {
        Some(text) if parse_stat(&text).is_some_and(|stat| stat.flags & KERNEL_THREAD != 0) => Ok(()),
        Some(_) | None => Err(Gap::Hidden(format!(
            "{} shows the processes of a container, or hides some; run with hostPID, or without ProtectProc= and hidepid",
            proc.display()
        ))),
    }
}

fn look(proc: &Path, pid: u32) -> Result<Option<Process>, String> {
    let directory = proc.join(pid.to_string());
    let path = directory.join("stat");
    let Some(text) = read(&path)? else { return Ok(None) };
    let stat = parse_stat(&text).ok_or_else(|| format!("{} is not as proc(5) says", path.display()))?;
    if !stat.lives() || stat.flags & KERNEL_THREAD != 0 {
        return Ok(None);
    }
    // A process may name itself as it likes; the program's file stands beside that where it may be read.
    let program = program(&directory);
    let mut names = [Some(stat.name.clone()), program].into_iter().flatten();
    let Some(name) = names.find(|name| name == "kubelet" || distribution(name).is_some()) else { return Ok(None) };
    // The command line is read of these alone: reading it waits for a process that is busy with its memory.
    let arguments = arguments(&directory.join("cmdline"));
    let kind = match distribution(&name) {
        None => Kind::Kubelet,
        Some(_) if name == "hyperkube" => match arguments.as_deref() {
            Some(words) if !words.iter().any(|word| word == "kubelet") => return Ok(None),
            Some(_) | None => Kind::Kubelet,
        },
        Some(words) => match arguments.as_deref() {
            Some(arguments) if !words.is_empty() && !arguments.iter().any(|argument| is_one_of(argument, words)) => {
                return Ok(None);
            }
            // Where it can't be read, the answer that activates nothing is the safe one.
            Some(_) | None => Kind::Distribution(name),
        },
    };
    Ok(Some(Process { pid, since_ms: stat.since_ms(), arguments: arguments.unwrap_or_default(), kind }))
}

/// Programs that have a kubelet in them or start one, and the words of their command line that say so; none: always.
fn distribution(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "k3s" | "rke2" => &["agent", "server"],
        "k3s-agent" | "k3s-server" | "kubelite" => &[],
        "k0s" => &["worker", "--enable-worker", "--single"],
        "microshift" => &["run"],
        "hyperkube" => &["kubelet"],
        _ => return None,
    })
}

fn is_one_of(argument: &str, words: &[&str]) -> bool {
    words.iter().any(|word| argument.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest == "=true"))
}

/// The base name of the program's file; after a replacement of the file the kernel appends ` (deleted)`.
fn program(directory: &Path) -> Option<String> {
    let target: PathBuf = std::fs::read_link(directory.join("exe")).ok()?;
    let name = target.file_name()?.to_str()?;
    Some(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned())
}

fn arguments(path: &Path) -> Option<Vec<String>> {
    let text = read(path).ok()??;
    let text = text.strip_suffix(b"\0").unwrap_or(&text);
    Some(text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// A file of a process; none if the process is gone.
fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let gone = |error: &io::Error| error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
    match regular_file::read(path, FILE_MAX_BYTES) {
        Ok(file) => Ok(Some(file.contents.expose().to_vec())),
        Err(error) if error.is_absent() => Ok(None),
        Err(ReadError::Open(cause) | ReadError::Read(cause)) if gone(&cause) => Ok(None),
        Err(ReadError::Open(cause) | ReadError::Read(cause)) => Err(file::cannot("read", path, &cause)),
        Err(error @ (ReadError::NotRegular(_) | ReadError::TooLarge { .. })) => {
            Err(format!("cannot read {}: {error}", path.display()))
        }
    }
}

/// What counts of `/proc/[pid]/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// The second field, without its parentheses.
    name: String,
    /// The third.
    state: u8,
    /// The ninth.
    flags: u64,
    /// The twentieth.
    threads: u64,
    /// The 22nd: clock ticks since boot.
    start_ticks: u64,
}

impl Stat {
    /// A zombie is dead, unless only its first thread has ended.
    fn lives(&self) -> bool {
        match self.state {
            b'Z' => self.threads > 1,
            b'X' | b'x' => false,
            _ => true,
        }
    }

    fn since_ms(&self) -> u64 {
        let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
        let ms = u128::from(self.start_ticks) * 1000 / u128::from(ticks_per_second);
        u64::try_from(ms).unwrap_or(u64::MAX)
    }
}

/// A name may hold blanks, parentheses and line ends, so the last parenthesis closes it.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let name = String::from_utf8_lossy(text.get(open + 1..close)?).into_owned();
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    // From the third field on.
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse().ok();
    let state = *fields.first()?.as_bytes().first()?;
    Some(Stat { name, state, flags: number(9)?, threads: number(20)?, start_ticks: number(22)? })
}

#[cfg(test)]
pub(in crate::node) mod tests;
