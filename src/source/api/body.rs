//! One response body becomes objects, each with the bytes that the server sent, less `metadata.managedFields`.
//!
//! Nothing is decoded and encoded again: the text of each member is cut out of the response and put into the stored body
//! as it is spelled, in its order. Errors carry names of fields and objects, never a value.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::checkpoint::object::{Kind, NameError, Object, ObjectKey};
use crate::clear::Clear;

/// The longest body that is passed on. The store's limit is 8 MiB with what sealing adds; rooms do not know each other, so
/// that the number stands here once more, a little lower.
pub const OBJECT_MAX_BYTES: usize = 8 * 1024 * 1024 - 1024;

/// The longest uid or resourceVersion; the API server's are 36 and about 20 characters.
const TOKEN_MAX_BYTES: usize = 128;

/// The longest `metadata.continue`; it holds a key of etcd in base64, well below 1 KiB.
const CONTINUE_MAX_BYTES: usize = 4096;

/// Part of the text by which servers before 1.19 say that a resourceVersion is ahead of them.
const TOO_LARGE_VERSION: &str = "Too large resource version";

/// What the API server sent can't be taken as an object or a list of them. Never carries a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {} that the API server sent: {problem}", self.subject())]
pub struct BodyError {
    /// The kind that was asked for.
    pub kind: Kind,
    /// Whether it was a list as a whole.
    pub list: bool,
    /// The object, if its names could be read.
    pub object: Option<ObjectKey>,
    /// What is wrong with it.
    pub problem: BodyProblem,
}

impl BodyError {
    fn subject(&self) -> String {
        match &self.object {
            Some(key) => key.to_string(),
            None if self.list => format!("a list of {}", self.kind.row().plural),
            None => format!("a {}", self.kind),
        }
    }
}

/// What is wrong with a body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyProblem {
    /// The bytes are not JSON, or are cut off.
    #[error("it is not JSON (line {line}, column {column})")]
    NotJson {
        /// Line of the text, from 1.
        line: usize,
        /// Column in bytes, from 1.
        column: usize,
    },
    /// A field is missing or has another form.
    #[error("{field} is not {expected}")]
    Form {
        /// The field.
        field: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// A member stands twice, and readers would not agree which one counts.
    #[error("a member of {0} stands twice")]
    Twice(&'static str),
    /// It says that it is something else than what was asked for.
    #[error("it says that it is {0}")]
    OtherKind(String),
    /// Its name or namespace is none that Kubernetes allows.
    #[error("{0}")]
    Name(#[from] NameError),
    /// Larger than what is stored; Kubernetes' own limit for a request is 3 MiB.
    #[error("it has {bytes} bytes of JSON; at most {OBJECT_MAX_BYTES} are stored")]
    TooLarge {
        /// Its size without `managedFields`.
        bytes: usize,
    },
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The objects that could be read.
    pub objects: Vec<Object>,
    /// `metadata.resourceVersion` of the list.
    pub resource_version: String,
    /// `metadata.continue`: there is another page.
    pub next: Option<String>,
    /// The objects that could not be read.
    pub bad: Vec<BodyError>,
}

/// What a `Status` of the API server says, as far as it is a fact about the request. Its message is not kept: it may quote
/// what an object holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorStatus {
    /// The HTTP status code; 0 where the body names none.
    pub code: u16,
    /// `reason`, if it is a word like `Expired`; empty otherwise.
    pub reason: String,
    /// `details.retryAfterSeconds`, if there is one.
    pub retry_after_s: Option<u64>,
    /// The resourceVersion that was asked for is ahead of this server, as after a restore of etcd.
    pub too_large_resource_version: bool,
}

/// Reads one object of the kind that was asked for.
///
/// `kind` and `apiVersion` are put in front where they are missing, as they are in items of a list: in the order of the
/// server, so that a listing and a watch give the same bytes, and an object that is listed again is no new one.
///
/// # Errors
/// [`BodyError`] names the object if its names could be read. Nothing is repaired.
pub fn object(raw: &[u8], kind: Kind) -> Result<Object, BodyError> {
    let mut key = None;
    exact(raw, kind, &mut key).map_err(|problem| BodyError { kind, list: false, object: key, problem })
}

/// Reads one page of a list of `kind`. An item that can't be read is told in [`Listing::bad`] and costs no other.
///
/// # Errors
/// [`BodyError`] if it is no `v1` list of this kind with a resourceVersion: then it says nothing about any object.
pub fn listing(raw: &[u8], kind: Kind) -> Result<Listing, BodyError> {
    let page = page(raw, kind).map_err(|problem| BodyError { kind, list: true, object: None, problem })?;
    let mut listing =
        Listing { objects: Vec::new(), resource_version: page.resource_version, next: page.next, bad: Vec::new() };
    for item in page.items {
        match object(item.get().as_bytes(), kind) {
            Ok(object) => listing.objects.push(object),
            Err(error) => listing.bad.push(error),
        }
    }
    Ok(listing)
}

/// Reads a `Status` that tells of a failure; `None` if the body is something else.
#[must_use]
pub fn error_status(raw: &[u8]) -> Option<ErrorStatus> {
    let status = Members::read(raw, "the body").ok()?;
    let is = |field, want: &str| status.text(field).is_some_and(|text| text == want);
    if !is("kind", "Status") || !is("apiVersion", "v1") || is("status", "Success") {
        return None;
    }
    let details = status.get("details").and_then(|raw| Members::read(raw.as_bytes(), "details").ok());
    let details = |field| details.as_ref().and_then(|details| details.get(field));
    let causes: Vec<&RawValue> = details("causes").and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default();
    let cause_is = |field, want: &str| {
        let mut causes = causes.iter().filter_map(|cause| Members::read(cause.get().as_bytes(), "causes").ok());
        causes.any(|cause| cause.text(field).is_some_and(|text| text == want))
    };
    // As client-go tells it: 1.19 and later by the cause's reason, 1.17 and later by its message, earlier ones by the text.
    let too_large_resource_version = cause_is("reason", "ResourceVersionTooLarge")
        || (is("reason", "Timeout")
            && (cause_is("message", TOO_LARGE_VERSION)
                || status.get("message").is_some_and(|message| message.contains(TOO_LARGE_VERSION))));
    Some(ErrorStatus {
        code: status.get("code").and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or(0),
        reason: status.text("reason").filter(|reason| is_word(reason)).unwrap_or_default().into_owned(),
        retry_after_s: details("retryAfterSeconds")
            .and_then(|raw| serde_json::from_str(raw).ok())
            .filter(|seconds| *seconds > 0),
        too_large_resource_version,
    })
}

struct Page<'a> {
    items: Vec<&'a RawValue>,
    resource_version: String,
    next: Option<String>,
}

fn page(raw: &[u8], kind: Kind) -> Result<Page<'_>, BodyProblem> {
    let list = Members::read(raw, "the list")?;
    let (api_version, name) = (list.text("apiVersion"), list.text("kind"));
    let want = format!("{}List", kind.row().name);
    if api_version.as_deref() != Some(kind.row().api_version) || name.as_deref() != Some(want.as_str()) {
        return Err(other_kind(name, api_version));
    }
    let metadata = metadata(&list)?;
    let next = match metadata.get("continue") {
        None | Some("null" | r#""""#) => None,
        Some(raw) => Some(token(raw, CONTINUE_MAX_BYTES).ok_or(BodyProblem::Form {
            field: "metadata.continue",
            expected: "1 to 4096 printable ASCII characters",
        })?),
    };
    let items = match list.get("items") {
        // Go writes a slice that was never filled as null.
        None | Some("null") => Vec::new(),
        Some(raw) => {
            serde_json::from_str(raw).map_err(|_| BodyProblem::Form { field: "items", expected: "a JSON array" })?
        }
    };
    Ok(Page { items, resource_version: resource_version(&metadata)?, next })
}

fn exact(raw: &[u8], kind: Kind, known_as: &mut Option<ObjectKey>) -> Result<Object, BodyProblem> {
    let members = Members::read(raw, "the object")?;
    let row = kind.row();
    let (api_version, name) = (members.get("apiVersion"), members.get("kind"));
    for (said, want) in [(api_version, row.api_version), (name, row.name)] {
        if said.is_some_and(|raw| text(raw).as_deref() != Some(want)) {
            return Err(other_kind(members.text("kind"), members.text("apiVersion")));
        }
    }
    let metadata = metadata(&members)?;
    let key = key(kind, &metadata)?;
    *known_as = Some(key.clone());
    let uid = metadata
        .get("uid")
        .and_then(|raw| token(raw, TOKEN_MAX_BYTES))
        .ok_or(BodyProblem::Form { field: "metadata.uid", expected: "1 to 128 printable ASCII characters" })?;
    let resource_version = resource_version(&metadata)?;

    let mut parts = vec!["{"];
    for (field, said, want) in [("kind", name, row.name), ("apiVersion", api_version, row.api_version)] {
        if said.is_none() {
            parts.extend(["\"", field, "\":\"", want, "\"", ","]);
        }
    }
    for member in &members.0 {
        parts.extend([member.spelled, ":"]);
        if member.name == "metadata" && metadata.get("managedFields").is_some() {
            parts.push("{");
            for member in metadata.0.iter().filter(|member| member.name != "managedFields") {
                parts.extend([member.spelled, ":", member.value, ","]);
            }
            // Name and uid are there at least, so that this is a comma.
            parts.pop();
            parts.push("}");
        } else {
            parts.push(member.value);
        }
        parts.push(",");
    }
    parts.pop();
    parts.push("}");

    let bytes = parts.iter().map(|part| part.len()).sum();
    if bytes > OBJECT_MAX_BYTES {
        return Err(BodyProblem::TooLarge { bytes });
    }
    // One buffer of the right size: growing would leave copies behind.
    let mut body = Vec::with_capacity(bytes);
    parts.iter().for_each(|part| body.extend_from_slice(part.as_bytes()));
    Ok(Object { key, uid, resource_version, body: Clear::new(body) })
}

/// The `metadata` of an object or list.
pub(super) fn metadata<'a>(members: &Members<'a>) -> Result<Members<'a>, BodyProblem> {
    Members::read(members.get("metadata").unwrap_or_default().as_bytes(), "metadata").map_err(|problem| match problem {
        // Also where it is missing: no text is no JSON.
        BodyProblem::NotJson { .. } => BodyProblem::Form { field: "metadata", expected: "a JSON object" },
        other => other,
    })
}

pub(super) fn resource_version(metadata: &Members<'_>) -> Result<String, BodyProblem> {
    metadata
        .get("resourceVersion")
        .and_then(|raw| token(raw, TOKEN_MAX_BYTES))
        .ok_or(BodyProblem::Form { field: "metadata.resourceVersion", expected: "1 to 128 printable ASCII characters" })
}

fn key(kind: Kind, metadata: &Members<'_>) -> Result<ObjectKey, BodyProblem> {
    let named = |member, field| match metadata.get(member) {
        None | Some("null") => Ok(Cow::Borrowed("")),
        Some(raw) => text(raw).ok_or(BodyProblem::Form { field, expected: "text" }),
    };
    let (namespace, name) = (named("namespace", "metadata.namespace")?, named("name", "metadata.name")?);
    Ok(ObjectKey::new(kind, &namespace, &name)?)
}

/// A kind is shown only if it looks like one: a broken server may send anything.
fn other_kind(name: Option<Cow<'_, str>>, api_version: Option<Cow<'_, str>>) -> BodyProblem {
    let version =
        |text: &str| text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"./-".contains(&b));
    BodyProblem::OtherKind(match (name, api_version) {
        (Some(name), Some(api_version)) if is_word(&name) && version(&api_version) => format!("{api_version} {name}"),
        (Some(name), _) if is_word(&name) => format!("a {name}"),
        _ => "something else".to_owned(),
    })
}

/// A word as Kubernetes uses them for kinds and reasons: letters and digits, a capital first.
fn is_word(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Opaque, but printable, since it stands in listings and URLs.
fn token(raw: &str, max_bytes: usize) -> Option<String> {
    let text = text(raw)?;
    ((1..=max_bytes).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())).then(|| text.into_owned())
}

/// The JSON string that `raw` spells; `None` if it is something else.
fn text(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// The members of a JSON object in their order, each name once, as they are spelled.
pub(super) struct Members<'a>(Vec<Member<'a>>);

struct Member<'a> {
    name: Cow<'a, str>,
    /// The name with its quotes and escapes.
    spelled: &'a str,
    value: &'a str,
}

impl<'a> Members<'a> {
    /// Cuts `raw` into members; `place` says in an error what it is.
    pub(super) fn read(raw: &'a [u8], place: &'static str) -> Result<Self, BodyProblem> {
        let Spelled(members) = serde_json::from_slice(raw).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => BodyProblem::Form { field: place, expected: "a JSON object" },
            _ => BodyProblem::NotJson { line: error.line(), column: error.column() },
        })?;
        let form = BodyProblem::Form { field: place, expected: "a JSON object whose names are valid text" };
        let members = members
            .into_iter()
            .map(|(spelled, value)| Some(Member { name: text(spelled)?, spelled, value }))
            .collect::<Option<Vec<_>>>()
            .ok_or(form)?;
        let mut names = BTreeSet::new();
        if members.iter().all(|member| names.insert(member.name.as_ref())) {
            Ok(Self(members))
        } else {
            Err(BodyProblem::Twice(place))
        }
    }

    /// The text of a member's value.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|member| member.name == name).map(|member| member.value)
    }

    /// A member that is a string.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name).and_then(text)
    }
}

/// Names and values of a JSON object as they stand in the text.
struct Spelled<'a>(Vec<(&'a str, &'a str)>);

impl<'de> Deserialize<'de> for Spelled<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Spelled<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Spelled<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                    members.push((name.get(), value.get()));
                }
                Ok(Spelled(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests;
