//! The listener and its TCP connections: TLS and HTTP/2, and the ways in which they stop.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use http::header::AUTHORIZATION;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::Shared;
use super::answer::answer;
use super::request::Request;

/// A port that is held whether or not the server listens, so that it can stop and come back.
pub(super) fn reserve(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

pub(super) fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        // A connection that its client has given up already is no reason to stop.
        let Ok((tcp, _)) = listener.accept().await else { continue };
        let (orders, received) = mpsc::unbounded_channel();
        // Listed at once: whoever closes all connections misses none.
        let connection = shared.change_connections(|state| {
            state.opened += 1;
            let connection = Arc::new(Connection { number: state.opened, orders, reset: AtomicBool::new(false) });
            state.connections.insert(connection.number, Arc::clone(&connection));
            connection
        });
        let listed = Listed { shared: Arc::clone(&shared), number: connection.number };
        tokio::spawn(serve(listed, connection, received, tcp));
    }
}

enum Order {
    Close,
    GoAway,
    /// To write everything that is queued, and then say so.
    Flush(oneshot::Sender<()>),
}

/// One TCP connection, as others see it.
pub(super) struct Connection {
    number: u64,
    orders: mpsc::UnboundedSender<Order>,
    reset: AtomicBool,
}

impl Connection {
    /// FIN without a word of TLS or HTTP, as when the process dies. What the client still sends goes nowhere.
    pub(super) fn close(&self) {
        let _ = self.orders.send(Order::Close);
    }

    /// RST.
    pub(super) fn reset(&self) {
        self.reset.store(true, Ordering::SeqCst);
        self.close();
    }

    /// GOAWAY: no further requests; those under way are completed.
    pub(super) fn go_away(&self) {
        let _ = self.orders.send(Order::GoAway);
    }

    /// Returns when everything that was sent so far is with the kernel (or the connection is gone). Flow control of the
    /// client may hold back what exceeds its window.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        let _ = self.orders.send(Order::Flush(done));
        let _ = flushed.await;
    }
}

/// Takes the connection off the list, however it ends.
struct Listed {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shared.change_connections(|state| state.connections.remove(&self.number));
    }
}

async fn serve(
    listed: Listed,
    connection: Arc<Connection>,
    mut received: mpsc::UnboundedReceiver<Order>,
    tcp: TcpStream,
) {
    let shared = &listed.shared;
    let (config, streams) =
        shared.read(|state| (Arc::clone(&state.credentials.tls), state.options.streams_per_connection));
    let (gate, traffic) = (Arc::clone(&shared.gate), Arc::clone(&shared.traffic));
    let valve = Valve { tcp: Some(tcp), gate, traffic, connection: Arc::clone(&connection) };
    let mut handshake = pin!(TlsAcceptor::from(config).accept(valve));
    let tls = loop {
        tokio::select! {
            order = received.recv() => if let Some(Order::Close) | None = order { return },
            tls = &mut handshake => break tls,
        }
    };
    let Ok(tls) = tls else { return };
    let peer: Option<CertificateDer<'static>> =
        tls.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|end| end.clone().into_owned());
    let service = service_fn({
        let (shared, connection) = (Arc::clone(shared), Arc::clone(&connection));
        move |http| {
            let request = arrive(&shared, connection.number, peer.as_ref(), &http);
            answer(Arc::clone(&shared), Arc::clone(&connection), request)
        }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.max_concurrent_streams(streams);
    let mut http = pin!(builder.serve_connection(TokioIo::new(tls), service));
    loop {
        tokio::select! {
            biased;
            order = received.recv() => match order {
                Some(Order::Close) | None => return,
                Some(Order::GoAway) => http.as_mut().graceful_shutdown(),
                Some(Order::Flush(done)) => {
                    // One turn of the connection writes all that its streams have queued.
                    let ended = std::future::poll_fn(|context| Poll::Ready(http.as_mut().poll(context).is_ready())).await;
                    let _ = done.send(());
                    if ended {
                        return;
                    }
                }
            },
            _ = http.as_mut() => return,
        }
    }
}

/// Puts the request into the log.
fn arrive(
    shared: &Shared,
    connection: u64,
    certificate: Option<&CertificateDer<'_>>,
    http: &http::Request<Incoming>,
) -> Request {
    let mut request = Request::parse(http.method().as_str(), http.uri().path(), http.uri().query().unwrap_or_default());
    let authorization = http.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = authorization.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    shared.log_new(|state| {
        let who = state.credentials.who(certificate, token);
        request.number = state.requests + 1;
        request.connection = connection;
        request.certificate = who.as_ref().and_then(|who| who.certificate);
        request.user = who.map(|who| who.user);
        request.open = true;
        request
    })
}

/// Whether bytes pass, for all connections at once.
#[derive(Default)]
pub(super) struct Gate(Mutex<Closed>);

#[derive(Default)]
struct Closed {
    closed: bool,
    waiting: Vec<Waker>,
}

impl Gate {
    pub(super) fn close(&self) {
        self.0.lock().unwrap().closed = true;
    }

    pub(super) fn open(&self) {
        let waiting = {
            let mut state = self.0.lock().unwrap();
            state.closed = false;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock().unwrap();
        if !state.closed {
            return Poll::Ready(());
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            state.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}

/// A TCP stream through which nothing passes while the gate is closed. The kernel goes on answering for it, as it does for
/// a process that is stopped.
struct Valve {
    /// There until it is dropped.
    tcp: Option<TcpStream>,
    gate: Arc<Gate>,
    traffic: Arc<Traffic>,
    connection: Arc<Connection>,
}

/// Bytes that went over all connections, TLS included, TCP and IP not.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
}

impl Valve {
    fn poll_tcp(&mut self, context: &Context<'_>) -> Poll<Pin<&mut TcpStream>> {
        ready!(self.gate.poll(context));
        Poll::Ready(Pin::new(self.tcp.as_mut().expect("there until it is dropped")))
    }
}

impl Drop for Valve {
    /// The kernel makes an RST of a close with bytes unread, which is so or not by chance: a reset shall be one, and
    /// everything else a FIN.
    fn drop(&mut self) {
        let Some(mut tcp) = self.tcp.take() else { return };
        if self.connection.reset.load(Ordering::SeqCst) {
            let _ = tcp.set_zero_linger();
            return;
        }
        let _ = Pin::new(&mut tcp).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await });
        }
    }
}

impl AsyncRead for Valve {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = ready!(ready!(self.poll_tcp(context)).poll_read(context, into));
        self.traffic.received.fetch_add((into.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Valve {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(ready!(self.poll_tcp(context)).poll_write(context, bytes));
        self.traffic.sent.fetch_add(*written.as_ref().unwrap_or(&0) as u64, Ordering::Relaxed);
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_tcp(context)).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_tcp(context)).poll_shutdown(context)
    }
}

/// The connections that are open, by number.
pub(super) type Connections = BTreeMap<u64, Arc<Connection>>;
