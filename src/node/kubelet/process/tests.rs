//! Processes below a made-up `/proc`, and below the real one.

use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// A `stat` line in which every field has its own number, so that a wrong one shows.
fn stat(pid: u32, name: &str, state: char, flags: u64, threads: u64, ticks: u64) -> String {
    format!(
        "{pid} ({name}) {state} 4 5 6 7 8 {flags} 10 11 12 13 14 15 16 17 18 19 {threads} 21 {ticks} 23 24 25 26 27 28\n"
    )
}

/// A `/proc` below a temporary directory.
pub(in crate::node) struct FakeProc(pub(in crate::node) PathBuf);

impl FakeProc {
    /// Below `root`; with the kernel's thread by which one knows the host.
    pub(in crate::node) fn of_a_host(root: &Path) -> Self {
        let proc = Self::of_a_container(root);
        proc.write(2, "stat", stat(2, "kthreadd", 'S', 0x0020_8040, 1, 22));
        proc
    }

    pub(in crate::node) fn of_a_container(root: &Path) -> Self {
        let proc = Self(root.join("proc"));
        proc.add(1, "init", 0, &["/sbin/init"]);
        proc
    }

    /// A process that was started `ticks` clock ticks after the boot.
    pub(in crate::node) fn add(&self, pid: u32, name: &str, ticks: u64, arguments: &[&str]) {
        self.write(pid, "stat", stat(pid, name, 'S', 0x0040_0000, 9, ticks));
        let mut line = arguments.join("\0");
        line.push('\0');
        self.write(pid, "cmdline", line);
    }

    pub(in crate::node) fn remove(&self, pid: u32) {
        std::fs::remove_dir_all(self.0.join(pid.to_string())).unwrap();
    }

    fn write(&self, pid: u32, name: &str, text: impl AsRef<[u8]>) {
        let directory = self.0.join(pid.to_string());
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(name), text).unwrap();
    }

    fn scan(&self) -> Scan {
        scan(&self.0)
    }
}

fn ms(ticks: u64) -> u64 {
    ticks * 1000 / rustix::param::clock_ticks_per_second()
}

#[test]
fn lines_of_stat() {
    type Row = (Vec<u8>, Option<(String, u8, u64, u64, u64)>);
    let line = |name: &str| stat(77, name, 'S', 9, 20, 22);
    let some = |name: &str| Some((name.to_owned(), b'S', 9, 20, 22));
    #[rustfmt::skip]
    let rows: [Row; 15] = [
        (line("kubelet").into(),                     some("kubelet")),
        (line("ku) be) let").into(),                 some("ku) be) let")),
        (line("(kubelet").into(),                    some("(kubelet")),
        (line("a) S 1 2 3").into(),                  some("a) S 1 2 3")),
        (line("two\nlines").into(),                  some("two\nlines")),
        (line("").into(),                            some("")),
        (line("tab\tand blank ").into(),             some("tab\tand blank ")),
        (b"77 (\xff) S 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22".into(), some("\u{fffd}")),
        (b"".into(),                                 None),
        (b"77".into(),                               None),
        (b"77 (kubelet".into(),                      None),
        (b")77 (kubelet".into(),                     None),
        (b"77 (kubelet) ".into(),                    None),
        (b"77 (kubelet) S 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21".into(), None),
        (b"77 (kubelet) S 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 -1".into(), None),
    ];
    for (text, want) in rows {
        let found = parse_stat(&text).map(|s| (s.name, s.state, s.flags, s.threads, s.start_ticks));
        assert_eq!(found, want, "{}", String::from_utf8_lossy(&text));
    }
}

/// What counts as a kubelet, by name and command line.
#[test]
fn names_and_command_lines() {
    let distribution = |name: &str| Some(Kind::Distribution(name.to_owned()));
    #[rustfmt::skip]
    let rows: [(&str, &[&str], Option<Kind>); 24] = [
        ("kubelet",     &["/usr/bin/kubelet", "--v=2"],                Some(Kind::Kubelet)),
        ("kubelet",     &[],                                           Some(Kind::Kubelet)),
        ("hyperkube",   &["/hyperkube", "kubelet", "--v=2"],           Some(Kind::Kubelet)),
        ("hyperkube",   &["/hyperkube", "apiserver"],                  None),
        ("ku) be) let", &["kubelet"],                                  None),
        ("kubelet-wrap",&["kubelet"],                                  None),
        ("Kubelet",     &["kubelet"],                                  None),
        ("bash",        &["kubelet"],                                  None),
        ("vim",         &["vim", "kubelet"],                           None),
        ("k3s",         &["/usr/local/bin/k3s", "agent"],              distribution("k3s")),
        ("k3s",         &["/usr/local/bin/k3s", "server", "--x"],      distribution("k3s")),
        ("k3s",         &["/usr/local/bin/k3s", "kubectl", "get"],     None),
        ("k3s",         &["/usr/local/bin/k3s", "agentx"],             None),
        ("k3s-agent",   &["/usr/local/bin/k3s", "agent"],              distribution("k3s-agent")),
        ("k3s-server",  &["/usr/local/bin/k3s", "server"],             distribution("k3s-server")),
        ("rke2",        &["rke2", "agent"],                            distribution("rke2")),
        ("rke2",        &["rke2", "etcd-snapshot"],                    None),
        ("k0s",         &["k0s", "worker"],                            distribution("k0s")),
        ("k0s",         &["k0s", "controller"],                        None),
        ("k0s",         &["k0s", "controller", "--single"],            distribution("k0s")),
        ("k0s",         &["k0s", "controller", "--enable-worker=true"],distribution("k0s")),
        ("microshift",  &["microshift", "run"],                        distribution("microshift")),
        ("microshift",  &["microshift", "version"],                    None),
        ("kubelite",    &["/snap/microk8s/1/kubelite", "--x"],         distribution("kubelite")),
    ];
    for (name, arguments, want) in rows {
        let root = tempfile::tempdir().unwrap();
        let proc = FakeProc::of_a_host(root.path());
        proc.add(100, name, 5000, arguments);
        let Scan { kubelets, complete } = proc.scan();
        assert_eq!(complete, Ok(()), "{name}");
        let found = kubelets.first().map(|found| found.kind.clone());
        assert_eq!(found, want, "{name} {arguments:?}");
        if let Some(kubelet) = kubelets.first() {
            assert_eq!((kubelet.pid, kubelet.since_ms), (100, ms(5000)));
        }
    }
}

#[test]
fn a_program_is_known_by_its_file_too() {
    let root = tempfile::tempdir().unwrap();
    let proc = FakeProc::of_a_host(root.path());
    #[rustfmt::skip]
    let rows = [
        (10, "/usr/bin/kubelet",            true),
        (11, "/usr/bin/kubelet (deleted)",  true),
        (12, "/usr/bin/kubeletd",           false),
        (13, "/kubelet/x",                  false),
        (14, "/",                           false),
    ];
    for (pid, file, _) in rows {
        proc.add(pid, "renamed", u64::from(pid), &["x"]);
        symlink(file, proc.0.join(pid.to_string()).join("exe")).unwrap();
    }
    let found: Vec<u32> = proc.scan().kubelets.iter().map(|kubelet| kubelet.pid).collect();
    let want: Vec<u32> = rows.iter().filter(|row| row.2).map(|row| row.0).collect();
    assert_eq!(found, want);
}

#[test]
fn of_several_the_oldest_comes_first_and_distributions_last() {
    let root = tempfile::tempdir().unwrap();
    let proc = FakeProc::of_a_host(root.path());
    let pids = || proc.scan().kubelets.iter().map(|found| found.pid).collect::<Vec<_>>();
    assert_eq!(pids(), [0; 0]);
    proc.add(30, "k0s", 100, &["k0s", "worker"]);
    proc.add(20, "k3s", 200, &["k3s", "agent"]);
    assert_eq!(pids(), [30, 20]);
    proc.add(40, "kubelet", 900, &["kubelet"]);
    assert_eq!(pids(), [40, 30, 20]);
    proc.add(50, "kubelet", 300, &["kubelet"]);
    assert_eq!(pids(), [50, 40, 30, 20]);
    proc.remove(50);
    proc.remove(40);
    assert_eq!(pids(), [30, 20], "restarting: the start of the one that restarts it is not too late");
}

#[test]
fn the_dead_and_the_kernels_threads_are_no_kubelets() {
    #[rustfmt::skip]
    let rows = [
        // state, flags, threads  lives
        ('S', 0x0040_0000, 9, true),
        ('R', 0x0040_0000, 9, true),
        ('D', 0x0040_0000, 9, true),
        ('T', 0x0040_0000, 9, true),
        ('t', 0x0040_0000, 9, true),
        ('I', 0x0040_0000, 9, true),
        ('Z', 0x0040_0000, 1, false),
        ('Z', 0x0040_0000, 0, false),
        ('Z', 0x0040_0000, 2, true), // its first thread alone has ended
        ('X', 0x0040_0000, 9, false),
        ('x', 0x0040_0000, 9, false),
        ('S', 0x0020_0040, 1, false),
    ];
    for (state, flags, threads, lives) in rows {
        let root = tempfile::tempdir().unwrap();
        let proc = FakeProc::of_a_host(root.path());
        proc.write(9, "stat", stat(9, "kubelet", state, flags, threads, 7));
        let scan = proc.scan();
        assert_eq!(scan.kubelets.len(), usize::from(lives), "{state} {flags:x} {threads}");
        assert_eq!(scan.complete, Ok(()));
    }
}

#[test]
fn what_is_not_all_visible_is_not_complete() {
    let root = tempfile::tempdir().unwrap();
    let hidden = |scan: &Scan| matches!(&scan.complete, Err(Gap::Hidden(why)) if why.contains("hostPID"));
    let failed = |scan: &Scan, what: &str| matches!(&scan.complete, Err(Gap::Failed(why)) if why.contains(what));

    let nothing = scan(&root.path().join("none"));
    assert!(failed(&nothing, "cannot read"), "{nothing:?}");

    let container = FakeProc::of_a_container(root.path());
    assert!(hidden(&container.scan()));
    container.add(2, "kthreadd", 1, &["kthreadd"]);
    assert!(hidden(&container.scan()), "a process that only has the name");
    container.add(7, "kubelet", 70, &["kubelet"]);
    let seen = container.scan();
    assert!(hidden(&seen) && seen.kubelets[0].since_ms == ms(70), "one that is seen is there: {seen:?}");

    let root = tempfile::tempdir().unwrap();
    let host = FakeProc::of_a_host(root.path());
    host.write(8, "stat", "garbage");
    assert!(failed(&host.scan(), "8/stat is not as proc(5) says"));
    host.remove(8);
    host.write(8, "stat", vec![b'x'; FILE_MAX_BYTES + 1]);
    assert!(failed(&host.scan(), "larger than"));
    host.remove(8);
    std::fs::create_dir_all(host.0.join("8")).unwrap();
    assert_eq!(host.scan().complete, Ok(()), "it has ended meanwhile");
    let fifo = host.0.join("8/stat");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    assert!(failed(&host.scan(), "FIFO"));
}

/// A command line that can't be read is no reason not to see the kubelet.
#[test]
fn command_lines() {
    let root = tempfile::tempdir().unwrap();
    let proc = FakeProc::of_a_host(root.path());
    proc.add(5, "kubelet", 1, &[]);
    let cmdline = proc.0.join("5/cmdline");
    let arguments = |text: &[u8]| {
        std::fs::write(&cmdline, text).unwrap();
        proc.scan().kubelets[0].arguments.clone()
    };
    assert_eq!(arguments(b"/usr/bin/kubelet\0--a=b c\0--d\0\0"), ["/usr/bin/kubelet", "--a=b c", "--d", ""]);
    assert_eq!(arguments(b"/usr/bin/kubelet --overwritten"), ["/usr/bin/kubelet --overwritten"]);
    assert_eq!(arguments(b"\xff\0"), ["\u{fffd}"]);
    assert_eq!(arguments(&vec![b'x'; FILE_MAX_BYTES + 1]), [""; 0]);
    std::fs::remove_file(&cmdline).unwrap();
    assert_eq!(proc.scan().kubelets[0].arguments, [""; 0]);
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A real process: found, with its start between two looks at the clock, and gone when it is killed, even before its
/// parent has asked for its end.
#[test]
fn a_real_process() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("kubelet");
    std::fs::copy("/bin/sleep", &program).unwrap();
    let before_ms = crate::node::boot::now_ms();
    // The file was open for writing a moment ago, and a child that another test forks in that moment holds it open.
    let mut command = Command::new(&program);
    command.arg("600").stdin(Stdio::null());
    let deadline = Instant::now() + Duration::from_secs(20);
    let child = loop {
        match command.spawn() {
            Err(error) if error.raw_os_error() == Some(26) && Instant::now() < deadline => std::thread::yield_now(),
            started => break started.unwrap(),
        }
    };
    let mut child = Running(child);
    let proc = Path::new("/proc");
    let found = loop {
        if let Some(found) = scan(proc).kubelets.into_iter().find(|kubelet| kubelet.pid == child.0.id()) {
            break found;
        }
        assert!(Instant::now() < deadline, "the process was not found");
    };
    let after_ms = crate::node::boot::now_ms();
    assert!((before_ms.saturating_sub(20)..=after_ms).contains(&found.since_ms), "{before_ms} {found:?} {after_ms}");
    assert_eq!(found.kind, Kind::Kubelet);
    assert_eq!(found.arguments, [program.to_str().unwrap(), "600"]);
    assert!(is_alive(proc, found.pid, found.since_ms));
    assert!(!is_alive(proc, found.pid, found.since_ms + 10), "another process of that number");

    child.0.kill().unwrap();
    while is_alive(proc, found.pid, found.since_ms) {
        assert!(Instant::now() < deadline, "a zombie counts as alive");
    }
    assert!(!scan(proc).kubelets.iter().any(|kubelet| kubelet.pid == found.pid));
}
