//! A server on loopback, with TLS and HTTP/2, and things that are none.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;

use futures_util::stream::{self, StreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;

use super::super::super::testing::{Authority, NOW, cluster};
use super::*;

type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

fn whole(status: u16, body: impl Into<Bytes>) -> Answer {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(status).body(body).unwrap()
}

fn pieces(pieces: Vec<Result<&'static str, std::io::Error>>, ends: bool) -> Answer {
    let pieces = stream::iter(pieces).map(|piece| piece.map(|text| Frame::data(Bytes::from_static(text.as_bytes()))));
    let pieces = if ends { pieces.boxed() } else { pieces.chain(stream::pending()).boxed() };
    Response::new(UnsyncBoxBody::new(StreamBody::new(pieces)))
}

/// What the server was asked for and what it knows.
#[derive(Default)]
pub(super) struct Known {
    pub(super) accepted: AtomicUsize,
    /// How many pages of an endless listing were asked for.
    pub(super) pages: AtomicUsize,
    /// The token that it takes.
    pub(super) token: StdMutex<String>,
    /// Ends the connections that there are, in order.
    pub(super) go_away: Notify,
    /// Breaks off the answer to `/cut`.
    pub(super) cut: Notify,
}

async fn answer(request: Request<Incoming>, known: Arc<Known>) -> Answer {
    let header = |name: &str| request.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let status = |code: u16, reason: &str| {
        let text = format!(
            r#"{{"kind":"Status","message":"{SECRET}","reason":"{reason}","details":{{"retryAfterSeconds":7}},"code":{code}}}"#
        );
        whole(code, text)
    };
    match request.uri().path() {
        "/fine" => whole(200, "fine"),
        "/prefix/fine" => whole(200, "with a prefix"),
        "/headers" => whole(200, [header("accept"), header("user-agent"), header("authorization")].join("|")),
        "/token" if header("authorization") == format!("Bearer {}", known.token.lock().unwrap()) => whole(200, "known"),
        "/token" => status(401, "Unauthorized"),
        "/broken-secret" => whole(200, format!(r#"{{"kind":"Secret","data":{{"key":"{SECRET}","#)),
        "/forbidden" => status(403, "Forbidden"),
        "/gone" => status(410, "Expired"),
        "/odd-reason" => status(500, &format!("{SECRET} 1")),
        "/busy" => {
            let mut busy = whole(429, format!("Too many requests {SECRET}"));
            busy.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("3"));
            busy
        }
        "/redirect" => whole(302, ""),
        "/large" => whole(200, vec![b'x'; 100_000]),
        "/large-unannounced" => pieces((0..10).map(|_| Ok("0123456789")).collect(), true),
        "/silent" => std::future::pending().await,
        "/stalls" => pieces(vec![Ok("begin")], false),
        "/cut" => {
            let cut = async move {
                known.cut.notified().await;
                Err(std::io::Error::other("cut"))
            };
            let begin = stream::iter([Ok(Frame::data(Bytes::from_static(b"begin")))]);
            Response::new(UnsyncBoxBody::new(StreamBody::new(begin.chain(stream::once(cut)))))
        }
        "/api/v1/pods" => {
            let list = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1","continue":"again"}}"#;
            known.pages.fetch_add(1, Ordering::Relaxed);
            whole(200, list)
        }
        "/api/v1/namespaces/d/secrets" => whole(200, vec![b' '; 16 * 1024 * 1024 + 1]),
        "/watch-quiet" => pieces(vec![], false),
        "/watch" => pieces(vec![Ok("one\n"), Ok("two\n")], false),
        "/watch-ends" => pieces(vec![Ok("one\n"), Ok(""), Ok("two\n")], true),
        other => whole(404, format!("{other} {SECRET}")),
    }
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) known: Arc<Known>,
    pub(super) dir: tempfile::TempDir,
    pub(super) authority: Authority,
}

impl Server {
    pub(super) async fn new() -> Self {
        Self::with(&["127.0.0.1"], NOW, &[b"h2"]).await
    }

    pub(super) async fn with(names: &[&str], years: (i32, i32), alpn: &[&[u8]]) -> Self {
        let authority = Authority::new();
        let issued = authority.issue(names, "kube-apiserver", years);
        let config = ServerConfig::builder().with_no_client_auth();
        Self::start(authority, config.with_single_cert(issued.chain.clone(), issued.key_der()).unwrap(), alpn).await
    }

    pub(super) async fn start(authority: Authority, mut tls: ServerConfig, alpn: &[&[u8]]) -> Self {
        tls.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let known = Arc::new(Known::default());
        *known.token.lock().unwrap() = TOKEN.to_owned();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let server = Self { address, known: Arc::clone(&known), dir: tempfile::tempdir().unwrap(), authority };
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                known.accepted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(tcp, acceptor.clone(), Arc::clone(&known)));
            }
        });
        server
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(super) fn credentials(&self, user: &str) -> Credentials {
        load(self.dir.path(), &cluster(&self.url(), &self.authority), user)
    }

    pub(super) fn connections(&self) -> Connections {
        Connections::new(&self.credentials(&format!("token: {TOKEN}")), Limits::default())
    }
}

async fn serve(tcp: TcpStream, acceptor: TlsAcceptor, known: Arc<Known>) {
    let Ok(tls) = acceptor.accept(tcp).await else { return };
    let service = service_fn(|request| {
        let known = Arc::clone(&known);
        async move { Ok::<_, Infallible>(answer(request, known).await) }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .serve_connection(TokioIo::new(tls), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = known.go_away.notified() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Passes bytes on until it is told to stop, and keeps the connections open then.
pub(super) async fn relay(to: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            let (mut from, _) = listener.accept().await.unwrap();
            let mut stopped = stopped.clone();
            tokio::spawn(async move {
                let mut to = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut from, &mut to) => return,
                    _ = stopped.changed() => {}
                }
                std::future::pending::<()>().await;
            });
        }
    });
    (address, stop)
}

/// Says one thing to whoever connects, and keeps the connection.
pub(super) async fn talker(says: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tcp.write_all(says).await.unwrap();
            kept.push(tcp);
        }
    });
    format!("https://{address}")
}
