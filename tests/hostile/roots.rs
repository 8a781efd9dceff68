//! Hostile files: in the rendered roots, in the source, and under the names that options give.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::common::program::{CONFIGMAPS, MANIFESTS, Node, PREPARED, Ran, SECRETS, assert_same, clean, listing};
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

/// Files of a terabyte under the names of ours: the program, which may take 1 GiB, does not read them.
#[test]
fn a_file_without_end_is_not_read() {
    for place in [
        format!("{MANIFESTS}/shop_honest.json"),
        format!("{MANIFESTS}/kubelet.json"),
        format!("{PREPARED}/shop_gone.json"),
        format!("{SECRETS}/.manifests/shop_honest.json"),
        format!("{SECRETS}/shop/honest/honest/..data/token"),
        format!("{SECRETS}/shop/gone/.ckpt-db.remove-after"),
        format!("{CONFIGMAPS}/shop/gone/v/k"),
    ] {
        let (node, _) = node_with(Vec::new());
        fs::create_dir_all(node.at(&place).parent().unwrap()).unwrap();
        let _ = fs::remove_file(node.at(&place));
        fs::File::create(node.at(&place)).unwrap().set_len(1 << 40).unwrap();
        // The limit is set by the shell, which then becomes the program.
        let run = node.command("run", &["--once"]);
        let mut command = Command::new("sh");
        command.arg("-c").arg("ulimit -v 1048576; exec \"$@\"").arg("sh").arg(run.get_program()).args(run.get_args());
        let ran = Ran::of(clean(command));
        assert!(matches!(ran.code, Some(0 | 1)), "{place}: {:?} {}", ran.code, ran.stderr);
        assert_clean(&ran);
        let token = fs::metadata(node.at(SECRETS).join("shop/honest/honest/token"));
        assert!(token.is_ok_and(|token| token.len() == 6), "{place}: the honest pod lost its Secret");
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
        assert_clean(&Ran::of(command));
        let options: [(&str, &[&str]); 4] = [
            ("run", &["--once", "--manifests"]),
            ("plan", &["--store"]),
            ("plan", &["--node-key"]),
            ("verify", &["--store"]),
        ];
        for (subcommand, options) in options {
            let mut command = node.command(subcommand, options);
            command.arg(node.at("no").join(OsStr::from_bytes(&name)));
            assert_clean(&Ran::of(command));
        }
    }
}
