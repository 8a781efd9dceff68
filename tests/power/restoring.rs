//! Backups to be restored by a machine whose power is cut, and what must hold of its disk: the store is that of one backup,
//! whole, and what was the store before lies beside it from the moment at which it is no more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use store_format::Unlocker;

use crate::gate::gate;
use crate::judge::{self, Told};
use crate::steps;

/// Backups of a store that was at each step of the source, made by the program when they are asked for.
pub(crate) struct Backups {
    directory: PathBuf,
    node_key: PathBuf,
    /// That of step 1 first.
    made: Mutex<Vec<Vec<u8>>>,
}

impl Backups {
    pub(crate) fn new(scratch: &Path, node_key: &Path) -> Self {
        Self { directory: scratch.join("backups"), node_key: node_key.to_owned(), made: Mutex::default() }
    }

    /// The backup of a store that holds step `step`.
    pub(crate) fn of(&self, step: u64) -> Vec<u8> {
        let mut made = self.made.lock().unwrap();
        let step = usize::try_from(step).unwrap();
        while made.len() < step {
            let next = self.make(made.len() as u64 + 1);
            made.push(next);
        }
        made[step - 1].clone()
    }

    fn make(&self, step: u64) -> Vec<u8> {
        fs::create_dir_all(&self.directory).unwrap();
        let [source, backup] = ["pods.json", "backup.db"].map(|name| self.directory.join(name));
        fs::write(&source, steps::source(step)).unwrap();
        self.run(&["run", "--once", "--manifests"], &source);
        self.run(&["backup", "--force"], &backup);
        fs::read(&backup).unwrap()
    }

    fn run(&self, arguments: &[&str], file: &Path) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ckpt-db"));
        command
            .arg(arguments[0])
            .args(gate(arguments[0]))
            .args(&arguments[1..])
            .arg(file)
            .arg("--node-key")
            .arg(&self.node_key);
        command.arg("--root").arg(self.directory.join("root")).env_remove("NODE_NAME").env_remove("RUST_LOG");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// What is wrong with the files below `root`, and the step that the store holds; 0 is none.
pub(crate) fn judge(root: &Path, told: Told, key: &Unlocker) -> (u64, Vec<String>) {
    let path = root.join(judge::STORE);
    let stored = match judge::stored(&path, key) {
        Ok(stored) => stored,
        Err(problem) => return (0, vec![problem]),
    };
    let before = told.acknowledged.max(told.stored);
    let mut wrong = Vec::new();
    if !(before..=told.begun).contains(&stored) {
        wrong.push(format!("the store holds step {stored}: {told:?}"));
    }
    let kept: Vec<Result<u64, String>> = kept_beside(&path).iter().map(|kept| judge::stored(kept, key)).collect();
    wrong.extend(kept.iter().filter_map(|kept| kept.as_ref().err()).map(|problem| format!("what was kept: {problem}")));
    if stored == before + 1 && before > 0 && !kept.contains(&Ok(before)) {
        wrong.push(format!("the store holds step {stored}, and that of step {before} is nowhere: {kept:?}"));
    }
    (stored, wrong)
}

fn kept_beside(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path.parent().unwrap()) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains(".replaced-")).collect()
}

/// Each way of spoiling it is noticed.
#[test]
fn the_judge_of_restores() {
    let directory = tempfile::tempdir().unwrap();
    let node_key = directory.path().join("node-key.pem");
    ckpt_db::keys::write_generated(&node_key, &ckpt_db::crypto::generate_p256_pkcs8().unwrap()).unwrap();
    let key = ckpt_db::keys::load(&node_key).unwrap().secret.into();
    let backups = Backups::new(directory.path(), &node_key);
    let root = directory.path().join("node");
    let told = |acknowledged| Told { acknowledged, begun: acknowledged + 1, stored: 0 };
    let wrong = |acknowledged| judge(&root, told(acknowledged), &key).1.join("; ");
    assert_eq!(judge(&root, told(0), &key), (0, Vec::new()));

    let store = root.join(judge::STORE);
    let kept = store.with_file_name("checkpoint-store.db.replaced-1");
    fs::create_dir_all(store.parent().unwrap()).unwrap();
    fs::write(&store, backups.of(3)).unwrap();
    assert_eq!(judge(&root, told(3), &key), (3, Vec::new()));
    assert!(wrong(2).contains("that of step 2 is nowhere"), "{}", wrong(2));
    assert!(wrong(1).contains("the store holds step 3") && wrong(4).contains("the store holds step 3"));
    fs::write(&kept, backups.of(2)).unwrap();
    assert_eq!(judge(&root, told(2), &key), (3, Vec::new()));
    fs::write(&kept, &backups.of(2)[..20_000]).unwrap();
    assert!(wrong(2).contains("what was kept: ") && wrong(2).contains("that of step 2 is nowhere"), "{}", wrong(2));
    fs::remove_file(&kept).unwrap();
    fs::write(&store, &backups.of(3)[..20_000]).unwrap();
    assert_ne!(wrong(3), "");
}
