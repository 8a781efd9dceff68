//! What can go wrong with an answer, and how often: [`Fault`] in words of what the client sees.
//!
//! A fault strikes at one of four stages, and one fault of each stage can strike the same answer:
//! in place of the answer; its content (a body, or each event of a watch); its delivery (the same); its place among the
//! events of a watch. A fault that is set to strike `n` times on a watch strikes `n` events, bookmarks included.

use std::sync::Arc;
use std::time::Duration;

use ckpt_db::checkpoint::object::Kind;
use serde_json::{Value, json};

use super::request::{Match, Request};

/// Stands in every broken Secret: no log may show it.
pub(crate) const CANARY: &str = "canary-8d1f-in-a-broken-secret";

type Rewrite = Arc<dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync>;

#[derive(Clone)]
pub(crate) enum Fault {
    /// In place of the answer: a `Status` with this code, and `Retry-After` in seconds.
    Status { code: u16, message: String, retry_after_s: Option<u32> },
    /// In place of the answer: any page.
    Page { code: u16, content_type: &'static str, body: Vec<u8> },
    /// In place of the answer: nothing, until the client gives up.
    Hang,
    /// In place of the answer: the TCP connection ends, as when the server process is killed.
    Close,
    /// In place of the answer: the TCP connection is reset.
    Reset,
    /// In place of the answer: RST_STREAM; the connection stays.
    ResetStream,

    /// Content: rewritten bytes. See the constructors.
    Content(Rewrite),

    /// Delivery: half of it, then this end.
    Cut(End),
    /// Delivery: pieces of so many bytes, the first at once, each other when [`super::Server::advance`] has moved the
    /// server's clock so far.
    Drip { bytes: usize, every: Duration },

    /// Among events: sent twice.
    Twice,
    /// Among events: sent after the next one.
    Later,
    /// Among events: never sent.
    Lost,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As if it were complete.
    Clean,
    /// RST_STREAM.
    Stream,
    /// The TCP connection ends.
    Connection,
}

/// How often a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Times {
    Once,
    Count(usize),
    Forever,
}

/// What is wrong with a Secret of [`Fault::broken_secret`]. Each carries the [`CANARY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// `data` is a string.
    DataType,
    /// A value of `data` is a list.
    ValueType,
    /// A byte sequence that is no UTF-8, in a value.
    Utf8,
    /// A value that is no base64.
    Base64,
    /// A brace too much: no JSON.
    Syntax,
}

impl Fault {
    /// A `Status` of this code with the server's usual words.
    pub(crate) fn status(code: u16) -> Self {
        let message = match code {
            401 => "Unauthorized",
            403 => "forbidden: the fake server says so",
            404 => "the fake server does not know it",
            410 => "The resourceVersion for the provided list is too old.",
            429 => "the server has received too many requests and has asked us to try again later",
            500 => "etcdserver: request timed out",
            503 => "apiserver not ready",
            _ => "the fake server says so",
        };
        Self::Status { code, message: message.to_owned(), retry_after_s: None }
    }

    pub(crate) fn too_many_requests(retry_after_s: u32) -> Self {
        let Self::Status { code, message, .. } = Self::status(429) else { unreachable!("a status was asked for") };
        Self::Status { code, message, retry_after_s: Some(retry_after_s) }
    }

    /// What an API server whose cache lags behind says to a version that it hasn't seen yet.
    pub(crate) fn too_large_resource_version() -> Self {
        let message = "Too large resource version: 2000, current: 1000".to_owned();
        Self::Status { code: 504, message, retry_after_s: Some(1) }
    }

    /// A captive portal's page, with status 200.
    pub(crate) fn html() -> Self {
        let body = b"<!DOCTYPE html><html><body>Please log in</body></html>".to_vec();
        Self::Page { code: 200, content_type: "text/html", body }
    }

    /// Edits the JSON: a listing, an object, or an event of a watch.
    pub(crate) fn edit(edit: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::Content(Arc::new(move |bytes| {
            let mut value = serde_json::from_slice(&bytes).expect("the server's own JSON");
            edit(&mut value);
            let mut edited = value.to_string().into_bytes();
            if bytes.ends_with(b"\n") {
                edited.push(b'\n'); // an event is a line
            }
            edited
        }))
    }

    /// Edits each object of the JSON: those of a listing, the one of an event, or the object itself.
    pub(crate) fn edit_objects(edit: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::edit(move |value| {
            if let Some(items) = value.get_mut("items") {
                items.as_array_mut().expect("a listing of our own").iter_mut().for_each(&edit);
            } else if let Some(object) = value.get_mut("object") {
                edit(object);
            } else {
                edit(value);
            }
        })
    }

    /// A complete answer of another kind.
    pub(crate) fn wrong_kind() -> Self {
        Self::edit(|value| {
            let root = if value.get("object").is_some() { &mut value["object"] } else { value };
            root["kind"] = json!(if root.get("items").is_some() { "NamespaceList" } else { "Namespace" });
        })
    }

    /// A listing without `items`.
    pub(crate) fn without_items() -> Self {
        Self::edit(|list| {
            list.as_object_mut().expect("a listing").shift_remove("items");
        })
    }

    /// A listing, or objects, without `metadata.resourceVersion`.
    pub(crate) fn without_resource_version() -> Self {
        fn remove(value: &mut Value) {
            value["metadata"].as_object_mut().expect("it has metadata").shift_remove("resourceVersion");
        }
        Self::edit(|value| match value.get_mut("object") {
            Some(object) => remove(object),
            None => remove(value),
        })
    }

    /// A listing with nothing in it.
    pub(crate) fn empty_listing() -> Self {
        Self::edit(|list| list["items"] = json!([]))
    }

    /// A listing that lacks these names.
    pub(crate) fn lacking(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Self::edit(move |list| {
            let items = list["items"].as_array_mut().expect("a listing");
            items.retain(|item| !names.iter().any(|name| item["metadata"]["name"] == **name));
        })
    }

    /// Objects with an annotation of so many bytes.
    pub(crate) fn padded(bytes: usize) -> Self {
        Self::edit_objects(move |object| object["metadata"]["annotations"]["padding"] = json!("x".repeat(bytes)))
    }

    /// JSON that stops in the middle while the answer ends as if it were complete.
    pub(crate) fn truncated() -> Self {
        Self::Cut(End::Clean)
    }

    /// Secrets that are broken in one way, and contain the [`CANARY`].
    pub(crate) fn broken_secret(broken: Broken) -> Self {
        const HERE: &str = "<not UTF-8>";
        let edit = Self::edit_objects(move |secret| match broken {
            Broken::DataType => secret["data"] = json!(CANARY),
            Broken::ValueType => secret["data"]["password"] = json!([CANARY]),
            Broken::Base64 => secret["data"]["password"] = json!(format!("{CANARY}!")),
            Broken::Utf8 => secret["data"]["password"] = json!(format!("{CANARY}{HERE}{CANARY}")),
            Broken::Syntax => secret["data"]["password"] = json!(CANARY),
        });
        let Self::Content(edit) = edit else { unreachable!("an edit is content") };
        Self::Content(Arc::new(move |bytes| match broken {
            Broken::Utf8 => replaced(edit(bytes), HERE.as_bytes(), &[0xff, 0xfe]),
            Broken::Syntax => replaced(edit(bytes), b"\"data\":{", b"\"data\":{{"),
            Broken::DataType | Broken::ValueType | Broken::Base64 => edit(bytes),
        }))
    }

    pub(super) fn stage(&self) -> Stage {
        match self {
            Self::Status { .. } | Self::Page { .. } | Self::Hang | Self::Close | Self::Reset | Self::ResetStream => {
                Stage::Answer
            }
            Self::Content(_) => Stage::Content,
            Self::Cut(_) | Self::Drip { .. } => Stage::Delivery,
            Self::Twice | Self::Later | Self::Lost => Stage::Event,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Answer,
    Content,
    Delivery,
    Event,
}

fn replaced(bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(bytes.len());
    let mut rest = bytes.as_slice();
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        result.extend([&rest[..at], to].concat());
        rest = &rest[at + from.len()..];
    }
    result.extend(rest);
    result
}

/// The faults that are set, in the order in which they were set: of those that fit, the first strikes.
#[derive(Default)]
pub(super) struct Faults(Vec<(Match, Fault, Times)>);

impl Faults {
    pub(super) fn set(&mut self, on: Match, fault: Fault, times: Times) {
        self.0.push((on, fault, times));
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The fault that strikes this request at this stage, which is then used up by one.
    pub(super) fn take(&mut self, request: &Request, stage: Stage) -> Option<Fault> {
        let at = self.0.iter().position(|(on, fault, _)| fault.stage() == stage && on.matches(request))?;
        let (_, fault, times) = &mut self.0[at];
        let fault = fault.clone();
        match times {
            Times::Forever => {}
            Times::Count(left) if *left > 1 => *left -= 1,
            Times::Once | Times::Count(_) => {
                self.0.remove(at);
            }
        }
        Some(fault)
    }
}

/// An event of a watch as a line.
pub(super) fn event_line(event: &str, object: &Value) -> Vec<u8> {
    format!("{{\"type\":\"{event}\",\"object\":{object}}}\n").into_bytes()
}

/// A `Status` as the API server words it.
pub(super) fn status_body(code: u16, message: &str, on: Option<(Kind, &str)>, retry_after_s: Option<u32>) -> Value {
    let reason = match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    };
    let mut body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
    });
    if let Some((kind, name)) = on {
        body["details"] = json!({"name": name, "kind": kind.row().plural});
    }
    if message.starts_with("Too large resource version") {
        let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
        body["details"]["causes"] = json!([cause]);
    }
    if let Some(seconds) = retry_after_s {
        body["details"]["retryAfterSeconds"] = json!(seconds);
    }
    body["code"] = json!(code);
    body
}
