//! The client of the container runtime against a real containerd, which the machine has as a package of Debian's.
//!
//! Without it, or without root, this is skipped, unless `CKPT_DB_REQUIRE_CLUSTER=1`. Pods that run are looked at in
//! `tests/cluster`.
#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ckpt_db::checkpoint::look::{Image, Runtime};
use ckpt_db::checkpoint::node::Fact;
use ckpt_db::node::cri::{Cri, DEADLINE, Ended, find};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

/// Is killed when it is dropped.
struct Containerd {
    child: Child,
    directory: TempDir,
}

impl Containerd {
    /// Starts one of our own, with its files in `directory`, and does not wait for it.
    fn start(directory: TempDir) -> Self {
        let at = |name: &str| directory.path().join(name);
        // What it would otherwise do outside of its directories.
        fs::write(at("config.toml"), "version = 2\ndisabled_plugins = [\"io.containerd.internal.v1.opt\"]\n").unwrap();
        fs::create_dir_all(at("run/containerd")).unwrap();
        let log = File::options().create(true).append(true).open(at("log")).unwrap();
        let mut command = Command::new("containerd");
        for (flag, name) in [
            ("--config", "config.toml"),
            ("--root", "root"),
            ("--state", "state"),
            ("--address", "run/containerd/containerd.sock"),
        ] {
            command.arg(flag).arg(at(name));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self { child: command.spawn().unwrap(), directory }
    }

    fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let other = tempfile::tempdir().unwrap();
        std::mem::replace(&mut self.directory, other)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Its version; none where it can't be used here, which is said.
fn version() -> Option<String> {
    let output = Command::new("containerd").arg("--version").output();
    let why = match output {
        Ok(output) if geteuid().is_root() => {
            let text = String::from_utf8(output.stdout).unwrap();
            return Some(text.split_whitespace().nth(2).unwrap().trim_start_matches('v').to_owned());
        }
        Ok(_) => "containerd needs root".to_owned(),
        Err(error) => format!("containerd can't be run: {error}"),
    };
    let required = std::env::var_os("CKPT_DB_REQUIRE_CLUSTER").is_some_and(|value| value == "1");
    assert!(!required, "CKPT_DB_REQUIRE_CLUSTER=1, but {why}");
    // The harness captures what `eprintln` writes by a test that passes, and a skipped test passes.
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "\nSKIPPED, not tested: {why}");
    None
}

/// Polls, since nothing tells when a process is ready.
fn until<T: std::fmt::Debug>(what: &str, mut probe: impl FnMut() -> Fact<T>, good: impl Fn(&T) -> bool) -> T {
    let begun = Instant::now();
    loop {
        match probe() {
            Fact::Known(found) if good(&found) => return found,
            other if begun.elapsed() > Duration::from_secs(60) => panic!("waited for {what}: {other:?}"),
            Fact::Known(_) | Fact::Unknown(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn reason<T: std::fmt::Debug>(fact: Fact<T>) -> String {
    let Fact::Unknown(reason) = fact else { panic!("{fact:?}") };
    reason
}

/// Gives it an image without a layer (OCI image layout), by the runtime's own tool. Returns the image's id and digest.
fn import(root: &Path, socket: &Path) -> (String, String) {
    let blobs = root.join("image/blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |text: &str| {
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let digest = data_encoding::HEXLOWER.encode(digest.as_ref());
        fs::write(blobs.join(&digest), text).unwrap();
        format!("sha256:{digest}")
    };
    let media = "application/vnd.oci.image";
    let config = r#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let id = put(config);
    let size = config.len();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{media}.manifest.v1+json","layers":[],"config":{{"mediaType":"{media}.config.v1+json","digest":"{id}","size":{size}}}}}"#
    );
    let digest = put(&manifest);
    let size = manifest.len();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{media}.manifest.v1+json","digest":"{digest}","size":{size},"annotations":{{"io.containerd.image.name":"registry.example/empty:1"}}}}]}}"#
    );
    fs::write(root.join("image/index.json"), index).unwrap();
    fs::write(root.join("image/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let archive = root.join("image.tar");
    let tar = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(root.join("image")).arg(".").status();
    assert!(tar.unwrap().success());
    let ctr = |arguments: &[&str]| {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images"]).args(arguments);
        let output = ctr.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    ctr(&["import", "--no-unpack", "--all-platforms", archive.to_str().unwrap()]);
    // As a pull names it; an import alone leaves the digest out.
    ctr(&["tag", "registry.example/empty:1", &format!("registry.example/empty@{digest}")]);
    (id, digest)
}

#[test]
fn a_real_containerd() {
    let Some(version) = version() else { return };
    let containerd = Containerd::start(tempfile::tempdir().unwrap());
    let root = containerd.directory.path().to_owned();
    until("a socket", || find(None, &root).map_or_else(Fact::Unknown, Fact::Known), |_| true);
    let cri = Cri::new(find(None, &root).unwrap());

    assert_eq!(until("an answer", || cri.look_blocking(), |_| true), Runtime::default());
    assert_eq!(cri.images_blocking(), Fact::Known(Vec::new()));

    let (id, digest) = import(&root, cri.socket());
    let images =
        until("an image", || cri.images_blocking(), |images| images.iter().any(|image| !image.repo_digests.is_empty()));
    let want = Image {
        id,
        repo_tags: vec!["registry.example/empty:1".to_owned()],
        repo_digests: vec![format!("registry.example/empty@{digest}")],
        pinned: false,
    };
    assert_eq!(images, [want]);

    if version.starts_with("1.") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = runtime.block_on(cri.watch(&tokio::sync::Notify::new()));
        assert!(matches!(&ended, Ended::NotOffered(reason) if reason.contains("before containerd 2.0")), "{ended:?}");
    }

    containerd.signal(Signal::STOP);
    let begun = Instant::now();
    let hung = reason(cri.look_blocking());
    // Threads stop a moment after their process is told to: the first of the two lists may still come.
    assert!(hung.contains(": no answer within 2 s"), "{hung}");
    assert!(begun.elapsed() >= DEADLINE, "{:?}", begun.elapsed());
    containerd.signal(Signal::CONT);
    assert_eq!(until("an answer", || cri.look_blocking(), |_| true), Runtime::default());

    let directory = containerd.kill();
    let refused = reason(cri.look_blocking());
    assert!(refused.contains("connect: nobody listens there"), "{refused}");
    let _again = Containerd::start(directory);
    assert_eq!(until("an answer", || cri.look_blocking(), |_| true), Runtime::default());
    assert_eq!(cri.images_blocking(), Fact::Known(images));
}
