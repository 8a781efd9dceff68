//! Since when the kubelet runs, look after look, and without a wrong answer "since late", which would start copies.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::checkpoint::look::Kubelet;
use crate::checkpoint::node::Fact;
use crate::node::file;

use super::configuration;
use super::process::{self, Gap, Kind, Process};

/// Looks at the kubelet of one node, and remembers what the next look needs.
#[derive(Debug)]
pub struct Watch {
    root: PathBuf,
    manifests: PathBuf,
    /// The kubelet that was seen last.
    process: Option<(u32, u64)>,
    /// Whether a kubelet was ever seen as a process: then it can be seen, and where it is not, it does not run.
    seen: bool,
    socket: Option<Socket>,
}

/// The device plug-ins' socket, which a kubelet makes anew at each start.
#[derive(Debug)]
struct Socket {
    identity: Identity,
    /// When it was surely not made yet, in milliseconds since boot; 0 if nobody knows.
    since_ms: u64,
    /// When it was looked at last, in milliseconds since boot.
    looked_ms: u64,
}

/// What tells a socket from its successor: inode, modification time, nanoseconds of it.
type Identity = (u64, i64, i64);

impl Watch {
    /// Of the node whose root directory is `root` (`/` on the node itself, where `/proc` lies below it); `manifests_dir` is
    /// our static pod directory.
    #[must_use]
    pub fn new(root: &Path, manifests_dir: &Path) -> Self {
        let (root, manifests) = (root.to_owned(), manifests_dir.to_owned());
        Self { root, manifests, process: None, seen: false, socket: None }
    }

    /// Looks at `now_ms` milliseconds since boot. Nothing is changed; a failure is [`Fact::Unknown`].
    ///
    /// Of several kubelets the oldest counts, except those that surely read another directory than ours: they are the
    /// kubelets of nodes in containers on this host (kind), or of another test, and start no copy of ours.
    ///
    /// Where the host's processes can't be seen (a pod without `hostPID`) the device plug-ins' socket stands for the
    /// process: the kubelet makes it anew at each start. Its times are not used, since they are those of a wall clock that
    /// may have been set since. What counts is that it has changed between two looks: then the kubelet was started after
    /// the first of them. Until it changes the kubelet counts as running since boot.
    pub fn look(&mut self, now_ms: u64) -> Fact<Kubelet> {
        let proc = self.root.join("proc");
        // All others are younger, or another node's, as long as this one lives.
        if let Some((pid, since_ms)) = self.process
            && process::is_alive(&proc, pid, since_ms)
        {
            return Fact::Known(Kubelet::Running { since_ms });
        }
        let scan = process::scan(&proc);
        self.process =
            scan.kubelets.iter().find(|found| !self.is_anothers(found)).map(|found| (found.pid, found.since_ms));
        if let Some((_, since_ms)) = self.process {
            self.seen = true;
            return Fact::Known(Kubelet::Running { since_ms });
        }
        match scan.complete {
            Ok(()) => Fact::Known(Kubelet::NotRunning),
            Err(Gap::Hidden(_)) if self.seen => Fact::Known(Kubelet::NotRunning),
            Err(Gap::Hidden(why)) => self.look_at_socket(now_ms, &why),
            Err(Gap::Failed(why)) => Fact::Unknown(why),
        }
    }

    /// Whether it surely reads another directory than ours.
    fn is_anothers(&self, process: &Process) -> bool {
        match process.kind {
            Kind::Distribution(_) => return false,
            Kind::Kubelet => {}
        }
        let Fact::Known(Some(path)) = configuration::of_process(&self.root, process).static_pod_path else {
            return false;
        };
        // Through the process's own root, since a kubelet in a container has other paths. Without the right to look there
        // nothing is certain.
        let its_root = self.root.join("proc").join(process.pid.to_string()).join("root");
        let identity = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        match (identity(&file::below(&its_root, &path)), identity(&self.manifests)) {
            (Some(its), Some(ours)) => its != ours,
            (Some(_) | None, Some(_) | None) => false,
        }
    }

    fn look_at_socket(&mut self, now_ms: u64, why: &str) -> Fact<Kubelet> {
        let root_dir = configuration::of_files(&self.root).root_dir;
        let path = file::below(&self.root, &root_dir).join("device-plugins/kubelet.sock");
        let identity = match std::fs::symlink_metadata(&path) {
            Ok(found) => (found.ino(), found.mtime(), found.mtime_nsec()),
            Err(error) => return Fact::Unknown(format!("{why}; cannot look at {} either: {error}", path.display())),
        };
        let since_ms = match &self.socket {
            Some(known) if known.identity == identity => known.since_ms,
            Some(known) => known.looked_ms,
            None => 0,
        };
        self.socket = Some(Socket { identity, since_ms, looked_ms: now_ms });
        Fact::Known(Kubelet::Running { since_ms })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::super::process::tests::FakeProc;
    use super::*;

    fn running(since_ms: u64) -> Fact<Kubelet> {
        Fact::Known(Kubelet::Running { since_ms })
    }

    fn ms(ticks: u64) -> u64 {
        ticks * 1000 / rustix::param::clock_ticks_per_second()
    }

    const NOT_RUNNING: Fact<Kubelet> = Fact::Known(Kubelet::NotRunning);

    #[test]
    fn a_kubelet_comes_goes_and_comes_back() {
        let root = tempfile::tempdir().unwrap();
        let proc = FakeProc::of_a_host(root.path());
        let mut watch = Watch::new(root.path(), &root.path().join("m"));
        assert_eq!(watch.look(1), NOT_RUNNING);
        proc.add(50, "kubelet", 700, &["kubelet"]);
        assert_eq!(watch.look(2), running(ms(700)));
        proc.add(40, "kubelet", 900, &["kubelet"]);
        assert_eq!(watch.look(3), running(ms(700)), "of two, the older");
        proc.remove(50);
        assert_eq!(watch.look(4), running(ms(900)));
        proc.add(40, "kubelet", 950, &["kubelet"]);
        assert_eq!(watch.look(5), running(ms(950)), "the number was given again");
        proc.remove(40);
        assert_eq!(watch.look(6), NOT_RUNNING);
    }

    /// A look that fails is no answer, and an answer again when it succeeds.
    #[test]
    fn what_cannot_be_read_is_unknown() {
        let root = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(root.path(), &root.path().join("m"));
        assert!(matches!(watch.look(1), Fact::Unknown(_)), "no /proc");
        let proc = FakeProc::of_a_host(root.path());
        proc.add(50, "kubelet", 700, &["kubelet"]);
        assert_eq!(watch.look(2), running(ms(700)));
        std::fs::write(proc.0.join("50/stat"), "garbage").unwrap();
        assert!(matches!(watch.look(3), Fact::Unknown(why) if why.contains("50/stat")), "though it was seen before");
        proc.remove(50);
        assert_eq!(watch.look(4), NOT_RUNNING);
    }

    /// In a pod without `hostPID` the socket stands for the process, by its changes only.
    #[test]
    fn without_the_hosts_processes_the_socket_counts() {
        let root = tempfile::tempdir().unwrap();
        let proc = FakeProc::of_a_container(root.path());
        let directory = root.path().join("var/lib/kubelet/device-plugins");
        let socket = directory.join("kubelet.sock");
        let mut watch = Watch::new(root.path(), &root.path().join("m"));
        assert!(
            matches!(watch.look(1_000), Fact::Unknown(why) if why.contains("hostPID") && why.contains("kubelet.sock"))
        );
        std::fs::create_dir_all(&directory).unwrap();
        let first = UnixListener::bind(&socket).unwrap();
        assert_eq!(watch.look(2_000), running(0), "made before anybody looked: since boot");
        assert_eq!(watch.look(3_000), running(0));
        // The new one is made before the old one goes, so that it can't be given the same inode.
        let second = UnixListener::bind(directory.join("next")).unwrap();
        std::fs::rename(directory.join("next"), &socket).unwrap();
        assert_eq!(watch.look(4_000), running(3_000), "after the last look at the old one");
        assert_eq!(watch.look(5_000), running(3_000));
        std::fs::remove_file(&socket).unwrap();
        assert!(matches!(watch.look(6_000), Fact::Unknown(_)));
        let third = UnixListener::bind(&socket).unwrap();
        assert_eq!(watch.look(7_000), running(5_000));
        drop((first, second, third));

        // Whoever sees it once can see it, as in a node that is a container.
        proc.add(50, "kubelet", 700, &["kubelet"]);
        assert_eq!(watch.look(8_000), running(ms(700)));
        proc.remove(50);
        assert_eq!(watch.look(9_000), NOT_RUNNING);
    }

    #[test]
    fn a_kubelet_that_surely_reads_another_directory_is_anothers() {
        let root = tempfile::tempdir().unwrap();
        let proc = FakeProc::of_a_host(root.path());
        let ours = root.path().join("m");
        std::fs::create_dir(&ours).unwrap();
        std::fs::create_dir(root.path().join("other")).unwrap();
        let look = || Watch::new(root.path(), &ours).look(1);
        let kubelet = |path: &str| proc.add(50, "kubelet", 700, &["kubelet", &format!("--pod-manifest-path={path}")]);
        let its_root = proc.0.join("50/root");
        kubelet("/other");
        assert_eq!(look(), running(ms(700)), "its root can't be looked at");
        std::os::unix::fs::symlink(root.path(), &its_root).unwrap();
        assert_eq!(look(), NOT_RUNNING);
        kubelet("/absent");
        assert_eq!(look(), running(ms(700)), "not there yet");
        kubelet("");
        assert_eq!(look(), running(ms(700)), "no directory at all");
        kubelet("/m");
        assert_eq!(look(), running(ms(700)));
        std::fs::remove_file(&its_root).unwrap();
        std::os::unix::fs::symlink(root.path().join("m/.."), &its_root).unwrap();
        kubelet("//m/");
        assert_eq!(look(), running(ms(700)), "by identity, not by name");
        kubelet("/other");
        proc.add(70, "k3s", 600, &["k3s", "agent"]);
        assert_eq!(look(), running(ms(600)), "a distribution's, beside the kubelet of a container");
        proc.add(60, "kubelet", 800, &["kubelet", "--pod-manifest-path=/m"]);
        assert_eq!(look(), running(ms(800)));
    }
}
