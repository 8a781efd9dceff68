//! Links lead somewhere, and every page of `docs/` is found from its index.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::markdown::{anchors, links, pages, split};

const INDEX: &str = "docs/README.md";

/// `docs/a/../b.md` without the detour.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => assert!(plain.pop(), "{} leaves the repository", path.display()),
            Component::Normal(name) => plain.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    plain
}

/// Each relative link with the page and line it stands on, the path and the anchor it names.
fn relative() -> Vec<(String, PathBuf, Option<String>)> {
    let mut found = Vec::new();
    for (page, text) in pages() {
        for (number, line) in split(&text).1 {
            for target in links(line) {
                if target.contains("://") {
                    assert!(target.starts_with("https://"), "{page}:{number}: {target}");
                    continue;
                }
                let (path, anchor) = target.split_once('#').map_or((target.as_str(), None), |(p, a)| (p, Some(a)));
                let path = match path {
                    "" => PathBuf::from(&page),
                    path => plain(&Path::new(&page).parent().unwrap().join(path)),
                };
                found.push((format!("{page}:{number}"), path, anchor.map(str::to_owned)));
            }
        }
    }
    found
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut wrong = Vec::new();
    let relative = relative();
    assert!(relative.len() > 40, "the links were not found");
    for (at, path, anchor) in relative {
        if !path.exists() {
            wrong.push(format!("{at}: there is no {}", path.display()));
        } else if let Some(anchor) = anchor {
            let page = pages.iter().find(|(page, _)| Path::new(page) == path);
            if !page.is_some_and(|(_, text)| anchors(text).contains(&anchor)) {
                wrong.push(format!("{at}: there is no heading #{anchor} in {}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_page_is_in_the_index() {
    let named: BTreeSet<PathBuf> = relative()
        .into_iter()
        .filter(|(at, _, _)| at.starts_with(&format!("{INDEX}:")))
        .map(|(_, path, _)| path)
        .collect();
    let missing: Vec<String> = pages()
        .into_iter()
        .map(|(page, _)| page)
        .filter(|page| page.starts_with("docs/") && page != INDEX && !named.contains(Path::new(page)))
        .collect();
    assert!(missing.is_empty(), "{INDEX} does not name {missing:?}");
}

#[test]
fn anchors_are_as_github_makes_them() {
    let text = "# A `b` (c), d: [e](f.md)\n\n## Exit codes\n```sh\n# no heading\n```\n## Exit codes\n#none\n";
    assert_eq!(anchors(text), ["a-b-c-d-e", "exit-codes", "exit-codes-1"]);
}
