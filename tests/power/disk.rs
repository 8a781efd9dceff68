//! The machine's disk: a small ext4, read on this side by e2fsprogs alone, without mounting anything.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Large enough for the store, three generations of trees and the journal.
pub(crate) const FILE_SYSTEM_BYTES: u64 = 24 << 20;

/// Where the machine marks what it has acknowledged: the first sector beyond the file system.
pub(crate) const MARK_SECTOR: u64 = FILE_SYSTEM_BYTES / 512;

/// Makes an empty disk.
pub(crate) fn make(path: &Path) {
    let file = fs::File::create(path).unwrap();
    file.set_len(FILE_SYSTEM_BYTES).unwrap();
    let options = ["-q", "-F", "-t", "ext4", "-b", "4096", "-N", "2048", "-J", "size=4", "-m", "0"];
    let all_now = ["-E", "lazy_itable_init=0,lazy_journal_init=0"];
    let output = tool("mke2fs").args(options).args(all_now).arg(path).output().unwrap();
    assert!(output.status.success(), "mke2fs: {}", said(&output));
    file.set_len(FILE_SYSTEM_BYTES + 4096).unwrap();
}

/// Replays the journal and checks the file system, as a node does at its start.
///
/// # Errors
/// What is wrong, if it is more than what a journal leaves to be done: counters, and files that were open and have no name.
pub(crate) fn recover(image: &Path) -> Result<(), String> {
    let output = tool("e2fsck").args(["-f", "-p"]).arg(image).output().unwrap();
    match output.status.code() {
        Some(0 | 1) => Ok(()),
        _ => Err(format!("e2fsck: {}: {}", output.status, said(&output))),
    }
}

/// As [`recover`], whatever has to be thrown away.
pub(crate) fn recover_at_any_price(image: &Path) {
    let _ = tool("e2fsck").args(["-f", "-y"]).arg(image).output().unwrap();
}

/// Copies everything on the file system into the new directory `to`.
pub(crate) fn extract(image: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    let output = tool("debugfs").arg("-R").arg(format!("rdump / {}", to.display())).arg(image).output().unwrap();
    assert!(output.status.success(), "debugfs: {}", said(&output));
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// e2fsprogs may lie where only root looks.
fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}
