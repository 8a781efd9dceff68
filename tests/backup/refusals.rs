//! What is refused, with an exit code and a message that say so, and nothing changed by it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use ckpt_db::crypto::{SystemEntropy, sha256};
use ckpt_db::store::RedbStore;
use store_format::{FORMAT_VERSION, Frame, Identity, Table, digest_input, meta_key};

use crate::common;
use crate::common::program::{Node, Ran, STORE, clean, listing};
use crate::raw::{META, damage, raw, tamper};

/// A command that must do nothing: its exit code is 2, its message has these words, and every file is as it was.
#[track_caller]
fn refused(node: &Node, scratch: &Path, command: Command, words: &str) {
    let before = (listing(&node.root()), listing(scratch));
    let ran = Ran::of(command).expect(2);
    assert!(ran.stderr.contains(words), "{}: no {words:?} in\n{}", ran.what, ran.stderr);
    assert!((listing(&node.root()), listing(scratch)) == before, "{}: something was changed", ran.what);
}

fn backup(node: &Node, file: &Path, options: &[&str]) -> Command {
    let mut command = node.command("backup", options);
    command.arg(file);
    command
}

fn restore(node: &Node, file: &Path, options: &[&str]) -> Command {
    let mut command = node.command("restore", options);
    command.arg(file);
    command
}

#[test]
fn a_backup_replaces_nothing_unasked_and_no_store() {
    let node = Node::with_example();
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    fs::write(at("there"), "something").unwrap();
    fs::create_dir(at("directory")).unwrap();
    symlink(at("there"), at("link")).unwrap();
    symlink(node.at(STORE), at("store")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let refused = |file: &Path, options: &[&str], words| {
        super::refusals::refused(&node, scratch.path(), backup(&node, file, options), words)
    };
    for name in ["there", "directory", "link", "fifo"] {
        refused(&at(name), &[], "exists already; no backup was made");
    }
    refused(&at("directory"), &["--force"], "it is a directory");
    refused(&at("link"), &["--force"], "it is a symbolic link");
    refused(&at("fifo"), &["--force"], "it is a FIFO");
    refused(&at("nowhere/file"), &[], "No such file");
    for file in [&at("store"), &node.at(STORE)] {
        refused(file, &[], "is the store itself");
        refused(file, &["--force"], "is the store itself");
    }
    // A store that somebody else has open.
    let held = common::store_with(&at("held"), common::objects(1), &common::secret());
    let ran = Ran::of(backup(&node, &at("held"), &["--force"])).expect(2);
    assert!(ran.stderr.contains("is in use by another process"), "{}", ran.stderr);
    drop(held);
    Ran::of(backup(&node, &at("there"), &["--force"])).expect(0);
    assert_eq!(raw(&at("there")), raw(&node.at(STORE)));
}

#[test]
fn what_a_killed_backup_left_goes_with_the_next_one_in_its_directory() {
    let node = Node::with_example();
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    fs::write(at(".monday.db.ckpt-db-backup"), "half a backup").unwrap();
    fs::write(at("tuesday.ckpt-db-backup"), "another's").unwrap();
    let busy = fs::File::create(at(".busy.db.ckpt-db-backup")).unwrap();
    rustix::fs::flock(&busy, rustix::fs::FlockOperation::LockExclusive).unwrap();
    Ran::of(backup(&node, &at("wednesday.db"), &[])).expect(0);
    let names: Vec<_> =
        listing(scratch.path()).into_keys().map(|path| path.into_os_string().into_string().unwrap()).collect();
    assert_eq!(names, [".busy.db.ckpt-db-backup", "tuesday.ckpt-db-backup", "wednesday.db"]);
}

#[test]
fn a_store_with_findings_is_copied_only_when_asked_to() {
    let node = Node::with_example();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("backup.db");
    Ran::of(backup(&node, &file, &[])).expect(0);
    damage(&node.at(STORE), ("ConfigMap", "shop", "orders-assets"));
    for options in [&[][..], &["--force"]] {
        refused(
            &node,
            scratch.path(),
            backup(&node, if options.is_empty() { Path::new("/nowhere") } else { &file }, options),
            "is not sound (1 finding); no backup was made",
        );
    }
    let damaged = scratch.path().join("damaged.db");
    let ran = Ran::of(backup(&node, &damaged, &["--allow-damaged"])).expect(1);
    assert!(ran.stderr.contains("warning: record objects/"), "{}", ran.stderr);
    assert_eq!(raw(&damaged), raw(&node.at(STORE)));

    // And back again.
    refused(
        &node,
        scratch.path(),
        restore(&node, &damaged, &["--yes"]),
        "is not sound (1 finding); nothing was changed",
    );
    Ran::of(restore(&node, &damaged, &["--yes", "--allow-damaged"])).expect(1);
    node.ran("verify", &[]).expect(1);
    Ran::of(restore(&node, &file, &["--yes"])).expect(0);
    node.ran("verify", &[]).expect(0);
}

#[test]
fn what_is_no_backup_for_this_node_is_not_restored() {
    let node = Node::with_example();
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    Ran::of(backup(&node, &at("good"), &[])).expect(0);
    let good = fs::read(at("good")).unwrap();

    fs::write(at("empty"), "").unwrap();
    fs::write(at("text"), "x".repeat(100_000)).unwrap();
    fs::create_dir(at("directory")).unwrap();
    symlink(at("good"), at("link")).unwrap();
    fs::write(at("newer"), &good).unwrap();
    let payload = (FORMAT_VERSION + 1).to_le_bytes();
    let digest = sha256(&digest_input(Table::Meta, &[meta_key::FORMAT], &payload));
    let frame = Frame { digest, tag: None, payload: &payload }.encode();
    tamper(&at("newer"), |txn| drop(txn.open_table(META).unwrap().insert(meta_key::FORMAT, frame.as_slice()).unwrap()));
    fs::write(at("nobody's"), &good).unwrap();
    tamper(&at("nobody's"), |txn| drop(txn.open_table(META).unwrap().remove(meta_key::IDENTITY).unwrap()));
    let other_node = Identity { node_name: "edge-2".to_owned(), ..common::identity() };
    drop(common::store_of(other_node, &at("other"), common::objects(0), &common::secret()));

    let refused = |file: &str, options: &[&str], words: &str| {
        let options: Vec<_> = options.iter().chain(&["--yes"]).copied().collect();
        super::refusals::refused(&node, scratch.path(), restore(&node, &at(file), &options), words);
    };
    refused("absent", &[], "there is no ");
    refused("empty", &[], "it is empty (0 bytes)");
    refused("text", &[], "is damaged or no backup: its first bytes are not those of a store");
    refused("directory", &[], "it is a directory");
    refused("link", &[], "it is a symbolic link");
    refused("newer", &[], "has format version 4, this program knows up to 3");
    refused("newer", &["--allow-damaged"], "has format version 4, this program knows up to 3");
    refused("nobody's", &["--allow-damaged"], "can't be read, so no agent would use it");
    refused("other", &["--allow-damaged"], "is of node edge-2, but this is node ");
    refused("good", &["--store", at("good").to_str().unwrap()], "is the store itself");
    for length in (0..good.len()).step_by(good.len() / 40) {
        fs::write(at("truncated"), &good[..length]).unwrap();
        refused("truncated", &[], "nothing was changed");
    }
    super::refusals::refused(&node, scratch.path(), restore(&node, &at("good"), &[]), "--yes does it");
    let before = (listing(&node.root()), listing(scratch.path()));
    Ran::of(restore(&node, &at("good"), &["--dry-run"])).expect(0);
    assert!((listing(&node.root()), listing(scratch.path())) == before, "--dry-run changed something");

    let held = RedbStore::open(&node.at(STORE), &[], Box::new(SystemEntropy)).unwrap();
    let ran = Ran::of(restore(&node, &at("good"), &["--yes"])).expect(2);
    assert!(ran.stderr.contains("stop it first"), "{}", ran.stderr);
    drop(held);
    Ran::of(restore(&node, &at("other"), &["--yes", "--other-node"])).expect(0);
    assert_eq!(raw(&node.at(STORE)), raw(&at("other")));
}

/// Whatever lies in the place of the store is kept.
#[test]
fn a_store_that_nobody_can_read_is_replaced_and_kept() {
    let node = Node::with_example();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("backup.db");
    Ran::of(backup(&node, &file, &[])).expect(0);
    let directory = node.at(STORE).parent().unwrap().to_owned();
    for rubbish in ["", "rubbish"] {
        fs::write(node.at(STORE), rubbish).unwrap();
        let ran = Ran::of(restore(&node, &file, &["--yes"])).expect(0);
        assert!(ran.stderr.contains("warning: the present store can't be read"), "{}", ran.stderr);
        assert_eq!(raw(&node.at(STORE)), raw(&file));
        let kept: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(
            kept.iter().any(|path| path.to_string_lossy().contains(".replaced-")
                && fs::read_to_string(path).is_ok_and(|found| found == rubbish)),
            "{kept:?}"
        );
    }
    fs::remove_file(node.at(STORE)).unwrap();
    fs::create_dir(node.at(STORE)).unwrap();
    refused(&node, scratch.path(), restore(&node, &file, &["--yes"]), "it is a directory");
}

#[test]
fn a_backup_goes_through_a_pipe_whole_or_with_an_error() {
    let node = Node::with_example();
    let scratch = tempfile::tempdir().unwrap();
    let piped = scratch.path().join("piped.db");
    let mut command = backup(&node, Path::new("-"), &[]);
    command.stdout(fs::File::create(&piped).unwrap()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
    assert_eq!(raw(&piped), raw(&node.at(STORE)));

    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = backup(&node, Path::new("-"), &[]);
    command.stdout(writer).stderr(Stdio::null());
    drop(reader);
    assert_eq!(command.status().unwrap().code(), Some(2), "nobody reads");
}

/// The limit of a process on file sizes stands in for a full disk: any user can set it.
#[test]
fn no_room_for_a_copy_leaves_everything_as_it_was() {
    let node = Node::with_example();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("backup.db");
    Ran::of(backup(&node, &file, &[])).expect(0);
    let octets = fs::metadata(&file).unwrap().len();
    for blocks in [0, 1, octets / 1024 / 2, octets / 1024 - 8] {
        let limited = |command: Command| {
            let mut shell = clean(Command::new("sh"));
            // In blocks of 512 octets, by POSIX.
            shell.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", blocks * 2));
            shell.arg(command.get_program()).args(command.get_args());
            shell
        };
        let new = scratch.path().join("new.db");
        refused(&node, scratch.path(), limited(backup(&node, &new, &[])), "File too large");
        refused(&node, scratch.path(), limited(backup(&node, &file, &["--force"])), "File too large");
        refused(&node, scratch.path(), limited(restore(&node, &file, &["--yes"])), "File too large");
    }
}
