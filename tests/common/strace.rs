//! A program under strace: which system calls it makes, and what becomes of it when one of them goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use super::program::clean;

/// Every call that changes a file, a directory or a link, or makes such a change durable. A question mark: not every
/// architecture has it.
pub(crate) const CALLS: [&str; 30] = [
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
];

/// How many kills of each scenario an ordinary run makes. `CKPT_DB_KILLS=N` makes it N.
const SAMPLE: usize = 11;

/// Runs `command` under strace. Its output is of no interest.
pub(crate) fn run(log: &Path, options: &[&str], command: &Command) -> ExitStatus {
    let mut strace = clean(Command::new("strace"));
    strace.args(["-f", "-qq", "-o"]).arg(log).arg("-e").arg(format!("trace={}", CALLS.join(","))).args(options);
    strace.arg("--").arg(command.get_program()).args(command.get_args());
    strace.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap()
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
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut processes = BTreeSet::new();
    let mut points = Vec::new();
    for line in log.lines() {
        let (process, rest) = line.split_once(' ').unwrap();
        let Some((call, arguments)) = rest.trim_start().split_once('(') else { continue };
        processes.insert(process);
        let count = counts.entry(call).or_default();
        *count += 1;
        let reads_only = call.starts_with("open") && !arguments.contains("O_CREAT") && !arguments.contains("O_TRUNC");
        if !reads_only {
            points.push((call.to_owned(), *count));
        }
    }
    // strace counts by thread.
    assert_eq!(processes.len(), 1, "one thread does it all");
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
