//! A machine whose power can be cut: QEMU under software emulation, so that it runs wherever the tests do.
//!
//! Everything that it does to its disk is logged by QEMU (`blklogwrites`). Killing QEMU alone loses no write: what was
//! written to a file stays in this machine's memory. What a real disk would have lost is made from the log afterwards.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::disk;
use crate::initramfs::Archive;

/// In the order in which they have to be loaded.
const MODULES: [&str; 6] = [
    "virtio/virtio_ring",
    "virtio/virtio",
    "virtio/virtio_pci_legacy_dev",
    "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci",
    "block/virtio_blk",
];

/// On a busy machine the emulated timer may not tick within the moment in which the kernel looks whether it does.
const KERNEL_OPTIONS: &str = "console=ttyS0 quiet panic=-1 random.trust_cpu=on no_timer_check";

/// A machine that does nothing for so long is broken: emulated on a busy machine it takes seconds to start.
const PATIENCE: Duration = Duration::from_secs(300);

/// The parts of which machines are made.
pub(crate) struct Parts {
    kernel: PathBuf,
    /// The part of the initramfs that is the same at each start.
    common: Vec<u8>,
    /// What opens the store.
    pub(crate) node_key: PathBuf,
}

/// Where the kernel is; an error says what is missing.
pub(crate) fn components() -> Result<PathBuf, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/power/components.sh");
    let output = Command::new(script).arg("--cached").output().map_err(|error| format!("{script}: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()))
}

impl Parts {
    /// Collects them; `scratch` is kept as long as they are used.
    pub(crate) fn collect(components: &Path, scratch: &Path) -> Self {
        let kernel = newest(&components.join("boot"), "vmlinuz-");
        let drivers = newest(&components.join("lib/modules"), "").join("kernel/drivers");
        let mut archive = Archive::default();
        archive.device("dev/console", (5, 1));
        archive.directory("lib");
        archive.directory("lib64");
        archive.script("init", include_bytes!("guest.sh"));
        for module in MODULES {
            let file = drivers.join(module).with_extension("ko");
            archive
                .file(&format!("modules/{}", file.file_name().unwrap().to_str().unwrap()), &fs::read(&file).unwrap());
        }
        archive.program("bin/busybox", &which("busybox"), scratch);
        archive.program("bin/ckpt-db", Path::new(env!("CARGO_BIN_EXE_ckpt-db")), scratch);
        let node_key = scratch.join("node-key.pem");
        let made = ckpt_db::crypto::generate_p256_pkcs8().unwrap();
        ckpt_db::keys::write_generated(&node_key, &made).unwrap();
        archive.file("keys/node-key.pem", &fs::read(&node_key).unwrap());
        Self { kernel, common: archive.finish(), node_key }
    }
}

fn newest(directory: &Path, prefix: &str) -> PathBuf {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let fits = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(prefix);
    paths.filter(fits).max().unwrap_or_else(|| panic!("{} has no {prefix}*", directory.display()))
}

fn which(name: &str) -> PathBuf {
    let path: OsString = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is not in PATH"))
}

/// A machine that runs.
pub(crate) struct Machine {
    child: Child,
    lines: Receiver<String>,
    /// Everything that it said.
    pub(crate) said: Vec<String>,
}

/// What is particular to one start.
pub(crate) struct Start<'a> {
    pub(crate) directory: &'a Path,
    /// The disk, which is written to.
    pub(crate) disk: &'a Path,
    /// Where its writes are logged.
    pub(crate) log: &'a Path,
    /// How ext4 is mounted.
    pub(crate) mount_options: &'a str,
    /// What it does once its disk is mounted, as `guest.sh` calls it.
    pub(crate) work: &'a str,
    /// What it is given for that: paths, and what is there.
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

impl Machine {
    /// Switches a machine on.
    pub(crate) fn start(parts: &Parts, start: &Start<'_>) -> Self {
        let mut archive = Archive::default();
        let names = MODULES.map(|module| module.rsplit('/').next().unwrap());
        let settings = format!(
            "modules='{}'\nmount_options={}\nmark_page={}\nwork={}\n",
            names.join(" "),
            start.mount_options,
            disk::MARK_SECTOR / 8,
            start.work
        );
        archive.file("settings", settings.as_bytes());
        for (path, contents) in &start.files {
            archive.file(path, contents);
        }
        let initrd = start.directory.join("initrd");
        let mut file = File::create(&initrd).unwrap();
        file.write_all(&parts.common).unwrap();
        file.write_all(&archive.finish()).unwrap();
        drop(file);
        // Empty, and as large as it will ever have to be.
        File::create(start.log).unwrap().set_len(1 << 32).unwrap();

        let file = |name: &str, path: &Path| {
            format!("driver=file,node-name={name},filename={},cache.no-flush=on", path.display())
        };
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"])
            .args(["-accel", "tcg", "-m", "384", "-append", KERNEL_OPTIONS])
            .arg("-kernel")
            .arg(&parts.kernel)
            .arg("-initrd")
            .arg(&initrd)
            // The guest's flushes are logged; that this machine carries them out as well would show nothing.
            .args(["-blockdev", &file("disk", start.disk), "-blockdev", &file("log", start.log)])
            .args(["-blockdev", "driver=blklogwrites,node-name=logged,file=disk,log=log,log-super-update-interval=1"])
            .args(["-device", "virtio-blk-pci,drive=logged,write-cache=on,discard=off,write-zeroes=off"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(start.directory.join("qemu-said")).unwrap());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            // A line that the cut left half written says nothing.
            while output.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) && line.ends_with(b"\n") {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(text).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Self { child, lines, said: Vec::new() }
    }

    /// Waits until it has said `count` lines that begin with `what`, in all.
    pub(crate) fn wait_for(&mut self, what: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.said.iter().filter(|line| line.starts_with(what)).count() < count {
            let failed = self.said.last().is_some_and(|line| line.starts_with("FAILED") || line == "DONE");
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if !failed => self.said.push(line),
                Ok(_) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("the machine never said {what:?} {count} times:\n{}", self.said.join("\n"))
                }
            }
        }
    }

    /// Lets it run for a while.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.said.push(line);
        }
    }

    /// Cuts its power, and returns all that it said.
    ///
    /// It is stopped first: a kill in the middle of QEMU's own writes would leave a part of a sector in the log.
    pub(crate) fn cut(mut self) -> Vec<String> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).unwrap();
        let _ = waitpid(Some(pid), WaitOptions::UNTRACED);
        let _ = self.child.kill();
        let _ = self.child.wait();
        let rest: Vec<String> = self.lines.iter().collect();
        self.said.extend(rest);
        std::mem::take(&mut self.said)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
