//! Hostile files: in the rendered roots, in the source, and under the names that options give.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;

use crate::common::program::{CONFIGMAPS, MANIFESTS, Node, PREPARED, SECRETS, assert_same, listing};
use crate::common::terminal::NASTY;
use crate::scene::{assert_clean, assert_in_place, node_with};

/// Names that a directory may hold, and that are hard on whoever lists it.
fn names() -> Vec<Vec<u8>> {
    // A file name has no NUL and no slash.
    vec![
        NASTY.as_bytes().to_vec(),
        b"\xff\xfe.json".to_vec(),
        b"shop_\x1b[2J.json".to_vec(),
        b" ".to_vec(),
        b"-rf".to_vec(),
    ]
}

#[test]
fn files_of_others_are_left_alone_and_shown_harmlessly() {
    let (node, _) = node_with(Vec::new());
    for root in [MANIFESTS, PREPARED, SECRETS, CONFIGMAPS] {
        for name in names() {
            let name = OsStr::from_bytes(&name);
            fs::write(node.at(root).join(name), "foreign").unwrap();
            if [SECRETS, CONFIGMAPS].contains(&root) {
                fs::create_dir_all(node.at(root).join("shop/gone")).unwrap();
                fs::write(node.at(root).join("shop/gone").join(name), "foreign").unwrap();
            }
        }
    }
    let before = listing(&node.at("etc"));
    for (command, args) in [("run", vec!["--once"]), ("plan", vec![]), ("run", vec!["--once"])] {
        assert_clean(&node.ran(command, &args));
    }
    assert_same(&listing(&node.at("etc")), &before, "what others put there is as it was");
    let ran = node.ran("uninstall", &[]);
    assert_clean(&ran);
    for root in [MANIFESTS, PREPARED, SECRETS, CONFIGMAPS] {
        for name in names() {
            assert!(node.at(root).join(OsStr::from_bytes(&name)).exists(), "{root}: {name:?}: {}", ran.stderr);
        }
    }
}

#[test]
fn a_link_in_a_root_is_not_followed() {
    for (place, inside) in [
        (format!("{SECRETS}/shop"), "honest/honest/token"),
        (format!("{SECRETS}/shop/honest"), "honest/token"),
        (format!("{SECRETS}/shop/honest/honest"), "token"),
    ] {
        let (node, _) = node_with(Vec::new());
        node.remove_rendered();
        let elsewhere = node.source().with_file_name("elsewhere");
        fs::create_dir_all(elsewhere.join(inside).parent().unwrap()).unwrap();
        fs::write(elsewhere.join(inside), "untouched").unwrap();
        fs::create_dir_all(node.at(&place).parent().unwrap()).unwrap();
        symlink(&elsewhere, node.at(&place)).unwrap();
        let before = listing(&elsewhere);
        let ran = node.run_store().expect(1);
        assert!(
            ran.stdout.contains("is a symbolic link") || ran.stderr.contains("link"),
            "{}{}",
            ran.stdout,
            ran.stderr
        );
        assert_same(&listing(&elsewhere), &before, "nothing was written through the link");
        assert!(!node.at(MANIFESTS).join("shop_honest.json").exists(), "no manifest without its tree");
        // Out of the way, it is served again.
        fs::remove_file(node.at(&place)).unwrap();
        node.run_store().expect(0);
        assert_in_place(&node);
    }
}

#[test]
fn names_of_files_in_messages_leave_the_terminal_alone() {
    let node = Node::new();
    for (number, name) in names().iter().enumerate() {
        let source = node.source().join(number.to_string());
        fs::create_dir_all(&source).unwrap();
        let mut name = name.clone();
        name.extend(b".yaml");
        fs::write(source.join(OsStr::from_bytes(&name)), "kind: {").unwrap();
        let mut command =
            node.command("run", &["--once", "--generate-node-key", "--node-name", "edge-1", "--manifests"]);
        command.arg(&source);
        // Text of others may be no UTF-8; what is said of it is.
        assert_clean(&crate::common::program::Ran::of(command));
        let options: [(&str, &[&str]); 4] = [
            ("run", &["--once", "--manifests"]),
            ("plan", &["--store"]),
            ("plan", &["--node-key"]),
            ("verify", &["--store"]),
        ];
        for (subcommand, options) in options {
            let mut command = node.command(subcommand, options);
            command.arg(node.at("no").join(OsStr::from_bytes(&name)));
            assert_clean(&crate::common::program::Ran::of(command));
        }
    }
}
