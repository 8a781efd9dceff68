//! What differs on a terminal: progress that goes away again, and colour unless `NO_COLOR` says otherwise.

#![allow(clippy::print_stderr, reason = "what is skipped is said")]

use std::process::Command;

use crate::common::program::{KEY, Node, clean};

const EXE: &str = env!("CARGO_BIN_EXE_ckpt-db");

/// Runs the program on a terminal of its own, made by script(1); what came out of it.
fn on_terminal(arguments: &str, environment: &[(&str, &str)]) -> Option<String> {
    let mut command = clean(Command::new("script"));
    command.args(["--quiet", "--return", "--command", &format!("{EXE} {arguments}"), "/dev/null"]);
    command.env("TERM", "xterm").env_remove("NO_COLOR").envs(environment.iter().copied());
    match command.output() {
        Ok(output) => Some(String::from_utf8(output.stdout).unwrap()),
        Err(error) => {
            eprintln!("SKIPPED: what is shown on a terminal: script(1) can't be run ({error})");
            None
        }
    }
}

#[test]
fn progress_is_for_terminals() {
    let node = Node::new();
    node.copy_example();
    node.run_source().expect(0);
    let (root, key) = (node.root(), node.at(KEY));
    let (root, key) = (root.to_str().unwrap(), key.to_str().unwrap());
    let backup = node.source().join("backup.db");
    for (command, first) in [
        ("verify".to_owned(), "reading the store ..."),
        (format!("backup {}", backup.display()), "reading the store ..."),
        ("key rotate".to_owned(), "records: "),
    ] {
        let arguments = format!("{command} --root {root} --node-key {key}");
        let Some(shown) = on_terminal(&arguments, &[]) else { return };
        let (progress, rest) = shown.rsplit_once("\r\u{1b}[K").unwrap_or_else(|| panic!("no progress in {shown:?}"));
        assert!(progress.contains(first), "{command}: {shown:?}");
        assert!(!rest.is_empty() && !rest.contains('\u{1b}'), "{command}: what stays is the answer: {shown:?}");
        let dumb = on_terminal(&arguments.replace("backup ", "backup --force "), &[("TERM", "dumb")]).unwrap();
        assert!(!dumb.contains('\u{1b}') && !dumb.contains("reading"), "{command}: {dumb:?}");
    }
    // No terminal.
    let plain = node.ran("verify", &[]).expect(0);
    assert!(!plain.stderr.contains("reading") && !plain.stderr.contains('\u{1b}'), "{}", plain.stderr);
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let node = Node::new();
    let arguments = format!("verify --root {}", node.root().display());
    let Some(coloured) = on_terminal(&arguments, &[]) else { return };
    assert!(coloured.contains("\u{1b}[1;31merror:\u{1b}[0m"), "{coloured:?}");
    for environment in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = on_terminal(&arguments, &[environment]).unwrap();
        assert!(plain.contains("error: ") && !plain.contains("\u{1b}[1;31m"), "{environment:?}: {plain:?}");
    }
    let plain = node.ran("verify", &[]).expect(2);
    assert!(plain.stderr.starts_with("error: ") && !plain.stderr.contains('\u{1b}'), "{:?}", plain.stderr);
}
