//! The library as another program meets it: through `ckpt_db::embed` alone, with a backend of its own that has to pass the
//! public suite.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

#[allow(dead_code, reason = "its main is for who runs it by hand")]
#[path = "../examples/embed.rs"]
mod example;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ckpt_db::embed::{
    Backend, Change, Committed, Identity, LockState, SlotsKept, SlotsWanted, Snapshot, StoreError, Unlocker, Update,
    conformance, in_memory, load_node_key,
};

#[test]
fn the_example_runs() {
    let told = example::story().unwrap();
    assert_eq!(
        told,
        [
            "started with --feature-gates=Checkpointing=true",
            "  Pod default/web is stored: running it",
            "  Pod default/db is stored: running it",
            "started with --feature-gates=Checkpointing=true",
            "  Pod default/db was stored before: running it",
            "  Pod default/web was stored before: running it",
            "started with --feature-gates=Checkpointing=false",
            "  Pod default/batch is stored: running it",
            "started with --feature-gates=Checkpointing=true",
            "  Pod default/db was stored before: running it",
            "  Pod default/web was stored before: running it",
        ]
    );
}

/// A backend of somebody else's: memory of ours, and a journal of its own which each commit is in before anybody hears of
/// it.
struct Journaled {
    inner: Box<dyn Backend>,
    journal: File,
    spoilt: Spoilt,
}

/// In what way it is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoilt {
    Not,
    ForgetsDeletions,
    StoresAPodWithoutWhatItNeeds,
    SaysThatItIsOpen,
    TakesNoKey,
}

impl Journaled {
    fn new(directory: &Path, number: u64, spoilt: Spoilt) -> Self {
        let path = directory.join(format!("{number}.journal"));
        let journal = OpenOptions::new().create_new(true).append(true).open(path).unwrap();
        Self { inner: Box::new(in_memory_keyless()), journal, spoilt }
    }

    fn journal(&mut self, what: &str) -> Result<(), StoreError> {
        writeln!(self.journal, "{what}").and_then(|()| self.journal.sync_data()).map_err(|_| StoreError::Unusable)
    }
}

/// The suite begins with stores that have no key; [`in_memory`] has one.
fn in_memory_keyless() -> ckpt_db::embed::MemoryStore {
    let identity = in_memory("edge-1", 1).unwrap().identity().clone();
    ckpt_db::embed::MemoryStore::new(identity, Box::new(ckpt_db::embed::SystemEntropy)).unwrap()
}

impl Backend for Journaled {
    fn identity(&self) -> &Identity {
        self.inner.identity()
    }

    fn lock_state(&self) -> LockState {
        if self.spoilt == Spoilt::SaysThatItIsOpen { LockState::Open } else { self.inner.lock_state() }
    }

    fn update(&mut self, mut changes: Vec<Change>, now_unix_ms: u64) -> Result<Committed<Update>, StoreError> {
        if self.spoilt == Spoilt::ForgetsDeletions {
            changes.retain(|change| !matches!(change, Change::Delete { .. }));
        }
        for change in &mut changes {
            if let (Change::Apply { with, .. }, Spoilt::StoresAPodWithoutWhatItNeeds) = (change, self.spoilt) {
                with.clear();
            }
        }
        let done = self.inner.update(changes, now_unix_ms)?;
        self.journal(&format!("{} {:?} {:?}", done.get().revision, done.get().stored, done.get().removed))?;
        Ok(done)
    }

    fn keep_slots(&mut self, wanted: &SlotsWanted<'_>, now_unix_ms: u64) -> Result<Committed<SlotsKept>, StoreError> {
        let none = SlotsWanted::default();
        let wanted = if self.spoilt == Spoilt::TakesNoKey { &none } else { wanted };
        let kept = self.inner.keep_slots(wanted, now_unix_ms)?;
        self.journal(&format!("{} slots", kept.get().revision))?;
        Ok(kept)
    }

    fn image(&self) -> Result<Vec<u8>, StoreError> {
        self.inner.image()
    }

    fn snapshot(&self) -> Result<Committed<Snapshot>, StoreError> {
        self.inner.snapshot()
    }
}

/// Runs the suite; how many stores it took, or which sentence does not hold.
fn conforms(spoilt: Spoilt) -> Result<u64, String> {
    let directory = tempfile::tempdir().unwrap();
    let key = node_key(directory.path());
    let mut made = 0;
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut make = || {
            made += 1;
            Box::new(Journaled::new(directory.path(), made, spoilt)) as Box<dyn Backend>
        };
        conformance::run(&mut make, &key);
    }));
    ran.map(|()| made).map_err(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast::<&str>().map(|text| (*text).to_owned()).unwrap_or_default(),
    })
}

fn node_key(directory: &Path) -> Unlocker {
    let path: PathBuf = directory.join("key.pem");
    ckpt_db::keys::write_generated(&path, &ckpt_db::crypto::generate_p256_pkcs8().unwrap()).unwrap();
    load_node_key(&path).unwrap().secret.into()
}

#[test]
fn a_foreign_backend_conforms() {
    let made = conforms(Spoilt::Not);
    assert!(made.as_ref().is_ok_and(|made| *made > 20), "{made:?}");
}

#[test]
fn a_foreign_backend_that_is_wrong_does_not_conform() {
    for (spoilt, sentence) in [
        (Spoilt::ForgetsDeletions, "what only a deleted pod needed goes with it"),
        (Spoilt::StoresAPodWithoutWhatItNeeds, "pod and Secret are written together"),
        (Spoilt::SaysThatItIsOpen, "a new store has no data key"),
        (Spoilt::TakesNoKey, "pod and Secret are written together"),
    ] {
        let found = conforms(spoilt);
        assert!(found.as_ref().is_err_and(|text| text.contains(sentence)), "{spoilt:?}: {found:?}");
    }
}

/// Nobody who does not run the suite has it in a binary.
#[test]
fn the_suite_is_not_in_the_program() {
    let program = fs::read(env!("CARGO_BIN_EXE_ckpt-db")).unwrap();
    let texts = String::from_utf8_lossy(&program);
    let has = |text: &str| texts.contains(text);
    assert!(has("the feature gate Checkpointing is off"), "texts can't be found");
    assert!(!has("what only a deleted pod needed goes with it"));
}
