//! A container runtime of our own on a Unix socket: it answers as it is told, in gRPC and otherwise.
//!
//! Its messages are put together from field numbers, not with the structs under test.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures_util::stream::{self, BoxStream, StreamExt as _};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

type Frames = BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>;

/// What comes back for a call.
pub(super) enum Reply {
    /// One message, and the status `OK`.
    Message(Vec<u8>),
    /// A status in front, without a message.
    Status(u16, &'static str),
    /// These pieces after the headers of gRPC, then the trailers if there are any.
    Pieces(Vec<Vec<u8>>, Option<&'static [(&'static str, &'static str)]>),
    /// These pieces, and then nothing more.
    Stall(Vec<Vec<u8>>),
    /// Not even headers.
    Silence,
    /// A status and a content type of HTTP.
    Http(u16, &'static str),
    /// A message each time that something is sent here; the end when the other side is gone.
    Events(tokio::sync::mpsc::UnboundedReceiver<()>),
    /// The whole connection breaks.
    Break,
}

/// The status `OK`.
pub(super) const OK: Option<&[(&str, &str)]> = Some(&[("grpc-status", "0")]);

type Script = Box<dyn FnMut(&str) -> Reply + Send>;

pub(super) struct Fake {
    pub(super) socket: PathBuf,
    /// The last part of each path that was asked for.
    pub(super) asked: Arc<Mutex<Vec<String>>>,
    /// Told when nothing more will come.
    pub(super) stalled: Arc<Notify>,
    /// Told when a connection was closed by the other side.
    pub(super) closed: Arc<Notify>,
    serving: JoinHandle<()>,
}

impl Fake {
    pub(super) fn at(socket: &Path, script: impl FnMut(&str) -> Reply + Send + 'static) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let (asked, stalled, closed) = <(Arc<Mutex<Vec<String>>>, Arc<Notify>, Arc<Notify>)>::default();
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(script)));
        let told = (Arc::clone(&asked), Arc::clone(&stalled), Arc::clone(&closed));
        let serving = tokio::spawn(async move {
            // All connections end with this task.
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (asked, stalled, closed) = told.clone();
                let script = Arc::clone(&script);
                let breaks = Arc::new(Notify::new());
                let broken = Arc::clone(&breaks);
                connections.spawn(async move {
                    let service = service_fn(|request: Request<Incoming>| {
                        let path = request.uri().path().to_owned();
                        assert_eq!(request.headers()["te"], "trailers");
                        let name = path.rsplit('/').next().unwrap().to_owned();
                        asked.lock().unwrap().push(name);
                        let reply = script.lock().unwrap()(&path);
                        answer(request, reply, Arc::clone(&stalled), Arc::clone(&breaks))
                    });
                    let connection =
                        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        _ = connection => closed.notify_one(),
                        () = broken.notified() => {}
                    }
                });
            }
        });
        Self { socket: socket.to_owned(), asked, stalled, closed, serving }
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// Ends it and all of its connections.
    pub(super) async fn stop(self) {
        self.serving.abort();
        let _ = self.serving.await;
        std::fs::remove_file(&self.socket).unwrap();
    }
}

async fn answer(
    request: Request<Incoming>,
    reply: Reply,
    stalled: Arc<Notify>,
    breaks: Arc<Notify>,
) -> Result<Response<StreamBody<Frames>>, Infallible> {
    let asked = request.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(asked, [0; 5][..], "an uncompressed message without a field");
    let mut response = Response::builder().header("content-type", "application/grpc");
    let mut frames: Frames = stream::empty().boxed();
    let data = |piece: Vec<u8>| Ok(Frame::data(Bytes::from(piece)));
    match reply {
        Reply::Message(message) => {
            frames = stream::iter([data(framed(&message)), Ok(Frame::trailers(trailers(OK.unwrap())))]).boxed();
        }
        Reply::Status(code, message) => {
            response = response.header("grpc-status", code.to_string()).header("grpc-message", message);
        }
        Reply::Pieces(pieces, end) => {
            let end = end.map(|end| Ok(Frame::trailers(trailers(end))));
            frames = stream::iter(pieces.into_iter().map(data).chain(end).collect::<Vec<_>>()).boxed();
        }
        Reply::Stall(pieces) => {
            let stall = async move {
                stalled.notify_one();
                std::future::pending().await
            };
            frames = stream::iter(pieces.into_iter().map(data).collect::<Vec<_>>()).chain(stream::once(stall)).boxed();
        }
        Reply::Silence => {
            stalled.notify_one();
            return std::future::pending().await;
        }
        Reply::Http(status, kind) => response = Response::builder().status(status).header("content-type", kind),
        Reply::Events(events) => {
            let end = stream::once(async { Ok(Frame::trailers(trailers(OK.unwrap()))) });
            let events = stream::unfold(events, |mut events| async move {
                let () = events.recv().await?;
                // `container_id` of a `ContainerEventResponse`.
                Some((Ok(Frame::data(Bytes::from(framed(&text(1, "c"))))), events))
            });
            frames = events.chain(end).boxed();
        }
        Reply::Break => {
            breaks.notify_one();
            return std::future::pending().await;
        }
    }
    Ok(response.body(StreamBody::new(frames)).unwrap())
}

fn trailers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

/// A message as it travels.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    framed
}

/// A field that is a number; its wire type is 0.
pub(super) fn number(tag: u8, value: u64) -> Vec<u8> {
    let mut field = vec![tag << 3];
    varint(value, &mut field);
    field
}

/// A field that is a text; its wire type is 2.
pub(super) fn text(tag: u8, value: &str) -> Vec<u8> {
    inner(tag, value.as_bytes())
}

/// A field that is a message; its wire type is 2.
pub(super) fn inner(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut field = vec![tag << 3 | 2];
    varint(value.len() as u64, &mut field);
    field.extend(value);
    field
}

/// A field that is a map: one message with key and value for each of its entries.
pub(super) fn map(tag: u8, entries: &[(&str, &str)]) -> Vec<u8> {
    entries.iter().flat_map(|(key, value)| inner(tag, &[text(1, key), text(2, value)].concat())).collect()
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}
