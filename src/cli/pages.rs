//! What is made from the definition of the command line, compared: man pages in `dist/man`, and the page of exit codes.
//!
//! `SNAPSHOTS=overwrite cargo test --bin ckpt-db pages` writes the man pages anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory as _};

use super::{Cli, EXIT_CODES};

/// Every command that people see, with its whole name.
fn commands() -> Vec<(String, Command)> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut found = Vec::new();
    let mut todo = vec![("ckpt-db".to_owned(), root)];
    while let Some((name, command)) = todo.pop() {
        let below = command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
        todo.extend(below.map(|below| (format!("{name} {}", below.get_name()), below.clone())));
        found.push((name, command));
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found
}

#[test]
fn man_pages_are_those_of_this_program() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/man");
    let mut pages = BTreeMap::new();
    for (name, command) in commands() {
        let file = format!("{}.1", name.replace(' ', "-"));
        let title = name.replace(' ', "-").to_uppercase();
        let man = clap_mangen::Man::new(command).title(title).manual("ckpt-db").source("ckpt-db").date("");
        let mut page = Vec::new();
        man.render(&mut page).unwrap();
        pages.insert(file, String::from_utf8(page).unwrap());
    }
    if std::env::var_os("SNAPSHOTS").is_some_and(|action| action == "overwrite") {
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        pages.iter().for_each(|(file, page)| fs::write(directory.join(file), page).unwrap());
    }
    let there = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let stale: Vec<String> = there.filter(|file| !pages.contains_key(file)).collect();
    assert!(stale.is_empty(), "dist/man has pages of no command: {stale:?}");
    for (file, page) in pages {
        let found = fs::read_to_string(directory.join(&file)).unwrap_or_default();
        assert!(found == page, "dist/man/{file} is stale: SNAPSHOTS=overwrite cargo test --bin ckpt-db pages");
    }
}

/// The page has the general table as `--help` has it, and a row for each command.
#[test]
fn exit_codes_are_documented() {
    let text = include_str!("../../docs/reference/exit-codes.md");
    for line in EXIT_CODES.lines().skip(1) {
        let (code, meaning) = line.trim().split_once(' ').unwrap();
        let row = format!("| {code} | {} |", meaning.trim());
        assert!(text.contains(&row), "there is no row {row}");
    }
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let leaves = commands()
        .into_iter()
        .filter(|(name, _)| !["ckpt-db", "ckpt-db config", "ckpt-db key"].contains(&name.as_str()));
    let names: Vec<String> = leaves.map(|(name, _)| name["ckpt-db ".len()..].to_owned()).collect();
    for name in &names {
        assert!(rows.iter().any(|row| row.starts_with(&format!("| `{name}` |"))), "there is no row for {name}");
    }
    assert_eq!(rows.len(), names.len(), "there are rows for what is no command");
}

/// Each command shows how it is used.
#[test]
fn every_command_has_examples() {
    for (name, command) in commands().into_iter().filter(|(_, command)| !command.has_subcommands()) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let example = help.lines().any(|line| line.trim_start().starts_with("ckpt-db "));
        assert!(help.contains("Examples:") && example, "{name} --help shows no example");
    }
}

/// What a shell is given names every command.
#[test]
fn completions_know_every_command() {
    use clap_complete::aot::{Shell, generate};
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell] {
        let mut script = Vec::new();
        generate(shell, &mut Cli::command(), "ckpt-db", &mut script);
        let script = String::from_utf8(script).unwrap();
        for (name, _) in commands() {
            let last = name.rsplit(' ').next().unwrap();
            assert!(script.contains(last), "{shell}: {name}");
        }
        assert!(script.contains("logging-format"), "{shell}");
    }
}
