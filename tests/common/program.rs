//! The program as its users meet it: a node of its own below a temporary root, commands run on it, files compared.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::gate::gate;

pub(crate) const STORE: &str = "var/lib/ckpt-db/checkpoint-store.db";
pub(crate) const KEY: &str = "var/lib/ckpt-db/node-key.pem";
pub(crate) const MANIFESTS: &str = "etc/kubernetes/manifests";
pub(crate) const PREPARED: &str = "etc/kubernetes/inactive-manifests";
pub(crate) const SECRETS: &str = "etc/kubernetes/checkpoint-secrets";
pub(crate) const CONFIGMAPS: &str = "etc/kubernetes/checkpoint-configmaps";

/// When the trees of a pod without a manifest may go; the only rendered file that holds a time.
pub(crate) const MARKER: &str = ".ckpt-db.remove-after";

/// `examples/node`, which must not be changed.
pub(crate) fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/node")
}

/// A command of the program under test, cut off from the environment of whoever runs the tests.
pub(crate) fn program() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_ckpt-db")))
}

/// As [`program`], for a program that runs it.
pub(crate) fn clean(mut command: Command) -> Command {
    command.env_remove("NODE_NAME").env_remove("RUST_LOG").env("RUST_BACKTRACE", "1").stdin(Stdio::null());
    command
}

/// What came of one command.
pub(crate) struct Ran {
    /// The arguments, for messages.
    pub(crate) what: String,
    /// `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(mut command: Command) -> Self {
        let what: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        let output = command.output().unwrap();
        Self {
            what: what.join(" "),
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("output is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("messages are UTF-8"),
        }
    }

    /// Asserts the exit code, showing everything where it is another.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        let Self { what, code: found, stdout, stderr } = &self;
        assert_eq!(*found, Some(code), "{what}\n--- stdout\n{stdout}--- stderr\n{stderr}");
        assert!(!stderr.contains("panicked"), "{what}: {stderr}");
        self
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).expect("it is JSON")
    }
}

/// A node that nobody else uses: everything lies below a temporary directory, which goes with it.
pub(crate) struct Node {
    directory: tempfile::TempDir,
}

impl Node {
    /// A node with nothing on it.
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// A node whose source is a copy of the example, stored and rendered.
    pub(crate) fn with_example() -> Self {
        let node = Self::new();
        node.copy_example();
        node.run_source().expect(0);
        node
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// Where this node's manifests come from.
    pub(crate) fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    pub(crate) fn copy_example(&self) {
        copy(&example(), &self.source());
    }

    /// `ckpt-db <subcommand> --root ROOT <args>`, and for `run` the feature gate. A later one in `args` counts.
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(&self, subcommand: &str, args: &[S]) -> Command {
        let mut command = program();
        command.arg(subcommand).args(gate(subcommand)).arg("--root").arg(self.root()).args(args);
        command
    }

    pub(crate) fn ran(&self, subcommand: &str, args: &[&str]) -> Ran {
        Ran::of(self.command(subcommand, args))
    }

    /// Stores what the source says and renders it, with a generated key.
    pub(crate) fn run_source(&self) -> Ran {
        let mut command = self.command("run", &["--once", "--generate-node-key", "--manifests"]);
        command.arg(self.source());
        Ran::of(command)
    }

    /// A cold start: from the store alone.
    pub(crate) fn run_store(&self) -> Ran {
        self.ran("run", &["--once"])
    }

    /// Every stored object, values of Secrets included.
    pub(crate) fn dump(&self) -> serde_json::Value {
        self.ran("dump", &["-o", "json", "--reveal"]).expect(0).json()
    }

    /// Everything that is rendered.
    pub(crate) fn rendered(&self) -> Listing {
        listing(&self.at("etc"))
    }

    /// Removes everything that is rendered, as a power cut and a new disk would.
    pub(crate) fn remove_rendered(&self) {
        if self.at("etc").exists() {
            fs::remove_dir_all(self.at("etc")).unwrap();
        }
    }
}

/// Copies a directory of files, and those below it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        let kind = fs::symlink_metadata(&from).unwrap().file_type();
        if kind.is_dir() {
            copy(&from, &to);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from).unwrap(), &to).unwrap();
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) mode: u32,
    pub(crate) what: What,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum What {
    File(Vec<u8>),
    Link(PathBuf),
    Directory,
    Other,
}

/// Every entry below a directory, by its path from there.
pub(crate) type Listing = BTreeMap<PathBuf, Entry>;

/// Lists what lies below `top`, links not followed; empty if there is no such directory. An agent may be at work there:
/// what is gone before it was read is not listed.
pub(crate) fn listing(top: &Path) -> Listing {
    let mut found = Listing::new();
    list(top, Path::new(""), &mut found);
    found
}

fn list(top: &Path, at: &Path, found: &mut Listing) {
    for entry in unless_gone(fs::read_dir(top.join(at))).into_iter().flatten() {
        let path = at.join(entry.unwrap().file_name());
        let Some(entry) = unless_gone(entry_at(&top.join(&path))) else { continue };
        let directory = entry.what == What::Directory;
        found.insert(path.clone(), entry);
        if directory {
            list(top, &path, found);
        }
    }
}

fn entry_at(path: &Path) -> io::Result<Entry> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_dir() => What::Directory,
        () if kind.is_symlink() => What::Link(fs::read_link(path)?),
        () if kind.is_file() => What::File(fs::read(path)?),
        () => What::Other,
    };
    Ok(Entry { mode: metadata.permissions().mode() & 0o7777, what })
}

#[track_caller]
fn unless_gone<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        result => Some(result.unwrap()),
    }
}

/// Asserts that two listings are the same, naming the entries that differ but not their contents.
#[track_caller]
pub(crate) fn assert_same(found: &Listing, want: &Listing, why: &str) {
    let differences = differences(found, want);
    assert!(differences.is_empty(), "{why}:\n{}", differences.join("\n"));
}

/// What differs, a line each.
pub(crate) fn differences(found: &Listing, want: &Listing) -> Vec<String> {
    let all: std::collections::BTreeSet<&PathBuf> = found.keys().chain(want.keys()).collect();
    let differs = |path: &&PathBuf| found.get(*path) != want.get(*path);
    let line = |path: &PathBuf| match (found.get(path), want.get(path)) {
        (Some(_), None) => format!("too much: {}", path.display()),
        (None, Some(_)) => format!("missing: {}", path.display()),
        (Some(a), Some(b)) if a.mode != b.mode => format!("mode {:o}, not {:o}: {}", a.mode, b.mode, path.display()),
        (Some(_) | None, _) => format!("other contents: {}", path.display()),
    };
    all.into_iter().filter(differs).map(line).collect()
}

/// What tells whether somebody wrote to a file or directory: its inode and the times of its last changes.
pub(crate) type Stamp = (u64, (i64, i64), (i64, i64));

pub(crate) fn stamp(path: &Path) -> Stamp {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.ino(), (metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec()))
}

/// The stamp of everything below `top`.
pub(crate) fn stamps(top: &Path) -> BTreeMap<PathBuf, Stamp> {
    listing(top).into_keys().map(|path| (path.clone(), stamp(&top.join(path)))).collect()
}

/// The parsed manifest of every pod in a directory of manifests, by file name, links followed.
pub(crate) fn manifests(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| (name.clone(), fs::read(directory.join(name)).unwrap())).collect()
}
