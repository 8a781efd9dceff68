//! A real node: containerd and a kubelet of 1.20 on a machine made of namespaces, joined to the tests' control plane.
//!
//! Its power can be cut: every process, mount, interface and memory file system is gone then, and what lies on its disk
//! is found by the next boot, containerd's records of dead containers included, as on a node of iron.

mod containers;
mod gateway;
mod machine;
mod manifests;
mod probe;
mod selftest;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) use containers::Container;
use gateway::Gateway;
use machine::Machine;
pub(crate) use machine::Service;
pub(crate) use manifests::Watched;
pub(crate) use probe::Probe;

use crate::control_plane::{Cluster, binaries};
use crate::gate::{GATE, gate};
use crate::{directory, until};

/// Longer than a kubelet and a runtime take to do anything once on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The image of test containers. Nothing can be pulled: what is not imported is not there.
pub(crate) const IMAGE: &str = "registry.example/app:1";

/// Other names of the same image.
const IMAGES: [&str; 3] = ["registry.example/pause:1", IMAGE, "registry.example/app:latest"];

/// What one node has different from the next.
pub(crate) struct Options {
    /// How many pods its kubelet takes.
    pub(crate) max_pods: u32,
    /// Further members of its KubeletConfiguration.
    pub(crate) kubelet: Value,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_pods: 110, kubelet: json!({}) }
    }
}

/// A node. Dropping it leaves nothing of it, unless `CKPT_DB_KEEP_CLUSTER` is set: then its disk stays.
pub(crate) struct RealNode {
    name: String,
    port: u16,
    kubelet: Option<Service>,
    containerd: Option<Service>,
    agent: Option<Service>,
    /// What the agent tells its service manager.
    notify: Option<UnixDatagram>,
    /// What else stands in its environment.
    preloaded: Option<&'static str>,
    gateway: Option<Gateway>,
    watched: Watched,
    /// Its power is cut before the disk goes.
    machine: Machine,
    disk: TempDir,
}

impl RealNode {
    /// Boots a node that has joined `cluster` as kubeadm does it, and starts its runtime and kubelet. `None` where this machine
    /// can't hold one, which is said on standard error.
    ///
    /// # Panics
    /// If one of them does not start; where it can't be held, if `CKPT_DB_REQUIRE_NODE=1`.
    pub(crate) fn start(cluster: &Cluster, name: &str, options: &Options) -> Option<Self> {
        let mut node = Self::install(cluster, name, options)?;
        node.boot();
        node.start_containerd();
        node.import_images();
        node.start_kubelet();
        Some(node)
    }

    /// As [`RealNode::start`], but off: with everything on its disk except images.
    pub(crate) fn install(cluster: &Cluster, name: &str, options: &Options) -> Option<Self> {
        let binaries = able()?;
        let disk = directory("real-node");
        let program = Path::new(env!("CARGO_BIN_EXE_ckpt-db"));
        let machine = Machine::new(name, disk.path(), &[&binaries.join("kubelet"), program]);
        cluster.join(name, disk.path(), cluster.port());
        let write = |path: &str, text: &str| {
            let path = machine.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("etc/containerd/config.toml", CONTAINERD);
        write("etc/cni/net.d/10-node.conflist", CNI);
        write("var/lib/kubelet/config.yaml", &kubelet_configuration(options).to_string());
        fs::create_dir_all(machine.path("etc/kubernetes/manifests")).unwrap();
        let image = Command::new("bash").arg(here("image.sh")).arg(machine.path("var/image.tar")).args(IMAGES).output();
        let image = image.unwrap();
        assert!(image.status.success(), "{}", String::from_utf8_lossy(&image.stderr));
        Some(Self {
            name: name.to_owned(),
            port: cluster.port(),
            kubelet: None,
            containerd: None,
            agent: None,
            notify: None,
            preloaded: None,
            gateway: None,
            watched: Watched::start(&machine.path("etc/kubernetes/manifests")),
            machine,
            disk,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its file system, as seen from here: what is on its disk, and while it is on also what is mounted there. An absolute link
    /// on the way would lead out of it.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        if self.machine.is_on() { self.machine.seen(below) } else { self.machine.path(below) }
    }

    /// A shell script that runs at each boot before all else, for file systems to mount. The node is off.
    pub(crate) fn at_boot(&self, script: &str) {
        fs::write(self.machine.path("var/local-fs.sh"), script).unwrap();
    }

    /// Runs a shell command on it; what it has written to standard output.
    #[track_caller]
    pub(crate) fn told(&self, script: &str) -> String {
        self.machine.told(script)
    }

    /// Turns it on. Nothing runs on it yet.
    pub(crate) fn boot(&mut self) {
        self.machine.boot();
        self.gateway = Some(Gateway::open(self.machine.network(), self.port));
        self.watched.look_through(&self.machine);
    }

    /// Every process is killed at once, and all that was not on disk is gone. Nothing runs until [`RealNode::boot`].
    ///
    /// What was not yet written through to the disk is not lost: the kernel goes on. `tests/kill.rs` and `tests/durable/` are
    /// about that.
    pub(crate) fn power_cut(&mut self) {
        self.watched.look_through_nothing();
        self.machine.cut_power();
        self.gateway = None;
        (self.kubelet, self.containerd, self.agent, self.notify) = (None, None, None, None);
    }

    /// Stops everything as a service manager does, in its order, and turns it off: the kubelet ends and leaves its pods, which
    /// are ended with their grace; then the agent, which was started before the kubelet; then the runtime.
    pub(crate) fn shut_down(&mut self) {
        self.stop_kubelet();
        // systemd sends SIGTERM to what is left in its scopes and waits.
        for container in self.running() {
            self.machine.shell(&format!("kill -TERM {}", container.pid));
        }
        self.stop_agent();
        if let Some(mut containerd) = self.containerd.take() {
            containerd.stop();
        }
        self.power_cut();
    }

    /// Starts containerd and waits until it serves.
    pub(crate) fn start_containerd(&mut self) {
        let mut command = self.machine.command("containerd");
        command.args(["--config", "/etc/containerd/config.toml"]);
        let mut containerd = Service::started(command, &self.machine.path("var/log/containerd.log"));
        until("containerd", PATIENCE, || {
            if let Some(status) = containerd.exited() {
                panic!("it ended with {status}: {}", containerd.log());
            }
            let output =
                self.machine.shell("ctr -n k8s.io --timeout 2s version && ctr plugins ls | grep -E 'cri +.* ok'");
            if output.status.success() { Ok(()) } else { Err(containerd.log()) }
        });
        self.containerd = Some(containerd);
    }

    /// SIGKILL; containers go on, their shims are processes of their own.
    pub(crate) fn kill_containerd(&mut self) {
        if let Some(mut containerd) = self.containerd.take() {
            containerd.kill();
        }
    }

    /// Imports the test image under its names; it stays over reboots.
    pub(crate) fn import_images(&self) {
        self.told("ctr -n k8s.io images import /var/image.tar");
    }

    /// Starts the kubelet and waits until it says that it is healthy. It needs the runtime to run.
    pub(crate) fn start_kubelet(&mut self) {
        let mut command = self.machine.command("/opt/kubelet");
        command.args([
            "--config=/var/lib/kubelet/config.yaml",
            "--kubeconfig=/etc/kubernetes/kubelet.conf",
            "--container-runtime=remote",
            "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
            "--v=2",
        ]);
        command.arg(format!("--hostname-override={}", self.name));
        let mut kubelet = Service::started(command, &self.machine.path("var/log/kubelet.log"));
        until("the kubelet", PATIENCE, || {
            if let Some(status) = kubelet.exited() {
                panic!("it ended with {status}: {}", tail(&kubelet.log()));
            }
            let output = self.machine.shell("busybox wget -q -O - http://127.0.0.1:10248/healthz");
            if output.status.success() { Ok(()) } else { Err(tail(&kubelet.log())) }
        });
        self.kubelet = Some(kubelet);
    }

    /// SIGTERM; containers go on.
    pub(crate) fn stop_kubelet(&mut self) {
        if let Some(mut kubelet) = self.kubelet.take() {
            kubelet.stop();
        }
    }

    /// SIGKILL; containers go on.
    pub(crate) fn kill_kubelet(&mut self) {
        if let Some(mut kubelet) = self.kubelet.take() {
            kubelet.kill();
        }
    }

    /// SIGSTOP: it sees nothing until [`RealNode::thaw_kubelet`].
    pub(crate) fn freeze_kubelet(&mut self) {
        self.kubelet.as_mut().expect("it runs").signal(Signal::STOP);
    }

    pub(crate) fn thaw_kubelet(&mut self) {
        self.kubelet.as_mut().expect("it runs").signal(Signal::CONT);
    }

    /// What the kubelets of this node have written.
    pub(crate) fn kubelet_log(&self) -> String {
        fs::read_to_string(self.machine.path("var/log/kubelet.log")).unwrap_or_default()
    }

    /// `ckpt-db COMMAND` on the node, with no `--root`: every path is where a node has it.
    pub(crate) fn program(&self, command: &str) -> Command {
        let mut program = self.machine.command("/opt/ckpt-db");
        program.arg(command).args(gate(command));
        program
    }

    /// Runs a shell command in its root directory while it is off, as somebody with its disk in hand.
    pub(crate) fn told_off(&self, script: &str) {
        assert!(!self.machine.is_on());
        let output = Command::new("sh").args(["-euc", script]).current_dir(self.machine.path("")).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Gives it what joining a cluster leaves behind.
    pub(crate) fn join(&self, cluster: &Cluster) {
        cluster.join(&self.name, &self.machine.path(""), cluster.port());
    }

    /// From the next start of the agent on its wall clock is that of a board without a battery, or again the right one.
    pub(crate) fn wrong_clock(&mut self, wrong: bool) {
        self.preloaded = wrong.then_some("LD_PRELOAD=/opt/clock.so");
        let library = self.machine.path("opt/clock.so");
        if wrong && !library.exists() {
            let output =
                Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(library).arg(here("clock.c")).output();
            let output = output.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// Starts the agent as its service does, and does not wait; its messages are in [`RealNode::agent_log`].
    pub(crate) fn start_agent(&mut self, more: &[&str]) {
        // What stands before the program is for env(1).
        let mut command = self.machine.command("RUST_LOG=info");
        command.args(self.preloaded).args(["NOTIFY_SOCKET=/run/notify", "/opt/ckpt-db", "run", GATE]).args(more);
        let socket = self.machine.seen("run/notify");
        let _ = fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).unwrap();
        notify.set_nonblocking(true).unwrap();
        self.notify = Some(notify);
        self.agent = Some(Service::started(command, &self.agent_log_file()));
    }

    /// Waits until the agent has told its service manager that it is ready: now the kubelet may start.
    #[track_caller]
    pub(crate) fn until_ready(&mut self) {
        let (agent, notify) = (self.agent.as_mut().expect("it was started"), self.notify.as_ref().expect("with it"));
        until("the agent to be ready", PATIENCE, || {
            if let Some(status) = agent.exited() {
                panic!("it ended with {status}: {}", agent.log());
            }
            let mut message = [0; 4096];
            while let Ok(length) = notify.recv(&mut message) {
                if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                    return Ok(());
                }
            }
            Err(agent.log())
        });
    }

    /// The running agent.
    pub(crate) fn agent(&mut self) -> &mut Service {
        self.agent.as_mut().expect("it was started")
    }

    /// `ckpt-db status -o json`, as an operator asks; `Err` where no agent answers.
    pub(crate) fn status(&self) -> Result<Value, String> {
        let output = self.program("status").args(["-o", "json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// SIGTERM, and it has to end well.
    #[track_caller]
    pub(crate) fn stop_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let status = agent.stop();
            assert!(status.success(), "{status}: {}", agent.log());
        }
    }

    pub(crate) fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill();
        }
    }

    fn agent_log_file(&self) -> PathBuf {
        self.machine.path("var/log/agent.log")
    }

    /// What the agents of this node have said since the first start.
    pub(crate) fn agent_log(&self) -> String {
        fs::read_to_string(self.agent_log_file()).unwrap_or_default()
    }

    /// Puts a static pod of the operator's own into the kubelet's directory.
    pub(crate) fn put_static_pod(&self, manifest: &Value) {
        let file = format!("{}.json", manifest["metadata"]["name"].as_str().unwrap());
        self.watched.expect(&file);
        let hidden = self.path("etc/kubernetes/manifests").join(format!(".{file}"));
        fs::write(&hidden, manifest.to_string()).unwrap();
        fs::rename(&hidden, self.path("etc/kubernetes/manifests").join(file)).unwrap();
    }

    /// What has come into the kubelet's directory and gone since the beginning.
    pub(crate) fn watched(&self) -> &Watched {
        &self.watched
    }

    /// Tries a TCP port of the node again and again, from now on and until the power is cut.
    pub(crate) fn probe(&self, port: u16) -> Probe {
        Probe::start(self.machine.network(), port)
    }

    /// The containers that run now, sandboxes not. Empty while the machine is off.
    pub(crate) fn running(&self) -> Vec<Container> {
        if self.machine.is_on() { containers::running(&self.machine) } else { Vec::new() }
    }

    /// Those of a pod, by `namespace/name`.
    pub(crate) fn running_of(&self, pod: &str) -> Vec<Container> {
        self.running().into_iter().filter(|container| container.pod == pod).collect()
    }

    /// Waits until a container of this pod runs.
    #[track_caller]
    pub(crate) fn until_running(&self, pod: &str, deadline: Duration) -> Container {
        until(&format!("{pod} to run"), deadline, || {
            let all = self.running();
            let found = all.iter().find(|container| container.pod == pod).cloned();
            found.ok_or_else(|| format!("there are {all:?}; the kubelet says\n{}", tail(&self.kubelet_log())))
        })
    }

    /// Waits until no container of this pod runs.
    #[track_caller]
    pub(crate) fn until_gone(&self, pod: &str, deadline: Duration) {
        until(&format!("{pod} to be gone"), deadline, || match self.running_of(pod).as_slice() {
            [] => Ok(()),
            some => Err(format!("{some:?}")),
        });
    }

    /// Looks for a while, and often, that no container of this pod runs.
    #[track_caller]
    pub(crate) fn assert_never_running(&self, pod: &str, during: Duration) {
        let end = Instant::now() + during;
        while Instant::now() < end {
            let found = self.running_of(pod);
            assert!(found.is_empty(), "{found:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What a container has written so far, as the kubelet keeps it.
    pub(crate) fn log_of(&self, container: &Container) -> String {
        let pod = container.pod.replace('/', "_");
        let directory = self.path(&format!("var/log/pods/{pod}_{}/{}", container.uid, container.name));
        let mut files: Vec<PathBuf> =
            fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let text = files.last().map(|file| fs::read_to_string(file).unwrap()).unwrap_or_default();
        // `2026-01-01T00:00:00.000000000Z stdout F text`
        text.lines().filter_map(|line| Some(format!("{}\n", line.splitn(4, ' ').nth(3)?))).collect()
    }

    /// SIGKILL for a container of a pod, as the kernel does it to one that needs too much memory.
    #[track_caller]
    pub(crate) fn kill_container(&self, pod: &str, name: &str) {
        let all = self.running_of(pod);
        let one = all.iter().find(|container| container.name == name).expect("it runs");
        self.told(&format!("kill -KILL {}", one.pid));
    }
}

fn here(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/node").join(file)
}

/// Where the kubelet is, on a machine that can hold a node.
fn able() -> Option<PathBuf> {
    let binaries = binaries()?;
    let missing = ["containerd", "runc", "ctr", "busybox", "unshare", "nsenter", "ip", "iptables", "setpriv"]
        .into_iter()
        .find(|program| !Command::new("which").arg(program).output().is_ok_and(|output| output.status.success()));
    let why = if !rustix::process::geteuid().is_root() {
        "only root can make namespaces and mounts"
    } else if let Some(program) = missing {
        &format!("there is no {program}: run tests/cluster/components.sh as root")
    } else if !Path::new("/usr/lib/cni/bridge").exists() {
        "there is no /usr/lib/cni/bridge (containernetworking-plugins): run tests/cluster/components.sh as root"
    } else if !binaries.join("kubelet").exists() {
        "KUBEBUILDER_ASSETS holds no kubelet"
    } else if !Path::new("/sys/fs/cgroup/memory/memory.stat").exists() {
        "a kubelet of 1.20 wants cgroup v1"
    } else {
        return Some(binaries);
    };
    let required = std::env::var_os("CKPT_DB_REQUIRE_NODE").is_some_and(|value| value == "1");
    assert!(!required, "CKPT_DB_REQUIRE_NODE=1, but {why}");
    // The harness captures what `eprintln` writes by a test that passes, and a skipped test passes.
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "\nSKIPPED, not tested, no real node on this machine: {why}");
    None
}

fn kubelet_configuration(options: &Options) -> Value {
    let mut configuration = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "staticPodPath": "/etc/kubernetes/manifests",
        "failSwapOn": false,
        "cgroupDriver": "cgroupfs",
        "maxPods": options.max_pods,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        // Nobody here attaches volumes or deletes pods but the tests.
        "enableControllerAttachDetach": false,
        "address": "127.0.0.1",
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": false}},
        "authorization": {"mode": "Webhook"},
        // How full the host is must not matter.
        "evictionHard": {"memory.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "oomScoreAdj": 0,
    });
    let more = options.kubelet.as_object().expect("an object");
    configuration.as_object_mut().expect("it is one").extend(more.clone());
    configuration
}

/// As Debian's containerd has it, but for what a host without all capabilities needs.
const CONTAINERD: &str = r#"
version = 2
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.example/pause:1"
  # CAP_SYS_RESOURCE may be missing.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
"#;

const CNI: &str = r#"{
  "cniVersion": "0.4.0", "name": "node",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}"#;

/// The last warnings and errors of a kubelet's log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| line.starts_with(['E', 'F', 'W'])).collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
