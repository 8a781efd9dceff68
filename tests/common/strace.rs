//! A program under strace: which system calls it makes, and what becomes of it when one of them goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use super::program::clean;

/// Every call that changes a file, a directory or a link, or makes such a change durable. A question mark: not every
/// architecture has it.
pub(crate) const CALLS: [&str; 32] = [
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "?pwritev2",
    "copy_file_range",
    "sendfile",
    "fallocate",
    "ftruncate",
    "truncate",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "?rename",
    "?renameat",
    "renameat2",
    "?link",
    "linkat",
    "?symlink",
    "symlinkat",
    "?unlink",
    "unlinkat",
    "?rmdir",
    "?mkdir",
    "mkdirat",
    "?open",
    "openat",
    "fchmod",
    "fchmodat",
    "fchown",
    // Only so that it can be refused: see ALONE.
    "?clone",
    "?clone3",
];

/// The program gets no further thread: strace counts calls by thread, and files that are synced side by side elsewhere are then
/// synced one after the other, by the thread that does all else.
pub(crate) const ALONE: [&str; 2] = ["-e", "inject=?clone,clone3:error=EAGAIN"];

/// How many kills of each scenario an ordinary run makes. `CKPT_DB_KILLS=N` makes it N.
const SAMPLE: usize = 11;

/// Runs `command` under strace. Its output is of no interest.
pub(crate) fn run(log: &Path, options: &[&str], command: &Command) -> ExitStatus {
    traced(log, options, command).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap()
}

/// The command that runs `command` under strace.
pub(crate) fn traced(log: &Path, options: &[&str], command: &Command) -> Command {
    let mut strace = clean(Command::new("strace"));
    strace.args(["-f", "-qq", "-o"]).arg(log).arg("-e").arg(format!("trace={}", CALLS.join(","))).args(options);
    strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    strace.arg("--").arg(command.get_program()).args(command.get_args());
    strace
}

/// A test of the running test program that does one thing to a file, ignored but for this: alone in a process of its own, so
/// that it can be killed in the middle of it.
pub(crate) struct Victim<'a> {
    pub(crate) test: &'a str,
    /// The variable of the environment that tells it the file.
    pub(crate) variable: &'a str,
    pub(crate) path: &'a Path,
}

impl Victim<'_> {
    /// Runs it under strace, killed at one call if any.
    pub(crate) fn run(&self, log: &Path, killed_at: Option<&(String, usize)>) -> ExitStatus {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", self.test, "--ignored", "--test-threads=1"]);
        command.env(self.variable, self.path).env("RUST_BACKTRACE", "0");
        let inject = killed_at.map(|(call, number)| format!("inject={call}:signal=SIGKILL:when={number}"));
        let options: Vec<&str> = inject.iter().flat_map(|inject| ["-e", inject]).collect();
        run(log, &options, &command)
    }
}

/// Whether strace can be used. Where it can't the test is skipped, loudly; never in CI.
pub(crate) fn works() -> bool {
    let works = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if works.as_ref().is_ok_and(ExitStatus::success) {
        return true;
    }
    let why = if works.is_err() { "strace is not installed" } else { "strace is not allowed here" };
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{why}, and CI has to show what kills do");
    say(&format!("SKIPPED: {why}"));
    false
}

/// A line that is seen although the test passes.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "\n{line}");
}

/// The calls in a log that change something: name and number among those of that name.
pub(crate) fn points(log: &str) -> Vec<(String, usize)> {
    let threads: BTreeSet<&str> = log.lines().filter_map(|line| line.split(' ').next()).collect();
    // strace counts by thread.
    assert_eq!(threads.len(), 1, "one thread does it all");
    points_from(log, "")
}

/// The same from the first call on that names `first`, also where there are threads of a test harness.
pub(crate) fn points_from(log: &str, first: &str) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let (mut points, mut begun) = (Vec::new(), false);
    for line in log.lines() {
        let (thread, rest) = line.split_once(' ').unwrap();
        let Some((call, arguments)) = rest.trim_start().split_once('(') else { continue };
        let count = counts.entry((thread, call)).or_default();
        *count += 1;
        begun |= arguments.contains(first);
        let reads_only = call.starts_with("open") && !arguments.contains("O_CREAT") && !arguments.contains("O_TRUNC");
        if begun && !reads_only && !call.starts_with("clone") {
            points.push((call.to_owned(), *count));
        }
    }
    points
}

/// All points, or a sample that is spread over them and begins somewhere else each time.
pub(crate) fn choose(points: &[(String, usize)]) -> Vec<(String, usize)> {
    let wanted = match std::env::var("CKPT_DB_KILLS") {
        Ok(all) if all == "all" => points.len(),
        Ok(number) => number.parse().expect("CKPT_DB_KILLS is `all` or a number"),
        Err(_) => SAMPLE,
    };
    let wanted = wanted.clamp(1, points.len());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let first = now.as_secs() as usize % points.len();
    (0..wanted).map(|n| points[(first + n * points.len() / wanted) % points.len()].clone()).collect()
}

/// The same, and the last ones in any case: those with which a file gets its name.
pub(crate) fn choose_with_last(points: &[(String, usize)], last: usize) -> Vec<(String, usize)> {
    let mut chosen = choose(points);
    chosen.extend(points.iter().skip(points.len().saturating_sub(last)).cloned());
    chosen.sort_by_key(|point| points.iter().position(|other| other == point));
    chosen.dedup();
    chosen
}
