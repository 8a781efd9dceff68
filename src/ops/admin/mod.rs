//! The admin socket: how the command line asks the running agent. Root, and the agent's own user, only.
//!
//! A client connects, sends one line of JSON and reads one line: `{"ok": ...}` or `{"error": "..."}`. After the answer to
//! `{"get": "image"}` follow as many octets as its `length` says.

mod client;
mod keys;
mod server;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::status::{API_VERSION, CheckpointerStatus};
use crate::checkpoint::rendering::PodName;

pub use client::{AskError, Client};
pub use keys::{KeyChange, KeysChanged};
pub use server::{BindError, Listening};

/// What an agent says that has no store open at the moment, and tries to.
pub const NO_STORE: &str = "can't be written to now";

/// The longest request line, in octets.
const REQUEST_MAX_BYTES: usize = 64 * 1024;

/// What the agent can be asked for. The agent implements it; [`Listening::serve`] speaks for it.
///
/// An `Err` is said to whoever asked, as it is: one sentence, without values of objects.
pub trait Admin: Send + Sync + 'static {
    /// What it knows at this moment.
    fn status(&self) -> impl Future<Output = Result<CheckpointerStatus, String>> + Send;

    /// Takes the copy of a pod away and keeps it away until [`Self::release`] or the API server answers. Answers what
    /// happens now, in one sentence.
    fn hold(&self, pod: PodName) -> impl Future<Output = Result<String, String>> + Send;

    /// Lets the copy of a pod run again where it is due. Answers what happens now, in one sentence.
    fn release(&self, pod: PodName) -> impl Future<Output = Result<String, String>> + Send;

    /// A consistent image of the store.
    fn image(&self) -> impl Future<Output = Result<Image, String>> + Send;

    /// Another instance, the agent's pod of this UID, wants to take over. `Ok` promises that the store is closed soon.
    fn yield_store(&self, uid: String) -> impl Future<Output = Result<String, String>> + Send;

    /// Key slots are to be added, wrapped anew or removed. Answers which were.
    fn change_keys(&self, change: KeyChange) -> impl Future<Output = Result<KeysChanged, String>> + Send;
}

/// A consistent image of a store, as `store::open_image` reads it. Secrets are sealed in it as they are in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The file that it is an image of.
    pub path: PathBuf,
    /// Its octets.
    pub bytes: Vec<u8>,
}

/// The line before an image.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImageHeader {
    path: PathBuf,
    length: u64,
}

/// The one line that answers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer<T> {
    Ok(T),
    Error(String),
}

/// What is asked. Not printable: it may carry secrets.
#[derive(Clone)]
enum Request {
    Status,
    Image,
    Hold(PodName),
    Release(PodName),
    Yield { uid: String },
    Keys(KeyChange),
}

/// A request as it is written.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line<'a> {
    api_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    get: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<String>,
    #[serde(rename = "yield", skip_serializing_if = "Option::is_none")]
    give_up: Option<Yield>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    keys: Option<keys::Line<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Yield {
    uid: String,
}

impl Request {
    fn line(&self) -> Zeroizing<Vec<u8>> {
        let mut line = Line { api_version: API_VERSION.to_owned(), ..Line::default() };
        let secrets;
        match self {
            Self::Status => line.get = Some("status".to_owned()),
            Self::Image => line.get = Some("image".to_owned()),
            Self::Hold(pod) => line.hold = Some(pod.to_string()),
            Self::Release(pod) => line.release = Some(pod.to_string()),
            Self::Yield { uid } => line.give_up = Some(Yield { uid: uid.clone() }),
            Self::Keys(change) => {
                secrets = change.texts();
                line.keys = Some(change.line(&secrets));
            }
        }
        // All room at once: growing would leave copies of secrets behind.
        let mut text = Zeroizing::new(Vec::with_capacity(REQUEST_MAX_BYTES));
        serde_json::to_writer(&mut *text, &line).expect("a value of strings is always JSON");
        text.push(b'\n');
        text
    }

    fn parse(line: &[u8]) -> Result<Self, String> {
        // The name of a member may be written with escapes.
        let has_secrets = line.windows(8).any(|octets| octets == b"\"secret\"") || line.contains(&b'\\');
        let line: Line<'_> = serde_json::from_slice(line).map_err(|error| match has_secrets {
            false => format!("the request can't be read: {error}"),
            // What it says of a value that does not fit is that value.
            true => format!("the request can't be read, at its octet {}", error.column()),
        })?;
        if line.api_version != API_VERSION {
            return Err(format!("this agent speaks {API_VERSION} only; use the ckpt-db of its version"));
        }
        match (line.get.as_deref(), line.hold, line.release, line.give_up, line.keys) {
            (Some("status"), None, None, None, None) => Ok(Self::Status),
            (Some("image"), None, None, None, None) => Ok(Self::Image),
            (None, Some(pod), None, None, None) => Ok(Self::Hold(pod_name(&pod)?)),
            (None, None, Some(pod), None, None) => Ok(Self::Release(pod_name(&pod)?)),
            (None, None, None, Some(Yield { uid }), None) => Ok(Self::Yield { uid }),
            (None, None, None, None, Some(keys)) => Ok(Self::Keys(keys.change()?)),
            _ => {
                Err("the request must ask for one thing that this agent knows: get status, get image, hold, release, \
                      yield or keys"
                    .to_owned())
            }
        }
    }
}

/// `namespace/name`.
///
/// # Errors
/// It is not of that form; nothing is checked of the two parts but that they are not empty.
pub fn pod_name(text: &str) -> Result<PodName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(PodName { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        _ => Err(format!("{text:?} does not name a pod as NAMESPACE/NAME")),
    }
}
