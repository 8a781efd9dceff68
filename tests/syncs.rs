//! What the program asks of a real file system before anything that it shows: each octet of the store is synced, and so is
//! each name on the way to it. Other tests cut the power of media that they made themselves; this one watches the system
//! calls, which no simulation stands between.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use common::program::Node;
use common::strace;

/// Where the store and the keys are, and where what is rendered is.
const STATE: &str = "var";
const RENDERED: &str = "etc";

#[test]
fn a_new_store_and_its_directories_are_synced_before_anything_is_shown() {
    let node = Node::new();
    node.copy_example();
    watch(&node, &["--generate-node-key"]);
}

#[test]
fn a_change_is_synced_before_anything_is_shown() {
    let node = Node::with_example();
    let path = node.source().join("deployment.yaml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("nginx:1.29.1"));
    fs::write(path, text.replace("nginx:1.29.1", "nginx:1.29.2")).unwrap();
    watch(&node, &[]);
}

/// Runs the program and judges its calls in their order.
fn watch(node: &Node, options: &[&str]) {
    if !strace::works() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let log = scratch.path().join("log");
    let mut command = node.command("run", &["--once", "--manifests"]);
    command.arg(node.source()).args(options);
    assert_eq!(strace::run(&log, &["-y"], &command).code(), Some(0));
    let mut disk = Disk::default();
    let (mut shown, mut syncs) = (0, 0);
    for line in fs::read_to_string(&log).unwrap().lines() {
        let Some(call) = Call::of(line) else { continue };
        if call.paths.iter().any(|path| path.starts_with(node.at(RENDERED))) {
            disk.assert_durable(node, line);
            shown += 1;
        }
        syncs += usize::from(call.name.ends_with("sync") && call.paths[0].starts_with(node.at(STATE)));
        disk.carry_out(&call);
    }
    disk.assert_durable(node, "the end");
    assert!(shown > 10 && syncs >= 2, "{shown} calls that show something, {syncs} syncs of the store");
}

/// A call that succeeded: its name, and every path in its arguments, whole, with a path that is relative to a descriptor as
/// one.
struct Call {
    name: String,
    arguments: String,
    paths: Vec<PathBuf>,
}

impl Call {
    /// Reads a line as `strace -f -y` writes it.
    fn of(line: &str) -> Option<Self> {
        let (_, call) = line.split_once(' ')?;
        let (name, rest) = call.trim_start().split_once('(')?;
        let (arguments, result) = rest.rsplit_once(" = ")?;
        if result.starts_with('-') {
            return None;
        }
        let mut paths = Vec::new();
        let mut base = PathBuf::new();
        // What is written is shown in quotes as well.
        let count = if name.contains("write") { 1 } else { usize::MAX };
        for argument in arguments.split(", ").take(count) {
            if let Some(path) = argument.strip_prefix('"') {
                paths.push(base.join(path.split('"').next()?));
            } else if let Some((_, path)) = argument.split_once('<') {
                base = path.split('>').next()?.into();
                if !argument.starts_with("AT_FDCWD") && !name.ends_with("at") && !name.ends_with("at2") {
                    paths.push(base.clone());
                }
            }
        }
        Some(Self { name: name.to_owned(), arguments: arguments.to_owned(), paths })
    }
}

/// What has not been synced yet.
#[derive(Default)]
struct Disk {
    contents: BTreeSet<PathBuf>,
    names: BTreeSet<PathBuf>,
}

impl Disk {
    fn carry_out(&mut self, call: &Call) {
        let makes = call.arguments.contains("O_CREAT") || !call.name.starts_with("open");
        match (call.name.as_str(), call.paths.as_slice()) {
            ("fsync" | "fdatasync", [path]) => {
                self.contents.remove(path);
                self.names.retain(|name| name.parent() != Some(path) || call.name == "fdatasync");
            }
            ("write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" | "ftruncate", [path]) => {
                self.contents.insert(path.clone());
            }
            ("mkdir" | "mkdirat" | "open" | "openat" | "symlinkat" | "symlink", [.., path]) if makes => {
                self.names.insert(path.clone());
            }
            ("rename" | "renameat" | "renameat2", [from, to]) => {
                if self.contents.remove(from) {
                    self.contents.insert(to.clone());
                }
                self.names.remove(from);
                self.names.insert(to.clone());
            }
            ("link" | "linkat", [.., to]) => drop(self.names.insert(to.clone())),
            ("unlink" | "unlinkat" | "rmdir", [path]) => {
                self.contents.remove(path);
                self.names.remove(path);
            }
            _ => {}
        }
    }

    fn assert_durable(&self, node: &Node, at: &str) {
        let ours = |path: &&PathBuf| path.starts_with(node.at(STATE));
        if let Some(path) = self.contents.iter().find(ours) {
            panic!("what was written to {} is not synced: {at}", shown(node, path));
        }
        if let Some(path) = self.names.iter().find(ours) {
            panic!("the directory of {} is not synced: {at}", shown(node, path));
        }
    }
}

fn shown(node: &Node, path: &Path) -> String {
    path.strip_prefix(node.root()).unwrap_or(path).display().to_string()
}
