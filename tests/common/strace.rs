//! A program under strace: which system calls it makes, and what becomes of it when one of them goes wrong.

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
