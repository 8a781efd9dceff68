//! What a configuration file comes to: values for options, or everything that is wrong with it, each with its line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};

use ckpt_db::feature_gates::{FeatureGates, nearest};
use ckpt_db::ops::endpoints::{Address, AddressError};
use ckpt_db::regular_file::{self, ReadError};

use super::document::{self, At, Node};
use super::fields::{FIELDS, Field, Shape};

/// What this program reads.
pub(crate) const API_VERSION: &str = "ckpt-db.io/v1alpha1";
pub(crate) const KIND: &str = "CheckpointerConfiguration";

/// No configuration is larger.
pub(super) const FILE_MAX_BYTES: usize = 1024 * 1024;

/// What a file sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The values for each option, by its name.
    options: BTreeMap<&'static str, Vec<OsString>>,
    /// `featureGates`.
    gates: Vec<(String, bool)>,
    /// The line of each option that is set.
    lines: BTreeMap<&'static str, u64>,
    /// The file, as it was read; `None` without one.
    text: Option<String>,
}

/// Why the settings of a file can't be used. None of them is in force then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// It can't be read.
    #[error("cannot read the configuration {path}: {error}{}", .error.cause())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: ReadError,
    },
    /// Its contents are wrong.
    #[error("{}", first(.path, .problems))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// All that is, by line; at least one.
        problems: Vec<Problem>,
    },
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    /// Where; 0 stands for the whole file.
    line: u64,
    what: String,
}

impl ConfigError {
    /// A line for each thing that is wrong.
    pub(crate) fn lines(&self) -> Vec<String> {
        match self {
            Self::Unreadable { .. } => vec![self.to_string()],
            Self::Wrong { path, problems } => problems.iter().map(|problem| problem.at(path)).collect(),
        }
    }
}

impl Problem {
    /// `/etc/ckpt-db/config.yaml:7: what is wrong`
    pub(super) fn at(&self, path: &Path) -> String {
        match self.line {
            0 => format!("{}: {}", path.display(), self.what),
            line => format!("{}:{line}: {}", path.display(), self.what),
        }
    }
}

fn first(path: &Path, problems: &[Problem]) -> String {
    let first = problems.first().map(|problem| problem.at(path)).unwrap_or_default();
    match problems.len().saturating_sub(1) {
        0 => first,
        more => format!("{first} (and {more} more)"),
    }
}

/// What the operating system says, which the error itself does not.
trait Cause {
    fn cause(&self) -> String;
}

impl Cause for ReadError {
    fn cause(&self) -> String {
        match self {
            Self::Open(cause) | Self::Read(cause) => format!(": {cause}"),
            Self::NotRegular(_) | Self::TooLarge { .. } => String::new(),
        }
    }
}

impl Settings {
    /// Reads the file at `path`. `run` is the command whose options the fields stand for; paths are taken to be below `root`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub(crate) fn read(path: &Path, run: &clap::Command, root: &Path) -> Result<Self, ConfigError> {
        let wrong = |problems| ConfigError::Wrong { path: path.to_owned(), problems };
        let file = regular_file::read(path, FILE_MAX_BYTES)
            .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
        let text = std::str::from_utf8(file.contents.expose())
            .map_err(|_| wrong(vec![Problem { line: 0, what: "it is not UTF-8".to_owned() }]))?;
        let settings = Self::parse(text, run, root).map_err(wrong)?;
        Ok(Self { text: Some(text.to_owned()), ..settings })
    }

    /// The same of a text.
    pub(super) fn parse(text: &str, run: &clap::Command, root: &Path) -> Result<Self, Vec<Problem>> {
        let document = match document::read(text) {
            Ok(document) => document,
            Err(At { line, value }) => return Err(vec![Problem { line, what: value }]),
        };
        let mut reader = Reader { run, root, settings: Self::default(), problems: Vec::new() };
        reader.whole(&document);
        let Reader { settings, mut problems, .. } = reader;
        problems.sort();
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    /// The values of each option that is set, `--feature-gates` left out.
    pub(crate) fn options(&self) -> &BTreeMap<&'static str, Vec<OsString>> {
        &self.options
    }

    /// The file that says so; `None` without one.
    pub(crate) fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// What is wrong with values that are right one by one. An agent takes them all the same, and does without.
    pub(super) fn at_odds(&self) -> Vec<Problem> {
        let value = |option: &str| self.options.get(option).and_then(|values| values.first()?.to_str());
        let exposed = value("expose-metrics-without-authentication") == Some("true");
        let address = value("metrics-bind-address").and_then(|address| address.parse::<Address>().ok());
        let refused = address.and_then(|address| address.checked(exposed).err());
        let problem = |error| Problem {
            line: self.lines.get("metrics-bind-address").copied().unwrap_or_default(),
            what: match error {
                AddressError::NotLoopback(address) => format!(
                    "metricsBindAddress: {address} can be reached from other machines, and nothing is served there unless \
                     exposeMetricsWithoutAuthentication: true says that this is meant"
                ),
                error @ AddressError::NoAddress(_) => format!("metricsBindAddress: {error}"),
            },
        };
        refused.map(problem).into_iter().collect()
    }

    /// `featureGates`, as [`ckpt_db::feature_gates::FeatureGates::from_map`] takes it.
    pub(crate) fn gates(&self) -> &[(String, bool)] {
        &self.gates
    }
}

/// Goes through a document and collects what it says, and what is wrong.
struct Reader<'a> {
    run: &'a clap::Command,
    root: &'a Path,
    settings: Settings,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn wrong(&mut self, line: u64, what: impl fmt::Display) {
        self.problems.push(Problem { line, what: what.to_string() });
    }

    fn whole(&mut self, document: &At<Node>) {
        let fields = match &document.value {
            Node::Mapping(fields) => fields,
            Node::Null => &Vec::new(),
            other @ (Node::Scalar(_) | Node::Sequence(_)) => {
                let what = other.what();
                return self.wrong(document.line, format_args!("a {KIND} is a mapping of fields, and this is {what}"));
            }
        };
        for (field, want) in [("apiVersion", API_VERSION), ("kind", KIND)] {
            match fields.iter().find(|(key, _)| key.value == field) {
                None => self.wrong(0, format_args!("{field} is missing: write `{field}: {want}`")),
                Some((_, At { value: Node::Scalar(found), .. })) if found == want => {}
                Some((_, At { line, value })) => {
                    let found = match value {
                        Node::Scalar(found) => format!("{found:?}"),
                        other => other.what().to_owned(),
                    };
                    self.wrong(*line, format_args!("{field} is {found}, and this program reads {want}"));
                }
            }
        }
        self.mapping("", fields);
    }

    /// The fields of a mapping whose name, with a dot, is `prefix`.
    fn mapping(&mut self, prefix: &str, fields: &[(At<String>, At<Node>)]) {
        for (key, node) in fields {
            let name = format!("{prefix}{}", key.value);
            if prefix.is_empty() && ["apiVersion", "kind"].contains(&name.as_str()) {
                continue;
            }
            // A dot is ours, and no part of a key.
            let exact = |field: &&Field| field.name == name && !key.value.contains('.');
            if let Some(field) = FIELDS.iter().find(exact) {
                self.field(field, key.line, node);
                continue;
            }
            let inner = format!("{name}.");
            if !FIELDS.iter().any(|field| field.name.starts_with(&inner)) {
                let meant = nearest(&key.value, known(prefix));
                let meant = meant.map(|meant| format!(" (did you mean {meant}?)")).unwrap_or_default();
                self.wrong(key.line, format_args!("unknown field {:?}{meant}", name));
                continue;
            }
            match &node.value {
                Node::Null => {}
                Node::Mapping(fields) => self.mapping(&inner, fields),
                other @ (Node::Scalar(_) | Node::Sequence(_)) => {
                    let what = other.what();
                    self.wrong(node.line, format_args!("{name} is a mapping of fields, and this is {what}"));
                }
            }
        }
    }

    fn field(&mut self, field: &'static Field, line: u64, node: &At<Node>) {
        let name = field.name;
        let want = match (field.shape, &node.value) {
            // As in Kubernetes: as if it were not there.
            (_, Node::Null) => return,
            (Shape::Gates, Node::Mapping(gates)) => return self.gates_of(name, gates),
            (Shape::Value | Shape::Path | Shape::Endpoint, Node::Scalar(text)) => {
                return self.values(field, [(node.line, text.as_str())].into_iter());
            }
            (Shape::Values | Shape::Paths, Node::Sequence(items)) => {
                let mut texts = Vec::new();
                for item in items {
                    match &item.value {
                        Node::Scalar(text) => texts.push((item.line, text.as_str())),
                        other => {
                            let what = other.what();
                            self.wrong(
                                item.line,
                                format_args!("an item of {name} is a single value, and this is {what}"),
                            );
                        }
                    }
                }
                return self.values(field, texts.into_iter());
            }
            (Shape::Gates, _) => "a mapping such as {Checkpointing: true}",
            (Shape::Value | Shape::Path | Shape::Endpoint, _) => "a single value",
            (Shape::Values | Shape::Paths, _) => "a list",
        };
        let what = node.value.what();
        self.wrong(line, format_args!("{name} is {want}, and this is {what}"));
    }

    fn values<'t>(&mut self, field: &'static Field, texts: impl Iterator<Item = (u64, &'t str)>) {
        let mut values = Vec::new();
        for (line, text) in texts {
            self.settings.lines.insert(field.option, line);
            match self.value(field, text) {
                Ok(value) => values.push(value),
                Err(what) => self.wrong(line, format_args!("{}: {what}", field.name)),
            }
        }
        // An empty list is what there is without it.
        if !values.is_empty() {
            self.settings.options.insert(field.option, values);
        }
    }

    fn value(&self, field: &Field, text: &str) -> Result<OsString, String> {
        let path = match field.shape {
            Shape::Path | Shape::Paths => Some(text),
            Shape::Endpoint => Some(text.strip_prefix("unix://").unwrap_or(text)),
            Shape::Value | Shape::Values | Shape::Gates => None,
        };
        let value = match path {
            Some(path) if !path.starts_with('/') => return Err(format!("{text:?} is no absolute path")),
            Some(path) => self.root.join(path.trim_start_matches('/')).into(),
            None => OsString::from(text),
        };
        // As the option takes it, which knows what is right.
        let mut argument = OsString::from(format!("--{}=", field.option));
        argument.push(&value);
        match self.run.clone().try_get_matches_from([OsString::from("run"), argument]) {
            Ok(_) => Ok(value),
            Err(error) => Err(why(&error, text)),
        }
    }

    fn gates_of(&mut self, name: &str, gates: &[(At<String>, At<Node>)]) {
        for (gate, node) in gates {
            let on = match &node.value {
                Node::Scalar(text) if text == "true" => true,
                Node::Scalar(text) if text == "false" => false,
                Node::Null => continue,
                other => {
                    let found = match other {
                        Node::Scalar(text) => format!("{text:?}"),
                        other => other.what().to_owned(),
                    };
                    self.wrong(
                        node.line,
                        format_args!("{name}.{} is {found}, which is neither true nor false", gate.value),
                    );
                    continue;
                }
            };
            let setting = (gate.value.clone(), on);
            match FeatureGates::from_map([setting.clone()]) {
                Ok(_) => self.settings.gates.push(setting),
                Err(error) => self.wrong(gate.line, format_args!("{name}: {error}")),
            }
        }
    }
}

/// What a mapping may hold.
fn known(prefix: &str) -> impl Iterator<Item = &'static str> + use<'_> {
    let fields = FIELDS.iter().filter_map(move |field| field.name.strip_prefix(prefix));
    let fields = fields.map(|name| name.split_once('.').map_or(name, |(group, _)| group));
    fields.chain(["apiVersion", "kind"].into_iter().filter(move |_| prefix.is_empty()))
}

/// Why an option does not take a value, in one line.
fn why(error: &clap::Error, text: &str) -> String {
    let several = |kind| match error.get(kind) {
        Some(ContextValue::Strings(values)) => values.clone(),
        Some(ContextValue::String(value)) => vec![value.clone()],
        _ => Vec::new(),
    };
    let valid = several(ContextKind::ValidValue);
    if error.kind() == ErrorKind::InvalidValue && !valid.is_empty() {
        let meant = several(ContextKind::SuggestedValue);
        let meant = meant.first().map(|meant| format!(" (did you mean {meant}?)")).unwrap_or_default();
        return format!("{text:?} is none of {}{meant}", valid.join(", "));
    }
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => {
            let shown = error.to_string();
            shown.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    }
}
