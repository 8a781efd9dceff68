//! A machine of its own: a real systemd as the first process of new pid, mount and cgroup namespaces.
//!
//! It sees this machine's programs, and `/etc`, `/var`, `/usr/local`, `/run` and units of its own: nothing that it does
//! is seen outside.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::gate::{GATE, gate};

pub(crate) const EXE: &str = env!("CARGO_BIN_EXE_ckpt-db");
const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd");
pub(crate) const CHECKOUT: &str = env!("CARGO_MANIFEST_DIR");

/// Slow machines are slow; a test that passes never waits for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a real process is looked at.
const POLL: Duration = Duration::from_millis(20);

const SYSTEMD: &str = "/lib/systemd/systemd";

/// What stands between the start of the machine and the kubelet, as distributions have it.
const TARGETS: [&str; 9] =
    ["sysinit", "basic", "local-fs", "local-fs-pre", "shutdown", "umount", "sockets", "timers", "paths"];

/// Where cgroups of version 2 are, if this machine lets systemd be run in a namespace.
pub(crate) fn cgroups() -> Result<PathBuf, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("it needs root".to_owned());
    }
    for program in [SYSTEMD, "/usr/bin/unshare", "/usr/bin/nsenter", "/usr/bin/systemctl", "/usr/bin/make"] {
        if !Path::new(program).exists() {
            return Err(format!("there is no {program}"));
        }
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mount = mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [_, at, "cgroup2", ..] => Some(PathBuf::from(at)),
        _ => None,
    });
    let mount = mount.ok_or("no cgroups of version 2 are mounted")?;
    // Tests of one process ask at the same time.
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let number = ASKED.fetch_add(1, Ordering::Relaxed);
    let probe = mount.join(format!("ckpt-db-probe-{}-{number}", std::process::id()));
    fs::create_dir(&probe).map_err(|error| format!("no cgroup can be made below {}: {error}", mount.display()))?;
    let _ = fs::remove_dir(&probe);
    let unshare = Command::new("unshare").args(["--pid", "--mount", "--fork", "--cgroup", "true"]).output();
    match unshare {
        Ok(output) if output.status.success() => Ok(mount),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A machine that is not started yet.
pub(crate) struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    /// With what `make install` brings, and a kubelet's unit as distributions have it.
    pub(crate) fn new() -> Self {
        let scene = Self::without_us();
        scene.install(&[]);
        scene
    }

    /// A machine that never heard of ckpt-db, but for the wish to start it.
    pub(crate) fn without_us() -> Self {
        let scene = Self { directory: tempfile::tempdir().unwrap() };
        for directory in ["etc", "var/lib", "var/tmp", "usr/local/bin", "units", "console.d"] {
            fs::create_dir_all(scene.path(directory)).unwrap();
        }
        for name in ["passwd", "group", "nsswitch.conf", "ld.so.cache"] {
            let _ = fs::copy(Path::new("/etc").join(name), scene.path("etc").join(name));
        }
        scene.write("etc/os-release", "ID=test\n");
        scene.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        scene.write("console", "");
        for target in TARGETS {
            let name = format!("{target}.target");
            fs::copy(Path::new("/lib/systemd/system").join(&name), scene.path("units").join(&name)).unwrap();
        }
        scene.write("units/kubelet.service", &format!(
            "[Unit]\nAfter=network-online.target\n[Service]\nExecStart=/bin/sh {HERE}/kubelet.sh {}\nRestart=always\n",
            scene.path("").display()
        ));
        scene.write("units/boot.target", "[Unit]\nWants=kubelet.service ckpt-db.service\nAllowIsolate=yes\n");
        fs::copy("/bin/sleep", scene.path("usr/local/bin/kubelet")).unwrap();
        scene
    }

    /// `make install` of the program under test.
    pub(crate) fn install(&self, variables: &[&str]) {
        let binary = format!("BINARY={EXE}");
        let output = make("install", &self.path(""), &[&[binary.as_str()], variables].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Puts a shell script in the place of the program.
    pub(crate) fn program(&self, script: &str) {
        self.write("usr/local/bin/ckpt-db", &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(self.path("usr/local/bin/ckpt-db"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Settings of the service that a test can't wait for.
    pub(crate) fn hurry(&self, settings: &str) {
        self.write("units/ckpt-db.service.d/hurry.conf", &format!("[Service]\n{settings}\n"));
    }

    /// A store with the pods of `manifests`, and nothing rendered, as a power cut leaves a node whose static pod directory
    /// was empty.
    pub(crate) fn store(&self, manifests: &Path) {
        let output = Command::new(EXE)
            .args(["run", GATE, "--once", "--generate-node-key", "--root"])
            .arg(self.path(""))
            .arg("--manifests")
            .arg(manifests)
            .env_remove("NODE_NAME")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some_and(|code| code < 2), "{told}");
        fs::remove_dir_all(self.path("etc/kubernetes")).unwrap();
    }

    /// Runs the program on the machine's files, with these directories of it in the environment.
    pub(crate) fn command(&self, arguments: &[&str], environment: &[(&str, &str)]) {
        let mut command = Command::new(EXE);
        command
            .arg(arguments[0])
            .args(gate(arguments[0]))
            .args(&arguments[1..])
            .arg("--root")
            .arg(self.path(""))
            .env_remove("NODE_NAME");
        command.envs(environment.iter().map(|(name, directory)| (name, self.path(directory))));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Gives it a container runtime as its distribution's unit starts it, with these images (and nothing in them); whether
    /// there is one.
    pub(crate) fn runtime(&self, images: &[&str]) -> bool {
        let unit = Path::new("/lib/systemd/system/containerd.service");
        if !Path::new("/usr/bin/containerd").exists() || !unit.exists() {
            return false;
        }
        fs::copy(unit, self.path("units/containerd.service")).unwrap();
        self.write("units/boot.target.d/runtime.conf", "[Unit]\nWants=containerd.service\n");
        self.archive(images);
        // Before, it loads kernel modules, which are this machine's. Afterwards it has noticed its images.
        let ctr = "/usr/bin/ctr -n k8s.io images";
        self.write(
            "units/containerd.service.d/here.conf",
            &format!(
                "[Service]\nExecStartPre=\nExecStartPost={ctr} import {archive}\nExecStartPost=/bin/sh -c 'until [ $({ctr} ls | \
                 grep -c io.cri-containerd.image=managed) -ge {count} ]; do sleep 0.05; done'\n",
                archive = self.path("images.tar").display(),
                count = images.len(),
            ),
        );
        true
    }

    /// An archive of images as `docker save` makes it.
    fn archive(&self, images: &[&str]) {
        let layer = [0; 1024]; // an empty tar
        let digest = data_encoding::HEXLOWER.encode(&ckpt_db::crypto::sha256(&layer));
        let config = serde_json::json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": images, "Layers": ["layer.tar"]}]);
        fs::create_dir_all(self.path("images")).unwrap();
        fs::write(self.path("images/layer.tar"), layer).unwrap();
        self.write("images/config.json", &config.to_string());
        self.write("images/manifest.json", &manifest.to_string());
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(self.path("images")).arg("-cf").arg(self.path("images.tar"));
        assert!(tar.args(["manifest.json", "config.json", "layer.tar"]).status().unwrap().success());
    }

    /// What the files of the machine were before or after something: path, kind and mode of each, without what systemd and
    /// others keep for themselves.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        let mut files = BTreeSet::new();
        for directory in ["etc", "var", "usr/local"] {
            let output =
                Command::new("find").arg(directory).args(["-printf", "%P %y %m\n"]).current_dir(self.path("")).output();
            let said = output.unwrap().stdout;
            files.extend(String::from_utf8_lossy(&said).lines().map(|line| format!("{directory}/{line}")));
        }
        files
    }

    /// Switches it on.
    pub(crate) fn boot(self) -> Machine {
        let name = self.directory.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_owned();
        let cgroup = cgroups().unwrap().join(format!("ckpt-db-systemd-{}-{name}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        // The root of the cgroups that it sees is the one in which the namespace is made.
        let script = "echo $$ > \"$1/cgroup.procs\" && exec unshare --pid --mount --cgroup --uts --ipc --fork \
                      --kill-child --mount-proc /bin/sh \"$2/boot.sh\" \"$3\"";
        let child = Command::new("/bin/sh")
            .args(["-c", script, "sh"])
            .arg(&cgroup)
            .arg(HERE)
            .arg(self.path(""))
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(fs::File::create(self.path("console.d/out")).unwrap())
            .stderr(fs::File::create(self.path("console.d/err")).unwrap())
            .spawn()
            .unwrap();
        Machine { scene: self, cgroup, child }
    }
}

/// `make` of the checkout, with files below `destination`.
pub(crate) fn make(target: &str, destination: &Path, variables: &[&str]) -> Output {
    let mut make = Command::new("make");
    make.args(["-s", "-C", CHECKOUT, target]).arg(format!("DESTDIR={}", destination.display())).args(variables);
    make.env_remove("MAKEFLAGS").output().unwrap()
}

/// A machine that runs; it is switched off when this is dropped.
pub(crate) struct Machine {
    pub(crate) scene: Scene,
    cgroup: PathBuf,
    child: Child,
}

impl Machine {
    /// Waits until `found` finds something.
    #[track_caller]
    pub(crate) fn wait<T>(&self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            if began.elapsed() > PATIENCE {
                panic!("{what}: not within {PATIENCE:?}\n{}", self.account());
            }
            std::thread::sleep(POLL);
        }
    }

    /// What the kubelet found when it started.
    #[track_caller]
    pub(crate) fn kubelet(&self) -> String {
        self.wait("the kubelet starts", |machine| fs::read_to_string(machine.scene.path("kubelet")).ok())
    }

    /// A property of a unit, as systemd says it now; empty while it can't be asked.
    pub(crate) fn property(&self, unit: &str, name: &str) -> String {
        let output = self.inside(&["systemctl", "show", "--value", "-p", name, unit]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// A property that is a number.
    #[track_caller]
    pub(crate) fn number(&self, unit: &str, name: &str) -> u64 {
        let text = self.property(unit, name);
        text.parse().unwrap_or_else(|_| panic!("{unit} {name}: {text:?}\n{}", self.account()))
    }

    /// Runs a command on the machine.
    pub(crate) fn inside(&self, command: &[&str]) -> Output {
        // The first process of the namespace is the child of `unshare`.
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let first = fs::read_to_string(children).unwrap_or_default();
        Command::new("nsenter")
            .args(["-a", "-t", first.trim(), "--"])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Everything that is worth reading after a failure.
    pub(crate) fn account(&self) -> String {
        let told = |name: &str| fs::read_to_string(self.scene.path(name)).unwrap_or_default();
        let units = self.inside(&["systemctl", "status", "--no-pager", "--full", "ckpt-db.service", "kubelet.service"]);
        let status = self.inside(&["/usr/local/bin/ckpt-db", "status", "-o", "wide"]);
        let said = [units.stdout, units.stderr, status.stdout, status.stderr];
        let said: String = said.iter().map(|said| String::from_utf8_lossy(said)).collect();
        format!("{}{}{said}", told("console.d/err"), told("console"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // `--kill-child`: the first process goes with it, and all others with that.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let began = Instant::now();
        while !empty(&self.cgroup) && began.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(POLL);
        }
    }
}

/// Removes a cgroup and those below it; whether it is gone.
fn empty(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            empty(&entry.path());
        }
    }
    fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
}
