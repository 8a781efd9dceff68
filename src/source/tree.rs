//! One document of text becomes a JSON tree, within limits and with errors that name a position but never a value.
//!
//! Text that starts with a brace is read as JSON first (also several values in a row, as `jq -c` prints them), all other
//! text as YAML with the meaning it has for `kubectl`: `yes` is a boolean, `0644` is octal, merge keys work.
//!
//! A tree is wiped when it is dropped, also a half-built one. The parsers' own buffers are beyond our reach.

use std::cell::Cell;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::granit_parser::ErrorKind;
use serde_saphyr::localizer::ExternalMessageSource;
use zeroize::Zeroize;

use super::document::{Document, Position};

/// Mappings and sequences inside each other; Kubernetes objects have about twenty. The YAML library takes 22 KiB of stack
/// for each in a debug build, and a thread has 2 MiB.
const DEPTH_MAX: usize = 48;
/// Values in one document. A node with 500 pods, listed with all its Secrets, has about a tenth of it.
const VALUES_MAX: usize = 2_000_000;
/// Text in one document after aliases were expanded, so that a short file can't become a large tree.
const TEXT_MAX_BYTES: usize = 64 * 1024 * 1024;

const INVALID_JSON: &str = "invalid JSON";
const DUPLICATE_KEY: &str = "a key stands twice in one mapping";
const TOO_MANY_VALUES: &str = "more than 2000000 values in one document";
const TOO_MUCH_TEXT: &str = "more than 64 MiB of text in one document after its aliases are expanded";
const TOO_DEEP: &str = "more than 48 levels of nesting";

/// What is wrong with a document's text, and where. Carries no part of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) at: Position,
    pub(super) what: String,
}

/// A JSON tree whose strings are wiped on drop.
pub(super) struct Tree(pub(super) Value);

impl Tree {
    /// The tree itself; `null` stays behind.
    pub(super) fn take(&mut self) -> Value {
        self.0.take()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// Overwrites every string value in `value`.
pub(super) fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// One value of a document, and the part of the text it comes from.
pub(super) struct Root<'a> {
    pub(super) tree: Tree,
    pub(super) text: &'a str,
    pub(super) start: Position,
}

impl Root<'_> {
    /// Where each element of the top-level `items` starts; empty where that can't be told.
    ///
    /// Asked for only to report a problem: it reads the text once more.
    pub(super) fn item_positions(&self) -> Vec<Position> {
        #[derive(Deserialize)]
        struct List {
            #[serde(default)]
            items: Vec<serde_saphyr::Spanned<IgnoredAny>>,
        }
        let list: Option<List> = serde_saphyr::from_str_with_options(self.text, yaml_options()).ok();
        let position = |location: serde_saphyr::Location| position(Some(location)).after(self.start);
        list.map(|list| list.items.iter().map(|item| position(item.referenced)).collect()).unwrap_or_default()
    }
}

/// The values of one document, up to the first malformed one.
pub(super) fn roots<'a>(document: Document<'a>) -> (Vec<Root<'a>>, Option<Malformed>) {
    let text = match std::str::from_utf8(document.text) {
        Ok(text) => text,
        Err(error) => {
            let at = Position::behind(&document.text[..error.valid_up_to()]).after(document.start);
            let utf16 = document.text.starts_with(b"\xff\xfe") || document.text.starts_with(b"\xfe\xff");
            let what = if utf16 { "it is UTF-16; save it as UTF-8" } else { "not valid UTF-8" };
            return (Vec::new(), Some(Malformed { at, what: what.to_owned() }));
        }
    };
    if text.trim_start().starts_with('{') {
        let (roots, malformed) = json(text, document.start);
        if roots.is_empty()
            && let Some(json) = malformed
        {
            if !json.what.starts_with(INVALID_JSON) {
                return (roots, Some(json));
            }
            // `{a: 1}` is YAML. If it is neither, the JSON error is the better one for text that has quoted keys.
            let quoted = text.trim_start()[1..].trim_start().starts_with(['"', '}']);
            return match yaml(text, document.start) {
                Ok(root) => (vec![root], None),
                Err(yaml) => (roots, Some(if quoted { json } else { yaml })),
            };
        }
        return (roots, malformed);
    }
    match yaml(text, document.start) {
        Ok(root) => (vec![root], None),
        Err(malformed) => (Vec::new(), Some(malformed)),
    }
}

fn json(text: &str, start: Position) -> (Vec<Root<'_>>, Option<Malformed>) {
    let mut roots = Vec::new();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Tree>();
    let mut from = 0;
    while let Some(value) = values.next() {
        match value {
            Ok(tree) => {
                let to = values.byte_offset();
                let from = to.min(from + (text[from..to].len() - text[from..to].trim_start().len()));
                let start = Position::behind(&text.as_bytes()[..from]).after(start);
                roots.push(Root { tree, text: &text[from..to], start });
            }
            Err(error) => {
                let at = Position { line: error.line().max(1) as u64, column: error.column().max(1) as u64 };
                return (roots, Some(Malformed { at: at.after(start), what: json_error(&error) }));
            }
        }
        from = values.byte_offset();
    }
    (roots, None)
}

fn json_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match error.classify() {
        // The texts of these two are constants of serde_json; the position behind them is told by ourselves.
        serde_json::error::Category::Syntax | serde_json::error::Category::Eof => {
            let what = text.split(" at line ").next().unwrap_or_default();
            if what.starts_with("recursion limit") { TOO_DEEP.to_owned() } else { format!("{INVALID_JSON}: {what}") }
        }
        serde_json::error::Category::Data | serde_json::error::Category::Io => own_or(INVALID_JSON, &text),
    }
}

fn yaml(text: &str, start: Position) -> Result<Root<'_>, Malformed> {
    match serde_saphyr::from_str_with_options(text, yaml_options()) {
        Ok(tree) => Ok(Root { tree, text, start }),
        Err(error) => {
            Err(Malformed { at: position(error.location()).after(start), what: yaml_error(error.without_snippet()) })
        }
    }
}

fn position(location: Option<serde_saphyr::Location>) -> Position {
    let (line, column) = location.map_or((1, 1), |location| (location.line(), location.column()));
    Position { line: line.max(1), column: column.max(1) }
}

fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        // A snippet would show the text of Secrets.
        with_snippet: false,
        legacy_octal_numbers: true,
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: VALUES_MAX,
            max_events: 2 * VALUES_MAX,
            max_total_scalar_bytes: TEXT_MAX_BYTES,
            max_anchors: 1000,
            max_aliases: 1000,
            max_recorded_anchor_events: 100_000,
            max_recorded_anchor_bytes: 4 * 1024 * 1024,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
    }
}

fn yaml_error(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as E;
    match error {
        E::ExternalMessage { source, .. } => match source.as_ref() {
            ExternalMessageSource::Parser(scan) => match scan.kind() {
                // All other kinds have constant texts, or numbers and brackets in them.
                ErrorKind::UnexpectedCharacter { .. }
                | ErrorKind::Custom(_)
                | ErrorKind::InputIo { .. }
                | ErrorKind::InputDecoding { .. } => "invalid YAML".to_owned(),
                ErrorKind::RecursionLimitExceeded => TOO_DEEP.to_owned(),
                kind => format!("invalid YAML: {kind}"),
            },
            _ => "invalid YAML".to_owned(),
        },
        E::Message { msg, .. } => own_or("invalid YAML", msg),
        E::AliasError { error, .. } => yaml_error(error),
        E::DuplicateMappingKey { .. } => DUPLICATE_KEY.to_owned(),
        E::Budget { breach, .. } => match breach {
            serde_saphyr::budget::BudgetBreach::Depth { .. } => TOO_DEEP.to_owned(),
            serde_saphyr::budget::BudgetBreach::Nodes { .. } => TOO_MANY_VALUES.to_owned(),
            serde_saphyr::budget::BudgetBreach::ScalarBytes { .. } => TOO_MUCH_TEXT.to_owned(),
            _ => "too many values, or aliases that expand to too many".to_owned(),
        },
        E::AliasReplayLimitExceeded { .. }
        | E::AliasExpansionLimitExceeded { .. }
        | E::AliasReplayStackDepthExceeded { .. } => "aliases that expand to too many values".to_owned(),
        E::UnknownAnchor { .. } => "invalid YAML: an alias without its anchor".to_owned(),
        E::RecursiveReferencesRequireWeakTypes { .. } => "invalid YAML: an alias inside of its own anchor".to_owned(),
        E::NonFiniteFloat { .. } => "a number that JSON can't carry".to_owned(),
        E::InvalidBinaryBase64 { .. } => "a !!binary value that is not valid base64".to_owned(),
        E::BinaryNotUtf8 { .. } => "a !!binary value that is not text".to_owned(),
        E::MergeValueNotMapOrSeqOfMaps { .. } => "a merge key ('<<') whose value is no mapping".to_owned(),
        E::Eof { .. } => "invalid YAML: unexpected end".to_owned(),
        E::InvalidScalar { .. } => {
            "invalid YAML: a value that does not fit its tag, or a number out of range".to_owned()
        }
        _ => "invalid YAML".to_owned(),
    }
}

/// Our own constant if `text` starts with one, else `general`: the text may quote the document.
fn own_or(general: &str, text: &str) -> String {
    let own = [DUPLICATE_KEY, TOO_MANY_VALUES, TOO_MUCH_TEXT, TOO_DEEP];
    own.into_iter().find(|own| text.starts_with(own)).unwrap_or(general).to_owned()
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let left = Left { values: Cell::new(VALUES_MAX), text_bytes: Cell::new(TEXT_MAX_BYTES) };
        Grow { left: &left, depth: DEPTH_MAX }.deserialize(deserializer)
    }
}

/// What the document may still hold.
struct Left {
    values: Cell<usize>,
    text_bytes: Cell<usize>,
}

/// Builds a tree of at most `depth` levels.
struct Grow<'a> {
    left: &'a Left,
    depth: usize,
}

impl Grow<'_> {
    fn leaf<E: serde::de::Error>(&self, value: Value) -> Result<Tree, E> {
        let tree = Tree(value);
        let left = self.left.values.get().checked_sub(1).ok_or_else(|| E::custom(TOO_MANY_VALUES))?;
        self.left.values.set(left);
        Ok(tree)
    }

    /// For the values inside of this one.
    fn deeper<E: serde::de::Error>(&self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| E::custom(TOO_DEEP))?;
        Ok(Self { left: self.left, depth })
    }

    fn text<E: serde::de::Error>(&self, bytes: usize) -> Result<(), E> {
        let left = self.left.text_bytes.get().checked_sub(bytes).ok_or_else(|| E::custom(TOO_MUCH_TEXT))?;
        self.left.text_bytes.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Grow<'_> {
    type Value = Tree;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Grow<'_> {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Tree, E> {
        self.leaf(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Tree, E> {
        self.leaf(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Tree, E> {
        self.leaf(value.into())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Tree, E> {
        self.leaf(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Tree, E> {
        self.leaf(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Tree, E> {
        self.leaf(value.into())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Tree, E> {
        self.text(value.len())?;
        self.leaf(value.into())
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Tree, E> {
        let value = Tree(value.into());
        self.text(value.0.as_str().map_or(0, str::len))?;
        let mut value = value;
        self.leaf(value.take())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        // Built inside of a `Tree`, so that it is wiped also if a later element is malformed.
        let mut tree = self.leaf(Value::Array(Vec::new()))?;
        while let Some(mut element) = access.next_element_seed(self.deeper()?)? {
            if let Value::Array(items) = &mut tree.0 {
                items.push(element.take());
            }
        }
        Ok(tree)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut tree = self.leaf(Value::Object(Map::new()))?;
        while let Some(key) = access.next_key::<String>()? {
            self.text(key.len())?;
            let mut value = access.next_value_seed(self.deeper()?)?;
            if let Value::Object(fields) = &mut tree.0
                && let Some(mut first) = fields.insert(key, value.take())
            {
                wipe(&mut first);
                return Err(A::Error::custom(DUPLICATE_KEY));
            }
        }
        Ok(tree)
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::documents;
    use super::*;

    /// All values of `text` as JSON, then what is wrong as `line:column what`.
    fn read(text: &str) -> Vec<String> {
        let mut all = Vec::new();
        for document in documents(text.as_bytes()) {
            let (roots, malformed) = roots(document);
            all.extend(roots.iter().map(|root| root.tree.0.to_string()));
            all.extend(malformed.map(|m| format!("{}:{} {}", m.at.line, m.at.column, m.what)));
        }
        all
    }

    #[test]
    fn a_scalar_means_what_it_means_to_kubectl() {
        #[rustfmt::skip]
        let rows = [
            ("yes",                  "true"),
            ("off",                  "false"),
            ("True",                 "true"),
            ("\"yes\"",              "\"yes\""),
            ("'0644'",               "\"0644\""),
            ("~",                    "null"),
            ("",                     "null"),
            ("0644",                 "420"),
            ("0o644",                "420"),
            ("0x1F",                 "31"),
            ("9007199254740993",     "9007199254740993"),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("1.5",                  "1.5"),
            ("2026-11-20T10:00:00Z", "\"2026-11-20T10:00:00Z\""),
            ("2026-11-20",           "\"2026-11-20\""),
            ("12:30",                "\"12:30\""),
            ("1.36.2",               "\"1.36.2\""),
            ("100m",                 "\"100m\""),
            ("!!str 12",             "\"12\""),
            ("!!binary aGk=",        "\"hi\""),
            ("|\n  x\n  y",          "\"x\\ny\\n\""),
            (">-\n  x\n  y",         "\"x y\""),
            ("\"\\ud83d\\ude00\"",   "\"😀\""),
        ];
        for (text, want) in rows {
            assert_eq!(read(&format!("k: {text}\n")), [format!("{{\"k\":{want}}}")], "{text}");
        }
    }

    #[test]
    fn a_malformed_document_says_where_and_the_others_load() {
        #[rustfmt::skip]
        let rows: &[(&str, &[&str])] = &[
            ("{\"a\":1}\n{\"b\":2}",     &["{\"a\":1}", "{\"b\":2}"]),
            ("{\"a\":1}\n{\"b\":canary}",&["{\"a\":1}", "2:6 invalid JSON: expected value"]),
            ("{\"a\":1}\n\n {\"a\":1,\n\"a\":2}", &["{\"a\":1}", "4:6 a key stands twice in one mapping"]),
            ("{\"a\": \"canary",         &["1:13 invalid JSON: EOF while parsing a string"]),
            ("{a: 1, b: x}",             &["{\"a\":1,\"b\":\"x\"}"]),
            ("a: 1\n---\nb: {\n---\nc: 3\n", &["{\"a\":1}", "3:4 invalid YAML: unclosed bracket '{'", "{\"c\":3}"]),
            ("a: 1\na: canary\n",        &["2:1 a key stands twice in one mapping"]),
            ("# c\na: 'canary\n---\nb: 2",  &["3:1 invalid YAML: invalid indentation in multiline quoted scalar", "{\"b\":2}"]),
            ("a:\n\t- b\n",              &["2:2 invalid YAML: tabs disallowed within this context (block indentation)"]),
            ("a: 1\n b: 2\n",            &["2:3 invalid YAML: mapping values are not allowed in this context"]),
            ("a: *canary\n",             &["1:4 invalid YAML: an alias without its anchor"]),
            ("a: &a [*a]\n",             &["1:8 invalid YAML: an alias inside of its own anchor"]),
            ("a: !!int canary\n",        &["1:10 invalid YAML: a value that does not fit its tag, or a number out of range"]),
            ("a: .nan\n",                &["1:4 a number that JSON can't carry"]),
            ("a: &x {b: 1}\nc:\n  <<: *x\n", &["{\"a\":{\"b\":1},\"c\":{\"b\":1}}"]),
        ];
        for (text, want) in rows {
            assert_eq!(read(text), *want, "{text:?}");
        }
        let (_, malformed) = roots(documents(b"a: 1\nb: \xff\n")[0]);
        assert_eq!(
            malformed.unwrap(),
            Malformed { at: Position { line: 2, column: 4 }, what: "not valid UTF-8".into() }
        );
        let (_, malformed) = roots(documents(b"\xff\xfea\0:\0")[0]);
        assert!(malformed.unwrap().what.contains("UTF-16"));
    }

    #[test]
    fn bombs_are_refused() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
            laughs.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
        }
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 900].join(", "));
        let many = format!("{{\"a\":[{}1]}}", "1,".repeat(VALUES_MAX));
        #[rustfmt::skip]
        let rows = [
            (laughs,                                         "aliases that expand to too many"),
            (long,                                           TOO_MUCH_TEXT),
            (many,                                           TOO_MANY_VALUES),
            (format!("a: {}", "[".repeat(100_000)),          TOO_DEEP),
            (format!("{{\"a\": {}", "[".repeat(100_000)),    TOO_DEEP),
            (format!("{{\"a\": {}{}}}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX)), TOO_DEEP),
            ("- ".repeat(10_000),                            TOO_DEEP),
            ("? ".repeat(10_000),                            TOO_DEEP),
            ((0..1000).map(|i| format!("{}a:\n", " ".repeat(i))).collect(), TOO_DEEP),
        ];
        for (text, want) in rows {
            let got = read(&text);
            assert!(got.len() == 1 && got[0].contains(want), "{want}: {:?}", &got[0][..got[0].len().min(200)]);
        }
    }

    #[test]
    fn items_are_found_again() {
        for text in ["# c\nkind: List\nitems:\n- a: 1\n  b: 2\n-   c: 1\n", "\n\n{\"items\":[\n{\"a\":1},\n   {}]}"] {
            let (roots, _) = roots(documents(text.as_bytes())[0]);
            let got: Vec<_> = roots[0].item_positions().iter().map(|at| (at.line, at.column)).collect();
            let want = if text.starts_with('#') { [(4, 3), (6, 5)] } else { [(4, 1), (5, 4)] };
            assert_eq!(got, want);
        }
    }

    #[test]
    fn a_tree_is_wiped() {
        let mut value: Value = serde_json::json!({"a": ["canary", {"b": "canary"}], "c": 1});
        wipe(&mut value);
        assert_eq!(value.to_string(), r#"{"a":["",{"b":""}],"c":1}"#);
    }
}
