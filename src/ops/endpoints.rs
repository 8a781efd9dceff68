//! Serves metrics and health over HTTP/1, on loopback unless told otherwise: few connections, short requests, a deadline for
//! each. It carries nothing that a Secret holds, and changes nothing.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::clients::Clients;
use super::health::Health;
use super::metrics;

pub use self::address::{Address, AddressError, DEFAULT_PORT};

mod address;

/// How many connections are served at a time; one more is closed at once.
const CONNECTIONS_MAX: usize = 8;

/// The longest request line with its headers: the least that hyper takes.
const REQUEST_MAX_BYTES: usize = 8 * 1024;

/// How long a client may take to ask.
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// How long it may take to look, which waits for a disk at times.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

/// How many may look at a time. On a disk that hangs a thread looks for ever, whoever has ceased to wait for it.
const LOOKS_MAX: usize = CONNECTIONS_MAX;

/// How long a connection may last.
const DONE_WITHIN: Duration = Duration::from_secs(15);

/// After this long an address that is not to be had is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Who knows. Asked from threads that may wait.
pub trait Pages: Send + Sync + 'static {
    /// Everything in Prometheus' text format.
    fn metrics(&self) -> String;

    /// How the agent does.
    fn health(&self) -> Health;
}

/// Who knows, and how many of the threads that ask it there may be.
#[derive(Clone)]
struct Looks {
    pages: Arc<dyn Pages>,
    places: Arc<Semaphore>,
    /// Whether it is told why a check fails: that may name files and nodes, and is for whoever is on this one.
    reasons: bool,
}

/// Answers at `address` for ever. Where it can't be had that is a warning, once for each reason, and it is tried again.
pub async fn serve(address: SocketAddr, pages: Arc<dyn Pages>) -> Infallible {
    serve_on(listen(address).await, pages).await
}

async fn serve_on(listener: TcpListener, pages: Arc<dyn Pages>) -> Infallible {
    let mut clients = Clients::new("metrics", CONNECTIONS_MAX);
    let near = listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let looks = Looks { pages, places: Arc::new(Semaphore::new(LOOKS_MAX)), reasons: near };
    loop {
        let Some((stream, _)) = clients.come(listener.accept().await).await else { continue };
        let Some(place) = clients.place() else { continue };
        let looks = looks.clone();
        clients.serve(place, async move {
            // Whoever is too slow, or speaks no HTTP, is not answered.
            let _ = timeout(DONE_WITHIN, connection(stream, looks)).await;
        });
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    let mut said = None;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                if said.is_some() {
                    tracing::info!("metrics and health are served at {address} now");
                }
                return listener;
            }
            Err(error) => {
                if said != Some(error.kind()) {
                    let todo = match error.kind() {
                        io::ErrorKind::AddrInUse => "; give another one with --metrics-bind-address, or 0 for none",
                        _ => "",
                    };
                    tracing::warn!(
                        "metrics and health are not served: cannot listen at {address}: {error} (tried again until it \
                         works; all else goes on{todo})"
                    );
                    said = Some(error.kind());
                }
            }
        }
        sleep(AGAIN_AFTER).await;
    }
}

async fn connection(stream: TcpStream, looks: Looks) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let looks = looks.clone();
        async move { Ok::<_, Infallible>(answer(request, looks).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ASK_WITHIN)
        .max_buf_size(REQUEST_MAX_BYTES)
        // A request is rare, and a connection that waits for the next one takes a place.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// Whatever comes with the request is not read.
async fn answer(request: Request<Incoming>, Looks { pages, places, reasons }: Looks) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    let Ok(place) = places.try_acquire_owned() else { return too_long() };
    let look = move || match path.as_str() {
        "/metrics" => {
            let mut page = plain(StatusCode::OK, pages.metrics());
            page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
            page
        }
        _ if !["/livez", "/readyz"].iter().any(|known| path.starts_with(known)) => not_found(),
        _ => match health(&*pages, reasons).answer(&path, &query) {
            Some((true, text)) => plain(StatusCode::OK, text),
            Some((false, text)) => plain(StatusCode::INTERNAL_SERVER_ERROR, text),
            None => not_found(),
        },
    };
    let looked = spawn_blocking(move || {
        let looked = look();
        drop(place);
        looked
    });
    match timeout(LOOK_WITHIN, looked).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => plain(StatusCode::INTERNAL_SERVER_ERROR, "looking has ended by a panic\n".to_owned()),
        Err(_) => too_long(),
    }
}

fn health(pages: &dyn Pages, reasons: bool) -> Health {
    let health = pages.health();
    if reasons { health } else { health.without_reasons() }
}

fn too_long() -> Response<Full<Bytes>> {
    plain(StatusCode::INTERNAL_SERVER_ERROR, "looking takes too long: a disk may hang\n".to_owned())
}

fn not_found() -> Response<Full<Bytes>> {
    let text =
        "there is /metrics, /livez and /readyz, with /livez/CHECK and /readyz/CHECK; ?verbose names the checks\n";
    plain(StatusCode::NOT_FOUND, text.to_owned())
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

#[cfg(test)]
mod tests;
