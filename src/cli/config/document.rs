//! The text of a configuration file as a tree in which everything knows its line.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

/// Levels of nesting, values and aliases; a configuration has a few of the first two and none of the last.
const DEPTH_MAX: usize = 16;
const VALUES_MAX: usize = 10_000;

/// A part of the file, and the line on which it starts, counted from 1.
pub(super) struct At<T> {
    pub(super) line: u64,
    pub(super) value: T,
}

/// What a field may hold.
pub(super) enum Node {
    /// Nothing, `~` or `null`.
    Null,
    /// A text, or a number or boolean as text.
    Scalar(String),
    /// A list.
    Sequence(Vec<At<Node>>),
    /// Fields of its own.
    Mapping(Vec<(At<String>, At<Node>)>),
}

impl Node {
    /// In the words of a message.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar(_) => "a single value",
            Self::Sequence(_) => "a list",
            Self::Mapping(_) => "a mapping",
        }
    }
}

/// Reads one YAML document, or JSON, which is YAML.
///
/// # Errors
/// It is no YAML: what is wrong, and on which line.
pub(super) fn read(text: &str) -> Result<At<Node>, At<String>> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        // `activationPolicy: off` is a text and no boolean.
        strict_booleans: true,
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX, max_nodes: VALUES_MAX, max_aliases: 0, },
    };
    match serde_saphyr::from_str_with_options::<Spanned<Node>>(text, options) {
        Ok(node) => Ok(at(node)),
        Err(error) => {
            let line = error.location().map_or(0, |location| location.line());
            Err(At { line, value: what(error.without_snippet()) })
        }
    }
}

/// What is wrong with the text; the line stands elsewhere.
fn what(error: &serde_saphyr::Error) -> String {
    if let serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } = error {
        return format!("field {key:?} stands twice in one mapping");
    }
    if let serde_saphyr::Error::MultipleDocuments { .. } = error {
        return "a second document begins: a configuration file has one".to_owned();
    }
    let text = error.to_string();
    format!("invalid YAML: {}", text.split(" at line ").next().unwrap_or(&text))
}

fn at<T>(spanned: Spanned<T>) -> At<T> {
    let line = |location: Location| location.line();
    At { line: line(spanned.referenced), value: spanned.value }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(at(item));
        }
        Ok(Node::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some((key, value)) = access.next_entry()? {
            fields.push((at(key), at(value)));
        }
        Ok(Node::Mapping(fields))
    }
}
