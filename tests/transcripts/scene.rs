//! A directory in which the program is run as an operator would, and the transcript of what it answered.
//!
//! Each scene ends in a comparison with `expected/NAME.txt`; `SNAPSHOTS=overwrite cargo test` writes these files anew. In
//! them `$` starts a command, `|` a line of standard output, `!` one of standard error, and `?` the exit code.
//!
//! `run` has its feature gate on, which is not shown; `gates.rs` has it off.
//!
//! Every run is held to a rule besides: what a command has no business with is left as it was, byte for byte, with its
//! mode and time of change. See [`Scene::may_change`].

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]
#![allow(clippy::print_stderr, reason = "what is skipped is said")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ckpt_db::crypto::generate_p256_pkcs8;
use ckpt_db::keys::write_generated;

use crate::gate::gate;

pub(crate) const EXE: &str = env!("CARGO_BIN_EXE_ckpt-db");

/// Where the store of a trial below `node` lies.
pub(crate) const STORE: &str = "node/var/lib/ckpt-db/checkpoint-store.db";

/// Options that every seeded scene shares.
pub(crate) const SEED: &str = "run --once --root node --node-key key.pem --manifests pods.yaml";

pub(crate) struct Scene {
    directory: tempfile::TempDir,
    /// Its path without symbolic links, as the program prints it.
    root: PathBuf,
    transcript: String,
    /// Whether a run that fails at its source may have rendered, or opened the store for writing, before.
    pub(crate) node_may_change: bool,
    /// What the program finds in its environment besides `PATH`.
    pub(crate) environment: Vec<(&'static str, PathBuf)>,
}

/// One answer of the program.
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Scene {
    /// An empty directory.
    pub(crate) fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        Self { directory, root, transcript: String::new(), node_may_change: false, environment: Vec::new() }
    }

    /// With a node key `key.pem` and three pods in `pods.yaml`, nothing stored yet.
    pub(crate) fn with_source() -> Self {
        let scene = Self::empty();
        scene.key("key.pem");
        scene.write("pods.yaml", include_str!("pods.yaml"));
        scene
    }

    /// With the pods stored and rendered below `node`.
    pub(crate) fn seeded() -> Self {
        let scene = Self::with_source();
        let answer = scene.answer(SEED);
        assert_eq!(answer.code, 0, "{}", answer.stderr);
        scene
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Writes a file that nobody else may read.
    pub(crate) fn private(&self, name: &str, contents: &str) {
        self.write(name, contents);
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// What the program prints, as it is. Not for the transcript.
    pub(crate) fn raw(&self, arguments: &str) -> String {
        let mut command = Command::new(EXE);
        command.args(words(arguments)).current_dir(&self.root).env_clear();
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        String::from_utf8(output(command, "").stdout).unwrap()
    }

    /// Runs the program where no terminal can be asked at.
    pub(crate) fn answer_without_terminal(&self, arguments: &str) -> Answer {
        let mut command = Command::new("setsid");
        command.args(["--wait", EXE]).args(words(arguments));
        self.spawn(command, arguments, "")
    }

    /// Makes a node key.
    pub(crate) fn key(&self, name: &str) {
        write_generated(&self.path(name), &generate_p256_pkcs8().unwrap()).unwrap();
    }

    /// Runs the program and writes the transcript on.
    pub(crate) fn run(&mut self, arguments: &str) -> Answer {
        self.run_with(arguments, "")
    }

    /// The same with something on standard input.
    pub(crate) fn run_with(&mut self, arguments: &str, stdin: &str) -> Answer {
        let answer = self.answer_with(arguments, stdin);
        self.record(arguments, &answer);
        answer
    }

    /// Writes an answer to the transcript.
    pub(crate) fn record(&mut self, arguments: &str, answer: &Answer) {
        if !self.transcript.is_empty() {
            self.transcript.push('\n');
        }
        self.transcript.push_str(format!("$ ckpt-db {arguments}").trim_end());
        self.transcript.push('\n');
        for (mark, text) in [('|', &answer.stdout), ('!', &answer.stderr)] {
            for line in text.lines() {
                self.transcript.push_str(format!("{mark} {line}").trim_end());
                self.transcript.push('\n');
            }
        }
        self.transcript.push_str(&format!("? {}\n", answer.code));
    }

    /// Runs the program without a record.
    pub(crate) fn answer(&self, arguments: &str) -> Answer {
        self.answer_with(arguments, "")
    }

    fn answer_with(&self, arguments: &str, stdin: &str) -> Answer {
        let mut command = Command::new(EXE);
        command.args(words(arguments));
        self.spawn(command, arguments, stdin)
    }

    /// The same as user `nobody`; `None`, said loudly, where that is not possible.
    pub(crate) fn answer_as_nobody(&self, arguments: &str) -> Option<Answer> {
        if !rustix::process::geteuid().is_root() {
            return Some(self.answer(arguments));
        }
        // Neither the scene nor the directory of the build is nobody's to enter.
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o755)).unwrap();
        let program = self.directory.path().join("ckpt-db");
        if !program.exists() {
            fs::copy(EXE, &program).unwrap();
        }
        let setpriv = |what: &Path| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).arg(what);
            command
        };
        if !setpriv(&program)
            .arg("--version")
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
        {
            eprintln!(
                "SKIPPED: this is run as root, and setpriv can't run the program as nobody: permissions are not tested"
            );
            return None;
        }
        let mut command = setpriv(&program);
        command.args(words(arguments));
        Some(self.spawn(command, arguments, ""))
    }

    fn spawn(&self, mut command: Command, arguments: &str, stdin: &str) -> Answer {
        let before = look(&self.root);
        command.current_dir(&self.root).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let answer = self.redacted(output(command, stdin));
        let untouched = |path: &Path| !self.may_change(arguments, answer.code, path);
        let [before, after] = [before, look(&self.root)].map(|mut all| {
            all.retain(|path, _| untouched(path.strip_prefix(&self.root).unwrap()));
            all
        });
        for (path, was) in &before {
            assert!(after.get(path) == Some(was), "ckpt-db {arguments}: touched {}", path.display());
        }
        for path in after.keys() {
            assert!(before.contains_key(path), "ckpt-db {arguments}: made {}", path.display());
        }
        answer
    }

    /// What a command may change: `run` the node's directories unless it could not be done or
    /// its feature gate is off, `render` its output.
    fn may_change(&self, arguments: &str, code: i32, path: &Path) -> bool {
        // Where the socket of a fake agent comes and goes.
        if path.starts_with("node/run") {
            return true;
        }
        if self.node_may_change && path.starts_with("node") {
            return true;
        }
        match arguments.split(' ').next() {
            Some("run") if arguments.contains("--feature-gates") && !arguments.contains("Checkpointing=true") => false,
            Some("run" | "hold" | "release" | "adopt" | "uninstall") => {
                code < 2 && (path.starts_with("node") || path == Path::new(""))
            }
            Some("key") if !arguments.starts_with("key list") => {
                code < 2 && (path.starts_with("node") || path == Path::new(""))
            }
            Some("backup") => code < 2 && (path == Path::new("backup.db") || path == Path::new("")),
            Some("restore") => code < 2 && path.starts_with("node/var/lib/ckpt-db"),
            Some("import") => code < 2 && !arguments.contains("--dry-run") && path.starts_with("node"),
            Some("export") => code < 2 && (path.starts_with("out") || path == Path::new("")),
            Some("render") => code < 2 && (path.starts_with("out") || path == Path::new("")),
            _ => false,
        }
    }

    fn redacted(&self, output: Output) -> Answer {
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).expect("the program prints UTF-8");
            redact(&text.replace(self.root.to_str().unwrap(), "[ROOT]"))
        };
        let code = output.status.code().expect("it was not killed");
        Answer { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Compares the transcript with the one that was read and accepted.
    pub(crate) fn expect(self, name: &str) {
        assert!(!self.transcript.contains("panicked"), "{}", self.transcript);
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default().lines().count();
        if self.transcript.contains("swap: ") && swaps > 1 {
            eprintln!("SKIPPED: this machine has swap, which 'plan' reports: {name} is not compared");
            return;
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/transcripts/expected/{name}.txt"));
        let expected = snapbox::Data::read_from(&path, Some(snapbox::data::DataFormat::Text)).raw();
        snapbox::Assert::new().action_env(snapbox::assert::DEFAULT_ACTION_ENV).eq(self.transcript, expected);
    }
}

/// Runs a command with `stdin`, to its end.
fn output(mut command: Command, stdin: &str) -> Output {
    use std::io::Write as _;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // What is written fits a pipe's buffer; a program that does not read it is no error.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

/// The arguments, with the feature gate for `run`, as the packaged unit gives it, unless they set one.
pub(crate) fn words(arguments: &str) -> Vec<String> {
    let mut words = split(arguments);
    if let (Some(gate), false) = (words.first().and_then(|word| gate(word)), arguments.contains("--feature-gates")) {
        words.insert(1, gate.to_owned());
    }
    words
}

/// Words as a shell splits them, with single quotes only.
fn split(arguments: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in arguments.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// Replaces fingerprints of keys, recovery codes and times, which differ from run to run.
fn redact(text: &str) -> String {
    let mut shown = String::new();
    let mut word = String::new();
    let flush = |word: &mut String, shown: &mut String| {
        let is_time = word.len() == 20 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
        let is_fingerprint = [16, 64].contains(&word.len()) && word.bytes().all(|b| b.is_ascii_hexdigit());
        let is_code = word.len() == 44 && word.split('-').count() == 9;
        let is_kept = word.strip_prefix("damaged-").is_some_and(|time| time.bytes().all(|b| b.is_ascii_digit()));
        let seconds =
            word.strip_prefix("replaced-").is_some_and(|s| s.len() > 9 && s.bytes().all(|b| b.is_ascii_digit()));
        shown.push_str(if is_time {
            "[TIME]"
        } else if seconds {
            "replaced-[SECONDS]"
        } else if is_fingerprint {
            "[FINGERPRINT]"
        } else if is_code {
            "[CODE]"
        } else if is_kept {
            "damaged-[SECONDS]"
        } else {
            word
        });
        word.clear();
    };
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || c == '-' || c == ':' {
            word.push(c);
        } else {
            flush(&mut word, &mut shown);
            shown.push(c);
        }
    }
    flush(&mut word, &mut shown);
    shown
}

/// What must not change of a file: type and mode, time of change, and contents.
type Seen = (u32, (i64, i64), Vec<u8>);

/// Everything below a directory, and itself.
pub(crate) fn look(path: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        let contents = if kind.is_file() {
            fs::read(&path).unwrap_or_default()
        } else if kind.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else {
            Vec::new()
        };
        if kind.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            assert!(kind.is_file() || kind.is_symlink() || kind.is_fifo() || kind.is_socket());
        }
        all.insert(path, (metadata.mode(), (metadata.mtime(), metadata.mtime_nsec()), contents));
    }
    all
}
