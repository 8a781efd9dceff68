//! One connection to the runtime, and gRPC on it: a request without content, answered by one message or by many.
//!
//! gRPC is framed by hand, on the hyper that is here for the API server anyway. What is needed of it is five bytes before a
//! message and a status behind it; tonic would bring four more crates, want a connector and a codec of ours all the same, and
//! put errors of its own over hyper's. Every request of the CRI that is made here has no field set, so that its message is empty.

use std::path::Path;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use super::ANSWER_MAX_BYTES;
use super::failure::{Failure, Problem};

/// Before each message: whether it is compressed, and its length, big-endian.
const PREFIX_BYTES: usize = 5;

/// A method of the CRI.
#[derive(Clone, Copy)]
pub(super) struct RpcMethod {
    /// Its name, for messages.
    pub(super) name: &'static str,
    /// Its path.
    pub(super) path: &'static str,
}

/// A connection that is used for one look, or for one stream of events. It ends when it is dropped.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects before `deadline`.
    pub(super) async fn open(socket: &Path, deadline: Instant) -> Result<Self, Failure> {
        let failed = |problem| Failure { attempted: "connect", problem };
        let stream = timeout_at(deadline, UnixStream::connect(socket)).await;
        let stream = stream.map_err(|_| failed(Problem::Late))?.map_err(|e| failed(Problem::of_connecting(e)))?;
        // No pings: gRPC servers in Go close a connection that sends them more often than each five minutes.
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = timeout_at(deadline, handshake)
            .await
            .map_err(|_| failed(Problem::Late))?
            .map_err(|error| failed(Problem::of_http(&error)))?;
        // It ends with the sender and the last answer. Its error is also that of the request that is under way.
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Asks, and reads the whole answer before `deadline`.
    pub(super) async fn ask<T: prost::Message + Default>(
        &mut self,
        method: RpcMethod,
        deadline: Instant,
    ) -> Result<T, Failure> {
        let whole = async {
            let mut answer = self.begin(method).await?;
            let message = answer.only_message().await?;
            T::decode(message).map_err(|error| Problem::Garbage(error.to_string()))
        };
        let whole = timeout_at(deadline, whole).await.unwrap_or(Err(Problem::Late));
        whole.map_err(|problem| Failure { attempted: method.name, problem })
    }

    /// Asks, and waits for the answer to begin, for as long as it takes.
    pub(super) async fn begin(&mut self, method: RpcMethod) -> Result<Answer, Problem> {
        let mut request = Request::new(Full::new(Bytes::from_static(&[0; PREFIX_BYTES])));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        // The host is what gRPC clients write for a Unix socket; a path of one is not allowed there.
        *request.uri_mut() = Uri::builder()
            .scheme("http")
            .authority("localhost")
            .path_and_query(method.path)
            .build()
            .expect("a method's path is one of a URL");
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        let response = self.sender.send_request(request).await.map_err(|error| Problem::of_http(&error))?;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(Problem::Garbage(format!("HTTP status {}", head.status.as_u16())));
        }
        let grpc = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/grpc");
        if !head.headers.get(CONTENT_TYPE).is_some_and(grpc) {
            return Err(Problem::Garbage("it is not gRPC".to_owned()));
        }
        // An answer without a message has its status in front.
        match status(&head.headers) {
            Some(Err(problem)) => Err(problem),
            Some(Ok(())) | None => Ok(Answer { body, status: status(&head.headers) }),
        }
    }
}

/// An answer on its way. Dropping it ends the call.
pub(super) struct Answer {
    body: Incoming,
    status: Option<Result<(), Problem>>,
}

impl Answer {
    /// The next piece of its messages, of any length; none at an end with the status `OK`.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, Problem> {
        while let Some(frame) = self.body.frame().await {
            match frame.map_err(|error| Problem::of_http(&error))?.into_data() {
                Ok(data) => return Ok(Some(data)),
                Err(frame) => self.status = frame.trailers_ref().and_then(status).or(self.status.take()),
            }
        }
        match self.status.take() {
            Some(Ok(())) => Ok(None),
            Some(Err(problem)) => Err(problem),
            None => Err(Problem::Garbage("it ends without a gRPC status".to_owned())),
        }
    }

    /// The message of an answer that has one.
    async fn only_message(&mut self) -> Result<Bytes, Problem> {
        let mut whole = Vec::new();
        while let Some(piece) = self.piece().await? {
            whole.extend_from_slice(&piece);
            let announced = match whole.first_chunk::<PREFIX_BYTES>() {
                Some([_, length @ ..]) => u32::from_be_bytes(*length) as usize,
                None => 0,
            };
            if announced > ANSWER_MAX_BYTES || whole.len() > PREFIX_BYTES + ANSWER_MAX_BYTES {
                return Err(Problem::TooLong);
            }
        }
        let Some(([compressed, length @ ..], message)) = whole.split_first_chunk::<PREFIX_BYTES>() else {
            return Err(Problem::Garbage("it holds no message".to_owned()));
        };
        if *compressed != 0 || u32::from_be_bytes(*length) as usize != message.len() {
            return Err(Problem::Garbage("it is compressed, cut off, or more than one message".to_owned()));
        }
        Ok(Bytes::from(whole).slice(PREFIX_BYTES..))
    }
}

/// The gRPC status that headers or trailers carry, if they do.
fn status(headers: &HeaderMap) -> Option<Result<(), Problem>> {
    let code = headers.get("grpc-status")?.to_str().ok().and_then(|code| code.parse().ok());
    let message = headers.get("grpc-message").map_or(&b""[..], HeaderValue::as_bytes);
    Some(match code {
        Some(0) => Ok(()),
        Some(code) => Err(Problem::of_status(code, message)),
        None => Err(Problem::Garbage("its gRPC status is no number".to_owned())),
    })
}
