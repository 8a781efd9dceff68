//! HTTP/2 connections to the API server: one for single requests, and as many as the watches need.
//!
//! The connections are hyper's, not those of a pooled client: a pool opens no second HTTP/2 connection when the server's
//! limit of streams is reached, and does not say why a connection ended.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{ACCEPT, AUTHORIZATION, RETRY_AFTER, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_rustls::{
    DefaultServerNameResolver, FixedServerNameResolver, HttpsConnector, MaybeHttpsStream, ResolveServerName,
};
use hyper_util::client::legacy::connect::{Connection as _, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt as _;
use zeroize::Zeroizing;

use super::certificate::Validity;
use super::classify;
use super::credentials::Credentials;
use super::end::{End, Noted};
use super::reach::{Cause, Failure};
use super::token::Tokens;
use crate::clear::Clear;

/// What the server may send on one stream before it is read. A connection takes this for each of its streams, so that one
/// that nobody reads never stops the others.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// The same for a watch. There are hundreds, and while the store is behind each of them may fill its window; a line that is
/// longer comes piece by piece.
const WATCH_WINDOW_BYTES: u32 = 64 * 1024;

/// As much of an error's body as is looked at.
const STATUS_MAX_BYTES: usize = 64 * 1024;

/// A connection that is taken and on which TLS has not come further after this is held: by the kernel of a server that
/// listens and does not serve yet, as every kube-apiserver does for seconds when it starts.
const HELD: Duration = Duration::from_millis(100);

/// Whoever turns a connection away within this is there, or in front of nobody: a closed port, a load balancer without a
/// server. Later it may be a network that is not up.
const PROMPT: Duration = Duration::from_secs(1);

/// How connections are used. The defaults are right; tests have smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests that are under way on one connection. API servers allow 100.
    pub streams_per_connection: u32,
    /// For a TCP connection to one of the server's addresses.
    pub connect: Duration,
    /// For name resolution, TCP and TLS together.
    pub dial: Duration,
    /// For the beginning of the answer to a watch, dialling included.
    pub watch_begins: Duration,
    /// For the beginning of any other answer, and for each next piece of it.
    pub progress: Duration,
    /// For any other answer as a whole, dialling included.
    pub total: Duration,
    /// A connection on which nothing came for this long is asked for a sign of life.
    pub ping_interval: Duration,
    /// It is given up when none came for this long.
    pub ping_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_per_connection: 80,
            connect: Duration::from_secs(5),
            dial: Duration::from_secs(10),
            watch_begins: Duration::from_secs(15),
            // Longer than a request may queue in an API server under load (15 s); dead peers are found by pings.
            progress: Duration::from_secs(30),
            total: Duration::from_secs(60),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(10),
        }
    }
}

/// The connections that were made with one set of credentials. Cheap to clone; all clones share them. When the credentials
/// change, make new ones: these go on until the last clone and the last watch are dropped.
#[derive(Clone)]
pub struct Connections(Arc<Shared>);

struct Shared {
    limits: Limits,
    server: Uri,
    /// `server` for messages.
    server_shown: String,
    tcp: HttpConnector,
    tls: Arc<ClientConfig>,
    names: Arc<dyn ResolveServerName + Send + Sync>,
    tokens: Tokens,
    client: Option<Validity>,
    single: Line,
    watches: StdMutex<Vec<Arc<Line>>>,
    opened: AtomicU64,
    /// Whether the last attempt to connect was turned away.
    turned_away: AtomicBool,
    /// How many signs of life there were.
    signs: watch::Sender<u64>,
}

/// A place for one connection, which is made when it is needed and made anew when it has ended.
struct Line {
    streams: Arc<Semaphore>,
    /// What each of its streams may take before it is read.
    window_bytes: u32,
    state: Mutex<LineState>,
    /// How many attempts to connect have failed.
    failures: AtomicU64,
}

#[derive(Default)]
struct LineState {
    live: Option<Live>,
    /// Why the last attempt failed.
    failed: Option<Failure>,
}

#[derive(Clone)]
struct Live {
    number: u64,
    sender: SendRequest<Empty<Bytes>>,
    end: Arc<End>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request: where it goes and how it is called in messages.
struct Asked {
    uri: Uri,
    shown: String,
}

impl Connections {
    /// Connects to nothing yet. Must be used within a tokio runtime with timers and I/O.
    #[must_use]
    pub fn new(credentials: &Credentials, limits: Limits) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(limits.connect));
        tcp.set_nodelay(true);
        let names: Arc<dyn ResolveServerName + Send + Sync> = match &credentials.server_name {
            Some(name) => Arc::new(FixedServerNameResolver::new(name.clone())),
            None => Arc::new(DefaultServerNameResolver::default()),
        };
        Self(Arc::new(Shared {
            limits,
            server: credentials.server.clone(),
            server_shown: credentials.server(),
            tcp,
            tls: Arc::clone(&credentials.tls),
            names,
            tokens: Tokens::new(credentials.token.clone()),
            client: credentials.client.clone(),
            single: Line::new(limits, STREAM_WINDOW_BYTES),
            watches: StdMutex::default(),
            opened: AtomicU64::new(0),
            turned_away: AtomicBool::new(false),
            signs: watch::Sender::new(0),
        }))
    }

    /// How many signs of life there were: what a server that is about to serve shows before it answers anybody. That is a
    /// connection that is taken and held where the one before was turned away, or a completed TLS handshake, in which it has
    /// proven to be of the cluster. A connection that merely hangs is none: a server that is frozen takes them too.
    #[must_use]
    pub fn signs(&self) -> watch::Receiver<u64> {
        self.0.signs.subscribe()
    }

    /// Whether the last attempt to connect was turned away at once: the way there is open, and nobody serves.
    #[must_use]
    pub fn turned_away(&self) -> bool {
        self.0.turned_away.load(Ordering::Relaxed)
    }

    /// How many connections have been opened so far.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.0.opened.load(Ordering::Relaxed)
    }

    /// Asks once, and reads the answer to its end. `path_and_query` begins with `/`. What hyper and rustls hold of the answer
    /// on its way is not wiped.
    ///
    /// # Errors
    /// [`Failure`], within [`Limits::total`] at the latest; [`Failure::TooLong`] as soon as more than `body_max_bytes` come.
    pub async fn get(&self, path_and_query: &str, body_max_bytes: usize) -> Result<Clear, Failure> {
        let shared = &*self.0;
        let asked = shared.asked("GET", path_and_query)?;
        let whole = async {
            let _stream = shared.single.streams.acquire().await.expect("the semaphore is never closed");
            let (response, end) = shared.answer(&shared.single, &asked, shared.limits.progress).await?;
            let (head, mut body) = response.into_parts();
            if !head.status.is_success() {
                return Err(shared.status(head.status, &head.headers, &mut body, &asked).await);
            }
            shared.read(&mut body, body_max_bytes, &end).await
        };
        let result = timeout(shared.limits.total, whole).await;
        result
            .unwrap_or_else(|_| Err(late("no complete answer", shared.limits.total)))
            .map_err(|f| f.during(&asked.shown))
    }

    /// Begins a watch. `path_and_query` begins with `/` and says `watch=1` and for how long.
    ///
    /// # Errors
    /// [`Failure`], within [`Limits::watch_begins`] at the latest (an error's body is given [`Limits::progress`] more).
    pub async fn watch(&self, path_and_query: &str) -> Result<WatchStream, Failure> {
        let shared = &*self.0;
        let asked = shared.asked("watch", path_and_query)?;
        let (line, stream) = shared.watch_line();
        let begin = shared.limits.watch_begins;
        let answer = timeout(begin, shared.answer(&line, &asked, begin)).await;
        let answer = answer.unwrap_or_else(|_| Err(late("no answer", begin)));
        let (response, end) = answer.map_err(|failure| failure.during(&asked.shown))?;
        let (head, mut body) = response.into_parts();
        if !head.status.is_success() {
            return Err(shared.status(head.status, &head.headers, &mut body, &asked).await);
        }
        Ok(WatchStream { body, end, shared: Arc::clone(&self.0), shown: asked.shown, _stream: stream })
    }
}

/// The answer to a watch, piece by piece. Dropping it ends the watch.
pub struct WatchStream {
    body: Incoming,
    end: Arc<End>,
    shared: Arc<Shared>,
    shown: String,
    /// Its place on the connection.
    _stream: OwnedSemaphorePermit,
}

impl WatchStream {
    /// The next piece, never empty; pieces end anywhere. None at the end that the server meant to make. Waits as long as the
    /// connection lives; dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Failure`]: the watch is over, without an end that the server meant to make.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    Ok(_) | Err(_) => {}
                },
                Some(Err(error)) => return Err(self.end.why(&error, self.shared.client.as_ref()).during(&self.shown)),
            }
        }
    }
}

impl Line {
    fn new(limits: Limits, window_bytes: u32) -> Self {
        Self {
            window_bytes,
            streams: Arc::new(Semaphore::new(limits.streams_per_connection as usize)),
            state: Mutex::default(),
            failures: AtomicU64::new(0),
        }
    }
}

impl Shared {
    fn asked(&self, verb: &str, path_and_query: &str) -> Result<Asked, Failure> {
        let prefix = self.server.path().trim_end_matches('/');
        let mut parts = self.server.clone().into_parts();
        let shown = format!("{verb} {} at {}", path_and_query.split('?').next().unwrap_or_default(), self.server_shown);
        let no_uri = || Failure::Garbage(Cause(format!("{shown}: this is no path of a URL")));
        parts.path_and_query = Some(format!("{prefix}{path_and_query}").parse::<PathAndQuery>().map_err(|_| no_uri())?);
        let uri = Uri::from_parts(parts).map_err(|_| no_uri())?;
        Ok(Asked { uri, shown })
    }

    /// The first line with a stream to spare, so that watches that are renewed gather on few connections; a new one if there
    /// is none. Lines that nobody uses any more are closed.
    fn watch_line(&self) -> (Arc<Line>, OwnedSemaphorePermit) {
        let mut lines = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let free = lines.iter().find_map(|line| {
            let stream = Arc::clone(&line.streams).try_acquire_owned().ok()?;
            Some((Arc::clone(line), stream))
        });
        let found = free.unwrap_or_else(|| {
            let line = Arc::new(Line::new(self.limits, WATCH_WINDOW_BYTES));
            let stream = Arc::clone(&line.streams).try_acquire_owned().expect("a new line has streams");
            lines.push(Arc::clone(&line));
            (line, stream)
        });
        lines.retain(|line| line.streams.available_permits() < self.limits.streams_per_connection as usize);
        found
    }

    /// Sends the request and waits for the answer to begin, at most for `begin` once there is a connection.
    ///
    /// A connection that was open before may have ended without our knowing; that is no answer, so it is asked once more on
    /// a new one.
    async fn answer(
        &self,
        line: &Line,
        asked: &Asked,
        begin: Duration,
    ) -> Result<(Response<Incoming>, Arc<End>), Failure> {
        let mut repeated = false;
        loop {
            let (mut live, new) = self.live(line).await?;
            let request = self.request(asked).await?;
            let answer = timeout(begin, live.sender.send_request(request)).await;
            let failure = match answer.map_err(|_| late("no answer", begin))? {
                Ok(response) => return Ok((response, live.end)),
                Err(error) => live.end.why(&error, self.client.as_ref()),
            };
            let mut state = line.state.lock().await;
            if state.live.as_ref().is_some_and(|other| other.number == live.number) {
                state.live = None;
            }
            if new || repeated || !matches!(failure, Failure::Unreachable(_) | Failure::NoRoute(_)) {
                return Err(failure);
            }
            repeated = true;
        }
    }

    /// The connection of a line, and whether it was made just now. All who wait while it is made share the outcome.
    async fn live(&self, line: &Line) -> Result<(Live, bool), Failure> {
        let failures_before = line.failures.load(Ordering::Acquire);
        let mut state = line.state.lock().await;
        if let Some(live) = state.live.as_ref().filter(|live| !live.sender.is_closed()) {
            return Ok((live.clone(), false));
        }
        if line.failures.load(Ordering::Acquire) > failures_before
            && let Some(failure) = &state.failed
        {
            return Err(failure.clone());
        }
        // Apart, as is every rare part of a follower: a task is as large as the largest of its parts, and there is one for
        // each watch.
        match Box::pin(self.dial(line.window_bytes)).await {
            Ok(live) => {
                *state = LineState { live: Some(live.clone()), failed: None };
                Ok((live, true))
            }
            Err(failure) => {
                *state = LineState { live: None, failed: Some(failure.clone()) };
                line.failures.fetch_add(1, Ordering::Release);
                Err(failure)
            }
        }
    }

    async fn dial(&self, window_bytes: u32) -> Result<Live, Failure> {
        let client = self.client.as_ref();
        let began = Instant::now();
        let dialled = timeout(self.limits.dial, self.stream()).await;
        let turned_away = match &dialled {
            Ok(Err(error)) => began.elapsed() < PROMPT && classify::is_turned_away(&**error),
            Ok(Ok(_)) | Err(_) => false,
        };
        self.turned_away.store(turned_away, Ordering::Relaxed);
        let stream = dialled
            .map_err(|_| late("no connection", self.limits.dial))?
            .map_err(|error| classify::sort(&*error, client))?;
        self.signs.send_modify(|signs| *signs += 1);
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        if !stream.connected().is_negotiated_h2() {
            return Err(classify::no_http2());
        }
        let end = Arc::new(End::new(self.client.clone()));
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(window_bytes)
            .initial_connection_window_size(window_bytes.saturating_mul(self.limits.streams_per_connection))
            .keep_alive_interval(self.limits.ping_interval)
            .keep_alive_timeout(self.limits.ping_timeout)
            .keep_alive_while_idle(true)
            .handshake(Noted::new(stream, Arc::clone(&end)))
            .await
            .map_err(|error| end.why(&error, client))?;
        let noted = Arc::clone(&end);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                noted.note(&error);
            }
        });
        Ok(Live { number, sender, end })
    }

    /// A connection with TLS, of a server that has proven to be of the cluster. A sign of life is told on the way.
    async fn stream(&self) -> Result<MaybeHttpsStream<TokioIo<TcpStream>>, BoxError> {
        let taken = Arc::new(Notify::new());
        let tells = Arc::clone(&taken);
        let tcp = self.tcp.clone().map_response(move |stream| {
            tells.notify_one();
            stream
        });
        let connector = HttpsConnector::new(tcp, Arc::clone(&self.tls), true, Arc::clone(&self.names));
        let connecting = connector.oneshot(self.server.clone());
        tokio::pin!(connecting);
        let held = async {
            taken.notified().await;
            sleep(HELD).await;
        };
        tokio::select! {
            connected = &mut connecting => return connected,
            () = held => {}
        }
        if self.turned_away.load(Ordering::Relaxed) {
            self.signs.send_modify(|signs| *signs += 1);
        }
        connecting.await
    }

    async fn request(&self, asked: &Asked) -> Result<Request<Empty<Bytes>>, Failure> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = asked.uri.clone();
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("ckpt-db/", env!("CARGO_PKG_VERSION"))));
        if let Some(token) = self.tokens.header().await? {
            headers.insert(AUTHORIZATION, token);
        }
        Ok(request)
    }

    /// Reads a body to its end, into memory that is wiped.
    async fn read(&self, body: &mut Incoming, max_bytes: usize, end: &End) -> Result<Clear, Failure> {
        let too_long = || Failure::TooLong(Cause(format!("the answer is longer than {max_bytes} bytes")));
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > max_bytes {
            return Err(too_long());
        }
        let mut whole = Zeroizing::new(Vec::with_capacity(announced));
        loop {
            let frame = timeout(self.limits.progress, body.frame()).await;
            match frame.map_err(|_| late("no more of the answer", self.limits.progress))? {
                None => return Ok(Clear::new(std::mem::take(&mut *whole))),
                Some(Err(error)) => return Err(end.why(&error, self.client.as_ref())),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if data.len() > max_bytes - whole.len() {
                        return Err(too_long());
                    }
                    append(&mut whole, &data);
                }
            }
        }
    }

    /// What an answer with another status than 2xx comes to. Of its body only `reason` and the pause are looked at: the rest
    /// may quote what it is about.
    async fn status(&self, code: StatusCode, headers: &HeaderMap, body: &mut Incoming, asked: &Asked) -> Failure {
        let nothing = End::new(None);
        let body = timeout(self.limits.progress, self.read(body, STATUS_MAX_BYTES, &nothing)).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        let mut certificate = None;
        if code == StatusCode::UNAUTHORIZED {
            self.tokens.refused().await;
            let now_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            certificate = self.client.as_ref().and_then(|client| client.complaint(now_unix_s)).map(Cause);
        }
        let (reason, retry_after_s) = reason(body.expose());
        let usual = code.canonical_reason().unwrap_or("unknown status");
        Failure::Status {
            code: code.as_u16(),
            reason: reason.unwrap_or_else(|| usual.to_owned()),
            retry_after_s: retry_after(headers).or(retry_after_s),
            request: asked.shown.clone(),
            certificate,
        }
    }
}

fn late(what: &str, limit: Duration) -> Failure {
    Failure::Unreachable(Cause(format!("{what} within {} s", limit.as_secs_f64())))
}

/// Appends, and wipes the memory that is outgrown.
fn append(whole: &mut Zeroizing<Vec<u8>>, more: &[u8]) {
    let len = whole.len() + more.len();
    if len > whole.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(len.max(whole.capacity() * 2)));
        larger.extend_from_slice(whole);
        *whole = larger;
    }
    whole.extend_from_slice(more);
}

/// `reason` and `details.retryAfterSeconds` of a `Status`; the reason only if it is a word, as all of them are.
fn reason(body: &[u8]) -> (Option<String>, Option<u64>) {
    #[derive(Deserialize)]
    struct Status {
        reason: Option<String>,
        details: Option<Details>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Details {
        retry_after_seconds: Option<u64>,
    }
    let Ok(status) = serde_json::from_slice::<Status>(body) else { return (None, None) };
    let word =
        |reason: &String| !reason.is_empty() && reason.len() <= 64 && reason.bytes().all(|b| b.is_ascii_alphabetic());
    (status.reason.filter(word), status.details.and_then(|details| details.retry_after_seconds))
}

/// `Retry-After` in seconds; the other form, a date, needs a clock that is set.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
