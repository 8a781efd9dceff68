//! `ckpt-db uninstall`: everything that was rendered goes off the node; what others made stays.
//!
//! Exit status: 0 all of it is gone, 1 something is left (and said), 2 nothing could be done.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use store_format::{Identity, StoreId};

use ckpt_db::agent::{Clearing, Target, cri};
use ckpt_db::checkpoint::look::Runtime;
use ckpt_db::checkpoint::node::Fact;
use ckpt_db::checkpoint::rendering::PodName;
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::materialize::{OnDisk, Removed, RemovedFiles, Report, on_disk};
use ckpt_db::ops::admin::{AskError, Client};
use ckpt_db::store::{Backend as _, Committed, MemoryStore, Snapshot, StoreError, earlier_stores, open_offline};

use super::args::{StoreArgs, TargetArgs};
use super::output::{line, plural};
use super::report::report_problems;
use super::{Exit, now_unix_ms, say};

/// How often it is looked whether containers are gone.
const AGAIN: Duration = Duration::from_secs(1);

/// How often it is said that it still waits.
const SAID_AGAIN: Duration = Duration::from_secs(30);

/// Take everything off this node that was rendered for it, when the agent is stopped for good
///
/// First the manifests in the kubelet's directory, so that the copies stop; then the prepared ones; and when the copies'
/// containers are gone, what they had mounted. Nothing that ckpt-db did not make is touched. The store is kept.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  systemctl disable --now ckpt-db           before it
  ckpt-db uninstall --dry-run               what would go
  ckpt-db uninstall                         copies and their files; the store stays
  ckpt-db uninstall --no-wait               without waiting for containers to end
  ckpt-db uninstall --delete-store")]
pub(crate) struct Uninstall {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    target: TargetArgs,

    /// Say what would go, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// The container runtime's socket, where it is asked which containers have ended [default: the kubelet's, else containerd's
    /// or CRI-O's usual one]
    #[arg(long, value_name = "ENDPOINT")]
    container_runtime_endpoint: Option<PathBuf>,

    /// Do not wait for containers to end: what they have mounted stays, until this is run again
    #[arg(long)]
    no_wait: bool,

    /// Delete the store as well, with all that is in it, and the earlier ones that were kept beside it
    #[arg(long)]
    delete_store: bool,
}

/// What is known of the store's file before anything is done.
enum StoreFile {
    Absent,
    Ours,
    /// It is no store that can be read, so nobody can say that it is ours to delete.
    Unreadable(String),
}

impl Uninstall {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let path = self.store.store()?;
        let target = self.target.target(&self.store)?;
        let store = self.no_agent(&path)?;
        let there = on_disk(&target.roots).context("cannot look at what is rendered")?;
        if self.dry_run {
            return self.announce(out, &there, &store, &path);
        }
        let mut left = false;
        // Without this directory nothing was ever rendered here, and opening would make it.
        if target.roots.prepared.exists() || !there.is_empty() {
            left = self.clear(out, &target)?;
        } else {
            line(out, format_args!("nothing is rendered on this node"))?;
        }
        let socket = self.store.admin_socket()?;
        // Left by an agent that was killed; a live one was ruled out above.
        if fs::symlink_metadata(&socket).is_ok_and(|socket| is_socket(&socket)) {
            fs::remove_file(&socket).with_context(|| format!("cannot remove {}", socket.display()))?;
        }
        if let Some(directory) = socket.parent() {
            for name in ["last-answer", "last-answer.new"] {
                let _ = fs::remove_file(directory.join(name));
            }
            let _ = fs::remove_dir(directory);
        }
        left |= self.store_goes(out, &store, &path)?;
        let key = self.store.layout()?.generated_key();
        if key.exists() {
            say(format_args!("note: kept the node key {}: remove it if nothing else needs it", key.display()));
        }
        Ok(Exit::findings(left))
    }

    /// Rules out that an agent runs, which would render all of it again.
    fn no_agent(&self, path: &Path) -> anyhow::Result<StoreFile> {
        let stop = "stop it first, and for good: systemctl disable --now ckpt-db";
        let client = Client::new(&self.store.admin_socket()?);
        match client.status() {
            Err(AskError::NoAgent(_)) => {}
            Ok(_) => bail!("an agent runs on this node (it answers on {}); {stop}", client.path().display()),
            Err(error) => bail!("an agent seems to run on this node ({error}); {stop}"),
        }
        match open_offline(path, &[]) {
            Ok(_) => Ok(StoreFile::Ours),
            Err(StoreError::NotFound(_)) => Ok(StoreFile::Absent),
            Err(StoreError::InUse(path)) => bail!("an agent runs: it has {} open; {stop}", path.display()),
            Err(error) => Ok(StoreFile::Unreadable(error.to_string())),
        }
    }

    fn announce(&self, out: &mut dyn Write, there: &OnDisk, store: &StoreFile, path: &Path) -> anyhow::Result<Exit> {
        if there.is_empty() {
            line(out, format_args!("nothing is rendered on this node"))?;
        }
        for (pods, what) in [
            (&there.active, "active manifest; its copy would stop"),
            (&there.prepared, "prepared manifest"),
            (&there.trees, "files that its containers have mounted, when they are gone"),
        ] {
            for pod in pods {
                line(out, format_args!("would remove {pod}: {what}"))?;
            }
        }
        match (store, self.delete_store) {
            (StoreFile::Absent, _) => {}
            (StoreFile::Ours, true) => line(out, format_args!("would delete the store {}", path.display()))?,
            (StoreFile::Ours, false) => line(out, format_args!("would keep the store {}", path.display()))?,
            (StoreFile::Unreadable(why), _) => line(out, format_args!("would not delete the store: {why}"))?,
        }
        let would = if self.delete_store { "delete" } else { "keep" };
        for earlier in earlier_stores(path) {
            line(out, format_args!("would {would} an earlier store, {}", earlier.display()))?;
        }
        line(out, format_args!("nothing was changed (--dry-run)"))?;
        Ok(Exit::Fine)
    }

    /// Pass by pass, until nothing is left; whether something is.
    fn clear(&self, out: &mut dyn Write, target: &Target) -> anyhow::Result<bool> {
        let nothing = nothing()?;
        let mut clearing = Clearing::begin(target).context("cannot begin")?;
        let mut waited = Waited::default();
        let report = loop {
            let runtime = self.runtime();
            let report = clearing.pass(&nothing, &runtime, now_unix_ms() / 1000);
            let mut removed: Vec<(&PodName, &str)> = Vec::new();
            for Removed { pod, files } in &report.removed {
                let what = match files {
                    RemovedFiles::ActiveManifest => "active manifest; its copy stops",
                    RemovedFiles::PreparedManifest => "prepared manifest",
                    RemovedFiles::Trees => "files that its containers had mounted",
                };
                // A pod has trees below two roots.
                if !removed.contains(&(pod, what)) {
                    line(out, format_args!("removed {pod}: {what}"))?;
                    removed.push((pod, what));
                }
            }
            if report.waiting.is_empty() || !report.problems.is_empty() {
                break report;
            }
            for text in waited.lines(&report, &runtime, self.no_wait, now_unix_ms() / 1000) {
                line(out, format_args!("{text}"))?;
            }
            if self.no_wait {
                break report;
            }
            out.flush()?;
            sleep(AGAIN);
        };
        let left = report_problems(&report);
        if !report.waiting.is_empty() {
            say(format_args!("note: what they have mounted was kept; run this again when they have ended"));
            return Ok(true);
        }
        for (path, error) in clearing.end() {
            let why = match rustix::io::Errno::from_io_error(&error) {
                Some(rustix::io::Errno::NOTEMPTY) => "it holds files that ckpt-db did not make".to_owned(),
                Some(rustix::io::Errno::BUSY) => {
                    "a file system is mounted there; disable its mount unit, or unmount it".to_owned()
                }
                _ => error.to_string(),
            };
            say(format_args!("note: kept {}: {why}", path.display()));
        }
        Ok(left)
    }

    fn runtime(&self) -> Fact<Runtime> {
        let root = match self.store.layout() {
            Ok(layout) => layout.root().to_owned(),
            Err(error) => return Fact::Unknown(error.to_string()),
        };
        match cri(&root, self.container_runtime_endpoint.as_deref()) {
            Ok(cri) => cri.look_blocking(),
            Err(why) => Fact::Unknown(why),
        }
    }

    /// Deletes the store if that was asked for, and the earlier ones beside it, else says that they are kept; whether something
    /// should have gone and did not.
    fn store_goes(&self, out: &mut dyn Write, store: &StoreFile, path: &Path) -> anyhow::Result<bool> {
        let mut gone = false;
        for earlier in earlier_stores(path) {
            if self.delete_store {
                fs::remove_file(&earlier).with_context(|| format!("cannot delete {}", earlier.display()))?;
                line(out, format_args!("deleted an earlier store, {}", earlier.display()))?;
                gone = true;
            } else {
                line(out, format_args!("kept an earlier store, {} (--delete-store deletes it)", earlier.display()))?;
            }
        }
        let mut left = false;
        match (store, self.delete_store) {
            (StoreFile::Absent, _) => {}
            (StoreFile::Ours, true) => {
                // A copy of settings is of no use without it.
                let _ = fs::remove_file(self.store.layout()?.last_good_config());
                fs::remove_file(path).with_context(|| format!("cannot delete the store {}", path.display()))?;
                line(out, format_args!("deleted the store {}", path.display()))?;
                gone = true;
            }
            (StoreFile::Ours, false) => {
                line(out, format_args!("kept the store {} (--delete-store deletes it)", path.display()))?;
            }
            (StoreFile::Unreadable(why), asked) => {
                say(format_args!("note: the store was not deleted: {why}"));
                left = asked;
            }
        }
        if gone && let Some(directory) = path.parent() {
            // It stays where it is not empty.
            let _ = fs::remove_dir(directory);
        }
        Ok(left)
    }
}

/// What was said of containers that are waited for.
#[derive(Default)]
struct Waited {
    pods: Vec<PodName>,
    at: Option<Instant>,
    runtime: bool,
}

impl Waited {
    /// What there is to say now.
    fn lines(&mut self, report: &Report, runtime: &Fact<Runtime>, ends: bool, now_unix_s: u64) -> Vec<String> {
        let mut waiting: Vec<PodName> = report.waiting.iter().map(|waiting| waiting.pod.clone()).collect();
        waiting.sort();
        waiting.dedup();
        let until = report.waiting.iter().map(|waiting| waiting.until_unix_s).max().unwrap_or_default();
        let (pods, at_most) = (waiting.len(), until.saturating_sub(now_unix_s));
        let what = format!("the containers of {pods} pod{} to end, at most {at_most} s", plural(pods));
        let mut lines = Vec::new();
        if waiting != self.pods {
            let names: Vec<String> = waiting.iter().map(ToString::to_string).collect();
            lines.push(format!("waiting for {what}: {}", names.join(", ")));
            (self.pods, self.at) = (waiting, Some(Instant::now()));
        } else if self.at.is_none_or(|at| at.elapsed() >= SAID_AGAIN) {
            lines.push(format!("still waiting for {what} more"));
            self.at = Some(Instant::now());
        }
        match runtime {
            Fact::Unknown(why) if !self.runtime && !ends => {
                lines.push(format!(
                    "nobody says which of them have ended, so the longest time that they may take is waited for ({why}). \
                     --container-runtime-endpoint names the runtime's socket; --no-wait ends at once, and keeps what they have \
                     mounted for the next time that this is run (^C does the same)"
                ));
                self.runtime = true;
            }
            Fact::Unknown(_) | Fact::Known(_) => {}
        }
        lines
    }
}

fn is_socket(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    metadata.file_type().is_socket()
}

/// A store in which nothing is: what should lie on the node.
fn nothing() -> anyhow::Result<Committed<Snapshot>> {
    let identity = Identity::new(StoreId([0; 16]), 0, "");
    Ok(MemoryStore::new(identity, Box::new(SystemEntropy))?.snapshot()?)
}

#[cfg(test)]
mod tests {
    use ckpt_db::materialize::Waiting;

    use super::*;

    #[test]
    fn whoever_waits_learns_for_what_how_long_and_how_not_to() {
        let pod = |name: &str| PodName { namespace: "shop".to_owned(), name: name.to_owned() };
        let report = |names: &[&str]| Report {
            waiting: names.iter().map(|name| Waiting { pod: pod(name), until_unix_s: 190 }).collect(),
            ..Report::default()
        };
        let silent = Fact::Unknown("no socket was found".to_owned());
        let mut waited = Waited::default();
        let lines = waited.lines(&report(&["web", "web", "api"]), &silent, false, 100);
        assert_eq!(lines[0], "waiting for the containers of 2 pods to end, at most 90 s: shop/api, shop/web");
        assert!(lines[1].contains("(no socket was found)") && lines[1].contains("--no-wait ends at once"), "{lines:?}");
        assert_eq!(lines.len(), 2);
        assert_eq!(waited.lines(&report(&["web", "api"]), &silent, false, 110), [""; 0], "once");
        let lines = waited.lines(&report(&["web"]), &silent, false, 120);
        assert_eq!(lines, ["waiting for the containers of 1 pod to end, at most 70 s: shop/web"]);
        waited.at = waited.at.and_then(|at| at.checked_sub(SAID_AGAIN));
        let lines = waited.lines(&report(&["web"]), &silent, false, 150);
        assert_eq!(lines, ["still waiting for the containers of 1 pod to end, at most 40 s more"]);
        assert_eq!(waited.lines(&report(&["web"]), &silent, false, 151), [""; 0]);
        // Whoever does not wait, and whose runtime answers, needs no such word.
        for (runtime, ends) in [(&silent, true), (&Fact::Known(Runtime::default()), false)] {
            assert_eq!(Waited::default().lines(&report(&["web"]), runtime, ends, 100).len(), 1);
        }
    }
}
