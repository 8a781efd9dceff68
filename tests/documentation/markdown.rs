//! What is read of Markdown: headings, links, code spans, fenced blocks and the comments before them.

use std::fs;
use std::path::{Path, PathBuf};

/// A fenced block.
#[derive(Debug)]
pub(crate) struct Block {
    /// The line of the opening fence, from 1.
    pub(crate) line: usize,
    pub(crate) language: String,
    pub(crate) text: String,
    pub(crate) markers: Vec<Marker>,
}

/// A comment (`<!-- kind: text -->`) right before a block: what is to be done with it in tests.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    /// It can't be run, for this reason.
    NotRun(String),
    /// What has to be done before it, which the reader need not know.
    Given(String),
    /// What has to hold after it.
    Then(String),
    /// This command (or what begins so) ends with this exit code here, although it would be another where the reader is.
    Exits(i32, String),
    /// None of these.
    Unknown(String),
}

impl Block {
    pub(crate) fn not_run(&self) -> Option<&str> {
        self.markers.iter().find_map(|marker| match marker {
            Marker::NotRun(reason) => Some(reason.as_str()),
            Marker::Given(_) | Marker::Then(_) | Marker::Exits(..) | Marker::Unknown(_) => None,
        })
    }
}

/// The fenced blocks of a page, and its other lines with their numbers.
pub(crate) fn split(text: &str) -> (Vec<Block>, Vec<(usize, &str)>) {
    let (mut blocks, mut prose): (Vec<Block>, Vec<(usize, &str)>) = (Vec::new(), Vec::new());
    let mut markers = Vec::new();
    let mut open: Option<(Block, usize)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let trimmed = line.trim_start();
        let indentation = line.len() - trimmed.len();
        match (&mut open, trimmed.strip_prefix("```")) {
            (Some(_), Some(_)) => blocks.extend(open.take().map(|(block, _)| block)),
            (Some((block, margin)), None) => {
                block.text.push_str(&line[indentation.min(*margin)..]);
                block.text.push('\n');
            }
            (None, Some(language)) => {
                let language = language.trim().to_owned();
                let markers = std::mem::take(&mut markers);
                open = Some((Block { line: number, language, text: String::new(), markers }, indentation));
            }
            (None, None) => {
                match trimmed.trim_end().strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->")) {
                    Some(comment) => markers.push(marker(comment.trim())),
                    None if trimmed.is_empty() => {}
                    None => markers.clear(),
                }
                prose.push((number, line));
            }
        }
    }
    assert!(open.is_none(), "a block is not closed");
    (blocks, prose)
}

fn marker(comment: &str) -> Marker {
    let (kind, text) = comment.split_once(": ").unwrap_or((comment, ""));
    let text = text.trim().to_owned();
    if let Some(code) = kind.strip_prefix("here exit code ").and_then(|code| code.parse().ok()) {
        return Marker::Exits(code, text);
    }
    match kind {
        "not run" => Marker::NotRun(text),
        "given" => Marker::Given(text),
        "then" => Marker::Then(text),
        _ => Marker::Unknown(comment.to_owned()),
    }
}

/// The code spans of a line.
pub(crate) fn spans(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// The targets of a line's links.
pub(crate) fn links(line: &str) -> Vec<String> {
    let bare: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
    let ends = bare.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    ends.map(|(target, _)| target.to_owned()).collect()
}

/// The anchors of a page's headings, as GitHub makes them.
pub(crate) fn anchors(text: &str) -> Vec<String> {
    let (_, prose) = split(text);
    let mut found: Vec<String> = Vec::new();
    for (_, line) in prose {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        // Of a link its text counts.
        let title: String = title.trim().split('[').flat_map(|part| part.split("](").take(1)).collect();
        let slug: String = title
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let again = found.iter().filter(|other| **other == slug).count();
        found.push(if again == 0 { slug } else { format!("{slug}-{again}") });
    }
    found
}

/// Every page of this repository, by its path from the root.
pub(crate) fn pages() -> Vec<(String, String)> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(".").unwrap() {
        let path = entry.unwrap().path();
        paths.extend((path.extension().is_some_and(|extension| extension == "md")).then_some(path));
    }
    for directory in ["benches", "dist", "docs", "examples", "fuzz", "store-format", "tests"] {
        walk(Path::new(directory), &mut paths);
    }
    let name = |path: &Path| path.strip_prefix(".").unwrap_or(path).to_str().unwrap().to_owned();
    let mut pages: Vec<_> = paths.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect();
    pages.sort();
    assert!(pages.len() > 10, "the pages were not found");
    pages
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}
