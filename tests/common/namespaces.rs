//! Small file systems of a test's own, in namespaces where anybody may mount them.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use super::strace::say;

/// Runs the ignored test `test` of the running test program inside of user and mount namespaces of its own, and returns what it
/// said; `None` where there can be none, which is said: `what` is then not shown.
#[track_caller]
pub(crate) fn run_inside(test: &str, what: &str) -> Option<String> {
    let probe = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        say(&format!("SKIPPED: {what}: no user and mount namespaces can be made here (unshare -rm)"));
        return None;
    }
    let mut command = Command::new("unshare");
    command.arg("-rm").arg(std::env::current_exe().unwrap()).args(["--exact", test, "--ignored", "--nocapture"]);
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}{err}");
    Some(format!("{out}{err}"))
}

/// A directory with a file system of its own.
pub(crate) struct Small {
    pub(crate) at: PathBuf,
}

impl Small {
    pub(crate) fn mounted(at: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&at).unwrap();
        let mode = format!("size={size},mode=700");
        assert!(Command::new("mount").args(["-t", "tmpfs", "-o", &mode, "tmpfs"]).arg(&at).status().unwrap().success());
        Self { at }
    }

    /// Mounts it anew with `ro` or `rw`.
    pub(crate) fn remount(&self, how: &str) {
        let how = format!("remount,{how}");
        assert!(Command::new("mount").args(["-o", &how]).arg(&self.at).status().unwrap().success());
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// Leaves no room.
    pub(crate) fn fill(&self) {
        let mut file = fs::File::options().append(true).create(true).open(self.filler()).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    pub(crate) fn empty(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}
