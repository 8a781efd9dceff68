//! Reads manifests from a file, a directory or a stream: one bad document is reported, the others load.
//!
//! This is the source for trying things out and for pre-seeding an air-gapped node from `kubectl get -o yaml`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::admit::{Refused, admit, called};
use super::document::{Position, documents};
use super::tree::{Root, Tree, roots};
use crate::checkpoint::object::{Kind, Object, ObjectKey, Shown};
use crate::regular_file::{self, ReadError};

/// One manifest file may be this large at most.
pub const FILE_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Where manifests come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// `-`: the standard input.
    Stdin,
    /// A regular file, or a directory: its `*.yaml`, `*.yml` and `*.json` files in the order of their names, those of
    /// sub-directories and names that start with a dot left out. Links are followed, so a mounted ConfigMap works.
    Path(PathBuf),
}

impl Input {
    /// The input that an option's value names.
    #[must_use]
    pub fn from_option(value: &Path) -> Self {
        if value == Path::new("-") { Self::Stdin } else { Self::Path(value.to_owned()) }
    }
}

/// What was read.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The objects, in the order in which they were found; no key twice.
    pub objects: Vec<Object>,
    /// What was not taken, in the same order.
    pub problems: Vec<Problem>,
    /// How many documents that are not empty were seen, bad ones included; a `List` is one.
    pub documents: usize,
}

/// Something that was not taken, and why. Carries no value of the manifest, only names of fields, objects and keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, fit to be shown; `stdin` for the standard input.
    pub file: String,
    /// Line of the error or else of the start of the document, from 1; 0 if the whole file is meant.
    pub line: u64,
    /// Column in characters, from 1; 0 if the whole file is meant.
    pub column: u64,
    /// What the object calls itself, e.g. `Secret default/x`, fit to be shown; an element of a list without a name is
    /// `items[3]`.
    pub object: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What that means for the object.
    pub severity: Severity,
}

/// What a [`Problem`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It is bad, and was left out; `--strict` makes it fatal.
    Skipped,
    /// It is fine, but of a kind that is not stored.
    Ignored,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Skipped => "skipped",
            Self::Ignored => "ignored",
        })
    }
}

/// `node.yaml:12:3: Secret default/x: data key "k" is not valid base64; skipped`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        write!(f, ": {}; {}", self.message, self.severity)
    }
}

/// Why nothing could be read at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file, or the standard input.
    #[error("cannot read manifests from {name}")]
    File {
        /// The file, fit to be shown.
        name: String,
        /// Why; a pipe has to come by the standard input (`-`).
        #[source]
        source: ReadError,
    },
    /// The directory.
    #[error("cannot list the manifests in {name}")]
    Directory {
        /// The directory, fit to be shown.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No document at all: more likely a command that failed or a directory that is not mounted than a node without
    /// objects. Taken for a complete listing, it would ask to remove everything that the store has.
    #[error("there is no manifest in {name}")]
    Empty {
        /// The file or directory, fit to be shown, or the standard input.
        name: String,
    },
}

/// Reads all manifests of `input`. In a directory, a file that can't be read is a [`Problem`].
///
/// # Errors
/// [`SourceError`] if the input as a whole can't be read, or holds nothing.
pub fn read(input: &Input, stdin: &mut dyn Read) -> Result<Loaded, SourceError> {
    let mut collected = Collected::default();
    match input {
        Input::Stdin => {
            let name = "stdin".to_owned();
            match regular_file::read_all(stdin, FILE_MAX_BYTES, 0) {
                Ok(text) => collected.add_file(&name, text.expose()),
                Err(source) => return Err(SourceError::File { name, source }),
            }
        }
        Input::Path(path) if path.is_dir() => {
            let failed = |source| SourceError::Directory { name: shown(path), source };
            let mut names = Vec::new();
            for entry in path.read_dir().map_err(failed)? {
                names.push(entry.map_err(failed)?.file_name());
            }
            names.retain(|name| {
                let path = Path::new(name);
                let suffix = path.extension().and_then(|suffix| suffix.to_str());
                matches!(suffix, Some("yaml" | "yml" | "json")) && !name.as_encoded_bytes().starts_with(b".")
            });
            names.sort();
            for file in names.iter().map(|name| path.join(name)) {
                match regular_file::read(&file, FILE_MAX_BYTES) {
                    Ok(text) => collected.add_file(&shown(&file), text.contents.expose()),
                    Err(error) => collected.add_unreadable(&shown(&file), &error),
                }
            }
        }
        Input::Path(path) => match regular_file::read(path, FILE_MAX_BYTES) {
            Ok(text) => collected.add_file(&shown(path), text.contents.expose()),
            Err(source) => return Err(SourceError::File { name: shown(path), source }),
        },
    }
    let loaded = collected.loaded;
    if loaded.documents == 0 && loaded.problems.is_empty() {
        let name = match input {
            Input::Stdin => "stdin".to_owned(),
            Input::Path(path) => shown(path),
        };
        return Err(SourceError::Empty { name });
    }
    Ok(loaded)
}

/// The objects of one file's text, and what in it was not taken. Pure, and total on any bytes.
#[must_use]
pub fn parse(file: &str, text: &[u8]) -> (Vec<Object>, Vec<Problem>) {
    let mut collected = Collected::default();
    collected.add_file(file, text);
    (collected.loaded.objects, collected.loaded.problems)
}

/// The name of the only Node among `objects`; `None` if there is none, or more than one.
#[must_use]
pub fn node_name_of(objects: &[Object]) -> Option<String> {
    let mut nodes = objects.iter().filter(|object| object.key.kind() == Kind::Node);
    let node = nodes.next()?;
    nodes.next().is_none().then(|| node.key.name().to_owned())
}

/// The node that a Pod is bound to (`spec.nodeName`); `None` if to none, or if `pod` is no Pod.
#[must_use]
pub fn bound_to(pod: &Object) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        spec: Spec,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        node_name: Option<String>,
    }
    if pod.key.kind() != Kind::Pod {
        return None;
    }
    let body: Body = serde_json::from_slice(pod.body.expose()).ok()?;
    body.spec.node_name.filter(|name| !name.is_empty())
}

/// A path for a message: as it is, unless it has characters that a terminal would act upon.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    if text.chars().any(char::is_control) { format!("{text:?}") } else { text }
}

/// Whether two objects are the same; the order of members does not count.
fn same(one: &Object, other: &Object) -> bool {
    let tree = |object: &Object| serde_json::from_slice::<Tree>(object.body.expose()).ok();
    one.body == other.body || matches!((tree(one), tree(other)), (Some(one), Some(other)) if one.0 == other.0)
}

#[derive(Default)]
struct Collected {
    loaded: Loaded,
    /// Where in `loaded.objects` a key stands.
    places: HashMap<ObjectKey, usize>,
}

impl Collected {
    fn add_unreadable(&mut self, file: &str, error: &ReadError) {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        self.loaded.problems.push(Problem {
            file: file.to_owned(),
            line: 0,
            column: 0,
            object: None,
            message: format!("{error}{cause}"),
            severity: Severity::Skipped,
        });
    }

    fn add_file(&mut self, file: &str, text: &[u8]) {
        for document in documents(text) {
            let (roots, malformed) = roots(document);
            for root in roots.into_iter().filter(|root| !root.tree.0.is_null()) {
                self.loaded.documents += 1;
                self.add_root(file, root);
            }
            if let Some(malformed) = malformed {
                self.loaded.documents += 1;
                let refused = Refused { object: None, message: malformed.what, severity: Severity::Skipped };
                self.add_problem(file, malformed.at, refused);
            }
        }
    }

    fn add_root(&mut self, file: &str, mut root: Root<'_>) {
        let mut found = Vec::new();
        expand(Tree(root.tree.take()), None, &mut found);
        let mut positions = None;
        for Found { item, tree } in found {
            if let Err(mut refused) = tree.and_then(|tree| self.add_object(tree)) {
                let at = item.and_then(|item| {
                    refused.object.get_or_insert_with(|| format!("items[{item}]"));
                    positions.get_or_insert_with(|| root.item_positions()).get(item).copied()
                });
                self.add_problem(file, at.unwrap_or(root.start), refused);
            }
        }
    }

    fn add_object(&mut self, tree: Tree) -> Result<(), Refused> {
        let object = admit(tree)?;
        match self.places.entry(object.key.clone()) {
            Entry::Vacant(place) => {
                place.insert(self.loaded.objects.len());
                self.loaded.objects.push(object);
                Ok(())
            }
            Entry::Occupied(place) if same(&self.loaded.objects[*place.get()], &object) => Ok(()),
            Entry::Occupied(_) => Err(Refused {
                object: Some(object.key.to_string()),
                message: "it was given before with other contents, which stay".to_owned(),
                severity: Severity::Skipped,
            }),
        }
    }

    fn add_problem(&mut self, file: &str, at: Position, refused: Refused) {
        let Refused { object, message, severity } = refused;
        let Position { line, column } = at;
        self.loaded.problems.push(Problem { file: file.to_owned(), line, column, object, message, severity });
    }
}

/// One manifest of a document, or what is wrong with the list that should hold some.
struct Found {
    /// Index in the `items` of the document's list.
    item: Option<usize>,
    tree: Result<Tree, Refused>,
}

/// Takes lists apart: `v1 List`, and typed ones (`PodList`), whose items need no apiVersion and kind of their own.
fn expand(mut tree: Tree, item: Option<usize>, found: &mut Vec<Found>) {
    let Some(typed) = list(&tree.0) else {
        return found.push(Found { item, tree: Ok(tree) });
    };
    let Value::Object(fields) = &mut tree.0 else { return };
    let called = called(fields);
    let refused =
        |severity, message: &str| Err(Refused { object: called.clone(), message: message.to_owned(), severity });
    if let Typed::NotStored(message) = &typed {
        return found.push(Found { item, tree: refused(Severity::Ignored, message) });
    }
    let more = fields.get("metadata").and_then(|metadata| metadata.get("continue")).and_then(Value::as_str);
    let more = more.is_some_and(|token| !token.is_empty());
    match fields.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => {
            for (index, value) in items.into_iter().enumerate() {
                let mut element = Tree(value);
                if let (Typed::Of(kind), Value::Object(fields)) = (&typed, &mut element.0) {
                    // In front, as the server writes them.
                    for (field, value) in [("kind", kind.row().name), ("apiVersion", kind.row().api_version)] {
                        if !fields.contains_key(field) {
                            fields.shift_insert(0, field.to_owned(), value.into());
                        }
                    }
                }
                expand(element, item.or(Some(index)), found);
            }
        }
        Some(Value::Null) => {}
        Some(other) => {
            drop(Tree(other));
            found.push(Found { item, tree: refused(Severity::Skipped, "items is not a list") });
        }
        None => found.push(Found { item, tree: refused(Severity::Skipped, "items is missing") }),
    }
    if more {
        let message = "it is one page of a longer list (metadata.continue is set): objects are missing";
        found.push(Found { item, tree: refused(Severity::Skipped, message) });
    }
}

enum Typed {
    /// `List`: each item says what it is.
    Mixed,
    /// `PodList` and its like.
    Of(Kind),
    /// A list of something else.
    NotStored(String),
}

fn list(value: &Value) -> Option<Typed> {
    let name = value.get("kind")?.as_str()?;
    let of = name.strip_suffix("List")?;
    let api_version = value.get("apiVersion").and_then(Value::as_str).unwrap_or("v1");
    Some(match Kind::from_name(of) {
        _ if api_version == "v1" && of.is_empty() => Typed::Mixed,
        Some(kind) if kind.row().api_version == api_version => Typed::Of(kind),
        Some(_) | None => {
            Typed::NotStored(format!("kind {} of {} is not stored", Shown::new(name), Shown::new(api_version)))
        }
    })
}
