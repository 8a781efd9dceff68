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

/// How many kills of each scenario a sampled run makes, at least.
const SAMPLE: usize = 15;

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

/// All points with `CKPT_DB_KILLS=all`, or a sample that has the first and last call of each name and is spread over the others.
pub(crate) fn choose(points: &[(String, usize)]) -> Vec<(String, usize)> {
    if std::env::var_os("CKPT_DB_KILLS").is_some_and(|kills| kills == "all") {
        return points.to_vec();
    }
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, (call, _)) in points.iter().enumerate() {
        by_name.entry(call).or_default().push(index);
    }
    let ends = by_name.values().flat_map(|indexes| [indexes[0], indexes[indexes.len() - 1]]);
    let step = (points.len() / SAMPLE).max(1);
    let chosen: BTreeSet<usize> = ends.chain((step / 2..points.len()).step_by(step)).collect();
    chosen.into_iter().map(|index| points[index].clone()).collect()
}
