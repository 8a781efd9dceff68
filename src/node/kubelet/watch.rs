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
        self.process = scan.kubelets.iter().find(|found| !self.is_anothers(found)).map(|found| (found.pid, found.since_ms));
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
        let Fact::Known(Some(path)) = configuration::of_process(&self.root, process).static_pod_path else { return false };
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
