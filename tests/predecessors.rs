//! `docs/predecessors.md`: each row says what is theirs, what is ours and why, and names tests that are there.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const COLUMNS: &str = "| feature or rule | theirs | ours | test |";

#[test]
fn every_row_names_tests_that_are_there() {
    let text = fs::read_to_string("docs/predecessors.md").unwrap();
    let tests = tests();
    assert!(tests.len() > 500, "the sources were not found");
    let mut wrong = Vec::new();
    for (section, text) in sections(&text) {
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---")).collect();
        let (heads, rows): (Vec<&str>, Vec<&str>) = rows.into_iter().partition(|row| *row == COLUMNS);
        assert!(!heads.is_empty() && rows.len() >= 10, "{section} has no table");
        for row in rows {
            wrong.extend(problems(row, &tests).into_iter().map(|problem| format!("{section}: {problem} in {row}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong with a row is seen.
#[test]
fn rows_that_are_none_are_named() {
    let tests = BTreeSet::from(["a_test".to_owned()]);
    #[rustfmt::skip]
    let rows = [
        ("| r | t | same | `a_test` |",               0),
        ("| r | t | better: much | `a_test`, `a_test` |", 0),
        ("| r | t | other | `a_test` |",              1),
        ("| r |  | same | `a_test` |",                1),
        ("| r | t | same |",                          1),
        ("| r | t | same | none |",                   1),
        ("| r | t | same | `a_test`, `b_test` |",     1),
    ];
    for (row, want) in rows {
        assert_eq!(problems(row, &tests).len(), want, "{row}");
    }
}

fn problems(row: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
    let [rule, theirs, ours, named] = cells[..] else { return vec![format!("{} columns", cells.len())] };
    let mut wrong = Vec::new();
    if [rule, theirs, ours].contains(&"") {
        wrong.push("an empty column".to_owned());
    }
    if !["same", "better", "different"].iter().any(|word| ours.starts_with(word)) {
        wrong.push("neither same nor better nor different".to_owned());
    }
    let names: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
    if names.is_empty() {
        wrong.push("no test".to_owned());
    }
    wrong.extend(names.into_iter().filter(|name| !tests.contains(*name)).map(|name| format!("no test {name}")));
    wrong
}

/// The three parts, by their letters.
fn sections(text: &str) -> Vec<(&str, &str)> {
    let parts: Vec<(&str, &str)> = text.split("\n## ").skip(1).filter_map(|part| part.split_once('\n')).collect();
    let letters: Vec<&str> = parts.iter().map(|(head, _)| &head[..2]).collect();
    assert_eq!(letters, ["A.", "B.", "C."]);
    parts
}

/// The name of each test function of this repository.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for directory in ["src", "tests", "store-format"] {
        walk(Path::new(directory), &mut found);
    }
    found
}

fn walk(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim_start) {
                let function = line.trim_start_matches("pub(crate) ").trim_start_matches("async ").strip_prefix("fn ");
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    is_test = true;
                } else if let Some(function) = function {
                    let name = function.split('(').next().unwrap_or_default();
                    found.extend(is_test.then(|| name.to_owned()));
                    is_test = false;
                }
            }
        }
    }
}
