//! The command line's side of the admin socket: one question, one answer, a deadline.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Answer, Image, ImageHeader, KeyChange, KeysChanged, Request};
use crate::checkpoint::rendering::PodName;

/// How long each piece of the answer may take. The agent answers, or says that it can't, within five seconds; twice, if it
/// had to wait for our request.
const DEADLINE: Duration = Duration::from_secs(12);

/// The longest answer line, in octets: thousands of pods.
const ANSWER_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Why there is no answer. Nothing was changed, but by an agent that was asked to hold or release and did not say so.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error("no ckpt-db agent listens on {}", .0.display())]
    NoAgent(PathBuf),
    /// Only root and the agent's own user may ask.
    #[error("not allowed to ask the agent on {}: root only", .0.display())]
    Forbidden(PathBuf),
    /// It listens and does not answer.
    #[error("the agent on {} does not answer (nothing for {} seconds): it may be hung", .path.display(), .after.as_secs())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// How long it was waited.
        after: Duration,
    },
    /// It answered that it can't or won't.
    #[error("the agent says: {0}")]
    Refused(String),
    /// Something else than an agent of this version listens there.
    #[error("what {} answers can't be read as the answer of a ckpt-db agent: {what}", .path.display())]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The operating system refused.
    #[error("cannot ask the agent on {}", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Asks the agent that listens on a socket.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    deadline: Duration,
}

impl Client {
    /// A client of the agent that listens on `path`, if one does.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), deadline: DEADLINE }
    }

    /// Where it asks.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The status document as the agent sent it; [`super::super::status::CheckpointerStatus`] reads it.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn status(&self) -> Result<Value, AskError> {
        self.ask(&Request::Status)
    }

    /// Takes the copy of a pod away until [`Self::release`], or until the API server answers. Answers what happens now.
    ///
    /// # Errors
    /// [`AskError`]; if it is [`AskError::NoAnswer`], nobody knows what the agent does.
    pub fn hold(&self, pod: &PodName) -> Result<String, AskError> {
        self.ask(&Request::Hold(pod.clone()))
    }

    /// Lets the copy of a pod run again where it is due. Answers what happens now.
    ///
    /// # Errors
    /// As for [`Self::hold`].
    pub fn release(&self, pod: &PodName) -> Result<String, AskError> {
        self.ask(&Request::Release(pod.clone()))
    }

    /// Asks the agent to close the store for another instance, its own pod of this UID.
    ///
    /// # Errors
    /// As for [`Self::hold`].
    pub fn yield_store(&self, uid: &str) -> Result<String, AskError> {
        self.ask(&Request::Yield { uid: uid.to_owned() })
    }

    /// Has key slots of the store added, wrapped anew or removed.
    ///
    /// # Errors
    /// As for [`Self::hold`].
    pub fn change_keys(&self, change: &KeyChange) -> Result<KeysChanged, AskError> {
        self.ask(&Request::Keys(change.clone()))
    }

    /// A consistent image of the store that the agent keeps.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn image(&self) -> Result<Image, AskError> {
        let mut stream = self.send(&Request::Image)?;
        let ImageHeader { path, length } = self.read(&mut stream)?;
        let mut bytes = Vec::new();
        // It grows as octets come: the length is only what somebody says.
        stream.take(length).read_to_end(&mut bytes).map_err(|error| self.failed(error))?;
        if bytes.len() as u64 != length {
            return Err(self.garbled(format!("the image ends after {} of {length} octets", bytes.len())));
        }
        Ok(Image { path, bytes })
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, AskError> {
        let mut stream = self.send(request)?;
        self.read(&mut stream)
    }

    fn send(&self, request: &Request) -> Result<BufReader<UnixStream>, AskError> {
        let mut stream = UnixStream::connect(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NoAgent(self.path.clone()),
            io::ErrorKind::PermissionDenied => AskError::Forbidden(self.path.clone()),
            _ => self.failed(error),
        })?;
        let sent = (|| {
            stream.set_read_timeout(Some(self.deadline))?;
            stream.set_write_timeout(Some(self.deadline))?;
            match stream.write_all(&request.line()) {
                // Refused before it was read: the reason is there to be read.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                result => result,
            }
        })();
        sent.map_err(|error| self.failed(error))?;
        Ok(BufReader::new(stream))
    }

    fn read<T: DeserializeOwned>(&self, stream: &mut BufReader<UnixStream>) -> Result<T, AskError> {
        let mut line = Vec::new();
        stream.take(ANSWER_MAX_BYTES).read_until(b'\n', &mut line).map_err(|error| self.failed(error))?;
        if !line.ends_with(b"\n") {
            return Err(self.garbled(if line.is_empty() { "nothing at all" } else { "it is cut short" }));
        }
        match serde_json::from_slice(&line) {
            Ok(Answer::Ok(value)) => Ok(value),
            Ok(Answer::Error(why)) => Err(AskError::Refused(why)),
            Err(error) => Err(self.garbled(error.to_string())),
        }
    }

    fn failed(&self, source: io::Error) -> AskError {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                AskError::NoAnswer { path: self.path.clone(), after: self.deadline }
            }
            _ => AskError::Io { path: self.path.clone(), source },
        }
    }

    fn garbled(&self, what: impl Into<String>) -> AskError {
        AskError::Garbled { path: self.path.clone(), what: what.into() }
    }

    /// With another deadline, for tests of an agent that is hung.
    #[cfg(test)]
    pub(super) fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }
}
